//! The intakes of a worker's roles, begun and ended one by one.

use std::collections::BTreeMap;

use tokio::sync::mpsc;

use super::{Event, Mine, Shutdown};
use crate::intake::Intake;
use crate::run::{Deps, Slots};
use crate::tasks::{self, TaskHandle};
use crate::types::Role;

/// All intakes of a worker.
pub(super) struct Intakes {
    deps: Deps,
    slots: Slots,
    mine: Mine,
    events: mpsc::Sender<Event>,
    at_work: BTreeMap<Role, AtWork>,
}

struct AtWork {
    stop: Shutdown,
    /// It is wanted again although it was asked to stop.
    again: bool,
    _task: TaskHandle<()>,
}

impl AtWork {
    fn stop(&mut self) {
        self.stop.begin();
        self.again = false;
    }
}

impl Intakes {
    /// None at work yet; what they acquire goes to `events`.
    pub(super) fn new(deps: Deps, slots: Slots, mine: Mine, events: mpsc::Sender<Event>) -> Self {
        Self { deps, slots, mine, events, at_work: BTreeMap::new() }
    }

    /// Begins to read a role's commands, unless that is done already.
    fn start(&mut self, role: &Role) {
        if let Some(at_work) = self.at_work.get_mut(role) {
            at_work.again = at_work.stop.has_begun();
            return;
        }
        let stop = Shutdown::new();
        let intake = Intake {
            deps: self.deps.clone(),
            role: role.clone(),
            slots: self.slots.clone(),
            mine: self.mine.clone(),
            events: self.events.clone(),
            shutdown: stop.clone(),
        };
        let task = tasks::spawn("intake", intake.run());
        self.at_work.insert(role.clone(), AtWork { stop, again: false, _task: task });
    }

    /// Has exactly these roles' commands read.
    pub(super) fn serve(&mut self, roles: &[Role]) {
        for (role, at_work) in &mut self.at_work {
            if !roles.contains(role) {
                at_work.stop();
            }
        }
        for role in roles {
            self.start(role);
        }
    }

    /// Asks all of them to stop. What each has in hand is taken to where it may be
    /// committed; [`over`](Self::over) is told when that is done.
    pub(super) fn stop_all(&mut self) {
        for at_work in self.at_work.values_mut() {
            at_work.stop();
        }
    }

    /// An intake has stopped.
    pub(super) fn over(&mut self, role: &Role) {
        if self.at_work.remove(role).is_some_and(|stopped| stopped.again) {
            self.start(role);
        }
    }

    /// Ends those that are still at work where they are.
    pub(super) fn clear(&mut self) {
        self.at_work.clear();
    }

    /// Whether none is at work.
    pub(super) fn is_empty(&self) -> bool {
        self.at_work.is_empty()
    }
}
