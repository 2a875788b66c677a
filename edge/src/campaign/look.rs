//! `[slots.NAME.look]`: what all pictures of a slot have in common beside what is drawn.
//!
//! A grade is a file of the folder `looks/` beside the manifests. Invariant: it is used only if its digest is the lock's.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bildkante_shared::ids::Digest;

use super::fault::Fault;
use super::pins::Pins;
use super::reader::{TableReader, no_hint};
use super::slots::Slot;
use crate::render::{CUBE_BYTES_MAX, Cube, Grain, Look, Sharpen};

/// Strongest grain: a quarter of the range of samples.
const STRENGTH_MAX: f64 = 0.25;
/// Smallest and largest grain, in pixels of a picture 1280 px wide.
const SIZE_MIN: f64 = 0.5;
const SIZE_MAX: f64 = 8.0;
const NAME_BYTES_MAX: usize = 100;
const FOLDER: &str = "looks";

/// What a manifest says of a look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotLook {
    pub sharpen: Option<Sharpen>,
    pub grain: Option<Grain>,
    /// The name of a file in `looks/`.
    pub lut: Option<String>,
}

/// Grades by the names of their files.
pub(super) type Grades = BTreeMap<String, Arc<Cube>>;

/// Reads `[slots.NAME.look]`. `None` where nothing is to be done.
pub(super) fn read(slot: &TableReader<'_, '_>) -> Option<SlotLook> {
    let table = slot.table("look")?;
    let sharpen = table.number("sharpen", 0.0..=1.0).and_then(|amount| Sharpen::new(thousandths(amount)));
    let grain = table.table("grain").and_then(|grain| read_grain(&grain));
    let lut = table.text("lut").and_then(|text| {
        let name = text.value.strip_prefix("looks/").filter(|name| is_file_name(name));
        if name.is_none() {
            let reason = "`lut` is a file of the folder beside the manifests: \"looks/NAME.cube\", of letters, digits, `.`, `_` and `-`";
            table.fault(&text.span, reason);
        }
        name.map(str::to_owned)
    });
    table.finish(no_hint);
    let look = SlotLook { sharpen, grain, lut };
    (look != SlotLook { sharpen: None, grain: None, lut: None }).then_some(look)
}

fn read_grain(table: &TableReader<'_, '_>) -> Option<Grain> {
    if !table.has("strength") {
        table.missing("strength", "`strength` is missing: how far grain moves a sample, 0 to 0.25 of the whole range");
    }
    let strength = table.number("strength", 0.0..=STRENGTH_MAX);
    let size = table.number("size", SIZE_MIN..=SIZE_MAX).unwrap_or(1.0);
    table.finish(no_hint);
    let grain = Grain { strength_thousandths: thousandths(strength?), size_thousandths: thousandths(size) };
    (grain.strength_thousandths > 0).then_some(grain)
}

/// Of a number up to eight.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounded by its reader")]
fn thousandths(number: f64) -> u16 {
    (number * 1_000.0).round() as u16
}

fn is_file_name(name: &str) -> bool {
    let is_plain = |c: u8| c.is_ascii_alphanumeric() || b"._-".contains(&c);
    name.len() <= NAME_BYTES_MAX
        && name.len() > ".cube".len()
        && name.ends_with(".cube")
        && !name.starts_with('.')
        && name.bytes().all(is_plain)
}

/// Where a grade lies.
pub(super) fn path(campaigns_dir: &Path, name: &str) -> PathBuf {
    campaigns_dir.join(FOLDER).join(name)
}

/// Every grade that slots name, read and checked against the lock. A fault is told at the manifest.
pub(super) fn grades(
    slots: &[Slot],
    pins: &Pins,
    (campaigns_dir, manifest): (&Path, &Path),
    faults: &mut Vec<Fault>,
) -> Grades {
    let mut grades = Grades::new();
    for name in slots.iter().filter_map(|slot| slot.look.as_ref()?.lut.as_ref()) {
        if grades.contains_key(name) {
            continue;
        }
        match grade(&path(campaigns_dir, name), pins.looks.get(name)) {
            Ok(cube) => _ = grades.insert(name.clone(), Arc::new(cube)),
            Err(reason) => faults.push(Fault::of_file(manifest, format!("`{FOLDER}/{name}`: {reason}"))),
        }
    }
    grades
}

fn grade(path: &Path, pinned: Option<&Digest>) -> Result<Cube, String> {
    let file = read_bounded(path).map_err(|error| error.to_string())?;
    let cube = Cube::read(&file).map_err(|error| error.to_string())?;
    if pinned == Some(cube.digest()) {
        return Ok(cube);
    }
    Err("it is not the file that the lock names; run `bildkante-edge lock`".to_owned())
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = Vec::new();
    File::open(path)?.take(CUBE_BYTES_MAX as u64 + 1).read_to_end(&mut file)?;
    Ok(file)
}

impl SlotLook {
    /// With its grade. One that is missing has been told.
    pub(super) fn with(&self, grades: &Grades) -> Arc<Look> {
        let grade = self.lut.as_ref().and_then(|name| grades.get(name)).cloned();
        Arc::new(Look { grade, sharpen: self.sharpen, grain: self.grain })
    }
}

#[cfg(test)]
mod tests {
    use crate::campaign::tests::Site;
    use crate::resolve::{Operator, resolve};

    const IDENTITY: &str = "LUT_3D_SIZE 2\n0 0 0\n1 0 0\n0 1 0\n1 1 0\n0 0 1\n1 0 1\n0 1 1\n1 1 1\n";

    fn with(look: &str) -> Site {
        let site = Site::new();
        site.edit("campaigns/autumn.toml", "[slots.teaser]", &format!("[slots.hero.look]\n{look}\n\n[slots.teaser]"));
        site
    }

    fn finishes(site: &Site) -> [String; 2] {
        let catalog = site.load();
        ["hero", "teaser"].map(|slot| {
            let url = format!("/i/autumn/{slot}?w=160");
            let found = resolve(&catalog, url.as_str(), &Operator).outcome.expect("a variant");
            format!("{:?}", found.resolved.variant.finish.digest())
        })
    }

    #[test]
    fn a_look_is_part_of_the_finish_of_its_slot_and_of_no_other() {
        let plain = finishes(&Site::new());
        let sharp = finishes(&with("sharpen = 0.4"));
        let grainy = finishes(&with("sharpen = 0.4\ngrain = { strength = 0.05, size = 1.5 }"));
        assert!(plain[0] != sharp[0] && sharp[0] != grainy[0] && plain[0] != grainy[0]);
        assert!(plain[1] == sharp[1] && plain[1] == grainy[1]);
        assert_eq!(finishes(&with("sharpen = 0\ngrain = { strength = 0 }")), plain, "nothing to do is no look");
    }

    #[test]
    fn a_grade_is_pinned_by_the_lock() {
        let site = with("lut = \"looks/warm.cube\"");
        site.write("campaigns/looks/warm.cube", IDENTITY);
        site.lock();
        let lock = std::fs::read_to_string(site.path("campaigns/autumn.lock.toml")).expect("a lock");
        assert!(lock.contains("[looks]\n\"warm.cube\" = \""), "{lock}");
        assert_ne!(finishes(&site)[0], finishes(&Site::new())[0]);
        site.write("campaigns/looks/warm.cube", &format!("# changed\n{IDENTITY}"));
        assert!(site.faults().contains("`looks/warm.cube`: it is not the file that the lock names"));
        site.write("campaigns/looks/warm.cube", "LUT_3D_SIZE 2\n0 0\n");
        assert!(site.faults().contains("`looks/warm.cube`: line 2: a value is three numbers"));
    }

    #[test]
    fn what_is_no_look_is_refused_at_its_place() {
        let told = |look: &str| with(look).faults();
        assert!(told("sharpen = 2").contains("sharpen"));
        assert!(told("grain = { size = 2 }").contains("`strength` is missing"));
        assert!(told("blur = 1").contains("blur"));
        for lut in ["../etc/passwd", "looks/../x.cube", "warm.cube", "looks/.cube", "looks/a/b.cube"] {
            assert!(told(&format!("lut = \"{lut}\"")).contains("`lut` is a file of the folder"), "{lut}");
        }
    }
}
