//! `bildkante-edge state`: the log that edges share, checked, backed up, put back and taken over.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, ensure};
use bildkante_shared::{remark, say};
use http::Method;

use super::kill::run;
use super::remote::{Remote, RemoteArgs};
use crate::config::Config;
use crate::shared_state::offline::{self, BACKUP_VERSION, BackupHead, Checked};
use crate::shared_state::wire::{SNAPSHOT, SentSnapshot};

/// Where a data folder keeps the log.
const FILE: &str = "state.redb";

/// `bildkante-edge state`.
#[derive(Debug, clap::Args)]
pub struct StateArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Where an edge stands, and every kill in force
    Status(super::StatusArgs),
    /// Make a follower the primary; the former one writes no more once it meets the new term
    Promote(PromoteArgs),
    /// Write all of a running edge's shared state into a file
    Backup(BackupArgs),
    /// Put a backup in the place of the shared state of an edge that does not run
    Restore(RestoreArgs),
    /// Read all of the shared state of an edge that does not run, and verify it
    Check(CheckArgs),
}

#[derive(Debug, clap::Args)]
struct PromoteArgs {
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(Debug, clap::Args)]
struct BackupArgs {
    /// The file to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(Debug, clap::Args)]
struct RestoreArgs {
    /// What `state backup` wrote
    file: PathBuf,
    /// The configuration file
    #[arg(long, env = "BILDKANTE_EDGE_CONFIG", default_value = "config/edge.toml")]
    config: PathBuf,
}

#[derive(Debug, clap::Args)]
struct CheckArgs {
    /// The configuration file
    #[arg(long, env = "BILDKANTE_EDGE_CONFIG", default_value = "config/edge.toml")]
    config: PathBuf,
}

/// # Errors
/// When the edge cannot be asked, or what is stored is not sound.
pub fn state(args: &StateArgs) -> anyhow::Result<ExitCode> {
    match &args.what {
        What::Status(args) => super::status(args),
        What::Promote(args) => promote(args),
        What::Backup(args) => backup(args),
        What::Restore(args) => restore(args),
        What::Check(args) => check(args),
    }
}

fn promote(args: &PromoteArgs) -> anyhow::Result<ExitCode> {
    let remote = Remote::new(&args.remote)?;
    let promoted = run(remote.demand(Method::POST, "state/promote", None))?.body;
    say!("this edge is primary of term {}, at entry {}", promoted["term"], promoted["seq"])?;
    say!(
        "it had entries up to {}, and had heard nothing of the former primary for {} ms: what that one committed since may be missing",
        promoted["taken_over"],
        promoted["silence_ms"]
    )?;
    remark!("take `state.follow` out of its configuration, and point the followers to it");
    Ok(ExitCode::SUCCESS)
}

fn backup(args: &BackupArgs) -> anyhow::Result<ExitCode> {
    let remote = Remote::reading(&args.remote)?;
    let snapshot = run(remote.demand(Method::GET, SNAPSHOT, None))?.body;
    let SentSnapshot { head, rows } = serde_json::from_value(snapshot).context("its snapshot cannot be read")?;
    let beside = args.out.with_extension("part");
    let mut file = BufWriter::new(File::create(&beside).with_context(|| beside.display().to_string())?);
    let last = head.seq;
    writeln!(file, "{}", serde_json::to_string(&BackupHead { backup: BACKUP_VERSION, head })?)?;
    for row in &rows {
        writeln!(file, "{}", serde_json::to_string(row)?)?;
    }
    let mut entries = 0;
    super::audit::each_page(&remote, first(&remote)?, |page| {
        for line in page["entries"].as_array().into_iter().flatten() {
            if line["entry"]["seq"].as_u64().is_some_and(|seq| seq <= last) {
                writeln!(file, "{}", line["entry"])?;
                entries += 1;
            }
        }
        Ok(())
    })?;
    file.into_inner().context("the last lines")?.sync_all()?;
    std::fs::rename(&beside, &args.out).with_context(|| args.out.display().to_string())?;
    say!("{} rows and {entries} entries, up to entry {last}, are in {}", rows.len(), args.out.display())?;
    Ok(ExitCode::SUCCESS)
}

/// The entry before the first that the edge has.
fn first(remote: &Remote) -> anyhow::Result<u64> {
    let standing = run(remote.demand(Method::GET, "state", None))?.body;
    Ok(standing["begins"].as_u64().unwrap_or(0))
}

fn restore(args: &RestoreArgs) -> anyhow::Result<ExitCode> {
    let path = Config::load(&args.config)?.cache.disk_dir.join(FILE);
    let file = File::open(&args.file).with_context(|| args.file.display().to_string())?;
    let lines = BufReader::new(file).lines().collect::<Result<Vec<_>, _>>()?;
    let head = run(async { Ok(offline::restore(&path, lines.into_iter()).await?) })?;
    say!("{} has the state of entry {}, as log {} of term {}", path.display(), head.seq - 1, head.log, head.term)?;
    remark!("what was decided after the backup is missing; edges that follow this one take it over as a whole");
    Ok(ExitCode::SUCCESS)
}

fn check(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let path = Config::load(&args.config)?.cache.disk_dir.join(FILE);
    ensure!(path.exists(), "{} is not there: nothing was decided yet", path.display());
    let Checked { head, entries, kills, is_whole } = offline::check(&path)?;
    say!("{entries} entries hold, up to {} of term {}; {kills} kills are in force", head.seq, head.term)?;
    let compared = if is_whole {
        "the state is what they amount to"
    } else {
        "the log begins with a snapshot, whose state is taken as it is"
    };
    say!("{compared}")?;
    Ok(ExitCode::SUCCESS)
}
