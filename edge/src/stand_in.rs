//! What a reader gets while the picture is not there: how long to wait for it, and what to show instead.
//!
//! Invariants: looking for a stand-in has a deadline of its own and never waits for a node; a stand-in never carries
//! the freshness of what it stands for; each passes the gate as the picture itself would; none but one that was purged softly is an AVIF that is known to be larger
//! than the WebP, where that is at hand; the picture itself goes on being made behind, unless it is withheld.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::budget::Payer;
use crate::cache::Rendition;
use crate::campaign::{Catalog, MissPolicy, Stopgap};
use crate::fill::{Fill, Peek};
use crate::governance::Cleared;
use crate::placeholder::{PlaceholderError, Placeholders};
use crate::render::RenditionSpec;
use crate::request::FormatAsk;
use crate::resolve::format;
use crate::resolve::{Resolved, Want};
use crate::response::Freshness;
use crate::words::{Format, Outcome};

/// How long a slot waits for a picture, and what it shows instead.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    pub wait: Duration,
    pub then: Stopgap,
}

/// What could not be had in time.
#[derive(Debug, Clone, Copy)]
pub struct Missing<'a> {
    pub catalog: &'a Catalog,
    pub resolved: &'a Resolved,
    pub want: &'a Want,
    /// The client's `Accept`.
    pub accept: Option<&'a str>,
    /// Who pays for what has to be rendered.
    pub payer: &'a Payer,
    pub then: Stopgap,
}

impl Missing<'_> {
    /// The format in which a file that was found is smaller, where this client may have that.
    fn smaller(&self, found: &Rendition) -> Option<Format> {
        let Resolved { format, slot, .. } = self.resolved;
        format::instead_of_larger(found.smaller_as, self.accept, *format, slot.formats)
    }

    /// What was found, or what `look` has in the format in which it is smaller. Nothing is made for that, nor waited for.
    fn smallest(&self, found: Arc<Rendition>, look: impl FnOnce(Format) -> Option<Arc<Rendition>>) -> Arc<Rendition> {
        self.smaller(&found).and_then(look).unwrap_or(found)
    }
}

/// Something else to show, and what it is.
#[derive(Debug)]
pub struct StandIn {
    pub rendition: Arc<Rendition>,
    pub outcome: Outcome,
    pub cleared: Cleared,
}

/// A picture that may be shown.
type Shown = (Arc<Rendition>, Cleared);

/// Finds stand-ins.
#[derive(Debug)]
pub struct StandIns {
    fill: Arc<Fill>,
    placeholders: Placeholders,
    render_wait: Duration,
    fallback_wait: Duration,
}

impl StandIns {
    #[must_use]
    pub fn new(fill: Arc<Fill>, render_wait: Duration, fallback_wait: Duration) -> Self {
        Self { placeholders: Placeholders::default(), fill, render_wait, fallback_wait }
    }

    /// Makes the last stand-in of every slot ahead, behind the caller.
    pub fn prepare(&self, catalog: &Catalog) {
        self.placeholders.prepare(catalog);
    }

    /// A picture that exists only needs rendering; the slot's patience is for generations.
    #[must_use]
    pub fn patience(&self, policy: MissPolicy, want: &Want) -> Patience {
        let mut patience = match policy {
            MissPolicy::Wait { wait_ms, then } => Patience { wait: Duration::from_millis(wait_ms.into()), then },
            MissPolicy::Fallback => Patience { wait: Duration::ZERO, then: Stopgap::Fallback },
            MissPolicy::Placeholder => Patience { wait: Duration::ZERO, then: Stopgap::Placeholder },
        };
        if self.fill.is_there(want) {
            patience.wait = patience.wait.max(self.render_wait);
        }
        patience
    }

    /// The variant's previous picture, else the slot's default variant (where the slot shows another variant at all),
    /// else the picture itself in another width, else a palette image.
    ///
    /// # Errors
    /// When not even a palette image can be made, which is a defect: it needs nothing that load could take.
    pub async fn find(&self, missing: Missing<'_>) -> Result<StandIn, PlaceholderError> {
        if let Some(stand_in) = self.picture(missing).await {
            return Ok(stand_in);
        }
        self.placeholder(missing).await
    }

    /// In place of a picture that is withheld: the slot's default variant where the slot shows another variant at all, else a palette
    /// image.
    ///
    /// # Errors
    /// As [`Self::find`].
    pub async fn instead(&self, missing: Missing<'_>) -> Result<StandIn, PlaceholderError> {
        if missing.then == Stopgap::Fallback
            && let Some((rendition, cleared)) = self.fallback(missing, Instant::now() + self.fallback_wait).await
        {
            return Ok(StandIn { rendition, outcome: Outcome::Fallback, cleared });
        }
        self.placeholder(missing).await
    }

    async fn placeholder(&self, missing: Missing<'_>) -> Result<StandIn, PlaceholderError> {
        let rendition = self.placeholders.get(missing.want.spec, &missing.resolved.campaign).await?;
        Ok(StandIn { rendition, outcome: Outcome::Placeholder, cleared: Cleared::placeholder() })
    }

    /// All looking for pictures together has one deadline.
    async fn picture(&self, missing: Missing<'_>) -> Option<StandIn> {
        let deadline = Instant::now() + self.fallback_wait;
        let shown = |(rendition, cleared), outcome| Some(StandIn { rendition, outcome, cleared });
        if let Some(previous) = self.previous(missing, deadline).await {
            return shown(previous, Outcome::Previous);
        }
        if missing.then == Stopgap::Fallback
            && let Some(fallback) = self.fallback(missing, deadline).await
        {
            return shown(fallback, Outcome::Fallback);
        }
        shown(self.nearest(missing, deadline).await?, Outcome::NearestWidth)
    }

    async fn previous(&self, missing: Missing<'_>, deadline: Instant) -> Option<Shown> {
        let previous = self.fill.previous(missing.want)?;
        let rendition = match self.fill.peek_previous(missing.want, &previous) {
            Some(rendition) => rendition,
            None => {
                let ticket = self.fill.fly_previous(missing.want, previous.clone(), missing.payer).ok()?;
                ticket.landed_within(left(deadline)).await.ok()?.ok()?.rendition
            }
        };
        let same = |format| self.fill.previous_as(missing.want, &previous, format);
        let rendition = missing.smallest(rendition, same);
        // It may have been killed while it was waited for.
        Some((rendition, self.fill.clear_previous(missing.want, &previous).ok()?))
    }

    async fn nearest(&self, missing: Missing<'_>, deadline: Instant) -> Option<Shown> {
        if !self.fill.is_drawn(missing.want) {
            return None;
        }
        let specs = nearest_specs(missing);
        let rendition = match self.fill.peek_any(missing.want, &specs) {
            Some(rendition) => rendition,
            None => tokio::time::timeout(left(deadline), self.fill.find_any(missing.want, &specs)).await.ok()??,
        };
        self.cleared_smallest(missing, missing.want, rendition)
    }

    /// What was found of `want`, or the smaller file of the same cut.
    fn cleared_smallest(&self, missing: Missing<'_>, want: &Want, found: Arc<Rendition>) -> Option<Shown> {
        let spec = found.spec;
        let same = |format| self.fill.cut_at_hand(want, &RenditionSpec { format, ..spec });
        self.cleared(want, missing.smallest(found, same))
    }

    fn cleared(&self, want: &Want, rendition: Arc<Rendition>) -> Option<Shown> {
        let cleared = self.fill.gate().clear(want, Some(rendition.master)).ok()?;
        Some((rendition, cleared))
    }

    /// The default variant in the same cut, if it can be had in time. One that was never drawn is
    /// asked for behind, so that there is one next time.
    async fn fallback(&self, missing: Missing<'_>, deadline: Instant) -> Option<Shown> {
        let Missing { catalog, resolved, want, payer, .. } = missing;
        let variant = catalog.fallback(&resolved.campaign, resolved.slot_index).ok()?;
        if variant.recipe.id() == want.recipe_id() {
            return None;
        }
        let gate = self.fill.gate();
        let instead = gate.place(want.of_variant(variant)).ok()?;
        // Caches may keep a stand-in for so long.
        if gate.standing(&instead).left_s().is_some_and(|left_s| left_s < Freshness::StandIn.reach_s()) {
            return None;
        }
        gate.clear(&instead, None).ok()?;
        match self.fill.peek(&instead) {
            Peek::Fresh(rendition) => return self.cleared_smallest(missing, &instead, rendition),
            Peek::Stale(rendition, _) => {
                self.fill.refresh(&rendition, &instead);
                return self.cleared(&instead, rendition);
            }
            Peek::Absent => {}
        }
        let is_drawn = self.fill.is_there(&instead);
        let ticket = self.fill.fly_for(&instead, payer).ok()?;
        if !is_drawn {
            return None;
        }
        let filled = ticket.landed_within(left(deadline)).await.ok()?.ok()?;
        self.cleared_smallest(missing, &instead, filled.rendition)
    }
}

fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

/// Every other cut of the ladder that this client can show, the nearest width first and in it the format it would have
/// been given. Keys are a pure function of master and spec, so that no index is needed to look for them.
fn nearest_specs(missing: Missing<'_>) -> Vec<RenditionSpec> {
    let Missing { resolved, want, accept, .. } = missing;
    let mut formats = vec![want.spec.format];
    if resolved.format == FormatAsk::Auto {
        let shown = format::acceptable(accept, resolved.slot.formats);
        formats.extend(Format::ALL.into_iter().filter(|format| *format != want.spec.format && shown.contains(*format)));
    }
    // A shape of its own is no rung of the ladder: of it there are only other formats.
    let framing = resolved.framing();
    let shape = |width_px| framing.shape(want.variant.size_px, width_px);
    let height_px = |width_px| framing.height_px(width_px);
    let is_rung = want.spec.shape == shape(want.spec.width_px) && want.spec.height_px == height_px(want.spec.width_px);
    let mut widths = if is_rung { framing.widths.clone() } else { vec![want.spec.width_px] };
    widths.sort_by_key(|width| (width.abs_diff(want.spec.width_px), std::cmp::Reverse(*width)));
    let cut = |width_px, format| RenditionSpec {
        width_px,
        height_px: if is_rung { height_px(width_px) } else { want.spec.height_px },
        shape: if is_rung { shape(width_px) } else { want.spec.shape },
        format,
        ..want.spec
    };
    let cuts = widths.into_iter().flat_map(|width| formats.iter().map(move |format| cut(width, *format)));
    cuts.filter(|spec| *spec != want.spec).collect()
}
