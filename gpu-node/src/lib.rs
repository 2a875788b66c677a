//! Placeholder.
pub mod diffusion;
