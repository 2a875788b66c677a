//! The seam between a fill and what makes its masters.
//!
//! An origin makes a master for a recipe of one form and hands out the masters it made. [`Regions`](super::Regions) does so
//! for recipes that a model draws, [`Imports`](super::Imports) for pictures that people bring, and [`Origins`] for both: it
//! asks the one that a recipe is for. Invariants: an origin never binds and never caches; what it says of a master is checked
//! against the master's pixels before it is used.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use bildkante_shared::ids::MasterId;
use bildkante_shared::import::MasterRecipe;
use bildkante_shared::phash::PerceptualHash;
use bildkante_shared::trace::TraceContext;
use bildkante_shared::urgency::Urgency;
use bildkante_shared::wire::{DedupScope, Duplicate, GenerationSource};
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, ready};

use super::imports::{ImportFault, Imports};
use super::{OriginError, Regions};
use crate::cache::MasterFile;

/// Makes masters for recipes of the form `R`.
pub trait Origin<R>: Debug + Send + Sync {
    /// The master of `recipe`, made now unless the origin has it.
    fn make<'a>(&'a self, recipe: &'a R, order: Order<'a>) -> BoxFuture<'a, Result<Made, OriginError>>;

    /// The file of a master that was made for `recipe`. That its pixels are the master's is for the caller to verify.
    fn master<'a>(
        &'a self,
        id: MasterId,
        recipe: &'a R,
        order: Order<'a>,
    ) -> BoxFuture<'a, Result<MasterFile, OriginError>>;
}

/// On what terms something is asked of an origin.
#[derive(Debug, Clone)]
pub struct Order<'a> {
    /// Within which images a duplicate may be found; `None` looks for none.
    pub dedup: Option<DedupScope>,
    pub urgency: Urgency,
    /// The longest wait.
    pub deadline: Duration,
    pub trace: &'a TraceContext,
}

/// What an origin says of a master.
#[derive(Debug, Clone, PartialEq)]
pub struct Made {
    pub master: MasterId,
    pub width_px: u32,
    pub height_px: u32,
    pub phash: PerceptualHash,
    /// The older master it was found to equal to the eye.
    pub duplicate: Option<Duplicate>,
    /// When it was made, by its maker's clock.
    pub drawn_unix_s: Option<u64>,
    /// The determinism class of its drawing.
    pub determinism: Option<String>,
    /// What its drawing took of a device, where it was made for this order.
    pub device_ms: Option<f64>,
    /// The node, or another name of what made it.
    pub maker: String,
    /// Whether it was made for this order, was being made for another, or was there.
    pub source: GenerationSource,
}

/// Every origin of this edge, as one.
#[derive(Debug)]
pub struct Origins {
    pub regions: Arc<Regions>,
    pub imports: Imports,
}

impl Origin<MasterRecipe> for Origins {
    fn make<'a>(&'a self, recipe: &'a MasterRecipe, order: Order<'a>) -> BoxFuture<'a, Result<Made, OriginError>> {
        match recipe {
            MasterRecipe::Drawn(recipe) => Origin::make(&*self.regions, &**recipe, order),
            MasterRecipe::Imported(import) => Origin::make(&self.imports, import, order),
            MasterRecipe::Awaited(_) => ready(Err(ImportFault::Awaited.into())).boxed(),
        }
    }

    fn master<'a>(
        &'a self,
        id: MasterId,
        recipe: &'a MasterRecipe,
        order: Order<'a>,
    ) -> BoxFuture<'a, Result<MasterFile, OriginError>> {
        match recipe {
            MasterRecipe::Drawn(recipe) => Origin::master(&*self.regions, id, &**recipe, order),
            MasterRecipe::Imported(import) => Origin::master(&self.imports, id, import, order),
            MasterRecipe::Awaited(_) => ready(Err(ImportFault::Awaited.into())).boxed(),
        }
    }
}
