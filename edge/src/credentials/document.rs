//! A document that the signer of pictures signs: a detector's report, or a checkpoint of the audit.
//!
//! JSON Web Signature in its flattened form (RFC 7515 §7.2.2): ES256 or EdDSA (RFC 7518 §3.4, RFC 8037), the certificate chain
//! in `x5c`. The content type in the protected header says what is signed, so that a signature for one purpose cannot be shown
//! for another; a claim of C2PA begins otherwise, too.
//!
//! Invariants: bounded input, no panic, no network; what is not in the protected header is not believed; a chain that a
//! validator of pictures would reject signs no document either.

use data_encoding::{BASE64, BASE64URL_NOPAD};
use rustls_pki_types::{CertificateDer, UnixTime};
use serde::{Deserialize, Serialize};
use webpki::{EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeIdIter};

use super::certificate::{CHAIN_CERTIFICATES_MAX, CertificateFault, Chain};
use super::key::Algorithm;
use super::signer::{Signer, SignerError};
use super::verify::{Standing, Trust};

/// Longest document, in bytes.
pub const DOCUMENT_BYTES_MAX: usize = 1 << 20;
/// What is signed. A signature for one purpose holds for no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A detector's report.
    Report,
    /// The head of the audit's chain at some moment.
    Checkpoint,
}

impl Purpose {
    const fn content_type(self) -> &'static str {
        match self {
            Self::Report => "vnd.bildkante.verification+json",
            Self::Checkpoint => "vnd.bildkante.audit-checkpoint+json",
        }
    }
}

/// Longest certificate of a chain.
const CERTIFICATE_BYTES_MAX: usize = 16 * 1024;

/// A signed document, as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedDocument {
    payload: String,
    protected: String,
    signature: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Header {
    alg: String,
    typ: String,
    cty: String,
    x5c: Vec<String>,
    /// Extensions that a reader must understand: none is (RFC 7515 §4.1.11).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    crit: Option<serde_json::Value>,
}

/// Why a document is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentFault {
    #[error("it is no signed document: {0}")]
    Form(&'static str),
    #[error("it is signed for another purpose")]
    Purpose,
    #[error("the certificate in it may not sign: {0}")]
    Certificate(#[from] CertificateFault),
    #[error("its signature does not hold: it was changed, or another key signed it")]
    Signature,
}

/// A document whose signature holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedDocument {
    pub payload: Vec<u8>,
    /// As its certificate names it, and [`Standing::Trusted`] where an authority vouches for that.
    pub organisation: String,
    pub standing: Standing,
}

const fn name(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::Es256 => "ES256",
        Algorithm::Ed25519 => "EdDSA",
    }
}

impl SignedDocument {
    /// Signs a report. Blocks for as long as a signing program takes.
    ///
    /// # Errors
    /// When the chain is not valid at `now_unix_s`, or the signer fails.
    pub fn sign(signer: &Signer, payload: &[u8], now_unix_s: u64) -> Result<Self, SignerError> {
        Self::sign_for(Purpose::Report, signer, payload, now_unix_s)
    }

    /// Signs a payload. Blocks for as long as a signing program takes.
    ///
    /// # Errors
    /// As [`Self::sign`].
    pub fn sign_for(purpose: Purpose, signer: &Signer, payload: &[u8], now_unix_s: u64) -> Result<Self, SignerError> {
        signer.check_time(now_unix_s)?;
        let header = Header {
            alg: name(signer.algorithm()).to_owned(),
            typ: "JOSE+JSON".to_owned(),
            cty: purpose.content_type().to_owned(),
            x5c: signer.chain().iter().map(|der| BASE64.encode(der)).collect(),
            crit: None,
        };
        let header = serde_json::to_vec(&header).unwrap_or_default();
        let (protected, payload) = (BASE64URL_NOPAD.encode(&header), BASE64URL_NOPAD.encode(payload));
        let signature = signer.signature(input(&protected, &payload).as_bytes())?;
        let signature = signer.algorithm().raw(&signature).ok_or(SignerError::Random)?;
        Ok(Self { payload, protected, signature: BASE64URL_NOPAD.encode(&signature) })
    }

    /// # Errors
    /// When the bytes are too long, or have another form.
    pub fn parse(text: &[u8]) -> Result<Self, DocumentFault> {
        if text.len() > DOCUMENT_BYTES_MAX {
            return Err(DocumentFault::Form("it is too long"));
        }
        serde_json::from_slice(text)
            .map_err(|_| DocumentFault::Form("it has no `payload`, `protected` and `signature`"))
    }

    /// What it says, before its signature is verified: only for what decides how to verify it.
    pub(crate) fn payload<T: serde::de::DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_slice(&BASE64URL_NOPAD.decode(self.payload.as_bytes()).ok()?).ok()
    }

    /// # Errors
    /// When anything about it does not hold. A signer that no authority of `trust` knows is no error.
    pub fn verify(&self, trust: &Trust, now_unix_s: u64) -> Result<VerifiedDocument, DocumentFault> {
        self.verify_for(Purpose::Report, trust, now_unix_s)
    }

    /// The same for another purpose.
    ///
    /// # Errors
    /// As [`Self::verify`].
    pub fn verify_for(
        &self,
        purpose: Purpose,
        trust: &Trust,
        now_unix_s: u64,
    ) -> Result<VerifiedDocument, DocumentFault> {
        let decoded = |text: &str| BASE64URL_NOPAD.decode(text.as_bytes());
        let damaged = |_| DocumentFault::Form("a part of it is no base64url");
        let header = decoded(&self.protected).map_err(damaged)?;
        let header: Header =
            serde_json::from_slice(&header).map_err(|_| DocumentFault::Form("its header cannot be read"))?;
        if header.crit.is_some() {
            return Err(DocumentFault::Form("it wants an extension that is not known here"));
        }
        if header.cty != purpose.content_type() {
            return Err(DocumentFault::Purpose);
        }
        let chain = Chain::from_ders(certificates(&header.x5c)?, now_unix_s)?;
        if header.alg != name(chain.algorithm) {
            return Err(DocumentFault::Form("its algorithm is not that of its certificate"));
        }
        let signature = decoded(&self.signature).map_err(damaged)?;
        let is_raw = signature.len() == super::key::SIGNATURE_BYTES;
        let message = input(&self.protected, &self.payload);
        if !is_raw || !chain.algorithm.verifies(&chain.public_key, message.as_bytes(), &signature) {
            return Err(DocumentFault::Signature);
        }
        let payload = decoded(&self.payload).map_err(damaged)?;
        let standing = standing(&chain, trust, now_unix_s);
        Ok(VerifiedDocument { payload, organisation: chain.organisation, standing })
    }
}

/// RFC 7515 §5.1, step 5.
fn input(protected: &str, payload: &str) -> String {
    format!("{protected}.{payload}")
}

fn certificates(x5c: &[String]) -> Result<Vec<Vec<u8>>, DocumentFault> {
    if x5c.len() > CHAIN_CERTIFICATES_MAX {
        return Err(CertificateFault::TooMany { count: x5c.len() }.into());
    }
    let der = |text: &String| BASE64.decode(text.as_bytes()).ok().filter(|der| der.len() <= CERTIFICATE_BYTES_MAX);
    let ders: Option<Vec<Vec<u8>>> = x5c.iter().map(der).collect();
    let ders = ders.ok_or(DocumentFault::Form("its certificates cannot be read"))?;
    if ders.is_empty() { Err(CertificateFault::Empty.into()) } else { Ok(ders) }
}

/// The purposes of the signer's certificate have been checked with its profile.
struct AnyPurpose;

impl ExtendedKeyUsageValidator for AnyPurpose {
    fn validate(&self, _: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        Ok(())
    }
}

/// Whether the chain leads to a trusted authority.
fn standing(chain: &Chain, trust: &Trust, now_unix_s: u64) -> Standing {
    let ders: Vec<CertificateDer<'_>> = chain.ders().iter().map(|der| CertificateDer::from(der.as_slice())).collect();
    let anchors: Vec<_> = trust.anchors.iter().filter_map(|der| webpki::anchor_from_trusted_cert(der).ok()).collect();
    let time = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now_unix_s));
    let is_vouched_for = ders.split_first().is_some_and(|(leaf, others)| {
        EndEntityCert::try_from(leaf).is_ok_and(|leaf| {
            let algorithms = webpki::ALL_VERIFICATION_ALGS;
            leaf.verify_for_usage(algorithms, &anchors, others, time, AnyPurpose, None, None).is_ok()
        })
    });
    if is_vouched_for { Standing::Trusted } else { Standing::Unknown }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::authority;
    use super::*;

    const NOW_UNIX_S: u64 = 1_800_000_000;

    fn signer() -> (Signer, Trust) {
        let dir = tempfile::tempdir().expect("a folder");
        let files = authority::init(&dir.path().join("authority"), NOW_UNIX_S).expect("an authority");
        let root = std::fs::read_to_string(&files.root).expect("its root");
        let signer = Signer::from_files(&files.certificate, &files.key, NOW_UNIX_S).expect("a signer");
        (signer, Trust::from_pem(&root).expect("a root"))
    }

    fn signed(signer: &Signer) -> SignedDocument {
        SignedDocument::sign(signer, br#"{"file":{}}"#, NOW_UNIX_S).expect("signed")
    }

    #[test]
    fn a_document_says_who_signed_it() {
        let (signer, trust) = signer();
        let text = serde_json::to_vec(&signed(&signer)).expect("strings");
        let document = SignedDocument::parse(&text).expect("its own form");
        let verified = document.verify(&trust, NOW_UNIX_S).expect("it holds");
        assert_eq!(verified.payload, br#"{"file":{}}"#);
        assert_eq!((verified.standing, verified.organisation.as_str()), (Standing::Trusted, signer.organisation()));
        let (_, stranger) = self::signer();
        for unknowing in [Trust::none(), stranger] {
            assert_eq!(document.verify(&unknowing, NOW_UNIX_S).expect("it holds").standing, Standing::Unknown);
        }
    }

    #[test]
    fn what_was_changed_does_not_hold() {
        let ((signer, trust), (other, _)) = (signer(), signer());
        let good = signed(&signer);
        let payload = BASE64URL_NOPAD.encode(br#"{"file":{"x":1}}"#);
        let fault = |document: SignedDocument| document.verify(&trust, NOW_UNIX_S).expect_err("it does not hold");
        assert_eq!(fault(SignedDocument { payload, ..good.clone() }), DocumentFault::Signature);
        let protected = signed(&other).protected;
        assert_eq!(fault(SignedDocument { protected, ..good.clone() }), DocumentFault::Signature);
        let year_s = 366 * 24 * 3600;
        let expired = good.verify(&trust, NOW_UNIX_S + year_s).expect_err("over");
        assert!(matches!(expired, DocumentFault::Certificate(CertificateFault::Expired { .. })), "{expired}");
        let mut header: serde_json::Value =
            serde_json::from_slice(&BASE64URL_NOPAD.decode(good.protected.as_bytes()).expect("ours")).expect("ours");
        header["cty"] = "json".into();
        let protected = BASE64URL_NOPAD.encode(header.to_string().as_bytes());
        assert_eq!(fault(SignedDocument { protected, ..good.clone() }), DocumentFault::Purpose);
        let report = Purpose::Report;
        assert!(good.verify_for(Purpose::Checkpoint, &trust, NOW_UNIX_S).is_err(), "signed for another purpose");
        header["cty"] = report.content_type().into();
        header["crit"] = serde_json::json!(["exp"]);
        let protected = BASE64URL_NOPAD.encode(header.to_string().as_bytes());
        assert!(matches!(fault(SignedDocument { protected, ..good }), DocumentFault::Form(_)));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..Default::default() })]

        #[test]
        fn any_bytes_are_an_answer(at in any::<prop::sample::Index>(), byte: u8) {
            let (signer, trust) = signer();
            let good = signed(&signer);
            let mut text = serde_json::to_vec(&good).expect("strings");
            let at = at.index(text.len());
            text[at] = byte;
            if let Ok(document) = SignedDocument::parse(&text)
                && let Ok(verified) = document.verify(&trust, NOW_UNIX_S)
            {
                prop_assert_eq!(verified.payload, br#"{"file":{}}"#);
            }
        }
    }
}
