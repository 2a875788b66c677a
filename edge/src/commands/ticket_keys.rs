//! `bildkante-edge ticket-keys`: rotates the file of session-ticket keys, for fleets whose edges do not do it themselves.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use bildkante_shared::say;

use crate::listener::tls::tickets::{LIFETIME_S_MAX, Rotation, rotate};

/// `bildkante-edge ticket-keys`.
#[derive(Debug, clap::Args)]
pub struct TicketKeysArgs {
    /// The file; made, readable by this user only, where there is none
    #[arg(long, value_name = "FILE")]
    pub file: PathBuf,
    /// Seconds until the new key is used: time to bring the file to every edge
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    pub lead_s: u32,
    /// Seconds a ticket lives (`listen.tls.tickets.lifetime_s`): keys that can open none any more are erased
    #[arg(long, value_name = "SECONDS", default_value_t = 86_400, value_parser = clap::value_parser!(u32).range(60..=i64::from(LIFETIME_S_MAX)))]
    pub lifetime_s: u32,
}

/// Adds a key.
///
/// # Errors
/// When the file cannot be read or replaced.
pub fn ticket_keys(args: &TicketKeysArgs) -> anyhow::Result<ExitCode> {
    let rotation = Rotation { lifetime_s: args.lifetime_s, lead: Duration::from_secs(args.lead_s.into()) };
    let count = rotate(&args.file, &rotation, SystemTime::now()).context("the ticket keys are as they were")?;
    say!("{}: {count} keys", args.file.display())?;
    Ok(ExitCode::SUCCESS)
}
