//! What a run of `stream` is asked to do, beside what the project says.

use std::time::Duration;

pub use crate::kafka::start::Start;

/// Options of one run.
#[derive(Debug, Clone)]
pub struct StreamOptions {
    /// Id of this run, in every commit it makes.
    pub run_id: String,
    /// End when every partition has been read to where it ended when the run began.
    pub until_caught_up: bool,
    /// Where a pipeline without any progress begins.
    pub start: Start,
    /// Partitions assigned by hand instead of by the consumer group.
    pub partitions: Option<Vec<i32>>,
    /// What to do where offsets were lost or the topic was recreated.
    pub data_loss: DataLoss,
    /// How long a bounded run keeps trying while the store does not answer; an unbounded one never
    /// gives up.
    pub give_up_after: Duration,
    /// How long a run that is told to end may take to flush and commit.
    pub drain_deadline: Duration,
}

/// What to do where offsets were lost or the topic was recreated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataLoss {
    /// Stop with exit code 6.
    Stop,
    /// Record the gap, or open a new epoch, and go on.
    Accept,
}
