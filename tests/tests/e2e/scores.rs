//! Bytes, score and time of both rungs: in answers, after a restart, and on a picture's page.

use std::sync::Arc;

use bildkante_gpu_node::testing::FakeControl;
use bildkante_tests::browser::Browser;
use bildkante_tests::client::{Reply, eventually};
use bildkante_tests::judge;
use bildkante_tests::rig::{Plan, Rig};
use http::StatusCode;
use http::header::IF_NONE_MATCH;
use serde_json::{Value, json};

/// Large enough for a quick rung.
const HERO: &str = "/i/studio/hero?product=vase&w=320&fm=webp";
const HERO_PAGE: &str =
    "/preview/studio/hero/variant?product=vase&colour=teal&material=glossy&backdrop=cream&setting=studio";
/// Of a stored file before the body.
const HEADER_BYTES: u64 = 168;

/// What `Server-Timing` says under a name.
fn told<'a>(reply: &'a Reply, name: &str) -> Option<&'a str> {
    let entries = reply.header("server-timing").split(", ");
    entries.filter_map(|entry| entry.split_once(";desc=")).find(|(it, _)| *it == name).map(|(_, told)| told)
}

/// Rung, bytes, score and time.
fn file(reply: &Reply) -> [Option<String>; 4] {
    ["rung", "bytes", "score", "encode"].map(|name| told(reply, name).map(str::to_owned))
}

#[tokio::test(flavor = "multi_thread")]
async fn both_rungs_tell_their_bytes_score_and_time() -> anyhow::Result<()> {
    let test = "both_rungs_tell_their_bytes_score_and_time";
    let control = Arc::new(FakeControl::default());
    let mut rig = Rig::start(Plan::painted(&control)).await?;
    let page = rig.http.get(rig.admin(), HERO_PAGE, &[]).await?;
    assert_eq!(page.status, StatusCode::OK, "{}", page.text());
    assert!(!page.text().contains("data-rung"), "nothing is made yet");

    let quick = rig.http.image(rig.public(), HERO).await?;
    let [rung, bytes, score, encode_ms] = file(&quick);
    assert_eq!(rung.as_deref(), Some("quick"), "{:?}", quick.headers);
    // Of a small picture it is measured.
    assert!(score.is_none_or(|told| told.parse::<f64>().is_ok()), "{:?}", quick.headers);
    assert_eq!(bytes, Some(quick.body.len().to_string()));
    assert!(encode_ms.is_some_and(|told| told.parse::<u32>().is_ok()), "{:?}", quick.headers);

    let mut last = quick;
    eventually("the final rung is there", async || {
        last = rig.http.image(rig.public(), HERO).await?;
        Ok(told(&last, "rung") == Some("final"))
    })
    .await?;
    let known = file(&last);
    assert_eq!(known[1], Some(last.body.len().to_string()));
    let score: f64 = known[2].as_deref().unwrap_or_default().parse()?;
    assert!((-100.0..=100.0).contains(&score), "{score}");
    // From the front map, and without a body.
    let etag = last.header("etag").to_owned();
    for fields in [&[][..], &[(IF_NONE_MATCH, etag.as_str())]] {
        let kept = rig.http.get(rig.public(), HERO, fields).await?;
        assert_eq!(file(&kept), known, "{:?}", kept.headers);
    }

    let text = rig.http.get(rig.admin(), HERO_PAGE, &[]).await?.text();
    let cell =
        text.split("data-rung=\"final\">").nth(1).and_then(|rest| rest.split("</td>").next()).unwrap_or_default();
    assert!(cell.starts_with(&format!("final, {score:.1}\u{a0}points, ")), "{cell}");
    assert!(cell.contains("data-before") && cell.contains("\u{a0}kB quick, "), "{cell}");
    assert_eq!(text.matches("data-rung=").count(), 1, "no other file is there, and none is made for the page");
    let german = rig.http.get(rig.admin(), &format!("{HERO_PAGE}&_lang=de"), &[]).await?.text();
    assert!(
        german.contains(&format!("endgültig, {}\u{a0}Punkte, ", format!("{score:.1}").replace('.', ","))),
        "{german}"
    );

    let on_disk = HEADER_BYTES + last.body.len() as u64;
    eventually("the final rung is on disk", async || {
        let files = rig.edge_files("renditions")?;
        Ok(files.iter().any(|file| file.metadata().is_ok_and(|known| known.len() == on_disk)))
    })
    .await?;
    rig.stop_edge().await;
    rig.start_edge().await?;
    rig.ready().await?;
    let text = rig.http.get(rig.admin(), HERO_PAGE, &[]).await?.text();
    assert!(text.contains(&format!("final, {score:.1}\u{a0}points, ")) && !text.contains("data-before"), "{text}");
    let stored = rig.http.image(rig.public(), HERO).await?;
    assert!(stored.header("cache-status").contains("detail=disk"), "{:?}", stored.headers);
    assert_eq!(file(&stored), known, "{:?}", stored.headers);

    if let (Some(driver), Some(chromium)) = (judge::find("chromedriver", test)?, judge::find("chromium", test)?) {
        let browser = Browser::open(&driver, &chromium).await?;
        browser.resize(1_400, 900).await?;
        let thumb = HERO_PAGE.replace("/hero/", "/thumb/");
        browser.visit(&format!("http://{}{thumb}", rig.admin())).await?;
        browser.run("document.querySelector('[data-measure]').click()").await?;
        let look = "return [...document.querySelectorAll('[data-bytes] td')]\
                    .map(it => it.querySelector('b') && it.querySelector('[data-rung=final]')?.textContent)";
        let mut cells = Value::Null;
        eventually("every file is told", async || {
            cells = browser.run(look).await?;
            Ok(cells.as_array().is_some_and(|cells| cells.len() == 12 && cells.iter().all(|told| !told.is_null())))
        })
        .await?;
        // As the page has them when it is opened again.
        let measured = cells;
        browser.visit(&format!("http://{}{thumb}", rig.admin())).await?;
        assert_eq!(browser.run(look).await?, measured);
        assert_eq!(
            browser.run("return document.querySelectorAll('[data-bytes] td.least').length >= 4").await?,
            json!(true)
        );
        browser.hold_quiet().await?;
        browser.close().await?;
    }
    rig.stop().await;
    Ok(())
}
