//! Cases before reviewers: put there once a picture is made, decided by people, listed for them.
//!
//! Invariants: a picture is put before reviewers once, whoever made it; a decision is about the case as its reviewer saw it; what
//! decides stands in the manifest (how many approve) and in the log (who did), and nowhere here.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bildkante_shared::import::MasterRecipe;
use prometheus::{IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use super::audit;
use super::gate;
use super::ledger::PurgeRecord;
use super::replay::Replay;
use crate::cache::{Binding, unix_ms};
use crate::campaign::{CatalogHandle, Variant};
use crate::request::IMAGE_PATH_PREFIX;
use crate::resolve::{Operator, Want, resolve};
use crate::shared_state::{
    Case, CaseState, Change, Committed, Drawn, EDGE_ITSELF, Entry, Log, LogError, Proposal, Refusal, Review,
    ReviewRefusal, Step, Verdict,
};
use crate::words::Format;

/// Why nothing was decided.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReviewError {
    #[error("there is no case {0}")]
    NoSuchCase(u64),
    #[error("`{0}` is no variant of a campaign any more: nothing can be decided about it")]
    NoVariant(String),
    #[error("pictures of `{0}` are not reviewed: its manifest says `review = \"none\"`")]
    NotReviewed(String),
    #[error("case {case} was turned down: say that you saw that, with `seen` {seen}")]
    TurnedDown { case: u64, seen: u64 },
    #[error(transparent)]
    Log(#[from] LogError),
}

/// What a reviewer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ruling {
    Approve { from_unix_ms: Option<u64>, until_unix_ms: Option<u64> },
    Reject,
    RequestChanges,
    Pause,
    Resume,
    Escalate { to: String, by_unix_ms: u64 },
}

/// A ruling on a case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReviewOrder {
    pub case: u64,
    pub ruling: Ruling,
    /// The last entry that the reviewer saw of it; `None`: as it is.
    pub seen: Option<u64>,
    pub why: String,
    /// A repeated order has the same.
    pub key: Option<String>,
}

/// A ruling that is in the log.
#[derive(Debug, Clone)]
pub struct Ruled {
    pub entry: Arc<Entry>,
    pub shown: ShownCase,
    pub is_new: bool,
    /// What caches further down were told, where there are any.
    pub purge: Option<PurgeRecord>,
}

/// A case as it is at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownCase {
    pub variant: String,
    pub case: Case,
    pub state: CaseState,
    /// The role that was asked has let its deadline pass.
    pub is_overdue: bool,
}

/// Which cases are asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CaseFilter {
    pub state: Option<CaseState>,
    pub campaign: Option<String>,
    pub variant: Option<String>,
}

impl CaseFilter {
    fn admits(&self, variant: &str, state: CaseState) -> bool {
        let campaign = variant.split_once('/').map_or(variant, |(campaign, _)| campaign);
        self.state.is_none_or(|it| it == state)
            && self.campaign.as_deref().is_none_or(|it| it == campaign)
            && self.variant.as_deref().is_none_or(|it| it == variant)
    }
}

/// How reviews go on.
#[derive(Debug, Clone)]
pub struct ReviewMetrics {
    steps: IntCounterVec,
    cases: IntGaugeVec,
    overdue: IntGauge,
}

impl ReviewMetrics {
    /// # Errors
    /// When a metric of the same name is registered already.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let steps = IntCounterVec::new(
            Opts::new("bildkante_edge_review_steps_total", "Steps of reviews that were asked of this edge, by outcome"),
            &["step", "outcome"],
        )?;
        let cases = IntGaugeVec::new(
            Opts::new("bildkante_edge_review_cases", "Pictures that were put before reviewers, by state"),
            &["state"],
        )?;
        registry.register(Box::new(steps.clone()))?;
        let overdue = IntGauge::new(
            "bildkante_edge_review_overdue",
            "Pictures about which a role was asked to decide, and whose deadline has passed",
        )?;
        registry.register(Box::new(cases.clone()))?;
        registry.register(Box::new(overdue.clone()))?;
        Ok(Self { steps, cases, overdue })
    }
}

/// See the module's documentation. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ReviewDesk {
    log: Arc<dyn Log>,
    replay: Replay,
    catalog: CatalogHandle,
    answer_wait: Duration,
    metrics: ReviewMetrics,
}

impl ReviewDesk {
    #[must_use]
    pub const fn new(
        log: Arc<dyn Log>,
        replay: Replay,
        catalog: CatalogHandle,
        answer_wait: Duration,
        metrics: ReviewMetrics,
    ) -> Self {
        Self { log, replay, catalog, answer_wait, metrics }
    }

    /// Puts a picture that was made before reviewers, where its variant is reviewed and it was not there before.
    ///
    /// # Errors
    /// When the log does not take it; whoever makes the picture again tries again.
    pub async fn submit(&self, variant: &Variant, binding: &Binding) -> Result<(), LogError> {
        let recipe = variant.recipe.id();
        let is_known = || self.log.published().load().reviews().is_known(&variant.picture, recipe, binding.master);
        if !variant.review.is_required() || is_known() {
            return Ok(());
        }
        let drawn = Box::new(drawn(variant, binding));
        let review =
            Review { variant: variant.picture.clone(), recipe, master: binding.master, step: Step::Submit { drawn } };
        match self.propose(EDGE_ITSELF, review, String::new(), None).await {
            // Another edge was first.
            Err(LogError::Refused(Refusal::Review(ReviewRefusal::Known(_)))) => Ok(()),
            Err(error) => Err(error),
            Ok(_) => Ok(()),
        }
    }

    /// Rules on a case, then waits a while for the caches further down.
    ///
    /// # Errors
    /// When there is no such case, someone has ruled on it meanwhile, or the log does not take it.
    pub async fn rule(&self, who: &str, order: ReviewOrder) -> Result<Ruled, ReviewError> {
        let ReviewOrder { case: id, ruling, seen, why, key } = order;
        let ShownCase { variant, case, .. } = self.case(id).ok_or(ReviewError::NoSuchCase(id))?;
        let was_turned_down = matches!(case.verdict, Verdict::Rejected | Verdict::ChangesRequested);
        if seen.is_none() && was_turned_down && matches!(ruling, Ruling::Approve { .. }) {
            return Err(ReviewError::TurnedDown { case: id, seen: case.seen });
        }
        let seen = seen.unwrap_or(case.seen);
        let step = match ruling {
            Ruling::Approve { from_unix_ms, until_unix_ms } => {
                Step::Approve { approvers: self.approvers(&variant)?, from_unix_ms, until_unix_ms, seen }
            }
            Ruling::Reject => Step::Reject { seen },
            Ruling::RequestChanges => Step::RequestChanges { seen },
            Ruling::Pause => Step::Pause { seen },
            Ruling::Resume => Step::Resume { seen },
            Ruling::Escalate { to, by_unix_ms } => Step::Escalate { to, by_unix_ms, seen },
        };
        let review = Review { variant, recipe: case.recipe, master: case.master, step };
        let Committed { entry, is_new } = self.propose(who, review, why, key).await?;
        let purge = self.replay.told(entry.seq(), self.answer_wait).await;
        let shown = self.case(id).ok_or(ReviewError::NoSuchCase(id))?;
        Ok(Ruled { entry, shown, is_new, purge })
    }

    async fn propose(
        &self,
        who: &str,
        review: Review,
        why: String,
        key: Option<String>,
    ) -> Result<Committed, LogError> {
        let step = review.step.as_str();
        let proposal = Proposal { change: Change::Review(review), who: who.to_owned(), why, key, edge: None };
        let result = audit::propose(&self.log, step, proposal).await;
        self.metrics.steps.with_label_values(&[step, audit::outcome(&result)]).inc();
        result
    }

    /// How many people have to approve, as the manifest says now.
    fn approvers(&self, variant: &str) -> Result<u8, ReviewError> {
        match self.own_want(variant, "")?.variant.review.approvers() {
            0 => Err(ReviewError::NotReviewed(variant.to_owned())),
            approvers => Ok(approvers),
        }
    }

    /// What a reviewer of this case looks at: at least so wide, where the slot goes that far.
    ///
    /// # Errors
    /// When the catalogue has no such variant any more.
    pub fn want(&self, shown: &ShownCase, width_px: u32, format: Format) -> Result<Want, ReviewError> {
        let cut = format!("w={width_px}&fm={}", format.as_str());
        let want = self.own_want(&shown.variant, &cut)?;
        let decided = gate::decided(&want, &shown.case);
        Ok(want.of_decided(decided).for_reviewers())
    }

    /// What is wanted of a variant's own picture.
    fn own_want(&self, variant: &str, cut: &str) -> Result<Want, ReviewError> {
        let separator = if variant.contains('?') { '&' } else { '?' };
        let url = format!("{IMAGE_PATH_PREFIX}{variant}{separator}{cut}");
        let resolution = resolve(&self.catalog.load(), url.as_str(), &Operator).outcome;
        resolution.map(|it| it.want).map_err(|_| ReviewError::NoVariant(variant.to_owned()))
    }

    #[must_use]
    pub fn case(&self, id: u64) -> Option<ShownCase> {
        let state = self.log.published().load();
        let (variant, case) = state.reviews().case(id)?;
        let now = now_unix_ms();
        let at = state.reviews().state(variant, case, now);
        Some(ShownCase { variant: variant.to_owned(), case: case.clone(), state: at, is_overdue: case.is_overdue(now) })
    }

    /// Cases behind a number, at most so many, in the order in which they came.
    #[must_use]
    pub fn cases(&self, filter: &CaseFilter, after: Option<u64>, count_max: usize) -> Vec<ShownCase> {
        let state = self.log.published().load();
        let is_asked =
            |variant: &str, case: &Case, at| filter.admits(variant, at) && after.is_none_or(|it| case.id > it);
        let now = now_unix_ms();
        let all = state.reviews().each(now).filter(|(variant, case, at)| is_asked(variant, case, *at));
        let mut found: Vec<(&str, &Case, CaseState)> = all.collect();
        found.sort_unstable_by_key(|(_, case, _)| case.id);
        let shown = |(variant, case, state): (&str, &Case, CaseState)| ShownCase {
            variant: variant.to_owned(),
            case: case.clone(),
            state,
            is_overdue: case.is_overdue(now),
        };
        found.into_iter().take(count_max).map(shown).collect()
    }

    #[must_use]
    pub fn log(&self) -> &Arc<dyn Log> {
        &self.log
    }

    /// Brings the gauges up to date.
    pub fn measure(&self) {
        let state = self.log.published().load();
        let (mut counts, mut overdue, now) = ([0; CaseState::ALL.len()], 0, now_unix_ms());
        for (_, case, at) in state.reviews().each(now) {
            counts[at as usize] += 1;
            overdue += i64::from(case.is_overdue(now));
        }
        self.metrics.overdue.set(overdue);
        for (at, count) in CaseState::ALL.into_iter().zip(counts) {
            self.metrics.cases.with_label_values(&[at.as_str()]).set(count);
        }
    }
}

fn now_unix_ms() -> u64 {
    unix_ms(SystemTime::now())
}

fn drawn(variant: &Variant, binding: &Binding) -> Drawn {
    Drawn {
        width_px: binding.width_px,
        height_px: binding.height_px,
        phash: binding.phash,
        node: binding.node.clone(),
        drawn_unix_s: binding.drawn_unix_s,
        determinism: binding.determinism.clone(),
        seed: match &variant.recipe {
            MasterRecipe::Drawn(recipe) => Some(recipe.seed),
            MasterRecipe::Imported(_) | MasterRecipe::Awaited(_) => None,
        },
        parts: (*variant.parts).clone(),
    }
}
