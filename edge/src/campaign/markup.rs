//! What a slot says for markup alone, beside its label: texts of the picture, the pages it stands on, what they are about.
//!
//! Invariant: nothing here changes a pixel, a recipe, a version or the key of a rendition.

use super::generate::GenerateReader;
use super::names::is_name;
use super::page_data::{self, PageData};
use super::pages::{self, PageTemplate};
use super::reader::TableReader;
use super::wording::{self, Wording};

/// What the picture is to readers who do not see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Alternative {
    /// A text by locale.
    Text(Wording),
    /// Nothing: it decorates, and its alt text is empty on purpose.
    Decorative,
}

impl Default for Alternative {
    fn default() -> Self {
        Self::Text(Wording::default())
    }
}

/// See the module's documentation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SlotMarkup {
    pub alternative: Alternative,
    /// Shown below the picture or told with it; may be empty.
    pub caption: Wording,
    pub pages: Vec<PageTemplate>,
    pub page_data: Option<PageData>,
    /// Through which the picture reaches readers: `shop`, `newsletter`, `social`.
    pub channel: Option<String>,
}

/// Reads a slot's keys.
pub(crate) fn read(
    slot: &TableReader<'_, '_>,
    generate: &GenerateReader<'_, '_, '_>,
    locales: &[String],
) -> SlotMarkup {
    SlotMarkup {
        alternative: read_alternative(slot, generate, locales),
        caption: wording::read(slot, "caption", "a caption", generate, locales),
        pages: pages::read(slot, generate),
        page_data: page_data::read(slot, generate, locales),
        channel: read_channel(slot),
    }
}

fn read_alternative(
    slot: &TableReader<'_, '_>,
    generate: &GenerateReader<'_, '_, '_>,
    locales: &[String],
) -> Alternative {
    let is_decorative = slot.flag("decorative").unwrap_or(false);
    let alt = wording::read(slot, "alt", "an alt text", generate, locales);
    if is_decorative {
        if slot.has("alt") {
            slot.fault(slot.span(), "a picture with `decorative = true` has no `alt`");
        }
        return Alternative::Decorative;
    }
    if !slot.has("alt") {
        slot.missing("alt", "`alt` is missing: the text for readers who do not see the image, by locale");
    }
    Alternative::Text(alt)
}

fn read_channel(slot: &TableReader<'_, '_>) -> Option<String> {
    let channel = slot.text("channel")?;
    if is_name(channel.value) {
        return Some(channel.value.to_owned());
    }
    slot.fault(&channel.span, format!("`{}` is no name; names are a-z, 0-9 and -", channel.value));
    None
}
