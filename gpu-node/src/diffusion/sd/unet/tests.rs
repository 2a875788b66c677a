//! A request's bits are those it has in company: networks of real widths, at every number of requests up to four.
//!
//! The weights come from a formula, so nothing is read and every run sees the same numbers. Widths, heads and sizes of images are
//! those of the real networks, because libraries choose their kernels by them; blocks are fewer, because repeating one chooses
//! nothing anew. With `BILDKANTE_NATIVE_SIZES=1` pictures have the sizes that the networks were trained with, which takes an hour.

use std::path::Path;

use serde_json::{Value, json};

use super::*;
use crate::diffusion::sd::conditioning::Added;
use crate::diffusion::weights::{ConvGeometry, KernelLayout};

/// Requests that share a pass.
const REQUESTS_MAX: i64 = 4;
const TOKENS: i64 = 77;

/// Numbers that are used again and again: a prime, so that no two rows of a matrix begin alike.
const NUMBERS: i64 = 1_000_003;

/// Weights by a formula, in the layouts that the engine computes with.
struct Formula {
    kind: Kind,
    numbers: Tensor,
    given: i64,
}

impl Formula {
    fn new(kind: Kind) -> Self {
        let angles = Tensor::arange(NUMBERS, (Kind::Double, Device::Cpu)) * 12.989_8;
        let numbers = (angles.sin() * 43_758.545).sin() * std::f64::consts::SQRT_2;
        Self { kind, numbers: numbers.to_kind(Kind::Float), given: 0 }
    }

    /// Between -1.5 and 1.5, of variance 1; the next ones begin elsewhere.
    fn numbers(&mut self, shape: &[i64]) -> Tensor {
        self.given += 1;
        let count = shape.iter().product::<i64>();
        let begin = self.given * 7919 % NUMBERS;
        let repeated = self.numbers.repeat([(begin + count) / NUMBERS + 1]);
        repeated.narrow(0, begin, count).reshape(shape)
    }

    fn weights(&mut self, shape: &[i64]) -> Tensor {
        let inputs = shape[1..].iter().product::<i64>() as f64;
        let numbers = match shape {
            [_] => self.numbers(shape) * 0.1 + 0.5,
            _ => self.numbers(shape) * inputs.sqrt().recip(),
        };
        numbers.to_kind(self.kind)
    }
}

impl VarSource for Formula {
    fn take(&mut self, _: &str, shape: &[i64]) -> Result<Tensor, WeightsError> {
        Ok(self.weights(shape))
    }

    fn take_stacked(&mut self, names: &[String], shape: &[i64]) -> Result<Tensor, WeightsError> {
        let mut stacked = shape.to_vec();
        stacked[0] *= names.len() as i64;
        Ok(self.weights(&stacked))
    }

    fn take_kernel(&mut self, _: &str, shape: &[i64], geometry: ConvGeometry) -> Result<Tensor, WeightsError> {
        let layout = KernelLayout::of(Device::Cpu, self.kind);
        Ok(layout.lay_out(self.weights(shape), geometry))
    }
}

/// What four requests give a network, `rows` each.
struct Inputs {
    latents: Tensor,
    timesteps: Tensor,
    text: Tensor,
    added: Option<(Tensor, Tensor)>,
    projected: Vec<ProjectedText>,
}

impl Inputs {
    fn of(unet: &Unet, config: &UnetConfig, kind: Kind, rows: i64, (height, width): (i64, i64)) -> Self {
        let (mut formula, count) = (Formula::new(Kind::Float), REQUESTS_MAX * rows);
        let latents = formula.numbers(&[count, config.in_channels, height, width]);
        let text = formula.numbers(&[count, TOKENS, config.cross_attention_dim]).to_kind(kind);
        let added = config.added.as_ref().map(|added| {
            let numbers = 6;
            let pooled = added.width - numbers * added.number_dim;
            (formula.numbers(&[count, pooled]), (formula.numbers(&[count, numbers]) * 300.0 + 512.0).round())
        });
        let texts = (0..count).map(|row| unet.project(&text.narrow(0, row, 1)).expect("projected"));
        let projected = texts.collect();
        let timesteps = Tensor::arange(count, (Kind::Float, Device::Cpu)) * 97.0 + 3.0;
        Self { latents, timesteps, text, added, projected }
    }

    /// The network's outputs for these requests, in one pass.
    fn passed(&self, unet: &Unet, requests: &[i64], rows: i64) -> Tensor {
        let at: Vec<i64> = requests.iter().flat_map(|request| request * rows..(request + 1) * rows).collect();
        let index = Tensor::from_slice(&at);
        let pick = |tensor: &Tensor| tensor.index_select(0, &index);
        let mut conditions = Conditioning::from(pick(&self.text));
        conditions.added =
            self.added.as_ref().map(|(pooled, numbers)| Added { pooled: pick(pooled), numbers: pick(numbers) });
        conditions.projected = at.iter().map(|row| self.projected[*row as usize].shallow_clone()).collect();
        unet.forward(&pick(&self.latents), &pick(&self.timesteps), &conditions, (None, &[])).expect("computed")
    }
}

/// Numbers of requests, and places of the first one, at which its bits are not those among four.
fn deviations(unet: &Unet, inputs: &Inputs, rows: i64) -> Vec<(usize, usize)> {
    let promised = inputs.passed(unet, &[0, 1, 2, 3], rows).narrow(0, 0, rows);
    let companies: [(&[i64], usize); 4] = [(&[0], 0), (&[2, 0], 1), (&[3, 0, 1], 1), (&[3, 2, 1, 0], 3)];
    let deviates = |(requests, place): &(&[i64], usize)| {
        let outputs = inputs.passed(unet, requests, rows);
        outputs.narrow(0, *place as i64 * rows, rows) != promised
    };
    companies.into_iter().filter(deviates).map(|(requests, place)| (requests.len(), place)).collect()
}

fn config(path: &str, changes: Value) -> UnetConfig {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path).join("unet/config.json");
    let mut config: Value = serde_json::from_str(&std::fs::read_to_string(path).expect("a file")).expect("JSON");
    if let (Some(config), Value::Object(changes)) = (config.as_object_mut(), changes) {
        config.extend(changes);
    }
    UnetConfig::from_json(&config).expect("a valid configuration")
}

/// `small`, unless the sizes of the networks are asked for.
fn size(native: (i64, i64), small: (i64, i64)) -> (i64, i64) {
    if std::env::var_os("BILDKANTE_NATIVE_SIZES").is_some_and(|value| value == "1") { native } else { small }
}

/// With every number of `rows` that a request may have.
fn assert_exact(name: &str, config: &UnetConfig, sizes: &[(i64, i64)], rows: &[i64]) {
    let _no_grad = tch::no_grad_guard();
    for kind in [Kind::Float, Kind::BFloat16] {
        let unet = Unet::build(&mut Formula::new(kind), config, Device::Cpu, kind).expect("built");
        for (size, rows) in sizes.iter().flat_map(|size| rows.iter().map(move |rows| (*size, *rows))) {
            let inputs = Inputs::of(&unet, config, kind, rows, size);
            let found = deviations(&unet, &inputs, rows);
            assert!(
                found.is_empty(),
                "{name} {kind:?} {size:?}, {rows} rows of a request: (requests, place) {found:?}"
            );
        }
    }
}

#[test]
fn the_built_in_network_gives_a_request_the_same_bits_in_any_company() {
    assert_exact("built-in", &config("models/studio-tiny", json!({})), &[(24, 24), (32, 24)], &[1, 2]);
}

#[test]
fn a_network_as_wide_as_stable_diffusion_1_gives_a_request_the_same_bits_in_any_company() {
    let config = config("fixtures/real/sd15", json!({ "layers_per_block": 1 }));
    assert_exact("sd15", &config, &[size((64, 64), (16, 24))], &[2]);
}

#[test]
fn a_network_as_wide_as_stable_diffusion_xl_gives_a_request_the_same_bits_in_any_company() {
    let config = config("fixtures/real/sdxl-base", json!({ "layers_per_block": 1, "transformer_layers_per_block": 1 }));
    assert_exact("sdxl", &config, &[size((128, 128), (16, 24))], &[2]);
}
