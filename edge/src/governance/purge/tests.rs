//! What is purged stays purged: across restarts, fills in flight and full tables.

use std::path::Path;

use bildkante_shared::ids::MasterId;
use prometheus::Registry;

use super::*;
use crate::cache::Lqips;
use crate::cache::testing::rendition;
use crate::governance::ledger::DeliveryState;
use crate::governance::marks::PurgeKind;
use crate::governance::scope::PurgeScope;
use crate::render::Rung;
use crate::state::testing::{Device, Mood};

fn open(folder: &Path, config: &PurgeConfig) -> Purges {
    let metrics = PurgeMetrics::new(&Registry::new()).unwrap();
    Purges::open(config, &folder.join("purges.redb"), metrics).unwrap()
}

fn purge_of(key: PurgeKey, kind: PurgeKind, reach: PurgeReach) -> Purge {
    let record = PurgeRecord {
        id: 0,
        at_unix_ms: now_unix_ms(),
        by: "test".to_owned(),
        why: "because".to_owned(),
        scope: PurgeScope::Everything,
        kind,
        reach,
        tags: Vec::new(),
        url: None,
        key: None,
        downstream: BTreeMap::new(),
    };
    Purge { keys: vec![key], campaign: None, record }
}

async fn purge(purges: &Purges, key: PurgeKey, kind: PurgeKind) -> u64 {
    purges.purge(purge_of(key, kind, PurgeReach::Renditions), &[]).await.unwrap().id
}

fn made_at(generation: u64) -> Rendition {
    let mut rendition = rendition(b"body", Rung::Final);
    rendition.generation = generation;
    rendition
}

/// The verdict over a rendition of the campaign `a`.
fn verdict(purges: &Purges, generation: u64) -> Verdict {
    let rendition = made_at(generation);
    let tags = ["campaign:a", "slot:a/hero", "recipe:r"];
    purges.verdict(&Subject { tags, recipe: rendition.recipe, spec: &rendition.spec }, &rendition)
}

#[tokio::test]
async fn a_purge_survives_a_restart_and_a_restart_without_one_purges_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let config = PurgeConfig::default();
    let purges = open(dir.path(), &config);
    let before = purges.generation();
    assert_eq!(verdict(&purges, 0), Verdict::Valid, "nothing was ever purged");
    drop(purges);
    let purges = open(dir.path(), &config);
    assert_eq!(purges.generation(), before);
    assert_eq!(verdict(&purges, before), Verdict::Valid);
    let id = purge(&purges, PurgeKey::campaign("a"), PurgeKind::Hard).await;
    assert_eq!(verdict(&purges, before), Verdict::Gone);
    assert_eq!(verdict(&purges, purges.generation()), Verdict::Valid);
    drop(purges);
    let purges = open(dir.path(), &config);
    assert_eq!((purges.generation(), verdict(&purges, before)), (id, Verdict::Gone));
    assert_eq!(purges.recent(10)[0].why, "because");
}

/// A ledger that is lost begins above everything that was made under it.
#[tokio::test]
async fn a_new_ledger_counts_on_from_where_no_old_one_was() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let old = open(one.path(), &PurgeConfig::default());
    for _ in 0..3 {
        purge(&old, PurgeKey::Everything, PurgeKind::Hard).await;
    }
    let made = old.generation();
    while unix_ms(SystemTime::now()) <= made {
        tokio::task::yield_now().await;
    }
    let new = open(other.path(), &PurgeConfig::default());
    purge(&new, PurgeKey::campaign("a"), PurgeKind::Hard).await;
    assert_eq!(verdict(&new, made), Verdict::Gone);
}

#[tokio::test]
async fn what_began_before_a_purge_is_never_fresh_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let purges = open(dir.path(), &PurgeConfig::default());
    // The fill reads the generation, then the purge comes, then the fill ends.
    let generation = purges.generation();
    purge(&purges, PurgeKey::campaign("a"), PurgeKind::Soft).await;
    assert!(matches!(verdict(&purges, generation), Verdict::Stale { .. }));
    purge(&purges, PurgeKey::campaign("other"), PurgeKind::Hard).await;
    assert!(matches!(verdict(&purges, generation), Verdict::Stale { .. }));
    purge(&purges, PurgeKey::campaign("a"), PurgeKind::Hard).await;
    assert_eq!(verdict(&purges, generation), Verdict::Gone);
}

#[tokio::test]
async fn masters_are_purged_only_where_that_was_asked() {
    let dir = tempfile::tempdir().unwrap();
    let purges = open(dir.path(), &PurgeConfig::default());
    let generation = purges.generation();
    let of_binding = |purges: &Purges| {
        let rendition = made_at(generation);
        let tags = ["campaign:a", "slot:a/hero", "recipe:r"];
        let binding = Binding {
            master: MasterId::of_bytes(b"m"),
            width_px: 1,
            height_px: 1,
            phash: bildkante_shared::phash::PerceptualHash::from_bytes([0; 32]),
            duplicate: None,
            drawn_unix_s: None,
            determinism: None,
            device_ms: None,
            node: String::new(),
            created_unix_ms: 0,
            generation,
            parts: None,
            lqips: Lqips::default(),
        };
        purges.binding_verdict(&Subject { tags, recipe: rendition.recipe, spec: &rendition.spec }, &binding)
    };
    purge(&purges, PurgeKey::campaign("a"), PurgeKind::Hard).await;
    assert_eq!(of_binding(&purges), Verdict::Valid);
    purges.purge(purge_of(PurgeKey::campaign("a"), PurgeKind::Hard, PurgeReach::Masters), &[]).await.unwrap();
    assert_eq!(of_binding(&purges), Verdict::Gone);
    drop(purges);
    assert_eq!(of_binding(&open(dir.path(), &PurgeConfig::default())), Verdict::Gone);
}

#[tokio::test]
async fn a_full_table_is_compacted_on_the_device_too() {
    let dir = tempfile::tempdir().unwrap();
    let config = PurgeConfig { tags_max: 3, ..PurgeConfig::default() };
    let purges = open(dir.path(), &config);
    let generation = purges.generation();
    for slot in ["slot:a/hero", "slot:b/x", "slot:c/x", "slot:d/x", "slot:e/x"] {
        purge(&purges, slot.parse().unwrap(), PurgeKind::Hard).await;
    }
    assert!(purges.marks() <= 3);
    drop(purges);
    let purges = open(dir.path(), &config);
    assert!(purges.marks() <= 3);
    assert_eq!(verdict(&purges, generation), Verdict::Gone);
}

/// The oldest purges are forgotten; what they still owed downstream is asked for with a newer one.
#[tokio::test]
async fn records_are_bounded_and_what_they_owe_is_not_lost() {
    let dir = tempfile::tempdir().unwrap();
    let purges = open(dir.path(), &PurgeConfig::default());
    let names = ["cdn".to_owned()];
    let order = || purge_of(PurgeKey::campaign("a"), PurgeKind::Hard, PurgeReach::Renditions);
    let first = purges.purge(order(), &names).await.unwrap();
    assert_eq!(first.downstream["cdn"].breadth, Breadth::AsAsked);
    let mut last = first.clone();
    for _ in 0..RECORDS_MAX {
        last = purges.purge(order(), &names).await.unwrap();
    }
    assert!(purges.record(first.id).is_none());
    assert_eq!(last.downstream["cdn"].breadth, Breadth::Everything);
    assert_eq!(purges.recent(usize::MAX).len(), RECORDS_MAX);
    drop(purges);
    assert_eq!(open(dir.path(), &PurgeConfig::default()).recent(usize::MAX).len(), RECORDS_MAX);
}

#[test]
fn a_damaged_ledger_is_an_error_that_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("purges.redb"), b"no database at all").unwrap();
    let metrics = PurgeMetrics::new(&Registry::new()).unwrap();
    let error = Purges::open(&PurgeConfig::default(), &dir.path().join("purges.redb"), metrics).unwrap_err();
    assert!(error.to_string().contains("together with the renditions"), "{error}");
}

#[test]
fn impossible_configurations_name_their_key() {
    let refused = |text: &str| toml::from_str::<PurgeConfig>(text).unwrap().check().unwrap_err();
    assert!(refused("tags_max = 0").contains("purge.tags_max"));
    assert!(refused("retry_backoff_ms_min = 9\nretry_backoff_ms_max = 1").contains("retry_backoff_ms_min"));
    let one = "[[downstream]]\nkind = 'varnish'\nname = 'v'\nurl = 'http://h/'\n";
    assert!(refused(&format!("{one}{one}")).contains("two `purge.downstream` are named `v`"));
    assert!(toml::from_str::<PurgeConfig>("tag_max = 1").is_err());
}

fn on(device: &Device, folder: &Path) -> Purges {
    Purges::open_on(device, &folder.join("purges.redb"), &Registry::new())
}

async fn until(is: impl Fn() -> bool) {
    let met = async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), met).await.expect("the condition is met in time");
}

/// Two purges over a device whose sync hangs: both in force at once, and on the device in order, though the first one's
/// caller has left.
#[tokio::test]
async fn purges_are_in_force_before_a_slow_device_has_them_and_reach_it_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let device = Device::default();
    let purges = on(&device, dir.path());
    let before = purges.generation();
    device.set(Mood::Slow);
    let first = purges.enforce(purge_of(PurgeKey::campaign("b"), PurgeKind::Hard, PurgeReach::Renditions), Vec::new);
    let id = first.record.id;
    let caller = tokio::spawn({
        let purges = purges.clone();
        async move { purges.stored(&first).await }
    });
    until(|| device.waiting() > 0).await;
    let second = purges.enforce(purge_of(PurgeKey::campaign("a"), PurgeKind::Hard, PurgeReach::Renditions), Vec::new);
    assert!(before < id && id < second.record.id && purges.generation() == second.record.id);
    assert_eq!(verdict(&purges, before), Verdict::Gone, "in force while the device has neither");
    assert!(!purges.is_stored(id) && !purges.is_stored(second.record.id));
    caller.abort();
    device.set(Mood::Sound);
    purges.stored(&second).await.unwrap();
    assert!(purges.is_stored(id) && purges.is_stored(second.record.id));
    drop(purges);
    let purges = open(dir.path(), &PurgeConfig::default());
    assert_eq!(purges.recent(10).iter().map(|record| record.id).collect::<Vec<_>>(), [second.record.id, id]);
    assert_eq!((purges.generation(), verdict(&purges, before)), (second.record.id, Verdict::Gone));
}

/// A full disk for a moment: what it refused is in force, is said so, and gets there by itself.
#[tokio::test]
async fn what_a_full_device_refuses_stays_in_force_and_is_written_later() {
    let dir = tempfile::tempdir().unwrap();
    let device = Device::default();
    let purges = on(&device, dir.path());
    let before = purges.generation();
    device.set(Mood::Full);
    for name in ["a", "b", "c"] {
        let purge = purge_of(PurgeKey::campaign(name), PurgeKind::Hard, PurgeReach::Renditions);
        assert!(matches!(purges.purge(purge, &[]).await, Err(StateError::Write { .. })), "{name}");
    }
    assert_eq!(verdict(&purges, before), Verdict::Gone);
    let refused: Vec<u64> = purges.recent(3).iter().map(|record| record.id).collect();
    assert!(refused.iter().all(|id| !purges.is_stored(*id)));
    assert_eq!(purges.metrics().unstored.get(), 3);
    device.set(Mood::Sound);
    // Without another purge …
    until(|| refused.iter().all(|id| purges.is_stored(*id))).await;
    until(|| purges.metrics().unstored.get() == 0).await;
    // … and with one, which has nothing to wait for.
    let id = purge(&purges, PurgeKey::campaign("d"), PurgeKind::Hard).await;
    drop(purges);
    let purges = open(dir.path(), &PurgeConfig::default());
    assert_eq!((purges.generation(), purges.recent(10).len(), purges.marks()), (id, 4, 4));
    assert_eq!(verdict(&purges, before), Verdict::Gone);
}

/// A cache that confirms faster than the device syncs, and a device that refuses what became of a purge: the purge is on the
/// device all the same, and is said to be.
#[tokio::test]
async fn what_became_of_a_purge_waits_for_the_device_and_the_purge_is_stored_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let device = Device::default();
    let purges = on(&device, dir.path());
    let confirm = |id| purges.note(id, "cdn", |delivery| delivery.state = DeliveryState::Confirmed);
    let of_a = || purge_of(PurgeKey::campaign("a"), PurgeKind::Hard, PurgeReach::Renditions);
    let names = ["cdn".to_owned()];
    let first = purges.purge(of_a(), &names).await.unwrap().id;
    device.set(Mood::Slow);
    confirm(first);
    assert!(purges.record(first).unwrap().is_settled(), "known at once");
    until(|| device.waiting() > 0).await;
    assert!(purges.is_stored(first), "while what became of it is on its way");
    let second = purges.enforce(of_a(), || names.to_vec());
    confirm(second.record.id);
    assert!(!purges.is_stored(second.record.id));
    device.set(Mood::Sound);
    purges.stored(&second).await.unwrap();
    assert!(purges.is_stored(second.record.id));
    let third = purges.purge(of_a(), &names).await.unwrap().id;
    device.set(Mood::Full);
    confirm(third);
    assert!(purges.flush().await.is_err());
    assert!(purges.is_stored(third));
    assert_eq!(purges.metrics().unstored.get(), 0, "no purge is refused");
    assert!(purges.purge(of_a(), &names).await.is_err());
    assert_eq!(purges.metrics().unstored.get(), 1);
    device.set(Mood::Sound);
    purges.flush().await.unwrap();
    assert_eq!(purges.metrics().unstored.get(), 0);
    drop(purges);
    // The task that tried again may hold the database for a moment yet.
    let metrics = PurgeMetrics::new(&Registry::new()).unwrap();
    let path = dir.path().join("purges.redb");
    let mut read = None;
    while read.is_none() {
        read = Purges::open(&PurgeConfig::default(), &path, metrics.clone()).ok();
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let records = read.unwrap().recent(10);
    let confirmed = records.iter().filter(|record| record.is_settled()).map(|record| record.id);
    assert_eq!(confirmed.collect::<Vec<_>>(), [third, second.record.id, first]);
}

/// What a process put in force and could not write down is older than any purge of the next one.
#[tokio::test]
async fn a_purge_after_a_restart_is_above_those_that_were_never_written() {
    let dir = tempfile::tempdir().unwrap();
    let device = Device::default();
    let purges = on(&device, dir.path());
    device.set(Mood::Full);
    let lost = purges.enforce(purge_of(PurgeKey::Everything, PurgeKind::Hard, PurgeReach::Renditions), Vec::new);
    assert!(purges.stored(&lost).await.is_err());
    let made = purges.generation();
    // As a crash would leave it.
    let other = tempfile::tempdir().unwrap();
    std::fs::copy(dir.path().join("purges.redb"), other.path().join("purges.redb")).unwrap();
    tokio::time::sleep(Duration::from_millis(2)).await;
    let purges = open(other.path(), &PurgeConfig::default());
    assert!(purges.generation() < made, "it was never written");
    let id = purge(&purges, PurgeKey::campaign("a"), PurgeKind::Hard).await;
    assert!(id > made);
    assert_eq!(verdict(&purges, made), Verdict::Gone);
}
