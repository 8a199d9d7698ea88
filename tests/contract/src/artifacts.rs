//! What runs leave for the nodes after them.

use flowkit::metrics::Metrics;
use flowkit::store::{
    Claim, Cursor, Fenced, FinishedBatch, NewComplete, NewPartial, Partial, Store,
};
use flowkit::types::{Epoch, Fence, RunKey};
use serde_json::{Value, json};

use crate::{NOW, StoreBackend, at, fence, key, new_key, object, uid, unique};

/// An artifact that says which of several writes it is.
pub fn partial(name: &str, ordinal: u64, mark: i64) -> NewPartial {
    NewPartial {
        batch_uid: uid(name),
        ordinal,
        metrics: Metrics::new(object(json!({"mark": mark}))).unwrap(),
        meta: object(json!({"mark": mark})),
        now: NOW,
    }
}

/// A node's end.
pub fn complete() -> NewComplete {
    NewComplete { meta: object(json!({"all": true})), payload: Value::Null, now: at(1) }
}

/// A whole scan, in pages of `limit`.
pub async fn scan(store: &dyn Store, key: &RunKey, limit: usize) -> Vec<Partial> {
    let (mut found, mut cursor) = (Vec::new(), Cursor::start());
    loop {
        let page = store.partials(key, &cursor, limit).await.unwrap();
        assert!(page.partials.len() <= limit);
        if page.partials.is_empty() {
            return found;
        }
        found.extend(page.partials);
        cursor = page.next;
    }
}

/// The marks that [`partial`] left, by uid.
pub async fn marks(store: &dyn Store, key: &RunKey) -> Vec<(String, i64)> {
    let found = scan(store, key, 100).await.into_iter();
    let mut marks: Vec<_> = found
        .map(|p| (p.batch_uid.as_str().to_owned(), p.meta["mark"].as_i64().unwrap()))
        .collect();
    marks.sort();
    marks
}

async fn write(store: &dyn Store, fence: &Fence, partials: &[NewPartial]) -> Fenced {
    store.write_partials(fence, partials).await.unwrap()
}

fn expect(marks: &[(&str, i64)]) -> Vec<(String, i64)> {
    marks.iter().map(|(name, mark)| ((*name).to_owned(), *mark)).collect()
}

/// A node sees its own partial artifacts and no others.
pub async fn partials_are_read_back<B: StoreBackend>() {
    let backend = B::start().await;
    let (store, task) = (backend.store(), unique("t"));
    let (first, second) = (key(&task, "n-1"), key(&task, "n-2"));
    let both = [partial("b-1", 0, 1), partial("b-2", 1, 2)];
    assert_eq!(write(&*store, &fence(&first, 1, 1, "w"), &both).await, Fenced::Written);
    let other = [partial("b-1", 0, 3)];
    assert_eq!(write(&*store, &fence(&second, 1, 1, "w"), &other).await, Fenced::Written);
    let other = backend.other_store();
    assert_eq!(marks(&*other, &first).await, expect(&[("b-1", 1), ("b-2", 2)]));
    assert_eq!(marks(&*other, &second).await, expect(&[("b-1", 3)]));
    assert_eq!(marks(&*other, &new_key()).await, expect(&[]));
    assert_eq!(write(&*store, &fence(&first, 1, 1, "w"), &[]).await, Fenced::Written);
}

/// The same lease, a later one and a later attempt may write an artifact again.
pub async fn newer_replaces_older<B: StoreBackend>() {
    let backend = B::start().await;
    let (store, key) = (backend.store(), new_key());
    for (mark, (epoch, lease_no)) in
        [(1, 5), (1, 5), (1, 6), (2, 3), (2, 7)].into_iter().enumerate()
    {
        let mark = i64::try_from(mark).unwrap();
        let fence = fence(&key, epoch, lease_no, "w");
        assert_eq!(write(&*store, &fence, &[partial("b", 0, mark)]).await, Fenced::Written);
        assert_eq!(marks(&*store, &key).await, expect(&[("b", mark)]));
    }
}

/// An earlier lease or attempt never overwrites.
pub async fn older_is_refused<B: StoreBackend>() {
    let backend = B::start().await;
    let (store, key) = (backend.store(), new_key());
    let first = [partial("b", 0, 1)];
    assert_eq!(write(&*store, &fence(&key, 2, 5, "w"), &first).await, Fenced::Written);
    for (epoch, lease_no) in [(2, 4), (1, 5), (1, 9)] {
        let fence = fence(&key, epoch, lease_no, "w");
        assert_eq!(write(&*store, &fence, &[partial("b", 0, 2)]).await, Fenced::Lost);
        let group = [partial("b", 0, 2), partial("c", 1, 2)];
        assert_eq!(write(&*store, &fence, &group).await, Fenced::Lost);
    }
    assert!(marks(&*store, &key).await.contains(&("b".into(), 1)));
}

/// What a coordinator left for a failed batch is no artifact until it is completed.
pub async fn failed_batch_is_completed<B: StoreBackend>() {
    let backend = B::start().await;
    let (store, key) = (backend.store(), new_key());
    backend.leave_failed_batch(&key, &uid("b-2")).await;
    let held = fence(&key, 2, 1, "w");
    assert_eq!(write(&*store, &held, &[partial("b-1", 0, 1)]).await, Fenced::Written);
    assert_eq!(marks(&*store, &key).await, expect(&[("b-1", 1)]));
    assert_eq!(store.finished(&key, Epoch(2), 0..9, 9).await.unwrap().len(), 1);

    let both = [partial("b-2", 1, 2), partial("b-3", 2, 3)];
    assert_eq!(write(&*store, &held, &both).await, Fenced::Written);
    let all = expect(&[("b-1", 1), ("b-2", 2), ("b-3", 3)]);
    assert_eq!(marks(&*store, &key).await, all);
    assert_eq!(store.finished(&key, Epoch(2), 0..9, 9).await.unwrap().len(), 3);
}

/// A finished attempt removes what earlier ones left, and nothing else.
pub async fn complete_removes_older_attempts<B: StoreBackend>() {
    let backend = B::start().await;
    let (store, task) = (backend.store(), unique("t"));
    let (mine, other) = (key(&task, "n-1"), key(&task, "n-2"));
    let old = [partial("a", 0, 1), partial("b", 1, 1)];
    assert_eq!(write(&*store, &fence(&mine, 1, 1, "w"), &old).await, Fenced::Written);
    assert_eq!(write(&*store, &fence(&other, 1, 1, "w"), &old).await, Fenced::Written);
    let new = [partial("b", 0, 2), partial("c", 1, 2)];
    assert_eq!(write(&*store, &fence(&mine, 2, 2, "w"), &new[..1]).await, Fenced::Written);
    assert_eq!(write(&*store, &fence(&mine, 2, 3, "w"), &new[1..]).await, Fenced::Written);

    let nodes = [mine.node_id.clone(), other.node_id.clone()];
    assert_eq!(store.complete_nodes(&mine.task_id, &nodes).await.unwrap(), []);
    let held = fence(&mine, 2, 3, "w");
    assert_eq!(store.write_complete(&held, &complete()).await.unwrap(), Fenced::Written);
    assert_eq!(marks(&*store, &mine).await, expect(&[("b", 2), ("c", 2)]));
    assert_eq!(marks(&*store, &other).await, expect(&[("a", 1), ("b", 1)]));
    let found = backend.other_store().complete_nodes(&mine.task_id, &nodes).await.unwrap();
    assert_eq!(found, std::slice::from_ref(&mine.node_id));
    assert_eq!(store.complete_nodes(&new_key().task_id, &nodes).await.unwrap(), []);
}

/// The complete artifact is fenced like a partial one, and a refused one removes nothing.
pub async fn complete_is_fenced<B: StoreBackend>() {
    let backend = B::start().await;
    let (store, key) = (backend.store(), new_key());
    let held = fence(&key, 2, 4, "w");
    assert_eq!(store.write_complete(&held, &complete()).await.unwrap(), Fenced::Written);
    assert_eq!(store.write_complete(&held, &complete()).await.unwrap(), Fenced::Written);
    let first = [partial("b", 0, 1)];
    assert_eq!(write(&*store, &fence(&key, 2, 4, "w"), &first).await, Fenced::Written);
    for (epoch, lease_no) in [(2, 3), (1, 9)] {
        let old = fence(&key, epoch, lease_no, "w");
        assert_eq!(store.write_complete(&old, &complete()).await.unwrap(), Fenced::Lost);
    }
    assert_eq!(marks(&*store, &key).await, expect(&[("b", 1)]));
    let newer = fence(&key, 3, 5, "w");
    assert_eq!(store.write_complete(&newer, &complete()).await.unwrap(), Fenced::Written);
    assert_eq!(marks(&*store, &key).await, expect(&[]));
}

/// Pages of any size add up to every artifact, each once.
pub async fn paging_sees_everything<B: StoreBackend>() {
    let backend = B::start().await;
    let (store, key) = (backend.store(), new_key());
    let held = fence(&key, 1, 1, "w");
    let all: Vec<_> = (0..23).map(|n| partial(&format!("b-{n:02}"), n, 0)).collect();
    for group in all.chunks(5) {
        assert_eq!(write(&*store, &held, group).await, Fenced::Written);
    }
    let whole = scan(&*store, &key, 1000).await;
    let mut names: Vec<_> = whole.iter().map(|p| p.batch_uid.as_str().to_owned()).collect();
    names.sort();
    assert_eq!(names, (0..23).map(|n| format!("b-{n:02}")).collect::<Vec<_>>());
    for limit in [1, 4, 23, 24] {
        assert_eq!(scan(&*store, &key, limit).await, whole, "pages of {limit}");
    }
}

/// A scan that goes on while artifacts are written, and written again, sees every one that
/// was there when it began.
pub async fn paging_goes_on_while_writes_do<B: StoreBackend>() {
    let backend = B::start().await;
    let (key, held) = (new_key(), fence(&new_key(), 1, 1, "w"));
    let held = Fence { key: key.clone(), ..held };
    let store = backend.store();
    let first: Vec<_> = (0..60).map(|n| partial(&format!("old-{n}"), n, 0)).collect();
    assert_eq!(write(&*store, &held, &first).await, Fenced::Written);
    let writer = {
        let (store, held) = (backend.other_store(), held.clone());
        tokio::spawn(async move {
            for n in 0..40 {
                let new =
                    [partial(&format!("new-{n}"), 60 + n, 0), partial(&format!("old-{n}"), n, 1)];
                assert_eq!(store.write_partials(&held, &new).await.unwrap(), Fenced::Written);
                tokio::task::yield_now().await;
            }
        })
    };
    let seen = scan(&*store, &key, 3).await;
    for n in 0..60 {
        let name = format!("old-{n}");
        assert!(seen.iter().any(|p| p.batch_uid.as_str() == name), "{name} is missing");
    }
    writer.await.unwrap();
    assert_eq!(scan(&*store, &key, 7).await.len(), 100);
}

/// The finished batches of one attempt, by their place in it.
pub async fn finished_by_ordinal<B: StoreBackend>() {
    let backend = B::start().await;
    let (store, key) = (backend.store(), new_key());
    let old = [partial("old", 1, 1)];
    assert_eq!(write(&*store, &fence(&key, 1, 1, "w"), &old).await, Fenced::Written);
    let held = fence(&key, 2, 2, "w");
    for n in [4, 0, 3, 1, 2] {
        let mark = i64::try_from(n).unwrap();
        let one = [partial(&format!("b-{n}"), n, mark)];
        assert_eq!(write(&*store, &held, &one).await, Fenced::Written);
    }
    let taken_over = [partial("again-3", 3, 33)];
    assert_eq!(write(&*store, &fence(&key, 2, 3, "w"), &taken_over).await, Fenced::Written);

    let batch = |name: &str, ordinal, mark: i64| FinishedBatch {
        batch_uid: uid(name),
        ordinal,
        metrics: Metrics::new(object(json!({"mark": mark}))).unwrap(),
    };
    let all = [
        batch("b-0", 0, 0),
        batch("b-1", 1, 1),
        batch("b-2", 2, 2),
        batch("again-3", 3, 33),
        batch("b-4", 4, 4),
    ];
    for (range, limit, expected) in [
        (0..100, 100, &all[..]),
        (1..4, 100, &all[1..4]),
        (0..100, 2, &all[..2]),
        (2..100, 2, &all[2..4]),
        (5..100, 9, &[]),
        (3..3, 9, &[]),
        (0..u64::MAX, 9, &all[..]),
    ] {
        let found = store.finished(&key, Epoch(2), range.clone(), limit).await.unwrap();
        assert_eq!(found, expected, "{range:?}, at most {limit}");
    }
    assert_eq!(store.finished(&key, Epoch(1), 0..9, 9).await.unwrap(), [batch("old", 1, 1)]);
    assert_eq!(store.finished(&key, Epoch(3), 0..9, 9).await.unwrap(), []);
}

/// Recording a claim again is no error and changes nothing.
pub async fn claims_are_recorded_once<B: StoreBackend>() {
    let backend = B::start().await;
    let key = new_key();
    let claim_at = |name: &str, claimed_at| Claim {
        task_id: key.task_id.clone(),
        consumer_node: key.node_id.clone(),
        from_node: crate::key("t", "up").node_id,
        batch_uid: uid(name),
        claimed_at,
    };
    let claim = |name: &str| claim_at(name, NOW);
    let (store, other) = (backend.store(), backend.other_store());
    store.record_claims(&[claim("b-1"), claim("b-2")]).await.unwrap();
    let again = [claim_at("b-2", at(9)), claim("b-3"), claim_at("b-3", at(9))];
    other.record_claims(&again).await.unwrap();
    store.record_claims(&[]).await.unwrap();
    let mut recorded = backend.claims(&key.task_id).await;
    recorded.sort_by_key(|claim| claim.batch_uid.clone());
    assert_eq!(recorded, ["b-1", "b-2", "b-3"].map(claim));
}

/// Keys and texts that mean something to one database or another.
pub async fn odd_texts_survive<B: StoreBackend>() {
    let backend = B::start().await;
    let (store, key) = (backend.store(), key(&unique("t:/'\"%"), "ñ $.{}"));
    let odd = object(json!({
        "$set": {"a.b": 1, "": null}, "_id": "x", "ü": "\u{0}\u{1F600}'\"\\", "list": [[], {}],
        "max": i64::MAX, "min": i64::MIN, "float": 0.1, "neg": -0.5
    }));
    let new = NewPartial { meta: odd.clone(), ..partial("'; DROP TABLE x; --", 0, 1) };
    let held = fence(&key, 1, 1, "w");
    assert_eq!(write(&*store, &held, std::slice::from_ref(&new)).await, Fenced::Written);
    let found = scan(&*backend.other_store(), &key, 9).await;
    assert_eq!(found, [Partial { batch_uid: new.batch_uid, meta: odd }]);
}
