//! Carries a frozen plan out: part by part, each in one commit with the progress that it makes.
//!
//! Progress is in raw alone ([`AppIds::backfill`]: files wholly done, in the frozen order), so any process goes on from
//! the lake and the plan. Two that run at once do each other's work: whoever commits second sees that the progress has
//! moved, and goes on from there; rows of a file that both have read are there once, by their place.

use super::fit;
use super::listing::{FilesPlan, FrozenFile, piece_bytes};
use super::parts::{self, Cut, Job, PartLimits};
use crate::batch::meter::Meter;
use crate::clock::Clock;
use crate::error::{Class, Error, Result, Stage};
use crate::faults;
use crate::fill::{Filler, Part, Progress};
use crate::lake::Lake;
use crate::project::settings::{Pipeline, RejectsLimit, Settings};
use deltaworks_core::progress::AppIds;
use serde::Serialize;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use tokio_util::sync::CancellationToken;

/// A limit on the share of rejects is only looked at after this many rows.
const SHARE_AFTER: u64 = 1_000;
/// Of the process's memory: one part is being held, one waits, one is committed, and each is encoded once.
const PARTS_OF_MEMORY: usize = 12;

/// What one run did.
#[derive(Debug, Default, Serialize)]
pub struct FilesReport {
    /// Files of the plan.
    pub files: u64,
    /// Files that are wholly in raw.
    pub files_done: u64,
    /// Rows that this run landed.
    pub landed: u64,
    /// Rows read that raw had already.
    pub already: u64,
    /// Rows that this run put into rejects.
    pub rejected: u64,
    /// Commits to raw.
    pub commits: u64,
    /// Whether it ended because it was told to.
    #[serde(skip)]
    pub stopped: bool,
    /// Why it did not get to its end.
    #[serde(skip)]
    pub error: Option<Error>,
}

impl FilesReport {
    /// Whether every file is in raw.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        self.files_done == self.files
    }
}

/// What a backfill from files is carried out with.
#[derive(Debug)]
pub struct FilesRun<'a> {
    /// The lake.
    pub lake: &'a Lake,
    /// The project.
    pub settings: &'a Settings,
    /// The pipeline that is filled.
    pub pipeline: &'a Arc<Pipeline>,
    /// Id of the backfill, the same in every run of it.
    pub id: &'a str,
    /// What there is to do.
    pub plan: &'a FilesPlan,
    /// Is told how far it is.
    pub meter: &'a Meter,
    /// The clock.
    pub clock: &'a Clock,
    /// Ends it after the next commit.
    pub stop: &'a CancellationToken,
}

/// Why a pass over the files that are left has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pass {
    Finished,
    Elsewhere,
    Stopped,
}

impl FilesRun<'_> {
    /// Carries the plan out from where the lake says that it stands.
    ///
    /// Errors are in the report: [`Class::InputLost`] for a file that is gone or changed, [`Class::Limit`] for too many
    /// rejects, [`Class::User`] for a file that cannot be read; whatever was committed stays, and the same call goes on.
    pub async fn run(&self) -> FilesReport {
        let mut report = FilesReport { files: self.plan.files.len() as u64, ..FilesReport::default() };
        report.error = self.all(&mut report).await.err();
        report
    }

    fn app_id(&self) -> String {
        AppIds::new(&self.pipeline.name).backfill(self.id)
    }

    async fn all(&self, report: &mut FilesReport) -> Result<()> {
        fit::check(self.pipeline)?;
        if self.plan.spec.pipeline != self.pipeline.name {
            let message =
                format!("the plan is of pipeline `{}`, not of `{}`", self.plan.spec.pipeline, self.pipeline.name);
            return Err(Error::new(Stage::Fill, Class::Internal, message));
        }
        let mut filler = Filler::open(self.lake, self.pipeline, crate::run_id()).await?;
        let done = self.done(&filler);
        report.files_done = u64::try_from(done).unwrap_or(0);
        self.show(report);
        filler.expect(self.left(done)?.iter().map(|file| file.facts.url.clone()));
        let worked = self.passes(&mut filler, report).await;
        report.files_done = u64::try_from(self.done(&filler)).unwrap_or(0);
        filler.end().await;
        worked
    }

    async fn passes(&self, filler: &mut Filler, report: &mut FilesReport) -> Result<()> {
        loop {
            let done = self.done(filler);
            if self.left(done)?.is_empty() {
                return Ok(());
            }
            match self.pass(filler, done, report).await? {
                Pass::Elsewhere => {}
                Pass::Finished if self.left(self.done(filler))?.is_empty() => {}
                Pass::Finished => {
                    return Err(Error::new(Stage::Fill, Class::Internal, "reading files broke down before their end"));
                }
                Pass::Stopped => {
                    report.stopped = true;
                    return Ok(());
                }
            }
        }
    }

    fn done(&self, filler: &Filler) -> i64 {
        filler.raw().txns().get(&self.app_id()).copied().unwrap_or(0)
    }

    fn left(&self, done: i64) -> Result<&[FrozenFile]> {
        usize::try_from(done).ok().and_then(|done| self.plan.files.get(done..)).ok_or_else(|| {
            let message = format!(
                "{} says that {done} files are done, and the plan has {}",
                self.app_id(),
                self.plan.files.len()
            );
            Error::new(Stage::Fill, Class::Internal, message)
        })
    }

    /// Reads the files that are left, and commits part after part.
    async fn pass(&self, filler: &mut Filler, done: i64, report: &mut FilesReport) -> Result<Pass> {
        let job = Job {
            lake: self.lake.clone(),
            piece_bytes: piece_bytes(self.settings),
            pipeline: self.pipeline.clone(),
            reading: self.plan.spec.reading.clone(),
            files: self.left(done)?.to_vec(),
            done,
            limits: self.limits(),
            clock: self.clock.clone(),
        };
        let mut parts = parts::start(job);
        let (mut messages, mut rejected, mut expected) = (0, 0, done);
        loop {
            let cut = tokio::select! {
                biased;
                () = self.stop.cancelled() => return Ok(Pass::Stopped),
                cut = parts.recv() => match cut {
                    Some(cut) => cut?,
                    None => return Ok(Pass::Finished),
                },
            };
            messages += cut.messages;
            rejected += cut.rejected;
            let to = cut.done;
            if !self.add(filler, cut, expected, report).await? {
                return Ok(Pass::Elsewhere);
            }
            expected = to;
            self.check_limit(messages, rejected)?;
        }
    }

    /// Commits one part; `false` if somebody else has moved the progress.
    async fn add(&self, filler: &mut Filler, cut: Cut, from: i64, report: &mut FilesReport) -> Result<bool> {
        let to = cut.done;
        let progress = (to > from).then(|| Progress { app_id: self.app_id(), from, to });
        let source = format!("backfill {}", self.id);
        let part = Part { source: source.clone(), rows: cut.rows, rejects: cut.rejects, progress, ..Part::default() };
        faults::point("before_files_part");
        let added = filler.add(&part).await?;
        faults::point("after_files_part");
        report.landed += added.landed;
        report.already += added.already;
        report.rejected += added.rejected;
        report.commits += u64::from(added.version.is_some());
        report.files_done = u64::try_from(self.done(filler)).unwrap_or(0);
        self.show(report);
        let (done, of, landed) = (report.files_done, report.files, report.landed);
        tracing::info!(pipeline = %self.pipeline.name, %source, done, of, landed, "files filled in");
        Ok(!added.elsewhere && self.done(filler) == to)
    }

    fn show(&self, report: &FilesReport) {
        let files_done = usize::try_from(report.files_done).unwrap_or(usize::MAX);
        self.meter.units.store(report.files, Relaxed);
        self.meter.units_done.store(report.files_done, Relaxed);
        self.meter.bytes.store(self.plan.bytes(), Relaxed);
        self.meter.bytes_read.store(self.plan.files.iter().take(files_done).map(|file| file.facts.size).sum(), Relaxed);
        self.meter.rows.store(report.landed + report.already + report.rejected, Relaxed);
    }

    fn limits(&self) -> PartLimits {
        let policy = self.pipeline.commit;
        let bytes =
            usize::try_from(policy.bytes).unwrap_or(usize::MAX).min(self.settings.memory_bytes / PARTS_OF_MEMORY);
        PartLimits { bytes, rows: policy.rows, every: policy.every }
    }

    fn check_limit(&self, messages: u64, rejected: u64) -> Result<()> {
        let broken = match self.pipeline.rejects.limit {
            None => false,
            Some(RejectsLimit::Count(max)) => rejected > max,
            Some(RejectsLimit::Share(max)) => messages >= SHARE_AFTER && rejected as f64 > max * messages as f64,
        };
        if !broken {
            return Ok(());
        }
        let message = format!("{rejected} of {messages} rows of this run were rejected, beyond `rejects.limit`");
        Err(Error::new(Stage::Fill, Class::Limit, message).hint(format!(
            "what was landed stays; see `deltaworks rejects list {}`, mend the contract and resume, or cancel and take other files",
            self.pipeline.name
        )))
    }
}
