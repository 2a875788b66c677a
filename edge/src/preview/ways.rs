//! Which campaign, slot and variant a name or a path means, and where pages lead: up, back and on.

use std::sync::Arc;

use bildkante_shared::problem::Problem;

use super::cards::{VARIANT_PAGE, page_of};
use super::census::{self, SlotOf};
use super::frame::Crumb;
use super::variant::Around;
use crate::campaign::{Campaign, Catalog};
use crate::governance::ShownCase;

/// The variant's page was opened from the queue.
pub(super) const FROM_QUEUE: &str = "_in=queue";

pub(super) fn from_queue(page: &str) -> String {
    let separator = if page.ends_with('?') { "" } else { "&" };
    format!("{page}{separator}{FROM_QUEUE}")
}

/// Before and behind a picture in what waits for the reader.
pub(super) fn around_in_queue(waiting: &[(String, ShownCase)], picture: &str) -> Around {
    let mut pictures: Vec<&str> = Vec::new();
    for (other, _) in waiting {
        if !pictures.contains(&other.as_str()) {
            pictures.push(other);
        }
    }
    let page = |other: &&str| from_queue(&page_of(other));
    match pictures.iter().position(|other| *other == picture) {
        Some(at) => Around {
            previous: at.checked_sub(1).and_then(|at| pictures.get(at)).map(page),
            next: pictures.get(at + 1).map(page),
        },
        // It has been decided: the next one is the oldest that is left.
        None => Around { previous: None, next: pictures.first().map(page).or_else(|| Some("/preview/queue".into())) },
    }
}

/// Before and behind an entry in the order of the manifest.
pub(super) fn around(campaign: &Campaign, of: SlotOf<'_>, census: &census::Census, entry: Option<usize>) -> Around {
    let page = |entry: &census::Entry| {
        let query = campaign.query(entry.combination);
        format!("/preview/{}/{}{VARIANT_PAGE}?{query}", campaign.name, of.slot().name)
    };
    let Some(entry) = entry else { return Around::default() };
    Around {
        previous: entry.checked_sub(1).and_then(|at| census.entries.get(at)).map(page),
        next: census.entries.get(entry + 1).map(page),
    }
}

pub(super) fn crumbs(catalog: &Catalog, campaign: &str, slot: &str, last: Option<String>) -> Vec<Crumb> {
    let Some(known) = catalog.campaign(campaign) else { return Vec::new() };
    let first = known.slots.first().map(|slot| format!("/preview/{campaign}/{}", slot.name));
    let is_last = last.is_none();
    let own = format!("/preview/{campaign}/{slot}");
    let mut crumbs = vec![
        Crumb { name: known.title.clone(), to: first },
        Crumb { name: slot.to_owned(), to: (!is_last).then_some(own) },
    ];
    crumbs.extend(last.map(|name| Crumb { name, to: None }));
    crumbs
}

/// Whether people still decide about a picture of this name: its slot and its values are in the manifest.
pub(super) fn is_reviewed(catalog: &Catalog, picture: &str) -> bool {
    let (path, values) = picture.split_once('?').unwrap_or((picture, ""));
    let Ok((campaign, slot_index)) = place(catalog, path) else { return false };
    let is_known = |pair: &str| {
        let (axis, value) = pair.split_once('=').unwrap_or((pair, ""));
        campaign.axis_index(axis).is_some_and(|axis| campaign.axes[axis].value_index(value).is_some())
    };
    campaign.slots[slot_index].review.is_required() && values.split('&').filter(|pair| !pair.is_empty()).all(is_known)
}

/// Of a variant or picture, by its name.
pub(super) fn campaign_of(name: &str) -> &str {
    name.split(['/', '?']).next().unwrap_or(name)
}

pub(super) fn slot_of(name: &str) -> &str {
    let path = name.split('?').next().unwrap_or(name);
    path.split('/').nth(1).unwrap_or_default()
}

/// The campaign and the slot that a path names.
pub(super) fn place<'c>(catalog: &'c Catalog, path: &str) -> Result<(&'c Arc<Campaign>, usize), Box<Problem>> {
    let (name, slot_name) =
        path.trim_start_matches('/').split_once('/').ok_or_else(|| not_found("there is no such page".into()))?;
    let campaign =
        catalog.campaign(name).ok_or_else(|| not_found(format!("there is no campaign `{}`", shorten(name))))?;
    let slot_index = campaign
        .slot_index(slot_name.trim_end_matches('/'))
        .ok_or_else(|| not_found(format!("campaign `{name}` has no slot `{}`", shorten(slot_name))))?;
    Ok((campaign, slot_index))
}

pub(super) fn not_found(detail: String) -> Box<Problem> {
    Box::new(Problem::new(404, "not-found", "Not found", detail))
}

/// The start of a name that a URL gave, for a message.
pub(super) fn shorten(text: &str) -> String {
    text.chars().take(60).collect()
}
