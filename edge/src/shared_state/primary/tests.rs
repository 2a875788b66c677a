use bildkante_shared::ids::Digest;
use proptest::prelude::*;

use super::super::change::{Kill, Lift, PurgeKind, PurgeMarks, PurgeReach, PurgeScope};
use super::super::entry::Chain;
use super::super::{AccessKey, Grants, KeyId, Refusal, Revoke, Target};
use super::*;
use crate::state::Database;
use crate::state::testing::{Device, Mood};

fn target(name: &str) -> Target {
    format!("campaign:{name}").parse().unwrap()
}

fn kill(name: &str) -> Proposal {
    proposal(Change::Kill(Kill { target: target(name) }))
}

fn lift(name: &str) -> Proposal {
    proposal(Change::Lift(Lift { target: target(name) }))
}

fn purge(key: &str, kind: PurgeKind, reach: PurgeReach) -> Proposal {
    proposal(Change::Purge(PurgeMarks {
        scope: PurgeScope::Tag(key.to_owned()),
        kind,
        reach,
        keys: vec![key.to_owned()],
        tags: vec![key.to_owned()],
        url: None,
        campaign: None,
    }))
}

fn proposal(change: Change) -> Proposal {
    Proposal { change, who: "anna".to_owned(), why: "because".to_owned(), key: None, edge: None }
}

fn open(path: &Path) -> Primary {
    Primary::open(path, Epoch::default()).unwrap()
}

async fn all(log: &Primary) -> Vec<Arc<Entry>> {
    match log.entries(0, 10_000).await.unwrap() {
        Entries::These(entries) => entries,
        Entries::Elsewhere => panic!("a log of its own begins at its first entry"),
    }
}

#[tokio::test]
async fn what_was_committed_is_there_after_a_restart_and_the_chain_holds() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.redb");
    let log = open(&path);
    let mut orders = vec![kill("a"), kill("b"), lift("a"), kill("c"), lift("b")];
    orders.push(purge("campaign:x", PurgeKind::Hard, PurgeReach::Masters));
    for order in orders {
        assert!(log.propose(order).await.unwrap().is_new);
    }
    let before = log.published().state();
    let lines = all(&log).await;
    drop(log);
    let log = open(&path);
    let state = log.published().state();
    assert_eq!(state.head(), before.head());
    assert_eq!((state.epoch(), state.term(), state.kills().len()), (7, 1, 1));
    assert_eq!(state.kills().of(&target("c")), Some(5));
    assert_eq!(state.purges().count(), 1);
    assert_eq!(all(&log).await, lines);
    let mut chain = Chain::behind(0, 0, bildkante_shared::ids::Digest::from_raw([0; 32]));
    for entry in &lines {
        chain.follow(entry).unwrap();
    }
    assert_eq!(chain.head(), (7, state.head().hash));
    assert_eq!(lines[3].before(), Some("killed by 2"));
    assert!(lines[1..].iter().all(|line| line.actor() == lines[1].actor()), "one name, one id");
    assert_eq!(log.name_of(lines[1].actor()).as_deref(), Some("anna"));
}

#[tokio::test]
async fn a_repeated_order_becomes_one_entry() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.redb");
    let keyed = |proposal: Proposal| Proposal { key: Some("k".to_owned()), ..proposal };
    let first = open(&path).propose(keyed(kill("a"))).await.unwrap();
    let log = open(&path);
    let again = log.propose(keyed(kill("a"))).await.unwrap();
    assert_eq!((again.entry.seq(), again.is_new), (first.entry.seq(), false));
    let other = log.propose(keyed(kill("b"))).await.unwrap_err();
    assert!(matches!(other, LogError::KeyReused { seq: 2, .. }), "{other}");
    assert!(log.published().load().held().is_empty(), "what was refused holds nothing");
    assert_eq!(log.published().load().kills().of(&target("b")), None);
}

#[tokio::test]
async fn what_has_no_place_is_refused_and_several_are_all_or_none() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir.path().join("state.redb"));
    let refused = log.propose(lift("a")).await.unwrap_err();
    assert!(matches!(refused, LogError::Refused(Refusal::NotKilled { .. })), "{refused}");
    let silent = Proposal { why: " ".to_owned(), ..kill("a") };
    assert!(matches!(log.propose(silent).await, Err(LogError::Refused(Refusal::NoReason { .. }))));
    assert!(log.propose_all(vec![kill("a"), kill("b"), lift("c")]).await.is_err());
    assert_eq!((log.published().load().epoch(), log.published().load().held().len()), (0, 0));
    let committed = log.propose_all(vec![kill("a"), lift("a"), kill("a")]).await.unwrap();
    assert_eq!(committed.iter().map(|one| one.entry.seq()).collect::<Vec<_>>(), [2, 3, 4]);
}

/// A full disk: the kill holds here, no entry says so, and it is entered when it is asked for again.
#[tokio::test]
async fn a_kill_that_the_device_refuses_holds_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let (path, device) = (dir.path().join("state.redb"), Device::default());
    let (store, loaded) = Store::over(device.open(&path, super::super::store::schema()).unwrap()).unwrap();
    let epoch = Epoch::default();
    let log = Primary::over(store, loaded, epoch.clone()).unwrap();
    log.propose(kill("a")).await.unwrap();
    device.set(Mood::Full);
    let before = epoch.current();
    assert!(matches!(log.propose(kill("b")).await, Err(LogError::Store(_))));
    assert!(epoch.current() > before, "kept answers lapse");
    let state = log.published().state();
    assert_eq!((state.epoch(), state.kills().len(), state.held().of(&target("b"))), (2, 1, Some(0)));
    assert!(matches!(log.propose(lift("a")).await, Err(LogError::Store(_))));
    assert_eq!(log.published().load().kills().of(&target("a")), Some(2), "what was not committed is not published");
    device.set(Mood::Sound);
    log.propose(kill("b")).await.unwrap();
    let state = log.published().state();
    assert_eq!((state.kills().len(), state.held().len()), (2, 0));
}

#[tokio::test]
async fn who_has_seen_a_later_term_writes_no_more_until_it_is_promoted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.redb");
    let log = open(&path);
    log.propose(kill("a")).await.unwrap();
    assert!(matches!(log.promote(None).await, Err(LogError::AlreadyPrimary { term: 1 })));
    log.fence(1);
    assert_eq!(log.standing().role, Role::Primary);
    log.fence(4);
    assert_eq!(log.standing().role, Role::Fenced);
    assert!(matches!(log.propose(kill("b")).await, Err(LogError::Fenced { term: 4 })));
    let noted = || {
        bildkante_shared::testing::eventually("it is on the device", async || {
            let store = Arc::clone(&log.inner.store);
            store.stored().is_ok_and(|stored| stored.term_seen == 4)
        })
    };
    noted().await;
    drop(log);
    let log = open(&path);
    assert_eq!(log.standing().role, Role::Fenced);
    let promotion = log.promote(None).await.unwrap();
    assert_eq!((promotion.head.term, promotion.taken_over), (5, 2));
    log.propose(kill("b")).await.unwrap();
    assert_eq!(log.published().load().term(), 5);
}

#[tokio::test]
async fn an_erased_name_is_gone_and_its_entries_stay() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.redb");
    let log = open(&path);
    let entry = log.propose(kill("a")).await.unwrap().entry;
    let forget = |key: Option<&str>| {
        log.forget("anna".to_owned(), "ben".to_owned(), "she left".to_owned(), key.map(str::to_owned))
    };
    assert!(forget(Some("once")).await.unwrap());
    assert!(forget(Some("once")).await.unwrap(), "the same order, again");
    assert!(!forget(None).await.unwrap() && !forget(Some("another")).await.unwrap());
    assert_eq!(log.name_of(entry.actor()), None);
    let bytes = std::fs::read(&path).unwrap();
    drop(log);
    let log = open(&path);
    assert_eq!(log.name_of(entry.actor()), None);
    assert_ne!(log.propose(kill("b")).await.unwrap().entry.actor(), entry.actor(), "a new id for the same name");
    assert!(!bytes.is_empty());
}

/// What a newer build wrote is refused by name, and never passed over.
#[tokio::test]
async fn a_table_that_this_build_does_not_know_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.redb");
    drop(open(&path));
    let database = Database::open(&path, super::super::store::schema()).unwrap();
    super::super::store::write_foreign_row(&database, "pins/studio");
    drop(database);
    let error = Primary::open(&path, Epoch::default()).unwrap_err().to_string();
    assert!(error.contains("`pins`") && error.contains("newer"), "{error}");
}

fn key(secret: &str, name: &str) -> Proposal {
    let (hash, roles) = (Digest::of_bytes(secret.as_bytes()), Grants::parse("*=viewer").unwrap());
    proposal(Change::Key(AccessKey { hash, name: name.to_owned(), roles, expires_unix_ms: 1 }))
}

fn revoke(secret: &str) -> Proposal {
    proposal(Change::Revoke(Revoke { id: KeyId::of(&Digest::of_bytes(secret.as_bytes())) }))
}

#[tokio::test]
async fn a_key_is_given_once_and_known_until_it_is_revoked() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.redb");
    let log = open(&path);
    let order = |secret: &str, name: &str| Proposal { key: Some("one-order".to_owned()), ..key(secret, name) };
    let given = log.propose(order("one", "anna")).await.unwrap();
    let again = log.propose(order("two", "anna")).await.unwrap();
    assert_eq!(
        (again.is_new, again.entry.seq()),
        (false, given.entry.seq()),
        "another secret was drawn, and is no key"
    );
    assert!(matches!(log.propose(order("two", "ben")).await, Err(LogError::KeyReused { .. })));
    assert_eq!(log.published().load().access().len(), 1);
    for (wrong, refusal) in [
        (key("two", "anna"), Refusal::KeyNameTaken { name: "anna".to_owned() }),
        (key("one", "ben"), Refusal::KeyNameTaken { name: "ben".to_owned() }),
        (key("two", "edge"), Refusal::KeyName),
        (key("two", ""), Refusal::KeyName),
        (key("two", " anna"), Refusal::KeyName),
        (key("two", "a\nb"), Refusal::KeyName),
        (revoke("two"), Refusal::NoSuchKey { id: KeyId::of(&Digest::of_bytes(b"two")) }),
    ] {
        assert!(matches!(log.propose(wrong).await, Err(LogError::Refused(it)) if it == refusal), "{refusal}");
    }
    let unreasoned = Proposal { why: " ".to_owned(), ..key("two", "ben") };
    assert!(matches!(log.propose(unreasoned).await, Err(LogError::Refused(Refusal::NoReason { .. }))));
    drop(log);
    let log = open(&path);
    let id = KeyId::of(&Digest::of_bytes(b"one"));
    let kept = Arc::clone(log.published().load().access().get(id).unwrap());
    assert_eq!((kept.key.name.as_str(), kept.seq), ("anna", given.entry.seq()));
    let revoked = log.propose(revoke("one")).await.unwrap().entry;
    assert_eq!((revoked.before(), revoked.change().subject()), (Some("anna: *=viewer"), format!("key:{id}")));
    assert!(log.published().load().access().is_empty());
    assert!(log.propose(key("one", "anna")).await.unwrap().is_new, "the name is free again");
}

/// What no answer shows does not empty what is kept of answers.
#[tokio::test]
async fn only_what_may_be_shown_otherwise_empties_what_was_kept() {
    let dir = tempfile::tempdir().unwrap();
    let epoch = Epoch::default();
    let log = Primary::open(&dir.path().join("state.redb"), epoch.clone()).unwrap();
    log.propose(kill("a")).await.unwrap();
    for (unseen, proposal) in
        [(true, key("one", "anna")), (true, revoke("one")), (false, lift("a")), (false, kill("a"))]
    {
        let (before, what) = (epoch.current(), proposal.change.as_str());
        log.propose(proposal).await.unwrap();
        assert_eq!(epoch.current() == before, unseen, "{what}");
    }
    log.fence(7);
    let before = epoch.current();
    log.promote(None).await.unwrap();
    assert_eq!(epoch.current(), before, "a term");
}

/// Power fails at any write of an order in bulk: all of it is there, or nothing.
#[tokio::test]
async fn a_bulk_order_that_power_fails_in_is_there_as_a_whole_or_not_at_all() {
    let mut outcomes = std::collections::BTreeSet::new();
    for after in 0..32 {
        let dir = tempfile::tempdir().unwrap();
        let (path, device) = (dir.path().join("state.redb"), Device::default());
        let (store, loaded) = Store::over(device.open(&path, super::super::store::schema()).unwrap()).unwrap();
        let log = Primary::over(store, loaded, Epoch::default()).unwrap();
        log.propose(kill("before")).await.unwrap();
        device.set(Mood::DiesAfter(after));
        let acknowledged = log.propose_all((0..50).map(|n| kill(&format!("c{n}"))).collect()).await.is_ok();
        drop(log);
        let log = open(&path);
        let there = log.published().load().kills().len() - 1;
        assert!(there == 50 || (there == 0 && !acknowledged), "{after}: {there} of them, acknowledged: {acknowledged}");
        outcomes.insert(acknowledged);
    }
    assert_eq!(outcomes.len(), 2, "both were tried");
}

#[tokio::test]
async fn a_promotion_that_is_repeated_with_its_key_begins_no_second_term() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir.path().join("state.redb"));
    let keyed = Proposal { key: Some("a-kill".to_owned()), ..kill("a") };
    log.propose(keyed).await.unwrap();
    log.fence(4);
    let promote = |key: &str| log.promote(Some(key.to_owned()));
    let promotion = promote("once").await.unwrap();
    assert_eq!(promote("once").await.unwrap(), promotion);
    assert!(matches!(promote("again").await, Err(LogError::AlreadyPrimary { term: 5 })));
    assert!(matches!(promote("a-kill").await, Err(LogError::KeyReused { seq: 2, .. })));
}

#[derive(Debug, Clone)]
enum Step {
    Kill(u8),
    Lift(u8),
    Purge(u8, bool),
    Key(u8),
    Revoke(u8),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..6_u8).prop_map(Step::Kill),
        3 => (0..6_u8).prop_map(Step::Lift),
        1 => (0..3_u8, any::<bool>()).prop_map(|(key, is_hard)| Step::Purge(key, is_hard)),
        2 => (0..3_u8).prop_map(Step::Key),
        1 => (0..3_u8).prop_map(Step::Revoke),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..Default::default() })]

    /// Random histories against a plain set; what a snapshot hands over and what the entries amount to are the same state.
    #[test]
    fn the_fold_is_what_a_model_says(steps in prop::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("state.redb");
            let mut log = open(&path);
            let (mut model, mut keys) = (std::collections::BTreeSet::new(), std::collections::BTreeSet::new());
            for step in steps {
                match step {
                    Step::Kill(n) => {
                        log.propose(kill(&format!("c{n}"))).await.unwrap();
                        model.insert(n);
                    }
                    Step::Lift(n) => assert_eq!(log.propose(lift(&format!("c{n}"))).await.is_ok(), model.remove(&n)),
                    Step::Purge(n, is_hard) => {
                        let kind = if is_hard { PurgeKind::Hard } else { PurgeKind::Soft };
                        log.propose(purge(&format!("campaign:c{n}"), kind, PurgeReach::Renditions)).await.unwrap();
                    }
                    Step::Key(n) => {
                        let name = n.to_string();
                        assert_eq!(log.propose(key(&name, &name)).await.is_ok(), keys.insert(n));
                    }
                    Step::Revoke(n) => assert_eq!(log.propose(revoke(&n.to_string())).await.is_ok(), keys.remove(&n)),
                    Step::Reopen => {
                        drop(log);
                        log = open(&path);
                    }
                }
                let state = log.published().state();
                assert_eq!((state.kills().len(), state.access().len()), (model.len(), keys.len()));
                assert!((0..6).all(|n| state.kills().of(&target(&format!("c{n}"))).is_some() == model.contains(&n)));
            }
            let state = log.published().state();
            let snapshot = log.snapshot().await.unwrap();
            let restored = State::restore(snapshot.head, snapshot.rows).unwrap();
            let mut folded = State::empty(state.log().clone());
            for entry in all(&log).await {
                folded.apply(&entry);
            }
            let rows = |state: &State| {
                let mut rows: Vec<String> = state.rows().map(|row| format!("{row:?}")).collect();
                rows.sort();
                (state.head(), rows)
            };
            assert_eq!(rows(&restored), rows(&state));
            assert_eq!(rows(&folded), rows(&state));
        });
    }
}

/// `make bench-kill`: what 100,000 kills in force cost a start, and a look-up that finds none.
#[tokio::test]
#[ignore = "a measurement"]
async fn start_and_look_up_over_many_kills() {
    const KILLS: usize = 100_000;
    const LOOK_UPS: u32 = 1_000_000;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.redb");
    let started = std::time::Instant::now();
    drop(open(&path));
    let empty = started.elapsed();
    let log = open(&path);
    let recipe = |n: usize| Target::Recipe(bildkante_shared::ids::RecipeId::of_bytes(&n.to_le_bytes()));
    let one = |n| proposal(Change::Kill(Kill { target: recipe(n) }));
    let begun = std::time::Instant::now();
    for batch in 0..KILLS / 1_000 {
        log.propose_all((batch * 1_000..(batch + 1) * 1_000).map(one).collect()).await.unwrap();
    }
    let entered = begun.elapsed();
    let begun = std::time::Instant::now();
    log.propose(one(KILLS)).await.unwrap();
    let another = begun.elapsed();
    drop(log);
    let begun = std::time::Instant::now();
    let log = open(&path);
    let full = begun.elapsed();
    let state = log.published().state();
    assert_eq!(state.kills().len(), KILLS + 1);
    let parts = crate::campaign::Parts::default();
    let facts = super::super::Facts {
        campaign: "studio",
        slot: "studio/hero",
        values: "colour=teal&product=mug",
        recipe: bildkante_shared::ids::RecipeId::of_bytes(b"none of them"),
        master: None,
        parts: Some(&parts),
    };
    let begun = std::time::Instant::now();
    let found = (0..LOOK_UPS).filter(|_| state.kills().reason(std::hint::black_box(&facts)).is_some()).count();
    let look_up = begun.elapsed() / LOOK_UPS;
    assert_eq!(found, 0);
    println!(
        "{KILLS} kills: entered in {entered:?}, one more in {another:?}; a start reads them in {full:?} (none: {empty:?}); a look-up \
         takes {look_up:?}"
    );
}
