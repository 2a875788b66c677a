//! Papers of made-up campaigns: what is said, what is missing, and that nothing in it is markup.

use std::sync::Arc;

use bildkante_shared::ids::MasterId;
use bildkante_shared::phash::PerceptualHash;
use bildkante_shared::wire::Duplicate;

use super::dossier::Dossier;
use super::evidence::Evidence;
use super::report::{Force, Installation, Report, State, WatermarkUse, report};
use super::subject::{DossierSubject, Reader, SubjectError};
use super::{dossier_html, report_html};
use crate::cache::{Binding, Bindings, CacheMetrics, Lqips};
use crate::campaign::Catalog;
use crate::campaign::tests::Site;

const NOTHING: Installation =
    Installation { is_signed: false, is_timestamped: false, watermark: WatermarkUse::Off, has_access_log: false };
const ALL: Installation =
    Installation { is_signed: true, is_timestamped: true, watermark: WatermarkUse::Own, has_access_log: true };
/// What ends an element, an attribute and a comment.
const HOSTILE: &str = "\\\"><script>alert(1)</script>--><img src=x onerror=alert(1)>' & </figure>";

struct Edge {
    site: Site,
    _dir: tempfile::TempDir,
    bindings: Bindings,
}

impl Edge {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let metrics = CacheMetrics::new(&prometheus::Registry::new()).expect("metrics");
        let bindings = Bindings::open(&dir.path().join("bindings.redb"), 100, metrics.bindings).expect("opened");
        Self { site: Site::new(), _dir: dir, bindings }
    }

    fn state(&self, key: &str) {
        self.site.edit("campaigns/autumn.toml", "[axes.product]", &format!("{key}\n\n[axes.product]"));
    }

    fn read(&self, asked: &str) -> Result<DossierSubject, SubjectError> {
        Reader { catalog: Arc::new(self.site.load()), bindings: self.bindings.clone() }.read(asked)
    }

    fn report(&self, installation: Installation) -> Report {
        let catalog: Catalog = self.site.load();
        report(catalog.campaign("autumn").expect("a campaign"), installation, None)
    }

    async fn bind(&self, variant: &str, master: MasterId, duplicate: bool) {
        let recipe = self.read(variant).expect("a variant").recipe;
        let likeness =
            Duplicate { of: MasterId::of_bytes(b"another"), distance: 3, chroma_distance: 0.5, ssimulacra2: 97.0 };
        let binding = Binding {
            master,
            width_px: 1344,
            height_px: 768,
            phash: PerceptualHash::from_bytes([0; 32]),
            duplicate: duplicate.then_some(likeness),
            node: "gpu-1".to_owned(),
            created_unix_ms: 1_700_000_000_000,
            drawn_unix_s: Some(1_700_000_000),
            determinism: Some("cpu".to_owned()),
            device_ms: None,
            generation: 0,
            parts: None,
            lqips: Lqips::default(),
        };
        self.bindings.put(recipe, binding).await.expect("bound");
    }
}

fn state(report: &Report, title: &str) -> State {
    report.points.iter().find(|point| point.title == title).unwrap_or_else(|| panic!("no point {title}")).state
}

fn dossier(subject: &DossierSubject) -> Dossier {
    let evidence = Evidence::none("this test has no pictures");
    Dossier::new(subject, evidence, "https://img.example.com", false, "2026-11-28T00:00:00Z".to_owned())
}

#[test]
fn a_campaign_that_says_nothing_lacks_everything_that_can_be_said() {
    let report = Edge::new().report(NOTHING);
    for title in ["AI literacy", "Risk class", "Purpose", "Deep fakes", "Visible labels", "Human oversight", "Contact"]
    {
        assert_eq!(state(&report, title), State::Missing, "{title}");
    }
    for title in ["Marking: signed metadata", "Marking: watermark", "Models and their data", "Retention of logs"] {
        assert_eq!(state(&report, title), State::Missing, "{title}");
    }
    assert_eq!(report.missing, report.points.iter().filter(|point| point.state == State::Missing).count());
    assert!(report.points.iter().all(|point| point.article.starts_with("Article ")), "{report:?}");
    let remedied = |point: &&super::report::Point| (point.state == State::Missing) == point.remedy.is_some();
    assert!(report.points.iter().all(|point| remedied(&point)), "{report:?}");
}

#[test]
fn nothing_is_missing_of_a_campaign_that_says_all_of_it() {
    let edge = Edge::new();
    edge.state(
        "[models.\"base-1.0\"]\nlicense = \"MIT\"\ncard = \"card.md\"\ntraining_data = \"ours\"\n\n[ai_act]\nrisk_class = \
         \"limited\"\ndeep_fakes = \"no\"\npurpose = \"shop\"\ncontact = \"us\"\nliteracy = \"a course\"",
    );
    let report = edge.report(ALL);
    let missing: Vec<_> = report.points.iter().filter(|point| point.state == State::Missing).collect();
    assert!(missing.is_empty() && report.missing == 0, "{missing:?}");
    assert_eq!(state(&report, "Visible labels"), State::NotApplicable);
    assert_eq!(state(&report, "Human oversight"), State::NotApplicable);
    assert!(report_html(&[report]).contains("Nothing is missing."));
}

#[test]
fn high_risk_asks_for_oversight_and_logs_of_six_months_and_deep_fakes_for_labels() {
    let edge = Edge::new();
    edge.state("[ai_act]\nrisk_class = \"high\"\ndeep_fakes = \"yes\"\nlog_retention_days = 183");
    let report = edge.report(ALL);
    for title in ["Human oversight", "Retention of logs", "Visible labels"] {
        assert_eq!(state(&report, title), State::Missing, "{title}");
    }
    assert_eq!(state(&report, "Further duties of high-risk deployers"), State::Elsewhere);
    edge.site.edit("campaigns/autumn.toml", "log_retention_days = 183", "log_retention_days = 184");
    assert_eq!(state(&edge.report(ALL), "Retention of logs"), State::Documented);
    let without_log = Installation { has_access_log: false, ..ALL };
    assert_eq!(state(&edge.report(without_log), "Retention of logs"), State::Missing);
    edge.state("[label]\nshow = \"text\"");
    assert_eq!(state(&edge.report(ALL), "Visible labels"), State::Done);
    edge.site.edit("campaigns/autumn.toml", "ratio = \"4:5\"", "ratio = \"4:5\"\nlabel = { show = \"none\" }");
    let report = edge.report(ALL);
    let labels = report.points.iter().find(|point| point.title == "Visible labels").expect("the point");
    assert!(labels.state == State::Missing && labels.says.ends_with("in teaser"), "{labels:?}");
}

#[test]
fn a_published_watermark_and_a_signature_without_a_date_are_half_of_what_is_asked() {
    let half = Installation { is_timestamped: false, watermark: WatermarkUse::Published, ..ALL };
    let report = Edge::new().report(half);
    assert_eq!(state(&report, "Marking: signed metadata"), State::Missing);
    assert_eq!(state(&report, "Marking: watermark"), State::Missing);
    let marking = report.points.iter().filter(|point| point.article == "Article 50(2)");
    assert!(marking.map(|point| point.force).all(|force| force == Force::Provider));
}

#[tokio::test]
async fn a_master_is_told_with_every_recipe_and_variant_that_shares_it() {
    let edge = Edge::new();
    let master = MasterId::of_bytes(b"a master");
    edge.bind("autumn/hero?colour=red", master, true).await;
    edge.bind("autumn/hero", master, false).await;
    edge.bind("autumn/teaser", MasterId::of_bytes(b"no other"), false).await;
    let subject = edge.read(&master.to_string()).expect("the master is bound");
    let told = dossier(&subject);
    assert_eq!(told.variant.as_ref().map(|variant| variant.campaign.as_str()), Some("autumn"));
    assert!(told.shared_by_is_whole);
    let [drew, merged] = told.shared_by.as_slice() else { panic!("{:?}", told.shared_by) };
    // What drew it stands first, and two locales share its recipe.
    assert_eq!(drew.variants, ["autumn/hero", "autumn/hero?locale=en-GB"]);
    assert!(drew.looked_like.is_none() && drew.recipe == told.recipe.id);
    assert_eq!(merged.variants, ["autumn/hero?colour=red", "autumn/hero?colour=red&locale=en-GB"]);
    assert_eq!(merged.looked_like.as_ref().map(|likeness| likeness.hash_distance), Some(3));
    let [style, floor, negatives] = told.recipe.words.as_slice() else { panic!("{:?}", told.recipe.words) };
    assert_eq!((style.kind, style.name.as_str(), style.library.as_str()), ("style", "soft", "shots"));
    assert_eq!((floor.kind, negatives.kind), ("block", "negative-list"));
    assert!(style.library_digest.is_some() && style.library_digest == floor.library_digest);
    assert_eq!(
        told.recipe.models.iter().map(|model| (model.role, model.name.as_str())).collect::<Vec<_>>(),
        [("checkpoint", "base-1.0")]
    );
    assert_eq!(told.master.and_then(|master| master.drawn_at).as_deref(), Some("2023-11-14T22:13:20Z"));
    // By the recipe's id it is the same picture.
    let by_recipe = edge.read(&told.recipe.id).expect("the recipe is bound");
    assert_eq!(dossier(&by_recipe).shared_by.len(), 2);
}

#[tokio::test]
async fn a_master_that_no_campaign_shows_any_more_is_told_as_far_as_it_is_known() {
    let edge = Edge::new();
    let master = MasterId::of_bytes(b"a master");
    edge.bind("autumn/hero", master, false).await;
    edge.site.edit("campaigns/autumn.toml", "steps = 30", "steps = 31");
    let told = dossier(&edge.read(&master.to_string()).expect("it is bound"));
    assert!(told.variant.is_none() && told.recipe.recipe.is_none() && told.master.is_some());
    let page = dossier_html(&told);
    assert!(page.contains("No campaign of this edge shows this master") && page.contains("gpu-1"), "{page}");
}

#[test]
fn what_means_no_picture_is_refused_with_its_reason() {
    let edge = Edge::new();
    let unknown = MasterId::of_bytes(b"never seen").to_string();
    assert_eq!(edge.read(&unknown).expect_err("unknown").as_str(), "unknown-picture");
    for nothing in ["", "autumn", "autumn/nothing", "/i/autumn/hero?colour=mauve", "https://elsewhere.example/"] {
        assert_eq!(edge.read(nothing).expect_err(nothing).as_str(), "no-picture", "{nothing}");
    }
    assert_eq!(edge.read(&"a".repeat(3000)).expect_err("long"), SubjectError::TooLong);
    let spellings =
        ["autumn/hero?colour=red", "/i/autumn/hero?colour=red&w=480", "https://img.example/i/autumn/hero?colour=red#x"];
    let recipes = spellings.map(|url| edge.read(url).expect(url).recipe);
    assert!(recipes.windows(2).all(|pair| pair[0] == pair[1]), "{recipes:?}");
}

#[test]
fn hostile_texts_are_text() {
    let edge = Edge::new();
    edge.state(&format!(
        "[models.\"base-1.0\"]\nlicense = \"{HOSTILE}\"\ncard = \"{HOSTILE}\"\nsource = \"{HOSTILE}\"\ntraining_data = \
         \"{HOSTILE}\"\n\n[ai_act]\npurpose = \"{HOSTILE}\"\noversight = \"{HOSTILE}\"\ncontact = \"{HOSTILE}\"\nliteracy = \
         \"{HOSTILE}\"\n\n[label]\nshow = \"text\"\ntext = {{ de = \"{HOSTILE}\" }}"
    ));
    edge.site.edit("campaigns/autumn.toml", "\"Autumn 2026\"", &format!("\"{HOSTILE}\""));
    edge.site.edit("campaigns/autumn.toml", "creator = \"Studio\"", &format!("creator = \"{HOSTILE}\""));
    edge.site.edit("campaigns/autumn.toml", "{product} in {colour}", HOSTILE);
    edge.site.edit("prompts/shots.toml", "soft light", HOSTILE);
    let subject = edge.read("autumn/hero").expect("a variant");
    let (dossier, report) = (dossier_html(&dossier(&subject)), report_html(&[edge.report(NOTHING)]));
    for page in [dossier, report] {
        assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;"), "{page}");
        for markup in ["<script", "<img", "onerror=alert(1)>'", "-->"] {
            assert!(!page.contains(markup), "{markup} in {page}");
        }
    }
}

#[test]
fn pages_fetch_nothing() {
    let edge = Edge::new();
    let subject = edge.read("autumn/hero").expect("a variant");
    for page in [dossier_html(&dossier(&subject)), report_html(&[edge.report(ALL)])] {
        for fetched in [" href=", " src=", "url(", "@import", "<script", "<link"] {
            assert!(!page.contains(fetched), "{fetched} in {page}");
        }
        assert!(page.contains("@media print"));
    }
}
