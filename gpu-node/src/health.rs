//! Whether the node takes generations, and why not.

use std::sync::Arc;

use bildkante_shared::ids::{Digest, MasterId};
use bildkante_shared::wire::{AdapterInfo, CheckpointInfo};
use serde::Serialize;
use tokio::sync::watch;

use crate::capacity::Capacity;

/// Where a node stands in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    Loading,
    SelfTest,
    Ready,
    Draining,
    /// It will never be ready; the process should end.
    Failed {
        reason: String,
    },
}

impl Phase {
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Loading => "loading",
            Self::SelfTest => "self_test",
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Failed { .. } => "failed",
        }
    }

    /// What a caller is told while generations are not taken.
    #[must_use]
    pub fn reason(&self) -> String {
        match self {
            Self::Loading => "checkpoints are being loaded".to_owned(),
            Self::SelfTest => "the self-test is running".to_owned(),
            Self::Ready => String::new(),
            Self::Draining => "the node is shutting down".to_owned(),
            Self::Failed { reason } => reason.clone(),
        }
    }
}

/// What the self-test of a checkpoint found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SelfTest {
    pub device: String,
    pub checkpoint: String,
    pub digest: Digest,
    /// Whether the same recipe drew the same bits twice.
    pub is_equal: bool,
    /// The master it drew.
    pub master: MasterId,
}

/// What one device has.
#[derive(Debug, Clone, Default)]
pub struct DeviceStatus {
    pub name: String,
    pub is_ready: bool,
    pub checkpoints: Vec<CheckpointInfo>,
    pub adapters: Vec<AdapterInfo>,
    /// Folders that hold no usable checkpoint and files that hold no usable adapter, and why.
    pub rejected: Vec<String>,
    pub self_tests: Vec<SelfTest>,
    /// Checkpoints that drew nothing in their self-test, and what they failed at: not ready, however often they are reported.
    pub failed: Vec<(Digest, String)>,
    pub capacity: Arc<Capacity>,
}

impl DeviceStatus {
    fn has_ready(&self, digest: Digest) -> bool {
        let is_failed = self.failed.iter().any(|(failed, _)| *failed == digest);
        !is_failed && self.checkpoints.iter().any(|known| known.digest == digest && known.ready)
    }

    /// Whether it can draw with anything at all.
    #[must_use]
    pub fn has_any_ready(&self) -> bool {
        self.checkpoints.iter().any(|known| self.has_ready(known.digest))
    }
}

/// All that a health check may ask for.
#[derive(Debug, Clone)]
pub struct Status {
    pub phase: Phase,
    /// Shared, because every request takes a snapshot.
    pub devices: Arc<Vec<DeviceStatus>>,
    /// What every device has, ready where it is on each; here and below of the devices' reports, see [`Health::report`].
    pub checkpoints: Arc<Vec<CheckpointInfo>>,
    pub adapters: Arc<Vec<AdapterInfo>>,
    pub rejected: Arc<Vec<String>>,
    pub self_tests: Vec<SelfTest>,
}

impl Status {
    /// Brings what is true of all devices up to date.
    fn gather(&mut self) {
        let Some(first) = self.devices.first() else { return };
        let everywhere = |digest| self.devices.iter().all(|device| device.has_ready(digest));
        let checkpoints = first.checkpoints.iter().cloned();
        let checkpoints = checkpoints.map(|known| CheckpointInfo { ready: everywhere(known.digest), ..known });
        let is_common = |adapter: &&AdapterInfo| {
            self.devices.iter().all(|device| device.adapters.iter().any(|known| known.digest == adapter.digest))
        };
        let reasons = |device: &DeviceStatus| {
            let failed = device.failed.iter().map(|(_, reason)| reason.clone());
            device.rejected.iter().cloned().chain(failed).collect::<Vec<_>>()
        };
        let mut rejected: Vec<String> = self.devices.iter().flat_map(reasons).collect();
        rejected.sort();
        rejected.dedup();
        let adapters: Vec<AdapterInfo> = first.adapters.iter().filter(is_common).cloned().collect();
        let self_tests = self.devices.iter().flat_map(|device| device.self_tests.iter().cloned()).collect();
        self.checkpoints = Arc::new(checkpoints.collect());
        self.adapters = Arc::new(adapters);
        self.rejected = Arc::new(rejected);
        self.self_tests = self_tests;
    }
}

/// The node's status, which the threads write and requests read.
#[derive(Debug)]
pub struct Health {
    status: watch::Sender<Status>,
}

impl Default for Health {
    fn default() -> Self {
        let status = Status {
            phase: Phase::Loading,
            devices: Arc::default(),
            checkpoints: Arc::default(),
            adapters: Arc::default(),
            rejected: Arc::default(),
            self_tests: Vec::new(),
        };
        Self { status: watch::Sender::new(status) }
    }
}

impl Health {
    #[must_use]
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    fn update(&self, change: impl FnOnce(&mut Status)) {
        self.status.send_modify(change);
    }

    /// Makes the devices known before any of them reports.
    pub fn expect(&self, names: Vec<String>) {
        let devices = names.into_iter().map(|name| DeviceStatus { name, ..DeviceStatus::default() });
        self.update(|status| status.devices = Arc::new(devices.collect()));
    }

    /// Changes what one device has.
    pub fn report(&self, device: usize, change: impl FnOnce(&mut DeviceStatus)) {
        self.update(|status| {
            if let Some(device) = Arc::make_mut(&mut status.devices).get_mut(device) {
                change(device);
            }
            status.gather();
        });
    }

    /// A device draws from now on; the node is ready when all of them do. `record` runs just before that, so that the metrics
    /// are true for a reader who has seen that the node is ready.
    pub fn device_ready(&self, device: usize, record: impl FnOnce()) {
        self.report(device, |device| device.is_ready = true);
        let is_ready = self.status.borrow().devices.iter().all(|device| device.is_ready);
        if is_ready {
            record();
            self.enter(Phase::Ready);
        }
    }

    /// Enters a phase; a node that is draining or has failed stays so.
    pub fn enter(&self, phase: Phase) {
        self.update(|status| {
            if !matches!(status.phase, Phase::Draining | Phase::Failed { .. }) {
                status.phase = phase;
            }
        });
    }

    /// Waits until the node is ready, or will never be.
    pub async fn settled(&self) -> Phase {
        self.wait(|phase| !matches!(phase, Phase::Loading | Phase::SelfTest)).await
    }

    /// Waits until the node has failed.
    pub async fn failed(&self) -> Phase {
        self.wait(|phase| matches!(phase, Phase::Failed { .. })).await
    }

    async fn wait(&self, is_met: impl Fn(&Phase) -> bool) -> Phase {
        let mut receiver = self.status.subscribe();
        match receiver.wait_for(|status| is_met(&status.phase)).await {
            Ok(status) => status.phase.clone(),
            // Unreachable while `self` holds the sender.
            Err(_) => Phase::Failed { reason: "the node is gone".to_owned() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint(name: &str) -> CheckpointInfo {
        let digest = Digest::of_bytes(name.as_bytes());
        CheckpointInfo { name: name.into(), digest, formers: Vec::new(), family: "sd1".into(), ready: true }
    }

    #[test]
    fn a_node_is_ready_with_all_its_devices_and_offers_what_each_of_them_has() {
        let health = Health::default();
        health.expect(vec!["cuda:0".into(), "cuda:1".into()]);
        health.report(0, |device| device.checkpoints = vec![checkpoint("a"), checkpoint("b")]);
        health.device_ready(0, || panic!("the other device is not ready"));
        assert_eq!(health.status().phase, Phase::Loading);
        health.report(1, |device| {
            device.checkpoints = vec![checkpoint("b")];
            device.rejected = vec!["a: no memory".into()];
        });
        health.device_ready(1, || assert_eq!(health.status().phase, Phase::Loading, "recorded before it is said"));
        let status = health.status();
        assert_eq!(status.phase, Phase::Ready);
        let ready: Vec<bool> = status.checkpoints.iter().map(|checkpoint| checkpoint.ready).collect();
        assert_eq!((ready, status.rejected.len()), (vec![false, true], 1));
    }
}
