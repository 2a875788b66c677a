//! Signing what was rendered: the manifest that was kept for it, or a new one that is kept first.
//!
//! ```text
//! rendered bytes ─ final? ─ kept manifest of the same bytes ─▶ embed it, or leave it beside
//!                    │         └ none: sign ─▶ agree with the first writer ─▶ embed what stands
//!                    └ quick: sign ─▶ embed, or keep for a while
//! ```
//!
//! Invariants: a final rung bears the manifest that is kept, so that making it again gives the same file; what is unsigned
//! although a signer is configured is never final; signing never runs on an async worker, and so many at a time.

use std::sync::Arc;
use std::time::Duration;

use bildkante_shared::ids::{Digest, MasterId};
use bildkante_shared::log_limited;
use bytes::Bytes;
use moka::sync::Cache;
use prometheus::{IntCounterVec, Opts, Registry};
use tokio::sync::Semaphore;

use super::FillError;
use super::ingredients::{ENTRY_BYTES, IngredientFault, Ingredients, added_bytes};
use super::rendition::Cut;
use crate::cache::{KeptManifest, Manifests, Rendition, RenditionKey};
use crate::credentials::{
    self, Generation, INGREDIENTS_MAX, Ingredient, Manifest, OCSP_BYTES_TYPICAL, Origin, Relation, SignError,
    SignerHandle, Signing, SoftBinding, Step, Story, TimestampAuthority, Timestamper,
};
use crate::origin::IMPORT_MAKER;
use crate::render::{Encoded, ManifestPlan, OnUnsigned, Placement, Rung, Shape, Watermarked};
use crate::watermark::{self, MasterPrefix, Watermark};
use crate::words::Format;

/// Path under which manifests beside their files are served.
pub(crate) const MANIFEST_PATH_PREFIX: &str = "/c2pa/";
/// Signatures of one rung that are made at a time: a program that signs may be slow, and an authority that dates final rungs
/// slower. Each rung has turns of its own, so that readers, who wait for quick ones, never wait for an authority.
const SIGNATURES_MAX: usize = 8;
/// Manifests that are looked for in the fleet's store at a time on behalf of clients. Their names are a client's to choose, and
/// renditions need the store, too.
const FLEET_LOOKS_MAX: usize = 4;
/// How long the manifest of a quick rung is served; the final one is there long before.
const PASSING_FOR: Duration = Duration::from_secs(3600);
const PASSING_BYTES_MAX: u64 = 16 << 20;

/// How renditions came by their manifests.
#[derive(Debug, Clone)]
pub struct CredentialMetrics {
    renditions: IntCounterVec,
    failures: IntCounterVec,
    watermarks: IntCounterVec,
}

impl CredentialMetrics {
    /// # Errors
    /// When a metric of the same name is registered already.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let counters = |name: &str, help: &str, label: &str| IntCounterVec::new(Opts::new(name, help), &[label]);
        let metrics = Self {
            renditions: counters(
                "bildkante_edge_credentials_total",
                "Rendered renditions by how they came by their C2PA manifest: signed, kept from before, unsigned because no \
                 signer is configured, or unsigned because signing failed",
                "outcome",
            )?,
            failures: counters(
                "bildkante_edge_credential_failures_total",
                "Renditions that were not signed although a signer is configured, by reason",
                "reason",
            )?,
            watermarks: counters(
                "bildkante_edge_watermarks_total",
                "Rendered renditions by whether their pixels carry the watermark: yes, too_small, or no because none is wanted",
                "outcome",
            )?,
        };
        for outcome in Outcome::ALL {
            metrics.renditions.with_label_values(&[outcome.as_str()]).inc_by(0);
        }
        registry.register(Box::new(metrics.renditions.clone()))?;
        for outcome in Watermarked::ALL {
            metrics.watermarks.with_label_values(&[outcome.as_str()]).inc_by(0);
        }
        registry.register(Box::new(metrics.failures.clone()))?;
        registry.register(Box::new(metrics.watermarks.clone()))?;
        Ok(metrics)
    }

    fn count(&self, outcome: Outcome) {
        self.renditions.with_label_values(&[outcome.as_str()]).inc();
    }
}

#[derive(Debug, Clone, Copy)]
enum Outcome {
    Signed,
    Kept,
    NoSigner,
    Failed,
}

impl Outcome {
    const ALL: [Self; 4] = [Self::Signed, Self::Kept, Self::NoSigner, Self::Failed];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Signed => "signed",
            Self::Kept => "kept",
            Self::NoSigner => "no_signer",
            Self::Failed => "failed",
        }
    }
}

/// Signs renditions and keeps their manifests.
#[derive(Debug)]
pub struct Credentials {
    signers: SignerHandle,
    manifests: Manifests,
    timestamps: Option<Arc<TimestampAuthority>>,
    ingredients: Ingredients,
    share_max: f64,
    public_url: String,
    /// Whether agreeing on a manifest asks a store over the network.
    is_fleet: bool,
    turns: [Arc<Semaphore>; Rung::ALL.len()],
    fleet_looks: Semaphore,
    passing: Cache<ManifestName, Bytes>,
    metrics: CredentialMetrics,
}

/// Which manifest: of which rung of a rendition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ManifestName {
    key: RenditionKey,
    rung: Rung,
}

impl ManifestName {
    pub(super) const fn of(rendition: &Rendition) -> Self {
        Self { key: rendition.key, rung: rendition.rung }
    }

    /// As [`Display`](std::fmt::Display) writes it.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (key, rung) = text.rsplit_once('-')?;
        let rung = Rung::ALL.into_iter().find(|known| known.as_str() == rung)?;
        Some(Self { key: key.parse().ok()?, rung })
    }
}

impl ManifestName {
    /// Whether it is there for as long as its rendition may be cached.
    pub(crate) const fn is_lasting(self) -> bool {
        matches!(self.rung, Rung::Final)
    }
}

impl std::fmt::Display for ManifestName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.key, self.rung.as_str())
    }
}

/// The path of a manifest that is beside its rendition.
pub(crate) fn manifest_path(key: RenditionKey, rung: Rung) -> String {
    format!("{MANIFEST_PATH_PREFIX}{}", ManifestName { key, rung })
}

/// A file that is signed, as far as it could be.
pub(super) struct Sealed {
    pub(super) bytes: Bytes,
    pub(super) rung: Rung,
    pub(super) placement: Placement,
}

/// Why a rendition is not signed.
#[derive(Debug, thiserror::Error)]
enum NotSigned {
    #[error("no signer works")]
    NoSigner,
    #[error(transparent)]
    Sign(#[from] SignError),
    #[error("the manifest does not fit: {0}")]
    Attach(#[from] credentials::LibraryFault),
    #[error("a kept manifest is damaged: {0}")]
    Kept(#[from] credentials::NoManifest),
    #[error("its manifest cannot be kept: {0}")]
    Keep(#[from] crate::cache::ManifestError),
    #[error("an ingredient: {0}")]
    Ingredient(#[from] IngredientFault),
    #[error("signing was cut off")]
    CutOff,
}

impl NotSigned {
    const fn as_str(&self) -> &'static str {
        match self {
            Self::NoSigner => "no_signer",
            Self::Sign(error) => error.as_str(),
            Self::Attach(_) => "attach",
            Self::Kept(_) => "kept",
            Self::Keep(_) => "keep",
            Self::Ingredient(_) => "ingredient",
            Self::CutOff => "cut_off",
        }
    }
}

/// What is known of a rendition's manifest before the rendition is there.
#[derive(Debug)]
pub(super) struct SigningPlan {
    /// Where it will be; `None` where there will be none.
    pub(super) manifest: Option<ManifestPlan>,
    ingredients: Vec<Ingredient>,
    /// Why there will be none, where one is wanted.
    fault: Option<NotSigned>,
}

impl SigningPlan {
    const fn unsigned(fault: Option<NotSigned>) -> Self {
        Self { manifest: None, ingredients: Vec::new(), fault }
    }
}

impl Credentials {
    #[must_use]
    pub fn new(
        signers: SignerHandle,
        caches: &crate::cache::Caches,
        timestamps: Option<Arc<TimestampAuthority>>,
        ingredients: Ingredients,
        share_max: f64,
        public_url: String,
        metrics: CredentialMetrics,
    ) -> Self {
        let passing = Cache::builder()
            .max_capacity(PASSING_BYTES_MAX)
            .weigher(|_: &ManifestName, bytes: &Bytes| u32::try_from(bytes.len()).unwrap_or(u32::MAX))
            .time_to_live(PASSING_FOR)
            .build();
        Self {
            signers,
            manifests: caches.manifests.clone(),
            timestamps,
            ingredients,
            share_max,
            public_url,
            is_fleet: caches.object.is_some(),
            turns: std::array::from_fn(|_| Arc::new(Semaphore::new(SIGNATURES_MAX))),
            fleet_looks: Semaphore::new(FLEET_LOOKS_MAX),
            passing,
            metrics,
        }
    }

    /// Whether a final rung may take longer than a reader should wait for the first one.
    pub(super) fn is_slow(&self) -> bool {
        self.signers.is_configured() && (self.is_fleet || self.timestamps.is_some())
    }

    /// What the manifest of a rendition will be made from, and where it will be.
    pub(super) async fn plan(&self, cut: Cut<'_>, rung: Rung) -> SigningPlan {
        if !cut.finish.is_signed() {
            return SigningPlan::unsigned(None);
        }
        if self.signers.current().is_none() {
            return SigningPlan::unsigned(Some(NotSigned::NoSigner));
        }
        let ingredients = match cut.made_of {
            Some(recipe) => self.ingredients.of(recipe).await,
            None => Ok(Vec::new()),
        };
        let ingredients = match ingredients {
            Ok(ingredients) => ingredients,
            Err(fault) => return SigningPlan::unsigned(Some(fault.into())),
        };
        let timestamp_bytes = self.timestamps_of(rung).map_or(0, |authority| authority.token_bytes_max());
        let status_bytes = if self.signers.states_revocation() { OCSP_BYTES_TYPICAL } else { 0 };
        let manifest = ManifestPlan {
            url: format!("{}{}", self.public_url, manifest_path(cut.key(), rung)),
            share_max: self.share_max,
            added_bytes: timestamp_bytes + status_bytes + added_bytes(&ingredients) + layer_bytes(cut),
        };
        SigningPlan { manifest: Some(manifest), ingredients, fault: None }
    }

    /// No reader waits for a final rung, and a quick one is gone in seconds.
    fn timestamps_of(&self, rung: Rung) -> Option<&Arc<TimestampAuthority>> {
        self.timestamps.as_ref().filter(|_| rung == Rung::Final)
    }

    /// A manifest that is beside its rendition.
    pub(crate) async fn manifest(&self, name: ManifestName) -> Option<Bytes> {
        match name.rung {
            Rung::Hurried | Rung::Quick => self.passing.get(&name),
            Rung::Final => {
                // Without a turn it is looked for on this device only.
                let look = self.fleet_looks.try_acquire();
                let kept = match &look {
                    Ok(_) => self.manifests.get(name.key).await,
                    Err(_) => self.manifests.get_here(name.key).await,
                };
                kept.map(|kept| kept.bytes)
            }
        }
    }

    /// The manifest that is kept on this device for the final rung of a rendition, and its path.
    pub(super) async fn kept(&self, key: RenditionKey) -> Option<(String, Bytes)> {
        let kept = self.manifests.get_here(key).await?;
        Some((manifest_path(key, Rung::Final), kept.bytes))
    }

    /// Signs what was rendered.
    ///
    /// # Errors
    /// When it cannot be signed, and its campaign wants a stand-in then.
    pub(super) async fn seal(&self, cut: Cut<'_>, encoded: Encoded, plan: SigningPlan) -> Result<Sealed, FillError> {
        self.metrics.watermarks.with_label_values(&[encoded.watermarked.as_str()]).inc();
        let (rung, placement) = (encoded.rung, encoded.placement);
        let unsigned = Bytes::from(encoded.bytes);
        if !cut.finish.is_signed() {
            self.metrics.count(Outcome::NoSigner);
            return Ok(Sealed { bytes: unsigned, rung, placement });
        }
        if placement == Placement::None {
            let fault = plan.fault.unwrap_or(NotSigned::NoSigner);
            return self.unsigned(cut.finish.on_unsigned(), unsigned, &fault);
        }
        let draft = Draft {
            name: ManifestName { key: cut.key(), rung },
            format: encoded.format,
            placement,
            file: unsigned.clone(),
            story: story(cut, encoded.watermarked, plan.ingredients),
        };
        match self.signed(draft).await {
            Ok(bytes) => Ok(Sealed { bytes, rung, placement }),
            Err(error) => self.unsigned(cut.finish.on_unsigned(), unsigned, &error),
        }
    }

    fn unsigned(&self, policy: OnUnsigned, bytes: Bytes, error: &NotSigned) -> Result<Sealed, FillError> {
        self.metrics.count(Outcome::Failed);
        self.metrics.failures.with_label_values(&[error.as_str()]).inc();
        log_limited!(error, %error, policy = policy.as_str(), "a rendition is not signed");
        match policy {
            // For a short time: a reader asks for the final rung again, and it is signed then.
            OnUnsigned::ServeMarked => Ok(Sealed { bytes, rung: Rung::Quick, placement: Placement::None }),
            OnUnsigned::StandIn => Err(FillError::Unsigned),
        }
    }

    async fn signed(&self, draft: Draft) -> Result<Bytes, NotSigned> {
        let digest = Digest::of_bytes(&draft.file);
        if draft.name.rung == Rung::Final
            && let Some(kept) = self.manifests.get(draft.name.key).await.filter(|kept| kept.signed == digest)
        {
            self.metrics.count(Outcome::Kept);
            return draft.with(&Manifest::from_bytes(kept.bytes.to_vec())?);
        }
        let draft = Arc::new(draft);
        let ours = self.sign(Arc::clone(&draft)).await?;
        self.metrics.count(Outcome::Signed);
        if draft.name.rung != Rung::Final {
            if draft.placement == Placement::Beside {
                self.passing.insert(draft.name, Bytes::copy_from_slice(ours.as_bytes()));
            }
            return draft.with(&ours);
        }
        let ours = KeptManifest { signed: digest, bytes: ours.into_bytes().into() };
        let stands = self.manifests.agree(draft.name.key, ours).await?;
        draft.with(&Manifest::from_bytes(stands.bytes.to_vec())?)
    }

    /// On a thread that may block, in turn.
    async fn sign(&self, draft: Arc<Draft>) -> Result<Manifest, NotSigned> {
        let signer = self.signers.current().ok_or(NotSigned::NoSigner)?;
        let turns = Arc::clone(&self.turns[draft.name.rung as usize]);
        let turn = turns.acquire_owned().await.map_err(|_| NotSigned::CutOff)?;
        let now_unix_s = self.signers.now_unix_s();
        let timestamps = self.timestamps_of(draft.name.rung).cloned();
        let signing = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let timestamper = timestamps.as_deref().map(|authority| authority as &dyn Timestamper);
            let signing = Signing { signer: &signer, timestamper, ocsp: signer.status(now_unix_s), now_unix_s };
            match draft.placement {
                Placement::Beside => signing.beside(&draft.story, draft.format, &draft.file),
                Placement::Embedded | Placement::None => {
                    signing.embed(&draft.story, draft.format, &draft.file).map(|signed| signed.manifest)
                }
            }
        });
        Ok(signing.await.map_err(|_| NotSigned::CutOff)??)
    }
}

/// A rendition that is final but for its manifest.
struct Draft {
    name: ManifestName,
    format: Format,
    placement: Placement,
    file: Bytes,
    story: Story,
}

impl Draft {
    /// The file as it is served with that manifest.
    fn with(&self, manifest: &Manifest) -> Result<Bytes, NotSigned> {
        match self.placement {
            Placement::Embedded => Ok(credentials::attach(self.format, &self.file, manifest)?.into()),
            Placement::Beside | Placement::None => Ok(self.file.clone()),
        }
    }
}

/// By which the manifest of a file that lost it is found again.
fn soft_binding(mark: &Watermark, master: MasterId) -> SoftBinding {
    let payload = mark.payload(MasterPrefix::of(master.as_bytes()));
    SoftBinding { algorithm: watermark::ALGORITHM.to_owned(), value: format!("{:016x}", payload.to_bits()) }
}

/// What the pictures that are laid on it add to its manifest, in bytes.
fn layer_bytes(cut: Cut<'_>) -> usize {
    cut.finish.layers().map_or(0, |layers| layers.images().len() * ENTRY_BYTES)
}

/// What the manifest tells of the rendition.
fn story(cut: Cut<'_>, watermarked: Watermarked, mut ingredients: Vec<Ingredient>) -> Story {
    let (binding, description) = (cut.binding, cut.finish.description());
    // A picture that a person brought was made elsewhere, and is opened here.
    let origin = if binding.node == IMPORT_MAKER {
        if ingredients.is_empty() {
            ingredients.push(Ingredient::described("imported original", "image/png", Relation::Parent));
        }
        Origin::Opened { ingredient: 0 }
    } else {
        Origin::Created { source: description.source, at: cut.drawn().map(|drawn| drawn.to_string()) }
    };
    let mut steps = Vec::new();
    let size = (cut.spec.width_px, cut.spec.height_px);
    let is_cut = matches!(cut.spec.shape, Shape::Cut(_))
        && u64::from(size.0) * u64::from(binding.height_px) != u64::from(size.1) * u64::from(binding.width_px);
    if is_cut {
        steps.push(Step::Cropped);
    }
    if size != (binding.width_px, binding.height_px) {
        steps.push(Step::Resized { width_px: size.0, height_px: size.1 });
    }
    for (title, image) in cut.finish.layers().iter().flat_map(|layers| layers.images()) {
        if ingredients.len() < INGREDIENTS_MAX {
            steps.push(Step::Placed { ingredient: ingredients.len(), file: image.digest() });
            ingredients.push(Ingredient::described(title, image.media_type(), Relation::Component));
        }
    }
    let mark = cut.finish.watermark().filter(|_| watermarked == Watermarked::Yes);
    if mark.is_some() {
        steps.push(Step::Watermarked);
    }
    steps.push(Step::Transcoded);
    Story {
        origin,
        steps,
        generation: Some(Generation {
            recipe: cut.recipe.to_string(),
            master: cut.master.to_string(),
            checkpoint: description.generator.as_ref().map(|by| format!("{}@{}", by.system, by.version)),
            determinism: binding.determinism.clone(),
        }),
        ingredients,
        soft_binding: mark.map(|watermark| soft_binding(watermark, cut.master)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_manifests_come_back_and_nothing_else_is_one() {
        for rung in Rung::ALL {
            let path = manifest_path(RenditionKey::from_raw([7; 16]), rung);
            let name = ManifestName::parse(path.strip_prefix(MANIFEST_PATH_PREFIX).expect("the prefix"));
            assert_eq!(name, Some(ManifestName { key: RenditionKey::from_raw([7; 16]), rung }));
        }
        for wrong in ["", "-final", "final", "a2a9vq2cv3jakvzev4jhn17mr8", "a2a9vq2cv3jakvzev4jhn17mr8-best", "é-final"]
        {
            assert_eq!(ManifestName::parse(wrong), None, "{wrong}");
        }
    }
}
