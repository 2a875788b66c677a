//! Sockets, certificates and trusted proxies: a real edge as an operator runs it.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use anyhow::Context;
use bildkante_edge::config::Config;
use bildkante_edge::listener::tls::AdminTlsConfig;
use bildkante_gpu_node::testing::FakeControl;
use bildkante_shared::testing::{patience, write_secret};
use bildkante_tests::client::{eventually, within};
use bildkante_tests::pki::Authority;
use bildkante_tests::raw::frames;
use bildkante_tests::rig::{Plan, Rig, Tls};
use bildkante_tests::tls::connect;
use bildkante_tests::{judge, program, repository};
use http::HeaderName;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio_rustls::client::TlsStream;

use crate::processes::kill;

const HIT: &str = "/i/studio/thumb?fm=webp";
const HTTP1: &[u8] = b"http/1.1";

/// One request on a connection that ends with it; the status.
async fn ask(mut stream: TlsStream<TcpStream>, path: &str) -> anyhow::Result<u16> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut read = Vec::new();
    stream.read_to_end(&mut read).await?;
    Ok(frames(&read)?.first().context("no answer")?.status.as_u16())
}

fn leaf(stream: &TlsStream<TcpStream>) -> anyhow::Result<CertificateDer<'static>> {
    let chain = stream.get_ref().1.peer_certificates().context("no certificate")?;
    Ok(chain.first().context("an empty chain")?.clone().into_owned())
}

/// New handshakes get the new certificate, no handshake is refused meanwhile, and open connections stay open.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_replaced_under_load() -> anyhow::Result<()> {
    fn quick(config: &mut Config) {
        if let Some(tls) = &mut config.listen.tls {
            tls.reload_ms = 20;
        }
    }
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan { tls: Tls::On, edge: quick, ..Plan::painted(&control) }).await?;
    rig.http.image(rig.public(), HIT).await?;
    let (address, file) = rig.https()?;
    let old = rig.dir.path().join("old.pem");
    std::fs::copy(&file, &old)?;
    let renewed = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])?;
    let new = rig.dir.path().join("new.pem");
    std::fs::write(&new, renewed.cert.pem())?;
    let kept = connect(address, &[&old], None, HTTP1).await?;

    let (stop, asked) = (AtomicBool::new(false), AtomicU32::new(0));
    let load = async || {
        while !stop.load(Ordering::Relaxed) {
            let status = ask(connect(address, &[&old, &new], None, HTTP1).await?, HIT).await?;
            anyhow::ensure!(status == 200, "{status}");
            asked.fetch_add(1, Ordering::Relaxed);
        }
        anyhow::Ok(())
    };
    let replace = async {
        eventually("there is load", async || Ok(asked.load(Ordering::Relaxed) > 20)).await?;
        // As a careless script does it: for a moment certificate and key do not belong together.
        std::fs::write(&file, renewed.cert.pem())?;
        write_secret(&file.with_extension("key"), renewed.signing_key.serialize_pem())?;
        let expected = CertificateDer::from_pem_file(&new)?;
        eventually("the new certificate is shown", async || {
            Ok(leaf(&connect(address, &[&old, &new], None, HTTP1).await?)? == expected)
        })
        .await?;
        let before = asked.load(Ordering::Relaxed);
        eventually("the load goes on", async || Ok(asked.load(Ordering::Relaxed) > before + 20)).await?;
        stop.store(true, Ordering::Relaxed);
        anyhow::Ok(())
    };
    let (one, two, replaced) = tokio::join!(load(), load(), replace);
    // A failed task names its error first.
    (replaced.and(one).and(two))?;
    assert_eq!(ask(kept, HIT).await?, 200, "a connection from before");
    rig.stop().await;
    Ok(())
}

/// The admin listener takes only operators with a certificate of their authority.
#[tokio::test(flavor = "multi_thread")]
async fn the_admin_listener_asks_for_a_certificate() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let (ours, theirs) = (Authority::new(dir.path(), "ours")?, Authority::new(dir.path(), "theirs")?);
    let (server, operator) = (ours.identity(dir.path(), "edge")?, ours.identity(dir.path(), "operator")?);
    let stranger = theirs.identity(dir.path(), "stranger")?;
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan::painted(&control)).await?;
    let tls = AdminTlsConfig {
        certificate: server.certificate,
        key: server.key,
        client_ca: Some(ours.file.clone()),
        reload_ms: 1000,
    };
    let second = rig.another_edge("operators", move |config| config.listen.admin_tls = Some(tls)).await?;
    let trusted = [ours.file.as_path()];
    let known = connect(second.admin, &trusted, Some(&operator), HTTP1).await?;
    assert_eq!(ask(known, "/livez").await?, 200);
    for identity in [None, Some(&stranger)] {
        // In TLS 1.3 the client's handshake is over before the server has judged it.
        let refused = match connect(second.admin, &trusted, identity, HTTP1).await {
            Ok(stream) => ask(stream, "/livez").await.is_err(),
            Err(_) => true,
        };
        assert!(refused, "{identity:?}");
    }
    second.shut_down().await;
    rig.stop().await;
    Ok(())
}

/// Behind a trusted proxy each network has its own budget; from other senders the field is only a claim.
#[tokio::test]
async fn a_proxy_is_believed_only_if_it_is_trusted() -> anyhow::Result<()> {
    fn frugal(config: &mut Config) {
        config.budget.network_burst = 1;
        config.budget.network_per_minute = 1;
    }
    fn behind_a_proxy(config: &mut Config) {
        frugal(config);
        config.listen.trusted_proxies = vec!["127.0.0.0/8".parse().expect("a prefix")];
    }
    let field = HeaderName::from_static("x-forwarded-for");
    let cold = ["/i/studio/thumb?product=ball", "/i/studio/thumb?product=ring", "/i/studio/thumb?product=cube"];
    for (edge, expected) in [
        (behind_a_proxy as fn(&mut Config), ["generated", "generated", "placeholder: over-budget-network"]),
        (frugal, ["generated", "placeholder: over-budget-network", "placeholder: over-budget-network"]),
    ] {
        let control = Arc::new(FakeControl::default());
        let rig = Rig::start(Plan { edge, ..Plan::painted(&control) }).await?;
        // Entries to the left of the proxy's own come from the client and are not believed.
        let claims = ["203.0.113.7", "198.51.100.1, 192.0.2.9", "203.0.113.8"];
        for ((path, claim), expected) in cold.iter().zip(claims).zip(expected) {
            let reply = rig.http.get(rig.public(), path, &[(field.clone(), claim)]).await?;
            assert_eq!(reply.outcome(), expected, "{claim}");
        }
        rig.stop().await;
    }
    Ok(())
}

/// A shell in place of systemd: it passes descriptors 3 and 4, and the address for notifications.
fn start_with_sockets(config: &Path, http: OwnedFd, admin: OwnedFd, notify: &Path) -> anyhow::Result<Child> {
    let script = "exec 3<&0 4<&1 </dev/null >/dev/null
        export LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=http:admin
        exec \"$0\" serve --config \"$1\"";
    let child = Command::new("sh")
        .args(["-c", script])
        .arg(program("bildkante-edge")?)
        .arg(config)
        .current_dir(repository())
        .env("NOTIFY_SOCKET", notify)
        .env("RUST_LOG", "error")
        .stdin(Stdio::from(http))
        .stdout(Stdio::from(admin))
        .kill_on_drop(true)
        .spawn()?;
    Ok(child)
}

/// What the next notification to systemd begins with.
pub(crate) async fn told(socket: &UnixDatagram, expected: &str) -> anyhow::Result<()> {
    let socket = socket.try_clone()?;
    let text = tokio::task::spawn_blocking(move || {
        let mut buffer = [0; 256];
        let length = socket.recv(&mut buffer)?;
        anyhow::Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
    });
    let text = text.await??;
    anyhow::ensure!(text.starts_with(expected), "{text:?} instead of {expected}");
    Ok(())
}

/// The sockets outlive the edge: a client that connects during a restart is answered by the next edge.
#[tokio::test(flavor = "multi_thread")]
async fn sockets_of_systemd_outlive_a_restart() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan::painted(&control)).await?;
    let dir = rig.dir.path();
    let (http, admin) = (TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?);
    let (public, operators) = (http.local_addr()?, admin.local_addr()?);
    let config = dir.join("sockets.toml");
    // The configured addresses are taken: the edge can serve only on the sockets it is handed.
    let text = format!(
        "[listen]\nhttp = \"{}\"\nadmin = \"{}\"\n[cache]\ndisk_dir = {:?}\n[origin]\nnodes = [\"http://{}\"]\n",
        rig.public(),
        rig.admin(),
        dir.join("sockets"),
        rig.node(),
    );
    std::fs::write(&config, text)?;
    let notify = dir.join("notify");
    let systemd = UnixDatagram::bind(&notify)?;
    systemd.set_read_timeout(Some(patience()))?;
    let start = || start_with_sockets(&config, http.try_clone()?.into(), admin.try_clone()?.into(), &notify);

    let mut first = start()?;
    told(&systemd, "READY=1").await?;
    assert_eq!(rig.http.image(public, HIT).await?.status, 200);
    let id = first.id().context("the edge's id")?;
    kill(id, "-HUP")?;
    told(&systemd, "RELOADING=1\nMONOTONIC_USEC=").await?;
    told(&systemd, "READY=1").await?;
    kill(id, "-TERM")?;
    told(&systemd, "STOPPING=1").await?;
    assert!(within("the first edge ends", first.wait()).await??.success());

    let (client, address) = (rig.http.clone(), public);
    let waiting = tokio::spawn(async move { client.image(address, HIT).await });
    let _second = start()?;
    told(&systemd, "READY=1").await?;
    assert_eq!(within("who waited is answered", waiting).await???.status, 200);
    let ready = async || Ok(rig.http.get(operators, "/livez", &[]).await?.status == 200);
    eventually("the admin's socket is served, too", ready).await?;
    rig.stop().await;
    Ok(())
}

/// `check` tells an operator before a restart which certificates and keys there are, and what is wrong with them.
#[tokio::test]
async fn check_tells_certificates_and_signing_keys() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let path = |name: &str| dir.path().join(name);
    let made = rcgen::generate_simple_self_signed(vec!["img.example.com".to_owned()])?;
    std::fs::write(path("edge.pem"), made.cert.pem())?;
    write_secret(&path("edge.key"), made.signing_key.serialize_pem())?;
    let keys = "[[keys]]\nkid = \"next\"\nsecret = \"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\"\n\
                [[keys]]\nkid = \"past\"\nsecret = \"ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=\"\nretired = true\n";
    std::fs::write(path("keys.toml"), keys)?;
    std::fs::set_permissions(path("keys.toml"), std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    let config = path("edge.toml");
    let text = format!(
        "[listen]\ntls = {{ certificate = {:?}, key = {:?} }}\n[signing]\nkeys_file = {:?}\n",
        path("edge.pem"),
        path("edge.key"),
        path("keys.toml")
    );
    std::fs::write(&config, text)?;
    let check = async || {
        let output = Command::new(program("bildkante-edge")?)
            .args(["check", "--config"])
            .arg(&config)
            .current_dir(repository())
            .output()
            .await?;
        let said = [output.stdout, output.stderr].concat();
        anyhow::Ok((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
    };
    let (is_sound, said) = check().await?;
    assert!(is_sound, "{said}");
    for line in
        ["https: a certificate for img.example.com until ", "key next signs and verifies", "key past verifies only"]
    {
        assert!(said.contains(line), "{said}");
    }
    assert!(!said.contains("AAECAwQF"), "a secret is told");
    let other = rcgen::generate_simple_self_signed(vec!["img.example.com".to_owned()])?;
    write_secret(&path("edge.key"), other.signing_key.serialize_pem())?;
    let (is_sound, said) = check().await?;
    assert!(!is_sound && said.contains("do not work together"), "{said}");
    Ok(())
}

/// systemd's own opinion of the units we ship.
#[test]
fn the_units_are_sound() -> anyhow::Result<()> {
    let Some(analyze) = judge::find("systemd-analyze", "the_units_are_sound")? else { return Ok(()) };
    let dir = tempfile::tempdir()?;
    let binary = program("bildkante-edge")?;
    for unit in ["bildkante-edge.service", "bildkante-edge.socket"] {
        let text = std::fs::read_to_string(repository().join("config/deploy").join(unit))?;
        // Its binary and its user are not installed where this runs.
        let text =
            text.replace("/usr/local/bin/bildkante-edge", &binary.to_string_lossy()).replace("User=bildkante\n", "");
        std::fs::write(dir.path().join(unit), text)?;
    }
    let verify = std::process::Command::new(analyze)
        .args(["verify", "--man=no", "--recursive-errors=no"])
        .args(["bildkante-edge.socket", "bildkante-edge.service"].map(|unit| dir.path().join(unit)))
        .output()?;
    let said = String::from_utf8_lossy(&verify.stderr);
    assert!(verify.status.success() && !said.contains("bildkante"), "{said}");
    Ok(())
}
