//! Drafts: a variant's picture drawn with another wording, other settings and other seeds than its manifest has, before anything is
//! committed.
//!
//! ```text
//! order ─▶ campaign::drafting: the files edited in memory ─▶ a recipe, a patch and what it changes ─▶ Fill::settle_patiently
//! ```
//!
//! A draft's recipe is its own, with its own id and master. Only the admin listener has an address for its picture. Invariants: drafts that
//! are drawn and drafts that are kept are bounded, and one that is ended counts until its drawing ends; each ends after a day, with its
//! address; no decision pins its master; nothing here writes a file. A restart ends them all: what is kept of a draft is its patch, where its author put it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bildkante_shared::ids::RecipeId;
use parking_lot::Mutex;
use prometheus::{IntCounterVec, IntGauge, Opts, Registry};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::cache::{Bindings, unix_ms};
use crate::campaign::drafting::{
    CHANGES_LISTED_MAX, Changed, Draft, DraftError, DraftSeeds, Drafted, Drafting, Effect, Knob, KnobId, Reach,
};
use crate::campaign::{Catalog, CatalogHandle, Variant};
use crate::fill::Fill;
use crate::resolve::{self, Want};
use crate::warm::{Cost, Price};
use crate::words::Format;

/// Pictures of one order.
pub const DRAFT_PICTURES_MAX: u32 = 4;
/// How long a draft and its addresses live.
pub const DRAFT_LIFE: Duration = Duration::from_secs(24 * 60 * 60);
/// Drafts that are being drawn on this edge.
const OPEN_MAX: usize = 32;
/// Orders that are kept; the oldest whose pictures are drawn makes room.
const ORDERS_MAX: usize = 256;

/// What is to be drafted.
#[derive(Debug, Clone)]
pub struct DraftOrder {
    /// `campaign/slot?axis=value&…`.
    pub variant: String,
    pub changes: BTreeMap<KnobId, String>,
    pub reach: Reach,
    pub seeds: DraftSeeds,
}

/// Where a draft's picture is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DraftProgress {
    Drawing,
    Drawn {
        device_ms: Option<u64>,
    },
    /// Why there is none.
    Failed(String),
}

/// One picture of an order.
#[derive(Debug, Clone)]
pub struct DraftPicture {
    pub seed: u32,
    pub variant: Arc<Variant>,
    pub patch: String,
    pub cost: DraftCost,
    pub progress: DraftProgress,
}

/// What it takes to make the draft the manifest's own.
#[derive(Debug, Clone)]
pub struct DraftCost {
    /// Variants that would have another recipe.
    pub variants: usize,
    /// Recipes that are not there yet, this one not counted: pictures that would be drawn.
    pub undrawn: usize,
    /// Recipes that would be others.
    pub recipes: usize,
    /// Some of them, those of the draft's campaign first.
    pub listed: Vec<Changed>,
    /// Whether there are more than were compared.
    pub is_cut: bool,
    /// Mean device time of the pictures that would be drawn anew, as they were drawn before.
    pub former_ms: Option<u64>,
}

/// An order, and what became of it.
#[derive(Debug, Clone)]
pub struct DraftSheet {
    pub id: String,
    /// The variant's name.
    pub variant: String,
    pub by: String,
    pub ends_unix_ms: u64,
    pub pictures: Vec<DraftPicture>,
}

impl DraftSheet {
    /// Device time of one picture: measured on these drafts, else on what was drawn before.
    #[must_use]
    pub fn picture_ms(&self, picture: &DraftPicture) -> Option<u64> {
        let drawn = self.pictures.iter().filter_map(|picture| match picture.progress {
            DraftProgress::Drawn { device_ms } => device_ms,
            DraftProgress::Drawing | DraftProgress::Failed(_) => None,
        });
        mean(drawn).or(picture.cost.former_ms)
    }

    /// Device time of all that would be drawn; `None` where none was measured.
    #[must_use]
    pub fn redrawing_ms(&self, picture: &DraftPicture) -> Option<u64> {
        if picture.cost.undrawn == 0 {
            return Some(0);
        }
        self.picture_ms(picture).map(|ms| ms.saturating_mul(picture.cost.undrawn as u64))
    }

    /// What that costs; `None` without a price, too.
    #[must_use]
    pub fn redrawing_cost(&self, picture: &DraftPicture, price: Option<&Price>) -> Option<Cost> {
        #[allow(clippy::cast_precision_loss, reason = "milliseconds are far below 2^52")]
        let device_ms = self.redrawing_ms(picture)? as f64;
        Some(price?.of(device_ms))
    }

    #[must_use]
    pub fn is_drawing(&self) -> bool {
        self.pictures.iter().any(|picture| picture.progress == DraftProgress::Drawing)
    }
}

/// Why there is no draft.
#[derive(Debug, thiserror::Error)]
pub enum DraftsError {
    #[error("`{0}` is no variant of a campaign")]
    NoVariant(String),
    #[error(transparent)]
    Draft(#[from] DraftError),
    #[error("{OPEN_MAX} drafts are being drawn on this edge: wait for some of them")]
    Full,
    #[error("the system has no random bits")]
    Random,
    #[error("the files could not be looked through")]
    Broken,
}

/// See the module's documentation. Cheap to clone.
#[derive(Debug, Clone)]
pub struct DraftDesk {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    catalog: CatalogHandle,
    fill: Arc<Fill>,
    bindings: Bindings,
    /// The oldest first.
    sheets: Mutex<VecDeque<DraftSheet>>,
    /// Drafts that are being drawn, or wait for that.
    drawing: Arc<Semaphore>,
    /// Reading the files anew is work for a core: one order at a time.
    turn: Arc<Semaphore>,
    ended: IntCounterVec,
    open: IntGauge,
}

impl DraftDesk {
    /// # Errors
    /// When a metric of the same name is registered already.
    pub fn new(
        catalog: CatalogHandle,
        fill: Arc<Fill>,
        bindings: Bindings,
        registry: &Registry,
    ) -> prometheus::Result<Self> {
        let ended = IntCounterVec::new(
            Opts::new("bildkante_edge_drafts_total", "Drafts that were drawn for this edge, by how they ended"),
            &["outcome"],
        )?;
        let open = IntGauge::new("bildkante_edge_drafts_open", "Drafts that are being drawn")?;
        registry.register(Box::new(ended.clone()))?;
        registry.register(Box::new(open.clone()))?;
        for outcome in ["drawn", "failed"] {
            ended.with_label_values(&[outcome]);
        }
        let (sheets, turn) = (Mutex::default(), Arc::new(Semaphore::new(1)));
        let drawing = Arc::new(Semaphore::new(OPEN_MAX));
        Ok(Self { inner: Arc::new(Inner { catalog, fill, bindings, sheets, drawing, turn, ended, open }) })
    }

    /// The variant that a text means, by its whole name.
    ///
    /// # Errors
    /// When there is no such variant.
    pub fn meant(&self, variant: &str) -> Result<String, DraftsError> {
        Ok(want(&self.inner.catalog.load(), variant, "")?.variant.name.clone())
    }

    /// What of a variant's recipe a draft may change, as its files say it now.
    ///
    /// # Errors
    /// When there is no such variant, no model draws it, or its files cannot be edited.
    pub async fn knobs(&self, variant: &str) -> Result<Vec<Knob>, DraftsError> {
        let catalog = self.inner.catalog.load();
        let variant = want(&catalog, variant, "")?.variant;
        let sources = self.inner.catalog.sources().clone();
        let read = tokio::task::spawn_blocking(move || {
            let campaign = campaign_of(&variant.name).to_owned();
            let of = drafted(&campaign, &variant);
            Ok(Drafting::open(&sources, &catalog, of)?.knobs(&catalog, of))
        });
        read.await.map_err(|_| DraftsError::Broken)?
    }

    /// Makes drafts and has them drawn. Answers when their recipes and patches are known.
    ///
    /// # Errors
    /// When the order makes no sense, or too much is under way.
    pub async fn order(&self, by: &str, order: DraftOrder) -> Result<DraftSheet, DraftsError> {
        let catalog = self.inner.catalog.load();
        let base = want(&catalog, &order.variant, "")?;
        let count = order.seeds.count.clamp(1, DRAFT_PICTURES_MAX);
        let places = Arc::clone(&self.inner.drawing).try_acquire_many_owned(count);
        let mut places = places.map_err(|_| DraftsError::Full)?;
        let turn = Arc::clone(&self.inner.turn).acquire_owned().await.map_err(|_| DraftsError::Broken)?;
        let (sources, variant) = (self.inner.catalog.sources().clone(), Arc::clone(&base.variant));
        let bindings = self.inner.bindings.clone();
        let work = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let campaign = campaign_of(&variant.name).to_owned();
            let of = drafted(&campaign, &variant);
            let drafting = Drafting::open(&sources, &catalog, of)?;
            let seeds = DraftSeeds { count, ..order.seeds };
            let drafts = drafting.drafts((&sources, &catalog), of, (&order.changes, order.reach), seeds)?;
            Ok::<_, DraftsError>(drafts.into_iter().map(|draft| picture(&bindings, draft)).collect::<Vec<_>>())
        });
        let pictures = work.await.map_err(|_| DraftsError::Broken)??;
        let sheet = DraftSheet {
            id: random_id()?,
            variant: base.variant.name.clone(),
            by: by.to_owned(),
            ends_unix_ms: unix_ms(SystemTime::now() + DRAFT_LIFE),
            pictures,
        };
        self.keep(sheet.clone());
        for picture in &sheet.pictures {
            let place = places.split(1);
            self.inner.open.inc();
            let want = base.of_draft(Arc::clone(&picture.variant));
            tokio::spawn(Arc::clone(&self.inner).draw(sheet.id.clone(), want, (picture.seed, place)));
        }
        Ok(sheet)
    }

    /// One that has not ended.
    #[must_use]
    pub fn sheet(&self, id: &str) -> Option<DraftSheet> {
        let now = unix_ms(SystemTime::now());
        self.inner.sheets.lock().iter().find(|sheet| sheet.id == id && sheet.ends_unix_ms > now).cloned()
    }

    /// Those of a variant's picture that have not ended, the newest first.
    #[must_use]
    pub fn of_variant(&self, variant: &str) -> Vec<DraftSheet> {
        let now = unix_ms(SystemTime::now());
        let sheets = self.inner.sheets.lock();
        sheets.iter().rev().filter(|it| it.variant == variant && it.ends_unix_ms > now).cloned().collect()
    }

    /// Ends one before its time; `false` where there is none.
    pub fn end(&self, id: &str) -> bool {
        let mut sheets = self.inner.sheets.lock();
        let before = sheets.len();
        sheets.retain(|sheet| sheet.id != id);
        sheets.len() < before
    }

    /// What is wanted of a draft's picture: at least so wide, where the slot goes that far.
    ///
    /// # Errors
    /// When the catalogue has no such variant any more.
    pub fn want(&self, picture: &DraftPicture, width_px: u32, format: Format) -> Result<Want, DraftsError> {
        let cut = format!("w={width_px}&fm={}", format.as_str());
        let base = want(&self.inner.catalog.load(), &picture.variant.name, &cut)?;
        Ok(base.of_draft(Arc::clone(&picture.variant)))
    }

    fn keep(&self, sheet: DraftSheet) {
        let now = unix_ms(SystemTime::now());
        let mut sheets = self.inner.sheets.lock();
        sheets.retain(|sheet| sheet.ends_unix_ms > now);
        if sheets.len() >= ORDERS_MAX
            && let Some(oldest) = sheets.iter().position(|sheet| !sheet.is_drawing())
        {
            sheets.remove(oldest);
        }
        sheets.push_back(sheet);
    }
}

impl Inner {
    /// `place` is held until the drawing ends, whether the draft is still kept or not.
    async fn draw(self: Arc<Self>, id: String, want: Want, (seed, place): (u32, Option<OwnedSemaphorePermit>)) {
        // In a task of its own, so that what breaks there is told as a failure.
        let (inner, wanted) = (Arc::clone(&self), want.clone());
        let task = tokio::spawn(async move { inner.fill.settle_patiently(&wanted).await });
        let result = task.await.map_err(|_| "the drawing broke down".to_owned());
        let result = result.and_then(|settled| settled.map_err(|error| error.to_string()));
        drop(place);
        self.open.dec();
        let progress = match result {
            Ok(_) => {
                let device_ms = self.fill.known(&want).and_then(|binding| binding.device_ms).and_then(whole_ms);
                DraftProgress::Drawn { device_ms }
            }
            Err(reason) => {
                tracing::warn!(variant = want.variant.name, seed, reason, "a draft failed");
                DraftProgress::Failed(reason)
            }
        };
        let outcome = if matches!(progress, DraftProgress::Drawn { .. }) { "drawn" } else { "failed" };
        self.ended.with_label_values(&[outcome]).inc();
        let mut sheets = self.sheets.lock();
        let pictures = sheets.iter_mut().filter(|sheet| sheet.id == id).flat_map(|sheet| &mut sheet.pictures);
        pictures.filter(|picture| picture.seed == seed).for_each(|picture| picture.progress = progress.clone());
    }
}

fn picture(bindings: &Bindings, draft: Draft) -> DraftPicture {
    let Draft { seed, variant, patch, effect } = draft;
    let Effect { variants, mut recipes, is_cut } = effect;
    let is_undrawn = |id: RecipeId| id != variant.recipe.id() && bindings.get(id).is_none();
    let undrawn = recipes.iter().filter(|changed| is_undrawn(changed.after)).count();
    let former = recipes.iter().filter_map(|changed| bindings.get(changed.before)?.device_ms.and_then(whole_ms));
    let (former_ms, count) = (mean(former), recipes.len());
    recipes.truncate(CHANGES_LISTED_MAX);
    let cost = DraftCost { variants, undrawn, recipes: count, listed: recipes, is_cut, former_ms };
    DraftPicture { seed, variant: Arc::new(variant), patch, cost, progress: DraftProgress::Drawing }
}

/// Begun ones count; what no drawing takes is none.
fn whole_ms(ms: f64) -> Option<u64> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within the bounds, and whole")]
    (ms > 0.0 && ms < 1e12).then(|| ms.ceil() as u64)
}

fn mean(all_ms: impl Iterator<Item = u64>) -> Option<u64> {
    let (sum, count) = all_ms.fold((0_u64, 0_u64), |(sum, count), ms| (sum.saturating_add(ms), count + 1));
    sum.checked_div(count)
}

fn drafted<'a>(campaign: &'a str, variant: &Variant) -> Drafted<'a> {
    Drafted { campaign, slot_index: usize::from(variant.key.slot), combination: variant.key.combination }
}

fn campaign_of(name: &str) -> &str {
    name.split('/').next().unwrap_or(name)
}

/// What is wanted of a variant's own picture.
fn want(catalog: &Catalog, variant: &str, cut: &str) -> Result<Want, DraftsError> {
    let want = resolve::want_named(catalog, variant, cut);
    want.map_err(|_| DraftsError::NoVariant(variant.chars().take(200).collect()))
}

/// 128 random bits: an address that is not guessed.
fn random_id() -> Result<String, DraftsError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|_| DraftsError::Random)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mean_is_of_what_was_measured() {
        assert_eq!(mean([].into_iter()), None);
        assert_eq!(mean([2, 4, 9].into_iter()), Some(5));
    }

    #[test]
    fn ids_are_not_guessed() {
        let (one, other) = (random_id().unwrap(), random_id().unwrap());
        assert!(one.len() == 32 && one != other);
    }
}
