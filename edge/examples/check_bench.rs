//! What `check` takes for many variants with layers in fourteen locales, with the fonts of the shipped campaigns.
//!
//! ```text
//! cargo run --release -p bildkante-edge --example check_bench
//! ```
//!
//! Workload: one slot with a headline, a price, a claim, a packshot and a logo, in two cuts at two widths each, and 5,000
//! variants in 14 locales. *shared* draws ten scenes that no layer shows (25 products × 20 colours × 10 scenes); *each* has
//! another headline for every variant (250 products × 20 colours), which is the most that there is to try. Reading and linking
//! the catalogue is told apart. Budget: under 10 s.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Instant;

use bildkante_edge::campaign::{CampaignConfig, Catalog, check_telling, write_locks};

const LOCALES: [&str; 14] = [
    "de-DE", "de-AT", "de-CH", "en-GB", "en-US", "fr-FR", "fr-BE", "es-ES", "it-IT", "nl-NL", "sv-SE", "da-DK",
    "ar-EG", "ar-AE",
];
const LANGUAGES: [&str; 9] = ["de", "en", "fr", "es", "it", "nl", "sv", "da", "ar"];

/// How the variants come about.
struct Workload {
    name: &'static str,
    products: usize,
    colours: usize,
    scenes: usize,
}

const WORKLOADS: [Workload; 2] = [
    Workload { name: "shared", products: 25, colours: 20, scenes: 10 },
    Workload { name: "each", products: 250, colours: 20, scenes: 1 },
];

fn main() -> anyhow::Result<()> {
    println!("{:<8} {:>9} {:>9} {:>9} {:>9}", "texts", "variants", "sets", "load s", "check s");
    for workload in &WORKLOADS {
        let dir = tempfile::tempdir()?;
        let campaigns = site(dir.path(), workload)?;
        let sources = campaigns.sources()?;
        write_locks(&sources, &dir.path().join("models"))?;
        let began = Instant::now();
        Catalog::load(&sources)?;
        let load_s = began.elapsed().as_secs_f64();
        let (began, mut sets) = (Instant::now(), 0);
        let catalog = check_telling(&sources, None, |fitting| sets = fitting.of)?;
        let check_s = began.elapsed().as_secs_f64();
        let variants: u64 = catalog.campaigns().map(|campaign| campaign.combination_count()).sum();
        println!("{:<8} {variants:>9} {sets:>9} {load_s:>9.2} {check_s:>9.2}", workload.name);
    }
    Ok(())
}

fn site(dir: &Path, workload: &Workload) -> anyhow::Result<CampaignConfig> {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/campaigns/layers");
    for folder in ["campaigns/layers/fonts", "campaigns/layers/packshots", "prompts", "models/base"] {
        std::fs::create_dir_all(dir.join(folder))?;
    }
    let layers = dir.join("campaigns/layers");
    for font in ["fonts/NotoSans-Bold-Latin.ttf", "fonts/NotoNaskhArabic-Bold.ttf", "logo.svg"] {
        std::fs::copy(shipped.join(font), layers.join(font))?;
    }
    for product in 0..workload.products {
        std::fs::copy(shipped.join("packshots/mug-teal.svg"), layers.join(format!("packshots/p{product}.svg")))?;
    }
    std::fs::write(dir.join("models/base/model_index.json"), "{}")?;
    std::fs::write(dir.join("campaigns/many.toml"), manifest(workload)?)?;
    Ok(CampaignConfig {
        campaigns_dir: dir.join("campaigns"),
        prompts_dir: dir.join("prompts"),
        ..CampaignConfig::default()
    })
}

fn manifest(workload: &Workload) -> anyhow::Result<String> {
    let mut text = format!(
        "schema = 1\ncampaign = \"many\"\ntitle = \"Many\"\nprompts = []\n\
         rights = {{ creator = \"S\", credit = \"S\", copyright = \"S\", license = \"https://example.org/l\" }}\n\
         policy = {{ review = \"none\", signing = \"optional\", recallable = true, locales = {LOCALES:?} }}\n\
         [generate]\ncheckpoint = \"base\"\nsize = [1344, 768]\nsteps = 20\nguidance = 5.0\n\
         seed = {{ base = 1, per = \"campaign\" }}\nprompt = \"a {{scene}} scene\"\nnegative = []\n"
    );
    axis(&mut text, "scene", workload.scenes, |_, at| format!("{at}"))?;
    axis(&mut text, "colour", workload.colours, |language, at| match language {
        "ar" => format!("أزرق {at}"),
        _ => format!("Petrol {at}"),
    })?;
    axis(&mut text, "product", workload.products, |language, at| match language {
        "ar" => format!("أكواب {at}"),
        _ => format!("Thermobecher {at}"),
    })?;
    let prices = (0..workload.products).map(|at| format!("p{at} = \"{}.90\"", 9 + at)).collect::<Vec<_>>().join(", ");
    writeln!(text, "[figures.price]\naxis = \"product\"\nvalues = {{ {prices} }}")?;
    writeln!(text, "pattern = {}", by_language(|_| "{} €".to_owned()))?;
    texts(&mut text, "headline", "{product} in {colour}, jeden Tag", "{product} {colour} كل يوم")?;
    texts(&mut text, "price", "{figure:price}", "{figure:price}")?;
    texts(&mut text, "claim", "Jeden Tag, ein Leben lang", "كل يوم، مدى الحياة")?;
    text.push_str(SLOT);
    Ok(text)
}

fn by_language(of: impl Fn(&str) -> String) -> String {
    let texts = LANGUAGES.iter().map(|language| format!("{language} = \"{}\"", of(language)));
    format!("{{ {} }}", texts.collect::<Vec<_>>().join(", "))
}

fn axis(text: &mut String, name: &str, count: usize, label: impl Fn(&str, usize) -> String) -> std::fmt::Result {
    let letter = &name[..1];
    writeln!(text, "[axes.{name}]\ndefault = \"{letter}0\"")?;
    for at in 0..count {
        let labels = by_language(|language| label(language, at));
        // Only a scene is drawn; the rest is laid on it.
        let prompt = if name == "scene" { format!("prompt = \"{name} {at}\", ") } else { String::new() };
        writeln!(text, "values.{letter}{at} = {{ {prompt}label = {labels} }}")?;
    }
    Ok(())
}

fn texts(text: &mut String, key: &str, latin: &str, arabic: &str) -> std::fmt::Result {
    let of = |language: &str| if language == "ar" { arabic } else { latin }.to_owned();
    writeln!(text, "[copy.{key}]")?;
    LANGUAGES.iter().try_for_each(|language| writeln!(text, "{language} = \"{}\"", of(language)))
}

const SLOT: &str = r##"
[fonts]
files = ["fonts/NotoSans-Bold-Latin.ttf", "fonts/NotoNaskhArabic-Bold.ttf"]

[slots.hero]
ratio = "16:9"
widths = [320, 640, 1280]
upscale_max = 1.0
sizes = "100vw"
priority = { urgency = 1 }
on_miss = { policy = "fallback" }
decorative = true

[[slots.hero.cuts]]
name = "tall"
media = "(max-width: 40rem)"
ratio = "4:5"
widths = [240, 480]

[[slots.hero.layers]]
name = "packshot"
image = "packshots/{product}.svg"
anchor = "bottom-end"
height = "60%"

[[slots.hero.layers]]
name = "logo"
image = "logo.svg"
anchor = "bottom-start"
width = "20%"

[[slots.hero.layers]]
name = "scrim"
panel = { colour = "#000000c0", around = "headline", padding = ["2%", "2%"] }

[[slots.hero.layers]]
name = "headline"
text = "headline"
anchor = "top-start"
width = "80%"
height = "40%"
size_min = "2%"
size_max = "9%"
fallback = ["panel:scrim", "none"]

[[slots.hero.layers]]
name = "price"
text = "price"
anchor = "start"
width = "40%"
size_max = "6%"

[[slots.hero.layers]]
name = "claim"
text = "claim"
anchor = "bottom"
width = "60%"
size_min = "2%"
size_max = "4%"
"##;
