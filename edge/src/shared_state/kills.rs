//! Which kills are in force, and whether one of them covers a picture. Pure; a copy shares all but a path with its original.
//!
//! A look-up costs a hash for each kind of target that has a kill at all. A kill of a variant holds for its values, whatever
//! axes its slot has been given since: a new axis does not bring the picture back. Where an axis of the kill is gone, the
//! remaining ones decide.

use bildkante_shared::ids::{MasterId, RecipeId};
use rpds::HashTrieMapSync;

use super::target::{Target, TargetKind};
use crate::campaign::Parts;

type Map<K, V> = HashTrieMapSync<K, V, ahash::RandomState>;

/// What is known of a picture that may be shown.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    pub campaign: &'a str,
    /// `campaign/slot`.
    pub slot: &'a str,
    /// `axis=value&…`, every axis of its campaign, by the axes' names.
    pub values: &'a str,
    pub recipe: RecipeId,
    /// `None` before it is known.
    pub master: Option<MasterId>,
    /// `None` where nothing but the recipe's id is left.
    pub parts: Option<&'a Parts>,
}

/// Why a picture is not shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// A kill of this kind covers it.
    Killed(TargetKind),
    /// A part of some recipe is killed, and it is not known whether this picture has it.
    PartsUnknown,
    /// What this edge knows is older than the campaign allows: it may be killed.
    Stale,
    /// People decide about the variant's pictures, and none that they decided for is live.
    Awaiting,
    /// A right that the picture depends on is over.
    RightsEnded,
}

impl Reason {
    /// For `Cache-Status`, metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Killed(_) => "killed",
            Self::PartsUnknown => "parts-unknown",
            Self::Stale => "state-stale",
            Self::Awaiting => "awaiting-decision",
            Self::RightsEnded => "rights-ended",
        }
    }
}

/// See the module's documentation.
#[derive(Debug, Clone, Default)]
pub struct Kills {
    /// With the sequence number of its entry.
    in_force: Map<Target, u64>,
    /// By their slots, what variants are killed by.
    variants: Map<Box<str>, Vec<Killed>>,
    /// How many there are of each kind.
    counts: [usize; TargetKind::ALL.len()],
}

/// Kills of variants that name the same axes.
#[derive(Debug, Clone)]
struct Killed {
    axes: Box<[Box<str>]>,
    /// `axis=value&…`.
    values: Map<Box<str>, ()>,
}

impl Kills {
    /// Of this target alone.
    #[must_use]
    pub fn of_one(target: &Target) -> Self {
        let mut kills = Self::default();
        kills.put(target, 1);
        kills
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.in_force.size()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.in_force.is_empty()
    }

    /// The sequence number of the kill of exactly this target.
    #[must_use]
    pub fn of(&self, target: &Target) -> Option<u64> {
        self.in_force.get(target).copied()
    }

    /// Every target with the sequence number of its kill, in no order.
    pub fn each(&self) -> impl Iterator<Item = (&Target, u64)> {
        self.in_force.iter().map(|(target, seq)| (target, *seq))
    }

    /// How many there are of a kind.
    #[must_use]
    pub const fn count(&self, kind: TargetKind) -> usize {
        self.counts[kind as usize]
    }

    pub(super) fn put(&mut self, target: &Target, seq: u64) {
        if !self.in_force.contains_key(target) {
            self.counts[target.kind() as usize] += 1;
        }
        self.in_force.insert_mut(target.clone(), seq);
        if let Some((slot, values)) = target.slot_and_values() {
            let mut killed = self.variants.get(slot).cloned().unwrap_or_default();
            let axes: Box<[Box<str>]> = axes(values).map(Box::from).collect();
            let at = killed.iter().position(|one| one.axes == axes).unwrap_or_else(|| {
                killed.push(Killed { axes, values: Map::default() });
                killed.len() - 1
            });
            killed[at].values.insert_mut(values.into(), ());
            self.variants.insert_mut(slot.into(), killed);
        }
    }

    pub(super) fn remove(&mut self, target: &Target) {
        if !self.in_force.remove_mut(target) {
            return;
        }
        self.counts[target.kind() as usize] -= 1;
        if let Some((slot, values)) = target.slot_and_values() {
            let mut killed = self.variants.get(slot).cloned().unwrap_or_default();
            killed.iter_mut().for_each(|one| {
                one.values.remove_mut(values);
            });
            killed.retain(|one| !one.values.is_empty());
            if killed.is_empty() {
                self.variants.remove_mut(slot);
            } else {
                self.variants.insert_mut(slot.into(), killed);
            }
        }
    }

    /// Why the picture is not shown, if it is not.
    #[must_use]
    pub fn reason(&self, facts: &Facts<'_>) -> Option<Reason> {
        if self.is_empty() {
            return None;
        }
        let covering = TargetKind::ALL.into_iter().filter(|kind| self.count(*kind) > 0);
        for kind in covering {
            if kind.is_part() && facts.parts.is_none() {
                return Some(Reason::PartsUnknown);
            }
            if self.covers(kind, facts) {
                return Some(Reason::Killed(kind));
            }
        }
        None
    }

    fn covers(&self, kind: TargetKind, facts: &Facts<'_>) -> bool {
        let has = |target: Target| self.in_force.contains_key(&target);
        let parts = facts.parts;
        match kind {
            TargetKind::Campaign => has(Target::Campaign(facts.campaign.into())),
            TargetKind::Slot => has(Target::Slot(facts.slot.into())),
            TargetKind::Value => {
                pairs(facts.values).any(|pair| has(Target::Value(format!("{}?{pair}", facts.campaign).into())))
            }
            TargetKind::Variant => self.covers_variant(facts),
            TargetKind::Recipe => has(Target::Recipe(facts.recipe)),
            TargetKind::Master => facts.master.is_some_and(|master| has(Target::Master(master))),
            TargetKind::Checkpoint => {
                parts.is_some_and(|it| it.checkpoints.iter().any(|d| has(Target::Checkpoint(*d))))
            }
            TargetKind::Adapter => parts.is_some_and(|it| it.adapters.iter().any(|d| has(Target::Adapter(*d)))),
            TargetKind::Block => {
                parts.is_some_and(|it| it.blocks.iter().any(|block| has(Target::Block(block.as_str().into()))))
            }
            TargetKind::Import => parts.and_then(|it| it.import).is_some_and(|digest| has(Target::Import(digest))),
        }
    }

    fn covers_variant(&self, facts: &Facts<'_>) -> bool {
        self.variants.get(facts.slot).is_some_and(|killed| killed.iter().any(|one| one.covers(facts.values)))
    }
}

impl Killed {
    fn covers(&self, values: &str) -> bool {
        let named: Vec<&str> =
            pairs(values).filter(|pair| self.axes.iter().any(|axis| **axis == *axis_of(pair))).collect();
        if named.len() == self.axes.len() {
            return self.values.contains_key(named.join("&").as_str());
        }
        // An axis that was killed by is no axis of the campaign any more.
        self.values.keys().any(|killed| named.iter().all(|pair| pairs(killed).any(|other| other == *pair)))
    }
}

fn pairs(values: &str) -> impl Iterator<Item = &str> {
    values.split('&').filter(|pair| !pair.is_empty())
}

fn axis_of(pair: &str) -> &str {
    pair.split_once('=').map_or(pair, |(axis, _)| axis)
}

fn axes(values: &str) -> impl Iterator<Item = &str> {
    pairs(values).map(axis_of)
}

#[cfg(test)]
mod tests {
    use bildkante_shared::ids::Digest;

    use super::*;

    const VALUES: &str = "colour=teal&locale=de-DE&product=mug";

    fn facts<'a>(values: &'a str, parts: Option<&'a Parts>) -> Facts<'a> {
        Facts {
            campaign: "studio",
            slot: "studio/hero",
            values,
            recipe: RecipeId::of_bytes(b"r"),
            master: Some(MasterId::of_bytes(b"m")),
            parts,
        }
    }

    fn parts() -> Parts {
        Parts {
            checkpoints: vec![Digest::of_bytes(b"c")],
            adapters: vec![Digest::of_bytes(b"a")],
            blocks: vec!["shots/soft".to_owned()],
            import: Some(Digest::of_bytes(b"i")),
        }
    }

    fn targets() -> Vec<Target> {
        vec![
            Target::Campaign("studio".into()),
            Target::Slot("studio/hero".into()),
            Target::Value("studio?product=mug".into()),
            Target::Variant(format!("studio/hero?{VALUES}").into()),
            Target::Recipe(RecipeId::of_bytes(b"r")),
            Target::Master(MasterId::of_bytes(b"m")),
            Target::Checkpoint(Digest::of_bytes(b"c")),
            Target::Adapter(Digest::of_bytes(b"a")),
            Target::Block("shots/soft".into()),
            Target::Import(Digest::of_bytes(b"i")),
        ]
    }

    #[test]
    fn a_kill_of_each_kind_covers_its_pictures_until_it_is_lifted() {
        let parts = parts();
        let mut kills = Kills::default();
        for target in targets() {
            assert_eq!(kills.reason(&facts(VALUES, Some(&parts))), None);
            kills.put(&target, 7);
            kills.put(&target, 7);
            assert_eq!(kills.reason(&facts(VALUES, Some(&parts))), Some(Reason::Killed(target.kind())), "{target}");
            assert_eq!((kills.of(&target), kills.len(), kills.count(target.kind())), (Some(7), 1, 1));
            let before = kills.clone();
            kills.remove(&target);
            kills.remove(&target);
            assert!(kills.is_empty() && before.of(&target) == Some(7), "a copy stays as it was");
        }
    }

    #[test]
    fn other_pictures_are_shown() {
        let other = Parts { import: None, ..Parts::default() };
        let mut kills = Kills::default();
        for name in ["campaign:autumn", "slot:studio/teaser", "value:autumn?product=mug", "value:studio?product=bottle"]
        {
            kills.put(&name.parse().unwrap(), 1);
        }
        kills.put(&"variant:studio/hero?colour=red&locale=de-DE&product=mug".parse().unwrap(), 2);
        kills.put(&"block:shots/hard".parse().unwrap(), 3);
        kills.put(&Target::Recipe(RecipeId::of_bytes(b"other")), 4);
        assert_eq!(kills.reason(&facts(VALUES, Some(&other))), None);
    }

    #[test]
    fn a_picture_whose_parts_are_unknown_waits_while_a_part_is_killed() {
        let mut kills = Kills::default();
        kills.put(&Target::Recipe(RecipeId::of_bytes(b"other")), 1);
        assert_eq!(kills.reason(&facts(VALUES, None)), None);
        let target = Target::Adapter(Digest::of_bytes(b"other"));
        kills.put(&target, 2);
        assert_eq!(kills.reason(&facts(VALUES, None)), Some(Reason::PartsUnknown));
        assert_eq!(kills.reason(&facts(VALUES, Some(&parts()))), None);
        kills.remove(&target);
        assert_eq!(kills.reason(&facts(VALUES, None)), None);
    }

    #[test]
    fn a_killed_variant_stays_killed_when_axes_come_and_go() {
        let parts = Parts::default();
        let mut kills = Kills::default();
        kills.put(&"variant:studio/hero?colour=teal&product=mug".parse().unwrap(), 1);
        let is_killed = |values: &str| kills.reason(&facts(values, Some(&parts))).is_some();
        assert!(is_killed("colour=teal&product=mug"));
        assert!(is_killed(VALUES), "an axis was added");
        assert!(is_killed("product=mug") && is_killed(""), "axes were removed");
        assert!(!is_killed("product=bottle") && !is_killed("colour=red&product=mug"));
    }
}
