//! Candidates of a variant: one request, several seeds, each a recipe and a master of its own.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::collections::BTreeSet;

use bildkante_shared::recipe::{Recipe, ValidRecipe};
use bildkante_shared::testing::eventually;
use bildkante_shared::urgency::Urgency;
use bildkante_shared::wire::{Candidate, CandidateProgress, CandidatesRequest, GenerationState, GenerationStatus};
use http::Method;
use support::{TestNode, TestResponse, Wish, recipe, request};

fn asked(seeds: &[u32]) -> CandidatesRequest {
    let recipe = recipe("a teal mug");
    CandidatesRequest { recipe, seeds: seeds.to_vec(), urgency: Urgency::DEFAULT, deadline_ms: 60_000, dedup: None }
}

async fn post(node: &TestNode, accept: &str, request: &CandidatesRequest) -> TestResponse {
    let headers = [("content-type", "application/json"), ("accept", accept)];
    node.client.call(Method::POST, "/v1/candidates", &headers, serde_json::to_vec(request).unwrap()).await
}

fn id_of(seed: u32) -> bildkante_shared::ids::RecipeId {
    ValidRecipe::try_from(Recipe { seed, ..recipe("a teal mug") }).unwrap().id()
}

async fn state(node: &TestNode, seed: u32) -> Option<GenerationState> {
    let response = node.client.get(&format!("/v1/generations/{}", id_of(seed))).await;
    serde_json::from_slice::<GenerationStatus>(&response.body).ok().map(|status| status.state)
}

#[tokio::test]
async fn each_seed_is_the_recipe_and_the_master_that_it_is_by_itself() {
    let node = Wish::default().start().await;
    let response = post(&node, "application/json", &asked(&[7, 3, 40])).await;
    assert_eq!(response.status, 200);
    let candidates: Vec<Candidate> = serde_json::from_slice(&response.body).unwrap();
    assert_eq!(candidates.iter().map(|candidate| candidate.seed).collect::<Vec<_>>(), [7, 3, 40], "in the order asked");
    let other = Wish::default().start().await;
    for candidate in &candidates {
        assert_eq!(candidate.recipe_id, id_of(candidate.seed));
        let mut alone = request("a teal mug");
        alone.recipe.seed = candidate.seed;
        let alone = other.client.post(&alone).await.reply();
        let reply = candidate.reply.as_ref().unwrap();
        assert_eq!((reply.recipe_id, reply.master.id), (alone.recipe_id, alone.master.id));
        assert_eq!(node.client.get(&format!("/v1/masters/{}", reply.master.id)).await.status, 200);
    }
    let masters: BTreeSet<_> = candidates.iter().map(|candidate| candidate.reply.as_ref().unwrap().master.id).collect();
    assert_eq!(masters.len(), 3);
}

#[tokio::test]
async fn events_tell_how_far_each_is_and_end_behind_the_last() {
    let node = Wish::default().start().await;
    node.control.hold();
    let mut told = node.client.events("/v1/candidates", serde_json::to_vec(&asked(&[1, 2])).unwrap()).await;
    // While they stand still, and one of them waits for the other.
    let mut seeds = BTreeSet::new();
    while seeds != BTreeSet::from([1, 2]) {
        let (name, data) = told.next().await.unwrap();
        assert_eq!(name, "progress");
        let progress: CandidateProgress = serde_json::from_value(data).unwrap();
        assert_eq!(progress.status.recipe_id, id_of(progress.seed));
        seeds.insert(progress.seed);
    }
    node.control.release();
    let (mut ended, mut last) = (Vec::new(), None);
    while let Some((name, data)) = told.next().await {
        if name == "candidate" {
            ended.push(serde_json::from_value::<Candidate>(data).unwrap());
        }
        last = Some(name);
    }
    ended.sort_unstable_by_key(|candidate| candidate.seed);
    assert_eq!(ended.iter().map(|candidate| candidate.seed).collect::<Vec<_>>(), [1, 2]);
    assert!(ended.iter().all(|candidate| candidate.reply.is_some() && candidate.recipe_id == id_of(candidate.seed)));
    assert_eq!(last.as_deref(), Some("end"));
}

#[tokio::test]
async fn the_deadline_is_that_of_each_and_ends_those_that_are_not_drawn() {
    let node = Wish::default().start().await;
    node.control.hold();
    let hurried = CandidatesRequest { deadline_ms: 50, ..asked(&[1, 2]) };
    let candidates: Vec<Candidate> =
        serde_json::from_slice(&post(&node, "application/json", &hurried).await.body).unwrap();
    let statuses: Vec<_> = candidates.iter().map(|candidate| candidate.problem.as_ref().unwrap().status).collect();
    assert_eq!(statuses, [504, 504]);
    node.control.release();
}

#[tokio::test]
async fn what_the_queue_has_no_place_for_is_told_and_the_others_are_drawn() {
    let node = Wish::default().config(|config| config.queue.jobs_max = 2).start().await;
    node.control.hold();
    let (client, body) = (node.client.clone(), serde_json::to_vec(&asked(&[1, 2, 3, 4, 5])).unwrap());
    let asking = tokio::spawn(async move {
        let headers = [("content-type", "application/json")];
        client.call(Method::POST, "/v1/candidates", &headers, body).await
    });
    eventually("some are refused", async || node.metric("bildkante_node_rejects_total{reason=\"queue_full\"}") > 0.5)
        .await;
    node.control.release();
    let candidates: Vec<Candidate> = serde_json::from_slice(&asking.await.unwrap().body).unwrap();
    let refused = candidates.iter().filter_map(|candidate| candidate.problem.as_ref());
    assert!(refused.clone().all(|problem| problem.status == 429));
    let drawn = candidates.iter().filter(|candidate| candidate.reply.is_some()).count();
    assert!((1..=4).contains(&drawn) && drawn + refused.count() == 5, "{drawn} are drawn");
}

#[tokio::test]
async fn a_digest_that_is_missing_is_told_for_each() {
    let node = Wish::default().start().await;
    let mut unknown = asked(&[1, 2]);
    unknown.recipe.checkpoint = bildkante_shared::ids::Digest::of_bytes(b"no checkpoint");
    let response = post(&node, "application/json", &unknown).await;
    let candidates: Vec<Candidate> = serde_json::from_slice(&response.body).unwrap();
    let statuses: Vec<_> = candidates.iter().map(|candidate| candidate.problem.as_ref().unwrap().status).collect();
    assert_eq!(statuses, [424, 424]);
}

#[tokio::test]
async fn a_caller_that_hangs_up_cancels_those_that_no_one_else_waits_for() {
    for accept in ["application/json", "text/event-stream"] {
        let node = Wish::default().start().await;
        node.control.hold();
        let (client, body) = (node.client.clone(), serde_json::to_vec(&asked(&[1, 2, 3])).unwrap());
        let asking = tokio::spawn(async move {
            let headers = [("content-type", "application/json"), ("accept", accept)];
            client.call(Method::POST, "/v1/candidates", &headers, body).await
        });
        node.control.entered(1).await;
        let states = async || {
            let mut states = Vec::new();
            for seed in [1, 2, 3] {
                states.extend(state(&node, seed).await.map(|state| (seed, state)));
            }
            states
        };
        eventually("all are known", async || states().await.len() == 3).await;
        // Which of them is the first to be drawn is not said.
        let (running, queued): (Vec<_>, Vec<_>) =
            states().await.into_iter().partition(|(_, state)| *state == GenerationState::Running);
        let (running, [wanted, unwanted]) = (running[0].0, [queued[0].0, queued[1].0]);
        // Another caller waits for one.
        let (client, mut kept) = (node.client.clone(), request("a teal mug"));
        kept.recipe.seed = wanted;
        let kept = tokio::spawn(async move { client.post(&kept).await.reply() });
        node.counts("bildkante_node_joined_total", 1.0).await;
        asking.abort();
        eventually("one is dropped", async || state(&node, unwanted).await.is_none()).await;
        node.control.release();
        assert_eq!(kept.await.unwrap().recipe_id, id_of(wanted));
        assert_eq!(state(&node, running).await, None, "{accept}: it was stopped between steps");
        assert_eq!(state(&node, unwanted).await, None, "{accept}");
    }
}

#[tokio::test]
async fn seeds_are_bounded_and_each_is_asked_for_once() {
    let node = Wish::default().start().await;
    let many: Vec<u32> = (0..65).collect();
    for seeds in [&[][..], &[1, 1], &many] {
        let refused = post(&node, "application/json", &asked(seeds)).await;
        assert_eq!(refused.status, 422, "{seeds:?}");
        assert!(refused.problem().detail.contains("`seeds`"));
    }
    assert_eq!(node.client.get("/v1/candidates").await.status, 405);
}
