//! Which of all masters of a running edge a picture is: its database belongs to the edge, so the admin API is asked.

use anyhow::Context;
use http::Method;

use crate::commands::remote::{Remote, RemoteArgs};
use crate::verify::{FingerprintLayer, Report, Search};

/// Adds to the report what the edge knows.
pub(super) fn ask(args: &RemoteArgs, bits_max: u32, report: &mut Report) -> anyhow::Result<()> {
    let remote = Remote::new(args)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let search = |query: String| -> anyhow::Result<Search> {
        let reply = runtime.block_on(remote.demand(Method::GET, &format!("masters?{query}"), None))?;
        serde_json::from_value(reply.body).context("the edge answers in a form that is not known here")
    };
    if let Some(phash) = report.fingerprint.value.clone() {
        let found = search(format!("phash={phash}&bits={bits_max}"))?;
        report.fingerprint = FingerprintLayer::of(Some(phash), Some(found));
    }
    for found in report.watermark.found.iter_mut().filter(|found| found.mark.master().is_some()) {
        found.masters = search(format!("mark={}", found.mark.value))?.found;
    }
    Ok(())
}
