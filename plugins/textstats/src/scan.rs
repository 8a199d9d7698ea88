//! Reads a file without ever holding more of it than one buffer: is it text, and where can
//! it be cut?

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use flowkit_sdk::{Result, check_cancelled};

use crate::count::Counter;

/// Most lines in one piece.
pub const MAX_LINES: u32 = 1_000;

/// Most bytes in one piece; only a line longer than this is cut.
pub const MAX_BYTES: u64 = 1 << 20;

/// How much of a file is in memory.
const BUFFER: usize = 64 << 10;

/// How much is read between two looks at the cancel flag.
const CHECK_EVERY: u64 = 16 << 20;

/// Whether a file can be counted.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// UTF-8, of this many bytes.
    Text(u64),
    /// Why not.
    Skip(String),
}

/// A stretch of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Where it begins, in bytes.
    pub offset: u64,
    /// How long it is.
    pub length: u64,
    /// Whether a word that began before it goes on in it.
    pub in_word: bool,
}

/// A file with one buffer's worth of it in memory.
#[derive(Debug)]
pub struct Window {
    file: File,
    buffer: Box<[u8]>,
    offset: u64,
    filled: usize,
}

impl Window {
    /// Opens a file.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        Ok(Self { file, buffer: vec![0; BUFFER].into_boxed_slice(), offset: 0, filled: 0 })
    }

    /// The bytes at `offset`, at most up to `end`: some, or none at the file's end.
    pub fn at(&mut self, offset: u64, end: u64) -> io::Result<&[u8]> {
        let held = self.offset..self.offset + self.filled as u64;
        if !held.contains(&offset) {
            self.file.seek(SeekFrom::Start(offset))?;
            self.filled = loop {
                match self.file.read(&mut self.buffer) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    filled => break filled?,
                }
            };
            self.offset = offset;
        }
        let from = (offset - self.offset) as usize;
        let wanted = usize::try_from(end.saturating_sub(offset)).unwrap_or(usize::MAX);
        let to = self.filled.min(from.saturating_add(wanted));
        Ok(&self.buffer[from..to])
    }

    /// Counts a span. It may turn out shorter than it was, when the file has changed.
    pub fn count(&mut self, span: Span) -> io::Result<Counter> {
        let mut counter = Counter::resume(span.in_word);
        let (mut offset, end) = (span.offset, span.offset + span.length);
        while offset < end {
            let bytes = self.at(offset, end)?;
            if bytes.is_empty() {
                break;
            }
            counter.feed(bytes);
            offset += bytes.len() as u64;
        }
        Ok(counter)
    }
}

/// Reads a whole file to see whether it is UTF-8. Fails only when the run is cancelled.
pub fn judge(path: &Path) -> Result<Verdict> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) => return Ok(Verdict::Skip(error.to_string())),
    };
    let mut buffer = vec![0; BUFFER];
    // The first bytes of a character whose rest comes with the next read.
    let mut kept = 0;
    let (mut size, mut checked) = (0, 0);
    loop {
        let read = match file.read(&mut buffer[kept..]) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Ok(Verdict::Skip(error.to_string())),
        };
        size += read as u64;
        let end = kept + read;
        kept = match std::str::from_utf8(&buffer[..end]) {
            Ok(_) => 0,
            Err(error) if error.error_len().is_none() && read > 0 => {
                buffer.copy_within(error.valid_up_to()..end, 0);
                end - error.valid_up_to()
            }
            Err(_) => return Ok(Verdict::Skip("it is not UTF-8 text".to_owned())),
        };
        if read == 0 {
            return Ok(Verdict::Text(size));
        }
        if size >= checked + CHECK_EVERY {
            checked = size;
            check_cancelled()?;
        }
    }
}

/// Cuts a text file into spans of at most [`MAX_LINES`] lines and [`MAX_BYTES`] bytes, at
/// line ends where there are any. An empty file is one empty span.
#[derive(Debug)]
pub struct Cutter {
    window: Window,
    size: u64,
    /// Where the next span begins; none after the last.
    next: Option<(u64, bool)>,
}

impl Cutter {
    /// Begins at `offset` of a file that is text up to `size`.
    pub fn new(path: &Path, offset: u64, size: u64, in_word: bool) -> io::Result<Self> {
        Ok(Self { window: Window::open(path)?, size, next: Some((offset, in_word)) })
    }

    /// How much of the file is text.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The next span, or none at the end.
    pub fn next(&mut self) -> io::Result<Option<Span>> {
        let Some((offset, in_word)) = self.next else { return Ok(None) };
        let end = self.size.min(offset + MAX_BYTES);
        let mut lines = 0;
        let (mut at, mut line_end) = (offset, None);
        while at < end && lines < MAX_LINES {
            let bytes = self.window.at(at, end)?;
            if bytes.is_empty() {
                // It was longer when it was judged: what is left of it is the whole.
                self.size = at;
                break;
            }
            match bytes.iter().position(|&b| b == b'\n') {
                Some(found) => {
                    at += found as u64 + 1;
                    line_end = Some(at);
                    lines += 1;
                }
                None => at += bytes.len() as u64,
            }
        }
        let mut span = Span { offset, length: at - offset, in_word };
        let mut ends_in_word = false;
        if at < self.size {
            match line_end {
                Some(line_end) => span.length = line_end - offset,
                None => ends_in_word = self.cut_line(&mut span)?,
            }
        }
        let after = offset + span.length;
        self.next = (after < self.size).then_some((after, ends_in_word));
        Ok(Some(span))
    }

    /// Shortens a span that ends inside a line to whole characters; true when it ends
    /// inside a word as well.
    fn cut_line(&mut self, span: &mut Span) -> io::Result<bool> {
        let counter = self.window.count(*span)?;
        span.length -= counter.incomplete() as u64;
        Ok(counter.in_word())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn file(text: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text).unwrap();
        file
    }

    fn spans(text: &[u8]) -> Vec<Span> {
        let file = file(text);
        let mut cutter = Cutter::new(file.path(), 0, text.len() as u64, false).unwrap();
        std::iter::from_fn(|| cutter.next().unwrap()).collect()
    }

    /// The spans cover the text without a gap, and their counts sum to the whole's.
    fn check(text: &[u8]) -> Vec<Span> {
        let spans = spans(text);
        let file = file(text);
        let mut window = Window::open(file.path()).unwrap();
        let (mut at, mut words, mut lines) = (0, 0, 0);
        for &span in &spans {
            assert_eq!(span.offset, at);
            assert!(span.length <= MAX_BYTES);
            at += span.length;
            let counts = window.count(span).unwrap().counts();
            assert!(counts.lines <= u64::from(MAX_LINES));
            words += counts.words;
            lines += counts.lines;
        }
        let mut whole = Counter::default();
        whole.feed(text);
        let whole = whole.counts();
        assert_eq!((at, words, lines), (text.len() as u64, whole.words, whole.lines));
        spans
    }

    fn lengths(spans: &[Span]) -> Vec<u64> {
        spans.iter().map(|s| s.length).collect()
    }

    #[test]
    fn cuts_after_a_thousand_lines() {
        let text = "ab c\n".repeat(2_500);
        assert_eq!(lengths(&check(text.as_bytes())), [5_000, 5_000, 2_500]);
        let exact = "ab c\n".repeat(1_000);
        assert_eq!(lengths(&check(exact.as_bytes())), [5_000]);
        assert_eq!(lengths(&check(b"no newline")), [10]);
        assert_eq!(lengths(&check(b"")), [0]);
    }

    #[test]
    fn cuts_at_a_line_end_before_a_piece_grows_too_large() {
        let line = format!("{}\n", "x".repeat(399_999));
        let spans = check(line.repeat(6).as_bytes());
        assert_eq!(lengths(&spans), [800_000, 800_000, 800_000]);
        assert!(spans.iter().all(|s| !s.in_word));
    }

    #[test]
    fn a_line_longer_than_a_piece_is_cut_between_characters() {
        let max = MAX_BYTES as usize;
        // One word of three-byte characters, so the limit falls inside one of them.
        let text = format!("{}\nend", "漢".repeat(max));
        let spans = check(text.as_bytes());
        assert_eq!(lengths(&spans), [1_048_575, 1_048_575, 1_048_575, 7]);
        assert_eq!(spans.iter().map(|s| s.in_word).collect::<Vec<_>>(), [false, true, true, true]);
        // White space at the cut: nothing goes on.
        let text = format!("{} {}", "y".repeat(max - 1), "z".repeat(max));
        let spans = check(text.as_bytes());
        assert_eq!(spans.iter().map(|s| s.in_word).collect::<Vec<_>>(), [false, false]);
        // A long line after short ones begins a piece of its own.
        let text = format!("a\nb\n{}", "c ".repeat(max));
        assert_eq!(lengths(&check(text.as_bytes())), [4, 1 << 20, 1 << 20]);
    }

    #[test]
    fn begins_where_it_is_told() {
        let text = "ab c\n".repeat(2_500);
        let file = file(text.as_bytes());
        let mut cutter = Cutter::new(file.path(), 5_000, 12_500, false).unwrap();
        assert_eq!(cutter.next().unwrap().unwrap().offset, 5_000);
        assert_eq!(cutter.next().unwrap().unwrap().offset, 10_000);
        assert_eq!(cutter.next().unwrap(), None);
    }

    #[test]
    fn a_file_that_shrank_ends_where_it_ends() {
        let file = file(&b"ab c\n".repeat(1_500));
        let mut cutter = Cutter::new(file.path(), 0, 50_000, false).unwrap();
        let spans: Vec<_> = std::iter::from_fn(|| cutter.next().unwrap()).collect();
        assert_eq!(lengths(&spans), [5_000, 2_500]);
    }

    #[test]
    fn tells_text_from_other_files() {
        let judge = |text: &[u8]| judge(file(text).path()).unwrap();
        let other = || Verdict::Skip("it is not UTF-8 text".to_owned());
        assert_eq!(judge(b""), Verdict::Text(0));
        assert_eq!(judge(b"\0 is text too"), Verdict::Text(13));
        assert_eq!(judge(b"\xff\xd8\xff"), other());
        assert_eq!(judge("cut \u{e9}".as_bytes().split_last().unwrap().1), other());
        // Characters across the borders of the buffer, and an error far behind.
        for shift in 0..3 {
            let mut text = vec![b'.'; shift];
            text.extend("漢".repeat(100_000).as_bytes());
            assert_eq!(judge(&text), Verdict::Text(300_000 + shift as u64));
            text.push(0xe6);
            assert_eq!(judge(&text), other());
        }
        assert!(matches!(super::judge(Path::new("/none/such")).unwrap(), Verdict::Skip(_)));
    }
}
