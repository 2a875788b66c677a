//! A program that signs: a hardware module's tool, a client of a signing service.
//!
//! It gets the bytes to sign on standard input and writes the raw signature (64 bytes for both algorithms; ECDSA in DER is
//! taken, too) to standard output: see [`crate::program`] for how it is held. Nothing of the key enters this process.

use std::time::Duration;

use crate::program::{Program, ProgramFault};

/// Most bytes read of what the program writes. A signature has 64, or up to 72 in DER.
const OUTPUT_BYTES_MAX: usize = 128;

/// Why a signing program gave no signature.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandFault {
    #[error("no program is named")]
    Empty,
    #[error("it cannot be started: {reason}")]
    Start { reason: String },
    #[error("it did not answer within {deadline_ms} ms")]
    Hung { deadline_ms: u128 },
    #[error("it failed ({status}): {complaint}")]
    Failed { status: String, complaint: String },
    #[error("it wrote more than {OUTPUT_BYTES_MAX} bytes, which no signature has")]
    Flooded,
    #[error("what it wrote ({bytes} bytes) is no signature by the certificate's key")]
    Wrong { bytes: usize },
}

impl CommandFault {
    /// For logs and metric labels.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Start { .. } => "start",
            Self::Hung { .. } => "hung",
            Self::Failed { .. } => "failed",
            Self::Flooded => "flooded",
            Self::Wrong { .. } => "wrong",
        }
    }
}

impl From<ProgramFault> for CommandFault {
    fn from(fault: ProgramFault) -> Self {
        match fault {
            ProgramFault::Empty => Self::Empty,
            ProgramFault::Start { reason } => Self::Start { reason },
            ProgramFault::Hung { deadline_ms } => Self::Hung { deadline_ms },
            ProgramFault::Failed { status, complaint } => Self::Failed { status, complaint },
            ProgramFault::Flooded { .. } => Self::Flooded,
        }
    }
}

/// A program, its arguments and how long it may take.
#[derive(Debug, Clone)]
pub(super) struct SigningCommand(Program);

impl SigningCommand {
    /// `argv` is run as it stands, without a shell.
    pub(super) fn new(argv: &[String], deadline: Duration) -> Result<Self, CommandFault> {
        Ok(Self(Program::new(argv, deadline, OUTPUT_BYTES_MAX)?))
    }

    pub(super) fn program(&self) -> &str {
        &self.0.name
    }

    /// What the program writes for `message`. Blocks for as long as it takes.
    pub(super) fn run(&self, message: &[u8]) -> Result<Vec<u8>, CommandFault> {
        Ok(self.0.run(message.to_vec())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_told_in_the_words_of_signing() {
        let signing = |argv: &[&str]| {
            let argv: Vec<String> = argv.iter().map(ToString::to_string).collect();
            SigningCommand::new(&argv, Duration::from_secs(60)).and_then(|command| command.run(b"message"))
        };
        assert_eq!(signing(&["cat"]).as_deref(), Ok(&b"message"[..]));
        assert_eq!(signing(&["yes"]), Err(CommandFault::Flooded));
        assert_eq!(signing(&[]), Err(CommandFault::Empty));
        assert!(matches!(signing(&["/nowhere/sign"]), Err(CommandFault::Start { .. })));
    }
}
