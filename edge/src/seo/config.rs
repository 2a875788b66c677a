//! `[seo]`: what search engines are offered.

use serde::Deserialize;

/// See the module's documentation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SeoConfig {
    /// Whether `/sitemap.xml` lists the pictures that are live. Off by default: it tells everybody of every picture, those of
    /// campaigns that no page links yet among them.
    pub sitemap: bool,
}
