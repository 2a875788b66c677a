//! The preview as a place to work, in Chromium: by keyboard, in both languages, without a barrier, and with hostile texts.

use std::sync::Arc;

use bildkante_edge::admin::token::{TokenConfig, TokenScope, hash};
use bildkante_edge::config::Config;
use bildkante_gpu_node::testing::FakeControl;
use bildkante_tests::browser::Browser;
use bildkante_tests::client::eventually;
use bildkante_tests::rig::{Plan, Rig};
use bildkante_tests::{axe, judge};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::kills::VASE;
use crate::people::{form, give, with_giver};
use crate::purge::admin;
use crate::reviews::reviewed;

const VARIANT: &str = "studio/thumb?product=vase";
/// A token that rules on pictures, and kills none.
const REVIEWER: &str = "bk_reviewer";
const ENTER: &str = "\u{e007}";

/// A reviewed campaign, and a browser in which its operator is logged in.
async fn opened(test: &str, control: &Arc<FakeControl>) -> anyhow::Result<Option<(Rig, Browser)>> {
    let (Some(driver), Some(chromium)) = (judge::find("chromedriver", test)?, judge::find("chromium", test)?) else {
        return Ok(None);
    };
    let rig = Rig::start(Plan { edge: with_giver, manifest: reviewed, ..Plan::painted(control) }).await?;
    let secret = give(&rig, "anna", &json!({ "studio": "operator" })).await?;
    let browser = Browser::open(&driver, &chromium).await?;
    browser.visit(&format!("http://{}/preview/queue", rig.admin())).await?;
    let enter = format!("document.querySelector('[name=key]').value = '{secret}'; document.forms[0].submit()");
    browser.run(&enter).await?;
    let path = async || anyhow::Ok(browser.run("return location.pathname").await?);
    eventually("anna is in", async || Ok(path().await? == "/preview/queue")).await?;
    Ok(Some((rig, browser)))
}

async fn text(browser: &Browser) -> anyhow::Result<String> {
    Ok(browser.run("return document.body.innerText").await?.as_str().unwrap_or_default().to_owned())
}

async fn says(browser: &Browser, what: &str) -> anyhow::Result<()> {
    eventually(what, async || Ok(text(browser).await?.contains(what))).await
}

async fn draw(rig: &Rig, variant: &str, count: usize) -> anyhow::Result<()> {
    let order = json!({ "variant": variant, "count": count });
    let begun = admin(rig, Method::POST, "/admin/v1/candidates", Some(order)).await?;
    anyhow::ensure!(begun.status == StatusCode::ACCEPTED, "{}", begun.text());
    eventually("they are before reviewers", async || Ok(cases(rig).await?.len() >= count)).await
}

async fn cases(rig: &Rig) -> anyhow::Result<Vec<Value>> {
    let page = admin(rig, Method::GET, "/admin/v1/decisions", None).await?.json()?;
    Ok(page["decisions"].as_array().cloned().unwrap_or_default())
}

/// From what awaits the reader to what is live, without a mouse; and a kill takes it back.
#[tokio::test(flavor = "multi_thread")]
async fn a_picture_is_chosen_approved_and_killed_by_keys() -> anyhow::Result<()> {
    let control = Arc::default();
    let test = "a_picture_is_chosen_approved_and_killed_by_keys";
    let Some((rig, browser)) = opened(test, &control).await? else { return Ok(()) };
    says(&browser, "Nothing awaits a decision of yours.").await?;
    draw(&rig, VARIANT, 3).await?;
    // They appear by themselves: the reader did not load the page again.
    says(&browser, "3 pictures await a decision.").await?;
    let settled = "return [...document.querySelectorAll('.card img')].filter(it => it.naturalWidth > 0).length";
    eventually("the pictures are seen", async || Ok(browser.run(settled).await? == 3)).await?;

    // The first arrow goes to the first picture, Enter opens it.
    browser.press("\u{e014}").await?;
    browser.press(ENTER).await?;
    says(&browser, "Decisions").await?;
    browser.press("2").await?;
    let chosen = browser.run("return document.querySelector('.chosen').id").await?;
    let id = chosen.as_str().and_then(|id| id.strip_prefix("case-")).unwrap_or_default().to_owned();
    browser.press("a").await?;
    eventually("it is live", async || {
        Ok(cases(&rig).await?.iter().any(|case| case["id"].as_u64() == id.parse().ok() && case["state"] == "live"))
    })
    .await?;
    let master =
        cases(&rig).await?.into_iter().find(|case| case["state"] == "live").unwrap_or_default()["master"].clone();
    let shown = rig.http.image(rig.public(), VASE).await?;
    assert!(shown.header("cache-tag").contains(master.as_str().unwrap_or("none")), "{:?}", shown.headers);

    // A kill asks for a reason and for the campaign's name.
    says(&browser, "live").await?;
    browser.press("k").await?;
    browser.press("sold out").await?;
    browser.press("\u{e004}studio").await?;
    browser.press(ENTER).await?;
    eventually("readers see it no more", async || {
        Ok(rig.http.image(rig.public(), VASE).await?.outcome().contains("killed"))
    })
    .await?;
    says(&browser, "the picture is withheld").await?;
    browser.hold_quiet().await?;
    browser.close().await?;
    rig.stop().await;
    Ok(())
}

/// Single keys can be turned off, and none acts while a text is typed.
#[tokio::test(flavor = "multi_thread")]
async fn single_keys_are_switchable() -> anyhow::Result<()> {
    let Some((rig, browser)) = opened("single_keys_are_switchable", &Arc::default()).await? else { return Ok(()) };
    browser.visit(&format!("http://{}/preview/studio/thumb", rig.admin())).await?;
    browser.press("?").await?;
    assert_eq!(browser.run("return document.getElementById('keys').open").await?, true);
    browser.run("document.querySelector('[data-keys-on]').click()").await?;
    browser.press(ENTER).await?;
    eventually("the help is closed", async || {
        Ok(browser.run("return document.getElementById('keys').open").await? == false)
    })
    .await?;
    browser.press("/").await?;
    assert_eq!(browser.run("return document.activeElement.matches('[data-search]')").await?, false, "keys are off");
    browser.run("localStorage.clear()").await?;
    browser.press("/").await?;
    assert_eq!(browser.run("return document.activeElement.matches('[data-search]')").await?, true);
    browser.press("vase?").await?;
    assert_eq!(browser.run("return document.activeElement.value").await?, "vase?", "what is typed is typed");
    browser.press(ENTER).await?;
    says(&browser, "0 of").await?;
    browser.close().await?;
    rig.stop().await;
    Ok(())
}

/// Every page in both languages, on a desktop and on a phone: axe finds nothing, nothing complains, and no other host is asked.
#[tokio::test(flavor = "multi_thread")]
async fn every_page_is_without_a_barrier() -> anyhow::Result<()> {
    let control = Arc::default();
    let test = "every_page_is_without_a_barrier";
    let Some((rig, browser)) = opened(test, &control).await? else { return Ok(()) };
    let Some(script) = axe::script(test)? else { return Ok(()) };
    draw(&rig, VARIANT, 2).await?;
    let ids: Vec<String> = cases(&rig).await?.iter().map(|case| case["id"].to_string()).collect();
    let pages = [
        ("/preview/".to_owned(), "Kampagnen"),
        ("/preview/queue".to_owned(), "Für mich"),
        ("/preview/studio/thumb?product=vase&_view=cards".to_owned(), "Bildern"),
        ("/preview/studio/thumb?product=vase&product=mug&colour=teal".to_owned(), "Zeilen"),
        ("/preview/studio/thumb?_q=nothing-is-called-so".to_owned(), "So ein Bild gibt es nicht"),
        (format!("/preview/{}", VARIANT.replace('?', "/variant?")), "Warum dieses Bild"),
        (format!("/preview/compare?a={}&b={}", ids[0], ids[1]), "Zurück zur Variante"),
    ];
    for (width_px, ground) in [(1_280, "dark"), (1_280, "light"), (420, "neutral")] {
        browser.resize(width_px, 900).await?;
        for (page, said) in &pages {
            let separator = if page.contains('?') { '&' } else { '?' };
            browser.visit(&format!("http://{}{page}{separator}_lang=de&_ground={ground}", rig.admin())).await?;
            says(&browser, said).await?;
            let found = axe::violations(&browser, &script).await?;
            assert!(found.is_empty(), "{page} on {width_px} px, {ground}: {found:?}");
            let wide = browser.run("return document.documentElement.scrollWidth - innerWidth").await?;
            assert!(
                wide.as_i64().is_some_and(|px| px <= 0),
                "{page} is {wide} px wider than the window of {width_px} px"
            );
            let hosts = browser
                .run("return [...new Set(performance.getEntriesByType('resource').map(it => new URL(it.name).host))]")
                .await?;
            let own = [rig.admin().to_string(), rig.public().to_string()];
            let foreign = hosts
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .find(|host| !own.contains(&(*host).to_owned()));
            assert_eq!(foreign, None, "{page}");
        }
    }
    // A cookie remembers the language.
    browser.visit(&format!("http://{}/preview/", rig.admin())).await?;
    says(&browser, "Kampagnen").await?;
    browser.hold_quiet().await?;
    browser.close().await?;
    rig.stop().await;
    Ok(())
}

/// One decision about each picture of a filter, each with its own line; what has changed meanwhile stops it.
#[tokio::test]
async fn one_form_decides_about_every_picture_of_a_filter() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    fn with_reviewer(config: &mut Config) {
        with_giver(config);
        let scopes = vec![TokenScope::Read, TokenScope::Review];
        config.admin.tokens.push(TokenConfig { name: "reviewer".to_owned(), hash: hash(REVIEWER), scopes });
    }
    let rig = Rig::start(Plan { edge: with_reviewer, manifest: reviewed, ..Plan::painted(&control) }).await?;
    let secret = give(&rig, "anna", &json!({ "studio": "approver" })).await?;
    let session = crate::people::session(&rig, &secret).await?;
    for product in ["vase", "mug", "lamp"] {
        let order = json!({ "variant": format!("studio/thumb?product={product}"), "count": 1 });
        admin(&rig, Method::POST, "/admin/v1/candidates", Some(order)).await?;
    }
    eventually("three await", async || Ok(cases(&rig).await?.len() == 3)).await?;
    let fields = [("cookie", session.cookie.as_str()), ("sec-fetch-site", "same-origin")];
    let send = async |rest: &str| {
        let body = format!(
            "csrf={}&back=%2Fpreview%2Fstudio%2Fthumb&slot=studio%2Fthumb&filter=product%3Dvase%26product%3Dmug%26_state%3Dneeds_review&{rest}",
            session.csrf
        );
        form(&rig, "/preview/bulk", &fields, body).await
    };
    let seen = async || {
        let page = "/preview/studio/thumb?product=vase&product=mug&_state=needs_review";
        let html = rig.http.get(rig.admin(), page, &[(http::header::COOKIE, &session.cookie)]).await?.text();
        let rest = html.split_once("name=\"seen\" value=\"").map_or("", |(_, rest)| rest);
        anyhow::Ok(rest.split('"').next().unwrap_or_default().to_owned())
    };
    let shown = seen().await?;
    let other = send("decision=approve&seen=0").await?;
    assert!(other.text().contains("not the pictures that the page showed"), "{}", other.text());
    let reasonless = send(&format!("decision=reject&seen={shown}")).await?;
    assert!(reasonless.text().contains("a reason is missing"), "{}", reasonless.text());
    let above = send("decision=kill&count=2&why=a+test&confirm=studio").await?;
    assert!(above.text().contains("operator"), "{}", above.text());
    assert!(cases(&rig).await?.iter().all(|case| case["state"] == "needs_review"), "nothing was decided");

    // A further candidate of one of them is another picture than the page showed.
    let order = json!({ "variant": "studio/thumb?product=vase", "count": 1 });
    admin(&rig, Method::POST, "/admin/v1/candidates", Some(order)).await?;
    eventually("it awaits, too", async || Ok(cases(&rig).await?.len() == 4)).await?;
    let overtaken = send(&format!("decision=approve&seen={shown}")).await?;
    assert!(overtaken.text().contains("not the pictures that the page showed"), "{}", overtaken.text());
    let done = send(&format!("decision=approve&seen={}", seen().await?)).await?;
    assert_eq!(done.status, StatusCode::OK, "{}", done.text());
    assert!(done.text().contains("2 decided"), "{}", done.text());
    let states = async || {
        let cases = cases(&rig).await?;
        anyhow::Ok(cases.iter().filter(|case| case["state"] == "live").count())
    };
    assert_eq!(states().await?, 2, "the lamp is not of the filter");
    // A token that may decide, and not kill, kills nothing by this door either.
    let reviewer = crate::people::session(&rig, REVIEWER).await?;
    let fields = [("cookie", reviewer.cookie.as_str()), ("sec-fetch-site", "same-origin")];
    let rest = "back=%2Fpreview%2F&slot=studio%2Fthumb&filter=&decision=kill&count=99999&why=a+test&confirm=studio";
    let kill = form(&rig, "/preview/bulk", &fields, format!("csrf={}&{rest}", reviewer.csrf)).await?;
    assert_eq!(kill.status, StatusCode::FORBIDDEN, "{}", kill.text());
    assert!(kill.text().contains("`kill`"), "{}", kill.text());
    rig.stop().await;
    Ok(())
}

/// Texts of a manifest are texts, whatever they say.
#[tokio::test]
async fn hostile_texts_of_a_manifest_stay_texts() -> anyhow::Result<()> {
    const HOSTILE: &str = "<script>alert(1)</script>'\u{22}><img src=x onerror=alert(2)>";
    fn hostile(text: String) -> String {
        let said = HOSTILE.replace('"', "\\\"");
        let text = text.replace("\"Studio product shots\"", &format!("\"{said}\""));
        let text = text.replace("en = \"mug\"", &format!("en = \"{said}\""));
        text.replace("\"gold, silver and copper are metallic with every finish\"", &format!("\"{said}\""))
    }
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan { manifest: hostile, ..Plan::painted(&control) }).await?;
    let one = "product=mug&colour=teal&material=glossy&backdrop=cream&setting=studio&locale=en-GB";
    for page in [
        "/preview/?_lang=en".to_owned(),
        "/preview/studio/hero?_lang=en".to_owned(),
        "/preview/studio/hero?_view=cards&product=mug&_lang=en".to_owned(),
        format!("/preview/studio/hero/variant?{one}&_lang=en"),
        "/preview/studio/hero?_q=%3Cscript%3Ealert(7)%3C/script%3E&_lang=en".to_owned(),
    ] {
        let reply = rig.http.get(rig.admin(), &page, &[]).await?;
        assert_eq!(reply.status, StatusCode::OK, "{page}: {}", reply.text());
        let html = reply.text();
        assert!(!html.contains("<script>alert") && !html.contains("<img src=x"), "{page}: {html}");
        // What a reader searched for has a number of its own: the title's text is on each page.
        let shown = if page.contains("_q=") { "&lt;script&gt;alert(7)" } else { "&lt;script&gt;alert(1)" };
        assert!(html.contains(shown), "{page}: {html}");
        let policy = reply.header("content-security-policy");
        assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    }
    rig.stop().await;
    Ok(())
}
