//! Placeholders ready to serve: the last stand-in, which no load on the render pool can take away.
//!
//! There are few sizes of a placeholder, so each file is encoded once in the life of the process, on a blocking thread,
//! and kept for good: `COUNT` sizes in four formats are half a megabyte. Those of the slots are encoded at the start,
//! before a reader needs one. A campaign's marking is added afterwards and takes microseconds, so that the marked
//! renditions may be evicted.

use std::sync::{Arc, OnceLock};

use bildkante_shared::ids::{MasterId, RecipeId};
use moka::sync::Cache;
use tokio::sync::Semaphore;

use crate::cache::{Lineage, Rendition, RenditionKey};
use crate::campaign::{Campaign, Catalog};
use crate::render::{self, EncodeError, FinishDigest, Palette, PlaceholderSize, RenderError, RenditionSpec, Rung};
use crate::words::Format;

/// Marked placeholders kept, under 3 kB each.
const KEPT_MAX: u64 = 1024;

/// Why there is no placeholder. None of these depends on load.
#[derive(Debug, thiserror::Error)]
pub enum PlaceholderError {
    #[error(transparent)]
    Render(#[from] RenderError),
    #[error("the encoder's thread ended: {0}")]
    Thread(#[from] tokio::task::JoinError),
}

impl From<EncodeError> for PlaceholderError {
    fn from(error: EncodeError) -> Self {
        Self::Render(error.into())
    }
}

/// Palette images by what they stand in for.
#[derive(Debug)]
pub(crate) struct Placeholders {
    files: Arc<Files>,
    marked: Cache<(PlaceholderSize, Format, FinishDigest), Arc<Rendition>>,
    /// One at a time: an encode takes milliseconds, and those who wait for it need nothing else.
    encoding: Semaphore,
}

impl Default for Placeholders {
    fn default() -> Self {
        Self { files: Arc::default(), marked: Cache::new(KEPT_MAX), encoding: Semaphore::new(1) }
    }
}

impl Placeholders {
    /// Encodes what the catalogue's slots need, on a thread of its own.
    pub(crate) fn prepare(&self, catalog: &Catalog) {
        let slots = catalog.campaigns().flat_map(|campaign| &campaign.slots);
        let wanted: std::collections::HashSet<_> = slots
            .flat_map(|slot| {
                slot.framings().flat_map(|(_, framing)| {
                    let width_px = framing.default_width_px;
                    let size = PlaceholderSize::of(width_px, framing.height_px(width_px));
                    slot.formats.iter().map(move |format| (size, format))
                })
            })
            .collect();
        let files = Arc::clone(&self.files);
        tokio::task::spawn_blocking(move || {
            for (size, format) in wanted {
                if let Err(error) = files.encoded(size, format) {
                    tracing::error!(%size, format = format.as_str(), %error, "a placeholder cannot be encoded");
                }
            }
        });
    }

    /// The placeholder in the shape and format that was wanted. It bears the campaign's credits: those of an import are said of no
    /// other picture.
    ///
    /// # Errors
    /// When the encoder or the marking fails, which no test has seen.
    pub(crate) async fn get(
        &self,
        spec: RenditionSpec,
        campaign: &Campaign,
    ) -> Result<Arc<Rendition>, PlaceholderError> {
        let (size, format) = (PlaceholderSize::of(spec.width_px, spec.height_px), spec.format);
        let finish = &campaign.finish;
        let key = (size, format, finish.digest());
        if let Some(kept) = self.marked.get(&key) {
            return Ok(kept);
        }
        let bytes = match self.files.ready(size, format) {
            Some(file) => render::mark_placeholder(file, format, size, finish.marking())?,
            None => render::mark_placeholder(&self.encoded(size, format).await?, format, size, finish.marking())?,
        };
        // It is no picture of any recipe: the ids name the size, so that its tags purge nothing else.
        let name = format!("placeholder {size}");
        let (recipe, master) = (RecipeId::of_bytes(name.as_bytes()), MasterId::of_bytes(name.as_bytes()));
        let lineage = Lineage::now(RenditionKey::from_raw(*recipe.as_bytes()), master, recipe);
        let rendition = Arc::new(Rendition::new(bytes.into(), spec, Rung::Final, lineage));
        self.marked.insert(key, Arc::clone(&rendition));
        Ok(rendition)
    }

    async fn encoded(&self, size: PlaceholderSize, format: Format) -> Result<Vec<u8>, PlaceholderError> {
        let _turn = self.encoding.acquire().await;
        let files = Arc::clone(&self.files);
        let encoded = tokio::task::spawn_blocking(move || files.encoded(size, format).map(<[u8]>::to_vec));
        Ok(encoded.await??)
    }
}

/// Unmarked files, each made once.
#[derive(Debug)]
struct Files([[OnceLock<Box<[u8]>>; Format::ALL.len()]; PlaceholderSize::COUNT]);

impl Default for Files {
    fn default() -> Self {
        Self(std::array::from_fn(|_| std::array::from_fn(|_| OnceLock::new())))
    }
}

impl Files {
    fn ready(&self, size: PlaceholderSize, format: Format) -> Option<&[u8]> {
        self.place(size, format).get().map(Box::as_ref)
    }

    /// Blocks for the time of an encode when it is the first to ask.
    fn encoded(&self, size: PlaceholderSize, format: Format) -> Result<&[u8], EncodeError> {
        let place = self.place(size, format);
        match place.get() {
            Some(file) => Ok(file),
            None => {
                let file = render::placeholder(Palette::default(), size, format)?;
                // Two threads that encode the same make the same bytes.
                Ok(place.get_or_init(|| file.into()))
            }
        }
    }

    fn place(&self, size: PlaceholderSize, format: Format) -> &OnceLock<Box<[u8]>> {
        &self.0[size.index()][format as usize]
    }
}
