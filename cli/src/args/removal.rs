//! What was typed to let rows go: `tables retain`, `tables archive`, `tables forget`.

use clap::{Args as ClapArgs, ValueEnum};
use deltaworks_jobs::lake::TableName;
use deltaworks_jobs::upkeep::parse_name;

/// `tables retain`
#[derive(Debug, ClapArgs)]
pub struct TablesRetain {
    /// Tables of raw and rejects, e.g. raw.camera_events
    #[arg(required = true, value_parser = parse_name, value_name = "TABLE")]
    pub tables: Vec<TableName>,
    /// Remove dates before this one, e.g. 2026-01-05 [default: what the contract keeps no longer]
    #[arg(long, value_name = "DATE")]
    pub before: Option<jiff::civil::Date>,
    /// Remove dates also where windows are not final: they stay as they are for ever
    #[arg(long)]
    pub force: bool,
    /// Remove only dates of raw that this archive has as they are; everything in it is read again
    #[arg(long, value_name = "URL")]
    pub archived_to: Option<String>,
    /// End with exit code 99 where there is nothing to do
    #[arg(long)]
    pub skip_exit_code: bool,
    /// Print the dates, and what stands in their way, as JSON and remove nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// `tables archive`
#[derive(Debug, ClapArgs)]
pub struct TablesArchive {
    /// Table of raw, e.g. raw.camera_events
    #[arg(value_parser = parse_name)]
    pub table: TableName,
    /// Dates before this one, e.g. 2026-01-05
    #[arg(long, value_name = "DATE")]
    pub before: jiff::civil::Date,
    /// Folder of the archive: file:///path or s3://bucket/path; options are those of the lake
    #[arg(long, value_name = "URL")]
    pub to: String,
    /// How its files are compressed
    #[arg(long, value_enum, default_value_t = ArchiveCodec::Zstd)]
    pub codec: ArchiveCodec,
    /// End with exit code 99 where there is nothing to do
    #[arg(long)]
    pub skip_exit_code: bool,
    /// Print the dates as JSON and write nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// How files of an archive are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ArchiveCodec {
    /// Smaller
    Zstd,
    /// Read by everything that reads Parquet
    Snappy,
}

/// `tables forget`; the value never shows.
#[derive(ClapArgs)]
pub struct TablesForget {
    /// Pipeline
    pub pipeline: String,
    /// Column of the contract and the person's value of it
    // read later: an error of the command line would show it
    #[arg(long = "where", value_name = "COLUMN=VALUE")]
    pub key: String,
    /// Why; kept beside the counts, so without personal data, e.g. a case number
    #[arg(long, value_name = "TEXT")]
    pub because: Option<String>,
    /// End with exit code 99 where there is nothing to do
    #[arg(long)]
    pub skip_exit_code: bool,
    /// Print dates, files and rows as JSON and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

impl std::fmt::Debug for TablesForget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { pipeline, because, skip_exit_code, dry_run, .. } = self;
        let mut shown = f.debug_struct("TablesForget");
        shown.field("pipeline", pipeline).field("because", because);
        shown.field("skip_exit_code", skip_exit_code).field("dry_run", dry_run).finish_non_exhaustive()
    }
}
