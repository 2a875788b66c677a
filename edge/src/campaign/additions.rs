//! What a recipe has beside checkpoint and prompt, by the names of a manifest: adapters, embeddings, a refiner, ControlNets,
//! reference images and others.
//! The lock knows the digest of every name.
//!
//! Adapters and embeddings are files of `models_dir/adapters`, refiners, ControlNets and image encoders folders of `models_dir`, images files of the
//! campaigns' `images` folder: committed with the manifest, and handed to a node that asks for them.

mod parts;

use std::ops::RangeInclusive;

use bildkante_shared::ids::Digest;
use bildkante_shared::import::DigitalSource;
use bildkante_shared::limits::{CLIP_SKIP_MAX, CONTROLS_MAX, EMBEDDINGS_MAX, LORAS_MAX, REFERENCES_MAX};
use bildkante_shared::recipe::{
    ControlUse, EmbeddingUse, InitUse, LoraUse, Recipe, ReferenceUse, RefinerUse, is_token,
};
use bildkante_shared::weighting::Weighting;

pub use self::parts::{Detail, Draft};
use super::layers::{ImageUse, PlaceReader, PlaceUse};
use super::pins::Pins;
use super::reader::{TableReader, Text, TextOrTable, no_hint};

/// Longest name of a checkpoint, an adapter or an image.
const NAME_BYTES_MAX: usize = 100;
/// What a weight may be: beyond it nothing is left of the picture.
const WEIGHTS: RangeInclusive<f64> = -10.0..=10.0;
const SHARES: RangeInclusive<f64> = 0.0..=1.0;
const WEIGHTINGS: [(&str, Weighting); 2] = [("plain", Weighting::Plain), ("brackets", Weighting::Brackets)];
const SCORES: RangeInclusive<f64> = 0.0..=10.0;

/// By name what a recipe has by digest; see there for the fields.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Additions {
    pub loras: Vec<(String, f64)>,
    /// With the words that stand for them in the prompts.
    pub embeddings: Vec<(String, String)>,
    pub refiner: Option<Refiner>,
    pub controls: Vec<Control>,
    pub references: Vec<Reference>,
    pub draft: Option<Draft>,
    pub details: Vec<Detail>,
    pub init: Option<(String, f64)>,
    pub mask: Option<ImageUse>,
    pub depth: Option<ImageUse>,
    pub guidance_rescale: f64,
    /// Whether brackets in prompts are weights.
    pub weighting: Weighting,
    /// Layers of the text encoders that are left out.
    pub clip_skip: u32,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Refiner {
    pub checkpoint: String,
    pub start: f64,
    pub aesthetic_score: f64,
    pub negative_aesthetic_score: f64,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Control {
    pub network: String,
    pub image: ImageUse,
    pub weight: f64,
    pub start: f64,
    pub end: f64,
}

/// An image that a picture is to resemble.
#[derive(Debug, Clone, PartialEq)]
pub struct Reference {
    pub adapter: String,
    pub encoder: String,
    pub image: String,
    pub weight: f64,
    pub start: f64,
    pub end: f64,
    pub mask: Option<ImageUse>,
}

impl Additions {
    /// Folders of `models_dir`.
    pub fn networks(&self) -> impl Iterator<Item = &str> {
        let refiner = self.refiner.iter().map(|refiner| refiner.checkpoint.as_str());
        let controls = self.all_controls().map(|control| control.network.as_str());
        refiner.chain(controls).chain(self.references.iter().map(|reference| reference.encoder.as_str()))
    }

    pub fn adapters(&self) -> impl Iterator<Item = &str> {
        let of_parts = self.draft.iter().flat_map(|draft| &draft.loras);
        let of_parts = of_parts.chain(self.details.iter().flat_map(|detail| &detail.loras)).flatten();
        let loras = self.loras.iter().chain(of_parts).map(|(name, _)| name.as_str());
        let embeddings = self.embeddings.iter().map(|(name, _)| name.as_str());
        loras.chain(embeddings).chain(self.references.iter().map(|reference| reference.adapter.as_str()))
    }

    /// Those of all parts.
    fn all_controls(&self) -> impl Iterator<Item = &Control> {
        self.controls.iter().chain(self.draft.iter().flat_map(|draft| &draft.controls))
    }

    /// Files of the images' folder.
    pub fn images(&self) -> impl Iterator<Item = &str> {
        let init = self.init.iter().map(|(image, _)| image.as_str());
        let controls = self.all_controls().filter_map(|control| control.image.file());
        let references = self.references.iter();
        let references = references
            .flat_map(|used| std::iter::once(used.image.as_str()).chain(used.mask.as_ref().and_then(ImageUse::file)));
        init.chain(self.mask.as_ref().and_then(ImageUse::file))
            .chain(self.depth.as_ref().and_then(ImageUse::file))
            .chain(controls)
            .chain(references)
            .chain(self.details.iter().filter_map(|detail| detail.mask.file()))
    }

    /// Places of layers among the images.
    pub fn places(&self) -> impl Iterator<Item = &PlaceUse> {
        let masks = self.mask.iter().chain(&self.depth);
        let masks = masks.chain(self.references.iter().filter_map(|used| used.mask.as_ref()));
        let controls = self.all_controls().map(|control| &control.image);
        let details = self.details.iter().map(|detail| &detail.mask);
        masks.chain(controls).chain(details).filter_map(ImageUse::place)
    }

    /// What the pictures are: drawn, or drawn over a picture that is still in them. A control's image and
    /// a reference only guide.
    #[must_use]
    pub const fn digital_source(&self) -> DigitalSource {
        match self.init {
            Some(_) => DigitalSource::CompositeWithTrainedAlgorithmicMedia,
            None => DigitalSource::TrainedAlgorithmicMedia,
        }
    }

    /// Gives a recipe what is named here, by the lock's digests; `seen` knows those of images.
    pub(super) fn add_to(&self, recipe: &mut Recipe, pins: &Pins, seen: Seen<'_>) {
        let embedding =
            |(name, token): &(String, String)| EmbeddingUse { digest: pins.adapter(name), token: token.clone() };
        recipe.loras = lora_uses(&self.loras, pins);
        recipe.embeddings = self.embeddings.iter().map(embedding).collect();
        recipe.refiner = self.refiner.as_ref().map(|refiner| RefinerUse {
            checkpoint: pins.checkpoint(&refiner.checkpoint),
            start: refiner.start,
            aesthetic_score: refiner.aesthetic_score,
            negative_aesthetic_score: refiner.negative_aesthetic_score,
        });
        recipe.controls = control_uses(&self.controls, pins, seen);
        let reference = |used: &Reference| ReferenceUse {
            adapter: pins.adapter(&used.adapter),
            encoder: pins.checkpoint(&used.encoder),
            image: pins.image(&used.image),
            weight: used.weight,
            start: used.start,
            end: used.end,
            mask: used.mask.as_ref().map(seen),
        };
        recipe.references = self.references.iter().map(reference).collect();
        recipe.init =
            self.init.as_ref().map(|(image, strength)| InitUse { image: pins.image(image), strength: *strength });
        recipe.draft = self.draft.as_ref().map(|draft| draft.used((recipe.width_px, recipe.height_px), pins, seen));
        recipe.details = self.details.iter().map(|detail| detail.used(pins, seen)).collect();
        recipe.depth = self.depth.as_ref().map(seen);
        recipe.mask = self.mask.as_ref().map(seen);
        recipe.guidance_rescale = self.guidance_rescale;
        recipe.weighting = self.weighting;
        recipe.clip_skip = self.clip_skip;
    }
}

fn lora_uses(loras: &[(String, f64)], pins: &Pins) -> Vec<LoraUse> {
    let used = |(name, weight): &(String, f64)| LoraUse { digest: pins.adapter(name), weight: *weight };
    loras.iter().map(used).collect()
}

fn control_uses(controls: &[Control], pins: &Pins, seen: Seen<'_>) -> Vec<ControlUse> {
    let used = |control: &Control| ControlUse {
        network: pins.checkpoint(&control.network),
        image: seen(&control.image),
        weight: control.weight,
        start: control.start,
        end: control.end,
    };
    controls.iter().map(used).collect()
}

/// The digest of an image, at the values of a variant.
pub(super) type Seen<'s> = &'s dyn Fn(&ImageUse) -> Digest;

/// Which table has a key: a slot's own, or `[generate]`.
pub(super) type Find<'f, 'r, 'a, 'i> = &'f dyn Fn(&'static str) -> Option<&'r TableReader<'a, 'i>>;

/// Reads the keys; a wrong one is noted as a fault and left out.
pub(super) fn read(find: Find<'_, '_, '_, '_>, places: &PlaceReader<'_>) -> Additions {
    let loras = find("loras").map(read_loras).unwrap_or_default();
    let init = find("init").and_then(read_init);
    let mask = find("mask").and_then(|table| {
        let found = table.text_or_table("mask")?;
        if find("init").is_none() {
            let span = match &found {
                TextOrTable::Text(name) => &name.span,
                TextOrTable::Table(place) => place.span(),
            };
            table.fault(span, "a `mask` says which part of `init` is painted anew, and there is no `init`");
        }
        image_or_place(table, found, places)
    });
    Additions {
        loras,
        embeddings: find("embeddings").map(read_embeddings).unwrap_or_default(),
        refiner: find("refiner").and_then(read_refiner),
        controls: find("controls").map(|table| read_controls(table, places)).unwrap_or_default(),
        draft: find("draft").and_then(|table| parts::read_draft(table, places)),
        details: find("details").map(|table| parts::read_details(table, places)).unwrap_or_default(),
        references: find("references").map(|table| read_references(table, places)).unwrap_or_default(),
        init,
        mask,
        depth: find("depth").and_then(|table| image_use(table, "depth", places)),
        guidance_rescale: find("guidance_rescale").and_then(|t| t.number("guidance_rescale", SHARES)).unwrap_or(0.0),
        weighting: find("weighting").and_then(|table| table.choice("weighting", &WEIGHTINGS)).unwrap_or_default(),
        clip_skip: find("clip_skip").and_then(|table| table.integer("clip_skip", 0..=CLIP_SKIP_MAX)).unwrap_or(0),
    }
}

fn read_loras(table: &TableReader<'_, '_>) -> Vec<(String, f64)> {
    let loras = table.list_of_tables("loras", LORAS_MAX).into_iter().filter_map(|lora| {
        let name = lora.required_text("name").and_then(|name| plain_name(&lora, &name, "adapter"));
        let weight = lora.number("weight", WEIGHTS).unwrap_or(1.0);
        lora.finish(no_hint);
        Some((name?, weight))
    });
    loras.collect()
}

fn read_embeddings(table: &TableReader<'_, '_>) -> Vec<(String, String)> {
    let mut embeddings: Vec<(String, String)> = Vec::new();
    for embedding in table.list_of_tables("embeddings", EMBEDDINGS_MAX) {
        let name = embedding.required_text("name").and_then(|name| plain_name(&embedding, &name, "embedding"));
        let token = embedding.text("token");
        let span = token.as_ref().map_or_else(|| embedding.span().clone(), |token| token.span.clone());
        // As CLIP reads it.
        let token = token.map(|token| token.value.to_lowercase());
        let token = token.or_else(|| name.as_ref().map(|name| format!("<{}>", name.to_lowercase())));
        embedding.finish(no_hint);
        let Some((name, token)) = name.zip(token) else { continue };
        if !is_token(&token) {
            let reason = "a token has up to 64 letters, digits, `<`, `>`, `_` and `-`";
            embedding.fault(&span, format!("`{token}` cannot stand for `{name}` in a prompt: {reason}"));
        } else if embeddings.iter().any(|(_, known)| *known == token) {
            embedding.fault(&span, format!("`{token}` stands for another embedding already"));
        } else {
            embeddings.push((name, token));
        }
    }
    embeddings
}

fn read_refiner(table: &TableReader<'_, '_>) -> Option<Refiner> {
    let refiner = table.table("refiner")?;
    let checkpoint = refiner.required_text("checkpoint").and_then(|name| plain_name(&refiner, &name, "checkpoint"));
    if !refiner.has("start") {
        refiner.missing("start", "`refiner.start` is missing: after which share of the steps it takes over");
    }
    let start = refiner.number("start", 0.01..=0.99);
    let score = |key, default| refiner.number(key, SCORES).unwrap_or(default);
    let aesthetic_score = score("aesthetic_score", RefinerUse::aesthetic_score());
    let negative_aesthetic_score = score("negative_aesthetic_score", RefinerUse::negative_aesthetic_score());
    refiner.finish(no_hint);
    Some(Refiner { checkpoint: checkpoint?, start: start?, aesthetic_score, negative_aesthetic_score })
}

fn read_controls(table: &TableReader<'_, '_>, places: &PlaceReader<'_>) -> Vec<Control> {
    let controls = table.list_of_tables("controls", CONTROLS_MAX).into_iter().filter_map(|control| {
        let network = control.required_text("network").and_then(|name| plain_name(&control, &name, "ControlNet"));
        let image = required_image_use(&control, "image", places);
        let (weight, (start, end)) = (control.number("weight", WEIGHTS).unwrap_or(1.0), read_span(&control));
        control.finish(no_hint);
        Some(Control { network: network?, image: image?, weight, start, end })
    });
    controls.collect()
}

/// From which share of the steps on something acts, and up to which.
fn read_span(table: &TableReader<'_, '_>) -> (f64, f64) {
    let (start, end) = (table.number("start", SHARES).unwrap_or(0.0), table.number("end", SHARES).unwrap_or(1.0));
    if start >= end {
        table.fault(table.span(), format!("`start` {start} is not before `end` {end}"));
    }
    (start, end)
}

fn read_references(table: &TableReader<'_, '_>, places: &PlaceReader<'_>) -> Vec<Reference> {
    let references = table.list_of_tables("references", REFERENCES_MAX).into_iter().filter_map(|used| {
        let adapter = used.required_text("adapter").and_then(|name| plain_name(&used, &name, "adapter"));
        let encoder = used.required_text("encoder").and_then(|name| plain_name(&used, &name, "image encoder"));
        let picture = used.required_text("image").and_then(|name| image(&used, &name));
        let mask = used.has("mask").then(|| image_use(&used, "mask", places));
        let (weight, (start, end)) = (used.number("weight", WEIGHTS).unwrap_or(1.0), read_span(&used));
        used.finish(no_hint);
        // A mask that is refused is said to be; without it the reference would act everywhere.
        let mask = mask.map_or(Some(None), |mask| mask.map(Some))?;
        Some(Reference { adapter: adapter?, encoder: encoder?, image: picture?, weight, start, end, mask })
    });
    references.collect()
}

fn read_init(table: &TableReader<'_, '_>) -> Option<(String, f64)> {
    let init = table.table("init")?;
    let image = init.required_text("image").and_then(|name| image(&init, &name));
    let strength = init.number("strength", 0.01..=1.0);
    if !init.has("strength") {
        init.missing("strength", "`init.strength` is missing: how much of the way is gone, up to 1");
    }
    init.finish(no_hint);
    Some((image?, strength?))
}

/// A name that is also a folder's or a file's: letters, digits, `.`, `_` and `-`.
pub(super) fn plain_name(table: &TableReader<'_, '_>, name: &Text<'_>, what: &str) -> Option<String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let is_name = (1..=NAME_BYTES_MAX).contains(&name.value.len())
        && !name.value.starts_with('.')
        && name.value.bytes().all(is_plain);
    if is_name {
        return Some(name.value.to_owned());
    }
    let reason = format!("`{}` is no {what}: its name has letters, digits, `.`, `_` and `-` only", name.value);
    table.fault(&name.span, reason);
    None
}

/// A file, or the place of a layer.
fn image_use(table: &TableReader<'_, '_>, key: &'static str, places: &PlaceReader<'_>) -> Option<ImageUse> {
    image_or_place(table, table.text_or_table(key)?, places)
}

fn required_image_use(table: &TableReader<'_, '_>, key: &'static str, places: &PlaceReader<'_>) -> Option<ImageUse> {
    image_or_place(table, table.required_text_or_table(key)?, places)
}

fn image_or_place(
    table: &TableReader<'_, '_>,
    found: TextOrTable<'_, '_>,
    places: &PlaceReader<'_>,
) -> Option<ImageUse> {
    match found {
        TextOrTable::Text(name) => image(table, &name).map(ImageUse::File),
        TextOrTable::Table(place) => places.read(&place).map(|place| ImageUse::Place(Box::new(place))),
    }
}

fn image(table: &TableReader<'_, '_>, name: &Text<'_>) -> Option<String> {
    let image = plain_name(table, name, "image")?;
    if image.ends_with(".png") {
        return Some(image);
    }
    table.fault(&name.span, format!("`{image}` is no PNG: nodes read nothing else"));
    None
}
