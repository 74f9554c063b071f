//! One event a line at the end of a file that several processes may share.
//!
//! Invariant: F1 a line is whole: it is written under a lock, after a line break where another writer was killed midway.

use super::teller::Refused;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Appends to one file.
#[derive(Debug)]
pub(super) struct Lines {
    path: PathBuf,
}

impl Lines {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_path_buf() }
    }

    pub(super) async fn append(&self, event: &str) -> Result<(), Refused> {
        let (path, line) = (self.path.clone(), format!("{event}\n"));
        // a lock that another holds, or a file system that hangs, must not hold the runtime
        let written = tokio::task::spawn_blocking(move || append(&path, line.as_bytes())).await;
        let written = written.unwrap_or_else(|e| Err(io::Error::other(e)));
        written.map_err(|e| Refused { why: format!("`{}` cannot be written: {e}", self.path.display()), retry: false })
    }
}

fn append(path: &Path, line: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
    file.lock()?;
    if !ends_with_a_line(&mut file)? {
        file.write_all(b"\n")?;
    }
    // the lock goes with the file
    file.write_all(line)
}

fn ends_with_a_line(file: &mut File) -> io::Result<bool> {
    if file.metadata()?.len() == 0 {
        return Ok(true);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}
