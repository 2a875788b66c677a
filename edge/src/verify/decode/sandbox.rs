//! The process that decodes a stranger's file, from both sides.
//!
//! Decoders read hostile bytes, and one of them (rav1d) ends its process where it fails an assertion. So they run in a
//! process of their own, this same program under a hidden subcommand: it opens no file, keeps no descriptor but its input and
//! output, has so much memory and processor time, and is killed at the deadline. What it dies of is one picture's fault.
//!
//! It has none of this process' secrets: its environment is empty, and what it is given is the picture.

use std::io::{self, Read as _, Write as _};
use std::time::Duration;

use bytes::Bytes;
use rustix::process::{Resource, Rlimit, setrlimit};

use super::{DecodeFault, Grey, SAMPLES_PER_PX, raster, wire};
use crate::program::{Program, ProgramFault, Surroundings};

/// This program, also where its file has been replaced by another version meanwhile.
const THIS_PROGRAM: [&str; 2] = ["/proc/self/exe", "decode-picture"];
/// The allocator reserves address space by the GiB unless it is told otherwise, and address space is what is limited.
const SURROUNDINGS: Surroundings = Surroundings::Only(&[("MIMALLOC_ARENA_RESERVE", "16384")]);
/// What a picture may take: decoded at 16 bits and four samples a pixel, and once more as RGB while it is turned.
const MEMORY_BYTES_PER_PX: u64 = 16;
/// And beside the pixels.
const MEMORY_BYTES_BESIDE: u64 = 192 << 20;

/// What decoding one picture may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeLimits {
    pub file_bytes_max: usize,
    pub pixels_max: u64,
    pub deadline: Duration,
}

/// Decodes pictures in processes of their own.
#[derive(Debug, Clone)]
pub struct Sandbox {
    program: Program,
    limits: DecodeLimits,
}

impl Sandbox {
    /// `argv` is the command line of a program that decodes as `bildkante-edge decode-picture` does, in front of which an
    /// operator may put a sandbox of another make. Empty: this program.
    #[must_use]
    pub fn new(argv: &[String], limits: DecodeLimits) -> Self {
        let own = THIS_PROGRAM.map(str::to_owned);
        let (name, before) = argv.split_first().unwrap_or((&own[0], &own[1..]));
        let told = [
            format!("--file-bytes-max={}", limits.file_bytes_max),
            format!("--pixels-max={}", limits.pixels_max),
            format!("--memory-bytes={}", limits.pixels_max * MEMORY_BYTES_PER_PX + MEMORY_BYTES_BESIDE),
            format!("--cpu-s={}", limits.deadline.as_secs() + 1),
        ];
        let samples_bytes_max = usize::try_from(limits.pixels_max * SAMPLES_PER_PX).unwrap_or(usize::MAX / 2);
        let output_bytes_max = wire::HEAD_BYTES_MAX + samples_bytes_max;
        let program = Program {
            name: name.clone(),
            arguments: before.iter().cloned().chain(told).collect(),
            deadline: limits.deadline,
            output_bytes_max,
            surroundings: SURROUNDINGS,
        };
        Self { program, limits }
    }

    #[must_use]
    pub const fn limits(&self) -> DecodeLimits {
        self.limits
    }

    /// Blocks for as long as decoding takes, at most until the deadline.
    ///
    /// # Errors
    /// Says what is wrong with the file, or that no decoder could be started.
    pub fn decode(&self, file: Bytes) -> Result<Grey, DecodeFault> {
        let answer = self.program.run(file).map_err(|fault| match fault {
            ProgramFault::Empty => DecodeFault::Start { reason: fault.to_string() },
            ProgramFault::Start { reason } => DecodeFault::Start { reason },
            ProgramFault::Hung { deadline_ms } => {
                DecodeFault::Slow { deadline_ms: u64::try_from(deadline_ms).unwrap_or(u64::MAX) }
            }
            ProgramFault::Failed { status, .. } => DecodeFault::Crashed { how: status },
            ProgramFault::Flooded { .. } => DecodeFault::Crashed { how: "it wrote more than it may".to_owned() },
        })?;
        wire::read(answer, self.limits.pixels_max)
    }
}

/// The other side: reads a file from standard input, decodes it, writes what came of it to standard output.
///
/// # Errors
/// When this process cannot be confined, or its pipes break.
pub fn serve_one(file_bytes_max: u64, pixels_max: u64, memory_bytes: u64, cpu_s: u64) -> io::Result<()> {
    confine(memory_bytes, cpu_s)?;
    let mut file = Vec::new();
    io::stdin().lock().take(file_bytes_max.saturating_add(1)).read_to_end(&mut file)?;
    let outcome = if file.len() as u64 > file_bytes_max {
        Err(DecodeFault::damaged("the file is too long"))
    } else {
        raster::decode(&file, pixels_max)
    };
    drop(file);
    let (head, samples) = wire::write(&outcome);
    let mut out = io::stdout().lock();
    out.write_all(&head)?;
    out.write_all(samples)?;
    out.flush()
}

/// From here on: no new descriptor, no new process, no dump, so much more memory, so many seconds of processor time.
fn confine(memory_bytes: u64, cpu_s: u64) -> io::Result<()> {
    let used_bytes = address_space_bytes()?;
    let limits = [
        (Resource::As, used_bytes.saturating_add(memory_bytes)),
        (Resource::Cpu, cpu_s),
        (Resource::Fsize, 0),
        (Resource::Core, 0),
        (Resource::Nproc, 0),
        (Resource::Nofile, 0),
    ];
    rustix::thread::set_no_new_privs(true)?;
    for (resource, limit) in limits {
        setrlimit(resource, Rlimit { current: Some(limit), maximum: Some(limit) })?;
    }
    Ok(())
}

/// What this process has of it now (proc(5), `status`).
fn address_space_bytes() -> io::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let size =
        status.lines().find_map(|line| line.strip_prefix("VmSize:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    size.map(|kib| kib * 1024).ok_or_else(|| io::Error::other("/proc/self/status does not tell VmSize"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sandbox(script: &str, deadline: Duration) -> Sandbox {
        let argv = ["sh", "-c", script].map(str::to_owned);
        Sandbox::new(&argv, DecodeLimits { file_bytes_max: 100, pixels_max: 100, deadline })
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn whatever_the_process_does_is_an_answer() {
        let decode = |script: &str| sandbox(script, LONG).decode(Bytes::from_static(b"a file"));
        assert!(matches!(decode("kill -ABRT $$"), Err(DecodeFault::Crashed { how }) if how == "signal 6"));
        assert!(matches!(decode("exit 3"), Err(DecodeFault::Crashed { .. })));
        assert!(matches!(decode("cat"), Err(DecodeFault::Crashed { .. })), "the file is no answer");
        assert!(matches!(decode("head -c 1000000 /dev/zero"), Err(DecodeFault::Crashed { .. })));
        let slow = sandbox("sleep 1000", Duration::from_millis(200)).decode(Bytes::new());
        assert_eq!(slow, Err(DecodeFault::Slow { deadline_ms: 200 }));
        let none = Sandbox::new(&["/nowhere/decode".to_owned()], sandbox("", LONG).limits()).decode(Bytes::new());
        assert!(matches!(none, Err(DecodeFault::Start { .. })), "{none:?}");
    }
}
