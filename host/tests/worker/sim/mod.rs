//! Several workers on the virtual clock, in a world that goes wrong at random: crashes at
//! any effect, restarts, clean stops, outages, slow lines, lost answers, processes that
//! stand still past their leases, partitions that move, commands that come twice or late,
//! handlers that fail, newer attempts, cancels, and a coordinator that is restarted.
//! Whatever happens, `design.md`'s invariants 1 to 6 hold at the end.
//!
//! `FLOWKIT_SIM_RUNS` sets how many schedules are tried, `FLOWKIT_SIM_SEED` picks one.

mod checks;
mod coordinator;
pub mod witness;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use flowkit::settings::Settings;
use flowkit::store::RunStore as _;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::json;

use self::coordinator::{Coordinator, Node};
use self::witness::Witness;
use crate::faults::Line;
use crate::scripted::{Plan, Quirk};
use crate::world::{Process, World, ms, secs};

const RUNS: u64 = 2_000;
const WORKERS: [&str; 5] = ["w0", "w1", "w2", "w3", "w4"];

/// The longest that everything may take once nothing goes wrong any more: the last of the
/// looks at an end comes that late.
const PATIENCE: u64 = 3_000;

/// Names, what they read from, how many batches they come to.
const NODES: [(&str, Option<&str>, u64); 6] = [
    // Downstream first: it has to wait for what comes later.
    ("sink", Some("src"), 6),
    ("src", None, 6),
    ("over", None, 7),
    ("long", None, 12),
    ("flop", None, 5),
    ("halt", None, 30),
];

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
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
    let (first, end) = match number("FLOWKIT_SIM_SEED") {
        Some(seed) => (seed, seed + 1),
        None => (0, number("FLOWKIT_SIM_RUNS").unwrap_or(RUNS)),
    };
    let next = AtomicU64::new(first);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    // Whoever fails lets the others end what they are at.
                    let failed = Failed(&next);
                    schedule(seed);
                    std::mem::forget(failed);
                }
            });
        }
    });
}

struct Failed<'a>(&'a AtomicU64);

impl Drop for Failed<'_> {
    fn drop(&mut self) {
        self.0.store(u64::MAX / 2, Ordering::Relaxed);
    }
}

/// One schedule; what was said in it.
fn schedule(seed: u64) -> String {
    let replay = Replay(seed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let said = runtime.block_on(async { Sim::new(seed).run().await });
    drop(replay);
    said
}

#[test]
fn a_seed_is_one_schedule() {
    for seed in 0..3 {
        assert_eq!(schedule(seed), schedule(seed), "seed {seed}");
    }
}

struct Sim {
    rng: StdRng,
    world: World,
    workers: BTreeMap<&'static str, Process>,
    coordinator: Coordinator,
    witness: Witness,
    lives: u64,
    nonsense: u64,
    healed_at: flowkit::clock::UnixMs,
    seed: u64,
}

fn nodes(rng: &mut StdRng) -> BTreeMap<&'static str, Node> {
    let node = |(name, from, batches): (&'static str, Option<&str>, u64)| {
        let input = from.map(|from| {
            let args = json!({"from_nodes": [from], "poll_ms": 1_000});
            json!({"input_adapter": "pull.from_artifacts", "input_args": args})
        });
        let own = if input.is_none() { batches } else { 0 };
        // One takes long enough that a cancel which is not seen cannot be missed.
        let takes = if name == "halt" { 3_000 } else { rng.random_range(1..1_500) };
        let mut plan = Plan::of(usize::try_from(own).unwrap()).taking(ms(takes));
        plan.checkpoints = name == "long" || name == "src";
        (name, Node::new(input, plan, rng.random_range(0..4)))
    };
    NODES.map(node).into_iter().collect()
}

impl Sim {
    fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let world = World::new();
        world.script.watch(&world.store);
        let nodes = nodes(&mut rng);
        for (name, node) in &nodes {
            let plan = node.plan.clone();
            let batch = format!("b{}", rng.random_range(0..5));
            let fails = *name == "flop" || (*name == "over" && rng.random_bool(0.3));
            world
                .script
                .plan(name, if fails { plan.quirk(&batch, Quirk::Fail("no disk")) } else { plan });
        }
        Self {
            coordinator: Coordinator::new(&world, nodes, seed),
            witness: Witness::new(&world.store),
            rng,
            world,
            workers: BTreeMap::new(),
            lives: 0,
            nonsense: 0,
            healed_at: flowkit::clock::UnixMs(0),
            seed,
        }
    }

    async fn run(mut self) -> String {
        let names = self.coordinator.names();
        self.world.task(&names, 0).await;
        self.coordinator.begin(false).await;
        let count = self.rng.random_range(2..=WORKERS.len());
        for worker in &WORKERS[..count] {
            self.start(worker);
        }
        for name in names {
            self.coordinator.start(name).await;
        }
        for _ in 0..self.rng.random_range(5..40) {
            tokio::time::sleep(ms(self.rng.random_range(0..3_000))).await;
            self.misfortune(count).await;
        }
        self.heal(count).await;
        self.healed_at = self.world.clock.wall();
        self.finish().await;
        self.check().await;
        self.story()
    }

    /// Batches that a node comes to.
    fn batches(&self, name: &str) -> u64 {
        NODES.iter().find(|node| node.0 == name).unwrap().2
    }

    /// Everything that was said and when, but for the names that are fresh each time.
    fn story(&self) -> String {
        let role = flowkit::types::Role::new(crate::world::ROLE).unwrap();
        let messages = self.world.bus.messages(&self.world.topics.status(&role));
        let line = |message: &flowkit::bus::InMessage| {
            let status = flowkit::protocol::Status::decode(&message.value).unwrap();
            let (address, kind) = (status.address, status.event.kind());
            format!("{} {} {} {kind}\n", message.timestamp.0, address.key, address.epoch)
        };
        messages.iter().map(line).collect()
    }

    fn settings(&mut self, worker: &str) -> Settings {
        let mut settings = World::settings(worker);
        settings.max_concurrent_tasks = self.rng.random_range(1..4);
        settings.lease_ttl = secs(10);
        settings.hb_interval = secs(3);
        settings.max_clock_skew = ms(500);
        settings.cancel_poll = secs(2);
        settings.claim_poll = ms(1_500);
        settings
    }

    fn start(&mut self, worker: &'static str) {
        self.lives += 1;
        let line = Line::new(self.seed * 1_000 + self.lives, ms(self.rng.random_range(0..30)));
        line.lose_answers(self.rng.random_range(0..60));
        if self.rng.random_bool(0.3) {
            line.crash_at(self.rng.random_range(0..200));
        }
        line.watch(&self.witness);
        let settings = self.settings(worker);
        self.workers.insert(worker, self.world.start_with(settings, line));
    }

    async fn misfortune(&mut self, count: usize) {
        let worker = WORKERS[self.rng.random_range(0..count)];
        let node = NODES[self.rng.random_range(0..NODES.len())].0;
        match self.rng.random_range(0..21) {
            0..=2 => match self.workers.remove(worker) {
                Some(process) => process.crash().await,
                None => self.start(worker),
            },
            3 => match self.workers.remove(worker) {
                // One whose process stands still does not stop.
                Some(process) if process.line.crashed() => process.crash().await,
                Some(process) => self.stop(process).await,
                None => self.start(worker),
            },
            4..=6 if !self.workers.contains_key(worker) => self.start(worker),
            7 | 8 => {
                let (store, bus) = (self.rng.random_bool(0.4), self.rng.random_bool(0.3));
                if let Some(process) = self.workers.get(worker) {
                    process.line.store_down(store);
                    process.line.bus_down(bus);
                }
            }
            9 | 10 => self.on_line(worker, |line, rng| {
                let line = line.clone();
                let pause = ms(rng.random_range(2_000..25_000));
                tokio::spawn(async move {
                    line.freeze(true);
                    tokio::time::sleep(pause).await;
                    line.freeze(false);
                });
            }),
            11 | 12 => self.on_line(worker, |line, _| line.rebalance()),
            13 => self.on_line(worker, |line, rng| line.slow_down(ms(rng.random_range(0..2_500)))),
            14 | 15 => {
                let epoch = self.coordinator.node(node).epoch;
                let epoch = epoch.saturating_sub(u32::from(self.rng.random_bool(0.3))).max(1);
                self.coordinator.command(node, epoch).await;
            }
            16 | 17 => self.restart_coordinator().await,
            18 if !self.coordinator.node("over").is_over() && self.coordinator.is_there() => {
                self.coordinator.start("over").await;
            }
            19 if self.coordinator.is_there() => self.coordinator.cancel("halt").await,
            20 => self.say_nonsense().await,
            _ => {}
        }
    }

    async fn say_nonsense(&mut self) {
        let role = flowkit::types::Role::new(crate::world::ROLE).unwrap();
        let topics = &self.world.topics;
        let nonsense = format!("{{\"nonsense\": {}", self.nonsense).into_bytes();
        self.nonsense += 1;
        for topic in [&topics.commands(&role), &topics.signals, &topics.query] {
            self.world.say(topic, None, nonsense.clone()).await;
        }
    }

    fn on_line(&mut self, worker: &str, what: impl FnOnce(&Line, &mut StdRng)) {
        if let Some(process) = self.workers.get(worker) {
            what(&process.line, &mut self.rng);
        }
    }

    async fn stop(&mut self, process: Process) {
        process.line.freeze(false);
        process.shutdown.begin();
        // One that gets nowhere is killed in the end.
        let stopped = tokio::time::timeout(secs(20), process.task).await;
        if let Ok(stopped) = stopped {
            stopped.unwrap().unwrap();
        }
    }

    async fn restart_coordinator(&mut self) {
        if self.coordinator.is_there() {
            self.coordinator.end().await;
        } else {
            self.coordinator.begin(self.rng.random_bool(0.4)).await;
        }
    }

    async fn heal(&mut self, count: usize) {
        if !self.coordinator.is_there() {
            self.coordinator.begin(self.rng.random_bool(0.4)).await;
        }
        for worker in &WORKERS[..count] {
            if self.workers.get(worker).is_some_and(|process| process.line.dies()) {
                self.workers.remove(worker).unwrap().crash().await;
            }
            match self.workers.get(worker) {
                Some(process) => {
                    process.line.store_down(false);
                    process.line.bus_down(false);
                    process.line.freeze(false);
                    process.line.slow_down(ms(20));
                }
                None => {
                    self.start(worker);
                    self.workers[worker].line.never_dies();
                }
            }
        }
    }

    async fn finish(&self) {
        for _ in 0..PATIENCE {
            tokio::time::sleep(secs(1)).await;
            if self.is_over().await {
                // Nothing may follow.
                tokio::time::sleep(secs(10)).await;
                return;
            }
        }
        let lines: Vec<_> =
            self.coordinator.names().iter().map(|n| (*n, self.world.lines(n))).collect();
        panic!("the runs never end: {lines:#?}");
    }

    async fn is_over(&self) -> bool {
        for name in self.coordinator.names() {
            let node = self.coordinator.node(name);
            let run = self.world.store.run(&crate::world::key(name)).await.unwrap();
            let told = run.filter(|run| run.new.epoch.0 == node.epoch && run.end_sent);
            let Some(told) = told else { return false };
            let uncounted = node.status == flowkit::store::NodeStatus::Cancelling
                && matches!(told.end, Some(flowkit::store::RunEnd::Done { .. }));
            if !node.is_over() && !uncounted {
                return false;
            }
        }
        true
    }
}
