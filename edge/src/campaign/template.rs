//! Prompt and alt-text templates.
//!
//! `{axis}` stands for the chosen value's text, `{style:name}` and `{block:name}` for text of a prompt
//! library. Library text is inlined when the manifest is read, so that a template at run time is literals and
//! axes, and rendering cannot fail. White space is one blank, and a comma left over by an empty value goes.

/// One piece of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    Literal(String),
    /// Index of an axis of the manifest.
    Axis(usize),
}

/// A template whose placeholders all resolve.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

/// What a placeholder asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Placeholder<'t> {
    Axis(&'t str),
    Style(&'t str),
    Block(&'t str),
}

impl Template {
    /// Reads a template; `resolve` turns a placeholder into a part or says why there is none.
    ///
    /// # Errors
    /// One sentence per stray brace, control character or placeholder that does not resolve.
    pub(crate) fn parse(
        text: &str,
        mut resolve: impl FnMut(Placeholder<'_>) -> Result<Part, String>,
    ) -> Result<Self, Vec<String>> {
        let mut reasons = Vec::new();
        if text.chars().any(|c| c.is_control() && !c.is_whitespace()) {
            reasons.push("it holds a control character".to_owned());
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            push_literal(&mut parts, &rest[..at]);
            let Some((inside, after)) = rest[at..].strip_prefix('{').and_then(|tail| tail.split_once('}')) else {
                reasons.push("it has a brace without its partner".to_owned());
                rest = "";
                break;
            };
            match placeholder(inside).and_then(&mut resolve) {
                Ok(part) => parts.push(part),
                Err(reason) => reasons.push(reason),
            }
            rest = after;
        }
        push_literal(&mut parts, rest);
        if reasons.is_empty() { Ok(Self { parts }) } else { Err(reasons) }
    }

    #[must_use]
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    #[must_use]
    pub fn uses_axis(&self, axis: usize) -> bool {
        self.parts.contains(&Part::Axis(axis))
    }

    /// The text with every axis replaced, tidied.
    pub fn render<'v>(&self, value_of: impl Fn(usize) -> &'v str) -> String {
        let mut text = String::with_capacity(128);
        for part in &self.parts {
            match part {
                Part::Literal(literal) => text.push_str(literal),
                Part::Axis(axis) => text.push_str(value_of(*axis)),
            }
        }
        tidy(&text)
    }

    /// Most bytes the text can have, when no value of an axis is longer than `bytes_of` says.
    pub fn bytes_max(&self, bytes_of: impl Fn(usize) -> usize) -> usize {
        let bytes = self.parts.iter().map(|part| match part {
            Part::Literal(literal) => literal.len(),
            Part::Axis(axis) => bytes_of(*axis),
        });
        bytes.sum()
    }
}

fn push_literal(parts: &mut Vec<Part>, text: &str) {
    if !text.is_empty() {
        parts.push(Part::Literal(text.to_owned()));
    }
}

fn placeholder(inside: &str) -> Result<Placeholder<'_>, String> {
    match inside.split_once(':') {
        None => Ok(Placeholder::Axis(inside)),
        Some(("style", name)) => Ok(Placeholder::Style(name)),
        Some(("block", name)) => Ok(Placeholder::Block(name)),
        Some(_) => Err(format!("`{{{inside}}}` is none of {{axis}}, {{style:name}} and {{block:name}}")),
    }
}

/// One blank between words, none before a comma, no comma without words before and after it.
pub(crate) fn tidy(text: &str) -> String {
    let mut tidied = String::with_capacity(text.len());
    let mut is_pending_blank = false;
    for c in text.chars() {
        if c.is_whitespace() {
            is_pending_blank = !tidied.is_empty();
        } else if c == ',' {
            if !tidied.is_empty() && !tidied.ends_with(',') {
                tidied.push(',');
            }
            is_pending_blank = is_pending_blank && !tidied.is_empty();
        } else {
            if is_pending_blank {
                tidied.push(' ');
                is_pending_blank = false;
            }
            tidied.push(c);
        }
    }
    if tidied.ends_with(',') {
        tidied.pop();
    }
    tidied
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<Template, Vec<String>> {
        Template::parse(text, |placeholder| match placeholder {
            Placeholder::Axis("product") => Ok(Part::Axis(0)),
            Placeholder::Axis("material") => Ok(Part::Axis(1)),
            Placeholder::Style("soft") => Ok(Part::Literal("soft light".into())),
            other => Err(format!("no {other:?}")),
        })
    }

    #[test]
    fn placeholders_are_replaced_and_commas_tidied() {
        let template = parse("{style:soft},  a {material} {product} ,\n {material}, on sale").expect("valid");
        let with = |material: &'static str| template.render(|axis| if axis == 0 { "mug" } else { material });
        assert_eq!(with("matte"), "soft light, a matte mug, matte, on sale");
        assert_eq!(with(""), "soft light, a mug, on sale");
        assert!(template.uses_axis(1) && !template.uses_axis(2));
    }

    #[test]
    fn numbers_keep_their_commas() {
        assert_eq!(tidy("1,000 pieces,"), "1,000 pieces");
    }

    #[test]
    fn every_wrong_placeholder_is_named() {
        let reasons = parse("{product} {size} {font:x}").expect_err("refused");
        assert_eq!(reasons.len(), 2, "{reasons:?}");
        assert!(reasons[1].contains("{font:x}"), "{reasons:?}");
        assert!(parse("a } b").is_err() && parse("a { b").is_err() && parse("a\u{7} b").is_err());
    }

    proptest! {
        #[test]
        fn any_text_parses_or_is_refused_and_tidy_is_idempotent(text in "[a ,{}\\n:]{0,40}") {
            let _ = parse(&text);
            let tidied = tidy(&text);
            prop_assert_eq!(tidy(&tidied), tidied.clone());
            prop_assert!(!tidied.contains("  ") && !tidied.contains(" ,"));
        }
    }
}
