use std::collections::HashSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, LazyLock};

use data_encoding::{BASE64, BASE64URL_NOPAD};
use prometheus::{Registry, TextEncoder};
use proptest::prelude::*;

use super::*;
use crate::request::{IgnoredParameters, ImageRequest, RequestError};
use crate::words::ReloadOutcome;
use crate::words::clock::Clock;

static IGNORED: LazyLock<IgnoredParameters> = LazyLock::new(IgnoredParameters::default);

const NOW: u64 = 1_800_000_000;

fn entry(kid: &str, byte: u8, rest: &str) -> String {
    format!("[[keys]]\nkid = \"{kid}\"\nsecret = \"{}\"\n{rest}\n", BASE64.encode(&[byte; 32]))
}

/// A file of keys as it has to be: for its owner alone.
fn write_keys(file: &Path, text: &str) {
    std::fs::write(file, text).expect("written");
    set_mode(file, 0o600);
}

fn set_mode(file: &Path, mode: u32) {
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(mode)).expect("chmod");
}

fn keys() -> SigningKeys {
    let text = [
        entry("old", 1, "retired = true"),
        entry("now", 2, ""),
        entry("brief", 3, "not_after = 2027-01-15T08:01:40Z"),
        entry("gone", 4, "not_after = 2027-01-15T08:00:00Z"),
    ];
    SigningKeys::parse(&text.concat()).expect("four keys")
}

fn parse<'u>(url: &'u str) -> Result<ImageRequest<'u>, RequestError> {
    let (path, query) = url.split_once('?').map_or((url, None), |(path, query)| (path, Some(query)));
    ImageRequest::parse(path, query, &*IGNORED)
}

fn verify(keys: &SigningKeys, url: &str) -> Result<Grant, SignatureError> {
    keys.verify(&parse(url).unwrap_or_else(|error| panic!("{url}: {error}")), NOW)
}

fn signed(url: &str, expires_s: Option<u64>) -> String {
    keys().sign(&parse(url).expect("a URL"), None, expires_s, NOW).expect("signed").canonical_with_slug()
}

/// The expected signature was computed by `hmac` of Python over the same key and text.
#[test]
fn a_signature_is_what_any_other_hmac_makes_of_the_canonical_url() {
    let url = signed("/i/studio/hero/mug.avif?H=300&colour=teal&width=500&utm_source=x", Some(NOW + 60));
    assert_eq!(
        url,
        "/i/studio/hero/mug.avif?colour=teal&w=500&h=300&fm=avif&kid=now&expires=1800000060\
         &s=lvWxyOQb4UaJRlES5on43crIn1F3haxF2DJWeXvWlhY"
    );
}

#[test]
fn what_is_signed_is_granted_until_it_ends() {
    let keys = keys();
    assert_eq!(verify(&keys, "/i/studio/hero?w=100"), Ok(Grant::Public));
    assert_eq!(verify(&keys, &signed("/i/studio/hero?w=100", None)), Ok(Grant::Signed { left_s: None }));
    for (expires_s, granted) in [
        (NOW + 60, Ok(Grant::Signed { left_s: Some(60) })),
        (NOW + 1, Ok(Grant::Signed { left_s: Some(1) })),
        (NOW + (1 << 34), Ok(Grant::Signed { left_s: Some(u32::MAX) })),
    ] {
        let url = signed("/i/studio/hero", Some(expires_s));
        assert_eq!(verify(&keys, &url), granted, "{url}");
        let at_its_end = keys.verify(&parse(&url).expect("a URL"), expires_s);
        assert_eq!(at_its_end, Err(SignatureError::Expired));
    }
}

/// A signature covers what a URL means: pasted from HTML source or with a click identifier it is the same URL.
#[test]
fn a_signed_url_survives_being_pasted() {
    let url = signed("/i/studio/hero/mug-2.0?w=500&colour=teal", Some(NOW + 60));
    for pasted in [url.replace('&', "&amp;"), url.replace('&', "&amp;amp;"), url.clone() + "&srsltid=1&amp;igsh=2"] {
        assert_eq!(verify(&keys(), &pasted), Ok(Grant::Signed { left_s: Some(60) }), "{pasted}");
    }
}

#[test]
fn a_retired_key_verifies_and_signs_nothing_and_one_past_its_date_does_neither() {
    let keys = keys();
    let request = parse("/i/studio/hero").expect("a URL");
    let by = |kid| keys.sign(&request, Some(kid), None, NOW).map(|signed| signed.canonical());
    assert_eq!(by("old"), Err(SignError::Retired("old".into())));
    assert_eq!(by("gone"), Err(SignError::KeyExpired("gone".into())));
    assert_eq!(by("never"), Err(SignError::UnknownKey("never".into())));
    assert_eq!(keys.sign(&request, None, Some(NOW), NOW).map(|signed| signed.canonical()), Err(SignError::Expired));
    // A URL cannot outlive its key.
    let brief = by("brief").expect("signs");
    assert_eq!(verify(&keys, &brief), Ok(Grant::Signed { left_s: Some(100) }));
    assert_eq!(keys.verify(&parse(&brief).expect("a URL"), NOW + 100), Err(SignatureError::KeyExpired));
    // Signed before it was retired.
    let before = SigningKeys::parse(&entry("old", 1, "")).expect("a key");
    let url = before.sign(&request, None, None, NOW).expect("signed").canonical();
    assert_eq!(verify(&keys, &url), Ok(Grant::Signed { left_s: None }));
    let none_signs = SigningKeys::parse(&entry("old", 1, "retired = true")).expect("a key");
    assert_eq!(none_signs.sign(&request, None, None, NOW).map(|signed| signed.canonical()), Err(SignError::NoKey));
}

#[test]
fn refusals_are_403_and_name_the_cause_and_nothing_more() {
    let mut kinds = HashSet::new();
    for error in SignatureError::ALL {
        let problem = error.problem();
        assert_eq!(problem.status, 403);
        assert!(problem.parameter.is_some() && problem.allowed.is_empty());
        assert!(kinds.insert(problem.kind));
    }
    let keys = keys();
    let good = signed("/i/studio/hero", Some(NOW + 5));
    let (start, tag) = good.rsplit_once('=').expect("a signature");
    for wrong in ["", "x", &tag[..42], &format!("{tag}A"), &format!("{tag}="), &tag.to_ascii_lowercase()] {
        let outcome = if wrong.is_empty() {
            SignatureError::Wrong
        } else {
            verify(&keys, &format!("{start}={wrong}")).expect_err(wrong)
        };
        assert_eq!(outcome, SignatureError::Wrong, "{wrong}");
    }
    // An expired URL with a wrong signature is wrong: the answer does not tell when it would have ended.
    let forged = format!("/i/studio/hero?kid=now&expires=1&s={tag}");
    assert_eq!(verify(&keys, &forged), Err(SignatureError::Wrong));
    assert_eq!(verify(&keys, &format!("/i/studio/hero?kid=no&s={tag}")), Err(SignatureError::UnknownKey));
}

#[test]
fn files_of_keys_are_strict_and_their_errors_quote_no_secret() {
    let good = entry("a", 1, "");
    let secret = BASE64.encode(&[1; 32]);
    for (text, error) in [
        (String::new(), KeysError::Empty),
        ("keys = []".into(), KeysError::Empty),
        ([good.as_str(), good.as_str()].concat(), KeysError::Twice { number: 2 }),
        (entry("a b", 1, ""), KeysError::KeyId { number: 1 }),
        (entry("a=", 1, ""), KeysError::KeyId { number: 1 }),
        (entry("", 1, ""), KeysError::KeyId { number: 1 }),
        (entry("a", 1, "not_after = 12:00:00"), KeysError::NotAfter { number: 1 }),
        (format!("[[keys]]\nkid = \"a\"\nsecret = \"{}\"", BASE64.encode(&[1; 31])), KeysError::Secret { number: 1 }),
        (format!("[[keys]]\nkid = \"a\"\nsecret = \"{}\"", BASE64.encode(&[1; 65])), KeysError::Secret { number: 1 }),
        (format!("[[keys]]\nkid = \"a\"\nsecret = \"{}!\"", &secret[1..]), KeysError::Secret { number: 1 }),
        ((0..=keys::KEYS_MAX).map(|n| entry(&format!("k{n}"), 1, "")).collect(), KeysError::TooMany),
    ] {
        assert_eq!(SigningKeys::parse(&text).expect_err(&text), error);
    }
    for text in [
        format!("[[keys]]\nkid = \"a\"\nretired = \"{secret}\""),
        format!("[[keys]]\nkid = \"a\"\nsecret = \"{secret}"),
        format!("[[keys]]\nkid = \"a\"\nsecret = {secret}"),
        format!("[[keys]]\nkid = \"a\"\nkey = \"{secret}\""),
        format!("keys = \"{secret}\""),
        format!("\"{secret}\" = 1"),
        format!("[[keys]]\nkid = \"a\"\n\"{secret}\" = 1"),
        format!("[\"{secret}\"]"),
    ] {
        let error = SigningKeys::parse(&text).expect_err(&text);
        assert!(matches!(error, KeysError::Toml { .. }));
        assert!(!error.to_string().contains(&secret[..8]), "{error}");
    }
    let line = SigningKeys::parse("\n\n[[keys]]\nkid = 5").expect_err("no text").to_string();
    assert!(line.starts_with("line 4: "), "{line}");
    let typing_error = SigningKeys::parse("[[keys]]\nkidd = \"a\"").expect_err("no key").to_string();
    assert!(typing_error.contains("`kidd`"), "{typing_error}");
    assert!(!format!("{:?}", keys()).contains("secret"));
}

#[test]
fn a_new_key_is_an_entry_that_signs() {
    let (one, other) = (new_key_entry("a").expect("random"), new_key_entry("a").expect("random"));
    assert_ne!(one, other);
    let keys = SigningKeys::parse(&one).expect("an entry");
    let url = keys.sign(&parse("/i/studio/hero").expect("a URL"), Some("a"), None, NOW).expect("signed").canonical();
    assert_eq!(verify(&keys, &url), Ok(Grant::Signed { left_s: None }));
    assert!(new_key_entry("a b").is_err());
}

fn metric(registry: &Registry, line: &str) -> bool {
    let text = TextEncoder::new().encode_to_string(&registry.gather()).expect("text");
    text.lines().any(|found| found == line)
}

#[tokio::test]
async fn a_changed_file_takes_effect_and_a_broken_one_does_not() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("keys.toml");
    write_keys(&file, &entry("now", 2, ""));
    let registry = Registry::new();
    let metrics = SigningMetrics::new(&registry).expect("registered once");
    let clock = Arc::new(NOW.into());
    let config = SigningConfig { keys_file: Some(file.clone()), ..SigningConfig::default() };
    let handle = SigningHandle::open(&config, Clock::Set(Arc::clone(&clock)), metrics).expect("valid keys");
    let url = signed("/i/studio/hero", Some(NOW + 60));
    let request = parse(&url).expect("a URL");
    assert_eq!(handle.check(&request), Ok(Grant::Signed { left_s: Some(60) }));
    clock.store(NOW + 59, Ordering::Relaxed);
    assert_eq!(handle.check(&request), Ok(Grant::Signed { left_s: Some(1) }));
    clock.store(NOW + 60, Ordering::Relaxed);
    assert_eq!(handle.check(&request), Err(SignatureError::Expired));
    clock.store(NOW, Ordering::Relaxed);

    assert_eq!(handle.reload_now().await, ReloadOutcome::Unchanged);
    std::fs::write(&file, "[[keys]]\nkid = \"now\"\n").expect("written");
    assert_eq!(handle.reload_now().await, ReloadOutcome::Refused);
    assert_eq!(handle.reload_now().await, ReloadOutcome::Unchanged, "reported once");
    assert!(metric(&registry, "bildkante_edge_signing_keys_valid 0"));
    assert!(handle.check(&request).is_ok(), "the last valid keys verify on");
    std::fs::remove_file(&file).expect("removed");
    assert_eq!(handle.reload_now().await, ReloadOutcome::Refused);
    assert!(handle.check(&request).is_ok());

    std::fs::write(&file, entry("next", 9, "")).expect("written");
    set_mode(&file, 0o644);
    assert_eq!(handle.reload_now().await, ReloadOutcome::Refused, "others may read it");
    assert!(handle.check(&request).is_ok());
    set_mode(&file, 0o600);
    assert_eq!(handle.reload_now().await, ReloadOutcome::Reloaded);
    assert_eq!(handle.check(&request), Err(SignatureError::UnknownKey));
    for line in [
        "bildkante_edge_signing_keys_valid 1",
        "bildkante_edge_signing_keys 1",
        "bildkante_edge_signing_keys_reloads_total{outcome=\"refused\"} 3",
        "bildkante_edge_signatures_total{outcome=\"granted\"} 5",
        "bildkante_edge_signatures_total{outcome=\"unknown-signing-key\"} 1",
        "bildkante_edge_signatures_total{outcome=\"signature-expired\"} 1",
    ] {
        assert!(metric(&registry, line), "{line}");
    }
}

#[test]
fn without_keys_every_signature_is_refused_and_a_broken_file_does_not_start() {
    let open = |keys_file| {
        let metrics = SigningMetrics::new(&Registry::new()).expect("registered once");
        SigningHandle::open(&SigningConfig { keys_file, ..SigningConfig::default() }, Clock::System, metrics)
    };
    let handle = open(None).expect("nothing to read");
    let url = signed("/i/studio/hero", None);
    assert_eq!(handle.check(&parse(&url).expect("a URL")), Err(SignatureError::NotConfigured));
    assert_eq!(handle.check(&parse("/i/studio/hero").expect("a URL")), Ok(Grant::Public));
    assert!(open(Some("/nonexistent/keys.toml".into())).is_err());
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("keys.toml");
    write_keys(&file, &entry("now", 2, ""));
    assert!(open(Some(file.clone())).is_ok());
    set_mode(&file, 0o604);
    let error = format!("{:#}", open(Some(file)).expect_err("others may read it"));
    assert!(error.contains("mode 0604") && error.contains("run `chmod 6"), "{error}");
}

/// A URL with parameters of every kind, signed.
fn any_signed() -> impl Strategy<Value = String> {
    let optional = |values: &'static str| proptest::option::of(values);
    let parameters = (
        optional("product=(mug|bottle)"),
        optional("colour=te%C3%A4l"),
        optional("w=[1-9][0-9]{0,2}"),
        optional("h=[1-9][0-9]{0,2}"),
        optional("fit=(contain|pad|crop)"),
        optional("q=([1-9][0-9]|high)"),
        optional("dpr=[1-3](\\.[1-9])?"),
        optional("v=[0-9a-f]{8}"),
    );
    (parameters, any::<bool>(), proptest::option::of(1u64..100_000)).prop_map(|(parameters, has_slug, left_s)| {
        let (a, b, c, d, e, f, g, h) = parameters;
        let query: Vec<String> = [a, b, c, d, e, f, g, h].into_iter().flatten().collect();
        let slug = if has_slug { "/mug.webp" } else { "" };
        signed(&format!("/i/studio/hero{slug}?{}", query.join("&")), left_s.map(|left_s| NOW + left_s))
    })
}

/// A changed URL is either the same request in another spelling, and then granted, or refused.
fn is_sound(keys: &SigningKeys, original: &str, changed: &str) -> Result<(), TestCaseError> {
    let Ok(request) = parse(changed) else { return Ok(()) };
    let original = parse(original).expect("a URL");
    let is_same = request.canonical() == original.canonical();
    match keys.verify(&request, NOW) {
        Ok(Grant::Signed { .. }) => prop_assert!(is_same, "{changed} was granted"),
        // A parameter that lost its name may leave no signature behind: then nothing is granted.
        Ok(Grant::Public) => prop_assert!(request.signature.is_none() && !is_same, "{changed}"),
        Ok(Grant::Operator) => prop_assert!(false, "{changed} is the operator's"),
        Err(_) => prop_assert!(!is_same, "{changed} was refused"),
    }
    Ok(())
}

proptest! {
    // Each case is some ten thousand URLs.
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    /// Every byte replaced by every other printable one and a few that are not, dropped, and doubled.
    #[test]
    fn every_byte_counts(url in any_signed()) {
        let keys = keys();
        let is_granted = matches!(verify(&keys, &url), Ok(Grant::Signed { .. }));
        prop_assert!(is_granted, "{}", url);
        for at in 0..url.len() {
            let mut bytes = url.clone().into_bytes();
            for byte in (0x20..0x7f).chain([0, 0x0a, 0x7f]).filter(|byte| *byte != url.as_bytes()[at]) {
                bytes[at] = byte;
                is_sound(&keys, &url, std::str::from_utf8(&bytes).expect("ASCII"))?;
            }
            let (before, after) = (&url[..at], &url[at + 1..]);
            is_sound(&keys, &url, &format!("{before}{after}"))?;
            is_sound(&keys, &url, &format!("{before}{0}{0}{after}", &url[at..=at]))?;
        }
    }

}

proptest! {
    #[test]
    fn every_bit_of_a_signature_counts(url in any_signed(), bit in 0usize..256) {
        let keys = keys();
        let (start, tag) = url.rsplit_once("&s=").expect("a signature");
        let mut tag = BASE64URL_NOPAD.decode(tag.as_bytes()).expect("base64");
        tag[bit / 8] ^= 1 << (bit % 8);
        let forged = format!("{start}&s={}", BASE64URL_NOPAD.encode(&tag));
        prop_assert_eq!(verify(&keys, &forged), Err(SignatureError::Wrong));
    }

    /// Parameters in any order, in capitals, under their aliases, beside tracking: the same request, so granted.
    #[test]
    fn another_spelling_of_the_same_request_verifies(url in any_signed(), turn in 0usize..12, seed in any::<u64>()) {
        let (path, query) = url.split_once('?').expect("a query");
        let mut pairs: Vec<String> = query.split('&').map(|pair| {
            let (name, value) = pair.split_once('=').expect("a pair");
            let name = match name {
                "w" => "width",
                "h" => "Height",
                "fit" => "MODE",
                "q" => "quality",
                "colour" => "Colour",
                name => name,
            };
            format!("{name}={}", value.replace("%C3", "%c3"))
        }).collect();
        let turn = turn % pairs.len();
        pairs.rotate_left(turn);
        pairs.insert((seed as usize) % (pairs.len() + 1), "utm_source=mail".to_owned());
        let path = if seed.is_multiple_of(2) { path.to_owned() } else { path.replace("mug", "becher") };
        let respelt = format!("{path}?{}", pairs.join("&"));
        prop_assert_eq!(verify(&keys(), &respelt), verify(&keys(), &url), "{}", respelt);
    }

    /// A parameter more, one less, one twice: refused, unless it says nothing.
    #[test]
    fn parameters_cannot_be_added_dropped_or_doubled(url in any_signed(), pick in any::<prop::sample::Index>()) {
        let keys = keys();
        let (path, query) = url.split_once('?').expect("a query");
        let pairs: Vec<&str> = query.split('&').collect();
        let at = pick.index(pairs.len());
        let without: Vec<&str> = pairs.iter().enumerate().filter(|(index, _)| *index != at).map(|(_, pair)| *pair).collect();
        is_sound(&keys, &url, &format!("{path}?{}", without.join("&")))?;
        let twice = format!("{url}&{}", pairs[at]);
        prop_assert!(parse(&twice).is_err(), "{twice}");
        for more in ["w=7", "h=7", "fm=png", "q=99", "bg=000000", "crop=top", "colour=red", "expires=1900000000", "kid=old", "x=1"] {
            is_sound(&keys, &url, &format!("{url}&{more}"))?;
            is_sound(&keys, &url, &format!("{path}?{more}&{query}"))?;
        }
    }
}
