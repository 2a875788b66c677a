//! Everything there is to say of one picture, as data.
//!
//! Invariant: nothing is looked up here that the subject or the evidence does not hold; a field that is `null` in the JSON is
//! unknown.

use bildkante_shared::ids::Digest;
use bildkante_shared::import::{ImportRecipe, MasterRecipe};
use bildkante_shared::recipe::Recipe;
use serde::Serialize;
use serde_json::Value;

use super::evidence::Evidence;
use super::subject::{DossierSubject, ShownVariant};
use crate::cache::Binding;
use crate::campaign::layers::ImageUse;
use crate::campaign::manifest::Signing;
use crate::campaign::{Campaign, ModelFacts, Slot, UsedWords};
use crate::origin::IMPORT_MAKER;
use crate::provenance::{Location, Marking};
use crate::resolve::Resolved;
use crate::words::Moment;

/// The form of the JSON. A later version may add fields, and takes none away.
pub(super) const SCHEMA: &str = "com.bildkante.dossier/1";

/// See the module's documentation.
#[derive(Debug, Clone, Serialize)]
pub struct Dossier {
    pub schema: &'static str,
    /// As it was asked for.
    pub asked: String,
    /// By the edge's clock (RFC 3339).
    pub made_at: String,
    /// The edge's version.
    pub edge: &'static str,
    /// `None` where no campaign of this edge shows the master any more.
    pub variant: Option<VariantPaper>,
    pub recipe: RecipePaper,
    pub master: Option<MasterPaper>,
    pub evidence: Evidence,
    pub shared_by: Vec<SharedPaper>,
    /// Whether there may be variants with this master that `shared_by` does not name.
    pub shared_by_is_whole: bool,
}

impl Dossier {
    /// What of it is for those who see these campaigns; `None` where it is about another one. What belongs to no campaign is for
    /// those who see everything.
    #[must_use]
    pub(crate) fn shown_to(mut self, sees: impl Fn(Option<&str>) -> bool) -> Option<Self> {
        if !sees(self.variant.as_ref().map(|variant| variant.campaign.as_str())) {
            return None;
        }
        let campaign = |variant: &str| variant.split('/').next().map(str::to_owned);
        for shared in &mut self.shared_by {
            let before = shared.variants.len();
            shared.variants.retain(|variant| sees(campaign(variant).as_deref()));
            self.shared_by_is_whole &= shared.variants.len() == before;
        }
        Some(self)
    }
}

/// The variant that the dossier is about.
#[derive(Debug, Clone, Serialize)]
pub struct VariantPaper {
    pub name: String,
    pub campaign: String,
    pub title: String,
    /// Over manifest, lock and prompt libraries, as they are now.
    pub campaign_digest: Digest,
    pub slot: String,
    pub locale: String,
    pub alt: String,
    /// The visible label that the markup gives the picture.
    pub label: Option<String>,
    /// What is done to the pixels of each rendition: grade, sharpening, grain.
    pub look: Option<String>,
    /// How the picture came to be, by IPTC's vocabulary; unknown while it is awaited.
    pub digital_source_type: Option<&'static str>,
    pub rights: RightsPaper,
    pub served: ServedPaper,
    pub deployer: DeployerPaper,
}

/// What is said of makers and rights in every rendition.
#[derive(Debug, Clone, Serialize)]
pub struct RightsPaper {
    pub creator: Option<String>,
    pub credit: Option<String>,
    pub copyright: Option<String>,
    pub license: Option<String>,
    /// The place that the pictures show, where the campaign states one.
    pub location: Option<String>,
}

/// Where readers get it.
#[derive(Debug, Clone, Serialize)]
pub struct ServedPaper {
    /// The one that search engines are told: the slot's default width, in a format that the client takes.
    pub canonical_url: String,
    pub formats: Vec<&'static str>,
    pub widths_px: Vec<u32>,
    /// One for each format and width.
    pub urls: Vec<String>,
    /// Whether these are answered only with a signature.
    pub need_signature: bool,
    /// Whether caches elsewhere can be made to forget it.
    pub is_recallable: bool,
    /// Why the pages are unknown on which it is shown, and where to look.
    pub pages: &'static str,
}

/// What the deployer says of the campaign.
#[derive(Debug, Clone, Serialize)]
pub struct DeployerPaper {
    pub purpose: Option<String>,
    pub oversight: Option<String>,
    pub contact: Option<String>,
}

/// What determined the picture.
#[derive(Debug, Clone, Serialize)]
pub struct RecipePaper {
    pub id: String,
    pub kind: RecipeKind,
    /// As it stands, whole: its canonical JSON has the id as its digest.
    pub recipe: Option<Value>,
    pub words: Vec<WordsPaper>,
    pub models: Vec<ModelPaper>,
    pub images: Vec<ImagePaper>,
    /// How the seed was chosen.
    pub seed_per: Option<&'static str>,
}

/// What kind of recipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RecipeKind {
    Drawn,
    Imported,
    Awaited,
    /// Only its id is known.
    Unknown,
}

/// A text of a prompt library.
#[derive(Debug, Clone, Serialize)]
pub struct WordsPaper {
    pub kind: &'static str,
    pub name: String,
    pub library: String,
    /// Of the library's file; libraries have no other version.
    pub library_digest: Option<Digest>,
    pub prompt: String,
    pub negative: String,
}

/// A checkpoint or an adapter, and what the campaign's author says of it.
#[derive(Debug, Clone, Serialize)]
pub struct ModelPaper {
    pub role: &'static str,
    pub name: String,
    pub digest: Option<Digest>,
    pub weight: Option<f64>,
    pub license: Option<String>,
    pub source: Option<String>,
    pub card: Option<String>,
    pub training_data: Option<String>,
}

/// An image that the drawing was made with.
#[derive(Debug, Clone, Serialize)]
pub struct ImagePaper {
    pub role: &'static str,
    pub name: String,
    pub digest: Option<Digest>,
}

/// The master as it is bound.
#[derive(Debug, Clone, Serialize)]
pub struct MasterPaper {
    pub id: String,
    pub width_px: u32,
    pub height_px: u32,
    /// By the node's clock (RFC 3339).
    pub drawn_at: Option<String>,
    /// When this edge learned of it, by its own clock (RFC 3339).
    pub learned_at: Option<String>,
    /// `None` for an import.
    pub node: Option<String>,
    pub determinism: Option<String>,
    pub perceptual_hash: String,
}

/// A recipe that came out as the same master, and where it is shown.
#[derive(Debug, Clone, Serialize)]
pub struct SharedPaper {
    pub recipe: String,
    /// Set where the recipe drew another picture, which was found to look like this one.
    pub looked_like: Option<LikenessPaper>,
    /// Variants of this edge's campaigns.
    pub variants: Vec<String>,
}

/// How alike two pictures were found.
#[derive(Debug, Clone, Serialize)]
pub struct LikenessPaper {
    /// The master that was not used.
    pub of: String,
    pub hash_distance: u32,
    pub chroma_distance: f64,
    pub ssimulacra2: f64,
}

impl Dossier {
    pub(super) fn new(
        subject: &DossierSubject,
        evidence: Evidence,
        public_url: &str,
        has_access_log: bool,
        made_at: String,
    ) -> Self {
        let resolved = subject.resolved.as_ref();
        Self {
            schema: SCHEMA,
            asked: subject.asked.clone(),
            made_at,
            edge: env!("CARGO_PKG_VERSION"),
            variant: resolved.map(|resolved| variant(resolved, public_url, has_access_log)),
            recipe: recipe(subject, resolved),
            master: subject.binding.as_deref().map(master),
            evidence,
            shared_by: shared_by(subject),
            shared_by_is_whole: subject.is_whole,
        }
    }
}

fn variant(resolved: &Resolved, public_url: &str, has_access_log: bool) -> VariantPaper {
    let campaign = &resolved.campaign;
    let said = &campaign.ai_act;
    VariantPaper {
        name: resolved.variant.name.clone(),
        campaign: campaign.name.clone(),
        title: campaign.title.clone(),
        campaign_digest: campaign.digest,
        slot: resolved.slot.name.clone(),
        locale: resolved.locale().to_owned(),
        alt: resolved.alt(),
        label: resolved.label().map(|label| label.text.to_owned()),
        look: resolved.variant.finish.look().map(|look| look.words()),
        digital_source_type: resolved.source().map(|source| source.uri()),
        rights: rights(resolved.variant.finish.marking()),
        served: served(resolved, public_url, has_access_log),
        deployer: DeployerPaper {
            purpose: said.purpose.clone(),
            oversight: said.oversight.clone(),
            contact: said.contact.clone(),
        },
    }
}

fn rights(marking: &Marking) -> RightsPaper {
    RightsPaper {
        creator: marking.creator.clone(),
        credit: marking.credit.clone(),
        copyright: marking.copyright.clone(),
        license: marking.license.clone(),
        location: location(&marking.location),
    }
}

fn location(place: &Location) -> Option<String> {
    let parts = [&place.sublocation, &place.city, &place.region, &place.country, &place.country_code];
    let parts: Vec<&str> = parts.into_iter().filter_map(|part| part.as_deref()).collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

fn served(resolved: &Resolved, public_url: &str, has_access_log: bool) -> ServedPaper {
    let (slot, campaign) = (&resolved.slot, &resolved.campaign);
    let url = campaign.url(slot, &resolved.variant.query);
    let separator = if url.contains('?') { '&' } else { '?' };
    let formats: Vec<_> = slot.formats.iter().collect();
    let urls = slot.rungs(&formats).map(|rung| format!("{public_url}{url}{separator}{rung}"));
    ServedPaper {
        canonical_url: format!("{public_url}{}", resolved.canonical_url()),
        formats: slot.formats.iter().map(|format| format.as_str()).collect(),
        widths_px: slot.framing.widths.clone(),
        urls: urls.collect(),
        need_signature: campaign.policy.signing == Signing::Required,
        is_recallable: campaign.policy.is_recallable,
        pages: if has_access_log {
            "an edge does not know the pages that show its pictures; its access log has the pages that browsers named \
             (`referer`)"
        } else {
            "an edge does not know the pages that show its pictures; its access log, which would have the pages that browsers \
             name (`referer`), is off"
        },
    }
}

fn recipe(subject: &DossierSubject, resolved: Option<&Resolved>) -> RecipePaper {
    let unknown = RecipePaper {
        id: subject.recipe.to_string(),
        kind: RecipeKind::Unknown,
        recipe: None,
        words: Vec::new(),
        models: Vec::new(),
        images: Vec::new(),
        seed_per: None,
    };
    let Some(resolved) = resolved else { return unknown };
    match &resolved.variant.recipe {
        MasterRecipe::Drawn(recipe) => drawn(recipe, resolved, unknown),
        MasterRecipe::Imported(import) => imported(import, unknown),
        MasterRecipe::Awaited(_) => RecipePaper { kind: RecipeKind::Awaited, ..unknown },
    }
}

fn imported(import: &ImportRecipe, unknown: RecipePaper) -> RecipePaper {
    RecipePaper {
        kind: RecipeKind::Imported,
        recipe: serde_json::to_value(import).ok(),
        images: vec![ImagePaper {
            role: "original",
            name: "the file that was imported".to_owned(),
            digest: Some(import.import),
        }],
        ..unknown
    }
}

fn drawn(recipe: &Recipe, resolved: &Resolved, unknown: RecipePaper) -> RecipePaper {
    let (campaign, slot) = (&resolved.campaign, &resolved.slot);
    RecipePaper {
        kind: RecipeKind::Drawn,
        recipe: serde_json::to_value(recipe).ok(),
        words: slot.drawn().map(|generate| generate.words.iter().map(words).collect()).unwrap_or_default(),
        models: models(campaign, slot),
        images: images(campaign, slot),
        seed_per: slot.drawn().map(|generate| generate.seed.per.as_str()),
        ..unknown
    }
}

fn words(used: &UsedWords) -> WordsPaper {
    WordsPaper {
        kind: used.kind.as_str(),
        name: used.name.clone(),
        library: used.library.clone(),
        library_digest: used.library_digest,
        prompt: used.prompt.clone(),
        negative: used.negative.clone(),
    }
}

/// In the order in which they come to work.
pub(super) fn models(campaign: &Campaign, slot: &Slot) -> Vec<ModelPaper> {
    let Some(generate) = slot.drawn() else { return Vec::new() };
    let pins = campaign.pins();
    let network = |role, name: &str| model(campaign, role, name, pins.checkpoints.get(name), None);
    let additions = &generate.additions;
    let mut models = vec![network("checkpoint", &generate.checkpoint)];
    let adapters = additions.loras.iter();
    models.extend(
        adapters.map(|(name, weight)| model(campaign, "adapter", name, pins.adapters.get(name), Some(*weight))),
    );
    let embeddings = additions.embeddings.iter();
    models.extend(embeddings.map(|(name, _)| model(campaign, "embedding", name, pins.adapters.get(name), None)));
    let of_parts = additions.draft.iter().flat_map(|draft| &draft.loras);
    let of_parts = of_parts.chain(additions.details.iter().flat_map(|detail| &detail.loras)).flatten();
    models.extend(
        of_parts.map(|(name, weight)| model(campaign, "adapter", name, pins.adapters.get(name), Some(*weight))),
    );
    models.extend(
        additions.draft.iter().flat_map(|draft| &draft.controls).map(|control| network("ControlNet", &control.network)),
    );
    models.extend(additions.controls.iter().map(|control| network("ControlNet", &control.network)));
    for used in &additions.references {
        let digest = pins.adapters.get(&used.adapter);
        models.push(model(campaign, "IP-Adapter", &used.adapter, digest, Some(used.weight)));
        models.push(network("image encoder", &used.encoder));
    }
    models.extend(additions.refiner.iter().map(|refiner| network("refiner", &refiner.checkpoint)));
    models
}

fn model(
    campaign: &Campaign,
    role: &'static str,
    name: &str,
    digest: Option<&Digest>,
    weight: Option<f64>,
) -> ModelPaper {
    let ModelFacts { license, source, card, training_data, .. } =
        campaign.models.get(name).cloned().unwrap_or_default();
    ModelPaper { role, name: name.to_owned(), digest: digest.copied(), weight, license, source, card, training_data }
}

fn images(campaign: &Campaign, slot: &Slot) -> Vec<ImagePaper> {
    let Some(generate) = slot.drawn() else { return Vec::new() };
    let pins = &campaign.pins().images;
    let named = |role, name: String| ImagePaper { role, digest: pins.get(&name).copied(), name };
    let image = |role, name: &str| named(role, name.to_owned());
    // A place of a layer is a picture for each value that it differs by.
    let images = |role, used: &ImageUse| {
        used.names(slot, &campaign.axes).into_iter().map(|name| named(role, name)).collect::<Vec<_>>()
    };
    let additions = &generate.additions;
    let init = additions.init.iter().map(|(name, _)| image("begun with", name));
    let mask = additions.mask.iter().flat_map(|used| images("painted where it is white", used));
    let controls = additions.controls.iter().flat_map(|control| images("held to", &control.image));
    let references = additions.references.iter().map(|used| image("to resemble", &used.image));
    let masks = additions.references.iter().filter_map(|used| used.mask.as_ref());
    let masks = masks.flat_map(|used| images("to resemble another where it is white", used));
    let drafts = additions.draft.iter().flat_map(|draft| &draft.controls);
    let drafts = drafts.flat_map(|control| images("held to", &control.image));
    let details = additions.details.iter().flat_map(|detail| images("painted where it is white", &detail.mask));
    let guides = drafts.chain(controls).chain(references).chain(masks);
    let depth = additions.depth.iter().flat_map(|used| images("as near as it is bright", used));
    init.chain(mask).chain(depth).chain(guides).chain(details).collect()
}

fn master(binding: &Binding) -> MasterPaper {
    let learned = Moment::from_unix_s(binding.created_unix_ms / 1000);
    MasterPaper {
        id: binding.master.to_string(),
        width_px: binding.width_px,
        height_px: binding.height_px,
        drawn_at: binding.drawn().map(|drawn| drawn.to_string()),
        learned_at: learned.map(|learned| learned.to_string()),
        node: (binding.node != IMPORT_MAKER).then(|| binding.node.clone()),
        determinism: binding.determinism.clone(),
        perceptual_hash: binding.phash.to_string(),
    }
}

/// Recipes that are bound, and the asked one where it is not.
fn shared_by(subject: &DossierSubject) -> Vec<SharedPaper> {
    let variants = |recipe| -> Vec<String> {
        subject.places.iter().filter(|place| place.recipe == recipe).map(ShownVariant::to_string).collect()
    };
    let bound = subject.bound.iter().map(|(recipe, binding)| SharedPaper {
        recipe: recipe.to_string(),
        looked_like: binding.duplicate.as_ref().map(|duplicate| LikenessPaper {
            of: duplicate.of.to_string(),
            hash_distance: duplicate.distance,
            chroma_distance: duplicate.chroma_distance,
            ssimulacra2: duplicate.ssimulacra2,
        }),
        variants: variants(*recipe),
    });
    let own = subject.binding.is_none().then(|| SharedPaper {
        recipe: subject.recipe.to_string(),
        looked_like: None,
        variants: variants(subject.recipe),
    });
    bound.chain(own).collect()
}
