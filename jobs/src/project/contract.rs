//! What an event is: the columns of a contract, as the stages use them.
//!
//! [`super::odcs`] reads these from an ODCS file; the decoder and the table schema are driven by
//! them. Nothing in here knows YAML, JSON or Arrow.

use deltaworks_core::quality::{Bound as QualityBound, Severity, Unit};
use jiff::tz::TimeZone;
use regex::Regex;
use std::path::PathBuf;

/// A contract, read and valid.
#[derive(Debug, Clone)]
pub struct Contract {
    /// `id` of the ODCS file.
    pub id: String,
    /// `version` of the ODCS file; every reject names it.
    pub version: String,
    /// The file, relative to the project.
    pub path: PathBuf,
    /// Whether any field is classified as personal; rejects tables are then marked so.
    pub personal: bool,
    /// `slaProperties.retention` in days, if given.
    pub retention_days: Option<u32>,
    /// Top-level columns in file order.
    pub columns: Vec<Column>,
    /// Rules over a date of data, in file order.
    pub quality: Vec<QualityRule>,
}

impl Contract {
    /// The event id's column, if the contract names one (`primaryKey: true`).
    #[must_use]
    pub fn id_column(&self) -> Option<&Column> {
        self.columns.iter().find(|c| c.is_id)
    }
}

/// One column or nested field.
#[derive(Debug, Clone)]
pub struct Column {
    /// Name in the table, and in the message if `source` is `Field`.
    pub name: String,
    /// Where the value comes from. Nested fields are always `Field`.
    pub source: Source,
    /// Type.
    pub kind: Kind,
    /// Absent or null is a reject.
    pub required: bool,
    /// This is the event id.
    pub is_id: bool,
    /// Row rules; a breach is a reject.
    pub rules: Rules,
    /// What the contract says about it, for the table's own comments.
    pub description: Option<String>,
}

/// A rule over the rows of one date, of the contract's `quality`.
#[derive(Debug, Clone, PartialEq)]
pub struct QualityRule {
    /// `id`, `name`, or what it measures; no two rules of a contract have the same.
    pub name: String,
    /// The column it is about (nested ones dotted), if it is about one.
    pub column: Option<String>,
    /// What is measured.
    pub measure: Measure,
    /// What it must be; all of them.
    pub bounds: Vec<QualityBound>,
    /// In what it is told.
    pub unit: Unit,
    /// What a breach means.
    pub severity: Severity,
    /// What the contract says about it.
    pub description: Option<String>,
}

/// What a rule measures over the rows of one date.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Measure {
    /// Rows whose value is null.
    NullValues,
    /// Rows whose value is one of these; `None` is null.
    MissingValues(Vec<Option<String>>),
    /// Rows whose value is not null and none of these, or does not match the pattern.
    InvalidValues {
        /// The values that are right; empty where only the pattern decides.
        valid: Vec<String>,
        /// What the whole text must match.
        pattern: Option<String>,
    },
    /// Rows beyond the first with the same values of these columns, none of them null.
    DuplicateValues(Vec<String>),
    /// Rows.
    RowCount,
    /// The one value of a query, over `{object}`; `{property}` stands for the column.
    Sql(String),
    /// Nothing: it is for people, or for another tool.
    NotRun(&'static str),
}

/// Where a column's value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The field of this name in the message's object.
    Field,
    /// The message key, as text.
    Key,
    /// The last header of this name, as text.
    Header(String),
    /// Kafka's topic.
    Topic,
    /// Kafka's partition.
    Partition,
    /// Kafka's offset.
    Offset,
    /// Kafka's timestamp.
    KafkaTime,
}

/// Type of a column.
#[derive(Debug, Clone)]
pub enum Kind {
    /// UTF-8 text.
    String,
    /// 64-bit signed integer.
    Integer,
    /// 64-bit float, finite.
    Double,
    /// 32-bit float, finite.
    Float,
    /// Exact decimal.
    Decimal {
        /// Digits in all, 1 to 38.
        precision: u8,
        /// Digits after the point, 0 to `precision`.
        scale: i8,
    },
    /// true or false.
    Boolean,
    /// Calendar date, `YYYY-MM-DD`.
    Date,
    /// Instant, kept as UTC microseconds.
    Timestamp(TimestampForm),
    /// Nested object.
    Object(Vec<Column>),
    /// Array of one type.
    Array(Box<Column>),
    /// Any JSON value, kept as its text.
    Json,
}

/// How a timestamp is written in the message.
#[derive(Debug, Clone)]
pub enum TimestampForm {
    /// RFC 3339 text; `zone` stands in where the text has no offset, and without one such a text is
    /// a reject.
    Rfc3339 {
        /// Zone of values without offset.
        zone: Option<TimeZone>,
    },
    /// Whole seconds since the Unix epoch, as a number.
    EpochSeconds,
    /// Milliseconds since the Unix epoch.
    EpochMillis,
    /// Microseconds since the Unix epoch.
    EpochMicros,
    /// Text in a strptime format.
    Format {
        /// strptime format, e.g. `%d.%m.%Y %H:%M:%S`.
        format: String,
        /// Zone of values without offset.
        zone: Option<TimeZone>,
    },
}

/// Row rules of `logicalTypeOptions`.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// Least value.
    pub minimum: Option<Bound>,
    /// Greatest value.
    pub maximum: Option<Bound>,
    /// Least length: characters of a text, items of an array.
    pub length_min: Option<usize>,
    /// Greatest length.
    pub length_max: Option<usize>,
    /// Pattern that the whole text must match, and its source text.
    pub pattern: Option<Regex>,
}

/// A bound of a value, in the column's own unit, so that the decoder compares like with like.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bound {
    /// The value: see [`BoundValue`].
    pub value: BoundValue,
    /// The bound itself is not allowed.
    pub exclusive: bool,
}

/// The value of a bound.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum BoundValue {
    /// For `Integer`, `Date` (days since the epoch) and `Timestamp` (microseconds).
    Integer(i64),
    /// For `Double` and `Float`.
    Double(f64),
    /// For `Decimal`: unscaled, at the column's scale.
    Unscaled(i128),
}
