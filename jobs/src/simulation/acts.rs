//! Steps, carried out by the very jobs that the command line calls, on a lake that is open.

use super::steps::Step;
use super::world::{DAY_MS, PARTITIONS, World};
use crate::backfill::{
    self, ArchiveBackfill, Backfill, Bound, FilesOptions, KafkaBackfill, RecomputeOptions, ResumeOptions,
};
use crate::batch::{BatchOptions, batch_on, meter::Meter as BatchMeter};
use crate::error::{Error, Result};
use crate::lake::{Codec, Lake, TableName};
use crate::land::meter::Meter;
use crate::land::tables::raw_name;
use crate::land::tap::Taps;
use crate::land::{DataLoss, Start, StreamOptions, stream_on};
use crate::offsets::{RewindOptions, Target, Targets, rewind_on, skip_on};
use crate::quality::{QualityOptions, quality_on};
use crate::reconcile::{self, ReconcileOptions};
use crate::rejects::{DiscardOptions, Filter, RedriveOptions, discard_on, redrive_on};
use crate::speed::{self, SpeedOptions};
use crate::upkeep::{
    ArchiveOptions, CompactOptions, ForgetOptions, RestoreOptions, RetainOptions, UpkeepOptions, VacuumOptions,
    archive_on, checkpoints_on, compact_on, forget_on, restore_on, retain_on, upkeep_on, vacuum_on,
};
use deltaworks_core::backfill::{BackfillId, State};
use deltaworks_core::progress::AppIds;
use deltaworks_core::units::Interval;
use deltaworks_core::windows::{Dates, Instant};
use jiff::ToSpan as _;
use jiff::civil::{Date, date};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long a job goes on trying: longer than any fault of a step lasts.
const PATIENCE: Duration = Duration::from_secs(20);
/// What a slow writer may take: steps are shorter.
const VACUUM_AFTER: Duration = Duration::from_secs(6 * 3_600);

/// One job's process: it has the lake, and nothing of any process before it.
pub struct Job<'w> {
    pub world: &'w World,
    pub lake: &'w Lake,
}

impl Job<'_> {
    /// Does what a step says; steps of the world are none of its business.
    ///
    /// # Errors
    /// What the job ends with.
    pub async fn run(&self, step: &Step) -> Result<()> {
        match step {
            Step::Send(_) | Step::Pass { .. } | Step::Expire | Step::Deploy { .. } | Step::Check => Ok(()),
            Step::Stream => self.stream().await,
            Step::CatchUp { rebuild } => self.catch_up(*rebuild).await,
            Step::Batch { forced, quality_first } => self.batch(*forced, *quality_first).await,
            Step::Reconcile => self.reconcile().await.map(drop),
            Step::Redrive { discarded_too } => self.redrive(*discarded_too).await,
            Step::Discard => self.discard().await,
            Step::Rewind { partition, back } => self.rewind(*partition, *back).await,
            Step::FillTopic { partition, back } => self.fill_topic(*partition, *back).await,
            Step::Skip { partition, ahead } => self.skip(*partition, *ahead).await,
            Step::Recompute { days, forced } => self.recompute(*days, *forced).await,
            Step::Resume => self.resume_open().await,
            Step::Cancel => self.cancel_open().await,
            Step::FillFiles { .. } => self.fill_files().await,
            Step::Forget { key } => self.forget(*key).await,
            Step::Compact => self.compact().await,
            Step::Vacuum => self.vacuum().await,
            Step::Checkpoint => self.checkpoint().await,
            Step::Archive { days } => self.archive(*days).await,
            Step::Retain { days, archived } => self.retain(*days, *archived).await,
            Step::Restore { days, backfill } => self.restore(*days, *backfill).await,
            Step::Upkeep => self.upkeep().await,
            Step::Quality => self.quality().await,
        }
    }

    pub async fn stream(&self) -> Result<()> {
        let World { settings, .. } = self.world;
        let options = StreamOptions {
            run_id: self.world.run_id(),
            until_caught_up: true,
            start: Start::Earliest,
            partitions: Some((0..PARTITIONS).collect()),
            data_loss: DataLoss::Stop,
            give_up_after: PATIENCE,
            drain_deadline: PATIENCE,
        };
        let meters = [Arc::new(Meter::new("events", self.world.now_ms()))];
        let (clock, stop, taps) = (self.world.clock(), CancellationToken::new(), Taps::default());
        let pipelines = &settings.pipelines;
        let report = stream_on(self.lake, settings, pipelines, &options, &meters, &clock, &stop, &taps).await;
        ended(report.error)
    }

    pub async fn catch_up(&self, rebuild: bool) -> Result<()> {
        if !self.has_raw().await? {
            return Ok(());
        }
        let options = SpeedOptions { run_id: self.world.run_id(), aggregates: Vec::new(), rebuild, parallel: 1 };
        ended(speed::run_on(self.lake, &self.world.settings, &options, &CancellationToken::new()).await.error)
    }

    pub async fn batch(&self, forced: bool, quality_first: bool) -> Result<()> {
        let options = BatchOptions {
            run_id: self.world.run_id(),
            aggregates: Vec::new(),
            interval: Interval::default(),
            forced,
            any_age: false,
            granularities: Vec::new(),
            parallel: 1,
            input_version: None,
            quality_first,
        };
        let (meter, clock, stop) = (Arc::new(BatchMeter::default()), self.world.clock(), CancellationToken::new());
        ended(batch_on(self.lake, &self.world.settings, &options, &meter, &clock, &stop).await.error)
    }

    /// Whether there was nothing to do.
    pub async fn reconcile(&self) -> Result<bool> {
        let options =
            ReconcileOptions { run_id: self.world.run_id(), aggregates: Vec::new(), parallel: 1, accept_drift: false };
        let stop = CancellationToken::new();
        let report = reconcile::run_on(self.lake, &self.world.settings, &options, &stop).await;
        assert_eq!(report.drift.unexplained, 0, "{report:?}");
        let is_idle = report.is_idle();
        ended(report.error).map(|()| is_idle)
    }

    async fn redrive(&self, discarded_too: bool) -> Result<()> {
        let options = RedriveOptions { run_id: self.world.run_id(), filter: Filter::default(), discarded_too };
        let World { settings, .. } = self.world;
        let (clock, stop) = (self.world.clock(), CancellationToken::new());
        ended(redrive_on(self.lake, settings, self.world.pipeline(), &options, &clock, &stop).await.error)
    }

    async fn discard(&self) -> Result<()> {
        let (filter, because) = (Filter { partition: Some(0), ..Filter::default() }, "a broken producer".to_owned());
        let options = DiscardOptions { run_id: self.world.run_id(), filter, because, dry_run: false };
        discard_on(self.lake, self.world.pipeline(), &options, &self.world.clock()).await.map(drop)
    }

    /// `None` where nothing was landed yet.
    pub async fn next_of(&self, partition: i32) -> Result<Option<i64>> {
        let Some(raw) = self.lake.open_table(&raw_name(self.world.pipeline())).await? else { return Ok(None) };
        let pipeline = self.world.pipeline();
        Ok(AppIds::new(&pipeline.name).next_of(&pipeline.topic, partition, raw.txns()).map(|next| next.0))
    }

    /// So many offsets back, as far as the broker has them; `None` where nothing was landed yet.
    async fn offset_back(&self, partition: i32, back: i64) -> Result<Option<i64>> {
        let Some(next) = self.next_of(partition).await? else { return Ok(None) };
        let (low, _) = self.world.broker.low_high(super::world::TOPIC, partition)?;
        Ok(Some((next - back).max(low).min(next)))
    }

    async fn fill_topic(&self, partition: i32, back: i64) -> Result<()> {
        let Some(from) = self.offset_back(partition, back).await? else { return Ok(()) };
        let options = KafkaBackfill {
            run_id: self.world.run_id(),
            pipeline: "events".to_owned(),
            partitions: Some(vec![partition]),
            from: Bound::Offset(from),
            to: None,
        };
        let World { settings, .. } = self.world;
        self.resume_created(backfill::create_kafka_on(self.lake, settings, &options, &self.world.clock()).await?).await
    }

    async fn rewind(&self, partition: i32, back: i64) -> Result<()> {
        let Some(to) = self.offset_back(partition, back).await? else { return Ok(()) };
        let to = Target::Offset(to);
        let targets = Targets { partitions: Some(vec![partition]), to };
        let options = RewindOptions { run_id: self.world.run_id(), targets, dry_run: false };
        let World { settings, .. } = self.world;
        let (clock, stop) = (self.world.clock(), CancellationToken::new());
        ended(rewind_on(self.lake, settings, self.world.pipeline(), &options, &clock, &stop).await.error)
    }

    async fn skip(&self, partition: i32, ahead: i64) -> Result<()> {
        let Some(next) = self.next_of(partition).await? else { return Ok(()) };
        let (_, high) = self.world.broker.low_high(super::world::TOPIC, partition)?;
        let to = (next + ahead).min(high);
        self.world.skips(partition, next..to);
        let targets = Targets { partitions: Some(vec![partition]), to: Target::Offset(to) };
        let (run_id, clock) = (self.world.run_id(), self.world.clock());
        let World { settings, .. } = self.world;
        skip_on(self.lake, settings, self.world.pipeline(), &targets, &run_id, &clock).await.map(drop)
    }

    async fn recompute(&self, days: i64, forced: bool) -> Result<()> {
        let options = RecomputeOptions {
            run_id: self.world.run_id(),
            aggregate: "plain".to_owned(),
            from: Instant::of_ms((self.world.now_ms() / DAY_MS - days) * DAY_MS),
            to: Instant::of_ms((self.world.now_ms() / DAY_MS - days + 1) * DAY_MS),
            granularities: Vec::new(),
            forced,
            backwards: forced,
            parallel: 1,
        };
        let World { settings, .. } = self.world;
        self.resume_created(backfill::create_on(self.lake, settings, &options, &self.world.clock()).await?).await
    }

    async fn resume_created(&self, created: Option<Backfill>) -> Result<()> {
        match created {
            Some(backfill) => self.resume(backfill.id).await,
            None => Ok(()),
        }
    }

    async fn resume(&self, id: BackfillId) -> Result<()> {
        let options = ResumeOptions { run_id: self.world.run_id(), parallel: 1 };
        let (meter, clock, stop) = (Arc::new(BatchMeter::default()), self.world.clock(), CancellationToken::new());
        ended(backfill::resume_on(self.lake, &self.world.settings, id, &options, &meter, &clock, &stop).await.error)
    }

    async fn open_backfill(&self) -> Result<Option<BackfillId>> {
        let lines = backfill::list_on(self.lake, 100).await?;
        Ok(lines.into_iter().find(|line| line.state == State::Open).map(|line| line.id))
    }

    async fn resume_open(&self) -> Result<()> {
        match self.open_backfill().await? {
            Some(open) => self.resume(open).await,
            None => Ok(()),
        }
    }

    async fn cancel_open(&self) -> Result<()> {
        let Some(open) = self.open_backfill().await? else { return Ok(()) };
        backfill::cancel_on(self.lake, open, &self.world.run_id(), &self.world.clock()).await.map(drop)
    }

    /// From the file that was written last.
    async fn fill_files(&self) -> Result<()> {
        let Some(file) = self.world.files.last() else { return Ok(()) };
        let options = FilesOptions {
            run_id: self.world.run_id(),
            pipeline: "events".to_owned(),
            from: vec![file.url.clone()],
            format: None,
            delimiter: None,
            timezone: None,
        };
        let World { settings, .. } = self.world;
        let created = backfill::create_files_on(self.lake, settings, &options, &self.world.clock()).await?;
        self.resume(created.id).await?;
        self.world.fills(&file.url);
        Ok(())
    }

    async fn forget(&self, key: u8) -> Result<()> {
        self.world.forgets(&format!("k{key}"));
        let options = ForgetOptions {
            run_id: self.world.run_id(),
            pipeline: Arc::clone(self.world.pipeline()),
            key: format!("key=k{key}"),
            because: None,
        };
        ended(forget_on(self.lake, &self.world.settings, &options, &CancellationToken::new()).await.error)
    }

    async fn compact(&self) -> Result<()> {
        let options = CompactOptions {
            run_id: self.world.run_id(),
            // states are merged by speed itself
            tables: self.lake.list_tables().await?.into_iter().filter(|name| name.layer != "speed").collect(),
            before: None,
            target_bytes: 64 << 20,
            sort_by: Vec::new(),
            files_min: 2,
        };
        ended(
            compact_on(self.lake, &self.world.settings, &options, &BatchMeter::default(), &CancellationToken::new())
                .await
                .error,
        )
    }

    async fn vacuum(&self) -> Result<()> {
        let tables = self.lake.list_tables().await?;
        let options = VacuumOptions { tables, older_than: VACUUM_AFTER, forced: false };
        ended(vacuum_on(self.lake, &options, self.world.now_ms(), &CancellationToken::new()).await.error)
    }

    async fn checkpoint(&self) -> Result<()> {
        checkpoints_on(self.lake, &self.lake.list_tables().await?, true, false).await.map(drop)
    }

    fn days_ago(&self, days: i64) -> Date {
        date(1970, 1, 1).saturating_add((self.world.now_ms() / DAY_MS - days).days())
    }

    async fn has_raw(&self) -> Result<bool> {
        self.lake.has_table(&TableName::new("raw", "events")).await
    }

    async fn archive(&self, days: i64) -> Result<()> {
        if !self.has_raw().await? {
            return Ok(());
        }
        let options = ArchiveOptions {
            table: raw_name(self.world.pipeline()),
            before: self.days_ago(days),
            to: self.world.archive(),
            codec: Codec::Zstd,
        };
        ended(
            archive_on(self.lake, &self.world.settings, &options, &BatchMeter::default(), &CancellationToken::new())
                .await
                .error,
        )
    }

    /// Where dates are to be archived, they are just before.
    async fn retain(&self, days: i64, archived: bool) -> Result<()> {
        if !self.has_raw().await? {
            return Ok(());
        }
        if archived {
            self.archive(days).await?;
        }
        let options = RetainOptions {
            run_id: self.world.run_id(),
            tables: vec![raw_name(self.world.pipeline())],
            before: Some(self.days_ago(days)),
            forced: false,
            archived_to: archived.then(|| self.world.archive()),
        };
        let (now_ms, stop) = (self.world.now_ms(), CancellationToken::new());
        ended(retain_on(self.lake, &self.world.settings, &options, now_ms, &stop).await.error)
    }

    async fn restore(&self, days: i64, backfill: bool) -> Result<()> {
        if !self.has_raw().await? {
            return Ok(());
        }
        let World { settings, .. } = self.world;
        let (run_id, from) = (self.world.run_id(), self.world.archive());
        let dates = Dates { from: self.days_ago(days + 3), to: self.days_ago(days) };
        if backfill {
            let options = ArchiveBackfill { run_id, pipeline: "events".to_owned(), from, dates };
            let clock = self.world.clock();
            let created = backfill::create_archive_on(self.lake, settings, &options, &clock).await?;
            return self.resume_created(created).await;
        }
        let options = RestoreOptions { run_id, pipeline: Arc::clone(self.world.pipeline()), from, dates };
        let stop = CancellationToken::new();
        ended(restore_on(self.lake, settings, &options, &BatchMeter::default(), &stop).await.error)
    }

    async fn upkeep(&self) -> Result<()> {
        let (run_id, skip) = (self.world.run_id(), BTreeSet::new());
        let options = UpkeepOptions { run_id, older_than: VACUUM_AFTER, skip };
        let stop = CancellationToken::new();
        ended(upkeep_on(self.lake, &self.world.settings, &options, self.world.now_ms(), &stop).await.error)
    }

    async fn quality(&self) -> Result<()> {
        let (pipelines, interval) = (Vec::new(), Interval::default());
        let options = QualityOptions { run_id: self.world.run_id(), pipelines, interval };
        let (clock, stop) = (self.world.clock(), CancellationToken::new());
        quality_on(self.lake, &self.world.settings, &options, &clock, &stop).await.map(drop)
    }
}

fn ended(error: Option<Error>) -> Result<()> {
    error.map_or(Ok(()), Err)
}
