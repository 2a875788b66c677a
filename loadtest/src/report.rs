//! Counting answers, and saying what was counted: a table for people, JSON for programs.
//!
//! Latencies are kept in HDR histograms (1 µs to 10 min, three significant digits), from a request's intended time.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::budget::Verdict;
use crate::client::{Exchange, ExchangeError, Moved};

const LATENCY_US_MAX: u64 = 600_000_000;
const SIGNIFICANT_DIGITS: u8 = 3;
/// A server that answers with ever new ETags must not fill our memory: further ones are counted together.
const DISTINCT_MAX: usize = 64;
const OTHERS: &str = "(others)";

/// What has been counted so far.
#[derive(Debug)]
pub struct Tally {
    statuses: BTreeMap<String, u64>,
    formats: BTreeMap<String, u64>,
    etags: BTreeMap<String, u64>,
    errors: BTreeMap<String, u64>,
    error_example: Option<String>,
    bodies: HashSet<blake3::Hash>,
    outcomes: BTreeMap<String, Latencies>,
    all_us: Histogram<u64>,
    hits_us: Histogram<u64>,
    edge_us: Histogram<u64>,
    send_lag_us: Histogram<u64>,
    completed: u64,
    moved: u64,
    abandoned: u64,
    body_bytes: u64,
}

#[derive(Debug)]
struct Latencies {
    first_byte_us: Histogram<u64>,
    whole_us: Histogram<u64>,
}

/// A finished scenario: its phases in their order, and what they prove.
#[derive(Debug, Serialize)]
pub struct Report {
    pub scenario: &'static str,
    pub phases: Vec<Phase>,
    pub verdicts: Vec<Verdict>,
    /// What a reader should know beside the numbers.
    pub notes: Vec<String>,
}

impl Report {
    #[must_use]
    pub const fn new(scenario: &'static str) -> Self {
        Self { scenario, phases: Vec::new(), verdicts: Vec::new(), notes: Vec::new() }
    }

    #[must_use]
    pub fn is_met(&self) -> bool {
        self.verdicts.iter().all(|verdict| verdict.met)
    }

    #[must_use]
    pub fn completed(&self) -> u64 {
        self.phases.iter().map(|phase| phase.completed).sum()
    }
}

/// A finished part of a scenario, with one kind of load.
#[derive(Debug, Serialize)]
pub struct Phase {
    pub name: String,
    pub protocol: &'static str,
    pub targets: Vec<String>,
    /// Requests per second that were due; absent where all were due at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offered_per_s: Option<f64>,
    pub planned: u64,
    pub completed: u64,
    /// Answered by another server than the one they were meant for.
    pub moved: u64,
    /// Never sent, because no connection was free for longer than a reader waits.
    pub abandoned: u64,
    pub elapsed_s: f64,
    pub completed_per_s: f64,
    pub body_bytes: u64,
    pub statuses: BTreeMap<String, u64>,
    pub formats: BTreeMap<String, u64>,
    pub etags: BTreeMap<String, u64>,
    /// How many different bodies arrived, where bodies were compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distinct_bodies: Option<usize>,
    pub errors: BTreeMap<String, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_example: Option<String>,
    pub outcomes: Vec<OutcomeRow>,
    /// Of all outcomes together.
    pub first_byte_us: Percentiles,
    pub hits: u64,
    pub hits_first_byte_us: Percentiles,
    /// What the edge said it took (`Server-Timing`), without network and queues.
    pub edge_us: Percentiles,
    /// How long after its intended time a request was sent: waiting for a free connection, or this generator's own lateness.
    pub send_lag_us: Percentiles,
}

/// Latencies of the requests that met one cache outcome.
#[derive(Debug, Serialize)]
pub struct OutcomeRow {
    pub outcome: String,
    pub count: u64,
    pub first_byte_us: Percentiles,
    pub whole_us: Percentiles,
}

#[derive(Debug, Clone, Copy, Serialize)]
pub struct Percentiles {
    pub p50: u64,
    pub p75: u64,
    pub p99: u64,
    pub max: u64,
}

impl Tally {
    /// # Errors
    /// When the histograms' bounds are not accepted, which would be a mistake in this file.
    pub fn new() -> Result<Self, hdrhistogram::CreationError> {
        Ok(Self {
            statuses: BTreeMap::new(),
            formats: BTreeMap::new(),
            etags: BTreeMap::new(),
            errors: BTreeMap::new(),
            error_example: None,
            bodies: HashSet::new(),
            outcomes: BTreeMap::new(),
            all_us: histogram()?,
            hits_us: histogram()?,
            edge_us: histogram()?,
            send_lag_us: histogram()?,
            completed: 0,
            moved: 0,
            abandoned: 0,
            body_bytes: 0,
        })
    }

    /// Counts the result of a request that was due at `due`.
    ///
    /// # Errors
    /// As [`Tally::new`].
    pub fn record(
        &mut self,
        due: Instant,
        result: &Result<Exchange, ExchangeError>,
    ) -> Result<(), hdrhistogram::CreationError> {
        let exchange = match result {
            Ok(exchange) => exchange,
            Err(error) => {
                count(&mut self.errors, error.as_str());
                self.error_example.get_or_insert_with(|| error.to_string());
                return Ok(());
            }
        };
        self.completed += 1;
        self.body_bytes += exchange.body_bytes;
        count(&mut self.statuses, exchange.status.as_str());
        count(&mut self.formats, &exchange.content_type);
        count(&mut self.etags, &exchange.etag);
        self.send_lag_us.saturating_record(micros_between(due, exchange.sent));
        let first_byte_us = micros_between(due, exchange.first_byte);
        self.all_us.saturating_record(first_byte_us);
        if exchange.outcome.starts_with("hit") {
            self.hits_us.saturating_record(first_byte_us);
        }
        if let Some(edge) = exchange.edge {
            self.edge_us.saturating_record(u64::try_from(edge.as_micros()).unwrap_or(LATENCY_US_MAX));
        }
        self.moved += u64::from(exchange.moved == Moved::Once);
        let latencies = self.latencies(&exchange.outcome)?;
        latencies.first_byte_us.saturating_record(first_byte_us);
        latencies.whole_us.saturating_record(micros_between(due, exchange.done));
        Ok(())
    }

    /// Counts requests that were given up before they were sent.
    pub fn abandon(&mut self, requests: u64) {
        self.abandoned += requests;
    }

    /// Notes a body by a hash of its bytes, to tell whether all clients got the same one.
    pub fn record_body(&mut self, hash: blake3::Hash) {
        if self.bodies.len() < DISTINCT_MAX {
            self.bodies.insert(hash);
        }
    }

    fn latencies(&mut self, outcome: &str) -> Result<&mut Latencies, hdrhistogram::CreationError> {
        let name =
            if self.outcomes.contains_key(outcome) || self.outcomes.len() < DISTINCT_MAX { outcome } else { OTHERS };
        match self.outcomes.entry(name.to_owned()) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => Ok(entry.insert(Latencies { first_byte_us: histogram()?, whole_us: histogram()? })),
        }
    }

    /// Closes the count.
    #[must_use]
    pub fn into_phase(self, run: Run) -> Phase {
        let elapsed_s = run.elapsed.as_secs_f64();
        Phase {
            name: run.name,
            protocol: run.protocol,
            targets: run.targets,
            offered_per_s: run.offered_per_s,
            planned: run.planned,
            completed: self.completed,
            moved: self.moved,
            abandoned: self.abandoned,
            elapsed_s,
            completed_per_s: self.completed as f64 / elapsed_s.max(f64::EPSILON),
            body_bytes: self.body_bytes,
            statuses: self.statuses,
            formats: self.formats,
            etags: self.etags,
            distinct_bodies: (!self.bodies.is_empty()).then_some(self.bodies.len()),
            errors: self.errors,
            error_example: self.error_example,
            outcomes: self.outcomes.into_iter().map(OutcomeRow::from).collect(),
            first_byte_us: Percentiles::of(&self.all_us),
            hits: self.hits_us.len(),
            hits_first_byte_us: Percentiles::of(&self.hits_us),
            edge_us: Percentiles::of(&self.edge_us),
            send_lag_us: Percentiles::of(&self.send_lag_us),
        }
    }
}

impl Phase {
    /// Requests that got no answer, or none with an image: `abandoned` ones were never sent and are not among them.
    #[must_use]
    pub fn failed(&self) -> u64 {
        let errors: u64 = self.errors.values().sum();
        let refused: u64 =
            self.statuses.iter().filter(|(status, _)| !status.starts_with('2')).map(|(_, count)| count).sum();
        errors + refused
    }

    /// How often the edge answered so, by the start of an outcome's name.
    #[must_use]
    pub fn outcomes_like(&self, start: &str) -> u64 {
        self.outcomes.iter().filter(|row| row.outcome.starts_with(start)).map(|row| row.count).sum()
    }
}

/// The facts about a run that no answer changes.
#[derive(Debug)]
pub struct Run {
    pub name: String,
    pub protocol: &'static str,
    pub targets: Vec<String>,
    pub offered_per_s: Option<f64>,
    pub planned: u64,
    pub elapsed: Duration,
}

impl Percentiles {
    fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile);
        Self { p50: at(0.5), p75: at(0.75), p99: at(0.99), max: histogram.max() }
    }
}

impl From<(String, Latencies)> for OutcomeRow {
    fn from((outcome, latencies): (String, Latencies)) -> Self {
        Self {
            outcome,
            count: latencies.first_byte_us.len(),
            first_byte_us: Percentiles::of(&latencies.first_byte_us),
            whole_us: Percentiles::of(&latencies.whole_us),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "{}", self.scenario)?;
        for phase in &self.phases {
            writeln!(out, "\n{phase}")?;
        }
        for note in &self.notes {
            writeln!(out, "note: {note}")?;
        }
        for verdict in &self.verdicts {
            writeln!(out, "{verdict}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let offered =
            self.offered_per_s.map_or_else(|| "all at once".to_owned(), |rate| format!("{rate:.0}/s offered"));
        writeln!(out, "{} over {}, {offered}: {}", self.name, self.protocol, self.targets.join(" "))?;
        writeln!(
            out,
            "{} of {} answered in {:.2} s: {:.0}/s, {:.1} MB",
            self.completed,
            self.planned,
            self.elapsed_s,
            self.completed_per_s,
            self.body_bytes as f64 / 1e6
        )?;
        for (title, count) in [("moved on", self.moved), ("given up unsent", self.abandoned)] {
            if count > 0 {
                writeln!(out, "  {title:<49} {count:>9}")?;
            }
        }
        for (title, counts) in [("status", &self.statuses), ("format", &self.formats), ("failed", &self.errors)] {
            for (name, count) in counts {
                writeln!(out, "  {title:<8} {name:<40} {count:>9}")?;
            }
        }
        if let Some(bodies) = self.distinct_bodies {
            writeln!(out, "  {:<8} {:<40} {bodies:>9}", "bodies", "different")?;
        }
        if let Some(example) = &self.error_example {
            writeln!(out, "  the first failure: {example}")?;
        }
        writeln!(out, "time to first byte from the intended time, ms:")?;
        writeln!(out, "  {:<40}{:>9}{:>10}{:>10}{:>10}{:>10}", "outcome", "count", "p50", "p75", "p99", "max")?;
        for row in &self.outcomes {
            percentile_line(out, &row.outcome, row.count, row.first_byte_us)?;
        }
        percentile_line(out, "(the edge's own time)", self.completed, self.edge_us)?;
        percentile_line(out, "(sent late by)", self.completed, self.send_lag_us)
    }
}

fn percentile_line(out: &mut fmt::Formatter<'_>, name: &str, count: u64, us: Percentiles) -> fmt::Result {
    let ms = |us: u64| us as f64 / 1000.0;
    writeln!(
        out,
        "  {name:<40}{count:>9}{:>10.3}{:>10.3}{:>10.3}{:>10.3}",
        ms(us.p50),
        ms(us.p75),
        ms(us.p99),
        ms(us.max)
    )
}

fn histogram() -> Result<Histogram<u64>, hdrhistogram::CreationError> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, SIGNIFICANT_DIGITS)
}

fn micros_between(due: Instant, at: Instant) -> u64 {
    u64::try_from(at.saturating_duration_since(due).as_micros()).unwrap_or(LATENCY_US_MAX)
}

fn count(counts: &mut BTreeMap<String, u64>, name: &str) {
    if let Some(count) = counts.get_mut(name) {
        *count += 1;
        return;
    }
    let name = if counts.len() < DISTINCT_MAX { name } else { OTHERS };
    *counts.entry(name.to_owned()).or_insert(0) += 1;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distinct_names_are_bounded() {
        let mut counts = BTreeMap::new();
        for index in 0..1000 {
            count(&mut counts, &format!("\"{index}\""));
        }
        assert_eq!(counts.len(), DISTINCT_MAX + 1);
        assert_eq!(counts[OTHERS], 1000 - DISTINCT_MAX as u64);
    }

    #[test]
    fn latency_counts_from_the_intended_time() {
        let due = Instant::now();
        let late = due + Duration::from_millis(200);
        let exchange = Exchange {
            status: http::StatusCode::OK,
            content_type: "image/avif".to_owned(),
            etag: "\"x\"".to_owned(),
            outcome: "hit".to_owned(),
            edge: None,
            sent: late,
            first_byte: late + Duration::from_millis(1),
            done: late + Duration::from_millis(2),
            body_bytes: 7,
            moved: Moved::Never,
        };
        let mut tally = Tally::new().expect("valid bounds");
        tally.record(due, &Ok(exchange)).expect("valid bounds");
        let run = Run {
            name: "hits".to_owned(),
            protocol: "HTTP/1.1",
            targets: vec![],
            offered_per_s: Some(1.0),
            planned: 1,
            elapsed: Duration::from_secs(1),
        };
        let report = tally.into_phase(run);
        let row = &report.outcomes[0];
        assert!((201_000..=201_300).contains(&row.first_byte_us.p50), "{row:?}");
        assert!((200_000..=200_300).contains(&report.send_lag_us.p50));
        assert!(report.to_string().contains("201."), "{report}");
    }
}
