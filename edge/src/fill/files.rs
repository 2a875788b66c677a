//! What is told of a picture's files: for people who look at its bytes.
//!
//! Invariants: nothing is drawn, rendered, fetched from the fleet or moved for it; of a quick rung that its final one has replaced, this
//! process remembers what it was, within a bound.

use std::time::Duration;

use futures_util::future::join_all;
use moka::sync::Cache;
use tokio::time::timeout;

use super::rendition::Cut;
use super::{Fill, Want};
use crate::cache::{FileFacts, RenditionKey};
use crate::governance::Verdict;
use crate::render::{RenditionSpec, Rung};

/// Most quick rungs that are remembered, some hundred bytes each.
const REMEMBERED_MAX: u64 = 20_000;
/// How long a page waits for a disk.
const PATIENCE: Duration = Duration::from_secs(1);

/// Quick and hurried rungs that were rendered here.
#[derive(Debug)]
pub(super) struct QuickFiles(Cache<RenditionKey, FileFacts>);

impl Default for QuickFiles {
    fn default() -> Self {
        Self(Cache::new(REMEMBERED_MAX))
    }
}

impl QuickFiles {
    pub(super) fn note(&self, cut: Cut<'_>, facts: FileFacts) {
        if facts.rung != Rung::Final {
            self.0.insert(cut.key(), facts);
        }
    }
}

/// A picture at a size and in a format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PictureFile {
    /// What readers get.
    pub(crate) now: FileFacts,
    /// The quick rung that it replaced.
    pub(crate) before: Option<FileFacts>,
}

impl Fill {
    /// Of each spec, what this edge has; nothing of a picture that readers may not see.
    pub(crate) async fn files(&self, want: &Want, specs: &[RenditionSpec]) -> Vec<Option<PictureFile>> {
        let placed = self.gate.would_place(want.clone()).ok();
        let known = placed.and_then(|placed| self.masters.binding(&placed).map(|binding| (placed, binding)));
        let shown = known.filter(|(placed, binding)| self.gate.would_clear(placed, Some(binding.master)).is_ok());
        let Some((placed, binding)) = shown else { return vec![None; specs.len()] };
        let looks = specs.iter().map(|spec| {
            let cut = Cut { spec, ..Cut::of(&placed, &binding) };
            let key = cut.key();
            async move {
                let now = self.caches.facts(key).await?;
                if self.purges.verdict_at(&cut.subject(), (cut.master, now.generation)) != Verdict::Valid {
                    return None;
                }
                let before = self.files.0.get(&key).filter(|_| now.rung == Rung::Final);
                Some(PictureFile { now, before })
            }
        });
        timeout(PATIENCE, join_all(looks)).await.unwrap_or_else(|_| vec![None; specs.len()])
    }
}
