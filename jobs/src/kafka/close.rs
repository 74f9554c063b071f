//! Leaves the group within a bounded time.
//!
//! librdkafka sometimes waits for ever when a member leaves in the middle of a rebalance: a late
//! revocation is answered to a group member that is gone already. So the client is closed by a thread
//! of its own, which is left behind if that takes too long: the broker notices the absence, and
//! nothing of ours is at stake, since offsets are kept in the table.

use super::context::{Context, Request, answer};
use crate::error::{Class, Error, Result, Stage};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Offset, TopicPartitionList};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

/// How long leaving the group may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Closes a client when it is dropped. It must be dropped after every other share of the client.
pub(super) struct Closer {
    topic: String,
    begin: Sender<Option<Request>>,
    ended: Receiver<()>,
    /// What the group wants and nobody has answered.
    pub unanswered: Option<Request>,
}

impl Closer {
    pub fn of(consumer: &Arc<BaseConsumer<Context>>, topic: &str) -> Result<Self> {
        let (begin, begun) = channel::<Option<Request>>();
        let (end, ended) = channel();
        let (consumer, name) = (Arc::clone(consumer), topic.to_owned());
        thread::Builder::new()
            .name("kafka-close".into())
            .spawn(move || {
                let unanswered = begun.recv().ok().flatten();
                close(consumer, &name, unanswered);
                // Nobody listens if it took too long.
                let _ = end.send(());
            })
            .map_err(|e| Error::new(Stage::Kafka, Class::Outside, "no thread to close the consumer with").because(e))?;
        Ok(Self { topic: topic.to_owned(), begin, ended, unanswered: None })
    }
}

impl Drop for Closer {
    fn drop(&mut self) {
        let begun = self.begin.send(self.unanswered.take());
        if begun.is_err() || self.ended.recv_timeout(TIMEOUT).is_err() {
            tracing::warn!(topic = self.topic, "the consumer was not closed in time; the broker will notice");
        }
    }
}

fn close(consumer: Arc<BaseConsumer<Context>>, topic: &str, unanswered: Option<Request>) {
    // From here on the context answers the group; what was asked before is answered here.
    consumer.context().close();
    if let Some(request) = unanswered {
        let mut list = TopicPartitionList::new();
        for partition in request.partitions {
            // Any offset will do: nothing that arrives is read any more. 0 is always accepted.
            let _ = list.add_partition_offset(topic, partition, Offset::Offset(0));
        }
        if let Err(error) = answer(&consumer, request.kind, request.cooperative, &list) {
            tracing::debug!(%error, "answering the group while closing");
        }
    }
    drop(consumer);
}
