//! Where a role's component comes from: its file, or the kept version that is pinned.

use std::path::{Path, PathBuf};

use super::config::HandlerConfig;
use super::engine::Engine;
use super::file::{self, Contents};
use super::load::{CheckError, unreadable};
use crate::types::Role;

/// A component that may run, by pin and signature.
pub(super) struct Source {
    pub(super) contents: Contents,
    /// What its signature file says, if there is one.
    pub(super) signature: Option<String>,
}

impl Source {
    /// Reads a role's component and checks that it may run. Blocks.
    pub(super) fn find(
        engine: &Engine,
        role: Option<&Role>,
        config: &HandlerConfig,
    ) -> Result<Self, CheckError> {
        let (path, contents) = pinned(engine, role, config)?;
        let kept = path != config.component;
        let signed = match &config.signature {
            Some(named) if !kept => named.clone(),
            _ if kept => path.with_extension("sig"),
            _ => beside(&path),
        };
        let signature = std::fs::read_to_string(&signed).ok();
        engine
            .trust
            .check(&contents.digest, (&signed, signature.as_deref()), config.signature.is_some())
            .map_err(|error| CheckError::Untrusted { path, error })?;
        Ok(Self { contents, signature })
    }
}

fn pinned(
    engine: &Engine,
    role: Option<&Role>,
    config: &HandlerConfig,
) -> Result<(PathBuf, Contents), CheckError> {
    let path = &config.component;
    let from_file = file::read(path).map_err(|error| unreadable(path, error));
    let Some(wanted) = &config.sha256 else {
        return from_file.map(|contents| (path.clone(), contents));
    };
    if let Ok(contents) = &from_file
        && contents.digest == *wanted
    {
        return from_file.map(|contents| (path.clone(), contents));
    }
    if let Some(kept) = kept_file(engine, role, wanted)
        && let Ok(contents) = file::read(&kept)
        && contents.digest == *wanted
    {
        return Ok((kept, contents));
    }
    let found = from_file?.digest;
    Err(CheckError::OtherDigest { path: path.clone(), found, wanted: wanted.clone() })
}

/// Where a role's version with this digest is or would be kept.
pub(super) fn kept_file(engine: &Engine, role: Option<&Role>, digest: &str) -> Option<PathBuf> {
    engine.cache.as_ref()?.version_file(role?, digest)
}

/// Where a component's signature is, whose handler names none: `echo.wasm.sig` for
/// `echo.wasm`.
pub fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".sig");
    name.into()
}
