//! Backfills that fill a pipeline from files: their plans in `ops.backfills`, and going on with them.
//!
//! The listing is frozen by [`super::files`], and judged against all listings of the pipeline before; it is created only
//! if it was judged against all that there are by then. Progress is in raw, so what is left needs raw's log alone.
//!
//! Invariant W1: equal content is in two listings of a pipeline under no two names, however many are created at once.

use super::files::{self, Earlier, FilesPlan, FilesReport, FilesRun, FilesSpec, Format, FrozenFile};
use super::state::{self, Backfill, Created, New};
use super::watched::{Filled, Resumed, items_done, spec_of, spelled};
use crate::batch::Run;
use crate::clock::Clock;
use crate::error::{Class, Error, Result, Stage};
use crate::faults;
use crate::lake::Lake;
use crate::project::settings::{Pipeline, Settings};
use deltaworks_core::backfill::{BackfillId, Kind, State};
use serde::Serialize;
use std::sync::Arc;

/// Times that a listing is judged again because others were created meanwhile.
const ATTEMPTS_MAX: usize = 4;

/// What a fill from files is asked for.
#[derive(Debug, Clone)]
pub struct FilesOptions {
    /// Id of the run.
    pub run_id: String,
    /// The pipeline.
    pub pipeline: String,
    /// Paths, folders, globs, URLs.
    pub from: Vec<String>,
    /// Format of all files; `None` goes by each name.
    pub format: Option<Format>,
    /// Between the fields of a CSV file.
    pub delimiter: Option<char>,
    /// Time zone of typed times without one.
    pub timezone: Option<String>,
}

/// A listing, as it is shown.
#[derive(Debug, Serialize)]
pub struct Listing {
    /// The open backfill of the same words, which would be gone on with.
    pub continues: Option<BackfillId>,
    /// The files to read, in this order.
    pub files: Vec<FrozenFile>,
    /// Bytes of all.
    pub bytes: u64,
}

/// Lists, and writes nothing.
///
/// # Errors
/// As [`create_files`].
pub async fn plan_files(settings: &Settings, options: &FilesOptions) -> Result<Listing> {
    let lake = Lake::open(&settings.lake)?;
    let pipeline = settings.pipeline(&options.pipeline)?;
    let spec = spec(pipeline, options);
    if let Some(open) = state::open_one(&lake, Kind::Files, &pipeline.name, &spelled(&spec)?).await? {
        let files: Vec<FrozenFile> = state::items(&lake, &open).await?;
        let plan = FilesPlan { spec, files };
        return Ok(Listing { continues: Some(open.id), bytes: plan.bytes(), files: plan.files });
    }
    let (_, plan) = judged(&lake, settings, pipeline, &spec).await?;
    Ok(Listing { continues: None, bytes: plan.bytes(), files: plan.files })
}

/// Creates a backfill from files, or finds the open one of the same words.
///
/// # Errors
/// [`Class::User`] if there is no such pipeline or file, if a file is broken, or has content that was read before under
/// another name; [`Class::InputLost`] if one changes meanwhile. None is created then.
pub async fn create_files(settings: &Settings, options: &FilesOptions, clock: &Clock) -> Result<Backfill> {
    create_files_on(&Lake::open(&settings.lake)?, settings, options, clock).await
}

/// The same, on a lake that is open.
///
/// # Errors
/// As [`create_files`].
pub async fn create_files_on(
    lake: &Lake,
    settings: &Settings,
    options: &FilesOptions,
    clock: &Clock,
) -> Result<Backfill> {
    let pipeline = settings.pipeline(&options.pipeline)?;
    let spec = spec(pipeline, options);
    let (target, spec_json) = (pipeline.name.clone(), spelled(&spec)?);
    if let Some(open) = state::open_one(lake, Kind::Files, &target, &spec_json).await? {
        return Ok(open);
    }
    for _ in 0..ATTEMPTS_MAX {
        let (known, plan) = judged(lake, settings, pipeline, &spec).await?;
        faults::point("after_files_listed");
        let (target, spec) = (target.clone(), spec_json.clone());
        let new = New { kind: Kind::Files, target, spec, items: plan.files, judged_against: Some(known) };
        match state::create(lake, &new, &Run::new(options.run_id.clone()), clock.now_ms()).await? {
            Created::New(backfill) | Created::Same(backfill) => return Ok(backfill),
            Created::Outdated => {}
        }
    }
    let message = format!("others keep creating backfills of pipeline `{target}`");
    Err(Error::new(Stage::Backfill, Class::Overlap, message).hint("create one after the other"))
}

impl Resumed<'_> {
    /// Goes on; the report says how far it got, also if it failed.
    ///
    /// # Errors
    /// The plan cannot be read, or the pipeline is gone.
    pub async fn fill_from_files(&self) -> Result<FilesReport> {
        let Self { lake, settings, backfill, meter, clock, .. } = *self;
        let pipeline = settings.pipeline(&backfill.target)?;
        let plan = plan_of(lake, backfill).await?;
        let id = backfill.id.to_string();
        self.watched(async |stop| {
            FilesRun { lake, settings, pipeline, id: &id, plan: &plan, meter, clock, stop }.run().await
        })
        .await
    }
}

impl Filled for FilesReport {
    fn error(&mut self) -> &mut Option<Error> {
        &mut self.error
    }
    fn stopped(&mut self) -> &mut bool {
        &mut self.stopped
    }
    fn has_changed(&self) -> bool {
        self.commits > 0
    }
    fn is_done(&self) -> bool {
        self.files_done == self.files
    }
}

/// URLs of the files that are not wholly in raw, in their order.
///
/// # Errors
/// A table cannot be read.
pub async fn files_left(lake: &Lake, backfill: &Backfill) -> Result<Vec<String>> {
    let plan = plan_of(lake, backfill).await?;
    let done = items_done(lake, &backfill.target, &backfill.id.to_string()).await?;
    Ok(plan.files.into_iter().skip(done).map(|file| file.facts.url).collect())
}

async fn plan_of(lake: &Lake, backfill: &Backfill) -> Result<FilesPlan> {
    let spec: FilesSpec = spec_of(backfill)?;
    Ok(FilesPlan { spec, files: state::items(lake, backfill).await? })
}

/// A listing, and the backfills that it was judged against.
async fn judged(
    lake: &Lake,
    settings: &Settings,
    pipeline: &Arc<Pipeline>,
    spec: &FilesSpec,
) -> Result<(Vec<BackfillId>, FilesPlan)> {
    let (mut known, mut before) = (Vec::new(), Vec::new());
    for backfill in state::all(lake).await? {
        if backfill.kind == Kind::Files && backfill.target == pipeline.name {
            known.push(backfill.id);
            let is_open = backfill.state == State::Open;
            before.push((backfill.id.to_string(), plan_of(lake, &backfill).await?, is_open));
        }
    }
    let earlier = before.iter().map(|(id, plan, open)| Earlier { id, plan, open: *open });
    let earlier: Vec<Earlier<'_>> = earlier.collect();
    let plan = files::plan(lake, settings, pipeline, &spec.from, &spec.reading, &earlier).await?;
    Ok((known, plan))
}

fn spec(pipeline: &Pipeline, options: &FilesOptions) -> FilesSpec {
    let mut reading = files::reading(pipeline);
    reading.format = options.format;
    reading.delimiter = options.delimiter;
    reading.timezone.clone_from(&options.timezone);
    FilesSpec { pipeline: pipeline.name.clone(), from: options.from.clone(), reading }
}
