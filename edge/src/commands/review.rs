//! `bildkante-edge review`: which pictures await a decision, and what a person decides about one.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use bildkante_shared::{remark, say};
use http::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::kill::{run, words};
use super::remote::{Remote, RemoteArgs};
use crate::shared_state::CaseState;
use crate::signing::moment::{self, MomentError};

/// How often it is asked whether candidates are drawn.
const CANDIDATES_PAUSE: Duration = Duration::from_millis(500);

/// `bildkante-edge review`.
#[derive(Debug, clap::Args)]
pub struct ReviewArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Print the pictures that were put before reviewers
    List(ListArgs),
    /// Print a case, and the lines of the manifest that its choice comes to
    Show(ShowArgs),
    /// Save the picture of a case
    Picture(PictureArgs),
    /// Have a variant's picture drawn with other seeds, and wait until they are before reviewers
    Candidates(CandidatesArgs),
    /// The picture may be shown: at once and for good, or for a time
    Approve(ApproveArgs),
    /// The picture is not shown
    Reject(ReasonedArgs),
    /// The picture is not shown, and another one is wanted
    RequestChanges(ReasonedArgs),
    /// What was approved is not shown for now
    Pause(ReasonedArgs),
    /// What was paused is shown again
    Resume(ResumeArgs),
    /// Ask a role to decide, by a time
    Escalate(EscalateArgs),
}

#[derive(Debug, clap::Args)]
struct ListArgs {
    /// Only those in this state: needs_review, rejected, changes_requested, scheduled, live, paused, superseded, expired
    #[arg(long, value_parser = state)]
    state: Option<&'static str>,
    /// Only those of this campaign
    #[arg(long)]
    campaign: Option<String>,
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(Debug, clap::Args)]
struct ShowArgs {
    /// The case's number, as `review list` prints it
    case: u64,
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(Debug, clap::Args)]
struct CandidatesArgs {
    /// Whose picture: `campaign/slot?axis=value`
    variant: String,
    /// A seed; repeat for several. Without one: those behind the manifest's own that were not drawn yet
    #[arg(long, value_name = "NUMBER", conflicts_with = "count")]
    seed: Vec<u32>,
    /// How many further seeds
    #[arg(long, default_value_t = 4)]
    count: u32,
    /// A remark, for the audit
    #[arg(long)]
    why: Option<String>,
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(Debug, clap::Args)]
struct PictureArgs {
    /// The case's number, as `review list` prints it
    case: u64,
    /// Where to write it; the name's ending says the format: avif, webp, jpg or png
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// At least so wide, in px, as far as the slot goes
    #[arg(long, default_value_t = 1280)]
    width: u32,
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(Debug, clap::Args)]
struct ApproveArgs {
    /// The case's number, as `review list` prints it
    case: u64,
    /// The entry that was seen, as the edge names it: needed to approve what another person has turned down
    #[arg(long, value_name = "NUMBER")]
    seen: Option<u64>,
    /// When it is shown first: a date such as 2026-12-01T00:00:00+01:00, or a span such as 24h; without it at once
    #[arg(long, value_name = "TIME", value_parser = unix_ms)]
    from: Option<u64>,
    /// When it is shown no more
    #[arg(long, value_name = "TIME", value_parser = unix_ms)]
    until: Option<u64>,
    /// A remark, for the audit
    #[arg(long)]
    why: Option<String>,
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(Debug, clap::Args)]
struct ReasonedArgs {
    /// The case's number, as `review list` prints it
    case: u64,
    /// Why, for the makers and for the audit
    #[arg(long)]
    why: String,
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(Debug, clap::Args)]
struct ResumeArgs {
    /// The case's number, as `review list` prints it
    case: u64,
    /// A remark, for the audit
    #[arg(long)]
    why: Option<String>,
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(Debug, clap::Args)]
struct EscalateArgs {
    /// The case's number, as `review list` prints it
    case: u64,
    /// Who is asked: the name of a role, such as `legal`
    #[arg(long)]
    to: String,
    /// By when: a date, or a span such as 24h
    #[arg(long, value_name = "TIME", value_parser = unix_ms)]
    by: u64,
    /// Why, for the audit
    #[arg(long)]
    why: String,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// A date, or a span from now.
fn unix_ms(text: &str) -> Result<u64, MomentError> {
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    Ok(moment::parse(text, now_s)?.saturating_mul(1_000))
}

fn state(name: &str) -> Result<&'static str, String> {
    let names = CaseState::ALL.map(CaseState::as_str);
    names.into_iter().find(|known| *known == name).ok_or_else(|| format!("it is one of {}", names.join(", ")))
}

/// Lists cases, or decides about one.
///
/// # Errors
/// When the edge cannot be asked or refuses.
pub fn review(args: &ReviewArgs) -> anyhow::Result<ExitCode> {
    match &args.what {
        What::List(args) => list(args),
        What::Show(args) => show(args),
        What::Picture(args) => picture(args),
        What::Candidates(args) => candidates(args),
        What::Approve(args) => {
            let (from, until) = (args.from, args.until);
            let (why, seen) = (&args.why, args.seen);
            let order = json!({
                "decision": "approve", "from_unix_ms": from, "until_unix_ms": until, "why": why, "seen": seen,
            });
            rule(&args.remote, args.case, &order)
        }
        What::Reject(args) => reasoned(args, "reject"),
        What::RequestChanges(args) => reasoned(args, "request_changes"),
        What::Pause(args) => reasoned(args, "pause"),
        What::Resume(args) => rule(&args.remote, args.case, &json!({ "decision": "resume", "why": args.why })),
        What::Escalate(args) => {
            let order = json!({ "decision": "escalate", "to": args.to, "by_unix_ms": args.by, "why": args.why });
            rule(&args.remote, args.case, &order)
        }
    }
}

fn reasoned(args: &ReasonedArgs, decision: &str) -> anyhow::Result<ExitCode> {
    rule(&args.remote, args.case, &json!({ "decision": decision, "why": args.why }))
}

fn list(args: &ListArgs) -> anyhow::Result<ExitCode> {
    let remote = Remote::reading(&args.remote)?;
    let mut asked = "decisions?limit=1000".to_owned();
    for (name, value) in [("state", args.state), ("campaign", args.campaign.as_deref())] {
        if let Some(value) = value {
            asked.push_str(&format!("&{name}={}", encoded(value)));
        }
    }
    let mut after = String::new();
    loop {
        let page = run(remote.demand(Method::GET, &format!("{asked}{after}"), None))?.body;
        for case in page["decisions"].as_array().into_iter().flatten() {
            say!("{:>8}  {:<18} {}{}", case["id"], words(&case["state"]), words(&case["variant"]), remarks(case))?;
        }
        match page["next"].as_u64() {
            Some(next) => after = format!("&after={next}"),
            None => return Ok(ExitCode::SUCCESS),
        }
    }
}

/// As a value of a query.
fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// What is to be known of a case beside its state.
fn remarks(case: &Value) -> String {
    let mut remarks = String::new();
    let approvals = case["approved_by"].as_array().map_or(0, Vec::len);
    if case["state"] == "needs_review" && approvals > 0 {
        remarks.push_str(&format!(", {approvals} approval"));
    }
    for (name, word) in [("from_unix_ms", "from"), ("until_unix_ms", "until")] {
        if let Some(time) = case[name].as_u64() {
            let time = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_millis(time));
            remarks.push_str(&format!(", {word} {time}"));
        }
    }
    if let Some(role) = case["escalated"]["to"].as_str() {
        remarks.push_str(&format!(", {role} is asked"));
    }
    if case["is_overdue"] == true {
        remarks.push_str(", overdue");
    }
    remarks
}

fn show(args: &ShowArgs) -> anyhow::Result<ExitCode> {
    let case = run(Remote::reading(&args.remote)?.demand(Method::GET, &format!("decisions/{}", args.case), None))?.body;
    say!("{}  {}  {}{}", args.case, words(&case["state"]), words(&case["variant"]), remarks(&case))?;
    say!("recipe {}, master {}", words(&case["recipe"]), words(&case["master"]))?;
    if let Some(seed) = case["drawn"]["seed"].as_u64() {
        say!("drawn by {} with seed {seed}", words(&case["drawn"]["node"]))?;
    }
    if let Some(patch) = case["patch"].as_str() {
        say!("\nThe manifest chooses it with\n\n{patch}")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Asks again until nothing is under way, so that what is printed can be decided.
fn candidates(args: &CandidatesArgs) -> anyhow::Result<ExitCode> {
    let remote = Remote::new(&args.remote)?;
    let mut order = json!({ "variant": args.variant, "why": args.why });
    match args.seed.is_empty() {
        true => order["count"] = json!(args.count),
        false => order["seeds"] = json!(args.seed),
    }
    let mut trials = run(remote.demand(Method::POST, "candidates", Some(&order)))?.body;
    let variant = encoded(&args.variant);
    let mut open = usize::MAX;
    loop {
        let of = |state: &str| {
            trials["candidates"].as_array().map_or(0, |all| all.iter().filter(|it| it["state"] == state).count())
        };
        let drawing = of("drawing");
        if drawing != open {
            open = drawing;
            remark!("{}: {open} under way, {} failed", words(&trials["variant"]), of("failed"));
        }
        if open == 0 {
            break;
        }
        std::thread::sleep(CANDIDATES_PAUSE);
        trials = run(remote.demand(Method::GET, &format!("candidates?variant={variant}"), None))?.body;
    }
    for trial in trials["candidates"].as_array().into_iter().flatten() {
        say!("seed {}: {}", trial["seed"], words(&trial["detail"]))?;
    }
    let picture = encoded(words(&trials["variant"]));
    let page = run(remote.demand(Method::GET, &format!("decisions?limit=1000&variant={picture}"), None))?.body;
    for case in page["decisions"].as_array().into_iter().flatten() {
        say!("{:>8}  {:<18} seed {}{}", case["id"], words(&case["state"]), case["drawn"]["seed"], remarks(case))?;
    }
    let has_failed = trials["candidates"].as_array().is_some_and(|all| !all.is_empty());
    Ok(if has_failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn picture(args: &PictureArgs) -> anyhow::Result<ExitCode> {
    let ending = args.out.extension().and_then(|ending| ending.to_str()).unwrap_or("webp");
    let path = format!("decisions/{}/picture?w={}&fm={ending}", args.case, args.width);
    let remote = Remote::new(&args.remote)?;
    let bytes = run(remote.file(&path))?;
    std::fs::write(&args.out, &bytes).with_context(|| args.out.display().to_string())?;
    say!("{}: {} bytes", args.out.display(), bytes.len())?;
    Ok(ExitCode::SUCCESS)
}

fn rule(remote: &RemoteArgs, case: u64, order: &Value) -> anyhow::Result<ExitCode> {
    let remote = Remote::new(remote)?;
    let ruled = run(remote.demand(Method::POST, &format!("decisions/{case}"), Some(order)))?.body;
    say!("{case}  {}  {}{}", words(&ruled["state"]), words(&ruled["variant"]), remarks(&ruled))?;
    Ok(ExitCode::SUCCESS)
}
