//! `plugins` of a configuration: what holds for the plugins of all roles.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::units::Millis;
use crate::plugin::{PublicKey, Trust};

/// `plugins`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PluginKeys {
    /// Where compiled code and earlier versions are kept, for this user alone. Without it a
    /// start compiles every plugin, and there is nothing to roll back to.
    pub cache_dir: Option<PathBuf>,
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
            cache_dir: None,
            poll_ms: Millis::from_ms(1_000),
            trusted_keys: Vec::new(),
            require_signed: false,
        }
    }
}

impl PluginKeys {
    /// How long to wait between two looks.
    pub fn poll(&self) -> Duration {
        self.poll_ms.get()
    }

    /// Whose signatures are wanted.
    pub fn trust(&self) -> Trust {
        Trust { keys: self.trusted_keys.clone(), require_signed: self.require_signed }
    }
}
