//! Markup for those who show a page elsewhere: Open Graph and Twitter's cards for its head, and a picture for mails.
//!
//! Sources: ogp.me, Twitter's *Summary card with large image*. Mail programs know no `srcset`, few formats and no lazy loading, and
//! their readers see the first frame only: one JPEG of a fixed width, its source twice as wide for dense screens.

use maud::{Markup, html};

use super::placement::Placement;
use crate::campaign::LabelShow;
use crate::words::Format;

/// Width that previews of shared pages ask for, in pixels.
const CARD_WIDTH_PX: u32 = 1_200;
/// Width of the column that mails are made for, in CSS pixels.
const MAIL_WIDTH_PX: u32 = 600;

impl Placement {
    /// Elements of the page's head, one a line.
    #[must_use]
    pub fn meta(&self) -> String {
        let width_px = self.rung_px(CARD_WIDTH_PX);
        let image = self.candidate(width_px, Some(Format::Jpeg));
        let (width, height) = (width_px.to_string(), self.height_px(width_px).to_string());
        let alt = (!self.alt.is_empty()).then_some(self.alt.as_str());
        let (title, description) = (self.page.title(), self.page.description());
        let locale = self.locale.replace('-', "_");
        let of_page = |name| Named { attribute: "property", name };
        let of_card = |name| Named { attribute: "name", name };
        let all = [
            (of_page("og:title"), title),
            (of_page("og:description"), description),
            (of_page("og:url"), self.page.address.as_deref()),
            (of_page("og:locale"), Some(locale.as_str())),
            (of_page("og:image"), Some(image.as_str())),
            (of_page("og:image:type"), Some(Format::Jpeg.media_type())),
            (of_page("og:image:width"), Some(width.as_str())),
            (of_page("og:image:height"), Some(height.as_str())),
            (of_page("og:image:alt"), alt),
            (of_card("twitter:card"), Some("summary_large_image")),
            (of_card("twitter:title"), title),
            (of_card("twitter:description"), description),
            (of_card("twitter:image"), Some(image.as_str())),
            (of_card("twitter:image:alt"), alt),
        ];
        let lines = all.into_iter().filter_map(|(named, content)| Some(named.element(content?).0));
        lines.collect::<Vec<_>>().join("\n")
    }

    /// A picture for mails, with the text of its label below it.
    #[must_use]
    pub fn mail(&self) -> String {
        let width_px = MAIL_WIDTH_PX.min(self.largest_px());
        let source = self.candidate(self.rung_px(width_px * 2), Some(Format::Jpeg));
        let label = self.label().filter(|label| label.show != LabelShow::None);
        let markup = html! {
            img src=(source) width=(width_px) height=(self.height_px(width_px)) alt=(self.alt)
                style="display:block;border:0;width:100%;height:auto;max-width:600px";
            @if let Some(label) = label {
                p lang=(label.locale) style="margin:4px 0 0;font:12px/1.4 Arial,sans-serif;color:#333333" { (label.text) }
            }
        };
        markup.0
    }
}

/// The attribute that says what a `<meta>` is about, and what it says.
#[derive(Clone, Copy)]
struct Named {
    attribute: &'static str,
    name: &'static str,
}

impl Named {
    fn element(self, content: &str) -> Markup {
        match self.attribute {
            "property" => html! { meta property=(self.name) content=(content); },
            _ => html! { meta name=(self.name) content=(content); },
        }
    }
}
