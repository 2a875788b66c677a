//! The door of the admin listener: who asks, by which proof, and whether that opens a route.
//!
//! | proof | whose |
//! | --- | --- |
//! | a field of `[admin.proxy]` | a person, as a listed proxy says |
//! | `Authorization: Bearer` | a key of the shared state, or a token of the configuration (RFC 6750) |
//! | a cookie | a browser, in which a key was entered |
//! | none | a client on this machine may read, as long as there are neither keys nor tokens |
//!
//! Invariants: hashes are compared in constant time, all of them, whichever matches; a proof that fails is never passed over for a
//! weaker one; what a browser sends by itself (cookies, what a proxy adds) changes nothing without a proof that our own page sent
//! it: Fetch Metadata or `Origin`, and for cookies a token beside it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::{ArcSwap, Guard};
use bildkante_shared::ids::Digest;
use http::header::{AUTHORIZATION, COOKIE, FORWARDED, HOST, ORIGIN};
use http::{HeaderMap, Method, Request};

use super::principal::{Powers, Principal, Shortfall, Way};
use super::proxy::Vouched;
use super::routes::Needs;
use super::sessions::{Found, Sessions, is_same};
use super::token::AdminConfig;
use crate::budget::BudgetConfig;
use crate::listener::forwarded::Trusted;
use crate::shared_state::Published;
use crate::words::clock::Clock;

/// The field with the proof that one of our pages sent a request.
pub(super) const CSRF_FIELD: &str = "x-csrf-token";
/// Longest proof, in bytes.
const PROOF_BYTES_MAX: usize = 1_024;

/// What the door sees of a request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked<'r> {
    pub(super) method: &'r Method,
    pub(super) headers: &'r HeaderMap,
    /// Host and port that the client meant.
    pub(super) authority: Option<&'r str>,
    pub(super) peer: IpAddr,
    /// The proof that one of our pages sent it: in its field, or in a form.
    pub(super) csrf: Option<&'r str>,
}

impl<'r> Asked<'r> {
    pub(crate) fn of<B>(request: &'r Request<B>, peer: IpAddr) -> Self {
        let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
        let authority = request.uri().authority().map(http::uri::Authority::as_str).or(host);
        let csrf = request.headers().get(CSRF_FIELD).and_then(|value| value.to_str().ok());
        Self { method: request.method(), headers: request.headers(), authority, peer, csrf }
    }

    pub(super) fn is_change(&self) -> bool {
        !matches!(*self.method, Method::GET | Method::HEAD)
    }

    fn text(&self, name: &str) -> Option<&'r str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub(super) fn cookie(&self, name: &str) -> Option<&'r str> {
        let lines = self.headers.get_all(COOKIE).iter().filter_map(|line| line.to_str().ok());
        let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
        pairs.find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// Where the request was begun, as browsers tell: by Fetch Metadata, and those that do not know it by `Origin`.
    pub(super) fn source(&self) -> Source {
        if let Some(site) = self.text("sec-fetch-site") {
            return if site == "same-origin" { Source::Ours } else { Source::Foreign };
        }
        let Some(origin) = self.headers.get(ORIGIN) else { return Source::Untold };
        let host = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, host)| host);
        if host.is_some() && host == self.authority { Source::Ours } else { Source::Foreign }
    }

    /// On this machine, and not handed on from elsewhere: by a proxy, or by a name that an attacker points here (DNS rebinding).
    fn is_local(&self) -> bool {
        let is_handed_on = self.headers.contains_key("x-forwarded-for") || self.headers.contains_key(FORWARDED);
        self.peer.to_canonical().is_loopback() && !is_handed_on && self.authority.is_none_or(is_no_foreign_name)
    }
}

/// Where a request was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Ours,
    Foreign,
    /// Not by a browser, or by a very old one.
    Untold,
}

fn is_no_foreign_name(authority: &str) -> bool {
    let host = authority.rsplit_once(':').filter(|(_, port)| port.bytes().all(|it| it.is_ascii_digit()));
    let host = host.map_or(authority, |(host, _)| host).trim_start_matches('[').trim_end_matches(']');
    host.parse::<IpAddr>().is_ok() || host == "localhost" || host.ends_with(".localhost")
}

/// Why a request may not do what it asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Denial {
    NoProof,
    UnknownKey,
    Expired,
    /// The session is over, or never was.
    NoSession,
    /// Reading is open on this machine alone.
    NotLocal,
    /// A field of the named proxy, from somebody else.
    Stranger,
    /// What the proxy says cannot be read.
    Unclear,
    WithoutRole {
        name: String,
    },
    /// It may have been sent by a foreign page.
    Forgeable,
    Short(Shortfall),
}

/// What is open to those without a proof, as long as there are no keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// Closed by tokens, too.
    Api,
    /// Tokens are for programs: they leave the pages open.
    Pages,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Gatekeeper {
    config: ArcSwap<AdminConfig>,
    published: Published,
    trusted: Trusted,
    pub(super) sessions: Sessions,
    transport: Transport,
    clock: Clock,
}

/// How clients reach the listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Plain,
    Tls,
}

impl Gatekeeper {
    pub(super) fn new(config: &AdminConfig, budget: &BudgetConfig, grounds: Grounds) -> Self {
        let Grounds { published, trusted, transport, clock } = grounds;
        let sessions = Sessions::new(budget);
        Self { config: ArcSwap::from_pointee(config.clone()), published, trusted, sessions, transport, clock }
    }

    /// From here on these tokens, this proxy and these lifetimes count.
    pub(super) fn replace(&self, config: &AdminConfig) {
        self.config.store(Arc::new(config.clone()));
    }

    pub(super) fn config(&self) -> Guard<Arc<AdminConfig>> {
        self.config.load()
    }

    /// Who asks, where that one may use a route with these needs.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn admit(&self, asked: &Asked<'_>, needs: Needs, part: Part) -> Result<Principal, Denial> {
        let who = self.identify(asked, part)?;
        who.meets(needs).map_err(Denial::Short)?;
        Ok(who)
    }

    fn identify(&self, asked: &Asked<'_>, part: Part) -> Result<Principal, Denial> {
        let config = self.config.load();
        if let Some(proxy) = &config.proxy {
            match proxy.vouches(asked.peer, asked.headers) {
                Vouched::Nobody => {}
                Vouched::Person(_) if asked.is_change() && asked.source() == Source::Foreign => {
                    return Err(Denial::Forgeable);
                }
                Vouched::Person(person) => return Ok(person),
                Vouched::Stranger => return Err(Denial::Stranger),
                Vouched::Unclear => return Err(Denial::Unclear),
                Vouched::WithoutRole { name } => return Err(Denial::WithoutRole { name }),
            }
        }
        let is_open = config.proxy.is_none()
            && self.published.load().access().is_empty()
            && (part == Part::Pages || config.tokens.is_empty());
        if is_open && asked.is_local() {
            // Those who logged in with a token are known by it; a session that is over is no hindrance.
            let session = asked.cookie(self.cookie_name(asked)).map(|cookie| self.of_session(asked, cookie));
            return match session {
                Some(Err(denial @ Denial::Forgeable)) => Err(denial),
                Some(Ok(who)) => Ok(who),
                Some(Err(_)) | None => Ok(Principal::anybody()),
            };
        }
        if asked.headers.contains_key(AUTHORIZATION) {
            return self.holder(&Digest::of_bytes(bearer(asked.headers).ok_or(Denial::NoProof)?.as_bytes()));
        }
        match asked.cookie(self.cookie_name(asked)) {
            Some(cookie) => self.of_session(asked, cookie),
            None if is_open => Err(Denial::NotLocal),
            None => Err(Denial::NoProof),
        }
    }

    fn of_session(&self, asked: &Asked<'_>, cookie: &str) -> Result<Principal, Denial> {
        let config = self.config.load();
        let found = self.sessions.find(cookie, &config.sessions, Instant::now()).ok_or(Denial::NoSession)?;
        let Found { credential, csrf } = found;
        let is_proven = || asked.csrf.is_some_and(|sent| is_same(sent, &csrf));
        if asked.is_change() && (asked.source() != Source::Ours || !is_proven()) {
            return Err(Denial::Forgeable);
        }
        let holder = self.holder(&credential).map_err(|_| Denial::NoSession)?;
        Ok(Principal { way: Way::Session { csrf }, ..holder })
    }

    /// Whose the key or token with this hash is, now.
    pub(super) fn holder(&self, presented: &Digest) -> Result<Principal, Denial> {
        let presented = blake3::Hash::from_bytes(*presented.as_bytes());
        // blake3 compares its hashes in constant time.
        let is_it = |hash: &Digest| presented == blake3::Hash::from_bytes(*hash.as_bytes());
        let config = self.config.load();
        let token =
            config.tokens.iter().fold(None, |found, token| if is_it(&token.hash) { Some(token) } else { found });
        let state = self.published.load();
        let keys = state.access().each();
        let kept = keys.fold(None, |found, kept| if is_it(&kept.key.hash) { Some(kept) } else { found });
        match (token, kept) {
            (Some(token), _) => {
                Ok(Principal { name: token.name.clone(), powers: Powers::Scopes(token.clone()), way: Way::Token })
            }
            (None, Some(kept)) if kept.key.expires_unix_ms <= self.clock.unix_s().saturating_mul(1_000) => {
                Err(Denial::Expired)
            }
            (None, Some(kept)) => Ok(Principal {
                name: kept.key.name.clone(),
                powers: Powers::Grants(kept.key.roles.clone()),
                way: Way::Key(kept.key.id()),
            }),
            (None, None) => Err(Denial::UnknownKey),
        }
    }

    /// Whether nothing is read between the browser and us, or our proxy.
    pub(super) fn is_private(&self, asked: &Asked<'_>) -> bool {
        self.is_secure(asked) || asked.is_local()
    }

    pub(super) fn is_secure(&self, asked: &Asked<'_>) -> bool {
        let config = self.config.load();
        let is_proxy =
            || self.trusted.trusts(asked.peer) || config.proxy.as_ref().is_some_and(|proxy| proxy.is_of(asked.peer));
        self.transport == Transport::Tls || (asked.text("x-forwarded-proto") == Some("https") && is_proxy())
    }

    /// Whose attempts are counted.
    pub(super) fn client(&self, asked: &Asked<'_>) -> IpAddr {
        self.trusted.client(asked.peer, asked.headers)
    }

    /// `__Host-` where browsers take it: for this host alone, and over TLS.
    pub(super) fn cookie_name(&self, asked: &Asked<'_>) -> &'static str {
        if self.is_secure(asked) { "__Host-bildkante" } else { "bildkante" }
    }
}

/// What the door stands on.
#[derive(Debug)]
pub struct Grounds {
    /// The keys in force.
    pub published: Published,
    /// Proxies that name the client.
    pub trusted: Trusted,
    pub transport: Transport,
    /// By which keys expire.
    pub clock: Clock,
}

/// `Authorization: Bearer …`, once.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next()?.to_str().ok()?;
    if values.next().is_some() {
        return None;
    }
    let (scheme, proof) = value.split_once(' ')?;
    let proof = proof.trim();
    let is_bearer = scheme.eq_ignore_ascii_case("bearer") && (1..=PROOF_BYTES_MAX).contains(&proof.len());
    is_bearer.then_some(proof)
}

#[cfg(test)]
mod tests;
