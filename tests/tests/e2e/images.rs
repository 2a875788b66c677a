//! A generated picture on its way: cold miss, hit, formats, duplicates of effort.

use std::sync::Arc;

use anyhow::Context;
use bildkante_gpu_node::testing::FakeControl;
use bildkante_tests::client::{CHROME, WEBP_ONLY, eventually};
use bildkante_tests::judge;
use bildkante_tests::rig::{Plan, Rig};
use futures_util::future::join_all;
use http::header::{ACCEPT, IF_NONE_MATCH};
use http::{Method, StatusCode};

const TEAL_MUG: &str = "/i/studio/hero/teal-mug?product=mug&colour=teal&w=640";

/// A page asks for several widths of one picture: its master is decoded once.
#[tokio::test]
async fn other_widths_of_a_picture_are_cut_from_pixels_that_are_in_memory() -> anyhow::Result<()> {
    let rig = Rig::start(Plan::painted(&Arc::new(FakeControl::default()))).await?;
    let decoded = async |outcome: &str| {
        let line = format!("bildkante_edge_cache_lookups_total{{outcome=\"{outcome}\",tier=\"decoded\"}}");
        Ok::<_, anyhow::Error>(rig.http.metric(rig.admin(), &line).await.unwrap_or(0.0))
    };
    let path = |width_px: u32| format!("/i/studio/hero?product=mug&fm=webp&w={width_px}");
    assert_eq!(rig.http.image(rig.public(), &path(320)).await?.outcome(), "generated");
    let misses = decoded("absent").await?;
    for width_px in [192, 640] {
        assert_eq!(rig.http.image(rig.public(), &path(width_px)).await?.outcome(), "rendered");
    }
    assert_eq!(decoded("absent").await?, misses, "no master was read again");
    assert!(decoded("hit").await? >= 2.0);
    rig.stop().await;
    Ok(())
}

/// The whole path once, with the real model: a cold miss draws a teal mug, the second request is a hit with the same
/// validator, and the validator is honoured.
#[tokio::test]
async fn a_cold_miss_becomes_a_hit_and_then_a_304() -> anyhow::Result<()> {
    let rig = Rig::start(Plan::shipped()).await?;
    let cold = rig.http.image(rig.public(), TEAL_MUG).await?;
    assert_eq!(cold.status, StatusCode::OK, "{}", cold.text());
    assert_eq!(cold.content_type(), "image/avif");
    assert_eq!(cold.outcome(), "generated", "{:?}", cold.headers);
    assert_eq!(cold.header("vary"), "Accept");

    // The final rung replaces the quick one; from then on the bytes stay.
    let settled = settled(&rig, TEAL_MUG).await?;
    let hit = rig.http.image(rig.public(), TEAL_MUG).await?;
    assert_eq!(hit.outcome(), "memory");
    assert_eq!(hit.header("etag"), settled.header("etag"));
    assert_eq!(hit.body, settled.body);
    assert!(hit.header("cache-status").starts_with("bildkante; hit"));

    let validators = [(ACCEPT, CHROME), (IF_NONE_MATCH, hit.header("etag"))];
    let unchanged = rig.http.get(rig.public(), TEAL_MUG, &validators).await?;
    assert_eq!(unchanged.status, StatusCode::NOT_MODIFIED);
    assert!(unchanged.body.is_empty());
    assert_eq!(unchanged.header("etag"), hit.header("etag"));

    if let Some(avifdec) = judge::find("avifdec", "a_cold_miss_becomes_a_hit_and_then_a_304")? {
        let file = rig.dir.path().join("mug.avif");
        std::fs::write(&file, &hit.body)?;
        let info = judge::run(&avifdec, &["--info"], &file)?;
        assert!(info.contains("640x640"), "{info}");
    }
    rig.http.counts(rig.node(), "bildkante_node_generation_seconds_count{outcome=\"generated\"}", 1.0).await?;
    rig.stop().await;
    Ok(())
}

/// Waits for the final rung of an image.
async fn settled(rig: &Rig, path: &str) -> anyhow::Result<bildkante_tests::client::Reply> {
    let mut last = None;
    eventually("the final rung is there", async || {
        let reply = rig.http.image(rig.public(), path).await?;
        let is_final = !reply.header("cache-control").contains("max-age=30");
        last = Some(reply);
        Ok(is_final)
    })
    .await?;
    last.context("a reply")
}

#[tokio::test]
async fn formats_follow_accept_and_the_url_wins() -> anyhow::Result<()> {
    let rig = Rig::start(Plan::shipped()).await?;
    let path = "/i/studio/thumb?product=ball&colour=red";
    let size = |body: &[u8]| -> anyhow::Result<(u32, u32)> {
        let image = image::load_from_memory(body)?;
        Ok((image.width(), image.height()))
    };
    let webp = rig.http.get(rig.public(), path, &[(ACCEPT, WEBP_ONLY)]).await?;
    assert_eq!(webp.content_type(), "image/webp");
    let jpeg = rig.http.get(rig.public(), path, &[(ACCEPT, "*/*")]).await?;
    assert_eq!(jpeg.content_type(), "image/jpeg");
    let none = rig.http.get(rig.public(), path, &[]).await?;
    assert_eq!(none.header("etag"), jpeg.header("etag"));
    assert_eq!(size(&webp.body)?, size(&jpeg.body)?);
    let explicit = rig.http.image(rig.public(), &format!("{path}&fm=png")).await?;
    assert_eq!(explicit.content_type(), "image/png");
    assert_eq!(explicit.header("vary"), "", "nothing is negotiated");
    assert_eq!(size(&explicit.body)?, size(&jpeg.body)?);
    // Four formats of one picture: one generation.
    rig.http.counts(rig.node(), "bildkante_node_generation_seconds_count{outcome=\"generated\"}", 1.0).await?;
    rig.stop().await;
    Ok(())
}

/// The model draws the colour that was asked for, and the edge serves it.
#[tokio::test]
async fn colours_are_drawn_as_asked() -> anyhow::Result<()> {
    let rig = Rig::start(Plan::shipped()).await?;
    for (colour, is_right) in [
        ("red", (|r, g, b| r > g + 60.0 && r > b + 60.0) as fn(f64, f64, f64) -> bool),
        ("green", |r, g, b| g > r + 30.0 && g > b + 30.0),
        ("blue", |r, g, b| b > r + 40.0 && b > g + 30.0),
    ] {
        let path = format!("/i/studio/thumb?product=ball&colour={colour}&fm=png");
        let reply = rig.http.image(rig.public(), &path).await?;
        let [r, g, b] = middle_colour(&reply.body)?;
        assert!(is_right(r, g, b), "a {colour} ball is ({r:.0}, {g:.0}, {b:.0}) in the middle");
    }
    rig.stop().await;
    Ok(())
}

/// Mean colour of the middle fifth, where the product is.
fn middle_colour(file: &[u8]) -> anyhow::Result<[f64; 3]> {
    let image = image::load_from_memory(file)?.to_rgb8();
    let (width, height) = image.dimensions();
    let middle = |side: u32| side * 2 / 5..side * 3 / 5;
    let mut sum = [0.0; 3];
    let mut count = 0.0;
    for y in middle(height) {
        for x in middle(width) {
            let pixel = image.get_pixel(x, y).0;
            sum.iter_mut().zip(pixel).for_each(|(sum, value)| *sum += f64::from(value));
            count += 1.0;
        }
    }
    Ok(sum.map(|sum| sum / count))
}

/// A hundred clients, ten widths and formats, one generation.
#[tokio::test]
async fn a_stampede_costs_one_generation() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    control.hold();
    let rig = Rig::start(Plan::painted(&control)).await?;
    let path = |client: usize| format!("/i/studio/hero?product=vase&w={}", [320, 640][client % 2]);
    let accept = |client: usize| [CHROME, WEBP_ONLY, "*/*"][client % 3];
    let asked: Vec<_> = (0..100)
        .map(|client| {
            let (http, to) = (rig.http.clone(), rig.public());
            tokio::spawn(async move { http.get(to, &path(client), &[(ACCEPT, accept(client))]).await })
        })
        .collect();
    control.started(1).await;
    rig.http.counts(rig.admin(), "bildkante_edge_requests_in_flight", 100.0).await?;
    control.release();
    let replies: Vec<_> = join_all(asked).await.into_iter().collect::<Result<Result<Vec<_>, _>, _>>()??;
    let mut collapsed = 0;
    for reply in &replies {
        assert_eq!(reply.status, StatusCode::OK);
        assert!(matches!(reply.outcome(), "generated" | "rendered" | "memory" | "disk"), "{:?}", reply.headers);
        collapsed += usize::from(reply.header("cache-status").contains("collapsed"));
    }
    assert_eq!(control.calls(), 1);
    assert!(collapsed > 0, "followers say that they followed");
    rig.stop().await;
    Ok(())
}

/// A client that hangs up cancels no generation.
#[tokio::test]
async fn the_picture_is_drawn_although_the_client_left() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    control.hold();
    let rig = Rig::start(Plan::painted(&control)).await?;
    let path = "/i/studio/hero?product=lamp";
    let (http, to) = (rig.http.clone(), rig.public());
    let client = tokio::spawn(async move { http.image(to, path).await });
    control.started(1).await;
    client.abort();
    let _ = client.await;
    control.release();
    let reply = rig.http.image(rig.public(), path).await?;
    assert_eq!(reply.status, StatusCode::OK);
    assert_eq!(control.calls(), 1);
    rig.stop().await;
    Ok(())
}

/// Other programs read that the picture was generated.
#[tokio::test]
async fn exiftool_reads_the_marking_in_every_format() -> anyhow::Result<()> {
    let Some(exiftool) = judge::find("exiftool", "exiftool_reads_the_marking_in_every_format")? else { return Ok(()) };
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan::painted(&control)).await?;
    for extension in ["avif", "webp", "jpg", "png"] {
        let path = format!("/i/studio/thumb/marked.{extension}");
        let reply = rig.http.image(rig.public(), &path).await?;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
        let file = rig.dir.path().join(format!("marked.{extension}"));
        std::fs::write(&file, &reply.body)?;
        let said = judge::run(&exiftool, &["-s", "-DigitalSourceType", "-Creator", "-Rights"], &file)?;
        assert!(said.contains("trainedAlgorithmicMedia"), "{extension}: {said}");
    }
    rig.stop().await;
    Ok(())
}

#[tokio::test]
async fn head_says_what_get_says() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan::painted(&control)).await?;
    let path = "/i/studio/teaser?fm=webp";
    settled(&rig, path).await?;
    let get = rig.http.image(rig.public(), path).await?;
    let head = rig.http.ask(Method::HEAD, rig.public(), path, &[(ACCEPT, CHROME)]).await?;
    assert!(head.body.is_empty());
    for name in get.headers.keys().filter(|name| !matches!(name.as_str(), "date" | "server-timing")) {
        assert_eq!(get.headers.get(name), head.headers.get(name), "{name}");
    }
    rig.stop().await;
    Ok(())
}
