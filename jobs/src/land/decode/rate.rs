//! How fast the decoder is, beside stock arrow-json over the same messages. Not run by default:
//! `cargo test --release -p deltaworks-jobs --lib decode::rate -- --ignored --nocapture`.

use super::Decoder;
use super::json::JsonDecoder;
use super::tests::{CLOCK_MS, col, decimal, pipeline, required, time};
use crate::checksum::row_sums;
use crate::kafka::message::Chunk;
use crate::land::schema::contract_fields;
use crate::project::contract::{Column, Kind};
use arrow::datatypes::Schema;
use arrow::json::ReaderBuilder;
use std::sync::Arc;

const ROWS: usize = 8_192;
const ROUNDS: usize = 250;

/// Nanoseconds of CPU that this thread has used.
fn cpu_ns() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    stat.split_whitespace().next().unwrap().parse().unwrap()
}

fn columns() -> Vec<Column> {
    vec![
        Column { is_id: true, ..required(col("event_id", Kind::String)) },
        required(col("camera_id", Kind::String)),
        required(col("event_time", time())),
        col("vehicle_speed", decimal()),
        col("plate", Kind::String),
    ]
}

/// Traffic-like events of about 150 bytes.
fn chunk() -> Chunk {
    let mut chunk = Chunk { clock_ms: CLOCK_MS, ..Chunk::default() };
    for i in 0..ROWS {
        let id = (i as u128 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835);
        let ms = 1_700_000_000_000 + i as i64 * 137;
        let at = jiff::Timestamp::from_millisecond(ms).unwrap();
        let (camera, speed, cents, plate) = (i % 1_000, i % 140, i % 100, i % 10_000);
        let text = format!(
            r#"{{"event_id":"{id:032x}","camera_id":"cam-{camera:04}","event_time":"{at}","vehicle_speed":{speed}.{cents:02},"plate":"AA{plate:04}BC"}}"#
        );
        chunk.push((i % 4) as i32, i as i64, Some(ms), None, Some(text.as_bytes()), []);
    }
    chunk
}

#[expect(clippy::print_stdout, reason = "the figures are what this is for")]
fn measure(name: &str, mut round: impl FnMut()) {
    round();
    let start = cpu_ns();
    (0..ROUNDS).for_each(|_| round());
    let seconds = (cpu_ns() - start) as f64 / 1e9;
    println!("{name}: {:.2} M rows per CPU second", (ROWS * ROUNDS) as f64 / seconds / 1e6);
}

#[test]
#[ignore = "a measurement, for release builds"]
fn rows_per_cpu_second() {
    let mut pipeline = pipeline(columns());
    pipeline.event_time = crate::project::settings::EventTime::Field(vec!["event_time".into()]);
    let chunk = chunk();
    let mut ours = JsonDecoder::new(&pipeline).unwrap();
    measure("contract decoder", || {
        chunk.iter().for_each(|message| assert!(ours.push(&message).is_ok()));
        assert_eq!(ours.finish().unwrap().num_rows(), ROWS);
    });
    let schema = Arc::new(Schema::new(contract_fields(&pipeline.contract, false)));
    let mut stock = ReaderBuilder::new(schema).with_batch_size(ROWS).build_decoder().unwrap();
    measure("stock arrow-json", || {
        for message in chunk.iter() {
            stock.decode(message.payload().unwrap()).unwrap();
        }
        assert_eq!(stock.flush().unwrap().unwrap().num_rows(), ROWS);
    });
    chunk.iter().for_each(|message| assert!(ours.push(&message).is_ok()));
    let batch = ours.finish().unwrap();
    measure("row checksums", || assert_eq!(row_sums(&batch, &[]).unwrap().len(), ROWS));
}
