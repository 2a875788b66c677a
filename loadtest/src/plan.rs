//! Bounded plans. A [`Plan`] cannot ask for more than the limits below, and asks only servers that were named.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http::HeaderValue;

use crate::args::{
    ACCEPT, BrowseArgs, Cli, Command, Common, FleetArgs, HitsArgs, IdleArgs, NodeArgs, Protocol, Rendering, ServerArgs,
    Spelling, StampedeArgs,
};
use crate::campaign::{self, ManifestError};
use crate::pick::Order;
use crate::target::{Reach, Security, Target, TargetError};
use crate::tls::{Dialer, TrustError};

pub const RATE_PER_S_MAX: u32 = 5_000_000;
pub const DURATION_S_MAX: u64 = 3600;
pub const CONNECTIONS_MAX: u32 = 10_000;
pub const CLIENTS_MAX: u32 = 10_000;
pub const IDLE_MAX: u32 = 25_000;
pub const STREAMS_MAX: u32 = 100;
pub const IN_FLIGHT_MAX: u64 = 20_000;
pub const THREADS_MAX: usize = 64;
pub const TIMEOUT_MS_MAX: u64 = 600_000;
pub const URLS_FILE_BYTES_MAX: u64 = 256 << 20;
/// File descriptors beside the connections: the runtime's own, standard streams, the report.
const SPARE_FILES: u64 = 64;

/// What requests have in common.
#[derive(Debug, Clone)]
pub struct Settings {
    pub targets: Vec<Target>,
    pub order: Order,
    pub zipf_exponent: f64,
    pub spelling: Spelling,
    pub protocol: Protocol,
    /// Where a target is asked over TLS.
    pub dialer: Option<Dialer>,
    pub requests_per_connection: u64,
    pub accept: HeaderValue,
    pub timeout: Duration,
}

impl Settings {
    /// Of requests over HTTP/1.1 to servers of our own.
    #[must_use]
    pub fn plain(targets: Vec<Target>) -> Self {
        Self {
            targets,
            order: Order::InTurn,
            zipf_exponent: 0.0,
            spelling: Spelling::AsGiven,
            protocol: Protocol::Http1,
            dialer: None,
            requests_per_connection: u64::MAX,
            accept: HeaderValue::from_static(ACCEPT),
            timeout: Duration::from_secs(30),
        }
    }
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

/// Programs to start, found.
#[derive(Debug, Clone)]
pub struct Servers {
    pub edge: PathBuf,
    pub config_dir: PathBuf,
    pub work_dir: Option<PathBuf>,
    pub rendering: Rendering,
}

#[derive(Debug, Clone)]
pub struct FleetPlan {
    pub servers: Servers,
    pub rate_per_s: u32,
    pub misses_per_s: u32,
    pub duration: Duration,
    pub connections: u32,
    pub rounds: u32,
}

#[derive(Debug, Clone)]
pub struct OwnStampedePlan {
    pub servers: Servers,
    pub clients: u32,
    pub rounds: u32,
}

#[derive(Debug, Clone)]
pub struct IdlePlan {
    pub fleet: FleetPlan,
    pub idle: u32,
    pub deadline: Duration,
}

#[derive(Debug, Clone)]
pub struct BrowsePlan {
    pub servers: Servers,
    pub readers: u32,
    pub pause: Duration,
    pub duration: Duration,
}

#[derive(Debug, Clone)]
pub enum Plan {
    Hits(HitsPlan),
    Stampede(StampedePlan),
    OwnStampede(OwnStampedePlan),
    Mixed(FleetPlan),
    SlowNode(FleetPlan),
    Failover(FleetPlan),
    RollingRestart(FleetPlan),
    Reload(FleetPlan),
    Overload(FleetPlan),
    Idle(IdlePlan),
    Kill(FleetPlan),
    Browse(BrowsePlan),
}

/// What the program is to do.
#[derive(Debug)]
pub enum Task {
    Load { plan: Plan, threads: usize },
    Node(NodeArgs),
}

#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    #[error("--{name} must be between 1 and {max}, not {value}")]
    OutOfRange { name: &'static str, value: u64, max: u64 },
    #[error("--zipf-exponent must be between 0 and 10, not {0}")]
    Exponent(f64),
    #[error("--accept is not a header value: {0}")]
    Accept(#[from] http::header::InvalidHeaderValue),
    #[error("nothing to ask: give --url, --urls-file or --manifest")]
    NoUrl,
    #[error("--urls-file {path}: {source}", path = path.display())]
    UrlsFile { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error(transparent)]
    Target(#[from] TargetError),
    #[error(transparent)]
    Trust(#[from] TrustError),
    #[error("there is no edge at {0}: build it, or name one with --edge")]
    NoEdge(PathBuf),
    #[error(
        "{connections} connections need {needed} open files, and the limit is {limit}: run `ulimit -n {needed}` first"
    )]
    OpenFiles { connections: u64, needed: u64, limit: u64 },
}

impl TryFrom<Cli> for Task {
    type Error = PlanError;

    fn try_from(cli: Cli) -> Result<Self, PlanError> {
        let threads = match &cli.command {
            Command::Hits(args) => args.common.threads,
            Command::Stampede(args) => args.common.threads,
            Command::Idle(args) => args.fleet.threads,
            Command::Browse(args) => args.threads,
            Command::Mixed(args)
            | Command::SlowNode(args)
            | Command::Failover(args)
            | Command::RollingRestart(args)
            | Command::Reload(args)
            | Command::Overload(args)
            | Command::Kill(args) => args.threads,
            Command::Node(_) => 1,
        };
        within("threads", threads as u64, THREADS_MAX as u64)?;
        let plan = match cli.command {
            Command::Hits(args) => Plan::Hits(args.try_into()?),
            Command::Stampede(args) if args.common.asks_nothing() => Plan::OwnStampede(args.try_into()?),
            Command::Stampede(args) => Plan::Stampede(args.try_into()?),
            Command::Mixed(args) => Plan::Mixed(args.try_into()?),
            Command::SlowNode(args) => Plan::SlowNode(args.try_into()?),
            Command::Failover(args) => Plan::Failover(args.try_into()?),
            Command::RollingRestart(args) => Plan::RollingRestart(args.try_into()?),
            Command::Reload(args) => Plan::Reload(args.try_into()?),
            Command::Overload(args) => Plan::Overload(args.try_into()?),
            Command::Idle(args) => Plan::Idle(args.try_into()?),
            Command::Kill(args) => Plan::Kill(args.try_into()?),
            Command::Browse(args) => Plan::Browse(args.try_into()?),
            Command::Node(args) => {
                within("draw-ms", args.draw_ms.max(1), TIMEOUT_MS_MAX)?;
                within("at-once", args.at_once.into(), 64)?;
                return Ok(Self::Node(args));
            }
        };
        Ok(Self::Load { plan, threads })
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

impl TryFrom<StampedeArgs> for OwnStampedePlan {
    type Error = PlanError;

    fn try_from(args: StampedeArgs) -> Result<Self, PlanError> {
        within("clients", args.clients.into(), u64::from(CLIENTS_MAX) / 2)?;
        within("rounds", args.rounds.into(), 48)?;
        enough_files(2 * u64::from(args.clients), open_files_limit())?;
        Ok(Self { servers: args.servers.try_into()?, clients: args.clients, rounds: args.rounds })
    }
}

impl TryFrom<FleetArgs> for FleetPlan {
    type Error = PlanError;

    fn try_from(args: FleetArgs) -> Result<Self, PlanError> {
        within("rate", args.rate.into(), RATE_PER_S_MAX.into())?;
        within("misses", args.misses.into(), RATE_PER_S_MAX.into())?;
        within("duration-s", args.duration_s, DURATION_S_MAX)?;
        within("connections", args.connections.into(), CONNECTIONS_MAX.into())?;
        within("rounds", args.rounds.into(), 100)?;
        Ok(Self {
            servers: args.servers.try_into()?,
            rate_per_s: args.rate,
            misses_per_s: args.misses,
            duration: Duration::from_secs(args.duration_s),
            connections: args.connections,
            rounds: args.rounds,
        })
    }
}

impl TryFrom<IdleArgs> for IdlePlan {
    type Error = PlanError;

    fn try_from(args: IdleArgs) -> Result<Self, PlanError> {
        within("idle", args.idle.into(), IDLE_MAX.into())?;
        within("deadline-ms", args.deadline_ms, TIMEOUT_MS_MAX)?;
        let fleet = FleetPlan::try_from(args.fleet)?;
        // The edge has the same limit as this program, and files of its own.
        let room =
            open_files_limit().unwrap_or(u64::MAX).saturating_sub(u64::from(fleet.connections) + 4 * SPARE_FILES);
        let idle = u64::from(args.idle).min(room) as u32;
        Ok(Self { fleet, idle, deadline: Duration::from_millis(args.deadline_ms) })
    }
}

impl TryFrom<BrowseArgs> for BrowsePlan {
    type Error = PlanError;

    fn try_from(args: BrowseArgs) -> Result<Self, PlanError> {
        within("readers", args.readers.into(), CLIENTS_MAX.into())?;
        within("pause-ms", args.pause_ms.max(1), TIMEOUT_MS_MAX)?;
        within("duration-s", args.duration_s, DURATION_S_MAX)?;
        Ok(Self {
            servers: args.servers.try_into()?,
            readers: args.readers,
            pause: Duration::from_millis(args.pause_ms),
            duration: Duration::from_secs(args.duration_s),
        })
    }
}

impl TryFrom<ServerArgs> for Servers {
    type Error = PlanError;

    fn try_from(args: ServerArgs) -> Result<Self, PlanError> {
        let beside = || std::env::current_exe().ok()?.parent().map(|folder| folder.join("bildkante-edge"));
        let edge = args.edge.or_else(beside).unwrap_or_else(|| "bildkante-edge".into());
        if !edge.is_file() {
            return Err(PlanError::NoEdge(edge));
        }
        Ok(Self { edge, config_dir: args.config_dir, work_dir: args.work_dir, rendering: args.rendering })
    }
}

impl Common {
    const fn asks_nothing(&self) -> bool {
        self.urls.is_empty() && self.urls_file.is_none() && self.manifest.is_none()
    }

    fn urls(&self) -> Result<Vec<String>, PlanError> {
        let based = |path: String| self.base.as_ref().map_or_else(|| path.clone(), |base| format!("{base}{path}"));
        let mut urls = self.urls.clone();
        if let Some(file) = &self.urls_file {
            urls.extend(read_lines(file)?.into_iter().map(based));
        }
        if let Some(manifest) = &self.manifest {
            urls.extend(campaign::paths(manifest, self.slot.as_deref(), self.count)?.into_iter().map(based));
        }
        if urls.is_empty() { Err(PlanError::NoUrl) } else { Ok(urls) }
    }
}

impl TryFrom<Common> for Settings {
    type Error = PlanError;

    fn try_from(common: Common) -> Result<Self, PlanError> {
        within("timeout-ms", common.timeout_ms, TIMEOUT_MS_MAX)?;
        within("requests-per-connection", common.requests_per_connection, u64::MAX)?;
        if !(0.0..=10.0).contains(&common.zipf_exponent) {
            return Err(PlanError::Exponent(common.zipf_exponent));
        }
        let reach = if common.allow_remote { Reach::Anywhere } else { Reach::LoopbackOnly };
        let targets = Target::resolve_all(&common.urls()?, reach)?;
        let dialer = match &common.ca {
            Some(ca) => Some(Dialer::new(ca, common.protocol)?),
            None if targets.iter().any(|target| target.server.security == Security::Tls) => {
                return Err(TrustError::Missing.into());
            }
            None => None,
        };
        Ok(Self {
            targets,
            order: common.order,
            zipf_exponent: common.zipf_exponent,
            spelling: common.spelling,
            protocol: common.protocol,
            dialer,
            requests_per_connection: common.requests_per_connection,
            accept: HeaderValue::from_str(&common.accept)?,
            timeout: Duration::from_millis(common.timeout_ms),
        })
    }
}

fn read_lines(file: &Path) -> Result<Vec<String>, PlanError> {
    let fail = |source| PlanError::UrlsFile { path: file.to_owned(), source };
    if std::fs::metadata(file).map_err(fail)?.len() > URLS_FILE_BYTES_MAX {
        return Err(fail(std::io::Error::other(format!("it is over {URLS_FILE_BYTES_MAX} bytes"))));
    }
    let text = std::fs::read_to_string(file).map_err(fail)?;
    Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect())
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
    use clap::Parser;

    use super::*;

    fn plan(arguments: &[&str]) -> Result<Plan, PlanError> {
        let line = ["bildkante-loadtest"].iter().chain(arguments).copied();
        match Task::try_from(Cli::try_parse_from(line).expect("the command line parses"))? {
            Task::Load { plan, .. } => Ok(plan),
            Task::Node(_) => panic!("a node is no load"),
        }
    }

    #[test]
    fn nothing_beyond_the_limits_becomes_a_plan() {
        let url = "--url=http://127.0.0.1:1/";
        for bad in [
            vec!["hits", url, "--rate=0"],
            vec!["hits", url, "--rate=5000001"],
            vec!["hits", url, "--duration-s=3601"],
            vec!["hits", url, "--connections=0"],
            vec!["hits", url, "--threads=65"],
            vec!["hits", url, "--requests-per-connection=0"],
            vec!["stampede", url, "--clients=10001"],
            vec!["stampede", url, "--timeout-ms=0"],
            vec!["mixed", "--edge=/bin/sh", "--rounds=0"],
            vec!["idle", "--edge=/bin/sh", "--idle=25001"],
        ] {
            assert!(matches!(plan(&bad), Err(PlanError::OutOfRange { .. })), "{bad:?}");
        }
        assert!(matches!(plan(&["hits", "--url=http://192.0.2.1/"]), Err(PlanError::Target(TargetError::Remote(..)))));
        assert!(plan(&["hits", url, "--rate=5", "--connections=2"]).is_ok());
        assert!(matches!(plan(&["hits"]), Err(PlanError::NoUrl)));
        assert!(matches!(plan(&["hits", "--url=https://127.0.0.1:1/"]), Err(PlanError::Trust(TrustError::Missing))));
        assert!(matches!(plan(&["mixed", "--edge=/nowhere"]), Err(PlanError::NoEdge(_))));
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
    fn urls_come_from_files_and_manifests() {
        let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/campaigns/studio.toml");
        let arguments = ["hits", "--manifest", manifest, "--slot=thumb", "--count=7", "--base=http://127.0.0.1:1"];
        let Ok(Plan::Hits(hits)) = plan(&arguments) else { panic!("not hits") };
        assert_eq!(hits.settings.targets.len(), 7);
        assert!(hits.settings.targets[0].uri.path().starts_with("/i/studio/thumb"));

        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "/a\n\n/b?c=d \n").expect("written");
        let path = file.path().to_str().expect("a path");
        let Ok(Plan::Hits(hits)) = plan(&["hits", "--urls-file", path, "--base=http://127.0.0.1:1"]) else {
            panic!("not hits")
        };
        let uris: Vec<_> = hits.settings.targets.iter().map(|target| target.uri.to_string()).collect();
        assert_eq!(uris, ["http://127.0.0.1:1/a", "http://127.0.0.1:1/b?c=d"]);
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
