//! A broker that stops answering, and one that is restarted.

use std::time::Duration;

use contract::bus::{message, new_topic, next, tail_next, text};
use contract::unique;
use flowkit::bus::kafka::KafkaBus;
use flowkit::bus::{Bus, BusError, Topic};
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

#[tokio::test(flavor = "multi_thread")]
async fn everything_goes_on_after_an_outage() {
    if !flowkit_servers::available("kafka::everything_goes_on_after_an_outage") {
        return;
    }
    let mut broker = Kafka::start(&KafkaOptions::default()).unwrap();
    let bus = KafkaBus::connect(options("w", &broker.bootstrap(), &[])).unwrap();
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
    broker.resume().unwrap();
    publish_again(&bus, &topic, "after").await;
    member.commit(&before).await.unwrap();
    until("the member goes on", async || text(&next(&mut *member).await) == "after").await;
    until("the tail goes on", async || text(&tail_next(&mut *tail).await) == "after").await;

    broker.stop().unwrap();
    let down = bus.publish(&[message(&topic, None, "lost")], None).await;
    assert!(matches!(down, Err(BusError::Unavailable(_))), "{down:?}");
    let history = bus.history(&topic).await.err();
    assert!(matches!(history, Some(BusError::Unavailable(_))), "{history:?}");
    broker.restart().unwrap();
    publish_again(&bus, &topic, "restarted").await;
    let mut last = None;
    until("the member goes on", async || {
        let message = next(&mut *member).await;
        let found = text(&message) == "restarted";
        last = Some(message);
        found
    })
    .await;
    member.commit(&last.unwrap()).await.unwrap();
    until("the tail goes on", async || text(&tail_next(&mut *tail).await) == "restarted").await;

    leaving_takes_no_broker(&broker, &bus, member, topics).await;
    let mut after = bus.subscribe(&group, topics).await.unwrap();
    let again = read_for(&mut *after, Duration::from_secs(3)).await;
    assert!(again.is_empty(), "everything was committed: {again:?}");
}

/// Leaving a broker that does not answer keeps nobody waiting.
async fn leaving_takes_no_broker(
    broker: &Kafka,
    bus: &KafkaBus,
    member: Box<dyn flowkit::bus::GroupConsumer>,
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
