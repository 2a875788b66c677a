//! Campaign manifests, locks, prompt libraries and the catalogue made of them.
//!
//! From files to a snapshot: `sources` reads the files, `reader` walks their TOML and notes every fault with its place,
//! `manifest` (with `axes`, `slots`, `generate`) and `prompts` turn them into types that cannot be wrong, `lock` pins what they
//! name, `catalog` links all of it into a snapshot, `variant` derives the recipe, `reload` replaces the snapshot.
//!
//! Invariants: a snapshot follows from the files alone and never changes; no node, cache or network is asked for it. Slots
//! bound what URLs may ask for (widths, formats, qualities, how far a master is enlarged), and an axis takes no name of a URL
//! parameter; but no request is read here and no pixel touched: `crate::resolve` says what a URL means in a snapshot.

pub mod additions;
pub mod ai_act;
pub mod alt_texts;
pub mod axes;
mod bounds;
pub mod briefing;
pub mod candidates;
pub mod catalog;
pub mod check;
pub mod cuts;
pub mod drafting;
pub mod fault;
pub mod framing;
pub mod generate;
pub mod import;
pub mod label;
pub mod layers;
pub mod lock;
pub mod look;
pub mod manifest;
pub mod markup;
pub mod media;
pub mod models;
pub mod motif;
pub mod names;
pub mod originals;
pub mod page_data;
pub mod pages;
pub mod parts;
pub mod pins;
mod presets;
pub mod prompts;
mod reader;
pub mod reload;
pub mod review;
mod revision;
pub mod rights;
pub mod seeds;
pub mod slots;
pub mod sources;
pub mod template;
pub mod variant;
pub mod version;
pub mod wording;

use std::path::{Path, PathBuf};

use serde::Deserialize;

pub use ai_act::{AiAct, DeepFakes, RiskClass};
pub use alt_texts::{AltFinding, AltReport};
pub use axes::{Axis, AxisValue};
pub use briefing::{Briefing, SafeArea};
pub use candidates::{CANDIDATES_MAX, Candidate, CandidateError, Candidates};
pub use catalog::{Campaign, Catalog};
pub use check::{check, check_telling, write_locks};
pub use cuts::{ART, Cut};
pub use fault::{CatalogErrors, Fault};
pub use framing::{Framing, Insets};
pub use import::{Examined, ImportOrder, ImportRunError, Imported, Statements, examine, import};
pub use label::{Label, LabelIcon, LabelShow, ShownLabel};
pub use layers::{FillError, Fitting, SlotLayers, SlotPlan, Stock};
pub use markup::{Alternative, LqipMarkup, SlotMarkup};
pub use media::{MediaCondition, MediaError};
pub use models::ModelFacts;
pub use motif::{Motif, MotifTag};
pub use page_data::{ArticleData, PageData, ProductData};
pub use pages::PageTemplate;
pub use parts::Parts;
pub use prompts::UsedWords;
pub use reload::{CampaignMetrics, CatalogHandle};
pub use review::{APPROVERS_MAX, GATE_BYTES_MAX, GATES_MAX, Gates, Review, are_gates};
pub use rights::{Held, NOTICE_S as RIGHTS_NOTICE_S, ReferenceFacts, RightsEnd};
pub use slots::{MissPolicy, Rung, Slot, Stopgap};
pub use sources::CatalogSources;
pub(crate) use variant::recipe as variant_recipe;
pub use variant::{Tags, Variant, VariantError, VariantKey};
pub use version::Version;

use self::fault::SourceText;
use crate::decoding::DecoderCommand;
use crate::render::Finishing;
use crate::request::{IgnoredParameters, IgnoredParametersError};

/// `[campaigns]` of the edge's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CampaignConfig {
    /// Folder of `{campaign}.toml` and `{campaign}.lock.toml`.
    pub campaigns_dir: PathBuf,
    /// Folder of prompt libraries.
    pub prompts_dir: PathBuf,
    /// How often the files are looked at.
    pub reload_ms: u64,
    /// Most variants kept resolved in memory, one to two kilobytes each.
    pub variants_memoised_max: u64,
    /// Query parameters dropped unread beside the built-in lists: names, or starts of names with `*`.
    pub ignored_parameters: Vec<String>,
}

impl Default for CampaignConfig {
    fn default() -> Self {
        Self {
            campaigns_dir: PathBuf::from("config/campaigns"),
            prompts_dir: PathBuf::from("config/prompts"),
            reload_ms: 1000,
            variants_memoised_max: 16_384,
            ignored_parameters: Vec::new(),
        }
    }
}

impl CampaignConfig {
    /// # Errors
    /// When a pattern of `ignored_parameters` is malformed or would hide a rendition parameter.
    pub fn sources(&self) -> Result<CatalogSources, IgnoredParametersError> {
        Ok(CatalogSources {
            campaigns_dir: self.campaigns_dir.clone(),
            prompts_dir: self.prompts_dir.clone(),
            ignored: IgnoredParameters::new(&self.ignored_parameters)?,
            variants_memoised_max: self.variants_memoised_max,
            finishing: Finishing::default(),
            decoder: DecoderCommand::default(),
        })
    }
}

/// Reads a manifest against one library, and a lock and a table of texts against it, from memory: how many faults they have. For
/// fuzzing.
pub(crate) fn read_texts(
    path: &Path,
    manifest_text: &str,
    (library_name, library_text): (&str, &str),
    lock_text: &str,
    table_text: &str,
) -> usize {
    let library_source = SourceText::new(path, library_text);
    let library = prompts::read(&library_source, library_name);
    let libraries = [(library_name.to_owned(), library)].into();
    let (source, lock_source) = (SourceText::new(path, manifest_text), SourceText::new(path, lock_text));
    let table_source = SourceText::new(path, table_text);
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    if let Some(manifest) = manifest::read(&source, stem, &libraries) {
        let _ = lock::read(&lock_source, &manifest);
        layers::read_table(&manifest, &table_source);
    }
    [library_source, source, lock_source, table_source].into_iter().map(|source| source.into_faults().len()).sum()
}

#[cfg(test)]
pub(crate) mod tests;
