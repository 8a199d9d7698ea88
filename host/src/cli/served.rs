//! Which plugins serve the roles of a fleet, as its workers' records tell.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::clock::UnixMs;
use crate::store::WorkerRecord;

/// One version of a role's plugin. Texts are as the record has them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// The role.
    pub role: String,
    /// As the plugin names it; may be empty.
    pub version: String,
    /// Its digest; empty while no version works.
    pub digest: String,
    /// Why the last change was refused; empty when it was not.
    pub problem: String,
}

/// Where a version serves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct On {
    /// On how many workers.
    pub workers: usize,
    /// Since when on the last of them.
    pub since: Option<UnixMs>,
}

/// Every version that serves a role of one of these workers, by role. Whatever a record
/// has in place of what is expected counts as nothing.
pub fn versions(workers: &[WorkerRecord]) -> BTreeMap<Version, On> {
    let mut found: BTreeMap<Version, On> = BTreeMap::new();
    for plugins in workers.iter().filter_map(|worker| worker.health["plugins"].as_object()) {
        for (role, state) in plugins {
            let text = |name: &str| state[name].as_str().unwrap_or_default().to_owned();
            let version = Version {
                role: role.clone(),
                version: text("version"),
                digest: text("digest"),
                problem: one_line(&text("problem")),
            };
            let on = found.entry(version).or_default();
            on.workers += 1;
            on.since = on.since.max(state.get("since").and_then(Value::as_i64).map(UnixMs));
        }
    }
    found
}

/// Details that stand on lines of their own follow what they are about.
fn one_line(text: &str) -> String {
    text.lines().map(str::trim).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::types::WorkerId;

    fn worker(id: &str, health: Value) -> WorkerRecord {
        WorkerRecord {
            worker_id: WorkerId::new(id).expect("valid"),
            version: "2".into(),
            roles: vec![],
            capacity: 1,
            running: 0,
            updated_at: UnixMs(9),
            health,
        }
    }

    #[test]
    fn versions_are_counted_over_the_fleet_and_problems_stand_out() {
        let state = |digest: &str, since: i64, problem: Option<&str>| json!({"echo": {"digest": digest, "version": "1.0", "since": since, "problem": problem}});
        let found = versions(&[
            worker("a", json!({"plugins": state("d1", 5, None)})),
            worker("b", json!({"plugins": state("d1", 7, None)})),
            worker(
                "c",
                json!({"plugins": state("d1", 6, Some("cannot read it\n  build it again"))}),
            ),
            worker("d", json!({"plugins": state("d2", 1, None)})),
            worker("e", json!({"plugins": {"echo": 3}})),
            worker("f", json!({"plugins": "none"})),
            worker("g", Value::Null),
        ]);
        let told: Vec<String> = found
            .iter()
            .map(|(v, on)| {
                let since = on.since.map_or(0, |since| since.0);
                format!("{} {} {:?} {} {since}", v.role, v.digest, v.problem, on.workers)
            })
            .collect();
        assert_eq!(
            told,
            [
                r#"echo  "" 1 0"#,
                r#"echo d1 "" 2 7"#,
                r#"echo d1 "cannot read it; build it again" 1 6"#,
                r#"echo d2 "" 1 1"#,
            ]
        );
    }
}
