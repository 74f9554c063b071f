//! Backfills that read a range of a topic again: their plans in `ops.backfills`, and going on with them.
//!
//! The range lies below what the stream has reached: what is above is the stream's to land. It is cut into pieces, in the
//! order of partitions and offsets; how many of them are wholly in is in raw, moved by the commit of the last rows of
//! each. A place that is in raw or in rejects adds nothing.

use super::state::{self, Backfill, New};
use super::watched::{Filled, Resumed, items_done, spec_of, spelled};
use crate::batch::Run;
use crate::batch::meter::Meter;
use crate::clock::Clock;
use crate::error::{Class, Error, Result, Stage};
use crate::fill::kafka::{Ranges, Target, held, landed, resolve};
use crate::fill::{Again, Progress, Reread};
use crate::kafka::watermarks::Watermarks;
use crate::lake::Lake;
use crate::land::tables::raw_name;
use crate::project::settings::{Pipeline, Settings};
use deltaworks_core::backfill::{BackfillId, Kind};
use deltaworks_core::place::OffsetRange;
use deltaworks_core::progress::{AppIds, TopicProgress};
use deltaworks_core::windows::Instant;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Offsets of one piece.
const PIECE_OFFSETS: i64 = 1_000_000;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct KafkaBackfill {
    /// Id of the run.
    pub run_id: String,
    /// The pipeline.
    pub pipeline: String,
    /// Partitions; `None` for all that were landed.
    pub partitions: Option<Vec<i32>>,
    /// Where it begins.
    pub from: Bound,
    /// Where it ends; `None` for what the stream has reached.
    pub to: Option<Bound>,
}

/// An end of a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// This offset.
    Offset(i64),
    /// The first message whose Kafka time is not before.
    Time(Instant),
}

/// A piece of a range, as a plan has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// Partition.
    pub partition: i32,
    /// First offset.
    pub from: i64,
    /// First offset after.
    pub to: i64,
}

/// The pieces of a plan, as they are shown.
#[derive(Debug, Serialize)]
pub struct KafkaPlan {
    /// The open backfill of the same words, which would be gone on with.
    pub continues: Option<BackfillId>,
    /// Offsets to read, at most so many messages.
    pub offsets: u64,
    /// The pieces.
    pub pieces: Vec<Piece>,
}

/// What one run did.
#[derive(Debug, Default, Serialize)]
pub struct KafkaReport {
    /// Pieces of the plan.
    pub pieces: u64,
    /// Pieces that are done.
    pub pieces_done: u64,
    /// What was read and filled in by this run.
    #[serde(flatten)]
    pub read: Reread,
}

/// What a backfill was made to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Spec {
    /// With its epoch.
    topic: String,
    partitions: Option<Vec<i32>>,
    from: Bound,
    to: Option<Bound>,
}

/// Looks, and writes nothing.
///
/// # Errors
/// As [`create_kafka`].
pub async fn plan_kafka(settings: &Settings, options: &KafkaBackfill) -> Result<KafkaPlan> {
    let lake = Lake::open(&settings.lake)?;
    let pipeline = settings.pipeline(&options.pipeline)?;
    let progress = progress_of(&lake, pipeline).await?;
    let spec = spelled(&spec(&progress, options))?;
    let open = state::open_one(&lake, Kind::Kafka, &pipeline.name, &spec).await?;
    let pieces: Vec<Piece> = match &open {
        Some(open) => state::items(&lake, open).await?,
        None => judged(settings, pipeline, &progress, options)?,
    };
    let offsets = pieces.iter().map(|piece| u64::try_from(piece.to - piece.from).unwrap_or(0)).sum();
    Ok(KafkaPlan { continues: open.map(|open| open.id), offsets, pieces })
}

/// Creates a backfill, or finds the open one of the same words; none where there is nothing to read.
///
/// # Errors
/// [`Class::User`] if there is no such pipeline or partition; [`Class::InputLost`] if the broker no longer holds where it
/// would begin, or the topic was recreated; [`Class::Outside`] if broker or store do not answer.
pub async fn create_kafka(settings: &Settings, options: &KafkaBackfill, clock: &Clock) -> Result<Option<Backfill>> {
    create_kafka_on(&Lake::open(&settings.lake)?, settings, options, clock).await
}

/// The same, on a lake that is open.
///
/// # Errors
/// As [`create_kafka`].
pub async fn create_kafka_on(
    lake: &Lake,
    settings: &Settings,
    options: &KafkaBackfill,
    clock: &Clock,
) -> Result<Option<Backfill>> {
    let pipeline = settings.pipeline(&options.pipeline)?;
    let progress = progress_of(lake, pipeline).await?;
    let (target, spec) = (pipeline.name.clone(), spelled(&spec(&progress, options))?);
    if let Some(open) = state::open_one(lake, Kind::Kafka, &target, &spec).await? {
        return Ok(Some(open));
    }
    let items = judged(settings, pipeline, &progress, options)?;
    if items.is_empty() {
        return Ok(None);
    }
    let new = New { kind: Kind::Kafka, target, spec, items, judged_against: None };
    state::create(lake, &new, &Run::new(options.run_id.clone()), clock.now_ms()).await?.by_itself().map(Some)
}

impl Resumed<'_> {
    /// Goes on; the report says how far it got, also if it failed.
    ///
    /// # Errors
    /// The plan cannot be read, or the pipeline is gone.
    pub async fn fill_from_kafka(&self) -> Result<KafkaReport> {
        let Self { lake, settings, backfill, meter, clock, .. } = *self;
        let pipeline = settings.pipeline(&backfill.target)?;
        let spec: Spec = spec_of(backfill)?;
        let pieces: Vec<Piece> = state::items(lake, backfill).await?;
        self.watched(async |stop| {
            let mut report = KafkaReport { pieces: pieces.len() as u64, ..KafkaReport::default() };
            let ended = async {
                loop {
                    let done = items_done(lake, &backfill.target, &backfill.id.to_string()).await?;
                    report.pieces_done = done as u64;
                    report.show(meter);
                    let Some(piece) = pieces.get(done) else { return Ok(()) };
                    if stop.is_cancelled() || report.read.stopped {
                        report.read.stopped = true;
                        return Ok(());
                    }
                    let place = format!("{}/{}", pipeline.topic, piece.partition);
                    tracing::info!(%place, from = piece.from, to = piece.to, "reading again");
                    let ranges = still_held(settings, pipeline, lake, &spec, piece).await?;
                    let progress = Progress {
                        app_id: AppIds::new(&pipeline.name).backfill(&backfill.id.to_string()),
                        from: done as i64,
                        to: done as i64 + 1,
                    };
                    let again = Again {
                        run_id: &self.options.run_id,
                        source: format!("backfill {}", backfill.id),
                        ranges: &ranges,
                        dry_run: false,
                        progress: Some(progress),
                    };
                    again.read(lake, settings, pipeline, clock, stop, &mut report.read).await?;
                }
            };
            let ended: Result<()> = ended.await;
            report.read.error = ended.err();
            report
        })
        .await
    }
}

/// Pieces that are not wholly in raw, in their order.
pub(super) async fn pieces_left(lake: &Lake, backfill: &Backfill) -> Result<Vec<String>> {
    let pieces: Vec<Piece> = state::items(lake, backfill).await?;
    let topic = spec_of::<Spec>(backfill)?.topic;
    let done = items_done(lake, &backfill.target, &backfill.id.to_string()).await?;
    let spelled = |piece: &Piece| format!("{topic}/{}@{}..{}", piece.partition, piece.from, piece.to);
    Ok(pieces.iter().skip(done).map(spelled).collect())
}

/// The range of a piece, if the broker still holds all of it and it is the topic that the plan was made for.
async fn still_held(
    settings: &Settings,
    pipeline: &Arc<Pipeline>,
    lake: &Lake,
    spec: &Spec,
    piece: &Piece,
) -> Result<Ranges> {
    let progress = progress_of(lake, pipeline).await?;
    let lost = |message: String| Error::new(Stage::Backfill, Class::InputLost, message);
    if progress.topic != spec.topic {
        let message = format!("topic `{}` was recreated since: it is `{}` now", spec.topic, progress.topic);
        return Err(lost(message).hint("cancel the backfill"));
    }
    let at = landed(pipeline, &progress, piece.partition)?;
    let broker = Watermarks::open(&settings.kafka)?;
    let (low, _) = held(&broker, pipeline, piece.partition, at)?;
    if low > piece.from {
        let message = format!(
            "{}/{}: the broker no longer holds offsets {} to {low}",
            pipeline.topic, piece.partition, piece.from
        );
        return Err(lost(message).hint("cancel the backfill, and create one that begins later"));
    }
    Ok(Ranges::from([(piece.partition, OffsetRange::new(piece.from, piece.to))]))
}

/// The pieces of what is asked for.
fn judged(
    settings: &Settings,
    pipeline: &Pipeline,
    progress: &TopicProgress,
    options: &KafkaBackfill,
) -> Result<Vec<Piece>> {
    let broker = Watermarks::open(&settings.kafka)?;
    let partitions = options.partitions.clone().unwrap_or_else(|| progress.partitions.keys().copied().collect());
    let firsts = resolve(&broker, &pipeline.topic, &partitions, options.from.target())?;
    let lasts = options.to.map(|to| resolve(&broker, &pipeline.topic, &partitions, to.target())).transpose()?;
    let mut pieces = Vec::new();
    for (partition, first) in firsts {
        let at = landed(pipeline, progress, partition)?;
        let (low, high) = held(&broker, pipeline, partition, at)?;
        if first < low && matches!(options.from, Bound::Offset(_)) {
            let place = format!("{}/{partition}", pipeline.topic);
            let message = format!("{place}: the broker no longer holds offsets below {low}, asked for is {first}");
            return Err(Error::new(Stage::Backfill, Class::InputLost, message)
                .hint(format!("offset {low} reads what is left; older messages may be in files or an archive")));
        }
        let last = lasts.as_ref().and_then(|lasts| lasts.get(&partition).copied()).unwrap_or(i64::MAX);
        let (first, last) = (first.max(low), last.min(at.next.0).min(high));
        let starts = (first..last).step_by(PIECE_OFFSETS as usize);
        pieces.extend(starts.map(|from| Piece { partition, from, to: (from + PIECE_OFFSETS).min(last) }));
    }
    Ok(pieces)
}

async fn progress_of(lake: &Lake, pipeline: &Pipeline) -> Result<TopicProgress> {
    let Some(raw) = lake.open_table(&raw_name(pipeline)).await? else {
        let message = format!("pipeline `{}` has landed nothing yet", pipeline.name);
        return Err(Error::new(Stage::Backfill, Class::User, message).hint("`stream --start` says where it begins"));
    };
    Ok(AppIds::new(&pipeline.name).read(&pipeline.topic, raw.txns()))
}

fn spec(progress: &TopicProgress, options: &KafkaBackfill) -> Spec {
    let KafkaBackfill { partitions, from, to, .. } = options;
    Spec { topic: progress.topic.clone(), partitions: partitions.clone(), from: *from, to: *to }
}

impl Bound {
    const fn target(self) -> Target {
        match self {
            Self::Offset(offset) => Target::Offset(offset),
            Self::Time(instant) => Target::Time(instant.0.div_euclid(1_000)),
        }
    }
}

impl KafkaReport {
    fn show(&self, meter: &Meter) {
        meter.units.store(self.pieces, Relaxed);
        meter.units_done.store(self.pieces_done, Relaxed);
        meter.rows.store(self.read.landed + self.read.rejected, Relaxed);
    }
}

impl Filled for KafkaReport {
    fn error(&mut self) -> &mut Option<Error> {
        &mut self.read.error
    }
    fn stopped(&mut self) -> &mut bool {
        &mut self.read.stopped
    }
    fn has_changed(&self) -> bool {
        self.read.landed > 0 || self.read.rejected > 0
    }
    fn is_done(&self) -> bool {
        self.pieces_done == self.pieces
    }
}
