//! System calls that fail and processes that end within one, injected by strace.

use std::io::{BufRead, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use bildkante_edge::cache::{LookupOutcome, PutOutcome, Tier};

use super::child::{self, Role, binding, body, key, master, opened, recipe, rendition, say};
use super::{Acknowledged, listen, number, run_out, verify};

/// Whether strace works here; says which test is skipped when it does not, and fails it where judges are required.
fn can_trace(test: &str) -> bool {
    let probe = Command::new("strace").args(["-qq", "-o", "/dev/null", "true"]).stderr(Stdio::null()).status();
    let works = probe.is_ok_and(|status| status.success());
    let required = std::env::var_os("BILDKANTE_REQUIRE_JUDGES").is_some_and(|value| value == "1");
    assert!(works || !required, "{test}: strace does not work here, and judges are required");
    if !works {
        let _ = writeln!(std::io::stderr(), "skipped: {test} (strace does not work here)");
    }
    works
}

fn traced(injection: &str, child: &Command) -> Command {
    let mut command = Command::new("strace");
    let call = injection.split(':').next().unwrap_or(injection);
    command.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}")]);
    command.args(["-e", &format!("inject={injection}")]).arg(child.get_program()).args(child.get_args());
    command.envs(child.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command
}

/// System calls by which redb and the folders change files, from the first to the last.
#[tokio::test]
async fn a_kill_at_a_system_call_that_changes_a_file_loses_nothing_acknowledged() {
    if !can_trace("a_kill_at_a_system_call_that_changes_a_file_loses_nothing_acknowledged") {
        return;
    }
    // About as many calls as the child makes, a fifth of the writes and a third of the syncs while databases are created.
    // In the long form nearly every one, here a few of each.
    let most = number("BILDKANTE_CALLS", 3, 200);
    for (call, calls) in [("pwrite64", 628), ("fdatasync", 169), ("fsync", 20), ("rename", 16), ("ftruncate", 24)] {
        let steps = most.min(calls);
        for when in (0..steps).map(|n| 1 + n * calls / steps) {
            let dir = tempfile::tempdir().expect("a folder");
            let mut acknowledged = Acknowledged::default();
            let child = child::command(dir.path(), Role::Write { from: 0, count: 12 });
            run_out(traced(&format!("{call}:signal=KILL:when={when}"), &child), &mut acknowledged);
            verify(dir.path(), &acknowledged, &format!("{call} {when}")).await;
        }
    }
}

/// A look-up, and whether a rendition, a binding and a master were kept.
type Tried = (LookupOutcome, PutOutcome, bool, bool);

/// The child's side: says `ready`, and for every line it reads says how things are.
pub(crate) async fn endure(dir: &Path) {
    let (caches, metrics) = opened(dir);
    for n in 0..10 {
        caches.insert(key(n), rendition(n)).await;
        caches.masters.put(&master(n)).await.expect("a sound device");
        caches.bindings.put(recipe(n), binding(n)).await.expect("a sound device");
    }
    while !caches.bindings.is_loaded() {
        tokio::task::yield_now().await;
    }
    say("ready");
    for (round, _) in std::io::stdin().lock().lines().map_while(Result::ok).enumerate() {
        let mut outcomes = Vec::new();
        for n in 0..10 {
            // From memory in any case, and the bindings with it.
            let found = caches.find(key(n)).await;
            assert!(found.is_some_and(|(tier, found)| tier == Tier::Memory && found.body == body(n)));
            assert!(caches.bindings.get(recipe(n)).is_some());
            let disk = match caches.disk.get(key(n)).await {
                bildkante_edge::cache::Lookup::Hit(found) => {
                    assert_eq!(found.body, body(n));
                    LookupOutcome::Hit
                }
                bildkante_edge::cache::Lookup::Miss(outcome) => outcome,
            };
            let new = 1000 + u32::try_from(round).unwrap_or(0) * 100 + n;
            let put = caches.disk.put(key(new), rendition(new)).await;
            let bound = caches.bindings.put(recipe(new), binding(new)).await.is_ok();
            assert!(caches.bindings.get(recipe(new)).is_some(), "it holds until a restart at the least");
            let kept = caches.masters.put(&master(new)).await.is_ok();
            outcomes.push((disk, put, bound, kept));
        }
        let all = |is: &dyn Fn(&Tried) -> bool| outcomes.iter().all(is);
        let corrupt = metrics.disk.quarantined() + metrics.masters.quarantined();
        // A full device makes room by giving up old entries: then they are absent.
        let answers = |disk| matches!(disk, LookupOutcome::Hit | LookupOutcome::Absent);
        if all(&|(disk, put, bound, kept)| answers(*disk) && *put == PutOutcome::Stored && *bound && *kept) {
            say(&format!("state sound {corrupt}"));
        } else if all(&|(disk, put, bound, kept)| {
            *disk != LookupOutcome::Hit && *put != PutOutcome::Stored && !*bound && !*kept
        }) {
            say(&format!("state degraded {corrupt}"));
        } else {
            say(&format!("state between {corrupt}"));
        }
    }
}

#[test]
fn a_device_that_answers_with_errors_degrades_to_memory_and_comes_back() {
    if !can_trace("a_device_that_answers_with_errors_degrades_to_memory_and_comes_back") {
        return;
    }
    let calls = "statx,rename,fsync,fdatasync,pwrite64";
    for error in ["EIO", "ENOSPC"] {
        let dir = tempfile::tempdir().expect("a folder");
        let mut command = child::command(dir.path(), Role::Endure);
        command.stdin(Stdio::piped());
        let mut child = super::spawn(command);
        let (mut output, mut input) = (listen(&mut child), child.stdin.take().expect("its standard input"));
        let mut hear = |word: &str| {
            let mut line = String::new();
            while !line.contains(word) {
                line.clear();
                assert!(output.read_line(&mut line).expect("its words") > 0, "{error}: the child died");
            }
            line
        };
        hear("ready");
        let mut ask = || writeln!(input, "go").expect("its standard input");
        ask();
        assert!(hear("state").contains("sound 0"), "{error}: before");
        let mut strace = Command::new("strace")
            .args([
                "-f",
                "-o",
                "/dev/null",
                "-e",
                &format!("trace={calls}"),
                "-e",
                &format!("inject={calls}:error={error}"),
            ])
            .args(["-p", &child.id().to_string()])
            .stderr(Stdio::piped())
            .spawn()
            .expect("strace");
        let mut said = std::io::BufReader::new(strace.stderr.take().expect("its standard error"));
        let mut line = String::new();
        while !line.contains("attached") {
            line.clear();
            assert!(said.read_line(&mut line).expect("its words") > 0, "strace did not attach");
        }
        let drained = std::thread::spawn(move || said.lines().map_while(Result::ok).count());
        let state = |ask: &mut dyn FnMut(), hear: &mut dyn FnMut(&str) -> String| {
            ask();
            hear("state")
        };
        // Threads are attached one after the other, so that the first answers may be mixed.
        let mut degraded = String::new();
        for _ in 0..20 {
            degraded = state(&mut ask, &mut hear);
            if degraded.contains("degraded") {
                break;
            }
        }
        assert!(degraded.contains("degraded 0"), "{error}: {degraded}");
        // SIGTERM lets strace detach and leave the child running.
        let ended = Command::new("kill").arg(strace.id().to_string()).status().expect("kill");
        assert!(ended.success());
        strace.wait().expect("strace's end");
        drained.join().expect("its words");
        let mut recovered = String::new();
        for _ in 0..2000 {
            recovered = state(&mut ask, &mut hear);
            if recovered.contains("sound") {
                break;
            }
        }
        assert!(recovered.contains("sound 0"), "{error}: {recovered}");
        drop(input);
        assert!(child.wait().expect("its end").success(), "{error}");
    }
}
