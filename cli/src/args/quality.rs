//! What may be typed after `quality`.

use clap::{Args, Subcommand};
use deltaworks_core::windows::Instant;

/// `quality`
#[derive(Debug, Subcommand)]
pub enum Quality {
    /// Measure and judge the rules of contracts over dates of raw; record them in ops.quality
    Run(QualityRun),
}

/// `quality run`
#[derive(Debug, Args)]
pub struct QualityRun {
    /// Pipelines [default: all]
    pub pipelines: Vec<String>,
    /// Only dates (UTC) that reach beyond this, RFC 3339 with offset
    #[arg(long, value_name = "TIME")]
    pub interval_start: Option<Instant>,
    /// Only dates that begin before this [default of both: dates whose rows or rules are new, or that broke one]
    #[arg(long, value_name = "TIME")]
    pub interval_end: Option<Instant>,
    /// End with exit code 99 where there is nothing to do
    #[arg(long)]
    pub skip_exit_code: bool,
}
