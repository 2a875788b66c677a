//! Keys of people and programs: who may do what, in which campaigns, until when.
//!
//! A key's secret is 256 random bits that were shown once; the log has its BLAKE3 hash, which says nothing of it. A key's name
//! stands in the log for good, so it is one of a desk or a program where persons must be erasable.
//!
//! Invariants: a role covers all that lesser roles may; a grant for `*` holds in every campaign, and a campaign's own grant adds to
//! it; whether a key has expired is for who asks: the fold has no clock.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use bildkante_shared::ids::Digest;
use rpds::HashTrieMapSync;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Keys at a time, expired ones among them.
pub const ACCESS_KEYS_MAX: usize = 1_024;
/// Longest name of a key, in bytes.
pub const KEY_NAME_BYTES_MAX: usize = 64;
/// Campaigns that one key names.
const GRANTS_MAX: usize = 256;
/// Longest name of a campaign in a grant, in bytes.
const CAMPAIGN_BYTES_MAX: usize = 128;
/// In place of a campaign: all of them, and what belongs to none.
pub const EVERY_CAMPAIGN: &str = "*";

/// What a person may do, each more than those before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PersonRole {
    /// Sees.
    Viewer,
    /// Says what is to be changed, and posts candidates.
    Reviewer,
    /// Decides what is shown.
    Approver,
    /// Takes out of circulation, draws ahead, and gives keys.
    Operator,
}

impl PersonRole {
    pub const ALL: [Self; 4] = [Self::Viewer, Self::Reviewer, Self::Approver, Self::Operator];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Reviewer => "reviewer",
            Self::Approver => "approver",
            Self::Operator => "operator",
        }
    }
}

impl FromStr for PersonRole {
    type Err = GrantFault;

    fn from_str(text: &str) -> Result<Self, GrantFault> {
        let found = Self::ALL.into_iter().find(|role| role.as_str() == text);
        found.ok_or_else(|| GrantFault::Role { role: text.chars().take(40).collect() })
    }
}

/// Roles by campaign. See the module's documentation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, PersonRole>", into = "BTreeMap<String, PersonRole>")]
pub struct Grants(BTreeMap<String, PersonRole>);

/// Why roles by campaign are none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrantFault {
    #[error("a key names 1 to {GRANTS_MAX} campaigns, or `{EVERY_CAMPAIGN}` for all of them")]
    Count,
    #[error("`{campaign}` is no campaign's name, and not `{EVERY_CAMPAIGN}`")]
    Campaign { campaign: String },
    #[error("`{role}` is no role: {}", PersonRole::ALL.map(PersonRole::as_str).join(", "))]
    Role { role: String },
    #[error("`{text}` is not CAMPAIGN=ROLE")]
    Pair { text: String },
}

impl Grants {
    /// # Errors
    /// When there are none or too many, or one is for no campaign.
    pub fn new(roles: BTreeMap<String, PersonRole>) -> Result<Self, GrantFault> {
        if !(1..=GRANTS_MAX).contains(&roles.len()) {
            return Err(GrantFault::Count);
        }
        match roles.keys().find(|campaign| !is_campaign(campaign)) {
            Some(campaign) => Err(GrantFault::Campaign { campaign: campaign.chars().take(60).collect() }),
            None => Ok(Self(roles)),
        }
    }

    /// `autumn=approver, *=viewer`.
    ///
    /// # Errors
    /// As [`Self::new`], or when a part has another form.
    pub fn parse(text: &str) -> Result<Self, GrantFault> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty()).take(GRANTS_MAX + 1);
        let pairs = parts.map(|part| {
            let pair = || GrantFault::Pair { text: part.chars().take(60).collect() };
            let (campaign, role) = part.split_once('=').ok_or_else(pair)?;
            Ok((campaign.trim().to_owned(), role.trim().parse()?))
        });
        Self::new(pairs.collect::<Result<_, GrantFault>>()?)
    }

    /// The role in a campaign; `None`: in what belongs to no campaign, and in all of them.
    #[must_use]
    pub fn role_in(&self, campaign: Option<&str>) -> Option<PersonRole> {
        let everywhere = self.0.get(EVERY_CAMPAIGN).copied();
        everywhere.max(campaign.and_then(|campaign| self.0.get(campaign).copied()))
    }

    /// The highest role in any campaign.
    #[must_use]
    pub fn highest(&self) -> Option<PersonRole> {
        self.0.values().copied().max()
    }
}

fn is_campaign(name: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    name == EVERY_CAMPAIGN || ((1..=CAMPAIGN_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_word))
}

impl TryFrom<BTreeMap<String, PersonRole>> for Grants {
    type Error = GrantFault;

    fn try_from(roles: BTreeMap<String, PersonRole>) -> Result<Self, GrantFault> {
        Self::new(roles)
    }
}

impl From<Grants> for BTreeMap<String, PersonRole> {
    fn from(grants: Grants) -> Self {
        grants.0
    }
}

impl fmt::Display for Grants {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (campaign, role)) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            write!(f, "{comma}{campaign}={}", role.as_str())?;
        }
        Ok(())
    }
}

/// By which a key is listed and revoked: the first 64 bits of its hash, in hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(u64);

/// It is not 16 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the id of a key is 16 hexadecimal digits")]
pub struct KeyIdFault;

impl KeyId {
    #[must_use]
    pub fn of(hash: &Digest) -> Self {
        let (first, _) = hash.as_bytes().split_first_chunk().unwrap_or((&[0; 8], &[]));
        Self(u64::from_be_bytes(*first))
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for KeyId {
    type Err = KeyIdFault;

    fn from_str(text: &str) -> Result<Self, KeyIdFault> {
        let is_sound = text.len() == 16 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        is_sound.then(|| u64::from_str_radix(text, 16).ok()).flatten().map(Self).ok_or(KeyIdFault)
    }
}

impl Serialize for KeyId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for KeyId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A key as it is given: a change, and what is kept of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessKey {
    /// Of the secret.
    pub hash: Digest,
    pub name: String,
    pub roles: Grants,
    /// From then on it is good for nothing.
    pub expires_unix_ms: u64,
}

impl AccessKey {
    #[must_use]
    pub fn id(&self) -> KeyId {
        KeyId::of(&self.hash)
    }

    /// Whether two orders ask for the same, whatever secret was drawn for each.
    #[must_use]
    pub(super) fn asks_the_same(&self, other: &Self) -> bool {
        let told = |key: &Self| (key.name.clone(), key.roles.clone(), key.expires_unix_ms);
        told(self) == told(other)
    }

    pub(super) fn has_sound_name(&self) -> bool {
        let is_within = (1..=KEY_NAME_BYTES_MAX).contains(&self.name.len());
        is_within && self.name.trim() == self.name && !self.name.chars().any(char::is_control)
    }
}

/// A key that is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revoke {
    pub id: KeyId,
}

/// A key in force, with the number of the entry that gave it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeptKey {
    pub seq: u64,
    pub key: AccessKey,
}

/// All keys that were not revoked.
#[derive(Debug, Clone, Default)]
pub struct AccessKeys(HashTrieMapSync<KeyId, Arc<KeptKey>, ahash::RandomState>);

impl AccessKeys {
    #[must_use]
    pub fn get(&self, id: KeyId) -> Option<&Arc<KeptKey>> {
        self.0.get(&id)
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.0.size()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn each(&self) -> impl Iterator<Item = &Arc<KeptKey>> {
        self.0.values()
    }

    /// In the order in which they were given, behind the entry `after`.
    #[must_use]
    pub fn behind(&self, after: u64, count_max: usize) -> Vec<Arc<KeptKey>> {
        let mut kept: Vec<_> = self.each().filter(|kept| kept.seq > after).cloned().collect();
        kept.sort_unstable_by_key(|kept| kept.seq);
        kept.truncate(count_max);
        kept
    }

    pub(super) fn put(&mut self, kept: KeptKey) {
        self.0.insert_mut(kept.key.id(), Arc::new(kept));
    }

    pub(super) fn remove(&mut self, id: KeyId) {
        self.0.remove_mut(&id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_holds_where_it_was_granted_and_in_what_is_less() {
        let grants = Grants::parse("autumn=approver, *=viewer").unwrap();
        assert_eq!(grants.role_in(Some("autumn")), Some(PersonRole::Approver));
        assert_eq!(grants.role_in(Some("spring")), Some(PersonRole::Viewer));
        assert_eq!((grants.role_in(None), grants.highest()), (Some(PersonRole::Viewer), Some(PersonRole::Approver)));
        assert_eq!(Grants::parse("autumn=operator").unwrap().role_in(None), None);
        assert_eq!(Grants::parse("autumn=operator").unwrap().role_in(Some("autumn2")), None);
        // A campaign's own grant never takes away what `*` gives.
        assert_eq!(
            Grants::parse("*=operator,autumn=viewer").unwrap().role_in(Some("autumn")),
            Some(PersonRole::Operator)
        );
        assert!(PersonRole::ALL.is_sorted());
        assert_eq!(Grants::parse(&grants.to_string()), Ok(grants));
    }

    #[test]
    fn what_grants_nothing_is_refused() {
        for wrong in ["", "autumn", "autumn=boss", "=viewer", "a b=viewer", "autumn=Viewer", "**=viewer"] {
            assert!(Grants::parse(wrong).is_err(), "{wrong}");
        }
        let many: String = (0..=GRANTS_MAX).map(|at| format!("c{at}=viewer,")).collect();
        assert_eq!(Grants::parse(&many), Err(GrantFault::Count));
        assert!(serde_json::from_str::<Grants>("{}").is_err());
        assert!(serde_json::from_str::<Grants>(r#"{"a/b":"viewer"}"#).is_err());
    }

    #[test]
    fn an_id_is_the_beginning_of_the_hash() {
        let hash = Digest::of_bytes(b"a key");
        let id = KeyId::of(&hash);
        assert!(hash.to_string().contains(&id.to_string()), "{hash} {id}");
        assert_eq!(id.to_string().parse(), Ok(id));
        for wrong in ["", "0", "+123456789abcdef", "0123456789ABCDEF", "0123456789abcdef0"] {
            assert_eq!(wrong.parse::<KeyId>(), Err(KeyIdFault), "{wrong}");
        }
    }
}
