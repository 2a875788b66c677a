//! Within what a drawing can be repeated bit for bit.

use bildkante_shared::wire::Determinism;
use tch::Device;

use crate::diffusion::choices;
use crate::diffusion::device;
use crate::diffusion::loading::Placement;
use crate::diffusion::runtime::{LIBTORCH, threads};

/// How this engine orders its additions. A change after which some drawing has other bits counts it up: 2, since embeddings of
/// the time are computed row by row.
const ENGINE: &str = "engine-2";

/// What a pass computes on, as far as it decides bits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PassShape {
    pub placement: Placement,
    /// Rows, channels, height and width of the latents, of as many requests as a row's bits are promised within.
    pub latents: [u64; 4],
    /// The side of the tiles in which the picture is decoded, where it is decoded in tiles.
    pub vae_tiles_px: Option<u32>,
}

/// Within what a pass repeats itself bit for bit: equal class, equal bits.
///
/// The processor chooses the kernels, and so do libraries and their environment (see [`choices`]). Precision and the batch's
/// shape decide the order of their additions. On a processor the calling thread's number of threads does so as well, where
/// additions are cut into shares: sums over channels-last maps are made share by share, and the values at a share's end are
/// computed one by one, which rounds differently.
#[must_use]
pub(crate) fn of(shape: PassShape) -> Determinism {
    let PassShape { placement, latents: [rows, channels, height, width], vae_tiles_px } = shape;
    let Placement { device: place, channels_last, .. } = placement;
    let (device, kernels) = (device::kind_of(place), kernels(placement));
    let mut class = format!("{kernels}/{rows}x{channels}x{height}x{width}");
    if channels_last {
        class.push_str("/channels-last");
    }
    if let Some(tiles_px) = vae_tiles_px {
        class.push_str(&format!("/tiles-{tiles_px}"));
    }
    if place == Device::Cpu {
        class.push_str(&format!("/threads-{}", threads()));
    }
    Determinism { class, device, runtime: LIBTORCH.to_owned() }
}

/// What a class says beside the shapes of its passes: device, libraries, precision, layout and threads.
#[must_use]
pub(crate) fn environment(placement: Placement) -> String {
    let layout = if placement.channels_last { "/channels-last" } else { "" };
    let threads = if placement.device == Device::Cpu { format!("/threads-{}", threads()) } else { String::new() };
    format!("{}{layout}{threads}", kernels(placement))
}

fn kernels(Placement { device: place, dtype, .. }: Placement) -> String {
    let choices = choices::of(place, dtype).unwrap_or_else(|error| {
        tracing::error!(%error, "what libtorch chose cannot be told");
        "unknown".to_owned()
    });
    format!("{}/{LIBTORCH}/{ENGINE}/{choices}/{dtype}", device::kind_of(place))
}
