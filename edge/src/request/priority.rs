//! `Priority` of a request (RFC 9218 §4): how urgent the client says the image is.

use bildkante_shared::urgency::Urgency;
use http::HeaderName;

pub const PRIORITY: HeaderName = HeaderName::from_static("priority");

/// `u` of the field, a dictionary member (§4.1). Any other text changes nothing.
#[must_use]
pub(crate) fn requested_urgency(field: &str) -> Option<Urgency> {
    let members = field.split(',').map(str::trim);
    let value = members.filter_map(|member| member.strip_prefix("u=")).next_back()?;
    Urgency::new(value.split(';').next()?.trim().parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_u_counts_and_what_is_none_changes_nothing() {
        let urgency = |field| requested_urgency(field).map(Urgency::get);
        for (field, expected) in [
            ("u=5", Some(5)),
            ("i, u=2", Some(2)),
            ("u=2, u=6", Some(6)),
            ("u=3;x=1, i", Some(3)),
            ("u=8", None),
            ("u=-1", None),
            ("U=1", None),
            ("i", None),
            ("", None),
        ] {
            assert_eq!(urgency(field), expected, "{field}");
        }
    }
}
