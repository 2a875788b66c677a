//! Generation numbers: what was purged when, and what that makes of a stored image. Pure.
//!
//! A counter grows by one with each purge. A purge leaves a mark, the counter's new value, at each tag it names; a
//! rendition carries the counter's value from before it was made. It is no longer valid once one of its tags bears a
//! later mark. So a purge costs the same for one image and for a million, and a look-up a handful of hash-map reads.
//!
//! Invariants: a mark never moves back; compaction only ever widens what is purged, from tags to their campaign and
//! from there to everything, and never forgets.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bildkante_shared::ids::MasterId;
use serde::{Deserialize, Serialize};

use crate::cache::RenditionKey;
pub use crate::shared_state::{PurgeKind, PurgeReach};

/// A purge, as a look-up sees it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// 0: never.
    pub generation: u64,
    pub at_unix_ms: u64,
}

impl Mark {
    fn later(self, other: Self) -> Self {
        if other.generation > self.generation { other } else { self }
    }

    const fn covers(self, generation: u64) -> bool {
        self.generation > generation
    }
}

/// The latest marks of one tag, or of several taken together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Marks {
    hard: Mark,
    soft: Mark,
    masters_hard: Mark,
    masters_soft: Mark,
}

impl Marks {
    /// One purge.
    #[must_use]
    pub fn of(mark: Mark, kind: PurgeKind, reach: PurgeReach) -> Self {
        let mut marks = Self::default();
        match kind {
            PurgeKind::Hard => marks.hard = mark,
            PurgeKind::Soft => marks.soft = mark,
        }
        match (reach, kind) {
            (PurgeReach::Renditions, _) => {}
            (PurgeReach::Masters, PurgeKind::Hard) => marks.masters_hard = mark,
            (PurgeReach::Masters, PurgeKind::Soft) => marks.masters_soft = mark,
        }
        marks
    }

    /// Both: what either purged.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self {
            hard: self.hard.later(other.hard),
            soft: self.soft.later(other.soft),
            masters_hard: self.masters_hard.later(other.masters_hard),
            masters_soft: self.masters_soft.later(other.masters_soft),
        }
    }

    /// What they make of a rendition of this generation.
    #[must_use]
    pub fn rendition(&self, generation: u64, now_unix_ms: u64, windows: &StaleWindows) -> Verdict {
        windows.verdict(self.hard, self.soft, generation, now_unix_ms)
    }

    /// What they make of a binding of this generation.
    #[must_use]
    pub fn binding(&self, generation: u64, now_unix_ms: u64, windows: &StaleWindows) -> Verdict {
        windows.verdict(self.masters_hard, self.masters_soft, generation, now_unix_ms)
    }

    fn latest_masters(&self) -> u64 {
        self.masters_hard.generation.max(self.masters_soft.generation)
    }

    /// Whether nothing of `self` says more than `other` does.
    fn is_within(&self, other: &Self) -> bool {
        self.with(*other) == *other
    }
}

/// How long a softly purged image is still shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StaleWindows {
    /// At once, while it is made anew.
    pub while_revalidate: Duration,
    /// Only when making it anew fails.
    pub if_error: Duration,
}

impl StaleWindows {
    fn verdict(&self, hard: Mark, soft: Mark, generation: u64, now_unix_ms: u64) -> Verdict {
        if hard.covers(generation) {
            return Verdict::Gone;
        }
        if !soft.covers(generation) {
            return Verdict::Valid;
        }
        // A clock that was set back makes it younger, never older than it could be.
        let since = Duration::from_millis(now_unix_ms.saturating_sub(soft.at_unix_ms));
        if since < self.while_revalidate {
            Verdict::Stale { since }
        } else if since < self.if_error {
            Verdict::OnError { since }
        } else {
            Verdict::Gone
        }
    }
}

/// What may be done with a stored image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Valid,
    /// Shown while it is made anew.
    Stale {
        since: Duration,
    },
    /// Shown when making it anew fails.
    OnError {
        since: Duration,
    },
    Gone,
}

/// What a mark is kept under.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PurgeKey {
    Everything,
    /// `campaign:…`, `slot:…` or `recipe:…`, as in `Cache-Tag`.
    Tag(Box<str>),
    /// `master:…`
    Master(MasterId),
    /// One recipe in one size, format and quality: what a URL stands for.
    Cut(RenditionKey),
}

const EVERYTHING: &str = "*";
const MASTER: &str = "master:";
const CUT: &str = "cut:";
const CAMPAIGN: &str = "campaign:";
const SLOT: &str = "slot:";
const RECIPE: &str = "recipe:";
/// Longest tag.
pub const TAG_BYTES_MAX: usize = 256;

impl PurgeKey {
    #[must_use]
    pub fn campaign(name: &str) -> Self {
        Self::Tag(format!("{CAMPAIGN}{name}").into())
    }

    /// The campaign a tag names by itself.
    fn own_campaign(&self) -> Option<&str> {
        let Self::Tag(tag) = self else { return None };
        tag.strip_prefix(CAMPAIGN).or_else(|| tag.strip_prefix(SLOT)?.split_once('/').map(|(campaign, _)| campaign))
    }

    const fn is_coarse(&self) -> bool {
        matches!(self, Self::Everything)
    }
}

impl fmt::Display for PurgeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everything => f.write_str(EVERYTHING),
            Self::Tag(tag) => f.write_str(tag),
            Self::Master(id) => write!(f, "{MASTER}{id}"),
            Self::Cut(key) => write!(f, "{CUT}{key}"),
        }
    }
}

/// Why a text is no tag of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TagError {
    #[error("a tag has at most {TAG_BYTES_MAX} bytes")]
    TooLong,
    #[error("a tag is campaign:NAME, slot:CAMPAIGN/SLOT, recipe:ID or master:ID, as in `Cache-Tag`")]
    Form,
}

impl FromStr for PurgeKey {
    type Err = TagError;

    fn from_str(text: &str) -> Result<Self, TagError> {
        if text.len() > TAG_BYTES_MAX {
            return Err(TagError::TooLong);
        }
        if text == EVERYTHING {
            return Ok(Self::Everything);
        }
        if let Some(id) = text.strip_prefix(MASTER) {
            return id.parse().map(Self::Master).map_err(|_| TagError::Form);
        }
        if let Some(key) = text.strip_prefix(CUT) {
            return key.parse().map(Self::Cut).map_err(|_| TagError::Form);
        }
        let is_word =
            |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        let is_sound = if let Some(name) = text.strip_prefix(CAMPAIGN) {
            is_word(name)
        } else if let Some(path) = text.strip_prefix(SLOT) {
            path.split_once('/').is_some_and(|(campaign, slot)| is_word(campaign) && is_word(slot))
        } else {
            text.strip_prefix(RECIPE).is_some_and(|id| id.parse::<bildkante_shared::ids::RecipeId>().is_ok())
        };
        if is_sound { Ok(Self::Tag(text.into())) } else { Err(TagError::Form) }
    }
}

/// A mark as it is stored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Marked {
    pub marks: Marks,
    /// What it is compacted into, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub campaign: Option<Box<str>>,
}

/// What a purge changes in the table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    pub put: HashMap<PurgeKey, Marked>,
    pub remove: Vec<PurgeKey>,
}

/// All marks of an edge.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct MarkTable {
    everything: Marks,
    tags: HashMap<Box<str>, Marked>,
    masters: HashMap<MasterId, Marked>,
    cuts: HashMap<RenditionKey, Marked>,
    /// The latest mark that reaches masters.
    latest_masters: u64,
}

impl MarkTable {
    #[must_use]
    pub fn len(&self) -> usize {
        self.tags.len() + self.masters.len() + self.cuts.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether anything was ever purged.
    #[must_use]
    pub fn has_marks(&self) -> bool {
        !self.is_empty() || self.everything != Marks::default()
    }

    #[must_use]
    pub const fn latest_masters(&self) -> u64 {
        self.latest_masters
    }

    /// Everything that is said about an image with these tags.
    #[must_use]
    pub fn floor(&self, tags: &[&str], master: MasterId, cut: impl FnOnce() -> RenditionKey) -> Marks {
        let mut floor = self.everything;
        let mut add = |marked: Option<&Marked>| {
            if let Some(marked) = marked {
                floor = floor.with(marked.marks);
            }
        };
        if !self.tags.is_empty() {
            tags.iter().for_each(|tag| add(self.tags.get(*tag)));
        }
        if !self.masters.is_empty() {
            add(self.masters.get(&master));
        }
        if !self.cuts.is_empty() {
            add(self.cuts.get(&cut()));
        }
        floor
    }

    /// What marking `keys` changes, so that at most `marks_max` marks remain.
    #[must_use]
    pub fn plan(&self, keys: &[PurgeKey], campaign: Option<&str>, marks: Marks, marks_max: usize) -> Changes {
        let mut changes = Changes::default();
        for key in keys {
            let known = self.get(key).unwrap_or_default();
            let campaign = known.campaign.or_else(|| key.own_campaign().or(campaign).map(Into::into));
            changes.put.insert(key.clone(), Marked { marks: known.marks.with(marks), campaign });
        }
        if let Some(everything) = changes.put.get(&PurgeKey::Everything) {
            let everything = everything.marks;
            let said = self.entries().filter(|(_, marked)| marked.marks.is_within(&everything));
            changes.remove = said.map(|(key, _)| key).collect();
        }
        let added = changes.put.keys().filter(|key| !key.is_coarse() && self.get(key).is_none()).count();
        if self.len() + added - changes.remove.len() > marks_max {
            return self.compact(changes, marks_max);
        }
        changes
    }

    /// Folds marks into those of their campaigns, and where that is not known or not enough, into one of everything.
    fn compact(&self, changes: Changes, marks_max: usize) -> Changes {
        let mut all: HashMap<PurgeKey, Marked> = self.entries().map(|(key, marked)| (key, marked.clone())).collect();
        all.extend(changes.put);
        changes.remove.iter().for_each(|key| drop(all.remove(key)));
        let mut everything = all.remove(&PurgeKey::Everything).unwrap_or_default().marks.with(self.everything);
        let mut campaigns: HashMap<Box<str>, Marks> = HashMap::new();
        for marked in all.into_values() {
            match marked.campaign {
                Some(campaign) => {
                    let folded = campaigns.entry(campaign).or_default();
                    *folded = folded.with(marked.marks);
                }
                None => everything = everything.with(marked.marks),
            }
        }
        campaigns.retain(|_, marks| !marks.is_within(&everything));
        if campaigns.len() > marks_max {
            everything = campaigns.values().fold(everything, |all, marks| all.with(*marks));
            campaigns.clear();
        }
        let mut put: HashMap<PurgeKey, Marked> = campaigns
            .into_iter()
            .map(|(name, marks)| (PurgeKey::campaign(&name), Marked { marks, campaign: Some(name) }))
            .collect();
        put.insert(PurgeKey::Everything, Marked { marks: everything, campaign: None });
        let remove = self.entries().map(|(key, _)| key).filter(|key| !put.contains_key(key)).collect();
        Changes { put, remove }
    }

    pub fn apply(&mut self, changes: Changes) {
        for key in &changes.remove {
            match key {
                PurgeKey::Everything => self.everything = Marks::default(),
                PurgeKey::Tag(tag) => drop(self.tags.remove(tag)),
                PurgeKey::Master(id) => drop(self.masters.remove(id)),
                PurgeKey::Cut(cut) => drop(self.cuts.remove(cut)),
            }
        }
        for (key, marked) in changes.put {
            self.latest_masters = self.latest_masters.max(marked.marks.latest_masters());
            match key {
                PurgeKey::Everything => self.everything = marked.marks,
                PurgeKey::Tag(tag) => drop(self.tags.insert(tag, marked)),
                PurgeKey::Master(id) => drop(self.masters.insert(id, marked)),
                PurgeKey::Cut(cut) => drop(self.cuts.insert(cut, marked)),
            }
        }
    }

    fn get(&self, key: &PurgeKey) -> Option<Marked> {
        match key {
            PurgeKey::Everything => Some(Marked { marks: self.everything, campaign: None }),
            PurgeKey::Tag(tag) => self.tags.get(tag).cloned(),
            PurgeKey::Master(id) => self.masters.get(id).cloned(),
            PurgeKey::Cut(cut) => self.cuts.get(cut).cloned(),
        }
    }

    /// All but the one of everything.
    fn entries(&self) -> impl Iterator<Item = (PurgeKey, &Marked)> {
        let tags = self.tags.iter().map(|(tag, marked)| (PurgeKey::Tag(tag.clone()), marked));
        let masters = self.masters.iter().map(|(id, marked)| (PurgeKey::Master(*id), marked));
        let cuts = self.cuts.iter().map(|(cut, marked)| (PurgeKey::Cut(*cut), marked));
        tags.chain(masters).chain(cuts)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WINDOWS: StaleWindows =
        StaleWindows { while_revalidate: Duration::from_secs(60), if_error: Duration::from_secs(600) };
    const MINUTE_MS: u64 = 60_000;

    fn mark(generation: u64) -> Mark {
        Mark { generation, at_unix_ms: 1_000_000 }
    }

    fn hard(generation: u64) -> Marks {
        Marks::of(mark(generation), PurgeKind::Hard, PurgeReach::Renditions)
    }

    fn tag(text: &str) -> PurgeKey {
        text.parse().unwrap()
    }

    fn cut() -> RenditionKey {
        RenditionKey::from_raw([7; 16])
    }

    fn floor(table: &MarkTable, tags: &[&str]) -> Marks {
        table.floor(tags, MasterId::of_bytes(b"m"), cut)
    }

    fn purge(table: &mut MarkTable, key: PurgeKey, marks: Marks, marks_max: usize) {
        let changes = table.plan(&[key], None, marks, marks_max);
        table.apply(changes);
    }

    #[test]
    fn what_was_made_before_a_purge_is_gone_and_what_came_after_stays() {
        let mut table = MarkTable::default();
        purge(&mut table, tag("campaign:a"), hard(5), 10);
        let of = |tags: &[&str], generation| floor(&table, tags).rendition(generation, 0, &WINDOWS);
        assert_eq!(of(&["campaign:a", "slot:a/hero"], 4), Verdict::Gone);
        assert_eq!(of(&["campaign:a"], 5), Verdict::Valid);
        assert_eq!(of(&["campaign:b"], 0), Verdict::Valid);
        purge(&mut table, PurgeKey::Master(MasterId::of_bytes(b"m")), hard(6), 10);
        assert_eq!(floor(&table, &[]).rendition(5, 0, &WINDOWS), Verdict::Gone);
        purge(&mut table, PurgeKey::Cut(cut()), hard(7), 10);
        assert_eq!(floor(&table, &[]).rendition(6, 0, &WINDOWS), Verdict::Gone);
    }

    #[test]
    fn a_soft_purge_ages_through_its_windows() {
        let soft = Marks::of(mark(5), PurgeKind::Soft, PurgeReach::Renditions);
        let at = |ms| soft.rendition(4, 1_000_000 + ms, &WINDOWS);
        assert_eq!(at(1_000), Verdict::Stale { since: Duration::from_secs(1) });
        assert_eq!(at(MINUTE_MS), Verdict::OnError { since: Duration::from_secs(60) });
        assert_eq!(at(10 * MINUTE_MS), Verdict::Gone);
        // A clock set back by an hour.
        assert_eq!(soft.rendition(4, 0, &WINDOWS), Verdict::Stale { since: Duration::ZERO });
        assert_eq!(soft.with(hard(6)).rendition(5, 1_000_000, &WINDOWS), Verdict::Gone, "hard wins");
        assert_eq!(soft.binding(4, 1_000_000, &WINDOWS), Verdict::Valid, "masters were not purged");
    }

    #[test]
    fn a_purge_of_masters_reaches_renditions_too() {
        let marks = Marks::of(mark(5), PurgeKind::Hard, PurgeReach::Masters);
        assert_eq!(marks.binding(4, 0, &WINDOWS), Verdict::Gone);
        assert_eq!(marks.rendition(4, 0, &WINDOWS), Verdict::Gone);
        assert_eq!(marks.binding(5, 0, &WINDOWS), Verdict::Valid);
    }

    #[test]
    fn a_full_table_widens_to_campaigns_and_then_to_everything_and_forgets_nothing() {
        let mut table = MarkTable::default();
        for (generation, slot) in (1..).zip(["slot:a/x", "slot:a/y", "slot:a/z"]) {
            purge(&mut table, tag(slot), hard(generation), 3);
        }
        assert_eq!(table.len(), 3);
        purge(&mut table, tag("slot:b/x"), hard(4), 3);
        assert_eq!(table.len(), 2, "two campaigns now");
        assert_eq!(floor(&table, &["campaign:a", "slot:a/other"]).rendition(2, 0, &WINDOWS), Verdict::Gone);
        assert_eq!(floor(&table, &["campaign:a"]).rendition(3, 0, &WINDOWS), Verdict::Valid);
        assert_eq!(floor(&table, &["campaign:b"]).rendition(3, 0, &WINDOWS), Verdict::Gone);
        for (generation, name) in (5..).zip(["c", "d", "e"]) {
            purge(&mut table, tag(&format!("campaign:{name}")), hard(generation), 3);
        }
        assert!(table.len() <= 3, "{}", table.len());
        assert_eq!(floor(&table, &["campaign:never-named"]).rendition(4, 0, &WINDOWS), Verdict::Gone, "widened");
    }

    #[test]
    fn purging_everything_takes_the_finer_marks_along() {
        let mut table = MarkTable::default();
        purge(&mut table, tag("campaign:a"), hard(1), 10);
        let masters = Marks::of(mark(2), PurgeKind::Hard, PurgeReach::Masters);
        purge(&mut table, tag("campaign:b"), masters, 10);
        purge(&mut table, PurgeKey::Everything, hard(3), 10);
        assert_eq!(table.len(), 1, "the mark of masters says more and stays");
        assert_eq!(floor(&table, &["campaign:b"]).binding(1, 0, &WINDOWS), Verdict::Gone);
        assert_eq!(floor(&table, &[]).rendition(2, 0, &WINDOWS), Verdict::Gone);
    }

    #[test]
    fn only_our_own_tags_are_tags() {
        let recipe = bildkante_shared::ids::RecipeId::of_bytes(b"r");
        for text in ["campaign:autumn-26", "slot:autumn/hero", &format!("recipe:{recipe}"), "*"] {
            assert_eq!(text.parse::<PurgeKey>().unwrap().to_string(), text);
        }
        for text in
            ["", "campaign:", "campaign:a,b", "slot:hero", "recipe:x", "colour:teal", "master:1", "campaign:a b"]
        {
            assert_eq!(text.parse::<PurgeKey>(), Err(TagError::Form), "{text}");
        }
        assert_eq!("x".repeat(257).parse::<PurgeKey>(), Err(TagError::TooLong));
    }

    proptest! {
        /// What was purged stays purged, however small the table is.
        #[test]
        fn no_purge_is_ever_forgotten(
            purges in proptest::collection::vec((0..12_u8, 0..3_u8, any::<bool>()), 1..60),
            marks_max in 1..8_usize,
        ) {
            let mut table = MarkTable::default();
            let mut expected: HashMap<String, u64> = HashMap::new();
            for (generation, (slot, campaign, is_whole)) in (1..).zip(purges) {
                let text = if is_whole { format!("campaign:c{campaign}") } else { format!("slot:c{campaign}/s{slot}") };
                purge(&mut table, tag(&text), hard(generation), marks_max);
                expected.insert(text, generation);
                prop_assert!(table.len() <= marks_max);
            }
            for (text, generation) in expected {
                let campaign = text.split(['/', ':']).nth(1).unwrap();
                let floor = floor(&table, &[&text, &format!("campaign:{campaign}")]);
                prop_assert_eq!(floor.rendition(generation - 1, 0, &WINDOWS), Verdict::Gone);
            }
        }
    }
}
