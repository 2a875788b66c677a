//! When recipes share a master, through the whole node: painted scenes whose likeness is known.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use bildkante_gpu_node::store::decode_png;
use bildkante_shared::pixels::Pixels;
use bildkante_shared::recipe::ValidRecipe;
use bildkante_shared::testing::eventually;
use bildkante_shared::wire::{GenerationReply, GenerationRequest, GenerationSource};
use support::{TestNode, Wish, request, request_of, scope};

/// Paints "a {colour} {shape}" before a grey backdrop; the seed adds a grain that no eye can see.
fn paint_scene(recipe: &ValidRecipe) -> Pixels {
    // Of equal luma, so that a luma hash cannot tell them apart.
    let colour = match recipe.prompt.as_str() {
        prompt if prompt.contains("red") => [220, 64, 60],
        prompt if prompt.contains("green") => [60, 118, 62],
        _ => [98, 98, 98],
    };
    let is_ball = recipe.prompt.contains("ball");
    let (width, height) = (recipe.width_px, recipe.height_px);
    let mut rgb = Vec::new();
    for y in 0..height {
        for x in 0..width {
            let [u, v] = [(x, width), (y, height)].map(|(at, of)| f64::from(at) / f64::from(of) * 2.0 - 1.0);
            let is_inside = if is_ball { u.hypot(v) < 0.5 } else { u.abs() < 0.3 && v.abs() < 0.6 };
            let grain = u8::from((x * 31 + y * 17 + recipe.seed * 7).is_multiple_of(29));
            let base = if is_inside { colour } else { [180, 180, 180] };
            rgb.extend(base.map(|value| value + grain));
        }
    }
    Pixels::new(width, height, rgb).unwrap()
}

async fn painting_node() -> TestNode {
    Wish::default().paint(paint_scene).start().await
}

fn seeded(prompt: &str, seed: u32, variant: &str) -> GenerationRequest {
    let mut request = request_of(prompt, variant);
    request.recipe.seed = seed;
    request
}

async fn ask(node: &TestNode, request: &GenerationRequest) -> GenerationReply {
    node.client.post(request).await.reply()
}

#[tokio::test]
async fn two_variants_that_look_alike_share_the_older_master() {
    let node = painting_node().await;
    let older = ask(&node, &seeded("a red ball", 1, "finish=matte")).await;
    let newer = ask(&node, &seeded("a red ball", 2, "finish=glossy")).await;
    assert_eq!(older.duplicate, None);
    assert_eq!(newer.master, older.master);
    let duplicate = newer.duplicate.clone().unwrap();
    assert_ne!(duplicate.of, older.master.id, "the master it would have had");
    assert!(duplicate.ssimulacra2 > 80.0 && duplicate.ssimulacra2 < 100.0, "{duplicate:?}");
    node.counts("bildkante_node_duplicates_merged_total", 1.0).await;
    assert_eq!(node.master_files().len(), 1, "the newer one's pixels are not kept");

    // The decision is remembered, also by a restarted node.
    let data = node.data.clone();
    node.node.shut_down().await;
    let node = Wish::default().paint(paint_scene).on(&data).start().await;
    let again = ask(&node, &seeded("a red ball", 2, "finish=glossy")).await;
    assert_eq!((again.source, again.duplicate), (GenerationSource::Stored, newer.duplicate));
    // So is the index: a third variant finds the first one's master.
    let third = ask(&node, &seeded("a red ball", 3, "finish=satin")).await;
    assert_eq!((third.master, third.duplicate.is_some()), (older.master, true));
    assert_eq!(node.control.calls(), 1);
}

#[tokio::test]
async fn red_and_green_are_never_merged() {
    let node = painting_node().await;
    let red = ask(&node, &seeded("a red ball", 1, "colour=red")).await;
    let green = ask(&node, &seeded("a green ball", 1, "colour=green")).await;
    assert_eq!(green.duplicate, None);
    assert!(red.master.phash.distance(green.master.phash) <= 24, "luma alone would merge them");
    assert_ne!(red.master.id, green.master.id);
    node.counts("bildkante_node_duplicate_candidates_total{outcome=\"other_chroma\"}", 1.0).await;
}

#[tokio::test]
async fn another_shape_is_never_merged() {
    let node = painting_node().await;
    let ball = ask(&node, &seeded("a red ball", 1, "product=ball")).await;
    let bottle = ask(&node, &seeded("a red bottle", 1, "product=bottle")).await;
    assert_eq!(bottle.duplicate, None);
    assert_ne!(ball.master.id, bottle.master.id);
}

#[tokio::test]
async fn a_variants_edited_recipe_always_gets_its_own_master() {
    let node = painting_node().await;
    let first = ask(&node, &seeded("a red ball", 1, "finish=matte")).await;
    // Not merged with its own former master …
    let edited = ask(&node, &seeded("a red ball", 2, "finish=matte")).await;
    assert_eq!(edited.duplicate, None);
    assert_ne!(edited.master.id, first.master.id);
    // … nor a merged variant's edited recipe with what it was merged with.
    let merged = ask(&node, &seeded("a red ball", 3, "finish=glossy")).await;
    assert_eq!(merged.master, first.master);
    let edited = ask(&node, &seeded("a red ball", 4, "finish=glossy")).await;
    assert_eq!(edited.duplicate, None);
    assert_ne!(edited.master.id, first.master.id);
    // … nor with what another variant's equal recipe was merged with.
    let other = ask(&node, &seeded("a red ball", 3, "finish=matte")).await;
    assert_eq!((other.duplicate.as_ref(), other.master.id), (None, merged.duplicate.unwrap().of));
    // A variant that was answered with another's stored recipe counts as having had one.
    ask(&node, &seeded("a red ball", 1, "locale=de")).await;
    assert_eq!(ask(&node, &seeded("a red ball", 5, "locale=de")).await.duplicate, None);
}

#[tokio::test]
async fn other_scopes_are_never_merged_not_even_for_one_recipe() {
    let node = painting_node().await;
    let older = ask(&node, &seeded("a red ball", 1, "finish=matte")).await;
    let merged = ask(&node, &seeded("a red ball", 2, "finish=glossy")).await;
    assert_eq!(merged.master, older.master);
    // The merged recipe, asked for elsewhere, is drawn for itself: its pixels were not kept.
    let mut elsewhere = seeded("a red ball", 2, "finish=glossy");
    elsewhere.dedup = Some(scope("studio/teaser@1", "finish=glossy"));
    let own = ask(&node, &elsewhere).await;
    assert_eq!((own.duplicate.as_ref(), own.source), (None, GenerationSource::Generated));
    assert_eq!(own.master.id, merged.duplicate.unwrap().of);
    // Without a scope nothing is looked for, and the recipe's own master is known by now.
    let mut alone = request("a red ball");
    alone.recipe.seed = 2;
    let alone = ask(&node, &alone).await;
    assert_eq!((alone.master, alone.source), (own.master, GenerationSource::Stored));
    // In its first scope the decision stands.
    assert_eq!(ask(&node, &seeded("a red ball", 2, "finish=glossy")).await.master, older.master);
}

#[tokio::test]
async fn a_known_master_is_decided_in_a_new_scope_without_drawing() {
    let node = painting_node().await;
    let older = ask(&node, &seeded("a red ball", 1, "finish=matte")).await;
    let mut alone = request("a red ball");
    alone.recipe.seed = 2;
    let alone = ask(&node, &alone).await;
    assert_ne!(alone.master.id, older.master.id);
    let merged = ask(&node, &seeded("a red ball", 2, "finish=glossy")).await;
    assert_eq!((merged.master, merged.source), (older.master, GenerationSource::Stored));
    assert_eq!(merged.duplicate.unwrap().of, alone.master.id);
    assert_eq!(node.control.calls(), 2);
}

#[tokio::test]
async fn joined_callers_of_other_scopes_each_get_their_scopes_answer() {
    let node = painting_node().await;
    let older = ask(&node, &seeded("a red ball", 1, "finish=matte")).await;
    node.control.hold();
    let here = seeded("a red ball", 2, "finish=glossy");
    let elsewhere = GenerationRequest { dedup: Some(scope("studio/teaser@1", "finish=glossy")), ..here.clone() };
    let calls = [here, elsewhere].map(|request| {
        let client = node.client.clone();
        tokio::spawn(async move { client.post(&request).await.reply() })
    });
    node.control.started(2).await;
    eventually("both wait", async || node.metric("bildkante_node_waiters") >= 2.0).await;
    node.control.release();
    let [here, elsewhere] = calls;
    let (here, elsewhere) = (here.await.unwrap(), elsewhere.await.unwrap());
    assert_eq!((&here.master, here.duplicate.is_some()), (&older.master, true));
    assert_eq!((elsewhere.master.id, elsewhere.duplicate), (here.duplicate.unwrap().of, None));
    assert_eq!(node.control.calls(), 2);
}

#[tokio::test]
async fn equal_pixels_of_another_variant_are_a_duplicate_at_distance_zero() {
    let node = painting_node().await;
    let first = ask(&node, &seeded("a red ball", 1, "finish=matte")).await;
    let second = ask(&node, &seeded("a red ball, please", 1, "finish=polite")).await;
    let duplicate = second.duplicate.unwrap();
    assert_eq!((second.master.id, duplicate.of, duplicate.distance), (first.master.id, first.master.id, 0));
    assert!((duplicate.ssimulacra2 - 100.0).abs() < 1e-9);
}

#[tokio::test]
async fn a_merged_recipe_whose_master_is_damaged_is_drawn_and_decided_anew() {
    let node = painting_node().await;
    let older = ask(&node, &seeded("a red ball", 1, "finish=matte")).await;
    ask(&node, &seeded("a red ball", 2, "finish=glossy")).await;
    std::fs::write(node.master_files().pop().unwrap(), "damaged").unwrap();
    let again = ask(&node, &seeded("a red ball", 2, "finish=glossy")).await;
    assert_eq!((again.source, again.duplicate.as_ref()), (GenerationSource::Generated, None));
    assert_ne!(again.master.id, older.master.id);
    let path = format!("/v1/masters/{}", again.master.id);
    assert_eq!(decode_png(&node.client.get(&path).await.body).unwrap().master_id(), again.master.id);
}

#[tokio::test]
async fn a_node_told_not_to_look_never_merges() {
    let node = Wish::default().paint(paint_scene).config(|config| config.dedup.enabled = false).start().await;
    ask(&node, &seeded("a red ball", 1, "finish=matte")).await;
    assert_eq!(ask(&node, &seeded("a red ball", 2, "finish=glossy")).await.duplicate, None);
}

/// What was merged and what was kept apart, as the command tells it of a node that has stopped.
#[tokio::test]
async fn a_report_tells_what_each_threshold_would_merge_and_undo() {
    let node = painting_node().await;
    ask(&node, &seeded("a red ball", 1, "finish=matte")).await;
    let merged = ask(&node, &seeded("a red ball", 2, "finish=glossy")).await.duplicate.unwrap();
    for (prompt, seed, variant) in [("a green ball", 3, "colour=green"), ("a red bar", 4, "shape=bar")] {
        ask(&node, &seeded(prompt, seed, variant)).await;
    }
    let report = |data: &std::path::Path| {
        let command = std::process::Command::new(env!("CARGO_BIN_EXE_bildkante-gpu-node"))
            .args(["dedup-report", "--json", "--data"])
            .arg(data)
            .output()
            .unwrap();
        let (said, failed) = (String::from_utf8_lossy(&command.stdout), String::from_utf8_lossy(&command.stderr));
        (said.into_owned(), failed.into_owned())
    };
    let (_, in_use) = report(node.data.path());
    assert!(in_use.contains("is in use") && in_use.contains("--data"), "{in_use}");
    node.node.shut_down().await;
    let (said, failed) = report(node.data.path());
    let report: serde_json::Value = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {failed}"));
    // Three masters are apart, of which red and green are one in luma; the glossy ball has the matte one's.
    assert_eq!(
        (&report["masters"], &report["pairs"], &report["merged"]),
        (&3.into(), &3.into(), &1.into()),
        "{report}"
    );
    assert_eq!(report["luma_histogram"].as_array().unwrap().iter().filter_map(|it| it.as_u64()).sum::<u64>(), 3);
    let threshold = |key: &str, value: f64| {
        let all = report["thresholds"].as_array().unwrap();
        all.iter().find(|it| it["key"] == key && it["value"] == value).unwrap().clone()
    };
    let undone = threshold("ssimulacra2_min", 95.0);
    let is_undone = usize::from(merged.ssimulacra2 < 95.0);
    assert_eq!((&undone["would_merge"], &undone["would_undo"]), (&0.into(), &is_undone.into()), "{report}");
    let configured = threshold("ssimulacra2_min", 80.0);
    assert_eq!((&configured["is_configured"], &configured["would_undo"]), (&true.into(), &0.into()), "{report}");
}
