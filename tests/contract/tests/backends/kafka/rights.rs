//! TLS, passwords and what a user may do.

use std::time::Duration;

use contract::bus::{message, new_topic, next, text};
use contract::unique;
use flowkit::bus::kafka::KafkaBus;
use flowkit::bus::{Bus, BusError};
use flowkit_servers::{Kafka, KafkaOptions, Secure};
use tokio::time::Instant;

use super::options;

const WRONG: &str = "open-sesame";

fn connect(secure: &Secure, password: &str, more: &[(&str, &str)]) -> KafkaBus {
    let ca = secure.ca.to_str().unwrap();
    let mut properties = vec![
        ("security.protocol", "SASL_SSL"),
        ("sasl.mechanism", "PLAIN"),
        ("sasl.username", secure.user),
        ("sasl.password", password),
        ("ssl.ca.location", ca),
    ];
    properties.extend_from_slice(more);
    KafkaBus::connect(options("w", &secure.bootstrap, &properties)).unwrap()
}

fn fatal<T>(result: Result<T, BusError>) -> String {
    match result.err() {
        Some(BusError::Fatal(text)) => text,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_in_by_tls_and_a_password() {
    if !flowkit_servers::available("kafka::who_comes_in_by_tls_and_a_password") {
        return;
    }
    let broker = Kafka::start(&KafkaOptions { sasl_ssl: true, ..Default::default() }).unwrap();
    let secure = broker.secure().unwrap();
    let bus = connect(secure, secure.password, &[]);
    let (topic, group) = (new_topic(), unique("g"));
    let topics = std::slice::from_ref(&topic);
    let mut member = bus.subscribe(&group, topics).await.unwrap();
    bus.publish(&[message(&topic, None, "secret")], None).await.unwrap();
    let read = next(&mut *member).await;
    member.commit(&read).await.unwrap();
    assert_eq!(text(&read), "secret");

    let begun = Instant::now();
    let wrong = connect(secure, WRONG, &[]);
    for error in [
        fatal(wrong.ensure_topics(topics).await),
        fatal(wrong.publish(&[message(&topic, None, "x")], None).await),
        fatal(wrong.tail(topics).await),
        fatal(wrong.history(&topic).await),
    ] {
        assert!(error.contains("uthentication") && error.contains("sasl"), "{error}");
        assert!(!error.contains(WRONG) && !error.contains(secure.password), "{error}");
    }
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());

    // Nobody this client trusts has signed the broker's certificate.
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let pem = other.cert.pem();
    let mut strange = options("w", &secure.bootstrap, &[]);
    for (name, value) in [
        ("security.protocol", "SASL_SSL"),
        ("sasl.mechanism", "PLAIN"),
        ("sasl.username", secure.user),
        ("sasl.password", secure.password),
        ("ssl.ca.pem", &pem),
    ] {
        strange.properties.insert(name.to_owned(), value.to_owned());
    }
    let strange = KafkaBus::connect(strange).unwrap();
    let error = fatal(strange.ensure_topics(topics).await);
    assert!(error.contains("certificate") && error.contains("ssl.ca.location"), "{error}");

    // Without TLS the broker hangs up, which may have other reasons.
    let plain = KafkaBus::connect(options("w", &secure.bootstrap, &[])).unwrap();
    match plain.ensure_topics(topics).await {
        Err(BusError::Unavailable(text)) => assert!(text.contains("security.protocol"), "{text}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_without_rights_is_told_which_topics_are_missing() {
    if !flowkit_servers::available("kafka::a_user_without_rights_is_told_which_topics_are_missing")
    {
        return;
    }
    let properties = [
        ("authorizer.class.name", "org.apache.kafka.metadata.authorizer.StandardAuthorizer"),
        ("super.users", "User:ANONYMOUS"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()));
    let broker =
        Kafka::start(&KafkaOptions { sasl_ssl: true, properties: properties.into() }).unwrap();
    let secure = broker.secure().unwrap();
    let bus = connect(secure, secure.password, &[]);
    let topics = [new_topic(), new_topic()];
    let error = fatal(bus.ensure_topics(&topics).await);
    for part in [topics[0].as_str(), topics[1].as_str(), "CREATE", &secure.bootstrap] {
        assert!(error.contains(part), "{error}");
    }
    let error = fatal(bus.publish(&[message(&topics[0], None, "x")], None).await);
    assert!(error.contains("ACL") && error.contains(topics[0].as_str()), "{error}");
}

#[test]
fn a_property_that_is_not_taken_is_named_without_its_secret() {
    let error = |name: &str, value: &str| {
        let connected = KafkaBus::connect(options("w", "127.0.0.1:1", &[(name, value)]));
        fatal(connected)
    };
    assert!(error("session.timeot.ms", "1").contains("`kafka.session.timeot.ms`"));
    assert!(error("security.protocol", "SASL").contains("`kafka.security.protocol`"));
    assert!(error("acks", "1").contains("`kafka.acks`"));
    for name in ["ssl.key.pem", "ssl.key.password", "sasl.password"] {
        let connected = KafkaBus::connect(options(
            "w",
            "127.0.0.1:1",
            &[("security.protocol", "SASL_SSL"), ("sasl.mechanism", "PLAIN"), (name, WRONG)],
        ));
        let text = connected.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(!text.contains(WRONG), "{text}");
    }
}
