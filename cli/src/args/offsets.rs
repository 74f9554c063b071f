//! `offsets`: looked at, and moved by hand.

use super::{Format, PartitionList, parse_partitions};
use clap::{ArgGroup, Args as ClapArgs, Subcommand};
use deltaworks_core::windows::Instant;

/// `offsets`
#[derive(Debug, Subcommand)]
pub enum Offsets {
    /// Per partition: in Delta, in the group, low and high watermark, lag, and what was lost
    Show {
        /// Pipelines [default: all]
        pipelines: Vec<String>,
        /// Output format
        #[arg(long, value_enum, default_value_t = Format::Table)]
        format: Format,
    },
    /// Per partition: what going there would read again, lose, or bring twice; changes nothing
    Plan {
        /// Pipeline
        pipeline: String,
        /// Where to
        #[command(flatten)]
        target: Target,
        /// Output format
        #[arg(long, value_enum, default_value_t = Format::Table)]
        format: Format,
    },
    /// Read again what the stream has passed, and fill in what is neither in raw nor in rejects
    Rewind {
        /// Pipeline
        pipeline: String,
        /// Where to
        #[command(flatten)]
        target: Target,
        /// End with exit code 99 where there is nothing to do
        #[arg(long)]
        skip_exit_code: bool,
        /// Read and print what would be filled in as JSON, and write nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Go on behind messages that were not landed: they are lost to the lake, after showing the plan
    Skip {
        /// Pipeline
        pipeline: String,
        /// Where to
        #[command(flatten)]
        target: Target,
        /// Carry the plan out; without it the plan is only shown
        #[arg(long)]
        yes: bool,
        /// Print the plan as JSON and change nothing
        #[arg(long)]
        dry_run: bool,
    },
}

/// Which partitions, and where to.
#[derive(Debug, ClapArgs)]
#[command(group(ArgGroup::new("where").required(true).args(["to", "to_time"])))]
pub struct Target {
    /// Partitions, e.g. 0-3 or 0,2 [default: all]
    #[arg(long = "partition", value_name = "LIST", value_parser = parse_partitions)]
    pub partitions: Option<PartitionList>,
    /// This offset; needs --partition
    #[arg(long, value_name = "OFFSET", requires = "partitions")]
    pub to: Option<i64>,
    /// The first message whose Kafka time is not before this, RFC 3339 with offset
    #[arg(long, value_name = "TIME")]
    pub to_time: Option<Instant>,
}
