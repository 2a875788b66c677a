//! The epoch of answers: a counter that moves when a URL that was answered before may have to be answered otherwise.
//!
//! The front map keeps finished answers by URL as it was sent. Instead of finding out which of them a reload, a purge
//! or a changed binding touches, all of them lapse at once, in O(1), and are made anew as they are asked for.
//!
//! Invariant: code that changes what a URL means calls [`Epoch::advance`] *after* the change can be seen; an answer
//! carries the epoch read *before* the change could have been missed, at the start of its request.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Shared by all who change or keep answers. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct Epoch {
    count: Arc<AtomicU64>,
}

impl Epoch {
    /// What an answer that is begun now belongs to.
    #[must_use]
    pub fn current(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    /// Lets every answer kept so far lapse.
    pub fn advance(&self) {
        self.count.fetch_add(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_count_together() {
        let epoch = Epoch::default();
        let (other, before) = (epoch.clone(), epoch.current());
        other.advance();
        assert_ne!(epoch.current(), before);
    }
}
