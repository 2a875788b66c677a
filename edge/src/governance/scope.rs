//! The scope of a purge order → the keys that are marked here, and the tags and the URL that caches further down are told.
//!
//! Invariant: of a URL or a variant, what is marked covers what any reader of it is answered with.

use super::marks::{PurgeKey, TagError};
use super::purge::cut_key;
use crate::campaign::Catalog;
use crate::render::RenditionSpec;
use crate::request::{IMAGE_PATH_PREFIX, after_host};
use crate::resolve::{Factor, Factors, Operator, Resolution, Resolved, resolve};
pub use crate::shared_state::PurgeScope;

/// Longest URL or variant.
pub const SCOPE_BYTES_MAX: usize = 8_192;

/// Why a scope names nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScopeError {
    #[error("it has more than {SCOPE_BYTES_MAX} bytes")]
    TooLong,
    #[error(transparent)]
    Tag(#[from] TagError),
    #[error("{0}")]
    Image(String),
}

impl PurgeScope {
    /// # Errors
    /// When it names no image of the catalogue, or is no tag.
    pub fn aim(&self, catalog: &Catalog, public_url: &str) -> Result<Aim, ScopeError> {
        match self {
            Self::Url(text) => {
                let (Resolution { resolved, want }, factors) = image(catalog, text)?;
                let url = Some(format!("{public_url}{}", after_host(text)));
                // Under `w=auto` a URL is a different rendition for each screen, under `save-data=auto` one for those who save data.
                let aim = if factors.contains(Factor::Hints) || factors.contains(Factor::SaveData) {
                    Aim::of_recipe(&resolved)?
                } else {
                    Aim::of_cut(&resolved, &want.spec)
                };
                Ok(Aim { url, ..aim })
            }
            Self::Variant(text) => {
                let text = text.trim_start_matches('/');
                let path =
                    if text.starts_with("i/") { format!("/{text}") } else { format!("{IMAGE_PATH_PREFIX}{text}") };
                Aim::of_recipe(&image(catalog, &path)?.0.resolved)
            }
            Self::Tag(text) => match text.parse()? {
                PurgeKey::Everything | PurgeKey::Cut(_) => Err(TagError::Form.into()),
                key => Ok(Aim::of_tag(key, None)),
            },
            Self::Campaign(name) => Ok(Aim::of_tag(format!("campaign:{name}").parse()?, Some(name.clone()))),
            Self::Everything => Ok(Aim { keys: vec![PurgeKey::Everything], ..Aim::default() }),
            // Only kills and decisions order these, and say themselves what is told further down.
            Self::Kill(_) | Self::Review(_) => Err(TagError::Form.into()),
        }
    }
}

/// What a scope comes down to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Aim {
    pub keys: Vec<PurgeKey>,
    pub campaign: Option<String>,
    /// For caches further down: at least what is purged here; empty for everything.
    pub tags: Vec<String>,
    pub url: Option<String>,
}

impl Aim {
    fn of_tag(key: PurgeKey, campaign: Option<String>) -> Self {
        Self { tags: vec![key.to_string()], keys: vec![key], campaign, url: None }
    }

    /// Every rendition of a variant.
    fn of_recipe(resolved: &Resolved) -> Result<Self, ScopeError> {
        let tag = format!("recipe:{}", resolved.variant.recipe.id());
        Ok(Self::of_tag(tag.parse()?, Some(resolved.campaign.name.clone())))
    }

    /// Downstream every spelling of the URL has an entry of its own: the recipe's tag finds them all.
    fn of_cut(resolved: &Resolved, spec: &RenditionSpec) -> Self {
        let recipe = resolved.variant.recipe.id();
        let formats =
            if resolved.format.is_negotiable() { resolved.slot.formats.iter().collect() } else { vec![spec.format] };
        let keys = formats.into_iter().map(|format| PurgeKey::Cut(cut_key(recipe, &RenditionSpec { format, ..*spec })));
        Self {
            keys: keys.collect(),
            campaign: Some(resolved.campaign.name.clone()),
            tags: vec![format!("recipe:{recipe}")],
            url: None,
        }
    }
}

/// What a URL names, and what the answer depends on.
fn image(catalog: &Catalog, url: &str) -> Result<(Resolution, Factors), ScopeError> {
    if url.len() > SCOPE_BYTES_MAX {
        return Err(ScopeError::TooLong);
    }
    let trace = resolve(catalog, url, &Operator);
    let factors = trace.factors;
    trace.outcome.map(|resolution| (resolution, factors)).map_err(|refusal| ScopeError::Image(refusal.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::governance::testing::catalog;

    const PUBLIC: &str = "https://img.example.com";

    fn aim(scope: PurgeScope) -> Result<Aim, ScopeError> {
        scope.aim(&catalog(), PUBLIC)
    }

    #[test]
    fn a_url_is_each_of_its_formats_and_every_spelling_is_one() {
        let of = |url: &str| aim(PurgeScope::Url(url.to_owned())).unwrap();
        let one = of("/i/studio/hero?product=mug&colour=teal&w=640");
        assert_eq!(one.keys.len(), 4, "{one:?}");
        assert_eq!(one.campaign.as_deref(), Some("studio"));
        assert!(one.tags[0].starts_with("recipe:"));
        let other = of("https://cdn.example.com/i/studio/hero/slug?colour=teal&product=mug&w=640&utm_source=x");
        assert_eq!(one.keys, other.keys);
        let url = "https://img.example.com/i/studio/hero/slug?colour=teal&product=mug&w=640&utm_source=x";
        assert_eq!(other.url.as_deref(), Some(url));
        assert_eq!(of("/i/studio/hero?product=mug&colour=teal&w=640&fm=avif").keys.len(), 1);
        assert_ne!(of("/i/studio/hero?product=mug&colour=teal&w=320").keys, one.keys);
        let by_screen = of("/i/studio/hero?product=mug&colour=teal&w=auto");
        assert_eq!(by_screen.keys[0].to_string(), one.tags[0], "each screen's rendition of it");
        assert!(by_screen.url.is_some_and(|url| url.ends_with("w=auto")));
    }

    #[test]
    fn a_variant_is_its_recipe() {
        let bare = aim(PurgeScope::Variant("studio/hero?product=mug&colour=teal".to_owned())).unwrap();
        let path = aim(PurgeScope::Variant("/i/studio/hero?product=mug&colour=teal&w=640".to_owned())).unwrap();
        assert_eq!(bare, path);
        assert_eq!(bare.keys[0].to_string(), bare.tags[0]);
    }

    #[test]
    fn what_names_nothing_says_why() {
        let refused = |scope| aim(scope).unwrap_err().to_string();
        assert!(refused(PurgeScope::Url("/i/studio/hero?product=car".to_owned())).contains("car"));
        assert!(refused(PurgeScope::Variant("nobody/hero".to_owned())).contains("nobody"));
        assert!(refused(PurgeScope::Url("x".repeat(9_000))).contains("bytes"));
        for tag in ["*", "cut:00000000000000000000000000", "colour:teal"] {
            assert!(refused(PurgeScope::Tag(tag.to_owned())).contains("campaign:NAME"), "{tag}");
        }
        // A campaign that was taken down may still be in caches.
        assert_eq!(aim(PurgeScope::Campaign("gone-2025".to_owned())).unwrap().tags, ["campaign:gone-2025"]);
        assert!(aim(PurgeScope::Everything).unwrap().tags.is_empty());
    }
}
