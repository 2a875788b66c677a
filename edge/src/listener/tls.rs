//! TLS by rustls: certificates chosen by SNI, ALPN for HTTP/2 and HTTP/1.1, resumption by tickets whose keys are shared,
//! client certificates where they are asked for, everything reloaded in place.
//!
//! Invariants: open connections keep the configuration they were accepted with; a reload replaces everything or nothing,
//! so a half-written folder never serves; a listener that asks for client certificates resumes no session, for a ticket
//! made where none was asked for would pass for one.
//!
//! Sources: RFC 8446 (TLS 1.3), RFC 5077 (tickets), RFC 6066 §3 (SNI), RFC 6125 (wildcards), RFC 7301 (ALPN).

mod certificates;
mod metrics;
pub mod tickets;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use bildkante_shared::shutdown::{Shutdown, Ticks};
use parking_lot::Mutex;
use rustls::ServerConfig;
use rustls::server::{NoServerSessionStorage, ServerSessionMemoryCache, StoresServerSessions};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

pub use self::certificates::Expiry;
use self::certificates::{Certificates, Material};
pub use self::metrics::{TlsListener, TlsMetrics};
use self::tickets::{TicketConfig, TicketError, TicketKeys};

/// TLS 1.2 clients without ticket support are kept here; all others carry a ticket.
const SESSIONS_MAX: usize = 1024;

/// `[listen.tls]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// PEM chain, leaf first, of the default certificate: for clients that name no host, or one without a certificate.
    pub certificate: PathBuf,
    /// Its PEM private key (PKCS#8, SEC1 or PKCS#1).
    pub key: PathBuf,
    /// Further certificates, each for the names it holds.
    #[serde(default)]
    pub others: Vec<CertificateFiles>,
    /// How often the files are looked at.
    #[serde(default = "default_reload_ms")]
    pub reload_ms: u64,
    #[serde(default)]
    pub tickets: TicketConfig,
}

const fn default_reload_ms() -> u64 {
    1_000
}

impl TlsConfig {
    /// One certificate and the defaults.
    #[must_use]
    pub fn new(certificate: PathBuf, key: PathBuf) -> Self {
        Self { certificate, key, others: Vec::new(), reload_ms: default_reload_ms(), tickets: TicketConfig::default() }
    }
}

/// `[listen.admin_tls]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdminTlsConfig {
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// PEM certificates of the authorities whose clients are let in; without it any client is.
    #[serde(default)]
    pub client_ca: Option<PathBuf>,
    #[serde(default = "default_reload_ms")]
    pub reload_ms: u64,
}

/// A chain and its key.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateFiles {
    /// PEM chain, leaf first.
    pub certificate: PathBuf,
    /// PEM private key.
    pub key: PathBuf,
}

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path}: {source}")]
    Pem { path: PathBuf, source: rustls_pki_types::pem::Error },
    #[error("{path} holds no certificate")]
    NoCertificate { path: PathBuf },
    #[error("{path}: not an X.509 certificate: {reason}")]
    Malformed { path: PathBuf, reason: String },
    #[error("{path} names no DNS host in its subject alternative names, so no client could ask for it")]
    NoNames { path: PathBuf },
    #[error("certificate {certificate} and key {key} do not work together: {source}")]
    Mismatch { certificate: PathBuf, key: PathBuf, source: rustls::Error },
    #[error("{path}: no authority for client certificates: {reason}")]
    ClientAuthority { path: PathBuf, reason: String },
    #[error("TLS cannot be set up: {0}")]
    Rustls(#[from] rustls::Error),
    #[error(transparent)]
    Tickets(#[from] TicketError),
}

impl TlsConfig {
    fn pairs(&self) -> Vec<CertificateFiles> {
        let first = CertificateFiles { certificate: self.certificate.clone(), key: self.key.clone() };
        std::iter::once(first).chain(self.others.iter().cloned()).collect()
    }

    /// Everything a listener would read, and nothing changed: when each certificate ends. Reads files.
    ///
    /// # Errors
    /// As [`ReloadableTls::load`], except for ticket keys, which an edge would make where there are none.
    pub fn inspect(&self) -> Result<Vec<Expiry>, TlsError> {
        inspect(&self.pairs(), None)
    }
}

impl AdminTlsConfig {
    fn pairs(&self) -> Vec<CertificateFiles> {
        vec![CertificateFiles { certificate: self.certificate.clone(), key: self.key.clone() }]
    }

    /// As [`TlsConfig::inspect`].
    ///
    /// # Errors
    /// As [`ReloadableTls::load_admin`].
    pub fn inspect(&self) -> Result<Vec<Expiry>, TlsError> {
        inspect(&self.pairs(), self.client_ca.as_deref())
    }
}

fn inspect(files: &[CertificateFiles], client_ca: Option<&Path>) -> Result<Vec<Expiry>, TlsError> {
    let material = Material::read(files, client_ca)?;
    server_config(&material, None, Arc::new(NoServerSessionStorage {}))?;
    material.expiries()
}

/// What a look at the files found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refreshed {
    Unchanged,
    Replaced,
}

/// What the certificate files held when they were last looked at.
#[derive(Debug)]
struct Seen {
    digest: blake3::Hash,
    is_usable: bool,
}

/// A TLS configuration that can be replaced while connections are open.
#[derive(Debug)]
pub struct ReloadableTls {
    listener: TlsListener,
    certificates: Vec<CertificateFiles>,
    client_ca: Option<PathBuf>,
    interval: Duration,
    /// None where sessions are not resumed.
    tickets: Option<Arc<TicketKeys>>,
    sessions: Arc<dyn StoresServerSessions>,
    current: ArcSwap<ServerConfig>,
    seen: Mutex<Seen>,
    metrics: TlsMetrics,
}

impl ReloadableTls {
    /// The public listener: resumption by tickets, no client certificates. Reads files.
    ///
    /// # Errors
    /// When a file is unreadable, is no PEM, or certificate and key do not match.
    pub fn load(config: &TlsConfig, metrics: &TlsMetrics) -> Result<Self, TlsError> {
        let tickets = Arc::new(TicketKeys::open(&config.tickets, SystemTime::now())?);
        metrics.ticket_keys(tickets.len());
        Self::open(TlsListener::Public, config.pairs(), None, config.reload_ms, Some(tickets), metrics)
    }

    /// The admin listener: client certificates where an authority is named. Reads files.
    ///
    /// # Errors
    /// As [`Self::load`], and when the authority's file holds none.
    pub fn load_admin(config: &AdminTlsConfig, metrics: &TlsMetrics) -> Result<Self, TlsError> {
        Self::open(TlsListener::Admin, config.pairs(), config.client_ca.clone(), config.reload_ms, None, metrics)
    }

    fn open(
        listener: TlsListener,
        certificates: Vec<CertificateFiles>,
        client_ca: Option<PathBuf>,
        reload_ms: u64,
        tickets: Option<Arc<TicketKeys>>,
        metrics: &TlsMetrics,
    ) -> Result<Self, TlsError> {
        let sessions: Arc<dyn StoresServerSessions> = match tickets {
            Some(_) => ServerSessionMemoryCache::new(SESSIONS_MAX),
            None => Arc::new(NoServerSessionStorage {}),
        };
        let material = Material::read(&certificates, client_ca.as_deref())?;
        let config = server_config(&material, tickets.clone(), Arc::clone(&sessions))?;
        metrics.loaded(listener, &material.expiries()?);
        metrics.valid(listener, true);
        Ok(Self {
            listener,
            certificates,
            client_ca,
            interval: Duration::from_millis(reload_ms.max(10)),
            tickets,
            sessions,
            current: ArcSwap::from_pointee(config),
            seen: Mutex::new(Seen { digest: material.digest(), is_usable: true }),
            metrics: metrics.clone(),
        })
    }

    /// Reads the files again and replaces what is in use; on an error the old state serves on. Blocks on files.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn reload(&self) -> Result<Refreshed, TlsError> {
        self.look(Look::Always)
    }

    /// As [`Self::reload`], but passes over certificate files that hold what they held at the last look.
    ///
    /// # Errors
    /// As [`Self::load`]; a broken file is reported once.
    pub fn refresh(&self) -> Result<Refreshed, TlsError> {
        self.look(Look::WhenChanged)
    }

    /// Certificates and ticket keys do not wait for each other: either may be broken while the other is renewed.
    fn look(&self, look: Look) -> Result<Refreshed, TlsError> {
        let tickets = self.refresh_tickets();
        // Held throughout: a look on SIGHUP and one on time must not replace newer with older.
        let mut seen = self.seen.lock();
        let certificates = self.reload_certificates(&mut seen, look);
        match &certificates {
            Ok(Refreshed::Unchanged) => {}
            Ok(Refreshed::Replaced) => {
                tracing::info!(listener = self.listener.as_str(), "certificates loaded");
                self.metrics.replaced(self.listener);
            }
            Err(_) => self.metrics.failed(self.listener),
        }
        if tickets.is_err() {
            self.metrics.failed(self.listener);
        }
        self.metrics.valid(self.listener, certificates.is_ok() && seen.is_usable && tickets.is_ok());
        certificates.and_then(|found| tickets.map(|()| found))
    }

    fn refresh_tickets(&self) -> Result<(), TlsError> {
        if let Some(tickets) = &self.tickets {
            tickets.refresh(SystemTime::now())?;
            self.metrics.ticket_keys(tickets.len());
        }
        Ok(())
    }

    fn reload_certificates(&self, seen: &mut Seen, look: Look) -> Result<Refreshed, TlsError> {
        let material = Material::read(&self.certificates, self.client_ca.as_deref())?;
        let digest = material.digest();
        if seen.digest == digest && look == Look::WhenChanged {
            return Ok(Refreshed::Unchanged);
        }
        *seen = Seen { digest, is_usable: false };
        let config = server_config(&material, self.tickets.clone(), Arc::clone(&self.sessions))?;
        let expiries = material.expiries()?;
        self.current.store(Arc::new(config));
        self.metrics.loaded(self.listener, &expiries);
        seen.is_usable = true;
        Ok(Refreshed::Replaced)
    }

    /// Looks at the files every `reload_ms` until shutdown.
    pub fn watch(self: &Arc<Self>, shutdown: Shutdown) -> JoinHandle<()> {
        let tls = Arc::clone(self);
        tokio::spawn(async move {
            let mut last_error = String::new();
            let mut ticks = Ticks::every(tls.interval, shutdown);
            while ticks.next().await.is_some() {
                let looked = Arc::clone(&tls);
                let Ok(outcome) = tokio::task::spawn_blocking(move || looked.refresh()).await else { continue };
                // A file that stays unreadable is logged once, not every second.
                let error = outcome.err().map(|error| error.to_string()).unwrap_or_default();
                if !error.is_empty() && error != last_error {
                    tracing::error!(
                        listener = tls.listener.as_str(),
                        error,
                        "TLS not reloaded, the last valid state serves"
                    );
                }
                last_error = error;
            }
        })
    }

    #[must_use]
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.current.load_full())
    }

    /// A handshake, counted by kind. It has no deadline of its own.
    ///
    /// # Errors
    /// When the client breaks off, speaks something else, or lacks a certificate.
    pub async fn accept<T: AsyncRead + AsyncWrite + Unpin>(&self, stream: T) -> io::Result<TlsStream<T>> {
        let accepted = self.acceptor().accept(stream).await;
        let kind = accepted.as_ref().ok().and_then(|stream| stream.get_ref().1.handshake_kind());
        self.metrics.shook_hands(self.listener, kind);
        accepted
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    Always,
    WhenChanged,
}

fn server_config(
    material: &Material,
    tickets: Option<Arc<TicketKeys>>,
    sessions: Arc<dyn StoresServerSessions>,
) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let certificates = Certificates::new(material, &provider)?;
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let builder = match material.client_verifier(&provider)? {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut server = builder.with_cert_resolver(Arc::new(certificates));
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    server.session_storage = sessions;
    match tickets {
        Some(tickets) => server.ticketer = tickets,
        None => server.send_tls13_tickets = 0,
    }
    Ok(server)
}

#[cfg(test)]
mod tests;
