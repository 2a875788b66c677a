//! Where requests go. A target is resolved once, and the address checked is the address connected to.

use std::net::{SocketAddr, ToSocketAddrs};

use http::Uri;

/// One URL to ask for, and the address it was resolved to.
#[derive(Debug, Clone)]
pub struct Target {
    /// The URL as given: `http://host:port/path?query`.
    pub uri: Uri,
    /// `host:port`, for the `Host` header.
    pub authority: String,
    pub address: SocketAddr,
}

/// Whether addresses beyond this machine may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    LoopbackOnly,
    Anywhere,
}

#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    #[error("'{0}' is not a URL: {1}")]
    NotAUrl(String, http::uri::InvalidUri),
    #[error("'{0}': only http:// URLs with a host can be asked")]
    NotHttp(String),
    #[error("'{0}' does not resolve: {1}")]
    Unresolved(String, std::io::Error),
    #[error("'{0}' resolves to nothing")]
    NoAddress(String),
    #[error(
        "'{0}' resolves to {1}, which is not this machine; --allow-remote permits it, if the server there is yours to load"
    )]
    Remote(String, SocketAddr),
}

impl Target {
    /// Parses and resolves `url`.
    ///
    /// # Errors
    /// When it is no `http://` URL, does not resolve, or resolves beyond `reach`.
    pub fn resolve(url: &str, reach: Reach) -> Result<Self, TargetError> {
        let uri: Uri = url.parse().map_err(|error| TargetError::NotAUrl(url.to_owned(), error))?;
        let (Some("http"), Some(host)) = (uri.scheme_str(), uri.host()) else {
            return Err(TargetError::NotHttp(url.to_owned()));
        };
        let port = uri.port_u16().unwrap_or(80);
        let addresses: Vec<SocketAddr> = (host.trim_matches(['[', ']']), port)
            .to_socket_addrs()
            .map_err(|error| TargetError::Unresolved(url.to_owned(), error))?
            .collect();
        // A name with one address here and one elsewhere is not ours: every address must be loopback.
        if reach == Reach::LoopbackOnly
            && let Some(remote) = addresses.iter().find(|address| !address.ip().is_loopback())
        {
            return Err(TargetError::Remote(url.to_owned(), *remote));
        }
        let address = *addresses.first().ok_or_else(|| TargetError::NoAddress(url.to_owned()))?;
        Ok(Self { authority: format!("{host}:{port}"), address, uri })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_in_every_spelling_is_allowed() {
        for url in ["http://127.0.0.1:8080/i/a/b", "http://127.8.9.1/", "http://[::1]:80/x?y=z", "http://localhost:1/"]
        {
            let target = Target::resolve(url, Reach::LoopbackOnly).expect(url);
            assert!(target.address.ip().is_loopback(), "{url}");
        }
    }

    #[test]
    fn other_machines_need_permission() {
        let url = "http://192.0.2.7:8080/";
        let error = Target::resolve(url, Reach::LoopbackOnly).expect_err("a documentation address is remote");
        assert!(matches!(error, TargetError::Remote(..)), "{error}");
        assert!(error.to_string().contains("--allow-remote"));
        assert!(Target::resolve(url, Reach::Anywhere).is_ok());
    }

    #[test]
    fn only_plain_http_is_spoken() {
        for url in ["https://127.0.0.1/", "/i/a/b", "ftp://127.0.0.1/", "127.0.0.1:80"] {
            assert!(Target::resolve(url, Reach::LoopbackOnly).is_err(), "{url}");
        }
    }
}
