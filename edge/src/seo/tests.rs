//! All forms of one placement, beside what its manifest says; and every text of a manifest as an attack.

use bildkante_shared::ids::MasterId;
use serde_json::{Value, json};

use super::*;
use crate::campaign::tests::Site;
use crate::governance::{PlaceStanding, Withheld};
use crate::request::{Pinning, SavingAsk};
use crate::resolve::{Operator, Resolution, resolve};
use crate::shared_state::Reason;
use crate::words::Moment;

pub(super) const PUBLIC_URL: &str = "https://img.example.com";

/// The fixture campaign with all that markup can tell.
pub(super) fn site() -> Site {
    let site = Site::new();
    site.edit(
        "campaigns/autumn.toml",
        "license = \"https://example.org/l\"",
        "license = \"https://example.org/l\", acquire_license = \"https://example.org/buy\"",
    );
    site.edit(
        "campaigns/autumn.toml",
        "[slots.teaser]",
        "caption = { de = \"{product}, Herbst\", en = \"{product}, autumn\" }
channel = \"shop\"
pages = [\"https://shop.example/{locale}/{product}?c={colour}&x=1\"]
schema = { type = \"product\", name = { de = \"{product}\", en = \"{product}\" }, brand = \"Brand\", sku = \"{product}-{colour}\" }

[briefing]
goal = \"More visits\"
kpi = \"Clicks\"
text_share_max = 0.2
safe_areas.headline = { area = [0.0, 0.0, 1.0, 0.3], slots = [\"hero\"] }

[slots.teaser]",
    );
    site.edit(
        "campaigns/autumn.toml",
        "label = { de = \"Farbe\", en = \"Colour\" }",
        "label = { de = \"Farbe\", en = \"Colour\" }\nmotif = { variable = \"contrast\", values = { teal = \"low\" } }",
    );
    site.lock();
    site
}

fn shown(showing: Showing, resolved: &crate::resolve::Resolved) -> Shown {
    Shown {
        showing,
        recipe: resolved.variant.recipe.id(),
        master: showing.is_live().then(|| MasterId::of_bytes(b"master")),
        seed: resolved.variant.drawn_seed(),
        is_of_manifest: true,
        drawn: Moment::from_unix_s(1_796_000_000),
        standing: PlaceStanding { changes_unix_ms: None, epoch: None },
        lqip: showing.is_live().then(|| LQIP.parse().expect("an LQIP")),
    }
}

pub(super) fn placement(site: &Site, url: &str, showing: Showing) -> Placement {
    let catalog = site.load();
    let Resolution { resolved, .. } = resolve(&catalog, url, &Operator).outcome.expect("a variant");
    let place = Place::new(PUBLIC_URL, None);
    Placement::new(&resolved, shown(showing, &resolved), place)
}

const LQIP: &str = "#c81e5aIQgSDQRVVVVVVVVVVVVV";

pub(super) const MUG: &str = "/i/autumn/hero?product=mug&colour=red&locale=en-GB";

#[test]
fn a_fragment_carries_what_analytics_read() {
    let mug = placement(&site(), MUG, Showing::Live);
    let markup = mug.markup();
    assert!(markup.starts_with("<picture data-variant=\"autumn/hero?colour=red&amp;finish=none&amp;locale=en-GB&amp;product=mug\" data-recipe=\""), "{markup}");
    assert!(markup.contains("\" data-seed=\"1207\">") && markup.contains(" data-prompt-version=\""), "{markup}");
    assert!(markup.contains("alt=\"red mug\"") && markup.contains("fetchpriority=\"high\""), "{markup}");
    let version = mug.prompt_version.expect("it is drawn");
    assert_eq!(version.len(), 12);
    let site = site();
    site.edit("campaigns/autumn.toml", "a {finish}", "one {finish}");
    assert_ne!(placement(&site, MUG, Showing::Live).prompt_version, Some(version));
}

#[test]
fn only_formats_of_the_slot_are_offered() {
    let site = site();
    site.edit("campaigns/autumn.toml", "formats = [\"avif\", \"webp\", \"jpg\"]", "formats = [\"webp\", \"jpg\"]");
    let teaser = placement(&site, "/i/autumn/teaser", Showing::Live);
    let preloaded = |teaser: &Placement| {
        let mut hero = teaser.clone();
        hero.loading = Loading::Hero;
        hero.preload().expect("of a hero")
    };
    assert!(!teaser.markup().contains("avif") && teaser.markup().contains("image/webp"));
    assert!(preloaded(&teaser).contains("type=\"image/webp\""));
    site.edit("campaigns/autumn.toml", "formats = [\"webp\", \"jpg\"]", "formats = [\"jpg\"]");
    let teaser = placement(&site, "/i/autumn/teaser", Showing::Live);
    assert!(!teaser.markup().contains("<source") && preloaded(&teaser).contains("image/jpeg"));
}

#[test]
fn structured_data_says_what_the_manifest_says_of_makers_and_rights() {
    let mug = placement(&site(), MUG, Showing::Live);
    let image = mug.image_object().expect("it is live");
    let expected = json!({
        "@context": "https://schema.org",
        "@type": "ImageObject",
        "contentUrl": "https://img.example.com/i/autumn/hero/autumn-mug-red-none?colour=red&locale=en-GB&product=mug&w=1344&fm=jpg",
        "thumbnailUrl": "https://img.example.com/i/autumn/hero/autumn-mug-red-none?colour=red&locale=en-GB&product=mug&w=480&fm=jpg",
        "name": "mug, autumn",
        "caption": "mug, autumn",
        "description": "red mug",
        "inLanguage": "en-GB",
        "width": { "@type": "QuantitativeValue", "value": 1344, "unitCode": "E37" },
        "height": { "@type": "QuantitativeValue", "value": 756, "unitCode": "E37" },
        "encodingFormat": "image/jpeg",
        "creator": { "@type": "Organization", "name": "Studio" },
        "creditText": "Shop",
        "copyrightNotice": "© 2026 Shop",
        "license": "https://example.org/l",
        "acquireLicensePage": "https://example.org/buy",
        "digitalSourceType": "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia",
        "dateCreated": "2026-11-30T00:53:20Z",
    });
    assert_eq!(image, expected);
    let product = mug.structured_data().expect("it is live");
    assert_eq!(
        (&product["@type"], &product["name"], &product["sku"]),
        (&json!("Product"), &json!("mug"), &json!("mug-red"))
    );
    assert_eq!(product["url"], "https://shop.example/en-GB/mug?c=red&x=1");
    assert_eq!(product["image"]["contentUrl"], expected["contentUrl"]);
    assert!(product["image"].get("@context").is_none());
}

/// The page is about an article instead of a product.
pub(super) fn make_article(site: &Site) {
    let article = "schema = { type = \"article\", headline = { de = \"Herbst\", en = \"Autumn\" }, author = \"A. B.\", author_url = \"https://example.org/ab\", publisher = \"Shop\", date_published = 2026-09-01 }";
    let text = std::fs::read_to_string(site.path("campaigns/autumn.toml")).expect("readable");
    let line = text.lines().find(|line| line.starts_with("schema = {")).expect("a schema").to_owned();
    site.edit("campaigns/autumn.toml", &line, article);
}

#[test]
fn an_article_has_its_own_words() {
    let site = site();
    make_article(&site);
    let data = placement(&site, MUG, Showing::Live).structured_data().expect("it is live");
    assert_eq!(data["author"], json!({ "@type": "Person", "name": "A. B.", "url": "https://example.org/ab" }));
    assert_eq!((&data["headline"], &data["datePublished"]), (&json!("Autumn"), &json!("2026-09-01")));
    assert_eq!(data["mainEntityOfPage"], "https://shop.example/en-GB/mug?c=red&x=1");
}

#[test]
fn what_is_not_live_is_described_to_no_search_engine_and_keeps_its_url() {
    let site = site();
    let live = placement(&site, MUG, Showing::Live);
    let withheld = Withheld { reason: Reason::Awaiting, epoch: 7 };
    for showing in [Showing::Undrawn, Showing::Awaited, Showing::Withheld(withheld)] {
        let absent = placement(&site, MUG, showing);
        assert_eq!(absent.markup(), live.markup());
        let document = absent.document();
        assert_eq!((&document["live"], &document["state"]), (&json!(false), &json!(showing.as_str())));
        assert_eq!(document["url"], live.document()["url"]);
        for absent in ["image_object", "structured_data", "pinned_url", "version"] {
            assert_eq!(document.get(absent), None, "{absent}");
        }
    }
    let document = live.document();
    assert_eq!(document["live"], true);
    assert!(
        document["pinned_url"]
            .as_str()
            .expect("a URL")
            .ends_with(&format!("&v={}", document["version"].as_str().expect("a version")))
    );
    assert_eq!(document["motif"], json!({ "contrast": "red" }));
    assert_eq!(document["layout_rules"]["safe_areas"][0]["name"], "headline");
    assert!(!document.to_string().contains("More visits"), "what a campaign is for is not for the public");
    assert_eq!(live.briefing.goal.as_deref(), Some("More visits"));
    assert_eq!((&document["channel"], &document["caption"]), (&json!("shop"), &json!("mug, autumn")));
}

#[test]
fn pinned_markup_names_the_version_in_every_url() {
    let site = site();
    let mut mug = placement(&site, MUG, Showing::Live);
    mug.pinning = Pinning::Current;
    let version = format!("v={}", mug.version.clone().expect("it is live").as_str());
    let preload = mug.preload().expect("a hero");
    for form in [mug.markup(), preload, mug.mail(), mug.meta(), mug.image_object().expect("live").to_string()] {
        let urls = form.matches("https://img.example.com/i/").count();
        assert!(urls > 0 && form.matches(&version).count() == urls, "{form}");
    }
}

#[test]
fn an_lqip_stands_where_the_slot_has_it_and_only_of_what_is_live() {
    let site = site();
    let plain = placement(&site, MUG, Showing::Live);
    assert!(!plain.markup().contains("thumbhash") && !plain.markup().contains("style="));
    let told = json!({ "average_colour": "#c81e5a", "thumbhash": "IQgSDQRVVVVVVVVVVVVV" });
    assert_eq!(plain.document()["lqip"], told, "data is there in any case");
    let attributes = "data-average-colour=\"#c81e5a\" data-thumbhash=\"IQgSDQRVVVVVVVVVVVVV\">";
    let style = "alt=\"red mug\" style=\"background-color:#c81e5a\"";
    let mut former = "channel = \"shop\"".to_owned();
    for (place, is_styled) in [("data", false), ("style", true)] {
        let line = format!("channel = \"shop\"\nlqip = \"{place}\"");
        site.edit("campaigns/autumn.toml", &former, &line);
        former = line;
        let mug = placement(&site, MUG, Showing::Live);
        let markup = mug.markup();
        assert!(markup.contains(attributes), "{markup}");
        assert_eq!(markup.contains(style), is_styled, "{markup}");
        assert!(markup.len() - plain.markup().len() <= 400, "{markup}");
        assert_eq!(mug.react().contains(" style={{ backgroundColor: \"#c81e5a\" }}"), is_styled, "{}", mug.react());
        let undrawn = placement(&site, MUG, Showing::Undrawn);
        assert_eq!((undrawn.markup(), undrawn.document().get("lqip")), (plain.markup(), None));
    }
}

#[test]
fn markup_that_opts_in_to_save_data_does_so_in_every_url() {
    let mut mug = placement(&site(), MUG, Showing::Live);
    assert!(!mug.markup().contains("save-data"));
    mug.saving = SavingAsk::Client;
    for form in [mug.markup(), mug.preload().expect("a hero"), mug.mail(), mug.meta()] {
        let urls = form.matches("https://img.example.com/i/").count();
        assert!(urls > 0 && form.matches("save-data=auto").count() == urls, "{form}");
    }
}

#[test]
fn mails_have_one_jpeg_of_a_fixed_width() {
    let mail = placement(&site(), MUG, Showing::Live).mail();
    assert!(mail.contains("w=1344&amp;fm=jpg\" width=\"600\" height=\"338\" alt=\"red mug\""), "{mail}");
    assert!(!mail.contains("srcset") && !mail.contains("loading"));
    let small = placement(&site(), "/i/autumn/teaser", Showing::Live).mail();
    assert!(small.contains("w=480&amp;fm=jpg\" width=\"480\" height=\"600\""), "{small}");
}

#[test]
fn heads_of_shared_pages_have_title_picture_and_locale() {
    let meta = placement(&site(), MUG, Showing::Live).meta();
    for line in [
        "<meta property=\"og:title\" content=\"mug\">",
        "<meta property=\"og:url\" content=\"https://shop.example/en-GB/mug?c=red&amp;x=1\">",
        "<meta property=\"og:locale\" content=\"en_GB\">",
        "<meta property=\"og:image:width\" content=\"1344\">",
        "<meta property=\"og:image:alt\" content=\"red mug\">",
        "<meta name=\"twitter:card\" content=\"summary_large_image\">",
    ] {
        assert!(meta.lines().any(|found| found == line), "{line}\n{meta}");
    }
}

#[test]
fn an_interim_response_is_one_field() {
    let hints = placement(&site(), MUG, Showing::Live).early_hints().expect("of a hero");
    let lines: Vec<&str> = hints.split("\r\n").collect();
    assert_eq!((lines.len(), lines[0], lines[2], lines[3]), (4, "HTTP/1.1 103 Early Hints", "", ""));
    assert!(lines[1].starts_with("Link: <https://img.example.com/i/autumn/hero/"), "{hints}");
}

/// The elements of a fragment with their attributes: strict, so that what a browser might read otherwise is refused here.
pub(super) fn elements(html: &str) -> Vec<(String, Vec<(String, String)>)> {
    let mut found = Vec::new();
    let mut rest = html;
    while let Some(at) = rest.find('<') {
        assert!(!rest[..at].contains('>'), "text with a bracket: {rest}");
        rest = &rest[at + 1..];
        let is_end = rest.starts_with('/');
        let name_end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '/')).expect("a name");
        let name = rest[..name_end].to_owned();
        rest = &rest[name_end..];
        let mut attributes = Vec::new();
        loop {
            rest = rest.trim_start();
            if let Some(after) = rest.strip_prefix('>') {
                rest = after;
                break;
            }
            let (attribute, after) = rest.split_once("=\"").unwrap_or_else(|| panic!("no attribute: {rest}"));
            assert!(attribute.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b':'), "{attribute}");
            let (value, after) = after.split_once('"').expect("a closed value");
            assert!(!value.contains('<'), "{value}");
            attributes.push((attribute.to_owned(), value.to_owned()));
            rest = after;
        }
        if !is_end {
            found.push((name, attributes));
        }
    }
    found
}

/// A text that would run in HTML, in a script, in an attribute and in a comment.
pub(super) const ATTACK: &str = "'\\\"><img src=x onerror=alert(1)></script><!--$`*/?>]]>\u{2028}";

/// The campaign with the attack in every text that a manifest takes.
pub(super) fn attacked() -> Site {
    let site = site();
    let escaped = ATTACK.replace('\\', "\\\\").replace('"', "\\\"");
    for (from, to) in [
        ("title    = \"Autumn 2026\"", "title    = \"ATTACK\""),
        (
            "creator = \"Studio\", credit = \"Shop\", copyright = \"© 2026 Shop\"",
            "creator = \"ATTACK\", credit = \"ATTACK\", copyright = \"ATTACK\"",
        ),
        ("en = \"mug\"", "en = \"mug ATTACK\""),
        ("en = \"{colour} {product}\"", "en = \"ATTACK {colour} {product}\""),
        ("en = \"{product}, autumn\"", "en = \"{product}, ATTACK\""),
        ("brand = \"Brand\", sku = \"{product}-{colour}\"", "brand = \"ATTACK\", sku = \"ATTACK\""),
        ("goal = \"More visits\"", "goal = \"ATTACK\"\nnotes = \"ATTACK\""),
        ("kpi = \"Clicks\"", "kpi = \"ATTACK\""),
        ("[briefing]", "[label]\nshow = \"icon-and-text\"\ntext = { de = \"ATTACK\", en = \"ATTACK\" }\n\n[briefing]"),
    ] {
        site.edit("campaigns/autumn.toml", from, &to.replace("ATTACK", &escaped));
    }
    site.lock();
    site
}

#[test]
fn no_text_of_a_manifest_is_code_in_any_form() {
    let mug = placement(&attacked(), MUG, Showing::Live);
    assert!(mug.alt.contains("onerror") && mug.caption.as_deref().is_some_and(|it| it.contains("onerror")));
    assert!(mug.rights.creator.as_deref().is_some_and(|it| it.contains("onerror")) && mug.label().is_some());
    let known = ["picture", "source", "img", "figure", "figcaption", "svg", "rect", "path", "p", "meta"];
    for form in [mug.markup(), mug.mail(), mug.meta()] {
        for (name, attributes) in elements(&form) {
            assert!(known.contains(&name.as_str()), "{name}: {form}");
            assert!(attributes.iter().all(|(attribute, _)| !attribute.starts_with("on")), "{form}");
        }
    }
    let script = mug.structured_data_script().expect("it is live");
    let inside =
        script.strip_prefix("<script type=\"application/ld+json\">").and_then(|it| it.strip_suffix("</script>"));
    let inside = inside.expect("one element");
    assert!(!inside.contains(['<', '>', '&', '\u{2028}']), "{inside}");
    assert_eq!(serde_json::from_str::<Value>(inside).expect("JSON"), mug.structured_data().expect("live"));
    let header = mug.preload().expect("a hero");
    assert!(header.is_ascii() && !header.contains("onerror") && http::HeaderValue::from_str(&header).is_ok());
}

/// A browser would fetch what the preload names and what `sizes="auto"` comes to.
#[test]
fn only_heroes_are_preloaded() {
    let site = site();
    let teaser = placement(&site, "/i/autumn/teaser", Showing::Live);
    assert!(teaser.markup().contains(" sizes=\"auto, "), "{}", teaser.markup());
    let document = teaser.document();
    assert_eq!((document.get("preload"), document.get("early_hints")), (None, None));
    assert_eq!([SnippetKind::Preload, SnippetKind::EarlyHints].map(|kind| teaser.snippet(kind)), [None, None]);
    let hero = placement(&site, MUG, Showing::Live);
    assert!(hero.document()["preload"].as_str().is_some_and(|link| link.ends_with("; fetchpriority=high")));
    assert!(!hero.markup().contains("sizes=\"auto"), "{}", hero.markup());
}

/// A browser takes the first source whose condition holds, and follows one preload.
#[test]
fn cuts_stand_in_markup_preload_and_json_with_the_same_urls() {
    let site = site();
    site.edit(
        "campaigns/autumn.toml",
        "[slots.teaser]",
        "[[slots.hero.cuts]]\nname = \"tall\"\nmedia = \"(width < 40rem)\"\nratio = \"4:5\"\nwidths = [240, 480]\n\n[slots.teaser]",
    );
    let mug = placement(&site, MUG, Showing::Live);
    let markup = mug.markup();
    let source = "<source media=\"(width &lt; 40rem)\" type=\"image/avif\" srcset=\"";
    let first = markup.split("<source").nth(1).expect("a source");
    assert!(format!("<source{first}").starts_with(source), "{markup}");
    assert!(first.contains(" sizes=\"100vw\" width=\"480\" height=\"600\""), "{first}");
    let types: Vec<&str> = markup.split("type=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert_eq!(types, ["image/avif", "image/webp", "image/jpeg", "image/avif", "image/webp"]);
    assert!(!markup.split("<img").nth(1).expect("an image").contains("art="), "{markup}");

    let preload = mug.preload().expect("a hero");
    let links: Vec<&str> = preload.split("rel=preload").skip(1).collect();
    assert_eq!(links.len(), 2, "{preload}");
    assert!(
        links[0].contains("media=\"(width < 40rem)\"") && links[1].contains("media=\"(not (width < 40rem))\""),
        "{preload}"
    );
    // Byte for byte: what is preloaded is what the markup names.
    for link in links {
        let set = link.split("imagesrcset=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a set");
        assert!(markup.replace("&amp;", "&").contains(&format!("srcset=\"{set}\"")), "{set}");
    }
    let document = mug.document();
    assert_eq!(document["cuts"][0]["media"], "(width < 40rem)");
    assert_eq!((&document["cuts"][0]["widths"], &document["cuts"][0]["ratio"]), (&json!([240, 480]), &json!("4:5")));
    assert!(document["cuts"][0]["url"].as_str().expect("a URL").contains("art=tall&w="), "{document}");
    assert!(
        mug.react().contains("media={\"(width \\u003c 40rem)\"}") || mug.react().contains("media={"),
        "{}",
        mug.react()
    );
}
