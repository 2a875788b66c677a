//! What readers of a variant's URL are shown now: its own picture, or something in its place and why.
//!
//! Invariant: asked are the gate and what is known here of the picture's making, nothing else; nothing is drawn, rendered or fetched.

use bildkante_shared::ids::{MasterId, RecipeId};
use bildkante_shared::import::MasterRecipe;

use crate::campaign::Variant;
use crate::fill::Fill;
use crate::governance::{PlaceStanding, Withheld};
use crate::render::Lqip;
use crate::resolve::{Audience, Want};
use crate::words::Moment;

/// Whether a variant has a picture for readers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Showing {
    /// Its picture is there, and readers may see it.
    Live,
    /// Readers may see it, and no model has drawn it yet as far as this edge knows.
    Undrawn,
    /// A person has to bring it first.
    Awaited,
    /// It may not be shown.
    Withheld(Withheld),
}

impl Showing {
    #[must_use]
    pub const fn is_live(self) -> bool {
        matches!(self, Self::Live)
    }

    /// As markup names it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Undrawn => "undrawn",
            Self::Awaited => "awaited",
            Self::Withheld(withheld) => withheld.reason.as_str(),
        }
    }
}

/// The picture that readers see, or would.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shown {
    pub showing: Showing,
    pub recipe: RecipeId,
    /// Where it is known.
    pub master: Option<MasterId>,
    /// Of a drawing.
    pub seed: Option<u32>,
    /// Whether the manifest says how it was made: then the slot's prompt version is its own.
    pub is_of_manifest: bool,
    /// When the node drew it.
    pub drawn: Option<Moment>,
    pub standing: PlaceStanding,
    /// What a page may show before it. Only of a picture that is live: it shows something of it.
    pub lqip: Option<Lqip>,
}

impl Shown {
    /// What readers see of a want for its variant's defaults.
    #[must_use]
    pub fn of(fill: &Fill, want: &Want) -> Self {
        let gate = fill.gate();
        let standing = gate.standing(want);
        let placed = match gate.would_place(want.clone()) {
            Ok(placed) => placed,
            Err(withheld) => return Self::own(want, Showing::Withheld(withheld), standing),
        };
        debug_assert_eq!(placed.audience, Audience::Public);
        let known = fill.known(&placed);
        let master = known.as_ref().map(|binding| binding.master);
        let showing = match gate.would_clear(&placed, master) {
            Err(withheld) => Showing::Withheld(withheld),
            Ok(_) if known.is_some() => Showing::Live,
            Ok(_) => unmade(&placed.variant),
        };
        let drawn = known.and_then(|binding| binding.drawn());
        let lqip = if showing.is_live() { fill.lqip(&placed) } else { None };
        match placed.decided.as_deref() {
            None => Self { master, drawn, lqip, ..Self::own(want, showing, standing) },
            Some(decided) => Self {
                showing,
                recipe: decided.recipe,
                master,
                seed: decided.seed,
                is_of_manifest: decided.is_known,
                drawn,
                standing,
                lqip,
            },
        }
    }

    /// The manifest's own picture.
    fn own(want: &Want, showing: Showing, standing: PlaceStanding) -> Self {
        let variant = &want.variant;
        let (recipe, seed) = (variant.recipe.id(), variant.drawn_seed());
        Self { showing, recipe, master: None, seed, is_of_manifest: true, drawn: None, standing, lqip: None }
    }
}

/// An import's original is at hand, whether or not its master was made of it already.
const fn unmade(variant: &Variant) -> Showing {
    match &variant.recipe {
        MasterRecipe::Drawn(_) => Showing::Undrawn,
        MasterRecipe::Imported(_) => Showing::Live,
        MasterRecipe::Awaited(_) => Showing::Awaited,
    }
}
