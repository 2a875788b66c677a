//! The preview: every picture of every slot as browsers get it, for marketers. Served by the admin listener.
//!
//! | module | owns |
//! | --- | --- |
//! | `tastes` | the reader's language and ground |
//! | `census` | which pictures a slot has |
//! | `filter`, `board` | what a page's address asks for, and what that comes to |
//! | `states` | how far a picture is |
//! | `wording`, `terms` | what a campaign and what the program calls things, in the reader's language |
//! | `cards`, `seals`, `why` | one picture: its texts, its signed addresses, its reasons |
//! | `frame`, `home`, `slot`, `matrix`, `variant`, `history`, `compare`, `queue` | what pages look like |
//! | `overview`, `slots` | what they show, across campaigns and of a slot |
//! | `ways` | what names and paths mean, and where pages lead |
//! | `desk`, `bulk`, `picked`, `sharing` | the forms on them |
//! | `selection` | which pictures picks and filters come to |
//! | `batches` | pictures that are drawn ahead: the pages that start and follow it |
//! | `shared`, `pins`, `comments` | what people with a link see and write |
//! | `after` | what follows a decision |
//! | `trouble` | what is read where a page or a form comes to nothing |
//! | `layers` | what is laid on a picture, and what became of it |
//! | `draft`, `drafting`, `likeness` | drafts: the form, and the page of what was drawn; duplicates |
//! | `assets` | style and scripts |
//! | `events` | what tells a page that something was decided |
//! | `progress` | how far pictures are that are being drawn |
//!
//! Invariants: pages are whole without a script; what a page shows stands in its address; opening a page draws what
//! comes into view, as any request for these pictures would, and nothing else is triggered but that layers are laid on for
//! their report, on a master that is there.

pub(crate) mod after;
mod assets;
mod batches;
mod board;
pub(crate) mod bulk;
mod cards;
mod census;
mod comments;
mod compare;
mod cuts;
mod desk;
mod draft;
mod drafting;
pub(crate) mod events;
mod files;
mod filter;
mod frame;
mod history;
mod home;
mod layers;
mod likeness;
mod matrix;
mod overview;
mod picked;
mod pins;
mod progress;
mod queue;
mod seals;
pub(crate) mod selection;
pub(crate) mod shared;
mod sharing;
mod slot;
mod slots;
mod states;
mod tastes;
mod terms;
pub(crate) mod trouble;
mod variant;
mod ways;
mod why;
mod wording;

use std::sync::Arc;

use bildkante_shared::log_limited;
use bildkante_shared::problem::Problem;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use maud::Markup;
use tokio::sync::Semaphore;

use self::batches::CHOOSE_PAGE;
#[cfg(test)]
pub(crate) use self::cards::resolved;
use self::cards::{CardTexts, Pickable, Shown, VARIANT_PAGE};
use self::census::{Censuses, SlotOf};
use self::desk::Desk;
use self::events::Events;
use self::files::Files;
use self::frame::{Crumb, Frame, Measured, Person};
use self::layers::{Layers, sets_on_picture};
use self::progress::{Drawing, Progresses};
use self::seals::Seals;
use self::states::{PictureState, States};
pub(crate) use self::tastes::Tastes;
use self::variant::{Decisions, VariantPage};
use self::ways::{FROM_QUEUE, around, around_in_queue, crumbs, from_queue, not_found, place};
use self::why::Reasons;
use crate::batch::BatchDesk;
use crate::cache::Bindings;
use crate::campaign::axes::LOCALE_AXIS;
use crate::campaign::{Campaign, Catalog, CatalogHandle, Variant};
use crate::candidates::{CandidateDesk, Progress, Trial};
use crate::drafts::DraftDesk;
use crate::fill::Fill;
use crate::governance::{ReviewDesk, ShownCase};
use crate::origin::Regions;
use crate::resolve::{Operator, Resolution, resolve};
use crate::response::{self, Negotiation, StaticText, TextKind};
use crate::seo::{self, Loading, Place, Placement};
use crate::service::{Body, RequestBody};
use crate::shared_state::PersonRole;
use crate::shares::ShareDesk;
use crate::signing::SigningHandle;

/// Cards of one page: what one node draws in a quarter of a minute.
const CARDS_PER_PAGE: usize = 24;
/// Steps of a history that are shown.
const HISTORY_MAX: usize = 50;
/// Pages that look through a whole slot at once: each is work for a core.
const TURNS_MAX: usize = 2;
/// Longest path of a page.
const PATH_BYTES_MAX: usize = 256;
/// What a page for people with a link loads.
const GUEST_ASSETS: [&str; 4] = ["style.css", "icon.svg", "shared.js", "text.js"];

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
    drafts: DraftDesk,
    shares: ShareDesk,
    batches: BatchDesk,
    fill: Arc<Fill>,
    censuses: Censuses,
    /// Of pages that look through a whole slot.
    turns: Arc<Semaphore>,
    events: Events,
    progress: Progresses,
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
    /// Of a reader who came in by a session, a key or a proxy.
    pub name: Option<&'r str>,
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
        Self { sees: &|_| true, role: &|_| None, csrf: None, name: None }
    }
}

/// What a path below `/preview` names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Page<'p> {
    Home,
    Queue,
    Compare,
    /// By the draft's id.
    Draft(&'p str),
    Batches,
    Batch(u64),
    /// That starts a batch, by the path of its slot.
    NewBatch(&'p str),
    /// Of a slot, by its path.
    Slot(&'p str),
    /// Of a variant, by the path of its slot.
    Variant(&'p str),
}

impl<'p> Page<'p> {
    fn of(rest: &'p str) -> Self {
        match rest {
            "/" => Self::Home,
            "/queue" => Self::Queue,
            "/compare" => Self::Compare,
            "/batches" => Self::Batches,
            _ if let Some(id) = rest.strip_prefix(drafting::DRAFTS) => Self::Draft(id),
            _ if let Some(id) = batches::id_of(rest) => Self::Batch(id),
            _ if let Some(slot) = behind(rest, CHOOSE_PAGE) => Self::NewBatch(slot),
            _ => match behind(rest, VARIANT_PAGE) {
                Some(slot) => Self::Variant(slot),
                None => Self::Slot(rest),
            },
        }
    }

    /// Of which campaign it is.
    fn campaign(self) -> Option<&'p str> {
        match self {
            Self::Home | Self::Queue | Self::Compare | Self::Draft(_) | Self::Batches | Self::Batch(_) => None,
            Self::Slot(path) | Self::Variant(path) | Self::NewBatch(path) => {
                path.trim_start_matches('/').split('/').next()
            }
        }
    }
}

/// The path of a slot whose page of this kind it is. A slot may be called so, too.
fn behind<'p>(rest: &'p str, page: &str) -> Option<&'p str> {
    rest.strip_suffix(page).filter(|slot| slot.trim_matches('/').split('/').count() == 2)
}

/// A page's own part, and what stands around it.
struct Content {
    title: String,
    crumbs: Vec<Crumb>,
    main: Markup,
    measured: Measured,
    is_wide: bool,
}

impl Preview {
    #[must_use]
    pub fn new(
        public_url: String,
        catalog: CatalogHandle,
        signing: SigningHandle,
        copied_days: u32,
        (fill, regions): (Arc<Fill>, Arc<Regions>),
        (bindings, reviews, candidates): (Bindings, ReviewDesk, CandidateDesk),
        (drafts, shares, batches): (DraftDesk, ShareDesk, BatchDesk),
    ) -> Self {
        Self {
            fill,
            events: Events::new(reviews.log().published().clone()),
            censuses: Censuses::default(),
            turns: Arc::new(Semaphore::new(TURNS_MAX)),
            public_url,
            catalog,
            signing,
            copied_days,
            bindings,
            reviews,
            candidates,
            drafts,
            shares,
            batches,
            progress: Progresses::new(regions),
        }
    }

    /// The places of those who wait for news on this listener.
    pub(crate) const fn waiting_pages(&self) -> &Arc<Semaphore> {
        self.events.streams()
    }

    /// At most so many open pages wait for news at a time.
    #[must_use]
    pub fn with_waiting_pages(self, pages: usize) -> Self {
        Self { events: self.events.with_streams(pages), ..self }
    }

    /// The page or asset at the request's path; `None` outside `/preview`. Looking through a large campaign's
    /// variants is work for a thread of its own.
    pub async fn respond(
        self: &Arc<Self>,
        request: &Request<RequestBody>,
        reader: &Reader<'_>,
    ) -> Option<Response<Body>> {
        let rest = request.uri().path().strip_prefix("/preview")?;
        if rest.is_empty() {
            return Some(response::redirect("/preview/"));
        }
        if rest.len() > PATH_BYTES_MAX {
            return None;
        }
        if let Some(asset) = assets::find(rest) {
            return Some(asset.respond(request.headers()));
        }
        if rest == events::PATH {
            return Some(self.events.respond(request.headers(), request.uri().query()).await);
        }
        if rest == progress::PATH {
            return Some(self.progress.respond(request.headers(), request.uri().query()).await);
        }
        let page = Page::of(rest);
        let query = request.uri().query();
        let waiting = self.waiting(reader);
        let content = if page.campaign().is_some() && !(reader.sees)(page.campaign()) {
            Err(Box::new(Problem::new(403, "forbidden", "Forbidden", "you have no role in this campaign")))
        } else {
            self.content(page, request, (reader, &waiting)).await
        };
        let measured = content.as_ref().map_or(Measured::No, |content| content.measured);
        let mut response = match content {
            Ok(content) => self.framed(request.headers(), request.uri(), content, (reader, waiting.len())),
            Err(problem) if trouble::wants_page(request.headers()) => {
                self.troubled(request, &problem, (reader, waiting.len()))
            }
            Err(problem) => response::error(request.method(), &problem, Negotiation::Explicit),
        };
        response.headers_mut().insert(CONTENT_SECURITY_POLICY, policy(&self.public_url, measured));
        tastes::remember(&mut response, query);
        Some(response)
    }

    /// A style, script or sign of a page for people with a link, by its name.
    pub(crate) fn guest_asset(name: &str) -> Option<&'static StaticText> {
        GUEST_ASSETS.contains(&name).then(|| assets::find(&format!("/{name}"))).flatten()
    }

    /// Whether a path is one of a style or a script, which show nothing of a campaign.
    #[must_use]
    pub fn is_asset(path: &str) -> bool {
        path.strip_prefix("/preview").is_some_and(|rest| assets::find(rest).is_some())
    }

    fn framed(
        &self,
        headers: &HeaderMap,
        uri: &http::Uri,
        content: Content,
        (reader, needed): (&Reader<'_>, usize),
    ) -> Response<Body> {
        let Content { title, crumbs, main, measured, is_wide } = content;
        let here = uri.path_and_query().map_or("/preview/", http::uri::PathAndQuery::as_str);
        let frame = Frame {
            tastes: Tastes::of(uri.query(), headers),
            here,
            public_url: &self.public_url,
            title,
            crumbs,
            seq: self.reviews.log().published().load().epoch(),
            person: Person { name: reader.name, needed },
            undo: self.undo_bar(uri, reader),
            measured,
            is_wide,
        };
        response::text(headers, TextKind::Html, frame.around(&main).0, "no-cache")
    }

    /// What a person reads in the place of a page.
    fn troubled(
        &self,
        request: &Request<RequestBody>,
        problem: &Problem,
        known: (&Reader<'_>, usize),
    ) -> Response<Body> {
        let language = Tastes::of(request.uri().query(), request.headers()).language;
        let content = Content {
            title: trouble::title(problem, language).to_owned(),
            crumbs: Vec::new(),
            main: trouble::told(problem, "/preview/", language),
            measured: Measured::No,
            is_wide: false,
        };
        let mut response = self.framed(request.headers(), request.uri(), content, known);
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        *response.status_mut() = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        response
    }

    async fn content(
        self: &Arc<Self>,
        page: Page<'_>,
        request: &Request<RequestBody>,
        (reader, waiting): (&Reader<'_>, &[(String, ShownCase)]),
    ) -> Result<Content, Box<Problem>> {
        let query = request.uri().query().unwrap_or("");
        let tastes = Tastes::of(request.uri().query(), request.headers());
        match page {
            Page::Home => Ok(self.home(tastes, reader, waiting)),
            Page::Queue => Ok(self.queue(tastes, reader, waiting)),
            Page::Compare => self.compare(tastes, query, reader),
            Page::Draft(id) => self.draft(tastes, id, reader),
            Page::Variant(path) => self.variant(tastes, (path, query), reader, waiting).await,
            Page::Batches => Ok(self.all_batches(tastes, reader)),
            Page::Batch(id) => self.one_batch(tastes, id, reader),
            Page::Slot(path) | Page::NewBatch(path) => {
                let is_new_batch = matches!(page, Page::NewBatch(_));
                let (preview, path, query) = (Arc::clone(self), path.to_owned(), query.to_owned());
                let csrf = reader.csrf.map(str::to_owned);
                let role = path.trim_start_matches('/').split('/').next().and_then(|campaign| (reader.role)(campaign));
                // Its end lets the next one begin, whether the reader still waits or not.
                let turn = Arc::clone(&self.turns).acquire_owned().await;
                let task = tokio::task::spawn_blocking(move || {
                    let _turn = turn;
                    let (at, desk) = ((path.as_str(), query.as_str()), role.map(|role| (role, csrf.as_deref())));
                    if is_new_batch { preview.choose_batch(tastes, at, desk) } else { preview.slot(tastes, at, desk) }
                });
                task.await.unwrap_or_else(|error| {
                    log_limited!(error, %error, "a preview page failed");
                    Err(Box::new(Problem::new(500, "internal", "Internal error", "the page could not be built")))
                })
            }
        }
    }

    fn seals(&self, campaign: &Campaign) -> Seals {
        Seals::of(campaign, &self.signing, self.copied_days)
    }

    fn texts(&self, catalog: &Catalog, of: SlotOf<'_>, combination: u32, tastes: Tastes) -> Option<CardTexts> {
        let known = (catalog, &self.bindings);
        CardTexts::of(known, &self.public_url, (of.campaign, of.slot_index), combination, tastes.language)
    }

    /// The variant that a name means now.
    fn meant<'c>(&self, catalog: &'c Catalog, name: &str) -> Option<(&'c Campaign, usize, Arc<Variant>)> {
        let (path, query) = name.split_once('?').unwrap_or((name, ""));
        let (campaign, slot_index) = place(catalog, path).ok()?;
        let url = campaign.url(&campaign.slots[slot_index], query);
        let resolution = resolve(catalog, url.as_str(), &Operator).outcome.ok()?;
        Some((campaign, slot_index, resolution.resolved.variant))
    }

    /// Where readers find pictures.
    #[must_use]
    pub(crate) fn public_url(&self) -> &str {
        &self.public_url
    }

    /// The page of one variant.
    async fn variant(
        &self,
        tastes: Tastes,
        (path, query): (&str, &str),
        reader: &Reader<'_>,
        waiting: &[(String, ShownCase)],
    ) -> Result<Content, Box<Problem>> {
        let catalog = self.catalog.load();
        let (campaign, slot_index) = place(&catalog, path)?;
        let of = SlotOf { campaign, slot_index };
        let slot = of.slot();
        // Strictly as a reader's URL, so that no decision is about another variant than the one that was meant.
        let named: Vec<&str> = query.split('&').filter(|pair| !pair.starts_with('_') && !pair.is_empty()).collect();
        let url = campaign.url(slot, &named.join("&"));
        let meant = resolve(&catalog, url.as_str(), &Operator).outcome;
        let named_variant = meant.map_err(|refusal| not_found(refusal.to_string()))?.resolved.variant;
        let combination = named_variant.key.combination;
        // A locale that the address names is meant; else the reader's own.
        let names_locale = named.iter().any(|pair| pair.split('=').next() == Some(LOCALE_AXIS));
        let combination =
            if names_locale { combination } else { wording::localised(campaign, slot, combination, tastes.language) };
        let missing = || not_found("there is no such variant".to_owned());
        let url = campaign.url(slot, &campaign.query(combination));
        let meant = resolve(&catalog, url.as_str(), &Operator).outcome;
        let Resolution { resolved, want } = meant.map_err(|_| missing())?;
        let texts = self.texts(&catalog, of, combination, tastes).ok_or_else(missing)?;
        let is_from_queue = query.split('&').any(|pair| pair == FROM_QUEUE);
        let back = if is_from_queue { from_queue(&texts.page()) } else { texts.page() };
        let role = (reader.role)(&campaign.name);
        let may_draft = role >= Some(PersonRole::Reviewer);
        let seals = self.seals(campaign);
        let decisions = self.decisions(&resolved.variant, role >= Some(PersonRole::Reviewer)).await;
        let binding = self.bindings.get(resolved.variant.recipe.id());
        let census = self.censuses.of(campaign, slot_index);
        let withheld = self.reviews.survey().withheld(&resolved.variant);
        let states = match &decisions {
            Some(decisions) => decisions.cases.iter().map(|(shown, _)| PictureState::from(shown.state)).collect(),
            None => States::default().with(if binding.is_some() { PictureState::Drawn } else { PictureState::Missing }),
        };
        let states = if withheld.is_some() { states.with(PictureState::Withheld) } else { states };
        let entry = census.entry_of(campaign, combination);
        let variants = entry.map_or(1, |entry| census.entries[entry].variants);
        let sizes = &slot.framing.sizes;
        let (pick, alike) = (Pickable::No, 0);
        let (seals, loading, layer_sets) = (&seals, Loading::Hero, sets_on_picture(campaign, slot_index, combination));
        let shown = Shown { seals, loading, sizes, states, variants, layer_sets, case: None, pick, alike };
        let page = VariantPage {
            tastes,
            campaign: &campaign.name,
            cuts: &slot.cuts,
            notice: seals.notice(),
            card: texts.card(shown),
            around: if is_from_queue {
                around_in_queue(waiting, &texts.picture_name)
            } else {
                around(campaign, of, &census, entry)
            },
            placement: seals.are_usable().then(|| {
                let place = Place::new(&self.public_url, seals.copied().cloned());
                Placement::new(&resolved, seo::Shown::of(&self.fill, &want), place)
            }),
            reasons: Reasons::of((campaign, slot, &resolved.variant), binding.as_deref(), tastes.language),
            withheld,
            awaited: match binding {
                None => self.progress.of(resolved.variant.recipe.id()).await,
                Some(_) => None,
            },
            guests: self.guests_of(of, &resolved.variant, role),
            decisions,
            likeness: self.likeness(&resolved.variant, binding.clone()),
            layers: Layers::of((&catalog, &self.fill), (campaign, slot_index), combination, tastes.language).await,
            files: Files::of((&catalog, &self.fill), (campaign, slot_index), combination).await,
            draft: if may_draft { Some(self.draft_form(&resolved.variant).await) } else { None },
            desk: role.map(|role| Desk { role, csrf: reader.csrf, back: &back }),
        };
        Ok(Content {
            title: format!("{} · {}", texts.headline(), campaign.title),
            crumbs: crumbs(&catalog, &campaign.name, &slot.name, Some(texts.headline().to_owned())),
            main: variant::variant(&page),
            measured: if role.is_some() { Measured::No } else { Measured::ByBrowser },
            is_wide: false,
        })
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
            drawing: self.drawing(&trials).await,
            failures: failures.collect(),
            cases: cases
                .into_iter()
                .map(|shown| (self.reviews.patch(&shown), shown))
                .map(|(patch, shown)| (shown, patch))
                .collect(),
            history,
        })
    }
    /// Seeds that are being drawn, each with how far it is.
    async fn drawing(&self, trials: &[Trial]) -> Vec<(u32, Option<Drawing>)> {
        let drawing = trials.iter().filter(|trial| trial.progress == Progress::Drawing);
        let told = drawing.map(|trial| async { (trial.seed, self.progress.of(trial.recipe).await) });
        futures_util::future::join_all(told).await
    }
}

/// Pages load their own style and scripts, pictures of both listeners, and send forms here; their scripts ask both
/// listeners.
fn policy(public_url: &str, measured: Measured) -> HeaderValue {
    let public = public_url.trim_end_matches('/');
    let scripts = if measured == Measured::ByBrowser { format!(" {public}") } else { String::new() };
    let policy = format!(
        "default-src 'none'; script-src 'self'{scripts}; style-src 'self'; img-src 'self' data: {public}; \
         connect-src 'self' {public}; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    );
    HeaderValue::from_str(&policy).unwrap_or(HeaderValue::from_static("default-src 'self'; frame-ancestors 'none'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_of_a_variant_lies_behind_its_slot() {
        assert_eq!(Page::of("/autumn/hero/variant"), Page::Variant("/autumn/hero"));
        assert_eq!(Page::of("/autumn/variant/variant"), Page::Variant("/autumn/variant"));
        for rest in ["/autumn/variant", "/autumn/hero", "/variant", "/autumn/hero/variant/", "/a/b/c/variant"] {
            assert_eq!(Page::of(rest), Page::Slot(rest));
        }
        assert_eq!(Page::of("/queue").campaign(), None);
        assert_eq!(Page::of("/autumn/hero/variant").campaign(), Some("autumn"));
    }

    #[test]
    fn a_policy_names_both_listeners_and_no_other() {
        let of = |measured| policy("https://img.example.com/", measured).to_str().unwrap().to_owned();
        let measured = of(Measured::ByBrowser);
        assert!(measured.contains("script-src 'self' https://img.example.com;"), "{measured}");
        assert!(!measured.contains("unsafe") && !measured.contains("https: "), "{measured}");
        let with_forms = of(Measured::No);
        assert!(with_forms.contains("script-src 'self';"), "{with_forms}");
    }
}
