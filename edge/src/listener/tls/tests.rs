use std::path::Path;

use bildkante_shared::testing::write_secret;
use prometheus::Registry;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, RootCertStore};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

/// An authority and what it signs, in a folder.
struct Authority {
    dir: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("key")).expect("authority");
        let dir = tempfile::tempdir().expect("tempdir");
        std::fs::write(dir.path().join("ca.pem"), issuer.pem()).expect("write");
        Self { dir, issuer }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes `{name}.pem` and `{name}.key`.
    fn sign(&self, name: &str, hosts: &[&str]) -> CertificateFiles {
        let key = KeyPair::generate().expect("key");
        let hosts: Vec<String> = hosts.iter().map(|&host| host.to_owned()).collect();
        let signed = CertificateParams::new(hosts).expect("names").signed_by(&key, &self.issuer).expect("signed");
        let files =
            CertificateFiles { certificate: self.path(&format!("{name}.pem")), key: self.path(&format!("{name}.key")) };
        std::fs::write(&files.certificate, signed.pem()).expect("write");
        write_secret(&files.key, key.serialize_pem()).expect("write");
        files
    }

    fn client(&self, versions: &[&'static rustls::SupportedProtocolVersion]) -> ClientConfig {
        self.client_with(versions, None)
    }

    fn client_with(
        &self,
        versions: &[&'static rustls::SupportedProtocolVersion],
        certificate: Option<&CertificateFiles>,
    ) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.path("ca.pem")).expect("ca")).expect("root");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).expect("versions");
        let builder = builder.with_root_certificates(roots);
        let mut config = match certificate {
            None => builder.with_no_client_auth(),
            Some(files) => {
                let chain = vec![CertificateDer::from_pem_file(&files.certificate).expect("pem")];
                let key = PrivateKeyDer::from_pem_file(&files.key).expect("pem");
                builder.with_client_auth_cert(chain, key).expect("pair")
            }
        };
        config.resumption = Resumption::in_memory_sessions(32);
        config
    }
}

fn tls13() -> [&'static rustls::SupportedProtocolVersion; 1] {
    [&rustls::version::TLS13]
}

fn load(config: &TlsConfig) -> ReloadableTls {
    ReloadableTls::load(config, &metrics()).expect("loads")
}

fn metrics() -> TlsMetrics {
    TlsMetrics::new(&Registry::new()).expect("fresh registry")
}

/// What one connection learnt.
struct Met {
    kind: HandshakeKind,
    leaf: Vec<u8>,
}

/// A handshake and one byte each way, so that the client has its tickets.
async fn meet(tls: &ReloadableTls, client: &Arc<ClientConfig>, host: &str) -> io::Result<Met> {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let server = async {
        let mut stream = tls.accept(near).await?;
        let byte = stream.read_u8().await?;
        stream.write_u8(byte).await?;
        stream.flush().await?;
        // Until the client has hung up.
        let _ = stream.read_u8().await;
        Ok::<_, io::Error>(())
    };
    let name = ServerName::try_from(host.to_owned()).expect("a name");
    let connector = tokio_rustls::TlsConnector::from(Arc::clone(client));
    let asking = async {
        let mut stream = connector.connect(name, far).await?;
        stream.write_u8(7).await?;
        stream.flush().await?;
        stream.read_u8().await?;
        let connection = stream.get_ref().1;
        let leaf = connection.peer_certificates().map(|chain| chain[0].to_vec()).unwrap_or_default();
        let kind = connection.handshake_kind().expect("done");
        stream.shutdown().await?;
        Ok::<_, io::Error>(Met { kind, leaf })
    };
    let (_, met) = tokio::join!(server, asking);
    met
}

fn leaf(files: &CertificateFiles) -> Vec<u8> {
    CertificateDer::from_pem_file(&files.certificate).expect("pem").to_vec()
}

#[tokio::test]
async fn sni_picks_the_exact_name_then_the_wildcard_then_the_default() -> io::Result<()> {
    let authority = Authority::new();
    let first = authority.sign("first", &["first.example", "unknown.example", "a.b.wild.example", "wild.example"]);
    let exact = authority.sign("exact", &["img.example", "www.wild.example"]);
    let wild = authority.sign("wild", &["*.wild.example", "img.example"]);
    let config = TlsConfig {
        others: vec![exact.clone(), wild.clone()],
        ..TlsConfig::new(first.certificate.clone(), first.key.clone())
    };
    let tls = load(&config);
    let client = Arc::new(authority.client(rustls::ALL_VERSIONS));
    for (host, files) in [
        ("first.example", &first),
        ("img.example", &exact),
        ("IMG.example", &exact),
        ("www.wild.example", &exact),
        ("cdn.wild.example", &wild),
        ("a.b.wild.example", &first),
        ("wild.example", &first),
        ("unknown.example", &first),
    ] {
        assert_eq!(meet(&tls, &client, host).await?.leaf, leaf(files), "{host}");
    }
    Ok(())
}

#[tokio::test]
async fn sessions_resume_at_another_process_with_the_same_key_file() -> io::Result<()> {
    let authority = Authority::new();
    let files = authority.sign("edge", &["img.example"]);
    let mut config = TlsConfig::new(files.certificate, files.key);
    config.tickets.file = Some(authority.path("ticket.keys"));
    let (one, two) = (load(&config), load(&config));
    for versions in [&tls13()[..], &[&rustls::version::TLS12][..]] {
        let client = Arc::new(authority.client(versions));
        assert_ne!(meet(&one, &client, "img.example").await?.kind, HandshakeKind::Resumed);
        assert_eq!(meet(&two, &client, "img.example").await?.kind, HandshakeKind::Resumed);
        // After a rotation, and by a process that never made the ticket.
        let rotation = tickets::Rotation { lifetime_s: 86_400, lead: Duration::ZERO };
        tickets::rotate(&authority.path("ticket.keys"), &rotation, SystemTime::now()).expect("rotates");
        for process in [&one, &two] {
            process.refresh().expect("refreshes");
        }
        let restarted = load(&config);
        assert_eq!(meet(&restarted, &client, "img.example").await?.kind, HandshakeKind::Resumed);
        assert_eq!(meet(&one, &client, "img.example").await?.kind, HandshakeKind::Resumed);
    }
    // Keys of its own open nothing of others.
    config.tickets.file = None;
    let client = Arc::new(authority.client(&tls13()));
    meet(&one, &client, "img.example").await?;
    assert_eq!(meet(&load(&config), &client, "img.example").await?.kind, HandshakeKind::Full);
    Ok(())
}

#[tokio::test]
async fn a_changed_certificate_is_taken_and_a_broken_one_is_not() -> io::Result<()> {
    let authority = Authority::new();
    let files = authority.sign("edge", &["img.example"]);
    let registry = Registry::new();
    let metrics = TlsMetrics::new(&registry).expect("metrics");
    let tls =
        ReloadableTls::load(&TlsConfig::new(files.certificate.clone(), files.key.clone()), &metrics).expect("loads");
    let old = leaf(&files);
    let fresh = || Arc::new(authority.client(rustls::ALL_VERSIONS));
    assert_eq!(tls.refresh().expect("the same"), Refreshed::Unchanged);

    // A certificate whose key is still the old one: half a deployment.
    let key = std::fs::read(&files.key)?;
    authority.sign("edge", &["img.example"]);
    let (new_key, new) = (std::fs::read(&files.key)?, leaf(&files));
    std::fs::write(&files.key, key)?;
    assert!(matches!(tls.refresh(), Err(TlsError::Mismatch { .. })));
    assert_eq!(gauge(&registry, "bildkante_edge_tls_valid"), Some(0));
    assert_eq!(meet(&tls, &fresh(), "img.example").await?.leaf, old);
    assert_eq!(tls.refresh().expect("reported once"), Refreshed::Unchanged);
    assert_eq!(gauge(&registry, "bildkante_edge_tls_valid"), Some(0));

    std::fs::write(&files.key, new_key)?;
    assert_eq!(tls.refresh().expect("whole again"), Refreshed::Replaced);
    assert_eq!(gauge(&registry, "bildkante_edge_tls_valid"), Some(1));
    assert_eq!(meet(&tls, &fresh(), "img.example").await?.leaf, new);

    std::fs::remove_file(&files.certificate)?;
    assert!(matches!(tls.refresh(), Err(TlsError::Read { .. })));
    assert_eq!(meet(&tls, &fresh(), "img.example").await?.leaf, new);
    Ok(())
}

#[tokio::test]
async fn the_admin_listener_accepts_only_clients_of_its_authority() {
    let (authority, foreign) = (Authority::new(), Authority::new());
    let files = authority.sign("admin", &["admin.example"]);
    let config = AdminTlsConfig {
        certificate: files.certificate,
        key: files.key,
        client_ca: Some(authority.path("ca.pem")),
        reload_ms: 1000,
    };
    let tls = ReloadableTls::load_admin(&config, &metrics()).expect("loads");
    for versions in [&tls13()[..], &[&rustls::version::TLS12][..]] {
        let known = authority.sign("operator", &["operator.example"]);
        let client = Arc::new(authority.client_with(versions, Some(&known)));
        for _ in 0..2 {
            let met = meet(&tls, &client, "admin.example").await.expect("let in");
            assert_ne!(met.kind, HandshakeKind::Resumed, "every connection shows its certificate");
        }
        let nobody = Arc::new(authority.client(versions));
        assert!(meet(&tls, &nobody, "admin.example").await.is_err(), "no certificate");
        let stranger = foreign.sign("stranger", &["operator.example"]);
        let stranger = Arc::new(authority.client_with(versions, Some(&stranger)));
        assert!(meet(&tls, &stranger, "admin.example").await.is_err(), "another authority's");
    }
}

#[test]
fn files_that_cannot_serve_are_named() {
    let authority = Authority::new();
    let (one, two) = (authority.sign("one", &["one.example"]), authority.sign("two", &["two.example"]));
    let named = |certificate: &Path, key: &Path, others: Vec<CertificateFiles>| {
        let config = TlsConfig { others, ..TlsConfig::new(certificate.to_owned(), key.to_owned()) };
        ReloadableTls::load(&config, &metrics()).expect_err("refused").to_string()
    };
    assert!(named(&one.certificate, &two.key, vec![]).contains("do not work together"));
    assert!(named(&one.key, &one.key, vec![]).contains("holds no certificate"));
    std::fs::copy(&one.key, authority.path("open.key")).expect("copied");
    let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(authority.path("open.key"), everybody).expect("chmod");
    let refused = named(&one.certificate, &authority.path("open.key"), vec![]);
    assert!(refused.contains("open.key") && refused.contains("others than its owner"), "{refused}");
    assert!(named(&authority.path("missing.pem"), &one.key, vec![]).contains("missing.pem"));
    let nameless = authority.sign("nameless", &[]);
    assert!(named(&one.certificate, &one.key, vec![nameless]).contains("no DNS host"));
}

#[test]
fn the_expiry_is_told_by_name() {
    let authority = Authority::new();
    let files = authority.sign("edge", &["img.example"]);
    let registry = Registry::new();
    let metrics = TlsMetrics::new(&registry).expect("metrics");
    let _tls = ReloadableTls::load(&TlsConfig::new(files.certificate, files.key), &metrics).expect("loads");
    // rcgen's certificates end in the year 4096.
    let expires = gauge(&registry, "bildkante_edge_tls_certificate_expires_timestamp_seconds").expect("a gauge");
    assert!(expires > 60_000_000_000, "{expires}");
}

fn gauge(registry: &Registry, name: &str) -> Option<i64> {
    let families = registry.gather();
    let family = families.iter().find(|family| family.name() == name)?;
    #[allow(clippy::cast_possible_truncation)]
    family.get_metric().first().map(|metric| metric.get_gauge().get_value() as i64)
}
