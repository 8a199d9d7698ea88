//! Collections read with queries of plugins.

use std::num::NonZeroU32;

use contract::{Backend, object};
use flowkit::store::StoreError;
use flowkit::store::mongo::DocumentQuery;
use mongodb::bson::{DateTime, Document, doc};
use serde_json::{Value, json};

use super::Mongo;

fn query(filter: Value) -> DocumentQuery {
    DocumentQuery {
        collection: "things".into(),
        filter: object(filter),
        projection: Some(object(json!({"_id": 0}))),
        sort: vec![("n".into(), true)],
        limit: None,
        batch_size: 2,
    }
}

async fn found(mongo: &Mongo, query: &DocumentQuery) -> Vec<Value> {
    let mut documents = mongo.first.find_documents(query).await.unwrap();
    let mut found = Vec::new();
    while let Some(text) = documents.next().await.unwrap() {
        found.push(serde_json::from_str(&text).unwrap());
    }
    found
}

/// Filter, order, limit and projection are the query's; dates come and go as Extended JSON.
#[tokio::test]
async fn documents_are_found() {
    if !flowkit_servers::available("mongo::documents::documents_are_found") {
        return;
    }
    let mongo = Mongo::start().await;
    let things = (0..7).map(|n| doc! {"n": n, "at": DateTime::from_millis(i64::from(n) * 1_000)});
    mongo.db.collection::<Document>("things").insert_many(things).await.unwrap();
    let from_three = json!({"at": {"$gte": {"$date": "1970-01-01T00:00:03Z"}}, "n": {"$lt": 6}});
    let mut query = query(from_three);
    let numbers: Vec<_> = found(&mongo, &query).await.iter().map(|d| d["n"].clone()).collect();
    assert_eq!(numbers, [json!(5), json!(4), json!(3)]);
    query.limit = NonZeroU32::new(1);
    let five = json!({"n": 5, "at": {"$date": "1970-01-01T00:00:05Z"}});
    assert_eq!(found(&mongo, &query).await, [five]);
}

/// No query brings a program along, wherever it stands.
#[tokio::test]
async fn programs_are_refused() {
    if !flowkit_servers::available("mongo::documents::programs_are_refused") {
        return;
    }
    let mongo = Mongo::start().await;
    for (filter, named) in [
        (json!({"$where": "sleep(1000)"}), "$where"),
        (json!({"$or": [{"a": 1}, {"$expr": {"$function": {"body": "f"}}}]}), "$function"),
        (json!({"a": {"$code": "f"}}), "$code"),
    ] {
        let refused = mongo.first.find_documents(&query(filter)).await.err();
        let is_named = matches!(&refused, Some(StoreError::Fatal(text)) if text.contains(named));
        assert!(is_named, "{refused:?}");
    }
    let mut other = query(json!({}));
    other.projection = Some(object(json!({"x": {"$function": {"body": "f"}}})));
    assert!(mongo.first.find_documents(&other).await.is_err());
}
