//! What a request that may not do something is answered with (RFC 6750 §3, RFC 9457).

use std::borrow::Cow;

use http::header::WWW_AUTHENTICATE;
use http::{HeaderValue, Method, Request, Response};

use super::body::{Fault, fault};
use super::gatekeeper::Denial;
use super::pages;
use super::principal::Shortfall;
use crate::service::Body;

impl Denial {
    pub(super) const fn status(&self) -> u16 {
        match self {
            Self::NoProof | Self::UnknownKey | Self::Expired | Self::NoSession => 401,
            Self::NotLocal
            | Self::Stranger
            | Self::Unclear
            | Self::WithoutRole { .. }
            | Self::Forgeable
            | Self::Short(_) => 403,
        }
    }

    pub(super) fn detail(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::NoProof => "send `Authorization: Bearer` with a key or a token",
            Self::UnknownKey => "this token is not known, and there is no such key",
            Self::Expired => "this key has expired: an operator gives another one",
            Self::NoSession => "the session is over: enter the key again at /admin/login",
            Self::NotLocal => {
                "there are no keys yet, and until there are this is open on the edge's own machine alone: \
                 `bildkante-edge key add --config` gives the first one"
            }
            Self::Stranger => "the field that names people is taken from `admin.proxy.addresses` alone",
            Self::Unclear => "the proxy does not name one person, or names roles that there are not",
            Self::Forgeable => {
                "a browser sent this, and not from a page of this edge: send `X-CSRF-Token` with what /admin/v1/me tells"
            }
            Self::WithoutRole { name } => {
                let shown: String = name.chars().take(60).collect();
                return Cow::Owned(format!("`{shown}` has no role here"));
            }
            Self::Short(shortfall) => return Cow::Owned(shortfall.detail()),
        })
    }

    fn challenge(&self) -> Option<String> {
        Some(match self {
            Self::NoProof => "Bearer realm=\"bildkante\"".to_owned(),
            Self::UnknownKey | Self::Expired | Self::NoSession => {
                "Bearer realm=\"bildkante\", error=\"invalid_token\"".to_owned()
            }
            Self::Short(Shortfall::Scope(scope)) => {
                let scope = scope.as_str();
                format!("Bearer realm=\"bildkante\", error=\"insufficient_scope\", scope=\"{scope}\"")
            }
            _ => return None,
        })
    }

    fn problem(&self) -> Fault {
        match self.status() {
            401 => fault(401, "unauthorized", "Unauthorized", self.detail()),
            status => fault(status, "forbidden", "Forbidden", self.detail()),
        }
    }
}

pub(super) fn response(method: &Method, denial: &Denial) -> Response<Body> {
    challenging(super::problem(method, &denial.problem()), denial)
}

/// As a page, for browsers that open one or send a form of one.
pub(super) fn of_page<B>(head: &Request<B>, denial: &Denial, back: &str) -> Response<Body> {
    challenging(pages::troubled(head, &denial.problem(), back), denial)
}

fn challenging(mut response: Response<Body>, denial: &Denial) -> Response<Body> {
    if let Some(challenge) = denial.challenge().and_then(|challenge| HeaderValue::from_str(&challenge).ok()) {
        response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    }
    response
}

/// A picture of campaigns in which the one who asks has no role.
pub(super) fn foreign_picture() -> Fault {
    fault(403, "forbidden", "Forbidden", "this picture is of a campaign in which you have no role")
}
