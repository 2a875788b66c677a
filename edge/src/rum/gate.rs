//! Whose beacons are taken: pages of listed origins, as often as a client's network and all of them together may.
//!
//! An origin is what a browser says of a page (RFC 6454, Fetch Standard §3.2): it keeps other people's pages from counting as
//! ours, not a program from lying. What bounds programs is the rate. The table of networks is bounded; one that falls out of
//! it begins afresh, and then the rate of all together holds.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, ORIGIN, REFERER, VARY};
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use moka::sync::Cache;
use parking_lot::Mutex;
use serde::Deserialize;

use crate::budget::{Bucket, BudgetConfig, Network, Rate};

/// `[rum]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RumConfig {
    /// Whose pages may send; empty: any.
    pub origins: Vec<OriginPattern>,
    /// Beacons of one client network at once, and per minute after that; 0 per minute: no limit.
    pub network_burst: u32,
    pub network_per_minute: u32,
    /// The same for all of them together.
    pub total_burst: u32,
    pub total_per_minute: u32,
    /// Networks remembered.
    pub networks_max: u64,
}

impl Default for RumConfig {
    fn default() -> Self {
        Self {
            origins: Vec::new(),
            network_burst: 600,
            network_per_minute: 600,
            total_burst: 20_000,
            total_per_minute: 120_000,
            networks_max: 20_000,
        }
    }
}

impl RumConfig {
    /// # Errors
    /// Names the key that cannot be right.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        for (key, value) in [
            ("rum.network_burst", u64::from(self.network_burst)),
            ("rum.total_burst", u64::from(self.total_burst)),
            ("rum.networks_max", self.networks_max),
        ] {
            if value == 0 {
                return Err((key, "is zero".to_owned()));
            }
        }
        Ok(())
    }
}

/// Scheme, host and port.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Origin {
    scheme: String,
    host: String,
    port: u16,
}

impl Origin {
    /// Of `Origin`, or of the URL in a `Referer`.
    fn of_url(url: &Uri) -> Option<Self> {
        let scheme = url.scheme_str()?.to_ascii_lowercase();
        let default_port = match scheme.as_str() {
            "https" => 443,
            "http" => 80,
            _ => return None,
        };
        let authority = url.authority().filter(|authority| !authority.as_str().contains('@'))?;
        let port = match (authority.port_u16(), authority.port().is_some() || authority.as_str().ends_with(':')) {
            (Some(port), _) => port,
            (None, false) => default_port,
            (None, true) => return None,
        };
        let host = authority.host().to_ascii_lowercase();
        (!host.is_empty()).then_some(Self { scheme, host, port })
    }

    fn of_field(fields: &HeaderMap, name: &HeaderName) -> Option<Self> {
        let mut lines = fields.get_all(name).iter();
        let url = Uri::try_from(lines.next()?.as_bytes()).ok()?;
        if lines.next().is_some() {
            return None;
        }
        Self::of_url(&url)
    }
}

/// An origin, or with `*.` before its host every origin below it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct OriginPattern {
    /// Without the `*.`.
    origin: Origin,
    hosts: Hosts,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hosts {
    One,
    Below,
}

impl TryFrom<String> for OriginPattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let (plain, hosts) = match text.split_once("://*.") {
            Some((scheme, host)) => (format!("{scheme}://{host}"), Hosts::Below),
            None => (text.clone(), Hosts::One),
        };
        let url = plain.parse::<Uri>().ok().filter(|url| url.query().is_none() && url.path() == "/");
        let origin = url.as_ref().and_then(Origin::of_url);
        match origin {
            Some(origin) if !plain.ends_with('/') && !plain.contains('*') => Ok(Self { origin, hosts }),
            _ => Err(format!("`{text}` is no origin such as `https://www.example.com` or `https://*.example.com`")),
        }
    }
}

impl OriginPattern {
    fn covers(&self, origin: &Origin) -> bool {
        let host = match self.hosts {
            Hosts::One => origin.host == self.origin.host,
            Hosts::Below => {
                origin.host.strip_suffix(&self.origin.host).is_some_and(|below| below.len() > 1 && below.ends_with('.'))
            }
        };
        host && (&origin.scheme, origin.port) == (&self.origin.scheme, self.origin.port)
    }
}

/// Why a beacon is not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the page's origin is not one whose measurements are taken here")]
    Origin,
    #[error("this network sends more measurements than are taken")]
    Network,
    #[error("more measurements arrive than are taken")]
    Total,
}

impl Refusal {
    pub const ALL: [Self; 3] = [Self::Origin, Self::Network, Self::Total];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Origin => "origin",
            Self::Network => "rate_network",
            Self::Total => "rate_total",
        }
    }

    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::Origin => 403,
            Self::Network | Self::Total => 429,
        }
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Gate {
    origins: Vec<OriginPattern>,
    networks_of: BudgetConfig,
    network_rate: Option<Rate>,
    networks: Cache<Network, Arc<Mutex<Bucket>>>,
    total: Option<(Rate, Mutex<Bucket>)>,
}

impl Gate {
    /// `budget` says what one network is.
    #[must_use]
    pub fn new(config: &RumConfig, budget: &BudgetConfig) -> Self {
        let network_rate = Rate::new(config.network_burst, config.network_per_minute);
        let mut networks = Cache::builder().max_capacity(config.networks_max);
        if let Some(rate) = network_rate {
            networks = networks.time_to_idle(rate.refill_time());
        }
        let total = Rate::new(config.total_burst, config.total_per_minute);
        Self {
            origins: config.origins.clone(),
            networks_of: budget.clone(),
            network_rate,
            networks: networks.build(),
            total: total.map(|rate| (rate, Mutex::new(Bucket::full(rate, Instant::now())))),
        }
    }

    /// Whether a beacon with these fields is read.
    ///
    /// # Errors
    /// Why it is not.
    pub fn admit(&self, fields: &HeaderMap, client: IpAddr) -> Result<(), Refusal> {
        self.admit_at(fields, client, Instant::now())
    }

    fn admit_at(&self, fields: &HeaderMap, client: IpAddr, now: Instant) -> Result<(), Refusal> {
        if !self.is_listed(fields) {
            return Err(Refusal::Origin);
        }
        if let Some(rate) = self.network_rate {
            let network = Network::of(client, &self.networks_of);
            let bucket = self.networks.get_with(network, || Arc::new(Mutex::new(Bucket::full(rate, now))));
            if !bucket.lock().take(rate, now) {
                return Err(Refusal::Network);
            }
        }
        match &self.total {
            Some((rate, bucket)) if !bucket.lock().take(*rate, now) => Err(Refusal::Total),
            _ => Ok(()),
        }
    }

    /// A page that says nothing of itself is not on a list. `Origin: null` is an opaque origin, and on none either.
    fn is_listed(&self, fields: &HeaderMap) -> bool {
        if self.origins.is_empty() {
            return true;
        }
        let name = if fields.contains_key(ORIGIN) { ORIGIN } else { REFERER };
        let origin = Origin::of_field(fields, &name);
        origin.is_some_and(|origin| self.origins.iter().any(|pattern| pattern.covers(&origin)))
    }

    /// What scripts of a page may know of the answer: with a list, only those of a listed one.
    pub fn share(&self, request: &HeaderMap, answer: &mut HeaderMap) {
        if self.origins.is_empty() {
            return;
        }
        answer.append(VARY, HeaderValue::from_static("Origin"));
        match request.get(ORIGIN).filter(|_| self.is_listed(request)) {
            Some(origin) => answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone()),
            None => answer.remove(ACCESS_CONTROL_ALLOW_ORIGIN),
        };
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn pattern(text: &str) -> Result<OriginPattern, String> {
        OriginPattern::try_from(text.to_owned())
    }

    fn gate(change: impl FnOnce(&mut RumConfig)) -> Gate {
        let mut config = RumConfig::default();
        change(&mut config);
        Gate::new(&config, &BudgetConfig::default())
    }

    fn listed() -> Gate {
        let origins = ["https://www.example.com", "https://*.shop.example", "http://localhost:3000"];
        gate(|config| config.origins = origins.iter().map(|text| pattern(text).unwrap()).collect())
    }

    fn fields(lines: &[(HeaderName, &str)]) -> HeaderMap {
        let mut fields = HeaderMap::new();
        for (name, value) in lines {
            fields.append(name, HeaderValue::from_str(value).unwrap());
        }
        fields
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn only_pages_of_listed_origins_are_taken() {
        let gate = listed();
        let admits = |lines: &[(HeaderName, &str)]| gate.admit(&fields(lines), ip("192.0.2.1")).is_ok();
        for origin in [
            "https://www.example.com",
            "https://WWW.example.com:443",
            "https://a.b.shop.example",
            "http://localhost:3000",
        ] {
            assert!(admits(&[(ORIGIN, origin)]), "{origin}");
        }
        for origin in [
            "null",
            "https://example.com",
            "http://www.example.com",
            "https://www.example.com:8443",
            "https://www.example.com.evil.example",
            "https://evilshop.example",
            "https://shop.example",
            "https://.shop.example",
            "https://www.example.com@evil.example",
            "www.example.com",
            "",
        ] {
            assert!(!admits(&[(ORIGIN, origin)]), "{origin}");
        }
        assert!(admits(&[(REFERER, "https://www.example.com/mugs?x=https://evil.example")]));
        assert!(!admits(&[(REFERER, "https://evil.example/https://www.example.com")]));
        assert!(!admits(&[(ORIGIN, "null"), (REFERER, "https://www.example.com/")]), "the origin is asked first");
        assert!(!admits(&[(ORIGIN, "https://www.example.com"), (ORIGIN, "https://www.example.com")]));
        assert!(!admits(&[]));
        assert!(
            super::Gate::new(&RumConfig::default(), &BudgetConfig::default()).admit(&fields(&[]), ip("::1")).is_ok()
        );
    }

    #[test]
    fn what_is_no_origin_is_refused_in_the_configuration() {
        for bad in [
            "",
            "*",
            "example.com",
            "https://",
            "https://a.example/",
            "https://a.example/x",
            "https://*",
            "https://*.*.a",
            "ftp://a.example",
            "https://me@a.example",
            "null",
        ] {
            assert!(pattern(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_network_and_all_of_them_send_at_a_rate() {
        let limited = gate(|config| {
            (config.network_burst, config.network_per_minute) = (2, 60);
            (config.total_burst, config.total_per_minute) = (5, 60);
        });
        let start = Instant::now();
        let admit = |client: &str, seconds: u64| {
            limited.admit_at(&HeaderMap::new(), ip(client), start + Duration::from_secs(seconds))
        };
        assert_eq!([admit("192.0.2.1", 0), admit("192.0.2.2", 0)], [Ok(()), Ok(())]);
        assert_eq!(admit("192.0.2.3", 0), Err(Refusal::Network), "one network");
        assert_eq!([admit("198.51.100.1", 0), admit("198.51.100.1", 0), admit("203.0.113.1", 0)], [Ok(()); 3]);
        assert_eq!(admit("203.0.113.1", 0), Err(Refusal::Total));
        assert_eq!(admit("192.0.2.3", 1), Ok(()), "a second later");
        let free = gate(|config| (config.network_per_minute, config.total_per_minute) = (0, 0));
        assert!((0..100_000).all(|_| free.admit(&HeaderMap::new(), ip("192.0.2.1")).is_ok()));
    }

    #[test]
    fn scripts_of_listed_pages_may_read_the_answer() {
        let shared = |gate: &Gate, origin: &str| {
            let mut answer = fields(&[(ACCESS_CONTROL_ALLOW_ORIGIN, "*")]);
            gate.share(&fields(&[(ORIGIN, origin)]), &mut answer);
            let value = |name| answer.get(name).map(|value: &HeaderValue| value.to_str().unwrap().to_owned());
            (value(ACCESS_CONTROL_ALLOW_ORIGIN), value(VARY))
        };
        let www = "https://www.example.com";
        assert_eq!(shared(&listed(), www), (Some(www.to_owned()), Some("Origin".to_owned())));
        assert_eq!(shared(&listed(), "https://evil.example"), (None, Some("Origin".to_owned())));
        assert_eq!(shared(&gate(|_| {}), "https://evil.example"), (Some("*".to_owned()), None));
    }

    proptest! {
        #[test]
        fn no_field_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let mut fields = HeaderMap::new();
                fields.insert(ORIGIN, value);
                let _ = listed().admit(&fields, ip("192.0.2.1"));
            }
        }
    }
}
