//! How far the edge is, while a command waits for it: a bar on a terminal, lines anywhere else.

use std::io::IsTerminal;
use std::time::Duration;

use bildkante_shared::remark;
use indicatif::{HumanDuration, ProgressBar, ProgressStyle};

/// See the module's documentation.
pub(super) enum View {
    Bar(ProgressBar),
    Lines,
}

/// What there is to do, and how much of it is done.
pub(super) struct Progress<'p> {
    /// The command.
    pub(super) of: &'p str,
    /// What is counted.
    pub(super) unit: &'p str,
    pub(super) done: u64,
    pub(super) total: u64,
    /// In words: what became of it.
    pub(super) counts: String,
    pub(super) eta_ms: Option<u64>,
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

    pub(super) fn show(&self, progress: &Progress<'_>, is_lines_turn: bool) {
        let Progress { of, unit, done, total, counts, eta_ms } = progress;
        let eta = eta_ms.map(|ms| format!(", {} to go", HumanDuration(Duration::from_millis(ms)))).unwrap_or_default();
        match self {
            Self::Bar(bar) => {
                bar.set_length(*total);
                bar.set_position(*done);
                bar.set_message(format!("{counts}{eta}"));
            }
            Self::Lines if is_lines_turn => remark!("{of}: {done}/{total} {unit}: {counts}{eta}"),
            Self::Lines => {}
        }
    }

    pub(super) fn finish(&self) {
        if let Self::Bar(bar) = self {
            bar.abandon();
        }
    }
}
