//! The first words of an owner: that it has the run, and what its predecessor may not have
//! got out.

use std::ops::Range;

use super::voice::{Silenced, Voice};
use crate::protocol::{Null, RunEvent};
use crate::store::{FinishedBatch, Progress};
use crate::uids::UidSet;

/// Finished batches read, or events sent, at a time.
const PAGE: usize = 256;

/// Sends TASK_ACCEPTED, or TASK_RESUMED when it was sent before, then the BATCH_OKs that
/// may not have left. Returns the progress as it is from now on.
pub async fn announce(voice: &Voice, progress: &Progress) -> Result<Progress, Silenced> {
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
