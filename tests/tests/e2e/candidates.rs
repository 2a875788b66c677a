//! Candidates: drawn with other seeds, compared, chosen, and made the manifest's own; and the forms with which people do it.

use std::fs;
use std::sync::Arc;

use bildkante_gpu_node::testing::FakeControl;
use bildkante_tests::browser::Browser;
use bildkante_tests::client::{Reply, eventually};
use bildkante_tests::judge;
use bildkante_tests::rig::{Plan, Rig};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::kills::{VASE, tag, warm as in_memory};
use crate::people::{form, give, with_giver};
use crate::purge::{admin, with_tokens};
use crate::reviews::reviewed;

const VARIANT: &str = "studio/thumb?product=vase";
const PICTURE: &str = "studio/thumb?backdrop=cream&colour=teal&material=glossy&product=vase&setting=studio";
const CANDIDATES: &str = "/admin/v1/candidates";

async fn draw(rig: &Rig, order: Value) -> anyhow::Result<Reply> {
    admin(rig, Method::POST, CANDIDATES, Some(order)).await
}

/// The cases of the vase, the oldest first.
async fn cases(rig: &Rig) -> anyhow::Result<Vec<Value>> {
    let variant = PICTURE.replace('?', "%3F").replace('&', "%26").replace('=', "%3D");
    let path = format!("/admin/v1/decisions?variant={variant}");
    let page = admin(rig, Method::GET, &path, None).await?.json()?;
    Ok(page["decisions"].as_array().cloned().unwrap_or_default())
}

async fn cases_are(rig: &Rig, count: usize) -> anyhow::Result<Vec<Value>> {
    let mut found = Vec::new();
    eventually("the candidates are before reviewers", async || {
        found = cases(rig).await?;
        Ok(found.len() == count)
    })
    .await?;
    Ok(found)
}

/// Drawn on a person's order alone, each its own recipe and master; the chosen one is shown, and stays so under the same id when
/// the manifest chooses it, too.
#[tokio::test]
async fn a_candidate_is_chosen_and_becomes_the_manifests_own() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan { edge: with_tokens, manifest: reviewed, ..Plan::painted(&control) }).await?;
    let begun = draw(&rig, json!({ "variant": VARIANT, "count": 3, "why": "a calmer one" })).await?;
    assert_eq!(begun.status, StatusCode::ACCEPTED, "{}", begun.text());
    assert_eq!(begun.json()?["variant"], PICTURE);
    let mut found = cases_are(&rig, 3).await?;
    found.sort_by_key(|case| case["drawn"]["seed"].as_u64());
    let seeds: Vec<_> = found.iter().filter_map(|case| case["drawn"]["seed"].as_u64()).collect();
    assert_eq!(seeds, [1_208, 1_209, 1_210], "those behind the manifest's own");
    assert_eq!(control.calls(), 3);
    for (one, other) in [(0, 1), (1, 2), (0, 2)] {
        assert_ne!(found[one]["recipe"], found[other]["recipe"]);
        assert_ne!(found[one]["master"], found[other]["master"]);
    }
    assert!(rig.http.image(rig.public(), VASE).await?.outcome().contains("awaiting-decision"), "none is public");

    let again = draw(&rig, json!({ "variant": VARIANT, "seeds": [1_209, 77] })).await?;
    assert_eq!(again.status, StatusCode::ACCEPTED, "{}", again.text());
    cases_are(&rig, 4).await?;
    assert_eq!(control.calls(), 4, "what is there is not drawn again");

    let order = json!({ "variant": VARIANT, "seeds": [78] });
    let keyed =
        async |order: &Value| crate::repeats::order(&rig, rig.admin(), ("candidates", "candidates-1"), order).await;
    for _ in 0..3 {
        let reply = keyed(&order).await?;
        assert_eq!(reply.status, StatusCode::ACCEPTED, "{}", reply.text());
    }
    let other = keyed(&json!({ "variant": VARIANT, "seeds": [79] })).await?;
    assert_eq!(other.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", other.text());
    cases_are(&rig, 5).await?;
    assert_eq!(control.calls(), 5);

    let chosen = &found[1];
    let path = format!("/admin/v1/decisions/{}", chosen["id"]);
    let ruled = admin(&rig, Method::POST, &path, Some(json!({ "decision": "approve" }))).await?.json()?;
    let patch = ruled["patch"].as_str().unwrap_or_default().to_owned();
    let values = PICTURE.split_once('?').map_or("", |(_, values)| values);
    assert_eq!(patch, format!("[slots.thumb.seeds]\n\"{values}\" = 1209\n"));
    let shown = in_memory(&rig, VASE).await?;
    assert_eq!(json!([tag(&shown, "master:"), tag(&shown, "recipe:")]), json!([chosen["master"], chosen["recipe"]]));

    let manifest = rig.dir.path().join("campaigns/studio.toml");
    fs::write(&manifest, format!("{}\n{patch}", fs::read_to_string(&manifest)?))?;
    eventually("the manifest chooses it, too", async || {
        Ok(admin(&rig, Method::GET, &path, None).await?.json()?["patch"].is_null())
    })
    .await?;
    let still = in_memory(&rig, VASE).await?;
    assert_eq!(still.header("etag"), shown.header("etag"), "{:?}", still.headers);
    assert_eq!(control.calls(), 5, "nothing is drawn for it");
    rig.stop().await;
    Ok(())
}

/// What cannot be drawn says why, and nothing is drawn for it.
#[tokio::test]
async fn candidates_that_make_no_sense_are_refused_by_name() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let open = Rig::start(Plan { edge: with_tokens, ..Plan::painted(&control) }).await?;
    let reply = draw(&open, json!({ "variant": VARIANT })).await?;
    assert_eq!(reply.status, StatusCode::CONFLICT, "{}", reply.text());
    assert!(reply.text().contains("review = \\\"required\\\""), "{}", reply.text());
    open.stop().await;
    let rig = Rig::start(Plan { edge: with_tokens, manifest: reviewed, ..Plan::painted(&control) }).await?;
    for (order, reason) in [
        (json!({ "variant": "studio/none" }), "is no variant"),
        (json!({ "variant": VARIANT, "count": 17 }), "1 to 16"),
        (json!({ "variant": VARIANT, "seeds": [] }), "list of 1 to 16"),
        (json!({ "variant": VARIANT, "seed": 1 }), "no field `seed`"),
        (json!({ "count": 1 }), "`variant` is missing"),
    ] {
        let reply = draw(&rig, order.clone()).await?;
        assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY, "{order}: {}", reply.text());
        assert!(reply.text().contains(reason), "{order}: {}", reply.text());
    }
    assert_eq!(control.calls(), 0);
    rig.stop().await;
    Ok(())
}

/// A picture's whole way in a browser, with forms alone: candidates, the choice, a kill; and what is refused tells why.
#[tokio::test(flavor = "multi_thread")]
async fn chromium_chooses_and_kills_with_forms() -> anyhow::Result<()> {
    let test = "chromium_chooses_and_kills_with_forms";
    let (Some(driver), Some(chromium)) = (judge::find("chromedriver", test)?, judge::find("chromium", test)?) else {
        return Ok(());
    };
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan { edge: with_giver, manifest: reviewed, ..Plan::painted(&control) }).await?;
    let secret = give(&rig, "anna", &json!({ "studio": "operator" })).await?;
    let browser = Browser::open(&driver, &chromium).await?;
    browser.visit(&format!("http://{}/preview/{}", rig.admin(), VARIANT.replace('?', "/variant?"))).await?;
    let log_in = format!("document.querySelector('[name=key]').value = '{secret}'; document.forms[0].submit()");
    browser.run(&log_in).await?;
    let text = async || {
        anyhow::Ok(browser.run("return document.body.innerText").await?.as_str().unwrap_or_default().to_owned())
    };
    let says = async |what: &str| eventually(what, async || Ok(text().await?.contains(what))).await;
    says("Nothing was put before reviewers yet").await?;
    let csrf = browser.run("return document.querySelector('[name=csrf]').value").await?;
    let send = async |form: &str, fields: &str| {
        let script = format!(
            "const form = document.querySelector('form[action^=\"{form}\"]'); {fields};
            form.requestSubmit()"
        );
        browser.run(&script).await
    };
    send("/preview/candidates", "form.count.value = 2").await?;
    cases_are(&rig, 2).await?;
    browser.run("location.reload()").await?;
    eventually("both pictures are seen", async || {
        let script = "return [...document.querySelectorAll('.cases img')].filter(it => it.naturalWidth > 0).length";
        Ok(browser.run(script).await? == 2)
    })
    .await?;
    send("/preview/decisions/", "form.scrollIntoView()").await?;
    says("live").await?;
    let chosen = cases(&rig).await?.into_iter().find(|case| case["state"] == "live").unwrap_or_default();
    let shown = in_memory(&rig, VASE).await?;
    assert_eq!(tag(&shown, "master:"), chosen["master"].as_str().unwrap_or_default());
    let page = text().await?;
    let history = ["anna", "approved", "put before reviewers"];
    assert!(history.iter().all(|said| page.contains(said)), "its history: {page}");

    // A form of another page, or without the session's token, changes nothing.
    let session = "bildkante=0";
    let body = format!("csrf={}&decision=reject&why=no&seen={}", csrf.as_str().unwrap_or_default(), chosen["seen"]);
    let path = format!("/preview/decisions/{}", chosen["id"]);
    for fields in [&[("cookie", session), ("sec-fetch-site", "same-origin")][..], &[("sec-fetch-site", "cross-site")]] {
        let forged = form(&rig, &path, fields, body.clone()).await?;
        assert!(
            matches!(forged.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN),
            "{fields:?}: {}",
            forged.status
        );
    }
    browser.run("document.querySelectorAll('[name=csrf]').forEach(it => { it.value = '0' })").await?;
    send("/preview/kills", "form.why.value = 'a test'; form.confirm.value = 'studio'").await?;
    eventually("a forged kill is refused", async || Ok(!text().await?.contains("History"))).await?;
    assert_eq!(in_memory(&rig, VASE).await?.header("etag"), shown.header("etag"));

    browser.visit(&format!("http://{}/preview/{}", rig.admin(), VARIANT.replace('?', "/variant?"))).await?;
    send("/preview/kills", "form.why.value = 'a test'; form.confirm.value = 'autumn'").await?;
    says("confirms a kill").await?;
    browser.run("document.querySelector('main a').click()").await?;
    says("History").await?;
    send("/preview/kills", "form.why.value = 'a test'; form.confirm.value = 'studio'").await?;
    eventually("readers see it no more", async || {
        Ok(rig.http.image(rig.public(), VASE).await?.outcome().contains("killed"))
    })
    .await?;
    says("the picture is withheld").await?;
    let in_history = "return [...document.querySelectorAll('td')].filter(it => it.textContent === 'killed').length";
    let stands_there = async || Ok(browser.run(in_history).await?.as_u64() > Some(0));
    eventually("it stands in the history", stands_there).await?;
    browser.close().await?;
    rig.stop().await;
    Ok(())
}
