//! What the authority says of the signer's revocation: an OCSP response in a file, which a renewing program fetches.
//!
//! It goes into every manifest, so that no validator has to ask the authority, which would tell it who looks at which
//! picture. Invariants: a response that is put into manifests is of the signer's certificate, says that it is good, and is
//! in date, else it is left out; one that says *revoked* ends the signing. Its signature is for validators to verify: here the file is the
//! operator's own.
//!
//! Source: RFC 6960 §4.2; C2PA Technical Specification 2.3, §14.5.2 (revocation).

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use rasn_ocsp::{BasicOcspResponse, CertStatus, OcspResponse, OcspResponseStatus, SingleResponse};

use super::sign::OCSP_BYTES_MAX;

/// What a response adds to a manifest, by which the manifest's place is chosen: the same for every response.
pub const OCSP_BYTES_TYPICAL: usize = 2048;

/// Why a response is of no use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StatusFault {
    #[error("it cannot be read: {0}")]
    Unreadable(String),
    #[error("it is no OCSP response in DER of at most {OCSP_BYTES_MAX} bytes")]
    Malformed,
    #[error("the authority gave no answer in it, only an error")]
    NoAnswer,
    #[error("it tells of another certificate")]
    OtherCertificate,
    #[error("the authority does not know the certificate")]
    Unknown,
    #[error("the certificate was revoked at {at} (seconds since 1970)")]
    Revoked { at: i64 },
}

impl StatusFault {
    /// For logs and metric labels.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Unreadable(_) => "ocsp_unreadable",
            Self::Malformed => "ocsp_malformed",
            Self::NoAnswer => "ocsp_no_answer",
            Self::OtherCertificate => "ocsp_other_certificate",
            Self::Unknown => "ocsp_unknown",
            Self::Revoked { .. } => "revoked",
        }
    }
}

/// A response that says that the certificate is good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Status {
    der: Vec<u8>,
    /// From when on there is a newer one; `None` where it does not say.
    next_unix_s: Option<i64>,
}

impl Status {
    /// Of the certificate with this serial number, as its DER holds it.
    ///
    /// # Errors
    /// When the file is not what it should be, or the certificate is not good.
    pub(super) fn read(path: &Path, serial: &[u8]) -> Result<Self, StatusFault> {
        let mut bytes = Vec::new();
        let read = File::open(path).and_then(|file| file.take(OCSP_BYTES_MAX as u64 + 1).read_to_end(&mut bytes));
        read.map_err(|error| StatusFault::Unreadable(error.to_string()))?;
        if bytes.len() > OCSP_BYTES_MAX {
            return Err(StatusFault::Malformed);
        }
        Self::parse(bytes, serial)
    }

    fn parse(der: Vec<u8>, serial: &[u8]) -> Result<Self, StatusFault> {
        let answer = answer(&der)?;
        let told =
            answer.tbs_response_data.responses.into_iter().find(|told| serial_of(told).is_some_and(|of| of == serial));
        let told = told.ok_or(StatusFault::OtherCertificate)?;
        match told.cert_status {
            CertStatus::Revoked(info) => Err(StatusFault::Revoked { at: info.revocation_time.timestamp() }),
            CertStatus::Unknown(()) => Err(StatusFault::Unknown),
            CertStatus::Good => Ok(Self { der, next_unix_s: told.next_update.map(|next| next.timestamp()) }),
        }
    }

    /// What goes into a manifest; nothing once there is a newer one.
    pub(super) fn der(&self, now_unix_s: u64) -> Option<&[u8]> {
        let now = i64::try_from(now_unix_s).unwrap_or(i64::MAX);
        self.next_unix_s.is_none_or(|next| now < next).then_some(self.der.as_slice())
    }
}

fn answer(der: &[u8]) -> Result<BasicOcspResponse, StatusFault> {
    let response: OcspResponse = rasn::der::decode(der).map_err(|_| StatusFault::Malformed)?;
    if response.status != OcspResponseStatus::Successful {
        return Err(StatusFault::NoAnswer);
    }
    let bytes = response.bytes.ok_or(StatusFault::NoAnswer)?;
    rasn::der::decode(&bytes.response).map_err(|_| StatusFault::Malformed)
}

/// The content of the serial number's INTEGER, which is shorter than 128 bytes (RFC 5280 §4.1.2.2).
fn serial_of(told: &SingleResponse) -> Option<Vec<u8>> {
    let der = rasn::der::encode(&told.cert_id.serial_number).ok()?;
    der.get(2..).map(<[u8]>::to_vec)
}
