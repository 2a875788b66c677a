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
use std::time::{Duration, SystemTime};

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
use super::heard::{Heard, clock_trouble};
use super::link::{Fed, Upstream};
use super::log::{Committed, Entries, Log, LogError, Promotion, Proposal, Published, Role, Snapshot, Standing};
use super::primary::{Held, Primary};
use super::store::HeldKill;
use super::target::Target;
use super::wire::{Ask, Feed, SentCommitted, SentProposal, SentSnapshot};

/// How long the primary holds an ask without a change: the heartbeat.
const HEARTBEAT_MS: u64 = 250;
/// After an ask that failed.
const PAUSE: Duration = Duration::from_millis(100);
/// Between two looks of a promoted edge at whom it followed.
const WATCH_PAUSE: Duration = Duration::from_secs(1);
/// How long a kill waits for the primary before it is acknowledged as holding here alone, and any other change before it is refused.
const KILL_DEADLINE: Duration = Duration::from_secs(1);
const DEADLINE: Duration = Duration::from_secs(5);

/// See the module's documentation. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Follower {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// The log as far as it is here. From a promotion on it numbers entries.
    local: Primary,
    link: Arc<dyn Upstream>,
    primary: String,
    heard: Mutex<Heard>,
    patience: Patience,
}

/// How long a follower waits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// What was not confirmed for longer is stale.
    pub(super) age_max: Duration,
    /// An answer waits this long until what it asked for has come back in the log.
    pub(super) return_max: Duration,
}

impl Follower {
    /// Opens no connection yet. What a former process was promoted to, it stays, as long as the configuration names the primary
    /// that it followed then.
    #[must_use]
    pub(super) fn new(local: Primary, link: Arc<dyn Upstream>, primary: &str, patience: Patience) -> Self {
        let is_promoted = local.promoted_from().as_deref() == Some(primary);
        if is_promoted {
            tracing::warn!(
                primary,
                "this edge was promoted and numbers entries: take `state.follow` out of its configuration"
            );
        }
        let heard = Heard::restore(local.heard().as_ref(), primary, SystemTime::now());
        local.published().set_stale(!is_promoted && heard.is_stale(patience.age_max));
        let heard = Mutex::new(heard);
        let primary = primary.to_owned();
        Self { inner: Arc::new(Inner { local, link, primary, heard, patience }) }
    }

    /// One ask, for tests that say when.
    #[cfg(test)]
    pub(super) async fn follow(&self) -> Result<(), LogError> {
        if self.inner.is_promoted() {
            self.inner.watch_former().await;
            return Ok(());
        }
        let at = self.inner.follow().await?;
        self.inner.hear(at).await;
        Ok(())
    }

    /// Follows until shutdown. Once promoted it watches whom it followed.
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
        loop {
            if self.is_promoted() {
                self.watch_former().await;
                tokio::time::sleep(WATCH_PAUSE).await;
                continue;
            }
            match self.follow().await {
                Ok(at) => self.hear(at).await,
                Err(error) => {
                    log_limited!(warn, primary = %self.primary, %error, "the primary is not followed now");
                    self.heard.lock().trouble = Some(error.to_string());
                    self.grow_stale();
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Once promoted: shows the edge that was primary the later term, so that it writes no more; where that one has been made primary of a still later
    /// term, this edge follows it again.
    async fn watch_former(&self) {
        if let Err(error) = self.number_held().await {
            log_limited!(warn, %error, "kills that held here alone are not in the log yet");
        }
        let Head { log, seq, hash, term: own, .. } = self.local.published().load().head();
        let term = self.local.term_seen();
        match self.link.feed(&Ask { log, after: seq, hash, term, wait_ms: 0 }).await {
            Ok(Fed { feed, .. }) if feed.term > own && feed.term >= term => {
                tracing::warn!(primary = %self.primary, term = feed.term, "a later term has begun there: this edge follows it again");
                self.local.step_down(feed.term);
            }
            // It is away, or no primary: as it should be.
            _ => {}
        }
    }

    fn is_promoted(&self) -> bool {
        self.local.promoted_from().as_deref() == Some(self.primary.as_str())
    }

    /// The primary has answered, and its clock said `at`.
    async fn hear(&self, at: Option<SystemTime>) {
        let now = SystemTime::now();
        let trouble = at.and_then(|at| clock_trouble(at, now));
        if let Some(trouble) = &trouble {
            log_limited!(warn, primary = %self.primary, %trouble, "the clocks of two edges are apart");
        }
        let is_to_be_kept = self.heard.lock().hear(trouble, self.patience.age_max);
        self.grow_stale();
        if is_to_be_kept && let Err(error) = self.local.keep_heard(&self.primary, now).await {
            log_limited!(warn, %error, "when the primary was heard last is not on the device");
        }
    }

    fn grow_stale(&self) {
        let is_stale = self.heard.lock().is_stale(self.patience.age_max);
        self.local.published().set_stale(is_stale && !self.is_promoted());
    }

    /// One ask, and what its answer brings.
    async fn follow(&self) -> Result<Option<SystemTime>, LogError> {
        let Head { log, seq, hash, .. } = self.local.published().load().head();
        let term = self.local.term_seen();
        let Fed { feed, at } = self.link.feed(&Ask { log, after: seq, hash, term, wait_ms: HEARTBEAT_MS }).await?;
        if feed.term < term {
            return Err(LogError::LowerTerm { term: feed.term, seen: term });
        }
        if self.is_promoted() {
            return Ok(at);
        }
        if feed.needs_snapshot {
            self.take_snapshot(&feed).await?;
        } else {
            let entries = feed.entries.iter().map(|entry| Entry::parse(entry.to_string().as_bytes()).map(Arc::new));
            self.local.adopt(entries.collect::<Result<_, _>>()?).await?;
        }
        self.send_held().await.map(|()| at)
    }

    async fn take_snapshot(&self, feed: &Feed) -> Result<(), LogError> {
        self.gives_way(&feed.log, feed.term, feed.seq)?;
        let SentSnapshot { head, rows } = self.link.snapshot().await?;
        // It may be another primary's by now.
        if head.term < self.local.term_seen() {
            return Err(LogError::LowerTerm { term: head.term, seen: self.local.term_seen() });
        }
        self.gives_way(&head.log, head.term, head.seq)?;
        tracing::info!(seq = head.seq, log = %head.log, "a snapshot takes the place of what was here");
        self.local.replace(Snapshot { head, rows }).await
    }

    /// Entries that the primary's log does not have would be lost: only a later term may do that.
    fn gives_way(&self, log: &str, term: u64, theirs: u64) -> Result<(), LogError> {
        let own = self.local.published().load().head();
        match own.seq {
            0 => Ok(()),
            _ if term > own.term => Ok(()),
            entries if *own.log != *log => Err(LogError::OwnLog { entries }),
            seq => Err(LogError::Diverged { term, seq, theirs }),
        }
    }

    /// Kills that are to be sent on, in the order in which they were asked for. One is let go once the log that is here has its order: a
    /// primary that was lost may have taken it, and its heir knows nothing of it.
    async fn send_held(&self) -> Result<(), LogError> {
        for Held { key, kill, .. } in self.local.held() {
            if self.local.published().load().of_key(&key).is_some() {
                tracing::info!(target = %kill.target, "a kill that held here alone is in the shared log");
                self.local.settle(&key).await?;
                continue;
            }
            let HeldKill { target, who, why, edge } = kill;
            let change = Change::Kill(Kill { target: target.clone() });
            let sent = self.sent(Proposal { change, who, why, key: Some(key.clone()), edge: Some(edge) });
            match self.link.propose(&sent, DEADLINE).await {
                Ok(_) => {}
                Err(error @ LogError::Away { .. }) => return Err(error),
                Err(error) => {
                    log_limited!(error, %target, %error, "the primary does not take a kill that holds here alone: it goes on to hold");
                    return Err(error);
                }
            }
        }
        Ok(())
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
            Change::Kill(kill) => Some(self.local.published().hold(&kill.target)),
            _ => None,
        };
        let deadline = if killed.is_some() { KILL_DEADLINE } else { DEADLINE };
        let sent = self.sent(proposal);
        let result = match self.link.propose(&sent, deadline).await {
            Ok(committed) => self.returned(committed, (key, sent)).await,
            Err(error) => match (&killed, away(&error)) {
                (Some(hold), Some(reason)) => {
                    let target = hold.target.clone();
                    let kept = self.keep(key, target.clone(), sent).await;
                    kept.and(Err(LogError::HeldHere { target, reason }))
                }
                _ => Err(error),
            },
        };
        killed.iter().for_each(|hold| self.local.published().let_go(hold));
        result
    }

    async fn keep(&self, key: String, target: Target, sent: SentProposal) -> Result<(), LogError> {
        let SentProposal { who, why, edge, .. } = sent;
        self.local.keep_held(key, HeldKill { target, who, why, edge }).await
    }

    /// Once the entry has come back in the log. A kill that has not within a while holds here until it has, also after a restart.
    async fn returned(
        &self,
        committed: SentCommitted,
        (key, sent): (String, SentProposal),
    ) -> Result<Committed, LogError> {
        let entry = Arc::new(Entry::parse(committed.entry.to_string().as_bytes())?);
        let published = self.local.published();
        let mut watched = published.watch();
        // Numbers alone do not tell: behind a promotion this edge may still have entries of the former primary with the same ones.
        let is_here = watched.wait_for(|_| published.load().of_key(&key).is_some());
        let is_here = tokio::time::timeout(self.patience.return_max, is_here).await.is_ok();
        if let (false, Change::Kill(kill)) = (is_here, &sent.change)
            && let Err(error) = self.keep(key, kill.target.clone(), sent.clone()).await
        {
            log_limited!(warn, %error, "a kill is in the shared log and not on the device of this edge yet");
        }
        Ok(Committed { entry, is_new: committed.is_new })
    }

    /// What held here alone is a promoted edge's to number.
    async fn number_held(&self) -> Result<(), LogError> {
        for Held { key, kill, .. } in self.local.held() {
            if self.local.published().load().of_key(&key).is_none() {
                let HeldKill { target, who, why, edge } = kill;
                let change = Change::Kill(Kill { target });
                self.local.propose(Proposal { change, who, why, key: Some(key.clone()), edge: Some(edge) }).await?;
            }
            self.local.settle(&key).await?;
        }
        Ok(())
    }

    async fn promote(&self, key: Option<String>) -> Result<Promotion, LogError> {
        if self.is_promoted() {
            return self.local.promote(key).await;
        }
        if let Some(promotion) = self.local.promoted_by(key.as_deref()).await? {
            return Ok(promotion);
        }
        if !self.heard.lock().is_this_one {
            return Err(LogError::NeverFollowed { primary: self.primary.clone() });
        }
        let (silence, taken_over) = (self.heard.lock().age(), self.local.published().load().epoch());
        let head = self.local.take_over(self.primary.clone(), (silence, key)).await?;
        self.local.published().set_stale(false);
        // What the device refuses is tried again by itself.
        if let Err(error) = self.number_held().await {
            log_limited!(warn, %error, "kills that held here alone are not in the log yet");
        }
        Ok(Promotion { head, taken_over, silence })
    }
}

/// Why the primary took nothing, where it may later: it cannot be reached, or its device refuses.
fn away(error: &LogError) -> Option<String> {
    match error {
        LogError::Away { reason } => Some(reason.clone()),
        LogError::Relayed(problem) if problem.status >= 500 => Some(problem.detail.clone()),
        _ => None,
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
            age: heard.age(),
            trouble: heard.trouble.clone(),
            ..self.inner.local.standing()
        }
    }

    fn promote(&self, key: Option<String>) -> BoxFuture<'_, Result<Promotion, LogError>> {
        let inner = Arc::clone(&self.inner);
        let work = tokio::spawn(async move { inner.promote(key).await });
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

#[cfg(test)]
mod tests;
