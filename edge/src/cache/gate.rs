//! The way of file work and of requests to a store off the async workers, and out of the way when a device fails.
//!
//! Invariants: at most `concurrency` jobs run and at most [`QUEUE_PER_WORKER`] times as many wait; no caller waits
//! longer than `timeout`; after `errors_max` failures in a row the device is left alone for `offline`. That this process
//! has no descriptors left is no failure of the device: such a job counts as one for which there was no room. A job that
//! hangs in the kernel keeps its permit, so a dead disk costs a bounded number of threads and never a request.
//! Serving from memory passes none of this.

use bildkante_shared::{descriptors, log_limited};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use prometheus::{IntCounter, IntGauge};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout_at;

use super::metrics::LookupOutcome;

/// Jobs that may wait for each one that runs.
const QUEUE_PER_WORKER: usize = 32;

/// Bounds of one gate.
#[derive(Debug, Clone, Copy)]
pub(super) struct GateLimits {
    pub(super) concurrency: usize,
    pub(super) timeout: Duration,
    pub(super) errors_max: u32,
    pub(super) offline: Duration,
}

/// Why a job gave no result.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    #[error("the device is left alone after repeated errors")]
    Offline,
    #[error("too much I/O is waiting")]
    Busy,
    #[error("no answer from the device in {0:?}")]
    TimedOut(Duration),
    #[error("the job panicked")]
    Panicked,
    #[error(transparent)]
    Io(io::Error),
}

impl From<io::Error> for GateError {
    fn from(error: io::Error) -> Self {
        if descriptors::is_shortage(&error) { Self::Busy } else { Self::Io(error) }
    }
}

impl From<GateError> for LookupOutcome {
    fn from(error: GateError) -> Self {
        match error {
            GateError::Offline => Self::Offline,
            GateError::Busy => Self::Busy,
            GateError::TimedOut(_) | GateError::Panicked | GateError::Io(_) => Self::Failed,
        }
    }
}

/// What becomes of work whose caller is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnTimeout {
    /// Dropping it ends it.
    Stop,
    /// It may hang in the kernel, so it keeps its place until it is truly over.
    LetRun,
}

/// One direction (reading or writing) of one store.
#[derive(Debug)]
pub(super) struct Gate {
    running: Arc<Semaphore>,
    admitted: Arc<Semaphore>,
    timeout: Duration,
    health: Arc<Health>,
}

impl Gate {
    pub(super) fn new(name: &'static str, limits: GateLimits, errors: IntCounter, online: IntGauge) -> Self {
        Self {
            running: Arc::new(Semaphore::new(limits.concurrency)),
            admitted: Arc::new(Semaphore::new(limits.concurrency * (1 + QUEUE_PER_WORKER))),
            timeout: limits.timeout,
            health: Arc::new(Health::new(name, limits, errors, online)),
        }
    }

    pub(super) fn is_offline(&self) -> bool {
        self.health.is_offline()
    }

    /// Ends a cool-down, which else time does.
    #[cfg(test)]
    pub(super) fn cool_down(&self) {
        self.health.cool_down();
    }

    /// Runs `job` on a blocking thread. A caller that leaves does not stop a job that has started.
    pub(super) async fn run<T, F>(&self, job: F) -> Result<T, GateError>
    where
        T: Send + 'static,
        F: FnOnce() -> io::Result<T> + Send + 'static,
    {
        if self.health.is_offline() {
            return Err(GateError::Offline);
        }
        let admitted = Arc::clone(&self.admitted).try_acquire_owned().map_err(|_| GateError::Busy)?;
        let deadline = tokio::time::Instant::now() + self.timeout;
        let Ok(running) = timeout_at(deadline, Arc::clone(&self.running).acquire_owned()).await else {
            return Err(self.timed_out());
        };
        let running = running.map_err(|_| GateError::Offline)?;
        let work = tokio::task::spawn_blocking(guarded(job, (admitted, running), Arc::clone(&self.health)));
        match timeout_at(deadline, work).await {
            Err(_) => Err(self.timed_out()),
            Ok(Err(_)) => Err(self.panicked()),
            Ok(Ok(result)) => result.map_err(GateError::from),
        }
    }

    /// The same for work that waits instead of blocking, as a task of its own.
    pub(super) async fn drive<T, Fut>(&self, work: Fut, on_timeout: OnTimeout) -> Result<T, GateError>
    where
        T: Send + 'static,
        Fut: Future<Output = io::Result<T>> + Send + 'static,
    {
        if self.health.is_offline() {
            return Err(GateError::Offline);
        }
        let admitted = Arc::clone(&self.admitted).try_acquire_owned().map_err(|_| GateError::Busy)?;
        let deadline = tokio::time::Instant::now() + self.timeout;
        let Ok(running) = timeout_at(deadline, Arc::clone(&self.running).acquire_owned()).await else {
            return Err(self.timed_out());
        };
        let running = running.map_err(|_| GateError::Offline)?;
        let health = Arc::clone(&self.health);
        let mut task = tokio::spawn(async move {
            let _permits = (admitted, running);
            let result = work.await;
            health.heard(&result);
            result
        });
        match timeout_at(deadline, &mut task).await {
            Err(_) => {
                if on_timeout == OnTimeout::Stop {
                    task.abort();
                }
                Err(self.timed_out())
            }
            Ok(Err(_)) => Err(self.panicked()),
            Ok(Ok(result)) => result.map_err(GateError::from),
        }
    }

    fn timed_out(&self) -> GateError {
        self.health.failed(&format_args!("no answer in {:?}", self.timeout));
        GateError::TimedOut(self.timeout)
    }

    fn panicked(&self) -> GateError {
        self.health.failed(&"a job panicked");
        GateError::Panicked
    }
}

/// Holds the permits for as long as the job truly runs, and reports how it went even if its caller is gone.
fn guarded<T>(
    job: impl FnOnce() -> io::Result<T>,
    permits: (OwnedSemaphorePermit, OwnedSemaphorePermit),
    health: Arc<Health>,
) -> impl FnOnce() -> io::Result<T> {
    move || {
        let _permits = permits;
        let result = job();
        health.heard(&result);
        result
    }
}

/// A circuit breaker over consecutive errors.
#[derive(Debug)]
struct Health {
    name: &'static str,
    errors_max: u32,
    offline: Duration,
    state: Mutex<HealthState>,
    errors: IntCounter,
    online: IntGauge,
}

#[derive(Debug, Default)]
struct HealthState {
    consecutive: u32,
    offline_until: Option<Instant>,
}

impl Health {
    fn new(name: &'static str, limits: GateLimits, errors: IntCounter, online: IntGauge) -> Self {
        online.set(1);
        Self {
            name,
            errors_max: limits.errors_max.max(1),
            offline: limits.offline,
            state: Mutex::default(),
            errors,
            online,
        }
    }

    fn is_offline(&self) -> bool {
        self.state.lock().offline_until.is_some_and(|until| Instant::now() < until)
    }

    #[cfg(test)]
    fn cool_down(&self) {
        let mut state = self.state.lock();
        state.offline_until = state.offline_until.map(|_| Instant::now());
    }

    fn heard<T>(&self, result: &io::Result<T>) {
        match result {
            Ok(_) => self.succeeded(),
            // It says nothing of the device, neither good nor bad.
            Err(error) if descriptors::is_shortage(error) => {
                log_limited!(warn, store = self.name, %error, "no descriptor left for I/O");
            }
            // A bound of ours was reached, and no bound of the device.
            Err(error) if error.kind() == io::ErrorKind::QuotaExceeded => {
                log_limited!(warn, store = self.name, %error, "a file is refused");
            }
            Err(error) => self.failed(error),
        }
    }

    fn succeeded(&self) {
        let mut state = self.state.lock();
        state.consecutive = 0;
        if state.offline_until.take().is_some() {
            self.online.set(1);
            tracing::info!(store = self.name, "device answers again: back in use");
        }
    }

    fn failed(&self, cause: &dyn std::fmt::Display) {
        self.errors.inc();
        let mut state = self.state.lock();
        state.consecutive = state.consecutive.saturating_add(1);
        if state.consecutive < self.errors_max {
            log_limited!(warn, store = self.name, %cause, "I/O error");
            return;
        }
        // Also after a cool-down that ended in another error: one try per cool-down.
        let now = Instant::now();
        if state.offline_until.is_none_or(|until| until <= now) {
            state.offline_until = Some(now + self.offline);
            self.online.set(0);
            tracing::error!(store = self.name, %cause, errors = state.consecutive, cool_down = ?self.offline,
                "taken offline after repeated I/O errors; serving goes on without it");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Longer than any test takes.
    const LONG_MS: u64 = 600_000;

    fn gate(concurrency: usize, timeout_ms: u64, offline_ms: u64) -> (Gate, IntCounter, IntGauge) {
        let errors = IntCounter::new("errors", "errors").unwrap();
        let online = IntGauge::new("online", "online").unwrap();
        let limits = GateLimits {
            concurrency,
            timeout: Duration::from_millis(timeout_ms),
            errors_max: 3,
            offline: Duration::from_millis(offline_ms),
        };
        (Gate::new("test", limits, errors.clone(), online.clone()), errors, online)
    }

    async fn fail(gate: &Gate) -> GateError {
        gate.run(|| -> io::Result<()> { Err(io::ErrorKind::StorageFull.into()) }).await.unwrap_err()
    }

    #[tokio::test]
    async fn errors_in_a_row_take_the_device_offline_and_one_success_brings_it_back() {
        let (gate, errors, online) = gate(2, LONG_MS, LONG_MS);
        for _ in 0..3 {
            assert!(matches!(fail(&gate).await, GateError::Io(_)));
        }
        assert!(gate.is_offline());
        assert_eq!((errors.get(), online.get()), (3, 0));
        assert!(matches!(fail(&gate).await, GateError::Offline), "nothing touches an offline device");
        assert_eq!(errors.get(), 3);
        gate.cool_down();
        assert!(matches!(fail(&gate).await, GateError::Io(_)), "one try after the cool-down");
        assert!(gate.is_offline(), "and offline again at once");
        gate.cool_down();
        assert_eq!(gate.run(|| Ok(7)).await.unwrap(), 7);
        assert_eq!(online.get(), 1);
        assert!(matches!(fail(&gate).await, GateError::Io(_)));
        assert!(!gate.is_offline(), "the count starts afresh");
    }

    /// Neither a failure nor a success, from the system's call or from the depths of a client.
    #[tokio::test]
    async fn a_lack_of_descriptors_is_not_the_devices() {
        let (gate, errors, online) = gate(1, 60_000, 60_000);
        for code in [23, 24] {
            let shortage = move || io::Error::from_raw_os_error(code);
            fail(&gate).await;
            fail(&gate).await;
            for _ in 0..10 {
                assert!(matches!(gate.run(move || Err::<(), _>(shortage())).await, Err(GateError::Busy)));
                let deep = async move { Err::<(), _>(io::Error::other(shortage())) };
                assert!(matches!(gate.drive(deep, OnTimeout::Stop).await, Err(GateError::Busy)));
            }
            assert!(!gate.is_offline(), "two failures and no third");
            gate.run(|| Ok(())).await.unwrap();
        }
        assert_eq!((errors.get(), online.get()), (4, 1));
    }

    #[tokio::test]
    async fn a_success_between_errors_resets_the_count() {
        let (gate, ..) = gate(1, LONG_MS, LONG_MS);
        for _ in 0..10 {
            fail(&gate).await;
            fail(&gate).await;
            gate.run(|| Ok(())).await.unwrap();
        }
        assert!(!gate.is_offline());
    }

    #[tokio::test]
    async fn a_hanging_device_costs_its_permits_and_the_timeout_and_then_nothing() {
        let (gate, ..) = gate(2, 20, LONG_MS);
        let (release, hang) = mpsc::channel::<()>();
        let hang = Arc::new(Mutex::new(hang));
        for _ in 0..3 {
            let hang = Arc::clone(&hang);
            let job = move || {
                let _ = hang.lock().recv();
                Ok(())
            };
            assert!(matches!(gate.run(job).await, Err(GateError::TimedOut(_))));
        }
        assert!(matches!(gate.run(|| Ok(())).await, Err(GateError::Offline)));
        drop(release);
    }

    #[tokio::test]
    async fn more_waiters_than_the_queue_holds_are_turned_away() {
        let (gate, ..) = gate(1, LONG_MS, LONG_MS);
        let gate = Arc::new(gate);
        let (release, hang) = mpsc::channel::<()>();
        let first = tokio::spawn({
            let gate = Arc::clone(&gate);
            async move { gate.run(move || hang.recv().map_err(|_| io::ErrorKind::BrokenPipe.into())).await }
        });
        let waiting: Vec<_> = (0..QUEUE_PER_WORKER)
            .map(|_| {
                let gate = Arc::clone(&gate);
                tokio::spawn(async move { gate.run(|| Ok(())).await })
            })
            .collect();
        while gate.admitted.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        assert!(matches!(gate.run(|| Ok(())).await, Err(GateError::Busy)));
        release.send(()).unwrap();
        assert!(first.await.unwrap().is_ok());
        for job in waiting {
            assert!(job.await.unwrap().is_ok());
        }
    }

    #[tokio::test]
    async fn a_panic_in_a_job_is_an_error_and_frees_its_place() {
        let (gate, errors, _) = gate(1, LONG_MS, LONG_MS);
        let result = gate.run(|| -> io::Result<()> { panic!("in a job, on purpose") }).await;
        assert!(matches!(result, Err(GateError::Panicked)));
        assert_eq!(errors.get(), 1);
        assert!(gate.run(|| Ok(())).await.is_ok());
    }
}
