//! `rejects`: which ones, and what to do with them.

use super::Format;
use clap::{Args as ClapArgs, Subcommand};
use deltaworks_core::reason::Reason;
use deltaworks_core::windows::Instant;

/// `rejects`
#[derive(Debug, Subcommand)]
pub enum RejectsVerb {
    /// How many stand open, by date, reason and field
    List {
        /// Pipeline
        pipeline: String,
        /// Also those that were redriven or discarded
        #[arg(long)]
        all: bool,
        /// Output format
        #[arg(long, value_enum, default_value_t = Format::Table)]
        format: Format,
    },
    /// The messages themselves, those that stand open
    Show {
        /// Pipeline
        pipeline: String,
        /// Only this reason code
        #[arg(long, value_parser = parse_reason)]
        reason: Option<Reason>,
        /// Also those that were redriven or discarded
        #[arg(long)]
        all: bool,
        /// At most this many
        #[arg(long, default_value_t = 10)]
        limit: u32,
        /// Output format
        #[arg(long, value_enum, default_value_t = Format::Table)]
        format: Format,
    },
    /// Decode again under today's contract; what is good now goes to raw under its old place
    Redrive(RejectsRedrive),
    /// Give up, with a reason that is kept; the messages stay in the table
    Discard(RejectsDiscard),
}

/// Which rejects; what is not given leaves none out.
#[derive(Debug, Default, ClapArgs)]
pub struct Which {
    /// Only of this reason code; may be given several times
    #[arg(long = "reason", value_name = "CODE", value_parser = parse_reason)]
    pub reasons: Vec<Reason>,
    /// Only messages whose Kafka time is not before this, RFC 3339 with offset
    #[arg(long, value_name = "TIME")]
    pub interval_start: Option<Instant>,
    /// Only messages whose Kafka time is before this
    #[arg(long, value_name = "TIME")]
    pub interval_end: Option<Instant>,
    /// Only of this topic (with its epoch), or of the file of this URL
    #[arg(long, value_name = "TOPIC")]
    pub topic: Option<String>,
    /// Only of this partition; -1 is that of files
    #[arg(long, value_name = "PARTITION", allow_negative_numbers = true)]
    pub partition: Option<i32>,
    /// Only at or above this offset
    #[arg(long, value_name = "OFFSET")]
    pub from_offset: Option<i64>,
    /// Only below this offset
    #[arg(long, value_name = "OFFSET")]
    pub to_offset: Option<i64>,
    /// Only what was refused under this version of the contract
    #[arg(long, value_name = "VERSION")]
    pub contract_version: Option<String>,
}

/// `rejects redrive`
#[derive(Debug, ClapArgs)]
pub struct RejectsRedrive {
    /// Pipeline
    pub pipeline: String,
    /// Which rejects
    #[command(flatten)]
    pub which: Which,
    /// Those too that were discarded
    #[arg(long)]
    pub discarded: bool,
    /// End with exit code 99 where there is nothing to do
    #[arg(long)]
    pub skip_exit_code: bool,
    /// Print how many would pass now as JSON and write nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// `rejects discard`
#[derive(Debug, ClapArgs)]
pub struct RejectsDiscard {
    /// Pipeline
    pub pipeline: String,
    /// Which rejects
    #[command(flatten)]
    pub which: Which,
    /// Why; kept for audit
    #[arg(long, value_name = "TEXT")]
    pub because: String,
    /// End with exit code 99 where there is nothing to do
    #[arg(long)]
    pub skip_exit_code: bool,
    /// Print how many would be discarded as JSON and write nothing
    #[arg(long)]
    pub dry_run: bool,
}

fn parse_reason(text: &str) -> Result<Reason, String> {
    Reason::ALL.into_iter().find(|r| r.as_str() == text).ok_or_else(|| {
        let codes: Vec<_> = Reason::ALL.iter().map(|r| r.as_str()).collect();
        format!("there is no reason code `{text}`; there are {}", codes.join(", "))
    })
}
