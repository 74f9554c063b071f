//! Whole projects: every rule by one that breaks it, and what a good one becomes.
//!
//! `fixtures/bad/<rule>/` holds a project and, in `expected.txt`, all that must be said about it.
//! With `UPDATE_FIXTURES=1` the files are written anew, for a look at their diff.

use super::contract::{BoundValue, Kind, Source, TimestampForm};
use super::settings::{Destination, EventTime, ExtraFields, LookupFormat, RejectsLimit, Settings, Tombstones};
use super::{aggregate_file, check, find, load};
use crate::error::Class;
use deltaworks_core::drift::Limit;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

const SECRET: &str = "hunter2";

fn env(name: &str) -> Option<String> {
    match name {
        "SECRET" => Some(SECRET.to_owned()),
        "INJECTION" => Some("events\n    lateness: 2h".to_owned()),
        _ => None,
    }
}

fn fixtures(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures").join(name)
}

#[test]
fn every_bad_project_is_told_what_is_wrong() {
    let update = std::env::var_os("UPDATE_FIXTURES").is_some();
    let mut wrong = BTreeMap::new();
    let mut seen = 0;
    for entry in std::fs::read_dir(fixtures("bad")).unwrap() {
        let dir = entry.unwrap().path();
        let said = format!("{}\n", check(&dir, &env).diagnostics);
        assert_ne!(said, "\n", "{} is not bad", dir.display());
        assert!(!said.contains(SECRET), "{} shows a secret:\n{said}", dir.display());
        assert_eq!(format!("{}\n", load(&dir, &env).unwrap_err()), said, "check and load differ");
        if update {
            std::fs::write(dir.join("expected.txt"), &said).unwrap();
        }
        let expected = std::fs::read_to_string(dir.join("expected.txt")).unwrap_or_default();
        if said != expected {
            wrong.insert(dir, format!("expected:\n{expected}said:\n{said}"));
        }
        seen += 1;
    }
    assert!(seen >= 100, "only {seen} fixtures were found");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn good(name: &str) -> Settings {
    load(&fixtures("good").join(name), &env).unwrap_or_else(|report| panic!("{report}"))
}

#[test]
fn what_is_left_out_has_defaults() {
    let settings = good("least");
    let p = &settings.pipelines[0];
    assert_eq!(settings.memory_bytes, 256 << 20);
    assert_eq!((p.name.as_str(), p.group.as_str()), ("events", "deltaworks.events"));
    assert_eq!((p.lateness, p.idle_after), (Duration::from_secs(3_600), Duration::from_secs(300)));
    assert_eq!((p.max_ahead, p.event_time_min_us), (Duration::from_secs(300), None));
    assert_eq!((p.extra_fields, p.tombstones), (ExtraFields::Ignore, Tombstones::Reject));
    assert_eq!((p.repeat_rows, p.message_bytes_max, p.depth_max), (100_000, 8 << 20, 64));
    assert_eq!((p.commit.every, p.commit.bytes, p.commit.rows), (Duration::from_secs(60), 128 << 20, 1_000_000));
    assert_eq!((p.rejects.limit, p.rejects.retention_days), (None, 30));
    assert!(!p.contract.personal);
}

#[test]
fn what_is_given_is_used() {
    let settings = good("full");
    assert_eq!(settings.memory_bytes, 512 << 20);
    assert_eq!(settings.kafka.0["sasl.password"], SECRET);
    assert_eq!(settings.kafka.0["socket.timeout.ms"], "5000");
    assert_eq!(settings.lake.storage.0["aws_allow_http"], "true");
    assert!(!settings.lake.storage.0.contains_key("aws_region"));
    assert!(!format!("{settings:?}").contains(SECRET));
    assert_eq!(settings.pipelines.iter().map(|p| p.name.as_str()).collect::<Vec<_>>(), ["zebra", "apes"]);
    let p = &settings.pipelines[0];
    assert_eq!((p.topic.as_str(), p.group.as_str()), ("zoo.zebra", "mine"));
    assert_eq!(p.event_time, EventTime::Field(vec!["meta".to_owned(), "at".to_owned()]));
    assert_eq!((p.lateness, p.event_time_min_us), (Duration::from_secs(86_400), Some(1_420_070_400_000_000)));
    assert_eq!((p.extra_fields, p.tombstones), (ExtraFields::Keep, Tombstones::Skip));
    assert_eq!(p.partition_by, ["region"]);
    assert_eq!((p.commit.every, p.commit.rows), (Duration::from_secs(10), 5));
    assert_eq!((p.rejects.limit, p.rejects.retention_days), (Some(RejectsLimit::Share(0.01)), 7));
    let source = |name: &str| p.contract.columns.iter().find(|c| c.name == name).unwrap().source.clone();
    assert_eq!(source("key"), Source::Key);
    assert_eq!(source("trace"), Source::Header("trace-id".to_owned()));
    assert_eq!(source("kafka_partition"), Source::Partition);
    assert_eq!(source("region"), Source::Field);
    assert_eq!(settings.pipelines[1].event_time, EventTime::KafkaTime);
    assert_eq!(settings.pipelines[1].rejects.limit, Some(RejectsLimit::Count(500)));
}

#[test]
fn lineage_goes_where_it_says() {
    let settings = good("full");
    let lineage = settings.lineage.unwrap();
    assert_eq!((lineage.namespace.as_str(), lineage.every), ("zoo", Duration::from_secs(90)));
    let Some(Destination::Http { url, headers }) = lineage.to else { panic!("{:?}", lineage.to) };
    assert_eq!(url.as_str(), "https://marquez.example:5000/api/v1/lineage");
    let names: Vec<(&str, &str)> = headers.0.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(names, [("authorization", "Bearer hunter2"), ("x-team", "zoo")]);
    assert!(good("least").lineage.is_none());
}

#[test]
fn aggregates_and_lookups_are_read() {
    let settings = good("full");
    let [legs] = settings.aggregates.as_slice() else { panic!("one aggregate") };
    assert_eq!((legs.name.as_str(), legs.from.as_str()), ("legs", "zebra"));
    assert_eq!(legs.windows.iter().map(ToString::to_string).collect::<Vec<_>>(), ["30s", "1h", "1mo"]);
    assert_eq!((legs.zone.name(), legs.redefine_days), (Some("Europe/Kyiv"), 14));
    assert!(!legs.speed);
    assert_eq!(legs.drift_limit, Limit { unexplained: 3, size: Some(0.2) });
    assert_eq!(legs.grain, "one row per window and name of the feeder");
    assert!(legs.sql.contains("avg(legs)"));
    let [keepers] = settings.lookups.as_slice() else { panic!("one lookup") };
    assert_eq!((keepers.name.as_str(), keepers.key.as_str()), ("keepers", "id"));
    assert_eq!(keepers.format, LookupFormat::Csv);
    assert!(keepers.path.is_absolute() && keepers.path.ends_with("keepers.csv"));
}

#[test]
fn an_aggregate_can_be_read_alone() {
    let settings = good("full");
    let path = fixtures("good/full/legs.sql");
    assert_eq!(aggregate_file(&settings, &path).unwrap().name, "legs");
    let missing = aggregate_file(&settings, &fixtures("none.sql")).unwrap_err().to_string();
    assert!(missing.contains("none.sql:1:1: cannot be read: "), "{missing}");
    let bad = aggregate_file(&settings, &fixtures("bad/aggregate_no_header/sql/per_hour.sql")).unwrap_err();
    assert!(bad.to_string().contains("the file has no header"), "{bad}");
}

#[test]
fn every_type_of_a_contract_is_read() {
    let settings = good("full");
    let contract = &settings.pipelines[0].contract;
    assert!(contract.personal);
    assert_eq!(contract.retention_days, Some(730));
    assert_eq!(contract.id_column().unwrap().name, "id");
    let column = |name: &str| contract.columns.iter().find(|c| c.name == name).unwrap();
    assert!(matches!(column("price").kind, Kind::Decimal { precision: 10, scale: 2 }));
    assert_eq!(column("price").rules.minimum.unwrap().value, BoundValue::Unscaled(-150));
    assert_eq!(column("price").rules.maximum.unwrap().value, BoundValue::Unscaled(99_999_999));
    assert!(column("price").rules.maximum.unwrap().exclusive);
    assert!(matches!(column("ratio").kind, Kind::Float));
    assert!(matches!(column("mean").kind, Kind::Double));
    assert!(matches!(column("born").kind, Kind::Date));
    assert_eq!(column("born").rules.minimum.unwrap().value, BoundValue::Integer(-1));
    assert_eq!(column("legs").rules.maximum.unwrap().value, BoundValue::Integer(127));
    assert_eq!(column("legs").rules.minimum.unwrap().value, BoundValue::Integer(0));
    assert!(matches!(column("raw").kind, Kind::Json));
    assert!(matches!(&column("seen").kind, Kind::Timestamp(TimestampForm::EpochMillis)));
    assert!(matches!(&column("fed").kind, Kind::Timestamp(TimestampForm::Format { format, zone: Some(z) })
        if format == "%d.%m.%Y %H:%M" && z.iana_name() == Some("Europe/Kyiv")));
    assert!(matches!(&column("iso").kind, Kind::Timestamp(TimestampForm::Rfc3339 { zone: None })));
    assert!(matches!(&column("local").kind, Kind::Timestamp(TimestampForm::Rfc3339 { zone: Some(_) })));
    let Kind::Array(item) = &column("keepers").kind else { panic!("not an array") };
    let Kind::Object(fields) = &item.kind else { panic!("not an object") };
    assert_eq!((fields[0].name.as_str(), fields[0].required), ("name", true));
    assert_eq!(column("keepers").rules.length_max, Some(3));
    let pattern = column("id").rules.pattern.as_ref().unwrap();
    assert!(
        pattern.is_match("ab") && !pattern.is_match("abc") && !pattern.is_match("ab\n"),
        "the whole text must match"
    );
}

#[test]
fn the_project_is_found_from_below() {
    let folder = tempfile::tempdir().unwrap();
    let below = folder.path().join("a/b");
    std::fs::create_dir_all(&below).unwrap();
    let error = find(&below).unwrap_err();
    assert_eq!(error.class, Class::User);
    assert!(error.hint.unwrap().contains("deltaworks init"));
    std::fs::write(folder.path().join("deltaworks.yaml"), "").unwrap();
    assert_eq!(find(&below).unwrap(), folder.path());
}

mod mutations {
    use super::super::diagnostics::Sink;
    use super::super::odcs;
    use proptest::prelude::*;
    use std::path::Path;

    const CONTRACT: &str = include_str!("../../../fixtures/good/full/zebra.odcs.yaml");

    proptest! {
        /// Whatever a contract is mutilated to, it is read or refused with a place inside the file.
        #[test]
        fn a_mutilated_contract_is_read_or_refused(
            at in 0..CONTRACT.len(),
            cut in 0_usize..40,
            put in prop_oneof![Just(String::new()), "[-:{}\\[\\],&*!'\"# \n\ta-z0-9$%é]{0,6}"],
        ) {
            let start = (0..=at).rev().find(|i| CONTRACT.is_char_boundary(*i)).unwrap_or(0);
            let end = (start + cut..).find(|i| *i >= CONTRACT.len() || CONTRACT.is_char_boundary(*i)).unwrap_or(start);
            let text = format!("{}{put}{}", &CONTRACT[..start], &CONTRACT[end.min(CONTRACT.len())..]);
            let mut sink = Sink::new(Path::new("x"));
            let contract = odcs::read(&text, Path::new("x"), &mut sink);
            let found = sink.into_found();
            prop_assert_eq!(contract.is_some(), found.is_empty());
            let lines = text.lines().count() + 1;
            prop_assert!(found.iter().all(|d| d.place.line <= lines && d.place.column >= 1), "{:?}", found);
        }
    }
}
