//! Events that break their contract on purpose, for one chosen reason each.
//!
//! An event must be refused with exactly its reason, so it is a good one but for one thing, and that
//! thing is found before any other by a judge that goes through [`Reason::ALL`] in order.

use super::generate::{Event, EventKind, Generator, Tweak, cannot};
use super::values::{matches, quote};
use crate::error::Result;
use crate::project::contract::{Column, Kind, Source};
use crate::project::settings::EventTime;
use deltaworks_core::reason::Reason;
use rand::Rng;

/// 2199-01-01: later than any clock that will run this.
const FUTURE_US: i64 = 7_226_582_400_000_000;
/// 1900-01-01: before any `min_event_time` worth setting.
const PAST_US: i64 = -2_208_988_800_000_000;

/// One event that breaks the contract for this reason.
pub(super) fn event(generator: &mut Generator, reason: Reason, at_us: i64, serial: u64) -> Result<Event> {
    let mut event = match reason {
        Reason::EventTimeInFuture => timed(generator, FUTURE_US, serial, reason)?,
        Reason::EventTimeTooOld => timed(generator, PAST_US, serial, reason)?,
        _ => {
            let tweak = tweak(generator, reason)?;
            let event = generator.render(at_us, serial, &tweak)?;
            Event { event_us: None, ..event }
        }
    };
    let payload = event.payload.take().unwrap_or_default();
    event.payload = spoil(generator, reason, payload);
    if reason == Reason::Tombstone && event.key.is_none() {
        event.key = Some(format!("gone-{serial}").into_bytes());
    }
    Ok(Event { kind: EventKind::Corrupt, reason: Some(reason), ..event })
}

/// What is wrong with the bytes as a whole.
fn spoil(generator: &mut Generator, reason: Reason, mut payload: Vec<u8>) -> Option<Vec<u8>> {
    match reason {
        Reason::Tombstone => return None,
        Reason::NotUtf8 => {
            let at = generator.rng.random_range(1..payload.len());
            // A byte that never occurs in UTF-8, wherever it stands.
            payload.insert(at, 0xFF);
        }
        Reason::NotJson => drop(payload.pop()),
        Reason::NotOneObject => {
            payload.insert(0, b'[');
            payload.push(b']');
        }
        Reason::TooLarge => {
            let missing = (generator.plan.message_bytes_max + 1).saturating_sub(payload.len());
            payload.splice(1..1, std::iter::repeat_n(b' ', missing));
        }
        _ => {}
    }
    Some(payload)
}

/// What is wrong with one field.
fn tweak(generator: &Generator, reason: Reason) -> Result<Tweak> {
    let fields = || generator.columns.iter().map(|v| &v.column).filter(|c| c.source == Source::Field);
    let replace = |name: &str, with: Vec<u8>| Tweak { replace: Some((name.to_owned(), with)), ..Tweak::default() };
    let none = |needs: &str| cannot(format!("no `{reason}` event can be made: the contract has no field {needs}"));
    Ok(match reason {
        Reason::TooDeep => {
            let depth = generator.plan.depth_max + 1;
            let nested = [vec![b'['; depth], vec![b']'; depth]].concat();
            Tweak { extra: Some(nested), ..Tweak::default() }
        }
        Reason::DuplicateKey => {
            fields().next().ok_or_else(|| none("in its payload"))?;
            Tweak { twice: true, ..Tweak::default() }
        }
        Reason::ExtraField => Tweak { extra: Some(b"1".to_vec()), ..Tweak::default() },
        Reason::MissingField => {
            let field = fields().find(|c| c.required).ok_or_else(|| none("that is required"))?;
            Tweak { omit: Some(field.name.clone()), ..Tweak::default() }
        }
        Reason::WrongType => {
            let simple = |c: &&Column| !matches!(c.kind, Kind::Json | Kind::Array(_));
            let field = fields().find(simple).ok_or_else(|| none("of a simple type"))?;
            replace(&field.name, b"[]".to_vec())
        }
        Reason::OutOfRange => {
            let (name, value) = fields()
                .find_map(|c| beyond(c).map(|v| (&c.name, v)))
                .ok_or_else(|| none("with a number, or a text or array of limited length"))?;
            replace(name, value)
        }
        Reason::Pattern => {
            let broken = |c: &Column| breaking(c).map(|v| (c.name.clone(), v));
            let (name, value) = fields().find_map(broken).ok_or_else(|| none("with a pattern that can be broken"))?;
            replace(&name, value)
        }
        _ => Tweak::default(),
    })
}

fn timed(generator: &mut Generator, at_us: i64, serial: u64, reason: Reason) -> Result<Event> {
    // A time before 1970 is none to Kafka.
    if generator.event_time == EventTime::KafkaTime && at_us < 0 {
        return Err(cannot(format!("no `{reason}` event can be made where the event time is Kafka's")));
    }
    generator.render(at_us, serial, &Tweak::default())
}

/// A value of the right type that cannot fit it, whatever the rules.
fn beyond(column: &Column) -> Option<Vec<u8>> {
    match &column.kind {
        Kind::Integer => Some(b"99999999999999999999".to_vec()),
        Kind::Decimal { .. } => Some(format!("1{}", "0".repeat(39)).into_bytes()),
        Kind::Double | Kind::Float => Some(b"1e999".to_vec()),
        Kind::String => column.rules.length_max.map(|most| {
            let mut out = Vec::new();
            quote(&"x".repeat(most + 1), &mut out);
            out
        }),
        _ => None,
    }
}

/// A text of allowed length that does not match the column's pattern.
fn breaking(column: &Column) -> Option<Vec<u8>> {
    column.rules.pattern.as_ref()?;
    let (least, most) = (column.rules.length_min.unwrap_or(0), column.rules.length_max.unwrap_or(usize::MAX));
    (0..64.min(most.saturating_add(1)))
        .filter(|length| (least..=most).contains(length))
        .chain([least])
        .flat_map(|length| ["~", "0", "a", "\u{1F6A7}"].map(|c| c.repeat(length)))
        .find(|text| !matches(&column.rules, text))
        .map(|text| {
            let mut out = Vec::new();
            quote(&text, &mut out);
            out
        })
}
