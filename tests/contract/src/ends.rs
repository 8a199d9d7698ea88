//! Looks at whether a coordinator took an end.

use std::sync::Arc;
use std::time::Duration;

use flowkit::clock::UnixMs;
use flowkit::store::{EndCheck, Fenced, RunEnd, RunRecord, Store};
use flowkit::types::{Role, RunKey};

use crate::runs::{recorded, stored};
use crate::{StoreBackend, at, new_key, new_role, new_run};

/// A run of `role` whose end was sent, to be looked after at `check`.
async fn ended(store: &dyn Store, role: &Role, check: Option<UnixMs>) -> RunRecord {
    let run = recorded(store, &new_run(&new_key(), 2, role), Some("w-1")).await;
    let held = run.fence().expect("it has an owner");
    let end = RunEnd::Cancelled { reason: "enough".into() };
    assert_eq!(store.end(&held, &end).await.unwrap(), Fenced::Written);
    let check = check.map(|at| EndCheck { at, tries: 0 });
    assert_eq!(store.end_sent(&held, check.as_ref()).await.unwrap(), Fenced::Written);
    stored(store, &run.new.key).await
}

async fn due(store: &dyn Store, roles: &[Role], now: UnixMs, limit: usize) -> Vec<RunKey> {
    let runs = store.due_checks(roles, now, limit).await.unwrap();
    for run in &runs {
        assert_eq!(stored(store, &run.new.key).await, *run);
    }
    runs.into_iter().map(|run| run.new.key).collect()
}

/// It is stored with the note, and comes back as it was written; without one there is none.
pub async fn a_check_is_set_with_the_note_that_the_end_was_sent<B: StoreBackend>() {
    let backend = B::start().await;
    let (store, role) = (backend.store(), new_role());
    let with = ended(&*store, &role, Some(at(15))).await;
    assert_eq!(with.check, Some(EndCheck { at: at(15), tries: 0 }));
    assert_eq!(stored(&*backend.other_store(), &with.new.key).await, with);
    let without = ended(&*store, &role, None).await;
    assert_eq!((without.end_sent, without.check), (true, None));
    assert_eq!(due(&*store, &[role], at(1_000), 10).await, [with.new.key]);

    let run = recorded(&*store, &new_run(&new_key(), 1, &new_role()), Some("w-1")).await;
    let held = run.fence().expect("it has an owner");
    let check = EndCheck::first(at(0));
    assert_eq!(store.end_sent(&held, Some(&check)).await.unwrap(), Fenced::Lost);
    assert_eq!(stored(&*store, &run.new.key).await, run);
}

/// Only these roles', only what is due, the longest due first, no more than asked for.
pub async fn checks_are_due_by_role_and_time<B: StoreBackend>() {
    let backend = B::start().await;
    let (store, first, second) = (backend.store(), new_role(), new_role());
    let mut keys = Vec::new();
    for (role, seconds) in [(&first, 30), (&second, 10), (&first, 20), (&second, 40)] {
        keys.push(ended(&*store, role, Some(at(seconds))).await.new.key);
    }
    ended(&*store, &new_role(), Some(at(1))).await;
    let [thirty, ten, twenty, forty] = <[RunKey; 4]>::try_from(keys).expect("four runs");
    let both = [first.clone(), second];
    assert_eq!(due(&*store, &both, UnixMs(at(10).0 - 1), 10).await, []);
    assert_eq!(due(&*store, &both, at(10), 10).await, std::slice::from_ref(&ten));
    let all = [ten.clone(), twenty.clone(), thirty.clone(), forty];
    assert_eq!(due(&*backend.other_store(), &both, at(99), 10).await, all);
    assert_eq!(due(&*store, &both, at(99), 2).await, [ten, twenty.clone()]);
    assert_eq!(due(&*store, &[first], at(99), 10).await, [twenty, thirty]);
    assert_eq!(due(&*store, &[], at(99), 10).await, []);
}

/// Of many that have seen the same check one moves it; a removed one is due no more.
pub async fn a_check_is_moved_by_one_of_many<B: StoreBackend>() {
    let backend = B::start().await;
    let (store, role) = (backend.store(), new_role());
    let run = Arc::new(ended(&*store, &role, Some(at(15))).await);
    let movers: Vec<_> = (1..=8_u32)
        .map(|tries| {
            let store = if tries % 2 == 0 { backend.store() } else { backend.other_store() };
            let run = run.clone();
            tokio::spawn(async move {
                let next = EndCheck { at: at(45), tries };
                store.move_check(&run, Some(&next)).await.unwrap().then_some(next)
            })
        })
        .collect();
    let mut winners = Vec::new();
    for mover in movers {
        winners.extend(mover.await.unwrap());
    }
    assert_eq!(winners.len(), 1, "{winners:?}");
    let moved = stored(&*store, &run.new.key).await;
    assert_eq!(moved.check, Some(winners[0]));
    let same_time = EndCheck { tries: winners[0].tries + 1, ..winners[0] };
    let seen_otherwise = RunRecord { check: Some(same_time), ..moved.clone() };
    assert!(!store.move_check(&seen_otherwise, None).await.unwrap());
    let found = due(&*store, std::slice::from_ref(&role), at(45), 10).await;
    assert_eq!(found, std::slice::from_ref(&run.new.key));

    assert!(store.move_check(&moved, None).await.unwrap());
    let over = stored(&*store, &run.new.key).await;
    assert_eq!((over.check, over.end_sent, over.end.clone()), (None, true, run.end.clone()));
    assert!(over.updated_at >= moved.updated_at);
    assert_eq!(due(&*store, &[role], at(9_999), 10).await, []);
    // What has no check gets none.
    let next = EndCheck::first(at(0));
    assert!(!store.move_check(&over, Some(&next)).await.unwrap());
    assert!(!store.move_check(&moved, Some(&next)).await.unwrap());
}

/// The record of a newer attempt begins without one.
pub async fn a_newer_attempt_has_no_check<B: StoreBackend>() {
    let backend = B::start().await;
    let (store, role) = (backend.store(), new_role());
    let old = ended(&*store, &role, Some(at(15))).await;
    let newer = recorded(&*store, &new_run(&old.new.key, 3, &role), None).await;
    assert_eq!(newer.check, None);
    assert_eq!(stored(&*store, &old.new.key).await, newer);
    let next = EndCheck::first(at(15).plus(Duration::from_secs(15)));
    assert!(!store.move_check(&old, Some(&next)).await.unwrap());
    assert_eq!(due(&*store, &[role], at(999), 10).await, []);
}
