//! Candidates of a variant: pictures of one recipe that differ in their seeds, asked for in one request.
//!
//! Each is a recipe of its own, with its own id and master, and a generation like any other: it is found in the store, joined,
//! queued, and may share passes with the others. What they have in common is computed once, because the engine keeps texts and
//! what ControlNets made of pictures from one drawing to the next.
//!
//! Invariants: every candidate ends once, with a reply or a problem; the answer holds the places of all of them, so a caller that
//! hangs up cancels those that have no other caller, between steps.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bildkante_shared::ids::RecipeId;
use bildkante_shared::wire::{Candidate, CandidateProgress, GenerationStatus};
use bytes::Bytes;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio::task::JoinSet;
use tracing::{Instrument, Span};

use crate::board::Generation;
use crate::drawer::Drawer;
use crate::error::GenerationError;
use crate::progress::{KEEP_ALIVE, PACE, UNREAD_MAX, event_of};

/// How long a caller may leave events unread behind the deadline, when all candidates have ended.
const UNREAD_WAIT: Duration = Duration::from_secs(30);

/// Draws all of them, each under its deadline. In the order of `generations`.
pub(crate) async fn all(drawer: &Drawer, generations: Vec<Generation>, received_at: Instant) -> Vec<Candidate> {
    let mut open = Open::of(&generations);
    let order: Vec<u32> = generations.iter().map(|generation| generation.recipe.seed).collect();
    let mut drawings = begin(drawer, generations, received_at);
    let mut ended = BTreeMap::new();
    while let Some(candidate) = drawings.join_next().await {
        if let Ok(candidate) = candidate {
            open.0.remove(&candidate.seed);
            ended.insert(candidate.seed, candidate);
        }
    }
    ended.extend(open.panicked().map(|candidate| (candidate.seed, candidate)));
    order.into_iter().filter_map(|seed| ended.remove(&seed)).collect()
}

/// The same as server-sent events: `progress` with a [`CandidateProgress`] whenever one has come further, `candidate` with a
/// [`Candidate`] when one has ended, and `end` behind the last.
pub(crate) fn events(
    drawer: Drawer,
    generations: Vec<Generation>,
    received_at: Instant,
    place: OwnedSemaphorePermit,
) -> mpsc::Receiver<Bytes> {
    let (sender, receiver) = mpsc::channel(UNREAD_MAX);
    let last = generations.iter().map(|generation| generation.deadline).max().unwrap_or(received_at) + UNREAD_WAIT;
    let told = async move {
        let _place = place;
        tokio::select! {
            () = sender.closed() => tracing::info!("candidates are not wanted any more"),
            () = tokio::time::sleep_until(last.into()) => tracing::info!("the caller reads no candidates"),
            _ = tell(&drawer, generations, received_at, &sender) => {}
        }
    };
    tokio::spawn(told.instrument(Span::current()));
    receiver
}

/// Candidates that have not ended, by their seeds: how they stood when it was told last.
struct Open(BTreeMap<u32, (RecipeId, Option<GenerationStatus>)>);

impl Open {
    fn of(generations: &[Generation]) -> Self {
        Self(generations.iter().map(|generation| (generation.recipe.seed, (generation.recipe.id(), None))).collect())
    }

    /// Those that have come further since.
    fn advanced(&mut self, now: impl Fn(RecipeId) -> Option<GenerationStatus>) -> Vec<CandidateProgress> {
        let advanced = self.0.iter_mut().filter_map(|(seed, (id, last))| {
            let status = now(*id).filter(|status| last.as_ref() != Some(status))?;
            *last = Some(status.clone());
            Some(CandidateProgress { seed: *seed, status })
        });
        advanced.collect()
    }

    /// Those that are left when every drawing has ended: a defect stopped them.
    fn panicked(self) -> impl Iterator<Item = Candidate> {
        self.0.into_iter().map(|(seed, (recipe_id, _))| failed(seed, recipe_id, &GenerationError::Panicked))
    }
}

/// Tasks of their own, which end with the set.
fn begin(drawer: &Drawer, generations: Vec<Generation>, received_at: Instant) -> JoinSet<Candidate> {
    let mut drawings = JoinSet::new();
    for generation in generations {
        let (drawer, seed, id) = (drawer.clone(), generation.recipe.seed, generation.recipe.id());
        let drawing = async move {
            match drawer.draw(generation, received_at).await {
                Ok(reply) => Candidate { seed, recipe_id: id, reply: Some(reply), problem: None },
                Err(error) => failed(seed, id, &error),
            }
        };
        drawings.spawn(drawing.instrument(Span::current()));
    }
    drawings
}

fn failed(seed: u32, recipe_id: RecipeId, error: &GenerationError) -> Candidate {
    Candidate { seed, recipe_id, reply: None, problem: Some(error.problem()) }
}

/// `None` when the reader has gone.
async fn tell(
    drawer: &Drawer,
    generations: Vec<Generation>,
    received_at: Instant,
    reader: &mpsc::Sender<Bytes>,
) -> Option<()> {
    let (mut open, mut changes) = (Open::of(&generations), drawer.admission.changes());
    let mut drawings = begin(drawer, generations, received_at);
    loop {
        changes.mark_unchanged();
        for progress in open.advanced(|id| drawer.admission.board.status(id)) {
            send(reader, "progress", &progress).await?;
        }
        tokio::select! {
            ended = drawings.join_next() => match ended {
                Some(Ok(candidate)) => {
                    open.0.remove(&candidate.seed);
                    send(reader, "candidate", &candidate).await?;
                }
                Some(Err(_)) => {}
                None => break,
            },
            has_changed = change(&mut changes) => {
                if !has_changed {
                    reader.send(Bytes::from_static(b":\n\n")).await.ok()?;
                }
            }
        }
    }
    for candidate in open.panicked() {
        send(reader, "candidate", &candidate).await?;
    }
    send(reader, "end", &()).await
}

async fn send(reader: &mpsc::Sender<Bytes>, event: &str, data: &impl Serialize) -> Option<()> {
    reader.send(event_of(event, data)).await.ok()
}

/// Waits for the next change, at most every [`PACE`]. `false` when there was none for [`KEEP_ALIVE`].
async fn change(changes: &mut watch::Receiver<u64>) -> bool {
    tokio::time::sleep(PACE).await;
    tokio::time::timeout(KEEP_ALIVE, changes.changed()).await.is_ok()
}
