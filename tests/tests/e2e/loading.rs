//! What pages show before a picture is there, what they fetch of it, and readers who save data.

use std::sync::Arc;

use anyhow::Context as _;
use bildkante_gpu_node::testing::FakeControl;
use bildkante_tests::browser::Browser;
use bildkante_tests::client::{Reply, eventually};
use bildkante_tests::judge;
use bildkante_tests::rig::{Plan, Rig};
use http::header::ACCEPT;
use http::{HeaderName, Method, StatusCode};
use serde_json::{Value, json};

use crate::cuts::{Page, with_cut};
use crate::kills::{CUBE, VASE};
use crate::purge::{admin, with_tokens};

const MARKUP: &str = "/p/studio/thumb?product=vase";
const SAVE_DATA: HeaderName = HeaderName::from_static("save-data");

fn with_lqip(text: String) -> String {
    text.replace("[slots.thumb]\n", "[slots.thumb]\nlqip = \"style\"\n")
}

/// The fragment, and what the JSON says of the LQIP.
async fn told(rig: &Rig) -> anyhow::Result<(String, Value)> {
    let fragment = rig.http.get(rig.public(), &format!("{MARKUP}&fm=html"), &[]).await?;
    let document = rig.http.get(rig.public(), &format!("{MARKUP}&fm=json"), &[]).await?.json()?;
    // An edge that is started again has another port.
    Ok((fragment.text().replace(&rig.public().to_string(), "edge"), document["lqip"].clone()))
}

#[tokio::test]
async fn an_lqip_is_known_with_the_first_rendition_and_after_a_restart_and_not_of_what_is_killed() -> anyhow::Result<()>
{
    let control = Arc::new(FakeControl::default());
    let mut rig = Rig::start(Plan { manifest: with_lqip, edge: with_tokens, ..Plan::painted(&control) }).await?;
    rig.http.image(rig.public(), CUBE).await?;
    let (bare, lqip) = told(&rig).await?;
    assert_eq!((lqip, bare.contains("thumbhash"), control.calls()), (Value::Null, false, 1), "nothing is drawn for it");

    rig.http.image(rig.public(), VASE).await?;
    let mut lqip = Value::Null;
    eventually("the LQIP is known", async || {
        lqip = told(&rig).await?.1;
        Ok(!lqip.is_null())
    })
    .await?;
    let (markup, _) = told(&rig).await?;
    let (colour, hash) = (lqip["average_colour"].as_str().unwrap_or(""), lqip["thumbhash"].as_str().unwrap_or(""));
    assert!(colour.len() == 7 && (8..=36).contains(&hash.len()), "{lqip}");
    for attribute in [
        format!("data-average-colour=\"{colour}\""),
        format!("data-thumbhash=\"{hash}\""),
        format!("style=\"background-color:{colour}\""),
    ] {
        assert!(markup.contains(&attribute), "{attribute}: {markup}");
    }
    assert_eq!(markup.matches(" sizes=\"auto, 6rem\"").count(), 3, "{markup}");
    // Another width is the same picture.
    rig.http.image(rig.public(), &format!("{VASE}&w=192")).await?;
    assert_eq!(told(&rig).await?, (markup.clone(), lqip.clone()));

    eventually("the rendition is on disk", async || Ok(!rig.edge_files("renditions")?.is_empty())).await?;
    rig.stop_edge().await;
    rig.start_edge().await?;
    eventually("the restarted edge has it", async || Ok(told(&rig).await? == (markup.clone(), lqip.clone()))).await?;

    let target = json!({ "variant": "studio/thumb?product=vase", "why": "a test" });
    let killed = admin(&rig, Method::POST, "/admin/v1/kills", Some(target)).await?;
    assert_eq!(killed.status, StatusCode::CREATED, "{}", killed.text());
    assert_eq!(told(&rig).await?, (bare, Value::Null), "nothing of the picture is shown");
    rig.stop().await;
    Ok(())
}

#[tokio::test]
async fn save_data_counts_where_the_url_opts_in_and_nowhere_else() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan::painted(&control)).await?;
    let on = [(SAVE_DATA, "on")];
    let ask = async |query: &str, fields: &[(HeaderName, &str)]| -> anyhow::Result<Reply> {
        let reply = rig.http.get(rig.public(), &format!("/i/studio/thumb?{query}"), fields).await?;
        anyhow::ensure!(reply.status == StatusCode::OK, "{query}: {} {}", reply.status, reply.text());
        Ok(reply)
    };
    let usual = ask("fm=png", &on).await?;
    assert_eq!(usual.header("vary"), "", "no field takes part");
    // JPEG: of coloured noise no WebP reaches either score, because it halves the chroma, and both would be the same file.
    let (usual, low) = (ask("fm=jpg", &on).await?, ask("fm=jpg&q=low", &[]).await?);
    assert_ne!(usual.header("etag"), low.header("etag"));
    for (fields, expected) in [(&on[..], &low), (&[][..], &usual), (&[(SAVE_DATA, "off")][..], &usual)] {
        let reply = ask("fm=jpg&save-data=auto", fields).await?;
        assert_eq!((reply.header("vary"), reply.header("etag")), ("Save-Data", expected.header("etag")), "{fields:?}");
    }
    // Asked again, so that an answer that was kept for one client would be seen by another.
    for fields in [&on[..], &[], &on, &[]] {
        let reply = ask("fm=jpg&save-data=auto", fields).await?;
        let expected = if fields.is_empty() { &usual } else { &low };
        assert_eq!(reply.header("etag"), expected.header("etag"), "{fields:?}");
    }
    let webp = (ACCEPT, "image/webp,*/*;q=0.5");
    assert_eq!(ask("save-data=auto", &[webp, (SAVE_DATA, "on")]).await?.header("vary"), "Accept, Save-Data");
    let hints = [("sec-ch-width", "192"), ("sec-ch-dpr", "2")].map(|(name, px)| (HeaderName::from_static(name), px));
    for (query, saving_px, usual_px) in [("w=auto", 96, 192), ("w=96&dpr=2", 192, 192)] {
        let query = format!("{query}&fm=png&save-data=auto");
        let [usual, saving] =
            [hints.to_vec(), [&hints[..], &on].concat()].map(async |fields| ask(&query, &fields).await);
        for (reply, px) in [(usual.await?, usual_px), (saving.await?, saving_px)] {
            assert_eq!(image::load_from_memory(&reply.body)?.width(), px, "{query}");
            assert!(reply.header("vary").ends_with("Save-Data"), "{:?}", reply.headers);
        }
    }
    let refused = rig.http.get(rig.public(), "/i/studio/thumb?save-data=yes", &[]).await?;
    assert_eq!((refused.status, refused.json()?["allowed"].clone()), (StatusCode::BAD_REQUEST, json!(["auto"])));
    let markup = rig.http.get(rig.public(), "/p/studio/thumb?fm=html&save-data=auto", &[]).await?.text();
    assert_eq!((markup.matches("&amp;save-data=auto").count(), markup.matches("/i/studio/").count()), (13, 13));
    rig.stop().await;
    Ok(())
}

/// What a page has of its pictures: which candidates are shown, and what was fetched how often.
const SEEN: &str = "const done = arguments[arguments.length - 1];\
    setTimeout(() => {\
        const pictures = [...document.images];\
        done({ shown: pictures.map(it => it.currentSrc), loaded: pictures.every(it => it.complete && it.naturalWidth > 0),\
            fetched: performance.getEntriesByType('resource').map(it => it.name) });\
    }, 0)";

/// A preload names a width by `sizes`, and a lazy image takes the one of its layout: where both were there, the browser fetched two.
#[tokio::test(flavor = "multi_thread")]
async fn a_browser_fetches_each_picture_of_a_page_once() -> anyhow::Result<()> {
    let test = "a_browser_fetches_each_picture_of_a_page_once";
    let (Some(driver), Some(chromium)) = (judge::find("chromedriver", test)?, judge::find("chromium", test)?) else {
        return Ok(());
    };
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan { manifest: with_cut, ..Plan::painted(&control) }).await?;
    let mut links = Vec::new();
    let mut pictures = String::new();
    for slot in ["hero", "thumb"] {
        let url = format!("/p/studio/{slot}?product=vase");
        let document = rig.http.get(rig.public(), &format!("{url}&fm=json"), &[]).await?.json()?;
        let preload = rig.http.get(rig.public(), &format!("{url}&fm=preload"), &[]).await?;
        assert_eq!((preload.status, preload.content_type()), (StatusCode::OK, "text/plain; charset=utf-8"));
        assert_eq!(document["preload"].as_str().unwrap_or_default(), preload.text());
        assert_eq!(preload.text().is_empty(), slot == "thumb", "{}", preload.text());
        links.extend(document["preload"].as_str().map(str::to_owned));
        pictures.push_str(document["markup"].as_str().context("markup")?);
    }
    let body = format!(
        "<!doctype html><html lang=en><head><link rel=icon href='data:,'><style>img {{ width: 30%; height: auto; display: block }}\
         </style></head><body style='margin:0'>{pictures}</body></html>"
    );
    let page = Page::serve(&links.join(", "), &body).await?;
    let browser = Browser::open(&driver, &chromium).await?;
    // The list of the slot says 6rem, or 100vw in its cut; the layout gives it 126 and 384 px.
    for (width_px, lazy) in [(420, "art=tall&w=144&"), (1_280, "&w=192&")] {
        let seen = browser.seen_at(width_px, &format!("http://{}/", page.address), SEEN).await?;
        let names = |key: &str| -> Vec<String> {
            let mut names: Vec<_> =
                seen[key].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
            names.sort();
            names
        };
        assert_eq!((names("fetched"), names("shown").len()), (names("shown"), 2), "{width_px} px: {seen}");
        assert!(seen["shown"][1].as_str().is_some_and(|url| url.contains(lazy)), "{width_px} px: {seen}");
    }
    browser.close().await?;
    rig.stop().await;
    Ok(())
}
