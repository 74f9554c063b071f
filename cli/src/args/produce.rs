//! What was typed for `produce` and `topics`: events and where they go.

use clap::{Args as ClapArgs, Subcommand, ValueEnum};
use std::path::PathBuf;

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
