//! A project in a temporary folder, whose raw table a test writes itself, and what its speed table then says.

use crate::batch::{Engine, Run};
use crate::engine::aggregate::{Definition, Finished, Source, States};
use crate::lake::{Commit, CommitOutcome, Lake, PartitionValues, Table, encode};
use crate::land::tables::{raw_profile, raw_table};
use crate::land::tap::Landed;
use crate::project::{self, settings::Pipeline, settings::Settings};
use crate::speed::{Live, SpeedOptions, SpeedReport, SpeedTable, VerbReport, run_on};
use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int32Array, Int64Array, RecordBatch,
    StringArray, TimestampMicrosecondArray,
};
use deltaworks_core::commit_info::Identity;
use deltaworks_core::commit_plan::Claim;
use deltaworks_core::place::{Offset, OffsetRange};
use deltaworks_core::progress::{AppIds, Progress};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use tokio_util::sync::CancellationToken;

const CONTRACT: &str = "apiVersion: v3.1.0
kind: DataContract
id: event
version: 1.0.0
status: active
schema:
  - name: event
    properties:
      - {name: id, logicalType: string, primaryKey: true, required: true}
      - {name: at, logicalType: timestamp, required: true}
      - {name: key, logicalType: string}
      - {name: n, logicalType: integer}
      - {name: x, logicalType: number}
      - {name: price, logicalType: number, physicalType: 'decimal(8,2)'}
      - {name: flag, logicalType: boolean}
";

/// The functions that speed must merge, over all columns.
pub const ALL: &str = "SELECT key, count(*) AS rows, count(n) AS some, count(DISTINCT n) AS kinds, sum(n) AS total, \
     sum(x) AS sum_x, sum(price) AS sum_price, avg(x) AS avg_x, avg(price) AS avg_price, min(x) AS least, \
     max(price) AS most, stddev(x) AS dev, var(x) AS variance, median(x) AS middle, \
     percentile_cont(0.9) WITHIN GROUP (ORDER BY x) AS high, bool_and(flag) AS every, bool_or(flag) AS any_of, \
     first_value(n ORDER BY at) AS first_n, last_value(n ORDER BY at) AS last_n, \
     sum(n) FILTER (WHERE flag) AS flagged FROM events GROUP BY key";

pub const HOUR_US: i64 = 3_600_000_000;
/// Of the pipeline.
pub const LATENESS_MS: i64 = 3_600_000;
/// 2026-03-01T00:00:00Z.
pub const FIRST_US: i64 = 1_772_323_200_000_000;

/// An event as it was landed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Row {
    pub at_us: i64,
    pub key: Option<String>,
    pub n: Option<i64>,
    pub x: Option<f64>,
    pub price: Option<i128>,
    pub flag: Option<bool>,
    pub partition: i32,
    pub offset: i64,
    pub behind_ms: Option<i64>,
    pub repeat: bool,
    pub fill: Option<i64>,
}

impl Row {
    pub fn is_late(&self) -> bool {
        self.behind_ms.is_some_and(|ms| ms > LATENESS_MS)
    }

    /// On time, no repeat, no fill.
    pub fn counts(&self) -> bool {
        !self.is_late() && !self.repeat && self.fill.is_none()
    }
}

pub struct Kit {
    pub settings: Settings,
    pub lake: Lake,
    sequence: AtomicU64,
    folder: tempfile::TempDir,
}

/// Finished rows of every granularity.
pub type Windows = BTreeMap<String, Vec<RecordBatch>>;

impl Kit {
    pub fn new(select: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("event.odcs.yaml"), CONTRACT).unwrap();
        let settings = write(folder.path(), "[15m, 1d]", select);
        let lake = Lake::open(&settings.lake).unwrap();
        Self { settings, lake, sequence: AtomicU64::new(0), folder }
    }

    /// Gives the aggregate another meaning.
    pub fn define(&mut self, windows: &str, select: &str) {
        self.settings = write(self.folder.path(), windows, select);
    }

    pub fn pipeline(&self) -> &Arc<Pipeline> {
        &self.settings.pipelines[0]
    }

    pub fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("lake/speed/a")
    }

    pub fn run(&self) -> Run {
        Run::new(format!("run-{}", self.sequence.fetch_add(1, Relaxed)))
    }

    pub async fn definition(&self) -> Arc<Definition> {
        let engine = Engine::start(&self.settings, 2).await.unwrap();
        let (file, source) = (&self.settings.aggregates[0], Source::of(self.pipeline()));
        Arc::new(Definition::new(file, &source, &engine.lookups, &engine.session).await.unwrap())
    }

    pub async fn raw(&self) -> Table {
        self.lake.ensure_table(&raw_table(self.pipeline())).await.unwrap()
    }

    /// Lands rows as one commit, and gives what landing would hand on.
    pub async fn land(&self, rows: &[Row]) -> Landed {
        self.land_as("events", rows).await
    }

    pub async fn land_as(&self, topic: &str, rows: &[Row]) -> Landed {
        let mut raw = self.raw().await;
        let ids = AppIds::new("events");
        let mut commit = self.commit();
        let mut by_date: BTreeMap<String, Vec<Row>> = BTreeMap::new();
        for row in rows {
            by_date.entry(date_of(row.at_us)).or_default().push(row.clone());
        }
        for (date, rows) in by_date {
            let profile = raw_profile(self.pipeline());
            let columns: Vec<usize> = (0..profile.schema().fields().len()).collect();
            let batch = self.batch_of(topic, &rows).project(&columns).unwrap();
            let values = PartitionValues::from([("event_date".into(), Some(date))]);
            commit.adds.push(raw.sink().put(values, encode(&profile, [Ok(batch)]).unwrap()).await.unwrap());
        }
        let known = ids.read(topic, raw.txns());
        let mut claims = Vec::new();
        for partition in 0..2 {
            let before = known.partitions.get(&partition).map_or(0, |p| p.next.0);
            let streamed = rows.iter().filter(|r| r.partition == partition && r.fill.is_none());
            let next = streamed.map(|r| r.offset + 1).max().unwrap_or(before).max(before);
            let ms = rows.iter().map(|r| r.at_us.div_euclid(1_000)).max();
            let progress = Progress { next: Offset(next), frontier_ms: ms, reached_ms: ms, seen_ms: None };
            commit.txns.extend(ids.write(topic, partition, &progress));
            if before < next {
                claims.push(Claim { partition, range: OffsetRange::new(before, next) });
            }
        }
        commit.txns.push(ids.write_partition_count(topic, 2));
        commit.txns.extend(rows.iter().filter_map(|r| r.fill).max().map(|fill| (ids.fill(), fill)));
        let CommitOutcome::Committed(version) = raw.commit(commit).await else { panic!("raw was not committed") };
        let rows = Some(vec![self.batch_of(topic, rows)]);
        Landed { raw_table: raw.id().to_owned(), version, topic: topic.to_owned(), claims, rows }
    }

    pub fn commit(&self) -> Commit {
        let sequence = self.sequence.fetch_add(1, Relaxed);
        Commit::new("WRITE", &Identity { run_id: "test".into(), sequence }).unwrap()
    }

    fn batch_of(&self, topic: &str, rows: &[Row]) -> RecordBatch {
        let schema = crate::land::schema::raw_schema(self.pipeline());
        let instants = |get: &dyn Fn(&Row) -> Option<i64>| -> ArrayRef {
            Arc::new(rows.iter().map(get).collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
        };
        let ints =
            |get: &dyn Fn(&Row) -> Option<i64>| -> ArrayRef { Arc::new(rows.iter().map(get).collect::<Int64Array>()) };
        let columns = schema.fields().iter().map(|f| -> ArrayRef {
            match f.name().as_str() {
                "id" => Arc::new(
                    rows.iter().map(|r| Some(format!("{}-{}", r.partition, r.offset))).collect::<StringArray>(),
                ),
                "at" => instants(&|r| Some(r.at_us)),
                "key" => Arc::new(rows.iter().map(|r| r.key.as_deref()).collect::<StringArray>()),
                "n" => ints(&|r| r.n),
                "x" => Arc::new(rows.iter().map(|r| r.x).collect::<Float64Array>()),
                "price" => {
                    let prices = rows.iter().map(|r| r.price).collect::<Decimal128Array>();
                    Arc::new(prices.with_precision_and_scale(8, 2).unwrap())
                }
                "flag" => Arc::new(rows.iter().map(|r| r.flag).collect::<BooleanArray>()),
                "_topic" => Arc::new(StringArray::from(vec![topic; rows.len()])),
                "_partition" => Arc::new(rows.iter().map(|r| Some(r.partition)).collect::<Int32Array>()),
                "_offset" => ints(&|r| Some(r.offset)),
                "_kafka_time" => instants(&|_| None),
                "_behind_ms" => ints(&|r| r.behind_ms),
                "_repeat" => Arc::new(rows.iter().map(|r| Some(r.repeat)).collect::<BooleanArray>()),
                "_fill" => ints(&|r| r.fill),
                "event_date" => Arc::new(
                    rows.iter().map(|r| Some(r.at_us.div_euclid(24 * HOUR_US) as i32)).collect::<Date32Array>(),
                ),
                other => panic!("unknown column `{other}`"),
            }
        });
        RecordBatch::try_new(schema.clone(), columns.collect()).unwrap()
    }

    /// The speed layer of a stream.
    pub async fn live(&self) -> Live {
        self.live_on(&self.lake).await
    }

    pub async fn live_on(&self, lake: &Lake) -> Live {
        let run = format!("live-{}", self.sequence.fetch_add(1, Relaxed));
        Live::start_on(lake, &self.settings, &self.settings.pipelines, &run, &CancellationToken::new()).await
    }

    /// Lands parts one by one while a stream's speed layer listens.
    pub async fn stream(&self, parts: &[Vec<Row>]) -> SpeedReport {
        let live = self.live().await;
        for part in parts {
            let landed = self.land(part).await;
            hand_over(&live, landed);
        }
        ended(live).await
    }

    pub async fn catch_up(&self, rebuild: bool) -> VerbReport {
        let report = self.catch_up_on(&self.lake, rebuild).await;
        assert!(report.error.is_none(), "{report:?}");
        report
    }

    pub async fn catch_up_on(&self, lake: &Lake, rebuild: bool) -> VerbReport {
        let run_id = format!("run-{}", self.sequence.fetch_add(1, Relaxed));
        let options = SpeedOptions { run_id, aggregates: Vec::new(), rebuild, parallel: 2 };
        run_on(lake, &self.settings, &options, &CancellationToken::new()).await
    }

    pub async fn table(&self) -> SpeedTable {
        SpeedTable::open(&self.lake, &self.definition().await).await.unwrap().unwrap()
    }

    /// What the speed table says of every window.
    pub async fn windows(&self) -> Windows {
        let table = self.table().await;
        assert!(table.is_usable(self.raw().await.id()), "{:?}", table.stored());
        let definition = self.definition().await;
        finished(&definition, table.all_states().await.unwrap()).await
    }

    /// States in the table.
    pub async fn states(&self) -> usize {
        self.table().await.all_states().await.unwrap().len()
    }
}

pub fn hand_over(live: &Live, landed: Landed) {
    live.taps().of["events"].landed(landed);
}

pub async fn ended(live: Live) -> SpeedReport {
    live.end().await.remove("a").unwrap()
}

pub async fn finished(definition: &Definition, states: States) -> Windows {
    let merged = definition.merge([states]).await.unwrap();
    let finished = definition.finish(&merged).await.unwrap();
    finished.into_iter().map(|Finished { granularity, rows, .. }| (granularity.to_string(), rows)).collect()
}

pub fn rows_of(windows: &Windows) -> usize {
    windows.values().flatten().map(RecordBatch::num_rows).sum()
}

fn write(folder: &std::path::Path, windows: &str, select: &str) -> Settings {
    let text = format!(
        "-- aggregate: a\n-- grain: one row per key and window\n-- from: events\n-- windows: {windows}\n{select}\n"
    );
    std::fs::write(folder.join("a.sql"), text).unwrap();
    let text = format!(
        "version: 1\nlake: file://{}/lake\nkafka:\n  bootstrap.servers: nowhere\npipelines:\n  events:\n    topic: events\n    \
         contract: event.odcs.yaml\n    event_time: at\n    lateness: 1h\naggregates: [a.sql]\n",
        folder.display(),
    );
    std::fs::write(folder.join("deltaworks.yaml"), text).unwrap();
    project::load(folder, &|_| None).unwrap()
}

pub fn date_of(us: i64) -> String {
    let days = us.div_euclid(24 * HOUR_US);
    let date = jiff::civil::date(1970, 1, 1).checked_add(jiff::Span::new().days(days)).unwrap();
    date.to_string()
}

/// Some events of two partitions over two days, with late ones, repeats and nulls; always the same.
pub fn some_rows(count: i64) -> Vec<Row> {
    let mut offsets = [0, 0];
    let row = |i: i64| {
        let partition = usize::from(i % 3 == 0);
        let offset = offsets[partition];
        offsets[partition] += 1;
        // a walk that never repeats itself too soon
        let mixed = (i * 7_919 + 13) % 1_000;
        Row {
            at_us: FIRST_US + (mixed * 120 + i) * 1_000_000,
            key: (mixed % 7 != 0).then(|| format!("key-{}", mixed % 4)),
            n: (mixed % 5 != 0).then_some(mixed - 400),
            x: (mixed % 11 != 0).then_some((mixed - 500) as f64 / 8.0),
            price: (mixed % 13 != 0).then_some(i128::from(mixed * 3 - 700)),
            flag: (mixed % 6 != 0).then_some(mixed % 2 == 0),
            partition: partition as i32,
            offset,
            behind_ms: Some(if i % 10 == 9 { LATENESS_MS + 1 + mixed } else { mixed }),
            repeat: i % 8 == 7,
            fill: None,
        }
    };
    (0..count).map(row).collect()
}
