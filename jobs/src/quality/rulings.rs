//! What became of each rule over all dates that were judged, for those who want no dates.

use super::run::Judged;
use deltaworks_core::quality::{Severity, Verdict};
use jiff::civil::Date;
use std::collections::BTreeMap;

/// By table and rule.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rulings(pub BTreeMap<(String, String), Ruling>);

/// One rule of one table.
#[derive(Debug, Clone, PartialEq)]
pub struct Ruling {
    /// Column, if it is about one.
    pub column: Option<String>,
    /// What is measured.
    pub measure: &'static str,
    /// What it must be.
    pub must: String,
    /// What a breach means.
    pub severity: Severity,
    /// Dates judged.
    pub dates: u64,
    /// Dates that breach it.
    pub breached: u64,
    /// Rows of these dates.
    pub rows: u64,
    /// The first date that breaches it, else the last one; and what was measured there, unless that failed.
    pub example: (Date, Option<f64>),
}

impl Rulings {
    /// Rows of a table that were judged; none if no rule of it was.
    #[must_use]
    pub fn rows(&self, table: &str) -> Option<u64> {
        self.0.iter().filter(|((of, _), _)| of == table).map(|(_, ruling)| ruling.rows).max()
    }

    /// Takes in the rules over one date.
    pub fn take(&mut self, judged: &[Judged]) {
        for one in judged {
            let (example, breached) = ((one.date, one.value), one.verdict == Verdict::Breached);
            let ruling = self.0.entry((one.table.clone(), one.rule.clone())).or_insert_with(|| Ruling {
                column: one.column.clone(),
                measure: one.measure,
                must: one.must.clone(),
                severity: one.severity,
                dates: 0,
                breached: 0,
                rows: 0,
                example,
            });
            if ruling.breached == 0 {
                ruling.example = example;
            }
            ruling.dates += 1;
            ruling.rows += one.rows;
            ruling.breached += u64::from(breached);
        }
    }
}
