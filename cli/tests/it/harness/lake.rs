//! Where a story's tables are: a URL, and what the environment must hold to reach it.

use std::path::Path;

/// A lake of any kind.
#[derive(Debug, Clone)]
pub struct Lake {
    /// `file:` or `s3://` URL.
    pub url: String,
    /// Variables for the child and for reading in this process.
    pub env: Vec<(String, String)>,
}

impl Lake {
    /// A folder of this machine.
    pub fn folder(dir: &Path) -> Self {
        Self { url: format!("file://{}", dir.display()), env: Vec::new() }
    }
}
