//! Signed URLs as clients and caches see them: what they unlock, what they share, and when they end.

use std::collections::BTreeSet;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use bildkante_edge::config::Config;
use bildkante_edge::request::{IgnoredParameters, ImageRequest};
use bildkante_edge::signing::{SigningKeys, new_key_entry};
use bildkante_edge::words::clock::Clock;
use bildkante_gpu_node::testing::FakeControl;
use bildkante_tests::client::{Reply, eventually};
use bildkante_tests::rig::{Plan, Rig};
use http::StatusCode;

/// A key of its own for each edge, in its folder.
pub(crate) fn with_keys(config: &mut Config) {
    let file = config.campaigns.campaigns_dir.with_file_name("keys.toml");
    let entry = new_key_entry("first").expect("random bytes");
    std::fs::write(&file, entry).expect("a writable folder");
    std::fs::set_permissions(&file, Permissions::from_mode(0o600)).expect("our own file");
    config.signing.keys_file = Some(file);
    config.signing.reload_ms = 20;
}

pub(crate) fn keys_file(rig: &Rig) -> PathBuf {
    rig.dir.path().join("keys.toml")
}

/// `url` signed with the keys that lie in the rig's folder now.
pub(crate) fn signed(rig: &Rig, url: &str, left_s: Option<u64>) -> anyhow::Result<String> {
    let keys = SigningKeys::parse(&std::fs::read_to_string(keys_file(rig))?)?;
    let (path, query) = url.split_once('?').context("a query")?;
    let request = ImageRequest::parse(path, Some(query), &IgnoredParameters::default())?;
    let now_s = Clock::System.unix_s();
    Ok(keys.sign(&request, None, left_s.map(|left_s| now_s + left_s), now_s)?.canonical_with_slug())
}

fn max_age_s(reply: &Reply, header: &str) -> anyhow::Result<u64> {
    let text = reply.header(header);
    let seconds = text.split(", ").find_map(|directive| directive.strip_prefix("max-age="));
    seconds.and_then(|seconds| seconds.parse().ok()).with_context(|| format!("{header}: {text}"))
}

#[tokio::test]
async fn a_signature_unlocks_caps_lifetimes_and_is_no_part_of_the_key() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan { edge: with_keys, ..Plan::painted(&control) }).await?;
    let url = "/i/studio/thumb?w=96&fm=webp&q=37";
    assert_eq!(rig.http.image(rig.public(), url).await?.status, StatusCode::BAD_REQUEST);

    let (ending, endless) = (signed(&rig, url, Some(50))?, signed(&rig, url, None)?);
    let first = rig.http.image(rig.public(), &endless).await?;
    assert_eq!(first.status, StatusCode::OK, "{}", first.text());
    let second = rig.http.image(rig.public(), &ending).await?;
    assert_eq!((second.status, second.outcome()), (StatusCode::OK, "memory"), "{:?}", second.headers);
    assert_eq!((&first.body, first.headers.get("etag")), (&second.body, second.headers.get("etag")));
    for header in ["link", "cache-tag", "surrogate-key", "content-disposition"] {
        assert_eq!(first.headers.get(header), second.headers.get(header), "{header}");
        assert!(!second.header(header).contains("kid="), "{header}");
    }
    for header in ["cache-control", "cdn-cache-control"] {
        assert!(max_age_s(&second, header)? <= 50, "{header}: {}", second.header(header));
        assert!(!second.header(header).contains("stale-"), "{header}: {}", second.header(header));
    }
    let ttl_s = format!("; ttl={}", max_age_s(&second, "cdn-cache-control")?);
    assert!(second.header("cache-status").contains(&ttl_s), "{}", second.header("cache-status"));
    assert_eq!(control.calls(), 1);
    rig.stop().await;
    Ok(())
}

#[tokio::test]
async fn what_is_forged_expired_or_of_another_key_is_forbidden_and_never_stored() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan { edge: with_keys, ..Plan::painted(&control) }).await?;
    let good = signed(&rig, "/i/studio/thumb?w=96&q=37", None)?;
    let (start, tag) = good.rsplit_once("&s=").context("a signature")?;
    for (url, kind) in [
        (good.replace("q=37", "q=38"), "wrong-signature"),
        (good.replace("kid=first", "kid=other"), "unknown-signing-key"),
        (format!("{start}&expires=1&s={tag}"), "wrong-signature"),
        (format!("{start}&s={}", &tag[1..]), "wrong-signature"),
    ] {
        let reply = rig.http.image(rig.public(), &url).await?;
        assert_eq!(reply.status, StatusCode::FORBIDDEN, "{url}");
        assert_eq!(reply.json()?["type"], format!("/problems/{kind}"), "{url}");
        assert_eq!((reply.header("cache-control"), reply.header("cdn-cache-control")), ("no-store", "no-store"));
        assert_eq!(reply.header("vary"), "Accept");
    }
    assert_eq!(control.calls(), 0, "a forged URL reached the node");

    // It ends while it is being used.
    let ending = signed(&rig, "/i/studio/thumb?w=96&q=37", Some(2))?;
    eventually("the URL expires", async || {
        let reply = rig.http.image(rig.public(), &ending).await?;
        Ok(reply.status == StatusCode::FORBIDDEN && reply.json()?["type"] == "/problems/signature-expired")
    })
    .await?;
    rig.stop().await;
    Ok(())
}

/// A new key beside the old one, then without the old one; a broken file in between changes nothing.
#[tokio::test]
async fn keys_rotate_while_the_edge_serves() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let manifest = |text: String| text.replace("signing = \"optional\"", "signing = \"required\"");
    let rig = Rig::start(Plan { edge: with_keys, manifest, ..Plan::painted(&control) }).await?;
    let plain = "/i/studio/thumb?w=96&fm=jpg";
    let refused = rig.http.image(rig.public(), plain).await?;
    assert_eq!((refused.status, refused.header("cache-control")), (StatusCode::FORBIDDEN, "no-store"));
    let old = signed(&rig, plain, None)?;
    let status = async |url: &str| anyhow::Ok(rig.http.image(rig.public(), url).await?.status);
    assert_eq!(status(&old).await?, StatusCode::OK);

    let first = std::fs::read_to_string(keys_file(&rig))?;
    std::fs::write(keys_file(&rig), format!("{}{first}retired = true\n", new_key_entry("second")?))?;
    let new = signed(&rig, plain, None)?;
    assert!(new.contains("kid=second"), "{new}");
    eventually("the new key is known", async || Ok(status(&new).await? == StatusCode::OK)).await?;
    assert_eq!(status(&old).await?, StatusCode::OK, "the retired key verifies what it signed");

    let valid = std::fs::read_to_string(keys_file(&rig))?;
    std::fs::write(keys_file(&rig), "[[keys]]\nkid = \"second\"\n")?;
    eventually("the broken file is noticed", async || {
        Ok(rig.http.metric(rig.admin(), "bildkante_edge_signing_keys_valid").await? == 0.0)
    })
    .await?;
    assert_eq!((status(&old).await?, status(&new).await?), (StatusCode::OK, StatusCode::OK));

    let second = valid.split_inclusive("[[keys]]").nth(1).context("the new key")?.trim_end_matches("[[keys]]");
    std::fs::write(keys_file(&rig), format!("[[keys]]{second}"))?;
    eventually("the old key is gone", async || Ok(status(&old).await? == StatusCode::FORBIDDEN)).await?;
    assert_eq!(status(&new).await?, StatusCode::OK);
    rig.stop().await;
    Ok(())
}

/// Shapes are cut from the existing master: another width or ratio draws nothing.
#[tokio::test]
async fn signed_shapes_are_cut_from_one_master() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan { edge: with_keys, ..Plan::painted(&control) }).await?;
    let mut etags = std::collections::HashSet::new();
    for (query, size) in [
        ("w=100&fm=png", (100, 100)),
        ("w=100&h=60&fm=png", (100, 60)),
        ("w=100&h=60&crop=top&fm=png", (100, 60)),
        ("w=100&h=60&crop=entropy&fm=png", (100, 60)),
        ("w=100&h=60&fit=contain&fm=png", (60, 60)),
        ("w=100&h=60&fit=pad&bg=ff0000&fm=png", (100, 60)),
        ("h=50&ar=2:1&fm=png", (100, 50)),
        ("w=5000&fm=png", (192, 192)),
    ] {
        let url = signed(&rig, &format!("/i/studio/thumb?{query}"), None)?;
        let reply = rig.http.image(rig.public(), &url).await?;
        assert_eq!(reply.status, StatusCode::OK, "{query}: {}", reply.text());
        let image = image::load_from_memory_with_format(&reply.body, image::ImageFormat::Png)?.into_rgb8();
        assert_eq!(image.dimensions(), size, "{query}");
        let corner = image.get_pixel(0, 0).0;
        assert_eq!(corner == [255, 0, 0], query.contains("fit=pad"), "{query}: {corner:?}");
        etags.insert(reply.header("etag").to_owned());
    }
    assert_eq!((etags.len(), control.calls()), (8, 1));
    rig.stop().await;
    Ok(())
}

/// Hints choose a rung where the URL opts in; `Vary` and `Accept-CH` follow from the URL alone.
#[tokio::test]
async fn hints_count_where_the_url_opts_in_and_nowhere_else() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan::painted(&control)).await?;
    let hints = |px: &'static str| {
        [("sec-ch-width", px), ("sec-ch-dpr", "2"), ("sec-ch-viewport-width", "90"), ("width", px), ("dpr", "2")]
            .map(|(name, value)| (http::HeaderName::from_static(name), value))
    };
    let vary = "Sec-CH-Width, Width, Sec-CH-DPR, DPR, Sec-CH-Viewport-Width";
    let ask = async |url: &str, headers: &[(http::HeaderName, &str)]| {
        let reply = rig.http.get(rig.public(), url, headers).await?;
        let side = image::load_from_memory(&reply.body).map_or(0, |image| image.width());
        anyhow::Ok((reply.header("vary").to_owned(), !reply.header("accept-ch").is_empty(), side))
    };
    let auto = "/i/studio/thumb?w=auto&fm=png";
    assert_eq!(ask(auto, &[]).await?, (vary.to_owned(), true, 96));
    assert_eq!(ask(auto, &hints("100")).await?, (vary.to_owned(), true, 144));
    assert_eq!(ask(auto, &hints("101")).await?, (vary.to_owned(), true, 144), "bucketed");
    assert_eq!(ask(auto, &hints("9999")).await?, (vary.to_owned(), true, 192));
    assert_eq!(ask(auto, &hints("nonsense")).await?, (vary.to_owned(), true, 192), "the viewport times the ratio");
    assert_eq!(ask("/i/studio/thumb?w=48&fm=png", &hints("192")).await?, (String::new(), false, 48));
    assert_eq!(ask("/i/studio/thumb?w=auto", &hints("48")).await?, (format!("Accept, {vary}"), true, 48));
    let refused = rig.http.get(rig.public(), "/i/studio/thumb?w=auto&fm=png&colour=none", &[]).await?;
    assert_eq!((refused.status, refused.header("vary")), (StatusCode::BAD_REQUEST, vary));
    assert_eq!(control.calls(), 1);
    rig.stop().await;
    Ok(())
}

/// Every URL of an image on a page, those in attributes, in markup to copy and in markup within attributes.
fn image_urls(html: &str, origin: &str) -> BTreeSet<String> {
    let mut text = html.to_owned();
    for _ in 0..3 {
        text = text.replace("&amp;", "&").replace("&quot;", "\"").replace("&lt;", "<").replace("&gt;", ">");
    }
    let start = format!("{origin}/i/");
    let ends = |c: char| c.is_whitespace() || matches!(c, '"' | '<' | '>' | ',');
    text.match_indices(&start).map(|(at, _)| text[at..].split(ends).next().unwrap_or("").to_owned()).collect()
}

/// A page up to what it hands over as programs, which put URLs together.
fn before_programs(html: &str) -> &str {
    html.split("data-piece=\"early-hints\"").next().unwrap_or_default()
}

/// Of a campaign that answers signed URLs only, the preview shows and copies URLs that are answered.
#[tokio::test]
async fn the_preview_signs_where_a_campaign_asks_for_it() -> anyhow::Result<()> {
    fn required(text: String) -> String {
        text.replace("signing = \"optional\"", "signing = \"required\"")
    }
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan { edge: with_keys, manifest: required, ..Plan::painted(&control) }).await?;
    let origin = format!("http://{}", rig.public());
    let one = "product=mug&colour=teal&material=glossy&backdrop=cream&setting=studio";
    for page in
        [format!("/preview/studio/hero/variant?{one}"), format!("/preview/studio/hero?{one}"), "/preview/".to_owned()]
    {
        let html = rig.http.get(rig.admin(), &page, &[]).await?.text();
        let urls = image_urls(before_programs(&html), &origin);
        assert!(urls.len() >= 4, "{page}: {urls:?}");
        for url in &urls {
            let path = url.strip_prefix(&origin).context("a URL of this edge")?;
            let reply = rig.http.image(rig.public(), path).await?;
            assert_eq!(reply.status, StatusCode::OK, "{page}: {url}: {}", reply.text());
        }
    }
    let html = rig.http.get(rig.admin(), &format!("/preview/studio/hero/variant?{one}"), &[]).await?.text();
    // The page's own URLs end soon, those that are copied in a month: both, and no others.
    let end = |url: String| -> Option<u64> { url.split_once("&expires=")?.1.split('&').next()?.parse().ok() };
    let ends = image_urls(before_programs(&html), &origin)
        .into_iter()
        .map(end)
        .collect::<Option<BTreeSet<_>>>()
        .context("no end")?;
    let [own, copied] = ends.into_iter().collect::<Vec<_>>()[..] else { anyhow::bail!("two ends: {html}") };
    assert!((29 * 24..=31 * 24).contains(&((copied - own) / 3600)), "{own} {copied}");
    let shown = html.find("<img").context("an image")?;
    assert!(html[shown..shown + 300].contains("expires="), "{}", &html[shown..shown + 300]);
    let said = "signed by the key <code>first</code> and is answered until ";
    assert!(html.contains(said), "the page says by which key and how long");
    // `preview_days = 0` signs without an end.
    let endless = rig.another_edge("endless", |config| config.signing.preview_days = 0).await?;
    let html = rig.http.get(endless.admin, &format!("/preview/studio/hero/variant?{one}"), &[]).await?.text();
    assert!(html.contains("signed by the key <code>first</code> and does not expire"), "{html}");
    endless.shut_down().await;

    // Without a key that signs, the page says so and shows no pictures: their URLs would be refused.
    let keyless = rig.another_edge("keyless", |config| config.signing.keys_file = None).await?;
    let html = rig.http.get(keyless.admin, &format!("/preview/studio/hero/variant?{one}"), &[]).await?.text();
    assert!(html.contains("no key of this edge signs"), "{html}");
    assert_eq!(image_urls(&html, &format!("http://{}", keyless.http)).len(), 0);
    let html = rig.http.get(keyless.admin, "/preview/", &[]).await?.text();
    let shown = image_urls(&html, &format!("http://{}", keyless.http));
    assert!(shown.iter().all(|url| !url.contains("/i/studio/")), "{shown:?}");
    keyless.shut_down().await;
    rig.stop().await;
    Ok(())
}

/// Where signatures are optional the preview has none, keys or not.
#[tokio::test]
async fn the_preview_of_an_open_campaign_signs_nothing() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan { edge: with_keys, ..Plan::painted(&control) }).await?;
    let html = rig.http.get(rig.admin(), "/preview/studio/hero", &[]).await?.text();
    let urls = image_urls(&html, &format!("http://{}", rig.public()));
    assert!(!urls.is_empty() && urls.iter().all(|url| !url.contains("&s=")), "{urls:?}");
    rig.stop().await;
    Ok(())
}
