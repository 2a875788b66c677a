//! From a watermark to manifests: what C2PA's *Soft Binding Resolution API* answers to `byBinding`, for our own algorithm and
//! the pictures that are live.
//!
//! An answer lists the manifests of final renditions that this edge has signed. A client takes the one that fits its picture:
//! a manifest holds for the bytes that it was made for, and says of every other file that it is another rendition.
//!
//! Source: C2PA Soft Binding API 2.3, `softBindingQueryResult`. Where it names an `endpoint` that serves manifests by their
//! names, ours are served by the address in `manifestUrl`.

use serde::Serialize;

use super::marks::payload;
use super::masters::Rendered;
use crate::credentials::Manifest;
use crate::fill::Fill;
use crate::watermark::{ALGORITHM, MasterPrefix, Payload};

/// Longest value that is read.
const VALUE_BYTES_MAX: usize = 64;

/// An answer.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Matches {
    matches: Vec<Match>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Match {
    /// The active manifest's URN.
    manifest_id: String,
    /// 100: the value is the one that was asked for.
    similarity_score: u8,
    manifest_url: String,
    /// URL of the picture, in any size and format.
    picture_url: String,
}

/// Why a question is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unresolved {
    #[error("the value of a soft binding of {ALGORITHM} is 16 hexadecimal digits in lower case")]
    Value,
    #[error("only {ALGORITHM} is resolved here")]
    Algorithm,
}

impl Unresolved {
    /// For problems and metric labels.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Value => "no-soft-binding",
            Self::Algorithm => "unknown-algorithm",
        }
    }
}

/// What was asked for: the last part of a path, and its query.
pub(super) fn question(value: &str, query: Option<&str>) -> Result<MasterPrefix, Unresolved> {
    let pairs = query.unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    if pairs.into_iter().any(|(name, value)| name == "alg" && value != ALGORITHM) {
        return Err(Unresolved::Algorithm);
    }
    let payload = Some(value).filter(|value| value.len() <= VALUE_BYTES_MAX).and_then(payload);
    payload.map(Payload::master).ok_or(Unresolved::Value)
}

/// Where the renditions of a master are signed, and by what name.
pub(super) async fn resolved(fill: &Fill, renditions: Vec<Rendered>, public_url: &str) -> Matches {
    let mut matches = Vec::new();
    for Rendered { picture, want } in renditions {
        let Some((path, bytes)) = fill.kept_manifest(&want).await else { continue };
        let Some(manifest_id) = Manifest::from_bytes(bytes.to_vec()).ok().and_then(|it| it.active().map(str::to_owned))
        else {
            continue;
        };
        let manifest_url = format!("{public_url}{path}");
        matches.push(Match { manifest_id, similarity_score: 100, manifest_url, picture_url: picture });
    }
    Matches { matches }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_algorithm_and_its_values_are_resolved() {
        let value = "1abc0123456789ab";
        assert_eq!(question(value, None).map(|prefix| prefix.to_string()).as_deref(), Ok("0123456789ab"));
        assert!(question(value, Some("alg=com.bildkante.watermark.1&maxResults=1")).is_ok());
        assert_eq!(question(value, Some("alg=com.adobe.trustmark.P")), Err(Unresolved::Algorithm));
        for wrong in ["", "0", "9abc0123456789ab", "1ABC0123456789AB", &"1".repeat(100)] {
            assert_eq!(question(wrong, None), Err(Unresolved::Value), "{wrong}");
        }
    }
}
