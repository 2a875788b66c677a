//! `bildkante-gpu-node`: reads the command line and the configuration, starts the node, waits for the end.
//! Exit codes: 0 stopped as asked, 1 failed, 64 bad command line or configuration (`EX_USAGE`).

#![warn(clippy::print_stdout, clippy::print_stderr)]

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use bildkante_gpu_node::config::NodeConfig;
use bildkante_gpu_node::diffusion::runtime;
use bildkante_gpu_node::{Node, RunningNode, commands, worker};
use bildkante_shared::telemetry::{self, FilterChange};
use bildkante_shared::{remark, shutdown};
use clap::{Args, Parser, Subcommand};
use tokio::signal::unix::{Signal, SignalKind, signal};

const EXIT_USAGE: u8 = 64;
/// Threads that serve HTTP; drawing has its own.
const SERVING_THREADS: usize = 2;

#[derive(Parser)]
#[command(name = "bildkante-gpu-node", version, about = "Draws recipes and serves the masters")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve generations
    Serve(ServeArgs),
    /// Draw one picture
    Generate(Box<commands::GenerateArgs>),
    /// Draw several seeds of several recipes, with a contact sheet
    Batch(commands::BatchArgs),
    /// Load a checkpoint, say what it is and try it
    Check(commands::CheckArgs),
    /// Time a checkpoint
    Bench(commands::BenchArgs),
    /// Tell how far stored masters are apart, and what each threshold of `[dedup]` would merge
    DedupReport(commands::DedupReportArgs),
}

#[derive(Args)]
struct ServeArgs {
    /// Configuration file; without one every key has its default
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Listen here instead of where the configuration says
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// Shut down when standard input ends: a supervisor that holds the other end cannot leave a node behind
    #[arg(long)]
    exit_with_parent: bool,
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { EXIT_USAGE } else { 0 });
        }
    };
    // Returns only where that is done or cannot be.
    if let Err(error) = runtime::settle_environment() {
        complain(&anyhow::Error::new(error).context("starting anew with patient threads"));
    }
    match cli.command {
        Command::Serve(args) => serve(args),
        Command::Generate(args) => report(commands::generate(&args)),
        Command::Batch(args) => report(commands::batch(&args)),
        Command::Check(args) => report(commands::check(&args)),
        Command::Bench(args) => report(commands::bench(&args)),
        Command::DedupReport(args) => report(commands::dedup_report(&args)),
    }
}

fn serve(args: ServeArgs) -> ExitCode {
    let config = match configuration(&args) {
        Ok(config) => config,
        Err(error) => {
            complain(&error);
            return ExitCode::from(EXIT_USAGE);
        }
    };
    telemetry::init(config.log.format, &config.log.filter);
    conclude(run(config, args))
}

/// The exit code a command asked for, or what went wrong.
fn report(result: anyhow::Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| {
        complain(&error);
        ExitCode::FAILURE
    })
}

fn conclude(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

fn complain(error: &anyhow::Error) {
    remark!("bildkante-gpu-node: {error:#}");
}

fn configuration(args: &ServeArgs) -> anyhow::Result<NodeConfig> {
    let mut config = match &args.config {
        Some(path) => NodeConfig::read(path)?,
        None => NodeConfig::default(),
    };
    if let Some(listen) = args.listen {
        config.listen = listen;
    }
    // What the file says may be in order by itself, and not with the address asked for.
    config.validate()?;
    Ok(config)
}

fn run(config: NodeConfig, args: ServeArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(SERVING_THREADS)
        .thread_name("node-http")
        .enable_all()
        .build()
        .context("the runtime")?;
    let result = runtime.block_on(async {
        // From here on SIGHUP ends nothing.
        let mut hangups = signal(SignalKind::hangup()).context("waiting for SIGHUP")?;
        let listener = TcpListener::bind(config.listen).with_context(|| format!("listening on {}", config.listen))?;
        let engines = worker::torch_engines(&config);
        let node = Node::start(config, listener, engines).await?;
        let ended = until_ended(&node, &mut hangups, &args).await;
        node.shut_down().await;
        ended
    });
    // Nothing is left to wait for: a thread that still blocks on standard input must not hold the process.
    runtime.shutdown_background();
    result
}

/// Waits for a signal, the parent's end, or a node that will never be ready.
async fn until_ended(node: &RunningNode, hangups: &mut Signal, args: &ServeArgs) -> anyhow::Result<()> {
    tokio::select! {
        signal = shutdown::signal() => tracing::info!(signal = signal?, "shutting down"),
        () = parent_gone(), if args.exit_with_parent => tracing::info!("standard input ended: shutting down"),
        failed = node.failed() => anyhow::bail!(failed.reason()),
        never = follow_hangups(hangups, args) => match never {},
    }
    Ok(())
}

/// SIGHUP reads `log.filter` again; everything else needs a restart.
async fn follow_hangups(hangups: &mut Signal, args: &ServeArgs) -> Infallible {
    loop {
        hangups.recv().await;
        match configuration(args).and_then(|config| Ok(telemetry::set_filter(&config.log.filter)?)) {
            Ok(FilterChange::InForce) => tracing::info!("the log filter was read again"),
            Ok(FilterChange::Overruled) => tracing::warn!("the log filter stays: RUST_LOG in the environment wins"),
            Err(error) => tracing::error!("the log filter stays: {error:#}"),
        }
    }
}

/// Reads standard input to its end on a thread of its own: tokio's would keep the runtime from stopping.
async fn parent_gone() {
    let (sender, receiver) = tokio::sync::oneshot::channel::<()>();
    let reader = std::thread::Builder::new().name("node-stdin".to_owned()).spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        drop(sender);
    });
    if let Err(error) = reader {
        tracing::warn!(%error, "standard input is not watched");
        std::future::pending::<()>().await;
    }
    let _ = receiver.await;
}
