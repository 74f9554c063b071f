//! The HTTP edge, the only user of reqwest: the client that object_store brings, with the features that it has there,
//! so nothing more is built or shipped for lineage.

use super::teller::Refused;
use crate::project::settings::Options;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::redirect::Policy;
use reqwest::{Client, StatusCode, Url};
use std::error::Error as _;
use std::time::Duration;

/// How long a connection may take.
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// How long an answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Posts events to one URL.
#[derive(Debug)]
pub(super) struct Poster {
    client: Client,
    url: Url,
}

impl Poster {
    /// # Errors
    /// What cannot be used, in words without secrets.
    pub(super) fn new(url: &Url, headers: &Options) -> Result<Self, String> {
        let mut all = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
        for (name, value) in &headers.0 {
            let unusable = || format!("the header `{name}` cannot be sent");
            let mut value = HeaderValue::from_str(value).map_err(|_| unusable())?;
            value.set_sensitive(true);
            all.insert(name.parse::<HeaderName>().map_err(|_| unusable())?, value);
        }
        // a redirect would take keys elsewhere
        let mut builder = Client::builder()
            .default_headers(all)
            .redirect(Policy::none())
            .connect_timeout(CONNECT_MAX)
            .timeout(ANSWER_MAX)
            .user_agent(concat!("deltaworks/", env!("CARGO_PKG_VERSION")));
        if is_here(url) {
            builder = builder.no_proxy();
        }
        let client = builder.build().map_err(|e| format!("no HTTP client: {}", e.without_url()))?;
        Ok(Self { client, url: url.clone() })
    }

    pub(super) async fn post(&self, event: &str) -> Result<(), Refused> {
        let sent = self.client.post(self.url.clone()).body(event.to_owned()).send().await;
        let status = match sent {
            Ok(answer) => answer.status(),
            Err(error) => return Err(Refused { why: said(error), retry: true }),
        };
        if status.is_success() {
            return Ok(());
        }
        let passing = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS];
        let retry = status.is_server_error() || passing.contains(&status);
        Err(Refused { why: format!("the service answers {status}"), retry })
    }
}

/// Whether the service is on this machine: no proxy knows it.
fn is_here(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// What went wrong, with its causes and without the URL.
fn said(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}
