//! Stable Diffusion 1.x, 2.x and XL with its refiner, their distilled and inpainting relatives, ControlNets and T2I-Adapters,
//! LoRA and DoRA adapters, words of textual inversion, and reference images.
//!
//! Everything that only this family has: which pipeline a folder holds ([`layout`]), the UNet and the networks that act on
//! it ([`guide`]), what they are conditioned on, what a drawing with them takes of a device's memory, and adapters. [`networks`] is how the
//! family stands behind [`Denoiser`](crate::diffusion::denoiser::Denoiser).

pub mod adapter_file;
pub mod adapters;
pub mod blueprint;
pub mod checkpoint;
pub mod conditioning;
pub mod config;
pub mod controlnet;
pub mod guide;
pub mod identity;
pub(crate) mod in_memory;
pub mod inversion;
pub mod ip_adapter;
mod layout;
mod memory;
pub mod networks;
pub mod t2i_adapter;
pub mod unet;

pub use blueprint::Blueprint;
pub use checkpoint::Checkpoint;
