//! The cuts of a slot: other framings of the same masters for other screens (art direction).
//!
//! A slot's own framing is its default cut, which has no name and no condition. Invariants: names differ; a browser takes the first
//! cut whose condition holds, so the order is the author's; where a slot has cuts, `art` is a parameter of its URLs and no axis.

use super::framing::{Bounds, Framing};
use super::media::MediaCondition;
use super::names::is_name;
use super::reader::{TableReader, no_hint};

/// Most cuts of a slot, beside its own framing.
pub const CUTS_MAX: usize = 8;
/// The parameter that names a cut.
pub const ART: &str = "art";
/// The name of a slot's own framing, where layers say in which cuts they are.
pub const DEFAULT_CUT: &str = "default";
/// Longest name: it stands in every URL of the cut.
const NAME_BYTES_MAX: usize = 40;

/// See the module's documentation.
#[derive(Debug, Clone, PartialEq)]
pub struct Cut {
    pub name: String,
    /// When a page shows it.
    pub media: MediaCondition,
    pub framing: Framing,
}

/// Reads `[[slots.NAME.cuts]]`.
pub(super) fn read(slot: &TableReader<'_, '_>, bounds: Bounds, has_axis_art: bool) -> Vec<Cut> {
    let tables = slot.list_of_tables("cuts", CUTS_MAX);
    if !tables.is_empty() && has_axis_art {
        let reason = "a slot with cuts takes them by `art`, which is an axis of this campaign: rename the axis";
        slot.fault(tables[0].span(), reason);
    }
    let mut cuts: Vec<Cut> = Vec::with_capacity(tables.len());
    for table in &tables {
        let cut = read_cut(table, bounds);
        if let Some(other) = cut.as_ref().and_then(|cut| cuts.iter().find(|other| other.name == cut.name)) {
            table.fault(table.span(), format!("two cuts of this slot are called `{}`", other.name));
        }
        cuts.extend(cut);
    }
    cuts
}

fn read_cut(table: &TableReader<'_, '_>, bounds: Bounds) -> Option<Cut> {
    let name = table.required_text("name").filter(|name| {
        let is_right = is_name(name.value) && name.value.len() <= NAME_BYTES_MAX && name.value != DEFAULT_CUT;
        if !is_right {
            let reason = format!(
                "a cut's name is at most {NAME_BYTES_MAX} of a-z, 0-9 and -; `{DEFAULT_CUT}` is the slot's own framing"
            );
            table.fault(&name.span, reason);
        }
        is_right
    });
    if !table.has("media") {
        table.missing("media", "`media` is missing: when a page shows this cut, such as \"(max-width: 40rem)\"");
    }
    let media = table.parsed::<MediaCondition>("media");
    let framing = Framing::read(table, bounds);
    table.finish(no_hint);
    Some(Cut { name: name?.value.to_owned(), media: media?, framing: framing? })
}

#[cfg(test)]
mod tests {
    use crate::campaign::tests::Site;
    use crate::render::{Anchor, Shape};
    use crate::resolve::{Operator, Resolution, resolve};
    use crate::words::Format;

    const CUTS: &str = "[[slots.hero.cuts]]\nname = \"tall\"\nmedia = \"(max-width: 40rem)\"\nratio = \"4:5\"\n\
                        focal = [0.25, 0.5]\nwidths = [240, 480]\nsafe_area = { top = 5, left = 10 }\n\n\
                        [[slots.hero.cuts]]\nname = \"square\"\nmedia = \"(orientation: portrait)\"\nratio = \"1:1\"\n\
                        widths = [320]\nsizes = \"50vw\"\n\n";

    fn with(cuts: &str) -> Site {
        let site = Site::new();
        site.edit("campaigns/autumn.toml", "[slots.teaser]", &format!("{cuts}[slots.teaser]"));
        site
    }

    fn meant(site: &Site, url: &str) -> Result<Resolution, String> {
        let refused = |refusal: crate::resolve::Refusal| format!("{:?}", refusal.problem());
        resolve(&site.load(), url, &Operator).outcome.map_err(refused)
    }

    #[test]
    fn a_cut_has_its_own_ladder_ratio_and_focal_point() {
        let site = with(CUTS);
        let of = |url: &str| {
            let Resolution { resolved, .. } = meant(&site, url).expect("a variant");
            let spec = resolved.spec(Format::Avif);
            (spec.width_px, spec.height_px, spec.shape, resolved.rendition_url())
        };
        let focal = Shape::Cut(Anchor::Point { x: 250, y: 500 });
        let (width, height, shape, url) = of("/i/autumn/hero?w=300&art=tall&product=mug");
        assert_eq!((width, height, shape), (480, 600, focal));
        assert_eq!(url, "/i/autumn/hero?product=mug&art=tall&w=480");
        assert_eq!(of(&url).3, url, "it is the one URL of its rendition");
        assert_eq!(of("/i/autumn/hero?ART=Square&w=9").0, 320);
        assert_eq!(of("/i/autumn/hero?w=300").2, Shape::DEFAULT);
        let allowed = meant(&site, "/i/autumn/hero?art=wide").expect_err("there is none");
        assert!(allowed.contains("has no cut `wide`") && allowed.contains("\"tall\", \"square\""), "{allowed}");
    }

    #[test]
    fn without_cuts_art_is_a_name_as_any_other_and_keys_stay() {
        let plain = Site::new();
        let refused = meant(&plain, "/i/autumn/teaser?art=tall").expect_err("no such parameter");
        assert!(refused.contains("neither an axis"), "{refused}");
        let version = |site: &Site, slot: usize| *site.load().campaign("autumn").expect("it").rendition_digest(slot);
        let (with, without) = (with(CUTS), plain);
        assert_eq!(version(&with, 1), version(&without, 1), "another slot's cuts are not its own");
        assert_ne!(version(&with, 0), version(&without, 0));
        let refused = meant(&with, "/i/autumn/teaser?art=tall").expect_err("the teaser has no cuts");
        assert!(refused.contains("neither an axis"), "{refused}");
    }

    /// The master of the hero is 1344 × 768: a crop of 6:5 is 922 px wide, one of 160:600 is 205 px.
    #[test]
    fn presets_frame_places_that_others_laid_down() {
        let cut = |name: &str, preset: &str, more: &str| {
            format!(
                "[[slots.hero.cuts]]\nname = \"{name}\"\nmedia = \"(width < 30em)\"\npreset = \"{preset}\"\n{more}\n"
            )
        };
        let all = [
            cut("box", "iab-300x250", ""),
            cut("tower", "iab-160x600", ""),
            cut("own", "iab-300x250", "widths = [100]"),
        ];
        let catalog = with(&all.concat()).load();
        let hero = &catalog.campaign("autumn").expect("it").slots[0];
        let framings: Vec<_> = hero.cuts.iter().map(|cut| &cut.framing).collect();
        assert_eq!((framings[0].ratio.to_string().as_str(), &*framings[0].widths), ("6:5", &[300, 600][..]));
        assert_eq!((framings[0].sizes.as_str(), framings[0].safe_area.left), ("300px", 4.0));
        assert_eq!(framings[1].widths, [160], "twice as many pixels would be an enlargement");
        assert_eq!(framings[2].widths, [100]);
        let unknown = with(&cut("a", "iab-1x1", "")).faults();
        assert!(unknown.contains("preset") && unknown.contains("`iab-300x250`"), "{unknown}");
        let too_wide = with(&cut("a", "og-image", "ratio = \"1:1\"")).faults();
        assert!(too_wide.contains("1200 px is 1.56 times"), "{too_wide}");
    }

    /// An axis of that name stays one until a slot of the campaign has cuts.
    #[test]
    fn an_axis_called_art_is_refused_where_a_slot_has_cuts() {
        let axis =
            "[axes.art]\ndefault = \"plain\"\nvalues.plain = { label = { de = \"a\", en = \"a\" } }\n\n[slots.hero]";
        let rename = |site: &Site| site.edit("campaigns/autumn.toml", "[slots.hero]", axis);
        let plain = Site::new();
        rename(&plain);
        plain.load();
        let with = with(CUTS);
        rename(&with);
        assert!(with.faults().contains("rename the axis"), "{}", with.faults());
    }

    #[test]
    fn what_makes_no_cut_is_refused_by_name() {
        for (from, to, reason) in [
            ("\"(max-width: 40rem)\"", "\"screen and (max-width: 40rem)\"", "a media condition is such as"),
            ("\"(max-width: 40rem)\"", "\"(max-width: 40rem)\\\" onload=\\\"x\"", "cannot stand in a media condition"),
            ("media = \"(max-width: 40rem)\"\n", "", "`media` is missing"),
            ("name = \"square\"", "name = \"tall\"", "two cuts of this slot are called `tall`"),
            ("name = \"tall\"", "name = \"Tall\"", "a cut's name is at most 40 of a-z"),
            ("[240, 480]", "[240, 4800]", "above `upscale_max`"),
            ("[0.25, 0.5]", "[0.25]", "`focal` is [x, y]"),
            ("top = 5", "top = 50", "safe_area.top"),
            ("top = 5", "tip = 5", "unknown key"),
        ] {
            let faults = with(&CUTS.replacen(from, to, 1)).faults();
            assert!(faults.contains(reason), "{to}: {faults}");
        }
        let nine: String =
            (0..9).map(|at| CUTS.replace("tall", &format!("t{at}")).replace("square", &format!("s{at}"))).collect();
        assert!(with(&nine).faults().contains("at most 8"), "{}", with(&nine).faults());
    }
}
