//! Opens a project's files and hands them from step to step: the only place here that reads.

use super::config::{self, OptionText};
use super::contract::Contract;
use super::diagnostics::{Diagnostic, Place, Report, Sink};
use super::settings::{Options, Settings};
use super::validate::Validator;
use super::variables::{self, Env};
use super::yaml::{self, Key, Node, Value};
use super::{odcs, shape};
use crate::error::{Class, Error, Result, Stage};
use serde::de::DeserializeOwned;
use serde_json::Value as Json;
use std::collections::BTreeMap;
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

/// What reading a project gave: settings if nothing is wrong, and what was looked at.
pub(super) struct Reading {
    settings: Option<Settings>,
    diagnostics: Vec<Diagnostic>,
    pub(super) pipelines: Vec<String>,
    pub(super) contracts: Vec<PathBuf>,
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
}

/// Reads everything, also after errors.
pub(super) fn read(dir: &Path, env: Env<'_>) -> Reading {
    let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_path_buf());
    let mut sink = Sink::new(Path::new(FILE));
    let mut reading = Reading { settings: None, diagnostics: Vec::new(), pipelines: Vec::new(), contracts: Vec::new() };
    let tree = open(&dir.join(FILE), FILE, Place::START, &mut sink).and_then(|text| yaml::parse(&text, &mut sink));
    if let Some(mut tree) = tree {
        variables::substitute(&mut tree, env, &mut sink);
        let contracts = contracts(&tree, &dir, &mut sink, &mut reading);
        reading.pipelines = entries(&tree, "pipelines").map(|(k, _)| k.name.clone()).collect();
        reading.settings = settings(&tree, &dir, &contracts, &mut sink);
    }
    reading.diagnostics.extend(sink.into_found());
    reading
}

fn settings(tree: &Node, dir: &Path, contracts: &BTreeMap<String, Arc<Contract>>, sink: &mut Sink) -> Option<Settings> {
    let schema = config::json_schema();
    let root_key = Key { name: FILE.to_owned(), place: tree.place };
    let json = shape::read(tree, &schema, &schema, &root_key, sink)?;
    paths(tree, dir, sink);
    let mut validator = Validator { sink, root: tree };
    let memory = validator.memory(json.get("memory").and_then(Json::as_str));
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
    if typed_as::<config::Project>(&json).is_none() && sink.is_empty() {
        sink.error(tree.place, "the file does not have the shape of its JSON Schema");
    }
    Some(Settings {
        dir: dir.to_path_buf(),
        lake: lake?,
        kafka,
        memory_bytes: usize::try_from(memory).unwrap_or(usize::MAX),
        pipelines,
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

/// Reports paths that lead nowhere.
fn paths(tree: &Node, dir: &Path, sink: &mut Sink) {
    let aggregates = tree.get("aggregates").map_or(&[][..], Node::items).iter();
    let lookups = entries(tree, "lookups").filter_map(|(_, lookup)| lookup.get("path"));
    for node in aggregates.chain(lookups) {
        if let Some(path) = node.scalar().filter(|p| !dir.join(&p.text).is_file()) {
            sink.error_with(
                node.place,
                format!("there is no file `{}`", path.typed),
                "paths are relative to `deltaworks.yaml`",
            );
        }
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
