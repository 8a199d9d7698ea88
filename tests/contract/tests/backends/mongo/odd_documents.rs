//! Queries over documents of any shape: what MongoDB finds, and what is found without it.

use std::num::NonZeroU32;

use contract::documents::{found, query};
use contract::{Backend, DocumentsBackend, object};
use flowkit::documents::{DocumentQuery, Documents, DocumentsError};
use flowkit::store::Collections;
use mongodb::bson::Document;
use serde_json::{Value, json};

use super::Mongo;

// Left out is where the tests' server is known to differ from MongoDB: `$gte` and `$lte` with
// null, and `$exists` that is false below a list.

/// Every shape on which a query could differ.
fn odd() -> Vec<Value> {
    let values = [
        json!({}),
        json!({"a": null}),
        json!({"a": 0}),
        json!({"a": 1.0, "b": 1}),
        json!({"a": -0.5}),
        json!({"a": 9_007_199_254_740_993_i64}),
        json!({"a": ""}),
        json!({"a": "1"}),
        json!({"a": "ä"}),
        json!({"a": true}),
        json!({"a": false}),
        json!({"a": {}}),
        json!({"a": {"b": 1}}),
        json!({"a": {"b": null}}),
        json!({"a": {"b": {"c": 2}}}),
        json!({"a": {"b": [1, 5]}}),
        json!({"a": [0, 1]}),
        json!({"a": [{"b": 1}, {"b": 5}]}),
        json!({"a": [{"b": 1}, {"c": 5}]}),
        json!({"a": [{"b": [7]}]}),
        json!({"a": ["x", 3]}),
        json!({"a": {"$date": "2027-01-15T08:00:00.120Z"}}),
        json!({"a": {"$date": "1969-12-31T23:59:59.999Z"}}),
        json!({"a": {"$oid": "65a1b2c3d4e5f60718293a4b"}}),
        json!({"b": {"0": "zero"}}),
    ];
    let numbered = values.into_iter().enumerate().map(|(n, mut value)| {
        value["n"] = json!(n);
        value
    });
    numbered.collect()
}

fn filters() -> Vec<Value> {
    let operands = [
        json!(null),
        json!(0),
        json!(1),
        json!(9_007_199_254_740_992_i64),
        json!("1"),
        json!(true),
        json!({"b": 1}),
        json!([0, 1]),
        json!({"$date": "2027-01-15T08:00:00.12Z"}),
        json!({"$oid": "65a1b2c3d4e5f60718293a4b"}),
    ];
    let mut filters = vec![
        json!({}),
        json!({"a": {"$in": [1, "1", null]}}),
        json!({"a": {"$nin": [1, "1", null]}}),
        json!({"a": {"$exists": 1}}),
        json!({"a.b": {"$exists": true}}),
        json!({"b": {"$exists": false}}),
        json!({"a.b": {"$gte": 5}}),
        json!({"a.b": {"$ne": 1}}),
        json!({"a.b.c": 2}),
        json!({"a.0": 0}),
        json!({"a.0.b": 1}),
        json!({"a.1": {"$exists": true}}),
        json!({"b.0": "zero"}),
        json!({"$and": [{"a": {"$gt": 0}}, {"b": 1}]}),
        json!({"$or": [{"a": "x"}, {"b": {"$exists": true}}]}),
        json!({"$nor": [{"a": {"$lt": 100}}, {"a": null}]}),
        json!({"a": {"$not": {"$gt": 0, "$lt": 3}}}),
        json!({"a": {"$gt": 0, "$lt": 3}}),
    ];
    for operand in &operands {
        filters.push(json!({"a": operand}));
        for operator in ["$eq", "$ne", "$gt", "$lt", "$gte", "$lte"] {
            if operand.is_null() && operator.ends_with("te") {
                continue;
            }
            filters.push(json!({"a": {operator: operand}}));
        }
    }
    filters
}

async fn both(test: &str) -> Option<(Mongo, Collections)> {
    if !flowkit_servers::available(test) {
        return None;
    }
    let mongo = Mongo::start().await;
    let lines: Vec<String> = odd().iter().map(Value::to_string).collect();
    let mut listed = Collections::default();
    listed.insert("things", &lines.join("\n")).unwrap();
    let things = odd().into_iter().map(|thing| serde_json::from_value::<Document>(thing).unwrap());
    mongo.db.collection("things").insert_many(things).await.unwrap();
    Some((mongo, listed))
}

async fn compare(mongo: &Mongo, listed: &Collections, query: DocumentQuery) -> usize {
    let theirs = found(&*mongo.documents(), query.clone()).await.unwrap();
    let ours = found(listed as &dyn Documents, query.clone()).await.unwrap();
    assert_eq!(ours, theirs, "ours and theirs of {query:?}");
    ours.len()
}

#[tokio::test]
async fn filters_agree() {
    let Some((mongo, listed)) = both("mongo::odd_documents::filters_agree").await else { return };
    let mut sizes = std::collections::BTreeSet::new();
    for filter in filters() {
        let sort = vec![("n".into(), false)];
        sizes.insert(
            compare(&mongo, &listed, DocumentQuery { sort, ..query("things", filter) }).await,
        );
    }
    assert!(sizes.len() > 10, "these filters tell little: {sizes:?}");
}

#[tokio::test]
async fn projections_and_sorts_agree() {
    let test = "mongo::odd_documents::projections_and_sorts_agree";
    let Some((mongo, listed)) = both(test).await else { return };
    for projection in [
        json!({"_id": 0}),
        json!({"_id": 0, "n": 1}),
        json!({"_id": 0, "a.b": 1}),
        json!({"_id": 0, "a": 0}),
        json!({"_id": 0, "a.b": 0}),
        json!({"_id": 0, "a.b.c": true, "n": true}),
    ] {
        let sort = vec![("n".into(), true)];
        let projection = Some(object(projection));
        let limit = NonZeroU32::new(30);
        let query = DocumentQuery { sort, projection, limit, ..query("things", json!({})) };
        compare(&mongo, &listed, query).await;
    }
    for (field, down) in [("a", false), ("a", true), ("a.b", false), ("a.b", true), ("b", false)] {
        let sort = vec![(field.into(), down), ("n".into(), down)];
        for limit in [None, NonZeroU32::new(3)] {
            let query = DocumentQuery { sort: sort.clone(), limit, ..query("things", json!({})) };
            compare(&mongo, &listed, query).await;
        }
    }
}

/// A database that is away may be back for the next attempt.
#[tokio::test]
async fn a_database_that_is_away_is_unavailable() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = nobody.local_addr().unwrap().port();
    drop(nobody);
    let uri = format!("mongodb://127.0.0.1:{port}/?serverSelectionTimeoutMS=200");
    let away = super::connect(&uri, "test").await;
    let refused = away.open(query("things", json!({}))).await.err();
    assert!(matches!(refused, Some(DocumentsError::Unavailable(_))), "{refused:?}");
}
