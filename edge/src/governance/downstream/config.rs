//! `[[purge.downstream]]`: which caches stand in front of this edge and how they are told.

use std::collections::BTreeMap;
use std::path::PathBuf;

use http::{HeaderName, HeaderValue, Method, Uri};
use serde::Deserialize;

use super::call::check_body;
use super::template::{Syntax, Template};
use crate::secret;

/// Longest secret.
const SECRET_BYTES_MAX: u64 = 8_192;

/// One cache in front of this edge.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum DownstreamConfig {
    Webhook(WebhookConfig),
    Fastly(FastlyConfig),
    Cloudflare(CloudflareConfig),
    Varnish(VarnishConfig),
}

/// Anything that takes an HTTP request; `${…}` stands for what is purged.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookConfig {
    pub name: String,
    #[serde(default = "post")]
    pub method: String,
    pub url: String,
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    #[serde(default)]
    pub body: String,
    pub token_file: Option<PathBuf>,
    pub token_env: Option<String>,
}

/// Purge by surrogate key.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FastlyConfig {
    pub name: String,
    pub service_id: String,
    #[serde(default = "fastly_api")]
    pub api: String,
    pub token_file: Option<PathBuf>,
    pub token_env: Option<String>,
}

/// Purge by tag or URL.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CloudflareConfig {
    pub name: String,
    pub zone_id: String,
    #[serde(default)]
    pub by: CloudflareBy,
    #[serde(default = "cloudflare_api")]
    pub api: String,
    pub token_file: Option<PathBuf>,
    pub token_env: Option<String>,
}

/// What a zone's plan allows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CloudflareBy {
    #[default]
    Tags,
    /// The URL where one was named, which is never all: a zone holds each spelling of it, and the purge is reported as
    /// incomplete. For anything else the whole zone.
    Urls,
}

/// PURGE or BAN with the tags in a header, as VCL reads it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VarnishConfig {
    pub name: String,
    pub url: String,
    #[serde(default = "purge")]
    pub method: String,
    /// `xkey-purge` is vmod-xkey's custom.
    #[serde(default = "xkey_purge")]
    pub header: String,
    #[serde(default = "xkey_softpurge")]
    pub soft_header: String,
    /// Between tags: a space for vmod-xkey, `|` for a regular expression.
    #[serde(default = "space")]
    pub separator: String,
    /// The header's value that means everything; without one, the tag that is on every image.
    pub everything: Option<String>,
    pub token_file: Option<PathBuf>,
    pub token_env: Option<String>,
}

/// Where a secret is kept: never in the configuration itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Secret {
    /// Read anew for each call, so that it can be replaced.
    token_file: Option<PathBuf>,
    /// Name of an environment variable.
    token_env: Option<String>,
}

fn post() -> String {
    "POST".to_owned()
}

fn purge() -> String {
    "PURGE".to_owned()
}

fn fastly_api() -> String {
    "https://api.fastly.com".to_owned()
}

fn cloudflare_api() -> String {
    "https://api.cloudflare.com/client/v4".to_owned()
}

fn xkey_purge() -> String {
    "xkey-purge".to_owned()
}

fn xkey_softpurge() -> String {
    "xkey-softpurge".to_owned()
}

fn space() -> String {
    " ".to_owned()
}

impl WebhookConfig {
    /// By the content type where one is named, else by how it begins.
    pub(super) fn body_syntax(&self) -> Syntax {
        let named = self.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("content-type"));
        match named.map(|(_, value)| value.to_ascii_lowercase()) {
            Some(kind) if kind.contains("json") => Syntax::Json,
            Some(kind) if kind.starts_with("application/x-www-form-urlencoded") => Syntax::Url,
            Some(_) => Syntax::Text,
            None if self.body.trim_start().starts_with(['{', '[']) => Syntax::Json,
            None => Syntax::Text,
        }
    }
}

impl DownstreamConfig {
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Webhook(config) => &config.name,
            Self::Fastly(config) => &config.name,
            Self::Cloudflare(config) => &config.name,
            Self::Varnish(config) => &config.name,
        }
    }

    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Webhook(_) => "webhook",
            Self::Fastly(_) => "fastly",
            Self::Cloudflare(_) => "cloudflare",
            Self::Varnish(_) => "varnish",
        }
    }

    #[must_use]
    pub fn secret(&self) -> Secret {
        let (file, env) = match self {
            Self::Webhook(config) => (&config.token_file, &config.token_env),
            Self::Fastly(config) => (&config.token_file, &config.token_env),
            Self::Cloudflare(config) => (&config.token_file, &config.token_env),
            Self::Varnish(config) => (&config.token_file, &config.token_env),
        };
        Secret { token_file: file.clone(), token_env: env.clone() }
    }

    /// # Errors
    /// Says what cannot be right.
    pub fn check(&self) -> Result<(), String> {
        let name = self.name();
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if name.is_empty() || name.len() > 64 || !name.bytes().all(is_plain) {
            return Err("`name` is up to 64 of a-z, 0-9 and -".to_owned());
        }
        self.secret().check(self.needs_secret())?;
        match self {
            Self::Webhook(config) => {
                is_method(&config.method)?;
                Template::parse(&config.url)?;
                check_body(config)?;
                Template::parse(&config.body)?;
                for (header, value) in &config.headers {
                    is_header(header)?;
                    Template::parse(value)?;
                }
                // Its placeholders filled in with nothing, it must still be a URL.
                is_url("url", &Template::parse(&config.url)?.without_values())
            }
            Self::Fastly(config) => is_segment("service_id", &config.service_id).and(is_url("api", &config.api)),
            Self::Cloudflare(config) => is_segment("zone_id", &config.zone_id).and(is_url("api", &config.api)),
            Self::Varnish(config) => {
                is_method(&config.method)?;
                is_header(&config.header)?;
                is_header(&config.soft_header)?;
                for text in [Some(&config.separator), config.everything.as_ref()].into_iter().flatten() {
                    HeaderValue::from_str(text).map_err(|_| format!("`{text}` cannot stand in a header"))?;
                }
                is_url("url", &config.url)
            }
        }
    }

    const fn needs_secret(&self) -> Need {
        match self {
            Self::Webhook(_) | Self::Varnish(_) => Need::Optional,
            Self::Fastly(_) | Self::Cloudflare(_) => Need::Required,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    Optional,
    Required,
}

impl Secret {
    fn check(&self, need: Need) -> Result<(), String> {
        match (&self.token_file, &self.token_env) {
            (Some(_), Some(_)) => Err("`token_file` and `token_env` are both set".to_owned()),
            (None, None) if need == Need::Required => Err("`token_file` or `token_env` is needed".to_owned()),
            _ => Ok(()),
        }
    }

    /// The secret itself; `None` where none is configured. Blocks on the file.
    ///
    /// # Errors
    /// When the file or the variable is not there, or others than its owner may read the file.
    pub fn read(&self) -> Result<Option<String>, String> {
        if let Some(name) = &self.token_env {
            let value = std::env::var(name).map_err(|_| format!("the environment has no `{name}`"))?;
            return Ok(Some(value.trim().to_owned()));
        }
        let Some(path) = &self.token_file else { return Ok(None) };
        let bytes = secret::read(path, SECRET_BYTES_MAX).map_err(|error| format!("{}: {error}", path.display()))?;
        let text = String::from_utf8(bytes).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Some(text.trim().to_owned()))
    }
}

fn is_method(text: &str) -> Result<(), String> {
    Method::from_bytes(text.as_bytes()).map(drop).map_err(|_| format!("`{text}` is no method"))
}

fn is_header(text: &str) -> Result<(), String> {
    HeaderName::from_bytes(text.as_bytes()).map(drop).map_err(|_| format!("`{text}` is no header name"))
}

fn is_segment(key: &str, text: &str) -> Result<(), String> {
    let is_plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if is_plain { Ok(()) } else { Err(format!("`{key}` is not made of letters and digits")) }
}

fn is_url(key: &str, text: &str) -> Result<(), String> {
    let uri: Option<Uri> = text.parse().ok();
    let is_http = uri.is_some_and(|uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some());
    if is_http { Ok(()) } else { Err(format!("`{key}` is no http or https URL")) }
}
