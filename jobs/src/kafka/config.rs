//! What librdkafka is told: the user's options, and on top of them what the product owns.
//!
//! Options keep librdkafka's names, so TLS and SASL work as everyone knows them. Some are not the
//! user's to choose, because exactly-once landing rests on them; those are overridden here, and refused
//! by name when a project is read. No value
//! of an option ever reaches an error or a log line: any of them may be a secret.

use crate::error::{Class, Error, Stage};
use crate::project::settings::Options;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::KafkaError;

/// Options that the product owns, with the value it sets in a reading client. The project's check
/// refuses them by name.
const OWNED: [(&str, &str); 9] = [
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
    ("auto.offset.reset", "error"),
    ("isolation.level", "read_committed"),
    ("enable.partition.eof", "true"),
    ("allow.auto.create.topics", "false"),
    ("statistics.interval.ms", "0"),
    ("check.crcs", "true"),
    // Own group protocol logic is tested against the classic one only.
    ("group.protocol", "classic"),
];

/// Least and greatest byte budget that librdkafka's queue can be given.
const QUEUE_BYTES: (usize, usize) = (1 << 20, 1 << 30);
/// Memory of prefetched messages over the bytes that librdkafka accounts for them, as measured.
const QUEUE_OVERHEAD: usize = 3;

/// A client that reads with a group: `queue_bytes` is the memory that prefetched messages may take.
#[must_use]
pub fn consumer(options: &Options, group: &str, queue_bytes: usize) -> ClientConfig {
    let mut config = base(options);
    for (key, value) in OWNED {
        config.set(key, value);
    }
    let accounted = queue_bytes.clamp(QUEUE_BYTES.0, QUEUE_BYTES.1) / QUEUE_OVERHEAD;
    config.set("group.id", group);
    config.set("queued.max.messages.kbytes", (accounted / 1024).to_string());
    let defaults = [
        ("partition.assignment.strategy", "cooperative-sticky".to_owned()),
        ("fetch.queue.backoff.ms", "10".to_owned()),
        // a killed process must not hold its partitions for the default 45 s
        ("session.timeout.ms", "10000".to_owned()),
        ("heartbeat.interval.ms", "2000".to_owned()),
        // One response may overshoot the queue, so it must not be larger than the queue.
        ("fetch.max.bytes", accounted.clamp(1 << 20, 50 << 20).to_string()),
    ];
    for (key, value) in defaults {
        if config.get(key).is_none() {
            config.set(key, value);
        }
    }
    config
}

/// A client without group that asks questions: watermarks, offsets for times, metadata. It reads
/// uncommitted, so that high watermarks are those of the log and not of the last stable offset.
#[must_use]
pub fn inquirer(options: &Options) -> ClientConfig {
    let mut config = base(options);
    for (key, value) in OWNED {
        config.set(key, value);
    }
    config.set("isolation.level", "read_uncommitted");
    config.set("queued.max.messages.kbytes", "1024");
    config.set("fetch.queue.backoff.ms", "10");
    config
}

/// A client that writes: idempotent, with the user's options for everything else.
#[must_use]
pub fn producer(options: &Options) -> ClientConfig {
    let mut config = base(options);
    for key in
        ["group.id", "partition.assignment.strategy", "enable.auto.commit", "auto.offset.reset", "isolation.level"]
    {
        config.remove(key);
    }
    config.set("enable.idempotence", "true");
    config.set("statistics.interval.ms", "0");
    config
}

/// What a person may know of a librdkafka error while a client is made: the option's name, never its value.
#[must_use]
pub fn refused(error: &KafkaError, options: &Options) -> Error {
    let text = match error {
        KafkaError::ClientConfig(_, why, key, value) => {
            let why = if value.is_empty() { why.clone() } else { why.replace(value.as_str(), "…") };
            format!("kafka option `{key}` is refused: {}", redact(&why, options))
        }
        other => format!("the kafka client cannot be made: {}", redact(&other.to_string(), options)),
    };
    Error::new(Stage::Kafka, Class::User, text).hint("see `kafka` in deltaworks.yaml; the names are librdkafka's")
}

/// Takes the values of secret options out of a text.
#[must_use]
pub fn redact(text: &str, options: &Options) -> String {
    let mut text = text.to_owned();
    for (key, value) in &options.0 {
        if is_secret(key) && value.len() >= 3 {
            text = text.replace(value.as_str(), "…");
        }
    }
    text
}

fn is_secret(key: &str) -> bool {
    ["password", "secret", "pem", "token", "jaas", "oauthbearer.config", "username", "private.key", "assertion"]
        .iter()
        .any(|part| key.contains(part))
}

fn base(options: &Options) -> ClientConfig {
    let mut config = ClientConfig::new();
    for (key, value) in &options.0 {
        config.set(key, value);
    }
    if config.get("client.id").is_none() {
        config.set("client.id", "deltaworks");
    }
    config.set_log_level(RDKafkaLogLevel::Info);
    config
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::project::KAFKA_OWNED;

    fn options(pairs: &[(&str, &str)]) -> Options {
        Options(pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    #[test]
    fn what_the_product_owns_is_set_whatever_the_user_says_and_refused_by_check() {
        for (key, ours) in OWNED {
            let config = consumer(&options(&[(key, "theirs")]), "g", 1 << 26);
            assert_eq!(config.get(key), Some(ours));
            assert!(KAFKA_OWNED.iter().any(|(refused, _)| *refused == key), "`{key}` passes the check");
        }
    }

    #[test]
    fn the_user_keeps_the_choice_of_strategy_and_the_budget_is_kept() {
        let config = consumer(&options(&[("partition.assignment.strategy", "range")]), "g", 96 << 20);
        assert_eq!(config.get("partition.assignment.strategy"), Some("range"));
        assert_eq!(config.get("queued.max.messages.kbytes"), Some("32768"));
        assert_eq!(config.get("auto.offset.reset"), Some("error"));
    }

    #[test]
    fn no_secret_in_the_error_of_a_bad_option() {
        let bad = options(&[("sasl.password", "hunter2!"), ("security.protocol", "hunter2!")]);
        let error = consumer(&bad, "g", 1 << 26).create_native_config().err().unwrap();
        let text = refused(&error, &bad).to_string();
        assert!(text.contains("`security.protocol`") && !text.contains("hunter2!"), "{text}");
    }

    #[test]
    fn secrets_are_taken_out_of_log_lines() {
        let all = options(&[("sasl.password", "hunter2!"), ("bootstrap.servers", "b:9092")]);
        assert_eq!(redact("b:9092 said hunter2!", &all), "b:9092 said …");
    }
}
