//! The adapters of a folder, and the networks with them: found at start, loaded when a recipe first asks for one, kept
//! within bounds.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;

use bildkante_shared::adapter;
use bildkante_shared::ids::Digest;
use bildkante_shared::recipe::{EmbeddingUse, LoraUse, Recipe, ReferenceUse, ValidRecipe};
use bildkante_shared::wire::AdapterInfo;

use crate::capacity::SeenTokens;
use crate::diffusion::denoiser::Stage;
use crate::diffusion::family::{Adaptations, AdapterFile, Checkpoint, IpAdapter, Trunk};
use crate::engine::EngineError;

/// Files looked at in the folder.
const ADAPTERS_MAX: usize = 1024;
/// Adapters kept loaded, in bytes of their files; one more is always let in.
const LOADED_BYTES_MAX: u64 = 2 * 1024 * 1024 * 1024;
/// IP-Adapters kept on the device, in bytes of their files; one more is always let in. That of Stable Diffusion XL has 0.7 GB.
const IP_ADAPTERS_BYTES_MAX: u64 = 2 * 1024 * 1024 * 1024;
/// Sets of networks kept put together. Each holds its adapters' matrices on the device and shares everything else.
const TRUNKS_MAX: usize = 8;

/// What of a recipe changes the networks of a stage: a refiner has no LoRA, and reads the same words.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Changes {
    loras: Vec<LoraUse>,
    words: Vec<EmbeddingUse>,
}

impl Changes {
    /// `None` where a stage has its checkpoint's own networks.
    pub(super) fn of(recipe: &Recipe, stage: Stage) -> Option<Self> {
        let loras = if stage == Stage::Base { recipe.loras.clone() } else { Vec::new() };
        let is_drawn = stage == Stage::Base || recipe.refiner.is_some();
        let changes = Self { loras, words: recipe.embeddings.clone() };
        (is_drawn && !(changes.loras.is_empty() && changes.words.is_empty())).then_some(changes)
    }

    fn files(&self) -> impl Iterator<Item = Digest> {
        self.loras.iter().map(|lora| lora.digest).chain(self.words.iter().map(|word| word.digest))
    }
}

/// Networks of one checkpoint, and what is changed in them.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct TrunkKey {
    checkpoint: Digest,
    changes: Changes,
}

impl TrunkKey {
    /// `checkpoint` is the checkpoint's present digest: a recipe may name a former one.
    pub(super) const fn new(checkpoint: Digest, changes: Changes) -> Self {
        Self { checkpoint, changes }
    }
}

/// What a folder held.
#[derive(Debug, Default)]
pub(super) struct AdapterFolder {
    files: BTreeMap<Digest, PathBuf>,
    /// Of those that are IP-Adapters: what they make of a picture, and their bytes.
    readers: BTreeMap<Digest, (SeenTokens, u64)>,
    rejected: Vec<String>,
}

/// What adapters there are, and those in use.
#[derive(Debug, Default)]
pub(super) struct Adapters {
    found: AdapterFolder,
    /// The last one used comes last, here and below.
    loaded: Vec<AdapterFile>,
    trunks: Vec<(TrunkKey, Trunk)>,
    /// By the checkpoint whose network looks at their pictures. Only the beginning of a drawing needs them.
    ip_adapters: Vec<(Digest, IpAdapter)>,
    /// Networks of drawings under way, and how many drawings have each: they stay even when their files go.
    held: Vec<(TrunkKey, usize)>,
}

/// Size and time of a file: one that has changed looks different.
pub(super) type FileLook = (u64, Option<SystemTime>);

pub(super) fn look_of(metadata: &fs::Metadata) -> FileLook {
    (metadata.len(), metadata.modified().ok())
}

/// How a file and the configurations that may belong to it look.
type Looks = [Option<FileLook>; 3];

fn looks_of(path: &Path) -> Looks {
    let look = |path: &Path| fs::metadata(path).ok().map(|metadata| look_of(&metadata));
    let [own, shared] = adapter::config_paths(path);
    [look(path), look(&own), look(&shared)]
}

/// What was read of files, by path. Each is read again once its size or time, or its configuration's, has changed. The devices
/// share it: the first one to ask reads.
#[derive(Debug, Clone, Default)]
pub(super) struct FilesRead(Arc<Mutex<BTreeMap<PathBuf, FileRead>>>);

#[derive(Debug, Clone)]
struct FileRead {
    looks: Looks,
    /// What it is, or why it cannot be used.
    outcome: Result<Known, String>,
}

/// What is kept of a file that was read.
#[derive(Debug, Clone, Copy)]
struct Known {
    digest: Digest,
    /// Of an IP-Adapter.
    reading: Option<(SeenTokens, u64)>,
}

impl From<&AdapterFile> for Known {
    fn from(file: &AdapterFile) -> Self {
        Self { digest: file.digest(), reading: file.reading() }
    }
}

impl FileRead {
    /// `looks` are from before the file is read, so that a change meanwhile has it read again next time.
    fn new(path: &Path, looks: Looks) -> Self {
        Self {
            looks,
            outcome: AdapterFile::load(path).map(|file| Known::from(&file)).map_err(|error| error.to_string()),
        }
    }
}

/// What the safetensors files of `folder` are, of which those are read that have not been. A folder that is not there holds
/// none.
pub(super) fn find(folder: &Path, read: &FilesRead) -> Result<AdapterFolder, EngineError> {
    let failed = |error: std::io::Error| EngineError::Load { reason: format!("{}: {error}", folder.display()) };
    let mut found = AdapterFolder::default();
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(found),
        Err(error) => return Err(failed(error)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        // A Macintosh leaves `._x.safetensors` beside what it copies.
        let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !is_hidden && path.extension().is_some_and(|extension| extension == "safetensors") {
            paths.push(path);
        }
    }
    paths.sort();
    if paths.len() > ADAPTERS_MAX {
        let reason = format!("{} holds more than {ADAPTERS_MAX} adapters", folder.display());
        return Err(EngineError::Load { reason });
    }
    let mut read = read.0.lock();
    // Which adapter a folder's `adapter_config.json` belongs to depends on the other files.
    let is_same = read.len() == paths.len() && paths.iter().all(|path| read.contains_key(path));
    read.retain(|path, file| {
        let takes_the_folders = file.looks[1].is_none() && file.looks[2].is_some();
        paths.contains(path) && (is_same || !takes_the_folders)
    });
    for path in paths {
        let looks = looks_of(&path);
        let is_dated = looks.iter().flatten().all(|(_, time)| time.is_some()) && looks[0].is_some();
        let known = read.get(&path).filter(|known| is_dated && known.looks == looks).cloned();
        let file = known.unwrap_or_else(|| FileRead::new(&path, looks));
        match &file.outcome {
            Ok(Known { digest, reading }) => {
                found.files.insert(*digest, path.clone());
                found.readers.extend(reading.map(|reading| (*digest, reading)));
            }
            Err(reason) => found.rejected.push(reason.clone()),
        }
        read.insert(path, file);
    }
    Ok(found)
}

impl Adapters {
    /// Offers what was found instead of what was there before.
    pub(super) fn update(&mut self, found: AdapterFolder) {
        self.loaded.retain(|file| found.files.contains_key(&file.digest()));
        self.ip_adapters.retain(|(_, adapter)| found.files.contains_key(&adapter.identity().digest));
        self.found = found;
        self.drop_unoffered();
    }

    /// Lets go of networks with adapters that are gone, once no drawing has them.
    fn drop_unoffered(&mut self) {
        let (files, held) = (&self.found.files, &self.held);
        let is_there = |digest: Digest| files.contains_key(&digest);
        self.trunks.retain(|(key, _)| is_held(held, key) || key.changes.files().all(is_there));
    }

    /// A drawing has begun with these: its networks stay until [`Self::release`].
    pub(super) fn hold(&mut self, keys: &[TrunkKey]) {
        for key in keys {
            match self.held.iter_mut().find(|(known, _)| known == key) {
                Some((_, drawings)) => *drawings += 1,
                None => self.held.push((key.clone(), 1)),
            }
        }
    }

    /// Whether the networks of one more drawing can be kept beside those that others are drawn with.
    pub(super) fn has_room(&self, recipe: &ValidRecipe) -> bool {
        let is_held = |changes: &Changes| self.held.iter().any(|(key, _)| key.changes == *changes);
        let stages = [Stage::Base, Stage::Refiner];
        let changes =
            recipe.each_part().flat_map(|part| stages.into_iter().filter_map(|stage| Changes::of(part, stage)));
        let mut new: Vec<Changes> = Vec::new();
        for changes in changes.filter(|changes| !is_held(changes)) {
            if !new.contains(&changes) {
                new.push(changes);
            }
        }
        let new = new.len();
        new == 0 || self.held.len() + new <= TRUNKS_MAX
    }

    pub(super) fn release(&mut self, keys: &[TrunkKey]) {
        for key in keys {
            if let Some((_, drawings)) = self.held.iter_mut().find(|(known, _)| known == key) {
                *drawings -= 1;
            }
        }
        self.held.retain(|(_, drawings)| *drawings > 0);
        self.drop_unoffered();
    }

    /// Lets go of a checkpoint's networks.
    pub(super) fn forget(&mut self, checkpoint: Digest) {
        self.trunks.retain(|(key, _)| key.checkpoint != checkpoint);
        self.ip_adapters.retain(|(known, _)| *known != checkpoint);
    }

    /// What the IP-Adapters that are offered make of a picture.
    pub(super) fn seen(&self) -> BTreeMap<Digest, SeenTokens> {
        self.found.readers.iter().map(|(digest, (seen, _))| (*digest, *seen)).collect()
    }

    /// Bytes on the device that IP-Adapters will take which recipes have not asked for yet.
    pub(super) fn bytes_to_come(&self) -> u64 {
        let all: u64 = self.found.readers.values().map(|(_, bytes)| bytes).sum();
        let here: u64 = self.ip_adapters.iter().map(|(_, adapter)| adapter.identity().bytes).sum();
        all.min(IP_ADAPTERS_BYTES_MAX).saturating_sub(here)
    }

    /// How many texts networks with adapters encoded since this was last asked.
    pub(super) fn take_encoded(&self) -> u64 {
        self.trunks.iter().map(|(_, trunk)| trunk.take_encoded()).sum()
    }

    /// Lets go of everything that is loaded and that nothing is being drawn with; it is read again when it is asked for.
    pub(super) fn free(&mut self) {
        let held = &self.held;
        self.trunks.retain(|(key, _)| is_held(held, key));
        self.loaded.clear();
        self.ip_adapters.clear();
    }

    pub(super) fn infos(&self) -> Vec<AdapterInfo> {
        let name = |path: &Path| path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
        self.found.files.iter().map(|(digest, path)| AdapterInfo { name: name(path), digest: *digest }).collect()
    }

    pub(super) fn rejected(&self) -> &[String] {
        &self.found.rejected
    }

    /// Puts a checkpoint's networks together with what is changed in them, where they are not kept.
    pub(super) fn prepare(&mut self, checkpoint: &Checkpoint, key: &TrunkKey) -> Result<(), EngineError> {
        if let Some(at) = self.trunks.iter().position(|(known, _)| known == key) {
            let trunk = self.trunks.remove(at);
            self.trunks.push(trunk);
            return Ok(());
        }
        let adaptations = self.adaptations(&key.changes)?;
        let trunk = checkpoint.adapted(&adaptations);
        let trunk = trunk.map_err(|error| EngineError::Refused { reason: error.to_string() })?;
        if self.trunks.len() >= TRUNKS_MAX
            && let Some(oldest) = self.trunks.iter().position(|(key, _)| !is_held(&self.held, key))
        {
            let _oldest = self.trunks.remove(oldest);
        }
        self.trunks.push((key.clone(), trunk));
        Ok(())
    }

    /// What [`Self::prepare`] has put together.
    pub(super) fn trunk(&self, key: &TrunkKey) -> Result<&Trunk, EngineError> {
        let found = self.trunks.iter().find(|(known, _)| known == key).map(|(_, trunk)| trunk);
        found.ok_or_else(|| EngineError::Failed { reason: "the adapted networks were lost".into() })
    }

    /// Puts the IP-Adapters of a recipe onto the device, where they are not there.
    pub(super) fn prepare_references(
        &mut self,
        checkpoint: &Checkpoint,
        references: &[ReferenceUse],
    ) -> Result<(), EngineError> {
        for (at, ReferenceUse { adapter: digest, .. }) in references.iter().enumerate() {
            let is_it = |(known, adapter): &(Digest, IpAdapter)| {
                *known == checkpoint.digest() && adapter.identity().digest == *digest
            };
            let found = match self.ip_adapters.iter().position(is_it) {
                Some(at) => self.ip_adapters.remove(at),
                None => (checkpoint.digest(), self.ip_adapter(checkpoint, *digest)?),
            };
            self.ip_adapters.push(found);
            let bytes =
                |adapters: &[(Digest, IpAdapter)]| adapters.iter().map(|(_, it)| it.identity().bytes).sum::<u64>();
            // Those of the recipe are the last ones.
            while self.ip_adapters.len() > at + 1 && bytes(&self.ip_adapters) > IP_ADAPTERS_BYTES_MAX {
                let _oldest = self.ip_adapters.remove(0);
            }
        }
        Ok(())
    }

    fn ip_adapter(&mut self, checkpoint: &Checkpoint, digest: Digest) -> Result<IpAdapter, EngineError> {
        let file = self.file(digest)?;
        let adapter = checkpoint.ip_adapter(&file);
        let adapter = adapter.ok_or_else(|| self.mistaken(digest, file.as_str(), "an IP-Adapter"))?;
        adapter.map_err(|error| EngineError::Refused { reason: error.to_string() })
    }

    /// What [`Self::prepare_references`] has put there.
    pub(super) fn reference(&self, checkpoint: Digest, digest: Digest) -> Result<&IpAdapter, EngineError> {
        let is_it =
            |(known, adapter): &&(Digest, IpAdapter)| *known == checkpoint && adapter.identity().digest == digest;
        let found = self.ip_adapters.iter().find(is_it).map(|(_, adapter)| adapter);
        found.ok_or_else(|| EngineError::Failed { reason: "an IP-Adapter was lost".into() })
    }

    fn adaptations(&mut self, changes: &Changes) -> Result<Adaptations, EngineError> {
        let mut adaptations = Adaptations::default();
        for LoraUse { digest, weight } in &changes.loras {
            let file = self.file(*digest)?;
            let what = file.as_str();
            if !adaptations.add_lora(file, *weight) {
                return Err(self.mistaken(*digest, what, "a LoRA"));
            }
        }
        for EmbeddingUse { digest, token } in &changes.words {
            let file = self.file(*digest)?;
            let what = file.as_str();
            if !adaptations.add_word(file, token) {
                return Err(self.mistaken(*digest, what, "textual inversion"));
            }
        }
        Ok(adaptations)
    }

    /// A file is something else than the recipe takes it for.
    fn mistaken(&self, digest: Digest, is: &str, wanted: &str) -> EngineError {
        let name = self.found.files.get(&digest).and_then(|path| path.file_stem()).unwrap_or_default();
        EngineError::Refused { reason: format!("{} is {is}, and the recipe wants {wanted}", name.to_string_lossy()) }
    }

    fn file(&mut self, digest: Digest) -> Result<AdapterFile, EngineError> {
        if let Some(at) = self.loaded.iter().position(|file| file.digest() == digest) {
            let file = self.loaded.remove(at);
            self.loaded.push(file.clone());
            return Ok(file);
        }
        let path = self.found.files.get(&digest).ok_or(EngineError::Missing(digest))?;
        let failed = |reason| EngineError::Failed { reason };
        let file = AdapterFile::load(path).map_err(|error| failed(error.to_string()))?;
        if file.digest() != digest {
            return Err(failed(format!("{} is not what it was when the node started", path.display())));
        }
        self.loaded.push(file.clone());
        while self.loaded.len() > 1 && self.loaded.iter().map(AdapterFile::host_bytes).sum::<u64>() > LOADED_BYTES_MAX {
            let _oldest = self.loaded.remove(0);
        }
        Ok(file)
    }
}

fn is_held(held: &[(TrunkKey, usize)], key: &TrunkKey) -> bool {
    held.iter().any(|(known, _)| known == key)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_file_is_read_again_once_it_has_changed() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/adapters");
        let folder = tempfile::tempdir().expect("a folder");
        let [one, two] = ["one.safetensors", "two.safetensors"].map(|name| folder.path().join(name));
        fs::copy(fixtures.join("sd1.kohya.safetensors"), &one).expect("a copy");
        fs::write(&two, b"nothing of the kind").expect("a file");
        fs::write(folder.path().join("._one.safetensors"), b"what a Macintosh leaves behind").expect("a file");
        let read = FilesRead::default();
        let find = || find(folder.path(), &read).expect("found");
        let first = find();
        assert_eq!((first.files.len(), first.rejected.len()), (1, 1));

        // Other bytes of the same size and time are taken for the same: nothing was read.
        let time = fs::metadata(&one).expect("metadata").modified().expect("a time");
        let file = fs::OpenOptions::new().write(true).open(&one).expect("opened");
        (&file).write_all(&[0xff; 16]).expect("written");
        file.set_modified(time).expect("set");
        assert_eq!(find().files, first.files);
        file.set_modified(time + Duration::from_secs(1)).expect("set");
        let changed = find();
        assert_eq!((changed.files.len(), changed.rejected.len()), (0, 2));

        fs::copy(fixtures.join("sd1.peft.safetensors"), &two).expect("a copy");
        fs::remove_file(&one).expect("removed");
        let last = find();
        assert_eq!((last.files.len(), last.rejected.len()), (1, 0));
        assert_eq!(read.0.lock().len(), 1, "what is gone is forgotten");

        // A change of an adapter's configuration counts as a change of the adapter.
        fs::remove_file(&two).expect("removed");
        fs::copy(fixtures.join("sd1.rslora.safetensors"), &one).expect("a copy");
        let config = folder.path().join("adapter_config.json");
        assert_eq!(find().rejected.len(), 1, "a file of PEFT's needs it");
        fs::copy(fixtures.join("sd1.rslora.adapter_config.json"), &config).expect("a copy");
        let told = find();
        assert_eq!((told.files.len(), told.rejected.len()), (1, 0));
        // With a second such file nothing says which adapter it belongs to, though neither the first nor the configuration has
        // changed.
        fs::copy(fixtures.join("sd1.rslora.safetensors"), &two).expect("a copy");
        assert_eq!(find().rejected.len(), 2);
        fs::remove_file(&two).expect("removed");
        assert_eq!(find().files, told.files);
        fs::write(&config, "{").expect("written");
        assert_eq!(find().rejected.len(), 1);
    }
}
