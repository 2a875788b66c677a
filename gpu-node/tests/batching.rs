//! Requests that share the device step by step: no picture depends on its companions, an urgent request waits for a step and
//! not for a picture, and a request that fails fails alone.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use bildkante_gpu_node::config::{DeterminismChoice, NodeConfig};
use bildkante_gpu_node::health::Phase;
use bildkante_gpu_node::worker::torch_engine;
use bildkante_shared::ids::{Digest, MasterId, RecipeId};
use bildkante_shared::recipe::{ControlUse, InitUse, LoraUse, Recipe, RefinerUse, SchedulerChoice, SchedulerKind};
use bildkante_shared::testing::eventually;
use bildkante_shared::urgency::Urgency;
use bildkante_shared::wire::{AdapterInfo, CheckpointInfo, GenerationReply, GenerationRequest};
use http::Method;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use support::sick::Sick;
use support::{TestNode, Wish, request};
use tempfile::TempDir;

/// Tiny checkpoints of three families, and adapters.
fn models() -> TempDir {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let dir = tempfile::tempdir().unwrap();
    for name in ["sd1-tiny", "sd1-inpaint-tiny", "sdxl-tiny", "sdxl-refiner-tiny"] {
        std::os::unix::fs::symlink(fixtures.join("checkpoints").join(name), dir.path().join(name)).unwrap();
    }
    std::os::unix::fs::symlink(fixtures.join("controlnets/sd1-edges"), dir.path().join("sd1-edges")).unwrap();
    std::os::unix::fs::symlink(fixtures.join("adapters"), dir.path().join("adapters")).unwrap();
    dir
}

async fn node(models: &TempDir, requests_max: usize, determinism: DeterminismChoice) -> TestNode {
    let wish = Wish::default().config(|config: &mut NodeConfig| {
        config.models_dir = models.path().to_owned();
        config.threads = 1;
        config.batch.requests_max = requests_max;
        config.batch.determinism = determinism;
    });
    let factory = torch_engine(&wish.config);
    let node = wish.start_with(factory, Arc::default()).await;
    assert_eq!(node.node.settled().await, Phase::Ready);
    for name in ["picture", "mask", "edges"] {
        let (digest, png) = image(name);
        assert_eq!(node.client.call(Method::PUT, &format!("/v1/blobs/{digest}"), &[], png).await.status, 204);
    }
    node
}

fn image(name: &str) -> (Digest, Vec<u8>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fixtures/images/{name}.png"));
    let png = std::fs::read(path).unwrap();
    (Digest::of_bytes(&png), png)
}

/// Recipes of every kind that may or may not share a pass.
async fn recipes(node: &TestNode) -> Vec<Recipe> {
    let checkpoints: Vec<CheckpointInfo> =
        serde_json::from_slice(&node.client.get("/v1/checkpoints").await.body).unwrap();
    let adapters: Vec<AdapterInfo> = serde_json::from_slice(&node.client.get("/v1/adapters").await.body).unwrap();
    let checkpoint = |name: &str| checkpoints.iter().find(|known| known.name == name).unwrap().digest;
    let adapter = |name: &str| adapters.iter().find(|known| known.name == name).unwrap().digest;
    let scheduler = |kind| SchedulerChoice { kind: Some(kind), ..SchedulerChoice::default() };
    let sd1 = |seed: u32| Recipe {
        seed,
        steps: 2 + seed % 5,
        guidance: 2.0 + f64::from(seed % 3),
        negative_prompt: ["", "blurry"][seed as usize % 2].into(),
        scheduler: scheduler(SchedulerKind::ALL[seed as usize % SchedulerKind::ALL.len()]),
        ..Recipe::new(checkpoint("sd1-tiny"), format!("a mug, number {seed}"), (32, 32))
    };
    let mut recipes: Vec<Recipe> = (0..9).map(sd1).collect();
    // A lower bound of PNDM's own warm-up.
    recipes.retain(|recipe| recipe.scheduler.kind != Some(SchedulerKind::Pndm) || recipe.steps >= 4);
    recipes.push(Recipe { guidance: 1.0, ..sd1(20) });
    recipes.push(Recipe { width_px: 48, ..sd1(21) });
    recipes.push(Recipe { loras: vec![LoraUse { digest: adapter("sd1.kohya"), weight: 0.7 }], ..sd1(22) });
    recipes.push(Recipe { loras: vec![LoraUse { digest: adapter("sd1.kohya"), weight: 0.7 }], ..sd1(24) });
    recipes.push(Recipe { prompt: "a mug, ".repeat(40), ..sd1(26) });
    let init = |strength| Some(InitUse { image: image("picture").0, strength });
    for seed in 30..33 {
        recipes.push(Recipe { init: init(0.7), steps: 6, scheduler: scheduler(SchedulerKind::Heun), ..sd1(seed) });
        recipes.push(Recipe { init: init(1.0), mask: Some(image("mask").0), ..sd1(seed) });
        let painted = Recipe { init: init(0.9), mask: Some(image("mask").0), ..sd1(seed) };
        recipes.push(Recipe { checkpoint: checkpoint("sd1-inpaint-tiny"), steps: 5, ..painted });
        let network = checkpoint("sd1-edges");
        let control = ControlUse { network, image: image("edges").0, weight: 0.8, start: 0.0, end: 0.6 };
        recipes.push(Recipe { controls: vec![control], steps: 5, ..sd1(seed) });
    }
    recipes.retain(|recipe| recipe.scheduler.kind != Some(SchedulerKind::Pndm) || recipe.steps >= 4);
    let sdxl = |seed: u32| Recipe {
        seed,
        steps: 3 + seed % 3,
        ..Recipe::new(checkpoint("sdxl-tiny"), format!("a vase, number {seed}"), (32, 32))
    };
    recipes.extend((0..4).map(sdxl));
    for seed in 4..7 {
        let refiner = Some(RefinerUse::new(checkpoint("sdxl-refiner-tiny"), 0.5));
        recipes.push(Recipe { refiner, steps: 6, ..sdxl(seed) });
    }
    recipes
}

async fn draw(node: &TestNode, recipe: &Recipe, urgency: u8) -> GenerationReply {
    let urgency = Urgency::new(urgency).unwrap();
    let asked = GenerationRequest { recipe: recipe.clone(), urgency, deadline_ms: 120_000, dedup: None };
    node.client.post(&asked).await.reply()
}

/// Each recipe by itself, on a node that has nothing else to do.
async fn alone(node: &TestNode, recipes: &[Recipe]) -> HashMap<RecipeId, (MasterId, String)> {
    let mut masters = HashMap::new();
    for recipe in recipes {
        let reply = draw(node, recipe, 3).await;
        masters.insert(reply.recipe_id, (reply.master.id, reply.determinism.class));
    }
    masters
}

/// Many at once in an order of their own; the masters and the classes they came with.
async fn together(node: &TestNode, recipes: &[Recipe], order: &[(usize, u8)]) -> Vec<GenerationReply> {
    let calls = order.iter().map(|(at, urgency)| {
        let (client, recipe, urgency) = (node.client.clone(), recipes[*at].clone(), *urgency);
        tokio::spawn(async move {
            let urgency = Urgency::new(urgency).unwrap();
            let asked = GenerationRequest { recipe, urgency, deadline_ms: 120_000, dedup: None };
            client.post(&asked).await.reply()
        })
    });
    let calls: Vec<_> = calls.collect();
    let mut replies = Vec::new();
    for call in calls {
        replies.push(call.await.unwrap());
    }
    replies
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_depends_on_its_recipe_and_on_no_company() {
    let models = models();
    for requests_max in [1, 4] {
        let reference = node(&models, requests_max, DeterminismChoice::Exact).await;
        let recipes = recipes(&reference).await;
        let expected = alone(&reference, &recipes).await;
        assert_eq!(expected.len(), recipes.len());
        reference.node.shut_down().await;

        let mut runner = proptest::test_runner::TestRunner::deterministic();
        let arrivals = Just((0..recipes.len()).collect::<Vec<usize>>()).prop_shuffle();
        let arrivals = arrivals.prop_flat_map(|order| {
            let count = order.len();
            (Just(order), prop::collection::vec(0_u8..8, count))
        });
        for _ in 0..4 {
            let (order, urgencies) = arrivals.new_tree(&mut runner).unwrap().current();
            let order: Vec<(usize, u8)> = order.into_iter().zip(urgencies).collect();
            // Another process's memory and store: nothing is answered from before.
            let busy = node(&models, requests_max, DeterminismChoice::Exact).await;
            for reply in together(&busy, &recipes, &order).await {
                let (master, class) = &expected[&reply.recipe_id];
                assert_eq!(reply.master.id, *master, "{requests_max} at once, {order:?}");
                assert_eq!(reply.determinism.class, *class);
            }
            let (passes, steps) =
                (busy.metric("bildkante_node_passes_total"), busy.metric("bildkante_node_steps_total"));
            assert!(if requests_max == 1 { passes >= steps } else { passes < steps }, "{passes} passes, {steps} steps");
            busy.node.shut_down().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fast_shares_what_it_can_and_says_so() {
    let models = models();
    let fast = node(&models, 4, DeterminismChoice::Fast).await;
    let recipes = recipes(&fast).await;
    let order: Vec<(usize, u8)> = (0..recipes.len()).map(|at| (at, 3)).collect();
    for reply in together(&fast, &recipes, &order).await {
        assert!(reply.determinism.class.ends_with("/fast"), "{}", reply.determinism.class);
    }
}

fn prompted(prompt: &str, steps: u32, urgency: u8) -> GenerationRequest {
    let asked = request(prompt);
    let recipe = Recipe { steps, ..asked.recipe };
    GenerationRequest { recipe, urgency: Urgency::new(urgency).unwrap(), deadline_ms: 60_000, ..asked }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hero_waits_one_step_of_the_running_request() {
    let node = Wish::default().start().await;
    node.control.hold();
    let client = node.client.clone();
    let long = tokio::spawn(async move { client.post(&prompted("a long one", 200, 5)).await.reply() });
    // In its step, and not only begun: else the hero would come before its first one.
    node.control.entered(1).await;
    let client = node.client.clone();
    let hero = tokio::spawn(async move { client.post(&prompted("a hero", 3, 0)).await.reply() });
    eventually("the hero waits", async || node.metric("bildkante_node_queue_jobs") >= 1.0).await;
    node.control.release();
    hero.await.unwrap();
    long.await.unwrap();
    // The step that ran, and the hero's three.
    let expected = [("a hero".to_owned(), 4), ("a long one".to_owned(), 203)];
    assert_eq!(node.control.finished(), expected, "prompts, and the steps made until then");
    assert_eq!(node.control.prompts(), ["a long one", "a hero"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_shared_pass_fails_at_fails_alone() {
    let (node, _) = Sick::start().await;
    node.control.hold();
    let calls: Vec<_> = ["first", "second", "poison", "third"]
        .iter()
        .map(|prompt| {
            let (client, asked) = (node.client.clone(), prompted(prompt, 3, 3));
            tokio::spawn(async move { client.post(&asked).await })
        })
        .collect();
    node.control.started(1).await;
    node.control.release();
    let mut statuses = Vec::new();
    for call in calls {
        statuses.push(call.await.unwrap().status.as_u16());
    }
    assert_eq!(statuses, [200, 200, 500, 200]);
    // And the node serves on.
    node.client.post(&prompted("afterwards", 2, 3)).await.reply();
}
