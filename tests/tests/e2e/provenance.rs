//! Signed pictures end to end: what an edge serves is what a validator accepts, and stays the same file.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bildkante_edge::config::Config;
use bildkante_edge::credentials::{Finding, SignerConfig, Standing, TimestampConfig, Trust, authority, verify};
use bildkante_edge::watermark::{self, Effort, Found, MasterPrefix, Secret, Watermark, detect};
use bildkante_edge::words::Format;
use bildkante_gpu_node::testing::FakeControl;
use bildkante_shared::ids::MasterId;
use bildkante_tests::client::{Reply, eventually};
use bildkante_tests::judge;
use bildkante_tests::rig::{Plan, Rig};
use http::StatusCode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::imports;

/// In its largest width: a file that a manifest may be embedded into.
const LARGE: &str = "/i/studio/hero?product=vase&fm=png&w=640";
/// A thumbnail that a manifest would double.
const SMALL: &str = "/i/studio/thumb?product=vase&fm=avif";

/// An authority for development in a folder, and the edge's configuration that names it.
pub(crate) fn signing(dir: &Path) -> anyhow::Result<(impl Fn(&mut Config) + use<>, Trust)> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
    let files = authority::init(&dir.join("authority"), now)?;
    let trust = Trust::from_pem(&std::fs::read_to_string(&files.root)?)?;
    let signer = SignerConfig {
        certificate: files.certificate,
        key: Some(files.key),
        command: Vec::new(),
        command_ms: 1000,
        ocsp: None,
        renew: Vec::new(),
        renew_before_h: 0,
    };
    Ok((move |config: &mut Config| config.provenance.signer = Some(signer.clone()), trust))
}

/// As soon as it is of the final rung.
pub(crate) async fn settled(rig: &Rig, edge: &bildkante_edge::app::Edge, path: &str) -> anyhow::Result<Reply> {
    let mut last = rig.http.image(edge.http, path).await?;
    eventually("the final rung", async || {
        last = rig.http.image(edge.http, path).await?;
        anyhow::ensure!(last.status == StatusCode::OK, "{:?}", last.headers);
        Ok(!last.header("cache-control").contains("max-age=30"))
    })
    .await?;
    Ok(last)
}

/// Written with the published key, as the configuration names no other.
fn watermark_of(file: &[u8]) -> anyhow::Result<Option<Found>> {
    let picture = image::load_from_memory(file)?.into_rgb8();
    let published = [Watermark::new(&Secret::PUBLISHED)];
    Ok(detect(&picture, picture.width(), picture.height(), &published, Effort::default()))
}

fn is_trusted(finding: &Finding) -> bool {
    matches!(finding, Finding::Valid { credentials } if credentials.standing == Standing::Trusted)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_served_is_signed_embedded_or_beside_and_making_it_again_gives_the_same_file() -> anyhow::Result<()> {
    let rig = Rig::start(Plan::painted(&Arc::new(FakeControl::default()))).await?;
    let (sign, trust) = signing(rig.dir.path())?;
    let edge = rig.another_edge("signed", &sign).await?;
    rig.healthy_nodes(&edge, 1).await?;

    let embedded = settled(&rig, &edge, LARGE).await?;
    assert!(!embedded.header("link").contains("c2pa-manifest"), "{:?}", embedded.headers);
    let finding = verify(Format::Png, &embedded.body, None, &trust);
    assert!(is_trusted(&finding), "{finding:?}");
    let Finding::Valid { credentials } = finding else { anyhow::bail!("not valid") };
    let told: Vec<&str> = credentials.actions.iter().map(|action| action.action.as_str()).collect();
    assert!(told.starts_with(&["c2pa.created"]) && told.ends_with(&["c2pa.transcoded"]), "{told:?}");
    let generation = credentials.generation.expect("our assertion");
    assert!(embedded.header("cache-tag").contains(&generation.recipe), "{generation:?}");
    assert!(generation.checkpoint.is_some_and(|checkpoint| checkpoint.starts_with("studio-tiny@")));
    assert!(told.contains(&"c2pa.watermarked.bound"), "{told:?}");
    let marked = watermark_of(&embedded.body)?.expect("the watermark");
    let expected = MasterPrefix::of(generation.master.parse::<MasterId>()?.as_bytes());
    assert_eq!(marked.payload.master(), expected);
    let value = format!("{:016x}", marked.payload.to_bits());
    assert_eq!(credentials.soft_bindings, [(watermark::ALGORITHM.to_owned(), value)]);

    let beside = settled(&rig, &edge, SMALL).await?;
    let link = beside.header("link").to_owned();
    let (url, _) = link.split_once(">; rel=\"c2pa-manifest\"").unwrap_or_default();
    let url = url.rsplit('<').next().unwrap_or_default();
    let path = url.strip_prefix(&format!("http://{}", edge.http)).unwrap_or_default();
    assert!(path.starts_with("/c2pa/"), "{link}");
    // The file says so itself, for those who only have the file.
    let alone = verify(Format::Avif, &beside.body, None, &trust);
    assert_eq!(alone, Finding::Elsewhere { url: url.to_owned() });
    let manifest = rig.http.get(edge.http, path, &[]).await?;
    assert_eq!((manifest.status, manifest.content_type()), (StatusCode::OK, "application/c2pa"));
    assert!(manifest.header("cache-control").contains("immutable"));
    let finding = verify(Format::Avif, &beside.body, Some(&manifest.body), &trust);
    assert!(is_trusted(&finding), "{finding:?}");
    for wrong in ["/c2pa/nothing", "/c2pa/a2a9vq2cv3jakvzev4jhn17mr8-final"] {
        assert_eq!(rig.http.get(edge.http, wrong, &[]).await?.status, StatusCode::NOT_FOUND, "{wrong}");
    }
    edge.shut_down().await;

    // Everything is lost but the state: what is made again is the same file.
    std::fs::remove_dir_all(rig.dir.path().join("signed/renditions"))?;
    let edge = rig.another_edge("signed", &sign).await?;
    rig.healthy_nodes(&edge, 1).await?;
    assert_eq!(settled(&rig, &edge, LARGE).await?.body, embedded.body);
    let kept = rig.http.metric(edge.admin, "bildkante_edge_credentials_total{outcome=\"kept\"}").await?;
    assert!(kept >= 1.0, "{kept}");
    edge.shut_down().await;
    rig.stop().await;
    Ok(())
}

/// A signer that is away costs no picture: it is served for a short time, marked, or stood in for, as its campaign says.
#[tokio::test(flavor = "multi_thread")]
async fn a_signer_that_is_away_makes_nothing_final() -> anyhow::Result<()> {
    let rig = Rig::start(Plan::painted(&Arc::new(FakeControl::default()))).await?;
    let (sign, trust) = signing(rig.dir.path())?;
    let key = rig.dir.path().join("authority/signer.key");
    let hidden = key.with_extension("hidden");
    std::fs::rename(&key, &hidden)?;
    let edge = rig
        .another_edge("away", |config| {
            sign(config);
            config.provenance.reload_ms = 20;
        })
        .await?;
    rig.healthy_nodes(&edge, 1).await?;
    let unsigned = rig.http.image(edge.http, SMALL).await?;
    assert_eq!((unsigned.status, unsigned.header("cache-control")), (StatusCode::OK, "public, max-age=30"));
    assert_eq!(verify(Format::Avif, &unsigned.body, None, &trust), Finding::Absent);
    let failed = "bildkante_edge_credential_failures_total{reason=\"no_signer\"}";
    assert!(rig.http.metric(edge.admin, failed).await? >= 1.0);
    assert_eq!(rig.http.metric(edge.admin, "bildkante_edge_signer_valid").await?, 0.0);
    std::fs::rename(&hidden, &key)?;
    let settled = settled(&rig, &edge, SMALL).await?;
    assert!(settled.header("link").contains("c2pa-manifest"), "{:?}", settled.headers);
    assert_eq!(rig.http.metric(edge.admin, "bildkante_edge_signer_valid").await?, 1.0);
    edge.shut_down().await;
    rig.stop().await;
    Ok(())
}

/// Switching signing on renders nothing while a reader waits: what was unsigned is shown and replaced.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_unsigned_is_served_while_it_is_signed() -> anyhow::Result<()> {
    let rig = Rig::start(Plan::painted(&Arc::new(FakeControl::default()))).await?;
    let (sign, trust) = signing(rig.dir.path())?;
    let edge = rig.another_edge("later", |_| {}).await?;
    rig.healthy_nodes(&edge, 1).await?;
    let before = settled(&rig, &edge, LARGE).await?;
    assert_eq!(verify(Format::Png, &before.body, None, &trust), Finding::Absent);
    edge.shut_down().await;
    let edge = rig.another_edge("later", &sign).await?;
    rig.healthy_nodes(&edge, 1).await?;
    let shown = rig.http.image(edge.http, LARGE).await?;
    assert_eq!((shown.outcome(), &shown.body), ("stale", &before.body), "{:?}", shown.headers);
    eventually("it is signed", async || {
        let reply = rig.http.image(edge.http, LARGE).await?;
        Ok(is_trusted(&verify(Format::Png, &reply.body, None, &trust)))
    })
    .await?;
    edge.shut_down().await;
    rig.stop().await;
    Ok(())
}

/// A picture that a person brings keeps the history that it came with.
#[tokio::test(flavor = "multi_thread")]
async fn an_import_is_told_with_the_manifest_that_it_carried() -> anyhow::Result<()> {
    let rig = Rig::start(Plan::painted(&Arc::new(FakeControl::default()))).await?;
    let (sign, trust) = signing(rig.dir.path())?;
    let edge = rig
        .another_edge("importing", |config| {
            sign(config);
            config.campaigns.reload_ms = 100;
        })
        .await?;
    rig.healthy_nodes(&edge, 1).await?;
    let original = settled(&rig, &edge, LARGE).await?.body;
    std::fs::write(rig.dir.path().join("campaigns/brought.toml"), imports::MANIFEST)?;
    imports::bring(&rig, "brought/hero?product=vase", &original)?;
    let path = "/i/brought/hero?product=vase&w=64&fm=jpg";
    eventually("the import is signed", async || {
        Ok(rig.http.image(edge.http, path).await?.header("link").contains("c2pa-manifest"))
    })
    .await?;
    let shown = settled(&rig, &edge, path).await?;
    let (url, _) = shown.header("link").split_once(">; rel=\"c2pa-manifest\"").unwrap_or_default();
    let path = url.rsplit_once("/c2pa/").map(|(_, name)| format!("/c2pa/{name}")).unwrap_or_default();
    let manifest = rig.http.get(edge.http, &path, &[]).await?;
    let finding = verify(Format::Jpeg, &shown.body, Some(&manifest.body), &trust);
    let Finding::Valid { credentials } = finding else { anyhow::bail!("{finding:?}") };
    assert_eq!(credentials.actions.first().map(|action| action.action.as_str()), Some("c2pa.opened"));
    let [ingredient] = credentials.ingredients.as_slice() else { anyhow::bail!("{credentials:?}") };
    assert_eq!((ingredient.relation.as_str(), ingredient.was_valid), ("parentOf", Some(true)), "{ingredient:?}");
    edge.shut_down().await;
    rig.stop().await;
    Ok(())
}

/// With a timestamp authority a picture is quick until the authority has dated it, and stays so while the authority is away.
#[tokio::test(flavor = "multi_thread")]
async fn a_final_picture_is_dated_by_the_timestamp_authority() -> anyhow::Result<()> {
    let Some(openssl) = judge::find("openssl", "a_final_picture_is_dated_by_the_timestamp_authority")? else {
        return Ok(());
    };
    let rig = Rig::start(Plan::painted(&Arc::new(FakeControl::default()))).await?;
    let (sign, trust) = signing(rig.dir.path())?;
    let authority = TimestampAuthority::start(&openssl, &rig.dir.path().join("tsa")).await?;
    authority.is_away.store(true, Ordering::Relaxed);
    let url = format!("http://{}/", authority.address);
    let edge = rig
        .another_edge("dated", |config| {
            sign(config);
            config.provenance.timestamp = Some(TimestampConfig { url, deadline_ms: 5000, token_bytes_max: 7168 });
        })
        .await?;
    rig.healthy_nodes(&edge, 1).await?;
    let quick = rig.http.image(edge.http, SMALL).await?;
    assert_eq!((quick.status, quick.header("cache-control")), (StatusCode::OK, "public, max-age=30"));
    let failed = "bildkante_edge_credential_failures_total{reason=\"away\"}";
    eventually("the authority was asked", async || Ok(rig.http.metric(edge.admin, failed).await? >= 1.0)).await?;
    let quick = rig.http.image(edge.http, SMALL).await?;
    assert!(quick.header("link").contains("c2pa-manifest"), "a signed one stays: {:?}", quick.headers);
    authority.is_away.store(false, Ordering::Relaxed);
    let dated = settled(&rig, &edge, SMALL).await?;
    let (url, _) = dated.header("link").split_once(">; rel=\"c2pa-manifest\"").unwrap_or_default();
    let path = url.rsplit_once("/c2pa/").map(|(_, name)| format!("/c2pa/{name}")).unwrap_or_default();
    let manifest = rig.http.get(edge.http, &path, &[]).await?;
    let finding = verify(Format::Avif, &dated.body, Some(&manifest.body), &trust);
    let Finding::Valid { credentials } = finding else { anyhow::bail!("{finding:?}") };
    assert!(credentials.signed_at.is_some(), "{credentials:?}");
    edge.shut_down().await;
    rig.stop().await;
    Ok(())
}

/// OpenSSL behind a port.
struct TimestampAuthority {
    address: SocketAddr,
    /// While it is, connections are closed unanswered.
    is_away: Arc<AtomicBool>,
}

impl TimestampAuthority {
    async fn start(openssl: &Path, dir: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let file = |name: &str| dir.join(name).display().to_string();
        // C2PA takes no certificate that issued itself.
        let config = format!(
            "[req]\ndistinguished_name=dn\nprompt=no\n[dn]\nO=Test\nCN=tsa\n\
             [ca]\nbasicConstraints=critical,CA:true\nkeyUsage=critical,keyCertSign\nsubjectKeyIdentifier=hash\n\
             [tsa]\nbasicConstraints=critical,CA:false\nkeyUsage=critical,digitalSignature\n\
             extendedKeyUsage=critical,timeStamping\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n\
             [t]\ndigests=sha256\ndefault_policy=1.2.3.4\nsigner_digest=sha256\n\
             ess_cert_id_alg=sha256\ntsa_name=no\nserial={}\n",
            file("serial")
        );
        std::fs::write(file("tsa.cnf"), config)?;
        std::fs::write(file("serial"), "01\n")?;
        for (name, issuer) in [("ca", &[][..]), ("tsa", &["-CA", &file("ca.pem"), "-CAkey", &file("ca.key")][..])] {
            let (key, certificate) = (file(&format!("{name}.key")), file(&format!("{name}.pem")));
            let made = ["req", "-x509", "-days", "2", "-config", &file("tsa.cnf"), "-extensions", name];
            let files = [
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-keyout",
                &key,
                "-out",
                &certificate,
            ];
            run(openssl, &[&made[..], &files, issuer].concat())?;
        }
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let (address, is_away) = (listener.local_addr()?, Arc::new(AtomicBool::new(false)));
        let (openssl, dir, away) = (openssl.to_owned(), dir.to_owned(), Arc::clone(&is_away));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                if !away.load(Ordering::Relaxed)
                    && let Err(error) = answer(&mut stream, &openssl, &dir).await
                {
                    eprintln!("the timestamp authority: {error:#}");
                }
            }
        });
        Ok(Self { address, is_away })
    }
}

/// One request, one answer, and the connection is closed.
async fn answer(stream: &mut TcpStream, openssl: &Path, dir: &Path) -> anyhow::Result<()> {
    let (mut request, mut part) = (Vec::new(), [0; 4096]);
    let body = loop {
        let read = stream.read(&mut part).await?;
        anyhow::ensure!(read > 0, "it ended early");
        request.extend_from_slice(&part[..read]);
        let Some(head) = request.windows(4).position(|end| end == b"\r\n\r\n") else { continue };
        let text = String::from_utf8_lossy(&request[..head]).to_lowercase();
        let length =
            text.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap_or("0").trim().parse()?;
        if request.len() - head - 4 >= length {
            break request[head + 4..].to_vec();
        }
    };
    let file = |name: &str| dir.join(name).display().to_string();
    std::fs::write(file("query"), body)?;
    let files = ["-config", &file("tsa.cnf"), "-queryfile", &file("query"), "-out", &file("reply")];
    let who = ["-signer", &file("tsa.pem"), "-inkey", &file("tsa.key"), "-chain", &file("ca.pem"), "-section", "t"];
    run(openssl, &[&["ts", "-reply"][..], &files, &who].concat())?;
    let reply = std::fs::read(file("reply"))?;
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/timestamp-reply\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        reply.len()
    );
    stream.write_all(&[head.as_bytes(), &reply].concat()).await?;
    Ok(())
}

fn run(openssl: &Path, arguments: &[&str]) -> anyhow::Result<()> {
    let said = std::process::Command::new(openssl).args(arguments).output()?;
    anyhow::ensure!(said.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&said.stderr));
    Ok(())
}
