//! Cases before reviewers: put there once a picture is made, decided by people, listed for them.
//!
//! | module | owns |
//! | --- | --- |
//! | `listed` | cases as they are at a moment |
//! | `history` | what was done about a picture |
//! | `survey` | what is decided at one moment, for pages that look through many pictures |
//! | `metrics` | how reviews go on |
//!
//! Invariants: a picture is put before reviewers once, whoever made it; a decision is about the case as its reviewer saw it; what
//! decides stands in the manifest (how many approve) and in the log (who did), and nowhere here.

mod history;
mod listed;
mod metrics;
mod survey;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use self::history::PastKills;
pub use self::history::PastStep;
pub use self::listed::{CaseFilter, ShownCase};
pub use self::metrics::ReviewMetrics;
pub use self::survey::{AwaitingCase, Survey};
use super::audit;
use super::gate;
use super::ledger::PurgeRecord;
use super::replay::Replay;
use crate::cache::{Binding, unix_ms};
use crate::campaign::{CatalogHandle, Variant};
use crate::resolve::{self, Want};
use crate::shared_state::{
    Change, Committed, Drawn, EDGE_ITSELF, Entries, Entry, GateFinding, Log, LogError, Proposal, Refusal, Review,
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
    Approve {
        from_unix_ms: Option<u64>,
        until_unix_ms: Option<u64>,
    },
    Reject,
    RequestChanges,
    Pause,
    Resume,
    Escalate {
        to: String,
        by_unix_ms: u64,
    },
    /// The one before it is taken back, by who made it.
    Undo,
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

/// What a gate found about a case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GateOrder {
    pub case: u64,
    pub finding: GateFinding,
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

/// See the module's documentation. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ReviewDesk {
    log: Arc<dyn Log>,
    replay: Replay,
    catalog: CatalogHandle,
    answer_wait: Duration,
    metrics: ReviewMetrics,
    past_kills: Arc<tokio::sync::Mutex<PastKills>>,
}

impl ReviewDesk {
    #[must_use]
    pub fn new(
        log: Arc<dyn Log>,
        replay: Replay,
        catalog: CatalogHandle,
        answer_wait: Duration,
        metrics: ReviewMetrics,
    ) -> Self {
        Self { log, replay, catalog, answer_wait, metrics, past_kills: Arc::default() }
    }

    /// Puts a picture that was made before reviewers, where its variant is reviewed and it was not there before.
    ///
    /// # Errors
    /// When the log does not take it; whoever makes the picture again tries again.
    pub async fn submit(&self, variant: &Variant, binding: &Binding) -> Result<(), LogError> {
        let recipe = variant.recipe.id();
        let is_known =
            || self.log.published().load().reviews().is_known(&variant.picture, &variant.cut, recipe, binding.master);
        if !variant.review.is_required() || is_known() {
            return Ok(());
        }
        let drawn = Box::new(drawn(variant, binding));
        let review = Review {
            variant: variant.picture.clone(),
            recipe,
            master: binding.master,
            cut: Some(variant.cut.clone()),
            step: Step::Submit { drawn, gates: variant.gates.to_vec() },
        };
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
        let known = self.known(key.as_deref(), &variant).await?;
        let was_turned_down = matches!(case.verdict, Verdict::Rejected | Verdict::ChangesRequested);
        if known.is_none() && seen.is_none() && was_turned_down && matches!(ruling, Ruling::Approve { .. }) {
            return Err(ReviewError::TurnedDown { case: id, seen: case.seen });
        }
        // A repeated order means what it meant, whatever has been decided since.
        let seen = seen.or_else(|| known.as_ref()?.step.seen()).unwrap_or(case.seen);
        let step = match ruling {
            Ruling::Approve { from_unix_ms, until_unix_ms } => {
                let approvers = match known.as_ref().map(|known| &known.step) {
                    Some(Step::Approve { approvers, .. }) => *approvers,
                    _ => self.approvers(&variant)?,
                };
                Step::Approve { approvers, from_unix_ms, until_unix_ms, seen }
            }
            Ruling::Reject => Step::Reject { seen },
            Ruling::RequestChanges => Step::RequestChanges { seen },
            Ruling::Pause => Step::Pause { seen },
            Ruling::Resume => Step::Resume { seen },
            Ruling::Undo => Step::Undo { seen },
            Ruling::Escalate { to, by_unix_ms } => Step::Escalate { to, by_unix_ms, seen },
        };
        let review = Review { variant, recipe: case.recipe, master: case.master, cut: case.cut, step };
        let Committed { entry, is_new } = self.propose(who, review, why, key).await?;
        let purge = self.replay.told(entry.seq(), self.answer_wait).await;
        let shown = self.case(id).ok_or(ReviewError::NoSuchCase(id))?;
        Ok(Ruled { entry, shown, is_new, purge })
    }

    /// Enters what a gate found about a case.
    ///
    /// # Errors
    /// When there is no such case, it awaits no such gate, or the log does not take it.
    pub async fn report(&self, who: &str, report: GateOrder) -> Result<Ruled, ReviewError> {
        let GateOrder { case: id, finding, why, key } = report;
        let ShownCase { variant, case, .. } = self.case(id).ok_or(ReviewError::NoSuchCase(id))?;
        let step = Step::Report(finding);
        let review = Review { variant, recipe: case.recipe, master: case.master, cut: case.cut, step };
        let Committed { entry, is_new } = self.propose(who, review, why, key).await?;
        let shown = self.case(id).ok_or(ReviewError::NoSuchCase(id))?;
        Ok(Ruled { entry, shown, is_new, purge: None })
    }

    /// What an order with this key became, where that was a step about this variant.
    async fn known(&self, key: Option<&str>, variant: &str) -> Result<Option<Review>, LogError> {
        let Some(before) = key.and_then(|key| self.log.published().load().of_key(key)?.checked_sub(1)) else {
            return Ok(None);
        };
        let Entries::These(entries) = self.log.entries(before, 1).await? else { return Ok(None) };
        Ok(match entries.first().map(|entry| entry.change()) {
            Some(Change::Review(review)) if review.variant == variant => Some(review.clone()),
            _ => None,
        })
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
        let want = resolve::want_named(&self.catalog.load(), variant, cut);
        want.map_err(|_| ReviewError::NoVariant(variant.to_owned()))
    }

    #[must_use]
    pub fn log(&self) -> &Arc<dyn Log> {
        &self.log
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
        seed: variant.drawn_seed(),
        parts: (*variant.parts).clone(),
    }
}
