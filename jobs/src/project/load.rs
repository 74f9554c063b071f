//! Opens a project's files and hands them from step to step: the only place here that reads.

use super::config::{self, OptionText};
use super::contract::Contract;
use super::diagnostics::{Diagnostic, Place, Report, Sink};
use super::settings::{AggregateFile, LookupFile, LookupFormat, Options, Pipeline, Settings};
use super::validate::{TABLE_NAME_HINT, Validator, is_table_name};
use super::variables::{self, Env};
use super::yaml::{self, Key, Node, Value};
use super::{aggregate, odcs, shape};
use crate::error::{Class, Error, Result, Stage};
use serde::de::DeserializeOwned;
use serde_json::Value as Json;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The project file.
pub const FILE: &str = "deltaworks.yaml";

/// The nearest folder at or above `start` that has a `deltaworks.yaml`.
///
/// # Errors
/// There is none ([`Class::User`]).
pub fn find(start: &Path) -> Result<PathBuf> {
    let start = std::path::absolute(start).unwrap_or_else(|_| start.to_path_buf());
    let found = start.ancestors().find(|dir| dir.join(FILE).is_file());
    found.map(Path::to_path_buf).ok_or_else(|| {
        let message = format!("no `{FILE}` in `{}` or above", start.display());
        Error::new(Stage::Project, Class::User, message)
            .hint("`deltaworks init DIR` writes a project to start from; `--project DIR` names another folder")
    })
}

/// Reads and judges the project in `dir`.
///
/// # Errors
/// Everything that is wrong with its files, at once.
pub fn load(dir: &Path, env: Env<'_>) -> Result<Settings, Report> {
    read(dir, env).into_settings()
}

/// Reads one aggregate's SQL file that need not be named in `deltaworks.yaml`; `path` is absolute or
/// relative to the current folder.
///
/// # Errors
/// Everything that is wrong with its header.
pub fn aggregate_file(settings: &Settings, path: &Path) -> Result<AggregateFile, Report> {
    match std::fs::read_to_string(path) {
        Ok(text) => aggregate_text(&text, path, &settings.pipelines),
        Err(e) => {
            let mut sink = Sink::new(path);
            sink.error(Place::START, format!("cannot be read: {}", e.kind()));
            Err(Report::new(sink.into_found()))
        }
    }
}

/// Reads the text of an aggregate's SQL file; `path` is for what is said of it.
///
/// # Errors
/// Everything that is wrong with its header.
pub fn aggregate_text(text: &str, path: &Path, pipelines: &[Arc<Pipeline>]) -> Result<AggregateFile, Report> {
    let mut sink = Sink::new(path);
    let names: Vec<&str> = pipelines.iter().map(|p| p.name.as_str()).collect();
    let read = aggregate::read(text, path, &names, pipelines, &mut sink);
    read.ok_or_else(|| Report::new(sink.into_found()))
}

/// What reading a project gave: settings if nothing is wrong, and what was looked at.
#[derive(Default)]
pub(super) struct Reading {
    settings: Option<Settings>,
    diagnostics: Vec<Diagnostic>,
    pub(super) pipelines: Vec<String>,
    pub(super) contracts: Vec<PathBuf>,
    pub(super) aggregates: Vec<PathBuf>,
}

impl Reading {
    pub(super) fn into_settings(self) -> Result<Settings, Report> {
        match self.settings {
            Some(settings) if self.diagnostics.is_empty() => Ok(settings),
            _ => Err(Report::new(self.diagnostics)),
        }
    }

    pub(super) fn report(&self) -> Report {
        Report::new(self.diagnostics.clone())
    }

    /// What could be read, also where something is wrong elsewhere.
    pub(super) fn into_partial(self) -> Option<Settings> {
        self.settings
    }
}

/// Reads everything, also after errors.
pub(super) fn read(dir: &Path, env: Env<'_>) -> Reading {
    let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_path_buf());
    let mut sink = Sink::new(Path::new(FILE));
    let mut reading = Reading::default();
    let tree = open(&dir.join(FILE), FILE, Place::START, &mut sink).and_then(|text| yaml::parse(&text, &mut sink));
    if let Some(mut tree) = tree {
        variables::substitute(&mut tree, env, &mut sink);
        let contracts = contracts(&tree, &dir, &mut sink, &mut reading);
        reading.pipelines = entries(&tree, "pipelines").map(|(k, _)| k.name.clone()).collect();
        reading.settings = settings(&tree, &dir, &contracts, &mut sink, &mut reading);
    }
    reading.diagnostics.extend(sink.into_found());
    reading
}

fn settings(
    tree: &Node,
    dir: &Path,
    contracts: &BTreeMap<String, Arc<Contract>>,
    sink: &mut Sink,
    reading: &mut Reading,
) -> Option<Settings> {
    let schema = config::json_schema();
    let root_key = Key { name: FILE.to_owned(), place: tree.place };
    let json = shape::read(tree, &schema, &schema, &root_key, sink)?;
    let mut validator = Validator { sink, root: tree };
    let memory = validator.memory(json.get("memory").and_then(Json::as_str));
    let served: Option<config::Served> = json.get("served").and_then(typed_as);
    let served_every = validator.served_every(served.and_then(|served| served.every).as_deref());
    let lineage: Option<config::Lineage> = json.get("lineage").and_then(typed_as);
    let lineage = lineage.map(|typed| validator.lineage(dir, &typed));
    let kafka = validator.kafka(options(&json, "kafka"));
    let storage = options(&json, "storage");
    let lake = json.get("lake").and_then(Json::as_str).and_then(|typed| validator.lake(dir, typed, storage));
    let mut pipelines = Vec::new();
    for (key, _) in entries(tree, "pipelines") {
        let typed = json.get("pipelines").and_then(|p| p.get(&key.name));
        let typed: Option<config::Pipeline> = typed.and_then(typed_as);
        let contract = contracts.get(&key.name);
        pipelines.extend(typed.and_then(|p| validator.pipeline(&key.name, &p, contract)).map(Arc::new));
    }
    if tree.get("pipelines").is_some_and(|p| matches!(p.value, Value::Map(_)) && p.entries().is_empty()) {
        let place = tree.get("pipelines").map_or(Place::START, |p| p.place);
        sink.error(place, "`pipelines` is empty");
    }
    let aggregates = aggregates(tree, dir, &pipelines, sink, reading);
    let lookups = lookups(tree, dir, &pipelines, sink);
    if typed_as::<config::Project>(&json).is_none() && sink.is_empty() {
        sink.error(tree.place, "the file does not have the shape of its JSON Schema");
    }
    Some(Settings {
        dir: dir.to_path_buf(),
        lake: lake?,
        kafka,
        memory_bytes: usize::try_from(memory).unwrap_or(usize::MAX),
        served_every,
        lineage,
        pipelines,
        aggregates,
        lookups,
    })
}

/// The contract of every pipeline that has a readable one; each file is read once.
fn contracts(tree: &Node, dir: &Path, sink: &mut Sink, reading: &mut Reading) -> BTreeMap<String, Arc<Contract>> {
    let mut files: BTreeMap<PathBuf, Option<Arc<Contract>>> = BTreeMap::new();
    let mut of_pipelines = BTreeMap::new();
    for (key, pipeline) in entries(tree, "pipelines") {
        let Some((node, path)) = pipeline.get("contract").and_then(|n| n.scalar().map(|s| (n, s))) else { continue };
        let file = PathBuf::from(&path.text);
        if !files.contains_key(&file) {
            let Some(text) = open(&dir.join(&file), &path.typed, node.place, sink) else { continue };
            let mut own = Sink::new(Path::new(&path.typed));
            let contract = odcs::read(&text, &file, &mut own).map(Arc::new);
            reading.contracts.push(PathBuf::from(&path.typed));
            reading.diagnostics.extend(own.into_found());
            files.insert(file.clone(), contract);
        }
        if let Some(Some(contract)) = files.get(&file) {
            of_pipelines.insert(key.name.clone(), Arc::clone(contract));
        }
    }
    of_pipelines
}

/// The aggregates whose header is right.
fn aggregates(
    tree: &Node,
    dir: &Path,
    pipelines: &[Arc<Pipeline>],
    sink: &mut Sink,
    reading: &mut Reading,
) -> Vec<Arc<AggregateFile>> {
    let mut files: Vec<Arc<AggregateFile>> = Vec::new();
    let names: Vec<&str> = entries(tree, "pipelines").map(|(key, _)| key.name.as_str()).collect();
    for node in tree.get("aggregates").map_or(&[][..], Node::items) {
        let Some(path) = node.scalar() else { continue };
        let Some(text) = open(&dir.join(&path.text), &path.typed, node.place, sink) else { continue };
        let file = PathBuf::from(&path.typed);
        let mut own = Sink::new(&file);
        let read = aggregate::read(&text, &file, &names, pipelines, &mut own);
        reading.diagnostics.extend(own.into_found());
        reading.aggregates.push(file);
        match read {
            Some(read) if files.iter().any(|f| f.name == read.name) => {
                sink.error(node.place, format!("there is already an aggregate `{}`", read.name));
            }
            read => files.extend(read.map(Arc::new)),
        }
    }
    files
}

/// The lookups whose file is there and of a known form. What is in it is for the engine to judge.
fn lookups(tree: &Node, dir: &Path, pipelines: &[Arc<Pipeline>], sink: &mut Sink) -> Vec<LookupFile> {
    let taken: BTreeSet<&str> = pipelines.iter().map(|p| p.name.as_str()).collect();
    let mut files = Vec::new();
    for (name, lookup) in entries(tree, "lookups") {
        if !is_table_name(&name.name) {
            let message = format!("`{}` cannot be the name of a lookup", name.name.escape_debug());
            sink.error_with(name.place, message, TABLE_NAME_HINT);
        } else if taken.contains(name.name.as_str()) {
            sink.error(name.place, format!("there is already a pipeline `{}`", name.name));
        }
        let (Some(path), Some(key)) = (lookup.get("path"), lookup.get("key")) else { continue };
        let (Some(typed), Some(column)) = (path.scalar(), key.text()) else { continue };
        let file = dir.join(&typed.text);
        if !file.exists() {
            let hint = "paths are relative to `deltaworks.yaml`";
            sink.error_with(path.place, format!("there is no file `{}`", typed.typed), hint);
            continue;
        }
        let Some(format) = lookup_format(&file) else {
            let message = format!("`{}` cannot be a lookup", typed.typed);
            sink.error_with(
                path.place,
                message,
                "lookups are `.csv` files, `.parquet` files and folders of Delta tables",
            );
            continue;
        };
        let places = (path.place, key.place);
        files.push(LookupFile { name: name.name.clone(), path: file, format, key: column.to_owned(), places });
    }
    files
}

fn lookup_format(path: &Path) -> Option<LookupFormat> {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
    match extension.as_str() {
        _ if path.join("_delta_log").is_dir() => Some(LookupFormat::Delta),
        "csv" if path.is_file() => Some(LookupFormat::Csv),
        "parquet" if path.is_file() => Some(LookupFormat::Parquet),
        _ => None,
    }
}

fn open(path: &Path, typed: &str, place: Place, sink: &mut Sink) -> Option<String> {
    match std::fs::read_to_string(path) {
        Ok(text) => Some(text),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            sink.error_with(place, format!("there is no file `{typed}`"), "paths are relative to `deltaworks.yaml`");
            None
        }
        Err(e) => {
            sink.error(place, format!("cannot read `{typed}`: {}", e.kind()));
            None
        }
    }
}

fn entries<'t>(tree: &'t Node, key: &str) -> impl Iterator<Item = &'t (Key, Node)> {
    tree.get(key).map_or(&[][..], Node::entries).iter()
}

/// Options that have a value.
fn options(json: &Json, key: &str) -> Options {
    let typed: BTreeMap<String, OptionText> = json.get(key).and_then(typed_as).unwrap_or_default();
    Options(typed.into_iter().map(|(name, value)| (name, value.0)).filter(|(_, value)| !value.is_empty()).collect())
}

fn typed_as<T: DeserializeOwned>(json: &Json) -> Option<T> {
    T::deserialize(json).ok()
}
