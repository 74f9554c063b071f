//! The one place where jobs are told to others: around each job, for all verbs of a process.
//!
//! Invariant: a job ends as it would without lineage, at most [`DEADLINE`] later.

use crate::ending::Ending;
use deltaworks_jobs::Result;
use deltaworks_jobs::clock::Clock;
use deltaworks_jobs::lineage::{Facts, Job, Outcome, Parent, RunOf, Teller, Telling, env_parent, resolve};
use deltaworks_jobs::project::settings::{LineageSettings, Settings};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// How long the end of the process may wait for events to be delivered.
const DEADLINE: Duration = Duration::from_secs(2);

/// Tells of jobs. Clones tell the same people.
#[derive(Debug, Clone)]
pub struct Lineage {
    /// Known with the first job.
    told: Arc<OnceLock<Option<Told>>>,
    /// The run that starts the jobs, if one does.
    parent: Option<Parent>,
}

#[derive(Debug)]
struct Told {
    teller: Arc<Teller>,
    settings: LineageSettings,
}

impl Lineage {
    /// Of a process that a scheduler may have started.
    pub fn new() -> Self {
        Self { told: Arc::default(), parent: env_parent(&variable) }
    }

    /// Does a job, and tells when it begins, now and then that it goes on, and how it ended.
    pub async fn around(
        &self,
        settings: &Settings,
        job: Job,
        work: impl Future<Output = Result<(Ending, Facts)>>,
    ) -> Result<Ending> {
        let Some(Told { teller, settings: to }) = self.told(settings) else {
            return work.await.map(|(ending, _)| ending);
        };
        let (teller, parent) = (teller.clone(), self.parent.clone());
        let telling = Telling::begin(teller, job, settings, to, parent, Clock::system());
        let mut work = std::pin::pin!(work);
        let ended = loop {
            tokio::select! {
                ended = &mut work => break ended,
                () = tokio::time::sleep(to.every) => telling.running(),
            }
        };
        match &ended {
            Ok((ending, facts)) => telling.end(&ending.outcome(), facts),
            Err(error) => telling.end(&Outcome::Fail(crate::ending::one_line(error)), &Facts::default()),
        }
        ended.map(|(ending, _)| ending)
    }

    /// For the jobs that `job` starts.
    pub fn under(&self, settings: &Settings, job: &Job) -> Self {
        let parent = self.told(settings).map(|told| {
            let run = RunOf {
                namespace: told.settings.namespace.clone(),
                name: job.kind.name().to_owned(),
                run_id: job.run_id.clone(),
            };
            Parent { root: self.parent.as_ref().map_or_else(|| run.clone(), |parent| parent.root.clone()), run }
        });
        Self { told: self.told.clone(), parent }
    }

    /// Waits until everything is told, or until it has waited long enough.
    pub async fn end(&self) {
        if let Some(Some(told)) = self.told.get() {
            told.teller.end(DEADLINE).await;
        }
    }

    fn told(&self, settings: &Settings) -> Option<&Told> {
        let first = || {
            let settings = resolve(settings, &variable).unwrap_or_else(|why| {
                tracing::warn!(why, "lineage is not told; the job goes on");
                None
            })?;
            let teller = Arc::new(Teller::start(settings.to.as_ref()?));
            Some(Told { teller, settings })
        };
        self.told.get_or_init(first).as_ref()
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
