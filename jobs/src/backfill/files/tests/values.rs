//! Any values, written in every format, are in raw's columns as they were.

use super::formats::{avro, parquet};
use super::kit::{CLOCK_MS, Kit, gzip, zstd};
use crate::backfill::files::parts::{Job, PartLimits, start};
use crate::clock::Clock;
use arrow::array::{
    Array, ArrayRef, AsArray, Decimal128Array, Float64Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::compute::concat_batches;
use proptest::prelude::*;
use std::sync::Arc;
use std::time::Duration;

#[derive(Debug, Clone)]
struct Row {
    at_us: i64,
    n: Option<i64>,
    price: Option<i128>,
    ratio: Option<f64>,
    note: Option<String>,
}

fn rows() -> impl Strategy<Value = Vec<Row>> {
    let finite = any::<f64>().prop_filter("a contract's floats are finite", |value| value.is_finite());
    let n = prop_oneof![any::<i64>().prop_map(|n| n % 1_000_000_000_000_000_000), -9..9_i64];
    let price = prop_oneof![-(10_i128.pow(20) - 1)..10_i128.pow(20), -9..9_i128];
    let note = "[ -~\n\r\t\"',;üї\u{1F600}]{0,12}";
    let row = (
        -62_135_596_800_000_000..1_793_491_200_000_000_i64,
        proptest::option::of(n),
        proptest::option::of(price),
        proptest::option::of(finite),
        proptest::option::of(note),
    );
    let row = row.prop_map(|(at_us, n, price, ratio, note)| Row { at_us, n, price, ratio, note });
    prop::collection::vec(row, 1..20)
}

fn typed(rows: &[Row]) -> RecordBatch {
    let ids: ArrayRef = Arc::new(StringArray::from_iter_values((0..rows.len()).map(|n| format!("id-{n}"))));
    let at = TimestampMicrosecondArray::from_iter_values(rows.iter().map(|row| row.at_us)).with_timezone("UTC");
    let price = Decimal128Array::from_iter(rows.iter().map(|row| row.price)).with_precision_and_scale(20, 6);
    let columns: [(&str, ArrayRef); 6] = [
        ("id", ids),
        ("at", Arc::new(at)),
        ("n", Arc::new(Int64Array::from_iter(rows.iter().map(|row| row.n)))),
        ("price", Arc::new(price.unwrap())),
        ("ratio", Arc::new(Float64Array::from_iter(rows.iter().map(|row| row.ratio)))),
        ("note", Arc::new(StringArray::from_iter(rows.iter().map(|row| row.note.as_deref())))),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).unwrap()
}

fn at(us: i64) -> String {
    jiff::Timestamp::from_microsecond(us).unwrap().to_string()
}

fn decimal(unscaled: i128) -> String {
    let digits = format!("{:07}", unscaled.unsigned_abs());
    let (whole, part) = digits.split_at(digits.len() - 6);
    format!("{}{whole}.{part}", if unscaled < 0 { "-" } else { "" })
}

fn jsonl(rows: &[Row]) -> String {
    let line = |(number, row): (usize, &Row)| {
        let text = |value: Option<String>| value.unwrap_or_else(|| "null".to_owned());
        format!(
            "{{\"id\":\"id-{number}\",\"at\":\"{}\",\"n\":{},\"price\":{},\"ratio\":{},\"note\":{}}}\n",
            at(row.at_us),
            text(row.n.map(|n| n.to_string())),
            text(row.price.map(decimal)),
            text(row.ratio.map(|ratio| format!("{ratio:?}"))),
            text(row.note.as_ref().map(|note| serde_json::to_string(note).unwrap())),
        )
    };
    rows.iter().enumerate().map(line).collect()
}

fn csv(rows: &[Row]) -> String {
    let line = |(number, row): (usize, &Row)| {
        format!(
            "{},{},{},\"{}\",{},id-{number}\r\n",
            row.note.as_ref().map_or_else(String::new, |note| format!("\"{}\"", note.replace('"', "\"\""))),
            row.n.map_or_else(String::new, |n| n.to_string()),
            row.ratio.map_or_else(String::new, |ratio| format!("{ratio:?}")),
            at(row.at_us),
            row.price.map_or_else(String::new, decimal),
        )
    };
    format!("note,n,ratio,at,price,id\r\n{}", rows.iter().enumerate().map(line).collect::<String>())
}

/// Every row of the files below `in/`, as it goes to raw; none may be a reject.
async fn read(kit: &Kit) -> RecordBatch {
    let plan = kit.plan().await.unwrap();
    let mut parts = start(Job {
        lake: kit.lake.clone(),
        piece_bytes: 1_000,
        pipeline: kit.pipeline().clone(),
        reading: plan.spec.reading.clone(),
        files: plan.files,
        done: 0,
        limits: PartLimits { bytes: 1 << 30, rows: 1 << 30, every: Duration::from_secs(600) },
        clock: Clock::of(|| CLOCK_MS),
    });
    let part = parts.recv().await.unwrap().unwrap();
    assert_eq!(part.rejected, 0, "{:?}", part.rejects);
    concat_batches(&part.rows[0].schema(), &part.rows).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, max_shrink_iters: 200, ..ProptestConfig::default() })]
    #[test]
    fn no_value_changes_on_its_way(rows in rows()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let expected = typed(&rows);
        let files = [
            ("a.jsonl", jsonl(&rows).into_bytes()),
            ("a.jsonl.gz", gzip(jsonl(&rows).as_bytes())),
            ("a.csv", csv(&rows).into_bytes()),
            ("a.csv.zst", zstd(csv(&rows).as_bytes())),
            ("a.parquet", parquet(&expected)),
            ("a.avro", avro(&expected)),
        ];
        for (name, bytes) in files {
            let kit = Kit::new();
            kit.file(name, bytes);
            let found = runtime.block_on(read(&kit));
            for (field, column) in expected.schema().fields().iter().zip(expected.columns()) {
                let there = &found[field.name()];
                if let Some(ratios) = column.as_primitive_opt::<arrow::datatypes::Float64Type>() {
                    let bits = |array: &Float64Array| array.iter().map(|v| v.map(f64::to_bits)).collect::<Vec<_>>();
                    prop_assert_eq!(bits(there.as_primitive()), bits(ratios), "{}", name);
                } else {
                    prop_assert_eq!(&there.to_data(), &column.to_data(), "{} {}", name, field.name());
                }
            }
        }
    }
}
