//! Whole runs against a small server in this process.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bildkante_loadtest::args::Cli;
use bildkante_loadtest::report::Phase;
use bildkante_loadtest::{Report, Task, run};
use bytes::Bytes;
use clap::Parser;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// What the server does with a request, by its number.
type Behaviour = Arc<dyn Fn(u64) -> Reply + Send + Sync>;

struct Reply {
    after: Duration,
    cache_status: &'static str,
    etag: &'static str,
}

const HIT: Reply = Reply { after: Duration::ZERO, cache_status: "test; hit; detail=memory", etag: "\"a\"" };

/// Starts a server that handles one request at a time, as one with a lock held would, and gives its URL.
async fn serve(behaviour: impl Fn(u64) -> Reply + Send + Sync + 'static, h2: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let behaviour: Behaviour = Arc::new(behaviour);
    let (count, turn) = (Arc::new(AtomicU64::new(0)), Arc::new(Semaphore::new(1)));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (behaviour, count, turn) = (Arc::clone(&behaviour), Arc::clone(&count), Arc::clone(&turn));
            let service = service_fn(move |_: Request<Incoming>| {
                answer(Arc::clone(&behaviour), Arc::clone(&count), Arc::clone(&turn))
            });
            tokio::spawn(async move {
                let io = TokioIo::new(stream);
                if h2 {
                    hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await
                } else {
                    hyper::server::conn::http1::Builder::new().serve_connection(io, service).await
                }
            });
        }
    });
    format!("http://{address}/i/studio/hero?w=640")
}

async fn answer(
    behaviour: Behaviour,
    count: Arc<AtomicU64>,
    turn: Arc<Semaphore>,
) -> Result<Response<Full<Bytes>>, std::convert::Infallible> {
    let _turn = turn.acquire().await.expect("never closed");
    let reply = behaviour(count.fetch_add(1, Ordering::Relaxed));
    if !reply.after.is_zero() {
        tokio::time::sleep(reply.after).await;
    }
    Ok(Response::builder()
        .header("content-type", "image/avif")
        .header("etag", reply.etag)
        .header("cache-status", reply.cache_status)
        .body(Full::from(reply.etag.repeat(1000)))
        .expect("valid headers"))
}

async fn report(arguments: &[&str]) -> anyhow::Result<Report> {
    let line = ["bildkante-loadtest"].iter().chain(arguments).copied();
    let Task::Load { plan, .. } = Task::try_from(Cli::try_parse_from(line)?)? else { anyhow::bail!("no load") };
    run(&plan).await
}

/// The one phase of a scenario against URLs.
async fn load(arguments: &[&str]) -> anyhow::Result<Phase> {
    Ok(report(arguments).await?.phases.remove(0))
}

#[tokio::test]
async fn a_stall_is_felt_by_every_request_that_was_due_in_it() {
    // One stall of 400 ms in 2 s: a closed loop on one connection would report one slow request of about 1,600.
    let url = serve(|n| if n == 500 { Reply { after: Duration::from_millis(400), ..HIT } } else { HIT }, false).await;
    let report =
        load(&["hits", "--url", &url, "--rate=1000", "--duration-s=2", "--connections=1"]).await.expect("a run");
    assert_eq!((report.planned, report.completed), (2000, 2000), "{report}");
    let row = &report.outcomes[0];
    assert_eq!((row.outcome.as_str(), row.count), ("hit (memory)", 2000));
    // A fifth of all requests fell due while the server stood still, and waited for up to 400 ms.
    assert!(row.first_byte_us.p99 > 300_000, "{report}");
    assert!(row.first_byte_us.max >= 400_000, "{report}");
}

#[tokio::test]
async fn a_rate_is_kept_over_http2() {
    let url = serve(|_| HIT, true).await;
    let arguments = ["hits", "--url", &url, "--rate=500", "--duration-s=1", "--connections=2", "--protocol=h2"];
    let report = load(&arguments).await.expect("a run");
    assert_eq!(report.completed, 500, "{report}");
    assert!(report.elapsed_s >= 0.95, "500 requests at 500/s took only {} s", report.elapsed_s);
    assert_eq!(report.statuses["200"], 500);
}

#[tokio::test]
async fn a_stampede_is_counted_by_outcome_and_by_bytes() {
    for (protocol, h2) in [("http1", false), ("h2", true)] {
        let first = |n| Reply {
            cache_status: if n == 0 { "test; fwd=miss; stored" } else { "test; fwd=miss; collapsed" },
            ..HIT
        };
        let url = serve(first, h2).await;
        let arguments = ["stampede", "--url", &url, "--clients=200", "--connections=5", "--protocol", protocol];
        let report = load(&arguments).await.expect("a run");
        assert_eq!(report.completed, 200, "{report}");
        let outcomes: Vec<_> = report.outcomes.iter().map(|row| (row.outcome.as_str(), row.count)).collect();
        assert_eq!(outcomes, [("miss", 1), ("miss collapsed", 199)]);
        assert_eq!(report.formats["image/avif"], 200);
        assert_eq!((report.etags.len(), report.distinct_bodies), (1, Some(1)));
    }
}

#[tokio::test]
async fn different_bytes_do_not_go_unnoticed() {
    let url = serve(|n| if n == 7 { Reply { etag: "\"b\"", ..HIT } } else { HIT }, false).await;
    let report = load(&["stampede", "--url", &url, "--clients=20"]).await.expect("a run");
    assert_eq!(report.distinct_bodies, Some(2), "{report}");
    assert_eq!(report.etags["\"b\""], 1);
}

#[tokio::test]
async fn a_server_that_is_too_slow_or_absent_is_an_error_and_not_a_latency() {
    let url = serve(|_| Reply { after: Duration::from_secs(60), ..HIT }, false).await;
    let report = load(&["stampede", "--url", &url, "--clients=3", "--timeout-ms=100"]).await.expect("a run");
    assert_eq!((report.completed, report.errors["timeout"]), (0, 3), "{report}");

    let closed = TcpListener::bind("127.0.0.1:0").await.expect("a free port").local_addr().expect("bound");
    let url = format!("http://{closed}/");
    let report = load(&["stampede", "--url", &url, "--clients=3"]).await.expect("a run");
    assert_eq!(report.errors["connect"], 3, "{report}");
    assert!(load(&["hits", "--url", &url, "--duration-s=1"]).await.is_err(), "nothing there to warm");
}

#[tokio::test]
async fn a_report_passes_or_fails_by_its_budgets() {
    let url = serve(|_| HIT, false).await;
    let good = report(&["hits", "--url", &url, "--rate=200", "--duration-s=1"]).await.expect("a run");
    assert!(good.is_met() && good.to_string().contains("PASS"), "{good}");

    let url = serve(|n| if n == 7 { Reply { etag: "\"b\"", ..HIT } } else { HIT }, false).await;
    let bad = report(&["stampede", "--url", &url, "--clients=20"]).await.expect("a run");
    assert!(!bad.is_met() && bad.to_string().contains("FAIL  every client gets the same bytes"), "{bad}");
    let json = serde_json::to_value(&bad).expect("JSON");
    assert_eq!(json["verdicts"][1]["met"], false, "{json}");
    assert_eq!(json["phases"][0]["outcomes"][0]["count"], 20);
}

/// Serves over TLS, tells how many connections were made, and gives its URL and certificate.
async fn serve_tls(folder: &std::path::Path) -> (String, std::path::PathBuf, Arc<AtomicU64>) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    let ca = folder.join("ca.pem");
    std::fs::write(&ca, made.cert.pem()).expect("written");
    let key = rustls_pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("a pair");
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let connections = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::Relaxed);
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                let turn = Arc::new(Semaphore::new(1));
                let service = service_fn(move |_: Request<Incoming>| {
                    answer(Arc::new(|_| HIT), Arc::default(), Arc::clone(&turn))
                });
                let io = TokioIo::new(stream);
                let _ = if is_h2 {
                    hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await
                } else {
                    hyper::server::conn::http1::Builder::new().serve_connection(io, service).await
                };
            });
        }
    });
    (format!("https://localhost:{port}/i/studio/hero?w=640"), ca, connections)
}

#[tokio::test]
async fn tls_is_spoken_in_both_protocols_and_resumption_is_counted() {
    let folder = tempfile::tempdir().expect("a folder");
    let (url, ca, connections) = serve_tls(folder.path()).await;
    let ca = ca.to_str().expect("a path");
    for protocol in ["http1", "h2"] {
        let before = connections.load(Ordering::Relaxed);
        let arguments = [
            "hits",
            "--url",
            &url,
            "--ca",
            ca,
            "--protocol",
            protocol,
            "--rate=100",
            "--duration-s=1",
            "--connections=2",
            "--streams=1",
            "--requests-per-connection=10",
        ];
        let report = report(&arguments).await.expect("a run");
        assert_eq!(report.completed(), 100, "{report}");
        assert!(report.is_met(), "{report}");
        let made = connections.load(Ordering::Relaxed) - before;
        // 100 requests at most 10 to a connection, and one connection to try the URL beforehand.
        assert!(made >= 11, "{made} connections for 100 requests of 10 each");
        let note = &report.notes[0];
        let numbers: Vec<u64> =
            note.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse().ok()).collect();
        assert_eq!(numbers.iter().sum::<u64>(), made, "{note}");
        assert!(numbers[1] > 0, "no session was resumed: {note}");
    }
}

#[tokio::test]
async fn a_list_is_asked_by_rank_and_each_spelling_can_be_new() {
    let url = serve(|_| HIT, false).await;
    let file = tempfile::NamedTempFile::new().expect("a file");
    let lines: Vec<String> = (0..50).map(|n| format!("{url}&n={n}")).collect();
    std::fs::write(file.path(), lines.join("\n")).expect("written");
    let path = file.path().to_str().expect("a path");
    let arguments =
        ["hits", "--urls-file", path, "--order=zipf", "--spelling=distinct", "--rate=300", "--duration-s=1"];
    let report = load(&arguments).await.expect("a run");
    assert_eq!((report.completed, report.failed()), (300, 0), "{report}");
    assert_eq!(report.targets.last().map(String::as_str), Some("… 50 in all"));
}
