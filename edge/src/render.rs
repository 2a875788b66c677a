//! Renditions from masters: decode → crop → resize in linear light → look → layers → watermark → encode → metadata.
//!
//! Everything here is a pure function of its inputs, runs on the calling thread and knows nothing of HTTP: the same
//! master, spec, rung and finish give the same bytes, on any thread. [`RenderPool`] owns the threads it runs on in
//! the edge. Sizes are bounded before anything is allocated; a panic in an encoder is an error of that job.

mod bound;
mod cost;
mod crop;
mod decode;
mod encode;
mod entropy;
mod file;
mod finish;
pub mod layers;
mod limit;
mod load;
mod look;
mod lqip;
mod making;
mod metrics;
mod original;
mod placeholder;
mod pool;
pub mod quality;
mod resize;
pub mod shape;
mod told;

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bildkante_shared::ids::MasterId;
use bildkante_shared::pixels::Pixels;
use serde::Deserialize;

use self::layers::{LayerError, LayerReport, LayerSet};
use crate::provenance::EmbedError;
use crate::watermark::MasterPrefix;
use crate::words::{Format, Moment};
use look::Shown;

pub use bound::{BYTES_MAX_LEAST, BYTES_MAX_MOST, BytesMax, Fit, NoBytesMax};
pub use cost::Costs;
pub use crop::CropBox;
pub use decode::DecodeError;
use encode::Source;
pub use encode::{EncodeError, Found, TOLERANCE, encode, encode_native, features, file_score};
pub use file::least_bytes;
pub use finish::{Finish, FinishDigest, Finishing, Former, OnUnsigned};
pub use load::Load;
pub use look::{CUBE_BYTES_MAX, Cube, CubeError, Grain, Look, Sharpen};
pub use lqip::{Lqip, LqipAsk, LqipError};
pub use making::{Making, Score};
pub use metrics::RenderMetrics;
pub use original::{
    DecodeMemory, MemoryShare, NoMemory, ORIGINAL_FILE_BYTES_MAX, OriginalError, OriginalFormat, decode_original,
    encode_master, memory_for,
};
pub use placeholder::{Palette, PlaceholderSize, mark_placeholder, placeholder};
pub use pool::{PoolError, Precedence, RenderJobError, RenderPool};
pub use resize::{Raster, ResizeError, resize};
pub use shape::{Anchor, Shape};
pub use told::{OriginalFacts, ToldProfile, Turn, original_facts};

/// Raise when the same master and spec would come out as other bytes: it is part of every rendition key. An edge with other encoders makes
/// other bytes, so it has epochs of its own.
pub const ENCODER_EPOCH: u32 = 4
    + if cfg!(feature = "aom") { 0x1_0000 } else { 0 }
    + if cfg!(feature = "mozjpeg") { 0x2_0000 } else { 0 }
    + if cfg!(feature = "oxipng") { 0x4_0000 } else { 0 };
/// Largest side of a rendition.
pub const RENDITION_SIDE_PX_MAX: u32 = 8192;
/// Largest area of a rendition: 16 Mi pixels. One job then stays within some 400 MiB.
pub const RENDITION_AREA_PX_MAX: u64 = 16 * 1024 * 1024;
/// Most render threads a configuration may ask for.
pub const RENDER_THREADS_MAX: usize = 256;

/// Perceptual quality 1–100 that means the same in every format (see `quality`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Quality(u8);

impl Quality {
    pub const LOW: Self = Self(45);
    pub const MEDIUM: Self = Self(60);
    /// What `q=auto` means.
    pub const AUTO: Self = Self(70);
    pub const HIGH: Self = Self(82);

    /// `None` outside 1–100.
    #[must_use]
    pub const fn new(value: u8) -> Option<Self> {
        if 1 <= value && value <= 100 { Some(Self(value)) } else { None }
    }

    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }
}

/// How far an encode went; ordered, the better the greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rung {
    /// Encoded while the reader waits and the pool is far behind: sooner than a quick one, in more bytes.
    Hurried,
    /// Encoded while the reader waits.
    Quick,
    /// Encoded in the background for fewer bytes at the same quality.
    Final,
}

impl Rung {
    pub const ALL: [Self; 3] = [Self::Hurried, Self::Quick, Self::Final];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hurried => "hurried",
            Self::Quick => "quick",
            Self::Final => "final",
        }
    }
}

/// What is cut from a master: everything that changes the bytes except the master, the rung and the finish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RenditionSpec {
    /// Size in pixels of the rendition.
    pub width_px: u32,
    pub height_px: u32,
    /// How the master fills it.
    pub shape: Shape,
    pub format: Format,
    pub quality: Quality,
}

impl RenditionSpec {
    #[must_use]
    pub const fn area_px(&self) -> u64 {
        self.width_px as u64 * self.height_px as u64
    }

    fn check_size(&self) -> Result<(), RenderError> {
        let longer = self.width_px.max(self.height_px);
        if self.area_px() == 0 || longer > RENDITION_SIDE_PX_MAX || self.area_px() > RENDITION_AREA_PX_MAX {
            return Err(RenderError::Size { width_px: self.width_px, height_px: self.height_px });
        }
        Ok(())
    }
}

impl fmt::Display for RenditionSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}.{} q{}", self.width_px, self.height_px, self.format.as_str(), self.quality.get())?;
        if self.shape == Shape::DEFAULT { Ok(()) } else { write!(f, ", {}", self.shape) }
    }
}

/// What is made of a master.
#[derive(Debug, Clone)]
pub struct RenderJob {
    pub master: MasterId,
    pub spec: RenditionSpec,
    pub rung: Rung,
    pub finish: Arc<Finish>,
    /// When the master was made.
    pub drawn: Option<Moment>,
    /// Where its manifest will be; `None` where none will be signed.
    pub manifest: Option<ManifestPlan>,
    pub lqip: LqipAsk,
}

impl RenderJob {
    /// Of a master without a date, and without a manifest or an LQIP.
    #[must_use]
    pub const fn new(master: MasterId, spec: RenditionSpec, rung: Rung, finish: Arc<Finish>) -> Self {
        Self { master, spec, rung, finish, drawn: None, manifest: None, lqip: LqipAsk::None }
    }

    /// Where its manifest is to be beside or in a file of so many bytes.
    fn placement(&self, file_bytes: usize) -> Placement {
        match &self.manifest {
            None => Placement::None,
            // How long a manifest is depends on its certificates.
            Some(_) if self.finish.bytes_max().is_some() => Placement::Beside,
            Some(plan) => plan.placement(file_bytes),
        }
    }
}

/// Where the manifest of a rendition will be: in its file, unless that would make the file too large.
#[derive(Debug, Clone)]
pub struct ManifestPlan {
    /// Where it is served if it is beside the file.
    pub url: String,
    /// Largest share of the file that it may add to it.
    pub share_max: f64,
    /// What a timestamp and ingredients add to it.
    pub added_bytes: usize,
}

/// What a manifest adds to a file, by which its place is chosen: the same for every signer, so that no renewal of a certificate
/// moves it.
pub const MANIFEST_BYTES_TYPICAL: usize = 4096;

impl ManifestPlan {
    fn placement(&self, file_bytes: usize) -> Placement {
        #[allow(clippy::cast_precision_loss, reason = "files are far below 2^52 bytes")]
        let bytes_max = self.share_max * file_bytes as f64;
        #[allow(clippy::cast_precision_loss, reason = "a small number")]
        if (MANIFEST_BYTES_TYPICAL + self.added_bytes) as f64 <= bytes_max {
            Placement::Embedded
        } else {
            Placement::Beside
        }
    }
}

/// Where a rendition's manifest is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Placement {
    /// There is none.
    None,
    Embedded,
    /// Served under an address that the file and a `Link` field name.
    Beside,
}

impl Placement {
    pub const ALL: [Self; 3] = [Self::None, Self::Embedded, Self::Beside];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Embedded => "embedded",
            Self::Beside => "beside",
        }
    }
}

/// Whether the pixels carry a watermark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Watermarked {
    /// The finish has none.
    No,
    Yes,
    /// The rendition is too small to carry it.
    TooSmall,
}

impl Watermarked {
    pub const ALL: [Self; 3] = [Self::No, Self::Yes, Self::TooSmall];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::Yes => "yes",
            Self::TooSmall => "too_small",
        }
    }
}

/// When the kernel lets render threads run (sched(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RenderScheduling {
    /// Beside everything else, by `nice`.
    Normal,
    /// When no other thread of the machine wants the core (`SCHED_IDLE`): a hit that arrives takes it as soon as the kernel
    /// can switch, where `nice` may let an encode go on for some milliseconds. Not beside a node on the same machine, which would stop
    /// all rendering while it draws.
    Idle,
}

/// How renditions are made.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RenderConfig {
    /// Threads that render; 0 means one per core.
    pub threads: usize,
    /// Jobs that may wait for a thread; further ones are refused, or displace less urgent ones.
    pub pending_jobs_max: usize,
    /// Jobs that wait longer than this for a thread make the queue shorter, those well within it longer again.
    pub queue_delay_target_ms: u64,
    pub scheduling: RenderScheduling,
    /// How far the threads stand behind those that answer, as `nice` counts: 0 to 19.
    pub nice: u8,
    /// Renditions of at most this area are encoded at the final rung at once: their final encode is about as fast as
    /// a larger picture's quick one.
    pub final_inline_px_max: u64,
}

impl Default for RenderConfig {
    fn default() -> Self {
        Self {
            threads: 0,
            pending_jobs_max: 256,
            queue_delay_target_ms: 500,
            scheduling: RenderScheduling::Normal,
            nice: 10,
            final_inline_px_max: 65_536,
        }
    }
}

impl RenderConfig {
    /// # Errors
    /// When a value is out of its bounds, naming it.
    pub fn validate(&self) -> Result<(), String> {
        if self.threads > RENDER_THREADS_MAX {
            return Err(format!("threads is 0 to {RENDER_THREADS_MAX}, not {}", self.threads));
        }
        if self.pending_jobs_max == 0 {
            return Err("pending_jobs_max is at least 1".to_owned());
        }
        if self.queue_delay_target_ms == 0 {
            return Err("queue_delay_target_ms is at least 1".to_owned());
        }
        if self.nice > 19 {
            return Err(format!("nice is 0 to 19, not {}", self.nice));
        }
        Ok(())
    }

    /// The rung a reader who waits gets first.
    #[must_use]
    pub const fn first_rung(&self, spec: &RenditionSpec, load: Load) -> Rung {
        match load {
            Load::Light if spec.area_px() <= self.final_inline_px_max => Rung::Final,
            Load::Light | Load::Heavy => Rung::Quick,
            Load::Extreme => Rung::Hurried,
        }
    }

    fn thread_count(&self) -> usize {
        match self.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        }
        .min(RENDER_THREADS_MAX)
    }
}

/// A finished rendition and what it took.
#[derive(Debug, Clone)]
pub struct Encoded {
    /// The file, metadata included.
    pub bytes: Vec<u8>,
    /// SSIMULACRA2 of the picture against the pixels that were encoded; `None` where it was not measured, as on the quick rung.
    pub score: Option<f64>,
    /// Whole encodes until the score was reached, and cheaper ones before them.
    pub encodes: u32,
    pub probes: u32,
    pub format: Format,
    pub rung: Rung,
    /// Crop and resize.
    pub resize: Duration,
    pub encode: Duration,
    /// Embedding the metadata.
    pub mark: Duration,
    pub watermarked: Watermarked,
    /// What became of its layers, and how long that took.
    pub layers: Option<Laid>,
    /// Where its manifest is to be. It is not signed yet.
    pub placement: Placement,
    /// Where it was wanted.
    pub lqip: Option<Lqip>,
    /// How it came to its size, where that is bounded.
    pub fit: Option<Fit>,
    /// The format in which the same picture is a smaller file: of a final AVIF, and none where it is WebP's equal.
    pub smaller_as: Option<Format>,
}

/// Why there is no rendition.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    #[error("the master cannot be used: {0}")]
    Decode(#[from] DecodeError),
    #[error(
        "a rendition of {width_px}×{height_px} px is outside 1–{RENDITION_SIDE_PX_MAX} px a side \
         and {RENDITION_AREA_PX_MAX} px in all"
    )]
    Size { width_px: u32, height_px: u32 },
    #[error(transparent)]
    Resize(#[from] ResizeError),
    #[error(transparent)]
    Encode(#[from] EncodeError),
    #[error(transparent)]
    Layers(#[from] LayerError),
    #[error("marking failed: {0}")]
    Mark(#[from] EmbedError),
}

impl RenderError {
    /// For logs and metric labels.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Decode(_) => "decode",
            Self::Size { .. } => "size",
            Self::Resize(_) => "resize",
            Self::Encode(EncodeError::Failed { .. }) => "encode",
            Self::Encode(EncodeError::Panicked { .. }) => "encode-panic",
            Self::Layers(_) => "layers",
            Self::Mark(_) => "mark",
        }
    }
}

/// A master from its stored PNG.
///
/// # Errors
/// When the file is no opaque sRGB PNG within the limits of masters.
pub fn decode_master(png: &[u8]) -> Result<Pixels, RenderError> {
    Ok(decode::decode_png(png)?)
}

/// Cuts, resizes, lays layers on it, watermarks, encodes and describes. May enlarge: whether that is wanted was decided when the spec was made.
///
/// # Errors
/// When the spec's size is out of bounds, an encoder fails, or the description does not fit.
pub fn render(master: &Pixels, job: &RenderJob) -> Result<Encoded, RenderError> {
    let RenderJob { spec, rung, finish, .. } = job;
    let started = Instant::now();
    let (mut raster, layers) = composed(master, job)?;
    let watermarked = watermark(&mut raster, finish, job.master);
    let lqip = if job.lqip == LqipAsk::Wanted { Lqip::of(&raster) } else { None };
    let resized = started.elapsed();
    let source = Source::new(&raster);
    let made = file::made(&source, spec.format, job)?;
    let smaller_as = file::smaller_as(&source, job, &made);
    let file::Made { bytes, found, placement, fit, encode, mark } = made;
    Ok(Encoded {
        bytes,
        score: found.score,
        encodes: found.encodes,
        probes: found.probes,
        format: spec.format,
        rung: *rung,
        resize: resized,
        encode,
        mark,
        watermarked,
        layers,
        placement,
        lqip,
        fit,
        smaller_as,
    })
}

/// What became of the layers, and how long laying them took.
type Laid = (LayerReport, Duration);

/// What becomes of the layers of a job, without its file. `None` where it has none.
///
/// # Errors
/// When the spec's size is out of bounds, or a layer cannot be drawn.
pub fn lay_only(master: &Pixels, job: &RenderJob) -> Result<Option<Laid>, RenderError> {
    Ok(composed(master, job)?.1)
}

/// The pixels before they are watermarked.
fn composed(master: &Pixels, job: &RenderJob) -> Result<(Raster, Option<Laid>), RenderError> {
    job.spec.check_size()?;
    let mut raster = shaped(master, job)?;
    let layers = job.finish.layers().map(|layers| lay(&mut raster, layers)).transpose()?;
    Ok((raster, layers))
}

fn lay(raster: &mut Raster, layers: &LayerSet) -> Result<Laid, LayerError> {
    let started = Instant::now();
    let report = layers::compose(raster, layers)?;
    Ok((report, started.elapsed()))
}

fn watermark(raster: &mut Raster, finish: &Finish, master: MasterId) -> Watermarked {
    let Some(watermark) = finish.watermark() else { return Watermarked::No };
    let (width_px, height_px) = (raster.width_px, raster.height_px);
    match watermark.embed(&mut raster.rgb, width_px, height_px, MasterPrefix::of(master.as_bytes())) {
        Ok(_) => Watermarked::Yes,
        // A raster's buffer has its size: what is not marked is too small.
        Err(_) => Watermarked::TooSmall,
    }
}

/// The master's pixels in the rendition's size, with the look of the slot.
fn shaped(master: &Pixels, job: &RenderJob) -> Result<Raster, ResizeError> {
    let spec = &job.spec;
    let (source, canvas) = ((master.width_px(), master.height_px()), (spec.width_px, spec.height_px));
    let whole = CropBox { left_px: 0, top_px: 0, width_px: source.0, height_px: source.1 };
    let picture = |cut: CropBox, size_px: (u32, u32)| {
        let mut picture = resize(master, cut, size_px.0, size_px.1)?;
        if let Some(look) = job.finish.look() {
            look.apply(&mut picture, &Shown { master: job.master, master_px: source, cut });
        }
        Ok(picture)
    };
    match spec.shape {
        Shape::Cut(Anchor::Point { x, y }) => {
            picture(CropBox::cover_at(source.0, source.1, canvas.0, canvas.1, (x, y)), canvas)
        }
        Shape::Cut(Anchor::Entropy) => picture(entropy::cut(master, canvas.0, canvas.1), canvas),
        Shape::Whole => picture(whole, canvas),
        Shape::PaddedSmall { background } => {
            let inner = shape::fit_inside(source, (source.0.min(canvas.0), source.1.min(canvas.1)));
            Ok(picture(whole, inner)?.padded(canvas, background))
        }
        Shape::Padded { background } => {
            let inner = shape::fit_inside(source, canvas);
            Ok(picture(whole, inner)?.padded(canvas, background))
        }
    }
}

/// What a panic said.
fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no message").to_owned()
}
