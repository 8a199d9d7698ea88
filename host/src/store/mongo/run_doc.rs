//! A run's record as a document of `worker_states`.
//!
//! `updated_at`, after which a document is removed by the server, is set with the note
//! that the end was sent: a run that waits for somebody to claim it is never removed.

use mongodb::bson::{Bson, Document, doc};

use super::decode::{self, Decoded, Problem};
use super::{date, int, text};
use crate::clock::UnixMs;
use crate::store::{EndCheck, NewRun, Owner, Progress, RunRecord, StoreError};
use crate::types::{Epoch, Fence, LeaseNo, RunKey};

/// The document's `_id`: the names with the first one's length, so that no two keys share it.
pub(super) fn id(key: &RunKey) -> String {
    let (task, node) = (key.task_id.as_str(), key.node_id.as_str());
    format!("run:{}:{task}:{node}", task.len())
}

/// What only the present owner of the present attempt finds.
pub(super) fn held(fence: &Fence) -> Document {
    doc! {
        "_id": id(&fence.key),
        "attempt_epoch": i64::from(fence.epoch.0),
        "lease_no": int(fence.lease_no.0),
        "owner.worker_id": fence.worker_id.as_str(),
    }
}

/// What finds a run only as it was seen.
pub(super) fn as_seen(seen: &RunRecord) -> Document {
    doc! {
        "_id": id(&seen.new.key),
        "attempt_epoch": i64::from(seen.new.epoch.0),
        "lease_no": int(seen.lease_no.0),
    }
}

/// The fields of a run that begins.
pub(super) fn begun(
    new: &NewRun,
    owner: Option<&Owner>,
    now: UnixMs,
) -> Result<Document, StoreError> {
    let mut fields = doc! {
        "kind": "run",
        "task_id": new.key.task_id.as_str(),
        "node_id": new.key.node_id.as_str(),
        "role": new.role.as_str(),
        "attempt_epoch": i64::from(new.epoch.0),
        "input": text("a run's input", &new.input)?,
        "created_at": date(new.created_at),
        "owner": owner.map_or(Bson::Null, of_owner),
        "end": Bson::Null,
        "end_sent": false,
        "changed_at": date(now),
    };
    fields.extend(of_progress(&Progress::default())?);
    Ok(fields)
}

/// A run as others find it in `worker_states`.
pub(in crate::store) fn document(run: &RunRecord) -> Result<Document, StoreError> {
    let mut document = doc! {"_id": id(&run.new.key), "lease_no": int(run.lease_no.0)};
    document.extend(begun(&run.new, run.owner.as_ref(), run.updated_at)?);
    document.extend(of_progress(&run.progress)?);
    if let Some(end) = &run.end {
        document.insert("end", text("a run's end", end)?);
    }
    if let Some(check) = &run.check {
        document.insert("check", of_check(check));
    }
    if run.end_sent {
        document.insert("end_sent", true);
        document.insert("updated_at", date(run.updated_at));
    }
    Ok(document)
}

/// An owner.
pub(super) fn of_owner(owner: &Owner) -> Bson {
    Bson::Document(doc! {
        "worker_id": owner.worker_id.as_str(),
        "lease_id": owner.lease_id.as_str(),
        "deadline": date(owner.deadline),
    })
}

/// Progress, all of it.
pub(super) fn of_progress(progress: &Progress) -> Result<Document, StoreError> {
    Ok(doc! {
        "finished": int(progress.finished),
        "reported": int(progress.reported),
        "accepted": progress.accepted,
        "checkpoint": progress.checkpoint.clone(),
        "totals": text("a run's totals", &progress.totals)?,
        "digest": progress.digest.clone(),
    })
}

/// A look at an end.
pub(super) fn of_check(check: &EndCheck) -> Bson {
    Bson::Document(doc! {"at": date(check.at), "tries": i64::from(check.tries)})
}

/// Reads a record back.
pub(super) fn read(document: &Document) -> Result<RunRecord, StoreError> {
    decode(document).map_err(|problem| problem.of(name(document)))
}

/// What a document is called in an error.
fn name(document: &Document) -> String {
    let label = |key| decode::label(document, key);
    format!("run {}/{} (worker_states, _id {})", label("task_id"), label("node_id"), label("_id"))
}

fn decode(document: &Document) -> Decoded<RunRecord> {
    let key = RunKey {
        task_id: decode::name(document, "task_id")?,
        node_id: decode::name(document, "node_id")?,
    };
    if document.get_str("_id").ok() != Some(&id(&key)) {
        return Err(Problem::new("`_id` is not that of its task and node"));
    }
    let progress = Progress {
        finished: decode::number(document, "finished")?,
        reported: decode::number(document, "reported")?,
        accepted: decode::flag(document, "accepted")?,
        checkpoint: optional_text(document, "checkpoint")?,
        totals: decode::json(document, "totals")?,
        digest: optional_text(document, "digest")?,
    };
    Ok(RunRecord {
        new: NewRun {
            key,
            role: decode::name(document, "role")?,
            epoch: Epoch(decode::number(document, "attempt_epoch")?),
            input: decode::json(document, "input")?,
            created_at: decode::time(document, "created_at")?,
        },
        lease_no: LeaseNo(decode::number(document, "lease_no")?),
        owner: decode::document(document, "owner")?.map(owner).transpose()?,
        progress,
        end: match decode::optional(document, "end") {
            None => None,
            Some(_) => Some(decode::json(document, "end")?),
        },
        end_sent: decode::flag(document, "end_sent")?,
        check: decode::document(document, "check")?.map(check).transpose()?,
        updated_at: decode::time(document, "changed_at")?,
    })
}

fn owner(document: &Document) -> Decoded<Owner> {
    Ok(Owner {
        worker_id: decode::name(document, "worker_id")?,
        lease_id: decode::name(document, "lease_id")?,
        deadline: decode::time(document, "deadline")?,
    })
}

fn check(document: &Document) -> Decoded<EndCheck> {
    let (at, tries) = (decode::time(document, "at")?, decode::number(document, "tries")?);
    Ok(EndCheck { at, tries })
}

fn optional_text(document: &Document, key: &str) -> Decoded<Option<String>> {
    match decode::optional(document, key) {
        None => Ok(None),
        Some(_) => Ok(Some(decode::string(document, key)?.to_owned())),
    }
}
