//! The first words of an owner: that it has the run, and what its predecessor may not have
//! got out.

use std::ops::Range;
use std::sync::Arc;

use super::voice::{Silenced, Voice};
use crate::handler::{Handler, OpenError};
use crate::protocol::{Null, RunEvent, ServedBy};
use crate::store::{FinishedBatch, Progress};
use crate::uids::UidSet;

/// Finished batches read, or events sent, at a time.
const PAGE: usize = 256;

/// What the first words left behind.
pub struct Opening {
    /// The version of the plugin that serves the run from now on.
    pub handler: Result<Arc<dyn Handler>, OpenError>,
    /// What its events say of it.
    pub served_by: ServedBy,
    /// How many batches are reported now.
    pub said: Result<u64, Silenced>,
}

impl Opening {
    /// The digest of the version that was chosen.
    pub fn digest(&self) -> Result<String, OpenError> {
        self.handler.as_ref().map(|handler| handler.digest().to_owned()).map_err(Clone::clone)
    }
}

/// Chooses the plugin's version, and announces the run as served by it. One that is
/// `cancelled` already only gets its answer: no kept version is loaded for it.
pub async fn begin(mut voice: Voice, progress: Progress, cancelled: bool) -> Opening {
    let began_with = progress.digest.as_deref();
    let (handlers, role) = (&voice.deps.handlers, &voice.address.role);
    let handler = handlers.choose(role, began_with.filter(|_| !cancelled)).await;
    let mut served_by = ServedBy { digest: progress.digest.clone(), before: None };
    if let Ok(handler) = &handler
        && !cancelled
    {
        let digest = handler.digest();
        served_by.digest = Some(digest.to_owned());
        served_by.before = progress.digest.clone().filter(|before| before != digest);
        log_choice(&voice, &served_by);
    }
    voice.served_by = served_by.clone();
    let said = announce(&voice, &progress).await.map(|progress| progress.reported);
    Opening { handler, served_by, said }
}

fn log_choice(voice: &Voice, served_by: &ServedBy) {
    let (run, role) = (&voice.address.key, &voice.address.role);
    let digest = served_by.digest.as_deref().unwrap_or_default();
    match &served_by.before {
        None => tracing::debug!(%run, %role, plugin_digest = digest, "the run's plugin"),
        Some(before) => tracing::warn!(
            %run,
            %role,
            plugin_digest = digest,
            plugin_digest_before = before,
            "the run goes on with another version of its plugin: the one it began with is not \
             kept here, or not allowed any more"
        ),
    }
}

/// Sends TASK_ACCEPTED, or TASK_RESUMED when it was sent before, then the BATCH_OKs that
/// may not have left. Returns the progress as it is from now on.
async fn announce(voice: &Voice, progress: &Progress) -> Result<Progress, Silenced> {
    let mut progress = progress.clone();
    if progress.accepted {
        voice.send(&[RunEvent::TaskResumed(voice.lease_info())]).await?;
    } else {
        voice.send(&[RunEvent::TaskAccepted(voice.lease_info())]).await?;
        progress.accepted = true;
        voice.write(|| voice.deps.store.save_progress(&voice.fence, &progress)).await?;
    }
    let mut range = progress.reported..progress.finished;
    while !range.is_empty() {
        let page = page(voice, &mut range).await?;
        let events: Vec<RunEvent> = page
            .into_iter()
            .map(|batch| RunEvent::BatchOk {
                worker_id: voice.owner.worker_id.clone(),
                batch_uid: batch.batch_uid,
                metrics: batch.metrics,
                artifacts_ref: Null,
            })
            .collect();
        voice.send(&events).await?;
    }
    progress.reported = progress.finished;
    Ok(progress)
}

/// The uids of everything the record says is finished.
pub async fn finished_uids(voice: &Voice, progress: &Progress) -> Result<UidSet, Silenced> {
    let mut uids = UidSet::default();
    let mut range = 0..progress.finished;
    while !range.is_empty() {
        for batch in page(voice, &mut range).await? {
            uids.insert(&batch.batch_uid);
        }
    }
    Ok(uids)
}

/// The next finished batches of `range`, which moves past them.
async fn page(voice: &Voice, range: &mut Range<u64>) -> Result<Vec<FinishedBatch>, Silenced> {
    let key = &voice.address.key;
    let epoch = voice.address.epoch;
    let wanted = range.clone();
    let batches =
        voice.store(|| voice.deps.store.finished(key, epoch, wanted.clone(), PAGE)).await?;
    match batches.last() {
        Some(last) => range.start = last.ordinal + 1,
        // Somebody deleted artifacts: what is gone cannot be told again.
        None => range.start = range.end,
    }
    Ok(batches)
}
