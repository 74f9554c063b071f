//! One run: for each pipeline the dates, each date measured and judged, and what was found recorded.
//!
//! Invariants: W1 a date's verdicts are recorded before the next date is measured, so an interrupted run has not worked
//! in vain; W2 a rule that cannot be measured is breached and says why: silence is no success.

use super::measure::{Measured, Subject};
use super::record::{record, settled};
use super::rulings::Rulings;
use crate::batch::Run;
use crate::clock::Clock;
use crate::error::{Class, Error, Result, Stage};
use crate::faults;
use crate::lake::{Lake, TableName};
use crate::land::tables::raw_name;
use crate::project::contract::{Measure, QualityRule};
use crate::project::settings::{Pipeline, Settings};
use deltaworks_core::quality::{Severity, Unit, Verdict, judge};
use deltaworks_core::units::{Fingerprint, Interval};
use deltaworks_core::windows::{DAY_US, Instant};
use jiff::civil::Date;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Breaches that a report lists; `ops.quality` has all of them.
const BREACHES_MAX: usize = 100;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct QualityOptions {
    /// Id of the run.
    pub run_id: String,
    /// Pipelines; empty for all.
    pub pipelines: Vec<String>,
    /// Dates that have instants in it. Without either end, those that are not known to be well.
    pub interval: Interval,
}

/// One rule over one date.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Judged {
    /// Table.
    pub table: String,
    /// Its version.
    #[serde(skip)]
    pub version: i64,
    /// Event date.
    pub date: Date,
    /// Rule.
    pub rule: String,
    /// Which wording of the rule.
    #[serde(skip)]
    pub definition: String,
    /// Column, if it is about one.
    #[serde(skip)]
    pub column: Option<String>,
    /// What was measured.
    pub measure: &'static str,
    /// What it must be.
    pub must: String,
    /// In what `value` is told.
    pub unit: &'static str,
    /// What a breach means.
    pub severity: Severity,
    /// Rows of the date.
    pub rows: u64,
    /// What was measured; none if that failed.
    pub value: Option<f64>,
    /// What became of it.
    pub verdict: Verdict,
    /// Why it could not be measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// What a run found.
#[derive(Debug, Default, Serialize)]
pub struct QualityReport {
    /// Dates measured.
    pub dates: u64,
    /// Dates that an earlier run found well, and whose rows and rules are as they were.
    pub dates_left: u64,
    /// Rules judged, once for each date.
    pub judged: u64,
    /// Rules breached, by severity.
    pub breached: BTreeMap<&'static str, u64>,
    /// The breaches, worst first, at most a hundred.
    pub breaches: Vec<Judged>,
    /// Rules that are not run, and why.
    pub not_run: Vec<String>,
    /// What became of each rule over all these dates.
    #[serde(skip)]
    pub rulings: Rulings,
    /// Whether it ended because it was told to.
    #[serde(skip)]
    pub stopped: bool,
}

impl QualityReport {
    /// Whether no date needed anything.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        self.dates == 0
    }

    /// The error of a report with a breach that stops: the first ones.
    #[must_use]
    pub fn error(&self) -> Option<Error> {
        let first = self.breaches.iter().find(|b| b.severity == Severity::Error)?;
        let all = self.breached.get(Severity::Error.as_str()).copied().unwrap_or(0);
        let value = first.value.map_or_else(|| first.detail.clone().unwrap_or_default(), |value| value.to_string());
        let message = format!(
            "rule `{}` of `{}` is breached on {}: {} {value} {}, must be {} ({} breaches in all)",
            first.rule, first.table, first.date, first.measure, first.unit, first.must, all
        );
        let hint = "`deltaworks query \"SELECT * FROM ops.quality WHERE verdict = 'breached'\"` has all of them";
        Some(Error::new(Stage::Quality, Class::Limit, message).hint(hint))
    }
}

/// Measures, judges and records.
///
/// # Errors
/// A pipeline is not known, or a table cannot be read or written. What was judged before is recorded.
pub async fn quality(
    settings: &Settings,
    options: &QualityOptions,
    clock: &Clock,
    stop: &CancellationToken,
) -> Result<QualityReport> {
    quality_on(&Lake::open(&settings.lake)?, settings, options, clock, stop).await
}

/// The same, on a lake that is open.
///
/// # Errors
/// As [`quality`].
pub async fn quality_on(
    lake: &Lake,
    settings: &Settings,
    options: &QualityOptions,
    clock: &Clock,
    stop: &CancellationToken,
) -> Result<QualityReport> {
    super::check(settings).await?;
    let mut report = QualityReport::default();
    let run = Run::new(options.run_id.clone());
    for pipeline in &settings.pipelines {
        if !options.pipelines.is_empty() && !options.pipelines.contains(&pipeline.name) {
            continue;
        }
        report.not_run.extend(pipeline.contract.quality.iter().filter_map(|rule| match rule.measure {
            Measure::NotRun(why) => Some(format!("{} of {}: {why}", rule.name, pipeline.name)),
            _ => None,
        }));
        let Some(due) = Due::of(lake, pipeline, options.interval, None).await? else { continue };
        report.dates_left += due.left;
        for date in &due.dates {
            if stop.is_cancelled() {
                report.stopped = true;
                return Ok(report);
            }
            let judged = due.judge(lake, pipeline, *date, settings.memory_bytes).await?;
            faults::point("before_quality_commit");
            record(lake, &judged, &run, clock.now_ms()).await?;
            faults::point("after_quality_commit");
            report.take(judged);
        }
    }
    report.breaches.sort_by(|a, b| (b.severity, &a.table, a.date).cmp(&(a.severity, &b.table, b.date)));
    report.breaches.truncate(BREACHES_MAX);
    Ok(report)
}

/// Some dates of one version of a raw table.
#[derive(Debug)]
pub(crate) struct RawDates<'a> {
    /// Whose.
    pub(crate) pipeline: &'a Arc<Pipeline>,
    /// The version.
    pub(crate) version: i64,
    /// The dates; those without rows break nothing.
    pub(crate) dates: BTreeSet<Date>,
}

/// Judges dates before something is made of them: each that breaks a rule of severity error, with the first such rule.
/// What became of all rules is added to `rulings`.
pub(crate) async fn breached(
    lake: &Lake,
    raw: RawDates<'_>,
    memory_bytes: usize,
    run: &Run,
    now_ms: i64,
    rulings: &mut Rulings,
) -> Result<BTreeMap<Date, String>> {
    let mut breached = BTreeMap::new();
    let Some(mut due) = Due::of(lake, raw.pipeline, Interval::default(), Some(raw.version)).await? else {
        return Ok(breached);
    };
    due.dates.retain(|date| raw.dates.contains(date));
    for date in &due.dates {
        let judged = due.judge(lake, raw.pipeline, *date, memory_bytes).await?;
        record(lake, &judged, run, now_ms).await?;
        rulings.take(&judged);
        let stops = |j: &&Judged| j.verdict == Verdict::Breached && j.severity == Severity::Error;
        breached.extend(judged.iter().find(stops).map(|j| (*date, j.rule.clone())));
    }
    Ok(breached)
}

/// The dates of one raw table that are to be measured.
struct Due {
    table: TableName,
    version: i64,
    dates: Vec<Date>,
    left: u64,
}

impl Due {
    /// Those of the newest version, or of a given one.
    async fn of(
        lake: &Lake,
        pipeline: &Arc<Pipeline>,
        interval: Interval,
        version: Option<i64>,
    ) -> Result<Option<Self>> {
        let rules = definitions(&pipeline.contract.quality);
        let name = raw_name(pipeline);
        let opened = match version {
            Some(version) => lake.open_table_at(&name, version).await?,
            None => lake.open_table(&name).await?,
        };
        let Some(raw) = opened.filter(|_| !rules.is_empty()) else { return Ok(None) };
        let mut rows: BTreeMap<Date, u64> = BTreeMap::new();
        for file in raw.live_files().await? {
            let date = file.partition_values.get("event_date").cloned().flatten().and_then(|date| date.parse().ok());
            if let Some(date) = date {
                *rows.entry(date).or_default() += file.rows.unwrap_or(0);
            }
        }
        let known = match interval {
            Interval { from: None, to: None } => settled(lake, &name.to_string(), &rules, &rows).await?,
            _ => BTreeSet::new(),
        };
        let (left, due): (Vec<Date>, Vec<Date>) =
            rows.into_keys().filter(|date| reaches(interval, *date)).partition(|date| known.contains(date));
        Ok(Some(Self { table: name, version: raw.version(), dates: due, left: left.len() as u64 }))
    }

    async fn judge(&self, lake: &Lake, pipeline: &Pipeline, date: Date, memory_bytes: usize) -> Result<Vec<Judged>> {
        let subject =
            Subject { lake, table: &self.table, version: self.version, contract: &pipeline.contract, memory_bytes };
        let Measured { rows, mut values } = subject.measure(date).await?;
        let rules = pipeline.contract.quality.iter().enumerate();
        let judged = rules.filter_map(|(n, rule)| {
            let measured = values.remove(&n)?;
            let value = measured.as_ref().ok().map(|count| rule.unit.of(*count, rows));
            let verdict = value.map_or(Verdict::Breached, |value| judge(value, &rule.bounds));
            Some(Judged {
                table: self.table.to_string(),
                version: self.version,
                date,
                rule: rule.name.clone(),
                definition: definition(rule),
                column: rule.column.clone(),
                measure: called(&rule.measure),
                must: rule.bounds.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and "),
                unit: match (&rule.measure, rule.unit) {
                    (Measure::Sql(_), _) => "",
                    (_, Unit::Rows) => "rows",
                    (_, Unit::Percent) => "percent",
                },
                severity: rule.severity,
                rows,
                value,
                verdict,
                detail: measured.err().map(|error| error.to_string()),
            })
        });
        Ok(judged.collect())
    }
}

impl QualityReport {
    fn take(&mut self, judged: Vec<Judged>) {
        self.dates += 1;
        self.rulings.take(&judged);
        self.judged += judged.len() as u64;
        for breach in judged.into_iter().filter(|j| j.verdict == Verdict::Breached) {
            *self.breached.entry(breach.severity.as_str()).or_default() += 1;
            self.breaches.push(breach);
        }
    }
}

/// Whether a date has instants in the half-open interval.
fn reaches(interval: Interval, date: Date) -> bool {
    let Ok(start) = Instant::of_utc_date(date) else { return false };
    interval.from.is_none_or(|from| from.0 < start.0.saturating_add(DAY_US)) && interval.to.is_none_or(|to| start < to)
}

/// Name and wording of each rule that is run.
fn definitions(rules: &[QualityRule]) -> BTreeSet<(String, String)> {
    let run = rules.iter().filter(|rule| !matches!(rule.measure, Measure::NotRun(_)));
    run.map(|rule| (rule.name.clone(), definition(rule))).collect()
}

fn definition(rule: &QualityRule) -> String {
    let QualityRule { column, measure, bounds, unit, severity, .. } = rule;
    Fingerprint::of(format!("{column:?} {measure:?} {bounds:?} {unit:?} {severity:?}").as_bytes()).to_string()
}

const fn called(measure: &Measure) -> &'static str {
    match measure {
        Measure::NullValues => "null values",
        Measure::MissingValues(_) => "missing values",
        Measure::InvalidValues { .. } => "invalid values",
        Measure::DuplicateValues(_) => "duplicate values",
        Measure::RowCount => "row count",
        Measure::Sql(_) => "sql",
        Measure::NotRun(_) => "not run",
    }
}
