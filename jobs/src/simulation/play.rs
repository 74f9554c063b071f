//! Plays steps: each job in a process of its own, with what goes wrong meanwhile, and now and then the whole truth.

use super::acts::Job;
use super::check::{Proof, Truth, no_window_is_frozen_too_early};
use super::steps::{FAULTS, Step, Trouble, draw};
use super::store::{Death, Pause, Seen};
use super::world::{PARTITIONS, World};
use crate::error::{Class, Error, Result};
use crate::lake::faults::{Fault, FaultCount, Script};
use deltalake::logstore::object_store::path::Path;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::mpsc;

/// How often the truth is told, at least.
const CHECK_EVERY: usize = 100;

/// One step of a seed.
#[derive(Debug, Clone)]
pub struct Planned {
    pub number: usize,
    step: Step,
    trouble: Trouble,
}

/// What came of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Played {
    /// Each step, with how many requests it made and how it ended.
    pub diary: Vec<String>,
    /// How often each trouble came.
    pub troubles: BTreeMap<&'static str, usize>,
    /// How often each job was done, and refused or failed.
    pub ends: BTreeMap<String, (usize, usize)>,
    /// What there was to be seen.
    pub seen: BTreeMap<&'static str, usize>,
}

/// Who plays.
struct Play {
    seed: u64,
    steps: usize,
    world: World,
    truth: Truth,
    played: Played,
}

impl Played {
    /// Adds how often all came in another play.
    pub fn add(&mut self, other: &Self) {
        for (name, count) in &other.troubles {
            *self.troubles.entry(name).or_default() += count;
        }
        for (job, (done, refused)) in &other.ends {
            let ends = self.ends.entry(job.clone()).or_default();
            *ends = (ends.0 + done, ends.1 + refused);
        }
        for (name, count) in &other.seen {
            *self.seen.entry(name).or_default() += count;
        }
    }
}

impl Drop for Play {
    #[expect(clippy::print_stderr, reason = "whoever reads a failed test needs it")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("played:\n{}", self.played.diary.join("\n"));
            eprintln!("play it again: make sim SEED={} STEPS={}", self.seed, self.steps);
        }
    }
}

/// The steps of a seed. They are drawn all at once, so that leaving some out changes none of the others.
pub fn plan(seed: u64, steps: usize) -> Vec<Planned> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut planned = |number| {
        let (step, trouble) = draw(&mut rng);
        Planned { number, step, trouble }
    };
    (0..steps).map(&mut planned).collect()
}

/// Plays a plan, and fails with what is not as it must be.
pub fn play(seed: u64, steps: usize, plan: &[Planned]) -> Played {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let troubles = FAULTS.into_iter().map(label).chain(["conflict", "crash", "another process"]);
    let played = Played { troubles: troubles.map(|name| (name, 0)).collect(), ..Played::default() };
    let mut play = Play { seed, steps, world: World::new(), truth: Truth::default(), played };
    runtime.block_on(play.all(plan));
    std::mem::take(&mut play.played)
}

impl Play {
    async fn all(&mut self, plan: &[Planned]) {
        for (n, Planned { number, step, trouble }) in plan.iter().enumerate() {
            self.played.diary.push(format!("{number}: {step:?}, {trouble:?}"));
            self.step(step, trouble).await;
            if (n + 1) % CHECK_EVERY == 0 {
                self.truth.check(&self.world, Proof::Lately).await;
            }
        }
        self.played.diary.push("at last".to_owned());
        self.truth.check(&self.world, Proof::All).await;
        self.played.seen = std::mem::take(&mut self.truth.seen);
    }

    async fn step(&mut self, step: &Step, trouble: &Trouble) {
        match step {
            Step::Send(messages) => {
                messages.iter().for_each(|(partition, message)| self.world.send(*partition, message));
            }
            Step::Pass { minutes } => self.world.pass(minutes * 60_000),
            Step::Expire => self.expire().await,
            Step::Deploy { contract } => self.world.deploy(*contract),
            Step::Check => self.truth.check(&self.world, Proof::All).await,
            Step::FillFiles { events } => {
                self.world.write_file(*events).await;
                self.job(step, trouble).await;
            }
            Step::Retain { .. } => {
                // what is served now is what stays of the dates that go
                self.truth.check(&self.world, Proof::None).await;
                self.job(step, trouble).await;
                no_window_is_frozen_too_early(&self.world).await;
            }
            _ => self.job(step, trouble).await,
        }
    }

    async fn expire(&self) {
        let mut nexts = BTreeMap::new();
        let job = Job { world: &self.world, lake: &self.world.lake };
        for partition in 0..PARTITIONS {
            nexts.extend(job.next_of(partition).await.unwrap().map(|next| (partition, next)));
        }
        self.world.expire(&nexts);
    }

    /// One process, and what goes wrong with it.
    async fn job(&mut self, step: &Step, trouble: &Trouble) {
        let (mut script, seen) = (Script::new(), Arc::new(Seen::default()));
        let (tell, mut paused) = mpsc::unbounded_channel();
        let mut fault: Option<(&'static str, FaultCount)> = None;
        let (mut death, mut pause): (Option<Death>, Option<Pause>) = (None, None);
        match trouble {
            Trouble::None => {}
            Trouble::Store { fault: of, skip } => fault = Some((label(*of), script.add(*of, hits(*of), *skip, 1))),
            Trouble::Crash(at) => death = Some(*at),
            Trouble::Meanwhile { at, .. } => pause = Some(Pause { at: *at, tell }),
        }
        let lake = self.world.lake_with(script, &seen, death, pause);
        let job = Job { world: &self.world, lake: &lake };
        let mut beside_ended = None;
        let ended = {
            let playing = job.run(step);
            tokio::pin!(playing);
            loop {
                tokio::select! {
                    biased;
                    ended = &mut playing => break ended,
                    Some(go) = paused.recv() => {
                        if let Trouble::Meanwhile { step: beside, .. } = trouble {
                            let other = Job { world: &self.world, lake: &self.world.lake };
                            beside_ended = Some((beside, other.run(beside).await));
                        }
                        let _ = go.send(());
                    }
                }
            }
        };
        let fired = fault.as_ref().map_or(0, |(_, count)| count.fired());
        if let Some((name, _)) = fault {
            self.came(name, fired);
        }
        self.came("crash", usize::from(seen.is_dead()));
        // an answer that the script made up is none
        let conflicts = if fired == 0 { seen.conflicts() } else { 0 };
        self.came("conflict", conflicts);
        self.played.diary.push(format!("   {} requests, {fired} hit, {conflicts} conflicts", seen.requests()));
        if let Some((beside, ended)) = beside_ended {
            self.came("another process", 1);
            self.end(beside, ended, true);
        }
        match seen.is_dead() {
            true => self.played.diary.push("   died".to_owned()),
            false => self.end(step, ended, fired + conflicts > 0),
        }
    }

    fn came(&mut self, trouble: &'static str, times: usize) {
        *self.played.troubles.entry(trouble).or_default() += times;
    }

    /// Fails where a job ended as it may not.
    #[track_caller]
    fn end(&mut self, step: &Step, ended: Result<()>, was_troubled: bool) {
        let ends = self.played.ends.entry(step.kind()).or_default();
        match ended {
            Ok(()) => ends.0 += 1,
            Err(error) => {
                ends.1 += 1;
                self.played.diary.push(format!("   {}: {:?}, {}", step.kind(), error.class, error.message));
                assert!(may_end(step, &error, was_troubled), "{step:?} ended with {error:?}");
            }
        }
    }
}

/// Whether a job may end like that: a fault may stop it, and some things are refused.
fn may_end(step: &Step, error: &Error, was_troubled: bool) -> bool {
    match (step, error.class) {
        (_, Class::Outside | Class::Partly | Class::Overlap) => was_troubled,
        (Step::Batch { quality_first, .. }, Class::Limit) => *quality_first,
        (Step::Batch { forced, .. }, Class::InputLost) => *forced,
        (
            Step::Retain { .. }
            | Step::Restore { .. }
            | Step::Archive { .. }
            | Step::Recompute { .. }
            | Step::Resume
            | Step::Skip { .. }
            | Step::Rewind { .. }
            | Step::FillTopic { .. }
            | Step::FillFiles { .. },
            Class::User | Class::InputLost | Class::InputNotYet,
        ) => true,
        _ => false,
    }
}

fn label(fault: Fault) -> &'static str {
    match fault {
        Fault::DropPut => "dropped put",
        Fault::LoseReply => "lost reply",
        Fault::AnswerTaken => "answer taken",
        Fault::DelayPut(_) | Fault::HoldPut => "delayed put",
        Fault::FailRead | Fault::HoldRead => "failed read",
        Fault::FailList => "failed list",
        Fault::MissEntry => "missed entry",
        Fault::StaleList => "stale listing",
    }
}

/// Which requests a fault can hit: only who commits is ever told that an object is there, and only logs are listed
/// from an offset on.
fn hits(fault: Fault) -> fn(&Path) -> bool {
    match fault {
        Fault::AnswerTaken => |path| path.as_ref().contains("/_delta_log/") && path.as_ref().ends_with(".json"),
        Fault::MissEntry | Fault::StaleList => |path| path.as_ref().ends_with("_delta_log"),
        _ => |_| true,
    }
}
