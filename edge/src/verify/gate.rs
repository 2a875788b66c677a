//! How often a client's network may have pictures checked, and how many are checked at once.
//!
//! A picture has a seat from before its body is read until it is answered, so that the bodies in memory are bounded; of those
//! that sit, some are being checked.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use moka::sync::Cache;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::VerifyConfig;
use crate::budget::{Bucket, BudgetConfig, Network, Rate};

/// Why a picture is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("this network has had as many pictures checked as it may for now")]
    Network,
    #[error("as many pictures are being checked as this edge may")]
    Full,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Gate {
    budget: BudgetConfig,
    rate: Option<Rate>,
    networks: Cache<Network, Arc<Mutex<Bucket>>>,
    seats: Arc<Semaphore>,
    turns: Arc<Semaphore>,
    pub(super) retry_after_s: u64,
}

impl Gate {
    /// `budget` says what one network is.
    pub(super) fn new(config: &VerifyConfig, budget: &BudgetConfig) -> Self {
        let rate = Rate::new(config.network_burst, config.network_per_minute);
        let mut networks = Cache::builder().max_capacity(config.networks_max);
        if let Some(rate) = rate {
            networks = networks.time_to_idle(rate.refill_time().max(Duration::from_secs(1)));
        }
        Self {
            budget: budget.clone(),
            rate,
            networks: networks.build(),
            seats: Arc::new(Semaphore::new(config.checks_max + config.waiting_max)),
            turns: Arc::new(Semaphore::new(config.checks_max)),
            retry_after_s: 60_u64.div_ceil(u64::from(config.network_per_minute.max(1))),
        }
    }

    /// A seat for one picture.
    pub(super) fn admit(&self, client: IpAddr) -> Result<OwnedSemaphorePermit, Refusal> {
        self.admit_at(client, Instant::now())
    }

    fn admit_at(&self, client: IpAddr, now: Instant) -> Result<OwnedSemaphorePermit, Refusal> {
        // A full edge spends nobody's tokens.
        let seat = Arc::clone(&self.seats).try_acquire_owned().map_err(|_| Refusal::Full)?;
        if let Some(rate) = self.rate {
            let network = Network::of(client, &self.budget);
            let bucket = self.networks.get_with(network, || Arc::new(Mutex::new(Bucket::full(rate, now))));
            if !bucket.lock().take(rate, now) {
                return Err(Refusal::Network);
            }
        }
        Ok(seat)
    }

    /// A turn to be checked. There are as many as there are cores for it.
    pub(super) async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.turns).acquire_owned().await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(change: impl FnOnce(&mut VerifyConfig)) -> Gate {
        let mut config = VerifyConfig { network_burst: 2, network_per_minute: 6, ..VerifyConfig::default() };
        change(&mut config);
        Gate::new(&config, &BudgetConfig::default())
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_network_has_its_burst_and_then_its_rate() {
        let (gate, start) = (gate(|_| {}), Instant::now());
        let admit = |address: &str, after_s| gate.admit_at(ip(address), start + Duration::from_secs(after_s)).map(drop);
        assert_eq!((admit("192.0.2.1", 0), admit("192.0.2.99", 0)), (Ok(()), Ok(())));
        assert_eq!(admit("192.0.2.1", 0), Err(Refusal::Network));
        assert_eq!(admit("198.51.100.1", 0), Ok(()));
        assert_eq!((admit("192.0.2.1", 10), admit("192.0.2.1", 10)), (Ok(()), Err(Refusal::Network)));
        assert_eq!(gate.retry_after_s, 10);
    }

    #[test]
    fn seats_are_bounded_and_come_back() {
        let gate = gate(|config| {
            config.network_per_minute = 0;
            (config.checks_max, config.waiting_max) = (1, 1);
        });
        let first = gate.admit(ip("192.0.2.1")).expect("a seat");
        let _second = gate.admit(ip("192.0.2.1")).expect("a seat");
        assert_eq!(gate.admit(ip("192.0.2.1")).map(drop), Err(Refusal::Full));
        drop(first);
        assert!(gate.admit(ip("192.0.2.1")).is_ok());
    }
}
