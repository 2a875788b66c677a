//! Session tickets whose keys outlive a process and are shared by edges (RFC 5077 §5.5, RFC 8446 §4.6.1).
//!
//! A key is active from a moment on: a rotation gives every edge time to learn the new key before the first ticket
//! is made with it. The newest active key encrypts; every key whose successor became active less than a ticket's lifetime
//! ago decrypts; older ones are erased, which is what ends a ticket's life.
//!
//! Ticket: key id (16) ‖ salt (16) ‖ nonce (12) ‖ AES-256-GCM ciphertext and tag, the id authenticated. Each ticket is
//! encrypted under a key derived from secret and salt (BLAKE3, keyed): nonces are random and a fleet shares the secret,
//! so one key for all tickets would come near the bound of 2³² random nonces.

mod file;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::server::ProducesTickets;
use serde::Deserialize;

pub use self::file::{Rotation, rotate};

const ID_BYTES: usize = 16;
const SALT_BYTES: usize = 16;
const SECRET_BYTES: usize = 32;
const HEAD_BYTES: usize = ID_BYTES + SALT_BYTES + NONCE_LEN;
/// A session with a client's certificates is a few kilobytes; longer is hostile.
const TICKET_BYTES_MAX: usize = 16 * 1024;
/// Keys known at a time; rotation drops the oldest.
pub const KEYS_MAX: usize = 16;
/// RFC 8446 §4.6.1: seven days.
pub const LIFETIME_S_MAX: u32 = 604_800;

/// `[listen.tls.tickets]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TicketConfig {
    /// Keys shared with other processes and edges; without it they live and die with this process.
    pub file: Option<PathBuf>,
    /// A key of this age gets a successor. 0: another program rotates.
    pub rotate_s: u32,
    /// How long a ticket can be used.
    pub lifetime_s: u32,
}

impl Default for TicketConfig {
    fn default() -> Self {
        Self { file: None, rotate_s: 43_200, lifetime_s: 86_400 }
    }
}

impl TicketConfig {
    /// # Errors
    /// With the key at fault and why.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        if !(60..=LIFETIME_S_MAX).contains(&self.lifetime_s) {
            return Err(("listen.tls.tickets.lifetime_s", format!("is not between 60 and {LIFETIME_S_MAX}")));
        }
        let keys = self.lifetime_s.checked_div(self.rotate_s).unwrap_or(0) as usize + 3;
        if keys > KEYS_MAX {
            let reason = format!("is so short that more than {KEYS_MAX} keys would be alive at a time");
            return Err(("listen.tls.tickets.rotate_s", reason));
        }
        Ok(())
    }
}

/// Why there are no ticket keys.
#[derive(Debug, thiserror::Error)]
pub enum TicketError {
    #[error("{path}: {source}")]
    File { path: PathBuf, source: std::io::Error },
    #[error("{path}:{line}: {reason}")]
    Malformed { path: PathBuf, line: usize, reason: &'static str },
    #[error("{path} holds no key")]
    Empty { path: PathBuf },
    #[error("the system gives no random bytes")]
    Random,
}

/// A secret and the moment from which it encrypts.
#[derive(Clone)]
pub(super) struct TicketKey {
    active_from_s: u64,
    secret: [u8; SECRET_BYTES],
    id: [u8; ID_BYTES],
}

impl std::fmt::Debug for TicketKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TicketKey").field("active_from_s", &self.active_from_s).finish_non_exhaustive()
    }
}

impl TicketKey {
    fn new(active_from_s: u64, secret: [u8; SECRET_BYTES]) -> Self {
        let digest = blake3::derive_key("bildkante 2026-11-25 session ticket key id", &secret);
        let mut id = [0; ID_BYTES];
        id.copy_from_slice(&digest[..ID_BYTES]);
        Self { active_from_s, secret, id }
    }

    fn random(active_from_s: u64) -> Result<Self, TicketError> {
        Ok(Self::new(active_from_s, random()?))
    }

    fn cipher(&self, salt: &[u8; SALT_BYTES]) -> Option<LessSafeKey> {
        let derived = blake3::keyed_hash(&self.secret, salt);
        UnboundKey::new(&AES_256_GCM, derived.as_bytes()).ok().map(LessSafeKey::new)
    }
}

fn random<const N: usize>() -> Result<[u8; N], TicketError> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| TicketError::Random)?;
    Ok(bytes)
}

fn unix_s(now: SystemTime) -> u64 {
    now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Keys, newest first.
#[derive(Debug, Clone, Default)]
pub(super) struct KeyRing(Vec<TicketKey>);

impl KeyRing {
    fn new(mut keys: Vec<TicketKey>) -> Self {
        keys.sort_by_key(|key| std::cmp::Reverse(key.active_from_s));
        keys.dedup_by(|one, other| one.id == other.id);
        keys.truncate(KEYS_MAX);
        Self(keys)
    }

    /// Without keys whose successor has been active for a ticket's lifetime.
    fn pruned(mut self, lifetime_s: u32, now_s: u64) -> Self {
        let successors: Vec<u64> = self.0.iter().map(|key| key.active_from_s).collect();
        let mut index = 0_usize;
        self.0.retain(|_| {
            let successor = index.checked_sub(1).map(|before| successors[before]);
            index += 1;
            successor.is_none_or(|active_from_s| active_from_s.saturating_add(lifetime_s.into()) > now_s)
        });
        self
    }

    /// Whether the newest key, active or not, has reached the age at which it gets a successor.
    fn is_due(&self, rotate_s: u32, now_s: u64) -> bool {
        self.0.first().is_none_or(|newest| newest.active_from_s.saturating_add(rotate_s.into()) <= now_s)
    }

    fn encrypting(&self, now_s: u64) -> Option<&TicketKey> {
        // A clock that was set back must not stop resumption: then the oldest will do.
        self.0.iter().find(|key| key.active_from_s <= now_s).or(self.0.last())
    }
}

/// Makes and reads tickets.
#[derive(Debug)]
pub struct TicketKeys {
    config: TicketConfig,
    ring: ArcSwap<KeyRing>,
}

/// How long other edges have to learn a new key before it is used.
const LEAD: Duration = Duration::from_secs(60);

impl TicketKeys {
    /// Reads the file, or makes the first key.
    ///
    /// # Errors
    /// When the file cannot be read, holds something else, or is missing and this edge does not rotate.
    pub fn open(config: &TicketConfig, now: SystemTime) -> Result<Self, TicketError> {
        let keys = Self { config: config.clone(), ring: ArcSwap::from_pointee(KeyRing::default()) };
        keys.refresh(now)?;
        Ok(keys)
    }

    /// Rotates where that is this edge's task and due, and takes over what the file holds. Blocks on files.
    ///
    /// # Errors
    /// As [`Self::open`]; the keys stay as they were.
    pub fn refresh(&self, now: SystemTime) -> Result<(), TicketError> {
        let (now_s, lifetime_s, rotate_s) = (unix_s(now), self.config.lifetime_s, self.config.rotate_s);
        let ring = match &self.config.file {
            Some(path) => {
                let due = match file::read(path) {
                    Ok(ring) if rotate_s == 0 || !ring.is_due(rotate_s, now_s) => Some(ring),
                    Ok(_) => None,
                    Err(error) if rotate_s == 0 || !error.is_absence() => return Err(error),
                    Err(_) => None,
                };
                match due {
                    Some(ring) => ring,
                    None => file::rotate_when(path, &Rotation { lifetime_s, lead: LEAD }, now_s, |ring| {
                        ring.is_due(rotate_s, now_s)
                    })?,
                }
            }
            None => {
                let ring = KeyRing::clone(&self.ring.load());
                if ring.0.is_empty() || (rotate_s > 0 && ring.is_due(rotate_s, now_s)) {
                    KeyRing::new(ring.0.into_iter().chain([TicketKey::random(now_s)?]).collect())
                } else {
                    ring
                }
            }
        };
        self.ring.store(Arc::new(ring.pruned(lifetime_s, now_s)));
        Ok(())
    }

    /// How many keys are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ring.load().0.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl ProducesTickets for TicketKeys {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        self.config.lifetime_s
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let ring = self.ring.load();
        let key = ring.encrypting(unix_s(SystemTime::now()))?;
        let (salt, nonce) = (random::<SALT_BYTES>().ok()?, random::<NONCE_LEN>().ok()?);
        let mut ticket = Vec::with_capacity(HEAD_BYTES + plain.len() + AES_256_GCM.tag_len());
        ticket.extend_from_slice(&key.id);
        ticket.extend_from_slice(&salt);
        ticket.extend_from_slice(&nonce);
        let mut sealed = plain.to_vec();
        let nonce = Nonce::assume_unique_for_key(nonce);
        key.cipher(&salt)?.seal_in_place_append_tag(nonce, Aad::from(key.id), &mut sealed).ok()?;
        ticket.append(&mut sealed);
        (ticket.len() <= TICKET_BYTES_MAX).then_some(ticket)
    }

    /// `ticket` is the attacker's: only a key's own, untouched ticket opens.
    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        if ticket.len() > TICKET_BYTES_MAX {
            return None;
        }
        let (id, rest) = ticket.split_first_chunk::<ID_BYTES>()?;
        let (salt, rest) = rest.split_first_chunk::<SALT_BYTES>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let ring = self.ring.load();
        // Ids are public, so comparing them need not be constant in time.
        let key = ring.0.iter().find(|key| key.id == *id)?;
        let mut sealed = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let plain_len = key.cipher(salt)?.open_in_place(nonce, Aad::from(*id), &mut sealed).ok()?.len();
        sealed.truncate(plain_len);
        Some(sealed)
    }
}

#[cfg(test)]
mod tests;
