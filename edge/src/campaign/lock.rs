//! Locks: `{campaign}.lock.toml`, the digest of every checkpoint, adapter and image a manifest names, and the recipes
//! of imports, committed with it.
//!
//! With manifest and lock alone an edge computes recipe ids, no node reachable. A lock also says what it was
//! made from, so that one made for other names is refused instead of half used.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use bildkante_shared::adapter;
use bildkante_shared::checkpoint::{self, CheckpointDigestError, Digests, FileDigests};
use bildkante_shared::durable::{self, Durability};
use bildkante_shared::ids::Digest;
use bildkante_shared::import::{ImportRecipe, ValidImport};
use bildkante_shared::limits;
use toml::Spanned;
use toml::de::DeTable;

use super::fault::{Fault, SourceText, listing};
use super::layers::{self, DrawnPlace, LAYER_FILES_MAX};
use super::look;
use super::manifest::{Manifest, SLOTS_MAX};
use super::originals::{OriginalFault, read_original};
use super::pins::{Import, Pins};
use super::prompts::read_schema;
use super::reader::{self, TableReader, no_hint};
use super::sources::CatalogSources;
use crate::decoding::DecoderCommand;
use crate::render::CUBE_BYTES_MAX;

/// Most names of one table: of every slot the checkpoint, or as many adapters or images as a recipe may have, and places of layers.
const PINS_MAX: usize = SLOTS_MAX
    * (limits::LORAS_MAX
        + limits::EMBEDDINGS_MAX
        + 2 * limits::REFERENCES_MAX
        + limits::DETAILS_MAX * (limits::LORAS_MAX + 1)
        + 3)
    + LAYER_FILES_MAX;
/// Most imports of a campaign.
const IMPORTS_MAX: usize = 4096;
/// What to do about any fault of a lock.
const ADVICE: &str = "run `bildkante-edge lock`";

/// What a lock pins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lock {
    pub campaign: String,
    /// Over the campaign's name and every name it pins.
    pub made_from: Digest,
    pub pins: Pins,
}

/// The tables of a lock, and what stands in each.
const TABLES: [(&str, &str); 5] = [
    ("checkpoints", "checkpoint"),
    ("adapters", "adapter"),
    ("images", "image"),
    ("layers", "layer file"),
    ("looks", "grade"),
];

/// Everything a manifest names, in the order of [`TABLES`].
fn named(manifest: &Manifest) -> [Vec<String>; 5] {
    let owned = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect();
    let [checkpoints, adapters, looks] = [manifest.checkpoints(), manifest.adapters(), manifest.looks()].map(owned);
    [checkpoints, adapters, manifest.all_images(), manifest.layer_files(), looks]
}

/// Why there is no lock.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("checkpoint `{name}` of campaign `{campaign}`: {source}")]
    Checkpoint { campaign: String, name: String, source: CheckpointDigestError },
    #[error("{what} `{name}` of campaign `{campaign}`: {path}: {source}")]
    File { campaign: String, what: &'static str, name: String, path: PathBuf, source: std::io::Error },
    #[error("{what} `{name}` of campaign `{campaign}`: {path} has more than {bytes_max} bytes")]
    TooLarge { campaign: String, what: &'static str, name: String, path: PathBuf, bytes_max: u64 },
    #[error("place of a layer `{name}` of campaign `{campaign}`: {reason}")]
    Place { campaign: String, name: String, reason: String },
    #[error("the import of `{picture}`: {source}")]
    Import { picture: String, source: OriginalFault },
    #[error("{path} cannot be written: {source}")]
    Write { path: PathBuf, source: std::io::Error },
}

/// Largest adapter that is pinned.
const ADAPTER_BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;

/// Digests of checkpoint folders, adapters and images, those of folders each computed once.
#[derive(Debug)]
pub struct Models {
    models_dir: PathBuf,
    images_dir: PathBuf,
    layers_dir: PathBuf,
    campaigns_dir: PathBuf,
    /// Of AVIF layers.
    decoder: DecoderCommand,
    digests: HashMap<String, Digests>,
    files: FileDigests,
    /// Of places of layers whose files will be written with the lock.
    places: BTreeMap<String, Digest>,
}

impl Models {
    /// Checkpoints are the folders of `models_dir`, by name, adapters the safetensors files of `adapters` in it, images the
    /// files of `images` in the campaigns' folder, files of layers those of `layers` in it, grades files beside the campaigns.
    #[must_use]
    pub fn new(models_dir: impl Into<PathBuf>, sources: &CatalogSources) -> Self {
        Self {
            models_dir: models_dir.into(),
            images_dir: sources.images_dir(),
            layers_dir: layers::folder_of(&sources.campaigns_dir),
            campaigns_dir: sources.campaigns_dir.clone(),
            decoder: sources.decoder.clone(),
            digests: HashMap::new(),
            files: FileDigests::default(),
            places: BTreeMap::new(),
        }
    }

    /// Draws the places of a manifest's layers, and knows their digests from here on. Files that are missing or show something
    /// else are returned by their paths.
    ///
    /// # Errors
    /// When the file of a layer cannot be read.
    pub fn draw_places(&mut self, manifest: &Manifest) -> Result<Vec<(PathBuf, Vec<u8>)>, LockError> {
        let mut new_files = Vec::new();
        for (name, picture) in layers::places(manifest) {
            let drawn = picture.drawn((&self.layers_dir, &self.images_dir), &self.decoder);
            let place = |reason| LockError::Place { campaign: manifest.name.clone(), name: name.clone(), reason };
            let DrawnPlace { digest, new_file } = drawn.map_err(place)?;
            new_files.extend(new_file.map(|file| (self.image(&name), file)));
            self.places.insert(name, digest);
        }
        Ok(new_files)
    }

    fn adapter(&self, name: &str) -> PathBuf {
        self.models_dir.join("adapters").join(format!("{name}.safetensors"))
    }

    fn image(&self, name: &str) -> PathBuf {
        self.images_dir.join(name)
    }

    /// # Errors
    /// When there is no such checkpoint or it cannot be read.
    pub fn digests(&mut self, name: &str) -> Result<Digests, CheckpointDigestError> {
        if let Some(digests) = self.digests.get(name) {
            return Ok(digests.clone());
        }
        let digests = checkpoint::digests(&self.models_dir.join(name), &self.files)?;
        self.digests.insert(name.to_owned(), digests.clone());
        Ok(digests)
    }
}

/// Pins everything a manifest names. What was pinned before stays where it means the same today.
///
/// # Errors
/// When something is missing, unreadable or too large.
pub fn make(manifest: &Manifest, models: &mut Models, before: &Pins) -> Result<Lock, LockError> {
    let campaign = &manifest.name;
    let mut pins = Pins::default();
    for name in manifest.checkpoints() {
        let digests = models.digests(name).map_err(|source| LockError::Checkpoint {
            campaign: campaign.clone(),
            name: name.to_owned(),
            source,
        })?;
        let is_loaded = before.loaded.get(name) == Some(&digests.current);
        let former = before
            .checkpoints
            .get(name)
            .filter(|former| **former != digests.current && (is_loaded || digests.formers.contains(former)));
        if former.is_some() {
            pins.loaded.insert(name.to_owned(), digests.current);
        }
        pins.checkpoints.insert(name.to_owned(), former.copied().unwrap_or(digests.current));
    }
    for name in manifest.adapters() {
        let file = FileOf { campaign, what: "adapter", name, path: models.adapter(name), bytes_max: ADAPTER_BYTES_MAX };
        let digest = file.digest()?;
        // What decides an adapter's scale may lie beside it.
        let digest = adapter::digest_at(&models.adapter(name), digest).map_err(|source| LockError::File {
            campaign: campaign.clone(),
            what: "adapter",
            name: name.to_owned(),
            path: models.adapter(name),
            source,
        })?;
        pins.adapters.insert(name.to_owned(), digest);
    }
    for name in manifest.all_images() {
        let bytes_max = limits::BLOB_BYTES_MAX as u64;
        let file = FileOf { campaign, what: "image", name: &name, path: models.image(&name), bytes_max };
        let digest = models.places.get(&name).copied().map_or_else(|| file.digest(), Ok)?;
        pins.images.insert(name, digest);
    }
    for path in manifest.layer_files() {
        let bytes_max = layers::file_bytes_max(manifest, &path);
        let at = models.layers_dir.join(&path);
        let file = FileOf { campaign, what: "layer file", name: &path, path: at, bytes_max };
        let digest = file.digest()?;
        pins.layers.insert(path, digest);
    }
    for name in manifest.looks() {
        let path = look::path(&models.campaigns_dir, name);
        let file = FileOf { campaign, what: "grade", name, path, bytes_max: CUBE_BYTES_MAX as u64 };
        pins.looks.insert(name.to_owned(), file.digest()?);
    }
    pins.imports = before.imports.clone();
    Ok(Lock { campaign: campaign.clone(), made_from: made_from(manifest), pins })
}

/// A file that a campaign names.
struct FileOf<'f> {
    campaign: &'f str,
    what: &'static str,
    name: &'f str,
    path: PathBuf,
    bytes_max: u64,
}

impl FileOf<'_> {
    fn digest(self) -> Result<Digest, LockError> {
        let Self { campaign, what, name, path, bytes_max } = self;
        let (campaign, name) = (campaign.to_owned(), name.to_owned());
        let mut hasher = blake3::Hasher::new();
        let read = File::open(&path).and_then(|file| io::copy(&mut file.take(bytes_max + 1), &mut hasher));
        match read {
            Ok(bytes) if bytes > bytes_max => Err(LockError::TooLarge { campaign, what, name, path, bytes_max }),
            Ok(_) => Ok(Digest::from_hash(&hasher.finalize())),
            Err(source) => Err(LockError::File { campaign, what, name, path, source }),
        }
    }
}

/// What a manifest's lock depends on: no alt text, no prompt, no seed.
#[must_use]
pub fn made_from(manifest: &Manifest) -> Digest {
    let mut hasher = blake3::Hasher::new();
    let mut add = |word: &str| {
        hasher.update(&(word.len() as u64).to_le_bytes());
        hasher.update(word.as_bytes());
    };
    add("bildkante lock 1");
    add(&manifest.name);
    for ((table, _), names) in TABLES.iter().zip(named(manifest)) {
        // Checkpoints came first, and alone: the locks of then hold.
        if *table != "checkpoints" && !names.is_empty() {
            add(table);
        }
        names.iter().for_each(|name| add(name));
    }
    Digest::from_hash(&hasher.finalize())
}

impl Lock {
    /// The lock of a manifest that names nothing which has a digest.
    #[must_use]
    pub(super) fn of_nothing(manifest: &Manifest) -> Option<Self> {
        let is_empty = named(manifest).iter().all(Vec::is_empty);
        let lock = || Self { campaign: manifest.name.clone(), made_from: made_from(manifest), pins: Pins::default() };
        is_empty.then(lock)
    }

    /// The file's text.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut text = String::from(
            "# Written by `bildkante-edge lock`; commit it with the manifest. It pins what the manifest names.\n",
        );
        let _ = write!(text, "schema = 1\ncampaign = \"{}\"\nmade_from = \"{}\"\n", self.campaign, self.made_from);
        for ((table, _), pins) in TABLES.iter().zip(self.pins.tables()) {
            if pins.is_empty() && *table != "checkpoints" {
                continue;
            }
            let _ = writeln!(text, "\n[{table}]");
            for (name, digest) in pins {
                // Names are letters, digits, `.`, `_` and `-`; the quotes are for the dot.
                let _ = writeln!(text, "\"{name}\" = \"{digest}\"");
            }
        }
        self.pins.imports.iter().for_each(|(picture, import)| write_import(&mut text, picture, import));
        if !self.pins.loaded.is_empty() {
            text.push_str("\n# What these checkpoints' digests are today; recipes keep the former ones, so that nothing is drawn again.\n[loaded]\n");
            for (name, digest) in &self.pins.loaded {
                let _ = writeln!(text, "\"{name}\" = \"{digest}\"");
            }
        }
        text
    }

    /// # Errors
    /// Names the import whose original is not what it was.
    pub(super) fn check_originals(&self, folder: &Path) -> Result<(), LockError> {
        for (picture, import) in &self.pins.imports {
            read_original(folder, import.recipe.import)
                .map_err(|source| LockError::Import { picture: picture.clone(), source })?;
        }
        Ok(())
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
        root.fault(&text.span, format!("the lock is stale, what the manifest names has changed since; {ADVICE}"));
    }
    let pins = read_tables(&root);
    root.finish(no_hint);
    for (((_, what), names), pins) in TABLES.iter().zip(named(manifest)).zip(pins.tables()) {
        let missing: Vec<String> = names.into_iter().filter(|name| !pins.contains_key(name)).collect();
        if !missing.is_empty() && !is_stale {
            root.fault(&(0..0), format!("the lock lacks {what} {}; {ADVICE}", listing(&missing, 8)));
        }
    }
    (!source.has_faults()).then(|| Lock { campaign: manifest.name.clone(), made_from: expected, pins })
}

/// What a lock pins, whichever manifest it was made for; nothing where it cannot be read.
pub(crate) fn pins_of(source: &SourceText<'_>) -> Pins {
    let document: Option<Spanned<DeTable<'_>>> = reader::parse(source);
    document.map_or_else(Pins::default, |document| read_tables(&TableReader::of_document(source, &document)))
}

fn read_tables(root: &TableReader<'_, '_>) -> Pins {
    let read = |table: &'static str| root.table(table).map(|table| read_pins(&table)).unwrap_or_default();
    Pins {
        checkpoints: read("checkpoints"),
        adapters: read("adapters"),
        images: read("images"),
        layers: read("layers"),
        looks: read("looks"),
        loaded: read("loaded"),
        imports: root.table("imports").map(|table| read_imports(&table)).unwrap_or_default(),
    }
}

fn read_imports(table: &TableReader<'_, '_>) -> BTreeMap<String, Import> {
    let imports = table.tables(IMPORTS_MAX).into_iter().filter_map(|(picture, entry)| {
        let import = read_import(&entry);
        entry.finish(no_hint);
        Some((picture.value.to_owned(), import?))
    });
    imports.collect()
}

fn read_import(entry: &TableReader<'_, '_>) -> Option<Import> {
    for key in ["file", "source", "size"] {
        if !entry.has(key) {
            entry.missing(key, format!("`{key}` of an import is missing; run `bildkante-edge import` again"));
        }
    }
    let size = entry.integers("size", 1..=limits::MASTER_SIDE_PX_MAX, 2);
    let said = |key| entry.text(key).map(|text| text.value.to_owned());
    let (origin, creator) = (said("origin"), said("creator"));
    let (credit, copyright, license) = (said("credit"), said("copyright"), said("license"));
    let (import, source) = (entry.parsed("file")?, entry.parsed("source")?);
    let recipe = ImportRecipe { import, source, origin, creator, credit, copyright, license };
    let [(width_px, _), (height_px, _)] = *size?.as_slice() else {
        entry.fault(entry.span(), "`size` is [width, height] in pixels");
        return None;
    };
    match ValidImport::try_from(recipe) {
        Ok(recipe) => Some(Import { recipe, width_px, height_px }),
        Err(error) => {
            entry.fault(entry.span(), error.to_string());
            None
        }
    }
}

/// A table of its own for each.
fn write_import(text: &mut String, picture: &str, import: &Import) {
    let Import { recipe, width_px, height_px } = import;
    let _ = write!(text, "\n[imports.{}]\nfile = \"{}\"\n", quoted(picture), recipe.import);
    let _ = writeln!(text, "size = [{width_px}, {height_px}]\nsource = \"{}\"", recipe.source);
    for (field, said) in recipe.texts() {
        if let Some(said) = said {
            let _ = writeln!(text, "{field} = {}", quoted(said));
        }
    }
}

/// A TOML string in one line.
fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

fn read_pins(table: &TableReader<'_, '_>) -> BTreeMap<String, Digest> {
    let mut pins = BTreeMap::new();
    for (name, digest) in table.named_texts(PINS_MAX) {
        match digest.value.parse() {
            Ok(digest) => {
                pins.insert(name.value.to_owned(), digest);
            }
            Err(error) => table.fault(&digest.span, format!("{error}; {ADVICE}")),
        }
    }
    pins
}

/// The fault of a manifest without a lock.
pub(crate) fn missing(path: &Path) -> Fault {
    Fault::of_file(path, format!("the lock is missing; {ADVICE}"))
}
