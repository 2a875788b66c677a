//! Fills an edge's caches with renditions of given sizes, so that a bench can ask for a hundred thousand of them without
//! a GPU and without a day of encoding.
//!
//! ```text
//! seed --config edge.toml --accept image/avif < LIST     # each line: BYTES TAB PATH?QUERY
//! ```
//!
//! Everything but the pixels is what a request would have left behind: each URL is parsed, resolved and negotiated by the
//! edge's own code, its recipe is bound to a master, and a final rung is written through the disk tier. A body is a
//! stream of BLAKE3 output, as incompressible as an encoded image. No edge may run on the folder meanwhile.

use std::io::BufRead;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use bildkante_edge::cache::{Binding, CacheMetrics, Caches, Lineage, Lqips, PutOutcome, Rendition, RenditionKey};
use bildkante_edge::campaign::Catalog;
use bildkante_edge::config::Config;
use bildkante_edge::render::{RenditionSpec, Rung};
use bildkante_edge::request::ImageRequest;
use bildkante_edge::resolve::{Described, resolve};
use bildkante_edge::signing::Grant;
use bildkante_shared::ids::{MasterId, RecipeId};
use bildkante_shared::phash::PerceptualHash;
use clap::Parser;

/// A line that asks for more is a mistake, not a bench.
const BODY_BYTES_MAX: usize = 8 << 20;
const WRITES_AT_ONCE: usize = 8;

#[derive(Debug, Parser)]
struct Args {
    /// The edge's configuration: its campaigns are read, its caches are filled
    #[arg(long)]
    config: PathBuf,
    /// The Accept header the URLs will be asked with
    #[arg(long, default_value = "image/avif,image/webp,*/*;q=0.8")]
    accept: String,
}

/// One line of the list, understood.
struct Seed {
    key: RenditionKey,
    recipe: RecipeId,
    size_px: (u32, u32),
    spec: RenditionSpec,
    body_bytes: usize,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let config = Config::load(&args.config)?;
    // With the finish that an edge serves with: a rendition of another is stale to it.
    let sources = config.finished_sources(&config.provenance.watermark.open()?)?;
    let catalog = Catalog::load(&sources).context("the campaigns cannot be loaded")?;
    let metrics = CacheMetrics::new(&prometheus::Registry::new())?;
    let caches = Arc::new(Caches::open(&config.cache, metrics).context("the caches cannot be opened")?);
    let mut writes = tokio::task::JoinSet::new();
    let (mut renditions, mut bindings) = (0_u64, 0_u64);
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let seed = understand(&catalog, &args.accept, &line).with_context(|| line.clone())?;
        if caches.bindings.get(seed.recipe).is_none() {
            caches.bindings.put(seed.recipe, binding(&seed)).await?;
            bindings += 1;
        }
        if writes.len() == WRITES_AT_ONCE {
            writes.join_next().await.context("a write under way")???;
        }
        let caches = Arc::clone(&caches);
        writes.spawn(async move { write(&caches, &seed).await });
        renditions += 1;
    }
    while let Some(written) = writes.join_next().await {
        written??;
    }
    println!("seeded {renditions} renditions and {bindings} bindings in {}", config.cache.disk_dir.display());
    Ok(())
}

fn understand(catalog: &Catalog, accept: &str, line: &str) -> anyhow::Result<Seed> {
    let (bytes, url) = line.split_once('\t').context("no tab: a line is BYTES TAB PATH?QUERY")?;
    let body_bytes: usize = bytes.parse().context("BYTES")?;
    ensure!((1..=BODY_BYTES_MAX).contains(&body_bytes), "1 to {BODY_BYTES_MAX} bytes are written");
    let anybody = Described { accept: Some(accept), verify: |_: &ImageRequest<'_>| Ok(Grant::Public) };
    let want = resolve(catalog, url, &anybody).outcome?.want;
    let recipe = &want.variant.recipe;
    let key = RenditionKey::new(master_of(recipe.id()), &want.spec, want.finish.digest(), None);
    Ok(Seed { key, recipe: recipe.id(), size_px: want.variant.size_px, spec: want.spec, body_bytes })
}

/// The master that a seeded recipe is bound to. There are no pixels behind it: only hits are asked for.
fn master_of(recipe: RecipeId) -> MasterId {
    MasterId::of_bytes(recipe.as_bytes())
}

fn binding(seed: &Seed) -> Binding {
    let (width_px, height_px) = seed.size_px;
    Binding {
        master: master_of(seed.recipe),
        width_px,
        height_px,
        phash: PerceptualHash::from_bytes([0; 32]),
        duplicate: None,
        drawn_unix_s: None,
        determinism: None,
        device_ms: None,
        node: "seed".to_owned(),
        generation: 0,
        parts: None,
        lqips: Lqips::default(),
        created_unix_ms: 0,
    }
}

async fn write(caches: &Caches, seed: &Seed) -> anyhow::Result<()> {
    let mut body = vec![0; seed.body_bytes];
    blake3::Hasher::new().update(seed.key.as_bytes()).finalize_xof().fill(&mut body);
    let lineage = Lineage::now(seed.key, master_of(seed.recipe), seed.recipe);
    let rendition = Arc::new(Rendition::new(body.into(), seed.spec, Rung::Final, lineage));
    match caches.disk.put(seed.key, rendition).await {
        PutOutcome::Stored | PutOutcome::KeptBetter => Ok(()),
        outcome => bail!("{}: {}", seed.key, outcome.as_str()),
    }
}
