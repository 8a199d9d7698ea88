//! What was told already: a damaged document that is read twice a second is one line in
//! the log, and one more after an hour.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// When the same is news again.
const AGAIN: Duration = Duration::from_secs(3_600);

/// Things remembered.
const MOST: usize = 1_000;

static TOLD: LazyLock<Mutex<HashMap<String, Instant>>> = LazyLock::new(Mutex::default);

/// True the first time, and then once an hour.
pub(super) fn is_news(text: &str) -> bool {
    let now = Instant::now();
    let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    if told.get(text).is_some_and(|at| now.duration_since(*at) < AGAIN) {
        return false;
    }
    if told.len() >= MOST {
        told.clear();
    }
    told.insert(text.to_owned(), now);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_told_once() {
        assert!(is_news("the disk is on fire"));
        assert!(!is_news("the disk is on fire"));
        assert!(is_news("the roof is on fire"));
    }
}
