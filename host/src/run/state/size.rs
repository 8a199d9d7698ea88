//! How large things are: what waits in memory, what an event may carry.

use serde_json::Value;

use crate::handler::BatchOutput;

/// Longest text of people's or a handler's making in an event, in bytes.
const MAX_TEXT: usize = 16 * 1024;

/// A text as long as an event may carry it: an event must never outgrow a message.
pub(super) fn brief(text: &str) -> String {
    if text.len() <= MAX_TEXT {
        return text.to_owned();
    }
    let cut = (0..=MAX_TEXT).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    format!("{}… ({} bytes in all)", &text[..cut], text.len())
}

/// About how many bytes a finished batch takes until it is recorded.
pub(super) fn weight(output: &BatchOutput) -> usize {
    let object = |map: &serde_json::Map<String, Value>| {
        map.iter().map(|(key, value)| key.len() + value_weight(value)).sum::<usize>()
    };
    object(output.metrics.as_object())
        + output.partial.as_ref().map_or(0, object)
        + output.checkpoint.as_ref().map_or(0, String::len)
}

fn value_weight(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len() + 32,
        Value::Array(items) => 32 + items.iter().map(value_weight).sum::<usize>(),
        Value::Object(map) => {
            32 + map.iter().map(|(k, v)| k.len() + 32 + value_weight(v)).sum::<usize>()
        }
        _ => 32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_between_characters_and_says_so() {
        assert_eq!(brief("short"), "short");
        let text = brief(&"ж".repeat(MAX_TEXT));
        assert!(text.len() < MAX_TEXT + 64 && text.ends_with("bytes in all)"));
    }
}
