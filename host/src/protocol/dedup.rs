//! Content hashes: the protocol's deduplication ids and unnamed batches' uids.

use std::fmt::Write as _;

use blake2::digest::consts::U20;
use blake2::{Blake2b, Digest};
use serde_json::{Number, Value};

/// Lowercase hex of BLAKE2b with a 20-byte digest over the canonical JSON of `value`
/// (`protocol.md`, "Deduplication ids").
pub fn content_hash(value: &Value) -> String {
    let mut canonical = String::new();
    write_canonical(value, &mut canonical);
    let digest = Blake2b::<U20>::digest(canonical.as_bytes());
    digest.iter().fold(String::with_capacity(40), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// Canonical JSON as Python's `json.dumps(sort_keys=True, separators=(",", ":"),
/// ensure_ascii=False)` prints it: keys in code point order, which is `serde_json`'s own
/// (it orders by UTF-8 bytes), and floats by `repr`.
fn write_canonical(value: &Value, out: &mut String) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
        Value::Number(n) => write_number(n, out),
        Value::String(s) => write_string(s, out),
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write_canonical(item, out);
            }
            out.push(']');
        }
        Value::Object(map) => {
            out.push('{');
            for (i, (key, item)) in map.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write_string(key, out);
                out.push(':');
                write_canonical(item, out);
            }
            out.push('}');
        }
    }
}

/// Python escapes the control characters below U+0020, the quote and the backslash, and
/// leaves everything else as it is.
fn write_string(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if c < ' ' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

fn write_number(number: &Number, out: &mut String) {
    if number.is_f64() {
        write_float(number.as_f64().unwrap_or_default(), out);
    } else {
        let _ = write!(out, "{number}");
    }
}

/// Python's `repr(float)`: the shortest digits that read back, in positional notation for
/// decimal exponents from -4 to 15, else as `d.ddde±XX` with at least two exponent digits.
fn write_float(x: f64, out: &mut String) {
    // Rust's `{:e}` gives the same shortest digits, as `d.ddde-7`.
    let scientific = format!("{x:e}");
    let (mantissa, exponent) = scientific.split_once('e').expect("{:e} prints an exponent");
    let exponent: i32 = exponent.parse().expect("{:e} prints a whole exponent");
    if (-4..16).contains(&exponent) {
        let positional = format!("{x}");
        out.push_str(&positional);
        if !positional.contains('.') {
            out.push_str(".0");
        }
    } else {
        let sign = if exponent < 0 { '-' } else { '+' };
        let _ = write!(out, "{mantissa}e{sign}{:02}", exponent.abs());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::content_hash;

    #[test]
    fn equals_the_protocols_test_vectors() {
        let parse = |text| serde_json::from_str(text).unwrap();
        assert_eq!(
            content_hash(&json!({"payload": {"a": 1}})),
            "ec9f9a4e07957943339e7781b6dbdffb614d92f3"
        );
        assert_eq!(
            content_hash(&json!({"bok": "t-1", "n": "n-1", "e": 2, "uid": "b-7"})),
            "af7fb52528487ca8b484cef6b28d6e49027113c3"
        );
        assert_eq!(
            content_hash(&parse(r#"{"payload":{"имя":"Ω","x":[1,2.5,null,true]}}"#)),
            "58979851503b1b46e97f234a8b143bd11404b5f6"
        );
        let floats = r#"{"payload":{"f":1e+16,"g":0.1,"h":-0.0,"i":1e-07,"j":123456789012345680.0,"k":5.0}}"#;
        assert_eq!(content_hash(&parse(floats)), "43b39a3176ef206eea90e04b145101b0a6b731e3");
    }

    /// A float that is read back one bit off would give a batch another name than Python
    /// gives it.
    #[test]
    fn floats_are_read_exactly() {
        for text in
            ["1.7976931348623155e+308", "8.41e-322", "122.41829453837837", "9007199254740993.0"]
        {
            let value: serde_json::Value = serde_json::from_str(text).unwrap();
            assert_eq!(value.as_f64(), text.parse().ok(), "{text}");
        }
    }
}
