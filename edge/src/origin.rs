//! Where masters come from: the seam to it, imports, and regions of GPU nodes with client, health, deadlines and the
//! sidecar.
//!
//! | module | owns |
//! | --- | --- |
//! | `seam` | what a fill asks of an origin, and what an origin says of a master |
//! | `imports` | masters that people brought |
//! | `topology` | which regions and nodes there are |
//! | `connector` | connections to nodes, mutual TLS |
//! | `client` | one node over HTTP/2: bounded replies, wire types, problems |
//! | `health` | when a node may be asked |
//! | `region` | the nodes of one region, in the order in which a recipe asks them |
//! | `regions` | which node is asked and which after it, deadlines, reload |
//! | `endings` | recipes over which nodes ended: which of them are asked for no more |
//! | `images` | the images that manifests name, for nodes that lack one |
//! | `sidecar` | a node that this edge starts and watches |
//!
//! Invariants: no call outlives its deadline and no reply outgrows its bound; equal recipes go to equal nodes as
//! long as the same nodes are healthy and none is overloaded; nothing a node answers is trusted before it is checked.

mod client;
mod connector;
mod endings;
mod error;
mod health;
mod images;
mod imports;
mod metrics;
mod region;
mod regions;
mod seam;
mod sidecar;
#[cfg(test)]
pub(crate) mod testing;
mod topology;

use std::path::PathBuf;

use serde::Deserialize;

pub use connector::{NodeTlsConfig, NodeTlsError};
pub use error::OriginError;
pub use health::NodeState;
pub use images::Images;
pub use imports::{ImportFault, Imports, MAKER as IMPORT_MAKER};
pub use metrics::{Operation, OriginMetrics};
pub use regions::{NodeStatus, Regions, RegionsError};
pub use seam::{Made, Order, Origin, Origins};
pub use sidecar::{Sidecar, SidecarState};
pub use topology::{RegionConfig, Topology, TopologyError};

/// Most nodes of all regions.
pub const NODES_MAX: usize = 64;

/// `[origin]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OriginConfig {
    /// Base URLs of the nodes, `http://host:port` or `https://host:port`: the short form of one region.
    pub nodes: Vec<String>,
    /// Regions, nearest first; with any `nodes` is not used.
    pub regions: Vec<RegionConfig>,
    /// Regions in a file of its own, read again when it changes; with it `nodes` and `regions` are not used.
    pub topology_file: Option<PathBuf>,
    /// Between two looks at the topology file.
    pub topology_reload_ms: u64,
    /// For nodes with `https://`.
    pub tls: Option<NodeTlsConfig>,
    /// A node with more calls in flight than this share of its region's mean is passed over …
    pub load_bound_percent: u32,
    /// … once it has more than these.
    pub load_bound_calls_min: u32,
    pub connect_timeout_ms: u64,
    /// Between two questions of whether a node is ready; a node that is not is asked four times as often.
    pub probe_interval_ms: u64,
    /// A slower answer counts as a failure.
    pub probe_timeout_ms: u32,
    /// Failures in a row after which a node is no longer asked until a probe succeeds.
    pub failures_max: u32,
    /// A node that this edge starts and watches; its URL belongs in `nodes`.
    pub sidecar: Option<SidecarConfig>,
}

/// `[origin.sidecar]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SidecarConfig {
    pub command: String,
    /// The node must end when its standard input closes, so that it cannot outlive the edge.
    pub args: Vec<String>,
    /// Pause before the first restart; it doubles with each restart in a row.
    pub restart_backoff_ms_min: u64,
    pub restart_backoff_ms_max: u64,
    /// From the request to stop until the process group is killed.
    pub stop_deadline_ms: u64,
}

impl Default for OriginConfig {
    fn default() -> Self {
        Self {
            nodes: vec!["http://127.0.0.1:7070".to_owned()],
            regions: Vec::new(),
            topology_file: None,
            topology_reload_ms: 1_000,
            tls: None,
            load_bound_percent: 125,
            load_bound_calls_min: 8,
            connect_timeout_ms: 500,
            probe_interval_ms: 1_000,
            probe_timeout_ms: 1_000,
            failures_max: 3,
            sidecar: None,
        }
    }
}

impl Default for SidecarConfig {
    fn default() -> Self {
        Self {
            command: "bildkante-gpu-node".to_owned(),
            args: ["serve", "--exit-with-parent"].map(str::to_owned).into(),
            restart_backoff_ms_min: 250,
            restart_backoff_ms_max: 30_000,
            stop_deadline_ms: 10_000,
        }
    }
}

/// What is wrong with `[origin]`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OriginConfigError {
    #[error("`{key}` names {count} nodes, 1 to {NODES_MAX} are allowed")]
    NodeCount { key: &'static str, count: usize },
    #[error("`{key}` names {count} regions, 1 to {max} are allowed", max = topology::REGIONS_MAX)]
    RegionCount { key: &'static str, count: usize },
    #[error("`{key}`: region `{name}`: names are `a-z`, `0-9` and `-`, and each is used once")]
    RegionName { key: &'static str, name: String },
    #[error("`{key}`: `{url}`: {reason}")]
    Node { key: &'static str, url: String, reason: &'static str },
    #[error("`origin.load_bound_percent` is 100 to 1000: at less than the mean no node could take a call")]
    LoadBound,
    #[error("`origin.{key}` must not be 0")]
    Zero { key: &'static str },
    #[error("`origin.sidecar.command` is empty")]
    NoCommand,
    #[error("`origin.sidecar.restart_backoff_ms_min` is above `restart_backoff_ms_max`")]
    Backoff,
}

impl OriginConfig {
    /// # Errors
    /// Names the key that cannot be right.
    pub fn check(&self) -> Result<(), OriginConfigError> {
        Topology::of_config(self)?;
        if !(100..=1000).contains(&self.load_bound_percent) {
            return Err(OriginConfigError::LoadBound);
        }
        let positive: [(&'static str, u64); 6] = [
            ("topology_reload_ms", self.topology_reload_ms),
            ("load_bound_calls_min", u64::from(self.load_bound_calls_min)),
            ("connect_timeout_ms", self.connect_timeout_ms),
            ("probe_interval_ms", self.probe_interval_ms),
            ("probe_timeout_ms", u64::from(self.probe_timeout_ms)),
            ("failures_max", u64::from(self.failures_max)),
        ];
        if let Some((key, _)) = positive.into_iter().find(|(_, value)| *value == 0) {
            return Err(OriginConfigError::Zero { key });
        }
        self.sidecar.as_ref().map_or(Ok(()), SidecarConfig::check)
    }
}

impl SidecarConfig {
    fn check(&self) -> Result<(), OriginConfigError> {
        if self.command.is_empty() {
            return Err(OriginConfigError::NoCommand);
        }
        if self.restart_backoff_ms_min == 0 {
            return Err(OriginConfigError::Zero { key: "sidecar.restart_backoff_ms_min" });
        }
        if self.restart_backoff_ms_min > self.restart_backoff_ms_max {
            return Err(OriginConfigError::Backoff);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(nodes: &[&str]) -> String {
        let nodes = nodes.iter().map(|url| (*url).to_owned()).collect();
        OriginConfig { nodes, ..OriginConfig::default() }.check().unwrap_err().to_string()
    }

    #[test]
    fn the_defaults_pass_and_unknown_keys_do_not() {
        OriginConfig::default().check().unwrap();
        let sidecar = Some(SidecarConfig::default());
        OriginConfig { sidecar, ..OriginConfig::default() }.check().unwrap();
        assert_eq!(toml::from_str::<OriginConfig>("").unwrap(), OriginConfig::default());
        assert!(toml::from_str::<OriginConfig>("node = []").is_err());
        assert!(toml::from_str::<OriginConfig>("[sidecar]\ncmd = 'x'").is_err());
    }

    #[test]
    fn wrong_nodes_are_named_with_the_reason() {
        assert!(refused(&[]).contains("0 nodes"));
        assert!(refused(&["ftp://node:1"]).contains("`ftp://node:1`: only `http://`"));
        assert!(refused(&["node:7070"]).contains("`node:7070`"));
        assert!(refused(&["http://a/v1"]).contains("end after host"));
        assert!(refused(&["http://me@a"]).contains("user name"));
        assert!(refused(&["http://a:1", "http://a:1/"]).contains("twice"));
    }

    #[test]
    fn impossible_numbers_name_their_key() {
        let config = OriginConfig { probe_interval_ms: 0, ..OriginConfig::default() };
        assert_eq!(config.check(), Err(OriginConfigError::Zero { key: "probe_interval_ms" }));
        let sidecar =
            SidecarConfig { restart_backoff_ms_min: 2, restart_backoff_ms_max: 1, ..SidecarConfig::default() };
        let config = OriginConfig { sidecar: Some(sidecar), ..OriginConfig::default() };
        assert_eq!(config.check(), Err(OriginConfigError::Backoff));
    }
}
