//! One quality scale for every format: `q` is the SSIMULACRA2 score a rendition should reach.
//!
//! SSIMULACRA2 (Cloudinary, 2022) compares the encoded picture with the pixels that were encoded, layers and watermark
//! included: 90 is visually lossless side by side, 70 high quality, 50 medium, 30 low. Encoders have scales of their own, and one picture
//! needs another quality than the next for the same score. So the quality is predicted from the picture's features: at each
//! anchor of `q` a weighted sum of them, between anchors a straight line. A quick file is encoded at that; for a final it
//! is where the search begins (see `encode::search`).
//!
//! The tables are learned by `make encoder-tables`, from one half of the corpus of docs/encoders.md, which tells how well they
//! do on the other half. They hold only for the speeds and options in `encode`: change one, learn again, and raise
//! [`super::ENCODER_EPOCH`].

mod tables;

use super::encode::{FEATURES, Features};
use super::{Quality, Rung};
use crate::words::Format;

/// The values of `q` at which weights are tabulated.
pub const ANCHORS: [u8; 9] = [20, 30, 40, 50, 60, 70, 80, 90, 95];

/// Weights of the features at each anchor.
type Table = [[f32; FEATURES]; ANCHORS.len()];

/// Least and most points of score that one native quality is taken to be worth.
const SLOPES: (f64, f64) = (0.1, 4.0);

/// The encoder's own quality for a perceptual one, and how many points of score one of its qualities is worth near there. PNG is
/// lossless: its value means nothing.
pub(super) fn predicted(quality: Quality, format: Format, rung: Rung, features: &Features) -> (f32, f64) {
    let Some(table) = table(format, rung) else { return (native_range(format).1, SLOPES.0) };
    let (least, most) = native_range(format);
    let mut row = table.map(|weights| features.weighted(&weights).clamp(least, most));
    // A better score never takes a lower quality, whatever the weights say of an unusual picture.
    for at in 1..row.len() {
        row[at] = row[at].max(row[at - 1]);
    }
    let q = f32::from(quality.get());
    let above = ANCHORS.iter().position(|anchor| q <= f32::from(*anchor)).unwrap_or(ANCHORS.len() - 1).max(1);
    let (from, to) = (f32::from(ANCHORS[above - 1]), f32::from(ANCHORS[above]));
    let rise = (row[above] - row[above - 1]) / (to - from);
    let native = (row[above - 1] + (q - from) * rise).clamp(least, most);
    let slope = if rise > 0.0 { f64::from(1.0 / rise) } else { SLOPES.1 };
    (native, slope.clamp(SLOPES.0, SLOPES.1))
}

/// PNG is lossless and has none.
const fn table(format: Format, rung: Rung) -> Option<&'static Table> {
    Some(match (format, rung) {
        (Format::Avif, _) => avif_table(rung),
        (Format::Webp, Rung::Hurried) => &tables::WEBP_HURRIED,
        (Format::Webp, Rung::Quick) => &tables::WEBP_QUICK,
        (Format::Webp, Rung::Final) => &tables::WEBP_FINAL,
        (Format::Jpeg, Rung::Hurried | Rung::Quick) => &tables::JPEG_QUICK,
        #[cfg(feature = "mozjpeg")]
        (Format::Jpeg, Rung::Final) => &tables::MOZJPEG_FINAL,
        #[cfg(not(feature = "mozjpeg"))]
        (Format::Jpeg, Rung::Final) => &tables::JPEG_FINAL,
        (Format::Png, _) => return None,
    })
}

#[cfg(feature = "aom")]
const fn avif_table(rung: Rung) -> &'static Table {
    match rung {
        Rung::Hurried => &tables::AVIF_HURRIED,
        Rung::Quick => &tables::AVIF_QUICK,
        Rung::Final => &tables::AVIF_FINAL,
    }
}

/// ravif's scale is another one than libaom's.
#[cfg(not(feature = "aom"))]
const fn avif_table(rung: Rung) -> &'static Table {
    match rung {
        Rung::Hurried | Rung::Quick => &tables::RAVIF_QUICK,
        Rung::Final => &tables::RAVIF_FINAL,
    }
}

/// Lowest and highest native quality an encoder takes.
#[must_use]
pub const fn native_range(format: Format) -> (f32, f32) {
    match format {
        // The quantizer the other way round, without the one for lossless files (see `bildkante_aom`).
        #[cfg(feature = "aom")]
        Format::Avif => (0.0, 62.0),
        #[cfg(not(feature = "aom"))]
        Format::Avif => (1.0, 100.0),
        Format::Jpeg => (1.0, 100.0),
        Format::Webp | Format::Png => (0.0, 100.0),
    }
}

/// Lowest and highest native quality for a perceptual one. SSIMULACRA2 hardly sees a field whose colour is off as a whole, so a flat picture would
/// be given the least quality there is; a brand's colour is a field. The flatter a picture, the more of the scale is left alone.
pub(super) fn searched_range(quality: Quality, format: Format, features: &Features) -> (f32, f32) {
    let (least, most) = native_range(format);
    let floor = match format {
        Format::Webp => 0.45,
        Format::Jpeg => 0.3,
        Format::Avif | Format::Png => 0.25,
    };
    let flat = features.flat_share().powi(4);
    (least.max(most * floor * flat * f32::from(quality.get()) / 100.0), most)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::Raster;

    fn raster(level: impl Fn(u32, u32) -> u8) -> Raster {
        let (width_px, height_px) = (64, 48);
        let rgb = (0..height_px).flat_map(|y| (0..width_px).map(move |x| (x, y))).flat_map(|(x, y)| [level(x, y); 3]);
        Raster { width_px, height_px, rgb: rgb.collect() }
    }

    #[test]
    fn every_quality_maps_into_its_encoders_range_and_never_falls() {
        let pictures = [raster(|_, _| 90), raster(|x, _| (x * 4) as u8), raster(|x, y| (x * 97 + y * 61) as u8)];
        for (format, rung) in Format::ALL.into_iter().flat_map(|format| Rung::ALL.map(|rung| (format, rung))) {
            let (low, high) = native_range(format);
            for features in pictures.each_ref().map(Features::of) {
                let natives = (1..=100).filter_map(Quality::new).map(|q| predicted(q, format, rung, &features));
                let row: Vec<f32> = natives.map(|(native, _)| native).collect();
                assert_eq!(row.len(), 100);
                assert!(row.iter().all(|native| (low..=high).contains(native)), "{format:?} {rung:?}: {row:?}");
                assert!(row.is_sorted(), "{format:?} {rung:?}: {row:?}");
            }
        }
    }

    #[test]
    fn a_picture_that_is_harder_to_encode_is_told_from_an_easy_one() {
        let (easy, hard) = (Features::of(&raster(|_, _| 90)), Features::of(&raster(|x, y| (x * 97 + y * 61) as u8)));
        for format in [Format::Avif, Format::Webp, Format::Jpeg] {
            let native = |features| predicted(Quality::AUTO, format, Rung::Final, features).0;
            assert!((native(&easy) - native(&hard)).abs() > 0.5, "{format:?}");
        }
    }
}
