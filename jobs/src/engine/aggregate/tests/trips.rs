//! Events of the pipeline `trips`, as a test or proptest wants them.

use super::super::{Batches, Source};
use super::golden::project;
use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int32Array, Int64Array, ListBuilder,
    RecordBatch, StringArray, StringBuilder, StructArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field};
use futures::StreamExt;
use proptest::prelude::*;
use std::sync::Arc;

/// One landed event.
#[derive(Debug, Clone)]
pub struct Trip {
    pub at_us: i64,
    pub driver: Option<i64>,
    pub town: &'static str,
    pub distance: Option<f64>,
    pub fare: Option<i128>,
    pub stops: i64,
    pub paid: Option<bool>,
    pub via: Option<&'static str>,
    pub behind_ms: Option<i64>,
    pub kafka_us: Option<i64>,
}

pub fn source() -> Source {
    Source::of(&project().pipelines[0])
}

/// The rows as raw has them; the place of a row is its number.
pub fn batch(trips: &[(usize, Trip)]) -> RecordBatch {
    let instants =
        |us: Vec<Option<i64>>| Arc::new(TimestampMicrosecondArray::from(us).with_timezone("UTC")) as ArrayRef;
    let all = |f: &dyn Fn(&Trip) -> Option<i64>| trips.iter().map(|(_, t)| f(t)).collect::<Vec<_>>();
    let schema = source().schema;
    let columns = schema.fields().iter().map(|field| -> ArrayRef {
        match field.name().as_str() {
            "id" => Arc::new(StringArray::from_iter_values(trips.iter().map(|(n, _)| n.to_string()))),
            "at" => instants(all(&|t| Some(t.at_us))),
            "driver" => Arc::new(Int64Array::from(all(&|t| t.driver))),
            "town" => Arc::new(StringArray::from_iter_values(trips.iter().map(|(_, t)| t.town))),
            "distance" => Arc::new(Float64Array::from_iter(trips.iter().map(|(_, t)| t.distance))),
            "fare" => {
                let fares = Decimal128Array::from_iter(trips.iter().map(|(_, t)| t.fare));
                Arc::new(fares.with_precision_and_scale(8, 2).unwrap())
            }
            "stops" => Arc::new(Int64Array::from(all(&|t| Some(t.stops)))),
            "paid" => Arc::new(BooleanArray::from_iter(trips.iter().map(|(_, t)| t.paid))),
            "born" => Arc::new(Date32Array::from_iter(trips.iter().map(|(_, t)| Some(t.stops as i32)))),
            "tags" => {
                let mut tags =
                    ListBuilder::new(StringBuilder::new()).with_field(Field::new("element", DataType::Utf8, true));
                trips.iter().for_each(|_| tags.append(false));
                Arc::new(tags.finish())
            }
            "route" => {
                let DataType::Struct(fields) = field.data_type() else { panic!("route is an object") };
                let via = StringArray::from_iter(trips.iter().map(|(_, t)| t.via));
                Arc::new(StructArray::new(fields.clone(), vec![instants(all(&|t| Some(t.at_us))), Arc::new(via)], None))
            }
            "_topic" => Arc::new(StringArray::from(vec!["trips"; trips.len()])),
            "_partition" => Arc::new(Int32Array::from_iter_values(trips.iter().map(|(n, _)| (n % 3) as i32))),
            "_offset" => Arc::new(Int64Array::from_iter_values(trips.iter().map(|(n, _)| *n as i64))),
            "_kafka_time" => instants(all(&|t| t.kafka_us)),
            "_behind_ms" => Arc::new(Int64Array::from(all(&|t| t.behind_ms))),
            "_repeat" => Arc::new(BooleanArray::from(vec![Some(false); trips.len()])),
            "_fill" => Arc::new(Int64Array::from(all(&|t| t.behind_ms.is_none().then_some(7)))),
            "event_date" => Arc::new(Date32Array::from_iter(
                trips.iter().map(|(_, t)| Some(t.at_us.div_euclid(86_400_000_000) as i32)),
            )),
            other => panic!("no values for `{other}`"),
        }
    });
    let columns = columns.collect();
    RecordBatch::try_new(Arc::clone(&schema), columns).unwrap()
}

/// `rows` of one batch each, in as many streams as there are.
pub fn streams(batches: Vec<Vec<RecordBatch>>) -> Vec<Batches> {
    batches.into_iter().map(|part| futures::stream::iter(part.into_iter().map(Ok)).boxed()).collect()
}

/// Trips around two changes of the clocks in Kyiv, before 1970 too, with few different keys, floats of
/// all sizes and both zeros.
pub fn trip() -> impl Strategy<Value = Trip> {
    let at = |text: &str| text.parse::<jiff::Timestamp>().unwrap().as_microsecond();
    let hours = |h: i64| h * 3_600_000_000;
    let near = move |text: &str| {
        let at = at(text);
        at - hours(30)..at + hours(30)
    };
    let at_us = prop_oneof![
        4 => near("2026-03-29T01:00:00Z"),
        2 => near("2026-10-25T01:00:00Z"),
        1 => -hours(50)..hours(50),
    ];
    let distance = prop_oneof![
        4 => (-50_i32..50).prop_map(|n| f64::from(n) / 8.0),
        2 => -1e3..1e3,
        1 => prop::sample::select(vec![0.0, -0.0, 1e300, -1e300, 1e-300, 0.1]),
    ];
    let keys = (prop::option::weighted(0.9, 1_i64..5), prop::sample::select(vec!["007", "008", "009", "x"]));
    let values = (
        prop::option::weighted(0.9, distance),
        prop::option::weighted(0.9, -99_999_999_i128..99_999_999),
        -5_i64..20,
        prop::option::weighted(0.8, any::<bool>()),
        prop::option::weighted(0.7, prop::sample::select(vec!["007", "008", "010"])),
    );
    let landed = (prop::option::weighted(0.9, 0_i64..9_000_000), prop::option::weighted(0.8, 0_i64..4));
    // few different instants, so that orders need the place
    (at_us, any::<bool>(), keys, values, landed).prop_map(
        |(at_us, rounded, (driver, town), values, (behind_ms, kafka_us))| {
            let (distance, fare, stops, paid, via) = values;
            let at_us = if rounded { at_us - at_us.rem_euclid(1_800_000_000) } else { at_us };
            Trip { at_us, driver, town, distance, fare, stops, paid, via, behind_ms, kafka_us }
        },
    )
}
