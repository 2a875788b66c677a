//! Tests of [`super`]: what a hostile or damaged weight file may hold.

use std::collections::HashMap;

use safetensors::tensor::{Dtype, TensorView, serialize};
use tempfile::TempDir;

use super::safetensors_file::HEADER_BYTES_MAX;
use super::*;

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// A folder with one weight file.
struct Fixture {
    dir: TempDir,
}

impl Fixture {
    fn new(tensors: &[(&str, Dtype, &[usize], Vec<u8>)]) -> Result<Self, Box<dyn std::error::Error>> {
        let views = tensors
            .iter()
            .map(|(name, kind, shape, data)| TensorView::new(*kind, shape.to_vec(), data).map(|view| (*name, view)))
            .collect::<Result<HashMap<_, _>, _>>()?;
        Self::raw(&serialize(views, None)?)
    }

    fn raw(bytes: &[u8]) -> Result<Self, Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        std::fs::write(dir.path().join("model.safetensors"), bytes)?;
        Ok(Self { dir })
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("model.safetensors")
    }

    fn open(&self) -> Result<Weights, WeightsError> {
        self.open_as(Kind::Float)
    }

    fn open_as(&self, kind: Kind) -> Result<Weights, WeightsError> {
        Weights::open(&[self.path()], str::to_owned, Device::Cpu, kind)
    }
}

fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn message<T>(result: Result<T, WeightsError>) -> String {
    result.map_or_else(|error| error.to_string(), |_| "accepted".into())
}

#[test]
fn every_float_type_arrives_as_the_kind_of_the_run() -> Outcome {
    let halves = |bits: [u16; 2]| bits.iter().flat_map(|b| b.to_le_bytes()).collect::<Vec<_>>();
    let fixture = Fixture::new(&[
        ("single", Dtype::F32, &[2], f32s(&[1.5, -2.0])),
        ("half", Dtype::F16, &[2], halves([half::f16::from_f32(1.5).to_bits(), half::f16::from_f32(-2.0).to_bits()])),
        (
            "brain",
            Dtype::BF16,
            &[2],
            halves([half::bf16::from_f32(1.5).to_bits(), half::bf16::from_f32(-2.0).to_bits()]),
        ),
    ])?;
    for kind in [Kind::Float, Kind::Half, Kind::BFloat16] {
        let mut weights = fixture.open_as(kind)?;
        for name in ["single", "half", "brain"] {
            let tensor = weights.take(name, &[2])?;
            assert_eq!(tensor.kind(), kind);
            assert_eq!(Vec::<f32>::try_from(tensor.f_to_kind(Kind::Float)?)?, [1.5, -2.0]);
        }
        weights.finish()?;
    }
    Ok(())
}

#[test]
fn missing_surplus_and_misshapen_tensors_are_named() -> Outcome {
    let fixture = Fixture::new(&[
        ("a.weight", Dtype::F32, &[2, 3], f32s(&[0.0; 6])),
        ("b.weight", Dtype::F32, &[1], f32s(&[0.0])),
    ])?;
    let mut weights = fixture.open()?;
    let missing = message(weights.take("c.weight", &[7, 7]));
    assert!(missing.contains("`c.weight`") && missing.contains("[7, 7]") && missing.contains("model.safetensors"));
    let misshapen = message(weights.take("a.weight", &[3, 2]));
    assert!(misshapen.contains("`a.weight`") && misshapen.contains("[2, 3]") && misshapen.contains("[3, 2]"));
    let surplus = message(weights.finish());
    assert!(surplus.starts_with("1 tensors of ") && surplus.contains("`b.weight`"), "{surplus}");
    Ok(())
}

#[test]
fn a_tensor_is_given_out_once() -> Outcome {
    let fixture = Fixture::new(&[("a", Dtype::F32, &[1], f32s(&[0.0]))])?;
    let mut weights = fixture.open()?;
    let _ = weights.take("a", &[1])?;
    assert!(matches!(weights.take("a", &[1]), Err(WeightsError::Missing { .. })));
    Ok(())
}

#[test]
fn values_that_are_not_finite_are_refused_in_the_precision_of_the_run() -> Outcome {
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let fixture = Fixture::new(&[("a", Dtype::F32, &[3], f32s(&[0.0, value, 1.0]))])?;
        let error = message(fixture.open()?.take("a", &[3]));
        assert!(error.contains("`a`") && error.contains("float32"), "{error}");
    }
    let fixture = Fixture::new(&[("a", Dtype::F32, &[1], f32s(&[1e6]))])?;
    assert!(fixture.open_as(Kind::Float)?.take("a", &[1]).is_ok());
    assert!(fixture.open_as(Kind::BFloat16)?.take("a", &[1]).is_ok());
    assert!(message(fixture.open_as(Kind::Half)?.take("a", &[1])).contains("float16"));
    Ok(())
}

#[test]
fn other_types_are_refused_by_name() -> Outcome {
    let fixture = Fixture::new(&[("whole", Dtype::I64, &[1], vec![0; 8]), ("quarter", Dtype::F8_E4M3, &[1], vec![0])])?;
    for (name, shown) in [("whole", "I64"), ("quarter", "F8_E4M3")] {
        let error = message(fixture.open()?.take(name, &[1]));
        assert!(error.contains(&format!("`{name}`")) && error.contains(shown), "{error}");
    }
    Ok(())
}

#[test]
fn damaged_files_are_errors_that_name_the_file() -> Outcome {
    let whole = std::fs::read(Fixture::new(&[("a", Dtype::F32, &[4], f32s(&[0.0; 4]))])?.path())?;
    let header = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let mut damaged: Vec<Vec<u8>> = (0..whole.len()).map(|length| whole[..length].to_vec()).collect();
    damaged.extend([
        [&whole[..], b"tail"].concat(),
        u64::MAX.to_le_bytes().to_vec(),
        [&(HEADER_BYTES_MAX + 1).to_le_bytes()[..], &[0; 64]].concat(),
        header("[]"),
        header("{\"a\": 1}"),
        header("{\"a\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [0, 4]}}"),
        [header("{\"a\": {\"dtype\": \"F32\", \"shape\": [2], \"data_offsets\": [0, 4]}}"), vec![0; 4]].concat(),
        [header("{\"a\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [4, 0]}}"), vec![0; 4]].concat(),
        [
            header("{\"a\": {\"dtype\": \"F32\", \"shape\": [18446744073709551615, 2], \"data_offsets\": [0, 4]}}"),
            vec![0; 4],
        ]
        .concat(),
        vec![0xff; 256],
    ]);
    for bytes in damaged {
        let error = message(Fixture::raw(&bytes)?.open());
        assert!(error.contains("model.safetensors"), "{} bytes: {error}", bytes.len());
    }
    Ok(())
}

#[test]
fn a_header_that_claims_too_much_is_refused_before_it_is_read() -> Outcome {
    let bytes = [&(HEADER_BYTES_MAX + 1).to_le_bytes()[..], &[b' '; 64]].concat();
    let error = message(Fixture::raw(&bytes)?.open());
    assert!(error.contains("at most 16777216 are allowed"), "{error}");
    Ok(())
}

#[test]
fn two_spellings_of_one_tensor_are_a_duplicate() -> Outcome {
    let fixture =
        Fixture::new(&[("text_model.a", Dtype::F32, &[1], f32s(&[0.0])), ("a", Dtype::F32, &[1], f32s(&[0.0]))])?;
    let canonical = crate::diffusion::text::clip::canonical_name;
    let error = message(Weights::open(&[fixture.path()], canonical, Device::Cpu, Kind::Float));
    assert!(error.contains("a` of ") && error.contains("twice"), "{error}");
    Ok(())
}

#[test]
fn stored_positions_must_count_from_nought() -> Outcome {
    let positions = |values: &[i64]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>();
    let check = |kind, shape: &[usize], data: Vec<u8>| -> Result<String, Box<dyn std::error::Error>> {
        let fixture = Fixture::new(&[("ids", kind, shape, data)])?;
        let mut weights = fixture.open()?;
        Ok(message(weights.take_positions("ids", 3).and_then(|()| weights.finish())))
    };
    assert_eq!(check(Dtype::I64, &[1, 3], positions(&[0, 1, 2]))?, "accepted");
    assert!(check(Dtype::I64, &[1, 3], positions(&[0, 1, 3]))?.contains("`ids`"));
    assert!(check(Dtype::I64, &[1, 2], positions(&[0, 1]))?.contains("`ids`"));
    assert!(check(Dtype::I32, &[1, 3], vec![0; 12])?.contains("`ids`"));
    // Converted with everything else: float16 and bfloat16, doubles, small whole numbers.
    let halves = |values: [u16; 3]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>();
    assert_eq!(check(Dtype::F16, &[1, 3], halves([0, 0x3c00, 0x4000]))?, "accepted");
    assert_eq!(check(Dtype::BF16, &[3], halves([0, 0x3f80, 0x4000]))?, "accepted");
    assert_eq!(
        check(Dtype::F64, &[1, 3], [0.0, 1.0, 2.0_f64].iter().flat_map(|v| v.to_le_bytes()).collect())?,
        "accepted"
    );
    assert_eq!(check(Dtype::I32, &[1, 3], [0, 1, 2_i32].iter().flat_map(|v| v.to_le_bytes()).collect())?, "accepted");
    assert!(check(Dtype::F16, &[1, 3], halves([0, 0x3c00, 0x3c00]))?.contains("`ids`"));
    let fixture = Fixture::new(&[])?;
    assert!(fixture.open()?.take_positions("ids", 3).is_ok());
    Ok(())
}

#[test]
fn stacked_tensors_follow_each_other_and_are_each_checked() -> Outcome {
    let fixture = Fixture::new(&[
        ("q", Dtype::F32, &[1, 2], f32s(&[1.0, 2.0])),
        ("k", Dtype::F32, &[1, 2], f32s(&[3.0, 4.0])),
        ("v", Dtype::F32, &[2, 2], f32s(&[5.0; 4])),
    ])?;
    let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    let mut weights = fixture.open()?;
    let stacked = weights.take_stacked(&names(&["q", "k"]), &[1, 2])?;
    assert_eq!(stacked.size(), [2, 2]);
    assert_eq!(Vec::<f32>::try_from(stacked.f_view(-1)?)?, [1.0, 2.0, 3.0, 4.0]);
    assert!(message(weights.take_stacked(&names(&["v"]), &[1, 2])).contains("`v`"));
    Ok(())
}

#[test]
fn a_reordered_kernel_convolves_like_a_plain_one() -> Outcome {
    let geometry = ConvGeometry { stride: 2, padding: 1 };
    let values: Vec<f32> = (0..5 * 3 * 9).map(|i| ((i * 37) % 23) as f32 / 23.0 - 0.5).collect();
    let fixture = Fixture::new(&[("k", Dtype::F32, &[5, 3, 3, 3], f32s(&values))])?;
    let plain = fixture.open()?.take("k", &[5, 3, 3, 3])?;
    let reordered = fixture.open()?.take_kernel("k", &[5, 3, 3, 3], geometry)?;
    let x = Tensor::f_arange(2 * 3 * 7 * 6, (Kind::Float, Device::Cpu))?.f_view([2, 3, 7, 6])?.f_sin()?;
    let expected = x.f_conv2d(&plain, None::<&Tensor>, [2, 2], [1, 1], [1, 1], 1)?;
    let found = if reordered.is_mkldnn() {
        x.f_mkldnn_convolution(&reordered, None::<&Tensor>, [1, 1], [2, 2], [1, 1], 1)?
    } else {
        x.f_conv2d(&reordered, None::<&Tensor>, [2, 2], [1, 1], [1, 1], 1)?
    };
    assert!(f64::try_from(found.f_sub(&expected)?.f_abs()?.f_max()?)? < 1e-5);
    Ok(())
}
