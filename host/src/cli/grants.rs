//! Grants on the command line, for trying a handler without a configuration.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::Args;

use super::Usage;
use crate::plugin::{DirGrant, EnvValue, HandlerConfig, HttpGrant};
use crate::store::Collections;

/// What a handler is granted; nothing without these.
#[derive(Debug, Args)]
#[command(next_help_heading = "Grants; each may be given several times")]
pub struct GrantArgs {
    /// A directory, read-only unless :rw follows
    #[arg(long, value_name = "HOST::GUEST[:rw]")]
    dir: Vec<Dir>,
    /// An environment variable: with this value, or with the one it has here
    #[arg(long, value_name = "NAME[=VALUE]")]
    env: Vec<Variable>,
    /// A host to send HTTP requests to, such as api.example.com or localhost:8080
    #[arg(long, value_name = "HOST[:PORT]")]
    http: Vec<HttpGrant>,
    /// A collection to read: FILE has a JSON object on each line, as mongoexport writes it
    #[arg(long, value_name = "COLLECTION=FILE")]
    documents: Vec<Documents>,
}

/// `--dir`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Dir(DirGrant);

/// `--env`; its value is never shown.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Variable(String, EnvValue);

/// `--documents`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Documents {
    collection: String,
    file: PathBuf,
}

impl GrantArgs {
    /// The handler in `file` with these grants and the default limits.
    pub fn handler(&self, file: &Path) -> HandlerConfig {
        HandlerConfig {
            dirs: self.dir.iter().map(|dir| dir.0.clone()).collect(),
            env: self.env.iter().map(|v| (v.0.clone(), v.1.clone())).collect(),
            http: self.http.clone(),
            documents: self.documents.iter().map(|read| read.collection.clone()).collect(),
            ..HandlerConfig::new(file)
        }
    }

    /// Reads the collections' files.
    pub fn collections(&self) -> Result<Collections, Usage> {
        let mut collections = Collections::default();
        for Documents { collection, file } in &self.documents {
            let shown = file.display();
            let text = std::fs::read_to_string(file)
                .map_err(|error| Usage(format!("--documents: cannot read {shown}: {error}")))?;
            collections
                .insert(collection, &text)
                .map_err(|bad| Usage(format!("--documents: {shown}: {bad}")))?;
        }
        Ok(collections)
    }
}

impl FromStr for Dir {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (host, guest) =
            text.split_once("::").ok_or("write it as HOST::GUEST or HOST::GUEST:rw")?;
        let (guest, write) =
            guest.strip_suffix(":rw").map_or((guest, false), |guest| (guest, true));
        if host.is_empty() || !guest.starts_with('/') {
            return Err(
                "HOST is a directory here and GUEST its name for the handler, such as /data",
            );
        }
        Ok(Self(DirGrant { host: host.into(), guest: guest.into(), write }))
    }
}

impl FromStr for Variable {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, EnvValue::Plain(value.to_owned())),
            None => (text, EnvValue::From(text.to_owned())),
        };
        if name.is_empty() {
            return Err("write it as NAME=VALUE, or as NAME for the value that it has here");
        }
        Ok(Self(name.to_owned(), value))
    }
}

impl FromStr for Documents {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('=') {
            Some((collection, file)) if !collection.is_empty() && !file.is_empty() => {
                Ok(Self { collection: collection.to_owned(), file: file.into() })
            }
            _ => Err("write it as COLLECTION=FILE; FILE has a JSON object on each line"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_granted_as_it_is_written() {
        let dir = |host: &str, guest: &str, write| {
            Dir(DirGrant { host: host.into(), guest: guest.into(), write })
        };
        assert_eq!(".::/data".parse(), Ok(dir(".", "/data", false)));
        assert_eq!("/a:b::/out:rw".parse(), Ok(dir("/a:b", "/out", true)));
        for wrong in ["", ".", ".:/data", "::/data", ".::data", ".::"] {
            assert!(wrong.parse::<Dir>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_variable_has_a_value_or_its_own() {
        let variable = |name: &str, value| Variable(name.into(), value);
        assert_eq!("A=b=c".parse(), Ok(variable("A", EnvValue::Plain("b=c".into()))));
        assert_eq!("A=".parse(), Ok(variable("A", EnvValue::Plain(String::new()))));
        assert_eq!("A".parse(), Ok(variable("A", EnvValue::From("A".into()))));
        assert!("".parse::<Variable>().is_err() && "=x".parse::<Variable>().is_err());
    }

    #[test]
    fn a_collection_is_in_a_file() {
        let read = Documents { collection: "users".into(), file: "u.jsonl".into() };
        assert_eq!("users=u.jsonl".parse(), Ok(read));
        for wrong in ["", "users", "users=", "=u.jsonl"] {
            assert!(wrong.parse::<Documents>().is_err(), "{wrong}");
        }
    }
}
