//! Bounds that both sides enforce. Units stand last in every name.

/// Longest prompt or negative prompt, in UTF-8 bytes.
pub const PROMPT_BYTES_MAX: usize = 4096;
/// Largest side of a master.
pub const MASTER_SIDE_PX_MAX: u32 = 4096;
/// Largest area of a master: 4 Mi pixels (2048 × 2048).
pub const MASTER_AREA_PX_MAX: u64 = 4 * 1024 * 1024;
/// Masters are multiples of the VAE's factor.
pub const MASTER_SIDE_PX_MULTIPLE: u32 = 8;
/// Most denoising steps a recipe may ask for.
pub const STEPS_MAX: u32 = 200;
/// Longest training schedule of a checkpoint; real ones have 1000 steps.
pub const TRAIN_STEPS_MAX: u32 = 10_000;
/// Largest noise level that a recipe may name, relative to the signal. Checkpoints with a whole terminal step have 4096.
pub const SIGMA_MAX: f64 = 10_000.0;
/// Most layers of a text encoder that a recipe leaves out.
pub const CLIP_SKIP_MAX: u32 = 32;
/// Largest guidance scale; 1.0 and below switch guidance off.
pub const GUIDANCE_MAX: f64 = 50.0;
/// Largest number in a size conditioning; twice the largest side of a master.
pub const SIZE_CONDITIONING_PX_MAX: u32 = 8192;
/// Most ControlNets in one recipe.
pub const CONTROLS_MAX: usize = 4;
/// Largest `PUT /v1/blobs` body: a PNG of the largest master.
pub const BLOB_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Most adapters in one recipe.
pub const LORAS_MAX: usize = 8;
/// Most files of textual inversion in one recipe.
pub const EMBEDDINGS_MAX: usize = 8;
/// Most reference images in one recipe.
pub const REFERENCES_MAX: usize = 4;
/// Most details that are painted anew in one picture.
pub const DETAILS_MAX: usize = 8;
/// Largest `POST /v1/generations` body.
pub const GENERATION_BODY_BYTES_MAX: usize = 256 * 1024;
/// Largest JSON reply an edge reads from a node.
pub const REPLY_BODY_BYTES_MAX: usize = 256 * 1024;
/// Largest stored master (a lossless PNG) an edge or node reads back.
pub const MASTER_FILE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Most candidates that are asked for in one request.
pub const CANDIDATES_MAX: usize = 64;
/// Longest deadline a caller may set on a generation.
pub const DEADLINE_MS_MAX: u64 = 10 * 60 * 1000;
/// Longest `scope` or `variant` of a duplicate search.
pub const DEDUP_NAME_BYTES_MAX: usize = 512;
