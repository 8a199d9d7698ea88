//! Checks JSON texts from a guest without building them.

use std::cell::Cell;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

/// Most values (also those inside others) of one text. Built in memory a value takes up to
/// about a hundred bytes, so that two bytes of text, `[]`, could become fifty times as much.
const MAX_VALUES: u32 = 1_000_000;

/// What a text holds at its top.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `{…}`.
    Object,
    /// Anything else.
    Other,
}

/// Walks the whole text: it is one JSON value, its numbers fit 64 bits or a float, and it
/// has at most a million values, nested at most 127 deep. The error says what is wrong and
/// at which line and column.
pub(super) fn check(text: &str) -> Result<Kind, String> {
    let kind = if text.trim_ascii_start().starts_with('{') { Kind::Object } else { Kind::Other };
    let left = Cell::new(MAX_VALUES);
    let mut input = serde_json::Deserializer::from_str(text);
    Walk(&left)
        .deserialize(&mut input)
        .and_then(|()| input.end())
        .map(|()| kind)
        .map_err(|error| error.to_string())
}

#[derive(Clone, Copy)]
struct Walk<'a>(&'a Cell<u32>);

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<(), D::Error> {
        let left = self.0.get().checked_sub(1);
        self.0.set(left.ok_or_else(|| D::Error::custom("more than 1000000 values"))?);
        input.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while items.next_element_seed(self)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        while entries.next_key_seed(self)?.is_some() {
            entries.next_value_seed(self)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_json_and_tells_objects_apart() {
        assert_eq!(check(r#" {"a": [1, 2.5, null, true, "x"]} "#), Ok(Kind::Object));
        for text in ["[]", "1", "\"{\"", "null", "-0.0", "1e-400"] {
            assert_eq!(check(text), Ok(Kind::Other), "{text}");
        }
    }

    #[test]
    fn refuses_what_would_fail_or_swell_later() {
        let deep = "[".repeat(200) + &"]".repeat(200);
        let wide = format!("[{}0]", "[],".repeat(1_000_000));
        for (text, wanted) in [
            ("", "EOF while parsing a value at line 1 column 0"),
            ("hello", "expected value at line 1 column 1"),
            ("{} {}", "trailing characters at line 1 column 4"),
            ("1e400", "number out of range at line 1 column 5"),
            ("\"\\ud800\"", "unexpected end of hex escape at line 1 column 8"),
            ("NaN", "expected value at line 1 column 1"),
            (&deep, "recursion limit exceeded at line 1 column 128"),
        ] {
            assert_eq!(check(text), Err(wanted.to_owned()), "{text}");
        }
        let error = check(&wide).expect_err("too many");
        assert!(error.starts_with("more than 1000000 values"), "{error}");
    }
}
