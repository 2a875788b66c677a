//! Reading a slot's layers from its manifest.

use super::super::axes::{self, ReadAxis};
use super::super::briefing::Briefing;
use super::super::names::is_name;
use super::super::reader::{TableReader, Text, no_hint};
use super::super::template::{Placeholder, Template};
use super::{FallbackPlan, KindPlan, LayerPlan, PathPlan, SlotPlan, TextPlan};
use crate::render::layers::{
    Along, Blend, Colour, ContrastMin, Extent, FALLBACKS_MAX, FONTS_MAX, Fill, Hyphens, LAYERS_MAX, LINES_MAX,
    LayerAnchor, Length, Opacity, Placing, ShadowKind, Towards,
};

use super::super::manifest::VALUES_MAX;

/// Longest path of a file.
const PATH_BYTES_MAX: usize = 200;

/// `[fonts]`.
pub(super) fn read_fonts(root: &TableReader<'_, '_>) -> Vec<String> {
    let Some(table) = root.table("fonts") else { return Vec::new() };
    if !table.has("files") {
        table.missing(
            "files",
            "`fonts.files` is missing: paths below the campaigns' folder, such as [\"fonts/Sans.ttf\"]",
        );
    }
    let files = table.texts("files", FONTS_MAX).unwrap_or_default();
    let files = files.iter().filter_map(|file| checked_path(&table, file)).collect();
    table.finish(no_hint);
    files
}

/// A slot's `layers` and `text_share_max`.
pub(in super::super) fn read_slot(slot: &TableReader<'_, '_>, axes: &[ReadAxis], briefing: &Briefing) -> SlotPlan {
    let share = slot.number("text_share_max", 0.0..=1.0);
    let tables = if slot.has("layers") { slot.list_of_tables("layers", LAYERS_MAX) } else { Vec::new() };
    let layers: Vec<LayerPlan> = tables.iter().filter_map(|table| read_layer(table, axes)).collect();
    if layers.len() == tables.len() {
        check_names(&layers, &tables);
    }
    if slot.has("text_share_max") && !slot.has("layers") {
        slot.fault(slot.span(), "`text_share_max` is without effect: the slot has no `layers`");
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 10000")]
    let text_share_max = share.or(briefing.text_share_max).map(|share| (share * 10_000.0).round() as u32);
    let text_share_max = text_share_max.filter(|_| !layers.is_empty());
    SlotPlan { layers, text_share_max }
}

fn read_layer(table: &TableReader<'_, '_>, axes: &[ReadAxis]) -> Option<LayerPlan> {
    let name = table.required_text("name");
    if let Some(name) = &name
        && !is_name(name.value)
    {
        table.fault(&name.span, format!("`{}` is no name; names are a-z, 0-9 and -", name.value));
    }
    let kinds = ["image", "text", "panel", "shadow"].into_iter().filter(|kind| table.has(kind)).collect::<Vec<_>>();
    let kind = match *kinds.as_slice() {
        ["image"] => read_image(table, axes),
        ["text"] => read_text(table),
        ["panel"] => read_panel(table),
        ["shadow"] => read_shadow(table),
        _ => {
            table.fault(table.span(), "a layer has one of `image`, `text`, `panel` and `shadow`");
            table.expect(&["image", "text", "panel", "shadow"]);
            return None;
        }
    };
    let blend = table.choice("blend", &Blend::ALL.map(|blend| (blend.as_str(), blend))).unwrap_or_default();
    let opacity = table.number("opacity", 0.0..=1.0).and_then(Opacity::new).unwrap_or(Opacity::OPAQUE);
    let (only, cuts) = table.table("only").map(|only| read_only(&only, axes)).unwrap_or_default();
    table.finish(no_hint);
    Some(LayerPlan {
        name: name?.value.to_owned(),
        kind: kind?,
        blend,
        opacity,
        only,
        cuts,
        span: table.span().clone(),
    })
}

/// Values of axes, and cuts.
fn read_only(table: &TableReader<'_, '_>, axes: &[ReadAxis]) -> (Vec<(usize, Vec<usize>)>, Vec<String>) {
    let (mut only, mut cuts) = (Vec::new(), Vec::new());
    for (name, wanted) in table.named_lists(axes.len() + 1) {
        if wanted.is_empty() {
            table.fault(&name.span, format!("`only.{}` allows nothing: the layer would never be there", name.value));
        }
        if wanted.len() > VALUES_MAX {
            let reason = format!("`only.{}` has {} entries, at most {VALUES_MAX}", name.value, wanted.len());
            table.fault(&name.span, reason);
            continue;
        }
        if name.value == "cuts" && axes::named(axes, "cuts").is_err() {
            cuts = wanted.iter().map(|cut| cut.value.to_owned()).collect();
            continue;
        }
        let axis = match axes::named(axes, name.value) {
            Ok(axis) => axis,
            Err(reason) => {
                table.fault(&name.span, reason);
                continue;
            }
        };
        let known = &axes[axis].axis;
        let values = wanted.iter().filter_map(|value| {
            let index = known.value_index(value.value);
            if index.is_none() {
                table.fault(&value.span, format!("axis `{}` has no value `{}`", known.name, value.value));
            }
            index
        });
        only.push((axis, values.collect()));
    }
    // Their keys are names of axes.
    (only, cuts)
}

fn read_image(table: &TableReader<'_, '_>, axes: &[ReadAxis]) -> Option<KindPlan> {
    let text = table.text("image")?;
    let source = checked_path(table, &text)?;
    let template = Template::parse(&source, |placeholder| match placeholder {
        Placeholder::Axis(name) => axes::named(axes, name).map(super::Part::Axis),
        Placeholder::Style(_) | Placeholder::Block(_) => Err("a path knows axes only".to_owned()),
    });
    let template = super::super::generate::link(table, &text, template)?;
    Some(KindPlan::Image { path: PathPlan { template, source }, placing: placing(table) })
}

fn read_text(table: &TableReader<'_, '_>) -> Option<KindPlan> {
    let key = table.text("text")?.value.to_owned();
    let fonts = table.texts("fonts", FONTS_MAX).unwrap_or_default();
    let size = |key, usual| length(table, key).filter(|size| size.is_positive()).unwrap_or(Length::Share(usual));
    let (size_min, size_max) = (size("size_min", 300), size("size_max", 800));
    if let (Length::Share(min), Length::Share(max)) | (Length::Px(min), Length::Px(max)) = (size_min, size_max)
        && min > max
    {
        table.fault(table.span(), format!("`size_min` {size_min} is above `size_max` {size_max}"));
    }
    let aligns = [("start", Along::Start), ("centre", Along::Centre), ("end", Along::End)];
    let hyphens = [("auto", Hyphens::Auto), ("manual", Hyphens::Manual)];
    let lines_max = table.integer("lines_max", 1..=u32::from(LINES_MAX)).and_then(|lines| u8::try_from(lines).ok());
    let weight = table.integer("weight", 1..=1000).and_then(|weight| u16::try_from(weight).ok());
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "all within their ranges")]
    let (line_height_percent, letter_spacing, contrast_min) = (
        table.number("line_height", 0.7..=3.0).map_or(120, |height| (height * 100.0).round() as u16),
        table.number("letter_spacing", -0.1..=0.5).map_or(0, |spacing| (spacing * 1000.0).round() as i16),
        table
            .number("contrast_min", 1.0..=21.0)
            .map_or(ContrastMin::BySize, |ratio| ContrastMin::Ratio((ratio * 100.0).round() as u16)),
    );
    Some(KindPlan::Text(Box::new(TextPlan {
        key,
        fonts: fonts.iter().filter_map(|font| checked_path(table, font)).collect(),
        weight: weight.unwrap_or(400),
        size_min,
        size_max,
        lines_max: lines_max.unwrap_or(2),
        line_height_percent,
        letter_spacing,
        align: table.choice("align", &aligns).unwrap_or(Along::Start),
        hyphens: table.choice("hyphens", &hyphens).unwrap_or_default(),
        colour: colour(table, "colour").unwrap_or(Colour::WHITE),
        placing: placing(table),
        contrast_min,
        fallbacks: read_fallbacks(table),
    })))
}

fn read_fallbacks(table: &TableReader<'_, '_>) -> Vec<FallbackPlan> {
    let words = table.texts("fallback", FALLBACKS_MAX).unwrap_or_default();
    let fallbacks = words.iter().filter_map(|word| match word.value.split_once(':') {
        Some(("panel", name)) => Some(FallbackPlan::Panel(name.to_owned())),
        None if word.value == "shorter" => Some(FallbackPlan::Shorter),
        None if word.value == "none" => Some(FallbackPlan::LeaveOut),
        _ => {
            table.fault(&word.span, format!("`{}` is none of `panel:NAME`, `shorter` and `none`", word.value));
            None
        }
    });
    fallbacks.collect()
}

fn read_panel(table: &TableReader<'_, '_>) -> Option<KindPlan> {
    let panel = table.table("panel")?;
    let gradient = panel.has("from") || panel.has("to") || panel.has("towards");
    let fill = if gradient {
        let towards = panel.choice("towards", &Towards::ALL).unwrap_or(Towards::Bottom);
        let (from, to) = (colour(&panel, "from"), colour(&panel, "to"));
        if !(panel.has("from") && panel.has("to")) {
            panel.fault(panel.span(), "a gradient has `from` and `to`");
        }
        from.zip(to).map(|(from, to)| Fill::Gradient { from, to, towards })
    } else {
        if !panel.has("colour") {
            panel.missing("colour", "a panel has a `colour`, or `from` and `to`");
        }
        colour(&panel, "colour").map(Fill::Colour)
    };
    let padding = pair(&panel, "padding");
    let around = panel.text("around").map(|name| (name.value.to_owned(), padding.unwrap_or([Length::ZERO; 2])));
    if around.is_none() && panel.has("padding") {
        panel.fault(panel.span(), "`padding` is around a layer: name it by `around`");
    }
    let (radius, blur) =
        (length(&panel, "radius").unwrap_or(Length::ZERO), length(&panel, "blur").unwrap_or(Length::ZERO));
    panel.finish(no_hint);
    let placing = placing(table);
    if around.is_some() && (placing.width.is_some() || placing.height.is_some() || table.has("anchor")) {
        table.fault(
            table.span(),
            "a panel around a layer has the layer's place: leave out `anchor`, `width` and `height`",
        );
    }
    Some(KindPlan::Panel { around, placing, fill: fill?, radius, blur })
}

fn read_shadow(table: &TableReader<'_, '_>) -> Option<KindPlan> {
    let shadow = table.table("shadow")?;
    let of = shadow.required_text("of").map(|of| of.value.to_owned());
    let flat = shadow.integer("flat_percent", 1..=50).and_then(|flat| u8::try_from(flat).ok());
    let contact = ShadowKind::Contact { flat_percent: flat.unwrap_or(8) };
    let kind = shadow.choice("kind", &[("drop", ShadowKind::Drop), ("contact", contact)]).unwrap_or(ShadowKind::Drop);
    if flat.is_some() && kind == ShadowKind::Drop {
        shadow.fault(shadow.span(), "`flat_percent` is of a contact shadow alone");
    }
    let direction = shadow.integer("direction", 0..=359).and_then(|degrees| u16::try_from(degrees).ok());
    let usual_px = if kind == ShadowKind::Drop { 100 } else { 0 };
    let plan = KindPlan::Shadow {
        of: of?,
        kind,
        direction_deg: direction.unwrap_or(90),
        distance: length(&shadow, "distance").unwrap_or(Length::Share(usual_px)),
        softness: length(&shadow, "softness").unwrap_or(Length::Share(200)),
        colour: colour(&shadow, "colour").unwrap_or(Colour { rgb: [0; 3], alpha: 128 }),
    };
    shadow.finish(no_hint);
    Some(plan)
}

fn placing(table: &TableReader<'_, '_>) -> Placing {
    let anchor = table.choice("anchor", &LayerAnchor::named()).unwrap_or_default();
    let offset = pair(table, "offset").unwrap_or([Length::ZERO; 2]);
    Placing {
        anchor,
        offset,
        width: extent(table, "width", "width_min", "width_max"),
        height: extent(table, "height", "height_min", "height_max"),
    }
}

fn extent(table: &TableReader<'_, '_>, of: &'static str, min: &'static str, max: &'static str) -> Option<Extent> {
    let (length, min_length, max_length) = (length(table, of), length(table, min), length(table, max));
    if length.is_none() && (min_length.is_some() || max_length.is_some()) {
        table.fault(table.span(), format!("`{min}` and `{max}` bound `{of}`, which is missing"));
    }
    if length.is_some_and(|length| !length.is_positive()) {
        table.fault(table.span(), format!("`{of}` is above 0"));
    }
    Some(Extent { length: length?, min: min_length, max: max_length })
}

fn pair(table: &TableReader<'_, '_>, key: &'static str) -> Option<[Length; 2]> {
    let texts = table.texts(key, 2)?;
    let lengths: Vec<Length> = texts.iter().filter_map(|text| parsed_length(table, key, text)).collect();
    let pair = <[Length; 2]>::try_from(lengths).ok();
    if pair.is_none() {
        table.fault(table.span(), format!("`{key}` is a pair such as [\"2%\", \"16px\"]"));
    }
    pair
}

fn length(table: &TableReader<'_, '_>, key: &'static str) -> Option<Length> {
    parsed_length(table, key, &table.text(key)?)
}

fn parsed_length(table: &TableReader<'_, '_>, key: &str, text: &Text<'_>) -> Option<Length> {
    let length = Length::parse(text.value);
    if length.is_none() {
        table.fault(&text.span, format!("`{key}` is a length such as \"38%\" or \"24px\", not `{}`", text.value));
    }
    length
}

fn colour(table: &TableReader<'_, '_>, key: &'static str) -> Option<Colour> {
    let text = table.text(key)?;
    let colour = Colour::parse(text.value);
    if colour.is_none() {
        table.fault(
            &text.span,
            format!("`{key}` is a colour such as \"#ffffff\" or \"#00000080\", not `{}`", text.value),
        );
    }
    colour
}

/// A path that stays below its folder.
fn checked_path(table: &TableReader<'_, '_>, text: &Text<'_>) -> Option<String> {
    let path = text.value;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '_' | '-' | '{' | '}');
    let has_bad_part = path.split('/').any(|part| part.is_empty() || part.starts_with('.'));
    if path.len() > PATH_BYTES_MAX || has_bad_part || !path.chars().all(is_plain) {
        let rule = "letters, digits, `.`, `_`, `-` and `/`, no part of which begins with a dot";
        table.fault(&text.span, format!("`{path}` is no path below the campaigns' folder; it has {rule}"));
        return None;
    }
    Some(path.to_owned())
}

/// What layers name of each other.
fn check_names(layers: &[LayerPlan], tables: &[TableReader<'_, '_>]) {
    let kind_of = |name: &str| layers.iter().find(|layer| layer.name == name).map(|layer| &layer.kind);
    for (at, (layer, table)) in layers.iter().zip(tables).enumerate() {
        let fault = |reason: String| table.fault(table.span(), reason);
        if layers[..at].iter().any(|other| other.name == layer.name) {
            fault(format!("two layers are called `{}`", layer.name));
        }
        let solid = match &layer.kind {
            KindPlan::Shadow { of, .. } => Some(of),
            KindPlan::Panel { around, .. } => around.as_ref().map(|(name, _)| name),
            KindPlan::Image { .. } | KindPlan::Text(_) => None,
        };
        if let Some(name) = solid
            && !matches!(kind_of(name), Some(KindPlan::Image { .. } | KindPlan::Text(_)))
        {
            fault(format!("`{}` names `{name}`, which is no image and no text of this slot", layer.name));
        }
        if let KindPlan::Text(text) = &layer.kind {
            for fallback in &text.fallbacks {
                if let FallbackPlan::Panel(name) = fallback
                    && !matches!(kind_of(name), Some(KindPlan::Panel { .. }))
                {
                    fault(format!("`{}` falls back to `{name}`, which is no panel of this slot", layer.name));
                }
            }
        }
    }
}
