//! A placement as JSON: what shops, content systems and build tools read.

use serde_json::{Map, Value, json};

use super::placement::Placement;
use crate::campaign::{Briefing, Framing};
use crate::request::Pinning;

impl Placement {
    /// The whole of it. Texts are plain, markup is HTML, URLs are absolute.
    #[must_use]
    pub fn document(&self) -> Value {
        let mut document = Map::new();
        let mut put = |name: &str, value: Value| {
            if !value.is_null() {
                document.insert(name.to_owned(), value);
            }
        };
        put("campaign", self.campaign.as_str().into());
        put("slot", self.slot.as_str().into());
        put("variant", self.variant.as_str().into());
        put("locale", self.locale.as_str().into());
        put("live", self.showing().is_live().into());
        put("state", self.showing().as_str().into());
        put("url", self.default_url().into());
        put("pinned_url", self.pinned_url().into());
        put("is_pinned", (self.pinning == Pinning::Current && self.version.is_some()).into());
        put("version", self.version.as_ref().map(|version| version.as_str()).into());
        put("widths", self.widths_px.clone().into());
        put("default_width", self.default_width_px.into());
        put("ratio", self.ratio.to_string().into());
        put("sizes", self.sizes.as_str().into());
        put("cuts", self.cuts_document());
        put("formats", self.formats.iter().map(|format| format.extension()).collect());
        put("alt", self.alt.as_str().into());
        put("caption", self.caption.clone().into());
        put("label", self.label().map(|label| json!({ "show": label.show.as_str(), "text": label.text })).into());
        put("rights", self.rights_document());
        put("digital_source_type", self.source.map(|source| source.uri()).into());
        put("recipe", self.source.map(|_| self.shown.recipe.to_string()).into());
        put("prompt_version", self.prompt_version.clone().into());
        put("seed", self.shown.seed.into());
        put("drawn", self.drawn().map(|drawn| drawn.to_string()).into());
        put(
            "lqip",
            self.shown.lqip.map(|it| json!({ "average_colour": it.colour(), "thumbhash": it.thumbhash() })).into(),
        );
        put("motif", self.tags.iter().map(|tag| (tag.variable.clone(), Value::from(tag.value.as_str()))).collect());
        put("channel", self.channel.clone().into());
        put("layout_rules", self.layout_rules());
        put("page", self.page.address.clone().into());
        put("markup", self.markup().into());
        put("preload", self.preload().into());
        put("early_hints", self.early_hints().into());
        put("image_object", self.image_object().into());
        put("structured_data", self.structured_data().into());
        put("meta", self.meta().into());
        put("mail", self.mail().into());
        Value::Object(document)
    }

    /// What other screens are shown; null in a slot without cuts.
    fn cuts_document(&self) -> Value {
        let cuts = self.cuts().map(|(cut, frame)| {
            let Framing { ratio, widths, default_width_px, sizes, .. } = &cut.framing;
            json!({
                "name": cut.name,
                "media": cut.media.as_str(),
                "url": frame.candidate(default_width_px, None),
                "widths": widths,
                "default_width": default_width_px,
                "ratio": ratio.to_string(),
                "sizes": sizes,
            })
        });
        let cuts: Vec<Value> = cuts.collect();
        if cuts.is_empty() { Value::Null } else { cuts.into() }
    }

    fn rights_document(&self) -> Value {
        let rights = &self.rights;
        let said = [
            ("creator", &rights.creator),
            ("credit", &rights.credit),
            ("copyright", &rights.copyright),
            ("license", &rights.license),
            ("acquire_license", &self.acquire_license),
        ];
        said.into_iter().filter_map(|(name, text)| Some((name, text.as_deref()?))).collect()
    }

    /// What those who build a page have to keep to. What a campaign is for is not for the public.
    fn layout_rules(&self) -> Value {
        let Briefing { text_share_max, safe_areas, .. } = &self.briefing;
        if text_share_max.is_none() && safe_areas.is_empty() {
            return Value::Null;
        }
        json!({ "text_share_max": text_share_max, "safe_areas": safe_areas })
    }
}
