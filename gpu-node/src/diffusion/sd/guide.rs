//! What holds a picture to an image: a ControlNet, or a T2I-Adapter. A recipe names both as its controls.

use std::path::Path;

use bildkante_shared::checkpoint::{Digests, FileDigests};
use bildkante_shared::ids::Digest;
use tch::Tensor;

use super::controlnet::ControlNet;
use super::t2i_adapter::T2iAdapter;
use crate::diffusion::error::DiffusionError;
use crate::diffusion::loading::{CheckpointError, Placement};

/// A network that reads an image.
#[derive(Debug)]
pub enum Guide {
    /// It reads latents, timestep and text as well, in every pass.
    ControlNet(Box<ControlNet>),
    /// It reads the image alone, once.
    Adapter(Box<T2iAdapter>),
}

impl Guide {
    /// Whether a folder claims to hold one.
    #[must_use]
    pub fn is_in(folder: &Path) -> bool {
        ControlNet::is_in(folder) || T2iAdapter::is_in(folder)
    }

    /// # Errors
    /// As a checkpoint's.
    pub fn load(folder: &Path, placement: Placement) -> Result<Self, CheckpointError> {
        Self::load_known(folder, placement, &FileDigests::default())
    }

    /// The same with digests of files that are known already.
    ///
    /// # Errors
    /// As a checkpoint's.
    pub fn load_known(folder: &Path, placement: Placement, known: &FileDigests) -> Result<Self, CheckpointError> {
        if T2iAdapter::is_in(folder) {
            return T2iAdapter::load_known(folder, placement, known).map(Box::new).map(Self::Adapter);
        }
        ControlNet::load_known(folder, placement, known).map(Box::new).map(Self::ControlNet)
    }

    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::ControlNet(network) => network.name(),
            Self::Adapter(adapter) => adapter.name(),
        }
    }

    /// What it is, as `/v1/checkpoints` names it.
    #[must_use]
    pub const fn family(&self) -> &'static str {
        match self {
            Self::ControlNet(_) => "controlnet",
            Self::Adapter(_) => "t2i-adapter",
        }
    }

    /// What recipes may call it: its digest, and what that was before.
    pub const fn digests(&self) -> &Digests {
        match self {
            Self::ControlNet(network) => network.digests(),
            Self::Adapter(adapter) => adapter.digests(),
        }
    }

    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.digests().current
    }

    /// How it is built: what decides, beside shapes, which kernels compute it.
    pub(crate) fn architecture(&self) -> String {
        match self {
            Self::ControlNet(network) => format!("{:?}", network.config()),
            Self::Adapter(adapter) => format!("{:?}", adapter.config()),
        }
    }

    /// Side of an image in pixels for one latent.
    #[must_use]
    pub fn factor(&self) -> u32 {
        match self {
            Self::ControlNet(network) => network.config().factor(),
            Self::Adapter(adapter) => adapter.config().factor(),
        }
    }

    /// What it makes of an image `[1, 3, H, W]` of 0 to 1.
    ///
    /// # Errors
    /// When libtorch fails.
    pub fn embed(&self, image: &Tensor) -> Result<Vec<Tensor>, DiffusionError> {
        match self {
            Self::ControlNet(network) => Ok(vec![network.embed(image)?]),
            Self::Adapter(adapter) => Ok(adapter.embed(image)?),
        }
    }

    /// The same of a picture by its digest, kept while it is asked for.
    pub(crate) fn embed_picture(
        &self,
        picture: Digest,
        image: impl FnOnce() -> Result<Tensor, DiffusionError>,
    ) -> Result<Vec<Tensor>, DiffusionError> {
        match self {
            Self::ControlNet(network) => Ok(vec![network.embed_picture(picture, image)?]),
            Self::Adapter(adapter) => adapter.embed_picture(picture, image),
        }
    }

    /// How many pictures it was shown anew since this was last asked.
    pub(crate) fn take_embedded(&self) -> u64 {
        match self {
            Self::ControlNet(network) => network.take_embedded(),
            Self::Adapter(adapter) => adapter.take_embedded(),
        }
    }

    /// Gives back the memory of what is kept for pictures to come.
    pub(crate) fn forget_pictures(&self) {
        match self {
            Self::ControlNet(network) => network.forget_pictures(),
            Self::Adapter(adapter) => adapter.forget_pictures(),
        }
    }
}
