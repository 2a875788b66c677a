//! The tensors of a checkpoint's networks: read from its files, moved between the memory of the host and of devices, and put
//! together.
//!
//! They are laid out and converted for the device they are meant for before they are moved, so that moving is copying.

use std::path::Path;
use std::sync::Arc;

use tch::{Device, TchError};

use crate::diffusion::loading::{CheckpointError, Placement};
use crate::diffusion::sd::blueprint::{Blueprint, TextBlueprint};
use crate::diffusion::sd::unet::Unet;
use crate::diffusion::text::TextEncoder;
use crate::diffusion::text::clip;
use crate::diffusion::text::clip::ClipTextModel;
use crate::diffusion::vae;
use crate::diffusion::vae::Vae;
use crate::diffusion::weights::files;
use crate::diffusion::weights::{NetworkTensors, Reusing, WeightsError};

/// The networks of a checkpoint, in one memory.
#[derive(Debug)]
pub(crate) struct NetworksInMemory {
    pub(super) unet: NetworkTensors,
    /// Like the blueprint's text encoders.
    pub(super) texts: Vec<NetworkTensors>,
    vae: NetworkTensors,
}

impl NetworksInMemory {
    /// Reads a folder's files into the memory of `memory`, for a placement.
    ///
    /// # Errors
    /// When a tensor is missing, left over, misshapen or not finite.
    pub(crate) fn read(
        folder: &Path,
        blueprint: &Blueprint,
        placement: Placement,
        memory: Device,
    ) -> Result<Self, CheckpointError> {
        let kind = placement.dtype.kind();
        let open = |part: &str, stem, canonical: fn(&str) -> String, kind| {
            placement.open_in(memory, &files::find(&folder.join(part), stem)?, canonical, kind)
        };
        // One network after the other: each unmaps its files before the next is read.
        let mut texts = Vec::new();
        for TextBlueprint { part, config, .. } in &blueprint.texts {
            let weights = open(part.folder, "model", clip::canonical_name, kind)?;
            texts.push(ClipTextModel::load_keeping(weights, config, part.head)?.1);
        }
        let diffusers = "diffusion_pytorch_model";
        let (_, unet) = Unet::load_keeping(open("unet", diffusers, str::to_owned, kind)?, &blueprint.unet)?;
        let kinds = blueprint.vae_kinds(kind);
        let mut weights = open("vae", diffusers, vae::canonical_name, kinds.decoder)?;
        if let Some(layout) = vae::kernel_layout(placement.device) {
            weights.set_kernel_layout(layout);
        }
        let vae = Vae::keep(weights, &blueprint.vae, kinds)?;
        Ok(Self { unet, texts, vae })
    }

    /// The same in the memory of a device; tensors that are there are shared.
    ///
    /// # Errors
    /// When libtorch fails, for want of memory, say.
    pub(crate) fn in_memory_of(&self, device: Device) -> Result<Self, TchError> {
        let texts = self.texts.iter().map(|text| text.in_memory_of(device)).collect::<Result<_, _>>()?;
        Ok(Self { unet: self.unet.in_memory_of(device)?, texts, vae: self.vae.in_memory_of(device)? })
    }

    /// Puts the networks together. They share the tensors.
    pub(super) fn build(&self, blueprint: &Blueprint) -> Result<(Unet, Vec<TextEncoder>, Vae), WeightsError> {
        let placed = (self.unet.device(), self.unet.kind());
        let unet = Unet::of(&mut Reusing(&self.unet), &blueprint.unet, placed)?;
        let encoders = blueprint.texts.iter().zip(&self.texts).map(|(text, tensors)| {
            let TextBlueprint { part, tokenizer, config } = text;
            let model = ClipTextModel::of(&mut Reusing(tensors), config, part.head)?;
            Ok(TextEncoder { tokenizer: Arc::clone(tokenizer), model })
        });
        let encoders = encoders.collect::<Result<_, WeightsError>>()?;
        let vae = Vae::of(&mut Reusing(&self.vae), &blueprint.vae, blueprint.vae_kinds(self.unet.kind()))?;
        Ok((unet, encoders, vae))
    }
}
