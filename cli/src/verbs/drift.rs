//! `drift show|explain`: what moved, by how much, and which events did it.

use super::settings;
use crate::args::{Drift, Format, Global};
use crate::ending::Ending;
use crate::output;
use deltaworks_core::windows::{Granularity, Instant};
use deltaworks_jobs::reconcile::{ExplainOptions, Explained, ShowOptions, explain, show};
use deltaworks_jobs::{Class, Error, Result, Stage};
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

const EVENTS: [&str; 7] = ["step", "reason", "topic", "partition", "offset", "event_time", "kafka_time"];

/// Runs the verb.
pub async fn run(global: &Global, verb: &Drift) -> Result<Ending> {
    let settings = settings(global)?;
    match verb {
        Drift::Show { aggregate, since, by, limit, format } => {
            let options = ShowOptions { aggregate: aggregate.clone(), since: *since, by: by.clone(), limit: *limit };
            output::rows(show(&settings, &options).await?, *format, None).await?;
        }
        Drift::Explain { aggregate, window, keys, generation, limit, format } => {
            let (granularity, at) = *window;
            let options = ExplainOptions {
                aggregate: aggregate.clone(),
                granularity,
                at,
                keys: key_of(keys)?,
                generation: *generation,
                limit: *limit,
                parallel: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            };
            print(&explain(&settings, &options).await?, keys, *format)?;
        }
    }
    Ok(Ending::done())
}

/// Keys as they are typed: `NAME=VALUE`, and `NAME=NULL` for null.
fn key_of(typed: &[String]) -> Result<BTreeMap<String, Option<String>>> {
    let parse = |typed: &String| {
        let (name, value) = typed.split_once('=').ok_or_else(|| {
            Error::new(Stage::Reconcile, Class::User, format!("`{typed}` is no key"))
                .hint("write NAME=VALUE, and NAME=NULL for null")
        })?;
        Ok((name.to_owned(), (value != "NULL").then(|| value.to_owned())))
    };
    typed.iter().map(parse).collect()
}

/// A window as it is typed: `5m/2026-01-05T10:00:00Z`.
pub fn parse_window(text: &str) -> Result<(Granularity, Instant), String> {
    let (size, at) = text.split_once('/').ok_or("write SIZE/INSTANT, such as 5m/2026-01-05T10:00:00Z")?;
    let granularity = size.parse::<Granularity>().map_err(|e| format!("`{size}` is no window size: {}", e.why))?;
    Ok((granularity, at.parse::<Instant>().map_err(|e| e.to_string())?))
}

fn print(explained: &Explained, keys: &[String], format: Format) -> Result<()> {
    match format {
        Format::Json => {
            output::records(std::slice::from_ref(explained), &[], Format::Json)?;
        }
        Format::Table => {
            let Explained { granularity, window_start, window_end, generation, unexplained, .. } = explained;
            let of = if keys.is_empty() { String::new() } else { format!(" of {}", keys.join(", ")) };
            output::line(&format!("window {granularity}, {window_start} to {window_end}{of}, change {generation}"));
            let (lines, columns) = steps(explained);
            let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
            output::records(&lines, &columns, Format::Table)?;
            output::line(&format!("unexplained: {unexplained}"));
            // a definition that changed has no events of its own
            if !explained.events.is_empty() {
                output::records(&explained.events, &EVENTS, Format::Table)?;
            }
            if explained.more {
                output::line("there are more; --limit N shows N of them");
            }
        }
        other => output::records(&explained.events, &EVENTS, other)?,
    }
    Ok(())
}

/// The steps as records, and their columns.
fn steps(explained: &Explained) -> (Vec<impl Serialize>, Vec<String>) {
    let mut columns = vec!["step".to_owned()];
    // where there was no row, there is nothing to show
    let known = explained.steps.iter().filter(|step| step.values.is_some());
    let lines = known.map(|step| {
        let mut line = Map::from_iter([("step".to_owned(), Value::from(step.step))]);
        for (name, value) in step.values.iter().flatten() {
            if !columns.contains(name) {
                columns.push(name.clone());
            }
            line.insert(name.clone(), value.clone().map_or(Value::Null, Value::from));
        }
        line
    });
    let lines: Vec<_> = lines.collect();
    (lines, columns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_and_keys_as_they_are_typed() {
        let (granularity, at) = parse_window("5m/1970-01-01T00:00:01Z").unwrap();
        assert_eq!((granularity.to_string(), at), ("5m".to_owned(), Instant(1_000_000)));
        for bad in ["5m", "7m/1970-01-01T00:00:01Z", "5m/yesterday", "5m/1970-01-01T00:00:01"] {
            assert!(parse_window(bad).is_err(), "{bad}");
        }
        let keys = key_of(&["a=1=2".into(), "b=NULL".into(), "c=".into()]).unwrap();
        let expected = [("a", Some("1=2")), ("b", None), ("c", Some(""))];
        assert_eq!(keys, expected.map(|(n, v)| (n.to_owned(), v.map(str::to_owned))).into());
        assert!(key_of(&["a".into()]).is_err());
    }
}
