//! The campaign's manifest changes every 100 ms while hits are asked: no request may notice.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;

use crate::budget::{Bound, Budget, Verdict};
use crate::fetch;
use crate::fleet::FleetSpec;
use crate::plan::FleetPlan;
use crate::report::Report;
use crate::scenario::stage::{SMALL_PX, Stage};

const EVERY: Duration = Duration::from_millis(100);
const TITLE: &str = "Studio product shots";
const RELOADS: &str = "bildkante_edge_catalog_reloads_total{outcome=\"reloaded\"}";

/// # Errors
/// When the servers do not start, the manifest cannot be written, or the edge did not reload at all.
pub async fn run(plan: &FleetPlan) -> anyhow::Result<Report> {
    let spec = FleetSpec { campaigns_config: "reload_ms = 50".to_owned(), ..FleetSpec::new(1, 1) };
    let stage = Stage::set(&plan.servers, &spec, plan.rate_per_s, plan.connections, SMALL_PX).await?;
    let editing = tokio::spawn(edit(stage.fleet.manifest()));
    let phase = stage.hits("hits while the manifest changes", plan.duration).run().await?;
    editing.abort();
    let reloads = metric(&fetch::http1(stage.fleet.edges[0].admin, "/metrics").await?.text(), RELOADS);
    anyhow::ensure!(reloads > 0.0, "the edge did not reload: nothing was tested");
    let mut report = Report::new("reload");
    report.notes.push(format!("the edge took over {reloads:.0} changed manifests"));
    report.verdicts = vec![
        Verdict::new(Budget::EveryRequestAnswered, phase.failed() as f64, Bound::Exactly(0.0), "failed"),
        Verdict::new(
            Budget::NoFailedHit,
            (phase.completed - phase.hits) as f64,
            Bound::Exactly(0.0),
            "answered by no hit",
        ),
    ];
    report.phases.push(phase);
    Ok(report)
}

/// Gives the campaign another title again and again, as an editor saves: whole files, renamed into place.
async fn edit(manifest: PathBuf) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(&manifest).context("the manifest")?;
    anyhow::ensure!(text.contains(TITLE), "the campaign's title is not as this scenario knows it");
    let mut every = tokio::time::interval(EVERY);
    for number in 0_u64.. {
        every.tick().await;
        replace(&manifest, &text.replace(TITLE, &format!("{TITLE} {number}")))?;
    }
    Ok(())
}

fn replace(file: &Path, text: &str) -> std::io::Result<()> {
    let beside = file.with_extension("new");
    std::fs::write(&beside, text)?;
    std::fs::rename(beside, file)
}

/// A sample's value in the text format of Prometheus; 0 where there is none.
fn metric(text: &str, sample: &str) -> f64 {
    let lines = text.lines().filter_map(|line| line.strip_prefix(sample));
    lines.filter_map(|value| value.trim().parse().ok()).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_read_by_its_whole_name() {
        let text = format!("# HELP x\n{RELOADS} 17\nother 3\n");
        assert!((metric(&text, RELOADS) - 17.0).abs() < f64::EPSILON);
        assert!(metric(&text, "absent").abs() < f64::EPSILON);
    }
}
