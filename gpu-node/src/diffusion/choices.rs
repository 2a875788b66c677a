//! What libtorch and the libraries below it chose on this machine, as far as it decides bits: part of the determinism class.
//!
//! Two kinds of knowledge stand side by side. *Names*: the instruction set that libtorch's own kernels take
//! (`ATEN_CPU_CAPABILITY` bounds it), oneDNN's (`ONEDNN_MAX_CPU_ISA`), MKL's reproducibility mode (`MKL_CBWR`); on CUDA the
//! runtime, cuDNN and the driver. And *bits*: a digest of what a fixed, small computation comes to on this device, in this
//! precision, on so many threads, which notices what has no name here: caches, other variables (`MKL_ENABLE_INSTRUCTIONS`,
//! `ONEDNN_DEFAULT_FPMATH_MODE`, `MKL_DYNAMIC`, `NVIDIA_TF32_OVERRIDE`), another build of a library.
//!
//! Sources: oneDNN's developer guide, "CPU dispatcher control" (its library hides the function that tells the effective set,
//! so that is derived as it does); MKL's reference, `mkl_cbwr_get`.

use std::collections::BTreeMap;
use std::fs;

use parking_lot::Mutex;
use tch::{Device, Kind, TchError, Tensor};

use crate::diffusion::dtype::DType;
use crate::diffusion::{device, runtime};

/// oneDNN's instruction sets, the poorest first, each with the flags of `/proc/cpuinfo` that it needs.
const ONEDNN_SETS: [(&str, &[&str]); 11] = [
    ("sse41", &["sse4_1"]),
    ("avx", &["sse4_1", "avx"]),
    ("avx2", &["sse4_1", "avx", "avx2"]),
    ("avx2_vnni", &["sse4_1", "avx", "avx2", "avx_vnni"]),
    ("avx2_vnni_2", &["sse4_1", "avx", "avx2", "avx_vnni", "avx_vnni_int8", "avx_ne_convert"]),
    ("avx512_core", first_of_avx512(7)),
    ("avx512_core_vnni", first_of_avx512(8)),
    ("avx512_core_bf16", first_of_avx512(9)),
    ("avx512_core_fp16", first_of_avx512(11)),
    ("avx512_core_amx", first_of_avx512(14)),
    ("avx512_core_amx_fp16", first_of_avx512(15)),
];

/// What the sets with AVX-512 need: each of them all that the one before it does, and some flags more.
const fn first_of_avx512(count: usize) -> &'static [&'static str] {
    const FLAGS: &[&str] = &[
        "sse4_1",
        "avx",
        "avx2",
        "avx512f",
        "avx512bw",
        "avx512vl",
        "avx512dq",
        "avx512_vnni",
        "avx512_bf16",
        "avx512_fp16",
        "avx_vnni",
        "amx_tile",
        "amx_int8",
        "amx_bf16",
        "amx_fp16",
    ];
    FLAGS.split_at(count).0
}

/// The choices for one device and precision, on the calling thread, as a determinism class names them.
///
/// # Errors
/// When libtorch fails at the small computation.
pub(crate) fn of(device: Device, dtype: DType) -> Result<String, TchError> {
    static KNOWN: Mutex<BTreeMap<String, String>> = Mutex::new(BTreeMap::new());
    let key = format!("{device:?} {dtype} {}", runtime::threads());
    if let Some(known) = KNOWN.lock().get(&key) {
        return Ok(known.clone());
    }
    let names = match device {
        Device::Cpu => {
            let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
            let variable = |name: &str| {
                let read = |prefix: &str| std::env::var(format!("{prefix}_{name}")).ok();
                read("ONEDNN").or_else(|| read("DNNL"))
            };
            let onednn = onednn(&cpuinfo, variable("MAX_CPU_ISA").as_deref(), variable("CPU_ISA_HINTS").as_deref());
            format!("{}+onednn-{onednn}", device::cpu_choices())
        }
        _ => device::accelerator_choices(),
    };
    // Not every device computes everything in half precision; what it does in float32 tells machines apart as well.
    let bits = bits(device, dtype).or_else(|_| bits(device, DType::F32))?;
    let choices = format!("{}+bits-{bits}", device::slug(&names));
    KNOWN.lock().insert(key, choices.clone());
    Ok(choices)
}

/// The best of oneDNN's sets that the processor has and the environment allows.
fn onednn(cpuinfo: &str, most: Option<&str>, hints: Option<&str>) -> String {
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    let has = |flag: &&str| flags.split_whitespace().any(|known| known == *flag);
    let most = most.map(str::to_lowercase);
    // oneDNN ignores a name that it does not know.
    let allowed = most.and_then(|most| ONEDNN_SETS.iter().find(|(name, _)| *name == most)).map(|(_, needs)| *needs);
    let is_allowed = |needs: &[&str]| allowed.is_none_or(|allowed| needs.iter().all(|flag| allowed.contains(flag)));
    let best = ONEDNN_SETS.iter().rfind(|(_, needs)| needs.iter().all(&has) && is_allowed(needs));
    let prefers_ymm = hints.is_some_and(|hints| hints.eq_ignore_ascii_case("prefer_ymm"));
    format!("{}{}", best.map_or("none", |(name, _)| name), if prefers_ymm { "-ymm" } else { "" })
}

/// A short digest of a small computation with every kind of operation that a drawing has. It tells machines apart and proves
/// nothing.
fn bits(device: Device, dtype: DType) -> Result<String, TchError> {
    let _no_grad = tch::no_grad_guard();
    let mut hasher = blake3::Hasher::new();
    for result in compute(device, dtype.kind())? {
        let result = result.f_to_kind(Kind::Float)?.f_to_device(Device::Cpu)?.f_contiguous()?.f_flatten(0, -1)?;
        for value in Vec::<f32>::try_from(&result)? {
            hasher.update(&value.to_bits().to_le_bytes());
        }
    }
    Ok(hasher.finalize().to_hex()[..8].to_owned())
}

/// Convolutions in both layouts, products of a text's and a picture's shapes, attention, norms, activations, sums.
fn compute(device: Device, kind: Kind) -> Result<Vec<Tensor>, TchError> {
    let numbers = |seed: u32, shape: &[i64]| numbers(seed, shape)?.f_to_device(device)?.f_to_kind(kind);
    let none = Option::<&Tensor>::None;
    let map = numbers(1, &[2, 64, 24, 24])?;
    let kernel = numbers(2, &[64, 64, 3, 3])?.f_mul_scalar(0.04)?;
    let pointwise = numbers(3, &[320, 64, 1, 1])?;
    let convolved = map.f_conv2d(&kernel, none, [1, 1], [1, 1], [1, 1], 1)?;
    let strided = map.f_conv2d(&kernel, none, [2, 2], [1, 1], [1, 1], 1)?;
    let widened = map.f_conv2d(&pointwise, none, [1, 1], [0, 0], [1, 1], 1)?;
    let last = |tensor: &Tensor| tensor.f_permute([0, 2, 3, 1])?.f_contiguous()?.f_permute([0, 3, 1, 2]);
    let convolved_last = last(&map)?.f_conv2d(&last(&kernel)?, none, [1, 1], [1, 1], [1, 1], 1)?;
    let normed = convolved.f_group_norm(32, none, none, 1e-5, false)?;
    let tokens = numbers(4, &[154, 1280])?;
    let weight = numbers(5, &[320, 1280])?.f_mul_scalar(0.03)?;
    let product = tokens.f_linear(&weight, none)?;
    let heads = widened.f_view([2, 8, 40, 576])?.f_transpose(2, 3)?.f_contiguous()?; // [2, 8, 576, 40]
    let attended = Tensor::f_scaled_dot_product_attention(&heads, &heads, &heads, none, 0.0, false, None, false)?;
    let layer_normed = product.f_layer_norm([320], none, none, 1e-5, false)?;
    let mut results = vec![
        normed.f_silu()?,
        layer_normed.f_gelu("none")?,
        product.f_softmax(-1, Kind::Float)?,
        tokens.f_mul_scalar(3.0)?.f_sin()?,
        tokens.f_exp()?,
        tokens.f_sigmoid()?,
        map.f_sum(Kind::Float)?,
        map.f_mean_dim([2, 3].as_slice(), false, Kind::Float)?,
    ];
    results.extend([convolved, convolved_last, strided, widened, product, attended, normed, layer_normed]);
    Ok(results)
}

/// Numbers of -1 to 1 that look like no pattern: a linear congruential generator's (Numerical Recipes).
fn numbers(seed: u32, shape: &[i64]) -> Result<Tensor, TchError> {
    let count = shape.iter().product::<i64>().unsigned_abs();
    let mut state = seed;
    let values: Vec<f32> = (0..count)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            #[allow(clippy::cast_precision_loss, reason = "24 bits")]
            let unit = (state >> 8) as f32 / (1 << 23) as f32;
            unit - 1.0
        })
        .collect();
    Tensor::f_from_slice(&values)?.f_view(shape)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn onednn_takes_the_best_set_that_is_there_and_allowed() {
        let zen4 = "flags\t\t: fpu sse4_1 avx avx2 avx512f avx512bw avx512vl avx512dq avx512_vnni avx512_bf16\n";
        let zen3 = "flags\t\t: fpu sse4_1 avx avx2\n";
        let of = |cpuinfo, most| onednn(cpuinfo, most, None);
        assert_eq!((of(zen4, None).as_str(), of(zen3, None).as_str()), ("avx512_core_bf16", "avx2"));
        assert_eq!(of(zen4, Some("AVX2")), "avx2");
        assert_eq!(of(zen4, Some("avx512_core")), "avx512_core");
        assert_eq!(of(zen3, Some("AVX512_CORE_AMX")), "avx2", "more than there is");
        assert_eq!(of(zen4, Some("AVX2_VNNI")), "avx2");
        assert_eq!(of(zen4, Some("nonsense")), "avx512_core_bf16");
        assert_eq!(of("", None), "none");
        assert_eq!(onednn(zen4, None, Some("PREFER_YMM")), "avx512_core_bf16-ymm");
    }

    #[test]
    fn the_small_computation_repeats_itself_and_tells_precisions_apart() {
        let bits = |dtype| super::bits(Device::Cpu, dtype).expect("computed");
        assert_eq!(bits(DType::F32), bits(DType::F32));
        assert_ne!(bits(DType::F32), bits(DType::BF16));
        let choices = of(Device::Cpu, DType::F32).expect("computed");
        assert!(choices.starts_with("aten-") && choices.contains("+mkl-") && choices.contains("+onednn-"), "{choices}");
        assert!(choices.split('+').all(|part| !part.is_empty()) && !choices.contains('/'), "{choices}");
    }
}
