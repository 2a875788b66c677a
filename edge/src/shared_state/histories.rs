//! Random histories of three edges against a model: changes, cut links, lost answers, full and failing devices, power failures at any
//! write, restarts and promotions.
//!
//! What the model asks: an edge that acknowledged a kill withholds its target from then on, also after a restart, until a lift is tried;
//! what the primary acknowledged stands in its log after each restart; an order becomes one entry; and once all is healed every edge has
//! the same log and no kill is held by one alone. What a promotion may lose, the promotion says: entries behind the last that it took
//! over.
//!
//! `BILDKANTE_HISTORIES=2000` tries more of them. A failure prints the shortest history that it was found with.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use proptest::prelude::*;

use super::change::{Change, Kill, Lift, PurgeKind, PurgeMarks, PurgeReach, PurgeScope};
use super::follower::{Follower, Patience};
use super::link::{Fed, Upstream};
use super::log::{Committed, Entries, Log, LogError, Proposal, Role};
use super::primary::Primary;
use super::store::{self, Store};
use super::target::Target;
use super::wire::{Ask, SentCommitted, SentProposal, SentSnapshot};
use super::{Entry, offline, served};
use crate::state::testing::{Device, Mood};
use crate::words::Epoch;

const EDGES: usize = 3;
/// What was asked for comes back when the test says so, and not while it is waited for.
const PATIENCE: Patience = Patience { age_max: Duration::from_secs(60), return_max: Duration::ZERO };

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Sound,
    Cut,
    /// What is asked is carried out, and the answer is lost.
    LosesAnswers,
}

#[derive(Debug, Clone)]
enum Step {
    Kill(usize, u8),
    Lift(usize, u8),
    Purge(usize, u8),
    /// The last order of an edge once more, with its key.
    Again(usize),
    Follow(usize),
    Way(usize, Way),
    Device(usize, Mood),
    Restart(usize),
    Promote(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let edge = 0..EDGES;
    let way = prop_oneof![Just(Way::Sound), Just(Way::Cut), Just(Way::LosesAnswers)];
    let mood = prop_oneof![
        Just(Mood::Full),
        (0..24_usize).prop_map(Mood::DiesAfter),
        (0..24_usize).prop_map(Mood::RefusesOneAfter),
        Just(Mood::Sound)
    ];
    prop_oneof![
        6 => (edge.clone(), 0..3_u8).prop_map(|(edge, n)| Step::Kill(edge, n)),
        3 => (edge.clone(), 0..3_u8).prop_map(|(edge, n)| Step::Lift(edge, n)),
        1 => (edge.clone(), 0..3_u8).prop_map(|(edge, n)| Step::Purge(edge, n)),
        2 => edge.clone().prop_map(Step::Again),
        8 => edge.clone().prop_map(Step::Follow),
        4 => (edge.clone(), way).prop_map(|(edge, way)| Step::Way(edge, way)),
        3 => (edge.clone(), mood).prop_map(|(edge, mood)| Step::Device(edge, mood)),
        3 => edge.clone().prop_map(Step::Restart),
        1 => edge.prop_map(Step::Promote),
    ]
}

fn target(n: u8) -> Target {
    format!("campaign:c{n}").parse().unwrap()
}

/// The edges that run, for those who ask them.
type Running = Arc<Mutex<Vec<Option<Arc<dyn Log>>>>>;

/// A way to a primary in this process.
#[derive(Debug)]
struct Near {
    running: Running,
    to: usize,
    way: Arc<Mutex<Way>>,
}

impl Near {
    fn reach<'a, T: 'a>(
        &'a self,
        ask: impl FnOnce(Arc<dyn Log>) -> BoxFuture<'a, Result<T, LogError>> + Send + 'a,
    ) -> BoxFuture<'a, Result<T, LogError>> {
        let way = *self.way.lock();
        let away = |reason: &str| LogError::Away { reason: reason.to_owned() };
        let log = self.running.lock()[self.to].clone().filter(|_| way != Way::Cut);
        async move {
            let answer = ask(log.ok_or_else(|| away("no way"))?).await;
            if way == Way::LosesAnswers { Err(away("the answer is lost")) } else { answer }
        }
        .boxed()
    }
}

/// As the admin API and the link tell it.
fn told(error: LogError) -> LogError {
    match error {
        LogError::Store(_) => LogError::Away { reason: error.to_string() },
        error => LogError::Declined { reason: error.to_string() },
    }
}

impl Upstream for Near {
    fn feed<'a>(&'a self, ask: &'a Ask) -> BoxFuture<'a, Result<Fed, LogError>> {
        self.reach(move |log| {
            let ask = Ask { wait_ms: 0, ..ask.clone() };
            async move { served::feed(&log, &ask).await.map(|feed| Fed { feed, at: None }).map_err(told) }.boxed()
        })
    }

    fn snapshot(&self) -> BoxFuture<'_, Result<SentSnapshot, LogError>> {
        self.reach(|log| async move { served::snapshot(&log).await.map_err(told) }.boxed())
    }

    fn propose<'a>(
        &'a self,
        proposal: &'a SentProposal,
        _: Duration,
    ) -> BoxFuture<'a, Result<SentCommitted, LogError>> {
        self.reach(move |log| async move { served::propose(&log, proposal.clone()).await.map_err(told) }.boxed())
    }
}

#[derive(Debug)]
struct Edge {
    path: PathBuf,
    device: Device,
    way: Arc<Mutex<Way>>,
    /// As its configuration names it; `None`: it was begun as primary.
    follows: Option<usize>,
    follower: Option<Follower>,
    last: Option<Proposal>,
    /// Whether the device may have refused something since the start.
    is_troubled: bool,
}

/// What the model knows.
#[derive(Debug, Default)]
struct Model {
    /// By edge and target, the orders that were acknowledged there and hold.
    withheld: BTreeMap<(usize, u8), BTreeMap<String, Kept>>,
    /// Orders to kill that were tried before a lift was: repeated, they are what they were, and the lift stands.
    overruled: BTreeSet<String>,
    /// Orders to kill that were tried since, by target.
    tried: BTreeMap<u8, BTreeSet<String>>,
    /// What the primary acknowledged.
    acknowledged: Vec<Arc<Entry>>,
    orders: u64,
}

/// What a restart leaves of a kill on the edge that was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kept {
    OnItsDevice,
    /// The primary has it, and the device of the follower that was asked may have refused it: after a restart it holds there once the
    /// primary is heard.
    ByThePrimary,
}

struct Fleet {
    _dir: tempfile::TempDir,
    edges: Vec<Edge>,
    running: Running,
    primary: usize,
    model: Model,
}

impl Fleet {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let edge = |n: usize| Edge {
            path: dir.path().join(format!("{n}.redb")),
            device: Device::default(),
            way: Arc::new(Mutex::new(Way::Sound)),
            follows: (n > 0).then_some(0),
            follower: None,
            last: None,
            is_troubled: false,
        };
        let edges: Vec<Edge> = (0..EDGES).map(edge).collect();
        let running = Arc::new(Mutex::new(vec![None; EDGES]));
        let mut fleet = Self { _dir: dir, edges, running, primary: 0, model: Model::default() };
        for edge in 0..EDGES {
            fleet.open(edge).await;
        }
        fleet
    }

    async fn open(&mut self, at: usize) {
        let edge = &mut self.edges[at];
        edge.device.set(Mood::Sound);
        edge.is_troubled = false;
        let opened = loop {
            match edge.device.open(&edge.path, store::schema()) {
                Ok(database) => break database,
                // What has been begun goes on a while.
                Err(error) if error.to_string().contains("already open") => {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                Err(error) => panic!("edge {at} does not start: {error}"),
            }
        };
        let (store, loaded) = Store::over(opened).unwrap();
        let local = Primary::over(store, loaded, Epoch::default()).unwrap();
        let log: Arc<dyn Log> = match edge.follows {
            None => Arc::new(local),
            Some(to) => {
                let near = Near { running: Arc::clone(&self.running), to, way: Arc::clone(&edge.way) };
                let follower = Follower::new(local, Arc::new(near), &format!("edge-{to}"), PATIENCE);
                edge.follower = Some(follower.clone());
                Arc::new(follower)
            }
        };
        self.running.lock()[at] = Some(log);
    }

    /// The process ends, wherever it is.
    fn close(&mut self, at: usize) {
        self.running.lock()[at] = None;
        self.edges[at].follower = None;
        for (_, orders) in self.model.withheld.iter_mut().filter(|((edge, _), _)| *edge == at) {
            orders.retain(|_, kept| *kept == Kept::OnItsDevice);
        }
    }

    fn log(&self, at: usize) -> Arc<dyn Log> {
        self.running.lock()[at].clone().unwrap()
    }

    async fn take(&mut self, step: Step) {
        match step {
            Step::Kill(at, n) => self.propose(at, Change::Kill(Kill { target: target(n) })).await,
            Step::Lift(at, n) => self.propose(at, Change::Lift(Lift { target: target(n) })).await,
            Step::Purge(at, n) => self.propose(at, purge(n)).await,
            Step::Again(at) => {
                if let Some(proposal) = self.edges[at].last.clone() {
                    self.order(at, proposal).await;
                }
            }
            Step::Follow(at) => self.follow(at).await,
            Step::Way(at, way) => *self.edges[at].way.lock() = way,
            Step::Device(at, mood) => {
                self.edges[at].device.set(mood);
                self.edges[at].is_troubled |= mood != Mood::Sound;
            }
            Step::Restart(at) => {
                self.close(at);
                self.open(at).await;
            }
            Step::Promote(at) => self.promote(at).await,
        }
        self.check();
    }

    async fn propose(&mut self, at: usize, change: Change) {
        self.model.orders += 1;
        let key = Some(format!("order-{}", self.model.orders));
        let proposal = Proposal { change, who: "anna".to_owned(), why: "because".to_owned(), key, edge: None };
        self.edges[at].last = Some(proposal.clone());
        self.order(at, proposal).await;
    }

    async fn order(&mut self, at: usize, proposal: Proposal) {
        let number = |target: &Target| (0..3).find(|n| super::histories::target(*n) == *target).unwrap();
        // It may become an entry, whatever the answer is.
        if let Change::Lift(lift) = &proposal.change {
            let lifted = number(&lift.target);
            self.model.withheld.retain(|(_, n), _| *n != lifted);
            let tried = self.model.tried.remove(&lifted).unwrap_or_default();
            self.model.overruled.extend(tried);
        }
        let key = proposal.key.clone().unwrap_or_default();
        let is_overruled = self.model.overruled.contains(&key);
        if let (Change::Kill(kill), false) = (&proposal.change, is_overruled) {
            self.model.tried.entry(number(&kill.target)).or_default().insert(key.clone());
        }
        let log = self.log(at);
        // A former primary that was not shown the later term yet goes on to acknowledge, and gives that up.
        let is_former = at != self.primary && log.standing().role == Role::Primary;
        let result = log.propose(proposal.clone()).await;
        if let Ok(Committed { entry, is_new: true }) = &result
            && self.model_primary_has(entry)
        {
            self.model.acknowledged.push(Arc::clone(entry));
        }
        let kept = match &result {
            _ if is_former => return,
            Ok(Committed { is_new: true, .. }) if at != self.primary && self.edges[at].is_troubled => {
                Kept::ByThePrimary
            }
            Ok(Committed { is_new: true, .. }) | Err(LogError::HeldHere { .. }) => Kept::OnItsDevice,
            _ => return,
        };
        if let (Change::Kill(kill), false) = (&proposal.change, is_overruled) {
            let orders = self.model.withheld.entry((at, number(&kill.target))).or_default();
            orders.insert(key, kept);
        }
    }

    /// Whether it is an entry of the primary's.
    fn model_primary_has(&self, entry: &Entry) -> bool {
        self.running.lock()[self.primary].as_ref().is_some_and(|log| {
            let head = log.published().load().head();
            entry.term() == head.term && entry.seq() <= head.seq
        })
    }

    async fn follow(&mut self, at: usize) {
        let Some(follower) = self.edges[at].follower.clone() else { return };
        // Refusals are what links and devices are for here.
        let _ = follower.follow().await;
    }

    /// An operator's: the heir is an edge that follows the primary, all others follow it from then on.
    async fn promote(&mut self, at: usize) {
        if at == self.primary || self.edges[at].follower.is_none() {
            return;
        }
        let promotion = match self.log(at).promote(None).await {
            Ok(promotion) => promotion,
            // It was promoted before, and was not shown yet that it is over.
            Err(LogError::NeverFollowed { .. } | LogError::AlreadyPrimary { .. }) => return,
            // The operator asks again.
            Err(_) => {
                self.edges[at].device.set(Mood::Sound);
                match self.log(at).promote(None).await {
                    Ok(promotion) => promotion,
                    Err(error) => panic!("edge {at} cannot be promoted: {error}"),
                }
            }
        };
        let (term, taken_over) = (promotion.head.term, promotion.taken_over);
        self.primary = at;
        self.model.acknowledged.retain(|entry| entry.term() >= term || entry.seq() <= taken_over);
        let heir = self.log(at).published().state();
        let running = self.running.lock().clone();
        for ((edge, n), orders) in &mut self.model.withheld {
            // What the former primary took, and its follower saw there, is lost with it; what an edge still holds is sent on.
            let is_held = |log: &Arc<dyn Log>| log.published().load().held().of(&target(*n)).is_some();
            let holds = running[*edge].as_ref().is_some_and(is_held);
            orders.retain(|order, _| holds || heir.of_key(order).is_some());
        }
        drop(running);
        for other in (0..EDGES).filter(|other| *other != at) {
            self.close(other);
            self.edges[other].follows = Some(at);
            self.open(other).await;
        }
    }

    fn check(&self) {
        for ((at, n), orders) in &self.model.withheld {
            if orders.is_empty() {
                continue;
            }
            let Some(log) = self.running.lock()[*at].clone() else { continue };
            let state = log.published().load();
            let is_withheld = state.kills().of(&target(*n)).is_some() || state.held().of(&target(*n)).is_some();
            assert!(is_withheld, "edge {at} shows c{n}, which it acknowledged as killed by {orders:?}");
        }
    }

    /// All is healed: everything that was acknowledged is there, once, and on every edge.
    async fn converge(&mut self) {
        for at in 0..EDGES {
            *self.edges[at].way.lock() = Way::Sound;
            self.close(at);
        }
        for at in 0..EDGES {
            self.open(at).await;
        }
        self.check();
        for round in 0.. {
            for at in 0..EDGES {
                self.follow(at).await;
            }
            let heads: Vec<_> = (0..EDGES).map(|at| self.log(at).published().load().head()).collect();
            let held: usize = (0..EDGES).map(|at| self.log(at).standing().held).sum();
            if heads.iter().all(|head| *head == heads[0]) && held == 0 {
                break;
            }
            let troubles: Vec<_> = (0..EDGES).map(|at| self.log(at).standing()).collect();
            assert!(round < 8, "they do not converge: {troubles:#?}");
        }
        self.check();
        assert_eq!(self.log(self.primary).standing().role, Role::Primary);
        self.check_entries().await;
        for at in 0..EDGES {
            self.close(at);
            let path = self.edges[at].path.clone();
            offline::check(&path).unwrap_or_else(|error| panic!("edge {at}: {error}"));
        }
    }

    async fn check_entries(&self) {
        let entries = match self.log(self.primary).entries(0, 10_000).await.unwrap() {
            Entries::These(entries) => entries,
            // It joined by a snapshot once; what came before is in its state.
            Entries::Elsewhere => return,
        };
        for acknowledged in &self.model.acknowledged {
            let found = entries.iter().any(|entry| entry.hash() == acknowledged.hash());
            assert!(found, "lost: {}", acknowledged.to_json());
        }
        let mut keys = BTreeSet::new();
        let twice = entries.iter().filter_map(|entry| entry.key()).find(|key| !keys.insert(key.to_string()));
        assert_eq!(twice, None, "an order became two entries");
    }
}

fn purge(n: u8) -> Change {
    let key = format!("campaign:c{n}");
    Change::Purge(PurgeMarks {
        scope: PurgeScope::Tag(key.clone()),
        kind: PurgeKind::Hard,
        reach: PurgeReach::Renditions,
        keys: vec![key.clone()],
        tags: vec![key],
        url: None,
        campaign: None,
    })
}

fn cases() -> u32 {
    std::env::var("BILDKANTE_HISTORIES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(24)
}

fn run(steps: Vec<Step>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut fleet = Fleet::start().await;
        for step in steps {
            fleet.take(step).await;
        }
        fleet.converge().await;
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..Default::default() })]

    #[test]
    fn no_history_loses_what_was_acknowledged(steps in prop::collection::vec(step(), 1..60)) {
        run(steps);
    }
}

/// What histories have found, each as short as it can be.
mod found {
    use super::*;

    #[test]
    fn who_never_heard_a_primary_does_not_take_its_place() {
        run(vec![Step::Kill(0, 0), Step::Promote(1)]);
    }

    #[test]
    fn an_heir_of_a_primary_without_entries_begins_a_term_of_its_own() {
        run(vec![Step::Follow(1), Step::Promote(1), Step::Kill(1, 0)]);
    }

    #[test]
    fn an_edge_that_was_promoted_once_follows_a_later_primary_again() {
        run(vec![Step::Follow(1), Step::Promote(1), Step::Follow(0), Step::Promote(0), Step::Kill(1, 0)]);
    }

    /// Its former entries have the numbers that the new primary gives to others.
    #[test]
    fn a_kill_holds_on_a_former_primary_until_the_entry_itself_is_there() {
        run(vec![Step::Kill(0, 1), Step::Follow(1), Step::Kill(0, 2), Step::Promote(1), Step::Kill(0, 0)]);
    }

    #[test]
    fn two_heirs_in_a_row_have_two_terms() {
        run(vec![
            Step::Follow(1),
            Step::Follow(2),
            Step::Promote(2),
            Step::Kill(0, 0),
            Step::Promote(1),
            Step::Kill(0, 0),
        ]);
    }

    #[test]
    fn a_kill_that_an_heir_could_not_write_is_numbered_later() {
        let full = Step::Device(0, Mood::Full);
        run(vec![
            full,
            Step::Follow(2),
            Step::Kill(2, 0),
            Step::Device(2, Mood::RefusesOneAfter(12)),
            Step::Promote(2),
        ]);
    }

    #[test]
    fn an_heir_without_the_entry_of_an_order_knows_that_it_is_in_the_log() {
        run(vec![Step::Kill(2, 0), Step::Follow(2), Step::Way(2, Way::Cut), Step::Again(2), Step::Promote(2)]);
    }

    #[test]
    fn a_commit_that_was_refused_and_written_all_the_same_is_in_the_log() {
        for after in 0..40 {
            let refused = Step::Device(0, Mood::RefusesOneAfter(after));
            run(vec![Step::Kill(0, 0), refused, Step::Kill(0, 1), Step::Lift(0, 0), Step::Kill(0, 2)]);
        }
    }
}
