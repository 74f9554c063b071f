//! `ops.quality`: one row per run, date and rule, and what is known from earlier runs.

use super::run::Judged;
use crate::batch::{Run, append, ops_table, primitive, texts};
use crate::error::Result;
use crate::lake::{Lake, TableSpec};
use arrow::array::{Array, ArrayRef, Date32Array, Float64Array, Int64Array, StringArray};
use arrow::datatypes::{Date32Type, Int64Type};
use deltaworks_core::quality::{Severity, Verdict};
use deltaworks_core::windows::{date_of_epoch_days, epoch_days};
use futures::StreamExt;
use jiff::civil::Date;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The columns that are read again.
const READ: [&str; 7] = ["table", "event_date", "rule", "definition", "rows", "severity", "verdict"];
/// Files that one commit may add.
const FILES_MAX: usize = 1;

/// What `ops.quality` must be like.
#[must_use]
pub(super) fn spec() -> TableSpec {
    let columns = [
        "run_id",
        "table",
        "version",
        "event_date",
        "rule",
        "definition",
        "column",
        "measure",
        "must",
        "unit",
        "severity",
        "rows",
        "value",
        "verdict",
        "detail",
    ];
    ops_table("quality", &columns, "What each rule of a contract measured of each date, and whether it was kept")
}

/// Appends what a run judged.
pub(super) async fn record(lake: &Lake, judged: &[Judged], run: &Run, now_ms: i64) -> Result<()> {
    if judged.is_empty() {
        return Ok(());
    }
    fn texts(judged: &[Judged], get: impl Fn(&Judged) -> String) -> ArrayRef {
        Arc::new(StringArray::from_iter_values(judged.iter().map(get)))
    }
    let ints = |get: fn(&Judged) -> i64| -> ArrayRef { Arc::new(Int64Array::from_iter_values(judged.iter().map(get))) };
    let columns = vec![
        ("run_id", texts(judged, |_| run.id.clone())),
        ("table", texts(judged, |j| j.table.clone())),
        ("version", ints(|j| j.version)),
        ("event_date", Arc::new(Date32Array::from_iter_values(judged.iter().map(|j| epoch_days(j.date)))) as ArrayRef),
        ("rule", texts(judged, |j| j.rule.clone())),
        ("definition", texts(judged, |j| j.definition.clone())),
        ("column", texts(judged, |j| j.column.clone().unwrap_or_default())),
        ("measure", texts(judged, |j| j.measure.to_owned())),
        ("must", texts(judged, |j| j.must.clone())),
        ("unit", texts(judged, |j| j.unit.to_owned())),
        ("severity", texts(judged, |j| j.severity.as_str().to_owned())),
        ("rows", ints(|j| i64::try_from(j.rows).unwrap_or(i64::MAX))),
        // what could not be measured is no number
        ("value", Arc::new(Float64Array::from_iter_values(judged.iter().map(|j| j.value.unwrap_or(f64::NAN))))),
        ("verdict", texts(judged, |j| j.verdict.as_str().to_owned())),
        ("detail", texts(judged, |j| j.detail.clone().unwrap_or_default())),
    ];
    append(lake, &spec(), columns, run, now_ms, FILES_MAX).await
}

/// Dates of a table that need not be measured again: every rule, as it is now, was kept over as many rows, or its
/// breach is none that stops anybody.
pub(super) async fn settled(
    lake: &Lake,
    table: &str,
    rules: &BTreeSet<(String, String)>,
    rows: &BTreeMap<Date, u64>,
) -> Result<BTreeSet<Date>> {
    let Some(known) = lake.open_table(&spec().name).await? else { return Ok(BTreeSet::new()) };
    let mut judged: BTreeMap<Date, BTreeSet<(String, String)>> = BTreeMap::new();
    for file in known.live_files().await? {
        let mut batches = known.read_file(&file, &READ).await?;
        while let Some(batch) = batches.next().await.transpose()? {
            let [tables, names, definitions, severities, verdicts] =
                ["table", "rule", "definition", "severity", "verdict"].map(|name| texts(&batch, name));
            let (tables, names, definitions) = (tables?, names?, definitions?);
            let (severities, verdicts) = (severities?, verdicts?);
            let dates = primitive::<Date32Type>(&batch, "event_date")?;
            let counts = primitive::<Int64Type>(&batch, "rows")?;
            for row in (0..batch.num_rows()).filter(|row| tables.value(*row) == table && dates.is_valid(*row)) {
                let Some(date) = date_of_epoch_days(dates.value(row)) else { continue };
                let rule = (names.value(row).to_owned(), definitions.value(row).to_owned());
                let stops = severities.value(row) == Severity::Error.as_str();
                let kept = verdicts.value(row) == Verdict::Kept.as_str();
                let as_it_is = u64::try_from(counts.value(row)).ok() == rows.get(&date).copied();
                if as_it_is && (kept || !stops) && rules.contains(&rule) {
                    judged.entry(date).or_default().insert(rule);
                }
            }
        }
    }
    Ok(judged.into_iter().filter(|(_, kept)| kept == rules).map(|(date, _)| date).collect())
}
