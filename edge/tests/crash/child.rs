//! The process that is killed, and what it writes: all of it follows from a number.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use bildkante_edge::cache::{
    Binding, CacheConfig, CacheMetrics, Caches, Lineage, Lqips, MasterFile, Rendition, RenditionKey, VariantName,
    VerifiedMaster,
};
use bildkante_edge::governance::marks::PurgeKey;
use bildkante_edge::governance::purge::Purge;
use bildkante_edge::governance::{PurgeConfig, PurgeKind, PurgeMetrics, PurgeReach, PurgeRecord, PurgeScope, Purges};
use bildkante_edge::render::{Quality, RenditionSpec, Rung, Shape};
use bildkante_edge::warm::job::{JobRecord, JobState, Tally};
use bildkante_edge::warm::{StoredJobs, WarmOrder};
use bildkante_edge::words::Format;
use bildkante_shared::ids::RecipeId;
use bildkante_shared::phash::PerceptualHash;
use bildkante_shared::pixels::{Pixels, PixelsError};
use bytes::Bytes;

const FOLDER: &str = "BILDKANTE_CRASH_FOLDER";
const ROLE: &str = "BILDKANTE_CRASH_ROLE";

/// What a child does.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Role {
    /// Writes `count` of everything.
    Write { from: u32, count: u32 },
    /// Fills the caches, then goes on while its parent makes system calls fail.
    Endure,
}

/// This binary again, as a child.
pub(crate) fn command(dir: &Path, role: Role) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this binary"));
    command.args(["--exact", "child::the_child", "--nocapture", "--test-threads=1"]).env(FOLDER, dir);
    command.env(
        ROLE,
        match role {
            Role::Write { from, count } => format!("write {from} {count}"),
            Role::Endure => "endure".to_owned(),
        },
    );
    command
}

#[test]
fn the_child() {
    // A test of its own only in a child: the parent's runner passes through here with nothing to do.
    let Some(dir) = std::env::var_os(FOLDER).map(PathBuf::from) else { return };
    let role = std::env::var(ROLE).expect("a role");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    match role.split(' ').collect::<Vec<_>>()[..] {
        ["write", from, count] => {
            runtime.block_on(write(&dir, from.parse().expect("a number"), count.parse().expect("a number")));
        }
        _ => runtime.block_on(super::device::endure(&dir)),
    }
}

/// Says of everything that it is written once it is: each kind by its own word.
async fn write(dir: &Path, from: u32, count: u32) {
    // Few renditions, so that writing evicts.
    let (caches, _) = opened_for(dir, 400);
    let (purges, jobs) = (purges(dir), Arc::new(StoredJobs::open(dir).expect("the jobs open")));
    caches.previous.loaded().await;
    for n in from..from.saturating_add(count) {
        let (behind, disk) = (rendition(n), Arc::clone(&caches.disk));
        let behind = tokio::spawn(async move { disk.put(key(n), behind).await });
        // Beside the others, so that a kill finds several databases within a commit.
        let beside = tokio::spawn(write_purge_and_job(purges.clone(), Arc::clone(&jobs), n));
        if caches.previous.note(variant(n), recipe(n)).await.is_ok() {
            say(&format!("ack previous {n}"));
        }
        if n % 3 == 0 && caches.masters.put(&master(n)).await.is_ok() {
            say(&format!("ack master {n}"));
        }
        if caches.bindings.put(recipe(n), binding(n)).await.is_ok() {
            say(&format!("ack binding {n}"));
        }
        behind.await.expect("no panic");
        beside.await.expect("no panic");
    }
}

async fn write_purge_and_job(purges: Purges, jobs: Arc<StoredJobs>, n: u32) {
    let enforced = purges.enforce(purge(n), Vec::new);
    if purges.stored(&enforced).await.is_ok() {
        say(&format!("ack purge {n}"));
    }
    let written = tokio::task::spawn_blocking(move || jobs.put(&job(n)));
    if written.await.expect("no panic").is_ok() {
        say(&format!("ack job {n}"));
    }
}

/// A whole line at once, so that a parent never reads half of one.
pub(crate) fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(format!("{line}\n").as_bytes()).and_then(|()| out.flush());
}

/// The caches over `dir`, with room for everything.
pub(crate) fn opened(dir: &Path) -> (Caches, CacheMetrics) {
    opened_for(dir, 1_000_000)
}

fn opened_for(dir: &Path, disk_files_max: u64) -> (Caches, CacheMetrics) {
    let config = CacheConfig {
        disk_dir: dir.to_owned(),
        disk_files_max,
        disk_offline_ms: 200,
        disk_errors_max: 3,
        ..CacheConfig::default()
    };
    let metrics = CacheMetrics::new(&prometheus::Registry::new()).expect("metrics");
    (Caches::open(&config, metrics.clone()).expect("the caches open"), metrics)
}

/// The purges over `dir`.
pub(crate) fn purges(dir: &Path) -> Purges {
    let metrics = PurgeMetrics::new(&prometheus::Registry::new()).expect("metrics");
    Purges::open(&PurgeConfig::default(), &dir.join("purges.redb"), metrics).expect("the ledger opens")
}

fn hash(n: u32) -> [u8; 16] {
    blake3::hash(&n.to_le_bytes()).as_bytes()[..16].try_into().expect("16 bytes")
}

pub(crate) fn key(n: u32) -> RenditionKey {
    RenditionKey::from_raw(hash(n))
}

pub(crate) fn recipe(n: u32) -> RecipeId {
    RecipeId::from_raw(hash(n))
}

/// Begins with its number.
pub(crate) fn body(n: u32) -> Vec<u8> {
    let mut body = vec![0; 4 + n as usize * 7_919 % 30_000];
    blake3::Hasher::new().update(&n.to_le_bytes()).finalize_xof().fill(&mut body);
    body[..4].copy_from_slice(&n.to_le_bytes());
    body
}

pub(crate) fn rendition(n: u32) -> Arc<Rendition> {
    let spec = RenditionSpec {
        width_px: 64,
        height_px: 36,
        shape: Shape::DEFAULT,
        format: Format::Webp,
        quality: Quality::MEDIUM,
    };
    let lineage = Lineage::now(key(n), master(n).id(), recipe(n));
    Arc::new(Rendition::new(body(n).into(), spec, Rung::Final, lineage))
}

/// Its "PNG" is raw RGB: what matters here is not the codec.
pub(crate) fn master(n: u32) -> VerifiedMaster {
    let decode = |bytes: &[u8]| Pixels::new(u32::try_from(bytes.len() / 3).unwrap_or(0), 1, bytes.to_vec());
    let mut rgb = vec![0; 3 * 2_000];
    blake3::Hasher::new().update(&n.to_le_bytes()).finalize_xof().fill(&mut rgb);
    let png = Bytes::from(rgb);
    let id = decode(&png).expect("pixels").master_id();
    MasterFile { id, png }.verify::<PixelsError>(decode).expect("its own pixels")
}

pub(crate) fn binding(n: u32) -> Binding {
    Binding {
        master: master(n).id(),
        width_px: 2_000,
        height_px: 1,
        phash: PerceptualHash::from_bytes([0; 32]),
        duplicate: None,
        drawn_unix_s: None,
        determinism: None,
        device_ms: None,
        node: "node".into(),
        generation: 0,
        parts: None,
        lqips: Lqips::default(),
        created_unix_ms: 1_700_000_000_000,
    }
}

pub(crate) fn variant(n: u32) -> VariantName {
    VariantName::new("studio/hero", &n.to_string())
}

/// What a purge of this number marks.
pub(crate) fn tag(n: u32) -> String {
    format!("campaign:c{n}")
}

fn purge(n: u32) -> Purge {
    let record = PurgeRecord {
        id: 0,
        at_unix_ms: 1_700_000_000_000,
        by: n.to_string(),
        why: String::new(),
        scope: PurgeScope::Tag(tag(n)),
        kind: PurgeKind::Hard,
        reach: PurgeReach::Masters,
        tags: vec![tag(n)],
        url: None,
        key: None,
        downstream: BTreeMap::new(),
    };
    Purge { keys: vec![tag(n).parse::<PurgeKey>().expect("a tag")], campaign: None, record }
}

pub(crate) fn job(n: u32) -> JobRecord {
    JobRecord {
        id: u64::from(n),
        by: "tests".into(),
        order: WarmOrder {
            campaign: "studio".into(),
            slot: None,
            axes: Vec::new(),
            formats: Vec::new(),
            concurrency: 1,
            why: "a".repeat(n as usize * 31 % 2_000),
        },
        state: JobState::Running,
        started_unix_ms: 1_700_000_000_000,
        elapsed_ms: 0,
        total: u64::from(n),
        tally: Tally::default(),
        failures: Vec::new(),
        pictures_done: 0,
        digest: None,
        keys: Vec::new(),
    }
}
