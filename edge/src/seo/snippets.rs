//! What is handed over to those who build pages, by the system that they build them with.
//!
//! Invariant: every snippet is made of the placement's own forms, and text is escaped for the language it stands in.

use maud::PreEscaped;

use super::delegation::Delegation;
use super::placement::Placement;
use crate::request::IMAGE_PATH_PREFIX;

/// Where a snippet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SnippetKind {
    /// Into a page's body.
    Html,
    /// The same with a width that the client's hints choose, and what delegates them.
    Hinted,
    /// The value of a `Link` field.
    Preload,
    /// An interim response with that field.
    EarlyHints,
    /// A script element with structured data.
    JsonLd,
    /// Into a page's head.
    Meta,
    /// Into a mail.
    Mail,
    React,
    Next,
    Astro,
    /// A block of WordPress' editor, pasted in its code view.
    WordPress,
    /// A command that fetches the picture.
    Curl,
    /// What the picture is made of.
    Recipe,
}

impl SnippetKind {
    pub const ALL: [Self; 13] = [
        Self::Html,
        Self::Hinted,
        Self::Preload,
        Self::EarlyHints,
        Self::JsonLd,
        Self::Meta,
        Self::Mail,
        Self::React,
        Self::Next,
        Self::Astro,
        Self::WordPress,
        Self::Curl,
        Self::Recipe,
    ];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Html => "html",
            Self::Hinted => "hinted",
            Self::Preload => "preload",
            Self::EarlyHints => "early-hints",
            Self::JsonLd => "jsonld",
            Self::Meta => "meta",
            Self::Mail => "mail",
            Self::React => "react",
            Self::Next => "next",
            Self::Astro => "astro",
            Self::WordPress => "wordpress",
            Self::Curl => "curl",
            Self::Recipe => "recipe",
        }
    }
}

impl Placement {
    /// The text to copy; `None` where there is nothing to say, such as structured data of what is not live.
    #[must_use]
    pub fn snippet(&self, kind: SnippetKind) -> Option<String> {
        Some(match kind {
            SnippetKind::Html => self.markup(),
            SnippetKind::Hinted => self.hinted(),
            SnippetKind::Preload => return self.preload(),
            SnippetKind::EarlyHints => return self.early_hints(),
            SnippetKind::JsonLd => return self.structured_data_script(),
            SnippetKind::Meta => self.meta(),
            SnippetKind::Mail => self.mail(),
            SnippetKind::React => self.react(),
            SnippetKind::Next => self.next(),
            SnippetKind::Astro => self.astro(),
            SnippetKind::WordPress => self.wordpress(),
            SnippetKind::Curl => self.curl(),
            SnippetKind::Recipe => return self.recipe(),
        })
    }

    /// HTML in which braces begin no expression.
    fn astro(&self) -> String {
        self.markup().replace('{', "&#123;").replace('}', "&#125;")
    }

    /// A block of HTML of its own. Markup holds no end of a comment, because `>` in a text is escaped.
    fn wordpress(&self) -> String {
        // Shortcodes are looked for in the texts of a post, also in attributes.
        let markup = self.markup().replace('[', "&#91;").replace(']', "&#93;");
        format!("<!-- wp:html -->\n{markup}\n<!-- /wp:html -->")
    }

    /// The element for the page's head, and the one for its body.
    fn hinted(&self) -> String {
        let origin = self.url.split_once(IMAGE_PATH_PREFIX).map_or(self.url.as_str(), |(origin, _)| origin);
        let (PreEscaped(meta), PreEscaped(img)) = (Delegation { origin }.meta(), self.frame().hinted());
        format!("{meta}\n{img}")
    }

    fn curl(&self) -> String {
        let format = self.frame().best();
        let stem = self.url.rsplit('/').next().unwrap_or("picture");
        let (file, url) = (format!("{stem}.{}", format.extension()), self.candidate(self.largest_px(), Some(format)));
        format!("curl -fsS -o {} {}", shell_word(&file), shell_word(&url))
    }

    /// It holds the prompt, so it is part of no public answer.
    fn recipe(&self) -> Option<String> {
        serde_json::to_string_pretty(self.recipe.as_ref()?).ok()
    }
}

/// One word of a POSIX shell, whatever is in it.
fn shell_word(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{MUG, attacked, elements, placement, site};
    use super::super::{Placement, Showing};
    use super::*;

    fn mug() -> Placement {
        placement(&site(), MUG, Showing::Live)
    }

    #[test]
    fn every_kind_has_a_text_for_a_picture_that_is_live() {
        for kind in SnippetKind::ALL {
            assert!(mug().snippet(kind).is_some_and(|text| !text.is_empty()), "{kind:?}");
        }
        let undrawn = placement(&site(), MUG, Showing::Undrawn);
        let absent: Vec<_> = SnippetKind::ALL.into_iter().filter(|kind| undrawn.snippet(*kind).is_none()).collect();
        assert_eq!(absent, [SnippetKind::JsonLd]);
    }

    #[test]
    fn the_recipe_is_the_one_of_the_picture() {
        let recipe: serde_json::Value =
            serde_json::from_str(&mug().snippet(SnippetKind::Recipe).expect("it is drawn")).expect("JSON");
        assert_eq!((&recipe["prompt"], &recipe["seed"]), (&"soft light, a red mug on a floor".into(), &1207.into()));
        assert!(!mug().document().to_string().contains("soft light"), "it is public");
    }

    #[test]
    fn hints_are_delegated_to_where_the_images_are() {
        let hinted = mug().snippet(SnippetKind::Hinted).expect("markup");
        assert!(
            hinted.starts_with("<meta http-equiv=\"Delegate-CH\" content=\"sec-ch-width https://img.example.com;"),
            "{hinted}"
        );
        assert!(hinted.contains("\n<figure>") || hinted.contains("\n<img"), "{hinted}");
        assert!(hinted.contains("&amp;w=auto\"") && !hinted.contains("srcset"), "{hinted}");
    }

    #[test]
    fn a_command_is_two_words_in_quotes() {
        let curl = mug().snippet(SnippetKind::Curl).expect("a command");
        assert_eq!(
            curl,
            "curl -fsS -o 'autumn-mug-red-none.avif' 'https://img.example.com/i/autumn/hero/autumn-mug-red-none?colour=red&locale=en-GB&product=mug&w=1344&fm=avif'"
        );
        assert_eq!(shell_word("it's; $(x) `y`"), "'it'\\''s; $(x) `y`'");
    }

    #[test]
    fn html_of_other_systems_is_ours_without_what_they_take_for_code() {
        let attacked = placement(&attacked(), MUG, Showing::Live);
        let astro = attacked.snippet(SnippetKind::Astro).expect("a fragment");
        assert!(!astro.contains(['{', '}']));
        let block = attacked.snippet(SnippetKind::WordPress).expect("a block");
        let inside = block.strip_prefix("<!-- wp:html -->\n").and_then(|it| it.strip_suffix("\n<!-- /wp:html -->"));
        let inside = inside.expect("one block");
        assert!(!inside.contains("-->") && !inside.contains(['[', ']']), "{inside}");
        for html in [astro.as_str(), inside] {
            let decoded =
                html.replace("&#91;", "[").replace("&#93;", "]").replace("&#123;", "{").replace("&#125;", "}");
            assert_eq!(elements(&decoded), elements(&attacked.markup()));
        }
    }

    #[test]
    fn components_have_names_and_no_text_outside_of_literals() {
        let next = mug().snippet(SnippetKind::Next).expect("a component");
        assert!(next.contains("export default function AutumnHero()") && next.contains(" priority />"), "{next}");
        assert!(
            next.contains("[480, \"https://img.example.com/i/autumn/hero/autumn-mug-red-none?colour=red\\u0026locale"),
            "{next}"
        );
        let react = placement(&attacked(), MUG, Showing::Live).snippet(SnippetKind::React).expect("a component");
        assert!(!react.contains("<img src=x") && !react.contains("<script"), "{react}");
        assert!(
            react.contains("fetchPriority={\"high\"}") && react.contains("className={\"bildkante-label\"}"),
            "{react}"
        );
    }
}
