//! How an engine finds out which passes may be shared: what a drawing is promised, which classes are foreseen, and the passes of
//! a probe.

use std::sync::Arc;

use bildkante_shared::ids::Digest;
use bildkante_shared::recipe::ValidRecipe;
use tch::Device;

use super::drawing::{Networked, models};
use super::probing::{Pending, Promise, ShapeKey};
use super::{TorchEngine, engine_error, loader};
use crate::config::DeterminismChoice;
use crate::diffusion::batch;
use crate::diffusion::batch::{BatchClass, Probe, Shapes};
use crate::diffusion::denoiser::Denoiser;
use crate::diffusion::device;
use crate::diffusion::error::DiffusionError;
use crate::diffusion::family::{Checkpoint, Conditioning, Networks};
use crate::diffusion::pipeline::Denoising;
use crate::engine::EngineError;

/// Classes of former days that are probed anew for a checkpoint, on another runtime or device.
const FORESEEN_MAX: usize = 16;

impl TorchEngine {
    /// Within how many requests the bits of a drawing are promised. What is not known yet is to be found out.
    pub(super) fn promise(
        &mut self,
        recipe: &Arc<ValidRecipe>,
        denoising: &Denoising<Conditioning>,
    ) -> Result<Promise, EngineError> {
        let keys = self.shape_keys(recipe, denoising)?;
        let known = |key: ShapeKey| {
            let shapes = match (self.options.determinism, key.requests_max) {
                (DeterminismChoice::Fast, most) => Some(Shapes::any(most)),
                (DeterminismChoice::Exact, 0 | 1) => Some(Shapes::alone()),
                (DeterminismChoice::Exact, _) => self.options.verdicts.get(&key),
            };
            (key, shapes)
        };
        Ok(Promise::new(keys.into_iter().map(known).collect()))
    }

    /// What verdicts on a drawing's passes hold for.
    fn shape_keys(
        &mut self,
        recipe: &Arc<ValidRecipe>,
        denoising: &Denoising<Conditioning>,
    ) -> Result<Vec<ShapeKey>, EngineError> {
        let requests_max = self.capacity.requests_max(recipe, self.options.requests_max);
        let environment = self.environment(recipe.checkpoint)?;
        let models = models(&self.shelf, &mut self.adapters, recipe, Networked::Passes)?;
        let key = |class: BatchClass| ShapeKey {
            environment: environment.clone(),
            architecture: models.at(class.stage()).architecture(class.controls()),
            class,
            requests_max,
        };
        Ok(denoising.classes().into_iter().map(key).collect())
    }

    /// What computes passes, as far as it decides bits.
    fn environment(&self, checkpoint: Digest) -> Result<String, EngineError> {
        let checkpoint = self.shelf.checkpoint(checkpoint)?;
        Ok(checkpoint.environment() + self.tf32(checkpoint))
    }

    /// A processor has no TF32. It is named with every dtype, because a VAE may insist on float32.
    pub(super) fn tf32(&self, checkpoint: &Checkpoint) -> &'static str {
        if self.options.tf32 && checkpoint.device() != Device::Cpu { "/tf32" } else { "" }
    }

    /// Remembers what will be asked for: each checkpoint's own size, and what was asked for before another runtime or device.
    pub(super) fn foresee(&mut self) {
        if self.options.determinism == DeterminismChoice::Fast || self.options.requests_max <= 1 {
            return;
        }
        let mut recipes = Vec::new();
        for (blueprint, checkpoint) in
            self.shelf.offers().filter_map(|offer| Some((offer.blueprint(), offer.networks.as_ref()?)))
        {
            let trial = loader::self_test_recipe(blueprint, self.options.self_test_steps.max(1));
            let networks = Networks::new(checkpoint, None, &[]);
            let environment = checkpoint.environment() + self.tf32(checkpoint);
            let known = self.options.verdicts.classes_elsewhere(networks.architecture(&[]), &environment);
            let known = known.iter().filter_map(|class| loader::recipe_of_class(blueprint, class));
            recipes.extend(std::iter::once(trial).chain(known.take(FORESEEN_MAX)));
        }
        for recipe in recipes.into_iter().filter_map(|recipe| ValidRecipe::try_from(recipe).ok()).map(Arc::new) {
            if let Err(error) = self.foresee_recipe(&recipe) {
                tracing::debug!(%error, "a class of passes is not foreseen");
            }
        }
    }

    fn foresee_recipe(&mut self, recipe: &Arc<ValidRecipe>) -> Result<(), EngineError> {
        self.capacity.check(recipe).map_err(|error| EngineError::Refused { reason: error.to_string() })?;
        let denoising = self.denoising(recipe, None)?;
        let promise = self.promise(recipe, &denoising)?;
        self.ask(&promise, recipe, false);
        Ok(())
    }

    /// Has what is not known of a drawing's passes found out.
    pub(super) fn ask(&mut self, promise: &Promise, recipe: &Arc<ValidRecipe>, is_wanted: bool) {
        for key in promise.unknown() {
            self.probing.ask(Pending { key: key.clone(), recipe: Arc::clone(recipe), is_wanted });
        }
    }

    /// Makes a pass of a probe, which is begun where there is none. The shapes, once they are found.
    pub(super) fn probe_pass(
        &mut self,
        pending: &Pending,
        probe: Option<Probe<Conditioning>>,
    ) -> Result<(Probe<Conditioning>, Option<Shapes>), EngineError> {
        let device = self.options.placement.device;
        let class = &pending.key.class;
        let models = models(&self.shelf, &mut self.adapters, &pending.recipe, Networked::Images)?;
        let networks = models.at(class.stage());
        let begin = || -> Result<_, DiffusionError> {
            let conditions = networks.condition(&pending.recipe, class.stage())?;
            let specimen = batch::specimen(networks, class, &conditions)?;
            debug_assert!(class.is_of(&specimen), "{class:?} for another input");
            Ok(Probe::new(specimen, pending.key.requests_max)?)
        };
        let mut probe = probe.map_or_else(begin, Ok).map_err(engine_error(device))?;
        let shapes = probe.pass(networks).map_err(engine_error(device))?;
        device::wait(device).map_err(|error| EngineError::DeviceLost { reason: error.to_string() })?;
        Ok((probe, shapes))
    }

    /// Has the drawings under way share passes, where a verdict now lets them.
    pub(super) fn learn(&mut self) {
        self.drawings.values_mut().for_each(|drawing| drawing.promise.learn(&self.options.verdicts));
    }
}
