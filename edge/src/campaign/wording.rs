//! Texts of a slot by locale, with axes in them: alt texts, captions, names of what a page is about.
//!
//! A placeholder stands for the label of the chosen value. So each value of an axis that a text names has a label in every
//! locale, and each text is there in every locale.

use super::axes::{self, check_labels};
use super::generate::{GenerateReader, link};
use super::manifest::{check_covers, localized};
use super::names::Localized;
use super::reader::TableReader;
use super::template::{Part, Placeholder, Template};

/// Longest text, as a template.
pub(crate) const WORDING_BYTES_MAX: usize = 500;

/// One text in every locale of a campaign.
pub type Wording = Localized<Template>;

/// Reads the texts of `key`, which is a table by locale; `what` names them in faults. Empty where the key is not there.
pub(crate) fn read(
    table: &TableReader<'_, '_>,
    key: &'static str,
    what: &str,
    generate: &GenerateReader<'_, '_, '_>,
    locales: &[String],
) -> Wording {
    let Some(texts) = table.table(key) else { return Wording::default() };
    let (wording, is_whole) = localized(&texts, |text| {
        if text.value.len() > WORDING_BYTES_MAX || text.value.trim().is_empty() {
            texts.fault(&text.span, format!("{what} has 1 to {WORDING_BYTES_MAX} bytes"));
        }
        let template = Template::parse(text.value, |placeholder| resolve(placeholder, generate, what));
        let template = link(&texts, text, template)?;
        let used = generate.axes.iter().enumerate().filter(|(index, _)| template.uses_axis(*index));
        for (_, axis) in used {
            check_labels(&texts, &text.span, axis, what, locales);
        }
        Some(template)
    });
    if is_whole {
        check_covers(&texts, texts.span(), &format!("`{key}`"), &wording, locales);
    }
    wording
}

fn resolve(placeholder: Placeholder<'_>, generate: &GenerateReader<'_, '_, '_>, what: &str) -> Result<Part, String> {
    let Placeholder::Axis(name) = placeholder else {
        return Err(format!("{what} knows axes only, no styles and blocks"));
    };
    axes::named(generate.axes, name).map(Part::Axis)
}
