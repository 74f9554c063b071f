//! What was typed after `backfill`.

use super::Format;
use clap::{Args as ClapArgs, Subcommand};
use deltaworks_core::backfill::BackfillId;
use deltaworks_core::windows::{Granularity, Instant};
use std::num::NonZeroUsize;

/// `backfill`
#[derive(Debug, Subcommand)]
pub enum Backfill {
    /// Compute the units of an interval that call for it, e.g. under a changed definition, however long ago
    Create(BackfillCreate),
    /// Show one: how much is done, what comes next, how to go on
    Status {
        /// Backfill
        id: BackfillId,
        /// Output format
        #[arg(long, value_enum, default_value_t = Format::Table)]
        format: Format,
    },
    /// Go on with one that was interrupted, on any machine; what is done is not repeated
    Resume(BackfillResume),
    /// Give one up: it stops before its next unit, and what it did stays
    Cancel {
        /// Backfill
        id: BackfillId,
        /// End with exit code 99 where it has ended already
        #[arg(long)]
        skip_exit_code: bool,
        /// Print what would be given up as JSON and change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Show the last ones, the newest first
    List {
        /// At most this many
        #[arg(long, default_value_t = 20)]
        limit: usize,
        /// Output format
        #[arg(long, value_enum, default_value_t = Format::Table)]
        format: Format,
    },
}

/// `backfill create`
#[derive(Debug, ClapArgs)]
pub struct BackfillCreate {
    /// Aggregate
    pub aggregate: String,
    /// Only windows that end after this, RFC 3339 with offset
    #[arg(long, value_name = "TIME")]
    pub interval_start: Instant,
    /// Only windows that end by this, RFC 3339 with offset; all of them have to be complete, else exit 7
    #[arg(long, value_name = "TIME")]
    pub interval_end: Instant,
    /// Only windows of this size, e.g. 1h; may be given several times
    #[arg(long = "granularity", value_name = "SIZE")]
    pub granularities: Vec<Granularity>,
    /// Compute every unit of the interval, whatever is published
    #[arg(long)]
    pub force: bool,
    /// The newest dates first; takes longer, since dates are read for themselves
    #[arg(long)]
    pub backwards: bool,
    /// Files read, and threads' worth of work, at a time [default: the machine's cores]
    #[arg(long, value_name = "COUNT")]
    pub max_parallel: Option<NonZeroUsize>,
    /// End with exit code 99 where there is nothing to do
    #[arg(long)]
    pub skip_exit_code: bool,
    /// Print the plan as JSON and write nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// `backfill resume`
#[derive(Debug, ClapArgs)]
pub struct BackfillResume {
    /// Backfill
    pub id: BackfillId,
    /// Files read, and threads' worth of work, at a time [default: the machine's cores]
    #[arg(long, value_name = "COUNT")]
    pub max_parallel: Option<NonZeroUsize>,
    /// End with exit code 99 where there is nothing to do
    #[arg(long)]
    pub skip_exit_code: bool,
    /// Print what is left as JSON and change nothing
    #[arg(long)]
    pub dry_run: bool,
}
