//! `[generate]`: how a slot's masters are drawn. Every key may be overridden in `[slots.{slot}.generate]`.

use std::ops::Range;

use bildkante_shared::ids::Digest;
use bildkante_shared::limits;
use bildkante_shared::recipe::{
    Prediction, Recipe, SchedulerChoice, SchedulerKind, SigmaSpacing, TimestepSpacing, ValidRecipe,
};
use bildkante_shared::weighting::{Weighting, escaped};

use super::additions::{self, Additions};
use super::axes::{self, ReadAxis};
use super::fault::listing;
use super::layers::PlaceReader;
use super::pins::Pins;
use super::prompts::{Block, UsedWords, Words, WordsKind};
use super::reader::{TableReader, Text, no_hint};
use super::seeds::{self, ChosenSeeds};
use super::template::{Part, Placeholder, Template, tidy};

/// Most negative lists of one prompt.
const NEGATIVES_MAX: usize = 32;

/// Keys of `[generate]`, for the hint when one stands in a slot.
pub(crate) const KEYS: [&str; 29] = [
    "source",
    "checkpoint",
    "scheduler",
    "timestep_spacing",
    "sigmas",
    "zero_terminal_snr",
    "prediction",
    "eta",
    "timesteps",
    "sigma_values",
    "steps",
    "guidance",
    "size",
    "seed",
    "prompt",
    "negative",
    "loras",
    "embeddings",
    "refiner",
    "controls",
    "references",
    "draft",
    "details",
    "init",
    "mask",
    "depth",
    "guidance_rescale",
    "weighting",
    "clip_skip",
];

/// Where a slot's masters come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Making {
    /// A model draws them.
    Drawn(Box<Generate>),
    /// People bring them. The size is what the slot's ladder is planned for; a picture has its own.
    Imported { width_px: u32, height_px: u32 },
}

impl Making {
    /// Of a drawn master, or what the slot expects of an imported one.
    #[must_use]
    pub fn size_px(&self) -> (u32, u32) {
        match self {
            Self::Drawn(generate) => (generate.width_px, generate.height_px),
            Self::Imported { width_px, height_px } => (*width_px, *height_px),
        }
    }
}

/// `source`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SourceChoice {
    Model,
    Import,
}

/// Everything of a recipe but the values of the axes.
#[derive(Debug, Clone, PartialEq)]
pub struct Generate {
    /// Name of a checkpoint; the lock knows its digest.
    pub checkpoint: String,
    pub scheduler: SchedulerChoice,
    pub steps: u32,
    pub guidance: f64,
    pub width_px: u32,
    pub height_px: u32,
    pub seed: Seed,
    /// The slot's.
    pub seeds: ChosenSeeds,
    pub prompt: Template,
    /// The negative lists and the styles' negatives, joined.
    pub negative_prompt: String,
    /// The texts of libraries that both are made with, each once and in the order of their use.
    pub words: Vec<UsedWords>,
    pub additions: Additions,
}

impl Generate {
    /// Whether pictures differ by an axis: the prompt names it, or the place of a layer does.
    #[must_use]
    pub fn differs_by(&self, axis: usize) -> bool {
        differs(&self.prompt, &self.additions, axis)
    }
}

fn differs(prompt: &Template, additions: &Additions, axis: usize) -> bool {
    prompt.uses_axis(axis) || additions.places().any(|place| place.uses_axis(axis))
}

/// Where a recipe's seed comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seed {
    pub base: u32,
    pub per: SeedPer,
}

/// How far one seed reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeedPer {
    /// The base itself: one look for all variants.
    Campaign,
    /// Derived from the base and the recipe without its seed.
    Recipe,
}

impl SeedPer {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Campaign => "campaign",
            Self::Recipe => "recipe",
        }
    }
}

/// Reads a slot's generation keys over those of `[generate]`.
#[derive(Debug)]
pub(crate) struct GenerateReader<'r, 'a, 'i> {
    pub(crate) axes: &'r [ReadAxis],
    pub(crate) words: &'r Words<'r>,
    pub(crate) defaults: Option<&'r TableReader<'a, 'i>>,
}

/// One slot's view: its own keys first.
struct Layered<'r, 'a, 'i> {
    slot: &'r TableReader<'a, 'i>,
    own: Option<&'r TableReader<'a, 'i>>,
    defaults: Option<&'r TableReader<'a, 'i>>,
}

impl<'r, 'a, 'i> Layered<'r, 'a, 'i> {
    fn of(&self, key: &'static str) -> Option<&'r TableReader<'a, 'i>> {
        self.own.filter(|own| own.has(key)).or_else(|| self.defaults.filter(|defaults| defaults.has(key)))
    }

    /// The same of keys that say one thing together: where the slot has one of them, the defaults' do not hold.
    fn of_group(&self, key: &'static str, group: &[&'static str]) -> Option<&'r TableReader<'a, 'i>> {
        match self.own.filter(|own| group.iter().any(|key| own.has(key))) {
            Some(own) => Some(own).filter(|own| own.has(key)),
            None => self.of(key),
        }
    }

    fn require(&self, key: &'static str) -> Option<&'r TableReader<'a, 'i>> {
        let table = self.of(key);
        // Without any [generate] its absence has been said already.
        // A misspelt key is refused by its name, and a table of a wrong type as such.
        let is_misspelt = |table: Option<&TableReader<'_, '_>>| table.is_some_and(|t| t.has_misspelt(key, &KEYS));
        let is_excused =
            is_misspelt(self.own) || is_misspelt(self.defaults) || (self.own.is_none() && self.slot.has("generate"));
        if table.is_none() && self.defaults.is_some() && !is_excused {
            let reason = format!("`{key}` is missing: set it in [generate] or for each slot");
            self.slot.recurring_fault(self.slot.span(), reason);
        }
        table
    }
}

impl<'a, 'i> GenerateReader<'_, 'a, 'i> {
    /// `None` with a fault noted where a key is missing or wrong.
    pub(crate) fn read(&self, slot: &TableReader<'a, 'i>, places: &PlaceReader<'_>) -> Option<Making> {
        let own = slot.table("generate");
        let layered = Layered { slot, own: own.as_ref(), defaults: self.defaults };
        slot.expect(&["seeds"]);
        let sources = [("model", SourceChoice::Model), ("import", SourceChoice::Import)];
        let source = layered.of("source").and_then(|table| table.choice("source", &sources));
        let making = match source.unwrap_or(SourceChoice::Model) {
            SourceChoice::Model => self.read_drawn(&layered, places).map(|generate| Making::Drawn(Box::new(generate))),
            SourceChoice::Import => read_imported(&layered),
        };
        if let Some(own) = &own {
            own.expect(&KEYS);
            own.finish(no_hint);
        }
        making
    }

    fn read_drawn(&self, layered: &Layered<'_, 'a, 'i>, places: &PlaceReader<'_>) -> Option<Generate> {
        let slot = layered.slot;
        let checkpoint = layered.require("checkpoint").and_then(read_checkpoint);
        let steps = layered.require("steps").and_then(|table| table.integer("steps", 1..=limits::STEPS_MAX));
        let guidance = layered.require("guidance").and_then(|t| t.number("guidance", 0.0..=limits::GUIDANCE_MAX));
        let size = layered.require("size").and_then(read_size);
        let seed = layered.require("seed").and_then(read_seed);
        let scheduler = read_scheduler(layered, steps);
        let additions = additions::read(&|key| layered.of(key), places);
        let weighting = additions.weighting;
        let mut words = Vec::new();
        let prompt = layered.require("prompt").and_then(|table| self.read_prompt(table, weighting, &mut words));
        let negatives = layered.of("negative").map(|table| self.read_negatives(table, &mut words)).unwrap_or_default();
        let (prompt, style_negatives) = prompt?;
        let negative_prompt = tidy(&[negatives, style_negatives].concat().join(", "));
        let negative_prompt = literal(weighting, &negative_prompt);
        if negative_prompt.len() > limits::PROMPT_BYTES_MAX {
            let (bytes, bytes_max) = (negative_prompt.len(), limits::PROMPT_BYTES_MAX);
            slot.fault(slot.span(), format!("the negative prompt has {bytes} bytes, at most {bytes_max}"));
        }
        let (width_px, height_px) = size?;
        let (checkpoint, steps, guidance, seed) = (checkpoint?, steps?, guidance?, seed?);
        check_parts(slot, &additions, (width_px, height_px), (steps, guidance), &scheduler);
        Some(Generate {
            checkpoint,
            scheduler,
            steps,
            guidance,
            width_px,
            height_px,
            seed,
            seeds: seeds::read(slot, self.axes, |axis| differs(&prompt, &additions, axis)),
            prompt,
            negative_prompt,
            words,
            additions,
        })
    }

    fn read_prompt(
        &self,
        table: &TableReader<'_, '_>,
        weighting: Weighting,
        words: &mut Vec<UsedWords>,
    ) -> Option<(Template, Vec<String>)> {
        let text = table.text("prompt")?;
        let mut negatives = Vec::new();
        let template = Template::parse(text.value, |placeholder| {
            match placeholder {
                Placeholder::Style(name) => self.note(words, WordsKind::Style, name),
                Placeholder::Block(name) => self.note(words, WordsKind::Block, name),
                Placeholder::Axis(_) => {}
            }
            self.resolve(placeholder, weighting, &mut negatives)
        });
        let template = link(table, &text, template)?;
        let longest = |axis: usize| {
            let values = &self.axes[axis].axis.values;
            values.iter().map(|value| value.prompt.len()).max().unwrap_or_default()
        };
        let bytes = template.bytes_max(longest);
        if bytes > limits::PROMPT_BYTES_MAX {
            let bytes_max = limits::PROMPT_BYTES_MAX;
            table.fault(&text.span, format!("the longest prompt has {bytes} bytes, at most {bytes_max}"));
        }
        if let Err(reason) = self.check_weights(&template, weighting) {
            table.fault(&text.span, reason);
        }
        Some((template, negatives))
    }

    /// Whether the brackets of a prompt are weights, with every value of every axis in its place.
    fn check_weights(&self, template: &Template, weighting: Weighting) -> Result<(), String> {
        let check = |prompt: String| weighting.check(&prompt).map_err(|error| format!("`{prompt}`: {error}"));
        check(template.render(|_| ""))?;
        let used = (0..self.axes.len()).filter(|axis| template.uses_axis(*axis));
        for (used, value) in used.flat_map(|used| self.axes[used].axis.values.iter().map(move |value| (used, value))) {
            check(template.render(|axis| if axis == used { value.prompt.as_str() } else { "" }))?;
        }
        Ok(())
    }

    fn resolve(
        &self,
        placeholder: Placeholder<'_>,
        weighting: Weighting,
        negatives: &mut Vec<String>,
    ) -> Result<Part, String> {
        match placeholder {
            Placeholder::Axis(name) => {
                let axis = axes::named(self.axes, name)?;
                if let Some(value) = &self.axes[axis].promptless {
                    return Err(format!("{{{name}}} stands in a prompt, but its value `{value}` has no `prompt`"));
                }
                Ok(Part::Axis(axis))
            }
            // What is missing from words that were refused in part may be what was refused.
            Placeholder::Style(name) if self.words.is_refused() && self.words.style(name).is_none() => {
                Ok(Part::Literal(String::new()))
            }
            Placeholder::Block(name) if self.words.is_refused() && self.words.block(name).is_none() => {
                Ok(Part::Literal(String::new()))
            }
            Placeholder::Style(name) => {
                let style = self.words.style(name).ok_or_else(|| {
                    let known = self.words.names(|library| library.styles.keys().collect());
                    format!("no library of this campaign has a style `{name}`; {}", known_names(&known))
                })?;
                if !style.negative.is_empty() {
                    negatives.push(style.negative.clone());
                }
                weighed(weighting, &style.prompt).map_err(|reason| format!("the style `{name}` {reason}"))
            }
            Placeholder::Block(name) => {
                let block = self.words.block(name).ok_or_else(|| {
                    let known = self.words.names(|library| library.blocks.keys().collect());
                    format!("no library of this campaign has a block `{name}`; {}", known_names(&known))
                })?;
                weighed(weighting, block).map_err(|reason| format!("the block `{name}` {reason}"))
            }
        }
    }

    fn note(&self, words: &mut Vec<UsedWords>, kind: WordsKind, name: &str) {
        words.extend(self.words.used(kind, name).filter(|used| !words.contains(used)));
    }

    fn read_negatives(&self, table: &TableReader<'_, '_>, words: &mut Vec<UsedWords>) -> Vec<String> {
        let mut texts = Vec::new();
        for name in table.texts("negative", NEGATIVES_MAX).unwrap_or_default() {
            self.note(words, WordsKind::NegativeList, name.value);
            match self.words.negative(name.value) {
                Some(words) => texts.push(words.to_owned()),
                None if self.words.is_refused() => {}
                None => {
                    let known = self.words.names(|library| library.negatives.keys().collect());
                    let known = known_names(&known);
                    let reason = format!("no library of this campaign has a negative list `{}`; {known}", name.value);
                    table.recurring_fault(&name.span, reason);
                }
            }
        }
        texts
    }
}

/// Whether the parts of a picture can be drawn, whatever its prompt and its files are.
fn check_parts(
    slot: &TableReader<'_, '_>,
    additions: &Additions,
    size_px: (u32, u32),
    (steps, guidance): (u32, f64),
    scheduler: &SchedulerChoice,
) {
    if additions.draft.is_none() && additions.details.is_empty() {
        return;
    }
    let plain = Recipe::new(Digest::of_bytes(b"any"), "", size_px);
    let mut recipe = Recipe { steps, guidance, scheduler: scheduler.clone(), ..plain };
    additions.add_to(&mut recipe, &Pins::default(), &|_| Digest::of_bytes(b"any"));
    if let Err(error) = ValidRecipe::try_from(recipe) {
        slot.recurring_fault(slot.span(), error.to_string());
    }
}

/// A library's text as it stands in a prompt: its brackets are characters.
fn literal(weighting: Weighting, text: &str) -> String {
    match weighting {
        Weighting::Plain => text.to_owned(),
        Weighting::Brackets => escaped(text),
    }
}

/// The same with its weight.
fn weighed(weighting: Weighting, block: &Block) -> Result<Part, String> {
    let text = literal(weighting, &block.text);
    match (weighting, block.weight) {
        (_, None) => Ok(Part::Literal(text)),
        (Weighting::Brackets, Some(weight)) => Ok(Part::Literal(format!("({text}:{weight})"))),
        (Weighting::Plain, Some(_)) => {
            Err("has a weight, and this prompt has none: set `weighting = \"brackets\"` beside it".to_owned())
        }
    }
}

/// A slot whose pictures people bring has a size; what tells a model how to draw has no place beside it.
fn read_imported(layered: &Layered<'_, '_, '_>) -> Option<Making> {
    if let Some(own) = layered.own {
        for key in KEYS.into_iter().filter(|key| !matches!(*key, "source" | "size") && own.has(key)) {
            let reason = format!("`{key}` tells a model how to draw, and this slot's pictures are imported");
            own.fault(own.span(), reason);
        }
    }
    if layered.slot.has("seeds") {
        layered.slot.fault(layered.slot.span(), "`seeds` are for drawings, and this slot's pictures are imported");
    }
    let (width_px, height_px) = layered.require("size").and_then(read_size)?;
    Some(Making::Imported { width_px, height_px })
}

/// Notes a template's reasons as faults.
pub(crate) fn link(
    table: &TableReader<'_, '_>,
    text: &Text<'_>,
    template: Result<Template, Vec<String>>,
) -> Option<Template> {
    match template {
        Ok(template) => Some(template),
        Err(reasons) => {
            for reason in reasons {
                table.recurring_fault(&text.span, reason);
            }
            None
        }
    }
}

/// Closes `[generate]`, whose keys the slots read.
pub(crate) fn finish_defaults(defaults: Option<&TableReader<'_, '_>>) {
    if let Some(defaults) = defaults {
        defaults.expect(&KEYS);
        defaults.finish(no_hint);
    }
}

fn known_names(names: &[&str]) -> String {
    if names.is_empty() { "there is none".to_owned() } else { format!("there are {}", listing(names, 12)) }
}

/// A checkpoint's name is also the name of its folder.
fn read_checkpoint(table: &TableReader<'_, '_>) -> Option<String> {
    let name = table.text("checkpoint")?;
    additions::plain_name(table, &name, "checkpoint")
}

fn read_size(table: &TableReader<'_, '_>) -> Option<(u32, u32)> {
    let size = table.integers("size", 1..=limits::MASTER_SIDE_PX_MAX, 2)?;
    let [(width_px, span), (height_px, height_span)] = size.as_slice() else {
        table.fault(table.span(), "`size` is [width, height] in pixels");
        return None;
    };
    let multiple = limits::MASTER_SIDE_PX_MULTIPLE;
    let check = |side_px: u32, span: &Range<usize>| {
        let is_multiple = side_px.is_multiple_of(multiple);
        if !is_multiple {
            let nearest = (side_px / multiple).max(1) * multiple;
            table.fault(span, format!("`size` is in multiples of {multiple} px: {nearest}, not {side_px}"));
        }
        is_multiple
    };
    let is_multiple = check(*width_px, span) & check(*height_px, height_span);
    if u64::from(*width_px) * u64::from(*height_px) > limits::MASTER_AREA_PX_MAX {
        table.fault(span, format!("`size` has more than {} pixels", limits::MASTER_AREA_PX_MAX));
        return None;
    }
    is_multiple.then_some((*width_px, *height_px))
}

fn read_seed(table: &TableReader<'_, '_>) -> Option<Seed> {
    let seed = table.table("seed")?;
    let base = seed.integer("base", 0..=u32::MAX);
    if !seed.has("base") {
        seed.missing("base", "`seed.base` is missing");
    }
    let per = seed.choice("per", &[("campaign", SeedPer::Campaign), ("recipe", SeedPer::Recipe)]);
    seed.finish(no_hint);
    Some(Seed { base: base?, per: per.unwrap_or(SeedPer::Campaign) })
}

fn read_scheduler(layered: &Layered<'_, '_, '_>, steps: Option<u32>) -> SchedulerChoice {
    let kinds = SchedulerKind::ALL.map(|kind| (kind.as_str(), kind));
    let spacings = TimestepSpacing::ALL.map(|spacing| (spacing.as_str(), spacing));
    let sigmas = SigmaSpacing::ALL.map(|spacing| (spacing.as_str(), spacing));
    let outputs = Prediction::ALL.map(|output| (output.as_str(), output));
    // A slot that says which levels are visited says so in one way: the campaign's other ways do not hold for it.
    let level = |key: &'static str| layered.of_group(key, &LEVEL_KEYS);
    let count_max = limits::STEPS_MAX as usize;
    let timesteps = level("timesteps").and_then(|table| {
        let range = 0..=limits::TRAIN_STEPS_MAX - 1;
        Some(table.integers("timesteps", range, count_max)?.into_iter().map(|(timestep, _)| timestep).collect())
    });
    let sigma_values =
        level("sigma_values").and_then(|table| table.numbers("sigma_values", 0.0..=limits::SIGMA_MAX, count_max + 1));
    let choice = SchedulerChoice {
        kind: layered.of("scheduler").and_then(|table| table.choice("scheduler", &kinds)),
        timestep_spacing: layered.of("timestep_spacing").and_then(|t| t.choice("timestep_spacing", &spacings)),
        sigmas: level("sigmas").and_then(|table| table.choice("sigmas", &sigmas)),
        zero_terminal_snr: layered.of("zero_terminal_snr").and_then(|table| table.flag("zero_terminal_snr")),
        prediction: layered.of("prediction").and_then(|table| table.choice("prediction", &outputs)),
        eta: layered.of("eta").and_then(|table| table.number("eta", 0.0..=1.0)),
        timesteps: timesteps.unwrap_or_default(),
        sigma_values: sigma_values.unwrap_or_default(),
    };
    if let Some(fault) = steps.and_then(|steps| choice.check(steps).err()) {
        let table = LEVEL_KEYS.iter().find_map(|key| layered.of(key)).or(layered.own).unwrap_or(layered.slot);
        table.recurring_fault(table.span(), fault.to_string());
    }
    choice
}

/// Keys that say which noise levels are visited.
const LEVEL_KEYS: [&str; 3] = ["sigmas", "timesteps", "sigma_values"];
