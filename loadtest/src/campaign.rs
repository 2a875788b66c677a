//! URLs from a campaign's manifest: every axis named, every slot, every width of its ladder.
//!
//! Only the names are read. What they mean is the edge's business, which refuses what is wrong.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// URLs from one manifest; a campaign of more is asked in part.
pub const URLS_MAX: usize = 1_000_000;

/// Why a manifest gives no URLs.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("{path}: {source}", path = path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{path} is no manifest: {source}", path = path.display())]
    Malformed { path: PathBuf, source: Box<toml::de::Error> },
    #[error("{path} has no slot `{slot}`", path = path.display())]
    NoSlot { path: PathBuf, slot: String },
}

#[derive(Debug, Deserialize)]
struct Manifest {
    campaign: String,
    #[serde(default)]
    axes: BTreeMap<String, Axis>,
    slots: BTreeMap<String, Slot>,
}

#[derive(Debug, Deserialize)]
struct Axis {
    values: BTreeMap<String, toml::Value>,
}

#[derive(Debug, Deserialize)]
struct Slot {
    widths: Vec<u32>,
}

/// Paths of up to `count` renditions, in an order that spreads over axes, slots and widths. `slot` chooses one.
///
/// # Errors
/// When the file is none of a campaign.
pub fn paths(manifest: &Path, slot: Option<&str>, count: usize) -> Result<Vec<String>, ManifestError> {
    let at = || manifest.to_owned();
    let text = std::fs::read_to_string(manifest).map_err(|source| ManifestError::Unreadable { path: at(), source })?;
    let parsed: Manifest =
        toml::from_str(&text).map_err(|source| ManifestError::Malformed { path: at(), source: Box::new(source) })?;
    if let Some(slot) = slot
        && !parsed.slots.contains_key(slot)
    {
        return Err(ManifestError::NoSlot { path: at(), slot: slot.to_owned() });
    }
    let cuts: Vec<(&str, u32)> = parsed
        .slots
        .iter()
        .filter(|(name, _)| slot.is_none_or(|slot| slot == name.as_str()))
        .flat_map(|(name, slot)| slot.widths.iter().map(|width| (name.as_str(), *width)))
        .collect();
    let axes: Vec<(&str, Vec<&str>)> = parsed
        .axes
        .iter()
        .map(|(name, axis)| (name.as_str(), axis.values.keys().map(String::as_str).collect()))
        .collect();
    let variants = axes.iter().fold(1_usize, |product, (_, values)| product.saturating_mul(values.len()));
    let total = variants.saturating_mul(cuts.len());
    let step = stride(total);
    let mut paths = Vec::with_capacity(count.min(total));
    let mut at = 0;
    for _ in 0..count.min(total).min(URLS_MAX) {
        paths.push(path(&parsed.campaign, &axes, cuts[at % cuts.len()], at / cuts.len()));
        at = (at + step) % total;
    }
    Ok(paths)
}

fn path(campaign: &str, axes: &[(&str, Vec<&str>)], (slot, width): (&str, u32), variant: usize) -> String {
    let mut path = format!("/i/{campaign}/{slot}?");
    let mut rest = variant;
    for (name, values) in axes {
        path.push_str(&format!("{name}={}&", values[rest % values.len()]));
        rest /= values.len();
    }
    path.push_str(&format!("w={width}"));
    path
}

/// A step near the golden section that has no factor in common with `total`: repeated, it meets every number once.
fn stride(total: usize) -> usize {
    let mut step = ((total as f64 * 0.618_034) as usize).max(1);
    while gcd(step, total.max(1)) != 1 {
        step += 1;
    }
    step
}

const fn gcd(mut a: usize, mut b: usize) -> usize {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn studio() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/campaigns/studio.toml")
    }

    #[test]
    fn every_rendition_comes_once() {
        let all = paths(&studio(), Some("hero"), URLS_MAX).expect("the demo campaign");
        assert_eq!(all.len(), 8 * 13 * 3 * 10 * 4 * 4);
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len());
        assert!(all.iter().all(|path| path.matches('=').count() == 6), "five axes and a width");
    }

    #[test]
    fn a_few_are_not_all_of_one_kind() {
        let some = paths(&studio(), None, 50).expect("the demo campaign");
        let slots: HashSet<_> = some.iter().map(|path| path.split('?').next()).collect();
        assert_eq!(slots.len(), 3, "{some:?}");
    }

    #[test]
    fn what_is_no_manifest_says_so() {
        assert!(matches!(paths(Path::new("/nowhere"), None, 1), Err(ManifestError::Unreadable { .. })));
        assert!(matches!(paths(&studio(), Some("banner"), 1), Err(ManifestError::NoSlot { .. })));
    }
}
