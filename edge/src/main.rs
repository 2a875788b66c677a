//! `bildkante-edge`: logging, configuration, runtime, start, wait for a signal, drain.
//!
//! Exit status: 0 done, 1 a start or a check failed, 64 the configuration or the command line is wrong
//! (`EX_USAGE` of sysexits.h).

#![warn(clippy::print_stdout, clippy::print_stderr)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use bildkante_edge::app::{Edge, Sockets};
use bildkante_edge::commands;
use bildkante_edge::config::Config;
use bildkante_edge::descriptors;
use bildkante_edge::listener::systemd::{self, Inherited};
use bildkante_shared::shutdown::Stops;
use bildkante_shared::{remark, telemetry};
use clap::{Parser, Subcommand};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// glibc's allocator keeps what large image buffers fragment; this one gives it back.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const EX_USAGE: u8 = 64;

/// Serves generated campaign images at the speed of a CDN.
#[derive(Debug, Parser)]
#[command(name = "bildkante-edge", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve images, the admin pages, and the sidecar node if one is configured
    Serve(ConfigArgs),
    /// Check configuration, manifests, prompt libraries and locks; say what they amount to
    Check(commands::CheckArgs),
    /// Write the lock beside each manifest from the checkpoints in a models folder
    Lock(commands::LockArgs),
    /// Make a picture that you bring, a PNG, JPEG, WebP or AVIF, the one of a variant
    Import(commands::ImportArgs),
    /// Take images out of circulation, here and in the caches in front of the edge
    Purge(commands::PurgeArgs),
    /// Decide about pictures that nobody sees before they are approved
    Review(commands::ReviewArgs),
    /// Withhold pictures on every edge that shares this state, until the kill is lifted
    Kill(commands::KillArgs),
    /// Lift a kill
    Lift(commands::LiftArgs),
    /// Where an edge stands in the shared state, and every kill in force
    Status(commands::StatusArgs),
    /// Check, back up, put back or take over the state that edges share
    State(commands::StateArgs),
    /// Read, export and verify the log of decisions
    Audit(commands::AuditArgs),
    /// Have a campaign's images generated and rendered before anybody asks for them
    Warm(commands::WarmArgs),
    /// Have pictures drawn by table, filter or list, and get what became of each
    Batch(commands::BatchArgs),
    /// Add a key to the file of session-ticket keys that edges share, or make it
    TicketKeys(commands::TicketKeysArgs),
    /// Give, list and revoke keys of people and programs
    Key(commands::KeyArgs),
    /// Print who is told of decisions, and send what was given up again
    Webhook(commands::WebhookArgs),
    /// Print a new token for the admin API and the hash that the configuration holds of it
    Token,
    /// Print what each stage makes of a URL: variant, recipe, ids, rendition, headers, warnings
    Explain(commands::ExplainArgs),
    /// Sign a URL, or make a key that signs
    Sign(commands::SignArgs),
    /// Make what signs the origin of pictures (C2PA)
    Provenance(commands::ProvenanceArgs),
    /// Everything there is to say of one picture, from a running edge: a page to print, or JSON
    Dossier(commands::DossierArgs),
    /// What a deployer documents, and what of it is missing
    Report(commands::ReportArgs),
    /// Print what a picture says of its origin, and whether that holds
    Inspect(commands::InspectArgs),
    /// Decode one picture from standard input; `inspect` and `/verify` start it
    DecodePicture(commands::DecodePictureArgs),
}

#[derive(Debug, clap::Args)]
struct ConfigArgs {
    /// The configuration file
    #[arg(long, env = "BILDKANTE_EDGE_CONFIG", default_value = "config/edge.toml")]
    config: PathBuf,
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(EX_USAGE) } else { ExitCode::SUCCESS };
        }
    };
    let path = match &cli.command {
        Command::Serve(args) => &args.config,
        Command::Check(args) => &args.config,
        Command::Lock(args) => &args.config,
        Command::Import(args) => &args.config,
        Command::Explain(args) => &args.config,
        Command::Report(args) => args.config(),
        // These need no configuration, and come before there is one.
        Command::Token => return report(commands::token()),
        Command::Purge(args) => return report(commands::purge(args)),
        Command::Review(args) => return report(commands::review(args)),
        Command::Kill(args) => return report(commands::kill(args)),
        Command::Lift(args) => return report(commands::lift(args)),
        Command::Status(args) => return report(commands::status(args)),
        Command::State(args) => return report(commands::state(args)),
        Command::Audit(args) => return report(commands::audit(args)),
        Command::Warm(args) => return report(commands::warm(args)),
        Command::Batch(args) => return report(commands::batch(args)),
        Command::Key(args) => return report(commands::key(args)),
        Command::Webhook(args) => return report(commands::webhook(args)),
        Command::TicketKeys(args) => return report(commands::ticket_keys(args)),
        Command::Provenance(args) => return report(commands::provenance(args)),
        Command::Inspect(args) => return report(commands::inspect(args)),
        Command::Dossier(args) => return report(commands::dossier(args)),
        Command::DecodePicture(args) => return report(commands::decode_picture(args)),
        Command::Sign(args) if args.new_key => return report(commands::new_key(args)),
        Command::Sign(args) => &args.config,
    };
    let config = match Config::load(path) {
        Ok(config) => config,
        Err(error) => {
            remark!("bildkante-edge: {error}");
            return ExitCode::from(EX_USAGE);
        }
    };
    let result = match &cli.command {
        Command::Serve(_) => serve(config),
        Command::Token => commands::token(),
        Command::Purge(args) => commands::purge(args),
        Command::Review(args) => commands::review(args),
        Command::Kill(args) => commands::kill(args),
        Command::Lift(args) => commands::lift(args),
        Command::Status(args) => commands::status(args),
        Command::State(args) => commands::state(args),
        Command::Audit(args) => commands::audit(args),
        Command::Warm(args) => commands::warm(args),
        Command::Batch(args) => commands::batch(args),
        Command::Key(args) => commands::key(args),
        Command::Webhook(args) => commands::webhook(args),
        Command::TicketKeys(args) => commands::ticket_keys(args),
        Command::Provenance(args) => commands::provenance(args),
        Command::Inspect(args) => commands::inspect(args),
        Command::Dossier(args) => commands::dossier(args),
        Command::Report(args) => commands::report(&config, args),
        Command::DecodePicture(args) => commands::decode_picture(args),
        Command::Check(args) => commands::check(&config, args),
        Command::Lock(args) => commands::lock(&config, args),
        Command::Import(args) => commands::import(&config, args),
        Command::Explain(args) => commands::explain(&config, args),
        Command::Sign(args) => commands::sign(&config, args),
    };
    report(result)
}

fn report(result: anyhow::Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| {
        remark!("bildkante-edge: {error:#}");
        ExitCode::FAILURE
    })
}

fn serve(config: Config) -> anyhow::Result<ExitCode> {
    // The allocator asks for huge pages, and then a cache of small bodies holds twice what it counts. Where the kernel
    // does not know the call, memory is all that is lost.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    telemetry::init(config.log.format, &config.log.filter);
    descriptors::raise();
    // Before there are threads: what is taken over is also erased from the environment.
    let inherited = Inherited::take()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("edge")
        .build()
        .context("the runtime cannot start")?;
    runtime.block_on(async {
        let sockets = Sockets::bind(&config, inherited).await?;
        let lame_duck = Duration::from_millis(config.limits.lame_duck_ms);
        let edge = Edge::start(config, sockets).await?;
        let mut signals = Signals { hangup: signal(SignalKind::hangup())?, stops: Stops::subscribe()? };
        systemd::notify(systemd::State::Ready);
        let signal = signals.stop(&edge).await;
        systemd::notify(systemd::State::Stopping);
        if signal == "SIGTERM" && !lame_duck.is_zero() {
            signals.serve_on(&edge, lame_duck).await;
        }
        tracing::info!(signal, "draining");
        let aborted = edge.shut_down().await;
        tracing::info!(aborted, "stopped");
        Ok(ExitCode::SUCCESS)
    })
}

/// What this process listens to, from its first answer to its drain.
struct Signals {
    hangup: Signal,
    stops: Stops,
}

impl Signals {
    /// Until SIGTERM or SIGINT; SIGHUP reloads what can be: [`Edge::reload`].
    async fn stop(&mut self, edge: &Edge) -> &'static str {
        loop {
            tokio::select! {
                signal = self.stops.next() => return signal,
                _ = self.hangup.recv() => {
                    systemd::notify(systemd::State::Reloading);
                    edge.reload().await;
                    systemd::notify(systemd::State::Ready);
                }
            }
        }
    }

    /// Serves as before while `/readyz` says that it is about to stop, for so long or until the next signal.
    async fn serve_on(&mut self, edge: &Edge, lame_duck: Duration) {
        edge.leave();
        tracing::info!(lame_duck_ms = lame_duck.as_millis(), "not ready any more, serving on");
        let mut over = std::pin::pin!(tokio::time::sleep(lame_duck));
        loop {
            tokio::select! {
                signal = self.stops.next() => return tracing::info!(signal, "the time to leave is cut short"),
                () = over.as_mut() => return tracing::info!("the time to leave is over"),
                // systemd knows already that it stops.
                _ = self.hangup.recv() => edge.reload().await,
            }
        }
    }
}
