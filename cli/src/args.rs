//! What was typed.

mod backfill;
mod offsets;
mod quality;
mod rejects;
mod removal;
mod upkeep;

pub use backfill::{Backfill, BackfillCreate, BackfillResume, From as BackfillFrom};
pub use offsets::{Offsets, Target};
pub use quality::{Quality, QualityRun};
pub use rejects::{RejectsDiscard, RejectsRedrive, RejectsVerb, Which};
pub use removal::{ArchiveCodec, TablesArchive, TablesForget, TablesRetain};
pub use upkeep::{Upkeep, UpkeepStep};

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use deltaworks_core::windows::{Granularity, Instant};
use deltaworks_jobs::lake::TableName;
use deltaworks_jobs::upkeep::{parse_name, parse_period, parse_size};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

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

/// `produce`
#[derive(Debug, ClapArgs)]
pub struct Produce {
    /// Pipeline whose topic and contract are used
    pub pipeline: String,
    /// Send the lines of this JSONL or JSONL.gz file instead of generated events
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Field whose value becomes the message key
    #[arg(long, value_name = "FIELD")]
    pub key: Option<String>,
    /// Send a built-in stream for benchmarks: small events of about 150 B, or large ones of about 1 KB
    #[arg(long, value_enum, conflicts_with = "file")]
    pub shape: Option<BuiltIn>,
    /// Generated events to send
    #[arg(long, default_value_t = 1_000)]
    pub count: u64,
    /// Seed of the generator; the same seed makes the same events
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Events per second; 0 is as fast as possible
    #[arg(long, default_value_t = 0.0, value_name = "EVENTS")]
    pub rate: f64,
    /// Share of events that are late, 0 to 1
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    pub late: f64,
    /// Share of events that are sent twice, 0 to 1
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    pub duplicate: f64,
    /// Share of events that break the contract, 0 to 1
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    pub corrupt: f64,
    /// Event time of the first generated event, RFC 3339 [default: now]
    #[arg(long, value_name = "TIME")]
    pub start: Option<String>,
    /// Event time from one generated event to the next, ms
    #[arg(long, default_value_t = 100, value_name = "MS")]
    pub spacing_ms: u64,
    /// Write what was sent, with partition and offset, to this JSONL file
    #[arg(long, value_name = "FILE")]
    pub truth: Option<PathBuf>,
    /// Print the plan as JSON and send nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Built-in streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BuiltIn {
    /// About 150 B
    Small,
    /// About 1 KB
    Large,
}

/// `topics`
#[derive(Debug, Subcommand)]
pub enum Topics {
    /// Create the topics of pipelines that the broker does not have
    Create(TopicsCreate),
}

/// `topics create`
#[derive(Debug, ClapArgs)]
pub struct TopicsCreate {
    /// Pipelines [default: all]
    pub pipelines: Vec<String>,
    /// Partitions of a new topic
    #[arg(long, default_value_t = 4)]
    pub partitions: i32,
    /// Replicas of a new topic
    #[arg(long, default_value_t = 1)]
    pub replication: i32,
    /// Topic setting, e.g. retention.ms=86400000
    #[arg(long = "config", value_name = "KEY=VALUE")]
    pub configs: Vec<String>,
    /// Print the plan as JSON and create nothing
    #[arg(long)]
    pub dry_run: bool,
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

/// `batch`
#[derive(Debug, Default, ClapArgs)]
pub struct Batch {
    /// Aggregates [default: all]
    pub aggregates: Vec<String>,
    /// Only windows that end after this, RFC 3339 with offset
    #[arg(long, value_name = "TIME")]
    pub interval_start: Option<Instant>,
    /// Only windows that end by this, RFC 3339 with offset; all of them have to be complete, else exit 7
    #[arg(long, value_name = "TIME")]
    pub interval_end: Option<Instant>,
    /// Compute again whatever is published
    #[arg(long)]
    pub force: bool,
    /// Only windows of this size, e.g. 1h; may be given several times
    #[arg(long = "granularity", value_name = "SIZE")]
    pub granularities: Vec<Granularity>,
    /// Files read, and threads' worth of work, at a time [default: the machine's cores]
    #[arg(long, value_name = "COUNT")]
    pub max_parallel: Option<NonZeroUsize>,
    /// Measure the contracts' quality rules first; hold windows back (exit 3) of dates that break one of severity error
    #[arg(long)]
    pub before_publish: bool,
    /// Read this version of the raw table instead of the newest
    #[arg(long, value_name = "VERSION", value_parser = clap::value_parser!(i64).range(0..))]
    pub input_version: Option<i64>,
    /// End with exit code 99 where there is nothing to do
    #[arg(long)]
    pub skip_exit_code: bool,
    /// Print the plan as JSON and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Print the windows of an aggregate that need not be in the project, and write nothing; needs an interval
    #[arg(
        long = "try",
        value_name = "FILE.sql",
        conflicts_with_all = ["aggregates", "force", "skip_exit_code", "dry_run"]
    )]
    pub try_file: Option<PathBuf>,
    /// How --try prints [default: table]
    #[arg(long, value_enum, requires = "try_file")]
    pub format: Option<Format>,
}

/// `speed`
#[derive(Debug, Subcommand)]
pub enum Speed {
    /// Take in what raw has and the speed tables lack
    CatchUp(SpeedTables),
    /// Make the speed tables anew, as far back as windows are open
    Rebuild(SpeedTables),
}

/// `speed catch-up`, `speed rebuild`
#[derive(Debug, ClapArgs)]
pub struct SpeedTables {
    /// Aggregates [default: all that have speed]
    pub aggregates: Vec<String>,
    /// End with exit code 99 where there is nothing to do
    #[arg(long)]
    pub skip_exit_code: bool,
    /// Print the plan as JSON and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// `reconcile`
#[derive(Debug, ClapArgs)]
pub struct Reconcile {
    /// Aggregates [default: all]
    pub aggregates: Vec<String>,
    /// Publish units also where they moved further than `drift.limit` lets them
    #[arg(long)]
    pub accept_drift: bool,
    /// End with exit code 99 where there is nothing to do
    #[arg(long)]
    pub skip_exit_code: bool,
    /// Print the plan as JSON and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// `drift`
#[derive(Debug, Subcommand)]
pub enum Drift {
    /// Windows whose value moved, with their values after each step
    Show {
        /// Aggregate
        aggregate: String,
        /// Leave out windows that start before this instant (RFC 3339 with offset)
        #[arg(long, value_name = "INSTANT")]
        since: Option<Instant>,
        /// Events that each step moved, summed by `key`, a key's name, `date` or `granularity`
        #[arg(long, value_name = "WHAT")]
        by: Option<String>,
        /// At most this many rows
        #[arg(long, default_value_t = 50)]
        limit: usize,
        /// Output format
        #[arg(long, value_enum, default_value_t = Format::Table)]
        format: Format,
    },
    /// The very events that moved one window of one key: place, time, reason
    Explain {
        /// Aggregate
        aggregate: String,
        /// Size of the window and an instant in it, e.g. 5m/2026-01-05T10:00:00Z
        #[arg(value_parser = crate::verbs::drift::parse_window)]
        window: (Granularity, Instant),
        /// Values of all keys: NAME=VALUE, and NAME=NULL for null
        #[arg(value_name = "KEY")]
        keys: Vec<String>,
        /// The change that led to this generation [default: the last]
        #[arg(long)]
        generation: Option<i64>,
        /// At most this many events
        #[arg(long, default_value_t = 100)]
        limit: usize,
        /// Output format
        #[arg(long, value_enum, default_value_t = Format::Table)]
        format: Format,
    },
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

/// `tables`
#[derive(Debug, Subcommand)]
pub enum Tables {
    /// Make the small files of each date into larger ones; rows stay as they are
    Compact(TablesCompact),
    /// Remove whole dates that the contract keeps no longer
    Retain(TablesRetain),
    /// Keep dates of raw elsewhere, as Parquet files with checksums
    Archive(TablesArchive),
    /// Remove a person's rows from raw and rejects
    Forget(TablesForget),
    /// Delete files that no version needs any more
    Vacuum(TablesVacuum),
    /// Write a checkpoint where readers have to pass many commits
    Checkpoint(TablesCheckpoint),
    /// Show a table: version, schema, files, entries, properties
    Describe {
        /// Table, e.g. raw.camera_events
        #[arg(value_parser = parse_name)]
        table: TableName,
        /// Output format
        #[arg(long, value_enum, default_value_t = Format::Table)]
        format: Format,
    },
    /// Show what the last commits did, the newest first
    History {
        /// Table, e.g. raw.camera_events
        #[arg(value_parser = parse_name)]
        table: TableName,
        /// At most this many
        #[arg(long, default_value_t = 20)]
        limit: usize,
        /// Output format
        #[arg(long, value_enum, default_value_t = Format::Table)]
        format: Format,
    },
}

/// `tables compact`
#[derive(Debug, ClapArgs)]
pub struct TablesCompact {
    /// Tables, e.g. raw.camera_events; not those of the layer speed
    #[arg(required = true, value_parser = parse_name, value_name = "TABLE")]
    pub tables: Vec<TableName>,
    /// Only dates before this one, e.g. 2026-01-05
    #[arg(long, value_name = "DATE")]
    pub before: Option<jiff::civil::Date>,
    /// Size of the new files; at most a quarter of the project's memory
    #[arg(long, value_name = "SIZE", default_value = "128MiB", value_parser = parse_size)]
    pub target_size: u64,
    /// Sort the rows that are rewritten by these columns, e.g. camera,at
    #[arg(long, value_name = "COLUMNS", value_delimiter = ',')]
    pub sort_by: Vec<String>,
    /// End with exit code 99 where there is nothing to do
    #[arg(long)]
    pub skip_exit_code: bool,
    /// Print the plan as JSON and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// `tables vacuum`
#[derive(Debug, ClapArgs)]
pub struct TablesVacuum {
    /// Tables, e.g. raw.camera_events
    #[arg(required = true, value_parser = parse_name, value_name = "TABLE")]
    pub tables: Vec<TableName>,
    /// How long no version may have needed a file; versions since then stay readable
    #[arg(long, value_name = "DURATION", default_value = "7d", value_parser = parse_period)]
    pub older_than: Duration,
    /// Allow less than an hour: only where no job runs
    #[arg(long)]
    pub force: bool,
    /// End with exit code 99 where there is nothing to do
    #[arg(long)]
    pub skip_exit_code: bool,
    /// Print the files as JSON and delete nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// `tables checkpoint`
#[derive(Debug, ClapArgs)]
pub struct TablesCheckpoint {
    /// Tables, e.g. raw.camera_events
    #[arg(required = true, value_parser = parse_name, value_name = "TABLE")]
    pub tables: Vec<TableName>,
    /// Write one now, however few commits there are after the last
    #[arg(long)]
    pub force: bool,
    /// End with exit code 99 where there is nothing to do
    #[arg(long)]
    pub skip_exit_code: bool,
    /// Print the plan as JSON and change nothing
    #[arg(long)]
    pub dry_run: bool,
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
