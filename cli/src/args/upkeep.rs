//! What was typed for `upkeep`.

use clap::{Args as ClapArgs, ValueEnum};
use deltaworks_jobs::upkeep::parse_period;
use std::time::Duration;

/// `upkeep`
#[derive(Debug, ClapArgs)]
pub struct Upkeep {
    /// How long no version may have needed a file that is deleted; versions since then stay readable
    #[arg(long, value_name = "DURATION", default_value = "7d", value_parser = parse_period)]
    pub older_than: Duration,
    /// Leave a step out, e.g. `retain` where dates are archived first
    #[arg(long, value_enum, value_name = "STEP")]
    pub skip: Vec<UpkeepStep>,
    /// End with exit code 99 where nothing is due
    #[arg(long)]
    pub skip_exit_code: bool,
    /// Print what is due as JSON and do nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Steps of `upkeep`, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum UpkeepStep {
    /// Dates beyond their retention go
    Retain,
    /// Small files become larger ones
    Compact,
    /// Readers pass fewer commits
    Checkpoint,
    /// Dead files go
    Vacuum,
}
