//! `${name}` in a webhook's URL, headers and body. Anything else is text.
//!
//! A value is written as its place demands, so that no value can break out of it.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::call::Call;

/// What a placeholder may name.
const NAMES: [&str; 10] =
    ["id", "scope", "kind", "reach", "tags", "tags_space", "tags_json", "url", "url_encoded", "token"];

/// What in a URL or a form stands for itself: what tags are made of is easier read so.
const IN_URL: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b':').remove(b'/').remove(b',');

/// Where a template stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Syntax {
    Text,
    /// Values are escaped within a string, and are values of their own outside.
    Json,
    /// Also a form: values are percent-encoded.
    Url,
}

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

    pub(super) fn fill(&self, call: &Call, syntax: Syntax) -> String {
        let mut filled = String::new();
        let mut string = JsonString::default();
        for piece in &self.0 {
            match (piece, syntax) {
                (Piece::Text(text), _) => {
                    string.pass(text);
                    filled.push_str(text);
                }
                (Piece::Value(name), Syntax::Text) => filled.push_str(&value(name, call)),
                (Piece::Value(name @ "url_encoded"), Syntax::Url) => filled.push_str(&value(name, call)),
                (Piece::Value(name), Syntax::Url) => {
                    filled.extend(utf8_percent_encode(&value(name, call), IN_URL));
                }
                (Piece::Value(name), Syntax::Json) => filled.push_str(&json_value(name, call, string)),
            }
        }
        filled
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

/// Whether the text so far ends within a string, and after a backslash.
#[derive(Debug, Clone, Copy, Default)]
struct JsonString {
    is_open: bool,
    is_escaped: bool,
}

impl JsonString {
    fn pass(&mut self, text: &str) {
        for byte in text.bytes() {
            match byte {
                _ if self.is_escaped => self.is_escaped = false,
                b'\\' if self.is_open => self.is_escaped = true,
                b'"' => self.is_open = !self.is_open,
                _ => {}
            }
        }
    }
}

fn json_value(name: &str, call: &Call, string: JsonString) -> String {
    let quoted = serde_json::Value::String(value(name, call)).to_string();
    match name {
        _ if string.is_open => quoted[1..quoted.len() - 1].to_owned(),
        "id" | "tags_json" => value(name, call),
        "url" | "url_encoded" if call.url.is_none() => "null".to_owned(),
        "token" if call.token.is_none() => "null".to_owned(),
        _ => quoted,
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
