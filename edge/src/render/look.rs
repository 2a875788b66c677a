//! A slot's look: a colour grade, sharpening after strong reductions, and grain, in this order, behind the resize.
//!
//! Invariants: whole numbers decide every sample, so the same master, cut and look give the same bytes on every thread and machine; a
//! look's digest stands for all of it; what pads a picture is no part of it and keeps its colour.

mod grain;
mod lut;
mod sharpen;

use std::sync::Arc;

use bildkante_shared::ids::MasterId;

use super::crop::CropBox;
use super::resize::Raster;

pub use grain::Grain;
pub use lut::{CUBE_BYTES_MAX, Cube, CubeError};
pub use sharpen::Sharpen;

/// See the module's documentation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    pub grade: Option<Arc<Cube>>,
    pub sharpen: Option<Sharpen>,
    pub grain: Option<Grain>,
}

/// Which part of which master a picture shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) master: MasterId,
    /// Its sides.
    pub(super) master_px: (u32, u32),
    pub(super) cut: CropBox,
}

impl Look {
    /// Stands for it in keys.
    #[must_use]
    pub fn digest(&self) -> [u8; 16] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"bildkante look 1\0");
        let sharpen = self.sharpen.map_or(0, Sharpen::thousandths);
        let (strength, size) = self.grain.map_or((0, 0), |grain| (grain.strength_thousandths, grain.size_thousandths));
        for number in [sharpen, strength, size] {
            hasher.update(&number.to_le_bytes());
        }
        if let Some(grade) = &self.grade {
            hasher.update(grade.digest().as_bytes());
        }
        let mut digest = [0; 16];
        digest.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        digest
    }

    /// For people: what it is made of.
    #[must_use]
    pub fn words(&self) -> String {
        let grade = self.grade.as_ref().map(|grade| format!("grade {}", grade.digest()));
        let sharpen = self.sharpen.map(|sharpen| format!("sharpen {}", f64::from(sharpen.thousandths()) / 1000.0));
        let grain = self.grain.map(|grain| {
            let [strength, size] =
                [grain.strength_thousandths, grain.size_thousandths].map(|number| f64::from(number) / 1000.0);
            format!("grain {strength} of size {size}")
        });
        [grade, sharpen, grain].into_iter().flatten().collect::<Vec<_>>().join(", ")
    }

    /// On a picture that shows this part of its master.
    pub(super) fn apply(&self, picture: &mut Raster, shown: &Shown) {
        if let Some(grade) = &self.grade {
            grade.apply(&mut picture.rgb);
        }
        if let Some(sharpen) = self.sharpen {
            sharpen.apply(picture, shown.cut);
        }
        if let Some(grain) = self.grain {
            grain.apply(picture, shown);
        }
    }
}

#[cfg(test)]
mod tests;
