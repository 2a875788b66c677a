//! `[admin.proxy]`: a proxy in front of the admin listener that knows people, by OpenID Connect for instance, and names them in a
//! field.
//!
//! Invariants: only addresses that are listed are believed; the field from any other peer refuses the request, because somebody
//! tries to be another; a name without a role may do nothing.

use std::collections::BTreeMap;
use std::net::IpAddr;

use http::{HeaderMap, HeaderName};
use serde::Deserialize;

use super::principal::{ANYBODY, Powers, Principal, Way};
use crate::listener::forwarded::{ForwardedField, Prefix, TrustedProxies};
use crate::shared_state::{ACTOR_BYTES_MAX, EDGE_ITSELF, Grants};

/// Names in the table of roles.
const PEOPLE_MAX: usize = 10_000;

/// `[admin.proxy]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProxyConfig {
    /// Where the proxy's connections come from.
    pub addresses: Vec<Prefix>,
    /// The field with a person's name.
    pub header: FieldName,
    /// The field with the person's roles, `autumn=approver, *=viewer`.
    #[serde(default)]
    pub roles_header: Option<FieldName>,
    /// Roles by name, for a proxy that does not send them.
    #[serde(default)]
    pub roles: BTreeMap<String, Grants>,
}

/// The name of a field.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct FieldName(HeaderName);

impl TryFrom<String> for FieldName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let name = text.parse::<HeaderName>().map_err(|_| format!("`{text}` is no name of a field"))?;
        match name.as_str() {
            // Each has a meaning of its own, and is sent by clients.
            "authorization" | "cookie" | "host" | "origin" | "x-forwarded-for" | "forwarded" | "x-csrf-token" => {
                Err(format!("`{text}` means something else"))
            }
            _ => Ok(Self(name)),
        }
    }
}

/// What the fields of a request say.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Vouched {
    /// No field names anybody.
    Nobody,
    Person(Principal),
    /// The field is there, and the peer is not the proxy.
    Stranger,
    /// The name or its roles cannot be read, or stand there twice.
    Unclear,
    /// The name has no role.
    WithoutRole {
        name: String,
    },
}

impl ProxyConfig {
    /// # Errors
    /// Says what cannot be right.
    pub fn check(&self) -> Result<(), String> {
        if self.addresses.is_empty() {
            return Err("`admin.proxy.addresses` is empty: no peer would be believed".to_owned());
        }
        if self.roles_header.is_some() != self.roles.is_empty() {
            return Err("`admin.proxy` takes one of `roles_header` and `roles`".to_owned());
        }
        if self.roles_header.as_ref() == Some(&self.header) {
            return Err("`admin.proxy.roles_header` is the field of the name".to_owned());
        }
        if self.roles.len() > PEOPLE_MAX {
            return Err(format!("more than {PEOPLE_MAX} `admin.proxy.roles`"));
        }
        match self.roles.keys().find(|name| !is_name(name)) {
            Some(name) => Err(format!("`{name}` in `admin.proxy.roles` cannot be a person's name")),
            None => Ok(()),
        }
    }

    pub(super) fn is_of(&self, peer: IpAddr) -> bool {
        TrustedProxies::new(self.addresses.clone(), ForwardedField::default()).trusts(peer.to_canonical())
    }

    /// Whom these fields name, coming from this peer.
    pub(super) fn vouches(&self, peer: IpAddr, fields: &HeaderMap) -> Vouched {
        let roles_field = self.roles_header.as_ref();
        let is_used =
            fields.contains_key(&self.header.0) || roles_field.is_some_and(|field| fields.contains_key(&field.0));
        match (is_used, self.is_of(peer)) {
            (false, _) => Vouched::Nobody,
            (true, false) => Vouched::Stranger,
            (true, true) => self.person(fields).unwrap_or(Vouched::Unclear),
        }
    }

    fn person(&self, fields: &HeaderMap) -> Option<Vouched> {
        let name = only(fields, &self.header)?;
        if !is_name(name) {
            return None;
        }
        let grants = match &self.roles_header {
            None => self.roles.get(name).cloned(),
            Some(field) => match only(fields, field) {
                // No field, or an empty one: a person without a role.
                None if fields.contains_key(&field.0) => return None,
                None | Some("") => None,
                Some(text) => Some(Grants::parse(text).ok()?),
            },
        };
        let name = name.to_owned();
        Some(match grants {
            Some(grants) => Vouched::Person(Principal { name, powers: Powers::Grants(grants), way: Way::Proxy }),
            None => Vouched::WithoutRole { name },
        })
    }
}

/// A field that stands there once.
fn only<'f>(fields: &'f HeaderMap, field: &FieldName) -> Option<&'f str> {
    let mut values = fields.get_all(&field.0).iter();
    let value = values.next()?;
    let text = std::str::from_utf8(value.as_bytes()).ok()?;
    values.next().is_none().then(|| text.trim())
}

/// None of the edge's own names, and nothing that a list or a log could take for more than one.
fn is_name(name: &str) -> bool {
    let is_free = name != EDGE_ITSELF && name != ANYBODY;
    (1..=ACTOR_BYTES_MAX).contains(&name.len()) && is_free && !name.chars().any(|it| it.is_control() || it == ',')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared_state::PersonRole;

    fn config(text: &str) -> ProxyConfig {
        let config: ProxyConfig = toml::from_str(text).unwrap();
        config.check().unwrap();
        config
    }

    fn fields(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    const PROXY: [u8; 4] = [10, 0, 0, 5];

    #[test]
    fn a_listed_proxy_is_believed_and_no_stranger() {
        let proxy =
            config("addresses = ['10.0.0.5']\nheader = 'X-Forwarded-User'\nroles.anna = { autumn = 'approver' }");
        let anna = fields(&[("x-forwarded-user", "anna")]);
        let Vouched::Person(person) = proxy.vouches(PROXY.into(), &anna) else { panic!("anna is known") };
        assert_eq!((person.name.as_str(), person.way), ("anna", Way::Proxy));
        let roles = |campaign| match &person.powers {
            Powers::Grants(grants) => grants.role_in(campaign),
            _ => None,
        };
        assert_eq!(
            (roles(Some("autumn")), roles(Some("spring")), roles(None)),
            (Some(PersonRole::Approver), None, None)
        );
        for stranger in [[10, 0, 0, 6], [127, 0, 0, 1]] {
            assert_eq!(proxy.vouches(stranger.into(), &anna), Vouched::Stranger, "{stranger:?}");
            assert_eq!(proxy.vouches(stranger.into(), &HeaderMap::new()), Vouched::Nobody);
        }
        assert_eq!(proxy.vouches("::ffff:10.0.0.5".parse().unwrap(), &HeaderMap::new()), Vouched::Nobody);
        let other = fields(&[("x-forwarded-user", "otto")]);
        assert_eq!(proxy.vouches(PROXY.into(), &other), Vouched::WithoutRole { name: "otto".to_owned() });
        let mut twice = anna.clone();
        twice.append("x-forwarded-user", "otto".parse().unwrap());
        for wrong in ["", "edge", "anybody", "anna,otto"] {
            assert_eq!(
                proxy.vouches(PROXY.into(), &fields(&[("x-forwarded-user", wrong)])),
                Vouched::Unclear,
                "{wrong}"
            );
        }
        assert_eq!(proxy.vouches(PROXY.into(), &twice), Vouched::Unclear);
    }

    #[test]
    fn roles_may_come_in_a_field_of_their_own() {
        let proxy = config("addresses = ['10.0.0.0/8']\nheader = 'x-user'\nroles_header = 'x-roles'");
        let of = |roles: &str| proxy.vouches(PROXY.into(), &fields(&[("x-user", "anna"), ("x-roles", roles)]));
        assert!(matches!(of("*=viewer"), Vouched::Person(_)));
        assert_eq!(of(""), Vouched::WithoutRole { name: "anna".to_owned() });
        assert_eq!((of("admin"), of("*=viewer,*")), (Vouched::Unclear, Vouched::Unclear));
        // Roles alone are a forgery's, too.
        let roles = fields(&[("x-roles", "*=operator")]);
        assert_eq!(proxy.vouches([192, 0, 2, 1].into(), &roles), Vouched::Stranger);
        assert_eq!(proxy.vouches(PROXY.into(), &roles), Vouched::Unclear);
    }

    #[test]
    fn what_cannot_be_right_is_refused_by_name() {
        for (text, reason) in [
            ("addresses = []\nheader = 'x-user'\nroles_header = 'x-roles'", "addresses` is empty"),
            ("addresses = ['10.0.0.1']\nheader = 'x-user'", "takes one of"),
            (
                "addresses = ['10.0.0.1']\nheader = 'x-user'\nroles_header = 'x-roles'\nroles.a = { '*' = 'viewer' }",
                "takes one of",
            ),
            ("addresses = ['10.0.0.1']\nheader = 'x-user'\nroles_header = 'X-User'", "is the field of the name"),
            (
                "addresses = ['10.0.0.1']\nheader = 'x-user'\nroles.edge = { '*' = 'viewer' }",
                "cannot be a person's name",
            ),
        ] {
            let config: ProxyConfig = toml::from_str(text).unwrap();
            assert!(config.check().unwrap_err().contains(reason), "{text}");
        }
        for name in ["authorization", "Cookie", "a b", ""] {
            let text = format!("addresses = ['10.0.0.1']\nheader = '{name}'");
            assert!(toml::from_str::<ProxyConfig>(&text).is_err(), "{name}");
        }
    }
}
