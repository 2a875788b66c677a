//! What was found in a picture, layer by layer.
//!
//! Each layer says what it found and how sure that is; none is proof of absence: metadata is removed by a screenshot, a
//! watermark by an attacker. Invariants: nothing of the picture is in a report but its digest, its size and its
//! fingerprint; every text of a stranger is bounded.

use serde::Serialize;

use super::marks::DetectedMark;
use super::masters::{Among, KnownMaster, Search};
use crate::credentials::{Credentials, Finding, Standing};
use crate::decoding::DecodeFault;
use crate::provenance::{Told, is_of_a_model};

/// The form of this document. Readers ignore what they do not know; a later form that means something else counts up.
pub const REPORT_VERSION: u32 = 1;

/// See the module's documentation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    pub version: u32,
    /// RFC 3339.
    pub checked_at: String,
    pub checked_by: CheckedBy,
    pub file: FileFacts,
    pub verdict: Conclusion,
    /// Whether a layer says that a model had a part in the picture.
    pub made_by_a_model: Stated,
    pub c2pa: Finding,
    pub metadata: Told,
    pub watermark: WatermarkLayer,
    pub fingerprint: FingerprintLayer,
}

/// What checked it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckedBy {
    pub software: String,
    /// The edge, where one did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub installation: Option<String>,
}

/// Which file it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileFacts {
    /// Hexadecimal.
    pub sha256: String,
    pub bytes: usize,
    pub format: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub width_px: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub height_px: Option<u32>,
}

/// All of it in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Conclusion {
    /// The manifest holds, and a trusted authority knows who signed.
    Signed,
    /// The manifest holds, and who signed can call itself anything.
    SignedByUnknown,
    /// The manifest does not hold.
    Broken,
    /// No manifest, and another layer tells of the picture's origin.
    Marked,
    /// No layer tells anything, which proves nothing.
    Nothing,
}

impl Conclusion {
    pub const ALL: [Self; 5] = [Self::Signed, Self::SignedByUnknown, Self::Broken, Self::Marked, Self::Nothing];

    /// For metric labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Signed => "signed",
            Self::SignedByUnknown => "signed_by_unknown",
            Self::Broken => "broken",
            Self::Marked => "marked",
            Self::Nothing => "nothing",
        }
    }
}

/// Whether a layer says so. Silence does not mean that it is not so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stated {
    Stated,
    NotStated,
}

/// Marks in the pixels.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WatermarkLayer {
    /// Algorithms that were looked for, by their names in C2PA's list.
    pub searched: Vec<String>,
    pub found: Vec<FoundMark>,
    /// Why one could not be looked for.
    pub unsearched: Vec<Unsearched>,
}

/// A mark, and the masters that it names as far as they are known here.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FoundMark {
    #[serde(flatten)]
    pub mark: DetectedMark,
    pub masters: Vec<KnownMaster>,
    /// Whether the manifest of the file names the same mark; missing where it names none of this algorithm.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agrees_with_manifest: Option<bool>,
}

/// See [`WatermarkLayer::unsearched`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unsearched {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub algorithm: Option<String>,
    pub reason: String,
}

/// Pictures that look the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FingerprintLayer {
    /// 256 bits, hexadecimal; missing where the picture could not be decoded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Missing where there was nothing to compare with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub among: Option<Among>,
    pub compared: usize,
    pub found: Vec<KnownMaster>,
}

impl FingerprintLayer {
    #[must_use]
    pub fn of(value: Option<String>, search: Option<Search>) -> Self {
        let (among, compared, found) = search.map_or((None, 0, Vec::new()), |search| {
            let Search { among, compared, found } = search;
            (Some(among), compared, found)
        });
        Self { value, among, compared, found }
    }
}

/// What the layers say, before they are summed up.
#[derive(Debug)]
pub(super) struct Layers {
    pub(super) c2pa: Finding,
    pub(super) metadata: Told,
    pub(super) watermark: WatermarkLayer,
    pub(super) fingerprint: FingerprintLayer,
}

impl Layers {
    #[must_use]
    pub(super) fn verdict(&self) -> Conclusion {
        let is_told =
            self.metadata.names_a_model() || !self.watermark.found.is_empty() || !self.fingerprint.found.is_empty();
        match &self.c2pa {
            Finding::Valid { credentials } if credentials.standing == Standing::Trusted => Conclusion::Signed,
            Finding::Valid { .. } => Conclusion::SignedByUnknown,
            Finding::Invalid { .. } => Conclusion::Broken,
            Finding::Absent | Finding::Elsewhere { .. } if is_told => Conclusion::Marked,
            Finding::Absent | Finding::Elsewhere { .. } => Conclusion::Nothing,
        }
    }

    /// A mark of ours is only written into pictures that a model had a part in.
    #[must_use]
    pub(super) fn made_by_a_model(&self) -> Stated {
        let signed = match &self.c2pa {
            Finding::Valid { credentials } => names_a_model(credentials),
            Finding::Absent | Finding::Elsewhere { .. } | Finding::Invalid { .. } => false,
        };
        let is_marked = !self.watermark.found.is_empty();
        if signed || is_marked || self.metadata.names_a_model() { Stated::Stated } else { Stated::NotStated }
    }
}

fn names_a_model(credentials: &Credentials) -> bool {
    let mut sources = credentials.actions.iter().filter_map(|action| action.source.as_deref());
    sources.any(|source| source.rsplit('/').next().is_some_and(is_of_a_model))
}

/// Whether a soft binding of the manifest is this mark.
#[must_use]
pub(super) fn agreement(c2pa: &Finding, mark: &DetectedMark) -> Option<bool> {
    let credentials = match c2pa {
        Finding::Valid { credentials } => Some(credentials),
        Finding::Invalid { credentials, .. } => credentials.as_ref(),
        Finding::Absent | Finding::Elsewhere { .. } => None,
    };
    let mut values = credentials?.soft_bindings.iter().filter(|(algorithm, _)| *algorithm == mark.algorithm).peekable();
    values.peek()?;
    Some(values.any(|(_, value)| *value == mark.value))
}

/// Nothing could be looked for, because there are no pixels.
#[must_use]
pub(super) fn undecoded(fault: &DecodeFault) -> WatermarkLayer {
    let unsearched = vec![Unsearched { algorithm: None, reason: fault.to_string() }];
    WatermarkLayer { searched: Vec::new(), found: Vec::new(), unsearched }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::ToldAction;

    fn credentials(standing: Standing, source: &str) -> Finding {
        let created = ToldAction { action: "c2pa.created".to_owned(), at: None, source: Some(source.to_owned()) };
        let credentials = Credentials {
            signed_by: None,
            standing,
            signed_at: None,
            generator: None,
            actions: vec![created],
            generation: None,
            soft_bindings: vec![("com.example".to_owned(), "0110".to_owned())],
            ingredients: Vec::new(),
        };
        Finding::Valid { credentials: Box::new(credentials) }
    }

    fn layers(c2pa: Finding) -> Layers {
        Layers {
            c2pa,
            metadata: Told::default(),
            watermark: undecoded(&DecodeFault::Format),
            fingerprint: FingerprintLayer::of(None, None),
        }
    }

    fn mark(value: &str) -> DetectedMark {
        let (algorithm, value) = ("com.example".to_owned(), value.to_owned());
        DetectedMark {
            algorithm,
            value,
            key: None,
            master_prefix: None,
            chance_log10: None,
            confidence: None,
            scale: None,
        }
    }

    #[test]
    fn a_verdict_is_no_better_than_the_signature() {
        let drawn = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia";
        assert_eq!(layers(credentials(Standing::Trusted, drawn)).verdict(), Conclusion::Signed);
        assert_eq!(layers(credentials(Standing::Unknown, drawn)).verdict(), Conclusion::SignedByUnknown);
        assert_eq!(layers(Finding::Invalid { failures: Vec::new(), credentials: None }).verdict(), Conclusion::Broken);
        assert_eq!(layers(Finding::Absent).verdict(), Conclusion::Nothing);
        let mut marked = layers(Finding::Absent);
        marked.metadata.ai_system = Some("studio".to_owned());
        assert_eq!((marked.verdict(), marked.made_by_a_model()), (Conclusion::Marked, Stated::Stated));
    }

    #[test]
    fn a_photograph_is_not_called_a_models() {
        let photo = "http://cv.iptc.org/newscodes/digitalsourcetype/digitalCapture";
        assert_eq!(layers(credentials(Standing::Trusted, photo)).made_by_a_model(), Stated::NotStated);
        let drawn = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia";
        assert_eq!(layers(credentials(Standing::Unknown, drawn)).made_by_a_model(), Stated::Stated);
    }

    #[test]
    fn a_mark_agrees_with_the_manifest_or_not_or_is_not_in_it() {
        let finding = credentials(Standing::Trusted, "");
        assert_eq!(agreement(&finding, &mark("0110")), Some(true));
        assert_eq!(agreement(&finding, &mark("0111")), Some(false));
        assert_eq!(agreement(&finding, &DetectedMark { algorithm: "other".to_owned(), ..mark("0110") }), None);
        assert_eq!(agreement(&Finding::Absent, &mark("0110")), None);
    }
}
