//! What happens to pictures on their way through the web, each as a function of pixels.

use bildkante_edge::render::{CropBox, Quality, Raster, Rung, encode, encode_native, resize};
use bildkante_edge::words::Format;
use bildkante_shared::pixels::Pixels;

use crate::judges;

/// A row of the table.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Attack {
    None,
    /// Our own rendition at `q=auto`.
    Rendition(Format),
    /// The standard's own tables at this quality.
    Jpeg(u8),
    /// Our encoder, at the native quality at which this picture scores 50.
    Score50(Format),
    Scale(f32),
    /// A part of this share of the area, off the middle.
    Crop(f32),
    Brightness(f32),
    Contrast(f32),
    Saturation(f32),
    Screenshot,
    /// A screenshot not of the pixels that were marked, but of our rendition at `q=auto`.
    ScreenshotOf(Format),
    /// A rendition of the marked picture at this width and `q=auto`, as a second edge would make it.
    Second(u32, Format),
    /// In degrees about the middle.
    Rotation(f32),
    /// Of a corner, as a share of the width.
    Perspective(f32),
}

pub(crate) const ALL: [Attack; 28] = [
    Attack::None,
    Attack::Rendition(Format::Avif),
    Attack::Rendition(Format::Webp),
    Attack::Rendition(Format::Jpeg),
    Attack::Jpeg(50),
    Attack::Score50(Format::Avif),
    Attack::Score50(Format::Webp),
    Attack::Scale(0.5),
    Attack::Scale(0.77),
    Attack::Scale(1.37),
    Attack::Scale(2.0),
    Attack::Crop(0.7),
    Attack::Brightness(0.9),
    Attack::Brightness(1.1),
    Attack::Contrast(0.9),
    Attack::Contrast(1.1),
    Attack::Saturation(0.9),
    Attack::Saturation(1.1),
    Attack::Screenshot,
    Attack::ScreenshotOf(Format::Avif),
    Attack::ScreenshotOf(Format::Jpeg),
    Attack::Second(480, Format::Avif),
    Attack::Second(480, Format::Webp),
    Attack::Second(480, Format::Jpeg),
    Attack::Second(320, Format::Avif),
    Attack::Rotation(0.5),
    Attack::Rotation(2.0),
    Attack::Perspective(0.02),
];

impl Attack {
    pub(crate) fn name(self) -> String {
        match self {
            Self::None => "none".to_owned(),
            Self::Rendition(format) => format!("our {} at q=auto", format.as_str()),
            Self::Jpeg(quality) => format!("JPEG {quality}"),
            Self::Score50(format) => format!("{} at SSIMULACRA2 50", format.as_str()),
            Self::Scale(factor) => format!("scaled × {factor}"),
            Self::Crop(share) => format!("cut to {:.0} % of the area", share * 100.0),
            Self::Brightness(factor) => format!("brightness × {factor}"),
            Self::Contrast(factor) => format!("contrast × {factor}"),
            Self::Saturation(factor) => format!("saturation × {factor}"),
            Self::Screenshot => "screenshot: × 0.82, JPEG 80".to_owned(),
            Self::ScreenshotOf(format) => format!("screenshot of our {}", format.as_str()),
            Self::Second(width_px, format) => format!("second rendition: {width_px} px, {} q=auto", format.as_str()),
            Self::Rotation(degrees) => format!("turned by {degrees}°"),
            Self::Perspective(share) => format!("perspective: a corner by {:.0} %", share * 100.0),
        }
    }

    /// `original` is the picture before it was marked.
    pub(crate) fn apply(self, original: &Raster, marked: &Raster) -> Raster {
        match self {
            Self::None => marked.clone(),
            Self::Rendition(format) => rendition(marked, format),
            Self::Jpeg(quality) => standard_jpeg(marked, quality),
            Self::Score50(format) => coded(marked, format, native_for_50(original, format)),
            Self::Scale(factor) => scaled(marked, factor),
            Self::Crop(share) => cut(marked, share.sqrt()),
            Self::Brightness(factor) => recoloured(marked, |px| px.map(|value| value * factor)),
            Self::Contrast(factor) => recoloured(marked, |px| px.map(|value| (value - 128.0) * factor + 128.0)),
            Self::Saturation(factor) => recoloured(marked, |px| {
                let grey = 0.299 * px[0] + 0.587 * px[1] + 0.114 * px[2];
                px.map(|value| grey + (value - grey) * factor)
            }),
            Self::Screenshot => standard_jpeg(&scaled(marked, 0.82), 80),
            Self::ScreenshotOf(format) => Self::Screenshot.apply(original, &rendition(marked, format)),
            Self::Second(width_px, format) => {
                rendition(&scaled(marked, width_px as f32 / marked.width_px as f32), format)
            }
            Self::Rotation(degrees) => {
                let (sin, cos) = degrees.to_radians().sin_cos();
                warped(marked, |x, y| (cos * x - sin * y, sin * x + cos * y))
            }
            Self::Perspective(share) => {
                let tilt = share / marked.width_px as f32 * 2.0;
                warped(marked, |x, y| (x / (1.0 + tilt * (x + y)), y / (1.0 + tilt * (x + y))))
            }
        }
    }
}

pub(crate) fn rendition(raster: &Raster, format: Format) -> Raster {
    judges::decoded(format, &encode(raster, format, Quality::AUTO, Rung::Final).expect("a picture that encodes").file)
}

fn coded(raster: &Raster, format: Format, native: f32) -> Raster {
    judges::decoded(format, &encode_native(raster, format, native, Rung::Quick).expect("a picture that encodes").file)
}

/// By halving the range seven times.
fn native_for_50(original: &Raster, format: Format) -> f32 {
    let (mut low, mut high) = (0.0, 100.0);
    for _ in 0..7 {
        let native = (low + high) / 2.0;
        let is_below = judges::ssimulacra2(original, &coded(original, format, native)) < 50.0;
        (low, high) = if is_below { (native, high) } else { (low, native) };
    }
    high
}

fn standard_jpeg(raster: &Raster, quality: u8) -> Raster {
    let mut file = Vec::new();
    image::codecs::jpeg::JpegEncoder::new_with_quality(&mut file, quality)
        .encode(&raster.rgb, raster.width_px, raster.height_px, image::ExtendedColorType::Rgb8)
        .expect("a picture that encodes");
    judges::decoded(Format::Jpeg, &file)
}

fn cropped(raster: &Raster, crop: CropBox, width_px: u32, height_px: u32) -> Raster {
    let pixels = Pixels::new(raster.width_px, raster.height_px, raster.rgb.clone()).expect("the size of a master");
    resize(&pixels, crop, width_px, height_px).expect("a crop inside the picture")
}

fn scaled(raster: &Raster, factor: f32) -> Raster {
    let whole = CropBox { left_px: 0, top_px: 0, width_px: raster.width_px, height_px: raster.height_px };
    let side = |px: u32| (px as f32 * factor).round() as u32;
    cropped(raster, whole, side(raster.width_px), side(raster.height_px))
}

fn cut(raster: &Raster, factor: f32) -> Raster {
    let side = |px: u32| (px as f32 * factor) as u32;
    let (width_px, height_px) = (side(raster.width_px), side(raster.height_px));
    let (left_px, top_px) = ((raster.width_px - width_px) * 3 / 8, (raster.height_px - height_px) * 4 / 5);
    cropped(raster, CropBox { left_px, top_px, width_px, height_px }, width_px, height_px)
}

fn recoloured(raster: &Raster, change: impl Fn([f32; 3]) -> [f32; 3]) -> Raster {
    let changed = raster.rgb.chunks_exact(3).flat_map(|px| change([px[0], px[1], px[2]].map(f32::from)));
    Raster { rgb: changed.map(|value| value.round().clamp(0.0, 255.0) as u8).collect(), ..*raster }
}

/// Each pixel from a place that is given from the middle, read between pixels; black outside.
fn warped(raster: &Raster, from: impl Fn(f32, f32) -> (f32, f32)) -> Raster {
    let (width, height) = (raster.width_px as f32, raster.height_px as f32);
    let mut rgb = Vec::with_capacity(raster.rgb.len());
    for y in 0..raster.height_px {
        for x in 0..raster.width_px {
            let (u, v) = from(x as f32 + 0.5 - width / 2.0, y as f32 + 0.5 - height / 2.0);
            rgb.extend(between(raster, u + width / 2.0 - 0.5, v + height / 2.0 - 0.5));
        }
    }
    Raster { rgb, ..*raster }
}

fn between(raster: &Raster, x: f32, y: f32) -> [u8; 3] {
    let (left, top) = (x.floor(), y.floor());
    let pixel = |x: f32, y: f32| {
        let is_inside = x >= 0.0 && y >= 0.0 && x < raster.width_px as f32 && y < raster.height_px as f32;
        let at = if is_inside { (y as usize * raster.width_px as usize + x as usize) * 3 } else { return [0.0; 3] };
        [raster.rgb[at], raster.rgb[at + 1], raster.rgb[at + 2]].map(f32::from)
    };
    let (right, down) = (x - left, y - top);
    let corners = [pixel(left, top), pixel(left + 1.0, top), pixel(left, top + 1.0), pixel(left + 1.0, top + 1.0)];
    let weights = [(1.0 - right) * (1.0 - down), right * (1.0 - down), (1.0 - right) * down, right * down];
    std::array::from_fn(|i| corners.iter().zip(weights).map(|(c, w)| c[i] * w).sum::<f32>().round() as u8)
}
