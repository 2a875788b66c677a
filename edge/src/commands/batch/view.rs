//! How far a batch is, and what it came to.

use std::time::Duration;

use bildkante_shared::console::OutputError;
use bildkante_shared::say;
use indicatif::HumanBytes;

use super::{Batch, Cost, FailureLine};
use crate::batch::record::BatchState;
use crate::commands::progress::Progress;

impl Batch {
    pub(super) fn progress(&self) -> Progress<'static> {
        let Self { pictures, drawing, drawn, there, failed, .. } = self;
        let waits = if self.state == BatchState::Queued { ", waits for its turn" } else { "" };
        Progress {
            of: "batch",
            unit: "pictures",
            done: drawn + there + failed,
            total: *pictures,
            counts: format!("{drawn} drawn, {there} there, {failed} failed, {drawing} being drawn{waits}"),
            eta_ms: self.eta_ms,
        }
    }
}

pub(super) fn sum_up(batch: &Batch) -> Result<(), OutputError> {
    let Batch { id, pictures, waiting, drawn, there, failed, .. } = batch;
    say!("batch {id} {}", batch.state.as_str())?;
    say!("  pictures        {pictures}")?;
    say!("  drawn           {drawn}")?;
    say!("  there already   {there}")?;
    say!("  failed          {failed}")?;
    if *waiting > 0 {
        say!("  not begun       {waiting}")?;
    }
    say!("  device seconds  {:.1}", batch.device_seconds)?;
    if let Some(Cost { amount, currency }) = &batch.cost {
        say!("  cost            {amount} {currency}")?;
    }
    say!("  bytes           {}", HumanBytes(batch.bytes))?;
    say!("  time            {:.1} s", Duration::from_millis(batch.elapsed_ms).as_secs_f64())?;
    for FailureLine { picture, seed, reason } in &batch.failures {
        let seed = seed.map(|seed| format!(" seed {seed}")).unwrap_or_default();
        say!("  FAILED {picture}{seed}: {reason}")?;
    }
    let untold = failed.saturating_sub(batch.failures.len() as u64);
    if untold > 0 {
        say!("  … and {untold} more, which `--output` names")?;
    }
    Ok(())
}
