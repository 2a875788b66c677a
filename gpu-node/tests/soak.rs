//! Mixed requests for as long as one likes: every picture right, cancellations and failures among them, memory flat. Short
//! here; `BILDKANTE_SOAK=1` makes thousands of it, and `BILDKANTE_SOAK_SECONDS` as many as go into that time (`make soak`).
//!
//! The mix: the built-in checkpoint with every sampler at two sizes, tiny ones of two families with adapters, ControlNets,
//! reference images, words, images, masks, a refiner, drafts and details; alone and as candidates.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::collections::HashMap;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bildkante_gpu_node::health::Phase;
use bildkante_gpu_node::worker::torch_engine;
use bildkante_shared::ids::{Digest, MasterId};
use bildkante_shared::limits::DEADLINE_MS_MAX;
use bildkante_shared::recipe::{
    ControlUse, DetailUse, DraftUse, EmbeddingUse, Enlarge, InitUse, LoraUse, Recipe, ReferenceUse, RefinerUse,
    SchedulerChoice, SchedulerKind,
};
use bildkante_shared::urgency::Urgency;
use bildkante_shared::wire::{
    AdapterInfo, Candidate, CandidatesRequest, CheckpointInfo, GenerationReply, GenerationRequest,
};
use http::Method;
use support::{TestClient, TestNode, Wish};
use tempfile::TempDir;

/// Callers at the same time.
const CALLERS: usize = 8;
/// What memory may grow by from a quarter of the way to its end: arenas of the allocator, and the store's tables.
const GROWTH_MIB_MAX: f64 = 48.0;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

/// The built-in checkpoint, tiny ones, and everything that acts on them.
fn models() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let link = |from: &Path, folder: &Path| symlink(from, folder.join(from.file_name().unwrap())).unwrap();
    link(&Path::new(env!("CARGO_MANIFEST_DIR")).join("models/studio-tiny"), dir.path());
    for name in ["checkpoints/sd1-tiny", "checkpoints/sdxl-tiny", "checkpoints/sdxl-refiner-tiny"] {
        link(&fixtures().join(name), dir.path());
    }
    for name in ["controlnets/sd1-edges", "guides/sdxl-sketch", "encoders/image-tiny"] {
        link(&fixtures().join(name), dir.path());
    }
    let adapters = dir.path().join("adapters");
    std::fs::create_dir(&adapters).unwrap();
    for file in
        ["adapters/sd1.kohya", "adapters/sd1.dora", "adapters/sdxl.peft", "references/sd1.plus", "embeddings/sd1.three"]
    {
        link(&fixtures().join(format!("{file}.safetensors")), &adapters);
    }
    dir
}

async fn studio(models: &TempDir) -> TestNode {
    let wish = Wish::default().config(|config| {
        config.models_dir = models.path().to_owned();
        config.threads = 1;
        config.batch.requests_max = 4;
        // Hardly anything is answered from the store.
        config.store.masters_max = 1;
        config.dedup.enabled = false;
    });
    let factory = torch_engine(&wish.config);
    let node = wish.start_with(factory, Arc::default()).await;
    assert_eq!(node.node.settled().await, Phase::Ready);
    for name in ["edges.png", "mask.png", "picture.png"] {
        let png = std::fs::read(fixtures().join("images").join(name)).unwrap();
        let path = format!("/v1/blobs/{}", Digest::of_bytes(&png));
        assert_eq!(node.client.call(Method::PUT, &path, &[], png).await.status, 204);
    }
    node
}

/// What names stand for at a node.
struct Names(HashMap<String, Digest>);

impl Names {
    async fn of(node: &TestNode) -> Self {
        let read = async |path: &str| node.client.get(path).await.body;
        let checkpoints: Vec<CheckpointInfo> = serde_json::from_slice(&read("/v1/checkpoints").await).unwrap();
        let adapters: Vec<AdapterInfo> = serde_json::from_slice(&read("/v1/adapters").await).unwrap();
        let mut names: HashMap<String, Digest> = checkpoints.into_iter().map(|info| (info.name, info.digest)).collect();
        names.extend(adapters.into_iter().map(|info| (info.name, info.digest)));
        for entry in std::fs::read_dir(fixtures().join("images")).unwrap() {
            let path = entry.unwrap().path();
            let digest = Digest::of_bytes(&std::fs::read(&path).unwrap());
            names.insert(path.file_name().unwrap().to_string_lossy().into_owned(), digest);
        }
        Self(names)
    }

    fn get(&self, name: &str) -> Digest {
        self.0[name]
    }
}

fn recipes(names: &Names) -> Vec<Recipe> {
    let mut recipes = plain(names.get("studio-tiny"));
    recipes.extend(adapted(names));
    recipes.extend(in_parts(names));
    recipes
}

/// Every sampler, guided and not, at two sizes.
fn plain(checkpoint: Digest) -> Vec<Recipe> {
    let recipe = |seed: u32| {
        let kind = SchedulerKind::ALL[seed as usize % SchedulerKind::ALL.len()];
        Recipe {
            seed,
            // PNDM begins with four evaluations of its own.
            steps: 4 + seed % 2,
            guidance: if seed.is_multiple_of(4) { 1.0 } else { 3.0 },
            scheduler: SchedulerChoice { kind: Some(kind), ..SchedulerChoice::default() },
            ..Recipe::new(checkpoint, format!("a mug, number {}", seed % 5), (64 + 32 * (seed % 2), 64))
        }
    };
    (0..15).map(recipe).collect()
}

fn tiny(names: &Names, checkpoint: &str, seed: u32) -> Recipe {
    let scheduler = SchedulerChoice { kind: Some(SchedulerKind::Euler), ..SchedulerChoice::default() };
    Recipe { seed, steps: 4, scheduler, ..Recipe::new(names.get(checkpoint), "a teal mug", (32, 32)) }
}

/// What changes networks, or acts beside them.
fn adapted(names: &Names) -> Vec<Recipe> {
    let lora = |name: &str, weight: f64| vec![LoraUse { digest: names.get(name), weight }];
    let control = |network: &str| {
        let (network, image) = (names.get(network), names.get("edges.png"));
        vec![ControlUse { network, image, weight: 0.8, start: 0.0, end: 0.7 }]
    };
    let (adapter, encoder, image) = (names.get("sd1.plus"), names.get("image-tiny"), names.get("picture.png"));
    let reference = ReferenceUse { adapter, encoder, image, weight: 0.7, start: 0.0, end: 1.0, mask: None };
    let word = EmbeddingUse { digest: names.get("sd1.three"), token: "<mug>".into() };
    let init = Some(InitUse { image, strength: 0.6 });
    let refiner = Some(RefinerUse::new(names.get("sdxl-refiner-tiny"), 0.6));
    let (sd1, sdxl) = (|seed| tiny(names, "sd1-tiny", seed), |seed| tiny(names, "sdxl-tiny", seed));
    vec![
        Recipe { loras: lora("sd1.kohya", 0.7), ..sd1(20) },
        Recipe { loras: lora("sd1.kohya", 0.71), controls: control("sd1-edges"), ..sd1(21) },
        Recipe { loras: lora("sd1.dora", 1.0), references: vec![reference.clone()], ..sd1(22) },
        Recipe { references: vec![ReferenceUse { mask: Some(names.get("mask.png")), ..reference }], ..sd1(23) },
        Recipe { embeddings: vec![word], prompt: "a <mug> on a table".into(), ..sd1(24) },
        Recipe { init: init.clone(), ..sd1(25) },
        Recipe { init, mask: Some(names.get("mask.png")), controls: control("sd1-edges"), ..sd1(26) },
        Recipe { loras: lora("sdxl.peft", 0.5), ..sdxl(27) },
        Recipe { refiner, controls: control("sdxl-sketch"), ..sdxl(28) },
    ]
}

/// Drafts and details.
fn in_parts(names: &Names) -> Vec<Recipe> {
    let draft = |enlarge, strength| {
        let (steps, guidance, loras, controls) = (Some(2), None, None, Vec::new());
        Some(DraftUse { width_px: 16, height_px: 16, strength, enlarge, steps, guidance, loras, controls })
    };
    let detail = DetailUse {
        mask: names.get("mask.png"),
        strength: 0.5,
        steps: None,
        guidance: None,
        prompt: Some("a red handle".into()),
        negative_prompt: None,
        loras: Some(vec![LoraUse { digest: names.get("sd1.kohya"), weight: 0.4 }]),
    };
    vec![
        Recipe { draft: draft(Enlarge::Pixels, 0.6), ..tiny(names, "sd1-tiny", 30) },
        Recipe { draft: draft(Enlarge::Latents, 0.8), ..tiny(names, "sdxl-tiny", 31) },
        Recipe { draft: draft(Enlarge::Pixels, 0.5), details: vec![detail], ..tiny(names, "sd1-tiny", 32) },
    ]
}

fn asked(recipe: Recipe, urgency: u8, deadline_ms: u64) -> GenerationRequest {
    GenerationRequest { recipe, urgency: Urgency::new(urgency).unwrap(), deadline_ms, dedup: None }
}

fn resident_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse::<f64>().unwrap() / 1024.0
}

/// The same mix every time.
fn dice(number: usize) -> u64 {
    u64::from_le_bytes(Digest::of_bytes(&number.to_le_bytes()).as_bytes()[..8].try_into().unwrap())
}

/// One request of the mix, and what must come of it.
async fn one(client: &TestClient, recipes: &[Recipe], expected: &[MasterId], dice: u64) {
    let at = (dice >> 8) as usize % recipes.len();
    let urgency = u8::try_from(dice >> 16 & 7).unwrap();
    let recipe = recipes[at].clone();
    match dice % 100 {
        0..57 => {
            let reply: GenerationReply = client.post(&asked(recipe, urgency, DEADLINE_MS_MAX)).await.reply();
            assert_eq!(reply.master.id, expected[at], "{:?}", recipes[at]);
        }
        57..65 => {
            // The recipe's own seed, and one that is asked for once.
            let seeds = vec![recipe.seed, u32::try_from(dice >> 33).unwrap()];
            let urgency = Urgency::new(urgency).unwrap();
            let wanted = CandidatesRequest { recipe, seeds, urgency, deadline_ms: DEADLINE_MS_MAX, dedup: None };
            let headers = [("content-type", "application/json")];
            let body = serde_json::to_vec(&wanted).unwrap();
            let answer = client.call(Method::POST, "/v1/candidates", &headers, body).await;
            let candidates: Vec<Candidate> = serde_json::from_slice(&answer.body).unwrap();
            let masters = candidates.iter().map(|candidate| candidate.reply.as_ref().unwrap().master.id);
            assert_eq!(masters.collect::<Vec<_>>()[0], expected[at], "{:?}", recipes[at]);
        }
        65..80 => {
            // Hangs up, before it begins or while it runs.
            let patience = Duration::from_millis(dice >> 24 & 63);
            let _ = tokio::time::timeout(patience, client.post(&asked(recipe, urgency, DEADLINE_MS_MAX))).await;
        }
        80..88 => {
            let answer = client.post(&asked(recipe, urgency, 1 + (dice >> 24 & 31))).await;
            match answer.status.as_u16() {
                200 => assert_eq!(answer.reply().master.id, expected[at]),
                status => assert_eq!(status, 504),
            }
        }
        88..92 => {
            let unknown = Recipe { checkpoint: Digest::of_bytes(&dice.to_le_bytes()), ..recipe };
            assert_eq!(client.post(&asked(unknown, urgency, DEADLINE_MS_MAX)).await.status, 424);
        }
        92..96 => {
            let odd = Recipe { width_px: 65, ..recipe };
            assert_eq!(client.post(&asked(odd, urgency, DEADLINE_MS_MAX)).await.problem().status, 422);
        }
        _ => {
            // No JSON, or what begins like a number and is no generation.
            let answer = client.post_bytes(dice.to_le_bytes().to_vec()).await;
            assert!([400, 422].contains(&answer.problem().status));
        }
    }
}

/// How long it goes on.
#[derive(Debug, Clone, Copy)]
enum Bound {
    Requests(usize),
    Time(Duration),
}

impl Bound {
    fn of_environment() -> Self {
        let seconds = std::env::var("BILDKANTE_SOAK_SECONDS").ok().map(|seconds| seconds.parse().unwrap());
        match seconds {
            Some(seconds) => Self::Time(Duration::from_secs(seconds)),
            None if std::env::var_os("BILDKANTE_SOAK").is_some() => Self::Requests(6000),
            None => Self::Requests(160),
        }
    }

    /// How much of it is over when a request of this number begins.
    #[allow(clippy::cast_precision_loss, reason = "far below 2^53")]
    fn share(self, began: Instant, number: usize) -> f64 {
        match self {
            Self::Requests(count) => number as f64 / count as f64,
            Self::Time(time) => began.elapsed().as_secs_f64() / time.as_secs_f64(),
        }
    }
}

/// The masters of all recipes, one after the other.
async fn masters(node: &TestNode, recipes: &[Recipe]) -> Vec<MasterId> {
    let mut masters = Vec::new();
    for recipe in recipes {
        masters.push(node.client.post(&asked(recipe.clone(), 3, DEADLINE_MS_MAX)).await.reply().master.id);
    }
    masters
}

#[tokio::test(flavor = "multi_thread")]
async fn mixed_requests_for_long_leave_every_picture_right_and_memory_flat() {
    let models = models();
    let node = studio(&models).await;
    let recipes = Arc::new(recipes(&Names::of(&node).await));
    // The first ones of each class are drawn alone, and are of another determinism class.
    masters(&node, &recipes).await;
    node.counts("bildkante_node_probes_pending{device=\"0\"}", 0.0).await;
    let expected = Arc::new(masters(&node, &recipes).await);

    let (bound, began) = (Bound::of_environment(), Instant::now());
    let (made, quarter) = (Arc::new(AtomicUsize::new(0)), Arc::new(parking_lot::Mutex::new(None)));
    let callers = (0..CALLERS).map(|_| {
        let (client, recipes, expected) = (node.client.clone(), Arc::clone(&recipes), Arc::clone(&expected));
        let (made, quarter) = (Arc::clone(&made), Arc::clone(&quarter));
        tokio::spawn(async move {
            loop {
                let number = made.fetch_add(1, Ordering::SeqCst);
                let share = bound.share(began, number);
                if share >= 0.25 {
                    quarter.lock().get_or_insert_with(resident_mib);
                }
                if share >= 1.0 {
                    return;
                }
                one(&client, &recipes, &expected, dice(number)).await;
            }
        })
    });
    let callers: Vec<_> = callers.collect();
    for caller in callers {
        caller.await.unwrap();
    }
    let (before_mib, after_mib) = (quarter.lock().unwrap(), resident_mib());
    let requests = made.load(Ordering::SeqCst) - CALLERS;
    let (seconds, steps) = (began.elapsed().as_secs(), node.metric("bildkante_node_steps_total"));
    println!(
        "{requests} requests in {seconds} s, {steps} steps; resident {before_mib:.0} MiB after a quarter, {after_mib:.0} MiB at the end"
    );
    assert!(after_mib - before_mib < GROWTH_MIB_MAX, "from {before_mib:.0} to {after_mib:.0} MiB");

    // Nothing is left of former requests, and everything is drawn as before.
    assert_eq!(masters(&node, &recipes).await, *expected);
    for gauge in ["queue_jobs", "waiters", "jobs_in_flight", "begun_jobs", "panics_total"] {
        assert!(node.metric(&format!("bildkante_node_{gauge}")) < 0.5, "{gauge}");
    }
    node.node.shut_down().await;
}
