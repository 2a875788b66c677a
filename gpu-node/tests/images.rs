//! Images at a node: stored by digest, named by recipes, refused where they do not fit; and on the command line.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use bildkante_gpu_node::config::NodeConfig;
use bildkante_gpu_node::health::Phase;
use bildkante_gpu_node::worker::torch_engine;
use bildkante_shared::ids::Digest;
use bildkante_shared::recipe::{ControlUse, InitUse};
use bildkante_shared::testing::eventually;
use bildkante_shared::wire::{Candidate, CandidatesRequest, CheckpointInfo, GenerationRequest};
use http::Method;
use support::{TestNode, Wish, request};
use tempfile::TempDir;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

fn image(name: &str) -> (Digest, Vec<u8>) {
    let png = std::fs::read(fixtures().join("images").join(name)).unwrap();
    (Digest::of_bytes(&png), png)
}

async fn node() -> (TestNode, TempDir) {
    let models = tempfile::tempdir().unwrap();
    for name in
        ["checkpoints/sd1-tiny", "checkpoints/sd1-inpaint-tiny", "controlnets/sd1-edges", "controlnets/sdxl-edges"]
    {
        let from = fixtures().join(name);
        std::os::unix::fs::symlink(&from, models.path().join(from.file_name().unwrap())).unwrap();
    }
    let wish = Wish::default().config(|config: &mut NodeConfig| {
        (config.models_dir, config.threads) = (models.path().to_owned(), 1);
    });
    let factory = torch_engine(&wish.config);
    let node = wish.start_with(factory, Arc::default()).await;
    assert_eq!(node.node.settled().await, Phase::Ready);
    (node, models)
}

async fn put(node: &TestNode, digest: Digest, bytes: Vec<u8>) -> u16 {
    node.client.call(Method::PUT, &format!("/v1/blobs/{digest}"), &[], bytes).await.status.as_u16()
}

async fn asked(node: &TestNode, checkpoint: &str) -> GenerationRequest {
    let checkpoints = node.client.get("/v1/checkpoints").await;
    let checkpoints: Vec<CheckpointInfo> = serde_json::from_slice(&checkpoints.body).unwrap();
    let mut asked = request("a teal mug");
    asked.recipe.checkpoint = checkpoints.iter().find(|known| known.name == checkpoint).unwrap().digest;
    (asked.recipe.width_px, asked.recipe.height_px, asked.deadline_ms) = (32, 32, 60_000);
    asked
}

#[tokio::test]
async fn images_are_stored_by_digest_and_asked_for_by_it() {
    let (node, _models) = node().await;
    let ((picture, png), (mask, mask_png)) = (image("picture.png"), image("mask.png"));
    let mut asked = asked(&node, "sd1-tiny").await;
    asked.recipe.init = Some(InitUse { image: picture, strength: 0.6 });
    asked.recipe.mask = Some(mask);
    let missing = node.client.post(&asked).await;
    let expected = vec![picture.to_string(), mask.to_string()];
    assert_eq!((missing.status.as_u16(), missing.problem().missing), (424, expected));
    assert_eq!(put(&node, picture, png.clone()).await, 204);
    assert_eq!(put(&node, picture, png.clone()).await, 204, "again is the same");
    assert_eq!(node.client.post(&asked).await.problem().missing, [mask.to_string()]);
    assert_eq!(put(&node, mask, mask_png).await, 204);
    let painted = node.client.post(&asked).await.reply();
    asked.recipe.mask = None;
    assert_ne!(node.client.post(&asked).await.reply().master.id, painted.master.id);
    assert_eq!(put(&node, mask, png).await, 422, "other bytes than the name says");
    let text = b"no picture".to_vec();
    assert_eq!(put(&node, Digest::of_bytes(&text), text).await, 422);
    assert_eq!(node.client.call(Method::PUT, "/v1/blobs/me", &[], b"x".to_vec()).await.status, 400);
    assert_eq!(node.client.get(&format!("/v1/blobs/{picture}")).await.status, 405);
}

/// Sends what is there and holds the connection open.
async fn open_put(node: &TestNode, digest: Digest, part: &[u8]) -> tokio::net::TcpStream {
    use tokio::io::AsyncWriteExt;
    let mut stream = tokio::net::TcpStream::connect(node.node.addr()).await.unwrap();
    let head = format!("PUT /v1/blobs/{digest} HTTP/1.1\r\nhost: node\r\ncontent-length: {}\r\n\r\n", 31 << 20);
    stream.write_all(head.as_bytes()).await.unwrap();
    // As much as is taken without waiting: who waits for a permit takes no more than its window.
    let _ = tokio::time::timeout(std::time::Duration::from_secs(2), stream.write_all(part)).await;
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn forty_open_uploads_hold_no_more_than_their_budget_and_end_without_a_trace() {
    let wish = Wish::default().config(|config| config.http.body_timeout_ms = 20_000);
    let node = wish.start().await;
    let part: Arc<[u8]> = vec![7; 30 << 20].into();
    let opened = (0..40).map(|n: u8| {
        let part = Arc::clone(&part);
        let digest = Digest::of_bytes(&[n]);
        let node = &node;
        async move { open_put(node, digest, &part).await }
    });
    let mut most: f64 = 0.0;
    let opened = futures(opened);
    tokio::pin!(opened);
    let streams = loop {
        tokio::select! {
            streams = &mut opened => break streams,
            () = tokio::time::sleep(std::time::Duration::from_millis(1)) => {
                most = most.max(node.metric("bildkante_node_blob_upload_bytes"));
            }
        }
    };
    let bound = bildkante_gpu_node::blobs::UPLOAD_BYTES_MAX;
    assert!(most <= f64::from(u32::try_from(bound).unwrap()), "{most} bytes of {bound} are held");
    // Those that have a turn lie on disk as far as they have come.
    let folder = node.data.path().join("blobs");
    let lying = std::fs::read_dir(&folder).unwrap().count();
    assert!((1..=bildkante_gpu_node::blobs::UPLOADS_MAX).contains(&lying), "{lying} files");
    drop(streams);
    eventually("no half upload is left", async || std::fs::read_dir(&folder).unwrap().count() == 0).await;
    assert!(node.metric("bildkante_node_blob_upload_bytes").abs() < 0.5);
    let (picture, png) = image("picture.png");
    assert_eq!(put(&node, picture, png).await, 204, "a turn is free again");
}

/// All of them at once.
async fn futures<F: Future>(all: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut pending: Vec<_> = all.map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|context| {
        for (future, output) in &mut pending {
            if output.is_none()
                && let std::task::Poll::Ready(value) = future.as_mut().poll(context)
            {
                *output = Some(value);
            }
        }
        if pending.iter().any(|(_, output)| output.is_none()) {
            return std::task::Poll::Pending;
        }
        std::task::Poll::Ready(pending.iter_mut().filter_map(|(_, output)| output.take()).collect())
    })
    .await
}

#[tokio::test]
async fn what_does_not_fit_is_the_callers_fault_and_named() {
    let (node, _models) = node().await;
    let (picture, png) = image("picture.png");
    assert_eq!(put(&node, picture, png).await, 204);
    let refused = async |asked: &GenerationRequest| {
        let response = node.client.post(asked).await;
        assert_eq!(response.status.as_u16(), 422, "{:?}", response.problem());
        response.problem().detail
    };
    let mut wide = asked(&node, "sd1-tiny").await;
    wide.recipe.width_px = 64;
    wide.recipe.init = Some(InitUse { image: picture, strength: 0.5 });
    // An image of another size covers the picture.
    assert_eq!(node.client.post(&wide).await.status.as_u16(), 200);
    let mut weak = asked(&node, "sd1-tiny").await;
    weak.recipe.init = Some(InitUse { image: picture, strength: 0.01 });
    assert!(refused(&weak).await.contains("`init.strength`"));
    assert!(refused(&asked(&node, "sd1-inpaint-tiny").await).await.contains("`init` and `mask`"));
    let mut control = asked(&node, "sd1-tiny").await;
    let network = asked(&node, "sdxl-edges").await.recipe.checkpoint;
    control.recipe.controls = vec![ControlUse { network, image: picture, weight: 1.0, start: 0.0, end: 1.0 }];
    let response = node.client.post(&control).await;
    assert!(!response.status.is_success(), "a ControlNet of another family");
    control.recipe.controls[0].network = asked(&node, "sd1-edges").await.recipe.checkpoint;
    node.client.post(&control).await.reply();
}

#[tokio::test]
async fn candidates_share_what_networks_read() {
    let (node, _models) = node().await;
    let (picture, png) = image("edges.png");
    assert_eq!(put(&node, picture, png).await, 204);
    let GenerationRequest { mut recipe, urgency, deadline_ms, dedup } = asked(&node, "sd1-tiny").await;
    let network = asked(&node, "sd1-edges").await.recipe.checkpoint;
    recipe.controls = vec![ControlUse { network, image: picture, weight: 1.0, start: 0.0, end: 1.0 }];
    // The self-test has read the empty one.
    (recipe.guidance, recipe.negative_prompt) = (3.0, "scratches".into());
    let asked = CandidatesRequest { recipe, seeds: (0..6).collect(), urgency, deadline_ms, dedup };
    let read = |input: &str| node.metric(&format!("bildkante_node_inputs_encoded_total{{input=\"{input}\"}}"));
    let before = (read("text"), read("control_image"));
    let headers = [("content-type", "application/json")];
    let body = serde_json::to_vec(&asked).unwrap();
    let response = node.client.call(Method::POST, "/v1/candidates", &headers, body).await;
    let candidates: Vec<Candidate> = serde_json::from_slice(&response.body).unwrap();
    let masters: BTreeSet<_> = candidates.iter().map(|candidate| candidate.reply.as_ref().unwrap().master.id).collect();
    assert_eq!(masters.len(), 6);
    // What is counted is read when the device has made its turn.
    eventually("two prompts are counted", async || read("text") >= before.0 + 2.0).await;
    assert_eq!((read("text") - before.0, read("control_image") - before.1), (2.0, 1.0));
}

#[test]
fn the_command_line_takes_images_and_controls() {
    let dir = tempfile::tempdir().unwrap();
    let images = |name: &str| fixtures().join("images").join(name).display().to_string();
    let control = format!("{}:{}:0.8:0:0.5", fixtures().join("controlnets/sd1-edges").display(), images("edges.png"));
    let lora = format!("{}:0.7", fixtures().join("adapters/sd1.kohya.safetensors").display());
    let run = |arguments: &[&str]| {
        let checkpoint = fixtures().join("checkpoints/sd1-tiny");
        let output = Command::new(env!("CARGO_BIN_EXE_bildkante-gpu-node"))
            .current_dir(dir.path())
            .args([
                "generate",
                "--threads",
                "1",
                "--size",
                "32x32",
                "--steps",
                "4",
                "--prompt",
                "a mug",
                "--out",
                "x.png",
            ])
            .arg("--checkpoint")
            .arg(checkpoint)
            .args(arguments)
            .output()
            .unwrap();
        (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned(), output.stdout)
    };
    let master = |arguments: &[&str]| {
        let (code, stderr, stdout) = run(arguments);
        assert_eq!(code, 0, "{stderr}");
        let report: serde_json::Value = serde_json::from_slice(&stdout).unwrap();
        report["master_id"].as_str().unwrap().to_owned()
    };
    let masters = [
        master(&[]),
        master(&["--init", &images("picture.png"), "--strength", "0.6"]),
        master(&["--init", &images("picture.png"), "--mask", &images("mask.png")]),
        master(&["--control", &control]),
        master(&["--lora", &lora]),
        master(&["--lora", &lora, "--control", &control, "--init", &images("picture.png")]),
    ];
    let distinct: std::collections::HashSet<_> = masters.iter().collect();
    assert_eq!(distinct.len(), masters.len(), "an option has no effect: {masters:?}");
    for (arguments, named) in [
        (&["--control", "only-a-folder"][..], "DIR:FILE.png"),
        (&["--lora", "style:strong"], "no number"),
        (&["--mask", "mask.png"], "--init"),
        (&["--init", "absent.png"], "absent.png"),
    ] {
        let (code, stderr, _) = run(arguments);
        assert!(code != 0 && stderr.contains(named), "{arguments:?}: {stderr}");
    }
}
