//! `topics create`: the topics of the project's pipelines.

use super::{pick, settings};
use crate::args::{Global, Topics};
use crate::ending::Ending;
use deltaworks_jobs::kafka::admin::{Admin, Made, NewTopicSpec};
use deltaworks_jobs::{Class, Error, Result, Stage};
use serde_json::json;
use std::collections::BTreeMap;

/// Runs the verb.
pub async fn run(global: &Global, args: &Topics) -> Result<Ending> {
    let Topics::Create(args) = args;
    let settings = settings(global)?;
    let configs = args.configs.iter().map(|c| config(c)).collect::<Result<BTreeMap<_, _>>>()?;
    let mut topics: Vec<String> = pick(&settings, &args.pipelines)?.iter().map(|p| p.topic.clone()).collect();
    topics.sort();
    topics.dedup();
    if args.dry_run {
        return Ok(Ending::with(json!({ "status": "planned", "topics": topics, "partitions": args.partitions })));
    }
    let admin = Admin::open(&settings.kafka)?;
    let mut created = Vec::new();
    let mut present = Vec::new();
    for topic in topics {
        let spec = NewTopicSpec {
            name: topic.clone(),
            partitions: args.partitions,
            replication: args.replication,
            configs: configs.clone(),
        };
        match admin.create(&spec)? {
            Made::Created => created.push(topic),
            Made::Existed => present.push(topic),
        }
    }
    Ok(Ending::with(json!({ "status": "done", "created": created, "present": present })))
}

fn config(text: &str) -> Result<(String, String)> {
    text.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned())).ok_or_else(|| {
        Error::new(Stage::Kafka, Class::User, format!("`{text}` is no topic setting"))
            .hint("write e.g. retention.ms=86400000")
    })
}
