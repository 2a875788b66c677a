//! What engines are told of a node's configuration, what they share, and the factories that make them.

use std::path::PathBuf;
use std::sync::Arc;

use bildkante_shared::checkpoint::FileDigests;
use tch::Device;

use super::TorchEngine;
use super::adapters::FilesRead;
use super::library::Library;
use super::probing::Verdicts;
use crate::config::{DeterminismChoice, DeviceChoice, DtypeChoice, NodeConfig};
use crate::diffusion::device;
use crate::diffusion::dtype::DType;
use crate::diffusion::loading::Placement;
use crate::engine::{EngineFactory, Engines};

/// What an engine is told of the configuration.
#[derive(Debug, Clone)]
pub(super) struct Options {
    pub(super) models_dir: PathBuf,
    pub(super) data_dir: PathBuf,
    pub(super) blob_bytes_max: u64,
    pub(super) placement: Placement,
    pub(super) tf32: bool,
    pub(super) threads: u32,
    pub(super) vae_tiles_px: u32,
    pub(super) memory_bytes_max: u64,
    pub(super) models_poll_ms: u64,
    pub(super) self_test_steps: u32,
    pub(super) requests_max: usize,
    pub(super) determinism: DeterminismChoice,
    pub(super) adapters_read: FilesRead,
    /// Digests of the checkpoints' files. Each file is read once for all devices and all starts.
    pub(super) digests: Arc<FileDigests>,
    /// How many requests may share a pass, found out once for all devices of a kind and all starts.
    pub(super) verdicts: Arc<Verdicts>,
    pub(super) library: Arc<Library>,
    /// Bytes of networks on the device; `None`: all of them are put there at the start.
    pub(super) networks_bytes_max: Option<u64>,
    /// Names of checkpoints whose networks make room for no others.
    pub(super) pinned: Vec<String>,
}

/// What a node's engines share.
#[derive(Debug, Clone)]
struct Shared {
    adapters_read: FilesRead,
    digests: Arc<FileDigests>,
    verdicts: Arc<Verdicts>,
    library: Arc<Library>,
}

impl Options {
    /// Where larger pictures are decoded in tiles.
    pub(super) fn vae_tiles_px(&self) -> Option<u32> {
        Some(self.vae_tiles_px).filter(|px| *px > 0)
    }
}

impl Shared {
    fn of(config: &NodeConfig) -> Self {
        Self {
            adapters_read: FilesRead::default(),
            digests: Arc::new(FileDigests::kept_in(config.data_dir.join("file-digests.json"))),
            verdicts: Arc::new(Verdicts::kept_in(config.data_dir.join("batch-shapes.json"))),
            library: Arc::new(Library::new(config.networks.host_bytes_max)),
        }
    }
}

/// One factory for each device, which loads the checkpoints of `models_dir` on its thread.
#[must_use]
pub fn torch_engines(config: &NodeConfig) -> Engines {
    let shared = Shared::of(config);
    let engine = |device: &DeviceChoice| (device.to_string(), torch_engine_on(*device, config, shared.clone()));
    Engines(config.device.each().iter().map(engine).collect())
}

/// The factory of the first device.
#[must_use]
pub fn torch_engine(config: &NodeConfig) -> EngineFactory {
    let device = config.device.each().first().copied();
    torch_engine_on(device.unwrap_or(DeviceChoice::Cpu), config, Shared::of(config))
}

fn torch_engine_on(device: DeviceChoice, config: &NodeConfig, shared: Shared) -> EngineFactory {
    let Shared { adapters_read, digests, verdicts, library } = shared;
    let options = Options {
        models_dir: config.models_dir.clone(),
        data_dir: config.data_dir.clone(),
        blob_bytes_max: config.store.blob_bytes_max,
        placement: Placement {
            device: torch_device(device),
            dtype: torch_dtype(config.dtype),
            channels_last: config.channels_last,
        },
        tf32: config.tf32,
        threads: config.threads,
        vae_tiles_px: config.vae_tiles_px,
        memory_bytes_max: config.memory_bytes_max,
        models_poll_ms: config.models_poll_ms,
        self_test_steps: config.self_test_steps,
        requests_max: config.batch.requests_max_on(device),
        determinism: config.batch.determinism,
        adapters_read,
        digests,
        verdicts,
        library,
        networks_bytes_max: Some(config.networks.device_bytes_max).filter(|bytes| *bytes > 0),
        pinned: config.networks.pinned.clone(),
    };
    let is_exact = config.batch.determinism == DeterminismChoice::Exact;
    Box::new(move || {
        device::choose_numerics(is_exact, options.tf32);
        Ok(Box::new(TorchEngine::load(options)?))
    })
}

const fn torch_device(device: DeviceChoice) -> Device {
    match device {
        DeviceChoice::Cpu => Device::Cpu,
        DeviceChoice::Cuda(index) => Device::Cuda(index),
    }
}

const fn torch_dtype(dtype: DtypeChoice) -> DType {
    match dtype {
        DtypeChoice::F32 => DType::F32,
        DtypeChoice::Bf16 => DType::BF16,
        DtypeChoice::F16 => DType::F16,
    }
}
