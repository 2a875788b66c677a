//! Which regions there are, which nodes each has, and in which order regions are asked: from `[origin]` or from a
//! file of its own that is read again when it changes.

use std::path::{Path, PathBuf};

use http::Uri;
use serde::Deserialize;

use super::{NODES_MAX, OriginConfig, OriginConfigError};

/// Most regions of one topology.
pub(super) const REGIONS_MAX: usize = 16;
/// Longest name of a region.
const NAME_BYTES_MAX: usize = 64;
/// Longest topology file.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// What the region of `origin.nodes` is called.
const ONLY_REGION: &str = "default";

/// `[[origin.regions]]`, and `[[regions]]` in a topology file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegionConfig {
    pub name: String,
    /// Base URLs, `http://host:port` or `https://host:port`.
    pub nodes: Vec<String>,
}

/// A topology file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TopologyFile {
    regions: Vec<RegionConfig>,
}

/// Regions that can be right: named once each, every node in one of them, nearest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    pub(super) regions: Vec<RegionPlan>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RegionPlan {
    pub(super) name: String,
    pub(super) nodes: Vec<Uri>,
}

/// Why a topology file is not used.
#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    #[error("{path}: {source}", path = path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path} is over {FILE_BYTES_MAX} bytes", path = path.display())]
    TooLong { path: PathBuf },
    #[error("{path}: {source}", path = path.display())]
    Parse { path: PathBuf, source: Box<toml::de::Error> },
    #[error("{path}: {source}", path = path.display())]
    Wrong { path: PathBuf, source: OriginConfigError },
}

impl Topology {
    /// What `[origin]` itself says.
    ///
    /// # Errors
    /// Names the key that cannot be right.
    pub fn of_config(config: &OriginConfig) -> Result<Self, OriginConfigError> {
        if config.regions.is_empty() {
            let only = RegionConfig { name: ONLY_REGION.to_owned(), nodes: config.nodes.clone() };
            return Self::parse("origin.nodes", std::slice::from_ref(&only), config);
        }
        Self::parse("origin.regions", &config.regions, config)
    }

    /// What the file says. Blocks: not for async workers.
    ///
    /// # Errors
    /// Names the file and what is wrong with it.
    pub fn of_file(path: &Path, config: &OriginConfig) -> Result<Self, TopologyError> {
        let read = |source| TopologyError::Read { path: path.to_owned(), source };
        if std::fs::metadata(path).map_err(read)?.len() > FILE_BYTES_MAX {
            return Err(TopologyError::TooLong { path: path.to_owned() });
        }
        let text = std::fs::read_to_string(path).map_err(read)?;
        let file: TopologyFile = toml::from_str(&text)
            .map_err(|source| TopologyError::Parse { path: path.to_owned(), source: Box::new(source) })?;
        Self::parse("regions", &file.regions, config)
            .map_err(|source| TopologyError::Wrong { path: path.to_owned(), source })
    }

    fn parse(key: &'static str, configs: &[RegionConfig], origin: &OriginConfig) -> Result<Self, OriginConfigError> {
        if configs.is_empty() || configs.len() > REGIONS_MAX {
            return Err(OriginConfigError::RegionCount { key, count: configs.len() });
        }
        let mut regions: Vec<RegionPlan> = Vec::with_capacity(configs.len());
        for config in configs {
            let is_taken = regions.iter().any(|region| region.name == config.name);
            if is_taken || !is_name(&config.name) {
                return Err(OriginConfigError::RegionName { key, name: config.name.chars().take(80).collect() });
            }
            if config.nodes.is_empty() {
                return Err(OriginConfigError::NodeCount { key, count: 0 });
            }
            let mut nodes = Vec::with_capacity(config.nodes.len());
            for url in &config.nodes {
                let refuse = |reason| OriginConfigError::Node { key, url: url.clone(), reason };
                let uri = node_uri(url).map_err(refuse)?;
                if nodes.contains(&uri) || regions.iter().any(|region| region.nodes.contains(&uri)) {
                    return Err(refuse("it is named twice"));
                }
                if uri.scheme_str() == Some("https") && origin.tls.is_none() {
                    return Err(refuse("`https://` needs `[origin.tls]`"));
                }
                nodes.push(uri);
            }
            regions.push(RegionPlan { name: config.name.clone(), nodes });
        }
        let count = regions.iter().map(|region| region.nodes.len()).sum();
        if count > NODES_MAX {
            return Err(OriginConfigError::NodeCount { key, count });
        }
        Ok(Self { regions })
    }
}

/// It becomes a metric label and a word in logs.
fn is_name(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !name.is_empty() && name.len() <= NAME_BYTES_MAX && name.bytes().all(is_plain)
}

/// Scheme and authority; the other parts of a URL have no meaning here.
fn node_uri(url: &str) -> Result<Uri, &'static str> {
    let uri: Uri = url.parse().map_err(|_| "it is no URL")?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err("only `http://` and `https://` are spoken to nodes");
    }
    let authority = uri.authority().ok_or("it names no host")?;
    if authority.as_str().contains('@') {
        return Err("it must not hold a user name");
    }
    if uri.path() != "/" || uri.query().is_some() {
        return Err("it must end after host and port");
    }
    Ok(uri)
}

#[cfg(test)]
mod tests {
    use super::super::NodeTlsConfig;
    use super::*;

    fn config(regions: &[(&str, &[&str])]) -> OriginConfig {
        let region = |(name, nodes): &(&str, &[&str])| RegionConfig {
            name: (*name).to_owned(),
            nodes: nodes.iter().map(|url| (*url).to_owned()).collect(),
        };
        OriginConfig { regions: regions.iter().map(region).collect(), ..OriginConfig::default() }
    }

    #[test]
    fn nodes_are_the_short_form_of_one_region() {
        let topology = Topology::of_config(&OriginConfig::default()).unwrap();
        assert_eq!((topology.regions.len(), topology.regions[0].name.as_str()), (1, ONLY_REGION));
        let two = config(&[("near", &["http://a:1"]), ("far", &["http://b:1", "http://c:1"])]);
        let names: Vec<_> = Topology::of_config(&two).unwrap().regions.into_iter().map(|region| region.name).collect();
        assert_eq!(names, ["near", "far"], "in the order of the file");
    }

    #[test]
    fn what_cannot_be_right_is_named() {
        let refused = |config: &OriginConfig| Topology::of_config(config).unwrap_err().to_string();
        assert!(refused(&config(&[("near", &[])])).contains("0 nodes"));
        assert!(refused(&config(&[("Near", &["http://a:1"])])).contains("`Near`"));
        assert!(refused(&config(&[("a", &["http://a:1"]), ("a", &["http://b:1"])])).contains("`a`"));
        assert!(refused(&config(&[("a", &["http://a:1"]), ("b", &["http://a:1"])])).contains("twice"));
        assert!(refused(&config(&[("a", &["https://a:1"])])).contains("`[origin.tls]`"));
        let tls = NodeTlsConfig { ca: "ca.pem".into(), certificate: "edge.pem".into(), key: "edge.key".into() };
        let secure = OriginConfig { tls: Some(tls), ..config(&[("a", &["https://a:1"])]) };
        assert!(Topology::of_config(&secure).is_ok());
    }

    #[test]
    fn a_file_is_read_or_refused_with_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("topology.toml");
        let read = || Topology::of_file(&path, &OriginConfig::default());
        assert!(read().unwrap_err().to_string().contains("topology.toml"));
        std::fs::write(&path, "[[regions]]\nname = 'near'\nnodes = ['http://a:1']\n").unwrap();
        assert_eq!(read().unwrap().regions[0].nodes.len(), 1);
        for wrong in
            ["regions = []", "[[regions]]\nname = 'near'\nnode = []", "[[regions]]\nname = 'x'\nnodes = ['ftp://a']"]
        {
            std::fs::write(&path, wrong).unwrap();
            assert!(read().unwrap_err().to_string().contains("topology.toml"), "{wrong}");
        }
    }
}
