//! A JSON object taken apart key by key, so that every mistake in it is found.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::report::{Place, Report};

/// An object of the graph file with what was not yet taken from it.
pub(super) struct Fields {
    left: Map<String, Value>,
    node: Option<String>,
    prefix: String,
}

impl Fields {
    /// Takes `value` apart; notes a problem and gives an empty object when it is none.
    pub(super) fn of(value: Value, node: Option<String>, report: &mut Report) -> Self {
        let left = match value {
            Value::Object(object) => object,
            other => {
                let place = Place { node: node.clone(), key: None };
                report.problem(place, format!("expected an object, found {}", kind(&other)));
                Map::new()
            }
        };
        Self { left, node, prefix: String::new() }
    }

    /// From here on problems name the node by this.
    pub(super) fn name(&mut self, node: String) {
        self.node = Some(node);
    }

    /// The place of a key of this object.
    pub(super) fn place(&self, key: &str) -> Place {
        Place { node: self.node.clone(), key: Some(format!("{}{key}", self.prefix)) }
    }

    /// Takes a key's value as it is; null counts as absent.
    pub(super) fn raw(&mut self, key: &str) -> Option<Value> {
        self.left.remove(key).filter(|value| !value.is_null())
    }

    /// Takes a key's value as a `T`; notes a problem when it is something else.
    pub(super) fn take<T: DeserializeOwned>(
        &mut self,
        key: &str,
        expected: &str,
        report: &mut Report,
    ) -> Option<T> {
        let value = self.raw(key)?;
        let taken = T::deserialize(&value).ok();
        if taken.is_none() {
            let text = format!("expected {expected}, found {}", shown(&value));
            report.problem(self.place(key), text);
        }
        taken
    }

    /// Takes a key's object apart in turn, if the key is there.
    pub(super) fn nested(&mut self, key: &str, report: &mut Report) -> Option<Self> {
        let left = match self.raw(key)? {
            Value::Object(object) => object,
            other => {
                let text = format!("expected an object, found {}", shown(&other));
                report.problem(self.place(key), text);
                return None;
            }
        };
        Some(Self { left, node: self.node.clone(), prefix: format!("{}{key}.", self.prefix) })
    }

    /// Warns about every key that nobody took.
    pub(super) fn warn_of_rest(self, report: &mut Report) {
        for key in self.left.keys() {
            report.warning(self.place(key), "unknown key, ignored");
        }
    }
}

/// A value as an error shows it: itself when short, else its kind.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::Array(_) | Value::Object(_) => kind(value).to_owned(),
        plain => {
            let text = plain.to_string();
            if text.chars().count() <= 60 { text } else { kind(plain).to_owned() }
        }
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
