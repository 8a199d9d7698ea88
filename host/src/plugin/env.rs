//! Environment variables as a configuration grants them.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde::{Serialize, Serializer};
use serde_json::json;

/// Longest value.
const MAX_VALUE: usize = 64 << 10;

/// A variable's value, or where it is: in the file `"text"` or `{"env": NAME}`. It may be a
/// secret, so a plain one is shown as `***` wherever a configuration is shown.
#[derive(Clone, PartialEq, Eq)]
pub enum EnvValue {
    /// The value itself.
    Plain(String),
    /// The value that this variable of the worker's own environment has.
    From(String),
}

/// A variable that cannot be granted; says which and why, never what its value is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the granted variable {}: {problem}", .name.escape_debug())]
pub struct BadEnv {
    /// Its name for the handler.
    pub name: String,
    /// Why.
    pub problem: String,
}

impl EnvValue {
    /// The value that `name` has for the handler.
    pub(super) fn read(&self, name: &str) -> Result<String, BadEnv> {
        let bad = |problem: String| BadEnv { name: name.to_owned(), problem };
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(bad("its name is empty or contains `=` or a NUL".to_owned()));
        }
        let value = match self {
            Self::Plain(value) => value.clone(),
            Self::From(source) => std::env::var(source).map_err(|error| {
                bad(match error {
                    std::env::VarError::NotPresent => format!(
                        "the worker's environment has no variable {source}; set it, or take the \
                         grant out"
                    ),
                    std::env::VarError::NotUnicode(_) => {
                        format!("the value of the worker's variable {source} is not UTF-8")
                    }
                })
            })?,
        };
        if value.len() > MAX_VALUE || value.contains('\0') {
            return Err(bad(format!("its value contains a NUL, or more than {MAX_VALUE} bytes")));
        }
        Ok(value)
    }
}

impl fmt::Debug for EnvValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(_) => f.write_str("***"),
            Self::From(name) => write!(f, "${name}"),
        }
    }
}

impl Serialize for EnvValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Plain(_) => serializer.serialize_str("***"),
            Self::From(name) => json!({"env": name}).serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for EnvValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AsValue)
    }
}

struct AsValue;

impl<'de> Visitor<'de> for AsValue {
    type Value = EnvValue;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text or {\"env\": NAME}")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<EnvValue, E> {
        Ok(EnvValue::Plain(text.to_owned()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<EnvValue, A::Error> {
        match (map.next_entry::<String, String>()?, map.next_key::<String>()?) {
            (Some((key, name)), None) if key == "env" => Ok(EnvValue::From(name)),
            _ => Err(de::Error::custom("expected one key, \"env\"")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> EnvValue {
        serde_json::from_str(text).expect(text)
    }

    #[test]
    fn a_value_is_never_shown() {
        let plain = parsed(r#""s3cret""#);
        assert_eq!(plain.read("TOKEN").as_deref(), Ok("s3cret"));
        assert_eq!(format!("{plain:?}"), "***");
        assert_eq!(serde_json::to_string(&plain).expect("writes"), r#""***""#);
        let there = parsed(r#"{"env": "PATH"}"#);
        assert_eq!(there.read("P").expect("every process has one"), std::env::var("PATH").unwrap());
        assert_eq!(serde_json::to_string(&there).expect("writes"), r#"{"env":"PATH"}"#);
    }

    #[test]
    fn what_cannot_be_granted_is_told_without_its_value() {
        let lost = parsed(r#"{"env": "FLOWKIT_NO_SUCH_VARIABLE"}"#).read("TOKEN");
        insta::assert_snapshot!(
            lost.expect_err("not set"),
            @"the granted variable TOKEN: the worker's environment has no variable FLOWKIT_NO_SUCH_VARIABLE; set it, or take the grant out"
        );
        let nul = parsed(r#""s3cret\u0000""#).read("TOKEN").expect_err("NUL").to_string();
        assert!(!nul.contains("s3cret"), "{nul}");
        assert!(parsed(r#""v""#).read("A=B").is_err());
        assert!(parsed(r#""v""#).read("").is_err());
        for text in [r#"{"file": "x"}"#, r#"{"env": "A", "or": "B"}"#, "{}", "[]", "5"] {
            assert!(serde_json::from_str::<EnvValue>(text).is_err(), "{text}");
        }
    }
}
