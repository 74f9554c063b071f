//! Which datasets a run has read and written, by OpenLineage's rules of naming.
//!
//! | what | namespace | name |
//! |---|---|---|
//! | topic | `kafka://` and the first broker, with its port | the topic |
//! | table on S3 | `s3://bucket` | path in the bucket |
//! | table in a folder | `file` | path |
//! | files | as tables | path or glob |
//!
//! Invariants: D1 tables of `ops` are ours alone and never told; D2 an input is declared by the job's kind, and at the
//! end told only if it was opened; D3 an output at the end is what was committed, or kept elsewhere.

use super::event::{Facets, Input, Output};
use super::facets;
use super::job::{Facts, Job, Kept, TOPIC};
use crate::lake::{TableName, Touched};
use crate::project::settings::{Options, Pipeline, Settings};
use deltaworks_core::progress::epoch_of;
use std::collections::BTreeMap;
use url::Url;

/// The port of a broker that names none.
const BROKER_PORT: u16 = 9092;

/// What a run has to do with.
#[derive(Debug, Default)]
pub(super) struct Datasets {
    pub(super) inputs: Vec<Input>,
    pub(super) outputs: Vec<Output>,
}

/// Namespace and name of a dataset.
type Named = (String, String);

/// What the job means to read and write.
pub(super) fn meant(job: &Job, settings: &Settings) -> Datasets {
    let names = Names::of(settings);
    let mut datasets = Datasets { inputs: files(job, None), outputs: elsewhere(job, None) };
    for layer in job.kind.reads() {
        if *layer == TOPIC {
            let topics = job.pipelines.iter().map(|p| input(names.topic(&p.topic), names.topic_facets()));
            datasets.inputs.extend(topics);
        } else {
            let tables = job.tables(layer).into_iter();
            datasets.inputs.extend(tables.map(|table| input(names.table(&table), names.table_facets())));
        }
    }
    let tables = job.kind.writes().iter().flat_map(|layer| job.tables(layer));
    datasets.outputs.extend(tables.map(|table| output(names.table(&table), names.table_facets())));
    datasets
}

/// What it has read and written so far.
pub(super) fn seen(job: &Job, settings: &Settings, touched: &BTreeMap<TableName, Touched>, facts: &Facts) -> Datasets {
    let names = Names::of(settings);
    let mut datasets = Datasets { inputs: files(job, facts.file_rows), ..Datasets::default() };
    if facts.kept.rows > 0 {
        datasets.outputs = elsewhere(job, Some(facts.kept));
    }
    for layer in job.kind.reads() {
        if *layer == TOPIC {
            datasets.inputs.extend(job.pipelines.iter().map(|p| names.topic_read(p, touched, facts)));
        } else {
            let tables = job.tables(layer);
            datasets.inputs.extend(tables.iter().filter_map(|name| names.table_read(name, touched.get(name)?, facts)));
        }
    }
    let written = touched.iter().filter(|(name, _)| name.layer != "ops");
    datasets.outputs.extend(written.filter_map(|(name, touched)| names.table_written(name, touched)));
    datasets
}

/// Files that are read. What was read of several is known of all together only, and not told.
fn files(job: &Job, rows: Option<u64>) -> Vec<Input> {
    let mut inputs: Vec<Input> = job.files.iter().map(|files| input(named_files(files), Facets::new())).collect();
    if let ([one], Some(rows)) = (inputs.as_mut_slice(), rows) {
        one.input_facets.insert("inputStatistics", facets::input_statistics(rows));
    }
    inputs
}

/// Where dates are kept that are taken out of the lake.
fn elsewhere(job: &Job, kept: Option<Kept>) -> Vec<Output> {
    let told = |to: &String| {
        let mut output = output(named_files(to), Facets::new());
        if let Some(Kept { rows, bytes, files }) = kept {
            output.output_facets.insert("outputStatistics", facets::output_statistics(rows, bytes, files));
        }
        output
    };
    job.archive.iter().map(told).collect()
}

/// Files by their path or URL; user, password and query of a URL are left out.
fn named_files(files: &str) -> Named {
    match Url::parse(files) {
        Ok(url) if url.scheme() == "file" => ("file".to_owned(), url.path().to_owned()),
        Ok(url) if url.has_host() => {
            let (scheme, host) = (url.scheme(), url.host_str().unwrap_or_default());
            (format!("{scheme}://{host}"), url.path().trim_start_matches('/').to_owned())
        }
        _ => ("file".to_owned(), files.to_owned()),
    }
}

fn input((namespace, name): Named, facets: Facets) -> Input {
    Input { namespace, name, facets, input_facets: Facets::new() }
}

fn output((namespace, name): Named, facets: Facets) -> Output {
    Output { namespace, name, facets, output_facets: Facets::new() }
}

/// How the datasets of a project are called.
struct Names<'s> {
    lake: &'s Url,
    broker: String,
}

impl<'s> Names<'s> {
    fn of(settings: &'s Settings) -> Self {
        Self { lake: &settings.lake.url, broker: broker(&settings.kafka) }
    }

    fn topic(&self, topic: &str) -> Named {
        (self.broker.clone(), topic.to_owned())
    }

    fn topic_facets(&self) -> Facets {
        Facets::from([("dataSource", facets::data_source("kafka", &self.broker))])
    }

    fn table(&self, table: &TableName) -> Named {
        let below = format!("{}/{}", table.layer, table.name);
        let path = match self.lake.to_file_path() {
            Ok(path) if self.lake.scheme() == "file" => path.to_string_lossy().trim_end_matches('/').to_owned(),
            _ => self.lake.path().trim_end_matches('/').to_owned(),
        };
        match (self.lake.scheme(), self.lake.host_str()) {
            ("s3" | "s3a", Some(bucket)) => {
                (format!("s3://{bucket}"), format!("{path}/{below}").trim_start_matches('/').to_owned())
            }
            (scheme, _) => (scheme.to_owned(), format!("{path}/{below}")),
        }
    }

    fn table_facets(&self) -> Facets {
        Facets::from([("dataSource", facets::data_source("lake", self.lake.as_str()))])
    }

    fn topic_read(&self, pipeline: &Pipeline, touched: &BTreeMap<TableName, Touched>, facts: &Facts) -> Input {
        let mut input = input(self.topic(&pipeline.topic), self.topic_facets());
        if let Some(raw) = touched.get(&crate::land::tables::raw_name(pipeline)) {
            let of_topic = |spelled: &String| epoch_of(spelled, &pipeline.topic);
            // where the topic was made anew while the job went on, those of the new one
            let newest = raw.offsets.iter().filter_map(|(spelled, all)| Some((of_topic(spelled)?, all)));
            if let Some((_, partitions)) = newest.max_by_key(|(epoch, _)| *epoch) {
                input.input_facets.insert("deltaworks_offsets", facets::offsets(partitions));
            }
        }
        if let Some(messages) = facts.messages.get(&pipeline.topic) {
            input.input_facets.insert("inputStatistics", facets::input_statistics(*messages));
        }
        input
    }

    fn table_read(&self, name: &TableName, touched: &Touched, facts: &Facts) -> Option<Input> {
        let mut input = input(self.table(name), self.known(touched, touched.opened?));
        if let Some(rows) = facts.rows.get(name).copied().or_else(|| facts.rulings.rows(&name.to_string())) {
            input.input_facets.insert("inputStatistics", facets::input_statistics(rows));
        }
        if let Some(assertions) = facets::assertions(&facts.rulings, &name.to_string()) {
            input.input_facets.insert("dataQualityAssertions", assertions);
        }
        Some(input)
    }

    fn table_written(&self, name: &TableName, touched: &Touched) -> Option<Output> {
        let written = touched.written.as_ref()?;
        let mut output = output(self.table(name), self.known(touched, written.version));
        output
            .output_facets
            .insert("outputStatistics", facets::output_statistics(written.rows, written.bytes, written.files));
        Some(output)
    }

    fn known(&self, touched: &Touched, version: i64) -> Facets {
        let mut all = self.table_facets();
        all.insert("version", facets::version(version));
        if let Some(schema) = &touched.schema {
            all.insert("schema", facets::schema(schema));
        }
        all
    }
}

/// The namespace of topics: the first broker that is named.
fn broker(kafka: &Options) -> String {
    let named = ["bootstrap.servers", "metadata.broker.list"].iter().find_map(|name| kafka.0.get(*name));
    let first = named.and_then(|all| all.split(',').next()).unwrap_or_default().trim();
    let first = first.split_once("://").map_or(first, |(_, host)| host);
    let has_port = first.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    if has_port { format!("kafka://{first}") } else { format!("kafka://{first}:{BROKER_PORT}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("a:1,b:2", "kafka://a:1")]
    #[case("SASL_SSL://a:1, b", "kafka://a:1")]
    #[case("a", "kafka://a:9092")]
    #[case("[::1]:9", "kafka://[::1]:9")]
    fn brokers(#[case] typed: &str, #[case] wanted: &str) {
        let options = Options(BTreeMap::from([("bootstrap.servers".to_owned(), typed.to_owned())]));
        assert_eq!(broker(&options), wanted);
    }

    #[rstest]
    #[case("s3://me:pw@bucket/a/*.csv.gz", "s3://bucket", "a/*.csv.gz")]
    #[case("file:///a/b.csv", "file", "/a/b.csv")]
    #[case("in/*.jsonl", "file", "in/*.jsonl")]
    fn files_by_path(#[case] typed: &str, #[case] namespace: &str, #[case] name: &str) {
        assert_eq!(named_files(typed), (namespace.to_owned(), name.to_owned()));
    }

    #[rstest]
    #[case("s3://bucket/a/b", "s3://bucket", "a/b/raw/events")]
    #[case("s3://bucket", "s3://bucket", "raw/events")]
    #[case("file:///a%20b/lake", "file", "/a b/lake/raw/events")]
    #[case("memory:///lake", "memory", "/lake/raw/events")]
    fn tables(#[case] lake: &str, #[case] namespace: &str, #[case] name: &str) {
        let lake = lake.parse().unwrap();
        let names = Names { lake: &lake, broker: String::new() };
        assert_eq!(names.table(&TableName::new("raw", "events")), (namespace.to_owned(), name.to_owned()));
    }
}
