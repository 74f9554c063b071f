//! What was typed after `backfill`.

use super::{Format as OutputFormat, PartitionList, parse_partitions};
use clap::{Args as ClapArgs, Subcommand, ValueEnum};
use deltaworks_core::backfill::BackfillId;
use deltaworks_core::windows::{Granularity, Instant};
use deltaworks_jobs::backfill::files::Format;
use std::num::NonZeroUsize;

/// `backfill`
#[derive(Debug, Subcommand)]
pub enum Backfill {
    /// Compute the units of an interval that call for it, or fill a pipeline from files, topic or archive
    Create(BackfillCreate),
    /// Show one: how much is done, what comes next, how to go on
    Status {
        /// Backfill
        id: BackfillId,
        /// Output format
        #[arg(long, value_enum, default_value_t = OutputFormat::Table)]
        format: OutputFormat,
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
        #[arg(long, value_enum, default_value_t = OutputFormat::Table)]
        format: OutputFormat,
    },
}

/// What a pipeline is filled from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum From {
    /// JSONL, CSV, Parquet, Avro, gzip and Zstandard: --path
    Files,
    /// The topic, below what the stream has reached: --from-offset, or --interval-start by Kafka time
    Kafka,
    /// Dates that `tables archive` has written and `tables retain` removed: --path, and the interval
    Archive,
}

/// `backfill create`
#[derive(Debug, ClapArgs)]
pub struct BackfillCreate {
    /// Aggregate; with --from, pipeline
    pub name: String,
    /// Fill a pipeline instead of computing an aggregate; a row that is there already adds nothing
    #[arg(long, value_enum)]
    pub from: Option<From>,
    /// Files to read: a path, a folder, a glob in quotes, a URL; may be given several times. Of an archive, its URL
    #[arg(long = "path", value_name = "PATTERN", requires = "from")]
    pub paths: Vec<String>,
    /// Format of all files, jsonl, csv, parquet or avro [default: by the name of each]
    #[arg(long, value_name = "FORMAT", requires = "from")]
    pub file_format: Option<Format>,
    /// What is between the fields of a CSV file [default: a comma, and a tab in .tsv]
    #[arg(long, value_name = "CHARACTER", requires = "from")]
    pub delimiter: Option<char>,
    /// Time zone of typed times without one, e.g. Europe/Kyiv
    #[arg(long, value_name = "ZONE", requires = "from")]
    pub timezone: Option<String>,
    /// Partitions of the topic, e.g. 0-3 or 0,2 [default: all]
    #[arg(long = "partition", value_name = "LIST", value_parser = parse_partitions, requires = "from")]
    pub partitions: Option<PartitionList>,
    /// First offset of the topic to read; needs --partition
    #[arg(long, value_name = "OFFSET", requires = "partitions", conflicts_with = "interval_start")]
    pub from_offset: Option<i64>,
    /// First offset not to read [default: where the stream stands]
    #[arg(long, value_name = "OFFSET", requires = "from_offset", conflicts_with = "interval_end")]
    pub to_offset: Option<i64>,
    /// Only windows that end after this, RFC 3339 with offset; messages of this Kafka time on, dates (UTC) of an archive
    #[arg(long, value_name = "TIME", required_unless_present = "from")]
    pub interval_start: Option<Instant>,
    /// Only windows that end by this, RFC 3339 with offset; all of them have to be complete, else exit 7
    #[arg(long, value_name = "TIME", required_unless_present = "from")]
    pub interval_end: Option<Instant>,
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
