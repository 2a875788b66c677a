//! Content addresses.
//!
//! Recipe and master ids are BLAKE3-128 in lower-case Crockford base32 (26 characters); file and checkpoint
//! digests are full BLAKE3-256 in lower-case hexadecimal with a `blake3:` prefix, as they appear in locks.

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use data_encoding::{Encoding, Specification};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What is wrong with a textual id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    #[error("an id has {ID_CHARS} characters of lower-case Crockford base32, this one has {0}")]
    Length(usize),
    #[error("an id is written in lower-case Crockford base32 (0-9 a-z without i, l, o, u)")]
    Alphabet,
    #[error("a digest is written `blake3:` and 64 lower-case hexadecimal digits")]
    Digest,
}

/// Characters in a printed 128-bit id.
pub const ID_CHARS: usize = 26;

static CROCKFORD: LazyLock<Encoding> = LazyLock::new(|| {
    let mut spec = Specification::new();
    spec.symbols.push_str("0123456789abcdefghjkmnpqrstvwxyz");
    #[allow(clippy::expect_used, reason = "a constant specification; a unit test builds it")]
    spec.encoding().expect("the Crockford alphabet is a valid base32 specification")
});

/// Any 128 bits in the spelling of an id: for keys that are no recipe's and no master's.
#[must_use]
pub fn encode_128(raw: &[u8; 16]) -> String {
    CROCKFORD.encode(raw)
}

/// The inverse of [`encode_128`].
///
/// # Errors
/// When the text is not the one spelling of 128 bits.
pub fn decode_128(text: &str) -> Result<[u8; 16], IdError> {
    if text.len() != ID_CHARS {
        return Err(IdError::Length(text.len()));
    }
    let raw = CROCKFORD.decode(text.as_bytes()).map_err(|_| IdError::Alphabet)?;
    raw.try_into().map_err(|_| IdError::Alphabet)
}

macro_rules! id128 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name([u8; 16]);

        impl $name {
            /// The first 128 bits of the BLAKE3 hash of `bytes`.
            #[must_use]
            pub fn of_bytes(bytes: &[u8]) -> Self {
                Self::from_hash(&blake3::hash(bytes))
            }

            /// The first 128 bits of a finished BLAKE3 hash.
            #[must_use]
            pub fn from_hash(hash: &blake3::Hash) -> Self {
                let mut id = [0; 16];
                id.copy_from_slice(&hash.as_bytes()[..16]);
                Self(id)
            }

            #[must_use]
            pub const fn from_raw(raw: [u8; 16]) -> Self {
                Self(raw)
            }

            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&encode_128(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                decode_128(text).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

id128! {
    /// BLAKE3-128 of a recipe's canonical JSON (RFC 8785).
    RecipeId
}
id128! {
    /// BLAKE3-128 of a master's width, height and pixels.
    MasterId
}

/// BLAKE3-256 of a file or of a checkpoint folder.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

impl Digest {
    #[must_use]
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    #[must_use]
    pub const fn from_hash(hash: &blake3::Hash) -> Self {
        Self(*hash.as_bytes())
    }

    #[must_use]
    pub const fn from_raw(raw: [u8; 32]) -> Self {
        Self(raw)
    }

    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The hexadecimal digits without the `blake3:` prefix.
    #[must_use]
    pub fn to_hex(&self) -> String {
        data_encoding::HEXLOWER.encode(&self.0)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "blake3:{}", self.to_hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

impl FromStr for Digest {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let hex = text.strip_prefix("blake3:").ok_or(IdError::Digest)?;
        let raw = data_encoding::HEXLOWER.decode(hex.as_bytes()).map_err(|_| IdError::Digest)?;
        Ok(Self(raw.try_into().map_err(|_| IdError::Digest)?))
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_print_as_26_crockford_characters_and_parse_back() {
        let id = RecipeId::of_bytes(b"a teal mug");
        let text = id.to_string();
        assert_eq!(text.len(), ID_CHARS);
        assert!(text.chars().all(|c| "0123456789abcdefghjkmnpqrstvwxyz".contains(c)));
        assert_eq!(text.parse(), Ok(id));
    }

    #[test]
    fn wrong_ids_say_what_is_wrong() {
        assert_eq!("".parse::<MasterId>(), Err(IdError::Length(0)));
        assert_eq!("u".repeat(26).parse::<MasterId>(), Err(IdError::Alphabet));
        assert_eq!("Z".repeat(26).parse::<MasterId>(), Err(IdError::Alphabet));
        assert_eq!("sha256:00".parse::<Digest>(), Err(IdError::Digest));
    }

    #[test]
    fn trailing_bits_must_be_zero_so_that_an_id_has_one_spelling() {
        // 26 characters hold 130 bits: the last two are padding.
        let mut text = RecipeId::from_raw([0; 16]).to_string();
        text.pop();
        text.push('1');
        assert_eq!(text.parse::<RecipeId>(), Err(IdError::Alphabet));
    }

    #[test]
    fn digests_round_trip() {
        let digest = Digest::of_bytes(b"weights");
        assert_eq!(digest.to_string().parse(), Ok(digest));
    }
}
