//! The access log: lines for what the edge answers on the public listener, not for what hyper or h2 say to a malformed head
//! by themselves. Off unless it is configured.
//!
//! ```text
//! answer ─ routine and not sampled ─▶ nothing
//!    └▶ line ─▶ bounded queue ─ full ─▶ counted, dropped
//!                   └▶ a thread of its own ─▶ file or stdout
//! ```
//!
//! Invariants: no request waits for a disk, a pipe or a lock of the writer; memory is bounded by the queue's length times the
//! longest line; a signature never gets into a line, nor does the query of a `Referer`; without a log a hit pays one
//! comparison.

pub mod line;
pub mod visit;
mod writer;

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use prometheus::{IntCounter, IntCounterVec, Opts, Registry};
use serde::Deserialize;

use self::line::Line;
use self::writer::Writer;

/// How a line is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LineFormat {
    /// A JSON object with every field.
    #[default]
    Json,
    /// The combined format of Apache and nginx, for the programs that read it.
    Combined,
}

/// How much of a client's address a line shows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShownClient {
    /// Its network: the last byte of an IPv4 address is zero, and all but the first 48 bits of an IPv6 address.
    #[default]
    Network,
    /// All of it, which is personal data.
    Address,
    /// Nothing.
    None,
}

impl ShownClient {
    #[must_use]
    pub fn of(self, address: IpAddr) -> Option<IpAddr> {
        match (self, address.to_canonical()) {
            (Self::None, _) => None,
            (Self::Address, address) => Some(address),
            (Self::Network, IpAddr::V4(v4)) => {
                let [a, b, c, _] = v4.octets();
                Some(Ipv4Addr::new(a, b, c, 0).into())
            }
            (Self::Network, IpAddr::V6(v6)) => Some(Ipv6Addr::from_bits(v6.to_bits() >> 80 << 80).into()),
        }
    }
}

/// Where lines go.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Destination {
    #[default]
    Off,
    Stdout,
    File(PathBuf),
}

impl TryFrom<String> for Destination {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "off" => Ok(Self::Off),
            "stdout" => Ok(Self::Stdout),
            // A word that is misspelt must not become a file.
            path if path.contains('/') && !path.ends_with('/') => Ok(Self::File(path.into())),
            _ => {
                Err(format!("`{text}` is not \"off\", \"stdout\" or a path such as \"/var/log/bildkante/access.log\""))
            }
        }
    }
}

/// `[access_log]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AccessLogConfig {
    pub to: Destination,
    pub format: LineFormat,
    /// The share of hits, and of 2xx and 3xx that are no image, that is logged, 0 to 1; everything else always is.
    pub hits_sample: f64,
    pub client: ShownClient,
    /// Lines that may wait for the writer.
    pub queue_lines_max: usize,
}

impl Default for AccessLogConfig {
    fn default() -> Self {
        Self {
            to: Destination::Off,
            format: LineFormat::Json,
            hits_sample: 0.01,
            client: ShownClient::Network,
            queue_lines_max: 8192,
        }
    }
}

impl AccessLogConfig {
    /// Whether lines are written.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.to != Destination::Off
    }

    /// # Errors
    /// Names the key that cannot be right.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        if !(0.0..=1.0).contains(&self.hits_sample) {
            return Err(("access_log.hits_sample", "is not between 0 and 1".to_owned()));
        }
        if !(1..=1_000_000).contains(&self.queue_lines_max) {
            return Err(("access_log.queue_lines_max", "is not between 1 and 1000000".to_owned()));
        }
        Ok(())
    }
}

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum AccessLogError {
    #[error("`access_log.to`: {path}: {source}")]
    Open { path: String, source: std::io::Error },
    #[error("the access log's thread cannot start: {0}")]
    Thread(std::io::Error),
    #[error(transparent)]
    Metrics(#[from] prometheus::Error),
}

/// What became of a line.
#[derive(Debug, Clone)]
struct LineCounters {
    written: IntCounter,
    queue_full: IntCounter,
    write_failed: IntCounter,
}

impl LineCounters {
    fn new(registry: &Registry) -> prometheus::Result<Self> {
        let lines = IntCounterVec::new(
            Opts::new(
                "bildkante_edge_access_log_lines_total",
                "Lines of the access log: written, or dropped because the queue was full or the write failed",
            ),
            &["outcome"],
        )?;
        registry.register(Box::new(lines.clone()))?;
        let of = |outcome| lines.with_label_values(&[outcome]);
        Ok(Self { written: of("written"), queue_full: of("queue_full"), write_failed: of("write_failed") })
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub struct AccessLog {
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    format: LineFormat,
    client: ShownClient,
    hits: Sampler,
    writer: Writer,
    counters: LineCounters,
}

impl AccessLog {
    /// Opens the file and starts the writer, where there is a log.
    ///
    /// # Errors
    /// When the file cannot be opened for appending.
    pub fn open(config: &AccessLogConfig, registry: &Registry) -> Result<Self, AccessLogError> {
        let counters = LineCounters::new(registry)?;
        if config.to == Destination::Off {
            return Ok(Self { open: None });
        }
        let writer = Writer::start(&config.to, config.queue_lines_max, counters.clone())?;
        let hits = Sampler::new(config.hits_sample);
        Ok(Self { open: Some(Open { format: config.format, client: config.client, hits, writer, counters }) })
    }

    /// Whether the next hit gets a line.
    #[must_use]
    pub fn takes_hit(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.hits.draw())
    }

    #[must_use]
    pub const fn is_on(&self) -> bool {
        self.open.is_some()
    }

    /// The share of hits that is logged: what each of their lines stands for is its inverse.
    #[must_use]
    pub fn hits_share(&self) -> f64 {
        self.open.as_ref().map_or(0.0, |open| open.hits.share)
    }

    /// Queues a line; never waits.
    pub fn log(&self, line: &Line<'_>) {
        let Some(open) = &self.open else { return };
        let text = line.to_text(open.format, open.client);
        if !open.writer.queue(text) {
            open.counters.queue_full.inc();
        }
    }

    /// Opens the file anew: what was moved away by a rotation is let go.
    pub fn reopen(&self) {
        if let Some(open) = &self.open {
            open.writer.reopen();
        }
    }

    /// Writes what is queued, for at most `wait`; lines after it are dropped.
    pub fn close(&self, wait: Duration) {
        if let Some(open) = &self.open {
            open.writer.close(wait);
        }
    }
}

/// Chooses a share of what comes along.
#[derive(Debug, Clone, Copy)]
struct Sampler {
    share: f64,
    /// What is drawn below it is chosen.
    below: u64,
}

thread_local! {
    /// xorshift64 (Marsaglia, 2003): enough to choose lines by.
    static DICE: Cell<u64> = Cell::new(ahash::RandomState::new().hash_one(0_u8) | 1);
}

impl Sampler {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    fn new(share: f64) -> Self {
        // A cast of a float saturates.
        Self { share, below: (share * u64::MAX as f64) as u64 }
    }

    fn draw(self) -> bool {
        if self.below == u64::MAX {
            return true;
        }
        let drawn = DICE.get();
        let drawn = drawn ^ drawn << 13;
        let drawn = drawn ^ drawn >> 7;
        let drawn = drawn ^ drawn << 17;
        DICE.set(drawn);
        drawn < self.below
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_is_off_stdout_or_a_path() {
        let of = |text: &str| Destination::try_from(text.to_owned());
        assert_eq!(of("off"), Ok(Destination::Off));
        assert_eq!(of("stdout"), Ok(Destination::Stdout));
        assert_eq!(of("./access.log"), Ok(Destination::File("./access.log".into())));
        for bad in ["", "stdou", "access.log", "/var/log/"] {
            assert!(of(bad).unwrap_err().contains("stdout"), "{bad}");
        }
    }

    #[test]
    fn a_network_is_what_is_left_of_an_address() {
        let of = |shown: ShownClient, text: &str| shown.of(text.parse().unwrap()).map(|address| address.to_string());
        assert_eq!(of(ShownClient::Network, "192.0.2.77").as_deref(), Some("192.0.2.0"));
        assert_eq!(of(ShownClient::Network, "::ffff:192.0.2.77").as_deref(), Some("192.0.2.0"));
        assert_eq!(of(ShownClient::Network, "2001:db8:1:2:3:4:5:6").as_deref(), Some("2001:db8:1::"));
        assert_eq!(of(ShownClient::Address, "2001:db8::1").as_deref(), Some("2001:db8::1"));
        assert_eq!(of(ShownClient::None, "192.0.2.77"), None);
    }

    #[test]
    fn a_share_of_hits_is_chosen() {
        let count = |share: f64| (0..100_000).filter(|_| Sampler::new(share).draw()).count();
        assert_eq!((count(0.0), count(1.0)), (0, 100_000));
        let some = count(0.01);
        // Ten standard deviations to either side.
        assert!((700..1_300).contains(&some), "{some}");
    }

    #[test]
    fn impossible_numbers_name_their_key() {
        let refused = |config: AccessLogConfig| config.check().unwrap_err().0;
        let default = AccessLogConfig::default;
        assert_eq!(refused(AccessLogConfig { hits_sample: 1.5, ..default() }), "access_log.hits_sample");
        assert_eq!(refused(AccessLogConfig { hits_sample: f64::NAN, ..default() }), "access_log.hits_sample");
        assert_eq!(refused(AccessLogConfig { queue_lines_max: 0, ..default() }), "access_log.queue_lines_max");
        assert!(default().check().is_ok());
    }
}
