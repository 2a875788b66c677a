//! Files that trainers write, and files that are refused. That adapters compute what PEFT computes is shown in
//! `tests/parity.rs`.

use std::collections::HashMap;

use proptest::prelude::*;
use safetensors::tensor::{Dtype, TensorView, serialize};

use super::*;
use crate::diffusion::sd::config::UnetConfig;

type Tensors<'a> = &'a [(&'a str, &'a [usize])];

/// A file of ones.
fn adapter(tensors: Tensors<'_>) -> Result<Adapter, LoraError> {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("style.safetensors");
    let data: Vec<Vec<u8>> =
        tensors.iter().map(|(_, shape)| 1.0_f32.to_le_bytes().repeat(shape.iter().product())).collect();
    let views = tensors.iter().zip(&data).map(|((name, shape), data)| {
        (name.to_string(), TensorView::new(Dtype::F32, shape.to_vec(), data).expect("a view"))
    });
    let views: HashMap<String, TensorView<'_>> = views.collect();
    std::fs::write(&path, serialize(views, None).expect("bytes")).expect("a file");
    Adapter::load(&path)
}

fn refusal(tensors: Tensors<'_>) -> String {
    adapter(tensors).map_or_else(|error| error.to_string(), |_| "accepted".into())
}

/// Numbers of any kind.
fn adapter_of(tensors: &[(&str, Dtype, &[usize], Vec<u8>)], config: Option<&str>) -> Result<Adapter, LoraError> {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("adapter_model.safetensors");
    let views = tensors.iter().map(|(name, kind, shape, data)| {
        (name.to_string(), TensorView::new(*kind, shape.to_vec(), data).expect("a view"))
    });
    std::fs::write(&path, serialize(views.collect::<HashMap<_, _>>(), None).expect("bytes")).expect("a file");
    if let Some(config) = config {
        std::fs::write(dir.path().join("adapter_config.json"), config).expect("a file");
    }
    Adapter::load(&path)
}

fn scale_of(adapter: &Adapter) -> f64 {
    adapter.pairs.values().next().expect("a pair").scale
}

#[test]
fn numbers_may_be_whole_or_doubles() {
    let (down, up, alpha) =
        ("lora_unet_conv_in.lora_down.weight", "lora_unet_conv_in.lora_up.weight", "lora_unet_conv_in.alpha");
    let doubles = |values: &[f64]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>();
    let whole = |values: &[i64]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>();
    let tensors = |alpha_kind, alpha_bytes| {
        [
            (down, Dtype::I64, &[2, 1][..], whole(&[3, -4])),
            (up, Dtype::F64, &[1, 2][..], doubles(&[0.5, 0.25])),
            (alpha, alpha_kind, &[][..], alpha_bytes),
        ]
    };
    let adapter = adapter_of(&tensors(Dtype::I64, whole(&[3])), None).expect("an adapter");
    let pair = adapter.pairs.values().next().expect("a pair");
    assert_eq!(
        (pair.down.values.as_slice(), pair.up.values.as_slice(), pair.scale),
        (&[3.0, -4.0][..], &[0.5, 0.25][..], 1.5)
    );
    // Not rounded to a float.
    let adapter = adapter_of(&tensors(Dtype::F64, doubles(&[0.1])), None).expect("an adapter");
    assert_eq!(scale_of(&adapter), 0.1 / 2.0);
    assert!(adapter_of(&tensors(Dtype::F64, doubles(&[f64::NAN])), None).is_err());
}

#[test]
fn the_configuration_beside_a_file_of_pefts_is_read() {
    let ones = |count: usize| 1.0_f32.to_le_bytes().repeat(count);
    let tensors = |prefix: &'static str| -> Vec<(String, Dtype, &[usize], Vec<u8>)> {
        vec![
            (format!("{prefix}conv_in.lora_A.weight"), Dtype::F32, &[3, 1, 1, 1], ones(3)),
            (format!("{prefix}conv_in.lora_B.weight"), Dtype::F32, &[1, 3, 1, 1], ones(3)),
        ]
    };
    let load = |prefix, config| {
        let tensors = tensors(prefix);
        let tensors: Vec<_> =
            tensors.iter().map(|(name, kind, shape, data)| (name.as_str(), *kind, *shape, data.clone())).collect();
        adapter_of(&tensors, config)
    };
    let config = r#"{"r": 3, "lora_alpha": 6, "use_rslora": true}"#;
    let peft = "base_model.model.";
    let adapter = load(peft, Some(config)).expect("an adapter");
    assert_eq!(scale_of(&adapter), 6.0 / 3.0_f64.sqrt());
    let other = load(peft, Some(r#"{"r": 3, "lora_alpha": 6}"#)).expect("an adapter");
    assert_eq!(scale_of(&other), 2.0);
    assert_ne!(adapter.identity().digest, other.identity().digest, "the same digest is the same picture");
    assert_eq!(scale_of(&load(peft, Some("{}")).expect("an adapter")), 8.0 / 3.0, "PEFT's defaults");
    // PEFT cannot load it without one, and any scale would be a guess.
    let error = load(peft, None).map_or_else(|error| error.to_string(), |_| "accepted".into());
    assert!(error.contains("nothing says its alpha") && error.contains("adapter_config.json"), "{error}");
    // It is no business of files that other programs write.
    assert_eq!(scale_of(&load("unet.", Some("{}")).expect("an adapter")), 1.0);
    for (config, named) in [
        (r#"{"r": 4}"#, "rank 4"),
        (r#"{"r": 3, "use_dora": true}"#, "a magnitude for each output"),
        ("{", "adapter_config.json"),
    ] {
        let error = load(peft, Some(config)).map_or_else(|error| error.to_string(), |_| "accepted".into());
        assert!(error.contains(named), "{error}");
    }
}

#[test]
fn older_names_mean_the_same_modules() {
    for (old, new) in [
        ("down_blocks.0.attentions.0.proj_in.lora_A.weight", "unet.down_blocks.0.attentions.0.proj_in.lora_A.weight"),
        (
            "mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_out_lora.up.weight",
            "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0.lora_B.weight",
        ),
        (
            "text_encoder.text_model.encoder.layers.3.self_attn.to_q_lora.down.weight",
            "text_encoder.text_model.encoder.layers.3.self_attn.q_proj.lora_A.weight",
        ),
        (
            "text_encoder_2.text_model.encoder.layers.3.self_attn.to_out_lora.up.weight",
            "text_encoder_2.text_model.encoder.layers.3.self_attn.out_proj.lora_B.weight",
        ),
    ] {
        assert!(names::parse(old).is_some(), "{old}");
        assert_eq!(names::parse(old), names::parse(new), "{old}");
    }
}

#[test]
fn every_format_names_the_same_modules() {
    let parsed = |name: &str| names::parse(name).map(|(part, module, role)| (part, names::flat(&module), role));
    let query = "down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q".to_owned();
    for (name, role) in [
        ("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight", PairRole::Down),
        ("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora.up.weight", PairRole::Up),
        ("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.down.weight", PairRole::Down),
        ("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q.lora_up.weight", PairRole::Up),
        ("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q.alpha", PairRole::Alpha),
    ] {
        assert_eq!(parsed(name), Some((Part::Unet, query.clone(), role)), "{name}");
    }
    let out = parsed("unet.mid_block.attentions.0.transformer_blocks.0.attn2.processor.to_out_lora.up.weight");
    assert_eq!(
        out,
        Some((Part::Unet, "mid_block_attentions_0_transformer_blocks_0_attn2_to_out_0".to_owned(), PairRole::Up))
    );
    let text = |name: &str| parsed(name).map(|(part, module, _)| (part, module));
    let fc1 = "text_model_encoder_layers_0_mlp_fc1".to_owned();
    for (name, part) in [
        ("text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_linear_layer.down.weight", Part::TextEncoder),
        ("text_encoder_2.text_model.encoder.layers.0.mlp.fc1.lora_B.weight", Part::TextEncoder2),
        ("lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", Part::TextEncoder),
        ("lora_te1_text_model_encoder_layers_0_mlp_fc1.alpha", Part::TextEncoder),
        ("lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", Part::TextEncoder2),
    ] {
        assert_eq!(text(name), Some((part, fc1.clone())), "{name}");
    }
    for name in ["", "unet.", "unet.lora_A.weight", "blocks.0.lora_A.weight", "unet.a.weight", "lora_unet_.alpha"] {
        assert_eq!(names::parse(name), None, "{name:?}");
    }
}

#[test]
fn modules_are_found_under_the_names_of_stabilitys_own_code() {
    let json: serde_json::Value =
        serde_json::from_str(include_str!("../../../../fixtures/real/sdxl-base/unet/config.json")).expect("json");
    let config = UnetConfig::from_json(&json).expect("a config");
    let shapes = crate::diffusion::sd::unet::tensor_shapes(&config).expect("shapes");
    let modules: Vec<&str> = shapes.keys().filter_map(|name| name.strip_suffix(".weight")).collect();
    let known = names::spellings(Network::Unet, modules.iter().copied(), &config);
    // Two spellings of each, all different.
    assert_eq!(known.len(), 2 * modules.len());
    for (original, module) in [
        ("input_blocks_0_0", "conv_in"),
        ("input_blocks_1_0_in_layers_2", "down_blocks.0.resnets.0.conv1"),
        ("input_blocks_3_0_op", "down_blocks.0.downsamplers.0.conv"),
        ("input_blocks_4_0_skip_connection", "down_blocks.1.resnets.0.conv_shortcut"),
        ("input_blocks_4_1_proj_in", "down_blocks.1.attentions.0.proj_in"),
        (
            "input_blocks_8_1_transformer_blocks_9_ff_net_0_proj",
            "down_blocks.2.attentions.1.transformer_blocks.9.ff.net.0.proj",
        ),
        ("middle_block_1_transformer_blocks_3_attn2_to_k", "mid_block.attentions.0.transformer_blocks.3.attn2.to_k"),
        ("middle_block_2_emb_layers_1", "mid_block.resnets.1.time_emb_proj"),
        ("output_blocks_0_1_proj_out", "up_blocks.0.attentions.0.proj_out"),
        ("output_blocks_2_2_conv", "up_blocks.0.upsamplers.0.conv"),
        ("output_blocks_5_2_conv", "up_blocks.1.upsamplers.0.conv"),
        ("output_blocks_8_0_out_layers_3", "up_blocks.2.resnets.2.conv2"),
        ("time_embed_2", "time_embedding.linear_2"),
        ("label_emb_0_0", "add_embedding.linear_1"),
        ("out_2", "conv_out"),
    ] {
        assert_eq!(known.get(original).map(String::as_str), Some(module), "{original}");
    }
}

#[test]
fn other_kinds_of_adapters_are_refused_by_name() {
    for (tensor, kind) in [
        ("lora_unet_conv_in.dora_scale", "DoRA of LyCORIS"),
        ("lora_unet_conv_in.hada_w1_a", "LoHa"),
        ("lora_unet_conv_in.lokr_w1", "LoKr"),
        ("lora_unet_conv_in.oft_blocks", "OFT"),
        ("lora_unet_conv_in.lora_mid.weight", "core tensor"),
        ("lora_unet_conv_in.on_input", "(IA)³"),
        ("lora_unet_conv_in.diff", "difference of whole weights"),
        ("unet.conv_in.lora_B.bias", "biases"),
        ("bundle_emb.style.string_to_param.*", "textual inversion"),
    ] {
        let refusal = refusal(&[(tensor, &[1, 1])]);
        assert!(refusal.contains(kind) && refusal.contains(tensor), "{refusal}");
    }
}

#[test]
fn malformed_files_say_what_is_wrong() {
    let (down, up) = ("lora_unet_conv_in.lora_down.weight", "lora_unet_conv_in.lora_up.weight");
    assert!(adapter(&[(down, &[2, 3]), (up, &[4, 2])]).is_ok());
    assert!(refusal(&[]).contains("no pair"));
    assert!(refusal(&[(down, &[2, 3])]).contains("one half"));
    assert!(refusal(&[(down, &[2, 3]), (up, &[4, 3])]).contains("no pair"));
    assert!(refusal(&[(down, &[2, 3, 1]), (up, &[4, 2, 1])]).contains("no pair"));
    assert!(refusal(&[(down, &[0, 3]), (up, &[4, 0])]).contains("no pair"));
    assert!(refusal(&[("lora_unet_conv_in.alpha", &[2])]).contains("one number"));
    assert!(refusal(&[("model.weight", &[2])]).contains("no known format"));
    // The same module under two spellings.
    let twice = refusal(&[(down, &[2, 3]), (up, &[4, 2]), ("lora_unet_conv_in.lora_A.weight", &[2, 3])]);
    assert!(twice.contains("another of its kind"), "{twice}");
}

#[test]
fn pairs_are_reshaped_only_where_nothing_changes() {
    let ones = |shape: &[i64]| Values {
        shape: shape.to_vec(),
        values: vec![1.0; usize::try_from(shape.iter().product::<i64>()).expect("small")],
    };
    let pair = |down: &[i64], up: &[i64]| Pair { down: ones(down), up: ones(up), scale: 1.0, magnitude: None };
    let linear = LayerShape::Linear { inputs: 3, outputs: 4 };
    let pointwise = LayerShape::Convolution { inputs: 3, outputs: 4, kernel: 1 };
    let wide = LayerShape::Convolution { inputs: 3, outputs: 4, kernel: 3 };
    for (layer, pair, fits) in [
        (linear, pair(&[2, 3], &[4, 2]), true),
        (linear, pair(&[2, 3, 1, 1], &[4, 2, 1, 1]), true),
        (pointwise, pair(&[2, 3], &[4, 2]), true),
        (wide, pair(&[2, 3, 3, 3], &[4, 2, 1, 1]), true),
        (wide, pair(&[2, 3], &[4, 2]), false),
        (linear, pair(&[2, 4], &[3, 2]), false),
        (linear, pair(&[2, 3, 3, 3], &[4, 2, 1, 1]), false),
        (linear, pair(&[1, 3], &[4, 1]), true),
        (LayerShape::Linear { inputs: 1, outputs: 1 }, pair(&[1, 1], &[1, 1]), true),
    ] {
        assert_eq!(fitted(layer, &pair).is_ok(), fits, "{layer:?} {:?}", pair.down.shape);
    }
}

proptest! {
    /// Any file is read or refused: no panic, no allocation beyond the file's size.
    #[test]
    fn damaged_files_are_read_or_refused(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..40),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = include_bytes!("../../../../fixtures/adapters/sd1.diffusers-old.safetensors").to_vec();
        for (at, value) in damage {
            // Half of the damage goes into the header, which decides everything else.
            let at = if value % 2 == 0 { at.index(bytes.len()) } else { at.index(2048) };
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("damaged.safetensors");
        std::fs::write(&path, &bytes).expect("a file");
        if let Err(error) = Adapter::load(&path) {
            prop_assert!(error.to_string().len() < 2_000, "{error}");
        }
    }

    #[test]
    fn any_name_is_parsed_or_not(name in "(unet\\.|lora_unet_|text_encoder\\.|lora_te1_)?[a-z0-9_.]{0,60}(\\.lora_A\\.weight|\\.alpha|_lora\\.up\\.weight)?") {
        if let Some((_, module, _)) = names::parse(&name) {
            prop_assert!(!module.is_empty());
        }
    }
}
