//! `[provenance]`: who signs pictures, and where their manifests stand.

use std::path::PathBuf;

use serde::Deserialize;

/// See the module's documentation.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProvenanceConfig {
    /// Who signs; without it pictures are final and unsigned.
    pub signer: Option<SignerConfig>,
    /// A manifest that would add more than this share of a file is served beside it.
    pub embed_share_max: f64,
    /// Milliseconds between two looks at the signer's files.
    pub reload_ms: u64,
}

impl Default for ProvenanceConfig {
    fn default() -> Self {
        Self { signer: None, embed_share_max: 0.25, reload_ms: 10_000 }
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
    /// A program that renews the certificate. It is run when the certificate is about to end, and the files are read again.
    #[serde(default)]
    pub renew: Vec<String>,
    /// How long before its end.
    #[serde(default = "renew_before_h")]
    pub renew_before_h: u64,
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
