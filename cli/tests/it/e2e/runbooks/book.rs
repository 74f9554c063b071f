//! One bad day of README.md, run as it is printed.
//!
//! A block is a `sh` fence below `<!-- runbook: DAY -->`; a day has several, and something happens between them. In a
//! block, `# exit N` behind a command is how it ends (0 without), and the lines that begin with `# ` are what the command
//! above them prints, in its order:
//! - Of stdout, JSON lines and other lines are told apart. Of a kind of which one line is printed all are, and a line that
//!   is only `…` stands for any number of them.
//! - stderr is talk: any line of it may be left out.
//! - In a line `…` stands for any text, in JSON for any value and for the rest of a list. JSON may have more fields than
//!   are printed of it. Blanks and how wide a table is drawn are not compared; all else is.
//!
//! Commands go through the shell, in the project's folder, with the binary on the PATH. Names of the README that are
//! others here (a topic, a bucket) are replaced in commands and in what they print.

use crate::e2e::support::{World, binary};
use serde_json::Value;
use std::collections::VecDeque;
use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};
use std::time::Instant;

const README: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");
const MARK: &str = "<!-- runbook: ";
/// What stands for whatever is there.
const ANYTHING: &str = "…";
/// How long a command may take, s.
const PATIENCE_S: &str = "90";

/// One command, what it prints and how it ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub command: String,
    pub code: i32,
    pub prints: Vec<String>,
}

/// What a command said.
#[derive(Debug, Clone, Copy)]
struct Said<'a> {
    out: &'a str,
    err: &'a str,
}

/// The blocks of one day, gone through in their order.
pub struct Book<'w> {
    world: &'w World,
    day: String,
    left: VecDeque<Vec<Step>>,
    /// Names of the README, and what they are here.
    names: Vec<(String, String)>,
    /// The folder that has the binary under its name.
    path: tempfile::TempDir,
    /// What all commands have said.
    pub said: String,
    differences: Vec<String>,
}

/// Every block of the README with the day that it belongs to.
pub fn blocks() -> Vec<(String, Vec<Step>)> {
    let readme = fs::read_to_string(README).unwrap();
    let (mut blocks, mut rest) = (Vec::new(), readme.as_str());
    while let Some((_, marked)) = rest.split_once(MARK) {
        let (day, fence) = marked.split_once(" -->\n").unwrap();
        let fence = fence.strip_prefix("```sh\n").unwrap_or_else(|| panic!("no `sh` fence below the mark of `{day}`"));
        let (block, after) = fence.split_once("```\n").unwrap();
        blocks.push((day.to_owned(), steps(block)));
        rest = after;
    }
    blocks
}

impl<'w> Book<'w> {
    /// The day's blocks, of which none was run.
    pub fn open(world: &'w World, day: &str) -> Self {
        let left: VecDeque<_> = blocks().into_iter().filter(|(name, _)| name == day).map(|(_, steps)| steps).collect();
        assert!(!left.is_empty(), "README.md has no `{day}`");
        let path = tempfile::tempdir().unwrap();
        symlink(binary(), path.path().join("deltaworks")).unwrap();
        let names = vec![("traffic.camera-events".to_owned(), world.topic.clone())];
        Self { world, day: day.to_owned(), left, names, path, said: String::new(), differences: Vec::new() }
    }

    /// Replaces what the README calls so.
    pub fn named(mut self, printed: &str, here: &str) -> Self {
        let used = self.left.iter().flatten().any(|step| step.command.contains(printed));
        assert!(used, "no command of `{}` has `{printed}`", self.day);
        self.names.push((printed.to_owned(), here.to_owned()));
        self
    }

    /// Runs the next block. Panics where a command ends otherwise than it says; what it does not print is kept for
    /// [`Book::close`], so that one run tells all of it.
    pub fn block(&mut self) {
        let steps = self.left.pop_front().unwrap_or_else(|| panic!("`{}` has no further block", self.day));
        for step in steps {
            let command = self.here(&step.command);
            let begun = Instant::now();
            let (code, out, err) = self.run(&command);
            let took = begun.elapsed();
            eprintln!("{}: $ {command}\n{err}{out}exit code {code} after {took:.1?}\n", self.day);
            assert_eq!(code, step.code, "{}: {command}", self.day);
            let prints: Vec<String> = step.prints.iter().map(|line| self.here(line)).collect();
            if !says(&prints, Said { out: &out, err: &err }) {
                let prints = prints.join("\n");
                self.differences.push(format!("$ {command}\nprints by the book\n{prints}\nand here\n{err}{out}"));
            }
            self.said += &(err + &out);
        }
    }

    /// Runs all blocks that are left, then [`Book::close`].
    pub fn rest(mut self) {
        while !self.left.is_empty() {
            self.block();
        }
        self.close();
    }

    /// Panics unless every block was run and printed what the README says.
    pub fn close(self) {
        assert!(self.left.is_empty(), "{}: {} blocks were not run", self.day, self.left.len());
        assert!(self.differences.is_empty(), "{}:\n{}", self.day, self.differences.join("\n"));
    }

    fn here(&self, text: &str) -> String {
        self.names.iter().fold(text.to_owned(), |text, (printed, here)| text.replace(printed, here))
    }

    /// Exit code, stdout and stderr.
    fn run(&self, command: &str) -> (i32, String, String) {
        let path = format!("{}:{}", self.path.path().display(), std::env::var("PATH").unwrap());
        let ran = Command::new("timeout")
            .args([PATIENCE_S, "bash", "-c", command])
            .current_dir(self.world.dir())
            .env("PATH", path)
            .env_remove("DELTAWORKS_LOG")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (ran.status.code().unwrap_or(-1), text(&ran.stdout), text(&ran.stderr))
    }
}

fn steps(block: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for line in block.lines() {
        match (line.strip_prefix("# "), steps.last_mut()) {
            (Some(printed), Some(step)) => step.prints.push(printed.to_owned()),
            (Some(_), None) => panic!("no command prints `{line}`"),
            (None, _) => steps.push(Step { command: line.to_owned(), code: code_of(line), prints: Vec::new() }),
        }
    }
    steps
}

fn code_of(command: &str) -> i32 {
    let Some((_, behind)) = command.split_once("# exit ") else { return 0 };
    let digits: String = behind.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or_else(|_| panic!("no exit code in `{command}`"))
}

/// Whether a command said what is printed of it.
fn says(printed: &[String], said: Said<'_>) -> bool {
    let (mut json, mut text): (Vec<&str>, Vec<&str>) = (Vec::new(), Vec::new());
    for (n, line) in printed.iter().enumerate() {
        // what is left out is of the kind of what is around it
        let around =
            if line == ANYTHING { &printed[if n == 0 { 1.min(printed.len() - 1) } else { n - 1 }] } else { line };
        if is_json(around) { json.push(line) } else { text.push(line) }
    }
    let (json_out, text_out): (Vec<&str>, Vec<&str>) = said.out.lines().partition(|line| is_json(line));
    let err: Vec<&str> = said.err.lines().collect();
    let text_said = (0..=text.len()).any(|of_err| {
        let (of_err, of_out) = text.split_at(of_err);
        within(of_err, &err) && (of_out.is_empty() || whole(of_out, &text_out))
    });
    text_said && (json.is_empty() || whole(&json, &json_out))
}

fn is_json(line: &str) -> bool {
    matches!(serde_json::from_str(line), Ok(Value::Object(_)))
}

/// Whether lines are those that are printed, with nothing before, between or behind them that `…` does not stand for.
fn whole(printed: &[&str], lines: &[&str]) -> bool {
    match printed.split_first() {
        None => lines.is_empty(),
        Some((&ANYTHING, rest)) => (0..=lines.len()).any(|left_out| whole(rest, &lines[left_out..])),
        Some((first, rest)) => lines.split_first().is_some_and(|(line, more)| agrees(first, line) && whole(rest, more)),
    }
}

/// Whether the lines that are printed are among these, in their order.
fn within(printed: &[&str], lines: &[&str]) -> bool {
    let mut lines = lines.iter();
    printed.iter().filter(|line| **line != ANYTHING).all(|printed| lines.any(|line| agrees(printed, line)))
}

/// Whether a line is the one that is printed.
fn agrees(printed: &str, line: &str) -> bool {
    match serde_json::from_str(printed) {
        Ok(printed @ Value::Object(_)) => serde_json::from_str::<Value>(line).is_ok_and(|line| has(&line, &printed)),
        _ => fits(printed, line),
    }
}

/// Whether a value has all that is printed of it.
fn has(value: &Value, printed: &Value) -> bool {
    match (printed, value) {
        (Value::String(printed), _) if printed == ANYTHING => true,
        (Value::String(printed), Value::String(text)) => fits(printed, text),
        (Value::Object(printed), Value::Object(fields)) => {
            printed.iter().all(|(name, printed)| fields.get(name).is_some_and(|value| has(value, printed)))
        }
        (Value::Array(printed), Value::Array(items)) => {
            let all = |printed: &[Value]| printed.iter().zip(items).all(|(printed, item)| has(item, printed));
            match printed.split_last() {
                Some((last, before)) if last == ANYTHING => before.len() < items.len() && all(before),
                _ => printed.len() == items.len() && all(printed),
            }
        }
        _ => printed == value,
    }
}

fn fits(printed: &str, text: &str) -> bool {
    let (printed, text) = (plain(printed), plain(text));
    let parts: Vec<&str> = printed.split(ANYTHING).collect();
    let [first, between @ .., last] = parts.as_slice() else { return printed == text };
    let Some(mut rest) = text.strip_prefix(*first) else { return false };
    for part in between {
        let Some((_, after)) = rest.split_once(*part) else { return false };
        rest = after;
    }
    rest.ends_with(*last)
}

/// A line without its blanks' and rules' lengths.
fn plain(line: &str) -> String {
    let mut plain = line.split_whitespace().collect::<Vec<_>>().join(" ");
    for rule in ["──", "══", "--"] {
        while plain.contains(rule) {
            plain = plain.replace(rule, &rule[..rule.len() / 2]);
        }
    }
    plain
}

#[test]
fn a_block_says_commands_ends_and_lines() {
    let block = "a --b  # exit 6\n# one\n# # two\n c 'd # e'\n";
    let step = |command: &str, code, prints: &[&str]| Step {
        command: command.to_owned(),
        code,
        prints: prints.iter().map(|line| (*line).to_owned()).collect(),
    };
    assert_eq!(steps(block), [step("a --b  # exit 6", 6, &["one", "# two"]), step(" c 'd # e'", 0, &[])]);
}

#[test]
fn what_is_printed_is_compared() {
    let same = [
        ("one  line", " one line"),
        ("…middle…", "the middle of it"),
        ("from … to …", "from 1 to 2"),
        (r#"{"a":1,"b":{"c":"…"}}"#, r#"{"x":0,"b":{"c":[1],"d":2},"a":1}"#),
        (r#"{"a":[{"b":1},"…"]}"#, r#"{"a":[{"b":1,"c":2},3,4]}"#),
        (r#"{"a":"x … z"}"#, r#"{"a":"x y z"}"#),
    ];
    for (printed, line) in same {
        assert!(agrees(printed, line), "{printed} {line}");
    }
    let other = [
        ("one line", "one line more"),
        ("…middle", "the middle of it"),
        (r#"{"a":1}"#, r#"{"a":2}"#),
        (r#"{"a":1}"#, r#"{"b":1}"#),
        (r#"{"a":1}"#, "no JSON"),
        (r#"{"a":[1]}"#, r#"{"a":[1,2]}"#),
        (r#"{"a":["…"]}"#, r#"{"a":[]}"#),
        (r#"{"a":"…b"}"#, r#"{"a":"bc"}"#),
    ];
    for (printed, line) in other {
        assert!(!agrees(printed, line), "{printed} {line}");
    }
}

#[test]
fn what_a_command_says_is_told_whole() {
    let out = "+----+\n| 1  |\n+----+\n{\"a\":1}\n{\"a\":2}\n";
    let said = Said { out, err: "log one\nlog two\n" };
    let says = |printed: &[&str]| super::book::says(&printed.iter().map(|l| (*l).to_owned()).collect::<Vec<_>>(), said);
    let table = ["+--+", "| 1 |", "+--+"];
    for printed in [
        &[][..],
        &table,
        &[r#"{"a":1}"#, r#"{"a":2}"#],
        &[r#"{"a":1}"#, "…"],
        &["…", r#"{"a":2}"#],
        &["log two", "+--+", "…", r#"{"a":1}"#, r#"{"a":2}"#],
        &["log one", "log two"],
    ] {
        assert!(says(printed), "{printed:?}");
    }
    for printed in [
        &table[..2],
        &table[1..],
        &["+--+", "| 2 |", "+--+"],
        &[r#"{"a":1}"#],
        &[r#"{"a":2}"#],
        &[r#"{"a":2}"#, r#"{"a":1}"#],
        &["+--+", "| 1 |", "+--+", "| 2 |"],
        &["log two", "log one"],
        &["log three"],
    ] {
        assert!(!says(printed), "{printed:?}");
    }
}
