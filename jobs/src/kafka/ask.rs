//! The one question every client asks first, and what librdkafka's errors mean: who must act, and
//! whether the stream goes on by itself.

use super::context::Context;
use super::source::Event;
use crate::error::{Class, Error, Result, Stage};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::types::RDKafkaErrorCode as Code;
use std::time::{Duration, Instant};

/// How many partitions the topic has.
///
/// Asks again while the broker does not answer, and serves the client's errors in between, so that
/// refused credentials are told from a broker that is away.
pub(super) fn topic_partitions(consumer: &BaseConsumer<Context>, topic: &str, timeout: Duration) -> Result<i32> {
    let deadline = Instant::now() + timeout;
    let mut last = String::from("no answer");
    loop {
        match consumer.fetch_metadata(Some(topic), Duration::from_secs(3)) {
            Ok(metadata) => {
                let topics = metadata.topics();
                let Some(found) = topics.iter().find(|t| t.name() == topic) else {
                    return Err(missing_topic(topic));
                };
                match found.error().map(Code::from) {
                    None => return Ok(i32::try_from(found.partitions().len()).unwrap_or(i32::MAX)),
                    Some(code) => {
                        if let Event::Trouble { text } = judge(topic, code, None, code.to_string())? {
                            last = text;
                        }
                    }
                }
            }
            Err(error) => last = consumer.context().redact(&error.to_string()),
        }
        // Nothing is subscribed yet: these polls only serve the client's own errors.
        for _ in 0..8 {
            let _ = consumer.poll(Duration::from_millis(10));
        }
        for (code, text) in consumer.context().take_errors() {
            judge(topic, code, None, text.clone())?;
            last = text;
        }
        if Instant::now() >= deadline {
            return Err(Error::new(
                Stage::Kafka,
                Class::Outside,
                format!("no broker answers for topic `{topic}`: {last}"),
            )
            .hint("see `bootstrap.servers` of `kafka` in deltaworks.yaml"));
        }
    }
}

/// What becomes of an error of librdkafka's: an event if it goes on by itself, else an error.
pub(super) fn judge(topic: &str, code: Code, place: Option<(i32, i64)>, text: String) -> Result<Event> {
    let at = place.map_or_else(String::new, |(partition, offset)| format!(" partition {partition} offset {offset}"));
    let error = |class, what: &str| Error::new(Stage::Kafka, class, format!("topic `{topic}`{at}: {what}: {text}"));
    match code {
        Code::AutoOffsetReset | Code::OffsetOutOfRange => {
            Err(error(Class::InputLost, "the broker no longer holds this offset")
                .hint("`--on-data-loss accept` goes on and records the gap"))
        }
        Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition => {
            Err(missing_topic(topic).because(text))
        }
        Code::InvalidTopic => Err(error(Class::User, "not a valid topic name")),
        Code::Authentication
        | Code::SaslAuthenticationFailed
        | Code::UnsupportedSASLMechanism
        | Code::IllegalSASLState => Err(error(Class::User, "the broker refuses the credentials")
            .hint("see `sasl.*` and `security.protocol` of `kafka` in deltaworks.yaml")),
        Code::TopicAuthorizationFailed | Code::GroupAuthorizationFailed | Code::ClusterAuthorizationFailed => {
            Err(error(Class::User, "the broker refuses access")
                .hint("grant READ and DESCRIBE on the topic and READ on the group"))
        }
        Code::InvalidGroupId | Code::InconsistentGroupProtocol => {
            Err(error(Class::User, "the group refuses this member")
                .hint("all members of one group need the same `partition.assignment.strategy`"))
        }
        Code::Fatal | Code::Fenced | Code::FencedInstanceId => {
            Err(error(Class::Overlap, "another member took this one's identity")
                .hint("each process needs its own `group.instance.id`"))
        }
        Code::BadMessage
        | Code::BadCompression
        | Code::InvalidMessage
        | Code::InvalidMessageSize
        | Code::MessageSizeTooLarge
        | Code::NotImplemented
        | Code::UnsupportedCompressionType => Err(error(Class::Outside, "a message that cannot be read")),
        _ => Ok(Event::Trouble { text: format!("topic `{topic}`{at}: {text}") }),
    }
}

/// Offsets that are there, and that nobody can read yet.
pub(crate) fn hidden_by_transaction(topic: &str, partition: i32, from: i64, to: i64) -> Error {
    let message = format!("a transaction that is still open hides the offsets {from} to {to} of {topic}/{partition}");
    Error::new(Stage::Kafka, Class::InputNotYet, message).hint("try again when its producer has ended it")
}

/// The topic does not exist.
pub(super) fn missing_topic(topic: &str) -> Error {
    Error::new(Stage::Kafka, Class::User, format!("topic `{topic}` does not exist"))
        .hint("create it: `deltaworks topics create`")
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case(Code::AutoOffsetReset, Some(Class::InputLost))]
    #[case(Code::SaslAuthenticationFailed, Some(Class::User))]
    #[case(Code::GroupAuthorizationFailed, Some(Class::User))]
    #[case(Code::UnknownTopicOrPartition, Some(Class::User))]
    #[case(Code::BadMessage, Some(Class::Outside))]
    #[case(Code::BrokerTransportFailure, None)]
    #[case(Code::AllBrokersDown, None)]
    #[case(Code::PollExceeded, None)]
    fn who_must_act(#[case] code: Code, #[case] want: Option<Class>) {
        assert_eq!(judge("t", code, Some((3, 9)), "why".into()).err().map(|e| e.class), want);
    }
}
