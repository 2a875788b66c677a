//! `<picture>` with responsive candidates, and the preload that goes with it.
//!
//! Sources: HTML Living Standard (`picture`, `srcset`, `sizes`, `fetchpriority`, `loading`), RFC 8288 (`Link`),
//! web.dev/articles/preload-responsive-images.
//!
//! Invariants: width and height are always written, so that nothing shifts (CLS); formats stand best first, and only those that
//! the slot has; a hero loads eagerly and with high priority, everything else lazily and, where the browser can, at the width that its
//! layout gives it (`sizes="auto"`). Only a hero is preloaded: a preload has no layout, so it would name another candidate than
//! `auto`, and the browser would fetch both.

use bildkante_shared::urgency::Urgency;
use maud::{Markup, PreEscaped, html};

use super::label::{caption, labelled};
use crate::campaign::{ART, Cut, Framing, LqipMarkup, MediaCondition, ShownLabel};
use crate::render::Lqip;
use crate::request::SavingAsk;
use crate::signing::Seal;
use crate::words::{Format, FormatSet};

/// How a browser should go about loading an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loading {
    /// The page's likely LCP: at once, ahead of everything.
    Hero,
    /// Below the fold.
    Lazy,
}

impl Loading {
    /// Slots of urgency 0 and 1 are heroes.
    #[must_use]
    pub fn of(urgency: Urgency) -> Self {
        if urgency.get() <= 1 { Self::Hero } else { Self::Lazy }
    }
}

/// One image of a page at all its widths, in every format.
#[derive(Debug, Clone, Copy)]
pub struct Picture<'a> {
    /// Absolute URL without its query.
    pub url: &'a str,
    /// Canonical axis values (`colour=teal&product=mug`), or empty.
    pub query: &'a str,
    /// Ladder, ascending, CSS pixels.
    pub widths_px: &'a [u32],
    /// Those of its slot.
    pub formats: FormatSet,
    /// Intrinsic ratio as width and height.
    pub ratio: (u32, u32),
    pub sizes: &'a str,
    pub alt: &'a str,
    pub loading: Loading,
    /// What is shown beside it.
    pub label: Option<ShownLabel<'a>>,
    /// Signs every URL, where the campaign answers no others.
    pub seal: Option<&'a Seal>,
    /// For other screens, in the order in which a browser tries them.
    pub cuts: &'a [Cut],
}

/// What analytics read off the element.
#[derive(Debug, Clone, Copy, Default)]
pub struct PictureFacts<'a> {
    pub variant: Option<&'a str>,
    pub recipe: Option<&'a str>,
    pub prompt_version: Option<&'a str>,
    pub seed: Option<u32>,
    /// What stands for the picture until it is there, where its slot has that in its markup.
    pub lqip: Option<(LqipMarkup, Lqip)>,
}

/// A picture with URLs that may be pinned and facts beside it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame<'a> {
    pub(super) picture: Picture<'a>,
    /// `v` of every URL.
    pub(super) version: Option<&'a str>,
    pub(super) facts: PictureFacts<'a>,
    /// The cut that its URLs name; `None` in the slot's own framing.
    pub(super) art: Option<&'a str>,
    /// Whether its URLs opt in to `Save-Data`.
    pub(super) saving: SavingAsk,
}

/// The one style that an image is given: a colour follows.
pub(super) const BACKGROUND: &str = "background-color:";
/// Formats offered as sources, best first; JPEG is the `<img>`.
const SOURCES: [Format; 2] = [Format::Avif, Format::Webp];

impl<'a> Frame<'a> {
    pub(super) const fn new(picture: Picture<'a>, version: Option<&'a str>) -> Self {
        let facts = PictureFacts { variant: None, recipe: None, prompt_version: None, seed: None, lqip: None };
        Self { picture, version, facts, art: None, saving: SavingAsk::Url }
    }

    const fn plain(picture: Picture<'a>) -> Self {
        Self::new(picture, None)
    }

    /// The same picture in another framing.
    pub(super) fn of_cut(self, cut: &'a Cut) -> Self {
        let Framing { ratio, widths, sizes, .. } = &cut.framing;
        let ratio = (ratio.width(), ratio.height());
        Self { picture: Picture { widths_px: widths, ratio, sizes, ..self.picture }, art: Some(&cut.name), ..self }
    }

    /// The URL of one candidate; no format means negotiated by `Accept`.
    pub(super) fn candidate(&self, width: impl std::fmt::Display, format: Option<Format>) -> String {
        let mut url = format!("{}?", self.picture.url);
        if !self.picture.query.is_empty() {
            url.push_str(self.picture.query);
            url.push('&');
        }
        if let Some(art) = self.art {
            url.push_str(&format!("{ART}={art}&"));
        }
        url.push_str(&format!("w={width}"));
        if let Some(format) = format {
            url.push_str("&fm=");
            url.push_str(format.extension());
        }
        if self.saving == SavingAsk::Client {
            url.push_str("&save-data=auto");
        }
        if let Some(version) = self.version {
            url.push_str("&v=");
            url.push_str(version);
        }
        match self.picture.seal {
            Some(seal) => seal.signed(&url),
            None => url,
        }
    }

    pub(super) fn srcset(&self, format: Option<Format>) -> String {
        let widths = self.picture.widths_px.iter();
        let candidates: Vec<_> = widths.map(|&width| format!("{} {width}w", self.candidate(width, format))).collect();
        candidates.join(", ")
    }

    pub(super) fn largest_px(&self) -> u32 {
        self.picture.widths_px.last().copied().unwrap_or(1)
    }

    pub(super) fn height_px(&self, width_px: u32) -> u32 {
        let (width, height) = self.picture.ratio;
        let scaled = (u64::from(width_px) * u64::from(height) * 2 + u64::from(width)) / (2 * u64::from(width.max(1)));
        u32::try_from(scaled.max(1)).unwrap_or(u32::MAX)
    }

    fn sources(&self) -> impl Iterator<Item = Format> {
        SOURCES.into_iter().filter(|format| self.picture.formats.contains(*format))
    }

    /// The best that the slot has.
    pub(super) fn best(&self) -> Format {
        self.sources().next().unwrap_or(Format::Jpeg)
    }

    /// The value of `sizes` beside a `srcset`. A lazy image is laid out before it is fetched, so browsers that know `auto` take the
    /// width it has there. Others skip the word and read the list behind it.
    fn sizes(&self) -> String {
        match self.picture.loading {
            Loading::Hero => self.picture.sizes.to_owned(),
            Loading::Lazy => format!("auto, {}", self.picture.sizes),
        }
    }

    /// Each cut's sources, JPEG too: an `<img>` has one framing only.
    fn cut_sources(&self) -> Markup {
        html! {
            @for cut in self.picture.cuts {
                @let framed = self.of_cut(cut);
                @for format in framed.sources().chain([Format::Jpeg]) {
                    source media=(cut.media) type=(format.media_type()) srcset=(framed.srcset(Some(format)))
                        sizes=(framed.sizes())
                        width=(framed.largest_px()) height=(framed.height_px(framed.largest_px()));
                }
            }
        }
    }

    /// `<picture>` with a source for each cut and each format above JPEG, and a JPEG `<img>`.
    pub(super) fn element(&self) -> Markup {
        let Self { picture, facts, .. } = self;
        let hero = picture.loading == Loading::Hero;
        let lqip = facts.lqip.map(|(_, lqip)| lqip);
        let style = facts.lqip.filter(|(place, _)| *place == LqipMarkup::Style);
        html! {
            picture data-variant=[facts.variant] data-recipe=[facts.recipe]
                data-prompt-version=[facts.prompt_version] data-seed=[facts.seed]
                data-average-colour=[lqip.map(|lqip| lqip.colour())]
                data-thumbhash=[lqip.map(|lqip| lqip.thumbhash())] {
                (self.cut_sources())
                @for format in self.sources() {
                    source type=(format.media_type()) srcset=(self.srcset(Some(format))) sizes=(self.sizes());
                }
                img src=(self.candidate(self.largest_px(), Some(Format::Jpeg)))
                    srcset=(self.srcset(Some(Format::Jpeg)))
                    sizes=(self.sizes())
                    width=(self.largest_px()) height=(self.height_px(self.largest_px()))
                    alt=(picture.alt)
                    style=[style.map(|(_, lqip)| format!("{BACKGROUND}{}", lqip.colour()))]
                    fetchpriority=[hero.then_some("high")]
                    loading=[(!hero).then_some("lazy")]
                    decoding=[(!hero).then_some("async")];
            }
        }
    }

    /// With its label, in a `<figure>`.
    pub(super) fn markup(&self) -> Markup {
        labelled(self.element(), self.picture.label)
    }

    /// The markup as text to copy into a page, one element a line.
    pub(super) fn markup_text(&self) -> String {
        let PreEscaped(text) = self.element();
        let lines =
            text.replace("<source", "\n  <source").replace("<img", "\n  <img").replace("</picture>", "\n</picture>");
        let Some(label) = self.picture.label else { return lines };
        let PreEscaped(caption) = caption(label);
        format!("<figure>\n  {}\n  {caption}\n</figure>", lines.replace('\n', "\n  "))
    }

    /// See [`Picture::hinted`].
    pub(super) fn hinted(&self) -> Markup {
        let Self { picture, .. } = self;
        let hero = picture.loading == Loading::Hero;
        let img = html! {
            img src=(self.candidate("auto", None))
                sizes=(picture.sizes)
                width=(self.largest_px()) height=(self.height_px(self.largest_px()))
                alt=(picture.alt)
                fetchpriority=[hero.then_some("high")]
                loading=[(!hero).then_some("lazy")];
        };
        labelled(img, picture.label)
    }

    /// The value of a `Link` header that preloads the best format; browsers that do not know it ignore it. With cuts it is a
    /// list, of which a browser follows one: each member's condition rules out those before it. `None` of a lazy image.
    pub(super) fn preload(&self) -> Option<String> {
        if self.picture.loading == Loading::Lazy {
            return None;
        }
        let conditions: Vec<&MediaCondition> = self.picture.cuts.iter().map(|cut| &cut.media).collect();
        let cuts = self
            .picture
            .cuts
            .iter()
            .enumerate()
            .map(|(place, cut)| self.of_cut(cut).preload_where(Some(cut.media.behind(&conditions[..place]))));
        let own = (!conditions.is_empty()).then(|| MediaCondition::none_of(&conditions));
        let links: Vec<String> = cuts.chain([self.preload_where(own)]).collect();
        Some(links.join(", "))
    }

    fn preload_where(&self, media: Option<String>) -> String {
        let best = self.best();
        let media = media.map(|media| format!("; media=\"{media}\"")).unwrap_or_default();
        format!(
            "<{}>; rel=preload; as=image; type=\"{}\"{media}; imagesrcset=\"{}\"; imagesizes=\"{}\"; fetchpriority=high",
            self.candidate(self.largest_px(), Some(best)),
            best.media_type(),
            self.srcset(Some(best)),
            self.picture.sizes,
        )
    }
}

impl Picture<'_> {
    /// The URL of one candidate; no format means negotiated by `Accept`.
    #[must_use]
    pub fn candidate(&self, width_px: u32, format: Option<Format>) -> String {
        Frame::plain(*self).candidate(width_px, format)
    }

    /// The same in a cut; `None` is the slot's own framing.
    #[must_use]
    pub fn candidate_of(&self, cut: Option<&Cut>, width_px: u32, format: Option<Format>) -> String {
        let frame = Frame::plain(*self);
        match cut {
            Some(cut) => frame.of_cut(cut).candidate(width_px, format),
            None => frame.candidate(width_px, format),
        }
    }

    /// `<picture>` with a source for each format above JPEG and a JPEG `<img>`; with a label, both in a `<figure>`.
    #[must_use]
    pub fn markup(&self) -> Markup {
        Frame::plain(*self).markup()
    }

    /// The same without its label, for pages of operators.
    #[must_use]
    pub fn picture(&self) -> Markup {
        Frame::plain(*self).element()
    }

    /// The same in a cut.
    #[must_use]
    pub fn picture_of(&self, cut: &Cut) -> Markup {
        Frame::plain(*self).of_cut(cut).element()
    }

    /// The markup as text to copy into a page, one element a line.
    #[must_use]
    pub fn markup_text(&self) -> String {
        Frame::plain(*self).markup_text()
    }

    /// One `<img>` whose width the client's hints choose: for pages that delegate them, see
    /// [`Delegation`](super::Delegation). Clients that send none get the slot's default width.
    #[must_use]
    pub fn hinted(&self) -> Markup {
        Frame::plain(*self).hinted()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::campaign::{LabelIcon, LabelShow};

    fn picture(loading: Loading) -> Picture<'static> {
        Picture {
            url: "https://img.example.com/i/studio/hero/teal-mug",
            query: "colour=teal&product=mug",
            widths_px: &[320, 640],
            formats: FormatSet::ALL,
            ratio: (4, 3),
            sizes: "(min-width: 50rem) 50vw, 100vw",
            alt: "A \"teal\" mug & <saucer>",
            loading,
            label: None,
            seal: None,
            cuts: &[],
        }
    }

    const LABEL: ShownLabel<'static> =
        ShownLabel { show: LabelShow::Text, icon: None, text: "Mit <KI> & \"Hand\"", locale: "de-DE" };

    fn labelled(label: ShownLabel<'static>) -> Picture<'static> {
        Picture { label: Some(label), ..picture(Loading::Lazy) }
    }

    #[test]
    fn a_label_stands_in_every_form_of_the_markup_escaped_and_with_its_language() {
        let picture = labelled(LABEL);
        let caption =
            "<figcaption class=\"bildkante-label\" lang=\"de-DE\">Mit &lt;KI&gt; &amp; &quot;Hand&quot;</figcaption>";
        for text in [picture.markup().0, picture.markup_text(), picture.hinted().0] {
            assert!(text.starts_with("<figure>") && text.ends_with("</figure>"), "{text}");
            assert_eq!(text.matches(caption).count(), 1, "{text}");
        }
        assert!(picture.markup_text().contains("\n  <picture>\n    <source"), "{}", picture.markup_text());
        assert!(!picture.picture().0.contains("figure"));
        for text in [self::picture(Loading::Lazy).markup().0, self::picture(Loading::Hero).hinted().0] {
            assert!(!text.contains("figure"), "{text}");
        }
    }

    #[test]
    fn an_icon_has_a_size_and_is_told_once() {
        let own = labelled(ShownLabel { show: LabelShow::Icon, ..LABEL }).markup().0;
        assert!(own.contains("role=\"img\" aria-label=\"Mit &lt;KI&gt; &amp; &quot;Hand&quot;\""), "{own}");
        assert!(own.contains("width=\"32\" height=\"20\"") && !own.contains("aria-hidden"), "{own}");
        let both = labelled(ShownLabel { show: LabelShow::IconAndText, ..LABEL }).markup().0;
        assert!(both.contains("aria-hidden=\"true\"") && !both.contains("aria-label"), "{both}");
        assert!(both.contains("</svg> Mit &lt;KI&gt;"), "{both}");
        static ICON: LabelIcon = LabelIcon { url: String::new(), width_px: 48, height_px: 24 };
        let foreign = labelled(ShownLabel { show: LabelShow::Icon, icon: Some(&ICON), ..LABEL }).markup().0;
        assert!(foreign.contains("width=\"48\" height=\"24\" alt=\"Mit &lt;KI&gt;"), "{foreign}");
    }

    #[test]
    fn candidates_are_escaped_and_carry_their_widths() {
        let PreEscaped(text) = picture(Loading::Lazy).markup();
        assert!(text.contains("colour=teal&amp;product=mug&amp;w=320&amp;fm=avif 320w"), "{text}");
        assert!(text.contains("alt=\"A &quot;teal&quot; mug &amp; &lt;saucer&gt;\""), "{text}");
        assert!(text.contains("width=\"640\" height=\"480\""), "{text}");
    }

    #[test]
    fn avif_stands_before_webp_and_jpeg_is_the_img() {
        let PreEscaped(text) = picture(Loading::Lazy).markup();
        let place = |needle: &str| text.find(needle).expect(needle);
        assert!(place("image/avif") < place("image/webp") && place("image/webp") < place("<img"));
        assert!(text[place("<img")..].contains("fm=jpg"));
    }

    #[test]
    fn a_hero_is_eager_and_the_rest_is_lazy() {
        let PreEscaped(hero) = picture(Loading::Hero).markup();
        assert!(hero.contains("fetchpriority=\"high\"") && !hero.contains("loading="));
        let PreEscaped(lazy) = picture(Loading::Lazy).markup();
        assert!(lazy.contains("loading=\"lazy\"") && !lazy.contains("fetchpriority"));
    }

    /// HTML allows `auto` at the start of `sizes`, of lazy images and of the sources before them alone.
    #[test]
    fn a_lazy_image_is_as_wide_as_its_layout_and_its_list_stays_for_browsers_without_auto() {
        let sizes = |text: &str| -> Vec<String> {
            let values = text.split(" sizes=\"").skip(1);
            values.map(|rest| rest.split('"').next().unwrap_or_default().to_owned()).collect()
        };
        let (lazy, hero) = (picture(Loading::Lazy), picture(Loading::Hero));
        assert_eq!(sizes(&lazy.markup().0), ["auto, (min-width: 50rem) 50vw, 100vw"; 3]);
        assert_eq!(sizes(&hero.markup().0), ["(min-width: 50rem) 50vw, 100vw"; 3]);
        assert_eq!(Frame::plain(lazy).preload(), None, "it would name another width");
        assert_eq!(sizes(&lazy.hinted().0), ["(min-width: 50rem) 50vw, 100vw"], "it has no list of candidates");
    }

    #[test]
    fn the_preload_names_one_type_and_all_its_widths() {
        let link = Frame::plain(picture(Loading::Hero)).preload().expect("a hero has one");
        assert!(link.starts_with('<') && link.contains("type=\"image/avif\"") && link.contains("640w"), "{link}");
        assert!(!link.contains("webp"));
    }

    #[test]
    fn a_hinted_image_leaves_its_width_to_the_client() {
        let PreEscaped(img) = picture(Loading::Hero).hinted();
        assert!(
            img.contains("colour=teal&amp;product=mug&amp;w=auto\"") && img.contains("sizes=\"(min-width"),
            "{img}"
        );
    }
}
