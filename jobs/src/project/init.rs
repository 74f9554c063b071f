//! Writes a project to start from: an empty one, or an example that is embedded in the binary.
//!
//! No existing file is ever overwritten: all targets are looked at before the first is written.

use super::config;
use super::diagnostics::list;
use super::load::FILE;
use crate::error::{Class, Error, Result, Stage};
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

/// The JSON Schema that the written `deltaworks.yaml` refers to.
const SCHEMA_FILE: &str = "schemas/deltaworks.schema.json";

/// A project for an own topic.
const EMPTY: [(&str, &str); 2] =
    [(FILE, include_str!("examples/own.yaml")), ("schemas/my_event.odcs.yaml", include_str!("examples/own.odcs.yaml"))];

/// Traffic cameras of a city.
const TRAFFIC: [(&str, &str); 3] = [
    (FILE, include_str!("examples/traffic.yaml")),
    ("schemas/traffic/camera_event.odcs.yaml", include_str!("../../../schemas/traffic/camera_event.odcs.yaml")),
    ("sql/traffic/avg_speed.sql", include_str!("../../../sql/traffic/avg_speed.sql")),
];

/// The examples by name.
const EXAMPLES: [(&str, &[(&str, &str)]); 1] = [("traffic", &TRAFFIC)];

/// Writes a project into `dir`, which may not exist yet; returns the written files, relative to it.
///
/// # Errors
/// An unknown example, or a file that exists already ([`Class::User`]); nothing is written then. A
/// folder that cannot be written ([`Class::Outside`]).
pub fn init(dir: &Path, example: Option<&str>) -> Result<Vec<PathBuf>> {
    let files = files(example)?;
    let schema = format!("{:#}\n", config::json_schema());
    let all: Vec<(&str, &str)> = files.iter().copied().chain([(SCHEMA_FILE, schema.as_str())]).collect();
    let existing: Vec<&str> = all.iter().map(|(path, _)| *path).filter(|path| dir.join(path).exists()).collect();
    if !existing.is_empty() {
        return Err(exists(dir, &existing));
    }
    for (path, text) in &all {
        write(dir, path, text)?;
    }
    Ok(all.iter().map(|(path, _)| PathBuf::from(path)).collect())
}

fn files(example: Option<&str>) -> Result<&'static [(&'static str, &'static str)]> {
    let Some(name) = example else { return Ok(&EMPTY) };
    EXAMPLES.iter().find(|(known, _)| *known == name).map(|(_, files)| *files).ok_or_else(|| {
        let known: Vec<&str> = EXAMPLES.iter().map(|(known, _)| *known).collect();
        Error::new(Stage::Project, Class::User, format!("there is no example `{name}`"))
            .hint(format!("examples: {}", list(&known)))
    })
}

fn write(dir: &Path, path: &str, text: &str) -> Result<()> {
    let target = dir.join(path);
    let written = target
        .parent()
        .map_or(Ok(()), fs::create_dir_all)
        .and_then(|()| OpenOptions::new().write(true).create_new(true).open(&target)?.write_all(text.as_bytes()));
    written.map_err(|e| match e.kind() {
        ErrorKind::AlreadyExists => exists(dir, &[path]),
        _ => Error::new(Stage::Project, Class::Outside, format!("cannot write `{}`", target.display())).because(e),
    })
}

fn exists(dir: &Path, files: &[&str]) -> Error {
    let message = format!("{} in `{}` exists already and is not overwritten", list(files), dir.display());
    Error::new(Stage::Project, Class::User, message).hint("choose another folder, or move the file away")
}

#[cfg(test)]
mod tests {
    use super::super::{check, load};
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case(None)]
    #[case(Some("traffic"))]
    fn what_is_written_passes_the_check(#[case] example: Option<&str>) {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("new/project");
        let written = init(&dir, example).unwrap();
        assert!(written.iter().all(|f| dir.join(f).is_file()));
        let report = check(&dir, &|_| None);
        assert!(report.is_good(), "{}", report.diagnostics);
        assert_eq!(report.pipelines.len(), 1);
        let settings = load(&dir, &|_| None).unwrap();
        assert_eq!(settings.lake.url.path(), dir.join("lake").to_str().unwrap());
        assert!(settings.lake.storage.0.is_empty());
        assert_eq!(settings.kafka.0["bootstrap.servers"], "127.0.0.1:9092");
    }

    #[test]
    fn variables_lead_the_example_to_other_services() {
        let folder = tempfile::tempdir().unwrap();
        init(folder.path(), Some("traffic")).unwrap();
        let env = |name: &str| match name {
            "KAFKA_BROKERS" => Some("kafka:1".to_owned()),
            "DELTAWORKS_LAKE" => Some("s3://lake/here".to_owned()),
            "AWS_ENDPOINT_URL" => Some("http://127.0.0.1:9000".to_owned()),
            _ => None,
        };
        let settings = load(folder.path(), &env).unwrap();
        assert_eq!(settings.kafka.0["bootstrap.servers"], "kafka:1");
        assert_eq!(settings.lake.url.as_str(), "s3://lake/here");
        assert_eq!(settings.lake.storage.0["aws_endpoint"], "http://127.0.0.1:9000");
    }

    #[test]
    fn an_existing_file_is_named_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let mine = folder.path().join("schemas/my_event.odcs.yaml");
        fs::create_dir_all(mine.parent().unwrap()).unwrap();
        fs::write(&mine, "mine").unwrap();
        let error = init(folder.path(), None).unwrap_err();
        assert_eq!(error.class, Class::User);
        assert!(error.message.contains("`schemas/my_event.odcs.yaml`"), "{}", error.message);
        assert_eq!(fs::read_to_string(&mine).unwrap(), "mine");
        assert!(!folder.path().join(FILE).exists());
    }

    #[test]
    fn an_unknown_example_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(init(folder.path(), Some("weather")).unwrap_err().hint.unwrap(), "examples: `traffic`");
    }
}
