//! The programs themselves: sidecar, determinism across processes, no process left behind.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::Context;
use bildkante_shared::testing::ReservedPort;
use bildkante_tests::client::{Http, eventually, within};
use bildkante_tests::rig::{Plan, Rig, torch};
use bildkante_tests::{program, repository};
use tokio::process::Command;

/// Two processes of the command line, and a server that draws other pictures as well, give one master id.
#[tokio::test]
async fn the_same_recipe_is_the_same_master_in_every_process() -> anyhow::Result<()> {
    let node = program("bildkante-gpu-node")?;
    let dir = tempfile::tempdir()?;
    let _device = torch().await;
    let mut ids = Vec::new();
    for run in 0..2 {
        let output = Command::new(&node)
            .args(["generate", "--checkpoint"])
            .arg(repository().join("gpu-node/models/studio-tiny"))
            .args([
                "--prompt",
                "a red ball",
                "--seed",
                "11",
                "--steps",
                "4",
                "--guidance",
                "4",
                "--threads",
                "1",
                "--out",
            ])
            .arg(dir.path().join(format!("{run}.png")))
            .stderr(Stdio::inherit())
            .output()
            .await?;
        anyhow::ensure!(output.status.success(), "generate failed");
        let line: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        ids.push(line["master_id"].as_str().context("a master id")?.to_owned());
    }
    assert_eq!(ids[0], ids[1]);
    drop(_device);

    let rig = Rig::start(Plan::shipped()).await?;
    let checkpoints = rig.http.get(rig.node(), "/v1/checkpoints", &[]).await?.json()?;
    let digest = checkpoints.get("checkpoints").unwrap_or(&checkpoints)[0]["digest"].clone();
    let ask = |prompt: &str, urgency: u8| {
        let body = serde_json::json!({
            "recipe": { "checkpoint": digest, "prompt": prompt, "width_px": 192, "height_px": 192, "seed": 11, "steps": 4,
                "guidance": 4.0 },
            "urgency": urgency, "deadline_ms": 120_000
        });
        let (http, to) = (rig.http.clone(), rig.node());
        tokio::spawn(async move { http.post_json(to, "/v1/generations", &body).await })
    };
    let others: Vec<_> = ["a blue cube", "a green vase"].into_iter().map(|prompt| ask(prompt, 0)).collect();
    let served = ask("a red ball", 3).await??.json()?;
    for other in others {
        anyhow::ensure!(other.await??.status.is_success());
    }
    assert_eq!(served["master"]["id"], ids[0].as_str(), "{served}");
    rig.stop().await;
    Ok(())
}

/// The edge starts its sidecar, serves a picture from it, starts it again when it is killed, and leaves no process.
#[tokio::test]
async fn the_edge_keeps_its_sidecar_and_takes_it_along() -> anyhow::Result<()> {
    let (edge, node) = (program("bildkante-edge")?, program("bildkante-gpu-node")?);
    let _device = torch().await;
    let dir = tempfile::tempdir()?;
    let (public, admin, inner) = (ReservedPort::new()?, ReservedPort::new()?, ReservedPort::new()?);
    let config = configure(dir.path(), &node, [public.port(), admin.port(), inner.port()])?;
    let mut process = Command::new(&edge)
        .args(["serve", "--config"])
        .arg(&config)
        .current_dir(repository())
        .env("RUST_LOG", "warn")
        .kill_on_drop(true)
        .spawn()?;
    let http = Http::default();
    let (public, admin) = (public.address(), admin.address());
    let is_ready =
        async || Ok(http.get(admin, "/readyz?origins=1", &[]).await.is_ok_and(|reply| reply.status.is_success()));
    eventually("the edge and its sidecar are ready", is_ready).await?;
    let picture = http.image(public, "/i/studio/thumb?product=vase").await?;
    assert_eq!(picture.outcome(), "generated", "{:?}", picture.headers);

    let first = sidecar_of(&process)?;
    kill(first, "-KILL")?;
    eventually("the sidecar is started again", async || {
        Ok(sidecar_of(&process).is_ok_and(|pid| pid != first) && is_ready().await?)
    })
    .await?;
    let second = sidecar_of(&process)?;

    kill(process.id().context("the edge's id")?, "-TERM")?;
    let status = within("the edge ends", process.wait()).await??;
    assert!(status.success(), "{status}");
    assert!(!Path::new(&format!("/proc/{second}")).exists(), "the sidecar outlived the edge");
    Ok(())
}

fn configure(dir: &Path, node: &Path, [public, admin, inner]: [u16; 3]) -> anyhow::Result<PathBuf> {
    let node_config = dir.join("gpu-node.toml");
    std::fs::write(
        &node_config,
        format!(
            "listen = \"127.0.0.1:{inner}\"\nmodels_dir = {:?}\ndata_dir = {:?}\nthreads = 1\n",
            repository().join("gpu-node/models"),
            dir.join("node")
        ),
    )?;
    let edge_config = dir.join("edge.toml");
    std::fs::write(
        &edge_config,
        format!(
            "[listen]\nhttp = \"127.0.0.1:{public}\"\nadmin = \"127.0.0.1:{admin}\"\n\
             [serve]\npublic_url = \"http://127.0.0.1:{public}\"\n\
             [cache]\ndisk_dir = {:?}\n\
             [origin]\nnodes = [\"http://127.0.0.1:{inner}\"]\nprobe_interval_ms = 100\n\
             [origin.sidecar]\ncommand = {node:?}\nargs = [\"serve\", \"--exit-with-parent\", \"--config\", {node_config:?}]\n",
            dir.join("edge")
        ),
    )?;
    Ok(edge_config)
}

/// The edge's only child.
fn sidecar_of(edge: &tokio::process::Child) -> anyhow::Result<u32> {
    let id = edge.id().context("the edge ended")?;
    for thread in std::fs::read_dir(format!("/proc/{id}/task"))? {
        let children = std::fs::read_to_string(thread?.path().join("children")).unwrap_or_default();
        if let Some(child) = children.split_whitespace().next() {
            return Ok(child.parse()?);
        }
    }
    anyhow::bail!("the edge has no child")
}

pub(crate) fn kill(pid: u32, signal: &str) -> anyhow::Result<()> {
    let status = std::process::Command::new("kill").args([signal, &pid.to_string()]).status()?;
    anyhow::ensure!(status.success(), "kill {signal} {pid}");
    Ok(())
}

/// An edge whose files are limited: soft and hard, as a shell sets them.
fn start_limited(config: &Path, log: &Path, soft: u32, hard: u32) -> anyhow::Result<tokio::process::Child> {
    let script = "ulimit -S -n \"$2\" && ulimit -H -n \"$3\" && exec \"$0\" serve --config \"$1\"";
    let child = Command::new("sh")
        .args(["-c", script])
        .arg(program("bildkante-edge")?)
        .arg(config)
        .args([soft.to_string(), hard.to_string()])
        .current_dir(repository())
        .env("RUST_LOG", "info")
        .stderr(std::fs::File::create(log)?)
        .kill_on_drop(true)
        .spawn()?;
    Ok(child)
}

/// Public and admin address, from the line in which an edge says that it serves.
pub(crate) fn serves(log: &Path) -> anyhow::Result<(std::net::SocketAddr, std::net::SocketAddr)> {
    let text = std::fs::read_to_string(log)?;
    let line = text.lines().find(|line| line.contains("edge serves")).context("it does not serve yet")?;
    let line: serde_json::Value = serde_json::from_str(line)?;
    let address = |name: &str| Ok::<_, anyhow::Error>(line["fields"][name].as_str().context("an address")?.parse()?);
    Ok((address("http")?, address("admin")?))
}

/// More clients than an edge may have files open: it raises its limit, says what fits, lets the others wait, and serves
/// from its disk meanwhile without blaming it.
#[tokio::test(flavor = "multi_thread")]
async fn connections_leave_descriptors_for_files() -> anyhow::Result<()> {
    const HARD: u32 = 512;
    let control = std::sync::Arc::new(bildkante_gpu_node::testing::FakeControl::default());
    let rig = Rig::start(Plan::painted(&control)).await?;
    bildkante_edge::descriptors::raise();
    let dir = tempfile::tempdir()?;
    let (config, log) = (dir.path().join("edge.toml"), dir.path().join("log"));
    std::fs::write(
        &config,
        format!(
            "[listen]\nhttp = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\nworkers = 1\n[log]\nformat = \"json\"\n\
             [limits]\nconnections_max = 20000\nconnections_per_client_max = 20000\nfirst_byte_ms = 600000\n\
             [cache]\ndisk_dir = {:?}\nmemory_bytes_max = 1\nfront_bytes_max = 1\ndisk_errors_max = 1\ndisk_io_timeout_ms = 60000\n\
             [campaigns]\ncampaigns_dir = {:?}\nprompts_dir = {:?}\n\
             [origin]\nnodes = [\"http://{}\"]\nprobe_interval_ms = 100\n",
            dir.path().join("cache"),
            rig.dir.path().join("campaigns"),
            rig.dir.path().join("prompts"),
            rig.node(),
        ),
    )?;
    let mut process = start_limited(&config, &log, 64, HARD)?;
    let http = Http::default();
    eventually("the edge says where it serves", async || Ok(serves(&log).is_ok())).await?;
    let (public, admin) = serves(&log)?;
    eventually("the edge and the node are ready", async || {
        Ok(http.get(admin, "/readyz?origins=1", &[]).await.is_ok_and(|reply| reply.status.is_success()))
    })
    .await?;
    let said = std::fs::read_to_string(&log)?;
    let warning = said.lines().find(|line| line.contains("limits.connections_max")).context("no warning")?;
    assert!(warning.contains("20000") && warning.contains(&HARD.to_string()), "{warning}");

    // This client's connection is open before the crowd comes.
    let products = ["mug", "vase", "ring", "ball"];
    for product in products {
        let path = format!("/i/studio/thumb?product={product}&fm=webp");
        eventually("the picture is on disk", async || {
            Ok(matches!(http.image(public, &path).await?.outcome(), "disk" | "memory"))
        })
        .await?;
    }
    let crowd = async || {
        let mut crowd = Vec::new();
        while crowd.len() < HARD as usize + 50 {
            crowd.push(tokio::net::TcpStream::connect(public).await?);
        }
        std::io::Result::Ok(crowd)
    };
    let crowd = crowd().await?;
    let open = "bildkante_edge_connections_open";
    eventually("as many connections are open as fit", async || {
        let open = http.metric(admin, open).await?;
        Ok(open > 64.0 && open < f64::from(HARD))
    })
    .await?;
    for product in products.iter().cycle().take(40) {
        let path = format!("/i/studio/thumb?product={product}&fm=webp");
        let reply = http.image(public, &path).await?;
        assert!(matches!(reply.outcome(), "disk" | "memory"), "{path}: {:?}", reply.headers);
    }
    // A picture that is new needs a file, a connection and a place on disk.
    assert_eq!(http.image(public, "/i/studio/thumb?product=cube&fm=webp").await?.outcome(), "generated");
    let metrics = http.get(admin, "/metrics", &[]).await?.text();
    let offline: Vec<_> = metrics
        .lines()
        .filter(|line| line.contains("_online{") && !line.contains("object") && line.ends_with(" 0"))
        .collect();
    assert!(offline.is_empty(), "{offline:?}");
    drop(crowd);
    process.start_kill()?;
    process.wait().await?;
    let said = std::fs::read_to_string(&log)?;
    assert!(!said.contains("Too many open files"), "{said}");
    rig.stop().await;
    Ok(())
}
