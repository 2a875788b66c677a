//! What an order of pictures says: JSON, or CSV whose terms stand in the query.
//!
//! Invariants: what is misspelt is a fault, named by its field; no name of a campaign is told to those who may not
//! order of it. An order has up to 16 MiB: it is read on a thread of its own.

use std::borrow::Cow;

use bildkante_shared::ids::Digest;
use bytes::Bytes;
use percent_encoding::percent_decode_str;
use serde_json::Value;

use crate::admin::body::{Fault, Fields, wrong};
use crate::admin::{Principal, candidates, warm};
use crate::batch::record::Terms;
use crate::batch::selection::{Defaults, ROWS_MAX, SeedsOfEach};
use crate::campaign::Catalog;
use crate::preview::Preview;
use crate::request::excerpt;
use crate::shared_state::PersonRole;
use crate::warm::{CONCURRENCY_MAX, Plan, WarmOrder};
use crate::words::Format;

const FIELDS: [&str; 7] = ["pictures", "filter", "count", "seeds", "formats", "concurrency", "why"];
const FILTER_FIELDS: [&str; 5] = ["campaign", "slot", "axes", "states", "text"];
const NAME_BYTES_MAX: usize = 256;
const WHY_BYTES_MAX: usize = 1_000;
const AXES_MAX: usize = 16;

/// Which pictures.
pub(super) enum Named {
    List(Vec<String>),
    Filter(FilterOrder),
    Csv(Bytes, Defaults),
}

/// Pictures of one campaign, as the preview filters them.
pub(in crate::admin) struct FilterOrder {
    pub(in crate::admin) campaign: String,
    /// `None`: each.
    pub(in crate::admin) slot: Option<String>,
    /// The query of the preview's page of a slot.
    pub(in crate::admin) query: String,
    /// Pictures that a page showed: more are not drawn unseen.
    pub(in crate::admin) pictures_max: Option<usize>,
}

/// What is asked for.
pub(super) struct Order {
    pub(super) named: Named,
    pub(super) seeds: SeedsOfEach,
    pub(super) terms: Terms,
    pub(super) why: String,
    pub(super) digest: Digest,
}

pub(super) fn of_json(
    query: &Query<'_>,
    bytes: &Bytes,
    reading: (&Catalog, &Principal),
    usual_concurrency: usize,
) -> Result<Order, Fault> {
    query.only(&["dry_run"])?;
    let mut fields = Fields::parse(bytes)?;
    // With another reason it is the same order.
    let why = fields.text("why", WHY_BYTES_MAX)?.unwrap_or_default();
    let digest = fields.digest();
    let named = match (fields.value("pictures"), fields.value("filter")) {
        (Some(list), None) => Named::List(list_of(list)?),
        (None, Some(Value::Object(map))) => Named::Filter(filter_of(Fields::of_map(map), reading)?),
        (None, Some(_)) => return Err(wrong("filter", "`filter` is an object", &[])),
        (Some(_), Some(_)) => return Err(wrong("filter", "pictures are listed, or filtered", &[])),
        (None, None) => return Err(wrong("pictures", "`pictures` or `filter` is missing", &[])),
    };
    let seeds = match (candidates::seeds(&mut fields)?, fields.number("count", 1, SeedsOfEach::MAX as u64)?) {
        (Some(_), Some(_)) => return Err(wrong("count", "seeds are named, or counted", &[])),
        (Some(seeds), None) => SeedsOfEach::These(seeds.into_iter().collect()),
        (None, count) => counted(count),
    };
    let concurrency = fields.number("concurrency", 1, CONCURRENCY_MAX as u64)?;
    let terms = terms(fields.texts("formats", 4)?, concurrency, usual_concurrency)?;
    fields.end(&FIELDS)?;
    Ok(Order { named, seeds, terms, why, digest })
}

pub(super) fn of_csv(query: &Query<'_>, bytes: Bytes, usual_concurrency: usize) -> Result<Order, Fault> {
    let number = |name: &str, max: u64| {
        let refuse = || wrong(name, format!("`{name}` is a whole number from 1 to {max}"), &[]);
        let number = query.get(name).map(|text| text.parse::<u64>().ok().filter(|it| (1..=max).contains(it)));
        number.map(|number| number.ok_or_else(refuse)).transpose()
    };
    let seeds = counted(number("count", SeedsOfEach::MAX as u64)?);
    let formats = query.get("formats").map(|names| names.split(',').map(str::to_owned).collect()).unwrap_or_default();
    let terms = terms(formats, number("concurrency", CONCURRENCY_MAX as u64)?, usual_concurrency)?;
    let why = query.get("why").unwrap_or_default().to_owned();
    if why.len() > WHY_BYTES_MAX {
        return Err(wrong("why", format!("`why` has at most {WHY_BYTES_MAX} bytes"), &[]));
    }
    let of = |name: &str| query.get(name).map(str::to_owned);
    let defaults = Defaults { campaign: of("campaign"), slot: of("slot"), seeds: seeds.clone() };
    // Its terms are part of it, and the reason and whether it is tried only are not.
    let mut digested = Vec::new();
    for name in ["campaign", "slot", "count", "formats", "concurrency"] {
        digested.extend_from_slice(query.get(name).unwrap_or_default().as_bytes());
        digested.push(0);
    }
    digested.extend_from_slice(&bytes);
    let digest = Digest::of_bytes(&digested);
    Ok(Order { named: Named::Csv(bytes, defaults), seeds, terms, why, digest })
}

fn counted(count: Option<u64>) -> SeedsOfEach {
    count.and_then(|count| u32::try_from(count).ok()).map_or(SeedsOfEach::OWN, SeedsOfEach::Count)
}

fn terms(formats: Vec<String>, concurrency: Option<u64>, usual: usize) -> Result<Terms, Fault> {
    if let Some(name) = formats.iter().find(|name| Format::from_name(name).is_none()) {
        let names = Format::ALL.map(Format::as_str);
        return Err(wrong("formats", format!("there is no format `{}`", excerpt(name)), &names));
    }
    let concurrency = concurrency.and_then(|number| usize::try_from(number).ok()).unwrap_or(usual);
    Ok(Terms { formats, concurrency })
}

fn list_of(list: Value) -> Result<Vec<String>, Fault> {
    let refuse = || wrong("pictures", format!("`pictures` is a list of 1 to {ROWS_MAX} addresses or variants"), &[]);
    let names: Vec<String> = serde_json::from_value(list).map_err(|_| refuse())?;
    if (1..=ROWS_MAX).contains(&(names.len() as u64)) { Ok(names) } else { Err(refuse()) }
}

/// A filter of names that there are: what is misspelt is a fault here, other than in the address of a page. What would
/// be right is told to those alone who may order it.
fn filter_of(mut fields: Fields, (catalog, who): (&Catalog, &Principal)) -> Result<FilterOrder, Fault> {
    let campaign = fields.text("campaign", NAME_BYTES_MAX)?;
    let campaign = campaign.ok_or_else(|| wrong("campaign", "`campaign` is missing", &[]))?;
    who.demand(PersonRole::Operator, Some(&campaign))?;
    let order = WarmOrder {
        campaign,
        slot: fields.text("slot", NAME_BYTES_MAX)?,
        axes: fields.lists("axes", AXES_MAX)?,
        formats: Vec::new(),
        concurrency: 1,
        why: String::new(),
    };
    let states = fields.texts("states", 32)?;
    let text = fields.text("text", NAME_BYTES_MAX)?;
    fields.end(&FILTER_FIELDS)?;
    Plan::parse(catalog, &order).map_err(|error| warm::fault_of(error.into()))?;
    let known = Preview::state_names();
    if let Some(state) = states.iter().find(|state| !known.contains(&state.as_str())) {
        return Err(wrong("states", format!("there is no state `{}`", excerpt(state)), &known));
    }
    let query = Preview::filter_query(&order.axes, &states, text.as_deref());
    Ok(FilterOrder { campaign: order.campaign, slot: order.slot, query, pictures_max: None })
}

/// The parameters of a query, decoded.
pub(super) struct Query<'q>(Vec<(&'q str, Cow<'q, str>)>);

impl<'q> Query<'q> {
    pub(super) fn of(query: &'q str) -> Self {
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        Self(pairs.map(|(name, value)| (name, percent_decode_str(value).decode_utf8_lossy())).collect())
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, value)| &**value)
    }

    /// The terms of a JSON order stand in it.
    fn only(&self, names: &[&str]) -> Result<(), Fault> {
        match self.0.iter().find(|(name, _)| !names.contains(name)) {
            None => Ok(()),
            Some((name, _)) => Err(wrong(
                name,
                format!("`{name}` stands in the query of a CSV order; a JSON order says it itself"),
                &[],
            )),
        }
    }
}
