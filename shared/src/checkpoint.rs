//! The digest of a checkpoint folder: what a lock pins and a node proves it has.
//!
//! It covers what a pipeline loads of the *diffusers* layout, by relative path and content: the index, the configurations of
//! the parts it names, and the weights that are chosen ([`weights_of`], which loading asks, too). What else lies in the folder
//! (other precisions, a safety checker, documentation, `.git`) does not count. Before, every weight and configuration file
//! counted; for one release that digest is known as the former one, so that what was drawn under it stays where it is.
//!
//! Files are read once: [`FileDigests`] remembers them by identity, over restarts where it is given a file.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::durable::{self, Durability};
use crate::ids::Digest;

/// File extensions that were part of a checkpoint.
const COUNTED: [&str; 4] = ["json", "safetensors", "txt", "model"];
/// Most files a checkpoint may hold: bounds the walk.
const FILES_MAX: usize = 1024;
/// Deepest folder below the checkpoint.
const DEPTH_MAX: usize = 4;
/// Largest index of a pipeline, and of the shards of one network.
const INDEX_BYTES_MAX: u64 = 1024 * 1024;
const SHARDS_INDEX_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Most shards of one network.
const SHARDS_MAX: usize = 64;

/// Parts with weights, and what their files are called.
const NETWORKS: [(&str, &str); 4] = [
    ("text_encoder", "model"),
    ("text_encoder_2", "model"),
    ("unet", "diffusion_pytorch_model"),
    ("vae", "diffusion_pytorch_model"),
];
const TOKENIZERS: [&str; 2] = ["tokenizer", "tokenizer_2"];
/// Files of a tokenizer.
const TOKENIZER_FILES: [&str; 6] = [
    "added_tokens.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
];
/// Precisions that files are named after, in the order in which they are chosen behind those without one.
const VARIANTS: [&str; 3] = ["fp16", "bf16", "fp32"];

/// Why a folder has no digest.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointDigestError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path} is no diffusers checkpoint: it has neither model_index.json nor config.json")]
    NotACheckpoint { path: PathBuf },
    #[error("{path} holds more than {FILES_MAX} files or nests deeper than {DEPTH_MAX} folders")]
    TooLarge { path: PathBuf },
}

/// What a checkpoint is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digests {
    pub current: Digest,
    /// What it was called before, where that is something else.
    pub formers: Vec<Digest>,
}

impl Digests {
    #[must_use]
    pub fn hold(&self, digest: Digest) -> bool {
        self.current == digest || self.formers.contains(&digest)
    }

    /// The current one first.
    pub fn all(&self) -> impl Iterator<Item = Digest> + '_ {
        std::iter::once(self.current).chain(self.formers.iter().copied())
    }
}

/// The digest of a checkpoint.
///
/// # Errors
/// When the folder cannot be read or is no checkpoint.
pub fn digest(folder: &Path) -> Result<Digest, CheckpointDigestError> {
    digest_of(folder, &loaded(folder)?, &FileDigests::default())
}

/// The digests of a checkpoint, whose files are read once.
///
/// # Errors
/// When the folder cannot be read or is no checkpoint.
pub fn digests(folder: &Path, files: &FileDigests) -> Result<Digests, CheckpointDigestError> {
    let current = digest_of(folder, &loaded(folder)?, files)?;
    let former = former(folder, files).unwrap_or_else(|error| {
        tracing::warn!(folder = %folder.display(), %error, "what it was called before is not known: a stray file cannot be read");
        None
    });
    let formers = files.formers_of(current, former);
    files.save();
    Ok(Digests { current, formers })
}

/// What a checkpoint was called before: nothing where its folder was too large to have a digest then.
fn former(folder: &Path, files: &FileDigests) -> Result<Option<Digest>, CheckpointDigestError> {
    match everything(folder).and_then(|all| digest_of(folder, &all, files)) {
        Ok(former) => Ok(Some(former)),
        Err(error @ CheckpointDigestError::Io { .. }) => Err(error),
        Err(CheckpointDigestError::NotACheckpoint { .. } | CheckpointDigestError::TooLarge { .. }) => Ok(None),
    }
}

/// The identities of the files that loading reads: whether they have changed meanwhile.
///
/// # Errors
/// When the folder cannot be read or is no checkpoint.
pub fn look(folder: &Path) -> Result<Vec<(String, FileIdentity)>, CheckpointDigestError> {
    let io_error = |source| CheckpointDigestError::Io { path: folder.to_owned(), source };
    let look = |file: String| {
        let metadata = std::fs::metadata(folder.join(&file)).map_err(io_error)?;
        Ok((file, FileIdentity::of(&metadata)))
    };
    loaded(folder)?.into_iter().map(look).collect()
}

/// BLAKE3 over the sorted list of (path length, path, size, file digest).
fn digest_of(folder: &Path, files: &BTreeSet<String>, known: &FileDigests) -> Result<Digest, CheckpointDigestError> {
    let mut hasher = blake3::Hasher::new();
    for relative in files {
        let path = folder.join(relative);
        let (size_bytes, file_digest) =
            known.digest(&path).map_err(|source| CheckpointDigestError::Io { path: path.clone(), source })?;
        hasher.update(&(relative.len() as u64).to_le_bytes());
        hasher.update(relative.as_bytes());
        hasher.update(&size_bytes.to_le_bytes());
        hasher.update(file_digest.as_bytes());
    }
    Ok(Digest::from_hash(&hasher.finalize()))
}

/// What of a folder is loaded. A part that is missing is loading's error, not the digest's.
fn loaded(folder: &Path) -> Result<BTreeSet<String>, CheckpointDigestError> {
    let mut files = BTreeSet::new();
    let mut add = |file: String| {
        if folder.join(&file).is_file() {
            files.insert(file);
        }
    };
    let weights = |part: &str, stem: &str| {
        let names = weights_of(&folder.join(part), stem).map(|weights| weights.names()).unwrap_or_default();
        names.into_iter().map(|name| if part.is_empty() { name } else { format!("{part}/{name}") }).collect::<Vec<_>>()
    };
    if folder.join("model_index.json").is_file() {
        let index = read_bounded(&folder.join("model_index.json"), INDEX_BYTES_MAX).ok();
        let index: Option<Value> = index.and_then(|text| serde_json::from_slice(&text).ok());
        let is_named =
            |part: &str| index.as_ref().is_none_or(|index| index.get(part).is_some_and(|part| !part[1].is_null()));
        add("model_index.json".to_owned());
        add("scheduler/scheduler_config.json".to_owned());
        for (part, stem) in NETWORKS.into_iter().filter(|(part, _)| is_named(part)) {
            add(format!("{part}/config.json"));
            weights(part, stem).into_iter().for_each(&mut add);
        }
        for part in TOKENIZERS.into_iter().filter(|part| is_named(part)) {
            TOKENIZER_FILES.iter().for_each(|file| add(format!("{part}/{file}")));
        }
        return Ok(files);
    }
    // A single network, as a ControlNet is, or an image encoder, whose weights are called as transformers calls them.
    if !folder.join("config.json").is_file() {
        return Err(CheckpointDigestError::NotACheckpoint { path: folder.to_owned() });
    }
    add("config.json".to_owned());
    let diffusers = weights("", "diffusion_pytorch_model");
    let found = if diffusers.is_empty() { weights("", "model") } else { diffusers };
    found.into_iter().for_each(&mut add);
    Ok(files)
}

/// The weight files of one network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeightFiles {
    /// The index of shards, where there are some.
    pub index: Option<String>,
    pub files: Vec<String>,
}

impl WeightFiles {
    fn names(self) -> Vec<String> {
        self.index.into_iter().chain(self.files).collect()
    }
}

/// Why a network has no weights.
#[derive(Debug, thiserror::Error)]
pub enum WeightFilesError {
    #[error("none of {tried}")]
    None { tried: String },
    #[error("{name}: {reason}")]
    Index { name: String, reason: String },
}

/// Chooses the weight files of the network in `folder`, which are called `stem`: a single file, shards with an index, or the
/// same in a variant, under the names diffusers and transformers give them. What has no variant wins where several are there.
///
/// # Errors
/// When there is none, or an index is malformed or names files outside of its folder.
pub fn weights_of(folder: &Path, stem: &str) -> Result<WeightFiles, WeightFilesError> {
    let mut candidates = vec![format!("{stem}.safetensors"), format!("{stem}.safetensors.index.json")];
    for variant in VARIANTS {
        candidates.push(format!("{stem}.{variant}.safetensors"));
        candidates.push(format!("{stem}.safetensors.index.{variant}.json"));
    }
    match candidates.iter().find(|name| folder.join(name).is_file()) {
        Some(name) if name.ends_with(".json") => shards(folder, name),
        Some(name) => Ok(WeightFiles { index: None, files: vec![name.clone()] }),
        None => Err(WeightFilesError::None { tried: candidates.join(", ") }),
    }
}

/// `*.safetensors.index.json` as `huggingface_hub` writes it; its `metadata` is informative.
#[derive(Deserialize)]
struct ShardsIndex {
    weight_map: BTreeMap<String, String>,
}

fn shards(folder: &Path, name: &str) -> Result<WeightFiles, WeightFilesError> {
    let index_error = |reason: String| WeightFilesError::Index { name: name.to_owned(), reason };
    let text =
        read_bounded(&folder.join(name), SHARDS_INDEX_BYTES_MAX).map_err(|error| index_error(error.to_string()))?;
    let index: ShardsIndex = serde_json::from_slice(&text).map_err(|error| index_error(error.to_string()))?;
    // Every tensor of every shard has to be asked for by the network, so which shard holds which need not be checked.
    let names: BTreeSet<String> = index.weight_map.into_values().collect();
    if names.is_empty() || names.len() > SHARDS_MAX {
        return Err(index_error(format!("it names {} shards, 1 to {SHARDS_MAX} are allowed", names.len())));
    }
    if let Some(name) = names.iter().find(|name| !is_plain(name)) {
        return Err(index_error(format!("`{}` is not a safetensors file beside it", name.escape_debug())));
    }
    Ok(WeightFiles { index: Some(name.to_owned()), files: names.into_iter().collect() })
}

/// A file name that cannot lead out of the folder.
fn is_plain(name: &str) -> bool {
    name.ends_with(".safetensors") && !name.contains(['/', '\\']) && !name.starts_with('.')
}

fn read_bounded(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(path)?.take(bytes_max + 1).read_to_end(&mut text)?;
    if text.len() as u64 > bytes_max {
        return Err(io::Error::other(format!("it is larger than the {bytes_max} bytes such a file may have")));
    }
    Ok(text)
}

/// What counted before: every weight and configuration file.
fn everything(folder: &Path) -> Result<BTreeSet<String>, CheckpointDigestError> {
    let mut files = BTreeSet::new();
    walk(folder, folder, 0, &mut files)?;
    Ok(files)
}

fn walk(root: &Path, folder: &Path, depth: usize, files: &mut BTreeSet<String>) -> Result<(), CheckpointDigestError> {
    let io_error = |source| CheckpointDigestError::Io { path: folder.to_owned(), source };
    for entry in std::fs::read_dir(folder).map_err(io_error)? {
        let path = entry.map_err(io_error)?.path();
        if path.is_dir() {
            if depth == DEPTH_MAX {
                return Err(CheckpointDigestError::TooLarge { path: root.to_owned() });
            }
            walk(root, &path, depth + 1, files)?;
        } else if path.extension().and_then(|e| e.to_str()).is_some_and(|e| COUNTED.contains(&e)) {
            let relative = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().replace('\\', "/");
            files.insert(relative);
            if files.len() > FILES_MAX {
                return Err(CheckpointDigestError::TooLarge { path: root.to_owned() });
            }
        }
    }
    Ok(())
}

/// Size and BLAKE3-256 of a file, streamed.
fn digest_file(file: &mut File) -> io::Result<(u64, Digest)> {
    let mut hasher = blake3::Hasher::new();
    let size_bytes = io::copy(file, &mut hasher)?;
    Ok((size_bytes, Digest::from_hash(&hasher.finalize())))
}

/// What tells a file from any other, and from itself once it was written to: the time of change cannot be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FileIdentity {
    device: u64,
    inode: u64,
    size_bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileIdentity {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size_bytes: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether a write from now on would show: clocks of file systems are coarse.
    fn is_settled(&self, now: SystemTime) -> bool {
        let last = self.modified.0.max(self.changed.0);
        let now = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
        i64::try_from(now).unwrap_or(i64::MAX).saturating_sub(last) >= SETTLED_S
    }
}

/// How long ago a file must have been written for its identity to be trusted, in seconds.
const SETTLED_S: i64 = 3;
/// Files that are remembered; those that were not asked for make room.
const KNOWN_MAX: usize = 4096;
/// Former names of one checkpoint, and checkpoints that have some.
const FORMERS_MAX: usize = 8;
const FORMERS_OF_MAX: usize = 1024;
/// Largest file of remembered digests.
const STORE_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Digests of files by identity. One at a time is read, so that two who ask for the same file read it once.
#[derive(Debug, Default)]
pub struct FileDigests {
    known: Mutex<Known>,
    store: Option<PathBuf>,
}

#[derive(Debug, Default)]
struct Known {
    files: BTreeMap<FileIdentity, Digest>,
    /// Of files that were read right after they were written: not stored.
    fresh: BTreeMap<FileIdentity, Digest>,
    /// By what a checkpoint is called now.
    formers: BTreeMap<Digest, Vec<Digest>>,
    asked: BTreeSet<FileIdentity>,
    is_dirty: bool,
}

/// As it is stored, behind its own digest.
#[derive(Serialize, Deserialize)]
struct Stored {
    files: Vec<(FileIdentity, Digest)>,
    formers: Vec<(Digest, Vec<Digest>)>,
}

impl FileDigests {
    /// Remembers in the file at `path`. What cannot be read there is forgotten.
    #[must_use]
    pub fn kept_in(path: PathBuf) -> Self {
        let stored = read_bounded(&path, STORE_BYTES_MAX).ok().and_then(|bytes| {
            let (digest, body) = bytes.split_at_checked(DIGEST_CHARS)?;
            let is_whole = Digest::of_bytes(body).to_string().as_bytes() == digest;
            is_whole.then(|| serde_json::from_slice::<Stored>(body).ok())?
        });
        let known = stored.map_or_else(Known::default, |stored| Known {
            files: stored.files.into_iter().collect(),
            formers: stored.formers.into_iter().collect(),
            ..Known::default()
        });
        Self { known: Mutex::new(known), store: Some(path) }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn digest(&self, path: &Path) -> io::Result<(u64, Digest)> {
        let mut known = self.known();
        let mut file = File::open(path)?;
        let identity = FileIdentity::of(&file.metadata()?);
        if let Some(digest) = known.files.get(&identity).copied() {
            known.asked.insert(identity);
            return Ok((identity.size_bytes, digest));
        }
        if let Some(digest) = known.fresh.get(&identity).copied() {
            return Ok((identity.size_bytes, digest));
        }
        let (size_bytes, digest) = digest_file(&mut file)?;
        let is_same = FileIdentity::of(&file.metadata()?) == identity && size_bytes == identity.size_bytes;
        if is_same && identity.is_settled(SystemTime::now()) {
            known.files.insert(identity, digest);
            known.asked.insert(identity);
            known.is_dirty = true;
        } else if is_same {
            // For this process, whose next look at the file is a second one. Not over restarts.
            if known.fresh.len() >= KNOWN_MAX {
                known.fresh.clear();
            }
            known.fresh.insert(identity, digest);
        }
        Ok((size_bytes, digest))
    }

    /// What a checkpoint has been called, `former` among it.
    fn formers_of(&self, current: Digest, former: Option<Digest>) -> Vec<Digest> {
        let mut known = self.known();
        let mut formers = known.formers.get(&current).cloned().unwrap_or_default();
        if let Some(former) = former.filter(|former| *former != current && !formers.contains(former)) {
            formers.push(former);
            if formers.len() > FORMERS_MAX {
                formers.remove(0);
            }
            if known.formers.len() < FORMERS_OF_MAX {
                known.formers.insert(current, formers.clone());
                known.is_dirty = true;
            }
        }
        formers
    }

    /// Writes down what is new. Failing costs the next start another reading.
    fn save(&self) {
        let mut known = self.known();
        let is_there = |path: &&PathBuf| path.parent().is_some_and(Path::is_dir);
        let Some(path) = self.store.as_ref().filter(is_there).filter(|_| known.is_dirty) else { return };
        if known.files.len() > KNOWN_MAX {
            let Known { files, asked, .. } = &mut *known;
            files.retain(|identity, _| asked.contains(identity));
        }
        known.is_dirty = false;
        let files = known.files.iter().map(|(identity, digest)| (*identity, *digest)).collect();
        let formers = known.formers.iter().map(|(current, formers)| (*current, formers.clone())).collect();
        let Ok(body) = serde_json::to_vec(&Stored { files, formers }) else { return };
        let digest = Digest::of_bytes(&body).to_string();
        if let Err(error) = durable::write(path, &[digest.as_bytes(), &body], Durability::Unsynced) {
            tracing::warn!(path = %path.display(), %error, "digests of files are not remembered");
        }
    }
}

/// Of a digest as text: `blake3:` and 64 digits.
const DIGEST_CHARS: usize = 71;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::*;

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    fn checkpoint() -> io::Result<tempfile::TempDir> {
        let dir = tempfile::tempdir()?;
        let index = r#"{"unet": ["diffusers", "UNet2DConditionModel"], "vae": [null, null], "tokenizer": ["transformers", "CLIPTokenizer"]}"#;
        fs::write(dir.path().join("model_index.json"), index)?;
        for (file, content) in [
            ("unet/config.json", "{}"),
            ("unet/diffusion_pytorch_model.safetensors", "abc"),
            ("tokenizer/vocab.json", "{}"),
            ("scheduler/scheduler_config.json", "{}"),
        ] {
            write(dir.path(), file, content)?;
        }
        Ok(dir)
    }

    fn write(folder: &Path, file: &str, content: &str) -> io::Result<()> {
        let path = folder.join(file);
        fs::create_dir_all(path.parent().unwrap_or(folder))?;
        fs::write(path, content)
    }

    #[test]
    fn what_is_loaded_counts_and_nothing_else() -> Outcome {
        let empty = tempfile::tempdir()?;
        assert!(matches!(digest(empty.path()), Err(CheckpointDigestError::NotACheckpoint { .. })));
        let dir = checkpoint()?;
        let before = digest(dir.path())?;
        // A folder without stray files has the digest it always had.
        assert_eq!(digests(dir.path(), &FileDigests::default())?, Digests { current: before, formers: Vec::new() });
        for stray in [
            "README.md",
            "notes.json",
            "unet/diffusion_pytorch_model.fp16.safetensors",
            "vae/diffusion_pytorch_model.safetensors",
            "safety_checker/model.safetensors",
            ".git/a/b/c/d/e/f/config.json",
            "tokenizer/notes.txt",
        ] {
            write(dir.path(), stray, "stray")?;
            assert_eq!(digest(dir.path())?, before, "{stray}");
        }
        for loaded in [
            "unet/config.json",
            "unet/diffusion_pytorch_model.safetensors",
            "scheduler/scheduler_config.json",
            "model_index.json",
        ] {
            let content = fs::read_to_string(dir.path().join(loaded))?;
            write(dir.path(), loaded, &format!("{content} "))?;
            assert_ne!(digest(dir.path())?, before, "{loaded}");
            write(dir.path(), loaded, &content)?;
        }
        write(dir.path(), "tokenizer/added_tokens.json", "{}")?;
        assert_ne!(digest(dir.path())?, before);
        Ok(())
    }

    #[test]
    fn a_single_network_has_one_too() -> Outcome {
        let dir = tempfile::tempdir()?;
        write(dir.path(), "config.json", "{}")?;
        write(dir.path(), "diffusion_pytorch_model.safetensors", "abc")?;
        let before = digests(dir.path(), &FileDigests::default())?;
        assert!(before.formers.is_empty());
        write(dir.path(), "config.yaml.json", "{}")?;
        assert_eq!(digest(dir.path())?, before.current);
        write(dir.path(), "diffusion_pytorch_model.safetensors", "abd")?;
        assert_ne!(digest(dir.path())?, before.current);
        Ok(())
    }

    #[test]
    fn what_a_folder_was_called_before_is_known_and_remembered() -> Outcome {
        let (dir, data) = (checkpoint()?, tempfile::tempdir()?);
        let plain = digest(dir.path())?;
        write(dir.path(), "safety_checker/model.safetensors", "weights that nobody reads")?;
        let store = || FileDigests::kept_in(data.path().join("digests.json"));
        let first = digests(dir.path(), &store())?;
        assert_eq!((first.current, first.formers.len()), (plain, 1));
        // Another stray file gives it another former name, and the first is not forgotten over a restart.
        write(dir.path(), "notes.json", "{}")?;
        let second = digests(dir.path(), &store())?;
        assert_eq!((second.current, second.formers.len()), (plain, 2));
        assert!(second.formers.contains(&first.formers[0]));
        // What is stored and damaged is forgotten.
        let path = data.path().join("digests.json");
        let mut bytes = fs::read(&path)?;
        let last = bytes.len() - 3;
        bytes[last] ^= 1;
        fs::write(&path, bytes)?;
        assert_eq!(digests(dir.path(), &store())?.formers.len(), 1);
        Ok(())
    }

    #[test]
    fn a_file_is_read_once_until_it_changes() -> Outcome {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("weights");
        fs::write(&path, "abc")?;
        let files = FileDigests::default();
        let read = |files: &FileDigests| files.digest(&path);
        let fresh = read(&files)?;
        assert!(files.known().files.is_empty(), "what was written just now may change without a sign");

        // As if it had been hashed a while after it was written, with a digest that only memory can give.
        let identity = FileIdentity::of(&fs::metadata(&path)?);
        assert!(identity.is_settled(SystemTime::now() + Duration::from_secs(60)));
        let marker = Digest::of_bytes(b"remembered");
        files.known().files.insert(identity, marker);
        assert_eq!(read(&files)?, (3, marker));
        fs::write(&path, "abd")?;
        let changed = read(&files)?;
        assert!(changed.1 != marker && changed.1 != fresh.1);
        Ok(())
    }

    #[test]
    fn what_was_written_just_now_is_read_once_a_process_and_not_remembered_longer() -> Outcome {
        let (dir, data) = (tempfile::tempdir()?, tempfile::tempdir()?);
        let path = dir.path().join("weights");
        fs::write(&path, "abc")?;
        let files = FileDigests::kept_in(data.path().join("digests.json"));
        files.digest(&path)?;
        let marker = Digest::of_bytes(b"remembered");
        for digest in files.known().fresh.values_mut() {
            *digest = marker;
        }
        assert_eq!(files.digest(&path)?, (3, marker), "not read a second time");
        files.save();
        assert_ne!(FileDigests::kept_in(data.path().join("digests.json")).digest(&path)?.1, marker);
        fs::write(&path, "abcd")?;
        assert_ne!(files.digest(&path)?.1, marker);
        Ok(())
    }

    #[test]
    fn a_stray_file_that_cannot_be_read_is_told_from_a_folder_that_is_too_large() -> Outcome {
        let dir = checkpoint()?;
        let files = FileDigests::default();
        std::os::unix::fs::symlink("nowhere", dir.path().join("stray.json"))?;
        assert!(matches!(former(dir.path(), &files), Err(CheckpointDigestError::Io { .. })));
        assert!(digests(dir.path(), &files)?.formers.is_empty(), "it is loaded all the same");
        fs::remove_file(dir.path().join("stray.json"))?;
        fs::create_dir_all(dir.path().join("a/b/c/d/e/f"))?;
        assert!(matches!(former(dir.path(), &files), Ok(None)));
        Ok(())
    }

    #[test]
    fn weights_without_a_variant_win_and_one_file_wins_over_shards() -> Outcome {
        let dir = tempfile::tempdir()?;
        let index = r#"{"metadata": {}, "weight_map": {"a": "m-2-of-2.safetensors", "b": "m-1-of-2.safetensors"}}"#;
        let expect = |index: Option<&str>, names: &[&str]| {
            let files = names.iter().map(ToString::to_string).collect();
            let found = weights_of(dir.path(), "m").unwrap_or(WeightFiles { index: None, files: Vec::new() });
            assert_eq!(found, WeightFiles { index: index.map(str::to_owned), files });
        };
        expect(None, &[]);
        for (name, content) in [("m.fp32.safetensors", ""), ("m.bf16.safetensors", "")] {
            write(dir.path(), name, content)?;
            expect(None, &[name]);
        }
        write(dir.path(), "m.safetensors.index.fp16.json", &index.replace("m-", "m.fp16-"))?;
        expect(Some("m.safetensors.index.fp16.json"), &["m.fp16-1-of-2.safetensors", "m.fp16-2-of-2.safetensors"]);
        write(dir.path(), "m.fp16.safetensors", "")?;
        expect(None, &["m.fp16.safetensors"]);
        write(dir.path(), "m.safetensors.index.json", index)?;
        expect(Some("m.safetensors.index.json"), &["m-1-of-2.safetensors", "m-2-of-2.safetensors"]);
        write(dir.path(), "m.safetensors", "")?;
        expect(None, &["m.safetensors"]);
        Ok(())
    }

    #[test]
    fn an_index_cannot_lead_out_of_its_folder() -> Outcome {
        let dir = tempfile::tempdir()?;
        for name in ["../m.safetensors", "/etc/passwd", "sub/m.safetensors", ".safetensors", "m.bin"] {
            let index = serde_json::json!({"weight_map": {"a": name}}).to_string();
            write(dir.path(), "m.safetensors.index.json", &index)?;
            assert!(matches!(weights_of(dir.path(), "m"), Err(WeightFilesError::Index { .. })), "{name}");
        }
        write(dir.path(), "m.safetensors.index.json", r#"{"weight_map": {}}"#)?;
        assert!(matches!(weights_of(dir.path(), "m"), Err(WeightFilesError::Index { .. })));
        Ok(())
    }
}
