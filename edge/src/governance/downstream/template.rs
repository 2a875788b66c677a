//! `${name}` in a webhook's URL, headers and body. Anything else is text.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::call::Call;

/// What a placeholder may name.
const NAMES: [&str; 10] =
    ["id", "scope", "kind", "reach", "tags", "tags_space", "tags_json", "url", "url_encoded", "token"];

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Value(&'static str),
}

/// A text with placeholders, every one of which is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Template(Vec<Piece>);

impl Template {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${") {
            let (name, after) = after.split_once('}').ok_or_else(|| format!("a `${{` in `{text}` is not closed"))?;
            let known = NAMES.into_iter().find(|known| *known == name);
            let known = known.ok_or_else(|| format!("`${{{name}}}` is none of {}", NAMES.join(", ")))?;
            pieces.push(Piece::Text(before.to_owned()));
            pieces.push(Piece::Value(known));
            rest = after;
        }
        pieces.push(Piece::Text(rest.to_owned()));
        Ok(Self(pieces))
    }

    pub(super) fn fill(&self, call: &Call) -> String {
        self.0
            .iter()
            .map(|piece| match piece {
                Piece::Text(text) => text.clone(),
                Piece::Value(name) => value(name, call),
            })
            .collect()
    }

    pub(super) fn without_values(&self) -> String {
        self.0
            .iter()
            .map(|piece| match piece {
                Piece::Text(text) => text.as_str(),
                Piece::Value(_) => "x",
            })
            .collect()
    }
}

fn value(name: &str, call: &Call) -> String {
    match name {
        "id" => call.id.to_string(),
        "scope" => call.scope.to_owned(),
        "kind" => call.kind.as_str().to_owned(),
        "reach" => call.reach.as_str().to_owned(),
        "tags" => call.tags.join(","),
        "tags_space" => call.tags.join(" "),
        "tags_json" => serde_json::to_string(&call.tags).unwrap_or_default(),
        "url" => call.url.clone().unwrap_or_default(),
        "url_encoded" => utf8_percent_encode(call.url.as_deref().unwrap_or_default(), NON_ALPHANUMERIC).to_string(),
        _ => call.token.clone().unwrap_or_default(),
    }
}
