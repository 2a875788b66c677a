//! The command line. [`crate::plan`] turns it into something bounded.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::pick::Order;

/// Open-loop load generator for Bildkante.
#[derive(Debug, Parser)]
#[command(name = "bildkante-loadtest", version, about)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Ask warm URLs at a constant rate; latency counts from each request's intended time
    Hits(HitsArgs),
    /// Many clients ask cold URLs at the same moment; without a URL, two edges and a node of its own
    Stampede(StampedeArgs),
    /// Hits, and then hits while cold misses keep render pool and node busy (starts an edge and a node)
    Mixed(FleetArgs),
    /// One of two nodes stops answering for a while (starts an edge and two nodes)
    SlowNode(FleetArgs),
    /// One of two nodes is killed and comes back (starts an edge and two nodes)
    Failover(FleetArgs),
    /// Every edge and every node is restarted in turn (starts two of each)
    RollingRestart(FleetArgs),
    /// The campaign's manifest changes every 100 ms (starts an edge and a node)
    Reload(FleetArgs),
    /// Two, five and ten times what the edge can answer is asked of it (starts an edge and a node)
    Overload(FleetArgs),
    /// Hits beside thousands of connections that say nothing, or say it slowly (starts an edge and a node)
    Idle(IdleArgs),
    /// One picture is killed and lifted on twenty edges that share a state, which are asked for it all the while (starts them and a node)
    Kill(FleetArgs),
    /// Readers click through the preview of a large campaign (starts an edge and a node)
    Browse(BrowseArgs),
    /// Be a node that sleeps instead of drawing: speaks what edges speak, needs no GPU
    Node(NodeArgs),
}

#[derive(Debug, Args)]
pub struct Common {
    /// URL to ask for; several are asked in the order of --order
    #[arg(long = "url")]
    pub urls: Vec<String>,
    /// File with a URL on each line, or a path where --base is given
    #[arg(long)]
    pub urls_file: Option<PathBuf>,
    /// Ask for the renditions of this campaign manifest, at --base
    #[arg(long, requires = "base")]
    pub manifest: Option<PathBuf>,
    /// Of the manifest: only this slot
    #[arg(long, requires = "manifest")]
    pub slot: Option<String>,
    /// Of the manifest: so many renditions
    #[arg(long, default_value_t = 1000, requires = "manifest")]
    pub count: usize,
    /// Where paths are asked: http://host:port
    #[arg(long)]
    pub base: Option<String>,
    #[arg(long, value_enum, default_value_t = Order::InTurn)]
    pub order: Order,
    /// Of --order zipf
    #[arg(long, default_value_t = 0.9)]
    pub zipf_exponent: f64,
    /// Whether each request spells its URL anew, with a tracking parameter
    #[arg(long, value_enum, default_value_t = Spelling::AsGiven)]
    pub spelling: Spelling,
    #[arg(long, value_enum, default_value_t = Protocol::Http1)]
    pub protocol: Protocol,
    /// PEM file of certificates to trust, for https:// URLs
    #[arg(long)]
    pub ca: Option<PathBuf>,
    /// Requests on a connection before a new one is opened
    #[arg(long, default_value_t = u64::MAX, hide_default_value = true)]
    pub requests_per_connection: u64,
    /// The Accept header
    #[arg(long, default_value = ACCEPT)]
    pub accept: String,
    /// How long one exchange may take
    #[arg(long, default_value_t = 30_000)]
    pub timeout_ms: u64,
    /// Worker threads of this generator
    #[arg(long, default_value_t = 1)]
    pub threads: usize,
    /// Also write the report as JSON to this file
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Permit targets that are not this machine
    #[arg(long)]
    pub allow_remote: bool,
}

/// As a current browser with AVIF sends it for an image.
pub const ACCEPT: &str = "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8";

#[derive(Debug, Args)]
pub struct HitsArgs {
    #[command(flatten)]
    pub common: Common,
    /// Requests per second, however slowly the server answers
    #[arg(long, default_value_t = 1000)]
    pub rate: u32,
    #[arg(long, default_value_t = 10)]
    pub duration_s: u64,
    #[arg(long, default_value_t = 64)]
    pub connections: u32,
    /// Requests in flight at once on one HTTP/2 connection
    #[arg(long, default_value_t = 8)]
    pub streams: u32,
}

#[derive(Debug, Args)]
pub struct StampedeArgs {
    #[command(flatten)]
    pub common: Common,
    #[command(flatten)]
    pub servers: ServerArgs,
    /// How many clients ask at once (of each edge, where this starts its own)
    #[arg(long, default_value_t = 1000)]
    pub clients: u32,
    /// How often, where this starts its own servers: its budget compares two percentiles
    #[arg(long, default_value_t = 3)]
    pub rounds: u32,
    /// Connections that HTTP/2 clients share; over HTTP/1.1 each client has its own
    #[arg(long, default_value_t = 50)]
    pub connections: u32,
}

/// The programs that a scenario starts by itself.
#[derive(Debug, Clone, Args)]
pub struct ServerArgs {
    /// The edge to start (default: beside this program)
    #[arg(long)]
    pub edge: Option<PathBuf>,
    /// Folder with campaigns/ and prompts/; the campaign `studio` is asked
    #[arg(long, default_value = "config")]
    pub config_dir: PathBuf,
    /// Folder for caches and logs, kept afterwards (default: a temporary one)
    #[arg(long)]
    pub work_dir: Option<PathBuf>,
    /// When the edges render: where other work never leaves the cores alone, idle threads never run
    #[arg(long, value_enum, default_value_t = Rendering::Idle)]
    pub rendering: Rendering,
}

/// How the render threads of edges that are started stand beside other work on the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Rendering {
    /// Only while no other thread wants the core: what is measured on a machine of its own
    #[value(name = "idle")]
    Idle,
    /// As any other thread
    #[value(name = "equal")]
    Equal,
}

#[derive(Debug, Args)]
pub struct FleetArgs {
    #[command(flatten)]
    pub servers: ServerArgs,
    /// Hits per second
    #[arg(long, default_value_t = 500)]
    pub rate: u32,
    /// Cold variants asked per second
    #[arg(long, default_value_t = 40)]
    pub misses: u32,
    /// Of each phase
    #[arg(long, default_value_t = 8)]
    pub duration_s: u64,
    #[arg(long, default_value_t = 32)]
    pub connections: u32,
    /// How often phases that are compared are repeated
    #[arg(long, default_value_t = 3)]
    pub rounds: u32,
    /// Worker threads of this generator
    #[arg(long, default_value_t = 1)]
    pub threads: usize,
    /// Also write the report as JSON to this file
    #[arg(long)]
    pub json: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct IdleArgs {
    #[command(flatten)]
    pub fleet: FleetArgs,
    /// Connections that are silent or slow (fewer where the limit on open files asks for it)
    #[arg(long, default_value_t = 20_000)]
    pub idle: u32,
    /// Deadline in milliseconds that the edge is given for first bytes and heads
    #[arg(long, default_value_t = 20_000)]
    pub deadline_ms: u64,
}

#[derive(Debug, Args)]
pub struct BrowseArgs {
    #[command(flatten)]
    pub servers: ServerArgs,
    /// Readers at once, each of whom opens one page after the other
    #[arg(long, default_value_t = 8)]
    pub readers: u32,
    /// How long a reader looks at a page
    #[arg(long, default_value_t = 250)]
    pub pause_ms: u64,
    #[arg(long, default_value_t = 60)]
    pub duration_s: u64,
    /// Worker threads of this generator
    #[arg(long, default_value_t = 1)]
    pub threads: usize,
    /// Also write the report as JSON to this file
    #[arg(long)]
    pub json: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct NodeArgs {
    /// Where to listen; port 0 takes a free one, which is printed
    #[arg(long, default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
    /// How long a picture takes
    #[arg(long, default_value_t = 500)]
    pub draw_ms: u64,
    /// Pictures at a time
    #[arg(long, default_value_t = 1)]
    pub at_once: u32,
    /// Generations that may wait; further ones are refused with 429
    #[arg(long, default_value_t = 64)]
    pub queue: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    /// HTTP/1.1, keep-alive, one request at a time on a connection
    #[value(name = "http1")]
    Http1,
    /// HTTP/2: with prior knowledge in the clear, by ALPN over TLS
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

    #[must_use]
    pub const fn alpn(self) -> &'static [u8] {
        match self {
            Self::Http1 => b"http/1.1",
            Self::H2 => b"h2",
        }
    }
}

/// How a URL is written in each request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Spelling {
    #[value(name = "as-given")]
    AsGiven,
    /// With a tracking parameter that differs from request to request
    #[value(name = "distinct")]
    Distinct,
}

impl Cli {
    /// Where the JSON report goes, if anywhere.
    #[must_use]
    pub fn json(&self) -> Option<&Path> {
        match &self.command {
            Command::Hits(args) => args.common.json.as_deref(),
            Command::Stampede(args) => args.common.json.as_deref(),
            Command::Mixed(args)
            | Command::SlowNode(args)
            | Command::Failover(args)
            | Command::RollingRestart(args)
            | Command::Reload(args)
            | Command::Overload(args)
            | Command::Kill(args) => args.json.as_deref(),
            Command::Idle(args) => args.fleet.json.as_deref(),
            Command::Browse(args) => args.json.as_deref(),
            Command::Node(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }
}
