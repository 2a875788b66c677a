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
    let bytes = (size_of::<(Name, StoredFile)>() + 1) * 16 / 7;
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
fn before_the_index_is_complete_only_a_sixteenth_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let folder = folder(dir.path(), 1600 * BLOCK_BYTES, 10_000);
    (0..100).for_each(|n| write(&folder, n, 10));
    assert!(!folder.is_ahead_of_its_index());
    write(&folder, 100, 10);
    assert!(folder.is_ahead_of_its_index());
    folder.scan(|| true);
    assert!(!folder.is_ahead_of_its_index());
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

fn entries(default: u32) -> u32 {
    let default = if std::env::var_os("BILDKANTE_SOAK").is_some() { 1_000_000 } else { default };
    std::env::var("BILDKANTE_ENTRIES").ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Bytes this process holds in memory.
fn resident_bytes() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// Every inode below `root`, folders and the root itself included.
fn inodes(root: &Path) -> u64 {
    let entries = fs::read_dir(root).unwrap().flatten();
    1 + entries.map(|entry| if entry.path().is_dir() { inodes(&entry.path()) } else { 1 }).sum::<u64>()
}

/// A million distinct keys in the long form (`make soak`): what a client can make up never grows the
/// disk, its inodes or the index past their caps.
#[test]
fn any_number_of_distinct_keys_stays_under_every_cap() {
    let dir = tempfile::tempdir().unwrap();
    let files_max = 500;
    let folder = folder(dir.path(), 400 * BLOCK_BYTES, files_max);
    let keys = entries(5_000);
    for n in 0..keys {
        write(&folder, n, (n as usize * 37) % 9_000);
        if n.is_multiple_of(50) {
            folder.quarantine(&name(n), &"now and then one is corrupt");
        }
        if n.is_multiple_of(keys / 20) {
            let capacity: usize = folder.shards.iter().map(|shard| shard.lock().capacity()).sum();
            assert!(capacity as u64 <= 64 * files_max, "{capacity} places in the index");
            let most = files_max + SHARDS as u64 + QUARANTINE_FILES_MAX as u64 + 2;
            assert!(inodes(dir.path()) <= most, "{} inodes", inodes(dir.path()));
            assert!(files_on_disk(dir.path()).1 <= 400 * BLOCK_BYTES);
        }
    }
}

/// A measurement, not a check: `make bench-start`.
#[test]
#[ignore = "writes BILDKANTE_ENTRIES (100,000) files"]
fn start_over_many_entries() {
    let entries = entries(100_000);
    let dir = tempfile::tempdir().unwrap();
    let before = folder(dir.path(), u64::MAX, u64::MAX);
    let started = std::time::Instant::now();
    (0..entries).for_each(|n| write(&before, n, 512));
    eprintln!("{entries} writes: {:?}", started.elapsed());
    drop(before);
    let resident = resident_bytes();
    let started = std::time::Instant::now();
    let again = folder(dir.path(), u64::MAX, u64::MAX);
    eprintln!("open: {:?}", started.elapsed());
    again.read(&name(7)).unwrap().unwrap();
    eprintln!("first byte: {:?}", started.elapsed());
    // Reads go on while the index is rebuilt beside them.
    let (indexed, longest) = std::thread::scope(|scope| {
        let scan = scope.spawn(|| {
            again.scan(|| true);
            started.elapsed()
        });
        let mut longest = Duration::ZERO;
        let mut n = 0;
        while !scan.is_finished() {
            n = (n + 7_919) % entries;
            let read = std::time::Instant::now();
            again.read(&name(n)).unwrap().unwrap();
            longest = longest.max(read.elapsed());
        }
        (scan.join().unwrap(), longest)
    });
    let grown = resident_bytes().saturating_sub(resident) / u64::from(entries);
    // A table of n buckets holds 7/8 n entries and takes one control byte each.
    let buckets: usize = again.shards.iter().map(|shard| shard.lock().capacity() / 7 * 8).sum();
    let bytes = buckets * (size_of::<(Name, StoredFile)>() + 1) / entries as usize;
    eprintln!("index complete: {indexed:?}; {bytes} bytes an entry by its tables, {grown} by the process's memory");
    eprintln!("longest read meanwhile: {longest:?}");
    assert!(bytes <= 64);
    assert_eq!(again.files(), u64::from(entries));
}

/// A measurement, not a check: how long a read takes while another thread writes and evicts.
#[test]
#[ignore = "writes BILDKANTE_ENTRIES (100,000) files"]
fn reads_beside_eviction() {
    let entries = entries(100_000);
    let dir = tempfile::tempdir().unwrap();
    let folder = folder(dir.path(), u64::MAX, u64::from(entries));
    (0..entries).for_each(|n| write(&folder, n, 512));
    let reads = |while_true: &dyn Fn() -> bool| {
        let mut took = Vec::new();
        let mut n = 0;
        while while_true() {
            n = (n + 7_919) % entries;
            let read = std::time::Instant::now();
            let _ = folder.read(&name(n)).unwrap();
            took.push(read.elapsed());
        }
        took.sort_unstable();
        let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize];
        format!(
            "{} reads: p50 {:?}, p99 {:?}, p99.9 {:?}, longest {:?}",
            took.len(),
            at(0.5),
            at(0.99),
            at(0.999),
            at(1.0)
        )
    };
    let until = std::time::Instant::now() + Duration::from_secs(3);
    eprintln!("alone: {}", reads(&|| std::time::Instant::now() < until));
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| (entries..entries + entries / 4).for_each(|n| write(&folder, n, 512)));
        eprintln!("beside writes that evict: {}", reads(&|| !writer.is_finished()));
    });
    eprintln!("evicted: {}", folder.metrics.tier.evictions());
}
