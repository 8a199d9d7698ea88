//! A database that hangs, and one that is restarted.

use std::time::{Duration, Instant};

use contract::runs::recorded;
use contract::{SOON, new_key, new_role, new_run, unique};
use flowkit::clock::Clock;
use flowkit::store::mongo::{MongoOptions, MongoStore};
use flowkit::store::{RunStore, StoreError};
use flowkit::types::RunKey;

/// How long one call may take here.
const WITHIN: Duration = Duration::from_secs(2);

async fn is_unavailable(store: &MongoStore, key: &RunKey) {
    let begun = Instant::now();
    let read = store.run(key).await;
    assert!(matches!(read, Err(StoreError::Unavailable(_))), "{read:?}");
    assert!(begun.elapsed() < WITHIN + Duration::from_secs(1), "{:?}", begun.elapsed());
}

/// Reads the run once the database answers.
async fn is_back(store: &MongoStore, key: &RunKey) {
    let begun = Instant::now();
    loop {
        match store.run(key).await {
            Ok(run) => return assert!(run.is_some(), "the run is gone"),
            Err(StoreError::Unavailable(_)) if begun.elapsed() < SOON => {}
            Err(error) => panic!("{error}"),
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn everything_goes_on_after_an_outage() {
    if !flowkit_servers::available("mongo::outage::everything_goes_on_after_an_outage") {
        return;
    }
    let mut server = flowkit_servers::Mongo::start().unwrap();
    let options = MongoOptions { uri: server.uri(), database: unique("test"), within: WITHIN };
    let store = MongoStore::connect(options, Clock::system()).await.unwrap();
    let run = recorded(&store, &new_run(&new_key(), 1, &new_role()), Some("w-1")).await;
    let key = run.new.key;

    server.pause().unwrap();
    is_unavailable(&store, &key).await;
    server.resume().unwrap();
    is_back(&store, &key).await;

    server.stop().unwrap();
    is_unavailable(&store, &key).await;
    server.restart().unwrap();
    is_back(&store, &key).await;
}
