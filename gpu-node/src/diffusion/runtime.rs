//! The machine underneath: threads, and within what a drawing can be repeated bit for bit.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use bildkante_shared::recipe::ValidRecipe;
use bildkante_shared::wire::Determinism;
use tch::Device;

use super::{Checkpoint, device};

/// The only libtorch that `tch` links against; its build script refuses any other.
pub const LIBTORCH: &str = "libtorch-2.11.0";

/// Turns of an idle OpenMP thread's loop before it sleeps: a few microseconds.
const SPINS: &str = "1000";

const CUBLAS_WORKSPACE: &str = "CUBLAS_WORKSPACE_CONFIG";

/// Starts the program anew with an environment in which OpenMP threads soon sleep while they wait for each other, unless
/// the environment already says how they wait.
///
/// GNU's OpenMP spins for milliseconds by default. As soon as something else wants the cores — the edge beside its
/// sidecar, encoding — the thread that is waited for is not running, and every one of the hundreds of barriers in a
/// step burns a time slice: a step took ten to twenty times as long on two busy cores, and not a tenth longer with few
/// spins on idle ones. The library reads its environment when it is loaded, before `main`, so there is no other way in.
///
/// # Errors
/// When the program cannot be started anew; it goes on as it is then. Otherwise this returns at most once.
pub fn spin_briefly() -> io::Result<()> {
    let is_said = |name: &str| std::env::var_os(name).is_some();
    if is_said("GOMP_SPINCOUNT") || is_said("OMP_WAIT_POLICY") {
        return Ok(());
    }
    let mut arguments = std::env::args_os();
    let mut command = Command::new("/proc/self/exe");
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    // cuBLAS repeats itself only with a workspace of one shape (its documentation, "Results reproducibility"), and reads this
    // when it is loaded, too.
    if !is_said(CUBLAS_WORKSPACE) {
        command.env(CUBLAS_WORKSPACE, ":4096:8");
    }
    Err(command.args(arguments).env("GOMP_SPINCOUNT", SPINS).exec())
}

/// CPU threads of one operator, for operators that the calling thread starts: OpenMP keeps the number per thread.
/// Zero leaves libtorch's own choice, the number of cores.
pub fn set_threads(threads: u32) {
    if let (1.., Ok(threads)) = (threads, i32::try_from(threads)) {
        tch::set_num_threads(threads);
    }
}

/// CPU threads of one operator that the calling thread starts.
#[must_use]
pub fn threads() -> u32 {
    u32::try_from(tch::get_num_threads()).unwrap_or(1)
}

/// Equal class, equal bits: the processor chooses the kernels, precision and shape of the batch the order of their
/// additions, and on a CPU the calling thread's number of threads where they are cut into shares: sums over channels-
/// last maps are made share by share, and the values at a share's end are computed one by one, which rounds differently.
///
/// `requests` is the number of requests of a batch within which bits are promised.
#[must_use]
pub fn determinism(checkpoint: &Checkpoint, recipe: &ValidRecipe, requests: usize) -> Determinism {
    let factor = checkpoint.vae_factor().max(1);
    let (rows, channels) = (requests * if recipe.is_guided() { 2 } else { 1 }, checkpoint.latent_channels());
    let (height, width) = (recipe.height_px / factor, recipe.width_px / factor);
    let device = device::kind_of(checkpoint.device());
    let mut class = format!("{device}/{LIBTORCH}/{}/{rows}x{channels}x{height}x{width}", checkpoint.dtype());
    if checkpoint.placement().channels_last {
        class.push_str("/channels-last");
    }
    if let Some(tiles_px) = checkpoint.vae_tiles_px_for((recipe.width_px, recipe.height_px)) {
        class.push_str(&format!("/tiles-{tiles_px}"));
    }
    if checkpoint.device() == Device::Cpu {
        class.push_str(&format!("/threads-{}", threads()));
    }
    Determinism { class, device, runtime: LIBTORCH.to_owned() }
}
