//! Rights that end: a picture is shown up to that moment, no cache is told to keep it longer, and `check` names what is over.

use std::process::Command;
use std::sync::Arc;

use bildkante_gpu_node::testing::FakeControl;
use bildkante_tests::client::eventually;
use bildkante_tests::program;
use bildkante_tests::rig::{Plan, Rig};
use http::header::IF_NONE_MATCH;

use crate::kills::{CUBE, VASE, warm};

/// The rights of the campaign end as the text says.
fn ends(text: &str, ends: &str) -> String {
    text.replace("rights   = { creator", &format!("rights   = {{ ends = {ends}, creator"))
}

fn ended(text: String) -> String {
    ends(&text, "2020-06-30")
}

fn model_ended(text: String) -> String {
    text.replace("[models.studio-tiny]", "[models.studio-tiny]\nowner = \"A studio\"\nends = 2020-06-30T12:00:00Z")
}

#[tokio::test]
async fn a_picture_whose_rights_are_over_is_neither_shown_nor_drawn() -> anyhow::Result<()> {
    for manifest in [ended as fn(String) -> String, model_ended] {
        let control = Arc::new(FakeControl::default());
        let rig = Rig::start(Plan { manifest, ..Plan::painted(&control) }).await?;
        let shown = rig.http.image(rig.public(), VASE).await?;
        assert!(shown.outcome().contains("rights-ended, epoch "), "{:?}", shown.headers);
        assert_eq!(shown.header("cache-control"), "no-store");
        assert_eq!(control.calls(), 0);
        rig.stop().await;
    }
    Ok(())
}

/// The manifest changes while the edge runs: what it holds in its front map, in memory and on disk is not shown any more.
#[tokio::test]
async fn rights_that_end_close_what_is_kept() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan::painted(&control)).await?;
    let shown = warm(&rig, VASE).await?;
    warm(&rig, CUBE).await?;
    let manifest = rig.dir.path().join("campaigns/studio.toml");
    let text = std::fs::read_to_string(&manifest)?;

    let in_a_minute = time_in(40)?;
    std::fs::write(&manifest, ends(&text, &in_a_minute))?;
    eventually("caches are told of the end", async || {
        let reply = rig.http.image(rig.public(), VASE).await?;
        let max_age =
            reply.header("cache-control").trim_start_matches("public, max-age=").split(',').next().map(str::to_owned);
        Ok(max_age.and_then(|it| it.parse::<u64>().ok()).is_some_and(|it| it <= 40))
    })
    .await?;
    assert_eq!(rig.http.image(rig.public(), VASE).await?.header("etag"), shown.header("etag"));

    std::fs::write(&manifest, ended(text))?;
    eventually("it is over", async || Ok(rig.http.image(rig.public(), VASE).await?.outcome().contains("rights-ended")))
        .await?;
    let etag = shown.header("etag").to_owned();
    let again = rig.http.get(rig.public(), VASE, &[(IF_NONE_MATCH, &etag)]).await?;
    assert_eq!(again.status, http::StatusCode::OK, "{:?}", again.headers);
    assert!(rig.http.image(rig.public(), CUBE).await?.outcome().contains("rights-ended"));

    let campaigns = rig.dir.path().join("campaigns");
    let config = rig.dir.path().join("check.toml");
    std::fs::write(
        &config,
        format!("[campaigns]\ncampaigns_dir = {:?}\nprompts_dir = {:?}\n", campaigns, rig.dir.path().join("prompts")),
    )?;
    let edge = program("bildkante-edge")?;
    let output =
        tokio::task::spawn_blocking(move || Command::new(edge).args(["check", "--config"]).arg(config).output())
            .await??;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("the rights of campaign studio ended"), "{said}");
    rig.stop().await;
    Ok(())
}

/// A moment so many seconds from now, as TOML writes it.
fn time_in(seconds: u64) -> anyhow::Result<String> {
    let span = format!("+{seconds} seconds");
    let output = Command::new("date").args(["-u", "-d", &span, "+%Y-%m-%dT%H:%M:%SZ"]).output()?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
