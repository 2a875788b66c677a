//! A thread's own processor time, which says the same on a busy machine.

use rustix::time::{ClockId, clock_gettime};

/// Milliseconds this thread has spent on a processor.
pub(crate) fn thread_cpu_ms() -> f64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec as f64 * 1e3 + now.tv_nsec as f64 / 1e6
}
