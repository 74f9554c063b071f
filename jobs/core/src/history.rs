//! Is what the broker holds still the log that we stopped in?
//!
//! A stored `next` only means something in the log it was taken from. Retention may have removed
//! offsets that were never read; the topic may have been deleted and made anew, shorter or longer
//! than before. All of these lose data in silence unless they are judged before the first read.

use crate::place::{Offset, OffsetRange};

/// What is known of one partition before it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// Next offset to read, from the Delta log.
    pub next: Offset,
    /// Kafka time of the message at `next` − 1 when it was landed, ms; `None` if that offset held
    /// no message or the message no time.
    pub seen_ms: Option<i64>,
    /// Low watermark: the earliest offset the broker still holds.
    pub low: Offset,
    /// High watermark: the offset after the last one written, read_uncommitted.
    pub high: Offset,
    /// Kafka time of what lies at `next` − 1 now, ms; `None` if nothing readable lies there.
    pub there_ms: Option<i64>,
}

/// The judgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum History {
    /// Go on at `next`.
    Intact,
    /// Retention passed `next`: these offsets are gone.
    Lost(OffsetRange),
    /// Another topic of the same name: the log is shorter than where we stopped.
    RecreatedShorter,
    /// Another topic of the same name: another message lies before `next`.
    RecreatedLonger,
}

/// Judges one partition. A recreated topic outranks lost offsets: nothing in it is ours.
pub fn judge(facts: Facts) -> History {
    if facts.next > facts.high {
        return History::RecreatedShorter;
    }
    if let (Some(seen), Some(there)) = (facts.seen_ms, facts.there_ms)
        && seen != there
    {
        return History::RecreatedLonger;
    }
    if facts.next < facts.low {
        return History::Lost(OffsetRange { from: facts.next, to: facts.low });
    }
    History::Intact
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn facts(next: i64, low: i64, high: i64) -> Facts {
        Facts { next: Offset(next), seen_ms: None, low: Offset(low), high: Offset(high), there_ms: None }
    }

    #[rstest]
    #[case::in_the_middle(facts(5, 0, 9), History::Intact)]
    #[case::at_the_end(facts(9, 0, 9), History::Intact)]
    #[case::at_the_low_watermark(facts(5, 5, 9), History::Intact)]
    #[case::empty_again(facts(9, 9, 9), History::Intact)]
    #[case::retention_passed(facts(5, 7, 9), History::Lost(OffsetRange::new(5, 7)))]
    #[case::shorter(facts(10, 0, 9), History::RecreatedShorter)]
    #[case::other_message(Facts { seen_ms: Some(1), there_ms: Some(2), ..facts(5, 0, 9) }, History::RecreatedLonger)]
    #[case::same_message(Facts { seen_ms: Some(1), there_ms: Some(1), ..facts(5, 0, 9) }, History::Intact)]
    #[case::compacted_away(Facts { seen_ms: Some(1), there_ms: None, ..facts(5, 0, 9) }, History::Intact)]
    fn truth_table(#[case] facts: Facts, #[case] want: History) {
        assert_eq!(judge(facts), want);
    }
}
