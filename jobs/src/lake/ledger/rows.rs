//! The ledger's rows: what a raw commit says of itself, as columns, and back.

use crate::lake::table::Table;
use crate::lake::{CommitHead, lake_error};
use crate::{Class, Error, Result};
use arrow::array::{
    Array, ArrayRef, AsArray, Date32Array, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{
    DataType, Date32Type, Field, Int32Type, Int64Type, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType,
};
use deltaworks_core::commit_info::{ChangeCommit, Checksum, DateEntry, Identity, RawCommit};
use deltaworks_core::windows::epoch_days;
use serde_json::json;
use std::sync::Arc;

pub(super) fn schema() -> SchemaRef {
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

/// One ledger row.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Row {
    pub version: i64,
    pub committed_us: i64,
    pub identity: Option<Identity>,
    pub topic: String,
    pub partition: Option<i32>,
    /// from, to, landed, rejected, skipped, gaps.
    pub counts: Option<[i64; 6]>,
    pub gap_ranges: Option<String>,
    pub event_date: Option<i32>,
    pub rows: Option<i64>,
    pub checksum: Option<String>,
    pub operation: Option<String>,
    pub fill: Option<i64>,
    /// Of a commit that was no landing: rows of the stream, and of fills, that came or went.
    pub changed: Option<[i64; 2]>,
}

/// The rows of one raw commit; none for commits that changed no rows (a new column, a compaction).
pub(super) fn rows_of(raw: &Table, head: &CommitHead) -> Result<Vec<Row>> {
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
pub(super) fn from_batch(batch: &RecordBatch, pipeline: &str, table_id: &str) -> Result<Vec<Row>> {
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

pub(super) fn to_batch(schema: &SchemaRef, pipeline: &str, table_id: &str, rows: &[Row]) -> Result<RecordBatch> {
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
