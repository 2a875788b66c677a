//! `seeds` of a slot: pictures whose seed a person chose among candidates, by the values that they differ by.
//!
//! A seed chosen here is the recipe's, in the place of what `seed` says; so the manifest draws the same recipe, with the same id,
//! that was drawn as a candidate. Invariant: a name is that of one picture of the slot, written as the lock writes it.

use std::collections::BTreeMap;

use super::axes::ReadAxis;
use super::fault::listing;
use super::reader::TableReader;

/// Most pictures of a slot with a seed of their own.
const SEEDS_MAX: usize = 10_000;

/// Seeds by `axis=value&…`, the axes by name: those that its pictures differ by and no others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChosenSeeds(BTreeMap<String, u32>);

impl ChosenSeeds {
    /// Of the picture with these values.
    #[must_use]
    pub fn of(&self, picture: &str) -> Option<u32> {
        self.0.get(picture).copied()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Reads them. Names are judged by the axes that pictures differ by.
pub(super) fn read(slot: &TableReader<'_, '_>, axes: &[ReadAxis], differs: impl Fn(usize) -> bool) -> ChosenSeeds {
    let mut seeds = BTreeMap::new();
    let Some(table) = slot.table("seeds") else { return ChosenSeeds::default() };
    for (name, seed) in table.named_integers(0..=u32::MAX, SEEDS_MAX) {
        match picture(name.value, axes, &differs) {
            Ok(picture) => {
                if seeds.insert(picture, seed).is_some() {
                    table.fault(&name.span, format!("`{}` has two seeds", name.value));
                }
            }
            Err(reason) => table.fault(&name.span, reason),
        }
    }
    ChosenSeeds(seeds)
}

/// The picture that a name means, as the lock names it behind its slot.
fn picture(name: &str, axes: &[ReadAxis], differs: &dyn Fn(usize) -> bool) -> Result<String, String> {
    let mut values = BTreeMap::new();
    for pair in name.split('&').filter(|pair| !pair.is_empty()) {
        let (axis, value) = pair.split_once('=').ok_or_else(|| format!("`{pair}` is no `axis=value`"))?;
        let (index, read) = axes
            .iter()
            .enumerate()
            .find(|(_, read)| read.axis.name == axis)
            .ok_or_else(|| format!("there is no axis `{axis}`"))?;
        if !differs(index) {
            return Err(format!(
                "pictures of this slot do not differ by `{axis}`: its prompt does not use it, and no place of a layer"
            ));
        }
        if read.axis.value_index(value).is_none() {
            let names = read.axis.value_names();
            return Err(format!("axis `{axis}` has no value `{value}`; it has {}", listing(&names, 12)));
        }
        if values.insert(axis, value).is_some() {
            return Err(format!("`{axis}` stands in it twice"));
        }
    }
    let used = axes.iter().enumerate().filter(|(index, _)| differs(*index)).map(|(_, read)| &read.axis.name);
    let missing: Vec<&str> = used.map(String::as_str).filter(|axis| !values.contains_key(axis)).collect();
    if !missing.is_empty() {
        return Err(format!(
            "a picture is named by a value for each axis that pictures differ by; not named: {}",
            listing(&missing, 8)
        ));
    }
    let pairs: Vec<String> = values.into_iter().map(|(axis, value)| format!("{axis}={value}")).collect();
    Ok(pairs.join("&"))
}
