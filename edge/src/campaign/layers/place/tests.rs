//! Places of layers on disk: drawn by `lock`, pinned, part of recipes, and refused where they are not what they were.

use std::path::PathBuf;

use image::ImageEncoder as _;
use image::codecs::png::{CompressionType, FilterType, PngEncoder};

use super::super::tests::{bare, png, variant};
use crate::campaign::tests::Site;
use crate::campaign::{Variant, check};

const GENERATE: &str = r#"
[slots.hero.generate]
prompt = "a {finish} table {block:floor}"
init   = { image = "begin.png", strength = 1.0 }
mask   = { layer = "packshot", white = "surroundings", grow = "2%", softness = "1%" }
"#;

/// The fixture campaign with layers, whose hero's recipes name no product and leave room for one. Mugs are upright.
fn unlocked() -> Site {
    let site = bare();
    let manifest = std::fs::read_to_string(site.path("campaigns/autumn.toml")).expect("a manifest");
    site.write("campaigns/autumn.toml", &format!("{manifest}\n{GENERATE}"));
    site.write("campaigns/images/begin.png", "begin");
    for colour in ["red", "teal", "gold"] {
        let mut file = Vec::new();
        let upright = [9, 9, 9, 255].repeat(3 * 4);
        PngEncoder::new(&mut file).write_image(&upright, 3, 4, image::ExtendedColorType::Rgba8).expect("a picture");
        std::fs::write(site.path(&format!("campaigns/layers/packshots/mug-{colour}.png")), file).expect("written");
    }
    site
}

fn site() -> Site {
    let site = unlocked();
    site.lock();
    site
}

fn mask(variant: &Variant) -> bildkante_shared::ids::Digest {
    variant.recipe.drawn().and_then(|recipe| recipe.mask).expect("a mask")
}

fn places(site: &Site) -> Vec<PathBuf> {
    let files = std::fs::read_dir(site.path("campaigns/images")).expect("a folder").flatten().map(|file| file.path());
    let is_place = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("place-"));
    let mut places: Vec<PathBuf> = files.filter(is_place).collect();
    places.sort();
    places
}

/// The lock's place of the teal mug.
fn teal_mug(site: &Site) -> PathBuf {
    let is_teal = |path: &PathBuf| path.to_string_lossy().contains("place-mug-teal-");
    places(site).into_iter().find(is_teal).expect("a place")
}

#[test]
fn recipes_differ_by_what_the_place_differs_by() {
    let site = site();
    assert_eq!(places(&site).len(), 6, "one for each product and colour");
    let [bottle, mug] = [&[][..], &[("product", "mug")]].map(|chosen| variant(&site, chosen));
    assert_ne!(mask(&bottle), mask(&mug));
    assert_ne!(bottle.recipe.id(), mug.recipe.id(), "no prompt names the product");
    assert_ne!(bottle.picture, mug.picture);
    let red = variant(&site, &[("colour", "red")]);
    assert_eq!(red.recipe.id(), bottle.recipe.id(), "equal silhouettes are one recipe");
    let english = variant(&site, &[("locale", "en-GB")]);
    assert_eq!((english.picture, english.recipe.id()), (bottle.picture, bottle.recipe.id()));
    assert!(check(&site.sources(), None).is_ok());

    let picture = image::open(teal_mug(&site)).expect("a picture").into_luma8();
    assert_eq!(picture.dimensions(), (1344, 768), "as large as the master");
    // The cut is 1344 × 756 and begins 6 px from above; the mug is 60 % of that high, three quarters as wide, and grown by 15.
    assert_eq!([picture.get_pixel(1343, 761).0, picture.get_pixel(960, 500).0], [[0], [255]]);
    assert_eq!([picture.get_pixel(1343, 765).0, picture.get_pixel(0, 0).0], [[0], [255]]);
    let black = picture.pixels().filter(|pixel| pixel.0[0] < 128).count();
    assert!((150_000..190_000).contains(&black), "{black}");
}

#[test]
fn a_seed_is_chosen_by_the_axes_of_the_place_too() {
    let site = site();
    let seeds = "[slots.hero]\nseeds = { \"colour=teal&finish=none&product=mug\" = 77 }\n";
    site.edit("campaigns/autumn.toml", "[slots.hero]\n", seeds);
    assert_eq!(variant(&site, &[("product", "mug")]).drawn_seed(), Some(77));
    assert_ne!(variant(&site, &[]).drawn_seed(), Some(77));
}

#[test]
fn what_moves_the_place_is_another_recipe_once_it_is_locked() {
    for (from, to) in [
        ("height = \"60%\"", "height = \"50%\""),
        ("anchor = \"bottom-end\"", "anchor = \"bottom\""),
        ("grow = \"2%\"", "grow = \"3%\""),
        ("ratio = \"16:9\"", "ratio = \"16:9\"\nsafe_area = { right = 10 }"),
    ] {
        let site = site();
        let before = variant(&site, &[]);
        site.edit("campaigns/autumn.toml", from, to);
        assert!(site.faults().contains("the lock is stale"), "{to}");
        site.lock();
        assert_ne!(mask(&variant(&site, &[])), mask(&before), "{to}");
    }
    let site = site();
    let before = [&[][..], &[("product", "mug")]].map(|chosen| variant(&site, chosen).recipe.id());
    std::fs::write(site.path("campaigns/layers/packshots/bottle-teal.png"), png([1, 2, 3, 90])).expect("written");
    assert!(site.faults().contains("bottle-teal.png is not what the lock pins"));
    site.lock();
    let after = [&[][..], &[("product", "mug")]].map(|chosen| variant(&site, chosen).recipe.id());
    assert!(after[0] != before[0] && after[1] == before[1], "a packshot's own pictures alone are drawn again");
}

#[test]
fn check_knows_a_place_that_is_missing_or_shows_something_else() {
    let site = site();
    let fault = || check(&site.sources(), None).expect_err("refused").to_string();
    let place = teal_mug(&site);
    let file = std::fs::read(&place).expect("a file");
    std::fs::remove_file(&place).expect("removed");
    assert!(fault().contains("it does not show the place of layers/packshots/mug-teal.png"), "{}", fault());
    site.lock();
    assert_eq!(std::fs::read(&place).expect("written again"), file);
    let other = places(&site).into_iter().find(|path| path.to_string_lossy().contains("bottle")).expect("a place");
    std::fs::copy(other, &place).expect("copied");
    assert!(fault().contains("it does not show the place"), "{}", fault());

    // Another encoder's file shows the same, and stays; but it is another file, so the lock does not fit it.
    let picture = image::load_from_memory(&file).expect("a picture").into_luma8();
    let mut again = Vec::new();
    let encoder = PngEncoder::new_with_quality(&mut again, CompressionType::Fast, FilterType::NoFilter);
    picture.write_with_encoder(encoder).expect("encoded");
    assert_ne!(again, file);
    std::fs::write(&place, &again).expect("written");
    assert!(fault().contains("it is not what the lock pins"), "{}", fault());
    site.lock();
    assert_eq!(std::fs::read(&place).expect("a file"), again);
    assert!(check(&site.sources(), None).is_ok());
}

#[test]
fn a_layer_that_is_not_there_has_an_empty_place() {
    let site = unlocked();
    let only = "anchor = \"bottom-end\"\nonly = { product = [\"mug\"], locale = [\"de-DE\"] }";
    site.edit("campaigns/autumn.toml", "anchor = \"bottom-end\"", only);
    site.lock();
    let names: Vec<String> = places(&site).iter().map(|path| path.to_string_lossy().into_owned()).collect();
    assert_eq!(
        (names.len(), names.iter().filter(|name| name.contains("/place-nothing-")).count()),
        (4, 1),
        "{names:?}"
    );
    let of = |chosen: &[(&str, &str)]| mask(&variant(&site, chosen));
    assert_eq!(of(&[]), of(&[("colour", "red")]));
    assert_ne!(of(&[]), of(&[("product", "mug")]));
    assert_eq!(of(&[("product", "mug")]), of(&[("product", "mug"), ("locale", "en-GB")]), "room in every language");
}

#[test]
fn what_has_no_place_is_refused_by_name() {
    for (from, to, said) in [
        (
            "{ layer = \"packshot\"",
            "{ layer = \"packshots\"",
            "no layer `packshots`; of its layers that are images there is `packshot`",
        ),
        ("{ layer = \"packshot\"", "{ layer = \"shadow\"", "layer `shadow` of slot `hero` is no image"),
        ("layer = \"packshot\", ", "", "`slots.hero.generate.mask.layer` is missing"),
        ("\"surroundings\"", "\"black\"", "`slots.hero.generate.mask.white` is `black`"),
        ("grow = \"2%\"", "grow = \"2px\"", "`grow` is a share of the cut's shorter side from \"0%\" to \"25%\""),
        ("softness = \"1%\"", "softness = \"-1%\"", "`softness` is a share"),
        ("grow =", "grwo =", "unknown key `slots.hero.generate.mask.grwo`"),
        ("{ layer = \"packshot\"", "7 #", "is a string or a table"),
        ("init   = { image = \"begin.png\", strength = 1.0 }", "", "there is no `init`"),
    ] {
        let site = unlocked();
        site.edit("campaigns/autumn.toml", from, to);
        let found = site.faults();
        assert!(found.contains(said), "{to}: {found}");
        assert!(found.contains("autumn.toml:"), "{found}");
    }
    let site = unlocked();
    let cut =
        "[[slots.hero.cuts]]\nname = \"tall\"\nmedia = \"(max-width: 40rem)\"\nratio = \"4:5\"\nwidths = [240]\n\n";
    site.edit("campaigns/autumn.toml", "[slots.teaser]", &format!("{cut}[slots.teaser]"));
    let only = "anchor = \"bottom-end\"\nonly = { cuts = [\"tall\"] }";
    site.edit("campaigns/autumn.toml", "anchor = \"bottom-end\"", only);
    assert!(site.faults().contains("`packshot` is not in the own cut of slot `hero`"), "{}", site.faults());
}
