//! What an error of libtorch's says of the device: nothing, no memory, lost, or not clear.
//!
//! libtorch tells CUDA's errors as text: `CUDA error: ` and what `cudaGetErrorString` says, or the name of cuBLAS's status;
//! `cuDNN error: ` and the name of cuDNN's. An error that stays with its context ("sticky") is returned by every later call,
//! and only a new process gets the device back. Which those are is in the CUDA Runtime API's description of `cudaError_t`:
//! "this leaves the process in an inconsistent state and any further CUDA work will return the same error", or "the device
//! cannot be used again". A status of cuBLAS or cuDNN (their manuals, `cublasStatus_t` and `cudnnStatus_t`) says that a call
//! failed and not what became of the context, so there the device itself is asked: what every later call returns, waiting
//! for it returns as well.

/// What became of the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is no error of a device.
    None,
    /// It, or the process, had no memory left. Nothing else is wrong with either.
    OutOfMemory,
    /// It does nothing any more for this process.
    Lost,
    /// A call failed: the device has to be asked.
    Unclear,
}

/// Words that only a want of memory uses: of CUDA, its driver, cuBLAS, cuDNN, the host's allocators.
const OUT_OF_MEMORY: [&str; 6] = [
    "out of memory",
    "can't allocate memory",
    "bad allocation",
    "ALLOC_FAILED",
    "ALLOCATION_FAILED",
    "cudaErrorMemoryAllocation",
];

/// What `cudaGetErrorString` says of errors that stay, with their numbers. Neither 46 (all devices are busy or unavailable) nor
/// 999 (unknown error) is one: the manual says of both that a call failed, and not that later ones do.
const LOST: [&str; 14] = [
    "driver shutting down",                                     // 4
    "uncorrectable ECC error encountered",                      // 214
    "uncorrectable NVLink error detected during the execution", // 220
    "an illegal memory access was encountered",                 // 700
    "the launch timed out and was terminated",                  // 702
    "context is destroyed",                                     // 709
    "device-side assert triggered",                             // 710
    "hardware stack error",                                     // 714
    "an illegal instruction was encountered",                   // 715
    "misaligned address",                                       // 716
    "operation not supported on global/shared address space",   // 717
    "invalid program counter",                                  // 718
    "unspecified launch failure",                               // 719
    "Tensor Memory not completely freed",                       // 721
];

/// How libtorch begins an error of a device's libraries.
const OF_A_DEVICE: [&str; 6] =
    ["CUDA error", "CUDA driver error", "cuDNN error", "cuDNN Frontend error", "CUBLAS_STATUS_", "CUDNN_STATUS_"];

impl Fault {
    /// Of an error's text; only its first line counts, behind which libtorch explains and prints its stack.
    #[must_use]
    pub fn of(text: &str) -> Self {
        let says = |words: &[&str]| words.iter().any(|word| first_line(text).contains(word));
        if says(&OUT_OF_MEMORY) {
            Self::OutOfMemory
        } else if !says(&OF_A_DEVICE) {
            Self::None
        } else if says(&LOST) {
            Self::Lost
        } else {
            Self::Unclear
        }
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As libtorch writes them.
    #[test]
    fn what_a_device_says_is_told_apart() {
        let notes = "CUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might \
                     be incorrect.\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1\nCompile with `TORCH_USE_CUDA_DSA` to \
                     enable device-side assertions.\n";
        let expected = [
            (
                "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.10 GiB",
                Fault::OutOfMemory,
            ),
            ("CUDA error: out of memory", Fault::OutOfMemory),
            ("CUDA driver error: out of memory", Fault::OutOfMemory),
            ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", Fault::OutOfMemory),
            ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", Fault::OutOfMemory),
            ("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED", Fault::OutOfMemory),
            (
                "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried",
                Fault::OutOfMemory,
            ),
            ("CUDA error: an illegal memory access was encountered", Fault::Lost),
            ("CUDA error: device-side assert triggered", Fault::Lost),
            ("CUDA error: unspecified launch failure", Fault::Lost),
            ("CUDA error: misaligned address", Fault::Lost),
            ("CUDA error: the launch timed out and was terminated", Fault::Lost),
            ("CUDA error: uncorrectable ECC error encountered", Fault::Lost),
            ("CUDA error: an illegal instruction was encountered", Fault::Lost),
            // The call failed; whether more did, the device knows.
            ("CUDA error: unknown error", Fault::Unclear),
            ("CUDA error: all CUDA-capable devices are busy or unavailable", Fault::Unclear),
            ("CUDA error: CUDA-capable device(s) is/are busy or unavailable", Fault::Unclear),
            (
                "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm( handle, opa, opb, m, n, k)`",
                Fault::Unclear,
            ),
            ("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`", Fault::Unclear),
            ("CUDA error: CUBLAS_STATUS_INTERNAL_ERROR when calling `cublasGemmEx( handle, opa, opb)`", Fault::Unclear),
            ("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasLtMatmulAlgoGetHeuristic`", Fault::Unclear),
            ("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED", Fault::Unclear),
            ("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED", Fault::Unclear),
            ("CUDA error: invalid configuration argument", Fault::Unclear),
            ("CUDA error: too many resources requested for launch", Fault::Unclear),
            ("CUDA error: no kernel image is available for execution on the device", Fault::Unclear),
            ("The size of tensor a (3) must match the size of tensor b (4) at non-singleton dimension 1", Fault::None),
            ("Expected all tensors to be on the same device", Fault::None),
        ];
        for (text, fault) in expected {
            assert_eq!(Fault::of(text), fault, "{text}");
            assert_eq!(Fault::of(&format!("Internal torch error: {text}\n{notes}")), fault, "{text}, with notes");
        }
    }
}
