//! Short forms of scenarios with real edges and sleeping nodes as processes. What they decide is never a time.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;

/// The edge of this workspace, where it was built beside this crate, as `make test` does.
fn edge() -> Option<PathBuf> {
    let edge = Path::new(env!("CARGO_BIN_EXE_bildkante-loadtest")).with_file_name("bildkante-edge");
    if edge.is_file() {
        return Some(edge);
    }
    assert!(std::env::var_os("BILDKANTE_REQUIRE_JUDGES").is_none(), "{} is not built", edge.display());
    eprintln!("skipped: bildkante-edge is not built beside bildkante-loadtest");
    None
}

/// Runs a scenario and gives its report; 2 is the status of a missed budget, which may be one of time.
fn report(scenario: &str, arguments: &[&str]) -> Option<Value> {
    let edge = edge()?;
    let folder = tempfile::tempdir().expect("a folder");
    let json = folder.path().join("report.json");
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_bildkante-loadtest"))
        .arg(scenario)
        .args(arguments)
        // Beside other tests and other programs an idle thread may not run for minutes.
        .arg("--rendering=equal")
        .arg("--edge")
        .arg(edge)
        .arg("--config-dir")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../config"))
        .arg("--json")
        .arg(&json)
        .stdin(Stdio::null())
        .output()
        .expect("started");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(matches!(output.status.code(), Some(0 | 2)), "{scenario}: {}: {said}", output.status);
    Some(serde_json::from_slice(&std::fs::read(json).expect("a report")).expect("JSON"))
}

/// Every verdict on counts was kept; those on times and ratios are left to `make soak`.
fn assert_counts(report: &Value) {
    let verdicts = report["verdicts"].as_array().expect("verdicts");
    let counted: Vec<&Value> = verdicts.iter().filter(|verdict| verdict["bound"].get("exactly").is_some()).collect();
    assert!(!counted.is_empty(), "{report}");
    for verdict in counted {
        assert_eq!(verdict["met"], true, "{verdict}");
    }
}

#[test]
fn clients_of_two_edges_cost_one_generation() {
    let Some(report) = report("stampede", &["--clients=60", "--rounds=1"]) else { return };
    assert_counts(&report);
    let storm = report["phases"].as_array().and_then(|phases| phases.last()).expect("a phase");
    assert_eq!(storm["completed"], 120, "{storm}");
}

#[test]
fn no_request_notices_that_the_manifest_changes() {
    let Some(report) = report("reload", &["--rate=100", "--duration-s=2"]) else { return };
    assert_counts(&report);
}

/// As in `bildkante-loadtest --help | head -1`.
#[test]
fn the_program_outlives_its_reader_and_a_bad_command_line_is_64() {
    for (arguments, status) in [(&["--help"][..], 0), (&["no-such-scenario"], 64), (&["hits"], 64)] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let mut process = std::process::Command::new(env!("CARGO_BIN_EXE_bildkante-loadtest"));
        let process = process.args(arguments).stdout(writer.try_clone().expect("a pipe")).stderr(writer);
        assert_eq!(process.status().expect("started").code(), Some(status), "{arguments:?}");
    }
}
