//! One quality scale for every format: `q` is the SSIMULACRA2 score a rendition should reach.
//!
//! SSIMULACRA2 (Cloudinary, 2022) compares the encoded picture with the resized one it was made from: 90 is visually
//! lossless side by side, 70 high quality, 50 medium, 30 low. Encoders have scales of their own, so a table maps `q`
//! to each encoder's native quality at each rung's settings: the median over a corpus, linear between anchors. A
//! single picture lands beside it: the 10th to 90th of 100 pictures score 57–73 in AVIF, 65–73 in WebP and 66–72 in
//! JPEG at 70, within 7 points at 80, and farther off at 50 and below, where formats lose different things. Choosing
//! per picture is for `q=auto` to learn later.
//!
//! The table is made by `examples/calibrate.rs`, which also names the corpus. It holds only for the speeds and options
//! in `encode`: change one, rerun it, and raise [`super::ENCODER_EPOCH`].

use super::{Quality, Rung};
use crate::words::Format;

/// The values of `q` at which native qualities are tabulated.
pub const ANCHORS: [u8; 11] = [1, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100];

type Row = [f32; ANCHORS.len()];

// As `examples/calibrate.rs` prints it. The ends are where an encoder gives no less or no more: WebP's lowest quality
// still scores about 40, and its 4:2:0 chroma seldom reaches 90.
const AVIF_QUICK: Row = [1.0, 1.0, 1.0, 6.1, 12.3, 17.9, 23.4, 38.2, 64.5, 92.8, 100.0];
const AVIF_FINAL: Row = [1.0, 1.0, 1.0, 5.4, 11.7, 17.1, 23.5, 38.6, 63.7, 92.6, 100.0];
const WEBP_QUICK: Row = [1.0, 1.0, 1.0, 1.0, 1.0, 5.3, 14.4, 37.3, 79.5, 100.0, 100.0];
const WEBP_FINAL: Row = [1.0, 1.0, 1.0, 1.0, 1.0, 5.6, 15.9, 35.0, 76.3, 100.0, 100.0];
const JPEG_QUICK: Row = [8.1, 9.1, 10.6, 14.1, 17.6, 21.3, 25.0, 38.5, 65.4, 91.0, 100.0];
const JPEG_FINAL: Row = [8.1, 9.1, 10.6, 14.1, 17.6, 21.3, 25.0, 38.5, 65.4, 91.0, 100.0];

/// The encoder's own quality for a perceptual one. PNG is lossless: its value means nothing.
#[must_use]
pub fn native(quality: Quality, format: Format, rung: Rung) -> f32 {
    let row = match (format, rung) {
        (Format::Avif, Rung::Quick) => &AVIF_QUICK,
        (Format::Avif, Rung::Final) => &AVIF_FINAL,
        (Format::Webp, Rung::Quick) => &WEBP_QUICK,
        (Format::Webp, Rung::Final) => &WEBP_FINAL,
        (Format::Jpeg, Rung::Quick) => &JPEG_QUICK,
        (Format::Jpeg, Rung::Final) => &JPEG_FINAL,
        (Format::Png, _) => return native_range(Format::Png).1,
    };
    interpolated(row, quality.get())
}

/// Lowest and highest native quality an encoder takes.
#[must_use]
pub const fn native_range(format: Format) -> (f32, f32) {
    match format {
        Format::Avif | Format::Jpeg => (1.0, 100.0),
        Format::Webp | Format::Png => (0.0, 100.0),
    }
}

fn interpolated(row: &Row, q: u8) -> f32 {
    let above = ANCHORS.iter().position(|anchor| q <= *anchor).unwrap_or(ANCHORS.len() - 1);
    let Some(below) = above.checked_sub(1) else { return row[0] };
    let share = f32::from(q.saturating_sub(ANCHORS[below])) / f32::from(ANCHORS[above] - ANCHORS[below]);
    row[below] + (row[above] - row[below]) * share.min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_quality_maps_into_its_encoders_range_and_never_falls() {
        for format in Format::ALL {
            let (low, high) = native_range(format);
            for rung in Rung::ALL {
                let row: Vec<f32> =
                    (1..=100).filter_map(Quality::new).map(|quality| native(quality, format, rung)).collect();
                assert_eq!(row.len(), 100);
                assert!(row.iter().all(|native| (low..=high).contains(native)), "{format:?} {rung:?}: {row:?}");
                assert!(row.is_sorted(), "{format:?} {rung:?}: {row:?}");
            }
        }
    }

    #[test]
    fn anchors_are_met_and_joined_by_straight_lines() {
        let row: Row = [0.0, 9.0, 19.0, 29.0, 39.0, 49.0, 59.0, 69.0, 79.0, 89.0, 99.0];
        for q in [1, 10, 44, 50, 100] {
            assert!((interpolated(&row, q) - f32::from(q - 1)).abs() < 1e-4, "{q}");
        }
    }
}
