//! `/admin/v1/imports`: pictures that may become a variant's. What is posted is a candidate and serves nothing; a person's
//! `bildkante-edge import --candidate` makes it the variant's picture.
//!
//! The body is the file itself; what is said of it stands in the query. Invariants: a candidate is decoded and checked like
//! an import before it is stored, on a thread of its own, within the memory that all decoding jobs share.

use std::borrow::Cow;
use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bildkante_shared::import::DigitalSource;
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Body;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::body::{Fault, fault, wrong};
use super::dropped::ARRIVING_MAX;
use super::uploads::Uploads;
use super::{Principal, campaign_of};
use crate::cache::unix_ms;
use crate::campaign::{
    Candidate, CandidateError, Candidates, CatalogSources, ImportOrder, ImportRunError, Statements, examine,
};
use crate::governance::audit::{self, Change};
use crate::render::{DecodeMemory, MemoryShare, ORIGINAL_FILE_BYTES_MAX, memory_for};
use crate::shared_state::PersonRole;

/// Most files that are held in memory at one time.
const FILES_MAX: usize = 4;
/// Longest a file waits for others.
const TURN_WAIT: Duration = Duration::from_secs(20);
/// Longest a file may take to arrive.
const DEADLINE: Duration = Duration::from_secs(60);
/// Longest variant or statement.
const TEXT_BYTES_MAX: usize = 2_048;
const FIELDS: [&str; 8] = ["variant", "source", "origin", "creator", "credit", "copyright", "license", "why"];

/// Takes candidates in, lists them and forgets them.
#[derive(Debug)]
pub struct ImportDesk {
    pub(super) sources: CatalogSources,
    candidates: Candidates,
    pub(super) uploads: Uploads,
    /// Files of forms on their way into memory.
    pub(super) arriving: Semaphore,
    /// Of files that are held in memory.
    turns: Arc<Semaphore>,
    memory: DecodeMemory,
}

impl ImportDesk {
    #[must_use]
    pub fn new(sources: CatalogSources, data_dir: &Path, memory: DecodeMemory) -> Self {
        let (candidates, uploads) = (Candidates::new(data_dir), Uploads::new(data_dir));
        let (arriving, turns) = (Semaphore::new(ARRIVING_MAX), Arc::new(Semaphore::new(FILES_MAX)));
        Self { sources, candidates, uploads, arriving, turns, memory }
    }

    /// Leave to hold one file in memory.
    pub(super) async fn turn(&self) -> Result<OwnedSemaphorePermit, Fault> {
        let turn = tokio::time::timeout(TURN_WAIT, Arc::clone(&self.turns).acquire_owned()).await;
        turn.ok().and_then(Result::ok).ok_or_else(|| busy("other pictures are being read: try again in a moment"))
    }

    /// The memory that decoding this file takes. Blocks while others have it; for threads that may.
    pub(super) fn share(&self, file: &[u8]) -> Result<MemoryShare, Fault> {
        let bytes = memory_for(file).map_err(|error| refused(error.into()))?;
        Handle::current().block_on(self.memory.share(bytes)).map_err(|error| busy(&error.to_string()))
    }

    /// The candidate, and whether it is new: not what an order with the same key has stored.
    pub(super) async fn add<B>(
        self: &Arc<Self>,
        (who, key): (&Principal, Option<String>),
        query: Option<&str>,
        body: B,
    ) -> Result<(Value, bool), Fault>
    where
        B: Body,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let asked = ImportQuery::parse(query.unwrap_or_default())?;
        who.demand(PersonRole::Reviewer, campaign_of(&asked.variant))?;
        // It travels into the work, which goes on when the client hangs up.
        let turn = self.turn().await?;
        let file = read(body).await?;
        let (desk, who) = (Arc::clone(self), who.clone());
        let work = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let _share = desk.share(&file)?;
            desk.store(asked, &file, (&who, key))
        });
        let stored =
            work.await.unwrap_or_else(|_| Err(fault(500, "import", "Internal error", "the picture broke its decoder")));
        stored.map(|(candidate, is_new)| (shown(&candidate), is_new))
    }

    /// Blocks for as long as the picture takes to decode and to reach the device.
    pub(super) fn store(
        &self,
        asked: ImportQuery,
        bytes: &[u8],
        (who, key): (&Principal, Option<String>),
    ) -> Result<(Candidate, bool), Fault> {
        let ImportQuery { variant, source, statements, why } = asked;
        let order = ImportOrder { variant: &variant, bytes, source, statements };
        let examined = examine(&self.sources, &order).map_err(refused)?;
        // What the words meant, not how they were spelt.
        who.demand(PersonRole::Reviewer, campaign_of(&examined.variant))?;
        let candidate = Candidate {
            id: examined.import.recipe.id(),
            variant: examined.variant,
            recipe: (*examined.import.recipe).clone(),
            width_px: examined.import.width_px,
            height_px: examined.import.height_px,
            bytes: bytes.len() as u64,
            by: who.name().to_owned(),
            at_unix_ms: unix_ms(SystemTime::now()),
            key,
        };
        let listed = candidate.key.as_ref().map(|_| self.candidates.list()).unwrap_or_default();
        if let Some(known) = listed.iter().find(|known| known.key == candidate.key) {
            if (known.id, &known.variant) != (candidate.id, &candidate.variant) {
                let detail = format!("an order with this key stored candidate {}, which is another one", known.id);
                return Err(fault(422, "key-reused", "Key reused", detail));
            }
            return Ok((known.clone(), false));
        }
        self.candidates.add(&candidate, examined.format, bytes).map_err(unstored)?;
        let subject = format!("{} for {}", candidate.id, candidate.variant);
        audit::note(&Change {
            who: &candidate.by,
            what: "import-candidate",
            subject: &subject,
            why: &why,
            outcome: "stored",
        });
        Ok((candidate, true))
    }

    pub(super) async fn list(self: &Arc<Self>, who: &Principal) -> Result<Value, Fault> {
        let desk = Arc::clone(self);
        let listed = tokio::task::spawn_blocking(move || desk.candidates.list()).await.map_err(|_| broken())?;
        let seen = listed.iter().filter(|candidate| who.sees(campaign_of(&candidate.variant)));
        let listed: Vec<Value> = seen.map(shown).collect();
        Ok(json!({ "candidates": listed }))
    }

    /// Deleted and audited in one task, which a client that hangs up does not end.
    pub(super) async fn remove(self: &Arc<Self>, who: &Principal, id: &str) -> Result<Option<Value>, Fault> {
        let (desk, who, id) = (Arc::clone(self), who.clone(), id.to_owned());
        let work = tokio::task::spawn_blocking(move || {
            let Some((candidate, _)) = desk.candidates.find(&id) else { return Ok(None) };
            who.demand(PersonRole::Reviewer, campaign_of(&candidate.variant))?;
            Ok(desk.candidates.remove(&id).then(|| {
                let what = "import-candidate-delete";
                audit::note(&Change { who: who.name(), what, subject: &id, why: "", outcome: "deleted" });
                json!({ "id": id, "deleted": true })
            }))
        });
        work.await.map_err(|_| broken())?
    }
}

/// The key knows a repeated order again, and is its sender's.
fn shown(candidate: &Candidate) -> Value {
    json!(Candidate { key: None, ..candidate.clone() })
}

/// What the query says.
pub(super) struct ImportQuery {
    pub(super) variant: String,
    pub(super) source: Option<DigitalSource>,
    pub(super) statements: Statements,
    pub(super) why: String,
}

impl ImportQuery {
    fn parse(query: &str) -> Result<Self, Fault> {
        let mut fields = FIELDS.map(|name| (name, None));
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let Some((name, place)) = fields.iter_mut().find(|(known, _)| *known == name) else {
                let shown: String = name.chars().take(60).collect();
                return Err(wrong(&shown, format!("there is no field `{shown}`"), &FIELDS));
            };
            *place = Some(text(name, value)?);
        }
        let mut take = |name| fields.iter_mut().find(|(known, _)| *known == name).and_then(|(_, value)| value.take());
        let source = take("source").map(|term| {
            let terms = DigitalSource::ALL.map(DigitalSource::term);
            term.parse::<DigitalSource>().map_err(|error| wrong("source", error.to_string(), &terms))
        });
        Ok(Self {
            variant: take("variant").ok_or_else(|| wrong("variant", "`variant` is missing", &[]))?,
            source: source.transpose()?,
            statements: Statements {
                origin: take("origin"),
                creator: take("creator"),
                credit: take("credit"),
                copyright: take("copyright"),
                license: take("license"),
            },
            why: take("why").unwrap_or_default(),
        })
    }
}

fn text(name: &str, value: &str) -> Result<String, Fault> {
    let decoded = percent_decode_str(value).decode_utf8().map(Cow::into_owned);
    let decoded = decoded.map_err(|_| wrong(name, format!("`{name}` is not UTF-8"), &[]))?;
    if decoded.len() > TEXT_BYTES_MAX {
        return Err(wrong(name, format!("`{name}` has at most {TEXT_BYTES_MAX} bytes"), &[]));
    }
    Ok(decoded)
}

async fn read<B>(body: B) -> Result<Bytes, Fault>
where
    B: Body,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let too_long = format!("a picture has at most {ORIGINAL_FILE_BYTES_MAX} bytes");
    match tokio::time::timeout(DEADLINE, Limited::new(body, ORIGINAL_FILE_BYTES_MAX).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Err(fault(413, "body-too-long", "Content too large", too_long))
        }
        Ok(Err(_)) => Err(fault(400, "broken-body", "Bad request", "the body broke off")),
        Err(_) => Err(fault(408, "slow-body", "Request timeout", format!("a picture arrives within {DEADLINE:?}"))),
    }
}

/// The task panicked.
fn broken() -> Fault {
    fault(500, "import", "Internal error", "the candidates could not be looked through")
}

fn busy(detail: &str) -> Fault {
    fault(503, "busy", "Busy", detail)
}

pub(super) fn refused(error: ImportRunError) -> Fault {
    match error {
        ImportRunError::Variant { .. } => wrong("variant", error.to_string(), &[]),
        ImportRunError::NoSource | ImportRunError::Recipe(_) => wrong("source", error.to_string(), &[]),
        ImportRunError::Original(error) if !error.is_of_the_file() => busy(&error.to_string()),
        ImportRunError::Original(_) | ImportRunError::TooSmall { .. } => {
            fault(422, "unusable-picture", "Unusable picture", error.to_string())
        }
        error => fault(503, "import", "Not now", error.to_string()),
    }
}

fn unstored(error: CandidateError) -> Fault {
    match error {
        CandidateError::Full => fault(409, "too-many-candidates", "Too many candidates", error.to_string()),
        CandidateError::Io(_) => fault(507, "candidate-not-stored", "Insufficient storage", error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_says_what_the_file_is() {
        let query =
            "variant=brought/hero%3Fproduct%3Dvase%26colour%3Dred&source=digitalCapture&credit=J%C3%BCrgen&why=new";
        let asked = ImportQuery::parse(query).expect("understood");
        assert_eq!(asked.variant, "brought/hero?product=vase&colour=red");
        assert_eq!((asked.source, asked.why.as_str()), (Some(DigitalSource::DigitalCapture), "new"));
        assert_eq!((asked.statements.credit.as_deref(), asked.statements.creator), (Some("Jürgen"), None));
        let refused = |query: &str| ImportQuery::parse(query).err().map(|fault| fault.detail).unwrap_or_default();
        assert!(refused("source=print").contains("`variant` is missing"));
        assert!(refused("variant=a/b&sauce=print").contains("no field `sauce`"));
        assert!(refused("variant=a/b&source=photo").contains("`photo` is no digital source type"));
        assert!(refused("variant=%FF").contains("not UTF-8"));
    }
}
