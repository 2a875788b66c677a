//! The threads that own a device each, and those that settle what they drew.
//!
//! Device thread ([`device`]): load → self-test → [`executor`]: the most urgent requests' next step, until the board
//! closes. It touches the disk before a drawing only (the store, room for a master, the recipe's images, its mark) and
//! hands each drawing on at once. All device threads take from one board. Settling threads: [`settle`]; before them
//! at most [`WAITING_MAX`] drawings wait, so a slow disk slows devices down instead of filling memory. [`torch`] is the
//! engine on libtorch.
//!
//! A panic in a job fails that job only, and so does a device that is out of memory. A device that is lost to this process
//! ends the node: only a new process gets it back, and the supervisor of this one starts that.

mod bench;
mod device;
mod executor;
mod settle;
mod torch;

use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;

use parking_lot::Mutex;

pub use self::bench::Bench;
use self::bench::DeviceBench;
pub use self::torch::{torch_engine, torch_engines};
use crate::engine::Engines;

/// Drawings that may wait for a settling thread.
const WAITING_MAX: usize = 2;
/// Settling threads of a node: a few for each device, so that one picture's comparisons hold no other up.
const SETTLERS_PER_DEVICE: usize = 3;
const SETTLERS_MAX: usize = 12;

/// The threads.
#[derive(Debug)]
pub struct Worker {
    threads: Vec<JoinHandle<()>>,
}

impl Worker {
    /// # Errors
    /// When a thread cannot be started.
    pub fn start(engines: Engines, bench: Bench) -> std::io::Result<Self> {
        let (sender, receiver) = sync_channel(WAITING_MAX);
        let receiver = Arc::new(Mutex::new(receiver));
        let settlers = (SETTLERS_PER_DEVICE * engines.0.len()).clamp(SETTLERS_PER_DEVICE, SETTLERS_MAX);
        let mut settling = Vec::new();
        for number in 0..settlers {
            let (own, receiver) = (bench.clone(), Arc::clone(&receiver));
            let thread = std::thread::Builder::new().name(format!("node-settle-{number}"));
            settling.push(thread.spawn(move || own.settle_all(&receiver))?);
        }
        let mut threads = Vec::new();
        bench.health.expect(engines.0.iter().map(|(name, _)| name.clone()).collect());
        for (device, (name, factory)) in engines.0.into_iter().enumerate() {
            let (own, sender) = (DeviceBench { bench: bench.clone(), device, name }, sender.clone());
            let thread = std::thread::Builder::new().name(format!("node-device-{device}"));
            threads.push(thread.spawn(move || own.run(factory, &sender))?);
        }
        threads.extend(settling);
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
