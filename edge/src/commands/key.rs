//! `bildkante-edge key`: keys of people and programs are given, listed and revoked; over the admin API, or in the state of an edge
//! that does not run, which is how the first key comes to be.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail, ensure};
use bildkante_shared::{remark, say};
use http::Method;
use serde_json::{Value, json};

use super::kill::run;
use super::remote::{Remote, RemoteArgs};
use crate::admin::token;
use crate::config::Config;
use crate::shared_state::{AccessKey, Change, Grants, KeptKey, KeyId, OpenedLog, Proposal, Revoke};
use crate::words::Epoch;

/// Where a data folder keeps the log.
const FILE: &str = "state.redb";
/// Who asks where no key is needed, for the audit.
const ON_THE_MACHINE: &str = "on the edge's machine";
const DAY: Duration = Duration::from_secs(24 * 3_600);

/// `bildkante-edge key`.
#[derive(Debug, clap::Args)]
pub struct KeyArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Give a key, and print its secret, which is shown this once
    Add(AddArgs),
    /// Every key that was not revoked
    List(ListArgs),
    /// Revoke a key on every edge, and end the sessions that were begun with it
    Revoke(RevokeArgs),
}

#[derive(Debug, clap::Args)]
struct AddArgs {
    /// Whose it is. The name stands in the log for good
    name: String,
    /// A role in a campaign, or in all of them: `autumn=approver`, `*=viewer`; several times for several
    #[arg(long = "role", value_name = "CAMPAIGN=ROLE", required = true)]
    roles: Vec<String>,
    /// Days until it expires
    #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u16).range(1..=3_650))]
    days: u16,
    /// Why, for the audit
    #[arg(long)]
    why: String,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, clap::Args)]
struct ListArgs {
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, clap::Args)]
struct RevokeArgs {
    /// The key's id, as `add` and `list` print it
    id: KeyId,
    /// Why, for the audit
    #[arg(long)]
    why: String,
    #[command(flatten)]
    place: Place,
}

/// A running edge, or the state of one that does not run.
#[derive(Debug, clap::Args)]
struct Place {
    #[command(flatten)]
    remote: RemoteArgs,
    /// The configuration of an edge that does not run, in place of `--admin`: for the first key. Run it as the edge's user
    #[arg(long, value_name = "FILE", conflicts_with = "token_file")]
    config: Option<PathBuf>,
}

/// # Errors
/// When the edge cannot be asked or refuses, or its state cannot be opened.
pub fn key(args: &KeyArgs) -> anyhow::Result<ExitCode> {
    match &args.what {
        What::Add(args) => add(args),
        What::List(args) => list(args),
        What::Revoke(args) => revoke(args),
    }
}

fn add(args: &AddArgs) -> anyhow::Result<ExitCode> {
    let roles = Grants::parse(&args.roles.join(","))?;
    let ends = SystemTime::now() + DAY * u32::from(args.days);
    let expires_unix_ms = u64::try_from(ends.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis())?;
    let (id, secret) = match &args.place.config {
        Some(config) => {
            let secret = token::generate()?;
            let key = AccessKey {
                hash: token::hash(&secret),
                name: args.name.clone(),
                roles: roles.clone(),
                expires_unix_ms,
            };
            let id = key.id().to_string();
            change(config, Change::Key(key), &args.why)?;
            (id, secret)
        }
        None => {
            let order =
                json!({ "name": args.name, "roles": roles, "expires_unix_ms": expires_unix_ms, "why": args.why });
            let given = run(Remote::new(&args.place.remote)?.demand(Method::POST, "keys", Some(&order)))?.body;
            let text = |name: &str| {
                given[name].as_str().map(str::to_owned).with_context(|| format!("the edge tells no `{name}`"))
            };
            (text("id")?, text("secret")?)
        }
    };
    say!("{secret}")?;
    remark!("key {id} is {}'s for {} days: {roles}. Its secret, above, is shown this once", args.name, args.days);
    Ok(ExitCode::SUCCESS)
}

fn list(args: &ListArgs) -> anyhow::Result<ExitCode> {
    if let Some(config) = &args.place.config {
        let opened = open(config)?;
        let state = opened.log.published().state();
        for KeptKey { key, .. } in state.access().behind(0, usize::MAX).iter().map(|kept| &**kept) {
            shown(&key.id().to_string(), &key.name, &key.roles, key.expires_unix_ms)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let remote = Remote::new(&args.place.remote)?;
    let mut after = Some(0);
    while let Some(behind) = after {
        let page = run(remote.demand(Method::GET, &format!("keys?limit=1000&after={behind}"), None))?.body;
        for key in page["keys"].as_array().into_iter().flatten() {
            let roles: Grants =
                serde_json::from_value(key["roles"].clone()).context("the edge tells roles of another form")?;
            let text = |name: &str| key[name].as_str().unwrap_or("?");
            shown(text("id"), text("name"), &roles, key["expires_unix_ms"].as_u64().unwrap_or_default())?;
        }
        after = page["next"].as_u64();
    }
    Ok(ExitCode::SUCCESS)
}

fn shown(id: &str, name: &str, roles: &Grants, expires_unix_ms: u64) -> anyhow::Result<()> {
    let ends = UNIX_EPOCH + Duration::from_millis(expires_unix_ms);
    let word = if ends <= SystemTime::now() { "expired" } else { "until" };
    say!("{id}  {name}  {roles}  {word} {}", httpdate::fmt_http_date(ends))?;
    Ok(())
}

fn revoke(args: &RevokeArgs) -> anyhow::Result<ExitCode> {
    match &args.place.config {
        Some(config) => change(config, Change::Revoke(Revoke { id: args.id }), &args.why)?,
        None => {
            let order: Value = json!({ "why": args.why });
            let remote = Remote::new(&args.place.remote)?;
            run(remote.demand(Method::DELETE, &format!("keys/{}", args.id), Some(&order)))?;
        }
    }
    say!("key {} is good for nothing any more", args.id)?;
    Ok(ExitCode::SUCCESS)
}

/// Enters a change into the log of an edge that does not run.
fn change(config: &Path, change: Change, why: &str) -> anyhow::Result<()> {
    let (who, why) = (ON_THE_MACHINE.to_owned(), why.to_owned());
    run(async {
        let opened = open(config)?;
        opened.log.propose(Proposal { change, who, why, key: None, edge: None }).await?;
        Ok(())
    })
}

fn open(config: &Path) -> anyhow::Result<OpenedLog> {
    let config = Config::load(config)?;
    if let Some(follow) = &config.state.follow {
        bail!("this edge follows {}: keys are given there, or over the admin API of any edge", follow.primary);
    }
    let folder = &config.cache.disk_dir;
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    ensure!(folder.is_dir(), "{} is no folder", folder.display());
    let told = "its state cannot be opened: while the edge runs, ask it with `--admin` and a token";
    config.state.open(&folder.join(FILE), Epoch::default()).context(told)
}
