//! `[cache.object]`: which store, and how much of it and of us at a time.
//!
//! Credentials never stand in the file: they come from the environment as every S3 tool knows them
//! (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`, web identity, container or instance role).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{BackoffConfig, ObjectStore, RetryConfig};
use serde::Deserialize;

use super::http::Connector;

/// `[cache.object]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObjectConfig {
    /// `s3://bucket/prefix` or `file:///folder`.
    pub url: String,
    /// Of a store that is not Amazon's: `https://s3.example.com`.
    pub endpoint: Option<String>,
    pub region: Option<String>,
    /// Certificates in PEM that vouch for the endpoint, beside the system's.
    pub ca: Option<PathBuf>,
    /// To open a connection.
    #[serde(default = "defaults::connect_timeout_ms")]
    pub connect_timeout_ms: u64,
    /// For a whole answer: longer than this a miss never waits for the store.
    #[serde(default = "defaults::read_timeout_ms")]
    pub read_timeout_ms: u64,
    #[serde(default = "defaults::write_timeout_ms")]
    pub write_timeout_ms: u64,
    /// Requests at a time, for each of reading and writing.
    #[serde(default = "defaults::concurrency")]
    pub concurrency: usize,
    /// What waits to be written, in bytes; more is not kept there.
    #[serde(default = "defaults::pending_bytes_max")]
    pub pending_bytes_max: u64,
    /// Failures in a row after which the store is left alone …
    #[serde(default = "defaults::errors_max")]
    pub errors_max: u32,
    /// … for this long.
    #[serde(default = "defaults::offline_ms")]
    pub offline_ms: u64,
}

mod defaults {
    pub(super) const fn connect_timeout_ms() -> u64 {
        500
    }
    pub(super) const fn read_timeout_ms() -> u64 {
        1_000
    }
    pub(super) const fn write_timeout_ms() -> u64 {
        10_000
    }
    pub(super) const fn concurrency() -> usize {
        16
    }
    pub(super) const fn pending_bytes_max() -> u64 {
        64 << 20
    }
    pub(super) const fn errors_max() -> u32 {
        5
    }
    pub(super) const fn offline_ms() -> u64 {
        10_000
    }
}

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    #[error("`cache.object.{key}` {reason}")]
    Value { key: &'static str, reason: String },
    #[error("`cache.object`: {0}")]
    Store(#[from] object_store::Error),
    #[error("`cache.object.{key}`: {source}")]
    Io { key: &'static str, source: std::io::Error },
}

/// What `url` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum StoreAddress {
    Folder(PathBuf),
    Bucket { bucket: String, prefix: String },
}

impl ObjectConfig {
    /// A store at `url`, everything else at its default.
    #[must_use]
    pub fn at(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            endpoint: None,
            region: None,
            ca: None,
            connect_timeout_ms: defaults::connect_timeout_ms(),
            read_timeout_ms: defaults::read_timeout_ms(),
            write_timeout_ms: defaults::write_timeout_ms(),
            concurrency: defaults::concurrency(),
            pending_bytes_max: defaults::pending_bytes_max(),
            errors_max: defaults::errors_max(),
            offline_ms: defaults::offline_ms(),
        }
    }

    /// # Errors
    /// Names the key that cannot be right.
    pub fn check(&self) -> Result<(), ObjectError> {
        let positive: [(&'static str, u64); 5] = [
            ("connect_timeout_ms", self.connect_timeout_ms),
            ("read_timeout_ms", self.read_timeout_ms),
            ("write_timeout_ms", self.write_timeout_ms),
            ("concurrency", self.concurrency as u64),
            ("pending_bytes_max", self.pending_bytes_max),
        ];
        if let Some((key, _)) = positive.into_iter().find(|(_, value)| *value == 0) {
            return Err(ObjectError::Value { key, reason: "must not be 0".into() });
        }
        self.place().map(drop)
    }

    pub(super) fn place(&self) -> Result<StoreAddress, ObjectError> {
        let wrong = |key, reason: &str| ObjectError::Value { key, reason: reason.into() };
        if let Some(endpoint) = &self.endpoint
            && !(endpoint.starts_with("https://") || endpoint.starts_with("http://"))
        {
            return Err(wrong("endpoint", "is neither `https://…` nor `http://…`"));
        }
        if let Some(folder) = self.url.strip_prefix("file://") {
            let folder = PathBuf::from(folder);
            return if folder.is_absolute() {
                Ok(StoreAddress::Folder(folder))
            } else {
                Err(wrong("url", "needs an absolute folder: `file:///mnt/shared/bildkante`"))
            };
        }
        let Some(rest) = self.url.strip_prefix("s3://") else {
            return Err(wrong("url", "is neither `s3://bucket/prefix` nor `file:///folder`"));
        };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let is_bucket_byte = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte);
        if bucket.len() < 3 || bucket.len() > 63 || !bucket.bytes().all(is_bucket_byte) {
            return Err(wrong("url", "names no bucket: 3 to 63 of a–z, 0–9, `.`, `-`, `_`"));
        }
        if prefix.split('/').any(|part| part == ".." || part == ".") {
            return Err(wrong("url", "has `.` or `..` in its prefix"));
        }
        Ok(StoreAddress::Bucket { bucket: bucket.to_owned(), prefix: prefix.trim_matches('/').to_owned() })
    }

    /// The store and the path everything is kept under. `environment` brings the credentials.
    pub(super) fn open(
        &self,
        environment: AmazonS3Builder,
        body_bytes_max: usize,
    ) -> Result<(Arc<dyn ObjectStore>, Path), ObjectError> {
        match self.place()? {
            StoreAddress::Folder(folder) => {
                std::fs::create_dir_all(&folder).map_err(|source| ObjectError::Io { key: "url", source })?;
                let store = LocalFileSystem::new_with_prefix(folder)?.with_fsync(true);
                Ok((Arc::new(store), Path::default()))
            }
            StoreAddress::Bucket { bucket, prefix } => {
                let store = self.bucket(environment.with_bucket_name(bucket), body_bytes_max)?;
                Ok((store, Path::from(prefix)))
            }
        }
    }

    fn bucket(&self, builder: AmazonS3Builder, body_bytes_max: usize) -> Result<Arc<dyn ObjectStore>, ObjectError> {
        let is_plain = self.endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("http://"));
        let connector =
            Connector::new(Duration::from_millis(self.connect_timeout_ms), self.ca.as_deref(), body_bytes_max)
                .map_err(|source| ObjectError::Io { key: "ca", source })?;
        // One more try where it is safe; everything beyond is the breaker's business.
        let retry = RetryConfig {
            max_retries: 1,
            retry_timeout: Duration::from_millis(self.read_timeout_ms),
            backoff: BackoffConfig {
                init_backoff: Duration::from_millis(50),
                max_backoff: Duration::from_millis(200),
                base: 2.0,
            },
        };
        let mut builder = builder
            .with_http_connector(connector)
            .with_retry(retry)
            .with_allow_http(is_plain)
            // TLS carries it, and every object bears a digest of ours: hashing it twice would hold up a worker.
            .with_unsigned_payload(!is_plain);
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        if let Some(region) = &self.region {
            builder = builder.with_region(region);
        }
        Ok(Arc::new(builder.build()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_parse_and_what_is_none_names_its_key() {
        let place = |url: &str| ObjectConfig::at(url).place();
        let bucket = |bucket: &str, prefix: &str| StoreAddress::Bucket { bucket: bucket.into(), prefix: prefix.into() };
        assert_eq!(place("s3://pictures").unwrap(), bucket("pictures", ""));
        assert_eq!(place("s3://pictures/a/b/").unwrap(), bucket("pictures", "a/b"));
        assert_eq!(place("file:///mnt/x").unwrap(), StoreAddress::Folder("/mnt/x".into()));
        for wrong in ["", "pictures", "s3://", "s3://ab", "s3://UPPER/x", "s3://pictures/../x", "file://mnt/x"] {
            let error = place(wrong).unwrap_err().to_string();
            assert!(error.contains("cache.object.url"), "{wrong}: {error}");
        }
        let config = ObjectConfig { endpoint: Some("s3.example.com".into()), ..ObjectConfig::at("s3://pictures") };
        assert!(config.check().unwrap_err().to_string().contains("cache.object.endpoint"));
        let config = ObjectConfig { concurrency: 0, ..ObjectConfig::at("s3://pictures") };
        assert!(config.check().unwrap_err().to_string().contains("cache.object.concurrency"));
    }

    #[test]
    fn only_the_url_is_needed_and_unknown_keys_are_refused() {
        let config: ObjectConfig = toml::from_str("url = \"s3://pictures\"").unwrap();
        assert_eq!(config, ObjectConfig::at("s3://pictures"));
        assert!(toml::from_str::<ObjectConfig>("url = \"s3://pictures\"\nsecret_key = \"x\"").is_err());
        assert!(toml::from_str::<ObjectConfig>("").is_err());
    }
}
