//! Signed URLs: who may ask for what lies outside a campaign's finite set, and until when.
//!
//! - `s` is HMAC-SHA256 (RFC 2104) over the canonical path and query, all of it but `s` itself, in base64url without
//!   padding (RFC 4648 §5). `kid` and `expires` are covered; the slug, the order of parameters, their aliases and what is
//!   dropped as tracking are not, because they mean nothing.
//! - `ring` computes it: the TLS stack has it in the tree already, and its `hmac::verify` takes the same time wherever
//!   two signatures differ. Nothing is said about a signature but that it is wrong.
//! - A signature is checked before it is asked whether it has expired: only who holds a key learns anything else.
//! - It is no part of any cache key, tag or canonical link: what it permits is, and that is in the request.

pub mod keys;
pub mod moment;
mod reload;
mod seal;

use std::path::PathBuf;

use bildkante_shared::problem::Problem;
use serde::Deserialize;

pub use keys::{KeyFacts, KeyRole, KeysError, SignError, SigningKeys, new_key_entry};
pub use reload::{SigningHandle, SigningMetrics};
pub use seal::Seal;

use crate::request::ImageRequest;
use crate::request::parameters::Parameter;

/// `[signing]` of the edge's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SigningConfig {
    /// The keys; without them every signature is refused.
    pub keys_file: Option<PathBuf>,
    /// For so many days the URLs are answered that are copied from the preview; 0: without an end.
    pub preview_days: u32,
    /// How often the file is looked at.
    pub reload_ms: u64,
}

impl Default for SigningConfig {
    fn default() -> Self {
        Self { keys_file: None, preview_days: 30, reload_ms: 1000 }
    }
}

/// By whose authority a request asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grant {
    /// It is not signed: it gets what lies in the campaign's finite set.
    Public,
    /// A key of ours signed the URL. `left_s`: seconds until it ends, at least 1; `None` where it does not.
    Signed { left_s: Option<u32> },
    /// The operator's own commands: warming, purging, looking. No campaign is closed to them.
    Operator,
}

impl Grant {
    /// For logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Signed { .. } => "signed",
            Self::Operator => "operator",
        }
    }

    /// Seconds until what this request gets may no longer be given out.
    #[must_use]
    pub const fn left_s(self) -> Option<u32> {
        match self {
            Self::Signed { left_s } => left_s,
            Self::Public | Self::Operator => None,
        }
    }

    /// Whether shapes, sizes and qualities outside a slot's finite set are granted. The operator means what a client who
    /// was given the URL would get: a rung where it is not signed, exactly what it says where it is.
    #[must_use]
    pub const fn unlocks_shapes(self, request: &ImageRequest<'_>) -> bool {
        match self {
            Self::Public => false,
            Self::Signed { .. } => true,
            Self::Operator => request.signature.is_some(),
        }
    }
}

/// Why a signed URL is refused. Always 403, never worth a retry, and never stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    #[error(
        "the URL is signed, but this edge has no signing keys; unsigned URLs are answered without `kid`, `expires` and `s`"
    )]
    NotConfigured,
    #[error("there is no signing key of this `kid`")]
    UnknownKey,
    #[error("the signature does not belong to this URL and this `kid`")]
    Wrong,
    #[error("the URL has expired")]
    Expired,
    #[error("the key that signed this URL is no longer valid")]
    KeyExpired,
}

impl SignatureError {
    pub const ALL: [Self; 5] = [Self::NotConfigured, Self::UnknownKey, Self::Wrong, Self::Expired, Self::KeyExpired];

    /// For logs, metric labels and problem types.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotConfigured => "signing-not-configured",
            Self::UnknownKey => "unknown-signing-key",
            Self::Wrong => "wrong-signature",
            Self::Expired => "signature-expired",
            Self::KeyExpired => "signing-key-expired",
        }
    }

    #[must_use]
    pub fn problem(self) -> Problem {
        let parameter = match self {
            Self::NotConfigured | Self::Wrong => Parameter::Signature,
            Self::UnknownKey | Self::KeyExpired => Parameter::KeyId,
            Self::Expired => Parameter::Expires,
        };
        Problem::new(403, self.as_str(), "Forbidden", self.to_string()).with_parameter(parameter.name(), Vec::new())
    }
}

#[cfg(test)]
mod tests;
