//! Units that keep a former definition, as the commands that redo them.
//!
//! One command for an aggregate. Where its interval would take in units that raw can no longer give, and so be refused,
//! there is one for each granularity.

use super::plan::{Aggregate, Planned};
use deltaworks_core::units::{Idle, Interval, Plan, Reason, Refusal};
use deltaworks_core::windows::Granularity;
use std::collections::BTreeSet;

/// The commands that redo the units of `planned` that keep a former definition.
#[must_use]
pub fn backfill_lines(aggregates: &[Aggregate], planned: &[Planned]) -> Vec<String> {
    let of_aggregate = |(number, aggregate): (usize, &Aggregate)| {
        let units: Vec<&Planned> = planned.iter().filter(|p| p.aggregate == number).collect();
        lines(&aggregate.definition.name, &units)
    };
    aggregates.iter().enumerate().flat_map(of_aggregate).collect()
}

fn lines(aggregate: &str, planned: &[&Planned]) -> Vec<String> {
    let kept: Vec<&Planned> = planned.iter().copied().filter(|p| is_kept(p)).collect();
    let gone: Vec<&Planned> = planned.iter().copied().filter(|p| is_gone(p)).collect();
    let Some(interval) = interval_of(&kept) else { return Vec::new() };
    let line = |Interval { from, to }: Interval| {
        let bound = |name: &str, at: Option<_>| at.map(|at| format!(" --interval-{name} {at}")).unwrap_or_default();
        format!("deltaworks backfill create {aggregate}{}{}", bound("start", from), bound("end", to))
    };
    if gone.iter().all(|p| interval.select(&p.extent.windows).is_empty()) {
        return vec![line(interval)];
    }
    let sizes: BTreeSet<Granularity> = kept.iter().map(|p| p.unit.granularity).collect();
    let of_size = |size: &Granularity| {
        let kept: Vec<&Planned> = kept.iter().copied().filter(|p| p.unit.granularity == *size).collect();
        interval_of(&kept).map(|interval| format!("{} --granularity {size}", line(interval)))
    };
    sizes.iter().filter_map(of_size).collect()
}

fn is_kept(p: &Planned) -> bool {
    p.plan == Plan::Nothing { why: Idle::DefinitionKept }
}

/// Whether it would be redone if raw still had its dates.
fn is_gone(p: &Planned) -> bool {
    matches!(&p.plan, Plan::Refused { why: Refusal::BeyondRetention { reasons, .. } }
        if reasons.contains(&Reason::DefinitionChanged))
}

/// From before the first covered window of these units to the end of the last.
fn interval_of(units: &[&Planned]) -> Option<Interval> {
    let covered = units.iter().filter_map(|p| Some(p.extent.windows.ending_in(None, p.pin.covered?)));
    let bounds: Vec<_> = covered.filter_map(|windows| windows.start().zip(windows.end())).collect();
    let from = bounds.iter().map(|(start, _)| *start).min();
    Some(Interval { from: Some(from?), to: bounds.iter().map(|(_, end)| *end).max() })
}
