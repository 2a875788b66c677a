//! Where requests go. A target is resolved once, and the address checked is the address connected to.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use http::Uri;

/// One URL to ask for, and the address it was resolved to.
#[derive(Debug, Clone)]
pub struct Target {
    /// The URL as given: `http://host:port/path?query`.
    pub uri: Uri,
    pub server: Arc<Server>,
}

/// Who answers a URL. URLs of one server share one of these, and a list of a hundred thousand is resolved once.
#[derive(Debug, PartialEq, Eq)]
pub struct Server {
    /// `host:port`, for the `Host` header.
    pub authority: String,
    /// Without brackets or port, for the certificate.
    pub host: String,
    pub address: SocketAddr,
    pub security: Security,
}

/// Whether bytes are encrypted on their way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Security {
    Plain,
    Tls,
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
    #[error("'{0}': only http:// and https:// URLs with a host can be asked")]
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
    /// When it is no HTTP URL, does not resolve, or resolves beyond `reach`.
    pub fn resolve(url: &str, reach: Reach) -> Result<Self, TargetError> {
        Self::after(None, url, reach)
    }

    /// As [`Self::resolve`], of many.
    ///
    /// # Errors
    /// The first URL's that has one.
    pub fn resolve_all(urls: &[String], reach: Reach) -> Result<Vec<Self>, TargetError> {
        let mut targets: Vec<Self> = Vec::with_capacity(urls.len());
        for url in urls {
            let target = Self::after(targets.last(), url, reach)?;
            targets.push(target);
        }
        Ok(targets)
    }

    /// Takes the server over from `previous` where it is the same.
    fn after(previous: Option<&Self>, url: &str, reach: Reach) -> Result<Self, TargetError> {
        let uri: Uri = url.parse().map_err(|error| TargetError::NotAUrl(url.to_owned(), error))?;
        let (security, default_port) = match uri.scheme_str() {
            Some("http") => (Security::Plain, 80),
            Some("https") => (Security::Tls, 443),
            _ => return Err(TargetError::NotHttp(url.to_owned())),
        };
        let host = uri.host().ok_or_else(|| TargetError::NotHttp(url.to_owned()))?;
        let port = uri.port_u16().unwrap_or(default_port);
        let authority = format!("{host}:{port}");
        if let Some(previous) = previous
            && previous.server.authority == authority
            && previous.server.security == security
        {
            return Ok(Self { server: Arc::clone(&previous.server), uri });
        }
        let host = host.trim_matches(['[', ']']).to_owned();
        let address = resolve(url, &host, port, reach)?;
        Ok(Self { server: Arc::new(Server { authority, host, address, security }), uri })
    }
}

fn resolve(url: &str, host: &str, port: u16, reach: Reach) -> Result<SocketAddr, TargetError> {
    let addresses: Vec<SocketAddr> =
        (host, port).to_socket_addrs().map_err(|error| TargetError::Unresolved(url.to_owned(), error))?.collect();
    // A name with one address here and one elsewhere is not ours: every address must be loopback.
    if reach == Reach::LoopbackOnly
        && let Some(remote) = addresses.iter().find(|address| !address.ip().is_loopback())
    {
        return Err(TargetError::Remote(url.to_owned(), *remote));
    }
    addresses.first().copied().ok_or_else(|| TargetError::NoAddress(url.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_in_every_spelling_is_allowed() {
        for url in ["http://127.0.0.1:8080/i/a/b", "http://127.8.9.1/", "http://[::1]:80/x?y=z", "http://localhost:1/"]
        {
            let target = Target::resolve(url, Reach::LoopbackOnly).expect(url);
            assert!(target.server.address.ip().is_loopback(), "{url}");
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
    fn urls_of_one_server_share_it() {
        let urls = ["http://127.0.0.1:1/a", "http://127.0.0.1:1/b", "https://127.0.0.1:1/c"].map(str::to_owned);
        let targets = Target::resolve_all(&urls, Reach::LoopbackOnly).expect("loopback");
        assert!(Arc::ptr_eq(&targets[0].server, &targets[1].server));
        assert_eq!(targets[2].server.security, Security::Tls);
    }

    #[test]
    fn only_http_is_spoken() {
        for url in ["/i/a/b", "ftp://127.0.0.1/", "127.0.0.1:80"] {
            assert!(Target::resolve(url, Reach::LoopbackOnly).is_err(), "{url}");
        }
    }
}
