//! `quality`: the contracts' rules over dates of raw; exit code 3 where one with severity error is breached.

use super::{pick, settings};
use crate::args::{Format, Global, Quality, QualityRun};
use crate::ending::Ending;
use crate::lineage::Lineage;
use crate::output;
use crate::signals::Signals;
use deltaworks_core::units::Interval;
use deltaworks_jobs::clock::Clock;
use deltaworks_jobs::lineage::{Facts, Job, Kind};
use deltaworks_jobs::quality::{Judged, QualityOptions, QualityReport, quality};
use deltaworks_jobs::{Class, Error, Result, Stage, run_id};
use serde::Serialize;

const COLUMNS: [&str; 7] = ["severity", "table", "date", "rule", "measured", "must be", "rows"];

/// A breach, as a person reads it.
#[derive(Serialize)]
struct Line<'j> {
    severity: &'static str,
    table: &'j str,
    date: String,
    rule: &'j str,
    measured: String,
    #[serde(rename = "must be")]
    must: &'j str,
    rows: u64,
}

/// Runs the verb.
pub async fn run(global: &Global, args: &Quality, lineage: &Lineage) -> Result<Ending> {
    let Quality::Run(QualityRun { pipelines, interval_start, interval_end, skip_exit_code }) = args;
    let settings = settings(global)?;
    pick(&settings, pipelines)?;
    let interval = Interval { from: *interval_start, to: *interval_end };
    if let Interval { from: Some(from), to: Some(to) } = interval
        && from >= to
    {
        return Err(Error::new(Stage::Quality, Class::User, format!("the interval [{from}, {to}) is empty")));
    }
    let options = QualityOptions { run_id: run_id(), pipelines: pipelines.clone(), interval };
    let signals = Signals::listen(Stage::Quality)?;
    let job = Job::new(Kind::Quality, &options.run_id, &settings).of_pipelines(pipelines).over(interval);
    let work = async {
        let report = quality(&settings, &options, &Clock::system(), &signals.stop).await?;
        if !global.quiet {
            show(&report)?;
        }
        let (idle, stopped) = (*skip_exit_code && report.is_idle(), signals.class().filter(|_| report.stopped));
        let ending = Ending::job(&options.run_id, &report, stopped, idle).and_error(report.error());
        Ok((ending, Facts { rulings: report.rulings, ..Facts::default() }))
    };
    lineage.around(&settings, job, work).await
}

fn show(report: &QualityReport) -> Result<()> {
    if !report.breaches.is_empty() {
        let lines: Vec<Line<'_>> = report.breaches.iter().map(line).collect();
        output::records(&lines, &COLUMNS, Format::Table)?;
    }
    for not_run in &report.not_run {
        output::talk(&format!("not run  {not_run}"));
    }
    Ok(())
}

fn line(breach: &Judged) -> Line<'_> {
    let measured = match (breach.value, &breach.detail) {
        (Some(value), _) => format!("{} {value} {}", breach.measure, breach.unit).trim_end().to_owned(),
        (None, why) => why.clone().unwrap_or_default(),
    };
    Line {
        severity: breach.severity.as_str(),
        table: &breach.table,
        date: breach.date.to_string(),
        rule: &breach.rule,
        measured,
        must: &breach.must,
        rows: breach.rows,
    }
}
