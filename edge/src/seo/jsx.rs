//! Our HTML as JSX: a component for React, and one for Next.js whose loader has the edge's own widths.
//!
//! The markup is read back and written again, so that both say the same. Every text and every value of an attribute is a string
//! literal in braces, in which nothing is code.

use serde_json::Value;

use super::picture::{BACKGROUND, Loading};
use super::placement::Placement;
use super::structured::for_script;

/// Elements without an end.
const VOID: [&str; 4] = ["img", "source", "meta", "link"];
/// Names that React writes otherwise than HTML.
const RENAMED: [(&str, &str); 6] = [
    ("class", "className"),
    ("srcset", "srcSet"),
    ("fetchpriority", "fetchPriority"),
    ("stroke-width", "strokeWidth"),
    ("stroke-linecap", "strokeLinecap"),
    ("stroke-linejoin", "strokeLinejoin"),
];

impl Placement {
    /// A component without properties.
    #[must_use]
    pub fn react(&self) -> String {
        format!(
            "export default function {}() {{\n  return (\n{}\n  );\n}}\n",
            self.component(),
            indented(&jsx(&self.markup()), "    ")
        )
    }

    /// A component that has `next/image` choose among the edge's widths; the edge chooses the format.
    #[must_use]
    pub fn next(&self) -> String {
        let urls =
            self.widths_px.iter().map(|width| format!("  [{width}, {}],\n", literal(&self.candidate(*width, None))));
        let urls: String = urls.collect();
        let width_px = self.largest_px();
        let priority = if self.loading == Loading::Hero { " priority" } else { "" };
        let image = format!(
            "<Image loader={{loader}} src={{{}}} alt={{{}}} width={{{width_px}}} height={{{}}} sizes={{{}}}{priority} />",
            literal(&self.default_url()),
            literal(&self.alt),
            self.height_px(width_px),
            literal(&self.sizes),
        );
        let shown = match self.label() {
            Some(label) => format!("<figure>\n{image}\n{}\n</figure>", jsx(&super::label::caption(label).0)),
            None => image,
        };
        format!(
            "import Image from \"next/image\";\n\nconst urls = [\n{urls}];\n\nfunction loader({{ width }}) {{\n  \
             return (urls.find(([px]) => px >= width) ?? urls[urls.length - 1])[1];\n}}\n\n\
             export default function {}() {{\n  return (\n{}\n  );\n}}\n",
            self.component(),
            indented(&shown, "    ")
        )
    }

    /// `StudioHero`, of names that are `a-z`, `0-9` and `-`.
    fn component(&self) -> String {
        let mut name = String::new();
        for part in self.campaign.split('-').chain(self.slot.split('-')).filter(|part| !part.is_empty()) {
            let (first, rest) = part.split_at(1);
            name.push_str(&first.to_ascii_uppercase());
            name.push_str(rest);
        }
        if name.starts_with(|c: char| c.is_ascii_digit()) { format!("Picture{name}") } else { name }
    }
}

/// Our own markup, an element a line.
fn jsx(html: &str) -> String {
    let mut lines = Vec::new();
    let mut rest = html;
    while !rest.is_empty() {
        let (text, after) = rest.split_at(rest.find('<').unwrap_or(rest.len()));
        if !text.trim().is_empty() {
            lines.push(format!("{{{}}}", literal(&unescaped(text))));
        }
        let Some((tag, after)) = after.strip_prefix('<').and_then(|tag| tag.split_once('>')) else { break };
        lines.push(element(tag));
        rest = after;
    }
    lines.join("\n")
}

/// What stands between the brackets of a tag.
fn element(tag: &str) -> String {
    let (name, mut rest) = tag.split_once(char::is_whitespace).unwrap_or((tag, ""));
    let mut jsx = format!("<{name}");
    while let Some((attribute, after)) = rest.trim_start().split_once("=\"") {
        let Some((value, after)) = after.split_once('"') else { break };
        let renamed = RENAMED.iter().find(|(html, _)| *html == attribute).map_or(attribute, |(_, react)| react);
        match value.strip_prefix(BACKGROUND).filter(|_| attribute == "style") {
            // A style is an object there.
            Some(colour) => jsx.push_str(&format!(" style={{{{ backgroundColor: {} }}}}", literal(colour))),
            None => jsx.push_str(&format!(" {renamed}={{{}}}", literal(&unescaped(value)))),
        }
        rest = after;
    }
    jsx.push_str(if VOID.contains(&name) { " />" } else { ">" });
    jsx
}

/// The entities that our templates write.
fn unescaped(text: &str) -> String {
    text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&amp;", "&")
}

/// A string literal of JavaScript that neither HTML nor JSX takes for its own.
fn literal(text: &str) -> String {
    for_script(&Value::from(text))
}

fn indented(text: &str, by: &str) -> String {
    text.lines().map(|line| format!("{by}{line}")).collect::<Vec<_>>().join("\n")
}
