//! `bildkante-edge provenance`: an authority for development.

use std::path::PathBuf;
use std::process::ExitCode;

use bildkante_shared::{remark, say};

use crate::credentials::authority;
use crate::words::clock::Clock;

/// `bildkante-edge provenance`.
#[derive(Debug, clap::Args)]
pub struct ProvenanceArgs {
    #[command(subcommand)]
    command: ProvenanceCommand,
}

#[derive(Debug, clap::Subcommand)]
enum ProvenanceCommand {
    /// Make an authority for development and a certificate that signs pictures
    Init {
        /// The folder for the files; it is made where it is missing, and nothing in it is overwritten
        dir: PathBuf,
    },
}

/// # Errors
/// When a file is there already or cannot be written.
pub fn provenance(args: &ProvenanceArgs) -> anyhow::Result<ExitCode> {
    let ProvenanceCommand::Init { dir } = &args.command;
    let files = authority::init(dir, Clock::System.unix_s())?;
    say!("[provenance.signer]")?;
    say!("certificate = {:?}", files.certificate)?;
    say!("key = {:?}", files.key)?;
    remark!(
        "put these lines into the configuration. Validators will call the signer untrusted, unless they are given {}: \
         docs/provenance.md says how one gets a listed certificate",
        files.root.display()
    );
    Ok(ExitCode::SUCCESS)
}
