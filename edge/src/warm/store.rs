//! When jobs are written: a task for each job writes it, and callers wait for that task a bounded time.
//!
//! Invariants
//! - A job has one write at a time, and each write takes the job as it is by then. So no older state overwrites a newer
//!   one, also where the job was resumed in between.
//! - A write that the device refuses is tried again until it succeeds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bildkante_shared::log_limited;
use tokio::sync::watch;

use super::Inner;
use super::job::{Job, JobRecord};
use crate::state::StateError;

/// How long an answer waits for the device.
pub(crate) const STORE_WAIT: Duration = Duration::from_secs(5);
/// Between two tries to write what the device refused; it doubles from the first to the second.
pub(crate) const RETRY_PAUSE_MIN: Duration = Duration::from_millis(500);
pub(crate) const RETRY_PAUSE_MAX: Duration = Duration::from_secs(30);

/// Puts a record on the device. Blocks.
pub(super) type Writer = Box<dyn Fn(&JobRecord) -> Result<(), StateError> + Send + Sync>;

/// How far a job is on the device. A job that is resumed keeps it.
#[derive(Debug, Default)]
pub(super) struct Storing {
    /// Counts what is to be written.
    asked: AtomicU64,
    /// The last of it that is no mere progress: a start, a resumption, an end.
    changed: AtomicU64,
    reached: watch::Sender<Reached>,
    is_writing: AtomicBool,
}

#[derive(Debug, Clone, Copy, Default)]
struct Reached {
    tried: u64,
    stored: u64,
}

impl Storing {
    /// The job has begun, begun again or ended.
    pub(super) fn change(&self) {
        let step = self.asked.fetch_add(1, Ordering::AcqRel) + 1;
        self.changed.fetch_max(step, Ordering::AcqRel);
    }

    /// Whether a restart knows that the job has begun or ended.
    pub(super) fn is_stored(&self) -> bool {
        self.reached.borrow().stored >= self.changed.load(Ordering::Acquire)
    }

    /// Waits a while for the device to take or refuse the last change.
    pub(super) async fn settled(&self, wait: Duration) {
        let changed = self.changed.load(Ordering::Acquire);
        let mut reached = self.reached.subscribe();
        let _ = tokio::time::timeout(wait, reached.wait_for(|reached| reached.tried >= changed)).await;
    }
}

impl Inner {
    /// Has a change of a job written.
    pub(super) fn store_change(self: &Arc<Self>, job: &Job) {
        job.storing.change();
        self.write_soon(job);
    }

    /// Has a job's progress written.
    pub(super) fn store_progress(self: &Arc<Self>, job: &Job) {
        job.storing.asked.fetch_add(1, Ordering::AcqRel);
        self.write_soon(job);
    }

    pub(super) fn write_soon(self: &Arc<Self>, job: &Job) {
        if !job.storing.is_writing.swap(true, Ordering::AcqRel) {
            tokio::spawn(Arc::clone(self).write(job.id, Arc::clone(&job.storing)));
        }
    }

    /// Writes until the device has all that was asked for.
    async fn write(self: Arc<Self>, id: u64, storing: Arc<Storing>) {
        let mut shutdown = self.shutdown.clone();
        let (mut pause, mut is_last) = (None, false);
        loop {
            let step = storing.asked.load(Ordering::Acquire);
            let this = Arc::clone(&self);
            let written = tokio::task::spawn_blocking(move || this.write_now(id)).await;
            let stored = written.unwrap_or(Err(StateError::Panicked));
            storing.reached.send_modify(|reached| {
                reached.tried = step;
                if stored.is_ok() {
                    reached.stored = step;
                }
            });
            match stored {
                Ok(()) => {
                    pause = None;
                    storing.is_writing.store(false, Ordering::Release);
                    // What was asked for since then has found this task at work.
                    let is_all = storing.asked.load(Ordering::Acquire) == step;
                    if is_all || storing.is_writing.swap(true, Ordering::AcqRel) {
                        return;
                    }
                }
                Err(error) => {
                    log_limited!(
                        warn,
                        job = id,
                        %error,
                        "a change of a warming is not on the device yet: a restart would find an older state of it"
                    );
                    if is_last {
                        storing.is_writing.store(false, Ordering::Release);
                        return;
                    }
                    let next = pause.map_or(RETRY_PAUSE_MIN, |pause: Duration| (pause * 2).min(RETRY_PAUSE_MAX));
                    pause = Some(next);
                    is_last = tokio::select! {
                        () = tokio::time::sleep(next) => false,
                        () = shutdown.requested() => true,
                    };
                }
            }
        }
    }

    /// A job as it is now. One that is forgotten is taken off the device.
    fn write_now(&self, id: u64) -> Result<(), StateError> {
        // A statement of its own: the lock is not held over the commit.
        let job = self.jobs.lock().get(&id).cloned();
        match job {
            Some(job) => (self.writer)(&job.to_go_on_from()),
            None => self.stored.forget(&[id]),
        }
    }
}
