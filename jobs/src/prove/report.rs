//! What was proved, what was refuted by which counter-examples, and what was not proved at all.

use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Display;

/// Counter-examples that a check keeps.
const EXAMPLES_MAX: usize = 5;

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Everything that was compared agrees.
    Proved,
    /// Something does not, or nothing was compared.
    Refuted,
    /// It was not asked, or cannot be.
    NotProved,
}

/// One check of one table or pipeline.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// Which.
    pub check: &'static str,
    /// Of what: a table's or a pipeline's name.
    pub of: String,
    /// How it ended.
    pub verdict: Verdict,
    /// How much was compared: offsets, rows, dates, windows.
    pub compared: BTreeMap<&'static str, u64>,
    /// Counter-examples found.
    pub found: u64,
    /// The first of them.
    pub examples: Vec<String>,
    /// Why it was not proved.
    pub why: Option<String>,
}

/// A check under way.
#[derive(Debug)]
pub(super) struct Checking(Check);

impl Checking {
    pub(super) fn new(check: &'static str, of: impl Display) -> Self {
        Self(Check {
            check,
            of: of.to_string(),
            verdict: Verdict::NotProved,
            compared: BTreeMap::new(),
            found: 0,
            examples: Vec::new(),
            why: None,
        })
    }

    /// So much more was compared.
    pub(super) fn compared(&mut self, what: &'static str, count: u64) {
        *self.0.compared.entry(what).or_default() += count;
    }

    /// A counter-example.
    pub(super) fn refute(&mut self, example: impl Display) {
        self.0.found += 1;
        if self.0.examples.len() < EXAMPLES_MAX {
            self.0.examples.push(example.to_string());
        }
    }

    /// Two numbers that must be equal.
    pub(super) fn equal(&mut self, what: impl Display, have: impl PartialEq + Display, told: impl Display) {
        let (have, told) = (have.to_string(), told.to_string());
        if have != told {
            self.refute(format!("{what}: {have}, and should be {told}"));
        }
    }

    /// The check, ended. Without anything compared it is red: what looked at nothing proves nothing.
    pub(super) fn end(self) -> Check {
        let Self(mut check) = self;
        if check.found == 0 && check.compared.values().sum::<u64>() == 0 {
            check.found = 1;
            check.examples.push("nothing was compared".to_owned());
        }
        check.verdict = if check.found == 0 { Verdict::Proved } else { Verdict::Refuted };
        check
    }

    /// The check, not carried out.
    pub(super) fn not_proved(self, why: impl Into<String>) -> Check {
        Check { verdict: Verdict::NotProved, why: Some(why.into()), ..self.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_compared_is_red() {
        let check = Checking::new("rows", "raw.x").end();
        assert_eq!((check.verdict, check.examples), (Verdict::Refuted, vec!["nothing was compared".to_owned()]));
        let mut checking = Checking::new("rows", "raw.x");
        checking.compared("rows", 0);
        assert_eq!(checking.end().verdict, Verdict::Refuted);
    }

    #[test]
    fn the_first_counter_examples_are_kept_and_all_are_counted() {
        let mut checking = Checking::new("rows", "raw.x");
        checking.compared("rows", 9);
        checking.equal("same", 1, 1);
        (0..7).for_each(|n| checking.equal("rows", n, 9));
        let check = checking.end();
        assert_eq!((check.verdict, check.found, check.examples.len()), (Verdict::Refuted, 7, 5));
        assert_eq!(check.examples[0], "rows: 0, and should be 9");
    }
}
