//! What caches and state are after their process died, and what caches serve while their device fails.
//!
//! A child process (this same binary) writes renditions, masters and every table of state (bindings, previous recipes,
//! purges, jobs) and says on its standard output what was acknowledged. It is ended at each step of a write, at each
//! system call that changes a file, and at random moments; afterwards everything acknowledged as durable is there and everything that is there is right. With
//! `BILDKANTE_SOAK` set it is a thousand kills and a hundred thousand flipped bits (`make soak`).

mod child;
mod device;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bildkante_edge::cache::{Caches, LookupOutcome, RenditionKey, decode_entry};
use bildkante_edge::governance::{Subject, Verdict};
use bildkante_edge::warm::StoredJobs;
use bildkante_edge::warm::job::JobRecord;
use bildkante_shared::durable::{CRASH_POINTS, TEMPORARY_PREFIX};
use bytes::Bytes;
use child::{Role, body, key, master, opened, recipe};

/// How much of a test to run: what the variable says, else the long form where `BILDKANTE_SOAK` is set.
fn number(name: &str, short: usize, long: usize) -> usize {
    let default = if std::env::var_os("BILDKANTE_SOAK").is_some() { long } else { short };
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// What a child acknowledged before it died.
#[derive(Debug, Default)]
struct Acknowledged {
    masters: BTreeSet<u32>,
    bindings: BTreeSet<u32>,
    previous: BTreeSet<u32>,
    purges: BTreeSet<u32>,
    jobs: BTreeSet<u32>,
}

impl Acknowledged {
    fn hear(&mut self, line: &str) {
        // The test runner's own words may stand before the first.
        let Some((what, n)) = line.rsplit("ack ").next().and_then(|ack| ack.split_once(' ')) else { return };
        let Ok(n) = n.trim().parse() else { return };
        match what {
            "master" => self.masters.insert(n),
            "binding" => self.bindings.insert(n),
            "previous" => self.previous.insert(n),
            "purge" => self.purges.insert(n),
            "job" => self.jobs.insert(n),
            _ => return,
        };
    }
}

fn spawn(mut command: Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("a child of this binary")
}

fn listen(child: &mut Child) -> BufReader<std::process::ChildStdout> {
    BufReader::new(child.stdout.take().expect("its standard output"))
}

/// Lets it run until it dies of itself.
fn run_out(command: Command, acknowledged: &mut Acknowledged) {
    let mut child = spawn(command);
    for line in listen(&mut child).lines().map_while(Result::ok) {
        acknowledged.hear(&line);
    }
    child.wait().expect("its end");
}

/// Opens what it left behind. Every entry is as it was written, all that was acknowledged is there, and nothing is
/// corrupt: a crash leaves files whole or not at all.
async fn verify(dir: &Path, acknowledged: &Acknowledged, case: &str) {
    let (caches, metrics) = opened(dir);
    let mut entries = 0;
    for name in names(&dir.join("renditions")) {
        let Ok(key) = name.parse::<RenditionKey>() else {
            assert!(name.starts_with(TEMPORARY_PREFIX), "{case}: {name}");
            continue;
        };
        let Some(rendition) = caches.disk.get(key).await.hit() else { panic!("{case}: {name} is not readable") };
        let n = u32::from_le_bytes(rendition.body[..4].try_into().expect("its number"));
        assert_eq!(rendition.body, body(n), "{case}: {name}");
        entries += 1;
    }
    for n in &acknowledged.masters {
        let id = master(*n).id();
        assert!(caches.masters.get(id).await.hit().is_some(), "{case}: master {n} of {entries} entries is lost");
    }
    for n in &acknowledged.bindings {
        let found = caches.bindings.get(recipe(*n)).unwrap_or_else(|| panic!("{case}: binding {n} is lost"));
        assert_eq!(found.master, master(*n).id(), "{case}: binding {n}");
    }
    assert_eq!(metrics.disk.quarantined() + metrics.masters.quarantined(), 0, "{case}: something was corrupt");
    verify_state(dir, &caches, acknowledged, case).await;
}

/// Every row that was acknowledged, in each table beside the bindings.
async fn verify_state(dir: &Path, caches: &Caches, acknowledged: &Acknowledged, case: &str) {
    caches.previous.loaded().await;
    for n in &acknowledged.previous {
        assert_eq!(caches.previous.get(child::variant(*n)), Some(recipe(*n)), "{case}: previous recipe {n}");
    }
    let purges = child::purges(dir);
    for n in &acknowledged.purges {
        let (tag, rendition) = (child::tag(*n), child::rendition(*n));
        let subject =
            Subject { tags: [&tag, "slot:none/none", "recipe:none"], recipe: recipe(*n), spec: &rendition.spec };
        assert_eq!(purges.verdict(&subject, &rendition), Verdict::Gone, "{case}: purge {n} is lost");
        let binding = child::binding(*n);
        assert_eq!(purges.binding_verdict(&subject, &binding), Verdict::Gone, "{case}: purge {n} is lost");
    }
    let jobs = StoredJobs::open(dir).expect("the jobs open").all().expect("the jobs are read");
    let jobs: BTreeMap<u64, JobRecord> = jobs.into_iter().map(|job| (job.id, job)).collect();
    for n in &acknowledged.jobs {
        assert_eq!(jobs.get(&u64::from(*n)), Some(&child::job(*n)), "{case}: job {n} is lost");
    }
    for (id, job) in jobs {
        assert_eq!(job, child::job(u32::try_from(id).expect("its number")), "{case}: job {id}");
    }
}

fn names(folder: &Path) -> Vec<String> {
    let shards = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let files = shards
        .filter(|shard| shard.file_name() != "quarantine")
        .flat_map(|shard| std::fs::read_dir(shard.path()).into_iter().flatten().flatten().map(|file| file.file_name()));
    files.map(|name| name.to_string_lossy().into_owned()).collect()
}

#[tokio::test]
async fn a_crash_at_each_step_of_a_write_leaves_every_entry_whole_or_absent() {
    for step in CRASH_POINTS {
        for passage in [1, 5] {
            let dir = tempfile::tempdir().expect("a folder");
            let mut acknowledged = Acknowledged::default();
            let mut command = child::command(dir.path(), Role::Write { from: 0, count: 40 });
            command.env("BILDKANTE_CRASH_AT", format!("{step}:{passage}"));
            run_out(command, &mut acknowledged);
            assert!(acknowledged.bindings.len() < 40, "{step}:{passage} was never reached");
            verify(dir.path(), &acknowledged, &format!("{step}:{passage}")).await;
        }
    }
}

#[tokio::test]
async fn kills_at_random_moments_while_writing_lose_nothing_acknowledged() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut acknowledged = Acknowledged::default();
    let kills = number("BILDKANTE_KILLS", 8, 1_000);
    for kill in 0..kills {
        // Numbers overlap, so that present entries are overwritten too; the moments spread over the writes.
        let from = u32::try_from(kill).expect("few") * 7;
        let mut child = spawn(child::command(dir.path(), Role::Write { from, count: 100_000 }));
        let mut output = listen(&mut child);
        let acks = 1 + kill * 13 % 29;
        let mut line = String::new();
        for _ in 0..acks {
            line.clear();
            output.read_line(&mut line).expect("its acknowledgement");
            acknowledged.hear(&line);
        }
        let moment = Instant::now() + Duration::from_micros((kill as u64).wrapping_mul(2_654_435_761) % 9_000);
        while Instant::now() < moment {
            std::hint::spin_loop();
        }
        child.kill().expect("SIGKILL");
        // What it still said before it died was acknowledged as well.
        output.lines().map_while(Result::ok).for_each(|line| acknowledged.hear(&line));
        child.wait().expect("its end");
        verify(dir.path(), &acknowledged, &format!("kill {kill}")).await;
    }
    let left = names(&dir.path().join("renditions")).iter().filter(|name| name.starts_with(TEMPORARY_PREFIX)).count();
    assert!(left <= 1 + kills.min(64) * 8, "{left} temporary files were left behind");
    let Acknowledged { masters, bindings, previous, purges, jobs } = &acknowledged;
    for (what, acknowledged) in
        [("masters", masters), ("bindings", bindings), ("previous", previous), ("purges", purges), ("jobs", jobs)]
    {
        assert!(!acknowledged.is_empty(), "no {what} were acknowledged");
        eprintln!("{kills} kills: {} {what} acknowledged", acknowledged.len());
    }
}

#[tokio::test]
async fn flipped_bits_are_found_before_a_byte_leaves() {
    let flips = number("BILDKANTE_BIT_FLIPS", 4_000, 100_000);
    let dir = tempfile::tempdir().expect("a folder");
    let (caches, metrics) = opened(dir.path());
    let rendition = child::rendition(3);
    caches.disk.put(key(3), rendition).await;
    let path = dir.path().join("renditions").join(format!("{:02x}", key(3).as_bytes()[0])).join(key(3).to_string());
    let sound = std::fs::read(&path).expect("the entry");
    assert!(decode_entry(&Bytes::copy_from_slice(&sound), key(3)).is_ok());
    let (bits, mut through_the_disk) = (sound.len() * 8, 0);
    for flip in 0..flips {
        // A stride prime to the length visits every region, the header many times over.
        let bit = if flip % 4 == 0 { flip * 31 % (168 * 8) } else { flip * 7_919 % bits };
        let mut damaged = sound.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        if flip % 50 == 0 {
            std::fs::write(&path, &damaged).expect("damage");
            assert!(caches.disk.get(key(3)).await.hit().is_none(), "bit {bit} got through the disk tier");
            through_the_disk += 1;
        }
        assert!(decode_entry(&Bytes::from(damaged), key(3)).is_err(), "bit {bit} got through");
    }
    // A flip in the version's field makes it another version's entry, which is deleted without a word.
    assert!(metrics.disk.quarantined() > 0 && metrics.disk.tier.lookups(LookupOutcome::Hit) == 0);
    eprintln!("{flips} bits flipped, {through_the_disk} of them on disk");
}

#[tokio::test]
async fn entries_damaged_or_deleted_underneath_are_misses_while_others_are_served() {
    let dir = tempfile::tempdir().expect("a folder");
    let (caches, _) = opened(dir.path());
    for n in 0..60 {
        caches.disk.put(key(n), child::rendition(n)).await;
    }
    while !caches.disk.is_indexed() {
        tokio::task::yield_now().await;
    }
    for (n, name) in names(&dir.path().join("renditions")).into_iter().enumerate() {
        let key: RenditionKey = name.parse().expect("an entry");
        let path = dir.path().join("renditions").join(format!("{:02x}", key.as_bytes()[0])).join(&name);
        let mut bytes = std::fs::read(&path).expect("the entry");
        match n % 4 {
            0 => std::fs::remove_file(&path).expect("deleted"),
            1 => std::fs::write(&path, &bytes[..bytes.len() / 2]).expect("truncated"),
            2 => {
                let last = bytes.len() - 1;
                bytes[last] ^= 0x40;
                std::fs::write(&path, bytes).expect("damaged");
            }
            _ => {
                let rendition = caches.disk.get(key).await.hit().expect("untouched");
                assert_eq!(
                    rendition.body,
                    body(u32::from_le_bytes(rendition.body[..4].try_into().expect("its number")))
                );
                continue;
            }
        }
        assert!(caches.disk.get(key).await.hit().is_none(), "{name}");
        assert!(caches.disk.get(key).await.hit().is_none(), "{name} stays away");
    }
    assert_eq!(caches.disk.files(), 15);
}
