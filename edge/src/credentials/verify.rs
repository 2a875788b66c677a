//! What a file says of its origin, and whether that holds.
//!
//! Invariants: bounded input, no panic, no network, no file; nothing of the file is kept. An unknown signer does not make a
//! manifest invalid: [`Standing::Unknown`] says that the signature holds and that no trusted authority knows the signer.
//!
//! Source: C2PA Technical Specification 2.3 (validation, whose status codes are mapped here).

use std::io::Cursor;
use std::sync::Arc;

use c2pa::assertions::Actions;
use c2pa::{Context, Reader, Settings, ValidationState};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde::Serialize;

use super::guard::{self, LibraryFault, guarded};
use super::manifest::{self, Manifest};
use super::story::{self, GENERATION_LABEL, Generation};
use crate::provenance::xmp_of;
use crate::words::Format;

/// Largest file that is verified, in bytes.
pub const VERIFIED_FILE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Longest address of a manifest that is told.
const URL_BYTES_MAX: usize = 2048;
/// Most failures, actions, soft bindings or ingredients that are told of one manifest.
const TOLD_MAX: usize = 64;

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "finding", rename_all = "snake_case")]
pub enum Finding {
    /// The file carries no manifest and points to none.
    Absent,
    /// The file carries none, but says where one is.
    Elsewhere { url: String },
    /// The manifest is of this file, and its signature holds.
    Valid { credentials: Box<Credentials> },
    /// The manifest does not hold. What it says is told only where its signature could be read.
    Invalid { failures: Vec<Failure>, credentials: Option<Box<Credentials>> },
}

impl Finding {
    /// For logs and metric labels.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Elsewhere { .. } => "elsewhere",
            Self::Valid { .. } => "valid",
            Self::Invalid { .. } => "invalid",
        }
    }
}

/// Why a manifest does not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failure {
    pub kind: FailureKind,
    /// The standard's status code.
    pub code: String,
    /// The library's words.
    pub explanation: String,
}

/// The kinds of failures that a reader tells apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The picture or its manifest was changed after it was signed.
    Tampered,
    /// The signer's certificate was not valid when it signed.
    Expired,
    Revoked,
    /// The certificate may not sign pictures.
    Credential,
    /// The file or the manifest cannot be read.
    Damaged,
    /// The manifest breaks another rule of the standard.
    Rule,
}

impl FailureKind {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tampered => "tampered",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::Credential => "credential",
            Self::Damaged => "damaged",
            Self::Rule => "rule",
        }
    }

    fn of_code(code: &str) -> Self {
        match code {
            "signingCredential.expired" | "claimSignature.outsideValidity" => Self::Expired,
            "signingCredential.ocsp.revoked" => Self::Revoked,
            "signingCredential.invalid" | "algorithm.unsupported" => Self::Credential,
            "assertion.boxesHash.unknownBox" => Self::Tampered,
            _ if code.ends_with(".mismatch") => Self::Tampered,
            _ if code.ends_with(".malformed") || code.ends_with(".invalid") || code.ends_with("missing") => {
                Self::Damaged
            }
            _ => Self::Rule,
        }
    }
}

/// What a manifest tells, and who vouches for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Credentials {
    pub signed_by: Option<SignedBy>,
    pub standing: Standing,
    /// When a timestamp authority saw the signature (RFC 3339); a signature without a timestamp has no time that counts.
    pub signed_at: Option<String>,
    /// Software that made the manifest, with its version.
    pub generator: Option<String>,
    pub actions: Vec<ToldAction>,
    pub generation: Option<Generation>,
    /// Algorithm and value of each.
    pub soft_bindings: Vec<(String, String)>,
    pub ingredients: Vec<ToldIngredient>,
}

/// The certificate that signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SignedBy {
    pub organisation: Option<String>,
    pub common_name: Option<String>,
    pub serial: Option<String>,
    pub algorithm: Option<String>,
}

/// Whether the signer is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// A trusted authority issued the certificate.
    Trusted,
    /// No trusted authority did: the signer can give itself any name.
    Unknown,
}

/// An action as it was told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ToldAction {
    pub action: String,
    pub at: Option<String>,
    /// URI of the digital source type.
    pub source: Option<String>,
}

/// An ingredient as it was told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ToldIngredient {
    pub title: Option<String>,
    pub relation: String,
    /// Whether it carried a manifest that held; `None` where it carried none.
    pub was_valid: Option<bool>,
}

/// Why a list of authorities is of no use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    #[error("it holds no PEM certificate")]
    Empty,
    #[error("certificate {number} of it is damaged")]
    Damaged { number: usize },
}

/// The authorities that are trusted: of signers and of timestamps.
#[derive(Debug, Clone)]
pub struct Trust {
    context: Arc<Context>,
    /// DER of each authority's certificate.
    pub(super) anchors: Arc<[CertificateDer<'static>]>,
}

impl Trust {
    /// Trusts no authority: every signer is unknown.
    #[must_use]
    pub fn none() -> Self {
        Self { context: Arc::clone(guard::context()), anchors: Arc::default() }
    }

    /// Whether no authority is trusted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.anchors.is_empty()
    }

    /// Trusts the certificates of a PEM file, such as C2PA's trust list and its list of timestamp authorities.
    ///
    /// # Errors
    /// When the file holds no certificate, or a damaged one.
    pub fn from_pem(pem: &str) -> Result<Self, TrustError> {
        let mut anchors = Vec::new();
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            let number = anchors.len() + 1;
            let der = certificate.map_err(|_| TrustError::Damaged { number })?;
            x509_parser::parse_x509_certificate(&der).map_err(|_| TrustError::Damaged { number })?;
            anchors.push(der.into_owned());
        }
        if anchors.is_empty() {
            return Err(TrustError::Empty);
        }
        let mut settings = Settings::default();
        settings.trust.trust_anchors = Some(pem.to_owned());
        Ok(Self { context: guard::shared(settings), anchors: anchors.into() })
    }
}

/// Verifies `file` against the manifest that it carries or, where it carries none, against `remote`. Takes CPU time in
/// proportion to the file: it belongs on no async worker.
#[must_use]
pub fn verify(format: Format, file: &[u8], remote: Option<&[u8]>, trust: &Trust) -> Finding {
    if file.len() > VERIFIED_FILE_BYTES_MAX {
        return damaged(&LibraryFault::TooLarge { bytes: file.len(), bytes_max: VERIFIED_FILE_BYTES_MAX }.to_string());
    }
    let stored = match manifest::stored(format, file) {
        Ok(stored) => stored,
        Err(LibraryFault::Library(error)) if matches!(*error, c2pa::Error::JumbfNotFound) => match remote {
            Some(remote) => remote.to_vec(),
            None => return pointer(format, file, trust),
        },
        Err(fault) => return damaged(&fault.to_string()),
    };
    let manifest = match Manifest::from_bytes(stored) {
        Ok(manifest) => manifest,
        Err(fault) => return damaged(&fault.to_string()),
    };
    let (media_type, manifest) = (format.media_type(), manifest.as_bytes());
    read(trust, |reader| reader.with_manifest_data_and_stream(manifest, media_type, Cursor::new(file)))
}

/// What a file without a manifest says of where one is. The library reads the XMP; in AVIF only where a `uuid` box holds it,
/// not as the item that MIAF wants.
fn pointer(format: Format, file: &[u8], trust: &Trust) -> Finding {
    match read(trust, |reader| reader.with_stream(format.media_type(), Cursor::new(file))) {
        Finding::Absent if format == Format::Avif => pointed(file),
        finding => finding,
    }
}

fn pointed(avif: &[u8]) -> Finding {
    let xmp = xmp_of(Format::Avif, avif).ok().flatten();
    let xmp = xmp.and_then(|xmp| std::str::from_utf8(xmp).ok()).unwrap_or_default();
    let url = xmp.split_once("dcterms:provenance=\"").and_then(|(_, rest)| rest.split_once('"')).map(|(url, _)| url);
    match url.filter(|url| url.len() <= URL_BYTES_MAX) {
        Some(url) => Finding::Elsewhere { url: url.replace("&amp;", "&") },
        None => Finding::Absent,
    }
}

fn damaged(explanation: &str) -> Finding {
    let (code, explanation) = ("general.error".to_owned(), cut(explanation));
    Finding::Invalid { failures: vec![Failure { kind: FailureKind::Damaged, code, explanation }], credentials: None }
}

/// The library stops at a revoked certificate with this error and uses it for nothing else: an unknown signer is a status.
fn revoked() -> Finding {
    let explanation = "the signer's certificate was revoked, says its authority in the manifest".to_owned();
    let code = "signingCredential.ocsp.revoked".to_owned();
    Finding::Invalid { failures: vec![Failure { kind: FailureKind::Revoked, code, explanation }], credentials: None }
}

fn read(trust: &Trust, load: impl FnOnce(Reader) -> c2pa::Result<Reader>) -> Finding {
    match guarded(|| load(Reader::from_shared_context(&trust.context)).map(|reader| finding(&reader))) {
        Ok(finding) => finding,
        Err(LibraryFault::Library(error)) => match *error {
            c2pa::Error::JumbfNotFound => Finding::Absent,
            c2pa::Error::RemoteManifestUrl(url) => Finding::Elsewhere { url: cut(&url) },
            c2pa::Error::CertificateTrustError(_) => revoked(),
            other => damaged(&other.to_string()),
        },
        Err(fault) => damaged(&fault.to_string()),
    }
}

fn finding(reader: &Reader) -> Finding {
    let credentials = credentials(reader).map(Box::new);
    match (reader.validation_state(), credentials) {
        (ValidationState::Valid | ValidationState::Trusted, Some(credentials)) => Finding::Valid { credentials },
        (_, credentials) => Finding::Invalid { failures: failures(reader), credentials },
    }
}

fn failures(reader: &Reader) -> Vec<Failure> {
    let statuses = reader.validation_status().unwrap_or_default().iter();
    let failures: Vec<Failure> = statuses
        .filter(|status| status.code() != "signingCredential.untrusted")
        .take(TOLD_MAX)
        .map(|status| Failure {
            kind: FailureKind::of_code(status.code()),
            code: cut(status.code()),
            explanation: cut(status.explanation().unwrap_or_default()),
        })
        .collect();
    if failures.is_empty() { vec![unexplained()] } else { failures }
}

/// The library calls a manifest invalid and gives no reason where nothing of it could be read.
fn unexplained() -> Failure {
    let explanation = "the manifest holds no signature that could be verified".to_owned();
    Failure { kind: FailureKind::Damaged, code: "claimSignature.missing".to_owned(), explanation }
}

fn credentials(reader: &Reader) -> Option<Credentials> {
    let manifest = reader.active_manifest()?;
    let is_trusted = reader.validation_state() == ValidationState::Trusted;
    Some(Credentials {
        signed_by: manifest.signature_info().map(signed_by),
        standing: if is_trusted { Standing::Trusted } else { Standing::Unknown },
        signed_at: manifest.time().as_deref().map(cut),
        generator: generator(manifest),
        actions: actions(manifest),
        generation: manifest.find_assertion::<Generation>(GENERATION_LABEL).ok().map(|told| told.bounded()),
        soft_bindings: soft_bindings(manifest),
        ingredients: manifest.ingredients().iter().take(TOLD_MAX).map(ingredient).collect(),
    })
}

fn signed_by(info: &c2pa::SignatureInfo) -> SignedBy {
    SignedBy {
        organisation: info.issuer.as_deref().map(cut),
        common_name: info.common_name.as_deref().map(cut),
        serial: info.cert_serial_number.as_deref().map(cut),
        algorithm: info.alg.map(|algorithm| algorithm.to_string()),
    }
}

fn generator(manifest: &c2pa::Manifest) -> Option<String> {
    let info = manifest.claim_generator_info.as_ref().and_then(|infos| infos.first());
    match info {
        Some(info) => Some(cut(&format!("{} {}", info.name, info.version.as_deref().unwrap_or_default()))),
        None => manifest.claim_generator().map(cut),
    }
}

fn actions(manifest: &c2pa::Manifest) -> Vec<ToldAction> {
    let told = manifest.assertions().iter().filter(|assertion| assertion.label().starts_with(Actions::LABEL));
    let actions = told.filter_map(|assertion| assertion.to_assertion::<Actions>().ok());
    let actions = actions.flat_map(|actions| actions.actions);
    let told = actions.take(TOLD_MAX).map(|action| ToldAction {
        action: cut(action.action()),
        at: action.when().map(cut),
        source: action.source_type().map(|source| cut(&source.to_string())),
    });
    told.collect()
}

fn soft_bindings(manifest: &c2pa::Manifest) -> Vec<(String, String)> {
    let told = manifest.assertions().iter().filter(|assertion| assertion.label().starts_with("c2pa.soft-binding"));
    let bindings = told.filter_map(|assertion| assertion.to_assertion::<c2pa::assertions::SoftBinding>().ok());
    let pairs = bindings.flat_map(|binding| {
        let algorithm = cut(binding.alg.as_deref().unwrap_or_default());
        binding.blocks.into_iter().map(move |block| (algorithm.clone(), cut(&block.value)))
    });
    pairs.take(TOLD_MAX).collect()
}

fn ingredient(told: &c2pa::Ingredient) -> ToldIngredient {
    let relation = serde_json::to_value(told.relationship()).ok();
    let results = told.active_manifest().and_then(|_| told.validation_results());
    ToldIngredient {
        title: told.title().map(cut),
        relation: relation.as_ref().and_then(|value| value.as_str()).map(cut).unwrap_or_default(),
        was_valid: results.map(|results| results.validation_state() != ValidationState::Invalid),
    }
}

/// A stranger's text, cut to a bound.
fn cut(text: &str) -> String {
    story::cut(text).to_owned()
}
