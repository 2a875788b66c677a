//! `bildkante-edge report`: what a deployer documents, and what of it is missing.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::{Context, bail};
use bildkante_shared::remark;

use super::dossier::write;
use crate::campaign::Catalog;
use crate::config::Config;
use crate::papers::report::{Installation, Report, State, WatermarkUse, report as report_of};
use crate::papers::report_html;
use crate::words::Moment;

/// Reports on every campaign.
const ALL: &str = "all";

/// `bildkante-edge report`.
#[derive(Debug, clap::Args)]
pub struct ReportArgs {
    #[command(subcommand)]
    on: On,
}

#[derive(Debug, clap::Subcommand)]
enum On {
    /// What Regulation (EU) 2024/1689 asks of those who deploy a system that makes pictures
    AiAct(AiActArgs),
}

#[derive(Debug, clap::Args)]
struct AiActArgs {
    /// The configuration file
    #[arg(long, env = "BILDKANTE_EDGE_CONFIG", default_value = "config/edge.toml")]
    config: PathBuf,
    /// A campaign, or `all`
    #[arg(long, value_name = "NAME")]
    campaign: String,
    /// JSON instead of a page
    #[arg(long)]
    json: bool,
    /// A file to write instead of standard output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Fail, and name the points, where one is missing
    #[arg(long)]
    strict: bool,
}

impl ReportArgs {
    /// The configuration file.
    #[must_use]
    pub fn config(&self) -> &PathBuf {
        let On::AiAct(args) = &self.on;
        &args.config
    }
}

/// Reports on campaigns as their files are; no edge is asked.
///
/// # Errors
/// When the campaigns cannot be loaded, or there is none of that name.
pub fn report(config: &Config, args: &ReportArgs) -> anyhow::Result<ExitCode> {
    let On::AiAct(args) = &args.on;
    let catalog = Catalog::load(&config.sources()?).context("the campaigns cannot be loaded")?;
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok();
    let now = since.and_then(|since| Moment::from_unix_s(since.as_secs()));
    let chosen = catalog.campaigns().filter(|campaign| args.campaign == ALL || campaign.name == args.campaign);
    let reports: Vec<Report> = chosen.map(|campaign| report_of(campaign, installation(config), now)).collect();
    if reports.is_empty() {
        bail!("there is no campaign `{}`", args.campaign);
    }
    print(args.out.as_deref(), args.json, &reports)?;
    Ok(if args.strict { verdict(&reports) } else { ExitCode::SUCCESS })
}

fn print(out: Option<&Path>, as_json: bool, reports: &[Report]) -> anyhow::Result<()> {
    let text = if as_json { format!("{}\n", serde_json::to_string_pretty(reports)?) } else { report_html(reports) };
    write(out, &text)
}

fn verdict(reports: &[Report]) -> ExitCode {
    let mut is_whole = true;
    for report in reports {
        for point in report.points.iter().filter(|point| point.state == State::Missing) {
            is_whole = false;
            remark!("{}: {} ({}): {}", report.campaign, point.title, point.article, point.says);
        }
    }
    if is_whole { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn installation(config: &Config) -> Installation {
    let provenance = &config.provenance;
    Installation {
        is_signed: provenance.signer.is_some(),
        is_timestamped: provenance.signer.is_some() && provenance.timestamp.is_some(),
        watermark: match (provenance.watermark.enabled, &provenance.watermark.key) {
            (false, _) => WatermarkUse::Off,
            (true, None) => WatermarkUse::Published,
            (true, Some(_)) => WatermarkUse::Own,
        },
        has_access_log: config.access_log.is_on(),
    }
}
