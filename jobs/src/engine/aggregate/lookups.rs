//! Lookups: small reference tables, read whole and checked before any aggregate joins them.
//!
//! Invariants: L1 the key of a lookup is never null and never occurs twice, so a join never multiplies
//! rows; L2 the fingerprint depends on the content alone, not on the order of rows, the format or the file.

use super::session::Session;
use super::types::{cast, delta_type};
use crate::engine::query::engine_error;
use crate::error::{Class, Error, Stage};
use crate::lake::{Lake, TableName, Witness};
use crate::project::FILE;
use crate::project::diagnostics::Sink;
use crate::project::settings::{LakeSettings, LookupFile, LookupFormat, Settings};
use crate::project::{Diagnostic, Place};
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::{concat_batches, sort_to_indices, take_record_batch};
use arrow::csv::reader::Format;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::row::{RowConverter, SortField};
use arrow::util::display::array_value_to_string;
use deltalake::datafusion::catalog::TableProvider;
use deltalake::datafusion::datasource::MemTable;
use deltalake::datafusion::prelude::SessionContext;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use xxhash_rust::xxh3::Xxh3;

/// More rows than this are no small table.
const ROWS_MAX: usize = 1_000_000;

/// The lookups of a project, by name.
#[derive(Debug, Clone, Default)]
pub struct Lookups {
    tables: BTreeMap<String, Lookup>,
}

/// One lookup, in memory.
#[derive(Debug, Clone)]
pub struct Lookup {
    /// Its unique column.
    pub key: String,
    /// Type of the key.
    pub key_type: DataType,
    /// Hash of the content.
    pub fingerprint: String,
    /// All of it, sorted by key.
    pub rows: RecordBatch,
}

impl Lookups {
    /// Reads the lookups of a project.
    ///
    /// # Errors
    /// Everything that is wrong with them, placed in `deltaworks.yaml`.
    pub async fn load(settings: &Settings, session: &Session) -> Result<Self, Vec<Diagnostic>> {
        let mut sink = Sink::new(Path::new(FILE));
        let mut tables = BTreeMap::new();
        for file in &settings.lookups {
            match read(file, &settings.lake, session).await {
                Ok(rows) => tables.extend(judge(file, rows, &mut sink).map(|lookup| (file.name.clone(), lookup))),
                Err((message, hint)) => sink.error_with(file.places.0, message, hint),
            }
        }
        if sink.is_empty() { Ok(Self { tables }) } else { Err(sink.into_found()) }
    }

    /// Puts a lookup in the place of the one of its name.
    #[cfg(test)]
    pub(super) fn put(&mut self, name: &str, lookup: Lookup) {
        self.tables.insert(name.to_owned(), lookup);
    }

    /// The lookup of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Lookup> {
        self.tables.get(name)
    }

    /// Their names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tables.keys().map(String::as_str)
    }
}

impl Lookup {
    /// The lookup as a table.
    pub(super) fn provider(&self) -> Arc<dyn TableProvider> {
        let (schema, rows) = (self.rows.schema(), self.rows.clone());
        // fails only where a batch has another schema than the table
        MemTable::try_new(Arc::clone(&schema), vec![vec![rows]]).map_or_else(
            |_| super::rows::Rows::new(schema, Vec::new()) as Arc<dyn TableProvider>,
            |table| Arc::new(table) as Arc<dyn TableProvider>,
        )
    }
}

/// Message and hint.
type Wrong = (String, String);

/// A table that may have no rows.
type Content = (SchemaRef, Vec<RecordBatch>);

async fn read(file: &LookupFile, lake: &LakeSettings, session: &Session) -> Result<Content, Wrong> {
    match file.format {
        LookupFormat::Csv => read_csv(&file.path).map_err(|e| wrong(file, &*e)),
        LookupFormat::Parquet => read_parquet(&file.path).map_err(|e| wrong(file, &*e)),
        LookupFormat::Delta => read_delta(&file.path, lake, session).await.map_err(|e| wrong(file, &e)),
    }
}

fn wrong(file: &LookupFile, why: &dyn std::fmt::Display) -> Wrong {
    let why = why.to_string();
    let why = why.lines().next().unwrap_or_default().to_owned();
    (
        format!("the lookup `{}` cannot be read: {why}", file.name),
        "lookups are CSV with a header, Parquet or Delta".to_owned(),
    )
}

/// CSV, its columns in the narrowest type that spells every value as it is spelled: `007` stays a text.
fn read_csv(path: &Path) -> Result<Content, Box<dyn std::error::Error + Send + Sync>> {
    let format = Format::default().with_header(true);
    let (inferred, _) = format.infer_schema(File::open(path)?, Some(0))?;
    let texts: Vec<Field> = inferred.fields().iter().map(|f| Field::new(f.name(), DataType::Utf8, true)).collect();
    let schema = Arc::new(Schema::new(texts));
    let reader = arrow::csv::ReaderBuilder::new(Arc::clone(&schema)).with_format(format).build(File::open(path)?)?;
    let batches = reader.collect::<Result<Vec<_>, _>>()?;
    let all = concat_batches(&schema, &batches)?;
    let types = all.columns().iter().map(csv_type);
    let fields = schema.fields().iter().zip(types).map(|(field, kind)| Field::new(field.name(), kind, true));
    let typed = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    Ok((Arc::clone(&typed), vec![cast(&all, &typed)?]))
}

fn csv_type(texts: &ArrayRef) -> DataType {
    let texts = texts.as_string::<i32>();
    let all = |is: &dyn Fn(&str) -> bool| texts.null_count() < texts.len() && texts.iter().flatten().all(is);
    if all(&|t| t.parse::<i64>().is_ok_and(|n| n.to_string() == t)) {
        DataType::Int64
    } else if all(&is_plain_number) {
        DataType::Float64
    } else if all(&|t| matches!(t, "true" | "false")) {
        DataType::Boolean
    } else if all(&|t| t.len() == 10 && t.parse::<jiff::civil::Date>().is_ok()) {
        DataType::Date32
    } else {
        DataType::Utf8
    }
}

/// `1`, `-1.50`: digits with a point, no leading zeros, no exponent.
fn is_plain_number(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let are_digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    are_digits(whole) && are_digits(fraction) && (whole == "0" || !whole.starts_with('0'))
}

fn read_parquet(path: &Path) -> Result<Content, Box<dyn std::error::Error + Send + Sync>> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path)?)?;
    let schema = Arc::clone(reader.schema());
    Ok((schema, reader.build()?.collect::<Result<Vec<_>, _>>()?))
}

/// A Delta table, by way of the lake edge: its folder's parent is a layer of some lake.
async fn read_delta(path: &Path, lake: &LakeSettings, session: &Session) -> Result<Content, Error> {
    let text = |p: Option<&std::ffi::OsStr>| p.and_then(|p| p.to_str()).unwrap_or_default().to_owned();
    let parent = path.parent().unwrap_or(path);
    let name = TableName::new(text(parent.file_name()), text(path.file_name()));
    let root = parent.parent().unwrap_or(parent);
    let failed = |message: String| Error::new(Stage::Query, Class::User, message);
    let url =
        url::Url::from_file_path(root).map_err(|()| failed(format!("`{}` is no absolute path", root.display())))?;
    let folder = Lake::open(&LakeSettings { url, storage: lake.storage.clone(), witness: Witness::default() })?;
    let provider = folder.provider(&name, None, Arc::clone(&session.state)).await?;
    let context = SessionContext::new_with_state(session.state.as_ref().clone());
    let schema = provider.schema();
    let frame = context.read_table(provider).map_err(engine_error)?;
    Ok((schema, frame.collect().await.map_err(engine_error)?))
}

fn judge(file: &LookupFile, (schema, batches): Content, sink: &mut Sink) -> Option<Lookup> {
    let typed = judge_columns(file, &schema, sink)?;
    let rows = batches.iter().map(|b| cast(b, &typed)).collect::<Result<Vec<_>, _>>();
    let rows = rows.and_then(|rows| concat_batches(&typed, &rows));
    let rows = match rows {
        Ok(rows) if rows.num_rows() <= ROWS_MAX => rows,
        Ok(rows) => {
            let message = format!("the lookup `{}` has {} rows, more than {ROWS_MAX}", file.name, rows.num_rows());
            sink.error_with(file.places.0, message, "a lookup is held in memory; land a large table as a pipeline");
            return None;
        }
        Err(e) => {
            let (message, hint) = wrong(file, &e);
            sink.error_with(file.places.0, message, hint);
            return None;
        }
    };
    let keys = rows.column_by_name(&file.key)?;
    let key_type = keys.data_type().clone();
    let order = sort_to_indices(keys, None, None).ok()?;
    let rows = take_record_batch(&rows, &order).ok()?;
    judge_keys(file, rows.column_by_name(&file.key)?, sink)?;
    let fingerprint = fingerprint(&rows)?;
    Some(Lookup { key: file.key.clone(), key_type, fingerprint, rows })
}

/// The columns in types that results can have.
fn judge_columns(file: &LookupFile, schema: &SchemaRef, sink: &mut Sink) -> Option<SchemaRef> {
    let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
    let Some(key) = schema.column_with_name(&file.key) else {
        sink.unknown(file.places.1, "column", &file.key, names.iter().copied());
        return None;
    };
    if let Some(twice) = names.iter().enumerate().find(|(i, n)| names[..*i].iter().any(|m| m.eq_ignore_ascii_case(n))) {
        sink.error(file.places.0, format!("the lookup `{}` has two columns `{}`", file.name, twice.1));
        return None;
    }
    let fields = schema.fields().iter().map(|f| {
        let kind = delta_type(f.data_type()).unwrap_or_else(|| f.data_type().clone());
        Field::new(f.name(), kind, true)
    });
    let typed = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let kind = typed.field(key.0).data_type();
    if kind.is_nested() || kind.is_floating() {
        let message = format!("`{}` cannot be a key: its type is `{kind}`", file.key);
        sink.error_with(file.places.1, message, "a key is a text, a number without fraction, a date or the like");
        return None;
    }
    Some(typed)
}

/// The keys, sorted, nulls first: each once, none null.
fn judge_keys(file: &LookupFile, keys: &ArrayRef, sink: &mut Sink) -> Option<()> {
    let place: Place = file.places.1;
    if keys.null_count() > 0 {
        let message =
            format!("the key `{}` of the lookup `{}` is empty in {} rows", file.key, file.name, keys.null_count());
        sink.error_with(place, message, "give every row a key, or take the row away");
        return None;
    }
    let converter = RowConverter::new(vec![SortField::new(keys.data_type().clone())]);
    let rows = converter.and_then(|c| c.convert_columns(&[Arc::clone(keys)])).ok()?;
    if let Some(twice) = (1..rows.num_rows()).find(|i| rows.row(i - 1) == rows.row(*i)) {
        let value = array_value_to_string(keys, twice).unwrap_or_default();
        let message =
            format!("the key `{}` of the lookup `{}` is not unique: `{value}` occurs twice", file.key, file.name);
        sink.error_with(place, message, "a join would count an event twice; keep one row per key");
        return None;
    }
    Some(())
}

/// Columns by name and rows by key, so that neither's order counts.
fn fingerprint(rows: &RecordBatch) -> Option<String> {
    let schema = rows.schema();
    let mut columns: Vec<(&Arc<Field>, &ArrayRef)> = schema.fields().iter().zip(rows.columns()).collect();
    columns.sort_by(|a, b| a.0.name().cmp(b.0.name()));
    let mut hash = Xxh3::new();
    for (field, _) in &columns {
        hash.update(format!("{} {}\n", field.name(), field.data_type()).as_bytes());
    }
    let sort_fields = columns.iter().map(|(field, _)| SortField::new(field.data_type().clone())).collect();
    let arrays: Vec<ArrayRef> = columns.iter().map(|(_, column)| Arc::clone(column)).collect();
    let encoded = RowConverter::new(sort_fields).and_then(|c| c.convert_columns(&arrays)).ok()?;
    for row in &encoded {
        let bytes: &[u8] = row.as_ref();
        hash.update(&(bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    }
    Some(format!("{:032x}", hash.digest128()))
}
