//! `pages`: where a slot's pictures stand, as addresses with axes in them, for sitemaps and structured data.
//!
//! A placeholder stands for the name of the chosen value (`de-DE`, `mug`), which is the same in every locale and needs no
//! escaping in a URL. A page shows the variant of its own values with every other axis at its default.

use http::Uri;

use super::axes::{self, Axis};
use super::generate::{GenerateReader, link};
use super::reader::{TableReader, Text};
use super::template::{Part, Placeholder, Template};

/// Most kinds of pages of a slot.
pub const PAGES_MAX: usize = 16;
/// Longest address, as a template: with values filled in it stays within the 2,048 characters that sitemaps allow.
const PAGE_BYTES_MAX: usize = 500;
/// Longest address of a sitemap (sitemaps.org).
const LOCATION_BYTES_MAX: usize = 2_047;

/// The address of a kind of pages: `https://shop.example/{locale}/{product}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageTemplate {
    template: Template,
}

impl PageTemplate {
    /// The address of one page; one index per axis.
    #[must_use]
    pub fn address(&self, axes: &[Axis], values: &[usize]) -> String {
        let parts = self.template.parts().iter().map(|part| match part {
            Part::Literal(literal) => literal.as_str(),
            Part::Axis(axis) => axes[*axis].values[values[*axis]].name.as_str(),
        });
        parts.collect()
    }

    #[must_use]
    pub fn uses_axis(&self, axis: usize) -> bool {
        self.template.uses_axis(axis)
    }
}

/// Reads a slot's `pages`.
pub(crate) fn read(table: &TableReader<'_, '_>, generate: &GenerateReader<'_, '_, '_>) -> Vec<PageTemplate> {
    let texts = table.texts("pages", PAGES_MAX).unwrap_or_default();
    let mut pages: Vec<PageTemplate> = Vec::with_capacity(texts.len());
    for text in &texts {
        let Some(page) = read_page(table, text, generate) else { continue };
        if pages.contains(&page) {
            table.fault(&text.span, format!("`{}` stands twice in `pages`", text.value));
        } else {
            pages.push(page);
        }
    }
    pages
}

fn read_page(
    table: &TableReader<'_, '_>,
    text: &Text<'_>,
    generate: &GenerateReader<'_, '_, '_>,
) -> Option<PageTemplate> {
    let template = Template::parse(text.value, |placeholder| match placeholder {
        Placeholder::Axis(name) => axes::named(generate.axes, name).map(Part::Axis),
        Placeholder::Style(_) | Placeholder::Block(_) => Err("addresses of pages know axes only".to_owned()),
    });
    let template = link(table, text, template)?;
    if let Err(reason) = check(text.value, &template, generate) {
        table.fault(&text.span, reason);
        return None;
    }
    Some(PageTemplate { template })
}

/// The longest address that the template makes has to be one of a page.
fn check(text: &str, template: &Template, generate: &GenerateReader<'_, '_, '_>) -> Result<(), String> {
    let wrong = |reason: &str| Err(format!("`{text}` is no address of pages: {reason}"));
    if text.len() > PAGE_BYTES_MAX {
        return wrong(&format!("it has {} bytes, at most {PAGE_BYTES_MAX}", text.len()));
    }
    let longest = |axis: usize| {
        let names = generate.axes[axis].axis.values.iter().map(|value| value.name.as_str());
        names.max_by_key(|name| name.len()).unwrap_or("x")
    };
    let address: String = template
        .parts()
        .iter()
        .map(|part| match part {
            Part::Literal(literal) => literal.as_str(),
            Part::Axis(axis) => longest(*axis),
        })
        .collect();
    if address.len() > LOCATION_BYTES_MAX {
        return wrong(&format!("with values filled in it has more than {LOCATION_BYTES_MAX} bytes"));
    }
    if !address.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"'<>\\^`|#".contains(&byte)) {
        return wrong("it holds a character that a URL has percent-encoded, or a fragment");
    }
    let is_page = address.parse::<Uri>().is_ok_and(|uri| {
        matches!(uri.scheme_str(), Some("https" | "http")) && uri.authority().is_some_and(|it| !it.host().is_empty())
    });
    if is_page { Ok(()) } else { wrong("it starts with https:// and a host") }
}
