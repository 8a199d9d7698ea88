//! The end of a run: durable, decided by one compare-and-swap, sent by its winner.

use serde_json::Value;

use super::Deps;
use super::voice::{self, Silenced, Voice};
use crate::bus::OutMessage;
use crate::handler::FinalOutput;
use crate::protocol::{FINAL_UID, Null, RunAddress, RunEvent, ServedBy};
use crate::store::{EndCheck, Fenced, NewComplete, Progress, RunEnd, RunRecord};
use crate::types::WorkerId;

/// Writes the complete artifact if there is one, then the end, then sends it.
pub async fn seal(
    voice: &Voice,
    end: &RunEnd,
    complete: Option<FinalOutput>,
) -> Result<(), Silenced> {
    let store = &voice.deps.store;
    if let Some(output) = complete {
        let complete = NewComplete {
            meta: output.metrics.as_object().clone(),
            payload: output.payload.unwrap_or(Value::Null),
            now: voice.deps.clock.wall(),
        };
        voice.write(|| store.write_complete(&voice.fence, &complete)).await?;
    }
    match voice.store(|| store.end(&voice.fence, end)).await? {
        Fenced::Written => {}
        // A try whose answer was lost may have written it.
        Fenced::Lost if is_ours(voice, end).await? => {}
        Fenced::Lost => return Err(Silenced::LeaseLost),
    }
    send(voice, end).await
}

/// Sends an end that is in the record, and notes that it was sent.
pub async fn send(voice: &Voice, end: &RunEnd) -> Result<(), Silenced> {
    voice.send(&events(end, &voice.owner.worker_id)).await?;
    // A refusal is no news: a try whose answer was lost has freed the lease already.
    let sent = voice.deps.clock.wall();
    let check = EndCheck::first(sent);
    voice.store(|| voice.deps.store.end_sent(&voice.fence, Some(&check))).await.map(|_| ())
}

/// Gives an unfinished run back. What was reported is noted first, so that the next owner
/// does not say it again.
pub async fn release(voice: &Voice, progress: &Progress) -> Result<(), Silenced> {
    let store = &voice.deps.store;
    voice.write(|| store.save_progress(&voice.fence, progress)).await?;
    // As above: refused is released.
    voice.store(|| store.release(&voice.fence)).await.map(|_| ())
}

async fn is_ours(voice: &Voice, end: &RunEnd) -> Result<bool, Silenced> {
    let stored = voice.store(|| voice.deps.store.run(&voice.address.key)).await?;
    Ok(stored.is_some_and(|run| {
        run.fence().as_ref() == Some(&voice.fence) && run.end.as_ref() == Some(end)
    }))
}

/// The end of `record`, to be sent again as this worker; nothing when it has none.
pub fn again(deps: &Deps, record: &RunRecord) -> Vec<OutMessage> {
    let Some(end) = &record.end else { return vec![] };
    let address = RunAddress {
        key: record.new.key.clone(),
        role: record.new.role.clone(),
        epoch: record.new.epoch,
    };
    let served_by = ServedBy { digest: record.progress.digest.clone(), before: None };
    voice::messages(deps, &address, &served_by, &events(end, &deps.settings.worker_id))
}

/// An end as the coordinator is told of it.
fn events(end: &RunEnd, worker_id: &WorkerId) -> Vec<RunEvent> {
    let worker_id = worker_id.clone();
    match end.clone() {
        RunEnd::Done { metrics } => vec![RunEvent::TaskDone {
            worker_id,
            metrics,
            artifacts_ref: Null,
            final_uid: FINAL_UID.into(),
        }],
        RunEnd::Cancelled { reason } => vec![RunEvent::Cancelled { worker_id, reason }],
        RunEnd::Failed { batch_uid, reason_code, permanent, error } => {
            let batch = batch_uid.map(|batch_uid| RunEvent::BatchFailed {
                worker_id: worker_id.clone(),
                batch_uid,
                reason_code: reason_code.clone(),
                permanent,
                error: error.clone(),
                artifacts_ref: Null,
            });
            let task = RunEvent::TaskFailed { worker_id, reason_code, permanent, error };
            batch.into_iter().chain([task]).collect()
        }
    }
}
