//! Graphs under way.

use flowkit::store::{CancelState, GraphDoc, NodeDoc, NodeStatus, NodeView, TaskDoc, TaskStatus};
use flowkit::types::{Epoch, NodeId, Role, RunKey, TaskId};
use serde_json::json;

use crate::{StoreBackend, at, object, unique};

fn node(name: &str, status: NodeStatus, epoch: u32) -> NodeDoc {
    NodeDoc {
        node_id: NodeId::new(name).unwrap(),
        role: Role::new("role").unwrap(),
        status,
        attempt_epoch: Epoch(epoch),
        lease: Some(json!({"worker_id": "w-1"})),
        coordinator: CancelState::default(),
        more: object(json!({"depends_on": ["a"], "retry_policy": {"max": 2}})),
    }
}

/// A task of two nodes.
pub fn task(seconds: u64, status: TaskStatus) -> TaskDoc {
    let nodes = vec![node("n-1", NodeStatus::Running, 3), node("n-2", NodeStatus::Queued, 0)];
    TaskDoc {
        id: TaskId::new(unique("t")).unwrap(),
        status,
        coordinator: CancelState::default(),
        graph: GraphDoc { run_by: None, nodes },
        version: 0,
        created_at: at(seconds),
        updated_at: at(seconds),
    }
}

fn cancelled(reason: Option<&str>) -> CancelState {
    CancelState { cancelled: true, cancel_reason: reason.map(str::to_owned) }
}

/// A task id is taken once, and the document is stored whole.
pub async fn create_once<B: StoreBackend>() {
    let backend = B::start().await;
    let store = backend.store();
    let first = task(0, TaskStatus::Queued);
    assert_eq!(store.task(&first.id).await.unwrap(), None);
    assert!(store.create_task(&first).await.unwrap());
    let second = TaskDoc { status: TaskStatus::Running, ..first.clone() };
    assert!(!backend.other_store().create_task(&second).await.unwrap());
    assert_eq!(backend.other_store().task(&first.id).await.unwrap(), Some(first));
}

/// A save replaces the version it was made from, and no other.
pub async fn save_needs_the_version<B: StoreBackend>() {
    let backend = B::start().await;
    let store = backend.store();
    let mut doc = task(0, TaskStatus::Queued);
    assert!(!store.save_task(&doc).await.unwrap());
    assert!(store.create_task(&doc).await.unwrap());
    doc.status = TaskStatus::Running;
    doc.graph.nodes[1].status = NodeStatus::Deferred;
    doc.updated_at = at(7);
    assert!(store.save_task(&doc).await.unwrap());
    let stale = TaskDoc { status: TaskStatus::Failed, ..doc.clone() };
    assert!(!backend.other_store().save_task(&stale).await.unwrap());
    doc.version += 1;
    assert_eq!(store.task(&doc.id).await.unwrap(), Some(doc.clone()));
    assert!(backend.other_store().save_task(&doc).await.unwrap());
}

/// Of those who save from the same version one succeeds.
pub async fn one_of_many_savers_wins<B: StoreBackend>() {
    let backend = B::start().await;
    let doc = task(0, TaskStatus::Queued);
    assert!(backend.store().create_task(&doc).await.unwrap());
    let savers: Vec<_> = (0..16)
        .map(|n| {
            let store = if n % 2 == 0 { backend.store() } else { backend.other_store() };
            let doc = TaskDoc { updated_at: at(n), ..doc.clone() };
            tokio::spawn(async move { store.save_task(&doc).await.unwrap() })
        })
        .collect();
    let mut winners = 0;
    for saver in savers {
        winners += u32::from(saver.await.unwrap());
    }
    assert_eq!(winners, 1);
    let stored = backend.store().task(&doc.id).await.unwrap().expect("it was created");
    assert_eq!(stored.version, 1);
}

/// A coordinator that saves what it read before the cancel does not undo it.
pub async fn cancel_survives_saves<B: StoreBackend>() {
    let backend = B::start().await;
    let store = backend.store();
    let mut doc = task(0, TaskStatus::Running);
    assert!(store.create_task(&doc).await.unwrap());
    assert!(backend.other_store().request_cancel(&doc.id, "enough").await.unwrap());
    doc.status = TaskStatus::Cancelling;
    assert!(store.save_task(&doc).await.unwrap());
    let stored = store.task(&doc.id).await.unwrap().expect("it was created");
    assert_eq!(stored.coordinator, cancelled(Some("enough")));
    assert_eq!((stored.status, stored.version), (TaskStatus::Cancelling, 1));
}

/// There must be something to cancel.
pub async fn cancel_unknown_task<B: StoreBackend>() {
    let backend = B::start().await;
    let unknown = TaskId::new(unique("t")).unwrap();
    assert!(!backend.store().request_cancel(&unknown, "why").await.unwrap());
    assert_eq!(backend.store().task(&unknown).await.unwrap(), None);
}

/// Attempt, status and both cancel flags of each node asked for; unknown ones left out.
pub async fn views_of_nodes<B: StoreBackend>() {
    let backend = B::start().await;
    let store = backend.store();
    let plain = task(0, TaskStatus::Running);
    let mut flagged = task(0, TaskStatus::Running);
    flagged.graph.nodes[0].coordinator = cancelled(None);
    let mut reasoned = task(0, TaskStatus::Running);
    reasoned.graph.nodes[0].coordinator = cancelled(Some("node"));
    let stopped = task(0, TaskStatus::Running);
    for doc in [&plain, &flagged, &reasoned, &stopped] {
        assert!(store.create_task(doc).await.unwrap());
    }
    assert!(store.request_cancel(&stopped.id, "task").await.unwrap());

    let key = |doc: &TaskDoc, node: &str| RunKey {
        task_id: doc.id.clone(),
        node_id: NodeId::new(node).unwrap(),
    };
    let view = |doc: &TaskDoc, first: bool, reason: Option<&str>| NodeView {
        key: key(doc, if first { "n-1" } else { "n-2" }),
        epoch: Epoch(if first { 3 } else { 0 }),
        status: if first { NodeStatus::Running } else { NodeStatus::Queued },
        cancelled: reason.map(str::to_owned),
    };
    let expected = [
        view(&plain, true, None),
        view(&plain, false, None),
        view(&flagged, true, Some("")),
        view(&flagged, false, None),
        view(&reasoned, true, Some("node")),
        view(&stopped, true, Some("task")),
        view(&stopped, false, Some("task")),
    ];
    let mut keys: Vec<_> = expected.iter().map(|view| view.key.clone()).collect();
    keys.push(key(&plain, "unknown"));
    keys.push(crate::new_key());
    let mut views = backend.other_store().views(&keys).await.unwrap();
    let place = |view: &NodeView| keys.iter().position(|key| *key == view.key);
    views.sort_by_key(place);
    assert_eq!(views, expected);
    assert_eq!(store.views(&[]).await.unwrap(), []);
}

/// Open tasks by age, ended ones as far as asked for.
pub async fn lists<B: StoreBackend>() {
    let backend = B::start().await;
    let store = backend.store();
    let mut open = Vec::new();
    let mut ended = Vec::new();
    for (seconds, status) in [
        (4, TaskStatus::Running),
        (1, TaskStatus::Queued),
        (3, TaskStatus::Finished),
        (2, TaskStatus::Failed),
        (6, TaskStatus::Cancelling),
        (5, TaskStatus::Failed),
        (0, TaskStatus::Deferred),
    ] {
        let doc = task(seconds, status);
        assert!(store.create_task(&doc).await.unwrap());
        let list = if status.is_final() { &mut ended } else { &mut open };
        list.push((seconds, doc.id));
    }
    let ids = |docs: Vec<TaskDoc>| docs.into_iter().map(|doc| doc.id).collect::<Vec<_>>();
    open.sort();
    let by_age: Vec<_> = open.iter().map(|(_, id)| id.clone()).collect();
    assert_eq!(ids(backend.other_store().open_tasks().await.unwrap()), by_age);

    ended.sort();
    for count in [0, 2, 9] {
        let last = &ended[ended.len().saturating_sub(count)..];
        let mut listed = open.clone();
        listed.extend_from_slice(last);
        listed.sort();
        listed.reverse();
        let listed: Vec<_> = listed.into_iter().map(|(_, id)| id).collect();
        assert_eq!(ids(store.list_tasks(count).await.unwrap()), listed, "{count} ended ones");
    }
}
