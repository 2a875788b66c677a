//! The node's configuration: one TOML file, every key optional, unknown keys refused.
//!
//! `config/gpu-node.toml` lists every key with its unit and default; a test keeps it and [`NodeConfig::default`]
//! in agreement. Relative folders are relative to the working directory.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bildkante_shared::limits;
use bildkante_shared::telemetry::{self, LogFormat};
use serde::Deserialize;

use crate::tls::TlsConfig;

/// The configuration of a node.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NodeConfig {
    /// How replies and logs call this node; empty: its listening address.
    pub name: String,
    pub listen: SocketAddr,
    /// With it edges must show a certificate; without it the listener speaks plain text.
    pub tls: Option<TlsConfig>,
    /// Whether the listener may speak plain text beyond loopback.
    pub insecure: bool,
    /// Each folder in it that has a `model_index.json` is a checkpoint of the folder's name, each
    /// `adapters/*.safetensors` an adapter of the file's.
    pub models_dir: PathBuf,
    pub data_dir: PathBuf,
    /// Each draws by itself, all of them from one queue.
    pub device: Devices,
    pub dtype: DtypeChoice,
    /// CPU threads of one operator; 0: as many as there are cores.
    pub threads: u32,
    /// Pictures with a longer side are decoded and encoded in overlapping tiles of this side; 0: never.
    pub vae_tiles_px: u32,
    /// Memory of a device for drawings, beside the networks; 0: nine tenths of what is free when they are loaded.
    pub memory_bytes_max: u64,
    /// Whether float32 may be multiplied in TF32 where a device can.
    pub tf32: bool,
    /// Whether convolutions take their channels last.
    pub channels_last: bool,
    /// How often `models_dir` is looked at for checkpoints and adapters that came or went; 0: never.
    pub models_poll_ms: u64,
    /// Steps of the self-test's drawing.
    pub self_test_steps: u32,
    pub networks: NetworksConfig,
    pub batch: BatchConfig,
    pub queue: QueueConfig,
    pub http: HttpConfig,
    pub store: StoreConfig,
    pub dedup: DedupConfig,
    pub log: LogConfig,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            name: String::new(),
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7070),
            tls: None,
            insecure: false,
            models_dir: PathBuf::from("gpu-node/models"),
            data_dir: PathBuf::from("data/gpu-node"),
            device: Devices::default(),
            dtype: DtypeChoice::F32,
            threads: 0,
            vae_tiles_px: 0,
            memory_bytes_max: 0,
            tf32: false,
            channels_last: false,
            models_poll_ms: 5000,
            self_test_steps: 2,
            networks: NetworksConfig::default(),
            batch: BatchConfig::default(),
            queue: QueueConfig::default(),
            http: HttpConfig::default(),
            store: StoreConfig::default(),
            dedup: DedupConfig::default(),
            log: LogConfig::default(),
        }
    }
}

/// Devices of one node.
const DEVICES_MAX: usize = 16;

/// Where tensors live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum DeviceChoice {
    Cpu,
    Cuda(usize),
}

impl TryFrom<String> for DeviceChoice {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            other => other
                .strip_prefix("cuda:")
                .and_then(|index| index.parse().ok())
                .map(Self::Cuda)
                .ok_or_else(|| format!("`device` is `cpu`, `cuda` or `cuda:N`, not `{other}`")),
        }
    }
}

impl std::fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

/// The devices of a node, in TOML one name or a list of them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "DeviceNames")]
pub struct Devices(Vec<DeviceChoice>);

#[derive(Deserialize)]
#[serde(untagged)]
enum DeviceNames {
    One(String),
    Several(Vec<String>),
}

impl Default for Devices {
    fn default() -> Self {
        Self(vec![DeviceChoice::Cpu])
    }
}

impl Devices {
    /// At least one, none of them twice.
    #[must_use]
    pub fn each(&self) -> &[DeviceChoice] {
        &self.0
    }
}

impl TryFrom<DeviceNames> for Devices {
    type Error = String;

    fn try_from(names: DeviceNames) -> Result<Self, String> {
        let names = match names {
            DeviceNames::One(name) => vec![name],
            DeviceNames::Several(names) => names,
        };
        if names.is_empty() || names.len() > DEVICES_MAX {
            return Err(format!("`device` names 1 to {DEVICES_MAX} devices"));
        }
        let mut devices = Vec::new();
        for name in names {
            let device = DeviceChoice::try_from(name)?;
            if devices.contains(&device) {
                return Err(format!("`device` names {device} twice"));
            }
            devices.push(device);
        }
        Ok(Self(devices))
    }
}

/// In which precision networks run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DtypeChoice {
    F32,
    Bf16,
    F16,
}

impl DtypeChoice {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        }
    }
}

/// Whether sharing steps may change a master's bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeterminismChoice {
    /// The same recipe gives the same master, with any companions in its steps.
    Exact,
    /// Steps are shared in groups of any size: a master may differ in a last bit from one time to the next.
    Fast,
}

/// Checkpoints' networks in the memory of devices and of the host.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NetworksConfig {
    /// Bytes on each device; 0: no bound, and all are loaded at the start.
    pub device_bytes_max: u64,
    /// Bytes in the host's memory, of networks that devices have copies of; 0: a quarter of it.
    pub host_bytes_max: u64,
    /// Names of checkpoints that make room for no others.
    pub pinned: Vec<String>,
}

/// Requests that share an evaluation of a network.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BatchConfig {
    /// At most so many; 0: 1 on a CPU, which computes several no faster, and 4 on other devices.
    pub requests_max: usize,
    pub determinism: DeterminismChoice,
}

impl Default for BatchConfig {
    fn default() -> Self {
        Self { requests_max: 0, determinism: DeterminismChoice::Exact }
    }
}

impl BatchConfig {
    /// The bound for a device.
    #[must_use]
    pub const fn requests_max_on(&self, device: DeviceChoice) -> usize {
        match (self.requests_max, device) {
            (0, DeviceChoice::Cpu) => 1,
            (0, DeviceChoice::Cuda(_)) => 4,
            (most, _) => most,
        }
    }
}

/// How much may wait for the device.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QueueConfig {
    /// Distinct recipes waiting; one more is answered 429.
    pub jobs_max: usize,
    /// Callers waiting for any recipe; one more is answered 429.
    pub waiters_max: usize,
    /// After how long a recipe is aged, for which one turn in ten is kept; 0: never.
    pub age_ms: u64,
}

impl Default for QueueConfig {
    fn default() -> Self {
        Self { jobs_max: 64, waiters_max: 4096, age_ms: 30_000 }
    }
}

/// Limits of the listener.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpConfig {
    pub connections_max: usize,
    /// HTTP/2 streams a connection may have open.
    pub streams_per_connection_max: u32,
    /// From the first byte of a connection or request to the end of its header; also how long an HTTP/1.1
    /// connection may idle.
    pub header_timeout_ms: u64,
    pub body_timeout_ms: u64,
    /// How long a peer may leave a response unread.
    pub write_stall_timeout_ms: u64,
    /// How often an HTTP/2 connection is pinged, and how long a pong may take.
    pub keep_alive_interval_ms: u64,
    pub keep_alive_timeout_ms: u64,
    /// How long a shutdown waits for requests in flight.
    pub drain_timeout_ms: u64,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            connections_max: 1024,
            streams_per_connection_max: 256,
            header_timeout_ms: 10_000,
            body_timeout_ms: 10_000,
            write_stall_timeout_ms: 30_000,
            keep_alive_interval_ms: 20_000,
            keep_alive_timeout_ms: 10_000,
            drain_timeout_ms: 10_000,
        }
    }
}

impl HttpConfig {
    #[must_use]
    pub const fn header_timeout(&self) -> Duration {
        Duration::from_millis(self.header_timeout_ms)
    }

    #[must_use]
    pub const fn body_timeout(&self) -> Duration {
        Duration::from_millis(self.body_timeout_ms)
    }

    #[must_use]
    pub const fn drain_timeout(&self) -> Duration {
        Duration::from_millis(self.drain_timeout_ms)
    }
}

/// The master store.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreConfig {
    /// Bytes of master files; the longest unused go first.
    pub bytes_max: u64,
    /// Masters; the longest unused go first.
    pub masters_max: usize,
    /// Masters read from disk at the same time.
    pub reads_max: usize,
    /// Free bytes on the disk of `data_dir` below which nothing is drawn, because it could not be stored; 0: only a write
    /// that fails says so.
    pub free_bytes_min: u64,
    /// Bytes of images that edges have handed over; the longest unused go first.
    pub blob_bytes_max: u64,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            bytes_max: 20 * 1024 * 1024 * 1024,
            masters_max: 1_000_000,
            reads_max: 8,
            free_bytes_min: 256 << 20,
            blob_bytes_max: 4 << 30,
        }
    }
}

/// When two masters are one to the eye; see `dedup.rs` for how each figure is measured.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DedupConfig {
    pub enabled: bool,
    /// Hamming distance of the luma hashes, of 256.
    pub luma_distance_max: u32,
    /// Mean chroma difference, in 8-bit steps.
    pub chroma_distance_max: f64,
    /// Mean chroma difference of the eight worst of 256 places, in 8-bit steps.
    pub chroma_peak_max: f64,
    /// SSIMULACRA2 score; 100 is identical, 90 visually lossless, 70 high quality.
    pub ssimulacra2_min: f64,
    /// Candidates whose pixels are compared, nearest first.
    pub confirmations_max: usize,
}

impl Default for DedupConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            luma_distance_max: 24,
            chroma_distance_max: 2.0,
            chroma_peak_max: 8.0,
            ssimulacra2_min: 80.0,
            confirmations_max: 8,
        }
    }
}

/// Log lines on stderr; `RUST_LOG` wins over `filter`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    pub format: LogFormat,
    pub filter: String,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { format: LogFormat::Text, filter: "info".to_owned() }
    }
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path}: {source}")]
    Parse { path: PathBuf, source: Box<toml::de::Error> },
    #[error("`{key}` is {allowed}")]
    Value { key: &'static str, allowed: &'static str },
    #[error(
        "`listen` is {listen}, which others reach, and there is no `tls`: anybody there may draw and read every picture. Set `tls`, \
         or `insecure = true` where the network keeps others out"
    )]
    Exposed { listen: SocketAddr },
}

impl NodeConfig {
    /// # Errors
    /// When the file cannot be read, is no TOML, has an unknown key or a value out of bounds.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let config = Self::read(path)?;
        config.validate()?;
        Ok(config)
    }

    /// The file as it is. A caller that changes a value has it [validated](Self::validate) after that.
    ///
    /// # Errors
    /// When the file cannot be read, is no TOML or has an unknown key.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        toml::from_str(&text).map_err(|source| ConfigError::Parse { path: path.to_owned(), source: Box::new(source) })
    }

    /// Checks what types cannot say.
    ///
    /// # Errors
    /// Names the first key that is out of bounds and what it may be.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let is_filter = telemetry::check_filter(&self.log.filter).is_ok();
        require(is_filter, "log.filter", "directives such as `info` or `warn,bildkante_gpu_node=debug`")?;
        let HttpConfig { connections_max, streams_per_connection_max, .. } = self.http;
        let timeouts = [
            ("http.header_timeout_ms", self.http.header_timeout_ms),
            ("http.body_timeout_ms", self.http.body_timeout_ms),
            ("http.write_stall_timeout_ms", self.http.write_stall_timeout_ms),
            ("http.keep_alive_interval_ms", self.http.keep_alive_interval_ms),
            ("http.keep_alive_timeout_ms", self.http.keep_alive_timeout_ms),
        ];
        for (key, value) in timeouts {
            require((1..=3_600_000).contains(&value), key, "1 to 3600000 (an hour)")?;
        }
        require(self.http.drain_timeout_ms <= 3_600_000, "http.drain_timeout_ms", "at most 3600000 (an hour)")?;
        require((1..=1_000_000).contains(&connections_max), "http.connections_max", "1 to 1000000")?;
        require((1..=10_000).contains(&streams_per_connection_max), "http.streams_per_connection_max", "1 to 10000")?;
        let tiles = self.vae_tiles_px;
        require(
            tiles == 0 || (128..=4096).contains(&tiles) && tiles.is_multiple_of(64),
            "vae_tiles_px",
            "0, or a multiple of 64 from 128 to 4096",
        )?;
        require(
            self.models_poll_ms == 0 || (100..=3_600_000).contains(&self.models_poll_ms),
            "models_poll_ms",
            "0, or 100 to 3600000 (an hour)",
        )?;
        require(self.batch.requests_max <= 64, "batch.requests_max", "0 to 64")?;
        require((1..=1_000_000).contains(&self.queue.jobs_max), "queue.jobs_max", "1 to 1000000")?;
        require(self.queue.age_ms <= 3_600_000, "queue.age_ms", "0 to 3600000")?;
        require((1..=1_000_000).contains(&self.queue.waiters_max), "queue.waiters_max", "1 to 1000000")?;
        let one_master = limits::MASTER_FILE_BYTES_MAX as u64;
        require(self.store.bytes_max >= one_master, "store.bytes_max", "at least 67108864 (one largest master)")?;
        require((1..=10_000_000).contains(&self.store.masters_max), "store.masters_max", "1 to 10000000")?;
        require((1..=256).contains(&self.store.reads_max), "store.reads_max", "1 to 256")?;
        require(
            self.store.blob_bytes_max >= limits::BLOB_BYTES_MAX as u64,
            "store.blob_bytes_max",
            "at least 33554432 (one largest image)",
        )?;
        self.check_exposure()?;
        require(self.threads <= 1024, "threads", "0 to 1024")?;
        require((1..=limits::STEPS_MAX).contains(&self.self_test_steps), "self_test_steps", "1 to 200")?;
        self.dedup.validate()
    }
}

impl NodeConfig {
    /// Refuses a plain-text listener that other machines reach, unless it is meant to be reached.
    ///
    /// # Errors
    /// [`ConfigError::Exposed`].
    pub fn check_exposure(&self) -> Result<(), ConfigError> {
        let is_local = self.listen.ip().to_canonical().is_loopback();
        if is_local || self.tls.is_some() || self.insecure {
            return Ok(());
        }
        Err(ConfigError::Exposed { listen: self.listen })
    }
}

impl DedupConfig {
    fn validate(&self) -> Result<(), ConfigError> {
        require(self.luma_distance_max <= 128, "dedup.luma_distance_max", "0 to 128")?;
        require((0.0..=255.0).contains(&self.chroma_distance_max), "dedup.chroma_distance_max", "0 to 255")?;
        require((0.0..=255.0).contains(&self.chroma_peak_max), "dedup.chroma_peak_max", "0 to 255")?;
        require((0.0..=100.0).contains(&self.ssimulacra2_min), "dedup.ssimulacra2_min", "0 to 100")?;
        require((1..=64).contains(&self.confirmations_max), "dedup.confirmations_max", "1 to 64")
    }
}

fn require(holds: bool, key: &'static str, allowed: &'static str) -> Result<(), ConfigError> {
    if holds { Ok(()) } else { Err(ConfigError::Value { key, allowed }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = include_str!("../../config/gpu-node.toml");

    #[test]
    fn the_commented_file_and_the_defaults_agree() {
        let from_file: NodeConfig = toml::from_str(FILE).unwrap();
        assert_eq!(from_file, NodeConfig::default());
        from_file.validate().unwrap();
    }

    #[test]
    fn the_commented_file_names_every_key() {
        // Removing any one line that sets a key must not change the set of keys the defaults have: count them.
        let table: toml::Table = toml::from_str(FILE).unwrap();
        let count: usize = table.values().map(|v| v.as_table().map_or(1, toml::Table::len)).sum();
        assert_eq!(count, 14 + 3 + 2 + 3 + 8 + 5 + 6 + 2, "config/gpu-node.toml lacks a key or has a new one");
    }

    #[test]
    fn unknown_keys_and_values_out_of_bounds_are_named() {
        let error = toml::from_str::<NodeConfig>("qeue = 1").unwrap_err().to_string();
        assert!(error.contains("qeue"), "{error}");
        let error = toml::from_str::<NodeConfig>("device = \"tpu\"").unwrap_err().to_string();
        assert!(error.contains("`cpu`, `cuda` or `cuda:N`"), "{error}");
        let config: NodeConfig = toml::from_str("[queue]\njobs_max = 0").unwrap();
        assert!(config.validate().unwrap_err().to_string().contains("queue.jobs_max"));
        let config: NodeConfig = toml::from_str("[dedup]\nssimulacra2_min = nan").unwrap();
        assert!(config.validate().unwrap_err().to_string().contains("dedup.ssimulacra2_min"));
    }

    #[test]
    fn plain_text_beyond_loopback_is_refused_unless_it_is_said_to_be_meant() {
        let outcome =
            |text: &str| toml::from_str::<NodeConfig>(text).unwrap().validate().map_err(|error| error.to_string());
        for exposed in ["0.0.0.0:7070", "[::]:7070", "10.0.0.7:7070", "[::ffff:10.0.0.7]:7070"] {
            let error = outcome(&format!("listen = \"{exposed}\"")).unwrap_err();
            assert!(error.contains("`tls`") && error.contains("`insecure = true`"), "{error}");
            outcome(&format!("listen = \"{exposed}\"\ninsecure = true")).unwrap();
            let tls = "tls = { certificate = \"c\", key = \"k\", client_ca = \"a\" }";
            outcome(&format!("listen = \"{exposed}\"\n{tls}")).unwrap();
        }
        for local in ["127.0.0.1:7070", "127.3.2.1:7070", "[::1]:7070", "[::ffff:127.0.0.1]:7070"] {
            outcome(&format!("listen = \"{local}\"")).unwrap();
        }
    }

    #[test]
    fn devices_are_read() {
        assert_eq!(DeviceChoice::try_from("cuda".to_owned()), Ok(DeviceChoice::Cuda(0)));
        assert_eq!(DeviceChoice::try_from("cuda:3".to_owned()), Ok(DeviceChoice::Cuda(3)));
        assert!(DeviceChoice::try_from("cuda:".to_owned()).is_err());
        let devices = |text: &str| toml::from_str::<NodeConfig>(text).map(|config| config.device.0);
        assert_eq!(devices("device = \"cuda:1\""), Ok(vec![DeviceChoice::Cuda(1)]));
        let two = vec![DeviceChoice::Cuda(0), DeviceChoice::Cuda(1)];
        assert_eq!(devices("device = [\"cuda:0\", \"cuda:1\"]"), Ok(two));
        for (text, reason) in [("[]", "1 to 16"), ("[\"cuda\", \"cuda:0\"]", "twice"), ("\"tpu\"", "not `tpu`")] {
            let error = devices(&format!("device = {text}")).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
