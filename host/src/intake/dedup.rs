//! Ids of commands whose effect is in the store: saves look-ups, decides nothing that the
//! store would not.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

/// The last ids, for a while.
#[derive(Debug)]
pub struct Remembered {
    size: usize,
    ttl: Duration,
    seen: HashMap<String, Instant>,
    order: VecDeque<(Instant, String)>,
}

impl Remembered {
    /// At most `size` ids, each for `ttl`.
    pub fn new(size: usize, ttl: Duration) -> Self {
        Self { size, ttl, seen: HashMap::new(), order: VecDeque::new() }
    }

    /// Whether the id was remembered less than the time to live ago.
    pub fn contains(&self, id: &str, now: Instant) -> bool {
        self.seen.get(id).is_some_and(|since| now.duration_since(*since) < self.ttl)
    }

    /// Remembers an id, and forgets the oldest beyond the size.
    pub fn insert(&mut self, id: String, now: Instant) {
        // An empty id is nobody's: two commands without one are two commands.
        if id.is_empty() || self.size == 0 {
            return;
        }
        self.seen.insert(id.clone(), now);
        self.order.push_back((now, id));
        while self.order.len() > self.size {
            if let Some((since, oldest)) = self.order.pop_front()
                && self.seen.get(&oldest) == Some(&since)
            {
                self.seen.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forgets_by_age_and_by_number() {
        let start = Instant::now();
        let mut ids = Remembered::new(2, Duration::from_secs(10));
        ids.insert("a".into(), start);
        assert!(ids.contains("a", start + Duration::from_secs(9)));
        assert!(!ids.contains("a", start + Duration::from_secs(10)));
        ids.insert("b".into(), start);
        ids.insert("c".into(), start);
        assert!(!ids.contains("a", start) && ids.contains("b", start) && ids.contains("c", start));
    }

    #[test]
    fn an_empty_id_is_never_a_duplicate() {
        let mut ids = Remembered::new(2, Duration::from_secs(10));
        ids.insert(String::new(), Instant::now());
        assert!(!ids.contains("", Instant::now()));
    }
}
