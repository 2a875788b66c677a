//! The caches in front that `config/deploy/front` shows, as they are shipped: a real Varnish and a real nginx.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use anyhow::Context;
use bildkante_edge::app::Edge;
use bildkante_edge::governance::DownstreamConfig;
use bildkante_gpu_node::testing::FakeControl;
use bildkante_shared::testing::ReservedPort;
use bildkante_tests::client::{Http, Reply, eventually};
use bildkante_tests::rig::{Plan, Rig};
use bildkante_tests::{judge, repository};
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderName, Method, Request, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::provenance;
use crate::purge::{TOKEN, with_tokens};

const IMAGE: &str = "/i/studio/thumb?product=vase";
const OTHER: &str = "/i/studio/thumb?product=cube";
/// Two browsers' spellings of the same.
const CHROME: &str = "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8";
const FIREFOX: &str = "image/avif,image/webp,image/png,image/svg+xml,image/*;q=0.8,*/*;q=0.5";

/// What a browser that takes AVIF gets: of a picture this small the WebP may be the smaller file.
fn is_best(reply: &Reply) -> bool {
    matches!(reply.content_type(), "image/avif" | "image/webp")
}

/// A server of another make, ended when dropped.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // Varnish takes its worker along only when it is asked.
        let _ = crate::processes::kill(self.0.id(), "-TERM");
        let _ = self.0.wait();
    }
}

fn shipped(name: &str, changes: &[(&str, String)]) -> anyhow::Result<String> {
    let mut text = std::fs::read_to_string(repository().join("config/deploy/front").join(name))?;
    for (from, to) in changes {
        anyhow::ensure!(text.contains(from), "{name} has no `{from}`");
        text = text.replace(from, to);
    }
    Ok(text)
}

fn start_varnish(binary: &Path, dir: &Path, at: SocketAddr, edge: SocketAddr) -> anyhow::Result<Server> {
    let vcl = dir.join("front.vcl");
    let port = format!(".port = \"{}\"", edge.port());
    std::fs::write(&vcl, shipped("varnish.vcl", &[(".port = \"8080\"", port)])?)?;
    let child = Command::new(binary)
        .args(["-F", "-j", "none", "-s", "malloc,32m", "-a", &at.to_string(), "-n"])
        .arg(dir.join("varnish"))
        .arg("-f")
        .arg(&vcl)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(dir.join("varnish.log"))?)
        .spawn()?;
    Ok(Server(child))
}

fn start_nginx(binary: &Path, dir: &Path, at: SocketAddr, edge: SocketAddr) -> anyhow::Result<Server> {
    std::fs::create_dir_all(dir)?;
    let front = shipped(
        "nginx.conf",
        &[
            ("/var/cache/nginx/bildkante", dir.join("cache").display().to_string()),
            ("server 127.0.0.1:8080", format!("server {edge}")),
            ("listen 80;", format!("listen {at};")),
        ],
    )?;
    let config = format!(
        "daemon off; master_process off; pid {dir}/pid; error_log {dir}/error.log;\nevents {{ }}\n\
         http {{ access_log off; client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy;\n\
         fastcgi_temp_path {dir}/fastcgi; uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;\n{front}\n}}\n",
        dir = dir.display()
    );
    std::fs::write(dir.join("nginx.conf"), config)?;
    let child = Command::new(binary)
        .arg("-p")
        .arg(dir)
        .arg("-c")
        .arg(dir.join("nginx.conf"))
        .args(["-e", "stderr"])
        .stdin(Stdio::null())
        .stderr(std::fs::File::create(dir.join("stderr.log"))?)
        .spawn()?;
    Ok(Server(child))
}

/// A server in place of an edge. Each answer may be kept for a minute, varies on the client's hints and `Save-Data`, and holds the
/// request head as it came.
async fn start_echo() -> anyhow::Result<SocketAddr> {
    let socket = TcpListener::bind("127.0.0.1:0").await?;
    let at = socket.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = socket.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await? > 0 {}
                let status = format!(
                    "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nVary: Accept, Sec-CH-Width, Save-Data\r\nConnection: close\r\n\
                     Content-Length: {}\r\n\r\n",
                    head.len()
                );
                stream.write_all(status.as_bytes()).await?;
                stream.write_all(&head).await?;
                std::io::Result::Ok(())
            });
        }
    });
    Ok(at)
}

/// The edge gets the client's address as the last entry of the field. A request with hints never gets an answer that was made for
/// other hints, or for a client that does not save data.
async fn speaks_for_its_clients(http: &Http, front: SocketAddr) -> anyhow::Result<()> {
    eventually("the front answers", async || {
        Ok(http.get(front, "/", &[]).await.is_ok_and(|reply| reply.status.is_success()))
    })
    .await?;
    for path in ["/i/studio/thumb?product=own", "/rum.js?own"] {
        let told = http
            .get(front, path, &[(HeaderName::from_static("x-forwarded-for"), "203.0.113.9")])
            .await?
            .text()
            .to_ascii_lowercase();
        assert!(told.contains("x-forwarded-for: 203.0.113.9, 127.0.0.1\r\n"), "{path}: {told}");
    }
    let spellings =
        ["w=auto", "q=80&width=AUTO", "a=b&amp;w=auto", "?w=auto", "w=auto?utm_source=x", "%77=auto", "w=%61uto"];
    for query in spellings {
        for width in ["320", "1280"] {
            let path = format!("/i/studio/thumb?{query}");
            let told = http
                .get(front, &path, &[(HeaderName::from_static("sec-ch-width"), width)])
                .await?
                .text()
                .to_ascii_lowercase();
            assert!(told.contains(&format!("sec-ch-width: {width}\r\n")), "{query} {width}: {told}");
        }
    }
    for query in
        ["save-data=auto", "SAVE-DATA=AUTO", "q=high&amp;save-data=auto", "save%2Ddata=auto", "save-data=%61uto"]
    {
        let path = format!("/i/studio/thumb?{query}");
        let usual = http.get(front, &path, &[]).await?.text().to_ascii_lowercase();
        let saving = http.get(front, &path, &[(HeaderName::from_static("save-data"), "on")]).await?;
        assert!(!usual.contains("save-data: on\r\n"), "{query}: {usual}");
        assert!(saving.text().to_ascii_lowercase().contains("save-data: on\r\n"), "{query}: {}", saving.text());
    }
    Ok(())
}

#[tokio::test]
async fn the_shipped_nginx_speaks_for_its_clients() -> anyhow::Result<()> {
    let test = "the_shipped_nginx_speaks_for_its_clients";
    let Some(binary) = judge::named("BILDKANTE_NGINX", "nginx", test)? else { return Ok(()) };
    let (dir, port) = (tempfile::tempdir()?, ReservedPort::new()?);
    let _nginx = start_nginx(&binary, dir.path(), port.address(), start_echo().await?)?;
    speaks_for_its_clients(&Http::default(), port.address()).await
}

#[tokio::test]
async fn the_shipped_varnish_speaks_for_its_clients() -> anyhow::Result<()> {
    let test = "the_shipped_varnish_speaks_for_its_clients";
    let Some(binary) = judge::named("BILDKANTE_VARNISH", "varnishd", test)? else { return Ok(()) };
    let (dir, port) = (tempfile::tempdir()?, ReservedPort::new()?);
    let _varnish = start_varnish(&binary, dir.path(), port.address(), start_echo().await?)?;
    speaks_for_its_clients(&Http::default(), port.address()).await
}

async fn get(http: &Http, to: SocketAddr, path: &str, accept: &str) -> anyhow::Result<Reply> {
    http.get(to, path, &[(ACCEPT, accept)]).await
}

/// Varnish names the request that filled an object beside the one it answers.
fn is_hit(reply: &Reply) -> bool {
    reply.header("x-varnish").split(' ').count() == 2
}

async fn purge(http: &Http, edge: &Edge, body: Value) -> anyhow::Result<Value> {
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("http://{}/admin/v1/purges", edge.admin))
        .header(AUTHORIZATION, format!("Bearer {TOKEN}"))
        .header(CONTENT_TYPE, "application/json");
    let reply = http.send(request.body(Full::new(Bytes::from(body.to_string())))?).await?;
    anyhow::ensure!(reply.status == StatusCode::OK, "{body}: {} {}", reply.status, reply.text());
    reply.json()
}

/// The shipped VCL and a `[[purge.downstream]]` with nothing but its address: purged images are gone there, others stay.
#[tokio::test]
async fn the_shipped_varnish_takes_the_purges_that_an_edge_sends() -> anyhow::Result<()> {
    let test = "the_shipped_varnish_takes_the_purges_that_an_edge_sends";
    let Some(binary) = judge::named("BILDKANTE_VARNISH", "varnishd", test)? else { return Ok(()) };
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan::painted(&control)).await?;
    let port = ReservedPort::new()?;
    let front = port.address();
    let purger: DownstreamConfig =
        toml::from_str(&format!("kind = 'varnish'\nname = 'varnish-1'\nurl = 'http://{front}/'"))?;
    let edge = rig
        .another_edge("fronted", |config| {
            with_tokens(config);
            config.purge.downstream = vec![purger];
        })
        .await?;
    let _varnish = start_varnish(&binary, rig.dir.path(), front, edge.http)?;
    let http = &rig.http;
    eventually("Varnish answers", async || {
        Ok(get(http, front, IMAGE, CHROME).await.is_ok_and(|reply| reply.status.is_success()))
    })
    .await
    .with_context(|| std::fs::read_to_string(rig.dir.path().join("varnish.log")).unwrap_or_default())?;
    let warm = async || {
        eventually("both images are hits, in each browser's spelling", async || {
            let mut hits = true;
            for (path, accept) in [(IMAGE, CHROME), (OTHER, CHROME), (IMAGE, FIREFOX)] {
                hits &= is_hit(&get(http, front, path, accept).await?);
            }
            Ok(hits)
        })
        .await
    };
    warm().await?;
    let image = get(http, front, IMAGE, CHROME).await?;
    assert!(is_best(&image), "{}", image.content_type());
    assert!(image.header("age").parse::<u32>().is_ok() && image.header("xkey").is_empty(), "{:?}", image.headers);
    let tags = image.header("surrogate-key").to_owned();
    let recipe = tags.split(' ').find(|tag| tag.starts_with("recipe:")).context("a recipe")?;
    for scope in [json!({ "url": IMAGE }), json!({ "variant": "studio/thumb?product=vase" }), json!({ "tag": recipe })]
    {
        let record = purge(http, &edge, scope.clone()).await?;
        assert_eq!(record["downstream"]["varnish-1"]["state"], "confirmed", "{record}");
        assert!(!is_hit(&get(http, front, IMAGE, FIREFOX).await?), "{scope}");
        assert!(is_hit(&get(http, front, OTHER, CHROME).await?), "{scope}");
        warm().await?;
    }
    for scope in [json!({ "campaign": "studio" }), json!({ "tag": "slot:studio/thumb" }), json!({ "everything": true })]
    {
        purge(http, &edge, scope.clone()).await?;
        for path in [IMAGE, OTHER] {
            assert!(!is_hit(&get(http, front, path, CHROME).await?), "{scope} {path}");
        }
        warm().await?;
    }
    // Softly: still served, and fetched again behind the reader.
    let before = get(http, front, IMAGE, CHROME).await?;
    purge(http, &edge, json!({ "campaign": "studio", "kind": "soft" })).await?;
    let filler = |reply: &Reply| reply.header("x-varnish").split(' ').nth(1).map(str::to_owned);
    eventually("Varnish has fetched it again", async || {
        let reply = get(http, front, IMAGE, CHROME).await?;
        anyhow::ensure!(reply.status == StatusCode::OK);
        Ok(is_hit(&reply) && filler(&reply) != filler(&before))
    })
    .await?;
    // A call that is no purge of an edge is refused, so that a purger that was set up for another VCL is reported.
    for method in ["PURGE", "BAN"] {
        let request = Request::builder().method(method).uri(format!("http://{front}/")).body(Full::default())?;
        assert!(http.send(request).await?.status.is_client_error(), "{method}");
    }
    edge.shut_down().await;
    Ok(())
}

/// nginx keeps one copy for all spellings of an `Accept`, and serves it while the edge is away.
#[tokio::test]
async fn the_shipped_nginx_keeps_images_by_what_browsers_accept() -> anyhow::Result<()> {
    let test = "the_shipped_nginx_keeps_images_by_what_browsers_accept";
    let Some(binary) = judge::named("BILDKANTE_NGINX", "nginx", test)? else { return Ok(()) };
    let control = Arc::new(FakeControl::default());
    let mut rig = Rig::start(Plan::painted(&control)).await?;
    let (port, dir) = (ReservedPort::new()?, rig.dir.path().join("nginx"));
    let _nginx = start_nginx(&binary, &dir, port.address(), rig.public())?;
    let (http, at) = (rig.http.clone(), port.address());
    // The edge itself has the final rung, which is kept for a minute.
    eventually("the edge has it", async || {
        Ok(get(&http, rig.public(), IMAGE, CHROME).await?.header("cache-control").contains("max-age=60"))
    })
    .await?;
    let asked = async |accept: &str| get(&http, at, IMAGE, accept).await;
    eventually("nginx answers", async || Ok(asked(CHROME).await.is_ok_and(|reply| reply.status.is_success())))
        .await
        .with_context(|| std::fs::read_to_string(dir.join("stderr.log")).unwrap_or_default())?;
    let avif = asked(CHROME).await?;
    let (webp, jpeg) = (asked("image/webp,*/*").await?, asked("*/*").await?);
    assert!(is_best(&avif), "{}", avif.content_type());
    assert_eq!([webp.content_type(), jpeg.content_type()], ["image/webp", "image/jpeg"]);
    rig.stop_edge().await;
    let kept = asked(FIREFOX).await?;
    assert_eq!((kept.status, kept.header("etag")), (StatusCode::OK, avif.header("etag")));
    assert_eq!(get(&http, at, OTHER, CHROME).await?.status, StatusCode::BAD_GATEWAY, "the edge is away");
    rig.stop().await;
    Ok(())
}

/// c2pa-python's word on a file, by the judge beside the tests.
fn judged(python: &Path, dir: &Path, reply: &Reply, manifest: Option<&Reply>) -> anyhow::Result<Value> {
    std::fs::write(dir.join("picture"), &reply.body)?;
    let mut judge = Command::new(python);
    judge.arg(repository().join("tests/setup/c2pa/judge.py")).arg(reply.content_type());
    judge.arg(dir.join("picture")).arg(dir.join("authority/root.pem"));
    if let Some(manifest) = manifest {
        std::fs::write(dir.join("manifest"), &manifest.body)?;
        judge.arg(dir.join("manifest"));
    }
    let said = judge.output()?;
    anyhow::ensure!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    Ok(serde_json::from_slice(&said.stdout)?)
}

/// The path of the manifest that an answer says is beside it.
fn manifest_path(reply: &Reply) -> Option<String> {
    let (url, _) = reply.header("link").split_once(">; rel=\"c2pa-manifest\"")?;
    url.rsplit_once("/c2pa/").map(|(_, name)| format!("/c2pa/{name}"))
}

/// Every format, embedded or beside, is trusted after a front has passed it on twice, the second time from its cache; one
/// changed bit is found.
async fn passes_signatures_on(python: &Path, rig: &Rig, edge: &Edge, front: SocketAddr) -> anyhow::Result<()> {
    let (mut embedded, mut beside) = (0, 0);
    for path in SIGNED {
        provenance::settled(rig, edge, path).await?;
        for _ in 0..2 {
            let reply = get(&rig.http, front, path, CHROME).await?;
            anyhow::ensure!(reply.status == StatusCode::OK, "{path}: {} {:?}", reply.status, reply.headers);
            let manifest = match manifest_path(&reply) {
                Some(path) => Some(get(&rig.http, front, &path, "*/*").await?),
                None => None,
            };
            *if manifest.is_some() { &mut beside } else { &mut embedded } += 1;
            let said = judged(python, rig.dir.path(), &reply, manifest.as_ref())?;
            assert_eq!((&said["state"], &said["failures"]), (&json!("Trusted"), &json!([])), "{path}: {said}");
            let mut body = reply.body.to_vec();
            let middle = body.len() / 2;
            body[middle] ^= 1;
            let changed = Reply { body: body.into(), ..reply };
            let said = judged(python, rig.dir.path(), &changed, manifest.as_ref())?;
            assert!(["Invalid", "Unreadable"].contains(&said["state"].as_str().unwrap_or_default()), "{path}: {said}");
        }
    }
    assert!(embedded > 0 && beside > 0, "{embedded} embedded, {beside} beside");
    Ok(())
}

/// Every format, and one that a manifest is embedded into.
const SIGNED: [&str; 5] = [
    "/i/studio/hero?product=vase&fm=png&w=640",
    "/i/studio/hero?product=vase&fm=avif&w=640",
    "/i/studio/hero?product=vase&fm=webp&w=640",
    "/i/studio/hero?product=vase&fm=jpg&w=640",
    IMAGE,
];

#[tokio::test(flavor = "multi_thread")]
async fn signed_pictures_pass_the_shipped_nginx_and_varnish() -> anyhow::Result<()> {
    let test = "signed_pictures_pass_the_shipped_nginx_and_varnish";
    let Some(python) = judge::named("BILDKANTE_C2PA", "c2pa-python", test)? else { return Ok(()) };
    let Some(nginx) = judge::named("BILDKANTE_NGINX", "nginx", test)? else { return Ok(()) };
    let Some(varnish) = judge::named("BILDKANTE_VARNISH", "varnishd", test)? else { return Ok(()) };
    let rig = Rig::start(Plan::painted(&Arc::new(FakeControl::default()))).await?;
    let (sign, _) = provenance::signing(rig.dir.path())?;
    let edge = rig.another_edge("signed", &sign).await?;
    rig.healthy_nodes(&edge, 1).await?;
    let (nginx_port, varnish_port) = (ReservedPort::new()?, ReservedPort::new()?);
    let _nginx = start_nginx(&nginx, &rig.dir.path().join("nginx"), nginx_port.address(), edge.http)?;
    let _varnish = start_varnish(&varnish, rig.dir.path(), varnish_port.address(), edge.http)?;
    for front in [nginx_port.address(), varnish_port.address()] {
        eventually("the front answers", async || {
            Ok(get(&rig.http, front, IMAGE, CHROME).await.is_ok_and(|reply| reply.status.is_success()))
        })
        .await?;
        passes_signatures_on(&python, &rig, &edge, front).await?;
    }
    edge.shut_down().await;
    rig.stop().await;
    Ok(())
}
