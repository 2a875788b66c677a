//! `[admin]`, and the tokens in it (RFC 6750): what programs of this edge alone may do. People have keys, which hold on every edge.
//!
//! Invariant: a token is 256 random bits and never stored; its BLAKE3 hash is what the configuration holds.

use bildkante_shared::ids::Digest;
use serde::Deserialize;

use super::proxy::ProxyConfig;
use super::sessions::SessionConfig;
use crate::shared_state::PersonRole;

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
    /// A proxy that knows people; `None`: none is believed.
    pub proxy: Option<ProxyConfig>,
    pub sessions: SessionConfig,
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self { tokens: Vec::new(), body_bytes_max: 64 << 10, proxy: None, sessions: SessionConfig::default() }
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
    /// To give and to revoke keys of people.
    Keys,
    /// A program that looks at pictures before people do, and reports what it finds.
    Gate,
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
            Self::Keys => "keys",
            Self::Gate => "gate",
        }
    }
}

impl TokenConfig {
    /// What a token counts for where a role is asked for and no scope.
    #[must_use]
    pub fn role(&self) -> Option<PersonRole> {
        let is_operator = self.scopes.iter().any(|scope| matches!(scope, TokenScope::Purge | TokenScope::Warm));
        let is_viewer = self.scopes.contains(&TokenScope::Read);
        let is_reviewer = self.scopes.contains(&TokenScope::Review);
        let roles = [
            is_operator.then_some(PersonRole::Operator),
            is_reviewer.then_some(PersonRole::Reviewer),
            is_viewer.then_some(PersonRole::Viewer),
        ];
        roles.into_iter().max().flatten()
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
        self.sessions.check()?;
        self.proxy.as_ref().map_or(Ok(()), ProxyConfig::check)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_long_random_and_known_by_their_hash() {
        let (one, other) = (generate().unwrap(), generate().unwrap());
        assert_ne!(one, other);
        assert_eq!(one.len(), PREFIX.len() + 64);
        assert_ne!(hash(&one), hash(&other));
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
