//! Batches over the admin API: ordered by filter, list and table, followed, paused, taken up after a restart, tried
//! again.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Instant;

use bildkante_edge::config::Config;
use bildkante_gpu_node::testing::FakeControl;
use bildkante_tests::client::{Reply, eventually};
use bildkante_tests::rig::{Plan, Rig};
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::people::{give, with_giver};
use crate::purge::{TOKEN, admin, with_tokens};
use crate::repeats;
use crate::reviews::reviewed;

const BATCHES: &str = "/admin/v1/batches";

fn priced(config: &mut Config) {
    with_tokens(config);
    config.warm.price_per_device_second = "2 EUR".parse().ok();
}

async fn rig(control: &Arc<FakeControl>) -> anyhow::Result<Rig> {
    Rig::start(Plan { edge: priced, ..Plan::painted(control) }).await
}

/// One picture for each product.
pub(crate) fn filter(products: &[&str]) -> Value {
    json!({ "filter": { "campaign": "studio", "slot": "thumb", "axes": { "product": products, "colour": ["teal"],
        "material": ["glossy"], "backdrop": ["cream"], "setting": ["studio"] } }, "formats": ["webp"], "concurrency": 2 })
}

async fn start(rig: &Rig, order: Value) -> anyhow::Result<Value> {
    let reply = admin(rig, Method::POST, BATCHES, Some(order)).await?;
    anyhow::ensure!(reply.status == StatusCode::ACCEPTED, "{} {}", reply.status, reply.text());
    let batch = reply.json()?;
    assert_eq!(reply.header("location"), format!("{BATCHES}/{}", batch["id"]));
    assert_eq!(batch["stored"], true);
    Ok(batch)
}

async fn batch(rig: &Rig, id: &Value) -> anyhow::Result<Value> {
    admin(rig, Method::GET, &format!("{BATCHES}/{id}"), None).await?.json()
}

pub(crate) async fn becomes(rig: &Rig, id: &Value, state: &str) -> anyhow::Result<Value> {
    eventually("the batch is in its state", async || Ok(batch(rig, id).await?["state"] == state)).await?;
    batch(rig, id).await
}

async fn asked(rig: &Rig, id: &Value, what: &str) -> anyhow::Result<Reply> {
    admin(rig, Method::POST, &format!("{BATCHES}/{id}/{what}"), None).await
}

async fn table(rig: &Rig, key: &str, query: &str, text: String) -> anyhow::Result<Reply> {
    let request = Request::builder().method(Method::POST).uri(format!("http://{}{BATCHES}{query}", rig.admin()));
    let request = request.header("authorization", format!("Bearer {key}")).header("content-type", "text/csv");
    rig.http.send(request.body(Full::from(text))?).await
}

/// Expected, ordered, drawn, and accounted for: each picture stands in the results with what it took.
#[tokio::test]
async fn a_filter_becomes_pictures_and_results() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = rig(&control).await?;
    let tried = async |order| -> anyhow::Result<Value> {
        admin(&rig, Method::POST, &format!("{BATCHES}?dry_run=true"), Some(order)).await?.json()
    };
    let before = tried(filter(&["mug", "vase"])).await?;
    assert_eq!((&before["pictures"], &before["there"], &before["to_draw"]), (&json!(2), &json!(0), &json!(2)));
    assert_eq!(
        (&before["device_seconds"], &before["bytes"], &before["cost"]),
        (&Value::Null, &Value::Null, &Value::Null)
    );
    assert_eq!(control.calls(), 0);

    let order = filter(&["mug", "vase"]);
    let begun = repeats::order(&rig, rig.admin(), ("batches", "batch-1"), &order).await?.json()?;
    let done = becomes(&rig, &begun["id"], "done").await?;
    assert_eq!((&done["pictures"], &done["drawn"], &done["failed"]), (&json!(2), &json!(2), &json!(0)), "{done}");
    assert_eq!(
        (&done["waiting"], &done["drawing"], &done["source"]),
        (&json!(0), &json!(0), &json!("filter")),
        "{done}"
    );
    assert!(done["bytes"].as_u64() > Some(0) && done["device_seconds"].as_f64() > Some(0.0), "{done}");
    assert_eq!(done["cost"]["currency"], "EUR", "{done}");
    let mut order = order;
    order["why"] = json!("another reason");
    let again = repeats::order(&rig, rig.admin(), ("batches", "batch-1"), &order).await?.json()?;
    assert_eq!((&again["id"], control.calls()), (&begun["id"], 2));
    let other = repeats::order(&rig, rig.admin(), ("batches", "batch-1"), &filter(&["cube"])).await?;
    assert_eq!(other.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", other.text());

    let results = admin(&rig, Method::GET, &format!("{BATCHES}/{}/results", begun["id"]), None).await?.json()?;
    let pictures = results["pictures"].as_array().cloned().unwrap_or_default();
    assert_eq!((pictures.len(), &results["batch"]["state"]), (2, &json!("done")), "{results}");
    for picture in &pictures {
        assert_eq!(picture["state"], "drawn", "{picture}");
        let path = picture["url"].as_str().and_then(|url| url.find("/i/").map(|at| url[at..].to_owned()));
        let image = rig.http.image(rig.public(), &format!("{}&fm=webp", path.unwrap_or_default())).await?;
        assert!(
            image.outcome() == "memory"
                && image.header("cache-tag").contains(picture["master"].as_str().unwrap_or("?"))
        );
    }
    let csv = admin(&rig, Method::GET, &format!("{BATCHES}/{}/results?as=csv", begun["id"]), None).await?;
    assert!(csv.content_type().starts_with("text/csv"), "{}", csv.content_type());
    assert!(csv.header("content-disposition").contains(&format!("batch-{}.csv", begun["id"])));
    assert_eq!(csv.text().lines().count(), 3, "{}", csv.text());

    let after = tried(filter(&["mug", "vase", "cube"])).await?;
    assert_eq!((&after["there"], &after["to_draw"]), (&json!(2), &json!(1)), "{after}");
    let (seconds, cost) = (after["device_seconds"].as_f64(), after["cost"]["amount"].as_str());
    assert!(seconds > Some(0.0) && cost.is_some() && after["bytes"].as_u64() > done["bytes"].as_u64(), "{after}");
    // What is there is met, and not drawn again.
    let second = start(&rig, filter(&["mug", "vase", "cube"])).await?;
    let second = becomes(&rig, &second["id"], "done").await?;
    assert_eq!((&second["there"], &second["drawn"], control.calls()), (&json!(2), &json!(1), 3), "{second}");
    // Newest first.
    let listed = admin(&rig, Method::GET, BATCHES, None).await?.json()?;
    assert_eq!(listed["batches"][0]["id"], second["id"]);
    rig.http.counts(rig.admin(), "bildkante_edge_batch_pictures_total{outcome=\"drawn\"}", 3.0).await?;
    rig.stop().await;
    Ok(())
}

/// Paused, it draws nothing; a restart keeps it paused and goes on with what was under way; ended, it stays so.
#[tokio::test]
async fn a_batch_is_paused_survives_a_restart_and_is_ended() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let mut rig = rig(&control).await?;
    control.hold();
    let all = ["mug", "vase", "cube", "ring"];
    let id = start(&rig, filter(&all)).await?["id"].clone();
    control.started(1).await;
    let paused = asked(&rig, &id, "pause").await?.json()?;
    assert_eq!(
        (&paused["state"], &paused["drawing"], &paused["stored"]),
        (&json!("paused"), &json!(0), &json!(true)),
        "{paused}"
    );
    assert_eq!(asked(&rig, &id, "retry").await?.status, StatusCode::ACCEPTED, "a paused one may be tried again");
    asked(&rig, &id, "pause").await?;
    rig.stop_edge().await;
    control.release();
    rig.start_edge().await?;
    rig.ready().await?;
    assert_eq!(batch(&rig, &id).await?["state"], "paused");
    let resumed = asked(&rig, &id, "resume").await?;
    assert_eq!(resumed.status, StatusCode::ACCEPTED, "{}", resumed.text());
    let done = becomes(&rig, &id, "done").await?;
    assert_eq!(done["drawn"].as_u64().unwrap_or(0) + done["there"].as_u64().unwrap_or(0), 4, "{done}");
    assert_eq!(asked(&rig, &id, "pause").await?.status, StatusCode::CONFLICT, "it has ended");

    // In the middle of its work.
    control.hold();
    let before = control.calls();
    let id = start(&rig, filter(&["ball", "gift", "lamp"])).await?["id"].clone();
    control.started(before + 1).await;
    rig.stop_edge().await;
    control.release();
    rig.start_edge().await?;
    rig.ready().await?;
    let done = becomes(&rig, &id, "done").await?;
    assert_eq!((&done["failed"], &done["waiting"]), (&json!(0), &json!(0)), "{done}");

    control.hold();
    let before = control.calls();
    let mut reds = filter(&all);
    reds["filter"]["axes"]["colour"] = json!(["red"]);
    let id = start(&rig, reds).await?["id"].clone();
    control.started(before + 1).await;
    let ended = admin(&rig, Method::DELETE, &format!("{BATCHES}/{id}"), None).await?;
    assert_eq!(
        (ended.status, &ended.json()?["state"]),
        (StatusCode::ACCEPTED, &json!("cancelled")),
        "{}",
        ended.text()
    );
    assert_eq!(asked(&rig, &id, "resume").await?.status, StatusCode::CONFLICT);
    control.release();
    rig.stop().await;
    Ok(())
}

/// A picture that is killed fails by name and reason and holds up no other; lifted, it is tried again.
#[tokio::test]
async fn failures_are_named_and_tried_again() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = rig(&control).await?;
    let kill = json!({ "value": "studio?product=vase", "why": "a test" });
    let killed = admin(&rig, Method::POST, "/admin/v1/kills", Some(kill)).await?.json()?;
    let id = start(&rig, filter(&["vase", "mug"])).await?["id"].clone();
    let done = becomes(&rig, &id, "done").await?;
    assert_eq!((&done["drawn"], &done["failed"]), (&json!(1), &json!(1)), "{done}");
    let failure = &done["failures"][0];
    assert!(failure["picture"].as_str().is_some_and(|picture| picture.contains("product=vase")), "{done}");
    assert!(failure["reason"].as_str().is_some_and(|reason| reason.contains("kill")), "{done}");
    let path = format!("/admin/v1/kills/{}", killed["seq"]);
    admin(&rig, Method::DELETE, &path, Some(json!({ "why": "a test" }))).await?;
    asked(&rig, &id, "retry").await?;
    let done = becomes(&rig, &id, "done").await?;
    assert_eq!((&done["drawn"], &done["failed"], &done["failures"]), (&json!(2), &json!(0), &json!([])), "{done}");
    rig.stop().await;
    Ok(())
}

/// A slot that has none of the formats has no file of the picture: it failed, and was not there.
#[tokio::test]
async fn a_slot_without_the_formats_fails() -> anyhow::Result<()> {
    fn few(manifest: String) -> String {
        manifest.replace("[slots.thumb]", "[slots.thumb]\nformats = [\"avif\", \"jpg\"]")
    }
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan { edge: with_tokens, manifest: few, ..Plan::painted(&control) }).await?;
    // It may end before the device knows that it has begun.
    let begun = admin(&rig, Method::POST, BATCHES, Some(filter(&["mug"]))).await?.json()?;
    let done = becomes(&rig, &begun["id"], "done").await?;
    assert_eq!((&done["there"], &done["failed"], control.calls()), (&json!(0), &json!(1), 0), "{done}");
    let reason = done["failures"][0]["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("none of these formats: webp"), "{done}");
    rig.stop().await;
    Ok(())
}

/// Orders whose bodies take their time hold the others up for a while, and not for as long as they take.
#[tokio::test]
async fn an_order_behind_slow_ones_is_told_to_come_back() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = rig(&control).await?;
    let id = start(&rig, filter(&["mug"])).await?["id"].clone();
    becomes(&rig, &id, "done").await?;
    let head = format!(
        "POST {BATCHES} HTTP/1.1\r\nhost: edge\r\nauthorization: Bearer {TOKEN}\r\n\
         content-type: application/json\r\ncontent-length: 1000\r\nexpect: 100-continue\r\n\r\n"
    );
    let mut slow = Vec::new();
    for _ in 0..2 {
        let mut stream = tokio::net::TcpStream::connect(rig.admin()).await?;
        stream.write_all(head.as_bytes()).await?;
        // The edge asks for the body once it has given the order its turn.
        let mut asked = [0; 12];
        stream.read_exact(&mut asked).await?;
        assert_eq!(&asked, b"HTTP/1.1 100");
        slow.push(stream);
    }
    let path = format!("{BATCHES}/{id}/results");
    let (order, results) = tokio::join!(
        admin(&rig, Method::POST, BATCHES, Some(filter(&["vase"]))),
        admin(&rig, Method::GET, &path, None)
    );
    for refused in [order?, results?] {
        assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE, "{}", refused.text());
        assert_eq!(refused.json()?["type"], "/problems/busy", "{}", refused.text());
    }
    drop(slow);
    eventually("there is room again", async || {
        Ok(admin(&rig, Method::GET, &path, None).await?.status == StatusCode::OK)
    })
    .await?;
    rig.stop().await;
    Ok(())
}

/// Seeds of each variant are candidates: each its own case before reviewers, where people decide.
#[tokio::test]
async fn seeds_of_each_variant_come_before_reviewers() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan { edge: with_tokens, manifest: reviewed, ..Plan::painted(&control) }).await?;
    let order = json!({ "pictures": ["studio/thumb?product=vase", "/i/studio/thumb/x?product=mug&w=320"], "count": 2 });
    let id = start(&rig, order).await?["id"].clone();
    let done = becomes(&rig, &id, "done").await?;
    assert_eq!((&done["pictures"], &done["drawn"], &done["source"]), (&json!(4), &json!(4), &json!("list")), "{done}");
    let cases = admin(&rig, Method::GET, "/admin/v1/decisions?state=needs_review", None).await?.json()?;
    assert_eq!(cases["decisions"].as_array().map(Vec::len), Some(4), "{cases}");
    rig.stop().await;
    Ok(())
}

/// A hundred thousand rows with faults are answered at once, and draw nothing; right rows are drawn, each picture once.
#[tokio::test]
async fn a_table_is_drawn_wholly_or_refused_by_row_and_column() -> anyhow::Result<()> {
    const ROWS: u64 = 100_000;
    let control = Arc::new(FakeControl::default());
    let rig = rig(&control).await?;
    let mut text = "campaign,slot,product,colour\n".to_owned();
    for row in 0..ROWS {
        let _ = writeln!(
            text,
            "studio,thumb,{},{}",
            if row == 70 { "car" } else { "mug" },
            if row % 2 == 0 { "red" } else { "mauve" }
        );
    }
    let began = Instant::now();
    let refused = table(&rig, TOKEN, "", text).await?;
    eprintln!("{ROWS} rows with faults are refused in {:?}", began.elapsed());
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", refused.text());
    assert!(refused.body.len() < 64 << 10, "{} bytes", refused.body.len());
    let problem = refused.json()?;
    assert_eq!((&problem["type"], &problem["errors_total"]), (&json!("/problems/invalid-rows"), &json!(ROWS / 2 + 1)));
    let faults = problem["errors"].as_array().cloned().unwrap_or_default();
    assert_eq!((faults.len(), &faults[0]["row"], &faults[0]["column"]), (100, &json!(3), &json!("colour")));
    let car = faults.iter().find(|fault| fault["column"] == "product");
    assert_eq!(car.map(|fault| &fault["row"]), Some(&json!(72)), "as a spreadsheet numbers it");
    assert_eq!((control.calls(), &admin(&rig, Method::GET, BATCHES, None).await?.json()?["batches"]), (0, &json!([])));

    let right = "product;colour\nmug;teal\nmug;teal\nvase;\n".to_owned();
    let begun = table(&rig, TOKEN, "?campaign=studio&slot=thumb&formats=webp", right).await?;
    assert_eq!(begun.status, StatusCode::ACCEPTED, "{}", begun.text());
    let done = becomes(&rig, &begun.json()?["id"], "done").await?;
    assert_eq!((&done["pictures"], &done["source"], control.calls()), (&json!(2), &json!("csv"), 2), "{done}");
    rig.stop().await;
    Ok(())
}

/// Only operators of each campaign order; others of the campaign look, and those of another know of nothing.
#[tokio::test]
async fn orders_take_an_operator_of_each_campaign() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan { edge: with_giver, ..Plan::painted(&control) }).await?;
    let key = async |name: &str, roles: Value| give(&rig, name, &roles).await;
    let (viewer, elsewhere) =
        (key("viewer", json!({ "studio": "viewer" })).await?, key("elsewhere", json!({ "other": "operator" })).await?);
    let operator = key("operator", json!({ "studio": "operator" })).await?;
    let rows = "campaign,slot,product\nstudio,thumb,mug\nstudio,thumb,car\n";
    for key in [&viewer, &elsewhere] {
        let refused = table(&rig, key, "", rows.to_owned()).await?;
        assert_eq!(refused.status, StatusCode::FORBIDDEN, "no fault of a foreign campaign is told: {}", refused.text());
    }
    for named in [json!({ "campaign": "studio", "slot": "nowhere" }), json!({ "campaign": "nobody" })] {
        let request =
            Request::post(format!("http://{}{BATCHES}", rig.admin())).header("content-type", "application/json");
        let request = request.header("authorization", format!("Bearer {elsewhere}"));
        let refused = rig.http.send(request.body(Full::from(json!({ "filter": named }).to_string()))?).await?;
        assert_eq!(refused.status, StatusCode::FORBIDDEN, "no name of a foreign campaign is told: {}", refused.text());
    }
    let begun = table(&rig, &operator, "?formats=webp", rows.replace("studio,thumb,car\n", "")).await?;
    assert_eq!(begun.status, StatusCode::ACCEPTED, "{}", begun.text());
    let id = begun.json()?["id"].clone();
    becomes(&rig, &id, "done").await?;
    let get = async |key: &str, path: &str| {
        rig.http.get(rig.admin(), path, &[(http::header::AUTHORIZATION, &format!("Bearer {key}"))]).await
    };
    let path = format!("{BATCHES}/{id}");
    assert_eq!(get(&viewer, &path).await?.status, StatusCode::OK);
    for path in [path.clone(), format!("{path}/results"), format!("{path}/events")] {
        assert_eq!(get(&elsewhere, &path).await?.status, StatusCode::NOT_FOUND, "{path}");
    }
    assert_eq!(get(&elsewhere, BATCHES).await?.json()?["batches"], json!([]));
    let paused = Request::builder().method(Method::POST).uri(format!("http://{}{path}/retry", rig.admin()));
    let paused = paused.header("authorization", format!("Bearer {viewer}")).body(Full::default())?;
    assert_eq!(rig.http.send(paused).await?.status, StatusCode::FORBIDDEN);
    rig.stop().await;
    Ok(())
}

/// Each answer of the stream tells one change; what is wrong is told by its field.
#[tokio::test]
async fn progress_is_told_as_it_comes_and_wrong_orders_by_their_fields() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = rig(&control).await?;
    control.hold();
    let id = start(&rig, filter(&["mug"])).await?["id"].clone();
    control.started(1).await;
    let follow = async |after: &str| admin(&rig, Method::GET, &format!("{BATCHES}/{id}/events{after}"), None).await;
    let first = follow("").await?;
    assert_eq!(first.content_type(), "text/event-stream");
    let seen = first.text().lines().find_map(|line| line.strip_prefix("id: ").map(str::to_owned)).unwrap_or_default();
    assert!(first.text().contains("event: progress\n") && first.text().contains("\"drawing\":1"), "{}", first.text());
    let after = format!("?after={seen}");
    let next = follow(&after);
    control.release();
    let next = next.await?;
    assert!(!next.text().contains("event: quiet"), "{}", next.text());
    becomes(&rig, &id, "done").await?;
    assert!(follow("").await?.text().contains("event: still\n"));

    for (order, parameter) in [
        (json!({}), "pictures"),
        (json!({ "pictures": [] }), "pictures"),
        (json!({ "pictures": ["studio/thumb"], "filter": { "campaign": "studio" } }), "filter"),
        (json!({ "filter": { "campaign": "nobody" } }), "campaign"),
        (json!({ "filter": { "campaign": "studio", "slot": "nowhere" } }), "slot"),
        (json!({ "filter": { "campaign": "studio", "axes": { "product": ["car"] } } }), "axes"),
        (json!({ "filter": { "campaign": "studio", "states": ["happy"] } }), "states"),
        (json!({ "filter": { "campaign": "studio" }, "count": 17 }), "count"),
        (json!({ "filter": { "campaign": "studio" }, "formats": ["gif"] }), "formats"),
        (json!({ "filter": { "campaign": "studio" }, "colour": "red" }), "colour"),
    ] {
        let refused = admin(&rig, Method::POST, BATCHES, Some(order.clone())).await?;
        assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY, "{order}: {}", refused.text());
        assert_eq!(refused.json()?["parameter"], parameter, "{order}: {}", refused.text());
    }
    let long = format!("?why={}", "x".repeat(1_001));
    let refused = table(&rig, TOKEN, &long, "campaign,slot\nstudio,thumb\n".to_owned()).await?;
    assert_eq!((refused.status, &refused.json()?["parameter"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("why")));
    let none = json!({ "filter": { "campaign": "studio", "slot": "thumb", "states": ["withheld"] } });
    let none = admin(&rig, Method::POST, BATCHES, Some(none)).await?;
    assert_eq!(none.json()?["type"], "/problems/no-pictures", "{}", none.text());
    let named = admin(&rig, Method::POST, BATCHES, Some(json!({ "pictures": ["studio/thumb", "studio/x"] }))).await?;
    assert_eq!((&named.json()?["errors"][0]["row"], control.calls()), (&json!(2), 1), "{}", named.text());
    rig.stop().await;
    Ok(())
}
