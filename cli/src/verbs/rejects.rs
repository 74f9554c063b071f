//! `rejects`: what broke its contract, and why.

use super::{one, settings};
use crate::args::{Format, Global, RejectsVerb};
use crate::ending::Ending;
use crate::output;
use deltaworks_core::reason::Reason;
use deltaworks_jobs::{Class, Error, Result, Stage, engine};

/// Characters of a payload that a table shows.
const SHOWN_MAX: usize = 300;

/// Runs the verb.
pub async fn run(global: &Global, args: &RejectsVerb) -> Result<Ending> {
    let settings = settings(global)?;
    let (sql, format) = match args {
        RejectsVerb::List { pipeline, format } => {
            let table = &one(&settings, pipeline)?.name;
            let sql = format!(
                "SELECT reject_date, reason, field, count(*) AS messages, min(_kafka_time) AS first, max(_kafka_time) AS last \
                 FROM rejects.{table} GROUP BY reject_date, reason, field ORDER BY reject_date, messages DESC, reason, field"
            );
            (sql, format)
        }
        RejectsVerb::Show { pipeline, reason, limit, format } => {
            let table = &one(&settings, pipeline)?.name;
            let only =
                reason.as_deref().map(known).transpose()?.map_or(String::new(), |r| format!("WHERE reason = '{r}' "));
            let payload = "coalesce(try_cast(payload AS VARCHAR), concat('0x', encode(payload, 'hex')))";
            let payload = match format {
                // for people: a payload may have megabytes
                Format::Table => format!(
                    "CASE WHEN character_length({payload}) > {SHOWN_MAX} THEN concat(left({payload}, {SHOWN_MAX}), '… of ', \
                     character_length({payload}), ' characters; --format json shows all') ELSE {payload} END"
                ),
                _ => payload.to_owned(),
            };
            let sql = format!(
                "SELECT _topic, _partition, _offset, _kafka_time, reason, field, detail, contract_version, {payload} AS payload \
                 FROM rejects.{table} {only}ORDER BY _topic, _partition, _offset LIMIT {limit}"
            );
            (sql, format)
        }
    };
    let rows = engine::query(&settings.lake, &sql, settings.memory_bytes).await?;
    output::rows(rows, *format, None).await?;
    Ok(Ending::done())
}

fn known(text: &str) -> Result<Reason> {
    Reason::ALL.into_iter().find(|r| r.as_str() == text).ok_or_else(|| {
        let codes: Vec<_> = Reason::ALL.iter().map(|r| r.as_str()).collect();
        Error::new(Stage::Query, Class::User, format!("there is no reason code `{text}`")).hint(codes.join(", "))
    })
}
