//! Brokers: any Kafka that can be written to, and the mock that lives in the test process.

use super::PATIENCE;
use deltaworks_jobs::kafka::mock::Mock;
use deltaworks_jobs::kafka::producer::{Outgoing, Producer};
use deltaworks_jobs::project::settings::Options;
use std::collections::BTreeMap;
use std::ops::Deref;

/// A broker that a test writes to.
pub struct Broker {
    /// Its `bootstrap.servers`.
    pub bootstrap: String,
    producer: Producer,
}

/// librdkafka's mock and the broker that it plays; both end with this value.
pub struct MockBroker {
    broker: Broker,
    /// The broker ends with it.
    mock: Mock,
}

impl Broker {
    /// A broker that is there already.
    pub fn at(bootstrap: impl Into<String>) -> Self {
        let bootstrap = bootstrap.into();
        let options = [("bootstrap.servers", bootstrap.as_str()), ("message.max.bytes", "20000000")];
        let options =
            Options(options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<BTreeMap<_, _>>());
        Self { bootstrap, producer: Producer::open(&options, true).unwrap() }
    }

    /// Sends messages, each to the partition it names, and returns where each of them went.
    pub fn send(&self, topic: &str, messages: &[Outgoing<'_>]) -> Vec<(i32, i64)> {
        for (ticket, message) in messages.iter().enumerate() {
            self.producer.send(topic, Outgoing { ticket, ..*message }).unwrap();
        }
        self.producer.flush(PATIENCE).unwrap();
        let mut places = vec![None; messages.len()];
        for report in self.producer.take_reports() {
            places[report.ticket] = Some(report.outcome.unwrap());
        }
        places.into_iter().map(|place| place.expect("every message has a delivery report")).collect()
    }
}

impl MockBroker {
    /// A mock with one topic.
    pub fn start(topic: &str, partitions: i32) -> Self {
        let mock = Mock::start().unwrap();
        mock.create_topic(topic, partitions).unwrap();
        Self { broker: Broker::at(mock.bootstrap()), mock }
    }

    /// Makes one more topic.
    pub fn create_topic(&self, topic: &str, partitions: i32) {
        self.mock.create_topic(topic, partitions).unwrap();
    }
}

impl Deref for MockBroker {
    type Target = Broker;
    fn deref(&self) -> &Broker {
        &self.broker
    }
}
