//! Topic and group names, all configurable.

use crate::bus::Topic;
use crate::types::{Invalid, Role};

/// The names of all topics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topics {
    /// `topic_cmd_fmt`, with `{type}` for the role.
    pub cmd_fmt: String,
    /// `topic_status_fmt`, with `{type}` for the role.
    pub status_fmt: String,
    /// `topic_worker_announce`.
    pub announce: Topic,
    /// `topic_query`.
    pub query: Topic,
    /// `topic_reply`.
    pub reply: Topic,
    /// `topic_signals`.
    pub signals: Topic,
    /// `topic_dead_letter`.
    pub dead_letter: Topic,
}

impl Default for Topics {
    fn default() -> Self {
        let topic = |name: &str| Topic::new(name).expect("a constant that is a topic name");
        Self {
            cmd_fmt: "cmd.{type}.v1".into(),
            status_fmt: "status.{type}.v1".into(),
            announce: topic("workers.announce.v1"),
            query: topic("query.tasks.v1"),
            reply: topic("reply.tasks.v1"),
            signals: topic("signals.v1"),
            dead_letter: topic("workers.dlq.v1"),
        }
    }
}

impl Topics {
    /// Checks that the two formats give a topic for every role.
    pub fn check(&self) -> Result<(), Invalid> {
        for (what, fmt) in
            [("topic_cmd_fmt", &self.cmd_fmt), ("topic_status_fmt", &self.status_fmt)]
        {
            if !fmt.contains("{type}") {
                return Err(Invalid { what, problem: "does not contain {type}" });
            }
            // A role has at most 200 of the letters that a topic may have.
            if Topic::new(fmt.replace("{type}", &"r".repeat(200))).is_err() {
                return Err(Invalid { what, problem: "does not give a valid topic name" });
            }
        }
        Ok(())
    }

    /// Where a role's commands arrive.
    pub fn commands(&self, role: &Role) -> Topic {
        Self::of_role(&self.cmd_fmt, role)
    }

    /// Where a role's events go.
    pub fn status(&self, role: &Role) -> Topic {
        Self::of_role(&self.status_fmt, role)
    }

    /// The consumer group that spreads a role's commands over its workers.
    pub fn group(role: &Role) -> String {
        format!("workers.{role}.v1")
    }

    fn of_role(fmt: &str, role: &Role) -> Topic {
        Topic::new(fmt.replace("{type}", role.as_str())).expect("Topics::check passed")
    }
}
