//! Who asks: by whose authority, and what else than the URL the answer may follow from.
//!
//! Invariant: an asker is asked once for each thing at the most, and only for what the URL leaves to it, so that what is not
//! among the answer's factors cannot change the answer.

use std::borrow::Cow;

use bildkante_shared::urgency::Urgency;
use http::HeaderMap;
use http::header::ACCEPT;

use crate::fields::list;
use crate::request::{ClientHints, DataUse, ImageRequest, PRIORITY, requested_urgency};
use crate::signing::{Grant, SignatureError, SigningHandle};

/// What is known of who asks, beside the URL.
pub trait Asker {
    /// By whose authority a request is made.
    ///
    /// # Errors
    /// When the request is signed and the signature is of no use.
    fn grant(&self, request: &ImageRequest<'_>) -> Result<Grant, SignatureError>;

    /// The formats the asker takes, as an `Accept` field. Asked where the URL leaves the format open.
    fn accept(&self) -> Option<Cow<'_, str>>;

    /// How wide a picture the asker can use. Asked where the URL says `w=auto`.
    fn hints(&self) -> ClientHints;

    /// Whether the asker saves data. Asked where the URL says `save-data=auto`.
    fn data_use(&self) -> DataUse;

    /// How urgent the asker says the image is. It is never made more urgent than its slot is.
    fn urgency(&self) -> Option<Urgency>;
}

/// The client of a request.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    pub headers: &'a HeaderMap,
    pub signing: &'a SigningHandle,
}

impl Asker for Reader<'_> {
    fn grant(&self, request: &ImageRequest<'_>) -> Result<Grant, SignatureError> {
        self.signing.check(request)
    }

    fn accept(&self) -> Option<Cow<'_, str>> {
        list(self.headers, &ACCEPT)
    }

    fn hints(&self) -> ClientHints {
        ClientHints::read(self.headers)
    }

    fn data_use(&self) -> DataUse {
        DataUse::read(self.headers)
    }

    fn urgency(&self) -> Option<Urgency> {
        let asked = list(self.headers, &PRIORITY).as_deref().and_then(requested_urgency);
        asked.map(|asked| asked.min(Urgency::LAST_OF_READERS))
    }
}

/// The edge's own work: warming, purging, the preview. No campaign is closed to it, and it yields to every reader.
#[derive(Debug, Clone, Copy)]
pub struct Operator;

impl Asker for Operator {
    fn grant(&self, _: &ImageRequest<'_>) -> Result<Grant, SignatureError> {
        Ok(Grant::Operator)
    }

    fn accept(&self) -> Option<Cow<'_, str>> {
        None
    }

    fn hints(&self) -> ClientHints {
        ClientHints::default()
    }

    fn data_use(&self) -> DataUse {
        DataUse::Usual
    }

    fn urgency(&self) -> Option<Urgency> {
        Some(Urgency::LEAST)
    }
}

/// A client as a command line describes it: its `Accept`, and what verifies its signature.
#[derive(Debug, Clone, Copy)]
pub struct Described<'a, V> {
    pub accept: Option<&'a str>,
    pub verify: V,
}

impl<V: Fn(&ImageRequest<'_>) -> Result<Grant, SignatureError>> Asker for Described<'_, V> {
    fn grant(&self, request: &ImageRequest<'_>) -> Result<Grant, SignatureError> {
        (self.verify)(request)
    }

    fn accept(&self) -> Option<Cow<'_, str>> {
        self.accept.map(Cow::Borrowed)
    }

    fn hints(&self) -> ClientHints {
        ClientHints::default()
    }

    fn data_use(&self) -> DataUse {
        DataUse::Usual
    }

    fn urgency(&self) -> Option<Urgency> {
        None
    }
}
