//! `bildkante-edge explain`: what each stage makes of a URL, of an image or of its markup.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use bildkante_shared::import::ImportRecipe;
use bildkante_shared::recipe::{ControlUse, DetailUse, Recipe, ReferenceUse, SchedulerKind};
use bildkante_shared::{console, say};
use serde_json::json;

use super::signing_keys;
use crate::campaign::Catalog;
use crate::config::Config;
use crate::render::{Load, Rung};
use crate::request::{ImageRequest, MARKUP_PATH_PREFIX, MarkupRequest, Signable, Target};
use crate::resolve::explain::{ExplainedRecipe, ExplainedVariant};
use crate::resolve::{Described, Explanation, Negotiation, Resolution, resolve};
use crate::response::{Freshness, Lifetime, Pin, Recall};
use crate::signing::{Grant, SignatureError, SigningKeys};
use crate::words::clock::Clock;

/// `bildkante-edge explain`.
#[derive(Debug, clap::Args)]
pub struct ExplainArgs {
    /// The configuration file
    #[arg(long, env = "BILDKANTE_EDGE_CONFIG", default_value = "config/edge.toml")]
    pub config: PathBuf,
    /// The client's `Accept` header; the default is Chrome's for images
    #[arg(long, default_value = "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8")]
    pub accept: String,
    /// One JSON object instead of text
    #[arg(long)]
    pub json: bool,
    /// A URL of this edge; path and query suffice
    pub url: String,
}

/// Prints what each stage makes of a URL. The exit status says whether an edge would serve it.
///
/// # Errors
/// When the campaigns cannot be loaded.
pub fn explain(config: &Config, args: &ExplainArgs) -> anyhow::Result<ExitCode> {
    let catalog = Catalog::load(&config.sources()?).context("the campaigns cannot be loaded")?;
    let keys = signing_keys(config)?;
    let explained = explained(&catalog, keys.as_ref(), config, args);
    let Explained { explanation, negotiation, freshness } = explained;
    if args.json {
        let headers = freshness.map(|(first, settled)| {
            json!({ "first": first.cache_control(), "settled": settled.cache_control(), "cdn": settled.cdn_cache_control() })
        });
        say!("{}", json!({ "explanation": explanation, "freshness": headers }))?;
    } else {
        console::say(text_of(&explanation, negotiation, freshness))?;
    }
    Ok(if explanation.problem.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// What is said of a URL, and of the first and the last answer to it.
struct Explained {
    explanation: Explanation,
    negotiation: Negotiation,
    freshness: Option<(Lifetime, Lifetime)>,
}

fn explained(catalog: &Catalog, keys: Option<&SigningKeys>, config: &Config, args: &ExplainArgs) -> Explained {
    let Target { path, query } = Target::from(args.url.as_str());
    if path.starts_with(MARKUP_PATH_PREFIX) {
        return markup_explained(catalog, keys, args, (path, query));
    }
    let verify = |request: &ImageRequest<'_>| verified(keys, request);
    let trace = resolve(catalog, args.url.as_str(), &Described { accept: Some(&args.accept), verify });
    let freshness = trace.outcome.as_ref().ok().map(|Resolution { resolved, want }| {
        let recall = if resolved.campaign.policy.is_recallable { Recall::Recallable } else { Recall::Never };
        let lifetime = |rung| Lifetime::new(Freshness::of(rung, recall, Pin::None), resolved.grant.left_s());
        (lifetime(config.render.first_rung(&want.spec, Load::Light)), lifetime(Rung::Final))
    });
    Explained { explanation: Explanation::of(&args.url, &trace), negotiation: trace.factors.negotiation(), freshness }
}

/// Of markup: the picture that it tells of, and how long it may be kept while that is live.
fn markup_explained(
    catalog: &Catalog,
    keys: Option<&SigningKeys>,
    args: &ExplainArgs,
    (path, query): (&str, Option<&str>),
) -> Explained {
    let refused = |problem, negotiation| {
        let explanation = Explanation { problem: Some(problem), ..Explanation::unread(&args.url) };
        Explained { explanation, negotiation, freshness: None }
    };
    let request = match MarkupRequest::parse(path, query, catalog) {
        Ok(request) => request,
        Err(error) => return refused(error.problem(), Negotiation::ByAccept),
    };
    let negotiation = if request.form.is_some() { Negotiation::Explicit } else { Negotiation::ByAccept };
    let grant = match verified(keys, &request) {
        Ok(grant) => grant,
        Err(error) => return refused(error.problem(), negotiation),
    };
    let image_url = request.image_url();
    let verify = |_: &ImageRequest<'_>| Ok(grant);
    let trace = resolve(catalog, image_url.as_str(), &Described { accept: Some(&args.accept), verify });
    let of_image = Explanation::of(&args.url, &trace);
    let explanation = Explanation { request: Some(request.canonical()), ..of_image };
    let freshness = trace.outcome.is_ok().then(|| Lifetime::new(Freshness::Recallable, grant.left_s()));
    Explained { explanation, negotiation, freshness: freshness.map(|lifetime| (lifetime, lifetime)) }
}

fn verified<'r>(keys: Option<&SigningKeys>, request: &impl Signable<'r>) -> Result<Grant, SignatureError> {
    match keys {
        Some(keys) => keys.verify(request, Clock::System.unix_s()),
        None if request.signature().is_some() => Err(SignatureError::NotConfigured),
        None => Ok(Grant::Public),
    }
}

/// What a recipe has beside checkpoint and prompt, a line each.
fn additions(recipe: &Recipe) -> Vec<String> {
    let loras = recipe.loras.iter().map(|lora| format!("adapter {} × {}", lora.digest, lora.weight));
    let embeddings = recipe.embeddings.iter().map(|word| format!("`{}` is embedding {}", word.token, word.digest));
    let refiner = recipe.refiner.iter().map(|refiner| format!("refiner {} from {}", refiner.checkpoint, refiner.start));
    let controls = recipe.controls.iter().map(|control| {
        let ControlUse { network, image, weight, start, end } = control;
        format!("ControlNet {network} × {weight} from {start} to {end}, image {image}")
    });
    let references = recipe.references.iter().map(|used| {
        let ReferenceUse { adapter, encoder, image, weight, start, end, mask } = used;
        let where_white = mask.map(|mask| format!(" where {mask} is white")).unwrap_or_default();
        format!(
            "resembles image {image} × {weight} from {start} to {end}{where_white}, adapter {adapter}, encoder {encoder}"
        )
    });
    let drafts = recipe.draft.iter().map(|draft| {
        let (width_px, height_px, by) = (draft.width_px, draft.height_px, draft.enlarge.as_str());
        format!("drafted at {width_px}×{height_px} px, enlarged by {by}, strength {}", draft.strength)
    });
    let details = recipe.details.iter().map(|detail| {
        let DetailUse { mask, strength, prompt, .. } = detail;
        let words = prompt.as_ref().map(|prompt| format!(": {prompt}")).unwrap_or_default();
        format!("detail where {mask} is white, strength {strength}{words}")
    });
    let init = recipe.init.iter().map(|init| format!("begins with image {}, strength {}", init.image, init.strength));
    let depth = recipe.depth.iter().map(|image| format!("is as near as {image} is bright"));
    let mask = recipe.mask.iter().map(|mask| format!("paints where {mask} is white"));
    loras
        .chain(embeddings)
        .chain(refiner)
        .chain(controls)
        .chain(references)
        .chain(drafts)
        .chain(details)
        .chain(init)
        .chain(mask)
        .chain(depth)
        .collect()
}

type Line<'l> = &'l mut dyn FnMut(&str, &dyn std::fmt::Display);

fn drawn(line: Line<'_>, variant: &ExplainedVariant, recipe: &Recipe) {
    line("prompt", &recipe.prompt);
    if !recipe.negative_prompt.is_empty() {
        line("negative", &recipe.negative_prompt);
    }
    line("recipe", &variant.recipe_id);
    line("", &format!("{} {}", variant.checkpoint.as_deref().unwrap_or_default(), recipe.checkpoint));
    let scheduler = recipe.scheduler.kind.map_or("the checkpoint's scheduler", SchedulerKind::as_str);
    let (width, height) = (recipe.width_px, recipe.height_px);
    let (steps, guidance, seed) = (recipe.steps, recipe.guidance, recipe.seed);
    line("", &format!("{width}×{height} px, {scheduler}, {steps} steps, guidance {guidance}, seed {seed}"));
    for added in additions(recipe) {
        line("", &added);
    }
}

fn imported(line: Line<'_>, variant: &ExplainedVariant, import: &ImportRecipe) {
    line("recipe", &variant.recipe_id);
    line("", &format!("imported {}", import.import));
    line("", &import.source.uri());
    for (field, said) in import.texts() {
        if let Some(said) = said {
            line("", &format!("{field} {said}"));
        }
    }
}

/// Lines for people.
fn text_of(explanation: &Explanation, negotiation: Negotiation, freshness: Option<(Lifetime, Lifetime)>) -> String {
    let mut text = String::with_capacity(2048);
    let mut line = |name: &str, value: &dyn std::fmt::Display| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name:<14} {value}");
    };
    line("URL", &explanation.url);
    if let Some(request) = &explanation.request {
        line("request", request);
    }
    if let Some(signature) = &explanation.signature {
        line("signature", &signature);
    }
    if let Some(variant) = &explanation.variant {
        line("variant", &variant.name);
        line("alt text", &format!("{} ({})", variant.alt, variant.locale));
        if let Some(label) = &variant.label {
            line("label", &format!("{} ({})", label.text, label.show));
        }
        match &variant.recipe {
            ExplainedRecipe::Drawn(recipe) => drawn(&mut line, variant, recipe),
            ExplainedRecipe::Imported(import) => imported(&mut line, variant, import),
            ExplainedRecipe::Awaited { awaited_import } => line("recipe", awaited_import),
        }
        for place in &variant.places {
            line("place", place);
        }
        line("on a miss", &variant.on_miss);
        line("urgency", &variant.urgency);
        line("tags", &variant.tags.join(" "));
    }
    if let Some(rendition) = &explanation.rendition {
        line("rendition", &rendition.spec);
        line("Content-Type", &rendition.media_type);
        line("Vary", &negotiation.vary().unwrap_or("none: the format is explicit"));
        line("one URL", &rendition.url);
        line("file name", &rendition.file_name);
        for layer in &rendition.layers {
            line("layer", &format!("{}: {} {}", layer.name, layer.kind, layer.shows));
        }
        if let Some(look) = &rendition.look {
            line("look", look);
        }
    }
    if let Some((first, settled)) = freshness {
        if first != settled {
            line("first answer", &format!("Cache-Control: {}", first.cache_control()));
        }
        line("Cache-Control", &settled.cache_control());
        line("CDN", &settled.cdn_cache_control());
    }
    for warning in &explanation.warnings {
        line("warning", warning);
    }
    if let Some(problem) = &explanation.problem {
        line("problem", &format!("{} {}: {}", problem.status, problem.title, problem.detail));
        if !problem.allowed.is_empty() {
            line("allowed", &problem.allowed.join(", "));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::campaign::tests::Site;

    #[test]
    fn markup_is_explained_by_its_picture_and_its_own_lifetime() {
        let catalog = Site::new().load();
        let explained = |url: &str| {
            let args = ExplainArgs { config: PathBuf::new(), accept: "*/*".into(), json: false, url: url.to_owned() };
            explained(&catalog, None, &Config::default(), &args)
        };
        let found = explained("https://img.example/p/autumn/hero?product=mug&FM=json");
        assert_eq!(found.explanation.request.as_deref(), Some("/p/autumn/hero?product=mug&fm=json"));
        assert!(found.explanation.variant.is_some_and(|variant| variant.name.ends_with("product=mug")));
        assert_eq!(found.negotiation, Negotiation::Explicit);
        let (_, settled) = found.freshness.expect("it is answered");
        assert_eq!(settled.cache_control(), "public, max-age=60, must-revalidate");
        for (url, status) in [("/p/autumn/hero?w=1", 400), ("/p/autumn/poster", 404), ("/p/autumn/hero?kid=a&s=b", 403)]
        {
            let refused = explained(url);
            assert_eq!(refused.explanation.problem.map(|problem| problem.status), Some(status), "{url}");
            assert!(refused.freshness.is_none());
        }
    }
}
