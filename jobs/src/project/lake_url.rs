//! The URL of the lake, from what was typed.
//!
//! A path is relative to the project. A URL says where, and nothing else: keys and options belong
//! under `storage`, so no secret hides in a URL that logs may show.

use std::path::{Component, Path, PathBuf};
use url::Url;

/// `typed` as a `file:`, `s3://` or `memory:` URL without trailing slash; `dir` is absolute.
///
/// # Errors
/// A message that repeats nothing of `typed`.
pub(super) fn lake_url(dir: &Path, typed: &str) -> Result<Url, String> {
    if typed.is_empty() {
        return Err("`lake` is empty".to_owned());
    }
    let scheme =
        typed.split_once(':').map(|(s, _)| s).filter(|s| s.len() > 1 && s.bytes().all(|b| b.is_ascii_alphanumeric()));
    let url = match scheme {
        None => Url::from_file_path(plain(&dir.join(typed))).map_err(|()| "`lake` is no path".to_owned())?,
        Some("file") if !typed.starts_with("file:/") => {
            let path = plain(&dir.join(typed.trim_start_matches("file:")));
            Url::from_file_path(path).map_err(|()| "`lake` is no path".to_owned())?
        }
        Some("memory") => {
            let path = typed.trim_start_matches("memory:").trim_matches('/');
            Url::parse(&format!("memory:///{path}")).map_err(|_| "`lake` is no URL".to_owned())?
        }
        Some("file" | "s3") => Url::parse(typed).map_err(|_| "`lake` is no URL".to_owned())?,
        Some(_) => return Err("`lake` is in no store that is known here".to_owned()),
    };
    if url.scheme() == "s3" && url.host_str().is_none_or(str::is_empty) {
        return Err("`lake` names no bucket".to_owned());
    }
    if url.scheme() == "file" && url.host_str().is_some() {
        return Err("`lake` is on another host: a `file:` URL has three slashes".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
        return Err("`lake` must be a plain URL: options and keys go under `storage`".to_owned());
    }
    let mut url = url;
    let path = url.path().trim_end_matches('/').to_owned();
    url.set_path(&path);
    Ok(url)
}

/// Without `.` and `..`, which a URL cannot have.
pub fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                plain.pop();
            }
            other => plain.push(other),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("./lake", Some("file:///p/lake"))]
    #[case("../lake/", Some("file:///lake"))]
    #[case("/data/lake", Some("file:///data/lake"))]
    #[case("file:///data/lake/", Some("file:///data/lake"))]
    #[case("file:lake", Some("file:///p/lake"))]
    #[case("a b", Some("file:///p/a%20b"))]
    #[case("s3://bucket/some/prefix/", Some("s3://bucket/some/prefix"))]
    #[case("s3://bucket", Some("s3://bucket"))]
    #[case("memory:", Some("memory://"))]
    #[case("memory:///x", Some("memory:///x"))]
    #[case("", None)]
    #[case("s3://", None)]
    #[case("s3://key:secret@bucket/x", None)]
    #[case("s3://bucket/x?a=b", None)]
    #[case("file://host/x", None)]
    #[case("gs://bucket", None)]
    fn lakes(#[case] typed: &str, #[case] url: Option<&str>) {
        assert_eq!(lake_url(Path::new("/p"), typed).ok().map(String::from).as_deref(), url);
    }
}
