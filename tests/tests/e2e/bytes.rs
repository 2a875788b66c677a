//! Bytes that are promised: files of a limited size, and no AVIF that is larger than the WebP.

use std::sync::Arc;

use bildkante_gpu_node::testing::FakeControl;
use bildkante_tests::client::{CHROME, Reply, eventually};
use bildkante_tests::rig::{Plan, Rig};
use http::header::ACCEPT;
use http::{Method, StatusCode};

use crate::stand_ins::forgetting;

const MARKUP: &str = "/p/studio/thumb?product=vase&fm=html";
const HERO_MAX: usize = 30_000;
const TEASER_MAX: usize = 2_500;

/// The hero's limit lowers its quality, and the teaser's is out of reach of noise.
fn with_limits(text: String) -> String {
    text.replace("[slots.hero]\n", "[slots.hero]\nbytes_max = \"30 kB\"\n")
        .replace("[slots.teaser]\n", "[slots.teaser]\nbytes_max = 2500\n")
}

fn with_tiny_widths(text: String) -> String {
    text.replace("[48, 96, 144, 192]", "[16, 20]").replace("default_width = 96", "default_width = 16")
}

/// So small that an AVIF is larger than the WebP, with the default variant as the stand-in.
fn with_tiny_widths_and_a_fallback(text: String) -> String {
    let (before, thumb) = text.split_once("[slots.thumb]").unwrap_or((&text, ""));
    let thumb = thumb.replacen("then = \"placeholder\"", "then = \"fallback\"", 1);
    with_tiny_widths(format!("{before}[slots.thumb]{thumb}"))
}

fn is_final(reply: &Reply) -> bool {
    !reply.header("cache-control").contains("max-age=30")
}

/// Waits until a final file is there, and gives it; every file until then is judged, too.
async fn settled(rig: &Rig, path: &str, judge: impl Fn(&Reply) -> anyhow::Result<()>) -> anyhow::Result<Reply> {
    let mut last = None;
    eventually("the final file is there", async || {
        let reply = rig.http.image(rig.public(), path).await?;
        anyhow::ensure!(reply.status == StatusCode::OK, "{}", reply.text());
        judge(&reply)?;
        let is_final = is_final(&reply);
        last = Some(reply);
        Ok(is_final)
    })
    .await?;
    last.ok_or_else(|| anyhow::anyhow!("no reply"))
}

#[tokio::test]
async fn files_of_a_limited_size_have_the_best_quality_that_fits_or_say_by_how_much_they_do_not() -> anyhow::Result<()>
{
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan { manifest: with_limits, ..Plan::painted(&control) }).await?;
    let within = |reply: &Reply| {
        let (has, over) = (reply.body.len(), reply.header("bildkante-bytes-over"));
        anyhow::ensure!(has <= HERO_MAX && over.is_empty(), "{has} bytes of {}, over: {over}", reply.content_type());
        Ok(())
    };
    for format in ["avif", "webp", "jpg"] {
        let file = settled(&rig, &format!("/i/studio/hero?w=320&fm={format}"), within).await?;
        assert!(file.body.len() * 10 >= HERO_MAX * 7, "{format}: {} bytes", file.body.len());
        let image = rig.http.image(rig.public(), &format!("/i/studio/hero?w=320&fm={format}")).await?;
        assert_eq!(image.header("etag"), file.header("etag"));
    }
    let over = |reply: &Reply| {
        let over = reply.body.len().checked_sub(TEASER_MAX).filter(|over| *over > 0);
        let told = reply.header("bildkante-bytes-over");
        anyhow::ensure!(over.is_some_and(|over| told == over.to_string()), "{over:?} bytes over, told {told}");
        Ok(())
    };
    settled(&rig, "/i/studio/teaser?w=320&fm=jpg", over).await?;
    for (outcome, least) in [("lowered", 3.0), ("missed", 1.0)] {
        let line = format!("bildkante_edge_bounded_renditions_total{{outcome=\"{outcome}\"}}");
        eventually(&line, async || Ok(rig.http.metric(rig.admin(), &line).await? >= least)).await?;
    }
    let png = rig.http.image(rig.public(), "/i/studio/hero?w=320&fm=png").await?;
    assert_eq!(png.status, StatusCode::BAD_REQUEST, "a lossless file has no bound");
    rig.stop().await;
    Ok(())
}

/// A picture so small that what surrounds an AVIF is more than the picture.
#[tokio::test]
async fn a_negotiated_answer_is_never_a_final_avif_that_is_larger_than_the_webp() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let mut rig = Rig::start(Plan { manifest: with_tiny_widths, ..Plan::painted(&control) }).await?;
    let tiny = "/i/studio/thumb?product=vase&w=16";
    let cold = rig.http.image(rig.public(), tiny).await?;
    assert_eq!((cold.content_type(), cold.header("vary"), cold.outcome()), ("image/webp", "Accept", "generated"));
    assert!(is_final(&cold), "{:?}", cold.headers);
    let (avif, webp) = (format!("{tiny}&fm=avif"), format!("{tiny}&fm=webp"));
    let (avif, webp) = (rig.http.image(rig.public(), &avif).await?, rig.http.image(rig.public(), &webp).await?);
    assert_eq!((avif.content_type(), webp.content_type()), ("image/avif", "image/webp"));
    assert!(avif.body.len() >= webp.body.len(), "{} and {} bytes", avif.body.len(), webp.body.len());
    assert_eq!(cold.body, webp.body);
    // Twice: the second answer is a kept one.
    for _ in 0..2 {
        let hit = rig.http.image(rig.public(), tiny).await?;
        assert_eq!((hit.content_type(), hit.outcome()), ("image/webp", "memory"));
        assert_eq!(hit.header("etag"), webp.header("etag"));
    }
    let head = rig.http.ask(Method::HEAD, rig.public(), tiny, &[(ACCEPT, CHROME)]).await?;
    assert_eq!(head.content_type(), "image/webp");
    let no_webp = rig.http.get(rig.public(), tiny, &[(ACCEPT, "image/avif,*/*;q=0.5")]).await?;
    assert_eq!(no_webp.content_type(), "image/avif", "a client that does not take WebP");
    let markup = async || Ok::<_, anyhow::Error>(rig.http.get(rig.public(), MARKUP, &[]).await?.text());
    assert!(markup().await?.contains("image/avif"), "of the other width nothing is known");
    rig.http.image(rig.public(), "/i/studio/thumb?product=vase&w=20").await?;
    let known = markup().await?;
    assert!(!known.contains("avif") && known.contains("image/webp") && known.contains("fm=jpg"), "{known}");
    let smallest = "bildkante_edge_avif_finals_total{smallest=\"webp\"}";
    rig.http.counts(rig.admin(), smallest, 2.0).await?;
    // What is known is on disk with the file.
    eventually("both files are on disk", async || Ok(rig.edge_files("renditions")?.len() >= 2)).await?;
    rig.stop_edge().await;
    rig.start_edge().await?;
    let kept = rig.http.image(rig.public(), tiny).await?;
    assert_eq!((kept.content_type(), kept.outcome()), ("image/webp", "disk"));
    assert_eq!(rig.http.metric(rig.admin(), smallest).await?, 0.0, "nothing was encoded for it");
    rig.stop().await;
    Ok(())
}

/// What stands in for a picture follows what is known of its files: where the WebP is smaller and at hand, it is the WebP. Where only
/// the larger AVIF of the very picture is, that is shown, and not another picture.
#[tokio::test]
async fn a_stand_in_is_no_avif_that_is_known_to_be_larger_than_the_webp() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let mut rig =
        Rig::start(Plan { manifest: with_tiny_widths_and_a_fallback, edge: forgetting, ..Plan::painted(&control) })
            .await?;
    let default = rig.http.image(rig.public(), "/i/studio/thumb?w=16").await?;
    let vase = rig.http.image(rig.public(), "/i/studio/thumb?product=vase&w=16").await?;
    for reply in [&default, &vase] {
        assert_eq!((reply.content_type(), is_final(reply)), ("image/webp", true), "{:?}", reply.headers);
    }
    let only_avif = "/i/studio/thumb?product=vase&w=20";
    let avif = rig.http.image(rig.public(), &format!("{only_avif}&fm=avif")).await?;
    assert_eq!((avif.content_type(), is_final(&avif)), ("image/avif", true));
    // Nothing can be cut or drawn any more.
    eventually("the masters are on disk", async || Ok(rig.edge_files("masters")?.len() >= 2)).await?;
    rig.stop_node().await;
    for file in rig.edge_files("masters")? {
        std::fs::remove_file(file)?;
    }

    let nearest = rig.http.image(rig.public(), "/i/studio/thumb?w=20").await?;
    assert!(nearest.outcome().starts_with("nearest-width"), "{:?}", nearest.headers);
    assert_eq!((nearest.content_type(), &nearest.body), ("image/webp", &default.body));
    let fallback = rig.http.image(rig.public(), "/i/studio/thumb?product=ring&w=16").await?;
    assert!(fallback.outcome().starts_with("fallback"), "{:?}", fallback.headers);
    assert_eq!((fallback.content_type(), &fallback.body), ("image/webp", &default.body));
    let no_webp = [(ACCEPT, "image/avif,*/*;q=0.5")];
    let fallback = rig.http.get(rig.public(), "/i/studio/thumb?product=ring&w=16", &no_webp).await?;
    assert_eq!(fallback.content_type(), "image/avif", "a client that does not take WebP");

    let larger = rig.http.image(rig.public(), only_avif).await?;
    assert_eq!((larger.outcome(), larger.content_type(), &larger.body), ("memory", "image/avif", &avif.body));
    assert_eq!(larger.header("cache-control"), "public, max-age=30", "for a moment");

    let manifest = rig.dir.path().join("campaigns/studio.toml");
    let text = std::fs::read_to_string(&manifest)?;
    let guidance = text.lines().find(|line| line.starts_with("guidance")).unwrap_or_default().to_owned();
    std::fs::write(&manifest, text.replacen(&guidance, "guidance = 3.25", 1))?;
    let edited = "/i/studio/thumb?product=vase&w=16";
    eventually("the edited picture has its previous one as a stand-in", async || {
        Ok(rig.http.image(rig.public(), edited).await?.outcome().starts_with("previous"))
    })
    .await?;
    let previous = rig.http.image(rig.public(), edited).await?;
    assert_eq!((previous.content_type(), &previous.body), ("image/webp", &vase.body));
    rig.stop().await;
    Ok(())
}
