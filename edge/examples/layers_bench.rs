//! What layers cost: CPU time of a whole set at every width, from memory and anew.
//!
//! ```text
//! cargo run --release -p bildkante-edge --example layers_bench
//! ```
//!
//! Workload: the layers of the shipped campaign `kiosk` (packshot and logo from SVG, a contact shadow, two texts, their contrast measured),
//! on a painted studio scene, in German and Arabic. CPU time is this thread's own: *first* lays them on for the first time at that size,
//! *again* is the fastest of 20 rounds after that, with the pictures' sizes in memory and everything else done anew. Budget: at most
//! 15 ms at 1280 px.

#[path = "../tests/clock/mod.rs"]
mod clock;
#[path = "../tests/pictures/mod.rs"]
mod pictures;

use std::path::Path;

use anyhow::Context as _;
use bildkante_edge::campaign::{CampaignConfig, Catalog};
use bildkante_edge::render::layers::{LayerSet, compose};
use bildkante_edge::render::{CropBox, Raster, resize};
use clock::thread_cpu_ms;

const WIDTHS_PX: [u32; 4] = [320, 640, 960, 1280];
const ROUNDS: usize = 20;

fn main() -> anyhow::Result<()> {
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config");
    let campaigns = CampaignConfig {
        campaigns_dir: config.join("campaigns"),
        prompts_dir: config.join("prompts"),
        ..CampaignConfig::default()
    };
    let catalog = Catalog::load(&campaigns.sources()?)?;
    let master = pictures::studio(1344, 1344);
    let whole = CropBox { left_px: 0, top_px: 0, width_px: 1344, height_px: 1344 };
    println!("{:<7} {:>10} {:>10} {:>10}", "locale", "size", "first ms", "again ms");
    for locale in ["de-DE", "ar-EG"] {
        let set = set_of(&catalog, locale)?;
        for width_px in WIDTHS_PX {
            let scene = resize(&master, whole, width_px, width_px)?;
            let first = timed(&scene, &set)?;
            let mut again = f64::MAX;
            for _ in 0..ROUNDS {
                again = again.min(timed(&scene, &set)?);
            }
            let size = format!("{width_px}x{width_px}");
            println!("{locale:<7} {size:>10} {first:>10.1} {again:>10.1}");
        }
    }
    Ok(())
}

fn set_of(catalog: &Catalog, locale: &str) -> anyhow::Result<std::sync::Arc<LayerSet>> {
    let campaign = catalog.campaign("kiosk").context("the campaign is shipped")?;
    let axis = campaign.axis_index("locale").context("an axis")?;
    let value = campaign.axes[axis].value_index(locale).context("a locale")?;
    let values = campaign.values_of(campaign.replaced(campaign.default_combination(), axis, value));
    let layers = campaign.layers(0).context("layers")?;
    layers.of(&values, None)?.context("a set")
}

fn timed(scene: &Raster, set: &LayerSet) -> anyhow::Result<f64> {
    let mut raster = scene.clone();
    let before = thread_cpu_ms();
    compose(&mut raster, set)?;
    Ok(thread_cpu_ms() - before)
}
