//! The decoder against every reason code, one case each; [`model`] plays it against a second judge.

mod model;

use super::json::JsonDecoder;
use super::{Decoded, Decoder};
use crate::kafka::message::Chunk;
use crate::land::schema;
use crate::project::contract::{Bound, BoundValue, Column, Contract, Kind, Rules, Source, TimestampForm};
use crate::project::settings::{CommitPolicy, EventTime, ExtraFields, Pipeline, RejectsPolicy, Tombstones};
use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, Int64Type, TimestampMicrosecondType};
use deltaworks_core::reason::{Reason, Refusal};
use rstest::rstest;
use std::sync::Arc;
use std::time::Duration;

pub(super) const CLOCK_MS: i64 = 1_785_000_000_000;
const GOOD: &str = r#"{"id":"a1","at":"2026-07-25T17:00:00Z","n":5}"#;

pub(super) fn col(name: &str, kind: Kind) -> Column {
    Column {
        name: name.into(),
        source: Source::Field,
        kind,
        required: false,
        is_id: false,
        rules: Rules::default(),
        description: None,
    }
}

pub(super) fn required(column: Column) -> Column {
    Column { required: true, ..column }
}

fn between(column: Column, least: i64, most: i64) -> Column {
    let bound = |v| Some(Bound { value: BoundValue::Integer(v), exclusive: false });
    Column { rules: Rules { minimum: bound(least), maximum: bound(most), ..Rules::default() }, ..column }
}

pub(super) fn time() -> Kind {
    Kind::Timestamp(TimestampForm::Rfc3339 { zone: None })
}

pub(super) fn decimal() -> Kind {
    Kind::Decimal { precision: 6, scale: 2 }
}

/// One column of every type.
fn columns() -> Vec<Column> {
    let location = vec![required(col("lat", Kind::Double)), col("place", Kind::String)];
    let plate = Rules { pattern: Some(regex::Regex::new("[A-Z]{2}|[A-Z]{2}[0-9]{4}").unwrap()), ..Rules::default() };
    let short = Rules { length_min: Some(2), length_max: Some(3), ..Rules::default() };
    vec![
        Column { is_id: true, ..required(col("id", Kind::String)) },
        required(col("at", time())),
        between(col("n", Kind::Integer), -100, 100),
        col("speed", decimal()),
        col("ratio", Kind::Double),
        col("small", Kind::Float),
        col("ok", Kind::Boolean),
        col("day", Kind::Date),
        col("seen", Kind::Timestamp(TimestampForm::EpochMillis)),
        Column { rules: plate, ..col("plate", Kind::String) },
        Column { rules: short.clone(), ..col("code", Kind::String) },
        col("location", Kind::Object(location)),
        Column { rules: short, ..col("pair", Kind::Array(Box::new(col("", Kind::Integer)))) },
        col("tags", Kind::Array(Box::new(required(col("", Kind::String))))),
        col("stops", Kind::Array(Box::new(col("", Kind::Object(vec![required(col("x", Kind::Integer))]))))),
        col("raw", Kind::Json),
    ]
}

pub(super) fn pipeline(columns: Vec<Column>) -> Pipeline {
    Pipeline {
        name: "events".into(),
        topic: "events".into(),
        group: "deltaworks.events".into(),
        contract: Arc::new(Contract {
            quality: Vec::new(),
            id: "events".into(),
            version: "1.0.0".into(),
            path: "schemas/events.odcs.yaml".into(),
            personal: false,
            retention_days: None,
            columns,
        }),
        event_time: EventTime::Field(vec!["at".into()]),
        lateness: Duration::from_secs(3_600),
        idle_after: Duration::from_secs(300),
        max_ahead: Duration::from_secs(300),
        event_time_min_us: None,
        extra_fields: ExtraFields::Ignore,
        tombstones: Tombstones::Reject,
        partition_by: Vec::new(),
        repeat_rows: 0,
        message_bytes_max: 16 << 20,
        depth_max: 64,
        commit: CommitPolicy { every: Duration::from_secs(60), bytes: 128 << 20, rows: 1_000_000 },
        rejects: RejectsPolicy { limit: None, retention_days: 30 },
    }
}

fn decoder() -> JsonDecoder {
    JsonDecoder::new(&pipeline(columns())).unwrap()
}

type Header<'a> = (&'a [u8], Option<&'a [u8]>);

fn send(
    decoder: &mut JsonDecoder,
    key: Option<&[u8]>,
    payload: &[u8],
    headers: &[Header<'_>],
) -> Result<Decoded, Refusal> {
    let mut chunk = Chunk { clock_ms: CLOCK_MS, ..Chunk::default() };
    chunk.push(3, 77, Some(CLOCK_MS), key, Some(payload), headers.iter().copied());
    let message = chunk.iter().next().unwrap();
    decoder.push(&message)
}

fn push(decoder: &mut JsonDecoder, payload: impl AsRef<[u8]>) -> Result<Decoded, Refusal> {
    send(decoder, None, payload.as_ref(), &[])
}

/// A good message with more fields.
fn with(fields: &str) -> String {
    format!("{},{fields}}}", GOOD.trim_end_matches('}'))
}

#[rstest]
#[case("", Reason::NotJson, "", "empty")]
#[case(" \n", Reason::NotJson, "", "empty")]
#[case("{", Reason::NotJson, "", "EOF")]
#[case("\u{feff}{}", Reason::NotJson, "", "byte order mark")]
#[case(r#"{"id":"a",}"#, Reason::NotJson, "", "line 1")]
#[case(r#"{"id":"a" "n":1}"#, Reason::NotJson, "", "line 1")]
#[case(r#"{"n":01}"#, Reason::NotJson, "", "line 1")]
#[case("{\"id\":\"a\nb\"}", Reason::NotJson, "", "control character")]
#[case(r#"{"x":NaN}"#, Reason::NotJson, "", "line 1")]
#[case(r#"{"id":7,"x":[1,}"#, Reason::NotJson, "", "line 1")]
#[case("{} x", Reason::NotJson, "", "line 1")]
#[case("[1,2", Reason::NotJson, "", "line 1")]
#[case("{}{}", Reason::NotOneObject, "", "2 values")]
#[case("[{}]", Reason::NotOneObject, "", "an array")]
#[case("17", Reason::NotOneObject, "", "a number")]
#[case("null", Reason::NotOneObject, "", "null")]
#[case(r#"{"id":1,"n":"x","id":2}"#, Reason::DuplicateKey, "id", "twice")]
#[case(r#"{"x":1,"x":2}"#, Reason::DuplicateKey, "x", "twice")]
#[case(r#"{"location":{"lat":1,"lat":1}}"#, Reason::DuplicateKey, "location.lat", "twice")]
#[case(r#"{"stops":[{},{"x":1,"y":2,"y":3}]}"#, Reason::DuplicateKey, "stops[1].y", "twice")]
#[case("{}", Reason::MissingField, "id", "required and absent")]
#[case(r#"{"id":null,"at":null}"#, Reason::MissingField, "id", "required and null")]
#[case(r#"{"n":"x","id":"a"}"#, Reason::MissingField, "at", "absent")]
fn whole_messages_are_refused(#[case] text: &str, #[case] reason: Reason, #[case] field: &str, #[case] detail: &str) {
    let refusal = push(&mut decoder(), text).unwrap_err();
    assert_eq!((refusal.reason, refusal.field.as_deref().unwrap_or("")), (reason, field), "{refusal:?}");
    assert!(refusal.detail.contains(detail), "{}", refusal.detail);
}

#[rstest]
#[case(r#""n":"5""#, Reason::WrongType, "n", "expected an integer, found a string")]
#[case(r#""n":5.0"#, Reason::WrongType, "n", "plain digits")]
#[case(r#""n":101"#, Reason::OutOfRange, "n", "above the maximum 100")]
#[case(r#""n":99999999999999999999"#, Reason::OutOfRange, "n", "64 bits")]
#[case(r#""speed":1.005"#, Reason::OutOfRange, "speed", "2 digits after")]
#[case(r#""speed":10000"#, Reason::OutOfRange, "speed", "4 digits before")]
#[case(r#""speed":"1.00""#, Reason::WrongType, "speed", "expected a number, found a string")]
#[case(r#""ratio":1e400"#, Reason::OutOfRange, "ratio", "too large")]
#[case(r#""small":1e39"#, Reason::OutOfRange, "small", "32-bit")]
#[case(r#""ok":1"#, Reason::WrongType, "ok", "expected true or false, found a number")]
#[case(r#""day":"2026-02-30""#, Reason::OutOfRange, "day", "does not exist")]
#[case(r#""day":20260230"#, Reason::WrongType, "day", "found a number")]
#[case(r#""seen":"2026-07-25T17:00:00Z""#, Reason::WrongType, "seen", "milliseconds since 1970, found a string")]
#[case(r#""seen":1785000000"#, Reason::OutOfRange, "seen", "looks like seconds")]
#[case(r#""plate":"AB12345""#, Reason::Pattern, "plate", "[A-Z]{2}")]
#[case(r#""plate":"\ud83d""#, Reason::WrongType, "plate", "half a surrogate pair")]
#[case(r#""raw":["\udc00"]"#, Reason::WrongType, "raw", "half a surrogate pair")]
#[case(r#""code":"x""#, Reason::OutOfRange, "code", "fewer than 2 characters")]
#[case(r#""code":"éèçà""#, Reason::OutOfRange, "code", "more than 3 characters")]
#[case(r#""location":[]"#, Reason::WrongType, "location", "expected an object, found an array")]
#[case(r#""location":{}"#, Reason::MissingField, "location.lat", "required")]
#[case(r#""location":{"lat":"x"}"#, Reason::WrongType, "location.lat", "expected a number")]
#[case(r#""pair":{}"#, Reason::WrongType, "pair", "expected an array, found an object")]
#[case(r#""pair":[1]"#, Reason::OutOfRange, "pair", "fewer than 2 items")]
#[case(r#""pair":[1,2,3,4]"#, Reason::OutOfRange, "pair", "more than 3 items")]
#[case(r#""tags":["a","b","c",4]"#, Reason::WrongType, "tags[3]", "expected a string, found a number")]
#[case(r#""tags":["a",null]"#, Reason::MissingField, "tags[1]", "null")]
#[case(r#""stops":[{"x":1},{"x":true}]"#, Reason::WrongType, "stops[1].x", "found a boolean")]
// of several bad fields the first by reason, then by the contract's order, whatever the message's
#[case(r#""plate":"?","day":"x","code":1"#, Reason::WrongType, "day", "date")]
#[case(r#""location":{},"ratio":"x""#, Reason::MissingField, "location.lat", "required")]
fn fields_are_refused(#[case] fields: &str, #[case] reason: Reason, #[case] field: &str, #[case] detail: &str) {
    let mut decoder = decoder();
    let text = if fields.starts_with(r#""n""#) { with(fields).replacen(r#","n":5"#, "", 1) } else { with(fields) };
    let refusal = push(&mut decoder, text).unwrap_err();
    assert_eq!((refusal.reason, refusal.field.as_deref()), (reason, Some(field)), "{refusal:?}");
    assert!(refusal.detail.contains(detail), "{}", refusal.detail);
    assert_eq!(decoder.rows(), 0);
}

#[test]
fn limits_and_bytes_are_refused_first() {
    let mut tight = pipeline(columns());
    tight.message_bytes_max = 64;
    tight.depth_max = 3;
    let mut decoder = JsonDecoder::new(&tight).unwrap();
    let reason = |decoder: &mut JsonDecoder, payload: &[u8]| push(decoder, payload).unwrap_err().reason;
    assert_eq!(reason(&mut decoder, &[0xFF; 65]), Reason::TooLarge);
    assert_eq!(reason(&mut decoder, b"{\"id\":\"\xFF\"}"), Reason::NotUtf8);
    assert_eq!(reason(&mut decoder, b"[[[[\xFF"), Reason::NotUtf8);
    assert_eq!(reason(&mut decoder, b"[[[["), Reason::TooDeep);
    assert_eq!(reason(&mut decoder, br#"{"x":[[[]]]}"#), Reason::TooDeep);
    assert!(push(&mut decoder, with(r#""raw":[[]]"#)).is_ok());
}

#[test]
fn extra_fields_are_ignored_kept_or_refused() {
    let text = with(r#" "z" : {"b": 1,  "a":"\u00e9"} ,"location":{"lat":1,"new":2},"\n":[]"#);
    let batch_of = |extra| {
        let mut decoder = JsonDecoder::new(&Pipeline { extra_fields: extra, ..pipeline(columns()) }).unwrap();
        push(&mut decoder, &text)?;
        push(&mut decoder, GOOD)?;
        Ok::<_, Refusal>(decoder.finish().unwrap())
    };
    assert!(batch_of(ExtraFields::Ignore).unwrap().column_by_name("_extra").is_none());
    let kept = batch_of(ExtraFields::Keep).unwrap();
    let kept = kept.column_by_name("_extra").unwrap().as_string::<i32>();
    assert_eq!(kept.value(0), r#"{"z":{"b": 1,  "a":"\u00e9"},"\n":[]}"#);
    assert!(kept.is_null(1));
    let refusal = batch_of(ExtraFields::Reject).unwrap_err();
    assert_eq!((refusal.reason, refusal.field.as_deref()), (Reason::ExtraField, Some("z")));
    let mut strict = JsonDecoder::new(&Pipeline { extra_fields: ExtraFields::Reject, ..pipeline(columns()) }).unwrap();
    let refusal = push(&mut strict, with(r#""location":{"new":2}"#)).unwrap_err();
    assert_eq!((refusal.reason, refusal.field.as_deref()), (Reason::ExtraField, Some("location.new")));
    let mut keep = JsonDecoder::new(&Pipeline { extra_fields: ExtraFields::Keep, ..pipeline(columns()) }).unwrap();
    let refusal = push(&mut keep, with(r#""z":"\ud800""#)).unwrap_err();
    assert_eq!((refusal.reason, refusal.field.as_deref()), (Reason::WrongType, Some("z")));
}

#[test]
fn event_times_are_judged_wherever_they_come_from() {
    let ahead = GOOD.replace("17:00:00", "23:00:00");
    let refusal = push(&mut decoder(), ahead).unwrap_err();
    assert_eq!((refusal.reason, refusal.field.as_deref()), (Reason::EventTimeInFuture, Some("at")));
    let old = Pipeline { event_time_min_us: Some(CLOCK_MS * 1_000), ..pipeline(columns()) };
    assert_eq!(push(&mut JsonDecoder::new(&old).unwrap(), GOOD).unwrap_err().reason, Reason::EventTimeTooOld);

    let nested = vec![col("meta", Kind::Object(vec![col("n", Kind::Integer), col("at", time())]))];
    let path = EventTime::Field(vec!["meta".into(), "at".into()]);
    let mut decoder = JsonDecoder::new(&Pipeline { event_time: path, ..pipeline(nested) }).unwrap();
    let good = push(&mut decoder, r#"{"meta":{"at":"1970-01-01T00:00:01Z"}}"#).unwrap();
    assert_eq!((good.event_us, good.id_hash), (1_000_000, None));
    for text in ["{}", r#"{"meta":{}}"#, r#"{"meta":null}"#] {
        let refusal = push(&mut decoder, text).unwrap_err();
        assert_eq!((refusal.reason, refusal.field.as_deref()), (Reason::MissingField, Some("meta.at")), "{text}");
    }
    assert_eq!(decoder.finish().unwrap().num_rows(), 1);

    let kafka = Pipeline { event_time: EventTime::KafkaTime, ..pipeline(vec![col("n", Kind::Integer)]) };
    let mut decoder = JsonDecoder::new(&kafka).unwrap();
    assert_eq!(push(&mut decoder, "{}").unwrap().event_us, CLOCK_MS * 1_000);
    let mut chunk = Chunk { clock_ms: CLOCK_MS, ..Chunk::default() };
    chunk.push(0, 0, None, None, Some(b"{}"), []);
    chunk.push(0, 1, None, None, None, []);
    let reasons: Vec<_> = chunk.iter().map(|m| decoder.push(&m).unwrap_err()).collect();
    assert_eq!((reasons[0].reason, reasons[0].field.as_deref()), (Reason::MissingField, Some("kafka_time")));
    assert_eq!(reasons[1].reason, Reason::Tombstone);
}

#[test]
fn columns_come_from_the_message_around_the_payload() {
    let from = |name: &str, source, kind| Column { source, ..col(name, kind) };
    let columns = vec![
        required(from("key", Source::Key, Kind::Integer)),
        from("kind", Source::Header("kind".into()), Kind::String),
        from("when", Source::Header("when".into()), time()),
        from("list", Source::Header("list".into()), Kind::Array(Box::new(col("", Kind::Integer)))),
        from("topic", Source::Topic, Kind::String),
        from("partition", Source::Partition, Kind::Integer),
        from("offset", Source::Offset, Kind::Integer),
        from("kafka_time", Source::KafkaTime, time()),
    ];
    let pipeline = Pipeline { event_time: EventTime::KafkaTime, ..pipeline(columns) };
    let mut decoder = JsonDecoder::new(&pipeline).unwrap();
    let headers: [Header<'_>; 4] = [
        (b"kind", Some(b"first")),
        (b"kind", Some(b"last \"one\"")),
        (b"when", Some(b"2026-07-25T17:00:00Z")),
        (b"list", Some(b" [1,2]")),
    ];
    send(&mut decoder, Some(b"42"), b"{}", &headers).unwrap();
    for (key, reason) in [
        (None, Reason::MissingField),
        (Some(b"4x".as_slice()), Reason::WrongType),
        (Some(b"\xFF"), Reason::WrongType),
        (Some(b"\"42\""), Reason::WrongType),
        (Some(b""), Reason::WrongType),
    ] {
        let refusal = send(&mut decoder, key, b"{}", &[]).unwrap_err();
        assert_eq!((refusal.reason, refusal.field.as_deref()), (reason, Some("key")), "{key:?}");
    }
    let refusal = send(&mut decoder, Some(b"1"), b"{}", &[(b"list", Some(b"[1,x]"))]).unwrap_err();
    assert_eq!((refusal.reason, refusal.field.as_deref()), (Reason::WrongType, Some("list")));
    send(&mut decoder, Some(b"43"), b"{}", &[(b"kind", None)]).unwrap();
    let batch = decoder.finish().unwrap();
    assert_eq!(batch.column(0).as_primitive::<Int64Type>().values(), &[42, 43]);
    assert_eq!(batch.column(1).as_string::<i32>().iter().collect::<Vec<_>>(), [Some("last \"one\""), None]);
    assert_eq!(batch.column(3).as_list::<i32>().value_length(0), 2);
    assert_eq!(batch.column(4).as_string::<i32>().value(1), "events");
    assert_eq!(batch.column(5).as_primitive::<Int64Type>().values(), &[3, 3]);
    assert_eq!(batch.column(6).as_primitive::<Int64Type>().values(), &[77, 77]);
    assert_eq!(batch.column(7).as_primitive::<TimestampMicrosecondType>().value(0), CLOCK_MS * 1_000);
}

#[test]
fn misfits_are_refused_before_any_message() {
    let event = |path: &[&str]| EventTime::Field(path.iter().map(|s| (*s).to_owned()).collect());
    for path in [&["nope"][..], &["n"], &["location"], &["at", "x"], &[]] {
        assert!(JsonDecoder::new(&Pipeline { event_time: event(path), ..pipeline(columns()) }).is_err(), "{path:?}");
    }
    let mut bad = columns();
    bad[11].is_id = true;
    bad[0].is_id = false;
    assert!(JsonDecoder::new(&pipeline(bad)).is_err());
    let mut bad = columns();
    bad[9].source = Source::Offset;
    bad[9].kind = Kind::Boolean;
    assert!(JsonDecoder::new(&pipeline(bad)).is_err());
    let mut bad = columns();
    bad[3] = between(bad[3].clone(), 0, 1);
    let error = JsonDecoder::new(&pipeline(bad)).unwrap_err();
    assert!(error.message.contains("`speed`"), "{error}");
}

#[test]
fn ids_hash_by_value() {
    let mut decoder = decoder();
    let hash = |decoder: &mut JsonDecoder, text: &str| push(decoder, text).unwrap().id_hash.unwrap();
    let first = hash(&mut decoder, GOOD);
    assert_eq!(first, xxhash_rust::xxh3::xxh3_128(b"a1"));
    assert_eq!(first, hash(&mut decoder, &GOOD.replace("a1", "\\u00611")));
    assert_ne!(first, hash(&mut decoder, &GOOD.replace("a1", "a2")));
}

#[test]
fn huge_and_deep_messages_cost_no_stack() {
    let mut wide = decoder();
    let text = format!(r#"{{"id":"a","at":"2026-07-25T17:00:00Z","raw":"{}"}}"#, "x".repeat(10 << 20));
    push(&mut wide, text).unwrap();
    assert!(wide.bytes() > 10 << 20);
    let deep = pipeline(columns());
    for (depth_max, reason) in [(64, Reason::TooDeep), (usize::MAX, Reason::NotOneObject)] {
        let mut decoder = JsonDecoder::new(&Pipeline { depth_max, ..deep.clone() }).unwrap();
        let text = "[".repeat(500_000) + &"]".repeat(500_000);
        assert_eq!(push(&mut decoder, &text).unwrap_err().reason, reason);
        let text = r#"{"x":"#.repeat(500_000);
        let refusal = push(&mut decoder, &text).unwrap_err();
        assert!(matches!(refusal.reason, Reason::TooDeep | Reason::NotJson));
        let inside =
            format!(r#"{},"raw":{}1{}}}"#, GOOD.trim_end_matches('}'), "[".repeat(500_000), "]".repeat(500_000));
        assert_eq!(push(&mut decoder, &inside).is_ok(), depth_max == usize::MAX);
    }
}

#[test]
fn details_hold_nothing_of_the_payload() {
    for fields in [
        r#""plate":"SECRET""#,
        r#""code":"SECRET""#,
        r#""day":"SECRET""#,
        r#""n":"SECRET""#,
        r#""tags":[{"SECRET":1}]"#,
        r#""ratio":SECRET"#,
        r#""raw":"SECRET"#,
        r#""raw":"SECRET\x""#,
    ] {
        let refusal = push(&mut decoder(), with(fields).replacen(r#","n":5"#, "", 1)).unwrap_err();
        assert!(!format!("{refusal:?}").contains("SECRET"), "{refusal:?}");
    }
}

#[test]
fn tables_hold_what_the_decoder_makes() {
    let keep = Pipeline { extra_fields: ExtraFields::Keep, ..pipeline(columns()) };
    let batch = JsonDecoder::new(&keep).unwrap().finish().unwrap();
    let raw = schema::raw_schema(&keep);
    for field in batch.schema().fields() {
        assert_eq!(raw.field_with_name(field.name()).unwrap(), field.as_ref());
    }
    let added: Vec<&str> = raw.fields().iter().skip(columns().len()).map(|f| f.name().as_str()).collect();
    let expected = "_topic _partition _offset _kafka_time _behind_ms _repeat _fill _extra event_date";
    assert_eq!(added.join(" "), expected);
    let field = |name: &str| raw.field_with_name(name).unwrap().clone();
    assert!(!field("id").is_nullable() && !field("event_date").is_nullable() && field("n").is_nullable());
    let DataType::List(item) = field("tags").data_type().clone() else { panic!("tags are a list") };
    assert_eq!((item.name().as_str(), item.is_nullable()), ("element", false));
    let rejects = schema::rejects_schema();
    assert_eq!(rejects.fields().first().unwrap().name(), "_topic");
    assert_eq!(rejects.fields().last().unwrap().name(), "reject_date");
}
