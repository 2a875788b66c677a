//! Which format a client gets: `Accept` with its q-values (RFC 9110 §12.5.1) against what we can encode.
//!
//! - An explicit `fm` wins; the response then does not vary.
//! - AVIF and WebP go only to clients that name them: `*/*` and `image/*` are sent by clients that decode
//!   neither, so a wildcard speaks for JPEG and PNG only.
//! - The highest q-value wins; at equal q AVIF, then WebP, then JPEG. PNG is the last resort of an opaque
//!   image: only for a client that takes it and nothing smaller.
//! - Where nothing is acceptable the answer is the fallback all the same: RFC 9110 lets a server disregard
//!   the field, and a picture the browser may yet decode serves a reader better than a 406.
//! - Malformed members are ignored, not the whole field. No allocation.

use crate::request::FormatAsk;
use crate::words::{Format, FormatSet};

/// Bytes of an `Accept` field that are read; browsers send under 200.
pub const ACCEPT_BYTES_MAX: usize = 4096;

/// Chooses the format of a rendition of an opaque image.
///
/// `allowed` is what the slot may be encoded as. A format the URL names is returned as it is: whether the
/// slot allows it has been decided when the request was resolved.
#[must_use]
pub fn choose(accept: Option<&str>, ask: FormatAsk, allowed: FormatSet) -> Format {
    if let FormatAsk::Explicit(format) = ask {
        return format;
    }
    let fallback =
        if allowed.contains(Format::Jpeg) || !allowed.contains(Format::Png) { Format::Jpeg } else { Format::Png };
    let Some(accept) = accept else { return fallback };
    let weights = Weights::parse(accept);
    let mut best = (0, fallback);
    for format in [Format::Avif, Format::Webp, Format::Jpeg] {
        let weight = weights.of(format);
        if allowed.contains(format) && weight > best.0 {
            best = (weight, format);
        }
    }
    if best.0 == 0 && allowed.contains(Format::Png) && weights.of(Format::Png) > 0 {
        return Format::Png;
    }
    best.1
}

/// Every allowed format that the client can show, best guess where it says nothing: JPEG.
#[must_use]
pub fn acceptable(accept: Option<&str>, allowed: FormatSet) -> FormatSet {
    let weights = accept.map(Weights::parse);
    let is_shown = |format: &Format| match &weights {
        Some(weights) => weights.of(*format) > 0,
        None => *format == Format::Jpeg,
    };
    allowed.iter().filter(is_shown).collect()
}

/// What is sent in place of a file that is known to be larger than the same picture in the format `smaller`: that format, where the URL
/// leaves the choice and the client can show it.
#[must_use]
pub fn instead_of_larger(
    smaller: Option<Format>,
    accept: Option<&str>,
    ask: FormatAsk,
    allowed: FormatSet,
) -> Option<Format> {
    smaller.filter(|format| ask.is_negotiable() && acceptable(accept, allowed).contains(*format))
}

/// Which of several representations a client likes best, by their media types in the order of our own preference; the first
/// where it takes none of them, for the reason given above.
#[must_use]
pub fn preferred(accept: Option<&str>, types: &[&str]) -> usize {
    let Some(accept) = accept else { return 0 };
    let bytes = &accept.as_bytes()[..accept.len().min(ACCEPT_BYTES_MAX)];
    let weight_of = |media_type: &str| {
        let family = media_type.split_once('/').map_or(media_type, |(family, _)| family);
        let (mut named, mut by_family, mut any) = (None, None, None);
        for member in split_outside_quotes(bytes, b',') {
            let mut pieces = split_outside_quotes(member, b';').map(<[u8]>::trim_ascii);
            let range = pieces.next().unwrap_or_default();
            let place = if range.eq_ignore_ascii_case(media_type.as_bytes()) {
                &mut named
            } else if range.strip_suffix(b"/*").is_some_and(|it| it.eq_ignore_ascii_case(family.as_bytes())) {
                &mut by_family
            } else if range == b"*/*" {
                &mut any
            } else {
                continue;
            };
            *place = (*place).max(weight(pieces));
        }
        named.or(by_family).or(any).unwrap_or(0)
    };
    let best = types.iter().map(|media_type| weight_of(media_type)).enumerate();
    best.fold((0, 0), |best, (index, weight)| if weight > best.1 { (index, weight) } else { best }).0
}

/// q-values in thousandths; `None` where nothing was said.
#[derive(Debug, Default, PartialEq, Eq)]
struct Weights {
    named: [Option<u16>; 4],
    image: Option<u16>,
    any: Option<u16>,
}

impl Weights {
    fn parse(accept: &str) -> Self {
        let mut weights = Self::default();
        let bytes = accept.as_bytes();
        for member in split_outside_quotes(&bytes[..bytes.len().min(ACCEPT_BYTES_MAX)], b',') {
            weights.add(member);
        }
        weights
    }

    fn add(&mut self, member: &[u8]) {
        let mut pieces = split_outside_quotes(member, b';').map(<[u8]>::trim_ascii);
        let range = pieces.next().unwrap_or_default();
        let Some(weight) = weight(pieces) else { return };
        let place = if range == b"*/*" {
            &mut self.any
        } else if range.eq_ignore_ascii_case(b"image/*") {
            &mut self.image
        } else {
            let is_named = |format: &Format| range.eq_ignore_ascii_case(format.media_type().as_bytes());
            let Some(format) = Format::ALL.into_iter().find(is_named) else { return };
            &mut self.named[format as usize]
        };
        // Said twice, the more welcoming counts.
        *place = (*place).max(Some(weight));
    }

    /// The most specific range that matches decides (RFC 9110 §12.5.1).
    fn of(&self, format: Format) -> u16 {
        let by_wildcard = match format {
            Format::Avif | Format::Webp => None,
            Format::Jpeg | Format::Png => self.image.or(self.any),
        };
        self.named[format as usize].or(by_wildcard).unwrap_or(0)
    }
}

/// The q-value of a member in thousandths; `None` for a malformed one and for a range narrowed by a media-type
/// parameter, which none of our types has. What follows `q` (RFC 7231's accept-ext) is ignored.
fn weight<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Option<u16> {
    for piece in pieces {
        if piece.is_empty() {
            continue;
        }
        return match piece {
            [b'q' | b'Q', b'=', value @ ..] => qvalue(value),
            _ => None,
        };
    }
    Some(1000)
}

/// `qvalue = ( "0" [ "." 0*3DIGIT ] ) / ( "1" [ "." 0*3("0") ] )`
fn qvalue(text: &[u8]) -> Option<u16> {
    let (whole, decimals) = match text {
        [whole @ (b'0' | b'1')] => (whole, &[][..]),
        [whole @ (b'0' | b'1'), b'.', decimals @ ..] if decimals.len() <= 3 => (whole, decimals),
        _ => return None,
    };
    let mut thousandths = u16::from(whole - b'0') * 1000;
    for (digit, unit) in decimals.iter().zip([100, 10, 1]) {
        if !digit.is_ascii_digit() {
            return None;
        }
        thousandths += u16::from(digit - b'0') * unit;
    }
    (thousandths <= 1000).then_some(thousandths)
}

/// Splits at a separator that does not stand in a quoted string.
fn split_outside_quotes(bytes: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let mut is_quoted = false;
    let mut is_escaped = false;
    bytes.split(move |&byte| {
        if is_escaped {
            is_escaped = false;
        } else if is_quoted && byte == b'\\' {
            is_escaped = true;
        } else if byte == b'"' {
            is_quoted = !is_quoted;
        } else {
            return byte == separator && !is_quoted;
        }
        false
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_representation_with_the_highest_weight_is_preferred_and_the_first_otherwise() {
        let types = ["text/html", "application/json", "application/ld+json"];
        for (accept, expected) in [
            (None, 0),
            (Some("*/*"), 0),
            (Some("application/json"), 1),
            (Some("application/*"), 1),
            (Some("application/ld+json, */*;q=0.1"), 2),
            (Some("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"), 0),
            (Some("application/json;q=0.2, text/html;q=0.1"), 1),
            (Some("application/json;q=0, text/*;q=0.1"), 0),
            (Some("image/avif"), 0),
            (Some("application/json;q=x"), 0),
        ] {
            assert_eq!(preferred(accept, &types), expected, "{accept:?}");
        }
    }

    fn auto(accept: &str) -> Format {
        choose(Some(accept), FormatAsk::Auto, FormatSet::ALL)
    }

    #[test]
    fn what_a_client_can_show() {
        let shown = |accept: &str| acceptable(Some(accept), FormatSet::ALL).iter().collect::<Vec<_>>();
        assert_eq!(shown("image/avif,image/webp,*/*;q=0.8"), Format::ALL);
        assert_eq!(shown("*/*"), [Format::Jpeg, Format::Png]);
        assert_eq!(shown("image/webp,image/jpeg;q=0"), [Format::Webp]);
        assert_eq!(acceptable(None, FormatSet::ALL).iter().collect::<Vec<_>>(), [Format::Jpeg]);
    }

    #[test]
    fn what_real_clients_send() {
        for (client, accept, expected) in [
            ("Chrome 120+ <img>", "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8", Format::Avif),
            (
                "Chrome navigation",
                "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8,\
                 application/signed-exchange;v=b3;q=0.7",
                Format::Avif,
            ),
            ("Chrome 80", "image/webp,image/apng,image/*,*/*;q=0.8", Format::Webp),
            (
                "Firefox 132+ <img>",
                "image/avif,image/webp,image/png,image/svg+xml,image/*;q=0.8,*/*;q=0.5",
                Format::Avif,
            ),
            ("Firefox 92", "image/avif,image/webp,*/*", Format::Avif),
            ("Firefox 65", "image/webp,*/*", Format::Webp),
            ("Firefox 60", "*/*", Format::Jpeg),
            (
                "Safari 17+",
                "image/webp,image/avif,image/jxl,image/heic,image/heic-sequence,video/*;q=0.8,image/png,image/svg+xml,\
                 image/*;q=0.8,video/*;q=0.8,*/*;q=0.5",
                Format::Avif,
            ),
            ("Safari 14", "image/webp,image/png,image/svg+xml,image/*;q=0.8,video/*;q=0.8,*/*;q=0.5", Format::Webp),
            ("Safari 13", "image/png,image/svg+xml,image/*;q=0.8,video/*;q=0.8,*/*;q=0.5", Format::Jpeg),
            ("curl", "*/*", Format::Jpeg),
            ("Googlebot-Image", "image/*,*/*;q=0.8", Format::Jpeg),
        ] {
            assert_eq!(auto(accept), expected, "{client}");
        }
    }

    #[test]
    fn q_values_specificity_and_exclusions() {
        for (accept, expected) in [
            ("image/avif;q=0.5,image/webp;q=0.9", Format::Webp),
            ("image/avif;q=0.9,image/webp;q=0.9,image/jpeg;q=0.9", Format::Avif),
            ("image/avif;q=0,image/webp", Format::Webp),
            ("image/avif;q=0.000,*/*", Format::Jpeg),
            ("image/webp;q=0.1,image/jpeg", Format::Jpeg),
            ("image/webp;q=0.4,image/*;q=0.5", Format::Jpeg),
            ("image/*;q=0,image/webp;q=0.1,*/*", Format::Webp),
            ("IMAGE/AVIF ; Q=0.8 , image/jpeg;q=0.7", Format::Avif),
            ("image/png", Format::Png),
            ("image/jpeg;q=0,image/*", Format::Png),
            ("text/html", Format::Jpeg),
            ("image/jpeg;q=0", Format::Jpeg),
            ("", Format::Jpeg),
        ] {
            assert_eq!(auto(accept), expected, "{accept}");
        }
    }

    #[test]
    fn malformed_members_are_ignored_and_the_rest_counts() {
        for (accept, expected) in [
            ("image/avif;q=2,image/webp", Format::Webp),
            ("image/avif;q=,image/webp", Format::Webp),
            ("image/avif;q=0.1234,image/webp", Format::Webp),
            ("image/avif;q=1.001,image/webp", Format::Webp),
            ("image/avif;q=-1,image/webp", Format::Webp),
            (",,;;,image/webp", Format::Webp),
            ("image/avif;profile=\"a,b;q=0\";q=1,image/webp", Format::Webp),
            ("image/avif;profile=\"never closed, image/webp", Format::Jpeg),
            ("image/ avif,image/webp", Format::Webp),
            ("image/avif;q=1;ext=1,image/webp", Format::Avif),
        ] {
            assert_eq!(auto(accept), expected, "{accept}");
        }
    }

    #[test]
    fn fm_wins_and_the_slot_bounds_what_is_chosen() {
        assert_eq!(choose(Some("image/jpeg"), FormatAsk::Explicit(Format::Avif), FormatSet::ALL), Format::Avif);
        let without_avif: FormatSet = [Format::Webp, Format::Jpeg].into_iter().collect();
        assert_eq!(choose(Some("image/avif,image/webp;q=0.2"), FormatAsk::Auto, without_avif), Format::Webp);
        assert_eq!(choose(Some("image/avif,image/png"), FormatAsk::Auto, without_avif), Format::Jpeg);
        assert_eq!(choose(None, FormatAsk::Auto, FormatSet::ALL), Format::Jpeg);
        assert!(FormatAsk::Auto.is_negotiable() && !FormatAsk::Explicit(Format::Png).is_negotiable());
    }

    proptest! {
        #[test]
        fn any_bytes_yield_an_allowed_format(accept in "\\PC{0,80}|[a-z/*;,=q.0-9\" \\\\]{0,120}", bits in 0u8..16) {
            let allowed = Format::ALL.into_iter().filter(|f| bits & (1 << *f as u8) != 0).collect::<FormatSet>().with(Format::Jpeg);
            prop_assert!(allowed.contains(choose(Some(&accept), FormatAsk::Auto, allowed)));
        }

        #[test]
        fn wildcards_alone_never_yield_avif_or_webp(q in 0u16..=1000, image in any::<bool>()) {
            let range = if image { "image/*" } else { "*/*" };
            let accept = format!("{range};q={}.{:03}", q / 1000, q % 1000);
            prop_assert!(!matches!(auto(&accept), Format::Avif | Format::Webp));
        }
    }
}
