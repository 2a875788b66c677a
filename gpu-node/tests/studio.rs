//! The real engine on the built-in checkpoint, served: what it draws is repeatable, and duplicates are found among its
//! masters as DESIGN §7 wants. `--ignored` prints the distributions behind the thresholds.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::path::PathBuf;
use std::sync::Arc;

use bildkante_gpu_node::config::NodeConfig;
use bildkante_gpu_node::dedup::{Fingerprint, ssimulacra2};
use bildkante_gpu_node::health::Phase;
use bildkante_gpu_node::store::decode_png;
use bildkante_gpu_node::worker::torch_engine;
use bildkante_shared::limits::DEADLINE_MS_MAX;
use bildkante_shared::pixels::Pixels;
use bildkante_shared::recipe::Recipe;
use bildkante_shared::wire::{CheckpointInfo, GenerationReply, GenerationRequest, GenerationSource};
use support::{TestNode, Wish, recipe, request, scope};

/// One node draws at a time: two OpenMP teams on the same cores spin against each other.
static DEVICE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// A node with the built-in checkpoint, on `threads` threads.
async fn studio(wish: Wish, threads: u32) -> TestNode {
    let edit = |config: &mut NodeConfig| {
        config.models_dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("models");
        config.threads = threads;
    };
    let wish = wish.config(edit);
    let factory = torch_engine(&wish.config);
    let node = wish.start_with(factory, Arc::default()).await;
    assert_eq!(node.node.settled().await, Phase::Ready);
    node
}

/// A generation on a machine that is busy building.
fn patient(prompt: &str) -> GenerationRequest {
    GenerationRequest { deadline_ms: DEADLINE_MS_MAX, ..request(prompt) }
}

async fn studio_recipe(node: &TestNode, prompt: &str) -> Recipe {
    let listed = node.client.get("/v1/checkpoints").await;
    let listed: Vec<CheckpointInfo> = serde_json::from_slice(&listed.body).unwrap();
    let checkpoint = listed.iter().find(|known| known.name == "studio-tiny").unwrap().digest;
    Recipe { checkpoint, width_px: 192, height_px: 192, steps: 20, seed: 1207, ..recipe(prompt) }
}

async fn ask(node: &TestNode, prompt: &str, seed: u32, variant: &str) -> GenerationReply {
    let recipe = Recipe { seed, ..studio_recipe(node, prompt).await };
    let dedup = Some(scope("studio/hero@1", variant));
    node.client.post(&GenerationRequest { recipe, dedup, ..patient(prompt) }).await.reply()
}

async fn pixels(node: &TestNode, prompt: &str, seed: u32) -> Pixels {
    let recipe = Recipe { seed, ..studio_recipe(node, prompt).await };
    let reply = node.client.post(&GenerationRequest { recipe, ..patient(prompt) }).await.reply();
    decode_png(&node.client.get(&format!("/v1/masters/{}", reply.master.id)).await.body).unwrap()
}

const MUG: &str = "a matte teal mug, gray backdrop, in a plain studio";

#[tokio::test]
async fn the_same_recipe_draws_the_same_master_on_another_node_beside_others_and_on_other_threads() {
    let _device = DEVICE.lock().await;
    let alone = studio(Wish::default(), 1).await;
    let first = ask(&alone, MUG, 7, "mug").await;
    assert!(first.gpu_ms >= first.timings.denoise_ms && first.timings.denoise_ms > 0.0, "{first:?}");
    assert!(first.determinism.class.ends_with("/libtorch-2.11.0/f32/2x4x24x24"), "{:?}", first.determinism);
    alone.node.shut_down().await;

    let busy = studio(Wish::default(), 2).await;
    let base = studio_recipe(&busy, MUG).await;
    let others = ["a matte red vase", "a glossy white lamp"].map(|prompt| {
        let client = busy.client.clone();
        let recipe = Recipe { prompt: prompt.to_owned(), steps: 4, ..base.clone() };
        tokio::spawn(async move { client.post(&GenerationRequest { recipe, ..patient(prompt) }).await.reply() })
    });
    let second = ask(&busy, MUG, 7, "mug").await;
    for other in others {
        assert_ne!(other.await.unwrap().master.id, first.master.id);
    }
    assert_eq!((second.source, second.master), (GenerationSource::Generated, first.master));
    assert_eq!(second.determinism, first.determinism);
    busy.node.shut_down().await;
}

#[tokio::test]
async fn duplicates_among_real_masters() {
    let _device = DEVICE.lock().await;
    let node = studio(Wish::default(), 0).await;
    let red = ask(&node, &MUG.replace("teal", "red"), 7, "colour=red").await;
    let green = ask(&node, &MUG.replace("teal", "green"), 7, "colour=green").await;
    assert_eq!((red.duplicate, green.duplicate), (None, None), "a red mug is no green mug");
    assert_ne!(red.master.id, green.master.id);

    let word = format!("{}, soft shadow", MUG.replace("teal", "red"));
    let ignored = ask(&node, &word, 7, "colour=red,mood=soft").await;
    let duplicate = ignored.duplicate.expect("the model ignores the word");
    assert_eq!(ignored.master.id, red.master.id);
    assert_ne!(duplicate.of, red.master.id, "not the same pixels");

    let edited = ask(&node, &word, 7, "colour=red").await;
    assert_eq!(edited.duplicate, None, "an edited recipe of the same variant");
    assert_eq!(edited.master.id, duplicate.of, "gets its own master");
    node.node.shut_down().await;
}

#[tokio::test]
#[ignore = "measures; minutes"]
async fn distributions_behind_the_thresholds() {
    let _device = DEVICE.lock().await;
    let node = studio(Wish::default().config(|config| config.dedup.enabled = false), 1).await;
    let base = ["mug", "bottle", "vase", "ring", "lamp", "ball"]
        .map(|p| format!("a matte teal {p}, gray backdrop, in a plain studio"));
    let measure = async |kind: &str, a: String, b: String, seeds: (u32, u32)| {
        let (x, y) = (pixels(&node, &a, seeds.0).await, pixels(&node, &b, seeds.1).await);
        let (p, q) = (Fingerprint::of(&x), Fingerprint::of(&y));
        let chroma = p.chroma.distance(&q.chroma);
        println!(
            "{kind:10} luma {:3} chroma mean {:6.2} peak {:6.2} ssimulacra2 {:7.2} | {a} | {b}",
            p.phash.distance(q.phash),
            chroma.mean,
            chroma.peak,
            ssimulacra2(&x, &y).unwrap()
        );
    };
    for prompt in &base {
        for word in ["high quality", "soft shadow", "cinematic", "4k"] {
            measure("ignored", prompt.clone(), format!("{prompt}, {word}"), (1207, 1207)).await;
        }
        measure("ignored", prompt.clone(), format!("product photo of {prompt}"), (1207, 1207)).await;
        measure("ignored", prompt.clone(), prompt.replace("a matte", "the matte"), (1207, 1207)).await;
        measure("synonym", prompt.clone(), prompt.replace("gray", "grey"), (1207, 1207)).await;
        measure("synonym", prompt.clone(), prompt.replace("teal", "turquoise"), (1207, 1207)).await;
        measure("finish", prompt.clone(), prompt.replace("matte", "glossy"), (1207, 1207)).await;
        measure("finish", prompt.clone(), prompt.replace("matte", "metallic"), (1207, 1207)).await;
        measure("colour", prompt.clone(), prompt.replace("teal", "blue"), (1207, 1207)).await;
        measure("colour", prompt.clone(), prompt.replace("teal", "green"), (1207, 1207)).await;
        measure("colour", prompt.replace("teal", "red"), prompt.replace("teal", "green"), (1207, 1207)).await;
        measure("colour", prompt.replace("teal", "red"), prompt.replace("teal", "orange"), (1207, 1207)).await;
        measure("colour", prompt.replace("teal", "white"), prompt.replace("matte teal", "silver"), (1207, 1207)).await;
        measure("backdrop", prompt.clone(), prompt.replace("gray", "white"), (1207, 1207)).await;
        measure("backdrop", prompt.clone(), prompt.replace("gray", "cream"), (1207, 1207)).await;
        measure("setting", prompt.clone(), prompt.replace("in a plain studio", "on a podium"), (1207, 1207)).await;
        measure("seed", prompt.clone(), prompt.clone(), (1207, 1208)).await;
        measure("product", prompt.clone(), base[0].replace("mug", "cube"), (1207, 1207)).await;
    }
}
