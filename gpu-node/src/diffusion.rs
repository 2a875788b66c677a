//! Text to image on libtorch: how a checkpoint and a recipe become pixels.
//!
//! What every family of models shares stands here: [`pipeline`] (the way from text to pixels), [`batch`] (several requests in
//! one pass), [`denoiser`] (what a family has to be able to do), [`loading`] and [`weights`] (what files hold), [`text`],
//! [`vae`], [`layers`], [`scheduler`], and the machine underneath ([`device`], [`runtime`]). A family is a folder of its own
//! and an arm in [`family`]: [`sd`] is Stable Diffusion with its relatives.
//!
//! Invariants: only this module and `worker::torch` name `tch`. Every tensor operation returns a `Result`: no input,
//! however malformed, panics. Configurations alone decide the architecture of a network ([`fields`]); its tensors come
//! from safetensors files, of which every byte is checked and every tensor is accounted for.

pub mod batch;
mod choices;
pub mod denoiser;
pub(crate) mod determinism;
pub mod device;
pub mod dtype;
pub mod error;
pub(crate) mod family;
pub(crate) mod fault;
pub(crate) mod fields;
mod kept;
mod layers;
pub mod loading;
pub mod noise;
pub mod picture;
pub mod pipeline;
pub mod runtime;
pub mod scheduler;
pub mod sd;
pub mod text;
pub mod trace;
pub mod vae;
pub mod vision;
pub mod weights;

pub use tch::Device;
