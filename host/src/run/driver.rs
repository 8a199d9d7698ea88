//! Performs a run's effects: one activity at a time, records beside it, and an ear for
//! whoever wants the run to stop.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::{mpsc, watch};

use super::lease::Lease;
use super::opening::Opening;
use super::slot::Slot;
use super::state::{Effect, Finished, Input, Run, Start, Stop, StopCause};
use super::voice::{Silenced, Voice};
use super::wait::{Boxed, Pulled, lease_ended, pull, ready};
use super::{Deps, ending, opening, recorder};
use crate::handler::{CancelFlag, Handler, OpenRequest, RunInfo, Session};
use crate::input::artifacts::ArtifactSource;
use crate::input::{Source, SourceRules};
use crate::protocol::RunState;
use crate::store::{Progress, RunRecord};
use crate::uids::UidSet;

/// A run that this worker has acquired.
pub struct RunTask {
    /// As acquired: its owner is this worker.
    pub record: RunRecord,
    /// The lease, as the worker renews it.
    pub lease: watch::Receiver<Lease>,
    /// Requests to stop.
    pub stops: mpsc::Receiver<Stop>,
    /// What it may work with.
    pub slot: Slot,
    /// It was cancelled before it began.
    pub cancelled: Option<Stop>,
    /// How long to wait before anything is said.
    pub delay: Duration,
    /// Where it shows how it is.
    pub view: watch::Sender<RunView>,
}

/// How a run is, for discovery and `status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunView {
    /// What it is doing.
    pub state: RunState,
    /// Batches finished.
    pub finished: u64,
    /// Heartbeats may be sent: the run was announced, and its end is not being written.
    pub beats: bool,
    /// The run is still this worker's to speak for: not lost, and its end is not yet said.
    pub owned: bool,
}

/// How a run was left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Ended, released, or lost to somebody else.
    Over,
    /// It has to wait for upstream data and too many runs here do: it was released.
    Crowded,
    /// The bus or the store refuses something for good: why.
    Refused(String),
}

/// Takes a run to its end, or to where it must be left to somebody else.
pub async fn drive(deps: Deps, task: RunTask) -> Outcome {
    let key = task.record.new.key.clone();
    let Some(voice) = Voice::of(deps, &task.record, task.lease.clone()) else {
        return Outcome::Refused("the run was started without an owner".into());
    };
    tokio::time::sleep(task.delay).await;
    let driven = match &task.record.end {
        Some(end) => ending::send(&voice, end).await.map(|()| Outcome::Over),
        None => match opening::finished_uids(&voice, &task.record.progress).await {
            Ok(finished) => Driver::new(voice, task, finished).run().await,
            Err(silenced) => Err(silenced),
        },
    };
    match driven {
        Ok(outcome) => outcome,
        Err(Silenced::LeaseLost) => {
            tracing::warn!(run = %key, "stopped: the run's lease is lost");
            Outcome::Over
        }
        Err(Silenced::Refused(problem)) => {
            tracing::error!(run = %key, problem, "the run is left to another try");
            Outcome::Refused(problem)
        }
    }
}

struct Driver {
    voice: Voice,
    run: Run,
    record: RunRecord,
    lease: watch::Receiver<Lease>,
    stops: mpsc::Receiver<Stop>,
    slot: Slot,
    view: watch::Sender<RunView>,
    flag: CancelFlag,
    finished: Arc<UidSet>,
    handler: Option<Arc<dyn Handler>>,
    session: Option<Box<dyn Session>>,
    source: Option<Box<ArtifactSource>>,
    activity: Option<Boxed<Done>>,
    queue: Vec<Finished>,
    recording: Option<Boxed<Result<u64, Silenced>>>,
    reported: u64,
    silenced: Option<Silenced>,
    crowded: bool,
}

/// What an activity leaves: its answer, and what it worked with.
struct Done {
    input: Input,
    opening: Option<Opening>,
    session: Option<Box<dyn Session>>,
    source: Option<Box<ArtifactSource>>,
    silenced: Option<Silenced>,
    reported: Option<u64>,
    crowded: bool,
}

impl Done {
    fn of(input: Input) -> Self {
        Self {
            input,
            opening: None,
            session: None,
            source: None,
            silenced: None,
            reported: None,
            crowded: false,
        }
    }

    fn with(input: Input, session: Box<dyn Session>) -> Self {
        Self { session: Some(session), ..Self::of(input) }
    }
}

/// What the driver waits for.
enum Wake {
    Stop(Stop),
    LeaseEnded,
    Recorded(Result<u64, Silenced>),
    Done(Box<Done>),
}

impl Driver {
    fn new(voice: Voice, task: RunTask, finished: UidSet) -> Self {
        let finished = Arc::new(finished);
        let settings = &voice.deps.settings;
        let run = Run::start(Start {
            record: &task.record,
            finished: finished.clone(),
            rules: SourceRules(settings.pull.clone()),
            max_attempts: settings.max_attempts,
            cancelled: task.cancelled,
        });
        Self {
            run,
            reported: task.record.progress.reported,
            record: task.record,
            lease: task.lease,
            stops: task.stops,
            slot: task.slot,
            view: task.view,
            flag: CancelFlag::default(),
            finished,
            handler: None,
            session: None,
            source: None,
            activity: None,
            queue: Vec::new(),
            recording: None,
            silenced: None,
            crowded: false,
            voice,
        }
    }

    async fn run(mut self) -> Result<Outcome, Silenced> {
        self.perform(Effect::Announce);
        while !self.run.ended() {
            let wake = self.next().await;
            for input in self.inputs(wake) {
                for effect in self.run.step(input) {
                    self.perform(effect);
                }
            }
            self.show();
            self.start_recording();
        }
        match self.silenced {
            Some(silenced) => Err(silenced),
            None if self.crowded => Ok(Outcome::Crowded),
            None => Ok(Outcome::Over),
        }
    }

    async fn next(&mut self) -> Wake {
        let bound = self.silenced.is_none() && self.run.needs_lease();
        // Cancel-safe: receiving and watching lose nothing when dropped, and the two
        // futures are kept and polled again.
        tokio::select! {
            biased;
            Some(stop) = self.stops.recv() => Wake::Stop(stop),
            () = lease_ended(&mut self.lease), if bound => Wake::LeaseEnded,
            recorded = ready(&mut self.recording) => Wake::Recorded(recorded),
            done = ready(&mut self.activity) => Wake::Done(Box::new(done)),
        }
    }

    fn inputs(&mut self, wake: Wake) -> Vec<Input> {
        match wake {
            Wake::Stop(stop) => vec![Input::Stop(stop)],
            Wake::LeaseEnded => vec![self.silence(Silenced::LeaseLost)],
            Wake::Recorded(Ok(finished)) => {
                self.recording = None;
                self.reported = finished;
                vec![Input::Recorded { finished }]
            }
            Wake::Recorded(Err(silenced)) => {
                self.recording = None;
                vec![self.silence(silenced)]
            }
            Wake::Done(done) => {
                self.activity = None;
                let Done { input, opening, session, source, silenced, reported, crowded } = *done;
                if let Some(Opening { handler, served_by, .. }) = opening {
                    self.handler = handler.ok();
                    self.voice.served_by = served_by;
                }
                self.session = self.session.take().or(session);
                self.source = self.source.take().or(source);
                self.reported = reported.unwrap_or(self.reported);
                if crowded {
                    self.crowded = true;
                    return vec![self.make_room()];
                }
                silenced.map(|why| self.silence(why)).into_iter().chain([input]).collect()
            }
        }
    }

    /// From here on nothing is written or sent for the run.
    fn silence(&mut self, why: Silenced) -> Input {
        self.silenced = Some(why);
        self.recording = None;
        self.queue.clear();
        let deadline = self.voice.deps.clock.now() + self.voice.deps.settings.cancel_grace;
        Input::Stop(Stop { cause: StopCause::LeaseLost, deadline })
    }

    /// Leaves the run to somebody else, as a worker that stops would.
    fn make_room(&self) -> Input {
        let deadline = self.voice.deps.clock.now() + self.voice.deps.settings.cancel_grace;
        Input::Stop(Stop { cause: StopCause::Shutdown, deadline })
    }

    fn show(&self) {
        let now = RunView {
            state: self.run.state(),
            finished: self.run.progress().finished,
            beats: self.run.beats(),
            owned: self.run.needs_lease(),
        };
        self.view.send_if_modified(|view| std::mem::replace(view, now) != now);
    }

    /// Everything processed up to now, as one group.
    fn start_recording(&mut self) {
        if self.recording.is_some() || self.queue.is_empty() || self.run.abandoned() {
            return;
        }
        let progress = self.progress();
        let group = std::mem::take(&mut self.queue);
        self.recording = Some(Box::pin(recorder::record(self.voice.clone(), group, progress)));
    }

    /// What the record is to say: the run was announced before anything else was done.
    fn progress(&self) -> Progress {
        Progress { accepted: true, reported: self.reported, ..self.run.progress().clone() }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Record(finished) => self.queue.push(*finished),
            Effect::RaiseFlag(cancellation) => self.flag.cancel(cancellation),
            Effect::AbandonFetch => self.activity = None,
            Effect::UseSource(source) => self.use_source(source),
            Effect::Announce => self.announce(),
            Effect::Open => self.open(),
            Effect::Fetch => self.fetch(),
            Effect::Seal { end, complete } => {
                let voice = self.voice.clone();
                self.last_words(async move { ending::seal(&voice, &end, complete).await });
            }
            Effect::Release => {
                let (voice, progress) = (self.voice.clone(), self.progress());
                self.last_words(async move { ending::release(&voice, &progress).await });
            }
            Effect::Init => self.call(|mut session| async move {
                Done::with(Input::Initialised(session.init().await), session)
            }),
            Effect::IterBatches { checkpoint } => self.iter_batches(checkpoint),
            Effect::Process(batch) => {
                let totals = self.run.totals().clone();
                let flag = self.flag.clone();
                self.call(|mut session| async move {
                    let result = session.process_batch(&batch, &totals).await;
                    let saw_cancel = flag.observed();
                    Done::with(Input::Processed { result, saw_cancel }, session)
                });
            }
            Effect::Finalize => {
                let totals = self.run.totals().clone();
                self.call(|mut session| async move {
                    Done::with(Input::Finalized(session.finalize(&totals).await), session)
                });
            }
            Effect::Classify(error) => self.call(|mut session| async move {
                Done::with(Input::Classified(session.classify_error(&error).await), session)
            }),
            Effect::Cleanup => self.call(|mut session| async move {
                if let Err(error) = session.cleanup().await {
                    tracing::warn!(%error, "cleanup failed");
                }
                Done::with(Input::Cleaned, session)
            }),
        }
    }

    /// One call of the handler.
    fn call<Called>(&mut self, call: impl FnOnce(Box<dyn Session>) -> Called)
    where
        Called: Future<Output = Done> + Send + 'static,
    {
        let session = self.session.take().expect("the state machine opened a session first");
        self.activity = Some(Box::pin(call(session)));
    }

    fn iter_batches(&mut self, checkpoint: Option<String>) {
        let input = &self.record.new.input;
        let input = json!({
            "input_ref": input.input_ref,
            "input_inline": input.input_inline,
            "batching": input.batching,
        })
        .to_string();
        self.call(|mut session| async move {
            let began = session.iter_batches(&input, checkpoint.as_deref()).await;
            Done::with(Input::Began(began), session)
        });
    }

    fn announce(&mut self) {
        let cancelled = self.run.state() == RunState::Cancelling;
        let words = opening::begin(self.voice.clone(), self.record.progress.clone(), cancelled);
        self.activity = Some(Box::pin(async move {
            let opening = words.await;
            let mut done = Done::of(Input::Announced(opening.digest()));
            match &opening.said {
                Ok(reported) => done.reported = Some(*reported),
                Err(silenced) => done.silenced = Some(silenced.clone()),
            }
            done.opening = Some(opening);
            done
        }));
    }

    fn open(&mut self) {
        let handler = self.handler.clone().expect("the state machine opens what was chosen");
        let address = &self.voice.address;
        let request = OpenRequest {
            info: RunInfo {
                task_id: address.key.task_id.clone(),
                node_id: address.key.node_id.clone(),
                role: address.role.clone(),
                attempt_epoch: address.epoch,
                worker_id: self.voice.owner.worker_id.clone(),
                resumed: self.record.progress.accepted,
            },
            cancel: self.flag.clone(),
        };
        self.activity = Some(Box::pin(async move {
            match handler.open(request).await {
                Ok(session) => Done::with(Input::Opened(Ok(())), session),
                Err(error) => Done::of(Input::Opened(Err(error))),
            }
        }));
    }

    fn use_source(&mut self, source: Source) {
        if let Source::Artifacts(pull) = source {
            self.source = Some(Box::new(ArtifactSource::new(
                self.voice.deps.store.clone(),
                self.voice.deps.clock.clone(),
                self.voice.address.key.clone(),
                pull,
                self.finished.clone(),
            )));
        }
    }

    fn fetch(&mut self) {
        let Some(mut source) = self.source.take() else {
            return self.call(|mut session| async move {
                Done::with(Input::Fetched(session.next_batch().await), session)
            });
        };
        let voice = self.voice.clone();
        let slot = self.slot.clone();
        self.activity = Some(Box::pin(async move {
            let (batch, silenced, crowded) = match pull(&voice, &mut source, &slot).await {
                Ok(Pulled::Batch(batch)) => (Some(batch), None, false),
                Ok(Pulled::End) => (None, None, false),
                Ok(Pulled::Crowded) => (None, None, true),
                Err(silenced) => (None, Some(silenced), false),
            };
            let input = Input::Fetched(Ok(batch));
            Done { source: Some(source), silenced, crowded, ..Done::of(input) }
        }));
    }

    /// The last activity that speaks for the run.
    fn last_words(&mut self, words: impl Future<Output = Result<(), Silenced>> + Send + 'static) {
        self.activity = Some(Box::pin(async move {
            Done { silenced: words.await.err(), ..Done::of(Input::Sealed) }
        }));
    }
}
