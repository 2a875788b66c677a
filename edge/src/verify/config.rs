//! `[verify]`: whether anybody may have pictures checked here, and what that may cost.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::credentials::VERIFIED_FILE_BYTES_MAX;
use crate::decoding::{DecodeLimits, DecoderCommand};

/// Largest picture that may be configured: its lightness fits into a buffer, and its child into 4 GiB.
const PIXELS_MAX: u64 = 256 << 20;
/// Most detectors of other makes.
const DETECTORS_MAX: usize = 4;

/// See the module's documentation.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VerifyConfig {
    /// Whether `/verify` is on the public listener.
    pub enabled: bool,
    /// Largest picture that is taken, in bytes.
    pub file_bytes_max: usize,
    /// Largest picture that is decoded.
    pub pixels_max: u64,
    /// Pictures that are checked at once, each by a core.
    pub checks_max: usize,
    /// Pictures that wait for that, in memory.
    pub waiting_max: usize,
    /// Longest time that a picture may take to arrive.
    pub upload_ms: u64,
    /// Longest time that decoding may take.
    pub decode_ms: u64,
    /// Pictures that one client network may have checked at once, and per minute after that; 0 per minute: no limit.
    pub network_burst: u32,
    pub network_per_minute: u32,
    /// Networks remembered.
    pub networks_max: u64,
    /// Bits of 256 in which the fingerprints of pictures that are called alike may differ.
    pub distance_bits_max: u32,
    /// PEM: authorities whose signers count as known.
    pub trust: Option<PathBuf>,
    /// The command line in front of which nothing but `--…` options are put: a program that decodes as
    /// `bildkante-edge decode-picture`. Empty: this one.
    pub decoder: Vec<String>,
    /// Programs that look for other makers' watermarks.
    pub detectors: Vec<DetectorConfig>,
}

/// `[[verify.detectors]]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DetectorConfig {
    /// Name of the algorithm in C2PA's list.
    pub algorithm: String,
    /// A program and its arguments: the picture's file on its standard input, JSON on its standard output.
    pub command: Vec<String>,
    #[serde(default = "detector_ms")]
    pub deadline_ms: u64,
}

const fn detector_ms() -> u64 {
    10_000
}

impl Default for VerifyConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            file_bytes_max: 20 << 20,
            pixels_max: 64 << 20,
            checks_max: 1,
            waiting_max: 4,
            upload_ms: 60_000,
            decode_ms: 20_000,
            network_burst: 10,
            network_per_minute: 10,
            networks_max: 20_000,
            distance_bits_max: 24,
            trust: None,
            decoder: Vec::new(),
            detectors: Vec::new(),
        }
    }
}

impl VerifyConfig {
    /// # Errors
    /// The key that is out of bounds, and why.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        let within = |key, value: u64, min: u64, max: u64| {
            let is_within = (min..=max).contains(&value);
            if is_within { Ok(()) } else { Err((key, format!("is {min} to {max}"))) }
        };
        within("verify.file_bytes_max", self.file_bytes_max as u64, 1024, VERIFIED_FILE_BYTES_MAX as u64)?;
        within("verify.pixels_max", self.pixels_max, 1024, PIXELS_MAX)?;
        within("verify.checks_max", self.checks_max as u64, 1, 64)?;
        within("verify.waiting_max", self.waiting_max as u64, 0, 256)?;
        within("verify.upload_ms", self.upload_ms, 100, 600_000)?;
        within("verify.decode_ms", self.decode_ms, 100, 120_000)?;
        within("verify.network_burst", u64::from(self.network_burst), 1, u64::from(u32::MAX))?;
        within("verify.networks_max", self.networks_max, 1, u64::MAX)?;
        within("verify.distance_bits_max", u64::from(self.distance_bits_max), 0, 64)?;
        within("verify.detectors", self.detectors.len() as u64, 0, DETECTORS_MAX as u64)?;
        for detector in &self.detectors {
            within("verify.detectors.deadline_ms", detector.deadline_ms, 100, 120_000)?;
            if detector.command.is_empty() {
                return Err(("verify.detectors.command", "names no program".to_owned()));
            }
            let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
            if detector.algorithm.is_empty()
                || detector.algorithm.len() > 128
                || !detector.algorithm.bytes().all(is_name)
            {
                return Err(("verify.detectors.algorithm", "is no name such as `com.example.watermark`".to_owned()));
            }
        }
        Ok(())
    }

    /// What decodes strangers' pictures: those that are checked, and AVIF that people bring.
    #[must_use]
    pub fn decoder(&self) -> DecoderCommand {
        DecoderCommand::new(&self.decoder)
    }

    /// What decoding one picture may cost.
    #[must_use]
    pub const fn decode_limits(&self) -> DecodeLimits {
        DecodeLimits {
            file_bytes_max: self.file_bytes_max,
            pixels_max: self.pixels_max,
            deadline: Duration::from_millis(self.decode_ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detector(algorithm: &str, command: &[&str]) -> VerifyConfig {
        let command = command.iter().map(ToString::to_string).collect();
        let detector = DetectorConfig { algorithm: algorithm.to_owned(), command, deadline_ms: 1_000 };
        VerifyConfig { detectors: vec![detector], ..VerifyConfig::default() }
    }

    #[test]
    fn values_out_of_bounds_name_their_key() {
        assert_eq!(VerifyConfig::default().check(), Ok(()));
        assert_eq!(detector("com.adobe.trustmark.P", &["trustmark"]).check(), Ok(()));
        let key = |config: VerifyConfig| config.check().expect_err("refused").0;
        assert_eq!(key(VerifyConfig { pixels_max: 0, ..VerifyConfig::default() }), "verify.pixels_max");
        assert_eq!(key(VerifyConfig { checks_max: 0, ..VerifyConfig::default() }), "verify.checks_max");
        assert_eq!(key(detector("with space", &["x"])), "verify.detectors.algorithm");
        assert_eq!(key(detector("com.example", &[])), "verify.detectors.command");
    }
}
