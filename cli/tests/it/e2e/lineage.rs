//! What a run on a real broker and a real store tells a service, and that no key of theirs is in it.

use super::support::{World, env};
use super::truth::Sender;
use crate::harness::endpoint::{Answer, Endpoint};
use crate::harness::openlineage::faults_of_runs;
use serde_json::{Value, json};
use std::process::Output;

const WRONG: &str = "not-the-secret-789";

fn told(service: &Endpoint) -> Vec<Value> {
    let heard = service.heard();
    let keys = [env("AWS_SECRET_ACCESS_KEY"), WRONG.to_owned()];
    assert!(heard.iter().all(|request| keys.iter().all(|key| !request.body.contains(key))));
    let events: Vec<Value> = heard.iter().map(|request| serde_json::from_str(&request.body).unwrap()).collect();
    assert_eq!(faults_of_runs(&events), Vec::<String>::new());
    events
}

/// The end of a job's run.
fn end<'e>(events: &'e [Value], job: &str) -> &'e Value {
    events.iter().rfind(|event| event["job"]["name"] == job).unwrap()
}

#[test]
#[ignore = "needs Kafka and MinIO: make e2e"]
fn lineage() {
    let world = World::new("lineage", 3, &[]).aggregate("avg_speed");
    let mut sender = Sender::new(&world, 3, 61);
    sender.send(600);
    sender.settle();
    let service = Endpoint::start(Answer::Status(201));
    let run = |args: &[&str], key: Option<&str>| -> Output {
        let mut command = world.command(args);
        command.env("OPENLINEAGE_URL", &service.url).envs(key.map(|key| ("AWS_SECRET_ACCESS_KEY", key)));
        command.output().unwrap()
    };
    let ran = run(&["run"], None);
    assert!(ran.status.success(), "{ran:?}");
    let events = told(&service);
    let landed = end(&events, "stream");
    assert_eq!(landed["eventType"], "COMPLETE");
    let broker = env("DELTAWORKS_KAFKA");
    let topic = &landed["inputs"][0];
    assert_eq!((&topic["namespace"], &topic["name"]), (&json!(format!("kafka://{broker}")), &json!(world.topic)));
    let bucket = format!("s3://{}", env("DELTAWORKS_S3_BUCKET"));
    let below = world.lake.strip_prefix(&format!("{bucket}/")).unwrap();
    let raw =
        landed["outputs"].as_array().unwrap().iter().find(|one| one["name"] == format!("{below}/raw/camera_events"));
    let raw = raw.unwrap_or_else(|| panic!("{landed:#}"));
    assert_eq!(raw["namespace"], bucket);
    assert_eq!(raw["outputFacets"]["outputStatistics"]["rowCount"], world.landed());
    let computed = end(&events, "batch");
    let version = |dataset: &Value| dataset["facets"]["version"]["datasetVersion"].clone();
    assert_eq!((&computed["inputs"][0]["name"], version(&computed["inputs"][0])), (&raw["name"], version(raw)));
    assert_eq!(end(&events, "prove")["run"]["facets"]["parent"]["run"], json!({ "runId": events[0]["run"]["runId"] }));

    let refused = run(&["batch"], Some(WRONG));
    assert!(!refused.status.success(), "{refused:?}");
    let events = told(&service);
    let failed = end(&events, "batch");
    let message = failed["run"]["facets"]["errorMessage"]["message"].as_str().unwrap();
    assert!(failed["eventType"] == "FAIL" && message.contains("403"), "{message}");
}
