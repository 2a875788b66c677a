//! Where a layer lies: anchors in the safe area, lengths in shares of the picture, and boxes in pixels.
//!
//! Shares are whole ten-thousandths, so that a place does not depend on how a processor rounds.

use std::fmt;

use serde::Serialize;

/// All of a side, in ten-thousandths.
pub(super) const WHOLE: i64 = 10_000;
/// Longest length in pixels.
pub(super) const LENGTH_PX_MAX: u32 = crate::render::RENDITION_SIDE_PX_MAX;
/// How many of the picture's sides a side of a layer may have that follows from its shape.
const OVERHANG_MAX: i64 = 2;
/// Widest inset of a safe area: two of them leave a fifth of the side.
pub const INSET_MAX: u32 = 4000;

/// Which way a language is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    #[default]
    Ltr,
    Rtl,
}

/// A length along one side of the picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Length {
    /// In ten-thousandths of the side.
    Share(i32),
    /// In pixels of the rendition.
    Px(i32),
}

impl Length {
    pub const ZERO: Self = Self::Px(0);

    /// `12.5%` or `24px`, of either sign.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(percent) = text.strip_suffix('%') {
            let percent: f64 = percent.trim_end().parse().ok()?;
            #[allow(clippy::cast_possible_truncation, reason = "at most a million")]
            return (percent.abs() <= 100.0).then(|| Self::Share((percent * 100.0).round() as i32));
        }
        let px: i32 = text.strip_suffix("px")?.trim_end().parse().ok()?;
        (px.unsigned_abs() <= LENGTH_PX_MAX).then_some(Self::Px(px))
    }

    #[must_use]
    pub const fn is_positive(self) -> bool {
        match self {
            Self::Share(value) | Self::Px(value) => value > 0,
        }
    }

    /// Of a side of that many pixels, in ten-thousandths of a pixel.
    fn exact(self, side: i64) -> i64 {
        match self {
            Self::Share(share) => side * i64::from(share),
            Self::Px(px) => i64::from(px) * WHOLE,
        }
    }

    /// The same where a pixel becomes `wide` of `of` pixels, rounded to the nearest.
    pub(super) fn enlarged(self, wide: u32, of: u32) -> Self {
        let Self::Px(px) = self else { return self };
        let (twice, of) = (2 * i64::from(px) * i64::from(wide), i64::from(of.max(1)));
        let most = i64::from(LENGTH_PX_MAX);
        let px = ((twice + of * twice.signum()) / (2 * of)).clamp(-most, most);
        Self::Px(i32::try_from(px).unwrap_or_default())
    }

    /// Of a side of that many pixels, rounded to the nearest.
    pub(super) fn px(self, side: i64) -> i64 {
        match self {
            Self::Share(share) => share_of(side, i64::from(share)),
            Self::Px(px) => i64::from(px),
        }
    }
}

impl fmt::Display for Length {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Share(share) => write!(f, "{}%", f64::from(*share) / 100.0),
            Self::Px(px) => write!(f, "{px}px"),
        }
    }
}

/// Rounded to the nearest, halves away from zero.
pub(super) fn share_of(side: i64, share: i64) -> i64 {
    let twice = 2 * side * share;
    let half = WHOLE * twice.signum();
    (twice + half) / (2 * WHOLE)
}

/// Ten-thousandths of a pixel as the nearest whole pixel.
const fn whole_px(exact: i64) -> i64 {
    (exact + WHOLE / 2).div_euclid(WHOLE)
}

/// A size with its bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Extent {
    pub length: Length,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<Length>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<Length>,
}

impl Extent {
    #[must_use]
    pub const fn of(length: Length) -> Self {
        Self { length, min: None, max: None }
    }

    /// At least one pixel, and at most the side: a length in pixels never costs more than the picture has. Where both
    /// bounds contradict, the upper one holds.
    pub(super) fn px(self, side: i64) -> i64 {
        let least = self.min.map_or(1, |min| min.px(side));
        let most = self.max.map_or(side, |max| max.px(side));
        self.length.px(side).max(least).min(most).clamp(1, side.max(1))
    }
}

/// A place along one side.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Along {
    /// Left, or right where the language is written from there; above.
    Start,
    #[default]
    Centre,
    End,
}

impl Along {
    const fn mirrored(self, direction: Direction) -> Self {
        match (self, direction) {
            (Self::Start, Direction::Rtl) => Self::End,
            (Self::End, Direction::Rtl) => Self::Start,
            (along, _) => along,
        }
    }

    /// Where a length begins in a room, in one unit.
    const fn begin(self, room: i64, length: i64) -> i64 {
        match self {
            Self::Start => 0,
            Self::Centre => (room - length) / 2,
            Self::End => room - length,
        }
    }
}

/// A corner, an edge or the middle of the safe area.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct LayerAnchor {
    pub x: Along,
    pub y: Along,
}

impl LayerAnchor {
    const NAMED: [(&'static str, Along, Along); 9] = [
        ("top-start", Along::Start, Along::Start),
        ("top", Along::Centre, Along::Start),
        ("top-end", Along::End, Along::Start),
        ("start", Along::Start, Along::Centre),
        ("centre", Along::Centre, Along::Centre),
        ("end", Along::End, Along::Centre),
        ("bottom-start", Along::Start, Along::End),
        ("bottom", Along::Centre, Along::End),
        ("bottom-end", Along::End, Along::End),
    ];

    /// Every name with its anchor.
    #[must_use]
    pub fn named() -> [(&'static str, Self); 9] {
        Self::NAMED.map(|(name, x, y)| (name, Self { x, y }))
    }
}

/// Where a layer lies in the safe area, and how large it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Placing {
    pub anchor: LayerAnchor,
    /// Away from the anchor's edge, into the picture; to the end and down from a middle. Shares of the picture's width and height.
    pub offset: [Length; 2],
    #[serde(skip_serializing_if = "Option::is_none")]
    pub width: Option<Extent>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub height: Option<Extent>,
}

impl Placing {
    #[must_use]
    pub const fn at(anchor: LayerAnchor) -> Self {
        Self { anchor, offset: [Length::ZERO; 2], width: None, height: None }
    }
}

/// What is left free at every edge, in ten-thousandths of the side.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Insets {
    pub top: u32,
    pub end: u32,
    pub bottom: u32,
    pub start: u32,
}

/// The picture that layers are placed on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame {
    pub(super) width: i64,
    pub(super) height: i64,
    pub(super) safe: Area,
    /// From the left and from above to where the safe area begins, and how large it is, in ten-thousandths of a pixel.
    exact: [(i64, i64); 2],
    pub(super) direction: Direction,
}

impl Frame {
    pub(super) fn new((width_px, height_px): (u32, u32), insets: Insets, direction: Direction) -> Self {
        let (width, height) = (i64::from(width_px), i64::from(height_px));
        let (left, right) = match direction {
            Direction::Ltr => (insets.start, insets.end),
            Direction::Rtl => (insets.end, insets.start),
        };
        let between = |side: i64, before: u32, after: u32| {
            let (before, after) = (side * i64::from(before), side * i64::from(after));
            (before, side * WHOLE - before - after)
        };
        let exact = [between(width, left, right), between(height, insets.top, insets.bottom)];
        let [(left, safe_width), (top, safe_height)] =
            exact.map(|(begin, room)| (whole_px(begin), whole_px(room).max(1)));
        let safe = Area { left, top, width: safe_width, height: safe_height };
        Self { width, height, safe, exact, direction }
    }

    /// The wanted size; `None` where a side follows from the layer itself.
    pub(super) fn size(&self, placing: &Placing) -> (Option<i64>, Option<i64>) {
        (placing.width.map(|extent| extent.px(self.width)), placing.height.map(|extent| extent.px(self.height)))
    }

    /// The box that a picture is fitted into; a side that follows from its shape may reach out of this one.
    pub(super) fn box_of_picture(&self, placing: &Placing) -> (i64, i64) {
        match self.size(placing) {
            (None, None) => (self.safe.width, self.safe.height),
            (width, height) => {
                (width.unwrap_or(self.width * OVERHANG_MAX), height.unwrap_or(self.height * OVERHANG_MAX))
            }
        }
    }

    /// Where something of that size lies.
    pub(super) fn place(&self, placing: &Placing, (width, height): (i64, i64)) -> Area {
        let x = placing.anchor.x.mirrored(self.direction);
        let y = placing.anchor.y;
        let [dx, dy] = [placing.offset[0].exact(self.width), placing.offset[1].exact(self.height)];
        let towards_end = if self.direction == Direction::Rtl { -dx } else { dx };
        let inward = |along: Along, centre: i64, offset: i64| match along {
            Along::Start => offset,
            Along::Centre => centre,
            Along::End => -offset,
        };
        // It is rounded once, so that a layer lies at the same place at every size, but for half a pixel.
        let [(left, room_across), (top, room_down)] = self.exact;
        Area {
            left: whole_px(left + x.begin(room_across, width * WHOLE) + inward(x, towards_end, dx)),
            top: whole_px(top + y.begin(room_down, height * WHOLE) + inward(y, dy, dy)),
            width,
            height,
        }
    }
}

/// A box in pixels, perhaps partly outside of the picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Area {
    pub(super) left: i64,
    pub(super) top: i64,
    pub(super) width: i64,
    pub(super) height: i64,
}

impl Area {
    pub(super) const fn right(&self) -> i64 {
        self.left + self.width
    }

    pub(super) const fn bottom(&self) -> i64 {
        self.top + self.height
    }

    /// The part of it that lies in a picture of that size.
    pub(super) fn within(&self, width_px: u32, height_px: u32) -> Option<Self> {
        let (left, top) = (self.left.max(0), self.top.max(0));
        let right = self.right().min(i64::from(width_px));
        let bottom = self.bottom().min(i64::from(height_px));
        (left < right && top < bottom).then(|| Self { left, top, width: right - left, height: bottom - top })
    }

    pub(super) const fn grown(&self, by: (i64, i64)) -> Self {
        Self {
            left: self.left - by.0,
            top: self.top - by.1,
            width: self.width + 2 * by.0,
            height: self.height + 2 * by.1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placed(name: &str, offset: [Length; 2], direction: Direction) -> (i64, i64) {
        let insets = Insets { start: 1000, ..Insets::default() };
        let frame = Frame::new((1000, 500), insets, direction);
        let (_, anchor) = LayerAnchor::named().into_iter().find(|(known, _)| *known == name).expect("a name");
        let area = frame.place(&Placing { offset, ..Placing::at(anchor) }, (100, 50));
        (area.left, area.top)
    }

    #[test]
    fn anchors_lie_in_the_safe_area_and_follow_the_direction_of_writing() {
        let none = [Length::ZERO; 2];
        assert_eq!(placed("top-start", none, Direction::Ltr), (100, 0));
        assert_eq!(placed("top-start", none, Direction::Rtl), (800, 0));
        assert_eq!(placed("bottom-end", none, Direction::Ltr), (900, 450));
        assert_eq!(placed("bottom-end", none, Direction::Rtl), (0, 450));
        assert_eq!(placed("centre", none, Direction::Ltr), (500, 225));
        assert_eq!(placed("centre", none, Direction::Rtl), (400, 225));
    }

    /// What is rounded on the way adds up: a safe area, half of what is left, and an offset came to more than a pixel.
    #[test]
    fn a_place_is_rounded_once() {
        let insets = Insets { top: 300, end: 400, bottom: 500, start: 400 };
        for name in ["top-start", "centre", "bottom-end", "top", "end"] {
            let (_, anchor) = LayerAnchor::named().into_iter().find(|(known, _)| *known == name).expect("a name");
            let placing = Placing { offset: [Length::Share(133), Length::Share(-277)], ..Placing::at(anchor) };
            let at = |times: u32| {
                let frame = Frame::new((320 * times, 180 * times), insets, Direction::Ltr);
                let area = frame.place(&placing, (100 * i64::from(times), 63 * i64::from(times)));
                [area.left, area.top]
            };
            let (one, large) = (at(1), at(64));
            for (one, large) in one.into_iter().zip(large) {
                assert!((one * 64 - large).abs() <= 33, "{name}: {one} and {large} of 64ths");
            }
        }
    }

    #[test]
    fn offsets_lead_into_the_picture() {
        let offset = [Length::Share(200), Length::Px(10)];
        assert_eq!(placed("top-start", offset, Direction::Ltr), (120, 10));
        assert_eq!(placed("top-start", offset, Direction::Rtl), (780, 10));
        assert_eq!(placed("bottom-end", offset, Direction::Ltr), (880, 440));
        assert_eq!(placed("bottom-end", offset, Direction::Rtl), (20, 440));
        assert_eq!(placed("top", offset, Direction::Ltr).0, 520);
        assert_eq!(placed("top", offset, Direction::Rtl).0, 380);
    }

    #[test]
    fn lengths_are_percent_or_pixels_within_bounds() {
        assert_eq!(Length::parse("12.5%"), Some(Length::Share(1250)));
        assert_eq!(Length::parse("-24px"), Some(Length::Px(-24)));
        for text in ["", "%", "12", "101%", "-100.1%", "9000px", "1.5px", "NaN%", "1e999%"] {
            assert_eq!(Length::parse(text), None, "{text}");
        }
        let extent = Extent { length: Length::Share(5000), min: Some(Length::Px(200)), max: Some(Length::Share(8000)) };
        assert_eq!([100, 300, 1000].map(|side| extent.px(side)), [80, 200, 500]);
        let fixed = Extent { length: Length::Px(600), min: Some(Length::Px(700)), max: None };
        assert_eq!([100, 650, 1000].map(|side| fixed.px(side)), [100, 650, 700], "at most the side");
        assert_eq!((share_of(3, 5000), share_of(-3, 5000), share_of(5, 3333)), (2, -2, 2));
    }
}
