//! `flowkit plugin rollback`: an earlier version of a role's plugin, by a pin in the config.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use serde_json::json;

use super::replace::replace;
use super::{Usage, note, print};
use crate::app::App;
use crate::config::{KeyPath, Origin, edit};
use crate::plugin::digest_of;
use crate::types::Role;

/// Pins a role's plugin to a version that was served before.
#[derive(Debug, Args)]
#[command(after_help = "\
Writes the digest of the version before the present one into the config file, as\n\
`handlers.ROLE.sha256`, and changes nothing else there. Workers that watch the file swap within\n\
a second, each from its own cache (`plugins.cache_dir`), whatever the component's file holds;\n\
runs under way end on the version they began with. Remove the pin to follow the file again.\n\
\n\
Examples:\n  \
  flowkit plugin rollback echo --list\n  \
  flowkit plugin rollback echo")]
pub struct RollbackArgs {
    /// The role
    #[arg(value_name = "ROLE")]
    role: String,
    /// This version, by the first digits of its digest, in place of the one before
    #[arg(long, value_name = "DIGEST", conflicts_with = "list")]
    to: Option<String>,
    /// Lists the versions that this machine keeps, newest first
    #[arg(long)]
    list: bool,
}

/// Runs it.
pub async fn execute(args: RollbackArgs, app: &App) -> anyhow::Result<ExitCode> {
    let role = Role::new(args.role.as_str()).map_err(|error| Usage(error.to_string()))?;
    let Some(handler) = app.config.handlers().get(&role) else {
        let known: Vec<&str> = app.config.handlers().keys().map(Role::as_str).collect();
        let text = format!("no handler serves role `{role}`; there are: {}", known.join(", "));
        return Err(Usage(text).into());
    };
    let Some(cache) = app.cache().await? else {
        bail!("nothing is kept to go back to: `plugins.cache_dir` is switched off or unusable");
    };
    let kept = cache.versions(&role);
    let present = match &handler.sha256 {
        Some(pin) => Some(pin.clone()),
        None => digest_of(&handler.component).ok(),
    };
    if args.list {
        for digest in &kept {
            let mark = if Some(digest) == present.as_ref() { "  (configured)" } else { "" };
            print(format_args!("{digest}{mark}"))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let wanted = choose(&kept, present.as_deref(), args.to.as_deref())
        .map_err(|text| Usage(format!("role `{role}`: {text}")))?;
    let key = KeyPath::of(["handlers", role.as_str()]);
    let Origin::File { path, .. } = app.config.origin(&key) else {
        let text = format!("`{key}` does not come from a config file; set `{key}.sha256` there");
        return Err(Usage(text).into());
    };
    pin(&path, &key.then("sha256"), &wanted)?;
    print(&wanted)?;
    note(format_args!("role `{role}` is pinned in {}", path.display()));
    Ok(ExitCode::SUCCESS)
}

/// Which of the `kept` versions, newest first, is meant.
fn choose(kept: &[String], present: Option<&str>, to: Option<&str>) -> Result<String, String> {
    let others: Vec<&String> =
        kept.iter().filter(|digest| Some(digest.as_str()) != present).collect();
    let Some(to) = to else {
        let before = others.first().ok_or("no other version is kept on this machine")?;
        return Ok((*before).clone());
    };
    let meant: Vec<&&String> = others.iter().filter(|digest| digest.starts_with(to)).collect();
    match meant.as_slice() {
        [one] => Ok((**one).clone()),
        [] => Err(format!("no other version kept on this machine begins with {to:?}; see --list")),
        _ => Err(format!("several versions begin with {to:?}; give more digits")),
    }
}

/// Replaces the file as a whole, so that nobody reads half of it.
fn pin(path: &Path, key: &KeyPath, digest: &str) -> anyhow::Result<()> {
    // A link stays one: what it leads to is replaced.
    let path = path.canonicalize().with_context(|| format!("looking for {}", path.display()))?;
    let text =
        std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let changed = edit::set(&text, key, &json!(digest))
        .with_context(|| format!("{} has no object for `{key}`", path.display()))?;
    let written =
        std::fs::metadata(&path).and_then(|found| replace(&path, &changed, found.permissions()));
    written.with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_before_is_the_newest_other_one() {
        let kept = ["bb1", "aa", "bb2"].map(str::to_owned);
        let choose = |present: &str, to: Option<&str>| choose(&kept, Some(present), to);
        assert_eq!(choose("bb1", None).as_deref(), Ok("aa"));
        assert_eq!(choose("aa", None).as_deref(), Ok("bb1"));
        assert_eq!(choose("zz", None).as_deref(), Ok("bb1"));
        assert_eq!(choose("aa", Some("bb2")).as_deref(), Ok("bb2"));
        assert_eq!(choose("bb1", Some("bb")).as_deref(), Ok("bb2"));
        assert!(choose("aa", Some("bb")).unwrap_err().contains("several"));
        assert!(choose("aa", Some("aa")).unwrap_err().contains("no other version"));
        assert!(super::choose(&[], None, None).is_err());
    }
}
