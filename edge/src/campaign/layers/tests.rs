//! Campaigns with layers on disk: what is read, refused and filled in.

use std::path::PathBuf;

use bildkante_shared::import::DigitalSource;

use super::super::tests::Site;
use super::super::{Catalog, Variant, check, write_locks};
use crate::render::layers::{ASSET_BYTES_MAX, Direction, LayerKind, LayerSet};

const LAYERS: &str = r##"
[fonts]
files = ["fonts/Sans.ttf", "fonts/Arabic.ttf"]

[figures.price]
axis = "product"
values = { bottle = "1299.50", mug = "9.90" }
pattern = { de = "{} €", en = "€{}" }

[copy.headline]
de = "{product}: {figure:price}"
en = "The {product} that stays, {figure:price}"
short = { de = "{product}", en = "{product}" }

[[slots.hero.layers]]
name = "packshot"
image = "packshots/{product}-{colour}.png"
anchor = "bottom-end"
height = "60%"

[[slots.hero.layers]]
name = "shadow"
shadow = { of = "packshot", kind = "contact" }
only = { product = ["mug"] }

[[slots.hero.layers]]
name = "scrim"
panel = { colour = "#000000c0", around = "headline", padding = ["2%", "2%"], radius = "1%" }

[[slots.hero.layers]]
name = "headline"
text = "headline"
anchor = "top-start"
width = "60%"
size_max = "9%"
weight = 700
fallback = ["panel:scrim", "shorter", "none"]
"##;

/// A font of the shipped campaign.
fn shipped(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../config/campaigns/layers/fonts").join(name)
}

pub(super) fn png(colour: [u8; 4]) -> Vec<u8> {
    use image::ImageEncoder as _;
    let mut file = Vec::new();
    let encoder = image::codecs::png::PngEncoder::new(&mut file);
    encoder.write_image(&colour.repeat(12), 4, 3, image::ExtendedColorType::Rgba8).expect("a small picture");
    file
}

/// The fixture campaign with layers, its files there and locked.
pub(super) fn site() -> Site {
    let site = bare();
    site.lock();
    site
}

/// The same, not locked yet.
pub(super) fn bare() -> Site {
    let site = Site::new();
    let manifest = std::fs::read_to_string(site.path("campaigns/autumn.toml")).expect("a manifest");
    site.write("campaigns/autumn.toml", &format!("{manifest}\n{LAYERS}"));
    for folder in ["campaigns/layers/fonts", "campaigns/layers/packshots"] {
        std::fs::create_dir_all(site.path(folder)).expect("a folder");
    }
    for (name, from) in [("Sans", "NotoSans-Bold-Latin.ttf"), ("Arabic", "NotoNaskhArabic-Bold.ttf")] {
        let to = site.path(&format!("campaigns/layers/fonts/{name}.ttf"));
        std::fs::copy(shipped(from), to).expect("copied");
    }
    for (at, product) in ["bottle", "mug"].into_iter().enumerate() {
        for (shade, colour) in [(10, "red"), (20, "teal"), (30, "gold")] {
            let path = site.path(&format!("campaigns/layers/packshots/{product}-{colour}.png"));
            std::fs::write(path, png([shade, u8::try_from(at).expect("small"), 0, 255])).expect("written");
        }
    }
    site
}

pub(super) fn variant(site: &Site, chosen: &[(&str, &str)]) -> Variant {
    let catalog = site.load();
    let campaign = catalog.campaign("autumn").expect("a campaign");
    let mut combination = campaign.default_combination();
    for (axis, value) in chosen {
        let axis = campaign.axis_index(axis).expect("an axis");
        let value = campaign.axes[axis].value_index(value).expect("a value");
        combination = campaign.replaced(combination, axis, value);
    }
    let slot = campaign.slot_index("hero").expect("a slot");
    Variant::clone(&catalog.variant(campaign, slot, combination).expect("a recipe"))
}

pub(super) fn words(set: &LayerSet) -> Vec<String> {
    let texts = set.layers().iter().filter_map(|layer| match &layer.kind {
        LayerKind::Text(text) => Some(text.words.as_str().to_owned()),
        _ => None,
    });
    texts.collect()
}

#[test]
fn texts_figures_and_pictures_follow_the_values_and_the_locale() {
    let site = site();
    let of = |chosen: &[(&str, &str)]| {
        let variant = variant(&site, chosen);
        let layers = variant.finish.layers().expect("layers");
        let names: Vec<String> = layers.layers().iter().map(|layer| layer.name.clone()).collect();
        (words(layers)[0].clone(), names.len(), layers.images()[0].1.digest())
    };
    let german = of(&[]);
    assert_eq!((german.0.as_str(), german.1), ("Flasche: 1.299,50 €", 3), "no shadow of a bottle");
    let english = of(&[("locale", "en-GB"), ("product", "mug")]);
    assert_eq!((english.0.as_str(), english.1), ("The mug that stays, €9.90", 4));
    assert_ne!(german.2, english.2);
    assert_ne!(of(&[("colour", "red")]).2, of(&[("colour", "gold")]).2);
}

#[test]
fn layers_are_part_of_keys_versions_and_provenance_and_of_no_recipe() {
    let site = site();
    let catalog = |site: &Site| *site.load().campaign("autumn").expect("a campaign").rendition_digest(0);
    let (german, english) = (variant(&site, &[]), variant(&site, &[("locale", "en-GB")]));
    assert_eq!(german.recipe.id(), english.recipe.id(), "one master");
    assert_ne!(german.finish.digest(), english.finish.digest());
    assert_eq!(german.finish.source(), DigitalSource::CompositeWithTrainedAlgorithmicMedia);
    let before = catalog(&site);
    site.edit("campaigns/autumn.toml", "{figure:price}\"", "{figure:price}!\"");
    assert_ne!(catalog(&site), before);
    let before = catalog(&site);
    let fonts = ["[\"fonts/Sans.ttf\", \"fonts/Arabic.ttf\"]", "[\"fonts/Arabic.ttf\", \"fonts/Sans.ttf\"]"];
    site.edit("campaigns/autumn.toml", fonts[0], fonts[1]);
    site.lock();
    assert_ne!(catalog(&site), before, "the order of fonts decides which one is asked first");
    let plain = Site::new();
    assert_eq!(variant(&plain, &[]).finish.layers(), None);
    assert_eq!(variant(&plain, &[]).recipe.id(), german.recipe.id());
}

#[test]
fn a_lock_pins_every_file_and_a_file_that_differs_is_refused() {
    let site = bare();
    assert!(site.faults().contains("the lock is stale"));
    site.lock();
    let lock = std::fs::read_to_string(site.path("campaigns/autumn.lock.toml")).expect("a lock");
    assert!(lock.contains("[layers]") && lock.contains("\"packshots/mug-gold.png\" = \""), "{lock}");
    std::fs::write(site.path("campaigns/layers/packshots/mug-gold.png"), png([9; 4])).expect("written");
    let faults = site.faults();
    assert!(faults.contains("mug-gold.png is not what the lock pins; run `bildkante-edge lock`"), "{faults}");
    std::fs::remove_file(site.path("campaigns/layers/packshots/mug-gold.png")).expect("removed");
    assert!(site.faults().contains("mug-gold.png: No such file"));
}

#[test]
fn a_table_gives_texts_and_its_faults_have_their_place() {
    let site = site();
    let inline = "[copy.headline]\nde = \"{product}: {figure:price}\"\nen = \"The {product} that stays, {figure:price}\"\n\
                  short = { de = \"{product}\", en = \"{product}\" }\n";
    site.edit("campaigns/autumn.toml", inline, "[copy]\nfile = \"autumn-copy.csv\"\n");
    assert!(site.faults().contains("there is no table `autumn-copy.csv`"));
    site.write(
        "campaigns/autumn-copy.csv",
        "key,de,en-GB\nheadline,\"{product}, {figure:price}\",Stay\nheadline.short,a,b\n",
    );
    let found = variant(&site, &[]);
    assert_eq!(words(found.finish.layers().expect("layers")), ["Flasche, 1.299,50 €"]);
    site.write("campaigns/autumn-copy.csv", "key,de,en-GB\nheadline,\"{product}\",\"{size}\"\n");
    let faults = site.faults();
    assert!(faults.contains("autumn-copy.csv:2:") && faults.contains("there is no axis {size}"), "{faults}");
}

#[test]
fn what_cannot_be_drawn_is_refused_with_its_place() {
    let faults = |from: &str, to: &str| {
        let site = site();
        site.edit("campaigns/autumn.toml", from, to);
        site.faults()
    };
    let headline = "text = \"headline\"";
    for (from, to, said) in [
        ("de = \"{product}: {figure:price}\"", "de = \" \"", "the text is empty"),
        (headline, "text = \"claim\"", "there is no text `claim` in [copy]; there is `headline`"),
        (headline, "text = \"headline\"\nimage = \"a.png\"", "one of `image`, `text`, `panel` and `shadow`"),
        ("of = \"packshot\"", "of = \"scrim\"", "`shadow` names `scrim`, which is no image and no text"),
        ("panel:scrim", "panel:packshot", "`headline` falls back to `packshot`, which is no panel"),
        ("packshots/{product}-{colour}.png", "../{product}.png", "is no path below the campaigns' folder"),
        ("packshots/{product}-{colour}.png", "packshots/{size}.png", "there is no axis {size}"),
        ("height = \"60%\"", "height = \"60\"", "`height` is a length such as"),
        ("#000000c0", "black", "is a colour such as"),
        ("product = [\"mug\"]", "product = [\"cup\"]", "axis `product` has no value `cup`"),
        ("product = [\"mug\"]", "cuts = [\"tall\"]", "there is no cut `tall`"),
        ("product = [\"mug\"]", "product = []", "`only.product` allows nothing: the layer would never be there"),
        ("product = [\"mug\"]", "cuts = []", "`only.cuts` allows nothing"),
        ("[\"mug\"] }", &format!("[{}] }}", "\"mug\",".repeat(300)), "`only.product` has 300 entries, at most 256"),
        ("mug = \"9.90\"", "mug = \"9,90\"", "`9,90` is no number"),
        ("bottle = \"1299.50\", ", "", "`values` lacks one for `bottle`"),
        ("de = \"{} €\"", "de = \"€\"", "a pattern is a short text with one {}"),
        ("{figure:price}\"\nen", "{figure:weight}\"\nen", "there is no figure `weight`"),
        ("short = { de = \"{product}\", en = \"{product}\" }", "", "`copy.headline.short` has none for `de-DE`"),
        ("weight = 700", "wieght = 700", "unknown key `slots.hero.layers.wieght`"),
    ] {
        let found = faults(from, to);
        assert!(found.contains(said), "{to}: {found}");
        assert!(found.contains("autumn.toml:"), "{found}");
    }
}

/// A text for some locales needs no labels in others; a layer that is there in some needs no text in others.
#[test]
fn a_table_needs_the_labels_that_it_names_and_no_others() {
    let site = site();
    let inline = "[copy.headline]\nde = \"{product}: {figure:price}\"\nen = \"The {product} that stays, {figure:price}\"\n\
                  short = { de = \"{product}\", en = \"{product}\" }\n";
    site.edit("campaigns/autumn.toml", inline, "[copy]\nfile = \"autumn-copy.csv\"\n");
    site.write("campaigns/autumn-copy.csv", "key,de,en\nheadline,{product},Stay\nheadline.short,a,b\n");
    assert!(check(&site.sources(), None).is_ok());
    site.write("campaigns/autumn-copy.csv", "key,de,en\nheadline,{finish},Stay\nheadline.short,a,b\n");
    let faults = site.faults();
    let said = "{finish} stands in a text of the table, but the label of `none` has no text for `de-DE`";
    assert!(faults.contains("autumn-copy.csv:2:10: ") && faults.contains(said), "{faults}");
    assert!(!faults.contains("en-GB"), "no English text names it: {faults}");
    site.write("campaigns/autumn-copy.csv", "key,de,en,de,DE\nheadline,Bleibt,Stay\nheadline.short,a,b\n");
    let faults = site.faults();
    assert!(faults.contains("autumn-copy.csv:1:11: two columns are called `de`"), "{faults}");
    assert_eq!(faults.matches("`DE` is no locale; write `de` or `de-DE`").count(), 1, "{faults}");
    let german = "key,de\nheadline,Bleibt\nheadline.short,a\n";
    site.write("campaigns/autumn-copy.csv", german);
    assert!(site.faults().contains("`copy.headline` has no text for `en-GB`"));
    site.edit("campaigns/autumn.toml", "weight = 700", "weight = 700\nonly = { locale = [\"de-DE\"] }");
    assert!(check(&site.sources(), None).is_ok());
}

/// What cannot be filled in is refused when campaigns are linked, and no picture is ever served without its layers
/// instead.
#[test]
fn a_text_that_some_labels_make_too_long_or_empty_is_refused() {
    let of = |label: &str, text: &str| {
        let site = site();
        let named = format!("label = {{ de = \"{label}\", en = \"{label}\" }}");
        site.edit("campaigns/autumn.toml", "label = { de = \"Becher\",  en = \"mug\" }", &named);
        site.edit("campaigns/autumn.toml", "{product}: {figure:price}", text);
        Catalog::load(&site.sources()).err().map(|errors| errors.to_string()).unwrap_or_default()
    };
    assert_eq!(of("Becher", &"{product} ".repeat(45)), "");
    let faults = of(&"B".repeat(20), &"{product} ".repeat(25));
    assert!(faults.contains("`copy.headline` in de-DE: with the longest labels it has 525 characters"), "{faults}");
    let faults = of("", " {product}");
    assert!(faults.contains("`copy.headline` in de-DE: with an empty label it is empty"), "{faults}");
    assert!(faults.contains("`copy.headline.short` in en-GB: with an empty label it is empty"), "{faults}");
}

/// A digest of a file's beginning would be no digest of the file.
#[test]
fn a_file_over_its_bound_is_not_locked() {
    let site = bare();
    let over = vec![0; ASSET_BYTES_MAX + 1];
    std::fs::write(site.path("campaigns/layers/packshots/mug-gold.png"), &over).expect("written");
    let error = write_locks(&site.sources(), &site.path("models")).expect_err("refused").to_string();
    assert!(
        error.contains("layer file `packshots/mug-gold.png`") && error.contains("has more than 16777216 bytes"),
        "{error}"
    );
    std::fs::write(site.path("campaigns/layers/packshots/mug-gold.png"), png([9; 4])).expect("written");
    std::fs::write(site.path("campaigns/layers/fonts/Sans.ttf"), &over).expect("written");
    assert!(write_locks(&site.sources(), &site.path("models")).is_ok(), "a font may be larger");
}

#[test]
fn check_tries_every_variant_in_every_locale() {
    let site = site();
    assert!(check(&site.sources(), None).is_ok());
    site.edit("campaigns/autumn.toml", "The {product} that stays", "Das {product} Ж");
    let faults = check(&site.sources(), None).expect_err("refused").to_string();
    assert!(faults.contains("slot `hero`, en-GB") && faults.contains("`Ж` (U+0416)"), "{faults}");
    site.edit("campaigns/autumn.toml", "Das {product} Ж", &"long ".repeat(60));
    assert!(check(&site.sources(), None).is_ok(), "a shorter text stands for it");
    site.edit("campaigns/autumn.toml", "[\"panel:scrim\", \"shorter\", \"none\"]", "[\"none\"]");
    let faults = check(&site.sources(), None).expect_err("refused").to_string();
    assert!(faults.contains("does not fit"), "{faults}");
    site.edit("campaigns/autumn.toml", &"long ".repeat(60), "The mug");
    site.edit("campaigns/autumn.toml", "[slots.hero]\n", "[slots.hero]\ntext_share_max = 0.001\n");
    assert!(check(&site.sources(), None).expect_err("refused").to_string().contains("texts cover"));
}

#[test]
fn right_to_left_locales_are_set_from_the_right() {
    let site = bare();
    site.edit("campaigns/autumn.toml", "locales = [\"de-DE\", \"en-GB\"]", "locales = [\"ar-EG\"]");
    let manifest = std::fs::read_to_string(site.path("campaigns/autumn.toml")).expect("a manifest");
    let arabic = manifest
        .replace("de = \"{product}: {figure:price}\"\n", "ar = \"كوب {figure:price}\"\n")
        .replace("en = \"The {product} that stays, {figure:price}\"\n", "")
        .replace("short = { de = \"{product}\", en = \"{product}\" }", "short = { ar = \"كوب\" }")
        .replace("pattern = { de = \"{} €\", en = \"€{}\" }", "pattern = { ar = \"{}\" }")
        .replace("{ de = ", "{ ar = ");
    site.write("campaigns/autumn.toml", &arabic);
    site.lock();
    let found = variant(&site, &[]);
    let layers = found.finish.layers().expect("layers");
    assert_eq!((layers.direction(), words(layers)), (Direction::Rtl, vec!["كوب ١٬٢٩٩٫٥٠".to_owned()]));
    assert!(check(&site.sources(), None).is_ok());
}

/// Layers say in which cuts they are; each cut has a safe area and a digest of its own.
#[test]
fn a_layer_is_in_the_cuts_that_it_names() {
    let site = site();
    let cuts = "[[slots.hero.cuts]]\nname = \"tall\"\nmedia = \"(max-width: 40rem)\"\nratio = \"4:5\"\nwidths = [240]\n\
                safe_area = { left = 10 }\n\n[slots.teaser]";
    site.edit("campaigns/autumn.toml", "[slots.teaser]", cuts);
    site.edit(
        "campaigns/autumn.toml",
        "anchor = \"bottom-end\"",
        "anchor = \"bottom-end\"\nonly = { cuts = [\"default\"] }",
    );
    let found = variant(&site, &[]);
    let names = |cut| {
        let layers = found.finish_of(cut).layers().expect("layers");
        layers.layers().iter().map(|layer| layer.name.clone()).collect::<Vec<_>>()
    };
    assert_eq!(names(None), ["packshot", "scrim", "headline"]);
    assert_eq!(names(Some(0)), ["scrim", "headline"]);
    assert_ne!(found.finish_of(Some(0)).digest(), found.finish_of(None).digest());
    let wide = |site: &Site| *variant(site, &[]).finish_of(Some(0)).digest().as_bytes();
    let before = wide(&site);
    site.edit("campaigns/autumn.toml", "safe_area = { left = 10 }", "safe_area = { left = 20 }");
    assert_ne!(wide(&site), before);
    site.edit("campaigns/autumn.toml", "[\"default\"]", "[\"wide\"]");
    assert!(site.faults().contains("there is no cut `wide`; there is `tall` and `default`"), "{}", site.faults());
}
