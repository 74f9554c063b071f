//! The `txn` entries of a speed table, app id `deltaworks/<aggregate>/speed/…`: `<topic>/<partition>/next`
//! per partition, `table` (the raw table that the states are of), `definition` (what they are states of)
//! and `floor` (the first window date that is kept). All change in the commit that changes the states.
//!
//! Invariants: S1 `next` and `floor` never fall while `table` and `definition` stay; S2 a table whose
//! `table` or `definition` is another one is never appended to.

use crate::place::Offset;
use crate::units::Fingerprint;
use jiff::ToSpan as _;
use jiff::civil::{Date, date};
use serde::Serialize;
use std::collections::BTreeMap;

/// Next offset per topic (spelled with its epoch) and partition.
pub type Nexts = BTreeMap<String, BTreeMap<i32, Offset>>;

/// Spells the app ids of one aggregate's speed table.
#[derive(Debug, Clone)]
pub struct SpeedIds<'a> {
    aggregate: &'a str,
}

/// What the entries say.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Stored {
    /// The raw table whose rows are in the states, by [`Fingerprint::of`] its id.
    pub table: Option<Fingerprint>,
    /// What they are states of.
    pub definition: Option<Fingerprint>,
    /// Rows below are in the states, whichever partition has an entry.
    pub next: Nexts,
    /// States of windows that start on earlier dates are dropped.
    pub floor: Option<Date>,
}

/// Whether a speed table can be used for a raw table and a definition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[must_use]
pub enum Standing {
    /// Nothing was ever put into it.
    New,
    /// Its states are of these rows, under this definition.
    Usable,
    /// Its states are of a raw table that is no more: rebuild it.
    OtherTable,
    /// The aggregate means something else by now: rebuild it.
    OtherDefinition,
}

impl<'a> SpeedIds<'a> {
    /// The app ids of `aggregate`.
    #[must_use]
    pub const fn new(aggregate: &'a str) -> Self {
        Self { aggregate }
    }

    fn prefix(&self) -> String {
        format!("deltaworks/{}/speed/", self.aggregate)
    }

    /// Txn that orders rewrites.
    #[must_use]
    pub fn rewrite(&self) -> String {
        format!("deltaworks/speed.{}/rewrite", self.aggregate)
    }

    /// The entry that records how far a partition is in.
    #[must_use]
    pub fn write_next(&self, topic: &str, partition: i32, next: Offset) -> (String, i64) {
        (format!("{}{topic}/{partition}/next", self.prefix()), next.0)
    }

    /// The entries that say what the states are of.
    #[must_use]
    pub fn write_origin(&self, table: Fingerprint, definition: Fingerprint) -> [(String, i64); 2] {
        let prefix = self.prefix();
        [(format!("{prefix}table"), table.txn()), (format!("{prefix}definition"), definition.txn())]
    }

    /// The entry that records the first window date that is kept.
    #[must_use]
    pub fn write_floor(&self, floor: Date) -> (String, i64) {
        let days = (floor - date(1970, 1, 1)).get_days();
        (format!("{}floor", self.prefix()), i64::from(days))
    }

    /// Reads a table's entries; those of others are left alone.
    #[must_use]
    pub fn read(&self, txns: &BTreeMap<String, i64>) -> Stored {
        let prefix = self.prefix();
        let mut stored = Stored::default();
        for (id, version) in txns {
            let Some(rest) = id.strip_prefix(&prefix) else { continue };
            match *rest.split('/').collect::<Vec<_>>() {
                ["table"] => stored.table = Fingerprint::of_txn(*version),
                ["definition"] => stored.definition = Fingerprint::of_txn(*version),
                ["floor"] => stored.floor = date(1970, 1, 1).checked_add(version.days()).ok(),
                [topic, partition, "next"] => {
                    if let Ok(partition) = partition.parse::<i32>() {
                        stored.next.entry(topic.to_owned()).or_default().insert(partition, Offset(*version));
                    }
                }
                _ => {}
            }
        }
        stored
    }
}

impl Stored {
    /// Judges whether the states are of this raw table and definition.
    pub fn standing(&self, table: Fingerprint, definition: Fingerprint) -> Standing {
        match (self.table, self.definition) {
            (None, None) => Standing::New,
            (Some(have), _) if have != table => Standing::OtherTable,
            (Some(_), Some(have)) if have == definition => Standing::Usable,
            _ => Standing::OtherDefinition,
        }
    }

    /// How far a partition is in; 0 where nothing of it is.
    #[must_use]
    pub fn next_of(&self, topic: &str, partition: i32) -> Offset {
        self.next.get(topic).and_then(|p| p.get(&partition)).copied().unwrap_or(Offset(0))
    }

    /// Whether any partition is less far in than raw is.
    #[must_use]
    pub fn is_behind(&self, raw: &Nexts) -> bool {
        self.offsets_behind(raw) > 0
    }

    /// How many offsets raw has that are not in, over all partitions.
    #[must_use]
    pub fn offsets_behind(&self, raw: &Nexts) -> u64 {
        let each =
            raw.iter().flat_map(|(topic, partitions)| partitions.iter().map(move |(p, next)| (topic, *p, *next)));
        each.map(|(topic, p, next)| u64::try_from(next.0 - self.next_of(topic, p).0).unwrap_or(0)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn name(text: &str) -> Fingerprint {
        Fingerprint::of(text.as_bytes())
    }

    #[test]
    fn what_is_written_is_read_and_others_are_left_alone() {
        let ids = SpeedIds::new("a");
        let mut txns: BTreeMap<_, _> = ids.write_origin(name("raw"), name("def")).into_iter().collect();
        txns.extend([ids.write_next("t", 0, Offset(5)), ids.write_next("t#1", 12, Offset(7))]);
        txns.extend([ids.write_floor(date(1969, 12, 30)), (ids.rewrite(), 3)]);
        txns.extend([SpeedIds::new("a2").write_next("t", 0, Offset(99)), ("deltaworks/a/t/0/next".into(), 98)]);
        txns.extend([("deltaworks/a/speed/t/x/next".into(), 1), ("deltaworks/a/speed/t/0/reached".into(), 1)]);
        let stored = ids.read(&txns);
        let next = BTreeMap::from([
            ("t".to_owned(), BTreeMap::from([(0, Offset(5))])),
            ("t#1".to_owned(), BTreeMap::from([(12, Offset(7))])),
        ]);
        let expected =
            Stored { table: Some(name("raw")), definition: Some(name("def")), next, floor: Some(date(1969, 12, 30)) };
        assert_eq!(stored, expected);
        assert_eq!(stored.next_of("t#1", 12), Offset(7));
        assert_eq!(stored.next_of("t#1", 0), Offset(0), "nothing of it is in");
        assert_eq!(SpeedIds::new("b").read(&txns), Stored::default());
    }

    #[rstest]
    #[case::new(None, None, Standing::New)]
    #[case::same(Some("raw"), Some("def"), Standing::Usable)]
    #[case::recreated(Some("old"), Some("def"), Standing::OtherTable)]
    #[case::recreated_and_redefined(Some("old"), Some("old"), Standing::OtherTable)]
    #[case::redefined(Some("raw"), Some("old"), Standing::OtherDefinition)]
    #[case::half(Some("raw"), None, Standing::OtherDefinition)]
    #[case::other_half(None, Some("def"), Standing::OtherDefinition)]
    fn states_of_other_rows_or_another_meaning_are_not_used(
        #[case] table: Option<&str>,
        #[case] definition: Option<&str>,
        #[case] expected: Standing,
    ) {
        let stored = Stored { table: table.map(name), definition: definition.map(name), ..Stored::default() };
        assert_eq!(stored.standing(name("raw"), name("def")), expected);
    }

    #[test]
    fn behind_is_counted_over_all_topics_and_partitions() {
        let at = |entries: &[(&str, i32, i64)]| {
            let mut nexts = Nexts::new();
            for (topic, p, next) in entries {
                nexts.entry((*topic).to_owned()).or_default().insert(*p, Offset(*next));
            }
            nexts
        };
        let stored = Stored { next: at(&[("t", 0, 5), ("t", 1, 9)]), ..Stored::default() };
        assert_eq!(stored.offsets_behind(&at(&[("t", 0, 5), ("t", 1, 9)])), 0);
        assert_eq!(stored.offsets_behind(&at(&[("t", 0, 8), ("t", 1, 4), ("t#1", 0, 10)])), 13);
        assert!(!stored.is_behind(&at(&[("t", 1, 4)])), "raw is never ahead of itself");
    }
}
