//! `status`: every table at a glance, and limits for alerts.

use super::{pick, settings};
use crate::args::{Global, Status};
use crate::ending::Ending;
use crate::output;
use deltaworks_jobs::clock::Clock;
use deltaworks_jobs::land::inspect::{self, TableStatus};
use deltaworks_jobs::{Class, Error, Result, Stage};

const COLUMNS: [&str; 8] = ["table", "version", "rows", "files", "bytes", "valid_through", "age_s", "lag"];

/// Runs the verb.
pub async fn run(global: &Global, args: &Status) -> Result<Ending> {
    let settings = settings(global)?;
    let pipelines = pick(&settings, &args.pipelines)?;
    let max_age_s = args.max_age.as_deref().map(seconds).transpose()?;
    let tables = inspect::status(&settings, &pipelines, !args.offline, &Clock::system()).await?;
    output::records(&tables, &COLUMNS, args.format)?;
    let broken: Vec<String> = tables.iter().filter_map(|t| breach(t, args.max_lag, max_age_s)).collect();
    if broken.is_empty() {
        return Ok(Ending::done());
    }
    Err(Error::new(Stage::Land, Class::Limit, broken.join("; ")))
}

fn breach(table: &TableStatus, max_lag: Option<i64>, max_age_s: Option<i64>) -> Option<String> {
    if let (Some(lag), Some(max)) = (table.lag, max_lag)
        && lag > max
    {
        return Some(format!("`{}` lags by {lag} messages, at most {max} are allowed", table.table));
    }
    let max = max_age_s?;
    match (table.age_s, table.table.starts_with("raw.")) {
        (Some(age), _) if age > max => {
            Some(format!("`{}` is valid through {age} s ago, at most {max} s are allowed", table.table))
        }
        (None, true) => Some(format!("`{}` is not valid through any instant yet", table.table)),
        _ => None,
    }
}

fn seconds(text: &str) -> Result<i64> {
    let wrong = |e: jiff::Error| {
        Error::new(Stage::Project, Class::User, format!("`{text}` is no duration"))
            .because(e)
            .hint("write e.g. 15m or 2h")
    };
    Ok(text.parse::<jiff::SignedDuration>().map_err(wrong)?.as_secs())
}
