//! What systemd hands over and wants to hear: listening sockets (`sd_listen_fds(3)`) and states (`sd_notify(3)`).
//!
//! A socket unit keeps its socket while the service restarts, so that no connection is refused meanwhile, and binds ports
//! below 1024 for a service that may not. Sockets are told apart by `FileDescriptorName=`: `http`, `https`, `admin`; several
//! of one name are addresses of one listener.
//! Without systemd the environment names nothing, and nothing here does anything.

use std::collections::HashMap;
use std::io;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use listenfd::ListenFd;

/// A listener of this edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SocketName {
    Http,
    Https,
    Admin,
}

impl SocketName {
    pub const ALL: [Self; 3] = [Self::Http, Self::Https, Self::Admin];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::Admin => "admin",
        }
    }
}

/// Why what was handed over cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InheritedError {
    #[error(
        "socket {index} handed over by systemd is named `{name}`: FileDescriptorName= is `http`, `https` or `admin`"
    )]
    Name { index: usize, name: String },
    #[error("socket `{name}` handed over by systemd: {source}")]
    Socket { name: &'static str, source: io::Error },
}

/// Sockets that were open before this process began.
#[derive(Debug, Default)]
pub struct Inherited(HashMap<SocketName, Vec<TcpListener>>);

impl Inherited {
    /// Takes over what `LISTEN_FDS`, `LISTEN_PID` and `LISTEN_FDNAMES` name; to be called once. They are closed on exec,
    /// so that no child keeps a port.
    ///
    /// # Errors
    /// When a socket is unnamed, or does not listen for TCP.
    pub fn take() -> Result<Self, InheritedError> {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':');
        let mut inherited = ListenFd::from_env();
        let mut sockets: HashMap<_, Vec<_>> = HashMap::new();
        for index in 0..inherited.len() {
            let given = names.next().unwrap_or_default();
            let name = SocketName::ALL.into_iter().find(|name| name.as_str() == given);
            let name = name.ok_or_else(|| InheritedError::Name { index, name: given.to_owned() })?;
            let failed = |source| InheritedError::Socket { name: name.as_str(), source };
            let Some(socket) = inherited.take_tcp_listener(index).map_err(failed)? else { continue };
            let listens = rustix::net::sockopt::socket_acceptconn(&socket).map_err(|error| failed(error.into()))?;
            if !listens {
                return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "it does not listen")));
            }
            socket.set_nonblocking(true).map_err(failed)?;
            sockets.entry(name).or_default().push(socket);
        }
        Ok(Self(sockets))
    }

    /// The sockets of that name: a unit with several `ListenStream=` names them all alike.
    pub fn remove(&mut self, name: SocketName) -> Option<Vec<TcpListener>> {
        self.0.remove(&name)
    }

    /// Names of sockets that no listener took.
    pub fn left(&self) -> impl Iterator<Item = &'static str> {
        self.0.keys().map(|name| name.as_str())
    }
}

/// What systemd is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Ready,
    Reloading,
    Stopping,
}

/// Tells `$NOTIFY_SOCKET`, if there is one. Failing to is logged: serving matters more.
pub fn notify(state: State) {
    let Some(address) = std::env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(error) = notify_at(address.as_encoded_bytes(), state) {
        tracing::warn!(%error, ?state, "systemd could not be told");
    }
}

fn notify_at(address: &[u8], state: State) -> io::Result<()> {
    let address = match address.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => {
            use std::os::unix::ffi::OsStrExt;
            SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(address))?
        }
    };
    let text = match state {
        State::Ready => "READY=1".to_owned(),
        // `Type=notify-reload` tells an answer to this reload from one to the last by it.
        State::Reloading => {
            let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
            format!("RELOADING=1\nMONOTONIC_USEC={}", now.tv_sec * 1_000_000 + now.tv_nsec / 1000)
        }
        State::Stopping => "STOPPING=1".to_owned(),
    };
    UnixDatagram::unbound()?.send_to_addr(text.as_bytes(), &address)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_arrive_by_path_and_by_abstract_name() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("notify");
        let by_path = UnixDatagram::bind(&path)?;
        let name = format!("bildkante-notify-test-{}", std::process::id());
        let by_name = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
        let abstract_name = format!("@{name}");
        let addresses = [path.as_os_str().as_encoded_bytes(), abstract_name.as_bytes()];
        for (socket, address) in [by_path, by_name].iter().zip(addresses) {
            let mut buffer = [0; 128];
            for (state, text) in [
                (State::Ready, "READY=1"),
                (State::Reloading, "RELOADING=1\nMONOTONIC_USEC="),
                (State::Stopping, "STOPPING=1"),
            ] {
                notify_at(address, state)?;
                let length = socket.recv(&mut buffer)?;
                let heard = String::from_utf8_lossy(&buffer[..length]).into_owned();
                assert!(heard.starts_with(text), "{heard}");
            }
        }
        Ok(())
    }
}
