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
//! opens it: the next call decides.

use parking_lot::Mutex;
use prometheus::IntGauge;

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
    /// It said no, or nobody listens.
    Down,
    /// No answer in time: perhaps only busy, so it counts as one failure.
    Slow,
}

/// Why a node is unhealthy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    Probe,
    Calls,
}

#[derive(Debug)]
pub(super) struct Health {
    node: String,
    failures_max: u32,
    inner: Mutex<Inner>,
    gauge: IntGauge,
}

#[derive(Debug)]
struct Inner {
    state: NodeState,
    cause: Cause,
    failures: u32,
}

impl Health {
    pub(super) fn new(node: String, failures_max: u32, gauge: IntGauge) -> Self {
        gauge.set(0);
        let inner = Mutex::new(Inner { state: NodeState::Unknown, cause: Cause::Probe, failures: 0 });
        Self { node, failures_max: failures_max.max(1), inner, gauge }
    }

    pub(super) fn state(&self) -> NodeState {
        self.inner.lock().state
    }

    /// A call was answered as the contract says, be it with a refusal.
    pub(super) fn call_succeeded(&self) {
        self.change(|inner| {
            inner.failures = 0;
            // An unhealthy node's late success proves less than its next probe will.
            if inner.state != NodeState::Unhealthy {
                inner.state = NodeState::Healthy;
            }
        });
    }

    pub(super) fn call_failed(&self) {
        self.change(|inner| self.failed(inner, Cause::Calls));
    }

    /// The node itself said that it is not ready.
    pub(super) fn not_ready(&self) {
        self.probed(Probe::Down);
    }

    pub(super) fn probed(&self, probe: Probe) {
        self.change(|inner| match probe {
            Probe::Ready => ready(inner),
            Probe::Slow => self.failed(inner, Cause::Probe),
            Probe::Down => {
                // Calls that failed before stay a reason for caution.
                if inner.state != NodeState::Unhealthy {
                    inner.cause = Cause::Probe;
                }
                inner.state = NodeState::Unhealthy;
            }
        });
    }

    fn failed(&self, inner: &mut Inner, cause: Cause) {
        inner.failures = inner.failures.saturating_add(1);
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

fn ready(inner: &mut Inner) {
    match (inner.state, inner.cause) {
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
        Health::new("node".into(), 3, IntGauge::new("healthy", "healthy").unwrap())
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
