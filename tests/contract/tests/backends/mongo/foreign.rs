//! Tasks as other programs write them.

use contract::{Backend, key};
use flowkit::store::{NodeStatus, TaskStore};
use flowkit::types::Epoch;
use mongodb::bson::{Bson, Document, doc};

use super::Mongo;

/// A task that cannot be read takes no other's view; numbers come in any type.
#[tokio::test]
async fn a_damaged_task_hurts_only_itself() {
    if !flowkit_servers::available("mongo::foreign::a_damaged_task_hurts_only_itself") {
        return;
    }
    let mongo = Mongo::start().await;
    let node = |epoch: Bson| doc! {"node_id": "n", "status": "running", "attempt_epoch": epoch};
    let tasks = [
        doc! {"id": "no-graph"},
        doc! {"id": "graph", "graph": 5},
        doc! {"id": "nodes", "graph": {"nodes": "n"}},
        doc! {"id": "node", "graph": {"nodes": [5, {}, Bson::Null]}},
        doc! {"id": "epoch", "graph": {"nodes": [node(Bson::from("2"))]}},
        doc! {"id": "int32", "status": 7, "graph": {"nodes": [node(Bson::Int32(2))]}},
        doc! {"id": "int64", "coordinator": {"cancelled": 1}, "graph": {"nodes": [
            node(Bson::Int64(2)),
        ]}},
        doc! {"id": "double", "graph": {"nodes": [5, node(Bson::Double(2.0))]}},
    ];
    let keys: Vec<_> = tasks.iter().map(|task| key(task.get_str("id").unwrap(), "n")).collect();
    mongo.db.collection::<Document>("tasks").insert_many(tasks).await.unwrap();
    let views = mongo.first.views(&keys).await.unwrap();
    let seen: Vec<_> = views.iter().map(|view| view.key.task_id.as_str()).collect();
    assert_eq!(seen, ["int32", "int64", "double"]);
    for view in &views {
        assert_eq!((view.epoch, view.status), (Epoch(2), NodeStatus::Running));
        assert_eq!(view.cancelled.is_some(), view.key.task_id.as_str() == "int64");
    }
}

/// A list shows a task whose nodes cannot all be read with those that can.
#[tokio::test]
async fn a_list_shows_what_can_be_read() {
    if !flowkit_servers::available("mongo::foreign::a_list_shows_what_can_be_read") {
        return;
    }
    let mongo = Mongo::start().await;
    let nodes = vec![
        doc! {"node_id": "whole", "type": "r", "status": "running", "attempt_epoch": 1},
        doc! {"node_id": "no-type", "status": "running"},
        doc! {"type": "r"},
    ];
    let task = doc! {"id": "t-1", "status": "running", "graph": {"nodes": nodes}};
    mongo.db.collection::<Document>("tasks").insert_one(task).await.unwrap();
    let listed = mongo.first.list_tasks(5).await.unwrap();
    let [listed] = listed.as_slice() else { panic!("{listed:?}") };
    let nodes: Vec<_> = listed.graph.nodes.iter().map(|node| node.node_id.as_str()).collect();
    assert_eq!(nodes, ["whole"]);
}
