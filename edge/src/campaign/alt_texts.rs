//! Alt texts as readers get them, looked through by `bildkante-edge check`: empty ones, long ones, ones that look like the name
//! of a file, and ones that several pictures of a slot share.
//!
//! Sources: WCAG 2.2, 1.1.1 (text alternatives serve the same purpose; failure F30: names of files); screen readers cut a text at
//! about 125 characters.
//!
//! An empty text is an error unless the slot says that its pictures decorate. All else is a warning: whether two pictures tell
//! readers the same is for people to say.

use std::collections::HashMap;
use std::fmt;

use super::catalog::{Campaign, Catalog};
use super::markup::Alternative;
use super::slots::Slot;
use super::variant::query;

/// Longest alt text that is read out in one go, in characters.
pub const ALT_CHARS_MAX: usize = 125;
/// Most examples that a finding names.
const EXAMPLES_MAX: usize = 3;
/// Endings of files, which no sentence has.
const EXTENSIONS: [&str; 9] = [".jpg", ".jpeg", ".png", ".webp", ".avif", ".gif", ".svg", ".tif", ".tiff"];
/// How cameras and programs begin the names of files.
const FILE_STARTS: [&str; 9] = ["img", "dsc", "dscn", "dscf", "image", "screenshot", "untitled", "pxl", "scan"];

/// What is wrong with an alt text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AltFault {
    Empty,
    TooLong,
    FileName,
    /// Another picture of the slot has the same text in the same locale.
    Shared,
}

impl AltFault {
    const ALL: [Self; 4] = [Self::Empty, Self::TooLong, Self::FileName, Self::Shared];

    const fn words(self) -> &'static str {
        match self {
            Self::Empty => "are empty",
            Self::TooLong => "have more than 125 characters",
            Self::FileName => "look like the name of a file",
            Self::Shared => "are also those of another picture",
        }
    }
}

/// What is wrong with some alt texts of a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AltFinding {
    pub campaign: String,
    pub slot: String,
    pub fault: AltFault,
    /// Variants whose text it is.
    pub count: u64,
    /// Of this many variants.
    pub of: u64,
    /// The first of them: the values of the variant, and its text.
    pub examples: Vec<(String, String)>,
}

impl fmt::Display for AltFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { campaign, slot, fault, count, of, examples } = self;
        write!(f, "{campaign}/{slot}: {count} of {of} alt texts {}", fault.words())?;
        for (index, (values, text)) in examples.iter().enumerate() {
            let separator = if index == 0 { ": " } else { "; " };
            let values = if values.is_empty() { "all defaults" } else { values };
            write!(f, "{separator}\"{text}\" ({values})")?;
        }
        Ok(())
    }
}

/// What was found, slot by slot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AltReport {
    pub findings: Vec<AltFinding>,
}

impl AltReport {
    #[must_use]
    pub fn of(catalog: &Catalog) -> Self {
        let slots = catalog.campaigns().flat_map(|campaign| campaign.slots.iter().map(move |slot| (campaign, slot)));
        Self {
            findings: slots
                .flat_map(|(campaign, slot)| Looked::over(campaign, slot).findings(campaign, slot))
                .collect(),
        }
    }

    /// Whether a text is missing where one is needed.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.findings.iter().any(|finding| finding.fault == AltFault::Empty)
    }
}

/// One slot, looked through.
#[derive(Debug, Default)]
struct Looked {
    variants: u64,
    counts: [u64; AltFault::ALL.len()],
    examples: [Vec<(String, String)>; AltFault::ALL.len()],
}

impl Looked {
    fn over(campaign: &Campaign, slot: &Slot) -> Self {
        let mut looked = Self::default();
        if slot.markup.alternative == Alternative::Decorative {
            return looked;
        }
        // The first picture that has a text, by the digest of text and locale; 32 bytes a variant.
        let mut owners: HashMap<u64, u64, ahash::RandomState> = HashMap::default();
        for combination in campaign.combinations() {
            let values = campaign.values_of(combination);
            let alt = campaign.alt(slot, &values);
            looked.variants += 1;
            if alt.trim().is_empty() {
                looked.note(AltFault::Empty, campaign, &values, &alt);
                continue;
            }
            if alt.chars().count() > ALT_CHARS_MAX {
                looked.note(AltFault::TooLong, campaign, &values, &alt);
            }
            if is_like_a_file(&alt) {
                looked.note(AltFault::FileName, campaign, &values, &alt);
            }
            let picture = hash(&query(&campaign.axes, &values, |axis, _| slot.differs_by(&campaign.axes, axis)), "");
            let owner = *owners.entry(hash(&alt, campaign.locale(&values))).or_insert(picture);
            if owner != picture {
                looked.note(AltFault::Shared, campaign, &values, &alt);
            }
        }
        looked
    }

    fn note(&mut self, fault: AltFault, campaign: &Campaign, values: &[usize], alt: &str) {
        self.counts[fault as usize] += 1;
        let examples = &mut self.examples[fault as usize];
        if examples.len() < EXAMPLES_MAX {
            let values = query(&campaign.axes, values, |axis, index| index != campaign.axes[axis].default);
            examples.push((values, alt.to_owned()));
        }
    }

    fn findings(self, campaign: &Campaign, slot: &Slot) -> Vec<AltFinding> {
        let Self { variants, counts, examples } = self;
        let found = AltFault::ALL.into_iter().zip(counts).zip(examples).filter(|((_, count), _)| *count > 0);
        found
            .map(|((fault, count), examples)| AltFinding {
                campaign: campaign.name.clone(),
                slot: slot.name.clone(),
                fault,
                count,
                of: variants,
                examples,
            })
            .collect()
    }
}

/// 64 bits: that two texts of a million share them has a chance of one in thirty million.
fn hash(text: &str, locale: &str) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(locale.as_bytes()).update(b"\0").update(text.as_bytes());
    let mut hash = [0; 8];
    hasher.finalize_xof().fill(&mut hash);
    u64::from_le_bytes(hash)
}

fn is_like_a_file(alt: &str) -> bool {
    let text = alt.trim().to_lowercase();
    if EXTENSIONS.iter().any(|extension| text.ends_with(extension)) {
        return true;
    }
    if text.contains(char::is_whitespace) {
        return false;
    }
    let is_numbered = |start: &&str| {
        let number = text.strip_prefix(*start).map(|rest| rest.trim_start_matches(['-', '_']));
        number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
    };
    text.contains('_') || FILE_STARTS.iter().any(is_numbered)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::campaign::tests::Site;

    fn found(site: &Site) -> Vec<(String, AltFault, u64, u64)> {
        let report = AltReport::of(&site.load());
        report.findings.into_iter().map(|it| (it.slot, it.fault, it.count, it.of)).collect()
    }

    #[test]
    fn names_of_files_are_told_from_sentences() {
        for name in ["mug.jpg", "A teal mug.PNG", "IMG_1234", "dsc0001", "teal_mug", "image-7"] {
            assert!(is_like_a_file(name), "{name}");
        }
        for text in ["A teal mug", "mug", "image", "Ein Becher, 2 Farben", "well-lit mug", "scanner"] {
            assert!(!is_like_a_file(text), "{text}");
        }
    }

    /// The finish has no label and stands in no alt text, and pictures differ by it.
    #[test]
    fn a_text_that_several_pictures_share_is_counted_with_its_first_examples() {
        let site = Site::new();
        let report = AltReport::of(&site.load());
        let [hero, teaser] = report.findings.as_slice() else { panic!("{report:?}") };
        // Two products, three colours, two finishes, two locales: half of them repeat the text of the other finish.
        assert_eq!((hero.fault, hero.count, hero.of), (AltFault::Shared, 12, 24));
        assert_eq!(hero.examples.len(), EXAMPLES_MAX);
        // The teaser's pictures differ by product and colour, and its text tells the product.
        assert_eq!((teaser.fault, teaser.count), (AltFault::Shared, 16));
        assert!(hero.to_string().starts_with("autumn/hero: 12 of 24 alt texts are also those of another picture: \""));
        assert!(!report.has_errors());
    }

    #[test]
    fn empty_and_long_texts_are_found_after_filling() {
        let site = Site::new();
        site.edit("campaigns/autumn.toml", "de = \"Becher\"", "de = \"\"");
        site.edit("campaigns/autumn.toml", "en = \"mug\"", &format!("en = \"{}\"", "mug ".repeat(31)));
        let found = found(&site);
        assert!(found.contains(&("teaser".into(), AltFault::Empty, 6, 24)), "{found:?}");
        assert!(found.contains(&("hero".into(), AltFault::TooLong, 6, 24)), "{found:?}");
        assert!(AltReport::of(&site.load()).has_errors());
    }

    #[test]
    fn what_decorates_needs_no_text_and_may_have_none() {
        let site = Site::new();
        let alt = "alt = { de = \"{product}\", en = \"{product}\" }";
        site.edit("campaigns/autumn.toml", alt, "decorative = true");
        assert!(found(&site).iter().all(|(slot, ..)| slot == "hero"));
        site.edit("campaigns/autumn.toml", "decorative = true", &format!("decorative = true\n{alt}"));
        assert!(site.faults().contains("a picture with `decorative = true` has no `alt`"), "{}", site.faults());
    }
}
