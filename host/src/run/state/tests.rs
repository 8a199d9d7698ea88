//! Any order of events: what a run never does.

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Map, json};
use tokio::time::Instant;

use super::*;
use crate::handler::{AdapterProposal, HandlerError};
use crate::metrics::Metrics;
use crate::settings::PullSettings;
use crate::store::{NewRun, RunInput};
use crate::types::{Epoch, LeaseNo, NodeId, Role, RunKey, TaskId};

/// What happens next, chosen by the test.
#[derive(Debug, Clone)]
enum Choice {
    /// The activity under way is answered: well, or in one of the bad ways.
    Answer(u8),
    /// Some of what waits is recorded.
    Record(u8),
    /// Somebody wants a stop.
    Stop(u8),
    /// An answer that nobody asked for.
    Stray(u8),
}

fn choices() -> impl Strategy<Value = Vec<Choice>> {
    let choice = prop_oneof![
        12 => (0u8..12).prop_map(Choice::Answer),
        4 => (1u8..4).prop_map(Choice::Record),
        1 => (0u8..4).prop_map(Choice::Stop),
        1 => (0u8..6).prop_map(Choice::Stray),
    ];
    proptest::collection::vec(choice, 0..120)
}

fn record(finished: u64, checkpoint: bool) -> RunRecord {
    RunRecord {
        new: NewRun {
            key: RunKey { task_id: TaskId::new("t").unwrap(), node_id: NodeId::new("n").unwrap() },
            role: Role::new("r").unwrap(),
            epoch: Epoch(1),
            input: RunInput::default(),
            created_at: crate::clock::UnixMs(0),
        },
        lease_no: LeaseNo(1),
        owner: None,
        progress: Progress {
            finished,
            checkpoint: checkpoint.then(|| "1".to_owned()),
            ..Progress::default()
        },
        end: None,
        end_sent: false,
        check: None,
        updated_at: crate::clock::UnixMs(0),
    }
}

fn start(finished: u64, checkpoint: bool) -> Run {
    let mut uids = UidSet::default();
    for ordinal in 0..finished {
        uids.insert(&BatchUid::new(format!("b{ordinal}")).unwrap());
    }
    Run::start(Start {
        record: &record(finished, checkpoint),
        finished: Arc::new(uids),
        rules: SourceRules(PullSettings {
            poll: std::time::Duration::from_millis(1),
            backoff_max: std::time::Duration::from_millis(1),
            strict: false,
        }),
        max_attempts: None,
        cancelled: None,
    })
}

fn stop(which: u8) -> Stop {
    let cause = match which {
        0 => StopCause::Shutdown,
        1 => StopCause::Cancel { source: CancelKind::Signal, reason: "enough".into() },
        2 => StopCause::LeaseLost,
        _ => StopCause::Superseded,
    };
    Stop { cause, deadline: Instant::now() }
}

/// A driver that checks each effect against what it has seen so far.
struct Model {
    run: Run,
    activity: Option<Effect>,
    next_uid: u32,
    processed: u64,
    recorded: u64,
    seals: usize,
    lost: bool,
}

impl Model {
    fn new(finished: u64, checkpoint: bool) -> Self {
        Self {
            run: start(finished, checkpoint),
            activity: Some(Effect::Announce),
            next_uid: 0,
            processed: finished,
            recorded: finished,
            seals: 0,
            lost: false,
        }
    }

    fn step(&mut self, input: Input) {
        let ended = self.run.ended();
        let effects = self.run.step(input);
        assert!(!ended || effects.is_empty(), "after the end: {effects:?}");
        for effect in effects {
            self.take(effect);
        }
    }

    fn take(&mut self, effect: Effect) {
        match &effect {
            Effect::RaiseFlag(_) | Effect::UseSource(_) => return,
            Effect::AbandonFetch => {
                assert_eq!(self.activity.take(), Some(Effect::Fetch));
                return;
            }
            Effect::Record(finished) => {
                assert!(!self.lost, "recorded without a lease");
                assert_eq!(finished.ordinal, self.processed, "ordinals have no gaps");
                self.processed += 1;
                return;
            }
            Effect::Seal { .. } | Effect::Release => {
                assert!(!self.lost, "{effect:?} without a lease");
                assert_eq!(self.recorded, self.processed, "{effect:?} before all is recorded");
                self.seals += 1;
                assert_eq!(self.seals, 1, "a second end");
            }
            _ => assert!(self.seals == 0 || effect == Effect::Cleanup, "{effect:?} after the end"),
        }
        assert!(self.activity.is_none(), "{effect:?} beside {:?}", self.activity);
        self.activity = Some(effect);
    }

    fn answer(&mut self, how: u8) {
        let Some(activity) = self.activity.take() else { return };
        let input = match activity {
            Effect::Announce if how == 0 => Input::Announced(Err(no_handler())),
            Effect::Announce => Input::Announced(Ok("d".into())),
            Effect::Open if how == 1 => Input::Opened(Err(no_handler())),
            Effect::Open => Input::Opened(Ok(())),
            Effect::Init => Input::Initialised(result((), how)),
            Effect::IterBatches { .. } => Input::Began(result(proposal(how), how)),
            Effect::Fetch => Input::Fetched(result(self.yielded(how), how)),
            Effect::Process(_) => Input::Processed {
                result: result(BatchOutput { metrics: metrics(), ..BatchOutput::default() }, how),
                saw_cancel: how.is_multiple_of(2),
            },
            Effect::Finalize => Input::Finalized(result(FinalOutput::default(), how)),
            Effect::Classify(_) => Input::Classified(result(
                Classification { reason_code: "r".into(), permanent: false },
                how,
            )),
            Effect::Seal { .. } | Effect::Release => Input::Sealed,
            Effect::Cleanup => Input::Cleaned,
            Effect::Record(_)
            | Effect::RaiseFlag(_)
            | Effect::UseSource(_)
            | Effect::AbandonFetch => unreachable!("these are no activities"),
        };
        self.step(input);
    }

    fn yielded(&mut self, how: u8) -> Option<YieldedBatch> {
        if how == 4 {
            return None;
        }
        let uid = BatchUid::new(format!("b{}", self.next_uid)).unwrap();
        self.next_uid += u32::from(how != 5);
        Some(YieldedBatch { uid: Some(uid), payload: "{}".into() })
    }

    fn record(&mut self, count: u8) {
        self.recorded = self.processed.min(self.recorded + u64::from(count));
        if !self.lost {
            self.step(Input::Recorded { finished: self.recorded });
        }
    }

    fn choose(&mut self, choice: &Choice) {
        match choice {
            Choice::Answer(how) => self.answer(*how),
            Choice::Record(count) => self.record(*count),
            Choice::Stop(which) => {
                self.lost |= *which >= 2 && self.seals == 0;
                self.step(Input::Stop(stop(*which)));
            }
            Choice::Stray(which) => self.stray(*which),
        }
    }

    /// An answer to something that is not under way.
    fn stray(&mut self, which: u8) {
        let (expected, input) = match which {
            0 => (matches!(self.activity, Some(Effect::Fetch)), Input::Fetched(Ok(None))),
            1 => (matches!(self.activity, Some(Effect::Cleanup)), Input::Cleaned),
            2 => (
                matches!(self.activity, Some(Effect::Seal { .. } | Effect::Release)),
                Input::Sealed,
            ),
            3 => {
                (matches!(self.activity, Some(Effect::Announce)), Input::Announced(Ok("d".into())))
            }
            4 => (matches!(self.activity, Some(Effect::Init)), Input::Initialised(Ok(()))),
            _ => (
                matches!(self.activity, Some(Effect::Finalize)),
                Input::Finalized(Ok(FinalOutput::default())),
            ),
        };
        if !expected {
            assert_eq!(self.run.step(input), []);
        }
    }
}

fn no_handler() -> OpenError {
    OpenError::NoHandler(Role::new("r").unwrap())
}

fn metrics() -> Metrics {
    let mut object = Map::new();
    object.insert("rows".into(), json!(1));
    Metrics::new(object).unwrap()
}

fn proposal(how: u8) -> Option<AdapterProposal> {
    let mut input_args = Map::new();
    input_args.insert("from_node".into(), json!("up"));
    (how > 8).then(|| AdapterProposal { input_adapter: "pull.from_artifacts".into(), input_args })
}

fn result<T>(ok: T, how: u8) -> Result<T, CallError> {
    let fault = || HostFault { code: FaultCode::BadOutput, message: "odd".into() };
    match how {
        0 => Err(CallError::Handler(HandlerError { message: "no".into(), detail: None })),
        1 => Err(CallError::Rejected(fault())),
        2 => Err(CallError::Dead(fault())),
        3 => Err(CallError::Interrupted),
        _ => Ok(ok),
    }
}

proptest! {
    #[test]
    fn one_activity_and_one_end_whatever_happens(
        choices in choices(),
        finished in 0u64..3,
        checkpoint: bool,
    ) {
        let mut model = Model::new(finished, checkpoint);
        for choice in &choices {
            model.choose(choice);
        }
        // Whatever has happened, a cancel and the answers to what is under way end it.
        model.choose(&Choice::Stop(1));
        for _ in 0..20 {
            model.record(3);
            model.answer(6);
        }
        prop_assert!(model.run.ended(), "{:?}", model.run);
        prop_assert_eq!(model.seals, usize::from(!model.lost));
        prop_assert!(model.activity.is_none());
    }
}

#[test]
fn processing_pauses_while_too_much_waits_to_be_recorded() {
    let mut model = Model::new(0, false);
    for _ in 0..2_000 {
        model.answer(6);
    }
    assert_eq!((model.processed, model.activity.is_none()), (MAX_UNRECORDED, true));
    model.record(1);
    assert_eq!(model.activity, Some(Effect::Fetch));
}

#[test]
fn a_newer_attempt_outranks_a_cancel_and_a_cancel_a_shutdown() {
    let mut model = Model::new(0, false);
    for which in [0, 1, 0] {
        model.choose(&Choice::Stop(which));
    }
    model.answer(6);
    let end = RunEnd::Cancelled { reason: "enough".into() };
    assert_eq!(model.activity, Some(Effect::Seal { end, complete: None }));
    let mut model = Model::new(0, false);
    for which in [1, 3, 1] {
        model.choose(&Choice::Stop(which));
    }
    model.answer(6);
    assert!(model.run.ended() && model.seals == 0);
}
