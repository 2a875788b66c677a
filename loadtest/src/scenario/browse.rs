//! Readers click through the preview of a large campaign: how long pages take, and whether the edge's memory stays flat.
//!
//! A page is asked for as a browser does, and the next one a moment after it has come: a matrix, cards of a filter, a search, pages
//! behind the first, single pictures, the queue. Pictures are not asked for; the other scenarios do that.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::ensure;
use hdrhistogram::Histogram;
use http::StatusCode;
use tokio::task::JoinSet;

use crate::budget::{Bound, Budget, Verdict};
use crate::campaign;
use crate::fetch;
use crate::fleet::{Fleet, FleetSpec};
use crate::plan::BrowsePlan;
use crate::report::Report;

/// Addresses of single pictures that readers open.
const PICTURES: usize = 4_096;
const PAGE_US_MAX: u64 = 600_000_000;
const PAGE_P99_MS_MAX: f64 = 1_000.0;
/// Beyond what it was after a quarter of the time.
const GROWTH_MAX: f64 = 1.1;
const MIB: f64 = 1_048_576.0;

/// What was seen so far.
#[derive(Debug)]
struct Seen {
    pages_us: Histogram<u64>,
    failed: u64,
    example: Option<String>,
}

/// # Errors
/// When the servers do not start, or the first page is not shown.
pub async fn run(plan: &BrowsePlan) -> anyhow::Result<Report> {
    let fleet = Fleet::start(&plan.servers, &FleetSpec::new(1, 1)).await?;
    let edge = &fleet.edges[0];
    let pages = Arc::new(pages(&fleet)?);
    let opened = Instant::now();
    let first = fetch::page(edge.admin, &pages[0]).await?;
    ensure!(first.status == StatusCode::OK, "{} answers {}: {}", pages[0], first.status, first.text());
    let first_s = opened.elapsed().as_secs_f64();

    let seen = Arc::new(Mutex::new(Seen {
        pages_us: Histogram::new_with_bounds(1, PAGE_US_MAX, 3)?,
        failed: 0,
        example: None,
    }));
    let (next, ends) = (Arc::new(AtomicU64::new(0)), Instant::now() + plan.duration);
    let mut readers = JoinSet::new();
    for _ in 0..plan.readers {
        let (admin, pages, seen, next) = (edge.admin, Arc::clone(&pages), Arc::clone(&seen), Arc::clone(&next));
        let pause = plan.pause;
        readers.spawn(async move {
            while Instant::now() < ends {
                // A stride that shares no factor with their number: neighbours are of different kinds.
                let number = next.fetch_add(1, Ordering::Relaxed).wrapping_mul(7_919) as usize % pages.len();
                look(admin, &pages[number], &seen).await;
                tokio::time::sleep(pause).await;
            }
        });
    }
    tokio::time::sleep(plan.duration / 4).await;
    let quarter = edge.resident_bytes()? as f64;
    while let Some(reader) = readers.join_next().await {
        reader?;
    }
    let end = edge.resident_bytes()? as f64;
    let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    anyhow::ensure!(!seen.pages_us.is_empty(), "no page was asked for in {} s", plan.duration.as_secs());
    let at = |quantile| seen.pages_us.value_at_quantile(quantile) as f64 / 1_000.0;
    let mut report = Report::new("browse");
    report.notes = vec![
        format!("{} pages by {} readers in {} s", seen.pages_us.len(), plan.readers, plan.duration.as_secs()),
        format!("the first page took {first_s:.2} s; all of them p50 {:.1} ms, p99 {:.1} ms", at(0.5), at(0.99)),
        format!("resident after a quarter of the time {:.0} MiB, at the end {:.0} MiB", quarter / MIB, end / MIB),
    ];
    report.notes.extend(seen.example.clone());
    report.verdicts = vec![
        Verdict::new(Budget::EveryPageShown, seen.failed as f64, Bound::Exactly(0.0), "failed"),
        Verdict::new(Budget::PagesInASecond, at(0.99), Bound::AtMost(PAGE_P99_MS_MAX), "ms"),
        Verdict::new(Budget::MemoryFlat, end / quarter, Bound::AtMost(GROWTH_MAX), "×"),
    ];
    Ok(report)
}

async fn look(admin: SocketAddr, page: &str, seen: &Mutex<Seen>) {
    let asked = Instant::now();
    let shown = fetch::page(admin, page).await;
    let elapsed_us = u64::try_from(asked.elapsed().as_micros()).unwrap_or(PAGE_US_MAX).clamp(1, PAGE_US_MAX);
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    seen.pages_us.saturating_record(elapsed_us);
    let fault = match shown {
        Ok(page) if page.status == StatusCode::OK => return,
        Ok(other) => format!("{page}: {}", other.status),
        Err(error) => format!("{page}: {error:#}"),
    };
    seen.failed += 1;
    seen.example.get_or_insert(fault);
}

/// What readers open, the largest page first.
fn pages(fleet: &Fleet) -> anyhow::Result<Vec<String>> {
    let slot = "/preview/studio/hero";
    let mut pages: Vec<String> =
        ["", "?_view=cards", "?_view=matrix&_rows=product&_columns=colour", "?_q=red", "?_state=missing"]
            .iter()
            .map(|query| format!("{slot}{query}"))
            .collect();
    pages.extend((2..=60).map(|page| format!("{slot}?_view=cards&_page={page}")));
    pages.extend(["/preview/", "/preview/queue", "/preview/studio/thumb"].map(str::to_owned));
    let pictures = campaign::paths(&fleet.manifest(), Some("hero"), PICTURES)?;
    let values = pictures.iter().filter_map(|path| {
        let (_, query) = path.split_once('?')?;
        let values: Vec<&str> = query.split('&').filter(|pair| !pair.starts_with("w=")).collect();
        Some(format!("{slot}/variant?{}", values.join("&")))
    });
    pages.extend(values);
    Ok(pages)
}
