//! Makes a guest's text fit to be shown: bounded and without control characters.

/// Longest message kept of a guest, in bytes.
pub(super) const MAX_MESSAGE: usize = 4 << 10;

/// The longest start of `text` that fits `max` bytes and ends between characters.
pub(super) fn cut(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

/// `text` cut to [`MAX_MESSAGE`] bytes, with control characters other than line breaks
/// written out: a message ends up on terminals and in other people's databases.
pub(super) fn message(text: &str) -> String {
    if text.len() <= MAX_MESSAGE && !text.chars().any(harmful) {
        return text.to_owned();
    }
    let mut shown = String::with_capacity(text.len().min(MAX_MESSAGE));
    for c in cut(text, MAX_MESSAGE).chars() {
        push_visible(&mut shown, c);
    }
    shown.truncate(cut(&shown, MAX_MESSAGE).len());
    shown
}

/// One line of a guest's output, from bytes that may be anything; tabs stay.
pub(super) fn line(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut shown = String::with_capacity(text.len());
    for c in text.trim_end_matches(['\r', '\n']).chars() {
        if c == '\t' { shown.push(c) } else { push_visible(&mut shown, c) }
    }
    shown
}

fn push_visible(shown: &mut String, c: char) {
    if harmful(c) { shown.extend(c.escape_default()) } else { shown.push(c) }
}

/// Control characters, and the marks that make a terminal show text in another order.
fn harmful(c: char) -> bool {
    (c.is_control() && c != '\n') || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_ends_between_characters() {
        assert_eq!(cut("aΩb", 2), "a");
        assert_eq!(cut("aΩb", 3), "aΩ");
        let long = "Ω".repeat(MAX_MESSAGE);
        assert_eq!(message(&long).len(), MAX_MESSAGE);
        let escapes = "\u{1b}".repeat(MAX_MESSAGE);
        assert!(message(&escapes).len() <= MAX_MESSAGE);
    }

    #[test]
    fn control_characters_are_written_out() {
        assert_eq!(message("one\ntwo\u{1b}[31m\0"), "one\ntwo\\u{1b}[31m\\u{0}");
        assert_eq!(line(b"a\tb\x1b[2J\xff\r\n"), "a\tb\\u{1b}[2J\u{fffd}");
        assert_eq!(message("a\u{202e}b"), "a\\u{202e}b");
    }
}
