//! Who may take a run over, and who has lost it.

use std::sync::Arc;
use std::time::Duration;

use flowkit::clock::UnixMs;
use flowkit::store::{ClaimQuery, Fenced, NewRun, Owner, Progress, RunEnd, Store};
use flowkit::types::{LeaseId, LeaseNo, Role, RunKey};

use crate::runs::{recorded, stored};
use crate::{NOW, StoreBackend, at, fence, new_key, new_role, new_run, owner, unique, worker};

const SKEW: Duration = Duration::from_secs(5);

/// What a worker may take of a role.
pub fn query(name: &str, role: &Role, now: UnixMs) -> ClaimQuery {
    ClaimQuery {
        worker_id: worker(name),
        roles: vec![role.clone()],
        held: Vec::new(),
        now,
        max_clock_skew: SKEW,
        limit: 100,
    }
}

/// The runs that may be taken, each of which reads back as it was offered.
pub async fn claimable(store: &dyn Store, query: &ClaimQuery) -> Vec<RunKey> {
    let runs = store.claimable(query).await.unwrap();
    for run in &runs {
        assert_eq!(stored(store, &run.new.key).await, *run);
    }
    runs.into_iter().map(|run| run.new.key).collect()
}

/// Unowned runs, runs whose lease is over, and what an earlier life of the worker left.
pub async fn claimable_cases<B: StoreBackend>() {
    let backend = B::start().await;
    let (store, role) = (backend.store(), new_role());
    let (mine, other) = (unique("w"), unique("w"));
    let (unowned, owned, left) = (new_key(), new_key(), new_key());
    recorded(&*store, &new_run(&unowned, 1, &role), None).await;
    recorded(&*store, &NewRun { created_at: at(1), ..new_run(&owned, 1, &role) }, Some(&other))
        .await;
    recorded(&*store, &NewRun { created_at: at(2), ..new_run(&left, 1, &role) }, Some(&mine)).await;
    recorded(&*store, &new_run(&new_key(), 1, &new_role()), None).await;

    // The leases end a minute from now; a clock may be five seconds ahead.
    for now in [at(0), at(60), at(65)] {
        let found = claimable(&*store, &query(&mine, &role, now)).await;
        assert_eq!(found, [unowned.clone(), left.clone()], "at {now:?}");
    }
    let just_over = UnixMs(at(65).0 + 1);
    let found = claimable(&*store, &query(&mine, &role, just_over)).await;
    assert_eq!(found, [unowned.clone(), owned.clone(), left.clone()]);

    let held = ClaimQuery { held: vec![left.clone()], ..query(&mine, &role, just_over) };
    assert_eq!(claimable(&*store, &held).await, [unowned.clone(), owned]);
    let found = claimable(&*backend.other_store(), &query(&unique("w"), &role, NOW)).await;
    assert_eq!(found, [unowned]);
    let nothing = ClaimQuery { roles: Vec::new(), ..query(&mine, &role, just_over) };
    assert_eq!(claimable(&*store, &nothing).await, []);
}

/// The runs of a worker whose process is gone can be taken over before the lease ends.
pub async fn claimable_gone_owner<B: StoreBackend>() {
    let backend = B::start().await;
    let (store, role, key) = (backend.store(), new_role(), new_key());
    let (gone, alive) = (unique("w"), unique("w"));
    recorded(&*store, &new_run(&key, 1, &role), Some(&gone)).await;
    recorded(&*store, &new_run(&new_key(), 1, &role), Some(&alive)).await;
    let query = query(&unique("w"), &role, NOW);
    assert_eq!(claimable(&*store, &query).await, []);
    let expected = if backend.end_worker(&worker(&gone)).await { vec![key] } else { Vec::new() };
    assert_eq!(claimable(&*store, &query).await, expected);
}

/// Oldest first over all roles, and no more than asked for.
pub async fn claimable_order_and_limit<B: StoreBackend>() {
    let backend = B::start().await;
    let (store, first, second) = (backend.store(), new_role(), new_role());
    let mut expected = Vec::new();
    for age in [3, 0, 4, 1, 5, 2] {
        let role = if age % 2 == 0 { &first } else { &second };
        let run = NewRun { created_at: at(100 - age), ..new_run(&new_key(), 1, role) };
        recorded(&*store, &run, None).await;
        expected.push((run.created_at, run.key));
    }
    expected.sort();
    let expected: Vec<_> = expected.into_iter().map(|(_, key)| key).collect();
    let both = vec![first.clone(), second];
    let query = ClaimQuery { roles: both, ..query(&unique("w"), &first, NOW) };
    assert_eq!(claimable(&*store, &query).await, expected);
    let some = ClaimQuery { limit: 4, ..query };
    assert_eq!(claimable(&*store, &some).await, expected[..4]);
}

/// An end that was not sent is somebody's to send.
pub async fn claimable_until_the_end_is_sent<B: StoreBackend>() {
    let backend = B::start().await;
    let (store, role, key) = (backend.store(), new_role(), new_key());
    recorded(&*store, &new_run(&key, 1, &role), Some("w-1")).await;
    let end = RunEnd::Cancelled { reason: String::new() };
    assert_eq!(store.end(&fence(&key, 1, 1, "w-1"), &end).await.unwrap(), Fenced::Written);
    let late = query(&unique("w"), &role, at(70));
    assert_eq!(claimable(&*store, &late).await, std::slice::from_ref(&key));

    let seen = stored(&*store, &key).await;
    let claimed = store.claim(&seen, &owner("w-2")).await.unwrap().expect("it is claimable");
    assert_eq!(claimed.end, Some(end));
    let held = claimed.fence().expect("it was claimed");
    assert_eq!(store.end_sent(&held, None).await.unwrap(), Fenced::Written);
    assert_eq!(claimable(&*store, &query(&unique("w"), &role, at(9_999))).await, []);
}

/// Of many who claim what they saw, in two processes, one has it.
pub async fn one_of_many_claimers_wins<B: StoreBackend>() {
    let backend = B::start().await;
    let key = new_key();
    let run = recorded(&*backend.store(), &new_run(&key, 1, &new_role()), None).await;
    let run = Arc::new(run);
    let claimers: Vec<_> = (0..16)
        .map(|n| {
            let store = if n % 2 == 0 { backend.store() } else { backend.other_store() };
            let run = run.clone();
            tokio::spawn(async move { store.claim(&run, &owner(&format!("w-{n}"))).await.unwrap() })
        })
        .collect();
    let mut winners = Vec::new();
    for claimer in claimers {
        winners.extend(claimer.await.unwrap());
    }
    assert_eq!(winners.len(), 1, "{winners:?}");
    let record = stored(&*backend.store(), &key).await;
    assert_eq!(record, winners[0]);
    assert_eq!(record.lease_no, LeaseNo(run.lease_no.0 + 1));
}

/// Whatever changed since the run was seen makes a claim fail.
pub async fn a_stale_sight_claims_nothing<B: StoreBackend>() {
    let backend = B::start().await;
    let (store, role) = (backend.store(), new_role());

    let renewed = recorded(&*store, &new_run(&new_key(), 1, &role), Some("w-1")).await;
    let held = renewed.fence().expect("it has an owner");
    assert_eq!(store.renew(&[held], at(120)).await.unwrap(), []);
    assert_eq!(store.claim(&renewed, &owner("w-2")).await.unwrap(), None);

    let claimed = recorded(&*store, &new_run(&new_key(), 1, &role), None).await;
    assert!(store.claim(&claimed, &owner("w-1")).await.unwrap().is_some());
    assert_eq!(store.claim(&claimed, &owner("w-2")).await.unwrap(), None);

    let superseded = recorded(&*store, &new_run(&new_key(), 1, &role), None).await;
    recorded(&*store, &new_run(&superseded.new.key, 2, &role), None).await;
    assert_eq!(store.claim(&superseded, &owner("w-2")).await.unwrap(), None);

    let mut unknown = superseded.clone();
    unknown.new.key = new_key();
    assert_eq!(store.claim(&unknown, &owner("w-2")).await.unwrap(), None);
}

/// A renewal moves the deadlines of what is held and names the rest.
pub async fn renew_reports_lost<B: StoreBackend>() {
    let backend = B::start().await;
    let (store, role) = (backend.store(), new_role());
    let keys: Vec<_> = (0..4).map(|_| new_key()).collect();
    for key in &keys {
        recorded(&*store, &new_run(key, 1, &role), Some("w-1")).await;
    }
    let taken = stored(&*store, &keys[1]).await;
    assert!(store.claim(&taken, &owner("w-2")).await.unwrap().is_some());
    recorded(&*store, &new_run(&keys[2], 2, &role), Some("w-1")).await;
    let mut fences: Vec<_> = keys.iter().map(|key| fence(key, 1, 1, "w-1")).collect();
    fences.push(fence(&new_key(), 1, 1, "w-1"));

    let mut lost = backend.other_store().renew(&fences, at(500)).await.unwrap();
    let mut expected = vec![fences[1].clone(), fences[2].clone(), fences[4].clone()];
    let by_key = |fence: &flowkit::types::Fence| fence.key.clone();
    lost.sort_by_key(by_key);
    expected.sort_by_key(by_key);
    assert_eq!(lost, expected);
    for (key, deadline) in keys.iter().zip([at(500), at(60), at(60), at(500)]) {
        assert_eq!(stored(&*store, key).await.owner.map(|owner| owner.deadline), Some(deadline));
    }
    assert_eq!(store.renew(&[], at(500)).await.unwrap(), []);
}

/// After a takeover, also by the same worker, the earlier lease writes nothing.
pub async fn old_owner_is_fenced<B: StoreBackend>() {
    let backend = B::start().await;
    let (store, key) = (backend.store(), new_key());
    let run = recorded(&*store, &new_run(&key, 1, &new_role()), Some("w-1")).await;
    let lease_id = LeaseId::fresh();
    let again = Owner { worker_id: worker("w-1"), lease_id, deadline: at(90) };
    let claimed = store.claim(&run, &again).await.unwrap().expect("nothing changed");
    let old = fence(&key, 1, 1, "w-1");
    let progress = Progress { finished: 1, ..Progress::default() };
    let end = RunEnd::Cancelled { reason: "old".into() };
    assert_eq!(store.save_progress(&old, &progress).await.unwrap(), Fenced::Lost);
    assert_eq!(store.end(&old, &end).await.unwrap(), Fenced::Lost);
    assert_eq!(store.end_sent(&old, None).await.unwrap(), Fenced::Lost);
    assert_eq!(store.release(&old).await.unwrap(), Fenced::Lost);
    assert_eq!(store.renew(std::slice::from_ref(&old), at(99)).await.unwrap(), [old]);
    assert_eq!(stored(&*store, &key).await, claimed);
}
