//! `flowkit:worker@1.x`, as `wit/worker.wit` has it.

use wasmtime::{Engine, Store};

use super::{Called, Functions, Shape};
use crate::handler::HandlerError;
use crate::plugin::bindings::exports::flowkit::worker::handler as wit;
use crate::plugin::bindings::{HandlerWorld, HandlerWorldPre};
use crate::plugin::context::Guest;

/// What is compared.
pub(super) const SHAPE: Shape = Shape {
    versions: "1.0.0 to 1.1.0",
    fits,
    handler: HANDLER,
    imports: &[("types", &[]), ("host", HOST), ("documents", DOCUMENTS)],
    link: |component| Ok(super::Linked::V1(Linked(HandlerWorldPre::new(component)?))),
};

/// Inside 1.x only imports and interfaces are added, so any 1.x export fits.
fn fits(version: &str) -> bool {
    version.starts_with("1.") && !version.contains('-')
}

const HANDLER: Functions = &[
    ("describe", "func() -> result<string, handler-error>"),
    ("init", "func(run-info: string) -> result<_, handler-error>"),
    (
        "iter-batches",
        "func(input: string, checkpoint: option<string>) -> result<option<string>, handler-error>",
    ),
    ("next-batch", "func() -> result<option<batch>, handler-error>"),
    ("process-batch", "func(batch: batch) -> result<string, handler-error>"),
    ("finalize", "func() -> result<string, handler-error>"),
    ("classify-error", "func(error: handler-error) -> result<classification, handler-error>"),
    ("cleanup", "func() -> result<_, handler-error>"),
];

const HOST: Functions = &[
    ("run-info", "func() -> string"),
    ("cancelled", "func() -> option<cancellation>"),
    ("sleep", "func(ms: u32) -> bool"),
    ("save-checkpoint", "func(checkpoint: string) -> result<_, handler-error>"),
    ("upsert-partial", "func(batch-uid: string, meta: string) -> result<_, handler-error>"),
    ("run-totals", "func() -> string"),
    ("log", "func(level: string, message: string)"),
    ("metric", "func(kind: string, name: string, value: f64)"),
];

const DOCUMENTS: Functions = &[
    ("open", "func(collection: string, query: string) -> result<u32, handler-error>"),
    ("next", "func(cursor: u32) -> result<option<string>, handler-error>"),
    ("close", "func(cursor: u32)"),
];

/// A component of this version.
pub(in crate::plugin) struct Linked(HandlerWorldPre<Guest>);

impl Linked {
    pub(super) fn engine(&self) -> &Engine {
        self.0.engine()
    }
}

/// An instance of this version.
pub(in crate::plugin) struct World(HandlerWorld);

fn said<R>(returned: Result<R, wit::HandlerError>) -> Result<R, HandlerError> {
    returned.map_err(|error| HandlerError { message: error.message, detail: error.detail })
}

impl World {
    pub(super) async fn new(linked: &Linked, store: &mut Store<Guest>) -> wasmtime::Result<Self> {
        Ok(Self(linked.0.instantiate_async(store).await?))
    }

    fn handler(&self) -> &wit::Guest {
        self.0.flowkit_worker_handler()
    }

    pub(super) async fn describe(&self, store: &mut Store<Guest>) -> Called<String> {
        Ok(said(self.handler().call_describe(store).await?))
    }

    pub(super) async fn init(&self, store: &mut Store<Guest>, info: &str) -> Called<()> {
        Ok(said(self.handler().call_init(store, info).await?))
    }

    pub(super) async fn iter_batches(
        &self,
        store: &mut Store<Guest>,
        input: &str,
        checkpoint: Option<&str>,
    ) -> Called<Option<String>> {
        Ok(said(self.handler().call_iter_batches(store, input, checkpoint).await?))
    }

    pub(super) async fn next_batch(
        &self,
        store: &mut Store<Guest>,
    ) -> Called<Option<(Option<String>, String)>> {
        let batch = said(self.handler().call_next_batch(store).await?);
        Ok(batch.map(|batch| batch.map(|batch| (batch.uid, batch.payload))))
    }

    pub(super) async fn process_batch(
        &self,
        store: &mut Store<Guest>,
        uid: &str,
        payload: &str,
    ) -> Called<String> {
        let batch = wit::Batch { uid: Some(uid.to_owned()), payload: payload.to_owned() };
        Ok(said(self.handler().call_process_batch(store, &batch).await?))
    }

    pub(super) async fn finalize(&self, store: &mut Store<Guest>) -> Called<String> {
        Ok(said(self.handler().call_finalize(store).await?))
    }

    pub(super) async fn classify_error(
        &self,
        store: &mut Store<Guest>,
        error: &HandlerError,
    ) -> Called<(String, bool)> {
        let HandlerError { message, detail } = error.clone();
        let error = wit::HandlerError { message, detail };
        let class = said(self.handler().call_classify_error(store, &error).await?);
        Ok(class.map(|class| (class.reason_code, class.permanent)))
    }

    pub(super) async fn cleanup(&self, store: &mut Store<Guest>) -> Called<()> {
        Ok(said(self.handler().call_cleanup(store).await?))
    }
}
