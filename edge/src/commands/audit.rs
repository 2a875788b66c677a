//! `bildkante-edge audit`: read, export and verify the log of decisions, and erase a name from beside it.

use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, ensure};
use bildkante_shared::ids::Digest;
use bildkante_shared::{remark, say};
use http::Method;
use serde_json::{Value, json};

use super::remote::{Remote, RemoteArgs};
use crate::credentials::{Purpose, SignedDocument, Standing, Trust};
use crate::governance::checkpoints::Checkpoint;
use crate::shared_state::{Chain, Entry};

/// Entries of one page.
const PAGE: usize = 1_000;
/// Between two looks of `tail`.
const LOOK: Duration = Duration::from_secs(1);

/// `bildkante-edge audit`.
#[derive(Debug, clap::Args)]
pub struct AuditArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Check that no entry was edited, removed or moved, and that the signed checkpoints are part of the chain
    Verify(VerifyArgs),
    /// Print every entry as a line of JSON
    Export(ExportArgs),
    /// Print the latest entries, and go on with those that come
    Tail(TailArgs),
    /// Erase the name of a person; the entries keep a pseudonymous id
    Forget(ForgetArgs),
}

#[derive(Debug, clap::Args)]
struct VerifyArgs {
    /// Lines that `audit export` printed, instead of a running edge
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// A signed checkpoint that was kept elsewhere; may be given several times
    #[arg(long, value_name = "FILE")]
    checkpoint: Vec<PathBuf>,
    /// Certificates of those who may sign checkpoints (PEM)
    #[arg(long, value_name = "FILE")]
    trust: Option<PathBuf>,
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(Debug, clap::Args)]
struct ExportArgs {
    /// The entry behind which to begin
    #[arg(long, default_value_t = 0)]
    after: u64,
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(Debug, clap::Args)]
struct TailArgs {
    /// Entries from before
    #[arg(long, default_value_t = 10)]
    count: u64,
    /// Print what there is, and end
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(Debug, clap::Args)]
struct ForgetArgs {
    /// As the token or the proxy named the person
    name: String,
    /// Why, for the audit
    #[arg(long)]
    why: String,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// # Errors
/// When the edge cannot be asked, or the audit does not hold.
pub fn audit(args: &AuditArgs) -> anyhow::Result<ExitCode> {
    match &args.what {
        What::Verify(args) => verify(args),
        What::Export(args) => export(args),
        What::Tail(args) => tail(args),
        What::Forget(args) => forget(args),
    }
}

/// A reader of lines in their order.
#[derive(Debug)]
struct Verifier {
    chain: Option<Chain>,
    /// The first entry that was seen: what lies before it is not verified.
    first: u64,
    count: u64,
    checkpoints: Vec<Checkpoint>,
    found: usize,
}

impl Verifier {
    const fn new(checkpoints: Vec<Checkpoint>) -> Self {
        Self { chain: None, first: 0, count: 0, checkpoints, found: 0 }
    }

    fn take(&mut self, entry: &Entry) -> anyhow::Result<()> {
        let chain = self.chain.get_or_insert_with(|| {
            self.first = entry.seq();
            // A log begins at nothing; an export may begin anywhere.
            let before = if entry.seq() == 1 { Digest::from_raw([0; 32]) } else { *entry.previous() };
            Chain::behind(entry.seq().saturating_sub(1), 0, before)
        });
        chain.follow(entry)?;
        self.count += 1;
        for checkpoint in self.checkpoints.iter().filter(|it| it.seq == entry.seq()) {
            ensure!(
                checkpoint.hash == *entry.hash(),
                "entry {} is not the one that was signed: the log was written anew from there or before",
                entry.seq()
            );
            self.found += 1;
        }
        Ok(())
    }

    fn end(&self) -> anyhow::Result<()> {
        let last = self.chain.map_or(0, |chain| chain.head().0);
        if let Some(beyond) = self.checkpoints.iter().find(|checkpoint| checkpoint.seq > last) {
            anyhow::bail!("entry {} was signed, and the log ends at {last}: its tail was cut off", beyond.seq);
        }
        Ok(())
    }
}

fn verify(args: &VerifyArgs) -> anyhow::Result<ExitCode> {
    let trust = match &args.trust {
        Some(path) => Trust::from_pem(&read(path)?).with_context(|| path.display().to_string())?,
        None => Trust::none(),
    };
    let mut documents = args.checkpoint.iter().map(|path| read(path)).collect::<anyhow::Result<Vec<_>>>()?;
    let mut entries = Vec::new();
    match &args.file {
        Some(path) => {
            let file = std::fs::File::open(path).with_context(|| path.display().to_string())?;
            for line in std::io::BufReader::new(file).lines() {
                let line: Value = serde_json::from_str(&line?).context("a line is no JSON")?;
                if line.get("signature").is_some() { documents.push(line.to_string()) } else { entries.push(line) }
            }
        }
        None => {
            let remote = Remote::reading(&args.remote)?;
            each_page(&remote, 0, |page| {
                documents.extend(page["checkpoints"].as_array().into_iter().flatten().map(Value::to_string));
                entries.extend(page["entries"].as_array().into_iter().flatten().map(|line| line["entry"].clone()));
                Ok(())
            })?;
        }
    }
    let checkpoints = documents.iter().map(|text| checked(text, &trust)).collect::<anyhow::Result<Vec<_>>>()?;
    let mut verifier = Verifier::new(checkpoints);
    for line in entries {
        verifier.take(&Entry::parse(line.to_string().as_bytes())?)?;
    }
    verifier.end()?;
    let (seq, hash) = verifier.chain.map_or((0, Digest::from_raw([0; 32])), |chain| chain.head());
    say!("{} entries from {} to {seq} hold; the last has the hash {hash}", verifier.count, verifier.first)?;
    say!("{} signed checkpoints are part of them", verifier.found)?;
    if verifier.found == 0 {
        remark!("without a checkpoint that was kept elsewhere a tail that was cut off does not show");
    }
    Ok(ExitCode::SUCCESS)
}

/// A checkpoint whose signature holds. With `--trust` an authority has to vouch for the signer.
fn checked(text: &str, trust: &Trust) -> anyhow::Result<Checkpoint> {
    let document = SignedDocument::parse(text.as_bytes())?;
    // Signed when its certificate was valid, which may be over by now; the date is part of what is signed.
    let at_unix_s = document.payload::<Checkpoint>().context("a checkpoint cannot be read")?.at_unix_s;
    let verified = document.verify_for(Purpose::Checkpoint, trust, at_unix_s)?;
    ensure!(
        trust.is_empty() || verified.standing == Standing::Trusted,
        "a checkpoint is signed by {}, whom no certificate of `--trust` vouches for",
        verified.organisation
    );
    Ok(serde_json::from_slice(&verified.payload)?)
}

fn read(path: &Path) -> anyhow::Result<String> {
    crate::text_file::read(path).with_context(|| path.display().to_string())
}

fn export(args: &ExportArgs) -> anyhow::Result<ExitCode> {
    each_page(&Remote::reading(&args.remote)?, args.after, |page| {
        for line in page["entries"].as_array().into_iter().flatten() {
            say!("{}", line["entry"])?;
        }
        for checkpoint in page["checkpoints"].as_array().into_iter().flatten() {
            say!("{checkpoint}")?;
        }
        Ok(())
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Every page behind an entry; the last entry.
pub(super) fn each_page(
    remote: &Remote,
    after: u64,
    mut take: impl FnMut(&Value) -> anyhow::Result<()>,
) -> anyhow::Result<u64> {
    let mut last = after;
    loop {
        let path = format!("audit?after={last}&limit={PAGE}");
        let page = super::kill::run(remote.demand(Method::GET, &path, None))?.body;
        take(&page)?;
        last = page["entries"]
            .as_array()
            .and_then(|it| it.last())
            .and_then(|it| it["entry"]["seq"].as_u64())
            .unwrap_or(last);
        if page["next"].is_null() {
            return Ok(last);
        }
    }
}

fn tail(args: &TailArgs) -> anyhow::Result<ExitCode> {
    let remote = Remote::reading(&args.remote)?;
    let standing = super::kill::run(remote.demand(Method::GET, "state", None))?.body;
    let mut after = standing["seq"].as_u64().unwrap_or(0).saturating_sub(args.count);
    loop {
        after = each_page(&remote, after, |page| page["entries"].as_array().into_iter().flatten().try_for_each(shown))?;
        if args.once {
            return Ok(ExitCode::SUCCESS);
        }
        std::thread::sleep(LOOK);
    }
}

fn shown(line: &Value) -> anyhow::Result<()> {
    let Ok(entry) = Entry::parse(line["entry"].to_string().as_bytes()) else {
        return Ok(say!("{}", line["entry"])?);
    };
    let actor = entry.actor().to_string();
    let who = line["name"].as_str().unwrap_or(&actor);
    let (seq, change, subject, why) = (entry.seq(), entry.change().as_str(), entry.change().subject(), entry.why());
    let at = std::time::UNIX_EPOCH + Duration::from_millis(entry.at_unix_ms());
    say!("{seq}  {}  {who}  {change} {subject}  {why}", httpdate::fmt_http_date(at))?;
    Ok(())
}

fn forget(args: &ForgetArgs) -> anyhow::Result<ExitCode> {
    let remote = Remote::new(&args.remote)?;
    let name = percent_encoding::utf8_percent_encode(&args.name, percent_encoding::NON_ALPHANUMERIC);
    let path = format!("audit/names/{name}");
    super::kill::run(remote.demand(Method::DELETE, &path, Some(&json!({ "why": args.why }))))?;
    say!("the name is erased: entries keep an id that leads to no one")?;
    Ok(ExitCode::SUCCESS)
}
