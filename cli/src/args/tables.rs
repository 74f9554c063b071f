//! What was typed for `tables`.

use super::{Format, TablesArchive, TablesForget, TablesRetain};
use clap::{Args as ClapArgs, Subcommand};
use deltaworks_jobs::lake::TableName;
use deltaworks_jobs::upkeep::{parse_name, parse_period, parse_size};
use std::time::Duration;

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
