//! Bearer tokens of the admin API (RFC 6750): who may do what.
//!
//! Invariants: a token is 256 random bits and never stored, its BLAKE3 hash is what the configuration holds; hashes
//! are compared in constant time, all of them, whichever matches.

use std::sync::Arc;

use arc_swap::ArcSwap;
use bildkante_shared::ids::Digest;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use serde::Deserialize;

/// What makes a token recognisable, to people and to scanners of leaked secrets.
const PREFIX: &str = "bk_";
/// Most tokens.
const TOKENS_MAX: usize = 64;

/// `[admin]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdminConfig {
    pub tokens: Vec<TokenConfig>,
    /// Longest body of a request.
    pub body_bytes_max: usize,
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self { tokens: Vec::new(), body_bytes_max: 64 << 10 }
    }
}

/// One token.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenConfig {
    /// Stands in the audit's lines.
    pub name: String,
    /// `blake3:` and 64 hexadecimal digits, as `bildkante-edge token` prints it.
    pub hash: Digest,
    pub scopes: Vec<TokenScope>,
}

/// What a token is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenScope {
    Read,
    Purge,
    Warm,
    Import,
    /// To kill, to lift, and to erase a name of the audit.
    Kill,
    /// To rule on pictures before reviewers, and to see them.
    Review,
    /// To read the audit, which says what people did.
    Audit,
    /// An edge that follows this one, and sends on what people ask of it in their names.
    State,
}

impl TokenScope {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Purge => "purge",
            Self::Warm => "warm",
            Self::Import => "import",
            Self::Kill => "kill",
            Self::Review => "review",
            Self::Audit => "audit",
            Self::State => "state",
        }
    }
}

impl AdminConfig {
    /// # Errors
    /// Says what cannot be right.
    pub fn check(&self) -> Result<(), String> {
        if self.body_bytes_max == 0 {
            return Err("`admin.body_bytes_max` must not be 0".to_owned());
        }
        if self.tokens.len() > TOKENS_MAX {
            return Err(format!("more than {TOKENS_MAX} `admin.tokens`"));
        }
        for (index, token) in self.tokens.iter().enumerate() {
            if token.name.is_empty() || token.name.len() > 64 || token.name.chars().any(char::is_control) {
                return Err(
                    "the name of an `admin.tokens` is empty, longer than 64 bytes or has control characters".to_owned()
                );
            }
            if self.tokens[..index].iter().any(|other| other.name == token.name) {
                return Err(format!("two `admin.tokens` are named `{}`", token.name));
            }
        }
        Ok(())
    }
}

/// A fresh token.
///
/// # Errors
/// When the system has no randomness.
pub fn generate() -> std::io::Result<String> {
    use std::fmt::Write as _;
    let mut secret = [0_u8; 32];
    getrandom::fill(&mut secret).map_err(std::io::Error::other)?;
    let mut token = PREFIX.to_owned();
    for byte in secret {
        let _ = write!(token, "{byte:02x}");
    }
    Ok(token)
}

/// What the configuration holds of a token.
#[must_use]
pub fn hash(token: &str) -> Digest {
    Digest::of_bytes(token.as_bytes())
}

/// Why a request may not do what it asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denial {
    /// No token is configured, so no change is allowed.
    NotConfigured,
    NoToken,
    UnknownToken,
    MissingScope(TokenScope),
}

/// Knows the tokens.
#[derive(Debug)]
pub struct Gatekeeper {
    tokens: ArcSwap<Vec<TokenConfig>>,
}

/// The name in the audit line where no token is asked for.
const ANYBODY: &str = "anybody";

impl Gatekeeper {
    #[must_use]
    pub fn new(config: &AdminConfig) -> Self {
        Self { tokens: ArcSwap::from_pointee(config.tokens.clone()) }
    }

    /// From here on these tokens count and no others.
    pub fn replace(&self, config: &AdminConfig) {
        self.tokens.store(Arc::new(config.tokens.clone()));
    }

    /// The name of the token that allows it. Without tokens reading is open, as the metrics are.
    ///
    /// # Errors
    /// Why not.
    pub fn admit(&self, headers: &HeaderMap, scope: TokenScope) -> Result<String, Denial> {
        let tokens = self.tokens.load();
        if tokens.is_empty() {
            return if scope == TokenScope::Read { Ok(ANYBODY.to_owned()) } else { Err(Denial::NotConfigured) };
        }
        let presented = bearer(headers).ok_or(Denial::NoToken)?;
        let presented = blake3::hash(presented.as_bytes());
        let mut found = None;
        for token in tokens.iter() {
            // blake3 compares its hashes in constant time.
            if presented == blake3::Hash::from_bytes(*token.hash.as_bytes()) {
                found = Some(token);
            }
        }
        let token = found.ok_or(Denial::UnknownToken)?;
        if token.scopes.contains(&scope) { Ok(token.name.clone()) } else { Err(Denial::MissingScope(scope)) }
    }
}

/// `Authorization: Bearer …`, once.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next()?.to_str().ok()?;
    if values.next().is_some() {
        return None;
    }
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keeper(token: &str) -> Gatekeeper {
        let text = format!("tokens = [{{ name = 'ci', hash = '{}', scopes = ['read', 'purge'] }}]", hash(token));
        let config: AdminConfig = toml::from_str(&text).unwrap();
        config.check().unwrap();
        Gatekeeper::new(&config)
    }

    fn headers(values: &[&str]) -> HeaderMap {
        values.iter().map(|value| (AUTHORIZATION, value.parse().unwrap())).collect()
    }

    #[test]
    fn tokens_are_long_random_and_known_by_their_hash() {
        let (one, other) = (generate().unwrap(), generate().unwrap());
        assert_ne!(one, other);
        assert_eq!(one.len(), PREFIX.len() + 64);
        let keeper = keeper(&one);
        let admit = |text: &str, scope| keeper.admit(&headers(&[text]), scope);
        assert_eq!(admit(&format!("Bearer {one}"), TokenScope::Purge), Ok("ci".to_owned()));
        assert_eq!(admit(&format!("bearer  {one} "), TokenScope::Read), Ok("ci".to_owned()));
        assert_eq!(admit(&format!("Bearer {one}"), TokenScope::Warm), Err(Denial::MissingScope(TokenScope::Warm)));
        assert_eq!(admit(&format!("Bearer {other}"), TokenScope::Read), Err(Denial::UnknownToken));
        for wrong in [format!("Basic {one}"), one.clone(), "Bearer".to_owned(), String::new()] {
            assert_eq!(admit(&wrong, TokenScope::Read), Err(Denial::NoToken), "{wrong}");
        }
        let twice = headers(&[&format!("Bearer {one}"), &format!("Bearer {one}")]);
        assert_eq!(keeper.admit(&twice, TokenScope::Read), Err(Denial::NoToken));
        // Every single character counts.
        for at in 0..one.len() {
            let mut bytes = one.clone().into_bytes();
            bytes[at] ^= 1;
            let damaged = format!("Bearer {}", String::from_utf8(bytes).unwrap());
            assert_eq!(admit(&damaged, TokenScope::Read), Err(Denial::UnknownToken));
        }
    }

    #[test]
    fn replaced_tokens_count_at_once_and_the_old_ones_no_longer() {
        let keeper = keeper("old");
        let admit = |text: &str| keeper.admit(&headers(&[&format!("Bearer {text}")]), TokenScope::Purge);
        let text = format!("tokens = [{{ name = 'new', hash = '{}', scopes = ['purge'] }}]", hash("fresh"));
        keeper.replace(&toml::from_str(&text).unwrap());
        assert_eq!((admit("old"), admit("fresh")), (Err(Denial::UnknownToken), Ok("new".to_owned())));
    }

    #[test]
    fn without_tokens_any_client_reads_and_none_changes() {
        let keeper = Gatekeeper::new(&AdminConfig::default());
        assert_eq!(keeper.admit(&HeaderMap::new(), TokenScope::Read), Ok("anybody".to_owned()));
        assert_eq!(keeper.admit(&HeaderMap::new(), TokenScope::Purge), Err(Denial::NotConfigured));
    }

    #[test]
    fn wrong_tokens_are_refused_by_name() {
        let hash = hash("x");
        let one = format!("{{ name = 'a', hash = '{hash}', scopes = [] }}");
        let config: AdminConfig = toml::from_str(&format!("tokens = [{one}, {one}]")).unwrap();
        assert!(config.check().unwrap_err().contains("two `admin.tokens` are named `a`"));
        assert!(toml::from_str::<AdminConfig>("tokens = [{ name = 'a', hash = 'abc', scopes = [] }]").is_err());
        assert!(
            toml::from_str::<AdminConfig>(&format!("tokens = [{{ name = 'a', hash = '{hash}', scopes = ['all'] }}]"))
                .is_err()
        );
    }
}
