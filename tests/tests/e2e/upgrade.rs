//! What an earlier version left behind, opened by this one: all that was decided is in force.
//!
//! The folder is an edge's of commit 8e0c5be, in a small archive; `tests/setup/state-fixture.sh` made it.

use std::path::Path;
use std::sync::Arc;

use bildkante_gpu_node::testing::FakeControl;
use bildkante_tests::client::eventually;
use bildkante_tests::rig::{Plan, Rig};
use bildkante_tests::{program, repository};
use http::StatusCode;
use http::header::AUTHORIZATION;
use serde_json::Value;
use tokio::process::Command;

use crate::purge::{TOKEN, with_tokens};
use crate::reviews::reviewed;

async fn unpack(into: &Path) -> anyhow::Result<()> {
    let archive = repository().join("tests/fixtures/edge-8e0c5be.tar.xz");
    let done = Command::new("tar").arg("-xJf").arg(&archive).arg("-C").arg(into).status().await?;
    anyhow::ensure!(done.success(), "tar and xz unpack {}", archive.display());
    std::fs::rename(into.join("edge"), into.join("former"))?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_version_decided_is_in_force() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan { edge: with_tokens, manifest: reviewed, ..Plan::painted(&control) }).await?;
    // Beside the rig's own, whose folder has another name.
    let dir = tempfile::tempdir_in(rig.dir.path())?;
    unpack(dir.path()).await?;
    let former = dir.path().join("former");
    let edge = rig.another_edge("unused", |config| config.cache.disk_dir.clone_from(&former)).await?;
    let bearer = format!("Bearer {TOKEN}");
    let get = async |path: &str| -> anyhow::Result<Value> {
        let reply = rig.http.get(edge.admin, &format!("/admin/v1/{path}"), &[(AUTHORIZATION, &bearer)]).await?;
        anyhow::ensure!(reply.status == StatusCode::OK, "{path}: {} {}", reply.status, reply.text());
        reply.json()
    };
    let state = get("state").await?;
    assert_eq!(
        (state["role"].as_str(), state["term"].as_u64(), state["seq"].as_u64()),
        (Some("primary"), Some(1), Some(12))
    );
    let kills = get("kills").await?;
    assert_eq!(kills["kills"].as_array().map(Vec::len), Some(1), "{kills:#}");
    assert_eq!(kills["kills"][0]["target"], "value:studio?product=cube");
    let decisions = get("decisions").await?;
    let states: Vec<&str> =
        decisions["decisions"].as_array().into_iter().flatten().filter_map(|one| one["state"].as_str()).collect();
    assert_eq!(states, ["live", "rejected"], "{decisions:#}");
    let purges = get("purges").await?;
    assert!(purges["purges"].as_array().is_some_and(|all| all.len() >= 2), "{purges:#}");
    let names: Vec<String> = get("audit?limit=100").await?["entries"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|line| line["entry"]["change"]["kind"] == "key")
        .map(|line| line["entry"]["change"]["name"].as_str().unwrap_or_default().to_owned())
        .collect();
    assert_eq!(names, ["anna", "ben"]);
    let master_of = async |product: &str| {
        let path = format!("/i/studio/thumb?product={product}&fm=webp");
        rig.http.image(edge.http, &path).await
    };
    eventually("the approved picture is shown", async || {
        let shown = master_of("vase").await?;
        Ok(shown.status == StatusCode::OK
            && !shown.outcome().contains("awaiting")
            && !shown.outcome().contains("killed"))
    })
    .await?;
    for (product, why) in [("cube", "killed, and never approved"), ("ring", "rejected")] {
        let outcome = master_of(product).await?.outcome().to_owned();
        assert!(
            ["killed", "awaiting-decision"].iter().any(|word| outcome.contains(word)),
            "{product}, {why}: {outcome}"
        );
    }
    edge.shut_down().await;
    let config = rig.dir.path().join("former.toml");
    std::fs::write(&config, format!("[cache]\ndisk_dir = {former:?}\n"))?;
    let checked =
        Command::new(program("bildkante-edge")?).args(["state", "check", "--config"]).arg(&config).output().await?;
    let said = String::from_utf8_lossy(&[checked.stdout, checked.stderr].concat()).into_owned();
    assert!(checked.status.success(), "{said}");
    rig.stop().await;
    Ok(())
}
