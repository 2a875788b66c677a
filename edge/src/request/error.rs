//! Why a URL is no image request, and what the answer says.

use std::borrow::Cow;

use bildkante_shared::problem::Problem;

use super::parameters::OF_MARKUP;
use super::parameters::Parameter;
use super::{IMAGE_PATH_PREFIX, MARKUP_PATH_PREFIX, PARAMETERS_MAX};
use crate::words::Format;

/// Longest piece of a URL an answer repeats.
const EXCERPT_CHARS_MAX: usize = 48;

/// What is wrong with a URL. It is always the caller's fault and never worth a retry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    #[error("image paths are {IMAGE_PATH_PREFIX}{{campaign}}/{{slot}}[/{{slug}}[.{{ext}}]]")]
    NotAnImage,
    #[error("markup paths are {MARKUP_PATH_PREFIX}{{campaign}}/{{slot}}")]
    NotMarkup,
    #[error("`{parameter}` is a parameter of images; markup takes axes, `fm` and `v`")]
    OfImages { parameter: &'static str },
    #[error("the {part} is longer than {bytes_max} bytes")]
    TooLong { part: &'static str, bytes_max: usize },
    #[error("the query has more than {PARAMETERS_MAX} parameters")]
    TooManyParameters,
    #[error("{part} is not percent-encoded UTF-8 without control characters")]
    Encoding { part: &'static str },
    #[error("the value of `{name}` is not percent-encoded UTF-8 without control characters")]
    AxisEncoding { name: String },
    #[error("`{parameter}` is said twice, or under two of its names")]
    Duplicate { parameter: String },
    #[error("`{parameter}` is {expected}, not `{value}`")]
    Malformed { parameter: &'static str, expected: &'static str, value: String, allowed: Cow<'static, [&'static str]> },
    #[error("the extension says {extension}, `fm` says {asked}")]
    FormatConflict { extension: Format, asked: Format },
    #[error("a signature has `kid` and `s`, and `expires` where it ends; `{missing}` is missing")]
    IncompleteSignature { missing: &'static str },
}

impl RequestError {
    pub(super) fn axis_encoding(name: &str) -> Self {
        Self::AxisEncoding { name: excerpt(name) }
    }

    /// For logs and metric labels.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::NotAnImage => "not-an-image",
            Self::NotMarkup => "not-markup",
            Self::OfImages { .. } => "parameter-of-images",
            Self::TooLong { .. } => "uri-too-long",
            Self::TooManyParameters => "too-many-parameters",
            Self::Encoding { .. } | Self::AxisEncoding { .. } => "malformed-encoding",
            Self::Duplicate { .. } => "duplicate-parameter",
            Self::Malformed { .. } => "malformed-value",
            Self::FormatConflict { .. } => "format-conflict",
            Self::IncompleteSignature { .. } => "incomplete-signature",
        }
    }

    #[must_use]
    pub const fn status(&self) -> u16 {
        match self {
            Self::NotAnImage | Self::NotMarkup => 404,
            Self::TooLong { .. } => 414,
            _ => 400,
        }
    }

    /// The parameter at fault.
    #[must_use]
    pub fn parameter(&self) -> Option<&str> {
        match self {
            Self::NotAnImage | Self::NotMarkup | Self::TooLong { .. } | Self::TooManyParameters => None,
            Self::Encoding { part } => super::parameters::lookup(part).map(Parameter::name),
            Self::AxisEncoding { name } | Self::Duplicate { parameter: name } => Some(name),
            Self::Malformed { parameter, .. } | Self::OfImages { parameter } => Some(parameter),
            Self::FormatConflict { .. } => Some(Parameter::Format.name()),
            Self::IncompleteSignature { missing } => Some(missing),
        }
    }

    #[must_use]
    pub fn problem(&self) -> Problem {
        let title = match self {
            Self::NotAnImage | Self::NotMarkup => "Not found",
            Self::TooLong { .. } => "URL too long",
            _ => "Malformed request",
        };
        let problem = Problem::new(self.status(), self.as_str(), title, self.to_string());
        let Some(parameter) = self.parameter() else { return problem };
        let allowed = match self {
            Self::Malformed { allowed, .. } => allowed.iter().map(ToString::to_string).collect(),
            Self::OfImages { .. } => OF_MARKUP.map(str::to_owned).into(),
            _ => Vec::new(),
        };
        problem.with_parameter(parameter, allowed)
    }
}

/// The start of a text that a client sent.
pub(crate) fn excerpt(text: &str) -> String {
    let mut excerpt: String = text.chars().take(EXCERPT_CHARS_MAX).collect();
    if excerpt.len() < text.len() {
        excerpt.push('…');
    }
    excerpt
}
