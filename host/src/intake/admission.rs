//! What becomes of a command: pure.

use crate::clock::UnixMs;
use crate::protocol::{Command, CommandBody};
use crate::store::{NewRun, NodeView};
use crate::types::Role;

/// What to do with a command that was read.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// Record the run.
    Admit {
        /// As the command describes it.
        run: NewRun,
        /// The node is cancelled already: why. It is answered with CANCELLED and its
        /// handler is not started.
        cancelled: Option<String>,
    },
    /// Stop the run if it is here.
    Cancel {
        /// Why.
        reason: String,
    },
    /// Nothing is done; the text says why.
    Ignore(&'static str),
    /// To the dead letters; the text says why.
    Refuse(String),
}

/// Decides. `topic_role` is the role whose topic the command came from, `view` what
/// `tasks` says about its node.
pub fn decide(
    command: Command,
    topic_role: &Role,
    view: Option<&NodeView>,
    now: UnixMs,
) -> Decision {
    let address = command.address;
    if address.role != *topic_role {
        return Decision::Refuse(format!(
            "step_type `{}` on the command topic of role `{topic_role}`",
            address.role
        ));
    }
    match command.body {
        CommandBody::Start(_) if view.is_some_and(|view| view.epoch > address.epoch) => {
            Decision::Ignore("a newer attempt of the node is in `tasks`")
        }
        CommandBody::Start(input) => Decision::Admit {
            run: NewRun {
                key: address.key,
                role: address.role,
                epoch: address.epoch,
                input,
                created_at: now,
            },
            cancelled: view.and_then(|view| view.cancelled.clone()),
        },
        CommandBody::Cancel { reason } => Decision::Cancel { reason },
        CommandBody::Pause | CommandBody::Resume => Decision::Ignore(
            "TASK_PAUSE and TASK_RESUME are named by the protocol but mean nothing yet",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::RunAddress;
    use crate::store::{NodeStatus, RunInput};
    use crate::types::{Epoch, NodeId, RunKey, TaskId};

    fn command(body: CommandBody) -> Command {
        Command {
            address: RunAddress {
                key: RunKey {
                    task_id: TaskId::new("t").unwrap(),
                    node_id: NodeId::new("n").unwrap(),
                },
                role: Role::new("echo").unwrap(),
                epoch: Epoch(2),
            },
            dedup_id: "d".into(),
            body,
        }
    }

    fn start() -> Command {
        command(CommandBody::Start(RunInput::default()))
    }

    #[test]
    fn a_start_is_admitted_with_the_nodes_cancel_flag() {
        let role = Role::new("echo").unwrap();
        let view = NodeView {
            key: start().address.key,
            epoch: Epoch(2),
            status: NodeStatus::Running,
            cancelled: Some("enough".into()),
        };
        for (view, expected) in [(None, None), (Some(&view), Some("enough".to_owned()))] {
            let Decision::Admit { run, cancelled } = decide(start(), &role, view, UnixMs(5)) else {
                panic!("not admitted")
            };
            assert_eq!((run.epoch, run.created_at, cancelled), (Epoch(2), UnixMs(5), expected));
        }
    }

    #[test]
    fn a_command_on_another_roles_topic_is_refused() {
        let other = Role::new("steps").unwrap();
        assert!(matches!(decide(start(), &other, None, UnixMs(0)), Decision::Refuse(_)));
    }

    #[test]
    fn an_attempt_that_is_over_in_tasks_is_ignored() {
        let role = Role::new("echo").unwrap();
        let view = NodeView {
            key: start().address.key,
            epoch: Epoch(3),
            status: NodeStatus::Running,
            cancelled: None,
        };
        let decision = decide(start(), &role, Some(&view), UnixMs(0));
        assert!(matches!(decision, Decision::Ignore(_)));
    }

    #[test]
    fn a_cancel_is_passed_on_and_a_pause_ignored() {
        let role = Role::new("echo").unwrap();
        let cancel = command(CommandBody::Cancel { reason: "r".into() });
        assert_eq!(decide(cancel, &role, None, UnixMs(0)), Decision::Cancel { reason: "r".into() });
        let pause = command(CommandBody::Pause);
        assert!(matches!(decide(pause, &role, None, UnixMs(0)), Decision::Ignore(_)));
    }
}
