//! Who asks, and what that one may do.
//!
//! Invariant: what belongs to no campaign is for roles that hold in all of them.

use std::borrow::Cow;

use super::body::{Fault, fault};
use super::routes::{Needs, Reach};
use super::token::{TokenConfig, TokenScope};
use crate::shared_state::{Grants, KeyId, PersonRole};

/// The name in the audit where no key is asked for.
pub(super) const ANYBODY: &str = "anybody";

/// See the module's documentation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Principal {
    pub(super) name: String,
    pub(super) powers: Powers,
    pub(super) way: Way,
}

/// What it rests on that somebody may do something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Powers {
    /// There are neither tokens nor keys, and the client is on this machine: it sees everything.
    Reading,
    Scopes(TokenConfig),
    Grants(Grants),
}

/// How somebody came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Way {
    /// Without any proof.
    Open,
    Token,
    Key(KeyId),
    /// A proxy vouches for the name.
    Proxy,
    /// With a cookie. What pages send beside it proves that they are ours.
    Session {
        csrf: String,
    },
}

/// Why somebody may not do something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Shortfall {
    Scope(TokenScope),
    Role {
        role: PersonRole,
        where_to: Cow<'static, str>,
    },
    /// It is between edges, and no role opens it.
    EdgesOnly,
    /// Reading is open, and this is a change.
    Change,
}

impl Principal {
    pub(super) fn anybody() -> Self {
        Self { name: ANYBODY.to_owned(), powers: Powers::Reading, way: Way::Open }
    }

    /// Whether a route is open at all. Where it reaches into one campaign, that campaign is checked when it is known:
    /// [`Self::demand`].
    pub(super) fn meets(&self, needs: Needs) -> Result<(), Shortfall> {
        let role = || needs.role.ok_or(Shortfall::EdgesOnly);
        match &self.powers {
            Powers::Reading if needs.role == Some(PersonRole::Viewer) => Ok(()),
            Powers::Reading => Err(Shortfall::Change),
            Powers::Scopes(token) => match needs.scope {
                Some(scope) if token.scopes.contains(&scope) => Ok(()),
                Some(scope) => Err(Shortfall::Scope(scope)),
                None => enough(token.role(), role()?, Cow::Borrowed("this edge")),
            },
            Powers::Grants(grants) => match needs.reach {
                Reach::Campaign => enough(grants.highest(), role()?, Cow::Borrowed("any campaign")),
                Reach::Edge => enough(grants.role_in(None), role()?, Cow::Borrowed("all campaigns")),
            },
        }
    }

    /// Whether a role is held in a campaign; `None`: in what belongs to no campaign, or to several.
    ///
    /// # Errors
    /// 403 that names role and campaign.
    pub(crate) fn demand(&self, role: PersonRole, campaign: Option<&str>) -> Result<(), Fault> {
        // A token holds on the whole edge, and the route was opened by its scope.
        let Powers::Grants(grants) = &self.powers else { return Ok(()) };
        if grants.role_in(campaign) >= Some(role) {
            return Ok(());
        }
        let where_to = match campaign {
            Some(campaign) => Cow::Owned(format!("campaign `{}`", campaign.chars().take(60).collect::<String>())),
            None => Cow::Borrowed("all campaigns, which this reaches into"),
        };
        Err(fault(403, "forbidden", "Forbidden", Shortfall::Role { role, where_to }.detail()))
    }

    /// Whether what belongs to a campaign, or to none, is shown.
    pub(crate) fn sees(&self, campaign: Option<&str>) -> bool {
        match &self.powers {
            Powers::Grants(grants) => grants.role_in(campaign).is_some(),
            Powers::Reading | Powers::Scopes(_) => true,
        }
    }

    /// The role in a campaign with which a person's forms are taken; `None` for programs, which send none.
    pub(super) fn role_in(&self, campaign: &str) -> Option<PersonRole> {
        match (&self.powers, &self.way) {
            (Powers::Grants(grants), Way::Session { .. } | Way::Proxy) => grants.role_in(Some(campaign)),
            (Powers::Scopes(token), Way::Session { .. }) => token.role(),
            _ => None,
        }
    }

    /// What a form of the person's session carries.
    pub(super) fn csrf(&self) -> Option<&str> {
        match &self.way {
            Way::Session { csrf } => Some(csrf),
            _ => None,
        }
    }

    /// What stands in audits.
    #[must_use]
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The name of a reader who came in by a session, a key or a proxy.
    pub(super) fn known_name(&self) -> Option<&str> {
        (self.way != Way::Open).then_some(self.name.as_str())
    }

    /// For pages and `/admin/v1/me`.
    pub(super) fn roles(&self) -> Option<&Grants> {
        match &self.powers {
            Powers::Grants(grants) => Some(grants),
            Powers::Reading | Powers::Scopes(_) => None,
        }
    }
}

impl Way {
    pub(super) const fn as_str(&self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Token => "token",
            Self::Key(_) => "key",
            Self::Proxy => "proxy",
            Self::Session { .. } => "session",
        }
    }
}

impl Shortfall {
    pub(super) fn detail(&self) -> String {
        match self {
            Self::Scope(scope) => format!("this token lacks the scope `{}`", scope.as_str()),
            Self::Role { role, where_to } => format!("this takes the role `{}` in {where_to}", role.as_str()),
            Self::EdgesOnly => "edges ask this of each other, with a token of the scope `state`".to_owned(),
            Self::Change => {
                "nothing is changed without a key or a token: `bildkante-edge key add --config` gives the first key, \
                 `bildkante-edge token` prints a token whose hash belongs into `[admin] tokens`"
                    .to_owned()
            }
        }
    }
}

fn enough(held: Option<PersonRole>, role: PersonRole, where_to: Cow<'static, str>) -> Result<(), Shortfall> {
    if held >= Some(role) { Ok(()) } else { Err(Shortfall::Role { role, where_to }) }
}
