//! Markup for pages: `<picture>` with responsive candidates, the visible label beside it, and the preload that goes with it.
//!
//! Sources: HTML Living Standard (`picture`, `srcset`, `sizes`, `fetchpriority`, `loading`), RFC 8288 (`Link`),
//! web.dev/articles/preload-responsive-images; for hints RFC 8942, Permissions Policy and Client Hints Infrastructure
//! (`Delegate-CH`).
//!
//! Invariants: width and height are always written, so that nothing shifts (CLS); formats stand best first; a hero
//! loads eagerly and with high priority, everything else lazily. A label is text or a picture with a text in the reader's
//! language, is there without a script or a style sheet, and stands in every form of the markup.

use bildkante_shared::urgency::Urgency;
use maud::{Markup, PreEscaped, html};

use crate::campaign::{LabelIcon, LabelShow, ShownLabel};
use crate::request::hints::ACCEPT_CH;
use crate::signing::Seal;
use crate::words::Format;

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

/// One image of a page at all its widths.
#[derive(Debug, Clone, Copy)]
pub struct Picture<'a> {
    /// Absolute URL without its query.
    pub url: &'a str,
    /// Canonical axis values (`colour=teal&product=mug`), or empty.
    pub query: &'a str,
    /// Ladder, ascending, CSS pixels.
    pub widths_px: &'a [u32],
    /// Intrinsic ratio as width and height.
    pub ratio: (u32, u32),
    pub sizes: &'a str,
    pub alt: &'a str,
    pub loading: Loading,
    /// What is shown beside it.
    pub label: Option<ShownLabel<'a>>,
    /// Signs every URL, where the campaign answers no others.
    pub seal: Option<&'a Seal>,
}

/// Formats offered as sources, best first; JPEG is the `<img>`.
const SOURCES: [Format; 2] = [Format::Avif, Format::Webp];

impl Picture<'_> {
    /// The URL of one candidate; no format means negotiated by `Accept`.
    #[must_use]
    pub fn candidate(&self, width_px: u32, format: Option<Format>) -> String {
        let mut url = format!("{}?", self.url);
        if !self.query.is_empty() {
            url.push_str(self.query);
            url.push('&');
        }
        url.push_str(&format!("w={width_px}"));
        if let Some(format) = format {
            url.push_str("&fm=");
            url.push_str(format.extension());
        }
        self.sealed(url)
    }

    fn sealed(&self, url: String) -> String {
        match self.seal {
            Some(seal) => seal.signed(&url),
            None => url,
        }
    }

    fn srcset(&self, format: Option<Format>) -> String {
        let candidates: Vec<_> =
            self.widths_px.iter().map(|&width| format!("{} {width}w", self.candidate(width, format))).collect();
        candidates.join(", ")
    }

    fn largest_px(&self) -> u32 {
        self.widths_px.last().copied().unwrap_or(1)
    }

    fn height_px(&self) -> u32 {
        let (width, height) = self.ratio;
        let scaled = u64::from(self.largest_px()) * u64::from(height) / u64::from(width.max(1));
        u32::try_from(scaled.max(1)).unwrap_or(u32::MAX)
    }

    /// `<picture>` with an AVIF and a WebP source and a JPEG `<img>`; with a label, both in a `<figure>`.
    #[must_use]
    pub fn markup(&self) -> Markup {
        self.labelled(&self.picture())
    }

    /// The same without its label, for pages of operators.
    #[must_use]
    pub fn picture(&self) -> Markup {
        let hero = self.loading == Loading::Hero;
        html! {
            picture {
                @for format in SOURCES {
                    source type=(format.media_type()) srcset=(self.srcset(Some(format))) sizes=(self.sizes);
                }
                img src=(self.candidate(self.largest_px(), Some(Format::Jpeg)))
                    srcset=(self.srcset(Some(Format::Jpeg)))
                    sizes=(self.sizes)
                    width=(self.largest_px()) height=(self.height_px())
                    alt=(self.alt)
                    fetchpriority=[hero.then_some("high")]
                    loading=[(!hero).then_some("lazy")]
                    decoding=[(!hero).then_some("async")];
            }
        }
    }

    /// The markup as text to copy into a page, one element a line.
    #[must_use]
    pub fn markup_text(&self) -> String {
        let PreEscaped(text) = self.picture();
        let lines =
            text.replace("<source", "\n  <source").replace("<img", "\n  <img").replace("</picture>", "\n</picture>");
        let Some(label) = self.label else { return lines };
        let PreEscaped(caption) = caption(label);
        format!("<figure>\n  {}\n  {caption}\n</figure>", lines.replace('\n', "\n  "))
    }

    fn labelled(&self, picture: &Markup) -> Markup {
        match self.label {
            Some(label) => html! { figure { (picture) (caption(label)) } },
            None => picture.clone(),
        }
    }

    /// One `<img>` whose width the client's hints choose: for pages that delegate them, see [`Delegation`]. Clients that
    /// send none get the slot's default width.
    #[must_use]
    pub fn hinted(&self) -> Markup {
        let hero = self.loading == Loading::Hero;
        let query = if self.query.is_empty() { String::new() } else { format!("{}&", self.query) };
        self.labelled(&html! {
            img src=(self.sealed(format!("{}?{query}w=auto", self.url)))
                sizes=(self.sizes)
                width=(self.largest_px()) height=(self.height_px())
                alt=(self.alt)
                fetchpriority=[hero.then_some("high")]
                loading=[(!hero).then_some("lazy")];
        })
    }

    /// The value of a `Link` header that preloads the best format; browsers that do not know it ignore it.
    #[must_use]
    pub fn preload(&self) -> String {
        format!(
            "<{}>; rel=preload; as=image; type=\"{}\"; imagesrcset=\"{}\"; imagesizes=\"{}\"; fetchpriority=high",
            self.candidate(self.largest_px(), Some(Format::Avif)),
            Format::Avif.media_type(),
            self.srcset(Some(Format::Avif)),
            self.sizes,
        )
    }
}

/// In the language of its readers, whatever the page's is.
fn caption(label: ShownLabel<'_>) -> Markup {
    let has_text = label.show != LabelShow::Icon;
    html! {
        figcaption.bildkante-label lang=(label.locale) {
            @if label.show.has_icon() { (icon(label, has_text)) }
            @if has_text { @if label.show.has_icon() { " " } (label.text) }
        }
    }
}

/// Where the text stands beside it, the icon says nothing to those who do not see it.
fn icon(label: ShownLabel<'_>, is_decoration: bool) -> Markup {
    match label.icon {
        Some(LabelIcon { url, width_px, height_px }) => html! {
            img src=(url) width=(width_px) height=(height_px) alt=(if is_decoration { "" } else { label.text });
        },
        None => badge(label, is_decoration),
    }
}

/// The letters AI in strokes: no font is needed. Black on white and edged in black, it stands out on any ground.
fn badge(label: ShownLabel<'_>, is_decoration: bool) -> Markup {
    const LETTERS: &str = "M8 15l4.5-10h1L18 15M9.6 11.5h6.8M24 5v10";
    html! {
        svg xmlns="http://www.w3.org/2000/svg" width="32" height="20" viewBox="0 0 32 20"
            role=[(!is_decoration).then_some("img")] aria-label=[(!is_decoration).then_some(label.text)]
            aria-hidden=[is_decoration.then_some("true")] {
            rect x="1" y="1" width="30" height="18" rx="4" fill="#fff" stroke="#000" stroke-width="2" {}
            path d=(LETTERS) fill="none" stroke="#000" stroke-width="2" stroke-linecap="round" stroke-linejoin="round" {}
        }
    }
}

/// What a page says so that browsers give hints to the images of another origin, which they do not by themselves.
#[derive(Debug, Clone, Copy)]
pub struct Delegation<'a> {
    /// Where the images are: `https://img.example.com`.
    pub origin: &'a str,
}

impl Delegation<'_> {
    /// In the page's `<head>`: asks for the hints and delegates them in one.
    #[must_use]
    pub fn meta(&self) -> Markup {
        let hints: Vec<_> =
            ACCEPT_CH.split(", ").map(|hint| format!("{} {}", hint.to_ascii_lowercase(), self.origin)).collect();
        html! { meta http-equiv="Delegate-CH" content=(hints.join("; ")); }
    }

    /// The same as headers of the page: `Accept-CH` and `Permissions-Policy`.
    #[must_use]
    pub fn headers(&self) -> [(&'static str, String); 2] {
        let feature = |hint: &str| {
            let name = hint.to_ascii_lowercase();
            format!("{}=(self \"{}\")", name.trim_start_matches("sec-"), self.origin)
        };
        let features: Vec<_> = ACCEPT_CH.split(", ").map(feature).collect();
        [("Accept-CH", ACCEPT_CH.to_owned()), ("Permissions-Policy", features.join(", "))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(loading: Loading) -> Picture<'static> {
        Picture {
            url: "https://img.example.com/i/studio/hero/teal-mug",
            query: "colour=teal&product=mug",
            widths_px: &[320, 640],
            ratio: (4, 3),
            sizes: "(min-width: 50rem) 50vw, 100vw",
            alt: "A \"teal\" mug & <saucer>",
            loading,
            label: None,
            seal: None,
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

    #[test]
    fn the_preload_names_one_type_and_all_its_widths() {
        let link = picture(Loading::Hero).preload();
        assert!(link.starts_with('<') && link.contains("type=\"image/avif\"") && link.contains("640w"), "{link}");
        assert!(!link.contains("webp"));
    }

    #[test]
    fn a_page_delegates_every_hint_it_is_asked_for() {
        let delegation = Delegation { origin: "https://img.example.com" };
        let PreEscaped(meta) = delegation.meta();
        assert_eq!(
            meta,
            "<meta http-equiv=\"Delegate-CH\" content=\"sec-ch-width https://img.example.com; \
             sec-ch-dpr https://img.example.com; sec-ch-viewport-width https://img.example.com\">"
        );
        let [(_, accept_ch), (_, policy)] = delegation.headers();
        assert_eq!(accept_ch, "Sec-CH-Width, Sec-CH-DPR, Sec-CH-Viewport-Width");
        assert_eq!(
            policy,
            "ch-width=(self \"https://img.example.com\"), ch-dpr=(self \"https://img.example.com\"), \
             ch-viewport-width=(self \"https://img.example.com\")"
        );
        let PreEscaped(img) = picture(Loading::Hero).hinted();
        assert!(
            img.contains("colour=teal&amp;product=mug&amp;w=auto\"") && img.contains("sizes=\"(min-width"),
            "{img}"
        );
    }
}
