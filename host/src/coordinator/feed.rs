//! Where a coordinator hears of what happened: the status topics.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::FutureExt;

use super::Deps;
use crate::bus::{BusError, GroupConsumer, InMessage, Tail, Topic};
use crate::types::Role;

/// Most messages taken in one go.
const TAKEN: usize = 256;

/// Reads the status topics of some roles.
pub(super) struct Feed {
    source: Source,
    roles: BTreeSet<Role>,
    /// Taken and not committed: the last of each partition.
    uncommitted: BTreeMap<(Topic, i32), InMessage>,
}

enum Source {
    /// Remembers across processes what was dealt with.
    Group(Box<dyn GroupConsumer>),
    /// Hears only what is sent from now on.
    Tail(Box<dyn Tail>),
}

impl Feed {
    /// Opens the status topics of `roles`: as a member of `group`, or just from now on.
    pub(super) async fn open(
        deps: &Deps,
        group: Option<&str>,
        roles: BTreeSet<Role>,
    ) -> Result<Self, BusError> {
        let topics: Vec<Topic> = roles.iter().map(|role| deps.topics.status(role)).collect();
        deps.bus.ensure_topics(&topics).await?;
        let source = match group {
            Some(group) => Source::Group(deps.bus.subscribe(group, &topics).await?),
            None => Source::Tail(deps.bus.tail(&topics).await?),
        };
        Ok(Self { source, roles, uncommitted: BTreeMap::new() })
    }

    /// Whether it hears of all these roles.
    pub(super) fn covers(&self, roles: &BTreeSet<Role>) -> bool {
        self.roles.is_superset(roles)
    }

    /// Waits for a message and takes what else is there. Cancel-safe: nothing is taken
    /// before the wait is over, and nothing waits afterwards.
    pub(super) async fn take(&mut self) -> Result<Vec<InMessage>, BusError> {
        let mut taken = vec![self.next().await?];
        while taken.len() < TAKEN
            && let Some(more) = self.next().now_or_never()
        {
            taken.push(more?);
        }
        if let Source::Group(_) = self.source {
            for message in &taken {
                let partition = (message.topic.clone(), message.partition);
                self.uncommitted.insert(partition, message.clone());
            }
        }
        Ok(taken)
    }

    /// Everything that was taken has had its effect.
    pub(super) async fn commit(&mut self) -> Result<(), BusError> {
        let Source::Group(member) = &mut self.source else { return Ok(()) };
        while let Some((partition, message)) = self.uncommitted.first_key_value() {
            let partition = partition.clone();
            member.commit(message).await?;
            self.uncommitted.remove(&partition);
        }
        Ok(())
    }

    async fn next(&mut self) -> Result<InMessage, BusError> {
        match &mut self.source {
            Source::Group(member) => member.next().await,
            Source::Tail(tail) => tail.next().await,
        }
    }
}
