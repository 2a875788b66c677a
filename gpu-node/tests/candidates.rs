//! Candidates of a variant: one request, several seeds, each a recipe and a master of its own.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::collections::BTreeSet;

use bildkante_shared::recipe::{Recipe, ValidRecipe};
use bildkante_shared::testing::eventually;
use bildkante_shared::urgency::Urgency;
use bildkante_shared::wire::{Candidate, CandidateProgress, CandidatesRequest, GenerationState};
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
    let (client, body) = (node.client.clone(), serde_json::to_vec(&asked(&[1, 2])).unwrap());
    let told = tokio::spawn(async move {
        let headers = [("content-type", "application/json"), ("accept", "text/event-stream")];
        client.call(Method::POST, "/v1/candidates", &headers, body).await
    });
    node.control.entered(1).await;
    node.control.release();
    let response = told.await.unwrap();
    assert_eq!((response.status.as_u16(), response.header("content-type")), (200, "text/event-stream"));
    let text = String::from_utf8(response.body.to_vec()).unwrap();
    let data = |event: &str| -> Vec<String> {
        let blocks = text.split("\n\n").filter_map(|block| block.strip_prefix(&format!("event: {event}\ndata: ")));
        blocks.map(str::to_owned).collect()
    };
    let progress: Vec<CandidateProgress> =
        data("progress").iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let seeds: BTreeSet<u32> = progress.iter().map(|progress| progress.seed).collect();
    assert_eq!(seeds, BTreeSet::from([1, 2]), "{text}");
    assert!(progress.iter().all(|progress| progress.status.recipe_id == id_of(progress.seed)));
    let ended: Vec<Candidate> = data("candidate").iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(ended.len() == 2 && ended.iter().all(|candidate| candidate.reply.is_some()), "{text}");
    assert!(text.trim_end().ends_with("event: end\ndata: null"), "{text}");
}

#[tokio::test]
async fn one_that_fails_leaves_the_others() {
    let node = Wish::default().start().await;
    let mut unknown = asked(&[1, 2]);
    unknown.recipe.checkpoint = bildkante_shared::ids::Digest::of_bytes(b"no checkpoint");
    let response = post(&node, "application/json", &unknown).await;
    let candidates: Vec<Candidate> = serde_json::from_slice(&response.body).unwrap();
    let statuses: Vec<_> = candidates.iter().map(|candidate| candidate.problem.as_ref().unwrap().status).collect();
    assert_eq!(statuses, [424, 424]);
}

#[tokio::test]
async fn a_caller_that_hangs_up_cancels_those_that_none_else_waits_for() {
    for accept in ["application/json", "text/event-stream"] {
        let node = Wish::default().start().await;
        node.control.hold();
        let (client, body) = (node.client.clone(), serde_json::to_vec(&asked(&[1, 2, 3])).unwrap());
        let asking = tokio::spawn(async move {
            let headers = [("content-type", "application/json"), ("accept", accept)];
            client.call(Method::POST, "/v1/candidates", &headers, body).await
        });
        node.control.entered(1).await;
        eventually("all are known", async || {
            let mut known = 0;
            for seed in [1, 2, 3] {
                known += usize::from(node.client.get(&format!("/v1/generations/{}", id_of(seed))).await.status == 200);
            }
            known == 3
        })
        .await;
        // Another caller waits for the second one.
        let (client, mut kept) = (node.client.clone(), request("a teal mug"));
        kept.recipe.seed = 2;
        let kept = tokio::spawn(async move { client.post(&kept).await.reply() });
        node.counts("bildkante_node_joined_total", 1.0).await;
        asking.abort();
        eventually("the third one is dropped", async || {
            node.client.get(&format!("/v1/generations/{}", id_of(3))).await.status == 404
        })
        .await;
        node.control.release();
        assert_eq!(kept.await.unwrap().recipe_id, id_of(2));
        let first = node.client.get(&format!("/v1/generations/{}", id_of(1))).await;
        let is_done = serde_json::from_slice::<bildkante_shared::wire::GenerationStatus>(&first.body)
            .is_ok_and(|status| status.state == GenerationState::Done);
        assert!(!is_done, "{accept}: it was stopped between steps");
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
