//! Which rejects a person means.
//!
//! The interval is over Kafka's time of the messages, half-open: who broke the contract, and when, is asked about
//! the producer. Where Kafka gave no time (rows of files), the instant of the refusal stands in for it.

use crate::batch::{primitive, texts};
use crate::error::{Class, Error, Result, Stage};
use crate::lake::LiveFile;
use arrow::array::{Array, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type, TimestampMicrosecondType};
use deltaworks_core::reason::Reason;
use deltaworks_core::windows::Instant;

/// The columns that decide.
pub const COLUMNS: [&str; 7] =
    ["_topic", "_partition", "_offset", "_kafka_time", "reason", "contract_version", "rejected_at"];

/// Which rejects are meant; what is empty or `None` leaves none out.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Of these reasons.
    pub reasons: Vec<Reason>,
    /// Not before this instant.
    pub from: Option<Instant>,
    /// Before this instant.
    pub to: Option<Instant>,
    /// Of this topic (with its epoch), or of the file of this URL.
    pub topic: Option<String>,
    /// Of this partition; −1 is that of files.
    pub partition: Option<i32>,
    /// At or above this offset.
    pub from_offset: Option<i64>,
    /// Below this offset.
    pub to_offset: Option<i64>,
    /// Refused under this version of the contract.
    pub contract_version: Option<String>,
}

impl Filter {
    /// Judges the filter itself.
    ///
    /// # Errors
    /// [`Class::User`]: an empty interval or range, offsets of no partition.
    pub fn validate(&self) -> Result<()> {
        let wrong = |text: String| Err(Error::new(Stage::Fill, Class::User, text));
        if let (Some(from), Some(to)) = (self.from, self.to)
            && from >= to
        {
            return wrong(format!("the interval [{from}, {to}) is empty"));
        }
        if (self.from_offset.is_some() || self.to_offset.is_some()) && self.partition.is_none() {
            return wrong("offsets count within a partition: add `--partition`".to_owned());
        }
        if let (Some(from), Some(to)) = (self.from_offset, self.to_offset)
            && from >= to
        {
            return wrong(format!("the offsets [{from}, {to}) are none"));
        }
        Ok(())
    }

    /// Whether a file may hold such rejects, as far as its statistics know.
    #[must_use]
    pub fn may_lie_in(&self, file: &LiveFile) -> bool {
        let meets = |column: &str, least: Option<i64>, greatest: Option<i64>| {
            let Some((first, last)) = file.bounds_of(column) else { return true };
            least.is_none_or(|least| last >= least) && greatest.is_none_or(|greatest| first <= greatest)
        };
        let partition = self.partition.map(i64::from);
        meets("_partition", partition, partition)
            && meets("_offset", self.from_offset, self.to_offset.map(|to| to.saturating_sub(1)))
    }

    /// Which rows of a batch with [`COLUMNS`] are meant.
    ///
    /// # Errors
    /// The batch lacks a column, which is a bug.
    pub fn rows(&self, batch: &RecordBatch) -> Result<Vec<bool>> {
        let (topics, partitions) = (texts(batch, "_topic")?, primitive::<Int32Type>(batch, "_partition")?);
        let (offsets, reasons) = (primitive::<Int64Type>(batch, "_offset")?, texts(batch, "reason")?);
        let versions = texts(batch, "contract_version")?;
        let kafka = primitive::<TimestampMicrosecondType>(batch, "_kafka_time")?;
        let rejected = primitive::<TimestampMicrosecondType>(batch, "rejected_at")?;
        let is_meant = |row: usize| {
            let (offset, reason) = (offsets.value(row), reasons.value(row));
            let at = Instant(if kafka.is_valid(row) { kafka.value(row) } else { rejected.value(row) });
            (self.reasons.is_empty() || self.reasons.iter().any(|r| r.as_str() == reason))
                && self.from.is_none_or(|from| from <= at)
                && self.to.is_none_or(|to| at < to)
                && self.topic.as_ref().is_none_or(|topic| topic == topics.value(row))
                && self.partition.is_none_or(|partition| partition == partitions.value(row))
                && self.from_offset.is_none_or(|from| from <= offset)
                && self.to_offset.is_none_or(|to| offset < to)
                && self.contract_version.as_ref().is_none_or(|version| version == versions.value(row))
        };
        Ok((0..batch.num_rows()).map(is_meant).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::land::rows::{Reject, Rejects};
    use crate::land::schema::rejects_schema;
    use deltaworks_core::reason::Refusal;
    use rstest::rstest;

    /// Partition, offset, Kafka's time in seconds, reason; all refused at second 100 under version 1.
    fn rejects() -> RecordBatch {
        let mut rejects = Rejects::default();
        let rows = [
            (0, 5, Some(10), Reason::NotJson),
            (0, 6, Some(20), Reason::WrongType),
            (1, 5, Some(30), Reason::NotJson),
            (1, 9, None, Reason::Pattern),
        ];
        for (partition, offset, second, reason) in rows {
            rejects.push(Reject {
                partition,
                offset,
                kafka_time_ms: second.map(|s: i64| s * 1_000),
                key: None,
                payload: None,
                headers: None,
                refusal: &Refusal::of(reason, ""),
                clock_ms: 100_000,
            });
        }
        rejects.finish(&rejects_schema(), "t", "1").unwrap()
    }

    #[rstest]
    #[case::all(Filter::default(), [true; 4])]
    #[case::reason(Filter { reasons: vec![Reason::NotJson, Reason::Pattern], ..Filter::default() }, [true, false, true, true])]
    #[case::half_open(Filter { from: Some(Instant(10_000_000)), to: Some(Instant(30_000_000)), ..Filter::default() }, [true, true, false, false])]
    #[case::no_kafka_time(Filter { from: Some(Instant(100_000_000)), ..Filter::default() }, [false, false, false, true])]
    #[case::place(Filter { partition: Some(0), from_offset: Some(6), to_offset: Some(7), ..Filter::default() }, [false, true, false, false])]
    #[case::topic(Filter { topic: Some("t#1".into()), ..Filter::default() }, [false; 4])]
    #[case::version(Filter { contract_version: Some("1".into()), partition: Some(1), ..Filter::default() }, [false, false, true, true])]
    fn rows_that_are_meant(#[case] filter: Filter, #[case] want: [bool; 4]) {
        filter.validate().unwrap();
        assert_eq!(filter.rows(&rejects()).unwrap(), want);
    }

    #[rstest]
    #[case(Filter { from: Some(Instant(1)), to: Some(Instant(1)), ..Filter::default() })]
    #[case(Filter { from_offset: Some(1), ..Filter::default() })]
    #[case(Filter { partition: Some(0), from_offset: Some(2), to_offset: Some(2), ..Filter::default() })]
    fn filters_that_mean_nothing_are_refused(#[case] filter: Filter) {
        assert_eq!(filter.validate().unwrap_err().class, Class::User);
    }
}
