//! Batches as people order them: from the command line, and on pages of the preview.

use std::process::Stdio;
use std::sync::Arc;

use anyhow::Context;
use bildkante_gpu_node::testing::FakeControl;
use bildkante_tests::browser::Browser;
use bildkante_tests::client::eventually;
use bildkante_tests::rig::{Plan, Rig};
use bildkante_tests::{axe, judge, program};
use http::{Method, StatusCode, header};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};

use crate::batches::becomes;
use crate::people::{form, give, session, with_giver};
use crate::purge::{TOKEN, admin, with_tokens};

const SLOT: &str = "/preview/studio/thumb";
const FILTER: &str = "product=mug&product=vase&colour=teal&material=glossy&backdrop=cream&setting=studio";

/// What the command prints, writes, and how it exits.
#[tokio::test]
async fn the_command_line_orders_a_batch() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan { edge: with_tokens, ..Plan::painted(&control) }).await?;
    let place = |name: &str| rig.dir.path().join(name);
    std::fs::write(place("token"), TOKEN)?;
    std::fs::write(place("right.csv"), "campaign,slot,product\nstudio,thumb,mug\nstudio,thumb,vase\n")?;
    std::fs::write(place("wrong.csv"), "campaign,slot,product\nstudio,thumb,mug\nstudio,thumb,car\n")?;
    let command = |arguments: &str| -> anyhow::Result<tokio::process::Command> {
        let mut command = tokio::process::Command::new(program("bildkante-edge")?);
        command.arg("batch").args(arguments.split_whitespace()).current_dir(rig.dir.path());
        command.args(["--admin", &format!("http://{}", rig.admin()), "--token-file", "token"]).stdin(Stdio::null());
        Ok(command)
    };
    let run = async |arguments: &str| -> anyhow::Result<(Option<i32>, String)> {
        let output = command(arguments)?.output().await?;
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        Ok((output.status.code(), text))
    };
    let (status, text) = run("--csv wrong.csv").await?;
    assert!(status == Some(1) && text.contains("wrong.csv:3: product: "), "{text}");
    let (status, text) = run("--csv right.csv --formats webp --dry-run").await?;
    assert!(status == Some(0) && text.contains("2, of which 0 are there") && text.contains("unknown"), "{text}");
    assert_eq!(control.calls(), 0);
    let (status, text) = run("--csv right.csv --formats webp --output results.csv").await?;
    assert!(status == Some(0) && text.contains("drawn           2") && text.contains("batch: "), "{text}");
    assert_eq!(std::fs::read_to_string(place("results.csv"))?.lines().count(), 3);
    let filter = "--filter --campaign studio --slot thumb --axis product=mug --axis product=vase --axis colour=teal \
                  --axis material=glossy --axis backdrop=cream --axis setting=studio --formats webp --output results.json";
    let (status, text) = run(filter).await?;
    assert!(status == Some(0) && text.contains("there already   2"), "{text}");
    let results: serde_json::Value = serde_json::from_slice(&std::fs::read(place("results.json"))?)?;
    assert_eq!(results["pictures"].as_array().map(Vec::len), Some(2));
    assert_eq!(run("--csv right.csv --variant studio/thumb").await?.0, Some(64), "one way at a time");
    for refused in [
        "--variant studio/thumb --output results.txt",
        "--retry 1 --dry-run",
        "--resume 1 --formats webp",
        "--csv right.csv --axis product=mug",
        "--variant studio/thumb --campaign studio",
        "--csv right.csv --dry-run --output results.csv",
        "--cancel 1 --output results.csv",
    ] {
        assert_eq!(run(refused).await?.0, Some(64), "`{refused}` would pass something over");
    }

    // An interrupt of a command that follows it leaves it alone; one of its own command pauses it and says how to go
    // on.
    control.hold();
    let calls = control.calls();
    let spawned = |arguments: &str| -> anyhow::Result<tokio::process::Child> {
        Ok(command(arguments)?.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)
    };
    let child = spawned("--variant studio/thumb?product=ring")?;
    control.started(calls + 1).await;
    let listed = admin(&rig, Method::GET, "/admin/v1/batches", None).await?.json()?;
    let ring = listed["batches"][0]["id"].clone();
    let mut follower = spawned(&format!("--follow {ring}"))?;
    // Its first line: it watches.
    let mut watching = BufReader::new(follower.stderr.take().context("it has an output")?);
    watching.read_line(&mut String::new()).await?;
    interrupt(&follower).await?;
    let mut text = String::new();
    watching.read_to_string(&mut text).await?;
    assert!(follower.wait().await?.code() == Some(130) && text.contains("it goes on"), "{text}");
    let state = admin(&rig, Method::GET, &format!("/admin/v1/batches/{ring}"), None).await?.json()?["state"].clone();
    assert_eq!(state, "running");
    interrupt(&child).await?;
    let output = child.wait_with_output().await?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(130), "{text}");
    let resume = text.split('`').find(|word| word.starts_with("--resume ")).unwrap_or_default().to_owned();
    control.release();
    let (status, text) = run(&resume).await?;
    assert!(status == Some(0) && text.contains("done"), "{text}");
    rig.stop().await;
    Ok(())
}

async fn interrupt(child: &tokio::process::Child) -> anyhow::Result<()> {
    let id = child.id().context("it runs")?.to_string();
    let killed = tokio::process::Command::new("kill").args(["-INT", &id]).status().await?;
    anyhow::ensure!(killed.success(), "it could not be interrupted");
    Ok(())
}

/// Without a script: the filter leads to the page that tells what is expected, its form starts the batch and leads to
/// its page.
#[tokio::test]
async fn a_filter_of_a_page_is_drawn_by_forms() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan { edge: with_giver, ..Plan::painted(&control) }).await?;
    let anna = session(&rig, &give(&rig, "anna", &json!({ "studio": "operator" })).await?).await?;
    let vera = session(&rig, &give(&rig, "vera", &json!({ "studio": "viewer" })).await?).await?;
    let foreign = session(&rig, &give(&rig, "otto", &json!({ "other": "operator" })).await?).await?;
    let get = async |cookie: &str, path: &str| {
        rig.http.get(rig.admin(), path, &[(header::COOKIE, cookie), (header::ACCEPT_LANGUAGE, "de")]).await
    };
    let slot = get(&anna.cookie, &format!("{SLOT}?{FILTER}")).await?.text();
    assert!(slot.contains("/preview/studio/thumb/batch?") && slot.contains("Diese erzeugen (2)"), "{slot}");
    assert!(!get(&vera.cookie, &format!("{SLOT}?{FILTER}")).await?.text().contains("/batch?"));
    let choose = get(&anna.cookie, &format!("{SLOT}/batch?{FILTER}")).await?.text();
    assert!(
        choose.contains("Bilder erzeugen") && choose.contains("unbekannt") && !choose.contains("Kosten"),
        "{choose}"
    );
    assert!(!get(&vera.cookie, &format!("{SLOT}/batch?{FILTER}")).await?.text().contains("<form class=\"line\""));
    let filter = FILTER.replace('=', "%3D").replace('&', "%26");
    let send = async |who: &crate::people::BrowserSession, path: &str, rest: String| {
        let fields = [("cookie", who.cookie.as_str()), ("sec-fetch-site", "same-origin")];
        form(&rig, path, &fields, format!("csrf={}&back=%2Fpreview%2F{rest}", who.csrf)).await
    };
    let order = |count: usize| format!("&slot=studio%2Fthumb&filter={filter}&count={count}&why=launch");
    let grown = send(&anna, "/preview/batches", order(1)).await?;
    assert_eq!(grown.status, StatusCode::CONFLICT, "more than the page showed: {}", grown.text());
    for who in [&vera, &foreign] {
        let refused = send(who, "/preview/batches", order(2)).await?;
        assert_eq!(refused.status, StatusCode::FORBIDDEN, "{}", refused.text());
    }
    assert_eq!(control.calls(), 0);
    control.hold();
    let begun = send(&anna, "/preview/batches", order(2)).await?;
    assert_eq!(begun.status, StatusCode::SEE_OTHER, "{}", begun.text());
    let page = begun.header("location").to_owned();
    control.started(1).await;
    let shown = get(&anna.cookie, &page).await?.text();
    assert!(
        shown.contains("In Arbeit") && shown.contains(&format!("{page}/pause")) && shown.contains("launch"),
        "{shown}"
    );
    assert_eq!(get(&foreign.cookie, &page).await?.status, StatusCode::NOT_FOUND);
    let paused = send(&anna, &format!("{page}/pause"), String::new()).await?;
    assert_eq!((paused.status, paused.header("location")), (StatusCode::SEE_OTHER, page.as_str()), "{}", paused.text());
    assert!(get(&anna.cookie, &page).await?.text().contains("Angehalten"));
    control.release();
    send(&anna, &format!("{page}/resume"), String::new()).await?;
    eventually("it is done", async || Ok(get(&anna.cookie, &page).await?.text().contains("Fertig"))).await?;
    let list = get(&vera.cookie, "/preview/batches").await?.text();
    assert!(list.contains(&page) && list.contains("2 Bilder"), "{list}");
    assert!(!get(&foreign.cookie, "/preview/batches").await?.text().contains(&page));
    rig.stop().await;
    Ok(())
}

/// In a browser: the page of a batch follows it by itself, and axe finds nothing on any of its pages.
#[tokio::test(flavor = "multi_thread")]
async fn chromium_follows_a_batch() -> anyhow::Result<()> {
    let test = "chromium_follows_a_batch";
    let (Some(driver), Some(chromium)) = (judge::find("chromedriver", test)?, judge::find("chromium", test)?) else {
        return Ok(());
    };
    let Some(script) = axe::script(test)? else { return Ok(()) };
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan { edge: with_giver, ..Plan::painted(&control) }).await?;
    let secret = give(&rig, "anna", &json!({ "studio": "operator" })).await?;
    let browser = Browser::open(&driver, &chromium).await?;
    let at = |path: &str| format!("http://{}{path}", rig.admin());
    browser.visit(&at("/admin/login?to=%2Fpreview%2Fbatches")).await?;
    let enter = format!("document.querySelector('[name=key]').value = '{secret}'; document.forms[0].requestSubmit()");
    browser.run(&enter).await?;
    let is_at = async |part: &str| {
        eventually("the page is there", async || {
            Ok(browser.run("return location.pathname").await?.as_str().is_some_and(|path| path.contains(part)))
        })
        .await
    };
    is_at("/preview/batches").await?;
    let judged = async |what: &str| -> anyhow::Result<()> {
        for ground in ["light", "dark", "neutral"] {
            browser.run(&format!("document.documentElement.dataset.ground = '{ground}'")).await?;
            let found = axe::violations(&browser, &script).await?;
            assert!(found.is_empty(), "{what}, {ground}: {found:?}");
        }
        let complaints = browser.complaints().await?;
        assert!(complaints.is_empty(), "{what}: {complaints:?}");
        Ok(())
    };
    judged("no batch yet").await?;
    browser.visit(&at(&format!("{SLOT}/batch?{FILTER}"))).await?;
    judged("what is expected").await?;
    control.hold();
    browser.run("document.querySelector('main form').requestSubmit()").await?;
    is_at("/preview/batches/").await?;
    judged("under way").await?;
    let id: serde_json::Value = browser.run("return Number(location.pathname.split('/').pop())").await?;
    control.release();
    becomes(&rig, &id, "done").await?;
    eventually("the page has followed", async || {
        Ok(browser.run("return document.getElementById('progress').textContent").await? == "Done")
    })
    .await?;
    judged("done").await?;
    browser.resize(390, 844).await?;
    let overflow = browser.run("return document.documentElement.scrollWidth > innerWidth").await?;
    assert_eq!(overflow, false, "on a phone");
    browser.visit(&at("/preview/batches")).await?;
    judged("a list").await?;
    browser.close().await?;
    rig.stop().await;
    Ok(())
}
