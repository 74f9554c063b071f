//! Single changes behind the product's back.

use super::PARTITIONS;
use crate::harness::project::TOPIC;
use crate::harness::{Project, Rng};
use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray, UInt32Array,
};
use arrow::compute::{concat_batches, filter_record_batch, take_record_batch};
use arrow::datatypes::{DataType, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType};
use deltaworks_core::commit_info::Identity;
use deltaworks_jobs::lake::{Commit, CommitOutcome, FileProfile, LiveFile, Table, TableName, encode, file_schema};
use futures::TryStreamExt;
use std::sync::Arc;

/// Makes one change; what it was, and the check that must find it.
pub async fn change(project: &Project, rng: &mut Rng) -> (String, &'static str) {
    match rng.below(9) {
        0 => {
            let (mut raw, file) = some_file(project, "raw.events", rng).await;
            let mut told = String::new();
            rewrite(&mut raw, &file, |batch| {
                let (column, row) = some_cell(batch, rng, |name| !name.starts_with("_offset"));
                told = format!("raw cell: {} of row {row}", batch.schema().field(column).name());
                with_cell(batch, column, row)
            })
            .await;
            (told, "rows")
        }
        1 => {
            let (mut raw, file) = some_file(project, "raw.events", rng).await;
            rewrite(&mut raw, &file, |batch| {
                let column = batch.schema().index_of("_offset").unwrap();
                with_cell(batch, column, rng.below(batch.num_rows() as u64) as usize)
            })
            .await;
            ("raw offset: shifted".into(), "rows")
        }
        2 => {
            let (mut raw, file) = some_file(project, "raw.events", rng).await;
            let mut commit = liar();
            commit.removes = vec![file.clone()];
            assert!(matches!(raw.commit(commit).await, CommitOutcome::Committed(_)));
            (format!("raw file: dropped {}", file.path), "places")
        }
        3 => {
            let (_, file) = some_file(project, "raw.events", rng).await;
            std::fs::remove_file(project.path().join("lake/raw/events").join(&file.path)).unwrap();
            (format!("raw file gone: {}", file.path), "rows")
        }
        4 => {
            let (mut raw, file) = some_file(project, "raw.events", rng).await;
            rewrite(&mut raw, &file, |batch| doubled(batch, rng)).await;
            ("raw row: twice".into(), "places")
        }
        5 => {
            let (mut rejects, file) = some_file(project, "rejects.events", rng).await;
            let twice = rng.below(2) == 0;
            rewrite(&mut rejects, &file, |batch| if twice { doubled(batch, rng) } else { without_one(batch, rng) })
                .await;
            (format!("rejects row: twice {twice}"), "places")
        }
        6 => {
            let (mut ledger, file) = some_file(project, "ops.offsets", rng).await;
            let mut told = String::new();
            rewrite(&mut ledger, &file, |batch| {
                let (column, row) = some_cell(batch, rng, |_| true);
                told = format!("ledger cell: {} of row {row}", batch.schema().field(column).name());
                with_cell(batch, column, row)
            })
            .await;
            (told, "offsets")
        }
        7 => {
            let (mut ledger, file) = some_file(project, "ops.offsets", rng).await;
            let twice = rng.below(2) == 0;
            rewrite(&mut ledger, &file, |batch| if twice { doubled(batch, rng) } else { without_one(batch, rng) })
                .await;
            (format!("ledger row: twice {twice}"), "offsets")
        }
        _ => {
            let mut raw = open(project, "raw.events").await;
            let (partition, next) = project_next(&raw, rng);
            let mut commit = liar();
            commit.txns = vec![(format!("deltaworks/events/{TOPIC}/{partition}/next"), next + 1)];
            assert!(matches!(raw.commit(commit).await, CommitOutcome::Committed(_)));
            (format!("raw progress: {partition} at {next}"), "offsets")
        }
    }
}

fn project_next(raw: &Table, rng: &mut Rng) -> (i32, i64) {
    let nexts: Vec<(i32, i64)> = (0..PARTITIONS)
        .filter_map(|p| Some((p, *raw.txns().get(&format!("deltaworks/events/{TOPIC}/{p}/next"))?)))
        .collect();
    nexts[rng.below(nexts.len() as u64) as usize]
}

pub fn liar() -> Commit {
    Commit::new("WRITE", &Identity { run_id: "liar".into(), sequence: 0 }).unwrap()
}

pub async fn open(project: &Project, table: &str) -> Table {
    let (layer, name) = table.split_once('.').expect("a layer and a name");
    let name = TableName::new(layer, name);
    let lake = deltaworks_jobs::lake::Lake::open(&project.settings().lake).unwrap();
    lake.open_table(&name).await.unwrap().expect("the table is there")
}

pub async fn some_file(project: &Project, table: &str, rng: &mut Rng) -> (Table, LiveFile) {
    let table = open(project, table).await;
    let mut files = table.live_files().await.unwrap();
    files.sort_by(|a, b| a.path.cmp(&b.path));
    let file = files.swap_remove(rng.below(files.len() as u64) as usize);
    (table, file)
}

/// Puts other rows in the place of a file's.
pub async fn rewrite(table: &mut Table, file: &LiveFile, change: impl FnOnce(&RecordBatch) -> RecordBatch) {
    let schema = file_schema(table.schema(), table.partition_columns());
    let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
    let batches: Vec<RecordBatch> = table.read_file(file, &names).await.unwrap().try_collect().await.unwrap();
    let whole = concat_batches(&batches[0].schema(), &batches).unwrap();
    let changed = change(&whole);
    let encoded = encode(&FileProfile::new(schema), [Ok(changed)]).unwrap();
    let mut commit = liar();
    commit.removes = vec![file.clone()];
    commit.adds = vec![table.sink().put(file.partition_values.clone(), encoded).await.unwrap()];
    assert!(matches!(table.commit(commit).await, CommitOutcome::Committed(_)));
}

pub fn some_cell(batch: &RecordBatch, rng: &mut Rng, wanted: impl Fn(&str) -> bool) -> (usize, usize) {
    loop {
        let column = rng.below(batch.num_columns() as u64) as usize;
        let row = rng.below(batch.num_rows() as u64) as usize;
        if wanted(batch.schema().field(column).name()) && batch.column(column).is_valid(row) {
            return (column, row);
        }
    }
}

/// The batch with another value in one cell.
pub fn with_cell(batch: &RecordBatch, column: usize, row: usize) -> RecordBatch {
    let old = batch.column(column);
    let new: ArrayRef = match old.data_type() {
        DataType::Int64 => {
            Arc::new(changed(old.as_primitive::<Int64Type>().iter(), row, |n| n + 1).collect::<Int64Array>())
        }
        DataType::Int32 => {
            Arc::new(changed(old.as_primitive::<Int32Type>().iter(), row, |n| n + 1).collect::<Int32Array>())
        }
        DataType::Timestamp(..) => {
            let new = changed(old.as_primitive::<TimestampMicrosecondType>().iter(), row, |us| us + 1);
            Arc::new(new.collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
        }
        DataType::Boolean => Arc::new(changed(old.as_boolean().iter(), row, |b| !b).collect::<BooleanArray>()),
        DataType::Utf8 => {
            let text = |text: &str| {
                format!("{}0", text.strip_suffix('0').map_or_else(|| text.to_owned(), |t| format!("{t}1")))
            };
            Arc::new(
                old.as_string::<i32>()
                    .iter()
                    .enumerate()
                    .map(|(n, t)| t.map(|t| if n == row { text(t) } else { t.to_owned() }))
                    .collect::<StringArray>(),
            )
        }
        DataType::Float64 => {
            let new = changed(old.as_primitive::<Float64Type>().iter(), row, |x| x * (1.0 + 1e-9) + 1e-9);
            Arc::new(new.collect::<Float64Array>())
        }
        DataType::Date32 => {
            let new = changed(old.as_primitive::<arrow::datatypes::Date32Type>().iter(), row, |d| d + 1);
            Arc::new(new.collect::<arrow::array::Date32Array>())
        }
        other => panic!("no other value of {other} is known"),
    };
    let mut columns = batch.columns().to_vec();
    columns[column] = new;
    RecordBatch::try_new(batch.schema(), columns).unwrap()
}

fn changed<T: Copy>(
    values: impl Iterator<Item = Option<T>>,
    row: usize,
    change: impl Fn(T) -> T,
) -> impl Iterator<Item = Option<T>> {
    values.enumerate().map(move |(n, value)| value.map(|v| if n == row { change(v) } else { v }))
}

pub fn doubled(batch: &RecordBatch, rng: &mut Rng) -> RecordBatch {
    with_row_twice(batch, rng.below(batch.num_rows() as u64) as usize)
}

fn with_row_twice(batch: &RecordBatch, row: usize) -> RecordBatch {
    let rows = (0..batch.num_rows()).chain([row]).map(|n| n as u32);
    take_record_batch(batch, &UInt32Array::from_iter_values(rows)).unwrap()
}

pub fn without_one(batch: &RecordBatch, rng: &mut Rng) -> RecordBatch {
    without(batch, rng.below(batch.num_rows() as u64) as usize)
}

pub fn without(batch: &RecordBatch, row: usize) -> RecordBatch {
    let mask: BooleanArray = (0..batch.num_rows()).map(|n| Some(n != row)).collect();
    filter_record_batch(batch, &mask).unwrap()
}
