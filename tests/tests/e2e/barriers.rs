//! What appears on the preview's pages only after a person has done something, judged in Chromium: in both languages, on each ground, on a
//! desktop and on a phone.

use std::path::PathBuf;
use std::sync::Arc;

use bildkante_gpu_node::testing::FakeControl;
use bildkante_tests::browser::Browser;
use bildkante_tests::client::eventually;
use bildkante_tests::rig::{Painter, Plan, Rig};
use bildkante_tests::{axe, judge};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::kills::{VASE, warm as in_memory};
use crate::people::{give, with_giver};
use crate::purge::admin;
use crate::reviews::reviewed;

const MUG: &str = "/i/studio/thumb?product=mug&fm=webp";

/// A browser in which an operator is logged in.
struct Desk {
    rig: Rig,
    browser: Browser,
    axe: PathBuf,
}

impl Desk {
    /// `None` where a judge is missing.
    async fn open(test: &str, plan: Plan) -> anyhow::Result<Option<Self>> {
        let (Some(driver), Some(chromium)) = (judge::find("chromedriver", test)?, judge::find("chromium", test)?)
        else {
            return Ok(None);
        };
        let Some(axe) = axe::script(test)? else { return Ok(None) };
        let rig = Rig::start(plan).await?;
        let secret = give(&rig, "anna", &json!({ "studio": "operator" })).await?;
        let browser = Browser::open(&driver, &chromium).await?;
        browser.visit(&format!("http://{}/admin/login?to=%2Fpreview%2Fqueue", rig.admin())).await?;
        let enter =
            format!("document.querySelector('[name=key]').value = '{secret}'; document.forms[0].requestSubmit()");
        browser.run(&enter).await?;
        let desk = Self { rig, browser, axe };
        desk.is_at("/preview/queue").await?;
        Ok(Some(desk))
    }

    async fn visit(&self, path: &str) -> anyhow::Result<()> {
        self.browser.visit(&format!("http://{}{path}", self.rig.admin())).await
    }

    async fn is_at(&self, path: &str) -> anyhow::Result<()> {
        eventually(path, async || {
            let at = self.browser.run("return location.pathname").await?;
            Ok(at.as_str().is_some_and(|at| at.starts_with(path)))
        })
        .await
    }

    async fn shows(&self, selector: &str) -> anyhow::Result<()> {
        let script = format!("return document.querySelector({}) !== null", json!(selector));
        eventually(selector, async || Ok(self.browser.run(&script).await? == true)).await
    }

    async fn send(&self, selector: &str) -> anyhow::Result<()> {
        self.shows(selector).await?;
        self.browser.run(&format!("document.querySelector({}).requestSubmit()", json!(selector))).await?;
        Ok(())
    }

    /// The page as it stands, all that can be opened open: axe finds nothing, and nothing reaches over the window.
    async fn is_clean(&self, what: &str) -> anyhow::Result<()> {
        self.browser.run("document.querySelectorAll('main details').forEach(it => { it.open = true })").await?;
        for width_px in [1_280, 420] {
            self.browser.resize(width_px, 900).await?;
            for ground in ["light", "dark", "neutral"] {
                self.browser.run(&format!("document.documentElement.dataset.ground = '{ground}'")).await?;
                let found = axe::violations(&self.browser, &self.axe).await?;
                assert!(found.is_empty(), "{what}, {width_px} px, {ground}: {found:?}");
            }
            let wide = self.browser.run("return document.documentElement.scrollWidth - innerWidth").await?;
            assert!(wide.as_i64().is_some_and(|px| px <= 0), "{what}: {wide} px wider than {width_px} px");
        }
        self.browser.resize(1_280, 900).await
    }

    async fn close(self) -> anyhow::Result<()> {
        self.browser.hold_quiet().await?;
        self.browser.close().await?;
        self.rig.stop().await;
        Ok(())
    }
}

/// A picture of the browser's own, dropped on the form like a file of the desktop.
const DROP: &str = "const done = arguments[arguments.length - 1], canvas = document.createElement('canvas');\
    canvas.width = 1600; canvas.height = 1600;\
    const ink = canvas.getContext('2d', { alpha: false });\
    for (let i = 0; i < 16; i++) { ink.fillStyle = `hsl(${i * 22} 60% 50%)`; ink.fillRect(i * 100, i * 40, 400, 900); }\
    canvas.toBlob(blob => {\
        const carried = new DataTransfer(), form = document.querySelector('form[data-drop]');\
        carried.items.add(new File([blob], '<b>retouched</b>.png', { type: 'image/png' }));\
        const over = new DragEvent('dragover', { bubbles: true, cancelable: true, dataTransfer: carried });\
        form.dispatchEvent(over);\
        const marked = over.defaultPrevented && 'over' in form.dataset;\
        form.dispatchEvent(new DragEvent('drop', { bubbles: true, cancelable: true, dataTransfer: carried }));\
        done(marked);\
    }, 'image/png')";

/// The form of a draft, its pictures under way and drawn, and a file that is dropped and accepted.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_person_tries_is_without_a_barrier() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let plan = Plan { edge: with_giver, ..Plan::painted(&control) };
    let Some(desk) = Desk::open("what_a_person_tries_is_without_a_barrier", plan).await? else { return Ok(()) };
    in_memory(&desk.rig, VASE).await?;
    for language in ["de", "en"] {
        let variant = format!("/preview/studio/thumb/variant?product=vase&_lang={language}");
        desk.visit(&variant).await?;
        desk.shows("form[action=\"/preview/drafts\"]").await?;
        desk.is_clean(&format!("variant, {language}")).await?;

        control.hold();
        let steps = if language == "de" { 9 } else { 8 };
        desk.browser.run(&format!("document.querySelector('[name=\"change.steps\"]').value = {steps}")).await?;
        desk.browser
            .run("document.querySelector('form[action=\"/preview/drafts\"] button[value=\"4\"]').click()")
            .await?;
        desk.is_at("/preview/drafts/").await?;
        desk.is_clean(&format!("draft under way, {language}")).await?;
        control.release();
        eventually("all four are drawn, and seen", async || {
            let drawn = "return [...document.querySelectorAll('main img')].filter(it => it.naturalWidth > 0).length";
            Ok(desk.browser.run(drawn).await?.as_u64() >= Some(4))
        })
        .await?;
        desk.is_clean(&format!("draft, {language}")).await?;

        desk.visit(&variant).await?;
        desk.shows("form[data-drop]").await?;
        assert_eq!(desk.browser.run_async(DROP).await?, true, "a file over the form marks it");
        desk.is_at("/preview/imports").await?;
        desk.shows("form[action=\"/preview/imports/accept\"]").await?;
        desk.is_clean(&format!("what a file carries, {language}")).await?;
        desk.send("form[action=\"/preview/imports/accept\"]").await?;
        desk.is_at("/preview/imports/accept").await?;
        desk.is_clean(&format!("accepted, {language}")).await?;
    }
    desk.close().await
}

/// Candidates of a product that nobody has decided about.
async fn awaiting(rig: &Rig, product: &str) -> anyhow::Result<usize> {
    let page = admin(rig, Method::GET, "/admin/v1/decisions", None).await?.json()?;
    let cases = page["decisions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let is_asked = |case: &&Value| {
        let variant = case["variant"].as_str().unwrap_or_default();
        case["state"] == "needs_review" && variant.contains(&format!("product={product}"))
    };
    Ok(cases.iter().filter(is_asked).count())
}

/// The bar by which a decision is taken back, and the page on what became of many decisions.
#[tokio::test(flavor = "multi_thread")]
async fn what_follows_a_decision_is_without_a_barrier() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let plan = Plan { edge: with_giver, manifest: reviewed, ..Plan::painted(&control) };
    let Some(desk) = Desk::open("what_follows_a_decision_is_without_a_barrier", plan).await? else { return Ok(()) };
    for (product, language) in [("vase", "de"), ("mug", "en")] {
        let order = json!({ "variant": format!("studio/thumb?product={product}"), "count": 2 });
        let begun = admin(&desk.rig, Method::POST, "/admin/v1/candidates", Some(order)).await?;
        assert_eq!(begun.status, StatusCode::ACCEPTED, "{}", begun.text());
        eventually("both are before reviewers", async || Ok(awaiting(&desk.rig, product).await? == 2)).await?;
        desk.visit(&format!("/preview/studio/thumb/variant?product={product}&_lang={language}")).await?;
        desk.shows("[data-key=a]").await?;
        desk.browser.run("document.querySelector('[data-key=a]').click()").await?;
        desk.shows("[data-undo-ms]").await?;
        // Its time is over after 20 s, and axe takes longer: the bar itself is judged, not its end.
        desk.browser.run("document.body.append(document.querySelector('[data-undo-ms]').cloneNode(true))").await?;
        let kept = "const bars = document.querySelectorAll('[data-undo-ms]'); if (bars.length > 1) bars[0].remove()";
        desk.browser.run(kept).await?;
        desk.is_clean(&format!("a decision can be taken back, {language}")).await?;

        desk.visit(&format!("/preview/studio/thumb?product={product}&_view=cards&_lang={language}")).await?;
        let decide = "const form = document.querySelector('.bulk form'); form.elements.decision.value = 'reject';\
                      form.elements.why.value = 'too dark'; form.requestSubmit()";
        desk.shows(".bulk form").await?;
        desk.browser.run(decide).await?;
        desk.is_at("/preview/bulk").await?;
        desk.is_clean(&format!("what became of the decisions, {language}")).await?;
        desk.send("main form[action=\"/preview/undo\"]").await?;
        desk.is_at("/preview/undo").await?;
        desk.is_clean(&format!("what became of taking them back, {language}")).await?;
    }
    desk.close().await
}

/// Pictures that look alike share a master: what a page says of it, and of a split.
#[tokio::test(flavor = "multi_thread")]
async fn what_pictures_share_is_told_without_a_barrier() -> anyhow::Result<()> {
    let plan = Plan { painter: Painter::Alike, edge: with_giver, ..Plan::shipped() };
    let Some(desk) = Desk::open("what_pictures_share_is_told_without_a_barrier", plan).await? else { return Ok(()) };
    in_memory(&desk.rig, VASE).await?;
    in_memory(&desk.rig, MUG).await?;
    for language in ["de", "en"] {
        desk.visit(&format!("/preview/studio/thumb/variant?product=mug&_lang={language}")).await?;
        let form = "form[action=\"/preview/splits\"]";
        desk.shows(form).await?;
        desk.is_clean(&format!("alike, {language}")).await?;
        desk.send(form).await?;
        eventually("it has a master of its own", async || {
            let listed = admin(&desk.rig, Method::GET, "/admin/v1/splits", None).await?.json()?;
            Ok(listed["splits"].as_array().map(Vec::len) == Some(1))
        })
        .await?;
        desk.visit(&format!("/preview/studio/thumb/variant?product=mug&_lang={language}")).await?;
        desk.is_clean(&format!("split, {language}")).await?;
        let merge = json!({ "variant": "studio/thumb?product=mug", "how": "merge", "why": "a test" });
        let merged = admin(&desk.rig, Method::POST, "/admin/v1/splits", Some(merge)).await?;
        assert_eq!(merged.status, StatusCode::OK, "{}", merged.text());
        in_memory(&desk.rig, MUG).await?;
    }
    desk.close().await
}
