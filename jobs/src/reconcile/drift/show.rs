//! What the drift table of an aggregate says, for people: windows with their values after each step, or what moved by
//! key, date or granularity.
//!
//! Asks the table alone: which columns are keys and which are values is written there.

use super::rows::STEPS;
use super::table::drift_name;
use crate::batch::select;
use crate::engine::{Rows, query};
use crate::error::{Class, Error, Result, Stage};
use crate::lake::Lake;
use crate::project::settings::Settings;
use arrow::datatypes::{DataType, Field, Schema};
use deltaworks_core::windows::Instant;
use std::sync::Arc;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct ShowOptions {
    /// Aggregate.
    pub aggregate: String,
    /// Windows that start earlier are left out.
    pub since: Option<Instant>,
    /// Sums by this instead of windows: `key`, a key's name, `date` or `granularity`.
    pub by: Option<String>,
    /// Rows at most.
    pub limit: usize,
}

/// Which columns are which.
struct Shape {
    keys: Vec<String>,
    values: Vec<String>,
}

/// The rows that are asked for.
///
/// # Errors
/// [`Class::User`] if there is no such aggregate or key; the table cannot be read.
pub async fn show(settings: &Settings, options: &ShowOptions) -> Result<Rows> {
    select(settings, std::slice::from_ref(&options.aggregate), Stage::Reconcile)?;
    let Some(table) = Lake::open(&settings.lake)?.open_table(&drift_name(&options.aggregate)).await? else {
        return Rows::of(Arc::new(Schema::new(vec![Field::new("window_start", DataType::Utf8, true)])), Vec::new());
    };
    let listed = table.properties().get("deltaworks.keys").cloned().flatten().unwrap_or_default();
    let keys = listed.split(',').filter(|key| !key.is_empty()).map(str::to_owned).collect();
    let values = match table.schema().field_with_name("base").map(Field::data_type) {
        Ok(DataType::Struct(fields)) => fields.iter().map(|f| f.name().clone()).collect(),
        _ => Vec::new(),
    };
    let shape = Shape { keys, values };
    let sql = match &options.by {
        Some(by) => shape.sums(options, &shape.groups(by)?),
        None => shape.windows(options),
    };
    query(&settings.lake, &sql, settings.memory_bytes).await
}

impl Shape {
    /// The columns that sums are by.
    fn groups(&self, by: &str) -> Result<Vec<String>> {
        match by {
            "date" => Ok(vec!["window_date".to_owned()]),
            "granularity" => Ok(vec!["granularity".to_owned()]),
            "key" if !self.keys.is_empty() => Ok(self.keys.clone()),
            name if self.keys.iter().any(|key| key == name) => Ok(vec![name.to_owned()]),
            other => {
                let known = ["key", "date", "granularity"].into_iter().chain(self.keys.iter().map(String::as_str));
                Err(Error::new(Stage::Reconcile, Class::User, format!("drift cannot be shown by `{other}`"))
                    .hint(format!("by {}", known.collect::<Vec<_>>().join(", "))))
            }
        }
    }

    /// One row per window, key, generation and value that moved: its value after each step.
    fn windows(&self, options: &ShowOptions) -> String {
        let keys: String = self.keys.iter().map(|key| format!("\"{key}\", ")).collect();
        let of_value = |value: &String| {
            let steps: Vec<String> =
                STEPS.iter().map(|step| format!("CAST(\"{step}\"['{value}'] AS VARCHAR) AS \"{step}\"")).collect();
            let moved =
                ["served", "base"].map(|step| format!("(\"{step}\"['{value}'] IS DISTINCT FROM dedup['{value}'])"));
            format!(
                "SELECT granularity, window_start, {keys}generation, '{value}' AS value, {}, unexplained FROM {} \
                 WHERE ({} OR unexplained > 0){}",
                steps.join(", "),
                drift_name(&options.aggregate),
                moved.join(" OR "),
                since(options),
            )
        };
        let all: Vec<String> = self.values.iter().map(of_value).collect();
        format!(
            "SELECT * FROM ({}) ORDER BY window_start, granularity, {keys}generation, value LIMIT {}",
            all.join(" UNION ALL "),
            options.limit
        )
    }

    /// Events that each step moved.
    fn sums(&self, options: &ShowOptions, groups: &[String]) -> String {
        let groups: Vec<String> = groups.iter().map(|group| format!("\"{group}\"")).collect();
        let groups = groups.join(", ");
        let events = |step: &str| format!("coalesce(\"{step}\"['events'], 0)");
        let moves = [("base", "arrived"), ("arrived", "fills"), ("fills", "late"), ("late", "dedup")];
        let moves =
            moves.map(|(before, step)| format!("sum({} - {}) AS \"{step}\"", events(step), events(before))).join(", ");
        format!(
            "SELECT {groups}, count(*) AS moved, {moves}, sum(unexplained) AS unexplained, min(window_start) AS first, \
             max(window_start) AS last FROM {} WHERE true{} GROUP BY {groups} ORDER BY moved DESC, {groups} LIMIT {}",
            drift_name(&options.aggregate),
            since(options),
            options.limit
        )
    }
}

fn since(options: &ShowOptions) -> String {
    options.since.map_or_else(String::new, |since| format!(" AND window_start >= TIMESTAMP '{since}'"))
}
