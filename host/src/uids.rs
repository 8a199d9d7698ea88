//! Sets of batch uids that stay small over millions of batches.

use std::collections::HashSet;

use blake2::digest::consts::U16;
use blake2::{Blake2b, Digest};

use crate::types::BatchUid;

/// A set of uids, 16 bytes of BLAKE2b each: two uids that collide by chance are not to be
/// expected in the lifetime of an installation, nor to be found on purpose.
#[derive(Debug, Clone, Default)]
pub struct UidSet(HashSet<[u8; 16]>);

impl UidSet {
    /// Adds a uid; false when it was there.
    pub fn insert(&mut self, uid: &BatchUid) -> bool {
        self.0.insert(short(uid))
    }

    /// Whether a uid is there.
    pub fn contains(&self, uid: &BatchUid) -> bool {
        self.0.contains(&short(uid))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn short(uid: &BatchUid) -> [u8; 16] {
    Blake2b::<U16>::digest(uid.as_str().as_bytes()).into()
}
