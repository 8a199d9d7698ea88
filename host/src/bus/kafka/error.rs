//! What librdkafka's errors mean for whoever called.

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use crate::bus::BusError;

/// An error that only a change of something ends.
pub(super) fn fatal(text: String) -> BusError {
    BusError::Fatal(text)
}

/// The meaning of an error, `what` being what was tried.
pub(super) fn meaning(what: &str, error: &KafkaError) -> BusError {
    if let KafkaError::ClientConfig(_, problem, name, _) = error {
        // The fourth is the value, which may be a secret; the description repeats it.
        let problem = if super::is_secret(name) { "its value is not taken" } else { problem };
        return fatal(format!("`kafka.{name}` of the configuration: {problem}"));
    }
    if let KafkaError::ClientCreation(problem) = error {
        return fatal(format!("the Kafka client cannot be made from `kafka`: {problem}"));
    }
    match error.rdkafka_error_code() {
        Some(code) => of_code(what, code),
        None => BusError::Unavailable(format!("{what}: {error}")),
    }
}

/// The same for a code alone.
pub(super) fn of_code(what: &str, code: Code) -> BusError {
    let advice = match code {
        Code::SaslAuthenticationFailed | Code::Authentication => {
            "the broker refuses the user or the password; see `kafka.sasl.*`"
        }
        Code::TopicAuthorizationFailed => {
            "the broker's ACLs do not let this user read or write the topic"
        }
        Code::UnknownTopicOrPartition | Code::UnknownTopic => {
            return BusError::Unavailable(format!(
                "{what}: {code}; it is made when the worker starts, if the broker allows that"
            ));
        }
        Code::GroupAuthorizationFailed => {
            "the broker's ACLs do not let this user join groups; it needs READ on `workers.*`"
        }
        Code::ClusterAuthorizationFailed => {
            "the broker's ACLs do not let this user write idempotently"
        }
        Code::SSL => "TLS failed; see `kafka.ssl.*` and `kafka.security.protocol`",
        Code::InconsistentGroupProtocol => {
            "the group's other members use another assignment strategy: with Python workers in it \
             set `kafka.\"partition.assignment.strategy\"` to `roundrobin` on all of ours"
        }
        Code::FencedInstanceId => {
            "another process has the same `kafka.\"group.instance.id\"`; give each its own"
        }
        Code::UnsupportedVersion | Code::UnsupportedFeature => "the broker is too old for this",
        Code::InvalidTopic => "the broker does not take such a topic's name",
        Code::InvalidSessionTimeout => {
            "`kafka.\"session.timeout.ms\"` is outside of what the broker allows"
        }
        _ => return BusError::Unavailable(format!("{what}: {code}")),
    };
    fatal(format!("{what}: {code}: {advice}"))
}

/// True for what librdkafka itself tries again for as long as it takes: brokers that are
/// away. A broker that is stopped in the middle of a handshake looks like bad TLS.
pub(super) fn is_passing(code: Code) -> bool {
    matches!(
        code,
        Code::BrokerTransportFailure
            | Code::AllBrokersDown
            | Code::Resolve
            | Code::OperationTimedOut
            | Code::SSL
    )
}

/// True when the group no longer knows the member, or the partition went to another one:
/// what was to be committed is delivered again there.
pub(super) fn lost_membership(code: Code) -> bool {
    matches!(
        code,
        Code::UnknownMemberId
            | Code::IllegalGeneration
            | Code::FencedInstanceId
            | Code::AssignmentLost
            | Code::StaleMemberEpoch
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_calls_learns_whether_to_wait_or_to_change_something() {
        let away = of_code("publishing", Code::BrokerTransportFailure);
        assert!(matches!(away, BusError::Unavailable(_)), "{away:?}");
        for code in [Code::SaslAuthenticationFailed, Code::InconsistentGroupProtocol, Code::SSL] {
            let refused = of_code("joining", code);
            assert!(matches!(&refused, BusError::Fatal(text) if text.contains("kafka.")));
        }
    }
}
