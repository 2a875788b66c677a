//! `bildkante-edge kill`, `lift` and `status`: take pictures out of circulation on every edge, let them back, see what stands.

use std::process::ExitCode;

use anyhow::Context;
use bildkante_shared::{remark, say};
use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::remote::{Remote, RemoteArgs};
use crate::governance::DeliveryState;

/// `bildkante-edge kill`.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("target").required(true).args([
    "campaign", "slot", "value", "variant", "recipe", "master", "checkpoint", "adapter", "block", "import",
]))]
pub struct KillArgs {
    /// A whole campaign
    #[arg(long)]
    campaign: Option<String>,
    /// A slot: `campaign/slot`
    #[arg(long)]
    slot: Option<String>,
    /// Every variant with this value: `campaign?axis=value`
    #[arg(long)]
    value: Option<String>,
    /// One variant: `campaign/slot?axis=value`; axes that are left out have their defaults
    #[arg(long)]
    variant: Option<String>,
    /// What this recipe is drawn as
    #[arg(long)]
    recipe: Option<String>,
    /// One picture, wherever it is shown
    #[arg(long)]
    master: Option<String>,
    /// All that a checkpoint, a refiner or a ControlNet had a part in: its name in manifests, or its digest
    #[arg(long)]
    checkpoint: Option<String>,
    /// All that an adapter had a part in: its name in manifests, or its digest
    #[arg(long)]
    adapter: Option<String>,
    /// All that was drawn with a block, a style or a negative list: `library/name`
    #[arg(long)]
    block: Option<String>,
    /// A picture that a person brought: `campaign/slot?axis=value`, or the digest of its file
    #[arg(long)]
    import: Option<String>,
    /// Why, for the audit
    #[arg(long)]
    why: String,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// `bildkante-edge lift`.
#[derive(Debug, clap::Args)]
pub struct LiftArgs {
    /// The kill's number, as `kill` and `status` print it
    seq: u64,
    /// Why, for the audit
    #[arg(long)]
    why: String,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// `bildkante-edge status`.
#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    #[command(flatten)]
    remote: RemoteArgs,
}

impl KillArgs {
    fn order(&self) -> Value {
        let named = [
            ("campaign", &self.campaign),
            ("slot", &self.slot),
            ("value", &self.value),
            ("variant", &self.variant),
            ("recipe", &self.recipe),
            ("master", &self.master),
            ("checkpoint", &self.checkpoint),
            ("adapter", &self.adapter),
            ("block", &self.block),
            ("import", &self.import),
        ];
        let mut order = json!({ "why": self.why });
        for (name, value) in named {
            if let Some(value) = value {
                order[name] = json!(value);
            }
        }
        order
    }
}

/// Kills, and says what may still be shown elsewhere. The exit status is not 0 while a cache further down has not confirmed.
///
/// # Errors
/// When the edge cannot be asked or refuses.
pub fn kill(args: &KillArgs) -> anyhow::Result<ExitCode> {
    let remote = Remote::new(&args.remote)?;
    let reply = run(remote.demand(Method::POST, "kills", Some(&args.order())))?;
    let killed = &reply.body;
    if reply.status == http::StatusCode::ACCEPTED {
        say!(
            "{} is withheld by this edge; the other edges learn of it when the primary can be reached",
            words(&killed["target"])
        )?;
        return Ok(ExitCode::FAILURE);
    }
    say!("kill {}: {} is withheld by every edge that shares this state", killed["seq"], words(&killed["target"]))?;
    covers(killed)?;
    let exposure = &killed["exposure"];
    say!(
        "  browsers may show it for {} s more, shared caches for {} s{}",
        exposure["browsers"]["max_age_s"],
        exposure["shared_caches"]["max_age_s"],
        if exposure["shared_caches"]["ends_when_confirmed"] == true { ", unless they confirm before" } else { "" }
    )?;
    deliveries(killed)
}

/// Lifts a kill.
///
/// # Errors
/// When the edge cannot be asked or refuses.
pub fn lift(args: &LiftArgs) -> anyhow::Result<ExitCode> {
    let remote = Remote::new(&args.remote)?;
    let path = format!("kills/{}", args.seq);
    let lifted = run(remote.demand(Method::DELETE, &path, Some(&json!({ "why": args.why }))))?.body;
    say!("lift {}: {} is shown again", lifted["seq"], words(&lifted["target"]))?;
    Ok(ExitCode::SUCCESS)
}

/// Where the edge stands, and every kill in force.
///
/// # Errors
/// When the edge cannot be asked.
pub fn status(args: &StatusArgs) -> anyhow::Result<ExitCode> {
    let remote = Remote::reading(&args.remote)?;
    let standing = run(remote.demand(Method::GET, "state", None))?.body;
    say!(
        "{} at entry {} of term {}, log {}",
        words(&standing["role"]),
        standing["seq"],
        standing["term"],
        words(&standing["log"])
    )?;
    if let Some(trouble) = standing["trouble"].as_str() {
        remark!("nothing was heard of the primary for {} ms: {trouble}", standing["age_ms"]);
    }
    let mut after = None;
    loop {
        let path =
            after.map_or_else(|| "kills?limit=1000".to_owned(), |after: u64| format!("kills?limit=1000&after={after}"));
        let page = run(remote.demand(Method::GET, &path, None))?.body;
        for kill in page["kills"].as_array().into_iter().flatten() {
            match kill["seq"].as_u64() {
                Some(seq) => say!("  kill {seq}  {}", words(&kill["target"]))?,
                None => say!("  kill, on this edge alone  {}", words(&kill["target"]))?,
            }
        }
        after = page["next"].as_u64();
        if after.is_none() {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

fn covers(killed: &Value) -> anyhow::Result<()> {
    let campaigns: Vec<&str> =
        killed["covers"]["campaigns"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let shown = if campaigns.is_empty() {
        "no campaign shows it now".to_owned()
    } else {
        format!("in {}", campaigns.join(", "))
    };
    match killed["covers"]["recipes"].as_u64() {
        Some(1) => say!("  one recipe, {shown}")?,
        Some(recipes) => say!("  {recipes} recipes, {shown}")?,
        None => say!("  {shown}")?,
    }
    Ok(())
}

fn deliveries(killed: &Value) -> anyhow::Result<ExitCode> {
    let mut has_confirmed = true;
    for (name, delivery) in killed["downstream"]["caches"].as_object().into_iter().flatten() {
        let state = DeliveryState::deserialize(&delivery["state"]).ok();
        has_confirmed &= state == Some(DeliveryState::Confirmed);
        say!("  {name}  {}", state.map_or("unknown", DeliveryState::as_str))?;
    }
    if !has_confirmed {
        let purge = &killed["downstream"]["purge"];
        remark!("the edge goes on calling those that have not confirmed: GET /admin/v1/purges/{purge} tells");
    }
    Ok(if has_confirmed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

pub(super) fn words(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}

/// On a runtime of its own.
pub(super) fn run<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?.block_on(work)
}
