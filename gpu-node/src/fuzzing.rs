//! Entry points for all code that reads bytes from outside: fuzz targets (`tests/fuzz`) and the test that replays their corpora
//! (`gpu-node/tests/corpus.rs`) call the same functions. Each takes any bytes, must not panic, and asserts what holds for
//! all of them.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use bildkante_shared::limits::CANDIDATES_MAX;
use bildkante_shared::recipe::ValidRecipe;
use bildkante_shared::weighting::{WEIGHT_MAX, Weighting};
use serde_json::Value;

use crate::api;
use crate::diffusion::picture::Picture;
use crate::diffusion::scheduler::SchedulerConfig;
use crate::diffusion::sd::adapter_file::AdapterFile;
use crate::diffusion::sd::adapters::Adapter;
use crate::diffusion::sd::config::UnetConfig;
use crate::diffusion::sd::controlnet::ControlNetConfig;
use crate::diffusion::sd::t2i_adapter::T2iConfig;
use crate::diffusion::text::config::ClipConfig;
use crate::diffusion::text::tokenizer::ClipTokenizer;
use crate::diffusion::vae::config::VaeConfig;
use crate::diffusion::vision::VisionConfig;
use crate::diffusion::weights;

/// A name and what takes any bytes under it.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 6] = [
    ("safetensors", safetensors),
    ("lora", lora),
    ("model_config", model_config),
    ("generation", generation),
    ("picture", picture),
    ("prompt", prompt),
];

/// A weight file: what is read is as large as it says, and finite.
pub fn safetensors(data: &[u8]) {
    let Some(file) = Written::new(data) else { return };
    if let Ok(tensors) = weights::read_all(&file.0) {
        for (name, tensor) in tensors {
            let count: i64 = tensor.size().iter().product();
            assert_eq!(usize::try_from(count), Ok(tensor.numel()), "{name}");
        }
    }
}

/// A file of a node's adapters, as what it says it is and as a LoRA.
pub fn lora(data: &[u8]) {
    let Some(file) = Written::new(data) else { return };
    if let Ok(adapter) = AdapterFile::load(&file.0) {
        assert!(adapter.host_bytes() <= data.len() as u64);
    }
    if let Ok(adapter) = Adapter::load(&file.0) {
        assert_eq!(adapter.identity().bytes, data.len() as u64);
    }
}

/// A component's JSON, as each of those it may be.
pub fn model_config(data: &[u8]) {
    let Ok(json) = serde_json::from_slice::<Value>(data) else { return };
    let _ = SchedulerConfig::from_json(&json);
    let _ = ClipConfig::from_json(&json);
    let _ = VaeConfig::from_json(&json);
    let _ = ControlNetConfig::from_json(&json);
    let _ = T2iConfig::from_json(&json);
    let _ = VisionConfig::from_json(&json);
    if let Ok(config) = UnetConfig::from_json(&json) {
        assert!(!config.levels.is_empty() && config.levels.iter().all(|level| level.channels > 0));
    }
}

/// The body of a generation, or of candidates: seeds are bounded and each is there once; what is valid is written and read again as the same recipe.
pub fn generation(data: &[u8]) {
    if let Ok(candidates) = api::parse_candidates(data, Instant::now()) {
        let seeds: BTreeSet<u32> = candidates.iter().map(|candidate| candidate.recipe.seed).collect();
        assert!(seeds.len() == candidates.len() && (1..=CANDIDATES_MAX).contains(&seeds.len()));
    }
    let Ok(generation) = api::parse(data, Instant::now()) else { return };
    let recipe = generation.recipe.clone().into_recipe();
    let again = ValidRecipe::try_from(recipe).ok();
    assert_eq!(again.map(|recipe| recipe.id()), Some(generation.recipe.id()));
}

/// An image that recipes name.
pub fn picture(data: &[u8]) {
    if let Ok(picture) = Picture::decode(data) {
        let (width_px, height_px) = picture.size_px();
        assert!(width_px > 0 && height_px > 0);
    }
}

/// A prompt, its brackets as weights and as brackets: every chunk has the length the encoder wants.
pub fn prompt(data: &[u8]) {
    thread_local! {
        static TOKENIZER: Option<ClipTokenizer> = {
            let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("models/studio-tiny/tokenizer");
            ClipTokenizer::load(&folder, 77).ok()
        };
    }
    let text = String::from_utf8_lossy(data);
    TOKENIZER.with(|tokenizer| {
        let Some(tokenizer) = tokenizer else { return };
        for weighting in [Weighting::Plain, Weighting::Brackets] {
            let Ok(fragments) = weighting.fragments(&text) else { continue };
            assert!(fragments.iter().all(|fragment| (0.0..=WEIGHT_MAX).contains(&fragment.weight)));
            let Ok(chunks) = tokenizer.chunks(&fragments) else { continue };
            assert!(chunks >= 1 && chunks <= data.len().max(1), "{chunks} chunks");
            let encoded = tokenizer.encode_chunks(&fragments, chunks).unwrap_or_default();
            assert!(encoded.iter().all(|chunk| chunk.ids.len() == tokenizer.tokens()));
        }
    });
}

/// The bytes as a file, because readers map files; gone with this value.
struct Written(PathBuf);

impl Written {
    /// In memory where there is such a folder. A file of its own each time: a map of former bytes must not see these.
    fn new(data: &[u8]) -> Option<Self> {
        let shm = PathBuf::from("/dev/shm");
        let folder = if shm.is_dir() { shm } else { std::env::temp_dir() };
        let thread = format!("{:?}", std::thread::current().id());
        let written = Self(folder.join(format!("bildkante-fuzz-{}-{thread}.safetensors", std::process::id())));
        fs::write(&written.0, data).is_ok().then_some(written)
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
