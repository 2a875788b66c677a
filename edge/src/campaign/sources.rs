//! The files a catalogue is made of, read once: what is digested is what is parsed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use bildkante_shared::ids::Digest;

use super::fault::Fault;
use super::names::is_name;
use crate::decoding::DecoderCommand;
use crate::render::Finishing;
use crate::request::IgnoredParameters;
use crate::text_file;

/// Most files of one folder.
pub const FILES_MAX: usize = 4096;

/// Where campaigns come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogSources {
    pub campaigns_dir: PathBuf,
    pub prompts_dir: PathBuf,
    /// Parameters that URLs lose before they are read, unless the campaign has an axis of that name.
    pub ignored: IgnoredParameters,
    /// Most variants kept resolved; a variant takes one to two kilobytes.
    pub variants_memoised_max: u64,
    /// What the edge adds to every picture.
    pub finishing: Finishing,
    /// What decodes the AVIF files of layers and imports.
    pub decoder: DecoderCommand,
}

/// One file's text.
#[derive(Debug, Clone)]
pub(crate) struct SourceFile {
    pub(crate) path: PathBuf,
    pub(crate) text: String,
}

/// A manifest and the lock beside it.
#[derive(Debug, Clone)]
pub(crate) struct CampaignFiles {
    pub(crate) manifest: SourceFile,
    pub(crate) lock_path: PathBuf,
    pub(crate) lock: Option<SourceFile>,
}

/// All files of a moment, by name.
#[derive(Debug, Clone)]
pub(crate) struct SourceFiles {
    pub(crate) campaigns: BTreeMap<String, CampaignFiles>,
    pub(crate) libraries: BTreeMap<String, SourceFile>,
    /// Tables of texts beside the manifests.
    pub(crate) tables: BTreeMap<String, SourceFile>,
    /// Libraries that are there and cannot be read.
    pub(crate) unreadable: Vec<String>,
    /// Over every path and content.
    pub(crate) digest: Digest,
    pub(crate) faults: Vec<Fault>,
}

impl CatalogSources {
    /// Where the images are that manifests name.
    #[must_use]
    pub fn images_dir(&self) -> PathBuf {
        self.campaigns_dir.join("images")
    }
}

impl SourceFiles {
    /// Reads both folders. A missing folder of libraries is an empty one.
    pub(crate) fn read(sources: &CatalogSources) -> Self {
        let mut faults = Vec::new();
        let mut files = read_folder(&sources.campaigns_dir, ".toml", &mut faults);
        let tables = read_folder(&sources.campaigns_dir, ".csv", &mut faults);
        let campaign_faults = faults.len();
        let libraries = if sources.prompts_dir.exists() {
            read_folder(&sources.prompts_dir, ".toml", &mut faults)
        } else {
            BTreeMap::new()
        };
        let unreadable = faults[campaign_faults..].iter().filter_map(|fault| fault.file.file_stem()?.to_str());
        let unreadable = unreadable.map(str::to_owned).collect();
        let digest = digest([&files, &tables, &libraries], &faults);
        let mut campaigns = BTreeMap::new();
        let stems: Vec<String> = files.keys().filter(|stem| !stem.ends_with(".lock")).cloned().collect();
        for stem in stems {
            let lock = files.remove(&format!("{stem}.lock"));
            let Some(manifest) = files.remove(&stem) else { continue };
            let lock_path = lock_path(&manifest.path);
            campaigns.insert(stem, CampaignFiles { manifest, lock_path, lock });
        }
        for (stem, path) in campaigns
            .iter()
            .map(|(stem, files)| (stem, &files.manifest.path))
            .chain(libraries.iter().map(|(stem, file)| (stem, &file.path)))
        {
            if !is_name(stem) {
                faults.push(Fault::of_file(path, format!("`{stem}` is no name; files are called a-z, 0-9 and -")));
            }
        }
        Self { campaigns, libraries, tables, unreadable, digest, faults }
    }
}

/// `studio.lock.toml` beside `studio.toml`.
pub(crate) fn lock_path(manifest: &Path) -> PathBuf {
    manifest.with_extension("lock.toml")
}

fn read_folder(folder: &Path, ending: &str, faults: &mut Vec<Fault>) -> BTreeMap<String, SourceFile> {
    let mut files = BTreeMap::new();
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) => {
            faults.push(Fault::of_file(folder, format!("the folder cannot be read: {error}")));
            return files;
        }
    };
    for entry in entries {
        let path = match entry {
            Ok(entry) => entry.path(),
            Err(error) => {
                faults.push(Fault::of_file(folder, format!("the folder cannot be read: {error}")));
                return files;
            }
        };
        let Some(stem) = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(ending))
        else {
            continue;
        };
        // Editors and `durable::write` leave such files for a moment.
        if stem.starts_with('.') {
            continue;
        }
        if files.len() == FILES_MAX {
            faults.push(Fault::of_file(folder, format!("the folder holds more than {FILES_MAX} files")));
            return files;
        }
        match text_file::read(&path) {
            Ok(text) => {
                files.insert(stem.to_owned(), SourceFile { path, text });
            }
            Err(error) => faults.push(Fault::of_file(&path, error.to_string())),
        }
    }
    files
}

/// Faults count too: a file that became unreadable is a change.
fn digest(folders: [&BTreeMap<String, SourceFile>; 3], faults: &[Fault]) -> Digest {
    let mut hasher = blake3::Hasher::new();
    let mut add = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    for file in folders.into_iter().flat_map(BTreeMap::values) {
        add(file.path.as_os_str().as_encoded_bytes());
        add(file.text.as_bytes());
    }
    for fault in faults {
        add(fault.to_string().as_bytes());
    }
    Digest::from_hash(&hasher.finalize())
}
