//! The limits as they are documented.

use flowkit::plugin::Limits;
use serde_json::json;

/// Every limit has a line in the README, with its default.
#[test]
fn every_limit_is_in_the_readme() {
    let readme = include_str!("../../README.md");
    let limits = json!(Limits::default());
    for (key, default) in limits.as_object().expect("an object") {
        let named = format!("`{key}`");
        let line = readme.lines().find(|line| line.starts_with('|') && line.contains(&named));
        let line = line.unwrap_or_else(|| panic!("{key} is not in the README's table"));
        let default = default.as_u64().expect("a number");
        let shown = match default {
            0 => "0 (none)".to_owned(),
            bytes if bytes % (1 << 20) == 0 => format!("{} MiB", bytes >> 20),
            small if small < 1_000 => small.to_string(),
            large => format!("{},{:03}", large / 1_000, large % 1_000),
        };
        assert!(line.contains(&shown), "{key} has the default {shown}: {line}");
        assert_eq!(line.matches('|').count(), 5, "{key} needs a reason and a counter: {line}");
    }
}
