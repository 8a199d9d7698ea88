//! Looks over a handler's shoulder: what its batches leave and its end, which the events of
//! a run do not carry.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use serde_json::{Map, Value};

use crate::handler::{
    AdapterProposal, Batch, BatchOutput, CallError, Classification, FaultCode, FinalOutput,
    Handler, HandlerError, Handlers, HostFault, OpenError, OpenRequest, Session, YieldedBatch,
};
use crate::metrics::Totals;
use crate::types::{BatchUid, Role};

/// Handlers whose sessions are watched.
pub struct Observed {
    handlers: Arc<dyn Handlers>,
    seen: Seen,
    has_upstream: bool,
}

/// What was seen. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Seen(Arc<Mutex<Sights>>);

#[derive(Debug, Default)]
struct Sights {
    partials: HashMap<BatchUid, Map<String, Value>>,
    payload: Option<Value>,
}

impl Seen {
    /// What a batch told downstream nodes; given once.
    pub fn take_partial(&self, uid: &BatchUid) -> Option<Map<String, Value>> {
        self.sights().partials.remove(uid)
    }

    /// The payload that `finalize` returned.
    pub fn payload(&self) -> Option<Value> {
        self.sights().payload.clone()
    }

    fn sights(&self) -> MutexGuard<'_, Sights> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observed {
    /// Watches the sessions of `handlers`. Without upstream nodes a handler that asks for
    /// their batches is told so; it would wait for them for ever.
    pub fn new(handlers: Arc<dyn Handlers>, has_upstream: bool) -> (Self, Seen) {
        let seen = Seen::default();
        (Self { handlers, seen: seen.clone(), has_upstream }, seen)
    }
}

#[async_trait]
impl Handlers for Observed {
    fn roles(&self) -> Vec<Role> {
        self.handlers.roles()
    }

    async fn choose(
        &self,
        role: &Role,
        began_with: Option<&str>,
    ) -> Result<Arc<dyn Handler>, OpenError> {
        let handler = self.handlers.choose(role, began_with).await?;
        let (seen, has_upstream) = (self.seen.clone(), self.has_upstream);
        Ok(Arc::new(ObservedHandler { handler, seen, has_upstream }))
    }
}

struct ObservedHandler {
    handler: Arc<dyn Handler>,
    seen: Seen,
    has_upstream: bool,
}

#[async_trait]
impl Handler for ObservedHandler {
    fn digest(&self) -> &str {
        self.handler.digest()
    }

    async fn open(&self, request: OpenRequest) -> Result<Box<dyn Session>, OpenError> {
        let session = self.handler.open(request).await?;
        let (seen, has_upstream) = (self.seen.clone(), self.has_upstream);
        Ok(Box::new(ObservedSession { session, seen, has_upstream }))
    }
}

struct ObservedSession {
    session: Box<dyn Session>,
    seen: Seen,
    has_upstream: bool,
}

#[async_trait]
impl Session for ObservedSession {
    async fn init(&mut self) -> Result<(), CallError> {
        self.session.init().await
    }

    async fn iter_batches(
        &mut self,
        input: &str,
        checkpoint: Option<&str>,
    ) -> Result<Option<AdapterProposal>, CallError> {
        let proposal = self.session.iter_batches(input, checkpoint).await?;
        match proposal {
            Some(asked) if !self.has_upstream && asked.input_adapter.starts_with("pull.") => {
                let message = format!(
                    "the handler asks for `{}`, which reads what upstream nodes left; give their \
                     batches with --upstream FILE, or run it in a graph",
                    asked.input_adapter
                );
                Err(CallError::Rejected(HostFault { code: FaultCode::BadInputAdapter, message }))
            }
            proposal => Ok(proposal),
        }
    }

    async fn next_batch(&mut self) -> Result<Option<YieldedBatch>, CallError> {
        self.session.next_batch().await
    }

    async fn process_batch(
        &mut self,
        batch: &Batch,
        totals: &Totals,
    ) -> Result<BatchOutput, CallError> {
        let output = self.session.process_batch(batch, totals).await?;
        if let Some(partial) = &output.partial {
            self.seen.sights().partials.insert(batch.uid.clone(), partial.clone());
        }
        Ok(output)
    }

    async fn finalize(&mut self, totals: &Totals) -> Result<FinalOutput, CallError> {
        let output = self.session.finalize(totals).await?;
        self.seen.sights().payload.clone_from(&output.payload);
        Ok(output)
    }

    async fn classify_error(&mut self, error: &HandlerError) -> Result<Classification, CallError> {
        self.session.classify_error(error).await
    }

    async fn cleanup(&mut self) -> Result<(), CallError> {
        self.session.cleanup().await
    }
}
