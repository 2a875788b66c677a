use super::*;
use crate::campaign::tests::Site;
use crate::negotiate::Format;
use crate::request::IgnoredParameters;

fn resolve(catalog: &Catalog, url: &str) -> Result<Resolved, ResolveError> {
    let (path, query) = url.split_once('?').map_or((url, None), |(path, query)| (path, Some(query)));
    let request =
        ImageRequest::parse(path, query, catalog.ignored_parameters()).unwrap_or_else(|e| panic!("{url}: {e}"));
    catalog.resolve(&request, Grant::Public)
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
        assert!(catalog.resolve(&request, grant).is_ok_and(|resolved| resolved.grant == grant), "{grant:?}");
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

/// The way of a hit, timed: `cargo test --release -- --ignored --nocapture resolve_time`.
#[test]
#[ignore = "prints a measurement"]
fn resolve_time() {
    let catalog = Site::new().load();
    let ignored = IgnoredParameters::default();
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
    let parse = || ImageRequest::parse("/i/autumn/hero/red-mug", Some(query), &ignored).expect("valid");
    let request = parse();
    time("parse, 6 parameters", &|| u32::from(parse().axes.len() == 4));
    time("resolve, memoised", &|| catalog.resolve(&request, Grant::Public).expect("resolved").width_px);
    time("negotiate", &|| {
        crate::negotiate::choose(Some(accept), FormatAsk::Auto, crate::negotiate::FormatSet::ALL) as u32
    });
    let campaign = catalog.campaign("autumn").expect("loaded");
    time("variant, built anew", &|| {
        let key = campaign.key(0, 5);
        Variant::build(campaign, key, campaign.values_of(5)).expect("valid").recipe.seed
    });
}
