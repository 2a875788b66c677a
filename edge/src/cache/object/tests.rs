//! Two edges and one store: a folder, and an S3 server in this process that checks signatures.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use bildkante_shared::phash::PerceptualHash;
use bildkante_shared::pixels::Pixels;
use bildkante_shared::testing::{ReservedPort, eventually};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use super::super::metrics::CacheMetrics;
use super::super::rendition::testing::rendition;
use super::super::{CacheConfig, Caches, Lqips, Tier};
use super::*;

const KEY: RenditionKey = RenditionKey::from_raw([0xab; 16]);
const ANY: Judge<'static> = &|_| true;

fn metrics() -> Arc<StoreMetrics> {
    CacheMetrics::new(&prometheus::Registry::new()).unwrap().object
}

fn folder_tier(folder: &std::path::Path) -> (ObjectTier, Arc<StoreMetrics>) {
    let metrics = metrics();
    let config = ObjectConfig { read_timeout_ms: 20_000, ..ObjectConfig::at(format!("file://{}", folder.display())) };
    (ObjectTier::open(&config, Arc::clone(&metrics)).unwrap(), metrics)
}

fn recipe(n: u8) -> RecipeId {
    RecipeId::from_raw([n; 16])
}

fn binding(n: u8) -> Binding {
    Binding {
        master: MasterId::from_raw([n; 16]),
        width_px: 192,
        height_px: 128,
        phash: PerceptualHash::from_bytes([n; 32]),
        duplicate: None,
        drawn_unix_s: None,
        determinism: None,
        device_ms: None,
        node: format!("node-{n}"),
        generation: 0,
        parts: None,
        lqips: Lqips::default(),
        created_unix_ms: 1_700_000_000_000,
    }
}

fn master(bytes: &'static [u8]) -> VerifiedMaster {
    let decode = |bytes: &[u8]| Pixels::new(u32::try_from(bytes.len() / 3).unwrap(), 1, bytes.to_vec());
    let id = decode(bytes).unwrap().master_id();
    MasterFile { id, png: Bytes::from_static(bytes) }.verify(decode).unwrap()
}

fn outcome<T>(lookup: &Lookup<T>) -> LookupOutcome {
    match lookup {
        Lookup::Hit(_) => LookupOutcome::Hit,
        Lookup::Miss(outcome) => *outcome,
    }
}

/// The only file of a kind in a store that is a folder.
fn only_file(folder: &std::path::Path, kind: &str) -> PathBuf {
    let mut folder = folder.join(kind);
    while folder.is_dir() {
        let entries: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(entries.len(), 1, "{entries:?}");
        folder = entries.into_iter().next().unwrap();
    }
    folder
}

#[tokio::test]
async fn final_renditions_come_back_and_quick_ones_are_not_sent() {
    let dir = tempfile::tempdir().unwrap();
    let (tier, metrics) = folder_tier(dir.path());
    assert_eq!(outcome(&tier.get(KEY).await), LookupOutcome::Absent);
    assert_eq!(tier.put(KEY, Arc::new(rendition(b"quick", Rung::Quick))).await, PutOutcome::NotKept);
    let wrote = Arc::new(rendition(b"a body", Rung::Final));
    assert_eq!(tier.put(KEY, Arc::clone(&wrote)).await, PutOutcome::Stored);
    assert_eq!(tier.put(KEY, Arc::clone(&wrote)).await, PutOutcome::KeptBetter);
    let read = tier.get(KEY).await.hit().unwrap();
    assert_eq!((&read.body, read.etag()), (&wrote.body, wrote.etag()));
    assert_eq!(metrics.errors(), 0);
}

#[tokio::test]
async fn after_a_purge_the_younger_bytes_take_the_older_ones_place() {
    let dir = tempfile::tempdir().unwrap();
    let (tier, _) = folder_tier(dir.path());
    let at = |body: &[u8], generation, later_ms| {
        let mut rendition = rendition(body, Rung::Final);
        rendition.generation = generation;
        rendition.created_unix_ms += later_ms;
        Arc::new(rendition)
    };
    tier.put(KEY, at(b"old", 0, 0)).await;
    assert_eq!(tier.put(KEY, at(b"nothing purged", 0, 60_000)).await, PutOutcome::KeptBetter);
    assert_eq!(tier.put(KEY, at(b"clocks differ", 1, 5_000)).await, PutOutcome::KeptBetter);
    assert_eq!(tier.put(KEY, at(b"new", 1, 60_000)).await, PutOutcome::Stored);
    assert_eq!(tier.put(KEY, at(b"older than that", 2, 30_000)).await, PutOutcome::KeptBetter);
    assert_eq!(&tier.get(KEY).await.hit().unwrap().body[..], b"new");
}

#[tokio::test]
async fn a_corrupt_object_is_ignored_not_asked_for_again_and_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let (tier, metrics) = folder_tier(dir.path());
    let wrote = Arc::new(rendition(b"a body", Rung::Final));
    tier.put(KEY, Arc::clone(&wrote)).await;
    let path = only_file(dir.path(), "renditions");
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(outcome(&tier.get(KEY).await), LookupOutcome::Corrupt);
    std::fs::remove_file(&path).unwrap();
    assert_eq!(outcome(&tier.get(KEY).await), LookupOutcome::Corrupt, "remembered, not read");
    assert_eq!((metrics.quarantined(), metrics.errors()), (1, 0));
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(tier.put(KEY, Arc::clone(&wrote)).await, PutOutcome::Stored);
    assert_eq!(tier.get(KEY).await.hit().unwrap().body, wrote.body);
}

#[tokio::test]
async fn an_object_longer_than_allowed_is_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let (tier, _) = folder_tier(dir.path());
    tier.put(KEY, Arc::new(rendition(b"a body", Rung::Final))).await;
    let path = only_file(dir.path(), "renditions");
    std::fs::File::options().write(true).open(path).unwrap().set_len(RENDITION_FILE_BYTES_MAX + 1).unwrap();
    assert_eq!(outcome(&tier.get(KEY).await), LookupOutcome::Corrupt);
}

#[tokio::test]
async fn masters_are_shared_and_one_with_other_pixels_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let (tier, metrics) = folder_tier(dir.path());
    let master = master(b"rgbrgbrgb");
    assert_eq!(outcome(&tier.master(master.id()).await), LookupOutcome::Absent);
    assert_eq!(tier.put_master(&master).await, PutOutcome::Stored);
    assert_eq!(tier.put_master(&master).await, PutOutcome::KeptBetter);
    assert_eq!(&tier.master(master.id()).await.hit().unwrap().png, master.png());
    tier.reject_master(master.id(), "other pixels");
    assert_eq!(outcome(&tier.master(master.id()).await), LookupOutcome::Corrupt);
    assert_eq!(tier.put_master(&master).await, PutOutcome::Stored);
    assert_eq!(&tier.master(master.id()).await.hit().unwrap().png, master.png());
    assert_eq!(metrics.quarantined(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_racing_writers_the_first_wins_and_all_agree() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..20 {
        let racers: Vec<_> = (1..=8)
            .map(|n| {
                // Each an edge of its own.
                let (tier, _) = folder_tier(dir.path());
                tokio::spawn(async move { tier.bind(recipe(round), &binding(n), ANY).await.unwrap().master })
            })
            .collect();
        let mut agreed = Vec::new();
        for racer in racers {
            agreed.push(racer.await.unwrap());
        }
        assert!(agreed.iter().all(|master| *master == agreed[0]), "round {round}: {agreed:?}");
        let (late, _) = folder_tier(dir.path());
        assert_eq!(late.binding(recipe(round), ANY).await.hit().unwrap().master, agreed[0]);
    }
}

#[tokio::test]
async fn where_a_master_is_lost_or_purged_or_its_binding_corrupt_the_next_binding_stands() {
    let dir = tempfile::tempdir().unwrap();
    let (one, _) = folder_tier(dir.path());
    let (other, _) = folder_tier(dir.path());
    let bound =
        async |tier: &ObjectTier, judge: Judge<'_>| tier.binding(recipe(1), judge).await.hit().map(|it| it.node);
    one.bind(recipe(1), &binding(1), ANY).await.unwrap();
    assert_eq!(other.bind(recipe(1), &binding(2), ANY).await.unwrap().node, "node-1");
    one.mark_lost(binding(1).master);
    assert_eq!(bound(&one, ANY).await, None);
    assert_eq!(one.bind(recipe(1), &binding(3), ANY).await.unwrap().node, "node-3");
    assert_eq!(bound(&one, ANY).await.as_deref(), Some("node-3"));
    // An edge that still has the first master keeps to it; one that purged it goes on to the next.
    assert_eq!(bound(&other, ANY).await.as_deref(), Some("node-1"));
    let purged: Judge<'_> = &|found| found.master != binding(1).master;
    assert_eq!(bound(&other, purged).await.as_deref(), Some("node-3"));
    let first = dir.path().join("bindings/1/01").join(format!("{}-0", encode_128(&[1; 16])));
    let mut bytes = std::fs::read(&first).unwrap();
    bytes[40] ^= 1;
    std::fs::write(&first, bytes).unwrap();
    let (third, metrics) = folder_tier(dir.path());
    assert_eq!(third.bind(recipe(1), &binding(4), ANY).await.unwrap().node, "node-3");
    assert_eq!(metrics.quarantined(), 1);
}

#[test]
fn every_bit_of_a_binding_counts() {
    let file = encode_binding(recipe(1), &binding(1)).unwrap();
    assert_eq!(decode_binding(&file, recipe(1)).unwrap(), binding(1));
    assert!(decode_binding(&file, recipe(2)).is_err());
    for bit in 0..file.len() * 8 {
        let mut damaged = file.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(decode_binding(&damaged, recipe(1)).is_err(), "bit {bit}");
    }
    for length in 0..file.len() {
        assert!(decode_binding(&file[..length], recipe(1)).is_err(), "{length} bytes");
    }
}

#[tokio::test]
async fn what_one_edge_made_another_finds_and_keeps() {
    let shared = tempfile::tempdir().unwrap();
    let open = |dir: &std::path::Path| {
        let config = CacheConfig {
            disk_dir: dir.to_owned(),
            object: Some(ObjectConfig::at(format!("file://{}", shared.path().display()))),
            ..CacheConfig::default()
        };
        Caches::open(&config, CacheMetrics::new(&prometheus::Registry::new()).unwrap()).unwrap()
    };
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (one, other) = (open(one.path()), open(other.path()));
    let mut made = rendition(b"a body", Rung::Final);
    made.generation = 7;
    one.insert(KEY, Arc::new(made)).await;
    let found = other.find_if(KEY, |_| 3, |rendition| rendition.generation == 3).await;
    let (tier, rendition) = found.unwrap();
    assert_eq!((tier, rendition.generation), (Tier::Object, 3), "dated by the edge that found it");
    assert_eq!(other.find(KEY).await.map(|(tier, _)| tier), Some(Tier::Memory));
    // Moved to the disk behind: it is there before long, and the test has no other end than that.
    while other.disk.get(KEY).await.hit().is_none() {
        tokio::task::yield_now().await;
    }
    // A purged one is handed over to be judged, and moves nowhere.
    let purged = RenditionKey::from_raw([1; 16]);
    one.insert(purged, Arc::new(super::super::rendition::testing::rendition(b"purged", Rung::Final))).await;
    assert!(other.find_if(purged, |_| 0, |_| false).await.is_some());
    assert!(!other.memory.contains(purged));

    let agreed = one.bind(recipe(9), binding(1), Some(&master(b"rgb")), ANY).await;
    assert_eq!(other.shared_binding(recipe(9), ANY).await.unwrap().master, agreed.master);
    assert_eq!(other.bind(recipe(9), binding(2), Some(&master(b"bgr")), ANY).await.master, agreed.master);
    assert_eq!(other.bindings.get(recipe(9)).unwrap().master, agreed.master, "and remembered here");
}

// ---- S3 ----

/// An S3 server over a folder, in this process.
async fn s3_server(folder: &std::path::Path) -> SocketAddr {
    std::fs::create_dir_all(folder.join("pictures")).unwrap();
    let mut builder = s3s::service::S3ServiceBuilder::new(s3s_fs::FileSystem::new(folder).unwrap());
    builder.set_auth(s3s::auth::SimpleAuth::from_single("test-key", "test-secret"));
    let service = builder.build();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let server = hyper::server::conn::http1::Builder::new();
        while let Ok((socket, _)) = listener.accept().await {
            let connection = server.serve_connection(TokioIo::new(socket), service.clone());
            tokio::spawn(async move { connection.await.map_err(drop) });
        }
    });
    address
}

fn s3_config(address: SocketAddr) -> ObjectConfig {
    ObjectConfig {
        endpoint: Some(format!("http://{address}")),
        region: Some("eu-central-1".into()),
        read_timeout_ms: 20_000,
        ..ObjectConfig::at("s3://pictures/some/prefix")
    }
}

fn s3_tier(config: &ObjectConfig, secret: &str) -> (ObjectTier, Arc<StoreMetrics>) {
    let metrics = metrics();
    let environment = AmazonS3Builder::new().with_access_key_id("test-key").with_secret_access_key(secret);
    (ObjectTier::open_as(config, environment, Arc::clone(&metrics)).unwrap(), metrics)
}

#[tokio::test]
async fn an_s3_bucket_keeps_renditions_masters_and_bindings() {
    let dir = tempfile::tempdir().unwrap();
    let address = s3_server(dir.path()).await;
    let (tier, metrics) = s3_tier(&s3_config(address), "test-secret");
    assert_eq!(outcome(&tier.get(KEY).await), LookupOutcome::Absent);
    let wrote = Arc::new(rendition(&[7; 300_000], Rung::Final));
    assert_eq!(tier.put(KEY, Arc::clone(&wrote)).await, PutOutcome::Stored);
    assert_eq!(tier.put(KEY, Arc::clone(&wrote)).await, PutOutcome::KeptBetter);
    assert_eq!(tier.get(KEY).await.hit().unwrap().body, wrote.body);
    let master = master(b"rgbrgbrgb");
    assert_eq!(tier.put_master(&master).await, PutOutcome::Stored);
    assert_eq!(&tier.master(master.id()).await.hit().unwrap().png, master.png());
    assert_eq!(tier.bind(recipe(1), &binding(1), ANY).await.unwrap().node, "node-1");
    assert_eq!(tier.bind(recipe(1), &binding(2), ANY).await.unwrap().node, "node-1");
    assert_eq!(metrics.errors(), 0);
    assert!(dir.path().join("pictures/some/prefix/renditions").is_dir(), "the prefix is honoured");
    let purged = {
        let mut younger = rendition(b"younger", Rung::Final);
        (younger.generation, younger.created_unix_ms) = (1, wrote.created_unix_ms + 60_000);
        Arc::new(younger)
    };
    assert_eq!(tier.put(KEY, purged).await, PutOutcome::Stored);
    assert_eq!(&tier.get(KEY).await.hit().unwrap().body[..], b"younger");
}

#[tokio::test]
async fn wrong_credentials_are_failures_and_open_the_breaker() {
    let dir = tempfile::tempdir().unwrap();
    let address = s3_server(dir.path()).await;
    let (tier, metrics) = s3_tier(&ObjectConfig { errors_max: 2, ..s3_config(address) }, "not-the-secret");
    let outcomes = [tier.get(KEY).await, tier.get(KEY).await, tier.get(KEY).await].map(|lookup| outcome(&lookup));
    assert_eq!(outcomes, [LookupOutcome::Failed, LookupOutcome::Failed, LookupOutcome::Offline]);
    assert!(metrics.errors() >= 2);
}

#[tokio::test]
async fn a_store_that_is_away_costs_a_few_refusals_and_then_nothing() {
    let nobody = ReservedPort::new().unwrap();
    let config = ObjectConfig { errors_max: 3, offline_ms: 600_000, ..s3_config(nobody.address()) };
    let (tier, metrics) = s3_tier(&config, "test-secret");
    for _ in 0..3 {
        assert_eq!(outcome(&tier.get(KEY).await), LookupOutcome::Failed);
        assert_eq!(tier.put(KEY, Arc::new(rendition(b"x", Rung::Final))).await, PutOutcome::Failed);
    }
    assert_eq!(outcome(&tier.get(KEY).await), LookupOutcome::Offline);
    assert_eq!(tier.put(KEY, Arc::new(rendition(b"x", Rung::Final))).await, PutOutcome::Dropped);
    assert!(matches!(tier.bind(recipe(1), &binding(1), ANY).await, Err(GateError::Offline)));
    assert_eq!(metrics.errors(), 6);
}

#[tokio::test]
async fn a_store_that_never_answers_is_waited_for_once_per_timeout_and_its_connections_are_dropped() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let open = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&open);
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            let counted = Arc::clone(&counted);
            tokio::spawn(async move {
                let _ = tokio::io::copy(&mut socket, &mut tokio::io::sink()).await;
                counted.fetch_sub(1, Ordering::SeqCst);
            });
        }
    });
    let config =
        ObjectConfig { read_timeout_ms: 100, errors_max: 2, offline_ms: 600_000, concurrency: 2, ..s3_config(address) };
    let (tier, metrics) = s3_tier(&config, "test-secret");
    for _ in 0..2 {
        assert_eq!(outcome(&tier.get(KEY).await), LookupOutcome::Failed);
    }
    for _ in 0..1000 {
        assert_eq!(outcome(&tier.get(KEY).await), LookupOutcome::Offline);
    }
    assert_eq!(metrics.tier.lookups(LookupOutcome::Offline), 1000);
    eventually("its connections are dropped", async || open.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test]
async fn what_waits_to_be_written_is_bounded_in_bytes() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let config = ObjectConfig { pending_bytes_max: 100_000, ..s3_config(address) };
    let (tier, metrics) = s3_tier(&config, "test-secret");
    let tier = Arc::new(tier);
    let put = |n: u8| {
        let tier = Arc::clone(&tier);
        let key = RenditionKey::from_raw([n; 16]);
        tokio::spawn(async move { tier.put(key, Arc::new(rendition(&[n; 40_000], Rung::Final))).await })
    };
    // Two fit and hang at a server that accepts no connection; the third is given up at once.
    let hanging = [put(1), put(2)];
    eventually("two wait", async || tier.pending.available_permits() <= 20).await;
    assert_eq!(put(3).await.unwrap(), PutOutcome::Dropped);
    assert_eq!(metrics.errors(), 0);
    hanging.iter().for_each(tokio::task::JoinHandle::abort);
}
