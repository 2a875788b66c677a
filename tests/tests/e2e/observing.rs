//! What operators see: the access log, ids that join the lines of edge and node, metrics of answers, and who may send
//! field measurements.

use std::collections::HashMap;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, LazyLock};

use anyhow::Context;
use bildkante_edge::access::{Destination, ShownClient};
use bildkante_edge::app::Edge;
use bildkante_edge::config::Config;
use bildkante_gpu_node::testing::FakeControl;
use bildkante_shared::trace::Traceparent;
use bildkante_tests::client::{CHROME, Reply, eventually};
use bildkante_tests::raw::Connection;
use bildkante_tests::rig::{Plan, Rig};
use bildkante_tests::{program, repository};
use bytes::Bytes;
use http::{HeaderName, Method, Request, StatusCode};
use http_body_util::{BodyExt, Empty, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::process::Child;

const PICTURE: &str = "/i/studio/thumb?product=vase";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

type Line = serde_json::Map<String, serde_json::Value>;

async fn painted() -> anyhow::Result<Rig> {
    Rig::start(Plan::painted(&Arc::new(FakeControl::default()))).await
}

fn log_of(rig: &Rig) -> PathBuf {
    rig.dir.path().join("access.log")
}

/// An edge that logs to [`log_of`], every hit unless `change` says otherwise.
async fn observed(rig: &Rig, change: impl FnOnce(&mut Config)) -> anyhow::Result<Edge> {
    let log = log_of(rig);
    rig.another_edge("observed", |config| {
        config.access_log.to = Destination::File(log);
        config.access_log.hits_sample = 1.0;
        change(config);
    })
    .await
}

/// Reads until there is a line for which `is_it` holds.
async fn line(path: &Path, what: &str, is_it: impl Fn(&Line) -> bool) -> anyhow::Result<Line> {
    let mut found = None;
    eventually(what, async || {
        found = lines(path)?.into_iter().find(&is_it);
        Ok(found.is_some())
    })
    .await?;
    found.context("a line")
}

fn lines(path: &Path) -> anyhow::Result<Vec<Line>> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    // The last one may be on its way.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    Ok(whole.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
}

/// A client names itself, so that its line is found.
fn is_of(agent: &str) -> impl Fn(&Line) -> bool {
    move |line| line.get("user_agent").is_some_and(|value| value == agent)
}

/// What this process logs, as JSON lines.
static LOGGED: LazyLock<Logged> = LazyLock::new(|| {
    let logged = Logged::default();
    let writer = logged.clone();
    let lines = tracing_subscriber::fmt().json().with_max_level(tracing_subscriber::filter::LevelFilter::INFO);
    // No other test of this process installs one.
    let _ = tracing_subscriber::util::SubscriberInitExt::try_init(lines.with_writer(move || writer.clone()).finish());
    logged
});

#[derive(Debug, Clone, Default)]
struct Logged(Arc<Mutex<Vec<u8>>>);

impl Write for Logged {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Logged {
    /// The message's line of `target` within a span of this trace.
    fn find(&self, target: &str, message: &str, trace: &str) -> Option<serde_json::Value> {
        let text = String::from_utf8_lossy(&self.0.lock()).into_owned();
        text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok()).find(|line| {
            line["target"] == target && line["fields"]["message"] == message && line["span"]["trace"] == trace
        })
    }
}

/// An edge in a process of its own, so that its log and the log's limits are its alone.
struct Served {
    process: Child,
    http: SocketAddr,
    stderr: PathBuf,
}

impl Served {
    /// Starts it with a configuration file of this text and waits until it says where it serves. Its logs are the files
    /// `stdout` and `stderr` of the folder.
    async fn start(dir: &Path, config: &str) -> anyhow::Result<Self> {
        let (file, stderr) = (dir.join("edge.toml"), dir.join("stderr"));
        std::fs::write(&file, config)?;
        let process = tokio::process::Command::new(program("bildkante-edge")?)
            .args(["serve", "--config"])
            .arg(&file)
            .env_remove("RUST_LOG")
            .stdout(std::fs::File::create(dir.join("stdout"))?)
            .stderr(std::fs::File::create(&stderr)?)
            .kill_on_drop(true)
            .spawn()?;
        let mut address = None;
        eventually("it serves", async || {
            let text = std::fs::read_to_string(&stderr)?;
            let said = text.split_once("edge serves http=").and_then(|(_, rest)| rest.split_whitespace().next());
            address = said.and_then(|said| said.parse::<SocketAddr>().ok());
            Ok(address.is_some())
        })
        .await?;
        Ok(Self { process, http: address.context("an address")?, stderr })
    }

    /// Ends it in order.
    async fn stop(mut self) -> anyhow::Result<()> {
        let id = self.process.id().context("it runs")?.to_string();
        anyhow::ensure!(Command::new("kill").args(["-TERM", &id]).status()?.success(), "kill failed");
        self.process.wait().await?;
        Ok(())
    }
}

/// A cold picture's request: the access log, the edge's log and the node's name the same trace and the same request.
#[tokio::test(flavor = "multi_thread")]
async fn one_trace_goes_from_the_edge_to_the_node() -> anyhow::Result<()> {
    let logged = LOGGED.clone();
    let rig = painted().await?;
    let dir = tempfile::tempdir()?;
    let access = dir.path().join("access.log");
    let config = standalone(dir.path(), "info").replace("[listen]", "[listen]\ntrusted_proxies = [\"127.0.0.1\"]");
    let more = format!(
        "[origin]\nnodes = [\"http://{}\"]\nprobe_interval_ms = 50\n[access_log]\nto = {access:?}\n[render]\nnice = 0\n",
        rig.node()
    );
    let edge = Served::start(dir.path(), &(config + &more)).await?;
    let parent = format!("00-{TRACE}-00f067aa0ba902b7-01");
    let fields: Vec<(HeaderName, &str)> = vec![
        (http::header::ACCEPT, CHROME),
        (HeaderName::from_static("traceparent"), &parent),
        (HeaderName::from_static("tracestate"), "congo=t61rcWkgMzE"),
        (HeaderName::from_static("x-request-id"), "of-the-proxy"),
        (HeaderName::from_static("x-forwarded-for"), "198.51.100.77"),
        (http::header::REFERER, "https://shop.example/mugs?who=me"),
    ];
    let reply = rig.http.get(edge.http, PICTURE, &fields).await?;
    assert_eq!(reply.outcome(), "generated", "{:?}", reply.headers);
    let timing = reply.header("server-timing");
    let (_, told) = timing.split_once("traceparent;desc=\"").context("a trace in Server-Timing")?;
    let told: Traceparent = told.trim_end_matches('"').parse()?;
    assert_eq!((told.trace.to_string().as_str(), told.is_sampled()), (TRACE, true), "{timing}");
    assert_ne!(told.span.to_string(), "00f067aa0ba902b7", "the edge's own step");
    assert_eq!(reply.header("x-request-id"), "", "a cache would repeat it with every hit");

    let seen = line(&access, "the miss", |line| line["status"] == 200).await?;
    for (name, value) in [
        ("trace_id", TRACE),
        ("request_id", "of-the-proxy"),
        ("client", "198.51.100.0"),
        ("cache", "generated"),
        ("campaign", "studio"),
        ("slot", "thumb"),
        ("target", PICTURE),
        ("referer", "https://shop.example/mugs"),
        ("protocol", "HTTP/1.1"),
        ("method", "GET"),
    ] {
        assert_eq!(seen[name], value, "{name}: {seen:?}");
    }
    assert_eq!((seen["bytes"].as_u64(), seen["share"].as_f64()), (Some(reply.body.len() as u64), Some(1.0)));
    let node = logged.find("bildkante_gpu_node::drawer", "generation answered", TRACE).context("the node's line")?;
    assert_eq!(node["span"]["request"], "of-the-proxy", "{node}");
    let text = std::fs::read_to_string(&edge.stderr)?;
    let answered = text.lines().find(|line| line.contains("generation answered")).context("the edge's line")?;
    for part in ["generate{", TRACE, "of-the-proxy"] {
        assert!(answered.contains(part), "{part}: {answered}");
    }
    edge.stop().await?;
    rig.stop().await;
    Ok(())
}

/// The request id of a client is taken from trusted proxies only; its trace goes on all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_id_is_believed_of_trusted_proxies_only() -> anyhow::Result<()> {
    let rig = painted().await?;
    let edge = observed(&rig, |_| {}).await?;
    let parent = format!("00-{TRACE}-00f067aa0ba902b7-01");
    let fields =
        [(HeaderName::from_static("x-request-id"), "mine"), (HeaderName::from_static("traceparent"), parent.as_str())];
    let reply = rig.http.get(edge.http, "/i/nowhere/hero", &fields).await?;
    assert_eq!(reply.status, StatusCode::NOT_FOUND);
    let id = reply.header("x-request-id").to_owned();
    assert!(id.len() == 32 && id != "mine", "{id}");
    assert_eq!(reply.json()?["instance"], format!("/requests/{id}"));
    let seen = line(&log_of(&rig), "the error", |line| line["status"] == 404).await?;
    assert_eq!((seen["request_id"].as_str(), seen["trace_id"].as_str()), (Some(id.as_str()), Some(TRACE)));
    // A node is asked by edges only, so it repeats the request id it gets.
    let request = Request::post(format!("http://{}/v1/generations", rig.node())).header("x-request-id", "of-an-edge");
    let reply = rig.http.send(request.body(Full::default())?).await?;
    assert!(reply.status.is_client_error() && reply.header("x-request-id") == "of-an-edge", "{:?}", reply.headers);
    edge.shut_down().await;
    rig.stop().await;
    Ok(())
}

/// Misses, hits of the lane, conditional ones, HEAD, HTTP/2 and errors: each is one line that says what it was.
#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_answer_has_its_line() -> anyhow::Result<()> {
    let rig = painted().await?;
    let edge = observed(&rig, |config| config.access_log.client = ShownClient::Address).await?;
    rig.healthy_nodes(&edge, 1).await?;
    let mut connection = Connection::open(edge.http).await?;
    let mut ask = async |method: &str, target: &str, agent: &str, more: (&str, &str)| -> anyhow::Result<Reply> {
        let fields = [("accept", CHROME), ("user-agent", agent), more];
        let request = bildkante_tests::raw::request(method, target, &fields);
        Ok(connection.send(&request).await?.reply)
    };
    let none = ("x-nothing", "x");
    let miss = ask("GET", PICTURE, "miss", none).await?;
    let first = ask("GET", PICTURE, "first hit", none).await?;
    // The front map has it now: this one is the lane's.
    let lane = ask("GET", PICTURE, "lane", none).await?;
    let etag = lane.header("etag").to_owned();
    let head = ask("HEAD", PICTURE, "head", none).await?;
    let same = ask("GET", PICTURE, "304", ("if-none-match", &etag)).await?;
    let part = ask("GET", PICTURE, "part", ("range", "bytes=0-9")).await?;
    let wrong = ask("GET", "/i/studio/thumb?product=nothing", "400", none).await?;
    let forged = ask("GET", "/i/studio/thumb?w=333&kid=k&s=NOBODYMAYREADTHIS", "forged", none).await?;
    let script = ask("GET", "/rum.js", "script", none).await?;
    let unknown = ask("GET", "/nothing", "404", none).await?;
    let h2 = get_over_http2(&edge, PICTURE, "h2").await?;
    assert_eq!((miss.outcome(), first.outcome(), lane.outcome()), ("generated", "memory", "memory"));
    assert_eq!(
        (part.status, wrong.status, unknown.status),
        (StatusCode::PARTIAL_CONTENT, StatusCode::BAD_REQUEST, StatusCode::NOT_FOUND)
    );
    let body = lane.body.len() as u64;
    for (agent, status, bytes, cache, protocol) in [
        ("miss", miss.status, miss.body.len() as u64, Some("generated"), "HTTP/1.1"),
        ("first hit", first.status, body, Some("memory"), "HTTP/1.1"),
        ("lane", lane.status, body, Some("memory"), "HTTP/1.1"),
        ("head", head.status, 0, Some("memory"), "HTTP/1.1"),
        ("304", same.status, 0, Some("memory"), "HTTP/1.1"),
        ("part", part.status, 10, Some("memory"), "HTTP/1.1"),
        ("400", wrong.status, wrong.body.len() as u64, None, "HTTP/1.1"),
        ("forged", forged.status, forged.body.len() as u64, None, "HTTP/1.1"),
        ("script", script.status, script.body.len() as u64, None, "HTTP/1.1"),
        ("404", unknown.status, unknown.body.len() as u64, None, "HTTP/1.1"),
        ("h2", h2, body, Some("memory"), "HTTP/2.0"),
    ] {
        let seen = line(&log_of(&rig), agent, is_of(agent)).await?;
        assert_eq!(seen["status"], status.as_u16(), "{seen:?}");
        assert_eq!(seen["bytes"], bytes, "{seen:?}");
        assert_eq!(seen.get("cache").and_then(|cache| cache.as_str()), cache, "{seen:?}");
        assert_eq!((&seen["protocol"], &seen["client"]), (&protocol.into(), &"127.0.0.1".into()), "{seen:?}");
        let slot = cache.map(|_| "thumb");
        assert_eq!(seen.get("slot").and_then(|slot| slot.as_str()), slot, "{seen:?}");
    }
    let all = std::fs::read_to_string(log_of(&rig))?;
    assert!(!all.contains("NOBODYMAYREADTHIS") && all.contains("s=redacted"), "{all}");
    let counted: HashMap<String, usize> = lines(&log_of(&rig))?.iter().fold(HashMap::new(), |mut counted, line| {
        *counted.entry(line["user_agent"].to_string()).or_default() += 1;
        counted
    });
    assert!(counted.values().all(|count| *count == 1), "{counted:?}");

    let metric = async |line: &str| rig.http.metric(edge.admin, line).await;
    let answers = "bildkante_edge_responses_total";
    assert_eq!(metric(&format!("{answers}{{protocol=\"HTTP/2.0\",status=\"200\"}}")).await?, 1.0);
    assert_eq!(metric(&format!("{answers}{{protocol=\"HTTP/1.1\",status=\"304\"}}")).await?, 1.0);
    assert_eq!(metric(&format!("{answers}{{protocol=\"HTTP/1.1\",status=\"206\"}}")).await?, 1.0);
    #[allow(clippy::cast_precision_loss)]
    let body = body as f64;
    assert_eq!(metric("bildkante_edge_response_body_bytes_total{protocol=\"HTTP/2.0\"}").await?, body);
    assert!(metric("process_resident_memory_bytes").await? > 1e6);
    assert!(rig.http.metric(rig.node(), "process_open_fds").await? > 1.0);
    edge.shut_down().await;
    rig.stop().await;
    Ok(())
}

async fn get_over_http2(edge: &Edge, path: &str, agent: &str) -> anyhow::Result<StatusCode> {
    let stream = TcpStream::connect(edge.http).await?;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    let served = tokio::spawn(connection);
    let request = Request::get(format!("http://{}{path}", edge.http));
    let request = request.header("accept", CHROME).header("user-agent", agent).body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    response.into_body().collect().await?;
    drop(sender);
    served.await??;
    Ok(status)
}

/// Without sampling a hit leaves no line; every other answer does.
#[tokio::test(flavor = "multi_thread")]
async fn hits_are_sampled_and_the_rest_is_not() -> anyhow::Result<()> {
    let rig = painted().await?;
    let edge = observed(&rig, |config| config.access_log.hits_sample = 0.0).await?;
    rig.healthy_nodes(&edge, 1).await?;
    for _ in 0..50 {
        assert_eq!(rig.http.image(edge.http, PICTURE).await?.status, StatusCode::OK);
    }
    rig.http.get(edge.http, "/nothing", &[]).await?;
    line(&log_of(&rig), "the error behind the hits", |line| line["status"] == 404).await?;
    let seen: Vec<_> = lines(&log_of(&rig))?.iter().map(|line| line.get("cache").cloned()).collect();
    assert_eq!(seen, [Some("generated".into()), None], "one miss and one error");
    edge.shut_down().await;
    rig.stop().await;
    Ok(())
}

/// A pipe that nothing reads, and a disk without room: every request is answered, and every lost line is counted.
#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_is_blocked_delays_no_answer() -> anyhow::Result<()> {
    const ASKED: usize = 2_000;
    let rig = painted().await?;
    let pipe = rig.dir.path().join("pipe");
    anyhow::ensure!(Command::new("mkfifo").arg(&pipe).status()?.success(), "mkfifo failed");
    for (to, outcome) in [(pipe, "queue_full"), (PathBuf::from("/dev/full"), "write_failed")] {
        let edge = observed(&rig, |config| {
            config.access_log.to = Destination::File(to.clone());
            config.access_log.queue_lines_max = 16;
        })
        .await?;
        let count = async |outcome: &str| {
            rig.http
                .metric(edge.admin, &format!("bildkante_edge_access_log_lines_total{{outcome=\"{outcome}\"}}"))
                .await
        };
        let mut connection = Connection::open(edge.http).await?;
        for _ in 0..ASKED {
            assert_eq!(connection.get("/nothing", &[]).await?.status, StatusCode::NOT_FOUND);
        }
        eventually("lost lines are counted", async || Ok(count(outcome).await? > 0.0)).await?;
        // Lines that the writer holds or that wait for it are neither written nor lost.
        let lost = count("queue_full").await? + count("write_failed").await?;
        assert!(lost > 0.0 && count("written").await? == 0.0, "{}: {lost}", to.display());
        edge.shut_down().await;
        // The next edge takes over the folder.
    }
    rig.stop().await;
    Ok(())
}

/// A client that leaves before its answer has a line too, and counts.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_is_told_of() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan::painted(&control)).await?;
    let edge = observed(&rig, |_| {}).await?;
    rig.healthy_nodes(&edge, 1).await?;
    control.hold();
    let asked = get_over_http2(&edge, PICTURE, "impatient");
    let drawn = eventually("the node draws", async || Ok(control.calls() > 0));
    tokio::select! {
        status = asked => anyhow::bail!("answered: {status:?}"),
        // Drops the connection.
        drawn = drawn => drawn?,
    }
    let seen = line(&log_of(&rig), "its line", is_of("impatient")).await?;
    assert_eq!((&seen["status"], &seen["bytes"]), (&499.into(), &0.into()), "{seen:?}");
    let counted = "bildkante_edge_responses_total{protocol=\"HTTP/2.0\",status=\"499\"}";
    assert_eq!(rig.http.metric(edge.admin, counted).await?, 1.0);
    control.release();
    edge.shut_down().await;
    rig.stop().await;
    Ok(())
}

/// Lines on standard output, and none of them is lost at the end.
#[tokio::test]
async fn the_log_goes_to_stdout_and_is_whole_at_the_end() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let config = standalone(dir.path(), "info") + "[access_log]\nto = \"stdout\"\nformat = \"combined\"\n";
    let edge = Served::start(dir.path(), &config).await?;
    let http = bildkante_tests::client::Http::default();
    for _ in 0..20 {
        http.get(edge.http, "/nothing", &[]).await?;
    }
    edge.stop().await?;
    let text = std::fs::read_to_string(dir.path().join("stdout"))?;
    assert_eq!(text.lines().filter(|line| line.contains("\"GET /nothing HTTP/1.1\" 404 ")).count(), 20, "{text}");
    Ok(())
}

/// What logrotate does: the file is moved away, SIGHUP makes another.
#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_log_goes_on_in_a_new_file() -> anyhow::Result<()> {
    let rig = painted().await?;
    let edge = observed(&rig, |_| {}).await?;
    rig.http.get(edge.http, "/before", &[]).await?;
    line(&log_of(&rig), "the first line", |line| line["target"] == "/before").await?;
    let moved = rig.dir.path().join("access.log.1");
    std::fs::rename(log_of(&rig), &moved)?;
    edge.reload().await;
    eventually("another file", async || Ok(log_of(&rig).exists())).await?;
    rig.http.get(edge.http, "/after", &[]).await?;
    line(&log_of(&rig), "the line behind the rotation", |line| line["target"] == "/after").await?;
    assert_eq!(lines(&moved)?.len(), 1);
    edge.shut_down().await;
    rig.stop().await;
    Ok(())
}

/// A configuration of an edge by itself.
fn standalone(dir: &Path, filter: &str) -> String {
    let folder = |name: &str| repository().join("config").join(name);
    format!(
        "[listen]\nhttp = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\n[cache]\ndisk_dir = {:?}\n[campaigns]\n\
         campaigns_dir = {:?}\nprompts_dir = {:?}\n[config]\nreload_ms = 20\n[log]\nfilter = {filter:?}\n",
        dir.join("cache"),
        folder("campaigns"),
        folder("prompts"),
    )
}

/// Another filter in the file is in force without a restart: a line of a level that was off is written.
#[tokio::test]
async fn the_edge_takes_its_log_filter_over() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let (config, stderr) = (dir.path().join("edge.toml"), dir.path().join("stderr"));
    let text = |filter: &str| standalone(dir.path(), filter);
    std::fs::write(&config, text("error"))?;
    let mut process = tokio::process::Command::new(program("bildkante-edge")?)
        .args(["serve", "--config"])
        .arg(&config)
        .env_remove("RUST_LOG")
        .stderr(std::fs::File::create(&stderr)?)
        .kill_on_drop(true)
        .spawn()?;
    // The cache's folder is there before the file is watched: every later write is another file to the watch.
    eventually("it has started", async || Ok(dir.path().join("cache").exists())).await?;
    let logged = |words: &str| std::fs::read_to_string(&stderr).unwrap_or_default().contains(words);
    assert!(!logged("edge serves"), "a line below its level");
    std::fs::write(&config, text("info"))?;
    eventually("a line of the new level", async || Ok(logged("configuration reloaded"))).await?;
    std::fs::write(&config, text("info,bildkante_edge=lout"))?;
    eventually("what is no filter is refused by name", async || Ok(logged("lout"))).await?;
    process.kill().await?;
    Ok(())
}

/// Beacons of listed pages count, up to a rate. Other pages are refused with a reason, which their scripts cannot read.
#[tokio::test(flavor = "multi_thread")]
async fn beacons_are_taken_of_listed_origins_at_a_rate() -> anyhow::Result<()> {
    let rig = painted().await?;
    let edge = observed(&rig, |config| {
        config.rum.origins = vec![String::from("https://*.shop.example").try_into().expect("an origin")];
        config.rum.network_burst = 2;
        config.rum.network_per_minute = 1;
    })
    .await?;
    let ask = async |method: Method, origin: &str| -> anyhow::Result<Reply> {
        let request =
            Request::builder().method(method).uri(format!("http://{}/rum", edge.http)).header("origin", origin);
        let request = request.header("access-control-request-method", "POST");
        rig.http.send(request.body(Full::from(r#"{"metric":"INP","value":100}"#))?).await
    };
    let ours = "https://www.shop.example";
    for origin in ["https://evil.example", "https://shop.example.evil.example", "null"] {
        let reply = ask(Method::POST, origin).await?;
        assert_eq!(
            (reply.status, reply.header("access-control-allow-origin")),
            (StatusCode::FORBIDDEN, ""),
            "{origin}"
        );
        assert_eq!(ask(Method::OPTIONS, origin).await?.header("access-control-allow-origin"), "", "{origin}");
    }
    for _ in 0..2 {
        let reply = ask(Method::POST, ours).await?;
        assert_eq!((reply.status, reply.header("access-control-allow-origin")), (StatusCode::NO_CONTENT, ours));
        assert!(reply.header("vary").contains("Origin"), "{:?}", reply.headers);
    }
    let reply = ask(Method::POST, ours).await?;
    assert_eq!(reply.status, StatusCode::TOO_MANY_REQUESTS);
    assert!(!reply.header("retry-after").is_empty());
    assert_eq!(ask(Method::OPTIONS, ours).await?.header("access-control-allow-origin"), ours);
    let refused = async |reason: &str| {
        rig.http.metric(edge.admin, &format!("bildkante_rum_beacons_refused_total{{reason=\"{reason}\"}}")).await
    };
    assert_eq!((refused("origin").await?, refused("rate_network").await?), (3.0, 1.0));
    assert_eq!(rig.http.metric(edge.admin, "bildkante_rum_inp_seconds_count").await?, 2.0);
    edge.shut_down().await;
    rig.stop().await;
    Ok(())
}
