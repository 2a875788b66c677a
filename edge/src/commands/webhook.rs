//! `bildkante-edge webhook`: endpoints that are told of decisions; what they never took, and sending it again.

use std::process::ExitCode;

use bildkante_shared::say;
use http::Method;
use serde_json::json;

use super::kill::{run, words};
use super::remote::{Remote, RemoteArgs};

/// `bildkante-edge webhook`.
#[derive(Debug, clap::Args)]
pub struct WebhookArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Print the endpoints, and the messages that were given up
    List(ListArgs),
    /// Send an endpoint's dead letters again
    Replay(ReplayArgs),
    /// Send an endpoint a message that means nothing
    Test(TestArgs),
}

#[derive(Debug, clap::Args)]
struct ListArgs {
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(Debug, clap::Args)]
struct ReplayArgs {
    /// The endpoint's name
    name: String,
    /// Why, for the audit
    #[arg(long)]
    why: String,
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(Debug, clap::Args)]
struct TestArgs {
    /// The endpoint's name
    name: String,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// # Errors
/// When the edge cannot be asked or refuses.
pub fn webhook(args: &WebhookArgs) -> anyhow::Result<ExitCode> {
    match &args.what {
        What::List(args) => list(&args.remote),
        What::Replay(args) => replay(args),
        What::Test(args) => test(args),
    }
}

fn list(args: &RemoteArgs) -> anyhow::Result<ExitCode> {
    let remote = Remote::new(args)?;
    let listed = run(remote.demand(Method::GET, "webhooks", None))?.body;
    for endpoint in listed["webhooks"].as_array().into_iter().flatten() {
        let gone = if endpoint["is_gone"] == true { ", gone (410)" } else { "" };
        let (pending, dead) = (&endpoint["pending"], &endpoint["dead"]);
        say!("{}  {}  {pending} waiting, {dead} dead{gone}", words(&endpoint["name"]), words(&endpoint["url"]))?;
    }
    let mut path = "webhooks/dead-letters?limit=1000".to_owned();
    loop {
        let page = run(remote.demand(Method::GET, &path, None))?.body;
        for letter in page["dead_letters"].as_array().into_iter().flatten() {
            let error = letter["last_error"].as_str().unwrap_or("never sent");
            let (name, kind) = (words(&letter["endpoint"]), words(&letter["type"]));
            say!("  {name}  {}  {kind}  {}: {error}", words(&letter["id"]), words(&letter["subject"]))?;
        }
        let Some(after) = page["next"].as_u64() else { return Ok(ExitCode::SUCCESS) };
        path = format!("webhooks/dead-letters?limit=1000&after={after}");
    }
}

fn replay(args: &ReplayArgs) -> anyhow::Result<ExitCode> {
    let remote = Remote::new(&args.remote)?;
    let path = format!("webhooks/{}/replay", args.name);
    let replayed = run(remote.demand(Method::POST, &path, Some(&json!({ "why": args.why }))))?.body;
    say!("{} messages are sent again", replayed["replayed"])?;
    Ok(ExitCode::SUCCESS)
}

fn test(args: &TestArgs) -> anyhow::Result<ExitCode> {
    let remote = Remote::new(&args.remote)?;
    let tested = run(remote.demand(Method::POST, &format!("webhooks/{}/test", args.name), None))?.body;
    if tested["delivered"] == true {
        say!("delivered")?;
        return Ok(ExitCode::SUCCESS);
    }
    say!("not delivered: {}", words(&tested["error"]))?;
    Ok(ExitCode::FAILURE)
}
