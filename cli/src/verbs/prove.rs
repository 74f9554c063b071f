//! `prove`: a table for people, one JSON line for machines, exit code 3 with the first counter-examples.

use super::settings;
use crate::args::{Format, Global, Prove};
use crate::ending::Ending;
use crate::lineage::Lineage;
use crate::output;
use deltaworks_core::units::Interval;
use deltaworks_jobs::clock::Clock;
use deltaworks_jobs::lineage::{Facts, Job, Kind};
use deltaworks_jobs::prove::{Check, ProveOptions, ProveReport, Verdict, prove};
use deltaworks_jobs::{Class, Error, Result, Stage};
use serde::Serialize;

const COLUMNS: [&str; 5] = ["check", "of", "verdict", "compared", "note"];

/// A check, as a person reads it.
#[derive(Serialize)]
struct Line<'c> {
    check: &'c str,
    of: &'c str,
    verdict: &'c str,
    compared: String,
    note: String,
}

/// Runs the verb.
pub async fn run(global: &Global, args: &Prove, lineage: &Lineage) -> Result<Ending> {
    let settings = settings(global)?;
    let interval = Interval { from: args.interval_start, to: args.interval_end };
    if let Interval { from: Some(from), to: Some(to) } = interval
        && from >= to
    {
        return Err(Error::new(Stage::Prove, Class::User, format!("the interval ({from}, {to}] is empty")));
    }
    let options = ProveOptions { names: args.names.clone(), offline: args.offline, interval };
    let run_id = deltaworks_jobs::run_id();
    let job = Job::new(Kind::Prove, &run_id, &settings).over(interval);
    let work = async {
        let report = prove(&settings, &options, &Clock::system()).await?;
        if !global.quiet {
            show(&report)?;
        }
        Ok((Ending::job(&run_id, &report, None, false).and_error(report.error()), Facts::default()))
    };
    lineage.around(&settings, job, work).await
}

/// Prints the table of all checks.
pub fn show(report: &ProveReport) -> Result<()> {
    let lines: Vec<Line<'_>> = report.checks.iter().map(line).collect();
    output::records(&lines, &COLUMNS, Format::Table)
}

fn line(check: &Check) -> Line<'_> {
    let compared: Vec<String> = check.compared.iter().map(|(what, count)| format!("{count} {what}")).collect();
    let verdict = match check.verdict {
        Verdict::Proved => "proved",
        Verdict::Refuted => "REFUTED",
        Verdict::NotProved => "not proved",
    };
    let note = match (&check.why, check.examples.as_slice()) {
        (Some(why), _) => why.clone(),
        (None, []) => String::new(),
        (None, [first, ..]) => format!("{} found, such as: {first}", check.found),
    };
    Line { check: check.check, of: &check.of, verdict, compared: compared.join(", "), note }
}
