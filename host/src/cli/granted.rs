//! `--dir`, `--http` and `--limit`: what a handler that is tried may use.

use clap::Args;
use serde_json::{Map, Value};

use super::Usage;
use super::plugin_run::Dir;
use crate::plugin::{HandlerConfig, HttpGrant, Limits};

/// The grants and limits of one handler.
#[derive(Debug, Args)]
pub struct Granted {
    /// Grants a directory, read-only unless :rw follows; may be given several times
    #[arg(long, value_name = "HOST::GUEST[:rw]")]
    dir: Vec<Dir>,
    /// Grants requests to a host, such as api.example.com; may be given several times
    #[arg(long, value_name = "HOST[:PORT]")]
    http: Vec<HttpGrant>,
    /// Sets a limit, a key of `handlers.ROLE.limits`; may be given several times
    #[arg(long, value_name = "KEY=NUMBER")]
    limit: Vec<String>,
}

impl Granted {
    /// The handler in `file` with them.
    pub fn handler(&self, file: &std::path::Path) -> Result<HandlerConfig, Usage> {
        Ok(HandlerConfig {
            dirs: self.dir.iter().map(|dir| dir.0.clone()).collect(),
            http: self.http.clone(),
            limits: limits(&self.limit)?,
            ..HandlerConfig::new(file)
        })
    }
}

fn limits(options: &[String]) -> Result<Limits, Usage> {
    let mut given = Map::new();
    for option in options {
        let wrong = || Usage(format!("--limit {option}: write it as KEY=NUMBER"));
        let (key, number) = option.split_once('=').ok_or_else(wrong)?;
        let number: u64 = number.trim().parse().map_err(|_| wrong())?;
        given.insert(key.trim().to_owned(), number.into());
    }
    serde_json::from_value(Value::Object(given)).map_err(|error| Usage(format!("--limit: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_those_of_the_configuration() {
        let given = |text: &str| limits(&[text.to_owned()]);
        assert_eq!(given("memory_bytes=1048576").unwrap().memory_bytes.get(), 1 << 20);
        assert_eq!(limits(&[]).unwrap(), Limits::default());
        for wrong in ["memory_bytes", "memory_bytes=many", "memory=1", "call_time_ms=0"] {
            let error = given(wrong).expect_err(wrong).to_string();
            assert!(error.starts_with("--limit"), "{error}");
        }
    }
}
