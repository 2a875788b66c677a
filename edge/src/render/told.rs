//! What an original is before it is decoded: size, samples, colour profile, orientation. For people who are about to import it.
//!
//! Invariants: bounded as decoding is, and nothing is decoded; texts that the file brings are bounded and hold no control characters.

use image::metadata::Orientation;
use moxcms::{ColorProfile, ProfileText};

use super::original::{Opened, OriginalError, OriginalFormat, Samples, coding_name};

/// Longest name of a profile that is told, in characters.
const NAME_CHARS_MAX: usize = 120;

/// See the module's documentation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OriginalFacts {
    pub format: OriginalFormat,
    /// As the samples lie in the file; of an AVIF as it is shown.
    pub width_px: u32,
    pub height_px: u32,
    /// As the decoder calls them: `Rgb8`, `L16`.
    pub samples: String,
    pub profile: ToldProfile,
    pub turn: Turn,
}

/// Which colour profile a file has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToldProfile {
    /// It is taken for sRGB.
    None,
    /// Its inks become light as in browsers: each takes its part. Nothing says how they look in print.
    NoneOfInks,
    Named(String),
    /// There is one, and it cannot be read.
    Damaged,
}

/// How its Exif block has a picture turned. The import applies it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    AsItIs,
    /// The value of the tag.
    Turned(u8),
}

/// # Errors
/// When the file is over a limit, is of another format, or its head is damaged.
pub fn original_facts(file: &[u8]) -> Result<OriginalFacts, OriginalError> {
    let Opened { format, width_px, height_px, orientation, profile, samples } = Opened::read(file)?;
    let turn = match orientation {
        Orientation::NoTransforms => Turn::AsItIs,
        turned => Turn::Turned(turned.to_exif()),
    };
    let profile = match (profile, &samples) {
        (Ok(None), Samples::Light(_)) => ToldProfile::None,
        (Ok(None), Samples::Inks(_)) => ToldProfile::NoneOfInks,
        (Ok(None), Samples::Coded(head)) => {
            head.coding.and_then(coding_name).map_or(ToldProfile::None, ToldProfile::Named)
        }
        (Ok(Some(bytes)), _) => ColorProfile::new_from_slice(&bytes).map_or(ToldProfile::Damaged, |it| named(&it)),
        (Err(_), _) => ToldProfile::Damaged,
    };
    Ok(OriginalFacts { format, width_px, height_px, samples: samples.words(), profile, turn })
}

fn named(profile: &ColorProfile) -> ToldProfile {
    let name = match &profile.description {
        Some(ProfileText::PlainString(text)) => text.clone(),
        Some(ProfileText::Localizable(texts)) => texts.first().map(|text| text.value.clone()).unwrap_or_default(),
        Some(ProfileText::Description(text)) => text.ascii_string.clone(),
        None => String::new(),
    };
    let name: String = name.chars().filter(|c| !c.is_control()).take(NAME_CHARS_MAX).collect();
    ToldProfile::Named(if name.trim().is_empty() { format!("{:?}", profile.color_space) } else { name })
}

#[cfg(test)]
mod tests {
    use image::codecs::png::PngEncoder;
    use image::{ExtendedColorType, ImageEncoder};

    use super::*;

    #[test]
    fn a_file_tells_its_size_profile_and_orientation() {
        let (mut file, mut plain) = (Vec::new(), Vec::new());
        let mut encoder = PngEncoder::new(&mut file);
        encoder.set_icc_profile(ColorProfile::new_srgb().encode().expect("a profile")).expect("taken");
        let exif = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0".to_vec();
        encoder.set_exif_metadata(exif).expect("taken");
        encoder.write_image(&[0; 6], 2, 1, ExtendedColorType::Rgb8).expect("written");
        PngEncoder::new(&mut plain).write_image(&[0; 6], 2, 1, ExtendedColorType::Rgb8).expect("written");
        let told = original_facts(&file).expect("told");
        assert_eq!((told.width_px, told.height_px, told.samples.as_str()), (2, 1, "Rgb8"));
        assert_eq!(told.turn, Turn::Turned(6));
        assert!(matches!(&told.profile, ToldProfile::Named(name) if name.contains("RGB")), "{:?}", told.profile);
        let told = original_facts(&plain).expect("told");
        assert_eq!((told.turn, told.profile), (Turn::AsItIs, ToldProfile::None));
        assert!(original_facts(b"no picture").is_err());
    }
}
