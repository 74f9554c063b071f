//! What may happen next, drawn from the seed: steps of people, producers and cron, and what goes wrong meanwhile.

use super::store::Death;
use crate::lake::faults::Fault;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// One message, or what stands for one.
#[derive(Debug, Clone)]
pub enum Message {
    /// A new event: minutes before now, value, key.
    Event {
        minutes: i64,
        value: i64,
        key: Option<u8>,
    },
    /// The event of an earlier message once more: which, counted back from the last, and how much later it happened.
    Copy {
        back: usize,
        hours: i64,
    },
    /// No event at all.
    Broken,
    /// An event of tomorrow.
    Ahead,
    Tombstone,
    /// An offset without a message.
    Marker,
    /// Whatever comes until the end is in a transaction.
    Begin,
    End {
        committed: bool,
    },
}

/// Something that somebody does.
#[derive(Debug, Clone)]
pub enum Step {
    // the world
    Send(Vec<(i32, Message)>),
    Pass {
        minutes: i64,
    },
    /// Kafka's retention removes half of what was landed.
    Expire,
    Deploy {
        contract: u8,
    },
    // the flow
    Stream,
    CatchUp {
        rebuild: bool,
    },
    Batch {
        forced: bool,
        quality_first: bool,
    },
    Reconcile,
    // the bad days
    Redrive {
        discarded_too: bool,
    },
    Discard,
    Rewind {
        partition: i32,
        back: i64,
    },
    Skip {
        partition: i32,
        ahead: i64,
    },
    Recompute {
        days: i64,
        forced: bool,
    },
    /// A range of the topic that was landed before, as a backfill.
    FillTopic {
        partition: i32,
        back: i64,
    },
    /// Goes on with a backfill that is open, if there is one.
    Resume,
    /// Gives a backfill up that is open, if there is one.
    Cancel,
    FillFiles {
        events: usize,
    },
    Forget {
        key: u8,
    },
    // upkeep
    Compact,
    Vacuum,
    Checkpoint,
    Archive {
        days: i64,
    },
    Retain {
        days: i64,
        archived: bool,
    },
    /// As a backfill, or directly.
    Restore {
        days: i64,
        backfill: bool,
    },
    Upkeep,
    Quality,
    // the whole truth
    Check,
}

/// What goes wrong during a step.
#[derive(Debug, Clone)]
pub enum Trouble {
    None,
    /// The `skip`-th request of the fault's kind (from 0) is hit.
    Store {
        fault: Fault,
        skip: usize,
    },
    /// The process dies.
    Crash(Death),
    /// Before its `at`-th commit (from 0) another process does something, start to end.
    Meanwhile {
        at: usize,
        step: Box<Step>,
    },
}

/// Keys are few, so that windows have several events.
const KEYS: u8 = 4;

/// Draws the next step, and what goes wrong with it.
pub fn draw(rng: &mut ChaCha8Rng) -> (Step, Trouble) {
    let step = step(rng);
    if !step.is_job() {
        return (step, Trouble::None);
    }
    let trouble = match rng.random_range(0..12) {
        0..=3 => Trouble::None,
        4..=6 => {
            let fault = *pick(rng, &FAULTS);
            Trouble::Store { fault, skip: few(rng, requests_of(fault)) }
        }
        7..=8 => Trouble::Crash(Death { at: few(rng, 160), after: rng.random() }),
        _ => Trouble::Meanwhile { at: few(rng, 4), step: Box::new(beside(rng)) },
    };
    (step, trouble)
}

impl Step {
    /// What it is called where steps are counted.
    pub fn kind(&self) -> String {
        let text = format!("{self:?}");
        text.split([' ', '(']).next().unwrap_or_default().to_owned()
    }

    /// Whether a process of ours does it, so that it may go wrong.
    pub const fn is_job(&self) -> bool {
        !matches!(self, Self::Send(_) | Self::Pass { .. } | Self::Expire | Self::Deploy { .. } | Self::Check)
    }
}

fn step(rng: &mut ChaCha8Rng) -> Step {
    match rng.random_range(0..1_000) {
        0..180 => Step::Send((0..rng.random_range(1..14)).map(|_| (partition(rng), message(rng))).collect()),
        180..280 => Step::Pass { minutes: rng.random_range(1..200) },
        280..285 => Step::Expire,
        285..300 => Step::Deploy { contract: rng.random_range(1..3) },
        300..460 => Step::Stream,
        460..515 => Step::CatchUp { rebuild: rng.random_bool(0.1) },
        515..570 => Step::Batch { forced: rng.random_bool(0.1), quality_first: rng.random_bool(0.2) },
        570..615 => Step::Reconcile,
        615..660 => Step::Redrive { discarded_too: rng.random_bool(0.2) },
        660..680 => Step::Discard,
        680..696 => Step::Rewind { partition: partition(rng), back: rng.random_range(0..40) },
        696..710 => Step::FillTopic { partition: partition(rng), back: rng.random_range(0..40) },
        710..722 => Step::Skip { partition: partition(rng), ahead: rng.random_range(0..3) },
        722..748 => Step::Recompute { days: rng.random_range(1..4), forced: rng.random() },
        748..764 => Step::Resume,
        764..774 => Step::Cancel,
        774..799 => Step::FillFiles { events: rng.random_range(1..20) },
        799..812 => Step::Forget { key: rng.random_range(0..KEYS) },
        812..872 => Step::Compact,
        872..892 => Step::Vacuum,
        892..905 => Step::Checkpoint,
        905..935 => Step::Archive { days: rng.random_range(0..4) },
        935..951 => Step::Retain { days: rng.random_range(1..6), archived: rng.random_bool(0.7) },
        951..980 => Step::Restore { days: rng.random_range(0..5), backfill: rng.random() },
        980..988 => Step::Upkeep,
        988..996 => Step::Quality,
        _ => Step::Check,
    }
}

/// What another process may do meanwhile: mostly what commits to the same tables.
fn beside(rng: &mut ChaCha8Rng) -> Step {
    match rng.random_range(0..12) {
        0..=1 => Step::Stream,
        2 => Step::CatchUp { rebuild: false },
        3..=4 => Step::Batch { forced: rng.random(), quality_first: false },
        5 => Step::Reconcile,
        6 => Step::Redrive { discarded_too: true },
        7 => Step::Rewind { partition: partition(rng), back: 40 },
        8 => Step::Resume,
        9 => Step::Cancel,
        _ => Step::Compact,
    }
}

fn message(rng: &mut ChaCha8Rng) -> Message {
    let key = rng.random_bool(0.9).then(|| rng.random_range(0..KEYS));
    match rng.random_range(0..100) {
        0..60 => Message::Event { minutes: rng.random_range(0..70), value: rng.random_range(-5..101), key },
        60..70 => Message::Event { minutes: rng.random_range(120..1_400), value: rng.random_range(-5..101), key },
        70..72 => Message::Event { minutes: rng.random_range(1_400..6_000), value: rng.random_range(-5..101), key },
        72..80 => Message::Copy { back: rng.random_range(0..30), hours: *pick(rng, &[0, 0, 1, 24, 40]) },
        80..88 => Message::Event { minutes: rng.random_range(0..70), value: rng.random_range(101..999), key },
        88..91 => Message::Broken,
        91..92 => Message::Ahead,
        92..94 => Message::Tombstone,
        94..96 => Message::Marker,
        96..98 => Message::Begin,
        _ => Message::End { committed: rng.random_bool(0.7) },
    }
}

/// Among how many of a job's requests a fault picks one: few jobs have more of its kind.
const fn requests_of(fault: Fault) -> usize {
    match fault {
        Fault::DropPut | Fault::LoseReply | Fault::AnswerTaken | Fault::DelayPut(_) | Fault::HoldPut => 6,
        Fault::FailRead | Fault::HoldRead => 60,
        Fault::FailList | Fault::MissEntry | Fault::StaleList => 12,
    }
}

/// The faults of the store.
pub const FAULTS: [Fault; 7] = [
    Fault::DropPut,
    Fault::LoseReply,
    Fault::AnswerTaken,
    Fault::FailRead,
    Fault::FailList,
    Fault::MissEntry,
    Fault::StaleList,
];

/// Small numbers more often than great ones.
fn few(rng: &mut ChaCha8Rng, max: usize) -> usize {
    let most = rng.random_range(1..=max);
    rng.random_range(0..most)
}

fn partition(rng: &mut ChaCha8Rng) -> i32 {
    rng.random_range(0..super::world::PARTITIONS)
}

fn pick<'o, T>(rng: &mut ChaCha8Rng, of: &'o [T]) -> &'o T {
    &of[rng.random_range(0..of.len())]
}
