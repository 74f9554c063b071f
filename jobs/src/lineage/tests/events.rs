//! Whole events, as they are read from a file.

use super::*;
use crate::quality::{Ruling, Rulings};
use deltaworks_core::quality::Severity;
use deltaworks_core::units::Interval;

#[tokio::test]
async fn a_batch_is_told_with_versions_rows_and_rules() {
    let dir = TempDir::new().unwrap();
    let settings = settings(dir.path());
    let (pipeline, aggregate) = (settings.pipelines[0].name.clone(), settings.aggregates[0].clone());
    let (raw, batch) = (TableName::new("raw", &pipeline), TableName::new("batch", &aggregate.name));
    settings.lake.witness.opened(&raw, 41, Some(&schema()));
    settings.lake.witness.opened(&TableName::new("batch", "another"), 3, None);
    wrote(&settings, &batch, 7, 12, json!({}));
    wrote(&settings, &TableName::new("ops", "pins"), 9, 1, json!({}));
    let ruling = Ruling {
        column: Some("id".to_owned()),
        measure: "null values",
        must: "= 0".to_owned(),
        severity: Severity::Warning,
        dates: 3,
        breached: 1,
        rows: 100,
        example: ("2026-03-01".parse().unwrap(), Some(2.0)),
    };
    let facts = Facts {
        rows: BTreeMap::from([(raw.clone(), 1_000)]),
        rulings: Rulings(BTreeMap::from([((raw.to_string(), "ids".to_owned()), ruling)])),
        ..Facts::default()
    };
    let interval = Interval { from: "2026-03-01T00:00:00Z".parse().ok(), to: "2026-03-02T00:00:00Z".parse().ok() };
    let job = Job::new(Kind::Batch, RUN_ID, &settings)
        .of_aggregates(std::slice::from_ref(&aggregate.name), &settings)
        .over(interval);
    let events = told(&settings, job, &Outcome::Complete, &facts).await;
    let types: Vec<&str> = events.iter().map(|event| event["eventType"].as_str().unwrap()).collect();
    assert_eq!(types, ["START", "RUNNING", "COMPLETE"]);
    let source = facet("1-0-1/DatasourceDatasetFacet", json!({ "name": "lake", "uri": "s3://bucket/lake" }));
    let version = |version: &str| facet("1-0-1/DatasetVersionDatasetFacet", json!({ "datasetVersion": version }));
    let fields = json!({ "fields": [
        { "name": "id", "type": "string" },
        { "name": "s", "type": "struct", "fields": [{ "name": "x", "type": "long" }] },
    ] });
    let fields = facet("1-2-0/SchemaDatasetFacet", fields);
    let run_of = |name: &str| json!({ "run": { "runId": RUN_ID }, "job": { "namespace": "dags", "name": name } });
    let mut parent = run_of("nightly.land");
    parent["root"] = run_of("nightly");
    let nominal = json!({ "nominalStartTime": "2026-03-01T00:00:00Z", "nominalEndTime": "2026-03-02T00:00:00Z" });
    let engine = json!({ "name": "deltaworks", "version": env!("CARGO_PKG_VERSION") });
    let rule = json!({
        "assertion": "not_null", "name": "ids", "success": false, "severity": "warn", "column": "id",
        "expected": "null values = 0", "actual": "2",
        "description": "1 of 3 dates breach it; `actual` is of 2026-03-01",
    });
    let job_type = json!({ "processingType": "BATCH", "integration": "DELTAWORKS", "jobType": "JOB" });
    let wanted = json!({
        "eventType": "COMPLETE",
        "eventTime": "2026-03-01T12:00:00.000Z",
        "producer": format!("urn:deltaworks:{}", env!("CARGO_PKG_VERSION")),
        "schemaURL": "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent",
        "run": { "runId": RUN_ID, "facets": {
            "parent": facet("1-2-0/ParentRunFacet", parent),
            "nominalTime": facet("1-0-1/NominalTimeRunFacet", nominal),
            "processing_engine": facet("1-1-1/ProcessingEngineRunFacet", engine),
        } },
        "job": { "namespace": "tests", "name": "batch", "facets": {
            "jobType": facet("2-0-4/JobTypeJobFacet", job_type),
        } },
        "inputs": [{
            "namespace": "s3://bucket", "name": format!("lake/raw/{pipeline}"),
            "facets": { "dataSource": source, "schema": fields, "version": version("41") },
            "inputFacets": {
                "inputStatistics": facet("1-0-0/InputStatisticsInputDatasetFacet", json!({ "rowCount": 1000 })),
                "dataQualityAssertions":
                    facet("1-1-0/DataQualityAssertionsDatasetFacet", json!({ "assertions": [rule] })),
            },
        }],
        "outputs": [{
            "namespace": "s3://bucket", "name": format!("lake/batch/{}", aggregate.name),
            "facets": { "dataSource": source, "schema": fields, "version": version("7") },
            "outputFacets": { "outputStatistics": facet(
                "1-0-2/OutputStatisticsOutputDatasetFacet",
                json!({ "rowCount": 12, "size": 120, "fileCount": 1 }),
            ) },
        }],
    });
    assert_eq!(events[2], wanted, "{:#}", events[2]);
    let start = &events[0];
    assert_eq!(start["inputs"][0]["name"], wanted["inputs"][0]["name"]);
    assert_eq!(start["inputs"][0]["facets"], json!({ "dataSource": source }), "nothing is known of it yet");
    assert_eq!(start["outputs"][0]["name"], wanted["outputs"][0]["name"]);
    assert_eq!(start["outputs"][0]["outputFacets"], json!({}));
}

#[tokio::test]
async fn a_stream_is_told_with_the_offsets_it_has_reached() {
    let dir = TempDir::new().unwrap();
    let settings = settings(dir.path());
    let pipeline = &settings.pipelines[0];
    let raw = TableName::new("raw", &pipeline.name);
    let landing = |sequence: u64, topic: String, ranges: &[(i32, i64, i64)]| {
        let tally = json!({ "landed": 1, "rejected": 0, "skipped": 0, "gaps": [] });
        let entries = ranges.iter().map(|(partition, from, to)| {
            let mut entry = tally.clone();
            (entry["partition"], entry["from"], entry["to"]) = (json!(partition), json!(from), json!(to));
            entry
        });
        json!({ "run_id": RUN_ID, "sequence": sequence, "pipeline": pipeline.name, "topic": topic, "dates": {},
            "partitions": entries.collect::<Vec<_>>() })
    };
    // the topic was made anew after the first commit
    wrote(&settings, &raw, 4, 1, landing(0, pipeline.topic.clone(), &[(0, 70, 90)]));
    let anew = format!("{}#1", pipeline.topic);
    wrote(&settings, &raw, 5, 9, landing(1, anew.clone(), &[(0, 2, 6), (3, 0, 4)]));
    wrote(&settings, &raw, 6, 2, landing(2, anew, &[(0, 6, 8)]));
    let facts = Facts { messages: BTreeMap::from([(pipeline.topic.clone(), 12)]), ..Facts::default() };
    let job = Job::new(Kind::Stream, RUN_ID, &settings).endless(true);
    let events = told(&settings, job, &Outcome::Abort, &facts).await;
    let end = &events[2];
    assert_eq!(end["eventType"], "ABORT");
    assert_eq!(end["job"]["facets"]["jobType"]["processingType"], "STREAMING");
    let topic = &end["inputs"][0];
    assert_eq!((&topic["namespace"], &topic["name"]), (&json!("kafka://broker:9092"), &json!(pipeline.topic)));
    let partitions = json!({ "0": { "from": 2, "next": 8 }, "3": { "from": 0, "next": 4 } });
    assert_eq!(topic["inputFacets"]["deltaworks_offsets"]["partitions"], partitions);
    assert_eq!(topic["inputFacets"]["inputStatistics"]["rowCount"], 12);
    assert_eq!(events[1]["inputs"][0]["inputFacets"]["deltaworks_offsets"]["partitions"], partitions, "while it runs");
    let out = &end["outputs"][0];
    assert_eq!(out["facets"]["version"]["datasetVersion"], "6");
    assert_eq!(out["outputFacets"]["outputStatistics"]["rowCount"], 12);
}

#[tokio::test]
async fn files_and_archives_are_told_by_where_they_lie() {
    let dir = TempDir::new().unwrap();
    let settings = settings(dir.path());
    let raw = TableName::new("raw", &settings.pipelines[0].name);
    settings.lake.witness.opened(&raw, 41, Some(&schema()));
    let job = Job::new(Kind::Fill, RUN_ID, &settings).of_files(vec!["s3://in/a/*.csv".to_owned()]);
    let facts = Facts { file_rows: Some(30), ..Facts::default() };
    let events = told(&settings, job, &Outcome::Complete, &facts).await;
    let read = &events[2]["inputs"][0];
    assert_eq!((&read["namespace"], &read["name"]), (&json!("s3://in"), &json!("a/*.csv")));
    assert_eq!(read["inputFacets"]["inputStatistics"]["rowCount"], 30);

    let job = Job::new(Kind::Archive, RUN_ID, &settings).archiving_to("s3://me:pw@cold/a");
    let kept = Kept { rows: 5, bytes: 50, files: 1 };
    let facts = Facts { kept, rows: BTreeMap::from([(raw, 5)]), ..Facts::default() };
    let events = told(&settings, job.clone(), &Outcome::Complete, &facts).await;
    for event in [&events[0], &events[2]] {
        let output = &event["outputs"][0];
        assert_eq!((&output["namespace"], &output["name"]), (&json!("s3://cold"), &json!("a")), "{event:#}");
    }
    assert_eq!(events[2]["outputs"][0]["outputFacets"]["outputStatistics"]["size"], 50);
    assert_eq!(events[2]["inputs"][0]["facets"]["version"]["datasetVersion"], "41");
    assert_eq!(events[2]["inputs"][0]["inputFacets"]["inputStatistics"]["rowCount"], 5);
    let events = told(&settings, job, &Outcome::Complete, &Facts::default()).await;
    assert_eq!(events[2]["outputs"], json!([]), "nothing was kept");
}

#[tokio::test]
async fn a_job_that_is_dropped_was_stopped() {
    let dir = TempDir::new().unwrap();
    let settings = settings(dir.path());
    let file = dir.path().join("lineage.jsonl");
    let teller = Arc::new(Teller::start(&Destination::File(file.clone())));
    drop(begin(&teller, &settings));
    assert_eq!(teller.end(Duration::from_secs(10)).await, Counts { told: 2, dropped: 0 });
    let types: Vec<Value> = lines(&file).iter().map(|event| event["eventType"].clone()).collect();
    assert_eq!(types, ["START", "ABORT"]);
}

#[tokio::test]
async fn a_key_that_events_are_sent_with_is_a_secret() {
    let dir = TempDir::new().unwrap();
    let settings = settings(dir.path());
    let file = dir.path().join("lineage.jsonl");
    let teller = Arc::new(Teller::start(&Destination::File(file.clone())));
    let headers = Options(BTreeMap::from([("authorization".to_owned(), "Bearer sesame-open".to_owned())]));
    let url = "http://marquez:5000".parse().unwrap();
    let to = LineageSettings { to: Some(Destination::Http { url, headers }), ..to_tests() };
    let job = Job::new(Kind::Batch, RUN_ID, &settings);
    let telling = Telling::begin(teller.clone(), job, &settings, &to, None, Clock::of(|| NOW_MS));
    assert!(!format!("{telling:?} {to:?}").contains("sesame"));
    telling.end(&Outcome::Fail("refused: sesame-open".to_owned()), &Facts::default());
    teller.end(Duration::from_secs(10)).await;
    assert_eq!(lines(&file)[1]["run"]["facets"]["errorMessage"]["message"], "refused: …");
}

#[tokio::test]
async fn a_failure_is_told_without_secrets() {
    let dir = TempDir::new().unwrap();
    let settings = settings(dir.path());
    let why = format!("lake: cannot reach `https://me:{SECRET}@host/x`: {SECRET} was refused");
    let job = Job::new(Kind::Reconcile, RUN_ID, &settings);
    let events = told(&settings, job, &Outcome::Fail(why), &Facts::default()).await;
    let error =
        json!({ "message": "lake: cannot reach `https://…@host/x`: … was refused", "programmingLanguage": "RUST" });
    assert_eq!(events[2]["eventType"], "FAIL");
    assert_eq!(events[2]["run"]["facets"]["errorMessage"], facet("1-0-1/ErrorMessageRunFacet", error));
    assert!(!events.iter().any(|event| event.to_string().contains(SECRET)));
}
