//! Placeholders ready to serve: one per shape, format and marking, made once on the render pool.

use std::sync::Arc;

use bildkante_shared::ids::{MasterId, RecipeId};
use bildkante_shared::urgency::Urgency;
use moka::sync::Cache;

use crate::cache::{Origin, Rendition};
use crate::fill::{Fill, FillError, Want};
use crate::negotiate::Format;
use crate::render::{self, Palette, Rung};

/// Shapes × formats × campaigns in use; each takes under 2 kB.
const KEPT_MAX: u64 = 1024;

type Shape = (u32, u32, Format, [u8; 16]);

/// Palette images by what they stand in for.
#[derive(Debug)]
pub struct Placeholders {
    fill: Arc<Fill>,
    kept: Cache<Shape, Arc<Rendition>>,
}

impl Placeholders {
    #[must_use]
    pub fn new(fill: Arc<Fill>) -> Self {
        Self { fill, kept: Cache::new(KEPT_MAX) }
    }

    /// The placeholder with the shape, format and marking of what was wanted.
    ///
    /// # Errors
    /// When the render pool refuses or the encoder fails.
    pub async fn get(&self, want: &Want) -> Result<Arc<Rendition>, FillError> {
        let (width, height) = lowest_terms(want.spec.width_px, want.spec.height_px);
        let shape = (width, height, want.spec.format, want.marking_digest);
        if let Some(kept) = self.kept.get(&shape) {
            return Ok(kept);
        }
        let (spec, marking) = (want.spec, Arc::clone(&want.marking));
        let work = move || render::placeholder(Palette::default(), (width, height), spec.format, &marking);
        let encoded = self.fill.pool.run(Urgency::MOST, work).await??;
        // It is no picture of any recipe: the ids name the shape, so that its tags purge nothing else.
        let name = format!("placeholder {width}:{height}");
        let origin = Origin::now(MasterId::of_bytes(name.as_bytes()), RecipeId::of_bytes(name.as_bytes()));
        let rendition = Arc::new(Rendition::new(encoded.bytes.into(), spec, Rung::Final, origin));
        self.kept.insert(shape, Arc::clone(&rendition));
        Ok(rendition)
    }
}

/// Ladders of one ratio share a placeholder.
const fn lowest_terms(width: u32, height: u32) -> (u32, u32) {
    let (mut a, mut b) = (width, height);
    while b != 0 {
        (a, b) = (b, a % b);
    }
    match (width.checked_div(a), height.checked_div(a)) {
        (Some(width), Some(height)) => (width, height),
        _ => (1, 1),
    }
}

#[cfg(test)]
mod tests {
    use super::lowest_terms;

    #[test]
    fn a_ladder_shares_one_shape() {
        assert_eq!(lowest_terms(320, 240), (4, 3));
        assert_eq!(lowest_terms(640, 480), (4, 3));
        assert_eq!(lowest_terms(7, 7), (1, 1));
        assert_eq!(lowest_terms(0, 0), (1, 1));
    }
}
