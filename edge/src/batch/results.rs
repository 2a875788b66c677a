//! What became of a batch's pictures: as a table for spreadsheets, and as a manifest for programs.

use std::borrow::Cow;
use std::collections::BTreeSet;

use bildkante_shared::ids::{MasterId, RecipeId};
use serde::{Serialize, Serializer};
use serde_json::Value;

use super::csv;
use super::live::BatchStatus;
use super::record::{Item, ItemState};
use crate::request::IMAGE_PATH_PREFIX;

/// A row for each picture: campaign, slot, its axes, its seed, and what became of it. The columns up to the seed are
/// those that an order takes.
#[must_use]
pub fn csv_of(items: &[Item], public_url: &str) -> String {
    let axes: BTreeSet<&str> = items.iter().flat_map(|item| values(item).map(|(axis, _)| axis)).collect();
    let mut text = String::with_capacity(items.len() * 160 + 160);
    let before = ["campaign", "slot"].into_iter().chain(axes.iter().copied()).chain(["seed"]);
    let after = ["state", "url", "recipe", "master", "bytes", "device_ms", "reason"];
    csv::write(&mut text, before.chain(after).map(Cow::from));
    for item in items {
        let (campaign, slot) = item.place().split_once('/').unwrap_or((item.place(), ""));
        let value = |axis: &&str| values(item).find(|(name, _)| name == axis).map_or("", |(_, value)| value);
        let cells = [campaign, slot].into_iter().chain(axes.iter().map(value)).map(Cow::from);
        let text_of = |number: Option<String>| Cow::from(number.unwrap_or_default());
        let outcome = [
            text_of(item.seed.map(|seed| seed.to_string())),
            Cow::from(item.state.as_str()),
            Cow::from(url(item, public_url)),
            text_of(item.recipe.map(|id| id.to_string())),
            text_of(item.master.map(|id| id.to_string())),
            Cow::from(item.bytes.to_string()),
            text_of(item.device_ms.map(|ms| format!("{ms:.1}"))),
            Cow::from(item.reason.as_deref().unwrap_or_default()),
        ];
        csv::write(&mut text, cells.chain(outcome));
    }
    text
}

/// The batch and each of its pictures.
#[must_use]
pub fn manifest_of<'i>(
    status: &BatchStatus,
    told: Value,
    items: &'i [Item],
    public_url: &'i str,
) -> impl Serialize + use<'i> {
    Manifest { schema: 1, id: status.record.id, batch: told, pictures: Pictures { items, public_url } }
}

#[derive(Serialize)]
struct Manifest<'i> {
    schema: u32,
    id: u64,
    batch: Value,
    pictures: Pictures<'i>,
}

/// Written one by one: there are up to 100,000.
struct Pictures<'i> {
    items: &'i [Item],
    public_url: &'i str,
}

#[derive(Serialize)]
struct Picture<'i> {
    variant: &'i str,
    seed: Option<u32>,
    state: ItemState,
    url: String,
    recipe: Option<RecipeId>,
    master: Option<MasterId>,
    bytes: u64,
    device_ms: Option<f64>,
    reason: Option<&'i str>,
}

impl Serialize for Pictures<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.items.iter().map(|item| Picture {
            variant: &item.picture,
            seed: item.seed,
            state: item.state,
            url: url(item, self.public_url),
            recipe: item.recipe,
            master: item.master,
            bytes: item.bytes,
            device_ms: item.device_ms,
            reason: item.reason.as_deref(),
        }))
    }
}

/// Where readers find the picture; a candidate has no address until people choose it.
fn url(item: &Item, public_url: &str) -> String {
    match item.seed {
        None => format!("{}{IMAGE_PATH_PREFIX}{}", public_url.trim_end_matches('/'), item.picture),
        Some(_) => String::new(),
    }
}

fn values(item: &Item) -> impl Iterator<Item = (&str, &str)> {
    let query = item.picture.split_once('?').map_or("", |(_, query)| query);
    query.split('&').filter_map(|pair| pair.split_once('='))
}

#[cfg(test)]
mod tests {
    use super::super::record::ItemState;
    use super::*;

    #[test]
    fn a_table_has_a_column_for_each_axis_and_what_became_of_each_picture() {
        let drawn = Item {
            state: ItemState::Drawn,
            bytes: 12,
            device_ms: Some(3.25),
            ..Item::waiting("a/hero?colour=red", None)
        };
        let failed = Item::waiting("b/thumb?size=l", Some(7)).failed("=no, \"node\"");
        let table = csv_of(&[drawn, failed], "https://img.example.com/");
        let rows: Vec<&str> = table.split("\r\n").collect();
        assert_eq!(rows[0], "campaign,slot,colour,size,seed,state,url,recipe,master,bytes,device_ms,reason");
        assert_eq!(rows[1], "a,hero,red,,,drawn,https://img.example.com/i/a/hero?colour=red,,,12,3.2,");
        assert_eq!(rows[2], "b,thumb,,l,7,failed,,,,0,,\"'=no, \"\"node\"\"\"");
    }
}
