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

use super::{Answer, AvifHead, DECODER_BYTES_PER_PX, DecodeFault, Decoded, Grey, raster, wire};
use crate::program::{Program, ProgramFault, Surroundings};

/// This program, also where its file has been replaced by another version meanwhile.
const THIS_PROGRAM: [&str; 2] = ["/proc/self/exe", "decode-picture"];
/// The allocator reserves address space by the GiB unless it is told otherwise, and address space is what is limited.
const SURROUNDINGS: Surroundings = Surroundings::Only(&[("MIMALLOC_ARENA_RESERVE", "16384")]);
/// What the process may take beside the pixels.
const MEMORY_BYTES_BESIDE: u64 = 192 << 20;

/// What decoding one picture may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeLimits {
    pub file_bytes_max: usize,
    pub pixels_max: u64,
    pub deadline: Duration,
}

/// The command line of a program that decodes as `bildkante-edge decode-picture` does, in front of which an operator may put a
/// sandbox of another make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecoderCommand {
    name: String,
    arguments: Vec<String>,
}

impl Default for DecoderCommand {
    /// This program.
    fn default() -> Self {
        let [name, argument] = THIS_PROGRAM.map(str::to_owned);
        Self { name, arguments: vec![argument] }
    }
}

impl DecoderCommand {
    /// Empty: this program.
    #[must_use]
    pub fn new(argv: &[String]) -> Self {
        let named = argv.split_first();
        named.map_or_else(Self::default, |(name, arguments)| Self { name: name.clone(), arguments: arguments.to_vec() })
    }
}

/// Decodes pictures in processes of their own.
#[derive(Debug, Clone)]
pub struct Sandbox {
    command: DecoderCommand,
    limits: DecodeLimits,
}

impl Sandbox {
    #[must_use]
    pub const fn new(command: DecoderCommand, limits: DecodeLimits) -> Self {
        Self { command, limits }
    }

    #[must_use]
    pub const fn limits(&self) -> DecodeLimits {
        self.limits
    }

    /// The lightness of a picture. Blocks for as long as decoding takes, at most until the deadline.
    ///
    /// # Errors
    /// Says what is wrong with the file, or that no decoder could be started.
    pub fn lightness(&self, file: Bytes) -> Result<Grey, DecodeFault> {
        wire::read_lightness(self.answer(file, Answer::Lightness)?, self.limits.pixels_max)
    }

    /// The colours of an AVIF whose head is known. Blocks likewise.
    ///
    /// # Errors
    /// As `lightness`, and where the picture is not what its head says.
    pub(crate) fn colours(
        &self,
        file: impl AsRef<[u8]> + Send + 'static,
        head: &AvifHead,
    ) -> Result<Decoded, DecodeFault> {
        wire::read_colours(self.answer(file, Answer::Colours)?, head.size_px)
    }

    fn answer(&self, file: impl AsRef<[u8]> + Send + 'static, answer: Answer) -> Result<Vec<u8>, DecodeFault> {
        self.program(answer).run(file).map_err(|fault| match fault {
            ProgramFault::Empty => DecodeFault::Start { reason: fault.to_string() },
            ProgramFault::Start { reason } => DecodeFault::Start { reason },
            ProgramFault::Hung { deadline_ms } => {
                DecodeFault::Slow { deadline_ms: u64::try_from(deadline_ms).unwrap_or(u64::MAX) }
            }
            ProgramFault::Failed { status, .. } => DecodeFault::Crashed { how: status },
            ProgramFault::Flooded { .. } => DecodeFault::Crashed { how: "it wrote more than it may".to_owned() },
        })
    }

    fn program(&self, answer: Answer) -> Program {
        let DecodeLimits { file_bytes_max, pixels_max, deadline } = self.limits;
        let mut told = vec![
            format!("--file-bytes-max={file_bytes_max}"),
            format!("--pixels-max={pixels_max}"),
            format!("--memory-bytes={}", pixels_max * DECODER_BYTES_PER_PX + MEMORY_BYTES_BESIDE),
            format!("--cpu-s={}", deadline.as_secs() + 1),
        ];
        let bytes_per_px = match answer {
            Answer::Lightness => wire::LIGHTNESS_BYTES_PER_PX,
            Answer::Colours => {
                told.push(format!("--answer={}", answer.as_str()));
                wire::COLOURS_BYTES_PER_PX
            }
        };
        let samples_bytes_max = usize::try_from(pixels_max * bytes_per_px).unwrap_or(usize::MAX / 2);
        Program {
            name: self.command.name.clone(),
            arguments: self.command.arguments.iter().cloned().chain(told).collect(),
            deadline,
            output_bytes_max: wire::HEAD_BYTES_MAX + samples_bytes_max,
            surroundings: SURROUNDINGS,
        }
    }
}

/// The other side: reads a file from standard input, decodes it, writes what came of it to standard output.
///
/// # Errors
/// When this process cannot be confined, or its pipes break.
pub fn serve_one(
    answer: Answer,
    (file_bytes_max, pixels_max): (u64, u64),
    (memory_bytes, cpu_s): (u64, u64),
) -> io::Result<()> {
    confine(memory_bytes, cpu_s)?;
    let mut file = Vec::new();
    io::stdin().lock().take(file_bytes_max.saturating_add(1)).read_to_end(&mut file)?;
    let outcome = if file.len() as u64 > file_bytes_max {
        Err(DecodeFault::damaged("the file is too long"))
    } else {
        match answer {
            Answer::Lightness => raster::lightness(&file, pixels_max).map(wire::Answered::Lightness),
            Answer::Colours => raster::colours(&file, pixels_max).map(wire::Answered::Colours),
        }
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
        Sandbox::new(DecoderCommand::new(&argv), DecodeLimits { file_bytes_max: 100, pixels_max: 100, deadline })
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn whatever_the_process_does_is_an_answer() {
        let decode = |script: &str| sandbox(script, LONG).lightness(Bytes::from_static(b"a file"));
        assert!(matches!(decode("kill -ABRT $$"), Err(DecodeFault::Crashed { how }) if how == "signal 6"));
        assert!(matches!(decode("exit 3"), Err(DecodeFault::Crashed { .. })));
        assert!(matches!(decode("cat"), Err(DecodeFault::Crashed { .. })), "the file is no answer");
        assert!(matches!(decode("head -c 1000000 /dev/zero"), Err(DecodeFault::Crashed { .. })));
        let slow = sandbox("sleep 1000", Duration::from_millis(200)).lightness(Bytes::new());
        assert_eq!(slow, Err(DecodeFault::Slow { deadline_ms: 200 }));
        let nowhere = DecoderCommand::new(&["/nowhere/decode".to_owned()]);
        let none = Sandbox::new(nowhere, sandbox("", LONG).limits()).lightness(Bytes::new());
        assert!(matches!(none, Err(DecodeFault::Start { .. })), "{none:?}");
    }
}
