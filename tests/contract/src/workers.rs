//! The workers' own records, and who coordinates.

use std::time::Duration;

use flowkit::store::WorkerRecord;
use flowkit::types::Role;
use serde_json::json;

use crate::{NOW, StoreBackend, at, unique, worker};

fn record(name: &str) -> WorkerRecord {
    WorkerRecord {
        worker_id: worker(name),
        version: "1.2.3".into(),
        roles: vec![Role::new("a").unwrap(), Role::new("b").unwrap()],
        capacity: 4,
        running: 1,
        updated_at: NOW,
        health: json!({"plugins": [{"digest": "abc"}]}),
    }
}

/// Written, replaced, listed by id, removed.
pub async fn records<B: StoreBackend>() {
    let backend = B::start().await;
    let (store, other) = (backend.store(), backend.other_store());
    let (first, second) = (record("w-1"), record("w-2"));
    store.put_worker(&second).await.unwrap();
    other.put_worker(&WorkerRecord { running: 0, ..first.clone() }).await.unwrap();
    store.put_worker(&first).await.unwrap();
    assert_eq!(other.workers().await.unwrap(), [first.clone(), second.clone()]);
    store.remove_worker(&second.worker_id).await.unwrap();
    store.remove_worker(&second.worker_id).await.unwrap();
    assert_eq!(other.workers().await.unwrap(), [first]);
}

/// A worker whose process is gone is not shown as one.
pub async fn gone_worker_is_left_out<B: StoreBackend>() {
    let backend = B::start().await;
    let store = backend.store();
    let (gone, alive) = (record(&unique("w-1")), record(&unique("w-2")));
    store.put_worker(&gone).await.unwrap();
    store.put_worker(&alive).await.unwrap();
    let expected =
        if backend.end_worker(&gone.worker_id).await { vec![alive] } else { vec![gone, alive] };
    assert_eq!(store.workers().await.unwrap(), expected);
}

/// One at a time, until it lets its time pass.
pub async fn coordination<B: StoreBackend>() {
    let backend = B::start().await;
    let (store, other) = (backend.store(), backend.other_store());
    let (first, second, ttl) =
        (worker(&unique("w")), worker(&unique("w")), Duration::from_secs(10));
    assert!(store.hold_coordination(&first, at(0), ttl).await.unwrap());
    assert!(!other.hold_coordination(&second, at(9), ttl).await.unwrap());
    assert!(store.hold_coordination(&first, at(9), ttl).await.unwrap());
    assert!(!other.hold_coordination(&second, at(18), ttl).await.unwrap());
    assert!(other.hold_coordination(&second, at(19), ttl).await.unwrap());
    assert!(!store.hold_coordination(&first, at(20), ttl).await.unwrap());
}

/// What a worker that is gone held is free at once.
pub async fn coordination_of_a_gone_worker<B: StoreBackend>() {
    let backend = B::start().await;
    let store = backend.store();
    let (gone, other, ttl) = (worker(&unique("w")), worker(&unique("w")), Duration::from_secs(10));
    assert!(store.hold_coordination(&gone, at(0), ttl).await.unwrap());
    let known = backend.end_worker(&gone).await;
    assert_eq!(store.hold_coordination(&other, at(1), ttl).await.unwrap(), known);
}
