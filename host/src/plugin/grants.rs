//! What a configuration grants one role, taken once: a run gets what was there when its
//! plugin was loaded, or an error, and never what somebody put in its place.

use std::fs::{File, Metadata};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use wasmtime_wasi::{FsPerms, WasiCtxBuilder};

use super::config::{DirGrant, HandlerConfig};
use super::env::BadEnv;
use super::http_grant::HttpGrant;

/// A grant that cannot be given.
#[derive(Debug, thiserror::Error)]
pub enum BadGrant {
    /// A directory that cannot be opened.
    #[error("the granted directory {} (`{guest}` for the handler): {error}", .host.display())]
    Dir {
        /// The directory on this machine.
        host: PathBuf,
        /// Its name for the handler.
        guest: String,
        /// Why.
        error: io::Error,
    },
    /// A variable that is not there.
    #[error(transparent)]
    Env(#[from] BadEnv),
    /// A collection that nobody may be granted.
    #[error("documents names {0:?}, which is no collection's name; write it without `$`")]
    Collection(String),
}

/// The grants of one role's handler.
#[derive(Debug)]
pub(super) struct Grants {
    dirs: Vec<Dir>,
    env: Vec<Variable>,
    /// Hosts.
    pub http: Arc<[HttpGrant]>,
    /// Collections.
    pub documents: Arc<[String]>,
}

#[derive(Debug)]
struct Dir {
    grant: DirGrant,
    /// Without symbolic links, as it was at the load.
    path: PathBuf,
    opened: File,
}

/// Its value never reaches a log.
struct Variable {
    name: String,
    value: String,
}

impl std::fmt::Debug for Variable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}

impl Grants {
    /// Nothing.
    pub fn none() -> Self {
        let (http, documents) = (Arc::from([]), Arc::from([]));
        Self { dirs: Vec::new(), env: Vec::new(), http, documents }
    }

    /// Opens the directories and reads the variables.
    pub fn take(config: &HandlerConfig) -> Result<Self, BadGrant> {
        let mut dirs = Vec::new();
        for (index, grant) in config.dirs.iter().enumerate() {
            let taken = config.dirs[..index].iter().any(|other| other.guest == grant.guest);
            dirs.push(Dir::open(grant, taken).map_err(|error| BadGrant::Dir {
                host: grant.host.clone(),
                guest: grant.guest.clone(),
                error,
            })?);
        }
        let mut env = Vec::new();
        for (name, value) in &config.env {
            env.push(Variable { name: name.clone(), value: value.read(name)? });
        }
        let odd = |name: &&String| name.is_empty() || name.contains(['$', '\0']);
        if let Some(name) = config.documents.iter().find(odd) {
            return Err(BadGrant::Collection(name.clone()));
        }
        let (http, documents) = (config.http.clone().into(), config.documents.clone().into());
        Ok(Self { dirs, env, http, documents })
    }

    /// Gives them to an instance; fails when a directory is no longer the one that was
    /// granted.
    pub fn give(&self, wasi: &mut WasiCtxBuilder) -> wasmtime::Result<()> {
        // Sockets stay off; the builder's default allows creating them.
        wasi.allow_tcp(false).allow_udp(false).allow_ip_name_lookup(false);
        for Variable { name, value } in &self.env {
            wasi.env(name, value);
        }
        for dir in &self.dirs {
            let DirGrant { guest, write, .. } = &dir.grant;
            let permissions = if *write { FsPerms::ReadWrite } else { FsPerms::ReadOnly };
            wasi.preopened_dir(dir.now()?, guest, permissions)?;
        }
        Ok(())
    }
}

impl Dir {
    fn open(grant: &DirGrant, taken: bool) -> io::Result<Self> {
        if grant.guest.is_empty() {
            return Err(io::Error::other("its name for the handler is empty"));
        }
        if taken {
            let why = "another directory has the same name for the handler";
            return Err(io::Error::other(why));
        }
        let path = grant.host.canonicalize()?;
        // Reading is what every grant allows, so a directory that cannot be listed is told now.
        std::fs::read_dir(&path)?;
        let opened = File::open(&path)?;
        Ok(Self { grant: grant.clone(), path, opened })
    }

    /// Where to open the very directory that was granted. Another handler may be able to
    /// write where this one lies, and put a link to anywhere in its place.
    fn now(&self) -> io::Result<PathBuf> {
        let there = std::fs::symlink_metadata(&self.path).and_then(|there| {
            let same = identity(&there) == identity(&self.opened.metadata()?);
            if same { Ok(()) } else { Err(io::Error::other("it was replaced since the load")) }
        });
        there.map_err(|error| {
            let shown = self.path.display();
            io::Error::other(format!("{shown}: {error}; restart or reload the worker"))
        })?;
        // Through the open one where the system has such a path: no time passes between the
        // look above and the use.
        let through = PathBuf::from(format!("/proc/self/fd/{}", self.opened.as_raw_fd()));
        Ok(if Path::exists(&through) { through } else { self.path.clone() })
    }
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}
