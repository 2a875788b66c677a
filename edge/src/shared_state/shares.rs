//! Links that show pictures to people without an account: which pictures each shows, and until when.
//!
//! A link widens who sees what is not public yet. So it stands in the log as decisions do: on every edge, in the audit, and ended
//! everywhere at once. What guests write on a link's pages is not part of it: the log forgets nothing, and strangers must not fill it.
//!
//! Invariants: the pictures of a link never change; a link that is over is dropped with the next one that is made.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use rpds::HashTrieMapSync;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::reviews::Reviews;

/// Pictures of one link.
pub const SHARED_PICTURES_MAX: usize = 100;
/// Links at a time.
pub const SHARES_MAX: usize = 1_000;
/// Longest title of a link, in bytes.
pub const SHARE_TITLE_BYTES_MAX: usize = 120;
/// Longest name of a picture, in bytes.
pub const SHARED_PICTURE_BYTES_MAX: usize = 2_048;

/// By which a link is named: 64 random bits in hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShareId(u64);

/// It is not 16 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the id of a link is 16 hexadecimal digits")]
pub struct ShareIdFault;

impl ShareId {
    #[must_use]
    pub const fn of(bits: u64) -> Self {
        Self(bits)
    }

    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }
}

impl fmt::Display for ShareId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for ShareId {
    type Err = ShareIdFault;

    fn from_str(text: &str) -> Result<Self, ShareIdFault> {
        let is_sound = text.len() == 16 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        is_sound.then(|| u64::from_str_radix(text, 16).ok()).flatten().map(Self).ok_or(ShareIdFault)
    }
}

impl Serialize for ShareId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ShareId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A link as it is made: a change, and what is kept of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Share {
    pub id: ShareId,
    /// What guests read above the pictures.
    pub title: String,
    /// `campaign/slot`: all its pictures are of this one.
    pub slot: String,
    pub pictures: Vec<SharedPicture>,
    /// From then on it shows nothing.
    pub expires_unix_ms: u64,
}

/// A picture of a link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SharedPicture {
    /// `campaign/slot?axis=value&…`.
    pub picture: String,
    /// The case whose picture is shown; `None` where people decide about none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub case: Option<u64>,
}

/// A link is over before its time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndShare {
    pub id: ShareId,
}

/// Why a link has no place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShareRefusal {
    #[error("there is no link `{0}`")]
    Unknown(ShareId),
    #[error("there is a link `{0}` already")]
    Taken(ShareId),
    #[error("there are {SHARES_MAX} links: end some of them")]
    TooMany,
    #[error("a title has 1 to {SHARE_TITLE_BYTES_MAX} bytes without blanks at its ends and control characters")]
    Title,
    #[error("a link shows 1 to {SHARED_PICTURES_MAX} pictures of one slot, each once")]
    Pictures,
    #[error("case {0} is none of this picture's")]
    Case(u64),
    #[error("a link ends later than it begins")]
    Ended,
}

impl Share {
    /// Whether two orders ask for the same. The edge draws an id anew each time, and counts days from then.
    #[must_use]
    pub(super) fn asks_the_same(&self, other: &Self) -> bool {
        (&self.title, &self.slot, &self.pictures) == (&other.title, &other.slot, &other.pictures)
    }

    fn has_sound_title(&self) -> bool {
        let is_within = (1..=SHARE_TITLE_BYTES_MAX).contains(&self.title.len());
        is_within && self.title.trim() == self.title && !self.title.chars().any(char::is_control)
    }

    fn has_sound_pictures(&self) -> bool {
        let is_of_slot = |name: &str| {
            let values = name.strip_prefix(self.slot.as_str());
            values.is_some_and(|values| values.is_empty() || values.starts_with('?'))
        };
        let is_sound = |name: &str| name.len() <= SHARED_PICTURE_BYTES_MAX && !name.chars().any(char::is_control);
        let mut names: Vec<&str> = self.pictures.iter().map(|it| it.picture.as_str()).collect();
        let are_sound = names.iter().all(|name| is_of_slot(name) && is_sound(name));
        names.sort_unstable();
        let are_different = names.windows(2).all(|pair| pair[0] != pair[1]);
        (1..=SHARED_PICTURES_MAX).contains(&names.len()) && are_sound && are_different
    }

    /// Its campaign.
    #[must_use]
    pub fn campaign(&self) -> &str {
        self.slot.split('/').next().unwrap_or_default()
    }
}

/// A link that was not ended, with the number of the entry that made it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeptShare {
    pub seq: u64,
    pub share: Share,
}

impl KeptShare {
    #[must_use]
    pub const fn is_over(&self, now_unix_ms: u64) -> bool {
        self.share.expires_unix_ms <= now_unix_ms
    }
}

/// All links that were not ended, and some that are over.
#[derive(Debug, Clone, Default)]
pub struct Shares(HashTrieMapSync<ShareId, Arc<KeptShare>, ahash::RandomState>);

impl Shares {
    #[must_use]
    pub fn get(&self, id: ShareId) -> Option<&Arc<KeptShare>> {
        self.0.get(&id)
    }

    pub fn each(&self) -> impl Iterator<Item = &Arc<KeptShare>> {
        self.0.values()
    }

    /// In the order in which they were made, behind the entry `after`.
    #[must_use]
    pub fn behind(&self, after: u64, count_max: usize) -> Vec<Arc<KeptShare>> {
        let mut kept: Vec<_> = self.each().filter(|kept| kept.seq > after).cloned().collect();
        kept.sort_unstable_by_key(|kept| kept.seq);
        kept.truncate(count_max);
        kept
    }

    pub(super) fn admit(&self, share: &Share, reviews: &Reviews, at_unix_ms: u64) -> Result<(), ShareRefusal> {
        if !share.has_sound_title() {
            return Err(ShareRefusal::Title);
        }
        if !share.has_sound_pictures() {
            return Err(ShareRefusal::Pictures);
        }
        if share.expires_unix_ms <= at_unix_ms {
            return Err(ShareRefusal::Ended);
        }
        if self.get(share.id).is_some() {
            return Err(ShareRefusal::Taken(share.id));
        }
        if self.each().filter(|kept| !kept.is_over(at_unix_ms)).count() >= SHARES_MAX {
            return Err(ShareRefusal::TooMany);
        }
        let cases = share.pictures.iter().filter_map(|it| Some((it.picture.as_str(), it.case?)));
        for (picture, case) in cases {
            if reviews.case(case).is_none_or(|(own, _)| own != picture) {
                return Err(ShareRefusal::Case(case));
            }
        }
        Ok(())
    }

    pub(super) fn admit_end(&self, id: ShareId) -> Result<&KeptShare, ShareRefusal> {
        self.get(id).map(Arc::as_ref).ok_or(ShareRefusal::Unknown(id))
    }

    pub(super) fn put(&mut self, kept: KeptShare) {
        self.0.insert_mut(kept.share.id, Arc::new(kept));
    }

    /// Drops links that are over at the moment of an entry; which ones.
    pub(super) fn drop_over(&mut self, at_unix_ms: u64) -> Vec<ShareId> {
        let mut over: Vec<ShareId> =
            self.each().filter(|kept| kept.is_over(at_unix_ms)).map(|kept| kept.share.id).collect();
        over.sort_unstable();
        over.iter().for_each(|id| self.remove(*id));
        over
    }

    pub(super) fn remove(&mut self, id: ShareId) {
        self.0.remove_mut(&id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(id: u64, pictures: &[&str]) -> Share {
        let pictures = pictures.iter().map(|name| SharedPicture { picture: (*name).to_owned(), case: None }).collect();
        Share {
            id: ShareId::of(id),
            title: "For the agency".into(),
            slot: "studio/hero".into(),
            pictures,
            expires_unix_ms: 100,
        }
    }

    fn refused(share: &Share) -> Option<ShareRefusal> {
        Shares::default().admit(share, &Reviews::default(), 1).err()
    }

    #[test]
    fn a_link_shows_some_pictures_of_one_slot() {
        assert_eq!(refused(&share(1, &["studio/hero?product=mug", "studio/hero"])), None);
        for pictures in [&[][..], &["studio/heroes?a=b"], &["studio/hero?a=b", "studio/hero?a=b"], &["studio/hero\n"]] {
            assert_eq!(refused(&share(1, pictures)), Some(ShareRefusal::Pictures), "{pictures:?}");
        }
        let many: Vec<String> = (0..=SHARED_PICTURES_MAX).map(|at| format!("studio/hero?n={at}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(refused(&share(1, &many)), Some(ShareRefusal::Pictures));
        for title in ["", " x", "a\nb", &"x".repeat(SHARE_TITLE_BYTES_MAX + 1)] {
            let share = Share { title: title.to_owned(), ..share(1, &["studio/hero"]) };
            assert_eq!(refused(&share), Some(ShareRefusal::Title), "{title:?}");
        }
        let over = Share { expires_unix_ms: 1, ..share(1, &["studio/hero"]) };
        assert_eq!(refused(&over), Some(ShareRefusal::Ended));
        let mut foreign = share(1, &["studio/hero"]);
        foreign.pictures[0].case = Some(7);
        assert_eq!(refused(&foreign), Some(ShareRefusal::Case(7)));
    }

    #[test]
    fn links_that_are_over_make_room() {
        let mut shares = Shares::default();
        for id in 0..SHARES_MAX as u64 {
            shares.put(KeptShare { seq: id, share: share(id, &["studio/hero"]) });
        }
        let next = Share { expires_unix_ms: 300, ..share(9_999, &["studio/hero"]) };
        assert_eq!(shares.admit(&next, &Reviews::default(), 1), Err(ShareRefusal::TooMany));
        assert_eq!(shares.admit(&next, &Reviews::default(), 100), Ok(()));
        assert_eq!(shares.drop_over(100).len(), SHARES_MAX);
        assert_eq!(shares.each().count(), 0);
    }

    #[test]
    fn an_id_is_sixteen_digits() {
        let id = ShareId::of(0xab);
        assert_eq!((id.to_string().as_str(), id.to_string().parse()), ("00000000000000ab", Ok(id)));
        for wrong in ["", "ab", "00000000000000AB", "+0000000000000ab", "00000000000000abc"] {
            assert_eq!(wrong.parse::<ShareId>(), Err(ShareIdFault), "{wrong}");
        }
    }
}
