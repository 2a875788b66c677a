//! `schema`: what a page that shows a slot is about, for the structured data around the picture (schema.org).
//!
//! A product has a name and may have a description, a brand and a number; an article has a headline and may have an author, a
//! publisher and a date. Prices and stock are the shop's, not a campaign's.

use http::Uri;

use super::axes::{self, Axis};
use super::generate::{GenerateReader, link};
use super::manifest::checked_text;
use super::reader::{TableReader, no_hint};
use super::template::{Part, Placeholder, Template};
use super::wording::{self, Wording};

/// Longest number of a product, as a template.
const SKU_BYTES_MAX: usize = 200;

/// What a page is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PageData {
    Product(ProductData),
    Article(ArticleData),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProductData {
    pub name: Wording,
    pub description: Wording,
    pub brand: Option<String>,
    pub sku: Option<Sku>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArticleData {
    pub headline: Wording,
    pub description: Wording,
    pub author: Option<Author>,
    pub publisher: Option<String>,
    /// A day or a moment as RFC 3339 writes it: `2026-11-29`.
    pub date_published: Option<String>,
}

/// Who wrote an article.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Author {
    pub name: String,
    /// A page about the author.
    pub url: Option<String>,
}

/// A product's number, made of the names of axis values: `{product}-{colour}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sku(Template);

impl Sku {
    /// One index per axis.
    #[must_use]
    pub fn of(&self, axes: &[Axis], values: &[usize]) -> String {
        self.0.render(|axis| &axes[axis].values[values[axis]].name)
    }
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Product,
    Article,
}

/// Reads a slot's `schema`.
pub(crate) fn read(
    slot: &TableReader<'_, '_>,
    generate: &GenerateReader<'_, '_, '_>,
    locales: &[String],
) -> Option<PageData> {
    let table = slot.table("schema")?;
    if !table.has("type") {
        table.missing("type", "`schema.type` is missing: product or article");
    }
    let kind = table.choice("type", &[("product", Kind::Product), ("article", Kind::Article)]);
    let data = kind.map(|kind| match kind {
        Kind::Product => PageData::Product(read_product(&table, generate, locales)),
        Kind::Article => PageData::Article(read_article(&table, generate, locales)),
    });
    match kind {
        Some(_) => table.finish(no_hint),
        // Which keys it takes depends on what it is.
        None => table.finish(|_| Some("which keys there are depends on `type`".to_owned())),
    }
    data
}

fn read_product(table: &TableReader<'_, '_>, generate: &GenerateReader<'_, '_, '_>, locales: &[String]) -> ProductData {
    if !table.has("name") {
        table.missing("name", "`schema.name` is missing: what the product is called, by locale");
    }
    ProductData {
        name: wording::read(table, "name", "the name of a product", generate, locales),
        description: wording::read(table, "description", "the description of a product", generate, locales),
        brand: text(table, "brand"),
        sku: read_sku(table, generate),
    }
}

fn read_article(table: &TableReader<'_, '_>, generate: &GenerateReader<'_, '_, '_>, locales: &[String]) -> ArticleData {
    if !table.has("headline") {
        table.missing("headline", "`schema.headline` is missing: the headline of the article, by locale");
    }
    ArticleData {
        headline: wording::read(table, "headline", "a headline", generate, locales),
        description: wording::read(table, "description", "the description of an article", generate, locales),
        author: read_author(table),
        publisher: text(table, "publisher"),
        date_published: table.date("date_published"),
    }
}

fn text(table: &TableReader<'_, '_>, key: &'static str) -> Option<String> {
    checked_text(table, &table.text(key)?).filter(|text| !text.is_empty())
}

fn read_author(table: &TableReader<'_, '_>) -> Option<Author> {
    let url = web_address(table, "author_url");
    let Some(name) = text(table, "author") else {
        if table.has("author_url") {
            table.fault(table.span(), "`author_url` is the page of `author`, which is missing");
        }
        return None;
    };
    Some(Author { name, url })
}

/// An absolute address on the web.
pub(crate) fn web_address(table: &TableReader<'_, '_>, key: &'static str) -> Option<String> {
    let address = table.text(key)?;
    let is_address = address.value.parse::<Uri>().is_ok_and(|uri| {
        matches!(uri.scheme_str(), Some("https" | "http")) && uri.authority().is_some_and(|it| !it.host().is_empty())
    });
    if address.value.len() <= super::wording::WORDING_BYTES_MAX && is_address {
        return Some(address.value.to_owned());
    }
    table.fault(&address.span, format!("`{key}` is a URL that starts with https://"));
    None
}

fn read_sku(table: &TableReader<'_, '_>, generate: &GenerateReader<'_, '_, '_>) -> Option<Sku> {
    let sku = table.text("sku")?;
    if sku.value.trim().is_empty() || sku.value.len() > SKU_BYTES_MAX {
        table.fault(&sku.span, format!("`sku` has 1 to {SKU_BYTES_MAX} bytes"));
        return None;
    }
    let template = Template::parse(sku.value, |placeholder| match placeholder {
        Placeholder::Axis(name) => axes::named(generate.axes, name).map(Part::Axis),
        Placeholder::Style(_) | Placeholder::Block(_) => Err("`sku` knows axes only".to_owned()),
    });
    link(table, &sku, template).map(Sku)
}
