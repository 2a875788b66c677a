//! Links for people without an account: signed, read-only, over at a set time, showing the pictures of one selection and no other.
//!
//! ```text
//! ShareDesk::make ─▶ the log ─▶ ShareDesk::link ─▶ /shared/{id}?expires=…&kid=…&s=… ─▶ ShareDesk::opened ─▶ its pictures, by number
//! ```
//!
//! | module | owns |
//! | --- | --- |
//! | `link` | a link's address, and its signature |
//! | `comments` | what guests write, on this edge's device |
//!
//! The log says which pictures a link shows and that it was ended; the address says who may open it. Keys are those of `[signing]`: a
//! retired key's links are answered until it is removed, and a link that is copied anew bears the active one.
//!
//! Invariants: a picture is named by its place in the link, so no address of a link names another picture; the gate is asked behind
//! the last wait, as for readers; what was not drawn yet is not drawn for a guest.

mod comments;
mod link;

use std::sync::Arc;
use std::time::SystemTime;

use bildkante_shared::ids::MasterId;
use bytes::Bytes;
use prometheus::{IntCounterVec, IntGauge, Opts, Registry};

pub use self::comments::{
    COMMENTS_OF_LINK_MAX, COMMENTS_OF_PICTURE_MAX, Comment, CommentCount, CommentError, Comments, Draft,
    NAME_CHARS_MAX, Pin, Resolution, TEXT_CHARS_MAX,
};
pub use self::link::{PATH, ShareLink};
use crate::cache::unix_ms;
use crate::campaign::CatalogHandle;
use crate::fill::Fill;
use crate::governance::{Gate, ReviewDesk, audit};
use crate::resolve::{self, Want};
use crate::shared_state::{
    Change, Committed, EndShare, KeptShare, Log, LogError, Proposal, Share, ShareId, SharedPicture,
};
use crate::signing::{Grant, SignatureError, SigningHandle};
use crate::words::Format;

/// Width of a picture on a link's page, in px, where its slot goes so far.
const PICTURE_WIDTH_PX: u32 = 1_280;
/// Lifetimes of links.
pub const SHARE_DAYS_MAX: u64 = 90;

/// A link that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShareOrder {
    pub title: String,
    /// `campaign/slot`.
    pub slot: String,
    pub pictures: Vec<SharedPicture>,
    pub days: u64,
    pub why: String,
    /// A repeated order has the same.
    pub key: Option<String>,
}

/// Why a link is not made or ended.
#[derive(Debug, thiserror::Error)]
pub enum ShareError {
    #[error(
        "no key of this edge signs links: name a file in `[signing] keys_file`; `bildkante-edge sign --new-key` makes a key"
    )]
    NoKey,
    #[error("the system gives no random bits: {0}")]
    Random(String),
    #[error(transparent)]
    Log(#[from] LogError),
}

/// Why a link shows nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Closed {
    #[error("there is no such link")]
    NoLink,
    #[error("the link is not one that this edge signed: {0}")]
    Signature(SignatureError),
    #[error("the link is over")]
    Over,
}

impl Closed {
    /// Of the answer, and of the metric.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::NoLink => 404,
            Self::Over | Self::Signature(SignatureError::Expired) => 410,
            Self::Signature(_) => 403,
        }
    }
}

/// Why a picture of a link is not shown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unseen {
    #[error("the link has no such picture")]
    NoPicture,
    #[error("the picture is withheld, or not there any more")]
    Gone,
    #[error("the picture cannot be had now: {0}")]
    Unavailable(String),
}

/// A link that was opened.
#[derive(Debug, Clone)]
pub struct Opened {
    pub kept: Arc<KeptShare>,
    /// What opens it again: the signature of the address.
    pub query: String,
}

/// See the module's documentation. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ShareDesk {
    log: Arc<dyn Log>,
    signing: SigningHandle,
    catalog: CatalogHandle,
    reviews: ReviewDesk,
    fill: Arc<Fill>,
    gate: Gate,
    pub comments: Comments,
    base: String,
    answers: IntCounterVec,
    kept: IntGauge,
}

/// What links are made of.
#[derive(Debug)]
pub struct ShareParts {
    pub signing: SigningHandle,
    pub catalog: CatalogHandle,
    pub reviews: ReviewDesk,
    pub fill: Arc<Fill>,
    pub gate: Gate,
    pub comments: Comments,
    /// Scheme and host by which guests reach `/shared/`; empty: those by which the page is read that shows a link.
    pub base: String,
}

impl ShareDesk {
    /// # Errors
    /// When a metric of the same name is registered already.
    pub fn new(parts: ShareParts, registry: &Registry) -> prometheus::Result<Self> {
        let ShareParts { signing, catalog, reviews, fill, gate, comments, base } = parts;
        let base = base.trim_end_matches('/').to_owned();
        let answers = IntCounterVec::new(
            Opts::new("bildkante_edge_shared_answers_total", "Answers to people with a link, by what they were given"),
            &["outcome"],
        )?;
        let kept = IntGauge::new("bildkante_edge_share_comments", "Comments of people with a link that are kept here")?;
        registry.register(Box::new(answers.clone()))?;
        registry.register(Box::new(kept.clone()))?;
        for outcome in ["page", "picture", "comment", "refused"] {
            answers.with_label_values(&[outcome]);
        }
        let log = Arc::clone(reviews.log());
        Ok(Self { log, signing, catalog, reviews, fill, gate, comments, base, answers, kept })
    }

    /// Counts an answer to a guest.
    pub fn answered(&self, outcome: &'static str) {
        self.answers.with_label_values(&[outcome]).inc();
    }

    /// Brings the gauge up to date.
    pub fn measure(&self) {
        self.kept.set(i64::try_from(self.comments.len()).unwrap_or(i64::MAX));
    }

    /// Makes a link.
    ///
    /// # Errors
    /// When no key signs, or the log does not take it.
    pub async fn make(&self, who: &str, order: ShareOrder) -> Result<Committed, ShareError> {
        let ShareOrder { title, slot, pictures, days, why, key } = order;
        if self.signing.seal(None).is_none() {
            return Err(ShareError::NoKey);
        }
        let mut bits = [0; 8];
        getrandom::fill(&mut bits).map_err(|error| ShareError::Random(error.to_string()))?;
        // Whole seconds: that is what its address says.
        let expires_unix_ms = (now_unix_ms() / 1_000 + days * 86_400) * 1_000;
        let share = Share { id: ShareId::of(u64::from_le_bytes(bits)), title, slot, pictures, expires_unix_ms };
        self.propose(who, "share", (Change::Share(share), why, key)).await
    }

    /// Ends a link, on every edge.
    ///
    /// # Errors
    /// When there is none, or the log does not take it.
    pub async fn end(&self, who: &str, id: ShareId, why: String, key: Option<String>) -> Result<Committed, ShareError> {
        self.propose(who, "share-end", (Change::EndShare(EndShare { id }), why, key)).await
    }

    async fn propose(
        &self,
        who: &str,
        what: &'static str,
        (change, why, key): (Change, String, Option<String>),
    ) -> Result<Committed, ShareError> {
        let proposal = Proposal { change, who: who.to_owned(), why, key, edge: None };
        Ok(audit::propose(&self.log, what, proposal).await?)
    }

    /// Links that were not ended and are not over, the oldest first, behind an entry.
    #[must_use]
    pub fn in_force(&self, after: u64, count_max: usize) -> Vec<Arc<KeptShare>> {
        let now = now_unix_ms();
        let mut kept = self.log.published().load().shares().behind(after, usize::MAX);
        kept.retain(|kept| !kept.is_over(now));
        kept.truncate(count_max);
        kept
    }

    /// Takes a comment about a picture of a link, by its place.
    ///
    /// # Errors
    /// When there is no room, or the device refuses.
    pub async fn comment(&self, share: &Share, place: usize, draft: Draft) -> Result<Comment, CommentError> {
        let (log, now) = (Arc::clone(&self.log), now_unix_ms());
        let is_over = move |id| log.published().load().shares().get(id).is_none_or(|kept| kept.is_over(now));
        self.comments.add(share, place, draft, now, is_over).await
    }

    #[must_use]
    pub fn one(&self, id: ShareId) -> Option<Arc<KeptShare>> {
        self.log.published().load().shares().get(id).cloned()
    }

    /// Whether links can be made at all.
    #[must_use]
    pub fn has_key(&self) -> bool {
        self.signing.seal(None).is_some()
    }

    /// The address of a link, signed by the active key; `None` where none signs. A path where no host is configured.
    #[must_use]
    pub fn link(&self, share: &Share) -> Option<String> {
        let seal = self.signing.seal_until(Some(share.expires_unix_ms / 1_000))?;
        Some(format!("{}{}", self.base, ShareLink::signed(share.id, &seal)?.address()))
    }

    /// The link of an address: its id and the query.
    ///
    /// # Errors
    /// Why it shows nothing.
    pub fn opened(&self, id: &str, query: Option<&str>) -> Result<Opened, Closed> {
        let link = ShareLink::parse(id, query).ok_or(Closed::NoLink)?;
        match self.signing.check(&link) {
            Ok(Grant::Signed { .. }) => {}
            Ok(Grant::Public | Grant::Operator) => return Err(Closed::NoLink),
            Err(error) => return Err(Closed::Signature(error)),
        }
        let kept = self.one(link.id).filter(|kept| !kept.is_over(now_unix_ms())).ok_or(Closed::Over)?;
        Ok(Opened { kept, query: link.query() })
    }

    /// What a picture of a link is, as far as it may be shown now.
    ///
    /// # Errors
    /// Why it is not shown.
    pub fn wanted(&self, of: &SharedPicture) -> Result<(Want, Option<MasterId>), Unseen> {
        let (want, master) = match of.case {
            Some(id) => {
                let shown = self.reviews.case(id).filter(|shown| shown.variant == of.picture).ok_or(Unseen::Gone)?;
                let want = self.reviews.want(&shown, PICTURE_WIDTH_PX, Format::Webp).map_err(|_| Unseen::Gone)?;
                (want, Some(shown.case.master))
            }
            None => (self.public(&of.picture).ok_or(Unseen::Gone)?, None),
        };
        self.gate.would_clear(&want, master).map_err(|_| Unseen::Gone)?;
        Ok((want, master))
    }

    /// A picture that people decide nothing about, where it is drawn: a guest has none made.
    fn public(&self, picture: &str) -> Option<Want> {
        let cut = format!("w={PICTURE_WIDTH_PX}&fm={}", Format::Webp.as_str());
        let want = resolve::want_named(&self.catalog.load(), picture, &cut).ok()?;
        (!want.variant.review.is_required() && self.fill.is_drawn(&want)).then_some(want)
    }

    /// The file of a picture: WebP.
    ///
    /// # Errors
    /// Why it is not shown.
    pub async fn picture(&self, of: &SharedPicture) -> Result<Bytes, Unseen> {
        let (want, master) = self.wanted(of)?;
        let told = |error: String| Unseen::Unavailable(error);
        let ticket = self.fill.settle(&want).map_err(|error| told(error.to_string()))?;
        let filled = ticket.landed().await.map_err(|error| told(error.to_string()))?;
        let filled = filled.map_err(|error| told(error.to_string()))?;
        // It may have joined the making of another one.
        if master.is_some_and(|master| master != filled.rendition.master) {
            return Err(told("another picture of this recipe is being made".to_owned()));
        }
        self.gate.clear(&want, Some(filled.rendition.master)).map_err(|_| Unseen::Gone)?;
        Ok(Bytes::clone(&filled.rendition.body))
    }
}

fn now_unix_ms() -> u64 {
    unix_ms(SystemTime::now())
}
