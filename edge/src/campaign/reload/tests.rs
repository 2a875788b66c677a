use bildkante_shared::testing::{eventually, within};

use super::*;
use crate::campaign::tests::Site;

fn open(site: &Site) -> (CatalogHandle, Registry) {
    let registry = Registry::new();
    let metrics = CampaignMetrics::new(&registry).expect("registered once");
    (
        CatalogHandle::open(site.sources(), metrics, crate::words::Epoch::default())
            .unwrap_or_else(|errors| panic!("{errors}")),
        registry,
    )
}

fn metric(registry: &Registry, line: &str) -> bool {
    let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).expect("text");
    text.lines().any(|found| found == line)
}

#[tokio::test]
async fn a_broken_change_keeps_the_last_snapshot_and_a_good_one_replaces_it() {
    let site = Site::new();
    let (handle, registry) = open(&site);
    let first = *handle.load().digest();
    assert_eq!(handle.reload_now().await, ReloadOutcome::Unchanged);
    site.edit("campaigns/autumn.toml", "steps = 30", "steps = 0");
    assert_eq!(handle.reload_now().await, ReloadOutcome::Refused);
    assert_eq!(handle.reload_now().await, ReloadOutcome::Unchanged, "reported once");
    assert_eq!(*handle.load().digest(), first);
    assert!(metric(&registry, "bildkante_edge_catalog_valid 0"));
    assert!(metric(&registry, "bildkante_edge_catalog_reloads_total{outcome=\"refused\"} 1"));
    site.edit("campaigns/autumn.toml", "steps = 0", "steps = 31");
    assert_eq!(handle.reload_now().await, ReloadOutcome::Reloaded);
    assert_ne!(*handle.load().digest(), first);
    assert!(metric(&registry, "bildkante_edge_catalog_valid 1"));
    assert!(metric(&registry, "bildkante_edge_catalog_campaigns 1"));
}

#[tokio::test]
async fn undoing_a_broken_change_counts_as_valid_again() {
    let site = Site::new();
    let (handle, registry) = open(&site);
    site.edit("campaigns/autumn.toml", "steps = 30", "steps = 0");
    assert_eq!(handle.reload_now().await, ReloadOutcome::Refused);
    site.edit("campaigns/autumn.toml", "steps = 0", "steps = 30");
    assert_eq!(handle.reload_now().await, ReloadOutcome::Reloaded);
    assert!(metric(&registry, "bildkante_edge_catalog_valid 1"));
}

#[tokio::test]
async fn a_folder_that_goes_away_changes_nothing_that_serves() {
    let site = Site::new();
    let (handle, _registry) = open(&site);
    std::fs::remove_dir_all(site.path("campaigns")).expect("removed");
    assert_eq!(handle.reload_now().await, ReloadOutcome::Refused);
    assert!(handle.load().campaign("autumn").is_some());
}

#[tokio::test]
async fn the_watcher_sees_a_change_and_stops_when_told() {
    let site = Site::new();
    let (handle, _registry) = open(&site);
    let (trigger, shutdown) = bildkante_shared::shutdown::channel();
    let watcher = handle.watch(5, shutdown);
    let first = *handle.load().digest();
    site.edit("campaigns/autumn.toml", "Autumn 2026", "Herbst 2026");
    eventually("the change is seen", async || *handle.guard().digest() != first).await;
    trigger.shut_down();
    within("the watcher stops", watcher).await.expect("no panic");
}
