//! What was done about a picture, for who looks at it: the steps of its cases, and kills and lifts that covered it.
//!
//! Of kills that were lifted the state holds nothing, and the log is not searchable. So the last kills and lifts are remembered by their
//! entries, from the first time that a history is asked for.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bildkante_shared::log_limited;

use super::super::gate;
use super::{ReviewDesk, ShownCase};
use crate::campaign::Variant;
use crate::shared_state::{
    ActorId, Change, EDGE_ITSELF, Entries, Entry, Facts, Kill, Kills, Lift, Log, LogError, LogId, Target,
};

/// Kills and lifts that are remembered, the last ones.
const KILLS_MAX: usize = 20_000;
/// Entries that are looked through for them at most: who opens the first page waits for it.
const LOOKED_AT_MAX: u64 = 100_000;
/// Entries that are read at once.
const PAGE: usize = 1_000;

/// Something that was done about a picture, as pages tell it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PastStep {
    /// The case that it was about; a kill is about none.
    pub case: Option<u64>,
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

/// Kills and lifts of the log, the oldest first.
#[derive(Debug, Default)]
pub(super) struct PastKills {
    log: LogId,
    /// The last entry that was looked at.
    reached: u64,
    kills: VecDeque<(u64, Target)>,
}

impl PastKills {
    /// Looks at what has come since.
    async fn catch_up(&mut self, log: &Arc<dyn Log>) -> Result<(), LogError> {
        let state = log.published().state();
        if self.log != *state.log() || self.reached > state.epoch() {
            let reached = state.epoch().saturating_sub(LOOKED_AT_MAX);
            *self = Self { log: state.log().clone(), reached, kills: VecDeque::new() };
        }
        while self.reached < state.epoch() {
            let entries = match log.entries(self.reached, PAGE).await? {
                Entries::These(entries) => entries,
                Entries::Elsewhere if self.reached < log.standing().begins => {
                    self.reached = log.standing().begins;
                    continue;
                }
                Entries::Elsewhere => return Ok(()),
            };
            let Some(last) = entries.last() else { return Ok(()) };
            self.reached = last.seq();
            for entry in &entries {
                if let Change::Kill(Kill { target }) | Change::Lift(Lift { target }) = entry.change() {
                    self.kills.push_back((entry.seq(), target.clone()));
                }
            }
            self.kills.drain(..self.kills.len().saturating_sub(KILLS_MAX));
        }
        Ok(())
    }
}

impl ReviewDesk {
    /// The last that was done about a variant and these cases of it, the newest first. What stands on other edges alone is left out.
    pub async fn history(&self, variant: &Variant, cases: &[ShownCase], count_max: usize) -> Vec<PastStep> {
        let mut steps: Vec<u64> = cases.iter().flat_map(|shown| shown.case.steps.iter().copied()).collect();
        steps.extend(self.kills_of(variant, cases).await);
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

    /// The entries of kills and lifts that covered what the variant's manifest draws, or one of its cases.
    async fn kills_of(&self, variant: &Variant, cases: &[ShownCase]) -> Vec<u64> {
        let mut past = self.past_kills.lock().await;
        if let Err(error) = past.catch_up(&self.log).await {
            log_limited!(warn, %error, "the kills of a history cannot be read");
        }
        let own = gate::facts(variant, None);
        let of_case = |shown: &'_ ShownCase, target: &Kills| {
            let (recipe, master, parts) = (shown.case.recipe, Some(shown.case.master), Some(&shown.case.drawn.parts));
            target.reason(&Facts { recipe, master, parts, ..own }).is_some()
        };
        let covers = |target: &Target| {
            let target = Kills::of_one(target);
            target.reason(&own).is_some() || cases.iter().any(|shown| of_case(shown, &target))
        };
        past.kills.iter().filter(|(_, target)| covers(target)).map(|(seq, _)| *seq).collect()
    }

    fn past_step(&self, entry: &Entry, cases: &[ShownCase]) -> Option<PastStep> {
        let (case, step) = match entry.change() {
            Change::Review(review) => {
                let case = cases.iter().find(|shown| shown.case.steps.contains(&entry.seq()))?;
                (Some(case.case.id), review.step.as_str())
            }
            Change::Kill(_) | Change::Lift(_) => (None, entry.change().as_str()),
            _ => return None,
        };
        let who = match entry.actor() {
            ActorId::EDGE => EDGE_ITSELF.to_owned(),
            person => self.log.name_of(person).unwrap_or_else(|| person.to_string()),
        };
        Some(PastStep { case, at_unix_ms: entry.at_unix_ms(), who, step, why: entry.why().to_owned() })
    }
}
