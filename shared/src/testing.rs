//! What tests share, behind the feature `testing`, which no binary enables: how they wait, for a condition and never for a time,
//! and how they read a crate's sources ([`rooms`]).
//!
//! The bound is there so that a test that cannot pass ends. It is far beyond what a busy machine needs, and
//! `BILDKANTE_PATIENCE` (a factor, such as 5 under an emulator) moves it for every test at once.

pub mod rooms;

use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// How long a test waits for what has to come.
///
/// # Panics
/// When `BILDKANTE_PATIENCE` is no number from 1 to 1000.
#[must_use]
pub fn patience() -> Duration {
    let Ok(factor) = std::env::var("BILDKANTE_PATIENCE") else { return PATIENCE };
    match factor.parse() {
        Ok(factor @ 1..=1000) => PATIENCE * factor,
        _ => panic!("BILDKANTE_PATIENCE is {factor:?} and not a number from 1 to 1000"),
    }
}

/// Waits until `condition` holds.
///
/// # Panics
/// When it does not within [`patience`].
#[track_caller]
pub fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) -> impl Future<Output = ()> {
    let place = std::panic::Location::caller();
    async move {
        let started = Instant::now();
        while !condition().await {
            assert!(started.elapsed() < patience(), "{place}: not within {:?}: {what}", patience());
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// The same for threads without a runtime.
///
/// # Panics
/// As [`eventually`].
#[track_caller]
pub fn eventually_blocking(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < patience(), "not within {:?}: {what}", patience());
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Writes a file that only its owner may read, as programs ask of secrets; one that is there loses what it held.
///
/// # Errors
/// When it cannot be written.
pub fn write_secret(path: &Path, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
    use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
    let mut file = std::fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path)?;
    // One that is there keeps its mode otherwise.
    file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
    file.write_all(bytes.as_ref())
}

/// What `work` comes to.
///
/// # Panics
/// When it does not end within [`patience`].
#[track_caller]
pub fn within<T>(what: &str, work: impl Future<Output = T>) -> impl Future<Output = T> {
    let place = std::panic::Location::caller();
    async move {
        let ended = tokio::time::timeout(patience(), work).await;
        ended.unwrap_or_else(|_| panic!("{place}: not within {:?}: {what}", patience()))
    }
}

/// Says that `test` cannot run here and why, past the test runner's capture, which hides a passing test's output.
///
/// # Panics
/// With `BILDKANTE_REQUIRE_JUDGES=1`, as in CI: there a test that does not run has failed.
pub fn skipped(test: &str, why: &str) {
    let is_required = std::env::var_os("BILDKANTE_REQUIRE_JUDGES").is_some_and(|value| value == "1");
    assert!(!is_required, "{test} cannot run here: {why}");
    // Nothing else can be done about a closed standard error.
    let _ = writeln!(std::io::stderr(), "skipped: {test} ({why})");
}

/// A port that this process has and does not listen on: calls are refused, and the system gives it to no other process. A server
/// of ours or a child process may still listen on it, because everything here binds with `SO_REUSEADDR`.
#[derive(Debug)]
pub struct ReservedPort {
    _socket: tokio::net::TcpSocket,
    address: std::net::SocketAddr,
}

impl ReservedPort {
    /// On 127.0.0.1.
    ///
    /// # Errors
    /// When the system has no port left.
    pub fn new() -> std::io::Result<Self> {
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind(std::net::SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, 0)))?;
        Ok(Self { address: socket.local_addr()?, _socket: socket })
    }

    #[must_use]
    pub const fn address(&self) -> std::net::SocketAddr {
        self.address
    }

    #[must_use]
    pub const fn port(&self) -> u16 {
        self.address.port()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn a_reserved_port_refuses_calls_and_can_be_listened_on_again_and_again() {
        let port = ReservedPort::new().unwrap();
        for _ in 0..3 {
            assert!(TcpStream::connect(port.address()).is_err(), "nobody listens");
            let listener = TcpListener::bind(port.address()).unwrap();
            TcpStream::connect(port.address()).unwrap();
            drop(listener);
        }
    }

    #[tokio::test]
    async fn the_system_gives_a_reserved_port_to_no_other_socket() {
        let port = ReservedPort::new().unwrap();
        // More than that many ports are in use at once in no run of all tests.
        let others: Vec<_> = (0..500).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        assert!(others.iter().all(|other| other.local_addr().unwrap() != port.address()));
    }

    #[tokio::test]
    async fn waiting_ends_when_the_condition_holds() {
        let mut asked = 0;
        eventually("the third look", async || {
            asked += 1;
            asked == 3
        })
        .await;
        assert_eq!(asked, 3);
        assert_eq!(within("an answer", async { 7 }).await, 7);
    }
}
