//! `/admin/v1/batches`: pictures by list, filter or table are drawn; how far it is; what became of each.
//!
//! Invariants: an order with a fault draws nothing; each campaign that it reaches into is asked for before anything of
//! it is told; orders and results are worked on a few at a time, on threads of their own.

mod order;

use std::collections::BTreeSet;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bildkante_shared::ids::Digest;
use bildkante_shared::problem::FaultAt;
use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Response};
use hyper::body::Body as HttpBody;
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;

pub(super) use self::order::FilterOrder;
use self::order::{Named, Order, Query, of_csv, of_json};
use super::body::{self, Fault, fault, wrong};
use super::{AdminApi, PREFIX, Principal, Reply};
use crate::batch::estimate::Estimate;
use crate::batch::record::{BatchState, Source, Terms};
use crate::batch::selection::{self, FAULTS_MAX, RowFaults, SeedsOfEach};
use crate::batch::{Ask, BatchDesk, BatchError, BatchOrder, BatchStatus, csv_of, manifest_of};
use crate::campaign::Catalog;
use crate::preview::{Preview, events};
use crate::response::{self, TextKind};
use crate::service::Body;
use crate::shared_state::PersonRole;

/// Largest order: 100,000 rows of 160 bytes.
pub(super) const ORDER_BYTES_MAX: usize = 16 << 20;
const DEADLINE: Duration = Duration::from_secs(60);
/// Orders that are understood, and results that are written, at a time: each may hold some ten megabytes.
pub(super) const ORDERS_AT_ONCE: usize = 2;
/// How long an order or a reader of results waits for its turn.
const TURN_WAIT: Duration = Duration::from_secs(10);
/// How long one answer of a stream waits; proxies give up after half a minute or more.
const STREAM_WAIT: Duration = Duration::from_secs(20);
const RETRY_MS: u32 = 500;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Try {
    /// Nothing is drawn: what would be is told.
    Only,
    No,
}

/// A new batch, or what one would come to.
pub(super) async fn begin<B>(
    api: &AdminApi,
    (who, key): (&Principal, Option<String>),
    (headers, query): (&HeaderMap, Option<&str>),
    body: B,
) -> Result<Reply, Fault>
where
    B: HttpBody,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let turn = turn(api).await?;
    let bytes = body::bounded(body, ORDER_BYTES_MAX, DEADLINE).await?;
    // What is misspelt would draw.
    let trying = match Query::of(query.unwrap_or_default()).get("dry_run") {
        None => Try::No,
        Some("true") => Try::Only,
        Some(_) => return Err(wrong("dry_run", "`dry_run` is true, or left out", &["true"])),
    };
    let (kind, concurrency) = (body::media_type(headers), api.concurrency);
    let query = query.unwrap_or_default().to_owned();
    let read = move |catalog: &Catalog, who: &Principal| match kind.as_str() {
        "text/csv" => of_csv(&Query::of(&query), bytes, concurrency),
        "application/json" => of_json(&Query::of(&query), &bytes, (catalog, who), concurrency),
        _ => {
            let detail = "an order is `application/json` or `text/csv`";
            Err(fault(415, "unsupported-media-type", "Unsupported media type", detail))
        }
    };
    carry_out(api, (who, key), turn, trying, read).await
}

/// A turn for what takes a thread and some ten megabytes. It belongs to the work, not to the request: a client that
/// hangs up does not end the work.
async fn turn(api: &AdminApi) -> Result<OwnedSemaphorePermit, Fault> {
    let turn = tokio::time::timeout(TURN_WAIT, Arc::clone(&api.selecting).acquire_owned()).await;
    let detail = "other orders and results of batches are being read: try again in a moment";
    let busy = || fault(503, "busy", "Busy", detail);
    turn.ok().and_then(Result::ok).ok_or_else(busy)
}

/// The same for an order that is understood.
pub(super) async fn of_filter(
    api: &AdminApi,
    who: &Principal,
    filter: FilterOrder,
    why: String,
) -> Result<Reply, Fault> {
    let terms = Terms { formats: Vec::new(), concurrency: api.concurrency };
    let digest = Digest::of_bytes(filter.query.as_bytes());
    let order = Order { named: Named::Filter(filter), seeds: SeedsOfEach::OWN, terms, why, digest };
    let turn = turn(api).await?;
    carry_out(api, (who, None), turn, Try::No, |_, _| Ok(order)).await
}

/// What an order comes to.
enum Understood {
    /// It has begun already.
    Known(BatchStatus),
    Estimate(Estimate),
    New(BatchOrder),
}

async fn carry_out(
    api: &AdminApi,
    (who, key): (&Principal, Option<String>),
    turn: OwnedSemaphorePermit,
    trying: Try,
    read: impl FnOnce(&Catalog, &Principal) -> Result<Order, Fault> + Send + 'static,
) -> Result<Reply, Fault> {
    let looking = Looking {
        who: who.clone(),
        catalog: api.catalog.load(),
        preview: Arc::clone(&api.preview),
        desk: api.batches.clone(),
    };
    let known_by = key.clone();
    let work = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        let order = read(&looking.catalog, &looking.who)?;
        looking.understand(order, known_by.as_deref(), trying)
    });
    let broken = |_| Err(fault(500, "internal", "Internal error", "the pictures were not found"));
    match work.await.unwrap_or_else(broken)? {
        Understood::Known(known) => Ok(accepted(api, &known)),
        Understood::Estimate(estimate) => Ok(Reply::ok(told_estimate(&estimate))),
        Understood::New(order) => {
            let status = api.batches.start(who.name(), order, key).await.map_err(refused)?;
            Ok(accepted(api, &status))
        }
    }
}

/// What it takes to understand an order: work for a thread of its own.
struct Looking {
    who: Principal,
    catalog: Arc<Catalog>,
    preview: Arc<Preview>,
    desk: BatchDesk,
}

impl Looking {
    fn understand(&self, order: Order, key: Option<&str>, trying: Try) -> Result<Understood, Fault> {
        let Self { who, catalog, preview, desk } = self;
        if trying == Try::No
            && let Some(known) = desk.known(key, order.digest).map_err(refused)?
        {
            demand(who, &known.record.campaigns)?;
            return Ok(Understood::Known(known));
        }
        let Order { named, seeds, terms, why, digest } = order;
        let (source, selected) = match named {
            Named::List(names) => (Source::List, selection::of_list(catalog, names.iter().map(String::as_str), &seeds)),
            Named::Csv(text, defaults) => (Source::Csv, selection::of_csv(catalog, &text, &defaults)),
            Named::Filter(filter) => {
                who.demand(PersonRole::Operator, Some(&filter.campaign))?;
                let pictures = filtered(catalog, preview, &filter)?;
                (Source::Filter, selection::of_pictures(catalog, pictures.iter().map(String::as_str), &seeds))
            }
        };
        demand(who, selected.as_ref().map_or_else(|faults| &faults.campaigns, |selected| &selected.campaigns))?;
        let selected = selected.map_err(|faults| wrong_rows(faults, source))?;
        Ok(match trying {
            Try::Only => Understood::Estimate(desk.estimate(catalog, &selected.items, &terms)),
            Try::No => Understood::New(BatchOrder { source, selected, terms, why, digest }),
        })
    }
}

/// Of each of the campaigns.
fn demand(who: &Principal, campaigns: &BTreeSet<String>) -> Result<(), Fault> {
    campaigns.iter().try_for_each(|campaign| who.demand(PersonRole::Operator, Some(campaign)))
}

/// The pictures that a filter asks for, by their names.
fn filtered(catalog: &Catalog, preview: &Preview, filter: &FilterOrder) -> Result<Vec<String>, Fault> {
    let campaign = catalog.campaign(&filter.campaign);
    let slots: Vec<String> = match &filter.slot {
        Some(slot) => vec![slot.clone()],
        None => campaign.into_iter().flat_map(|it| &it.slots).map(|slot| slot.name.clone()).collect(),
    };
    let mut pictures = Vec::new();
    for slot in slots {
        let asked = preview.asked_for(&format!("{}/{slot}", filter.campaign), &filter.query)?;
        pictures.extend(asked.into_iter().filter(|asked| asked.is_makeable).map(|asked| asked.picture));
    }
    if filter.pictures_max.is_some_and(|most| pictures.len() > most) {
        let detail = "these are more pictures than the page showed: look again";
        return Err(fault(409, "overtaken", "Overtaken", detail));
    }
    Ok(pictures)
}

fn accepted(api: &AdminApi, status: &BatchStatus) -> Reply {
    let location = Some(format!("{PREFIX}batches/{}", status.record.id));
    Reply { location, ..Reply::accepted(shown(&api.batches, status)) }
}

/// Pauses, resumes, tries again or cancels.
pub(super) async fn ask(
    api: &AdminApi,
    who: &Principal,
    id: &str,
    (ask, key): (Ask, Option<String>),
) -> Result<Reply, Fault> {
    let status = found(api, who, id)?;
    demand(who, &status.record.campaigns)?;
    let status = api.batches.ask(who.name(), status.record.id, ask, key).await.map_err(refused)?;
    Ok(Reply::accepted(shown(&api.batches, &status)))
}

/// A batch that the one who asks may see: one of campaigns that are all open.
fn found(api: &AdminApi, who: &Principal, id: &str) -> Result<BatchStatus, Fault> {
    let status = id.parse().ok().and_then(|id| api.batches.one(id)).filter(|status| sees(who, status));
    status.ok_or_else(|| super::no_such("batch", id))
}

fn sees(who: &Principal, status: &BatchStatus) -> bool {
    status.record.campaigns.iter().all(|campaign| who.sees(Some(campaign)))
}

pub(super) fn one(api: &AdminApi, who: &Principal, id: &str) -> Result<Value, Fault> {
    found(api, who, id).map(|status| shown(&api.batches, &status))
}

/// Without the failures of each.
pub(super) fn list(api: &AdminApi, who: &Principal) -> Value {
    let all = api.batches.all();
    let listed = all.iter().filter(|status| sees(who, status)).map(|status| {
        let mut value = shown(&api.batches, status);
        value.as_object_mut().map(|fields| fields.remove("failures"));
        value
    });
    json!({ "batches": listed.collect::<Vec<_>>() })
}

/// What became of each picture: JSON, or a table with `as=csv`.
pub(super) async fn results(
    api: &AdminApi,
    who: &Principal,
    id: &str,
    (headers, query): (&HeaderMap, Option<&str>),
) -> Result<Response<Body>, Fault> {
    let status = found(api, who, id)?;
    let is_csv = match Query::of(query.unwrap_or_default()).get("as") {
        None | Some("json") => false,
        Some("csv") => true,
        Some(_) => return Err(wrong("as", "`as` is json or csv", &["json", "csv"])),
    };
    let id = status.record.id;
    let turn = turn(api).await?;
    let (desk, public_url) = (api.batches.clone(), api.preview.public_url().to_owned());
    let (kind, extension) = if is_csv { (TextKind::Plain, "csv") } else { (TextKind::Json, "json") };
    let headers = headers.clone();
    let broken = || fault(500, "internal", "Internal error", "the results were not written");
    let work = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        let items = desk.items(id).map_err(refused)?;
        let written = if is_csv {
            csv_of(&items, &public_url).into_bytes()
        } else {
            let told = shown(&desk, &status);
            serde_json::to_vec(&manifest_of(&status, told, &items, &public_url)).map_err(|_| broken())?
        };
        // It compresses them: no work for the thread that answers others.
        Ok(response::text(&headers, kind, written, "no-store"))
    });
    let mut response = work.await.unwrap_or_else(|_| Err(broken()))?;
    if is_csv {
        let csv = HeaderValue::from_static("text/csv; charset=utf-8; header=present");
        response.headers_mut().insert(CONTENT_TYPE, csv);
    }
    let disposition = format!("attachment; filename=\"batch-{id}.{extension}\"");
    if let Ok(disposition) = HeaderValue::from_str(&disposition) {
        response.headers_mut().insert(CONTENT_DISPOSITION, disposition);
    }
    Ok(response)
}

/// The next change of a batch behind the one that is known, as a server-sent event: an `EventSource` connects anew when
/// an answer ends, and says what it saw last. Its place is one of those of all who wait on this listener, so that those
/// who act find a connection.
pub(super) async fn events(
    api: &AdminApi,
    who: &Principal,
    id: &str,
    (headers, query): (&HeaderMap, Option<&str>),
) -> Result<Response<Body>, Fault> {
    let number = found(api, who, id)?.record.id;
    let gone = || super::no_such("batch", id);
    let mut seen = api.batches.watch(number).ok_or_else(gone)?;
    let Ok(_stream) = api.preview.waiting_pages().try_acquire() else { return Ok(events::full()) };
    let after = events::seen(headers, query);
    if let Some(after) = after {
        let _ = tokio::time::timeout(STREAM_WAIT, seen.wait_for(|now| *now != after)).await;
    }
    let now = *seen.borrow();
    let status = api.batches.one(number).ok_or_else(gone)?;
    let name = match status.record.state {
        _ if Some(now) == after => "quiet",
        BatchState::Queued | BatchState::Running => "progress",
        _ => "still",
    };
    let data = shown(&api.batches, &status);
    Ok(events::event(format!("retry: {RETRY_MS}\nid: {now}\nevent: {name}\ndata: {data}\n\n")))
}

fn shown(desk: &BatchDesk, status: &BatchStatus) -> Value {
    let record = &status.record;
    let cost = desk.price().map(|price| price.of(record.tally.device_ms));
    json!({
        "id": record.id,
        "by": record.by,
        "why": record.why,
        "state": record.state,
        "source": record.source,
        "campaigns": record.campaigns,
        "formats": record.terms.formats,
        "concurrency": record.terms.concurrency,
        "started_unix_ms": record.started_unix_ms,
        "elapsed_ms": record.elapsed_ms,
        "eta_ms": record.eta_ms(),
        "pictures": record.pictures,
        "waiting": status.waiting(),
        "drawing": status.drawing,
        "drawn": record.tally.drawn,
        "there": record.tally.there,
        "failed": record.tally.failed,
        "bytes": record.tally.bytes,
        "device_seconds": record.tally.device_ms / 1e3,
        "cost": cost.map(|cost| json!({ "amount": cost.amount, "currency": cost.currency })),
        "failures": record.failures,
        "stored": status.is_stored,
    })
}

fn told_estimate(estimate: &Estimate) -> Value {
    let cost = estimate.cost.as_ref();
    json!({
        "pictures": estimate.pictures,
        "there": estimate.there,
        "to_draw": estimate.pictures - estimate.there,
        "device_seconds": estimate.device_ms.map(|ms| ms / 1e3),
        "bytes": estimate.bytes,
        "cost": cost.map(|cost| json!({ "amount": cost.amount, "currency": cost.currency })),
    })
}

pub(super) fn refused(error: BatchError) -> Fault {
    let detail = error.to_string();
    match error {
        BatchError::Unknown => fault(404, "not-found", "Not found", detail),
        BatchError::Empty => fault(422, "no-pictures", "No pictures", detail),
        BatchError::KeyReused(_) => fault(422, "key-reused", "Key reused", detail),
        BatchError::Full => fault(409, "too-many-batches", "Too many batches", detail),
        BatchError::NotNow { .. } => fault(409, "not-now", "Not now", detail),
        BatchError::NotStored(_) => fault(503, "not-stored", "Not stored", detail),
        BatchError::Unread(_) | BatchError::Broken(_) => fault(500, "internal", "Internal error", detail),
    }
}

fn wrong_rows(faults: RowFaults, source: Source) -> Fault {
    let RowFaults { first, total, rows, .. } = faults;
    let of = if source == Source::Csv { "rows" } else { "pictures" };
    let more = if total > first.len() as u64 { format!("; the first {FAULTS_MAX} are told") } else { String::new() };
    let detail = format!("{total} faults in {rows} {of}, so nothing is drawn{more}");
    let mut problem = fault(422, "invalid-rows", "Invalid rows", detail);
    problem.errors =
        first.into_iter().map(|it| FaultAt { row: it.row, column: it.column, detail: it.detail }).collect();
    problem.errors_total = Some(total);
    problem
}
