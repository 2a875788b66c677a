//! What the decoding process answers: a line of JSON, then the samples: two bytes for each pixel of a lightness, one to four of
//! colours.
//!
//! The parent believes nothing of it that it has not checked: the process has read a stranger's file.

use bildkante_shared::phash::PerceptualHash;
use image::{ColorType, DynamicImage};
use serde::{Deserialize, Serialize};

use super::{Coding, DecodeFault, Decoded, Grey, check_size, pictured};

/// Longest first line.
pub(super) const HEAD_BYTES_MAX: usize = 4096;
/// Bytes of a pixel as the detector needs it.
pub(super) const LIGHTNESS_BYTES_PER_PX: u64 = 2;
/// Most bytes of a pixel with its colours.
pub(super) const COLOURS_BYTES_PER_PX: u64 = 4;

#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Head {
    Lightness { width_px: u32, height_px: u32, phash: PerceptualHash },
    Colours { width_px: u32, height_px: u32, samples: Samples, coding: Coding },
    Fault(DecodeFault),
}

/// The bytes of a pixel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Samples {
    L8,
    La8,
    Rgb8,
    Rgba8,
}

/// Of either answer.
pub(super) type Outcome = Result<Answered, DecodeFault>;

#[derive(Debug)]
pub(super) enum Answered {
    Lightness(Grey),
    Colours(Decoded),
}

/// The first line and the samples.
pub(super) fn write(outcome: &Outcome) -> (Vec<u8>, &[u8]) {
    let (head, samples) = match outcome {
        Ok(Answered::Lightness(Grey { width_px, height_px, phash, samples })) => {
            let head = Head::Lightness { width_px: *width_px, height_px: *height_px, phash: *phash };
            (head, samples.as_slice())
        }
        Ok(Answered::Colours(Decoded { picture, coding })) => match samples_of(picture) {
            Some(samples) => {
                let (width_px, height_px, coding) = (picture.width(), picture.height(), *coding);
                (Head::Colours { width_px, height_px, samples, coding }, picture.as_bytes())
            }
            None => (Head::Fault(DecodeFault::unsupported("samples of more than 8 bits")), &[][..]),
        },
        Err(fault) => (Head::Fault(fault.clone()), &[][..]),
    };
    // Numbers, digits and short texts have a form in JSON.
    let mut line = serde_json::to_vec(&head).unwrap_or_default();
    line.push(b'\n');
    (line, samples)
}

const fn samples_of(picture: &DynamicImage) -> Option<Samples> {
    match picture {
        DynamicImage::ImageLuma8(_) => Some(Samples::L8),
        DynamicImage::ImageLumaA8(_) => Some(Samples::La8),
        DynamicImage::ImageRgb8(_) => Some(Samples::Rgb8),
        DynamicImage::ImageRgba8(_) => Some(Samples::Rgba8),
        _ => None,
    }
}

/// A lightness of at most `pixels_max`.
pub(super) fn read_lightness(answer: Vec<u8>, pixels_max: u64) -> Result<Grey, DecodeFault> {
    match parted(answer)? {
        (Head::Fault(fault), _) => Err(fault),
        (Head::Lightness { width_px, height_px, phash }, samples) => {
            check_size(width_px, height_px, pixels_max)?;
            let is_whole = samples.len() as u64 == u64::from(width_px) * u64::from(height_px) * LIGHTNESS_BYTES_PER_PX;
            is_whole.then_some(Grey { width_px, height_px, phash, samples }).ok_or_else(nonsense)
        }
        (Head::Colours { .. }, _) => Err(nonsense()),
    }
}

/// Colours of the size that the file's head says.
pub(super) fn read_colours(answer: Vec<u8>, size_px: (u32, u32)) -> Result<Decoded, DecodeFault> {
    match parted(answer)? {
        (Head::Fault(fault), _) => Err(fault),
        (Head::Colours { width_px, height_px, samples: kind, coding }, samples) if (width_px, height_px) == size_px => {
            let kind = match kind {
                Samples::L8 => ColorType::L8,
                Samples::La8 => ColorType::La8,
                Samples::Rgb8 => ColorType::Rgb8,
                Samples::Rgba8 => ColorType::Rgba8,
            };
            let whole = u64::from(width_px) * u64::from(height_px) * u64::from(kind.channel_count());
            let picture = if samples.len() as u64 == whole { pictured(size_px, kind, samples) } else { None };
            picture.map(|picture| Decoded { picture, coding }).ok_or_else(nonsense)
        }
        (Head::Colours { .. } | Head::Lightness { .. }, _) => Err(nonsense()),
    }
}

/// The head, and what follows its line.
fn parted(mut answer: Vec<u8>) -> Result<(Head, Vec<u8>), DecodeFault> {
    let head_bytes = answer.iter().take(HEAD_BYTES_MAX).position(|byte| *byte == b'\n').ok_or_else(nonsense)?;
    let head = serde_json::from_slice(&answer[..head_bytes]).map_err(|_| nonsense())?;
    answer.drain(..=head_bytes);
    Ok((head, answer))
}

fn nonsense() -> DecodeFault {
    DecodeFault::Crashed { how: "it answered nonsense".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(outcome: Result<Grey, DecodeFault>) -> Vec<u8> {
        let outcome = outcome.map(Answered::Lightness);
        let (head, samples) = write(&outcome);
        [&head, samples].concat()
    }

    #[test]
    fn pictures_and_faults_come_through() {
        let grey = Grey { width_px: 3, height_px: 2, phash: PerceptualHash::from_bytes([7; 32]), samples: vec![1; 12] };
        assert_eq!(read_lightness(answer(Ok(grey.clone())), 6), Ok(grey));
        for fault in [
            DecodeFault::Format,
            DecodeFault::TooManyPixels { width_px: 1, height_px: 2, pixels_max: 3 },
            DecodeFault::damaged("a line\nand another"),
            DecodeFault::unsupported("magic"),
        ] {
            assert_eq!(read_lightness(answer(Err(fault.clone())), 6), Err(fault.clone()));
            assert_eq!(read_colours(answer(Err(fault.clone())), (1, 1)), Err(fault));
        }
    }

    #[test]
    fn colours_come_through_with_and_without_transparency() {
        let coding = Coding { primaries: 1, transfer: 13, matrix: 6, is_full_range: true };
        for picture in [
            DynamicImage::new_luma8(3, 2),
            DynamicImage::new_luma_a8(3, 2),
            DynamicImage::new_rgb8(3, 2),
            DynamicImage::new_rgba8(3, 2),
        ] {
            let decoded = Decoded { picture, coding };
            let outcome = Ok(Answered::Colours(decoded.clone()));
            let (head, samples) = write(&outcome);
            assert_eq!(read_colours([&head, samples].concat(), (3, 2)), Ok(decoded));
            let is_refused =
                |answer, size_px| matches!(read_colours(answer, size_px), Err(DecodeFault::Crashed { .. }));
            assert!(is_refused([&head, samples].concat(), (2, 3)), "another size than the file's head says");
            assert!(is_refused([&head, &samples[1..]].concat(), (3, 2)), "a byte short");
            assert!(matches!(read_lightness([&head, samples].concat(), 6), Err(DecodeFault::Crashed { .. })));
        }
    }

    #[test]
    fn a_process_that_lies_is_not_believed() {
        let grey = Grey { width_px: 3, height_px: 2, phash: PerceptualHash::from_bytes([7; 32]), samples: vec![1; 11] };
        let is_refused = |answer: Vec<u8>| matches!(read_lightness(answer, 6), Err(DecodeFault::Crashed { .. }));
        assert!(is_refused(answer(Ok(grey.clone()))), "a byte short");
        assert!(is_refused(Vec::new()) && is_refused(b"{}\n".to_vec()) && is_refused(vec![b'x'; 9000]));
        let vast = Grey { width_px: 1 << 15, height_px: 1 << 15, samples: Vec::new(), ..grey };
        assert!(matches!(read_lightness(answer(Ok(vast)), 6), Err(DecodeFault::TooManyPixels { .. })));
    }
}
