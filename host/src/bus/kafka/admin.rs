//! Topics: which there are, and making those that are missing.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication, TopicResult};
use rdkafka::error::RDKafkaErrorCode as Code;
use tokio::runtime::Handle;

use super::ASK_WITHIN;
use super::client::Log;
use super::error::{fatal, meaning, of_code};
use super::properties::{Properties, Use};
use crate::bus::{BusError, Topic};

/// How long one of the questions takes that make up [`ASK_WITHIN`]: a broker that refuses
/// this client is known from the log before that.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Makes the topics that are missing, with the broker's own number of partitions and
/// replicas. Blocks, as the client's end does: for a thread of the runtime where that is
/// allowed.
pub(super) fn ensure_topics(properties: &Properties, topics: &[Topic]) -> Result<(), BusError> {
    let admin: AdminClient<Log> =
        properties
            .of(Use::Admin)
            .create_with_context(properties.log())
            .map_err(|error| properties.log().explain(meaning("connecting to Kafka", &error)))?;
    let missing = missing(&admin, topics).map_err(|error| properties.log().explain(error))?;
    properties.log().answered();
    if missing.is_empty() {
        return Ok(());
    }
    let new: Vec<NewTopic<'_>> = missing
        .iter()
        .map(|topic| NewTopic::new(topic.as_str(), -1, TopicReplication::Fixed(-1)))
        .collect();
    let options =
        AdminOptions::new().request_timeout(Some(ASK_WITHIN)).operation_timeout(Some(ASK_WITHIN));
    let made = Handle::current().block_on(admin.create_topics(&new, &options));
    check(made.map_err(|error| meaning("making topics", &error))?, properties.bootstrap())
}

fn missing<'a>(admin: &AdminClient<Log>, topics: &'a [Topic]) -> Result<Vec<&'a Topic>, BusError> {
    let give_up = Instant::now() + ASK_WITHIN;
    let listed = loop {
        let error = match admin.inner().fetch_metadata(None, ASK_AGAIN) {
            Ok(listed) => break listed,
            Err(error) => error,
        };
        if Instant::now() >= give_up || admin.inner().context().is_refused() {
            return Err(meaning("asking Kafka for its topics", &error));
        }
    };
    let names: BTreeSet<&str> = listed.topics().iter().map(|topic| topic.name()).collect();
    Ok(topics.iter().filter(|topic| !names.contains(topic.as_str())).collect())
}

/// One error for all topics that cannot be made.
fn check(made: Vec<TopicResult>, bootstrap: &str) -> Result<(), BusError> {
    let mut refused = Vec::new();
    for result in made {
        match result {
            Ok(_) | Err((_, Code::TopicAlreadyExists)) => {}
            Err((name, code)) if is_final(code) => refused.push(format!("{name} ({code})")),
            Err((name, code)) => return Err(of_code(&format!("making topic {name}"), code)),
        }
    }
    if refused.is_empty() {
        return Ok(());
    }
    Err(fatal(format!(
        "topics are missing at {bootstrap}, or hidden from this user, who may not make them: {}; \
         make them, or grant CREATE (DESCRIBE where they exist)",
        refused.join(", ")
    )))
}

/// Another try would not help.
fn is_final(code: Code) -> bool {
    matches!(
        code,
        Code::TopicAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::PolicyViolation
            | Code::InvalidTopic
            | Code::InvalidReplicationFactor
            | Code::InvalidPartitions
            | Code::InvalidConfig
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_error_names_every_topic_that_cannot_be_made() {
        let made = vec![
            Ok("a".to_owned()),
            Err(("b".to_owned(), Code::TopicAlreadyExists)),
            Err(("c".to_owned(), Code::TopicAuthorizationFailed)),
            Err(("d".to_owned(), Code::PolicyViolation)),
        ];
        match check(made, "k:9092") {
            Err(BusError::Fatal(text)) => {
                assert!(text.contains("k:9092") && text.contains("c (") && text.contains("d ("));
                assert!(!text.contains("a (") && !text.contains("b ("), "{text}");
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_broker_that_is_busy_is_asked_again() {
        let made = vec![Err(("a".to_owned(), Code::NotController))];
        assert!(matches!(check(made, "k:9092"), Err(BusError::Unavailable(_))));
        assert!(check(vec![Ok("a".to_owned())], "k:9092").is_ok());
    }
}
