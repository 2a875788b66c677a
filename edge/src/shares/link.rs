//! The address of a link: `/shared/{id}?expires=…&kid=…&s=…`.
//!
//! The signature covers id, end and key. Its text begins with `/shared/`, as no other signed address does, so a signature of one kind is
//! none of another. A page's language may stand beside it; anything else is no link.

use std::borrow::Cow;

use crate::request::{Signable, SignatureAsk};
use crate::shared_state::ShareId;
use crate::signing::Seal;

/// Where links are answered.
pub const PATH: &str = "/shared/";
/// Longest part of a link's query.
const PART_BYTES_MAX: usize = 128;
/// What a page's address may say beside its signature.
const LANGUAGE: &str = "_lang";

/// See the module's documentation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShareLink<'a> {
    pub id: ShareId,
    signature: Option<SignatureAsk<'a>>,
}

impl<'a> ShareLink<'a> {
    /// What an address says; `None` where it is none of a link.
    #[must_use]
    pub fn parse(id: &str, query: Option<&'a str>) -> Option<Self> {
        let (mut expires_s, mut key_id, mut signature) = (None, None, None);
        for pair in query?.split('&') {
            let (name, value) = pair.split_once('=')?;
            if value.is_empty() || value.len() > PART_BYTES_MAX {
                return None;
            }
            let place = match name {
                "expires" => &mut expires_s,
                "kid" => &mut key_id,
                "s" => &mut signature,
                LANGUAGE => continue,
                _ => return None,
            };
            if place.replace(value).is_some() {
                return None;
            }
        }
        // One spelling: no sign and no zero before the digits.
        let expires: u64 = expires_s?.parse().ok()?;
        let is_plain = Some(expires.to_string().as_str()) == expires_s;
        let (key_id, signature) = (Cow::Borrowed(key_id?), Cow::Borrowed(signature?));
        let signature = SignatureAsk { key_id, expires_s: is_plain.then_some(expires), signature };
        is_plain.then_some(Self { id: id.parse().ok()?, signature: Some(signature) })
    }

    /// A link with the signature of this seal; `None` where its key has ended.
    pub(super) fn signed(id: ShareId, seal: &Seal) -> Option<ShareLink<'static>> {
        seal.sign(&ShareLink { id, signature: None })
    }

    /// What opens it again.
    #[must_use]
    pub fn query(&self) -> String {
        let Some(ask) = &self.signature else { return String::new() };
        format!("{}&s={}", covered(ask), ask.signature)
    }

    /// Path and query.
    pub(super) fn address(&self) -> String {
        format!("{PATH}{}?{}", self.id, self.query())
    }
}

impl<'a> Signable<'a> for ShareLink<'a> {
    fn signature(&self) -> Option<&SignatureAsk<'a>> {
        self.signature.as_ref()
    }

    fn with_signature(&self, signature: SignatureAsk<'a>) -> Self {
        Self { id: self.id, signature: Some(signature) }
    }

    fn signed_text(&self) -> String {
        let covered = self.signature.as_ref().map(covered).unwrap_or_default();
        format!("{PATH}{}?{covered}", self.id)
    }
}

fn covered(ask: &SignatureAsk<'_>) -> String {
    format!("expires={}&kid={}", ask.expires_s.unwrap_or_default(), ask.key_id)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::signing::{SignatureError, SigningKeys, new_key_entry};

    fn keys() -> SigningKeys {
        SigningKeys::parse(&new_key_entry("one").unwrap()).unwrap()
    }

    #[test]
    fn a_link_is_good_for_itself_until_its_end() {
        let keys = Arc::new(keys());
        let seal = Seal::new(Arc::clone(&keys), 100, Some(200)).unwrap();
        let address = ShareLink::signed(ShareId::of(7), &seal).unwrap().address();
        let (path, query) = address.split_once('?').unwrap();
        let check = |id: &str, query: &str, now_s| {
            ShareLink::parse(id, Some(query)).map(|link| keys.verify(&link, now_s).map(drop))
        };
        let id = path.strip_prefix(PATH).unwrap();
        assert_eq!(check(id, query, 199), Some(Ok(())));
        assert_eq!(check(id, &format!("_lang=de&{query}"), 199), Some(Ok(())));
        assert_eq!(check(id, query, 200), Some(Err(SignatureError::Expired)));
        assert_eq!(check("0000000000000008", query, 199), Some(Err(SignatureError::Wrong)));
        assert_eq!(check(id, &query.replace("expires=200", "expires=900"), 199), Some(Err(SignatureError::Wrong)));
        assert_eq!(check(id, &query.replace("kid=one", "kid=two"), 199), Some(Err(SignatureError::UnknownKey)));
        for other in
            ["", "expires=200", "a=b", &format!("{query}&x=1"), &format!("{query}&s=1"), &query.replace("200", "0200")]
        {
            assert_eq!(check(id, other, 199), None, "{other}");
        }
    }

    #[test]
    fn any_address_is_read_or_none() {
        use proptest::prelude::*;
        proptest!(|(id in ".{0,20}", query in ".{0,80}")| {
            if let Some(link) = ShareLink::parse(&id, Some(&query)) {
                let again = link.query();
                prop_assert_eq!(ShareLink::parse(&link.id.to_string(), Some(&again)), Some(link.clone()));
            }
        });
    }
}
