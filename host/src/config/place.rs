//! Where in a JSON text each key stands.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

/// A key's path from the top, such as `handlers.echo.component`; a list's elements are
/// named by their number, `handlers.echo.dirs.0`.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyPath(Vec<String>);

impl KeyPath {
    /// The path of these steps.
    pub fn of<S: Into<String>>(steps: impl IntoIterator<Item = S>) -> Self {
        Self(steps.into_iter().map(Into::into).collect())
    }

    /// Reads `a.b.c`; a step that has a dot in it stands in double quotes,
    /// `handlers."a.b".component`. `None` when a step is empty or a quote is left open.
    pub fn parse(text: &str) -> Option<Self> {
        let mut steps = Vec::new();
        let mut rest = text;
        loop {
            let (step, after) = match rest.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"')?,
                None => rest.split_at(rest.find('.').unwrap_or(rest.len())),
            };
            if step.is_empty() {
                return None;
            }
            steps.push(step.to_owned());
            if after.is_empty() {
                return Some(Self(steps));
            }
            rest = after.strip_prefix('.')?;
        }
    }

    /// The path one step further.
    pub fn then(&self, step: impl Into<String>) -> Self {
        let mut steps = self.0.clone();
        steps.push(step.into());
        Self(steps)
    }

    /// The path without its last step; `None` at the top.
    pub fn parent(&self) -> Option<Self> {
        let (_, steps) = self.0.split_last()?;
        Some(Self(steps.to_vec()))
    }

    /// Its steps, from the top.
    pub fn steps(&self) -> &[String] {
        &self.0
    }

    /// True when `self` is `top` or lies below it.
    pub fn is_within(&self, top: &Self) -> bool {
        self.0.starts_with(&top.0)
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, step) in self.0.iter().enumerate() {
            let dot = if i == 0 { "" } else { "." };
            if step.contains('.') {
                write!(f, "{dot}\"{step}\"")?;
            } else {
                write!(f, "{dot}{step}")?;
            }
        }
        Ok(())
    }
}

/// A place in a text, both counted from 1; columns are characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Its line.
    pub line: usize,
    /// Its column.
    pub column: usize,
}

impl Place {
    /// The place of a byte offset.
    pub fn at(text: &str, offset: usize) -> Self {
        let before = text.get(..offset).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |i| i + 1);
        Self {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }
}

/// Where each key of a text stands.
#[derive(Debug, Default)]
pub struct Index {
    /// An object's members by their key, a list's elements by themselves.
    pub places: BTreeMap<KeyPath, Place>,
    /// The bytes of each value, the whole text's under the empty path.
    pub values: BTreeMap<KeyPath, Range<usize>>,
    /// Keys that an object has a second time.
    pub repeated: Vec<(KeyPath, Place)>,
}

/// Indexes a text that is known to be valid JSON.
pub fn index(text: &str) -> Index {
    let mut scanner = Scanner { text, at: 0, index: Index::default() };
    scanner.value(&KeyPath::default());
    scanner.index
}

struct Scanner<'a> {
    text: &'a str,
    at: usize,
    index: Index,
}

impl Scanner<'_> {
    fn value(&mut self, path: &KeyPath) {
        let first = self.peek();
        let start = self.at;
        match first {
            Some(b'{') => self.members(path),
            Some(b'[') => self.elements(path),
            Some(b'"') => {
                self.string();
            }
            _ => {
                let rest = &self.text[self.at..];
                self.at += rest
                    .find(|c: char| c.is_ascii_whitespace() || matches!(c, ',' | ']' | '}'))
                    .unwrap_or(rest.len());
            }
        }
        self.index.values.insert(path.clone(), start..self.at);
    }

    fn members(&mut self, path: &KeyPath) {
        self.at += 1;
        while self.peek() == Some(b'"') {
            let place = Place::at(self.text, self.at);
            let key = path.then(self.string());
            if self.index.places.insert(key.clone(), place).is_some() {
                self.index.repeated.push((key.clone(), place));
            }
            self.skip(b':');
            self.value(&key);
            self.skip(b',');
        }
        self.skip(b'}');
    }

    fn elements(&mut self, path: &KeyPath) {
        self.at += 1;
        let mut number = 0_usize;
        while !matches!(self.peek(), Some(b']') | None) {
            let key = path.then(number.to_string());
            self.index.places.insert(key.clone(), Place::at(self.text, self.at));
            self.value(&key);
            self.skip(b',');
            number += 1;
        }
        self.skip(b']');
    }

    fn string(&mut self) -> String {
        let start = self.at;
        let bytes = self.text.as_bytes();
        self.at += 1;
        while self.at < bytes.len() && bytes[self.at] != b'"' {
            self.at += if bytes[self.at] == b'\\' { 2 } else { 1 };
        }
        self.at = (self.at + 1).min(bytes.len());
        serde_json::from_str(&self.text[start..self.at]).unwrap_or_default()
    }

    fn skip(&mut self, byte: u8) {
        if self.peek() == Some(byte) {
            self.at += 1;
        }
    }

    fn peek(&mut self) -> Option<u8> {
        let bytes = self.text.as_bytes();
        while bytes.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
        bytes.get(self.at).copied()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    #[test]
    fn every_key_has_its_place() {
        let text = "{\n  \"a\": 1,\n  \"ключ\": {\"x\": [true,\n {\"y\\\"\": \"}\"}]}, \"b\":{} }";
        let index = index(text);
        let found: Vec<_> = index
            .places
            .iter()
            .map(|(path, place)| format!("{path} {}:{}", place.line, place.column))
            .collect();
        insta::assert_snapshot!(found.join("\n"), @r#"
        a 2:3
        b 4:18
        ключ 3:3
        ключ.x 3:12
        ключ.x.0 3:18
        ключ.x.1 4:2
        ключ.x.1.y" 4:3
        "#);
    }

    #[test]
    fn a_repeated_key_is_noticed() {
        let index = index("{\"a\": 1, \"b\": {\"a\": 1},\n\"a\": 2}");
        assert_eq!(index.repeated, [(KeyPath::of(["a"]), Place { line: 2, column: 1 })]);
    }

    #[test]
    fn paths_read_back_as_they_print() {
        for text in ["a", "handlers.echo.dirs.0.host", "handlers.\"a.b\".component"] {
            assert_eq!(KeyPath::parse(text).expect(text).to_string(), text);
        }
        for text in ["", ".", "a.", "a..b", "\"a", "\"a\"b", "\"\""] {
            assert_eq!(KeyPath::parse(text), None, "{text}");
        }
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<i32>().prop_map(Value::from),
            any::<bool>().prop_map(Value::from),
            "[ -~é\\\\\"\n]{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-z.\"\\\\é]{1,4}", inner, 0..4)
                    .prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    fn count(value: &Value) -> usize {
        match value {
            Value::Object(members) => members.values().map(|v| 1 + count(v)).sum(),
            Value::Array(elements) => elements.iter().map(|v| 1 + count(v)).sum(),
            _ => 0,
        }
    }

    proptest! {
        #[test]
        fn no_key_is_missed(value in json(), pretty: bool) {
            let text = if pretty {
                serde_json::to_string_pretty(&value)
            } else {
                serde_json::to_string(&value)
            }
            .unwrap();
            let index = index(&text);
            prop_assert_eq!(index.places.len(), count(&value));
            prop_assert!(index.repeated.is_empty());
        }
    }
}
