//! What every bus and every store of FlowKit does, as tests.
//!
//! The modules hold one generic function a test; [`bus_suite!`] and [`store_suite!`] make
//! them tests of a [`Backend`]. No test assumes that a message arrives at once, that a
//! group is balanced in a certain way, or that a topic, a task or a worker of its own name
//! is new: each makes its own names.
#![expect(clippy::unwrap_used, reason = "this crate is tests; a panic is how they fail")]

pub mod artifacts;
pub mod bus;
pub mod documents;
pub mod ends;
pub mod groups;
pub mod leases;
pub mod model;
pub mod runs;
pub mod tasks;
pub mod workers;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use flowkit::bus::Bus;
use flowkit::clock::UnixMs;
use flowkit::documents::Documents;
use flowkit::store::{Claim, NewRun, Owner, RunInput, Store};
use flowkit::types::{
    BatchUid, Epoch, Fence, LeaseId, LeaseNo, NodeId, Role, RunKey, TaskId, WorkerId,
};

/// Something under test that may need a server.
#[async_trait]
pub trait Backend: Sized + Send + Sync + 'static {
    /// An empty one that nobody else uses.
    async fn start() -> Self;

    /// Whether `test` can run here. One that cannot says so, and counts as skipped.
    fn available(_test: &str) -> bool {
        true
    }
}

/// A bus under test.
pub trait BusBackend: Backend {
    /// It.
    fn bus(&self) -> Arc<dyn Bus>;

    /// The same bus as another process has it.
    fn other_bus(&self) -> Arc<dyn Bus>;

    /// Whether a message that is out and not committed may be read by another member as
    /// well when members come or go: partitions move, messages do not.
    fn moves_uncommitted() -> bool {
        false
    }
}

/// A store under test.
#[async_trait]
pub trait StoreBackend: Backend {
    /// It.
    fn store(&self) -> Arc<dyn Store>;

    /// The same store as another process has it.
    fn other_store(&self) -> Arc<dyn Store>;

    /// Makes the worker one whose process is gone. False where the backend cannot know.
    async fn end_worker(&self, worker_id: &WorkerId) -> bool;

    /// Writes what a coordinator writes for a failed batch.
    async fn leave_failed_batch(&self, key: &RunKey, batch_uid: &BatchUid);

    /// The claims that are recorded of a task, in any order.
    async fn claims(&self, task_id: &TaskId) -> Vec<Claim>;
}

/// A store that plugins may read.
pub trait DocumentsBackend: StoreBackend {
    /// The same store's documents.
    fn documents(&self) -> Arc<dyn Documents>;
}

/// Makes every test of a bus one of a backend: `bus_suite!(Backend, #[test_attribute])`.
#[macro_export]
macro_rules! bus_suite {
    ($backend:ty, $attribute:meta) => {
        $crate::tests_of!(
            $backend,
            $attribute,
            bus {
                order_by_key,
                every_group_sees_everything,
                new_group_starts_at_the_beginning,
                everything_arrives_as_published,
                tail_sees_only_later_messages,
                tail_and_group_are_independent,
                too_large,
                expired,
                next_is_cancel_safe,
                tail_next_is_cancel_safe,
                one_publish_keeps_its_order,
                history_ends_at_its_beginning
            }
        );
        $crate::tests_of!(
            $backend,
            $attribute,
            groups {
                uncommitted_is_delivered_again,
                committed_is_never_delivered_again,
                commit_covers_what_came_before,
                each_message_to_one_member,
                each_message_to_one_member_while_members_come_and_go,
                pause_leaves_the_topic,
                pause_keeps_what_was_handed_out
            }
        );
    };
}

/// Makes every test of a store one of a backend: `store_suite!(Backend, #[test_attribute])`.
#[macro_export]
macro_rules! store_suite {
    ($backend:ty, $attribute:meta) => {
        $crate::tests_of!(
            $backend,
            $attribute,
            runs {
                admit_new,
                admit_duplicate,
                admit_stale,
                admit_supersedes,
                admit_without_owner,
                runs_are_stored_whole,
                progress_is_fenced,
                end_is_written_once,
                end_sent_frees,
                release_frees,
                runs_of_a_task,
                queued_counts_unowned
            }
        );
        $crate::tests_of!(
            $backend,
            $attribute,
            ends {
                a_check_is_set_with_the_note_that_the_end_was_sent,
                checks_are_due_by_role_and_time,
                a_check_is_moved_by_one_of_many,
                a_newer_attempt_has_no_check
            }
        );
        $crate::tests_of!(
            $backend,
            $attribute,
            leases {
                claimable_cases,
                claimable_gone_owner,
                claimable_order_and_limit,
                claimable_until_the_end_is_sent,
                one_of_many_claimers_wins,
                a_stale_sight_claims_nothing,
                renew_reports_lost,
                old_owner_is_fenced
            }
        );
        $crate::tests_of!(
            $backend,
            $attribute,
            artifacts {
                partials_are_read_back,
                newer_replaces_older,
                older_is_refused,
                failed_batch_is_completed,
                complete_removes_older_attempts,
                complete_is_fenced,
                paging_sees_everything,
                paging_goes_on_while_writes_do,
                finished_by_ordinal,
                claims_are_recorded_once,
                odd_texts_survive
            }
        );
        $crate::tests_of!(
            $backend,
            $attribute,
            tasks {
                create_once,
                save_needs_the_version,
                cancel_survives_saves,
                cancel_unknown_task,
                views_of_nodes,
                lists,
                one_of_many_savers_wins
            }
        );
        $crate::tests_of!(
            $backend,
            $attribute,
            workers {
                records,
                gone_worker_is_left_out,
                coordination,
                coordination_of_a_gone_worker
            }
        );
        mod model {
            use super::*;

            #[test]
            fn runs_follow_the_model() {
                if <$backend as $crate::Backend>::available(concat!(module_path!(), "::runs")) {
                    $crate::model::runs_follow_the_model::<$backend>();
                }
            }

            #[test]
            fn artifacts_follow_the_model() {
                if <$backend as $crate::Backend>::available(concat!(module_path!(), "::artifacts"))
                {
                    $crate::model::artifacts_follow_the_model::<$backend>();
                }
            }
        }
    };
}

/// Makes every test of documents one of a backend:
/// `documents_suite!(Backend, #[test_attribute])`.
#[macro_export]
macro_rules! documents_suite {
    ($backend:ty, $attribute:meta) => {
        $crate::tests_of!(
            $backend,
            $attribute,
            documents {
                artifacts_are_documents,
                filters_find_the_same,
                documents_are_cut_and_in_order,
                runs_and_workers_are_documents,
                bad_queries_are_refused
            }
        );
    };
}

/// Makes a module's tests those of a backend.
#[macro_export]
macro_rules! tests_of {
    ($backend:ty, $attribute:meta, $module:ident { $($test:ident),+ }) => {
        mod $module {
            use super::*;
            $(
                #[$attribute]
                async fn $test() {
                    let name = concat!(module_path!(), "::", stringify!($test));
                    if <$backend as $crate::Backend>::available(name) {
                        $crate::$module::$test::<$backend>().await;
                    }
                }
            )+
        }
    };
}

/// Long enough for any backend to deliver what it has.
pub const SOON: Duration = Duration::from_secs(30);

/// Long enough to notice most of what should not be delivered.
pub const QUIET: Duration = Duration::from_millis(300);

/// The tests' present.
pub const NOW: UnixMs = UnixMs(1_800_000_000_000);

/// A name nobody has used.
pub fn unique(prefix: &str) -> String {
    format!("{prefix}-{}", uuid::Uuid::new_v4().simple())
}

/// `seconds` after [`NOW`].
pub fn at(seconds: u64) -> UnixMs {
    NOW.plus(Duration::from_secs(seconds))
}

/// A node of a task of its own.
pub fn new_key() -> RunKey {
    key(&unique("t"), "n-1")
}

/// A node.
pub fn key(task_id: &str, node_id: &str) -> RunKey {
    RunKey { task_id: TaskId::new(task_id).unwrap(), node_id: NodeId::new(node_id).unwrap() }
}

/// A worker.
pub fn worker(name: &str) -> WorkerId {
    WorkerId::new(name).unwrap()
}

/// A batch.
pub fn uid(name: impl Into<String>) -> BatchUid {
    BatchUid::new(name).unwrap()
}

/// A run that a command began.
pub fn new_run(key: &RunKey, epoch: u32, role: &Role) -> NewRun {
    NewRun {
        key: key.clone(),
        role: role.clone(),
        epoch: Epoch(epoch),
        input: RunInput::default(),
        created_at: NOW,
    }
}

/// A role of its own.
pub fn new_role() -> Role {
    Role::new(unique("role")).unwrap()
}

/// A lease for a minute.
pub fn owner(name: &str) -> Owner {
    Owner { worker_id: worker(name), lease_id: LeaseId::fresh(), deadline: at(60) }
}

/// The right to write for a run.
pub fn fence(key: &RunKey, epoch: u32, lease_no: u64, name: &str) -> Fence {
    Fence {
        key: key.clone(),
        epoch: Epoch(epoch),
        lease_no: LeaseNo(lease_no),
        worker_id: worker(name),
    }
}

/// A JSON object.
pub fn object(value: serde_json::Value) -> serde_json::Map<String, serde_json::Value> {
    value.as_object().unwrap().clone()
}
