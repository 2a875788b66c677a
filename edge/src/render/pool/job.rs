//! One job of the pool: the work, who waits for its result, and since when.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::PoolError;
use crate::render::{RenderMetrics, panic_text};

/// A job without its types.
pub(super) trait Job: Send {
    fn is_wanted(&self) -> bool;
    fn waited(&self) -> Duration;
    fn run(self: Box<Self>, metrics: &RenderMetrics);
    fn refuse(self: Box<Self>, error: PoolError);
}

/// A job with them.
pub(super) struct Task<F, T> {
    pub(super) job: F,
    pub(super) reply: oneshot::Sender<Result<T, PoolError>>,
    pub(super) submitted: Instant,
}

impl<T: Send, F: FnOnce() -> T + Send> Job for Task<F, T> {
    fn is_wanted(&self) -> bool {
        !self.reply.is_closed()
    }

    fn waited(&self) -> Duration {
        self.submitted.elapsed()
    }

    fn run(self: Box<Self>, metrics: &RenderMetrics) {
        let Self { job, reply, submitted } = *self;
        metrics.wait_seconds.observe(submitted.elapsed().as_secs_f64());
        // Sound: the job owns all it touches, and a panicking one is never looked at again.
        let result = catch_unwind(AssertUnwindSafe(job)).map_err(|panic| {
            metrics.panicked_jobs.inc();
            PoolError::Panicked { reason: panic_text(&*panic) }
        });
        // A caller that has gone in the meantime gets nothing, which is what it asked for.
        let _ = reply.send(result);
    }

    fn refuse(self: Box<Self>, error: PoolError) {
        let _ = self.reply.send(Err(error));
    }
}

/// CPU time that this thread has used since it began: what others take of the core meanwhile does not count.
pub(super) fn thread_cpu() -> Duration {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(used.tv_sec.try_into().unwrap_or(0), used.tv_nsec.try_into().unwrap_or(0))
}
