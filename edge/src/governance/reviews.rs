//! Cases before reviewers: put there once a picture is made, decided by people, listed for them.
//!
//! Invariants: a picture is put before reviewers once, whoever made it; a decision is about the case as its reviewer saw it; what
//! decides stands in the manifest (how many approve) and in the log (who did), and nowhere here.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bildkante_shared::log_limited;
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
    Case, CaseState, Change, Committed, Drawn, EDGE_ITSELF, Entries, Entry, Facts, Log, LogError, Proposal, Reason,
    Refusal, Review, ReviewRefusal, State, Step, Verdict,
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

impl ShownCase {
    fn of(variant: &str, case: &Case, state: CaseState, now_unix_ms: u64) -> Self {
        let is_overdue = case.is_overdue(now_unix_ms);
        Self { variant: variant.to_owned(), case: case.clone(), state, is_overdue }
    }
}

/// A step that was taken about a case, as pages tell it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PastStep {
    pub case: u64,
    pub at_unix_ms: u64,
    /// A name, or the pseudonym that is left of it.
    pub who: String,
    pub step: &'static str,
    pub why: String,
}

impl PastStep {
    /// When it was taken, to the second (RFC 9110).
    #[must_use]
    pub fn at(&self) -> String {
        httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_millis(self.at_unix_ms))
    }
}

/// Which cases are asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CaseFilter {
    pub state: Option<CaseState>,
    pub campaign: Option<String>,
    pub variant: Option<String>,
}

impl CaseFilter {
    fn names(&self, variant: &str) -> bool {
        let campaign = variant.split_once('/').map_or(variant, |(campaign, _)| campaign);
        self.campaign.as_deref().is_none_or(|it| it == campaign)
            && self.variant.as_deref().is_none_or(|it| it == variant)
    }
}

/// What was decided at one moment.
#[derive(Debug)]
pub struct Survey {
    state: Arc<State>,
    now_unix_ms: u64,
}

impl Survey {
    /// Where the cases of a picture are, the oldest first. What is live in another cut is shown no more.
    pub fn states<'s>(&'s self, picture: &'s str, cut: &'s str) -> impl Iterator<Item = CaseState> + 's {
        let reviews = self.state.reviews();
        reviews.of(picture).iter().map(move |case| match reviews.state(picture, case, self.now_unix_ms) {
            CaseState::Live if !case.is_of_cut(cut) => CaseState::Superseded,
            state => state,
        })
    }

    /// The number of the case that came last.
    #[must_use]
    pub fn newest(&self, picture: &str) -> Option<u64> {
        self.state.reviews().of(picture).last().map(|case| case.id)
    }

    /// Every case with its picture, in no order.
    pub fn cases(&self) -> impl Iterator<Item = (&str, ShownCase)> {
        let now = self.now_unix_ms;
        self.state.reviews().each(now).map(move |(variant, case, at)| (variant, ShownCase::of(variant, case, at, now)))
    }

    /// Whether a kill may withhold anything at all.
    #[must_use]
    pub fn has_kills(&self) -> bool {
        !self.state.kills().is_empty() || !self.state.held().is_empty()
    }

    /// Why a variant's own picture, or the one that is live, is withheld.
    #[must_use]
    pub fn withheld(&self, variant: &Variant) -> Option<Reason> {
        let has_ended = variant.rights_end.as_ref().is_some_and(|end| end.unix_s <= self.now_unix_ms / 1_000);
        let live = self.state.reviews().live(&variant.picture, &variant.cut, self.now_unix_ms);
        killed(&self.state, variant, live).or_else(|| has_ended.then_some(Reason::RightsEnded))
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
            step: Step::Submit { drawn },
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
            Ruling::Escalate { to, by_unix_ms } => Step::Escalate { to, by_unix_ms, seen },
        };
        let review = Review { variant, recipe: case.recipe, master: case.master, cut: case.cut, step };
        let Committed { entry, is_new } = self.propose(who, review, why, key).await?;
        let purge = self.replay.told(entry.seq(), self.answer_wait).await;
        let shown = self.case(id).ok_or(ReviewError::NoSuchCase(id))?;
        Ok(Ruled { entry, shown, is_new, purge })
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
        let separator = if variant.contains('?') { '&' } else { '?' };
        let url = format!("{IMAGE_PATH_PREFIX}{variant}{separator}{cut}");
        let resolution = resolve(&self.catalog.load(), url.as_str(), &Operator).outcome;
        resolution.map(|it| it.want).map_err(|_| ReviewError::NoVariant(variant.to_owned()))
    }

    /// What is live in another cut than the slot's own is shown no more.
    fn of_cut(&self, variant: &str, case: &Case, at: CaseState) -> CaseState {
        let Some(cut) = case.cut.as_deref().filter(|_| at == CaseState::Live) else { return at };
        match self.own_want(variant, "") {
            Ok(want) if want.variant.cut != cut => CaseState::Superseded,
            _ => at,
        }
    }

    #[must_use]
    pub fn case(&self, id: u64) -> Option<ShownCase> {
        let state = self.log.published().load();
        let (variant, case) = state.reviews().case(id)?;
        let now = now_unix_ms();
        let at = self.of_cut(variant, case, state.reviews().state(variant, case, now));
        Some(ShownCase::of(variant, case, at, now))
    }

    /// Cases behind a number, at most so many, in the order in which they came.
    #[must_use]
    pub fn cases(&self, filter: &CaseFilter, after: Option<u64>, count_max: usize) -> Vec<ShownCase> {
        let state = self.log.published().load();
        let now = now_unix_ms();
        let is_behind = |case: &Case| after.is_none_or(|it| case.id > it);
        let all = state.reviews().each(now).filter(|(_, case, _)| is_behind(case));
        let all = all.filter(|(variant, _, _)| filter.names(variant));
        let all = all.map(|(variant, case, at)| (variant, case, self.of_cut(variant, case, at)));
        let all = all.filter(|(_, _, at)| filter.state.is_none_or(|it| it == *at));
        let mut found: Vec<(&str, &Case, CaseState)> = all.collect();
        found.sort_unstable_by_key(|(_, case, _)| case.id);
        let found = found.into_iter().take(count_max);
        found.map(|(variant, case, at)| ShownCase::of(variant, case, at, now)).collect()
    }

    /// The cases of a variant's picture, the newest first.
    #[must_use]
    pub fn cases_of(&self, picture: &str) -> Vec<ShownCase> {
        let state = self.log.published().load();
        let (reviews, now) = (state.reviews(), now_unix_ms());
        let at = |case: &Case| self.of_cut(picture, case, reviews.state(picture, case, now));
        let shown = |case: &Case| ShownCase::of(picture, case, at(case), now);
        reviews.of(picture).iter().rev().map(shown).collect()
    }

    /// Whether a picture of the variant is live, and how many await a decision.
    #[must_use]
    pub fn counts(&self, picture: &str) -> (bool, usize) {
        let state = self.log.published().load();
        let (reviews, now) = (state.reviews(), now_unix_ms());
        let at = |case: &Case| self.of_cut(picture, case, reviews.state(picture, case, now));
        let is_live = reviews.of(picture).iter().any(|case| at(case) == CaseState::Live);
        (is_live, self.undecided(picture))
    }

    /// What is decided now, for looking through many pictures.
    #[must_use]
    pub fn survey(&self) -> Survey {
        Survey { state: Arc::clone(&self.log.published().load()), now_unix_ms: now_unix_ms() }
    }

    /// The last steps about these cases, the newest first. Those that stand on other edges alone are left out.
    pub async fn history(&self, cases: &[ShownCase], count_max: usize) -> Vec<PastStep> {
        let mut steps: Vec<u64> = cases.iter().flat_map(|shown| shown.case.steps.iter().copied()).collect();
        steps.sort_unstable_by(|a, b| b.cmp(a));
        let mut history = Vec::new();
        for seq in steps.into_iter().take(count_max) {
            let entries = match self.log.entries(seq.saturating_sub(1), 1).await {
                Ok(Entries::These(entries)) => entries,
                Ok(Entries::Elsewhere) => continue,
                Err(error) => {
                    log_limited!(warn, seq, %error, "an entry of a history cannot be read");
                    continue;
                }
            };
            let entry = entries.first().filter(|entry| entry.seq() == seq);
            history.extend(entry.and_then(|entry| self.past_step(entry, cases)));
        }
        history
    }

    fn past_step(&self, entry: &Entry, cases: &[ShownCase]) -> Option<PastStep> {
        let Change::Review(review) = entry.change() else { return None };
        let case = cases.iter().find(|shown| shown.case.steps.contains(&entry.seq()))?;
        Some(PastStep {
            case: case.case.id,
            at_unix_ms: entry.at_unix_ms(),
            who: self.log.name_of(entry.actor()).unwrap_or_else(|| entry.actor().to_string()),
            step: review.step.as_str(),
            why: entry.why().to_owned(),
        })
    }

    /// Why a kill withholds what a variant shows: the picture of this case, or what would be drawn.
    #[must_use]
    pub fn killed(&self, variant: &Variant, live: Option<&Case>) -> Option<Reason> {
        killed(&self.log.published().load(), variant, live)
    }

    /// Seeds of a variant's drawings that were put before reviewers, as its manifest draws them and its slot cuts them now.
    #[must_use]
    pub fn seeds_of(&self, variant: &Variant) -> Vec<u32> {
        let state = self.log.published().load();
        let is_now = |case: &&Case| {
            let seed = case.drawn.seed.and_then(|seed| variant.with_seed(seed));
            case.is_of_cut(&variant.cut) && seed.is_some_and(|candidate| candidate.recipe.id() == case.recipe)
        };
        state.reviews().of(&variant.picture).iter().filter(is_now).filter_map(|case| case.drawn.seed).collect()
    }

    /// How many of a picture's cases await a decision.
    #[must_use]
    pub fn undecided(&self, picture: &str) -> usize {
        let state = self.log.published().load();
        state.reviews().of(picture).iter().filter(|case| case.verdict == Verdict::NeedsReview).count()
    }

    /// What makes the picture of a case the manifest's own choice, where it is another seed's: lines of TOML to commit.
    #[must_use]
    pub fn patch(&self, shown: &ShownCase) -> Option<String> {
        let variant = self.own_want(&shown.variant, "").ok()?.variant;
        let seed = shown.case.drawn.seed?;
        let is_candidate = shown.case.recipe != variant.recipe.id()
            && variant.with_seed(seed).is_some_and(|candidate| candidate.recipe.id() == shown.case.recipe);
        is_candidate.then(|| patch_of(&shown.variant, seed))
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

fn killed(state: &State, variant: &Variant, live: Option<&Case>) -> Option<Reason> {
    let own = gate::facts(variant, live.map(|case| case.master));
    let facts = match live {
        Some(case) => Facts { recipe: case.recipe, parts: Some(&case.drawn.parts), ..own },
        None => own,
    };
    state.kills().reason(&facts).or_else(|| state.held().reason(&facts))
}

fn now_unix_ms() -> u64 {
    unix_ms(SystemTime::now())
}

/// The name of a picture is `campaign/slot?axis=value&…`.
fn patch_of(picture: &str, seed: u32) -> String {
    let (path, values) = picture.split_once('?').unwrap_or((picture, ""));
    let slot = path.split_once('/').map_or(path, |(_, slot)| slot);
    format!("[slots.{slot}.seeds]\n\"{values}\" = {seed}\n")
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
