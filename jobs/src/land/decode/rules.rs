//! The contract's row rules, made ready to judge one value each.
//!
//! Details name the limit as configured and never the value.

use super::refusal::{Judged, out_of_range, refuse};
use crate::project::contract::{Bound, BoundValue, Column, Kind, Rules};
use crate::{Class, Error, Result, Stage};
use deltaworks_core::reason::Reason;
use regex::Regex;

/// Least and greatest value of a column, each with whether the limit itself is excluded.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits<T> {
    minimum: Option<(T, bool)>,
    maximum: Option<(T, bool)>,
}

impl<T: PartialOrd + Copy> Limits<T> {
    /// Judges `value`; `show` writes a limit for the detail.
    #[inline]
    pub(super) fn judge(&self, value: T, show: impl Fn(T) -> String) -> Judged<()> {
        if let Some((minimum, exclusive)) = self.minimum
            && (value < minimum || (exclusive && value == minimum))
        {
            let word = if exclusive { "must be above" } else { "is below the minimum" };
            return Err(out_of_range(format!("the value {word} {}", show(minimum))));
        }
        if let Some((maximum, exclusive)) = self.maximum
            && (value > maximum || (exclusive && value == maximum))
        {
            let word = if exclusive { "must be below" } else { "is above the maximum" };
            return Err(out_of_range(format!("the value {word} {}", show(maximum))));
        }
        Ok(())
    }
}

/// The limits of a column whose bounds `read` understands.
pub(super) fn limits<T>(column: &Column, read: impl Fn(BoundValue) -> Option<T>) -> Result<Limits<T>> {
    let side = |bound: Option<Bound>| match bound {
        None => Ok(None),
        Some(bound) => match read(bound.value) {
            Some(value) => Ok(Some((value, bound.exclusive))),
            None => Err(Error::new(
                Stage::Land,
                Class::User,
                format!("the minimum or maximum of column `{}` does not fit its type", column.name),
            )
            .hint("give the bound in the column's own type")),
        },
    };
    Ok(Limits { minimum: side(column.rules.minimum)?, maximum: side(column.rules.maximum)? })
}

/// Least and greatest length: characters of a text, items of an array.
#[derive(Debug, Clone, Copy)]
pub(super) struct Length {
    minimum: usize,
    maximum: usize,
    unit: &'static str,
}

impl Length {
    pub(super) fn new(rules: &Rules, kind: &Kind) -> Self {
        let unit = if matches!(kind, Kind::Array(_)) { "items" } else { "characters" };
        Self { minimum: rules.length_min.unwrap_or(0), maximum: rules.length_max.unwrap_or(usize::MAX), unit }
    }

    pub(super) fn judge(&self, length: usize) -> Judged<()> {
        if length < self.minimum {
            return Err(out_of_range(format!("fewer than {} {}", self.minimum, self.unit)));
        }
        if length > self.maximum {
            return Err(out_of_range(format!("more than {} {}", self.maximum, self.unit)));
        }
        Ok(())
    }

    /// Counts the characters of a text only where they matter.
    #[inline]
    fn judge_text(&self, text: &str) -> Judged<()> {
        if self.minimum == 0 && text.len() <= self.maximum { Ok(()) } else { self.judge(text.chars().count()) }
    }
}

/// The rules of a text column.
#[derive(Debug)]
pub(super) struct TextRules {
    length: Length,
    /// The pattern, anchored at both ends, and its text in the contract.
    pattern: Option<(Regex, String)>,
}

impl TextRules {
    pub(super) fn new(column: &Column) -> Result<Self> {
        let pattern = column.rules.pattern.as_ref().map(|pattern| {
            let whole = Regex::new(&format!(r"\A(?:{})\z", pattern.as_str())).map_err(|error| {
                Error::new(Stage::Land, Class::User, format!("the pattern of column `{}` cannot be used", column.name))
                    .because(error)
            })?;
            Ok::<_, Error>((whole, pattern.as_str().to_owned()))
        });
        Ok(Self { length: Length::new(&column.rules, &column.kind), pattern: pattern.transpose()? })
    }

    #[inline]
    pub(super) fn judge(&self, text: &str) -> Judged<()> {
        self.length.judge_text(text)?;
        match &self.pattern {
            Some((whole, source)) if !whole.is_match(text) => {
                Err(refuse(Reason::Pattern, format!("the text does not match the pattern `{source}`")))
            }
            _ => Ok(()),
        }
    }
}

/// An unscaled decimal as people write it.
pub(super) fn show_decimal(unscaled: i128, scale: i8) -> String {
    let scale = usize::try_from(scale).unwrap_or(0);
    if scale == 0 {
        return unscaled.to_string();
    }
    let sign = if unscaled < 0 { "-" } else { "" };
    let digits = format!("{:0>width$}", unscaled.unsigned_abs(), width = scale + 1);
    let (whole, part) = digits.split_at(digits.len() - scale);
    format!("{sign}{whole}.{part}")
}
