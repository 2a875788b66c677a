//! Addresses of a listener: one, or several, as `"127.0.0.1:8080"` or `["127.0.0.1:8080", "[::1]:8080"]`.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::Deserialize;
use tokio::net::{TcpListener, TcpSocket};

/// Most addresses of one listener.
const ADDRESSES_MAX: usize = 16;

/// Connections the kernel keeps until they are accepted. What overflows is dropped without a word and comes back a second
/// later at the earliest, so this is as long as Linux lets it be by itself (`net.core.somaxconn` since 5.4).
const BACKLOG: u32 = 4096;

/// At least one address, none twice.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "OneOrMany")]
pub struct Addresses(Vec<SocketAddr>);

#[derive(Deserialize)]
#[serde(untagged, expecting = "an address such as \"127.0.0.1:8080\", or a list of them")]
enum OneOrMany {
    One(SocketAddr),
    Many(Vec<SocketAddr>),
}

/// Why a list of addresses cannot be listened on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressesError {
    #[error("a listener has at least one address")]
    None,
    #[error("a listener has at most {ADDRESSES_MAX} addresses")]
    TooMany,
    #[error("{0} is named twice")]
    Twice(SocketAddr),
}

impl TryFrom<OneOrMany> for Addresses {
    type Error = AddressesError;

    fn try_from(given: OneOrMany) -> Result<Self, AddressesError> {
        match given {
            OneOrMany::One(address) => Ok(address.into()),
            OneOrMany::Many(addresses) => Self::new(addresses),
        }
    }
}

impl From<SocketAddr> for Addresses {
    fn from(address: SocketAddr) -> Self {
        Self(vec![address])
    }
}

impl Addresses {
    /// # Errors
    /// When there is none, there are too many, or one comes twice.
    pub fn new(addresses: Vec<SocketAddr>) -> Result<Self, AddressesError> {
        if addresses.is_empty() {
            return Err(AddressesError::None);
        }
        if addresses.len() > ADDRESSES_MAX {
            return Err(AddressesError::TooMany);
        }
        // Port 0 is another one each time.
        let is_repeated = |(index, address): (usize, &SocketAddr)| {
            (address.port() != 0 && addresses[..index].contains(address)).then_some(*address)
        };
        match addresses.iter().enumerate().find_map(is_repeated) {
            Some(address) => Err(AddressesError::Twice(address)),
            None => Ok(Self(addresses)),
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = SocketAddr> {
        self.0.iter().copied()
    }

    /// Listens on each of them; an error names the one that failed.
    ///
    /// # Errors
    /// When an address is taken or not ours.
    pub fn listen(&self) -> Result<Vec<TcpListener>, (SocketAddr, std::io::Error)> {
        self.iter().map(|address| self.listen_on(address).map_err(|error| (address, error))).collect()
    }

    /// As tokio binds, but with a backlog of our own length.
    fn listen_on(&self, address: SocketAddr) -> std::io::Result<TcpListener> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // A restarted edge takes its port again while connections of the former one still linger.
        socket.set_reuseaddr(true)?;
        if self.is_beside_every_ipv4(address) {
            rustix::net::sockopt::set_ipv6_v6only(&socket, true)?;
        }
        socket.bind(address)?;
        socket.listen(BACKLOG)
    }

    /// `[::]` takes IPv4 along where the system lets it, and then it and an IPv4 address of the same port exclude each
    /// other.
    fn is_beside_every_ipv4(&self, address: SocketAddr) -> bool {
        let is_every_ipv6 = matches!(address.ip(), IpAddr::V6(ip) if ip.is_unspecified());
        is_every_ipv6 && self.iter().any(|other| other.is_ipv4() && other.port() == address.port())
    }
}

impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, address) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{address}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct Section {
        http: Addresses,
    }

    fn read(value: &str) -> Result<String, String> {
        let section: Result<Section, _> = toml::from_str(&format!("http = {value}"));
        section.map(|section| section.http.to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn one_address_or_several() {
        assert_eq!(read("\"127.0.0.1:8080\"").unwrap(), "127.0.0.1:8080");
        assert_eq!(read("[\"127.0.0.1:8080\", \"[::1]:8080\"]").unwrap(), "127.0.0.1:8080, [::1]:8080");
        for (value, reason) in [
            ("[]", "at least one"),
            ("[\"127.0.0.1:80\", \"127.0.0.1:80\"]", "127.0.0.1:80 is named twice"),
            ("\"localhost:80\"", "an address such as"),
            ("8080", "an address such as"),
        ] {
            let error = read(value).unwrap_err();
            assert!(error.contains(reason), "{value}: {error}");
        }
        let many: Vec<_> = (1..=17).map(|port| SocketAddr::from(([127, 0, 0, 1], port))).collect();
        assert_eq!(Addresses::new(many), Err(AddressesError::TooMany));
    }

    /// Both families on one port, which a system that maps IPv4 into IPv6 would refuse.
    #[tokio::test]
    async fn both_families_share_a_port() {
        let any_v6: SocketAddr = "[::]:0".parse().unwrap();
        let Ok(_) = Addresses::from(any_v6).listen() else {
            eprintln!("skipped: both_families_share_a_port: this machine has no IPv6");
            return;
        };
        // A port that was free a moment ago, for both.
        for _ in 0..20 {
            let port = Addresses::from(any_v6).listen().unwrap()[0].local_addr().unwrap().port();
            let both = [format!("0.0.0.0:{port}"), format!("[::]:{port}")].map(|text| text.parse().unwrap());
            for addresses in [both.to_vec(), both.iter().rev().copied().collect()] {
                match Addresses::new(addresses).unwrap().listen() {
                    Ok(listeners) => return assert_eq!(listeners.len(), 2),
                    Err((address, error)) => eprintln!("{address}: {error}"),
                }
            }
        }
        panic!("never both");
    }
}
