//! The threads that own a device each, and the one that settles what they drew.
//!
//! Device thread ([`device`]): load → self-test → [`executor`]: the most urgent requests' next step, until the board
//! closes. It touches the disk before a drawing only (the store, room for a master, the recipe's images, its mark) and
//! hands each drawing on at once. All device threads take from one board. Settling thread: [`settle`]. Before it at
//! most [`SETTLING_MAX`] drawings wait, so a slow disk slows devices down instead of filling memory. [`torch`] is the
//! engine on libtorch.
//!
//! A panic in a job fails that job only, and so does a device that is out of memory. A device that is lost to this process
//! ends the node: only a new process gets it back, and the supervisor of this one starts that.

mod bench;
mod device;
mod executor;
mod settle;
mod torch;

use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;

pub use self::bench::Bench;
use self::bench::DeviceBench;
pub use self::torch::{torch_engine, torch_engines};
use crate::engine::Engines;

/// Drawings that may wait to be settled.
const SETTLING_MAX: usize = 2;

/// The threads.
#[derive(Debug)]
pub struct Worker {
    threads: Vec<JoinHandle<()>>,
}

impl Worker {
    /// # Errors
    /// When a thread cannot be started.
    pub fn start(engines: Engines, bench: Bench) -> std::io::Result<Self> {
        let (sender, receiver) = sync_channel(SETTLING_MAX);
        let settling = bench.clone();
        let settle = std::thread::Builder::new().name("node-settle".to_owned());
        let settle = settle.spawn(move || settling.settle_all(&receiver))?;
        let mut threads = Vec::new();
        bench.health.expect(engines.0.iter().map(|(name, _)| name.clone()).collect());
        for (device, (name, factory)) in engines.0.into_iter().enumerate() {
            let (own, sender) = (DeviceBench { bench: bench.clone(), device, name }, sender.clone());
            let thread = std::thread::Builder::new().name(format!("node-device-{device}"));
            threads.push(thread.spawn(move || own.run(factory, &sender))?);
        }
        threads.push(settle);
        Ok(Self { threads })
    }

    /// Waits for the threads; the board must have been closed. Blocks for up to a step.
    pub fn join(self) {
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a worker thread ended at a defect");
            }
        }
    }
}
