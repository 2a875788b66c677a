//! `bildkante-edge dossier`: everything there is to say of one picture.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use bildkante_shared::durable::{self, Durability};
use bildkante_shared::{console, remark};
use http::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::remote::{Remote, RemoteArgs};

/// `bildkante-edge dossier`.
#[derive(Debug, clap::Args)]
pub struct DossierArgs {
    /// A URL of the picture, `campaign/slot?axis=value`, or the id of its master or recipe
    #[arg(value_name = "MASTER|URL")]
    of: String,
    /// JSON instead of a page
    #[arg(long)]
    json: bool,
    /// A file to write instead of standard output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// Asks a running edge, whose caches and bindings no other process can open.
///
/// # Errors
/// When the edge cannot be asked, or knows no such picture.
pub fn dossier(args: &DossierArgs) -> anyhow::Result<ExitCode> {
    let remote = Remote::reading(&args.remote)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    let of = utf8_percent_encode(&args.of, NON_ALPHANUMERIC);
    let text = if args.json {
        let body = runtime.block_on(remote.demand(Method::GET, &format!("dossier?of={of}"), None))?.body;
        format!("{}\n", serde_json::to_string_pretty(&body)?)
    } else {
        runtime.block_on(remote.page(&format!("dossier?of={of}&as=html")))?
    };
    write(args.out.as_deref(), &text)?;
    Ok(ExitCode::SUCCESS)
}

/// Into a file, whole or not at all, or to standard output.
pub(super) fn write(out: Option<&Path>, text: &str) -> anyhow::Result<()> {
    let Some(path) = out else { return Ok(console::say(text)?) };
    durable::write(path, &[text.as_bytes()], Durability::Synced).with_context(|| path.display().to_string())?;
    remark!("{}: written", path.display());
    Ok(())
}
