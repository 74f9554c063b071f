//! What commands tell of themselves: from outside, into a file, to a service, and to one that is away.

use crate::harness::endpoint::{Answer, Endpoint};
use crate::harness::openlineage::{faults, faults_of_runs};
use crate::harness::project::{CATCH_UP, Knobs, TOPIC};
use crate::harness::{Child, Ended, Event, Feed, MockBroker, Project, Rng, wait_until};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const PARTITIONS: i32 = 4;
const SECRET: &str = "hunter2hunter2";
/// Tells into a file.
const FILE: &str = "lineage: { file: lineage.jsonl, namespace: tests }";
/// What a command may take longer than without lineage, as README promises.
const DELAY_MAX: Duration = Duration::from_secs(2);
/// For a machine under load.
const SLACK: Duration = Duration::from_secs(6);

const AGGREGATE: &str = "-- aggregate: totals
-- grain: one row per residue and window
-- from: events
-- windows: [5m, 1h, 1d]
-- timezone: Europe/Kyiv
SELECT value % 3 AS residue, sum(value) AS total, count(*) AS n FROM events GROUP BY value % 3
";

/// A project that says `lineage`, and has something to land.
fn begin(lineage: &'static str) -> (MockBroker, Project) {
    let broker = MockBroker::start(TOPIC, PARTITIONS);
    let top = vec!["aggregates: [totals.sql]", lineage];
    let knobs = Knobs { top, pipeline: vec!["lateness: 1h"], ..Knobs::default() };
    let project = Project::with(&broker, &knobs);
    project.put("totals.sql", AGGREGATE);
    Feed::new().send(&broker, PARTITIONS, &Event::mix(&mut Rng(7), 200, 10));
    (broker, project)
}

fn file(project: &Project) -> PathBuf {
    project.path().join("lineage.jsonl")
}

/// What was told so far.
fn lines(project: &Project) -> Vec<Value> {
    let text = std::fs::read_to_string(file(project)).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

/// What runs that have ended told; the file is taken away.
#[track_caller]
fn told(project: &Project) -> Vec<Value> {
    let events = lines(project);
    let _ = std::fs::remove_file(file(project));
    assert_eq!(faults_of_runs(&events), Vec::<String>::new());
    events
}

/// Runs a verb with more variables.
fn run_with(project: &Project, args: &[&str], variables: &[(&str, &str)]) -> Ended {
    let mut command = project.command(args);
    command.envs(variables.iter().copied());
    Child::start(command).wait()
}

fn types(events: &[Value]) -> Vec<String> {
    let of = |event: &Value| format!("{} {}", event["job"]["name"], event["eventType"]).replace('"', "");
    events.iter().map(of).collect()
}

/// The dataset of a table, among inputs or outputs.
#[track_caller]
fn dataset<'e>(event: &'e Value, side: &str, table: &str) -> &'e Value {
    let all = event[side].as_array().unwrap();
    let found = all.iter().find(|one| one["name"].as_str().unwrap().ends_with(table));
    found.unwrap_or_else(|| panic!("no `{table}` among the {side} of {event:#}"))
}

fn version(dataset: &Value) -> i64 {
    dataset["facets"]["version"]["datasetVersion"].as_str().unwrap().parse().unwrap()
}

#[test]
fn each_job_tells_what_it_read_and_wrote() {
    let (_broker, project) = begin(FILE);
    let landed = project.run(&CATCH_UP).expect(0).result();
    let events = told(&project);
    assert_eq!(types(&events), ["stream START", "stream COMPLETE"]);
    let [start, end] = events.as_slice() else { panic!("{events:#?}") };
    assert_eq!(start["run"]["runId"], landed["run_id"]);
    assert_eq!(start["job"]["namespace"], "tests");
    let topic = dataset(end, "inputs", TOPIC);
    assert!(topic["namespace"].as_str().unwrap().starts_with("kafka://127.0.0.1:"), "{topic}");
    let read = &landed["pipelines"]["events"];
    let next: Map<String, Value> = read["next"].as_object().unwrap().clone();
    let of = |(partition, next): (String, Value)| {
        let offsets = json!({ "from": read["first"][&partition], "next": next });
        (partition, offsets)
    };
    assert_eq!(topic["inputFacets"]["deltaworks_offsets"]["partitions"], next.into_iter().map(of).collect::<Value>());
    let raw = dataset(end, "outputs", "raw/events");
    assert_eq!(raw["namespace"], "file");
    assert_eq!(version(raw), landed["pipelines"]["events"]["version"].as_i64().unwrap());
    let rows = &raw["outputFacets"]["outputStatistics"]["rowCount"];
    assert_eq!(*rows, landed["pipelines"]["events"]["landed"]);

    let computed = project.run(&["batch"]).expect(0).result();
    assert!(computed["units"]["changed"].as_u64().unwrap() > 0, "{computed}");
    let events = told(&project);
    assert_eq!(types(&events), ["batch START", "batch COMPLETE"]);
    let read = dataset(&events[1], "inputs", "raw/events");
    assert_eq!(version(read), version(raw));
    assert_eq!(read["inputFacets"]["inputStatistics"]["rowCount"], computed["rows"]);
    let batch = dataset(&events[1], "outputs", "batch/totals");
    assert!(
        version(batch) > 0 && batch["outputFacets"]["outputStatistics"]["rowCount"].as_u64().unwrap() > 0,
        "{batch}"
    );
    assert!(batch["facets"]["schema"]["fields"].as_array().unwrap().iter().any(|field| field["name"] == "total"));
    assert!(!events.iter().any(|event| event.to_string().contains("/ops/")), "{events:#?}");

    project.run(&["batch", "--dry-run"]).expect(0);
    project.run(&["query", "SELECT 1"]).expect(0);
    assert_eq!(types(&told(&project)), Vec::<String>::new(), "these write nothing");
}

#[test]
fn the_version_is_the_one_that_was_read_and_not_the_newest() {
    let (broker, project) = begin(FILE);
    let raw = |ended: Ended| ended.expect(0).pipeline()["version"].as_i64().unwrap();
    let older = raw(project.catch_up());
    Feed::new().send(&broker, PARTITIONS, &Event::mix(&mut Rng(8), 50, 10));
    assert!(raw(project.catch_up()) > older);
    told(&project);
    project.run(&["batch", "--input-version", &older.to_string()]).expect(0);
    assert_eq!(version(dataset(&told(&project)[1], "inputs", "raw/events")), older);
}

#[test]
fn a_run_is_the_parent_of_its_steps() {
    let (_broker, project) = begin(FILE);
    let run_of = |name: &str| format!("dags/{name}/01890a5d-ac96-774b-bcce-b302099a8057");
    let (parent, root) = (run_of("nightly.land"), run_of("nightly"));
    let variables = [("OPENLINEAGE_PARENT_ID", parent.as_str()), ("OPENLINEAGE_ROOT_PARENT_ID", root.as_str())];
    let ran = run_with(&project, &["run", "--partitions", "0-3"], &variables).expect(0).result();
    let events = told(&project);
    let wanted = [
        "run START",
        "stream START",
        "stream COMPLETE",
        "batch START",
        "batch COMPLETE",
        "reconcile START",
        "reconcile COMPLETE",
        "prove START",
        "prove COMPLETE",
        "run COMPLETE",
    ];
    assert_eq!(types(&events), wanted);
    let run_id = &events[0]["run"]["runId"];
    assert_eq!(run_id, &ran["run_id"]);
    for event in [&events[0], &events[9]] {
        assert_eq!(event["run"]["facets"]["parent"]["job"], json!({ "namespace": "dags", "name": "nightly.land" }));
    }
    for event in &events {
        assert_eq!(event["run"]["facets"]["parent"]["root"]["job"]["name"], "nightly", "{event:#}");
    }
    for event in &events[1..9] {
        let parent = &event["run"]["facets"]["parent"];
        assert_eq!((&parent["run"]["runId"], &parent["job"]["name"]), (run_id, &json!("run")), "{event:#}");
    }
    let runs: BTreeSet<&str> = events.iter().map(|event| event["run"]["runId"].as_str().unwrap()).collect();
    assert_eq!(runs.len(), 5);
    assert!(version(dataset(&events[6], "outputs", "served/totals")) > 0);
}

#[test]
fn a_failure_has_the_text_of_its_error() {
    let (_broker, project) = begin(FILE);
    project.run(&CATCH_UP).expect(0);
    told(&project);
    let failed = project.run(&["batch", "--input-version", "9999"]).expect(2);
    assert!(failed.result()["error"].as_str().unwrap().contains("9999"));
    let events = told(&project);
    assert_eq!(types(&events), ["batch START", "batch FAIL"]);
    assert_eq!(events[1]["run"]["facets"]["errorMessage"]["message"], failed.result()["error"]);
}

#[test]
fn a_rule_that_is_breached_is_an_assertion_that_failed() {
    let (_broker, project) = begin(FILE);
    let properties = "    properties:\n";
    let rule = "    quality:\n      - {id: many, metric: rowCount, mustBeGreaterThan: 100000, severity: warning}\n";
    project.deploy(&crate::harness::events::CONTRACT.replacen(properties, &format!("{rule}{properties}"), 1));
    project.run(&CATCH_UP).expect(0);
    told(&project);
    let judged = project.run(&["quality", "run"]).expect(0).result();
    assert!(judged["dates"].as_u64().unwrap() > 0);
    let events = told(&project);
    assert_eq!(types(&events), ["quality.run START", "quality.run COMPLETE"]);
    let raw = dataset(&events[1], "inputs", "raw/events");
    let assertion = &raw["inputFacets"]["dataQualityAssertions"]["assertions"][0];
    assert_eq!((&assertion["name"], &assertion["success"]), (&json!("many"), &json!(false)), "{assertion}");
    assert_eq!(assertion["assertion"], "row_count");
    let rows = project.rows("SELECT count(*) AS n FROM raw.events")[0]["n"].clone();
    assert_eq!(raw["inputFacets"]["inputStatistics"]["rowCount"], rows);
}

#[test]
fn a_stream_that_goes_on_tells_so_and_is_aborted_by_a_signal() {
    let (_broker, project) = begin("lineage: { file: lineage.jsonl, every: 200ms }");
    let child = project.start(&["stream", "--partitions", "0-3"]);
    let landed = |event: &Value| event["outputs"][0]["outputFacets"]["outputStatistics"]["rowCount"].as_u64() > Some(0);
    wait_until("an event while it goes on", || {
        lines(&project).iter().any(|event| event["eventType"] == "RUNNING" && landed(event))
    });
    child.signal("TERM");
    child.wait().expect(143);
    let events = told(&project);
    assert_eq!(types(&events).first().unwrap(), "stream START");
    assert_eq!(types(&events).last().unwrap(), "stream ABORT");
    assert_eq!(events[0]["job"]["facets"]["jobType"]["processingType"], "STREAMING");
}

#[test]
fn files_and_archives_are_datasets_too() {
    let (_broker, project) = begin(FILE);
    project.run(&CATCH_UP).expect(0);
    std::fs::create_dir(project.path().join("in")).unwrap();
    let more: Vec<Event> = (0..20).map(|n| Event::good(&mut Rng(1_000 + n), 2)).collect();
    let text: Vec<u8> = more.iter().flat_map(|e| [e.payload.as_deref().unwrap(), b"\n"].concat()).collect();
    std::fs::write(project.path().join("in/more.jsonl"), text).unwrap();
    told(&project);
    let pattern = project.path().join("in/*.jsonl");
    let create = ["backfill", "create", "events", "--from", "files", "--path", pattern.to_str().unwrap()];
    project.run(&create).expect(0);
    let events = told(&project);
    assert_eq!(types(&events), ["backfill START", "backfill COMPLETE"]);
    let read = dataset(&events[1], "inputs", "in/*.jsonl");
    assert_eq!((&read["namespace"], &read["inputFacets"]["inputStatistics"]["rowCount"]), (&json!("file"), &json!(20)));
    let raw = dataset(&events[1], "outputs", "raw/events");
    assert_eq!(raw["outputFacets"]["outputStatistics"]["rowCount"], 20);

    let url = format!("file://{}", project.path().join("cold").display());
    let archive = ["tables", "archive", "raw.events", "--before", "2024-03-02", "--to", &url];
    let archived = project.run(&archive).expect(0).result();
    let events = told(&project);
    assert_eq!(types(&events), ["tables.archive START", "tables.archive COMPLETE"]);
    let kept = &dataset(&events[1], "outputs", "/cold")["outputFacets"]["outputStatistics"];
    assert_eq!((&kept["rowCount"], &kept["size"]), (&archived["dates"][0]["rows"], &archived["dates"][0]["bytes"]));
    assert_eq!(version(dataset(&events[1], "inputs", "raw/events")), version(raw));

    let retain = ["tables", "retain", "raw.events", "--before", "2024-03-02", "--archived-to", &url, "--force"];
    project.run(&retain).expect(0);
    told(&project);
    let days = ["--interval-start", "2024-03-01T00:00:00Z", "--interval-end", "2024-03-02T00:00:00Z"];
    let create = [&["backfill", "create", "events", "--from", "archive", "--path", &url], &days[..]].concat();
    project.run(&create).expect(0);
    let events = told(&project);
    assert_eq!(types(&events), ["backfill START", "backfill COMPLETE"]);
    dataset(&events[1], "inputs", "/cold");
    let raw = dataset(&events[1], "outputs", "raw/events");
    assert_eq!(raw["outputFacets"]["outputStatistics"]["rowCount"], archived["dates"][0]["rows"]);
}

#[test]
fn a_range_of_a_topic_is_an_input_of_its_backfill() {
    let (_broker, project) = begin(FILE);
    // it begins behind all that there is
    project.run(&[&CATCH_UP[..], &["--start", "latest"]].concat()).expect(0);
    told(&project);
    let create = ["backfill", "create", "events", "--from", "kafka", "--partition", "0-3", "--from-offset", "0"];
    let filled = project.run(&create).expect(0).result();
    assert!(filled["landed"].as_u64() > Some(100), "{filled}");
    let events = told(&project);
    assert_eq!(types(&events), ["backfill START", "backfill COMPLETE"]);
    assert!(dataset(&events[1], "inputs", TOPIC)["namespace"].as_str().unwrap().starts_with("kafka://127.0.0.1:"));
    let raw = dataset(&events[1], "outputs", "raw/events");
    assert_eq!(raw["outputFacets"]["outputStatistics"]["rowCount"], filled["landed"]);
}

/// Lets the project tell a service, or nobody.
fn tell(project: &Project, lineage: &str) {
    let file = project.path().join("deltaworks.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    let lines = text.lines().map(|line| if line.starts_with("lineage:") { lineage } else { line });
    std::fs::write(&file, lines.collect::<Vec<_>>().join("\n")).unwrap();
}

/// Ends as it would without lineage, a little later at most, and says at most once why nobody was told.
#[track_caller]
fn holds_no_command(project: &Project, lineage: &str, warnings: usize) {
    for (args, code) in [(&["batch"][..], 0), (&["batch", "--input-version", "9999"][..], 2)] {
        tell(project, "lineage: {}");
        let began = Instant::now();
        let alone = project.run(args).expect(code);
        let alone_for = began.elapsed();
        tell(project, lineage);
        let began = Instant::now();
        let ended = project.run(args).expect(code);
        let delay = began.elapsed().saturating_sub(alone_for);
        eprintln!("{lineage}: {args:?} took {delay:?} longer than {alone_for:?}");
        assert!(delay < DELAY_MAX + SLACK, "{delay:?} more than {alone_for:?}");
        let without_run = |ended: &Ended| {
            let mut result = ended.result();
            result["run_id"].take();
            result
        };
        assert_eq!(without_run(&ended), without_run(&alone));
        let of_lineage = ended.stderr.lines().filter(|line| line.contains("lineage"));
        assert_eq!(of_lineage.count(), warnings, "{}", ended.stderr);
        assert!(!ended.stderr.contains(SECRET) && !ended.stdout.contains(SECRET));
    }
}

#[test]
fn a_service_that_is_away_holds_no_command() {
    let (_broker, project) = begin("lineage: {}");
    project.run(&CATCH_UP).expect(0);
    project.run(&["batch"]).expect(0);
    let soon = Duration::from_millis(200);
    let answers = [
        (Answer::Status(201), 0),
        (Answer::Late(soon), 0),
        (Answer::Status(500), 1),
        (Answer::Status(403), 1),
        (Answer::Silence, 1),
        (Answer::Drip, 1),
        (Answer::Nothing, 1),
        (Answer::Late(10 * DELAY_MAX), 1),
    ];
    for (answer, warnings) in answers {
        let service = Endpoint::start(answer);
        eprintln!("{answer:?}");
        holds_no_command(&project, &format!("lineage: {{ url: \"{}\", api_key: {SECRET} }}", service.url), warnings);
        let heard = service.heard();
        assert!(heard.iter().any(|request| request.body.contains("\"START\"")), "{answer:?} was not asked");
    }
    // a port where nobody is
    holds_no_command(&project, &format!("lineage: {{ url: \"http://127.0.0.1:1\", api_key: {SECRET} }}"), 1);
    std::fs::create_dir(project.path().join("folder")).unwrap();
    holds_no_command(&project, "lineage: { file: folder }", 1);
    let locked = std::fs::File::create(file(&project)).unwrap();
    locked.lock().unwrap();
    holds_no_command(&project, "lineage: { file: lineage.jsonl }", 1);
}

#[test]
fn the_variables_of_other_clients_are_followed() {
    let (_broker, project) = begin("served: { every: 10s }");
    project.run(&CATCH_UP).expect(0);
    let service = Endpoint::start(Answer::Status(201));
    let mut variables = vec![
        ("OPENLINEAGE_URL", service.url.as_str()),
        ("OPENLINEAGE_API_KEY", SECRET),
        ("OPENLINEAGE_NAMESPACE", "theirs"),
        ("DELTAWORKS_LOG", "trace"),
    ];
    let ended = run_with(&project, &["batch"], &variables).expect(0);
    assert!(!ended.stderr.contains(SECRET) && !ended.stdout.contains(SECRET));
    let heard = service.heard();
    assert!(heard.iter().all(|request| {
        request.head.starts_with("POST /api/v1/lineage ")
            && request.head.contains(&format!("authorization: Bearer {SECRET}\r\n"))
            && request.head.contains("content-type: application/json\r\n")
    }));
    let events: Vec<Value> = heard.iter().map(|request| serde_json::from_str(&request.body).unwrap()).collect();
    assert_eq!(types(&events), ["batch START", "batch COMPLETE"]);
    assert_eq!(faults_of_runs(&events), Vec::<String>::new());
    assert_eq!(events[0]["job"]["namespace"], "theirs");

    variables.push(("OPENLINEAGE_DISABLED", "true"));
    run_with(&project, &["batch"], &variables).expect(0);
    assert_eq!(service.heard().len(), 2, "nobody is told");
    let url = format!("http://me:{SECRET}@127.0.0.1:1");
    let ended = run_with(&project, &["batch"], &[("OPENLINEAGE_URL", &url)]).expect(0);
    assert!(ended.stderr.contains("`OPENLINEAGE_URL` has more than host, port and path"), "{}", ended.stderr);
    assert!(!ended.stderr.contains(SECRET));
}

#[test]
fn an_event_that_is_none_is_found_out() {
    let (_broker, project) = begin(FILE);
    project.run(&CATCH_UP).expect(0);
    let events = told(&project);
    let whole = &events[1];
    assert_eq!(faults(whole), Vec::<String>::new());
    for (at, value) in [
        ("/eventType", json!("DONE")),
        ("/eventTime", json!("today")),
        ("/producer", Value::Null),
        ("/run/runId", json!("7")),
        ("/job", json!({})),
        ("/outputs", json!([{}])),
        ("/outputs/0/facets/version", json!({})),
        ("/outputs/0/facets/version/_schemaURL", json!("https://h/x.json")),
        ("/outputs/0/facets/schema/fields", json!([{ "nome": "a" }])),
        ("/outputs/0/outputFacets/outputStatistics/rowCount", json!("1")),
        ("/inputs/0/facets/dataSource/uri", json!("no uri")),
    ] {
        let mut broken = whole.clone();
        *broken.pointer_mut(at).unwrap_or_else(|| panic!("no {at} in {whole:#}")) = value;
        assert!(!faults(&broken).is_empty(), "{at} was not missed");
    }
    let twice = [events.as_slice(), &events[1..]].concat();
    assert!(faults_of_runs(&events[..1]).len() == 1 && faults_of_runs(&twice).len() == 1);
}
