//! What readers get instead of a picture, in which order, and what a picture may cost.

use std::sync::Arc;

use bildkante_edge::config::Config;
use bildkante_edge::render::Load;
use bildkante_gpu_node::testing::FakeControl;
use bildkante_shared::urgency::Urgency;
use bildkante_tests::client::eventually;
use bildkante_tests::rig::{Plan, Rig};
use http::StatusCode;

fn impatient(text: String) -> String {
    text.replace("wait_ms = 20000", "wait_ms = 100").replace("then = \"placeholder\"", "then = \"fallback\"")
}

fn is_stand_in(reply: &bildkante_tests::client::Reply, named: &str) {
    assert_eq!(reply.status, StatusCode::OK);
    assert!(reply.outcome().starts_with(named), "{named}: {:?}", reply.headers);
    assert_eq!(reply.header("cache-control"), "no-cache");
    assert_eq!(reply.header("cdn-cache-control"), "max-age=5, stale-while-revalidate=30");
    assert_eq!(reply.header("x-robots-tag"), "noindex");
}

/// After an edit the previous picture stands in until the new one is there.
#[tokio::test]
async fn an_edited_variant_shows_its_previous_picture_first() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan { manifest: impatient, ..Plan::painted(&control) }).await?;
    let path = "/i/studio/hero?product=vase&fm=webp";
    eventually("the first picture", async || {
        Ok(matches!(rig.http.image(rig.public(), path).await?.outcome(), "generated" | "memory" | "rendered"))
    })
    .await?;
    eventually("its master is on disk", async || Ok(!rig.edge_files("masters")?.is_empty())).await?;
    control.hold();
    let manifest = rig.dir.path().join("campaigns/studio.toml");
    let text = std::fs::read_to_string(&manifest)?;
    let guidance = text.lines().find(|line| line.starts_with("guidance")).unwrap_or_default().to_owned();
    std::fs::write(&manifest, text.replacen(&guidance, "guidance = 3.25", 1))?;
    eventually("the edit is served", async || {
        Ok(rig.http.image(rig.public(), path).await?.outcome().starts_with("previous"))
    })
    .await?;
    let previous = rig.http.image(rig.public(), path).await?;
    is_stand_in(&previous, "previous: wait-over");
    assert!(!previous.header("cache-tag").contains("recipe:"), "{:?}", previous.headers);

    // Another width of it too, cut from its master.
    eventually("the previous picture stands in", async || {
        let path = "/i/studio/hero?product=vase&fm=webp&w=320";
        Ok(rig.http.image(rig.public(), path).await?.outcome().starts_with("previous"))
    })
    .await?;

    control.release();
    eventually("the new picture", async || {
        let reply = rig.http.image(rig.public(), path).await?;
        Ok(matches!(reply.outcome(), "generated" | "memory" | "rendered") && reply.body != previous.body)
    })
    .await?;
    rig.stop().await;
    Ok(())
}

/// Masters are read from disk each time, so that none is left once the files are gone.
pub(crate) fn forgetting(config: &mut Config) {
    config.cache.decoded_bytes_max = 0;
}

/// Without a previous picture the slot's default variant, without that the picture in another width, then a palette.
#[tokio::test]
async fn stand_ins_come_in_order() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let mut rig = Rig::start(Plan { manifest: impatient, edge: forgetting, ..Plan::painted(&control) }).await?;
    let (default, other) = ("/i/studio/hero?w=192&fm=avif", "/i/studio/hero?product=ring&w=192&fm=avif");
    control.hold();
    is_stand_in(&rig.http.image(rig.public(), other).await?, "placeholder: wait-over");
    control.release();
    for path in [default, other] {
        eventually("the pictures are there", async || {
            Ok(matches!(rig.http.image(rig.public(), path).await?.outcome(), "generated" | "memory" | "rendered"))
        })
        .await?;
    }
    // Neither master nor node is left: what is not cut already cannot be cut any more.
    eventually("the masters are on disk", async || Ok(rig.edge_files("masters")?.len() >= 2)).await?;
    rig.stop_node().await;
    for file in rig.edge_files("masters")? {
        std::fs::remove_file(file)?;
    }
    let wider = rig.http.image(rig.public(), "/i/studio/hero?w=640&fm=avif").await?;
    is_stand_in(&wider, "nearest-width");
    let narrow = rig.http.image(rig.public(), default).await?;
    assert_eq!(wider.body, narrow.body, "the default variant in the width there is");
    // A format that this client did not ask for is no stand-in for one that it did.
    let jpeg = rig.http.get(rig.public(), "/i/studio/hero?w=640", &[]).await?;
    is_stand_in(&jpeg, "placeholder");
    rig.stop().await;
    Ok(())
}

/// Past its budget a network gets stand-ins for new pictures, and everything else as before.
#[tokio::test]
async fn a_spent_budget_shows_stand_ins_and_says_so() -> anyhow::Result<()> {
    fn frugal(config: &mut bildkante_edge::config::Config) {
        config.budget.network_burst = 2;
        config.budget.network_per_minute = 1;
    }
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan { edge: frugal, ..Plan::painted(&control) }).await?;
    for path in ["/i/studio/thumb", "/i/studio/thumb?product=ball"] {
        assert_eq!(rig.http.image(rig.public(), path).await?.outcome(), "generated");
    }
    let third = rig.http.image(rig.public(), "/i/studio/thumb?product=ring").await?;
    is_stand_in(&third, "placeholder: over-budget-network");
    let other_cut = rig.http.image(rig.public(), "/i/studio/thumb?product=ball&fm=jpg").await?;
    assert_eq!(other_cut.outcome(), "rendered", "a picture that exists costs nothing");
    assert_eq!(control.calls(), 2);
    rig.http.counts(rig.admin(), "bildkante_edge_budget_spent_total", 2.0).await?;
    rig.stop().await;
    Ok(())
}

/// Jobs that take every thread and every place of an edge's render pool until they are released.
pub(crate) struct FullPool(Vec<tokio::task::JoinHandle<()>>, Vec<std::sync::mpsc::Sender<()>>);

impl FullPool {
    async fn of(edge: &bildkante_edge::app::Edge, threads: usize, places: usize) -> anyhow::Result<Self> {
        Self::of_jobs(edge, Urgency::MOST, threads + places).await
    }

    /// So many jobs of this urgency.
    pub(crate) async fn of_jobs(
        edge: &bildkante_edge::app::Edge,
        urgency: Urgency,
        count: usize,
    ) -> anyhow::Result<Self> {
        let (mut jobs, mut releases) = (Vec::new(), Vec::new());
        for taken in 1..=count {
            let (release, held) = std::sync::mpsc::channel::<()>();
            let pool = Arc::clone(&edge.pool);
            jobs.push(tokio::spawn(async move {
                let _ = pool.run(urgency, move || held.recv()).await;
            }));
            releases.push(release);
            let pool = &edge.pool;
            eventually("a place of the pool is taken", async || Ok(pool.running() + pool.pending() >= taken)).await?;
        }
        Ok(Self(jobs, releases))
    }

    pub(crate) async fn release(self) -> anyhow::Result<()> {
        drop(self.1);
        for job in self.0 {
            job.await?;
        }
        Ok(())
    }
}

/// The last stand-in needs no place in the render pool: while all are taken, every reader still gets an image.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_render_pool_still_shows_placeholders() -> anyhow::Result<()> {
    const CONNECTIONS: usize = 48;
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan { manifest: impatient, ..Plan::painted(&control) }).await?;
    let edge = rig
        .another_edge("full", |config| {
            config.render.threads = 1;
            config.render.pending_jobs_max = 2;
            config.budget.network_per_minute = 0;
        })
        .await?;
    let full = FullPool::of(&edge, 1, 2).await?;
    let mut readers = tokio::task::JoinSet::new();
    for n in 0..CONNECTIONS {
        let (http, public) = (bildkante_tests::client::Http::default(), edge.http);
        readers.spawn(async move {
            for slot in ["hero", "teaser", "thumb"] {
                for product in ["mug", "vase", "ring"] {
                    let format = ["avif", "webp", "jpg", "png"][n % 4];
                    let path = format!("/i/studio/{slot}?product={product}&fm={format}");
                    let reply = http.image(public, &path).await?;
                    anyhow::ensure!(reply.status == StatusCode::OK, "{path}: {} {}", reply.status, reply.text());
                    is_stand_in(&reply, "placeholder");
                }
            }
            anyhow::Ok(())
        });
    }
    while let Some(reader) = readers.join_next().await {
        reader??;
    }
    assert_eq!(edge.pool.pending(), 2, "not one of them waited there");
    full.release().await?;
    edge.shut_down().await;
    rig.stop().await;
    Ok(())
}

/// A pool that is far behind gives readers a file that is sooner made, asks for no final behind it, and makes up for it later.
#[tokio::test(flavor = "multi_thread")]
async fn a_render_pool_that_is_behind_hurries_and_finishes_later() -> anyhow::Result<()> {
    // Above what one quick encode takes on this machine: only the wait below is long.
    const TARGET_MS: u64 = 4_000;
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan::painted(&control)).await?;
    let edge = rig
        .another_edge("behind", |config| {
            config.render.threads = 1;
            config.render.queue_delay_target_ms = TARGET_MS;
        })
        .await?;
    let made = async |rung: &str| {
        let line = format!("bildkante_edge_rendition_bytes_count{{format=\"avif\",rung=\"{rung}\"}}");
        rig.http.metric(edge.admin, &line).await
    };
    let drawn = rig.http.image(edge.http, "/i/studio/hero?product=vase&fm=avif&w=320").await?;
    assert_eq!(drawn.outcome(), "generated");
    let finals = async || Ok(made("final").await? >= 1.0);
    eventually("the first picture is final", finals).await?;
    assert_eq!((made("quick").await?, made("hurried").await.unwrap_or(0.0)), (1.0, 0.0));

    let full = FullPool::of(&edge, 1, 1).await?;
    eventually("what a reader waits for has waited too long", async || Ok(edge.pool.load() == Load::Extreme)).await?;
    let path = "/i/studio/hero?product=vase&fm=avif&w=640";
    let (http, to) = (bildkante_tests::client::Http::default(), edge.http);
    let reader = tokio::spawn(async move { http.image(to, path).await });
    eventually("another one waits", async || Ok(edge.pool.pending() == 2)).await?;
    full.release().await?;
    let hurried = reader.await??;
    assert_eq!((hurried.outcome(), hurried.header("cache-control")), ("rendered", "public, max-age=30"));
    assert_eq!((made("hurried").await?, made("final").await?), (1.0, 1.0));
    assert!(rig.http.metric(edge.admin, "bildkante_edge_finals_put_off_total").await? >= 1.0);

    eventually("readers get the final file once the pool has caught up", async || {
        let reply = rig.http.image(edge.http, path).await?;
        Ok(reply.body != hurried.body && reply.header("cache-control") != "public, max-age=30")
    })
    .await?;
    edge.shut_down().await;
    rig.stop().await;
    Ok(())
}

/// A client that asks for every width, format and quality of a picture spends its budget for rendering. Its next requests get
/// stand-ins, and other networks are served as before.
#[tokio::test(flavor = "multi_thread")]
async fn rendering_is_on_the_account_of_who_causes_it() -> anyhow::Result<()> {
    fn frugal(config: &mut bildkante_edge::config::Config) {
        config.listen.trusted_proxies = vec!["127.0.0.0/8".parse().expect("a prefix")];
        config.budget.network_render_burst_ms = 1;
        config.budget.network_render_ms_per_minute = 1;
    }
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan { manifest: impatient, edge: frugal, ..Plan::painted(&control) }).await?;
    let ask = async |network: &str, path: &str| {
        let headers = [(http::header::ACCEPT, bildkante_tests::client::CHROME), (FORWARDED, network)];
        rig.http.get(rig.public(), path, &headers).await
    };
    let refusals = "bildkante_edge_budget_refusals_total{budget=\"over-render-budget-network\"}";
    let (greedy, other) = ("203.0.113.7", "198.51.100.1");
    let first = "/i/studio/hero?fm=avif&w=640";
    eventually("the picture is drawn and cut once", async || {
        Ok(matches!(ask(greedy, first).await?.outcome(), "generated" | "memory" | "rendered" | "disk"))
    })
    .await?;
    assert_eq!(rig.http.metric(rig.admin(), refusals).await?, 0.0, "one render is within any budget");
    let mut shown = Vec::new();
    for format in ["avif", "webp", "jpg", "png"] {
        for quality in ["low", "medium", "high"] {
            for width in [320, 640] {
                let path = format!("/i/studio/hero?fm={format}&q={quality}&w={width}");
                let reply = ask(greedy, &path).await?;
                assert_eq!(reply.status, StatusCode::OK, "{path}: {}", reply.text());
                shown.push(reply.outcome().to_owned());
            }
        }
    }
    let refused = shown.iter().filter(|outcome| outcome.ends_with(": over-render-budget-network")).count();
    assert_eq!(refused, shown.len(), "all of them after the first render: {shown:?}");
    #[allow(clippy::cast_precision_loss, reason = "a handful")]
    let counted = rig.http.metric(rig.admin(), refusals).await? - refused as f64;
    assert!(counted.abs() < 0.5, "{counted}");
    // An image in a cache costs nothing, and requests of another client are not affected.
    assert!(matches!(ask(greedy, first).await?.outcome(), "memory" | "disk"));
    assert_eq!(ask(other, "/i/studio/hero?fm=webp&q=low&w=640").await?.outcome(), "rendered");
    assert!(rig.http.metric(rig.admin(), "bildkante_edge_budget_render_seconds_total").await? > 0.0);
    rig.stop().await;
    Ok(())
}

const FORWARDED: http::HeaderName = http::HeaderName::from_static("x-forwarded-for");

/// A reader who waits for a fill that another client began is not refused when that client's budget is spent.
#[tokio::test(flavor = "multi_thread")]
async fn a_spent_client_does_not_spend_for_others() -> anyhow::Result<()> {
    fn frugal(config: &mut bildkante_edge::config::Config) {
        config.listen.trusted_proxies = vec!["127.0.0.0/8".parse().expect("a prefix")];
        config.budget.network_render_burst_ms = 1;
        config.budget.network_render_ms_per_minute = 1;
    }
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan { edge: frugal, ..Plan::painted(&control) }).await?;
    let ask = async |network: &str, path: &str| rig.http.get(rig.public(), path, &[(FORWARDED, network)]).await;
    assert_eq!(ask("203.0.113.7", "/i/studio/hero?w=640").await?.outcome(), "generated");
    let cuts = ["avif", "webp", "jpg", "png"].into_iter().flat_map(|format| {
        ["low", "medium", "high"].map(|quality| format!("/i/studio/hero?fm={format}&q={quality}&w=320"))
    });
    for (n, path) in cuts.enumerate() {
        // The first request of another network, at the same moment.
        let other = format!("198.51.{n}.1");
        let (refused, served) = tokio::join!(ask("203.0.113.7", &path), ask(&other, &path));
        let (refused, served) = (refused?, served?);
        assert_eq!((refused.status, served.status), (StatusCode::OK, StatusCode::OK), "{path}");
        assert!(!served.outcome().contains("over-render-budget"), "{path}: {}", served.outcome());
    }
    rig.stop().await;
    Ok(())
}
