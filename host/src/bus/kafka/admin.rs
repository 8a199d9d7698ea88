//! Topics: which there are, and making those that are missing.

use std::collections::BTreeSet;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::error::RDKafkaErrorCode as Code;

use super::ASK_WITHIN;
use super::client::Log;
use super::error::{fatal, meaning, of_code};
use super::properties::{Properties, Use};
use crate::bus::{BusError, Topic};
use crate::tasks;

/// Makes the topics that are missing, with the broker's own number of partitions and
/// replicas.
pub(super) async fn ensure_topics(
    properties: &Properties,
    topics: &[Topic],
) -> Result<(), BusError> {
    let config = properties.of(Use::Admin);
    let admin: AdminClient<Log> = config
        .create_with_context(Log::default())
        .map_err(|error| meaning("connecting to Kafka", &error))?;
    let asked: Vec<Topic> = topics.to_vec();
    let known = tasks::spawn_blocking("list-topics", move || {
        let listed = admin.inner().fetch_metadata(None, ASK_WITHIN);
        let listed = listed.map_err(|error| {
            let error = meaning("asking Kafka for its topics", &error);
            admin.inner().context().explain(error)
        })?;
        let names: BTreeSet<&str> = listed.topics().iter().map(|topic| topic.name()).collect();
        let missing: Vec<Topic> =
            asked.into_iter().filter(|topic| !names.contains(topic.as_str())).collect();
        Ok::<_, BusError>((admin, missing))
    });
    let interrupted = || BusError::Unavailable("asking Kafka for its topics was stopped".into());
    let (admin, missing) = known.await.ok_or_else(interrupted)??;
    if missing.is_empty() {
        return Ok(());
    }
    let new: Vec<NewTopic<'_>> = missing
        .iter()
        .map(|topic| NewTopic::new(topic.as_str(), -1, TopicReplication::Fixed(-1)))
        .collect();
    let options = AdminOptions::new().operation_timeout(Some(ASK_WITHIN));
    let made = admin.create_topics(&new, &options).await;
    let made = made.map_err(|error| meaning("making topics", &error))?;
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
        "topics are missing at {} and this user may not make them: {}; make them, or grant CREATE",
        properties.bootstrap(),
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
