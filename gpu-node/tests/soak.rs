//! Mixed requests for as long as one likes: every picture right, cancellations and failures among them, memory flat. Short
//! here; `BILDKANTE_SOAK=1` makes thousands of it (`make soak`).

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bildkante_gpu_node::health::Phase;
use bildkante_gpu_node::worker::torch_engine;
use bildkante_shared::ids::{Digest, MasterId};
use bildkante_shared::recipe::{Recipe, SchedulerChoice, SchedulerKind};
use bildkante_shared::urgency::Urgency;
use bildkante_shared::wire::{CheckpointInfo, GenerationReply, GenerationRequest};
use support::{TestClient, TestNode, Wish};

/// Callers at the same time.
const CALLERS: usize = 8;
/// What memory may grow by from a quarter of the way to its end: arenas of the allocator, and the store's tables.
const GROWTH_MIB_MAX: f64 = 48.0;

async fn studio() -> TestNode {
    let wish = Wish::default().config(|config| {
        config.models_dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("models");
        config.threads = 1;
        config.batch.requests_max = 4;
        // Hardly anything is answered from the store.
        config.store.masters_max = 1;
        config.dedup.enabled = false;
    });
    let factory = torch_engine(&wish.config);
    let node = wish.start_with(factory, Arc::default()).await;
    assert_eq!(node.node.settled().await, Phase::Ready);
    node
}

fn recipes(checkpoint: Digest) -> Vec<Recipe> {
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
    (0..12).map(recipe).collect()
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
        0..65 => {
            let reply: GenerationReply = client.post(&asked(recipe, urgency, 120_000)).await.reply();
            assert_eq!(reply.master.id, expected[at], "{:?}", recipes[at]);
        }
        65..80 => {
            // Hangs up, before it begins or while it runs.
            let patience = Duration::from_millis(dice >> 24 & 63);
            let _ = tokio::time::timeout(patience, client.post(&asked(recipe, urgency, 120_000))).await;
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
            assert_eq!(client.post(&asked(unknown, urgency, 120_000)).await.status, 424);
        }
        92..96 => {
            let odd = Recipe { width_px: 65, ..recipe };
            assert_eq!(client.post(&asked(odd, urgency, 120_000)).await.problem().status, 422);
        }
        _ => {
            // No JSON, or what begins like a number and is no generation.
            let answer = client.post_bytes(dice.to_le_bytes().to_vec()).await;
            assert!([400, 422].contains(&answer.problem().status));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mixed_requests_for_long_leave_every_picture_right_and_memory_flat() {
    let count = if std::env::var_os("BILDKANTE_SOAK").is_some() { 6000 } else { 160 };
    let node = studio().await;
    let checkpoints: Vec<CheckpointInfo> =
        serde_json::from_slice(&node.client.get("/v1/checkpoints").await.body).unwrap();
    let recipes = Arc::new(recipes(checkpoints[0].digest));
    // The first ones of each class are drawn alone, and are of another determinism class.
    for recipe in recipes.iter() {
        node.client.post(&asked(recipe.clone(), 3, 120_000)).await.reply();
    }
    node.counts("bildkante_node_probes_pending{device=\"0\"}", 0.0).await;
    let mut expected = Vec::new();
    for recipe in recipes.iter() {
        expected.push(node.client.post(&asked(recipe.clone(), 3, 120_000)).await.reply().master.id);
    }
    let expected = Arc::new(expected);

    let (made, quarter) = (Arc::new(AtomicUsize::new(0)), Arc::new(parking_lot::Mutex::new(0.0)));
    let callers = (0..CALLERS).map(|_| {
        let (client, recipes, expected) = (node.client.clone(), Arc::clone(&recipes), Arc::clone(&expected));
        let (made, quarter) = (Arc::clone(&made), Arc::clone(&quarter));
        tokio::spawn(async move {
            loop {
                let number = made.fetch_add(1, Ordering::SeqCst);
                if number == count / 4 {
                    *quarter.lock() = resident_mib();
                }
                if number >= count {
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
    let (before_mib, after_mib) = (*quarter.lock(), resident_mib());
    println!("{count} requests; resident {before_mib:.0} MiB after a quarter, {after_mib:.0} MiB at the end");
    assert!(after_mib - before_mib < GROWTH_MIB_MAX, "from {before_mib:.0} to {after_mib:.0} MiB");

    // Nothing is left of former requests, and everything is drawn as before.
    for (recipe, master) in recipes.iter().zip(expected.iter()) {
        assert_eq!(node.client.post(&asked(recipe.clone(), 3, 120_000)).await.reply().master.id, *master);
    }
    for gauge in ["queue_jobs", "waiters", "jobs_in_flight", "begun_jobs", "panics_total"] {
        assert!(node.metric(&format!("bildkante_node_{gauge}")) < 0.5, "{gauge}");
    }
    node.node.shut_down().await;
}
