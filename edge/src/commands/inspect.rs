//! `bildkante-edge inspect`: what a picture says of its origin, and whether that holds.

use std::fmt::Write as _;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use bildkante_shared::{console, say};
use serde_json::json;

use crate::credentials::{Credentials, Finding, MANIFEST_BYTES_MAX, Standing, Trust, VERIFIED_FILE_BYTES_MAX, verify};
use crate::provenance::xmp_of;
use crate::words::Format;

/// `bildkante-edge inspect`.
#[derive(Debug, clap::Args)]
pub struct InspectArgs {
    /// The picture: AVIF, WebP, JPEG or PNG
    #[arg(value_name = "FILE")]
    picture: PathBuf,
    /// Its C2PA manifest, where that is not in the file
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
    /// PEM file of authorities whose signers count as known; without it every signer is unknown
    #[arg(long, value_name = "FILE")]
    trust: Option<PathBuf>,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// Prints what the picture carries. The exit status says whether its manifest, if it has one, holds.
///
/// # Errors
/// When a file cannot be read, or is no picture in a format that is known here.
pub fn inspect(args: &InspectArgs) -> anyhow::Result<ExitCode> {
    let picture = read(&args.picture, VERIFIED_FILE_BYTES_MAX)?;
    let Some(format) = Format::of_file(&picture) else {
        bail!("{}: is no AVIF, WebP, JPEG or PNG", args.picture.display());
    };
    let manifest = args.manifest.as_deref().map(|path| read(path, MANIFEST_BYTES_MAX)).transpose()?;
    let trust = match &args.trust {
        None => Trust::none(),
        Some(path) => {
            let pem =
                String::from_utf8(read(path, MANIFEST_BYTES_MAX)?).context("the trusted certificates are no text")?;
            Trust::from_pem(&pem).with_context(|| path.display().to_string())?
        }
    };
    let finding = verify(format, &picture, manifest.as_deref(), &trust);
    let source = digital_source(format, &picture);
    if args.json {
        say!("{}", json!({ "format": format.as_str(), "c2pa": finding, "digital_source_type": source }))?;
    } else {
        console::say(text(format, &finding, source.as_deref()))?;
    }
    Ok(if matches!(finding, Finding::Invalid { .. }) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn read(path: &Path, bytes_max: usize) -> anyhow::Result<Vec<u8>> {
    let context = || path.display().to_string();
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).with_context(context)?;
    file.take(bytes_max as u64 + 1).read_to_end(&mut bytes).with_context(context)?;
    if bytes.len() > bytes_max {
        bail!("{}: has more than {bytes_max} bytes", path.display());
    }
    Ok(bytes)
}

/// The IPTC term in the file's XMP, its last part.
fn digital_source(format: Format, picture: &[u8]) -> Option<String> {
    const NAME: &str = "DigitalSourceType";
    let xmp = String::from_utf8_lossy(xmp_of(format, picture).ok()??).into_owned();
    let (_, rest) = xmp.split_once(NAME)?;
    let uri = rest.split(['"', '\'', '<', '>']).find(|part| part.contains("digitalsourcetype/"))?;
    let term = uri.rsplit('/').next()?;
    (term.len() <= 64 && term.bytes().all(|byte| byte.is_ascii_alphanumeric())).then(|| term.to_owned())
}

fn text(format: Format, finding: &Finding, source: Option<&str>) -> String {
    let mut out = format!("format    {}\n", format.as_str());
    match finding {
        Finding::Absent => out.push_str("c2pa      no manifest\n"),
        Finding::Elsewhere { url } => {
            let _ = writeln!(out, "c2pa      the manifest is at {url}: fetch it and name it with --manifest");
        }
        Finding::Valid { credentials } => {
            out.push_str("c2pa      valid: the picture is the one that was signed\n");
            push_credentials(&mut out, credentials);
        }
        Finding::Invalid { failures, credentials } => {
            out.push_str("c2pa      INVALID\n");
            for failure in failures {
                let _ =
                    writeln!(out, "          {}: {} ({})", failure.kind.as_str(), failure.explanation, failure.code);
            }
            if let Some(credentials) = credentials {
                out.push_str("          what it claims, none of which is proven:\n");
                push_credentials(&mut out, credentials);
            }
        }
    }
    let _ = writeln!(out, "metadata  {}", source.unwrap_or("no digital source type"));
    out
}

fn push_credentials(out: &mut String, credentials: &Credentials) {
    let by = credentials.signed_by.as_ref();
    let organisation = by.and_then(|by| by.organisation.as_deref()).unwrap_or("nobody named");
    let standing = match credentials.standing {
        Standing::Trusted => "a trusted authority vouches for it",
        Standing::Unknown => "no trusted authority vouches for it",
    };
    let _ = writeln!(out, "  signer  {organisation}: {standing}");
    let _ = writeln!(out, "  signed  {}", credentials.signed_at.as_deref().unwrap_or("at a time that nobody attests"));
    for action in &credentials.actions {
        let at = action.at.as_deref().map(|at| format!(", {at}")).unwrap_or_default();
        let source = action.source.as_deref().and_then(|uri| uri.rsplit('/').next());
        let source = source.map(|source| format!(" ({source})")).unwrap_or_default();
        let _ = writeln!(out, "  action  {}{source}{at}", action.action);
    }
    if let Some(generation) = &credentials.generation {
        let _ = writeln!(out, "  recipe  {}", generation.recipe);
        let _ = writeln!(out, "  master  {}", generation.master);
        if let Some(checkpoint) = &generation.checkpoint {
            let _ = writeln!(out, "  drawn by {checkpoint}");
        }
    }
}
