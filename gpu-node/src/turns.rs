//! Whose turn it is on a device: pure, without a clock, a lock or a device. The device's thread drives it, and so does a
//! simulation in virtual time (`turns/tests.rs`).
//!
//! Before every turn (a pass of a network, what lies between two parts of a recipe, or a decoding) the first of all jobs
//! leads, begun or waiting, by its [`Place`]. Jobs that can share the leader's pass go along, the first ones first. One turn in
//! [`SHARE`] is an aged job's, where more urgent ones would take them all: no urgency takes that share away. So the most urgent
//! job waits for the turn under way, and for one more at most.
//!
//! A probe, which finds out what lets jobs share passes, has its turns while there is no job. Where requests have asked for what
//! it finds out, it also has one turn in [`SHARE`] of those that are not urgent: no page waits for a probe.
//!
//! A job that is first and does not fit into memory waits until those that have begun have made room; none begins meanwhile. A job
//! whose networks are not at hand holds nobody up: they are fetched, and until then it counts as if it had not come yet.

use std::time::Instant;

use bildkante_shared::ids::RecipeId;

use crate::queue::{Ageing, Claim, Done, Haste, Place, Queue};

/// One turn in so many is an aged job's.
pub(crate) const SHARE: u32 = 10;

/// The least urgent job that a page waits for.
const PAGE_URGENCY_MAX: u8 = 2;

/// Whose turn it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lead {
    /// A job that has begun, by its place in the list.
    Begun(usize),
    Waiting(RecipeId),
    /// No job: a probe.
    Probe,
}

/// Whether there is something to find out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProbeDue {
    No,
    /// Once the device is idle.
    Idle,
    /// Requests have asked for it.
    Wanted,
}

/// Whether a waiting job may begin beside those that have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fit {
    Fits,
    /// Those that have begun have to make room first.
    NoRoom,
    /// What it is drawn with is not at hand: it counts as if it had not come yet.
    Away,
}

/// A choice, and what it left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) lead: Lead,
    /// A waiting job would have come first and does not fit: none may begin.
    pub(crate) room_is_wanted: bool,
    /// Whether it is the turn that is kept for the aged.
    is_share: bool,
    /// The oldest aged job that is less urgent than the first one, by its sequence number.
    aged: Option<u64>,
    probe: ProbeDue,
}

/// The turns of one device.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    /// Turns since the oldest aged job had one.
    since_aged: u32,
    /// Turns since a probe had one, or was asked for.
    since_probe: u32,
}

impl Turns {
    /// Who leads the next turn; `None` where there is nothing to do.
    pub(crate) fn choose(
        &self,
        now: Instant,
        begun: &[(Claim, Done)],
        queue: &Queue,
        probe: ProbeDue,
        fit: impl Fn(RecipeId) -> Fit,
    ) -> Option<Choice> {
        let ageing = queue.ageing();
        let places = begun.iter().enumerate().map(|(at, (claim, done))| (claim.place(*done, now), at));
        let first_begun = places.min();
        let first_waiting = queue.first(|_, id| fit(id) != Fit::Away);
        let first = first_begun.map(|(place, _)| place).into_iter().chain(first_waiting.map(|(place, _)| place)).min();
        let is_probe_due = match first {
            None => probe != ProbeDue::No,
            Some(first) if first.urgency.get() <= PAGE_URGENCY_MAX => false,
            Some(_) => probe == ProbeDue::Wanted && self.since_probe + 1 >= SHARE,
        };
        if is_probe_due {
            return Some(Choice { lead: Lead::Probe, room_is_wanted: false, is_share: false, aged: None, probe });
        }
        let first = first?;
        let aged = oldest_aged((ageing, now), &first, begun, queue, |id| fit(id) != Fit::Away);
        let lead = Lead::Begun(0);
        let sequence = aged.map(|(claim, _)| claim.sequence);
        let mut choice = Choice { lead, room_is_wanted: false, is_share: false, aged: sequence, probe };
        if let Some((claim, lead)) = aged.filter(|_| self.since_aged + 1 >= SHARE) {
            // Nor does the share take the bound away from those that wait beside it.
            let overdue = queue.first(|place, id| {
                place.urgency == claim.urgency && place.haste == Haste::Overdue && fit(id) != Fit::Away
            });
            match overdue.map_or(lead, |(_, id)| Lead::Waiting(id)) {
                Lead::Waiting(id) if fit(id) != Fit::Fits => choice.room_is_wanted = true,
                lead => return Some(Choice { lead, is_share: true, ..choice }),
            }
        }
        let lead = match (first_begun, first_waiting) {
            (None, None) => return None,
            (Some((_, at)), None) => Lead::Begun(at),
            (None, Some((_, id))) => Lead::Waiting(id),
            (Some((begun, at)), Some((waiting, _))) if begun < waiting => Lead::Begun(at),
            // Where room is wanted for the share, the first one takes it all the same.
            (Some(_), Some((_, id))) if fit(id) == Fit::Fits => Lead::Waiting(id),
            (Some((_, at)), Some(_)) => {
                choice.room_is_wanted = true;
                Lead::Begun(at)
            }
        };
        Some(Choice { lead, ..choice })
    }

    /// A turn was made, by jobs with these sequence numbers; a probe's by none.
    pub(crate) fn made(&mut self, choice: &Choice, mut jobs: impl Iterator<Item = u64>) {
        let is_passed_over = choice.probe == ProbeDue::Wanted && choice.lead != Lead::Probe;
        self.since_probe = if is_passed_over { (self.since_probe + 1).min(SHARE) } else { 0 };
        match choice.aged {
            Some(aged) if choice.is_share || jobs.any(|sequence| sequence == aged) => self.since_aged = 0,
            Some(_) => self.since_aged = (self.since_aged + 1).min(SHARE),
            None => {}
        }
    }
}

/// The oldest aged job that is less urgent than the first one. One that will be late anyway has a share only once it has waited
/// for as long as makes any job aged, and behind those that need not be late.
fn oldest_aged(
    (ageing, now): (Ageing, Instant),
    first: &Place,
    begun: &[(Claim, Done)],
    queue: &Queue,
    is_at_hand: impl Fn(RecipeId) -> bool,
) -> Option<(Claim, Lead)> {
    let begun = begun.iter().enumerate().map(|(at, (claim, done))| (claim, Lead::Begun(at), claim.place(*done, now)));
    let waiting = queue.claims().filter(|(_, id)| is_at_hand(*id));
    let waiting = waiting.map(|(claim, id)| (claim, Lead::Waiting(id), claim.place(Done::Part(0.0), now)));
    let is_passed_over = |claim: &Claim| claim.is_aged(ageing, now) && claim.urgency > first.urgency;
    let is_hopeless = |claim: &Claim, place: &Place| {
        place.haste == Haste::Late && now.saturating_duration_since(claim.queued_at) < ageing.after
    };
    let passed_over = begun.chain(waiting).filter(|(claim, ..)| is_passed_over(claim));
    let passed_over = passed_over.filter(|(claim, _, place)| !is_hopeless(claim, place));
    let oldest = passed_over.min_by_key(|(claim, _, place)| (place.haste == Haste::Late, claim.sequence));
    oldest.map(|(claim, lead, _)| (*claim, lead))
}

/// Who goes along with a leader: the first ones, as many as a pass takes.
#[derive(Debug)]
pub(crate) struct Company<T> {
    places_max: usize,
    members: Vec<(Place, T)>,
}

impl<T> Company<T> {
    pub(crate) const fn new(places_max: usize) -> Self {
        Self { places_max, members: Vec::new() }
    }

    /// Whether a job at this place goes along.
    pub(crate) fn takes(&self, place: &Place) -> bool {
        self.members.len() < self.places_max || self.members.last().is_some_and(|(last, _)| place < last)
    }

    /// Adds a job, in place of the last one where all places are taken.
    pub(crate) fn add(&mut self, place: Place, member: T) {
        let at = self.members.partition_point(|(known, _)| *known < place);
        self.members.insert(at, (place, member));
        self.members.truncate(self.places_max);
    }

    pub(crate) fn into_members(self) -> impl Iterator<Item = T> {
        self.members.into_iter().map(|(_, member)| member)
    }
}

#[cfg(test)]
mod tests;
