//! JSON as others find it in a document, and back.
//!
//! A document's keys may not hold NUL, and older servers take neither `.` in a key nor `$`
//! at its beginning. A JSON object with such keys, with numbers beyond 64 bits or nested
//! too deeply is stored twice: as the nearest ordinary document, for people and for other
//! readers, and as the exact text beside it, which ours prefer.

use mongodb::bson::{Bson, Document};
use serde_json::{Map, Number, Value};

/// Levels of nesting that every server takes, with room for those around.
const MAX_DEPTH: usize = 80;

/// The value as an ordinary BSON one, and whether that is exact.
pub(super) fn to_bson(value: &Value) -> (Bson, bool) {
    let mut exact = true;
    let bson = convert(value, 0, &mut exact);
    (bson, exact)
}

/// The same for an object.
pub(super) fn to_document(object: &Map<String, Value>) -> (Document, bool) {
    let mut exact = true;
    (members(object, 0, &mut exact), exact)
}

fn convert(value: &Value, depth: usize, exact: &mut bool) -> Bson {
    match value {
        Value::Null => Bson::Null,
        Value::Bool(value) => Bson::Boolean(*value),
        Value::String(text) => Bson::String(text.clone()),
        Value::Number(number) => of_number(number, exact),
        Value::Array(_) | Value::Object(_) if depth >= MAX_DEPTH => {
            *exact = false;
            Bson::Null
        }
        Value::Array(elements) => {
            Bson::Array(elements.iter().map(|element| convert(element, depth + 1, exact)).collect())
        }
        Value::Object(object) => Bson::Document(members(object, depth + 1, exact)),
    }
}

fn members(object: &Map<String, Value>, depth: usize, exact: &mut bool) -> Document {
    let mut document = Document::new();
    for (key, value) in object {
        let odd = key.is_empty() || key.starts_with('$') || key.contains(['.', '\0']);
        let value = convert(value, depth, exact);
        if odd {
            *exact = false;
            document.insert(ordinary(key), value);
        } else {
            document.insert(key, value);
        }
    }
    document
}

/// A key that looks like `key` and may stand in a document.
fn ordinary(key: &str) -> String {
    match key {
        "" => "_".into(),
        key => key.replace('$', "\u{ff04}").replace('.', "\u{ff0e}").replace('\0', "\u{2400}"),
    }
}

fn of_number(number: &Number, exact: &mut bool) -> Bson {
    if let Some(whole) = number.as_i64() {
        return i32::try_from(whole).map_or(Bson::Int64(whole), Bson::Int32);
    }
    if number.is_u64() {
        *exact = false;
    }
    number.as_f64().map_or(Bson::Null, Bson::Double)
}

/// A BSON value as JSON; what JSON has no word for comes as extended JSON.
pub(super) fn from_bson(value: Bson) -> Value {
    match value {
        Bson::Int32(number) => number.into(),
        Bson::Int64(number) => number.into(),
        Bson::Double(number) => Number::from_f64(number).map_or(Value::Null, Value::Number),
        Bson::String(text) => text.into(),
        Bson::Boolean(value) => value.into(),
        Bson::Null | Bson::Undefined => Value::Null,
        Bson::Array(elements) => elements.into_iter().map(from_bson).collect(),
        Bson::Document(document) => Value::Object(from_document(document)),
        Bson::DateTime(at) => match at.try_to_rfc3339_string() {
            Ok(text) => serde_json::json!({"$date": text}),
            Err(_) => serde_json::to_value(Bson::DateTime(at)).unwrap_or_default(),
        },
        other => serde_json::to_value(other).unwrap_or_default(),
    }
}

/// A document as a JSON object.
pub(super) fn from_document(document: Document) -> Map<String, Value> {
    document.into_iter().map(|(key, value)| (key, from_bson(value))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ordinary_json_is_exact() {
        let value = json!({
            "a": [1, -2.5, null, true, "ü\u{0}"], "b": {"c": {}, "d e": i64::MIN}, "f": 5.0, "z": -0.0
        });
        let (bson, exact) = to_bson(&value);
        assert!(exact);
        let back = from_bson(bson);
        assert_eq!(back, value);
        assert_eq!(back["f"].to_string(), "5.0");
        assert_eq!(back["z"].to_string(), "-0.0");
    }

    #[test]
    fn what_a_document_cannot_hold_is_told() {
        let deep = (0..200).fold(json!(1), |inner, _| json!([inner]));
        for value in [
            json!({"a.b": 1}),
            json!({"x": [{"$set": 1}]}),
            json!({"": 1}),
            json!({"a\u{0}b": 1}),
            json!({"a": u64::MAX}),
            deep,
        ] {
            let (bson, exact) = to_bson(&value);
            assert!(!exact, "{value}");
            mongodb::bson::serialize_to_vec(&mongodb::bson::doc! {"v": bson}).unwrap();
        }
    }
}
