//! The ledger `ops.offsets`: what every raw commit said about itself, kept longer than raw's log.
//!
//! Rows are copied from the raw commits' commitInfo in the order of versions. Whoever copies, copies
//! all up to its own version; txn [`copied_id`] is the last raw version copied, written in the same
//! commit as its rows. So a crash or a second copier changes nothing: the compare-and-set lets one of
//! them through, and the other finds `copied` further on.
//!
//! Two kinds of rows: per raw commit and partition (`partition` is set, `event_date` is null), and per
//! raw commit and event date (the other way round). `operation` is null where a commit landed; else rows came by
//! a fill, or went: then counts are below zero, and checksums such that sums over a date are right all the same.
//!
//! Invariants: B1 the rows of a raw version are there once iff it is at or below `copied`;
//! B2 landed + rejected + skipped + gaps = to_offset − from_offset in every partition row of a landing.

use super::commit::{Commit, Outcome};
use super::file::{FileProfile, encode, file_schema};
use super::table::Table;
use super::{CommitHead, Lake, PartitionValues, TableName, TableSpec, lake_error};
use crate::{Class, Error, Result};
use arrow::array::{
    Array, ArrayRef, AsArray, Date32Array, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{
    DataType, Date32Type, Field, Int32Type, Int64Type, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType,
};
use deltaworks_core::commit_info::{ChangeCommit, Checksum, DateEntry, Identity, RawCommit};
use deltaworks_core::place::OffsetRange;
use deltaworks_core::proof::Told;
use deltaworks_core::windows::{date_of_epoch_days, epoch_days};
use futures::StreamExt;
use jiff::civil::Date;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Raw versions copied in one ledger commit.
const VERSIONS_MAX: i64 = 1_000;
/// Times that another copier may come first.
const ATTEMPTS_MAX: usize = 20;

/// What was copied by one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copied {
    /// The last raw version in the ledger, whoever copied it.
    pub upto: i64,
    /// Rows that this call added.
    pub rows: u64,
}

/// The txn of the ledger that holds the last raw version copied. It names the raw table's id, since
/// a table that was made anew counts its versions from 0 again.
#[must_use]
pub fn copied_id(pipeline: &str, table_id: &str) -> String {
    format!("deltaworks/{pipeline}/{table_id}/copied")
}

/// What `ops.offsets` must be like.
#[must_use]
pub fn spec() -> TableSpec {
    TableSpec {
        name: TableName::new("ops", "offsets"),
        schema: schema(),
        partition_columns: vec!["run_date".into()],
        properties: BTreeMap::new(),
        description: Some("What every raw commit did: offsets per partition, rows and checksum per event date".into()),
    }
}

fn schema() -> SchemaRef {
    let instant = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let text = |name: &str, nullable| Field::new(name, DataType::Utf8, nullable);
    let count = |name: &str, nullable| Field::new(name, DataType::Int64, nullable);
    Arc::new(Schema::new(vec![
        Field::new("run_date", DataType::Date32, false),
        text("pipeline", false),
        text("table_id", false),
        count("version", false),
        Field::new("committed_at", instant, false),
        text("run_id", false),
        count("sequence", false),
        text("topic", false),
        Field::new("partition", DataType::Int32, true),
        count("from_offset", true),
        count("to_offset", true),
        count("landed", true),
        count("rejected", true),
        count("skipped", true),
        count("gaps", true),
        text("gap_ranges", true),
        Field::new("event_date", DataType::Date32, true),
        count("rows", true),
        text("checksum", true),
        text("operation", true),
        count("fill", true),
        count("filled", true),
    ]))
}

/// The last raw version that is in the ledger; `None` if none is.
///
/// # Errors
/// The ledger cannot be read.
pub async fn copied(lake: &Lake, raw: &Table, pipeline: &str) -> Result<Option<i64>> {
    let ledger = lake.open_table(&spec().name).await?;
    Ok(ledger.and_then(|t| t.txns().get(&copied_id(pipeline, raw.id())).copied()))
}

/// Copies everything up to `raw`'s version that is not in the ledger yet.
///
/// # Errors
/// A raw commit cannot be read or was cleaned away before it was copied; the store fails.
pub async fn copy(lake: &Lake, raw: &Table, pipeline: &str, writer: &Identity) -> Result<Copied> {
    let (mut ledger, id) = (lake.ensure_table(&spec()).await?, copied_id(pipeline, raw.id()));
    let (mut rows, mut failures) = (0, 0);
    // rows of an attempt whose outcome is unknown count as ours only if its commit is found
    loop {
        let copied = ledger.txns().get(&id).copied().unwrap_or(-1);
        if copied >= raw.version() {
            // whoever opens it next would have to pass all of its commits
            ledger.keep_log_short().await;
            return Ok(Copied { upto: copied, rows });
        }
        let upto = raw.version().min(copied + VERSIONS_MAX);
        let heads = raw.commit_heads(copied + 1, upto).await?;
        let (mut commit, added) = build(&ledger, raw, pipeline, &heads, writer).await?;
        commit.txns.push((id.clone(), upto));
        let error = match ledger.commit(commit).await {
            Outcome::Committed(_) => {
                rows += added;
                continue;
            }
            Outcome::Failed(e) => return Err(e),
            Outcome::Conflicted => lake_error(Class::Overlap, "table `ops.offsets`: others keep committing first"),
            Outcome::Unknown(e) => e,
        };
        failures += 1;
        if failures >= ATTEMPTS_MAX {
            return Err(error);
        }
        ledger.refresh().await?;
    }
}

/// What the commits of a raw table told, whether copied yet or not.
#[derive(Debug, Clone, Default)]
pub struct ToldByAll {
    /// Of each partition of each topic (with its epoch), in the order of versions.
    pub partitions: BTreeMap<(String, i32), Vec<Told>>,
    /// Rows that came by fills, and rows that went, by partition of each topic; those of a file have its URL as topic.
    pub changed: BTreeMap<(String, i32), Changed>,
    /// Of each event date: rows, and the sum of their checksums.
    pub dates: BTreeMap<Date, DateEntry>,
    /// What the ledger has that no copier writes.
    pub broken: Vec<String>,
}

/// What all commits that were no landings did to one partition.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Changed {
    /// Rows that the stream had landed and that went.
    pub removed: u64,
    /// Rows of fills that came, less those that went.
    pub filled: u64,
    /// Rows of fills that went.
    pub filled_removed: u64,
}

/// What every commit of `raw` up to its version told: out of the ledger as far as that was copied, out of
/// raw's own log above, and where both have it they are compared.
///
/// # Errors
/// The ledger cannot be read; a raw commit that is not in it was cleaned away.
pub async fn read(lake: &Lake, raw: &Table, pipeline: &str) -> Result<ToldByAll> {
    let mut told = ToldByAll::default();
    let (mut copied, mut rows) = (-1, BTreeMap::<i64, Vec<Row>>::new());
    if let Some(ledger) = lake.open_table(&spec().name).await? {
        copied = ledger.txns().get(&copied_id(pipeline, raw.id())).copied().unwrap_or(-1).min(raw.version());
        let columns: Vec<String> = ledger.schema().fields().iter().map(|f| f.name().clone()).collect();
        let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
        for file in ledger.live_files().await? {
            let mut batches = ledger.read_file(&file, &columns).await?;
            while let Some(batch) = batches.next().await.transpose()? {
                for row in from_batch(&batch, pipeline, raw.id())? {
                    rows.entry(row.version).or_default().push(row);
                }
            }
        }
    }
    // commits that raw's log still has say it themselves, copied or not
    let first = raw.first_commit().await?.min(copied + 1);
    for head in raw.commit_heads(first, raw.version()).await? {
        let mut own = rows_of(raw, &head)?;
        if head.version <= copied {
            let have = rows.entry(head.version).or_default();
            own.sort_unstable();
            have.sort_unstable();
            if *have != own {
                told.broken.push(format!("raw version {} told something else than the ledger has", head.version));
            }
        } else if rows.insert(head.version, own).is_some() {
            told.broken.push(format!("raw version {} is in the ledger, and was not copied yet", head.version));
        }
    }
    for row in rows.into_values().flatten() {
        told.take(row);
    }
    told.partitions.values_mut().for_each(|told| told.sort_by_key(|told| told.version));
    Ok(told)
}

impl ToldByAll {
    fn take(&mut self, row: Row) {
        let version = row.version;
        if self.add(row).is_none() {
            self.broken.push(format!("the row of raw version {version} is none that a commit told"));
        }
    }

    fn add(&mut self, row: Row) -> Option<()> {
        let count = |n: i64| u64::try_from(n).ok();
        if row.operation.is_some() && row.partition.is_some() {
            let changed = self.changed.entry((row.topic, row.partition?)).or_default();
            changed.removed = changed.removed.checked_add(count(row.changed?[0].checked_neg()?)?)?;
            let filled = row.changed?[1];
            changed.filled = changed.filled.checked_add_signed(filled)?;
            changed.filled_removed = changed.filled_removed.checked_add(count(filled.min(0).checked_neg()?)?)?;
        } else if let (Some(partition), Some([from, to, landed, rejected, skipped, in_gaps])) =
            (row.partition, row.counts)
        {
            let gaps: Vec<OffsetRange> = serde_json::from_str(row.gap_ranges.as_deref()?).ok()?;
            let told = Told {
                version: row.version,
                range: OffsetRange::new(from, to),
                landed: count(landed)?,
                rejected: count(rejected)?,
                skipped: count(skipped)?,
                gaps,
            };
            if told.gaps.iter().map(|gap| gap.len()).sum::<u64>() != count(in_gaps)? {
                return None;
            }
            self.partitions.entry((row.topic, partition)).or_default().push(told);
        } else {
            let date = date_of_epoch_days(row.event_date?)?;
            let checksum = row.checksum?.parse::<Checksum>().ok()?;
            let sum = self.dates.entry(date).or_insert(DateEntry { rows: 0, checksum: Checksum::default() });
            *sum = DateEntry { rows: sum.rows.checked_add_signed(row.rows?)?, checksum: sum.checksum.plus(checksum) };
        }
        Some(())
    }
}

/// Puts the rows of `heads` into files and returns the commit that names them, and the row count.
async fn build(
    ledger: &Table,
    raw: &Table,
    pipeline: &str,
    heads: &[CommitHead],
    writer: &Identity,
) -> Result<(Commit, u64)> {
    let mut by_date: BTreeMap<jiff::civil::Date, Vec<Row>> = BTreeMap::new();
    for head in heads {
        for row in rows_of(raw, head)? {
            by_date.entry(date_of(row.committed_us)).or_default().push(row);
        }
    }
    let mut commit = Commit::new("WRITE", writer)?;
    let mut added = 0;
    for (date, rows) in by_date {
        let schema = file_schema(&schema(), ledger.partition_columns());
        let batch = to_batch(&schema, pipeline, raw.id(), &rows)?;
        let file = encode(&FileProfile::new(schema).steady(["version", "sequence"]), [Ok(batch)])?;
        added += file.rows;
        let values = PartitionValues::from([("run_date".into(), Some(date.to_string()))]);
        commit.adds.push(ledger.sink().put(values, file).await?);
    }
    Ok((commit, added))
}

/// One ledger row.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    version: i64,
    committed_us: i64,
    identity: Option<Identity>,
    topic: String,
    partition: Option<i32>,
    /// from, to, landed, rejected, skipped, gaps.
    counts: Option<[i64; 6]>,
    gap_ranges: Option<String>,
    event_date: Option<i32>,
    rows: Option<i64>,
    checksum: Option<String>,
    operation: Option<String>,
    fill: Option<i64>,
    /// Of a commit that was no landing: rows of the stream, and of fills, that came or went.
    changed: Option<[i64; 2]>,
}

/// The rows of one raw commit; none for commits that changed no rows (a new column, a compaction).
fn rows_of(raw: &Table, head: &CommitHead) -> Result<Vec<Row>> {
    let Some(info) = &head.info else { return Ok(Vec::new()) };
    let broken = |what: &str| {
        lake_error(Class::Internal, format!("table `{}`, version {}: commitInfo {what}", raw.name(), head.version))
    };
    let common = || -> Result<Row> {
        let committed_ms = head.timestamp_ms.ok_or_else(|| broken("has no timestamp"))?;
        Ok(Row { version: head.version, committed_us: committed_ms.saturating_mul(1_000), ..Row::default() })
    };
    if info.get("partitions").is_some() {
        let said = serde_json::from_value(info.clone()).map_err(|e| broken("cannot be read").because(e))?;
        rows_of_landing(said, common()?, &broken)
    } else if info.get("changed").is_some() {
        let said = serde_json::from_value(info.clone()).map_err(|e| broken("cannot be read").because(e))?;
        rows_of_change(said, common()?, &broken)
    } else {
        Ok(Vec::new())
    }
}

fn rows_of_landing(said: RawCommit, common: Row, broken: &impl Fn(&str) -> Error) -> Result<Vec<Row>> {
    let common = Row { identity: Some(said.identity), topic: said.topic, ..common };
    let mut rows = Vec::new();
    for entry in said.partitions {
        let tally = entry.tally;
        if !tally.balances() {
            return Err(broken(&format!("does not balance for partition {}", entry.partition)));
        }
        let [landed, rejected, skipped, gaps] = [tally.landed, tally.rejected, tally.skipped, tally.gap_len()]
            .map(|n| i64::try_from(n).unwrap_or(i64::MAX));
        rows.push(Row {
            partition: Some(entry.partition),
            counts: Some([tally.from.0, tally.to.0, landed, rejected, skipped, gaps]),
            gap_ranges: Some(json!(tally.gaps).to_string()),
            ..common.clone()
        });
    }
    for (date, entry) in said.dates {
        rows.push(row_of_date(&date, entry, &common, broken)?);
    }
    Ok(rows)
}

fn rows_of_change(said: ChangeCommit, common: Row, broken: &impl Fn(&str) -> Error) -> Result<Vec<Row>> {
    let sign = if said.operation.removes() { -1 } else { 1 };
    let signed = |rows: u64| i64::try_from(rows).unwrap_or(i64::MAX) * sign;
    let common = Row {
        identity: Some(said.identity),
        operation: Some(said.operation.as_str().to_owned()),
        fill: said.fill,
        ..common
    };
    let mut rows = Vec::new();
    for partition in said.changed {
        if !said.operation.removes() && partition.landed > 0 {
            return Err(broken("tells of rows that a fill landed by the stream"));
        }
        rows.push(Row {
            topic: partition.topic,
            partition: Some(partition.partition),
            changed: Some([signed(partition.landed), signed(partition.filled)]),
            ..common.clone()
        });
    }
    for (date, entry) in said.dates {
        let checksum =
            if said.operation.removes() { Checksum::default().minus(entry.checksum) } else { entry.checksum };
        let row = row_of_date(&date, DateEntry { checksum, ..entry }, &common, broken)?;
        rows.push(Row { rows: Some(signed(entry.rows)), ..row });
    }
    Ok(rows)
}

fn row_of_date(date: &str, entry: DateEntry, common: &Row, broken: &impl Fn(&str) -> Error) -> Result<Row> {
    let days = date.parse().map_err(|e: jiff::Error| broken(&format!("names the date `{date}`")).because(e))?;
    Ok(Row {
        event_date: Some(epoch_days(days)),
        rows: i64::try_from(entry.rows).ok(),
        checksum: Some(entry.checksum.to_string()),
        ..common.clone()
    })
}

/// The rows of one raw table.
fn from_batch(batch: &RecordBatch, pipeline: &str, table_id: &str) -> Result<Vec<Row>> {
    let lacks = |name: &str| lake_error(Class::Internal, format!("table `ops.offsets` lacks the column `{name}`"));
    let text = |name| batch.column_by_name(name).and_then(|c| c.as_string_opt::<i32>()).ok_or_else(|| lacks(name));
    let number = |name| {
        let column = batch.column_by_name(name).and_then(|c| c.as_primitive_opt::<Int64Type>());
        column.ok_or_else(|| lacks(name))
    };
    let (pipelines, tables, topics) = (text("pipeline")?, text("table_id")?, text("topic")?);
    let (run_ids, sequences) = (text("run_id")?, number("sequence")?);
    let times = batch.column_by_name("committed_at").and_then(|c| c.as_primitive_opt::<TimestampMicrosecondType>());
    let times = times.ok_or_else(|| lacks("committed_at"))?;
    let partitions = batch.column_by_name("partition").and_then(|c| c.as_primitive_opt::<Int32Type>());
    let dates = batch.column_by_name("event_date").and_then(|c| c.as_primitive_opt::<Date32Type>());
    let (partitions, dates) = partitions.zip(dates).ok_or_else(|| lacks("partition"))?;
    let counts = ["from_offset", "to_offset", "landed", "rejected", "skipped", "gaps"].map(number);
    let [from, to, landed, rejected, skipped, gaps] = counts;
    let counts = [from?, to?, landed?, rejected?, skipped?, gaps?];
    let (versions, rows) = (number("version")?, number("rows")?);
    let (gap_ranges, checksums) = (text("gap_ranges")?, text("checksum")?);
    // a ledger that was made before rows could come or go otherwise
    let (operations, fills, filled) = (text("operation").ok(), number("fill").ok(), number("filled").ok());
    let of_text = |column: &StringArray, row: usize| column.is_valid(row).then(|| column.value(row).to_owned());
    let ours = (0..batch.num_rows()).filter(|row| pipelines.value(*row) == pipeline && tables.value(*row) == table_id);
    Ok(ours
        .map(|row| Row {
            version: versions.value(row),
            committed_us: times.value(row),
            identity: u64::try_from(sequences.value(row))
                .ok()
                .map(|sequence| Identity { run_id: run_ids.value(row).to_owned(), sequence }),
            topic: topics.value(row).to_owned(),
            partition: partitions.is_valid(row).then(|| partitions.value(row)),
            counts: counts.iter().all(|c| c.is_valid(row)).then(|| counts.map(|c| c.value(row))),
            gap_ranges: of_text(gap_ranges, row),
            event_date: dates.is_valid(row).then(|| dates.value(row)),
            rows: rows.is_valid(row).then(|| rows.value(row)),
            checksum: of_text(checksums, row),
            operation: operations.and_then(|column| of_text(column, row)),
            fill: fills.filter(|f| f.is_valid(row)).map(|f| f.value(row)),
            changed: filled.filter(|f| f.is_valid(row)).map(|f| [counts[2].value(row), f.value(row)]),
        })
        .collect())
}

fn date_of(us: i64) -> jiff::civil::Date {
    let instant = jiff::Timestamp::from_microsecond(us).unwrap_or_default();
    instant.to_zoned(jiff::tz::TimeZone::UTC).date()
}

fn to_batch(schema: &SchemaRef, pipeline: &str, table_id: &str, rows: &[Row]) -> Result<RecordBatch> {
    fn ints(rows: &[Row], get: impl Fn(&Row) -> Option<i64>) -> ArrayRef {
        Arc::new(rows.iter().map(get).collect::<Int64Array>())
    }
    fn texts<'a>(rows: &'a [Row], get: impl Fn(&'a Row) -> Option<&'a str>) -> ArrayRef {
        Arc::new(rows.iter().map(get).collect::<StringArray>())
    }
    let column = |field: &Arc<Field>| -> ArrayRef {
        let count = |i: usize| ints(rows, |r| r.counts.map(|c| c[i]));
        match field.name().as_str() {
            "pipeline" => texts(rows, |_| Some(pipeline)),
            "table_id" => texts(rows, |_| Some(table_id)),
            "version" => ints(rows, |r| Some(r.version)),
            "committed_at" => {
                let instants = TimestampMicrosecondArray::from_iter_values(rows.iter().map(|r| r.committed_us));
                Arc::new(instants.with_timezone("UTC"))
            }
            "run_id" => texts(rows, |r| r.identity.as_ref().map(|i| i.run_id.as_str())),
            "sequence" => ints(rows, |r| r.identity.as_ref().and_then(|i| i64::try_from(i.sequence).ok())),
            "topic" => texts(rows, |r| Some(&r.topic)),
            "partition" => Arc::new(rows.iter().map(|r| r.partition).collect::<Int32Array>()),
            "from_offset" => count(0),
            "to_offset" => count(1),
            "landed" => ints(rows, |r| r.changed.map(|c| c[0]).or_else(|| r.counts.map(|c| c[2]))),
            "rejected" => count(3),
            "skipped" => count(4),
            "gaps" => count(5),
            "gap_ranges" => texts(rows, |r| r.gap_ranges.as_deref()),
            "event_date" => Arc::new(rows.iter().map(|r| r.event_date).collect::<Date32Array>()),
            "rows" => ints(rows, |r| r.rows),
            "checksum" => texts(rows, |r| r.checksum.as_deref()),
            "operation" => texts(rows, |r| r.operation.as_deref()),
            "fill" => ints(rows, |r| r.fill),
            "filled" => ints(rows, |r| r.changed.map(|c| c[1])),
            _ => arrow::array::new_null_array(field.data_type(), rows.len()),
        }
    };
    let columns = schema.fields().iter().map(column).collect();
    RecordBatch::try_new(schema.clone(), columns)
        .map_err(|e| lake_error(Class::Internal, "cannot make the rows of `ops.offsets`").because(e))
}
