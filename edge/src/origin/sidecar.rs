//! A node that this edge starts, watches, restarts and stops.
//!
//! Invariants: at most one process at a time; the node ends with the edge, however the edge ends: it is asked to by its
//! closing standard input (also when the edge is killed: the kernel closes it), then by SIGTERM to its process
//! group, then by SIGKILL; a node that keeps crashing is restarted for ever, at ever longer intervals. Whether the
//! node is *ready* is the region's business, which probes it like any other.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

use super::metrics::OriginMetrics;
use super::{OriginConfigError, SidecarConfig};

/// Longer lines are logged in pieces.
const LINE_BYTES_MAX: u64 = 8 << 10;
/// A process that ran this long has recovered: its next crash is a first one.
const STEADY_AFTER: Duration = Duration::from_secs(60);
/// How long the pipes of a dead process are read on: something it started may hold them open.
const LAST_LINES_WAIT: Duration = Duration::from_millis(500);

/// What the process is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SidecarState {
    Starting,
    Running {
        pid: u32,
    },
    /// Crashed or not startable; to be started again.
    Waiting,
    Stopped,
}

/// A running supervisor. Dropping it stops the process as [`Sidecar::stop`] does, without waiting for it.
#[derive(Debug)]
pub struct Sidecar {
    stop: watch::Sender<bool>,
    state: watch::Receiver<SidecarState>,
    supervisor: JoinHandle<()>,
}

impl Sidecar {
    /// Starts the process and its supervisor. A command that cannot be started is tried again like one that crashed.
    ///
    /// # Errors
    /// When the configuration cannot be right.
    pub fn start(config: SidecarConfig, metrics: OriginMetrics) -> Result<Self, OriginConfigError> {
        config.check()?;
        let (stop, stopping) = watch::channel(false);
        let (state_sender, state) = watch::channel(SidecarState::Starting);
        let supervisor = Supervisor { config, metrics, stopping: Stopping(stopping), state: state_sender };
        Ok(Self { stop, state, supervisor: tokio::spawn(supervisor.run()) })
    }

    #[must_use]
    pub fn state(&self) -> SidecarState {
        *self.state.borrow()
    }

    /// A view that can be awaited.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<SidecarState> {
        self.state.clone()
    }

    /// Stops the process in order and returns when it is gone.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        if let Err(error) = self.supervisor.await {
            tracing::error!(%error, "the sidecar's supervisor ended badly");
        }
    }
}

/// Resolves when the sidecar is asked to stop, or when its owner is gone.
#[derive(Debug, Clone)]
struct Stopping(watch::Receiver<bool>);

impl Stopping {
    async fn requested(&mut self) {
        let _ = self.0.wait_for(|stop| *stop).await;
    }
}

struct Supervisor {
    config: SidecarConfig,
    metrics: OriginMetrics,
    stopping: Stopping,
    state: watch::Sender<SidecarState>,
}

enum Ended {
    Crashed,
    Stopped,
}

impl Supervisor {
    async fn run(mut self) {
        let mut backoff = Backoff::new(&self.config);
        loop {
            let started = Instant::now();
            if matches!(self.run_once().await, Ended::Stopped) {
                break;
            }
            if started.elapsed() >= STEADY_AFTER {
                backoff = Backoff::new(&self.config);
            }
            self.state.send_replace(SidecarState::Waiting);
            let pause = backoff.next();
            tracing::warn!(command = %self.config.command, ?pause, "the sidecar will be started again");
            tokio::select! {
                () = sleep(pause) => self.metrics.sidecar_restarts.inc(),
                () = self.stopping.requested() => break,
            }
        }
        self.state.send_replace(SidecarState::Stopped);
    }

    /// From start to end of one process.
    async fn run_once(&mut self) -> Ended {
        let mut process = match Process::spawn(&self.config) {
            Ok(process) => process,
            Err(error) => {
                tracing::error!(command = %self.config.command, %error, "the sidecar cannot be started");
                return Ended::Crashed;
            }
        };
        tracing::info!(command = %self.config.command, pid = process.pid, "sidecar started");
        self.state.send_replace(SidecarState::Running { pid: process.pid });
        self.metrics.sidecar_up.set(1);
        let ended = tokio::select! {
            status = process.child.wait() => {
                tracing::error!(pid = process.pid, status = %describe(&status), "the sidecar ended by itself");
                Ended::Crashed
            }
            () = self.stopping.requested() => {
                process.stop(Duration::from_millis(self.config.stop_deadline_ms)).await;
                Ended::Stopped
            }
        };
        process.clear_up().await;
        self.metrics.sidecar_up.set(0);
        ended
    }
}

/// One child, alone with its descendants in its process group.
struct Process {
    child: Child,
    pid: u32,
    /// Held open: its end is the child's signal to leave. Kept apart, as `Child::wait` would close it.
    stdin: Option<ChildStdin>,
    output: JoinSet<()>,
}

impl Process {
    fn spawn(config: &SidecarConfig) -> io::Result<Self> {
        let mut child = Command::new(&config.command)
            .args(&config.args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A Ctrl-C at the terminal goes to the edge, which stops the node in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let pid = child.id().ok_or_else(|| io::Error::other("it ended before it had a process id"))?;
        let mut output = JoinSet::new();
        if let Some(stdout) = child.stdout.take() {
            output.spawn(forward(stdout, "stdout"));
        }
        if let Some(stderr) = child.stderr.take() {
            output.spawn(forward(stderr, "stderr"));
        }
        let stdin = child.stdin.take();
        Ok(Self { child, pid, stdin, output })
    }

    /// Closes its input, then SIGTERM after a quarter of the time, SIGKILL at its end.
    async fn stop(&mut self, deadline: Duration) {
        let asked = Instant::now();
        drop(self.stdin.take());
        let mut status = timeout(deadline / 4, self.child.wait()).await;
        if status.is_err() {
            self.signal(Signal::TERM);
            status = timeout(deadline.saturating_sub(asked.elapsed()), self.child.wait()).await;
        }
        if status.is_err() {
            tracing::warn!(pid = self.pid, ?deadline, "the sidecar does not stop: killed");
            self.signal(Signal::KILL);
            status = Ok(self.child.wait().await);
        }
        let status = status.map_or_else(|_| "unknown".to_owned(), |status| describe(&status));
        tracing::info!(pid = self.pid, %status, took = ?asked.elapsed(), "sidecar stopped");
    }

    /// Ends the processes that the child left running in its group, and reads its last lines.
    async fn clear_up(mut self) {
        // A group keeps its number reserved while it has members; an empty one is an error we ignore.
        self.signal(Signal::KILL);
        let rest = async { while self.output.join_next().await.is_some() {} };
        let _ = timeout(LAST_LINES_WAIT, rest).await;
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, signal);
        }
    }
}

fn describe(status: &io::Result<ExitStatus>) -> String {
    status.as_ref().map_or_else(ToString::to_string, ToString::to_string)
}

/// The node's lines in the edge's log, at the node's own level as far as it shows.
async fn forward(stream: impl AsyncRead + Unpin, source: &'static str) {
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut reader).take(LINE_BYTES_MAX).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => log(String::from_utf8_lossy(&line).trim_end(), source),
        }
    }
}

fn log(line: &str, source: &'static str) {
    // Time and level stand at the start of a line; what comes after is free text.
    let start: String = line.chars().take(64).collect();
    if start.contains("ERROR") {
        tracing::error!(target: "sidecar", source, "{line}");
    } else if start.contains("WARN") {
        tracing::warn!(target: "sidecar", source, "{line}");
    } else {
        tracing::info!(target: "sidecar", source, "{line}");
    }
}

/// Doubling pauses, each cut by up to a half at random so that many edges do not restart in step.
struct Backoff {
    next_ms: u64,
    max_ms: u64,
}

impl Backoff {
    fn new(config: &SidecarConfig) -> Self {
        Self { next_ms: config.restart_backoff_ms_min, max_ms: config.restart_backoff_ms_max }
    }

    fn next(&mut self) -> Duration {
        let full = self.next_ms.min(self.max_ms);
        self.next_ms = full.saturating_mul(2);
        // Each `RandomState` is seeded afresh: randomness without a dependency.
        let random = RandomState::new().build_hasher().finish();
        Duration::from_millis(full - random % (full / 2 + 1))
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use bildkante_shared::testing::{eventually, within};

    use super::*;

    /// Longer than any test takes.
    const LONG_MS: u64 = 600_000;

    struct Script {
        dir: tempfile::TempDir,
    }

    impl Script {
        fn new() -> Self {
            Self { dir: tempfile::tempdir().unwrap() }
        }

        fn file(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        /// Starts `text` as the node, with `$D` as its folder.
        fn start(&self, text: &str, stop_deadline_ms: u64) -> (Sidecar, OriginMetrics) {
            let text = format!("D={}\n{text}", self.dir.path().display());
            let config = SidecarConfig {
                command: "sh".into(),
                args: vec!["-c".into(), text],
                restart_backoff_ms_min: 1,
                restart_backoff_ms_max: 20,
                stop_deadline_ms,
            };
            let metrics = OriginMetrics::new(&prometheus::Registry::new()).unwrap();
            (Sidecar::start(config, metrics.clone()).unwrap(), metrics)
        }
    }

    /// Waits for a file with at least `lines` whole lines.
    async fn lines(path: &Path, lines: usize) -> Vec<String> {
        let mut text = String::new();
        eventually("the file has its lines", async || {
            text = std::fs::read_to_string(path).unwrap_or_default();
            text.matches('\n').count() >= lines
        })
        .await;
        text.lines().map(str::to_owned).collect()
    }

    /// Whether a process runs; a zombie that is not reaped yet does not.
    fn runs(pid: &str) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let state = stat.rsplit(')').next().and_then(|rest| rest.trim_start().chars().next());
        state.is_some_and(|state| state != 'Z' && state != 'X')
    }

    async fn gone(pid: &str) {
        eventually("the process is gone", async || !runs(pid)).await;
    }

    #[tokio::test]
    async fn a_process_that_crashes_is_started_again_and_counted() {
        let script = Script::new();
        let (sidecar, metrics) = script.start("echo $$ >> $D/starts; exit 3", 1000);
        let starts = lines(&script.file("starts"), 4).await;
        assert_ne!(starts[0], starts[1]);
        sidecar.stop().await;
        assert!(metrics.sidecar_restarts.get() >= 3);
        assert_eq!(metrics.sidecar_up.get(), 0);
        let count = lines(&script.file("starts"), 0).await.len();
        sleep(Duration::from_millis(60)).await;
        assert_eq!(lines(&script.file("starts"), 0).await.len(), count, "stopped is stopped");
    }

    #[tokio::test]
    async fn a_process_that_heeds_its_input_is_asked_nothing_else() {
        let script = Script::new();
        let (sidecar, metrics) =
            script.start("trap 'echo term >> $D/end' TERM; echo $$ > $D/pid; cat; echo eof >> $D/end", LONG_MS);
        let pid = lines(&script.file("pid"), 1).await.remove(0);
        let running = SidecarState::Running { pid: pid.parse().unwrap() };
        eventually("it is known to run", async || sidecar.state() == running).await;
        eventually("it counts as up", async || metrics.sidecar_up.get() == 1).await;
        sidecar.stop().await;
        assert_eq!(lines(&script.file("end"), 1).await, ["eof"]);
        assert!(!runs(&pid));
    }

    #[tokio::test]
    async fn a_process_that_ignores_its_input_is_terminated() {
        let script = Script::new();
        let text = "trap 'echo term > $D/end; exit 0' TERM; echo $$ > $D/pid; while :; do sleep 0.01; done";
        // A quarter of it for the input that is ignored; the rest is more than a busy shell needs.
        let (sidecar, _) = script.start(text, 16_000);
        let pid = lines(&script.file("pid"), 1).await.remove(0);
        sidecar.stop().await;
        assert_eq!(lines(&script.file("end"), 1).await, ["term"]);
        assert!(!runs(&pid));
    }

    #[tokio::test]
    async fn a_process_that_ignores_everything_is_killed_with_its_children() {
        let script = Script::new();
        let text =
            "trap '' TERM; sh -c \"trap '' TERM; echo \\$\\$ >> $D/pids; sleep 1000\" & echo $$ >> $D/pids; wait";
        let (sidecar, _) = script.start(text, 200);
        let pids = lines(&script.file("pids"), 2).await;
        assert!(pids.iter().all(|pid| runs(pid)));
        sidecar.stop().await;
        for pid in &pids {
            gone(pid).await;
        }
    }

    #[tokio::test]
    async fn what_a_crashed_process_leaves_running_is_ended_before_the_next_start() {
        let script = Script::new();
        let text = "[ -e $D/pids ] && exec cat; sh -c 'echo $$; exec sleep 1000' > $D/pids & \
                    while [ ! -s $D/pids ]; do sleep 0.01; done; exit 1";
        let (sidecar, metrics) = script.start(text, 1000);
        let orphan = lines(&script.file("pids"), 1).await.remove(0);
        gone(&orphan).await;
        eventually("it is started again", async || metrics.sidecar_restarts.get() > 0).await;
        sidecar.stop().await;
    }

    #[tokio::test]
    async fn dropping_the_handle_stops_the_process() {
        let script = Script::new();
        let (sidecar, _) = script.start("echo $$ > $D/pid; cat", 2_000);
        let pid = lines(&script.file("pid"), 1).await.remove(0);
        drop(sidecar);
        gone(&pid).await;
    }

    #[tokio::test]
    async fn a_command_that_is_missing_is_tried_again_and_can_be_stopped() {
        let config = SidecarConfig {
            command: "/nonexistent/node".into(),
            restart_backoff_ms_min: 1,
            ..SidecarConfig::default()
        };
        let metrics = OriginMetrics::new(&prometheus::Registry::new()).unwrap();
        let sidecar = Sidecar::start(config, metrics.clone()).unwrap();
        eventually("it is tried again", async || metrics.sidecar_restarts.get() >= 3).await;
        assert_eq!(metrics.sidecar_up.get(), 0);
        within("it stops", sidecar.stop()).await;
    }

    #[tokio::test]
    async fn a_flood_of_output_without_line_ends_neither_blocks_nor_grows() {
        let script = Script::new();
        let text = "head -c 3000000 /dev/zero | tr '\\0' x; head -c 100 /dev/urandom >&2; echo > $D/done; cat";
        let (sidecar, _) = script.start(text, 2_000);
        lines(&script.file("done"), 1).await;
        sidecar.stop().await;
    }

    #[test]
    fn pauses_double_up_to_their_bound_with_jitter() {
        let config =
            SidecarConfig { restart_backoff_ms_min: 100, restart_backoff_ms_max: 1000, ..SidecarConfig::default() };
        let mut backoff = Backoff::new(&config);
        for full in [100, 200, 400, 800, 1000, 1000, 1000] {
            let pause = u64::try_from(backoff.next().as_millis()).unwrap();
            assert!((full / 2..=full).contains(&pause), "{pause} of {full}");
        }
    }
}
