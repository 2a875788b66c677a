//! Why a picture is as it is, in words: what the address means, what was made of it, and who drew it.

use bildkante_shared::import::MasterRecipe;

use super::{terms, wording};
use crate::cache::Binding;
use crate::campaign::{Campaign, Slot, Variant};
use crate::language::Language;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Reasons {
    /// From the address to the picture.
    pub(super) steps: Vec<String>,
    /// Name and value.
    pub(super) facts: Vec<(&'static str, String)>,
}

impl Reasons {
    pub(super) fn of(
        (campaign, slot, variant): (&Campaign, &Slot, &Variant),
        binding: Option<&Binding>,
        language: Language,
    ) -> Self {
        let say = |english, german| language.say(english, german);
        let mut steps = vec![values(campaign, slot, variant, language)];
        steps.push(format!(
            "{} {}.",
            say("If it is missing,", "Fehlt das Bild:"),
            terms::miss_policy(slot.on_miss, language)
        ));
        let mut facts = Vec::new();
        match &variant.recipe {
            MasterRecipe::Drawn(recipe) => {
                let model = slot.drawn().map_or("", |generate| generate.checkpoint.as_str());
                steps.push(format!(
                    "{} {model} {} {} {}.",
                    say("The checkpoint", "Das Modell"),
                    say("draws it in", "erzeugt es in"),
                    recipe.steps,
                    say("steps", "Schritten")
                ));
                facts.extend([
                    ("Seed", recipe.seed.to_string()),
                    (say("Steps", "Schritte"), recipe.steps.to_string()),
                    (say("Guidance", "Prompt-Treue (Guidance)"), recipe.guidance.to_string()),
                    (say("Size", "Größe"), format!("{} × {} px", recipe.width_px, recipe.height_px)),
                ]);
                if !recipe.negative_prompt.is_empty() {
                    facts.push((say("Not wanted", "Unerwünscht"), recipe.negative_prompt.clone()));
                }
                let words = slot.drawn().into_iter().flat_map(|generate| &generate.words);
                let words: Vec<String> = words.map(|words| format!("{}/{}", words.library, words.name)).collect();
                if !words.is_empty() {
                    facts.push((say("Words of libraries", "Bausteine"), words.join(", ")));
                }
            }
            MasterRecipe::Imported(import) => {
                steps.push(format!(
                    "{} ({}).",
                    say(
                        "A person brought it; no model draws it",
                        "Eine Person hat es gebracht; kein Modell erzeugt es"
                    ),
                    import.source.term()
                ));
            }
            MasterRecipe::Awaited(_) => {
                steps.push(
                    say("It waits for a picture that a person brings.", "Es wartet auf ein Bild von einer Person.")
                        .to_owned(),
                );
            }
        }
        facts.extend(binding.map(|binding| drawn(binding, language)).unwrap_or_default());
        Self { steps, facts }
    }
}

/// What the address chose, and what the manifest fills in.
fn values(campaign: &Campaign, slot: &Slot, variant: &Variant, language: Language) -> String {
    let differing = campaign.differing_axes(slot);
    let named = differing.iter().map(|&axis| {
        let of = &campaign.axes[axis];
        format!("{} {}", wording::axis(of, language), wording::value(&of.values[variant.values[axis]], language))
    });
    let named: Vec<String> = named.collect();
    let lead = language.say("The picture differs by:", "Das Bild hängt ab von:");
    if named.is_empty() {
        return language
            .say("Every variant of the slot has this picture.", "Alle Varianten des Platzes haben dieses Bild.")
            .to_owned();
    }
    format!("{lead} {}.", named.join(", "))
}

/// What the node that drew it said.
fn drawn(binding: &Binding, language: Language) -> Vec<(&'static str, String)> {
    let say = |english, german| language.say(english, german);
    let mut facts =
        vec![(say("Drawn by", "Erzeugt von"), binding.node.clone()), ("Master", binding.master.to_string())];
    if let Some(moment) = binding.drawn() {
        facts.push((say("Drawn at", "Erzeugt am"), moment.to_string()));
    }
    if let Some(class) = &binding.determinism {
        facts.push((say("Determinism class", "Determinismusklasse"), class.clone()));
    }
    if let Some(duplicate) = &binding.duplicate {
        let said = match language {
            Language::English => {
                format!("{} of 256 bits, SSIMULACRA2 {:.1}", duplicate.distance, duplicate.ssimulacra2)
            }
            Language::German => format!("{} von 256 Bit, SSIMULACRA2 {:.1}", duplicate.distance, duplicate.ssimulacra2),
        };
        facts.push((say("Merged, at a distance of", "Zusammengelegt, im Abstand von"), said));
    }
    facts
}
