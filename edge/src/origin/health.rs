//! When a node may be asked: by what its probe says and by how its calls end. A state machine without I/O.
//!
//! ```text
//!             probe ready                    failures_max in a row
//!   Unknown ─────────────▶ Healthy ────────────────────────────────▶ Unhealthy
//!                           ▲   ▲         probe says no, at once       │    │
//!                  success  │   └────── probe ready again ─────────────┘    │ (failed its calls)
//!                          HalfOpen ◀────── probe ready ────────────────────┘
//! ```
//!
//! A node that answers probes but fails its calls would flap; so after failing calls a ready probe only half
//! opens it: the next call, one at a time, decides (a circuit breaker; Nygard, "Release It!"). Each time that call
//! fails too, the next trial is twice as far away, up to [`TRIAL_PAUSE_MAX`].

use std::time::Duration;

use parking_lot::Mutex;
use prometheus::IntGauge;
use tokio::sync::watch;
use tokio::time::Instant;

/// Longest time between two trials of a node that fails its calls.
const TRIAL_PAUSE_MAX: Duration = Duration::from_secs(30);

/// Whether a node may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeState {
    /// Not probed yet: asked only if there is no other.
    Unknown,
    Healthy,
    /// One failure closes it again.
    HalfOpen,
    Unhealthy,
}

impl NodeState {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Healthy => "healthy",
            Self::HalfOpen => "half-open",
            Self::Unhealthy => "unhealthy",
        }
    }

    #[must_use]
    pub const fn is_healthy(self) -> bool {
        matches!(self, Self::Healthy | Self::HalfOpen)
    }
}

/// What a probe saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Probe {
    Ready,
    /// It said no, or no process listens.
    Down,
    /// No answer in time: perhaps only busy, so it counts as one failure.
    Slow,
}

/// Why a node is unhealthy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// It said no, or is not there.
    Refusal,
    /// Its probes go unanswered.
    Silence,
    Calls,
}

#[derive(Debug)]
pub(super) struct Health {
    node: String,
    failures_max: u32,
    /// Until the first second trial.
    trial_pause: Duration,
    inner: Mutex<Inner>,
    /// Whether it has stopped answering its probes.
    silent: watch::Sender<bool>,
    gauge: IntGauge,
}

#[derive(Debug)]
struct Inner {
    state: NodeState,
    cause: Cause,
    failures: u32,
    /// Trials failed in a row, and when the next one may be.
    failed_trials: u32,
    next_trial: Option<Instant>,
}

impl Health {
    pub(super) fn new(node: String, failures_max: u32, trial_pause: Duration, gauge: IntGauge) -> Self {
        gauge.set(0);
        let inner = Mutex::new(Inner {
            state: NodeState::Unknown,
            cause: Cause::Refusal,
            failures: 0,
            failed_trials: 0,
            next_trial: None,
        });
        let silent = watch::Sender::new(false);
        Self { node, failures_max: failures_max.max(1), trial_pause, inner, silent, gauge }
    }

    /// Returns once the node has stopped answering its probes.
    pub(super) async fn silent(&self) {
        // The sender is ours: the channel cannot close.
        let _ = self.silent.subscribe().wait_for(|silent| *silent).await;
    }

    pub(super) fn state(&self) -> NodeState {
        self.inner.lock().state
    }

    /// A call was answered as the contract says, be it with a refusal.
    pub(super) fn call_succeeded(&self) {
        self.change(|inner| {
            inner.failures = 0;
            inner.failed_trials = 0;
            // An unhealthy node's late success proves less than its next probe will.
            if inner.state != NodeState::Unhealthy {
                inner.state = NodeState::Healthy;
            }
        });
    }

    pub(super) fn call_failed(&self) {
        self.call_failed_at(Instant::now());
    }

    fn call_failed_at(&self, now: Instant) {
        self.change(|inner| self.failed(inner, Cause::Calls, now));
    }

    /// The node itself said that it is not ready.
    pub(super) fn not_ready(&self) {
        self.probed(Probe::Down);
    }

    pub(super) fn probed(&self, probe: Probe) {
        self.probed_at(probe, Instant::now());
    }

    fn probed_at(&self, probe: Probe, now: Instant) {
        if probe != Probe::Slow {
            self.silent.send_if_modified(|silent| std::mem::replace(silent, false));
        }
        self.change(|inner| match probe {
            Probe::Ready => ready(inner, now),
            Probe::Slow => self.failed(inner, Cause::Silence, now),
            Probe::Down => {
                // Calls that failed before stay a reason for caution.
                if inner.state != NodeState::Unhealthy {
                    inner.cause = Cause::Refusal;
                }
                inner.state = NodeState::Unhealthy;
            }
        });
    }

    fn failed(&self, inner: &mut Inner, cause: Cause, now: Instant) {
        inner.failures = inner.failures.saturating_add(1);
        if inner.state == NodeState::HalfOpen {
            let doublings = inner.failed_trials.min(16);
            inner.failed_trials = inner.failed_trials.saturating_add(1);
            let pause = self.trial_pause.saturating_mul(1 << doublings).min(TRIAL_PAUSE_MAX);
            inner.next_trial = Some(now + pause);
        }
        if cause == Cause::Silence && inner.failures >= self.failures_max {
            self.silent.send_replace(true);
        }
        let closes = inner.state == NodeState::HalfOpen || inner.failures >= self.failures_max;
        if closes && inner.state != NodeState::Unhealthy {
            inner.state = NodeState::Unhealthy;
            inner.cause = cause;
        }
    }

    fn change(&self, change: impl FnOnce(&mut Inner)) {
        let mut inner = self.inner.lock();
        let before = inner.state;
        change(&mut inner);
        let after = inner.state;
        self.gauge.set(i64::from(after.is_healthy()));
        drop(inner);
        if before != after {
            tracing::info!(node = %self.node, before = before.as_str(), after = after.as_str(), "node health changed");
        }
    }
}

fn ready(inner: &mut Inner, now: Instant) {
    match (inner.state, inner.cause) {
        (NodeState::Unhealthy, Cause::Calls) if inner.next_trial.is_some_and(|next| next > now) => {}
        (NodeState::Unhealthy, Cause::Calls) => {
            inner.state = NodeState::HalfOpen;
            inner.failures = 0;
        }
        (NodeState::Unknown | NodeState::Unhealthy, _) => {
            inner.state = NodeState::Healthy;
            inner.failures = 0;
        }
        // A ready probe does not excuse failing calls.
        (NodeState::Healthy | NodeState::HalfOpen, _) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health() -> Health {
        with_trial_pause(Duration::ZERO)
    }

    fn with_trial_pause(pause: Duration) -> Health {
        Health::new("node".into(), 3, pause, IntGauge::new("healthy", "healthy").unwrap())
    }

    #[test]
    fn trials_that_fail_come_ever_more_rarely() {
        let node = with_trial_pause(Duration::from_secs(1));
        let mut now = Instant::now();
        node.probed_at(Probe::Ready, now);
        (0..3).for_each(|_| node.call_failed_at(now));
        for pause_s in [1, 2, 4, 8, 16, 30, 30] {
            node.probed_at(Probe::Ready, now);
            assert_eq!(node.state(), NodeState::HalfOpen);
            node.call_failed_at(now);
            now += Duration::from_secs(pause_s);
            node.probed_at(Probe::Ready, now - Duration::from_millis(1));
            assert_eq!(node.state(), NodeState::Unhealthy, "not before {pause_s} s");
        }
        node.probed_at(Probe::Ready, now);
        node.call_succeeded();
        (0..3).for_each(|_| node.call_failed_at(now));
        node.probed_at(Probe::Ready, now);
        assert_eq!(node.state(), NodeState::HalfOpen, "a success forgives");
    }

    #[tokio::test]
    async fn who_waits_on_a_node_hears_that_it_went_silent() {
        let node = health();
        node.probed(Probe::Ready);
        node.probed(Probe::Slow);
        node.probed(Probe::Slow);
        assert!(tokio::time::timeout(Duration::ZERO, node.silent()).await.is_err());
        node.probed(Probe::Slow);
        node.silent().await;
        node.probed(Probe::Ready);
        assert!(tokio::time::timeout(Duration::ZERO, node.silent()).await.is_err());
    }

    #[test]
    fn the_first_probe_decides() {
        let node = health();
        assert_eq!(node.state(), NodeState::Unknown);
        node.probed(Probe::Ready);
        assert_eq!((node.state(), node.gauge.get()), (NodeState::Healthy, 1));
        node.probed(Probe::Down);
        assert_eq!((node.state(), node.gauge.get()), (NodeState::Unhealthy, 0));
        node.probed(Probe::Ready);
        assert_eq!(node.state(), NodeState::Healthy, "it had failed no calls");
    }

    #[test]
    fn failing_calls_close_a_node_though_its_probe_is_ready() {
        let node = health();
        node.probed(Probe::Ready);
        for _ in 0..2 {
            node.call_failed();
            node.probed(Probe::Ready);
        }
        assert_eq!(node.state(), NodeState::Healthy);
        node.call_failed();
        assert_eq!(node.state(), NodeState::Unhealthy);
        node.probed(Probe::Ready);
        assert_eq!(node.state(), NodeState::HalfOpen);
        node.call_failed();
        assert_eq!(node.state(), NodeState::Unhealthy, "one failure is enough now");
        node.probed(Probe::Ready);
        node.call_succeeded();
        assert_eq!(node.state(), NodeState::Healthy);
        node.call_failed();
        assert_eq!(node.state(), NodeState::Healthy, "the count starts afresh");
    }

    #[test]
    fn a_success_between_failures_resets_the_count() {
        let node = health();
        node.probed(Probe::Ready);
        for _ in 0..10 {
            node.call_failed();
            node.call_failed();
            node.call_succeeded();
        }
        assert_eq!(node.state(), NodeState::Healthy);
    }

    #[test]
    fn a_node_that_fails_and_then_goes_down_comes_back_half_open() {
        let node = health();
        node.probed(Probe::Ready);
        (0..3).for_each(|_| node.call_failed());
        node.probed(Probe::Down);
        node.probed(Probe::Ready);
        assert_eq!(node.state(), NodeState::HalfOpen);
    }

    #[test]
    fn slow_probes_count_and_a_late_success_does_not_open() {
        let node = health();
        node.probed(Probe::Ready);
        node.probed(Probe::Slow);
        node.probed(Probe::Slow);
        assert_eq!(node.state(), NodeState::Healthy);
        node.probed(Probe::Slow);
        assert_eq!(node.state(), NodeState::Unhealthy);
        node.call_succeeded();
        assert_eq!(node.state(), NodeState::Unhealthy);
        node.probed(Probe::Ready);
        assert_eq!(node.state(), NodeState::Healthy);
    }
}
