//! Whether the queries of rules can be planned over the contract's columns: before anything is measured.

use super::measure::{OBJECT, own};
use crate::engine::plan_over;
use crate::error::{Class, Error, Result, Stage};
use crate::land::schema::raw_schema;
use crate::project::contract::Measure;
use crate::project::settings::Settings;

/// Plans every rule that brings its own query.
///
/// # Errors
/// All queries that cannot be planned, by contract and rule.
pub async fn check(settings: &Settings) -> Result<()> {
    let mut wrong = Vec::new();
    for pipeline in &settings.pipelines {
        for rule in &pipeline.contract.quality {
            let Measure::Sql(query) = &rule.measure else { continue };
            if let Err(error) = plan_over((OBJECT, raw_schema(pipeline)), &own(query, rule)).await {
                let hint = error.hint.map(|hint| format!("\n  hint: {hint}")).unwrap_or_default();
                let path = pipeline.contract.path.display();
                wrong.push(format!("{path}: rule `{}`: {}{hint}", rule.name, error.message));
            }
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    Err(Error::new(Stage::Quality, Class::User, wrong.join("\n")))
}
