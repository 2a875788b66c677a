//! `[provenance]`: who signs pictures, where their manifests stand, and what marks their pixels.

use std::path::PathBuf;

use http::Uri;
use serde::Deserialize;

use super::timestamp::TOKEN_BYTES_MAX;
use crate::watermark::WatermarkConfig;

/// See the module's documentation.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProvenanceConfig {
    /// Who signs; without it pictures are final and unsigned.
    pub signer: Option<SignerConfig>,
    /// Who dates signatures; without it they have no date that counts.
    pub timestamp: Option<TimestampConfig>,
    /// A manifest that would add more than this share of a file is served beside it.
    pub embed_share_max: f64,
    pub watermark: WatermarkConfig,
    /// Milliseconds between two looks at the signer's files.
    pub reload_ms: u64,
}

impl Default for ProvenanceConfig {
    fn default() -> Self {
        Self {
            signer: None,
            timestamp: None,
            embed_share_max: 0.25,
            watermark: WatermarkConfig::default(),
            reload_ms: 10_000,
        }
    }
}

/// `[provenance.signer]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignerConfig {
    /// PEM: the signer's certificate first, then those that issued it, without the root.
    pub certificate: PathBuf,
    /// PEM: its private key.
    pub key: Option<PathBuf>,
    /// A program that signs in the key's place: the bytes on its standard input, the signature on its standard output.
    #[serde(default)]
    pub command: Vec<String>,
    /// How long it may take.
    #[serde(default = "command_ms")]
    pub command_ms: u64,
    /// DER: the authority's OCSP response that the certificate is good, for every manifest.
    pub ocsp: Option<PathBuf>,
    /// A program that renews the certificate. It is run when the certificate is about to end, and the files are read again.
    #[serde(default)]
    pub renew: Vec<String>,
    /// How long before its end.
    #[serde(default = "renew_before_h")]
    pub renew_before_h: u64,
}

/// `[provenance.timestamp]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimestampConfig {
    /// An authority by RFC 3161.
    pub url: String,
    /// How long it may take.
    #[serde(default = "deadline_ms")]
    pub deadline_ms: u64,
    /// What is reserved in a manifest for its token. What the token leaves free stays in the file.
    #[serde(default = "token_bytes_max")]
    pub token_bytes_max: usize,
}

const fn deadline_ms() -> u64 {
    10_000
}

const fn token_bytes_max() -> usize {
    7168
}

impl TimestampConfig {
    /// # Errors
    /// The key that is wrong, and why.
    pub fn uri(&self) -> Result<Uri, (&'static str, String)> {
        let uri: Option<Uri> = self.url.parse().ok();
        let is_http = |uri: &Uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some();
        uri.filter(is_http).ok_or_else(|| ("provenance.timestamp.url", "is no http:// or https:// URL".to_owned()))
    }

    fn check(&self) -> Result<(), (&'static str, String)> {
        self.uri()?;
        if !(1..=60_000).contains(&self.deadline_ms) {
            return Err(("provenance.timestamp.deadline_ms", "is 1 to 60000".to_owned()));
        }
        if !(1024..=TOKEN_BYTES_MAX).contains(&self.token_bytes_max) {
            return Err(("provenance.timestamp.token_bytes_max", format!("is 1024 to {TOKEN_BYTES_MAX}")));
        }
        Ok(())
    }
}

const fn command_ms() -> u64 {
    5_000
}

const fn renew_before_h() -> u64 {
    72
}

impl ProvenanceConfig {
    /// # Errors
    /// The key that is out of bounds, and why.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        if !(0.0..=100.0).contains(&self.embed_share_max) {
            return Err(("provenance.embed_share_max", "is 0 (always beside the file) to 100".to_owned()));
        }
        if self.reload_ms == 0 {
            return Err(("provenance.reload_ms", "is zero".to_owned()));
        }
        self.watermark.check()?;
        self.timestamp.as_ref().map_or(Ok(()), TimestampConfig::check)?;
        let Some(signer) = &self.signer else { return Ok(()) };
        match (&signer.key, signer.command.is_empty()) {
            (Some(_), false) => {
                Err(("provenance.signer", "names a `key` and a `command`: one of them signs".to_owned()))
            }
            (None, true) => Err(("provenance.signer", "names neither a `key` nor a `command`".to_owned())),
            _ if !(1..=60_000).contains(&signer.command_ms) => {
                Err(("provenance.signer.command_ms", "is 1 to 60000".to_owned()))
            }
            _ => Ok(()),
        }
    }
}
