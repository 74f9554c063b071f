//! `lineage` of `deltaworks.yaml`: where events go, and what of it is a mistake.
//!
//! A URL says where, and nothing else: keys go under `api_key` or `headers`, so no secret hides in a URL that logs may
//! show. What the environment says instead is read by [`crate::lineage`], by the same rules.

use super::config;
use super::settings::{Destination, LineageSettings, Options};
use super::validate::Validator;
use std::path::Path;
use std::time::Duration;
use url::Url;

/// Path below the service's URL, as OpenLineage's own clients have it.
pub const ENDPOINT: &str = "api/v1/lineage";
/// Namespace of jobs.
pub const NAMESPACE: &str = "deltaworks";
/// Pause between two events of a job that goes on.
pub const EVERY: Duration = Duration::from_secs(300);

impl Validator<'_> {
    /// Where lineage is told; `dir` is absolute.
    pub(super) fn lineage(&mut self, dir: &Path, typed: &config::Lineage) -> LineageSettings {
        let url = given(typed.url.as_deref());
        let file = given(typed.file.as_deref());
        let headers = self.headers(typed);
        if url.is_some() && file.is_some() {
            self.wrong(&["lineage", "file"], "`lineage` has a `url` and a `file`", "events go to one of them");
        }
        let http = url.and_then(|url| self.lineage_url(url, given(typed.endpoint.as_deref())));
        let to = match (http, file) {
            (Some(url), _) => Some(Destination::Http { url, headers }),
            (None, Some(file)) => Some(Destination::File(dir.join(file))),
            (None, None) => None,
        };
        LineageSettings {
            to,
            namespace: given(typed.namespace.as_deref()).unwrap_or(NAMESPACE).to_owned(),
            every: self.positive(&["lineage", "every"], given(typed.every.as_deref()), EVERY),
        }
    }

    fn lineage_url(&mut self, url: &str, endpoint: Option<&str>) -> Option<Url> {
        let judged = endpoint_url(url, endpoint.unwrap_or(ENDPOINT));
        if let Err(message) = &judged {
            let hint = "write `http://host:port`, and keys under `api_key` or `headers`";
            self.wrong(&["lineage", "url"], format!("`url` {message}"), hint);
        }
        judged.ok()
    }

    fn headers(&mut self, typed: &config::Lineage) -> Options {
        let mut headers = Options::default();
        for (name, value) in typed.headers.iter().filter(|(_, value)| !value.0.is_empty()) {
            if !is_header(name, &value.0)
                && let Some(place) = self.key_place(&["lineage", "headers"], name)
            {
                let hint = "a name has letters, digits and `-`; a value has no line breaks";
                self.sink.error_with(place, "this is no header", hint);
            }
            headers.0.insert(name.to_ascii_lowercase(), value.0.clone());
        }
        if let Some(key) = typed.api_key.as_ref().filter(|key| !key.0.is_empty()) {
            let value = format!("Bearer {}", key.0);
            if !is_header("authorization", &value) {
                self.wrong(&["lineage", "api_key"], "`api_key` cannot be sent", "it has no line breaks");
            }
            headers.0.insert("authorization".to_owned(), value);
        }
        headers
    }
}

/// Where events are posted.
///
/// # Errors
/// What the URL is or has, in words that repeat nothing of it.
pub fn endpoint_url(url: &str, endpoint: &str) -> Result<Url, String> {
    let mut url = Url::parse(url).map_err(|_| "is no URL".to_owned())?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return Err("is no `http:` or `https:` URL".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
        return Err("has more than host, port and path".to_owned());
    }
    let path = format!("{}/{}", url.path().trim_end_matches('/'), endpoint.trim_start_matches('/'));
    url.set_path(&path);
    Ok(url)
}

/// Whether these may be a header's name and value.
#[must_use]
pub fn is_header(name: &str, value: &str) -> bool {
    let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    is_name && value.bytes().all(|b| (b' '..=b'~').contains(&b))
}

/// A text that is not empty.
fn given(typed: Option<&str>) -> Option<&str> {
    typed.filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("http://marquez:5000", "api/v1/lineage", Ok("http://marquez:5000/api/v1/lineage"))]
    #[case("https://h/base/", "/events", Ok("https://h/base/events"))]
    #[case("ftp://h", "e", Err("is no `http:` or `https:` URL"))]
    #[case("marquez", "e", Err("is no URL"))]
    #[case("http://user:pass@h", "e", Err("has more than host, port and path"))]
    #[case("http://h?key=1", "e", Err("has more than host, port and path"))]
    fn urls(#[case] url: &str, #[case] endpoint: &str, #[case] wanted: Result<&str, &str>) {
        let judged = endpoint_url(url, endpoint);
        assert_eq!(judged.as_ref().map(Url::as_str).map_err(String::as_str), wanted);
    }

    #[test]
    fn headers() {
        assert!(is_header("x-team", "a b"));
        assert!(
            !is_header("x team", "a") && !is_header("", "a") && !is_header("x", "a\r\nhost: b") && !is_header("x", "é")
        );
    }
}
