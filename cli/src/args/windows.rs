//! What was typed for `batch`, `speed`, `reconcile` and `drift`: windows, from raw to what is served.

use super::Format;
use clap::{Args as ClapArgs, Subcommand};
use deltaworks_core::windows::{Granularity, Instant};
use std::num::NonZeroUsize;
use std::path::PathBuf;

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
