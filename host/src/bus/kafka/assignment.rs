//! Which partitions a member has, and what it may commit of them. Pure.

use std::collections::{BTreeSet, HashMap};

use crate::bus::Topic;

/// A partition's name.
pub(super) type Partition = (Topic, i32);

/// What the polling thread and the committing side agree on.
#[derive(Debug, Default)]
pub(super) struct Assignment {
    held: HashMap<Partition, Held>,
    paused: BTreeSet<Topic>,
    terms: u64,
}

#[derive(Debug)]
struct Held {
    /// Which time this member has the partition: a message that was fetched in an earlier
    /// one belongs to whoever had it in between.
    term: u64,
    /// The next offset the group is to read, as far as this member has committed.
    committed: i64,
}

impl Assignment {
    /// The group gave a partition to this member.
    pub fn assign(&mut self, partition: Partition) {
        self.terms += 1;
        self.held.insert(partition, Held { term: self.terms, committed: -1 });
    }

    /// The group takes it away.
    pub fn revoke(&mut self, partition: &Partition) {
        self.held.remove(partition);
    }

    /// The group takes everything away.
    pub fn revoke_all(&mut self) {
        self.held.clear();
    }

    /// The present term of a partition; `None` when it is not this member's.
    pub fn term(&self, partition: &Partition) -> Option<u64> {
        self.held.get(partition).map(|held| held.term)
    }

    /// The offset to commit after `offset` was worked off; `None` when there is nothing to
    /// commit: it was committed before, or the partition is another member's now.
    pub fn next_commit(&self, partition: &Partition, offset: i64) -> Option<i64> {
        let next = offset.saturating_add(1);
        self.held.get(partition).filter(|held| held.committed < next).map(|_| next)
    }

    /// The broker has taken a commit.
    pub fn committed(&mut self, partition: &Partition, next: i64) {
        if let Some(held) = self.held.get_mut(partition) {
            held.committed = held.committed.max(next);
        }
    }

    /// Notes that a topic is paused, also for partitions that are yet to come. False when
    /// nothing changes.
    pub fn pause(&mut self, topic: &Topic, paused: bool) -> bool {
        if paused { self.paused.insert(topic.clone()) } else { self.paused.remove(topic) }
    }

    /// Whether its topic is paused.
    pub fn is_paused(&self, topic: &Topic) -> bool {
        self.paused.contains(topic)
    }

    /// The partitions this member has.
    pub fn partitions(&self) -> impl Iterator<Item = &Partition> {
        self.held.keys()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(number: i32) -> Partition {
        (Topic::new("t").unwrap(), number)
    }

    #[test]
    fn commits_only_go_forward() {
        let mut assignment = Assignment::default();
        assignment.assign(partition(0));
        assert_eq!(assignment.next_commit(&partition(0), 4), Some(5));
        assignment.committed(&partition(0), 5);
        assert_eq!(assignment.next_commit(&partition(0), 4), None);
        assert_eq!(assignment.next_commit(&partition(0), 2), None);
        assert_eq!(assignment.next_commit(&partition(0), 5), Some(6));
    }

    #[test]
    fn what_was_taken_away_is_not_committed() {
        let mut assignment = Assignment::default();
        assignment.assign(partition(0));
        let term = assignment.term(&partition(0));
        assignment.revoke(&partition(0));
        assert_eq!(assignment.next_commit(&partition(0), 4), None);
        assert_eq!(assignment.term(&partition(0)), None);
        assignment.assign(partition(0));
        assert_ne!(assignment.term(&partition(0)), term, "messages of the first term are stale");
        assert_eq!(assignment.next_commit(&partition(0), 2), Some(3));
    }

    #[test]
    fn a_pause_outlives_a_rebalance() {
        let mut assignment = Assignment::default();
        let topic = Topic::new("t").unwrap();
        assert!(assignment.pause(&topic, true));
        assert!(!assignment.pause(&topic, true));
        assignment.assign(partition(3));
        assert!(assignment.is_paused(&partition(3).0));
        assignment.revoke_all();
        assert!(assignment.pause(&topic, false));
    }
}
