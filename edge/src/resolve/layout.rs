//! URL → geometry: how large a signed request's rendition is and how the master fills it. Pure arithmetic.
//!
//! A box is what was asked for, in device pixels: `w` × `h`, or one of them and a ratio. `fit` decides what happens in it:
//!
//! | fit | the picture | the rendition |
//! | --- | --- | --- |
//! | `cover` | fills the box, what is over is cut | the box |
//! | `crop` | as `cover`, never enlarged | the box, or as much of it as the master can fill |
//! | `contain` | lies in the box, nothing is cut | the picture |
//! | `scale-down` | as `contain`, never enlarged | the picture |
//! | `pad` | as `contain` | the box, the rest in `bg` |
//! | `fillmax` | as `scale-down` | the box, the rest in `bg` |
//!
//! Invariants: the master is never enlarged beyond the limit, nor a side or area beyond what is rendered at all: the box
//! shrinks instead and keeps its ratio. Equal pictures have one [`Shape`]. Sides are at least 1 px.

use crate::render::{Anchor, RENDITION_AREA_PX_MAX, RENDITION_SIDE_PX_MAX, Shape};
use crate::request::{Background, Crop, Fit, Horizontal, ImageRequest, Vertical};
use crate::words::Ratio;

/// Behind a picture that leaves room, where `bg` says nothing.
const WHITE: [u8; 3] = [255; 3];

/// What is asked for, in device pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    pub width_px: Option<u32>,
    pub height_px: Option<u32>,
    /// `ar`; without it a box takes the slot's ratio, and a picture that is not cut keeps its own.
    pub ratio: Option<Ratio>,
    pub fit: Fit,
    pub anchor: Anchor,
    pub background: Option<Background>,
}

impl Ask {
    /// What of a request is geometry. `default_px` is the width where neither side is named, `focal` what a cut keeps in its
    /// middle where the request says nothing of it.
    #[must_use]
    pub fn of(request: &ImageRequest<'_>, width_px: Option<u32>, default_px: u32, focal: Anchor) -> Self {
        let height_px = request.height_px.map(|css_px| request.dpr.device_px(css_px));
        Self {
            width_px: width_px.or(if height_px.is_none() { Some(default_px) } else { None }),
            height_px,
            ratio: request.ratio,
            fit: request.fit,
            anchor: anchor(request, focal),
            background: request.background,
        }
    }
}

/// What bounds it: the master, and how far it may be enlarged.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    pub source: (u32, u32),
    pub slot_ratio: Ratio,
    /// 1.0 or more.
    pub upscale_max: f64,
}

/// A rendition's size and how its master fills it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    pub width_px: u32,
    pub height_px: u32,
    pub shape: Shape,
}

impl Layout {
    /// What slots without a focal point do by themselves.
    #[cfg(test)]
    const fn plain(width_px: u32, height_px: u32) -> Self {
        Self { width_px, height_px, shape: Shape::DEFAULT }
    }

    #[must_use]
    pub fn new(ask: &Ask, limits: &Limits) -> Self {
        let reach = Reach::new(limits, ask.fit);
        let (canvas, shape) = match ask.fit {
            Fit::Cover | Fit::Crop => (reach.of_cut(asked_box(ask, limits.slot_ratio)), Shape::Cut(ask.anchor)),
            Fit::Contain | Fit::ScaleDown => (reach.of_picture(limits.source, free_box(ask)), Shape::Whole),
            Fit::Pad => {
                let background = ask.background.map_or(WHITE, |Background(rgb)| rgb);
                (reach.of_frame(asked_box(ask, limits.slot_ratio)), Shape::Padded { background })
            }
            Fit::FillMax => {
                let background = ask.background.map_or(WHITE, |Background(rgb)| rgb);
                (asked_box(ask, limits.slot_ratio), Shape::PaddedSmall { background })
            }
        };
        let (width_px, height_px) = within_bounds(canvas);
        Self { width_px, height_px, shape: shape.normal(limits.source, (width_px, height_px)) }
    }
}

fn anchor(request: &ImageRequest<'_>, own: Anchor) -> Anchor {
    let focal = |coordinate: Option<crate::request::FocalCoordinate>| coordinate.map_or(500, |at| at.thousandths());
    match request.crop {
        Crop::Center if request.focal_x.is_none() && request.focal_y.is_none() => own,
        // A focal point by itself says what it is for.
        Crop::Center | Crop::FocalPoint => Anchor::Point { x: focal(request.focal_x), y: focal(request.focal_y) },
        Crop::Entropy => Anchor::Entropy,
        Crop::Edges { horizontal, vertical } => Anchor::Point {
            x: match horizontal {
                Some(Horizontal::Left) => 0,
                Some(Horizontal::Right) => 1000,
                None => 500,
            },
            y: match vertical {
                Some(Vertical::Top) => 0,
                Some(Vertical::Bottom) => 1000,
                None => 500,
            },
        },
    }
}

/// Both sides, a missing one by the ratio.
fn asked_box(ask: &Ask, slot_ratio: Ratio) -> (u32, u32) {
    let ratio = ask.ratio.unwrap_or(slot_ratio);
    match (ask.width_px, ask.height_px) {
        (Some(width), Some(height)) => (width, height),
        (None, Some(height)) => (ratio.width_px(height), height),
        (width, None) => {
            let width = width.unwrap_or(1);
            (width, ratio.height_px(width))
        }
    }
}

/// A picture that is not cut needs one side only, unless a ratio was named.
fn free_box(ask: &Ask) -> (u32, u32) {
    match ask.ratio {
        Some(ratio) => asked_box(ask, ratio),
        None => (ask.width_px.unwrap_or(u32::MAX), ask.height_px.unwrap_or(u32::MAX)),
    }
}

/// The largest size the whole master may be enlarged to, in thousandths of a pixel.
struct Reach {
    width: u64,
    height: u64,
}

impl Reach {
    fn new(limits: &Limits, fit: Fit) -> Self {
        let factor = match fit {
            Fit::Cover | Fit::Contain | Fit::Pad => limits.upscale_max,
            Fit::Crop | Fit::ScaleDown | Fit::FillMax => 1.0,
        };
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "1.0 to UPSCALE_MAX")]
        let factor = (factor * 1000.0 - 1e-6).ceil().max(1000.0) as u64;
        Self { width: u64::from(limits.source.0) * factor, height: u64::from(limits.source.1) * factor }
    }

    /// A side lies within reach if it does so before it was rounded up by half a pixel.
    const fn holds(side_px: u32, reach: u64) -> bool {
        side_px as u64 * 1000 <= reach + 500
    }

    const fn floor(reach: u64) -> u32 {
        let px = reach / 1000;
        if px > RENDITION_SIDE_PX_MAX as u64 * 8 { RENDITION_SIDE_PX_MAX * 8 } else { px as u32 }
    }

    /// A box that is filled: both its sides must lie within reach.
    fn of_cut(&self, asked: (u32, u32)) -> (u32, u32) {
        if Self::holds(asked.0, self.width) && Self::holds(asked.1, self.height) {
            return asked;
        }
        // The side that lies further beyond binds.
        let is_width = u128::from(asked.0) * u128::from(self.height) >= u128::from(asked.1) * u128::from(self.width);
        self.shrunk(asked, is_width)
    }

    /// A box the picture lies in: one of its sides must be within reach, the one it touches.
    fn of_frame(&self, asked: (u32, u32)) -> (u32, u32) {
        if Self::holds(asked.0, self.width) || Self::holds(asked.1, self.height) {
            return asked;
        }
        let is_width = u128::from(asked.0) * u128::from(self.height) <= u128::from(asked.1) * u128::from(self.width);
        self.shrunk(asked, is_width)
    }

    /// The picture itself.
    fn of_picture(&self, source: (u32, u32), asked: (u32, u32)) -> (u32, u32) {
        let (width, height) = (Self::floor(self.width).max(1), Self::floor(self.height).max(1));
        let fits = (asked.0.min(width), asked.1.min(height));
        crate::render::shape::fit_inside(source, fits)
    }

    fn shrunk(&self, asked: (u32, u32), is_width: bool) -> (u32, u32) {
        if is_width {
            let width = Self::floor(self.width).clamp(1, asked.0);
            (width, scaled(asked.1, width, asked.0))
        } else {
            let height = Self::floor(self.height).clamp(1, asked.1);
            (scaled(asked.0, height, asked.1), height)
        }
    }
}

/// `side · to / from`, rounded, at least 1.
fn scaled(side: u32, to: u32, from: u32) -> u32 {
    let (side, to, from) = (u64::from(side), u64::from(to), u64::from(from.max(1)));
    u32::try_from((side * to + from / 2) / from).unwrap_or(u32::MAX).max(1)
}

/// Brings a size within what is rendered at all, at its ratio.
fn within_bounds((mut width, mut height): (u32, u32)) -> (u32, u32) {
    let longer = width.max(height);
    if longer > RENDITION_SIDE_PX_MAX {
        let to = RENDITION_SIDE_PX_MAX;
        (width, height) = (scaled(width, to, longer).min(to), scaled(height, to, longer).min(to));
    }
    if u64::from(width) * u64::from(height) > RENDITION_AREA_PX_MAX {
        // width² = area · width / height; rounded down, and the height again from what is left.
        let squared = u128::from(RENDITION_AREA_PX_MAX) * u128::from(width) / u128::from(height);
        let narrowed = u32::try_from(squared.isqrt()).unwrap_or(width).clamp(1, width);
        let most = u32::try_from(RENDITION_AREA_PX_MAX / u64::from(narrowed)).unwrap_or(u32::MAX);
        height = scaled(height, narrowed, width).min(most);
        width = narrowed;
    }
    (width, height)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ratio(text: &str) -> Ratio {
        text.parse().expect("a ratio")
    }

    fn limits(source: (u32, u32), upscale_max: f64) -> Limits {
        Limits { source, slot_ratio: ratio("16:9"), upscale_max }
    }

    const CENTRED: Ask =
        Ask { width_px: None, height_px: None, ratio: None, fit: Fit::Cover, anchor: Anchor::CENTER, background: None };

    fn sized(fit: Fit, width_px: Option<u32>, height_px: Option<u32>) -> Ask {
        Ask { fit, width_px, height_px, ..CENTRED }
    }

    /// A master of 1344 × 768 (7:4) in a slot of 16:9.
    #[test]
    fn each_fit_in_the_same_boxes() {
        let limits = limits((1344, 768), 1.0);
        let white = Shape::Padded { background: WHITE };
        for (fit, width, height, expected, shape) in [
            (Fit::Cover, Some(500), None, (500, 281), Shape::DEFAULT),
            (Fit::Cover, None, Some(281), (500, 281), Shape::DEFAULT),
            (Fit::Cover, Some(400), Some(400), (400, 400), Shape::DEFAULT),
            (Fit::Cover, Some(2000), Some(2000), (768, 768), Shape::DEFAULT),
            (Fit::Cover, Some(2000), Some(100), (1344, 67), Shape::DEFAULT),
            (Fit::Crop, Some(2000), Some(2000), (768, 768), Shape::DEFAULT),
            (Fit::Contain, Some(400), Some(400), (400, 229), Shape::Whole),
            (Fit::Contain, Some(700), None, (700, 400), Shape::DEFAULT),
            (Fit::Contain, None, Some(400), (700, 400), Shape::DEFAULT),
            (Fit::Contain, Some(8192), None, (1344, 768), Shape::DEFAULT),
            (Fit::ScaleDown, Some(8192), Some(8192), (1344, 768), Shape::DEFAULT),
            (Fit::Pad, Some(400), Some(400), (400, 400), white),
            (Fit::Pad, Some(400), None, (400, 225), white),
            (Fit::Pad, Some(4000), Some(4000), (1344, 1344), white),
            (Fit::Pad, Some(2000), Some(768), (2000, 768), white),
            (Fit::Pad, Some(700), Some(400), (700, 400), Shape::DEFAULT),
            (Fit::FillMax, Some(400), Some(400), (400, 400), white),
            (Fit::FillMax, Some(4000), Some(400), (4000, 400), white),
            (Fit::FillMax, Some(1400), Some(1400), (1400, 1400), Shape::PaddedSmall { background: WHITE }),
            (Fit::FillMax, Some(700), Some(400), (700, 400), Shape::DEFAULT),
        ] {
            let layout = Layout::new(&sized(fit, width, height), &limits);
            assert_eq!((layout.width_px, layout.height_px), expected, "{fit:?} {width:?}×{height:?}");
            assert_eq!(layout.shape, shape, "{fit:?} {width:?}×{height:?}");
        }
    }

    #[test]
    fn a_slot_may_allow_more_and_crop_and_scale_down_never_do() {
        let limits = limits((200, 100), 2.5);
        let size = |fit| {
            let layout = Layout::new(&sized(fit, Some(4000), Some(4000)), &limits);
            (layout.width_px, layout.height_px)
        };
        assert_eq!(size(Fit::Cover), (250, 250));
        assert_eq!(size(Fit::Crop), (100, 100));
        assert_eq!(size(Fit::Contain), (500, 250));
        assert_eq!(size(Fit::ScaleDown), (200, 100));
        assert_eq!(size(Fit::Pad), (500, 500));
        assert_eq!(size(Fit::FillMax), (4000, 4000), "the box is no part of the picture");
    }

    #[test]
    fn a_ratio_makes_the_missing_side() {
        let limits = limits((1344, 768), 1.0);
        for (fit, expected) in [(Fit::Cover, (400, 500)), (Fit::Contain, (400, 229)), (Fit::Pad, (400, 500))] {
            let ask = Ask { ratio: Some(ratio("4:5")), ..sized(fit, Some(400), None) };
            let layout = Layout::new(&ask, &limits);
            assert_eq!((layout.width_px, layout.height_px), expected, "{fit:?}");
        }
        let both = Ask { ratio: Some(ratio("4:5")), ..sized(Fit::Cover, Some(400), Some(100)) };
        assert_eq!(Layout::new(&both, &limits).height_px, 100, "two sides leave a ratio nothing to say");
    }

    fn any_ask() -> impl Strategy<Value = Ask> {
        let side = || proptest::option::of(1u32..=40_960);
        let fits = vec![Fit::Cover, Fit::Crop, Fit::Contain, Fit::ScaleDown, Fit::Pad, Fit::FillMax];
        let fit = proptest::sample::select(fits);
        let anchor =
            prop_oneof![Just(Anchor::Entropy), (0u16..=1000, 0u16..=1000).prop_map(|(x, y)| Anchor::Point { x, y })];
        let ratio = proptest::option::of((1u32..=20, 1u32..=20).prop_map(|(w, h)| Ratio::new(w, h).expect("a ratio")));
        (side(), side(), ratio, fit, anchor, proptest::option::of(any::<[u8; 3]>())).prop_map(
            |(width_px, height_px, ratio, fit, anchor, background)| Ask {
                width_px: if height_px.is_none() { width_px.or(Some(320)) } else { width_px },
                height_px,
                ratio,
                fit,
                anchor,
                background: background.map(Background),
            },
        )
    }

    proptest! {
        #[test]
        fn nothing_is_larger_than_asked_enlarged_too_far_or_out_of_bounds(
            ask in any_ask(), source in (8u32..=2048, 8u32..=2048), upscale in 1000u32..=8000,
        ) {
            let upscale_max = f64::from(upscale) / 1000.0;
            let limits = limits(source, upscale_max);
            let Layout { width_px, height_px, shape } = Layout::new(&ask, &limits);
            prop_assert!(width_px >= 1 && height_px >= 1);
            prop_assert!(width_px.max(height_px) <= RENDITION_SIDE_PX_MAX);
            prop_assert!(u64::from(width_px) * u64::from(height_px) <= RENDITION_AREA_PX_MAX);
            prop_assert!(ask.width_px.is_none_or(|asked| width_px <= asked));
            prop_assert!(ask.height_px.is_none_or(|asked| height_px <= asked));
            prop_assert_eq!(shape.normal(source, (width_px, height_px)), shape);
            // How far the master is enlarged, rounding of one pixel aside.
            let (by_width, by_height) = (
                (f64::from(width_px) - 1.0) / f64::from(source.0),
                (f64::from(height_px) - 1.0) / f64::from(source.1),
            );
            let enlarged = match ask.fit {
                Fit::Cover | Fit::Crop => by_width.max(by_height),
                Fit::Contain | Fit::ScaleDown | Fit::Pad => by_width.min(by_height),
                // Its shape sees to that.
                Fit::FillMax => 0.0,
            };
            let most = if matches!(ask.fit, Fit::Crop | Fit::ScaleDown) { 1.0 } else { upscale_max };
            prop_assert!(enlarged <= most + 1e-9, "{}×{} of {:?} for {:?}", width_px, height_px, source, ask);
        }

        /// A box that can be had is had to the pixel.
        #[test]
        fn a_box_within_reach_is_given_as_asked(
            w in 1u32..=2048, h in 1u32..=2048, fit in proptest::sample::select(vec![Fit::Cover, Fit::Crop, Fit::Pad]),
        ) {
            let layout = Layout::new(&sized(fit, Some(w), Some(h)), &limits((2048, 2048), 1.0));
            prop_assert_eq!((layout.width_px, layout.height_px), (w, h));
        }

        /// What lies on a slot's ladder is the same rendition, asked for with or without a signature.
        #[test]
        fn a_rung_is_a_rung(
            source in (8u32..=2048, 8u32..=2048), rw in 1u32..=20, rh in 1u32..=20, width in 1u32..=4096, upscale in 1000u32..=8000,
        ) {
            let (slot_ratio, upscale_max) = (Ratio::new(rw, rh).expect("a ratio"), f64::from(upscale) / 1000.0);
            // As a manifest is checked: `slots::check_reach`.
            let cropped_px = slot_ratio.cropped_width_px(source.0, source.1);
            prop_assume!(f64::from(width) <= f64::from(cropped_px) * upscale_max + 1e-6);
            prop_assume!(slot_ratio.height_px(width) <= RENDITION_SIDE_PX_MAX);
            prop_assume!(u64::from(width) * u64::from(slot_ratio.height_px(width)) <= RENDITION_AREA_PX_MAX);
            prop_assume!(cropped_px > 1);
            let layout = Layout::new(&sized(Fit::Cover, Some(width), None), &Limits { source, slot_ratio, upscale_max });
            prop_assert_eq!(layout, Layout::plain(width, slot_ratio.height_px(width)));
        }
    }
}
