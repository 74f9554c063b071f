//! Open windows, as the states of the speed table have them now.
//!
//! Invariant P1: what cannot be read of speed is told and changes nothing: rows that are served stay.

use super::portions::{self, Results, together};
use crate::engine::aggregate::{Definition, is_out_of_memory};
use crate::error::Result;
use crate::lake::{Lake, LiveFile};
use crate::speed::{SpeedTable, origin};
use deltaworks_core::place::Offset;
use deltaworks_core::served::Shown;
use deltaworks_core::speed::{Nexts, Standing};
use deltaworks_core::units::Fingerprint;
use deltaworks_core::windows::{Granularity, Window};
use jiff::civil::Date;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Whether an aggregate's open windows can be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SpeedUse {
    /// They are.
    Used,
    /// The aggregate has no speed, or nothing has begun it.
    None,
    /// The states are of another raw table or definition; they are made anew by `stream` or `speed catch-up`.
    Outdated,
    /// They cannot be read.
    Failed,
}

/// The states of one aggregate at one version.
#[derive(Debug)]
pub(super) struct Speed {
    table: SpeedTable,
    origin: Fingerprint,
    progress: i64,
}

impl Speed {
    /// The states, if they are of these rows of a raw table under this definition.
    ///
    /// # Errors
    /// The table cannot be read.
    pub async fn open(
        lake: &Lake,
        definition: &Arc<Definition>,
        raw_rows: Option<&str>,
    ) -> Result<(Option<Self>, SpeedUse)> {
        let Some(table) = SpeedTable::open(lake, definition).await? else { return Ok((None, SpeedUse::None)) };
        let Some(raw_rows) = raw_rows else { return Ok((None, SpeedUse::Outdated)) };
        match table.standing(raw_rows) {
            Standing::Usable => {}
            Standing::New => return Ok((None, SpeedUse::None)),
            Standing::OtherTable | Standing::OtherDefinition => return Ok((None, SpeedUse::Outdated)),
        }
        let (raw, meaning) = origin(raw_rows, definition);
        let origin = Fingerprint::of(format!("{raw} {meaning}").as_bytes());
        let progress = sum(&table.progress());
        Ok((Some(Self { table, origin, progress }), SpeedUse::Used))
    }

    /// The local dates that have states.
    pub async fn window_dates(&self) -> Result<BTreeSet<Date>> {
        self.table.window_dates().await
    }

    /// What there is of these windows.
    pub async fn offer(&self, within: Window) -> Result<Shown> {
        let files = self.table.files(within).await?;
        Ok(Shown { origin: self.origin, progress: self.progress, states: name_of(&files) })
    }

    /// The results of some granularities from the states of base windows within `within`. Windows that reach
    /// beyond have parts of their events only.
    pub async fn results(
        &self,
        definition: &Definition,
        within: Window,
        granularities: &[Granularity],
    ) -> Result<Results> {
        let states = self.table.states(within).await?;
        let all = async {
            let merged = definition.merge([states.clone()]).await?;
            together(definition, &merged, granularities).await
        };
        match all.await {
            Err(error) if is_out_of_memory(&error) => {
                tracing::debug!(aggregate = %definition.name, "memory is too small for all windows at once: some at a time");
                let mut results = Results::new();
                for granularity in granularities {
                    let rows = portions::results(definition, states.clone(), *granularity).await?;
                    results.insert(*granularity, rows);
                }
                Ok(results)
            }
            results => results,
        }
    }

    /// How far each partition is in.
    pub fn progress(&self) -> Nexts {
        self.table.progress()
    }

    /// States of windows on earlier local dates were let go.
    pub fn floor(&self) -> Option<Date> {
        self.table.floor()
    }

    /// The table, to let go of states.
    pub const fn table(&mut self) -> &mut SpeedTable {
        &mut self.table
    }
}

/// How many offsets are in, over all partitions.
fn sum(progress: &Nexts) -> i64 {
    progress.values().flat_map(BTreeMap::values).map(|Offset(next)| *next).fold(0, i64::saturating_add)
}

/// A name of these files: they never change, so equal names are equal states.
fn name_of(files: &[LiveFile]) -> Fingerprint {
    let mut paths: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
    paths.sort_unstable();
    Fingerprint::of(paths.join("\n").as_bytes())
}
