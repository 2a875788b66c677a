//! The sockets an edge serves on, bound before it is built or handed over by systemd.

use std::net::SocketAddr;

use anyhow::Context;
use tokio::net::TcpListener;

use crate::config::Config;
use crate::listener::addresses::Addresses;
use crate::listener::systemd::{Inherited, SocketName};

/// Bound listeners, one for each address. A caller that binds port 0 learns the ports here, so that no test needs a fixed one.
#[derive(Debug)]
pub struct Sockets {
    pub http: Vec<TcpListener>,
    /// Empty without a certificate.
    pub https: Vec<TcpListener>,
    pub admin: Vec<TcpListener>,
}

impl Sockets {
    /// Takes over the sockets systemd hands over and binds the others where the configuration says.
    ///
    /// # Errors
    /// When an address is taken or not ours, or a socket is handed over that no listener serves.
    pub async fn bind(config: &Config, mut inherited: Inherited) -> anyhow::Result<Self> {
        let listen = &config.listen;
        let mut bind = |name: SocketName, addresses: &Addresses| match inherited.remove(name) {
            Some(sockets) => {
                let sockets: Result<Vec<_>, _> = sockets.into_iter().map(TcpListener::from_std).collect();
                sockets.context("a socket of systemd's")
            }
            None => addresses.listen().map_err(|(address, error)| {
                anyhow::Error::from(error).context(format!("`listen.{}`: cannot listen on {address}", name.as_str()))
            }),
        };
        let http = bind(SocketName::Http, &listen.http)?;
        let https = if listen.tls.is_some() { bind(SocketName::Https, &listen.https)? } else { Vec::new() };
        let admin = bind(SocketName::Admin, &listen.admin)?;
        if let Some(name) = inherited.left().next() {
            anyhow::bail!("systemd hands over a socket `{name}`, and `listen.tls` names no certificate");
        }
        Ok(Self { http, https, admin })
    }
}

pub(super) fn addresses(sockets: &[TcpListener]) -> anyhow::Result<Vec<SocketAddr>> {
    Ok(sockets.iter().map(TcpListener::local_addr).collect::<Result<_, _>>()?)
}
