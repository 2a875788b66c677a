//! Logging, and the histogram buckets both sides share.

use std::io::IsTerminal;
use std::sync::OnceLock;

use serde::Deserialize;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, Registry, reload};

/// How log lines are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// Buckets for times from a memory hit to a cold generation, in seconds: 100 µs to 10 s.
pub const LATENCY_BUCKETS_S: [f64; 16] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Target of the lines that say who changed what: they are written whatever the filter is.
pub const AUDIT_TARGET: &str = "audit";

/// Why a filter is not taken.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    #[error("`{filter}` is no filter such as `info` or `warn,bildkante_edge::origin=debug`: {reason}")]
    Malformed { filter: String, reason: String },
    #[error("lines are not filtered here: {reason}")]
    NotInstalled { reason: String },
}

/// What became of a new filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FilterChange {
    InForce,
    /// The environment's `RUST_LOG` says what is logged, and goes on saying it.
    Overruled,
}

/// Of the subscriber that [`init`] has installed.
static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Installs the global subscriber; `RUST_LOG` wins over `default_filter`. Lines go to stderr, so that a
/// command's stdout stays its result.
pub fn init(format: LogFormat, default_filter: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default_filter));
    let filter = with_audit(filter);
    let (filter, handle) = reload::Layer::new(filter);
    // A supervisor that died took the other end of stderr with it: telling stderr so would panic.
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .log_internal_errors(false);
    let lines = match format {
        LogFormat::Text => lines.with_target(false).boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    // A second call (two servers in one test process) keeps the first subscriber.
    if tracing_subscriber::registry().with(filter).with(lines).try_init().is_ok() {
        let _ = FILTER.set(handle);
    }
}

/// Whether `filter` is one.
///
/// # Errors
/// Names what is wrong with it.
pub fn check_filter(filter: &str) -> Result<(), FilterError> {
    parse(filter).map(drop)
}

/// Logs by another filter from now on.
///
/// # Errors
/// When it is none, or no subscriber of ours is installed; the old filter stays.
pub fn set_filter(filter: &str) -> Result<FilterChange, FilterError> {
    let parsed = parse(filter)?;
    if EnvFilter::try_from_default_env().is_ok() {
        return Ok(FilterChange::Overruled);
    }
    let not_installed = |reason: String| FilterError::NotInstalled { reason };
    let handle = FILTER.get().ok_or_else(|| not_installed("nothing is logged".to_owned()))?;
    handle.reload(with_audit(parsed)).map_err(|error| not_installed(error.to_string()))?;
    Ok(FilterChange::InForce)
}

fn with_audit(filter: EnvFilter) -> EnvFilter {
    // A directive for the same target, stricter or not, is replaced by this one.
    match format!("{AUDIT_TARGET}=info").parse() {
        Ok(directive) => filter.add_directive(directive),
        Err(_) => filter,
    }
}

fn parse(filter: &str) -> Result<EnvFilter, FilterError> {
    let malformed = |error: tracing_subscriber::filter::ParseError| FilterError::Malformed {
        filter: filter.chars().take(200).collect(),
        reason: error.to_string(),
    };
    EnvFilter::builder().parse(filter).map_err(malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn audit_lines_pass_every_filter() {
        #[derive(Clone, Default)]
        struct Lines(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);
        impl std::io::Write for Lines {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.lock().unwrap().extend_from_slice(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        for filter in ["info", "warn", "off", "audit=off", "error,audit=error", "bildkante_edge=debug"] {
            let lines = Lines::default();
            let writer = lines.clone();
            let written = tracing_subscriber::fmt::layer().with_writer(move || writer.clone());
            let subscriber = tracing_subscriber::registry().with(with_audit(parse(filter).unwrap())).with(written);
            tracing::subscriber::with_default(subscriber, || {
                tracing::info!(target: AUDIT_TARGET, who = "deploy", "change");
            });
            let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
            assert!(text.contains("deploy"), "{filter}: {text}");
        }
    }

    #[test]
    fn a_filter_that_is_none_is_refused_by_name() {
        for good in ["info", "warn,bildkante_edge::origin=debug", "bildkante_edge[generate]=debug", ""] {
            check_filter(good).unwrap();
        }
        let error = check_filter("info,bildkante_edge=lout").unwrap_err().to_string();
        assert!(error.contains("lout"), "{error}");
    }
}
