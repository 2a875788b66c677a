//! AVIF files that people bring, as originals and as layers: decoded in a process of its own, and what their colours mean.
//!
//! Colours are those of the ICC profile where there is one, else those of the code points of ITU-T H.273. The curves of video
//! (BT.601, BT.709, BT.2020) are taken for sRGB's, as browsers do. High dynamic range and film are refused by name.

use std::time::Duration;

use moxcms::{CicpColorPrimaries, CicpProfile, ColorProfile, MatrixCoefficients, TransferCharacteristics};

use crate::decoding::{AvifHead, Coding, DecodeFault, DecodeLimits, Decoded, DecoderCommand, Sandbox};

/// Largest area of an AVIF: what AV1's levels and AVIF's advanced profile allow.
pub(in crate::render) const AVIF_AREA_PX_MAX: u64 = 35_651_584;
/// Longest that one may take to decode.
const DECODE_TIME_MAX: Duration = Duration::from_secs(30);

/// The picture that a head promises.
pub(in crate::render) fn decoded<F>(file: F, head: &AvifHead, decoder: &DecoderCommand) -> Result<Decoded, DecodeFault>
where
    F: AsRef<[u8]> + Send + 'static,
{
    let file_bytes_max = file.as_ref().len();
    let limits = DecodeLimits { file_bytes_max, pixels_max: head.area_px, deadline: DECODE_TIME_MAX };
    Sandbox::new(decoder.clone(), limits).colours(file, head)
}

/// What the samples mean; `None`: sRGB.
///
/// # Errors
/// Says why it cannot be used.
pub(in crate::render) fn profile(icc: Option<&[u8]>, coding: Option<Coding>) -> Result<Option<ColorProfile>, String> {
    match (icc, coding) {
        (Some(icc), _) => ColorProfile::new_from_slice(icc).map(Some).map_err(|error| error.to_string()),
        (None, Some(coding)) => of_code_points(coding),
        (None, None) => Ok(None),
    }
}

fn of_code_points(coding: Coding) -> Result<Option<ColorProfile>, String> {
    use TransferCharacteristics as Transfer;
    let transfer = match coding.transfer {
        1 | 2 | 6 | 13..=15 => Transfer::Srgb,
        4 => Transfer::Bt470M,
        5 => Transfer::Bt470Bg,
        7 => Transfer::Smpte240,
        8 => Transfer::Linear,
        16 => return Err("its samples are of high dynamic range (PQ)".to_owned()),
        18 => return Err("its samples are of high dynamic range (HLG)".to_owned()),
        other => return Err(format!("transfer characteristics {other} are not converted")),
    };
    let primaries = match coding.primaries {
        1 | 2 => CicpColorPrimaries::Bt709,
        4 => CicpColorPrimaries::Bt470M,
        5 => CicpColorPrimaries::Bt470Bg,
        6 | 7 => CicpColorPrimaries::Bt601,
        9 => CicpColorPrimaries::Bt2020,
        11 => CicpColorPrimaries::Smpte431,
        12 => CicpColorPrimaries::Smpte432,
        22 => CicpColorPrimaries::Ebu3213,
        other => return Err(format!("colour primaries {other} are not converted")),
    };
    if primaries == CicpColorPrimaries::Bt709 && transfer == Transfer::Srgb {
        return Ok(None);
    }
    Ok(Some(ColorProfile::new_from_cicp(CicpProfile {
        color_primaries: primaries,
        transfer_characteristics: transfer,
        matrix_coefficients: MatrixCoefficients::Identity,
        full_range: true,
    })))
}

/// What is told of the code points that stand in the place of a profile.
pub(in crate::render) fn name_of(coding: Coding) -> Option<String> {
    let is_srgb = matches!((coding.primaries, coding.transfer), (1 | 2, 1 | 2 | 6 | 13..=15));
    let primaries = match coding.primaries {
        1 | 2 => "BT.709".to_owned(),
        9 => "BT.2020".to_owned(),
        11 => "DCI-P3".to_owned(),
        12 => "Display P3".to_owned(),
        other => format!("primaries {other}"),
    };
    let transfer = match coding.transfer {
        1 | 2 | 6 | 13..=15 => "sRGB curve".to_owned(),
        8 => "linear".to_owned(),
        16 => "PQ".to_owned(),
        18 => "HLG".to_owned(),
        other => format!("transfer {other}"),
    };
    (!is_srgb).then(|| format!("{primaries}, {transfer}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SRGB: Coding = Coding { primaries: 1, transfer: 13, matrix: 6, is_full_range: true };

    #[test]
    fn what_is_srgb_or_video_is_left_and_the_rest_is_converted_or_refused_by_name() {
        let of = |primaries, transfer| profile(None, Some(Coding { primaries, transfer, ..SRGB }));
        assert!(matches!(of(1, 13), Ok(None)) && matches!(of(2, 2), Ok(None)) && matches!(of(1, 1), Ok(None)));
        assert!(matches!(profile(None, None), Ok(None)));
        assert!(matches!(of(12, 13), Ok(Some(_))) && matches!(of(9, 8), Ok(Some(_))));
        assert!(of(9, 16).is_err_and(|why| why.contains("PQ")) && of(9, 18).is_err_and(|why| why.contains("HLG")));
        assert!(of(10, 13).is_err_and(|why| why.contains("primaries 10")) && of(1, 17).is_err());
        assert!(profile(Some(&[7; 200]), Some(SRGB)).is_err(), "a profile goes before the code points");
        assert_eq!(name_of(SRGB), None);
        assert_eq!(name_of(Coding { primaries: 12, ..SRGB }).as_deref(), Some("Display P3, sRGB curve"));
    }
}
