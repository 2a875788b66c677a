//! SVG drawings, by `resvg`, without fonts, files and network.
//!
//! Invariants: what could reach outside, run, or grow without a bound is refused by its name before a pixel is drawn: document
//! types, scripts, texts, pictures inside, filters and patterns; elements are counted as often as they are used. A drawing is drawn at
//! the size it is shown in.

use std::collections::HashMap;
use std::sync::Arc;

use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::roxmltree::{Document, Node, ParsingOptions};
use resvg::usvg::{self, Tree};

use super::asset::ASSET_SIDE_PX_MAX;
use super::light::{Light, times, widened};
use super::patch::Patch;

/// Largest drawing, in bytes.
pub(super) const DRAWING_BYTES_MAX: usize = 1024 * 1024;
/// Most elements of a drawing, each as often as it is used.
pub(super) const DRAWING_ELEMENTS_MAX: u64 = 20_000;
/// Deepest nesting of elements.
pub(super) const DRAWING_DEPTH_MAX: usize = 64;
/// Most elements that are drawn apart first and take a canvas of their own: masks, clips, opacity and blending.
pub(super) const DRAWING_CANVASES_MAX: u64 = 64;

/// Properties for which an element is drawn apart first.
const CANVAS_PROPERTIES: [&str; 5] = ["opacity", "mask", "clip-path", "mix-blend-mode", "isolation"];
/// Elements that are not drawn, and why.
const REFUSED: [(&str, &str); 13] = [
    ("script", "nothing is run"),
    ("foreignObject", "only SVG is drawn"),
    ("image", "no picture is read from within a drawing"),
    ("feImage", "no picture is read from within a drawing"),
    ("text", "fonts are not at hand; turn its texts into paths"),
    ("filter", "filters are unbounded; a shadow is a layer of its own"),
    ("pattern", "patterns are unbounded; draw their shapes"),
    ("animate", "nothing moves"),
    ("animateMotion", "nothing moves"),
    ("animateTransform", "nothing moves"),
    ("set", "nothing moves"),
    ("switch", "it would be another drawing by language"),
    ("a", "nothing is linked"),
];

/// Why a drawing is no layer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DrawingError {
    #[error("the drawing has more than {DRAWING_BYTES_MAX} bytes")]
    TooLarge,
    #[error("it is not valid XML: {0}")]
    Xml(String),
    #[error("line {line}: <{element}> is not drawn: {reason}")]
    Element { element: String, reason: &'static str, line: u32 },
    #[error("line {line}: `{attribute}` reaches outside of the drawing")]
    External { attribute: String, line: u32 },
    #[error("its elements are nested more than {DRAWING_DEPTH_MAX} deep")]
    TooDeep,
    #[error("it uses an element within itself")]
    Endless,
    #[error("it has more than {DRAWING_ELEMENTS_MAX} elements, those that are used several times counted as often")]
    TooManyElements,
    #[error("more than {DRAWING_CANVASES_MAX} of its elements have a mask, a clip, an opacity or a blend mode")]
    TooManyCanvases,
    #[error("it cannot be drawn: {0}")]
    Unusable(String),
}

/// See the module's documentation.
#[derive(Debug, Clone)]
pub(super) struct Drawing(Arc<Tree>);

impl Drawing {
    pub(super) fn read(file: &[u8]) -> Result<Self, DrawingError> {
        if file.len() > DRAWING_BYTES_MAX {
            return Err(DrawingError::TooLarge);
        }
        let text = std::str::from_utf8(file).map_err(|error| DrawingError::Xml(error.to_string()))?;
        let nodes_limit = u32::try_from(DRAWING_ELEMENTS_MAX * 4).unwrap_or(u32::MAX);
        let options = ParsingOptions { allow_dtd: false, nodes_limit, ..ParsingOptions::default() };
        let document =
            Document::parse_with_options(text, options).map_err(|error| DrawingError::Xml(error.to_string()))?;
        check(&document)?;
        let nothing =
            usvg::ImageHrefResolver { resolve_data: Box::new(|_, _, _| None), resolve_string: Box::new(|_, _| None) };
        let options = usvg::Options { resources_dir: None, image_href_resolver: nothing, ..usvg::Options::default() };
        let tree =
            Tree::from_xmltree(&document, &options).map_err(|error| DrawingError::Unusable(error.to_string()))?;
        let drawing = Self(Arc::new(tree));
        let (width, height) = (drawing.0.size().width(), drawing.0.size().height());
        #[allow(clippy::cast_precision_loss, reason = "far below 2^24")]
        let is_sane = |side: f32| (0.5..=ASSET_SIDE_PX_MAX as f32).contains(&side);
        if !is_sane(width) || !is_sane(height) || width / height > 1000.0 || height / width > 1000.0 {
            return Err(DrawingError::Unusable(format!("its size is {width}×{height}")));
        }
        Ok(drawing)
    }

    pub(super) fn size_px(&self) -> (u32, u32) {
        let size = self.0.size().to_int_size();
        (size.width(), size.height())
    }

    /// Drawn in that size.
    pub(super) fn patch(&self, width_px: u32, height_px: u32) -> Result<Patch, DrawingError> {
        let unusable = || DrawingError::Unusable(format!("{width_px}×{height_px} px are too many"));
        let mut canvas = Pixmap::new(width_px, height_px).ok_or_else(unusable)?;
        #[allow(clippy::cast_precision_loss, reason = "sides are small")]
        let scale =
            Transform::from_scale(width_px as f32 / self.0.size().width(), height_px as f32 / self.0.size().height());
        resvg::render(&self.0, scale, &mut canvas.as_mut());
        let light = Light::tables();
        let pixels = canvas.pixels().iter().map(|pixel| {
            // The canvas is premultiplied in code values, which is not the light that shines through.
            let plain = pixel.demultiply();
            let alpha = widened(plain.alpha());
            let [red, green, blue] =
                [plain.red(), plain.green(), plain.blue()].map(|code| times(light.linear(code), alpha));
            [red, green, blue, alpha]
        });
        Ok(Patch { width_px, height_px, pixels: pixels.collect() })
    }
}

/// What one element comes to with all that it uses.
#[derive(Debug, Clone, Copy, Default)]
struct Weight {
    elements: u64,
    canvases: u64,
}

fn check(document: &Document<'_>) -> Result<(), DrawingError> {
    let line = |node: &Node<'_, '_>| document.text_pos_at(node.range().start).row;
    let mut by_id = HashMap::new();
    for node in document.descendants().filter(Node::is_element) {
        let name = node.tag_name().name();
        if let Some((element, reason)) = REFUSED.iter().find(|(refused, _)| *refused == name) {
            return Err(DrawingError::Element { element: (*element).to_owned(), reason, line: line(&node) });
        }
        if node.ancestors().count() > DRAWING_DEPTH_MAX {
            return Err(DrawingError::TooDeep);
        }
        for attribute in node.attributes() {
            let is_reference = attribute.name() == "href" && !attribute.value().trim().starts_with('#');
            if is_reference || reaches_outside(attribute.value()) {
                return Err(DrawingError::External { attribute: attribute.name().to_owned(), line: line(&node) });
            }
        }
        if name == "style" && node.children().filter_map(|child| child.text()).any(is_reaching_style) {
            return Err(DrawingError::External { attribute: "style".to_owned(), line: line(&node) });
        }
        if let Some(id) = node.attribute("id") {
            by_id.insert(id, node);
        }
    }
    let styles = document.descendants().filter(|node| node.tag_name().name() == "style");
    let is_styled =
        styles.filter_map(|node| node.text()).any(|style| CANVAS_PROPERTIES.iter().any(|name| style.contains(name)));
    let mut scales = Scales { by_id, known: HashMap::new(), is_styled };
    scales.weigh(document.root_element(), 0).map(|_| ())
}

fn is_reaching_style(style: &str) -> bool {
    style.contains("@import") || reaches_outside(style)
}

/// Whether an address in it is none of the drawing's own.
fn reaches_outside(value: &str) -> bool {
    let mut parts = value.split("url(").skip(1);
    parts.any(|rest| !rest.trim_start_matches([' ', '\'', '"']).starts_with('#'))
}

/// Weighs elements, each once.
struct Scales<'d> {
    by_id: HashMap<&'d str, Node<'d, 'd>>,
    /// `None` of one that is being weighed.
    known: HashMap<usize, Option<Weight>>,
    /// Whether a class may take a canvas.
    is_styled: bool,
}

impl<'d> Scales<'d> {
    /// An element's weight, with that of everything that it shows from elsewhere in the drawing.
    fn weigh(&mut self, node: Node<'d, 'd>, depth: usize) -> Result<Weight, DrawingError> {
        let id = node.id().get_usize();
        match self.known.get(&id) {
            Some(Some(weight)) => return Ok(*weight),
            Some(None) => return Err(DrawingError::Endless),
            None => {}
        }
        if depth > 4 * DRAWING_DEPTH_MAX {
            return Err(DrawingError::TooDeep);
        }
        self.known.insert(id, None);
        let mut weight = Weight { elements: 1, canvases: u64::from(self.takes_canvas(node)) };
        let used: Vec<_> = references(node).filter_map(|id| self.by_id.get(id).copied()).collect();
        for other in node.children().filter(Node::is_element).chain(used) {
            let theirs = self.weigh(other, depth + 1)?;
            weight.elements = weight.elements.saturating_add(theirs.elements);
            weight.canvases = weight.canvases.saturating_add(theirs.canvases);
            if weight.elements > DRAWING_ELEMENTS_MAX {
                return Err(DrawingError::TooManyElements);
            }
            if weight.canvases > DRAWING_CANVASES_MAX {
                return Err(DrawingError::TooManyCanvases);
            }
        }
        self.known.insert(id, Some(weight));
        Ok(weight)
    }

    fn takes_canvas(&self, node: Node<'_, '_>) -> bool {
        let is_one = |name: &str| CANVAS_PROPERTIES.contains(&name.trim());
        let in_style =
            |style: &str| style.split(';').filter_map(|part| part.split_once(':')).any(|(name, _)| is_one(name));
        let mut attributes = node.attributes();
        attributes.any(|attribute| match attribute.name() {
            "style" => in_style(attribute.value()),
            "class" | "id" => self.is_styled,
            name => is_one(name),
        })
    }
}

/// The ids that an element names, gradients and clips among them.
fn references<'d>(node: Node<'d, 'd>) -> impl Iterator<Item = &'d str> {
    node.attributes().flat_map(|attribute| {
        let href = (attribute.name() == "href").then(|| attribute.value().trim().trim_start_matches('#'));
        let named = attribute.value().split("url(").skip(1).filter_map(|rest| {
            let rest = rest.trim_start_matches([' ', '\'', '"', '#']);
            rest.split([')', '\'', '"', ' ']).next()
        });
        href.into_iter().chain(named)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str =
        r#"<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="40" height="20">"#;

    fn fault(inside: &str) -> String {
        Drawing::read(format!("{HEAD}{inside}</svg>").as_bytes()).expect_err("refused").to_string()
    }

    #[test]
    fn shapes_are_drawn_in_linear_light_at_the_size_they_are_shown_in() {
        let shapes = r##"<rect width="20" height="20" fill="#f00"/><rect x="20" width="20" height="20" fill="#fff" opacity="0.5"/>"##;
        let drawing = Drawing::read(format!("{HEAD}{shapes}</svg>").as_bytes()).expect("a drawing");
        assert_eq!(drawing.size_px(), (40, 20));
        let patch = drawing.patch(8, 4).expect("drawn");
        assert_eq!((patch.pixels[0], patch.pixels[7]), ([65_535, 0, 0, 65_535], [32_896; 4]));
        assert_eq!(patch, drawing.patch(8, 4).expect("drawn"));
    }

    #[test]
    fn what_reaches_outside_runs_or_cannot_be_drawn_is_named() {
        for (inside, said) in [
            (r#"<image href="file:///etc/passwd" width="9" height="9"/>"#, "<image>"),
            (r#"<image href="data:image/png;base64,AAAA" width="9" height="9"/>"#, "<image>"),
            ("<script>1</script>", "<script>"),
            ("<text>a</text>", "turn its texts into paths"),
            (r#"<filter id="f"><feGaussianBlur stdDeviation="999"/></filter>"#, "<filter>"),
            (r#"<use xlink:href="http://example.com/a.svg#b"/>"#, "`href` reaches outside"),
            (r#"<rect width="9" height="9" fill="url(http://example.com/a#b)"/>"#, "`fill` reaches outside"),
            (r#"<style>@import "http://example.com/a.css";</style>"#, "`style` reaches outside"),
            (r#"<rect style="fill: url( 'file:///a#b')"/>"#, "`style` reaches outside"),
            (r##"<g id="a"><use href="#a"/></g>"##, "within itself"),
            ("<g", "not valid XML"),
        ] {
            let fault = fault(inside);
            assert!(fault.contains(said), "{inside}: {fault}");
        }
        let entities = r#"<!DOCTYPE svg [<!ENTITY a SYSTEM "file:///etc/passwd">]><svg xmlns="http://www.w3.org/2000/svg">&a;</svg>"#;
        assert!(matches!(Drawing::read(entities.as_bytes()), Err(DrawingError::Xml(_))));
        assert_eq!(Drawing::read(&vec![b' '; DRAWING_BYTES_MAX + 1]).err(), Some(DrawingError::TooLarge));
        let size = r#"<svg xmlns="http://www.w3.org/2000/svg" width="90000" height="1"/>"#;
        assert!(matches!(Drawing::read(size.as_bytes()), Err(DrawingError::Unusable(_))));
    }

    #[test]
    fn what_grows_without_a_bound_is_refused_before_it_grows() {
        let mut bomb = r#"<defs><g id="l0"><path d="M0 0h1v1z"/></g>"#.to_owned();
        for level in 1..12 {
            let uses = format!(r##"<use href="#l{}"/>"##, level - 1).repeat(10);
            bomb.push_str(&format!(r#"<g id="l{level}">{uses}</g>"#));
        }
        bomb.push_str(r##"</defs><use href="#l11"/>"##);
        assert!(fault(&bomb).contains("20000 elements"));
        let nested = format!("{}{}", "<g>".repeat(70), "</g>".repeat(70));
        assert!(fault(&nested).contains("nested more than 64"));
        let masks = r#"<g opacity="0.5"><path d="M0 0h1v1z"/></g>"#.repeat(65);
        assert!(fault(&masks).contains("mask, a clip"));
        let styled = format!("<style>.a{{opacity:.5}}</style>{}", r#"<path class="a" d="M0 0h1v1z"/>"#.repeat(65));
        assert!(fault(&styled).contains("mask, a clip"));
        let plain = format!("<style>.a{{fill:red}}</style>{}", r#"<path class="a" d="M0 0h1v1z"/>"#.repeat(65));
        assert!(Drawing::read(format!("{HEAD}{plain}</svg>").as_bytes()).is_ok());
    }
}
