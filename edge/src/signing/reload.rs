//! The keys in force: read again when their file changes and on SIGHUP. A file that is broken is reported once and
//! counted; the last valid keys verify on. A file that others may read is as good as broken.
//!
//! New keys need no new epoch of answers: what a signature was asked for is never kept in the front map.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use arc_swap::ArcSwapOption;
use bildkante_shared::ids::Digest;
use bildkante_shared::shutdown::{Shutdown, Ticks};
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use super::{Grant, Seal, SignatureError, SigningConfig, SigningKeys};
use crate::request::Signable;
use crate::secret;
use crate::text_file;
use crate::words::ReloadOutcome;
use crate::words::clock::Clock;

const HOUR_S: u64 = 3600;

/// How signatures fare.
#[derive(Debug, Clone)]
pub struct SigningMetrics {
    reloads: IntCounterVec,
    is_valid: IntGauge,
    keys: IntGauge,
    checked: Checked,
}

/// One counter per outcome, looked up once.
#[derive(Debug, Clone)]
struct Checked {
    granted: IntCounter,
    refused: [IntCounter; SignatureError::ALL.len()],
}

impl SigningMetrics {
    /// # Errors
    /// When a metric of the same name is registered already.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let reloads = IntCounterVec::new(
            Opts::new(
                "bildkante_edge_signing_keys_reloads_total",
                "Changes of the file of signing keys by outcome: reloaded, or refused as invalid",
            ),
            &["outcome"],
        )?;
        for outcome in [ReloadOutcome::Reloaded, ReloadOutcome::Refused] {
            reloads.with_label_values(&[outcome.as_str()]).inc_by(0);
        }
        let checked = IntCounterVec::new(
            Opts::new("bildkante_edge_signatures_total", "Signed URLs by what their signature was found to be"),
            &["outcome"],
        )?;
        let metrics = Self {
            is_valid: IntGauge::new(
                "bildkante_edge_signing_keys_valid",
                "1 while the keys on disk are those in force, 0 while the file is invalid and the last valid keys verify on",
            )?,
            keys: IntGauge::new("bildkante_edge_signing_keys", "Signing keys in force")?,
            checked: Checked {
                granted: checked.with_label_values(&["granted"]),
                refused: SignatureError::ALL.map(|error| checked.with_label_values(&[error.as_str()])),
            },
            reloads,
        };
        metrics.is_valid.set(1);
        registry.register(Box::new(metrics.reloads.clone()))?;
        registry.register(Box::new(metrics.is_valid.clone()))?;
        registry.register(Box::new(metrics.keys.clone()))?;
        registry.register(Box::new(checked))?;
        Ok(metrics)
    }

    fn loaded(&self, keys: &SigningKeys) {
        self.is_valid.set(1);
        self.keys.set(i64::try_from(keys.len()).unwrap_or(i64::MAX));
    }

    fn count(&self, outcome: &Result<Grant, SignatureError>) {
        match outcome {
            Ok(_) => self.checked.granted.inc(),
            Err(error) => {
                let place = SignatureError::ALL.iter().position(|known| known == error);
                if let Some(counter) = place.and_then(|place| self.checked.refused.get(place)) {
                    counter.inc();
                }
            }
        }
    }
}

/// The keys in force. Clones share them.
#[derive(Debug, Clone)]
pub struct SigningHandle {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// `None` where no file is configured.
    current: ArcSwapOption<SigningKeys>,
    file: Option<PathBuf>,
    clock: Clock,
    metrics: SigningMetrics,
    /// One look at a time; what the last one saw.
    seen: Mutex<Digest>,
}

impl SigningHandle {
    /// Reads the file, where one is configured.
    ///
    /// # Errors
    /// When it cannot be read or is broken: there are no last valid keys to fall back on yet.
    pub fn open(config: &SigningConfig, clock: Clock, metrics: SigningMetrics) -> anyhow::Result<Self> {
        let (mut keys, mut seen) = (None, Digest::of_bytes(b""));
        if let Some(file) = &config.keys_file {
            let (read, digest) = read(file).with_context(|| format!("the signing keys in {}", file.display()))?;
            metrics.loaded(&read);
            keys = Some(Arc::new(read));
            seen = digest;
        }
        let current = ArcSwapOption::new(keys);
        let file = config.keys_file.clone();
        Ok(Self { inner: Arc::new(Inner { current, file, clock, metrics, seen: Mutex::new(seen) }) })
    }

    /// What a request is granted now. Costs nothing where it is not signed.
    ///
    /// # Errors
    /// When it is signed and the signature is of no use now.
    pub fn check<'r>(&self, request: &impl Signable<'r>) -> Result<Grant, SignatureError> {
        if request.signature().is_none() {
            return Ok(Grant::Public);
        }
        let keys = self.inner.current.load();
        let outcome = keys
            .as_ref()
            .ok_or(SignatureError::NotConfigured)
            .and_then(|keys| keys.verify(request, self.inner.clock.unix_s()));
        self.inner.metrics.count(&outcome);
        outcome
    }

    /// Signs with the active key of now. What it signs ends after `whole_hours` and less than another hour, so that a page
    /// that is built again has the same URLs for a while; `None` for URLs without an end.
    ///
    /// Returns `None` where no key signs.
    #[must_use]
    pub fn seal(&self, whole_hours: Option<u64>) -> Option<Seal> {
        let (keys, now_s) = (self.inner.current.load_full()?, self.inner.clock.unix_s());
        let expires_s = whole_hours.map(|hours| (now_s / HOUR_S + 1 + hours) * HOUR_S);
        Seal::new(keys, now_s, expires_s)
    }

    /// The same for what ends at a moment, in seconds since 1970; `None` for URLs without an end.
    #[must_use]
    pub fn seal_until(&self, expires_s: Option<u64>) -> Option<Seal> {
        Seal::new(self.inner.current.load_full()?, self.inner.clock.unix_s(), expires_s)
    }

    /// Watches the file until shutdown. A task of its own; it ends at once where there is no file.
    #[must_use]
    pub fn watch(&self, reload_ms: u64, shutdown: Shutdown) -> JoinHandle<()> {
        let handle = self.clone();
        tokio::spawn(async move {
            if handle.inner.file.is_none() {
                return;
            }
            let mut ticks = Ticks::every(Duration::from_millis(reload_ms), shutdown);
            while ticks.next().await.is_some() {
                handle.reload_now().await;
            }
        })
    }

    /// Looks at the file now.
    pub async fn reload_now(&self) -> ReloadOutcome {
        let Some(file) = self.inner.file.clone() else { return ReloadOutcome::Unchanged };
        let mut seen = self.inner.seen.lock().await;
        let look = tokio::task::spawn_blocking(move || read_text(&file)).await;
        let text = look.unwrap_or_else(|error| Err(error.to_string()));
        let digest = digest_of(&text);
        if digest == *seen {
            return ReloadOutcome::Unchanged;
        }
        *seen = digest;
        let outcome = self.inner.replace(text);
        self.inner.metrics.reloads.with_label_values(&[outcome.as_str()]).inc();
        outcome
    }
}

impl Inner {
    fn replace(&self, text: Result<String, String>) -> ReloadOutcome {
        match text.and_then(|text| SigningKeys::parse(&text).map_err(|error| error.to_string())) {
            Ok(keys) => {
                self.metrics.loaded(&keys);
                tracing::info!(keys = keys.len(), "signing keys reloaded");
                self.current.store(Some(Arc::new(keys)));
                ReloadOutcome::Reloaded
            }
            Err(error) => {
                self.metrics.is_valid.set(0);
                tracing::error!(error, "signing keys refused, the last valid ones verify on");
                ReloadOutcome::Refused
            }
        }
    }
}

/// Keys and the digest of the text they were read from.
fn read(file: &Path) -> anyhow::Result<(SigningKeys, Digest)> {
    let text = read_text(file);
    let digest = digest_of(&text);
    let keys = SigningKeys::parse(&text.map_err(anyhow::Error::msg)?)?;
    Ok((keys, digest))
}

/// An error is as much a state of the file as a text.
fn read_text(file: &Path) -> Result<String, String> {
    secret::open(file).and_then(text_file::read_opened).map_err(|error| error.to_string())
}

fn digest_of(text: &Result<String, String>) -> Digest {
    let (mark, text) = match text {
        Ok(text) => (&b"text"[..], text),
        Err(error) => (&b"error"[..], error),
    };
    Digest::of_bytes(&[mark, text.as_bytes()].concat())
}
