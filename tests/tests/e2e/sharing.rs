//! Links for people without an account: what they show, what they do not, when they end, and what their guests write.

use std::sync::Arc;

use anyhow::Context;
use bildkante_edge::config::Config;
use bildkante_edge::shares::ShareLink;
use bildkante_edge::signing::{SigningKeys, new_key_entry};
use bildkante_edge::words::clock::Clock;
use bildkante_gpu_node::testing::FakeControl;
use bildkante_tests::browser::Browser;
use bildkante_tests::client::{Reply, eventually};
use bildkante_tests::rig::{Plan, Rig};
use bildkante_tests::{axe, judge};
use http::{Method, Request, StatusCode, header};
use http_body_util::Full;
use serde_json::{Value, json};

use crate::people::{BrowserSession, form, give, session, with_giver};
use crate::purge::{TOKEN, admin};
use crate::reviews::reviewed;
use crate::signing::{keys_file, with_keys};

const VASE: &str = "studio/thumb?product=vase";
const HOSTILE: &str = "<script>alert(1)</script>'\"><img src=x onerror=alert(2)>";
const OURS: (&str, &str) = ("sec-fetch-site", "same-origin");

fn with_keys_and_giver(config: &mut Config) {
    with_giver(config);
    with_keys(config);
}

async fn opened(control: &Arc<FakeControl>) -> anyhow::Result<(Rig, BrowserSession)> {
    let rig = Rig::start(Plan { edge: with_keys_and_giver, manifest: reviewed, ..Plan::painted(control) }).await?;
    let secret = give(&rig, "anna", &json!({ "studio": "operator" })).await?;
    let session = session(&rig, &secret).await?;
    Ok((rig, session))
}

async fn cases(rig: &Rig) -> anyhow::Result<Vec<Value>> {
    let page = admin(rig, Method::GET, "/admin/v1/decisions", None).await?.json()?;
    Ok(page["decisions"].as_array().cloned().unwrap_or_default())
}

async fn draw(rig: &Rig, variant: &str) -> anyhow::Result<()> {
    let before = cases(rig).await?.len();
    let order = json!({ "variant": variant, "count": 1 });
    let begun = admin(rig, Method::POST, "/admin/v1/candidates", Some(order)).await?;
    anyhow::ensure!(begun.status == StatusCode::ACCEPTED, "{}", begun.text());
    eventually("it is before reviewers", async || Ok(cases(rig).await?.len() > before)).await
}

async fn share(rig: &Rig, pictures: &[&str]) -> anyhow::Result<Value> {
    let order = json!({ "slot": "studio/thumb", "title": "For the agency", "pictures": pictures, "days": 3 });
    let made = admin(rig, Method::POST, "/admin/v1/shares", Some(order)).await?;
    anyhow::ensure!(made.status == StatusCode::CREATED, "{} {}", made.status, made.text());
    made.json()
}

fn link(share: &Value) -> String {
    share["link"].as_str().unwrap_or_default().to_owned()
}

/// The address of something of a link.
fn part(link: &str, part: &str) -> String {
    link.replacen('?', &format!("/{part}?"), 1)
}

async fn get(rig: &Rig, path: &str) -> anyhow::Result<Reply> {
    rig.http.get(rig.admin(), path, &[]).await
}

async fn comment(rig: &Rig, link: &str, fields: &[(&str, &str)]) -> anyhow::Result<Reply> {
    let encode =
        |text: &str| percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string();
    let body: Vec<String> = fields.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect();
    form(rig, &part(link, "comments"), &[], body.join("&")).await
}

fn is_guarded(reply: &Reply) {
    assert_eq!(reply.header("x-robots-tag"), "noindex, nofollow");
    assert_eq!(reply.header("cache-control"), "private, no-store");
    assert_eq!(reply.header("referrer-policy"), "no-referrer");
    let policy = reply.header("content-security-policy");
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
}

/// A link shows its pictures to everyone who has it, and nothing else.
#[tokio::test]
async fn a_link_shows_its_pictures_and_nothing_else() -> anyhow::Result<()> {
    let (rig, _) = opened(&Arc::default()).await?;
    draw(&rig, VASE).await?;
    draw(&rig, "studio/thumb?product=mug").await?;
    let made = share(&rig, &[VASE]).await?;
    let link = link(&made);

    let page = get(&rig, &link).await?;
    assert_eq!(page.status, StatusCode::OK, "{}", page.text());
    is_guarded(&page);
    let html = page.text();
    assert!(html.contains("For the agency") && html.contains("/pictures/1?"), "{html}");
    for hidden in ["/preview/", "/admin/", "/pictures/2", "product=", "recipe", "seed", "decision", "anna"] {
        assert!(!html.contains(hidden), "{hidden}: {html}");
    }
    let picture = get(&rig, &part(&link, "pictures/1")).await?;
    assert_eq!((picture.status, picture.content_type()), (StatusCode::OK, "image/webp"), "{}", picture.text());
    is_guarded(&picture);
    for other in ["pictures/0", "pictures/2", "pictures/01", "picture/1", "pictures/1/x"] {
        let reply = get(&rig, &part(&link, other)).await?;
        assert_eq!(reply.status, StatusCode::NOT_FOUND, "{other}: {}", reply.text());
        is_guarded(&reply);
    }
    // It opens no other door.
    let (_, query) = link.split_once('?').context("a query")?;
    for closed in ["/preview/", "/admin/v1/decisions", "/admin/v1/shares"] {
        let reply = get(&rig, &format!("{closed}?{query}")).await?;
        assert_eq!(reply.status, StatusCode::UNAUTHORIZED, "{closed}");
    }
    for asset in ["style.css", "shared.js", "text.js"] {
        assert_eq!(get(&rig, &format!("/shared/{asset}")).await?.status, StatusCode::OK, "{asset}");
    }
    assert_eq!(get(&rig, "/shared/keys.js").await?.status, StatusCode::NOT_FOUND);
    // A case that comes later is not shown: the link goes on showing what it showed.
    let before = get(&rig, &part(&link, "pictures/1")).await?.body;
    draw(&rig, VASE).await?;
    assert_eq!(get(&rig, &part(&link, "pictures/1")).await?.body, before);

    let listed = admin(&rig, Method::GET, "/admin/v1/shares", None).await?.json()?;
    assert_eq!(listed["shares"][0]["id"], made["id"], "{listed:#}");
    let audit = admin(&rig, Method::GET, "/admin/v1/audit", None).await?.text();
    assert!(audit.contains("\"kind\":\"share\""), "{audit}");

    // What is killed leaves it.
    let kill = json!({ "variant": "studio/thumb?product=vase", "why": "a test" });
    let killed = admin(&rig, Method::POST, "/admin/v1/kills", Some(kill)).await?;
    assert_eq!(killed.status, StatusCode::CREATED, "{}", killed.text());
    assert_eq!(get(&rig, &part(&link, "pictures/1")).await?.status, StatusCode::GONE);
    let html = get(&rig, &link).await?.text();
    assert!(html.contains("not shown any more") && !html.contains("/pictures/1?"), "{html}");
    rig.stop().await;
    Ok(())
}

/// What was tampered with, has expired, was ended or lost its key opens nothing.
#[tokio::test]
async fn a_link_that_is_not_good_opens_nothing() -> anyhow::Result<()> {
    let (rig, _) = opened(&Arc::default()).await?;
    draw(&rig, VASE).await?;
    let made = share(&rig, &[VASE]).await?;
    let (good, id) = (link(&made), made["id"].as_str().unwrap_or_default().to_owned());
    let expires = good.split("expires=").nth(1).and_then(|rest| rest.split('&').next()).context("an end")?;
    let signature = good.split("&s=").nth(1).context("a signature")?;
    let turned: String = signature.chars().rev().collect();
    for (tampered, status) in [
        (good.replace(&id, "0123456789abcdef"), StatusCode::FORBIDDEN),
        (good.replace(expires, "9999999999"), StatusCode::FORBIDDEN),
        (good.replace(signature, &turned), StatusCode::FORBIDDEN),
        (good.replace("kid=first", "kid=other"), StatusCode::FORBIDDEN),
        (format!("{good}&x=1"), StatusCode::NOT_FOUND),
        (format!("/shared/{id}"), StatusCode::NOT_FOUND),
        (good.replace(&format!("&s={signature}"), ""), StatusCode::NOT_FOUND),
    ] {
        for path in [tampered.clone(), part(&tampered, "pictures/1")] {
            let reply = get(&rig, &path).await?;
            assert_eq!(reply.status, status, "{path}: {}", reply.text());
            assert!(!reply.text().contains("For the agency"), "{path}");
            is_guarded(&reply);
        }
    }
    let now_s = Clock::System.unix_s();
    let file = keys_file(&rig);
    let first = std::fs::read_to_string(&file)?;
    let dummy = format!("expires={now_s}&kid=first&s=x");
    let unsigned = ShareLink::parse(&id, Some(&dummy)).context("a link")?;
    let past = SigningKeys::parse(&first)?.sign(&unsigned, None, Some(now_s - 10), now_s - 20)?;
    let expired = get(&rig, &format!("/shared/{id}?{}", past.query())).await?;
    assert_eq!(expired.status, StatusCode::GONE, "{}", expired.text());
    assert!(expired.text().contains("This link is over"), "{}", expired.text());

    // A retired key's links are answered, and those that are copied now bear the next one.
    std::fs::write(&file, format!("{}{first}retired = true\n", new_key_entry("second")?))?;
    let path = format!("/admin/v1/shares/{id}");
    let mut next = String::new();
    eventually("links are signed by the next key", async || {
        next = link(&admin(&rig, Method::GET, &path, None).await?.json()?);
        Ok(next.contains("kid=second"))
    })
    .await?;
    for link in [&good, &next] {
        assert_eq!(get(&rig, link).await?.status, StatusCode::OK, "{link}");
    }
    let both = std::fs::read_to_string(&file)?;
    let second = both.split("[[keys]]").find(|entry| entry.contains("second")).context("an entry")?;
    std::fs::write(&file, format!("[[keys]]{second}"))?;
    eventually("the old key is gone", async || Ok(get(&rig, &good).await?.status == StatusCode::FORBIDDEN)).await?;
    assert_eq!(get(&rig, &next).await?.status, StatusCode::OK);

    let ended = admin(&rig, Method::DELETE, &path, Some(json!({ "why": "a test" }))).await?;
    assert_eq!(ended.status, StatusCode::OK, "{}", ended.text());
    for path in [next.clone(), part(&next, "pictures/1")] {
        assert_eq!(get(&rig, &path).await?.status, StatusCode::GONE, "{path}");
    }
    // A repeated order became what it became, and another one ends nothing.
    let other = share(&rig, &[VASE]).await?;
    let path = format!("http://{}/admin/v1/shares/{}", rig.admin(), other["id"].as_str().unwrap_or_default());
    let end = async |key: &str| {
        let request = Request::delete(&path).header("content-type", "application/json").header("idempotency-key", key);
        let request = request.header("authorization", format!("Bearer {TOKEN}"));
        rig.http.send(request.body(Full::from(json!({ "why": "a test" }).to_string()))?).await
    };
    let (first, repeated) = (end("first").await?, end("first").await?);
    assert_eq!((first.status, &first.body), (repeated.status, &repeated.body), "{}", repeated.text());
    assert_eq!((first.status, end("second").await?.status), (StatusCode::OK, StatusCode::NOT_FOUND));
    let late = comment(&rig, &next, &[("picture", "1"), ("name", "Ada"), ("text", "too late")]).await?;
    assert_eq!(late.status, StatusCode::GONE, "{}", late.text());
    rig.stop().await;
    Ok(())
}

/// What guests write is bounded and stays a text, and reviewers settle it.
#[tokio::test]
async fn guests_write_comments_and_reviewers_settle_them() -> anyhow::Result<()> {
    let (rig, session) = opened(&Arc::default()).await?;
    draw(&rig, VASE).await?;
    let made = share(&rig, &[VASE]).await?;
    let link = link(&made);
    let long = "x".repeat(1_001);
    for (fields, why) in [
        ([("picture", "2"), ("name", "Ada"), ("text", "t"), ("x", "")], "no such picture"),
        ([("picture", "1"), ("name", ""), ("text", "t"), ("x", "")], "a name has"),
        ([("picture", "1"), ("name", "Ada"), ("text", &long), ("x", "")], "a comment has"),
        ([("picture", "1"), ("name", "Ada"), ("text", "t"), ("x", "101")], "a point lies on"),
    ] {
        let refused = comment(&rig, &link, &fields).await?;
        assert!(refused.status.is_client_error() && refused.text().contains(why), "{why}: {}", refused.text());
        is_guarded(&refused);
    }
    // What was written stays in the form, on a page in the language of the one before, which leads back to the link.
    let fields =
        [("picture", "1"), ("name", "Ada"), ("text", "kept <b>"), ("x", "101"), ("y", "7"), ("language", "de")];
    let html = comment(&rig, &link, &fields).await?.text();
    let address = link.replace('&', "&amp;");
    for part in [
        "lang=\"de\"",
        "nicht angenommen",
        "kept &lt;b&gt;</textarea>",
        "value=\"101\"",
        "value=\"Ada\"",
        &format!("href=\"{address}&amp;_lang=en\""),
    ] {
        assert!(html.contains(part), "{part}: {html}");
    }
    let fields = [("picture", "1"), ("name", HOSTILE), ("text", HOSTILE), ("x", "25"), ("y", "75.5")];
    let taken = comment(&rig, &link, &fields).await?;
    assert_eq!(taken.status, StatusCode::SEE_OTHER, "{}", taken.text());
    assert!(taken.header("location").ends_with("#picture-1"), "{}", taken.header("location"));
    let path = format!("/admin/v1/shares/{}", made["id"].as_str().unwrap_or_default());
    let told = admin(&rig, Method::GET, &path, None).await?.json()?;
    assert_eq!((&told["comments"][0]["x"], &told["comments"][0]["y"]), (&json!(0.25), &json!(0.755)), "{told:#}");
    assert_eq!((&told["comment_count"], &told["open_count"]), (&json!(1), &json!(1)));

    let variant = "/preview/studio/thumb/variant?product=vase&_lang=en";
    let page = async || rig.http.get(rig.admin(), variant, &[(header::COOKIE, &session.cookie)]).await;
    for html in [get(&rig, &link).await?.text(), page().await?.text()] {
        assert!(!html.contains("<script>alert") && !html.contains("<img src=x"), "{html}");
        assert!(html.contains("&lt;script&gt;alert(1)") && html.contains("cx=\"250\""), "{html}");
    }
    let id = told["comments"][0]["id"].to_string();
    let fields = [("cookie", session.cookie.as_str()), OURS];
    let send = async |rest: &str| {
        let body = format!("csrf={}&back=%2Fpreview%2F&{rest}", session.csrf);
        form(&rig, &format!("/preview/comments/{id}"), &fields, body).await
    };
    assert_eq!(send("resolved=true").await?.status, StatusCode::SEE_OTHER);
    assert!(page().await?.text().contains("data-resolved"));
    let resolved =
        admin(&rig, Method::POST, &format!("/admin/v1/comments/{id}"), Some(json!({ "resolved": false }))).await?;
    assert_eq!((resolved.status, &resolved.json()?["resolved_unix_ms"]), (StatusCode::OK, &Value::Null));
    assert_eq!(send("delete=true").await?.status, StatusCode::SEE_OTHER);
    assert!(!page().await?.text().contains("&lt;script&gt;alert(1)"));
    assert_eq!(
        admin(&rig, Method::DELETE, &format!("/admin/v1/comments/{id}"), None).await?.status,
        StatusCode::NOT_FOUND
    );
    rig.stop().await;
    Ok(())
}

/// Made, listed and ended by forms, by those who see what is not public yet, and by no others.
#[tokio::test]
async fn links_are_made_of_a_filter_or_of_picked_cards() -> anyhow::Result<()> {
    let (rig, anna) = opened(&Arc::default()).await?;
    for product in ["vase", "mug", "lamp"] {
        draw(&rig, &format!("studio/thumb?product={product}")).await?;
    }
    let viewer = session(&rig, &give(&rig, "vera", &json!({ "studio": "viewer" })).await?).await?;
    let send = async |who: &BrowserSession, rest: &str| {
        let body = format!("csrf={}&back=%2Fpreview%2F&slot=studio%2Fthumb&days=2&{rest}", who.csrf);
        form(&rig, "/preview/shares", &[("cookie", &who.cookie), OURS], body).await
    };
    let filter = "filter=product%3Dvase%26product%3Dmug%26_state%3Dneeds_review&title=A+filter";
    let made = send(&anna, filter).await?;
    assert_eq!(made.status, StatusCode::OK, "{}", made.text());
    assert!(made.text().contains("2 pictures") && made.text().contains("/shared/"), "{}", made.text());
    let refused = send(&viewer, filter).await?;
    assert_eq!(refused.status, StatusCode::FORBIDDEN, "{}", refused.text());
    let none = send(&anna, "of=picked&title=None").await?;
    assert!(none.text().contains("pick the pictures"), "{}", none.text());

    let page = async || {
        let path = "/preview/studio/thumb?product=lamp&_state=needs_review&_view=cards&_lang=en";
        rig.http.get(rig.admin(), path, &[(header::COOKIE, &anna.cookie)]).await
    };
    let html = page().await?.text();
    let pick = html.split("name=\"pick/").nth(1).and_then(|rest| rest.split('"').next()).context("a pick")?;
    let pick = pick.replace("&amp;", "&");
    let pick = percent_encoding::utf8_percent_encode(&pick, percent_encoding::NON_ALPHANUMERIC).to_string();
    let made = send(&anna, &format!("of=picked&pick%2F{pick}=1.1&title=Picked")).await?;
    assert!(made.text().contains("1 picture: "), "{}", made.text());
    let html = page().await?.text();
    assert!(html.contains("Open links") && html.contains("Picked") && html.contains("A filter"), "{html}");
    let id = html.split("data-share=\"").nth(1).and_then(|rest| rest.split('"').next()).context("a link")?.to_owned();
    let body = format!("csrf={}&back=%2Fpreview%2F&why=a+test", anna.csrf);
    let ended = form(&rig, &format!("/preview/shares/{id}"), &[("cookie", &anna.cookie), OURS], body).await?;
    assert_eq!(ended.status, StatusCode::SEE_OTHER, "{}", ended.text());
    assert!(!page().await?.text().contains(&id));
    rig.stop().await;
    Ok(())
}

/// A guest clicks a picture, writes, and finds the point on it; without a barrier, on a desktop and on a phone.
#[tokio::test(flavor = "multi_thread")]
async fn a_guest_pins_a_comment_to_a_point() -> anyhow::Result<()> {
    let test = "a_guest_pins_a_comment_to_a_point";
    let (Some(driver), Some(chromium)) = (judge::find("chromedriver", test)?, judge::find("chromium", test)?) else {
        return Ok(());
    };
    let Some(script) = axe::script(test)? else { return Ok(()) };
    let (rig, anna) = opened(&Arc::default()).await?;
    draw(&rig, VASE).await?;
    let link = link(&share(&rig, &[VASE]).await?);
    let browser = Browser::open(&driver, &chromium).await?;
    browser.visit(&format!("http://{}{link}", rig.admin())).await?;
    let loaded = "return document.querySelector('.pinned-frame img').naturalWidth > 0";
    eventually("the picture is seen", async || Ok(browser.run(loaded).await? == true)).await?;
    browser
        .run(
            "const frame = document.querySelector('[data-pinnable]'), box = frame.getBoundingClientRect();\
             frame.dispatchEvent(new MouseEvent('click', { bubbles: true, clientX: box.left + box.width / 4, clientY: box.top + box.height / 2 }))",
        )
        .await?;
    let at = browser.run("return ['x', 'y'].map(name => Math.round(document.forms[0].elements[name].value))").await?;
    assert_eq!(at, json!([25, 50]));
    assert_eq!(browser.run("return document.querySelectorAll('svg.pins circle.new').length").await?, 1);
    browser.run("document.forms[0].elements.name.value = 'Ada'").await?;
    // The field of the text has the focus.
    browser.press("the handle is too long").await?;
    browser.run("document.forms[0].querySelector('button').click()").await?;
    let pinned = "return document.querySelectorAll('svg.pins circle').length === 1 && document.body.innerText.includes('the handle is too long')";
    eventually("the comment is there", async || Ok(browser.run(pinned).await? == true)).await?;
    for (width_px, language) in [(1_280, "en"), (420, "de")] {
        browser.resize(width_px, 900).await?;
        browser.visit(&format!("http://{}{link}&_lang={language}", rig.admin())).await?;
        browser.run("document.querySelector('details').open = true").await?;
        let found = axe::violations(&browser, &script).await?;
        assert!(found.is_empty(), "{width_px} {language}: {found:?}");
        let wide = browser.run("return document.documentElement.scrollWidth - innerWidth").await?;
        assert!(wide.as_i64().is_some_and(|px| px <= 0), "{wide} px wider than {width_px} px");
    }
    // The reviewer's pages, with the point on the picture and all that can be opened.
    browser.visit(&format!("http://{}/admin/login", rig.admin())).await?;
    let (name, value) = anna.cookie.split_once('=').context("a cookie")?;
    browser.run(&format!("document.cookie = '{name}={value}; path=/'")).await?;
    for page in [
        "/preview/studio/thumb/variant?product=vase",
        "/preview/studio/thumb?product=vase&_view=cards",
        "/preview/studio/thumb?product=vase",
    ] {
        for width_px in [1_280, 420] {
            browser.resize(width_px, 900).await?;
            browser.visit(&format!("http://{}{page}", rig.admin())).await?;
            browser.run("document.querySelectorAll('main details').forEach(it => { it.open = true })").await?;
            let found = axe::violations(&browser, &script).await?;
            assert!(found.is_empty(), "{page} on {width_px}: {found:?}");
        }
    }
    browser.hold_quiet().await?;
    browser.close().await?;
    rig.stop().await;
    Ok(())
}
