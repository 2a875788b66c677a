//! Signatures of messages: HMAC-SHA256 over `id.timestamp.body`.
//!
//! Source: Standard Webhooks 1.0.0, "Symmetric" signatures (`v1`, secrets `whsec_…` of 24 to 64 bytes in base64).

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE64;
use ring::hmac;

const PREFIX: &str = "whsec_";
/// Bytes of a secret.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// The secret that an endpoint and this edge share.
#[derive(Clone)]
pub struct SigningSecret(hmac::Key);

/// A text that is no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a secret is `whsec_` and 24 to 64 bytes in base64: `echo whsec_$(openssl rand -base64 32)` makes one")]
pub struct SecretError;

impl fmt::Debug for SigningSecret {
    /// Without the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningSecret")
    }
}

impl FromStr for SigningSecret {
    type Err = SecretError;

    fn from_str(text: &str) -> Result<Self, SecretError> {
        let encoded = text.strip_prefix(PREFIX).ok_or(SecretError)?;
        let bytes = BASE64.decode(encoded.as_bytes()).map_err(|_| SecretError)?;
        if !SECRET_BYTES.contains(&bytes.len()) {
            return Err(SecretError);
        }
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &bytes)))
    }
}

impl SigningSecret {
    /// The value of `webhook-signature`. The time is the sending's, in seconds since 1970.
    #[must_use]
    pub fn sign(&self, id: &str, at_unix_s: u64, body: &str) -> String {
        let tag = hmac::sign(&self.0, format!("{id}.{at_unix_s}.{body}").as_bytes());
        format!("v1,{}", BASE64.encode(tag.as_ref()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vector that the libraries of the standard are tested with.
    #[test]
    fn a_signature_is_that_of_the_standards_vector() {
        let secret: SigningSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".parse().unwrap();
        let signature = secret.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, r#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn what_is_too_short_or_not_base64_is_no_secret() {
        let short = format!("whsec_{}", BASE64.encode(&[7; 23]));
        let long = format!("whsec_{}", BASE64.encode(&[7; 65]));
        for text in ["", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_", "whsec_%%%", &short, &long] {
            assert_eq!(text.parse::<SigningSecret>().unwrap_err(), SecretError, "{text}");
        }
    }
}
