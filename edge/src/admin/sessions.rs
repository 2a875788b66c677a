//! Browser sessions: a key that was entered once, behind a cookie.
//!
//! Invariants: a cookie is 256 random bits, and the table holds their hash; a session is as good as its key at each request, so that
//! a key that was revoked or has expired ends it; it ends when it rests too long, and at a set time whatever happens; table and
//! attempts are bounded. Sessions are this edge's own and end with its process.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bildkante_shared::ids::Digest;
use moka::sync::Cache;
use parking_lot::Mutex;
use serde::Deserialize;

use crate::budget::{Bucket, BudgetConfig, Network, Rate};

/// Sessions at a time; past them the one that has rested longest ends.
const SESSIONS_MAX: usize = 4_096;
/// Networks whose attempts are counted.
const NETWORKS_MAX: u64 = 65_536;
const HOUR_S: u64 = 3_600;

/// `[admin.sessions]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SessionConfig {
    /// A session ends when it has rested for so long, in seconds,
    pub idle_s: u64,
    /// and when it is so old, in seconds.
    pub absolute_s: u64,
    /// Keys that clients of one network may try at once, and per minute after that.
    pub attempts_per_minute: u32,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self { idle_s: HOUR_S / 2, absolute_s: 12 * HOUR_S, attempts_per_minute: 10 }
    }
}

impl SessionConfig {
    /// # Errors
    /// Says what cannot be right.
    pub fn check(&self) -> Result<(), String> {
        if self.idle_s == 0 || self.absolute_s < self.idle_s || self.absolute_s > 31 * 24 * HOUR_S {
            return Err("`admin.sessions` takes an `idle_s` over 0, and an `absolute_s` from it to 31 days".to_owned());
        }
        if self.attempts_per_minute == 0 {
            return Err("`admin.sessions.attempts_per_minute` must not be 0".to_owned());
        }
        Ok(())
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Sessions {
    open: Mutex<HashMap<Digest, Session>>,
    attempts: Cache<Network, Arc<Mutex<Bucket>>>,
    networks: BudgetConfig,
}

#[derive(Debug, Clone)]
struct Session {
    /// The hash of the key that was entered.
    credential: Digest,
    csrf: String,
    began: Instant,
    used: Instant,
}

/// A session as a request finds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) credential: Digest,
    pub(super) csrf: String,
}

impl Sessions {
    pub(super) fn new(networks: &BudgetConfig) -> Self {
        Self { open: Mutex::default(), attempts: Cache::new(NETWORKS_MAX), networks: networks.clone() }
    }

    /// Whether a client of this network may try a key now.
    pub(super) fn may_try(&self, client: IpAddr, config: &SessionConfig, now: Instant) -> bool {
        let Some(rate) = Rate::new(config.attempts_per_minute, config.attempts_per_minute) else { return false };
        let network = Network::of(client, &self.networks);
        let bucket = self.attempts.get_with(network, || Arc::new(Mutex::new(Bucket::full(rate, now))));
        bucket.lock().take(rate, now)
    }

    /// Begins a session; the value of its cookie.
    ///
    /// # Errors
    /// When the system gives no random bits.
    pub(super) fn begin(&self, credential: Digest, config: &SessionConfig, now: Instant) -> std::io::Result<String> {
        let (cookie, csrf) = (random()?, random()?);
        let mut open = self.open.lock();
        open.retain(|_, session| session.is_open(config, now));
        if open.len() >= SESSIONS_MAX {
            let rested = open.iter().min_by_key(|(_, session)| session.used).map(|(id, _)| *id);
            rested.and_then(|id| open.remove(&id));
        }
        open.insert(id(&cookie), Session { credential, csrf, began: now, used: now });
        Ok(cookie)
    }

    /// The session of a cookie, which rests no longer.
    pub(super) fn find(&self, cookie: &str, config: &SessionConfig, now: Instant) -> Option<Found> {
        let id = id(cookie);
        let mut open = self.open.lock();
        let session = open.get_mut(&id)?;
        if !session.is_open(config, now) {
            open.remove(&id);
            return None;
        }
        session.used = now;
        Some(Found { credential: session.credential, csrf: session.csrf.clone() })
    }

    pub(super) fn end(&self, cookie: &str) {
        self.open.lock().remove(&id(cookie));
    }
}

impl Session {
    fn is_open(&self, config: &SessionConfig, now: Instant) -> bool {
        let (rested, old) = (now.saturating_duration_since(self.used), now.saturating_duration_since(self.began));
        rested < Duration::from_secs(config.idle_s) && old < Duration::from_secs(config.absolute_s)
    }
}

/// The table is searched by a hash, so that the time of a search says nothing of a cookie.
fn id(cookie: &str) -> Digest {
    Digest::of_bytes(cookie.as_bytes())
}

/// 256 random bits in hexadecimal digits.
pub(super) fn random() -> std::io::Result<String> {
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes).map_err(std::io::Error::other)?;
    let mut text = String::with_capacity(64);
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    Ok(text)
}

/// Whether two secrets are the same, in a time that says nothing of where they differ.
pub(super) fn is_same(one: &str, other: &str) -> bool {
    // blake3 compares its hashes in constant time.
    blake3::hash(one.as_bytes()) == blake3::hash(other.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: SessionConfig = SessionConfig { idle_s: 60, absolute_s: 200, attempts_per_minute: 3 };

    #[test]
    fn a_session_ends_when_it_rests_and_when_it_is_old() {
        let (sessions, begin) = (Sessions::new(&BudgetConfig::default()), Instant::now());
        let at = |seconds: u64| begin + Duration::from_secs(seconds);
        let credential = Digest::of_bytes(b"a key");
        let cookie = sessions.begin(credential, &CONFIG, begin).unwrap();
        let found = sessions.find(&cookie, &CONFIG, at(59)).expect("it rests for a minute");
        assert_eq!(found.credential, credential);
        assert_ne!(found.csrf, cookie);
        assert_eq!(sessions.find(&cookie, &CONFIG, at(118)).map(|it| it.csrf), Some(found.csrf), "use keeps it");
        assert!(sessions.find(&cookie, &CONFIG, at(177)).is_some());
        assert_eq!(sessions.find(&cookie, &CONFIG, at(200)), None, "use does not keep it for ever");
        assert_eq!(sessions.find(&cookie, &CONFIG, at(178)), None, "what has ended stays so");

        let cookie = sessions.begin(credential, &CONFIG, begin).unwrap();
        assert_eq!(sessions.find(&cookie, &CONFIG, at(60)), None, "it rested");
        let cookie = sessions.begin(credential, &CONFIG, begin).unwrap();
        for wrong in ["", "x", &cookie[1..], &cookie.to_uppercase()] {
            assert_eq!(sessions.find(wrong, &CONFIG, begin), None, "{wrong}");
        }
        sessions.end(&cookie);
        assert_eq!(sessions.find(&cookie, &CONFIG, begin), None);
    }

    #[test]
    fn the_table_is_bounded_and_the_longest_rest_ends_first() {
        let (sessions, begin) = (Sessions::new(&BudgetConfig::default()), Instant::now());
        let credential = Digest::of_bytes(b"a key");
        let first = sessions.begin(credential, &CONFIG, begin).unwrap();
        let second = sessions.begin(credential, &CONFIG, begin + Duration::from_millis(1)).unwrap();
        let later = begin + Duration::from_secs(1);
        for _ in 2..=SESSIONS_MAX {
            sessions.begin(credential, &CONFIG, later).unwrap();
        }
        assert_eq!(sessions.open.lock().len(), SESSIONS_MAX);
        assert_eq!(sessions.find(&first, &CONFIG, later), None);
        assert!(sessions.find(&second, &CONFIG, later).is_some());
    }

    #[test]
    fn a_network_tries_so_often_and_no_other_pays_for_it() {
        let (sessions, begin) = (Sessions::new(&BudgetConfig::default()), Instant::now());
        let tries = |address: &str, now| sessions.may_try(address.parse().unwrap(), &CONFIG, now);
        assert!(tries("192.0.2.1", begin) && tries("192.0.2.2", begin) && tries("192.0.2.3", begin));
        assert!(!tries("192.0.2.4", begin) && tries("198.51.100.1", begin));
        assert!(
            tries("192.0.2.4", begin + Duration::from_secs(20)) && !tries("192.0.2.4", begin + Duration::from_secs(20))
        );
    }

    #[test]
    fn lifetimes_make_sense() {
        assert!(SessionConfig::default().check().is_ok());
        for wrong in [
            SessionConfig { idle_s: 0, ..CONFIG },
            SessionConfig { absolute_s: 59, ..CONFIG },
            SessionConfig { absolute_s: u64::MAX, ..CONFIG },
            SessionConfig { attempts_per_minute: 0, ..CONFIG },
        ] {
            assert!(wrong.check().is_err(), "{wrong:?}");
        }
    }
}
