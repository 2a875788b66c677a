//! Imports as an origin: masters that people brought, made from the originals beside the manifests.
//!
//! Owns nothing: `bildkante-edge import` keeps each original under its digest in `imports/` of the campaigns' folder, which
//! is committed with the manifests, and this module only reads it. So neither eviction nor a purge forgets an import: its
//! master is made from the original again. Invariants: an original is used only if its digest is the recipe's; the same
//! original gives the same master; no node is asked. Reading and decoding run on the render pool.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bildkante_shared::ids::{Digest, MasterId};
use bildkante_shared::import::ValidImport;
use bildkante_shared::phash::PerceptualHash;
use bildkante_shared::pixels::Pixels;
use bildkante_shared::wire::GenerationSource;
use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use super::OriginError;
use super::seam::{Made, Order, Origin};
use crate::cache::MasterFile;
use crate::campaign::originals::{OriginalFault, originals_folder, read_original};
use crate::decoding::DecoderCommand;
use crate::render::{
    DecodeMemory, MemoryShare, NoMemory, OriginalError, PoolError, RenderPool, decode_original, encode_master,
    memory_for,
};

/// What a binding names as the maker of an imported master.
pub const MAKER: &str = "import";

/// Why an original cannot be used now.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ImportFault {
    #[error("no picture has been imported for this variant yet: `bildkante-edge import` does it")]
    Awaited,
    #[error(transparent)]
    Original(#[from] OriginalFault),
    #[error("original {digest} cannot be used: {cause}")]
    Unusable { digest: Digest, cause: OriginalError },
    #[error("original {digest} waits for a place in the render pool: {cause}")]
    Pool { digest: Digest, cause: PoolError },
    #[error("original {digest} is not decoded now: {cause}")]
    Memory { digest: Digest, cause: NoMemory },
}

impl ImportFault {
    /// Whether the same may go well a moment later.
    #[must_use]
    pub const fn may_pass(&self) -> bool {
        match self {
            Self::Pool { .. } | Self::Memory { .. } => true,
            Self::Unusable { cause, .. } => !cause.is_of_the_file(),
            Self::Awaited | Self::Original(_) => false,
        }
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Imports {
    folder: PathBuf,
    pool: Arc<RenderPool>,
    memory: DecodeMemory,
    /// Decodes AVIF.
    decoder: DecoderCommand,
}

/// What a job of the pool came to.
enum Attempt<T> {
    Done(T),
    /// Others have the memory; so many bytes are needed.
    NoMemory(u64),
}

impl Imports {
    #[must_use]
    pub fn new(campaigns_dir: &Path, pool: Arc<RenderPool>, (memory, decoder): (DecodeMemory, DecoderCommand)) -> Self {
        Self { folder: originals_folder(campaigns_dir), pool, memory, decoder }
    }

    async fn decoded<T: Send + 'static>(
        &self,
        recipe: &ValidImport,
        order: &Order<'_>,
        finish: impl FnOnce(Pixels) -> Result<T, OriginalError> + Clone + Send + 'static,
    ) -> Result<T, OriginError> {
        let digest = recipe.import;
        let bytes = match self.attempt(digest, order, None, finish.clone()).await? {
            Attempt::Done(done) => return Ok(done),
            Attempt::NoMemory(bytes) => bytes,
        };
        // Waited for outside the pool, whose threads have renditions to make.
        let share = self.memory.share(bytes).await.map_err(|cause| ImportFault::Memory { digest, cause })?;
        match self.attempt(digest, order, Some((bytes, share)), finish).await? {
            Attempt::Done(done) => Ok(done),
            // The same digest is the same file.
            Attempt::NoMemory(_) => Err(OriginError::from(ImportFault::Unusable {
                digest,
                cause: OriginalError::Damaged("it changed while it was read".to_owned()),
            })),
        }
    }

    async fn attempt<T: Send + 'static>(
        &self,
        digest: Digest,
        order: &Order<'_>,
        share: Option<(u64, MemoryShare)>,
        finish: impl FnOnce(Pixels) -> Result<T, OriginalError> + Send + 'static,
    ) -> Result<Attempt<T>, OriginError> {
        let (folder, memory, decoder) = (self.folder.clone(), self.memory.clone(), self.decoder.clone());
        let unusable = move |cause| ImportFault::Unusable { digest, cause };
        // Read by the job, not before it: what waits for a place in the pool holds no file.
        let work = move || -> Result<Attempt<T>, ImportFault> {
            let file = read_original(&folder, digest)?;
            let bytes = memory_for(&file).map_err(unusable)?;
            let share = share.filter(|(held, _)| *held >= bytes).map(|(_, share)| share);
            let Some(_share) = share.or_else(|| memory.share_now(bytes)) else { return Ok(Attempt::NoMemory(bytes)) };
            decode_original(&file, &decoder).and_then(finish).map(Attempt::Done).map_err(unusable)
        };
        let done = self.pool.run(order.urgency, work).await.map_err(|cause| ImportFault::Pool { digest, cause })?;
        Ok(done?)
    }

    async fn within<T>(
        deadline: Duration,
        work: impl Future<Output = Result<T, OriginError>>,
    ) -> Result<T, OriginError> {
        tokio::time::timeout(deadline, work).await.unwrap_or(Err(OriginError::DeadlinePassed))
    }

    async fn made(&self, recipe: &ValidImport, order: Order<'_>) -> Result<Made, OriginError> {
        let master = |pixels: Pixels| {
            let (id, width_px, height_px) = (pixels.master_id(), pixels.width_px(), pixels.height_px());
            Ok((id, width_px, height_px, PerceptualHash::of(pixels.into_rgb(), width_px, height_px)))
        };
        let (master, width_px, height_px, phash) = self.decoded(recipe, &order, master).await?;
        Ok(Made {
            master,
            width_px,
            height_px,
            // Nodes look for duplicates among what they draw. An import's fingerprint is for the detector.
            phash: phash.unwrap_or_else(|| PerceptualHash::from_bytes([0; 32])),
            duplicate: None,
            drawn_unix_s: None,
            determinism: None,
            device_ms: None,
            maker: MAKER.to_owned(),
            source: GenerationSource::Stored,
        })
    }

    async fn file(&self, id: MasterId, recipe: &ValidImport, order: Order<'_>) -> Result<MasterFile, OriginError> {
        let encode =
            move |pixels: Pixels| if pixels.master_id() == id { encode_master(&pixels).map(Some) } else { Ok(None) };
        let png = self.decoded(recipe, &order, encode).await?;
        Ok(MasterFile { id, png: Bytes::from(png.ok_or(OriginError::MasterAbsent { id })?) })
    }
}

impl Origin<ValidImport> for Imports {
    fn make<'a>(&'a self, recipe: &'a ValidImport, order: Order<'a>) -> BoxFuture<'a, Result<Made, OriginError>> {
        Self::within(order.deadline, self.made(recipe, order)).boxed()
    }

    fn master<'a>(
        &'a self,
        id: MasterId,
        recipe: &'a ValidImport,
        order: Order<'a>,
    ) -> BoxFuture<'a, Result<MasterFile, OriginError>> {
        Self::within(order.deadline, self.file(id, recipe, order)).boxed()
    }
}
