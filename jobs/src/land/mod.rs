//! LAND: Kafka topics into raw and rejects tables, exactly once.

pub mod decode;
pub mod schema;
