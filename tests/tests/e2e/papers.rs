//! A picture's papers end to end: what is said of a drawn picture and of an import, by a running edge and by its command line, and
//! how that and a visible label look in a browser.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use bildkante_edge::app::Edge;
use bildkante_gpu_node::testing::FakeControl;
use bildkante_tests::browser::Browser;
use bildkante_tests::client::eventually;
use bildkante_tests::rig::{Plan, Rig};
use bildkante_tests::{axe, judge, program};
use data_encoding::BASE64;
use http::StatusCode;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use crate::imports;
use crate::provenance::{settled, signing};

/// At the hero's greatest width, as dossiers look at it.
const PICTURE: &str = "/i/studio/hero?product=vase&w=640&fm=jpg";

/// The demo campaign with a label, and a title that would end an element.
fn labelled(manifest: String) -> String {
    let label = "[label]\nshow = \"icon-and-text\"\n\n[generate]";
    manifest.replacen("[generate]", label, 1).replacen(
        "\"Studio product shots\"",
        "'</title><script>document.title = 1</script>'",
        1,
    )
}

async fn started(control: &Arc<FakeControl>) -> anyhow::Result<(Rig, Edge)> {
    let rig = Rig::start(Plan { manifest: labelled, ..Plan::painted(control) }).await?;
    let (sign, _) = signing(rig.dir.path())?;
    let edge = rig
        .another_edge("papers", |config| {
            sign(config);
            config.campaigns.reload_ms = 100;
        })
        .await?;
    rig.healthy_nodes(&edge, 1).await?;
    Ok((rig, edge))
}

async fn dossier(rig: &Rig, edge: &Edge, of: &str) -> anyhow::Result<Value> {
    let of = utf8_percent_encode(of, NON_ALPHANUMERIC);
    let reply = rig.http.get(edge.admin, &format!("/admin/v1/dossier?of={of}"), &[]).await?;
    anyhow::ensure!(reply.status == StatusCode::OK, "{}", reply.text());
    reply.json()
}

/// The id of the master that an answer is tagged with.
fn master_of(tags: &str) -> anyhow::Result<String> {
    let tag = tags.split([',', ' ']).find_map(|tag| tag.strip_prefix("master:"));
    Ok(tag.ok_or_else(|| anyhow::anyhow!("no master in {tags}"))?.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drawn_picture_s_papers_say_what_is_served_and_verify_it() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let (rig, edge) = started(&control).await?;
    // Nothing is drawn for a dossier.
    let before = dossier(&rig, &edge, "studio/hero?product=vase").await?;
    assert_eq!((&before["evidence"]["state"], &before["master"]), (&"not_examined".into(), &Value::Null), "{before}");
    assert_eq!(control.calls(), 0);

    let served = settled(&rig, &edge, PICTURE).await?;
    let master = master_of(served.header("cache-tag"))?;
    let papers = dossier(&rig, &edge, &master).await?;
    let examined = &papers["evidence"];
    assert_eq!(examined["state"], "examined", "{papers}");
    assert_eq!(examined["url"], format!("http://{}{PICTURE}", edge.http));
    let picture = examined["picture"].as_str().and_then(|url| url.strip_prefix("data:image/jpeg;base64,"));
    assert_eq!(
        BASE64.decode(picture.unwrap_or_default().as_bytes())?,
        served.body,
        "the file is the one that is served"
    );
    assert_eq!(examined["c2pa"]["finding"], "valid", "{}", examined["c2pa"]);
    assert_eq!(examined["c2pa"]["credentials"]["generation"]["master"], master.as_str());
    assert_eq!(examined["digital_source_type"], "trainedAlgorithmicMedia");
    let watermark = &examined["watermark"];
    assert_eq!((&watermark["state"], &watermark["names_this_master"]), (&"found".into(), &true.into()), "{watermark}");
    assert_eq!(watermark["key_is_published"], true);

    assert_eq!(papers["recipe"]["kind"], "drawn");
    assert!(served.header("cache-tag").contains(papers["recipe"]["id"].as_str().unwrap_or("?")));
    let model = &papers["recipe"]["models"][0];
    assert_eq!((&model["name"], &model["license"]), (&"studio-tiny".into(), &"Apache-2.0 OR MIT".into()));
    assert_eq!(papers["recipe"]["words"][0]["library"], "product-shots");
    assert_eq!(papers["variant"]["label"], "Mit KI erzeugt");
    assert!(papers["master"]["drawn_at"].is_string() && papers["master"]["node"].is_string(), "{}", papers["master"]);
    let variants = papers["shared_by"][0]["variants"].as_array().cloned().unwrap_or_default();
    assert!(variants.contains(&"studio/hero?product=vase&locale=en-GB".into()) || variants.len() > 1, "{variants:?}");

    by_command(&edge, &master, rig.dir.path())?;
    edge.shut_down().await;
    rig.stop().await;
    Ok(())
}

fn run(arguments: &[&str]) -> anyhow::Result<Output> {
    Ok(Command::new(program("bildkante-edge")?).args(arguments).env_remove("BILDKANTE_ADMIN_TOKEN").output()?)
}

/// The command asks the running edge.
fn by_command(edge: &Edge, master: &str, dir: &Path) -> anyhow::Result<()> {
    let admin = format!("http://{}", edge.admin);
    let json = run(&["dossier", master, "--json", "--admin", &admin])?;
    assert!(json.status.success(), "{json:?}");
    assert_eq!(serde_json::from_slice::<Value>(&json.stdout)?["master"]["id"], master);
    let file = dir.join("dossier.html");
    let page = run(&["dossier", PICTURE, "--admin", &admin, "--out", &file.display().to_string()])?;
    assert!(page.status.success() && page.stdout.is_empty(), "{page:?}");
    let page = std::fs::read_to_string(file)?;
    assert!(page.contains("data:image/jpeg;base64,") && page.contains(master) && !page.contains("<script"), "{page}");
    let unknown = run(&["dossier", "00000000000000000000000000", "--admin", &admin])?;
    let said = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert!(!unknown.status.success() && said.contains("404") && said.contains("has not seen the picture"), "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_s_papers_say_who_brought_it_and_label_nothing() -> anyhow::Result<()> {
    let (rig, edge) = started(&Arc::default()).await?;
    let mut photograph = Vec::new();
    let rgb: Vec<u8> = (0..96 * 72).flat_map(|at: u32| [u8::try_from(at % 96).unwrap_or(0), 90, 120]).collect();
    image::codecs::jpeg::JpegEncoder::new(&mut photograph).encode(&rgb, 96, 72, image::ExtendedColorType::Rgb8)?;
    std::fs::write(rig.dir.path().join("campaigns/brought.toml"), imports::MANIFEST)?;
    let imported = imports::bring(&rig, "brought/hero?product=vase", &photograph)?;
    eventually("the edge has read the lock", async || {
        let shown = rig.http.image(edge.http, "/i/brought/hero?product=vase&w=64&fm=jpg").await?;
        Ok(shown.header("cache-tag").contains(&imported.recipe.to_string()))
    })
    .await?;
    let papers = dossier(&rig, &edge, "brought/hero?product=vase").await?;
    assert_eq!(papers["recipe"]["id"], imported.recipe.to_string());
    assert_eq!(papers["recipe"]["images"][0]["role"], "original");
    assert_eq!(papers["variant"]["label"], Value::Null);
    assert_eq!(papers["variant"]["rights"]["creator"], "Jo Photo");
    // Its master is made from the original: no node is asked.
    let examined = &papers["evidence"];
    assert_eq!((&examined["state"], &examined["c2pa"]["finding"]), (&"examined".into(), &"valid".into()), "{examined}");
    assert_eq!(examined["digital_source_type"], "digitalCapture");
    assert_eq!(examined["watermark"]["state"], "not_found");
    let papers = dossier(&rig, &edge, &imported.master.to_string()).await?;
    assert_eq!((&papers["master"]["node"], &papers["recipe"]["kind"]), (&Value::Null, &"imported".into()), "{papers}");
    edge.shut_down().await;
    rig.stop().await;
    Ok(())
}

/// No picture is told to those who may not read, where tokens are configured.
#[tokio::test]
async fn the_api_asks_for_a_token_where_there_are_some() -> anyhow::Result<()> {
    let plan = Plan { edge: crate::purge::with_tokens, ..Plan::painted(&Arc::new(FakeControl::default())) };
    let rig = Rig::start(plan).await?;
    let path = "/admin/v1/dossier?of=studio%2Fhero";
    assert_eq!(rig.http.get(rig.admin(), path, &[]).await?.status, StatusCode::UNAUTHORIZED);
    let reply = crate::purge::admin(&rig, http::Method::GET, path, None).await?;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
    let nothing = crate::purge::admin(&rig, http::Method::GET, "/admin/v1/dossier", None).await?;
    assert_eq!((nothing.status, nothing.json()?["parameter"].clone()), (StatusCode::BAD_REQUEST, "of".into()));
    rig.stop().await;
    Ok(())
}

async fn opened(test: &str) -> anyhow::Result<Option<(Browser, PathBuf)>> {
    let (Some(driver), Some(chromium)) = (judge::find("chromedriver", test)?, judge::find("chromium", test)?) else {
        return Ok(None);
    };
    let Some(axe) = axe::script(test)? else { return Ok(None) };
    Ok(Some((Browser::open(&driver, &chromium).await?, axe)))
}

/// From the preview to the dossier, as a person goes, and the label on a page of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_person_reads_the_papers_and_the_label() -> anyhow::Result<()> {
    let Some((browser, axe)) = opened("a_person_reads_the_papers_and_the_label").await? else { return Ok(()) };
    let (rig, edge) = started(&Arc::default()).await?;
    settled(&rig, &edge, PICTURE).await?;
    let axes = "product=vase&colour=teal&material=glossy&backdrop=cream&setting=studio&locale=de-DE";
    browser.visit(&format!("http://{}/preview/studio/hero/variant?{axes}", edge.admin)).await?;
    let link = browser.run("return document.querySelector('.stage a[href^=\"/papers/dossier?of=\"]').href").await?;
    let markup = browser.run("return document.querySelector('[data-piece=html] pre').textContent").await?;
    let caption = browser.run("return document.querySelector('.stage figcaption').textContent.trim()").await?;
    assert_eq!(caption, "Mit KI erzeugt");

    browser.visit(link.as_str().unwrap_or_default()).await?;
    assert_eq!(browser.run("return document.images[0].naturalWidth").await?, 640);
    assert_eq!(browser.run("return performance.getEntriesByType('resource').length").await?, 0, "it fetches something");
    let title = browser.run("return document.title").await?;
    assert!(title.as_str().is_some_and(|title| title.starts_with("Dossier of studio/hero?")), "{title}");
    let text = browser.run("return document.body.innerText").await?;
    let text = text.as_str().unwrap_or_default();
    for said in ["</title><script>document.title = 1</script>", "it names this picture's master", "Valid"] {
        assert!(text.contains(said), "{said} in {text}");
    }
    assert_eq!(axe::violations(&browser, &axe).await?, Vec::<String>::new());

    shows_a_label(&browser, &edge, &axe, markup.as_str().unwrap_or_default()).await?;
    browser.close().await?;
    edge.shut_down().await;
    rig.stop().await;
    Ok(())
}

/// The markup as a customer's page has it, without any style. The page takes the place of one of the edge's, because a browser
/// lets no foreign page fetch from this machine.
async fn shows_a_label(browser: &Browser, edge: &Edge, axe: &PathBuf, markup: &str) -> anyhow::Result<()> {
    let page = format!("<title>A shop</title><main><h1>A shop</h1>{markup}<p>Below</p></main>");
    browser.visit(&format!("http://{}/preview/", edge.admin)).await?;
    // A variant that no page has shown yet: the caption's place is measured before there is a picture, and behind it.
    let replace = format!(
        "document.documentElement.innerHTML = {}; return document.querySelector('figcaption').getBoundingClientRect().top",
        serde_json::to_string(&page.replace("product=vase", "product=lamp"))?
    );
    let top = browser.run(&replace).await?;
    eventually("the picture is there", async || {
        let width = browser.run("return document.querySelector('picture img').naturalWidth").await?;
        Ok(width.as_u64().is_some_and(|width| width > 0))
    })
    .await?;
    let seen = browser
        .run(
            "const box = (of) => document.querySelector(of).getBoundingClientRect(); const badge = box('figcaption svg'); \
             return { top: box('figcaption').top, below: box('figcaption').top - box('picture img').bottom, badge: [badge.width, badge.height], \
             lang: document.querySelector('figcaption').lang, text: document.querySelector('figcaption').innerText.trim() };",
        )
        .await?;
    assert!(seen["below"].as_f64().is_some_and(|px| px >= 0.0), "{seen}");
    assert_eq!((&seen["badge"], &seen["lang"]), (&serde_json::json!([32, 20]), &"de-DE".into()), "{seen}");
    assert_eq!(seen["text"], "Mit KI erzeugt");
    assert_eq!(seen["top"], top, "the caption moved when the picture came");
    assert_eq!(axe::violations(browser, axe).await?, Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn a_report_names_what_is_missing_and_is_readable() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let config = dir.path().join("edge.toml");
    let folder = bildkante_tests::repository().canonicalize()?.join("config");
    let text = format!(
        "[campaigns]\ncampaigns_dir = {:?}\nprompts_dir = {:?}\n",
        folder.join("campaigns"),
        folder.join("prompts")
    );
    std::fs::write(&config, text)?;
    let config = config.display().to_string();
    let report = |more: &[&str]| run(&[&["report", "ai-act", "--config", &config, "--campaign"], more].concat());

    let lenient = report(&["studio", "--json"])?;
    assert!(lenient.status.success(), "{lenient:?}");
    let told: Value = serde_json::from_slice(&lenient.stdout)?;
    let points = told[0]["points"].as_array().cloned().unwrap_or_default();
    let state = |title: &str| points.iter().find(|point| point["title"] == title).map(|point| point["state"].clone());
    assert_eq!(state("Risk class"), Some("documented".into()));
    assert_eq!(state("Models and their data"), Some("documented".into()));
    assert_eq!(state("Marking: signed metadata"), Some("missing".into()));
    let strict = report(&["all", "--strict", "--json"])?;
    let said = String::from_utf8_lossy(&strict.stderr).into_owned();
    assert_eq!(strict.status.code(), Some(1), "{said}");
    assert!(said.contains("studio: AI literacy (Article 4)"), "{said}");
    assert!(!report(&["nothing"])?.status.success());

    let file = dir.path().join("report.html");
    assert!(report(&["studio", "--out", &file.display().to_string()])?.status.success());
    let Some((browser, axe)) = opened("a_report_names_what_is_missing_and_is_readable").await? else { return Ok(()) };
    browser.visit(&format!("file://{}", file.display())).await?;
    let rows = browser.run("return document.querySelectorAll('tbody tr').length").await?;
    assert_eq!(rows, points.len());
    assert_eq!(axe::violations(&browser, &axe).await?, Vec::<String>::new());
    browser.close().await?;
    Ok(())
}
