//! `flowkit:worker@2.0.0-test.1`, as `wit/next/worker.wit` has it: a world that only tests
//! ask for.

use std::collections::VecDeque;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;
use wasmtime::component::{HasSelf, Linker};
use wasmtime::{Engine, Store};

use super::{Called, Functions, Shape};
use crate::handler::HandlerError;
use crate::plugin::context::Guest;
use crate::plugin::json::{self, Kind};
use crate::plugin::output::Level;
use bindings::exports::flowkit::worker::handler as wit;
use bindings::flowkit::worker::{host, types};
use bindings::{HandlerWorld, HandlerWorldPre};

mod bindings {
    wasmtime::component::bindgen!({
        path: "../wit/next",
        world: "handler-world",
        imports: {
            "flowkit:worker/host.pause": async | trappable,
            default: trappable,
        },
        exports: { default: async },
    });
}

/// Batches that are asked for at once.
const AT_ONCE: u32 = 16;

/// What is compared.
pub(super) const SHAPE: Shape = Shape {
    versions: "2.0.0-test.1",
    fits: |version| version == "2.0.0-test.1",
    handler: HANDLER,
    imports: &[("types", &[]), ("host", HOST)],
    link: |component| Ok(super::Linked::Next(Linked(HandlerWorldPre::new(component)?))),
};

const HANDLER: Functions = &[
    ("about", "func() -> string"),
    (
        "start",
        "func(run: string, input: string, checkpoint: option<string>) -> \
         result<variant { handler, adapter: string }, record { message: string, reason-code: string, \
         permanent: bool }>",
    ),
    (
        "batches",
        "func(most: u32) -> result<list<batch>, record { message: string, reason-code: string, \
         permanent: bool }>",
    ),
    (
        "process",
        "func(batch: batch) -> result<record { metrics: string, artifact: option<string>, \
         checkpoint: option<string> }, record { message: string, reason-code: string, permanent: \
         bool }>",
    ),
    (
        "finish",
        "func() -> result<record { metrics: string, payload: option<string> }, record { message: \
         string, reason-code: string, permanent: bool }>",
    ),
    ("stop", "func()"),
];

const HOST: Functions = &[
    ("stopping", "func() -> option<u32>"),
    ("pause", "func(ms: u32) -> bool"),
    ("totals", "func() -> string"),
    ("log", "func(level: enum { debug, info, warn, error }, message: string)"),
];

pub(super) fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    HandlerWorld::add_to_linker::<_, HasSelf<Guest>>(linker, |guest| guest)
}

/// A component of this version.
pub(in crate::plugin) struct Linked(HandlerWorldPre<Guest>);

impl Linked {
    pub(super) fn engine(&self) -> &Engine {
        self.0.engine()
    }
}

/// An instance of this version.
pub(in crate::plugin) struct World {
    world: HandlerWorld,
    started: bool,
    /// What `batches` gave and nobody has asked for yet.
    ahead: VecDeque<wit::Batch>,
}

/// A failure as an error of version 1: its meaning is in the detail.
fn failed(message: String, reason_code: &str, permanent: bool) -> HandlerError {
    let detail = json!({"reason_code": reason_code, "permanent": permanent});
    HandlerError { message, detail: Some(detail.to_string()) }
}

fn said<R>(returned: Result<R, wit::Failure>) -> Result<R, HandlerError> {
    returned.map_err(|failure| failed(failure.message, &failure.reason_code, failure.permanent))
}

fn bad_output(message: String) -> HandlerError {
    failed(message, "bad_output", true)
}

/// JSON that may stand inside of other JSON.
fn checked(what: &str, text: &str, must_be_object: bool) -> Result<(), HandlerError> {
    match json::check(text) {
        Ok(Kind::Other) if must_be_object => {
            Err(bad_output(format!("{what} is JSON that is not an object")))
        }
        Ok(_) => Ok(()),
        Err(error) => Err(bad_output(format!("{what} is not JSON: {error}"))),
    }
}

impl World {
    pub(super) async fn new(linked: &Linked, store: &mut Store<Guest>) -> wasmtime::Result<Self> {
        let world = linked.0.instantiate_async(store).await?;
        Ok(Self { world, started: false, ahead: VecDeque::new() })
    }

    fn handler(&self) -> &wit::Guest {
        self.world.flowkit_worker_handler()
    }

    pub(super) async fn describe(&self, store: &mut Store<Guest>) -> Called<String> {
        Ok(Ok(self.handler().call_about(store).await?))
    }

    /// Told by `start`.
    pub(super) async fn init(&self, _: &mut Store<Guest>, _: &str) -> Called<()> {
        Ok(Ok(()))
    }

    pub(super) async fn iter_batches(
        &mut self,
        store: &mut Store<Guest>,
        input: &str,
        checkpoint: Option<&str>,
    ) -> Called<Option<String>> {
        let run = store.data().run_info.clone().unwrap_or_default();
        let source = self.handler().call_start(store, &run, input, checkpoint).await?;
        self.started = source.is_ok();
        Ok(said(source).map(|source| match source {
            wit::Source::Handler => None,
            wit::Source::Adapter(proposal) => Some(proposal),
        }))
    }

    pub(super) async fn next_batch(
        &mut self,
        store: &mut Store<Guest>,
    ) -> Called<Option<(Option<String>, String)>> {
        if self.ahead.is_empty() {
            match said(self.handler().call_batches(store, AT_ONCE).await?) {
                Ok(batches) if batches.len() > AT_ONCE as usize => {
                    let given = batches.len();
                    let message = format!("batches gave {given} of them; {AT_ONCE} were wanted");
                    return Ok(Err(bad_output(message)));
                }
                Ok(batches) => self.ahead = batches.into(),
                Err(error) => return Ok(Err(error)),
            }
        }
        Ok(Ok(self.ahead.pop_front().map(|batch| (batch.uid, batch.payload))))
    }

    pub(super) async fn process_batch(
        &self,
        store: &mut Store<Guest>,
        uid: &str,
        payload: &str,
    ) -> Called<String> {
        let batch = wit::Batch { uid: Some(uid.to_owned()), payload: payload.to_owned() };
        let outcome = said(self.handler().call_process(&mut *store, &batch).await?);
        Ok(outcome.and_then(|outcome| {
            checked("a batch's metrics", &outcome.metrics, true)?;
            let guest = store.data_mut();
            if let Some(artifact) = &outcome.artifact {
                guest.keep_partial(uid, artifact).map_err(bad_output)?;
            }
            if let Some(checkpoint) = &outcome.checkpoint {
                guest.keep_checkpoint(checkpoint).map_err(bad_output)?;
            }
            Ok(format!(r#"{{"metrics":{}}}"#, outcome.metrics))
        }))
    }

    pub(super) async fn finalize(&self, store: &mut Store<Guest>) -> Called<String> {
        let done = said(self.handler().call_finish(store).await?);
        Ok(done.and_then(|done| {
            checked("the run's metrics", &done.metrics, true)?;
            let payload = done.payload.unwrap_or_else(|| "null".to_owned());
            checked("the run's payload", &payload, false)?;
            Ok(format!(r#"{{"metrics":{},"payload":{payload}}}"#, done.metrics))
        }))
    }

    /// What the failure itself said.
    pub(super) async fn classify_error(
        &self,
        _: &mut Store<Guest>,
        error: &HandlerError,
    ) -> Called<(String, bool)> {
        #[derive(Deserialize)]
        struct Meaning {
            reason_code: String,
            permanent: bool,
        }
        let meaning = error.detail.as_deref().map(serde_json::from_str::<Meaning>);
        Ok(match meaning {
            Some(Ok(meaning)) => Ok((meaning.reason_code, meaning.permanent)),
            _ => Err(error.clone()),
        })
    }

    pub(super) async fn cleanup(&mut self, store: &mut Store<Guest>) -> Called<()> {
        if std::mem::take(&mut self.started) {
            self.handler().call_stop(store).await?;
        }
        Ok(Ok(()))
    }
}

impl types::Host for Guest {}

impl host::Host for Guest {
    fn stopping(&mut self) -> wasmtime::Result<Option<u32>> {
        self.require_run("stopping")?;
        let now = Instant::now();
        let left = |deadline: Instant| deadline.saturating_duration_since(now).as_millis();
        let set = self.timing.cancellation(now);
        Ok(set.map(|set| u32::try_from(left(set.deadline)).unwrap_or(u32::MAX)))
    }

    async fn pause(&mut self, ms: u32) -> wasmtime::Result<bool> {
        self.require_run("pause")?;
        Ok(self.timing.sleep(Duration::from_millis(ms.into())).await)
    }

    fn totals(&mut self) -> wasmtime::Result<String> {
        self.require_run("totals")?;
        Ok(Value::Object(self.totals.to_object()).to_string())
    }

    fn log(&mut self, level: host::Level, message: String) -> wasmtime::Result<()> {
        let level = match level {
            host::Level::Debug => Level::Debug,
            host::Level::Info => Level::Info,
            host::Level::Warn => Level::Warn,
            host::Level::Error => Level::Error,
        };
        self.output.log(level, &message);
        Ok(())
    }
}
