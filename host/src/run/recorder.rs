//! Makes finished batches durable, grouped, while the handler works on the next.

use super::state::Finished;
use super::voice::{Silenced, Voice};
use crate::protocol::{Null, RunEvent};
use crate::store::{NewPartial, Progress};

/// Records a group in the order that the design demands: the artifacts, then one write of
/// the run's record with position, checkpoint and totals together, then the BATCH_OKs.
/// `progress` is the run's after the last batch of the group.
pub async fn record(
    voice: Voice,
    group: Vec<Finished>,
    progress: Progress,
) -> Result<u64, Silenced> {
    let now = voice.deps.clock.wall();
    let partials: Vec<NewPartial> = group
        .into_iter()
        .map(|Finished { uid, ordinal, output }| {
            let mut meta = output.metrics.as_object().clone();
            meta.extend(output.partial.unwrap_or_default());
            NewPartial { batch_uid: uid, ordinal, metrics: output.metrics, meta, now }
        })
        .collect();
    let store = &voice.deps.store;
    voice.write(|| store.write_partials(&voice.fence, &partials)).await?;
    voice.write(|| store.save_progress(&voice.fence, &progress)).await?;
    let events: Vec<RunEvent> = partials
        .into_iter()
        .map(|partial| RunEvent::BatchOk {
            worker_id: voice.owner.worker_id.clone(),
            batch_uid: partial.batch_uid,
            metrics: partial.metrics,
            artifacts_ref: Null,
        })
        .collect();
    voice.send(&events).await?;
    Ok(progress.finished)
}
