//! What batches of few rows do to a product, and that row by row undoes it.

use tch::{Device, Kind, Tensor};

use super::Linear;

/// Inputs and outputs of the layers that embed the time: of the built-in checkpoint, and of Stable Diffusion 1.5.
const LAYERS: [(i64, i64); 7] = [(32, 128), (128, 128), (128, 64), (320, 1280), (1280, 1280), (1280, 320), (1280, 640)];

/// A product of so many rows has other bits in one row than the product of that row alone, on some processors and for some
/// kinds: which of these layers does so is printed. Row by row none may.
#[test]
fn few_rows_get_the_bits_that_each_gets_alone() {
    for kind in [Kind::Float, Kind::BFloat16] {
        for (inputs, outputs) in LAYERS {
            let layer = Linear::random_for_tests(inputs, outputs, kind);
            let mut differing = Vec::new();
            for rows in 2..=8 {
                let x = waves([rows, inputs], 0.37).to_kind(kind);
                let alone = |row: i64| layer.forward(&x.narrow(0, row, 1)).expect("a product");
                let alone = Tensor::cat(&(0..rows).map(alone).collect::<Vec<_>>(), 0);
                assert!(layer.forward_by_row(&x).expect("products").equal(&alone), "{rows} rows of {inputs} {kind:?}");
                if !layer.forward(&x).expect("a product").equal(&alone) {
                    differing.push(rows);
                }
            }
            println!("{inputs} to {outputs} {kind:?}: one product differs from rows alone at {differing:?} rows");
        }
    }
}

/// What the remedy costs: `--ignored --nocapture`, in a release build.
#[test]
#[ignore = "measures, and asserts nothing"]
fn what_row_by_row_costs() {
    for (inputs, outputs) in LAYERS {
        let layer = Linear::random_for_tests(inputs, outputs, Kind::Float);
        for rows in [2, 4, 8] {
            let x = waves([rows, inputs], 0.37);
            let [together_us, by_row_us] = [false, true].map(|by_row| {
                let once = || if by_row { layer.forward_by_row(&x) } else { layer.forward(&x) };
                let mut times: Vec<f64> = (0..201)
                    .map(|_| {
                        let began = std::time::Instant::now();
                        let _product = once().expect("a product");
                        began.elapsed().as_secs_f64() * 1e6
                    })
                    .collect();
                times.sort_by(f64::total_cmp);
                times[times.len() / 2]
            });
            println!("{inputs} to {outputs}, {rows} rows: together {together_us:.1} µs, row by row {by_row_us:.1} µs");
        }
    }
}

fn waves(size: [i64; 2], frequency: f64) -> Tensor {
    (Tensor::arange(size[0] * size[1], (Kind::Float, Device::Cpu)) * frequency).sin().view(size)
}

impl Linear {
    /// Weights of a magnitude as trained ones have.
    fn random_for_tests(inputs: i64, outputs: i64, kind: Kind) -> Self {
        #[allow(clippy::cast_precision_loss, reason = "small")]
        let weight = waves([outputs, inputs], 0.731) * (inputs as f64).powf(-0.5);
        let bias = waves([1, outputs], 0.53).squeeze_dim(0);
        Self { weight: weight.to_kind(kind), bias: Some(bias.to_kind(kind)), low_rank: None }
    }
}
