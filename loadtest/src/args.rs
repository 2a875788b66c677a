//! The command line, and the bounded plans it is turned into. A [`Plan`] cannot ask for more than the limits below.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use http::HeaderValue;

use crate::target::{Reach, Target, TargetError};

pub const RATE_PER_S_MAX: u32 = 200_000;
pub const DURATION_S_MAX: u64 = 3600;
pub const CONNECTIONS_MAX: u32 = 10_000;
pub const CLIENTS_MAX: u32 = 10_000;
pub const STREAMS_MAX: u32 = 100;
pub const IN_FLIGHT_MAX: u64 = 20_000;
pub const THREADS_MAX: usize = 64;
pub const TIMEOUT_MS_MAX: u64 = 600_000;
/// File descriptors beside the connections: the runtime's own, standard streams, the report.
const SPARE_FILES: u64 = 64;

/// Open-loop load generator for Bildkante.
#[derive(Debug, Parser)]
#[command(name = "bildkante-loadtest", version, about)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Ask warm URLs at a constant rate; latency counts from each request's intended time
    Hits(HitsArgs),
    /// Many clients ask cold URLs at the same moment
    Stampede(StampedeArgs),
}

#[derive(Debug, Args)]
struct Common {
    /// URL to ask for; several are asked in turn
    #[arg(long = "url", required = true)]
    urls: Vec<String>,
    #[arg(long, value_enum, default_value_t = Protocol::Http1)]
    protocol: Protocol,
    /// The Accept header
    #[arg(long, default_value = "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8")]
    accept: String,
    /// How long one exchange may take
    #[arg(long, default_value_t = 30_000)]
    timeout_ms: u64,
    /// Worker threads of this generator
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Also write the report as JSON to this file
    #[arg(long)]
    json: Option<PathBuf>,
    /// Permit targets that are not this machine
    #[arg(long)]
    allow_remote: bool,
}

#[derive(Debug, Args)]
struct HitsArgs {
    #[command(flatten)]
    common: Common,
    /// Requests per second, whatever the server does
    #[arg(long, default_value_t = 1000)]
    rate: u32,
    #[arg(long, default_value_t = 10)]
    duration_s: u64,
    #[arg(long, default_value_t = 64)]
    connections: u32,
    /// Requests in flight at once on one HTTP/2 connection
    #[arg(long, default_value_t = 8)]
    streams: u32,
}

#[derive(Debug, Args)]
struct StampedeArgs {
    #[command(flatten)]
    common: Common,
    /// How many clients ask at once
    #[arg(long, default_value_t = 1000)]
    clients: u32,
    /// Connections that HTTP/2 clients share; over HTTP/1.1 each client has its own
    #[arg(long, default_value_t = 50)]
    connections: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    /// HTTP/1.1, keep-alive, one request at a time on a connection
    #[value(name = "http1")]
    Http1,
    /// HTTP/2 with prior knowledge, in the clear
    #[value(name = "h2")]
    H2,
}

impl Protocol {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http1 => "HTTP/1.1",
            Self::H2 => "HTTP/2",
        }
    }
}

/// What every scenario needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    pub targets: Vec<Target>,
    pub protocol: Protocol,
    pub accept: HeaderValue,
    pub timeout: Duration,
    pub threads: usize,
}

#[derive(Debug, Clone)]
pub struct HitsPlan {
    pub settings: Settings,
    pub rate_per_s: u32,
    pub duration: Duration,
    pub connections: u32,
    /// Requests in flight at once on one connection: 1 over HTTP/1.1.
    pub streams: u32,
}

#[derive(Debug, Clone)]
pub struct StampedePlan {
    pub settings: Settings,
    pub clients: u32,
    pub connections: u32,
}

#[derive(Debug, Clone)]
pub enum Plan {
    Hits(HitsPlan),
    Stampede(StampedePlan),
}

#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    #[error("--{name} must be between 1 and {max}, not {value}")]
    OutOfRange { name: &'static str, value: u64, max: u64 },
    #[error("--accept is not a header value: {0}")]
    Accept(#[from] http::header::InvalidHeaderValue),
    #[error(transparent)]
    Target(#[from] TargetError),
    #[error(
        "{connections} connections need {needed} open files, and the limit is {limit}: run `ulimit -n {needed}` first"
    )]
    OpenFiles { connections: u64, needed: u64, limit: u64 },
}

impl Cli {
    /// Where the JSON report goes, if anywhere.
    #[must_use]
    pub fn json(&self) -> Option<&Path> {
        match &self.command {
            Command::Hits(args) => args.common.json.as_deref(),
            Command::Stampede(args) => args.common.json.as_deref(),
        }
    }
}

impl Plan {
    #[must_use]
    pub const fn threads(&self) -> usize {
        match self {
            Self::Hits(plan) => plan.settings.threads,
            Self::Stampede(plan) => plan.settings.threads,
        }
    }
}

impl TryFrom<Cli> for Plan {
    type Error = PlanError;

    fn try_from(cli: Cli) -> Result<Self, PlanError> {
        match cli.command {
            Command::Hits(args) => HitsPlan::try_from(args).map(Self::Hits),
            Command::Stampede(args) => StampedePlan::try_from(args).map(Self::Stampede),
        }
    }
}

impl TryFrom<HitsArgs> for HitsPlan {
    type Error = PlanError;

    fn try_from(args: HitsArgs) -> Result<Self, PlanError> {
        within("rate", args.rate.into(), RATE_PER_S_MAX.into())?;
        within("duration-s", args.duration_s, DURATION_S_MAX)?;
        within("connections", args.connections.into(), CONNECTIONS_MAX.into())?;
        within("streams", args.streams.into(), STREAMS_MAX.into())?;
        let streams = if args.common.protocol == Protocol::H2 { args.streams } else { 1 };
        within("connections × --streams", u64::from(args.connections) * u64::from(streams), IN_FLIGHT_MAX)?;
        enough_files(args.connections.into(), open_files_limit())?;
        Ok(Self {
            settings: args.common.try_into()?,
            rate_per_s: args.rate,
            duration: Duration::from_secs(args.duration_s),
            connections: args.connections,
            streams,
        })
    }
}

impl TryFrom<StampedeArgs> for StampedePlan {
    type Error = PlanError;

    fn try_from(args: StampedeArgs) -> Result<Self, PlanError> {
        within("clients", args.clients.into(), CLIENTS_MAX.into())?;
        within("connections", args.connections.into(), CONNECTIONS_MAX.into())?;
        let connections = match args.common.protocol {
            Protocol::Http1 => args.clients,
            Protocol::H2 => args.connections.min(args.clients),
        };
        enough_files(connections.into(), open_files_limit())?;
        Ok(Self { settings: args.common.try_into()?, clients: args.clients, connections })
    }
}

impl TryFrom<Common> for Settings {
    type Error = PlanError;

    fn try_from(common: Common) -> Result<Self, PlanError> {
        within("timeout-ms", common.timeout_ms, TIMEOUT_MS_MAX)?;
        within("threads", common.threads as u64, THREADS_MAX as u64)?;
        let reach = if common.allow_remote { Reach::Anywhere } else { Reach::LoopbackOnly };
        Ok(Self {
            targets: common.urls.iter().map(|url| Target::resolve(url, reach)).collect::<Result<_, _>>()?,
            protocol: common.protocol,
            accept: HeaderValue::from_str(&common.accept)?,
            timeout: Duration::from_millis(common.timeout_ms),
            threads: common.threads,
        })
    }
}

fn within(name: &'static str, value: u64, max: u64) -> Result<(), PlanError> {
    if (1..=max).contains(&value) { Ok(()) } else { Err(PlanError::OutOfRange { name, value, max }) }
}

fn enough_files(connections: u64, limit: Option<u64>) -> Result<(), PlanError> {
    let needed = connections + SPARE_FILES;
    match limit {
        Some(limit) if limit < needed => Err(PlanError::OpenFiles { connections, needed, limit }),
        _ => Ok(()),
    }
}

/// The soft limit on open files, where the kernel tells.
fn open_files_limit() -> Option<u64> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    limits.lines().find_map(|line| line.strip_prefix("Max open files"))?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(arguments: &[&str]) -> Result<Plan, PlanError> {
        let line = ["bildkante-loadtest"].iter().chain(arguments).copied();
        Plan::try_from(Cli::try_parse_from(line).expect("the command line parses"))
    }

    #[test]
    fn the_command_line_is_consistent() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn nothing_beyond_the_limits_becomes_a_plan() {
        let url = "--url=http://127.0.0.1:1/";
        for bad in [
            vec!["hits", url, "--rate=0"],
            vec!["hits", url, "--rate=200001"],
            vec!["hits", url, "--duration-s=3601"],
            vec!["hits", url, "--connections=0"],
            vec!["hits", url, "--threads=65"],
            vec!["stampede", url, "--clients=10001"],
            vec!["stampede", url, "--timeout-ms=0"],
        ] {
            assert!(matches!(plan(&bad), Err(PlanError::OutOfRange { .. })), "{bad:?}");
        }
        assert!(matches!(plan(&["hits", "--url=http://192.0.2.1/"]), Err(PlanError::Target(TargetError::Remote(..)))));
        assert!(plan(&["hits", url, "--rate=5", "--connections=2"]).is_ok());
    }

    #[test]
    fn http2_clients_share_connections_and_http1_clients_do_not() {
        let url = "--url=http://127.0.0.1:1/";
        let connections = |arguments: &[&str]| match plan(arguments) {
            Ok(Plan::Stampede(plan)) => plan.connections,
            other => panic!("not a stampede: {other:?}"),
        };
        assert_eq!(connections(&["stampede", url, "--clients=40", "--connections=4"]), 40);
        assert_eq!(connections(&["stampede", url, "--clients=40", "--connections=4", "--protocol=h2"]), 4);
    }

    #[test]
    fn too_low_a_file_limit_is_said_before_the_run() {
        let error = enough_files(1000, Some(1024)).expect_err("1064 do not fit in 1024");
        assert!(error.to_string().contains("ulimit -n 1064"), "{error}");
        assert!(enough_files(900, Some(1024)).is_ok());
        assert!(enough_files(u64::from(CLIENTS_MAX), None).is_ok());
        assert!(open_files_limit().is_some_and(|limit| limit > 0));
    }
}
