use std::path::Path;

use super::*;
use crate::campaign::tests::Site;
use crate::campaign::{CampaignConfig, check};

fn explained(catalog: &Catalog, url: &str, accept: Option<&str>) -> Explanation {
    let anybody = Described { accept, verify: |_: &ImageRequest<'_>| Ok(Grant::Public) };
    Explanation::of(url, &resolve(catalog, url, &anybody))
}

#[test]
fn explain_shows_every_stage_or_the_problem() {
    let site = Site::new();
    let catalog = site.load();
    let url = "https://img.example/i/autumn/hero/mug.jpg?Product=mug&w=5000&utm_source=x#top";
    let shown = explained(&catalog, url, Some("image/avif"));
    assert_eq!(shown.request.as_deref(), Some("/i/autumn/hero?product=mug&w=5000&fm=jpg"));
    let rendition = shown.rendition.as_ref().expect("resolved");
    assert_eq!((rendition.spec.as_str(), rendition.is_negotiated), ("1344x756.jpeg q70", false));
    assert_eq!(rendition.url, "/i/autumn/hero?product=mug&w=1344&fm=jpg");
    assert!(shown.warnings.iter().any(|warning| warning.contains("5000 px")), "{:?}", shown.warnings);
    let json = serde_json::to_value(&shown).expect("serialisable");
    assert_eq!(json["variant"]["values"]["product"], "mug");
    assert_eq!(json["variant"]["recipe"]["width_px"], 1344);
    let refused = explained(&catalog, "/i/autumn/hero?product=cup", None);
    let problem = refused.problem.expect("refused");
    assert_eq!((problem.status, problem.allowed), (400, vec!["bottle".to_owned(), "mug".to_owned()]));
    assert!(refused.variant.is_none() && refused.request.is_some());
}

#[test]
fn the_demo_campaign_is_valid_and_locked() {
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config");
    let config = CampaignConfig {
        campaigns_dir: config.join("campaigns"),
        prompts_dir: config.join("prompts"),
        ..CampaignConfig::default()
    };
    let catalog = check(&config.sources().expect("valid"), None).unwrap_or_else(|errors| panic!("{errors}"));
    let report = CatalogReport::of(&catalog);
    let studio = report.campaigns.iter().find(|campaign| campaign.name == "studio").expect("there");
    assert_eq!(studio.slots.iter().map(|slot| slot.name.as_str()).collect::<Vec<_>>(), ["hero", "teaser", "thumb"]);
    assert_eq!(studio.slots[0].recipes_max, 8 * 13 * 3 * 10 * 4);
    assert_eq!(studio.variants, 3 * 2 * studio.slots[0].recipes_max);
    assert_eq!(studio.slots[0].renditions_per_variant_max, 4 * 4 * 4);
    assert_eq!(studio.slots[0].signed_px_max, (652, 652));
    assert!(report.to_string().contains("at most 64 renditions per variant; with a signature any up to 652×652 px"));
}
