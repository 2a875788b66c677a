use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;

static IGNORED: LazyLock<IgnoredParameters> = LazyLock::new(IgnoredParameters::default);

fn parse(url: &str) -> Result<ImageRequest<'_>, RequestError> {
    let (path, query) = url.split_once('?').map_or((url, None), |(path, query)| (path, Some(query)));
    ImageRequest::parse(path, query, &*IGNORED)
}

fn canonical(url: &str) -> String {
    parse(url).unwrap_or_else(|error| panic!("{url}: {error}")).canonical()
}

#[test]
fn one_spelling_per_request() {
    for (url, expected) in [
        ("/i/studio/hero", "/i/studio/hero"),
        ("/i/studio/hero/", "/i/studio/hero"),
        ("/i/studio/hero/teal-mug?product=mug&colour=teal&w=640", "/i/studio/hero?colour=teal&product=mug&w=640"),
        ("/i/studio/hero/teal-mug.avif?w=640", "/i/studio/hero?w=640&fm=avif"),
        ("/i/studio/hero/v1.2.JPEG", "/i/studio/hero?fm=jpg"),
        ("/i/studio/hero/mug-2.0?product=mug", "/i/studio/hero?product=mug"),
        ("/i/studio/hero/st.-petersburg-mug", "/i/studio/hero"),
        ("/i/studio/hero/mug.", "/i/studio/hero"),
        ("/i/studio/hero/mug.html", "/i/studio/hero"),
        ("/i/studio/hero/dr.-mug-1.5.webp", "/i/studio/hero?fm=webp"),
        ("/i/studio/hero?product=mug&amp;colour=teal&amp;w=640", "/i/studio/hero?colour=teal&product=mug&w=640"),
        ("/i/studio/hero?amp;amp;w=640&amp;amp%3bfm=avif&AMP;q=low&amp;", "/i/studio/hero?w=640&fm=avif&q=low"),
        ("/i/studio/hero??product=mug", "/i/studio/hero?product=mug"),
        ("/i/studio/hero?product=mug?utm_source=x&w=640?UTM%5Fid=%zz&q=low", "/i/studio/hero?product=mug&w=640&q=low"),
        ("/i/studio/hero?product=mug?utm_source=http://x/?w=9&w=640", "/i/studio/hero?product=mug&w=640"),
        ("/i/studio/hero?product=mug?size=m", "/i/studio/hero?product=mug%3Fsize%3Dm"),
        ("/i/studio/hero?utm_source=a?w=1", "/i/studio/hero"),
        ("/i/studio/hero?camp;x=1&amp;amp=2", "/i/studio/hero?amp=2&camp%3Bx=1"),
        ("/i/studio/hero/x.jpg?fm=jpeg", "/i/studio/hero?fm=jpg"),
        ("/i/studio/hero/x.webp?fm=auto", "/i/studio/hero?fm=webp"),
        ("/i/studio/hero?FORMAT=JPG&Quality=HIGH&WIDTH=10&Height=20", "/i/studio/hero?w=10&h=20&fm=jpg&q=high"),
        ("/i/studio/hero?q=auto&fm=auto&dpr=1.0&fit=cover&crop=center&metadata=provenance", "/i/studio/hero"),
        ("/i/studio/hero?dpr=1.3312499523162842", "/i/studio/hero?dpr=1.331"),
        (
            "/i/studio/hero?ar=32:18&mode=pad&g=left,top&bg=AABBCC",
            "/i/studio/hero?ar=16:9&fit=pad&crop=top,left&bg=aabbcc",
        ),
        ("/i/studio/hero?ar=1.91:1&fit=fill&crop=edges", "/i/studio/hero?ar=191:100&fit=pad&crop=entropy"),
        ("/i/studio/hero?fit=clip&fm=pjpg&auto=true", "/i/studio/hero?fit=contain&fm=jpg"),
        ("/i/studio/hero?fit=max", "/i/studio/hero?fit=scale-down"),
        ("/i/studio/hero?crop=focalpoint&fp-x=0.50&fpy=1", "/i/studio/hero?crop=focalpoint&fp-x=0.5&fp-y=1"),
        ("/i/studio/hero?utm_source=%zz&gclid=a&gclid=b&&w=auto&", "/i/studio/hero?w=auto"),
        ("/i/studio/hero?Colour=Teal%20Blue&x", "/i/studio/hero?colour=Teal%20Blue&x="),
        (
            "/i/studio/hero?s=abc-_=&expires=1800000000&kid=k1&v=0123abcd",
            "/i/studio/hero?v=0123abcd&kid=k1&expires=1800000000&s=abc-_=",
        ),
    ] {
        assert_eq!(canonical(url), expected, "{url}");
    }
}

/// URLs as the unpic library builds them for imgix, with an image path of ours.
#[test]
fn what_unpic_builds_for_imgix_parses() {
    for (url, expected) in [
        ("/i/studio/hero/mug.jpg?w=200&h=100&fit=min&auto=format", "/i/studio/hero?w=200&h=100&fit=crop&fm=jpg"),
        ("/i/studio/hero?w=800&fit=min&auto=format", "/i/studio/hero?w=800&fit=crop"),
        ("/i/studio/hero?auto=format%2Ccompress&fit=min&h=600&w=800&q=75", "/i/studio/hero?w=800&h=600&fit=crop&q=75"),
        ("/i/studio/hero?w=300&dpr=2&fm=webp&fit=min&auto=format", "/i/studio/hero?w=300&dpr=2&fit=crop&fm=webp"),
        ("/i/studio/hero?width=800&height=600&fit=cover&format=auto&quality=80", "/i/studio/hero?w=800&h=600&q=80"),
        ("/i/studio/hero?width=800&f=avif&gravity=center", "/i/studio/hero?w=800&fm=avif"),
    ] {
        assert_eq!(canonical(url), expected, "{url}");
    }
}

#[test]
fn refusals_name_the_parameter() {
    for (url, status, kind, parameter) in [
        ("/", 404, "not-an-image", None),
        ("/i/", 404, "not-an-image", None),
        ("/i/studio", 404, "not-an-image", None),
        ("/i/studio/", 404, "not-an-image", None),
        ("/i//hero", 404, "not-an-image", None),
        ("/i/studio/hero/slug/more", 404, "not-an-image", None),
        ("/I/studio/hero", 404, "not-an-image", None),
        ("/i/studio/he%ffro", 400, "malformed-encoding", None),
        ("/i/studio/hero/%2", 400, "malformed-encoding", None),
        ("/i/studio/hero/mug.gif", 400, "malformed-value", Some("fm")),
        ("/i/studio/hero/mug-2.0.SVG", 400, "malformed-value", Some("fm")),
        ("/i/studio/hero?w=1&amp;width=1", 400, "duplicate-parameter", Some("w")),
        ("/i/studio/hero?colour=a&amp;colour=b", 400, "duplicate-parameter", Some("colour")),
        ("/i/studio/hero?%zz=1", 400, "malformed-encoding", None),
        ("/i/studio/hero?w=%zz", 400, "malformed-encoding", Some("w")),
        ("/i/studio/hero?colour=%00", 400, "malformed-encoding", Some("colour")),
        ("/i/studio/hero?w=1&WIDTH=1", 400, "duplicate-parameter", Some("w")),
        ("/i/studio/hero?colour=a&Colour=b", 400, "duplicate-parameter", Some("colour")),
        ("/i/studio/hero/x.avif?fm=webp", 400, "format-conflict", Some("fm")),
        ("/i/studio/hero?kid=a", 400, "incomplete-signature", Some("s")),
        ("/i/studio/hero?s=a", 400, "incomplete-signature", Some("kid")),
        ("/i/studio/hero?expires=1", 400, "incomplete-signature", Some("kid")),
    ] {
        let problem = parse(url).expect_err(url).problem();
        assert_eq!((problem.status, problem.kind), (status, format!("/problems/{kind}")), "{url}");
        assert_eq!(problem.parameter.as_deref(), parameter, "{url}");
    }
}

#[test]
fn values_are_strict() {
    for (name, wrong) in [
        ("w", &["", "0", "8193", "-1", "+1", "01", "1.5", "1e3", " 1", "١", "99999999999999999999", "0.5"][..]),
        ("h", &["auto", "0", "8193"]),
        ("dpr", &["", "0.49", "5.001", "1.", ".5", "1,5", "NaN", "inf", "-1", "1.0000000000000000000000001", "02"]),
        ("ar", &["", "16", "16:0", "0:9", "16/9", "a:b", "100:1", "1.5", "1.:1", "0.0:1", "9.1:0.1"]),
        ("fit", &["", "stretch", "cover,pad", "scale", "facearea"]),
        ("crop", &["", "middle", "top,bottom", "top,top", "left,center"]),
        ("fp-x", &["", "1.001", "-0.1", "half"]),
        ("fm", &["", "gif", "jxl", "image/avif"]),
        ("q", &["", "0", "101", "best", "7.5"]),
        ("bg", &["", "fff", "#ffffff", "gggggg", "+12345"]),
        ("metadata", &["", "none"]),
        ("auto", &["", "enhance"]),
        ("v", &["", "a b", "a/b"]),
        ("expires", &["", "0", "soon", "9999999999999"]),
    ] {
        for value in wrong {
            let url = format!("/i/studio/hero?{name}={}", encode(value));
            let problem = parse(&url).map(|request| request.canonical()).expect_err(&url).problem();
            assert_eq!((problem.status, problem.parameter.as_deref()), (400, Some(name)), "{url}");
        }
    }
    let problem = parse("/i/studio/hero?fm=gif").expect_err("refused").problem();
    assert_eq!(problem.allowed, ["auto", "avif", "webp", "jpg", "png"]);
}

#[test]
fn everything_is_bounded() {
    let long_path = format!("/i/studio/{}", "a".repeat(PATH_BYTES_MAX));
    assert!(matches!(parse(&long_path), Err(RequestError::TooLong { part: "path", .. })));
    let long_query = format!("/i/studio/hero?{}", "a".repeat(QUERY_BYTES_MAX + 1));
    assert!(matches!(parse(&long_query), Err(RequestError::TooLong { part: "query", .. })));
    let many: String = (0..=PARAMETERS_MAX).map(|number| format!("&utm_{number}=x")).collect();
    assert_eq!(parse(&format!("/i/studio/hero?{many}")), Err(RequestError::TooManyParameters));
    let echoed = parse(&format!("/i/studio/hero?w={}", "9".repeat(1000))).expect_err("refused").problem();
    assert!(echoed.detail.len() < 200, "{}", echoed.detail);
}

/// A parameter in one of its spellings, with a valid value.
fn parameter() -> impl Strategy<Value = (String, String)> {
    let choice = |names: &'static [&'static str], values: &'static str| (proptest::sample::select(names), values);
    let pairs = prop_oneof![
        choice(&["w", "width", "W"], "[1-9][0-9]{0,2}|auto"),
        choice(&["h", "height"], "[1-9][0-9]{0,2}"),
        choice(&["dpr", "DPR"], "[1-4](\\.[0-9]{1,6})?"),
        choice(&["ar", "aspect_ratio"], "[1-9]:[1-9]"),
        choice(&["fit", "mode"], "cover|contain|scale-down|crop|pad|fill|min|clip|max"),
        choice(&["crop", "gravity", "g"], "center|top|left,bottom|right|entropy|focalpoint"),
        choice(&["fp-x", "fpx"], "0(\\.[0-9]{1,4})?|1"),
        choice(&["fm", "f", "format", "output"], "auto|avif|webp|jpe?g|png|AVIF"),
        choice(&["q", "quality", "Q"], "auto|high|low|medium|[1-9][0-9]?"),
        choice(&["bg"], "[0-9a-fA-F]{6}"),
        choice(&["v"], "[0-9a-f]{1,26}"),
        choice(&["utm_source", "gclid"], "[a-z]{0,5}"),
        choice(&["colour", "Colour"], "[a-zA-Z ä%&=+]{0,8}"),
        choice(&["product"], "[a-z-]{1,8}"),
    ];
    pairs.prop_map(|(name, value)| (name.to_owned(), value))
}

fn url_of(parameters: &[(String, String)]) -> String {
    let query: Vec<String> = parameters.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect();
    format!("/i/studio/hero/slug?{}", query.join("&"))
}

proptest! {
    #[test]
    fn canonical_forms_parse_back_and_order_does_not_matter(
        parameters in proptest::collection::vec(parameter(), 0..8), seed in any::<u64>(),
    ) {
        let url = url_of(&parameters);
        let Ok(request) = parse(&url) else { return Ok(()) };
        let canonical = request.canonical();
        let again = parse(&canonical);
        prop_assert_eq!(again.as_ref().map(ImageRequest::canonical), Ok(canonical.clone()));
        prop_assert_eq!(again, Ok(ImageRequest { slug: None, ..request.clone() }));
        let mut shuffled = parameters.clone();
        shuffled.sort_by_key(|(name, _)| seed.wrapping_mul(name.len() as u64 * 31 + u64::from(name.as_bytes()[0])));
        let shuffled = url_of(&shuffled);
        prop_assert_eq!(parse(&shuffled), Ok(request.clone()));
    }

    /// Two requests have one canonical form exactly when they are equal.
    #[test]
    fn different_requests_have_different_canonical_forms(
        a in proptest::collection::vec(parameter(), 0..4), b in proptest::collection::vec(parameter(), 0..4),
    ) {
        let (a, b) = (url_of(&a), url_of(&b));
        if let (Ok(a), Ok(b)) = (parse(&a), parse(&b)) {
            prop_assert_eq!(a == b, a.canonical() == b.canonical());
        }
    }

    #[test]
    fn any_text_is_parsed_or_refused(path in "\\PC{0,60}", query in "\\PC{0,120}") {
        let _ = parse(&format!("/i/{path}?{query}"));
    }

    #[test]
    fn any_bytes_in_a_query_are_parsed_or_refused(query in "[%&=a-zA-Z0-9:.,+_-]{0,160}") {
        let url = format!("/i/studio/hero?{query}");
        if let Err(error) = parse(&url) {
            prop_assert!((400..500).contains(&error.status()));
            prop_assert!(error.problem().detail.len() < 400);
        }
    }
}
