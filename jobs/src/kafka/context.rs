//! What librdkafka tells its clients out of turn: log lines, errors, and the rebalances of a group.
//!
//! A rebalance is only written down here. [`super::source::Source`] reports it, and the caller
//! carries it out in its own time: librdkafka holds the group's state machine in "waiting for the
//! (un)assign call" until then.

use super::config::redact;
use crate::project::settings::Options;
use rdkafka::TopicPartitionList;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, RebalanceProtocol};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::types::{RDKafkaErrorCode, RDKafkaRespErr};
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What the group wants of this member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request {
    pub kind: RequestKind,
    pub partitions: Vec<i32>,
    pub cooperative: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RequestKind {
    Assign,
    Revoke,
    Lost,
}

#[derive(Debug, Default)]
struct Notes {
    requests: VecDeque<Request>,
    errors: VecDeque<(RDKafkaErrorCode, String)>,
    closing: bool,
}

/// Context of every client at this edge.
#[derive(Debug)]
pub(super) struct Context {
    options: Options,
    notes: Mutex<Notes>,
}

/// Errors remembered between two polls; older ones give way.
const ERRORS_MAX: usize = 16;

impl Context {
    pub fn new(options: &Options) -> Self {
        Self { options: options.clone(), notes: Mutex::default() }
    }

    pub fn take_request(&self) -> Option<Request> {
        self.notes().requests.pop_front()
    }

    pub fn take_errors(&self) -> Vec<(RDKafkaErrorCode, String)> {
        self.notes().errors.drain(..).collect()
    }

    /// From now on what the group wants is carried out at once: nobody polls any more.
    pub fn close(&self) {
        self.notes().closing = true;
    }

    pub fn redact(&self, text: &str) -> String {
        redact(text, &self.options)
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives the group what it wants, in the way its protocol asks for: an assignment must be answered
/// by assigning and a revocation by giving up, or the group waits for ever, and closing with it.
pub(super) fn answer(
    consumer: &BaseConsumer<Context>,
    kind: RequestKind,
    cooperative: bool,
    list: &TopicPartitionList,
) -> KafkaResult<()> {
    match (kind, cooperative) {
        (RequestKind::Assign, true) => consumer.incremental_assign(list),
        (RequestKind::Assign, false) => consumer.assign(list),
        (_, true) => consumer.incremental_unassign(list),
        (_, false) => consumer.unassign(),
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        let line = self.redact(line);
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
                tracing::error!(target: "librdkafka", facility, "{line}");
            }
            // The group's offsets are for lag tools: one that a rebalance overtook is no news.
            RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning if facility == "COMMITFAIL" => {
                tracing::debug!(target: "librdkafka", facility, "{line}");
            }
            // librdkafka calls every lost connection an error; the stream goes on.
            RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning => {
                tracing::warn!(target: "librdkafka", facility, "{line}");
            }
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => {
                tracing::info!(target: "librdkafka", facility, "{line}");
            }
            RDKafkaLogLevel::Debug => tracing::debug!(target: "librdkafka", facility, "{line}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
        if code == RDKafkaErrorCode::PartitionEOF {
            return;
        }
        let reason = self.redact(reason);
        let mut notes = self.notes();
        if notes.errors.len() == ERRORS_MAX {
            notes.errors.pop_front();
        }
        notes.errors.push_back((code, reason));
    }
}

impl ConsumerContext for Context {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, what: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let cooperative = matches!(consumer.rebalance_protocol(), RebalanceProtocol::Cooperative);
        let kind = match what {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => RequestKind::Assign,
            _ if consumer.assignment_lost() => RequestKind::Lost,
            _ => RequestKind::Revoke,
        };
        if self.notes().closing {
            // Once the group member is gone nobody takes an answer, and giving one waits for ever.
            if !consumer.closed()
                && let Err(error) = answer(consumer, kind, cooperative, list)
            {
                tracing::debug!(%error, "answering the group while closing");
            }
            return;
        }
        let partitions = list.elements().iter().map(|e| e.partition()).collect();
        self.notes().requests.push_back(Request { kind, partitions, cooperative });
    }

    fn commit_callback(&self, result: KafkaResult<()>, _offsets: &TopicPartitionList) {
        if let Err(error) = result {
            tracing::debug!(%error, "the group's offsets were not committed; they are only for lag tools");
        }
    }
}
