//! One kill from request to confirmation: find what is meant, enter it into the log, see it told to the caches further down.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bildkante_shared::ids::Digest;
use prometheus::{Gauge, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use super::audit;
use super::ledger::PurgeRecord;
use super::reaches::{Covered, covered};
use super::replay::Replay;
use crate::cache::Bindings;
use crate::campaign::{Campaign, Catalog, CatalogHandle};
use crate::request::IMAGE_PATH_PREFIX;
use crate::resolve::{Operator, resolve};
use crate::shared_state::{
    Change, Committed, Entries, Entry, Kill, Lift, Log, LogError, Proposal, Target, TargetError, TargetKind,
};

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KillOrder {
    pub kind: TargetKind,
    /// As people write it: a variant may leave out defaults, a checkpoint may be named as manifests name it.
    pub name: String,
    pub why: String,
    /// A repeated order has the same.
    pub key: Option<String>,
}

/// Why nothing was killed or lifted.
#[derive(Debug, Clone, thiserror::Error)]
pub enum KillError {
    #[error(transparent)]
    Target(#[from] TargetError),
    #[error("{0}")]
    Unknown(String),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("there is no kill {0} in force")]
    NoSuchKill(u64),
}

/// A kill that is in the log.
#[derive(Debug, Clone)]
pub struct Killed {
    pub entry: Arc<Entry>,
    pub target: Target,
    pub is_new: bool,
    pub covered: Covered,
    /// What caches further down were told, where there are any.
    pub purge: Option<PurgeRecord>,
}

/// A kill that is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InForce {
    /// Of its entry; 0 while it holds here and is not in the log.
    pub seq: u64,
    pub target: Target,
}

/// How many kills there are.
#[derive(Debug, Clone)]
pub struct KillMetrics {
    changes: IntCounterVec,
    in_force: IntGaugeVec,
    held: IntGauge,
    epoch: IntGauge,
    age: Gauge,
    is_stale: IntGauge,
}

impl KillMetrics {
    /// # Errors
    /// When a metric of the same name is registered already.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let metrics = Self {
            changes: IntCounterVec::new(
                Opts::new(
                    "bildkante_edge_kill_changes_total",
                    "Kills and lifts that were asked of this edge, by outcome",
                ),
                &["change", "outcome"],
            )?,
            in_force: IntGaugeVec::new(
                Opts::new("bildkante_edge_kills_in_force", "Kills in force, by what they name"),
                &["kind"],
            )?,
            held: IntGauge::new(
                "bildkante_edge_kills_held",
                "Kills that hold on this edge and are not in the shared log yet: no other edge knows of them",
            )?,
            age: Gauge::new(
                "bildkante_edge_state_age_seconds",
                "How long nothing was heard of the primary of the shared state; 0 on the primary",
            )?,
            is_stale: IntGauge::new(
                "bildkante_edge_state_stale",
                "1 while that is longer than `state.governance_state_age_max_s`",
            )?,
            epoch: IntGauge::new(
                "bildkante_edge_state_epoch",
                "Number of the last entry of the shared log that is in force",
            )?,
        };
        registry.register(Box::new(metrics.age.clone()))?;
        registry.register(Box::new(metrics.is_stale.clone()))?;
        registry.register(Box::new(metrics.changes.clone()))?;
        registry.register(Box::new(metrics.in_force.clone()))?;
        registry.register(Box::new(metrics.held.clone()))?;
        registry.register(Box::new(metrics.epoch.clone()))?;
        Ok(metrics)
    }
}

/// See the module's documentation. Cheap to clone.
#[derive(Debug, Clone)]
pub struct KillDesk {
    log: Arc<dyn Log>,
    replay: Replay,
    catalog: CatalogHandle,
    bindings: Bindings,
    answer_wait: Duration,
    metrics: KillMetrics,
}

impl KillDesk {
    #[must_use]
    pub fn new(
        log: Arc<dyn Log>,
        replay: Replay,
        (catalog, bindings): (CatalogHandle, Bindings),
        answer_wait: Duration,
        metrics: KillMetrics,
    ) -> Self {
        Self { log, replay, catalog, bindings, answer_wait, metrics }
    }

    #[must_use]
    pub fn log(&self) -> &Arc<dyn Log> {
        &self.log
    }

    /// Kills, then waits a while for the caches further down. The record says who has confirmed.
    ///
    /// # Errors
    /// When nothing is meant, or the kill is not in the log. Where the device refused it, it holds here all the same.
    pub async fn kill(&self, who: &str, order: KillOrder) -> Result<Killed, KillError> {
        let KillOrder { kind, name, why, key } = order;
        let target = target(&self.catalog.load(), kind, &name)?;
        let change = Change::Kill(Kill { target: target.clone() });
        let Committed { entry, is_new } =
            self.propose("kill", Proposal { change, who: who.to_owned(), why, key, edge: None }).await?;
        self.answered(entry, target, is_new).await
    }

    /// Lifts the kill with this number.
    ///
    /// # Errors
    /// When there is none in force, or the lift is not in the log.
    pub async fn lift(&self, who: &str, seq: u64, why: String, key: Option<String>) -> Result<Killed, KillError> {
        let target = self.killed_by(seq).await?;
        let change = Change::Lift(Lift { target: target.clone() });
        let Committed { entry, is_new } =
            self.propose("lift", Proposal { change, who: who.to_owned(), why, key, edge: None }).await?;
        self.answered(entry, target, is_new).await
    }

    /// What the kill with this number names. One that was lifted meanwhile may be lifted again by the same order: the log knows its
    /// key.
    ///
    /// # Errors
    /// When there is no such kill.
    pub async fn killed_by(&self, seq: u64) -> Result<Target, KillError> {
        self.named_by(seq).await?.ok_or(KillError::NoSuchKill(seq))
    }

    async fn propose(&self, what: &'static str, proposal: Proposal) -> Result<Committed, LogError> {
        let result = audit::propose(&self.log, what, proposal).await;
        self.metrics.changes.with_label_values(&[what, audit::outcome(&result)]).inc();
        result
    }

    async fn answered(&self, entry: Arc<Entry>, target: Target, is_new: bool) -> Result<Killed, KillError> {
        let purge = self.replay.told(entry.seq(), self.answer_wait).await;
        let (catalog, bindings, meant) = (self.catalog.load(), self.bindings.clone(), target.clone());
        let work = tokio::task::spawn_blocking(move || covered(&catalog, &bindings, &meant));
        let covered = work.await.unwrap_or_default();
        Ok(Killed { entry, target, is_new, covered, purge })
    }

    /// What the kill of this number names, while it is in force.
    async fn named_by(&self, seq: u64) -> Result<Option<Target>, LogError> {
        let Some(before) = seq.checked_sub(1) else { return Ok(None) };
        let found = match self.log.entries(before, 1).await? {
            Entries::These(entries) => entries.into_iter().next(),
            Entries::Elsewhere => None,
        };
        let state = self.log.published().state();
        if let Some(Change::Kill(kill)) = found.as_deref().map(Entry::change) {
            // A later kill of the same is another one's to lift.
            return Ok(state.kills().of(&kill.target).is_none_or(|it| it == seq).then(|| kill.target.clone()));
        }
        // An edge that joined has no entries from before, and knows the kill from its snapshot.
        Ok(state.kills().each().find(|(_, it)| *it == seq).map(|(target, _)| target.clone()))
    }

    /// Kills in force behind a number, at most so many, in the order of their numbers; those that hold here alone come first.
    #[must_use]
    pub fn in_force(&self, after: Option<u64>, count_max: usize) -> Vec<InForce> {
        let state = self.log.published().load();
        let of = |(target, seq): (&Target, u64)| InForce { seq, target: target.clone() };
        let is_held_alone = |target: &Target| after.is_none() && state.kills().of(target).is_none();
        let held = state.held().each().filter(|(target, _)| is_held_alone(target)).map(of);
        let mut in_force: Vec<(u64, &Target)> = state
            .kills()
            .each()
            .filter(|(_, seq)| *seq > after.unwrap_or(0))
            .map(|(target, seq)| (seq, target))
            .collect();
        in_force.sort_unstable_by_key(|(seq, _)| *seq);
        held.chain(in_force.into_iter().map(|(seq, target)| InForce { seq, target: target.clone() }))
            .take(count_max)
            .collect()
    }

    /// Brings the gauges up to date.
    pub fn measure(&self) {
        let state = self.log.published().load();
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        for kind in TargetKind::ALL {
            self.metrics.in_force.with_label_values(&[kind.as_str()]).set(number(state.kills().count(kind)));
        }
        self.metrics.held.set(number(state.held().len()));
        self.metrics.age.set(self.log.standing().age.as_secs_f64());
        self.metrics.is_stale.set(i64::from(self.log.published().is_stale()));
        self.metrics.epoch.set(i64::try_from(state.epoch()).unwrap_or(i64::MAX));
    }

    /// What a kill would cover here now.
    #[must_use]
    pub fn covers(&self, target: &Target) -> Covered {
        covered(&self.catalog.load(), &self.bindings, target)
    }
}

/// What a person means by a name of this kind.
///
/// # Errors
/// When the name has another form, or names nothing where it must: a misspelt kill would kill nothing.
pub fn target(catalog: &Catalog, kind: TargetKind, name: &str) -> Result<Target, KillError> {
    match kind {
        TargetKind::Campaign => known(catalog, name).map(|_| ())?,
        TargetKind::Slot => {
            let (campaign, slot) = name.split_once('/').unwrap_or((name, ""));
            let campaign = known(catalog, campaign)?;
            if campaign.slot_index(slot).is_none() {
                return Err(unknown(format!("campaign `{}` has no slot `{slot}`", campaign.name)));
            }
        }
        TargetKind::Value => {
            let (campaign, pair) = name.split_once('?').unwrap_or((name, ""));
            let campaign = known(catalog, campaign)?;
            let (axis, value) = pair.split_once('=').unwrap_or((pair, ""));
            let found = campaign.axes.iter().find(|it| it.name == axis);
            let found = found.ok_or_else(|| unknown(format!("campaign `{}` has no axis `{axis}`", campaign.name)))?;
            if !found.values.iter().any(|it| it.name == value) {
                return Err(unknown(format!("axis `{axis}` has no value `{value}`")));
            }
        }
        TargetKind::Variant => return variant(catalog, name),
        TargetKind::Checkpoint => return digest(catalog, kind, name, |it| checkpoints(it, name)),
        TargetKind::Adapter => {
            return digest(catalog, kind, name, |it| it.pins().adapters.get(name).copied().into_iter().collect());
        }
        TargetKind::Import => {
            return digest(catalog, kind, name, |it| {
                it.pins().imports.get(name).map(|import| import.recipe.import).into_iter().collect()
            });
        }
        TargetKind::Recipe | TargetKind::Master | TargetKind::Block => {}
    }
    Ok(Target::of(kind, name)?)
}

const fn unknown(what: String) -> KillError {
    KillError::Unknown(what)
}

fn known<'c>(catalog: &'c Catalog, name: &str) -> Result<&'c Arc<Campaign>, KillError> {
    let names = || catalog.campaigns().map(|campaign| campaign.name.as_str()).collect::<Vec<_>>().join(", ");
    catalog.campaign(name).ok_or_else(|| unknown(format!("there is no campaign `{name}`; there are {}", names())))
}

/// The values that a name leaves out are their defaults.
fn variant(catalog: &Catalog, name: &str) -> Result<Target, KillError> {
    let name = name.trim_start_matches('/');
    let url = format!("{IMAGE_PATH_PREFIX}{}", name.strip_prefix("i/").unwrap_or(name));
    let resolution =
        resolve(catalog, url.as_str(), &Operator).outcome.map_err(|refusal| unknown(refusal.to_string()))?;
    Ok(Target::of(TargetKind::Variant, &resolution.resolved.variant.name)?)
}

/// A digest, or a name that locks give one digest. A folder may have a newer digest than the one that recipes name it by.
fn digest(
    catalog: &Catalog,
    kind: TargetKind,
    name: &str,
    of: impl Fn(&Campaign) -> Vec<Digest>,
) -> Result<Target, KillError> {
    let found: BTreeSet<Digest> = catalog.campaigns().flat_map(|campaign| of(campaign)).collect();
    let mut found = found.into_iter();
    match (found.next(), found.next()) {
        (None, _) if name.parse::<Digest>().is_ok() => Ok(Target::of(kind, name)?),
        (None, _) => Err(unknown(format!("no lock names a {} `{name}`; its digest names it too", kind.as_str()))),
        (Some(digest), None) => Ok(Target::of(kind, &digest.to_string())?),
        (Some(one), Some(other)) => {
            let detail =
                format!("campaigns mean different files by the {} `{name}`: {one}, {other}; name one", kind.as_str());
            Err(unknown(detail))
        }
    }
}

fn checkpoints(campaign: &Campaign, name: &str) -> Vec<Digest> {
    let pins = campaign.pins();
    let by_digest = name.parse::<Digest>().ok().and_then(|digest| {
        let loaded = pins.loaded.iter().find(|(_, loaded)| **loaded == digest);
        loaded.and_then(|(name, _)| pins.checkpoints.get(name).copied())
    });
    pins.checkpoints.get(name).copied().or(by_digest).into_iter().collect()
}
