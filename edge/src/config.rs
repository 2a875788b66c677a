//! The edge's configuration file: parsed without binding a port, every key with its default.
//!
//! Each module owns the keys of its section; this file composes them. Unknown keys are refused, so that a
//! typo is an error at start and not a default in production.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bildkante_shared::telemetry::{self, LogFormat};
use serde::Deserialize;

use crate::access::AccessLogConfig;
use crate::admin::token::AdminConfig;
use crate::budget::BudgetConfig;
use crate::cache::CacheConfig;
use crate::campaign::{CampaignConfig, CatalogSources};
use crate::credentials::ProvenanceConfig;
use crate::fill::FillConfig;
use crate::governance::PurgeConfig;
use crate::listener::config::{LimitsConfig, ListenConfig};
use crate::origin::OriginConfig;
use crate::render::{Finishing, RenderConfig};
use crate::request::IgnoredParametersError;
use crate::rum::RumConfig;
use crate::seo::SeoConfig;
use crate::shared_state::StateConfig;
use crate::signing::SigningConfig;
use crate::text_file;
use crate::verify::VerifyConfig;
use crate::warm::{self, WarmConfig};
use crate::watermark::{Watermark, WatermarkKeyError, Watermarks};
use crate::webhooks::{self, WebhookEndpoint};

/// Why a configuration cannot be used; exit status 64.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path}: {source}")]
    Parse { path: PathBuf, source: Box<toml::de::Error> },
    #[error("{path}: `{key}`: {reason}")]
    Value { path: PathBuf, key: &'static str, reason: String },
}

/// `edge.toml`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    pub listen: ListenConfig,
    pub limits: LimitsConfig,
    pub serve: ServeConfig,
    pub campaigns: CampaignConfig,
    pub signing: SigningConfig,
    pub provenance: ProvenanceConfig,
    pub cache: CacheConfig,
    pub render: RenderConfig,
    pub budget: BudgetConfig,
    pub origin: OriginConfig,
    pub purge: PurgeConfig,
    pub state: StateConfig,
    pub webhooks: Vec<WebhookEndpoint>,
    pub admin: AdminConfig,
    pub warm: WarmConfig,
    pub log: LogConfig,
    pub access_log: AccessLogConfig,
    pub rum: RumConfig,
    pub seo: SeoConfig,
    pub verify: VerifyConfig,
    pub config: ReloadConfig,
    /// Where all this was read; `None` where it is made up.
    #[serde(skip)]
    pub file: Option<ConfigFile>,
}

/// `[config]`: the configuration file itself.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReloadConfig {
    pub reload_ms: u64,
}

impl Default for ReloadConfig {
    fn default() -> Self {
        Self { reload_ms: 1_000 }
    }
}

/// Where a configuration was read from, and what was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFile {
    pub path: PathBuf,
    pub text: String,
}

/// `[serve]`: the request path.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServeConfig {
    /// Where browsers reach this edge, for canonical links, the preview and its pictures.
    pub public_url: String,
    /// Where people with a link reach `/shared/` of the admin listener; `None`: where the preview was opened that shows the link.
    pub shared_url: Option<String>,
    /// Longest a request waits for a rendition whose master is at hand.
    pub render_wait_ms: u64,
    /// Longest a fallback's own rendering is waited for before the placeholder is served.
    pub fallback_wait_ms: u64,
    /// How long a node may take for one generation, queue included; requests may give up earlier.
    pub generation_deadline_ms: u64,
}

impl Default for ServeConfig {
    fn default() -> Self {
        Self {
            public_url: "http://127.0.0.1:8080".into(),
            shared_url: None,
            render_wait_ms: 5_000,
            fallback_wait_ms: 250,
            generation_deadline_ms: 120_000,
        }
    }
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    pub format: LogFormat,
    /// `tracing` filter; the environment's `RUST_LOG` wins.
    pub filter: String,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { format: LogFormat::Text, filter: "info".into() }
    }
}

impl Config {
    /// # Errors
    /// When the file cannot be read, does not parse, or a value is out of bounds.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = text_file::read(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let config = Self::parse(path, &text)?;
        Ok(Self { file: Some(ConfigFile { path: path.to_owned(), text }), ..config })
    }

    /// What a file at `path` with this text means.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text)
            .map_err(|source| ConfigError::Parse { path: path.to_owned(), source: Box::new(source) })?;
        config.check().map_err(|(key, reason)| ConfigError::Value { path: path.to_owned(), key, reason })?;
        Ok(config)
    }

    /// What fills are held to, of several sections.
    #[must_use]
    pub fn fill(&self) -> FillConfig {
        FillConfig {
            render: self.render.clone(),
            flights_max: self.cache.flights_max,
            flight_time_max: self.cache.flight_time_max(),
            settling_max: self.purge.refreshes_max + warm::CONCURRENCY_MAX,
            generation_deadline: Duration::from_millis(self.serve.generation_deadline_ms),
        }
    }

    /// Where campaigns come from.
    ///
    /// # Errors
    /// When a pattern of ignored parameters is malformed.
    pub fn sources(&self) -> Result<CatalogSources, IgnoredParametersError> {
        Ok(CatalogSources { decoder: self.verify.decoder(), ..self.campaigns.sources()? })
    }

    /// The same for an edge that serves: with what every picture is finished with.
    ///
    /// # Errors
    /// When a pattern of ignored parameters is malformed.
    pub fn finished_sources(&self, watermarks: &Watermarks) -> Result<CatalogSources, IgnoredParametersError> {
        let finishing = Finishing {
            watermark: watermarks.marking().cloned(),
            earlier_watermarks: watermarks.earlier().into(),
            is_signed: self.provenance.signer.is_some(),
        };
        Ok(CatalogSources { finishing, ..self.sources()? })
    }

    /// What a detector looks for: the keys of this installation, and the published one.
    ///
    /// # Errors
    /// When a key cannot be read.
    pub fn detectable_watermarks(&self) -> Result<Vec<Arc<Watermark>>, WatermarkKeyError> {
        Ok(self.provenance.watermark.open()?.detectable().cloned().collect())
    }

    fn check(&self) -> Result<(), (&'static str, String)> {
        let positive = |key, value: u64| if value == 0 { Err((key, "is zero".to_owned())) } else { Ok(()) };
        self.limits.check()?;
        if let Some(tls) = &self.listen.tls {
            tls.tickets.check()?;
        }
        self.provenance.check()?;
        self.render.validate().map_err(|reason| ("render", reason))?;
        self.access_log.check()?;
        self.rum.check()?;
        self.verify.check()?;
        telemetry::check_filter(&self.log.filter).map_err(|error| ("log.filter", error.to_string()))?;
        self.budget.check().map_err(|(key, reason)| (key, reason.to_owned()))?;
        self.cache.check().map_err(|error| ("cache", error.to_string()))?;
        self.origin.check().map_err(|error| ("origin", error.to_string()))?;
        self.campaigns.sources().map_err(|error| ("campaigns.ignored_parameters", error.to_string()))?;
        self.admin.check().map_err(|reason| ("admin", reason))?;
        self.warm.check().map_err(|reason| ("warm", reason))?;
        self.state.check().map_err(|reason| ("state", reason))?;
        self.purge.check().map_err(|reason| ("purge", reason))?;
        webhooks::check(&self.webhooks).map_err(|reason| ("webhooks", reason))?;
        positive("config.reload_ms", self.config.reload_ms)?;
        positive("serve.generation_deadline_ms", self.serve.generation_deadline_ms)?;
        if !is_origin(&self.serve.public_url) {
            return Err(("serve.public_url", "is not an origin such as `https://img.example.com`".into()));
        }
        if !self.serve.shared_url.as_deref().is_none_or(is_origin) {
            return Err(("serve.shared_url", "is not an origin such as `https://share.example.com`".into()));
        }
        Ok(())
    }
}

/// Scheme, host and perhaps a port, without a path.
fn is_origin(text: &str) -> bool {
    let uri: Option<http::Uri> = text.parse().ok();
    let is_plain = uri.is_some_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https")) && uri.authority().is_some() && uri.path() == "/"
    });
    is_plain && !text.ends_with('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shipped() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/edge.toml")
    }

    /// The commented file names every key, at its default wherever the demo does not need another value.
    #[test]
    fn the_shipped_file_and_the_defaults_agree() {
        let config = Config::load(&shipped()).expect("config/edge.toml");
        let defaults = Config::default();
        assert_eq!(config.listen, defaults.listen);
        assert_eq!(config.limits, defaults.limits);
        assert_eq!(config.serve, defaults.serve);
        assert_eq!(config.campaigns, defaults.campaigns);
        assert_eq!(config.provenance, defaults.provenance);
        assert_eq!(config.signing, defaults.signing);
        assert_eq!(config.cache, defaults.cache);
        assert_eq!(config.render, defaults.render);
        assert_eq!(config.budget, defaults.budget);
        assert_eq!(config.purge, defaults.purge);
        assert_eq!(config.state, defaults.state);
        assert_eq!(config.webhooks, defaults.webhooks);
        assert_eq!(config.admin, defaults.admin);
        assert_eq!(config.warm, defaults.warm);
        assert_eq!(config.log, defaults.log);
        assert_eq!(config.config, defaults.config);
        assert_eq!(config.access_log, defaults.access_log);
        assert_eq!(config.rum, defaults.rum);
        assert_eq!(config.seo, defaults.seo);
        assert_eq!(config.verify, defaults.verify);
        // The demo starts a node of its own; by default there is none.
        assert!(config.origin.sidecar.is_some());
        assert_eq!(crate::origin::OriginConfig { sidecar: None, ..config.origin }, defaults.origin);
    }

    #[test]
    fn an_unknown_key_is_refused_by_name() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("edge.toml");
        std::fs::write(&path, "[limits]\nconections_max = 5\n").expect("write");
        let error = Config::load(&path).expect_err("a typo").to_string();
        assert!(error.contains("conections_max") && error.contains("edge.toml"), "{error}");
    }

    #[test]
    fn a_value_out_of_bounds_names_its_key() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("edge.toml");
        std::fs::write(&path, "[serve]\npublic_url = \"img.example.com/x\"\n").expect("write");
        let error = Config::load(&path).expect_err("no origin").to_string();
        assert!(error.contains("serve.public_url"), "{error}");
    }
}
