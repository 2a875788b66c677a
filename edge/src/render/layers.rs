//! Layers: the real product, the right words and what carries them, laid on a rendition of one master.
//!
//! ```text
//! LayerSet ─▶ place every layer (place, image, text) ─▶ draw them in order (patch: premultiplied, linear light)
//!                                                        └ text: contrast against what is behind it ─▶ fallbacks
//! ```
//!
//! A [`LayerSet`] is all that is laid on one picture: its texts are filled in, its files read, and its digest stands for all of
//! it in keys. Composing is a pure function of the set and the pixels, at the rendition's size, and is over in milliseconds.
//! Invariants: a set is valid by construction, bounded in layers, letters, pixels and blur; everything that decides a pixel is
//! whole numbers or arithmetic that every processor rounds alike, so the same bytes come out on every thread and machine; no
//! font, file or address of the system is looked at.

use serde::Serialize;

mod asset;
mod blur;
mod cache;
mod compose;
mod contrast;

mod light;
mod panel;
mod patch;
mod place;
mod report;
mod shadow;
mod silhouette;
mod svg;
mod text;
mod trial;

pub use asset::{ASSET_BYTES_MAX, AssetError, ImageAsset};
pub use compose::compose;
pub use contrast::ContrastMin;
pub use panel::{Fill, Panel, PanelBox, Towards};
pub use patch::{Blend, Colour, Opacity};
pub use place::{Along, Direction, Extent, INSET_MAX, Insets, LayerAnchor, Length, Placing};
pub use report::{FallbackReason, FallbackTaken, LayerOutcome, LayerReport, Presence};
pub use shadow::{Shadow, ShadowKind};
pub use silhouette::{Greys, REACH_MAX, Silhouette, White};
pub use text::{
    FONT_BYTES_MAX, FONTS_MAX, FontError, FontFace, Hyphens, LINES_MAX, Misfit, TEXT_CHARS_MAX, TextStyle, Words,
};
pub use trial::{LayerFault, Trial};

/// Raise when the same layers would come out as other pixels: it is part of the keys and versions of pictures with
/// layers.
pub const LAYERS_REVISION: u32 = 3;
/// Most layers of a set.
pub const LAYERS_MAX: usize = 16;
/// Most fallbacks of a text.
pub const FALLBACKS_MAX: usize = 8;

/// The widest blur: a tenth of the picture's shorter side.
const fn blur_px_max(shorter_px: i64) -> i64 {
    shorter_px / 10
}

/// One layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Layer {
    pub name: String,
    pub kind: LayerKind,
    pub blend: Blend,
    pub opacity: Opacity,
}

/// What a layer is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum LayerKind {
    /// A packshot or logo, as large as its box lets it be in its own shape.
    Image {
        asset: ImageAsset,
        placing: Placing,
    },
    Shadow(Shadow),
    Text(Box<TextLayer>),
    Panel(Panel),
}

impl LayerKind {
    /// For metric labels and reports.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Image { .. } => "image",
            Self::Shadow(_) => "shadow",
            Self::Text(_) => "text",
            Self::Panel(_) => "panel",
        }
    }
}

/// Words in their box.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TextLayer {
    pub words: Words,
    /// What stands for them where they do not fit or cannot be read.
    pub short: Option<Words>,
    pub style: TextStyle,
    pub colour: Colour,
    /// Its width and height are the room that the text may take.
    pub placing: Placing,
    pub contrast_min: ContrastMin,
    /// Tried in this order where the text cannot be set or read.
    pub fallbacks: Vec<Fallback>,
}

/// What is done about a text that cannot be set or read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Fallback {
    /// The panel of that index is drawn behind it; a panel that is a fallback is not drawn otherwise.
    Panel(usize),
    /// Its short text is set.
    Shorter,
    /// It is left out.
    LeaveOut,
}

/// Why layers are no set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayerSetError {
    #[error("there are {count} layers, at most {LAYERS_MAX}")]
    TooMany { count: usize },
    #[error("two layers are called `{name}`")]
    Twice { name: String },
    #[error("`{name}` names a layer that there is not, or that casts no shadow and takes no panel")]
    Reference { name: String },
    #[error("text `{name}` has {fonts} fonts, {lines} lines at most and {fallbacks} fallbacks; that is out of bounds")]
    Text { name: String, fonts: usize, lines: u8, fallbacks: usize },
    #[error("text `{name}` falls back to its short text and has none, or to a panel that is none")]
    Fallback { name: String },
}

/// See the module's documentation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LayerSet {
    layers: Vec<Layer>,
    insets: Insets,
    direction: Direction,
    /// BCP 47, for shaping and hyphens.
    language: String,
    /// How wide the picture usually is on a page, in CSS pixels: by it the size of letters is judged.
    shown_width_px: u32,
    #[serde(skip)]
    digest: [u8; 16],
}

impl LayerSet {
    /// # Errors
    /// When a bound is broken, or a layer names another that cannot be what it is named for.
    pub fn new(
        layers: Vec<Layer>,
        insets: Insets,
        direction: Direction,
        language: &str,
        shown_width_px: u32,
    ) -> Result<Self, LayerSetError> {
        check(&layers)?;
        let insets = Insets {
            top: insets.top.min(INSET_MAX),
            end: insets.end.min(INSET_MAX),
            bottom: insets.bottom.min(INSET_MAX),
            start: insets.start.min(INSET_MAX),
        };
        let (language, shown_width_px) = (language.to_owned(), shown_width_px.max(1));
        let mut set = Self { layers, insets, direction, language, shown_width_px, digest: [0; 16] };
        set.digest = set.computed_digest();
        Ok(set)
    }

    /// Over everything that decides what is laid on a picture: a field that is added to a layer is in it.
    fn computed_digest(&self) -> [u8; 16] {
        let text = serde_json::to_vec(self).unwrap_or_default();
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"bildkante layers 1\0").update(&LAYERS_REVISION.to_le_bytes()).update(&text);
        let mut digest = [0; 16];
        digest.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        digest
    }

    #[must_use]
    pub const fn digest(&self) -> &[u8; 16] {
        &self.digest
    }

    #[must_use]
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    #[must_use]
    pub const fn direction(&self) -> Direction {
        self.direction
    }

    #[must_use]
    pub fn language(&self) -> &str {
        &self.language
    }

    /// For people: each layer's name, its kind, and what it shows.
    pub fn told(&self) -> impl Iterator<Item = (&str, &'static str, String)> {
        self.layers.iter().map(|layer| {
            let shows = match &layer.kind {
                LayerKind::Image { asset, .. } => {
                    let (width_px, height_px) = asset.size_px();
                    format!("{} of {width_px}×{height_px} px, {}", asset.media_type(), asset.digest())
                }
                LayerKind::Text(text) => format!("“{}”", text.words.as_str()),
                LayerKind::Shadow(shadow) => format!("of {}", self.layers[shadow.of].name),
                LayerKind::Panel(Panel { area: PanelBox::Around { layer, .. }, .. }) => {
                    format!("around {}", self.layers[*layer].name)
                }
                LayerKind::Panel(_) => "in a box of its own".to_owned(),
            };
            (layer.name.as_str(), layer.kind.as_str(), shows)
        })
    }

    /// The pictures in it, in order, each once.
    #[must_use]
    pub fn images(&self) -> Vec<(&str, &ImageAsset)> {
        let mut images: Vec<(&str, &ImageAsset)> = Vec::new();
        for layer in &self.layers {
            if let LayerKind::Image { asset, .. } = &layer.kind
                && images.iter().all(|(_, known)| known.digest() != asset.digest())
            {
                images.push((&layer.name, asset));
            }
        }
        images
    }

    /// Whether a panel is drawn only where a text needs it.
    fn is_on_demand(&self, panel: usize) -> bool {
        self.layers.iter().any(|layer| match &layer.kind {
            LayerKind::Text(text) => text.fallbacks.contains(&Fallback::Panel(panel)),
            _ => false,
        })
    }
}

fn check(layers: &[Layer]) -> Result<(), LayerSetError> {
    if layers.len() > LAYERS_MAX {
        return Err(LayerSetError::TooMany { count: layers.len() });
    }
    let is_solid = |index: usize| {
        layers.get(index).is_some_and(|layer| matches!(layer.kind, LayerKind::Image { .. } | LayerKind::Text(_)))
    };
    let is_panel = |index: usize| layers.get(index).is_some_and(|layer| matches!(layer.kind, LayerKind::Panel(_)));
    for (at, layer) in layers.iter().enumerate() {
        let name = || layer.name.clone();
        if layers[..at].iter().any(|other| other.name == layer.name) {
            return Err(LayerSetError::Twice { name: name() });
        }
        match &layer.kind {
            LayerKind::Shadow(Shadow { of: other, .. })
            | LayerKind::Panel(Panel { area: PanelBox::Around { layer: other, .. }, .. }) => {
                if !is_solid(*other) {
                    return Err(LayerSetError::Reference { name: name() });
                }
            }
            LayerKind::Text(text) => {
                let (fonts, lines) = (text.style.fonts.len(), text.style.lines_max);
                let fallbacks = text.fallbacks.len();
                if fonts == 0 || fonts > FONTS_MAX || lines == 0 || lines > LINES_MAX || fallbacks > FALLBACKS_MAX {
                    return Err(LayerSetError::Text { name: name(), fonts, lines, fallbacks });
                }
                let is_possible = |fallback: &Fallback| match fallback {
                    Fallback::Panel(panel) => is_panel(*panel),
                    Fallback::Shorter => text.short.is_some(),
                    Fallback::LeaveOut => true,
                };
                if !text.fallbacks.iter().all(is_possible) {
                    return Err(LayerSetError::Fallback { name: name() });
                }
            }
            LayerKind::Image { .. } | LayerKind::Panel(_) => {}
        }
    }
    Ok(())
}

/// Why layers could not be laid on a picture.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("layer `{layer}`: {source}")]
pub struct LayerError {
    pub layer: String,
    pub source: AssetError,
}

#[cfg(test)]
mod tests;
