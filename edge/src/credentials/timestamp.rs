//! Timestamps: a third party's word for when a signature was made, so that it outlives the signer's certificate.
//!
//! The library builds the request and puts the answer into the manifest; how the request travels is the caller's: a
//! [`Timestamper`] is asked once per signature, on the thread that signs, after the signature was made. It blocks that
//! thread, so timestamped signing belongs neither on an async worker nor on the render pool.
//!
//! Invariant: a token enters a manifest only where it verifies and is of this signature.
//!
//! Sources: RFC 3161 (§3.4: HTTP), C2PA Technical Specification 2.3 (time-stamps: `sigTst2`).

use c2pa::crypto::cose::CertificateTrustPolicy;
use c2pa::crypto::time_stamp::verify_time_stamp;
use c2pa::status_tracker::StatusTracker;

/// Content type of what is sent to an authority.
pub const TIMESTAMP_QUERY: &str = "application/timestamp-query";
/// Content type of what it answers.
pub const TIMESTAMP_REPLY: &str = "application/timestamp-reply";
/// Largest token that is embedded, in bytes. Authorities put their certificates into it: 4 to 7 kB are usual.
pub const TOKEN_BYTES_MAX: usize = 16 * 1024;
/// Labels and lengths around a token in the signature's header, at most.
const TOKEN_OVERHEAD_BYTES: usize = 40;

/// Why a signature has no timestamp.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TimestampError {
    #[error("the timestamp authority did not answer: {reason}")]
    Away { reason: String },
    #[error("the timestamp authority's answer has {bytes} bytes, {bytes_max} are reserved for it")]
    TooLarge { bytes: usize, bytes_max: usize },
    #[error("the timestamp authority's answer does not verify: {reason}")]
    Invalid { reason: String },
}

impl TimestampError {
    /// For logs and metric labels.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Away { .. } => "away",
            Self::TooLarge { .. } => "too_large",
            Self::Invalid { .. } => "invalid",
        }
    }
}

/// Carries requests to a timestamp authority.
pub trait Timestamper {
    /// What to reserve for a token, in bytes; what one leaves free stays in the file as zeros. At most
    /// [`TOKEN_BYTES_MAX`] are reserved.
    fn token_bytes_max(&self) -> usize;

    /// The body of the authority's answer ([`TIMESTAMP_REPLY`]) to `request`, a DER `TimeStampReq` that asks for the
    /// authority's certificates and bears a nonce ([`TIMESTAMP_QUERY`]).
    ///
    /// # Errors
    /// [`TimestampError::Away`] when there is none within the caller's own deadline.
    fn ask(&self, request: &[u8]) -> Result<Vec<u8>, TimestampError>;
}

/// What to reserve for the authority's token and the header around it.
pub(super) fn reserved_bytes(timestamper: &dyn Timestamper) -> usize {
    timestamper.token_bytes_max().min(TOKEN_BYTES_MAX) + TOKEN_OVERHEAD_BYTES
}

/// The authority's answer to `request` about `message`, verified.
pub(super) fn stamped(
    timestamper: &dyn Timestamper,
    request: &[u8],
    message: &[u8],
) -> Result<Vec<u8>, TimestampError> {
    let reply = timestamper.ask(request)?;
    let bytes_max = timestamper.token_bytes_max().min(TOKEN_BYTES_MAX);
    if reply.len() > bytes_max {
        return Err(TimestampError::TooLarge { bytes: reply.len(), bytes_max });
    }
    // Whether the authority is a trusted one is for those who verify; here it is enough that the token fits and holds.
    let (anybody, mut log) = (CertificateTrustPolicy::passthrough(), StatusTracker::default());
    let invalid =
        |error: c2pa::crypto::time_stamp::TimeStampError| TimestampError::Invalid { reason: error.to_string() };
    verify_time_stamp(&reply, message, &anybody, &mut log, false).map_err(invalid)?;
    Ok(reply)
}
