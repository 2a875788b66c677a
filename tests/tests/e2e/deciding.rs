//! Deciding fast: what one decided is taken back, the next picture opens, single cards and pictures that look alike are decided about
//! together, and a picture that is being drawn says how far it is.

use std::sync::Arc;

use anyhow::Context;
use bildkante_gpu_node::testing::FakeControl;
use bildkante_tests::browser::Browser;
use bildkante_tests::client::{Reply, eventually};
use bildkante_tests::judge;
use bildkante_tests::rig::{Plan, Rig};
use http::{Method, StatusCode, header};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use crate::people::{BrowserSession, form, give, session, with_giver, with_key};
use crate::purge::admin;
use crate::reviews::reviewed;

const OURS: (&str, &str) = ("sec-fetch-site", "same-origin");

async fn rig(control: &Arc<FakeControl>) -> anyhow::Result<Rig> {
    Rig::start(Plan { edge: with_giver, manifest: reviewed, ..Plan::painted(control) }).await
}

async fn cases(rig: &Rig) -> anyhow::Result<Vec<Value>> {
    let page = admin(rig, Method::GET, "/admin/v1/decisions", None).await?.json()?;
    Ok(page["decisions"].as_array().cloned().unwrap_or_default())
}

async fn draw(rig: &Rig, product: &str) -> anyhow::Result<Value> {
    let before = cases(rig).await?.len();
    let order = json!({ "variant": format!("studio/thumb?product={product}"), "count": 1 });
    let begun = admin(rig, Method::POST, "/admin/v1/candidates", Some(order)).await?;
    anyhow::ensure!(begun.status == StatusCode::ACCEPTED, "{}", begun.text());
    eventually("it is before reviewers", async || Ok(cases(rig).await?.len() > before)).await?;
    cases(rig).await?.pop().context("a case")
}

async fn state(rig: &Rig, id: &Value) -> anyhow::Result<Value> {
    Ok(admin(rig, Method::GET, &format!("/admin/v1/decisions/{id}"), None).await?.json()?["state"].clone())
}

/// Who decided takes it back, in time, while nobody else decided and no kill came; and every step stands in the history.
#[tokio::test]
async fn a_decision_is_taken_back_by_who_made_it() -> anyhow::Result<()> {
    let rig = rig(&Arc::default()).await?;
    let anna = give(&rig, "anna", &json!({ "studio": "operator" })).await?;
    let bert = give(&rig, "bert", &json!({ "studio": "approver" })).await?;
    let case = draw(&rig, "vase").await?;
    let path = format!("/admin/v1/decisions/{}", case["id"]);
    let decide = async |key: &str, order: Value| with_key(&rig, key, (Method::POST, &path), Some(&order)).await;
    let done = async |key: &str, order: Value| {
        let reply = decide(key, order).await?;
        anyhow::ensure!(reply.status == StatusCode::OK, "{} {}", reply.status, reply.text());
        reply.json()
    };
    let approved = done(&anna, json!({ "decision": "approve", "seen": case["seen"] })).await?;
    assert_eq!(approved["state"], "live");
    let undo = |seen: &Value| json!({ "decision": "undo", "seen": seen });
    let foreign = decide(&bert, undo(&approved["seen"])).await?;
    assert!(
        !foreign.status.is_success() && foreign.text().contains("another person decided last"),
        "{}",
        foreign.text()
    );
    let undone = done(&anna, undo(&approved["seen"])).await?;
    assert_eq!(undone["state"], "needs_review");
    let again = decide(&anna, undo(&undone["seen"])).await?;
    assert!(again.text().contains("no decision to take back"), "{}", again.text());

    // Somebody else decides in between.
    let rejected = done(&anna, json!({ "decision": "reject", "why": "a test" })).await?;
    done(&bert, json!({ "decision": "approve", "seen": rejected["seen"] })).await?;
    let overtaken = decide(&anna, undo(&rejected["seen"])).await?;
    assert!(overtaken.text().contains("has decided since"), "{}", overtaken.text());

    // A kill stands.
    let approved = done(&anna, json!({ "decision": "approve" })).await?;
    let kill = json!({ "variant": case["variant"], "why": "sold out" });
    let killed = with_key(&rig, &anna, (Method::POST, "/admin/v1/kills"), Some(&kill)).await?;
    assert_eq!(killed.status, StatusCode::CREATED, "{}", killed.text());
    let refused = decide(&anna, undo(&approved["seen"])).await?;
    assert!(refused.text().contains("a kill withholds the picture"), "{}", refused.text());

    let session = session(&rig, &anna).await?;
    let page = "/preview/studio/thumb/variant?product=vase&locale=de-DE&_lang=en";
    let html = rig.http.get(rig.admin(), page, &[(header::COOKIE, &session.cookie)]).await?.text();
    let (_, history) = html.split_once("id=\"history\"").context("a history")?;
    let expected = ["killed", "approved", "rejected", "taken back", "put before reviewers"];
    let steps: Vec<&str> = expected.into_iter().filter(|step| history.contains(&format!("<td>{step}</td>"))).collect();
    assert_eq!(steps, expected, "{history}");
    rig.stop().await;
    Ok(())
}

/// A form's decision leads on, and its page has the form that takes it back.
#[tokio::test]
async fn a_form_leads_on_and_takes_back() -> anyhow::Result<()> {
    let rig = rig(&Arc::default()).await?;
    let anna = session(&rig, &give(&rig, "anna", &json!({ "studio": "approver" })).await?).await?;
    let (vase, mug) = (draw(&rig, "vase").await?, draw(&rig, "mug").await?);
    let decide = async |case: &Value, back: &str, cookie: &str| {
        let back = utf8_percent_encode(back, NON_ALPHANUMERIC).to_string();
        let body = format!("csrf={}&back={back}&decision=approve&seen={}", anna.csrf, case["seen"]);
        let cookie = format!("{}{cookie}", anna.cookie);
        form(&rig, &format!("/preview/decisions/{}", case["id"]), &[("cookie", &cookie), OURS], body).await
    };
    let stays = decide(&mug, "/preview/studio/thumb/variant?product=mug", "").await?;
    assert_eq!(stays.header("location"), format!("/preview/studio/thumb/variant?product=mug&_undo={}", mug["id"]));
    let page = rig.http.get(rig.admin(), stays.header("location"), &[(header::COOKIE, &anna.cookie)]).await?.text();
    let field = |name: &str| {
        let (_, form) = page.split_once("class=\"undo\"")?;
        form.split(&format!("name=\"{name}\" value=\"")).nth(1)?.split('"').next().map(str::to_owned)
    };
    let cases = field("cases").context("a form to take it back")?;
    let undo = async |cases: &str, many: &str| {
        let body = format!("csrf={}&back=%2Fpreview%2F&cases={cases}{many}", anna.csrf);
        form(&rig, "/preview/undo", &[("cookie", &anna.cookie), OURS], body).await
    };
    assert_eq!(undo(&cases, "").await?.status, StatusCode::SEE_OTHER);
    assert_eq!(state(&rig, &mug["id"]).await?, "needs_review");
    let again = undo(&cases, "").await?;
    assert!(again.status == StatusCode::CONFLICT && again.text().contains("has decided since"), "{}", again.text());

    // From the queue the next one opens, unless the reader wants to stay; and from elsewhere if the reader wants that.
    let never =
        decide(&vase, "/preview/studio/thumb/variant?product=vase&_in=queue", "; bildkante-advance=never").await?;
    assert!(never.header("location").contains("product=vase"), "{}", never.header("location"));
    let lamp = draw(&rig, "lamp").await?;
    let next = decide(&lamp, "/preview/studio/thumb/variant?product=lamp&_in=queue", "").await?;
    let to = next.header("location").to_owned();
    assert!(to.contains("product=mug") && to.contains("_in=queue") && to.contains("_undo="), "{to}");
    let mug_now = admin(&rig, Method::GET, &format!("/admin/v1/decisions/{}", mug["id"]), None).await?.json()?;
    let last = decide(&mug_now, "/preview/studio/thumb/variant?product=mug", "; bildkante-advance=always").await?;
    assert_eq!(last.header("location"), format!("/preview/queue?_undo={}", mug["id"]), "nothing is left");
    rig.stop().await;
    Ok(())
}

/// The name and the value of each pick of a slot's page.
fn picks(html: &str) -> Vec<(String, String)> {
    let fields = html.split("name=\"pick/").skip(1).filter_map(|rest| {
        let (name, rest) = rest.split_once('"')?;
        let value = rest.split_once("value=\"")?.1.split_once('"')?.0;
        Some((name.replace("&amp;", "&"), value.to_owned()))
    });
    fields.collect()
}

async fn slot_page(rig: &Rig, who: &BrowserSession, query: &str) -> anyhow::Result<String> {
    let path = format!("/preview/studio/thumb?_lang=en&_view=cards&_state=needs_review&{query}");
    Ok(rig.http.get(rig.admin(), &path, &[(header::COOKIE, &who.cookie)]).await?.text())
}

async fn bulk(rig: &Rig, who: &BrowserSession, rest: &str) -> anyhow::Result<Reply> {
    let body = format!("csrf={}&back=%2Fpreview%2Fstudio%2Fthumb&slot=studio%2Fthumb&{rest}", who.csrf);
    form(rig, "/preview/bulk", &[("cookie", &who.cookie), OURS], body).await
}

/// A decision about picked cards is about what they showed, and can be taken back in one go.
#[tokio::test]
async fn picked_cards_are_decided_about_and_no_others() -> anyhow::Result<()> {
    let rig = rig(&Arc::default()).await?;
    let anna = session(&rig, &give(&rig, "anna", &json!({ "studio": "approver" })).await?).await?;
    for product in ["vase", "mug", "lamp"] {
        draw(&rig, product).await?;
    }
    let picks = picks(&slot_page(&rig, &anna, "").await?);
    assert_eq!(picks.len(), 3, "{picks:?}");
    let field =
        |(name, value): &(String, String)| format!("pick%2F{}={value}", utf8_percent_encode(name, NON_ALPHANUMERIC));
    let live = async || anyhow::Ok(cases(&rig).await?.iter().filter(|case| case["state"] == "live").count());
    let none = bulk(&rig, &anna, "of=picked&decision=approve").await?;
    assert!(none.text().contains("none of the picked pictures"), "{}", none.text());
    let foreign = bulk(&rig, &anna, "of=picked&decision=approve&pick%2Fother%2Fslot=1.1").await?;
    assert!(foreign.text().contains("none of this slot's cards"), "{}", foreign.text());
    let stale = (picks[0].0.clone(), picks[0].1.split('.').next().map(|id| format!("{id}.0")).unwrap_or_default());
    let refused = bulk(&rig, &anna, &format!("of=picked&decision=approve&{}", field(&stale))).await?;
    assert!(refused.text().contains("0 decided") && refused.text().contains("1 refused"), "{}", refused.text());
    assert_eq!(live().await?, 0);
    let two = format!("of=picked&decision=approve&{}&{}", field(&picks[0]), field(&picks[1]));
    let done = bulk(&rig, &anna, &two).await?;
    assert!(done.text().contains("2 decided"), "{}", done.text());
    assert_eq!(live().await?, 2, "the third was not picked");
    let text = done.text();
    let cases =
        text.split("name=\"cases\" value=\"").nth(1).and_then(|rest| rest.split('"').next()).context("cases")?;
    let body = format!("csrf={}&back=%2Fpreview%2F&many=true&cases={cases}", anna.csrf);
    let undone = form(&rig, "/preview/undo", &[("cookie", &anna.cookie), OURS], body.clone()).await?;
    assert!(undone.text().contains("2 taken back"), "{}", undone.text());
    assert!(!undone.text().contains("action=\"/preview/undo\""), "it is done: {}", undone.text());
    let again = form(&rig, "/preview/undo", &[("cookie", &anna.cookie), OURS], body).await?;
    let refused = ["0 taken back", "2 refused", "studio/thumb?", "has decided since"];
    assert!(refused.iter().all(|said| again.text().contains(said)), "{}", again.text());
    assert_eq!(live().await?, 0);
    rig.stop().await;
    Ok(())
}

/// Pictures that look alike are a filter: their number is told, and a decision about all is about what the page showed.
#[tokio::test]
async fn pictures_that_look_alike_are_decided_about_together() -> anyhow::Result<()> {
    let rig = rig(&Arc::default()).await?;
    let anna = session(&rig, &give(&rig, "anna", &json!({ "studio": "approver" })).await?).await?;
    for product in ["vase", "mug", "lamp"] {
        draw(&rig, product).await?;
    }
    let name = picks(&slot_page(&rig, &anna, "product=vase").await?).pop().context("a card")?.0;
    let values = name.split_once('?').context("values")?.1.to_owned();
    let like = utf8_percent_encode(&values, NON_ALPHANUMERIC).to_string();
    // The painter's noise looks like nothing else, and each picture looks like itself.
    let alone = slot_page(&rig, &anna, &format!("_like={like}&_bits=0")).await?;
    assert!(alone.contains("1 of ") && alone.contains("0 of 256 bits"), "{alone}");
    let all = slot_page(&rig, &anna, "").await?;
    assert!(!all.contains("data-alike"), "{all}");
    let seen = alone.split("name=\"seen\" value=\"").nth(1).and_then(|rest| rest.split('"').next()).context("seen")?;
    let filter =
        utf8_percent_encode(&format!("_state=needs_review&_like={like}&_bits=0"), NON_ALPHANUMERIC).to_string();
    let done = bulk(&rig, &anna, &format!("filter={filter}&decision=approve&seen={seen}")).await?;
    assert!(done.text().contains("1 decided"), "{}", done.text());
    let live = cases(&rig).await?.iter().filter(|case| case["state"] == "live").count();
    assert_eq!(live, 1);
    rig.stop().await;
    Ok(())
}

/// A picture that is being drawn says at which step it is, to those who look at pages and to no others.
#[tokio::test]
async fn a_drawing_says_how_far_it_is() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = rig(&control).await?;
    let anna = session(&rig, &give(&rig, "anna", &json!({ "studio": "approver" })).await?).await?;
    control.hold();
    let order = json!({ "variant": "studio/thumb?product=vase", "count": 1 });
    let begun = admin(&rig, Method::POST, "/admin/v1/candidates", Some(order)).await?.json()?;
    // How many steps there are is known from the first one on.
    control.started(1).await;
    control.allow(1);
    let recipe = begun["candidates"][0]["recipe"].as_str().context("a recipe")?.to_owned();
    let path = format!("/preview/progress?of={recipe}.0123.{}", "0".repeat(26));
    assert_eq!(rig.http.get(rig.admin(), &path, &[]).await?.status, StatusCode::UNAUTHORIZED);
    eventually("it is told", async || {
        let told = rig.http.get(rig.admin(), &path, &[(header::COOKIE, &anna.cookie)]).await?.json()?;
        let drawing = &told[&recipe];
        assert!(told.as_object().is_some_and(|told| told.len() <= 1), "{told}");
        Ok(drawing["state"] == "running" && drawing["of"].as_u64().is_some_and(|of| of > 0))
    })
    .await?;
    let page = "/preview/studio/thumb/variant?product=vase&_lang=en";
    eventually("the page says so without a script", async || {
        let html = rig.http.get(rig.admin(), page, &[(header::COOKIE, &anna.cookie)]).await?.text();
        Ok(html.contains(": step ") && html.contains("data-drawing=\"1\""))
    })
    .await?;
    control.release();
    eventually("it is before reviewers", async || Ok(cases(&rig).await?.len() == 1)).await?;
    rig.stop().await;
    Ok(())
}

/// By keys alone: decide, be led on, take it back.
#[tokio::test(flavor = "multi_thread")]
async fn keys_lead_on_and_take_back() -> anyhow::Result<()> {
    let test = "keys_lead_on_and_take_back";
    let (Some(driver), Some(chromium)) = (judge::find("chromedriver", test)?, judge::find("chromium", test)?) else {
        return Ok(());
    };
    let rig = rig(&Arc::default()).await?;
    let anna = session(&rig, &give(&rig, "anna", &json!({ "studio": "approver" })).await?).await?;
    let (vase, mug) = (draw(&rig, "vase").await?, draw(&rig, "mug").await?);
    let browser = Browser::open(&driver, &chromium).await?;
    browser.visit(&format!("http://{}/admin/login", rig.admin())).await?;
    browser.run(&format!("document.cookie = '{}; path=/'", anna.cookie)).await?;
    browser.visit(&format!("http://{}/preview/queue?_lang=en", rig.admin())).await?;
    browser.press("\u{e014}\u{e007}").await?;
    let here = async || anyhow::Ok(browser.run("return location.href").await?.as_str().unwrap_or_default().to_owned());
    eventually("the first one is open", async || Ok(here().await?.contains("product=vase"))).await?;
    browser.press("a").await?;
    eventually("the next one is open", async || Ok(here().await?.contains("product=mug"))).await?;
    assert_eq!(state(&rig, &vase["id"]).await?, "live");
    assert!(!here().await?.contains("_undo"), "the address is the page's own");
    browser.press("u").await?;
    eventually("it is taken back", async || Ok(state(&rig, &vase["id"]).await? == "needs_review")).await?;
    eventually("its page is open", async || Ok(here().await?.contains("product=vase"))).await?;
    assert_eq!(state(&rig, &mug["id"]).await?, "needs_review");

    // The switch stands beside that of the keys.
    browser.press("?").await?;
    browser.run("document.querySelector('#keys a[href*=\"_advance=always\"]').click()").await?;
    eventually("it is remembered", async || Ok(here().await?.contains("_advance=always"))).await?;
    browser.press("a").await?;
    eventually("the next one is open from elsewhere, too", async || Ok(here().await?.contains("product=mug"))).await?;
    browser.hold_quiet().await?;
    browser.close().await?;
    rig.stop().await;
    Ok(())
}
