//! Who signs: a certificate chain, and a key in a file or behind a program.
//!
//! Invariants: the key belongs to the certificate, which is checked when the signer is opened; a program's signature is
//! verified before it enters a manifest. A signer never changes; rotation opens another one.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::certificate::{CertificateFault, Chain};
use super::command::{CommandFault, SigningCommand};
use super::key::{Algorithm, KEY_FILE_BYTES_MAX, Key, KeyFault, SIGNATURE_BYTES};
use super::ocsp::{Status, StatusFault};
use crate::secret;
use crate::text_file;

/// Why there is no signature. Each names the file or program to look at.
#[derive(Debug, thiserror::Error)]
pub enum SignerError {
    #[error("{}: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{}: {fault}", path.display())]
    Certificate { path: PathBuf, fault: CertificateFault },
    #[error("{}: {fault}", path.display())]
    Key { path: PathBuf, fault: KeyFault },
    #[error("the key in {} does not belong to the certificate in {}", key.display(), certificate.display())]
    Mismatch { key: PathBuf, certificate: PathBuf },
    #[error("the signing program {program}: {fault}")]
    Command { program: String, fault: CommandFault },
    #[error("{}: {fault}", path.display())]
    Status { path: PathBuf, fault: StatusFault },
    #[error("the operating system gives no randomness")]
    Random,
}

impl SignerError {
    /// For logs and metric labels.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => "unreadable",
            Self::Certificate { fault, .. } => fault.as_str(),
            Self::Key { .. } => "key",
            Self::Mismatch { .. } => "mismatch",
            Self::Command { fault, .. } => fault.as_str(),
            Self::Status { fault, .. } => fault.as_str(),
            Self::Random => "random",
        }
    }
}

/// Signs manifests.
#[derive(Debug)]
pub struct Signer {
    chain_file: PathBuf,
    chain: Chain,
    backend: Backend,
    status: Option<Status>,
}

#[derive(Debug)]
enum Backend {
    Key(Key),
    Command(SigningCommand),
}

impl Signer {
    /// Reads a PEM chain, the signer's certificate first, and its PEM key (PKCS#8 or SEC 1, not encrypted).
    ///
    /// # Errors
    /// When a file cannot be read, others may read the key, the chain may not sign at `now_unix_s`, or the two do not
    /// belong together.
    pub fn from_files(certificate: &Path, key: &Path, now_unix_s: u64) -> Result<Self, SignerError> {
        let chain = read_chain(certificate, now_unix_s)?;
        let unreadable = |source| SignerError::Unreadable { path: key.to_owned(), source };
        let pem = secret::read(key, KEY_FILE_BYTES_MAX).map_err(unreadable)?;
        let fault = |fault| SignerError::Key { path: key.to_owned(), fault };
        let private = Key::from_pem(&pem).map_err(fault)?;
        if private.public_key() != chain.public_key {
            return Err(SignerError::Mismatch { key: key.to_owned(), certificate: certificate.to_owned() });
        }
        Ok(Self { chain_file: certificate.to_owned(), chain, backend: Backend::Key(private), status: None })
    }

    /// Reads a PEM chain whose key only the program `argv` can use. The program is not run yet: see [`Self::try_out`].
    ///
    /// # Errors
    /// When the chain cannot be read or may not sign at `now_unix_s`, or `argv` is empty.
    pub fn from_command(
        certificate: &Path,
        argv: &[String],
        deadline: Duration,
        now_unix_s: u64,
    ) -> Result<Self, SignerError> {
        let chain = read_chain(certificate, now_unix_s)?;
        let fault = |fault| SignerError::Command { program: String::new(), fault };
        let command = SigningCommand::new(argv, deadline).map_err(fault)?;
        Ok(Self { chain_file: certificate.to_owned(), chain, backend: Backend::Command(command), status: None })
    }

    /// With what the authority says of its revocation, from a file with an OCSP response in DER.
    ///
    /// # Errors
    /// When the certificate was revoked, or the file does not say that it is good.
    pub fn with_status(self, path: &Path) -> Result<Self, SignerError> {
        let fault = |fault| SignerError::Status { path: path.to_owned(), fault };
        let status = Status::read(path, &self.chain.serial).map_err(fault)?;
        Ok(Self { status: Some(status), ..self })
    }

    /// The OCSP response for manifests that are signed at `now_unix_s`; `None` where none is given, or a newer one is out.
    #[must_use]
    pub fn status(&self, now_unix_s: u64) -> Option<&[u8]> {
        self.status.as_ref().and_then(|status| status.der(now_unix_s))
    }

    /// The organisation that validators show.
    #[must_use]
    pub fn organisation(&self) -> &str {
        &self.chain.organisation
    }

    /// The whole subject of the certificate.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.chain.subject
    }

    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        self.chain.algorithm
    }

    /// The last second in which the chain is valid, since 1970.
    #[must_use]
    pub fn expires_unix_s(&self) -> u64 {
        u64::try_from(self.chain.not_after_unix_s).unwrap_or(0)
    }

    /// Signs a few bytes and verifies the signature: for `check`. Blocks for as long as a program takes.
    ///
    /// # Errors
    /// When the chain is not valid at `now_unix_s`, or the signature fails.
    pub fn try_out(&self, now_unix_s: u64) -> Result<(), SignerError> {
        self.check_time(now_unix_s)?;
        self.signature(b"bildkante signs this to try its signer out").map(drop)
    }

    pub(super) fn check_time(&self, now_unix_s: u64) -> Result<(), SignerError> {
        let path = &self.chain_file;
        self.chain.check_time(now_unix_s).map_err(|fault| SignerError::Certificate { path: path.clone(), fault })
    }

    pub(super) fn chain(&self) -> &[Vec<u8>] {
        self.chain.ders()
    }

    /// Bytes of a `COSE_Sign1` by this signer, without timestamp: exactly, because the library pads a shorter one by 256
    /// bytes at least.
    pub(super) fn cose_bytes(&self) -> usize {
        let certificates = self.chain().iter().map(|der| byte_string_bytes(der.len())).sum::<usize>();
        let array = usize::from(self.chain().len() > 1);
        // Head of the map, algorithm with its label, label of the chain.
        let protected = 1 + 2 + 2 + array + certificates;
        // Tag, array, protected header, an empty unprotected one, a payload that is elsewhere, the signature.
        1 + 1 + byte_string_bytes(protected) + 1 + 1 + byte_string_bytes(SIGNATURE_BYTES)
    }

    /// The raw signature of `message`.
    pub(super) fn signature(&self, message: &[u8]) -> Result<Vec<u8>, SignerError> {
        match &self.backend {
            Backend::Key(key) => key.sign(message).ok_or(SignerError::Random),
            Backend::Command(command) => self
                .by_command(command, message)
                .map_err(|fault| SignerError::Command { program: command.program().to_owned(), fault }),
        }
    }

    fn by_command(&self, command: &SigningCommand, message: &[u8]) -> Result<Vec<u8>, CommandFault> {
        let written = command.run(message)?;
        if self.chain.algorithm.verifies(&self.chain.public_key, message, &written) {
            Ok(written)
        } else {
            Err(CommandFault::Wrong { bytes: written.len() })
        }
    }
}

/// A byte string in CBOR (RFC 8949 §3): its head, and itself.
const fn byte_string_bytes(length: usize) -> usize {
    let head = match length {
        0..24 => 1,
        24..256 => 2,
        256..65_536 => 3,
        _ => 5,
    };
    head + length
}

fn read_chain(path: &Path, now_unix_s: u64) -> Result<Chain, SignerError> {
    let unreadable = |source| SignerError::Unreadable { path: path.to_owned(), source };
    let pem = text_file::read(path).map_err(unreadable)?;
    let fault = |fault| SignerError::Certificate { path: path.to_owned(), fault };
    Chain::from_pem(pem.as_bytes(), now_unix_s).map_err(fault)
}
