//! Locks: `{campaign}.lock.toml`, the digest of every checkpoint a manifest names, committed with it.
//!
//! With manifest and lock alone an edge computes recipe ids, no node reachable. A lock also says what it was
//! made from, so that one made for other checkpoints is refused instead of half used.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use bildkante_shared::checkpoint::{self, CheckpointDigestError};
use bildkante_shared::durable::{self, Durability};
use bildkante_shared::ids::Digest;
use toml::Spanned;
use toml::de::DeTable;

use super::fault::{Fault, SourceText, listing};
use super::manifest::{Manifest, SLOTS_MAX};
use super::prompts::read_schema;
use super::reader::{self, TableReader, no_hint};

/// What to do about any fault of a lock.
const ADVICE: &str = "run `bildkante-edge lock`";

/// What a lock pins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lock {
    pub campaign: String,
    /// Over the campaign's name and the names of its checkpoints.
    pub made_from: Digest,
    pub checkpoints: BTreeMap<String, Digest>,
}

/// Why there is no lock.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("checkpoint `{name}` of campaign `{campaign}`: {source}")]
    Checkpoint { campaign: String, name: String, source: CheckpointDigestError },
    #[error("{path} cannot be written: {source}")]
    Write { path: PathBuf, source: std::io::Error },
}

/// Digests of checkpoint folders, each computed once.
#[derive(Debug)]
pub struct Models {
    models_dir: PathBuf,
    digests: HashMap<String, Digest>,
}

impl Models {
    /// Checkpoints are the folders of `models_dir`, by name.
    #[must_use]
    pub fn new(models_dir: impl Into<PathBuf>) -> Self {
        Self { models_dir: models_dir.into(), digests: HashMap::new() }
    }

    /// # Errors
    /// When there is no such checkpoint or it cannot be read.
    pub fn digest(&mut self, name: &str) -> Result<Digest, CheckpointDigestError> {
        if let Some(digest) = self.digests.get(name) {
            return Ok(*digest);
        }
        let digest = checkpoint::digest(&self.models_dir.join(name))?;
        self.digests.insert(name.to_owned(), digest);
        Ok(digest)
    }
}

/// Pins every checkpoint a manifest names.
///
/// # Errors
/// When a checkpoint is missing or unreadable.
pub fn make(manifest: &Manifest, models: &mut Models) -> Result<Lock, LockError> {
    let mut checkpoints = BTreeMap::new();
    for name in manifest.checkpoints() {
        let digest = models.digest(name).map_err(|source| LockError::Checkpoint {
            campaign: manifest.name.clone(),
            name: name.to_owned(),
            source,
        })?;
        checkpoints.insert(name.to_owned(), digest);
    }
    Ok(Lock { campaign: manifest.name.clone(), made_from: made_from(manifest), checkpoints })
}

/// What a manifest's lock depends on: no alt text, no prompt, no seed.
#[must_use]
pub fn made_from(manifest: &Manifest) -> Digest {
    let mut hasher = blake3::Hasher::new();
    for word in ["bildkante lock 1", manifest.name.as_str()].into_iter().chain(manifest.checkpoints()) {
        hasher.update(&(word.len() as u64).to_le_bytes());
        hasher.update(word.as_bytes());
    }
    Digest::from_hash(&hasher.finalize())
}

impl Lock {
    /// The file's text.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut text = String::from(
            "# Written by `bildkante-edge lock`; commit it with the manifest. It pins what the manifest names.\n",
        );
        let _ = write!(
            text,
            "schema = 1\ncampaign = \"{}\"\nmade_from = \"{}\"\n\n[checkpoints]\n",
            self.campaign, self.made_from
        );
        for (name, digest) in &self.checkpoints {
            // Names are letters, digits, `.`, `_` and `-`; the quotes are for the dot.
            let _ = writeln!(text, "\"{name}\" = \"{digest}\"");
        }
        text
    }

    /// Writes the file as a whole or not at all.
    ///
    /// # Errors
    /// Any I/O error, with the path.
    pub fn write(&self, path: &Path) -> Result<(), LockError> {
        durable::write(path, &[self.to_toml().as_bytes()], Durability::Synced)
            .map_err(|source| LockError::Write { path: path.to_owned(), source })
    }
}

/// Reads a manifest's lock. `None` whenever `source` has a fault afterwards.
pub(crate) fn read(source: &SourceText<'_>, manifest: &Manifest) -> Option<Lock> {
    let document: Spanned<DeTable<'_>> = reader::parse(source)?;
    let root = TableReader::of_document(source, &document);
    read_schema(&root);
    if let Some(campaign) = root.required_text("campaign")
        && campaign.value != manifest.name
    {
        let reason = format!("this is the lock of campaign `{}`; {ADVICE}", campaign.value);
        root.fault(&campaign.span, reason);
    }
    let expected = made_from(manifest);
    let made_from = root.required_text("made_from");
    let is_stale = made_from.as_ref().is_some_and(|text| text.value != expected.to_string());
    if let Some(text) = made_from.filter(|_| is_stale) {
        root.fault(&text.span, format!("the lock is stale, the manifest names other checkpoints since; {ADVICE}"));
    }
    let checkpoints = root.table("checkpoints").map(|table| read_checkpoints(&table)).unwrap_or_default();
    root.finish(no_hint);
    let missing: Vec<&str> =
        manifest.checkpoints().into_iter().filter(|name| !checkpoints.contains_key(*name)).collect();
    if !missing.is_empty() && !is_stale {
        root.fault(&(0..0), format!("the lock lacks checkpoint {}; {ADVICE}", listing(&missing, 8)));
    }
    (!source.has_faults()).then(|| Lock { campaign: manifest.name.clone(), made_from: expected, checkpoints })
}

fn read_checkpoints(table: &TableReader<'_, '_>) -> BTreeMap<String, Digest> {
    let mut checkpoints = BTreeMap::new();
    for (name, digest) in table.named_texts(SLOTS_MAX) {
        match digest.value.parse() {
            Ok(digest) => {
                checkpoints.insert(name.value.to_owned(), digest);
            }
            Err(error) => table.fault(&digest.span, format!("{error}; {ADVICE}")),
        }
    }
    checkpoints
}

/// The fault of a manifest without a lock.
pub(crate) fn missing(path: &Path) -> Fault {
    Fault::of_file(path, format!("the lock is missing; {ADVICE}"))
}
