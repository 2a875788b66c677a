//! Signing a picture: its history bound to its bytes by a hash, and signed.
//!
//! One pass over a file that is final but for its manifest. The binding is `c2pa.hash.bmff.v3` in AVIF and
//! `c2pa.hash.data` in the other formats: all bytes but those of the manifest itself. A remote manifest binds all bytes.
//!
//! Source: C2PA Technical Specification 2.3 (digital signatures; binding to content).

use std::io::Cursor;
use std::sync::Mutex;

use super::guard::{LibraryFault, guarded};
use super::key::Algorithm;
use super::manifest::{Manifest, NoManifest, detached};
use super::signer::{Signer, SignerError};
use super::story::{Story, StoryError};
use super::timestamp::{self, TimestampError, Timestamper};
use crate::words::Format;

/// Largest file that is signed, in bytes.
pub const SIGNED_FILE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Largest revocation status that is embedded, in bytes. Responders answer with 0.5 to 2 kB.
pub const OCSP_BYTES_MAX: usize = 8 * 1024;
/// Labels and lengths around a revocation status in the signature's header, at most.
const OCSP_OVERHEAD_BYTES: usize = 24;
/// What the library needs to be left over where it fills a box up: it cannot pad by less.
const PADDING_BYTES_MIN: usize = 264;

/// Why a file was not signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    #[error(transparent)]
    Signer(#[from] SignerError),
    #[error(transparent)]
    Timestamp(#[from] TimestampError),
    #[error(transparent)]
    Story(#[from] StoryError),
    #[error("the {} file carries a manifest already", .format.as_str())]
    AlreadySigned { format: Format },
    #[error("the {} file was rewritten while it was signed, although its manifest is not in it", .format.as_str())]
    Rewritten { format: Format },
    #[error("signing gave no manifest: {0}")]
    NoManifest(#[from] NoManifest),
    #[error(transparent)]
    LibraryFault(#[from] LibraryFault),
}

impl SignError {
    /// For logs and metric labels.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Signer(error) => error.as_str(),
            Self::Timestamp(error) => error.as_str(),
            Self::Story(_) => "story",
            Self::AlreadySigned { .. } => "already_signed",
            Self::Rewritten { .. } => "rewritten",
            Self::NoManifest(_) => "no_manifest",
            Self::LibraryFault(fault) => fault.as_str(),
        }
    }
}

/// A signed file, and its manifest to keep: [`super::attach`] puts it into the same unsigned file again.
#[derive(Debug)]
pub struct Signed {
    pub file: Vec<u8>,
    pub manifest: Manifest,
}

/// Who signs, who dates, and when. Calls block for as long as a signing program and a timestamp authority take.
#[derive(Clone, Copy)]
pub struct Signing<'a> {
    pub signer: &'a Signer,
    pub timestamper: Option<&'a dyn Timestamper>,
    /// What the certificate's authority says of its revocation: a DER `OCSPResponse` (RFC 6960), which validators need not
    /// fetch then. One over [`OCSP_BYTES_MAX`] is refused.
    pub ocsp: Option<&'a [u8]>,
    /// An expired signer is refused by this clock.
    pub now_unix_s: u64,
}

impl std::fmt::Debug for Signing<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signing").field("signer", &self.signer).finish_non_exhaustive()
    }
}

impl Signing<'_> {
    /// Signs `file` and embeds the manifest.
    ///
    /// # Errors
    /// When the file is damaged, too large or signed already, the signer fails, or a timestamp was wanted and there is none.
    pub fn embed(&self, story: &Story, format: Format, file: &[u8]) -> Result<Signed, SignError> {
        let (manifest, file) = self.sign(story, format, file, Delivery::Embedded)?;
        Ok(Signed { file, manifest })
    }

    /// Signs `file` as it stands. The manifest is served beside it; the pointer to it is in the file already.
    ///
    /// # Errors
    /// As [`Self::embed`].
    pub fn beside(&self, story: &Story, format: Format, file: &[u8]) -> Result<Manifest, SignError> {
        let (manifest, same) = self.sign(story, format, file, Delivery::Remote)?;
        // The manifest binds the bytes that the library saw: they must be those that are served.
        if same == file { Ok(manifest) } else { Err(SignError::Rewritten { format }) }
    }

    fn sign(
        &self,
        story: &Story,
        format: Format,
        file: &[u8],
        placement: Delivery,
    ) -> Result<(Manifest, Vec<u8>), SignError> {
        self.signer.check_time(self.now_unix_s)?;
        story.check()?;
        if let Some(ocsp) = self.ocsp.filter(|ocsp| ocsp.len() > OCSP_BYTES_MAX) {
            return Err(LibraryFault::TooLarge { bytes: ocsp.len(), bytes_max: OCSP_BYTES_MAX }.into());
        }
        if file.len() > SIGNED_FILE_BYTES_MAX {
            return Err(LibraryFault::TooLarge { bytes: file.len(), bytes_max: SIGNED_FILE_BYTES_MAX }.into());
        }
        if detached(format, file).is_some() {
            return Err(SignError::AlreadySigned { format });
        }
        let adapter = Adapter { signing: self, fault: Mutex::new(None) };
        let mut out = Cursor::new(Vec::with_capacity(file.len() + adapter.reserved_bytes() + 4096));
        let signed = guarded(|| {
            let mut builder = story.builder(format.media_type())?;
            builder.set_no_embed(matches!(placement, Delivery::Remote));
            builder.sign(&adapter, format.media_type(), &mut Cursor::new(file), &mut out)
        });
        match (signed, adapter.into_fault()) {
            (Ok(manifest), _) => Ok((Manifest::from_bytes(manifest)?, out.into_inner())),
            (Err(_), Some(fault)) => Err(fault),
            (Err(fault), None) => Err(fault.into()),
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Delivery {
    Embedded,
    Remote,
}

/// A signer as the library wants it. What went wrong is kept here: the library's errors have no room for it.
struct Adapter<'a> {
    signing: &'a Signing<'a>,
    fault: Mutex<Option<SignError>>,
}

impl Adapter<'_> {
    fn reserved_bytes(&self) -> usize {
        let token = self.signing.timestamper.map(timestamp::reserved_bytes);
        let status = self.signing.ocsp.map(|ocsp| ocsp.len() + OCSP_OVERHEAD_BYTES);
        let further = [token, status].into_iter().flatten().reduce(|a, b| a + b);
        self.signing.signer.cose_bytes() + further.map_or(0, |bytes| bytes + PADDING_BYTES_MIN)
    }

    fn failed(&self, fault: SignError) -> c2pa::Error {
        let said = fault.to_string();
        if let Ok(mut slot) = self.fault.lock() {
            slot.get_or_insert(fault);
        }
        c2pa::Error::BadParam(said)
    }

    fn into_fault(self) -> Option<SignError> {
        self.fault.into_inner().ok().flatten()
    }
}

impl c2pa::Signer for Adapter<'_> {
    fn sign(&self, data: &[u8]) -> c2pa::Result<Vec<u8>> {
        self.signing.signer.signature(data).map_err(|error| self.failed(error.into()))
    }

    fn alg(&self) -> c2pa::SigningAlg {
        match self.signing.signer.algorithm() {
            Algorithm::Es256 => c2pa::SigningAlg::Es256,
            Algorithm::Ed25519 => c2pa::SigningAlg::Ed25519,
        }
    }

    fn certs(&self) -> c2pa::Result<Vec<Vec<u8>>> {
        Ok(self.signing.signer.chain().to_vec())
    }

    fn reserve_size(&self) -> usize {
        self.reserved_bytes()
    }

    fn ocsp_val(&self) -> Option<Vec<u8>> {
        self.signing.ocsp.map(<[u8]>::to_vec)
    }

    fn send_timestamp_request(&self, message: &[u8]) -> Option<c2pa::Result<Vec<u8>>> {
        let timestamper = self.signing.timestamper?;
        let reply = self.timestamp_request_body(message).and_then(|request| {
            timestamp::stamped(timestamper, &request, message).map_err(|error| self.failed(error.into()))
        });
        Some(reply)
    }
}
