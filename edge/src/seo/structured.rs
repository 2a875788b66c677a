//! Structured data of a picture for search engines: an `ImageObject`, and around it what its page is about.
//!
//! Sources: schema.org (ImageObject, Product, Article), Google Search Central (*Image metadata*: `contentUrl` with creator, credit,
//! copyright, licence and where one is acquired), the IPTC vocabulary *digital source type*, whose terms schema.org's enumeration
//! names.
//!
//! Invariants: only a picture that readers are shown is described; text inside a script element can end neither it nor a
//! comment.

use serde_json::{Map, Value, json};

use super::placement::Placement;
use crate::words::Format;

/// UN/CEFACT's common code for pixels.
const PIXEL_UNIT_CODE: &str = "E37";

impl Placement {
    /// The picture as an `ImageObject` by itself. `None` while it is not live.
    #[must_use]
    pub fn image_object(&self) -> Option<Value> {
        Some(in_context(self.image()?))
    }

    /// The picture, or its page with the picture where the manifest says what that is about. `None` while it is not live.
    #[must_use]
    pub fn structured_data(&self) -> Option<Value> {
        let image = self.image()?;
        let Some(about) = &self.page.about else { return Some(in_context(image)) };
        Some(in_context(about.around(Value::Object(image), self.page.address.as_deref(), &self.locale)))
    }

    /// The same as the element that stands in a page.
    #[must_use]
    pub fn structured_data_script(&self) -> Option<String> {
        let data = self.structured_data()?;
        Some(format!("<script type=\"application/ld+json\">{}</script>", for_script(&data)))
    }

    fn image(&self) -> Option<Map<String, Value>> {
        if !self.showing().is_live() {
            return None;
        }
        let width_px = self.largest_px();
        let mut image = Map::new();
        let mut put = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                image.insert(name.to_owned(), value);
            }
        };
        let text = |text: &Option<String>| text.as_deref().filter(|text| !text.is_empty()).map(Value::from);
        let alt = Some(self.alt.as_str()).filter(|alt| !alt.is_empty());
        put("@type", Some("ImageObject".into()));
        put("contentUrl", Some(self.candidate(width_px, Some(Format::Jpeg)).into()));
        put("thumbnailUrl", self.widths_px.first().map(|width| self.candidate(*width, Some(Format::Jpeg)).into()));
        put("name", self.caption.as_deref().or(alt).map(Value::from));
        put("caption", text(&self.caption));
        put("description", alt.map(Value::from));
        put("inLanguage", Some(self.locale.as_str().into()));
        put("width", Some(pixels(width_px)));
        put("height", Some(pixels(self.height_px(width_px))));
        put("encodingFormat", Some(Format::Jpeg.media_type().into()));
        put("creator", self.rights.creator.as_ref().map(|name| json!({ "@type": "Organization", "name": name })));
        put("creditText", text(&self.rights.credit));
        put("copyrightNotice", text(&self.rights.copyright));
        put("license", text(&self.rights.license));
        put("acquireLicensePage", text(&self.acquire_license));
        put("digitalSourceType", self.source.map(|source| source.uri().into()));
        put("dateCreated", self.drawn().map(|drawn| drawn.to_string().into()));
        Some(image)
    }
}

fn in_context(data: Map<String, Value>) -> Value {
    let mut whole = Map::new();
    whole.insert("@context".to_owned(), "https://schema.org".into());
    whole.extend(data);
    Value::Object(whole)
}

fn pixels(px: u32) -> Value {
    json!({ "@type": "QuantitativeValue", "value": px, "unitCode": PIXEL_UNIT_CODE })
}

/// JSON without the characters that HTML or JavaScript could take for their own.
pub(super) fn for_script(data: &Value) -> String {
    let text = data.to_string();
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => safe.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => safe.push(c),
        }
    }
    safe
}
