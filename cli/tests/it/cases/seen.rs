//! What a reader has seen of the served tables, look after look, and what no look may find.

use crate::harness::cases::{Case, Cases};
use std::collections::BTreeMap;

/// A null; "null" is a road.
const NONE: &str = "\u{2205}";

/// Case, and what tells its windows apart.
type Key = (String, String);

/// A served window.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Window {
    state: String,
    generation: i64,
    values: String,
}

/// Everything that was ever served.
#[derive(Debug, Default)]
pub struct Seen {
    /// As it was when it was there last.
    windows: BTreeMap<Key, Window>,
    restated: usize,
    /// Final windows that were no longer there, by look.
    gone: usize,
}

impl Seen {
    /// Looks again. Fails if a window is there twice, is less sure than it was, or has changed without saying so.
    #[track_caller]
    pub fn look(&mut self, cases: &Cases) {
        let now = read(cases);
        for (key, window) in &now {
            if let Some(before) = self.windows.get(key) {
                assert!(may_become(before, window), "{key:?}: {before:?} became {window:?}");
            }
        }
        let settled = self.windows.iter().filter(|(_, window)| window.state != "provisional");
        self.gone += settled.filter(|(key, _)| !now.contains_key(*key)).count();
        self.restated += now.values().filter(|window| window.state == "restated").count();
        self.windows.extend(now);
    }

    /// How many restated windows all looks have found.
    pub const fn restated(&self) -> usize {
        self.restated
    }

    /// How many windows that were final all looks have missed.
    pub const fn gone(&self) -> usize {
        self.gone
    }
}

fn may_become(before: &Window, now: &Window) -> bool {
    match (before.state.as_str(), now.state.as_str()) {
        ("provisional", "provisional") => now.generation == 0,
        ("provisional", _) => now.generation > 0,
        (_, "restated") if now.generation > before.generation => true,
        _ => before == now,
    }
}

fn read(cases: &Cases) -> BTreeMap<Key, Window> {
    let there = |case: &&Case| cases.project.path().join(format!("lake/served/{}/_delta_log", case.name)).exists();
    let of_each: Vec<_> = cases.all.iter().filter(there).map(query).collect();
    let mut windows = BTreeMap::new();
    if of_each.is_empty() {
        return windows;
    }
    for row in cases.project.rows(&of_each.join(" UNION ALL ")) {
        let text = |name: &str| row[name].as_str().unwrap().to_owned();
        let window =
            Window { state: text("state"), generation: row["generation"].as_i64().unwrap(), values: text("vals") };
        let before = windows.insert((text("name"), text("keys")), window);
        assert!(before.is_none(), "served twice: {row}");
    }
    windows
}

/// All windows of a case, keys and values each as one text.
fn query(case: &Case) -> String {
    let one = |columns: &[&str]| {
        let texts = columns.iter().map(|column| format!("coalesce(CAST({column} AS VARCHAR), '{NONE}')"));
        format!("concat_ws('|', {})", texts.collect::<Vec<_>>().join(", "))
    };
    let columns: Vec<&str> = case.expected().lines().next().unwrap().split(',').collect();
    let keys = 2 + case.keys().split(", ").filter(|key| !key.is_empty()).count();
    let counts = ["late", "duplicates", "filled"].into_iter().filter(|count| !columns.contains(count));
    let values: Vec<&str> = columns[keys..].iter().copied().chain(counts).collect();
    format!(
        "SELECT '{name}' AS name, {keys} AS keys, {values} AS vals, state, generation FROM served.{name}",
        name = case.name,
        keys = one(&columns[..keys]),
        values = one(&values)
    )
}
