//! The visible label beside a picture: a caption with an icon, a text or both.
//!
//! Invariant: a label is text or a picture with a text in the reader's language, and is there without a script or a style sheet.

use maud::{Markup, html};

use crate::campaign::{LabelIcon, LabelShow, ShownLabel};

/// The picture with its label below it; the picture alone where it has none.
pub(super) fn labelled(picture: Markup, label: Option<ShownLabel<'_>>) -> Markup {
    match label {
        Some(label) => html! { figure { (picture) (caption(label)) } },
        None => picture,
    }
}

/// In the language of its readers, whatever the page's is.
pub(super) fn caption(label: ShownLabel<'_>) -> Markup {
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
