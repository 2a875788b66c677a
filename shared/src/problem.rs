//! `application/problem+json` (RFC 9457), the one error body of every listener.

use serde::{Deserialize, Serialize};

use crate::trace::RequestId;

/// The media type of a problem.
pub const CONTENT_TYPE: &str = "application/problem+json";

/// A problem: `type` is a stable relative reference, `detail` names the cause.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Problem {
    #[serde(rename = "type")]
    pub kind: String,
    pub title: String,
    pub status: u16,
    pub detail: String,
    /// Names this occurrence: what the logs know it by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// The parameter at fault, for errors of the URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameter: Option<String>,
    /// What would have been accepted there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed: Vec<String>,
    /// Digests a node was asked for and does not have (424).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
    /// The first faults of an order of many rows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FaultAt>,
    /// How many there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errors_total: Option<u64>,
}

/// What is wrong in one row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultAt {
    pub row: u64,
    /// Empty where the whole row is meant.
    pub column: String,
    pub detail: String,
}

impl Problem {
    /// `kind` is the last segment of the type, e.g. `unknown-value`.
    #[must_use]
    pub fn new(status: u16, kind: &str, title: &str, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("/problems/{kind}"),
            title: title.to_owned(),
            status,
            detail: detail.into(),
            instance: None,
            parameter: None,
            allowed: Vec::new(),
            missing: Vec::new(),
            errors: Vec::new(),
            errors_total: None,
        }
    }

    #[must_use]
    pub fn with_parameter(mut self, name: impl Into<String>, allowed: Vec<String>) -> Self {
        self.parameter = Some(name.into());
        self.allowed = allowed;
        self
    }

    #[must_use]
    pub fn with_missing(mut self, missing: Vec<String>) -> Self {
        self.missing = missing;
        self
    }

    /// As the answer to this request.
    #[must_use]
    pub fn of_request(mut self, id: &RequestId) -> Self {
        self.instance = Some(format!("/requests/{id}"));
        self
    }

    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        // A struct of strings and numbers always serialises.
        serde_json::to_vec(self).unwrap_or_else(|_| b"{}".to_vec())
    }
}
