//! A device's kind, memory and numerical choices, waiting for it and uploading to it: what `tch` does not reach, through a shim
//! of libtorch's own calls.
//!
//! A CPU's memory is the process's: what the system and its control group leave.

use std::fs;
use std::sync::OnceLock;

use tch::{Device, TchError, Tensor};

/// The shim's own interface; a function with a status returns 0 where it did what it says.
#[allow(unsafe_code, reason = "a foreign interface: numbers, text and a tensor in and out, and nothing kept")]
mod shim {
    unsafe extern "C" {
        fn bildkante_choose_numerics(is_exact: bool, allows_tf32: bool) -> i32;
        fn bildkante_memory(index: i64, free_bytes: *mut u64, total_bytes: *mut u64, peak_bytes: *mut u64) -> i32;
        fn bildkante_wait(index: i64, reason: *mut std::ffi::c_char, bytes: usize) -> i32;
        fn bildkante_upload(
            tensor: *const std::ffi::c_void,
            index: i64,
            reason: *mut std::ffi::c_char,
            bytes: usize,
        ) -> *mut std::ffi::c_void;
        fn bildkante_device_name(index: i64, name: *mut std::ffi::c_char, bytes: usize) -> i32;
        fn bildkante_cpu_choices(text: *mut std::ffi::c_char, bytes: usize) -> i32;
        fn bildkante_cuda_versions(runtime: *mut i64, cudnn: *mut i64) -> i32;
        fn bildkante_count_waits() -> u64;
        fn bildkante_counted_waits(counting: u64) -> u64;
        fn bildkante_give_back_memory() -> i32;
    }

    pub(crate) fn choose_numerics(is_exact: bool, allows_tf32: bool) -> bool {
        // SAFETY: takes two values and catches its exceptions.
        unsafe { bildkante_choose_numerics(is_exact, allows_tf32) == 0 }
    }

    pub(crate) fn memory(index: i64) -> Option<super::Memory> {
        let (mut free_bytes, mut total_bytes, mut peak_bytes) = (0, 0, 0);
        // SAFETY: writes through pointers to three live numbers before it returns, and keeps none of them.
        let status = unsafe { bildkante_memory(index, &mut free_bytes, &mut total_bytes, &mut peak_bytes) };
        (status == 0).then_some(super::Memory { free_bytes, total_bytes, peak_bytes: Some(peak_bytes) })
    }

    pub(crate) fn wait(index: i64) -> Result<(), String> {
        let mut reason = [0_u8; 1024];
        // SAFETY: writes at most as many bytes as are told, keeps no pointer and catches its exceptions.
        let status = unsafe { bildkante_wait(index, reason.as_mut_ptr().cast(), reason.len()) };
        if status == 0 { Ok(()) } else { Err(text(&reason)) }
    }

    pub(crate) fn upload(tensor: &tch::Tensor, index: i64) -> Result<tch::Tensor, String> {
        let mut reason = [0_u8; 1024];
        // SAFETY: the pointer is to libtorch's own tensor, which lives for the call and is only read; else as above.
        let uploaded =
            unsafe { bildkante_upload(tensor.as_ptr().cast(), index, reason.as_mut_ptr().cast(), reason.len()) };
        if uploaded.is_null() {
            return Err(text(&reason));
        }
        // SAFETY: a tensor of libtorch's, made by `new` and owned by the caller, as tch's own are.
        Ok(unsafe { tch::Tensor::from_ptr(uploaded.cast()) })
    }

    pub(crate) fn device_name(index: i64) -> Option<String> {
        let mut name = [0_u8; 256];
        // SAFETY: as above.
        let status = unsafe { bildkante_device_name(index, name.as_mut_ptr().cast(), name.len()) };
        (status == 0).then(|| text(&name))
    }

    pub(crate) fn cpu_choices() -> Option<String> {
        let mut choices = [0_u8; 256];
        // SAFETY: as above.
        let status = unsafe { bildkante_cpu_choices(choices.as_mut_ptr().cast(), choices.len()) };
        (status == 0).then(|| text(&choices))
    }

    pub(crate) fn cuda_versions() -> (i64, i64) {
        let (mut runtime, mut cudnn) = (0, 0);
        // SAFETY: writes through pointers to two live numbers before it returns, and keeps none of them.
        unsafe { bildkante_cuda_versions(&mut runtime, &mut cudnn) };
        (runtime, cudnn)
    }

    /// Counts on this thread until it is dropped.
    pub(crate) struct Counting(u64);

    impl Counting {
        pub(crate) fn begin() -> Option<Self> {
            // SAFETY: takes nothing, counts in a number of its own thread and catches its exceptions.
            let counting = unsafe { bildkante_count_waits() };
            (counting != 0).then_some(Self(counting))
        }

        pub(crate) fn end(self) -> u64 {
            let counting = std::mem::ManuallyDrop::new(self);
            // SAFETY: as above; the handle is one that was given out, and it is given back once.
            unsafe { bildkante_counted_waits(counting.0) }
        }
    }

    impl Drop for Counting {
        fn drop(&mut self) {
            // SAFETY: as above.
            unsafe { bildkante_counted_waits(self.0) };
        }
    }

    /// What stands before the zero.
    fn text(bytes: &[u8]) -> String {
        let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
        String::from_utf8_lossy(text).into_owned()
    }

    pub(crate) fn give_back_memory() -> bool {
        // SAFETY: takes nothing and catches its exceptions.
        unsafe { bildkante_give_back_memory() == 0 }
    }
}

/// A device's memory in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// What can still be taken.
    pub free_bytes: u64,
    pub total_bytes: u64,
    /// The most that tensors took at a time; unknown on a CPU.
    pub peak_bytes: Option<u64>,
}

/// Chooses kernels that repeat themselves, and whether float32 may be computed in TF32, for the whole process.
///
/// cuBLAS is told by its environment ([`crate::diffusion::runtime::settle_environment`]): it reads that when it is loaded.
pub fn choose_numerics(is_exact: bool, allows_tf32: bool) {
    if !shim::choose_numerics(is_exact, allows_tf32) {
        tracing::error!("libtorch's numerical choices cannot be made");
    }
}

/// A device's memory, where it can be told.
#[must_use]
pub fn memory(device: Device) -> Option<Memory> {
    match device {
        Device::Cuda(index) => shim::memory(i64::try_from(index).ok()?),
        Device::Cpu => host_memory(),
        _ => None,
    }
}

/// A tensor's copy on a device. From the host's memory it is queued behind what the device is doing: the host does not wait.
///
/// # Errors
/// When libtorch fails.
pub fn upload(tensor: &Tensor, device: Device) -> Result<Tensor, TchError> {
    let (Device::Cpu, Device::Cuda(index)) = (tensor.device(), device) else { return tensor.f_to_device(device) };
    shim::upload(tensor, i64::try_from(index).unwrap_or(-1)).map_err(TchError::Torch)
}

/// What kind of device it is, in lower-case letters, digits and hyphens. Two of one kind choose the same kernels, and so have
/// the same bits: on a processor make and model count beside the instruction set, since libraries look at caches and makers,
/// too. A GPU whose driver tells no name goes by its place in the machine, which says less.
#[must_use]
pub fn kind_of(device: Device) -> String {
    static PROCESSOR: OnceLock<String> = OnceLock::new();
    match device {
        Device::Cpu => {
            PROCESSOR.get_or_init(|| processor(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default())).clone()
        }
        Device::Cuda(index) => match i64::try_from(index).ok().and_then(shim::device_name) {
            Some(name) => format!("cuda-{}", slug(&name)),
            None => format!("cuda-{index}"),
        },
        other => slug(&format!("{other:?}")),
    }
}

/// What libtorch's own kernels and MKL chose on this processor.
pub(crate) fn cpu_choices() -> String {
    shim::cpu_choices().unwrap_or_else(|| "aten-unknown".to_owned())
}

/// Runtime, cuDNN and driver.
pub(crate) fn accelerator_choices() -> String {
    let (runtime, cudnn) = shim::cuda_versions();
    let driver = fs::read_to_string("/proc/driver/nvidia/version").unwrap_or_default();
    let driver = driver_version(&driver).unwrap_or("unknown");
    let tf32 = std::env::var("NVIDIA_TF32_OVERRIDE").map(|value| format!("+tf32-override-{value}")).unwrap_or_default();
    format!("cuda-{runtime}+cudnn-{cudnn}+driver-{driver}{tf32}")
}

/// Of the first line, `NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul …`, the first word that is a version.
fn driver_version(text: &str) -> Option<&str> {
    let is_version = |word: &&str| word.contains('.') && word.chars().all(|c| c.is_ascii_digit() || c == '.');
    text.lines().next()?.split_whitespace().find(is_version)
}

/// As Linux tells (x86-64 calls them maker, family, model and stepping), and what instructions it has for libtorch's kernels.
fn processor(cpuinfo: &str) -> String {
    let field = |name: &str| {
        let line = cpuinfo.lines().find(|line| line.split(':').next().is_some_and(|key| key.trim() == name))?;
        line.split_once(':').map(|(_, value)| value.trim())
    };
    let parts = ["vendor_id", "cpu family", "model", "stepping"].into_iter().filter_map(field).map(slug);
    ["cpu".to_owned()].into_iter().chain(parts).chain([instruction_set().to_owned()]).collect::<Vec<_>>().join("-")
}

fn instruction_set() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    {
        let has_avx512 = std::is_x86_feature_detected!("avx512f")
            && std::is_x86_feature_detected!("avx512vl")
            && std::is_x86_feature_detected!("avx512bw")
            && std::is_x86_feature_detected!("avx512dq");
        match (has_avx512, std::is_x86_feature_detected!("avx2")) {
            (true, _) => "avx512",
            (false, true) => "avx2",
            (false, false) => "baseline",
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        std::env::consts::ARCH
    }
}

/// Words in lower-case letters and digits, joined by hyphens; a `+` stays one.
pub(crate) fn slug(name: &str) -> String {
    name.split('+').map(slug_of_one).collect::<Vec<_>>().join("+")
}

fn slug_of_one(name: &str) -> String {
    let words = name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("-").to_lowercase()
}

/// Does what makes a thread wait for a device, and counts how often it does: values read, blocking copies from one device to
/// another. On a CPU it counts what would wait elsewhere, but for copies. `None`: libtorch does not count.
pub fn count_waits<T>(work: impl FnOnce() -> T) -> (T, Option<u64>) {
    let counting = shim::Counting::begin();
    let done = work();
    (done, counting.map(shim::Counting::end))
}

/// Waits until a device has done what it was given; a CPU always has.
///
/// # Errors
/// What the device failed at meanwhile.
pub fn wait(device: Device) -> Result<(), TchError> {
    let Device::Cuda(index) = device else { return Ok(()) };
    shim::wait(i64::try_from(index).unwrap_or(-1)).map_err(TchError::Torch)
}

/// Gives back to the device what its allocator keeps for tensors to come.
pub fn give_back_memory(device: Device) {
    if device != Device::Cpu && !shim::give_back_memory() {
        tracing::warn!("the device's allocator kept its memory");
    }
}

/// `/proc/meminfo`, and the control group's bound where there is one (cgroup v2).
fn host_memory() -> Option<Memory> {
    let meminfo = fs::read_to_string("/proc/meminfo").ok()?;
    let field = |name: &str| -> Option<u64> {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim_start_matches(':').trim().trim_end_matches("kB").trim().parse::<u64>().ok().map(|kib| kib * 1024)
    };
    let (free_bytes, total_bytes) = (field("MemAvailable")?, field("MemTotal")?);
    let number = |file: &str| fs::read_to_string(format!("/sys/fs/cgroup/{file}")).ok()?.trim().parse::<u64>().ok();
    let (bound_bytes, used_bytes) = (number("memory.max"), number("memory.current"));
    let free_bytes = match bound_bytes.zip(used_bytes) {
        Some((bound, used)) => free_bytes.min(bound.saturating_sub(used)),
        None => free_bytes,
    };
    Some(Memory {
        free_bytes,
        total_bytes: bound_bytes.map_or(total_bytes, |bound| bound.min(total_bytes)),
        peak_bytes: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_told_apart_by_make_and_model() {
        let amd = "processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 1\nmodel name\t: AMD EPYC\nstepping\t: 2\n\nmodel\t\t: 2\n";
        assert_eq!(processor(amd), format!("cpu-authenticamd-25-1-2-{}", instruction_set()));
        assert_eq!(processor(""), format!("cpu-{}", instruction_set()));
        assert_eq!(slug("NVIDIA H100 80GB HBM3"), "nvidia-h100-80gb-hbm3");
        assert!(kind_of(Device::Cpu).starts_with("cpu-"));
        let driver =
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\nGCC version: 12.3.0\n";
        assert_eq!(driver_version(driver), Some("580.65.06"));
        assert_eq!((driver_version(""), driver_version("nothing")), (None, None));
        assert_eq!(slug("aten-AVX512+mkl-1"), "aten-avx512+mkl-1");
    }

    #[test]
    fn a_cpu_has_memory_and_a_device_that_is_not_there_has_none() {
        let memory = memory(Device::Cpu).expect("Linux tells");
        assert!(memory.free_bytes > 0 && memory.free_bytes <= memory.total_bytes, "{memory:?}");
        assert_eq!(super::memory(Device::Cuda(99)), None);
        assert_eq!(kind_of(Device::Cuda(99)), "cuda-99", "it has no name");
        let tensor = Tensor::from_slice(&[1.0_f32, 2.0]);
        assert_eq!(upload(&tensor, Device::Cpu).expect("it is there"), tensor);
        assert!(upload(&tensor, Device::Cuda(99)).expect_err("it is not there").to_string().contains("no such device"));
        assert!(wait(Device::Cpu).is_ok());
        assert!(wait(Device::Cuda(99)).expect_err("it is not there").to_string().contains("no such device"));
        choose_numerics(true, false);
        give_back_memory(Device::Cuda(99));
    }
}
