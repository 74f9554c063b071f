//! The aggregate functions that windows may be made of, and why others may not.
//!
//! A function is known if its states merge, and if its result depends on the set of rows alone: not on
//! their order, their files or the number of threads.

/// What a known function needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Care {
    /// Nothing: its state has a fixed size.
    Plain,
    /// Its state holds all its values.
    Values,
    /// The order of its rows must be complete.
    Order,
    /// Both.
    OrderedValues,
}

/// Known functions by the name that the plan has, whatever alias was typed.
const KNOWN: [(&str, Care); 19] = [
    ("avg", Care::Plain),
    ("array_agg", Care::OrderedValues),
    ("bit_and", Care::Plain),
    ("bit_or", Care::Plain),
    ("bit_xor", Care::Plain),
    ("bool_and", Care::Plain),
    ("bool_or", Care::Plain),
    ("count", Care::Plain),
    ("first_value", Care::Order),
    ("last_value", Care::Order),
    ("max", Care::Plain),
    ("median", Care::Values),
    ("min", Care::Plain),
    ("percentile_cont", Care::Values),
    ("stddev", Care::Plain),
    ("stddev_pop", Care::Plain),
    ("sum", Care::Plain),
    ("var", Care::Plain),
    ("var_pop", Care::Plain),
];

/// Functions that are refused for a reason of their own: name, reason, what to use.
const REFUSED: [(&str, &str, &str); 9] = [
    ("approx_distinct", APPROXIMATE, "use `count(DISTINCT x)`, which is exact"),
    ("approx_median", APPROXIMATE, "use `median(x)`, which is exact"),
    ("approx_percentile_cont", APPROXIMATE, "use `percentile_cont(0.9) WITHIN GROUP (ORDER BY x)`, which is exact"),
    (
        "approx_percentile_cont_with_weight",
        APPROXIMATE,
        "use `percentile_cont(0.9) WITHIN GROUP (ORDER BY x)`, which is exact",
    ),
    ("any_value", ARBITRARY, "use `min(x)` or `first_value(x ORDER BY …)`"),
    ("string_agg", ARBITRARY, "use `array_agg(x ORDER BY …)`"),
    ("nth_value", ARBITRARY, "use `first_value(x ORDER BY …)` or `last_value(x ORDER BY …)`"),
    ("corr", "its result would depend on the order of the rows", "use `avg` and `stddev`, which do not"),
    ("grouping", "a window has one grouping", "group by the columns themselves"),
];

const APPROXIMATE: &str = "its result differs from run to run";
const ARBITRARY: &str = "its result depends on the order in which rows are read";

/// What a function needs, or why it is refused and what to use.
pub(super) fn care_of(name: &str) -> Result<Care, (&'static str, String)> {
    if let Some((_, care)) = KNOWN.iter().find(|(known, _)| *known == name) {
        return Ok(*care);
    }
    if let Some((_, why, instead)) = REFUSED.iter().find(|(refused, ..)| *refused == name) {
        return Err((why, (*instead).to_owned()));
    }
    let known = crate::project::diagnostics::list(&KNOWN.map(|(name, _)| name));
    Err(("it is not known to give the same result whatever the order of the rows", format!("known are {known}")))
}
