//! Detectors of watermarks, by the names of their algorithms in C2PA's list: ours, and programs that an operator names.
//!
//! A program gets the picture's file on standard input and writes JSON: `{"found": true, "value": "…", "confidence": 0.99}`,
//! or `{"found": false}`. It has a deadline, and what it writes is bounded. TrustMark, for one, with weights that an operator
//! has fetched.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::config::DetectorConfig;
use crate::decoding::Grey;
use crate::program::{Program, ProgramFault};
use crate::watermark::{ALGORITHM, Effort, KeyId, MasterPrefix, Payload, Samples, Secret, Watermark, detect_in};

/// Most bytes that a detector's program may answer.
const ANSWER_BYTES_MAX: usize = 16 * 1024;
/// Longest value that is told.
const VALUE_BYTES_MAX: usize = 512;

/// A picture that is looked at.
#[derive(Debug, Clone, Copy)]
pub struct Shown<'a> {
    pub file: &'a Bytes,
    pub grey: &'a Grey,
}

/// A mark that was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DetectedMark {
    /// Its algorithm's name in C2PA's list.
    pub algorithm: String,
    /// The soft binding's value.
    pub value: String,
    /// Which secret wrote it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<MarkKey>,
    /// First digits of the id of the master that it names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub master_prefix: Option<String>,
    /// Decimal logarithm of an upper bound on the chance that a picture without a mark gives this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chance_log10: Option<f32>,
    /// 0 to 1, as a program of another make has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confidence: Option<f32>,
    /// Size of the picture beside that of the rendition that was marked, along either axis.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale: Option<[f32; 2]>,
}

/// The secret behind a mark.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MarkKey {
    pub id: String,
    /// Whether it stands in the source, so that anybody can write the mark.
    pub is_published: bool,
}

impl DetectedMark {
    /// The master that one of our marks names.
    #[must_use]
    pub fn master(&self) -> Option<MasterPrefix> {
        (self.algorithm == ALGORITHM).then(|| payload(&self.value).map(Payload::master)).flatten()
    }
}

/// The payload in a soft binding's value: 16 hexadecimal digits.
#[must_use]
pub fn payload(value: &str) -> Option<Payload> {
    let is_value =
        value.len() == 16 && value.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    is_value.then(|| u64::from_str_radix(value, 16).ok()).flatten().and_then(Payload::from_bits)
}

/// Looks for marks of one algorithm.
pub trait MarkDetector: std::fmt::Debug + Send + Sync {
    /// Its name in C2PA's list.
    fn algorithm(&self) -> &str;

    /// Blocks for as long as it takes.
    ///
    /// # Errors
    /// Why it could not look.
    fn look(&self, picture: Shown<'_>) -> Result<Option<DetectedMark>, String>;
}

/// Our own marks, by any of these secrets.
#[derive(Debug)]
pub struct OwnMarks(Vec<Arc<Watermark>>);

impl OwnMarks {
    #[must_use]
    pub const fn new(secrets: Vec<Arc<Watermark>>) -> Self {
        Self(secrets)
    }
}

impl MarkDetector for OwnMarks {
    fn algorithm(&self) -> &str {
        ALGORITHM
    }

    fn look(&self, picture: Shown<'_>) -> Result<Option<DetectedMark>, String> {
        let secrets: Vec<&Watermark> = self.0.iter().map(AsRef::as_ref).collect();
        let Grey { width_px, height_px, samples, .. } = picture.grey;
        let found = detect_in(Samples::Seen(samples), *width_px, *height_px, &secrets, Effort::default());
        Ok(found.map(|found| DetectedMark {
            algorithm: ALGORITHM.to_owned(),
            value: format!("{:016x}", found.payload.to_bits()),
            key: Some(told(found.payload.key())),
            master_prefix: Some(found.payload.master().to_string()),
            chance_log10: Some(rounded(found.chance_log10())),
            confidence: None,
            scale: Some(found.scale.map(rounded)),
        }))
    }
}

fn told(key: KeyId) -> MarkKey {
    MarkKey { id: key.to_string(), is_published: key == Secret::PUBLISHED.key_id() }
}

/// To a hundredth: more would be noise.
fn rounded(value: f32) -> f32 {
    (value * 100.0).round() / 100.0
}

/// A program that an operator names.
#[derive(Debug)]
pub struct ForeignMarks {
    algorithm: String,
    program: Program,
}

#[derive(Debug, Deserialize)]
struct ForeignAnswer {
    found: bool,
    value: Option<String>,
    confidence: Option<f32>,
}

impl ForeignMarks {
    /// `None` where no program is named.
    #[must_use]
    pub fn new(config: &DetectorConfig) -> Option<Self> {
        let program =
            Program::new(&config.command, Duration::from_millis(config.deadline_ms), ANSWER_BYTES_MAX).ok()?;
        Some(Self { algorithm: config.algorithm.clone(), program })
    }
}

impl MarkDetector for ForeignMarks {
    fn algorithm(&self) -> &str {
        &self.algorithm
    }

    fn look(&self, picture: Shown<'_>) -> Result<Option<DetectedMark>, String> {
        let answer = self.program.run(picture.file.clone()).map_err(|fault| match fault {
            // What it said may hold more than strangers should read.
            ProgramFault::Failed { status, .. } => format!("the detector failed ({status})"),
            other => format!("the detector: {other}"),
        })?;
        let nonsense = || "the detector's answer is not the JSON that is expected".to_owned();
        let answer: ForeignAnswer = serde_json::from_slice(&answer).map_err(|_| nonsense())?;
        if !answer.found {
            return Ok(None);
        }
        let is_text = |value: &String| value.len() <= VALUE_BYTES_MAX && !value.chars().any(char::is_control);
        Ok(Some(DetectedMark {
            algorithm: self.algorithm.clone(),
            value: answer.value.filter(is_text).ok_or_else(nonsense)?,
            key: None,
            master_prefix: None,
            chance_log10: None,
            confidence: answer.confidence.filter(|value| (0.0..=1.0).contains(value)),
            scale: None,
        }))
    }
}

#[cfg(test)]
mod tests {
    use bildkante_shared::phash::PerceptualHash;

    use super::*;
    use crate::watermark::seen;

    fn grey(rgb: &[u8], side_px: u32) -> Grey {
        let samples = rgb.chunks_exact(3).flat_map(|pixel| seen([pixel[0], pixel[1], pixel[2]])).collect();
        Grey { width_px: side_px, height_px: side_px, phash: PerceptualHash::from_bytes([0; 32]), samples }
    }

    /// A rough grey surface.
    fn grain(side_px: u32) -> Vec<u8> {
        let mut bytes = vec![0; (side_px * side_px) as usize];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        bytes.iter().flat_map(|byte| [100 + byte / 8; 3]).collect()
    }

    #[test]
    fn our_own_mark_is_found_and_says_whose_it_is() {
        let master = MasterPrefix::of(&[7; 16]);
        let own = Arc::new(Watermark::new(&Secret::PUBLISHED));
        let mut rgb = grain(384);
        let unmarked = grey(&rgb, 384);
        own.embed(&mut rgb, 384, 384, master).expect("large enough");
        let (marks, file) = (OwnMarks::new(vec![own]), Bytes::new());
        let found = marks.look(Shown { file: &file, grey: &grey(&rgb, 384) }).expect("it looked").expect("found");
        assert_eq!(found.master(), Some(master));
        assert_eq!(found.master_prefix.as_deref(), Some("070707070707"));
        assert!(found.key.as_ref().is_some_and(|key| key.is_published), "{found:?}");
        assert!(found.chance_log10.is_some_and(|chance| chance < -8.0), "{found:?}");
        assert_eq!(marks.look(Shown { file: &file, grey: &unmarked }), Ok(None));
    }

    #[test]
    fn values_are_sixteen_digits_of_this_version() {
        assert!(payload("1abc111111111111").is_some());
        for wrong in ["", "2abc111111111111", "1ABC111111111111", "1abc11111111111", "+abc111111111111"] {
            assert_eq!(payload(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_foreign_program_is_a_detector_and_its_faults_are_told() {
        let look = |script: &str| {
            let command = ["sh", "-c", script].map(str::to_owned).to_vec();
            let config = DetectorConfig { algorithm: "com.example.mark".to_owned(), command, deadline_ms: 60_000 };
            let marks = ForeignMarks::new(&config).expect("a program");
            marks.look(Shown { file: &Bytes::from_static(b"picture"), grey: &grey(&[0; 12], 2) })
        };
        assert_eq!(look("cat >/dev/null; echo '{\"found\": false}'"), Ok(None));
        let found = look("[ \"$(cat)\" = picture ] && echo '{\"found\":true,\"value\":\"0110\",\"confidence\":0.9}'");
        let found = found.expect("it looked").expect("found");
        assert_eq!((found.algorithm.as_str(), found.value.as_str()), ("com.example.mark", "0110"));
        assert!(look("echo '{\"found\":true}'").is_err() && look("echo no").is_err() && look("exit 3").is_err());
        assert!(look("echo '{\"found\":true,\"value\":\"a\\u0007\"}'").is_err());
    }
}
