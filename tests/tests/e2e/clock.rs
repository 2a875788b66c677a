//! A wall clock that jumps: a real edge under libfaketime, a year ahead, back, and two years the other way.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Context;
use bildkante_edge::admin::token::hash;
use bildkante_gpu_node::testing::FakeControl;
use bildkante_shared::testing::ReservedPort;
use bildkante_tests::client::{Reply, eventually, within};
use bildkante_tests::rig::{Plan, Rig};
use bildkante_tests::{judge, program, repository};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use tokio::process::{Child, Command};

use crate::purge::TOKEN;

const HIT: &str = "/i/studio/thumb?product=vase&fm=webp";

/// An edge of its own over the rig's node, its clock in a file.
struct Jumpy<'a> {
    rig: &'a Rig,
    public: ReservedPort,
    admin: ReservedPort,
    clock: std::path::PathBuf,
    _process: Child,
}

impl<'a> Jumpy<'a> {
    fn start(rig: &'a Rig, faketime: &Path) -> anyhow::Result<Self> {
        let dir = rig.dir.path();
        let clock = dir.join("clock");
        std::fs::write(&clock, "+0")?;
        let (public, admin) = (ReservedPort::new()?, ReservedPort::new()?);
        let config = dir.join("jumpy.toml");
        let text = format!(
            "[listen]\nhttp = \"{http}\"\nadmin = \"{}\"\n\
             [serve]\npublic_url = \"http://{http}\"\n\
             [cache]\ndisk_dir = {:?}\n\
             [origin]\nnodes = [\"http://{}\"]\nprobe_interval_ms = 100\n\
             [[admin.tokens]]\nname = \"tests\"\nhash = \"{}\"\nscopes = [\"purge\"]\n",
            admin.address(),
            dir.join("jumpy"),
            rig.node(),
            hash(TOKEN),
            http = public.address(),
        );
        std::fs::write(&config, text)?;
        let process = Command::new(program("bildkante-edge")?)
            .args(["serve", "--config"])
            .arg(config)
            .current_dir(repository())
            .env("LD_PRELOAD", preload(faketime)?)
            .env("FAKETIME_TIMESTAMP_FILE", &clock)
            .env("FAKETIME_NO_CACHE", "1")
            // Only the wall clock jumps; a monotonic one never does.
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .env("NO_FAKE_STAT", "1")
            .env("RUST_LOG", "error")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        Ok(Self { rig, public, admin, clock, _process: process })
    }

    /// Moves the clock, and sees that it moved.
    async fn jump(&self, offset: &str, days: i64) -> anyhow::Result<()> {
        let fresh = self.clock.with_extension("new");
        std::fs::write(&fresh, offset)?;
        std::fs::rename(&fresh, &self.clock)?;
        eventually("the edge's clock has jumped", async || {
            let reply = self.get(HIT).await?;
            anyhow::ensure!(reply.status == StatusCode::OK, "{offset}: {}", reply.status);
            let told = httpdate::parse_http_date(reply.header("date"))?;
            let seconds = |time: SystemTime| {
                let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                i64::try_from(since.as_secs()).unwrap_or_default()
            };
            Ok((seconds(told) - seconds(SystemTime::now()) - days * 86_400).abs() < 3_600)
        })
        .await
    }

    async fn get(&self, path: &str) -> anyhow::Result<Reply> {
        self.rig.http.image(self.public.address(), path).await
    }

    async fn purge(&self, kind: &str) -> anyhow::Result<()> {
        let body = serde_json::json!({ "url": HIT, "kind": kind }).to_string();
        let request = Request::post(format!("http://{}/admin/v1/purges", self.admin.address()))
            .header("authorization", format!("Bearer {TOKEN}"))
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))?;
        let reply = self.rig.http.send(request).await?;
        anyhow::ensure!(reply.status == StatusCode::OK, "{} {}", reply.status, reply.text());
        Ok(())
    }

    async fn is_warm(&self) -> anyhow::Result<()> {
        eventually("it is in memory", async || Ok(self.get(HIT).await?.outcome() == "memory")).await
    }
}

/// What the wrapper would preload, for many threads.
fn preload(faketime: &Path) -> anyhow::Result<String> {
    let output = std::process::Command::new(faketime).args(["-m", "-f", "+0d", "printenv", "LD_PRELOAD"]).output()?;
    let text = String::from_utf8(output.stdout)?;
    Ok(text.trim().split(':').next_back().context("a library")?.to_owned())
}

/// While the clock jumps, hits go on, purges take effect, new pictures are drawn, and no pause lasts a year.
#[tokio::test]
async fn a_clock_that_jumps_costs_no_hit_and_keeps_no_purged_image() -> anyhow::Result<()> {
    let Some(faketime) = judge::find("faketime", "a_clock_that_jumps")? else { return Ok(()) };
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan::painted(&control)).await?;
    let edge = Jumpy::start(&rig, &faketime)?;
    eventually("the edge is ready", async || {
        Ok(rig
            .http
            .get(edge.admin.address(), "/readyz?origins=1", &[])
            .await
            .is_ok_and(|reply| reply.status.is_success()))
    })
    .await?;
    edge.is_warm().await?;
    let values = ["cube", "ball", "mug"];
    for (number, (offset, days)) in [("+400d", 400), ("-400d", -400), ("+0", 0)].into_iter().enumerate() {
        edge.jump(offset, days).await?;
        for _ in 0..50 {
            let reply = edge.get(HIT).await?;
            assert_eq!((reply.status, reply.outcome()), (StatusCode::OK, "memory"), "{offset}");
        }
        // Softly: the image is shown until the new one is there, and that is rendered at once.
        edge.purge("soft").await?;
        let reply = edge.get(HIT).await?;
        assert_eq!(reply.status, StatusCode::OK);
        assert_eq!(reply.outcome(), "stale", "{offset}");
        edge.is_warm().await?;
        edge.purge("hard").await?;
        let reply = edge.get(HIT).await?;
        assert_eq!((reply.status, reply.outcome()), (StatusCode::OK, "rendered"), "{offset}");
        let cold = format!("/i/studio/thumb?product={}&fm=webp", values[number]);
        assert_eq!(edge.get(&cold).await?.outcome(), "generated", "{offset}");
    }
    // After the clock went back a year, a purge still counts as newer than the images it purges.
    edge.jump("+400d", 400).await?;
    edge.is_warm().await?;
    edge.purge("hard").await?;
    edge.is_warm().await?;
    edge.jump("+0", 0).await?;
    edge.purge("hard").await?;
    assert_eq!(edge.get(HIT).await?.outcome(), "rendered");
    within("the edge stops", rig.stop()).await?;
    Ok(())
}
