//! `GET /p/{campaign}/{slot}`: markup for those who build pages.
//!
//! Strict as the URLs of images are. A campaign that answers signed URLs only gives its markup to signed URLs only, because it
//! hands out URLs that are signed: they end when the URL that asked for them does.
//!
//! How long an answer may be reused: as long as the picture's own URL where that may be recalled, whatever the campaign says,
//! because texts of a page change more often than its pictures; seconds while the picture is not live; never beyond the end of a
//! right, a schedule or a signature.

use std::sync::Arc;

use bildkante_shared::problem::Problem;
use http::header::ACCEPT;
use http::{HeaderMap, Request, Response};
use prometheus::{IntCounterVec, Opts, Registry};

use super::formats;
use super::placement::{Place, Placement};
use super::shown::{Showing, Shown};
use crate::campaign::manifest::Signing;
use crate::campaign::{ART, Catalog, CatalogHandle};
use crate::fields::list;
use crate::fill::Fill;
use crate::request::parameters::OF_MARKUP;
use crate::request::{ClientHints, DataUse, ImageRequest, MarkupForm, MarkupRequest, Signable};
use crate::resolve::{Asker, Refusal, Resolution, ResolveError, Resolved, format, resolve};
use crate::response::{Freshness, Lifetime, MadeText, Negotiation, TextKind};
use crate::service::Body;
use crate::signing::{Grant, Seal, SignatureError, SigningHandle};
use crate::words::EVERY_IMAGE_TAG;
use bildkante_shared::urgency::Urgency;

/// Forms that `Accept` chooses among, ours first.
const NEGOTIABLE: [(MarkupForm, &str); 3] = [
    (MarkupForm::Html, "text/html"),
    (MarkupForm::Json, "application/json"),
    (MarkupForm::JsonLd, "application/ld+json"),
];

/// What is counted of markup.
#[derive(Debug, Clone)]
pub struct MarkupMetrics {
    answers: IntCounterVec,
}

impl MarkupMetrics {
    /// # Errors
    /// When a metric of the same name is registered already.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let answers = IntCounterVec::new(
            Opts::new(
                "bildkante_edge_markup_answers_total",
                "Answers with markup by form, and by whether the picture is live",
            ),
            &["form", "live"],
        )?;
        registry.register(Box::new(answers.clone()))?;
        for form in MarkupForm::ALL {
            for live in ["true", "false"] {
                answers.with_label_values(&[form.as_str(), live]);
            }
        }
        Ok(Self { answers })
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub struct MarkupDesk {
    pub catalog: CatalogHandle,
    pub signing: SigningHandle,
    pub fill: Arc<Fill>,
    pub public_url: String,
    pub metrics: MarkupMetrics,
}

/// Why there is no markup, and what of the request decided that.
#[derive(Debug)]
pub struct NoMarkup {
    pub problem: Problem,
    pub negotiation: Negotiation,
}

/// Whose signature of the markup's URL was verified: what that was granted holds for the picture's URL in it.
#[derive(Debug, Clone, Copy)]
struct Granted(Grant);

impl Asker for Granted {
    fn grant(&self, _: &ImageRequest<'_>) -> Result<Grant, SignatureError> {
        Ok(self.0)
    }

    fn accept(&self) -> Option<std::borrow::Cow<'_, str>> {
        None
    }

    fn hints(&self) -> ClientHints {
        ClientHints::default()
    }

    fn data_use(&self) -> DataUse {
        DataUse::Usual
    }

    fn urgency(&self) -> Option<Urgency> {
        None
    }
}

/// A `<picture>` has every cut.
fn whole_picture() -> Problem {
    let detail = "markup holds every cut of its slot: leave `art` out";
    Problem::new(400, "parameter-of-images", "Parameter not allowed", detail).with_parameter(ART, Vec::new())
}

impl MarkupDesk {
    /// # Errors
    /// When the URL means nothing here, or its signature is of no use.
    pub fn answer(&self, request: &Request<()>) -> Result<Response<Body>, Box<NoMarkup>> {
        let catalog = self.catalog.load();
        let (path, query) = (request.uri().path(), request.uri().query());
        // What is not understood is told to every client alike, and depends on what it might have left open.
        let asked = MarkupRequest::parse(path, query, &*catalog)
            .map_err(|error| no_markup(error.problem(), Negotiation::ByAccept))?;
        let negotiation = if asked.form.is_some() { Negotiation::Explicit } else { Negotiation::ByAccept };
        let form = asked.form.unwrap_or_else(|| preferred(request.headers()));
        let (placement, lifetime, tags) =
            self.placement(&catalog, &asked).map_err(|problem| no_markup(*problem, negotiation))?;
        let live = if placement.showing().is_live() { "true" } else { "false" };
        self.metrics.answers.with_label_values(&[form.as_str(), live]).inc();
        let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
        let (kind, body) = text(&placement, form);
        Ok(MadeText { kind, body, lifetime, negotiation, tags: &tags }.respond(request.method(), request.headers()))
    }

    fn placement(
        &self,
        catalog: &Catalog,
        asked: &MarkupRequest<'_>,
    ) -> Result<(Placement, Lifetime, Vec<String>), Box<Problem>> {
        let grant = self.signing.check(asked).map_err(|error| Box::new(error.problem()))?;
        let trace = resolve(catalog, asked.image_url().as_str(), &Granted(grant)).outcome;
        let Resolution { resolved, want } = trace.map_err(|refusal| Box::new(problem(&refusal, catalog, asked)))?;
        if resolved.art().is_some() {
            return Err(Box::new(whole_picture()));
        }
        let shown = Shown::of(&self.fill, &want);
        let seal = self.seal(&resolved, asked)?;
        let place = Place { public_url: &self.public_url, pinning: asked.pinning, saving: asked.saving, seal };
        let freshness = match shown.showing {
            Showing::Live => Freshness::Recallable,
            Showing::Undrawn | Showing::Awaited => Freshness::StandIn,
            Showing::Withheld(_) => Freshness::Withheld,
        };
        let decided_s = shown.standing.left_s().filter(|left_s| *left_s < freshness.reach_s());
        let lifetime = Lifetime::new(freshness, [grant.left_s(), decided_s].into_iter().flatten().min());
        let master = shown.master.map(|master| format!("master:{master}"));
        let own = want.variant.tags.with_recipe(shown.recipe);
        let tags = own.all().map(str::to_owned).into_iter().chain(master).chain([EVERY_IMAGE_TAG.to_owned()]);
        let mut placement = Placement::new(&resolved, shown, place);
        placement.formats = formats::offered(&self.fill, &resolved, &want);
        Ok((placement, lifetime, tags.collect()))
    }

    /// What signs the URLs in it, where others are not answered.
    fn seal(&self, resolved: &Resolved, asked: &MarkupRequest<'_>) -> Result<Option<Seal>, Box<Problem>> {
        if resolved.campaign.policy.signing != Signing::Required {
            return Ok(None);
        }
        let expires_s = asked.signature().and_then(|signature| signature.expires_s);
        let no_key =
            || Problem::new(503, "no-signing-key", "No signing key", "no key signs the URLs of this markup now");
        self.signing.seal_until(expires_s).map(Some).ok_or_else(|| Box::new(no_key()))
    }
}

fn no_markup(problem: Problem, negotiation: Negotiation) -> Box<NoMarkup> {
    Box::new(NoMarkup { problem, negotiation })
}

fn preferred(headers: &HeaderMap) -> MarkupForm {
    let accept = list(headers, &ACCEPT);
    let types = NEGOTIABLE.map(|(_, media_type)| media_type);
    NEGOTIABLE.get(format::preferred(accept.as_deref(), &types)).map_or(MarkupForm::Html, |(form, _)| *form)
}

/// What an image's URL would be refused for, with what a URL of markup may say instead.
fn problem(refusal: &Refusal, catalog: &Catalog, asked: &MarkupRequest<'_>) -> Problem {
    let problem = refusal.problem();
    let Refusal::Meaning(ResolveError::UnknownParameter { name, .. }) = refusal else { return problem };
    let axes = catalog.campaign(&asked.campaign).map(|campaign| campaign.axes.iter().map(|axis| axis.name.clone()));
    let allowed = axes.into_iter().flatten().chain(OF_MARKUP.map(str::to_owned)).collect();
    problem.with_parameter(name.clone(), allowed)
}

fn text(placement: &Placement, form: MarkupForm) -> (TextKind, String) {
    match form {
        MarkupForm::Html => (TextKind::Html, placement.markup()),
        MarkupForm::Json => (TextKind::Json, placement.document().to_string()),
        // `null` where there is nothing to tell.
        MarkupForm::JsonLd => (TextKind::JsonLd, placement.structured_data().unwrap_or_default().to_string()),
        // Empty where there is nothing to preload.
        MarkupForm::Preload => (TextKind::Plain, placement.preload().unwrap_or_default()),
        MarkupForm::Meta => (TextKind::Html, placement.meta()),
        MarkupForm::Mail => (TextKind::Html, placement.mail()),
    }
}
