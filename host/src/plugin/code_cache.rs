//! What a worker keeps of its plugins between two starts: their compiled code, so that a
//! restart compiles nothing, and the last versions of each role, so that one can go back.
//!
//! `Component::deserialize` trusts what it is given. So the directory belongs to this user
//! alone, and each file of code begins with a hash over its key and its content: a damaged
//! or renamed one is discarded and compiled anew. Files appear whole, by a rename, so any
//! number of processes can share a directory.

use std::fs;
use std::hash::{Hash, Hasher};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sha2::{Digest, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component;

use super::file::hex;
use super::source::Source;
use crate::types::Role;

/// Most bytes of compiled code that are kept; the files used least recently go first.
const MAX_CODE: u64 = 1 << 30;

/// How many versions of a role are kept.
const VERSIONS: usize = 3;

const CODE: &str = "cwasm";
const HASH_BYTES: usize = 32;

/// A directory with compiled code and earlier versions.
#[derive(Debug)]
pub struct CodeCache {
    dir: PathBuf,
}

/// Why a directory cannot be the cache.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// It cannot be made, or nothing can be written there.
    #[error("cannot use {} as `plugins.cache_dir`: {error}", .dir.display())]
    Io {
        /// The directory.
        dir: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// Others could put code there that this process would run.
    #[error(
        "{} cannot be `plugins.cache_dir`: {problem}; make it this user's own with \
         `chmod 700`, or name another directory",
        .dir.display()
    )]
    Open {
        /// The directory.
        dir: PathBuf,
        /// What is wrong.
        problem: &'static str,
    },
}

impl CodeCache {
    /// Opens a directory, and makes it (mode 0700) where there is none. Refuses one that
    /// another user owns or could write to. Blocks.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, CacheError> {
        let dir = dir.into();
        let io = |error| CacheError::Io { dir: dir.clone(), error };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(io)?;
        let found = fs::metadata(&dir).map_err(io)?;
        // A file of this process tells who this process is.
        let probe = tempfile::NamedTempFile::new_in(&dir).map_err(io)?;
        let own = probe.as_file().metadata().map_err(io)?.uid();
        let problem = if found.uid() != own {
            Some("another user owns it")
        } else if found.mode() & 0o022 != 0 {
            Some("its group or everybody can write to it")
        } else {
            None
        };
        match problem {
            Some(problem) => Err(CacheError::Open { dir, problem }),
            None => Ok(Self { dir }),
        }
    }

    /// The code kept for a component, if it is there and whole.
    pub(super) fn load(&self, engine: &Engine, digest: &str) -> Option<Component> {
        let path = self.code_file(engine, digest);
        let content = fs::read(&path).ok()?;
        let loaded = self.check(&path, engine, digest, &content).and_then(|code| {
            // SAFETY: the bytes are what `Component::serialize` of this version and these
            // settings returned: the hash before them, over key and content, matches, and
            // only this user can write to the directory and owns the file.
            let loaded = unsafe { Component::deserialize(engine, code) };
            loaded.map_err(|error| format!("{error:#}"))
        });
        match loaded {
            Ok(component) => {
                // Used now: the last to be evicted.
                let _ = fs::File::open(&path).and_then(|f| f.set_modified(SystemTime::now()));
                Some(component)
            }
            Err(problem) => {
                tracing::warn!(
                    file = %path.display(),
                    problem,
                    "compiled code in the cache is damaged: discarded, and compiled again"
                );
                let _ = fs::remove_file(&path);
                None
            }
        }
    }

    /// Keeps a component's code. What cannot be kept is compiled again next time.
    pub(super) fn store(&self, engine: &Engine, digest: &str, component: &Component) {
        let path = self.code_file(engine, digest);
        let kept = component.serialize().map_err(|error| format!("{error:#}")).and_then(|code| {
            let hash = code_hash(engine, digest, &code);
            self.write(&path, &[&hash, &code]).map_err(|error| error.to_string())
        });
        if let Err(error) = kept {
            tracing::warn!(file = %path.display(), error, "compiled code was not kept");
        }
        self.evict(MAX_CODE);
    }

    /// Keeps a version of a role, with its signature if it has one, and forgets all but
    /// the last few.
    pub(super) fn keep_version(&self, role: &Role, source: &Source) -> std::io::Result<()> {
        let (dir, digest) = (self.role_dir(role), &source.contents.digest);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        if let Some(signature) = &source.signature {
            self.write(&dir.join(format!("{digest}.sig")), &[signature.as_bytes()])?;
        }
        self.write(&dir.join(format!("{digest}.wasm")), &[&source.contents.bytes])?;
        for old in self.versions(role).into_iter().skip(VERSIONS) {
            let _ = fs::remove_file(dir.join(format!("{old}.sig")));
            fs::remove_file(dir.join(format!("{old}.wasm")))?;
        }
        Ok(())
    }

    /// The digests of a role's kept versions, the one that was loaded last first.
    pub fn versions(&self, role: &Role) -> Vec<String> {
        let mut found: Vec<(SystemTime, String)> = entries(&self.role_dir(role), "wasm")
            .filter_map(|(path, meta)| {
                Some((meta.modified().ok()?, path.file_stem()?.to_str()?.to_owned()))
            })
            .collect();
        found.sort();
        found.into_iter().rev().map(|(_, digest)| digest).collect()
    }

    /// Where a version of a role is or would be kept; `None` for what is no digest.
    pub(super) fn version_file(&self, role: &Role, digest: &str) -> Option<PathBuf> {
        // Digests come from records too: one must not lead out of the directory.
        let sound = digest.len() == 64
            && digest.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        sound.then(|| self.role_dir(role).join(format!("{digest}.wasm")))
    }

    fn role_dir(&self, role: &Role) -> PathBuf {
        // The prefix keeps any role from being `..`.
        self.dir.join(format!("role-{role}"))
    }

    fn code_file(&self, engine: &Engine, digest: &str) -> PathBuf {
        let settings = hex(&settings_hash(engine)[..8]);
        self.dir.join(format!("{digest}-{settings}.{CODE}"))
    }

    fn check<'a>(
        &self,
        path: &Path,
        engine: &Engine,
        digest: &str,
        content: &'a [u8],
    ) -> Result<&'a [u8], String> {
        let found = fs::symlink_metadata(path).map_err(|error| error.to_string())?;
        let dir = fs::metadata(&self.dir).map_err(|error| error.to_string())?;
        if !found.is_file() || found.uid() != dir.uid() || found.mode() & 0o022 != 0 {
            return Err("it is not a file of this user's alone".to_owned());
        }
        match content.split_at_checked(HASH_BYTES) {
            Some((hash, code)) if hash == code_hash(engine, digest, code) => Ok(code),
            _ => Err("its content does not match its hash".to_owned()),
        }
    }

    fn write(&self, path: &Path, parts: &[&[u8]]) -> std::io::Result<()> {
        // Created with mode 0600, in the same file system as its place.
        let mut file = tempfile::NamedTempFile::new_in(&self.dir)?;
        for part in parts {
            file.write_all(part)?;
        }
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    }

    fn evict(&self, most: u64) {
        let mut files: Vec<(SystemTime, u64, PathBuf)> = entries(&self.dir, CODE)
            .filter_map(|(path, meta)| Some((meta.modified().ok()?, meta.len(), path)))
            .collect();
        files.sort();
        let mut sum: u64 = files.iter().map(|(_, len, _)| len).sum();
        for (_, len, path) in files {
            if sum <= most {
                break;
            }
            // Another process may have been first.
            let _ = fs::remove_file(path);
            sum -= len;
        }
    }
}

fn entries(dir: &Path, extension: &'static str) -> impl Iterator<Item = (PathBuf, fs::Metadata)> {
    fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(move |path| path.extension().is_some_and(|found| found == extension))
        .filter_map(|path| fs::metadata(&path).ok().map(|meta| (path, meta)))
}

fn code_hash(engine: &Engine, digest: &str, code: &[u8]) -> [u8; HASH_BYTES] {
    let mut hash = Sha256::new();
    hash.update(settings_hash(engine));
    hash.update(digest);
    hash.update(code);
    hash.finalize().into()
}

/// What the code depends on besides the component: wasmtime's version, the engine's
/// settings, the processor.
fn settings_hash(engine: &Engine) -> [u8; HASH_BYTES] {
    struct Sha(Sha256);
    impl Hasher for Sha {
        fn finish(&self) -> u64 {
            0
        }
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }
    }
    let mut sha = Sha(Sha256::new());
    engine.precompile_compatibility_hash().hash(&mut sha);
    sha.0.finalize().into()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::plugin::file::Contents;

    fn component(engine: &Engine) -> Component {
        Component::new(engine, b"\0asm\x0d\0\x01\0").expect("an empty component")
    }

    #[test]
    fn code_comes_back_and_a_flipped_or_renamed_one_does_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let cache = CodeCache::open(dir.path().join("cache")).expect("opens");
        let engine = Engine::default();
        assert!(cache.load(&engine, "aa").is_none());
        cache.store(&engine, "aa", &component(&engine));
        assert!(cache.load(&engine, "aa").is_some());
        let (kept, renamed) = (cache.code_file(&engine, "aa"), cache.code_file(&engine, "bb"));
        fs::copy(&kept, &renamed).expect("copied");
        assert!(cache.load(&engine, "bb").is_none(), "another component's code");
        assert!(!renamed.exists());
        let mut bytes = fs::read(&kept).expect("read");
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        fs::write(&kept, bytes).expect("written");
        assert!(cache.load(&engine, "aa").is_none(), "a flipped bit");
        assert!(!kept.exists());
    }

    #[test]
    fn a_directory_that_others_can_write_to_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o770)).expect("set");
        let error = CodeCache::open(dir.path()).expect_err("refused").to_string();
        assert!(error.contains("its group or everybody can write to it"), "{error}");
    }

    #[test]
    fn code_is_bounded_and_a_role_keeps_its_last_versions() {
        let dir = tempfile::tempdir().expect("a directory");
        let cache = CodeCache::open(dir.path().join("cache")).expect("opens");
        let engine = Engine::default();
        for digest in ["aa", "bb"] {
            cache.store(&engine, digest, &component(&engine));
        }
        cache.evict(0);
        assert_eq!(entries(&cache.dir, CODE).count(), 0);
        let role = Role::new("echo").expect("valid");
        for digit in ["a", "b", "c", "d"] {
            let contents = Contents { bytes: b"wasm".to_vec(), digest: digit.repeat(64) };
            let path = cache.version_file(&role, &contents.digest).expect("a digest");
            cache.keep_version(&role, &Source { contents, signature: None }).expect("kept");
            let file = fs::File::open(path).expect("there");
            let age = u64::from(digit.as_bytes()[0]);
            file.set_modified(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(age))
                .expect("set");
        }
        assert!(cache.versions(&role).len() <= VERSIONS);
        assert!(cache.versions(&role).contains(&"c".repeat(64)));
        for strange in ["", "../../etc/passwd", &"A".repeat(64), &"a".repeat(63)] {
            assert_eq!(cache.version_file(&role, strange), None, "{strange}");
        }
    }
}
