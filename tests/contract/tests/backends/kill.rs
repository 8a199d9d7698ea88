//! Processes that are killed: what they were told is written is there, the file is whole,
//! and the others know at once that they are gone.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use contract::artifacts::{partial, scan};
use contract::bus::{message, next, nothing, text};
use contract::leases::{claimable, query};
use contract::runs::stored;
use contract::{NOW, fence, key, new_run, owner, worker};
use flowkit::bus::embedded::EmbeddedBus;
use flowkit::bus::{Bus, Topic};
use flowkit::clock::Clock;
use flowkit::sqlite::{Database, RegisterError};
use flowkit::store::embedded::EmbeddedStore;
use flowkit::store::{ArtifactStore, Fenced, Progress, RunStore};
use flowkit::types::Role;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Points at which the writing child is killed.
const KILLS: u64 = 8;

fn topic() -> Topic {
    Topic::new("numbers").unwrap()
}

fn role() -> Role {
    Role::new("role").unwrap()
}

fn store(db: &Database) -> EmbeddedStore {
    EmbeddedStore::new(db.clone(), Clock::system())
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").unwrap();
    out.flush().unwrap();
}

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// The child: publishes, writes artifacts and progress, and says a number once all of it
/// was acknowledged.
pub fn write_until_killed(path: &Path, node: &str) {
    block_on(async {
        let db = Database::open(path).unwrap();
        let name = format!("writer-{node}");
        db.register_worker(&worker(&name)).await.unwrap();
        let (bus, store) = (EmbeddedBus::new(db.clone()), store(&db));
        let key = key("t", node);
        let _ = store.admit(&new_run(&key, 1, &role()), Some(&owner(&name))).await.unwrap();
        let run = stored(&store, &key).await;
        let run = store.claim(&run, &owner(&name)).await.unwrap().expect("nobody else runs");
        let held = run.fence().expect("it was claimed");
        say("");
        for n in run.progress.finished.. {
            let partials = [partial(&format!("b-{n}"), n, 0)];
            let progress = Progress { finished: n + 1, ..Progress::default() };
            let number = message(&topic(), None, &n.to_string());
            assert_eq!(store.write_partials(&held, &partials).await.unwrap(), Fenced::Written);
            assert_eq!(store.save_progress(&held, &progress).await.unwrap(), Fenced::Written);
            bus.publish(&[number], None).await.unwrap();
            say(&format!("done {n}"));
        }
    });
}

/// Reads what a child says until it has done `count` or its time is over, and kills it.
/// Returns the last number it said.
fn kill_after(mut child: Child, count: u64) -> Option<u64> {
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut last = None;
    let mut seen = 0;
    while seen < count {
        let line = lines.next().expect("the child ended by itself").unwrap();
        if let Some(number) = line.strip_prefix("done ") {
            last = Some(number.parse().unwrap());
            seen += 1;
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    // What it said in its last moments counts.
    let rest = lines.map_while(Result::ok);
    rest.filter_map(|line| line.strip_prefix("done ")?.parse().ok()).last().or(last)
}

#[test]
fn nothing_acknowledged_is_lost() {
    let seed = 20_261_121;
    let mut random = StdRng::seed_from_u64(seed);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("flowkit.db");
    let mut lease_no = 0;
    for round in 0..KILLS {
        let child = crate::child::start("write", &path);
        let last = kill_after(child, random.random_range(1..150)).expect("it did something");

        let file = rusqlite::Connection::open(&path).unwrap();
        let verdict: String =
            file.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(verdict, "ok", "round {round}, seed {seed}");
        drop(file);

        block_on(async {
            let db = Database::open(&path).unwrap();
            let (bus, store) = (EmbeddedBus::new(db.clone()), store(&db));
            let run = stored(&store, &key("t", "n")).await;
            assert!(run.progress.finished > last, "round {round}, seed {seed}");
            assert!(run.lease_no.0 > lease_no);
            lease_no = run.lease_no.0;
            let artifacts = scan(&store, &key("t", "n"), 1000).await;
            assert!(artifacts.len() as u64 > last, "round {round}, seed {seed}");
            let group = format!("round-{round}");
            let mut reader = bus.subscribe(&group, &[topic()]).await.unwrap();
            let mut expected = 0;
            while expected <= last {
                let number: u64 = text(&next(&mut *reader).await).parse().unwrap();
                // A crash between the two makes the child publish a number never.
                assert!(number >= expected, "round {round}, seed {seed}");
                expected = number + 1;
            }
        });
    }
}

/// A child that dies while it makes the file leaves one that the next can use.
#[test]
fn a_file_can_be_left_half_made() {
    let seed = 7;
    let mut random = StdRng::seed_from_u64(seed);
    for round in 0..12 {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("flowkit.db");
        let mut child = crate::child::start("write", &path);
        let began = Instant::now();
        while !path.exists() && began.elapsed() < Duration::from_secs(30) {
            std::thread::yield_now();
        }
        std::thread::sleep(Duration::from_micros(random.random_range(0..8_000)));
        child.kill().unwrap();
        child.wait().unwrap();
        let opened = Database::open(&path);
        assert!(opened.is_ok(), "round {round}, seed {seed}: {:?}", opened.err());
        block_on(async {
            let messages = [message(&topic(), None, "x")];
            EmbeddedBus::new(opened.unwrap()).publish(&messages, None).await.unwrap();
        });
    }
}

/// Two that write to one file, killed one after the other, lose nothing of each other's.
#[test]
fn writers_do_not_hurt_each_other() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("flowkit.db");
    let first = crate::child::start("write-first", &path);
    let second = crate::child::start("write-second", &path);
    let done = [("first", kill_after(first, 60)), ("second", kill_after(second, 60))];
    block_on(async {
        let store = store(&Database::open(&path).unwrap());
        for (node, last) in done {
            let run = stored(&store, &key("t", node)).await;
            assert!(run.progress.finished > last.expect("it did something"), "{node}");
            let artifacts = scan(&store, &key("t", node), 1000).await;
            assert!(artifacts.len() as u64 >= run.progress.finished, "{node}");
        }
    });
    let file = rusqlite::Connection::open(&path).unwrap();
    let verdict: String = file.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(verdict, "ok");
}

/// The child: a worker that owns a run, coordinates and has a message in its hands.
pub fn hold_until_killed(path: &Path) {
    block_on(async {
        let db = Database::open(path).unwrap();
        db.register_worker(&worker("holder")).await.unwrap();
        let bus = EmbeddedBus::new(db.clone());
        let run = new_run(&key("t", "n"), 1, &role());
        let _ = store(&db).admit(&run, Some(&owner("holder"))).await.unwrap();
        let mut member = bus.subscribe("group", &[topic()]).await.unwrap();
        let taken = next(&mut *member).await;
        say(&format!("\ndone {}", text(&taken)));
        std::future::pending::<()>().await;
    });
}

#[test]
fn others_take_over_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("flowkit.db");
    block_on(async {
        let db = Database::open(&path).unwrap();
        let (bus, store) = (EmbeddedBus::new(db.clone()), store(&db));
        let messages = [message(&topic(), None, "1"), message(&topic(), None, "2")];
        bus.publish(&messages, None).await.unwrap();
        let mut child = crate::child::start("hold", &path);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        while lines.next().unwrap().unwrap() != "done 1" {}

        let mut member = bus.subscribe("group", &[topic()]).await.unwrap();
        nothing(&mut *member).await;
        let query = query("other", &role(), NOW);
        assert_eq!(claimable(&store, &query).await, []);
        let refused = db.register_worker(&worker("holder")).await;
        assert!(matches!(refused, Err(RegisterError::Running { .. })), "{refused:?}");

        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(claimable(&store, &query).await, [key("t", "n")]);
        let killed = Instant::now();
        for expected in ["1", "2"] {
            let again = next(&mut *member).await;
            assert_eq!(text(&again), expected);
            member.commit(&again).await.unwrap();
        }
        assert!(killed.elapsed() < Duration::from_secs(5));
        db.register_worker(&worker("holder")).await.unwrap();
        assert_eq!(claimable(&store, &query).await, []);
        let mine = flowkit::store::ClaimQuery { worker_id: worker("holder"), ..query };
        assert_eq!(claimable(&store, &mine).await, [key("t", "n")]);
        assert_eq!(
            fence(&key("t", "n"), 1, 1, "holder"),
            stored(&store, &key("t", "n")).await.fence().unwrap()
        );
    });
}

#[test]
fn a_worker_runs_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("flowkit.db");
    block_on(async {
        let (first, second) = (Database::open(&path).unwrap(), Database::open(&path).unwrap());
        first.register_worker(&worker("w-1")).await.unwrap();
        first.register_worker(&worker("w-1")).await.unwrap();
        second.register_worker(&worker("w-2")).await.unwrap();
        let error = second.register_worker(&worker("w-1")).await.unwrap_err().to_string();
        let full = directory.path().canonicalize().unwrap();
        insta::assert_snapshot!(error.replace(full.to_str().unwrap(), "DIR"), @"another process already is the worker `w-1` on the database DIR/flowkit.db; stop it, or give this one another `worker_id`");
        drop(first);
        second.register_worker(&worker("w-1")).await.unwrap();
    });
    let left = std::fs::read_dir(directory.path().join("flowkit.db.workers")).unwrap();
    assert_eq!(left.count(), 0);
}
