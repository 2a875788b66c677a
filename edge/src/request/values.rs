//! Values of rendition parameters: strict, each with its one printed form.

use std::borrow::Cow;
use std::fmt;

use super::error::{RequestError, excerpt};
use super::parameters::Parameter;
use super::save_data::SavingAsk;
use crate::render::Quality;
use crate::words::{Format, Ratio, WIDTH_PX_MAX};

/// Longest version, key id or signature.
const TOKEN_BYTES_MAX: usize = 128;

/// `w`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WidthAsk {
    /// 1–8192 CSS pixels.
    Px(u32),
    /// The client's hints decide, the slot's default width where it sends none.
    Auto,
}

impl fmt::Display for WidthAsk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Px(px) => px.fmt(f),
            Self::Auto => f.write_str("auto"),
        }
    }
}

const DPR_MIN: u16 = 500;
const DPR_MAX: u16 = 5000;

/// `dpr`, in thousandths from 500 to 5000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Dpr(u16);

impl Dpr {
    pub const ONE: Self = Self(1000);

    /// Device pixels for CSS pixels, rounded up.
    #[must_use]
    pub const fn device_px(self, css_px: u32) -> u32 {
        css_px.saturating_mul(self.0 as u32).div_ceil(1000)
    }

    /// CSS pixels of device pixels, rounded up.
    #[must_use]
    pub const fn css_px(self, device_px: u32) -> u32 {
        device_px.saturating_mul(1000).div_ceil(self.0 as u32)
    }
}

impl Dpr {
    /// A client's own ratio, brought within the bounds of `dpr`; `None` for what is no positive number below 10.
    #[must_use]
    pub fn of_hint(value: &str) -> Option<Self> {
        decimal(value).filter(|dpr| *dpr > 0).map(|dpr| Self(dpr.clamp(DPR_MIN, DPR_MAX)))
    }
}

impl fmt::Display for Dpr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&thousandths(self.0))
    }
}

/// `fp-x` and `fp-y`: a place from 0 to 1, in thousandths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FocalCoordinate(u16);

impl FocalCoordinate {
    #[must_use]
    pub const fn thousandths(self) -> u16 {
        self.0
    }
}

impl fmt::Display for FocalCoordinate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&thousandths(self.0))
    }
}

/// `fit`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Fit {
    /// Fill the box, cut what is over: what slots do by themselves.
    #[default]
    Cover,
    /// Lie in the box, whole.
    Contain,
    /// The same, never enlarged.
    ScaleDown,
    /// As `Cover`, never enlarged.
    Crop,
    /// As `Contain`, the rest of the box in a colour; imgix calls it `fill`.
    Pad,
    /// As `Pad`, never enlarged; imgix's word.
    FillMax,
}

impl Fit {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cover => "cover",
            Self::Contain => "contain",
            Self::ScaleDown => "scale-down",
            Self::Crop => "crop",
            Self::Pad => "pad",
            Self::FillMax => "fillmax",
        }
    }
}

/// `crop`: what a cut keeps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Crop {
    #[default]
    Center,
    /// One edge, or one of each direction.
    Edges {
        horizontal: Option<Horizontal>,
        vertical: Option<Vertical>,
    },
    Entropy,
    /// The place `fp-x`, `fp-y`.
    FocalPoint,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Horizontal {
    Left,
    Right,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Vertical {
    Top,
    Bottom,
}

impl fmt::Display for Crop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Center => "center",
            Self::Entropy => "entropy",
            Self::FocalPoint => "focalpoint",
            Self::Edges { horizontal, vertical } => match (vertical, horizontal) {
                (Some(Vertical::Top), None) => "top",
                (Some(Vertical::Bottom), None) => "bottom",
                (None, Some(Horizontal::Left)) => "left",
                (None, Some(Horizontal::Right)) => "right",
                (Some(Vertical::Top), Some(Horizontal::Left)) => "top,left",
                (Some(Vertical::Top), Some(Horizontal::Right)) => "top,right",
                (Some(Vertical::Bottom), Some(Horizontal::Left)) => "bottom,left",
                (Some(Vertical::Bottom), Some(Horizontal::Right)) => "bottom,right",
                (None, None) => "center",
            },
        })
    }
}

/// `fm`, or an extension: what the URL says about the format.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum FormatAsk {
    /// Negotiated by `Accept`; every outcome varies on it.
    #[default]
    Auto,
    /// `fm=` or an extension.
    Explicit(Format),
}

impl FormatAsk {
    /// Whether responses carry `Vary: Accept`.
    #[must_use]
    pub const fn is_negotiable(self) -> bool {
        matches!(self, Self::Auto)
    }
}

/// `q`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum QualityAsk {
    #[default]
    Auto,
    High,
    Medium,
    Low,
    /// 1–100: outside the finite set unless the slot lists it.
    Number(Quality),
}

impl QualityAsk {
    /// The target on the perceptual scale.
    #[must_use]
    pub const fn quality(self) -> Quality {
        match self {
            Self::Auto => Quality::AUTO,
            Self::High => Quality::HIGH,
            Self::Medium => Quality::MEDIUM,
            Self::Low => Quality::LOW,
            Self::Number(quality) => quality,
        }
    }
}

impl fmt::Display for QualityAsk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::High => f.write_str("high"),
            Self::Medium => f.write_str("medium"),
            Self::Low => f.write_str("low"),
            Self::Number(quality) => quality.get().fmt(f),
        }
    }
}

/// `bg`: an sRGB colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Background(pub [u8; 3]);

impl fmt::Display for Background {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [red, green, blue] = self.0;
        write!(f, "{red:02x}{green:02x}{blue:02x}")
    }
}

const WIDTH_WORDS: &[&str] = &["1…8192", "auto"];
const FIT_WORDS: &[&str] = &["cover", "contain", "scale-down", "crop", "pad", "fillmax"];
const CROP_WORDS: &[&str] = &["center", "top", "bottom", "left", "right", "entropy", "focalpoint"];
const FORMAT_WORDS: &[&str] = &["auto", "avif", "webp", "jpg", "png"];
const QUALITY_WORDS: &[&str] = &["auto", "high", "medium", "low", "1…100"];

/// The error for a value that a parameter does not take.
pub(super) fn malformed(parameter: Parameter, value: &str) -> RequestError {
    let (expected, allowed): (&'static str, &'static [&'static str]) = match parameter {
        Parameter::Width => ("a whole number of pixels or `auto`", WIDTH_WORDS),
        Parameter::Height => ("a whole number of pixels", &["1…8192"]),
        Parameter::Dpr => ("a number of device pixels", &["0.5…5"]),
        Parameter::AspectRatio => ("a ratio such as `16:9`", &[]),
        Parameter::Fit => ("one of a few words", FIT_WORDS),
        Parameter::Crop => ("one of a few words", CROP_WORDS),
        Parameter::FocalX | Parameter::FocalY => ("a number", &["0…1"]),
        Parameter::Format => ("a format", FORMAT_WORDS),
        Parameter::Quality => ("one of a few words or a number", QUALITY_WORDS),
        Parameter::SaveData => ("`auto`: the client's `Save-Data` counts", &["auto"]),
        Parameter::Background => ("a colour as RRGGBB", &[]),
        Parameter::Metadata => ("one of a few words", &["provenance"]),
        Parameter::Auto => ("a list of a few words", &["format", "compress"]),
        Parameter::Expires => ("a whole number of seconds since 1970", &[]),
        Parameter::Version | Parameter::KeyId | Parameter::Signature => ("letters, digits, `-`, `_`, `.` and `=`", &[]),
    };
    RequestError::Malformed {
        parameter: parameter.name(),
        expected,
        value: excerpt(value),
        allowed: Cow::Borrowed(allowed),
    }
}

pub(super) fn width(value: &str) -> Result<WidthAsk, RequestError> {
    if value.eq_ignore_ascii_case("auto") {
        return Ok(WidthAsk::Auto);
    }
    pixels(value).map(WidthAsk::Px).ok_or_else(|| malformed(Parameter::Width, value))
}

pub(super) fn height(value: &str) -> Result<u32, RequestError> {
    pixels(value).ok_or_else(|| malformed(Parameter::Height, value))
}

fn pixels(value: &str) -> Option<u32> {
    whole(value).and_then(|number| u32::try_from(number).ok()).filter(|px| (1..=WIDTH_PX_MAX).contains(px))
}

/// Digits without sign or leading zero.
fn whole(value: &str) -> Option<u64> {
    let is_plain = value.bytes().all(|byte| byte.is_ascii_digit()) && !(value.len() > 1 && value.starts_with('0'));
    if is_plain { value.parse().ok() } else { None }
}

/// A decimal in thousandths, rounded; browsers report ratios such as `1.3312499523162842`.
fn decimal(value: &str) -> Option<u16> {
    let (whole_part, decimals) = value.split_once('.').unwrap_or((value, "0"));
    let is_decimals = (1..=24).contains(&decimals.len()) && decimals.bytes().all(|byte| byte.is_ascii_digit());
    let whole_part = whole(whole_part).filter(|whole| *whole <= 9 && is_decimals)?;
    let digit = |at: usize| u16::from(decimals.as_bytes().get(at).map_or(0, |byte| byte - b'0'));
    let rounding = u16::from(digit(3) >= 5);
    let whole_part = u16::try_from(whole_part).ok()?;
    Some(whole_part * 1000 + digit(0) * 100 + digit(1) * 10 + digit(2) + rounding)
}

/// `2`, `1.5`, `0.125`.
fn thousandths(number: u16) -> String {
    if number.is_multiple_of(1000) {
        return (number / 1000).to_string();
    }
    let text = format!("{}.{:03}", number / 1000, number % 1000);
    text.trim_end_matches('0').to_owned()
}

pub(super) fn dpr(value: &str) -> Result<Dpr, RequestError> {
    let dpr = decimal(value).filter(|dpr| (DPR_MIN..=DPR_MAX).contains(dpr));
    dpr.map(Dpr).ok_or_else(|| malformed(Parameter::Dpr, value))
}

pub(super) fn focal(parameter: Parameter, value: &str) -> Result<FocalCoordinate, RequestError> {
    let place = decimal(value).filter(|place| *place <= 1000);
    place.map(FocalCoordinate).ok_or_else(|| malformed(parameter, value))
}

/// `16:9`, and `1.91:1` as people who lay out pages write it.
pub(super) fn ratio(value: &str) -> Result<Ratio, RequestError> {
    let decimals = || {
        let (width, height) = value.split_once(':')?;
        let part = |text| decimal(text).map(u32::from);
        Ratio::new(part(width)?, part(height)?).ok()
    };
    value.parse().ok().or_else(decimals).ok_or_else(|| malformed(Parameter::AspectRatio, value))
}

pub(super) fn fit(value: &str) -> Result<Fit, RequestError> {
    const NAMES: [(&str, Fit); 10] = [
        ("cover", Fit::Cover),
        ("contain", Fit::Contain),
        ("scale-down", Fit::ScaleDown),
        ("crop", Fit::Crop),
        ("pad", Fit::Pad),
        ("fillmax", Fit::FillMax),
        // imgix's other names. What `tests/unpic/fit.json` says of each is from its documentation.
        ("fill", Fit::Pad),
        ("clip", Fit::Contain),
        ("max", Fit::ScaleDown),
        ("min", Fit::Crop),
    ];
    let known = NAMES.iter().find(|(name, _)| name.eq_ignore_ascii_case(value)).map(|(_, fit)| *fit);
    known.ok_or_else(|| malformed(Parameter::Fit, value))
}

pub(super) fn crop(value: &str) -> Result<Crop, RequestError> {
    const WORDS: [(&str, Crop); 4] = [
        ("center", Crop::Center),
        ("entropy", Crop::Entropy),
        // imgix looks for edges there; what is busy has them.
        ("edges", Crop::Entropy),
        ("focalpoint", Crop::FocalPoint),
    ];
    for (word, crop) in WORDS {
        if value.eq_ignore_ascii_case(word) {
            return Ok(crop);
        }
    }
    let (mut horizontal, mut vertical) = (None, None);
    for edge in value.split(',') {
        let is = |word: &str| edge.eq_ignore_ascii_case(word);
        let replaced = if is("left") || is("right") {
            horizontal.replace(if is("left") { Horizontal::Left } else { Horizontal::Right }).is_some()
        } else if is("top") || is("bottom") {
            vertical.replace(if is("top") { Vertical::Top } else { Vertical::Bottom }).is_some()
        } else {
            true
        };
        if replaced {
            return Err(malformed(Parameter::Crop, value));
        }
    }
    Ok(Crop::Edges { horizontal, vertical })
}

pub(super) fn format(value: &str) -> Result<FormatAsk, RequestError> {
    if value.eq_ignore_ascii_case("auto") {
        return Ok(FormatAsk::Auto);
    }
    // imgix's progressive JPEG: every final one is.
    let name = if value.eq_ignore_ascii_case("pjpg") { "jpg" } else { value };
    Format::from_name(name).map(FormatAsk::Explicit).ok_or_else(|| malformed(Parameter::Format, value))
}

pub(super) fn quality(value: &str) -> Result<QualityAsk, RequestError> {
    let words = [
        ("auto", QualityAsk::Auto),
        ("high", QualityAsk::High),
        ("medium", QualityAsk::Medium),
        ("low", QualityAsk::Low),
    ];
    if let Some((_, ask)) = words.into_iter().find(|(word, _)| value.eq_ignore_ascii_case(word)) {
        return Ok(ask);
    }
    let number = whole(value).and_then(|number| u8::try_from(number).ok()).and_then(Quality::new);
    number.map(QualityAsk::Number).ok_or_else(|| malformed(Parameter::Quality, value))
}

pub(super) fn background(value: &str) -> Result<Background, RequestError> {
    let is_hex = value.len() == 6 && value.bytes().all(|byte| byte.is_ascii_hexdigit());
    let number = if is_hex { u32::from_str_radix(value, 16).ok() } else { None };
    let number = number.ok_or_else(|| malformed(Parameter::Background, value))?;
    let [_, red, green, blue] = number.to_be_bytes();
    Ok(Background([red, green, blue]))
}

/// Generated images are always marked; nothing less can be asked for yet.
pub(super) fn metadata(value: &str) -> Result<(), RequestError> {
    if value.eq_ignore_ascii_case("provenance") { Ok(()) } else { Err(malformed(Parameter::Metadata, value)) }
}

pub(super) fn auto(value: &str) -> Result<(), RequestError> {
    let is_known = |word: &str| ["format", "compress", "true"].iter().any(|known| known.eq_ignore_ascii_case(word));
    if value.split(',').all(is_known) { Ok(()) } else { Err(malformed(Parameter::Auto, value)) }
}

pub(super) fn saving(value: &str) -> Result<SavingAsk, RequestError> {
    if value.eq_ignore_ascii_case("auto") { Ok(SavingAsk::Client) } else { Err(malformed(Parameter::SaveData, value)) }
}

pub(super) fn expires(value: &str) -> Result<u64, RequestError> {
    let seconds = whole(value).filter(|seconds| value.len() <= 12 && *seconds > 0);
    seconds.ok_or_else(|| malformed(Parameter::Expires, value))
}

pub(super) fn token(parameter: Parameter, value: Cow<'_, str>) -> Result<Cow<'_, str>, RequestError> {
    if is_token(&value) { Ok(value) } else { Err(malformed(parameter, &value)) }
}

/// Whether a text may stand as `v`, `kid` or `s`: nothing in it needs escaping in a query.
pub(crate) fn is_token(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'=');
    (1..=TOKEN_BYTES_MAX).contains(&text.len()) && text.bytes().all(is_plain)
}
