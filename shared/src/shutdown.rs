//! Stopping in order: signal → stop accepting → drain until a deadline → abort.

use tokio::sync::watch;

/// Told once, heard by everybody.
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

/// Waits for SIGTERM or SIGINT.
///
/// # Errors
/// When the signal handlers cannot be installed.
pub async fn signal() -> std::io::Result<&'static str> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => Ok("SIGTERM"),
        _ = interrupt.recv() => Ok("SIGINT"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
