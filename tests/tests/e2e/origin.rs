//! Regions, nodes and the network between: one generation, failover, mutual TLS, topology, a hostile network.

use std::collections::HashSet;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bildkante_edge::app::Edge;
use bildkante_edge::origin::{NodeTlsConfig, RegionConfig};
use bildkante_gpu_node::testing::FakeControl;
use bildkante_gpu_node::tls::TlsConfig;
use bildkante_shared::testing::ReservedPort;
use bildkante_tests::client::{Http, Reply, eventually};
use bildkante_tests::pki::Authority;
use bildkante_tests::proxy::{Fault, Proxy};
use bildkante_tests::rig::{Plan, Rig, torch};
use bildkante_tests::{program, repository};
use futures_util::future::join_all;
use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Whether the long forms of these tests are asked for (`make soak`).
fn soak() -> bool {
    std::env::var_os("BILDKANTE_SOAK").is_some()
}

fn is_picture(reply: &Reply) -> bool {
    reply.status == StatusCode::OK && matches!(reply.outcome(), "generated" | "rendered" | "memory" | "disk")
}

fn region(name: &str, nodes: &[String]) -> RegionConfig {
    RegionConfig { name: name.to_owned(), nodes: nodes.to_vec() }
}

async fn get(http: &Http, edge: &Edge, path: &str) -> anyhow::Result<Reply> {
    http.image(edge.http, path).await
}

/// Many clients of two edges, one cold variant in several cuts: one generation, met at the node.
#[tokio::test(flavor = "multi_thread")]
async fn two_edges_and_many_clients_cost_one_generation() -> anyhow::Result<()> {
    let clients = if soak() { 1_000 } else { 200 };
    let control = Arc::new(FakeControl::default());
    control.hold();
    let rig = Rig::start(Plan::painted(&control)).await?;
    let other = rig.another_edge("edge-2", |_| {}).await?;
    rig.healthy_nodes(&other, 1).await?;
    let asked: Vec<_> = (0..clients)
        .map(|client| {
            let to = [rig.public(), other.http][client % 2];
            let path = format!("/i/studio/hero?product=vase&w={}", [320, 640][client / 2 % 2]);
            let http = rig.http.clone();
            tokio::spawn(async move { http.image(to, &path).await })
        })
        .collect();
    control.started(1).await;
    control.release();
    let mut bodies = HashSet::new();
    for reply in join_all(asked).await {
        let reply = reply??;
        assert!(is_picture(&reply), "{:?}", reply.headers);
        bodies.insert((reply.body.len(), reply.header("etag").to_owned()));
    }
    assert_eq!(control.calls(), 1);
    assert!(bodies.len() <= 4, "two cuts, quick or final: {bodies:?}");
    other.shut_down().await;
    rig.stop().await;
    Ok(())
}

/// More hang-ups than other single flights survive: still one generation, and no panic.
#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_clients_that_hang_up_cost_one_generation() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    control.hold();
    let rig = Rig::start(Plan::painted(&control)).await?;
    let path = "/i/studio/hero?product=lamp";
    let head = format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n");
    for _ in 0..300 {
        let mut socket = TcpStream::connect(rig.public()).await?;
        socket.write_all(head.as_bytes()).await?;
        drop(socket);
    }
    control.started(1).await;
    let waits = tokio::spawn({
        let (http, to) = (rig.http.clone(), rig.public());
        async move { http.image(to, path).await }
    });
    control.release();
    assert!(is_picture(&waits.await??));
    assert_eq!(control.calls(), 1);
    rig.stop().await;
    Ok(())
}

/// A picture that exists is cut without any node, in every width and format.
#[tokio::test]
async fn a_new_width_of_a_present_master_needs_no_node() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let mut rig = Rig::start(Plan::painted(&control)).await?;
    rig.http.image(rig.public(), "/i/studio/hero?product=cube&w=320").await?;
    eventually("the master is on disk", async || Ok(!rig.edge_files("masters")?.is_empty())).await?;
    rig.stop_node().await;
    for query in ["w=640", "w=320&fm=webp", "w=640&fm=jpg", "w=160&fm=png"] {
        let path = format!("/i/studio/hero?product=cube&{query}");
        let reply = rig.http.image(rig.public(), &path).await?;
        assert!(is_picture(&reply), "{query}: {:?}", reply.headers);
        assert_ne!(reply.outcome(), "generated", "{query}");
    }
    assert_eq!(control.calls(), 1);
    rig.stop().await;
    Ok(())
}

#[tokio::test]
async fn the_second_region_draws_while_the_first_is_gone_and_then_no_more() -> anyhow::Result<()> {
    let (near_control, far_control) = (Arc::new(FakeControl::default()), Arc::new(FakeControl::default()));
    let mut rig = Rig::start(Plan::painted(&near_control)).await?;
    let far = rig.another_node("node-far", &far_control, |_| {}).await?;
    let (near_url, far_url) = (format!("http://{}", rig.node()), format!("http://{}", far.addr()));
    let edge = rig
        .another_edge("edge-2", |config| {
            config.origin.regions = vec![region("near", &[near_url]), region("far", &[far_url])];
        })
        .await?;
    rig.healthy_nodes(&edge, 2).await?;
    assert!(is_picture(&get(&rig.http, &edge, "/i/studio/thumb?product=ball").await?));
    assert_eq!((near_control.calls(), far_control.calls()), (1, 0));
    rig.stop_node().await;
    assert!(is_picture(&get(&rig.http, &edge, "/i/studio/thumb?product=cube").await?));
    assert_eq!((near_control.calls(), far_control.calls()), (1, 1));
    rig.start_node().await?;
    rig.healthy_nodes(&edge, 2).await?;
    assert!(is_picture(&get(&rig.http, &edge, "/i/studio/thumb?product=ring").await?));
    assert_eq!((near_control.calls(), far_control.calls()), (2, 1));
    rig.http.counts(edge.admin, "bildkante_edge_origin_answered_total{region=\"far\"}", 1.0).await?;
    edge.shut_down().await;
    far.shut_down().await;
    rig.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_node_with_tls_draws_for_edges_it_knows_and_refuses_others() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan::painted(&control)).await?;
    let dir = rig.dir.path();
    let (ours, theirs) = (Authority::new(dir, "ours")?, Authority::new(dir, "theirs")?);
    let (node_id, edge_id) = (ours.identity(dir, "node")?, ours.identity(dir, "edge")?);
    let stranger = theirs.identity(dir, "stranger")?;
    let node = rig
        .another_node("node-tls", &control, |config| {
            config.tls = Some(TlsConfig {
                certificate: node_id.certificate.clone(),
                key: node_id.key.clone(),
                client_ca: ours.file.clone(),
            });
        })
        .await?;
    let url = format!("https://{}", node.addr());
    let tls = |identity: &bildkante_tests::pki::Identity| NodeTlsConfig {
        ca: ours.file.clone(),
        certificate: identity.certificate.clone(),
        key: identity.key.clone(),
    };
    let known = rig
        .another_edge("edge-known", |config| {
            config.origin.nodes = vec![url.clone()];
            config.origin.tls = Some(tls(&edge_id));
        })
        .await?;
    rig.healthy_nodes(&known, 1).await?;
    assert_eq!(get(&rig.http, &known, "/i/studio/thumb?product=ball").await?.outcome(), "generated");

    let unknown = rig
        .another_edge("edge-unknown", |config| {
            config.origin.nodes = vec![url.clone()];
            config.origin.tls = Some(tls(&stranger));
        })
        .await?;
    let error = unknown.regions.checkpoints(Duration::from_secs(10)).await;
    let error = error.err().context("a stranger must not be served")?.to_string();
    assert!(error.contains("UnknownCA") || error.contains("unknown CA") || error.contains("no node"), "{error}");
    eventually("the node counts what it refuses", async || Ok(node.metrics().handshake_errors_total.get() >= 1))
        .await?;
    // Plain text is refused as well.
    let mut plain = TcpStream::connect(node.addr()).await?;
    plain.write_all(b"GET /readyz HTTP/1.1\r\nhost: node\r\n\r\n").await?;
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!String::from_utf8_lossy(&answer).contains("HTTP/1.1"), "{answer:?}");
    known.shut_down().await;
    unknown.shut_down().await;
    node.shut_down().await;
    rig.stop().await;
    Ok(())
}

/// Nodes come and go in the topology file while clients ask for ever new pictures: every client gets a picture.
#[tokio::test(flavor = "multi_thread")]
async fn the_topology_changes_under_load_and_no_call_is_lost() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    control.set_step(Duration::from_millis(2));
    let rig = Rig::start(Plan::painted(&control)).await?;
    let second = rig.another_node("node-2", &control, |_| {}).await?;
    let file = rig.dir.path().join("topology.toml");
    let write = |addresses: &[std::net::SocketAddr]| -> anyhow::Result<()> {
        let nodes: Vec<_> = addresses.iter().map(|address| format!("\"http://{address}\"")).collect();
        let text = format!("[[regions]]\nname = \"only\"\nnodes = [{}]\n", nodes.join(", "));
        // In one step: an edge that read half a file would see another topology.
        let half = file.with_extension("new");
        std::fs::write(&half, text)?;
        Ok(std::fs::rename(&half, &file)?)
    };
    write(&[rig.node()])?;
    let edge = rig
        .another_edge("edge-2", |config| {
            config.origin.topology_file = Some(file.clone());
            config.origin.topology_reload_ms = 10;
            config.budget.network_per_minute = 0;
        })
        .await?;
    rig.healthy_nodes(&edge, 1).await?;
    let products = ["ball", "cube", "vase", "mug", "lamp", "ring", "gift", "star"];
    let colours = ["red", "green", "blue", "teal", "yellow", "orange"];
    let rounds = if soak() { colours.len() } else { 2 };
    let layouts = [vec![rig.node(), second.addr()], vec![second.addr()], vec![rig.node()]];
    let mut layout = layouts.iter().cycle();
    for colour in &colours[..rounds] {
        let asked: Vec<_> = products
            .iter()
            .map(|product| {
                let (http, to) = (rig.http.clone(), edge.http);
                let path = format!("/i/studio/thumb?product={product}&colour={colour}");
                tokio::spawn(async move { http.image(to, &path).await })
            })
            .collect();
        let nodes = layout.next().context("a layout")?;
        write(nodes)?;
        eventually("the topology is in force", async || Ok(edge.regions.statuses().len() == nodes.len())).await?;
        for reply in join_all(asked).await {
            let reply = reply??;
            // An unknown value is answered 400, and no node is asked.
            assert!(is_picture(&reply) || reply.status == StatusCode::BAD_REQUEST, "{:?}", reply.headers);
        }
        rig.healthy_nodes(&edge, nodes.len()).await?;
    }
    edge.shut_down().await;
    second.shut_down().await;
    rig.stop().await;
    Ok(())
}

/// A network that delays, corrupts, cuts and stalls: every answer is a whole picture, and once the network is
/// sound again so is everything.
#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_network_costs_stand_ins_and_never_a_wrong_byte() -> anyhow::Result<()> {
    fn impatient(text: String) -> String {
        text.replace("wait_ms = 20000", "wait_ms = 1500")
    }
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan { manifest: impatient, ..Plan::painted(&control) }).await?;
    let proxy = Proxy::start(rig.node()).await?;
    let url = proxy.url();
    let edge = rig.another_edge("edge-2", |config| config.origin.nodes = vec![url]).await?;
    rig.healthy_nodes(&edge, 1).await?;
    let faults = [
        ("ball", Fault::Delay(Duration::from_millis(20))),
        ("cube", Fault::Corrupt),
        ("vase", Fault::CutAfter(700)),
        ("lamp", Fault::Stall),
        ("ring", Fault::Refuse),
    ];
    for (product, fault) in faults {
        proxy.set(fault);
        let path = format!("/i/studio/thumb?product={product}&fm=png");
        let reply = get(&rig.http, &edge, &path).await?;
        assert_eq!(reply.status, StatusCode::OK, "{fault:?}: {:?}", reply.headers);
        image::load_from_memory(&reply.body).with_context(|| format!("{fault:?}"))?;
        let is_stand_in = reply.header("cache-control") == "no-cache";
        assert!(is_stand_in || is_picture(&reply), "{fault:?}: {:?}", reply.headers);
        proxy.set(Fault::None);
        // The same picture from an edge that never met the fault: its bytes are the true ones.
        let truth = rig.http.image(rig.public(), &path).await?;
        eventually("the true picture is served", async || {
            let reply = get(&rig.http, &edge, &path).await?;
            anyhow::ensure!(reply.status == StatusCode::OK, "{:?}", reply.headers);
            Ok(is_picture(&reply) && reply.body == truth.body)
        })
        .await
        .with_context(|| format!("after {fault:?}"))?;
    }
    assert_eq!(control.calls(), faults.len(), "after every fault on the way, each was drawn once");
    edge.shut_down().await;
    rig.stop().await;
    Ok(())
}

/// A real node is stopped in the middle of a drawing (it hangs: connections stay open and nothing answers), and one is
/// killed: the call moves to the next region.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_process_that_hangs_or_dies_while_drawing_is_replaced() -> anyhow::Result<()> {
    let node_program = program("bildkante-gpu-node")?;
    let _device = torch().await;
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan::painted(&control)).await?;
    for (signal, product) in [("-STOP", "vase"), ("-KILL", "lamp")] {
        let reserved = ReservedPort::new()?;
        let port = reserved.address();
        let mut process = tokio::process::Command::new(&node_program)
            .args(["serve", "--listen", &port.to_string(), "--config"])
            .arg(node_config(rig.dir.path(), product)?)
            .stdin(Stdio::null())
            .env("RUST_LOG", "warn")
            .kill_on_drop(true)
            .spawn()?;
        let (near, far) = (format!("http://{port}"), format!("http://{}", rig.node()));
        let edge = rig
            .another_edge(product, |config| {
                config.origin.regions = vec![region("near", &[near]), region("far", &[far])];
                // Three late probes in a row are silence: on a busy machine none of them takes so long.
                config.origin.probe_timeout_ms = 2_000;
            })
            .await?;
        rig.healthy_nodes(&edge, 2).await?;
        let path = format!("/i/studio/thumb?product={product}");
        let asked = tokio::spawn({
            let (http, to) = (rig.http.clone(), edge.http);
            async move { http.image(to, &path).await }
        });
        eventually("the node draws", async || Ok(rig.http.metric(port, "bildkante_node_jobs_in_flight").await? >= 1.0))
            .await?;
        let id = process.id().context("the node ended")?.to_string();
        anyhow::ensure!(std::process::Command::new("kill").args([signal, &id]).status()?.success());
        let reply = asked.await??;
        assert!(is_picture(&reply), "{signal}: {:?}", reply.headers);
        process.start_kill()?;
        process.wait().await?;
        edge.shut_down().await;
    }
    assert_eq!(control.calls(), 2, "both were drawn in the second region");
    rig.stop().await;
    Ok(())
}

fn node_config(dir: &std::path::Path, name: &str) -> anyhow::Result<std::path::PathBuf> {
    let path = dir.join(format!("{name}-node.toml"));
    let text = format!(
        "models_dir = {:?}\ndata_dir = {:?}\nthreads = 1\n",
        repository().join("gpu-node/models"),
        dir.join(format!("{name}-node"))
    );
    std::fs::write(&path, text)?;
    Ok(path)
}
