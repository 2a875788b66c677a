//! Signed URLs as clients and caches see them: what they unlock, what they share, and when they end.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use bildkante_edge::clock::Clock;
use bildkante_edge::config::Config;
use bildkante_edge::request::{IgnoredParameters, ImageRequest};
use bildkante_edge::signing::{SigningKeys, new_key_entry};
use bildkante_gpu_node::testing::FakeControl;
use bildkante_tests::client::{Reply, eventually};
use bildkante_tests::rig::{Plan, Rig};
use http::StatusCode;

/// A key of its own for each edge, in its folder.
fn with_keys(config: &mut Config) {
    let file = config.campaigns.campaigns_dir.with_file_name("keys.toml");
    let entry = new_key_entry("first").expect("random bytes");
    std::fs::write(&file, entry).expect("a writable folder");
    config.signing.keys_file = Some(file);
    config.signing.reload_ms = 20;
}

fn keys_file(rig: &Rig) -> PathBuf {
    rig.dir.path().join("keys.toml")
}

/// `url` signed with the keys that lie in the rig's folder now.
fn signed(rig: &Rig, url: &str, left_s: Option<u64>) -> anyhow::Result<String> {
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

    let (ending, endless) = (signed(&rig, url, Some(20))?, signed(&rig, url, None)?);
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
        assert!(max_age_s(&second, header)? <= 20, "{header}: {}", second.header(header));
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

/// A new key beside the old one, then the old one gone; a broken file between changes nothing.
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
