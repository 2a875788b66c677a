//! `[models.NAME]`: what is known of the checkpoints and adapters that a campaign draws with, as its author says.
//!
//! Nothing here decides a pixel or stands in a rendition. It is told in a picture's papers, which say of everything that is
//! missing here that it is unknown. Only a right that ends decides something: [`super::rights`].

use std::collections::BTreeMap;

use super::manifest::{Manifest, Policy, checked_text};
use super::reader::{TableReader, no_hint};
use super::rights::{self, Held};

/// Most models of a campaign that are described.
const MODELS_MAX: usize = 256;

/// What the author of a campaign says of a model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModelFacts {
    /// The licence's name, as an SPDX expression where it has one.
    pub license: Option<String>,
    /// Where it comes from: a URL, or what is known of it.
    pub source: Option<String>,
    /// Where its model card is: a URL, or a file.
    pub card: Option<String>,
    /// What its card says of the data it was trained on.
    pub training_data: Option<String>,
    pub held: Held,
}

/// Reads `[models]`, by the names that the campaign gives them.
pub(crate) fn read(root: &TableReader<'_, '_>, policy: &Policy) -> BTreeMap<String, ModelFacts> {
    let Some(table) = root.table("models") else { return BTreeMap::new() };
    let models = table.tables(MODELS_MAX).into_iter().map(|(name, table)| {
        let facts = read_model(&table, policy);
        table.finish(no_hint);
        (name.value.to_owned(), facts)
    });
    models.collect()
}

fn read_model(table: &TableReader<'_, '_>, policy: &Policy) -> ModelFacts {
    let text = |key| checked_text(table, &table.text(key)?).filter(|text| !text.is_empty());
    ModelFacts {
        license: text("license"),
        source: text("source"),
        card: text("card"),
        training_data: text("training_data"),
        held: rights::read_held(table, policy),
    }
}

/// A model that is described and not used is a misspelt name.
pub(crate) fn check_are_used(root: &TableReader<'_, '_>, manifest: &Manifest) {
    let known: Vec<&str> = manifest.checkpoints().into_iter().chain(manifest.adapters()).collect();
    let unused = manifest.models.keys().filter(|name| !known.contains(&name.as_str()));
    rights::refuse_unused(root, ("models", "a model"), unused, &known);
}
