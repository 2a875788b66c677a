//! Programs that the edge runs for an answer: one that signs, one that decodes a stranger's picture, an operator's detector.
//!
//! A program gets its input on standard input and answers on standard output. It runs in a process group of its own; at the
//! deadline, or when it writes more than it may, the group is killed. No shell is involved.
//!
//! Invariant: a call returns within the deadline and a moment, whatever the program does, and reads a bounded amount.

use std::io::{Read, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

/// Most bytes of its complaint that are kept.
const COMPLAINT_BYTES_MAX: usize = 400;
/// How often a program that closed its output is asked whether it has ended.
const ENDED_POLL: Duration = Duration::from_millis(2);

/// Why a program gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProgramFault {
    #[error("no program is named")]
    Empty,
    #[error("it cannot be started: {reason}")]
    Start { reason: String },
    #[error("it did not answer within {deadline_ms} ms")]
    Hung { deadline_ms: u128 },
    #[error("it failed ({status}): {complaint}")]
    Failed { status: String, complaint: String },
    #[error("it wrote more than {bytes_max} bytes")]
    Flooded { bytes_max: usize },
}

/// What a program sees of this process' environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Surroundings {
    /// All of it.
    Inherited,
    /// Nothing but these.
    Only(&'static [(&'static str, &'static str)]),
}

/// A program, its arguments, how long it may take and how much it may write.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    pub(crate) name: String,
    pub(crate) arguments: Vec<String>,
    pub(crate) deadline: Duration,
    pub(crate) output_bytes_max: usize,
    pub(crate) surroundings: Surroundings,
}

impl Program {
    /// `argv` is run as it stands.
    pub(crate) fn new(argv: &[String], deadline: Duration, output_bytes_max: usize) -> Result<Self, ProgramFault> {
        let (name, arguments) = argv.split_first().ok_or(ProgramFault::Empty)?;
        let (name, arguments) = (name.clone(), arguments.to_vec());
        Ok(Self { name, arguments, deadline, output_bytes_max, surroundings: Surroundings::Inherited })
    }

    /// What the program writes for `input`. Blocks for as long as it takes.
    pub(crate) fn run(&self, input: impl AsRef<[u8]> + Send + 'static) -> Result<Vec<u8>, ProgramFault> {
        let until = Instant::now() + self.deadline;
        let mut child = Group::start(self)?;
        child.feed(input);
        let output = collect(child.0.stdout.take(), self.output_bytes_max.saturating_add(1));
        let complaint = collect(child.0.stderr.take(), COMPLAINT_BYTES_MAX);
        let hung = || ProgramFault::Hung { deadline_ms: self.deadline.as_millis() };
        let output = output.recv_timeout(left(until)).map_err(|_| hung())?;
        if output.len() > self.output_bytes_max {
            return Err(ProgramFault::Flooded { bytes_max: self.output_bytes_max });
        }
        let status = child.ended(until).ok_or_else(hung)?;
        if status.success() {
            return Ok(output);
        }
        let complaint = complaint.recv_timeout(left(until)).unwrap_or_default();
        let complaint = String::from_utf8_lossy(&complaint).trim().to_owned();
        Err(ProgramFault::Failed { status: said(status), complaint })
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
    fn start(program: &Program) -> Result<Self, ProgramFault> {
        let mut command = Command::new(&program.name);
        command.args(&program.arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Surroundings::Only(variables) = program.surroundings {
            command.env_clear().envs(variables.iter().copied());
        }
        let started = command.process_group(0).spawn();
        started.map(Self).map_err(|error| ProgramFault::Start { reason: error.to_string() })
    }

    /// Writes on a thread of its own: a program that never reads would block this one.
    fn feed(&mut self, input: impl AsRef<[u8]> + Send + 'static) {
        let Some(mut stdin) = self.0.stdin.take() else { return };
        // A program that ends before it has read everything breaks the pipe; its exit code and output say more.
        std::thread::spawn(move || stdin.write_all(input.as_ref()));
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

    const LONG: Duration = Duration::from_secs(60);

    fn shell(script: &str, deadline: Duration) -> Result<Vec<u8>, ProgramFault> {
        let argv = ["sh", "-c", script].map(str::to_owned);
        Program::new(&argv, deadline, 128).expect("a program").run(b"message".to_vec())
    }

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
        assert_eq!(shell(&script, Duration::from_secs(3)), Err(ProgramFault::Hung { deadline_ms: 3000 }));
        let pid = std::fs::read_to_string(&file).expect("the shell ran").trim().to_owned();
        bildkante_shared::testing::eventually_blocking("the child is gone", || {
            let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            state.is_empty() || state.contains(") Z ")
        });
    }

    #[test]
    fn a_program_that_closes_its_output_and_stays_is_hung() {
        let said = shell("exec >&- 2>&-; sleep 1000", Duration::from_millis(300));
        assert_eq!(said, Err(ProgramFault::Hung { deadline_ms: 300 }));
    }

    #[test]
    fn failures_say_what_the_program_said() {
        let said = shell("echo no token >&2; exit 3", LONG).expect_err("it failed").to_string();
        assert_eq!(said, "it failed (exit code 3): no token");
        let said = shell("kill -9 $$", LONG).expect_err("it was killed").to_string();
        assert_eq!(said, "it failed (signal 9): ");
        assert_eq!(shell("yes", LONG), Err(ProgramFault::Flooded { bytes_max: 128 }));
        let missing = Program::new(&["/nowhere/sign".to_owned()], LONG, 128).expect("a name").run(b"");
        assert!(matches!(missing, Err(ProgramFault::Start { .. })), "{missing:?}");
        assert_eq!(Program::new(&[], LONG, 128).err(), Some(ProgramFault::Empty));
    }

    #[test]
    fn a_program_sees_no_more_of_the_environment_than_it_may() {
        let argv = ["/usr/bin/env".to_owned()];
        let only = Surroundings::Only(&[("MARK", "seen")]);
        let program = Program { surroundings: only, ..Program::new(&argv, LONG, 128).expect("a program") };
        assert_eq!(program.run(b"").as_deref(), Ok(&b"MARK=seen\n"[..]));
    }
}
