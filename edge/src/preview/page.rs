//! The preview's HTML. Everything it shows is in the view structs; nothing is looked up here.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::seo::{Delegation, Picture};

/// Everything a slot's page shows.
#[derive(Debug)]
pub(super) struct SlotPage<'a> {
    pub(super) public_url: &'a str,
    pub(super) campaign: &'a str,
    pub(super) title: &'a str,
    pub(super) slot: &'a str,
    pub(super) slots: Vec<&'a str>,
    pub(super) facts: Vec<(&'static str, String)>,
    pub(super) axes: Vec<AxisView>,
    pub(super) notice: Option<Notice>,
    pub(super) stage: CardView<'a>,
    pub(super) cards: Vec<CardView<'a>>,
    pub(super) variants: usize,
    pub(super) pages: Pages,
}

/// What is to be known of the URLs of a campaign that answers signed ones only.
#[derive(Debug)]
pub(super) enum Notice {
    /// What is copied is signed by this key and ends at this date, or never.
    Signed {
        key_id: String,
        ends: Option<String>,
    },
    NoKey,
}

/// An axis as a menu; an empty value stands for all.
#[derive(Debug)]
pub(super) struct AxisView {
    pub(super) name: String,
    pub(super) label: String,
    pub(super) note: Option<String>,
    /// (value, label), in the manifest's order.
    pub(super) values: Vec<(String, String)>,
    pub(super) selected: Option<String>,
}

/// One variant.
#[derive(Debug)]
pub(super) struct CardView<'a> {
    /// `None` where no URL would be answered.
    pub(super) picture: Option<Picture<'a>>,
    /// The same for a customer's page: with the slot's own sizes and loading.
    pub(super) markup: Option<Picture<'a>>,
    pub(super) name: String,
    /// Canonical variant key.
    pub(super) key: String,
    pub(super) recipe_id: String,
    /// Where its dossier is.
    pub(super) papers: String,
    pub(super) prompt: String,
    /// The older master this variant was merged with, if it was.
    pub(super) merged_with: Option<String>,
    /// Width the card's own bytes are given for.
    pub(super) width_px: u32,
    /// The variant's own page.
    pub(super) page: String,
    /// How far people are with it, where they decide about it.
    pub(super) review: Option<ReviewView>,
}

/// How far people are with a variant's picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ReviewView {
    pub(super) is_live: bool,
    /// Pictures that await a decision.
    pub(super) awaiting: usize,
}

impl ReviewView {
    fn words(self) -> String {
        let awaiting = match self.awaiting {
            0 => String::new(),
            1 => "1 awaits a decision".to_owned(),
            more => format!("{more} await a decision"),
        };
        match (self.is_live, awaiting.is_empty()) {
            (true, true) => "live".to_owned(),
            (true, false) => format!("live, {awaiting}"),
            (false, false) => awaiting,
            (false, true) => "nothing is approved".to_owned(),
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self { awaiting: 1.., .. } => "needs_review",
            Self { is_live: true, .. } => "live",
            Self { .. } => "none",
        }
    }
}

/// Where in the list of variants this page is.
#[derive(Debug)]
pub(super) struct Pages {
    pub(super) current: usize,
    pub(super) last: usize,
    /// The filters as a query without `page`.
    pub(super) query: String,
}

/// A campaign on the first page.
#[derive(Debug)]
pub(super) struct CampaignView<'a> {
    pub(super) name: &'a str,
    pub(super) title: &'a str,
    pub(super) slots: Vec<&'a str>,
    pub(super) variants: u64,
    pub(super) picture: Option<Picture<'a>>,
}

/// The list of campaigns.
#[must_use]
pub(super) fn index(public_url: &str, campaigns: &[CampaignView<'_>]) -> Markup {
    layout(
        "Campaigns",
        public_url,
        true,
        &html! {},
        &html! {
            h1 { "Campaigns" }
            p.lead { "Every campaign this edge serves. Open one to see its variants as browsers get them." }
            div.campaigns {
                @for campaign in campaigns {
                    @if let Some(first) = campaign.slots.first() {
                        a.card href={ "/preview/" (campaign.name) "/" (first) } {
                            @if let Some(picture) = &campaign.picture { span.shot { (picture.picture()) } }
                            span.body {
                                span.name { (campaign.title) }
                                span.key { (campaign.variants) " variants · " (campaign.slots.join(", ")) }
                            }
                        }
                    }
                }
            }
        },
    )
}

/// A slot and its variants.
#[must_use]
pub(super) fn slot(page: &SlotPage<'_>) -> Markup {
    let nav = html! {
        nav aria-label="Slots" {
            @for slot in &page.slots {
                a href={ "/preview/" (page.campaign) "/" (slot) } aria-current=[(*slot == page.slot).then_some("page")] { (slot) }
            }
        }
    };
    layout(
        &format!("{} · {}", page.title, page.slot),
        page.public_url,
        true,
        &nav,
        &html! {
            h1 { (page.title) }
            p.lead { "Slot " b { (page.slot) } ", as a page would show it: negotiated by your browser, measured as it loads." }
            @if let Some(notice) = &page.notice { (notice_text(notice)) }
            (stage(page))
            h2 { (page.variants) " variants" }
            (filters(page))
            div.grid { @for card in &page.cards { (card_markup(card)) } }
            (pager(page))
        },
    )
}

fn notice_text(notice: &Notice) -> Markup {
    html! {
        p.notice {
            @match notice {
                Notice::Signed { key_id, ends } => {
                    "This campaign answers signed URLs only. What you copy here is signed by the key " code { (key_id) }
                    @match ends {
                        Some(date) => { " and is answered until " (date) "." }
                        None => { " and does not expire: it is answered as long as the edge has the key." }
                    }
                }
                Notice::NoKey => {
                    "This campaign answers signed URLs only, and no key of this edge signs: it cannot show the pictures. Name a "
                    "file in " code { "[signing] keys_file" } "; " code { "bildkante-edge sign --new-key" } " makes a key."
                }
            }
        }
    }
}

fn stage(page: &SlotPage<'_>) -> Markup {
    let card = &page.stage;
    html! {
        section.stage {
            div.frame data-shot {
                @if let Some(picture) = &card.picture {
                    div.shot { (picture.markup()) span.badge hidden {} }
                    (format_rows(picture, card.width_px, "bytes stage-bytes"))
                }
            }
            div {
                div.name { a href=(card.page) { b { (card.name) } } }
                @if let Some(review) = card.review { span.state data-state=(review.as_str()) { (review.words()) } }
                dl.facts {
                    dt { "LCP of this page" } dd { span data-lcp { "measuring …" } }
                    @for (name, value) in &page.facts { dt { (name) } dd { (value) } }
                    dt { "Prompt" } dd { (card.prompt) }
                    dt { "Variant" } dd { code { (card.key) } }
                    dt { "Recipe" } dd { code { (card.recipe_id) } }
                    dt { "Papers" } dd { a href=(card.papers) { "Dossier of this picture" } }
                }
                @if let Some(markup) = &card.markup {
                    div.row { b { "Markup" } (copy("Copy <picture>", &markup.markup_text())) }
                    pre { (markup.markup_text()) }
                    details {
                        summary { "Markup that leaves the width to client hints" }
                        pre { (hinted_text(page.public_url, markup)) }
                    }
                }
            }
        }
    }
}

fn hinted_text(origin: &str, picture: &Picture<'_>) -> String {
    let (PreEscaped(meta), PreEscaped(img)) = (Delegation { origin }.meta(), picture.hinted());
    format!("{meta}\n{img}")
}

fn filters(page: &SlotPage<'_>) -> Markup {
    html! {
        form.axes method="get" {
            @for axis in &page.axes {
                label title=[axis.note.as_deref()] {
                    (axis.label)
                    select name=(axis.name) {
                        option value="" selected[axis.selected.is_none()] { "all" }
                        @for (value, label) in &axis.values {
                            option value=(value) selected[axis.selected.as_deref() == Some(value)] { (label) }
                        }
                    }
                }
            }
            noscript { button { "Show" } }
        }
    }
}

fn card_markup(card: &CardView<'_>) -> Markup {
    html! {
        article.card data-shot {
            @if let Some(picture) = &card.picture { span.shot { (picture.picture()) span.badge hidden {} } }
            div.body {
                a.name href=(card.page) { (card.name) }
                @if let Some(review) = card.review { span.state data-state=(review.as_str()) { (review.words()) } }
                span.key.mono { (card.key) }
                a.key.mono href=(card.papers) title="Recipe id: opens the dossier of this picture" { (card.recipe_id) }
                @if let Some(master) = &card.merged_with {
                    span.merged { "Looks like " code { (master) } ": shares its master" }
                }
                @if let Some(picture) = &card.picture { (format_rows(picture, card.width_px, "bytes")) }
                @if let Some(markup) = &card.markup {
                    div.actions {
                        (copy("Copy URL", &markup.candidate(card.width_px, None)))
                        (copy("Copy <picture>", &markup.markup_text()))
                    }
                }
            }
        }
    }
}

/// Rows the script fills in with what each format takes at the card's width.
pub(super) fn format_rows(picture: &Picture<'_>, width_px: u32, class: &str) -> Markup {
    use crate::words::Format;
    html! {
        div class=(class) title={ "At " (width_px) " px" } {
            @for format in [Format::Avif, Format::Webp, Format::Jpeg] {
                span { (format.as_str().to_uppercase()) }
                i data-format-url=(picture.candidate(width_px, Some(format))) {}
                b { "–" }
            }
        }
    }
}

fn pager(page: &SlotPage<'_>) -> Markup {
    let Pages { current, last, query } = &page.pages;
    let link = |number: usize, text: &str| {
        html! { a href={ "?" (query) "page=" (number) } rel=(if number < *current { "prev" } else { "next" }) { (text) } }
    };
    html! {
        h2 {}
        div.pages {
            @if *current > 1 { (link(current - 1, "← Previous")) }
            span { "Page " (current) " of " (last) }
            @if current < last { (link(current + 1, "Next →")) }
        }
    }
}

pub(super) fn copy(label: &str, text: &str) -> Markup {
    html! { button type="button" data-copy=(text) { (label) } }
}

/// `measured`: by the script of the public listener. A page with forms runs no script of another listener.
pub(super) fn layout(title: &str, public_url: &str, measured: bool, nav: &Markup, main: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="robots" content="noindex";
                title { (title) " · Bildkante" }
                link rel="preconnect" href=(public_url);
                link rel="stylesheet" href="/preview/style.css";
                @if measured { script src={ (public_url) "/rum.js" } defer {} }
                script src="/preview/preview.js" defer {}
            }
            body {
                header.bar {
                    a.brand href="/preview/" { "Bildkante" }
                    (nav)
                    span.links { a href="/metrics" { "Metrics" } a href="/readyz" { "Health" } }
                }
                main { (main) }
            }
        }
    }
}

/// The page's text, ready to send.
#[must_use]
pub(super) fn text(PreEscaped(text): Markup) -> String {
    text
}
