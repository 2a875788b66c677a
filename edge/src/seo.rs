//! Markup that leaves the house: what pages, mails, shared links and search engines say of a picture.
//!
//! ```text
//! resolve ─▶ Resolved ┐
//! gate, bindings ─▶ Shown ├─▶ Placement ─▶ <picture>, preload, JSON-LD, Open Graph, mail, JSON
//! public URL, seal ─▶ Place ┘
//! ```
//!
//! | module | owns |
//! | --- | --- |
//! | `shown` | what readers of a variant see now |
//! | `placement` | one variant at its place in a page: the model that every form is made of |
//! | `picture`, `label` | `<picture>`, preload, the visible label |
//! | `formats` | which formats are worth a source |
//! | `page`, `structured` | what a page is about; JSON-LD |
//! | `sharing` | Open Graph, Twitter's cards, mails |
//! | `document` | the model as JSON |
//! | `snippets`, `jsx` | the model for other systems: React, Next.js, Astro, WordPress, a shell |
//! | `delegation` | client hints for images of another origin |
//! | `desk` | answers `/p/{campaign}/{slot}` |
//! | `sitemap` | `/sitemap.xml` and its files |
//!
//! Invariants: nothing here draws, renders or fetches; what is not live is described to no search engine; every text of a
//! manifest is escaped for the language that it stands in.

mod config;
mod delegation;
mod desk;
mod document;
mod formats;
mod jsx;
mod label;
mod page;
mod picture;
mod placement;
mod sharing;
mod shown;
mod sitemap;
mod snippets;
mod structured;

pub use config::SeoConfig;
pub use delegation::Delegation;
pub use desk::{MarkupDesk, MarkupMetrics, NoMarkup};
pub use page::{About, Page};
pub use picture::{Loading, Picture, PictureFacts};
pub use placement::{Place, Placement, Tag};
pub use shown::{Showing, Shown};
pub use sitemap::{SITEMAP_PARTS_PREFIX, SITEMAP_PATH, SitemapMetrics, SitemapParts, Sitemaps};
pub use snippets::SnippetKind;

#[cfg(test)]
mod judged;
#[cfg(test)]
mod tests;
