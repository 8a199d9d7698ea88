//! The run's batches: every text file of the directory, in pieces.

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;

use flowkit_sdk::{Batch, Result};
use serde::{Deserialize, Serialize};

use crate::scan::{Cutter, Span, Verdict, judge};
use crate::skips::Skips;
use crate::walk::{Filter, Found, Walk};

/// Longest uid that carries its path, in bytes; the worker allows 512.
const MAX_UID: usize = 500;

/// A batch: a stretch of one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// The file, below the directory.
    pub path: String,
    /// Where the piece begins, in bytes.
    pub offset: u64,
    /// How long it is.
    pub length: u64,
    /// How much of the file is to be counted.
    pub size: u64,
    /// Whether a word that began in the piece before goes on in this one.
    #[serde(default, skip_serializing_if = "is_false")]
    pub in_word: bool,
    /// What was left out since the piece before. It travels with the piece so that it is
    /// recorded exactly once, whatever crashes.
    #[serde(default, skip_serializing_if = "Skips::is_empty")]
    pub skipped: Skips,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(flag: &bool) -> bool {
    !flag
}

impl Piece {
    /// The piece as a stretch of its file.
    pub fn span(&self) -> Span {
        Span { offset: self.offset, length: self.length, in_word: self.in_word }
    }

    fn uid(&self) -> String {
        let Self { path, offset, .. } = self;
        if path.len() <= MAX_UID - 21 && !path.chars().any(char::is_control) {
            format!("{path}@{offset}")
        } else {
            format!("{:032x}@{offset}", fnv1a(path.as_bytes()))
        }
    }
}

/// Where a run goes on: after a piece.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The piece's file.
    pub path: String,
    /// The piece's end.
    pub offset: u64,
    /// How much of the file is to be counted.
    pub size: u64,
    /// Whether the piece ended inside a word.
    pub in_word: bool,
}

/// The pieces of a directory, found as they are needed.
#[derive(Debug)]
pub struct Pieces {
    root: PathBuf,
    walk: Walk,
    /// The file being cut.
    open: Option<(String, Cutter)>,
    skipped: Skips,
    /// What was left out after the last piece; filled at the end.
    tail: Rc<RefCell<Skips>>,
}

impl Pieces {
    /// Begins at the beginning or after `position`. Fails when `root` cannot be listed.
    pub fn new(root: PathBuf, filter: Filter, position: Option<&Position>) -> Result<Self> {
        let mut skipped = Skips::default();
        let mut open = None;
        let walk = match position {
            None => Walk::new(root.clone(), filter)?,
            Some(at) => {
                if at.offset < at.size {
                    match Cutter::new(&root.join(&at.path), at.offset, at.size, at.in_word) {
                        Ok(cutter) => open = Some((at.path.clone(), cutter)),
                        Err(error) => skipped.add(&at.path, format!("it is gone: {error}")),
                    }
                }
                Walk::after(root.clone(), filter, &at.path)?
            }
        };
        Ok(Self { root, walk, open, skipped, tail: Rc::default() })
    }

    /// What was left out after the last piece, once the iterator has ended.
    pub fn tail(&self) -> Rc<RefCell<Skips>> {
        Rc::clone(&self.tail)
    }

    /// The next piece of the open file; closes it at its end.
    fn next_piece(&mut self) -> Option<Piece> {
        let (path, cutter) = self.open.as_mut()?;
        match cutter.next() {
            Ok(Some(Span { offset, length, in_word })) => Some(Piece {
                path: path.clone(),
                offset,
                length,
                size: cutter.size(),
                in_word,
                skipped: std::mem::take(&mut self.skipped),
            }),
            Ok(None) => {
                self.open = None;
                None
            }
            Err(error) => {
                self.skipped.add(path, format!("its rest cannot be read: {error}"));
                self.open = None;
                None
            }
        }
    }

    /// Opens the next file; false when there is none.
    fn next_file(&mut self) -> Result<bool> {
        let path = match self.walk.next() {
            None => return Ok(false),
            Some(Found::File(path)) => path,
            Some(Found::Unreadable { path, reason }) => {
                self.skipped.add(&path, reason);
                return Ok(true);
            }
        };
        let file = self.root.join(&path);
        match judge(&file)? {
            Verdict::Skip(reason) => self.skipped.add(&path, reason),
            Verdict::Text(size) => match Cutter::new(&file, 0, size, false) {
                Ok(cutter) => self.open = Some((path, cutter)),
                Err(error) => self.skipped.add(&path, error.to_string()),
            },
        }
        Ok(true)
    }
}

impl Iterator for Pieces {
    type Item = Result<Batch<Piece>>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(piece) = self.next_piece() {
                return Some(Ok(Batch::new(piece.uid(), piece)));
            }
            match self.next_file() {
                Ok(true) => {}
                Ok(false) => {
                    self.tail.replace(std::mem::take(&mut self.skipped));
                    return None;
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// FNV-1a with 128 bits: the same in every build, and short code.
fn fnv1a(bytes: &[u8]) -> u128 {
    bytes.iter().fold(0x6c62272e07bb014262b821756295c58d, |hash, &byte| {
        (hash ^ u128::from(byte)).wrapping_mul(0x0000000001000000000000000000013B)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uids_are_acceptable_names() {
        let uid = |path: &str| {
            let piece = Piece {
                path: path.to_owned(),
                offset: u64::MAX,
                length: 1,
                size: 1,
                in_word: false,
                skipped: Skips::default(),
            };
            piece.uid()
        };
        assert_eq!(uid("src/lib.rs"), "src/lib.rs@18446744073709551615");
        let (long, longer) = (uid(&"é/".repeat(300)), uid(&"é/".repeat(301)));
        assert_ne!(long, longer);
        for uid in [long, longer, uid(&"x".repeat(479)), uid("new\nline")] {
            assert!(uid.len() <= 512 && !uid.chars().any(char::is_control), "{uid}");
        }
    }

    #[test]
    fn the_hash_is_fnv1a() {
        assert_eq!(fnv1a(b""), 0x6c62272e07bb014262b821756295c58d);
        assert_eq!(fnv1a(b"foobar"), 0x343e1662793c64bf6f0d3597ba446f18);
    }
}
