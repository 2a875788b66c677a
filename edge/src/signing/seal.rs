//! Signing the URLs of a page that this edge builds itself.

use std::sync::Arc;

use super::SigningKeys;
use crate::request::{ImageRequest, Signable, Target};

/// Signs URLs with the active key of one moment, all with one end.
#[derive(Debug, Clone)]
pub struct Seal {
    keys: Arc<SigningKeys>,
    key_id: String,
    expires_s: Option<u64>,
    now_s: u64,
}

impl Seal {
    /// `None` where no key signs, or what it signed would have ended already.
    #[must_use]
    pub fn new(keys: Arc<SigningKeys>, now_s: u64, expires_s: Option<u64>) -> Option<Self> {
        let key_id = keys.active(now_s)?.0.to_owned();
        expires_s.is_none_or(|expires_s| expires_s > now_s).then_some(Self { keys, key_id, expires_s, now_s })
    }

    /// The key that signs.
    #[must_use]
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// When what it signs ends, in seconds since 1970: by its own end or the key's.
    #[must_use]
    pub fn ends_s(&self) -> Option<u64> {
        let key_ends_s = self.keys.active(self.now_s).and_then(|(_, ends_s)| ends_s);
        [self.expires_s, key_ends_s].into_iter().flatten().min()
    }

    /// The same request with a signature; `None` where the key has ended since.
    #[must_use]
    pub fn sign<'r, R: Signable<'r>>(&self, request: &R) -> Option<R> {
        self.keys.sign(request, Some(&self.key_id), self.expires_s, self.now_s).ok()
    }

    /// An absolute URL of an image with its signature; what is no URL of an image stays as it is.
    #[must_use]
    pub fn signed(&self, url: &str) -> String {
        let Target { path, query } = Target::from(url);
        let origin = url.find(path).map_or("", |start| &url[..start]);
        // The page names axes and parameters only, and an axis may have the name of a tracking parameter.
        let nothing = |_: &str, _: &str| false;
        let signed = ImageRequest::parse(path, query, &nothing)
            .ok()
            .and_then(|request| self.keys.sign(&request, Some(&self.key_id), self.expires_s, self.now_s).ok());
        signed.map_or_else(|| url.to_owned(), |signed| format!("{origin}{}", signed.canonical_with_slug()))
    }
}
