//! Slots: the places of a page an image is made for, with their shape, widths, priority and miss policy.

use std::fmt;
use std::ops::Range;

use bildkante_shared::urgency::Urgency;

use super::axes::{Axis, LOCALE_AXIS};
use super::briefing::Briefing;
use super::generate::{self, Generate, GenerateReader, Making};
use super::label::{self, Label};
use super::layers::{self, SlotPlan};
use super::manifest::{Policy, SLOTS_MAX};
use super::markup::{self, SlotMarkup};
use super::names::is_name;
use super::reader::{TableReader, Text, no_hint};
use super::review::{self, Gates, Review};
use crate::render::Quality;
use crate::words::{Format, FormatSet, Ratio, WIDTH_PX_MAX};

/// Most rungs of a ladder.
pub const WIDTHS_MAX: usize = 32;
/// Furthest a slot may enlarge a master.
pub const UPSCALE_MAX: f64 = 8.0;
/// Longest a slot may wait for a node.
pub const WAIT_MS_MAX: u32 = 60_000;
const NO_SLOTS: &str = "there are no slots: a campaign has at least one [slots.NAME]";
/// Longest `sizes`.
const SIZES_BYTES_MAX: usize = 300;

/// A placement in a page.
#[derive(Debug, Clone, PartialEq)]
pub struct Slot {
    pub name: String,
    pub ratio: Ratio,
    /// The ladder: ascending, never empty, every rung within `upscale_max`.
    pub widths: Vec<u32>,
    /// A rung: what a URL without `w` gets.
    pub default_width_px: u32,
    /// How far a master's cropped width may be enlarged; 1.0 not at all.
    pub upscale_max: f64,
    /// The `sizes` attribute of the markup.
    pub sizes: String,
    pub urgency: Urgency,
    pub on_miss: MissPolicy,
    /// The campaign's, or its own.
    pub review: Review,
    /// What the markup of its pictures says.
    pub markup: SlotMarkup,
    /// The campaign's, or its own.
    pub gates: Gates,
    /// What the markup shows beside its pictures.
    pub label: Label,
    /// Always holds JPEG.
    pub formats: FormatSet,
    /// Numeric qualities an unsigned URL may ask for beside the named ones.
    pub qualities: Vec<Quality>,
    pub making: Making,
    /// What is laid on its pictures.
    pub layers: SlotPlan,
}

/// What a reader gets while a variant is not drawn yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MissPolicy {
    /// The image itself, if it comes within `wait_ms`.
    Wait {
        wait_ms: u32,
        then: Stopgap,
    },
    Fallback,
    Placeholder,
}

/// What stands in for a missing image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopgap {
    /// The slot's variant of all defaults.
    Fallback,
    /// A tiny palette image.
    Placeholder,
}

impl MissPolicy {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Wait { .. } => "wait",
            Self::Fallback => "fallback",
            Self::Placeholder => "placeholder",
        }
    }

    /// What is served when there is no time left to wait.
    #[must_use]
    pub const fn stopgap(self) -> Stopgap {
        match self {
            Self::Wait { then, .. } => then,
            Self::Fallback => Stopgap::Fallback,
            Self::Placeholder => Stopgap::Placeholder,
        }
    }
}

impl fmt::Display for MissPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wait { wait_ms, then } => write!(f, "wait {wait_ms} ms, then {}", then.as_str()),
            Self::Fallback | Self::Placeholder => f.write_str(self.as_str()),
        }
    }
}

impl Stopgap {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fallback => "fallback",
            Self::Placeholder => "placeholder",
        }
    }
}

impl Slot {
    /// How a model draws its masters, where one does.
    #[must_use]
    pub fn drawn(&self) -> Option<&Generate> {
        match &self.making {
            Making::Drawn(generate) => Some(generate),
            Making::Imported { .. } => None,
        }
    }

    /// Whether variants that differ on this axis have different pictures. Imported ones do on every axis but the locale,
    /// and on that where the manifest marks it as distinct.
    #[must_use]
    pub fn differs_by(&self, axes: &[Axis], axis: usize) -> bool {
        match &self.making {
            Making::Drawn(generate) => generate.prompt.uses_axis(axis),
            Making::Imported { .. } => axes[axis].name != LOCALE_AXIS || axes[axis].is_distinct,
        }
    }

    /// The rung for a wanted width: the smallest that is wide enough, else the widest.
    #[must_use]
    pub fn snap_up(&self, wanted_px: u32) -> u32 {
        let widest = self.widths.last().copied().unwrap_or(self.default_width_px);
        self.widths.iter().copied().find(|width| *width >= wanted_px).unwrap_or(widest)
    }

    /// As [`Self::snap_up`], of those rungs that do not enlarge the master; `None` where all do.
    #[must_use]
    pub fn snap_within(&self, wanted_px: u32) -> Option<u32> {
        let whole = self.making.size_px();
        let is_within = |width: &&u32| {
            let cut = crate::render::CropBox::cover(whole.0, whole.1, **width, self.ratio.height_px(**width));
            cut.width_px >= **width
        };
        let widest = self.widths.iter().filter(is_within).max()?;
        Some(self.snap_up(wanted_px).min(*widest))
    }

    /// Renditions one variant can have without a signature.
    #[must_use]
    pub fn renditions_max(&self) -> usize {
        let mut qualities = vec![Quality::AUTO, Quality::HIGH, Quality::MEDIUM, Quality::LOW];
        qualities.extend(&self.qualities);
        qualities.sort_unstable();
        qualities.dedup();
        self.widths.len() * self.formats.len() * qualities.len()
    }
}

/// Reads `[slots.*]`.
pub(crate) fn read(
    root: &TableReader<'_, '_>,
    generate: &GenerateReader<'_, '_, '_>,
    label: &Label,
    policy: &Policy,
    briefing: &Briefing,
) -> Vec<Slot> {
    let Some(table) = root.table("slots") else {
        if !root.has("slots") {
            root.missing("slots", NO_SLOTS);
        }
        return Vec::new();
    };
    let tables = table.tables(SLOTS_MAX);
    if tables.is_empty() && !table.is_refused() {
        root.fault(table.span(), NO_SLOTS);
    }
    let mut slots = Vec::with_capacity(tables.len());
    for (name, table) in &tables {
        if !is_name(name.value) {
            root.fault(&name.span, format!("`{}` is no name; names are a-z, 0-9 and -", name.value));
        }
        slots.extend(read_slot(name, table, generate, label, (policy, briefing)));
    }
    slots
}

fn read_slot<'a, 'i>(
    name: &Text<'_>,
    table: &TableReader<'a, 'i>,
    generate: &GenerateReader<'_, 'a, 'i>,
    label: &Label,
    (policy, briefing): (&Policy, &Briefing),
) -> Option<Slot> {
    let making = generate.read(table);
    if !table.has("ratio") {
        table.missing("ratio", "`ratio` is missing, such as \"16:9\"");
    }
    let ratio = table.parsed::<Ratio>("ratio");
    let upscale_max = table.number("upscale_max", 1.0..=UPSCALE_MAX).unwrap_or(1.0);
    let cropped_px = match (&making, ratio) {
        (Some(making), Some(ratio)) => {
            let (width_px, height_px) = making.size_px();
            Some(ratio.cropped_width_px(width_px, height_px))
        }
        _ => None,
    };
    let widths = read_widths(table, ratio, cropped_px, upscale_max);
    let default_width_px = read_default_width(table, widths.as_deref(), cropped_px);
    let sizes = table.text("sizes").and_then(|text| read_sizes(table, &text)).unwrap_or_else(|| "100vw".to_owned());
    let urgency = table.table("priority").and_then(|priority| read_urgency(&priority)).unwrap_or_default();
    let on_miss = read_on_miss(table);
    let markup = markup::read(table, generate, &policy.locales);
    let label = label::read_slot(table, label, &policy.locales);
    let review = review::read(table, policy.review, policy.is_recallable);
    let gates = review::read_gates(table, review, &policy.gates);
    let formats = read_formats(table);
    let qualities = read_qualities(table);
    let layers = layers::read_slot(table, generate.axes, briefing);
    table.finish(|key| {
        generate::KEYS.contains(&key).then(|| format!("`{key}` of this slot stands in [slots.{}.generate]", name.value))
    });
    Some(Slot {
        name: name.value.to_owned(),
        ratio: ratio?,
        default_width_px: default_width_px?,
        widths: widths?,
        upscale_max,
        sizes,
        urgency,
        on_miss,
        review,
        markup,
        gates,
        label,
        formats,
        qualities,
        making: making?,
        layers,
    })
}

fn read_widths(
    table: &TableReader<'_, '_>,
    ratio: Option<Ratio>,
    cropped_px: Option<u32>,
    upscale_max: f64,
) -> Option<Vec<u32>> {
    const MISSING: &str = "`widths` is missing: the widths in px this slot is cut to, ascending";
    if !table.has("widths") {
        table.missing("widths", MISSING);
    }
    let widths = table.integers("widths", 1..=WIDTH_PX_MAX, WIDTHS_MAX)?;
    if widths.is_empty() {
        table.fault(table.span(), MISSING);
    }
    for ((before, _), (width, span)) in widths.iter().zip(widths.iter().skip(1)) {
        if width <= before {
            table.fault(span, format!("`widths` ascend, but {width} follows {before}"));
        }
    }
    for (width, span) in &widths {
        check_reach(table, *width, span, ratio, cropped_px, upscale_max);
    }
    Some(widths.into_iter().map(|(width, _)| width).collect())
}

fn check_reach(
    table: &TableReader<'_, '_>,
    width: u32,
    span: &Range<usize>,
    ratio: Option<Ratio>,
    cropped_px: Option<u32>,
    upscale_max: f64,
) {
    if let Some(cropped_px) = cropped_px
        && f64::from(width) > f64::from(cropped_px) * upscale_max + 1e-6
    {
        let factor = f64::from(width) / f64::from(cropped_px);
        let reason = format!(
            "{width} px is {factor:.2} times the {cropped_px} px this slot's crop has, above `upscale_max` {upscale_max}"
        );
        table.fault(span, reason);
    }
    if let Some(ratio) = ratio
        && ratio.height_px(width) > WIDTH_PX_MAX
    {
        table.fault(span, format!("at {width} px the picture is higher than {WIDTH_PX_MAX} px"));
    }
}

/// The named rung; without one the smallest that loses nothing of the master.
fn read_default_width(table: &TableReader<'_, '_>, widths: Option<&[u32]>, cropped_px: Option<u32>) -> Option<u32> {
    let asked = table.integer("default_width", 1..=WIDTH_PX_MAX);
    let widths = widths?;
    if let Some(asked) = asked
        && !widths.contains(&asked)
    {
        table.fault(table.span(), format!("`default_width` {asked} is not one of `widths`"));
    }
    let lossless = widths.iter().copied().find(|width| cropped_px.is_some_and(|cropped| *width >= cropped));
    asked.or(lossless).or_else(|| widths.last().copied())
}

/// `sizes` goes into an HTML attribute as it is.
fn read_sizes(table: &TableReader<'_, '_>, text: &Text<'_>) -> Option<String> {
    let is_safe = |c: char| (c.is_ascii_graphic() || c == ' ') && !matches!(c, '"' | '\'' | '<' | '>' | '&' | '\\');
    if text.value.len() <= SIZES_BYTES_MAX && !text.value.trim().is_empty() && text.value.chars().all(is_safe) {
        return Some(text.value.trim().to_owned());
    }
    table.fault(&text.span, "`sizes` is the HTML attribute, such as \"(min-width: 60rem) 50vw, 100vw\"");
    None
}

fn read_urgency(priority: &TableReader<'_, '_>) -> Option<Urgency> {
    let urgency = priority.integer("urgency", 0..=7);
    priority.finish(no_hint);
    urgency.and_then(|urgency| u8::try_from(urgency).ok()).and_then(Urgency::new)
}

/// A policy by its name alone.
#[derive(Debug, Clone, Copy)]
enum Named {
    Fallback,
    Placeholder,
    Wait,
}

/// `{ policy = "fallback" }`, `{ policy = "placeholder" }`, `{ policy = "wait", wait_ms = …, then = … }`, or the
/// last as `{ wait = { wait_ms = …, then = … } }`. Without a word the fallback: a page never waits unless told.
fn read_on_miss(table: &TableReader<'_, '_>) -> MissPolicy {
    let Some(on_miss) = table.table("on_miss") else { return MissPolicy::Fallback };
    let policy = if on_miss.has("wait") {
        let wait = on_miss.table("wait");
        let policy = wait.as_ref().map_or(MissPolicy::Fallback, read_wait);
        if let Some(wait) = wait {
            wait.finish(no_hint);
        }
        policy
    } else {
        let policies = [("fallback", Named::Fallback), ("placeholder", Named::Placeholder), ("wait", Named::Wait)];
        match on_miss.choice("policy", &policies) {
            Some(Named::Placeholder) => MissPolicy::Placeholder,
            Some(Named::Wait) => read_wait(&on_miss),
            Some(Named::Fallback) => MissPolicy::Fallback,
            None => {
                if !on_miss.has("policy") {
                    on_miss.missing("policy", "`on_miss.policy` is missing: fallback, placeholder or wait");
                }
                MissPolicy::Fallback
            }
        }
    };
    on_miss.finish(no_hint);
    policy
}

fn read_wait(table: &TableReader<'_, '_>) -> MissPolicy {
    if !table.has("wait_ms") {
        table.missing("wait_ms", "`wait_ms` is missing: how long a reader waits for the image");
    }
    let wait_ms = table.integer("wait_ms", 1..=WAIT_MS_MAX).unwrap_or(1);
    let stopgaps = [("fallback", Stopgap::Fallback), ("placeholder", Stopgap::Placeholder)];
    MissPolicy::Wait { wait_ms, then: table.choice("then", &stopgaps).unwrap_or(Stopgap::Fallback) }
}

fn read_formats(table: &TableReader<'_, '_>) -> FormatSet {
    let Some(names) = table.texts("formats", Format::ALL.len()) else { return FormatSet::ALL };
    let mut formats = FormatSet::EMPTY;
    let mut is_whole = true;
    for name in &names {
        match Format::from_name(name.value) {
            Some(format) => formats = formats.with(format),
            None => {
                is_whole = false;
                table.fault(&name.span, format!("`{}` is none of `avif`, `webp`, `jpg` and `png`", name.value));
            }
        }
    }
    if is_whole && !formats.contains(Format::Jpeg) {
        let span = names.first().map_or(table.span(), |name| &name.span);
        table.fault(span, "`formats` has `jpg`: it is what every client can decode");
    }
    formats
}

fn read_qualities(table: &TableReader<'_, '_>) -> Vec<Quality> {
    let numbers = table.integers("qualities", 1..=100, 16).unwrap_or_default();
    numbers.into_iter().filter_map(|(number, _)| u8::try_from(number).ok().and_then(Quality::new)).collect()
}
