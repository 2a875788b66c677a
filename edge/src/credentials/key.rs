//! Private keys in files: ECDSA on P-256 with SHA-256 (`ES256`) and Ed25519.
//!
//! Sources: RFC 5958 (PKCS#8), RFC 5915 (SEC 1 keys, as `openssl ecparam -genkey` writes them), RFC 8410 (Ed25519),
//! RFC 9053 §2.1 (an ES256 signature is r and s of 32 bytes each).

use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ED25519, EcdsaKeyPair,
    Ed25519KeyPair, KeyPair as _, UnparsedPublicKey, VerificationAlgorithm,
};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject as _;

/// Longest key file, in bytes.
pub(super) const KEY_FILE_BYTES_MAX: u64 = 16 * 1024;
/// A signature of either algorithm, in bytes.
pub(super) const SIGNATURE_BYTES: usize = 64;

/// What goes in front of a SEC 1 key to make it PKCS#8: version 0, `id-ecPublicKey` on `prime256v1`.
const PKCS8_P256_HEAD: [u8; 24] = [
    0x02, 0x01, 0x00, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48,
    0xce, 0x3d, 0x03, 0x01, 0x07,
];

/// How pictures are signed, by the names that C2PA gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    Es256,
    Ed25519,
}

impl Algorithm {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Es256 => "es256",
            Self::Ed25519 => "ed25519",
        }
    }

    /// A signature as r and s of 32 bytes each, or as Ed25519 has it: what JWS and COSE hold. `None` where it is neither that nor
    /// DER (RFC 3279 §2.2.3).
    pub(super) fn raw(self, signature: &[u8]) -> Option<[u8; SIGNATURE_BYTES]> {
        if let Ok(raw) = signature.try_into() {
            return Some(raw);
        }
        let (0x30, [length, body @ ..]) = signature.split_first().map(|(tag, rest)| (*tag, rest))? else { return None };
        let body = body.get(..usize::from(*length))?;
        let (r, rest) = integer(body)?;
        let (s, rest) = integer(rest)?;
        let mut raw = [0; SIGNATURE_BYTES];
        raw[..SIGNATURE_BYTES / 2].copy_from_slice(&r);
        raw[SIGNATURE_BYTES / 2..].copy_from_slice(&s);
        (rest.is_empty() && self == Self::Es256).then_some(raw)
    }

    /// Whether `signature` is that of `message` by the holder of `public_key`. An ECDSA signature may come in DER, as many
    /// programs write it; the manifest holds it raw.
    pub(super) fn verifies(self, public_key: &[u8], message: &[u8], signature: &[u8]) -> bool {
        let scheme: &dyn VerificationAlgorithm = match self {
            Self::Es256 if signature.len() == SIGNATURE_BYTES => &ECDSA_P256_SHA256_FIXED,
            Self::Es256 => &ECDSA_P256_SHA256_ASN1,
            Self::Ed25519 => &ED25519,
        };
        UnparsedPublicKey::new(scheme, public_key).verify(message, signature).is_ok()
    }
}

/// The DER integer in front, as 32 bytes, and what follows it.
fn integer(der: &[u8]) -> Option<([u8; 32], &[u8])> {
    let (0x02, [length, rest @ ..]) = der.split_first().map(|(tag, rest)| (*tag, rest))? else { return None };
    let (value, rest) = rest.split_at_checked(usize::from(*length))?;
    // A zero keeps the first bit from being a sign.
    let value = value.strip_prefix(&[0]).unwrap_or(value);
    let mut padded = [0; 32];
    padded.get_mut(32_usize.checked_sub(value.len())?..)?.copy_from_slice(value);
    Some((padded, rest))
}

/// Why a key file is of no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyFault {
    #[error("it holds no PEM private key that is not encrypted")]
    NoKey,
    #[error("its key is neither ECDSA on P-256 nor Ed25519")]
    Algorithm,
}

/// A private key in memory.
pub(super) enum Key {
    Es256(Box<EcdsaKeyPair>),
    Ed25519(Box<Ed25519KeyPair>),
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(hidden)")
    }
}

impl Key {
    pub(super) fn from_pem(pem: &[u8]) -> Result<Self, KeyFault> {
        match PrivateKeyDer::from_pem_slice(pem).map_err(|_| KeyFault::NoKey)? {
            PrivateKeyDer::Pkcs8(key) => Self::from_pkcs8(key.secret_pkcs8_der()),
            PrivateKeyDer::Sec1(key) => Self::from_pkcs8(&pkcs8_of_sec1(key.secret_sec1_der())),
            _ => Err(KeyFault::Algorithm),
        }
    }

    fn from_pkcs8(der: &[u8]) -> Result<Self, KeyFault> {
        let random = SystemRandom::new();
        if let Ok(key) = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der, &random) {
            return Ok(Self::Es256(Box::new(key)));
        }
        // "Maybe": OpenSSL writes Ed25519 keys without their public half.
        let key = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).map_err(|_| KeyFault::Algorithm)?;
        Ok(Self::Ed25519(Box::new(key)))
    }

    pub(super) fn public_key(&self) -> &[u8] {
        match self {
            Self::Es256(key) => key.public_key().as_ref(),
            Self::Ed25519(key) => key.public_key().as_ref(),
        }
    }

    /// `None` when the operating system has no randomness.
    pub(super) fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        match self {
            Self::Es256(key) => Some(key.sign(&SystemRandom::new(), message).ok()?.as_ref().to_vec()),
            Self::Ed25519(key) => Some(key.sign(message).as_ref().to_vec()),
        }
    }
}

fn pkcs8_of_sec1(sec1: &[u8]) -> Vec<u8> {
    let wrapped = tagged(0x04, sec1);
    tagged(0x30, &[&PKCS8_P256_HEAD, wrapped.as_slice()].concat())
}

/// A DER value with its tag and length. Key files are bounded, so two bytes hold every length.
fn tagged(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap_or(u16::MAX).to_be_bytes();
    let head: &[u8] = match length {
        [0, short @ 0..=0x7f] => &[tag, short],
        [0, long] => &[tag, 0x81, long],
        [high, low] => &[tag, 0x82, high, low],
    };
    [head, body].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn der_becomes_r_and_s() {
        let der = [&[0x30, 0x26, 0x02, 0x21, 0x00][..], &[0x81; 32], &[0x02, 0x01, 0x05]].concat();
        let raw = Algorithm::Es256.raw(&der).expect("a signature");
        assert_eq!((&raw[..32], raw[63], &raw[32..63]), (&[0x81; 32][..], 5, &[0; 31][..]));
        assert_eq!(Algorithm::Ed25519.raw(&[7; 64]), Some([7; 64]));
        for wrong in [&b""[..], &[0x30], &[0x30, 0x50, 0x02], &[7; 63], &der[..der.len() - 1]] {
            assert_eq!(Algorithm::Es256.raw(wrong), None, "{wrong:?}");
        }
    }
}
