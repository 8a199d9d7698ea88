//! Text from the store and from plugins, made safe for a terminal.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Writes control characters, and those that turn the direction of text, as escapes: an
/// id or a reason must not be able to move the cursor, recolour or rewrite what is shown.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_unsafe) {
        return text.into();
    }
    let mut safe = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '\n' => safe.push_str("\\n"),
            '\t' => safe.push_str("\\t"),
            c if is_unsafe(c) => {
                let _ = write!(safe, "\\u{{{:x}}}", u32::from(c));
            }
            c => safe.push(c),
        }
    }
    safe.into()
}

/// At most `chars` characters of it, safe for a terminal.
pub fn brief(text: &str, chars: usize) -> String {
    let safe = printable(text);
    if safe.chars().count() <= chars {
        return safe.into_owned();
    }
    let mut cut: String = safe.chars().take(chars.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_steers_a_terminal_gets_through() {
        assert_eq!(printable("plain, schön und 漢字"), "plain, schön und 漢字");
        assert_eq!(printable("\u{1b}[2Jgone\r\n"), "\\u{1b}[2Jgone\\u{d}\\n");
        assert_eq!(printable("a\u{202e}b\u{9b}c"), "a\\u{202e}b\\u{9b}c");
        assert_eq!(brief("abcdef", 4), "abc…");
        assert_eq!(brief("abcd", 4), "abcd");
    }
}
