//! The Kafka edge: the only user of rdkafka.

pub mod message;
