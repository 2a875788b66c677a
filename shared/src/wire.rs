//! What edge and node say to each other over HTTP (see ARCHITECTURE.md, "Edge and node").
//!
//! Handlers turn these into validated types at the door; nothing deeper sees a wire struct.

use serde::{Deserialize, Serialize};

use crate::ids::{Digest, MasterId, RecipeId};
use crate::phash::PerceptualHash;
use crate::problem::Problem;
use crate::recipe::Recipe;
use crate::urgency::Urgency;

/// Asks a node to share no pass with a recipe: a device was lost to it in company, and the next time it is to be known
/// whether it was its doing. With the value `1`; a node that does not know the field draws as ever.
pub const DRAW_ALONE: &str = "bildkante-draw-alone";

/// The problem types (503) of a drawing that a device was lost to: alone, or in a pass or a moment shared with others.
pub const DEVICE_LOST: &str = "device-lost";
pub const DEVICE_LOST_IN_COMPANY: &str = "device-lost-in-company";

/// `POST /v1/generations`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GenerationRequest {
    pub recipe: Recipe,
    #[serde(default)]
    pub urgency: Urgency,
    /// How long the caller waits, from receipt.
    pub deadline_ms: u64,
    /// Without it no duplicate is looked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dedup: Option<DedupScope>,
}

/// `POST /v1/candidates`: pictures of one recipe that differ in their seeds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CandidatesRequest {
    /// Its seed is not read.
    pub recipe: Recipe,
    /// 1 to [`crate::limits::CANDIDATES_MAX`], each once.
    pub seeds: Vec<u32>,
    #[serde(default)]
    pub urgency: Urgency,
    /// How long the caller waits for the last of them, from receipt.
    pub deadline_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dedup: Option<DedupScope>,
}

/// A candidate that has ended: it has a reply, or else a problem.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    pub seed: u32,
    pub recipe_id: RecipeId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply: Option<GenerationReply>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
}

/// A candidate on its way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CandidateProgress {
    pub seed: u32,
    #[serde(flatten)]
    pub status: GenerationStatus,
}

/// Within which images a duplicate may be found.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DedupScope {
    /// `campaign/slot@manifest digest`, with whatever else must agree folded in by the edge.
    pub scope: String,
    /// Canonical name of the variant; two recipes of one variant are never merged.
    pub variant: String,
}

/// `200` of `POST /v1/generations`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GenerationReply {
    pub recipe_id: RecipeId,
    pub master: MasterInfo,
    pub duplicate: Option<Duplicate>,
    pub timings: Timings,
    /// Device time this request caused; 0 when it joined another or was answered from the store.
    pub gpu_ms: f64,
    pub determinism: Determinism,
    pub node: String,
    /// Whether the node drew it now, joined a draw in flight or had it.
    pub source: GenerationSource,
}

/// Where a generation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GenerationState {
    /// Waiting for the device.
    Queued,
    /// On the device, or being stored.
    Running,
    /// Its master is there.
    Done,
}

/// `200` of `GET /v1/generations/{recipe id}`, and `202` of `POST` with `Prefer: respond-async` (RFC 7240).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GenerationStatus {
    pub recipe_id: RecipeId,
    pub state: GenerationState,
    /// That of its most pressing caller, or its age's by now.
    pub urgency: Option<Urgency>,
    /// How many wait in front of it.
    pub position: Option<u64>,
    /// When it is likely to begin, from now.
    pub estimated_start_ms: Option<u64>,
    /// Steps made, and steps there are.
    pub step: u32,
    pub of: u32,
    /// When its last step is likely to be made, from now.
    pub eta_ms: Option<u64>,
    pub master: Option<MasterInfo>,
}

impl GenerationStatus {
    /// Of which nothing else is known.
    #[must_use]
    pub const fn new(recipe_id: RecipeId, state: GenerationState) -> Self {
        Self {
            recipe_id,
            state,
            urgency: None,
            position: None,
            estimated_start_ms: None,
            step: 0,
            of: 0,
            eta_ms: None,
            master: None,
        }
    }
}

/// Where a reply's master came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GenerationSource {
    Generated,
    Joined,
    Stored,
}

impl GenerationSource {
    pub const ALL: [Self; 3] = [Self::Generated, Self::Joined, Self::Stored];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Generated => "generated",
            Self::Joined => "joined",
            Self::Stored => "stored",
        }
    }
}

/// A stored master.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MasterInfo {
    pub id: MasterId,
    pub width_px: u32,
    pub height_px: u32,
    pub phash: PerceptualHash,
    /// Size of the stored PNG.
    pub bytes: u64,
    /// When it was drawn, by the node's clock. Nodes up to 0.1 do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_unix_ms: Option<u64>,
}

/// The older master a new one was found to equal to the eye.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Duplicate {
    /// The master the recipe would have had of its own.
    pub of: MasterId,
    /// Hamming distance of the luma hashes, 0–256.
    pub distance: u32,
    /// Mean chroma difference, in 8-bit steps.
    pub chroma_distance: f64,
    /// SSIMULACRA2 score, 100 is identical.
    pub ssimulacra2: f64,
}

/// Where a generation's time went, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Timings {
    pub queue_ms: f64,
    pub text_ms: f64,
    pub denoise_ms: f64,
    pub decode_ms: f64,
    pub dedup_ms: f64,
}

/// Within what "same recipe, same master" holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Determinism {
    /// A name for (device, runtime, dtype, batch shape): equal class, equal bits.
    pub class: String,
    pub device: String,
    pub runtime: String,
}

/// An entry of `GET /v1/checkpoints`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointInfo {
    pub name: String,
    pub digest: Digest,
    /// What its digest was before and recipes may still name, where that is something else.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub formers: Vec<Digest>,
    pub family: String,
    pub ready: bool,
}

impl CheckpointInfo {
    /// Whether a recipe that names this digest means it.
    #[must_use]
    pub fn answers_to(&self, digest: Digest) -> bool {
        self.digest == digest || self.formers.contains(&digest)
    }
}

/// An entry of `GET /v1/adapters`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdapterInfo {
    pub name: String,
    pub digest: Digest,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_without_urgency_or_dedup_takes_the_defaults() {
        let recipe = r#"{"checkpoint":"blake3:CHECKPOINT","prompt":"a mug","width_px":192,"height_px":192,"seed":1,"steps":2,"guidance":1}"#
            .replace("CHECKPOINT", &"0".repeat(64));
        let text = format!(r#"{{"recipe":{recipe},"deadline_ms":1000}}"#);
        let request: GenerationRequest = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(request.urgency, Urgency::DEFAULT);
        assert!(request.dedup.is_none());
        assert!(serde_json::from_str::<GenerationRequest>(&text.replace("deadline_ms", "deadline")).is_err());
    }
}
