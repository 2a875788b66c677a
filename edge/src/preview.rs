//! The preview: every variant of every slot as browsers get it, for marketers. Served by the admin listener.
//!
//! Opening a page draws what it shows, as any request for these pictures would; nothing else is triggered.

mod filter;
mod page;
mod variant;

use std::sync::Arc;

use bildkante_shared::import::{DigitalSource, MasterRecipe};
use bildkante_shared::log_limited;
use bildkante_shared::problem::Problem;
use http::{Request, Response};

use self::filter::Filter;
use self::page::{AxisView, CampaignView, CardView, Notice, Pages, ReviewView, SlotPage};
use self::variant::{Decisions, Desk, VariantPage};
use crate::cache::Bindings;
use crate::campaign::manifest::Signing;
use crate::campaign::{Campaign, Catalog, CatalogHandle, Slot, Variant};
use crate::candidates::{CandidateDesk, Progress};
use crate::governance::ReviewDesk;
use crate::papers;
use crate::resolve::{Operator, Resolved, resolve};
use crate::response::{self, Negotiation, TextKind};
use crate::seo::{Loading, Picture};
use crate::service::{Body, RequestBody};
use crate::shared_state::PersonRole;
use crate::signing::{Seal, SigningHandle};

const STYLE: &str = include_str!("preview/style.css");
const SCRIPT: &str = include_str!("preview/preview.js");

const STYLE_PATH: &str = "/style.css";
const SCRIPT_PATH: &str = "/preview.js";

/// Cards of one page: what one node draws in a quarter of a minute.
const CARDS_PER_PAGE: usize = 24;

/// How long the page's own pictures of a campaign that answers signed URLs only can be fetched, at the least.
const OWN_URLS_H: u64 = 1;

/// Behind the path of a slot: one of its variants, which the query names.
const VARIANT_PAGE: &str = "/variant";

/// Steps of a history that are shown.
const HISTORY_MAX: usize = 50;

/// Longest path of a page.
const PATH_BYTES_MAX: usize = 256;

/// The prompt, or what there is instead of one.
fn described(recipe: &MasterRecipe) -> String {
    match recipe {
        MasterRecipe::Drawn(recipe) => recipe.prompt.clone(),
        MasterRecipe::Imported(import) => {
            let said = import.texts().into_iter().filter_map(|(_, said)| said);
            std::iter::once(import.source.term()).chain(said).collect::<Vec<_>>().join(", ")
        }
        MasterRecipe::Awaited(_) => "no picture has been imported yet".to_owned(),
    }
}

/// Builds the pages.
#[derive(Debug)]
pub struct Preview {
    public_url: String,
    catalog: CatalogHandle,
    signing: SigningHandle,
    copied_days: u32,
    bindings: Bindings,
    reviews: ReviewDesk,
    candidates: CandidateDesk,
}

/// Who looks, as far as pages depend on it.
#[derive(Clone, Copy)]
pub struct Reader<'r> {
    /// Which campaigns the reader may see; `None`: what belongs to none.
    pub sees: &'r (dyn Fn(Option<&str>) -> bool + Sync),
    /// With which role the reader's forms are taken in a campaign.
    pub role: &'r (dyn Fn(&str) -> Option<PersonRole> + Sync),
    /// What forms of the reader's session carry.
    pub csrf: Option<&'r str>,
}

impl std::fmt::Debug for Reader<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}

impl Reader<'static> {
    /// Of styles and scripts, which show nothing of a campaign.
    #[must_use]
    pub const fn of_assets() -> Self {
        Self { sees: &|_| true, role: &|_| None, csrf: None }
    }
}

/// What a campaign's URLs need before they are answered.
#[derive(Debug)]
enum Seals {
    NotNeeded,
    /// One whose URLs end soon, for the page's own pictures, and one for what is copied from it.
    Keyed {
        own: Seal,
        copied: Seal,
    },
    /// Signed URLs are wanted, and no key signs.
    NoKey,
}

impl Seals {
    const fn own(&self) -> Option<&Seal> {
        match self {
            Self::Keyed { own, .. } => Some(own),
            Self::NotNeeded | Self::NoKey => None,
        }
    }

    const fn copied(&self) -> Option<&Seal> {
        match self {
            Self::Keyed { copied, .. } => Some(copied),
            Self::NotNeeded | Self::NoKey => None,
        }
    }

    fn notice(&self) -> Option<Notice> {
        match self {
            Self::NotNeeded => None,
            Self::Keyed { copied, .. } => {
                let ends = copied.ends_s().map(|ends_s| std::time::UNIX_EPOCH + std::time::Duration::from_secs(ends_s));
                Some(Notice::Signed { key_id: copied.key_id().to_owned(), ends: ends.map(httpdate::fmt_http_date) })
            }
            Self::NoKey => Some(Notice::NoKey),
        }
    }
}

impl Preview {
    #[must_use]
    pub fn new(
        public_url: String,
        catalog: CatalogHandle,
        signing: SigningHandle,
        copied_days: u32,
        (bindings, reviews, candidates): (Bindings, ReviewDesk, CandidateDesk),
    ) -> Self {
        Self { public_url, catalog, signing, copied_days, bindings, reviews, candidates }
    }

    fn seals(&self, campaign: &Campaign) -> Seals {
        if campaign.policy.signing != Signing::Required {
            return Seals::NotNeeded;
        }
        let copied_h = (self.copied_days > 0).then(|| u64::from(self.copied_days) * 24);
        match (self.signing.seal(Some(OWN_URLS_H)), self.signing.seal(copied_h)) {
            (Some(own), Some(copied)) => Seals::Keyed { own, copied },
            _ => Seals::NoKey,
        }
    }

    /// The page or asset at the request's path; `None` outside `/preview`. Looking through a large campaign's
    /// variants is work for a thread of its own.
    pub async fn respond(
        self: &Arc<Self>,
        request: &Request<RequestBody>,
        reader: &Reader<'_>,
    ) -> Option<Response<Body>> {
        let rest = request.uri().path().strip_prefix("/preview")?;
        let text = |kind, body: String| response::text(request.headers(), kind, body, "no-cache");
        Some(match rest {
            "" => response::redirect("/preview/"),
            "/" => text(TextKind::Html, self.index(reader.sees)),
            _ if rest.len() > PATH_BYTES_MAX => return None,
            STYLE_PATH => text(TextKind::Css, STYLE.to_owned()),
            SCRIPT_PATH => text(TextKind::Script, SCRIPT.to_owned()),
            _ if !(reader.sees)(rest.trim_start_matches('/').split('/').next()) => {
                let problem = Problem::new(403, "forbidden", "Forbidden", "you have no role in this campaign");
                response::error(request.method(), &problem, Negotiation::Explicit)
            }
            _ if variant_path(rest).is_some() => {
                let (path, query) = (variant_path(rest).unwrap_or_default(), request.uri().query().unwrap_or(""));
                match self.variant(path, query, reader).await {
                    Ok(page) => text(TextKind::Html, page),
                    Err(problem) => response::error(request.method(), &problem, Negotiation::Explicit),
                }
            }
            _ => {
                let (preview, path) = (Arc::clone(self), rest.to_owned());
                let query = request.uri().query().unwrap_or("").to_owned();
                match tokio::task::spawn_blocking(move || preview.slot(&path, &query)).await {
                    Ok(Ok(page)) => text(TextKind::Html, page),
                    Ok(Err(problem)) => response::error(request.method(), &problem, Negotiation::Explicit),
                    Err(error) => {
                        log_limited!(error, %error, "a preview page failed");
                        let problem = Problem::new(500, "internal", "Internal error", "the page could not be built");
                        response::error(request.method(), &problem, Negotiation::Explicit)
                    }
                }
            }
        })
    }

    /// Whether a path is one of a style or a script, which show nothing of a campaign.
    #[must_use]
    pub fn is_asset(path: &str) -> bool {
        path.strip_prefix("/preview").is_some_and(|rest| rest == STYLE_PATH || rest == SCRIPT_PATH)
    }

    /// Whether the page at a path has forms that change something.
    #[must_use]
    pub fn has_forms(path: &str) -> bool {
        variant_path(path.strip_prefix("/preview").unwrap_or_default()).is_some()
    }

    fn index(&self, sees: &dyn Fn(Option<&str>) -> bool) -> String {
        let catalog = self.catalog.load();
        let seen = catalog.campaigns().filter(|campaign| sees(Some(&campaign.name)));
        let views: Vec<_> = seen.map(|campaign| self.campaign_view(&catalog, campaign)).collect();
        // The pictures borrow these texts.
        let campaigns: Vec<_> = views.iter().map(CampaignTexts::view).collect();
        page::text(page::index(&self.public_url, &campaigns))
    }

    fn campaign_view<'c>(&self, catalog: &Catalog, campaign: &'c Campaign) -> CampaignTexts<'c> {
        let card = self.texts(catalog, campaign, 0, campaign.default_combination());
        CampaignTexts { campaign, card, seals: self.seals(campaign) }
    }

    fn slot(&self, path: &str, query: &str) -> Result<String, Box<Problem>> {
        let catalog = self.catalog.load();
        let (campaign, slot_index) = place(&catalog, path)?;
        let asked = Filter::parse(campaign, query);
        Ok(self.slot_page(&catalog, campaign, slot_index, &asked))
    }

    /// The page of one variant.
    async fn variant(&self, path: &str, query: &str, reader: &Reader<'_>) -> Result<String, Box<Problem>> {
        let catalog = self.catalog.load();
        let (campaign, slot_index) = place(&catalog, path)?;
        let slot = &campaign.slots[slot_index];
        // Strictly as a reader's URL, so that no decision is about another variant than the one that was meant.
        let url = campaign.url(slot, query);
        let resolved = resolve(&catalog, url.as_str(), &Operator).outcome.map(|resolution| resolution.resolved);
        let resolved = resolved.map_err(|refusal| not_found(refusal.to_string()))?;
        let texts = self.texts(&catalog, campaign, slot_index, resolved.variant.key.combination);
        let texts = texts.ok_or_else(|| not_found("there is no such variant".to_owned()))?;
        let back = texts.page();
        let role = (reader.role)(&campaign.name);
        let seals = self.seals(campaign);
        let decisions = self.decisions(&resolved.variant, role >= Some(PersonRole::Reviewer)).await;
        let live = decisions.as_ref().and_then(Decisions::shown).map(|shown| &shown.case);
        let page = VariantPage {
            public_url: &self.public_url,
            campaign: &campaign.name,
            title: &campaign.title,
            slot: &slot.name,
            card: texts.card(slot, &seals, Loading::Hero, &slot.sizes),
            killed: self.reviews.killed(&resolved.variant, live),
            decisions,
            desk: role.map(|role| Desk { role, csrf: reader.csrf, back: &back }),
        };
        Ok(page::text(variant::variant(&page)))
    }

    /// What people decided about a variant's picture, where they decide. Who did and why is for those who decide, too.
    async fn decisions(&self, variant: &Variant, sees_people: bool) -> Option<Decisions> {
        if !variant.review.is_required() {
            return None;
        }
        let cases = self.reviews.cases_of(&variant.picture);
        let history = if sees_people { self.reviews.history(variant, &cases, HISTORY_MAX).await } else { Vec::new() };
        let trials = self.candidates.trials(&variant.name).map(|(_, trials)| trials).unwrap_or_default();
        let failures = trials.iter().filter_map(|trial| match &trial.progress {
            Progress::Drawing => None,
            Progress::Failed(reason) => Some(format!("seed {}: {reason}", trial.seed)),
        });
        Some(Decisions {
            approvers: variant.review.approvers(),
            drawing: trials.iter().filter(|trial| trial.progress == Progress::Drawing).count(),
            failures: failures.collect(),
            cases: cases
                .into_iter()
                .map(|shown| (self.reviews.patch(&shown), shown))
                .map(|(patch, shown)| (shown, patch))
                .collect(),
            history,
        })
    }

    fn slot_page(&self, catalog: &Catalog, campaign: &Campaign, slot_index: usize, asked: &Filter) -> String {
        let slot = &campaign.slots[slot_index];
        let matching: Vec<u32> =
            campaign.combinations().filter(|&combination| asked.admits(&campaign.values_of(combination))).collect();
        let last = matching.len().div_ceil(CARDS_PER_PAGE).max(1);
        let current = asked.page.clamp(1, last);
        let shown = matching.iter().skip((current - 1) * CARDS_PER_PAGE).take(CARDS_PER_PAGE);
        let texts: Vec<_> =
            shown.filter_map(|&combination| self.texts(catalog, campaign, slot_index, combination)).collect();
        let first = matching.first().copied().unwrap_or(campaign.default_combination());
        let on_stage = if asked.is_empty() { campaign.default_combination() } else { first };
        let Some(stage) = self.texts(catalog, campaign, slot_index, on_stage) else { return String::new() };
        let seals = self.seals(campaign);
        let page = SlotPage {
            public_url: &self.public_url,
            campaign: &campaign.name,
            title: &campaign.title,
            slot: &slot.name,
            slots: campaign.slots.iter().map(|slot| slot.name.as_str()).collect(),
            facts: facts(slot),
            axes: axes(campaign, asked),
            notice: seals.notice(),
            stage: stage.card(slot, &seals, Loading::Hero, &slot.sizes),
            cards: texts.iter().map(|texts| texts.card(slot, &seals, Loading::Lazy, "216px")).collect(),
            variants: matching.len(),
            pages: Pages { current, last, query: asked.query(campaign) },
        };
        page::text(page::slot(&page))
    }

    /// How far people are with a variant's picture, where they decide about it.
    fn review(&self, variant: &Variant) -> Option<ReviewView> {
        let (is_live, awaiting) = variant.review.is_required().then(|| self.reviews.counts(&variant.picture))?;
        Some(ReviewView { is_live, awaiting })
    }

    /// The texts of what a reader of a variant's URL gets; `None` where the URL is refused, which a valid manifest rules out.
    fn texts(&self, catalog: &Catalog, campaign: &Campaign, slot_index: usize, combination: u32) -> Option<CardTexts> {
        let resolved = resolved(catalog, campaign, slot_index, combination)?;
        let Resolved { campaign, slot, variant, .. } = &resolved;
        let binding = self.bindings.get(variant.recipe.id());
        let merged = binding.filter(|binding| binding.duplicate.is_some()).map(|binding| binding.master.to_string());
        Some(CardTexts {
            url: format!("{}/i/{}/{}/{}", self.public_url, campaign.name, slot.name, variant.file_stem),
            query: variant.query.clone(),
            alt: resolved.alt(),
            slot: Arc::clone(slot),
            locale: resolved.locale().to_owned(),
            source: resolved.source(),
            key: variant.name.clone(),
            recipe_id: variant.recipe.id().to_string(),
            prompt: described(&variant.recipe),
            merged,
            review: self.review(variant),
            widths_px: slot.widths.clone(),
            ratio: (slot.ratio.width(), slot.ratio.height()),
        })
    }
}

/// The path of the slot where the path is one of a variant's page. A slot may be called `variant`, too.
fn variant_path(rest: &str) -> Option<&str> {
    let slot = rest.strip_suffix(VARIANT_PAGE)?;
    (slot.trim_matches('/').split('/').count() == 2).then_some(slot)
}

/// The campaign and the slot that a path names.
fn place<'c>(catalog: &'c Catalog, path: &str) -> Result<(&'c Arc<Campaign>, usize), Box<Problem>> {
    let (name, slot_name) =
        path.trim_start_matches('/').split_once('/').ok_or_else(|| not_found("there is no such page".into()))?;
    let campaign =
        catalog.campaign(name).ok_or_else(|| not_found(format!("there is no campaign `{}`", shorten(name))))?;
    let slot_index = campaign
        .slot_index(slot_name.trim_end_matches('/'))
        .ok_or_else(|| not_found(format!("campaign `{name}` has no slot `{}`", shorten(slot_name))))?;
    Ok((campaign, slot_index))
}

fn not_found(detail: String) -> Box<Problem> {
    Box::new(Problem::new(404, "not-found", "Not found", detail))
}

/// What the URL of a slot's picture means. No campaign is closed to the preview.
pub(crate) fn resolved(
    catalog: &Catalog,
    campaign: &Campaign,
    slot_index: usize,
    combination: u32,
) -> Option<Resolved> {
    let url = campaign.url(&campaign.slots[slot_index], &campaign.query(combination));
    resolve(catalog, url.as_str(), &Operator).outcome.ok().map(|resolution| resolution.resolved)
}

/// The texts a card borrows.
#[derive(Debug)]
struct CardTexts {
    url: String,
    query: String,
    alt: String,
    slot: Arc<Slot>,
    locale: String,
    /// `None` while the picture is awaited.
    source: Option<DigitalSource>,
    key: String,
    recipe_id: String,
    prompt: String,
    merged: Option<String>,
    review: Option<ReviewView>,
    widths_px: Vec<u32>,
    ratio: (u32, u32),
}

impl CardTexts {
    /// The address of the variant's own page.
    fn page(&self) -> String {
        let (path, values) = self.key.split_once('?').unwrap_or((&self.key, ""));
        format!("/preview/{path}{VARIANT_PAGE}?{values}")
    }

    fn picture<'a>(&'a self, seal: Option<&'a Seal>, loading: Loading, sizes: &'a str) -> Picture<'a> {
        Picture {
            url: &self.url,
            query: &self.query,
            widths_px: &self.widths_px,
            ratio: self.ratio,
            sizes,
            alt: &self.alt,
            loading,
            label: self.source.and_then(|source| self.slot.label.shown(source, &self.locale)),
            seal,
        }
    }

    fn card<'a>(&'a self, slot: &'a Slot, seals: &'a Seals, loading: Loading, sizes: &'a str) -> CardView<'a> {
        let is_shown = !matches!(seals, Seals::NoKey);
        CardView {
            picture: is_shown.then(|| self.picture(seals.own(), loading, sizes)),
            markup: is_shown.then(|| self.picture(seals.copied(), Loading::of(slot.urgency), &slot.sizes)),
            name: self.alt.clone(),
            key: self.key.clone(),
            recipe_id: self.recipe_id.clone(),
            papers: papers::link(&self.key),
            prompt: self.prompt.clone(),
            merged_with: self.merged.clone(),
            width_px: slot.default_width_px,
            page: self.page(),
            review: self.review,
        }
    }
}

struct CampaignTexts<'c> {
    campaign: &'c Campaign,
    card: Option<CardTexts>,
    seals: Seals,
}

impl CampaignTexts<'_> {
    fn view(&self) -> CampaignView<'_> {
        CampaignView {
            name: &self.campaign.name,
            title: &self.campaign.title,
            slots: self.campaign.slots.iter().map(|slot| slot.name.as_str()).collect(),
            variants: self.campaign.combination_count(),
            picture: self
                .card
                .as_ref()
                .filter(|_| !matches!(self.seals, Seals::NoKey))
                .map(|card| card.picture(self.seals.own(), Loading::Hero, "288px")),
        }
    }
}

fn facts(slot: &Slot) -> Vec<(&'static str, String)> {
    let widths: Vec<_> = slot.widths.iter().map(u32::to_string).collect();
    vec![
        ("Ratio", slot.ratio.to_string()),
        ("Widths", format!("{} px", widths.join(", "))),
        ("On a miss", slot.on_miss.to_string()),
        ("Urgency", slot.urgency.get().to_string()),
    ]
}

fn axes(campaign: &Campaign, asked: &Filter) -> Vec<AxisView> {
    let locale = campaign.policy.locales.iter().find(|locale| locale.starts_with("en"));
    let locale = locale.or(campaign.policy.locales.first()).map_or("", String::as_str);
    campaign
        .axes
        .iter()
        .zip(&asked.values)
        .map(|(axis, selected)| AxisView {
            name: axis.name.clone(),
            label: axis.label.get(locale).unwrap_or(&axis.name).clone(),
            note: axis.note.clone(),
            values: axis
                .values
                .iter()
                .map(|value| (value.name.clone(), value.label.get(locale).unwrap_or(&value.name).clone()))
                .collect(),
            selected: selected.map(|value| axis.values[value].name.clone()),
        })
        .collect()
}

/// The start of a name that a URL gave, for a message.
fn shorten(text: &str) -> String {
    text.chars().take(60).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_of_a_variant_lies_behind_its_slot() {
        assert_eq!(variant_path("/autumn/hero/variant"), Some("/autumn/hero"));
        assert_eq!(variant_path("/autumn/variant/variant"), Some("/autumn/variant"));
        for rest in ["/autumn/variant", "/autumn/hero", "/variant", "/autumn/hero/variant/", "/a/b/c/variant"] {
            assert_eq!(variant_path(rest), None, "{rest}");
        }
    }
}
