//! What one client may take, and how an edge makes room and leaves.

use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bildkante_edge::app::Sockets;
use bildkante_edge::config::{Config, ConfigFile};
use bildkante_edge::listener::addresses::Addresses;
use bildkante_edge::listener::systemd::Inherited;
use bildkante_gpu_node::testing::FakeControl;
use bildkante_tests::client::eventually;
use bildkante_tests::raw::{Connection, exchange};
use bildkante_tests::rig::{Plan, Rig};
use bildkante_tests::{h2, program, repository};
use http::{HeaderName, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::listener::told;
use crate::processes::kill;

const PATH: &str = "/rum.js";
const LONG: Duration = Duration::from_secs(60);

async fn plan(edge: fn(&mut Config)) -> anyhow::Result<Rig> {
    let control = Arc::new(FakeControl::default());
    Rig::start(Plan { edge, ..Plan::painted(&control) }).await
}

/// GOAWAY asks a client to stop. A client that opens further streams is cut off.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_on_behind_goaway_is_cut() -> anyhow::Result<()> {
    let rig = plan(|config| {
        config.limits.requests_max = 5;
        config.limits.streams_max = 10;
    })
    .await?;
    let get = h2::request(2, PATH);
    let mut stream = TcpStream::connect(rig.public()).await?;
    stream.write_all(&h2::opening()).await?;
    let mut read = Vec::new();
    let go_on = async {
        for number in 0..1000_u32 {
            let head = h2::frame(h2::HEADERS, h2::END_STREAM | h2::END_HEADERS, 2 * number + 1, &get);
            if stream.write_all(&head).await.is_err() {
                break;
            }
            // Windows are opened, so that nothing but the limit ends it; its PING is not answered.
            let _ = stream.write_all(&h2::frame(h2::WINDOW_UPDATE, 0, 0, &60_000_u32.to_be_bytes())).await;
            while !h2::Heard::parse(&read).answered.contains(&(2 * number + 1)) {
                if stream.read_buf(&mut read).await.unwrap_or(0) == 0 {
                    return;
                }
            }
        }
    };
    tokio::time::timeout(LONG, go_on).await.context("it is served for ever")?;
    let heard = h2::Heard::parse(&read);
    assert_eq!(heard.goaways.first(), Some(&0), "{heard:?}");
    assert!((5..=25).contains(&heard.answered.len()), "{} answers", heard.answered.len());
    let ended = "bildkante_edge_connections_total{end=\"requests\"}";
    eventually("it is counted", async || Ok(rig.http.metric(rig.admin(), ended).await? == 1.0)).await?;
    rig.stop().await;
    Ok(())
}

/// A client network has its share of connections; the next one is closed at once, until one of them ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_network_has_its_share_of_connections() -> anyhow::Result<()> {
    let rig = plan(|config| config.limits.connections_per_client_max = 2).await?;
    let mut first = Connection::open(rig.public()).await?;
    let mut second = Connection::open(rig.public()).await?;
    for connection in [&mut first, &mut second] {
        assert_eq!(connection.get(PATH, &[]).await?.status, StatusCode::OK);
    }
    let mut third = TcpStream::connect(rig.public()).await?;
    let mut nothing = Vec::new();
    // A reset closes the connection too.
    let _ = tokio::time::timeout(LONG, third.read_to_end(&mut nothing)).await.context("it stays open")?;
    assert!(nothing.is_empty());
    let refused = "bildkante_edge_connections_refused_total";
    assert_eq!(rig.http.metric(rig.admin(), refused).await?, 1.0);
    assert_eq!(second.get(PATH, &[]).await?.status, StatusCode::OK, "who is in stays in");
    drop(first);
    eventually("the share is free again", async || {
        let Ok(mut next) = Connection::open(rig.public()).await else { return Ok(false) };
        Ok(next.get(PATH, &[]).await.is_ok_and(|reply| reply.status == StatusCode::OK))
    })
    .await?;
    rig.stop().await;
    Ok(())
}

/// A full listener closes the connection that has rested longest, and serves the next client.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_listener_closes_who_has_rested_longest() -> anyhow::Result<()> {
    let rig = plan(|config| {
        config.limits.connections_max = 3;
        config.limits.connections_per_client_max = 100;
        // No connection is closed for another reason.
        config.limits.idle_ms = 600_000;
    })
    .await?;
    let mut resting = Vec::new();
    for _ in 0..3 {
        let mut connection = Connection::open(rig.public()).await?;
        assert_eq!(connection.get(PATH, &[]).await?.status, StatusCode::OK);
        resting.push(connection);
        // So that the times they have rested differ by more than the clock's resolution.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut next = Connection::open(rig.public()).await?;
    assert_eq!(next.get(PATH, &[]).await?.status, StatusCode::OK);
    assert!(resting[0].get(PATH, &[]).await.is_err(), "the longest rest is over");
    for connection in &mut resting[1..] {
        assert_eq!(connection.get(PATH, &[]).await?.status, StatusCode::OK, "the others go on");
    }
    let shed = "bildkante_edge_connections_total{end=\"shed\"}";
    assert_eq!(rig.http.metric(rig.admin(), shed).await?, 1.0);
    rig.stop().await;
    Ok(())
}

/// A byte beyond ASCII invalidates one member of `Accept` only; `OPTIONS *` asks about the server (RFC 9110 §9.3.7).
#[tokio::test]
async fn odd_requests_are_answered_as_they_are_meant() -> anyhow::Result<()> {
    let rig = plan(|_| {}).await?;
    let head =
        b"GET /i/studio/thumb HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAccept: image/avif, \xff, */*;q=0.5\r\n\r\n";
    for _ in 0..2 {
        let answers = exchange(rig.public(), head).await?;
        assert_eq!((answers.len(), answers[0].content_type()), (1, "image/avif"), "made, then from memory");
    }
    for address in [rig.public(), rig.admin()] {
        let answers = exchange(address, b"OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await?;
        assert_eq!(answers.len(), 1);
        assert_eq!(answers[0].status, StatusCode::NO_CONTENT);
        assert_eq!(answers[0].header("allow"), "GET, HEAD, POST, OPTIONS");
    }
    rig.stop().await;
    Ok(())
}

/// A listener answers on each of its addresses.
#[tokio::test]
async fn a_listener_has_several_addresses() -> anyhow::Result<()> {
    let rig = plan(|_| {}).await?;
    let any: SocketAddr = "127.0.0.1:0".parse()?;
    let mut config = Config::default();
    config.listen.http = Addresses::new(vec![any, any])?;
    config.listen.admin = any.into();
    let sockets = Sockets::bind(&config, Inherited::default()).await?;
    let bound = sockets.http.iter().map(|socket| socket.local_addr()).collect::<Result<Vec<_>, _>>()?;
    assert_eq!(bound.len(), 2);
    let edge = rig.another_edge_on(sockets, "several", |_| {}).await?;
    for address in bound {
        assert_eq!(rig.http.get(address, PATH, &[]).await?.status, StatusCode::OK, "{address}");
    }
    edge.shut_down().await;
    rig.stop().await;
    Ok(())
}

/// SIGTERM first takes the edge out of a load balancer: `/readyz` says 503, and the edge serves as before on every socket that
/// systemd handed over, until the time is over or a second signal comes. SIGHUP still reloads.
#[tokio::test(flavor = "multi_thread")]
async fn leaving_is_announced_before_it_happens() -> anyhow::Result<()> {
    let rig = plan(|_| {}).await?;
    let dir = rig.dir.path();
    let listen = || std::net::TcpListener::bind("127.0.0.1:0");
    let (one, other, admin) = (listen()?, listen()?, listen()?);
    let (public, operators) = ([one.local_addr()?, other.local_addr()?], admin.local_addr()?);
    let config = dir.join("leaving.toml");
    let text = format!(
        "[limits]\nlame_duck_ms = 600000\n[cache]\ndisk_dir = {:?}\n[origin]\nnodes = [\"http://{}\"]\n",
        dir.join("leaving"),
        rig.node(),
    );
    std::fs::write(&config, &text)?;
    let notify = dir.join("notify-leaving");
    let systemd = UnixDatagram::bind(&notify)?;
    systemd.set_read_timeout(Some(LONG))?;
    // systemd's part, played by a shell: descriptors 3 to 5, two of one name.
    let script = "exec 3<&0 4<&1 5<&2 </dev/null >/dev/null 2>/dev/null
        export LISTEN_PID=$$ LISTEN_FDS=3 LISTEN_FDNAMES=http:http:admin
        exec \"$0\" serve --config \"$1\"";
    let mut edge = Command::new("sh")
        .args(["-c", script])
        .arg(program("bildkante-edge")?)
        .arg(&config)
        .current_dir(repository())
        .env("NOTIFY_SOCKET", &notify)
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(one)))
        .stdout(Stdio::from(std::os::fd::OwnedFd::from(other)))
        .stderr(Stdio::from(std::os::fd::OwnedFd::from(admin)))
        .kill_on_drop(true)
        .spawn()?;
    told(&systemd, "READY=1").await?;
    let ready = async || Ok(rig.http.get(operators, "/readyz", &[]).await?.status == StatusCode::OK);
    eventually("it is ready", ready).await?;

    let id = edge.id().context("the edge's id")?;
    kill(id, "-TERM")?;
    told(&systemd, "STOPPING=1").await?;
    eventually("it says that it leaves", async || {
        let reply = rig.http.get(operators, "/readyz", &[]).await?;
        Ok(reply.status == StatusCode::SERVICE_UNAVAILABLE && reply.json()?["leaving"] == true)
    })
    .await?;
    // Changes are still taken over; systemd is not told, because it knows that the edge stops.
    std::fs::write(&config, text.replace("[cache]", "[log]\nfilter = \"warn\"\n[cache]"))?;
    kill(id, "-HUP")?;
    rig.http.counts(operators, "bildkante_edge_config_reloads_total{outcome=\"reloaded\"}", 1.0).await?;
    assert_eq!(rig.http.get(operators, "/readyz", &[]).await?.status, StatusCode::SERVICE_UNAVAILABLE, "a reload");
    systemd.set_nonblocking(true)?;
    let more = systemd.recv(&mut [0; 256]).map_err(|error| error.kind());
    assert_eq!(more, Err(std::io::ErrorKind::WouldBlock), "it said more than that it stops");
    for address in public {
        let mut connection = Connection::open(address).await?;
        for _ in 0..2 {
            let reply = connection.get(PATH, &[]).await?;
            assert_eq!((reply.status, reply.header("connection")), (StatusCode::OK, ""), "{address}");
        }
    }
    kill(id, "-TERM")?;
    assert!(tokio::time::timeout(LONG, edge.wait()).await.context("it does not stop")??.success());
    rig.stop().await;
    Ok(())
}

/// A change of the trusted proxies takes effect without a restart.
#[tokio::test]
async fn trusted_proxies_are_taken_over_from_the_file() -> anyhow::Result<()> {
    let rig = plan(|_| {}).await?;
    let path = rig.dir.path().join("proxies.toml");
    std::fs::write(&path, "")?;
    let file = ConfigFile { path: path.clone(), text: String::new() };
    let edge = rig
        .another_edge("proxies", move |config| {
            config.file = Some(file);
            config.budget.network_burst = 1;
            config.budget.network_per_minute = 1;
        })
        .await?;
    rig.healthy_nodes(&edge, 1).await?;
    let field = HeaderName::from_static("x-forwarded-for");
    let over = "placeholder: over-budget-network";
    let ask = async |product: &str, client: &str| {
        let path = format!("/i/studio/thumb?product={product}");
        anyhow::Ok(rig.http.get(edge.http, &path, &[(field.clone(), client)]).await?.outcome().to_owned())
    };
    assert_eq!(ask("ball", "203.0.113.7").await?, "generated");
    assert_eq!(ask("ring", "192.0.2.9").await?, over, "a claim");
    std::fs::write(&path, "[listen]\ntrusted_proxies = [\"127.0.0.0/8\"]\n")?;
    edge.reload().await;
    assert_eq!(ask("ring", "192.0.2.9").await?, "generated", "a proxy's word");
    std::fs::write(&path, "[listen]\ntrusted_proxies = []\n")?;
    edge.reload().await;
    assert_eq!(ask("cube", "198.51.100.4").await?, over, "a claim again");
    edge.shut_down().await;
    rig.stop().await;
    Ok(())
}
