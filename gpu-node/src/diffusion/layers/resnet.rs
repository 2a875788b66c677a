//! ResNet blocks and the changes of size between levels
//! (source: diffusers 0.42, `models/resnet.py`, `models/downsampling.py`, `models/upsampling.py`).

use tch::{TchError, Tensor};

use crate::diffusion::layers::{Conv2d, GroupNorm, Linear};
use crate::diffusion::weights::{ConvGeometry, Scope, WeightsError};

/// Groups and epsilon of a block's norms.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Norms {
    pub(crate) groups: i64,
    pub(crate) eps: f64,
}

/// Two convolutions, each behind a norm and SiLU, around a residual.
#[derive(Debug)]
pub(crate) struct ResnetBlock {
    norm1: GroupNorm,
    conv1: Conv2d,
    time_emb_proj: Option<Linear>,
    norm2: GroupNorm,
    conv2: Conv2d,
    /// Where input and output differ in channels.
    conv_shortcut: Option<Conv2d>,
}

impl ResnetBlock {
    /// A block that knows no time, as in the VAE.
    pub(crate) fn load(mut scope: Scope<'_>, inputs: i64, outputs: i64, norms: Norms) -> Result<Self, WeightsError> {
        let Norms { groups, eps } = norms;
        let conv_shortcut =
            if inputs == outputs { None } else { Some(Conv2d::load(scope.at("conv_shortcut"), inputs, outputs, 1)?) };
        Ok(Self {
            norm1: GroupNorm::load(scope.at("norm1"), inputs, groups, eps)?,
            conv1: Conv2d::load(scope.at("conv1"), inputs, outputs, 3)?,
            time_emb_proj: None,
            norm2: GroupNorm::load(scope.at("norm2"), outputs, groups, eps)?,
            conv2: Conv2d::load(scope.at("conv2"), outputs, outputs, 3)?,
            conv_shortcut,
        })
    }

    /// A block that is told the time, as in the UNet.
    pub(crate) fn load_timed(
        mut scope: Scope<'_>,
        inputs: i64,
        outputs: i64,
        norms: Norms,
        time_width: i64,
    ) -> Result<Self, WeightsError> {
        let time_emb_proj = Some(Linear::load(scope.at("time_emb_proj"), time_width, outputs)?);
        Ok(Self { time_emb_proj, ..Self::load(scope, inputs, outputs, norms)? })
    }

    /// `time` is the time embedding behind its SiLU, which is the same for every block.
    pub(crate) fn forward(&self, x: &Tensor, time: Option<&Tensor>) -> Result<Tensor, TchError> {
        let mut hidden = self.conv1.forward(&self.norm1.forward_silu(x)?)?;
        if let (Some(projection), Some(time)) = (&self.time_emb_proj, time) {
            let shift = projection.forward_by_row(time)?.f_unsqueeze(-1)?.f_unsqueeze(-1)?; // [n, out, 1, 1]
            hidden = hidden.f_add_(&shift)?;
        }
        let mut hidden = self.conv2.forward(&self.norm2.forward_silu(&hidden)?)?;
        match &self.conv_shortcut {
            Some(shortcut) => hidden.f_add_(&shortcut.forward(x)?),
            None => hidden.f_add_(x), // [n, out, h, w]
        }
    }
}

/// Halves the sides by a convolution of stride 2.
#[derive(Debug)]
pub(crate) struct Downsample {
    conv: Conv2d,
    padding: i64,
}

impl Downsample {
    /// `padding` 0 pads right and bottom only.
    pub(crate) fn load(mut scope: Scope<'_>, channels: i64, padding: i64) -> Result<Self, WeightsError> {
        let geometry = ConvGeometry { stride: 2, padding };
        Ok(Self { conv: Conv2d::load_with(scope.at("conv"), channels, channels, 3, geometry)?, padding })
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        if self.padding == 0 {
            return self.conv.forward(&x.f_constant_pad_nd([0, 1, 0, 1])?);
        }
        self.conv.forward(x) // [n, c, ⌈h/2⌉, ⌈w/2⌉]
    }
}

/// Enlarges the sides by repeating pixels, then convolves.
#[derive(Debug)]
pub(crate) struct Upsample {
    conv: Conv2d,
}

impl Upsample {
    pub(crate) fn load(mut scope: Scope<'_>, channels: i64) -> Result<Self, WeightsError> {
        Ok(Self { conv: Conv2d::load(scope.at("conv"), channels, channels, 3)? })
    }

    /// To twice the size.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let (_, _, height, width) = x.size4()?;
        self.forward_to(x, (2 * height, 2 * width))
    }

    /// To `size`, height first: what an odd level was before it was halved.
    pub(crate) fn forward_to(&self, x: &Tensor, size: (i64, i64)) -> Result<Tensor, TchError> {
        self.conv.forward(&x.f_upsample_nearest2d([size.0, size.1], None, None)?)
    }
}
