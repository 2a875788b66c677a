//! What a person tries on a variant's page: a draft with its patch, a split of pictures that look alike, a file that is dropped.

use std::fs;
use std::process::Command;
use std::sync::Arc;

use bildkante_edge::campaign::write_locks;
use bildkante_edge::config::Config;
use bildkante_gpu_node::testing::FakeControl;
use bildkante_tests::client::{Reply, eventually};
use bildkante_tests::rig::{Painter, Plan, Rig};
use bildkante_tests::{judge, repository};
use http::header::{ACCEPT, COOKIE};
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};

use crate::imports::{MANIFEST, bring, candidates, photograph, sources};
use crate::kills::{VASE, impatient, tag, warm as in_memory};
use crate::people::{BrowserSession, OURS, form, give, hidden, session, with_giver, with_key};
use crate::purge::{TOKEN, admin, with_tokens};

const VARIANT: &str = "studio/thumb?product=vase";
const MUG: &str = "/i/studio/thumb?product=mug&fm=webp";
const SPLITS: &str = "/admin/v1/splits";

/// A page as a logged-in person reads it.
async fn page(rig: &Rig, who: &BrowserSession, path: &str) -> anyhow::Result<Reply> {
    rig.http.get(rig.admin(), path, &[(COOKIE, &who.cookie), (ACCEPT, "text/html")]).await
}

/// A draft is drawn for reviewers alone, and its patch makes it the manifest's own.
#[tokio::test]
async fn a_draft_is_seen_by_reviewers_alone_and_its_patch_gives_its_recipe() -> anyhow::Result<()> {
    let test = "a_draft_is_seen_by_reviewers_alone_and_its_patch_gives_its_recipe";
    let control = Arc::new(FakeControl::default());
    let edge = |config: &mut Config| {
        with_giver(config);
        config.warm.price_per_device_second = "1000 EUR".parse().ok();
    };
    let rig = Rig::start(Plan { edge, ..Plan::painted(&control) }).await?;
    let before = in_memory(&rig, VASE).await?;
    let order = json!({ "variant": VARIANT, "changes": { "steps": 9 }, "count": 2, "why": "fewer steps" });
    let begun = admin(&rig, Method::POST, "/admin/v1/drafts", Some(order.clone())).await?;
    assert_eq!(begun.status, StatusCode::ACCEPTED, "{}", begun.text());
    let path = begun.header("location").to_owned();
    let mut pictures = Vec::new();
    eventually("both are drawn", async || {
        let sheet = admin(&rig, Method::GET, &path, None).await?.json()?;
        pictures = sheet["pictures"].as_array().cloned().unwrap_or_default();
        Ok(pictures.len() == 2 && pictures.iter().all(|picture| picture["state"] == "drawn"))
    })
    .await?;
    assert_eq!(control.calls(), 3, "the variant's own, and two drafts");
    let recipe = pictures[0]["recipe"].as_str().unwrap_or_default().to_owned();
    assert_ne!(recipe, tag(&before, "recipe:"));
    assert_ne!(pictures[0]["recipe"], pictures[1]["recipe"]);
    assert!(
        pictures[0]["changes"]["variants"].as_u64() > Some(1),
        "the slot's steps are all its variants': {pictures:?}"
    );

    let changes = &pictures[0]["changes"];
    assert!(changes["undrawn"].as_u64() > Some(0), "{changes}");
    let amount = changes["cost"]["amount"].as_str().and_then(|amount| amount.parse::<f64>().ok());
    let expected = changes["device_ms"].as_f64();
    assert!(
        amount.zip(expected).is_some_and(|(amount, ms)| (amount - ms).abs() < 0.01)
            && changes["cost"]["currency"] == "EUR",
        "a millisecond costs one euro: {changes}"
    );

    // Its picture has an address of the admin listener, which asks who comes; the public one has none.
    let picture = pictures[0]["picture"].as_str().unwrap_or_default().to_owned();
    let shown = admin(&rig, Method::GET, &picture, None).await?;
    assert_eq!(
        (shown.status, shown.content_type(), shown.header("cache-control")),
        (StatusCode::OK, "image/webp", "no-store")
    );
    assert_ne!(shown.body, before.body);
    assert_eq!(rig.http.get(rig.admin(), &picture, &[]).await?.status, StatusCode::UNAUTHORIZED);
    let public = rig.http.get(rig.public(), &picture, &[]).await?;
    assert_eq!(public.status, StatusCode::NOT_FOUND, "{}", public.text());
    assert_eq!(rig.http.image(rig.public(), VASE).await?.body, before.body, "readers get what they got");

    let viewer = give(&rig, "vera", &json!({ "studio": "viewer" })).await?;
    let elsewhere = give(&rig, "otto", &json!({ "elsewhere": "operator" })).await?;
    for key in [&viewer, &elsewhere] {
        for (method, path, body) in [
            (Method::POST, "/admin/v1/drafts", Some(&order)),
            (Method::GET, &*path, None),
            (Method::GET, &*picture, None),
            (Method::DELETE, &*path, None),
        ] {
            let reply = with_key(&rig, key, (method.clone(), path), body).await?;
            assert_eq!(reply.status, StatusCode::FORBIDDEN, "{method} {path}: {}", reply.text());
        }
    }

    // Applied, the patch gives the variant this very recipe, which is drawn already.
    if let Some(git) = judge::find("git", test)? {
        let patch = admin(&rig, Method::GET, pictures[0]["patch_file"].as_str().unwrap_or_default(), None).await?;
        assert_eq!(patch.text(), pictures[0]["patch"].as_str().unwrap_or_default());
        let file = rig.dir.path().join("draft.patch");
        fs::write(&file, &patch.body)?;
        let applied = Command::new(git).args(["apply", "-p1"]).arg(&file).current_dir(rig.dir.path()).output()?;
        assert!(applied.status.success(), "{}{}", String::from_utf8_lossy(&applied.stderr), patch.text());
        eventually("the edge serves the draft's recipe", async || {
            Ok(tag(&rig.http.image(rig.public(), VASE).await?, "recipe:") == recipe)
        })
        .await?;
        assert_eq!(tag(&in_memory(&rig, VASE).await?, "recipe:"), recipe);
        assert_eq!(control.calls(), 3, "it is not drawn again");
    }

    let ended = admin(&rig, Method::DELETE, &path, None).await?;
    assert_eq!(ended.status, StatusCode::OK, "{}", ended.text());
    for gone in [&path, &picture] {
        assert_eq!(admin(&rig, Method::GET, gone, None).await?.status, StatusCode::NOT_FOUND, "{gone}");
    }
    rig.http.counts(rig.admin(), "bildkante_edge_drafts_total{outcome=\"drawn\"}", 2.0).await?;
    rig.http.counts(rig.admin(), "bildkante_edge_drafts_open", 0.0).await?;
    rig.stop().await;
    Ok(())
}

/// Drafts that were ended count until their drawings end.
#[tokio::test]
async fn drafts_that_are_drawn_are_bounded() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan { edge: with_tokens, ..Plan::painted(&control) }).await?;
    control.hold();
    let order = async |seed: usize| {
        let order = json!({ "variant": VARIANT, "changes": { "steps": 9 }, "count": 4, "seed": seed });
        admin(&rig, Method::POST, "/admin/v1/drafts", Some(order)).await
    };
    for number in 0..8 {
        let begun = order(number * 4).await?;
        assert_eq!(begun.status, StatusCode::ACCEPTED, "{number}: {}", begun.text());
        let ended = admin(&rig, Method::DELETE, begun.header("location"), None).await?;
        assert_eq!(ended.status, StatusCode::OK, "{}", ended.text());
    }
    let full = order(32).await?;
    assert_eq!(full.status, StatusCode::CONFLICT, "{}", full.text());
    assert!(full.text().contains("too-many-drafts"), "{}", full.text());
    control.release();
    eventually("there is room again", async || Ok(order(36).await?.status == StatusCode::ACCEPTED)).await?;
    rig.stop().await;
    Ok(())
}

/// A campaign of two pictures, with the library of the shipped one.
const SMALL: &str = r#"
schema   = 1
campaign = "small"
title    = "Small"
prompts  = ["product-shots"]
rights   = { creator = "A", credit = "A", copyright = "A", license = "https://example.org/l" }
policy   = { review = "none", signing = "optional", recallable = true, locales = ["en-GB"] }

[generate]
checkpoint = "studio-tiny"
size       = [192, 192]
steps      = 20
guidance   = 4.0
seed       = { base = 1, per = "campaign" }
prompt     = "{style:product-shot} {product}"
negative   = []

[models.studio-tiny]
license = "Apache-2.0 OR MIT"
source  = "built into Bildkante"
card    = "gpu-node/models/studio-tiny/README.md"
training_data = "none"

[axes.product]
label   = { en = "Product" }
default = "mug"
values.mug  = { prompt = "mug", label = { en = "mug" } }
values.vase = { prompt = "vase", label = { en = "vase" } }

[slots.thumb]
ratio   = "1:1"
widths  = [96, 192]
sizes   = "6rem"
on_miss = { policy = "wait", wait_ms = 20000, then = "placeholder" }
alt     = { en = "{product}" }
"#;

/// A library is shared: what a draft of it changes elsewhere is told in numbers to who sees nothing there.
#[tokio::test]
async fn a_draft_names_no_picture_of_a_campaign_that_its_reader_does_not_see() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan { edge: with_giver, ..Plan::painted(&control) }).await?;
    fs::write(rig.dir.path().join("campaigns/small.toml"), SMALL)?;
    write_locks(&sources(&rig)?, &repository().join("gpu-node/models"))?;
    let anna = give(&rig, "anna", &json!({ "small": "reviewer" })).await?;
    let otto = give(&rig, "otto", &json!({ "*": "reviewer" })).await?;
    let order = json!({ "variant": "small/thumb", "changes": { "style:product-shot": "picture of a" } });
    let mut begun = None;
    eventually("the campaign is there", async || {
        let reply = with_key(&rig, &anna, (Method::POST, "/admin/v1/drafts"), Some(&order)).await?;
        begun = Some((reply.status, reply.header("location").to_owned(), reply.text()));
        Ok(reply.status == StatusCode::ACCEPTED)
    })
    .await?;
    let (_, path, text) = begun.unwrap_or_default();
    assert!(text.contains("small/thumb") && !text.contains("studio/"), "{text}");
    let session = session(&rig, &anna).await?;
    let shown = page(&rig, &session, &path.replace("/admin/v1/", "/preview/")).await?;
    assert!(shown.status == StatusCode::OK && !shown.text().contains("studio/"), "{}", shown.text());
    let told = with_key(&rig, &otto, (Method::GET, &path), None).await?;
    assert!(told.text().contains("studio/"), "who sees both is told of both: {}", told.text());
    rig.stop().await;
    Ok(())
}

/// Readers who miss the variant's picture are not shown its draft instead.
#[tokio::test]
async fn a_draft_stands_in_for_nothing() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let plan = Plan { edge: with_tokens, manifest: impatient, ..Plan::painted(&control) };
    let rig = Rig::start(plan).await?;
    let order = json!({ "variant": VARIANT, "changes": { "steps": 9 } });
    let begun = admin(&rig, Method::POST, "/admin/v1/drafts", Some(order)).await?;
    assert_eq!(begun.status, StatusCode::ACCEPTED, "{}", begun.text());
    let picture = begun.json()?["pictures"][0]["picture"].as_str().unwrap_or_default().to_owned();
    let drawn = admin(&rig, Method::GET, &format!("{picture}&fm=webp"), None).await?;
    assert_eq!(drawn.status, StatusCode::OK, "{}", drawn.text());
    control.hold();
    let missed = rig.http.image(rig.public(), VASE).await?;
    assert!(!missed.outcome().starts_with("previous"), "{:?}", missed.headers);
    assert_ne!(missed.body, drawn.body);
    control.release();
    rig.stop().await;
    Ok(())
}

/// With the form of the page, too; what makes no sense says why on a page.
#[tokio::test]
async fn the_form_of_a_page_drafts() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan { edge: with_giver, ..Plan::painted(&control) }).await?;
    let anna = session(&rig, &give(&rig, "anna", &json!({ "studio": "reviewer" })).await?).await?;
    let variant = page(&rig, &anna, "/preview/studio/thumb/variant?product=vase").await?.text();
    assert!(variant.contains("name=\"change.steps\"") && variant.contains("name=\"change.prompt\""), "{variant}");
    let send = async |steps: &str| {
        let body =
            format!("csrf={}&variant=studio/thumb%3Fproduct%3Dvase&change.steps={steps}&seed=&count=1", anna.csrf);
        form(&rig, "/preview/drafts", &[("cookie", &anna.cookie), ("accept", "text/html"), OURS], body).await
    };
    let refused = send("none").await?;
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", refused.text());
    let begun = send("9").await?;
    assert_eq!(begun.status, StatusCode::SEE_OTHER, "{}", begun.text());
    let shown = page(&rig, &anna, begun.header("location")).await?;
    assert_eq!(shown.status, StatusCode::OK, "{}", shown.text());
    assert!(shown.text().contains("git apply -p1") && shown.text().contains("+steps"), "{}", shown.text());
    let vera = session(&rig, &give(&rig, "vera", &json!({ "studio": "viewer" })).await?).await?;
    assert_eq!(page(&rig, &vera, begun.header("location")).await?.status, StatusCode::FORBIDDEN);
    rig.stop().await;
    Ok(())
}

async fn master(rig: &Rig, path: &str) -> anyhow::Result<String> {
    Ok(tag(&in_memory(rig, path).await?, "master:"))
}

/// With a key of its own, so that it is one order however often it is sent.
async fn split(rig: &Rig, how: &str) -> anyhow::Result<Value> {
    let order = json!({ "variant": "studio/thumb?product=mug", "how": how, "why": "a test" });
    let request = Request::post(format!("http://{}{SPLITS}", rig.admin())).header("content-type", "application/json");
    let request = request.header("authorization", format!("Bearer {TOKEN}")).header("idempotency-key", how);
    let reply = rig.http.send(request.body(Full::from(order.to_string()))?).await?;
    anyhow::ensure!(reply.status == StatusCode::OK, "{} {}", reply.status, reply.text());
    reply.json()
}

/// Pictures that look alike share a master until people split them: then not, whatever is started or read again, until they merge them.
#[tokio::test]
async fn a_merged_pair_is_split_and_merged_again() -> anyhow::Result<()> {
    let mut rig = Rig::start(Plan { painter: Painter::Alike, edge: with_giver, ..Plan::shipped() }).await?;
    let shared = master(&rig, VASE).await?;
    assert_eq!(master(&rig, MUG).await?, shared, "they look alike");
    let anna = session(&rig, &give(&rig, "anna", &json!({ "studio": "approver" })).await?).await?;
    let mug = "/preview/studio/thumb/variant?product=mug";
    let told = page(&rig, &anna, mug).await?.text();
    assert!(told.contains("shares its master") && told.contains("of 256 bits"), "{told}");

    // A draft that changes nothing is the picture that readers have, and takes it from none of them.
    let order = json!({ "variant": "studio/thumb?product=mug" });
    let begun = admin(&rig, Method::POST, "/admin/v1/drafts", Some(order)).await?.json()?;
    let picture = begun["pictures"][0]["picture"].as_str().unwrap_or_default();
    assert_eq!(admin(&rig, Method::GET, picture, None).await?.status, StatusCode::OK, "{begun}");
    // Of a width that was not answered before.
    assert_eq!(master(&rig, &format!("{MUG}&w=192")).await?, shared);

    let (first, repeated) = (split(&rig, "split").await?, split(&rig, "split").await?);
    assert_eq!(first["downstream"]["purge"], repeated["downstream"]["purge"], "nothing is purged twice: {repeated}");
    let own = master(&rig, MUG).await?;
    assert_ne!(own, shared);
    assert_eq!(master(&rig, VASE).await?, shared);
    let told = page(&rig, &anna, mug).await?.text();
    assert!(told.contains("It was split") && told.contains("Merge again"), "{told}");

    // It is kept by a restart, by another version of the manifest, and when all is asked for again.
    rig.stop_edge().await;
    rig.start_edge().await?;
    rig.ready().await?;
    assert_eq!(master(&rig, MUG).await?, own);
    let manifest = rig.dir.path().join("campaigns/studio.toml");
    let text = fs::read_to_string(&manifest)?;
    let recipe = tag(&in_memory(&rig, MUG).await?, "recipe:");
    fs::write(&manifest, text.replacen("steps      = 20", "steps      = 19", 1))?;
    eventually("the new manifest is in force", async || {
        Ok(tag(&rig.http.image(rig.public(), MUG).await?, "recipe:") != recipe)
    })
    .await?;
    assert_ne!(master(&rig, MUG).await?, master(&rig, VASE).await?);
    let order = json!({ "campaign": "studio", "kind": "hard", "reach": "masters", "why": "a test" });
    let purged = admin(&rig, Method::POST, "/admin/v1/purges", Some(order)).await?;
    assert_eq!(purged.status, StatusCode::OK, "{}", purged.text());
    assert_ne!(master(&rig, MUG).await?, master(&rig, VASE).await?);
    let listed = admin(&rig, Method::GET, SPLITS, None).await?.json()?;
    assert_eq!(listed["splits"].as_array().map(Vec::len), Some(1), "{listed}");

    split(&rig, "merge").await?;
    assert_eq!(master(&rig, MUG).await?, master(&rig, VASE).await?);
    let again = json!({ "variant": "studio/thumb?product=mug", "how": "merge" });
    let refused = admin(&rig, Method::POST, SPLITS, Some(again)).await?;
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", refused.text());
    rig.stop().await;
    Ok(())
}

/// An approver splits; a reviewer does not. What people decide about has a master of its own anyhow.
#[tokio::test]
async fn splits_that_make_no_sense_are_refused() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let plan = Plan { edge: with_giver, manifest: crate::reviews::reviewed, ..Plan::painted(&control) };
    let rig = Rig::start(plan).await?;
    let reviewer = give(&rig, "anna", &json!({ "studio": "reviewer" })).await?;
    let order = json!({ "variant": VARIANT });
    let reply = with_key(&rig, &reviewer, (Method::POST, SPLITS), Some(&order)).await?;
    assert_eq!(reply.status, StatusCode::FORBIDDEN, "{}", reply.text());
    let reply = admin(&rig, Method::POST, SPLITS, Some(order)).await?;
    assert_eq!(reply.status, StatusCode::CONFLICT, "{}", reply.text());
    let reply = admin(&rig, Method::POST, SPLITS, Some(json!({ "variant": "studio/none" }))).await?;
    assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", reply.text());
    rig.stop().await;
    Ok(())
}

/// The first step of an import, as a browser sends it.
async fn drop_file(rig: &Rig, who: &BrowserSession, csrf: &str, file: &[u8]) -> anyhow::Result<Reply> {
    let mut body = Vec::new();
    for (name, value) in [("csrf", csrf), ("back", "/preview/"), ("variant", "brought/hero?product=vase")] {
        body.extend(format!("--edge\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n").bytes());
    }
    let head = "Content-Disposition: form-data; name=\"picture\"; filename=\"a.jpg\"\r\nContent-Type: image/jpeg";
    body.extend(format!("--edge\r\n{head}\r\n\r\n").bytes());
    body.extend(file);
    body.extend(b"\r\n--edge--\r\n");
    let request = Request::post(format!("http://{}/preview/imports", rig.admin()))
        .header("content-type", "multipart/form-data; boundary=edge")
        .header("cookie", &who.cookie)
        .header("accept", "text/html")
        .header(OURS.0, OURS.1);
    rig.http.send(request.body(Full::from(body))?).await
}

/// What a dropped file carries is shown; it is a candidate once its sender accepts it, and not before.
#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_file_is_looked_at_and_then_accepted() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let edge = |config: &mut Config| {
        with_giver(config);
        config.campaigns.reload_ms = 100;
    };
    let rig = Rig::start(Plan { edge, ..Plan::painted(&control) }).await?;
    fs::write(rig.dir.path().join("campaigns/brought.toml"), MANIFEST)?;
    bring(&rig, "brought/hero?product=mug", &photograph(240)?)?;
    let key = give(&rig, "anna", &json!({ "*": "reviewer" })).await?;
    eventually("the campaign is there", async || {
        let variant = with_key(&rig, &key, (Method::GET, "/preview/brought/hero/variant?product=vase"), None).await?;
        Ok(variant.status == StatusCode::OK)
    })
    .await?;
    let anna = session(&rig, &key).await?;
    let ben = session(&rig, &give(&rig, "ben", &json!({ "*": "reviewer" })).await?).await?;
    let vera = session(&rig, &give(&rig, "vera", &json!({ "*": "viewer" })).await?).await?;
    let file = photograph(120)?;
    assert_eq!(drop_file(&rig, &anna, "wrong", &file).await?.status, StatusCode::FORBIDDEN);
    assert_eq!(drop_file(&rig, &vera, &vera.csrf, &file).await?.status, StatusCode::FORBIDDEN);
    let none = drop_file(&rig, &anna, &anna.csrf, b"GIF89a").await?;
    assert_eq!(none.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", none.text());

    let looked = drop_file(&rig, &anna, &anna.csrf, &file).await?;
    assert_eq!(looked.status, StatusCode::OK, "{}", looked.text());
    let told = looked.text();
    for fact in ["brought/hero?product=vase", "96 × 72 px", "taken for sRGB", "Content Credentials"] {
        assert!(told.contains(fact), "{fact}: {told}");
    }
    assert!(candidates(&rig).await?.is_empty(), "nothing is stored yet");
    let accept = async |who: &BrowserSession| {
        let fields = [("cookie", &*who.cookie), ("accept", "text/html"), OURS];
        let upload = hidden(&told, "upload");
        let body = format!("csrf={}&back=%2Fpreview%2F&upload={upload}&source=humanEdits&credit=Retouched", who.csrf);
        form(&rig, "/preview/imports/accept", &fields, body).await
    };
    assert_eq!(accept(&ben).await?.status, StatusCode::NOT_FOUND, "it is anna's");
    let accepted = accept(&anna).await?;
    assert_eq!(accepted.status, StatusCode::OK, "{}", accepted.text());
    let listed = candidates(&rig).await?;
    assert_eq!((listed.len(), &listed[0]["recipe"]["source"]), (1, &json!("humanEdits")), "{listed:?}");
    assert!(accepted.text().contains(listed[0]["id"].as_str().unwrap_or("no id")), "{}", accepted.text());
    assert_eq!(accept(&anna).await?.status, StatusCode::NOT_FOUND, "it is taken once");
    rig.stop().await;
    Ok(())
}

/// What is no draft says why, and nothing is drawn.
#[tokio::test]
async fn drafts_that_make_no_sense_are_refused_by_name() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan { edge: with_tokens, ..Plan::painted(&control) }).await?;
    let orders: [(Value, &str); 4] = [
        (json!({ "variant": "studio/none" }), "is no variant"),
        (json!({ "variant": VARIANT, "changes": { "steps": "many" } }), "steps"),
        (
            json!({ "variant": VARIANT, "changes": { "strength": 0.5 } }),
            "is nothing that a draft of this variant changes",
        ),
        (json!({ "variant": VARIANT, "changes": { "prompt": "{nothing}" } }), "nothing"),
    ];
    for (order, reason) in orders {
        let reply = admin(&rig, Method::POST, "/admin/v1/drafts", Some(order.clone())).await?;
        assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY, "{order}: {}", reply.text());
        assert!(reply.text().contains(reason), "{order}: {}", reply.text());
    }
    assert_eq!(control.calls(), 0);
    rig.stop().await;
    Ok(())
}
