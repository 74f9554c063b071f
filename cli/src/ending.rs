//! How a command ends: one JSON line for machines, an error for people, an exit code for both.

use crate::args::Global;
use crate::output;
use deltaworks_jobs::lineage::Outcome;
use deltaworks_jobs::{Class, Error};
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::process::ExitCode;

/// The end of a command.
#[derive(Debug)]
pub struct Ending {
    class: Option<Class>,
    status: Option<&'static str>,
    result: Option<Map<String, Value>>,
    error: Option<Error>,
}

impl Ending {
    /// Done, with nothing to say beyond what was printed.
    pub fn done() -> Self {
        Self { class: None, status: None, result: None, error: None }
    }

    /// Done; `result` becomes the last line on stdout.
    pub fn with(result: Value) -> Self {
        let Value::Object(result) = result else { return Self::done() };
        Self { result: Some(result), ..Self::done() }
    }

    /// Ended as `class` says, with a result.
    pub fn classed(class: Class, result: Value) -> Self {
        Self { class: Some(class), ..Self::with(result) }
    }

    /// The end of a job: its figures; a signal that stopped it; whether it shall say that there was nothing to do.
    pub fn job(run_id: &str, figures: &impl Serialize, stopped: Option<Class>, skipped: bool) -> Self {
        let mut result = json!({ "run_id": run_id, "retryable": false });
        if let (Some(result), Ok(Value::Object(figures))) = (result.as_object_mut(), serde_json::to_value(figures)) {
            result.extend(figures);
        }
        match stopped {
            Some(class) => Self::classed(class, result),
            None if skipped => Self::classed(Class::Skipped, result),
            None => Self::with(result),
        }
    }

    /// Adds the error that ended the command.
    pub fn and_error(mut self, error: Option<Error>) -> Self {
        if let Some(error) = error {
            self.class = Some(error.class);
            self.error = Some(error);
        }
        self
    }

    /// Whether it ended well: with work done, or with none to do.
    pub fn is_done(&self) -> bool {
        self.class.is_none_or(|class| class == Class::Skipped)
    }

    /// Whether there was nothing to do, and it was asked to say so.
    pub fn is_skipped(&self) -> bool {
        self.class == Some(Class::Skipped)
    }

    /// How it is told to others.
    pub fn outcome(&self) -> Outcome {
        match (&self.error, self.class) {
            (_, None | Some(Class::Skipped)) => Outcome::Complete,
            (_, Some(Class::Interrupted | Class::Terminated)) => Outcome::Abort,
            (Some(error), _) => Outcome::Fail(one_line(error)),
            (None, Some(_)) => Outcome::Fail(status(self.class).to_owned()),
        }
    }

    /// What it would say as its last line, without the exit code.
    pub fn told(&self) -> Value {
        let mut result = self.result.clone().unwrap_or_default();
        result.entry("status").or_insert_with(|| json!(self.status.unwrap_or_else(|| status(self.class))));
        Value::Object(result)
    }

    /// The same ending, with another result.
    pub fn saying(self, result: Value) -> Self {
        let Value::Object(result) = result else { return self };
        Self { result: Some(result), ..self }
    }

    /// Prints what is left to print and returns the exit code.
    pub fn finish(mut self, global: &Global) -> ExitCode {
        if let Some(error) = &self.error {
            output::talk(&render(error));
        }
        let code = self.class.map_or(0, Class::code);
        if let Some(mut result) = self.result.take() {
            result.entry("status").or_insert_with(|| json!(self.status.unwrap_or_else(|| status(self.class))));
            result.insert("exit_code".into(), json!(code));
            if let Some(class) = self.class {
                result.insert("retryable".into(), json!(class.retryable()));
            }
            if let Some(error) = &self.error {
                result.insert("error".into(), json!(one_line(error)));
            }
            let line = Value::Object(result).to_string();
            output::line(&line);
            if let Some(path) = &global.result_file
                && let Err(error) = std::fs::write(path, format!("{line}\n"))
            {
                output::talk(&format!("error: `{}` cannot be written: {error}", path.display()));
                return ExitCode::from(if code == 0 { 1 } else { code });
            }
        }
        ExitCode::from(code)
    }
}

impl From<Error> for Ending {
    fn from(error: Error) -> Self {
        Self::with(json!({})).and_error(Some(error))
    }
}

fn status(class: Option<Class>) -> &'static str {
    match class {
        None => "done",
        Some(Class::Skipped) => "nothing_to_do",
        Some(Class::Partly) => "partly",
        Some(Class::Interrupted | Class::Terminated) => "interrupted",
        Some(_) => "failed",
    }
}

/// An error and its causes.
pub fn one_line(error: &Error) -> String {
    format!("{}: {}", error.stage, error.told())
}

fn render(error: &Error) -> String {
    let mut text = format!("error: {}", one_line(error));
    if let Some(hint) = &error.hint {
        text.push_str(&format!("\n  hint: {hint}"));
    }
    text
}
