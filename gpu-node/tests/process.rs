//! The binary itself: exit codes, and that it goes when its supervisor goes.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use bildkante_shared::testing::eventually_blocking;

fn serve(folder: &Path, config: &str) -> Command {
    let path = folder.join("gpu-node.toml");
    std::fs::write(&path, config).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_bildkante-gpu-node"));
    command.args(["serve", "--listen", "127.0.0.1:0", "--config"]).arg(path).current_dir(folder);
    command.env_remove("RUST_LOG").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn ended(folder: &Path, config: &str) -> (i32, String) {
    let Output { status, stderr, .. } = serve(folder, config).output().unwrap();
    (status.code().unwrap(), String::from_utf8(stderr).unwrap())
}

#[test]
fn a_bad_configuration_exits_64_and_names_the_key() {
    let dir = tempfile::tempdir().unwrap();
    let (code, log) = ended(dir.path(), "[queue]\njobs = 1");
    assert_eq!((code, log.contains("jobs")), (64, true), "{log}");
    let (code, log) = ended(dir.path(), "[log]\nfilter = \"lout=lout\"");
    assert_eq!((code, log.contains("log.filter")), (64, true), "{log}");
    let (code, log) = ended(dir.path(), "[queue]\njobs_max = 0");
    assert_eq!((code, log.contains("queue.jobs_max")), (64, true), "{log}");
    let unknown = Command::new(env!("CARGO_BIN_EXE_bildkante-gpu-node")).arg("srve").output().unwrap();
    assert_eq!(unknown.status.code(), Some(64));
}

#[test]
fn a_node_without_checkpoints_exits_1_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("models")).unwrap();
    let (code, log) = ended(dir.path(), "models_dir = \"models\"\ndata_dir = \"data\"");
    assert_eq!((code, log.contains("no checkpoint in models_dir")), (1, true), "{log}");
    let (code, log) = ended(dir.path(), "models_dir = \"nowhere\"\ndata_dir = \"data\"");
    assert_eq!((code, log.contains("nowhere")), (1, true), "{log}");
}

/// Reads the log until a line has the words; ends the process when it never comes.
fn await_line(child: &mut Child, words: &str) -> String {
    let log = BufReader::new(child.stderr.take().unwrap());
    let mut seen = String::new();
    for line in log.lines() {
        let line = line.unwrap();
        if line.contains(words) {
            return line;
        }
        seen.push_str(&line);
        seen.push('\n');
    }
    panic!("no line with {words:?} in\n{seen}");
}

#[test]
fn a_node_draws_nothing_for_a_dead_parent() {
    let dir = tempfile::tempdir().unwrap();
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let config = format!("models_dir = {models:?}\ndata_dir = \"data\"\nself_test_steps = 1\nthreads = 1");
    let mut child = serve(dir.path(), &config).arg("--exit-with-parent").stdin(Stdio::piped()).spawn().unwrap();
    assert!(await_line(&mut child, "listening").contains("127.0.0.1:"));
    drop(child.stdin.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

/// Whether the process waits for SIGHUP: bit 0 of the signals it catches (proc(5)).
fn catches_hangup(child: &Child) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap_or("0");
    u64::from_str_radix(caught.trim(), 16).is_ok_and(|mask| mask & 1 == 1)
}

#[test]
fn the_log_filter_is_read_again_on_a_hangup() {
    let dir = tempfile::tempdir().unwrap();
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let config = |filter: &str| {
        format!(
            "models_dir = {models:?}\ndata_dir = \"data\"\nself_test_steps = 1\nthreads = 1\n[log]\nfilter = {filter:?}"
        )
    };
    let mut child = serve(dir.path(), &config("error")).spawn().unwrap();
    eventually_blocking("SIGHUP would end it no more", || catches_hangup(&child));
    std::fs::write(dir.path().join("gpu-node.toml"), config("info")).unwrap();
    assert!(Command::new("kill").args(["-HUP", &child.id().to_string()]).status().unwrap().success());
    // A line of a level that was off before.
    await_line(&mut child, "the log filter was read again");
    child.kill().unwrap();
    child.wait().unwrap();
}
