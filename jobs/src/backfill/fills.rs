//! Backfills that fill a pipeline from files: their plans in `ops.backfills`, and going on with them.
//!
//! The listing is frozen by [`super::files`], and judged against all listings of the pipeline before; it is created only
//! if it was judged against all that there are by then. Progress is in raw, so what is left needs raw's log alone.
//!
//! Invariant W1: equal content is in two listings of a pipeline under no two names, however many are created at once.

use super::files::{self, Earlier, FilesPlan, FilesReport, FilesSpec, Format, FrozenFile};
use super::state::{self, Backfill, Created, New, Watch, cancelled};
use crate::batch::{Permit, Run};
use crate::clock::Clock;
use crate::error::{Class, Error, Result, Stage};
use crate::faults;
use crate::lake::{Lake, TableName};
use crate::project::settings::{Pipeline, Settings};
use deltaworks_core::backfill::{BackfillId, Event, Kind, State, Turn};
use deltaworks_core::progress::AppIds;
use serde::Serialize;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Times that a listing is judged again because others were created meanwhile.
const ATTEMPTS_MAX: usize = 4;
/// How often a run looks whether it was given up.
const LOOK_EVERY: Duration = Duration::from_millis(500);

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
    let pipeline = pipeline_of(settings, &options.pipeline)?;
    let spec = spec_of(pipeline, options);
    if let Some(open) = state::open_one(&lake, Kind::Files, &pipeline.name, &json(&spec)?).await? {
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
    let lake = Lake::open(&settings.lake)?;
    let pipeline = pipeline_of(settings, &options.pipeline)?;
    let spec = spec_of(pipeline, options);
    let (target, spec_json) = (pipeline.name.clone(), json(&spec)?);
    if let Some(open) = state::open_one(&lake, Kind::Files, &target, &spec_json).await? {
        return Ok(open);
    }
    for _ in 0..ATTEMPTS_MAX {
        let (known, plan) = judged(&lake, settings, pipeline, &spec).await?;
        faults::point("after_files_listed");
        let (target, spec) = (target.clone(), spec_json.clone());
        let new = New { kind: Kind::Files, target, spec, items: plan.files, judged_against: Some(known) };
        match state::create(&lake, &new, &Run::new(options.run_id.clone()), clock.now_ms()).await? {
            Created::New(backfill) | Created::Same(backfill) => return Ok(backfill),
            Created::Outdated => {}
        }
    }
    let message = format!("others keep creating backfills of pipeline `{target}`");
    Err(Error::new(Stage::Backfill, Class::Overlap, message).hint("create one after the other"))
}

/// Goes on; the report says how far it got, also if it failed.
pub async fn run(
    lake: &Lake,
    settings: &Settings,
    backfill: &Backfill,
    run_id: &str,
    clock: &Clock,
    stop: &CancellationToken,
) -> Result<FilesReport> {
    let pipeline = pipeline_of(settings, &backfill.target)?;
    let plan = plan_of(lake, backfill).await?;
    let watch = Watch::new(lake, backfill.id).await?;
    let (given_up, done) = (stop.child_token(), CancellationToken::new());
    let looking = async {
        while !done.is_cancelled() {
            tokio::select! {
                () = done.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            match watch.may_go_on().await {
                Ok(true) => {}
                Ok(false) => given_up.cancel(),
                Err(error) => tracing::debug!(%error, "whether the backfill was given up will be looked at again"),
            }
        }
    };
    let id = backfill.id.to_string();
    let filling = async {
        let report = files::run(lake, settings, pipeline, &id, &plan, clock, &given_up).await;
        done.cancel();
        report
    };
    let (mut report, ()) = tokio::join!(filling, looking);
    if let Some(error) = report.error.take() {
        let partly = report.commits > 0 && error.class == Class::Outside;
        report.error = Some(if partly { Error { class: Class::Partly, ..error } } else { error });
    } else if watch.is_cancelled().await {
        (report.error, report.stopped) = (Some(cancelled(backfill.id)), false);
    } else if report.is_done() {
        faults::point("before_files_finish");
        let run = Run::new(run_id);
        let ended = state::end(lake, backfill.id, Event::Finished, &run, clock.now_ms()).await?;
        if ended == Turn::Ended(State::Cancelled) {
            report.error = Some(cancelled(backfill.id));
        }
    }
    Ok(report)
}

/// URLs of the files that are not wholly in raw, in their order.
///
/// # Errors
/// A table cannot be read.
pub async fn files_left(lake: &Lake, backfill: &Backfill) -> Result<Vec<String>> {
    let plan = plan_of(lake, backfill).await?;
    let raw = lake.open_table(&TableName::new("raw", &backfill.target)).await?;
    let app_id = AppIds::new(&backfill.target).backfill(&backfill.id.to_string());
    let done = raw.and_then(|raw| raw.txns().get(&app_id).copied()).unwrap_or(0);
    let done = usize::try_from(done).unwrap_or(0);
    Ok(plan.files.into_iter().skip(done).map(|file| file.facts.url).collect())
}

async fn plan_of(lake: &Lake, backfill: &Backfill) -> Result<FilesPlan> {
    let unknown = |e| {
        let message = format!("what backfill `{}` was made to do cannot be read", backfill.id);
        Error::new(Stage::Backfill, Class::Internal, message).because(e)
    };
    let spec: FilesSpec = serde_json::from_value(backfill.spec.clone()).map_err(unknown)?;
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

fn spec_of(pipeline: &Pipeline, options: &FilesOptions) -> FilesSpec {
    let mut reading = files::reading(pipeline);
    reading.format = options.format;
    reading.delimiter = options.delimiter;
    reading.timezone.clone_from(&options.timezone);
    FilesSpec { pipeline: pipeline.name.clone(), from: options.from.clone(), reading }
}

fn json(spec: &FilesSpec) -> Result<Value> {
    let failed = |e| Error::new(Stage::Backfill, Class::Internal, "options cannot be spelled").because(e);
    serde_json::to_value(spec).map_err(failed)
}

fn pipeline_of<'s>(settings: &'s Settings, name: &str) -> Result<&'s Arc<Pipeline>> {
    settings.pipelines.iter().find(|pipeline| pipeline.name == name).ok_or_else(|| {
        let known: Vec<String> = settings.pipelines.iter().map(|pipeline| format!("`{}`", pipeline.name)).collect();
        Error::new(Stage::Backfill, Class::User, format!("there is no pipeline `{name}`"))
            .hint(format!("deltaworks.yaml has {}", known.join(", ")))
    })
}
