//! Several workers on the virtual clock, in a world that goes wrong at random: crashes,
//! restarts, clean stops, outages, lost answers, commands that come twice, newer attempts,
//! cancels. Whatever happens, `design.md`'s invariants 1 to 5 hold at the end.
//!
//! `FLOWKIT_SIM_RUNS` sets how many schedules are tried, `FLOWKIT_SIM_SEED` picks one.

use std::collections::BTreeMap;

use flowkit::protocol::RunEvent;
use flowkit::settings::Settings;
use flowkit::store::{RunEnd, RunStore as _, TaskStore as _};
use flowkit::types::{Epoch, TaskId};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};

use crate::faults::Line;
use crate::scripted::Plan;
use crate::world::{Process, World, address, ms, secs};

const RUNS: u64 = 120;
const WORKERS: [&str; 3] = ["w0", "w1", "w2"];

/// A node's adapter, if it has one, and how many batches it must come to.
struct Node {
    name: &'static str,
    input: Option<Value>,
    batches: usize,
}

fn nodes() -> Vec<Node> {
    let pull = |from: &str| json!({"input_adapter": "pull.from_artifacts", "input_args": {"from_nodes": [from]}});
    vec![
        // Downstream first: it has to wait for what comes later.
        Node { name: "sink", input: Some(pull("mid")), batches: 9 },
        Node { name: "mid", input: Some(pull("src")), batches: 9 },
        Node { name: "src", input: None, batches: 9 },
        Node { name: "over", input: None, batches: 7 },
        Node { name: "long", input: None, batches: 12 },
    ]
}

/// Tells how to see a failing schedule again.
struct Replay(u64);

impl Drop for Replay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let seed = self.0;
            eprintln!("replay: FLOWKIT_SIM_SEED={seed} cargo test -p flowkit --test worker sim::");
        }
    }
}

#[test]
fn whatever_happens_the_invariants_hold() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seeds = match number("FLOWKIT_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("FLOWKIT_SIM_RUNS").unwrap_or(RUNS),
    };
    for seed in seeds {
        let replay = Replay(seed);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async { Sim::new(seed).run().await });
        drop(replay);
    }
}

struct Sim {
    rng: StdRng,
    world: World,
    workers: BTreeMap<&'static str, Process>,
    epochs: BTreeMap<&'static str, u32>,
    cancelled: BTreeMap<&'static str, u32>,
    lives: u64,
    seed: u64,
}

impl Sim {
    fn new(seed: u64) -> Self {
        let world = World::new();
        world.script.watch(&world.store);
        Self {
            rng: StdRng::seed_from_u64(seed),
            world,
            workers: BTreeMap::new(),
            epochs: nodes().iter().map(|node| (node.name, 1)).collect(),
            cancelled: BTreeMap::new(),
            lives: 0,
            seed,
        }
    }

    async fn run(mut self) {
        let names: Vec<&str> = nodes().iter().map(|node| node.name).collect();
        self.world.task(&names, 1).await;
        for node in nodes() {
            let takes = ms(self.rng.random_range(1..1_500));
            let own = if node.input.is_none() { node.batches } else { 0 };
            let mut plan = Plan::of(own).taking(takes);
            plan.checkpoints = node.name == "long" || node.name == "src";
            self.world.script.plan(node.name, plan);
            self.command(&node).await;
        }
        for worker in WORKERS {
            self.start(worker);
        }
        for _ in 0..self.rng.random_range(5..40) {
            tokio::time::sleep(ms(self.rng.random_range(0..4_000))).await;
            self.misfortune().await;
        }
        self.heal();
        self.finish().await;
        self.check().await;
    }

    fn settings(&mut self, worker: &str) -> Settings {
        let mut settings = World::settings(worker);
        settings.max_concurrent_tasks = self.rng.random_range(1..4);
        settings.lease_ttl = secs(10);
        settings.hb_interval = secs(3);
        settings.max_clock_skew = ms(500);
        settings
    }

    fn start(&mut self, worker: &'static str) {
        self.lives += 1;
        let line = Line::new(self.seed * 1_000 + self.lives, ms(self.rng.random_range(0..30)));
        line.lose_answers(self.rng.random_range(0..60));
        let settings = self.settings(worker);
        self.workers.insert(worker, self.world.start_with(settings, line));
    }

    async fn command(&self, node: &Node) {
        let address = address(node.name, self.epochs[node.name]);
        self.world.command_with(&address, node.input.clone()).await;
    }

    async fn misfortune(&mut self) {
        let worker = WORKERS[self.rng.random_range(0..WORKERS.len())];
        let node = &nodes()[self.rng.random_range(0..nodes().len())];
        match self.rng.random_range(0..12) {
            0..=2 => match self.workers.remove(worker) {
                Some(process) => process.crash().await,
                None => self.start(worker),
            },
            3 => match self.workers.remove(worker) {
                Some(process) => process.stop().await,
                None => self.start(worker),
            },
            4 | 5 => {
                if !self.workers.contains_key(worker) {
                    self.start(worker);
                }
            }
            6 | 7 => {
                let (store, bus) = (self.rng.random_bool(0.4), self.rng.random_bool(0.3));
                if let Some(process) = self.workers.get(worker) {
                    process.line.store_down(store);
                    process.line.bus_down(bus);
                }
            }
            8 | 9 => self.command(node).await,
            10 if node.name == "over" => self.supersede(node).await,
            11 if node.name == "over" => self.cancel(node).await,
            _ => {}
        }
    }

    /// As a coordinator does after a failure: first in `tasks`, then by command.
    async fn supersede(&mut self, node: &Node) {
        let epoch = self.epochs[node.name] + 1;
        self.epochs.insert(node.name, epoch);
        let id = TaskId::new("t1").unwrap();
        let mut task = self.world.store.task(&id).await.unwrap().unwrap();
        for stored in &mut task.graph.nodes {
            if stored.node_id.as_str() == node.name {
                stored.attempt_epoch = Epoch(epoch);
            }
        }
        assert!(self.world.store.save_task(&task).await.unwrap());
        tokio::time::sleep(ms(self.rng.random_range(0..3_000))).await;
        self.command(node).await;
    }

    async fn cancel(&mut self, node: &Node) {
        let epoch = self.epochs[node.name];
        self.cancelled.insert(node.name, epoch);
        if self.rng.random_bool(0.5) {
            self.world.signal(node.name, epoch, "enough", None).await;
        } else {
            self.world.cancel_command(node.name, epoch, "enough").await;
        }
    }

    fn heal(&mut self) {
        for worker in WORKERS {
            match self.workers.get(worker) {
                Some(process) => {
                    process.line.store_down(false);
                    process.line.bus_down(false);
                }
                None => self.start(worker),
            }
        }
    }

    async fn finish(&self) {
        for _ in 0..600 {
            tokio::time::sleep(secs(1)).await;
            let mut over = true;
            for (name, epoch) in &self.epochs {
                let run = self.world.store.run(&crate::world::key(name)).await.unwrap();
                over &= run.is_some_and(|run| run.new.epoch == Epoch(*epoch) && run.end_sent);
            }
            if over {
                // Nothing may follow.
                tokio::time::sleep(secs(30)).await;
                return;
            }
        }
        let lines: Vec<_> = self.epochs.keys().map(|n| (n, self.world.lines(n))).collect();
        panic!("the runs never end: {lines:#?}");
    }

    async fn check(&self) {
        assert_eq!(self.world.script.violations(), Vec::<String>::new());
        for node in nodes() {
            let epoch = self.epochs[node.name];
            let lines = self.world.lines(node.name);
            let record = self.world.record(node.name).await;
            let why = || format!("{}: {lines:#?}", node.name);
            match record.end.clone().unwrap() {
                RunEnd::Done { metrics } => {
                    let rows = metrics.as_object().get("rows").cloned();
                    assert_eq!(rows, Some(json!(node.batches)), "{}", why());
                    let artifacts = self.world.artifacts(node.name, epoch).await;
                    let ordinals: Vec<u64> = artifacts.iter().map(|(_, at)| *at).collect();
                    let all: Vec<u64> = (0..node.batches as u64).collect();
                    assert_eq!(ordinals, all, "{}", why());
                    assert!(self.world.is_complete(node.name).await, "{}", why());
                }
                RunEnd::Cancelled { .. } => {
                    assert_eq!(self.cancelled.get(node.name), Some(&epoch), "{}", why());
                }
                end @ RunEnd::Failed { .. } => panic!("{end:?} {}", why()),
            }
            self.check_story(node.name, epoch);
        }
    }

    /// What was said about the last attempt: accepted first, by its owner only, and
    /// nothing after the end but the same end.
    fn check_story(&self, node: &str, epoch: u32) {
        let mut owner = None;
        let mut end: Option<String> = None;
        let said: Vec<_> = self.world.said(node).into_iter().map(|(_, status)| status).collect();
        for status in said.iter().filter(|status| status.address.epoch == Epoch(epoch)) {
            let why = || format!("{node}: {:?} in {:#?}", status.event, self.world.lines(node));
            if let Some(end) = &end {
                assert_eq!(*end, status.dedup_id, "after the end: {}", why());
                continue;
            }
            match &status.event {
                RunEvent::TaskAccepted(lease) | RunEvent::TaskResumed(lease) => {
                    owner = Some(lease.worker_id.clone());
                }
                RunEvent::TaskHeartbeat(lease) if owner.is_some() => {
                    assert_eq!(owner.as_ref(), Some(&lease.worker_id), "{}", why());
                }
                RunEvent::TaskHeartbeat(_) => {}
                RunEvent::BatchOk { worker_id, .. } => {
                    assert_eq!(owner.as_ref(), Some(worker_id), "{}", why());
                }
                _ => {
                    assert!(owner.is_some(), "an end of what was never accepted: {}", why());
                    end = Some(status.dedup_id.clone());
                }
            }
        }
        assert!(end.is_some(), "{node} has no end");
    }
}
