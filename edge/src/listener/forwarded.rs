//! Who asks: the peer of the socket, or whom the proxies we trust say they ask for.
//!
//! A field of hops (`X-Forwarded-For`, or `Forwarded` of RFC 7239) grows to the right, and only what a trusted proxy
//! appended can be believed: it is read from the right, one hop at a time, for as long as the hop that wrote it is trusted.
//! The first address that is not is the client. What stands further left is the client's own invention.
//!
//! Only one of the two fields is read, the configured one: a proxy that maintains one passes the other through as the
//! client sent it.
//!
//! Invariants: a peer that is not trusted is the client, with or without fields; at most [`HOPS_MAX`] hops are read; no input
//! panics; nothing is allocated.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use http::header::FORWARDED;
use http::{HeaderMap, HeaderName};
use serde::Deserialize;

/// Longer chains are no chains of proxies: the hop reached by then is the client.
const HOPS_MAX: usize = 16;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Which field trusted proxies maintain.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ForwardedField {
    /// `X-Forwarded-For`.
    #[default]
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}

/// Addresses with a common prefix, such as `10.0.0.0/8`; a single address is one too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Prefix {
    /// IPv4 as a mapped address, so that the families cannot collide.
    bits: u128,
    mask: u128,
}

/// Why a text is no prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no address and no prefix such as `10.0.0.0/8` or `2001:db8::/32`")]
pub struct PrefixError {
    text: String,
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let refused = || PrefixError { text: text.to_owned() };
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| refused())?;
        let width: u32 = if address.is_ipv4() { 32 } else { 128 };
        let length = match length {
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                digits.parse().map_err(|_| refused())?
            }
            Some(_) => return Err(refused()),
            None => width,
        };
        let free = width.checked_sub(length).ok_or_else(refused)?;
        let mask = u128::MAX.checked_shl(free).unwrap_or(0);
        let bits = mapped(address);
        // Bits behind the prefix are a typing error that would trust more than was meant.
        if bits & !mask != 0 {
            return Err(refused());
        }
        Ok(Self { bits, mask })
    }
}

impl TryFrom<String> for Prefix {
    type Error = PrefixError;

    fn try_from(text: String) -> Result<Self, PrefixError> {
        text.parse()
    }
}

impl Prefix {
    fn contains(&self, address: IpAddr) -> bool {
        mapped(address) & self.mask == self.bits
    }
}

fn mapped(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// The proxies whose word is taken.
#[derive(Debug, Clone, Default)]
pub struct TrustedProxies {
    prefixes: Vec<Prefix>,
    field: ForwardedField,
}

/// The proxies trusted now, replaced as a whole when the configuration is read again. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Trusted(Arc<ArcSwap<TrustedProxies>>);

impl Trusted {
    #[must_use]
    pub fn new(proxies: TrustedProxies) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(proxies)))
    }

    pub fn replace(&self, proxies: TrustedProxies) {
        self.0.store(Arc::new(proxies));
    }

    /// As [`TrustedProxies::client`].
    #[must_use]
    pub fn client(&self, peer: IpAddr, fields: &HeaderMap) -> IpAddr {
        self.0.load().client(peer, fields)
    }

    /// Whether `address` is a proxy's.
    #[must_use]
    pub fn trusts(&self, address: IpAddr) -> bool {
        self.0.load().trusts(address.to_canonical())
    }
}

impl TrustedProxies {
    #[must_use]
    pub fn new(prefixes: Vec<Prefix>, field: ForwardedField) -> Self {
        Self { prefixes, field }
    }

    /// Whether `address` is one of them.
    #[must_use]
    pub fn trusts(&self, address: IpAddr) -> bool {
        self.prefixes.iter().any(|prefix| prefix.contains(address))
    }

    /// The client of a request that came from `peer` with these fields. An IPv4 address is one, never a mapped one.
    #[must_use]
    pub fn client(&self, peer: IpAddr, fields: &HeaderMap) -> IpAddr {
        let peer = peer.to_canonical();
        if !self.trusts(peer) {
            return peer;
        }
        match self.field {
            ForwardedField::XForwardedFor => self.walk(peer, members(fields, &X_FORWARDED_FOR).map(node)),
            ForwardedField::Forwarded => self.walk(peer, members(fields, &FORWARDED).map(hop)),
        }
    }

    /// From hop to hop until one is not trusted, or does not say where it has the request from.
    fn walk(&self, peer: IpAddr, hops: impl Iterator<Item = Option<IpAddr>>) -> IpAddr {
        let mut client = peer;
        for hop in hops.take(HOPS_MAX) {
            let Some(address) = hop else { break };
            client = address;
            if !self.trusts(address) {
                break;
            }
        }
        client
    }
}

/// The address in a `forwarded-element` (RFC 7239 §4); none where it is hidden (`unknown`, `_name`) or malformed. Quoted
/// strings hold no semicolon in the value we read.
fn hop(element: &str) -> Option<IpAddr> {
    let mut pairs = element.split(';').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.find(|(name, _)| name.trim().eq_ignore_ascii_case("for"))?;
    node(value.trim().trim_matches('"'))
}

/// The members of a list field, last one first; several lines are one list (RFC 9110 §5.3). A member that is no text names
/// no client, and takes nothing from those that a proxy appended behind it.
fn members<'a>(fields: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> + use<'a> {
    let lines = fields.get_all(name).iter().rev();
    let members = lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
    let members = members.map(|member| std::str::from_utf8(member).unwrap_or("\u{fffd}"));
    members.map(str::trim).filter(|member| !member.is_empty())
}

/// `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:80`; none for anything else.
fn node(text: &str) -> Option<IpAddr> {
    let bare = || text.strip_prefix('[')?.strip_suffix(']')?.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    let address = text.parse::<IpAddr>().ok().or_else(bare);
    let address = address.or_else(|| text.parse::<SocketAddr>().ok().map(|socket| socket.ip()))?;
    let address = address.to_canonical();
    // No client has it; a proxy that writes it does not know.
    (address != IpAddr::V4(Ipv4Addr::UNSPECIFIED) && address != IpAddr::V6(Ipv6Addr::UNSPECIFIED)).then_some(address)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    const PROXY: &str = "10.0.0.1";

    fn trusted(field: ForwardedField) -> TrustedProxies {
        let prefixes = ["10.0.0.0/8", "2001:db8:ffff::/48", "127.0.0.1"];
        TrustedProxies::new(prefixes.iter().map(|prefix| prefix.parse().expect("a prefix")).collect(), field)
    }

    fn fields(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut fields = HeaderMap::new();
        for (name, value) in lines {
            fields.append(HeaderName::from_static(name), HeaderValue::from_str(value).expect("a value"));
        }
        fields
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn x_forwarded_for_is_read_from_the_right_over_trusted_hops() {
        let trusted = trusted(ForwardedField::XForwardedFor);
        for (peer, lines, client) in [
            (PROXY, &["192.0.2.1"][..], "192.0.2.1"),
            (PROXY, &["203.0.113.9, 192.0.2.1"], "192.0.2.1"),
            (PROXY, &["192.0.2.1, 10.9.9.9"], "192.0.2.1"),
            (PROXY, &["192.0.2.1", "10.9.9.9", " 10.1.1.1 ,"], "192.0.2.1"),
            (PROXY, &["192.0.2.1:4711"], "192.0.2.1"),
            (PROXY, &["2001:db8::7"], "2001:db8::7"),
            (PROXY, &["[2001:db8::7]:4711, [2001:db8:ffff::1]"], "2001:db8::7"),
            (PROXY, &["::ffff:192.0.2.1"], "192.0.2.1"),
            ("::ffff:10.0.0.1", &["192.0.2.1"], "192.0.2.1"),
            // Every hop is trusted: the outermost.
            (PROXY, &["10.2.2.2, 10.3.3.3"], "10.2.2.2"),
            // What no proxy writes in good faith ends the chain at the hop that reported it.
            (PROXY, &["192.0.2.1, unknown, 10.3.3.3"], "10.3.3.3"),
            (PROXY, &["192.0.2.1, 999.1.1.1"], PROXY),
            (PROXY, &["0.0.0.0"], PROXY),
            (PROXY, &[], PROXY),
            // Not trusted: says what it likes.
            ("192.0.2.8", &["203.0.113.9"], "192.0.2.8"),
        ] {
            let lines: Vec<_> = lines.iter().map(|&line| ("x-forwarded-for", line)).collect();
            assert_eq!(trusted.client(ip(peer), &fields(&lines)), ip(client), "{peer} {lines:?}");
        }
    }

    /// The client writes the start of the line that a proxy appends to: what it writes there must not hide it.
    #[test]
    fn bytes_that_are_no_text_do_not_hide_what_a_proxy_appended() {
        for (field, name, line) in [
            (ForwardedField::XForwardedFor, X_FORWARDED_FOR, &b"\xff, 192.0.2.1"[..]),
            (ForwardedField::Forwarded, FORWARDED, b"for=\xe9, for=192.0.2.1"),
        ] {
            let mut fields = HeaderMap::new();
            fields.append(name, HeaderValue::from_bytes(line).expect("obs-text"));
            assert_eq!(trusted(field).client(ip(PROXY), &fields), ip("192.0.2.1"), "{field:?}");
        }
    }

    #[test]
    fn forwarded_is_read_by_rfc_7239() {
        let trusted = trusted(ForwardedField::Forwarded);
        for (line, client) in [
            ("for=192.0.2.1;proto=https;by=203.0.113.43", "192.0.2.1"),
            ("for=192.0.2.1;proto=https, for=10.1.1.1;proto=http", "192.0.2.1"),
            ("For=\"[2001:db8:cafe::17]:4711\"", "2001:db8:cafe::17"),
            ("proto=HTTP;for=\"192.0.2.1:80\"", "192.0.2.1"),
            ("for=192.0.2.1, for=_hidden", PROXY),
            ("for=192.0.2.1, proto=https", PROXY),
            ("for=unknown", PROXY),
            ("nonsense", PROXY),
        ] {
            assert_eq!(trusted.client(ip(PROXY), &fields(&[("forwarded", line)])), ip(client), "{line}");
        }
    }

    #[test]
    fn the_other_field_is_the_clients_invention() {
        let both = fields(&[("forwarded", "for=203.0.113.1"), ("x-forwarded-for", "192.0.2.1")]);
        assert_eq!(trusted(ForwardedField::XForwardedFor).client(ip(PROXY), &both), ip("192.0.2.1"));
        assert_eq!(trusted(ForwardedField::Forwarded).client(ip(PROXY), &both), ip("203.0.113.1"));
    }

    #[test]
    fn prefixes_are_what_they_say() {
        for text in ["10.0.0.0/8", "0.0.0.0/0", "::/0", "192.0.2.7", "192.0.2.7/32", "2001:db8::/32", "::1"] {
            assert!(text.parse::<Prefix>().is_ok(), "{text}");
        }
        for text in
            ["", "10.0.0.0/33", "10.0.0.1/8", "10.0.0.0/", "10.0.0.0/+8", "10/8", "::/129", "2001:db8::1/32", "x"]
        {
            assert!(text.parse::<Prefix>().is_err(), "{text}");
        }
        let every_v4: Prefix = "0.0.0.0/0".parse().expect("a prefix");
        assert!(every_v4.contains(ip("203.0.113.1")) && !every_v4.contains(ip("2001:db8::1")));
    }

    #[test]
    fn a_long_chain_is_read_for_a_while_only() {
        let chain = vec!["10.1.1.1"; 10_000].join(", ");
        let found = trusted(ForwardedField::XForwardedFor).client(ip(PROXY), &fields(&[("x-forwarded-for", &chain)]));
        assert_eq!(found, ip("10.1.1.1"));
    }

    proptest! {
        /// For anything that a client sends through a trusted proxy that appends its address, the client's address is found.
        #[test]
        fn a_proxy_that_appends_cannot_be_lied_to(sent in "[ -~]{0,80}", octets in any::<[u8; 4]>()) {
            let client = IpAddr::from(octets);
            let trusted = trusted(ForwardedField::XForwardedFor);
            prop_assume!(!trusted.trusts(client) && !client.is_unspecified());
            let appended = format!("{sent}, {client}");
            let found = trusted.client(ip(PROXY), &fields(&[("x-forwarded-for", &appended)]));
            prop_assert_eq!(found, client);
        }

        #[test]
        fn no_field_panics_or_moves_a_peer_that_is_not_trusted(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let Ok(value) = HeaderValue::from_bytes(&bytes) else { return Ok(()) };
            for (field, name) in [(ForwardedField::XForwardedFor, X_FORWARDED_FOR), (ForwardedField::Forwarded, FORWARDED)] {
                let mut fields = HeaderMap::new();
                fields.insert(name, value.clone());
                let trusted = trusted(field);
                let _ = trusted.client(ip(PROXY), &fields);
                prop_assert_eq!(trusted.client(ip("192.0.2.8"), &fields), ip("192.0.2.8"));
            }
        }
    }
}
