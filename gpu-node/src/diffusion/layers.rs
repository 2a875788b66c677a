//! The layers every network is made of. They hold tensors, know nothing of files beyond the names of their
//! parts, and add no state.

pub(crate) mod attention;
pub(crate) mod projected;
pub(crate) mod reference;
pub(crate) mod resnet;

use tch::{Device, TchError, Tensor};

use crate::diffusion::weights::{ConvGeometry, Scope, WeightsError};
use crate::diffusion::weights::{LayerShape, LowRank};

/// `x · Wᵀ + b`, and what is added to it ([`LowRank`]).
#[derive(Debug)]
pub(crate) struct Linear {
    weight: Tensor, // [out, in]
    bias: Option<Tensor>,
    low_rank: Option<LowRank>,
}

impl Linear {
    pub(crate) fn load(mut scope: Scope<'_>, inputs: i64, outputs: i64) -> Result<Self, WeightsError> {
        let weight = scope.take("weight", &[outputs, inputs])?;
        let bias = Some(scope.take("bias", &[outputs])?);
        Ok(Self { weight, bias, low_rank: scope.low_rank(LayerShape::Linear { inputs, outputs })? })
    }

    pub(crate) fn load_unbiased(mut scope: Scope<'_>, inputs: i64, outputs: i64) -> Result<Self, WeightsError> {
        let weight = scope.take("weight", &[outputs, inputs])?;
        Ok(Self { weight, bias: None, low_rank: scope.low_rank(LayerShape::Linear { inputs, outputs })? })
    }

    /// A linear layer that is stored as a 1×1 convolution.
    pub(crate) fn load_pointwise(mut scope: Scope<'_>, inputs: i64, outputs: i64) -> Result<Self, WeightsError> {
        let weight = scope.take("weight", &[outputs, inputs, 1, 1])?;
        let weight = weight.f_view([outputs, inputs]).map_err(|source| torch_error("weight", source))?;
        let bias = Some(scope.take("bias", &[outputs])?);
        Ok(Self { weight, bias, low_rank: scope.low_rank(LayerShape::Linear { inputs, outputs })? })
    }

    /// Several linear layers of one input as one: their outputs follow each other in the last dimension.
    pub(crate) fn load_stacked(
        scope: &mut Scope<'_>,
        names: &[&str],
        inputs: i64,
        outputs: i64,
    ) -> Result<Self, WeightsError> {
        let biases: Vec<String> = names.iter().map(|name| format!("{name}.bias")).collect();
        let stacked = Self::load_stacked_unbiased(scope, names, inputs, outputs)?;
        Ok(Self { bias: Some(scope.take_stacked(&biases, &[outputs])?), ..stacked })
    }

    pub(crate) fn load_stacked_unbiased(
        scope: &mut Scope<'_>,
        names: &[&str],
        inputs: i64,
        outputs: i64,
    ) -> Result<Self, WeightsError> {
        let weights: Vec<String> = names.iter().map(|name| format!("{name}.weight")).collect();
        let weight = scope.take_stacked(&weights, &[outputs, inputs])?;
        let low_rank = scope.low_rank_stacked(names, LayerShape::Linear { inputs, outputs })?;
        Ok(Self { weight, bias: None, low_rank })
    }

    #[cfg(test)]
    pub(crate) fn for_tests(inputs: i64, outputs: i64) -> Self {
        let weight = Tensor::ones([outputs, inputs], (tch::Kind::Float, tch::Device::Cpu));
        Self { weight, bias: None, low_rank: None }
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let Some(LowRank { down, up, gain }) = &self.low_rank else {
            return x.f_linear(&self.weight, self.bias.as_ref()); // [.., in] -> [.., out]
        };
        let mut y = match gain {
            None => x.f_linear(&self.weight, self.bias.as_ref())?,
            Some(gain) => {
                let y = x.f_linear(&self.weight, None::<&Tensor>)?.f_mul(gain)?;
                self.bias.as_ref().map_or(Ok(y.shallow_clone()), |bias| y.f_add(bias))?
            }
        };
        y.f_add_(&x.f_linear(down, None::<&Tensor>)?.f_linear(up, None::<&Tensor>)?)
    }
}

impl Linear {
    /// The same of few rows `[n, in]`, each of which gets the bits that it gets alone.
    ///
    /// A matrix product of a handful of rows is computed otherwise than one of many: on a processor MKL adds up two rows in another
    /// order than four. Products of tokens are large enough to be computed alike. Row by row costs what one product costs, because
    /// reading the weights takes longer than multiplying. Other devices compute all rows at once.
    pub(crate) fn forward_by_row(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let (rows, _) = x.size2()?;
        if x.device() != Device::Cpu || rows == 1 {
            return self.forward(x);
        }
        let rows = (0..rows).map(|row| self.forward(&x.f_narrow(0, row, 1)?)).collect::<Result<Vec<_>, _>>()?;
        Tensor::f_cat(&rows, 0)
    }
}

/// A two-dimensional convolution with bias, and what is added to it ([`LowRank`]).
#[derive(Debug)]
pub(crate) struct Conv2d {
    kernel: Tensor, // [out, in, k, k]
    bias: Tensor,   // [out]
    geometry: ConvGeometry,
    low_rank: Option<LowRank>,
}

impl Conv2d {
    /// A convolution of stride 1 that keeps the size.
    pub(crate) fn load(scope: Scope<'_>, inputs: i64, outputs: i64, kernel: i64) -> Result<Self, WeightsError> {
        Self::load_with(scope, inputs, outputs, kernel, ConvGeometry { stride: 1, padding: kernel / 2 })
    }

    pub(crate) fn load_with(
        mut scope: Scope<'_>,
        inputs: i64,
        outputs: i64,
        kernel: i64,
        geometry: ConvGeometry,
    ) -> Result<Self, WeightsError> {
        let bias = scope.take("bias", &[outputs])?;
        let low_rank = scope.low_rank(LayerShape::Convolution { inputs, outputs, kernel })?;
        let kernel = scope.take_kernel("weight", &[outputs, inputs, kernel, kernel], geometry)?;
        Ok(Self { kernel, bias, geometry, low_rank })
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let mut y = self.convolve(x)?; // [n, in, h, w] -> [n, out, h', w']
        let Some(LowRank { down, up, .. }) = &self.low_rank else { return Ok(y) };
        let ConvGeometry { stride, padding } = self.geometry;
        let narrow = x.f_conv2d(down, None::<&Tensor>, [stride, stride], [padding, padding], [1, 1], 1)?;
        y.f_add_(&narrow.f_conv2d(up, None::<&Tensor>, [1, 1], [0, 0], [1, 1], 1)?)
    }

    fn convolve(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let ConvGeometry { stride, padding } = self.geometry;
        let (stride, padding, dilation) = ([stride, stride], [padding, padding], [1, 1]);
        if self.kernel.is_mkldnn() {
            // Where libtorch sends a plain kernel as well, minus the reordering.
            return x.f_contiguous()?.f_mkldnn_convolution(
                &self.kernel,
                Some(&self.bias),
                padding,
                stride,
                dilation,
                1,
            );
        }
        x.f_conv2d(&self.kernel, Some(&self.bias), stride, padding, dilation, 1)
    }
}

/// Normalises groups of channels.
#[derive(Debug)]
pub(crate) struct GroupNorm {
    weight: Tensor,
    bias: Tensor,
    groups: i64,
    eps: f64,
}

impl GroupNorm {
    pub(crate) fn load(mut scope: Scope<'_>, channels: i64, groups: i64, eps: f64) -> Result<Self, WeightsError> {
        let weight = scope.take("weight", &[channels])?;
        Ok(Self { weight, bias: scope.take("bias", &[channels])?, groups, eps })
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        x.f_group_norm(self.groups, Some(&self.weight), Some(&self.bias), self.eps, true) // [n, c, ..]
    }

    /// The normalised input behind the SiLU that follows it everywhere.
    pub(crate) fn forward_silu(&self, x: &Tensor) -> Result<Tensor, TchError> {
        self.forward(x)?.f_silu_()
    }
}

/// Normalises the last dimension.
#[derive(Debug)]
pub(crate) struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    width: i64,
    eps: f64,
}

impl LayerNorm {
    pub(crate) fn load(mut scope: Scope<'_>, width: i64, eps: f64) -> Result<Self, WeightsError> {
        let weight = scope.take("weight", &[width])?;
        Ok(Self { weight, bias: scope.take("bias", &[width])?, width, eps })
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        x.f_layer_norm([self.width], Some(&self.weight), Some(&self.bias), self.eps, true) // [.., width]
    }
}

fn torch_error(name: &str, source: TchError) -> WeightsError {
    WeightsError::Torch { name: name.to_owned(), source }
}

#[cfg(test)]
mod tests;
