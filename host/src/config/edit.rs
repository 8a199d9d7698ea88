//! Changes one value of a config file and leaves every other character of it as it is.

use serde_json::Value;

use super::place::{KeyPath, index};

/// The text with `value` under `key`, which is added as the first member of its object
/// where it is not there. `None` when that object is not in the text.
pub fn set(text: &str, key: &KeyPath, value: &Value) -> Option<String> {
    let index = index(text);
    if let Some(old) = index.values.get(key) {
        return Some(format!("{}{value}{}", &text[..old.start], &text[old.end..]));
    }
    let object = index.values.get(&key.parent()?)?;
    let inside = text[object.clone()].strip_prefix('{')?;
    let (before, after) = text.split_at(object.start + 1);
    let name = Value::from(key.steps().last()?.as_str());
    // As the first member that is there: on a line of its own, or on this one.
    let gap = &inside[..inside.len() - inside.trim_start().len()];
    let comma = if inside.trim_start().starts_with('}') { "" } else { "," };
    let space = if comma.is_empty() || gap.contains('\n') { "" } else { " " };
    let lead = if comma.is_empty() { "" } else { gap };
    let after = if lead.is_empty() || gap.contains('\n') { after } else { &after[gap.len()..] };
    Some(format!("{before}{lead}{name}: {value}{comma}{space}{after}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_value_is_replaced_or_added_where_people_would_write_it() {
        let key = KeyPath::of(["h", "echo", "sha256"]);
        let set = |text: &str| set(text, &key, &json!("x"));
        for (text, wanted) in [
            (
                r#"{"h": {"echo": {"sha256": "old", "b": 1}}}"#,
                r#"{"h": {"echo": {"sha256": "x", "b": 1}}}"#,
            ),
            (r#"{"h": {"echo": {"b": 1}}}"#, r#"{"h": {"echo": {"sha256": "x", "b": 1}}}"#),
            (r#"{"h": {"echo": { "b": 1 }}}"#, r#"{"h": {"echo": { "sha256": "x", "b": 1 }}}"#),
            (r#"{"h": {"echo": {}}}"#, r#"{"h": {"echo": {"sha256": "x"}}}"#),
            (
                "{\"h\": {\n  \"echo\": {\n    \"b\": 1\n  }\n}}",
                "{\"h\": {\n  \"echo\": {\n    \"sha256\": \"x\",\n    \"b\": 1\n  }\n}}",
            ),
        ] {
            assert_eq!(set(text).as_deref(), Some(wanted));
        }
        assert_eq!(set(r#"{"h": {}}"#), None);
        assert_eq!(set(r#"{"h": {"echo": 3}}"#), None);
    }

    proptest! {
        #[test]
        fn nothing_else_changes(
            others in prop::collection::btree_map("[a-z\"é\n]{1,3}", any::<i8>(), 0..4),
            old in prop::option::of("[ -~é\"]{0,5}"),
            pretty: bool,
        ) {
            let mut config = json!({"h": {"echo": others, "z": [1, {}]}});
            if let Some(old) = old {
                config["h"]["echo"]["sha256"] = json!(old);
            }
            let text = if pretty { format!("{config:#}") } else { config.to_string() };
            config["h"]["echo"]["sha256"] = json!("new");
            let key = KeyPath::of(["h", "echo", "sha256"]);
            let changed = set(&text, &key, &json!("new")).unwrap();
            let read: Value = serde_json::from_str(&changed).unwrap();
            prop_assert_eq!(read, config);
        }
    }
}
