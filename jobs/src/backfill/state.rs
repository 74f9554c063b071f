//! Which backfills there are, what each was made to do, and how it ended.
//!
//! All of it is in `ops.backfills` (`rows.rs`), so any machine can go on with any of them. What is in the plan of a
//! backfill, and how far it is done, is the business of its kind: nothing of that is decided here.
//!
//! Invariants: B1 a backfill has its whole plan or is not there; B2 it ends once; B3 of two at once that would do the very
//! same, one is created and the other continues it; B4 nothing is retried blind.

use super::rows::{backfills, plan_rows, put_created, put_ended, table as spec};
use crate::batch::{Permit, Run};
use crate::error::{Class, Error, Result, Stage};
use crate::faults;
use crate::lake::{AddedFile, Attempts, Commit, CommitOutcome, Lake, Table};
use async_trait::async_trait;
use deltaworks_core::backfill::{BackfillId, Event, Kind, State, Turn};
use deltaworks_core::windows::Instant;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::Mutex;

/// A backfill, as its rows tell.
#[derive(Debug, Clone, PartialEq)]
pub struct Backfill {
    /// Its id.
    pub id: BackfillId,
    /// What it does.
    pub kind: Kind,
    /// The aggregate or pipeline that it is about.
    pub target: String,
    /// What it was made to do, as its kind spells it.
    pub spec: Value,
    /// Items of its plan.
    pub items: u64,
    /// When it was created.
    pub created_at: Instant,
    /// Where it is.
    pub state: State,
    /// When it ended.
    pub ended_at: Option<Instant>,
}

/// A backfill to create.
#[derive(Debug)]
pub struct New<T> {
    /// What it does.
    pub kind: Kind,
    /// The aggregate or pipeline that it is about.
    pub target: String,
    /// What it is made to do: two of equal specification do the very same.
    pub spec: Value,
    /// Its plan, in the order in which it is carried out; an item is a row of JSON.
    pub items: Vec<T>,
    /// The backfills of its kind and target that the plan was judged against, if it has to be against all.
    pub judged_against: Option<Vec<BackfillId>>,
}

/// What came of creating a backfill.
#[derive(Debug)]
pub enum Created {
    /// It is there.
    New(Backfill),
    /// One that does the very same is open already.
    Same(Backfill),
    /// There is one that the plan was not judged against.
    Outdated,
}

/// Looks whether a backfill is still open, each time that it is asked.
#[derive(Debug)]
pub struct Watch {
    id: BackfillId,
    seen: Mutex<(Table, State)>,
}

impl Backfill {
    /// The command that goes on with it.
    #[must_use]
    pub fn resume_command(&self) -> String {
        format!("deltaworks backfill resume {}", self.id)
    }
}

impl Created {
    /// The backfill of a plan that was judged by itself.
    ///
    /// # Errors
    /// [`Class::Internal`] if it was judged against others.
    pub fn by_itself(self) -> Result<Backfill> {
        match self {
            Self::New(backfill) | Self::Same(backfill) => Ok(backfill),
            Self::Outdated => {
                let message = "a plan that is judged by itself was taken for outdated";
                Err(Error::new(Stage::Backfill, Class::Internal, message))
            }
        }
    }
}

/// Creates a backfill, unless one of the same specification is open.
///
/// # Errors
/// The store fails, or others keep committing first.
pub async fn create<T: Serialize>(lake: &Lake, new: &New<T>, run: &Run, now_ms: i64) -> Result<Created> {
    let mut table = lake.ensure_table(&spec()).await?;
    let identity = run.identity();
    let mut attempts = attempts(&table);
    let mut put: Option<(Backfill, Vec<AddedFile>)> = None;
    loop {
        let known = backfills(&table, None).await?;
        let is_same = |b: &&Backfill| b.kind == new.kind && b.target == new.target && b.spec == new.spec;
        if let Some(same) = known.iter().filter(|b| b.state == State::Open).find(is_same) {
            return Ok(Created::Same(same.clone()));
        }
        let is_alike = |b: &&Backfill| b.kind == new.kind && b.target == new.target;
        if let Some(judged) = &new.judged_against
            && known.iter().filter(is_alike).any(|b| !judged.contains(&b.id))
        {
            return Ok(Created::Outdated);
        }
        let is_free = |id: BackfillId| known.iter().all(|b| b.id != id);
        let (backfill, files) = match put.take() {
            Some(put) if is_free(put.0.id) => put,
            _ => {
                let backfill = name(new, is_free, run, now_ms)?;
                let files = put_created(&table, &backfill, &new.items, run).await?;
                (backfill, files)
            }
        };
        faults::point("before_backfill_create");
        let mut commit = Commit::new("WRITE", &identity)?;
        commit.adds.clone_from(&files);
        match table.commit(commit).await {
            CommitOutcome::Committed(_) => {
                faults::point("after_backfill_create");
                table.keep_log_short().await;
                return Ok(Created::New(backfill));
            }
            outcome => attempts.after(outcome).await?,
        }
        table.refresh().await?;
        if table.find_commit(&identity).is_some() {
            return Ok(Created::New(backfill));
        }
        put = Some((backfill, files));
    }
}

/// The open backfill of this specification, if there is one.
///
/// # Errors
/// The table cannot be read.
pub async fn open_one(lake: &Lake, kind: Kind, target: &str, spec: &Value) -> Result<Option<Backfill>> {
    let is_same = |b: &Backfill| b.state == State::Open && b.kind == kind && b.target == target && b.spec == *spec;
    Ok(all(lake).await?.into_iter().find(is_same))
}

/// The backfill of this id.
///
/// # Errors
/// [`Class::User`] if there is none; the table cannot be read.
pub async fn find(lake: &Lake, id: BackfillId) -> Result<Backfill> {
    match lake.open_table(&spec().name).await? {
        Some(table) => one(&table, id).await,
        None => Err(unknown(id)),
    }
}

/// All backfills, the newest first.
///
/// # Errors
/// The table cannot be read.
pub async fn all(lake: &Lake) -> Result<Vec<Backfill>> {
    match lake.open_table(&spec().name).await? {
        Some(table) => backfills(&table, None).await,
        None => Ok(Vec::new()),
    }
}

/// The plan of a backfill, in its order.
///
/// # Errors
/// [`Class::Internal`] if rows of it are gone or of another kind; the table cannot be read.
pub async fn items<T: DeserializeOwned>(lake: &Lake, backfill: &Backfill) -> Result<Vec<T>> {
    let broken = |what: &str| {
        let message = format!("the plan of backfill `{}` {what}", backfill.id);
        Error::new(Stage::Backfill, Class::Internal, message).hint("`ops.backfills` was changed by another tool")
    };
    let rows = match lake.open_table(&spec().name).await? {
        Some(table) => plan_rows(&table, backfill.id).await?,
        None => Default::default(),
    };
    if rows.len() as u64 != backfill.items {
        return Err(broken(&format!("has {} items, and should have {}", rows.len(), backfill.items)));
    }
    let items = rows.values().map(|item| serde_json::from_str(item));
    items.collect::<Result<_, _>>().map_err(|e| broken("cannot be read").because(e))
}

/// Records how a backfill ended, if it is open.
///
/// # Errors
/// [`Class::User`] if there is none of this id; the store fails, or others keep committing first.
pub async fn end(lake: &Lake, id: BackfillId, event: Event, run: &Run, now_ms: i64) -> Result<Turn> {
    let Some(mut table) = lake.open_table(&spec().name).await? else { return Err(unknown(id)) };
    let identity = run.identity();
    let mut attempts = attempts(&table);
    let mut files = None;
    loop {
        let backfill = one(&table, id).await?;
        if let turn @ Turn::Ended(_) = backfill.state.turn() {
            return Ok(turn);
        }
        let files = match &mut files {
            Some(files) => files,
            none => none.insert(put_ended(&table, &backfill, event, Instant::of_ms(now_ms), run).await?),
        };
        let mut commit = Commit::new("WRITE", &identity)?;
        commit.adds.clone_from(files);
        match table.commit(commit).await {
            CommitOutcome::Committed(_) => {
                table.keep_log_short().await;
                return Ok(Turn::Record);
            }
            outcome => attempts.after(outcome).await?,
        }
        table.refresh().await?;
        if table.find_commit(&identity).is_some() {
            return Ok(Turn::Record);
        }
    }
}

/// What a person reads who wants to go on with a backfill that was given up.
#[must_use]
pub fn cancelled(id: BackfillId) -> Error {
    Error::new(Stage::Backfill, Class::User, format!("backfill `{id}` was cancelled"))
        .hint("what it had done stays; `deltaworks backfill create` makes a new one for the rest")
}

impl Watch {
    /// Watches a backfill.
    ///
    /// # Errors
    /// As [`find`].
    pub async fn new(lake: &Lake, id: BackfillId) -> Result<Self> {
        let Some(table) = lake.open_table(&spec().name).await? else { return Err(unknown(id)) };
        let state = one(&table, id).await?.state;
        Ok(Self { id, seen: Mutex::new((table, state)) })
    }

    /// Whether somebody has given it up, as was last seen.
    pub async fn is_cancelled(&self) -> bool {
        self.seen.lock().await.1 == State::Cancelled
    }
}

#[async_trait]
impl Permit for Watch {
    async fn may_go_on(&self) -> Result<bool> {
        let mut seen = self.seen.lock().await;
        let (table, state) = &mut *seen;
        let version = table.version();
        table.refresh().await?;
        if table.version() != version {
            *state = one(table, self.id).await?.state;
        }
        // finished by another process: it leaves nothing to do, which is found out where units are chosen
        Ok(*state != State::Cancelled)
    }
}

/// A new backfill under an id that is free.
fn name<T>(new: &New<T>, is_free: impl Fn(BackfillId) -> bool, run: &Run, now_ms: i64) -> Result<Backfill> {
    let created_at = Instant::of_ms(now_ms);
    let date = created_at.utc_date().map_err(|e| {
        Error::new(Stage::Backfill, Class::Outside, "the clock stands in no year that dates are made for").because(e)
    })?;
    let ids = (0_u64..).map(|n| BackfillId::new(date, &format!("{}/{n}", run.id)));
    let id = ids
        .into_iter()
        .find(|id| is_free(*id))
        .ok_or_else(|| Error::new(Stage::Backfill, Class::Internal, format!("all ids of {date} are taken")))?;
    Ok(Backfill {
        id,
        kind: new.kind,
        target: new.target.clone(),
        spec: new.spec.clone(),
        items: new.items.len() as u64,
        created_at,
        state: State::Open,
        ended_at: None,
    })
}

async fn one(table: &Table, id: BackfillId) -> Result<Backfill> {
    backfills(table, Some(id)).await?.into_iter().next().ok_or_else(|| unknown(id))
}

fn unknown(id: BackfillId) -> Error {
    Error::new(Stage::Backfill, Class::User, format!("there is no backfill `{id}`"))
        .hint("`deltaworks backfill list` shows those that there are")
}

fn attempts(table: &Table) -> Attempts {
    Attempts::new(Stage::Backfill, format!("table `{}`", table.name()))
}
