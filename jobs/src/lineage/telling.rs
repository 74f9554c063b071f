//! One run of a job being told: begun, going on, ended.

use super::datasets::{self, Datasets};
use super::event::{EventType, Facets, JobId, PRODUCER, Run, RunEvent, SPEC};
use super::facets;
use super::job::{Facts, Job, Parent};
use super::secrets::Secrets;
use super::teller::Teller;
use crate::clock::Clock;
use crate::project::settings::{LineageSettings, Settings};
use std::sync::Arc;

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Done, or nothing to do.
    Complete,
    /// Stopped by a signal.
    Abort,
    /// Failed; what the error says.
    Fail(String),
}

/// A run that has been told to begin. One that is dropped before its end was stopped.
#[derive(Debug)]
#[must_use]
pub struct Telling {
    job: Job,
    settings: Settings,
    namespace: String,
    secrets: Secrets,
    parent: Option<Parent>,
    teller: Arc<Teller>,
    clock: Clock,
    ended: bool,
}

impl Telling {
    /// Tells that a run begins, as `to` says. What is opened by way of `settings` is its doing.
    pub fn begin(
        teller: Arc<Teller>,
        job: Job,
        settings: &Settings,
        to: &LineageSettings,
        parent: Option<Parent>,
        clock: Clock,
    ) -> Self {
        let datasets = datasets::meant(&job, settings);
        let (secrets, namespace) = (Secrets::of(settings, to), to.namespace.clone());
        let settings = settings.clone();
        let telling = Self { job, settings, namespace, secrets, parent, teller, clock, ended: false };
        telling.tell(EventType::Start, datasets, None);
        telling
    }

    /// Tells how far it is.
    pub fn running(&self) {
        self.tell(EventType::Running, self.seen(&Facts::default()), None);
    }

    /// Tells how it ended.
    pub fn end(mut self, outcome: &Outcome, facts: &Facts) {
        self.ended = true;
        let datasets = self.seen(facts);
        match outcome {
            Outcome::Complete => self.tell(EventType::Complete, datasets, None),
            Outcome::Abort => self.tell(EventType::Abort, datasets, None),
            Outcome::Fail(why) => {
                let why = self.secrets.hide(why);
                self.tell(EventType::Fail, datasets, Some(&why));
            }
        }
    }

    fn seen(&self, facts: &Facts) -> Datasets {
        datasets::seen(&self.job, &self.settings, &self.settings.lake.witness.seen(), facts)
    }

    fn tell(&self, event_type: EventType, datasets: Datasets, error: Option<&str>) {
        let mut run = Facets::from([("processing_engine", facets::processing_engine())]);
        run.extend(self.parent.as_ref().map(|parent| ("parent", facets::parent(parent))));
        run.extend(facets::nominal_time(self.job.interval).map(|time| ("nominalTime", time)));
        run.extend(error.map(|error| ("errorMessage", facets::error_message(error))));
        let job = Facets::from([("jobType", facets::job_type(self.job.endless))]);
        let now = jiff::Timestamp::from_millisecond(self.clock.now_ms()).unwrap_or_default();
        self.teller.tell(&RunEvent {
            event_type,
            event_time: format!("{now:.3}"),
            run: Run { run_id: self.job.run_id.clone(), facets: run },
            job: JobId { namespace: self.namespace.clone(), name: self.job.kind.name().to_owned(), facets: job },
            inputs: datasets.inputs,
            outputs: datasets.outputs,
            producer: PRODUCER,
            schema_url: SPEC,
        });
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        if !self.ended {
            self.tell(EventType::Abort, self.seen(&Facts::default()), None);
        }
    }
}
