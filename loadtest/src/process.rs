//! A program that a scenario starts, steers and ends. It is killed when its owner goes away.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

const START_MAX: Duration = Duration::from_secs(30);
const STOP_MAX: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);

/// Ticks a second that Linux counts a process's time in towards programs, on every processor Rust supports std on.
const USER_HZ: u64 = 100;

/// A program, how it was started, and where it writes.
#[derive(Debug)]
pub(crate) struct Process {
    program: PathBuf,
    arguments: Vec<String>,
    log: PathBuf,
    child: Option<Child>,
}

/// Processor time of a process and all its threads, by its number or `self`: `utime` and `stime` of proc(5).
pub(crate) fn cpu(process: &str) -> anyhow::Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The program's name may hold spaces and parentheses; what follows the last one does not.
    let (_, fields) = stat.rsplit_once(") ").context("the fields of `stat`")?;
    let ticks: u64 = fields.split(' ').skip(11).take(2).map(str::parse::<u64>).sum::<Result<_, _>>()?;
    Ok(Duration::from_millis(ticks * (1000 / USER_HZ)))
}

impl Process {
    pub(crate) const fn new(program: PathBuf, arguments: Vec<String>, log: PathBuf) -> Self {
        Self { program, arguments, log, child: None }
    }

    /// For the next start.
    pub(crate) fn set_arguments(&mut self, arguments: Vec<String>) {
        self.arguments = arguments;
    }

    /// # Errors
    /// When it does not run.
    pub(crate) fn id(&self) -> anyhow::Result<u32> {
        self.child.as_ref().and_then(Child::id).context("the process does not run")
    }

    pub(crate) async fn kill(&mut self) -> anyhow::Result<()> {
        let mut child = self.child.take().context("the process does not run")?;
        Ok(child.kill().await?)
    }

    pub(crate) fn start(&mut self) -> anyhow::Result<()> {
        let log = std::fs::File::create(&self.log)?;
        let child = Command::new(&self.program)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .env_remove("RUST_LOG")
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        self.child = Some(child);
        Ok(())
    }

    /// Reads the log until `find` finds what it looks for.
    pub(crate) async fn told<T>(&mut self, find: impl Fn(&str) -> Option<T>) -> anyhow::Result<T> {
        let started = Instant::now();
        loop {
            if let Some(found) = find(&std::fs::read_to_string(&self.log).unwrap_or_default()) {
                return Ok(found);
            }
            let ended = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
            anyhow::ensure!(ended.is_none(), "{} ended at start: {}", self.program.display(), self.tail());
            anyhow::ensure!(
                started.elapsed() < START_MAX,
                "{} does not start: {}",
                self.program.display(),
                self.tail()
            );
            tokio::time::sleep(POLL).await;
        }
    }

    pub(crate) fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.id()?)?).context("a process id")?;
        Ok(kill_process(pid, signal)?)
    }

    /// SIGTERM, and until it has ended well.
    pub(crate) async fn stop(&mut self) -> anyhow::Result<()> {
        self.signal(Signal::TERM)?;
        let mut child = self.child.take().context("the process does not run")?;
        let status = tokio::time::timeout(STOP_MAX, child.wait()).await.context("it does not end after SIGTERM")??;
        anyhow::ensure!(status.success(), "it ended with {status}: {}", self.tail());
        Ok(())
    }

    /// The end of what it wrote.
    pub(crate) fn tail(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }
}
