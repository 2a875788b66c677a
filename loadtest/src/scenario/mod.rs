//! What is asked, and when.

pub mod hits;
pub mod stampede;

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::client::{Exchange, ExchangeError};
use crate::report::Tally;

/// Counts a result, and fails the run where counting itself fails.
fn record(tally: &Mutex<Tally>, due: Instant, result: &Result<Exchange, ExchangeError>) -> anyhow::Result<()> {
    // A tally is counters only: whatever panicked beside it, they are as good as before.
    Ok(tally.lock().unwrap_or_else(PoisonError::into_inner).record(due, result)?)
}

/// Takes the tally out once every task that shared it has ended.
fn close(tally: std::sync::Arc<Mutex<Tally>>) -> anyhow::Result<Tally> {
    let tally = std::sync::Arc::into_inner(tally).ok_or_else(|| anyhow::anyhow!("a sender outlived the run"))?;
    Ok(tally.into_inner().unwrap_or_else(PoisonError::into_inner))
}
