//! `plugins` of a configuration: what holds for the plugins of all roles.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::units::Millis;
use crate::plugin::{PublicKey, Trust};

/// `plugins`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PluginKeys {
    pub(super) cache_dir: CacheDir,
    /// Milliseconds between two looks at the plugins' files and the config file; 1,000.
    poll_ms: Millis<10>,
    /// The public keys whose signatures count, `ed25519:HEX` each.
    trusted_keys: Vec<PublicKey>,
    /// Refuse what none of them has signed.
    require_signed: bool,
}

impl Default for PluginKeys {
    fn default() -> Self {
        Self {
            cache_dir: CacheDir::default(),
            poll_ms: Millis::from_ms(1_000),
            trusted_keys: Vec::new(),
            require_signed: false,
        }
    }
}

/// Where compiled code and earlier versions are kept, for this user alone: a path, or
/// `false` for nowhere; then a start compiles every plugin, and there is nothing to roll
/// back to. By default the user's directory for such things.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "Value")]
pub enum CacheDir {
    /// `$CACHE_DIRECTORY` (which systemd sets), or `flowkit` in `$XDG_CACHE_HOME` or
    /// `$HOME/.cache`; nowhere if none of them is set or can be used.
    #[default]
    Default,
    /// Here; it must be usable.
    At(PathBuf),
    /// Nowhere.
    Off,
}

impl CacheDir {
    /// The directory by default, in this environment.
    pub fn by_default(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
        let of = |name: &str, rest: &str| {
            let base = PathBuf::from(variable(name)?);
            base.is_absolute().then(|| base.join(rest))
        };
        of("CACHE_DIRECTORY", "")
            .or_else(|| of("XDG_CACHE_HOME", "flowkit"))
            .or_else(|| of("HOME", ".cache/flowkit"))
    }
}

impl TryFrom<Value> for CacheDir {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        match value {
            Value::Null => Ok(Self::Default),
            Value::Bool(false) => Ok(Self::Off),
            Value::String(path) if !path.is_empty() => Ok(Self::At(path.into())),
            other => Err(format!("expected a directory, or false for no cache, not {other}")),
        }
    }
}

impl From<CacheDir> for Value {
    fn from(dir: CacheDir) -> Self {
        match dir {
            CacheDir::Default => Self::Null,
            CacheDir::At(path) => Self::String(path.display().to_string()),
            CacheDir::Off => Self::Bool(false),
        }
    }
}

impl PluginKeys {
    /// Where compiled code and earlier versions are kept.
    pub fn cache_dir(&self) -> &CacheDir {
        &self.cache_dir
    }

    /// How long to wait between two looks.
    pub fn poll(&self) -> Duration {
        self.poll_ms.get()
    }

    /// Whose signatures are wanted.
    pub fn trust(&self) -> Trust {
        Trust { keys: self.trusted_keys.clone(), require_signed: self.require_signed }
    }
}
