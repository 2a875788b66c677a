//! axe-core, which says whether a page is accessible: the WCAG rules that a program can judge.

use std::path::PathBuf;

use anyhow::Context;
use serde_json::Value;

use crate::browser::Browser;
use crate::judge;

/// Rules of WCAG 2.2 up to level AA, and what axe-core calls best practice.
const RUN: &str = "const done = arguments[arguments.length - 1]; axe.run(document).then(found => done(found.violations.map(\
    rule => rule.id + ': ' + rule.nodes.map(node => node.target.join(' ')).join(', '))), error => done(['axe: ' + error]));";

/// The script, or `None` after saying which test is skipped for want of it.
///
/// # Errors
/// When judges are required and it is not installed.
pub fn script(test: &str) -> anyhow::Result<Option<PathBuf>> {
    judge::named("BILDKANTE_AXE", "axe-core", test)
}

/// What the page that the browser shows breaks, a line for each rule with the elements that break it.
///
/// # Errors
/// When the script cannot be read or does not run.
pub async fn violations(browser: &Browser, script: &PathBuf) -> anyhow::Result<Vec<String>> {
    let script = std::fs::read_to_string(script).with_context(|| script.display().to_string())?;
    browser.run(&script).await?;
    let found = browser.run_async(RUN).await?;
    let lines = found.as_array().context("axe says no list")?;
    Ok(lines.iter().filter_map(Value::as_str).map(str::to_owned).collect())
}
