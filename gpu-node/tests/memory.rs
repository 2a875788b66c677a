//! What drawings really take: the estimate beside a process's own high-water mark, and a process that runs out.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bildkante_shared::ids::Digest;
use bildkante_shared::limits::DEADLINE_MS_MAX;
use bildkante_shared::recipe::Recipe;
use bildkante_shared::urgency::Urgency;
use bildkante_shared::wire::{CheckpointInfo, GenerationRequest};
use serde_json::Value;

fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models")
}

/// Estimated and real peak in MiB of one step at a size.
fn peak_mib(size: &str) -> (f64, f64) {
    let checkpoint = models().join("studio-tiny");
    let mut command = Command::new(env!("CARGO_BIN_EXE_bildkante-gpu-node"));
    command.args(["bench", "--steps", "1", "--runs", "1", "--warmup", "0", "--threads", "1", "--size", size]);
    let output = command.arg("--checkpoint").arg(checkpoint).stderr(Stdio::inherit()).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    (report["estimated_mib"].as_f64().unwrap(), report["rss_peak_mib"].as_f64().unwrap())
}

#[test]
fn the_estimate_is_above_what_a_drawing_takes_and_not_far_above() {
    let (small_estimated, small) = peak_mib("64x64");
    for size in ["512x512", "768x512"] {
        let (estimated, real) = peak_mib(size);
        // Everything but the drawing is the same in both processes.
        let (estimated, real) = (estimated - small_estimated, real - small);
        println!("{size}: {estimated:.0} MiB estimated, {real:.0} MiB taken");
        assert!(estimated >= real, "{size}: {estimated} MiB estimated, {real} MiB taken");
        assert!(estimated <= 4.0 * real, "{size}: {estimated} MiB estimated, {real} MiB taken");
    }
}

/// A node of its own, which ends with this value.
struct Server {
    child: Child,
    address: String,
    _data: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    fn start() -> Self {
        let data = tempfile::tempdir().unwrap();
        let config = data.path().join("gpu-node.toml");
        // The bound that is under test is the process's, not the estimate's.
        let text =
            format!("models_dir = {:?}\ndata_dir = \"data\"\nthreads = 1\nmemory_bytes_max = 1099511627776", models());
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_bildkante-gpu-node"));
        command.args(["serve", "--listen", "127.0.0.1:0", "--config"]).arg(config).current_dir(data.path());
        command.env_remove("RUST_LOG").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (mut address, mut log) = (None, BufReader::new(child.stderr.take().unwrap()));
        let mut line = String::new();
        while log.read_line(&mut line).unwrap() > 0 {
            if let Some((_, rest)) = line.split_once("addr=") {
                address = rest.split_whitespace().next().map(str::to_owned);
            }
            if line.contains(" ready device=") {
                break;
            }
            line.clear();
        }
        // Its log is read from here on, so that it never waits for a reader.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Self { child, address: address.expect("an address in the log"), _data: data }
    }

    /// HTTP/1.0 in a few lines: status and body.
    fn call(&self, head: &str, body: &[u8]) -> (u16, Vec<u8>) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
        let length = body.len();
        let head = format!(
            "{head} HTTP/1.1\r\nhost: node\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
        let status = std::str::from_utf8(&answer[9..12]).unwrap().parse().unwrap();
        (status, answer[end + 4..].to_vec())
    }

    /// Draws a picture that there is room for.
    fn draws(&self, checkpoint: Digest, seed: u32) {
        let (status, body) = self.draw(checkpoint, 128, seed);
        assert_eq!(status, 200, "{body}");
    }

    fn draw(&self, checkpoint: Digest, side_px: u32, seed: u32) -> (u16, String) {
        let recipe = Recipe { seed, steps: 1, ..Recipe::new(checkpoint, "a mug", (side_px, side_px)) };
        let asked = GenerationRequest { recipe, urgency: Urgency::DEFAULT, deadline_ms: DEADLINE_MS_MAX, dedup: None };
        let (status, body) = self.call("POST /v1/generations", &serde_json::to_vec(&asked).unwrap());
        (status, String::from_utf8_lossy(&body).into_owned())
    }
}

/// Bytes of a process's address space.
fn address_space(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() * 1024
}

#[test]
fn a_process_that_runs_out_of_memory_fails_that_drawing_and_serves_on() {
    let server = Server::start();
    let (_, listed) = server.call("GET /v1/checkpoints", b"");
    let listed: Vec<CheckpointInfo> = serde_json::from_slice(&listed).unwrap();
    let checkpoint = listed.iter().find(|known| known.name == "studio-tiny").unwrap().digest;
    server.draws(checkpoint, 1);

    let pid = server.child.id();
    let most = address_space(pid) + (200 << 20);
    let limited = Command::new("prlimit").arg(format!("--pid={pid}")).arg(format!("--as={most}")).status();
    assert!(limited.unwrap().success(), "prlimit sets the bound");
    for seed in 2..5 {
        let (status, body) = server.draw(checkpoint, 2048, seed);
        assert_eq!(status, 503, "{body}");
        assert!(body.contains("out-of-memory") && body.contains("can't allocate memory"), "{body}");
        // It serves on.
        server.draws(checkpoint, seed);
    }
}
