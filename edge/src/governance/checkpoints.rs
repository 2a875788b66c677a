//! Signed heads of the log. A chain of hashes shows what was edited, removed or moved; that its tail was cut off shows only against
//! a head that was signed before, and is kept where who cut it cannot reach it.
//!
//! Each checkpoint is kept beside the log, and told in the audit's lines of the log, which most installations ship elsewhere.

use std::sync::Arc;
use std::time::Duration;

use bildkante_shared::ids::Digest;
use bildkante_shared::log_limited;
use bildkante_shared::shutdown::{Shutdown, Ticks};
use bildkante_shared::telemetry::AUDIT_TARGET;
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use crate::credentials::{Purpose, SignedDocument, SignerHandle};
use crate::shared_state::{Head, Log};

/// How often a head that moved is signed.
const PERIOD: Duration = Duration::from_secs(60);

/// What is signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    pub log: String,
    pub seq: u64,
    pub hash: Digest,
    /// When it was signed, by the signer's clock.
    pub at_unix_s: u64,
}

/// Signs the log's head from time to time, until shutdown. Without a signer there are no checkpoints.
#[must_use]
pub fn sign_heads(log: Arc<dyn Log>, signers: SignerHandle, shutdown: Shutdown) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut ticks = Ticks::every(PERIOD, shutdown);
        let mut signed = 0;
        while ticks.next().await.is_some() {
            let head = log.published().load().head();
            if head.seq > signed && sign(&log, &signers, &head).await {
                signed = head.seq;
            }
        }
    })
}

/// Whether it was signed and kept.
async fn sign(log: &Arc<dyn Log>, signers: &SignerHandle, head: &Head) -> bool {
    let Some(signer) = signers.current() else { return false };
    let at_unix_s = signers.now_unix_s();
    let checkpoint = Checkpoint { log: head.log.to_string(), seq: head.seq, hash: head.hash, at_unix_s };
    let payload = serde_json::to_vec(&checkpoint).unwrap_or_default();
    let work = move || SignedDocument::sign_for(Purpose::Checkpoint, &signer, &payload, at_unix_s);
    let document = match tokio::task::spawn_blocking(work).await {
        Ok(Ok(document)) => document,
        Ok(Err(error)) => {
            log_limited!(warn, %error, "the audit's head is not signed");
            return false;
        }
        Err(_) => return false,
    };
    let text = serde_json::to_string(&document).unwrap_or_default();
    tracing::info!(target: AUDIT_TARGET, seq = checkpoint.seq, hash = %checkpoint.hash, signed = %text, "checkpoint");
    match log.keep_checkpoint(checkpoint.seq, text).await {
        Ok(()) => true,
        Err(error) => {
            log_limited!(warn, %error, "a signed head of the audit is not on the device");
            false
        }
    }
}
