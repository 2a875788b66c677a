//! Endpoints elsewhere that are told of decisions, kills and rights, as Standard Webhooks 1.0.0 says.
//!
//! | module | owns |
//! | --- | --- |
//! | `config` | `[[webhooks]]`: who is told of what |
//! | `event` | an entry of the log, or a moment, as a message |
//! | `book` | messages on the device: owed, dead, and how far the log was read |
//! | `signature` | HMAC-SHA256 over what is sent |
//! | `guard` | which addresses may be called |
//! | `call` | one attempt |
//!
//! ```text
//! log, clock ─▶ events ─▶ one commit: letters and cursor ─▶ call, again and again ─▶ delivered | dead ─▶ replay
//! ```
//!
//! Invariants
//! - The edge that numbers the log tells, and no other. Another that is promoted goes on from where it first knew the endpoint, less
//!   what is older than `retry_for_s`: nothing is left out, and what the former primary told has the same id again.
//! - Messages about one subject are told in their order; those of one subject, or of one endpoint, hold up no others.
//! - A message is tried for `retry_for_s` with growing, jittered pauses. Then it is a dead letter, and is kept until it is replayed
//!   or `book::DEAD_MAX` younger ones are there.

mod book;
mod call;
mod config;
mod event;
mod guard;
mod signature;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use bildkante_shared::log_limited;
use bildkante_shared::shutdown::Shutdown;
use parking_lot::Mutex;
use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};

use self::book::{Book, Cursor, Letter, PENDING_MAX};
use self::call::{Answer, Caller};
pub use self::config::{WebhookEndpoint, check};
use self::event::Event;
pub use self::event::EventKind;
use crate::cache::unix_ms;
use crate::campaign::{CatalogHandle, RIGHTS_NOTICE_S};
use crate::shared_state::{Entries, Log, Role};
use crate::state::StateError;

/// Calls of one endpoint at a time.
const CALLS_MAX: usize = 4;
/// Entries that are read at once.
const ENTRIES_MAX: usize = 256;
/// How often the clock is looked at.
const PERIOD: Duration = Duration::from_secs(1);
/// How often the time that was looked at is written without another reason.
const CLOCK_WRITTEN_MS: u64 = 60_000;
/// Longest pause between two attempts.
const BACKOFF_MAX: Duration = Duration::from_secs(3_600);

/// Counts of messages.
#[derive(Debug, Clone)]
pub struct WebhookMetrics {
    calls: IntCounterVec,
    letters: IntGaugeVec,
}

impl WebhookMetrics {
    /// # Errors
    /// When a metric of the same name is registered already.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let calls = IntCounterVec::new(
            Opts::new("bildkante_edge_webhook_calls_total", "Calls of webhooks by endpoint and outcome"),
            &["endpoint", "outcome"],
        )?;
        let letters = IntGaugeVec::new(
            Opts::new(
                "bildkante_edge_webhook_letters",
                "Messages of webhooks that wait, or were given up, by endpoint",
            ),
            &["endpoint", "state"],
        )?;
        registry.register(Box::new(calls.clone()))?;
        registry.register(Box::new(letters.clone()))?;
        Ok(Self { calls, letters })
    }
}

/// Tells endpoints. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Webhooks {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    setup: ArcSwap<Setup>,
    book: Book,
    log: Arc<dyn Log>,
    catalog: CatalogHandle,
    metrics: WebhookMetrics,
    due: Notify,
    /// Up to when time was looked at for an endpoint. On the device it is written with what is owed, and once a minute.
    clocks: Mutex<HashMap<String, u64>>,
    /// When a letter is tried next; one that is not here: now.
    pauses: Mutex<HashMap<u64, Instant>>,
}

#[derive(Debug)]
struct Setup {
    endpoints: Vec<Arc<WebhookEndpoint>>,
    caller: Caller,
}

/// Other endpoints, ready to be told.
#[derive(Debug)]
pub struct Prepared(Setup);

impl Setup {
    fn new(endpoints: &[WebhookEndpoint]) -> std::io::Result<Self> {
        let needs_tls = endpoints.iter().any(|endpoint| endpoint.url.starts_with("https"));
        Ok(Self { endpoints: endpoints.iter().cloned().map(Arc::new).collect(), caller: Caller::new(needs_tls)? })
    }

    fn endpoint(&self, name: &str) -> Option<&Arc<WebhookEndpoint>> {
        self.endpoints.iter().find(|endpoint| endpoint.name == name)
    }
}

impl Webhooks {
    /// Opens the book. Blocks: for the start.
    ///
    /// # Errors
    /// When the book cannot be used, or no certificate is trusted while an endpoint is called by `https`.
    pub fn open(
        endpoints: &[WebhookEndpoint],
        path: &Path,
        (log, catalog): (Arc<dyn Log>, CatalogHandle),
        metrics: WebhookMetrics,
    ) -> anyhow::Result<Self> {
        let (setup, book) = (ArcSwap::from_pointee(Setup::new(endpoints)?), Book::open(path)?);
        let (due, clocks, pauses) = (Notify::new(), Mutex::default(), Mutex::default());
        Ok(Self { inner: Arc::new(Inner { setup, book, log, catalog, metrics, due, clocks, pauses }) })
    }

    /// Prepares other endpoints; [`Self::put_in_force`] cannot fail.
    ///
    /// # Errors
    /// When no certificate is trusted while an endpoint is called by `https`.
    pub fn prepare(endpoints: &[WebhookEndpoint]) -> std::io::Result<Prepared> {
        Setup::new(endpoints).map(Prepared)
    }

    /// These endpoints are told from now on.
    pub fn put_in_force(&self, Prepared(setup): Prepared) {
        self.inner.setup.store(Arc::new(setup));
        self.inner.pauses.lock().clear();
        self.inner.due.notify_one();
    }

    /// Tells until shutdown.
    #[must_use]
    pub fn start(&self, shutdown: Shutdown) -> JoinHandle<()> {
        tokio::spawn(Arc::clone(&self.inner).run(shutdown))
    }

    /// Each endpoint, and how it is with it.
    #[must_use]
    pub fn list(&self) -> Value {
        let setup = self.inner.setup.load();
        let shown = setup.endpoints.iter().map(|endpoint| {
            let (pending, dead) = self.inner.book.counts(&endpoint.name);
            let letters = self.inner.book.of(&endpoint.name);
            let last_error = letters.iter().rev().find_map(|(_, letter)| letter.last_error.clone());
            let is_gone = self.inner.is_gone(endpoint);
            json!({
                "name": endpoint.name, "url": endpoint.url, "events": endpoint.events,
                "campaigns": endpoint.campaigns, "pending": pending, "dead": dead, "is_gone": is_gone,
                "last_error": last_error,
            })
        });
        json!({ "webhooks": shown.collect::<Vec<_>>() })
    }

    /// Messages that were given up, the oldest first.
    #[must_use]
    pub fn dead_letters(&self, after: u64, limit: usize) -> Value {
        let dead: Vec<(u64, Letter)> =
            self.inner.book.dead().into_iter().filter(|(number, _)| *number > after).take(limit + 1).collect();
        let next = dead.get(limit).and_then(|_| dead[..limit].last()).map(|(number, _)| *number);
        let shown = dead.iter().take(limit).map(|(number, letter)| {
            json!({
                "number": number, "endpoint": letter.endpoint, "id": letter.id, "type": letter.kind,
                "subject": letter.subject, "attempts": letter.attempts, "last_error": letter.last_error,
                "since_unix_ms": letter.since_unix_ms,
                "message": serde_json::from_str::<Value>(&letter.body).unwrap_or_default(),
            })
        });
        json!({ "dead_letters": shown.collect::<Vec<_>>(), "next": next })
    }

    /// Tries an endpoint's dead letters again, in their order and by their ids; one that was gone is called again. How many, or
    /// `None` where there is no such endpoint.
    ///
    /// # Errors
    /// When the device refuses.
    pub async fn replay(&self, name: &str) -> Result<Option<usize>, StateError> {
        if self.inner.setup.load().endpoint(name).is_none() {
            return Ok(None);
        }
        let now = unix_ms(SystemTime::now());
        let mut count = 0;
        let edit = self.inner.book.edit(|draft| {
            let dead = draft.dead_of(name);
            count = dead.len();
            for (number, letter) in dead {
                draft.put(number, Letter { is_dead: false, since_unix_ms: now, attempts: 0, ..letter });
            }
            if let Some(cursor) = draft.cursor(name) {
                draft.move_to(name, Cursor { gone: None, ..cursor });
            }
        });
        edit.await?;
        self.inner.due.notify_one();
        Ok(Some(count))
    }

    /// Sends a message that means nothing, once. `None` where there is no such endpoint; otherwise what came of it.
    pub async fn test(&self, name: &str) -> Option<Result<(), String>> {
        let setup = self.inner.setup.load_full();
        let endpoint = setup.endpoint(name)?;
        let now = unix_ms(SystemTime::now());
        let event = Event::test(name, now);
        let answer = setup.caller.call(endpoint, &event.id, &event.body(), now / 1_000).await;
        Some(match answer {
            Answer::Delivered => Ok(()),
            Answer::Gone => Err("it answers 410".to_owned()),
            Answer::Failed { reason, .. } => Err(reason),
        })
    }
}

impl Inner {
    async fn run(self: Arc<Self>, mut shutdown: Shutdown) {
        let mut seen = self.log.published().watch();
        let mut calls: JoinSet<(u64, String)> = JoinSet::new();
        let mut under_way: HashSet<u64> = HashSet::new();
        loop {
            seen.borrow_and_update();
            let setup = self.setup.load_full();
            let is_primary = self.log.standing().role == Role::Primary;
            for endpoint in &setup.endpoints {
                if let Err(error) = self.collect(endpoint, is_primary).await {
                    log_limited!(error, endpoint = endpoint.name, %error, "what a webhook is owed is not on the device");
                }
                if is_primary {
                    for (number, letter) in self.due(endpoint, &under_way) {
                        under_way.insert(number);
                        let (this, setup, endpoint) = (Arc::clone(&self), Arc::clone(&setup), Arc::clone(endpoint));
                        calls.spawn(async move { this.attempt(&setup, &endpoint, number, letter).await });
                    }
                }
                self.count(&endpoint.name);
            }
            tokio::select! {
                () = shutdown.requested() => break,
                () = self.due.notified() => {}
                _ = seen.changed() => {}
                () = tokio::time::sleep(PERIOD) => {}
                Some(ended) = calls.join_next(), if !calls.is_empty() => match ended {
                    Ok((number, _)) => drop(under_way.remove(&number)),
                    Err(error) => tracing::error!(%error, "a call of a webhook ended early"),
                },
            }
        }
        calls.shutdown().await;
    }

    fn is_gone(&self, endpoint: &WebhookEndpoint) -> bool {
        self.book.cursor(&endpoint.name).and_then(|cursor| cursor.gone).is_some_and(|url| url == endpoint.url)
    }

    fn count(&self, name: &str) {
        let (pending, dead) = self.book.counts(name);
        for (state, count) in [("pending", pending), ("dead", dead)] {
            self.metrics.letters.with_label_values(&[name, state]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// Owes an endpoint what the log and the clock have for it. A follower only remembers when it began to know the endpoint.
    async fn collect(&self, endpoint: &WebhookEndpoint, is_primary: bool) -> Result<(), StateError> {
        let (state, now) = (self.log.published().state(), unix_ms(SystemTime::now()));
        let log = state.log().to_string();
        let known = self.book.cursor(&endpoint.name).filter(|cursor| cursor.log == log);
        let Some(mut cursor) = known else {
            let begun = Cursor { log, seq: state.epoch(), clock_unix_ms: now, ..Cursor::default() };
            return self.book.edit(|draft| draft.move_to(&endpoint.name, begun)).await;
        };
        if !is_primary || self.book.counts(&endpoint.name).0 >= PENDING_MAX {
            return Ok(());
        }
        let before = cursor.clone();
        let oldest = now.saturating_sub(endpoint.retry_for_s.saturating_mul(1_000));
        let mut events = Vec::new();
        match self.log.entries(cursor.seq, ENTRIES_MAX).await {
            Ok(Entries::These(entries)) => {
                let is_full = entries.len() == ENTRIES_MAX;
                // The state tells of cases, so it must have what is told.
                for entry in entries.iter().take_while(|entry| entry.seq() <= state.epoch()) {
                    cursor.seq = entry.seq();
                    if entry.at_unix_ms() >= oldest {
                        events.extend(event::of_entry(entry, &state));
                    }
                }
                // More is there: it is read when the letters are on the device.
                if is_full {
                    self.due.notify_one();
                }
            }
            // It joined by a snapshot: what is older is at the former primary alone.
            Ok(Entries::Elsewhere) => cursor.seq = self.log.standing().begins,
            Err(error) => log_limited!(warn, %error, "the log cannot be read for webhooks"),
        }
        let looked_at = self.clocks.lock().get(&endpoint.name).copied().unwrap_or(0);
        let told = event::of_time(&state, looked_at.max(cursor.clock_unix_ms).max(oldest), now);
        if !told.is_empty() || cursor != before || now.saturating_sub(cursor.clock_unix_ms) > CLOCK_WRITTEN_MS {
            cursor.clock_unix_ms = now;
        }
        events.extend(told);
        self.look_at_rights(&mut cursor, &mut events, now);
        if cursor == before {
            self.clocks.lock().insert(endpoint.name.clone(), now);
            return Ok(());
        }
        let is_gone = self.is_gone(endpoint);
        events.retain(|event| !is_gone && endpoint.wants(event.kind, event.campaign.as_deref()));
        let edit = self.book.edit(|draft| {
            draft.move_to(&endpoint.name, cursor);
            events.iter().for_each(|event| draft.owe(&endpoint.name, event, now));
        });
        edit.await?;
        self.clocks.lock().insert(endpoint.name.clone(), now);
        Ok(())
    }

    /// Each end of a right is told once, when its notice has begun.
    fn look_at_rights(&self, cursor: &mut Cursor, events: &mut Vec<Event>, now_unix_ms: u64) {
        let mut near = BTreeSet::new();
        for campaign in self.catalog.load().campaigns() {
            for right in campaign.rights_ends() {
                if right.unix_s <= now_unix_ms / 1_000 + RIGHTS_NOTICE_S {
                    let event = Event::rights(campaign.name.as_str(), &right.of, right.unix_s, now_unix_ms);
                    near.insert(event.id.clone());
                    if !cursor.rights.contains(&event.id) {
                        events.push(event);
                    }
                }
            }
        }
        cursor.rights = near;
    }

    /// What may be sent now: of each subject the oldest, unless it is under way or pauses.
    fn due(&self, endpoint: &WebhookEndpoint, under_way: &HashSet<u64>) -> Vec<(u64, Letter)> {
        if self.is_gone(endpoint) {
            return Vec::new();
        }
        let (now, pauses) = (Instant::now(), self.pauses.lock());
        let (mut subjects, mut due) = (HashSet::new(), Vec::new());
        let letters = self.book.of(&endpoint.name);
        let calls = letters.iter().filter(|(number, _)| under_way.contains(number)).count();
        for (number, letter) in letters.into_iter().filter(|(_, letter)| !letter.is_dead) {
            let is_first = subjects.insert(letter.subject.clone());
            let is_free = !under_way.contains(&number) && pauses.get(&number).is_none_or(|until| *until <= now);
            if is_first && is_free && calls + due.len() < CALLS_MAX {
                due.push((number, letter));
            }
        }
        due
    }

    async fn attempt(
        &self,
        setup: &Setup,
        endpoint: &WebhookEndpoint,
        number: u64,
        mut letter: Letter,
    ) -> (u64, String) {
        let at_unix_s = unix_ms(SystemTime::now()) / 1_000;
        let answer = setup.caller.call(endpoint, &letter.id, &letter.body, at_unix_s).await;
        self.metrics.calls.with_label_values(&[endpoint.name.as_str(), answer.as_str()]).inc();
        letter.attempts = letter.attempts.saturating_add(1);
        let written = match answer {
            Answer::Delivered => self.book.edit(|draft| draft.remove(number)).await,
            Answer::Gone => self.gone(endpoint).await,
            Answer::Failed { reason, pause } => self.failed(endpoint, (number, letter), reason, pause).await,
        };
        if let Err(error) = written {
            // It is sent again, with the same id.
            self.pauses.lock().insert(number, Instant::now() + PERIOD);
            log_limited!(error, endpoint = endpoint.name, %error, "what became of a webhook is not on the device");
        }
        (number, endpoint.name.clone())
    }

    async fn failed(
        &self,
        endpoint: &WebhookEndpoint,
        (number, mut letter): (u64, Letter),
        reason: String,
        pause: Duration,
    ) -> Result<(), StateError> {
        let age_ms = unix_ms(SystemTime::now()).saturating_sub(letter.since_unix_ms);
        letter.is_dead = age_ms >= endpoint.retry_for_s.saturating_mul(1_000);
        if letter.is_dead {
            tracing::error!(endpoint = endpoint.name, id = letter.id, reason, "a webhook is given up");
        } else {
            log_limited!(warn, endpoint = endpoint.name, id = letter.id, reason, "a webhook was not delivered");
        }
        let next = backoff(endpoint.retry_backoff_ms_min, letter.attempts, jitter()).max(pause);
        self.pauses.lock().insert(number, Instant::now() + next);
        letter.last_error = Some(reason);
        self.book.edit(|draft| draft.put(number, letter)).await
    }

    /// 410: nothing is sent there any more, and what waits is dead.
    async fn gone(&self, endpoint: &WebhookEndpoint) -> Result<(), StateError> {
        tracing::error!(endpoint = endpoint.name, "a webhook's endpoint is gone (410): it is called no more");
        let edit = self.book.edit(|draft| {
            for (number, letter) in draft.waiting_of(&endpoint.name) {
                let last_error = Some("it answers 410".to_owned());
                draft.put(number, Letter { is_dead: true, last_error, ..letter });
            }
            if let Some(cursor) = draft.cursor(&endpoint.name) {
                draft.move_to(&endpoint.name, Cursor { gone: Some(endpoint.url.clone()), ..cursor });
            }
        });
        edit.await
    }
}

/// Between the `attempts`-th call and the next: doubling, and anywhere in the upper half of it.
fn backoff(min_ms: u64, attempts: u32, jitter: f64) -> Duration {
    let doubled = Duration::from_millis(min_ms).saturating_mul(1_u32 << attempts.saturating_sub(1).min(20));
    doubled.min(BACKOFF_MAX).mul_f64(jitter.mul_add(0.5, 0.5))
}

fn jitter() -> f64 {
    let mut byte = [128_u8];
    let _ = getrandom::fill(&mut byte);
    f64::from(byte[0]) / 256.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_an_hour_and_are_jittered() {
        let of = |attempts, jitter| backoff(1_000, attempts, jitter).as_millis();
        assert_eq!((of(1, 0.0), of(1, 1.0)), (500, 1_000));
        assert_eq!((of(4, 0.0), of(4, 1.0)), (4_000, 8_000));
        assert_eq!((of(30, 0.0), of(u32::MAX, 1.0)), (1_800_000, 3_600_000));
    }
}
