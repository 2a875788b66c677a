//! Stand-in until the pipeline is merged.
pub mod pipeline {
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
}
