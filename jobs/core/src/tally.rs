//! What one flush did to one partition, counted so that it must balance.
//!
//! Invariant T1: landed + rejected + skipped + gaps = to − from. A tally that does not balance is
//! never committed.

use crate::place::{Offset, OffsetRange};
use serde::{Deserialize, Serialize};

/// Counts of one partition over one range of offsets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// First offset of the range.
    pub from: Offset,
    /// Next offset to read after the range.
    pub to: Offset,
    /// Rows that went to raw.
    pub landed: u64,
    /// Messages that went to rejects.
    pub rejected: u64,
    /// Messages left out by a rule (a skipped tombstone).
    pub skipped: u64,
    /// Offsets that hold no readable message: transaction markers, aborted or compacted messages.
    pub gaps: Vec<OffsetRange>,
}

impl Tally {
    /// An empty tally that begins at `from`.
    #[must_use]
    pub const fn at(from: Offset) -> Self {
        Self { from, to: from, landed: 0, rejected: 0, skipped: 0, gaps: Vec::new() }
    }

    /// Takes in one message's fate; a jump from `to` to `offset` becomes a gap.
    ///
    /// # Errors
    /// Leaves the tally untouched if `offset` was counted already.
    pub fn count(&mut self, offset: Offset, fate: Fate) -> Result<(), Backwards> {
        self.advance(offset)?;
        match fate {
            Fate::Landed => self.landed += 1,
            Fate::Rejected => self.rejected += 1,
            Fate::Skipped => self.skipped += 1,
        }
        self.to = offset.next_to_read();
        Ok(())
    }

    /// Everything up to `position`, the next offset the broker would deliver, holds no message.
    ///
    /// # Errors
    /// Leaves the tally untouched if `position` lies before `to`.
    pub fn advance(&mut self, position: Offset) -> Result<(), Backwards> {
        if position < self.to {
            return Err(Backwards { expected: self.to, got: position });
        }
        if position > self.to {
            match self.gaps.last_mut() {
                Some(last) if last.to == self.to => last.to = position,
                _ => self.gaps.push(OffsetRange { from: self.to, to: position }),
            }
            self.to = position;
        }
        Ok(())
    }

    /// Appends the tally of the range that follows this one.
    ///
    /// # Errors
    /// Leaves the tally untouched unless `later` begins where this one ends.
    pub fn append(&mut self, later: Self) -> Result<(), Backwards> {
        if later.from != self.to {
            return Err(Backwards { expected: self.to, got: later.from });
        }
        self.to = later.to;
        self.landed += later.landed;
        self.rejected += later.rejected;
        self.skipped += later.skipped;
        for gap in later.gaps {
            match self.gaps.last_mut() {
                Some(last) if last.to == gap.from => last.to = gap.to,
                _ => self.gaps.push(gap),
            }
        }
        Ok(())
    }

    /// How many offsets lie in gaps.
    #[must_use]
    pub fn gap_len(&self) -> u64 {
        self.gaps.iter().map(|g| g.len()).sum()
    }

    /// Invariant T1.
    #[must_use]
    pub fn balances(&self) -> bool {
        let range = OffsetRange { from: self.from, to: self.to };
        self.landed + self.rejected + self.skipped + self.gap_len() == range.len()
    }

    /// Whether the range is empty: nothing read, nothing passed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.to == self.from
    }
}

/// What became of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// In raw.
    Landed,
    /// In rejects.
    Rejected,
    /// Left out by a rule.
    Skipped,
}

/// An offset came twice or out of order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected offset {expected} or a later one, got {got}")]
pub struct Backwards {
    /// The least offset that may come.
    pub expected: Offset,
    /// What came.
    pub got: Offset,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn jumps_become_gaps_and_neighbouring_gaps_join() {
        let mut tally = Tally::at(Offset(5));
        tally.count(Offset(7), Fate::Landed).unwrap();
        tally.advance(Offset(9)).unwrap();
        tally.advance(Offset(11)).unwrap();
        assert_eq!(tally.gaps, [OffsetRange::new(5, 7), OffsetRange::new(8, 11)]);
        assert!(tally.balances());
        assert_eq!(tally.count(Offset(10), Fate::Landed).unwrap_err().expected, Offset(11));
        assert_eq!(tally.to, Offset(11), "a refused count leaves no trace");
    }

    proptest! {
        #[test]
        fn any_split_appends_to_the_same_tally(steps in prop::collection::vec((0i64..4, 0u8..3), 1..50), cut in 0usize..50) {
            let play = |steps: &[(i64, u8)], from| {
                let mut tally = Tally::at(from);
                for (jump, fate) in steps {
                    let fate = [Fate::Landed, Fate::Rejected, Fate::Skipped][*fate as usize];
                    tally.count(Offset(tally.to.0 + jump), fate).unwrap();
                }
                tally
            };
            let whole = play(&steps, Offset(3));
            prop_assert!(whole.balances());
            let cut = cut.min(steps.len());
            let mut joined = play(&steps[..cut], Offset(3));
            joined.append(play(&steps[cut..], joined.to)).unwrap();
            prop_assert_eq!(joined, whole);
        }
    }
}
