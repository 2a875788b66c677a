//! Slots: the places of a page an image is made for, with their shape, widths, priority and miss policy.

use std::fmt;

use bildkante_shared::urgency::Urgency;

use super::axes::{Axis, LOCALE_AXIS};
use super::briefing::Briefing;
use super::cuts::{self, ART, Cut};
use super::framing::{Bounds, Framing};
use super::generate::{self, Generate, GenerateReader, Making};
use super::label::{self, Label};
use super::layers::{self, PlaceReader, SlotPlan};
use super::look::{self, SlotLook};
use super::manifest::{Policy, SLOTS_MAX};
use super::markup::{self, SlotMarkup};
use super::names::is_name;
use super::reader::{TableReader, Text, no_hint};
use super::review::{self, Gates, Review};
use crate::render::{BytesMax, Quality};
use crate::words::{Format, FormatSet};

/// Most rungs of a ladder.
pub const WIDTHS_MAX: usize = 32;
/// Furthest a slot may enlarge a master.
pub const UPSCALE_MAX: f64 = 8.0;
/// Longest a slot may wait for a node.
pub const WAIT_MS_MAX: u32 = 60_000;
const NO_SLOTS: &str = "there are no slots: a campaign has at least one [slots.NAME]";

/// A placement in a page.
#[derive(Debug, Clone, PartialEq)]
pub struct Slot {
    pub name: String,
    /// Of what a URL without `art` gets.
    pub framing: Framing,
    /// For other screens, in the order in which a browser tries them.
    pub cuts: Vec<Cut>,
    /// How far a master's cropped width may be enlarged; 1.0 not at all.
    pub upscale_max: f64,
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
    /// What its pictures have in common.
    pub look: Option<SlotLook>,
    pub making: Making,
    /// What is laid on its pictures.
    pub layers: SlotPlan,
}

/// A rendition as a page asks for it: its display is the part of a query that comes after the axes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rung<'s> {
    /// `None` in the slot's own framing.
    pub art: Option<&'s str>,
    pub width_px: u32,
    pub format: Format,
}

impl fmt::Display for Rung<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(art) = self.art {
            write!(f, "{ART}={art}&")?;
        }
        write!(f, "w={}&fm={}", self.width_px, self.format.extension())
    }
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
            Making::Drawn(generate) => generate.differs_by(axis),
            Making::Imported { .. } => axes[axis].name != LOCALE_AXIS || axes[axis].is_distinct,
        }
    }

    /// The framing of a cut, by its place in `cuts`; without one the slot's own.
    #[must_use]
    pub fn framing_of(&self, cut: Option<usize>) -> &Framing {
        cut.and_then(|cut| self.cuts.get(cut)).map_or(&self.framing, |cut| &cut.framing)
    }

    /// Most bytes of the files of a cut; `None`, of the slot's own framing.
    #[must_use]
    pub fn bytes_max_of(&self, cut: Option<usize>) -> Option<BytesMax> {
        self.framing_of(cut).bytes_max.or(self.framing.bytes_max)
    }

    /// Each framing with the name of its cut, the slot's own first.
    pub fn framings(&self) -> impl Iterator<Item = (Option<&str>, &Framing)> {
        let cuts = self.cuts.iter().map(|cut| (Some(cut.name.as_str()), &cut.framing));
        std::iter::once((None, &self.framing)).chain(cuts)
    }

    /// Every width of every framing in these formats, as far as the slot has them.
    pub fn rungs<'s>(&'s self, formats: &'s [Format]) -> impl Iterator<Item = Rung<'s>> + 's {
        let formats = formats.iter().copied().filter(|format| self.formats.contains(*format));
        formats.flat_map(move |format| {
            self.framings().flat_map(move |(art, framing)| {
                framing.widths.iter().map(move |width_px| Rung { art, width_px: *width_px, format })
            })
        })
    }

    /// Which parts of a master it shows: what people approve of it holds for these.
    #[must_use]
    pub fn cut_words(&self) -> String {
        let mut words = self.framing.cut_words();
        for Cut { name, framing, .. } in &self.cuts {
            words.push_str(&format!(" {name}={}", framing.cut_words()));
        }
        words
    }

    /// Renditions one variant can have without a signature.
    #[must_use]
    pub fn renditions_max(&self) -> usize {
        let mut qualities = vec![Quality::AUTO, Quality::HIGH, Quality::MEDIUM, Quality::LOW];
        qualities.extend(&self.qualities);
        qualities.sort_unstable();
        qualities.dedup();
        let widths: usize = self.framings().map(|(_, framing)| framing.widths.len()).sum();
        widths * self.formats.len() * qualities.len()
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
    let layers = layers::read_slot(table, generate.axes, briefing);
    let places = PlaceReader::new(name.value, &layers, generate.axes, &policy.locales);
    let making = generate.read(table, &places);
    let upscale_max = table.number("upscale_max", 1.0..=UPSCALE_MAX).unwrap_or(1.0);
    let bounds = Bounds { master_px: making.as_ref().map(Making::size_px), upscale_max };
    let framing = Framing::read(table, bounds);
    let has_axis_art = generate.axes.iter().any(|read| read.axis.name == ART);
    let cuts = cuts::read(table, bounds, has_axis_art);
    let urgency = table.table("priority").and_then(|priority| read_urgency(&priority)).unwrap_or_default();
    let on_miss = read_on_miss(table);
    let markup = markup::read(table, generate, &policy.locales);
    let label = label::read_slot(table, label, &policy.locales);
    let review = review::read(table, policy.review, policy.is_recallable);
    let gates = review::read_gates(table, review, &policy.gates);
    let has_bound = |framing: &Framing| framing.bytes_max.is_some();
    let is_bounded = framing.as_ref().is_some_and(has_bound) || cuts.iter().any(|cut| has_bound(&cut.framing));
    let formats = read_formats(table, is_bounded);
    let qualities = read_qualities(table);
    let look = look::read(table);
    table.finish(|key| {
        generate::KEYS.contains(&key).then(|| format!("`{key}` of this slot stands in [slots.{}.generate]", name.value))
    });
    Some(Slot {
        name: name.value.to_owned(),
        framing: framing?,
        cuts,
        upscale_max,
        urgency,
        on_miss,
        review,
        markup,
        gates,
        label,
        formats,
        qualities,
        look,
        making: making?,
        layers,
    })
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

/// PNG is lossless: no slot whose files are bounded has it.
fn read_formats(table: &TableReader<'_, '_>, is_bounded: bool) -> FormatSet {
    let Some(names) = table.texts("formats", Format::ALL.len()) else {
        return Format::ALL.into_iter().filter(|format| !is_bounded || *format != Format::Png).collect();
    };
    let mut formats = FormatSet::EMPTY;
    let mut is_whole = true;
    for name in &names {
        match Format::from_name(name.value) {
            Some(Format::Png) if is_bounded => {
                let reason = "PNG is lossless, so `bytes_max` cannot be kept in it: leave `png` out of `formats`";
                table.fault(&name.span, reason);
            }
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
