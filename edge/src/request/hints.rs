//! Client hints: how wide a picture the client wants, where the URL leaves it to the client with `w=auto`.
//!
//! Sources: RFC 8942 (client hints, `Accept-CH`), Responsive Image Client Hints (WICG: `Sec-CH-Width`,
//! `Sec-CH-DPR`, `Sec-CH-Viewport-Width`, and the older names without the prefix), RFC 8941 (integers and decimals).
//!
//! Invariants: hints are read for URLs that opt in and for no others; what they say is snapped to the slot's ladder
//! before it comes near a key, so that a client chooses among as many renditions as a ladder has rungs. A hint that
//! is malformed, said twice or out of bounds is as good as none: the answer is the slot's default.

use http::HeaderMap;

use super::Dpr;
use crate::words::WIDTH_PX_MAX;

/// What clients are asked to send, and what `Vary` names beside `Accept`.
pub const ACCEPT_CH: &str = "Sec-CH-Width, Sec-CH-DPR, Sec-CH-Viewport-Width";
/// `Vary` of a URL that opts in and names its format.
pub const VARY: &str = "Sec-CH-Width, Width, Sec-CH-DPR, DPR, Sec-CH-Viewport-Width";
/// `Vary` of one that leaves the format to `Accept` too.
pub const VARY_WITH_ACCEPT: &str = "Accept, Sec-CH-Width, Width, Sec-CH-DPR, DPR, Sec-CH-Viewport-Width";
/// The same of URLs that opt in to `Save-Data`, too.
pub const VARY_SAVING: &str = "Sec-CH-Width, Width, Sec-CH-DPR, DPR, Sec-CH-Viewport-Width, Save-Data";
pub const VARY_SAVING_WITH_ACCEPT: &str =
    "Accept, Sec-CH-Width, Width, Sec-CH-DPR, DPR, Sec-CH-Viewport-Width, Save-Data";

/// Longest value read; real ones have some ten characters.
const VALUE_BYTES_MAX: usize = 24;

/// What a client said about itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClientHints {
    /// Physical pixels the picture will take: the client has multiplied by its device pixel ratio.
    width_px: Option<u32>,
    dpr: Option<Dpr>,
    /// CSS pixels of the viewport: the widest a picture can be.
    viewport_css_px: Option<u32>,
}

impl ClientHints {
    /// The hints in `headers`, the standard names before the older ones.
    #[must_use]
    pub fn read(headers: &HeaderMap) -> Self {
        let first = |names: &[&str]| names.iter().find_map(|name| single(headers, name));
        Self {
            width_px: first(&["sec-ch-width", "width"]).and_then(pixels),
            dpr: first(&["sec-ch-dpr", "dpr"]).and_then(Dpr::of_hint),
            viewport_css_px: first(&["sec-ch-viewport-width"]).and_then(pixels),
        }
    }

    /// Those of the same client with one device pixel for each of its CSS pixels. A width that it sent without its ratio stays.
    #[must_use]
    pub fn at_dpr_one(self) -> Self {
        let dpr = self.dpr.unwrap_or(Dpr::ONE);
        Self { width_px: self.width_px.map(|px| dpr.css_px(px)), dpr: None, ..self }
    }

    /// Device pixels this client can use, not yet snapped. A `dpr` in the URL takes the place of the client's;
    /// without a word about widths it is the slot's default that is multiplied.
    #[must_use]
    pub fn device_px(&self, default_css_px: u32, url_dpr: Dpr) -> u32 {
        let dpr = if url_dpr == Dpr::ONE { self.dpr.unwrap_or(Dpr::ONE) } else { url_dpr };
        self.width_px.unwrap_or_else(|| dpr.device_px(self.viewport_css_px.unwrap_or(default_css_px)))
    }
}

/// A field that stands on one line; two lines make a list, which a hint is not.
fn single<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let mut lines = headers.get_all(name).iter();
    let value = lines.next().filter(|_| lines.next().is_none())?;
    value.to_str().ok().map(str::trim).filter(|value| value.len() <= VALUE_BYTES_MAX)
}

/// A positive integer, or a decimal rounded up; what is wider than any picture counts as the widest.
fn pixels(value: &str) -> Option<u32> {
    let (whole, decimals) = value.split_once('.').unwrap_or((value, "0"));
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_digits(whole) || !is_digits(decimals) {
        return None;
    }
    let rounding = u64::from(decimals.bytes().any(|digit| digit != b'0'));
    let px = whole.parse::<u64>().map_or(u64::MAX, |px| px.saturating_add(rounding));
    u32::try_from(px.min(u64::from(WIDTH_PX_MAX))).ok().filter(|px| *px > 0)
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    use super::super::ImageRequest;
    use super::*;
    use crate::request::IgnoredParameters;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let line = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).expect("a legal value"))
        };
        lines.iter().map(line).collect()
    }

    fn device_px(lines: &[(&'static str, &str)]) -> u32 {
        ClientHints::read(&headers(lines)).device_px(500, Dpr::ONE)
    }

    #[test]
    fn the_picture_s_own_width_comes_before_the_viewport_s_and_that_before_the_default() {
        for (lines, expected) in [
            (&[][..], 500),
            (&[("sec-ch-width", "640")], 640),
            (&[("width", "640")], 640),
            (&[("sec-ch-width", "640"), ("width", "320")], 640),
            (&[("sec-ch-width", "640"), ("sec-ch-dpr", "2"), ("sec-ch-viewport-width", "1200")], 640),
            (&[("sec-ch-viewport-width", "412")], 412),
            (&[("sec-ch-viewport-width", "412"), ("sec-ch-dpr", "2.625")], 1082),
            (&[("sec-ch-viewport-width", "412"), ("dpr", "2")], 824),
            (&[("sec-ch-dpr", "2")], 1000),
            (&[("sec-ch-dpr", "1.5"), ("dpr", "3")], 750),
            (&[("sec-ch-width", "640.2")], 641),
            (&[("sec-ch-width", "99999999999999999999")], 8192),
            (&[("sec-ch-dpr", "9")], 2500),
            (&[("sec-ch-dpr", "0.1")], 250),
        ] {
            assert_eq!(device_px(lines), expected, "{lines:?}");
        }
    }

    #[test]
    fn a_client_that_saves_gets_one_device_pixel_for_each_css_pixel() {
        for (lines, expected) in [
            (&[][..], 500),
            (&[("sec-ch-width", "640")], 640),
            (&[("sec-ch-width", "1280"), ("sec-ch-dpr", "2")], 640),
            (&[("sec-ch-width", "1082"), ("sec-ch-dpr", "2.625")], 413),
            (&[("sec-ch-viewport-width", "412"), ("sec-ch-dpr", "2.625")], 412),
            (&[("sec-ch-dpr", "3")], 500),
        ] {
            assert_eq!(ClientHints::read(&headers(lines)).at_dpr_one().device_px(500, Dpr::ONE), expected, "{lines:?}");
        }
    }

    #[test]
    fn what_is_malformed_or_said_twice_is_as_good_as_nothing() {
        for value in
            ["", "0", "-1", "+640", "640px", "6 40", "0x10", "640;a=1", "640, 320", "\"640\"", "1e3", "NaN", ".5"]
        {
            assert_eq!(device_px(&[("sec-ch-width", value)]), 500, "{value}");
            assert_eq!(device_px(&[("sec-ch-viewport-width", value)]), 500, "{value}");
        }
        for value in ["", "0", "-1", "x", "2x", "10", "1,5", "1e1"] {
            assert_eq!(device_px(&[("sec-ch-dpr", value)]), 500, "{value}");
        }
        assert_eq!(device_px(&[("sec-ch-width", "640"), ("sec-ch-width", "640")]), 500);
        let twice = [("sec-ch-width", "640"), ("sec-ch-width", "640"), ("width", "320")];
        assert_eq!(device_px(&twice), 320, "the older name is one of its own");
    }

    #[test]
    fn a_url_that_does_not_opt_in_reads_no_hint_and_its_dpr_comes_first() {
        let said = headers(&[("sec-ch-viewport-width", "300"), ("sec-ch-dpr", "3")]);
        let hints = |query| {
            let request = ImageRequest::parse("/i/studio/hero", Some(query), &IgnoredParameters::default());
            let request = request.expect("a URL");
            let hints = if request.uses_hints() { ClientHints::read(&said) } else { ClientHints::default() };
            hints.device_px(500, request.dpr)
        };
        assert_eq!(hints("w=400"), 500);
        assert_eq!(hints(""), 500);
        assert_eq!(hints("w=auto"), 900);
        assert_eq!(hints("w=auto&dpr=2"), 600);
    }

    proptest! {
        #[test]
        fn any_hints_are_pixels_within_bounds(width in "\\PC{0,30}", dpr in "[0-9.]{0,12}", viewport in "[0-9]{0,25}") {
            let mut said = HeaderMap::new();
            for (name, value) in [("sec-ch-width", &width), ("sec-ch-dpr", &dpr), ("sec-ch-viewport-width", &viewport)] {
                if let Ok(value) = HeaderValue::from_str(value) {
                    said.insert(name, value);
                }
            }
            let px = ClientHints::read(&said).device_px(500, Dpr::ONE);
            prop_assert!((1..=5 * WIDTH_PX_MAX).contains(&px), "{px}");
        }
    }
}
