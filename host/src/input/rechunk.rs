//! Cuts one upstream artifact into batches: pure.

use serde_json::{Map, Value, json};

use super::Rechunk;
use crate::handler::YieldedBatch;
use crate::protocol::content_hash;
use crate::store::Partial;
use crate::types::{BatchUid, NodeId, RunKey};

/// The upstream batch as a batch of its own. Its uid is the upstream's, or a hash over the
/// node too when there are several upstream nodes.
pub(super) fn whole(upstream: &RunKey, only_one: bool, partial: Partial) -> YieldedBatch {
    let Partial { batch_uid, meta } = partial;
    let payload = json!({
        "from_node": upstream.node_id,
        "ref": {
            "task_id": upstream.task_id,
            "node_id": upstream.node_id,
            "batch_uid": batch_uid,
        },
        "meta": meta,
    });
    let uid = if only_one {
        batch_uid
    } else {
        hashed(&json!({"src": upstream.node_id, "uid": batch_uid}))
    };
    YieldedBatch { uid: Some(uid), payload: payload.to_string() }
}

/// The upstream batch's list in chunks.
pub(super) fn chunks(from: &NodeId, rechunk: &Rechunk, partial: Partial) -> Vec<YieldedBatch> {
    let Partial { batch_uid, meta } = partial;
    let items = list(meta, rechunk.meta_list_key.as_deref());
    items
        .chunks(rechunk.size)
        .enumerate()
        .map(|(index, items)| {
            let payload = json!({
                "from_node": from,
                "items": items,
                "parent": {
                    "ref": {"batch_uid": batch_uid},
                    "meta_list_key": rechunk.meta_list_key,
                },
            });
            let uid = hashed(&json!({"src": from, "parent": batch_uid, "idx": index}));
            YieldedBatch { uid: Some(uid), payload: payload.to_string() }
        })
        .collect()
}

fn list(mut meta: Map<String, Value>, key: Option<&str>) -> Vec<Value> {
    match key.map(|key| meta.remove(key)) {
        Some(Some(Value::Array(items))) => items,
        Some(Some(other)) => {
            // Not a list after all: the whole `meta` is the one item.
            meta.insert(key.unwrap_or_default().to_owned(), other);
            vec![Value::Object(meta)]
        }
        Some(None) | None => vec![Value::Object(meta)],
    }
}

fn hashed(value: &Value) -> BatchUid {
    BatchUid::new(content_hash(value)).expect("a hash is a name")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partial(meta: Value) -> Partial {
        Partial { batch_uid: BatchUid::new("b1").unwrap(), meta: meta.as_object().unwrap().clone() }
    }

    fn cut(meta: Value, size: usize, key: Option<&str>) -> Vec<Value> {
        let rechunk = Rechunk { size, meta_list_key: key.map(str::to_owned) };
        let from = NodeId::new("up").unwrap();
        chunks(&from, &rechunk, partial(meta))
            .iter()
            .map(|batch| serde_json::from_str::<Value>(&batch.payload).unwrap()["items"].clone())
            .collect()
    }

    #[test]
    fn cuts_a_list_and_keeps_its_order() {
        assert_eq!(
            cut(json!({"items": [1, 2, 3, 4, 5]}), 2, Some("items")),
            [json!([1, 2]), json!([3, 4]), json!([5])]
        );
        assert!(cut(json!({"items": []}), 2, Some("items")).is_empty());
    }

    #[test]
    fn without_a_list_the_meta_is_the_item() {
        let meta = json!({"items": 7, "x": 1});
        for key in [None, Some("missing"), Some("items")] {
            assert_eq!(cut(meta.clone(), 2, key), [json!([meta])], "{key:?}");
        }
    }

    #[test]
    fn several_upstream_nodes_share_no_uid() {
        let upstream = |node: &str| RunKey {
            task_id: crate::types::TaskId::new("t").unwrap(),
            node_id: NodeId::new(node).unwrap(),
        };
        let uid = |node: &str, only_one| whole(&upstream(node), only_one, partial(json!({}))).uid;
        assert_eq!(uid("a", true), Some(BatchUid::new("b1").unwrap()));
        assert_ne!(uid("a", false), uid("b", false));
        assert_eq!(
            uid("a", false).unwrap().as_str(),
            content_hash(&json!({"src": "a", "uid": "b1"}))
        );
    }
}
