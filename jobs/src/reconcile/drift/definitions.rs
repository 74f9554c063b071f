//! The definitions that units were computed under: the one of now, and older ones out of `ops.pins`.

use super::super::gather::Wanted;
use crate::batch::{definition_id, kept};
use crate::engine::aggregate::{Definition, Source};
use crate::error::Result;
use crate::lake::Lake;
use crate::project::aggregate_text;
use deltaworks_core::units::Fingerprint;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Definitions of one aggregate, by their short names; `None` for one that cannot be read any more.
#[derive(Debug)]
pub(super) struct Definitions {
    current: Fingerprint,
    known: BTreeMap<Fingerprint, Option<Arc<Definition>>>,
}

impl Definitions {
    /// The one of now.
    pub fn new(definition: &Arc<Definition>) -> Self {
        let current = definition_id(definition);
        Self { current, known: BTreeMap::from([(current, Some(Arc::clone(definition)))]) }
    }

    /// The short name of the one of now.
    pub const fn current(&self) -> Fingerprint {
        self.current
    }

    /// A definition. An older one is read again from its SQL, and is that one only if nothing else that belongs to it
    /// (lateness, lookups) has changed.
    ///
    /// # Errors
    /// `ops.pins` cannot be read.
    pub async fn get(&mut self, lake: &Lake, wanted: &Wanted, id: Fingerprint) -> Result<Option<Arc<Definition>>> {
        if let Some(known) = self.known.get(&id) {
            return Ok(known.clone());
        }
        let read = match kept(lake, &wanted.definition.name).await?.sql.get(&id) {
            Some(sql) => read(wanted, sql).await.filter(|definition| definition_id(definition) == id).map(Arc::new),
            None => None,
        };
        self.known.insert(id, read.clone());
        Ok(read)
    }
}

async fn read(wanted: &Wanted, sql: &str) -> Option<Definition> {
    let pipelines = [Arc::clone(&wanted.pipeline)];
    let mut file = aggregate_text(sql, &wanted.definition.path, &pipelines).ok()?;
    // sizes are no part of a definition: units of any that there are now may have been computed under it
    file.windows.clone_from(&wanted.definition.granularities);
    let engine = &wanted.engine;
    Definition::new(&file, &Source::of(&wanted.pipeline), &engine.lookups, &engine.session).await.ok()
}
