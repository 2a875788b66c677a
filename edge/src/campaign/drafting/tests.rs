//! The patch of a draft, applied with `patch`, gives the variant the draft's recipe.

use std::io::Write as _;
use std::process::{Command, Stdio};

use super::*;
use crate::campaign::Catalog;
use crate::campaign::tests::Site;

/// The variant of a query, and the drafts of these changes.
fn drafts(
    site: &Site,
    (slot, query): (&str, &[(&str, &str)]),
    changes: &[(&str, &str)],
    (reach, seeds): (Reach, DraftSeeds),
) -> Result<Vec<Draft>, DraftError> {
    let (catalog, sources) = (site.load(), site.sources());
    let (slot_index, combination) = at(&catalog, slot, query);
    let of = Drafted { campaign: "autumn", slot_index, combination };
    let parsed = changes.iter().map(|(id, value)| Ok((id.parse()?, (*value).to_owned())));
    let changes: Result<BTreeMap<KnobId, String>, DraftError> = parsed.collect();
    Drafting::open(&sources, &catalog, of)?.drafts((&sources, &catalog), of, (&changes?, reach), seeds)
}

fn at(catalog: &Catalog, slot: &str, query: &[(&str, &str)]) -> (usize, u32) {
    let campaign = catalog.campaign("autumn").expect("there");
    let mut combination = campaign.default_combination();
    for (axis, value) in query {
        let axis = campaign.axis_index(axis).expect("an axis");
        let value = campaign.axes[axis].value_index(value).expect("a value");
        combination = campaign.replaced(combination, axis, value);
    }
    (campaign.slot_index(slot).expect("a slot"), combination)
}

const ONE: DraftSeeds = DraftSeeds { first: None, count: 1 };

/// Applies a patch as a person does.
fn apply(site: &Site, patch: &str) {
    let mut run = Command::new("patch")
        .args(["-p1", "--fuzz=0", "--silent"])
        .current_dir(site.path(""))
        .stdin(Stdio::piped())
        .spawn()
        .expect("`patch` is there");
    run.stdin.take().expect("piped").write_all(patch.as_bytes()).expect("written");
    assert!(run.wait().expect("it ends").success(), "{patch}");
}

/// Recipes of all variants by name.
fn recipes(catalog: &Catalog) -> BTreeMap<String, bildkante_shared::ids::RecipeId> {
    let campaigns = catalog.campaigns();
    let all = campaigns.flat_map(|campaign| {
        (0..campaign.slots.len()).flat_map(move |slot| {
            campaign.combinations().filter_map(move |combination| catalog.variant(campaign, slot, combination).ok())
        })
    });
    all.map(|variant| (variant.name.clone(), variant.recipe.id())).collect()
}

fn check(slot: (&str, &[(&str, &str)]), changes: &[(&str, &str)], how: (Reach, DraftSeeds)) -> Vec<Draft> {
    let made = drafts(&Site::new(), slot, changes, how).expect("a draft");
    for draft in &made {
        let site = Site::new();
        let before = recipes(&site.load());
        apply(&site, &draft.patch);
        let after = recipes(&site.load());
        assert_eq!(after.get(&draft.variant.name), Some(&draft.variant.recipe.id()), "{}", draft.patch);
        let changed: Vec<_> = before.iter().filter(|(name, recipe)| after.get(*name) != Some(recipe)).collect();
        assert_eq!(draft.effect.variants, changed.len(), "{}", draft.patch);
        let distinct: std::collections::BTreeSet<_> = changed.iter().map(|(name, _)| after[*name]).collect();
        assert_eq!(draft.effect.recipes.len(), distinct.len(), "{}", draft.patch);
    }
    made
}

#[test]
fn every_knob_of_a_variant_is_patched_into_the_files() {
    let site = Site::new();
    let (catalog, sources) = (site.load(), site.sources());
    let slots: Vec<String> =
        catalog.campaign("autumn").expect("there").slots.iter().map(|slot| slot.name.clone()).collect();
    let mut seen = 0;
    for slot in &slots {
        let (slot_index, combination) = at(&catalog, slot, &[]);
        let of = Drafted { campaign: "autumn", slot_index, combination };
        let Ok(drafting) = Drafting::open(&sources, &catalog, of) else { continue };
        for knob in drafting.knobs(&catalog, of) {
            let value = match knob.kind {
                KnobKind::Text => format!("{} changed", knob.value),
                KnobKind::List => "one,  two words".to_owned(),
                KnobKind::Whole { .. } => "7".to_owned(),
                KnobKind::Number { .. } | KnobKind::Weight { .. } => "0.75".to_owned(),
            };
            for reach in Reach::ALL {
                let drafts = check((slot, &[]), &[(&knob.id.to_string(), &value)], (reach, ONE));
                assert_eq!(drafts.len(), 1);
                assert!(!drafts[0].patch.is_empty() && drafts[0].effect.variants > 0, "{slot}: {}", knob.id);
                seen += 1;
            }
        }
    }
    assert!(seen >= 20, "{seen}");
}

#[test]
fn four_drafts_differ_by_their_seeds_alone() {
    let seeds = DraftSeeds { first: Some(77), count: 4 };
    let drafts = check(("hero", &[("colour", "red")]), &[("steps", "9")], (Reach::Slot, seeds));
    assert_eq!(drafts.iter().map(|draft| draft.seed).collect::<Vec<_>>(), [77, 78, 79, 80]);
    // A seed alone changes one picture.
    let own = check(("hero", &[("colour", "red")]), &[], (Reach::Slot, seeds));
    assert!(own.iter().all(|draft| draft.effect.recipes.len() == 1), "{:?}", own[0].effect);
}

/// Another campaign with the same library, and pictures of its own.
fn with_neighbour() -> Site {
    let site = Site::new();
    let text = std::fs::read_to_string(site.path("campaigns/autumn.toml")).expect("readable");
    let text = text.replace("campaign = \"autumn\"", "campaign = \"abroad\"").replace("base = 1_207", "base = 7");
    site.write("campaigns/abroad.toml", &text);
    site.lock();
    site
}

#[test]
fn a_campaign_comes_before_others_that_share_its_library() {
    let made = drafts(&with_neighbour(), ("hero", &[]), &[("block:floor", "on sand")], (Reach::Slot, ONE));
    let effect = made.expect("a draft").remove(0).effect;
    let is_own: Vec<bool> = effect.recipes.iter().map(|it| it.variant.starts_with("autumn/")).collect();
    assert!(is_own.contains(&true) && is_own.contains(&false), "{effect:?}");
    assert!(is_own.is_sorted_by(|one, other| one >= other), "its own come first: {effect:?}");
}

#[test]
fn what_is_wrong_with_another_campaign_is_not_told() {
    let site = with_neighbour();
    // There, the prompt has no room for a longer text.
    let long = format!("{} {{block:floor}}", "x".repeat(3_000));
    site.edit("campaigns/abroad.toml", "{block:floor}", &long);
    let floor = "y ".repeat(1_000);
    let made = drafts(&site, ("hero", &[]), &[("block:floor", &floor)], (Reach::Slot, ONE));
    let reason = made.expect_err("refused").to_string();
    assert!(reason.contains("another campaign") && !reason.contains("abroad"), "{reason}");
}

#[test]
fn a_long_prompt_is_drafted_as_any_other() {
    let site = Site::new();
    let long = "x ".repeat(1_500);
    site.edit("campaigns/autumn.toml", "{style:soft}, a", &format!("{{style:soft}}, {long} a"));
    let prompt = format!("{{style:soft}}, {long} a {{finish}} {{colour}} {{product}} {{block:floor}}");
    let made = drafts(&site, ("hero", &[]), &[("prompt", &prompt), ("steps", "9")], (Reach::Slot, ONE));
    assert!(made.is_ok_and(|made| made[0].patch.contains("steps")), "forms send every field, also unchanged");
}

#[test]
fn what_is_not_changed_is_no_patch() {
    let site = Site::new();
    let (catalog, sources) = (site.load(), site.sources());
    let (slot_index, combination) = at(&catalog, "hero", &[]);
    let of = Drafted { campaign: "autumn", slot_index, combination };
    let knobs = Drafting::open(&sources, &catalog, of).expect("open").knobs(&catalog, of);
    let ids: Vec<(String, String)> = knobs.iter().map(|it| (it.id.to_string(), format!(" {}\r\n", it.value))).collect();
    let same: Vec<(&str, &str)> = ids.iter().map(|(id, value)| (id.as_str(), value.as_str())).collect();
    let made = drafts(&site, ("hero", &[]), &same, (Reach::Campaign, ONE)).expect("a draft");
    assert_eq!((made[0].patch.as_str(), made[0].effect.variants), ("", 0));
    let own = catalog.campaign("autumn").expect("there");
    let variant = catalog.variant(own, slot_index, combination).expect("a variant");
    assert_eq!((made[0].variant.recipe.id(), made[0].variant.key), (variant.recipe.id(), variant.key));
}

#[test]
fn what_cannot_be_drafted_says_why() {
    let site = Site::new();
    let refused = |changes: &[(&str, &str)]| {
        let made = drafts(&site, ("hero", &[]), changes, (Reach::Slot, ONE));
        made.err().map(|error| error.to_string()).unwrap_or_default()
    };
    for (changes, reason) in [
        ([("steps", "0")], "`steps`: it is a whole number from 1"),
        ([("steps", "many")], "`steps`: it is a whole number"),
        ([("guidance", "-1")], "`guidance`: it is a number from 0"),
        ([("colour", "red")], "`colour` is nothing that a draft"),
        ([("block:none", "x")], "`block:none` is nothing that a draft"),
        ([("prompt", "a {nothing}")], "with these changes the campaign would be refused"),
        ([("prompt", "a \u{7} b")], "control character"),
        ([("prompt:x", "a")], "`prompt:x` is nothing"),
    ] {
        assert!(refused(&changes).contains(reason), "{changes:?}: {}", refused(&changes));
    }
    let long = "x".repeat(5_000);
    assert!(refused(&[("prompt", &long)]).contains("at most 4096 bytes"));
    let catalog = site.load();
    site.edit("campaigns/autumn.toml", "schema", "# later\nschema");
    let (slot_index, combination) = at(&catalog, "hero", &[]);
    let of = Drafted { campaign: "autumn", slot_index, combination };
    assert!(matches!(Drafting::open(&site.sources(), &catalog, of), Err(DraftError::FilesChanged)));
}
