//! `bildkante-edge inspect`: what a picture says of its origin, layer by layer, and whether that holds; and whether a signed
//! report of an edge does.

mod fetch;
mod masters;
mod text;

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use bildkante_shared::{console, say};
use bytes::Bytes;
use serde_json::{Value, json};

use super::remote::RemoteArgs;
use crate::config::Config;
use crate::credentials::{
    DOCUMENT_BYTES_MAX, MANIFEST_BYTES_MAX, SignedDocument, Standing, Trust, VERIFIED_FILE_BYTES_MAX, VerifiedDocument,
};
use crate::verify::{Detector, Subject, Verdict, VerifyConfig, sha256};
use crate::words::clock::Clock;

/// `bildkante-edge inspect`.
#[derive(Debug, clap::Args)]
pub struct InspectArgs {
    /// The picture: AVIF, WebP, JPEG or PNG; a file, or an http:// or https:// URL
    #[arg(value_name = "FILE|URL", required_unless_present = "result")]
    picture: Option<String>,
    /// Its C2PA manifest, where that is not in the file
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
    /// PEM file of authorities whose signers count as known; without it every signer is unknown
    #[arg(long, value_name = "FILE")]
    trust: Option<PathBuf>,
    /// Configuration of an edge, for its watermark's keys and its `[verify]`; without it the published key is tried
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Verify this signed report, and that it is of the picture where one is named
    #[arg(long, value_name = "FILE", conflicts_with = "manifest")]
    result: Option<PathBuf>,
    /// Also ask a running edge which of all its masters the picture looks like, or is named by its watermark
    #[arg(long, conflicts_with = "result")]
    masters: bool,
    #[command(flatten)]
    remote: RemoteArgs,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// Prints what the picture carries. The exit status says whether its manifest, if it has one, holds.
///
/// # Errors
/// When a file cannot be read, or is no picture in a format that is known here.
pub fn inspect(args: &InspectArgs) -> anyhow::Result<ExitCode> {
    let config = args.config.as_deref().map(Config::load).transpose()?.unwrap_or_default();
    let trust = trust(args.trust.as_deref().or(config.verify.trust.as_deref()))?;
    match &args.result {
        Some(result) => inspect_result(args, result, &trust),
        None => inspect_picture(args, &config, trust),
    }
}

fn inspect_picture(args: &InspectArgs, config: &Config, trust: Trust) -> anyhow::Result<ExitCode> {
    let verify = VerifyConfig { file_bytes_max: VERIFIED_FILE_BYTES_MAX, ..config.verify.clone() };
    let detector = Detector::new(&verify, config.detectable_watermarks()?, trust);
    let file = picture(args)?.context("no picture is named")?;
    let manifest = args.manifest.as_deref().map(|path| read(path, MANIFEST_BYTES_MAX)).transpose()?;
    let subject = Subject { file: &file, manifest: manifest.as_deref(), now_unix_s: Clock::System.unix_s() };
    let name = args.picture.as_deref().unwrap_or_default();
    let (mut report, _) = detector.inspect(subject).with_context(|| name.to_owned())?;
    if args.masters {
        masters::ask(&args.remote, config.verify.distance_bits_max, &mut report)?;
    }
    if args.json {
        say!("{}", serde_json::to_string(&report)?)?;
    } else {
        console::say(text::of(&report))?;
    }
    Ok(if report.verdict == Verdict::Broken { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn inspect_result(args: &InspectArgs, result: &Path, trust: &Trust) -> anyhow::Result<ExitCode> {
    let file = picture(args)?;
    let name = || result.display().to_string();
    let document = document(&read(result, DOCUMENT_BYTES_MAX)?).with_context(name)?;
    let VerifiedDocument { payload, organisation, standing } =
        document.verify(trust, Clock::System.unix_s()).with_context(name)?;
    let report: Value = serde_json::from_slice(&payload).context("what is signed is no report")?;
    let told = report["file"]["sha256"].as_str().context("what is signed names no picture")?;
    let is_of_picture = file.map(|file| sha256(&file) == told);
    if args.json {
        let is_known = standing == Standing::Trusted;
        say!(
            "{}",
            json!({ "signed_by": organisation, "is_known": is_known, "is_of_the_picture": is_of_picture, "report": report })
        )?;
    } else {
        console::say(text::of_result(&report, &organisation, standing, is_of_picture))?;
    }
    Ok(if is_of_picture == Some(false) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The signed document itself, or the answer of `POST /verify` that holds it.
fn document(text: &[u8]) -> anyhow::Result<SignedDocument> {
    let value: Value = serde_json::from_slice(text).context("it is no JSON")?;
    match value.get("document") {
        None => Ok(SignedDocument::parse(text)?),
        Some(Value::Null) => bail!("this report was not signed: the edge that made it has no signer"),
        Some(document) => Ok(SignedDocument::parse(document.to_string().as_bytes())?),
    }
}

fn trust(path: Option<&Path>) -> anyhow::Result<Trust> {
    let Some(path) = path else { return Ok(Trust::none()) };
    let pem = String::from_utf8(read(path, MANIFEST_BYTES_MAX)?).context("the trusted certificates are no text")?;
    Trust::from_pem(&pem).with_context(|| path.display().to_string())
}

fn picture(args: &InspectArgs) -> anyhow::Result<Option<Bytes>> {
    let Some(picture) = &args.picture else { return Ok(None) };
    let is_url = ["http://", "https://"].iter().any(|scheme| picture.starts_with(scheme));
    let file = if is_url {
        fetch::file(picture, VERIFIED_FILE_BYTES_MAX).with_context(|| picture.clone())?
    } else {
        read(Path::new(picture), VERIFIED_FILE_BYTES_MAX)?.into()
    };
    Ok(Some(file))
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
