//! The subcommands, except `serve`: `check`, `lock` and `token` here, the others in modules of their own.

mod audit;
mod batch;
mod decode_picture;
mod dossier;
mod explain;
mod import;
mod inspect;
mod key;
mod kill;
mod progress;
mod provenance;
mod purge;
mod remote;
mod report;
mod review;
mod sign;
mod state;
mod ticket_keys;
mod warm;
mod webhook;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use bildkante_shared::{console, remark, say};
use indicatif::{ProgressBar, ProgressStyle};

use crate::admin::token;
use crate::campaign::{AltReport, Catalog, RIGHTS_NOTICE_S, RightsEnd, check_telling as check_campaigns, write_locks};
use crate::config::Config;
use crate::credentials::open_signer;
use crate::listener::tls::Expiry;
use crate::resolve::CatalogReport;
use crate::secret;
use crate::signing::{KeyRole, SigningKeys};
use crate::text_file;
use crate::words::clock::Clock;

pub use audit::{AuditArgs, audit};
pub use batch::{BatchArgs, batch};
pub use decode_picture::{DecodePictureArgs, decode_picture};
pub use dossier::{DossierArgs, dossier};
pub use explain::{ExplainArgs, explain};
pub use import::{ImportArgs, import};
pub use inspect::{InspectArgs, inspect};
pub use key::{KeyArgs, key};
pub use kill::{KillArgs, LiftArgs, StatusArgs, kill, lift, status};
pub use provenance::{ProvenanceArgs, provenance};
pub use purge::{PurgeArgs, purge};
pub use report::{ReportArgs, report};
pub use review::{ReviewArgs, review};
pub use sign::{SignArgs, new_key, sign};
pub use state::{StateArgs, state};
pub use ticket_keys::{TicketKeysArgs, ticket_keys};
pub use warm::{WarmArgs, warm};
pub use webhook::{WebhookArgs, webhook};

/// `bildkante-edge lock`.
#[derive(Debug, clap::Args)]
pub struct LockArgs {
    /// The configuration file
    #[arg(long, env = "BILDKANTE_EDGE_CONFIG", default_value = "config/edge.toml")]
    pub config: PathBuf,
    /// Folder whose folders are checkpoints, each under the name manifests use
    #[arg(long, value_name = "DIR", default_value = "gpu-node/models")]
    pub models: PathBuf,
}

/// `bildkante-edge check`.
#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    /// The configuration file
    #[arg(long, env = "BILDKANTE_EDGE_CONFIG", default_value = "config/edge.toml")]
    pub config: PathBuf,
    /// Also compare locks with the checkpoints and adapters in this folder, and with the images
    #[arg(long, value_name = "DIR")]
    pub models: Option<PathBuf>,
}

/// Checks configuration, manifests, libraries, locks, certificates and signing keys.
///
/// # Errors
/// When a file is wrong; every fault is named with its place.
pub fn check(config: &Config, args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let bar = ProgressBar::new(0).with_style(ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len}")?);
    let checked = check_campaigns(&config.sources()?, args.models.as_deref(), |fitting| {
        bar.set_message(format!("layers of {}", fitting.campaign));
        bar.set_length(fitting.of);
        bar.set_position(fitting.done);
    });
    bar.finish_and_clear();
    let catalog = checked?;
    console::say(CatalogReport::of(&catalog))?;
    let public = config.listen.tls.as_ref().map(|tls| tls.inspect().context("`listen.tls`")).transpose()?;
    let admin = config.listen.admin_tls.as_ref().map(|tls| tls.inspect().context("`listen.admin_tls`")).transpose()?;
    for (listener, certificate) in each("https", public).chain(each("admin", admin)) {
        let ends = UNIX_EPOCH + Duration::from_secs(u64::try_from(certificate.unix_s).unwrap_or_default());
        let ended = if ends <= SystemTime::now() { ": it is over" } else { "" };
        say!("{listener}: a certificate for {} until {}{ended}", certificate.name, httpdate::fmt_http_date(ends))?;
    }
    if let Some(keys) = signing_keys(config)? {
        for key in keys.facts(Clock::System.unix_s()) {
            let state = match (key.is_over, key.role) {
                (true, _) => "is over",
                (false, KeyRole::Active) => "signs and verifies",
                (false, KeyRole::Retired) => "verifies only",
            };
            say!("signing: key {} {state}", key.id)?;
        }
    }
    check_signer(config)?;
    check_watermark(config)?;
    let (alt_texts, rights) = (check_alt_texts(&catalog), check_rights(&catalog)?);
    Ok(if alt_texts == ExitCode::SUCCESS { rights } else { alt_texts })
}

/// Says what readers who do not see the pictures are told amiss. An empty text fails the check.
fn check_alt_texts(catalog: &Catalog) -> ExitCode {
    let report = AltReport::of(catalog);
    for finding in &report.findings {
        remark!("{finding}");
    }
    if report.has_errors() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Says which rights end soon. One that is over fails the check; the edge shows none of its pictures.
fn check_rights(catalog: &Catalog) -> anyhow::Result<ExitCode> {
    let (now_s, mut are_over) = (Clock::System.unix_s(), 0);
    for campaign in catalog.campaigns() {
        for RightsEnd { unix_s, of } in campaign.rights_ends() {
            let ends = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(unix_s));
            if unix_s <= now_s {
                are_over += 1;
                remark!(
                    "{}: the rights of {of} ended on {ends}: no picture that depends on it is shown",
                    campaign.name
                );
            } else if unix_s <= now_s + RIGHTS_NOTICE_S {
                say!("{}: the rights of {of} end on {ends}", campaign.name)?;
            }
        }
    }
    Ok(if are_over == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Says which key marks pictures, and whether anybody has it.
fn check_watermark(config: &Config) -> anyhow::Result<()> {
    let watermarks = config.provenance.watermark.open().context("`provenance.watermark`")?;
    Ok(match watermarks.marking() {
        None => say!("watermark: off"),
        Some(mark) if watermarks.is_published() => say!(
            "watermark: key {}, which is published: anybody can forge and erase its marks. Set `provenance.watermark.key`",
            mark.key()
        ),
        Some(mark) => say!("watermark: key {}", mark.key()),
    }?)
}

/// Says who signs pictures, and has them sign once.
fn check_signer(config: &Config) -> anyhow::Result<()> {
    let Some(signer) = &config.provenance.signer else {
        return Ok(say!("provenance: no signer is configured: pictures are served unsigned")?);
    };
    let now_unix_s = Clock::System.unix_s();
    let wants_status = signer.ocsp.is_some();
    let signer = open_signer(signer, now_unix_s).context("`provenance.signer`")?;
    signer.try_out(now_unix_s).context("`provenance.signer`")?;
    let ends = UNIX_EPOCH + Duration::from_secs(signer.expires_unix_s());
    if wants_status && signer.status(now_unix_s).is_none() {
        remark!("`provenance.signer.ocsp` is out of date and left out of manifests: fetch a new response");
    }
    Ok(say!("provenance: {} signs until {}", signer.subject(), httpdate::fmt_http_date(ends))?)
}

fn each(listener: &'static str, held: Option<Vec<Expiry>>) -> impl Iterator<Item = (&'static str, Expiry)> {
    held.into_iter().flatten().map(move |certificate| (listener, certificate))
}

/// Prints a new token of the admin API and its hash.
///
/// # Errors
/// When the system has no randomness.
pub fn token() -> anyhow::Result<ExitCode> {
    let token = token::generate().context("no token can be made")?;
    say!("{token}")?;
    remark!(
        "for `[admin] tokens`: {{ name = \"…\", hash = \"{}\", scopes = [\"read\", \"purge\", \"warm\"] }}",
        token::hash(&token)
    );
    Ok(ExitCode::SUCCESS)
}

/// Writes the locks that need it.
///
/// # Errors
/// When a manifest is wrong, a checkpoint is not there, or a lock cannot be written.
pub fn lock(config: &Config, args: &LockArgs) -> anyhow::Result<ExitCode> {
    for outcome in write_locks(&config.sources()?, &args.models)? {
        let said = if outcome.has_changed { "written" } else { "up to date" };
        say!("{}: {said}", outcome.path.display())?;
        let pins = &outcome.lock.pins;
        for (name, digest) in pins.checkpoints.iter().chain(&pins.adapters).chain(&pins.images) {
            say!("  {name}  {digest}")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn signing_keys(config: &Config) -> anyhow::Result<Option<SigningKeys>> {
    let Some(file) = &config.signing.keys_file else { return Ok(None) };
    let place = || file.display().to_string();
    let text = secret::open(file).and_then(text_file::read_opened).with_context(place)?;
    Ok(Some(SigningKeys::parse(&text).with_context(place)?))
}
