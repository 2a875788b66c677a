//! `bildkante-edge purge`: take images out of circulation.

use std::process::ExitCode;

use anyhow::Context;
use bildkante_shared::{remark, say};
use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::remote::{Remote, RemoteArgs};
use crate::governance::DeliveryState;

/// `bildkante-edge purge`.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("scope").required(true).args(["url", "variant", "tag", "campaign", "everything"]))]
pub struct PurgeArgs {
    /// The image of this URL, in each format it may be answered with
    #[arg(long)]
    pub url: Option<String>,
    /// The picture of these values in all its cuts: `campaign/slot?axis=value`
    #[arg(long)]
    pub variant: Option<String>,
    /// All that bears this tag, as in `Cache-Tag`
    #[arg(long)]
    pub tag: Option<String>,
    /// A whole campaign
    #[arg(long)]
    pub campaign: Option<String>,
    /// All images of the edge
    #[arg(long)]
    pub everything: bool,
    /// Serve what is purged while it is made anew, instead of never again
    #[arg(long)]
    pub soft: bool,
    /// Ask a node for the pictures again too, instead of cutting them from the masters known here
    #[arg(long)]
    pub masters: bool,
    /// Stands in the edge's audit
    #[arg(long, default_value = "")]
    pub why: String,
    #[command(flatten)]
    pub remote: RemoteArgs,
}

/// Purges, and says which caches further down have confirmed. The exit status is not 0 while one has not.
///
/// # Errors
/// When the edge cannot be asked or refuses.
pub fn purge(args: &PurgeArgs) -> anyhow::Result<ExitCode> {
    let remote = Remote::new(&args.remote)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    let record = runtime.block_on(remote.demand(Method::POST, "purges", Some(&order(args))))?.body;
    say!("purge {} is in force", record["id"])?;
    let mut has_confirmed = true;
    for (name, delivery) in record["downstream"].as_object().into_iter().flatten() {
        let state = DeliveryState::deserialize(&delivery["state"]).ok();
        has_confirmed &= state == Some(DeliveryState::Confirmed);
        let error = delivery["last_error"].as_str().map(|error| format!(": {error}")).unwrap_or_default();
        say!("  {name}  {}{error}", state.map_or("unknown", DeliveryState::as_str))?;
    }
    if !has_confirmed {
        remark!("the edge goes on calling those that have not confirmed: GET /admin/v1/purges/{} tells", record["id"]);
    }
    Ok(if has_confirmed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn order(args: &PurgeArgs) -> Value {
    let mut order = json!({
        "kind": if args.soft { "soft" } else { "hard" },
        "reach": if args.masters { "masters" } else { "renditions" },
        "why": args.why,
    });
    for (name, value) in
        [("url", &args.url), ("variant", &args.variant), ("tag", &args.tag), ("campaign", &args.campaign)]
    {
        if let Some(value) = value {
            order[name] = json!(value);
        }
    }
    if args.everything {
        order["everything"] = json!(true);
    }
    order
}
