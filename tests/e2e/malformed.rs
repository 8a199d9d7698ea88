//! What nobody can use, between what everybody can.

use std::time::{Duration, Instant};

use flowkit::bus::{Bus as _, OutMessage};
use serde_json::{Value, json};

use crate::field::{Coordinator, Field, State};
use crate::support::PATIENCE;

const GOOD: usize = 20;

fn input(_: u32, _: usize) -> Value {
    json!({"count": 3})
}

/// A hundred commands of every wrong kind.
fn malformed(field: &Field) -> Vec<Vec<u8>> {
    let good: Value = serde_json::from_slice(&field.start("t", 1, &json!({})).value).unwrap();
    let with = |pointer: &str, value: Value| {
        let mut command = good.clone();
        *command.pointer_mut(pointer).unwrap() = value;
        command.to_string().into_bytes()
    };
    let without = |name: &str| {
        let mut command = good.clone();
        command.as_object_mut().unwrap().remove(name);
        command.to_string().into_bytes()
    };
    let kinds: Vec<Vec<u8>> = vec![
        b"".to_vec(),
        b"not json".to_vec(),
        b"[1, 2".to_vec(),
        b"[]".to_vec(),
        b"null".to_vec(),
        vec![0xff, 0xfe, 0x00],
        good.to_string().into_bytes()[..40].to_vec(),
        with("/v", json!(2)),
        with("/v", json!("1")),
        with("/msg_type", json!("event")),
        with("/task_id", json!("")),
        with("/task_id", json!(7)),
        with("/node_id", json!("a\u{0}b")),
        with("/attempt_epoch", json!(-1)),
        with("/attempt_epoch", json!(1.5)),
        with("/step_type", json!("another-role")),
        with("/payload", json!([])),
        with("/payload/cmd", json!("TASK_DANCE")),
        with("/payload/input_inline", json!("text")),
        without("task_id"),
        without("payload"),
        without("v"),
        without("attempt_epoch"),
        with("/task_id", json!("x".repeat(5_000))),
        // Larger than what a broker takes by default; this topic takes it.
        format!("not JSON {}", "x".repeat(2 << 20)).into_bytes(),
    ];
    kinds.iter().cycle().take(100).cloned().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_bad_commands_harm_no_good_one() {
    if !flowkit_servers::available("a_hundred_bad_commands_harm_no_good_one") {
        return;
    }
    let field = Field::new("steps", json!({"max_concurrent_tasks": 4})).await;
    let bad = malformed(&field);
    let large = raise_limit(&field).await;
    let mut coordinator = Coordinator::new(&field).await;
    let worker = field.site.worker("w-1");
    for chunk in bad.chunks(20) {
        let messages: Vec<OutMessage> =
            chunk.iter().map(|value| field.raw_command(value.clone())).collect();
        large.publish(&messages, None).await.unwrap();
    }
    coordinator.start(GOOD, input).await;
    let noise = |topic: &flowkit::bus::Topic, value: &[u8]| OutMessage {
        topic: topic.clone(),
        key: None,
        value: value.to_vec(),
        headers: Vec::new(),
    };
    let small: Vec<&Vec<u8>> = bad.iter().filter(|value| value.len() < 100_000).collect();
    let noises: Vec<OutMessage> = small
        .iter()
        .flat_map(|v| [noise(&field.topics.signals, v), noise(&field.topics.query, v)])
        .collect();
    field.bus.publish(&noises, None).await.unwrap();
    coordinator.until_all_ended(|| {}).await;
    assert!(coordinator.nodes.values().all(|node| node.state == State::Finished));

    let letters = letters(&field, bad.len());
    let cut = letters.iter().filter(|letter| !letter["cut_from"].is_null()).count();
    assert_eq!(cut, 4, "those that are larger than what the dead-letter topic takes");
    for letter in &letters {
        assert!(!letter["error"].as_str().unwrap().is_empty());
        assert_eq!(letter["topic"], field.topics.commands(&field.role).as_str());
    }
    // Replayed, they are refused once more, and each is a letter again.
    let replayed = field.site.run(&["dlq", "replay", "--all"]);
    assert!(replayed.status.success(), "{}", crate::support::text(&replayed.stderr));
    self::letters(&field, 2 * bad.len() - cut);
    worker.signal("-TERM");
    assert_eq!(worker.exit_code(), Some(0), "{}", field.site.log("w-1"));
}

/// The dead letters, once there are as many.
fn letters(field: &Field, count: usize) -> Vec<Value> {
    let begun = Instant::now();
    loop {
        let listed = field.site.ok(&["dlq", "list", "--json"]);
        let letters: Vec<Value> =
            listed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        if letters.len() == count {
            return letters;
        }
        assert!(letters.len() < count, "{} letters, {count} were expected", letters.len());
        if begun.elapsed() > PATIENCE {
            let mut errors: Vec<&str> =
                letters.iter().filter_map(|l| l["error"].as_str()).collect();
            errors.sort_unstable();
            panic!("{} letters, {count} expected: {errors:#?}", letters.len());
        }
        // What is waited for is another process; a look now and then is no guess.
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Lets the command topic take large values, and gives a bus that sends them.
async fn raise_limit(field: &Field) -> impl flowkit::bus::Bus {
    use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
    let topic = field.topics.commands(&field.role);
    let bootstrap = &flowkit_servers::shared().kafka;
    let admin: AdminClient<_> =
        rdkafka::ClientConfig::new().set("bootstrap.servers", bootstrap).create().unwrap();
    let limit = AlterConfig::new(ResourceSpecifier::Topic(topic.as_str()))
        .set("max.message.bytes", "8000000");
    admin.alter_configs([&limit], &AdminOptions::new()).await.unwrap();
    let mut options = crate::field::kafka_options(bootstrap);
    options.properties.insert("message.max.bytes".into(), "8000000".into());
    // Compressed they would be small again.
    options.properties.insert("compression.type".into(), "none".into());
    flowkit::bus::kafka::KafkaBus::connect(options).unwrap()
}
