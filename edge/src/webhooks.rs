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
//! | `collecting` | what an endpoint is owed |
//! | `delivery` | what is sent next, and what becomes of it |
//! | `metrics` | counts |
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
mod collecting;
mod config;
mod delivery;
mod event;
mod guard;
mod metrics;
mod signature;

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use bildkante_shared::log_limited;
use bildkante_shared::shutdown::Shutdown;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};

use self::book::{Book, Cursor, Letter};
use self::call::{Answer, Caller};
pub use self::config::{WebhookEndpoint, check};
use self::event::Event;
pub use self::event::EventKind;
pub use self::metrics::WebhookMetrics;
use crate::cache::unix_ms;
use crate::campaign::CatalogHandle;
use crate::outbound::OutboundError;
use crate::shared_state::{Log, Role};
use crate::state::StateError;

/// How often the clock is looked at.
const PERIOD: Duration = Duration::from_secs(1);
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
    fn new(endpoints: &[WebhookEndpoint]) -> Result<Self, OutboundError> {
        Ok(Self { endpoints: endpoints.iter().cloned().map(Arc::new).collect(), caller: Caller::new(endpoints)? })
    }

    fn endpoint(&self, name: &str) -> Option<&Arc<WebhookEndpoint>> {
        self.endpoints.iter().find(|endpoint| endpoint.name == name)
    }
}

impl Webhooks {
    /// Opens the book. Blocks: for the start.
    ///
    /// # Errors
    /// When the book cannot be used, or the authorities of an endpoint that is called by `https` cannot be read.
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
    /// When the authorities of an endpoint that is called by `https` cannot be read.
    pub fn prepare(endpoints: &[WebhookEndpoint]) -> Result<Prepared, OutboundError> {
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
}
