//! Windows of one unit: rows joined, filtered, grouped and aggregated, HAVING and the SELECT list.

use super::calls::Planned;
use super::cells::cells;
use super::decode::Frame;
use super::input::{COPY, Counts, FILLED, LATE, Rules, WINDOW, rows};
use super::terms::{expression, key_name};
use super::{Cell, Told, computed, unknown};
use deltaworks_core::select::{Join, Select, Term};
use polars::prelude::{DataFrame, DataType, Expr, IntoLazy, JoinArgs, JoinType, LazyFrame, Null, col, lit, when};
use std::sync::Arc;

/// The counts of a row, in the order of the product's columns.
const COUNTS: [&str; 4] = ["#events", "#lates", "#duplicates", "#fills"];

/// What to compute.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// The SELECT.
    pub select: Arc<Select>,
    /// The lookups that it joins, in order, each decoded as the table of its number.
    pub lookups: Vec<Frame>,
}

/// One window and key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Start of the window, microseconds.
    pub start: i64,
    /// Its end.
    pub end: i64,
    /// The user's columns, in the order of the SELECT list.
    pub values: Vec<Cell>,
    /// Events, late ones, duplicates, fills.
    pub counts: [i64; 4],
}

/// What came out.
#[derive(Debug, Clone, Default)]
pub struct Recomputed {
    /// Rows, in no order.
    pub rows: Vec<Row>,
    /// What was counted.
    pub counts: Counts,
}

impl Frame {
    /// The rows of these columns of table 0.
    ///
    /// # Errors
    /// A column is missing, or has values that have no cells.
    pub fn cells(&self, names: &[&str]) -> Told<Vec<Vec<Cell>>> {
        let names: Vec<String> = names.iter().map(|name| super::decode::column_name(0, name)).collect();
        cells_of(&self.0, &names)
    }
}

impl Recipe {
    /// Whether it can be computed at all, as far as that can be told without rows.
    ///
    /// # Errors
    /// The first part that cannot.
    pub fn judge(&self) -> Told<()> {
        let Select { joins, filters, keys, calls, having, list } = &*self.select;
        for (n, join) in joins.iter().enumerate() {
            conditions(join, n + 1)?;
        }
        for call in calls.iter().enumerate().map(|(n, call)| Planned::new(n, call)) {
            let call = call?;
            call.columns()?;
            drop(call.value()?);
        }
        let terms = filters.iter().chain(keys).chain(having).chain(list.iter().map(|(_, term)| term));
        terms.map(expression).try_for_each(|translated| translated.map(drop))
    }

    /// Computes the windows of `rules` from raw rows, those of the day before the unit's dates among them.
    ///
    /// # Errors
    /// A part of the SELECT cannot be expressed, or Polars refuses.
    pub fn recompute(&self, raw: Frame, rules: &Rules) -> Told<Recomputed> {
        self.judge()?;
        let mut counts = Counts::default();
        let rows = rows(raw, rules, &mut counts)?;
        let rows = self.joined(rows.lazy())?;
        let filters = self.select.filters.iter().map(expression).collect::<Told<Vec<_>>>()?;
        let kept = computed(filters.into_iter().fold(rows, LazyFrame::filter))?;
        counts.filtered = counts.landed - kept.height() as u64;
        counts.duplicates = kept.column(COPY)?.bool()?.sum().map_or(0, u64::from);
        counts.events = kept.height() as u64 - counts.duplicates;
        let groups = self.groups(kept)?;
        counts.groups = groups.height() as u64;
        Ok(Recomputed { rows: self.result(groups)?, counts })
    }

    fn joined(&self, mut rows: LazyFrame) -> Told<LazyFrame> {
        for (n, join) in self.select.joins.iter().enumerate() {
            let Some(lookup) = self.lookups.get(n) else { return unknown(format!("the lookup `{}`", join.lookup)) };
            let (on, filters) = conditions(join, n + 1)?;
            let names: Vec<String> = (0..on.len()).map(|i| format!("#join{n}.{i}")).collect();
            let (left, right): (Vec<Expr>, Vec<Expr>) = on
                .into_iter()
                .zip(&names)
                .map(|((left, right), name)| (left.alias(name.as_str()), right.alias(name.as_str())))
                .unzip();
            let keys: Vec<Expr> = names.iter().map(|name| col(name.as_str())).collect();
            let how = if join.keeps_all { JoinType::Left } else { JoinType::Inner };
            let lookup_rows = lookup.0.clone().lazy().with_columns(right);
            rows = rows.with_columns(left).join(lookup_rows, keys.clone(), keys, JoinArgs::new(how));
            let Some(filter) = filters.into_iter().reduce(Expr::and) else { continue };
            rows = if join.keeps_all {
                let columns = lookup.0.get_column_names_owned().into_iter().map(|name| {
                    when(filter.clone().fill_null(lit(false)))
                        .then(col(name.clone()))
                        .otherwise(lit(Null {}))
                        .alias(name)
                });
                rows.with_columns(columns.collect::<Vec<_>>())
            } else {
                rows.filter(filter)
            };
        }
        Ok(rows)
    }

    /// The windows and keys that have events, with keys `k<n>`, results `a<n>` and counts.
    fn groups(&self, rows: DataFrame) -> Told<DataFrame> {
        let calls = self.select.calls.iter().enumerate().map(|(n, call)| Planned::new(n, call));
        let calls = calls.collect::<Told<Vec<_>>>()?;
        let mut columns = Vec::new();
        for (n, key) in self.select.keys.iter().enumerate() {
            columns.push(expression(key)?.alias(key_name(n)));
        }
        for call in &calls {
            columns.extend(call.columns()?);
        }
        let by = WINDOW.map(str::to_owned).into_iter().chain((0..self.select.keys.len()).map(key_name));
        let by: Vec<Expr> = by.map(col).collect();
        let count = |of: Expr, name: &str| of.sum().cast(DataType::Int64).alias(name);
        let event = || col(COPY).not();
        let counts = [
            count(event(), COUNTS[0]),
            count(event().and(col(LATE)), COUNTS[1]),
            count(col(COPY), COUNTS[2]),
            count(event().and(col(FILLED)), COUNTS[3]),
        ];
        let gathered: Vec<Expr> = calls.iter().flat_map(Planned::gathered).chain(counts).collect();
        let groups = rows.lazy().with_columns(columns).group_by(by).agg(gathered);
        let mut groups = computed(groups.filter(col(COUNTS[0]).gt(lit(0_i64))))?;
        for call in &calls {
            call.finish(&mut groups)?;
        }
        let values = calls.iter().map(Planned::value).collect::<Told<Vec<_>>>()?;
        computed(groups.lazy().with_columns(values))
    }

    /// HAVING and the SELECT list.
    fn result(&self, groups: DataFrame) -> Told<Vec<Row>> {
        let mut kept = groups.lazy();
        if let Some(having) = &self.select.having {
            kept = kept.filter(expression(having)?);
        }
        let names: Vec<String> = (0..self.select.list.len()).map(|n| format!("#{n}")).collect();
        let list =
            self.select.list.iter().zip(&names).map(|((_, term), name)| Ok(expression(term)?.alias(name.as_str())));
        let list = list.collect::<Told<Vec<_>>>()?;
        let kept = computed(kept.with_columns(list))?;
        let whole = |name: &str| -> Told<Vec<i64>> { Ok(kept.column(name)?.i64()?.iter().flatten().collect()) };
        let (starts, ends) = (whole(WINDOW[0])?, whole(WINDOW[1])?);
        let counts = COUNTS.map(whole);
        let [events, late, duplicates, filled] = counts;
        let (events, late, duplicates, filled) = (events?, late?, duplicates?, filled?);
        let values = cells_of(&kept, &names)?;
        let rows = values.into_iter().enumerate().map(|(n, values)| Row {
            start: starts[n],
            end: ends[n],
            values,
            counts: [events[n], late[n], duplicates[n], filled[n]],
        });
        Ok(rows.collect())
    }
}

fn cells_of(frame: &DataFrame, names: &[String]) -> Told<Vec<Vec<Cell>>> {
    let mut rows: Vec<Vec<Cell>> = vec![Vec::with_capacity(names.len()); frame.height()];
    for name in names {
        for (row, cell) in rows.iter_mut().zip(cells(frame.column(name)?)?) {
            row.push(cell);
        }
    }
    Ok(rows)
}

/// Equalities between rows and the lookup, and what must be true beside.
type Conditions = (Vec<(Expr, Expr)>, Vec<Expr>);

/// The conditions of a join with the lookup of this number; equalities may stand among the others.
fn conditions(join: &Join, table: usize) -> Told<Conditions> {
    let (mut on, mut filters) = (Vec::new(), Vec::new());
    for (left, right) in &join.on {
        on.push((expression(left)?, expression(right)?));
    }
    let mut rest: Vec<&Term> = join.filter.iter().collect();
    while let Some(term) = rest.pop() {
        match term {
            Term::Apply { function, arguments, .. } if function == "AND" => rest.extend(arguments),
            Term::Apply { function, arguments, .. } if function == "=" => match arguments.as_slice() {
                [a, b] if side(a, table) == Side::Rows && side(b, table) == Side::Lookup => {
                    on.push((expression(a)?, expression(b)?));
                }
                [a, b] if side(b, table) == Side::Rows && side(a, table) == Side::Lookup => {
                    on.push((expression(b)?, expression(a)?));
                }
                _ => filters.push(expression(term)?),
            },
            other => filters.push(expression(other)?),
        }
    }
    if on.is_empty() {
        return unknown(format!("a join of `{}` without `=`", join.lookup));
    }
    Ok((on, filters))
}

/// Where the columns of a term come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Rows,
    Lookup,
    Neither,
}

fn side(term: &Term, table: usize) -> Side {
    let (mut rows, mut lookup) = (false, false);
    term.visit(&mut |term| {
        if let Term::Column { table: of, .. } = term {
            rows |= *of != table;
            lookup |= *of == table;
        }
    });
    match (rows, lookup) {
        (true, false) => Side::Rows,
        (false, true) => Side::Lookup,
        _ => Side::Neither,
    }
}
