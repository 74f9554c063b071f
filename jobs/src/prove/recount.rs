//! The windows of one unit as they are published, held against those that the second engine computed, and the rows
//! that went into them against raw.
//!
//! Values must be equal, but for what is made of sums of doubles: these may differ by [`TOLERANCE`] of the greater.
//! Both engines round such a sum once, from what is exact or nearly so, so what is left are a few units in the last
//! place of what was computed after it.

use super::report::Checking;
use crate::second_engine::{Cell, Counts, Recomputed, Row};
use deltaworks_core::select::{Kind, Select, Term};
use deltaworks_core::units::Pin;
use jiff::civil::Date;
use std::collections::{BTreeMap, BTreeSet};

/// How far doubles that are made of sums may be apart, as a share of the greater.
pub(super) const TOLERANCE: f64 = 1e-12;

/// The counts of a row.
const COUNTS: [&str; 4] = ["events", "late", "duplicates", "filled"];

/// A column of the user's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OfUser {
    /// Its name.
    pub(super) name: String,
    /// Whether it tells rows of a window apart.
    pub(super) is_key: bool,
    /// Whether it is made of sums of doubles.
    pub(super) is_inexact: bool,
}

/// A row of a batch table.
#[derive(Debug, Clone)]
pub(super) struct Published {
    /// What the second engine computes too.
    pub(super) row: Row,
    /// Generation, pin and definition, as they are shown.
    pub(super) origin: [String; 3],
}

/// What is known of where rows come from.
#[derive(Debug, Clone)]
pub(super) struct Origin<'k> {
    /// Generation of the unit.
    pub(super) generation: i64,
    /// Every pin and definition that was recorded for the aggregate.
    pub(super) recorded: &'k BTreeSet<String>,
}

/// Start of the window, and the keys.
type Group<'r> = (i64, Vec<&'r Cell>);

/// The columns of the SELECT list; `keys` are those of the grouping.
pub(super) fn of_user(select: &Select, keys: &BTreeSet<String>) -> Vec<OfUser> {
    let is_inexact = |term: &Term| {
        let mut found = false;
        term.visit(&mut |term| {
            if let Term::Result(n, _) = term
                && let Some(call) = select.calls.get(*n)
            {
                let of_doubles = matches!(call.arguments.first().map(Term::kind), Some(Kind::Float { .. }));
                found |= match call.function.as_str() {
                    "sum" | "avg" => of_doubles,
                    "stddev" | "stddev_pop" | "var" | "var_pop" => true,
                    _ => false,
                };
            }
        });
        found
    };
    let column = |(name, term): &(String, Term)| OfUser {
        name: name.clone(),
        is_key: keys.contains(name),
        is_inexact: is_inexact(term),
    };
    select.list.iter().map(column).collect()
}

/// Holds the rows of a unit against each other.
pub(super) fn compare(
    check: &mut Checking,
    unit: &str,
    columns: &[OfUser],
    published: &[Published],
    computed: &[Row],
    origin: &Origin<'_>,
) {
    let mut left: BTreeMap<Group<'_>, &Row> = computed.iter().map(|row| (group(row, columns), row)).collect();
    let mut seen: BTreeSet<Group<'_>> = BTreeSet::new();
    for Published { row, origin: of_row } in published {
        let group = group(row, columns);
        let at = || format!("{unit} {}", shown(&group));
        check.compared("window rows", 1);
        if !seen.insert(group.clone()) {
            check.refute(format!("{} is there twice", at()));
            continue;
        }
        let Some(computed) = left.remove(&group) else {
            check.refute(format!("{} is published, and the second engine has no such row", at()));
            continue;
        };
        for difference in differences(columns, row, computed) {
            check.refute(format!("{}: {difference}", at()));
        }
        let [generation, pin, definition] = of_row;
        if *generation != origin.generation.to_string() {
            check.refute(format!("{}: generation is {generation}, and the ledger has {}", at(), origin.generation));
        }
        for (what, id) in [("pin", pin), ("definition", definition)] {
            if !origin.recorded.contains(id) {
                check.refute(format!("{}: {what} `{id}` is in no row of `ops.pins`", at()));
            }
        }
    }
    for group in left.keys() {
        check.refute(format!("{unit} {} is computed by the second engine, and not published", shown(group)));
    }
}

/// Accounts for every raw row of a unit: inside the pin, in a window, and counted as what it is.
pub(super) fn balance(
    check: &mut Checking,
    unit: &str,
    pin: &Pin,
    dates: impl Iterator<Item = Date>,
    published: &[Published],
    Recomputed { rows, counts }: &Recomputed,
) {
    let Counts { inside, landed, filtered, events, duplicates, .. } = counts;
    for date in dates {
        let have = inside.get(&day(date)).copied().unwrap_or(0);
        check.compared("rows of pins", have);
        check.equal(format!("{unit}: rows of {date} inside its pin"), have, pin.rows_of(date));
    }
    check.compared("rows balanced", *landed);
    check.compared("units", 1);
    // what is in no row: groups that HAVING took away, and those that have nothing but copies
    let sum = |of: usize| rows.iter().map(|row| row.counts[of].unsigned_abs()).sum::<u64>();
    let unseen = (events - sum(0).min(*events)) + (duplicates - sum(2).min(*duplicates));
    let told = |of: usize| published.iter().map(|p| i128::from(p.row.counts[of])).sum::<i128>();
    let (counted, copies) = (told(0), told(2));
    let fates = counted + copies + i128::from(unseen) + i128::from(*filtered);
    if fates != i128::from(*landed) {
        check.refute(format!(
            "{unit}: {landed} rows landed, but {counted} are counted + {copies} duplicates + {filtered} filtered + \
             {unseen} in no window row"
        ));
    }
    for Published { row, .. } in published {
        let [events, late, _, filled] = row.counts;
        if late > events || filled > events || row.counts.iter().any(|count| *count < 0) {
            check.refute(format!("{unit} {}: {late} late and {filled} filled of {events} events", start(row.start)));
        }
    }
}

/// Days since the Unix epoch.
pub(super) fn day(date: Date) -> i32 {
    (date - jiff::civil::date(1970, 1, 1)).get_days()
}

fn differences(columns: &[OfUser], have: &Row, computed: &Row) -> Vec<String> {
    let mut found = Vec::new();
    if have.end != computed.end {
        found.push(format!("its end is {}, and should be {}", start(have.end), start(computed.end)));
    }
    for (n, column) in columns.iter().enumerate() {
        let (a, b) = (have.values.get(n).unwrap_or(&Cell::Null), computed.values.get(n).unwrap_or(&Cell::Null));
        if !agree(a, b, column.is_inexact) {
            found.push(format!("{} is {a}, and {b} by the second engine", column.name));
        }
    }
    for (name, (a, b)) in COUNTS.iter().zip(have.counts.iter().zip(&computed.counts)) {
        if a != b {
            found.push(format!("{name} is {a}, and {b} by the second engine"));
        }
    }
    found
}

fn agree(a: &Cell, b: &Cell, is_inexact: bool) -> bool {
    match (a, b) {
        (Cell::Float(a), Cell::Float(b)) if is_inexact && a != b => {
            let (a, b) = (f64::from(*a), f64::from(*b));
            a.is_finite() && b.is_finite() && (a - b).abs() <= TOLERANCE * a.abs().max(b.abs())
        }
        _ => a == b,
    }
}

fn group<'r>(row: &'r Row, columns: &[OfUser]) -> Group<'r> {
    let keys = row.values.iter().zip(columns).filter(|(_, column)| column.is_key);
    (row.start, keys.map(|(cell, _)| cell).collect())
}

fn shown((at, keys): &Group<'_>) -> String {
    std::iter::once(start(*at)).chain(keys.iter().map(ToString::to_string)).collect::<Vec<_>>().join(" ")
}

fn start(us: i64) -> String {
    deltaworks_core::windows::Instant(us).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn float(x: f64) -> Cell {
        Cell::Float(x.into())
    }

    #[rstest]
    #[case::equal(float(0.1), float(0.1), false, true)]
    #[case::last_bit(float(0.1), float(0.1 + 1e-17 * 2.0), false, false)]
    #[case::last_bit_of_a_sum(float(0.1), float(0.1 + 1e-17 * 2.0), true, true)]
    #[case::far(float(1.0), float(1.0 + 1e-11), true, false)]
    #[case::far_below_zero(float(-1.0), float(-1.0 - 1e-11), true, false)]
    #[case::sign(float(1e-300), float(-1e-300), true, false)]
    #[case::zero(float(0.0), float(5e-324), true, false)]
    #[case::zeros(float(0.0), float(-0.0), false, true)]
    #[case::nan(float(f64::NAN), float(f64::NAN), true, true)]
    #[case::infinite(float(f64::INFINITY), float(f64::MAX), true, false)]
    #[case::nulls(Cell::Null, Cell::Null, true, true)]
    #[case::null(Cell::Null, float(0.0), true, false)]
    #[case::whole(Cell::Integer(1), Cell::Integer(2), true, false)]
    #[case::scale(Cell::Decimal(10, 1), Cell::Decimal(100, 2), false, false)]
    fn cells_agree(#[case] a: Cell, #[case] b: Cell, #[case] is_inexact: bool, #[case] agrees: bool) {
        assert_eq!((agree(&a, &b, is_inexact), agree(&b, &a, is_inexact)), (agrees, agrees));
    }
}
