//! Equal class, equal bits, under every environment that the libraries below read: a child process for each variable.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;
use std::process::Command;

use bildkante_shared::ids::Digest;
use serde_json::Value;

/// A class, and a digest of everything that was computed on the way to a master, to the last bit.
type Drawn = (String, Digest);

fn draw(variables: &[(&str, &str)]) -> Drawn {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_bildkante-gpu-node"));
    command.current_dir(dir.path()).args(["generate", "--prompt", "a teal mug", "--seed", "7", "--steps", "2"]);
    command.args(["--size", "128x128", "--out", "mug.png", "--trace", "mug.safetensors", "--checkpoint"]);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("models/studio-tiny"));
    if !variables.iter().any(|(name, _)| name.ends_with("_NUM_THREADS")) {
        command.args(["--threads", "2"]);
    }
    for name in VARIABLES.iter().map(|(name, _)| name) {
        command.env_remove(name);
    }
    let output = command.envs(variables.iter().copied()).output().unwrap();
    assert!(output.status.success(), "{variables:?}: {}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let trace = Digest::of_bytes(&std::fs::read(dir.path().join("mug.safetensors")).unwrap());
    (report["determinism"]["class"].as_str().unwrap().to_owned(), trace)
}

/// What is known to change bits on one processor or another. A value that is more than the processor has changes nothing.
const VARIABLES: [(&str, &str); 17] = [
    ("ATEN_CPU_CAPABILITY", "default"),
    ("ATEN_CPU_CAPABILITY", "avx2"),
    ("ONEDNN_MAX_CPU_ISA", "SSE41"),
    ("ONEDNN_MAX_CPU_ISA", "AVX2"),
    ("ONEDNN_MAX_CPU_ISA", "AVX512_CORE"),
    ("DNNL_MAX_CPU_ISA", "AVX2"),
    ("ONEDNN_DEFAULT_FPMATH_MODE", "BF16"),
    ("MKL_CBWR", "COMPATIBLE"),
    ("MKL_CBWR", "AVX2"),
    ("MKL_ENABLE_INSTRUCTIONS", "SSE4_2"),
    ("MKL_DYNAMIC", "FALSE"),
    ("OMP_DYNAMIC", "TRUE"),
    ("OMP_WAIT_POLICY", "passive"),
    ("OMP_NUM_THREADS", "1"),
    ("OMP_NUM_THREADS", "2"),
    ("MKL_NUM_THREADS", "1"),
    ("NVIDIA_TF32_OVERRIDE", "0"),
];

#[test]
fn an_equal_class_means_equal_bits_in_every_environment() {
    let plain = draw(&[]);
    assert_eq!(draw(&[]), plain, "the same process twice");
    let mut drawn = vec![(("nothing", ""), plain)];
    drawn.extend(VARIABLES.map(|variable| (variable, draw(&[variable]))));
    for (variable, (class, bits)) in &drawn {
        println!("{}={}: {} {class}", variable.0, variable.1, &bits.to_hex()[..8]);
    }
    let mut classes = std::collections::BTreeSet::new();
    for (a, (class_a, bits_a)) in &drawn {
        classes.insert(class_a);
        for (b, (class_b, bits_b)) in &drawn {
            assert!(class_a != class_b || bits_a == bits_b, "{a:?} and {b:?} are {class_a} and differ");
        }
    }
    // Where the processor has a choice, there are several: every x86-64 one that libtorch is built for has AVX2.
    if cfg!(target_arch = "x86_64") {
        assert!(classes.len() > 2, "{classes:?}");
    }
}
