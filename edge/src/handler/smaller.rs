//! A negotiated answer is never a final AVIF that is larger than the WebP of the same picture.
//!
//! A final AVIF knows whether it is (see `render::file`), on disk and in shared stores, too. So nothing else is remembered: where one is
//! found that is larger, the WebP is wanted in its place. `Vary` stays: it follows from the URL. A URL that names a format gets that
//! format, and a client that does not take WebP gets the AVIF.

use http::header::ACCEPT;

use super::Exchange;
use crate::fields::list;
use crate::fill::Filled;
use crate::render::RenditionSpec;
use crate::resolve::{Resolved, Want, format};

/// What is wanted in place of what was found; `None` where it is right.
pub(super) fn wanted(exchange: &Exchange<'_>, resolved: &Resolved, want: &Want, filled: &Filled) -> Option<Want> {
    let smaller = filled.rendition.smaller_as.filter(|_| filled.stale_for.is_none())?;
    let accept = list(exchange.headers, &ACCEPT);
    let format = format::instead_of_larger(Some(smaller), accept.as_deref(), resolved.format, resolved.slot.formats)?;
    let spec = RenditionSpec { format, ..want.spec };
    Some(Want { spec, ..want.clone() })
}
