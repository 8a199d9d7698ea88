//! Recording runs, their progress and their end.

use flowkit::metrics::{Metrics, Totals};
use flowkit::store::{Admitted, Fenced, NewRun, Progress, RunEnd, RunInput, RunRecord, Store};
use flowkit::types::{Epoch, LeaseNo, Role, RunKey};
use serde_json::json;

use crate::{NOW, StoreBackend, at, fence, key, new_key, new_role, new_run, object, owner, unique};

/// Admits a run that must be recorded.
pub async fn recorded(store: &dyn Store, run: &NewRun, name: Option<&str>) -> RunRecord {
    let owner = name.map(owner);
    match store.admit(run, owner.as_ref()).await.unwrap() {
        Admitted::Recorded(record) => record,
        other => panic!("{other:?}"),
    }
}

/// The run, which must exist.
pub async fn stored(store: &dyn Store, key: &RunKey) -> RunRecord {
    store.run(key).await.unwrap().expect("the run was recorded")
}

fn done() -> RunEnd {
    RunEnd::Done { metrics: Metrics::new(object(json!({"n": 3, "x": "y"}))).unwrap() }
}

fn some_progress() -> Progress {
    let mut totals = Totals::default();
    totals.add(&Metrics::new(object(json!({"n": 3, "f": 0.5}))).unwrap()).unwrap();
    Progress {
        finished: 7,
        reported: 5,
        accepted: true,
        checkpoint: Some(r#"{"at":[1,"ü"]}"#.into()),
        totals,
        digest: Some("abc".into()),
    }
}

/// A new run with an owner has its first lease.
pub async fn admit_new<B: StoreBackend>() {
    let backend = B::start().await;
    let (store, run) = (backend.store(), new_run(&new_key(), 1, &new_role()));
    let lease = owner("w-1");
    let Admitted::Recorded(record) = store.admit(&run, Some(&lease)).await.unwrap() else {
        panic!("a new run is recorded");
    };
    assert_eq!(record.new, run);
    assert_eq!(record.lease_no, LeaseNo(1));
    assert_eq!(record.owner, Some(lease));
    assert_eq!(record.progress, Progress::default());
    assert_eq!((record.end.clone(), record.end_sent), (None, false));
    assert_eq!(stored(&*backend.other_store(), &run.key).await, record);
    assert_eq!(store.run(&new_key()).await.unwrap(), None);
}

/// The same attempt again changes nothing and says what is recorded.
pub async fn admit_duplicate<B: StoreBackend>() {
    let backend = B::start().await;
    let (store, run) = (backend.store(), new_run(&new_key(), 2, &new_role()));
    let first = recorded(&*store, &run, Some("w-1")).await;
    let again = NewRun { created_at: at(9), role: new_role(), ..run.clone() };
    let answer = backend.other_store().admit(&again, Some(&owner("w-2"))).await.unwrap();
    assert_eq!(answer, Admitted::Duplicate(first.clone()));
    assert_eq!(stored(&*store, &run.key).await, first);
}

/// An older attempt changes nothing.
pub async fn admit_stale<B: StoreBackend>() {
    let backend = B::start().await;
    let (store, key, role) = (backend.store(), new_key(), new_role());
    let newer = recorded(&*store, &new_run(&key, 3, &role), Some("w-1")).await;
    let answer = store.admit(&new_run(&key, 2, &role), Some(&owner("w-2"))).await.unwrap();
    assert_eq!(answer, Admitted::Stale(newer.clone()));
    assert_eq!(stored(&*store, &key).await, newer);
}

/// A newer attempt begins from nothing, under a higher lease number.
pub async fn admit_supersedes<B: StoreBackend>() {
    let backend = B::start().await;
    let (store, key, role) = (backend.store(), new_key(), new_role());
    recorded(&*store, &new_run(&key, 1, &role), Some("w-1")).await;
    let old = fence(&key, 1, 1, "w-1");
    assert_eq!(store.save_progress(&old, &some_progress()).await.unwrap(), Fenced::Written);
    assert_eq!(store.end(&old, &done()).await.unwrap(), Fenced::Written);
    assert_eq!(store.end_sent(&old, None).await.unwrap(), Fenced::Written);

    let input = RunInput { input_inline: Some(object(json!({"new": 1}))), ..RunInput::default() };
    let newer = NewRun { created_at: at(5), input, ..new_run(&key, 4, &role) };
    let record = recorded(&*store, &newer, Some("w-1")).await;
    assert_eq!(record.lease_no, LeaseNo(2));
    assert_eq!(record.progress, Progress::default());
    assert_eq!((record.end.clone(), record.end_sent), (None, false));
    assert_eq!(stored(&*store, &key).await, record);
    assert_eq!(store.save_progress(&old, &some_progress()).await.unwrap(), Fenced::Lost);
    assert_eq!(stored(&*store, &key).await, record);
}

/// A full worker records a run for whoever claims it.
pub async fn admit_without_owner<B: StoreBackend>() {
    let backend = B::start().await;
    let (store, key, role) = (backend.store(), new_key(), new_role());
    let record = recorded(&*store, &new_run(&key, 1, &role), None).await;
    assert_eq!((record.owner.clone(), record.fence()), (None, None));
    let claimed = store.claim(&record, &owner("w-2")).await.unwrap().expect("nobody has it");
    assert_eq!(claimed.lease_no, LeaseNo(record.lease_no.0 + 1));

    let superseding = recorded(&*store, &new_run(&key, 2, &role), None).await;
    assert_eq!(superseding.owner, None);
    let again = store.claim(&superseding, &owner("w-3")).await.unwrap().expect("nobody has it");
    assert!(again.lease_no > claimed.lease_no);
}

/// Every field comes back as it was written.
pub async fn runs_are_stored_whole<B: StoreBackend>() {
    let backend = B::start().await;
    let store = backend.store();
    let input = RunInput {
        input_ref: Some(object(json!({"a": {"$b": [null, true, 1.5, -7, "ü\u{0}"]}, "c.d": {}}))),
        input_inline: Some(object(json!({"big": i64::MAX}))),
        batching: None,
    };
    let odd = key(&unique("t/ü:%' \""), "n.1$");
    let run = NewRun { input, ..new_run(&odd, u32::MAX, &new_role()) };
    let mut record = recorded(&*store, &run, Some("w'1")).await;
    let held = fence(&odd, u32::MAX, 1, "w'1");
    assert_eq!(store.save_progress(&held, &some_progress()).await.unwrap(), Fenced::Written);
    let end = RunEnd::Failed {
        batch_uid: Some(crate::uid("b-1")),
        reason_code: "handler_trap".into(),
        permanent: true,
        error: None,
    };
    assert_eq!(store.end(&held, &end).await.unwrap(), Fenced::Written);
    record.progress = some_progress();
    record.end = Some(end);
    let read = stored(&*backend.other_store(), &odd).await;
    assert!(read.updated_at >= record.updated_at);
    record.updated_at = read.updated_at;
    assert_eq!(read, record);
}

/// Only the present owner of the present attempt stores progress.
pub async fn progress_is_fenced<B: StoreBackend>() {
    let backend = B::start().await;
    let (store, key) = (backend.store(), new_key());
    recorded(&*store, &new_run(&key, 2, &new_role()), Some("w-1")).await;
    let wrong = [
        fence(&key, 1, 1, "w-1"),
        fence(&key, 3, 1, "w-1"),
        fence(&key, 2, 0, "w-1"),
        fence(&key, 2, 2, "w-1"),
        fence(&key, 2, 1, "w-2"),
        fence(&new_key(), 2, 1, "w-1"),
    ];
    for fence in wrong {
        let saved = store.save_progress(&fence, &some_progress()).await.unwrap();
        assert_eq!(saved, Fenced::Lost, "{fence:?}");
    }
    assert_eq!(stored(&*store, &key).await.progress, Progress::default());
    let held = fence(&key, 2, 1, "w-1");
    assert_eq!(store.save_progress(&held, &some_progress()).await.unwrap(), Fenced::Written);
    assert_eq!(stored(&*store, &key).await.progress, some_progress());
}

/// The first end stays.
pub async fn end_is_written_once<B: StoreBackend>() {
    let backend = B::start().await;
    let (store, key) = (backend.store(), new_key());
    recorded(&*store, &new_run(&key, 1, &new_role()), Some("w-1")).await;
    let held = fence(&key, 1, 1, "w-1");
    assert_eq!(store.end_sent(&held, None).await.unwrap(), Fenced::Lost);
    assert_eq!(store.end(&fence(&key, 1, 1, "w-2"), &done()).await.unwrap(), Fenced::Lost);
    assert_eq!(store.end(&held, &done()).await.unwrap(), Fenced::Written);
    let other = RunEnd::Cancelled { reason: "late".into() };
    assert_eq!(store.end(&held, &other).await.unwrap(), Fenced::Lost);
    assert_eq!(stored(&*store, &key).await.end, Some(done()));
}

/// Once its end was sent, a run has no owner and takes no more writes.
pub async fn end_sent_frees<B: StoreBackend>() {
    let backend = B::start().await;
    let (store, key) = (backend.store(), new_key());
    let run = new_run(&key, 1, &new_role());
    recorded(&*store, &run, Some("w-1")).await;
    let held = fence(&key, 1, 1, "w-1");
    assert_eq!(store.end(&held, &done()).await.unwrap(), Fenced::Written);
    assert_eq!(store.end_sent(&fence(&key, 1, 9, "w-1"), None).await.unwrap(), Fenced::Lost);
    assert_eq!(store.end_sent(&held, None).await.unwrap(), Fenced::Written);
    let record = stored(&*store, &key).await;
    assert_eq!((record.owner.clone(), record.end_sent), (None, true));
    assert_eq!(store.save_progress(&held, &some_progress()).await.unwrap(), Fenced::Lost);
    assert_eq!(store.release(&held).await.unwrap(), Fenced::Lost);
    assert_eq!(store.claim(&record, &owner("w-2")).await.unwrap(), None);
    let again = store.admit(&run, Some(&owner("w-1"))).await.unwrap();
    assert_eq!(again, Admitted::Duplicate(record));
}

/// A released run is unowned and keeps its progress.
pub async fn release_frees<B: StoreBackend>() {
    let backend = B::start().await;
    let (store, key) = (backend.store(), new_key());
    recorded(&*store, &new_run(&key, 1, &new_role()), Some("w-1")).await;
    let held = fence(&key, 1, 1, "w-1");
    assert_eq!(store.save_progress(&held, &some_progress()).await.unwrap(), Fenced::Written);
    assert_eq!(store.release(&fence(&key, 1, 1, "w-2")).await.unwrap(), Fenced::Lost);
    assert_eq!(store.release(&held).await.unwrap(), Fenced::Written);
    assert_eq!(store.release(&held).await.unwrap(), Fenced::Lost);
    let record = stored(&*store, &key).await;
    assert_eq!((record.owner.clone(), record.end.clone()), (None, None));
    let claimed = store.claim(&record, &owner("w-2")).await.unwrap().expect("nobody has it");
    assert_eq!(claimed.lease_no, LeaseNo(2));
    assert_eq!(claimed.progress, some_progress());
}

/// Ordered by node, and of that task alone.
pub async fn runs_of_a_task<B: StoreBackend>() {
    let backend = B::start().await;
    let (store, role, task) = (backend.store(), new_role(), unique("t"));
    for (task, node) in [(&task, "n-2"), (&task, "n-1"), (&unique("t"), "n-3"), (&task, "n-10")] {
        recorded(&*store, &new_run(&key(task, node), 1, &role), None).await;
    }
    let runs = store.runs_of_task(&key(&task, "n").task_id).await.unwrap();
    let nodes: Vec<_> = runs.iter().map(|run| run.new.key.node_id.as_str()).collect();
    assert_eq!(nodes, ["n-1", "n-10", "n-2"]);
    assert!(runs.iter().all(|run| run.new.epoch == Epoch(1) && run.new.created_at == NOW));
}

/// Runs that have an owner or an end are not queued.
pub async fn queued_counts_unowned<B: StoreBackend>() {
    let backend = B::start().await;
    let (store, role) = (backend.store(), new_role());
    assert_eq!(store.queued(&role).await.unwrap(), 0);
    let (waiting, owned, ended) = (new_key(), new_key(), new_key());
    recorded(&*store, &new_run(&waiting, 1, &role), None).await;
    recorded(&*store, &new_run(&owned, 1, &role), Some("w-1")).await;
    recorded(&*store, &new_run(&ended, 1, &role), Some("w-1")).await;
    recorded(&*store, &new_run(&new_key(), 1, &Role::new(unique("r")).unwrap()), None).await;
    let held = fence(&ended, 1, 1, "w-1");
    assert_eq!(store.end(&held, &done()).await.unwrap(), Fenced::Written);
    assert_eq!(store.release(&held).await.unwrap(), Fenced::Written);
    assert_eq!(store.queued(&role).await.unwrap(), 1);
    let held = fence(&owned, 1, 1, "w-1");
    assert_eq!(store.release(&held).await.unwrap(), Fenced::Written);
    assert_eq!(store.queued(&role).await.unwrap(), 2);
}
