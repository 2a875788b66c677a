//! Which pictures a batch is of: names and rows, understood against the catalogue.
//!
//! Invariants: a selection is whole or refused, with each fault named by row and column; the faults that are told are
//! bounded, all are counted; pictures that several variants share stand in it once. Reading blocks for as long as there
//! are rows.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use bildkante_shared::import::MasterRecipe;
use serde::Serialize;

use super::PICTURES_MAX;
use super::csv::Rows;
use super::record::Item;
use crate::campaign::{Campaign, Catalog, Slot, variant_recipe};
use crate::candidates::ORDER_MAX;
use crate::request::{IMAGE_PATH_PREFIX, after_host, excerpt};
use crate::resolve::{Operator, Refusal, resolve};

/// Most rows of a table, and most names of a list.
pub const ROWS_MAX: u64 = 100_000;
/// Faults that are told one by one.
pub const FAULTS_MAX: usize = 100;
const CAMPAIGN: &str = "campaign";
const SLOT: &str = "slot";
const SEED: &str = "seed";
/// In the place of a column's name, where the whole row is meant.
const ROW: &str = "";

/// Which seeds of each variant are drawn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SeedsOfEach {
    /// So many: the manifest's own and those behind it.
    Count(u32),
    These(Vec<u32>),
}

impl SeedsOfEach {
    /// The manifest's own alone.
    pub const OWN: Self = Self::Count(1);
    /// Most seeds of each variant.
    pub const MAX: usize = ORDER_MAX;
}

/// What is wrong at one place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RowFault {
    /// As a spreadsheet numbers it: the header is 1. Of a list, the place of the name.
    pub row: u64,
    /// Empty where the whole row is meant.
    pub column: String,
    pub detail: String,
}

/// What is wrong with a selection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RowFaults {
    /// The first of them, at most [`FAULTS_MAX`].
    pub first: Vec<RowFault>,
    pub total: u64,
    pub rows: u64,
    /// That it names, and that there are.
    pub campaigns: BTreeSet<String>,
}

impl RowFaults {
    fn tell(&mut self, row: u64, column: &str, detail: impl FnOnce() -> String) {
        self.total += 1;
        if self.first.len() < FAULTS_MAX {
            self.first.push(RowFault { row, column: excerpt(column), detail: detail() });
        }
    }
}

/// Pictures, each once.
#[derive(Debug, Default)]
pub struct Selected {
    pub items: Vec<Item>,
    /// Rows or names that it was read from.
    pub rows: u64,
    /// That it reaches into.
    pub campaigns: BTreeSet<String>,
}

/// What rows that do not say themselves are of.
#[derive(Debug, Clone)]
pub struct Defaults {
    pub campaign: Option<String>,
    pub slot: Option<String>,
    pub seeds: SeedsOfEach,
}

/// Pictures by their names or addresses.
///
/// # Errors
/// Names each that is none.
pub fn of_list<'n>(
    catalog: &Catalog,
    names: impl IntoIterator<Item = &'n str>,
    seeds: &SeedsOfEach,
) -> Result<Selected, RowFaults> {
    let mut reading = Reading::new(catalog);
    for name in names {
        reading.rows += 1;
        let row = reading.rows;
        if row > ROWS_MAX {
            reading.faults.tell(row, ROW, || format!("a list has at most {ROWS_MAX} pictures"));
            break;
        }
        let url = address(name);
        match resolve(catalog, &*url, &Operator).outcome {
            Ok(resolution) => {
                let variant = &resolution.resolved.variant;
                let Some(campaign) = catalog.campaign(campaign_of(&variant.picture)) else { continue };
                let chosen = Chosen { campaign, slot: &resolution.resolved.slot, values: &variant.values };
                reading.reach_into(campaign);
                reading.take(row, "variant", &chosen, None, seeds);
            }
            Err(refusal) => {
                let campaign = url[IMAGE_PATH_PREFIX.len()..].split(['/', '?']).next().unwrap_or_default();
                if let Some(campaign) = catalog.campaign(campaign) {
                    reading.reach_into(campaign);
                }
                reading.faults.tell(row, "variant", || said(name, &refusal));
            }
        }
    }
    reading.ended()
}

/// Pictures by rows of a table whose header names axes, `campaign`, `slot` and `seed`.
///
/// # Errors
/// Names row and column of each fault.
pub fn of_csv(catalog: &Catalog, text: &[u8], defaults: &Defaults) -> Result<Selected, RowFaults> {
    let mut reading = Reading::new(catalog);
    let mut rows = match Rows::of(text) {
        Ok(rows) => rows,
        Err(error) => return Err(reading.broken(1, error.to_string())),
    };
    let header = match rows.next() {
        Ok(Some(header)) => header,
        Ok(None) => return Err(reading.broken(1, "it is empty: the first row names the columns".to_owned())),
        Err(error) => return Err(reading.broken(rows.number(), error.to_string())),
    };
    let header_row = rows.number();
    reading.check_header(header_row, &header, defaults);
    loop {
        match rows.next() {
            Ok(Some(cells)) if reading.rows < ROWS_MAX => {
                reading.rows += 1;
                reading.row(rows.number(), &header, &cells, defaults);
            }
            Ok(Some(_)) => {
                reading.faults.tell(rows.number(), ROW, || format!("a table has at most {ROWS_MAX} rows"));
                break;
            }
            Ok(None) => break,
            Err(error) => return Err(reading.broken(rows.number(), error.to_string())),
        }
    }
    reading.ended()
}

/// Pictures that a filter found.
///
/// # Errors
/// Where seeds make no sense for one of them, or there are too many.
pub fn of_pictures<'n>(
    catalog: &Catalog,
    pictures: impl IntoIterator<Item = &'n str>,
    seeds: &SeedsOfEach,
) -> Result<Selected, RowFaults> {
    if *seeds != SeedsOfEach::OWN {
        // It tells faults by the place in the filter's order.
        return of_list(catalog, pictures, seeds);
    }
    let items: Vec<Item> = pictures.into_iter().map(|picture| Item::waiting(picture, None)).collect();
    let rows = items.len() as u64;
    if items.len() > PICTURES_MAX {
        let mut faults = RowFaults { rows, ..RowFaults::default() };
        faults.tell(rows, ROW, too_many);
        return Err(faults);
    }
    let campaigns = items.iter().map(|item| item.campaign().to_owned()).collect();
    Ok(Selected { items, rows, campaigns })
}

/// Values that were chosen in a slot.
struct Chosen<'c> {
    campaign: &'c Arc<Campaign>,
    slot: &'c Slot,
    values: &'c [usize],
}

struct Reading<'c> {
    catalog: &'c Catalog,
    items: Vec<Item>,
    known: HashSet<(Box<str>, Option<u32>)>,
    faults: RowFaults,
    rows: u64,
    /// By campaign, the axis of each column.
    columns: BTreeMap<String, Vec<Option<usize>>>,
}

impl<'c> Reading<'c> {
    fn new(catalog: &'c Catalog) -> Self {
        Self {
            catalog,
            items: Vec::new(),
            known: HashSet::new(),
            faults: RowFaults::default(),
            rows: 0,
            columns: BTreeMap::new(),
        }
    }

    fn ended(mut self) -> Result<Selected, RowFaults> {
        self.faults.rows = self.rows;
        if self.faults.total > 0 {
            return Err(self.faults);
        }
        Ok(Selected { items: self.items, rows: self.rows, campaigns: self.faults.campaigns })
    }

    fn reach_into(&mut self, campaign: &Campaign) {
        if !self.faults.campaigns.contains(&campaign.name) {
            self.faults.campaigns.insert(campaign.name.clone());
        }
    }

    /// What cannot be read any further.
    fn broken(mut self, row: u64, reason: String) -> RowFaults {
        self.faults.tell(row, ROW, || reason);
        self.faults.rows = self.rows;
        self.faults
    }

    fn check_header(&mut self, row: u64, header: &[Cow<'_, str>], defaults: &Defaults) {
        for (at, name) in header.iter().enumerate() {
            let is_known = matches!(&**name, CAMPAIGN | SLOT | SEED)
                || self.catalog.campaigns().any(|campaign| campaign.axis_index(name).is_some());
            if !is_known {
                let detail =
                    || format!("column {} is named `{}`, and no campaign has such an axis", at + 1, excerpt(name));
                self.faults.tell(row, name, detail);
            } else if header[..at].contains(name) {
                self.faults.tell(row, name, || "two columns have this name".to_owned());
            }
        }
        for (name, default) in [(CAMPAIGN, &defaults.campaign), (SLOT, &defaults.slot)] {
            if default.is_none() && !header.iter().any(|column| column == name) {
                self.faults.tell(row, name, || format!("the column `{name}` is missing"));
            }
        }
    }

    fn row(&mut self, row: u64, header: &[Cow<'_, str>], cells: &[Cow<'_, str>], defaults: &Defaults) {
        if cells.len() > header.len() {
            let detail = || format!("it has {} cells, and the header {}", cells.len(), header.len());
            return self.faults.tell(row, ROW, detail);
        }
        let cell = |name: &str| {
            let at = header.iter().position(|column| column == name)?;
            cells.get(at).map(|cell| &**cell).filter(|cell| !cell.is_empty())
        };
        let Some(name) = cell(CAMPAIGN).or(defaults.campaign.as_deref()) else {
            return self.faults.tell(row, CAMPAIGN, || "it names no campaign".to_owned());
        };
        let Some(campaign) = self.catalog.campaign(name) else {
            return self.faults.tell(row, CAMPAIGN, || format!("there is no campaign `{}`", excerpt(name)));
        };
        self.reach_into(campaign);
        let slot = match cell(SLOT).or(defaults.slot.as_deref()) {
            None => Err("it names no slot".to_owned()),
            Some(name) => campaign
                .slot_index(name)
                .map(|index| &campaign.slots[index])
                .ok_or_else(|| format!("campaign `{}` has no slot `{}`", campaign.name, excerpt(name))),
        };
        let seed = cell(SEED).map(|text| text.parse::<u32>().map_err(|_| text)).transpose();
        let before = self.faults.total;
        let slot = slot.map_err(|reason| self.faults.tell(row, SLOT, || reason)).ok();
        let seed = seed.map_err(|text| {
            self.faults.tell(row, SEED, || format!("`{}` is no whole number up to {}", excerpt(text), u32::MAX));
        });
        let values = self.values(row, campaign, header, cells);
        if let (Some(slot), Ok(seed), true) = (slot, seed, self.faults.total == before) {
            let chosen = Chosen { campaign, slot, values: &values };
            if let Some(broken) = campaign.forbidden(&values) {
                let other = &campaign.axes[broken.restriction.axis].name;
                let detail = || format!("`{}` does not stand beside this value of `{other}`", broken.value.name);
                return self.faults.tell(row, &broken.axis.name, detail);
            }
            self.take(row, SEED, &chosen, seed, &defaults.seeds);
        }
    }

    /// One value per axis; an axis without one has its default.
    fn values(&mut self, row: u64, campaign: &Campaign, header: &[Cow<'_, str>], cells: &[Cow<'_, str>]) -> Vec<usize> {
        if !self.columns.contains_key(&campaign.name) {
            let axes = header.iter().map(|name| campaign.axis_index(name)).collect();
            self.columns.insert(campaign.name.clone(), axes);
        }
        let axes = &self.columns[&campaign.name];
        let mut values: Vec<usize> = campaign.axes.iter().map(|axis| axis.default).collect();
        for ((name, cell), axis) in header.iter().zip(cells).zip(axes) {
            if cell.is_empty() || matches!(&**name, CAMPAIGN | SLOT | SEED) {
                continue;
            }
            let Some(axis) = *axis else {
                let has_column = self.catalog.campaigns().any(|other| other.axis_index(name).is_some());
                // What no campaign has was told of the header.
                if has_column {
                    let detail = || format!("campaign `{}` has no axis `{}`", campaign.name, excerpt(name));
                    self.faults.tell(row, name, detail);
                }
                continue;
            };
            match campaign.axes[axis].value_index_in_url(cell) {
                Some(value) => values[axis] = value,
                None => self.faults.tell(row, name, || format!("`{name}` has no value `{}`", excerpt(cell))),
            }
        }
        values
    }

    /// A picture with one seed, or with those that are asked of each.
    fn take(&mut self, row: u64, column: &str, chosen: &Chosen<'_>, seed: Option<u32>, each: &SeedsOfEach) {
        let Chosen { campaign, slot, values } = *chosen;
        let picture = campaign.picture_of(slot, values);
        let is_own_alone = seed.is_none() && *each == SeedsOfEach::OWN;
        if is_own_alone && slot.drawn().is_some() {
            return self.add(row, picture.into(), None);
        }
        let own = match variant_recipe(campaign, slot, values) {
            Ok(MasterRecipe::Drawn(recipe)) => recipe.seed,
            Ok(MasterRecipe::Imported(_)) if is_own_alone => return self.add(row, picture.into(), None),
            Ok(MasterRecipe::Imported(_)) => {
                return self.faults.tell(row, column, || format!("no model draws `{picture}`: it is imported"));
            }
            Ok(MasterRecipe::Awaited(_)) => {
                return self.faults.tell(row, SLOT, || format!("`{picture}` awaits a picture that a person brings"));
            }
            Err(error) => return self.faults.tell(row, ROW, || error.to_string()),
        };
        let seeds: Vec<u32> = match (seed, each) {
            (Some(seed), _) => vec![seed],
            (None, SeedsOfEach::Count(count)) => (0..*count).map(|step| own.wrapping_add(step)).collect(),
            (None, SeedsOfEach::These(seeds)) => seeds.clone(),
        };
        for seed in seeds {
            if seed != own && !slot.review.is_required() {
                let detail =
                    || format!("people decide about no picture of `{}`: it is drawn with seed {own} alone", slot.name);
                return self.faults.tell(row, column, detail);
            }
            self.add(row, picture.as_str().into(), (seed != own).then_some(seed));
        }
    }

    fn add(&mut self, row: u64, picture: Box<str>, seed: Option<u32>) {
        if !self.known.insert((picture.clone(), seed)) {
            return;
        }
        if self.items.len() == PICTURES_MAX {
            return self.faults.tell(row, ROW, too_many);
        }
        self.items.push(Item::waiting(picture, seed));
    }
}

fn too_many() -> String {
    format!("a batch has at most {PICTURES_MAX} pictures")
}

fn campaign_of(picture: &str) -> &str {
    picture.split('/').next().unwrap_or_default()
}

/// The path and query of an address, or of a name.
fn address(name: &str) -> Cow<'_, str> {
    let path = after_host(name.trim());
    if path.starts_with(IMAGE_PATH_PREFIX) {
        return Cow::Borrowed(path);
    }
    Cow::Owned(format!("{IMAGE_PATH_PREFIX}{}", path.trim_start_matches('/')))
}

fn said(name: &str, refusal: &Refusal) -> String {
    format!("`{}` is no picture: {refusal}", excerpt(name))
}

#[cfg(test)]
mod tests;
