//! Whole catalogues on disk: what is accepted, what is refused where, and what follows from it.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use bildkante_shared::import::{DigitalSource, ImportRecipe, MasterRecipe, ValidImport};
use bildkante_shared::recipe::{Prediction, SchedulerKind, SigmaSpacing};
use bildkante_shared::weighting::Weighting;
use proptest::prelude::*;
use tempfile::TempDir;

use super::check::LockRunError;
use super::fault::SourceText;
use super::manifest::Manifest;
use super::*;
use crate::provenance::{self, Description, Marking, Metadata};
use crate::request::parameters;

pub(crate) const MANIFEST: &str = include_str!("fixtures/autumn.toml");
const LIBRARY: &str = include_str!("fixtures/shots.toml");

/// Campaigns, prompts and models in a temporary folder.
pub(crate) struct Site {
    dir: TempDir,
}

impl Site {
    /// The fixture campaign, locked.
    pub(crate) fn new() -> Self {
        let site = Self { dir: tempfile::tempdir().expect("a temporary folder") };
        site.write("prompts/shots.toml", LIBRARY);
        site.write("models/base-1.0/model_index.json", "{}");
        site.write("models/other/model_index.json", "{ }");
        site.write("campaigns/autumn.toml", MANIFEST);
        site.lock();
        site
    }

    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.dir.path().join(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("created");
        std::fs::write(path, text).expect("written");
    }

    pub(crate) fn edit(&self, path: &str, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.dir.path().join(path)).expect("readable");
        assert!(text.contains(from), "{from} is not in {path}");
        self.write(path, &text.replacen(from, to, 1));
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    pub(crate) fn sources(&self) -> CatalogSources {
        CampaignConfig {
            campaigns_dir: self.path("campaigns"),
            prompts_dir: self.path("prompts"),
            ..CampaignConfig::default()
        }
        .sources()
        .expect("valid patterns")
    }

    pub(crate) fn lock(&self) {
        write_locks(&self.sources(), &self.path("models")).expect("locked");
    }

    pub(crate) fn load(&self) -> Catalog {
        Catalog::load(&self.sources()).unwrap_or_else(|errors| panic!("{errors}"))
    }

    pub(crate) fn faults(&self) -> String {
        Catalog::load(&self.sources()).expect_err("refused").to_string()
    }
}

/// The catalogue that the project comes with.
pub(crate) fn shipped() -> Catalog {
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config");
    let (campaigns_dir, prompts_dir) = (config.join("campaigns"), config.join("prompts"));
    let config = CampaignConfig { campaigns_dir, prompts_dir, ..CampaignConfig::default() };
    Catalog::load(&config.sources().expect("valid patterns")).unwrap_or_else(|errors| panic!("{errors}"))
}

/// Its demo campaign.
pub(crate) fn studio() -> std::sync::Arc<Campaign> {
    std::sync::Arc::clone(shipped().campaign("studio").expect("shipped"))
}

fn autumn(catalog: &Catalog) -> &Campaign {
    catalog.campaign("autumn").expect("loaded")
}

/// Recipe of a slot's variant with these values, the rest at their defaults.
fn variant(catalog: &Catalog, slot: &str, values: &[(&str, &str)]) -> std::sync::Arc<Variant> {
    let campaign = autumn(catalog);
    let mut combination = campaign.default_combination();
    for (axis, value) in values {
        let axis = campaign.axis_index(axis).expect("an axis");
        combination = campaign.with_value(combination, axis, campaign.axes[axis].value_index(value).expect("a value"));
    }
    catalog.variant(campaign, campaign.slot_index(slot).expect("a slot"), combination).expect("a recipe")
}

/// The recipe of a variant that a model draws.
fn drawn(variant: &Variant) -> &bildkante_shared::recipe::ValidRecipe {
    variant.recipe.drawn().expect("a model draws it")
}

#[test]
fn the_fixture_is_read_as_written() {
    let site = Site::new();
    let catalog = site.load();
    let campaign = autumn(&catalog);
    assert_eq!(
        campaign.axes.iter().map(|axis| axis.name.as_str()).collect::<Vec<_>>(),
        ["product", "colour", "finish", "locale"]
    );
    let hero = &campaign.slots[0];
    assert_eq!((hero.framing.default_width_px, hero.urgency.get(), hero.on_miss), (1344, 1, MissPolicy::Fallback));
    assert_eq!(campaign.slots[1].on_miss, MissPolicy::Wait { wait_ms: 2000, then: Stopgap::Placeholder });
    let default = variant(&catalog, "hero", &[]);
    assert_eq!(drawn(&default).prompt, "soft light, a teal bottle on a floor");
    assert_eq!(drawn(&default).seed, 1207);
    assert_eq!(drawn(&default).negative_prompt, "blurry, noise, hard shadows");
    assert_eq!(default.name, "autumn/hero?colour=teal&finish=none&locale=de-DE&product=bottle");
    assert_eq!((default.query.as_str(), default.file_stem.as_str()), ("", "autumn-bottle-teal-none"));
    let red = variant(&catalog, "hero", &[("colour", "red"), ("locale", "en-GB"), ("finish", "matte")]);
    assert_eq!(drawn(&red).prompt, "soft light, a matte red bottle on a floor");
    assert_eq!(red.query, "colour=red&finish=matte&locale=en-GB");
    assert_eq!(campaign.alt(hero, &red.values), "red bottle");
    assert_eq!(campaign.alt(hero, &default.values), "Flasche in Petrol");
    let teaser = variant(&catalog, "teaser", &[]);
    assert_eq!((drawn(&teaser).width_px, drawn(&teaser).steps), (768, 12));
}

#[test]
fn a_locale_that_changes_no_prompt_shares_the_recipe_whatever_the_seed() {
    let site = Site::new();
    for per in ["campaign", "recipe"] {
        site.edit("campaigns/autumn.toml", "per = \"campaign\"", &format!("per = \"{per}\""));
        let catalog = site.load();
        let german = variant(&catalog, "hero", &[]);
        let english = variant(&catalog, "hero", &[("locale", "en-GB")]);
        assert_eq!(german.recipe.id(), english.recipe.id());
        assert_eq!(german.dedup, english.dedup);
        assert_ne!(german.key, english.key);
        let red = variant(&catalog, "hero", &[("colour", "red")]);
        assert_eq!(drawn(&red).seed == drawn(&german).seed, per == "campaign");
    }
}

/// What a person chose among candidates draws the recipe that the candidate was, and no other picture changes.
#[test]
fn a_chosen_seed_is_the_recipe_of_the_candidate() {
    let site = Site::new();
    let catalog = site.load();
    let (before, other) = (variant(&catalog, "hero", &[]), variant(&catalog, "hero", &[("colour", "red")]));
    let candidate = before.with_seed(99).expect("it is drawn");
    assert_ne!(candidate.recipe.id(), before.recipe.id());
    assert_eq!(candidate.tags.recipe(), format!("recipe:{}", candidate.recipe.id()));
    let seeds = "ratio = \"16:9\"\nseeds = { \"product=bottle&finish=none&colour=teal\" = 99 }";
    site.edit("campaigns/autumn.toml", "ratio = \"16:9\"", seeds);
    let catalog = site.load();
    let chosen = variant(&catalog, "hero", &[]);
    assert_eq!(chosen.recipe, candidate.recipe);
    assert_eq!(chosen.dedup, before.dedup);
    assert_eq!(variant(&catalog, "hero", &[("colour", "red")]).recipe, other.recipe);
    assert_ne!(drawn(&variant(&catalog, "teaser", &[])).seed, 99, "it is the slot's");
}

#[test]
fn a_derived_seed_depends_on_the_base_and_the_recipe_alone() {
    let site = Site::new();
    site.edit("campaigns/autumn.toml", "per = \"campaign\"", "per = \"recipe\"");
    let seed = |site: &Site| drawn(&variant(&site.load(), "hero", &[])).seed;
    let before = seed(&site);
    assert_eq!(seed(&site), before);
    site.edit("campaigns/autumn.toml", "Autumn 2026", "Herbst 2026");
    assert_eq!(seed(&site), before, "a title draws nothing");
    site.edit("campaigns/autumn.toml", "base = 1_207", "base = 1208");
    assert_ne!(seed(&site), before);
}

#[test]
fn duplicates_are_looked_for_within_slot_revision_and_distinct_values() {
    let site = Site::new();
    let catalog = site.load();
    let teal = variant(&catalog, "hero", &[]).dedup.clone();
    let red = variant(&catalog, "hero", &[("colour", "red")]).dedup.clone();
    let matte = variant(&catalog, "hero", &[("finish", "matte")]).dedup.clone();
    assert_ne!(teal.scope, red.scope, "colour is distinct");
    assert!(teal.scope.ends_with("?colour=teal") && teal.scope.starts_with("autumn/hero@"), "{}", teal.scope);
    assert_eq!(teal.scope, matte.scope);
    assert_ne!(teal.variant, matte.variant);
    site.edit("campaigns/autumn.toml", "{product} in {colour}", "Neu: {product} in {colour}");
    assert_eq!(variant(&site.load(), "hero", &[]).dedup, teal, "an alt text is no revision");
    site.edit("campaigns/autumn.toml", "guidance = 5.0", "guidance = 6.0");
    assert_ne!(variant(&site.load(), "hero", &[]).dedup.scope, teal.scope);
}

#[test]
fn words_of_a_library_change_the_recipes_that_use_them() {
    let site = Site::new();
    let before = site.load();
    site.edit("prompts/shots.toml", "hard shadows", "harsh shadows");
    let after = site.load();
    assert_ne!(variant(&before, "hero", &[]).recipe.id(), variant(&after, "hero", &[]).recipe.id());
    assert_eq!(variant(&before, "teaser", &[]).recipe.id(), variant(&after, "teaser", &[]).recipe.id());
    assert_ne!(before.digest(), after.digest());
}

#[test]
fn restrictions_shrink_the_set_of_variants() {
    let site = Site::new();
    let all = autumn(&site.load()).combination_count();
    assert_eq!(all, 2 * 3 * 2 * 2);
    site.edit(
        "campaigns/autumn.toml",
        "prompt = \"gold\",",
        "prompt = \"gold\", only = { product = [\"mug\"], finish = [\"none\"] },",
    );
    let catalog = site.load();
    let campaign = autumn(&catalog);
    // Gold goes with one of two products and one of two finishes.
    assert_eq!(campaign.combination_count(), 2 * 2 * 2 * 2 + 2);
    assert_eq!(campaign.combinations().count() as u64, campaign.combination_count());
}

/// (what is replaced, by what, parts of the faults)
const REFUSED: &[(&str, &str, &[&str])] = &[
    ("schema   = 1", "schema = 2", &["autumn.toml:1:10: `schema` is 1 to 1, not 2"]),
    ("schema   = 1\n", "", &["`schema` is missing"]),
    ("\"autumn\"", "\"winter\"", &["autumn.toml:2:12: `campaign` is `winter`, but the file is `autumn.toml`"]),
    ("title    = ", "titel = ", &["3:1: unknown key `titel`; there are `ai_act`, `axes`"]),
    ("[\"shots\"]", "[\"shots\", \"none\"]", &["there is no prompt library `none`; there is `shots`"]),
    ("review = \"none\"", "review = \"all\"", &["`policy.review` is `all`; allowed is `none`"]),
    ("\"en-GB\"]", "\"en_GB\"]", &["`en_GB` is no locale"]),
    // A locale that is meant lacks every text: each is to be written.
    ("\"en-GB\"]", "\"fr-FR\"]", &["has no text for `fr-FR`"; 5]),
    ("\"en-GB\"]", "\"de-DE\"]", &["`de-DE` stands twice"]),
    ("https://example.org/l", "ftp://x", &["`rights.license` is the URL"]),
    ("steps = 30", "steps = 0", &["`generate.steps` is 1 to 200, not 0"]),
    ("steps = 30\n", "", &["`steps` is missing: set it in [generate]"]),
    ("steps = 30", "steps = \"30\"", &["`generate.steps` is a whole number, not a string"]),
    ("guidance = 5.0", "guidance = nan", &["`generate.guidance` is 0 to 50"]),
    ("[1344, 768]", "[1340, 768]", &["`size` is in multiples of 8 px: 1336, not 1340"]),
    ("[1344, 768]", "[1344]", &["`size` is [width, height]"]),
    ("[1344, 768]", "[4096, 4096]", &["`size` has more than 4194304 pixels"]),
    ("base = 1_207", "base = -1", &["`generate.seed.base` is 0 to 4294967295, not -1"]),
    ("per = \"campaign\"", "per = \"image\"", &["`generate.seed.per` is `image`; allowed is `campaign` and `recipe`"]),
    ("\"dpmpp_2m\"", "\"magic\"", &["`generate.scheduler` is `magic`"]),
    ("checkpoint = \"base-1.0\"", "checkpoint = \"../base\"", &["`../base` is no checkpoint"]),
    ("{style:soft}", "{style:hard}", &["has a style `hard`; there are `soft`"]),
    ("{block:floor}", "{block:wall}", &["has a block `wall`; there are `floor`"]),
    ("a {finish} {colour}", "a {size} {colour}", &["there is no axis {size}"]),
    ("a {finish} {colour}", "a {finish {colour}", &["there is no axis {finish {colour}"]),
    ("[\"artefacts\"]", "[\"ugly\"]", &["has a negative list `ugly`; there are `artefacts`"]),
    (
        "[axes.colour]",
        "[axes.width]",
        &["an axis cannot be called `width`: URLs use it for the rendition parameter `w`", "there is no axis {colour}"],
    ),
    ("[axes.colour]", "[axes.Colour]", &["`Colour` is no name"]),
    (
        "default = \"teal\"",
        "default = \"lime\"",
        &["axis `colour` has no value `lime`; it has `red`, `teal` and `gold`"],
    ),
    ("distinct = true", "distinct = \"yes\"", &["`axes.colour.distinct` is true or false, not a string"]),
    ("prompt = \"gold\",", "prompts = \"gold\",", &["unknown key `axes.colour.values.gold.prompts`"]),
    ("prompt = \"gold\",", "prompt = \"{gold}\",", &["placeholders stand in `prompt`"]),
    ("prompt = \"gold\",", "prompt = \"gold\", only = { size = [\"m\"] },", &["`only` names another axis"]),
    (
        "prompt = \"gold\",",
        "prompt = \"gold\", only = { product = [\"cup\"] },",
        &["axis `product` has no value `cup`"],
    ),
    (
        "prompt = \"teal\",",
        "prompt = \"teal\", only = { product = [\"mug\"] },",
        &["the default `teal` is not allowed beside"],
    ),
    ("en = \"gold\"", "fr = \"doré\"", &["the label of `gold` has no text for `en-GB`"]),
    ("ratio = \"16:9\"", "ratio = \"16/9\"", &["`slots.hero.ratio`: a ratio is two whole numbers"]),
    ("ratio = \"16:9\"\n", "", &["`ratio` is missing"]),
    ("widths = [480, 768", "widths = [768, 480", &["`widths` ascend, but 480 follows 768"]),
    ("widths = [480, 768", "widths = [0, 768", &["`slots.hero.widths` is 1 to 8192, not 0"]),
    ("1120, 1344]", "1120, 1600]", &["1600 px is 1.19 times the 1344 px this slot's crop has, above `upscale_max` 1"]),
    ("16:9\"", "16:9\"\nseeds = { \"colour=teal\" = 5 }", &["not named: `product` and `finish`"]),
    ("16:9\"", "16:9\"\nseeds = { \"size=m\" = 5 }", &["there is no axis `size`"]),
    ("16:9\"", "16:9\"\nseeds = { \"locale=de-DE\" = 5 }", &["pictures of this slot do not differ by `locale`"]),
    ("16:9\"", "16:9\"\nseeds = { \"colour=lime\" = 5 }", &["axis `colour` has no value `lime`; it has `red`"]),
    ("16:9\"", "16:9\"\nseeds = { \"colour\" = 5 }", &["`colour` is no `axis=value`"]),
    ("16:9\"", "16:9\"\nseeds = { \"colour=red&colour=teal\" = 5 }", &["`colour` stands in it twice"]),
    ("16:9\"", "16:9\"\nseeds = { \"colour=teal\" = -5 }", &["is 0 to 4294967295, not -5"]),
    ("sizes = \"100vw\"", "sizes = \"\\\"><script>\"", &["`sizes` is the HTML attribute"]),
    ("urgency = 1", "urgency = 8", &["`slots.hero.priority.urgency` is 0 to 7, not 8"]),
    ("policy = \"fallback\"", "policy = \"block\"", &["`slots.hero.on_miss.policy` is `block`"]),
    ("wait_ms = 2000", "wait_ms = 9999999", &["`slots.teaser.on_miss.wait.wait_ms` is 1 to 60000"]),
    ("steps = 12 }", "step = 12 }", &["unknown key `slots.teaser.generate.step`"]),
    (
        "upscale_max = 1.0",
        "steps = 9",
        &["unknown key `slots.hero.steps`; `steps` of this slot stands in [slots.hero.generate]"],
    ),
    ("formats = [\"avif\", \"webp\", \"jpg\"]", "formats = [\"avif\", \"gif\"]", &["`gif` is none of"]),
    ("default_width = 480", "default_width = 481", &["`default_width` 481 is not one of `widths`"]),
    ("de = \"{product} in {colour}\",", "", &["`alt` has no text for `de-DE`"]),
    ("[slots.hero]", "[slots.Hero]", &["`Hero` is no name"]),
    ("[slots.hero]", "[slot.hero]", &["unknown key `slot`"]),
    // One mistake, one fault: what follows from it is not told.
    ("default = \"bottle\"", "default = \"botle\"", &["axis `product` has no value `botle`"]),
    ("default = \"bottle\"\n", "", &["`axes.product.default` is missing"]),
    ("default = \"bottle\"", "defualt = \"bottle\"", &["unknown key `axes.product.defualt`"]),
    ("values.bottle =", "values.botle =", &["axis `product` has no value `bottle`; it has `botle` and `mug`"]),
    (
        "values.bottle = { prompt = \"bottle\", label = { de = \"Flasche\", en = \"bottle\" } }",
        "values.bottle = 1",
        &["`axes.product.values.bottle` is a table"],
    ),
    ("[axes.finish]", "[axes.Finish]", &["`Finish` is no name"]),
    (
        "[axes.finish]",
        "[axes.finnish]",
        &["there is no axis {finish}; there are `product`, `colour`, `finnish` and `locale`"],
    ),
    (
        "[axes.finish]\ndefault = \"none\"\nvalues.none  = { prompt = \"\" }\nvalues.matte = { prompt = \"matte\" }",
        "[axes]\nfinish = 3",
        &["`axes.finish` is a table"],
    ),
    ("{product} in {colour}", "{produkt} in {colour}", &["there is no axis {produkt}"]),
    ("label = { de = \"Gold\", en = \"gold\" }", "label = \"Gold\"", &["`axes.colour.values.gold.label` is a table"]),
    (
        "label = { de = \"Gold\", en = \"gold\" }",
        "label = { de = \"Gold\", en = 3 }",
        &["`axes.colour.values.gold.label.en` is a string"],
    ),
    (
        "label = { de = \"Gold\", en = \"gold\" }",
        "lable = { de = \"Gold\", en = \"gold\" }",
        &["unknown key `axes.colour.values.gold.lable`"],
    ),
    ("prompt = \"gold\",", "prompt = 3,", &["`axes.colour.values.gold.prompt` is a string"]),
    ("ratio = \"16:9\"", "ratoi = \"16:9\"", &["unknown key `slots.hero.ratoi`"]),
    ("widths = [480, 768", "widths = [\"480\", 768", &["`slots.hero.widths` is a whole number, not a string"]),
    ("widths = [240, 480]", "widths = 480", &["`slots.teaser.widths` is an array"]),
    ("widths = [240, 480]", "width = [240, 480]", &["unknown key `slots.teaser.width`"]),
    (
        "on_miss = { wait = {",
        "on_miss = { wait = 3, x = {",
        &["`slots.teaser.on_miss.wait` is a table", "unknown key `slots.teaser.on_miss.x`"],
    ),
    ("formats = [\"avif\", \"webp\", \"jpg\"]", "formats = [\"avif\", \"webp\", \"jpgg\"]", &["`jpgg` is none of"]),
    ("formats = [\"avif\", \"webp\", \"jpg\"]", "formats = [\"avif\"]", &["`formats` has `jpg`"]),
    ("alt      = { de = ", "alt      = { de_DE = ", &["`de_DE` is no locale"]),
    ("locales = [\"de-DE\", \"en-GB\"]", "locales = [\"de-DE\", 3]", &["`policy.locales` is an array of strings"]),
    ("locales = [\"de-DE\", \"en-GB\"]", "local = [\"de-DE\", \"en-GB\"]", &["unknown key `policy.local`"]),
    ("[1344, 768]", "[\"1344\", 768]", &["`generate.size` is a whole number, not a string"]),
    ("guidance = 5.0\n", "", &["`guidance` is missing: set it in [generate] or for each slot (the same in line "]),
    ("guidance = 5.0", "guidence = 5.0", &["unknown key `generate.guidence`"]),
    ("checkpoint = \"base-1.0\"", "checkpoint = 1", &["`generate.checkpoint` is a string"]),
    ("prompts  = [\"shots\"]", "prompts  = [\"shot\"]", &["there is no prompt library `shot`"]),
    ("prompts  = [\"shots\"]", "prompts  = \"shots\"", &["`prompts` is an array"]),
    ("[\"artefacts\"]", "\"artefacts\"", &["`generate.negative` is an array"]),
    ("[generate]\n", "[generate]\nx = \"\n", &["not valid TOML"]),
];

/// The same for the library that the manifest uses.
const LIBRARY_REFUSED: &[(&str, &str, &str)] = &[
    ("[styles.soft]", "[styles.Soft]", "`Soft` is no name"),
    ("[styles.soft]", "[style.soft]", "unknown key `style`"),
    ("prompt   = \"soft light\"", "prompt   = \"soft {light}\"", "placeholders stand in `prompt`"),
    ("floor = \"on a floor\"", "floor = 3", "`blocks.floor` is a string"),
    ("floor = \"on a floor\"", "floor = \"on a {floor}\"", "placeholders stand in `prompt`"),
    ("artefacts = [", "artefacts = [1, ", "`negatives.artefacts` is an array of strings"),
    ("schema  = 1", "schema  = ", "not valid TOML"),
];

/// Fails where a word that was refused is told again at each of its uses.
#[test]
fn a_mistake_in_a_library_is_one_fault_of_the_library() {
    for (from, to, part) in LIBRARY_REFUSED {
        let site = Site::new();
        site.edit("prompts/shots.toml", from, to);
        let faults = site.faults();
        assert!(faults.contains(part) && faults.contains("shots.toml:"), "{from} → {to}: no `{part}` in\n{faults}");
        assert_eq!(faults.lines().count(), 1, "{from} → {to}:\n{faults}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_one_fault() {
    for path in ["prompts/shots.toml", "campaigns/autumn.toml", "campaigns/autumn.lock.toml"] {
        let site = Site::new();
        std::fs::write(site.path(path), [0xff, 0xfe]).expect("written");
        let faults = site.faults();
        assert!(faults.contains("the file is not UTF-8"), "{faults}");
        assert_eq!(faults.lines().count(), 1, "{path}:\n{faults}");
    }
}

#[test]
fn what_is_wrong_is_refused_with_its_place_and_reason() {
    let mut wrong = Vec::new();
    for (from, to, parts) in REFUSED {
        let site = Site::new();
        site.edit("campaigns/autumn.toml", from, to);
        let faults = site.faults();
        let mut expect = |is_so: bool, what: &str| {
            if !is_so {
                wrong.push(format!("{from} → {to}: {what} in\n{faults}"));
            }
        };
        for part in *parts {
            expect(faults.contains(part), part);
        }
        for fault in faults.lines() {
            expect(fault.contains("autumn.toml:"), "a fault without a place");
            expect(parts.iter().any(|part| fault.contains(part)), "a consequence is told");
        }
        expect(faults.lines().count() <= parts.len(), "a fault is told twice");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn several_faults_come_at_once() {
    let site = Site::new();
    site.edit("campaigns/autumn.toml", "steps = 30", "steps = 0");
    site.edit("campaigns/autumn.toml", "urgency = 1", "urgency = 9");
    site.edit("prompts/shots.toml", "schema", "scheme");
    assert!(site.faults().lines().count() >= 3, "{}", site.faults());
}

#[test]
fn too_many_variants_are_refused() {
    let site = Site::new();
    let mut axes = String::new();
    for axis in 0..4 {
        axes.push_str(&format!("[axes.extra-{axis}]\ndefault = \"v0\"\n"));
        for value in 0..60 {
            axes.push_str(&format!("values.v{value} = {{}}\n"));
        }
    }
    site.edit("campaigns/autumn.toml", "[slots.hero]", &format!("{axes}[slots.hero]"));
    assert!(site.faults().contains("variants, at most 1000000"), "{}", site.faults());
}

#[test]
fn locks_are_required_current_and_complete() {
    let site = Site::new();
    let lock = "campaigns/autumn.lock.toml";
    let good = std::fs::read_to_string(site.path(lock)).expect("written by Site::new");
    site.edit("campaigns/autumn.toml", "{product} in {colour}", "{product}: {colour}");
    site.load();
    site.edit("campaigns/autumn.toml", "generate = { ", "generate = { checkpoint = \"other\", ");
    assert!(site.faults().contains("the lock is stale") && site.faults().contains("run `bildkante-edge lock`"));
    site.lock();
    site.load();
    site.write(lock, &good.replace("\"base-1.0\" =", "\"base-1.1\" ="));
    site.write("campaigns/autumn.toml", MANIFEST);
    assert!(site.faults().contains("the lock lacks checkpoint `base-1.0`"), "{}", site.faults());
    site.write(lock, &good.replace("blake3:", "sha256:"));
    assert!(site.faults().contains("a digest is written `blake3:`"), "{}", site.faults());
    std::fs::remove_file(site.path(lock)).expect("removed");
    assert!(site.faults().contains("autumn.lock.toml: the lock is missing; run"), "{}", site.faults());
}

#[test]
fn a_lock_pins_the_checkpoint_into_the_recipe_and_check_compares_it_with_the_folder() {
    let site = Site::new();
    let models = site.path("models");
    let before = variant(&site.load(), "hero", &[]).recipe.id();
    assert!(check(&site.sources(), Some(&models)).is_ok());
    // What is not loaded does not count.
    site.write("models/base-1.0/safety_checker/model.safetensors", "weights that nobody reads");
    assert!(check(&site.sources(), Some(&models)).is_ok());
    site.write("models/base-1.0/scheduler/scheduler_config.json", "{}");
    let errors = check(&site.sources(), Some(&models)).expect_err("another checkpoint").to_string();
    assert!(errors.contains("the lock pins something else"), "{errors}");
    assert_eq!(variant(&site.load(), "hero", &[]).recipe.id(), before, "the lock decides");
    let outcomes = write_locks(&site.sources(), &models).expect("locked");
    assert!(outcomes.iter().all(|outcome| outcome.has_changed));
    assert_ne!(variant(&site.load(), "hero", &[]).recipe.id(), before);
    assert!(write_locks(&site.sources(), &models).expect("locked").iter().all(|outcome| !outcome.has_changed));
    std::fs::remove_dir_all(models).expect("removed");
    let error = write_locks(&site.sources(), &site.path("models")).expect_err("no models");
    assert!(matches!(error, LockRunError::Lock(_)) && error.to_string().contains("`base-1.0`"), "{error}");
}

/// A lock from before names a checkpoint after every file in its folder: its recipes stay, and with them what was drawn.
#[test]
fn a_former_digest_keeps_its_recipes_when_the_campaign_is_locked_again() {
    let site = Site::new();
    let models = site.path("models");
    site.write("models/base-1.0/notes.json", "a file that nobody loads");
    let known = bildkante_shared::checkpoint::FileDigests::default();
    let digests = bildkante_shared::checkpoint::digests(&models.join("base-1.0"), &known).expect("digests");
    let [former] = digests.formers.as_slice() else { panic!("{digests:?}") };
    site.edit("campaigns/autumn.lock.toml", &digests.current.to_string(), &former.to_string());
    let before = variant(&site.load(), "hero", &[]).recipe.clone();
    assert_eq!(before.drawn().expect("a model draws it").checkpoint, *former);
    assert!(check(&site.sources(), Some(&models)).is_ok());

    site.lock();
    let recipe = || variant(&site.load(), "hero", &[]).recipe.id();
    assert_eq!(recipe(), before.id());
    let text = std::fs::read_to_string(site.path("campaigns/autumn.lock.toml")).expect("the lock");
    assert!(text.contains("[loaded]") && text.contains(&digests.current.to_string()), "{text}");
    // Another stray file changes the former digest, not what is loaded.
    site.write("models/base-1.0/more.json", "another one");
    site.lock();
    assert_eq!(recipe(), before.id());
    assert!(check(&site.sources(), Some(&models)).is_ok());
    // What is loaded is another checkpoint, under its own name.
    site.write("models/base-1.0/scheduler/scheduler_config.json", "{}");
    assert!(check(&site.sources(), Some(&models)).is_err());
    site.lock();
    assert_ne!(recipe(), before.id());
    assert!(!std::fs::read_to_string(site.path("campaigns/autumn.lock.toml")).expect("the lock").contains("[loaded]"));
}

/// No axis may have a name that a URL may give a parameter, under any alias.
#[test]
fn no_axis_has_a_parameter_s_name() {
    for name in parameters::NAMES {
        assert!(parameters::lookup(name).is_some(), "{name}");
        let text = MANIFEST.replace("[axes.finish]", &format!("[axes.{name}]"));
        // `aspect_ratio` is no name to begin with.
        let site = Site::new();
        site.write("campaigns/autumn.toml", &text);
        let faults = site.faults();
        let is_named = faults.contains(&format!("an axis cannot be called `{name}`"));
        assert!(is_named || faults.contains(&format!("`{name}` is no name")), "{name}: {faults}");
    }
}

/// Reads a manifest from memory.
fn read_manifest(text: &str) -> (Option<Manifest>, usize) {
    let source = SourceText::new(Path::new("autumn.toml"), text);
    let library = prompts::read(&SourceText::new(Path::new("shots.toml"), LIBRARY), "shots");
    let libraries = [("shots".to_owned(), library)].into();
    let manifest = manifest::read(&source, "autumn", &libraries);
    (manifest, source.into_faults().len())
}

#[test]
fn the_undamaged_manifest_is_read_from_memory() {
    let (manifest, faults) = read_manifest(MANIFEST);
    assert!(manifest.is_some() && faults == 0);
}

proptest! {
    /// A manifest with anything cut out, doubled or put in is read, or refused with a fault.
    #[test]
    fn damaged_manifests_are_refused_and_never_panic(
        from in 0..MANIFEST.len(), length in 0_usize..60, insert in "[\\[\\]{}=\",.a-z0-9 \\n:-]{0,12}",
    ) {
        let to = (from + length).min(MANIFEST.len());
        let (Some(before), Some(after)) = (MANIFEST.get(..from), MANIFEST.get(to..)) else { return Ok(()) };
        let (manifest, faults) = read_manifest(&format!("{before}{insert}{after}"));
        prop_assert_eq!(manifest.is_none(), faults > 0);
    }

    #[test]
    fn any_text_is_no_manifest_and_no_panic(text in "\\PC{0,200}") {
        prop_assert!(read_manifest(&text).0.is_none());
    }

    /// Combinations and values are one to one, and names tell variants apart.
    #[test]
    fn equal_values_have_equal_keys_and_others_differ(sizes in proptest::collection::vec(1_usize..5, 1..5)) {
        let site = Site::new();
        let mut axes = String::new();
        for (axis, count) in sizes.iter().enumerate() {
            let values: String = (0..*count).map(|value| format!("values.v{value} = {{}}\n")).collect();
            axes.push_str(&format!("[axes.x{axis}]\ndefault = \"v{}\"\n{values}", count - 1));
        }
        site.edit("campaigns/autumn.toml", "[slots.hero]", &format!("{axes}[slots.hero]"));
        let catalog = site.load();
        let campaign = autumn(&catalog);
        let (mut all, mut names) = (HashSet::new(), HashSet::new());
        for combination in campaign.combinations() {
            let values = campaign.values_of(combination);
            let mut back = campaign.default_combination();
            for (axis, value) in values.iter().enumerate() {
                back = campaign.with_value(back, axis, *value);
            }
            prop_assert_eq!(back, combination);
            prop_assert!(all.insert(values));
            prop_assert!(names.insert(catalog.variant(campaign, 0, combination).expect("valid").name.clone()));
        }
        prop_assert_eq!(all.len() as u64, campaign.combination_count());
    }
}

const ADDED: &str = "loras = [{ name = \"soft.v2\", weight = 0.7 }, { name = \"grain\" }]
refiner = { checkpoint = \"refiner-1.0\", start = 0.8 }
controls = [{ network = \"edges-1.0\", image = \"edges.png\", weight = 0.5, end = 0.9 }]
init = { image = \"begin.png\", strength = 0.6 }
mask = \"where.png\"
guidance_rescale = 0.7
prompt   =";

/// Keys of later versions.
const LATER: &str = "depth = \"near.png\"
embeddings = [{ name = \"teal\" }, { name = \"look.v1\", token = \"Studio-Look\" }]
references = [{ adapter = \"brand\", encoder = \"vit-h\", image = \"style.png\", weight = 0.6, mask = \"white.png\" }]
";

/// The fixture campaign with everything a recipe may have, locked.
fn added() -> Site {
    let site = Site::new();
    for model in ["refiner-1.0/model_index.json", "edges-1.0/config.json", "vit-h/config.json"] {
        site.write(&format!("models/{model}"), "{}");
    }
    for adapter in ["soft.v2", "grain", "teal", "look.v1", "brand"] {
        site.write(&format!("models/adapters/{adapter}.safetensors"), adapter);
    }
    for image in ["edges.png", "begin.png", "where.png", "style.png", "white.png", "near.png"] {
        site.write(&format!("campaigns/images/{image}"), image);
    }
    site.edit("campaigns/autumn.toml", "prompt   =", ADDED);
    site.edit("campaigns/autumn.toml", "prompt   =", &format!("{LATER}prompt   ="));
    site.lock();
    site
}

#[test]
fn adapters_refiner_controlnets_and_images_are_pinned_into_the_recipe() {
    let plain = variant(&Site::new().load(), "hero", &[]).recipe.id();
    let site = added();
    let with = variant(&site.load(), "hero", &[]);
    let recipe = drawn(&with);
    assert_ne!(recipe.id(), plain);
    let digest = |text: &str| bildkante_shared::ids::Digest::of_bytes(text.as_bytes());
    let loras: Vec<_> = recipe.loras.iter().map(|lora| (lora.digest, lora.weight)).collect();
    assert_eq!(loras, [(digest("soft.v2"), 0.7), (digest("grain"), 1.0)]);
    let words: Vec<_> = recipe.embeddings.iter().map(|word| (word.digest, word.token.as_str())).collect();
    assert_eq!(words, [(digest("teal"), "<teal>"), (digest("look.v1"), "studio-look")]);
    let used = &recipe.references[0];
    assert_eq!(
        (used.adapter, used.image, used.mask),
        (digest("brand"), digest("style.png"), Some(digest("white.png")))
    );
    assert_eq!((used.weight, used.start, used.end), (0.6, 0.0, 1.0));
    let control = &recipe.controls[0];
    assert_eq!((control.image, control.weight, control.start, control.end), (digest("edges.png"), 0.5, 0.0, 0.9));
    assert_eq!(recipe.init.as_ref().map(|init| (init.image, init.strength)), Some((digest("begin.png"), 0.6)));
    assert_eq!((recipe.mask, recipe.depth), (Some(digest("where.png")), Some(digest("near.png"))));
    assert_eq!(recipe.refiner.as_ref().map(|refiner| refiner.start), Some(0.8));
    assert!((recipe.guidance_rescale - 0.7).abs() < 1e-9);

    // What is edited is another recipe once it is locked, and until then `check` says so.
    let models = site.path("models");
    for file in [
        "models/adapters/grain.safetensors",
        "models/adapters/teal.safetensors",
        "models/vit-h/config.json",
        "campaigns/images/style.png",
        "campaigns/images/white.png",
        "campaigns/images/edges.png",
        "models/refiner-1.0/model_index.json",
    ] {
        let before = variant(&site.load(), "hero", &[]).recipe.id();
        site.write(file, "{ \"edited\": 1 }");
        let errors = check(&site.sources(), Some(&models)).expect_err(file).to_string();
        assert!(errors.contains("the lock pins something else"), "{file}: {errors}");
        site.lock();
        assert_ne!(variant(&site.load(), "hero", &[]).recipe.id(), before, "{file}");
    }
    std::fs::remove_file(site.path("campaigns/images/begin.png")).expect("removed");
    let error = write_locks(&site.sources(), &models).expect_err("an image is missing").to_string();
    assert!(error.contains("image `begin.png` of campaign `autumn`"), "{error}");
}

#[test]
fn drafts_and_details_are_parts_of_one_recipe() {
    let site = Site::new();
    let plain = variant(&site.load(), "hero", &[]).recipe.id();
    for image in ["rim.png", "edges.png"] {
        site.write(&format!("campaigns/images/{image}"), image);
    }
    site.write("models/adapters/soft.safetensors", "soft");
    site.write("models/edges-1.0/config.json", "{}");
    let keys = "draft = { scale = 0.5, strength = 0.6, enlarge = \"latents\", steps = 9, loras = [{ name = \"soft\" }], \
                controls = [{ network = \"edges-1.0\", image = \"edges.png\" }] }\n\
                details = [{ mask = \"rim.png\", strength = 0.4, prompt = \"a rim\", guidance = 2.5, loras = [] }]\n";
    site.edit("campaigns/autumn.toml", "prompt   =", &format!("{keys}prompt   ="));
    site.lock();
    let with = variant(&site.load(), "hero", &[]);
    let recipe = std::sync::Arc::new(drawn(&with).clone());
    assert_ne!(recipe.id(), plain);
    let digest = |text: &str| bildkante_shared::ids::Digest::of_bytes(text.as_bytes());
    let parts = recipe.parts();
    let shapes: Vec<_> =
        parts.iter().map(|part| (part.width_px, part.height_px, part.steps, part.loras.len())).collect();
    assert_eq!(shapes, [(672, 384, 9, 1), (1344, 768, 30, 0), (1344, 768, 30, 0)]);
    assert_eq!((parts[0].controls[0].image, parts[2].mask), (digest("edges.png"), Some(digest("rim.png"))));
    assert_eq!((parts[2].prompt.as_str(), parts[2].guidance), ("a rim", 2.5));
    // The teaser's draft has the teaser's shape.
    let teaser = variant(&site.load(), "teaser", &[]);
    assert_eq!(drawn(&teaser).draft.as_ref().map(|draft| (draft.width_px, draft.height_px)), Some((384, 480)));
    let words: Vec<String> = recipe.images().chain(recipe.adapters()).map(|digest| digest.to_string()).collect();
    assert_eq!(words, ["edges.png", "rim.png", "soft"].map(|name| digest(name).to_string()));

    for (from, to, reason) in [
        ("scale = 0.5, ", "", "`draft.scale` is missing"),
        ("scale = 0.5", "scale = 2", "`generate.draft.scale` is 0.1 to 1"),
        ("\"latents\"", "\"hope\"", "`generate.draft.enlarge` is `hope`"),
        ("strength = 0.6, ", "", "`draft.strength` is missing"),
        ("strength = 0.4, ", "", "`details.strength` is missing"),
        ("\"a rim\"", "\"a {colour} rim\"", "has no placeholders"),
        ("rim.png", "rim.jpg", "`rim.jpg` is no PNG"),
        (
            "details =",
            "init = { image = \"rim.png\", strength = 0.5 }\ndetails =",
            "begins with its `draft` or with an `init`",
        ),
    ] {
        let text = std::fs::read_to_string(site.path("campaigns/autumn.toml")).expect("a manifest");
        site.edit("campaigns/autumn.toml", from, to);
        let faults = site.faults();
        assert!(faults.contains(reason), "{to}: {faults}");
        site.write("campaigns/autumn.toml", &text);
    }
}

#[test]
fn weights_of_words_are_a_manifests_choice_and_a_librarys_texts_stay_texts() {
    let site = Site::new();
    let plain = variant(&site.load(), "hero", &[]).recipe.id();
    let weigh = |site: &Site, template: &str| {
        let text = std::fs::read_to_string(site.path("campaigns/autumn.toml")).expect("a manifest");
        let line = text.lines().find(|line| line.starts_with("prompt   =")).expect("a prompt").to_owned();
        site.edit("campaigns/autumn.toml", &line, template);
    };
    let blocks = "[blocks]\nratio = 'ratio (16:9)'\ntop = { text = 'on top', weight = 1.25 }\n";
    site.edit("prompts/shots.toml", "[blocks]\n", blocks);
    site.lock();
    assert_eq!(variant(&site.load(), "hero", &[]).recipe.id(), plain, "who asks for nothing keeps the recipe");
    let template = "prompt   = \"a ({colour}:1.5) {finish} {product} {block:top}, {block:ratio}\"";
    weigh(&site, &format!("weighting = \"brackets\"\nclip_skip = 1\n{template}"));
    site.lock();
    let with = variant(&site.load(), "hero", &[]);
    let recipe = drawn(&with);
    assert_eq!((recipe.weighting, recipe.clip_skip), (Weighting::Brackets, 1));
    let end = r" (on top:1.25), ratio \(16\:9\)";
    assert!(recipe.prompt.starts_with("a (") && recipe.prompt.ends_with(end), "{}", recipe.prompt);

    for (from, to, reason) in [
        ("weighting = \"brackets\"", "weighting = \"plain\"", "the block `top` has a weight"),
        ("weighting = \"brackets\"", "weighting = \"braces\"", "`generate.weighting`"),
        ("{colour}:1.5)", "{colour}:1.5", "is not closed"),
        ("{colour}:1.5)", "{colour}:15)", "is not 0 to 10"),
        ("clip_skip = 1", "clip_skip = 99", "`generate.clip_skip` is 0 to 32"),
    ] {
        let text = std::fs::read_to_string(site.path("campaigns/autumn.toml")).expect("a manifest");
        site.edit("campaigns/autumn.toml", from, to);
        let faults = site.faults();
        assert!(faults.contains(reason), "{to}: {faults}");
        site.write("campaigns/autumn.toml", &text);
    }
}

#[test]
fn a_slot_says_in_one_way_which_noise_levels_are_visited() {
    let site = Site::new();
    let text = std::fs::read_to_string(site.path("campaigns/autumn.toml")).expect("a manifest");
    let with = |keys: &str| text.replace("steps = 12 }", &format!("steps = 3, {keys} }}"));
    let scheduler = |keys: &str| {
        site.write("campaigns/autumn.toml", &with(keys));
        site.lock();
        drawn(&variant(&site.load(), "teaser", &[])).scheduler.clone()
    };
    let spaced = scheduler("scheduler = \"dpmpp_3m\", sigmas = \"beta\"");
    assert_eq!((spaced.kind, spaced.sigmas), (Some(SchedulerKind::DpmPp3M), Some(SigmaSpacing::Beta)));
    // The campaign's `sigmas` do not hold for a slot that names its levels.
    let named = scheduler("scheduler = \"tcd\", timesteps = [999, 500, 9], eta = 1, prediction = \"sample\"");
    assert_eq!((named.sigmas, named.timesteps, named.eta), (None, vec![999, 500, 9], Some(1.0)));
    assert_eq!(named.prediction, Some(Prediction::Sample));

    for (keys, reason) in [
        ("timesteps = [999, 500]", "`timesteps` needs 3 values for 3 steps and has 2"),
        ("timesteps = [9, 500, 999]", "500 follows 9"),
        ("timesteps = [10000, 5, 1]", "`timesteps` is 0 to 9999"),
        ("sigma_values = [14.6, 2, 0.5]", "needs 4 values"),
        ("sigma_values = [14.6, 2, 0.5, nan]", "`sigma_values` is 0 to 10000"),
        ("sigmas = \"karras\", timesteps = [999, 500, 9]", "only one of"),
        ("eta = 2", "`eta` is 0 to 1"),
        ("prediction = \"flow\"", "`prediction` is `flow`"),
    ] {
        site.write("campaigns/autumn.toml", &with(keys));
        let faults = site.faults().replace("slots.teaser.generate.", "").replace("generate.", "");
        assert!(faults.contains(reason), "{keys}: {faults}");
    }
}

#[test]
fn what_cannot_be_added_is_refused_with_the_reason() {
    let refusals = [
        ("weight = 0.7", "weight = 70", "`generate.loras.weight` is -10 to 10"),
        ("name = \"grain\"", "nane = \"grain\"", "unknown key `generate.loras.nane`"),
        ("name = \"grain\"", "name = \"../grain\"", "`../grain` is no adapter"),
        ("\"Studio-Look\"", "\"a look\"", "`a look` cannot stand for `look.v1` in a prompt"),
        ("\"white.png\"", "\"white.jpg\"", "`white.jpg` is no PNG"),
        ("weight = 0.6, mask", "start = 0.5, end = 0.5, mask", "`start` 0.5 is not before `end` 0.5"),
        ("\"Studio-Look\"", "\"<TEAL>\"", "`<teal>` stands for another embedding already"),
        (", start = 0.8", "", "`refiner.start` is missing"),
        ("end = 0.9", "start = 0.9, end = 0.2", "`start` 0.9 is not before `end` 0.2"),
        ("edges.png", "edges.jpg", "`edges.jpg` is no PNG"),
        ("init = { image = \"begin.png\", strength = 0.6 }\n", "", "there is no `init`"),
        (", strength = 0.6", "", "`init.strength` is missing"),
        ("guidance_rescale = 0.7", "guidance_rescale = 7", "`generate.guidance_rescale` is 0 to 1"),
        ("loras = [", "loras = [1, ", "`generate.loras` is a table, not a whole number"),
    ];
    for (from, to, reason) in refusals {
        let site = added();
        site.edit("campaigns/autumn.toml", from, to);
        let faults = site.faults();
        assert!(faults.contains(reason), "{to}: {faults}");
    }
    let site = added();
    let lock = std::fs::read_to_string(site.path("campaigns/autumn.lock.toml")).expect("a lock");
    site.write("campaigns/autumn.lock.toml", &lock.replace("\"grain\" =", "\"gravel\" ="));
    assert!(site.faults().contains("the lock lacks adapter `grain`"), "{}", site.faults());
}

/// Computed by the version that hashed what `derive(Debug)` printed: nodes keep duplicates under these names.
#[test]
fn scopes_of_duplicates_are_those_of_former_versions() {
    let scope = |site: &Site| variant(&site.load(), "hero", &[]).dedup.scope.clone();
    let site = Site::new();
    assert_eq!(scope(&site), "autumn/hero@356616de87b8fce8?colour=teal");
    site.edit(
        "campaigns/autumn.toml",
        "scheduler = \"dpmpp_2m\"\nsigmas = \"karras\"",
        "timestep_spacing = \"trailing\"\nsigmas = \"exponential\"\nzero_terminal_snr = true",
    );
    assert_eq!(scope(&site), "autumn/hero@45b6bdde74010d83?colour=teal");
    let site = added();
    site.edit("campaigns/autumn.toml", LATER, "");
    site.lock();
    assert_eq!(scope(&site), "autumn/hero@ddc9ff581c68f744?colour=teal");
}

/// Pages name versions: an upgrade that changes this number makes every pinned URL of every page an unpinned one.
#[test]
fn versions_of_urls_change_with_what_is_embedded_and_otherwise_stay() {
    let shape = |site: &Site| autumn(&site.load()).rendition_digest(0).to_string();
    let site = Site::new();
    // Other encoders make other bytes: this is what a release has.
    if cfg!(all(feature = "aom", feature = "mozjpeg", feature = "oxipng")) {
        assert_eq!(shape(&site), "blake3:dd037e9236acfba3092d29b1926ee13fcd2d0011cdefc2f00eda08579882bc48");
    }
    let mut shapes = vec![shape(&site)];
    let base = std::fs::read_to_string(site.path("campaigns/autumn.toml")).expect("a manifest");
    for rights in [
        "publish_prompt = true",
        "publish_prompt = true, prompt_writer = \"A. B.\"",
        "location = { city = \"Ulm\" }",
        "location = { region = \"Ulm\" }",
    ] {
        site.write("campaigns/autumn.toml", &base.replace("/l\" }", &format!("/l\", {rights} }}")));
        shapes.push(shape(&site));
    }
    let count = shapes.len();
    shapes.sort();
    shapes.dedup();
    assert_eq!(shapes.len(), count, "each is another version");
}

#[test]
fn a_picture_tells_its_generator_and_its_prompt_where_the_campaign_publishes_it() {
    let site = Site::new();
    let told = |site: &Site| variant(&site.load(), "hero", &[]).finish.description().generator.clone().expect("drawn");
    let silent = told(&site);
    assert_eq!((silent.system.as_str(), silent.version.len(), silent.prompt), ("base-1.0", 16, None));
    site.edit("campaigns/autumn.toml", "/l\" }", "/l\", publish_prompt = true, prompt_writer = \"A. B.\" }");
    let catalog = site.load();
    let variant = variant(&catalog, "hero", &[]);
    let prompt = told(&site).prompt.expect("published");
    assert_eq!(Some(prompt.text), variant.recipe.drawn().map(|recipe| recipe.prompt.clone()));
    assert_eq!(prompt.writer.as_deref(), Some("A. B."));
    site.edit("campaigns/autumn.toml", "publish_prompt = true", "publish_prompt = false");
    assert!(site.faults().contains("`prompt_writer` is told only with the prompt"), "{}", site.faults());
}

#[test]
fn the_first_right_to_end_is_the_pictures_end() {
    let site = Site::new();
    let rights_end = |site: &Site| variant(&site.load(), "hero", &[]).rights_end.clone();
    assert_eq!(rights_end(&site), None);
    site.edit("campaigns/autumn.toml", "/l\" }", "/l\", ends = 2027-06-30 }");
    let end = |unix_s, of: &str| Some(RightsEnd { unix_s, of: of.to_owned() });
    // The day is the last one.
    assert_eq!(rights_end(&site), end(1_814_400_000, "campaign autumn"));
    let manifest = std::fs::read_to_string(site.path("campaigns/autumn.toml")).expect("readable");
    let model =
        "\n[models.\"base-1.0\"]\nowner = \"Studio\"\ncontract = \"2026/17\"\nends = 2027-06-01T12:00:00+02:00\n";
    site.write("campaigns/autumn.toml", &format!("{manifest}{model}"));
    assert_eq!(rights_end(&site), end(1_811_844_000, "model base-1.0"));
    assert_eq!(autumn(&site.load()).rights_ends().len(), 2);

    site.write("campaigns/autumn.toml", &format!("{manifest}{model}territory = [\"DE\", \"AT\"]\n"));
    let faults = site.faults();
    assert!(faults.contains("`en-GB`, and this may be shown in `DE` and `AT`") || faults.contains("en-GB"), "{faults}");
    site.write("campaigns/autumn.toml", &format!("{manifest}\n[references.cup]\nends = 2027-06-01\n"));
    assert!(site.faults().contains("an image that this campaign does not use"), "{}", site.faults());
    site.write("campaigns/autumn.toml", &manifest.replace("recallable = true", "recallable = false"));
    assert!(site.faults().contains("`ends` needs `policy.recallable = true`"), "{}", site.faults());
    site.write("campaigns/autumn.toml", &manifest.replace("2027-06-30", "\"2027-06-30\""));
    assert!(site.faults().contains("without quotes"), "{}", site.faults());
}

#[test]
fn a_slot_may_be_reviewed_otherwise_than_its_campaign() {
    let site = Site::new();
    let review = |site: &Site, slot| variant(&site.load(), slot, &[]).review;
    assert_eq!(review(&site, "hero"), Review::None);
    site.edit("campaigns/autumn.toml", "review = \"none\"", "review = \"required\", approvers = 2");
    assert_eq!(review(&site, "hero"), Review::Required { approvers: 2 });
    let manifest = std::fs::read_to_string(site.path("campaigns/autumn.toml")).expect("readable");
    site.write("campaigns/autumn.toml", &manifest.replacen("[slots.hero]\n", "[slots.hero]\nreview = \"none\"\n", 1));
    assert_eq!((review(&site, "hero"), review(&site, "teaser")), (Review::None, Review::Required { approvers: 2 }));
    site.write("campaigns/autumn.toml", &manifest.replace("recallable = true", "recallable = false"));
    assert!(site.faults().contains("needs `recallable = true`"), "{}", site.faults());
    site.write("campaigns/autumn.toml", &manifest.replace("review = \"required\"", "review = \"none\""));
    assert!(site.faults().contains("`approvers` is for pictures that are reviewed"), "{}", site.faults());
}

/// A campaign whose pictures people bring, with none yet.
const BROUGHT: &str = r#"schema = 1
campaign = "brought"
rights = { creator = "Studio", credit = "Shop" }
policy = { review = "none", signing = "optional", recallable = true, locales = ["de-DE", "en-GB"] }

[generate]
source = "import"
size = [64, 64]

[axes.product]
default = "mug"
values.mug = { label = { de = "Becher", en = "mug" } }
values.vase = { label = { de = "Vase", en = "vase" } }

[slots.hero]
ratio = "1:1"
widths = [32, 64]
alt = { de = "{product}", en = "{product}" }
"#;

fn brought() -> Site {
    let site = Site::new();
    site.write("campaigns/brought.toml", BROUGHT);
    site.lock();
    site
}

/// A PNG of one colour.
fn picture(width_px: u32, height_px: u32, grey: u8) -> Vec<u8> {
    let mut file = Vec::new();
    let rgb = vec![grey; width_px as usize * height_px as usize * 3];
    let encoder = image::codecs::png::PngEncoder::new(&mut file);
    image::ImageEncoder::write_image(encoder, &rgb, width_px, height_px, image::ExtendedColorType::Rgb8)
        .expect("a PNG");
    file
}

fn import_into(
    site: &Site,
    variant: &str,
    file: &[u8],
    source: Option<DigitalSource>,
) -> Result<Imported, ImportRunError> {
    let statements = Statements { credit: Some("Agency \"A\"".into()), ..Statements::default() };
    import(&site.sources(), &ImportOrder { variant, bytes: file, source, statements })
}

fn brought_variant(catalog: &Catalog, combination: u32) -> std::sync::Arc<Variant> {
    let campaign = catalog.campaign("brought").expect("loaded");
    catalog.variant(campaign, 0, combination).expect("a recipe")
}

#[test]
fn an_import_is_its_variants_picture_in_every_locale_and_no_lock_forgets_it() {
    let site = brought();
    let file = picture(80, 70, 9);
    let photo = Some(DigitalSource::DigitalCapture);
    let imported = import_into(&site, "brought/hero?product=vase&locale=en-GB", &file, photo).expect("imported");
    assert_eq!((imported.variant.as_str(), imported.width_px), ("brought/hero?product=vase", 80));
    assert_eq!(std::fs::read(&imported.original).expect("kept"), file);
    let recipe = ImportRecipe {
        credit: Some("Agency \"A\"".into()),
        ..ImportRecipe::new(bildkante_shared::ids::Digest::of_bytes(&file), DigitalSource::DigitalCapture)
    };
    assert_eq!(ValidImport::try_from(recipe).expect("valid").id(), imported.recipe);

    site.lock();
    let catalog = site.load();
    let of_vase = catalog.campaign("brought").expect("loaded").combinations().map(|it| brought_variant(&catalog, it));
    let of_vase: Vec<_> = of_vase.filter(|variant| variant.name.contains("product=vase")).collect();
    assert_eq!(of_vase.len(), 2, "locales");
    for variant in of_vase {
        assert_eq!((variant.recipe.id(), variant.size_px), (imported.recipe, (80, 70)));
        assert_eq!(variant.finish.source(), DigitalSource::DigitalCapture);
        let marking = variant.finish.marking();
        assert_eq!((marking.creator.as_deref(), marking.credit.as_deref()), (Some("Studio"), Some("Agency \"A\"")));
    }
    let mug = brought_variant(&catalog, 0);
    assert!(matches!(mug.recipe, MasterRecipe::Awaited(_)), "{mug:?}");
    let checked = check(&site.sources(), Some(&site.path("models"))).expect("valid");
    assert_eq!(checked.campaign("brought").map(|campaign| campaign.pins().imports.len()), Some(1));
}

#[test]
fn an_import_takes_the_place_of_what_would_be_drawn() {
    let site = Site::new();
    let before = variant(&site.load(), "hero", &[("colour", "red")]).recipe.id();
    let file = picture(1344, 756, 30);
    let edited = Some(DigitalSource::HumanEdits);
    import_into(&site, "/i/autumn/hero?colour=red", &file, edited).expect("imported");
    let catalog = site.load();
    let red = variant(&catalog, "hero", &[("colour", "red")]);
    assert_ne!(red.recipe.id(), before);
    assert_eq!(red.finish.source(), DigitalSource::HumanEdits);
    assert!(variant(&catalog, "hero", &[]).recipe.drawn().is_some());
}

#[test]
fn what_cannot_be_imported_says_why() {
    let site = brought();
    let photo = Some(DigitalSource::DigitalCapture);
    let refused =
        |variant: &str, file: &[u8], source| import_into(&site, variant, file, source).expect_err(variant).to_string();
    let good = picture(64, 64, 1);
    assert!(refused("brought/teaser", &good, photo).contains("no slot `teaser`; it has `hero`"));
    assert!(refused("nobody/hero", &good, photo).contains("no campaign `nobody`"));
    assert!(refused("brought/hero?product=car", &good, photo).contains("no value `car`; it has `mug`"));
    assert!(refused("brought/hero?colour=red", &good, photo).contains("no axis `colour`"));
    assert!(refused("brought/hero", b"GIF89a", photo).contains("it is GIF, which is not taken"));
    let small = refused("brought/hero", &picture(63, 200, 1), photo);
    assert!(small.contains("63×200 px") && small.contains("gives 63 px"), "{small}");
    assert!(refused("brought/hero", &good, None).contains("digital source type"));
    assert!(!site.path("campaigns/imports").exists(), "nothing was kept");

    let own = "[slots.hero.generate]\nsteps = 3\n";
    site.write("campaigns/brought.toml", &format!("{BROUGHT}{own}"));
    assert!(site.faults().contains("`steps` tells a model how to draw"), "{}", site.faults());
}

#[test]
fn a_file_says_itself_how_it_came_to_be() {
    let site = brought();
    let photo = DigitalSource::NegativeFilm;
    let metadata =
        Metadata::of(crate::words::Format::Png, (64, 64), &Description::new(Marking::default(), photo), None, None);
    let png = provenance::embed(&picture(64, 64, 5), &metadata);
    let imported = import_into(&site, "brought/hero", &png.expect("marked"), None).expect("imported");
    assert_eq!(imported.source, photo);
}

#[test]
fn an_original_that_is_missing_or_another_is_named_by_lock_and_check() {
    let site = brought();
    let file = picture(64, 64, 7);
    let imported = import_into(&site, "brought/hero", &file, Some(DigitalSource::Print)).expect("imported");
    let said = || {
        let checked = check(&site.sources(), None).expect_err("refused").to_string();
        let locked = write_locks(&site.sources(), &site.path("models")).expect_err("refused").to_string();
        (checked, locked)
    };
    std::fs::write(&imported.original, picture(64, 64, 8)).expect("another");
    let (checked, locked) = said();
    assert!(checked.contains("brought.lock.toml") && checked.contains("is not what the lock names"), "{checked}");
    assert!(locked.contains("is not what the lock names"), "{locked}");
    std::fs::remove_file(&imported.original).expect("removed");
    let (checked, locked) = said();
    assert!(checked.contains("`brought/hero?product=mug`") && checked.contains("is not in"), "{checked}");
    assert!(locked.contains("is not in"), "{locked}");
}

/// A lock that no edge reads would stop every reload.
#[test]
fn an_import_that_would_make_the_lock_unreadable_changes_nothing() {
    let site = brought();
    let photo = Some(DigitalSource::DigitalCapture);
    let first = import_into(&site, "brought/hero?product=mug", &picture(64, 64, 1), photo).expect("imported");
    let text = std::fs::read_to_string(&first.lock).expect("a lock");
    let (head, entry) = text.split_at(text.find("[imports.").expect("an import"));
    let mut full = head.to_owned();
    for n in 0.. {
        let entry = entry.replace("product=mug", &format!("product=mug&n={n}"));
        if full.len() + entry.len() > 1024 * 1024 {
            break;
        }
        full.push_str(&entry);
    }
    std::fs::write(&first.lock, &full).expect("written");
    let kept = || std::fs::read_dir(site.path("campaigns/imports")).expect("a folder").count();
    let refused = import_into(&site, "brought/hero?product=vase", &picture(64, 64, 2), photo).expect_err("too much");
    assert!(refused.to_string().contains("brought.lock.toml"), "{refused}");
    assert_eq!((std::fs::read_to_string(&first.lock).expect("a lock"), kept()), (full, 1));
}

#[test]
fn a_slot_labels_its_pictures_as_it_or_its_campaign_says() {
    let site = Site::new();
    site.edit(
        "campaigns/autumn.toml",
        "[generate]",
        "[label]\nshow = \"text\"\ntext = { de = \"Bild einer KI\" }\n\n[generate]",
    );
    site.edit("campaigns/autumn.toml", "ratio = \"4:5\"", "ratio = \"4:5\"\nlabel = { show = \"icon\" }");
    let catalog = site.load();
    let source = DigitalSource::TrainedAlgorithmicMedia;
    let shown = |slot: usize, locale| {
        let label = autumn(&catalog).slots[slot].label.shown(source, locale).expect("a label");
        (label.show, label.text.to_owned())
    };
    assert_eq!(shown(0, "de-DE"), (LabelShow::Text, "Bild einer KI".to_owned()));
    assert_eq!(shown(1, "en-GB"), (LabelShow::Icon, "AI-generated".to_owned()));
}

#[test]
fn a_label_for_every_locale_or_none() {
    let site = Site::new();
    site.edit("campaigns/autumn.toml", "\"en-GB\"]", "\"en-GB\", \"fr-FR\"]");
    for (alt, with) in [("{product} in {colour}\"", "Bild\""), ("de = \"{product}\"", "de = \"Bild\"")] {
        site.edit("campaigns/autumn.toml", alt, with);
    }
    site.edit("campaigns/autumn.toml", "en = \"{colour} {product}\"", "en = \"b\", fr = \"i\"");
    site.edit("campaigns/autumn.toml", "en = \"{product}\"", "en = \"b\", fr = \"i\"");
    site.load();
    site.edit("campaigns/autumn.toml", "[generate]", "[label]\nshow = \"text\"\n\n[generate]");
    let faults = site.faults();
    assert!(faults.contains("no `text` for `fr-FR`") && faults.contains("the same in line"), "{faults}");
    site.edit("campaigns/autumn.toml", "show = \"text\"", "show = \"text\"\ntext = { fr = \"Créée par IA\" }");
    site.load();
}

#[test]
fn a_label_is_refused_by_the_key_that_is_wrong() {
    let cases = [
        ("show = \"loud\"", "`label.show` is `loud`"),
        ("text = { de = \" \" }", "a label's text is empty"),
        ("text = { de = \"a\\nb\" }", "control character"),
        ("text = { deutsch = \"KI\" }", "`deutsch` is no locale"),
        ("icon = \"https://x.example/a.svg\"", "`icon_size` is missing"),
        ("icon_size = [1, 2]", "`icon_size` is the size of `icon`"),
        ("icon = \"/a.svg\"\nicon_size = [1]", "`icon_size` is [width, height]"),
        ("icon = \"//x.example/a.svg\"\nicon_size = [9, 9]", "`icon` is a URL"),
        ("icon = \"javascript:alert(1)\"\nicon_size = [9, 9]", "`icon` is a URL"),
        ("size = 3", "unknown key `label.size`"),
    ];
    for (keys, reason) in cases {
        let site = Site::new();
        site.edit("campaigns/autumn.toml", "[generate]", &format!("[label]\n{keys}\n\n[generate]"));
        let faults = site.faults();
        assert!(faults.contains(reason), "{keys}: {faults}");
        assert_eq!(faults.lines().count(), 1, "{keys}: {faults}");
    }
}
