use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::store::NodeStatus;

const T0: UnixMs = UnixMs(1_000_000);

fn task(graph: Value) -> Task {
    let graph = Graph::from_value(graph, None).unwrap().graph;
    Task::new(TaskId::new("t").unwrap(), graph, None, T0)
}

fn chain(policy: Value) -> Task {
    task(json!({"nodes": [
        {"node_id": "a", "type": "r", "retry_policy": policy},
        {"node_id": "b", "type": "r", "depends_on": ["a"]},
        {"node_id": "c", "type": "r"},
    ]}))
}

fn failure(reason_code: &str, permanent: bool) -> NodeEvent {
    NodeEvent::Failed(Failure { reason_code: reason_code.into(), permanent, error: None })
}

fn owner(name: &str) -> NodeEvent {
    let worker_id = WorkerId::new(name).unwrap();
    NodeEvent::Owned(NodeOwner { worker_id, lease_id: crate::types::LeaseId::new("l").unwrap() })
}

fn cancelled(reason: &str) -> NodeEvent {
    NodeEvent::Cancelled { reason: reason.into() }
}

fn statuses(task: &Task) -> Vec<NodeStatus> {
    task.nodes().iter().map(|node| node.stage.status()).collect()
}

fn started(step: &Step) -> Vec<(usize, u32)> {
    let starts = step.orders.iter().filter_map(|order| match order {
        Order::Start { node, epoch } => Some((*node, epoch.0)),
        Order::Cancel { .. } => None,
    });
    starts.collect()
}

fn stopped(step: &Step) -> Vec<(usize, &str)> {
    let stops = step.orders.iter().filter_map(|order| match order {
        Order::Cancel { node, reason, .. } => Some((*node, reason.as_str())),
        Order::Start { .. } => None,
    });
    stops.collect()
}

#[test]
fn a_node_starts_when_its_parents_are_done() {
    let mut task = chain(Value::Null);
    assert_eq!(task.status(), TaskStatus::Queued);
    assert_eq!(started(&task.on_begin(T0)), [(0, 1), (2, 1)]);
    assert_eq!(started(&task.on_event(0, Epoch(1), NodeEvent::Artifact, T0)), []);
    assert_eq!(started(&task.on_event(0, Epoch(1), NodeEvent::Done, T0)), [(1, 1)]);
    assert_eq!(task.status(), TaskStatus::Running);
    for node in [2, 1] {
        assert_eq!(task.outcome(), None);
        assert_eq!(started(&task.on_event(node, Epoch(1), NodeEvent::Done, T0)), []);
    }
    assert_eq!(task.outcome(), Some(Outcome::Finished));
}

#[test]
fn any_and_count_wait_for_finished_parents_only() {
    let mut task = task(json!({"nodes": [
        {"node_id": "a", "type": "r"}, {"node_id": "b", "type": "r"}, {"node_id": "c", "type": "r"},
        {"node_id": "any", "type": "r", "depends_on": ["a", "b", "c"], "fan_in": "any"},
        {"node_id": "two", "type": "r", "depends_on": ["a", "b", "c"], "fan_in": "count:2"},
    ]}));
    assert_eq!(started(&task.on_begin(T0)), [(0, 1), (1, 1), (2, 1)]);
    assert_eq!(started(&task.on_event(1, Epoch(1), NodeEvent::Artifact, T0)), []);
    assert_eq!(started(&task.on_event(1, Epoch(1), NodeEvent::Done, T0)), [(3, 1)]);
    assert_eq!(started(&task.on_event(2, Epoch(1), NodeEvent::Done, T0)), [(4, 1)]);
    assert_eq!(started(&task.on_event(0, Epoch(1), NodeEvent::Done, T0)), []);
}

#[test]
fn the_first_artifact_of_any_parent_starts_a_streaming_node() {
    let graph = json!({"nodes": [
        {"node_id": "a", "type": "r", "retry_policy": {"max": 2, "backoff_sec": 1}},
        {"node_id": "b", "type": "r"},
        {"node_id": "s", "type": "r", "depends_on": ["a", "b"], "io": {"start_when": "first_batch"}},
    ]});
    let mut by_batch = task(graph.clone());
    let _ = by_batch.on_begin(T0);
    assert_eq!(started(&by_batch.on_event(0, Epoch(1), NodeEvent::Artifact, T0)), [(2, 1)]);
    // Once only, and the parent's retry does not disturb it.
    assert_eq!(started(&by_batch.on_event(1, Epoch(1), NodeEvent::Artifact, T0)), []);
    let _ = by_batch.on_event(0, Epoch(1), failure("busy", false), T0);
    assert_eq!(statuses(&by_batch)[2], NodeStatus::Running);

    // A parent that ends without a batch leaves a complete artifact.
    let mut by_end = task(graph);
    let _ = by_end.on_begin(T0);
    assert_eq!(started(&by_end.on_event(1, Epoch(1), NodeEvent::Done, T0)), [(2, 1)]);
}

#[test]
fn without_a_policy_a_node_is_tried_once_and_its_failure_ends_the_task() {
    let mut task = chain(Value::Null);
    let _ = task.on_begin(T0);
    let step = task.on_event(0, Epoch(1), failure("busy", false), T0);
    assert_eq!(stopped(&step), [(2, "hard_fail:busy")]);
    assert_eq!(statuses(&task), [NodeStatus::Failed, NodeStatus::Skipped, NodeStatus::Cancelling]);
    assert_eq!(task.status(), TaskStatus::Cancelling);
    let _ = task.on_event(2, Epoch(1), cancelled("hard_fail:busy"), T0);
    assert_eq!(task.outcome(), Some(Outcome::Failed));
    assert_eq!(task.nodes()[0].failure.as_ref().unwrap().reason_code, "busy");
}

#[test]
fn a_policy_tries_again_after_its_backoff_until_max() {
    let mut task = chain(json!({"max": 3, "backoff_sec": 10}));
    let _ = task.on_begin(T0);
    let mut now = T0;
    for attempt in 1..3 {
        let step = task.on_event(0, Epoch(attempt), failure("busy", false), now);
        assert_eq!(started(&step), []);
        assert_eq!(statuses(&task)[0], NodeStatus::Deferred);
        let due = now.plus(Duration::from_secs(10));
        assert_eq!(task.next_wake(), Some(due));
        assert_eq!(started(&task.on_tick(UnixMs(due.0 - 1))), []);
        assert_eq!(started(&task.on_tick(due)), [(0, attempt + 1)]);
        // A late echo of the attempt that failed.
        assert_eq!(task.on_event(0, Epoch(attempt), failure("busy", true), due), Step::default());
        now = due;
    }
    let _ = task.on_event(0, Epoch(3), failure("busy", false), now);
    assert_eq!(statuses(&task)[0], NodeStatus::Failed);
}

#[test]
fn permanent_failures_and_listed_reasons_are_not_tried_again() {
    for event in [failure("busy", true), failure("bad_row", false)] {
        let mut task = chain(json!({"max": 9, "permanent_on": ["bad_row"]}));
        let _ = task.on_begin(T0);
        let _ = task.on_event(0, Epoch(1), event, T0);
        assert_eq!(statuses(&task)[0], NodeStatus::Failed);
    }
}

#[test]
fn a_request_stops_everything_and_an_end_that_came_first_counts() {
    let mut task = chain(Value::Null);
    let _ = task.on_begin(T0);
    let _ = task.on_event(0, Epoch(1), owner("w"), T0);
    let step = task.on_cancel("enough", T0);
    assert_eq!(stopped(&step), [(0, "enough"), (2, "enough")]);
    assert_eq!(
        statuses(&task),
        [NodeStatus::Cancelling, NodeStatus::Cancelled, NodeStatus::Cancelling]
    );
    assert_eq!(task.on_cancel("again", T0), Step::default());
    // Nobody has accepted `c`; a late acceptance is told again, and given time.
    let step = task.on_event(2, Epoch(1), owner("w"), T0);
    assert_eq!(stopped(&step), [(2, "enough")]);
    let _ = task.on_event(0, Epoch(1), NodeEvent::Done, T0);
    assert_eq!(statuses(&task)[0], NodeStatus::Finished);
    assert_eq!(task.outcome(), None);
    // A worker that never answers does not keep the task open.
    let _ = task.on_tick(T0.plus(CANCEL_WITHIN));
    assert_eq!(task.outcome(), Some(Outcome::Cancelled));
    assert!(task.to_doc(T0).graph.nodes[2].coordinator.cancelled);
}

#[test]
fn a_worker_may_read_the_cancel_flag_before_the_coordinator_does() {
    let mut task = chain(json!({}));
    let _ = task.on_begin(T0);
    let step = task.on_event(0, Epoch(1), cancelled("enough"), T0);
    assert_eq!(stopped(&step), [(2, "enough")]);
    let _ = task.on_event(2, Epoch(1), cancelled("enough"), T0);
    assert_eq!(task.outcome(), Some(Outcome::Cancelled));
}

#[test]
fn a_clock_that_is_set_back_does_not_stretch_a_wait() {
    let mut task = chain(json!({"max": 2, "backoff_sec": 10}));
    let _ = task.on_begin(T0);
    let _ = task.on_event(0, Epoch(1), failure("busy", false), T0);
    let past = UnixMs(T0.0 - 3_600_000);
    let _ = task.on_tick(past);
    assert_eq!(task.next_wake(), Some(past.plus(Duration::from_secs(10))));
}

#[test]
fn begin_repeats_orders_that_may_be_lost() {
    let mut task = chain(Value::Null);
    let _ = task.on_begin(T0);
    let _ = task.on_event(2, Epoch(1), owner("w"), T0);
    let mut read_back = Task::from_doc(&task.to_doc(T0)).unwrap();
    assert_eq!(started(&read_back.on_begin(T0)), [(0, 1)]);
    let _ = read_back.on_cancel("enough", T0);
    let mut read_back = Task::from_doc(&read_back.to_doc(T0)).unwrap();
    assert_eq!(stopped(&read_back.on_begin(T0)), [(0, "enough"), (2, "enough")]);
}

#[test]
fn a_damaged_document_names_the_node() {
    let mut doc = chain(Value::Null).to_doc(T0);
    doc.graph.nodes[1].more.insert("flowkit".into(), json!({"stage": {"is": "gone"}}));
    let error = Task::from_doc(&doc).unwrap_err().to_string();
    assert!(error.starts_with("node `b`: unknown variant `gone`"), "{error}");
    doc.graph.nodes[1].more.remove("flowkit");
    assert!(Task::from_doc(&doc).is_ok());
    doc.graph.nodes[1].status = NodeStatus::Running;
    assert!(Task::from_doc(&doc).is_err());
}

/// One move of a world around a task; numbers choose among what is possible.
#[derive(Debug, Clone)]
enum Move {
    /// An ordered attempt tells something.
    Tell { which: usize, what: u8 },
    /// Something old is told again.
    Repeat { which: usize },
    /// Time passes.
    Wait { ms: u64 },
    /// Another process goes on.
    Restart,
    /// A person loses patience.
    Cancel,
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        12 => (any::<usize>(), 0u8..12).prop_map(|(which, what)| Move::Tell { which, what }),
        3 => any::<usize>().prop_map(|which| Move::Repeat { which }),
        2 => (0u64..4_000).prop_map(|ms| Move::Wait { ms }),
        1 => Just(Move::Restart),
    ];
    let often = proptest::collection::vec(one, 0..120);
    (often, proptest::option::weighted(0.3, 0usize..120)).prop_map(|(mut moves, cancel)| {
        if let Some(at) = cancel {
            moves.insert(at.min(moves.len()), Move::Cancel);
        }
        moves
    })
}

fn graphs() -> impl Strategy<Value = Graph> {
    let node = (any::<u16>(), 0usize..6, any::<bool>(), proptest::option::of((1u32..4, 0u32..3)));
    proptest::collection::vec(node, 1..9).prop_map(|nodes| {
        let nodes = nodes.into_iter().enumerate().map(|(at, (mask, fan, first, retry))| {
            let parents: Vec<String> =
                (0..at).filter(|p| mask >> p & 1 == 1).map(|p| format!("n{p}")).collect();
            let fan_in = match fan {
                0 | 1 => "all".to_owned(),
                2 => "any".to_owned(),
                n => format!("count:{}", (n - 2).min(parents.len())),
            };
            let fan_in = if parents.is_empty() { "all".to_owned() } else { fan_in };
            let io = if first { json!({"start_when": "first_batch"}) } else { json!({}) };
            let retry = retry.map(|(max, sec)| json!({"max": max, "backoff_sec": sec}));
            json!({"node_id": format!("n{at}"), "type": "r", "depends_on": parents,
                   "fan_in": fan_in, "io": io, "retry_policy": retry})
        });
        let nodes: Vec<Value> = nodes.collect();
        Graph::from_value(json!({"nodes": nodes}), None).unwrap().graph
    })
}

/// Workers that carry out orders in any order, twice, or late.
struct World {
    task: Task,
    now: UnixMs,
    /// Attempts that were ordered and have not told their end.
    live: Vec<(usize, Epoch)>,
    told: Vec<(usize, Epoch, NodeEvent)>,
    started: Vec<(usize, Epoch)>,
}

impl World {
    fn new(graph: Graph) -> Self {
        let task = Task::new(TaskId::new("t").unwrap(), graph, None, T0);
        let mut world = Self { task, now: T0, live: vec![], told: vec![], started: vec![] };
        let step = world.task.on_begin(T0);
        world.obey(step);
        world
    }

    fn obey(&mut self, step: Step) {
        for order in step.orders {
            match order {
                Order::Start { node, epoch } => self.start(node, epoch),
                Order::Cancel { node, epoch, .. } => {
                    let stage = &self.task.nodes()[node].stage;
                    assert!(matches!(stage, Stage::Cancelling { .. }), "{stage:?}");
                    assert_eq!(stage.epoch(), epoch);
                }
            }
        }
        self.check();
    }

    fn start(&mut self, node: usize, epoch: Epoch) {
        if self.started.contains(&(node, epoch)) {
            return; // a repeated order
        }
        assert!(!self.live.iter().any(|(n, _)| *n == node), "two attempts of n{node} at once");
        let before = self.started.iter().filter(|(n, _)| *n == node).count();
        assert_eq!(epoch.0 as usize, before + 1, "epochs rise by one");
        let wanted = &self.task.graph().nodes()[node];
        let most = wanted.retry.as_ref().map_or(1, |retry| retry.max.get());
        assert!(epoch.0 <= most, "attempt {epoch} of at most {most}");
        let ended =
            |p: &&usize| self.told.iter().any(|(n, _, event)| n == *p && *event == NodeEvent::Done);
        let artifact = |p: &usize| {
            self.told.iter().any(|(n, _, event)| {
                n == p && matches!(event, NodeEvent::Done | NodeEvent::Artifact)
            })
        };
        let finished = wanted.parents.iter().filter(ended).count();
        let early = wanted.first_batch && wanted.parents.iter().any(artifact);
        assert!(early || wanted.satisfied_by(finished), "n{node} started before its parents");
        self.started.push((node, epoch));
        self.live.push((node, epoch));
    }

    fn check(&self) {
        let stages: Vec<&Stage> = self.task.nodes().iter().map(|node| &node.stage).collect();
        if stages.iter().any(|stage| stage.stops_task()) {
            for stage in &stages {
                let open =
                    matches!(stage, Stage::Waiting | Stage::Running { .. } | Stage::Backoff { .. });
                assert!(!open, "{stages:?}");
            }
        }
        let ended = stages.iter().all(|stage| stage.status().is_final());
        assert_eq!(self.task.outcome().is_some(), ended);
        assert_eq!(self.task.status().is_final(), ended);
        let read_back = Task::from_doc(&self.task.to_doc(self.now)).unwrap();
        assert_eq!(read_back, self.task, "a document keeps everything");
    }

    fn tell(&mut self, at: usize, event: NodeEvent) {
        let (node, epoch) = self.live[at];
        let ends = !matches!(event, NodeEvent::Owned(_) | NodeEvent::Artifact);
        if ends {
            self.live.remove(at);
        }
        self.told.push((node, epoch, event.clone()));
        let step = self.task.on_event(node, epoch, event, self.now);
        self.obey(step);
    }

    fn wait(&mut self, by: Duration) {
        self.now = self.now.plus(by);
        let step = self.task.on_tick(self.now);
        self.obey(step);
    }

    fn perform(&mut self, one: Move) {
        match one {
            Move::Tell { which, what } if !self.live.is_empty() => {
                let at = which % self.live.len();
                let (node, _) = self.live[at];
                let cancelling = matches!(self.task.nodes()[node].stage, Stage::Cancelling { .. });
                let event = match what {
                    0..=2 => owner(["w1", "w2", "w3"][usize::from(what)]),
                    3..=4 => NodeEvent::Artifact,
                    5..=8 => NodeEvent::Done,
                    9 => failure("busy", false),
                    10 => failure("broken", true),
                    // A worker says so only when it was told to.
                    _ if cancelling => cancelled("told"),
                    _ => NodeEvent::Done,
                };
                self.tell(at, event);
            }
            Move::Repeat { which } if !self.told.is_empty() => {
                let (node, epoch, event) = self.told[which % self.told.len()].clone();
                let over = !self.live.contains(&(node, epoch));
                let before = self.task.clone();
                let step = self.task.on_event(node, epoch, event, self.now);
                if over {
                    assert_eq!(step, Step::default(), "the attempt was over");
                    assert_eq!(before, self.task);
                } else {
                    self.obey(step);
                }
            }
            Move::Wait { ms } => self.wait(Duration::from_millis(ms)),
            Move::Restart => {
                self.task = Task::from_doc(&self.task.to_doc(self.now)).unwrap();
                let step = self.task.on_begin(self.now);
                self.obey(step);
            }
            Move::Cancel => {
                let step = self.task.on_cancel("enough", self.now);
                self.obey(step);
            }
            Move::Tell { .. } | Move::Repeat { .. } => {}
        }
    }

    /// Workers that answer, and time, are all that a task needs to end.
    fn run_out(&mut self) {
        for _ in 0..1_000 {
            if self.task.outcome().is_some() {
                return;
            }
            if self.live.is_empty() {
                let wake = self.task.next_wake().expect("something must still happen");
                self.wait(wake.since(self.now));
            } else {
                self.tell(0, NodeEvent::Done);
            }
        }
        panic!("the task never ends: {:?}", self.task);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn every_task_ends_and_no_order_breaks_the_graph(graph in graphs(), moves in moves()) {
        let mut world = World::new(graph);
        for one in moves {
            world.perform(one);
        }
        world.run_out();
        let all_done = statuses(&world.task).iter().all(|s| *s == NodeStatus::Finished);
        prop_assert_eq!(all_done, world.task.outcome() == Some(Outcome::Finished));
    }
}
