use bildkante_shared::ids::{MasterId, RecipeId};
use bildkante_shared::phash::PerceptualHash;
use bildkante_shared::problem::Problem;

use super::super::fold::State;
use super::super::link::refusal;
use super::super::reviews::{Drawn, Review, Step};
use super::*;
use crate::campaign::Parts;
use crate::words::Epoch;

const AGE_MAX: Duration = Duration::from_secs(60);

/// A primary that says what the test lays out.
#[derive(Debug)]
struct Scripted {
    feed: Mutex<Fed>,
    snapshot: Mutex<Option<SentSnapshot>>,
}

impl Scripted {
    fn new(head: &Head) -> Arc<Self> {
        let feed =
            Feed { log: head.log.clone(), term: head.term, seq: head.seq, needs_snapshot: true, entries: Vec::new() };
        let snapshot = SentSnapshot { head: head.clone(), rows: Vec::new() };
        Arc::new(Self { feed: Mutex::new(Fed { feed, at: None }), snapshot: Mutex::new(Some(snapshot)) })
    }
}

impl Upstream for Scripted {
    fn feed<'a>(&'a self, _: &'a Ask) -> BoxFuture<'a, Result<Fed, LogError>> {
        async { Ok(self.feed.lock().clone()) }.boxed()
    }

    fn snapshot(&self) -> BoxFuture<'_, Result<SentSnapshot, LogError>> {
        async { self.snapshot.lock().clone().ok_or_else(|| LogError::Away { reason: "gone".to_owned() }) }.boxed()
    }

    fn propose<'a>(&'a self, _: &'a SentProposal, _: Duration) -> BoxFuture<'a, Result<SentCommitted, LogError>> {
        async { Err(LogError::Away { reason: "gone".to_owned() }) }.boxed()
    }
}

fn head(log: &str, seq: u64, term: u64) -> Head {
    Head { seq, term, ..State::empty(log.into()).head() }
}

fn follower(path: &std::path::Path, upstream: &Arc<Scripted>) -> Follower {
    let local = Primary::open(path, Epoch::default()).unwrap();
    let patience = Patience { age_max: AGE_MAX, return_max: Duration::ZERO };
    Follower::new(local, Arc::<Scripted>::clone(upstream), "http://primary", patience)
}

#[tokio::test]
async fn a_snapshot_of_an_earlier_term_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let upstream = Scripted::new(&head("a", 3, 2));
    let follower = follower(&dir.path().join("state.redb"), &upstream);
    follower.follow().await.unwrap();
    // The way leads to a former primary between the two questions.
    upstream.feed.lock().feed.term = 3;
    *upstream.snapshot.lock() = Some(SentSnapshot { head: head("a", 9, 1), rows: Vec::new() });
    let error = follower.follow().await.unwrap_err();
    assert!(matches!(error, LogError::LowerTerm { term: 1, seen: 2 }), "{error}");
    upstream.feed.lock().feed.term = 1;
    let error = follower.follow().await.unwrap_err();
    assert!(matches!(error, LogError::LowerTerm { term: 1, seen: 2 }), "{error}");
    assert_eq!(follower.published().load().head(), head("a", 3, 2), "what was here is here");
}

#[tokio::test]
async fn a_primary_that_lost_entries_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let upstream = Scripted::new(&head("a", 7, 2));
    let follower = follower(&dir.path().join("state.redb"), &upstream);
    follower.follow().await.unwrap();
    for (theirs, says) in [
        (head("a", 5, 2), "of term 2 ends at entry 5 and is not the one that this edge has up to entry 7"),
        (head("b", 9, 2), "has a log of its own with 7 entries"),
    ] {
        let (log, seq) = (theirs.log.clone(), theirs.seq);
        upstream.feed.lock().feed.log = log;
        upstream.feed.lock().feed.seq = seq;
        *upstream.snapshot.lock() = Some(SentSnapshot { head: theirs, rows: Vec::new() });
        let error = follower.follow().await.unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
        assert_eq!(follower.published().load().epoch(), 7);
    }
    upstream.feed.lock().feed.term = 3;
    *upstream.snapshot.lock() = Some(SentSnapshot { head: head("b", 9, 3), rows: Vec::new() });
    follower.follow().await.unwrap();
    assert_eq!(follower.published().load().head(), head("b", 9, 3), "a later term may");
}

#[tokio::test]
async fn a_clock_that_is_apart_is_named_and_the_primary_is_followed_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let upstream = Scripted::new(&head("a", 3, 2));
    upstream.feed.lock().at = Some(SystemTime::now() - Duration::from_secs(600));
    let follower = follower(&dir.path().join("state.redb"), &upstream);
    follower.follow().await.unwrap();
    upstream.feed.lock().feed.needs_snapshot = false;
    let standing = follower.standing();
    assert_eq!(standing.head.seq, 3);
    assert!(standing.trouble.is_some_and(|it| it.contains("600 s ahead of its primary's")));
    upstream.feed.lock().at = Some(SystemTime::now());
    follower.follow().await.unwrap();
    assert_eq!(follower.standing().trouble, None);
}

#[tokio::test]
async fn a_restart_does_not_make_what_a_follower_knows_young() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.redb");
    let upstream = Scripted::new(&head("a", 3, 2));
    let began = follower(&path, &upstream);
    assert!(began.published().is_stale(), "it has never heard anything");
    began.follow().await.unwrap();
    upstream.feed.lock().feed.needs_snapshot = false;
    assert!(!began.published().is_stale());
    drop(began);
    let soon = follower(&path, &upstream);
    assert!(!soon.published().is_stale() && soon.standing().age < AGE_MAX);
    soon.inner.local.keep_heard("http://primary", SystemTime::now() - AGE_MAX * 2).await.unwrap();
    drop(soon);
    let late = follower(&path, &upstream);
    assert!(late.published().is_stale(), "before anything was asked");
    assert!(late.standing().age >= AGE_MAX * 2);
    late.follow().await.unwrap();
    assert!(!late.published().is_stale());
}

#[test]
fn the_primary_refuses_a_change_in_its_own_words_and_an_edge_in_ours() {
    let told = |status: u16, kind: &str| {
        let problem = Problem::new(status, kind, "Not changed", "as told");
        let error = refusal(http::StatusCode::from_u16(status).unwrap(), &problem.to_json());
        (error.status(), error.as_str(), error.to_string())
    };
    for (status, kind) in
        [(404, "refused"), (409, "refused"), (422, "key-reused"), (422, "entry-refused"), (507, "not-stored")]
    {
        assert_eq!(told(status, kind), (status, "primary-refuses", "as told".to_owned()), "{kind}");
    }
    for (status, kind) in [(401, "unauthorized"), (403, "forbidden"), (409, "not-primary")] {
        let (shown, _, detail) = told(status, kind);
        assert!(shown == 502 && detail.contains("as told"), "{kind}: {shown} {detail}");
    }
    assert_eq!(told(500, "internal").0, 503);
}

/// Who approved first has another id at the heir. So that the same person cannot give both approvals, the first one is taken back.
#[tokio::test]
async fn a_first_approval_is_taken_back_where_another_edge_is_promoted() {
    let dir = tempfile::tempdir().unwrap();
    let former = Primary::open(&dir.path().join("former.redb"), Epoch::default()).unwrap();
    let (recipe, master) = (RecipeId::from_raw([1; 16]), MasterId::from_raw([1; 16]));
    let step = |who: &str, step: Step| {
        let review = Review { variant: "a/b?c=d".to_owned(), recipe, master, cut: None, step };
        Proposal { change: Change::Review(review), who: who.to_owned(), why: String::new(), key: None, edge: None }
    };
    let by_two = |seen| Step::Approve { approvers: 2, from_unix_ms: None, until_unix_ms: None, seen };
    let drawn = Box::new(Drawn {
        width_px: 8,
        height_px: 8,
        phash: PerceptualHash::from_bytes([0; 32]),
        node: "test".to_owned(),
        drawn_unix_s: None,
        determinism: None,
        seed: None,
        parts: Parts::default(),
    });
    let submitted = former.propose(step("edge", Step::Submit { drawn, gates: Vec::new() })).await.unwrap();
    former.propose(step("anna", by_two(submitted.entry.seq()))).await.unwrap();

    let SentSnapshot { head, rows } = former.snapshot().await.unwrap().into();
    let upstream = Scripted::new(&head);
    *upstream.snapshot.lock() = Some(SentSnapshot { head, rows });
    let path = dir.path().join("heir.redb");
    let heir = follower(&path, &upstream);
    heir.follow().await.unwrap();
    let promotion = heir.promote(None).await.unwrap();
    let approvals = || heir.published().state().reviews().of("a/b?c=d")[0].approved_by.len();
    assert_eq!(approvals(), 0, "nobody here knows who it was");
    heir.propose(step("anna", by_two(promotion.head.seq))).await.unwrap();
    let seen = heir.published().load().epoch();
    let again = heir.propose(step("anna", by_two(seen))).await.unwrap_err().to_string();
    assert!(again.contains("the second is another one's"), "{again}");
    drop((heir, promotion));
    let heir = follower(&path, &upstream);
    assert_eq!(heir.published().state().reviews().of("a/b?c=d")[0].approved_by.len(), 1, "also after a restart");
}

/// An edge that numbered entries once knows names; what is erased at its primary is erased there, too.
#[tokio::test]
async fn a_name_that_is_erased_at_the_primary_is_erased_at_the_former_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("former.redb");
    let former = Primary::open(&path, Epoch::default()).unwrap();
    let kill = |name: &str, who: &str| {
        let change = Change::Kill(Kill { target: format!("campaign:{name}").parse().unwrap() });
        Proposal { change, who: who.to_owned(), why: "a test".to_owned(), key: None, edge: None }
    };
    let anna = former.propose(kill("a", "anna")).await.unwrap().entry.actor();
    let ben = former.propose(kill("b", "ben")).await.unwrap().entry.actor();
    let standing = former.snapshot().await.unwrap();
    let heir = Primary::open(&dir.path().join("heir.redb"), Epoch::default()).unwrap();
    heir.replace(standing.clone()).await.unwrap();
    // The heir would know its id from the log.
    heir.learn("ben", ben);
    heir.forget("ben".to_owned(), "cem".to_owned(), "he left".to_owned(), None).await.unwrap();
    let Entries::These(entries) = heir.entries(standing.head.seq, 10).await.unwrap() else { panic!("it is here") };
    former.adopt(entries).await.unwrap();
    assert_eq!((former.name_of(ben), former.name_of(anna).as_deref()), (None, Some("anna")));
    // A snapshot does not say which names were erased since: none of them stays.
    former.replace(Snapshot { head: Head { term: 2, ..standing.head }, rows: standing.rows }).await.unwrap();
    assert_eq!(former.name_of(anna), None);
    drop(former);
    let former = Primary::open(&path, Epoch::default()).unwrap();
    assert_eq!(former.name_of(anna), None);
}
