//! Counts as GNU `wc` does in a UTF-8 locale.
//!
//! A line is a newline. A word starts at a printable character that is not white space and
//! ends at white space; characters that are neither (controls, U+2028, U+2029) neither
//! start nor end one. Code points that Unicode has not assigned count as printable: which
//! ones a C library knows depends on its age.

use serde::{Deserialize, Serialize};

/// What `wc -l -w -c` prints.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Newlines.
    pub lines: u64,
    /// Words that begin here.
    pub words: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Counts a text that arrives in pieces, cut anywhere.
#[derive(Debug, Default)]
pub struct Counter {
    counts: Counts,
    in_word: bool,
    /// The first bytes of a character whose rest has not arrived yet.
    cut: [u8; 4],
    cut_len: usize,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Space,
    Word,
    /// Neither starts nor ends a word.
    Neither,
}

const ASCII: [Kind; 128] = {
    let mut kinds = [Kind::Neither; 128];
    let mut byte = 0;
    while byte < 128 {
        kinds[byte] = match byte as u8 {
            b'\t'..=b'\r' | b' ' => Kind::Space,
            b'!'..=b'~' => Kind::Word,
            _ => Kind::Neither,
        };
        byte += 1;
    }
    kinds
};

fn kind(c: char) -> Kind {
    match c {
        '\0'..='\x7f' => ASCII[c as usize],
        '\u{80}'..='\u{9f}' | '\u{2028}' | '\u{2029}' => Kind::Neither,
        // The no-break spaces separate words for `wc`, unlike for `iswspace`.
        '\u{a0}'
        | '\u{1680}'
        | '\u{2000}'..='\u{200a}'
        | '\u{202f}'
        | '\u{205f}'
        | '\u{2060}'
        | '\u{3000}' => Kind::Space,
        _ => Kind::Word,
    }
}

impl Counter {
    /// Goes on in the middle of a text; `in_word`: a word has begun before it.
    pub fn resume(in_word: bool) -> Self {
        Self { in_word, ..Self::default() }
    }

    /// Counts the next piece.
    pub fn feed(&mut self, mut text: &[u8]) {
        self.counts.bytes += text.len() as u64;
        while self.cut_len > 0 && !text.is_empty() {
            text = self.complete(text);
        }
        while let Some(&first) = text.first() {
            if first < 0x80 {
                text = self.ascii(text);
                continue;
            }
            let width = width(first);
            if width > text.len() {
                self.cut[..text.len()].copy_from_slice(text);
                self.cut_len = text.len();
                return;
            }
            // What is not UTF-8 counts as bytes alone, one byte at a time.
            match decode(&text[..width]) {
                Some(c) => {
                    self.char(c);
                    text = &text[width..];
                }
                None => text = &text[1..],
            }
        }
    }

    /// What has been counted.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// True when the text so far ends inside a word.
    pub fn in_word(&self) -> bool {
        self.in_word
    }

    /// How many bytes at the end are an incomplete character.
    pub fn incomplete(&self) -> usize {
        self.cut_len
    }

    fn ascii<'t>(&mut self, text: &'t [u8]) -> &'t [u8] {
        let Counts { mut lines, mut words, .. } = self.counts;
        let mut in_word = self.in_word;
        let mut length = 0;
        for &byte in text {
            let Some(&kind) = ASCII.get(usize::from(byte)) else { break };
            length += 1;
            lines += u64::from(byte == b'\n');
            words += u64::from(kind == Kind::Word && !in_word);
            in_word = match kind {
                Kind::Word => true,
                Kind::Space => false,
                Kind::Neither => in_word,
            };
        }
        self.counts.lines = lines;
        self.counts.words = words;
        self.in_word = in_word;
        &text[length..]
    }

    fn char(&mut self, c: char) {
        match kind(c) {
            Kind::Space => self.in_word = false,
            Kind::Neither => {}
            Kind::Word => {
                self.counts.words += u64::from(!self.in_word);
                self.in_word = true;
            }
        }
    }

    /// Moves bytes from `text` to the character that was cut, and counts it once whole.
    fn complete<'t>(&mut self, text: &'t [u8]) -> &'t [u8] {
        let wanted = width(self.cut[0]) - self.cut_len;
        let taken = wanted.min(text.len());
        self.cut[self.cut_len..self.cut_len + taken].copy_from_slice(&text[..taken]);
        self.cut_len += taken;
        if taken == wanted {
            if let Some(c) = decode(&self.cut[..self.cut_len]) {
                self.char(c);
            }
            self.cut_len = 0;
        }
        &text[taken..]
    }
}

/// How many bytes the character has that begins with `first`.
fn width(first: u8) -> usize {
    match first {
        0xc0..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf7 => 4,
        _ => 1,
    }
}

fn decode(bytes: &[u8]) -> Option<char> {
    std::str::from_utf8(bytes).ok()?.chars().next()
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;

    fn count(text: &[u8]) -> [u64; 3] {
        let mut counter = Counter::default();
        counter.feed(text);
        let Counts { lines, words, bytes } = counter.counts();
        [lines, words, bytes]
    }

    /// What the system's `wc` says in the C.UTF-8 locale.
    fn wc(text: &[u8]) -> [u64; 3] {
        let mut wc = Command::new("wc")
            .args(["-l", "-w", "-c"])
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        wc.stdin.take().unwrap().write_all(text).unwrap();
        let output = wc.wait_with_output().unwrap();
        let numbers: Vec<u64> = String::from_utf8(output.stdout)
            .unwrap()
            .split_whitespace()
            .map(|n| n.parse().unwrap())
            .collect();
        numbers.try_into().unwrap()
    }

    #[test]
    fn counts_plain_text_like_wc() {
        let samples: [&[u8]; 12] = [
            b"",
            b"\n",
            b"one",
            b"one two\nthree\n",
            b"  lead and trail  \n\n",
            b"dos\r\nlines\r\n",
            b"old mac\rlines\r",
            b"tab\tvertical\x0bform\x0cfeed",
            b"no final newline\nhere",
            b"nul\0inside a\0word\0\n",
            b"\x1b[1mbold\x1b[0m text\x07\n",
            "naïve café — Ωmega 漢字 кириллица 🦀\n".as_bytes(),
        ];
        for text in samples {
            assert_eq!(count(text), wc(text), "{:?}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn knows_the_same_white_space_as_wc() {
        // A `wc` of another make, or a system without this locale, splits elsewhere.
        if wc("a\u{3000}b\u{a0}c\0 \0".as_bytes())[1] != 3 {
            assert_eq!(count("a\u{3000}b\u{a0}c\0 \0".as_bytes())[1], 3);
            return;
        }
        let assigned = ['\u{1}'..='\u{377}', '\u{400}'..='\u{52f}', '\u{1680}'..='\u{169c}']
            .into_iter()
            .chain(['\u{2000}'..='\u{2064}', '\u{3000}'..='\u{303f}', '\u{4e00}'..='\u{4fff}'])
            .chain(['\u{e000}'..='\u{e0ff}', '\u{feff}'..='\u{feff}', '\u{1f600}'..='\u{1f64f}']);
        for c in assigned.flatten() {
            // Does it end a word, and is it one?
            let text = format!("a{c}b {c} ");
            assert_eq!(count(text.as_bytes()), wc(text.as_bytes()), "{c:?}");
        }
    }

    #[test]
    fn a_text_may_be_cut_anywhere() {
        let text = "one two  漢字\u{3000}🦀\u{2028}x ünï\r\nlast word".as_bytes();
        for first in 0..=text.len() {
            for second in first..=text.len() {
                let mut counter = Counter::default();
                counter.feed(&text[..first]);
                counter.feed(&text[first..second]);
                let mut rest = Counter::resume(counter.in_word());
                if counter.incomplete() == 0 {
                    rest.feed(&text[second..]);
                } else {
                    counter.feed(&text[second..]);
                }
                let (a, b) = (counter.counts(), rest.counts());
                let sum = [a.lines + b.lines, a.words + b.words, a.bytes + b.bytes];
                assert_eq!(sum, count(text), "cut at {first} and {second}");
            }
        }
    }

    #[test]
    fn bytes_that_are_not_text_are_only_bytes() {
        assert_eq!(count(b"a\xff\xfeb \xc3( \xf0\x9f"), [0, 2, 10]);
    }
}
