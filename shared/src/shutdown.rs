//! Stopping in order: signal → stop accepting → drain until a deadline → abort.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal as subscribe};
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior};

/// Told once, heard by every holder.
#[derive(Debug, Clone)]
pub struct Shutdown {
    receiver: watch::Receiver<bool>,
}

/// The side that tells. Dropping it also stops the listeners.
#[derive(Debug)]
pub struct ShutdownTrigger {
    sender: watch::Sender<bool>,
}

/// A trigger and its first listener.
#[must_use]
pub fn channel() -> (ShutdownTrigger, Shutdown) {
    let (sender, receiver) = watch::channel(false);
    (ShutdownTrigger { sender }, Shutdown { receiver })
}

impl ShutdownTrigger {
    pub fn shut_down(&self) {
        self.sender.send_replace(true);
    }
}

impl Shutdown {
    #[must_use]
    pub fn is_shutting_down(&self) -> bool {
        *self.receiver.borrow() || self.receiver.has_changed().is_err()
    }

    /// Returns once shutdown was asked for or the trigger is gone.
    pub async fn requested(&mut self) {
        let _ = self.receiver.wait_for(|stop| *stop).await;
    }
}

/// Moments at which to look at something again, until shutdown.
#[derive(Debug)]
pub struct Ticks {
    interval: Interval,
    shutdown: Shutdown,
}

impl Ticks {
    /// The first at once, the next a `period` later; one that comes late moves those behind it.
    #[must_use]
    pub fn every(period: Duration, shutdown: Shutdown) -> Self {
        let mut interval = tokio::time::interval(period.max(Duration::from_millis(1)));
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { interval, shutdown }
    }

    /// Waits for the next; `None` once shutdown was asked for.
    pub async fn next(&mut self) -> Option<()> {
        tokio::select! {
            () = self.shutdown.requested() => None,
            _ = self.interval.tick() => Some(()),
        }
    }
}

/// SIGTERM and SIGINT from now on: one that comes while no task waits is heard by the next that does.
#[derive(Debug)]
pub struct Stops {
    terminate: Signal,
    interrupt: Signal,
}

impl Stops {
    /// # Errors
    /// When the signal handlers cannot be installed.
    pub fn subscribe() -> std::io::Result<Self> {
        Ok(Self { terminate: subscribe(SignalKind::terminate())?, interrupt: subscribe(SignalKind::interrupt())? })
    }

    /// Waits for the next one.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Waits for SIGTERM or SIGINT.
///
/// # Errors
/// When the signal handlers cannot be installed.
pub async fn signal() -> std::io::Result<&'static str> {
    Ok(Stops::subscribe()?.next().await)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ticks_end_with_the_shutdown() {
        let (trigger, shutdown) = channel();
        let mut ticks = Ticks::every(Duration::from_millis(1), shutdown);
        assert_eq!(ticks.next().await, Some(()));
        assert_eq!(ticks.next().await, Some(()));
        trigger.shut_down();
        while ticks.next().await.is_some() {}
    }

    #[tokio::test]
    async fn every_listener_hears_and_a_lost_trigger_counts() {
        let (trigger, shutdown) = channel();
        let mut second = shutdown.clone();
        assert!(!shutdown.is_shutting_down());
        trigger.shut_down();
        second.requested().await;
        assert!(shutdown.is_shutting_down());
        let (trigger, mut orphan) = channel();
        drop(trigger);
        orphan.requested().await;
        assert!(orphan.is_shutting_down());
    }

    /// Nothing is lost between two waits.
    #[tokio::test]
    async fn a_signal_that_comes_before_the_wait_is_heard() {
        let mut stops = Stops::subscribe().unwrap();
        for _ in 0..2 {
            assert!(
                std::process::Command::new("kill")
                    .args(["-INT", &std::process::id().to_string()])
                    .status()
                    .unwrap()
                    .success()
            );
            assert_eq!(tokio::time::timeout(Duration::from_secs(20), stops.next()).await, Ok("SIGINT"));
        }
    }
}
