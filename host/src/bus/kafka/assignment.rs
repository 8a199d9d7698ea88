//! Which partitions a member has, and what is committed of them. Pure.

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
    /// The next offset the group is to read. Unknown until the broker was asked: whoever
    /// had the partition before may have come further than this member had.
    committed: Option<i64>,
}

/// What is to be done for a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Commit {
    /// Nothing: it is committed already, or the partition is another member's now.
    Nothing,
    /// The broker knows how far the group is; this member does not.
    AskFirst,
    /// This offset is to be committed.
    Offset(i64),
}

impl Assignment {
    /// The group gave a partition to this member.
    pub fn assign(&mut self, partition: Partition) {
        self.terms += 1;
        self.held.insert(partition, Held { term: self.terms, committed: None });
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

    /// What to do once everything up to `offset` was worked off. Commits only go forward.
    pub fn commit(&self, partition: &Partition, offset: i64) -> Commit {
        let next = offset.saturating_add(1);
        match self.held.get(partition).map(|held| held.committed) {
            None => Commit::Nothing,
            Some(None) => Commit::AskFirst,
            Some(Some(committed)) if committed >= next => Commit::Nothing,
            Some(Some(_)) => Commit::Offset(next),
        }
    }

    /// How far the group is, as the broker has taken it or told it.
    pub fn committed(&mut self, partition: &Partition, next: i64) {
        if let Some(held) = self.held.get_mut(partition) {
            held.committed = held.committed.max(Some(next));
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
        assert_eq!(assignment.commit(&partition(0), 4), Commit::AskFirst);
        assignment.committed(&partition(0), 0);
        assert_eq!(assignment.commit(&partition(0), 4), Commit::Offset(5));
        assignment.committed(&partition(0), 5);
        assignment.committed(&partition(0), 3);
        assert_eq!(assignment.commit(&partition(0), 4), Commit::Nothing);
        assert_eq!(assignment.commit(&partition(0), 2), Commit::Nothing);
        assert_eq!(assignment.commit(&partition(0), 5), Commit::Offset(6));
    }

    #[test]
    fn what_was_taken_away_is_not_committed() {
        let mut assignment = Assignment::default();
        assignment.assign(partition(0));
        assignment.committed(&partition(0), 2);
        let term = assignment.term(&partition(0));
        assignment.revoke(&partition(0));
        assert_eq!(assignment.commit(&partition(0), 4), Commit::Nothing);
        assert_eq!(assignment.term(&partition(0)), None);
        assignment.committed(&partition(0), 9);

        assignment.assign(partition(0));
        assert_ne!(assignment.term(&partition(0)), term, "messages of the first term are stale");
        assert_eq!(assignment.commit(&partition(0), 4), Commit::AskFirst, "others had it too");
        assignment.committed(&partition(0), 7);
        assert_eq!(assignment.commit(&partition(0), 4), Commit::Nothing);
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
