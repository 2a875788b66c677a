//! `[provenance.watermark]`: which secret marks pictures, and which others the detector tries.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use super::{Secret, Watermark};
use crate::secret;

/// 64 digits, and room for white space.
const KEY_FILE_BYTES_MAX: u64 = 128;
/// Each makes a search that finds nothing longer by a third.
const EARLIER_KEYS_MAX: usize = 8;

/// See the module's documentation.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WatermarkConfig {
    /// Whether pictures are marked. What is marked is found in either case.
    pub enabled: bool,
    /// A file of 64 hexadecimal digits that all edges share. Without it the published key marks, which anybody can forge.
    pub key: Option<PathBuf>,
    /// Keys that marked before, the latest first.
    pub earlier_keys: Vec<PathBuf>,
}

impl Default for WatermarkConfig {
    fn default() -> Self {
        Self { enabled: true, key: None, earlier_keys: Vec::new() }
    }
}

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WatermarkKeyError {
    #[error("the watermark's key in {} cannot be read: {error}", path.display())]
    Unreadable { path: PathBuf, error: io::Error },
    #[error("the watermark's key in {} is not 64 hexadecimal digits", path.display())]
    Malformed { path: PathBuf },
}

impl WatermarkConfig {
    /// # Errors
    /// The key that is wrong, and why.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        if self.earlier_keys.len() > EARLIER_KEYS_MAX {
            let reason = format!("names {} files; {EARLIER_KEYS_MAX} are the most", self.earlier_keys.len());
            return Err(("provenance.watermark.earlier_keys", reason));
        }
        Ok(())
    }

    /// Reads the files.
    ///
    /// # Errors
    /// When one cannot be read, is open to others than its owner, or holds something else.
    pub fn open(&self) -> Result<Watermarks, WatermarkKeyError> {
        let current = self.key.as_deref().map_or(Ok(Secret::PUBLISHED), read)?;
        let earlier = self.earlier_keys.iter().map(|path| read(path)).collect::<Result<Vec<_>, _>>()?;
        let marking = |secret: Secret| Arc::new(Watermark::new(&secret));
        Ok(Watermarks {
            current: marking(current),
            earlier: earlier.into_iter().map(marking).collect(),
            published: (current != Secret::PUBLISHED).then(|| marking(Secret::PUBLISHED)),
            is_marking: self.enabled,
        })
    }
}

fn read(path: &Path) -> Result<Secret, WatermarkKeyError> {
    let text = secret::read(path, KEY_FILE_BYTES_MAX)
        .map_err(|error| WatermarkKeyError::Unreadable { path: path.to_owned(), error })?;
    let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(text.trim_ascii()).ok();
    let bytes: Option<[u8; 32]> = bytes.and_then(|bytes| bytes.try_into().ok());
    bytes.map(Secret::from_bytes).ok_or_else(|| WatermarkKeyError::Malformed { path: path.to_owned() })
}

/// The watermarks of an installation.
#[derive(Debug, Clone)]
pub struct Watermarks {
    current: Arc<Watermark>,
    earlier: Vec<Arc<Watermark>>,
    /// `None` where it is the current one.
    published: Option<Arc<Watermark>>,
    is_marking: bool,
}

impl Watermarks {
    /// What pictures are marked with; `None` where they are not.
    #[must_use]
    pub fn marking(&self) -> Option<&Arc<Watermark>> {
        self.is_marking.then_some(&self.current)
    }

    /// What marked before, the latest first.
    #[must_use]
    pub fn earlier(&self) -> &[Arc<Watermark>] {
        &self.earlier
    }

    /// What a detector looks for: all keys of this installation, and the published one.
    pub fn detectable(&self) -> impl Iterator<Item = &Arc<Watermark>> {
        std::iter::once(&self.current).chain(&self.earlier).chain(&self.published)
    }

    /// Whether anybody can write the marks of this installation.
    #[must_use]
    pub const fn is_published(&self) -> bool {
        self.published.is_none()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn file(dir: &Path, name: &str, text: &str) -> PathBuf {
        let path = dir.join(name);
        std::fs::write(&path, text).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("chmod");
        path
    }

    #[test]
    fn without_a_file_the_published_key_marks() {
        let watermarks = WatermarkConfig::default().open().expect("no file is needed");
        assert!(watermarks.is_published());
        let published = Secret::PUBLISHED.key_id();
        assert_eq!(watermarks.marking().map(|watermark| watermark.key()), Some(published));
        assert_eq!(watermarks.detectable().count(), 1);
    }

    #[test]
    fn what_no_longer_marks_is_still_found() {
        let dir = tempfile::tempdir().expect("a folder");
        let key = file(dir.path(), "key", &format!("{}\n", "0a".repeat(32)));
        let earlier_keys = vec![file(dir.path(), "earlier", &"0B".repeat(32))];
        let config = WatermarkConfig { enabled: false, key: Some(key), earlier_keys };
        let watermarks = config.open().expect("both files are well");
        assert!(watermarks.marking().is_none() && !watermarks.is_published());
        let keys: Vec<_> = watermarks.detectable().map(|watermark| watermark.key()).collect();
        let secrets = [Secret::from_bytes([10; 32]), Secret::from_bytes([11; 32]), Secret::PUBLISHED];
        assert_eq!(keys, secrets.map(|secret| secret.key_id()));
    }

    #[test]
    fn a_key_that_is_open_malformed_or_missing_is_refused_by_name() {
        let dir = tempfile::tempdir().expect("a folder");
        let said = |path: &Path| {
            let config = WatermarkConfig { key: Some(path.to_owned()), ..WatermarkConfig::default() };
            config.open().expect_err("refused").to_string()
        };
        let short = file(dir.path(), "short", "0a0b");
        assert!(said(&short).ends_with("short is not 64 hexadecimal digits"), "{}", said(&short));
        assert!(said(&dir.path().join("none")).contains("cannot be read"));
        let open = file(dir.path(), "open", &"0a".repeat(32));
        std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o644)).expect("chmod");
        assert!(said(&open).contains("others than its owner"), "{}", said(&open));
        let many = WatermarkConfig { earlier_keys: vec![short; 9], ..WatermarkConfig::default() };
        assert_eq!(many.check().expect_err("too many").0, "provenance.watermark.earlier_keys");
    }
}
