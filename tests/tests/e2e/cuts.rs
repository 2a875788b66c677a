//! Cuts of a slot in Chromium: a narrow window shows another part of the picture, nothing moves, and nothing is fetched twice.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::Context as _;
use bildkante_gpu_node::testing::FakeControl;
use bildkante_tests::browser::Browser;
use bildkante_tests::client::eventually;
use bildkante_tests::judge;
use bildkante_tests::rig::{Plan, Rig};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::purge::{admin, with_tokens};

const TALL: &str = "/i/studio/thumb?product=vase&art=tall&fm=webp";

pub(crate) fn with_cut(text: String) -> String {
    let cut = "[[slots.thumb.cuts]]\nname = \"tall\"\nmedia = \"(max-width: 40rem)\"\nratio = \"4:5\"\nwidths = [48, 144]\n\
               focal = [0.2, 0.5]\nsizes = \"100vw\"\n";
    format!("{text}\n{cut}")
}

/// The same in a hero, which pages preload.
fn with_cut_of_a_hero(text: String) -> String {
    with_cut(text.replace("priority      = { urgency = 5 }", "priority      = { urgency = 1 }"))
}

/// What a page has of it: which candidate is shown, how far the page moved, and what was fetched how often.
const SEEN: &str = "const done = arguments[arguments.length - 1];\
    let moved = 0;\
    new PerformanceObserver(list => list.getEntries().forEach(it => { moved += it.value })).observe({ type: 'layout-shift', buffered: true });\
    setTimeout(() => {\
        const img = document.querySelector('img');\
        done({ shown: img.currentSrc, loaded: img.naturalWidth > 0, ratio: img.getBoundingClientRect().height / img.getBoundingClientRect().width, moved,\
            fetched: performance.getEntriesByType('resource').map(it => it.name) });\
    }, 0)";

/// A customer's page, with its `Link` field, for as long as it is held.
pub(crate) struct Page {
    pub(crate) address: SocketAddr,
    serving: JoinHandle<()>,
}

impl Page {
    pub(crate) async fn serve(link: &str, body: &str) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nLink: {link}\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n{body}",
            body.len()
        );
        let serving = tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let answer = answer.clone();
                tokio::spawn(async move {
                    let mut asked = [0; 4096];
                    if socket.read(&mut asked).await.is_ok_and(|length| length > 0) {
                        let _ = socket.write_all(answer.as_bytes()).await;
                    }
                });
            }
        });
        Ok(Self { address, serving })
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_narrow_window_shows_another_cut_and_nothing_moves() -> anyhow::Result<()> {
    let test = "a_narrow_window_shows_another_cut_and_nothing_moves";
    let (Some(driver), Some(chromium)) = (judge::find("chromedriver", test)?, judge::find("chromium", test)?) else {
        return Ok(());
    };
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan { manifest: with_cut_of_a_hero, ..Plan::painted(&control) }).await?;
    let document = rig.http.get(rig.public(), "/p/studio/thumb?product=vase&fm=json", &[]).await?.json()?;
    let of_one = rig.http.get(rig.public(), "/p/studio/thumb?product=vase&art=tall", &[]).await?;
    assert_eq!(of_one.status, StatusCode::BAD_REQUEST, "{}", of_one.text());
    let (markup, preload) = (document["markup"].as_str(), document["preload"].as_str());
    let (markup, preload) = (markup.context("markup")?, preload.context("a preload")?);
    // Every URL of the page is answered.
    for rung in ["art=tall&w=48", "art=tall&w=144", "w=48", "w=192"] {
        let picture = rig.http.image(rig.public(), &format!("/i/studio/thumb?product=vase&{rung}&fm=webp")).await?;
        assert_eq!(picture.status, StatusCode::OK, "{rung}: {}", picture.text());
    }
    assert_eq!(control.calls(), 1, "all cuts are of one master");
    let body = format!(
        "<!doctype html><html lang=en><head><link rel=icon href='data:,'><style>img {{ width: 100%; height: auto; display: block }}\
         </style></head><body style='margin:0'>{markup}<p>below</p></body></html>"
    );
    let page = Page::serve(preload, &body).await?;
    let browser = Browser::open(&driver, &chromium).await?;
    for (width_px, is_tall) in [(420, true), (1_280, false)] {
        let seen = browser.seen_at(width_px, &format!("http://{}/", page.address), SEEN).await?;
        let shown = seen["shown"].as_str().unwrap_or_default();
        assert_eq!(shown.contains("art=tall"), is_tall, "{width_px} px: {seen}");
        assert!(shown.contains("fm=avif"), "{seen}");
        let ratio = seen["ratio"].as_f64().context("a ratio")?;
        assert!((ratio - if is_tall { 1.25 } else { 1.0 }).abs() < 0.01, "{width_px} px: {seen}");
        assert_eq!(seen["moved"], json!(0), "{width_px} px: {seen}");
        let fetched: Vec<&str> = seen["fetched"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        assert_eq!(fetched, [shown], "{width_px} px: the preload is what is shown, and nothing else is fetched");
    }
    browser.close().await?;
    rig.stop().await;
    Ok(())
}

/// Warming makes every cut, and a purge of the variant takes them all.
#[tokio::test]
async fn cuts_are_warmed_and_purged_with_their_variant() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan { manifest: with_cut, edge: with_tokens, ..Plan::painted(&control) }).await?;
    let order = json!({ "campaign": "studio", "slot": "thumb", "axes": { "product": ["vase"], "colour": ["teal"],
        "material": ["glossy"], "backdrop": ["cream"], "setting": ["studio"] }, "formats": ["webp"] });
    let begun = admin(&rig, Method::POST, "/admin/v1/warm", Some(order)).await?;
    assert_eq!(begun.status, StatusCode::ACCEPTED, "{}", begun.text());
    let path = begun.header("location").to_owned();
    eventually("it is warm", async || Ok(admin(&rig, Method::GET, &path, None).await?.json()?["state"] == "done"))
        .await?;
    let warm = rig.http.image(rig.public(), TALL).await?;
    assert!(warm.header("cache-status").contains("hit"), "{:?}", warm.headers);
    let other = rig.http.image(rig.public(), "/i/studio/thumb?product=vase&fm=webp").await?;
    assert_ne!(warm.body, other.body);
    let order = json!({ "variant": "studio/thumb?product=vase", "kind": "hard", "why": "a test" });
    let purged = admin(&rig, Method::POST, "/admin/v1/purges", Some(order)).await?;
    assert_eq!(purged.status, StatusCode::OK, "{}", purged.text());
    for url in [TALL, "/i/studio/thumb?product=vase&fm=webp"] {
        let cold = rig.http.image(rig.public(), url).await?;
        assert!(!cold.header("cache-status").contains("; hit"), "{url}: {:?}", cold.headers);
    }
    rig.stop().await;
    Ok(())
}
