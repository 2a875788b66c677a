//! What a slot says for markup alone, beside its label: texts of the picture, the pages it stands on, what they are about.
//!
//! Invariant: nothing here changes a pixel, a recipe, a version or the key of a rendition.

use super::generate::GenerateReader;
use super::names::is_name;
use super::page_data::{self, PageData};
use super::pages::{self, PageTemplate};
use super::reader::TableReader;
use super::wording::{self, Wording};

/// What the picture is to readers who do not see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Alternative {
    /// A text by locale.
    Text(Wording),
    /// Nothing: it decorates, and its alt text is empty on purpose.
    Decorative,
}

impl Default for Alternative {
    fn default() -> Self {
        Self::Text(Wording::default())
    }
}

/// What of a picture's LQIP (average colour and ThumbHash) stands in its markup.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LqipMarkup {
    #[default]
    None,
    /// Attributes that scripts and style sheets read.
    Data,
    /// The same, and a style of the image: it needs no script, and a `Content-Security-Policy` may forbid it.
    Style,
}

/// See the module's documentation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SlotMarkup {
    pub alternative: Alternative,
    /// Shown below the picture or told with it; may be empty.
    pub caption: Wording,
    pub pages: Vec<PageTemplate>,
    pub page_data: Option<PageData>,
    /// Through which the picture reaches readers: `shop`, `newsletter`, `social`.
    pub channel: Option<String>,
    pub lqip: LqipMarkup,
}

const LQIPS: [(&str, LqipMarkup); 3] =
    [("none", LqipMarkup::None), ("data", LqipMarkup::Data), ("style", LqipMarkup::Style)];

/// Reads a slot's keys.
pub(crate) fn read(
    slot: &TableReader<'_, '_>,
    generate: &GenerateReader<'_, '_, '_>,
    locales: &[String],
) -> SlotMarkup {
    SlotMarkup {
        alternative: read_alternative(slot, generate, locales),
        caption: wording::read(slot, "caption", "a caption", generate, locales),
        pages: pages::read(slot, generate),
        page_data: page_data::read(slot, generate, locales),
        channel: read_channel(slot),
        lqip: slot.choice("lqip", &LQIPS).unwrap_or_default(),
    }
}

fn read_alternative(
    slot: &TableReader<'_, '_>,
    generate: &GenerateReader<'_, '_, '_>,
    locales: &[String],
) -> Alternative {
    let is_decorative = slot.flag("decorative").unwrap_or(false);
    let alt = wording::read(slot, "alt", "an alt text", generate, locales);
    if is_decorative {
        if slot.has("alt") {
            slot.fault(slot.span(), "a picture with `decorative = true` has no `alt`");
        }
        return Alternative::Decorative;
    }
    if !slot.has("alt") {
        slot.missing("alt", "`alt` is missing: the text for readers who do not see the image, by locale");
    }
    Alternative::Text(alt)
}

fn read_channel(slot: &TableReader<'_, '_>) -> Option<String> {
    let channel = slot.text("channel")?;
    if is_name(channel.value) {
        return Some(channel.value.to_owned());
    }
    slot.fault(&channel.span, format!("`{}` is no name; names are a-z, 0-9 and -", channel.value));
    None
}

#[cfg(test)]
mod tests {
    use crate::campaign::tests::Site;
    use crate::campaign::{Catalog, PageData};

    const AT: &str = "[slots.teaser]";

    /// The faults of the fixture with these lines at the end of the slot `hero`, or of the file's head.
    fn faults(lines: &str) -> String {
        let site = Site::new();
        site.edit("campaigns/autumn.toml", AT, &format!("{lines}\n{AT}"));
        Catalog::load(&site.sources()).err().map(|errors| errors.to_string()).unwrap_or_default()
    }

    #[test]
    fn each_mistake_is_told_with_its_reason() {
        for (lines, reason) in [
            ("pages = [\"shop.example/{product}\"]", "it starts with https:// and a host"),
            ("pages = [\"https://shop.example/{size}\"]", "there is no axis {size}"),
            ("pages = [\"https://shop.example/a b\"]", "it holds a character that a URL has percent-encoded"),
            ("pages = [\"https://shop.example/#{product}\"]", "or a fragment"),
            ("pages = [\"https://a/\", \"https://a/\"]", "stands twice in `pages`"),
            ("schema = { name = { de = \"a\", en = \"a\" } }", "`schema.type` is missing: product or article"),
            ("schema = { type = \"product\" }", "`schema.name` is missing"),
            ("schema = { type = \"product\", name = { de = \"a\" } }", "has no text for `en-GB`"),
            ("schema = { type = \"article\", headline = { de = \"a\", en = \"a\" }, brand = \"b\" }", "unknown key"),
            (
                "schema = { type = \"article\", headline = { de = \"a\", en = \"a\" }, date_published = \"x\" }",
                "is a date such as",
            ),
            (
                "schema = { type = \"article\", headline = { de = \"a\", en = \"a\" }, author_url = \"https://a/\" }",
                "`author`, which is missing",
            ),
            ("caption = { de = \"{finish}\", en = \"{finish}\" }", "stands in a caption, but the label of `none`"),
            ("caption = { de = \"{style:soft}\", en = \"a\" }", "a caption knows axes only"),
            ("channel = \"My Shop\"", "is no name"),
            ("lqip = \"blur\"", "allowed is `none`, `data` and `style`"),
            ("[briefing]\ntext_share_max = 1.2", "`briefing.text_share_max` is 0 to 1"),
            ("[briefing]\nsafe_areas.a = { area = [0.5, 0.0, 0.6, 1.0] }", "reaches beyond the picture"),
            ("[briefing]\nsafe_areas.a = { area = [0.5, 0.0, 0.0, 1.0] }", "the area is empty"),
            ("[briefing]\nsafe_areas.a = { area = [0.5, 0.0] }", "is [left, top, width, height]"),
            (
                "[briefing]\nsafe_areas.a = { area = [0, 0, 1, 1], slots = [\"herp\"] }",
                "the slot `herp`, which there is not",
            ),
        ] {
            let found = faults(lines);
            assert!(found.contains(reason), "{lines}: {found}");
        }
        assert_eq!(
            faults("[briefing]\nsafe_areas.a = { area = [0.7, 0.1, 0.3, 0.9] }"),
            "",
            "decimal shares are not exact"
        );
    }

    #[test]
    fn a_variable_is_of_one_axis_and_spelt_as_readouts_know_it() {
        let with = |product: &str, colour: &str| {
            let site = Site::new();
            site.edit("campaigns/autumn.toml", "default = \"bottle\"", &format!("default = \"bottle\"\n{product}"));
            site.edit("campaigns/autumn.toml", "distinct = true", &format!("distinct = true\n{colour}"));
            Catalog::load(&site.sources()).err().map(|errors| errors.to_string()).unwrap_or_default()
        };
        let layout = "motif = { variable = \"layout\" }";
        assert_eq!(with(layout, "motif = { variable = \"mood\", values = { red = \"warm\" } }"), "");
        assert!(with(layout, layout).contains("`product` and `colour` both vary `layout`"));
        assert!(with("motif = { variable = \"layuot\" }", "").contains("is like the variable `layout`"));
        assert!(with("motif = { variable = \"layout\", values = { mgu = \"a\" } }", "").contains("names `mgu`"));
        assert!(with("motif = { variable = \"my layout\" }", "").contains("is no name of a variable"));
    }

    #[test]
    fn what_markup_says_changes_no_recipe_and_no_version() {
        let site = Site::new();
        let digests = |catalog: &Catalog| {
            let campaign = catalog.campaign("autumn").expect("loaded");
            let recipe = campaign.recipe_of(0, campaign.default_combination()).expect("a recipe").id();
            (recipe, *campaign.rendition_digest(0), campaign.prompt_version(0))
        };
        let before = digests(&site.load());
        let lines = "caption = { de = \"a\", en = \"b\" }\npages = [\"https://a/{product}\"]\n\
            schema = { type = \"product\", name = { de = \"a\", en = \"a\" }, sku = \"{product}\" }\nchannel = \"shop\"\n[briefing]\ngoal = \"x\"\n";
        site.edit("campaigns/autumn.toml", AT, &format!("{lines}\n{AT}"));
        let catalog = site.load();
        assert_eq!(digests(&catalog), before);
        let campaign = catalog.campaign("autumn").expect("loaded");
        let hero = &campaign.slots[0].markup;
        assert!(matches!(hero.page_data, Some(PageData::Product(_))));
        let values = campaign.values_of(campaign.default_combination());
        assert_eq!(hero.pages[0].address(&campaign.axes, &values), "https://a/bottle");
    }
}
