//! Keeps secrets out of what is told of an error.
//!
//! Our own messages have none; those of libraries below may repeat a URL or an option. What the project knows to be
//! secret is taken out by its value, and user, password and query of any URL by their form.

use crate::project::settings::{Destination, LineageSettings, Options, Settings};
use std::fmt;

/// Options whose names have one of these are secret.
const SECRET_NAMES: [&str; 6] = ["secret", "password", "token", "key", "credential", "jaas"];
/// Shorter values are words, and taking them out would garble every message.
const SECRET_LEN_MIN: usize = 4;
const HIDDEN: &str = "…";

/// The secrets of a project.
pub(super) struct Secrets(Vec<String>);

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} secrets", self.0.len())
    }
}

impl Secrets {
    /// Those of the project, and those that are sent to whom is told.
    pub(super) fn of(settings: &Settings, to: &LineageSettings) -> Self {
        let named = |options: &Options| -> Vec<String> {
            let secret = |name: &str| SECRET_NAMES.iter().any(|part| name.to_ascii_lowercase().contains(part));
            options.0.iter().filter(|(name, _)| secret(name)).map(|(_, value)| value.clone()).collect()
        };
        let mut secrets = [named(&settings.lake.storage), named(&settings.kafka)].concat();
        if let Some(Destination::Http { headers, .. }) = &to.to {
            let values = headers.0.values();
            secrets.extend(values.map(|value| value.strip_prefix("Bearer ").unwrap_or(value).to_owned()));
        }
        secrets.retain(|secret| secret.len() >= SECRET_LEN_MIN);
        // a secret may begin with another one
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        Self(secrets)
    }

    /// The text without secrets.
    pub(super) fn hide(&self, text: &str) -> String {
        let text = self.0.iter().fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), HIDDEN));
        plain_urls(&text)
    }
}

/// With URLs that say where, and nothing else.
fn plain_urls(text: &str) -> String {
    let mut told = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        told.push_str(before);
        let ends = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '`' | ',' | '(' | ')' | '<' | '>');
        let (url, after) = after.split_at(after.find(ends).unwrap_or(after.len()));
        rest = after;
        let authority = &url[..url.find(['/', '#']).unwrap_or(url.len())];
        let (hidden, url) = authority.rfind('@').map_or(("", url), |user| (HIDDEN, &url[user..]));
        let (place, query) = url.split_at(url.find('?').unwrap_or(url.len()));
        told.extend([hidden, place]);
        if !query.is_empty() {
            told.extend(["?", HIDDEN]);
        }
    }
    told.push_str(rest);
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_secret_goes_and_the_rest_stays() {
        let secrets = Secrets(vec!["hunter22".to_owned(), "hunter2".to_owned()]);
        let told = secrets.hide("cannot reach `http://me:pw@host:1/p?x=y`, nor s3://bucket/a@b: hunter2, hunter22");
        assert_eq!(told, "cannot reach `http://…@host:1/p?…`, nor s3://bucket/a@b: …, …");
        assert_eq!(secrets.hide("error for url (https://h/p?sig=a): no"), "error for url (https://h/p?…): no");
        assert_eq!(secrets.hide("http://h?a#b and why?"), "http://h?… and why?");
        assert_eq!(secrets.hide("http://me:p?w@h/x"), "http://…@h/x");
        assert_eq!(secrets.hide("plain ://"), "plain ://");
    }
}
