//! `[[webhooks]]`: who is told of decisions, and with which secret the messages are signed.

use std::path::PathBuf;

use http::Uri;
use serde::Deserialize;

use super::event::EventKind;
use super::signature::SigningSecret;
use crate::{outbound, secret};

/// Most endpoints of one edge.
const ENDPOINTS_MAX: usize = 32;
/// Longest secret file.
const SECRET_BYTES_MAX: u64 = 8_192;
/// Longest time for which a message may be tried again: a week.
const RETRY_FOR_S_MAX: u64 = 7 * 86_400;

/// One receiver of messages.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookEndpoint {
    pub name: String,
    pub url: String,
    /// File with the secret, `whsec_…`; mode 0600.
    pub secret_file: Option<PathBuf>,
    /// Environment variable with the secret.
    pub secret_env: Option<String>,
    /// What is sent; empty: everything.
    #[serde(default)]
    pub events: Vec<EventKind>,
    /// Whose events are sent; empty: those of every campaign.
    #[serde(default)]
    pub campaigns: Vec<String>,
    /// A PEM file with authorities that are believed beside the system's.
    pub ca_file: Option<PathBuf>,
    /// Whether addresses of private networks and of this machine may be called.
    #[serde(default)]
    pub allow_private: bool,
    #[serde(default = "retry_for_s")]
    pub retry_for_s: u64,
    #[serde(default = "retry_backoff_ms_min")]
    pub retry_backoff_ms_min: u64,
}

const fn retry_for_s() -> u64 {
    86_400
}

const fn retry_backoff_ms_min() -> u64 {
    1_000
}

/// Checks all endpoints, secrets included where they are files.
///
/// # Errors
/// Says which endpoint cannot be right, and why.
pub fn check(endpoints: &[WebhookEndpoint]) -> Result<(), String> {
    if endpoints.len() > ENDPOINTS_MAX {
        return Err(format!("has more than {ENDPOINTS_MAX} endpoints"));
    }
    for (at, endpoint) in endpoints.iter().enumerate() {
        endpoint.check().map_err(|reason| format!("`{}`: {reason}", endpoint.name))?;
        if endpoints[..at].iter().any(|other| other.name == endpoint.name) {
            return Err(format!("`{}` is there twice", endpoint.name));
        }
    }
    Ok(())
}

impl WebhookEndpoint {
    fn check(&self) -> Result<(), String> {
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if !(1..=64).contains(&self.name.len()) || !self.name.bytes().all(is_plain) {
            return Err("`name` is up to 64 of a-z, 0-9 and -".to_owned());
        }
        let uri: Option<Uri> = self.url.parse().ok();
        let is_http = uri.is_some_and(|uri| {
            matches!(uri.scheme_str(), Some("http" | "https"))
                && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'))
        });
        if !is_http {
            return Err("`url` is no http or https URL without a user".to_owned());
        }
        if let Some(path) = &self.ca_file {
            if !self.is_tls() {
                return Err("`ca_file` is for `https`".to_owned());
            }
            outbound::certificates(path).map_err(|error| error.to_string())?;
        }
        if self.secret_file.is_some() == self.secret_env.is_some() {
            return Err("one of `secret_file` and `secret_env` is needed".to_owned());
        }
        if !(1..=RETRY_FOR_S_MAX).contains(&self.retry_for_s) {
            return Err(format!("`retry_for_s` is 1 to {RETRY_FOR_S_MAX}"));
        }
        if self.retry_backoff_ms_min == 0 {
            return Err("`retry_backoff_ms_min` is zero".to_owned());
        }
        self.secret().map(drop)
    }

    /// Whether it is called by `https`.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.url.parse().is_ok_and(|uri: Uri| uri.scheme_str() == Some("https"))
    }

    /// The secret as it is now, so that it can be replaced without a restart. Blocks on the file.
    ///
    /// # Errors
    /// When it is not there, is exposed, or is no `whsec_…`.
    pub fn secret(&self) -> Result<SigningSecret, String> {
        let text = match (&self.secret_env, &self.secret_file) {
            (Some(name), _) => std::env::var(name).map_err(|_| format!("the environment has no `{name}`"))?,
            (None, Some(path)) => {
                let told = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
                let bytes = secret::read(path, SECRET_BYTES_MAX).map_err(|error| told(&error))?;
                String::from_utf8(bytes).map_err(|error| told(&error))?
            }
            (None, None) => return Err("it has no secret".to_owned()),
        };
        text.trim().parse().map_err(|error: super::signature::SecretError| error.to_string())
    }

    /// Whether this endpoint is sent such an event. What may reach into several campaigns concerns each.
    #[must_use]
    pub fn wants(&self, kind: EventKind, campaign: Option<&str>) -> bool {
        let is_named = |campaign: &str| self.campaigns.iter().any(|name| name == campaign);
        (self.events.is_empty() || self.events.contains(&kind))
            && (self.campaigns.is_empty() || campaign.is_none_or(is_named))
    }
}
