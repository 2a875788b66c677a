//! The edge's configuration file: parsed without binding a port, every key with its default.
//!
//! Each module owns the keys of its section; this file composes them. Unknown keys are refused, so that a
//! typo is an error at start and not a default in production.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bildkante_shared::telemetry::{self, LogFormat};
use serde::Deserialize;

use crate::access::AccessLogConfig;
use crate::admin::token::AdminConfig;
use crate::budget::BudgetConfig;
use crate::cache::CacheConfig;
use crate::campaign::CampaignConfig;
use crate::campaign::sources::read_file;
use crate::governance::PurgeConfig;
use crate::listener::ListenerSettings;
use crate::listener::addresses::Addresses;
use crate::listener::client::{ForwardedField, Prefix, TrustedProxies};
use crate::listener::http::{ConnectionLimits, PriorKnowledge, Protocols};
use crate::listener::io::Deadlines;
use crate::listener::room::RoomSettings;
use crate::listener::tls::{AdminTlsConfig, TlsConfig};
use crate::origin::OriginConfig;
use crate::reload::{ConfigFile, ReloadConfig};
use crate::render::RenderConfig;
use crate::rum::RumConfig;
use crate::signing::SigningConfig;
use crate::warm::WarmConfig;

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
    pub cache: CacheConfig,
    pub render: RenderConfig,
    pub budget: BudgetConfig,
    pub origin: OriginConfig,
    pub purge: PurgeConfig,
    pub admin: AdminConfig,
    pub warm: WarmConfig,
    pub log: LogConfig,
    pub access_log: AccessLogConfig,
    pub rum: RumConfig,
    pub config: ReloadConfig,
    /// Where all this was read; `None` where it is made up.
    #[serde(skip)]
    pub file: Option<ConfigFile>,
}

/// `[listen]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ListenConfig {
    /// HTTP/1.1 and, where `h2c` says so, HTTP/2 with prior knowledge.
    pub http: Addresses,
    /// Whether clients without TLS may begin with HTTP/2.
    pub h2c: bool,
    /// HTTPS; used when `tls` is set.
    pub https: Addresses,
    pub tls: Option<TlsConfig>,
    /// Metrics, health and preview: keep it away from the public.
    pub admin: Addresses,
    /// TLS on the admin listener, with client certificates where an authority is named.
    pub admin_tls: Option<AdminTlsConfig>,
    /// Threads that serve connections; 0 is one per core.
    pub workers: usize,
    /// Proxies whose word about the client is taken.
    pub trusted_proxies: Vec<Prefix>,
    /// The field they maintain.
    pub forwarded_field: ForwardedField,
}

impl Default for ListenConfig {
    fn default() -> Self {
        let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into();
        Self {
            http: loopback(8080),
            h2c: true,
            https: loopback(8443),
            tls: None,
            admin: loopback(8081),
            admin_tls: None,
            workers: 0,
            trusted_proxies: Vec::new(),
            forwarded_field: ForwardedField::default(),
        }
    }
}

impl ListenConfig {
    #[must_use]
    pub fn trusted(&self) -> TrustedProxies {
        TrustedProxies::new(self.trusted_proxies.clone(), self.forwarded_field)
    }

    #[must_use]
    pub const fn prior_knowledge(&self) -> PriorKnowledge {
        if self.h2c { PriorKnowledge::Taken } else { PriorKnowledge::Refused }
    }
}

/// `[limits]`: what one peer may take.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    pub connections_max: usize,
    /// Connections of one client network on one listener; 0: a quarter of `connections_max`.
    pub connections_per_client_max: usize,
    pub header_bytes_max: usize,
    pub headers_max: usize,
    pub requests_max: u64,
    pub streams_max: u32,
    pub stream_window_bytes: u32,
    pub connection_window_bytes: u32,
    pub handshake_ms: u64,
    pub first_byte_ms: u64,
    pub header_ms: u64,
    pub body_ms: u64,
    pub idle_ms: u64,
    pub write_stall_ms: u64,
    pub ping_interval_ms: u64,
    pub ping_timeout_ms: u64,
    pub lame_duck_ms: u64,
    pub drain_ms: u64,
    pub drain_grace_ms: u64,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            connections_max: 20_000,
            connections_per_client_max: 0,
            header_bytes_max: 32 * 1024,
            headers_max: 64,
            requests_max: 10_000,
            streams_max: 100,
            stream_window_bytes: 64 * 1024,
            connection_window_bytes: 256 * 1024,
            handshake_ms: 5_000,
            first_byte_ms: 10_000,
            header_ms: 10_000,
            body_ms: 5_000,
            idle_ms: 60_000,
            write_stall_ms: 30_000,
            ping_interval_ms: 20_000,
            ping_timeout_ms: 10_000,
            lame_duck_ms: 0,
            drain_ms: 10_000,
            drain_grace_ms: 500,
        }
    }
}

/// `[serve]`: the request path.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServeConfig {
    /// Where browsers reach this edge, for canonical links, the preview and its pictures.
    pub public_url: String,
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
        let text = read_file(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
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

    fn check(&self) -> Result<(), (&'static str, String)> {
        let positive = |key, value: u64| if value == 0 { Err((key, "is zero".to_owned())) } else { Ok(()) };
        positive("limits.connections_max", self.limits.connections_max as u64)?;
        positive("limits.requests_max", self.limits.requests_max)?;
        positive("limits.headers_max", self.limits.headers_max as u64)?;
        positive("limits.streams_max", u64::from(self.limits.streams_max))?;
        positive("limits.header_ms", self.limits.header_ms)?;
        positive("limits.body_ms", self.limits.body_ms)?;
        positive("limits.idle_ms", self.limits.idle_ms)?;
        positive("limits.ping_interval_ms", self.limits.ping_interval_ms)?;
        if let Some(tls) = &self.listen.tls {
            tls.tickets.check()?;
        }
        self.render.validate().map_err(|reason| ("render", reason))?;
        self.access_log.check()?;
        self.rum.check()?;
        telemetry::check_filter(&self.log.filter).map_err(|error| ("log.filter", error.to_string()))?;
        self.budget.check().map_err(|(key, reason)| (key, reason.to_owned()))?;
        self.cache.check().map_err(|error| ("cache", error.to_string()))?;
        self.origin.check().map_err(|error| ("origin", error.to_string()))?;
        self.campaigns.sources().map_err(|error| ("campaigns.ignored_parameters", error.to_string()))?;
        self.admin.check().map_err(|reason| ("admin", reason))?;
        self.warm.check().map_err(|reason| ("warm", reason))?;
        self.purge.check().map_err(|reason| ("purge", reason))?;
        positive("config.reload_ms", self.config.reload_ms)?;
        positive("serve.generation_deadline_ms", self.serve.generation_deadline_ms)?;
        if !(8_192..=1_048_576).contains(&self.limits.header_bytes_max) {
            return Err(("limits.header_bytes_max", "is not between 8192 and 1048576".into()));
        }
        let uri: Option<http::Uri> = self.serve.public_url.parse().ok();
        let is_origin = uri.is_some_and(|uri| {
            matches!(uri.scheme_str(), Some("http" | "https")) && uri.authority().is_some() && uri.path() == "/"
        });
        if !is_origin || self.serve.public_url.ends_with('/') {
            return Err(("serve.public_url", "is not an origin such as `https://img.example.com`".into()));
        }
        Ok(())
    }
}

impl LimitsConfig {
    /// The room of a public listener that has `connections_max` in fact.
    #[must_use]
    pub fn room(&self, connections_max: usize, networks: &BudgetConfig) -> RoomSettings {
        let per_client_max = match self.connections_per_client_max {
            0 => connections_max.div_ceil(4),
            bound => bound,
        };
        RoomSettings { connections_max, per_client_max, networks: networks.clone() }
    }

    /// The listener these limits ask for.
    #[must_use]
    pub fn listener(&self, prior_knowledge: PriorKnowledge) -> ListenerSettings {
        let millis = Duration::from_millis;
        ListenerSettings {
            protocols: Protocols::new(ConnectionLimits {
                deadlines: Deadlines {
                    first_byte: millis(self.first_byte_ms),
                    head: millis(self.header_ms),
                    idle: millis(self.idle_ms),
                    write_stall: millis(self.write_stall_ms),
                },
                header_bytes_max: self.header_bytes_max,
                headers_max: self.headers_max,
                requests_max: self.requests_max,
                prior_knowledge,
                streams_max: self.streams_max,
                stream_window_bytes: self.stream_window_bytes,
                connection_window_bytes: self.connection_window_bytes,
                ping_interval: millis(self.ping_interval_ms),
                ping_timeout: millis(self.ping_timeout_ms),
                drain_grace: millis(self.drain_grace_ms),
            }),
            handshake: millis(self.handshake_ms),
            drain: millis(self.drain_ms),
        }
    }
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
        assert_eq!(config.signing, defaults.signing);
        assert_eq!(config.cache, defaults.cache);
        assert_eq!(config.render, defaults.render);
        assert_eq!(config.budget, defaults.budget);
        assert_eq!(config.purge, defaults.purge);
        assert_eq!(config.admin, defaults.admin);
        assert_eq!(config.warm, defaults.warm);
        assert_eq!(config.log, defaults.log);
        assert_eq!(config.config, defaults.config);
        assert_eq!(config.access_log, defaults.access_log);
        assert_eq!(config.rum, defaults.rum);
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
