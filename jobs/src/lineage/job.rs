//! What a job is to others: its name, what it reads and writes by its nature, and what only it knows at its end.

use crate::lake::TableName;
use crate::project::settings::{Pipeline, Settings};
use crate::quality::Rulings;
use deltaworks_core::units::Interval;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The layer of what is no table yet.
pub(super) const TOPIC: &str = "topic";

/// What a job does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Lands topics.
    Stream,
    /// Computes exact windows.
    Batch,
    /// Serves windows.
    Reconcile,
    /// Measures the contracts' rules.
    Quality,
    /// Brings speed tables up to raw.
    SpeedCatchUp,
    /// Makes speed tables anew.
    SpeedRebuild,
    /// Computes past windows again.
    Recompute,
    /// Fills raw from elsewhere than the topic.
    Fill,
    /// Fills raw from the topic.
    FillFromTopic,
    /// Lands rejects that pass now.
    Redrive,
    /// Gives rejects up.
    Discard,
    /// Reads offsets again.
    Rewind,
    /// Leaves offsets out.
    Skip,
    /// Makes larger files of small ones.
    Compact,
    /// Removes dates.
    Retain,
    /// Keeps dates elsewhere.
    Archive,
    /// Removes a person's rows.
    Forget,
    /// Does what is due for every table.
    Upkeep,
    /// Holds everything against the ledger and a second engine.
    Prove,
    /// Others, one after the other.
    Run,
}

/// One run of a job.
#[derive(Debug, Clone)]
pub struct Job {
    /// What it does.
    pub kind: Kind,
    /// Its id, a UUID; the same as in `ops.runs`.
    pub run_id: String,
    /// Whether it goes on until it is stopped.
    pub endless: bool,
    /// The pipelines it is about.
    pub pipelines: Vec<Arc<Pipeline>>,
    /// The aggregates it is about.
    pub aggregates: Vec<String>,
    /// Paths, globs and URLs of files that it reads.
    pub files: Vec<String>,
    /// URL of the folder where dates are kept elsewhere, if it does that.
    pub archive: Option<String>,
    /// The interval that it was asked for.
    pub interval: Interval,
}

/// What only the job itself knows of what it did.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Messages read, by topic.
    pub messages: BTreeMap<String, u64>,
    /// Rows read, by table.
    pub rows: BTreeMap<TableName, u64>,
    /// Rows read of files.
    pub file_rows: Option<u64>,
    /// What was kept elsewhere.
    pub kept: Kept,
    /// What became of the contracts' rules.
    pub rulings: Rulings,
}

/// What was written to an archive.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Kept {
    /// Rows.
    pub rows: u64,
    /// Bytes of their files.
    pub bytes: u64,
    /// Files.
    pub files: u64,
}

/// The run that started this one, and the one that everything began with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parent {
    /// The run that started this one.
    pub run: RunOf,
    /// The outermost one; the same if nothing is known of another.
    pub root: RunOf,
}

/// A run of a job, ours or another's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunOf {
    /// Namespace of its job.
    pub namespace: String,
    /// Name of its job.
    pub name: String,
    /// Its id, a UUID.
    pub run_id: String,
}

impl Kind {
    /// Name of the job: the command, with dots.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Batch => "batch",
            Self::Reconcile => "reconcile",
            Self::Quality => "quality.run",
            Self::SpeedCatchUp => "speed.catch-up",
            Self::SpeedRebuild => "speed.rebuild",
            Self::Recompute | Self::Fill | Self::FillFromTopic => "backfill",
            Self::Redrive => "rejects.redrive",
            Self::Discard => "rejects.discard",
            Self::Rewind => "offsets.rewind",
            Self::Skip => "offsets.skip",
            Self::Compact => "tables.compact",
            Self::Retain => "tables.retain",
            Self::Archive => "tables.archive",
            Self::Forget => "tables.forget",
            Self::Upkeep => "upkeep",
            Self::Prove => "prove",
            Self::Run => "run",
        }
    }

    /// The layers that it reads to make something of them.
    pub(super) const fn reads(self) -> &'static [&'static str] {
        match self {
            Self::Stream | Self::Rewind | Self::FillFromTopic => &[TOPIC],
            Self::Batch | Self::Quality | Self::SpeedCatchUp | Self::SpeedRebuild | Self::Recompute | Self::Archive => {
                &["raw"]
            }
            Self::Reconcile => &["raw", "speed", "batch"],
            Self::Redrive => &["rejects"],
            Self::Prove => &["raw", "rejects", "batch", "served"],
            Self::Fill
            | Self::Discard
            | Self::Skip
            | Self::Compact
            | Self::Retain
            | Self::Forget
            | Self::Upkeep
            | Self::Run => &[],
        }
    }

    /// The layers of the lake that it is there to write, told when it begins. What it did write is seen.
    pub(super) const fn writes(self) -> &'static [&'static str] {
        match self {
            Self::Stream | Self::Rewind | Self::Fill | Self::FillFromTopic | Self::Redrive | Self::Forget => {
                &["raw", "rejects"]
            }
            Self::Batch | Self::Recompute => &["batch"],
            Self::Reconcile => &["served"],
            Self::SpeedCatchUp | Self::SpeedRebuild => &["speed"],
            Self::Discard => &["rejects"],
            Self::Skip => &["raw"],
            Self::Quality | Self::Compact | Self::Retain | Self::Archive | Self::Upkeep | Self::Prove | Self::Run => {
                &[]
            }
        }
    }
}

impl Job {
    /// A job about all of a project.
    #[must_use]
    pub fn new(kind: Kind, run_id: &str, settings: &Settings) -> Self {
        Self {
            kind,
            run_id: run_id.to_owned(),
            endless: false,
            pipelines: settings.pipelines.clone(),
            aggregates: settings.aggregates.iter().map(|aggregate| aggregate.name.clone()).collect(),
            files: Vec::new(),
            archive: None,
            interval: Interval::default(),
        }
    }

    /// About these pipelines only; all, if there are none.
    #[must_use]
    pub fn of_pipelines(mut self, names: &[String]) -> Self {
        if !names.is_empty() {
            self.pipelines.retain(|pipeline| names.contains(&pipeline.name));
        }
        self
    }

    /// About these aggregates, and the pipelines that they are made of; all of the project's, if there are none.
    #[must_use]
    pub fn of_aggregates(mut self, names: &[String], settings: &Settings) -> Self {
        let wanted = settings.aggregates.iter().filter(|a| names.is_empty() || names.contains(&a.name));
        let from: BTreeSet<&str> = wanted.clone().map(|aggregate| aggregate.from.as_str()).collect();
        self.aggregates = wanted.map(|aggregate| aggregate.name.clone()).collect();
        self.pipelines.retain(|pipeline| from.contains(pipeline.name.as_str()));
        self
    }

    /// Made of these files, too.
    #[must_use]
    pub fn of_files(mut self, files: Vec<String>) -> Self {
        self.files = files;
        self
    }

    /// Keeping dates in this folder.
    #[must_use]
    pub fn archiving_to(mut self, url: &str) -> Self {
        self.archive = Some(url.to_owned());
        self
    }

    /// Over this interval.
    #[must_use]
    pub const fn over(mut self, interval: Interval) -> Self {
        self.interval = interval;
        self
    }

    /// One that goes on until it is stopped, or not.
    #[must_use]
    pub const fn endless(mut self, endless: bool) -> Self {
        self.endless = endless;
        self
    }

    /// The tables of a layer that it is about.
    pub(super) fn tables(&self, layer: &str) -> Vec<TableName> {
        match layer {
            "raw" | "rejects" => self.pipelines.iter().map(|p| TableName::new(layer, &p.name)).collect(),
            _ => self.aggregates.iter().map(|name| TableName::new(layer, name)).collect(),
        }
    }
}
