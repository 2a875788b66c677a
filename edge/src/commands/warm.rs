//! `bildkante-edge warm`: have a campaign's images made ahead, and watch it.
//!
//! The edge does the work and remembers how far it is; this command asks it to, shows the progress and sums up. It may
//! leave at any time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use bildkante_shared::console::OutputError;
use bildkante_shared::{remark, say};
use http::{Method, StatusCode};
use indicatif::HumanBytes;
use serde::Deserialize;
use serde_json::{Value, json};

use super::progress::{Progress, View};
use super::remote::{Remote, RemoteArgs, axis, problem};
use crate::warm::job::JobState;

/// How often the edge is asked how far it is.
const POLL: Duration = Duration::from_millis(400);
/// Without a terminal a line is written this often.
const LINE_POLLS: u32 = 12;
/// Polls in a row that may fail: an edge that restarts goes on with the job.
const POLL_FAILURES_MAX: u32 = 150;
/// Of a command that was interrupted (128 + SIGINT).
const EX_INTERRUPTED: u8 = 130;

/// `bildkante-edge warm`.
#[derive(Debug, clap::Args)]
pub struct WarmArgs {
    #[arg(long)]
    pub campaign: String,
    /// One slot; without it all of them
    #[arg(long)]
    pub slot: Option<String>,
    /// A value of an axis (`colour=teal`), any number of times; an axis that is not named has all of its values
    #[arg(long = "axis", value_name = "AXIS=VALUE", value_parser = axis)]
    pub axes: Vec<(String, String)>,
    /// Formats, with commas between; without them AVIF, WebP and JPEG
    #[arg(long, value_delimiter = ',')]
    pub formats: Vec<String>,
    /// Renditions at a time; without it as the edge is configured
    #[arg(long)]
    pub concurrency: Option<usize>,
    /// Remember the job in this file, and go on with the one that is in it
    #[arg(long, value_name = "FILE")]
    pub resume: Option<PathBuf>,
    /// Stands in the edge's audit
    #[arg(long, default_value = "")]
    pub why: String,
    #[command(flatten)]
    pub remote: RemoteArgs,
}

/// As the admin API tells it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Job {
    id: u64,
    /// None where the edge says nothing of it.
    state: Option<JobState>,
    total: u64,
    done: u64,
    generated: u64,
    rendered: u64,
    cached: u64,
    failed: u64,
    bytes: u64,
    elapsed_ms: u64,
    eta_ms: Option<u64>,
    failures: Vec<FailureLine>,
}

#[derive(Debug, Deserialize)]
struct FailureLine {
    url: String,
    error: String,
}

/// Starts or goes on with a job and waits for its end. The exit status is not 0 when anything failed.
///
/// # Errors
/// When the edge cannot be asked or refuses.
pub fn warm(args: &WarmArgs) -> anyhow::Result<ExitCode> {
    let remote = Remote::new(&args.remote)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    runtime.block_on(run(args, &remote))
}

async fn run(args: &WarmArgs, remote: &Remote) -> anyhow::Result<ExitCode> {
    let known = args.resume.as_deref().filter(|path| path.exists()).map(remembered).transpose()?;
    let job = match known {
        Some(id) => go_on(args, remote, id).await?,
        None => begin(args, remote).await?,
    };
    if let Some(path) = &args.resume {
        let state = json!({ "job": job.id, "campaign": args.campaign }).to_string();
        std::fs::write(path, state).with_context(|| path.display().to_string())?;
    }
    let view = View::new();
    let mut job = job;
    let mut failures = 0;
    let mut polls = 0;
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
    while job.state == Some(JobState::Running) {
        view.show(&job.progress(), polls % LINE_POLLS == 0);
        polls += 1;
        tokio::select! {
            _ = interrupt.as_mut() => {
                remote.demand(Method::DELETE, &format!("warm/{}", job.id), None).await?;
                job = ended(remote, job.id).await.unwrap_or(job);
                view.finish();
                sum_up(&job)?;
                let by_file = |path: &PathBuf| format!("`--resume {}`", path.display());
                let how = args.resume.as_ref().map_or("`{\"resume\": …}` in the admin API".to_owned(), by_file);
                remark!("interrupted; what is done stays, {how} goes on with it");
                return Ok(ExitCode::from(EX_INTERRUPTED));
            }
            () = tokio::time::sleep(POLL) => {}
        }
        match get(remote, job.id).await {
            Ok(now) => (job, failures) = (now, 0),
            Err(error) if failures >= POLL_FAILURES_MAX => return Err(error),
            Err(_) => failures += 1,
        }
    }
    view.show(&job.progress(), true);
    view.finish();
    sum_up(&job)?;
    Ok(if job.failed == 0 && job.state == Some(JobState::Done) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn begin(args: &WarmArgs, remote: &Remote) -> anyhow::Result<Job> {
    let mut axes: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (axis, value) in &args.axes {
        axes.entry(axis).or_default().push(value);
    }
    let order = json!({
        "campaign": args.campaign, "slot": args.slot, "axes": axes, "formats": args.formats,
        "concurrency": args.concurrency, "why": args.why,
    });
    parse(remote.demand(Method::POST, "warm", Some(&order)).await?.body)
}

/// The job the file names; one the edge no longer knows is begun anew, and finds in the cache what was done.
async fn go_on(args: &WarmArgs, remote: &Remote, id: u64) -> anyhow::Result<Job> {
    let reply = remote.ask(Method::GET, &format!("warm/{id}"), None).await?;
    if reply.status == StatusCode::NOT_FOUND {
        return begin(args, remote).await;
    }
    anyhow::ensure!(reply.status.is_success(), "{}", problem(&reply));
    let campaign = reply.body["order"]["campaign"].as_str().unwrap_or_default().to_owned();
    anyhow::ensure!(campaign == args.campaign, "the job in that file warms `{campaign}`, not `{}`", args.campaign);
    let job = parse(reply.body)?;
    if job.state == Some(JobState::Running) || (job.state == Some(JobState::Done) && job.failed == 0) {
        return Ok(job);
    }
    parse(remote.demand(Method::POST, "warm", Some(&json!({ "resume": id }))).await?.body)
}

fn remembered(path: &Path) -> anyhow::Result<u64> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let state: Value = serde_json::from_str(&text).unwrap_or_default();
    state["job"].as_u64().with_context(|| format!("{} holds no job", path.display()))
}

async fn get(remote: &Remote, id: u64) -> anyhow::Result<Job> {
    parse(remote.demand(Method::GET, &format!("warm/{id}"), None).await?.body)
}

/// The job once it no longer runs, for a moment.
async fn ended(remote: &Remote, id: u64) -> anyhow::Result<Job> {
    for _ in 0..20 {
        let job = get(remote, id).await?;
        if job.state != Some(JobState::Running) {
            return Ok(job);
        }
        tokio::time::sleep(POLL / 4).await;
    }
    get(remote, id).await
}

fn parse(body: Value) -> anyhow::Result<Job> {
    serde_json::from_value(body).context("the edge tells of its job in words this version does not know")
}

impl Job {
    fn progress(&self) -> Progress<'static> {
        let Self { generated, rendered, cached, failed, .. } = self;
        Progress {
            of: "warm",
            unit: "renditions",
            done: self.done,
            total: self.total,
            counts: format!("{generated} generated, {rendered} rendered, {cached} cached, {failed} failed"),
            eta_ms: self.eta_ms,
        }
    }
}

fn sum_up(job: &Job) -> Result<(), OutputError> {
    say!("job {} {}", job.id, job.state.map_or("unknown", JobState::as_str))?;
    say!("  renditions  {} of {}", job.done, job.total)?;
    say!("  generated   {} pictures", job.generated)?;
    say!("  rendered    {}", job.rendered)?;
    say!("  cached      {}", job.cached)?;
    say!("  failed      {}", job.failed)?;
    say!("  bytes       {}", HumanBytes(job.bytes))?;
    say!("  time        {:.1} s", Duration::from_millis(job.elapsed_ms).as_secs_f64())?;
    for FailureLine { url, error } in &job.failures {
        say!("  FAILED {url}: {error}")?;
    }
    let untold = job.failed.saturating_sub(job.failures.len() as u64);
    if untold > 0 {
        say!("  … and {untold} more")?;
    }
    Ok(())
}
