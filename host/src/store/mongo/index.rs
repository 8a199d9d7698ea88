//! The indexes that the worker's queries need.

use std::time::Duration;

use mongodb::bson::{Document, doc};
use mongodb::options::IndexOptions;
use mongodb::{Collection, IndexModel};

use super::MongoStore;
use super::error::meaning;
use crate::store::StoreError;

/// How long a run's record is kept after its last change.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// An index that is wanted.
struct Wanted {
    keys: Document,
    options: IndexOptions,
}

fn plain(keys: Document) -> Wanted {
    Wanted { keys, options: IndexOptions::default() }
}

/// Makes the indexes that are missing. One that exists under another name is as good.
pub(super) async fn ensure(store: &MongoStore) -> Result<(), StoreError> {
    let unique = || IndexOptions::builder().unique(true).build();
    let artifacts = [
        plain(doc! {"task_id": 1, "node_id": 1}),
        Wanted {
            keys: doc! {"task_id": 1, "node_id": 1, "batch_uid": 1},
            options: IndexOptions::builder().unique(true).sparse(true).build(),
        },
        // For reading a node's artifacts in the order of their making, page by page, and
        // for what an attempt has finished, by place.
        plain(doc! {"task_id": 1, "node_id": 1, "_id": 1}),
        plain(doc! {"task_id": 1, "node_id": 1, "attempt_epoch": 1, "ordinal": 1}),
    ];
    let claims = [Wanted {
        keys: doc! {"task_id": 1, "consumer_node": 1, "from_node": 1, "batch_uid": 1},
        options: unique(),
    }];
    let states = [
        Wanted {
            keys: doc! {"updated_at": 1},
            options: IndexOptions::builder().expire_after(KEPT).build(),
        },
        plain(doc! {"role": 1, "end_sent": 1, "created_at": 1}),
        plain(doc! {"task_id": 1, "node_id": 1}),
        Wanted {
            keys: doc! {"role": 1, "check.at": 1},
            options: IndexOptions::builder().sparse(true).build(),
        },
    ];
    ensure_of(store, &store.artifacts, &artifacts).await?;
    ensure_of(store, &store.claims, &claims).await?;
    ensure_of(store, &store.worker_states, &states).await
}

async fn ensure_of(
    store: &MongoStore,
    collection: &Collection<Document>,
    wanted: &[Wanted],
) -> Result<(), StoreError> {
    let name = collection.name();
    let listing = format!("listing the indexes of {name}");
    let known = store.all_indexes(collection).await.map_err(|error| meaning(&listing, &error))?;
    for index in wanted {
        let same_keys = |known: &&IndexModel| is_same(&known.keys, &index.keys);
        if let Some(known) = known.iter().find(same_keys) {
            check(name, known, index)?;
            continue;
        }
        let model =
            IndexModel::builder().keys(index.keys.clone()).options(index.options.clone()).build();
        let making = format!("making the index {} of {name}", index.keys);
        store
            .within(collection.create_index(model))
            .await
            .map_err(|error| meaning(&making, &error))?;
    }
    Ok(())
}

/// The same keys in the same order; drivers write the direction as numbers of any type.
fn is_same(known: &Document, wanted: &Document) -> bool {
    let direction = |value| super::decode::whole(value);
    known.len() == wanted.len()
        && known
            .iter()
            .zip(wanted)
            .all(|((k, kd), (w, wd))| k == w && direction(kd) == direction(wd))
}

fn check(collection: &str, known: &IndexModel, wanted: &Wanted) -> Result<(), StoreError> {
    let options = known.options.clone().unwrap_or_default();
    let is_unique = |options: &IndexOptions| options.unique == Some(true);
    let differs = if is_unique(&options) != is_unique(&wanted.options) {
        "unique"
    } else if options.expire_after != wanted.options.expire_after {
        "expireAfterSeconds"
    } else {
        return Ok(());
    };
    let name = options.name.unwrap_or_default();
    Err(StoreError::Fatal(format!(
        "the index `{name}` of the collection {collection} has another `{differs}` than this worker \
         needs for the keys {}; drop it, and the worker makes it again",
        wanted.keys
    )))
}
