//! The uids a run's source has yielded: what is new, what was finished before, what comes
//! twice (`protocol.md`: a uid that one attempt yields twice is never skipped silently).

use std::sync::Arc;

use crate::protocol::content_hash;
use crate::types::BatchUid;
use crate::uids::UidSet;

/// What has been yielded so far.
#[derive(Debug, Default)]
pub struct Yielded {
    seen: UidSet,
    resume: Resume,
}

/// What a yielded uid means.
#[derive(Debug, PartialEq, Eq)]
pub enum Admission {
    /// To be processed.
    New,
    /// Finished by an earlier owner: left out.
    Finished,
    /// Yielded before in this attempt: an error.
    Twice,
}

/// Which of the batches a handler yields again may be left out.
#[derive(Debug, Default)]
enum Resume {
    /// Nothing was finished, or the source leaves finished batches out by itself.
    #[default]
    Nothing,
    /// The handler starts over: each finished batch comes once more, in any order.
    Over { finished: Arc<UidSet> },
    /// The handler goes on from its checkpoint: what was finished after it comes again
    /// before anything new does.
    FromCheckpoint { finished: Arc<UidSet> },
}

impl Yielded {
    /// Nothing yet, by an owner that takes over after these batches.
    pub fn after(finished: Arc<UidSet>, checkpoint: bool) -> Self {
        let resume = match (finished.is_empty(), checkpoint) {
            (true, _) => Resume::Nothing,
            (false, false) => Resume::Over { finished },
            (false, true) => Resume::FromCheckpoint { finished },
        };
        Self { seen: UidSet::default(), resume }
    }

    /// Takes note of the next uid.
    pub fn admit(&mut self, uid: &BatchUid) -> Admission {
        if !self.seen.insert(uid) {
            return Admission::Twice;
        }
        match &self.resume {
            Resume::Over { finished } | Resume::FromCheckpoint { finished }
                if finished.contains(uid) =>
            {
                return Admission::Finished;
            }
            Resume::FromCheckpoint { finished } => {
                // What is new has begun: from here on a finished uid is a duplicate.
                self.seen = UidSet::clone(finished);
                self.seen.insert(uid);
                self.resume = Resume::Nothing;
            }
            Resume::Over { .. } | Resume::Nothing => {}
        }
        Admission::New
    }
}

/// The uid of a batch that its handler did not name (`protocol.md`).
pub fn payload_uid(payload: &str) -> BatchUid {
    let payload: serde_json::Value =
        serde_json::from_str(payload).unwrap_or(serde_json::Value::Null);
    let hash = content_hash(&serde_json::json!({ "payload": payload }));
    BatchUid::new(hash).expect("a hash is a name")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admit(yielded: &mut Yielded, uids: &[&str]) -> Vec<Admission> {
        uids.iter().map(|uid| yielded.admit(&BatchUid::new(*uid).unwrap())).collect()
    }

    fn finished(uids: &[&str]) -> Arc<UidSet> {
        let mut set = UidSet::default();
        for uid in uids {
            set.insert(&BatchUid::new(*uid).unwrap());
        }
        Arc::new(set)
    }

    use Admission::{Finished, New, Twice};

    #[test]
    fn a_handler_that_starts_over_may_repeat_each_finished_batch_once() {
        let mut yielded = Yielded::after(finished(&["a", "b"]), false);
        let admitted = admit(&mut yielded, &["b", "c", "a", "a", "c"]);
        assert_eq!(admitted, [Finished, New, Finished, Twice, Twice]);
    }

    #[test]
    fn after_a_checkpoint_a_finished_batch_may_only_come_before_what_is_new() {
        let mut yielded = Yielded::after(finished(&["a", "b"]), true);
        assert_eq!(admit(&mut yielded, &["b", "c", "a"]), [Finished, New, Twice]);
    }
}
