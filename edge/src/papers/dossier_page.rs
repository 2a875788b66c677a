//! A dossier for people: one page that needs nothing else and prints well.
//!
//! Invariants: every text in it is escaped; no address in it is a link, because whatever a manifest names could stand there;
//! the picture is in the page.

use maud::{Markup, html};
use serde_json::Value;

use super::dossier::{
    DeployerPaper, Dossier, ImagePaper, MasterPaper, ModelPaper, RecipeKind, RecipePaper, RightsPaper, ServedPaper,
    SharedPaper, VariantPaper, WordsPaper,
};
use super::evidence::{Evidence, Examined, WatermarkEvidence};
use super::sheet::{code, fact, sheet};
use crate::credentials::{Credentials, Finding, Standing};

/// The page.
pub(super) fn text(dossier: &Dossier) -> String {
    let name = dossier.variant.as_ref().map_or(dossier.asked.as_str(), |variant| variant.name.as_str());
    sheet(&format!("Dossier of {name}"), &body(dossier, name))
}

fn body(dossier: &Dossier, name: &str) -> Markup {
    html! {
        header {
            h1 { "Dossier of a picture" }
            p.lead { code { (name) } }
        }
        @if let Evidence::Examined(examined) = &dossier.evidence { (picture(dossier, examined)) }
        section { h2 { "Summary" } (summary(dossier)) }
        section { h2 { "How it was made" } (recipe(&dossier.recipe)) }
        section { h2 { "Models" } (models(&dossier.recipe)) }
        section { h2 { "Master" } (master(dossier.master.as_ref())) }
        section { h2 { "Proof of origin, as verified now" } (evidence(&dossier.evidence)) }
        @if let Some(variant) = &dossier.variant {
            section { h2 { "Rights" } (rights(&variant.rights)) }
            section { h2 { "Where it is served" } (served(&variant.served)) }
            section { h2 { "What the deployer says" } (deployer(&variant.deployer)) }
        }
        section { h2 { "Who shares this master" } (shared(dossier)) }
        footer {
            p { "Made by Bildkante " (dossier.edge) " at " (dossier.made_at) ", asked for " code { (dossier.asked) } "." }
            p { "It says what this edge knows. What it does not know is called unknown. It is no legal advice." }
        }
    }
}

fn picture(dossier: &Dossier, examined: &Examined) -> Markup {
    let variant = dossier.variant.as_ref();
    html! {
        figure {
            img src=(examined.picture) width=(examined.width_px) height=(examined.height_px)
                alt=(variant.map_or("", |variant| variant.alt.as_str()));
            figcaption {
                "The file that is served at " code { (examined.url) }
                @if let Some(label) = variant.and_then(|variant| variant.label.as_deref()) {
                    ". Pages label it: “" (label) "”"
                }
                @if let Some(look) = variant.and_then(|variant| variant.look.as_deref()) {
                    ". Its look: " (look)
                }
            }
        }
    }
}

fn summary(dossier: &Dossier) -> Markup {
    let master = dossier.master.as_ref();
    html! {
        dl {
            @if let Some(VariantPaper { title, campaign, slot, locale, alt, label, digital_source_type, campaign_digest, .. }) =
                &dossier.variant
            {
                (fact("Campaign", Some(&format!("{title} ({campaign})"))))
                (fact("Slot", Some(slot)))
                (fact("Alt text", Some(&format!("{alt} ({locale})"))))
                (fact("Visible label", Some(label.as_deref().unwrap_or("none"))))
                (code("Digital source type", *digital_source_type))
                (code("Campaign's files", Some(&campaign_digest.to_string())))
            } @else {
                (fact("Campaign", None))
            }
            (code("Recipe", Some(&dossier.recipe.id)))
            (code("Master", master.map(|master| master.id.as_str())))
            (fact("Drawn", master.and_then(|master| master.drawn_at.as_deref())))
            (fact("Proof of origin", Some(verdict(&dossier.evidence))))
        }
        @if dossier.variant.is_none() {
            p.note {
                "No campaign of this edge shows this master as its files are now. The campaign's history in version control says what "
                "its recipe was."
            }
        }
    }
}

/// In one line.
const fn verdict(evidence: &Evidence) -> &'static str {
    match evidence {
        Evidence::NotExamined { .. } => "not examined",
        Evidence::Examined(examined) => match examined.c2pa {
            Finding::Valid { .. } => "signed, and the signature holds",
            Finding::Invalid { .. } => "signed, and the signature does NOT hold",
            Finding::Absent => "not signed",
            Finding::Elsewhere { .. } => "signed beside the file, and the signature could not be fetched",
        },
    }
}

fn recipe(recipe: &RecipePaper) -> Markup {
    html! {
        @match recipe.kind {
            RecipeKind::Drawn => p { "A model drew it from this recipe. The recipe's id is the digest of its canonical JSON." },
            RecipeKind::Imported => p { "A person brought it. The recipe names the original's digest and what is said of it." },
            RecipeKind::Awaited => p { "A person is to bring it, and has not yet." },
            RecipeKind::Unknown => p.unknown { "Only the recipe's id is known." },
        }
        @if let Some(json) = &recipe.recipe { (parameters(json, recipe.seed_per)) (whole(json)) }
        @if !recipe.words.is_empty() {
            h3 { "Texts of prompt libraries in it" }
            (words(&recipe.words))
        }
        @if !recipe.images.is_empty() {
            h3 { "Images in it" }
            (images(&recipe.images))
        }
    }
}

/// What of a recipe people ask for first.
fn parameters(recipe: &Value, seed_per: Option<&str>) -> Markup {
    let shown = |key: &str| {
        recipe.get(key).filter(|value| !value.is_null()).map(|value| match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        })
    };
    let size = shown("width_px").zip(shown("height_px")).map(|(width, height)| format!("{width} × {height} px"));
    let sampler = recipe.pointer("/scheduler/kind").and_then(Value::as_str).unwrap_or("the checkpoint's own");
    let is_drawn = shown("prompt").is_some();
    let seed = shown("seed").map(|seed| match seed_per {
        Some("recipe") => format!("{seed} (derived from the campaign's base and the recipe)"),
        _ => format!("{seed} (the campaign's)"),
    });
    html! {
        @if is_drawn {
            dl {
                (fact("Prompt", shown("prompt").as_deref()))
                (fact("Negative prompt", Some(shown("negative_prompt").filter(|text| !text.is_empty()).as_deref().unwrap_or("none"))))
                (fact("Seed", seed.as_deref()))
                (fact("Sampler", Some(sampler)))
                (fact("Steps", shown("steps").as_deref()))
                (fact("Guidance", shown("guidance").as_deref()))
                (fact("Size", size.as_deref()))
            }
        }
    }
}

fn whole(recipe: &Value) -> Markup {
    let text = serde_json::to_string_pretty(recipe).unwrap_or_default();
    html! { h3 { "The whole recipe" } pre { (text) } }
}

fn words(words: &[WordsPaper]) -> Markup {
    html! {
        table {
            thead { tr { th scope="col" { "Text" } th scope="col" { "Library and its digest" } th scope="col" { "Words" } } }
            tbody {
                @for WordsPaper { kind, name, library, library_digest, prompt, negative } in words {
                    tr {
                        th scope="row" { (kind.replace('-', " ")) " " (name) }
                        td { (library) " " @if let Some(digest) = library_digest { code { (digest) } } }
                        td {
                            (prompt)
                            @if !negative.is_empty() { @if !prompt.is_empty() { "; " } "negative: " (negative) }
                        }
                    }
                }
            }
        }
    }
}

fn images(images: &[ImagePaper]) -> Markup {
    html! {
        dl {
            @for ImagePaper { role, name, digest } in images {
                dt { (role) }
                dd { (name) " " @match digest { Some(digest) => code { (digest) }, None => span.unknown { "digest unknown" } } }
            }
        }
    }
}

fn models(recipe: &RecipePaper) -> Markup {
    html! {
        @match (recipe.kind, recipe.models.is_empty()) {
            (RecipeKind::Imported, _) => p { "No model of this installation drew it. What the original's maker used is told by its source type." },
            (_, true) => p.unknown { "unknown" },
            (_, false) => @for model in &recipe.models { (self::model(model)) },
        }
    }
}

fn model(model: &ModelPaper) -> Markup {
    let ModelPaper { role, name, digest, weight, license, source, card, training_data } = model;
    html! {
        h3 { (role) " " (name) }
        dl {
            (code("Digest", digest.map(|digest| digest.to_string()).as_deref()))
            @if let Some(weight) = weight { (fact("Weight", Some(&weight.to_string()))) }
            (fact("Licence", license.as_deref()))
            (code("Comes from", source.as_deref()))
            (code("Model card", card.as_deref()))
            (fact("Training data, by its card", training_data.as_deref()))
        }
        @if license.is_none() || card.is_none() || training_data.is_none() {
            p.note { "What is unknown here, the campaign's author can state in " code { "[models.\"" (name) "\"]" } "." }
        }
    }
}

fn master(master: Option<&MasterPaper>) -> Markup {
    let Some(master) = master else {
        return html! { p.unknown { "It is not drawn, or this edge has forgotten its master." } };
    };
    html! {
        dl {
            (code("Id", Some(&master.id)))
            (fact("Size", Some(&format!("{} × {} px", master.width_px, master.height_px))))
            (fact("Drawn, by the node's clock", master.drawn_at.as_deref()))
            (fact("Known to this edge since", master.learned_at.as_deref()))
            (fact("Node", master.node.as_deref()))
            (code("Determinism class", master.determinism.as_deref()))
            (code("Perceptual hash", Some(&master.perceptual_hash)))
        }
        p.note { "Within its determinism class the same recipe gives the same master again, bit for bit." }
    }
}

fn evidence(evidence: &Evidence) -> Markup {
    match evidence {
        Evidence::NotExamined { reason } => html! { p { span.unknown { "Not examined" } ": " (reason) "." } },
        Evidence::Examined(examined) => html! {
            h3 { "The file" }
            dl {
                (code("URL", Some(&examined.url)))
                (fact("Form", Some(&format!(
                    "{}, {} × {} px, {} bytes, {} rung",
                    examined.media_type, examined.width_px, examined.height_px, examined.bytes, examined.rung
                ))))
                (code("SHA-256", Some(&examined.sha256)))
            }
            h3 { "Content Credentials (C2PA)" }
            (c2pa(&examined.c2pa, examined.manifest))
            h3 { "Metadata" }
            dl { (code("Digital source type", examined.digital_source_type.as_deref())) }
            @match &examined.xmp { Some(xmp) => pre { (xmp) }, None => p { "The file has no XMP packet." } }
            h3 { "Watermark" }
            (watermark(&examined.watermark))
        },
    }
}

fn c2pa(finding: &Finding, manifest: &str) -> Markup {
    html! {
        @match finding {
            Finding::Absent => p { "The file has no manifest and points to none." },
            Finding::Elsewhere { url } => p.bad { "The manifest is at " code { (url) } " and is not kept there." },
            Finding::Valid { credentials } => {
                p { span.good { "Valid" } ": the file is the one that was signed; the manifest is "
                    @if manifest == "beside" { "beside it" } @else { "in it" } "." }
                (told(credentials))
            }
            Finding::Invalid { failures, credentials } => {
                p { span.bad { "INVALID" } ": the manifest does not hold." }
                ul { @for failure in failures { li { (failure.kind.as_str()) ": " (failure.explanation) " (" code { (failure.code) } ")" } } }
                @if let Some(credentials) = credentials { p { "What it claims, none of which is proven:" } (told(credentials)) }
            }
        }
    }
}

fn told(credentials: &Credentials) -> Markup {
    let by = credentials.signed_by.as_ref();
    let standing = match credentials.standing {
        Standing::Trusted => "a trusted authority vouches for the signer",
        Standing::Unknown => {
            "not compared with any list of trusted authorities here: a validator that has one says whether the signer is known"
        }
    };
    html! {
        dl {
            (fact("Signer", by.and_then(|by| by.organisation.as_deref()).or(by.and_then(|by| by.common_name.as_deref()))))
            (code("Certificate's number", by.and_then(|by| by.serial.as_deref())))
            (fact("Standing", Some(standing)))
            (fact("Signed, by a timestamp authority", Some(credentials.signed_at.as_deref().unwrap_or("no timestamp: no time counts"))))
            (fact("Made by", credentials.generator.as_deref()))
            @for action in &credentials.actions {
                dt { "Action" }
                dd { code { (action.action) } @if let Some(at) = &action.at { ", " (at) } }
            }
            @if let Some(generation) = &credentials.generation {
                (code("Recipe, as signed", Some(&generation.recipe)))
                (code("Master, as signed", Some(&generation.master)))
                (code("Checkpoint, as signed", generation.checkpoint.as_deref()))
            }
            @for (algorithm, value) in &credentials.soft_bindings {
                dt { "Soft binding" }
                dd { code { (algorithm) " " (value) } }
            }
            @for ingredient in &credentials.ingredients {
                dt { "Ingredient" }
                dd { (ingredient.title.as_deref().unwrap_or("untitled")) " (" (ingredient.relation) ")" }
            }
        }
    }
}

fn watermark(evidence: &WatermarkEvidence) -> Markup {
    match evidence {
        WatermarkEvidence::NotFound { reason } => html! { p { "Not found: " (reason) "." } },
        WatermarkEvidence::Found { algorithm, payload, key, key_is_published, names_this_master, chance_log10 } => {
            html! {
                p {
                    span.good { "Found" } ": "
                    @if *names_this_master { "it names this picture's master." } @else { span.bad { "it names another master." } }
                }
                dl {
                    (code("Algorithm", Some(algorithm)))
                    (code("Payload", Some(payload)))
                    (code("Key", Some(key)))
                    (fact("Chance that a picture without a mark gives this", Some(&format!("at most 10^{:.0}", chance_log10.ceil()))))
                }
                @if *key_is_published { p.note { "Its key is published: anybody can write such a mark." } }
            }
        }
    }
}

fn rights(rights: &RightsPaper) -> Markup {
    html! {
        dl {
            (fact("Creator", rights.creator.as_deref()))
            (fact("Credit", rights.credit.as_deref()))
            (fact("Copyright", rights.copyright.as_deref()))
            (code("Licence", rights.license.as_deref()))
            @if let Some(location) = &rights.location { (fact("Place shown", Some(location))) }
        }
        p.note { "As they are embedded in every rendition." }
    }
}

fn served(served: &ServedPaper) -> Markup {
    html! {
        dl {
            (code("Canonical URL", Some(&served.canonical_url)))
            (fact("Formats", Some(&served.formats.join(", "))))
            (fact("Widths", Some(&served.widths_px.iter().map(u32::to_string).collect::<Vec<_>>().join(", "))))
            (fact("Access", Some(if served.need_signature { "with signed URLs only" } else { "anybody" })))
            (fact("Can be recalled", Some(if served.is_recallable { "yes" } else { "no: caches may keep it for a year" })))
            dt { "Pages" }
            dd { span.unknown { "unknown" } ": " (served.pages) "." }
        }
        h3 { "Every format and width" }
        ul { @for url in &served.urls { li { code { (url) } } } }
        @if served.need_signature { p.note { "Each takes a signature as well." } }
    }
}

fn deployer(said: &DeployerPaper) -> Markup {
    html! {
        dl {
            (fact("Purpose", said.purpose.as_deref()))
            (fact("Oversight", said.oversight.as_deref()))
            (fact("Contact", said.contact.as_deref()))
        }
    }
}

fn shared(dossier: &Dossier) -> Markup {
    html! {
        @for SharedPaper { recipe, looked_like, variants } in &dossier.shared_by {
            h3 { "Recipe " code { (recipe) } }
            @if let Some(likeness) = looked_like {
                p {
                    "Its own master would have been " code { (likeness.of) } ", which was found to look like this one: "
                    (likeness.hash_distance) " of 256 bits of the hash differ, mean chroma difference "
                    (format!("{:.2}", likeness.chroma_distance)) ", SSIMULACRA2 " (format!("{:.1}", likeness.ssimulacra2)) "."
                }
            }
            @if variants.is_empty() { p { "No variant of this edge's campaigns has it now." } }
            @else { ul { @for variant in variants { li { code { (variant) } } } } }
        }
        @if !dossier.shared_by_is_whole {
            p.note { "The search ended at its bound: there may be more variants with this master." }
        }
    }
}
