//! What a picture's rendition says of its origin, read from the very file that is served, and verified now.
//!
//! The file is the slot's widest JPEG: every slot has it, and the watermark can be looked for in it. It comes from the edge's
//! caches or is cut from the master, as a reader would get it.

use std::sync::Arc;
use std::time::Duration;

use data_encoding::{BASE64, HEXLOWER};
use serde::Serialize;

use super::subject::DossierSubject;
use crate::cache::Rendition;
use crate::credentials::{Finding, Trust, verify};
use crate::decoding::DecoderCommand;
use crate::fill::Fill;
use crate::provenance::xmp_of;
use crate::render::{Placement, decode_original};
use crate::resolve::{Operator, Resolved, Want, resolve};
use crate::watermark::{ALGORITHM, Effort, MasterPrefix, Watermark, Watermarks, detect};
use crate::words::Format;

/// Longest wait for the rendition.
const WAIT: Duration = Duration::from_secs(40);
/// Longest XMP packet that is told.
const XMP_BYTES_MAX: usize = 16 * 1024;

/// What was found.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Evidence {
    Examined(Box<Examined>),
    /// There is no rendition to look at.
    NotExamined {
        reason: String,
    },
}

/// Of a rendition that was looked at.
#[derive(Debug, Clone, Serialize)]
pub struct Examined {
    pub url: String,
    pub media_type: &'static str,
    pub width_px: u32,
    pub height_px: u32,
    pub bytes: usize,
    pub sha256: String,
    pub rung: &'static str,
    /// Where its C2PA manifest is: in the file, or beside it.
    pub manifest: &'static str,
    pub c2pa: Finding,
    /// The metadata packet as it stands in the file; `None` where it has none.
    pub xmp: Option<String>,
    /// The IPTC term in it.
    pub digital_source_type: Option<String>,
    pub watermark: WatermarkEvidence,
    /// The file itself, as a URL that needs no network.
    pub picture: String,
}

/// What was found in the pixels.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum WatermarkEvidence {
    Found {
        algorithm: &'static str,
        /// 16 hexadecimal digits.
        payload: String,
        key: String,
        /// Whether anybody can write marks of this key.
        key_is_published: bool,
        /// Whether it names this picture's master.
        names_this_master: bool,
        /// Decimal logarithm of a bound on the chance that a picture without a mark gives this.
        chance_log10: f32,
    },
    NotFound {
        /// Why there may be none.
        reason: &'static str,
    },
}

impl Evidence {
    pub(super) fn none(reason: impl Into<String>) -> Self {
        Self::NotExamined { reason: reason.into() }
    }
}

/// Looks at renditions.
#[derive(Debug)]
pub(super) struct Examiner {
    pub(super) fill: Arc<Fill>,
    pub(super) watermarks: Watermarks,
}

impl Examiner {
    pub(super) async fn examine(&self, resolved: &Resolved, public_url: &str, subject: &DossierSubject) -> Evidence {
        let Some((path, want)) = widest_jpeg(resolved, subject) else {
            return Evidence::none("its URL is refused");
        };
        if !self.fill.is_there(&want) {
            return Evidence::none(
                "the picture is not drawn, or was taken back by a purge: there is no rendition to look at",
            );
        }
        let rendition = match self.rendition(&want).await {
            Ok(rendition) => rendition,
            Err(reason) => return Evidence::none(reason),
        };
        let beside = match rendition.manifest {
            Placement::Beside => self.fill.manifest_of(&rendition).await,
            Placement::Embedded | Placement::None => None,
        };
        let secrets: Vec<Watermark> = self.watermarks.detectable().map(|watermark| (**watermark).clone()).collect();
        let (url, is_published) = (format!("{public_url}{path}"), self.watermarks.is_published());
        let is_marking = want.finish.watermark().is_some();
        let look = tokio::task::spawn_blocking(move || {
            let marks = Marks { secrets, is_published, is_marking };
            examined(&rendition, beside.as_deref(), &marks, url)
        });
        look.await.map_or_else(|_| Evidence::none("the edge is stopping"), |found| Evidence::Examined(Box::new(found)))
    }

    /// The final one; where that cannot be had now, one that is there.
    async fn rendition(&self, want: &Want) -> Result<Arc<Rendition>, String> {
        let settled = match self.fill.settle(want) {
            Ok(ticket) => ticket.landed_within(WAIT).await,
            Err(error) => Err(error),
        };
        let reason = match settled {
            Ok(Ok(filled)) => return Ok(filled.rendition),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        let at_hand = self.fill.find_any(want, &[want.spec]).await;
        at_hand.ok_or_else(|| format!("no rendition of it can be had now: {reason}"))
    }
}

/// Its path, and what is wanted for it.
fn widest_jpeg(resolved: &Resolved, subject: &DossierSubject) -> Option<(String, Want)> {
    let (campaign, slot) = (&resolved.campaign, &resolved.slot);
    let widest_px = slot.framing.widest_px();
    let url = campaign.url(slot, &resolved.variant.query);
    let separator = if url.contains('?') { '&' } else { '?' };
    let path = format!("{url}{separator}w={widest_px}&fm={}", Format::Jpeg.extension());
    let resolution = resolve(&subject.catalog, path.as_str(), &Operator).outcome.ok()?;
    Some((path, resolution.want))
}

/// Which marks are looked for.
struct Marks {
    secrets: Vec<Watermark>,
    is_published: bool,
    /// Whether pictures like this one are marked.
    is_marking: bool,
}

fn examined(rendition: &Rendition, beside: Option<&[u8]>, marks: &Marks, url: String) -> Examined {
    let (format, body) = (rendition.spec.format, &rendition.body);
    let xmp = xmp_of(format, body).ok().flatten().map(|xmp| String::from_utf8_lossy(xmp).into_owned());
    Examined {
        url,
        media_type: format.media_type(),
        width_px: rendition.spec.width_px,
        height_px: rendition.spec.height_px,
        bytes: body.len(),
        sha256: HEXLOWER.encode(ring::digest::digest(&ring::digest::SHA256, body).as_ref()),
        rung: rendition.rung.as_str(),
        manifest: match rendition.manifest {
            Placement::Embedded => "embedded",
            Placement::Beside => "beside",
            Placement::None => "none",
        },
        c2pa: verify(format, body, beside, &Trust::none()),
        digital_source_type: xmp.as_deref().and_then(digital_source),
        xmp: xmp.filter(|xmp| xmp.len() <= XMP_BYTES_MAX),
        watermark: watermark(rendition, marks),
        picture: format!("data:{};base64,{}", format.media_type(), BASE64.encode(body)),
    }
}

/// The last part of the term's URI.
fn digital_source(xmp: &str) -> Option<String> {
    let (_, rest) = xmp.split_once("newscodes/digitalsourcetype/")?;
    let term: String = rest.chars().take_while(char::is_ascii_alphanumeric).take(64).collect();
    (!term.is_empty()).then_some(term)
}

fn watermark(rendition: &Rendition, marks: &Marks) -> WatermarkEvidence {
    let Ok(pixels) = decode_original(&rendition.body, &DecoderCommand::default()) else {
        return WatermarkEvidence::NotFound { reason: "the file cannot be decoded" };
    };
    let found = detect(pixels.rgb(), pixels.width_px(), pixels.height_px(), &marks.secrets, Effort::default());
    let Some(found) = found else {
        let reason = if marks.is_marking {
            "none was found, although pictures like this one are marked: it may be too small or too even to carry one"
        } else {
            "none was found, and pictures like this one are not marked"
        };
        return WatermarkEvidence::NotFound { reason };
    };
    let published = crate::watermark::Secret::PUBLISHED.key_id();
    WatermarkEvidence::Found {
        algorithm: ALGORITHM,
        payload: format!("{:016x}", found.payload.to_bits()),
        key: found.payload.key().to_string(),
        key_is_published: marks.is_published || found.payload.key() == published,
        names_this_master: found.payload.master() == MasterPrefix::of(rendition.master.as_bytes()),
        chance_log10: found.chance_log10(),
    }
}
