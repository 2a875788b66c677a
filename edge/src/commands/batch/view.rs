//! How far a batch is: a bar on a terminal, lines anywhere else; and what it came to.

use std::io::IsTerminal;
use std::time::Duration;

use bildkante_shared::console::OutputError;
use bildkante_shared::{remark, say};
use indicatif::{HumanBytes, HumanDuration, ProgressBar, ProgressStyle};

use super::{Batch, Cost, FailureLine};
use crate::batch::record::BatchState;

pub(super) enum View {
    Bar(ProgressBar),
    Lines,
}

impl View {
    pub(super) fn new() -> Self {
        if !std::io::stderr().is_terminal() {
            return Self::Lines;
        }
        let bar = ProgressBar::new(0);
        let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self::Bar(bar)
    }

    pub(super) fn show(&self, batch: &Batch, is_lines_turn: bool) {
        let Batch { pictures, drawing, drawn, there, failed, .. } = batch;
        let done = drawn + there + failed;
        let eta = batch.eta_ms.map(|ms| format!(", {} to go", HumanDuration(Duration::from_millis(ms))));
        let waits = if batch.state == BatchState::Queued { ", waits for its turn" } else { "" };
        let counts = format!(
            "{drawn} drawn, {there} there, {failed} failed, {drawing} being drawn{waits}{}",
            eta.unwrap_or_default()
        );
        match self {
            Self::Bar(bar) => {
                bar.set_length(*pictures);
                bar.set_position(done);
                bar.set_message(counts);
            }
            Self::Lines if is_lines_turn => remark!("batch: {done}/{pictures} pictures: {counts}"),
            Self::Lines => {}
        }
    }

    pub(super) fn finish(&self) {
        if let Self::Bar(bar) = self {
            bar.abandon();
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
