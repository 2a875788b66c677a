//! The work of a batch: its pictures one after the other, as many at a time as its terms say.
//!
//! Invariants: it takes a turn of the one queue that warmings take theirs of; each picture goes the way that all go
//! behind readers (`warm::Settler`); a picture is looked up in the catalogue as it is then; one that fails holds up no
//! other.

use std::sync::Arc;
use std::time::Duration;

use bildkante_shared::import::MasterRecipe;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::Inner;
use super::live::{Batch, Wish};
use super::record::{BatchState, Item, ItemState, Terms};
use crate::candidates::UNDECIDED_MAX;
use crate::fill::Filled;
use crate::request::IMAGE_PATH_PREFIX;
use crate::resolve::{Operator, Resolution, Want, resolve};
use crate::warm::CONCURRENCY_MAX;
use crate::warm::plan::cuts;
use crate::words::{Format, Outcome};

/// How often a running batch is stored.
const STORE_INTERVAL: Duration = Duration::from_secs(2);

impl Inner {
    /// Works on a batch until it has ended, is paused or the process stops.
    pub(super) async fn run(self: Arc<Self>, batch: Arc<Batch>) {
        self.metrics.running.inc();
        // A task of its own: a batch whose work panics has ended.
        let state = match tokio::spawn(Arc::clone(&self).work(Arc::clone(&batch))).await {
            Ok(state) => state,
            Err(error) if error.is_panic() => {
                tracing::error!(batch = batch.id, %error, "a batch ended early");
                batch.broke(&error.to_string());
                Some(BatchState::Refused)
            }
            // The runtime ends.
            Err(_) => None,
        };
        self.metrics.running.dec();
        batch.end(state);
        if let Some(state) = state {
            let record = batch.status().record;
            tracing::info!(
                batch = record.id,
                state = state.as_str(),
                drawn = record.tally.drawn,
                there = record.tally.there,
                failed = record.tally.failed,
                left = record.left(),
                "a batch stands still"
            );
        }
        self.store(&batch);
        self.settled(&batch).await;
        batch.leave();
    }

    /// How it ended; `None` when the edge is stopping, so that the next one goes on.
    async fn work(self: Arc<Self>, batch: Arc<Batch>) -> Option<BatchState> {
        let (mut wishes, mut shutdown) = (batch.wishes(), self.shutdown.clone());
        let _turn = tokio::select! {
            biased;
            () = shutdown.requested() => return None,
            state = heard(&mut wishes) => return Some(state),
            turn = Arc::clone(self.warmer.turns()).acquire_owned() => turn.ok()?,
        };
        if let Err(reason) = self.load(&batch).await {
            batch.broke(&reason);
            return Some(BatchState::Refused);
        }
        let terms = batch.status().record.terms;
        let concurrency = terms.concurrency.clamp(1, CONCURRENCY_MAX);
        let (permits, mut pictures) = (Arc::new(Semaphore::new(concurrency)), JoinSet::new());
        let beginning = Arc::clone(&batch);
        let waiting = tokio::task::spawn_blocking(move || beginning.begin()).await;
        let mut waiting = match waiting {
            Ok(waiting) => waiting.into_iter(),
            Err(error) => return self.broke(&batch, &error),
        };
        let mut store = tokio::time::interval(STORE_INTERVAL);
        loop {
            while pictures.len() < concurrency
                && let Some(number) = waiting.next()
            {
                let (this, batch, permits) = (Arc::clone(&self), Arc::clone(&batch), Arc::clone(&permits));
                let terms = terms.clone();
                pictures.spawn(async move {
                    let Some(item) = batch.take(number) else { return };
                    let item = this.draw(item, &terms, &permits).await;
                    this.metrics.count(item.state);
                    batch.put(number, item);
                });
            }
            tokio::select! {
                biased;
                () = shutdown.requested() => return None,
                state = heard(&mut wishes) => return Some(state),
                ended = pictures.join_next() => match ended {
                    None => return Some(BatchState::Done),
                    Some(Err(error)) => return self.broke(&batch, &error),
                    Some(Ok(())) => {}
                },
                _ = store.tick() => self.store(&batch),
            }
        }
    }

    /// A picture whose work panicked would be counted as waiting for ever.
    fn broke(&self, batch: &Batch, error: &tokio::task::JoinError) -> Option<BatchState> {
        if !error.is_panic() {
            return None;
        }
        tracing::error!(batch = batch.id, %error, "a picture of a batch ended early");
        batch.broke(&error.to_string());
        Some(BatchState::Refused)
    }

    /// Has its pictures in memory.
    pub(super) async fn load(&self, batch: &Arc<Batch>) -> Result<(), String> {
        if batch.is_loaded() {
            return Ok(());
        }
        let (stored, id, pictures) = (Arc::clone(&self.stored), batch.id, batch.status().record.pictures);
        let into = Arc::clone(batch);
        let loaded =
            tokio::task::spawn_blocking(move || stored.items(id, pictures).map(|items| into.load(items))).await;
        loaded.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
    }

    async fn draw(&self, item: Item, terms: &Terms, permits: &Arc<Semaphore>) -> Item {
        match self.drawn(&item, terms, permits).await {
            Ok(item) => item,
            Err(reason) => item.failed(&reason),
        }
    }

    async fn drawn(&self, item: &Item, terms: &Terms, permits: &Arc<Semaphore>) -> Result<Item, String> {
        let catalog = self.catalog.load();
        let url = format!("{IMAGE_PATH_PREFIX}{}", item.picture);
        let meant = resolve(&catalog, url.as_str(), &Operator).outcome;
        let Resolution { resolved, want } = meant.map_err(|refusal| refusal.to_string())?;
        let want = want.for_reviewers();
        if let MasterRecipe::Awaited(_) = want.variant.recipe {
            return Err("it awaits a picture that a person brings".to_owned());
        }
        let (want, tally) = match item.seed.filter(|seed| want.variant.drawn_seed() != Some(*seed)) {
            Some(seed) => self.candidate(&want, seed, permits).await?,
            None => {
                let formats: Vec<Format> = terms.formats.iter().filter_map(|name| Format::from_name(name)).collect();
                let separator = if url.contains('?') { '&' } else { '?' };
                let cuts = cuts(&resolved.slot, &formats);
                let urls: Vec<String> = cuts.map(|rung| format!("{url}{separator}{rung}")).collect();
                if urls.is_empty() {
                    return Err(no_format(&formats));
                }
                let tally = Arc::new(Mutex::new(Renditions::default()));
                let telling = Arc::clone(&tally);
                let told = move |url: String, made: Result<Filled, String>| telling.lock().count(&url, made);
                self.warmer.settler().picture(&catalog, permits, urls, told).await;
                let tally = std::mem::take(&mut *tally.lock());
                (want, tally)
            }
        };
        let binding = self.warmer.settler().known(&want);
        let is_drawn = tally.is_drawn;
        let item = Item {
            state: if is_drawn { ItemState::Drawn } else { ItemState::There },
            recipe: Some(want.variant.recipe.id()),
            master: binding.as_ref().map(|binding| binding.master),
            bytes: tally.bytes,
            device_ms: binding.and_then(|binding| binding.device_ms).filter(|_| is_drawn),
            ..item.clone()
        };
        Ok(match tally.failure {
            Some(reason) => item.failed(&reason),
            None => item,
        })
    }

    /// With another seed: one rendition, which people decide about.
    async fn candidate(&self, want: &Want, seed: u32, permits: &Arc<Semaphore>) -> Result<(Want, Renditions), String> {
        let variant = &want.variant;
        if !variant.review.is_required() {
            return Err("people decide about no picture of its slot: it is drawn with its own seed alone".to_owned());
        }
        let candidate = variant.with_seed(seed).ok_or("no model draws it: it is imported")?;
        let is_known = self.reviews.seeds_of(variant).contains(&seed);
        if !is_known && self.reviews.undecided(&variant.picture) >= UNDECIDED_MAX {
            return Err(format!("{UNDECIDED_MAX} pictures of it await a decision: decide about some of them first"));
        }
        let want = want.of_variant(Arc::new(candidate)).for_reviewers();
        let _permit = permits.acquire().await.map_err(|error| error.to_string())?;
        let mut renditions = Renditions::default();
        renditions.count("", Ok(self.warmer.settler().made(&want).await?));
        Ok((want, renditions))
    }
}

/// A picture that no format is left of would count as one that is there.
fn no_format(asked: &[Format]) -> String {
    let names: Vec<&str> = asked.iter().map(|format| format.as_str()).collect();
    format!("its slot has none of these formats: {}", names.join(", "))
}

/// What the renditions of one picture came to.
#[derive(Debug, Default)]
struct Renditions {
    is_drawn: bool,
    bytes: u64,
    failure: Option<String>,
}

impl Renditions {
    fn count(&mut self, url: &str, made: Result<Filled, String>) {
        match made {
            Ok(filled) => {
                self.is_drawn |= filled.outcome == Outcome::Generated;
                self.bytes += filled.rendition.body.len() as u64;
            }
            Err(reason) => {
                let cut = url.rsplit_once("w=").map_or("", |(_, cut)| cut);
                self.failure.get_or_insert_with(|| format!("w={cut}: {reason}"));
            }
        }
    }
}

/// What people wish instead of its going on.
async fn heard(wishes: &mut watch::Receiver<Wish>) -> BatchState {
    loop {
        match *wishes.borrow_and_update() {
            Wish::Pause => return BatchState::Paused,
            Wish::Cancel => return BatchState::Cancelled,
            Wish::Go => {}
        }
        if wishes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
