//! Holds events against OpenLineage 2-0-2: which fields an event and each of its facets has to have, and may have.
//!
//! Written down here by hand and stricter than the spec: what it leaves open, such as further fields, counts as a typing
//! error. Facets of our own begin with `deltaworks_`.

use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// What a value has to be.
#[derive(Debug, Clone, Copy)]
enum Is {
    Text,
    Number,
    Time,
    Uri,
    Uuid,
    Known(&'static [&'static str]),
    Object(Fields),
    List(Fields),
    Assertions,
    /// Columns, which have columns.
    Columns,
    /// Facets, by the place where they stand.
    Facets(&'static [Facet]),
}

/// Name, whether it must be there, and what it is.
type Fields = &'static [(&'static str, bool, Is)];
/// Key, version and name of the schema, and fields.
type Facet = (&'static str, &'static str, Fields);

const EVENT: Fields = &[
    ("eventType", true, Is::Known(&["START", "RUNNING", "COMPLETE", "ABORT", "FAIL", "OTHER"])),
    ("eventTime", true, Is::Time),
    ("producer", true, Is::Uri),
    ("schemaURL", true, Is::Known(&["https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"])),
    ("run", true, Is::Object(&[("runId", true, Is::Uuid), ("facets", false, Is::Facets(RUN))])),
    (
        "job",
        true,
        Is::Object(&[("namespace", true, Is::Text), ("name", true, Is::Text), ("facets", false, Is::Facets(JOB))]),
    ),
    (
        "inputs",
        false,
        Is::List(&[
            ("namespace", true, Is::Text),
            ("name", true, Is::Text),
            ("facets", false, Is::Facets(DATASET)),
            ("inputFacets", false, Is::Facets(INPUT)),
        ]),
    ),
    (
        "outputs",
        false,
        Is::List(&[
            ("namespace", true, Is::Text),
            ("name", true, Is::Text),
            ("facets", false, Is::Facets(DATASET)),
            ("outputFacets", false, Is::Facets(OUTPUT)),
        ]),
    ),
];

const RUN_ONLY: Fields = &[("runId", true, Is::Uuid)];
const JOB_ONLY: Fields = &[("namespace", true, Is::Text), ("name", true, Is::Text)];
const RUN: &[Facet] = &[
    (
        "errorMessage",
        "1-0-1/ErrorMessageRunFacet",
        &[("message", true, Is::Text), ("programmingLanguage", true, Is::Text), ("stackTrace", false, Is::Text)],
    ),
    (
        "nominalTime",
        "1-0-1/NominalTimeRunFacet",
        &[("nominalStartTime", true, Is::Time), ("nominalEndTime", false, Is::Time)],
    ),
    (
        "parent",
        "1-2-0/ParentRunFacet",
        &[
            ("run", true, Is::Object(RUN_ONLY)),
            ("job", true, Is::Object(JOB_ONLY)),
            ("root", false, Is::Object(&[("run", true, Is::Object(RUN_ONLY)), ("job", true, Is::Object(JOB_ONLY))])),
        ],
    ),
    (
        "processing_engine",
        "1-1-1/ProcessingEngineRunFacet",
        &[("version", true, Is::Text), ("name", false, Is::Text), ("openlineageAdapterVersion", false, Is::Text)],
    ),
];
const JOB: &[Facet] = &[(
    "jobType",
    "2-0-4/JobTypeJobFacet",
    &[
        ("processingType", true, Is::Known(&["BATCH", "STREAMING", "SERVICE"])),
        ("integration", true, Is::Text),
        ("jobType", false, Is::Text),
    ],
)];
const DATASET: &[Facet] = &[
    ("dataSource", "1-0-1/DatasourceDatasetFacet", &[("name", false, Is::Text), ("uri", false, Is::Uri)]),
    ("schema", "1-2-0/SchemaDatasetFacet", &[("fields", false, Is::Columns)]),
    ("version", "1-0-1/DatasetVersionDatasetFacet", &[("datasetVersion", true, Is::Text)]),
];
const STATISTICS: Fields =
    &[("rowCount", false, Is::Number), ("size", false, Is::Number), ("fileCount", false, Is::Number)];
const INPUT: &[Facet] = &[
    ("dataQualityAssertions", "1-1-0/DataQualityAssertionsDatasetFacet", &[("assertions", true, Is::Assertions)]),
    ("inputStatistics", "1-0-0/InputStatisticsInputDatasetFacet", STATISTICS),
];
const OUTPUT: &[Facet] = &[("outputStatistics", "1-0-2/OutputStatisticsOutputDatasetFacet", STATISTICS)];
const ASSERTION: Fields = &[
    ("assertion", true, Is::Text),
    ("success", true, Is::Known(&["true", "false"])),
    ("column", false, Is::Text),
    ("severity", false, Is::Text),
    ("name", false, Is::Text),
    ("description", false, Is::Text),
    ("expected", false, Is::Text),
    ("actual", false, Is::Text),
];
const COLUMN: Fields = &[("name", true, Is::Text), ("type", false, Is::Text), ("fields", false, Is::Columns)];

/// What is wrong with an event; nothing, if it is one.
pub fn faults(event: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    object("event", event, EVENT, &mut faults);
    faults
}

/// What is wrong with all events of some runs: each begins once, ends once, and says no more.
pub fn faults_of_runs(events: &[Value]) -> Vec<String> {
    let mut faults: Vec<String> = events.iter().flat_map(faults_in).collect();
    let mut runs: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for event in events {
        let run = event["run"]["runId"].as_str().unwrap_or_default();
        runs.entry(run).or_default().push(event["eventType"].as_str().unwrap_or_default());
    }
    for (run, types) in runs {
        let ends = |of: &&str| ["COMPLETE", "ABORT", "FAIL"].contains(of);
        let [first, between @ .., last] = types.as_slice() else {
            faults.push(format!("run {run} has {types:?} only"));
            continue;
        };
        if *first != "START" || !ends(last) || between.iter().any(|of| *of != "RUNNING") {
            faults.push(format!("run {run} has {types:?}"));
        }
    }
    faults
}

fn faults_in(event: &Value) -> Vec<String> {
    faults(event).into_iter().map(|fault| format!("{fault}, in {event}")).collect()
}

fn object(at: &str, value: &Value, fields: Fields, faults: &mut Vec<String>) {
    let Some(object) = value.as_object() else {
        faults.push(format!("{at} is no object"));
        return;
    };
    for (name, needed, is) in fields {
        match object.get(*name) {
            Some(value) => one(&format!("{at}.{name}"), value, *is, faults),
            None if *needed => faults.push(format!("{at} has no `{name}`")),
            None => {}
        }
    }
    let known = |name: &str| fields.iter().any(|(known, ..)| *known == name);
    faults.extend(object.keys().filter(|name| !known(name)).map(|name| format!("{at} has `{name}`")));
}

fn list(at: &str, value: &Value, fields: Fields, faults: &mut Vec<String>) {
    match value.as_array() {
        Some(all) => all.iter().enumerate().for_each(|(n, one)| object(&format!("{at}[{n}]"), one, fields, faults)),
        None => faults.push(format!("{at} is no list")),
    }
}

fn one(at: &str, value: &Value, is: Is, faults: &mut Vec<String>) {
    let text = value.as_str();
    let right = match is {
        Is::Text => text.is_some_and(|text| !text.is_empty()),
        Is::Number => value.is_u64(),
        Is::Time => text.is_some_and(|text| text.parse::<jiff::Timestamp>().is_ok()),
        Is::Uri => text.is_some_and(is_uri),
        Is::Uuid => text.is_some_and(is_uuid),
        Is::Known(known) => known.contains(&text.map_or_else(|| value.to_string(), str::to_owned).as_str()),
        Is::Object(fields) => return object(at, value, fields, faults),
        Is::List(fields) => return list(at, value, fields, faults),
        Is::Assertions => return list(at, value, ASSERTION, faults),
        Is::Columns => return list(at, value, COLUMN, faults),
        Is::Facets(known) => return facets(at, value, known, faults),
    };
    if !right {
        faults.push(format!("{at} is {value}, not {is:?}"));
    }
}

fn facets(at: &str, value: &Value, known: &[Facet], faults: &mut Vec<String>) {
    let Some(all) = value.as_object() else {
        faults.push(format!("{at} is no object"));
        return;
    };
    for (key, value) in all {
        let at = format!("{at}.{key}");
        let mut body = value.as_object().cloned().unwrap_or_default();
        let (producer, schema) = (take(&mut body, "_producer"), take(&mut body, "_schemaURL"));
        one(&format!("{at}._producer"), &producer, Is::Uri, faults);
        one(&format!("{at}._schemaURL"), &schema, Is::Uri, faults);
        match known.iter().find(|(known, ..)| known == key) {
            Some((_, version, fields)) => {
                let name = version.split('/').nth(1).unwrap();
                let wanted = format!("https://openlineage.io/spec/facets/{version}.json#/$defs/{name}");
                if schema != wanted {
                    faults.push(format!("{at} is {schema}, not {wanted}"));
                }
                object(&at, &Value::Object(body), fields, faults);
            }
            None if key.starts_with("deltaworks_") => {}
            None => faults.push(format!("{at} is not known")),
        }
    }
}

fn take(body: &mut Map<String, Value>, key: &str) -> Value {
    body.remove(key).unwrap_or_default()
}

fn is_uri(text: &str) -> bool {
    let is_scheme = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
    text.split_once(':').is_some_and(|(scheme, rest)| {
        !scheme.is_empty()
            && scheme.chars().all(is_scheme)
            && !rest.is_empty()
            && rest.chars().all(|c| c.is_ascii_graphic())
    })
}

fn is_uuid(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
    lengths == [8, 4, 4, 4, 12] && parts.concat().chars().all(|c| c.is_ascii_hexdigit())
}
