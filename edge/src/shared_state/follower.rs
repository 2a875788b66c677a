//! The log of an edge that follows a primary: a snapshot, then its entries in order, resumed by the last one.
//!
//! ```text
//! ask behind the last entry ─▶ entries ─▶ they follow ours? ─▶ on the device, published
//!                           └▶ another log, or too far behind ─▶ snapshot ─▶ in place of all that was here
//! ```
//!
//! It keeps what it was given on its own device, and serves on that when the primary is away or at its own next start. A change that is
//! asked for here is sent on. A kill does not wait for that: it holds here at once, is on the device before it is acknowledged,
//! and is sent on when the primary can be reached.
//!
//! Invariants: nothing of a lower term than was seen is taken; an entry is taken once its hash and its place behind the last were
//! verified; a log with entries of its own gives way only to a later term.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bildkante_shared::ids::encode_128;
use bildkante_shared::log_limited;
use bildkante_shared::shutdown::Shutdown;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use super::actor::ActorId;
use super::change::{Change, Kill};
use super::entry::Entry;
use super::fold::Head;
use super::link::{FollowConfig, Link};
use super::log::{Committed, Entries, Log, LogError, Promotion, Proposal, Published, Role, Snapshot, Standing};
use super::primary::Primary;
use super::store::HeldKill;
use super::target::Target;
use super::wire::{Ask, Feed, SentProposal};

/// How long the primary holds an ask without a change: the heartbeat.
const HEARTBEAT_MS: u64 = 250;
/// After an ask that failed.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a kill waits for the primary before it is acknowledged as holding here alone, and any other change before it is refused.
const KILL_DEADLINE: Duration = Duration::from_secs(1);
const DEADLINE: Duration = Duration::from_secs(5);
/// How long an answer waits until what it asked for has come back in the log.
const RETURN_WAIT: Duration = Duration::from_secs(2);

/// See the module's documentation. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Follower {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// The log as far as it is here. From a promotion on it numbers entries.
    local: Primary,
    link: Link,
    primary: String,
    is_promoted: AtomicBool,
    heard: Mutex<Heard>,
    /// Kills that hold here until the entries with these numbers are here.
    settling: Mutex<Vec<(Target, u64)>>,
    /// A copy that is older counts as stale.
    age_max: Duration,
}

/// What was heard of the primary.
#[derive(Debug)]
struct Heard {
    at: Instant,
    trouble: Option<String>,
}

impl Follower {
    /// Opens no connection yet. What a former process was promoted to, it stays, as long as the configuration names the primary
    /// that it followed then.
    #[must_use]
    pub(super) fn new(local: Primary, link: Link, config: &FollowConfig, age_max: Duration) -> Self {
        let is_promoted = local.promoted_from().as_deref() == Some(config.primary.as_str());
        if is_promoted {
            tracing::warn!(primary = %config.primary, "this edge was promoted and numbers entries: take `state.follow` out of its configuration");
        }
        let heard = Mutex::new(Heard { at: Instant::now(), trouble: None });
        let primary = config.primary.clone();
        let is_promoted = AtomicBool::new(is_promoted);
        let settling = Mutex::default();
        Self { inner: Arc::new(Inner { local, link, primary, is_promoted, heard, settling, age_max }) }
    }

    /// Follows until shutdown or a promotion.
    #[must_use]
    pub fn start(&self, mut shutdown: Shutdown) -> JoinHandle<()> {
        let inner = Arc::clone(&self.inner);
        tokio::spawn(async move {
            tokio::select! {
                () = shutdown.requested() => {}
                () = inner.run() => {}
            }
        })
    }
}

impl Inner {
    async fn run(&self) {
        while !self.is_promoted() {
            match self.follow().await {
                Ok(()) => self.hear(None),
                Err(error) => {
                    log_limited!(warn, primary = %self.primary, %error, "the primary is not followed now");
                    self.hear(Some(error.to_string()));
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    fn is_promoted(&self) -> bool {
        self.is_promoted.load(Ordering::Acquire)
    }

    fn hear(&self, trouble: Option<String>) {
        let mut heard = self.heard.lock();
        if trouble.is_none() {
            heard.at = Instant::now();
        }
        heard.trouble = trouble;
        let is_stale = heard.at.elapsed() > self.age_max;
        self.local.published().set_stale(is_stale);
    }

    /// One ask, and what its answer brings.
    async fn follow(&self) -> Result<(), LogError> {
        let Head { log, seq, hash, .. } = self.local.published().load().head();
        let term = self.local.term_seen();
        let feed = self.link.feed(&Ask { log, after: seq, hash, term, wait_ms: HEARTBEAT_MS }).await?;
        if feed.term < term {
            return Err(LogError::LowerTerm { term: feed.term, seen: term });
        }
        if self.is_promoted() {
            return Ok(());
        }
        if feed.needs_snapshot {
            self.take_snapshot(&feed).await?;
        } else {
            let entries = feed.entries.iter().map(|entry| Entry::parse(entry.to_string().as_bytes()).map(Arc::new));
            self.local.adopt(entries.collect::<Result<_, _>>()?).await?;
        }
        self.let_settled_go();
        self.send_held().await
    }

    async fn take_snapshot(&self, feed: &Feed) -> Result<(), LogError> {
        let own = self.local.published().load().head();
        // Entries of a log that is not the primary's would be lost: only a later term may do that.
        if own.seq > 0 && own.log != feed.log && feed.term <= own.term {
            return Err(LogError::OwnLog { entries: own.seq });
        }
        let snapshot = self.link.snapshot().await?;
        if snapshot.head.term < self.local.term_seen() {
            return Err(LogError::LowerTerm { term: snapshot.head.term, seen: self.local.term_seen() });
        }
        tracing::info!(seq = snapshot.head.seq, log = %snapshot.head.log, "a snapshot takes the place of what was here");
        self.local.replace(Snapshot { head: snapshot.head, rows: snapshot.rows }).await
    }

    /// Kills that hold here alone, sent on in the order in which they were asked for.
    async fn send_held(&self) -> Result<(), LogError> {
        for (key, held) in self.local.held() {
            let HeldKill { target, who, why, .. } = held.clone();
            let change = Change::Kill(Kill { target: target.clone() });
            let sent = self.sent(Proposal { change, who, why, key: Some(key.clone()), edge: None });
            match self.link.propose(&sent, DEADLINE).await {
                Ok(committed) => {
                    let seq = Entry::parse(committed.entry.to_string().as_bytes())?.seq();
                    tracing::info!(%target, seq, "a kill that held here alone is in the shared log");
                    self.settling.lock().push((target.clone(), seq));
                }
                Err(error @ LogError::Away { .. }) => return Err(error),
                Err(error) => {
                    tracing::error!(%target, %error, "the primary does not take a kill that holds here alone: it goes on to hold");
                    return Err(error);
                }
            }
            self.local.settle(&key).await?;
        }
        Ok(())
    }

    /// Kills whose entries are here: the state decides about them now, also where they were lifted since.
    fn let_settled_go(&self) {
        let epoch = self.local.published().load().epoch();
        self.settling.lock().retain(|(target, seq)| {
            if *seq <= epoch {
                self.local.published().let_go(target);
            }
            *seq > epoch
        });
    }

    fn sent(&self, proposal: Proposal) -> SentProposal {
        let Proposal { change, who, why, key, edge } = proposal;
        let edge = edge.unwrap_or_else(|| self.local.edge().to_owned());
        SentProposal { change, who, why, key: key.unwrap_or_default(), edge, term: self.local.term_seen() }
    }

    /// Sends a change on. A kill holds here meanwhile, and from then on where the primary is away.
    async fn send(&self, mut proposal: Proposal) -> Result<Committed, LogError> {
        // So that a repeated try becomes no second entry.
        let key = proposal.key.get_or_insert(random_key()?).clone();
        let killed = match &proposal.change {
            Change::Kill(kill) if self.local.published().load().kills().of(&kill.target).is_none() => {
                Some(kill.target.clone())
            }
            _ => None,
        };
        killed.iter().for_each(|target| self.local.published().hold(target));
        let deadline = if killed.is_some() { KILL_DEADLINE } else { DEADLINE };
        let sent = self.sent(proposal);
        match self.link.propose(&sent, deadline).await {
            Ok(committed) => {
                let committed = self.returned(committed).await?;
                self.settling.lock().extend(killed.map(|target| (target, committed.entry.seq())));
                self.let_settled_go();
                Ok(committed)
            }
            Err(LogError::Away { reason }) => match killed {
                Some(target) => {
                    let SentProposal { who, why, edge, .. } = sent;
                    self.local.keep_held(key, HeldKill { target: target.clone(), who, why, edge }).await?;
                    Err(LogError::HeldHere { target, reason })
                }
                None => Err(LogError::Away { reason }),
            },
            Err(error) => {
                killed.iter().for_each(|target| self.local.published().let_go(target));
                Err(error)
            }
        }
    }

    /// Once the entry has come back in the log, or a while later.
    async fn returned(&self, committed: super::wire::SentCommitted) -> Result<Committed, LogError> {
        let entry = Arc::new(Entry::parse(committed.entry.to_string().as_bytes())?);
        let mut published = self.local.published().watch();
        let seq = entry.seq();
        let _ = tokio::time::timeout(RETURN_WAIT, published.wait_for(|reached| *reached >= seq)).await;
        Ok(Committed { entry, is_new: committed.is_new })
    }

    async fn promote(&self) -> Result<Promotion, LogError> {
        if self.is_promoted() {
            return self.local.promote().await;
        }
        let (silence, taken_over) = (self.heard.lock().at.elapsed(), self.local.published().load().epoch());
        let head = self.local.take_over(self.primary.clone()).await?;
        self.is_promoted.store(true, Ordering::Release);
        self.hear(None);
        // What held here alone is this edge's to number now.
        for (key, held) in self.local.held() {
            let HeldKill { target, who, why, edge } = held;
            let change = Change::Kill(Kill { target });
            self.local.propose(Proposal { change, who, why, key: Some(key.clone()), edge: Some(edge) }).await?;
            self.local.settle(&key).await?;
        }
        Ok(Promotion { head, taken_over, silence })
    }
}

fn random_key() -> Result<String, LogError> {
    let mut key = [0; 16];
    getrandom::fill(&mut key).map_err(|_| LogError::Random)?;
    Ok(encode_128(&key))
}

impl Log for Follower {
    fn propose(&self, proposal: Proposal) -> BoxFuture<'_, Result<Committed, LogError>> {
        if self.inner.is_promoted() {
            return self.inner.local.propose(proposal);
        }
        let inner = Arc::clone(&self.inner);
        let work = tokio::spawn(async move { inner.send(proposal).await });
        async move { work.await.unwrap_or(Err(LogError::Panicked)) }.boxed()
    }

    fn propose_all(&self, proposals: Vec<Proposal>) -> BoxFuture<'_, Result<Vec<Committed>, LogError>> {
        if self.inner.is_promoted() {
            return self.inner.local.propose_all(proposals);
        }
        let reason = "orders in bulk are given to the primary itself".to_owned();
        async move { Err(LogError::Declined { reason }) }.boxed()
    }

    fn entries(&self, after: u64, count_max: usize) -> BoxFuture<'_, Result<Entries, LogError>> {
        self.inner.local.entries(after, count_max)
    }

    fn snapshot(&self) -> BoxFuture<'_, Result<Snapshot, LogError>> {
        self.inner.local.snapshot()
    }

    fn edge(&self) -> &str {
        self.inner.local.edge()
    }

    fn published(&self) -> &Published {
        self.inner.local.published()
    }

    fn standing(&self) -> Standing {
        if self.inner.is_promoted() {
            return self.inner.local.standing();
        }
        let heard = self.inner.heard.lock();
        Standing {
            role: Role::Follower,
            age: heard.at.elapsed(),
            trouble: heard.trouble.clone(),
            ..self.inner.local.standing()
        }
    }

    fn promote(&self) -> BoxFuture<'_, Result<Promotion, LogError>> {
        let inner = Arc::clone(&self.inner);
        let work = tokio::spawn(async move { inner.promote().await });
        async move { work.await.unwrap_or(Err(LogError::Panicked)) }.boxed()
    }

    fn fence(&self, term: u64) {
        self.inner.local.fence(term);
    }

    fn checkpoints(&self) -> BoxFuture<'_, Result<Vec<(u64, String)>, LogError>> {
        self.inner.local.checkpoints()
    }

    fn keep_checkpoint(&self, seq: u64, signed: String) -> BoxFuture<'_, Result<(), LogError>> {
        self.inner.local.keep_checkpoint(seq, signed)
    }

    fn forget(
        &self,
        name: String,
        by: String,
        why: String,
        key: Option<String>,
    ) -> BoxFuture<'_, Result<bool, LogError>> {
        if self.inner.is_promoted() {
            return self.inner.local.forget(name, by, why, key);
        }
        let reason = format!("names are kept at the primary, {}", self.inner.primary);
        async move { Err(LogError::Declined { reason }) }.boxed()
    }

    fn name_of(&self, actor: ActorId) -> Option<String> {
        self.inner.local.name_of(actor)
    }
}
