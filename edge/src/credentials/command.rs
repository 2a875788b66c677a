//! A program that signs: a hardware module's tool, a client of a signing service.
//!
//! It gets the bytes to sign on standard input and writes the raw signature (64 bytes for both algorithms; ECDSA in DER is
//! taken, too) to standard output. It runs in a process group of its own; at the deadline, or when it writes more than a
//! signature can be, the group is killed. Nothing of the key enters this process.
//!
//! Invariant: a call returns within the deadline and a moment, whatever the program does, and reads a bounded amount.

use std::io::{Read, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

/// Most bytes read of what the program writes. A signature has 64, or up to 72 in DER.
const OUTPUT_BYTES_MAX: usize = 128;
/// Most bytes of its complaint that are shown.
const COMPLAINT_BYTES_MAX: usize = 400;
/// How often a program that closed its output is asked whether it has ended.
const ENDED_POLL: Duration = Duration::from_millis(2);

/// Why a signing program gave no signature.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandFault {
    #[error("no program is named")]
    Empty,
    #[error("it cannot be started: {reason}")]
    Start { reason: String },
    #[error("it did not answer within {deadline_ms} ms")]
    Hung { deadline_ms: u128 },
    #[error("it failed ({status}): {complaint}")]
    Failed { status: String, complaint: String },
    #[error("it wrote more than {OUTPUT_BYTES_MAX} bytes, which no signature has")]
    Flooded,
    #[error("what it wrote ({bytes} bytes) is no signature by the certificate's key")]
    Wrong { bytes: usize },
}

impl CommandFault {
    /// For logs and metric labels.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Start { .. } => "start",
            Self::Hung { .. } => "hung",
            Self::Failed { .. } => "failed",
            Self::Flooded => "flooded",
            Self::Wrong { .. } => "wrong",
        }
    }
}

/// A program, its arguments and how long it may take.
#[derive(Debug, Clone)]
pub(super) struct SigningCommand {
    program: String,
    arguments: Vec<String>,
    deadline: Duration,
}

impl SigningCommand {
    /// `argv` is run as it stands, without a shell.
    pub(super) fn new(argv: &[String], deadline: Duration) -> Result<Self, CommandFault> {
        let (program, arguments) = argv.split_first().ok_or(CommandFault::Empty)?;
        Ok(Self { program: program.clone(), arguments: arguments.to_vec(), deadline })
    }

    pub(super) fn program(&self) -> &str {
        &self.program
    }

    /// What the program writes for `message`. Blocks for as long as it takes.
    pub(super) fn run(&self, message: &[u8]) -> Result<Vec<u8>, CommandFault> {
        let until = Instant::now() + self.deadline;
        let mut child = Group::start(&self.program, &self.arguments)?;
        child.feed(message.to_vec());
        let output = collect(child.0.stdout.take(), OUTPUT_BYTES_MAX + 1);
        let complaint = collect(child.0.stderr.take(), COMPLAINT_BYTES_MAX);
        let hung = || CommandFault::Hung { deadline_ms: self.deadline.as_millis() };
        let output = output.recv_timeout(left(until)).map_err(|_| hung())?;
        if output.len() > OUTPUT_BYTES_MAX {
            return Err(CommandFault::Flooded);
        }
        let status = child.ended(until).ok_or_else(hung)?;
        if status.success() {
            return Ok(output);
        }
        let complaint = complaint.recv_timeout(left(until)).unwrap_or_default();
        let complaint = String::from_utf8_lossy(&complaint).trim().to_owned();
        Err(CommandFault::Failed { status: said(status), complaint })
    }
}

fn left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now())
}

fn said(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "no exit code".to_owned(),
    }
}

/// A running program with all that it starts. Dropping it kills and reaps it.
struct Group(Child);

impl Group {
    fn start(program: &str, arguments: &[String]) -> Result<Self, CommandFault> {
        Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map(Self)
            .map_err(|error| CommandFault::Start { reason: error.to_string() })
    }

    /// Writes on a thread of its own: a program that never reads would block this one.
    fn feed(&mut self, message: Vec<u8>) {
        let Some(mut stdin) = self.0.stdin.take() else { return };
        // A program that ends before it has read everything breaks the pipe; its exit code and output say more.
        std::thread::spawn(move || stdin.write_all(&message));
    }

    /// How it ended, `None` where it still runs at the deadline.
    fn ended(&mut self, until: Instant) -> Option<ExitStatus> {
        loop {
            match self.0.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) if left(until).is_zero() => return None,
                Ok(None) => std::thread::sleep(ENDED_POLL.min(left(until))),
                Err(_) => return None,
            }
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = rustix::process::Pid::from_raw(self.0.id().cast_signed()) {
            // It has gone already where everything in it ended.
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let _ = self.0.wait();
    }
}

/// Up to `bytes_max` of what `from` gives until it ends, read on a thread of its own.
fn collect(from: Option<impl Read + Send + 'static>, bytes_max: usize) -> Receiver<Vec<u8>> {
    let (sender, receiver) = sync_channel(1);
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(from) = from {
            // What came before a read failed is judged like a short answer.
            let _ = from.take(bytes_max as u64).read_to_end(&mut bytes);
        }
        let _ = sender.send(bytes);
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, deadline: Duration) -> Result<Vec<u8>, CommandFault> {
        let argv = ["sh", "-c", script].map(str::to_owned);
        SigningCommand::new(&argv, deadline).expect("a program").run(b"message")
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn what_it_writes_is_the_answer() {
        assert_eq!(shell("cat", LONG).as_deref(), Ok(&b"message"[..]));
        assert_eq!(shell("printf x", LONG).as_deref(), Ok(&b"x"[..]), "a program need not read");
    }

    #[test]
    fn a_program_that_hangs_is_killed_with_its_children() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("pid");
        let script = format!("sleep 1000 & echo $! > {0}.new; mv {0}.new {0}; wait", file.display());
        // Long enough for the shell to write the file beside four busy loops; nothing is measured.
        assert_eq!(shell(&script, Duration::from_secs(3)), Err(CommandFault::Hung { deadline_ms: 3000 }));
        let pid = std::fs::read_to_string(&file).expect("the shell ran").trim().to_owned();
        bildkante_shared::testing::eventually_blocking("the child is gone", || {
            let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            state.is_empty() || state.contains(") Z ")
        });
    }

    #[test]
    fn a_program_that_closes_its_output_and_stays_is_hung() {
        let said = shell("exec >&- 2>&-; sleep 1000", Duration::from_millis(300));
        assert_eq!(said, Err(CommandFault::Hung { deadline_ms: 300 }));
    }

    #[test]
    fn failures_say_what_the_program_said() {
        let said = shell("echo no token >&2; exit 3", LONG).expect_err("it failed").to_string();
        assert_eq!(said, "it failed (exit code 3): no token");
        let said = shell("kill -9 $$", LONG).expect_err("it was killed").to_string();
        assert_eq!(said, "it failed (signal 9): ");
        assert!(matches!(shell("yes", LONG), Err(CommandFault::Flooded)));
        let missing = SigningCommand::new(&["/nowhere/sign".to_owned()], LONG).expect("a name").run(b"");
        assert!(matches!(missing, Err(CommandFault::Start { .. })), "{missing:?}");
        assert_eq!(SigningCommand::new(&[], LONG).err(), Some(CommandFault::Empty));
    }
}
