//! The pipeline as it judges the rows of one file.
//!
//! The contract says how a message writes a time, and where in a message a value is. A file with types of its own has
//! instants and no text of them, and no file has anything beside its rows. So for a file: a typed time is read as the
//! RFC 3339 text that it is turned into; what comes from key, header or Kafka's time comes from the field of the
//! column's name; the topic is the file's URL. All rules stay.

use crate::error::{Class, Error, Result, Stage};
use crate::project::contract::{Column, Kind, Source, TimestampForm};
use crate::project::settings::{EventTime, Pipeline};
use arrow::datatypes::{DataType, Fields};
use jiff::tz::TimeZone;
use std::sync::Arc;

/// Refuses a pipeline that no file can fill.
///
/// # Errors
/// [`Class::User`] if its event time is Kafka's.
pub(super) fn check(pipeline: &Pipeline) -> Result<()> {
    if pipeline.event_time == EventTime::KafkaTime {
        let message = format!("pipeline `{}`: its event time is Kafka's time, and a file has none", pipeline.name);
        return Err(Error::new(Stage::Fill, Class::User, message)
            .hint("fill it from Kafka, or name a field of the contract as `event_time`"));
    }
    Ok(())
}

/// The pipeline for the rows of the file at `url`; `types` are the file's own, if it has any, and `zone` is that of its
/// times without one.
pub(super) fn fitted(pipeline: &Pipeline, url: &str, types: Option<&Fields>, zone: Option<&TimeZone>) -> Arc<Pipeline> {
    let mut fitted = pipeline.clone();
    fitted.topic = url.to_owned();
    let mut contract = (*fitted.contract).clone();
    for column in &mut contract.columns {
        if matches!(column.source, Source::Key | Source::Header(_) | Source::KafkaTime) {
            column.source = Source::Field;
        }
    }
    if let Some(types) = types {
        contract.columns.iter_mut().for_each(|column| fit_among(column, types, zone));
    }
    fitted.contract = Arc::new(contract);
    Arc::new(fitted)
}

/// The pipeline for a row that was kept as a reject: `times` are the columns whose times were typed.
pub(super) fn refitted(pipeline: &Pipeline, url: &str, times: &[&str], zone: Option<&TimeZone>) -> Arc<Pipeline> {
    let mut fitted = fitted(pipeline, url, None, None);
    let mut contract = (*fitted.contract).clone();
    for column in contract.columns.iter_mut().filter(|column| times.contains(&column.name.as_str())) {
        each_time(column, &mut |form| *form = rfc3339(form, zone));
    }
    Arc::make_mut(&mut fitted).contract = Arc::new(contract);
    fitted
}

/// The names of the columns that have typed times in them.
pub(super) fn times(types: &Fields) -> Vec<&str> {
    types.iter().filter(|field| has_time(field.data_type())).map(|field| field.name().as_str()).collect()
}

fn has_time(data_type: &DataType) -> bool {
    use DataType as T;
    match data_type {
        T::Timestamp(..) => true,
        T::Struct(types) => types.iter().any(|field| has_time(field.data_type())),
        T::List(field) | T::LargeList(field) | T::FixedSizeList(field, _) => has_time(field.data_type()),
        _ => false,
    }
}

fn each_time(column: &mut Column, change: &mut impl FnMut(&mut TimestampForm)) {
    match &mut column.kind {
        Kind::Timestamp(form) => change(form),
        Kind::Object(columns) => columns.iter_mut().for_each(|column| each_time(column, change)),
        Kind::Array(item) => each_time(item, change),
        _ => {}
    }
}

/// RFC 3339, in the contract's own zone or the given one where a text has no offset.
fn rfc3339(form: &TimestampForm, zone: Option<&TimeZone>) -> TimestampForm {
    let own = match form {
        TimestampForm::Rfc3339 { zone } | TimestampForm::Format { zone, .. } => zone.clone(),
        _ => None,
    };
    TimestampForm::Rfc3339 { zone: own.or_else(|| zone.cloned()) }
}

fn fit_among(column: &mut Column, types: &Fields, zone: Option<&TimeZone>) {
    if let Some(field) = types.iter().find(|field| *field.name() == column.name) {
        fit(column, field.data_type(), zone);
    }
}

fn fit(column: &mut Column, data_type: &DataType, zone: Option<&TimeZone>) {
    use DataType as T;
    match (&mut column.kind, data_type) {
        (Kind::Timestamp(form), T::Timestamp(..)) => *form = rfc3339(form, zone),
        (Kind::Object(columns), T::Struct(types)) => columns.iter_mut().for_each(|c| fit_among(c, types, zone)),
        (Kind::Array(item), T::List(field) | T::LargeList(field) | T::FixedSizeList(field, _)) => {
            fit(item, field.data_type(), zone);
        }
        _ => {}
    }
}
