//! Stand-in until the sampler is merged.
use bildkante_shared::pixels::Pixels;
#[derive(Debug)]
pub struct Generated {
    pub pixels: Pixels,
    pub text_ms: f64,
    pub denoise_ms: f64,
    pub decode_ms: f64,
}
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepControl {
    Continue,
    Stop,
}
pub fn generate(
    _: &super::Checkpoint,
    _: &bildkante_shared::recipe::ValidRecipe,
    _: Option<&mut ()>,
    _: &mut dyn FnMut(u32, u32) -> StepControl,
) -> Result<Generated, super::DiffusionError> {
    Err(super::DiffusionError::Cancelled)
}
