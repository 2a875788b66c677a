//! Outside judges: programs that say what our files and pages are to others.
//!
//! A judge that is not installed skips its test by name; with `BILDKANTE_REQUIRE_JUDGES=1`, as in CI, it fails it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::Context;

/// The path of `program`, or `None` after saying which test is skipped for want of it.
///
/// # Errors
/// When judges are required and it is not installed.
pub fn find(program: &str, test: &str) -> anyhow::Result<Option<PathBuf>> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(program)).find(|path| path.is_file());
    or_skip(found, program, test)
}

/// The path in the environment variable `variable`, for judges that set-up puts into a folder of its own.
///
/// # Errors
/// When judges are required and there is none.
pub fn named(variable: &str, program: &str, test: &str) -> anyhow::Result<Option<PathBuf>> {
    or_skip(std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_file()), program, test)
}

fn or_skip(found: Option<PathBuf>, program: &str, test: &str) -> anyhow::Result<Option<PathBuf>> {
    if found.is_none() {
        bildkante_shared::testing::skipped(test, &format!("{program} is not installed"));
    }
    Ok(found)
}

/// Runs a judge over a file and returns what it printed.
///
/// # Errors
/// When it cannot be started or reports a failure.
pub fn run(program: &Path, arguments: &[&str], file: &Path) -> anyhow::Result<String> {
    let Output { status, stdout, stderr } =
        Command::new(program).args(arguments).arg(file).output().with_context(|| program.display().to_string())?;
    let text = String::from_utf8_lossy(&stdout).into_owned();
    anyhow::ensure!(status.success(), "{} says: {text}{}", program.display(), String::from_utf8_lossy(&stderr));
    Ok(text)
}
