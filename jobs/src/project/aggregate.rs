//! An aggregate's SQL file: what its header says.
//!
//! The header is the run of `--` lines at the top; what follows the dashes is one YAML map. The rest
//! of the file is one SELECT, which is for `engine::aggregate` to judge: nothing here knows SQL. As
//! the header is a comment in SQL, places in the SELECT are places in the file.

use super::diagnostics::{Place, Sink};
use super::settings::{AggregateFile, Pipeline};
use super::yaml::{self, Key, Node};
use super::{shape, units};
use deltaworks_core::drift::Limit;
use deltaworks_core::windows::{Granularity, Zone};
use jiff::tz::TimeZone;
use schemars::JsonSchema;
use serde_json::Value as Json;
use std::path::Path;
use std::sync::Arc;

/// Days of a changed definition that are recomputed without being asked for.
const REDEFINE_DAYS: u32 = 7;

/// Header of an aggregate's SQL file.
#[derive(Debug, JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "gives the schema; its parts are read from the tree, where their places are known")]
struct Header {
    /// Name of the aggregate and of its tables; the file has the same name.
    aggregate: String,
    /// What one row is, such as `one row per camera and window`.
    grain: String,
    /// The pipeline whose events are aggregated.
    from: String,
    /// Sizes of the windows, such as `[5m, 1h, 1d]`.
    windows: Vec<String>,
    /// Time zone of days, weeks and months, such as `Europe/Kyiv`. Default `UTC`.
    timezone: Option<String>,
    /// After a change of definition, windows of this many days are recomputed at once. Default `7d`.
    redefine: Option<String>,
    /// Whether windows are shown before they are complete: `speed.<aggregate>` is kept. Default `true`.
    speed: Option<bool>,
    /// How far windows may move from what was shown.
    drift: Option<Drift>,
}

/// Drift of an aggregate.
#[derive(Debug, JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "as `Header`")]
struct Drift {
    /// What a unit may move by; one that moves further is not published, and `reconcile` exits with 3.
    limit: Option<DriftLimit>,
}

/// Limits of drift.
#[derive(Debug, JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "as `Header`")]
struct DriftLimit {
    /// Values that no step explains. Default 0.
    unexplained: Option<u64>,
    /// Part of a column that may move, such as `0.2`: the sum of all moves over the sum of what was there. Default: any.
    size: Option<f64>,
}

/// Reads the file at `path` (relative to the project); `None` if anything is wrong with its header or
/// with its pipeline. `names` are the pipelines that there are, `pipelines` the right ones among them.
pub(super) fn read(
    text: &str,
    path: &Path,
    names: &[&str],
    pipelines: &[Arc<Pipeline>],
    sink: &mut Sink,
) -> Option<AggregateFile> {
    let text = text.trim_start_matches('\u{feff}');
    let Some(header) = header(text) else {
        let hint = "begin the file with `-- aggregate: name`, `-- grain: …`, `-- from: …` and `-- windows: [1h]`";
        sink.error_with(Place::START, "the file has no header", hint);
        return None;
    };
    let tree = yaml::parse(&header, sink)?;
    let schema = schemars::schema_for!(Header).to_value();
    let root_key = Key { name: "header".to_owned(), place: tree.place };
    let shaped = shape::read(&tree, &schema, &schema, &root_key, sink);
    let name = name(&tree, path, sink);
    let from = from(&tree, names, pipelines, sink);
    let windows = windows(&tree, sink);
    let zone = zone(&tree, sink);
    let redefine_days = redefine_days(&tree, sink);
    let speed = shaped.as_ref().and_then(|header| header.get("speed")?.as_bool()).unwrap_or(true);
    let drift_limit = shaped.as_ref().map(|header| drift_limit(header, &tree, sink)).unwrap_or_default();
    if let (Some(pipeline), Some(windows)) = (from, &windows) {
        retention(&tree, pipeline, windows, sink);
    }
    let (from, grain) = (from?.name.clone(), tree.get("grain")?.text()?.to_owned());
    let (name, windows, zone, redefine_days) = (name?, windows?, zone?, redefine_days?);
    let file = AggregateFile {
        name,
        path: path.to_path_buf(),
        grain,
        from,
        windows,
        zone,
        redefine_days,
        speed,
        drift_limit,
        sql: text.to_owned(),
    };
    sink.is_empty().then_some(file).filter(|_| shaped.is_some())
}

/// The header as YAML in which everything keeps its line and column.
fn header(text: &str) -> Option<String> {
    let lines = text.lines().map_while(|line| line.strip_prefix("--"));
    let yaml: String = lines.map(|line| format!("  {line}\n")).collect();
    (!yaml.trim().is_empty()).then_some(yaml)
}

fn name(tree: &Node, path: &Path, sink: &mut Sink) -> Option<String> {
    let node = tree.get("aggregate")?;
    let name = node.text()?;
    if !super::validate::is_table_name(name) {
        let message = format!("`{}` cannot be the name of an aggregate", name.escape_debug());
        sink.error_with(node.place, message, super::validate::TABLE_NAME_HINT);
        return None;
    }
    let stem = path.file_stem().and_then(|s| s.to_str()).unwrap_or_default();
    if stem != name {
        sink.error_with(
            node.place,
            format!("the aggregate `{name}` is in a file of another name"),
            format!("call the file `{name}.sql`, or the aggregate `{stem}`"),
        );
        return None;
    }
    Some(name.to_owned())
}

fn from<'p>(tree: &Node, names: &[&str], pipelines: &'p [Arc<Pipeline>], sink: &mut Sink) -> Option<&'p Pipeline> {
    let node = tree.get("from")?;
    let name = node.text()?;
    if !names.contains(&name) {
        sink.unknown(node.place, "pipeline", name, names.iter().copied());
    }
    pipelines.iter().find(|p| p.name == name).map(Arc::as_ref)
}

/// The granularities, from fine to coarse.
fn windows(tree: &Node, sink: &mut Sink) -> Option<Vec<Granularity>> {
    let node = tree.get("windows")?;
    let mut windows: Vec<Granularity> = Vec::new();
    let mut good = true;
    for item in node.items() {
        let Some(text) = item.text() else { continue };
        match text.parse::<Granularity>() {
            Ok(granularity) if windows.contains(&granularity) => {
                sink.error(item.place, format!("`{granularity}` occurs twice"));
                good = false;
            }
            Ok(granularity) => windows.push(granularity),
            Err(e) => {
                sink.error_with(
                    item.place,
                    format!("`{text}` is no window size: {}", e.why),
                    "write seconds, minutes or hours that divide a day evenly (`30s`, `5m`, `1h`), `1d`, `1w` or `1mo`",
                );
                good = false;
            }
        }
    }
    if windows.is_empty() && good && matches!(node.value, yaml::Value::List(_)) {
        sink.error_with(node.place, "`windows` is empty", "write `[5m, 1h, 1d]`");
    }
    windows.sort_unstable();
    Some(windows).filter(|w| good && !w.is_empty())
}

fn zone(tree: &Node, sink: &mut Sink) -> Option<Zone> {
    let Some(node) = tree.get("timezone").filter(|n| !n.is_null()) else { return Some(Zone::utc()) };
    let name = node.text()?;
    match TimeZone::get(name) {
        Ok(zone) => Some(Zone::new(zone)),
        Err(_) => {
            let hint = "use an IANA name such as `Europe/Kyiv` or `UTC`";
            sink.error_with(node.place, format!("`{name}` is no time zone"), hint);
            None
        }
    }
}

fn redefine_days(tree: &Node, sink: &mut Sink) -> Option<u32> {
    let Some(node) = tree.get("redefine").filter(|n| !n.is_null()) else { return Some(REDEFINE_DAYS) };
    let days = units::days(node.text()?);
    if days.is_none() {
        sink.error_with(node.place, "`redefine` must be whole days", "write `7d`; `0d` leaves it all to `backfill`");
    }
    days
}

fn drift_limit(header: &Json, tree: &Node, sink: &mut Sink) -> Limit {
    let limit = header.get("drift").and_then(|drift| drift.get("limit"));
    let get = |name: &str| limit.and_then(|limit| limit.get(name));
    let size = get("size").and_then(Json::as_f64);
    if size.is_some_and(|size| size < 0.0) {
        let node = ["drift", "limit", "size"].iter().try_fold(tree, |node, name| node.get(name));
        let hint = "write the part of a column that may move, such as `0.2`";
        sink.error_with(node.map_or(Place::START, |n| n.place), "`size` is below 0", hint);
    }
    Limit { unexplained: get("unexplained").and_then(Json::as_u64).unwrap_or(0), size }
}

/// Raw must outlive the longest window, its late events, and the two days that dedup and time zones
/// reach back; else windows would be recomputed from dates that are gone.
fn retention(tree: &Node, pipeline: &Pipeline, windows: &[Granularity], sink: &mut Sink) {
    let (Some(kept), Some(longest)) = (pipeline.contract.retention_days, windows.last()) else { return };
    let window_days = match longest {
        Granularity::Under(_) | Granularity::Day => 1,
        Granularity::Week => 7,
        Granularity::Month => 31,
    };
    let needed = window_days + pipeline.lateness.as_secs().div_ceil(86_400) + 2;
    if u64::from(kept) < needed {
        let place = tree.get("windows").map_or(Place::START, |n| n.place);
        sink.error_with(
            place,
            format!("`{}` keeps its events for {kept} days, too short for windows of `{longest}`", pipeline.name),
            format!(
                "a window, its lateness and 2 days need {needed} days: raise `retention` in `{}`",
                pipeline.contract.path.display()
            ),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_keeps_every_place() {
        let text = "-- aggregate: a\n--  windows:\n--    - 5m\n\n-- a remark\nSELECT 1";
        assert_eq!(header(text).unwrap(), "   aggregate: a\n    windows:\n      - 5m\n");
        assert_eq!(header("SELECT 1\n-- aggregate: too_late"), None);
        assert_eq!(header("--\n--  \nSELECT 1"), None);
    }
}
