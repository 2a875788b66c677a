//! A drawing under way, the networks it is drawn with, and what must agree for drawings to share a pass.

use std::collections::VecDeque;
use std::sync::Arc;

use bildkante_shared::ids::Digest;
use bildkante_shared::recipe::{Recipe, ValidRecipe};

use super::adapters::{Adapters, Changes, TrunkKey};
use super::probing::Promise;
use super::shelf::Shelf;
use crate::capacity::Need;
use crate::diffusion::batch::BatchClass;
use crate::diffusion::denoiser::Stage;
use crate::diffusion::family::{Checkpoint, Conditioning, ControlNet, Networks};
use crate::diffusion::picture::Pictures;
use crate::diffusion::pipeline::{Denoising, Models};
use crate::engine::EngineError;

/// A request between its text and its picture.
#[derive(Debug)]
pub(super) struct Drawing {
    pub(super) recipe: Arc<ValidRecipe>,
    /// What of the recipe is being drawn.
    pub(super) part: Arc<ValidRecipe>,
    pub(super) later: Later,
    /// Its adapted networks.
    pub(super) trunks: Vec<TrunkKey>,
    pub(super) need: Need,
    pub(super) denoising: Denoising<Conditioning>,
    /// Of the next step; `None` at the end.
    pub(super) pass: Option<PassKey>,
    pub(super) promise: Promise,
}

/// The parts of a recipe that come later, and what is behind.
#[derive(Debug, Default)]
pub(super) struct Later {
    pub(super) parts: VecDeque<Arc<ValidRecipe>>,
    /// Evaluations of the parts that are over, and of all.
    pub(super) done: usize,
    pub(super) of: usize,
    /// Parts that have begun.
    pub(super) begun: usize,
}

/// What must agree for requests to share a pass.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct PassKey {
    checkpoint: Digest,
    /// Adapters with their weights, bit by bit.
    loras: Vec<(Digest, u64)>,
    /// ControlNets of the recipe; the class says which of them act.
    controls: Vec<Digest>,
    /// How much is added of those that act, bit by bit.
    scales: Vec<u64>,
    pub(super) class: BatchClass,
}

impl PassKey {
    /// Of the next pass; `None` at the end.
    pub(super) fn of(recipe: &ValidRecipe, denoising: &Denoising<Conditioning>) -> Option<Self> {
        let class = denoising.next_class()?;
        let (checkpoint, loras) = match (class.stage(), &recipe.refiner) {
            (Stage::Refiner, Some(refiner)) => (refiner.checkpoint, Vec::new()),
            _ => (recipe.checkpoint, recipe.loras.iter().map(|lora| (lora.digest, lora.weight.to_bits())).collect()),
        };
        let controls = recipe.controls.iter().map(|control| control.network).collect();
        let scales = denoising.next_scales().into_iter().map(f64::to_bits).collect();
        Some(Self { checkpoint, loras, controls, scales, class })
    }
}

/// What networks are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Networked {
    /// To begin a drawing or a probe: images are looked at.
    Images,
    /// To make passes and to decode: what images are is known.
    Passes,
}

/// The networks a recipe asks for. Free of the engine's other parts, so that those can be changed beside it.
pub(super) fn models<'a>(
    shelf: &'a Shelf,
    adapters: &'a mut Adapters,
    recipe: &ValidRecipe,
    need: Networked,
) -> Result<Models<Networks<'a>>, EngineError> {
    let stages = stages(shelf, recipe)?;
    for (checkpoint, key) in &stages {
        key.as_ref().map_or(Ok(()), |key| adapters.prepare(checkpoint, key))?;
    }
    let references = if need == Networked::Images { recipe.references.as_slice() } else { &[] };
    adapters.prepare_references(stages[0].0, references)?;
    let adapters = &*adapters;
    let networks = |(checkpoint, key): &(&'a Checkpoint, Option<TrunkKey>), controls: &[&'a ControlNet]| {
        let trunk = key.as_ref().map(|key| adapters.trunk(key)).transpose()?;
        Ok(Networks::new(checkpoint, trunk, controls))
    };
    let controls = recipe.controls.iter().map(|control| shelf.controlnet(control.network));
    let base = networks(&stages[0], &controls.collect::<Result<Vec<_>, _>>()?)?;
    let references = references.iter().map(|used| {
        let adapter = adapters.reference(stages[0].0.digest(), used.adapter)?;
        Ok((adapter, shelf.image_encoder(used.encoder)?))
    });
    let base = base.referring(&references.collect::<Result<Vec<_>, EngineError>>()?);
    let refiner = stages.get(1).map(|stage| networks(stage, &[])).transpose()?;
    Ok(Models { base, refiner, pictures: Pictures::new() })
}

/// A recipe's checkpoint, and its refiner where it has one, each with what names its adapted networks.
fn stages<'a>(shelf: &'a Shelf, recipe: &ValidRecipe) -> Result<Vec<(&'a Checkpoint, Option<TrunkKey>)>, EngineError> {
    let refiner = recipe.refiner.as_ref().map(|refiner| (Stage::Refiner, refiner.checkpoint));
    let stages = std::iter::once((Stage::Base, recipe.checkpoint)).chain(refiner).map(|(stage, digest)| {
        let checkpoint = shelf.checkpoint(digest)?;
        let changes = Changes::of(recipe, stage);
        Ok((checkpoint, changes.map(|changes| TrunkKey::new(checkpoint.digest(), changes))))
    });
    stages.collect()
}

/// What names the adapted networks of all parts of a recipe, each once.
pub(super) fn trunks(shelf: &Shelf, recipe: &ValidRecipe) -> Result<Vec<TrunkKey>, EngineError> {
    let mut keys: Vec<TrunkKey> = Vec::new();
    for part in recipe.each_part() {
        for key in stages(shelf, part)?.into_iter().filter_map(|(_, key)| key) {
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
    }
    Ok(keys)
}

/// Whether two recipes may share passes, as far as the recipes tell: what a [`PassKey`] will hold of them.
pub(super) fn asks_for_the_same(a: &Recipe, b: &Recipe) -> bool {
    let refines = |recipe: &Recipe| recipe.refiner.as_ref().map(|refiner| refiner.checkpoint);
    (a.checkpoint, a.width_px, a.height_px) == (b.checkpoint, b.width_px, b.height_px)
        && a.loras == b.loras
        && a.controls.iter().map(|c| c.network).eq(b.controls.iter().map(|c| c.network))
        && refines(a) == refines(b)
        && (a.guidance > 1.0) == (b.guidance > 1.0)
}
