//! What is wrong with the project's files: the place, what is wrong there, and what to do.
//!
//! All of it is collected before anything is reported, so a user mends a file in one go. A message
//! may repeat what was *typed*, never what a variable stood for, and never a value under `kafka` or
//! `storage`: any of these may be a secret.

use crate::error::{Class, Error, Stage};
use serde::Serialize;
use std::fmt;
use std::path::{Path, PathBuf};

/// A place in a file. Lines and columns count from 1; columns count characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize)]
pub struct Place {
    /// Line.
    pub line: usize,
    /// Column.
    pub column: usize,
}

impl Place {
    /// The beginning of a file, for what is missing as a whole.
    pub const START: Self = Self { line: 1, column: 1 };
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Diagnostic {
    /// The file, relative to the project.
    pub file: PathBuf,
    /// Where in it.
    #[serde(flatten)]
    pub place: Place,
    /// What is wrong there.
    pub message: String,
    /// What a person can do.
    pub hint: Option<String>,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file.display(), self.place.line, self.place.column, self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\n  hint: {hint}"),
            None => Ok(()),
        }
    }
}

/// Everything that is wrong with a project, in order of file and place.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(transparent)]
pub struct Report {
    diagnostics: Vec<Diagnostic>,
}

impl Report {
    /// The diagnostics, in order of file and place, each once.
    #[must_use]
    pub fn new(mut diagnostics: Vec<Diagnostic>) -> Self {
        diagnostics.sort();
        diagnostics.dedup();
        Self { diagnostics }
    }

    /// The diagnostics, in order of file and place.
    #[must_use]
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.diagnostics
    }

    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.diagnostics.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, diagnostic) in self.diagnostics.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            write!(f, "{diagnostic}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Report {}

impl From<Report> for Error {
    fn from(report: Report) -> Self {
        let message = match report.diagnostics.as_slice() {
            [one] => one.to_string(),
            many => format!("{} errors\n{report}", many.len()),
        };
        Self::new(Stage::Project, Class::User, message)
    }
}

/// Collects the diagnostics of one file.
#[derive(Debug)]
pub(crate) struct Sink {
    file: PathBuf,
    found: Vec<Diagnostic>,
}

impl Sink {
    pub(crate) fn new(file: &Path) -> Self {
        Self { file: file.to_path_buf(), found: Vec::new() }
    }

    pub(crate) fn error(&mut self, place: Place, message: impl Into<String>) {
        self.push(place, message.into(), None);
    }

    pub(crate) fn error_with(&mut self, place: Place, message: impl Into<String>, hint: impl Into<String>) {
        self.push(place, message.into(), Some(hint.into()));
    }

    /// `unknown <what> `name``, with the nearest known one.
    pub(crate) fn unknown<'k>(
        &mut self,
        place: Place,
        what: &str,
        name: &str,
        known: impl IntoIterator<Item = &'k str>,
    ) {
        self.push(place, format!("unknown {what} `{name}`"), Some(nearest(name, known)));
    }

    fn push(&mut self, place: Place, message: String, hint: Option<String>) {
        // a name of the user's may hold a line break, and a message is one line
        let message = message.replace('\n', "\\n");
        self.found.push(Diagnostic { file: self.file.clone(), place, message, hint });
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    pub(crate) fn into_found(self) -> Vec<Diagnostic> {
        self.found
    }
}

/// A hint that names the nearest of the known names, or all of them if none is near.
pub(crate) fn nearest<'k>(name: &str, known: impl IntoIterator<Item = &'k str>) -> String {
    let known: Vec<&str> = known.into_iter().collect();
    let best = known
        .iter()
        .map(|k| (strsim::jaro_winkler(&name.to_lowercase(), &k.to_lowercase()), *k))
        .max_by(|a, b| a.0.total_cmp(&b.0).then_with(|| b.1.cmp(a.1)));
    match best {
        Some((likeness, known)) if likeness >= 0.8 => format!("did you mean `{known}`?"),
        Some(_) => format!("known here: {}", list(&known)),
        None => "nothing is known here".to_owned(),
    }
}

/// Names in backticks, with commas.
pub(crate) fn list(names: &[impl AsRef<str>]) -> String {
    names.iter().map(|n| format!("`{}`", n.as_ref())).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn diagnostic(line: usize) -> Diagnostic {
        Diagnostic {
            file: "deltaworks.yaml".into(),
            place: Place { line, column: 5 },
            message: "unknown key `topicc`".to_owned(),
            hint: Some(nearest("topicc", ["topic", "group"])),
        }
    }

    #[test]
    fn a_block_names_the_place_and_the_way_out() {
        assert_eq!(
            diagnostic(12).to_string(),
            "deltaworks.yaml:12:5: unknown key `topicc`\n  hint: did you mean `topic`?"
        );
    }

    #[test]
    fn a_report_is_sorted_and_becomes_an_error_of_the_user() {
        let report = Report::new(vec![diagnostic(9), diagnostic(2), diagnostic(9)]);
        assert_eq!(report.diagnostics().iter().map(|d| d.place.line).collect::<Vec<_>>(), [2, 9]);
        let error = Error::from(report);
        assert_eq!(error.class, Class::User);
        assert!(error.message.starts_with("2 errors\ndeltaworks.yaml:2:5"), "{}", error.message);
    }

    #[test]
    fn a_far_name_gets_the_whole_list() {
        assert_eq!(nearest("zzz", ["topic", "group"]), "known here: `topic`, `group`");
    }
}
