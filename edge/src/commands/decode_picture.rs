//! `bildkante-edge decode-picture`: the process in which a stranger's picture is decoded. The edge starts it; people do
//! not.

use std::process::ExitCode;

use crate::decoding::{Answer, serve_one};

/// `bildkante-edge decode-picture`.
#[derive(Debug, clap::Args)]
pub struct DecodePictureArgs {
    /// Largest file that is read
    #[arg(long, value_name = "BYTES")]
    file_bytes_max: u64,
    /// Largest picture that is decoded
    #[arg(long, value_name = "PIXELS")]
    pixels_max: u64,
    /// Address space that decoding may take beside what the process has when it begins
    #[arg(long, value_name = "BYTES")]
    memory_bytes: u64,
    /// Processor time
    #[arg(long, value_name = "SECONDS")]
    cpu_s: u64,
    /// What is asked of it
    #[arg(long, value_enum, default_value_t = Answer::Lightness)]
    answer: Answer,
}

/// Decodes the file on standard input.
///
/// # Errors
/// When the process cannot be confined, or its pipes break.
pub fn decode_picture(args: &DecodePictureArgs) -> anyhow::Result<ExitCode> {
    serve_one(args.answer, (args.file_bytes_max, args.pixels_max), (args.memory_bytes, args.cpu_s))?;
    Ok(ExitCode::SUCCESS)
}
