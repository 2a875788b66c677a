//! What a campaign's URLs need before they are answered.

use std::time::{Duration, UNIX_EPOCH};

use crate::campaign::Campaign;
use crate::campaign::manifest::Signing;
use crate::signing::{Seal, SigningHandle};

/// How long the page's own pictures of a campaign that answers signed URLs only can be fetched, at the least.
const OWN_URLS_H: u64 = 1;

/// See the module's documentation.
#[derive(Debug)]
pub(super) enum Seals {
    NotNeeded,
    /// One whose URLs end soon, for the page's own pictures, and one for what is copied from it.
    Keyed {
        own: Seal,
        copied: Seal,
    },
    /// Signed URLs are wanted, and no key signs.
    NoKey,
}

/// What is to be known of the URLs of a campaign that answers signed ones only.
#[derive(Debug)]
pub(super) enum Notice {
    /// What is copied is signed by this key and ends at this date, or never.
    Signed {
        key_id: String,
        ends: Option<String>,
    },
    NoKey,
}

impl Seals {
    pub(super) fn of(campaign: &Campaign, signing: &SigningHandle, copied_days: u32) -> Self {
        if campaign.policy.signing != Signing::Required {
            return Self::NotNeeded;
        }
        let copied_h = (copied_days > 0).then(|| u64::from(copied_days) * 24);
        match (signing.seal(Some(OWN_URLS_H)), signing.seal(copied_h)) {
            (Some(own), Some(copied)) => Self::Keyed { own, copied },
            _ => Self::NoKey,
        }
    }

    pub(super) const fn own(&self) -> Option<&Seal> {
        match self {
            Self::Keyed { own, .. } => Some(own),
            Self::NotNeeded | Self::NoKey => None,
        }
    }

    pub(super) const fn copied(&self) -> Option<&Seal> {
        match self {
            Self::Keyed { copied, .. } => Some(copied),
            Self::NotNeeded | Self::NoKey => None,
        }
    }

    /// Whether URLs of the campaign can be shown at all.
    pub(super) const fn are_usable(&self) -> bool {
        !matches!(self, Self::NoKey)
    }

    pub(super) fn notice(&self) -> Option<Notice> {
        match self {
            Self::NotNeeded => None,
            Self::Keyed { copied, .. } => {
                let ends = copied.ends_s().map(|ends_s| UNIX_EPOCH + Duration::from_secs(ends_s));
                Some(Notice::Signed { key_id: copied.key_id().to_owned(), ends: ends.map(httpdate::fmt_http_date) })
            }
            Self::NoKey => Some(Notice::NoKey),
        }
    }
}
