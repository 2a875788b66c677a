use std::collections::HashSet;
use std::sync::OnceLock;

use http::{HeaderMap, HeaderValue};
use proptest::prelude::*;

use super::*;
use crate::cache::RenditionKey;
use crate::campaign::tests::Site;
use crate::render::{Anchor, FinishDigest};
use crate::request::{IgnoredParameters, parameters};

fn parse<'u>(catalog: &Catalog, url: &'u str) -> ImageRequest<'u> {
    let (path, query) = url.split_once('?').map_or((url, None), |(path, query)| (path, Some(query)));
    ImageRequest::parse(path, query, catalog).unwrap_or_else(|e| panic!("{url}: {e}"))
}

/// For an asker who gives no hints.
fn granted(catalog: &Catalog, request: &ImageRequest<'_>, grant: Grant) -> Result<Resolved, ResolveError> {
    Resolved::new(catalog, request, grant, ClientHints::default())
}

fn resolve(catalog: &Catalog, url: &str) -> Result<Resolved, ResolveError> {
    granted(catalog, &parse(catalog, url), Grant::Public)
}

const SIGNED: Grant = Grant::Signed { left_s: None };

fn signed(catalog: &Catalog, url: &str) -> Resolved {
    granted(catalog, &parse(catalog, url), SIGNED).unwrap_or_else(|error| panic!("{url}: {error}"))
}

#[test]
fn order_case_aliases_and_defaults_do_not_matter() {
    let catalog = Site::new().load();
    let one =
        resolve(&catalog, "/i/autumn/hero?colour=red&product=bottle&w=960&dpr=1&fm=auto&q=auto").expect("resolved");
    for same in [
        "/i/autumn/hero?WIDTH=960&Colour=red",
        "/i/autumn/hero/rote-flasche?w=480&dpr=2&colour=red&locale=de-DE",
        "/i/autumn/hero?utm_source=x&colour=red&w=769&ar=16:9&fit=cover&crop=center&gclid=1",
        "/i/autumn/hero?finish=none&colour=r%65d&width=960&metadata=provenance&auto=format,compress",
    ] {
        let other = resolve(&catalog, same).unwrap_or_else(|error| panic!("{same}: {error}"));
        assert!(Arc::ptr_eq(&one.variant, &other.variant), "{same}");
        assert_eq!(one.rendition_url(), other.rendition_url(), "{same}");
    }
    let english = resolve(&catalog, "/i/autumn/hero?colour=red&w=960&locale=en-GB").expect("resolved");
    assert_ne!(one.variant.key, english.variant.key);
    assert_eq!(one.variant.recipe.id(), english.variant.recipe.id());
    assert_eq!((english.locale(), english.alt().as_str()), ("en-GB", "red bottle"));
}

/// URLs as people paste them: copied from HTML source, with slugs of their own and click identifiers of today.
#[test]
fn pasted_urls_mean_what_was_meant() {
    let catalog = Site::new().load();
    let one = resolve(&catalog, "/i/autumn/hero?colour=red&product=bottle&w=960").expect("resolved");
    for same in [
        "/i/autumn/hero?colour=red&amp;product=bottle&amp;w=960",
        "/i/autumn/hero?colour=red&amp;amp;w=960&AMP;amp%3Bproduct=bottle&amp;",
        "/i/autumn/hero/bottle-2.0?colour=red&w=960&srsltid=1&igsh=1",
        "/i/autumn/hero?Colour=Red&product=BOTTLE&locale=de-de&w=960?utm_source=mail&utm_medium=email",
        "/i/autumn/hero/st.-petersburg-bottle?colour=red&w=960&gad_campaignid=1&gad_source=5&gbraid=0AAA&wbraid=%zz",
    ] {
        let other = resolve(&catalog, same).unwrap_or_else(|error| panic!("{same}: {error}"));
        assert_eq!(one.rendition_url(), other.rendition_url(), "{same}");
        assert_eq!(one.format, other.format, "{same}");
    }
}

/// Fails when a manifest that was valid before a list gained a name changes its meaning.
#[test]
fn an_axis_beats_the_list_of_tracking_parameters() {
    let site = Site::new();
    let text = crate::campaign::tests::MANIFEST.replace("axes.finish", "axes.srsltid").replace("{finish}", "{srsltid}");
    site.write("campaigns/autumn.toml", &text);
    site.lock();
    let catalog = site.load();
    assert!(IgnoredParameters::default().matches("srsltid"));
    let [none, gold] = ["none", "matte"].map(|value| {
        resolve(&catalog, &format!("/i/autumn/hero?amp;SRSLTID={value}&igsh=1")).expect("resolved").variant.key
    });
    assert_ne!(none, gold);
    let twice = ImageRequest::parse("/i/autumn/hero", Some("srsltid=none&srsltid=matte"), &catalog);
    assert!(twice.is_err_and(|error| error.as_str() == "duplicate-parameter"));
    // Elsewhere it stays a click identifier.
    assert!(ImageRequest::parse("/i/winter/hero", Some("srsltid=1"), &catalog).expect("parsed").axes.is_empty());
}

#[test]
fn widths_snap_up_and_end_with_the_ladder() {
    let catalog = Site::new().load();
    for (query, width_px, height_px) in [
        ("w=1", 480, 270),
        ("w=480", 480, 270),
        ("w=481", 768, 432),
        ("w=320&dpr=1.5", 480, 270),
        ("w=320&dpr=1.501", 768, 432),
        ("w=8192&dpr=5", 1344, 756),
        ("", 1344, 756),
        ("w=auto", 1344, 756),
        ("dpr=0.5", 768, 432),
    ] {
        let resolved = resolve(&catalog, &format!("/i/autumn/hero?{query}")).expect("resolved");
        assert_eq!((resolved.width_px, resolved.height_px), (width_px, height_px), "{query}");
    }
}

#[test]
fn refusals_name_the_parameter_and_what_is_allowed() {
    let catalog = Site::new().load();
    for (url, status, kind, parameter, allowed) in [
        ("/i/winter/hero", 404, "unknown-campaign", Some("campaign"), None),
        ("/i/AUTUMN/hero", 404, "unknown-campaign", Some("campaign"), None),
        ("/i/autumn/banner", 404, "unknown-slot", Some("slot"), Some("teaser")),
        ("/i/autumn/hero?size=m", 400, "unknown-parameter", Some("size"), Some("colour")),
        ("/i/autumn/hero?size=m", 400, "unknown-parameter", Some("size"), Some("dpr")),
        ("/i/autumn/hero?colour=lime", 400, "unknown-value", Some("colour"), Some("teal")),
        ("/i/autumn/hero?colour=", 400, "unknown-value", Some("colour"), Some("teal")),
        ("/i/autumn/hero?h=100", 400, "needs-signature", Some("h"), None),
        ("/i/autumn/hero?ar=1:1", 400, "needs-signature", Some("ar"), Some("16:9")),
        ("/i/autumn/hero?mode=pad", 400, "needs-signature", Some("fit"), Some("cover")),
        ("/i/autumn/hero?g=top", 400, "needs-signature", Some("crop"), Some("center")),
        ("/i/autumn/hero?fpx=0.5", 400, "needs-signature", Some("fp-x"), None),
        ("/i/autumn/hero?bg=ffffff", 400, "needs-signature", Some("bg"), None),
        ("/i/autumn/hero?q=80", 400, "needs-signature", Some("q"), Some("high")),
        ("/i/autumn/teaser?q=81", 400, "needs-signature", Some("q"), Some("80")),
        ("/i/autumn/teaser/x.png", 400, "format-not-allowed", Some("fm"), Some("avif")),
    ] {
        let problem = resolve(&catalog, url).expect_err(url).problem();
        assert_eq!((problem.status, problem.kind.as_str()), (status, format!("/problems/{kind}").as_str()), "{url}");
        assert_eq!(problem.parameter.as_deref(), parameter, "{url}");
        if let Some(allowed) = allowed {
            assert!(problem.allowed.iter().any(|word| word == allowed), "{url}: {:?}", problem.allowed);
        }
    }
    assert!(resolve(&catalog, "/i/autumn/teaser?q=80").is_ok_and(|resolved| resolved.quality.get() == 80));
    assert!(resolve(&catalog, "/i/autumn/hero/x.png").is_ok_and(|r| r.format == FormatAsk::Explicit(Format::Png)));
}

/// The master of `hero` has 1344 × 768 px, the slot 16:9, a ladder from 480 to 1344, and no enlarging.
#[test]
fn a_signature_unlocks_shapes_sizes_and_qualities() {
    let catalog = Site::new().load();
    for (query, size, shape) in [
        ("w=500", (500, 281), Shape::DEFAULT),
        ("w=250&dpr=2", (500, 281), Shape::DEFAULT),
        ("w=5000", (1344, 756), Shape::DEFAULT),
        ("", (1344, 756), Shape::DEFAULT),
        ("w=auto", (1344, 756), Shape::DEFAULT),
        ("h=300", (533, 300), Shape::DEFAULT),
        ("h=150&dpr=2", (533, 300), Shape::DEFAULT),
        ("w=400&ar=1:1", (400, 400), Shape::DEFAULT),
        ("w=400&h=400&g=left", (400, 400), Shape::Cut(Anchor::Point { x: 0, y: 500 })),
        ("w=400&h=400&crop=top", (400, 400), Shape::DEFAULT),
        ("w=400&h=400&fp-x=0.2&fp-y=0.9", (400, 400), Shape::Cut(Anchor::Point { x: 200, y: 500 })),
        ("w=400&h=400&crop=entropy", (400, 400), Shape::Cut(Anchor::Entropy)),
        ("w=400&h=400&fit=contain", (400, 229), Shape::Whole),
        ("w=400&h=400&fit=fill&bg=102030", (400, 400), Shape::Padded { background: [0x10, 0x20, 0x30] }),
        ("w=400&h=400&bg=102030", (400, 400), Shape::DEFAULT),
        ("w=1344&h=768&fit=pad&bg=102030", (1344, 768), Shape::DEFAULT),
    ] {
        let resolved = signed(&catalog, &format!("/i/autumn/hero?{query}"));
        assert_eq!((resolved.width_px, resolved.height_px), size, "{query}");
        assert_eq!(resolved.shape, shape, "{query}");
        assert_eq!(resolved.variant.query, "", "{query}");
    }
    assert_eq!(signed(&catalog, "/i/autumn/hero?q=37").quality.get(), 37);
    let unlisted = parse(&catalog, "/i/autumn/teaser?fm=png");
    assert!(matches!(granted(&catalog, &unlisted, SIGNED), Err(ResolveError::FormatNotAllowed { .. })));
}

/// imgix's `min`, which its libraries send by themselves, and `crop`: a rung, and never one that enlarges the master.
#[test]
fn what_never_enlarges_needs_no_signature() {
    let site = Site::new();
    site.edit("campaigns/autumn.toml", "1120, 1344]\nupscale_max = 1.0", "1120, 1344, 2400]\nupscale_max = 2.0");
    let catalog = site.load();
    for (query, width_px) in [
        ("w=2000", 2400),
        ("w=2000&fit=cover", 2400),
        ("w=2000&fit=min", 1344),
        ("w=2000&fit=crop", 1344),
        ("w=700&fit=min", 768),
        ("w=1&fit=min", 480),
    ] {
        let resolved = resolve(&catalog, &format!("/i/autumn/hero?{query}")).unwrap_or_else(|e| panic!("{query}: {e}"));
        assert_eq!((resolved.width_px, resolved.shape), (width_px, Shape::DEFAULT), "{query}");
    }
    for query in ["w=2000&fit=fillmax", "w=2000&fit=pad", "w=480&fit=clip", "w=480&h=270&fit=min"] {
        let refused = resolve(&catalog, &format!("/i/autumn/hero?{query}"));
        assert!(matches!(refused, Err(ResolveError::NeedsSignature { .. })), "{query}");
    }
    site.edit("campaigns/autumn.toml", "[480, 768, 960, 1120, 1344, 2400]", "[2400]");
    let catalog = site.load();
    assert!(resolve(&catalog, "/i/autumn/hero?w=480").is_ok());
    let refused = resolve(&catalog, "/i/autumn/hero?w=480&fit=min");
    assert!(matches!(refused, Err(ResolveError::NeedsSignature { parameter: "fit", .. })), "{refused:?}");
}

#[test]
fn the_operator_means_what_a_client_would_get() {
    let catalog = Site::new().load();
    let of = |url: &str| granted(&catalog, &parse(&catalog, url), Grant::Operator);
    let rung = of("/i/autumn/hero?w=481").expect("resolved");
    assert_eq!(
        rung.spec(Format::Jpeg),
        resolve(&catalog, "/i/autumn/hero?w=481").expect("resolved").spec(Format::Jpeg)
    );
    assert!(matches!(of("/i/autumn/hero?h=100"), Err(ResolveError::NeedsSignature { .. })));
    let exact = of("/i/autumn/hero?w=481&h=100&kid=a&s=b").expect("resolved");
    assert_eq!((exact.width_px, exact.height_px), (481, 100));
}

/// A signature is no part of what is cut: on the ladder both see the same rendition.
#[test]
fn a_signed_rung_is_the_rung() {
    let catalog = Site::new().load();
    for slot in ["hero", "teaser"] {
        let campaign = catalog.campaign("autumn").expect("loaded");
        for width in &campaign.slots[campaign.slot_index(slot).expect("a slot")].framing.widths {
            let url = format!("/i/autumn/{slot}?w={width}");
            let (plain, granted) = (resolve(&catalog, &url).expect("resolved"), signed(&catalog, &url));
            assert_eq!(plain.spec(Format::Jpeg), granted.spec(Format::Jpeg), "{url}");
        }
    }
}

#[test]
fn hints_choose_a_rung_where_the_url_opts_in_signed_or_not() {
    let catalog = Site::new().load();
    let mut headers = HeaderMap::new();
    headers.insert("sec-ch-width", HeaderValue::from_static("700"));
    let width_px = |url: &str, grant: Grant| {
        let request = parse(&catalog, url);
        let hints = if request.uses_hints() { ClientHints::read(&headers) } else { ClientHints::default() };
        Resolved::new(&catalog, &request, grant, hints).unwrap_or_else(|error| panic!("{url}: {error}")).width_px
    };
    for grant in [Grant::Public, SIGNED] {
        assert_eq!(width_px("/i/autumn/hero?w=auto", grant), 768);
        assert_eq!(width_px("/i/autumn/hero", grant), 1344);
        assert_eq!(width_px("/i/autumn/hero?w=960", grant), 960);
    }
    assert_eq!(width_px("/i/autumn/hero?w=auto&ar=1:1", SIGNED), 768, "a rung, in the shape that was signed");
}

/// It is one of the renditions that the slot has anyway.
#[test]
fn a_client_that_saves_data_gets_low_quality_or_the_lower_one_that_was_asked_for() {
    let catalog = Site::new().load();
    let of = |url: &str, grant: Grant| {
        let request = parse(&catalog, url);
        let resolved = Resolved::new(&catalog, &request, grant, ClientHints::default());
        resolved.unwrap_or_else(|error| panic!("{url}: {error}"))
    };
    let low = of("/i/autumn/hero?q=low", Grant::Public);
    for url in ["/i/autumn/hero?save-data=auto", "/i/autumn/hero?q=high&save-data=auto", "/i/autumn/hero?q=low"] {
        let saving = of(url, Grant::Public).saving();
        assert_eq!(saving.spec(Format::Avif), low.spec(Format::Avif), "{url}");
        assert_eq!(saving.rendition_url(), low.rendition_url(), "equal renditions have equal URLs");
    }
    let lower = of("/i/autumn/hero?q=10&save-data=auto", SIGNED);
    assert_eq!(lower.clone().saving().quality, lower.quality);
}

/// `check` promises a number: asking for everything an unsigned URL may ask for meets it and never exceeds it.
#[test]
fn the_renditions_of_a_variant_are_as_many_as_check_says() {
    let catalog = Site::new().load();
    let campaign = catalog.campaign("autumn").expect("loaded");
    for slot in &campaign.slots {
        let mut specs = HashSet::new();
        let listed: Vec<String> = slot.qualities.iter().map(|quality| format!("q={}", quality.get())).collect();
        let qualities =
            ["", "q=auto", "q=high", "q=medium", "q=low"].into_iter().chain(listed.iter().map(String::as_str));
        for quality in qualities {
            for width in [
                "", "w=auto", "w=1", "w=240", "w=241", "w=479", "w=480", "w=481", "w=800", "w=1000", "w=1200", "w=8192",
            ] {
                for dpr in ["", "dpr=0.5", "dpr=2", "dpr=5"] {
                    let resolved = resolve(&catalog, &format!("/i/autumn/{}?{quality}&{width}&{dpr}", slot.name))
                        .expect("resolved");
                    specs.extend(slot.formats.iter().map(|format| resolved.spec(format)));
                }
            }
        }
        assert_eq!(specs.len(), slot.renditions_max(), "{}", slot.name);
    }
}

#[test]
fn restricted_combinations_are_refused_with_what_goes_together() {
    let site = Site::new();
    site.edit("campaigns/autumn.toml", "prompt = \"gold\",", "prompt = \"gold\", only = { product = [\"mug\"] },");
    let catalog = site.load();
    for _ in 0..2 {
        let problem = resolve(&catalog, "/i/autumn/hero?colour=gold").expect_err("refused").problem();
        assert_eq!(
            (problem.parameter.as_deref(), problem.allowed.as_slice()),
            (Some("product"), &["mug".to_owned()][..])
        );
    }
    assert!(resolve(&catalog, "/i/autumn/hero?colour=gold&product=mug").is_ok());
}

#[test]
fn a_campaign_that_requires_signatures_refuses_unsigned_urls() {
    let site = Site::new();
    site.edit("campaigns/autumn.toml", "signing = \"optional\"", "signing = \"required\"");
    let catalog = site.load();
    let problem = resolve(&catalog, "/i/autumn/hero").expect_err("refused").problem();
    assert_eq!((problem.status, problem.kind.as_str()), (403, "/problems/signature-required"));
    let request = ImageRequest::of_slot("autumn".into(), "hero".into());
    for grant in [Grant::Signed { left_s: Some(5) }, Grant::Signed { left_s: None }, Grant::Operator] {
        assert!(granted(&catalog, &request, grant).is_ok_and(|resolved| resolved.grant == grant), "{grant:?}");
    }
}

#[test]
fn versions_follow_the_bytes_and_not_the_alt_text() {
    let site = Site::new();
    let master = MasterId::of_bytes(b"master");
    let version = |site: &Site| resolve(&site.load(), "/i/autumn/hero").expect("resolved").version(master);
    let before = version(&site);
    site.edit("campaigns/autumn.toml", "{product} in {colour}", "{product}, {colour}");
    assert_eq!(version(&site), before);
    for (from, to) in [("1120, 1344]", "1344]"), ("© 2026 Shop", "© 2027 Shop"), ("steps = 30", "steps = 31")] {
        let last = version(&site);
        site.edit("campaigns/autumn.toml", from, to);
        assert_ne!(version(&site), last, "{to}");
    }
}

/// Values for the fixture's axes, `None` where an axis is left out.
fn any_choice() -> impl Strategy<Value = [Option<&'static str>; 4]> {
    let of = |values: &'static [&'static str]| proptest::option::of(proptest::sample::select(values));
    (of(&["bottle", "mug"]), of(&["red", "teal", "gold"]), of(&["none", "matte"]), of(&["de-DE", "en-GB"]))
        .prop_map(|(product, colour, finish, locale)| [product, colour, finish, locale])
}

fn url_of(choice: [Option<&str>; 4], turn: usize, rest: &str) -> String {
    let mut pairs: Vec<String> = ["product", "Colour", "finish", "LOCALE"]
        .into_iter()
        .zip(choice)
        .filter_map(|(name, value)| value.map(|value| format!("{name}={value}")))
        .collect();
    pairs.push(rest.to_owned());
    let turn = turn % pairs.len();
    pairs.rotate_left(turn);
    format!("/i/autumn/hero?{}", pairs.join("&"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    /// Two URLs have one variant exactly when their axes have the same values, defaults filled in; one rendition key
    /// exactly when they have one recipe, size, shape, format and quality.
    #[test]
    fn equal_variants_have_equal_keys_and_different_ones_differ(
        a in any_choice(), b in any_choice(), turn in 0usize..8,
        ask_a in proptest::sample::select(&["w=480", "w=400", "w=481&h=300", "fit=pad&w=300&h=300", "w=300&h=300&crop=left", "q=70", ""][..]),
        ask_b in proptest::sample::select(&["w=480", "width=400", "h=300&w=481", "mode=fill&w=300&h=300&bg=ffffff", "g=left&w=300&h=300&fp-y=0.5", "q=auto", ""][..]),
    ) {
        let site = SITE.get_or_init(|| Site::new().load());
        let filled = |choice: [Option<&'static str>; 4]| {
            choice.into_iter().zip(["bottle", "teal", "none", "de-DE"]).map(|(value, default)| value.unwrap_or(default)).collect::<Vec<_>>()
        };
        let (url_a, url_b) = (url_of(a, 0, ask_a), url_of(b, turn, ask_b));
        let (one, other) = (signed(site, &url_a), signed(site, &url_b));
        let is_same_variant = filled(a) == filled(b);
        prop_assert_eq!(one.variant.key == other.variant.key, is_same_variant, "{} {}", url_a, url_b);
        prop_assert_eq!(one.variant.name == other.variant.name, is_same_variant);
        // The locale is no part of a picture.
        prop_assert_eq!(one.variant.recipe.id() == other.variant.recipe.id(), filled(a)[..3] == filled(b)[..3]);
        let (spec_a, spec_b) = (one.spec(Format::Avif), other.spec(Format::Avif));
        let key = |spec: &RenditionSpec| RenditionKey::new(MasterId::of_bytes(b"one"), spec, FinishDigest::from_raw(*b"a marking digest"), None);
        prop_assert_eq!(key(&spec_a) == key(&spec_b), spec_a == spec_b);
        let is_same_ask = [
            ("w=480", "w=480"),
            ("w=400", "width=400"),
            ("w=481&h=300", "h=300&w=481"),
            ("fit=pad&w=300&h=300", "mode=fill&w=300&h=300&bg=ffffff"),
            ("w=300&h=300&crop=left", "g=left&w=300&h=300&fp-y=0.5"),
            ("q=70", "q=auto"),
            ("q=70", ""),
            ("", "q=auto"),
            ("", ""),
        ].contains(&(ask_a, ask_b));
        prop_assert_eq!(spec_a == spec_b, is_same_ask, "{} {}: {} {}", url_a, url_b, spec_a, spec_b);
    }
}

/// A name that a list of tracking parameters drops.
fn tracking_parameter() -> impl Strategy<Value = String> {
    let names: Vec<&str> = IgnoredParameters::listed().collect();
    (proptest::sample::select(names), "[a-z0-9_]{1,8}").prop_map(|(pattern, end)| pattern.replace('*', &end))
}

proptest! {
    #[test]
    fn tracking_parameters_change_no_key(
        colour in proptest::sample::select(&["red", "teal"][..]), rest in proptest::sample::select(&["", "w=481", "fm=avif&q=low", "locale=en-GB"][..]),
        tracked in proptest::collection::vec((tracking_parameter(), "[A-Za-z0-9%+._-]{0,24}"), 1..6),
        separator in proptest::sample::select(&["&", "&amp;"][..]),
    ) {
        let catalog = SITE.get_or_init(|| Site::new().load());
        let plain = resolve(catalog, &format!("/i/autumn/hero?colour={colour}&{rest}")).expect("resolved");
        let added: String = tracked.iter().map(|(name, value)| format!("{separator}{name}={value}")).collect();
        let other = resolve(catalog, &format!("/i/autumn/hero?colour={colour}{added}&{rest}{added}")).expect("resolved");
        prop_assert_eq!(&plain.variant.key, &other.variant.key);
        prop_assert_eq!(plain.rendition_url(), other.rendition_url());
        prop_assert!(tracked.iter().all(|(name, _)| parameters::lookup(name).is_none()));
    }
}

static SITE: OnceLock<Catalog> = OnceLock::new();

/// The way of a hit, timed: `cargo test --release -- --ignored --nocapture resolve_time`.
#[test]
#[ignore = "prints a measurement"]
fn resolve_time() {
    let catalog = Site::new().load();
    let query = "product=mug&colour=red&finish=matte&locale=en-GB&w=768&dpr=1.5";
    let accept = "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8";
    // The best of many short batches: a busy machine interrupts few of them.
    let time = |name: &str, work: &dyn Fn() -> u32| {
        let batch = || {
            let start = std::time::Instant::now();
            for _ in 0..1000 {
                std::hint::black_box(work());
            }
            start.elapsed().as_nanos() as f64 / 1000.0
        };
        let best = (0..200).map(|_| batch()).fold(f64::INFINITY, f64::min);
        println!("{name}: {best:.0} ns");
    };
    let parse = || ImageRequest::parse("/i/autumn/hero/red-mug", Some(query), &catalog).expect("valid");
    let request = parse();
    time("parse, 6 parameters", &|| u32::from(parse().axes.len() == 4));
    time("resolve, memoised", &|| granted(&catalog, &request, Grant::Public).expect("resolved").width_px);
    time("negotiate", &|| {
        crate::resolve::format::choose(Some(accept), FormatAsk::Auto, crate::words::FormatSet::ALL) as u32
    });
    let campaign = catalog.campaign("autumn").expect("loaded");
    time("variant, built anew", &|| {
        let key = campaign.key(0, 5);
        Variant::build(campaign, key, campaign.values_of(5))
            .expect("valid")
            .recipe
            .drawn()
            .expect("a model draws it")
            .seed
    });
}
