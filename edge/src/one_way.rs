//! Every way from a URL to a picture is one: a reader's request, `explain`, warming, a purge and the preview agree over random
//! URLs, `Accept`s and hints of several campaigns; and an answer depends on nothing but what its factors say.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::sync::LazyLock;

use bildkante_shared::ids::RecipeId;
use bildkante_shared::urgency::Urgency;
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use prometheus::Registry;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use crate::campaign::Catalog;
use crate::campaign::tests::{MANIFEST, Site};
use crate::governance::PurgeScope;
use crate::governance::marks::PurgeKey;
use crate::governance::purge::cut_key;
use crate::render::{FinishDigest, RenditionSpec};
use crate::request::{FormatAsk, ImageRequest, Target};
use crate::resolve::{Described, Explanation, Factor, Reader, Refusal, Trace, Want, resolve};
use crate::signing::{Grant, SignatureError, SigningConfig, SigningHandle, SigningKeys, SigningMetrics};
use crate::warm::{Plan, WarmOrder};
use crate::words::clock::Clock;
use crate::{preview, warm};

const NOW_S: u64 = 1_800_000_000;
const PUBLIC_URL: &str = "https://img.example.com";
const KEYS: &str = "[[keys]]\nkid = \"k\"\nsecret = \"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\"\n";

/// Three campaigns and their keys, at one moment.
struct World {
    catalog: Catalog,
    keys: SigningKeys,
    /// What the edge verifies with now, and in a century.
    signing: SigningHandle,
    later: SigningHandle,
    _site: Site,
}

/// `winter` answers signed URLs only, enlarges, has fewer formats and another marking; an axis of `spring` is called as a
/// tracking parameter is, and one of its values is restricted.
fn write_campaigns(site: &Site) {
    let winter = MANIFEST
        .replace("campaign = \"autumn\"", "campaign = \"winter\"")
        .replace("signing = \"optional\"", "signing = \"required\"")
        .replace("© 2026 Shop", "© 2026 Another")
        .replace(
            "1120, 1344]\nupscale_max = 1.0",
            "1120, 1344, 2400]\nupscale_max = 2.0\nformats = [\"webp\", \"jpg\"]",
        );
    let spring = MANIFEST
        .replace("campaign = \"autumn\"", "campaign = \"spring\"")
        .replace("axes.finish", "axes.srsltid")
        .replace("{finish}", "{srsltid}")
        .replace("prompt = \"gold\",", "prompt = \"gold\", only = { product = [\"mug\"] },");
    site.write("campaigns/winter.toml", &winter);
    site.write("campaigns/spring.toml", &spring);
    site.lock();
}

fn signing(site: &Site, unix_s: u64) -> SigningHandle {
    let file = site.path("keys.toml");
    let config = SigningConfig { keys_file: Some(file), ..SigningConfig::default() };
    let metrics = SigningMetrics::new(&Registry::new()).expect("a registry of its own");
    SigningHandle::open(&config, Clock::set_to(unix_s), metrics).expect("valid keys")
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let site = Site::new();
    write_campaigns(&site);
    site.write("keys.toml", KEYS);
    std::fs::set_permissions(site.path("keys.toml"), Permissions::from_mode(0o600)).expect("chmod");
    World {
        catalog: site.load(),
        keys: SigningKeys::parse(KEYS).expect("valid keys"),
        signing: signing(&site, NOW_S),
        later: signing(&site, NOW_S + 100 * 365 * 86_400),
        _site: site,
    }
});

/// What of a want is in keys.
type Picture = (RecipeId, RenditionSpec, FinishDigest);

fn picture(want: &Want) -> Picture {
    (want.recipe_id(), want.spec, want.finish.digest())
}

fn pictured(trace: &Trace<'_>) -> Result<Picture, Refusal> {
    trace.outcome.as_ref().map(|resolution| picture(&resolution.want)).map_err(Clone::clone)
}

/// As the handler asks.
fn read<'u>(uri: &'u Uri, headers: &HeaderMap, signing: &SigningHandle) -> Trace<'u> {
    resolve(&WORLD.catalog, uri, &Reader { headers, signing })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seal {
    None,
    Valid,
    WithoutEnd,
    Expired,
    Forged,
}

/// The URL with a signature, where it can have one.
fn sealed(url: String, seal: Seal) -> String {
    let expires_s = match seal {
        Seal::None => return url,
        Seal::Valid | Seal::Forged => Some(NOW_S + 60),
        Seal::WithoutEnd => None,
        Seal::Expired => Some(NOW_S),
    };
    let signed_s = NOW_S - 60;
    let Target { path, query } = Target::from(url.as_str());
    let Ok(request) = ImageRequest::parse(path, query, &WORLD.catalog) else { return url };
    let Ok(signed) = WORLD.keys.sign(&request, Some("k"), expires_s, signed_s) else { return url };
    let signed = signed.canonical_with_slug();
    if seal == Seal::Forged { format!("{}A", &signed[..signed.len() - 1]) } else { signed }
}

fn any_pair() -> impl Strategy<Value = String> {
    let of = |pairs: &'static [&'static str]| select(pairs).prop_map(str::to_owned);
    prop_oneof![
        6 => of(&["product=mug", "product=bottle", "Product=MUG", "colour=red", "colour=gold", "COLOUR=teal", "finish=matte",
            "finish=none", "srsltid=matte", "srsltid=none", "locale=en-GB", "locale=de-de", "colour=lime", "size=m"]),
        6 => prop_oneof![
            (1u32..=9000).prop_map(|width| format!("w={width}")),
            select(&[240u32, 480, 481, 768, 960, 1344, 2400][..]).prop_map(|width| format!("width={width}")),
            Just("w=auto".to_owned()),
        ],
        2 => of(&["dpr=2", "dpr=1", "dpr=0.5", "dpr=1.5", "dpr=5", "dpr=9"]),
        4 => of(&["fm=avif", "fm=webp", "fm=jpg", "f=png", "fm=auto", "fm=pjpg", "fm=gif"]),
        2 => of(&["save-data=auto", "SAVE-DATA=Auto", "save-data=on"]),
        3 => of(&["q=auto", "q=high", "q=low", "q=80", "q=37", "quality=50", "q=0"]),
        3 => of(&["h=300", "h=8000", "fit=pad", "fit=min", "fit=contain", "mode=fill", "crop=top", "g=left", "crop=entropy",
            "ar=1:1", "ar=16:9", "bg=102030", "fp-x=0.2", "fpy=0.9"]),
        1 => of(&["v=0123456789ab", "metadata=provenance", "auto=format", "utm_source=x", "gclid=1", "amp;w=480", "%zz=1"]),
    ]
}

fn any_url() -> impl Strategy<Value = String> {
    let campaign = prop_oneof![5 => Just("autumn"), 4 => Just("winter"), 4 => Just("spring"), 1 => Just("summer")];
    let slot = prop_oneof![6 => Just("hero"), 6 => Just("teaser"), 1 => Just("banner")];
    let slug = prop_oneof![6 => Just(""), 1 => Just("/red-mug"), 1 => Just("/red-mug.jpg"), 1 => Just("/mug-2.0.webp")];
    let seal = prop_oneof![
        3 => Just(Seal::None), 4 => Just(Seal::Valid), 2 => Just(Seal::WithoutEnd), 1 => Just(Seal::Expired), 1 => Just(Seal::Forged),
    ];
    (campaign, slot, slug, vec(any_pair(), 0..6), seal).prop_map(|(campaign, slot, slug, pairs, seal)| {
        sealed(format!("/i/{campaign}/{slot}{slug}?{}", pairs.join("&")), seal)
    })
}

fn any_accept() -> impl Strategy<Value = Option<String>> {
    let known = select(
        &[
            "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8",
            "image/webp,*/*",
            "*/*",
            "image/png",
            "image/avif;q=0,image/webp;q=0.1",
            "text/html",
        ][..],
    );
    option::weighted(0.9, prop_oneof![4 => known.prop_map(str::to_owned), 1 => "[a-z/*;,=q.0-9 ]{0,60}"])
}

fn any_hints() -> impl Strategy<Value = Vec<(&'static str, String)>> {
    let field = prop_oneof![
        (select(&["sec-ch-width", "width", "sec-ch-viewport-width"][..]), (0u32..4000).prop_map(|px| px.to_string())),
        (Just("save-data"), select(&["on", "off"][..]).prop_map(str::to_owned)),
        (select(&["sec-ch-dpr", "dpr"][..]), select(&["1", "2", "1.5", "3", "x"][..]).prop_map(str::to_owned)),
    ];
    vec(field, 0..4)
}

fn any_headers() -> impl Strategy<Value = HeaderMap> {
    (any_accept(), any_hints(), option::of("[iu=0-9, ]{0,8}")).prop_map(|(accept, hints, priority)| {
        let lines = hints.into_iter().chain(accept.map(|accept| ("accept", accept)));
        let lines = lines.chain(priority.map(|priority| ("priority", priority)));
        let line = |(name, value): (&'static str, String)| {
            (HeaderName::from_static(name), HeaderValue::from_str(&value).expect("a legal value"))
        };
        lines.map(line).collect()
    })
}

/// What remains of a client's headers where only those of the factors are read.
fn of_factors(trace: &Trace<'_>, headers: &HeaderMap) -> HeaderMap {
    let is_factor = |name: &HeaderName| match name.as_str() {
        "accept" => trace.factors.contains(Factor::Accept),
        "save-data" => trace.factors.contains(Factor::SaveData),
        "priority" => false,
        _ => trace.factors.contains(Factor::Hints),
    };
    let kept = headers.iter().filter(|(name, _)| is_factor(name));
    kept.map(|(name, value)| (name.clone(), value.clone())).collect()
}

fn explained(url: &str, headers: &HeaderMap) -> Explanation {
    let accept = headers.get("accept").map(|accept| accept.to_str().expect("ASCII"));
    let verify = |request: &ImageRequest<'_>| -> Result<Grant, SignatureError> { WORLD.keys.verify(request, NOW_S) };
    Explanation::of(url, &resolve(&WORLD.catalog, url, &Described { accept, verify }))
}

/// The purge of a URL covers what its reader is answered with.
fn covers(keys: &[PurgeKey], want: &Want) -> bool {
    let recipe = format!("recipe:{}", want.recipe_id()).parse().expect("a tag");
    keys.contains(&recipe) || keys.contains(&PurgeKey::Cut(cut_key(want.recipe_id(), &want.spec)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2048, ..ProptestConfig::default() })]

    #[test]
    fn every_way_comes_to_the_same_picture(url in any_url(), headers in any_headers()) {
        let uri: Uri = url.parse().expect("a URL");
        let trace = read(&uri, &headers, &WORLD.signing);
        let explanation = explained(&format!("{PUBLIC_URL}{url}#top"), &headers);
        let purge = PurgeScope::Url(url.clone()).aim(&WORLD.catalog, PUBLIC_URL);
        let want = match &trace.outcome {
            Ok(resolution) => &resolution.want,
            Err(refusal) => {
                prop_assert_eq!(explanation.problem, Some(refusal.problem()), "{}", url);
                return Ok(());
            }
        };
        let by_client = trace.factors.contains(Factor::Hints) || trace.factors.contains(Factor::SaveData);

        // `explain` says what a client is answered who sends no hints and saves no data.
        let variant = explanation.variant.as_ref().expect("an image");
        prop_assert_eq!(variant.recipe_id, want.recipe_id(), "{}", url);
        let spec = &explanation.rendition.as_ref().expect("an image").spec;
        prop_assert!(by_client || *spec == want.spec.to_string(), "{}: {} {}", url, spec, want.spec);

        // A warming stores it under the same key: in the format that the client chose, at the width that the hints chose.
        let request = trace.request.clone().expect("an image");
        let chosen = ImageRequest { format: FormatAsk::Explicit(want.spec.format), ..request }.canonical();
        let warmed = warm::want(&WORLD.catalog, &chosen).expect("an image");
        prop_assert_eq!(warmed.urgency, Urgency::LEAST);
        prop_assert_eq!((warmed.recipe_id(), warmed.finish.digest()), (want.recipe_id(), want.finish.digest()), "{}", url);
        prop_assert!(by_client || warmed.spec == want.spec, "{}: {} {}", url, warmed.spec, want.spec);

        // The least urgency is the edge's own, whatever a client asks for.
        prop_assert!(want.urgency <= Urgency::LAST_OF_READERS, "{:?}", headers);

        // A purge finds it.
        prop_assert!(covers(&purge.expect("an image").keys, want), "{}", url);
        let name = url.split_once("/i/").expect("an image").1;
        let purge = PurgeScope::Variant(name.to_owned()).aim(&WORLD.catalog, PUBLIC_URL);
        prop_assert!(covers(&purge.expect("an image").keys, want), "{}", url);

        // The preview shows it.
        let campaign = &trace.outcome.as_ref().expect("an image").resolved.campaign;
        let key = want.variant.key;
        let shown = preview::resolved(&WORLD.catalog, campaign, usize::from(key.slot), key.combination);
        prop_assert_eq!(shown.expect("an image").variant.recipe.id(), want.recipe_id(), "{}", url);
    }

    #[test]
    fn an_answer_depends_on_its_factors_alone(url in any_url(), headers in any_headers(), others in any_headers()) {
        let uri: Uri = url.parse().expect("a URL");
        let trace = read(&uri, &headers, &WORLD.signing);
        prop_assert_eq!(trace.factors, read(&uri, &others, &WORLD.later).factors, "{}: they follow from the URL", url);
        let bare = of_factors(&trace, &headers);
        prop_assert_eq!(pictured(&read(&uri, &bare, &WORLD.signing)), pictured(&trace), "{}", url);
        if !trace.factors.contains(Factor::Moment) {
            prop_assert_eq!(pictured(&read(&uri, &headers, &WORLD.later)), pictured(&trace), "{}", url);
        }
        // What the front map keeps under URL and `Accept`.
        if trace.factors.is_keepable() {
            let mut same = others;
            same.remove("accept");
            same.extend(headers.get("accept").map(|accept| (HeaderName::from_static("accept"), accept.clone())));
            prop_assert_eq!(pictured(&read(&uri, &same, &WORLD.later)), pictured(&trace), "{}", url);
        }
        // `Vary` names every header that takes part.
        let vary = trace.factors.negotiation().vary().unwrap_or_default();
        let names = |name: &str| vary.split(", ").any(|varied| varied.eq_ignore_ascii_case(name));
        prop_assert!(bare.keys().all(|name| names(name.as_str())), "{}: {}", url, vary);
    }
}

/// What a plan warms is what a page asks for.
#[test]
fn a_plan_warms_what_readers_ask_for() {
    let none = HeaderMap::new();
    for name in ["autumn", "spring"] {
        let order = WarmOrder {
            campaign: name.to_owned(),
            slot: None,
            axes: Vec::new(),
            formats: Vec::new(),
            concurrency: 1,
            why: String::new(),
        };
        let plan = Plan::parse(&WORLD.catalog, &order).expect("a plan").with_units();
        for url in (0..plan.pictures()).flat_map(|picture| plan.urls(picture)) {
            let uri: Uri = url.parse().expect("a URL");
            let reader = pictured(&read(&uri, &none, &WORLD.signing));
            let warmed = warm::want(&WORLD.catalog, &url).map(|want| picture(&want));
            assert_eq!(warmed, reader, "{url}");
            assert!(reader.is_ok(), "{url}");
        }
    }
}

/// Readers yield to readers only: what is least urgent has no reader, and does without the thread that is kept for them.
#[test]
fn no_reader_is_as_little_urgent_as_the_edges_own_work() {
    let urgencies = ["u=5", "u=6", "u=7"].map(|asked| {
        let headers = HeaderMap::from_iter([(HeaderName::from_static("priority"), HeaderValue::from_static(asked))]);
        let uri = Uri::from_static("/i/autumn/hero");
        let trace = read(&uri, &headers, &WORLD.signing);
        trace.outcome.expect("an image").want.urgency.get()
    });
    assert_eq!(urgencies, [5, 6, 6]);
    assert_eq!(warm::want(&WORLD.catalog, "/i/autumn/hero").map(|want| want.urgency), Ok(Urgency::LEAST));
}
