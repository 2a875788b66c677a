//! The process around libtorch: the environment that its libraries read when they are loaded, and the threads they compute on.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// The only libtorch that `tch` links against; its build script refuses any other.
pub const LIBTORCH: &str = "libtorch-2.11.0";

/// Turns of an idle OpenMP thread's loop before it sleeps: a few microseconds.
const SPINS: &str = "1000";

/// Starts the program anew with an environment in which OpenMP threads soon sleep while they wait for each other, and in which
/// libraries repeat themselves, where the environment does not say so already.
///
/// GNU's OpenMP spins for milliseconds by default. As soon as something else wants the cores — the edge beside its
/// sidecar, encoding — the thread that is waited for is not running, and every one of the hundreds of barriers in a
/// step burns a time slice: a step took ten to twenty times as long on two busy cores, and not a tenth longer with few
/// spins on idle ones. Libraries read their environment when they are loaded, before `main`, so there is no other way in.
///
/// # Errors
/// When the program cannot be started anew; it goes on as it is then. Otherwise this returns at most once.
pub fn settle_environment() -> io::Result<()> {
    let missing = missing_settings(|name| std::env::var(name).ok());
    if missing.is_empty() {
        return Ok(());
    }
    let mut arguments = std::env::args_os();
    let mut command = Command::new("/proc/self/exe");
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    Err(command.args(arguments).envs(missing).exec())
}

/// Variables and the values they are given. Each is decided by itself.
fn missing_settings(said: impl Fn(&str) -> Option<String>) -> Vec<(&'static str, &'static str)> {
    let mut missing = Vec::new();
    if said("GOMP_SPINCOUNT").is_none() && said("OMP_WAIT_POLICY").is_none() {
        missing.push(("GOMP_SPINCOUNT", SPINS));
    }
    // cuBLAS repeats itself only with a workspace of one shape (its documentation, "Results reproducibility").
    if said("CUBLAS_WORKSPACE_CONFIG").is_none() {
        missing.push(("CUBLAS_WORKSPACE_CONFIG", ":4096:8"));
    }
    // With it the number of threads, and so the order of additions, follows the machine's load.
    if said("OMP_DYNAMIC").is_some_and(|value| !value.trim().eq_ignore_ascii_case("false")) {
        missing.push(("OMP_DYNAMIC", "false"));
    }
    missing
}

/// CPU threads of one operator, for operators that the calling thread starts: OpenMP keeps the number per thread.
/// Zero leaves libtorch's own choice, the number of cores.
pub fn set_threads(threads: u32) {
    if let (1.., Ok(threads)) = (threads, i32::try_from(threads)) {
        tch::set_num_threads(threads);
    }
}

/// CPU threads of one operator that the calling thread starts.
#[must_use]
pub fn threads() -> u32 {
    u32::try_from(tch::get_num_threads()).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_is_made_by_itself() {
        let missing = |said: &[(&str, &str)]| {
            let said: std::collections::HashMap<_, _> = said.iter().copied().collect();
            missing_settings(|name| said.get(name).map(|value| (*value).to_owned()))
        };
        let (spins, workspace) = (("GOMP_SPINCOUNT", SPINS), ("CUBLAS_WORKSPACE_CONFIG", ":4096:8"));
        assert_eq!(missing(&[]), [spins, workspace]);
        assert_eq!(missing(&[("OMP_WAIT_POLICY", "passive")]), [workspace], "waiting is settled already");
        assert_eq!(missing(&[("GOMP_SPINCOUNT", "7")]), [workspace]);
        assert_eq!(missing(&[("CUBLAS_WORKSPACE_CONFIG", ":16:8")]), [spins]);
        let dynamic = [("OMP_DYNAMIC", "TRUE"), workspace, spins];
        assert_eq!(missing(&dynamic), [("OMP_DYNAMIC", "false")]);
        assert!(missing(&[("OMP_DYNAMIC", "false"), workspace, spins]).is_empty(), "it is started anew once");
    }
}
