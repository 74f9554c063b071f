//! Breaks a lake on purpose, as an operator's slip would, and mends it again.

use deltaworks_core::commit_info::Identity;
use deltaworks_jobs::lake::{AddedFile, Commit, CommitOutcome, Lake, LiveFile, Table, TableName};
use deltaworks_jobs::project::settings::Settings;
use deltaworks_jobs::{Class, Error, Result, Stage};
use std::path::{Path, PathBuf};

/// A file of a raw table that was taken away.
pub struct Gone {
    file: PathBuf,
    kept: PathBuf,
}

impl Gone {
    /// Takes a file of `raw.<pipeline>` out of its folder; Delta's log goes on naming it.
    pub async fn take(settings: &Settings, lake: &Path, pipeline: &str) -> Result<Self> {
        let (_, live) = smallest(settings, pipeline).await?;
        let file = lake.join("raw").join(pipeline).join(&live.path);
        let kept = lake.with_file_name("taken-away.parquet");
        std::fs::rename(&file, &kept).map_err(|e| failed(&file).because(e))?;
        Ok(Self { file, kept })
    }

    /// Puts it back.
    pub fn put_back(self) -> Result<()> {
        std::fs::rename(&self.kept, &self.file).map_err(|e| failed(&self.file).because(e))
    }
}

/// Rows that are there twice.
pub struct Twice {
    raw: Table,
    again: String,
    /// How many.
    pub rows: u64,
}

impl Twice {
    /// Appends the rows of a file a second time, as a careless script would: the same file under another name.
    pub async fn land(settings: &Settings, lake: &Path, pipeline: &str) -> Result<Self> {
        let (mut raw, live) = smallest(settings, pipeline).await?;
        let again = live.path.replace(".parquet", "-again.parquet");
        let folder = lake.join("raw").join(pipeline);
        std::fs::copy(folder.join(&live.path), folder.join(&again)).map_err(|e| failed(&folder).because(e))?;
        let (path, rows) = (again.clone(), live.rows.unwrap_or(0));
        let (partition_values, size, stats) = (live.partition_values, live.size, live.stats.unwrap_or_default());
        let adds = vec![AddedFile { path, partition_values, size, rows, stats }];
        commit(&mut raw, Commit { adds, ..by_hand()? }).await?;
        Ok(Self { raw, again, rows })
    }

    /// Takes them out again.
    pub async fn take_back(mut self) -> Result<()> {
        let removes: Vec<LiveFile> =
            self.raw.live_files().await?.into_iter().filter(|file| file.path == self.again).collect();
        commit(&mut self.raw, Commit { removes, ..by_hand()? }).await
    }
}

fn by_hand() -> Result<Commit> {
    Commit::new("WRITE", &Identity { run_id: "by-hand".to_owned(), sequence: 0 })
}

async fn commit(table: &mut Table, commit: Commit) -> Result<()> {
    match table.commit(commit).await {
        CommitOutcome::Committed(_) => Ok(()),
        _ => Err(failed(Path::new(&table.name().to_string()))),
    }
}

/// The raw table, and the live file with the fewest rows.
async fn smallest(settings: &Settings, pipeline: &str) -> Result<(Table, LiveFile)> {
    let table = Lake::open(&settings.lake)?.open_table(&TableName::new("raw", pipeline)).await?;
    let table = table.ok_or_else(|| failed(Path::new(pipeline)))?;
    let smallest = table.live_files().await?.into_iter().min_by_key(|file| (file.rows, file.path.clone()));
    smallest.map(|file| (table, file)).ok_or_else(|| failed(Path::new(pipeline)))
}

fn failed(what: &Path) -> Error {
    Error::new(Stage::Prove, Class::Outside, format!("`{}` cannot be broken on purpose", what.display()))
}
