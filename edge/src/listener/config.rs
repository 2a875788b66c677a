//! `[listen]` and `[limits]`: where an edge listens, and what one peer may take.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde::Deserialize;

use super::ListenerSettings;
use super::addresses::Addresses;
use super::forwarded::{ForwardedField, Prefix, TrustedProxies};
use super::http::{ConnectionLimits, PriorKnowledge, Protocols};
use super::io::Deadlines;
use super::room::RoomSettings;
use super::tls::{AdminTlsConfig, TlsConfig};
use crate::budget::BudgetConfig;

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

impl LimitsConfig {
    /// # Errors
    /// Names the key that is out of bounds.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        let positive = |key, value: u64| if value == 0 { Err((key, "is zero".to_owned())) } else { Ok(()) };
        positive("limits.connections_max", self.connections_max as u64)?;
        positive("limits.requests_max", self.requests_max)?;
        positive("limits.headers_max", self.headers_max as u64)?;
        positive("limits.streams_max", u64::from(self.streams_max))?;
        positive("limits.header_ms", self.header_ms)?;
        positive("limits.body_ms", self.body_ms)?;
        positive("limits.idle_ms", self.idle_ms)?;
        positive("limits.ping_interval_ms", self.ping_interval_ms)?;
        if !(8_192..=1_048_576).contains(&self.header_bytes_max) {
            return Err(("limits.header_bytes_max", "is not between 8192 and 1048576".into()));
        }
        Ok(())
    }

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
