//! JSON bodies: bounded, of the right type, each field named in what is said about it.

use std::error::Error;
use std::time::Duration;

use bildkante_shared::ids::Digest;
use bildkante_shared::problem::Problem;
use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Body;
use serde_json::{Map, Value};

/// Longest a body may take to arrive.
const DEADLINE: Duration = Duration::from_secs(10);
/// Longest string of a list, where nothing else is said.
const TEXT_BYTES_MAX: usize = 256;

/// A problem that a request has with us; boxed, for it is larger than what it stands in for.
pub(super) type Fault = Box<Problem>;

pub(super) fn fault(status: u16, kind: &str, title: &str, detail: impl Into<String>) -> Fault {
    Box::new(Problem::new(status, kind, title, detail))
}

/// A field that is not as it should be.
pub(super) fn wrong(field: &str, detail: impl Into<String>, allowed: &[&str]) -> Fault {
    let problem = Problem::new(422, "invalid-field", "Invalid field", detail);
    Box::new(problem.with_parameter(field, allowed.iter().map(ToString::to_string).collect()))
}

/// The object in a body, its fields taken one by one.
#[derive(Debug)]
pub(super) struct Fields {
    map: Map<String, Value>,
}

impl Fields {
    /// Reads at most `bytes_max`.
    pub(super) async fn read<B>(headers: &HeaderMap, body: B, bytes_max: usize) -> Result<Self, Fault>
    where
        B: Body,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        Self::parse(&read(headers, body, bytes_max).await?)
    }

    pub(super) fn parse(body: &Bytes) -> Result<Self, Fault> {
        match serde_json::from_slice(body) {
            Ok(Value::Object(map)) => Ok(Self { map }),
            Ok(_) => Err(fault(422, "invalid-body", "Invalid body", "the body is a JSON object")),
            Err(error) => Err(fault(400, "malformed-json", "Bad request", error.to_string())),
        }
    }

    /// Of a form.
    pub(super) const fn of_map(map: Map<String, Value>) -> Self {
        Self { map }
    }

    /// One that a form's own cannot say.
    pub(super) fn set(&mut self, name: &'static str, value: Value) {
        self.map.insert(name.to_owned(), value);
    }

    #[cfg(test)]
    pub(super) fn of(body: Value) -> Self {
        Self::parse(&body.to_string().into()).expect("an object")
    }

    pub(super) fn text(&mut self, name: &'static str, bytes_max: usize) -> Result<Option<String>, Fault> {
        match self.map.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) if text.len() <= bytes_max => Ok(Some(text)),
            Some(Value::String(_)) => Err(wrong(name, format!("`{name}` has at most {bytes_max} bytes"), &[])),
            Some(_) => Err(wrong(name, format!("`{name}` is a string"), &[])),
        }
    }

    /// As it is.
    pub(super) fn value(&mut self, name: &'static str) -> Option<Value> {
        self.map.remove(name).filter(|value| !value.is_null())
    }

    /// One of a few words.
    pub(super) fn word<T: Copy>(&mut self, name: &'static str, words: &[(&str, T)]) -> Result<Option<T>, Fault> {
        let Some(text) = self.text(name, 64)? else { return Ok(None) };
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        let detail = || format!("`{name}` is one of {}", known.join(", "));
        found.map(Some).ok_or_else(|| wrong(name, detail(), &known))
    }

    pub(super) fn is_set(&mut self, name: &'static str) -> Result<bool, Fault> {
        match self.map.remove(name) {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(is_set)) => Ok(is_set),
            Some(_) => Err(wrong(name, format!("`{name}` is true or false"), &[])),
        }
    }

    pub(super) fn number(&mut self, name: &'static str, min: u64, max: u64) -> Result<Option<u64>, Fault> {
        let Some(value) = self.map.remove(name).filter(|value| !value.is_null()) else { return Ok(None) };
        let number = value.as_u64().filter(|number| (min..=max).contains(number));
        number.map(Some).ok_or_else(|| wrong(name, format!("`{name}` is a whole number from {min} to {max}"), &[]))
    }

    /// A list of strings.
    pub(super) fn texts(&mut self, name: &'static str, count_max: usize) -> Result<Vec<String>, Fault> {
        self.long_texts(name, count_max, TEXT_BYTES_MAX)
    }

    /// The same of strings of at most so many bytes.
    pub(super) fn long_texts(
        &mut self,
        name: &'static str,
        count_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<String>, Fault> {
        let Some(value) = self.map.remove(name).filter(|value| !value.is_null()) else { return Ok(Vec::new()) };
        let detail = || format!("`{name}` is a list of up to {count_max} strings of at most {bytes_max} bytes");
        texts(value, count_max, bytes_max).ok_or_else(|| wrong(name, detail(), &[]))
    }

    /// An object of lists of strings.
    pub(super) fn lists(&mut self, name: &'static str, count_max: usize) -> Result<Vec<(String, Vec<String>)>, Fault> {
        let refuse = || wrong(name, format!("`{name}` is an object of up to {count_max} lists of strings"), &[]);
        match self.map.remove(name) {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::Object(lists)) if lists.len() <= count_max => lists
                .into_iter()
                .map(|(key, list)| Some((key, texts(list, 1_000, TEXT_BYTES_MAX)?)))
                .collect::<Option<_>>()
                .ok_or_else(refuse),
            Some(_) => Err(refuse()),
        }
    }

    /// Of all fields that were not taken yet.
    pub(super) fn digest(&self) -> Digest {
        // It was read from JSON, so it has a form in it.
        Digest::of_bytes(&serde_json::to_vec(&self.map).unwrap_or_default())
    }

    /// Nothing else may be there: a misspelt field is an error, not a default.
    pub(super) fn end(self, known: &[&str]) -> Result<(), Fault> {
        match self.map.keys().next() {
            None => Ok(()),
            Some(name) => {
                let shown: String = name.chars().take(60).collect();
                Err(wrong(&shown, format!("there is no field `{shown}`"), known))
            }
        }
    }
}

/// The bytes of a JSON body, at most `bytes_max`.
pub(super) async fn read<B>(headers: &HeaderMap, body: B, bytes_max: usize) -> Result<Bytes, Fault>
where
    B: Body,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    if !is_json(headers) {
        let detail = "the body is JSON: send `Content-Type: application/json`";
        return Err(fault(415, "unsupported-media-type", "Unsupported media type", detail));
    }
    bounded(body, bytes_max, DEADLINE).await
}

/// The bytes of any body, at most `bytes_max`.
pub(super) async fn bounded<B>(body: B, bytes_max: usize, deadline: Duration) -> Result<Bytes, Fault>
where
    B: Body,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let too_long = || fault(413, "body-too-long", "Content too large", format!("a body has at most {bytes_max} bytes"));
    match tokio::time::timeout(deadline, Limited::new(body, bytes_max).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_long()),
        Ok(Err(_)) => Err(fault(400, "broken-body", "Bad request", "the body broke off")),
        Err(_) => Err(fault(408, "slow-body", "Request timeout", format!("a body arrives within {deadline:?}"))),
    }
}

fn texts(value: Value, count_max: usize, bytes_max: usize) -> Option<Vec<String>> {
    let Value::Array(list) = value else { return None };
    let texts = list.into_iter().map(|item| match item {
        Value::String(text) if text.len() <= bytes_max => Some(text),
        _ => None,
    });
    texts.collect::<Option<Vec<_>>>().filter(|texts| texts.len() <= count_max)
}

fn is_json(headers: &HeaderMap) -> bool {
    media_type(headers) == "application/json"
}

/// In lower case, without parameters.
pub(super) fn media_type(headers: &HeaderMap) -> String {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}
