//! What commands say: results on stdout, remarks on stderr.
//!
//! A reader that has gone, as in `explain … | head -1`, is no fault of a command and no reason to stop half-way: the rest
//! is not said, the work is done, and the exit status stays the command's own. `println!` and `eprintln!` panic there, so
//! the programs' crates refuse both by lint. What else keeps stdout from being written, such as a full disk, is an
//! error, because the result would be missing without a word.

use std::fmt;
use std::io::{self, Write};

/// stdout cannot be written, although its reader is there.
#[derive(Debug, thiserror::Error)]
#[error("stdout cannot be written: {0}")]
pub struct OutputError(#[from] io::Error);

/// A line of a command's result.
#[macro_export]
macro_rules! say {
    ($($text:tt)*) => { $crate::console::say(::std::format_args!("{}\n", ::std::format_args!($($text)*))) };
}

/// A line for the person at the terminal. Where it cannot be written there is no other place to say so.
#[macro_export]
macro_rules! remark {
    ($($text:tt)*) => { $crate::console::remark(::std::format_args!("{}\n", ::std::format_args!($($text)*))) };
}

/// Writes to stdout, in one go.
///
/// # Errors
/// When stdout fails otherwise than by having no reader.
pub fn say(text: impl fmt::Display) -> Result<(), OutputError> {
    write(&mut io::stdout().lock(), &text.to_string())
}

/// Writes to stderr, in one go.
pub fn remark(text: impl fmt::Display) {
    let _ = write(&mut io::stderr().lock(), &text.to_string());
}

fn write(out: &mut impl Write, text: &str) -> Result<(), OutputError> {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_has_gone_is_no_error() {
        let (reader, mut writer) = io::pipe().expect("a pipe");
        drop(reader);
        assert!(write(&mut writer, "a line\n").is_ok());
    }

    #[test]
    fn a_full_disk_is_one() {
        let mut full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("a device that is always full");
        let error = write(&mut full, "a line\n").expect_err("no space");
        assert!(error.to_string().starts_with("stdout cannot be written: "), "{error}");
    }
}
