//! Entry points for all that reads bytes from outside: fuzz targets (`tests/fuzz`) and the test that replays their
//! corpora (`edge/tests/corpus.rs`) call the same functions. Each takes any bytes, must not panic, and asserts what
//! holds for all of them.

use std::net::IpAddr;
use std::path::Path;
use std::sync::OnceLock;

use bytes::Bytes;
use http::header::{ACCEPT, ACCESS_CONTROL_ALLOW_ORIGIN};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::access::line::{REDACTED, without_signature};
use crate::access::visit::LazyTrace;
use crate::batch;
use crate::budget::BudgetConfig;
use crate::cache::{decode_entry, reseal_entry};
use crate::credentials::{Manifest, SignedDocument, Standing, Trust};
use crate::decoding::{Answer, AvifHead, DecoderCommand, Still};
use crate::fields;
use crate::listener::forwarded::{ForwardedField, TrustedProxies};
use crate::provenance::Told;
use crate::render::layers::{
    Blend, Colour, ContrastMin, Direction, FontFace, Hyphens, ImageAsset, Insets, Layer, LayerAnchor, LayerKind,
    LayerSet, Length, Opacity, Placing, Shadow, TextLayer, TextStyle, Words, compose,
};
use crate::render::{
    Anchor, Cube, OriginalFormat, RENDITION_AREA_PX_MAX, RENDITION_SIDE_PX_MAX, Raster, decode_original, memory_for,
    original_facts,
};
use crate::request::{
    ClientHints, DataUse, FormatAsk, IgnoredParameters, ImageRequest, MARKUP_PATH_PREFIX, MarkupRequest,
    requested_urgency,
};
use crate::resolve::format;
use crate::resolve::layout::{Ask, Layout, Limits};
use crate::response::conditional::{self, RequestedRange};
use crate::rum::RumConfig;
use crate::rum::gate::Gate;
use crate::shared_state::offline::BackupLine;
use crate::shared_state::wire::{Ask as FollowersAsk, Feed, SentProposal, SentSnapshot, WAIT_MS_MAX};
use crate::shared_state::{ActorId, Entry, State, Target as KillTarget};
use crate::signing::{Grant, SigningKeys};
use crate::verify::multipart;
use crate::words::{Format, FormatSet, Ratio};

/// A name and what takes any bytes under it.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 18] = [
    ("url", url),
    ("http1_head", http1_head),
    ("headers", headers),
    ("forwarded", forwarded),
    ("manifest", manifest),
    ("disk_entry", disk_entry),
    ("signing_keys", signing_keys),
    ("manifest_store", manifest_store),
    ("container", container),
    ("metadata", metadata),
    ("report", report),
    ("form", form),
    ("original", original),
    ("cube", cube),
    ("table", table),
    ("audit_entry", audit_entry),
    ("state_wire", state_wire),
    ("layer", layer),
];

/// Between the parts of a `manifest` input.
const PART: &str = "\n#---\n";
const LENGTH: usize = 1000;
/// Most memory that a picture may take here.
const FUZZED_BYTES_MAX: u64 = 16 << 20;

fn ignored() -> &'static IgnoredParameters {
    static IGNORED: OnceLock<IgnoredParameters> = OnceLock::new();
    IGNORED.get_or_init(IgnoredParameters::default)
}

fn gate() -> &'static Gate {
    static GATE: OnceLock<Gate> = OnceLock::new();
    GATE.get_or_init(|| {
        let origins = ["https://*.example.com", "http://localhost:3000"];
        let origins = origins.into_iter().filter_map(|text| text.to_owned().try_into().ok()).collect();
        let config = RumConfig { origins, network_per_minute: 0, total_per_minute: 0, ..RumConfig::default() };
        Gate::new(&config, &BudgetConfig::default())
    })
}

fn keys() -> Option<&'static SigningKeys> {
    static KEYS: OnceLock<Option<SigningKeys>> = OnceLock::new();
    let text = "[[keys]]\nkid = \"k\"\nsecret = \"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\"\n";
    KEYS.get_or_init(|| SigningKeys::parse(text).ok()).as_ref()
}

/// A request target: one spelling per request, geometry within bounds, no signature but our own, and none of it in a log.
///
/// # Panics
/// When one of these does not hold.
pub fn url(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (path, query) = text.split_once('?').map_or((text, None), |(path, query)| (path, Some(query)));
    if path.starts_with(MARKUP_PATH_PREFIX) {
        return markup_url(path, query);
    }
    let request = match ImageRequest::parse(path, query, ignored()) {
        Ok(request) => request,
        Err(error) => {
            let problem = error.problem();
            assert!((400..500).contains(&problem.status) && problem.detail.len() < 1000);
            return;
        }
    };
    // However `s` was spelt.
    if request.signature.is_some() {
        let logged = without_signature(text);
        let (path, query) = logged.split_once('?').map_or((&*logged, None), |(path, query)| (path, Some(query)));
        let shown = ImageRequest::parse(path, query, ignored()).ok().and_then(|request| request.signature);
        assert!(shown.is_none_or(|shown| shown.signature == REDACTED), "{logged}");
    }
    let canonical = request.canonical();
    let (path, query) = canonical.split_once('?').map_or((&*canonical, None), |(path, query)| (path, Some(query)));
    if path.len() <= crate::request::PATH_BYTES_MAX
        && query.is_none_or(|query| query.len() <= crate::request::QUERY_BYTES_MAX)
    {
        let again = ImageRequest::parse(path, query, ignored());
        assert_eq!(again, Ok(ImageRequest { slug: None, ..request.clone() }), "{canonical}");
    }
    let Ok(slot_ratio) = Ratio::new(16, 9) else { return };
    let layout = Layout::new(
        &Ask::of(&request, None, 640, Anchor::CENTER),
        &Limits { source: (1344, 768), slot_ratio, upscale_max: 1.5 },
    );
    assert!(layout.width_px >= 1 && layout.height_px >= 1);
    assert!(layout.width_px.max(layout.height_px) <= RENDITION_SIDE_PX_MAX);
    assert!(u64::from(layout.width_px) * u64::from(layout.height_px) <= RENDITION_AREA_PX_MAX);
    let Some(keys) = keys() else { return };
    if request.signature.is_none() {
        assert_eq!(keys.verify(&request, 1), Ok(Grant::Public));
    }
    if let Ok(signed) = keys.sign(&request, Some("k"), Some(10), 1) {
        assert_eq!(keys.verify(&signed, 1), Ok(Grant::Signed { left_s: Some(9) }));
    }
}

/// The same of a URL that asks for markup.
fn markup_url(path: &str, query: Option<&str>) {
    let request = match MarkupRequest::parse(path, query, ignored()) {
        Ok(request) => request,
        Err(error) => {
            let problem = error.problem();
            assert!((400..500).contains(&problem.status) && problem.detail.len() < 1000);
            return;
        }
    };
    let canonical = request.canonical();
    let (path, query) = canonical.split_once('?').map_or((&*canonical, None), |(path, query)| (path, Some(query)));
    if path.len() <= crate::request::PATH_BYTES_MAX
        && query.is_none_or(|query| query.len() <= crate::request::QUERY_BYTES_MAX)
    {
        assert_eq!(MarkupRequest::parse(path, query, ignored()).as_ref(), Ok(&request), "{canonical}");
    }
    assert!(request.image_url().starts_with(crate::request::IMAGE_PATH_PREFIX));
    let Some(keys) = keys() else { return };
    if let Ok(signed) = keys.sign(&request, Some("k"), Some(10), 1) {
        assert_eq!(keys.verify(&signed, 1), Ok(Grant::Signed { left_s: Some(9) }));
        // No picture is signed by it.
        let image = ImageRequest::of_slot(signed.campaign.clone(), signed.slot.clone());
        let image = ImageRequest { axes: signed.axes.clone(), signature: signed.signature.clone(), ..image };
        assert!(keys.verify(&image, 1).is_err());
    }
}

/// Header lines: everything that is read from a request beside its URL.
///
/// # Panics
/// When a range lies outside, hints are out of bounds, or what was read of a trace is not what is handed on.
pub fn headers(data: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n').take(64) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
    let accept = fields::list(&headers, &ACCEPT);
    let _ = format::choose(accept.as_deref(), FormatAsk::Auto, FormatSet::ALL);
    let etag = "\"0123456789abcdefghjkmnpqrs\"";
    let _ = conditional::precondition(&headers, etag);
    if let RequestedRange::Part { first, last } = conditional::requested_range(&headers, etag, LENGTH) {
        assert!(first <= last && last < LENGTH);
    }
    let _ = DataUse::read(&headers);
    if let Some(field) = fields::list(&headers, &HeaderName::from_static("priority")) {
        let _ = requested_urgency(&field);
    }
    let trace = LazyTrace::new(&headers, true);
    let parent = trace.get().parent;
    assert_eq!(parent.to_string().parse(), Ok(parent));
    assert!(HeaderValue::from_str(trace.get().request.as_str()).is_ok());
    let gate = gate();
    let mut answer = HeaderMap::new();
    gate.share(&headers, &mut answer);
    // Beacons have one origin; a page that may not send may not read.
    if answer.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN) {
        assert_eq!(gate.admit(&headers, IpAddr::from([192, 0, 2, 1])), Ok(()));
    }
    let request = ImageRequest::of_slot("a".into(), "b".into());
    let device_px = ClientHints::read(&headers).device_px(640, request.dpr);
    assert!((1..=5 * RENDITION_SIDE_PX_MAX).contains(&device_px));
}

/// A request as it comes from a socket.
///
/// # Panics
/// When the lane takes for its own what is not.
pub fn http1_head(data: &[u8]) {
    crate::listener::lane::examine(data);
}

/// Lines of `X-Forwarded-For` and `Forwarded` through a trusted proxy and from any other peer.
///
/// # Panics
/// When a peer is believed that is not trusted.
pub fn forwarded(data: &[u8]) {
    let mut fields = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n').take(64) {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            fields.append("x-forwarded-for", value.clone());
            fields.append("forwarded", value);
        }
    }
    let (proxy, stranger) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([192, 0, 2, 8]));
    for field in [ForwardedField::XForwardedFor, ForwardedField::Forwarded] {
        let trusted = TrustedProxies::new("10.0.0.0/8".parse().into_iter().collect(), field);
        let client = trusted.client(proxy, &fields);
        assert!(!client.is_unspecified());
        assert_eq!(trusted.client(stranger, &fields), stranger);
    }
}

/// A manifest, a prompt library, a lock and a table of texts, between lines of `#---`; parts may be missing.
pub fn manifest(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut parts = text.splitn(4, PART);
    let [manifest, library, lock, table] = std::array::from_fn(|_| parts.next().unwrap_or_default());
    crate::campaign::read_texts(Path::new("autumn.toml"), manifest, ("shots", library), lock, table);
}

/// A stored rendition, as it is and with its checksums made right.
///
/// # Panics
/// When one decodes to anything but its own body.
pub fn disk_entry(data: &[u8]) {
    let mut resealed = data.to_vec();
    let Some(key) = reseal_entry(&mut resealed) else {
        assert!(decode_entry(&Bytes::copy_from_slice(data), crate::cache::RenditionKey::from_raw([0; 16])).is_err());
        return;
    };
    for file in [Bytes::copy_from_slice(data), Bytes::from(resealed)] {
        if let Ok(rendition) = decode_entry(&file, key) {
            assert!(file.ends_with(&rendition.body) && rendition.body.len() < file.len());
            assert_eq!(rendition.digest, bildkante_shared::ids::Digest::of_bytes(&rendition.body));
        }
    }
}

/// A file of signing keys: refused without quoting what may be a secret, or able to verify what it signs.
///
/// # Panics
/// When neither holds.
pub fn signing_keys(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let keys = match SigningKeys::parse(text) {
        Ok(keys) => keys,
        Err(error) => {
            let said = error.to_string();
            // What stands in quotes, is as long as a secret and made of what secrets are made of.
            let is_base64 = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'-' | b'_' | b'=');
            let is_secret = |quoted: &&str| quoted.len() >= 32 && quoted.bytes().all(is_base64);
            let quoted = text.split('"').skip(1).step_by(2).filter(is_secret);
            quoted.for_each(|quoted| assert!(!said.contains(quoted), "{said}"));
            return;
        }
    };
    let request = ImageRequest::of_slot("a".into(), "b".into());
    if let Ok(signed) = keys.sign(&request, None, Some(10), 1) {
        assert!(matches!(keys.verify(&signed, 1), Ok(Grant::Signed { left_s: Some(1..=9) })));
        assert!(keys.verify(&signed, 10).is_err());
    }
}

/// A manifest store of Content Credentials: one that is taken is one box, which ends where the bytes end. What it holds is
/// read by a library behind a wall, which a fuzzer's own handler of panics would bypass: `edge/tests/credentials` sends
/// that noise.
///
/// # Panics
/// When that does not hold.
pub fn manifest_store(data: &[u8]) {
    if let Ok(manifest) = Manifest::from_bytes(data.to_vec()) {
        assert_eq!(manifest.as_bytes(), data);
        let length = data.first_chunk().map(|length| u32::from_be_bytes(*length) as usize);
        assert_eq!(length, Some(data.len()));
    }
}

/// The container of an AVIF file, as the detector reads it before any frame is decoded.
pub fn container(data: &[u8]) {
    let _ = (Still::read(data, Answer::Lightness), AvifHead::read(data, FUZZED_BYTES_MAX));
}

/// Metadata of a foreign picture: texts are bounded and hold no control characters.
///
/// # Panics
/// When that does not hold.
pub fn metadata(data: &[u8]) {
    for format in Format::ALL {
        let told = Told::of(format, data);
        for text in [told.creator, told.ai_prompt, told.software, told.digital_source_type].into_iter().flatten() {
            assert!(text.chars().count() <= 1_000 && !text.chars().any(char::is_control), "{text:?}");
        }
    }
}

/// A signed report. Nothing that a stranger can write is by a trusted signer.
///
/// # Panics
/// When it is.
pub fn report(data: &[u8]) {
    let Ok(document) = SignedDocument::parse(data) else { return };
    if let Ok(verified) = document.verify(&Trust::none(), 1_800_000_000) {
        assert_eq!(verified.standing, Standing::Unknown);
    }
}

/// A line of the audit, and a line of a backup: what is read is written again as the same line, and no other line has its hash.
///
/// # Panics
/// When that does not hold.
pub fn audit_entry(data: &[u8]) {
    if let Ok(entry) = Entry::parse(data) {
        assert_eq!(Entry::parse(entry.to_json().as_bytes()), Ok(entry.clone()));
        let mut state = State::empty("fuzz".into());
        let _ = state.admit(entry.change(), entry.why(), (entry.actor(), entry.at_unix_ms()));
        state.apply(&entry);
        let restored = State::restore(state.head(), state.rows());
        assert!(restored.is_ok_and(|restored| restored.rows().count() == state.rows().count()));
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    let _ = BackupLine::parse(text);
    if let Ok(target) = text.parse::<KillTarget>() {
        assert_eq!(target.to_string(), text);
    }
}

/// What edges say to each other about the log: what is taken is what was sent, and entries that do not follow are refused.
///
/// # Panics
/// When it is not.
pub fn state_wire(data: &[u8]) {
    if let Ok(ask) = std::str::from_utf8(data).map_err(|_| "text").and_then(FollowersAsk::parse) {
        assert!(ask.wait_ms <= WAIT_MS_MAX);
    }
    if let Ok(sent) = serde_json::from_slice::<SentProposal>(data) {
        let _ = State::empty("fuzz".into()).admit(&sent.change, &sent.why, (ActorId::EDGE, 0));
    }
    if let Ok(feed) = serde_json::from_slice::<Feed>(data) {
        let mut state = State::empty(feed.log);
        for entry in feed.entries.iter().filter_map(|entry| Entry::parse(entry.to_string().as_bytes()).ok()) {
            let before = state.epoch();
            let is_next = state.follow(&entry).is_ok();
            assert_eq!(state.epoch(), if is_next { before + 1 } else { before });
        }
    }
    if let Ok(SentSnapshot { head, rows }) = serde_json::from_slice(data)
        && let Ok(state) = State::restore(head.clone(), rows)
    {
        assert_eq!(state.head(), head);
        let again = State::restore(state.head(), state.rows());
        assert!(again.is_ok_and(|again| again.rows().count() == state.rows().count()));
    }
}

/// A form with a picture: what is found is a part of the body.
///
/// # Panics
/// When it is not.
pub fn form(data: &[u8]) {
    let body = Bytes::copy_from_slice(data);
    if let Some(picture) = multipart::picture(&body, "boundary") {
        assert!(picture.len() < body.len());
    }
    let _ = multipart::boundary(&String::from_utf8_lossy(data));
}

/// A picture that a person brings: a master within the limits, and what is told of it and reserved for it is told by its head.
///
/// # Panics
/// When it is not.
pub fn original(data: &[u8]) {
    // What the largest files take is bounded elsewhere; here it would only take time.
    let needed = memory_for(data);
    if needed.as_ref().is_ok_and(|bytes| *bytes > FUZZED_BYTES_MAX) {
        return;
    }
    let facts = original_facts(data);
    assert_eq!(facts.is_ok(), needed.is_ok());
    // Frames of AVIF are decoded in another process, whose answer has its own tests.
    if facts.as_ref().is_ok_and(|facts| facts.format == OriginalFormat::Avif) {
        return;
    }
    let Ok(master) = decode_original(data, &DecoderCommand::default()) else { return };
    assert!(facts.is_ok());
    assert_eq!(master.rgb().len(), master.width_px() as usize * master.height_px() as usize * 3);
}

/// A grade: a whole table or an error, and any colour has one.
pub fn cube(data: &[u8]) {
    let Ok(cube) = Cube::read(data) else { return };
    let mut rgb: Vec<u8> = (0..=255).flat_map(|sample: u8| [sample, 255 - sample, sample.wrapping_mul(7)]).collect();
    cube.apply(&mut rgb);
}

/// The table of a batch's order: each row is read or refused, and what was read is written and read again as the same.
pub fn table(data: &[u8]) {
    let Some(rows) = batch::table_of(data) else { return };
    let written = batch::text_of(&rows);
    assert_eq!(batch::table_of(written.as_bytes()), Some(rows), "{written:?}");
}

/// What is set in a font of a layer: Latin, Arabic and Japanese.
const LAYER_TEXTS: [(&str, Direction); 3] =
    [("The mug, that stays", Direction::Ltr), ("كوب يدوم", Direction::Rtl), ("毎日使いたくなる、", Direction::Ltr)];

/// A file of a layer: a font, a picture or a drawing. What can be read is laid on a small picture with its shadow.
pub fn layer(data: &[u8]) {
    let layer = |name: &str, kind| Layer { name: name.into(), kind, blend: Blend::Multiply, opacity: Opacity::OPAQUE };
    if let Ok(font) = FontFace::read(data.to_vec()) {
        for (text, direction) in LAYER_TEXTS {
            let Ok(words) = Words::new(text) else { continue };
            lay(vec![layer("text", LayerKind::Text(Box::new(text_layer(words, font.clone()))))], direction);
        }
    }
    if let Ok(asset) = ImageAsset::read(data.to_vec(), &DecoderCommand::default()) {
        // Its frames are decoded in another process.
        if asset.media_type() == "image/avif" {
            return;
        }
        let image = LayerKind::Image { asset, placing: Placing::at(LayerAnchor::default()) };
        let shadow = LayerKind::Shadow(Shadow { of: 0, ..Shadow::default() });
        lay(vec![layer("image", image), layer("shadow", shadow)], Direction::Ltr);
    }
}

fn text_layer(words: Words, font: FontFace) -> TextLayer {
    TextLayer {
        words,
        short: None,
        style: TextStyle {
            fonts: vec![font],
            weight: 650,
            size_min: Length::Px(6),
            size_max: Length::Px(20),
            lines_max: 3,
            line_height_percent: 120,
            letter_spacing: 20,
            align: crate::render::layers::Along::Centre,
            hyphens: Hyphens::Auto,
        },
        colour: Colour::WHITE,
        placing: Placing::at(LayerAnchor::default()),
        contrast_min: ContrastMin::BySize,
        fallbacks: Vec::new(),
    }
}

fn lay(layers: Vec<Layer>, direction: Direction) {
    if let Ok(set) = LayerSet::new(layers, Insets::default(), direction, "de-DE", 64) {
        let mut raster = Raster { width_px: 64, height_px: 48, rgb: vec![90; 64 * 48 * 3] };
        let _ = compose(&mut raster, &set);
        assert_eq!(raster.rgb.len(), 64 * 48 * 3);
    }
}
