//! When batches are written: a task writes a batch until the device has it, and callers wait for it a bounded time.
//!
//! Invariants: a batch has one write at a time, and each takes the batch as it is by then; what the device refuses is
//! tried again; a batch that is forgotten is written no more, for it would come back.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bildkante_shared::log_limited;

use super::Inner;
use super::live::Batch;
use crate::state::StateError;
use crate::warm::{RETRY_PAUSE_MAX, RETRY_PAUSE_MIN, STORE_WAIT};

/// What became of a write that the device did not refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Write {
    /// It is on the device.
    Done,
    /// The batch is forgotten, and nothing was written.
    Forgotten,
}

impl Inner {
    /// Has a batch written as it is now.
    pub(super) fn store(self: &Arc<Self>, batch: &Arc<Batch>) {
        if !batch.is_writing.swap(true, Ordering::AcqRel) {
            tokio::spawn(Arc::clone(self).write(Arc::clone(batch)));
        }
    }

    /// Waits a while for the device to take or refuse the last change.
    pub(super) async fn settled(&self, batch: &Batch) {
        let change = batch.change();
        let mut tried = batch.tried.subscribe();
        let _ = tokio::time::timeout(STORE_WAIT, tried.wait_for(|tried| *tried >= change)).await;
    }

    /// On the device when this returns.
    pub(super) async fn write_once(&self, batch: &Arc<Batch>) -> Result<Write, StateError> {
        let _one = batch.writing.lock().await;
        // Behind the lock: the one who forgets a batch takes it off the device under it.
        if !self.batches.lock().contains_key(&batch.id) {
            return Ok(Write::Forgotten);
        }
        let taken = Arc::clone(batch);
        let taken = tokio::task::spawn_blocking(move || taken.changed()).await;
        let (changed, change) = taken.map_err(|_| StateError::Panicked)?;
        let numbers: Vec<u32> = changed.chunks.iter().map(|(number, _)| *number).collect();
        let stored = Arc::clone(&self.stored);
        let written = tokio::task::spawn_blocking(move || stored.put(&changed)).await;
        let written = written.unwrap_or(Err(StateError::Panicked)).map(|()| Write::Done);
        match &written {
            Ok(_) => {
                batch.written.fetch_max(change, Ordering::AcqRel);
                batch.rest();
            }
            Err(_) => batch.unwritten(numbers),
        }
        batch.tried.send_modify(|tried| *tried = change.max(*tried));
        written
    }

    async fn write(self: Arc<Self>, batch: Arc<Batch>) {
        let mut shutdown = self.shutdown.clone();
        let (mut pause, mut is_last) = (RETRY_PAUSE_MIN, false);
        loop {
            match self.write_once(&batch).await {
                Ok(Write::Forgotten) => return,
                Ok(Write::Done) => {
                    batch.is_writing.store(false, Ordering::Release);
                    // What was changed since then has found this task at work.
                    let is_all = batch.written.load(Ordering::Acquire) >= batch.change();
                    if is_all || batch.is_writing.swap(true, Ordering::AcqRel) {
                        return;
                    }
                }
                Err(error) => {
                    log_limited!(
                        warn,
                        batch = batch.id,
                        %error,
                        "a change of a batch is not on the device yet: a restart would find an older state of it"
                    );
                    if is_last {
                        batch.is_writing.store(false, Ordering::Release);
                        return;
                    }
                    is_last = tokio::select! {
                        () = tokio::time::sleep(pause) => false,
                        () = shutdown.requested() => true,
                    };
                    pause = (pause * 2).min(RETRY_PAUSE_MAX);
                }
            }
        }
    }
}
