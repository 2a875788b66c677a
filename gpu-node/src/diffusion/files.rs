//! Finds the weight files of one network in its folder: a single file, shards with an index, or the same in a variant
//! (`fp16`, `bf16`, `fp32`), under the names diffusers and transformers give them. What has no variant wins where several are there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::config::read_text;
use super::weights::WeightsError;

/// Largest shard index. Stable Diffusion XL's UNet has 1,680 tensors and an index of 0.2 MiB.
const INDEX_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Most shards of one network.
const SHARDS_MAX: usize = 64;

/// `*.safetensors.index.json` as `huggingface_hub` writes it; its `metadata` is informative.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The weight files of the network in `folder`, whose files are called `stem`.
///
/// # Errors
/// When there is none, or an index is malformed or names files outside of its folder.
pub(super) fn find(folder: &Path, stem: &str) -> Result<Vec<PathBuf>, WeightsError> {
    let candidates = [
        format!("{stem}.safetensors"),
        format!("{stem}.safetensors.index.json"),
        format!("{stem}.fp16.safetensors"),
        format!("{stem}.safetensors.index.fp16.json"),
        format!("{stem}.bf16.safetensors"),
        format!("{stem}.safetensors.index.bf16.json"),
        format!("{stem}.fp32.safetensors"),
        format!("{stem}.safetensors.index.fp32.json"),
    ];
    for name in &candidates {
        let path = folder.join(name);
        if path.is_file() {
            return if name.ends_with(".json") { shards(folder, &path) } else { Ok(vec![path]) };
        }
    }
    Err(WeightsError::NoFile { folder: folder.to_owned(), tried: candidates.join(", ") })
}

fn shards(folder: &Path, path: &Path) -> Result<Vec<PathBuf>, WeightsError> {
    let index_error = |reason: String| WeightsError::Index { path: path.to_owned(), reason };
    let text = read_text(path, INDEX_BYTES_MAX).map_err(|error| index_error(error.to_string()))?;
    let index: Index = serde_json::from_slice(&text).map_err(|error| index_error(error.to_string()))?;
    // Every tensor of every shard has to be asked for by the network, so which shard holds which need not be checked.
    let names: BTreeSet<String> = index.weight_map.into_values().collect();
    if names.is_empty() || names.len() > SHARDS_MAX {
        return Err(index_error(format!("it names {} shards, 1 to {SHARDS_MAX} are allowed", names.len())));
    }
    if let Some(name) = names.iter().find(|name| !is_plain(name)) {
        return Err(index_error(format!("`{}` is not a safetensors file beside it", name.escape_debug())));
    }
    Ok(names.iter().map(|name| folder.join(name)).collect())
}

/// A file name that cannot lead out of the folder.
fn is_plain(name: &str) -> bool {
    name.ends_with(".safetensors") && !name.contains(['/', '\\']) && !name.starts_with('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_precision_wins_over_the_variant_and_one_file_over_shards() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let index = r#"{"metadata": {}, "weight_map": {"a": "m-2-of-2.safetensors", "b": "m-1-of-2.safetensors"}}"#;
        let found = |dir: &Path| find(dir, "m").map(|f| f.iter().map(|p| p.file_name().map(Into::into)).collect());
        let none: Result<Vec<Option<PathBuf>>, _> = found(dir.path());
        assert!(none.is_err_and(|error| error.to_string().contains("m.safetensors")));
        let expect = |names: &[&str]| -> Result<(), WeightsError> {
            let names: Vec<Option<PathBuf>> = names.iter().map(|name| Some(PathBuf::from(name))).collect();
            found(dir.path()).map(|found: Vec<_>| assert_eq!(found, names))
        };
        std::fs::write(dir.path().join("m.safetensors.index.fp16.json"), index.replace("m-", "m.fp16-"))?;
        expect(&["m.fp16-1-of-2.safetensors", "m.fp16-2-of-2.safetensors"])?;
        std::fs::write(dir.path().join("m.fp16.safetensors"), "")?;
        expect(&["m.fp16.safetensors"])?;
        std::fs::write(dir.path().join("m.safetensors.index.json"), index)?;
        expect(&["m-1-of-2.safetensors", "m-2-of-2.safetensors"])?;
        std::fs::write(dir.path().join("m.safetensors"), "")?;
        expect(&["m.safetensors"])?;
        Ok(())
    }

    #[test]
    fn an_index_cannot_lead_out_of_its_folder() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        for name in ["../m.safetensors", "/etc/passwd", "sub/m.safetensors", ".safetensors", "m.bin"] {
            let index = serde_json::json!({"weight_map": {"a": name}}).to_string();
            std::fs::write(dir.path().join("m.safetensors.index.json"), index)?;
            assert!(matches!(find(dir.path(), "m"), Err(WeightsError::Index { .. })), "{name}");
        }
        std::fs::write(dir.path().join("m.safetensors.index.json"), r#"{"weight_map": {}}"#)?;
        assert!(matches!(find(dir.path(), "m"), Err(WeightsError::Index { .. })));
        Ok(())
    }
}
