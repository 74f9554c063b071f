//! What was typed.

mod backfill;
mod offsets;
mod produce;
mod quality;
mod rejects;
mod removal;
mod tables;
mod upkeep;
mod windows;

pub use backfill::{Backfill, BackfillCreate, BackfillResume, From as BackfillFrom};
pub use offsets::{Offsets, Target};
pub use produce::{BuiltIn, Produce, Topics};
pub use quality::{Quality, QualityRun};
pub use rejects::{RejectsDiscard, RejectsRedrive, RejectsVerb, Which};
pub use removal::{ArchiveCodec, TablesArchive, TablesForget, TablesRetain};
pub use tables::{Tables, TablesCheckpoint, TablesCompact, TablesVacuum};
pub use upkeep::{Upkeep, UpkeepStep};
pub use windows::{Batch, Drift, Reconcile, Speed};

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use deltaworks_core::windows::Instant;
use std::path::PathBuf;

/// Lands Kafka topics in Delta tables exactly once, and can prove it.
#[derive(Debug, Parser)]
#[command(name = "deltaworks", version, max_term_width = 100, arg_required_else_help = true)]
pub struct Args {
    /// Options that every verb knows.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// Options that every verb knows.
#[derive(Debug, ClapArgs)]
pub struct Global {
    /// Project folder [default: the nearest folder upward with deltaworks.yaml]
    #[arg(long, global = true, value_name = "DIR", env = "DELTAWORKS_PROJECT")]
    pub project: Option<PathBuf>,
    /// How logs look on stderr
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// Write the final JSON line to this file too, also on failure
    #[arg(long, global = true, value_name = "FILE")]
    pub result_file: Option<PathBuf>,
    /// No live line and no logs below errors
    #[arg(long, short, global = true)]
    pub quiet: bool,
}

/// How logs look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The verbs, in the order of a first day.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Write a new project
    Init(Init),
    /// Check the project's files: every error at once, with file, line and a hint
    Check(Check),
    /// Show it all in one minute, without any service
    Demo(Demo),
    /// Send events to a topic, from a file or generated from a contract
    Produce(Produce),
    /// Create topics
    #[command(subcommand)]
    Topics(Topics),
    /// Land topics in raw tables, exactly once
    Stream(Stream),
    /// Compute exact windows, late events included, and publish those that changed
    Batch(Batch),
    /// Bring the states of open windows up to raw, as `stream` does by itself
    #[command(subcommand)]
    Speed(Speed),
    /// Serve each window once: exact where batch has covered it, provisional elsewhere
    Reconcile(Reconcile),
    /// Land what is there, compute what changed, serve it, prove it: a whole cron entry
    Run(Run),
    /// What moved after it was shown, by how much, and which events did it
    #[command(subcommand)]
    Drift(Drift),
    /// Compute past windows again, by a plan that can be interrupted and resumed anywhere
    #[command(subcommand)]
    Backfill(Backfill),
    /// Prove what was landed: nothing lost, nothing twice, every row as it was
    Prove(Prove),
    /// Measure the contracts' rules over dates of data
    #[command(subcommand)]
    Quality(Quality),
    /// Keep tables in shape, let rows go where they are to, and look at what tables are
    #[command(subcommand)]
    Tables(Tables),
    /// Do what is due for all tables: retain, compact, checkpoint, vacuum: a whole cron entry
    Upkeep(Upkeep),
    /// Rejected messages: list, show, redrive, discard
    #[command(subcommand)]
    Rejects(RejectsVerb),
    /// Progress in Delta, in the group, in the broker: show, plan, rewind, skip
    #[command(subcommand)]
    Offsets(Offsets),
    /// Ask the tables in SQL
    Query(Query),
    /// Show every table: version, rows, files, bytes, valid-through, lag
    Status(Status),
    /// Start a pipeline over: drops its tables, after showing the plan
    Reset(Reset),
}

/// `init`
#[derive(Debug, ClapArgs)]
pub struct Init {
    /// Folder of the new project
    pub dir: PathBuf,
    /// Write this example instead of a skeleton
    #[arg(long, value_parser = ["traffic"])]
    pub example: Option<String>,
}

/// `check`
#[derive(Debug, ClapArgs)]
pub struct Check {
    /// Also ask broker and store: topics there, store writable and honouring conditional put, clock skew
    #[arg(long)]
    pub online: bool,
    /// Print the JSON Schema of deltaworks.yaml and end
    #[arg(long)]
    pub schema: bool,
}

/// `demo`
#[derive(Debug, ClapArgs)]
pub struct Demo {
    /// Folder of the demo's project and tables; made anew each time
    #[arg(long, default_value = "demo-lake", value_name = "DIR")]
    pub dir: PathBuf,
}

/// `stream`
#[derive(Debug, ClapArgs)]
pub struct Stream {
    /// Pipelines [default: all]
    pub pipelines: Vec<String>,
    /// End when every partition is read to where it ended when the run began
    #[arg(long)]
    pub until_caught_up: bool,
    /// Where a pipeline without progress begins: earliest, latest, an RFC 3339 time, offsets:FILE, group:NAME
    #[arg(long, default_value = "earliest", value_name = "WHERE")]
    pub start: String,
    /// Assign these partitions by hand instead of by the consumer group, e.g. 0-3 or 0,2
    #[arg(long, value_name = "LIST", value_parser = parse_partitions)]
    pub partitions: Option<PartitionList>,
    /// What to do where offsets are gone or the topic was recreated
    #[arg(long, value_enum, default_value_t = OnDataLoss::Stop)]
    pub on_data_loss: OnDataLoss,
    /// Serve /metrics and /healthz on this address, e.g. 0.0.0.0:9464
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<std::net::SocketAddr>,
    /// Print what would be read, from where to where, as JSON, and land nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// `run`
#[derive(Debug, ClapArgs)]
pub struct Run {
    /// Assign these partitions by hand instead of by the consumer group, e.g. 0-3 or 0,2
    #[arg(long, value_name = "LIST", value_parser = parse_partitions)]
    pub partitions: Option<PartitionList>,
    /// What to do where offsets are gone or a topic was recreated
    #[arg(long, value_enum, default_value_t = OnDataLoss::Stop)]
    pub on_data_loss: OnDataLoss,
    /// Files that `batch` reads at a time [default: the processors]
    #[arg(long, value_name = "N")]
    pub max_parallel: Option<std::num::NonZeroUsize>,
    /// Measure the contracts' quality rules before windows are published, as `batch --before-publish` does
    #[arg(long)]
    pub before_publish: bool,
    /// Do not read the topics again to prove what was landed
    #[arg(long)]
    pub offline: bool,
    /// End with exit code 99 where nothing was landed, computed or served
    #[arg(long)]
    pub skip_exit_code: bool,
}

/// `prove`
#[derive(Debug, Default, ClapArgs)]
pub struct Prove {
    /// Pipelines and aggregates [default: all]
    pub names: Vec<String>,
    /// Do not read the topics again
    #[arg(long)]
    pub offline: bool,
    /// Of batch and served, only units that have windows ending after this, RFC 3339 with offset; raw is proved whole
    #[arg(long, value_name = "TIME")]
    pub interval_start: Option<Instant>,
    /// Of batch and served, only units that have windows ending by this
    #[arg(long, value_name = "TIME")]
    pub interval_end: Option<Instant>,
}

/// What to do where offsets are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnDataLoss {
    /// Stop with exit code 6
    Stop,
    /// Record the gap, or open a new epoch, and go on
    Accept,
}

/// Partitions typed as `0-3,7`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionList(pub Vec<i32>);

/// `query`
#[derive(Debug, ClapArgs)]
pub struct Query {
    /// One SELECT over `<layer>.<name>`, e.g. SELECT * FROM raw.camera_events AS OF 3
    pub sql: String,
    /// Output format
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
    /// Write to this file instead of stdout
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// `status`
#[derive(Debug, ClapArgs)]
pub struct Status {
    /// Pipelines [default: all]
    pub pipelines: Vec<String>,
    /// Output format
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
    /// Exit 3 if a pipeline lags by more messages than this
    #[arg(long, value_name = "MESSAGES")]
    pub max_lag: Option<i64>,
    /// Exit 3 if valid-through is older than this, e.g. 15m
    #[arg(long, value_name = "DURATION")]
    pub max_age: Option<String>,
    /// Do not ask the broker
    #[arg(long)]
    pub offline: bool,
}

/// `reset`
#[derive(Debug, ClapArgs)]
pub struct Reset {
    /// Pipeline
    pub pipeline: String,
    /// Carry the plan out; without it the plan is only shown
    #[arg(long)]
    pub yes: bool,
    /// Print the plan as JSON and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Output formats of tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Table,
    /// One JSON object a line
    Json,
    /// With a header line
    Csv,
    /// Parquet file
    Parquet,
    /// Arrow IPC stream
    Arrow,
}

fn parse_partitions(text: &str) -> Result<PartitionList, String> {
    let number = |t: &str| t.trim().parse::<i32>().ok().filter(|n| *n >= 0);
    let mut out = Vec::new();
    for part in text.split(',') {
        let range = match part.split_once('-') {
            Some((from, to)) => number(from).zip(number(to)),
            None => number(part).map(|n| (n, n)),
        };
        match range {
            Some((from, to)) if from <= to && to - from < 100_000 => out.extend(from..=to),
            _ => return Err(format!("`{part}` is no partition or range; write e.g. 0-3 or 0,2")),
        }
    }
    out.sort_unstable();
    out.dedup();
    Ok(PartitionList(out))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn partitions_are_ranges_and_lists() {
        assert_eq!(parse_partitions("0-3,7, 2").unwrap().0, [0, 1, 2, 3, 7]);
        for bad in ["", "a", "3-1", "-1", "1-"] {
            assert!(parse_partitions(bad).is_err(), "{bad}");
        }
    }
}
