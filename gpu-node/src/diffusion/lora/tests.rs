//! Files that trainers write, and files nobody should accept. That adapters compute what PEFT computes is shown in
//! `tests/parity.rs`.

use std::collections::HashMap;

use proptest::prelude::*;
use safetensors::tensor::{Dtype, TensorView, serialize};

use super::super::config::UnetConfig;
use super::*;

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

#[test]
fn every_format_names_the_same_modules() {
    let parsed = |name: &str| names::parse(name).map(|(part, module, role)| (part, names::flat(&module), role));
    let query = "down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q".to_owned();
    for (name, role) in [
        ("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight", Role::Down),
        ("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora.up.weight", Role::Up),
        ("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.down.weight", Role::Down),
        ("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q.lora_up.weight", Role::Up),
        ("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q.alpha", Role::Alpha),
    ] {
        assert_eq!(parsed(name), Some((Part::Unet, query.clone(), role)), "{name}");
    }
    let out = parsed("unet.mid_block.attentions.0.transformer_blocks.0.attn2.processor.to_out_lora.up.weight");
    assert_eq!(
        out,
        Some((Part::Unet, "mid_block_attentions_0_transformer_blocks_0_attn2_to_out_0".to_owned(), Role::Up))
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
    for name in ["", "unet.", "unet.lora_A.weight", "down_blocks.0.lora_A.weight", "unet.a.weight", "lora_unet_.alpha"]
    {
        assert_eq!(names::parse(name), None, "{name:?}");
    }
}

#[test]
fn modules_are_found_under_the_names_of_stabilitys_own_code() {
    let json: serde_json::Value =
        serde_json::from_str(include_str!("../../../fixtures/real/sdxl-base/unet/config.json")).expect("json");
    let config = UnetConfig::from_json(&json).expect("a config");
    let shapes = super::super::unet::tensor_shapes(&config).expect("shapes");
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
        ("lora_unet_conv_in.dora_scale", "DoRA"),
        ("unet.conv_in.lora_magnitude_vector", "DoRA"),
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
    let pair = |down: &[i64], up: &[i64]| Pair { down: ones(down), up: ones(up), scale: 1.0 };
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
        assert_eq!(layer.fitted(&pair).is_ok(), fits, "{layer:?} {:?}", pair.down.shape);
    }
}

#[test]
fn alphas_beside_the_tensors_are_read_by_folder_and_pattern() {
    let text = r#"{"unet.lora_alpha": 8, "unet.alpha_pattern": {"attn2.to_k": 2}, "text_encoder.lora_alpha": 4.5}"#;
    let metadata = HashMap::from([("lora_adapter_metadata".to_owned(), text.to_owned())]);
    let alphas = names::alphas_of_metadata(&metadata);
    assert_eq!(alphas.of(Part::Unet, "down_blocks.0.attn1.to_k"), Some(8.0));
    assert_eq!(alphas.of(Part::Unet, "down_blocks.0.attn2.to_k"), Some(2.0));
    assert_eq!(alphas.of(Part::TextEncoder, "x"), Some(4.5));
    assert_eq!(alphas.of(Part::TextEncoder2, "x"), None);
    let broken = HashMap::from([("lora_adapter_metadata".to_owned(), "{".to_owned())]);
    assert_eq!(names::alphas_of_metadata(&broken).of(Part::Unet, "x"), None);
}

proptest! {
    /// Whatever a file holds, it is read or refused: no panic, no allocation beyond the file's size.
    #[test]
    fn damaged_files_are_read_or_refused(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..40),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = include_bytes!("../../../fixtures/adapters/sd1.diffusers-old.safetensors").to_vec();
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
