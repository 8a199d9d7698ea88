//! A broker that stops answering, and one that is restarted.

use std::time::Duration;

use contract::bus::{message, new_topic, next, tail_next, text};
use contract::unique;
use flowkit::bus::kafka::KafkaBus;
use flowkit::bus::{Bus, BusError, GroupConsumer, InMessage, Topic};
use flowkit_servers::{Kafka, KafkaOptions};
use tokio::time::{Instant, timeout};

use super::{options, read_for, until};

/// Publishes once the broker answers again.
async fn publish_again(bus: &KafkaBus, topic: &Topic, value: &str) {
    until("the broker is back", async || {
        bus.publish(&[message(topic, Some("same"), value)], None).await.is_ok()
    })
    .await;
}

/// The next message if it comes soon and says `value`; an error is waited out, as whoever
/// reads does.
async fn brings(
    next: impl Future<Output = Result<InMessage, BusError>>,
    value: &str,
) -> Option<InMessage> {
    let read = timeout(Duration::from_secs(1), next).await.ok()?;
    assert!(!matches!(read, Err(BusError::Fatal(_))), "an outage is not final: {read:?}");
    read.ok().filter(|message| text(message) == value)
}

/// Reads on to the message that says `value`, and commits it.
async fn commit_up_to(member: &mut dyn GroupConsumer, value: &str) {
    let mut found = None;
    until("the member goes on", async || {
        found = brings(member.next(), value).await;
        found.is_some()
    })
    .await;
    member.commit(&found.unwrap()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_goes_on_after_an_outage() {
    if !flowkit_servers::available("kafka::everything_goes_on_after_an_outage") {
        return;
    }
    let mut broker = Kafka::start(&KafkaOptions::default()).unwrap();
    // A broker that starts may know none of its topics for a moment; what it told is believed
    // until somebody asks again.
    let ask_again = [("topic.metadata.refresh.interval.ms", "1000")];
    let bus = KafkaBus::connect(options("w", &broker.bootstrap(), &ask_again)).unwrap();
    let (topic, group) = (new_topic(), unique("g"));
    let topics = std::slice::from_ref(&topic);
    let mut member = bus.subscribe(&group, topics).await.unwrap();
    let mut tail = bus.tail(topics).await.unwrap();
    bus.publish(&[message(&topic, Some("same"), "before")], None).await.unwrap();
    let before = next(&mut *member).await;
    assert_eq!(text(&before), "before");
    assert_eq!(text(&tail_next(&mut *tail).await), "before");

    broker.pause().unwrap();
    let (begun, late) = (Instant::now(), message(&topic, Some("same"), "late"));
    let deadline = Some(begun + Duration::from_secs(2));
    let hasty = bus.publish(std::slice::from_ref(&late), deadline).await;
    assert!(matches!(hasty, Err(BusError::Expired | BusError::Unavailable(_))), "{hasty:?}");
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    let begun = Instant::now();
    let patient = bus.publish(&[late], Some(begun + Duration::from_secs(60))).await;
    // There is time left, so that the message may be tried again.
    assert!(matches!(patient, Err(BusError::Unavailable(_))), "{patient:?}");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    // Longer than the member's session.
    let silent = timeout(Duration::from_secs(8), member.next()).await;
    assert!(silent.is_err(), "an outage is no error to a member: {silent:?}");
    // A commit waits for the broker as well.
    let back = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        broker.resume().unwrap();
    };
    let (committed, ()) = tokio::join!(member.commit(&before), back);
    committed.unwrap();
    publish_again(&bus, &topic, "after").await;
    commit_up_to(&mut *member, "after").await;
    until("the tail goes on", async || brings(tail.next(), "after").await.is_some()).await;

    broker.stop().unwrap();
    let down = bus.publish(&[message(&topic, None, "lost")], None).await;
    assert!(matches!(down, Err(BusError::Unavailable(_))), "{down:?}");
    let history = bus.history(&topic).await.err();
    assert!(matches!(history, Some(BusError::Unavailable(_))), "{history:?}");
    broker.restart().unwrap();
    publish_again(&bus, &topic, "restarted").await;
    commit_up_to(&mut *member, "restarted").await;
    until("the tail goes on", async || brings(tail.next(), "restarted").await.is_some()).await;

    leaving_takes_no_broker(&broker, &bus, member, topics).await;
    let mut after = bus.subscribe(&group, topics).await.unwrap();
    let again = read_for(&mut *after, Duration::from_secs(3)).await;
    assert!(again.is_empty(), "everything was committed: {again:?}");
}

/// Leaving a broker that does not answer keeps nobody waiting.
async fn leaving_takes_no_broker(
    broker: &Kafka,
    bus: &KafkaBus,
    member: Box<dyn GroupConsumer>,
    topics: &[Topic],
) {
    let tail = bus.tail(topics).await.unwrap();
    broker.pause().unwrap();
    let begun = Instant::now();
    drop((member, tail));
    assert!(begun.elapsed() < Duration::from_millis(100), "{:?}", begun.elapsed());
    broker.resume().unwrap();
    // The old member is missed after its session at the latest.
    until("the broker is back", async || bus.ensure_topics(topics).await.is_ok()).await;
}
