//! More checkpoints than a device has memory for: each is loaded when it is asked for, the longest unused makes room, pinned ones
//! stay, and every master is the one that a device with room for all draws.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::path::Path;
use std::sync::Arc;

use bildkante_gpu_node::config::NodeConfig;
use bildkante_gpu_node::diffusion::dtype::DType;
use bildkante_gpu_node::diffusion::loading::Placement;
use bildkante_gpu_node::diffusion::sd::Blueprint;
use bildkante_gpu_node::health::Phase;
use bildkante_gpu_node::worker::torch_engine;
use bildkante_shared::checkpoint::FileDigests;
use bildkante_shared::ids::MasterId;
use bildkante_shared::recipe::{Recipe, RefinerUse};
use bildkante_shared::urgency::Urgency;
use bildkante_shared::wire::{CheckpointInfo, GenerationRequest};
use support::{TestNode, Wish};
use tempfile::TempDir;

const NAMES: [&str; 4] = ["sd1-tiny", "sd2-tiny", "sdxl-tiny", "sdxl-refiner-tiny"];

fn models(names: &[&str]) -> TempDir {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/checkpoints");
    let dir = tempfile::tempdir().unwrap();
    for name in names {
        std::os::unix::fs::symlink(fixtures.join(name), dir.path().join(name)).unwrap();
    }
    dir
}

fn bytes(name: &str) -> u64 {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/checkpoints").join(name);
    let placement = Placement::new(bildkante_gpu_node::diffusion::Device::Cpu, DType::F32);
    Blueprint::read(&folder, placement, &FileDigests::default()).unwrap().bytes(placement)
}

async fn node(models: &TempDir, edit: impl FnOnce(&mut NodeConfig)) -> TestNode {
    let wish = Wish::default().config(|config: &mut NodeConfig| {
        config.models_dir = models.path().to_owned();
        config.threads = 1;
        edit(config);
    });
    let factory = torch_engine(&wish.config);
    let node = wish.start_with(factory, Arc::default()).await;
    assert_eq!(node.node.settled().await, Phase::Ready);
    node
}

async fn recipe(node: &TestNode, name: &str, seed: u32) -> Recipe {
    let listed: Vec<CheckpointInfo> = serde_json::from_slice(&node.client.get("/v1/checkpoints").await.body).unwrap();
    let digest = |name: &str| listed.iter().find(|known| known.name == name).unwrap().digest;
    let plain = Recipe { seed, steps: 4, ..Recipe::new(digest(name), "a mug", (32, 32)) };
    let refiner = (name == "sdxl-tiny").then(|| RefinerUse::new(digest("sdxl-refiner-tiny"), 0.5));
    Recipe { refiner, ..plain }
}

async fn draw(node: &TestNode, name: &str, seed: u32) -> MasterId {
    let recipe = recipe(node, name, seed).await;
    let asked = GenerationRequest { recipe, urgency: Urgency::DEFAULT, deadline_ms: 120_000, dedup: None };
    node.client.post(&asked).await.reply().master.id
}

fn moves(node: &TestNode) -> [f64; 2] {
    ["from_files", "out"].map(|kind| node.metric(&format!("bildkante_node_network_moves_total{{kind=\"{kind}\"}}")))
}

const HELD: &str = "bildkante_node_networks_bytes{device=\"0\"}";

#[tokio::test(flavor = "multi_thread")]
async fn checkpoints_come_when_they_are_asked_for_and_masters_are_the_same() {
    let models = models(&NAMES);
    let roomy = node(&models, |_| {}).await;
    // Room for the largest one, or for the two of one recipe.
    let most = NAMES.iter().map(|name| bytes(name)).max().unwrap().max(bytes("sdxl-tiny") + bytes("sdxl-refiner-tiny"));
    let tight = node(&models, |config| config.networks.device_bytes_max = most).await;
    assert_eq!(moves(&roomy), [4.0, 0.0], "all of them are loaded at the start");
    assert!(moves(&tight)[0] < 4.0 && tight.metric(HELD) <= most as f64);
    for (seed, name) in [(1, "sd1-tiny"), (2, "sdxl-tiny"), (3, "sd2-tiny"), (4, "sd1-tiny"), (5, "sdxl-tiny")] {
        assert_eq!(draw(&tight, name, seed).await, draw(&roomy, name, seed).await, "{name}");
        assert!(tight.metric(HELD) <= most as f64, "{name}: {} of {most} bytes", tight.metric(HELD));
    }
    assert!(moves(&tight)[1] >= 2.0, "{:?}", moves(&tight));
    let first_steps =
        |networks: &str| tight.metric(&format!("bildkante_node_first_step_seconds_count{{networks=\"{networks}\"}}"));
    assert!(first_steps("fetched") >= 2.0 && first_steps("fetched") + first_steps("at_hand") >= 5.0);
    assert_eq!(moves(&roomy), [4.0, 0.0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_of_checkpoints_that_take_turns_are_all_drawn() {
    let models = models(&NAMES[..2]);
    let most = bytes("sd1-tiny").max(bytes("sd2-tiny"));
    let tight = node(&models, |config| config.networks.device_bytes_max = most).await;
    let mut tasks = Vec::new();
    for at in 0..12_usize {
        let recipe = recipe(&tight, NAMES[at % 2], u32::try_from(at).unwrap()).await;
        let (client, urgency) = (tight.client.clone(), Urgency::new(u8::try_from(at % 4).unwrap()).unwrap());
        let asked = GenerationRequest { recipe, urgency, deadline_ms: 120_000, dedup: None };
        tasks.push(tokio::spawn(async move { client.post(&asked).await.reply().master.id }));
    }
    let mut masters = std::collections::BTreeSet::new();
    for task in tasks {
        masters.insert(task.await.unwrap().to_string());
    }
    assert_eq!(masters.len(), 12);
    assert!(tight.metric(HELD) <= most as f64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_checkpoint_makes_room_for_no_other() {
    let models = models(&NAMES[..2]);
    let both = bytes("sd1-tiny") + bytes("sd2-tiny");
    let node = node(&models, |config| {
        config.networks.device_bytes_max = both - 1;
        config.networks.pinned = vec!["sd2-tiny".into()];
    })
    .await;
    assert_eq!(moves(&node), [1.0, 0.0], "the pinned one comes first");
    for seed in 0..2 {
        draw(&node, "sd2-tiny", seed).await;
        draw(&node, "sd1-tiny", seed).await;
    }
    // Nothing may go: the bound is exceeded by one checkpoint.
    assert_eq!(moves(&node), [2.0, 0.0]);
}
