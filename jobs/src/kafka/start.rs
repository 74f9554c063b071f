//! Where a first run begins: the start policy, and the offset per partition that follows from it.
//!
//! Asked only where the table has no progress. An offset that the broker does not hold is an error
//! here, before anything is read.

use super::watermarks::Watermarks;
use crate::error::{Class, Error, Result, Stage};
use std::collections::BTreeMap;
use std::fs;

/// The start policy.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Start {
    /// The earliest offset that the broker holds.
    #[default]
    Earliest,
    /// The end of the log.
    Latest,
    /// The first message whose Kafka time is at or after this instant, ms.
    Timestamp(i64),
    /// These offsets; a partition without one starts at the earliest.
    Offsets(BTreeMap<i32, i64>),
    /// The committed offsets of this group; a partition without one starts at the earliest.
    Group(String),
}

impl Start {
    /// Reads `earliest`, `latest`, an RFC 3339 timestamp with offset, `offsets:FILE` or `group:NAME`.
    /// FILE is a JSON object (`{"0": 123}`) or lines of `partition,offset`.
    ///
    /// # Errors
    /// [`Class::User`] naming what cannot be read.
    pub fn parse(text: &str) -> Result<Self> {
        match text.split_once(':') {
            Some(("offsets", file)) if !file.is_empty() => return Ok(Self::Offsets(read_offsets(file)?)),
            Some(("group", group)) if !group.is_empty() => return Ok(Self::Group(group.to_owned())),
            _ => {}
        }
        match text {
            "earliest" => Ok(Self::Earliest),
            "latest" => Ok(Self::Latest),
            other => other.parse::<jiff::Timestamp>().map(|t| Self::Timestamp(t.as_millisecond())).map_err(|e| {
                user(format!("start `{other}` is not understood"))
                    .because(e)
                    .hint("use `earliest`, `latest`, `2026-01-31T00:00:00Z`, `offsets:FILE` or `group:NAME`")
            }),
        }
    }

    /// The offset at which each of `partitions` begins.
    ///
    /// # Errors
    /// [`Class::User`] if a given offset is not held by the broker, [`Class::InputLost`] if a
    /// group's is not, [`Class::Outside`] if the broker does not answer.
    pub fn resolve(&self, broker: &Watermarks, topic: &str, partitions: &[i32]) -> Result<BTreeMap<i32, i64>> {
        let wanted = match self {
            Self::Earliest => BTreeMap::new(),
            Self::Latest => return broker.highs(topic, partitions),
            Self::Timestamp(ms) => return broker.offsets_for_time(topic, partitions, *ms),
            Self::Offsets(offsets) => offsets.clone(),
            Self::Group(group) => broker.group_offsets(group, topic)?,
        };
        let mut starts = BTreeMap::new();
        for &partition in partitions {
            let (low, high) = broker.low_high(topic, partition)?;
            let start = match wanted.get(&partition) {
                None => low,
                Some(offset) if (low..=high).contains(offset) => *offset,
                Some(offset) => return Err(self.not_held(topic, partition, *offset, low, high)),
            };
            starts.insert(partition, start);
        }
        Ok(starts)
    }

    fn not_held(&self, topic: &str, partition: i32, offset: i64, low: i64, high: i64) -> Error {
        let text = format!(
            "start offset {offset} of `{topic}` partition {partition} is not held by the broker: [{low}, {high}]"
        );
        match self {
            Self::Group(_) => Error::new(Stage::Kafka, Class::InputLost, text)
                .hint("give the offsets by hand with `--start offsets:FILE`, or start at `earliest`"),
            _ => user(text),
        }
    }
}

fn read_offsets(file: &str) -> Result<BTreeMap<i32, i64>> {
    let text =
        fs::read_to_string(file).map_err(|e| user(format!("offsets file `{file}` cannot be read")).because(e))?;
    let offsets: BTreeMap<i32, i64> = if text.trim_start().starts_with('{') {
        serde_json::from_str(&text)
            .map_err(|e| user(format!("offsets file `{file}` is not a JSON object of offsets")).because(e))?
    } else {
        let mut offsets = BTreeMap::new();
        for (number, line) in text.lines().enumerate().map(|(i, l)| (i + 1, l.trim())) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let pair = line.split_once(',').and_then(|(p, o)| Some((p.trim().parse().ok()?, o.trim().parse().ok()?)));
            let Some((partition, offset)) = pair else {
                return Err(user(format!("{file}:{number}: expected `partition,offset`")));
            };
            if offsets.insert(partition, offset).is_some() {
                return Err(user(format!("{file}:{number}: partition {partition} is there twice")));
            }
        }
        offsets
    };
    match offsets.iter().find(|(p, o)| **p < 0 || **o < 0) {
        Some((p, o)) => Err(user(format!("offsets file `{file}`: partition {p} with offset {o} cannot be"))),
        None => Ok(offsets),
    }
}

fn user(text: String) -> Error {
    Error::new(Stage::Kafka, Class::User, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("earliest", Start::Earliest)]
    #[case("latest", Start::Latest)]
    #[case("1970-01-01T00:00:01+00:00", Start::Timestamp(1_000))]
    #[case("group:old-job", Start::Group("old-job".into()))]
    fn what_is_understood(#[case] text: &str, #[case] want: Start) {
        assert_eq!(Start::parse(text).unwrap(), want);
    }

    #[rstest]
    #[case("yesterday")]
    #[case("2026-01-31T00:00:00")]
    #[case("group:")]
    #[case("offsets:/nowhere/at/all")]
    fn what_is_not(#[case] text: &str) {
        assert_eq!(Start::parse(text).unwrap_err().class, Class::User);
    }

    #[test]
    fn offset_files_in_both_forms() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("offsets");
        let parse = |text: &str| {
            fs::write(&file, text).unwrap();
            Start::parse(&format!("offsets:{}", file.display()))
        };
        let want = Start::Offsets([(0, 5), (3, 9)].into());
        assert_eq!(parse("{\"0\": 5, \"3\": 9}").unwrap(), want);
        assert_eq!(parse("# from the old job\n0,5\n\n3, 9\n").unwrap(), want);
        let error = parse("0,5\n3;9\n").unwrap_err().to_string();
        assert!(error.contains(":2: expected"), "{error}");
        assert!(parse("0,5\n0,6").is_err());
        assert!(parse("0,-5").is_err());
    }
}
