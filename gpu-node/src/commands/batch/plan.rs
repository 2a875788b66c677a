//! What a batch is to draw: the recipes of a file, each with every seed.
//!
//! The file is TOML or JSON with the keys of a recipe as nodes take it (`shared/src/recipe.rs`), but for `seed`; where a recipe has a
//! digest, the file may have the name that this machine knows it by. Invariant: everything is checked before anything is drawn.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use bildkante_shared::ids::Digest;
use bildkante_shared::recipe::{Recipe, ValidRecipe};
use bildkante_shared::wire::{AdapterInfo, CheckpointInfo};
use serde::Deserialize;
use serde_json::{Map, Value};

/// Most bytes of a file of recipes.
const FILE_BYTES_MAX: u64 = 4 << 20;
/// Most pictures of a batch: a contact sheet of them is still a picture that programs open.
const PICTURES_MAX: usize = 4096;
/// Most bytes of a recipe's name.
const NAME_BYTES_MAX: usize = 64;

/// Seeds as a command line names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seeds(Vec<u32>);

impl FromStr for Seeds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number =
            |text: &str| text.trim().parse::<u32>().map_err(|_| format!("seeds are numbers and ranges, not `{text}`"));
        let mut seeds = Vec::new();
        for part in text.split(',') {
            let (first, last) = match part.split_once('-') {
                Some((first, last)) => (number(first)?, number(last)?),
                None => (number(part)?, number(part)?),
            };
            if first > last || (last - first) as usize >= PICTURES_MAX {
                return Err(format!("`{part}` is no range of up to {PICTURES_MAX} seeds"));
            }
            seeds.extend(first..=last);
        }
        Ok(Self(seeds))
    }
}

/// What names stand for.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) checkpoints: Vec<CheckpointInfo>,
    pub(super) adapters: Vec<AdapterInfo>,
    pub(super) images: Vec<(String, Digest)>,
}

/// A picture to draw.
#[derive(Debug, Clone)]
pub(super) struct Planned {
    pub(super) name: String,
    pub(super) recipe: Arc<ValidRecipe>,
}

impl Planned {
    pub(super) fn file(&self) -> String {
        format!("{}-{}.png", self.name, self.recipe.seed)
    }
}

/// All of them, recipe by recipe.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) pictures: Vec<Planned>,
    /// Pictures of each recipe.
    pub(super) seeds: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RecipeFile {
    #[serde(default)]
    seeds: Vec<u32>,
    recipes: Vec<Map<String, Value>>,
}

impl Plan {
    /// # Errors
    /// When the file cannot be read, a name stands for nothing, or a recipe is none.
    pub(super) fn read(path: &Path, seeds: Option<&Seeds>, known: &Known) -> anyhow::Result<Self> {
        let named = || path.display().to_string();
        ensure!(fs::metadata(path).with_context(named)?.len() <= FILE_BYTES_MAX, "{} is too large", path.display());
        let text = fs::read_to_string(path).with_context(named)?;
        let is_json = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
        let file: RecipeFile = if is_json {
            serde_json::from_str(&text).with_context(named)?
        } else {
            toml::from_str(&text).with_context(named)?
        };
        Self::of(file, seeds, known).with_context(named)
    }

    fn of(file: RecipeFile, seeds: Option<&Seeds>, known: &Known) -> anyhow::Result<Self> {
        let seeds = seeds.map_or(file.seeds, |seeds| seeds.0.clone());
        let distinct: BTreeSet<_> = seeds.iter().collect();
        ensure!(!seeds.is_empty() && distinct.len() == seeds.len(), "`seeds` are one or more, each once");
        ensure!(!file.recipes.is_empty(), "`recipes` has none");
        let count = seeds.len() * file.recipes.len();
        ensure!(count <= PICTURES_MAX, "these are {count} pictures, at most {PICTURES_MAX} are drawn");
        let (mut pictures, mut names) = (Vec::with_capacity(count), BTreeSet::new());
        for (at, mut keys) in file.recipes.into_iter().enumerate() {
            let name = name_of(&mut keys).with_context(|| format!("recipe {}", at + 1))?;
            ensure!(names.insert(name.clone()), "two recipes are called `{name}`");
            let recipe = recipe_of(keys, known).with_context(|| format!("recipe `{name}`"))?;
            for seed in &seeds {
                let recipe = ValidRecipe::try_from(Recipe { seed: *seed, ..recipe.clone() });
                let recipe = Arc::new(recipe.with_context(|| format!("recipe `{name}`"))?);
                pictures.push(Planned { name: name.clone(), recipe });
            }
        }
        Ok(Self { pictures, seeds: seeds.len() })
    }
}

/// Takes the name out: it becomes part of file names.
fn name_of(keys: &mut Map<String, Value>) -> anyhow::Result<String> {
    let Some(Value::String(name)) = keys.remove("name") else { bail!("it has no `name`") };
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let is_short = (1..=NAME_BYTES_MAX).contains(&name.len());
    ensure!(is_short && name.bytes().all(is_plain), "`{name}`: names have letters, digits, `-` and `_`");
    Ok(name)
}

fn recipe_of(mut keys: Map<String, Value>, known: &Known) -> anyhow::Result<Recipe> {
    ensure!(!keys.contains_key("seed"), "`seed` stands in `seeds`");
    keys.insert("seed".to_owned(), Value::from(0));
    let mut recipe = Value::Object(keys);
    known.settle(&mut recipe)?;
    Ok(serde_json::from_value(recipe)?)
}

impl Known {
    /// Puts digests in the place of names, in every part of a recipe.
    fn settle(&self, value: &mut Value) -> anyhow::Result<()> {
        match value {
            Value::Object(keys) => keys.iter_mut().try_for_each(|(key, value)| self.settle_key(key, value)),
            Value::Array(values) => values.iter_mut().try_for_each(|value| self.settle(value)),
            _ => Ok(()),
        }
    }

    fn settle_key(&self, key: &str, value: &mut Value) -> anyhow::Result<()> {
        let Value::String(text) = &*value else { return self.settle(value) };
        if text.parse::<Digest>().is_ok() {
            return Ok(());
        }
        let (kind, found) = match key {
            "checkpoint" | "network" | "encoder" => {
                ("model", self.checkpoints.iter().find(|info| info.name == *text).map(|info| info.digest))
            }
            "digest" | "adapter" => {
                ("adapter", self.adapters.iter().find(|info| info.name == *text).map(|info| info.digest))
            }
            "image" | "mask" | "depth" => {
                ("image", self.images.iter().find(|(name, _)| name == text).map(|(_, digest)| *digest))
            }
            _ => return Ok(()),
        };
        let Some(digest) = found else { bail!("`{key}`: there is no {kind} `{text}`") };
        *value = Value::String(digest.to_string());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Known {
        let info = |name: &str, family: &str| CheckpointInfo {
            name: name.to_owned(),
            digest: Digest::of_bytes(name.as_bytes()),
            formers: Vec::new(),
            family: family.to_owned(),
            ready: true,
        };
        Known {
            checkpoints: vec![info("studio", "sd1"), info("edges", "controlnet")],
            adapters: vec![AdapterInfo { name: "teal".to_owned(), digest: Digest::of_bytes(b"teal") }],
            images: vec![("edges.png".to_owned(), Digest::of_bytes(b"edges.png"))],
        }
    }

    fn plan(text: &str, seeds: Option<&str>) -> anyhow::Result<Plan> {
        let seeds = seeds.map(|seeds| seeds.parse::<Seeds>().map_err(anyhow::Error::msg)).transpose()?;
        Plan::of(toml::from_str(text)?, seeds.as_ref(), &known())
    }

    const MUG: &str = r#"
        seeds = [7, 3]
        [[recipes]]
        name = "mug"
        checkpoint = "studio"
        prompt = "a mug"
        width_px = 64
        height_px = 64
        steps = 4
        guidance = 3.0
        loras = [{ digest = "teal", weight = 0.5 }]
        controls = [{ network = "edges", image = "edges.png", weight = 1.0 }]
    "#;

    #[test]
    fn names_become_digests_and_every_recipe_has_every_seed() {
        let planned = plan(MUG, None).expect("a plan");
        let files: Vec<_> = planned.pictures.iter().map(Planned::file).collect();
        assert_eq!(files, ["mug-7.png", "mug-3.png"]);
        let recipe = &planned.pictures[0].recipe;
        assert_eq!(recipe.checkpoint, Digest::of_bytes(b"studio"));
        assert_eq!(recipe.loras[0].digest, Digest::of_bytes(b"teal"));
        assert_eq!(recipe.controls[0].network, Digest::of_bytes(b"edges"));
        assert_eq!(recipe.controls[0].image, Digest::of_bytes(b"edges.png"));
        let asked = plan(MUG, Some("1,40-42")).expect("a plan");
        assert_eq!(asked.pictures.iter().map(|picture| picture.recipe.seed).collect::<Vec<_>>(), [1, 40, 41, 42]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let twice = format!("{MUG}{}", MUG.replace("seeds = [7, 3]", ""));
        for (text, seeds, named) in [
            (MUG.replace("\"studio\"", "\"none\""), None, "there is no model `none`"),
            (MUG.replace("\"teal\"", "\"red\""), None, "there is no adapter `red`"),
            (MUG.replace("edges.png", "photo.png"), None, "there is no image `photo.png`"),
            (MUG.replace("[7, 3]", "[7, 7]"), None, "each once"),
            (MUG.replace("[7, 3]", "[]"), None, "`seeds`"),
            (MUG.replace("\"mug\"", "\"../mug\""), None, "names have letters"),
            (MUG.replace("steps = 4", "steps = 0"), None, "`steps`"),
            (MUG.replace("steps = 4", "steps = 4\nseed = 1"), None, "`seed` stands in"),
            (MUG.replace("steps = 4", "step = 4"), None, "step"),
            (twice, None, "two recipes are called `mug`"),
            (MUG.to_owned(), Some("0-4095,9000"), "4097 pictures"),
            (MUG.to_owned(), Some("9-1"), "no range"),
            (MUG.to_owned(), Some("one"), "numbers and ranges"),
        ] {
            let reason = format!("{:#}", plan(&text, seeds).expect_err(named));
            assert!(reason.contains(named), "{named}: {reason}");
        }
    }
}
