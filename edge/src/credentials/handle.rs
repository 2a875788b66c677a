//! The signer in force: opened again when its files change and on SIGHUP, renewed before its certificate ends.
//!
//! Files that are broken are reported once and counted, and the last signer that worked signs on until its certificate
//! ends or its authority revokes it. A start with broken files serves unsigned pictures, as campaigns ask for; `check` says what is wrong.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bildkante_shared::ids::Digest;
use bildkante_shared::shutdown::{Shutdown, Ticks};
use prometheus::{IntCounterVec, IntGauge, Opts, Registry};
use tokio::process::Command;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use super::config::SignerConfig;
use super::ocsp::StatusFault;
use super::signer::{Signer, SignerError};
use crate::words::ReloadOutcome;
use crate::words::clock::Clock;

/// How long a renewing program may take.
const RENEWAL_WAIT: Duration = Duration::from_secs(60);
/// Seconds before a renewal that changed nothing is tried again.
const RENEWAL_PAUSE_S: u64 = 600;
/// Largest file that is compared with what it was.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// How signers fare.
#[derive(Debug, Clone)]
pub struct SignerMetrics {
    is_valid: IntGauge,
    expires: IntGauge,
    reloads: IntCounterVec,
    renewals: IntCounterVec,
}

impl SignerMetrics {
    /// # Errors
    /// When a metric of the same name is registered already.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let counters = |name: &str, help: &str, outcomes: [&str; 2]| {
            let counters = IntCounterVec::new(Opts::new(name, help), &["outcome"])?;
            outcomes.iter().for_each(|outcome| counters.with_label_values(&[outcome]).inc_by(0));
            Ok::<_, prometheus::Error>(counters)
        };
        let metrics = Self {
            is_valid: IntGauge::new(
                "bildkante_edge_signer_valid",
                "1 while the files of the signer are those in force or no signer is configured, 0 while they are invalid",
            )?,
            expires: IntGauge::new(
                "bildkante_edge_signer_expires_timestamp_seconds",
                "When the certificate of the signer in force ends, in seconds since 1970; 0 without a signer",
            )?,
            reloads: counters(
                "bildkante_edge_signer_reloads_total",
                "Changes of the signer's files by outcome: reloaded, or refused as invalid",
                [ReloadOutcome::Reloaded.as_str(), ReloadOutcome::Refused.as_str()],
            )?,
            renewals: counters(
                "bildkante_edge_signer_renewals_total",
                "Runs of the program that renews the signer's certificate, by outcome",
                ["done", "failed"],
            )?,
        };
        metrics.is_valid.set(1);
        registry.register(Box::new(metrics.is_valid.clone()))?;
        registry.register(Box::new(metrics.expires.clone()))?;
        registry.register(Box::new(metrics.reloads.clone()))?;
        registry.register(Box::new(metrics.renewals.clone()))?;
        Ok(metrics)
    }
}

/// The signer in force. Clones share it.
#[derive(Debug, Clone)]
pub struct SignerHandle {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: Option<SignerConfig>,
    current: ArcSwapOption<Signer>,
    clock: Clock,
    metrics: SignerMetrics,
    /// One look at a time; what the last one saw.
    seen: Mutex<Seen>,
}

#[derive(Debug)]
struct Seen {
    files: Digest,
    /// When a renewal was tried last.
    renewed_unix_s: u64,
}

impl SignerHandle {
    /// Reads the files, where a signer is configured. Blocks on the disk.
    #[must_use]
    pub fn open(config: Option<SignerConfig>, clock: Clock, metrics: SignerMetrics) -> Self {
        let seen = Seen { files: config.as_ref().map_or(Digest::of_bytes(b""), files_digest), renewed_unix_s: 0 };
        let inner = Arc::new(Inner { config, current: ArcSwapOption::empty(), clock, metrics, seen: Mutex::new(seen) });
        inner.open();
        Self { inner }
    }

    /// Whether one is configured, although it may not work now.
    #[must_use]
    pub fn is_configured(&self) -> bool {
        self.inner.config.is_some()
    }

    /// Whether manifests are to hold what the authority says of the certificate's revocation.
    #[must_use]
    pub fn states_revocation(&self) -> bool {
        self.inner.config.as_ref().is_some_and(|config| config.ocsp.is_some())
    }

    /// Who signs now; `None` where nobody is configured, or the files have been broken since the start.
    #[must_use]
    pub fn current(&self) -> Option<Arc<Signer>> {
        self.inner.current.load_full()
    }

    #[must_use]
    pub fn now_unix_s(&self) -> u64 {
        self.inner.clock.unix_s()
    }

    /// Watches the files and the certificate's end until shutdown. A task of its own; it ends at once without a signer.
    #[must_use]
    pub fn watch(&self, reload_ms: u64, shutdown: Shutdown) -> JoinHandle<()> {
        let handle = self.clone();
        tokio::spawn(async move {
            if !handle.is_configured() {
                return;
            }
            let mut ticks = Ticks::every(Duration::from_millis(reload_ms), shutdown);
            while ticks.next().await.is_some() {
                handle.renew_in_time().await;
                handle.reload_now().await;
            }
        })
    }

    /// Looks at the files now.
    pub async fn reload_now(&self) -> ReloadOutcome {
        let Some(config) = self.inner.config.clone() else { return ReloadOutcome::Unchanged };
        let mut seen = self.inner.seen.lock().await;
        let inner = Arc::clone(&self.inner);
        let before = seen.files;
        let look = tokio::task::spawn_blocking(move || {
            let files = files_digest(&config);
            let outcome = if files == before { ReloadOutcome::Unchanged } else { inner.open() };
            (files, outcome)
        });
        let Ok((files, outcome)) = look.await else { return ReloadOutcome::Refused };
        seen.files = files;
        if outcome != ReloadOutcome::Unchanged {
            self.inner.metrics.reloads.with_label_values(&[outcome.as_str()]).inc();
        }
        outcome
    }

    async fn renew_in_time(&self) {
        let Some(config) = self.inner.config.as_ref().filter(|config| !config.renew.is_empty()) else { return };
        let now = self.now_unix_s();
        let ends = self.current().map_or(0, |signer| signer.expires_unix_s());
        if ends > now.saturating_add(config.renew_before_h * 3600) {
            return;
        }
        let mut seen = self.inner.seen.lock().await;
        if now < seen.renewed_unix_s.saturating_add(RENEWAL_PAUSE_S) {
            return;
        }
        seen.renewed_unix_s = now;
        let result = run(&config.renew).await;
        let outcome = if result.is_ok() { "done" } else { "failed" };
        self.inner.metrics.renewals.with_label_values(&[outcome]).inc();
        match result {
            Ok(()) => tracing::info!(program = %config.renew[0], "the signer's certificate was renewed"),
            Err(error) => {
                tracing::error!(program = %config.renew[0], error, "the signer's certificate was not renewed")
            }
        }
    }
}

impl Inner {
    /// Puts what the files say in force, if they are sound.
    fn open(&self) -> ReloadOutcome {
        let Some(config) = &self.config else { return ReloadOutcome::Unchanged };
        match open_signer(config, self.clock.unix_s()) {
            Ok(signer) => {
                self.metrics.is_valid.set(1);
                self.metrics.expires.set(i64::try_from(signer.expires_unix_s()).unwrap_or(i64::MAX));
                tracing::info!(subject = signer.subject(), "pictures are signed");
                self.current.store(Some(Arc::new(signer)));
                ReloadOutcome::Reloaded
            }
            Err(error) => {
                self.metrics.is_valid.set(0);
                // What is signed with a revoked certificate counts for nothing.
                if matches!(error, SignerError::Status { fault: StatusFault::Revoked { .. }, .. }) {
                    self.current.store(None);
                }
                let is_signing = self.current.load().is_some();
                tracing::error!(%error, is_signing, "the signer is refused; the last one that worked, if any, signs on");
                ReloadOutcome::Refused
            }
        }
    }
}

/// What `[provenance.signer]` names. Blocks on the disk.
///
/// # Errors
/// Says which file is wrong, and how.
pub fn open_signer(config: &SignerConfig, now_unix_s: u64) -> Result<Signer, SignerError> {
    let signer = match &config.key {
        Some(key) => Signer::from_files(&config.certificate, key, now_unix_s),
        None => {
            let deadline = Duration::from_millis(config.command_ms);
            Signer::from_command(&config.certificate, &config.command, deadline, now_unix_s)
        }
    }?;
    match &config.ocsp {
        Some(path) => signer.with_status(path),
        None => Ok(signer),
    }
}

/// Over what the files hold; one that cannot be read is a state, too.
fn files_digest(config: &SignerConfig) -> Digest {
    let mut hasher = blake3::Hasher::new();
    for path in [Some(&config.certificate), config.key.as_ref(), config.ocsp.as_ref()].into_iter().flatten() {
        let read = read_bounded(path);
        hasher.update(&[u8::from(read.is_ok())]);
        hasher.update(blake3::hash(&read.unwrap_or_else(|error| error.to_string().into_bytes())).as_bytes());
    }
    Digest::from_hash(&hasher.finalize())
}

fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

async fn run(command: &[String]) -> Result<(), String> {
    let (program, arguments) = command.split_first().ok_or("no program is named")?;
    let mut child = Command::new(program);
    child.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit()).kill_on_drop(true);
    let ended = tokio::time::timeout(RENEWAL_WAIT, async { child.spawn()?.wait().await }).await;
    match ended {
        Err(_) => Err(format!("it did not end within {} s", RENEWAL_WAIT.as_secs())),
        Ok(Err(error)) => Err(error.to_string()),
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(status.to_string()),
    }
}
