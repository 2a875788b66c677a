//! The keys: a TOML file, signing with one of them and verifying with any.
//!
//! ```toml
//! [[keys]]
//! kid = "2026-11"
//! secret = "base64 of 32 to 64 random bytes"
//! retired = false                        # true: verifies what is out already, signs nothing new
//! not_after = 2027-06-30T00:00:00Z       # optional: from then on it verifies nothing
//! ```
//!
//! A rotation adds a key, retires the old one, and removes it when the last URL it signed has expired. Secrets appear in
//! no error, log or `Debug` output.

use std::fmt;

use data_encoding::{BASE64, BASE64URL_NOPAD};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use serde::Deserialize;
use toml::value::Datetime;

use super::{Grant, SignatureError, moment};
use crate::request::{Signable, SignatureAsk, is_token};

/// Most keys of a file.
pub const KEYS_MAX: usize = 64;
/// Shortest secret: as long as the hash, below which HMAC loses strength (RFC 2104 §3).
pub const SECRET_BYTES_MIN: usize = 32;
/// Longest secret: the hash's block, above which it would be hashed down.
pub const SECRET_BYTES_MAX: usize = 64;
/// Longest `kid`.
const KEY_ID_BYTES_MAX: usize = 32;

/// Whether a key still signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyRole {
    Active,
    /// Verifies URLs that are out already.
    Retired,
}

/// The keys of a moment, in the order of the file.
#[derive(Debug)]
pub struct SigningKeys {
    keys: Vec<SigningKey>,
}

struct SigningKey {
    id: String,
    hmac: hmac::Key,
    role: KeyRole,
    not_after_s: Option<u64>,
}

impl SigningKey {
    fn is_over(&self, now_s: u64) -> bool {
        self.not_after_s.is_some_and(|not_after_s| now_s >= not_after_s)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey")
            .field("id", &self.id)
            .field("role", &self.role)
            .field("not_after_s", &self.not_after_s)
            .finish_non_exhaustive()
    }
}

/// Why a file of keys cannot be used. Never quotes a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    #[error("line {line}: {reason}")]
    Toml { line: usize, reason: String },
    #[error("the file holds no key: it has at least one [[keys]]")]
    Empty,
    #[error("the file holds more than {KEYS_MAX} keys")]
    TooMany,
    #[error("key {number}: `kid` is 1 to {KEY_ID_BYTES_MAX} letters, digits, `-`, `_` and `.`")]
    KeyId { number: usize },
    #[error("key {number}: `kid` stands twice")]
    Twice { number: usize },
    #[error("key {number}: `secret` is the base64, with padding, of {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX} bytes")]
    Secret { number: usize },
    #[error("key {number}: `not_after` is a date such as 2027-06-30T00:00:00Z")]
    NotAfter { number: usize },
}

/// Why nothing was signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    #[error("there is no key `{0}`")]
    UnknownKey(String),
    #[error("key `{0}` is retired and signs nothing new")]
    Retired(String),
    #[error("key `{0}` is no longer valid")]
    KeyExpired(String),
    #[error("no key signs: every one is retired or no longer valid")]
    NoKey,
    #[error("the URL would expire before now")]
    Expired,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    keys: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    kid: String,
    secret: String,
    #[serde(default)]
    retired: bool,
    not_after: Option<Datetime>,
}

/// What may be told of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyFacts<'a> {
    pub id: &'a str,
    pub role: KeyRole,
    /// Whether it is past its end.
    pub is_over: bool,
}

impl SigningKeys {
    /// Every key, in the order of the file.
    pub fn facts(&self, now_s: u64) -> impl Iterator<Item = KeyFacts<'_>> {
        self.keys.iter().map(move |key| KeyFacts { id: &key.id, role: key.role, is_over: key.is_over(now_s) })
    }

    /// Reads a file's text.
    ///
    /// # Errors
    /// What is wrong with it; a file without keys is, so that one caught half written is.
    pub fn parse(text: &str) -> Result<Self, KeysError> {
        let file: File = toml::from_str(text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start.min(text.len()));
            let line = text.as_bytes()[..start].iter().filter(|byte| **byte == b'\n').count() + 1;
            KeysError::Toml { line, reason: without_quoted(error.message()) }
        })?;
        if file.keys.is_empty() {
            return Err(KeysError::Empty);
        }
        if file.keys.len() > KEYS_MAX {
            return Err(KeysError::TooMany);
        }
        let mut keys: Vec<SigningKey> = Vec::with_capacity(file.keys.len());
        for (number, entry) in (1..).zip(file.keys) {
            let key = SigningKey::new(entry, number)?;
            if keys.iter().any(|known| known.id == key.id) {
                return Err(KeysError::Twice { number });
            }
            keys.push(key);
        }
        Ok(Self { keys })
    }

    #[must_use]
    pub const fn len(&self) -> usize {
        self.keys.len()
    }

    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// What a request is granted at `now_s`.
    ///
    /// # Errors
    /// When it is signed and the signature is of no use now.
    pub fn verify<'r>(&self, request: &impl Signable<'r>, now_s: u64) -> Result<Grant, SignatureError> {
        let Some(ask) = request.signature() else { return Ok(Grant::Public) };
        let key = self.keys.iter().find(|key| key.id == ask.key_id).ok_or(SignatureError::UnknownKey)?;
        key.check(request, ask)?;
        if key.is_over(now_s) {
            return Err(SignatureError::KeyExpired);
        }
        if ask.expires_s.is_some_and(|expires_s| now_s >= expires_s) {
            return Err(SignatureError::Expired);
        }
        let ends_s = [ask.expires_s, key.not_after_s].into_iter().flatten().min();
        Ok(Grant::Signed { left_s: ends_s.map(|ends_s| u32::try_from(ends_s - now_s).unwrap_or(u32::MAX)) })
    }

    /// The request with a signature of the key `key_id`, or of the first that signs. A signature it had is replaced.
    ///
    /// # Errors
    /// When that key signs nothing at `now_s`, or the URL would have expired already.
    pub fn sign<'r, R: Signable<'r>>(
        &self,
        request: &R,
        key_id: Option<&str>,
        expires_s: Option<u64>,
        now_s: u64,
    ) -> Result<R, SignError> {
        let key = self.signer(key_id, now_s)?;
        if expires_s.is_some_and(|expires_s| now_s >= expires_s) {
            return Err(SignError::Expired);
        }
        let ask =
            |signature: String| SignatureAsk { key_id: key.id.clone().into(), expires_s, signature: signature.into() };
        let tag = hmac::sign(&key.hmac, request.with_signature(ask(String::new())).signed_text().as_bytes());
        Ok(request.with_signature(ask(BASE64URL_NOPAD.encode(tag.as_ref()))))
    }

    /// What may be told of the key that signs at `now_s` where none is named, and when it ends.
    #[must_use]
    pub fn active(&self, now_s: u64) -> Option<(&str, Option<u64>)> {
        self.signer(None, now_s).ok().map(|key| (key.id.as_str(), key.not_after_s))
    }

    fn signer(&self, key_id: Option<&str>, now_s: u64) -> Result<&SigningKey, SignError> {
        let Some(key_id) = key_id else {
            let signs = |key: &&SigningKey| key.role == KeyRole::Active && !key.is_over(now_s);
            return self.keys.iter().find(signs).ok_or(SignError::NoKey);
        };
        let named = self.keys.iter().find(|key| key.id == key_id);
        match named {
            None => Err(SignError::UnknownKey(key_id.to_owned())),
            Some(key) if key.role == KeyRole::Retired => Err(SignError::Retired(key.id.clone())),
            Some(key) if key.is_over(now_s) => Err(SignError::KeyExpired(key.id.clone())),
            Some(key) => Ok(key),
        }
    }
}

impl SigningKey {
    fn new(entry: Entry, number: usize) -> Result<Self, KeysError> {
        if !is_key_id(&entry.kid) {
            return Err(KeysError::KeyId { number });
        }
        let secret = BASE64.decode(entry.secret.as_bytes()).ok();
        let secret = secret.filter(|secret| (SECRET_BYTES_MIN..=SECRET_BYTES_MAX).contains(&secret.len()));
        let secret = secret.ok_or(KeysError::Secret { number })?;
        let not_after_s = match &entry.not_after {
            Some(not_after) => Some(moment::unix_s(not_after).ok_or(KeysError::NotAfter { number })?),
            None => None,
        };
        Ok(Self {
            id: entry.kid,
            hmac: hmac::Key::new(hmac::HMAC_SHA256, &secret),
            role: if entry.retired { KeyRole::Retired } else { KeyRole::Active },
            not_after_s,
        })
    }

    fn check<'r>(&self, request: &impl Signable<'r>, ask: &SignatureAsk<'r>) -> Result<(), SignatureError> {
        let tag = BASE64URL_NOPAD.decode(ask.signature.as_bytes()).map_err(|_| SignatureError::Wrong)?;
        hmac::verify(&self.hmac, request.signed_text().as_bytes(), &tag).map_err(|_| SignatureError::Wrong)
    }
}

fn is_key_id(text: &str) -> bool {
    text.len() <= KEY_ID_BYTES_MAX && is_token(text) && !text.contains('=')
}

/// A message without what it quotes: a value of the file, or a key that no file has, may be a secret that slipped into
/// the wrong place. An unknown key that looks like a real one stays, because a typing error is to be seen.
fn without_quoted(message: &str) -> String {
    const KEY_BYTES_MAX: usize = 16;
    let unknown = message.strip_prefix("unknown field `").and_then(|rest| rest.rsplit_once("`, expected "));
    if let Some((name, expected)) = unknown {
        let is_word = name.len() <= KEY_BYTES_MAX && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        return format!("unknown field `{}`, expected {expected}", if is_word { name } else { "…" });
    }
    let pieces = message.split('"').enumerate();
    pieces.map(|(index, piece)| if index % 2 == 0 { piece } else { "\"…\"" }).collect()
}

/// An entry for the file with a new random secret of 32 bytes.
///
/// # Errors
/// When the system has no random bytes, or `key_id` is none.
pub fn new_key_entry(key_id: &str) -> Result<String, KeysError> {
    if !is_key_id(key_id) {
        return Err(KeysError::KeyId { number: 1 });
    }
    let mut secret = [0; SECRET_BYTES_MIN];
    SystemRandom::new().fill(&mut secret).map_err(|_| KeysError::Secret { number: 1 })?;
    Ok(format!("[[keys]]\nkid = \"{key_id}\"\nsecret = \"{}\"\n", BASE64.encode(&secret)))
}
