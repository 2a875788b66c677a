//! Pictures that people split from those they look like: each has a master of its own from then on, in every version of its manifest.
//!
//! Invariant: a picture is split or it is not; merging it again leaves no trace but the entries of the log.

use rpds::HashTrieMapSync;
use serde::{Deserialize, Serialize};

use super::fold::Refusal;

/// Pictures that are split at a time.
pub const SPLITS_MAX: usize = 10_000;
/// Longest name of a picture.
const PICTURE_BYTES_MAX: usize = 2_048;

/// A picture gets a master of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Split {
    /// `campaign/slot?axis=value&…`, with the axes that its picture differs by.
    pub variant: String,
}

/// A picture that was split may share another's master again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Merge {
    pub variant: String,
}

/// Those that are split, with the entries that did it.
#[derive(Debug, Clone, Default)]
pub struct Splits {
    pictures: HashTrieMapSync<Box<str>, u64, ahash::RandomState>,
}

impl Splits {
    /// The entry that split it.
    #[must_use]
    pub fn of(&self, picture: &str) -> Option<u64> {
        self.pictures.get(picture).copied()
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.pictures.size()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pictures.is_empty()
    }

    pub fn each(&self) -> impl Iterator<Item = (&str, u64)> {
        self.pictures.iter().map(|(picture, seq)| (&**picture, *seq))
    }

    /// What stood before a split.
    pub(super) fn admit_split(&self, split: &Split) -> Result<Option<String>, Refusal> {
        let is_name = (1..=PICTURE_BYTES_MAX).contains(&split.variant.len()) && split.variant.contains('/');
        if !is_name || split.variant.chars().any(char::is_control) {
            return Err(Refusal::PictureName);
        }
        let before = self.of(&split.variant);
        if before.is_none() && self.len() >= SPLITS_MAX {
            return Err(Refusal::TooManySplits);
        }
        Ok(before.map(|seq| format!("split by {seq}")))
    }

    /// What stood before a merge.
    pub(super) fn admit_merge(&self, merge: &Merge) -> Result<Option<String>, Refusal> {
        let seq = self.of(&merge.variant).ok_or_else(|| Refusal::NotSplit { variant: merge.variant.clone() })?;
        Ok(Some(format!("split by {seq}")))
    }

    pub(super) fn put(&mut self, picture: &str, seq: u64) {
        self.pictures.insert_mut(picture.into(), seq);
    }

    pub(super) fn remove(&mut self, picture: &str) {
        self.pictures.remove_mut(picture);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_is_split_until_it_is_merged_again() {
        let mut splits = Splits::default();
        let (variant, split) = ("a/hero?colour=red", Split { variant: "a/hero?colour=red".to_owned() });
        assert_eq!(splits.admit_split(&split).unwrap(), None);
        assert!(matches!(splits.admit_merge(&Merge { variant: variant.to_owned() }), Err(Refusal::NotSplit { .. })));
        splits.put(variant, 7);
        assert_eq!(splits.admit_split(&split).unwrap().as_deref(), Some("split by 7"));
        assert_eq!(splits.each().collect::<Vec<_>>(), [(variant, 7)]);
        splits.remove(variant);
        assert!(splits.is_empty());
        for wrong in ["", "hero", "a/\u{7}", &format!("a/{}", "x".repeat(2_048))] {
            assert!(splits.admit_split(&Split { variant: wrong.to_owned() }).is_err(), "{wrong}");
        }
    }

    #[test]
    fn splits_are_bounded() {
        let mut splits = Splits::default();
        (0..SPLITS_MAX).for_each(|n| splits.put(&format!("a/{n}"), 1));
        let split = |variant: &str| Split { variant: variant.to_owned() };
        assert!(matches!(splits.admit_split(&split("a/one-more")), Err(Refusal::TooManySplits)));
        assert!(splits.admit_split(&split("a/5")).is_ok(), "it is there already");
    }
}
