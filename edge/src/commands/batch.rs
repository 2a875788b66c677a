//! `bildkante-edge batch`: have pictures drawn by table, filter or list, watch it, and take home what became of each.
//!
//! The edge does the work and remembers how far it is. This command orders it, shows the progress, writes the results
//! and sums up.

mod view;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use bildkante_shared::{remark, say};
use bytes::Bytes;
use http::{Method, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::signal::unix::{Signal, SignalKind, signal};

use self::view::sum_up;
use super::progress::View;
use super::remote::{Remote, RemoteArgs, Reply, axis, problem};
use crate::batch::record::BatchState;

/// How often the edge is asked how far it is.
const POLL: Duration = Duration::from_millis(500);
/// Without a terminal a line is written this often.
const LINE_POLLS: u32 = 10;
/// Polls in a row that may fail: an edge that restarts goes on with the batch.
const POLL_FAILURES_MAX: u32 = 120;
/// Of a command that was interrupted (128 + SIGINT).
const EX_INTERRUPTED: u8 = 130;

/// Ways to name pictures, but for a filter.
const NAMED: [&str; 3] = ["csv", "list", "variants"];
/// What is said of a batch that has begun: it keeps the terms of its order.
const BEGUN: [&str; 4] = ["resume", "retry", "follow", "cancel"];

/// `bildkante-edge batch`.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("what").required(true).multiple(false)
    .args(["csv", "list", "variants", "filter", "resume", "retry", "follow", "cancel"]))]
pub struct BatchArgs {
    /// A table whose header names `campaign`, `slot`, `seed` and axes
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
    /// A file with a variant or an address on each line
    #[arg(long, value_name = "FILE")]
    pub list: Option<PathBuf>,
    /// A variant (`campaign/slot?axis=value`) or an address, any number of times
    #[arg(long = "variant", value_name = "VARIANT")]
    pub variants: Vec<String>,
    /// The pictures of `--campaign` that `--slot`, `--axis` and `--state` leave
    #[arg(long)]
    pub filter: bool,
    /// Go on with a batch that is paused
    #[arg(long, value_name = "ID")]
    pub resume: Option<u64>,
    /// Try the pictures of a batch again that failed
    #[arg(long, value_name = "ID")]
    pub retry: Option<u64>,
    /// Watch a batch until it ends
    #[arg(long, value_name = "ID")]
    pub follow: Option<u64>,
    /// End a batch; what is drawn stays
    #[arg(long, value_name = "ID")]
    pub cancel: Option<u64>,
    /// Of a filter, or of rows that name none
    #[arg(long, conflicts_with_all = NAMED[1..].iter().chain(&BEGUN))]
    pub campaign: Option<String>,
    /// Of a filter, or of rows that name none
    #[arg(long, conflicts_with_all = NAMED[1..].iter().chain(&BEGUN))]
    pub slot: Option<String>,
    /// Of a filter: a value of an axis (`colour=teal`), any number of times
    #[arg(long = "axis", value_name = "AXIS=VALUE", value_parser = axis, conflicts_with_all = NAMED.iter().chain(&BEGUN))]
    pub axes: Vec<(String, String)>,
    /// Of a filter: a state such as `missing`, any number of times
    #[arg(long = "state", value_name = "STATE", conflicts_with_all = NAMED.iter().chain(&BEGUN))]
    pub states: Vec<String>,
    /// Seeds of each variant, for slots that people decide about: the manifest's own and those behind it
    #[arg(long, value_name = "COUNT", conflicts_with_all = BEGUN)]
    pub seeds: Option<u32>,
    /// Formats, with commas between; without them AVIF, WebP and JPEG
    #[arg(long, value_delimiter = ',', conflicts_with_all = BEGUN)]
    pub formats: Vec<String>,
    /// Renditions at a time; without it as the edge is configured
    #[arg(long, conflicts_with_all = BEGUN)]
    pub concurrency: Option<usize>,
    /// Draw nothing: say what it would take
    #[arg(long, conflicts_with_all = BEGUN)]
    pub dry_run: bool,
    /// Write what became of each picture: `.csv` or `.json`
    #[arg(long, value_name = "FILE", value_parser = output, conflicts_with_all = ["dry_run", "cancel"])]
    pub output: Option<PathBuf>,
    /// An order that is repeated with its key is carried out once
    #[arg(long, value_name = "KEY", conflicts_with_all = BEGUN)]
    pub key: Option<String>,
    /// Stands in the edge's audit
    #[arg(long, default_value = "", conflicts_with_all = BEGUN)]
    pub why: String,
    #[command(flatten)]
    pub remote: RemoteArgs,
}

fn output(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("csv" | "json") => Ok(path),
        _ => Err("its name ends with .csv or .json".to_owned()),
    }
}

/// As the admin API tells it.
#[derive(Debug, Deserialize)]
struct Batch {
    id: u64,
    state: BatchState,
    pictures: u64,
    waiting: u64,
    drawing: u64,
    drawn: u64,
    there: u64,
    failed: u64,
    bytes: u64,
    device_seconds: f64,
    cost: Option<Cost>,
    elapsed_ms: u64,
    eta_ms: Option<u64>,
    failures: Vec<FailureLine>,
}

#[derive(Debug, Deserialize)]
struct FailureLine {
    picture: String,
    seed: Option<u32>,
    reason: String,
}

#[derive(Debug, Deserialize)]
struct Cost {
    amount: String,
    currency: String,
}

/// What an order would come to.
#[derive(Debug, Deserialize)]
struct Estimate {
    pictures: u64,
    there: u64,
    to_draw: u64,
    device_seconds: Option<f64>,
    bytes: Option<u64>,
    cost: Option<Cost>,
}

/// Orders or takes up a batch and waits for its end. The exit status is 0 where each picture is there, 1 where one
/// failed or the batch did not come to its end.
///
/// # Errors
/// When the edge cannot be asked or refuses.
pub fn batch(args: &BatchArgs) -> anyhow::Result<ExitCode> {
    let remote = Remote::new(&args.remote)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    runtime.block_on(run(args, &remote))
}

async fn run(args: &BatchArgs, remote: &Remote) -> anyhow::Result<ExitCode> {
    // From the first request on: one that ends this command while the edge takes its order would leave a batch that no
    // one knows of.
    let interrupt = signal(SignalKind::interrupt()).context("interrupts cannot be caught")?;
    if let Some(id) = args.cancel {
        let batch = parse(remote.demand(Method::DELETE, &format!("batches/{id}"), None).await?.body)?;
        sum_up(&batch)?;
        return Ok(ExitCode::SUCCESS);
    }
    let batch = match (args.follow, args.resume, args.retry) {
        (Some(id), _, _) => get(remote, id).await?,
        (None, Some(id), _) => asked(remote, id, "resume").await?,
        (None, None, Some(id)) => asked(remote, id, "retry").await?,
        (None, None, None) => {
            let Some(reply) = ordered(args, remote).await? else { return Ok(ExitCode::FAILURE) };
            if args.dry_run {
                expect(&serde_json::from_value(reply.body).context("the edge tells its estimate in unknown words")?)?;
                return Ok(ExitCode::SUCCESS);
            }
            parse(reply.body)?
        }
    };
    watch(args, remote, batch, interrupt).await
}

/// Until it stands still, or this command is interrupted.
async fn watch(args: &BatchArgs, remote: &Remote, mut batch: Batch, mut interrupt: Signal) -> anyhow::Result<ExitCode> {
    let view = View::new();
    let (mut failures, mut polls) = (0, 0);
    while batch.state.is_active() {
        view.show(&batch.progress(), polls % LINE_POLLS == 0);
        polls += 1;
        tokio::select! {
            _ = interrupt.recv() => {
                view.finish();
                interrupted(args, remote, &batch).await?;
                return Ok(ExitCode::from(EX_INTERRUPTED));
            }
            () = tokio::time::sleep(POLL) => {}
        }
        match get(remote, batch.id).await {
            Ok(now) => (batch, failures) = (now, 0),
            Err(error) if failures >= POLL_FAILURES_MAX => return Err(error),
            Err(_) => failures += 1,
        }
    }
    view.show(&batch.progress(), true);
    view.finish();
    if let Some(path) = &args.output {
        write_results(remote, batch.id, path).await?;
    }
    sum_up(&batch)?;
    if batch.failed > 0 {
        remark!("`--retry {}` tries what failed again", batch.id);
    }
    let is_whole = batch.failed == 0 && batch.state == BatchState::Done;
    Ok(if is_whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A batch that this command ordered or took up is paused; one that it only follows goes on.
async fn interrupted(args: &BatchArgs, remote: &Remote, batch: &Batch) -> anyhow::Result<()> {
    let id = batch.id;
    if args.follow.is_some() {
        sum_up(batch)?;
        remark!("it goes on; `--follow {id}` watches it again, `--cancel {id}` ends it");
        return Ok(());
    }
    match asked(remote, id, "pause").await {
        Ok(paused) => {
            sum_up(&paused)?;
            remark!("paused; `--resume {id}` goes on with it, `--cancel {id}` ends it; what is drawn stays");
        }
        Err(error) => {
            remark!("it goes on, for it could not be paused: {error}; `--follow {id}` watches it");
        }
    }
    Ok(())
}

async fn write_results(remote: &Remote, id: u64, path: &Path) -> anyhow::Result<()> {
    let form = if path.extension().is_some_and(|extension| extension == "csv") { "csv" } else { "json" };
    let results = remote.large_file(&format!("batches/{id}/results?as={form}")).await?;
    std::fs::write(path, results).with_context(|| path.display().to_string())
}

/// The edge's answer to the order; `None` where rows are wrong, which are named.
async fn ordered(args: &BatchArgs, remote: &Remote) -> anyhow::Result<Option<Reply>> {
    let (query, kind, body) = order(args)?;
    let path = if query.is_empty() { "batches".to_owned() } else { format!("batches?{query}") };
    let reply = remote.post(&path, kind, body, args.key.as_deref()).await?;
    if reply.status.is_success() {
        return Ok(Some(reply));
    }
    let faults = reply.body["errors"].as_array().cloned().unwrap_or_default();
    anyhow::ensure!(reply.status == StatusCode::UNPROCESSABLE_ENTITY && !faults.is_empty(), "{}", problem(&reply));
    let file = args.csv.as_ref().or(args.list.as_ref()).map_or("--variant".into(), |path| path.display().to_string());
    for fault in &faults {
        let column = fault["column"].as_str().filter(|column| !column.is_empty());
        let column = column.map(|column| format!("{column}: ")).unwrap_or_default();
        remark!("{file}:{}: {column}{}", fault["row"], fault["detail"].as_str().unwrap_or_default());
    }
    remark!("{}", reply.body["detail"].as_str().unwrap_or("nothing is drawn"));
    Ok(None)
}

/// Query, media type and body of an order.
fn order(args: &BatchArgs) -> anyhow::Result<(String, &'static str, Bytes)> {
    let mut query: Vec<String> = Vec::new();
    let mut say = |name: &str, value: Option<&str>| {
        let value = value.filter(|value| !value.is_empty());
        query.extend(value.map(|value| format!("{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC))));
    };
    say("dry_run", args.dry_run.then_some("true"));
    if let Some(path) = &args.csv {
        say("campaign", args.campaign.as_deref());
        say("slot", args.slot.as_deref());
        say("count", args.seeds.map(|count| count.to_string()).as_deref());
        say("formats", Some(&args.formats.join(",")));
        say("concurrency", args.concurrency.map(|count| count.to_string()).as_deref());
        say("why", Some(&args.why));
        let table = std::fs::read(path).with_context(|| path.display().to_string())?;
        return Ok((query.join("&"), "text/csv", table.into()));
    }
    let mut order = json!({
        "count": args.seeds, "formats": args.formats, "concurrency": args.concurrency, "why": args.why,
    });
    if args.filter {
        let campaign = args.campaign.as_deref().context("a filter names its `--campaign`")?;
        let mut axes: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (axis, value) in &args.axes {
            axes.entry(axis).or_default().push(value);
        }
        order["filter"] = json!({ "campaign": campaign, "slot": args.slot, "axes": axes, "states": args.states });
    } else {
        let listed = match &args.list {
            Some(path) => std::fs::read_to_string(path).with_context(|| path.display().to_string())?,
            None => args.variants.join("\n"),
        };
        // Each line counts, so that a fault names the line of the file.
        order["pictures"] = json!(listed.lines().collect::<Vec<_>>());
    }
    Ok((query.join("&"), "application/json", order.to_string().into()))
}

fn expect(estimate: &Estimate) -> anyhow::Result<()> {
    let Estimate { pictures, there, to_draw, device_seconds, bytes, cost } = estimate;
    let unknown = || "unknown: nothing was measured yet".to_owned();
    say!("pictures        {pictures}, of which {there} are there and {to_draw} are to be drawn")?;
    say!("device seconds  {}", device_seconds.map_or_else(unknown, |seconds| format!("{seconds:.1}")))?;
    say!("bytes           {}", bytes.map_or_else(unknown, |bytes| indicatif::HumanBytes(bytes).to_string()))?;
    if let Some(Cost { amount, currency }) = cost {
        say!("cost            {amount} {currency}")?;
    }
    Ok(())
}

async fn asked(remote: &Remote, id: u64, what: &str) -> anyhow::Result<Batch> {
    parse(remote.demand(Method::POST, &format!("batches/{id}/{what}"), None).await?.body)
}

async fn get(remote: &Remote, id: u64) -> anyhow::Result<Batch> {
    parse(remote.demand(Method::GET, &format!("batches/{id}"), None).await?.body)
}

fn parse(body: Value) -> anyhow::Result<Batch> {
    serde_json::from_value(body).context("the edge tells of its batch in words this version does not know")
}
