//! A handler that does what a test tells it, and notes what was asked of it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use flowkit::handler::*;
use flowkit::metrics::{Metrics, Totals};
use flowkit::store::memory::MemoryStore;
use flowkit::store::{ArtifactStore as _, RunStore as _};
use flowkit::types::{BatchUid, Role, RunKey};
use serde_json::{Map, Value, json};
use tokio::sync::watch;

/// What the handler of one node does.
#[derive(Clone)]
pub struct Plan {
    /// What `next-batch` yields: a name, or none, and a payload.
    pub batches: Vec<(Option<String>, Value)>,
    /// How long each `process-batch` takes.
    pub takes: Duration,
    /// What some batches do instead of succeeding.
    pub quirks: BTreeMap<String, Quirk>,
    /// Each batch saves a checkpoint, and `iter-batches` goes on from it.
    pub checkpoints: bool,
    /// What `upsert-partial` is called with.
    pub partial: Option<Value>,
    /// What `iter-batches` proposes.
    pub proposal: Option<AdapterProposal>,
    /// Which call, if any, gives an error.
    pub error_in: Option<&'static str>,
    /// What opening gives instead of a session.
    pub open: Option<OpenError>,
    /// What `classify-error` says.
    pub class: (String, bool),
}

/// What a batch does instead of succeeding.
#[derive(Clone)]
pub enum Quirk {
    /// Returns an error.
    Fail(&'static str),
    /// Kills its instance.
    Die(FaultCode),
    /// Returns something unusable.
    Reject(FaultCode),
    /// Waits for the flag, sees it, and returns half of its work as if it were all.
    Heed,
    /// Never looks at the flag and ends only by interruption.
    Hang,
}

impl Plan {
    /// Batches `b0`, `b1`, ... of 10 ms.
    pub fn of(batches: usize) -> Self {
        Self {
            batches: (0..batches).map(|i| (Some(format!("b{i}")), json!({ "i": i }))).collect(),
            takes: Duration::from_millis(10),
            quirks: BTreeMap::new(),
            checkpoints: false,
            partial: None,
            proposal: None,
            error_in: None,
            open: None,
            class: ("told_so".into(), false),
        }
    }

    pub fn taking(mut self, takes: Duration) -> Self {
        self.takes = takes;
        self
    }

    pub fn with_checkpoints(mut self) -> Self {
        self.checkpoints = true;
        self
    }

    pub fn quirk(mut self, uid: &str, quirk: Quirk) -> Self {
        self.quirks.insert(uid.into(), quirk);
        self
    }
}

/// All plans, and what was asked of their handlers. Clones share both.
#[derive(Clone, Default)]
pub struct Script(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    roles: Vec<Role>,
    plans: HashMap<String, Plan>,
    calls: Vec<Call>,
    watched: Option<MemoryStore>,
    violations: Vec<String>,
    digest: String,
    kept: Vec<String>,
    changed: watch::Sender<()>,
    limits: BTreeMap<Role, usize>,
}

/// One call of a handler.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    pub worker: String,
    pub node: String,
    pub epoch: u32,
    pub what: String,
}

impl Script {
    pub fn new(roles: &[&str]) -> Self {
        let script = Self::default();
        script.0.lock().unwrap().roles = roles.iter().map(|r| Role::new(*r).unwrap()).collect();
        script.swap("d1", &[]);
        script
    }

    /// From now on `digest` serves all roles; the versions in `kept` serve what began with
    /// them.
    pub fn swap(&self, digest: &str, kept: &[&str]) {
        let mut inner = self.0.lock().unwrap();
        inner.digest = digest.into();
        inner.kept = kept.iter().map(ToString::to_string).collect();
        inner.changed.send_replace(());
    }

    /// From now on a worker may have no more runs of a role at once.
    pub fn limit(&self, role: &str, runs: usize) {
        let mut inner = self.0.lock().unwrap();
        inner.limits.insert(Role::new(role).unwrap(), runs);
        inner.changed.send_replace(());
    }

    /// From now on it serves these roles.
    pub fn serve(&self, roles: &[&str]) {
        let mut inner = self.0.lock().unwrap();
        inner.roles = roles.iter().map(|r| Role::new(*r).unwrap()).collect();
        inner.changed.send_replace(());
    }

    pub fn plan(&self, node: &str, plan: Plan) {
        self.0.lock().unwrap().plans.insert(node.into(), plan);
    }

    /// From now on each batch is checked against the record before it is processed.
    pub fn watch(&self, store: &MemoryStore) {
        self.0.lock().unwrap().watched = Some(store.clone());
    }

    /// Batches that were processed although the record called them finished.
    pub fn violations(&self) -> Vec<String> {
        self.0.lock().unwrap().violations.clone()
    }

    pub fn calls(&self) -> Vec<Call> {
        self.0.lock().unwrap().calls.clone()
    }

    /// What was asked of a node's handlers, in order.
    pub fn of(&self, node: &str) -> Vec<String> {
        self.calls().into_iter().filter(|c| c.node == node).map(|c| c.what).collect()
    }

    /// How often this was asked of a node's handlers.
    pub fn count(&self, node: &str, what: &str) -> usize {
        self.of(node).iter().filter(|w| *w == what).count()
    }
}

#[async_trait]
impl Handlers for Script {
    fn roles(&self) -> Vec<Role> {
        self.0.lock().unwrap().roles.clone()
    }

    fn changes(&self) -> Option<watch::Receiver<()>> {
        Some(self.0.lock().unwrap().changed.subscribe())
    }

    fn concurrency(&self, role: &Role) -> Option<usize> {
        self.0.lock().unwrap().limits.get(role).copied()
    }

    fn digests(&self) -> BTreeMap<Role, String> {
        let inner = self.0.lock().unwrap();
        inner.roles.iter().map(|role| (role.clone(), inner.digest.clone())).collect()
    }

    async fn choose(
        &self,
        role: &Role,
        began_with: Option<&str>,
    ) -> Result<Arc<dyn Handler>, OpenError> {
        let inner = self.0.lock().unwrap();
        if !inner.roles.contains(role) {
            return Err(OpenError::NoHandler(role.clone()));
        }
        let kept = began_with.filter(|digest| inner.kept.iter().any(|kept| kept == digest));
        let digest = kept.unwrap_or(&inner.digest).to_owned();
        Ok(Arc::new(Version { script: self.clone(), digest }))
    }
}

/// One version of the script: it does the same as every other one.
struct Version {
    script: Script,
    digest: String,
}

#[async_trait]
impl Handler for Version {
    fn digest(&self) -> &str {
        &self.digest
    }

    async fn open(&self, request: OpenRequest) -> Result<Box<dyn Session>, OpenError> {
        let node = request.info.node_id.to_string();
        let plan = self.script.0.lock().unwrap().plans.get(&node).cloned();
        let plan = plan.unwrap_or_else(|| Plan::of(3));
        let session = Scripted { script: self.script.clone(), request, plan, next: 0 };
        session.note("open".into());
        match &session.plan.open {
            Some(error) => Err(error.clone()),
            None => Ok(Box::new(session)),
        }
    }
}

struct Scripted {
    script: Script,
    request: OpenRequest,
    plan: Plan,
    next: usize,
}

impl Scripted {
    fn note(&self, what: String) {
        let info = &self.request.info;
        self.script.0.lock().unwrap().calls.push(Call {
            worker: info.worker_id.to_string(),
            node: info.node_id.to_string(),
            epoch: info.attempt_epoch.0,
            what,
        });
    }

    fn answer(&self, call: &'static str) -> Result<(), CallError> {
        if self.plan.error_in == Some(call) {
            let error = HandlerError { message: format!("{call} failed"), detail: None };
            return Err(CallError::Handler(error));
        }
        Ok(())
    }

    async fn spend(&self, time: Duration) -> Result<(), CallError> {
        // Cancel-safe: both sides only wait.
        tokio::select! {
            biased;
            () = self.request.cancel.wait_overdue() => Err(CallError::Interrupted),
            () = tokio::time::sleep(time) => Ok(()),
        }
    }

    /// Finished is finished, for whoever owns the run.
    async fn check(&self, batch: &Batch) {
        let store = self.script.0.lock().unwrap().watched.clone();
        let info = &self.request.info;
        let key = RunKey { task_id: info.task_id.clone(), node_id: info.node_id.clone() };
        let Some(store) = store else { return };
        let Some(record) = store.run(&key).await.unwrap() else { return };
        let ours = record.owner.as_ref().is_some_and(|owner| owner.worker_id == info.worker_id);
        if !ours || record.new.epoch != info.attempt_epoch {
            return;
        }
        let range = 0..record.progress.finished;
        let finished = store.finished(&key, info.attempt_epoch, range, usize::MAX).await.unwrap();
        if finished.iter().any(|known| known.batch_uid == batch.uid) {
            let violation = format!("{info:?} processes {} again", batch.uid);
            self.script.0.lock().unwrap().violations.push(violation);
        }
    }

    fn output(&self, batch: &Batch) -> BatchOutput {
        let index = self
            .plan
            .batches
            .iter()
            .position(|(uid, _)| uid.as_deref() == Some(batch.uid.as_str()));
        BatchOutput {
            metrics: metrics(json!({"rows": 1})),
            partial: self.plan.partial.as_ref().map(object),
            checkpoint: (self.plan.checkpoints && index.is_some())
                .then(|| json!({"next": index.unwrap() + 1}).to_string()),
        }
    }
}

pub fn object(value: &Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

pub fn metrics(value: Value) -> Metrics {
    Metrics::new(object(&value)).unwrap()
}

fn fault(code: FaultCode) -> HostFault {
    HostFault { code, message: format!("as scripted: {code}") }
}

#[async_trait]
impl Session for Scripted {
    async fn init(&mut self) -> Result<(), CallError> {
        self.note("init".into());
        self.answer("init")
    }

    async fn iter_batches(
        &mut self,
        _input: &str,
        checkpoint: Option<&str>,
    ) -> Result<Option<AdapterProposal>, CallError> {
        self.note(format!("iter {}", checkpoint.unwrap_or("-")));
        if let Some(checkpoint) = checkpoint.filter(|_| self.plan.checkpoints) {
            let checkpoint: Value = serde_json::from_str(checkpoint).unwrap();
            self.next = usize::try_from(checkpoint["next"].as_u64().unwrap()).unwrap();
        }
        self.answer("iter").map(|()| self.plan.proposal.clone())
    }

    async fn next_batch(&mut self) -> Result<Option<YieldedBatch>, CallError> {
        self.answer("next")?;
        let Some((uid, payload)) = self.plan.batches.get(self.next) else { return Ok(None) };
        self.next += 1;
        let uid = uid.as_ref().map(|uid| BatchUid::new(uid.as_str()).unwrap());
        Ok(Some(YieldedBatch { uid, payload: payload.to_string() }))
    }

    async fn process_batch(
        &mut self,
        batch: &Batch,
        _totals: &Totals,
    ) -> Result<BatchOutput, CallError> {
        self.note(format!("process {}", batch.uid));
        self.check(batch).await;
        match self.plan.quirks.get(batch.uid.as_str()) {
            Some(Quirk::Hang) => self.spend(Duration::from_secs(86_400)).await?,
            Some(Quirk::Heed) => {
                self.request.cancel.wait().await;
                self.request.cancel.observe();
            }
            Some(Quirk::Fail(message)) => {
                self.spend(self.plan.takes).await?;
                let error = HandlerError { message: (*message).into(), detail: None };
                return Err(CallError::Handler(error));
            }
            Some(Quirk::Die(code)) => return Err(CallError::Dead(fault(*code))),
            Some(Quirk::Reject(code)) => return Err(CallError::Rejected(fault(*code))),
            None => self.spend(self.plan.takes).await?,
        }
        Ok(self.output(batch))
    }

    async fn finalize(&mut self, totals: &Totals) -> Result<FinalOutput, CallError> {
        self.note(format!("finalize {}", Value::Object(totals.to_object())));
        self.answer("finalize")?;
        Ok(FinalOutput { metrics: metrics(json!({"final": 1})), payload: Some(json!("all")) })
    }

    async fn classify_error(&mut self, error: &HandlerError) -> Result<Classification, CallError> {
        self.note(format!("classify {}", error.message));
        let (reason_code, permanent) = self.plan.class.clone();
        Ok(Classification { reason_code, permanent })
    }

    async fn cleanup(&mut self) -> Result<(), CallError> {
        self.note("cleanup".into());
        Ok(())
    }
}
