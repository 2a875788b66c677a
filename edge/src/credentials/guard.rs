//! The library behind a wall: what it is given is bounded, what it panics about becomes an error, and nothing that it does
//! reaches the network or a disk (it is built without those features, and its settings forbid the rest).
//!
//! `catch_unwind` stands here because the library parses bytes of strangers: the release profile unwinds, and a value that
//! was half made is dropped, never used. A stack overflow cannot be caught; the library bounds its own recursion (32 boxes,
//! 128 levels of CBOR, 200 ingredients), and the tests send it nested input.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock};

use c2pa::{Context, Settings};

/// Largest manifest store that is taken in, in bytes, and that a compressed one may grow to.
pub const MANIFEST_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Why the library gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum LibraryFault {
    #[error("{bytes} bytes are more than the {bytes_max} that are taken")]
    TooLarge { bytes: usize, bytes_max: usize },
    #[error("the C2PA library gave up on it: {reason}")]
    Panicked { reason: String },
    #[error(transparent)]
    Library(Box<c2pa::Error>),
}

impl LibraryFault {
    /// For logs and metric labels.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "too_large",
            Self::Panicked { .. } => "panicked",
            Self::Library(_) => "library",
        }
    }
}

/// Calls the library.
pub(super) fn guarded<T>(call: impl FnOnce() -> Result<T, c2pa::Error>) -> Result<T, LibraryFault> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(outcome) => outcome.map_err(|error| LibraryFault::Library(Box::new(error))),
        Err(panic) => Err(LibraryFault::Panicked { reason: reason(panic.as_ref()) }),
    }
}

fn reason(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    text.unwrap_or("no reason given").to_owned()
}

/// Settings for signing and for reading where no authority is trusted.
pub(super) fn context() -> &'static Arc<Context> {
    static CONTEXT: LazyLock<Arc<Context>> = LazyLock::new(|| shared(Settings::default()));
    &CONTEXT
}

/// A context that reaches nothing outside.
pub(super) fn shared(mut settings: Settings) -> Arc<Context> {
    settings.verify.verify_after_sign = false;
    settings.verify.ocsp_fetch = false;
    settings.verify.remote_manifest_fetch = false;
    settings.core.allowed_network_hosts = Some(Vec::new());
    settings.core.max_decompressed_manifest_size_in_mb = MANIFEST_BYTES_MAX / (1024 * 1024);
    settings.builder.thumbnail.enabled = false;
    let mut context = Context::new();
    *context.settings_mut() = settings;
    context.into_shared()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_error() {
        let fault = guarded::<()>(|| panic!("of {}", "theirs")).expect_err("caught");
        assert_eq!(fault.to_string(), "the C2PA library gave up on it: of theirs");
        assert!(matches!(guarded(|| Ok(7)), Ok(7)));
    }
}
