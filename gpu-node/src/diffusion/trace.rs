//! What a drawing went through, for comparison with another implementation.
//!
//! A safetensors file of float32 tensors: `noise`, `latents.000`, `latents.001`, … after each evaluation of the
//! network, `image` (channels first, 0 to 1), and the text embeddings `embeddings.cond` and, under guidance,
//! `embeddings.uncond`.

use std::path::Path;

use tch::{Device, Kind, TchError, Tensor};

/// Tensors kept by name, in the order in which they came about.
#[derive(Debug, Default)]
pub struct Trace {
    tensors: Vec<(String, Tensor)>,
}

impl Trace {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// # Errors
    /// When libtorch cannot copy the tensor to the CPU.
    pub fn keep(&mut self, name: &str, tensor: &Tensor) -> Result<(), TchError> {
        // A copy, even where nothing needs converting: the original may be written to later.
        let kept = tensor.f_detach()?.f_to_device_(Device::Cpu, Kind::Float, false, true)?.f_contiguous()?;
        self.tensors.push((name.to_owned(), kept));
        Ok(())
    }

    /// Keeps the rows by what they condition on: the unconditional one comes first where there are two.
    pub(crate) fn keep_embeddings(&mut self, embeddings: &Tensor) -> Result<(), TchError> {
        let rows = embeddings.size()[0];
        self.keep("embeddings.cond", &embeddings.f_narrow(0, rows - 1, 1)?)?;
        if rows > 1 {
            self.keep("embeddings.uncond", &embeddings.f_narrow(0, 0, 1)?)?;
        }
        Ok(())
    }

    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.iter().find(|(kept, _)| kept == name).map(|(_, tensor)| tensor)
    }

    /// The names, in the order in which they were kept.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.iter().map(|(name, _)| name.as_str())
    }

    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), TchError> {
        Tensor::write_safetensors(&self.tensors, path)
    }

    /// Reads a trace that this or another implementation wrote.
    ///
    /// # Errors
    /// When the file is no safetensors file.
    pub fn read(path: &Path) -> Result<Self, TchError> {
        let mut tensors = Tensor::read_safetensors(path)?;
        tensors.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(Self { tensors })
    }
}
