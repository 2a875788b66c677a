//! The pictures that a recipe is made from, as a manifest tells them: an import's original, and what a model was given to
//! start from or to hold to, each with the manifest that it carried.
//!
//! Files are read from the campaigns' folder, where the lock names each by its digest. Invariants: a file is told only if
//! its digest is the recipe's; one that is not there makes the history incomplete, and nothing final is signed without it;
//! what one file tells is read once and kept while there is room.

use std::path::PathBuf;

use bildkante_shared::ids::Digest;
use bildkante_shared::import::MasterRecipe;
use bildkante_shared::recipe::Recipe;
use moka::sync::Cache;

use crate::campaign::originals::{OriginalFault, read_original};
use crate::credentials::{INGREDIENTS_MAX, Ingredient, Relation};
use crate::origin::Images;
use crate::words::Format;

/// Manifests of ingredients that are kept, in bytes.
const KEPT_BYTES_MAX: u64 = 32 << 20;
/// What an ingredient takes beside the manifest that it carries.
pub(super) const ENTRY_BYTES: usize = 512;

/// Why an ingredient cannot be told.
#[derive(Debug, thiserror::Error)]
pub(super) enum IngredientFault {
    #[error(transparent)]
    Original(#[from] OriginalFault),
    #[error("the image {0} is not in the campaigns' folder of images")]
    ImageMissing(Digest),
    #[error("reading ingredients was cut off")]
    CutOff,
}

/// A picture that a recipe names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct NamedPicture {
    digest: Digest,
    title: &'static str,
    relation: Relation,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Ingredients {
    originals: PathBuf,
    images: Images,
    kept: Cache<NamedPicture, Ingredient>,
}

impl Ingredients {
    /// `originals`: the folder of imported files.
    #[must_use]
    pub fn new(originals: PathBuf, images: Images) -> Self {
        let kept = Cache::builder()
            .max_capacity(KEPT_BYTES_MAX)
            .weigher(|_: &NamedPicture, told: &Ingredient| {
                u32::try_from(ENTRY_BYTES + told.carried_bytes()).unwrap_or(u32::MAX)
            })
            .build();
        Self { originals, images, kept }
    }

    /// In the order in which a manifest tells them: an import's original is the first.
    pub(super) async fn of(&self, recipe: &MasterRecipe) -> Result<Vec<Ingredient>, IngredientFault> {
        let mut told = Vec::new();
        for part in parts(recipe) {
            told.push(match self.kept.get(&part) {
                Some(known) => known,
                None => self.read(part).await?,
            });
        }
        Ok(told)
    }

    async fn read(&self, part: NamedPicture) -> Result<Ingredient, IngredientFault> {
        let image = match part.relation {
            Relation::Parent => None,
            Relation::Component | Relation::Input => Some(self.image(part.digest).await?),
        };
        let originals = self.originals.clone();
        let reading = tokio::task::spawn_blocking(move || match image {
            Some(file) => Ok(part.told(&file)),
            None => read_original(&originals, part.digest).map(|file| part.told(&file)),
        });
        let told = reading.await.map_err(|_| IngredientFault::CutOff)??;
        self.kept.insert(part, told.clone());
        Ok(told)
    }

    async fn image(&self, digest: Digest) -> Result<bytes::Bytes, IngredientFault> {
        let found = self.images.find(&[digest.to_string()]).await;
        found.and_then(|mut found| found.pop()).map(|(_, file)| file).ok_or(IngredientFault::ImageMissing(digest))
    }
}

impl NamedPicture {
    /// A file whose manifest breaks the library is told without it, on every edge alike.
    fn told(self, file: &[u8]) -> Ingredient {
        let media_type = Format::of_file(file).map_or("application/octet-stream", Format::media_type);
        Ingredient::read(self.title, media_type, self.relation, file)
            .unwrap_or_else(|_| Ingredient::described(self.title, media_type, self.relation))
    }
}

/// The pictures that a recipe names, each once, as many as a manifest tells.
fn parts(recipe: &MasterRecipe) -> Vec<NamedPicture> {
    match recipe {
        MasterRecipe::Imported(import) => {
            vec![NamedPicture { digest: import.import, title: "imported original", relation: Relation::Parent }]
        }
        MasterRecipe::Drawn(recipe) => given(recipe),
        MasterRecipe::Awaited(_) => Vec::new(),
    }
}

/// What the model was given.
fn given(recipe: &Recipe) -> Vec<NamedPicture> {
    let init = recipe.init.iter().map(|init| (init.image, "initial image"));
    let mask = recipe.mask.iter().map(|mask| (*mask, "mask of what is painted anew"));
    let depth = recipe.depth.iter().map(|image| (*image, "map of depth"));
    let controls = recipe.all_controls().map(|control| (control.image, "control image"));
    let references = recipe.references.iter().map(|used| (used.image, "reference image"));
    let masks = recipe.references.iter().filter_map(|used| used.mask);
    let masks = masks.map(|mask| (mask, "mask of what resembles a reference"));
    let details = recipe.details.iter().map(|detail| (detail.mask, "mask of a detail"));
    let guides = depth.chain(controls).chain(references).chain(masks).chain(details);
    let mut parts: Vec<NamedPicture> = Vec::new();
    for (digest, title) in init.chain(mask).chain(guides).take(INGREDIENTS_MAX) {
        if !parts.iter().any(|part| part.digest == digest) {
            parts.push(NamedPicture { digest, title, relation: Relation::Input });
        }
    }
    parts
}

/// What ingredients add to a manifest, in bytes: the same on every edge, because their files are.
pub(super) fn added_bytes(ingredients: &[Ingredient]) -> usize {
    ingredients.iter().map(|ingredient| ENTRY_BYTES + ingredient.carried_bytes()).sum()
}

#[cfg(test)]
mod tests {
    use bildkante_shared::recipe::{ControlUse, InitUse, ReferenceUse};

    use super::*;

    #[test]
    fn a_drawn_picture_names_each_image_it_was_given_once() {
        let digest = |name: &str| Digest::of_bytes(name.as_bytes());
        let control =
            |name| ControlUse { network: digest("net"), image: digest(name), weight: 1.0, start: 0.0, end: 1.0 };
        let mut recipe = Recipe::new(digest("checkpoint"), "a mug", (64, 64));
        assert_eq!(given(&recipe), []);
        recipe.init = Some(InitUse { image: digest("photo"), strength: 0.5 });
        recipe.mask = Some(digest("mask"));
        recipe.controls = vec![control("edges"), control("photo")];
        recipe.depth = Some(digest("depth"));
        let (adapter, encoder) = (digest("adapter"), digest("encoder"));
        let (weight, start, end, mask) = (1.0, 0.0, 1.0, Some(digest("where")));
        recipe.references = vec![ReferenceUse { adapter, encoder, image: digest("style"), weight, start, end, mask }];
        let named: Vec<_> = given(&recipe).into_iter().map(|part| (part.digest, part.title)).collect();
        let expected = [
            (digest("photo"), "initial image"),
            (digest("mask"), "mask of what is painted anew"),
            (digest("depth"), "map of depth"),
            (digest("edges"), "control image"),
            (digest("style"), "reference image"),
            (digest("where"), "mask of what resembles a reference"),
        ];
        assert_eq!(named, expected);
        assert!(given(&recipe).iter().all(|part| part.relation == Relation::Input));
    }

    #[tokio::test]
    async fn an_image_that_is_not_there_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let ingredients = Ingredients::new(folder.path().to_owned(), Images::of(folder.path().to_owned()));
        let part =
            NamedPicture { digest: Digest::of_bytes(b"edges"), title: "control image", relation: Relation::Input };
        let fault = ingredients.read(part).await.expect_err("no such file").to_string();
        assert!(fault.contains(&part.digest.to_string()), "{fault}");
        std::fs::write(folder.path().join("edges.png"), b"edges").expect("written");
        assert_eq!(ingredients.read(part).await.expect("it is there now").carried_bytes(), 0);
    }
}
