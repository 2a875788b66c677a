//! The folder on a real file system: bounds, recency, rebuilding, quarantine.

use super::super::metrics::CacheMetrics;
use super::*;

fn folder(root: &Path, bytes_max: u64, files_max: u64) -> Folder {
    let metrics = CacheMetrics::new(&prometheus::Registry::new()).unwrap().disk;
    Folder::open(root, FolderLimits { bytes_max, files_max, file_bytes_max: 1 << 20 }, metrics).unwrap()
}

fn name(n: u32) -> Name {
    blake3::hash(&n.to_le_bytes()).as_bytes()[..16].try_into().unwrap()
}

fn write(folder: &Folder, n: u32, length: usize) {
    folder.write(&name(n), &[&vec![7; length]], Durability::Unsynced).unwrap();
}

fn files_on_disk(root: &Path) -> (u64, u64) {
    let mut found = (0, 0);
    for shard in fs::read_dir(root).unwrap().flatten().filter(|entry| entry.file_name() != "quarantine") {
        for file in fs::read_dir(shard.path()).unwrap().flatten() {
            found.0 += 1;
            found.1 += file.metadata().unwrap().len().div_ceil(BLOCK_BYTES) * BLOCK_BYTES;
        }
    }
    found
}

#[test]
fn an_index_entry_stays_within_its_budget() {
    // 24 bytes and one control byte, in a table that is at least 7/16 full after doubling.
    let bytes = (size_of::<(Name, Slot)>() + 1) * 16 / 7;
    assert!(bytes <= 64, "{bytes}");
}

#[test]
fn bytes_and_files_stay_under_their_caps_on_the_disk_itself() {
    let dir = tempfile::tempdir().unwrap();
    let folder = folder(dir.path(), 100 * BLOCK_BYTES, 60);
    for n in 0..500 {
        write(&folder, n, (n as usize * 37) % 20_000);
        let (files, bytes) = files_on_disk(dir.path());
        assert!(files <= 60 && bytes <= 100 * BLOCK_BYTES, "{files} files, {bytes} bytes");
        assert_eq!((files, bytes), (folder.files(), folder.bytes()));
    }
    assert!(folder.metrics.tier.evictions() > 400);
}

#[test]
fn the_least_recently_used_go_first() {
    let dir = tempfile::tempdir().unwrap();
    let folder = folder(dir.path(), u64::MAX, 100);
    for n in 0..100 {
        write(&folder, n, 10);
        // As if each was used one second after the one before, long ago.
        folder.record(&name(n), 10, 1000 + n);
    }
    folder.read(&name(0)).unwrap().unwrap();
    for n in 100..110 {
        write(&folder, n, 10);
    }
    let has = |n| folder.read(&name(n)).unwrap().is_some();
    assert!(has(0), "used a moment ago");
    assert!((1..=10).all(|n| !has(n)));
    assert!((11..110).all(has));
}

#[test]
fn recency_survives_a_restart_through_modification_times() {
    let dir = tempfile::tempdir().unwrap();
    let before = folder(dir.path(), u64::MAX, 1000);
    for n in 0..20 {
        write(&before, n, 10);
        let file = File::options().write(true).open(before.path(&name(n))).unwrap();
        file.set_modified(UNIX_EPOCH + Duration::from_secs(u64::from(1_000_000 + n))).unwrap();
    }
    drop(before);
    let again = folder(dir.path(), u64::MAX, 20);
    again.read(&name(3)).unwrap().unwrap();
    again.scan(|| true);
    assert_eq!(again.files(), 20);
    write(&again, 100, 10);
    assert!(again.read(&name(0)).unwrap().is_none());
    assert!(again.read(&name(3)).unwrap().is_some());
    let touched = fs::metadata(again.path(&name(3))).unwrap().modified().unwrap();
    assert!(touched.elapsed().unwrap() < Duration::from_secs(600), "the use was written back");
}

#[test]
fn a_start_over_a_lowered_cap_evicts_down_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let before = folder(dir.path(), u64::MAX, 1000);
    (0..300).for_each(|n| write(&before, n, 10));
    let again = folder(dir.path(), 50 * BLOCK_BYTES, 1000);
    again.scan(|| true);
    assert!(files_on_disk(dir.path()).0 <= 50);
    assert_eq!(files_on_disk(dir.path()), (again.files(), again.bytes()));
}

#[test]
fn abandoned_temporary_files_go_and_fresh_ones_stay() {
    let dir = tempfile::tempdir().unwrap();
    let before = folder(dir.path(), u64::MAX, 1000);
    write(&before, 1, 10);
    let shard = before.shard_path(&name(1));
    let (old, fresh) = (shard.join(format!("{TEMPORARY_PREFIX}1-1")), shard.join(format!("{TEMPORARY_PREFIX}2-2")));
    fs::write(&fresh, b"x").unwrap();
    fs::write(&old, b"x").unwrap();
    let file = File::options().write(true).open(&old).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(3600)).unwrap();
    folder(dir.path(), u64::MAX, 1000).scan(|| true);
    assert!(!old.exists() && fresh.exists());
}

#[test]
fn the_quarantine_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let folder = folder(dir.path(), u64::MAX, 1000);
    for n in 0..100 {
        write(&folder, n, 10);
        folder.quarantine(&name(n), &"test");
        assert!(folder.read(&name(n)).unwrap().is_none());
    }
    assert_eq!(fs::read_dir(&folder.quarantine).unwrap().count(), QUARANTINE_FILES_MAX);
    assert_eq!(folder.metrics.quarantined(), 100);
    assert_eq!((folder.files(), folder.bytes()), (0, 0));
}

#[test]
fn a_file_deleted_underneath_is_forgotten_when_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let folder = folder(dir.path(), u64::MAX, 1000);
    write(&folder, 1, 10);
    fs::remove_file(folder.path(&name(1))).unwrap();
    assert!(folder.read(&name(1)).unwrap().is_none());
    assert_eq!(folder.files(), 0);
}

/// A measurement, not a check: `cargo test -p bildkante-edge --release -- --ignored --nocapture start_over`.
#[test]
#[ignore = "writes BILDKANTE_ENTRIES (100,000) files"]
fn start_over_many_entries() {
    let entries: u32 = std::env::var("BILDKANTE_ENTRIES").ok().and_then(|text| text.parse().ok()).unwrap_or(100_000);
    let dir = tempfile::tempdir().unwrap();
    let before = folder(dir.path(), u64::MAX, u64::MAX);
    let started = std::time::Instant::now();
    (0..entries).for_each(|n| write(&before, n, 512));
    eprintln!("{entries} writes: {:?}", started.elapsed());
    drop(before);
    let started = std::time::Instant::now();
    let again = folder(dir.path(), u64::MAX, u64::MAX);
    eprintln!("open: {:?}", started.elapsed());
    again.read(&name(7)).unwrap().unwrap();
    eprintln!("first read: {:?}", started.elapsed());
    again.scan(|| true);
    // A table of n buckets holds 7/8 n entries and takes one control byte each.
    let buckets: usize = again.shards.iter().map(|shard| shard.lock().capacity() / 7 * 8).sum();
    let bytes = buckets * (size_of::<(Name, Slot)>() + 1) / entries as usize;
    eprintln!("index complete: {:?}, {bytes} bytes an entry", started.elapsed());
    assert!(bytes <= 64);
    assert_eq!(again.files(), u64::from(entries));
}
