//! End to end: the real binary on a real Kafka broker and a real MinIO.
//!
//! Every test has a topic, a group and a lake of its own, and one oracle (`truth`): what the broker said it took must
//! be in the tables exactly once. Tests that kill a service run alone. `make e2e` runs them; without the services they
//! fail.

mod model;
mod support;
mod truth;

mod backfill;
mod files;
mod holes;
mod kills;
mod lineage;
mod losses;
mod moved;
mod outages;
mod plain;
mod rebalance;
mod removals;
mod runbooks;
mod secrets;
mod soak;
mod starts;
mod transactions;
mod watch;
mod windows;
