//! Values that may be kept out of the config file: given as they are, or by the name of the
//! file or the environment variable that holds them.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde::{Serialize, Serializer};
use serde_json::json;

/// What is shown in place of a secret.
pub(super) const MASK: &str = "***";

/// A file that is larger holds something else.
const MAX_BYTES: u64 = 64 << 10;

/// A text, or where it is.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Text {
    /// The text itself. A number or a boolean is taken as it is written.
    Plain(String),
    /// `{"file": PATH}`: the file's content without the line's end.
    File(PathBuf),
    /// `{"env": NAME}`: the variable's value.
    Env(String),
}

impl Text {
    /// The text; an error says what is missing, never what was found.
    pub fn read(&self, variable: impl Fn(&str) -> Option<String>) -> Result<String, String> {
        match self {
            Self::Plain(text) => Ok(text.clone()),
            Self::File(path) => read_file(path),
            Self::Env(name) => variable(name).filter(|value| !value.is_empty()).ok_or_else(|| {
                format!("the environment variable {name}, which holds it, is not set or empty")
            }),
        }
    }

    /// The text, or what holds it; for people, once it is masked.
    pub fn name(&self) -> String {
        match self {
            Self::Plain(text) => text.clone(),
            Self::File(path) => format!("the address in {}", path.display()),
            Self::Env(name) => format!("the address in ${name}"),
        }
    }

    /// The text as it may be shown: `mask` makes a plain one harmless.
    pub fn shown(&self, mask: impl Fn(&str) -> String) -> Self {
        match self {
            Self::Plain(text) => Self::Plain(mask(text)),
            other => other.clone(),
        }
    }
}

/// A URI without its password: what stands between the user's name and the last `@`.
pub(super) fn without_password(uri: &str) -> String {
    let Some((scheme, rest)) = uri.split_once("://") else { return MASK.into() };
    let (host, options) = rest.split_at(rest.find('?').unwrap_or(rest.len()));
    // Options may carry secrets as well (a proxy's password, a token).
    let options = if options.is_empty() { "" } else { "?***" };
    match host.rsplit_once('@') {
        None => format!("{scheme}://{host}{options}"),
        Some((user, host)) => {
            let user = user.split(':').next().unwrap_or_default();
            format!("{scheme}://{user}:{MASK}@{host}{options}")
        }
    }
}

fn read_file(path: &Path) -> Result<String, String> {
    let shown = path.display();
    let cannot = |why: &dyn fmt::Display| format!("cannot read {shown}, which holds it: {why}");
    let length = std::fs::metadata(path).map_err(|error| cannot(&error))?.len();
    if length > MAX_BYTES {
        return Err(cannot(&format!("it has {length} bytes, at most {MAX_BYTES}")));
    }
    let text = std::fs::read_to_string(path).map_err(|error| cannot(&error))?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    if line.is_empty() {
        return Err(cannot(&"it is empty"));
    }
    Ok(line.to_owned())
}

/// A plain text may be a secret.
impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(_) => f.write_str(MASK),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Env(name) => write!(f, "variable {name}"),
        }
    }
}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Plain(text) => serializer.serialize_str(text),
            Self::File(path) => json!({"file": path}).serialize(serializer),
            Self::Env(name) => json!({"env": name}).serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AsText)
    }
}

struct AsText;

impl<'de> Visitor<'de> for AsText {
    type Value = Text;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, {\"file\": PATH} or {\"env\": NAME}")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Text, E> {
        Ok(Text::Plain(text.to_owned()))
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Text, E> {
        Ok(Text::Plain(value.to_string()))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Text, E> {
        Ok(Text::Plain(value.to_string()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Text, E> {
        Ok(Text::Plain(value.to_string()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Text, E> {
        Ok(Text::Plain(value.to_string()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Text, A::Error> {
        let only = || de::Error::custom("expected one key, \"file\" or \"env\"");
        let Some((key, value)) = map.next_entry::<String, String>()? else { return Err(only()) };
        let text = match key.as_str() {
            "file" => Text::File(value.into()),
            "env" => Text::Env(value),
            _ => return Err(only()),
        };
        if map.next_key::<de::IgnoredAny>()?.is_some() {
            return Err(only());
        }
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_is_shown_without_what_is_secret() {
        for (uri, shown) in [
            ("mongodb://db:27017", "mongodb://db:27017"),
            ("mongodb://u:p@h1,h2/x?authSource=admin", "mongodb://u:***@h1,h2/x?***"),
            ("mongodb+srv://u:p@ss@h", "mongodb+srv://u:***@h"),
            ("mongodb://u@h", "mongodb://u:***@h"),
            ("no uri at all: p", "***"),
        ] {
            assert_eq!(without_password(uri), shown);
        }
    }

    #[test]
    fn a_text_comes_from_where_it_is_said_to_be() {
        let read = |json: &str| {
            let text: Text = serde_json::from_str(json).unwrap();
            text.read(|name| (name == "PW").then(|| "from the environment".to_owned()))
        };
        assert_eq!(read("\"plain\"").unwrap(), "plain");
        assert_eq!(read("7").unwrap(), "7");
        assert_eq!(read("true").unwrap(), "true");
        assert_eq!(read("{\"env\": \"PW\"}").unwrap(), "from the environment");
        assert!(read("{\"env\": \"OTHER\"}").unwrap_err().contains("OTHER"));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        std::fs::write(&path, "two\nlines\r\n").unwrap();
        let file = serde_json::json!({"file": path}).to_string();
        assert_eq!(read(&file).unwrap(), "two\nlines");
        std::fs::write(&path, "\n").unwrap();
        assert!(read(&file).unwrap_err().contains("empty"));
        for wrong in ["{}", "{\"file\": \"a\", \"env\": \"b\"}", "{\"path\": \"a\"}", "null", "[]"]
        {
            assert!(serde_json::from_str::<Text>(wrong).is_err(), "{wrong}");
        }
    }
}
