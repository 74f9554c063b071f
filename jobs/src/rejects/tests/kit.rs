//! A pipeline on a lake in memory and a broker in this process: sent, landed, settled, and proved.

use crate::clock::Clock;
use crate::kafka::mock::Mock;
use crate::kafka::producer::{Outgoing, Producer};
use crate::lake::{Lake, Table, TableName};
use crate::land::meter::Meter;
use crate::land::tap::Taps;
use crate::land::{DataLoss, Start, StreamOptions, stream_on};
use crate::project::{self, settings::Pipeline, settings::Settings};
use crate::prove::{ProveOptions, prove_on};
use crate::rejects::{
    Current, DiscardOptions, DiscardReport, Filter, RedriveOptions, RedriveReport, discard_on, redrive_on,
};
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type};
use deltaworks_core::resolution::Standing;
use futures::TryStreamExt;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

pub const PARTITIONS: i32 = 2;
pub const TOPIC: &str = "events";
/// 2026-03-01T10:00:00Z.
pub const NOW_MS: i64 = 1_772_359_200_000;

/// Partition and offset.
pub type Place = (i32, i64);

pub struct Kit {
    pub settings: Settings,
    pub lake: Lake,
    pub mock: Mock,
    producer: Producer,
    runs: AtomicU64,
    folder: tempfile::TempDir,
}

impl Kit {
    /// Values up to 100 are good, under version 1.0.0.
    pub fn new() -> Self {
        let mock = Mock::start().unwrap();
        mock.create_topic(TOPIC, PARTITIONS).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let settings = write(folder.path(), &mock.bootstrap(), "1.0.0", 100, "");
        let producer = Producer::open(&settings.kafka, true).unwrap();
        let lake = Lake::open(&settings.lake).unwrap().with_clock(|| NOW_MS);
        Self { settings, lake, mock, producer, runs: AtomicU64::new(0), folder }
    }

    /// Puts another contract and more lines of the pipeline in place.
    pub fn deploy(&mut self, version: &str, maximum: i64, pipeline: &str) {
        self.settings = write(self.folder.path(), &self.mock.bootstrap(), version, maximum, pipeline);
    }

    pub fn pipeline(&self) -> &Arc<Pipeline> {
        &self.settings.pipelines[0]
    }

    pub fn run_id(&self) -> String {
        format!("run-{}", self.runs.fetch_add(1, Relaxed))
    }

    pub fn clock() -> Clock {
        Clock::of(|| NOW_MS)
    }

    /// Sends messages to partitions and returns their places.
    pub fn send(&self, messages: &[Outgoing<'_>]) -> Vec<Place> {
        for (ticket, message) in messages.iter().enumerate() {
            self.producer.send(TOPIC, Outgoing { ticket, ..*message }).unwrap();
        }
        self.producer.flush(Duration::from_secs(60)).unwrap();
        let mut reports = self.producer.take_reports();
        reports.sort_by_key(|report| report.ticket);
        reports.into_iter().map(|report| report.outcome.unwrap()).collect()
    }

    /// Sends an event of each value, over the partitions in turn; those above the maximum are bad.
    pub fn send_values(&self, values: &[i64]) -> Vec<Place> {
        let payloads: Vec<String> = values.iter().enumerate().map(|(n, value)| event(n, *value)).collect();
        let messages: Vec<_> = payloads
            .iter()
            .zip(0..)
            .map(|(payload, n)| Outgoing {
                partition: Some(n % PARTITIONS),
                key: Some(b"key"),
                payload: Some(payload.as_bytes()),
                timestamp_ms: Some(NOW_MS - 60_000 + i64::from(n)),
                ..Outgoing::default()
            })
            .collect();
        self.send(&messages)
    }

    pub fn stream_options(&self) -> StreamOptions {
        StreamOptions {
            run_id: self.run_id(),
            until_caught_up: true,
            start: Start::Earliest,
            partitions: Some((0..PARTITIONS).collect()),
            data_loss: DataLoss::Stop,
            give_up_after: Duration::from_secs(30),
            drain_deadline: Duration::from_secs(9),
        }
    }

    /// Lands everything that is there.
    pub async fn land(&self) {
        let (clock, stop) = (Self::clock(), CancellationToken::new());
        let meters = [Arc::new(Meter::new("events", NOW_MS))];
        let (options, pipelines) = (self.stream_options(), &self.settings.pipelines);
        let taps = Taps::default();
        let report = stream_on(&self.lake, &self.settings, pipelines, &options, &meters, &clock, &stop, &taps).await;
        assert!(report.error.is_none(), "{report:?}");
    }

    pub fn redrive_options(&self) -> RedriveOptions {
        RedriveOptions { run_id: self.run_id(), filter: Filter::default(), discarded_too: false }
    }

    pub async fn redrive_with(&self, lake: &Lake, options: &RedriveOptions) -> RedriveReport {
        let stop = CancellationToken::new();
        redrive_on(lake, &self.settings, self.pipeline(), options, &Self::clock(), &stop).await
    }

    /// Redrives all, and fails unless that ended well.
    pub async fn redrive(&self) -> RedriveReport {
        let report = self.redrive_with(&self.lake, &self.redrive_options()).await;
        assert!(report.error.is_none(), "{report:?}");
        report
    }

    pub async fn discard(&self, filter: Filter) -> DiscardReport {
        let options =
            DiscardOptions { run_id: self.run_id(), filter, because: "a broken producer".into(), dry_run: false };
        discard_on(&self.lake, self.pipeline(), &options, &Self::clock()).await.unwrap()
    }

    pub async fn table(&self, layer: &str, name: &str) -> Option<Table> {
        self.lake.open_table(&TableName::new(layer, name)).await.unwrap()
    }

    /// Batches of a table.
    pub async fn rows(&self, layer: &str, name: &str, columns: &[&str]) -> Vec<RecordBatch> {
        let Some(table) = self.table(layer, name).await else { return Vec::new() };
        let mut rows = Vec::new();
        for file in table.live_files().await.unwrap() {
            rows.extend(table.read_file(&file, columns).await.unwrap().try_collect::<Vec<_>>().await.unwrap());
        }
        rows
    }

    /// Places of raw, each with its fill; fails if one is there twice.
    pub async fn raw(&self) -> BTreeMap<Place, Option<i64>> {
        let mut places = BTreeMap::new();
        for batch in self.rows("raw", "events", &["_partition", "_offset", "_fill", "_behind_ms", "_repeat"]).await {
            let fills = batch["_fill"].as_primitive::<Int64Type>();
            for (row, place) in places_of(&batch).into_iter().enumerate() {
                let fill = fills.is_valid(row).then(|| fills.value(row));
                for stamp in ["_behind_ms", "_repeat"] {
                    assert_eq!(batch[stamp].is_null(row), fill.is_some(), "{place:?}: {stamp}");
                }
                assert!(places.insert(place, fill).is_none(), "{place:?} is in raw twice");
            }
        }
        places
    }

    /// Places of rejects; fails if one is there twice.
    pub async fn rejected(&self) -> Vec<Place> {
        let rows = self.rows("rejects", "events", &["_partition", "_offset"]).await;
        let mut places: Vec<Place> = rows.iter().flat_map(places_of).collect();
        places.sort_unstable();
        assert!(places.windows(2).all(|two| two[0] != two[1]), "{places:?}");
        places
    }

    /// Place and resolution of every row of `ops.resolutions`; fails if one is there twice.
    pub async fn resolutions(&self) -> Vec<(Place, String)> {
        let mut said = Vec::new();
        for batch in self.rows("ops", "resolutions", &["_partition", "_offset", "resolution"]).await {
            let resolutions = batch["resolution"].as_string::<i32>();
            let resolutions = resolutions.iter().map(|text| text.unwrap().to_owned());
            said.extend(places_of(&batch).into_iter().zip(resolutions));
        }
        said.sort_unstable();
        assert!(said.windows(2).all(|two| two[0] != two[1]), "{said:?}");
        said
    }

    /// How every reject stands.
    pub async fn standings(&self) -> BTreeMap<Place, Standing> {
        let current = Current::load(&self.lake, "events").await.unwrap().unwrap();
        let standing = |(partition, offset)| ((partition, offset), current.standing(TOPIC, partition, offset));
        self.rejected().await.into_iter().map(standing).collect()
    }

    /// Fails unless everything can be proved, the broker included.
    pub async fn prove(&self) {
        let report = prove_on(&self.lake, &self.settings, &ProveOptions::default(), &Self::clock()).await.unwrap();
        assert!(report.refuted == 0 && report.compared["messages"] > 0, "{report:?}");
    }
}

/// The `n`-th event, of this value.
pub fn event(n: usize, value: i64) -> String {
    format!("{{\"id\": \"e-{n}\", \"at\": \"2026-03-01T09:{:02}:00Z\", \"value\": {value}}}", n % 60)
}

fn places_of(batch: &RecordBatch) -> Vec<Place> {
    let (partitions, offsets) = (&batch["_partition"], &batch["_offset"]);
    let partitions = partitions.as_primitive::<Int32Type>().values().iter();
    partitions.copied().zip(offsets.as_primitive::<Int64Type>().values().iter().copied()).collect()
}

fn write(folder: &std::path::Path, bootstrap: &str, version: &str, maximum: i64, pipeline: &str) -> Settings {
    let contract = format!(
        "apiVersion: v3.1.0\nkind: DataContract\nid: event\nversion: {version}\nstatus: active\nschema:\n  - name: event\n    \
         properties:\n      - {{name: id, logicalType: string, primaryKey: true, required: true}}\n      \
         - {{name: at, logicalType: timestamp, required: true}}\n      \
         - {{name: value, logicalType: integer, required: true, logicalTypeOptions: {{maximum: {maximum}}}}}\n"
    );
    std::fs::write(folder.join("event.odcs.yaml"), contract).unwrap();
    let text = format!(
        "version: 1\nlake: memory:///lake\nkafka:\n  bootstrap.servers: {bootstrap}\npipelines:\n  events:\n    topic: {TOPIC}\n    \
         contract: event.odcs.yaml\n    event_time: at\n    commit: {{every: 50ms, rows: 20}}\n{pipeline}"
    );
    std::fs::write(folder.join("deltaworks.yaml"), text).unwrap();
    project::load(folder, &|_| None).unwrap()
}
