//! `run`: a whole cron entry. Each step is the verb of its name, on what the step before has left.

use super::{batch, prove, reconcile, settings, stream};
use crate::args::{Batch, Global, Prove, Reconcile, Run, Stream};
use crate::ending::Ending;
use crate::lineage::Lineage;
use crate::logging::Screen;
use crate::signals::Signals;
use deltaworks_jobs::lineage::{Facts, Job, Kind};
use deltaworks_jobs::{Class, Result, Stage};
use serde_json::{Map, Value};

/// Runs the verb.
pub async fn run(global: &Global, args: &Run, screen: &Screen, lineage: &Lineage) -> Result<Ending> {
    // a project that cannot be read is told by its first step
    let run_id = deltaworks_jobs::run_id();
    let Ok(settings) = settings(global) else { return steps(global, args, &run_id, screen, lineage).await };
    let job = Job::new(Kind::Run, &run_id, &settings);
    let under = lineage.under(&settings, &job);
    let work = async { Ok((steps(global, args, &run_id, screen, &under).await?, Facts::default())) };
    lineage.around(&settings, job, work).await
}

async fn steps(global: &Global, args: &Run, run_id: &str, screen: &Screen, lineage: &Lineage) -> Result<Ending> {
    let signals = Signals::listen(Stage::Land)?;
    begins("stream");
    let result = Map::from_iter([("run_id".to_owned(), run_id.into())]);
    let mut told = Told { result, idle: true, ended: None };
    let mut go_on = told.add("stream", stream::run(global, &landing(args), screen, lineage).await, &signals);
    if go_on && !settings(global)?.aggregates.is_empty() {
        begins("batch");
        go_on = told.add("batch", batch::run(global, &computing(args), screen, lineage).await, &signals);
        if go_on {
            begins("reconcile");
            go_on = told.add("reconcile", reconcile::run(global, &serving(), lineage).await, &signals);
        }
    }
    if go_on {
        begins("prove");
        let proving = Prove { offline: args.offline, ..Prove::default() };
        // the steps before drain by themselves when a signal comes; this one only reads
        let proved = tokio::select! {
            proved = prove::run(global, &proving, lineage) => proved,
            () = signals.stop.cancelled() => Ok(Ending::done()),
        };
        told.add("prove", proved, &signals);
    }
    Ok(told.end(args.skip_exit_code))
}

/// Tells the log where the run is.
fn begins(step: &str) {
    tracing::info!(step, "the next step begins");
}

/// What the steps have said.
struct Told {
    result: Map<String, Value>,
    /// Whether no step has done anything.
    idle: bool,
    /// How the run ends, once that is known before its last step.
    ended: Option<Ending>,
}

impl Told {
    /// Takes in how a step ended; whether the next one may begin.
    fn add(&mut self, step: &str, ending: Result<Ending>, signals: &Signals) -> bool {
        let ending = ending.unwrap_or_else(Ending::from);
        let told = ending.told();
        self.idle &= match step {
            "stream" => landed_nothing(&told),
            "batch" | "reconcile" => ending.is_skipped(),
            _ => true,
        };
        self.result.insert(step.to_owned(), told);
        if ending.is_done() && signals.class().is_none() {
            return true;
        }
        self.ended = Some(match signals.class() {
            Some(class) => Ending::classed(class, Value::Null),
            None => ending,
        });
        false
    }

    /// One line about all of it.
    fn end(self, skip_exit_code: bool) -> Ending {
        let result = Value::Object(self.result);
        match self.ended {
            Some(ended) => ended.saying(result),
            None if self.idle && skip_exit_code => Ending::classed(Class::Skipped, result),
            None => Ending::with(result),
        }
    }
}

fn landed_nothing(told: &Value) -> bool {
    let pipelines = told["pipelines"].as_object().into_iter().flat_map(|all| all.values());
    pipelines.flat_map(|p| ["landed", "rejected", "skipped"].map(|count| &p[count])).all(|n| n.as_u64() == Some(0))
}

fn landing(args: &Run) -> Stream {
    Stream {
        pipelines: Vec::new(),
        until_caught_up: true,
        start: "earliest".to_owned(),
        partitions: args.partitions.clone(),
        on_data_loss: args.on_data_loss,
        listen: None,
        dry_run: false,
    }
}

/// Idle ends as such, so that a run that did nothing can say so.
fn computing(args: &Run) -> Batch {
    Batch {
        max_parallel: args.max_parallel,
        before_publish: args.before_publish,
        skip_exit_code: true,
        ..Batch::default()
    }
}

fn serving() -> Reconcile {
    Reconcile { aggregates: Vec::new(), accept_drift: false, skip_exit_code: true, dry_run: false }
}
