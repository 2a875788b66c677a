//! What a foreign picture says of itself: XMP, EXIF and IPTC-IIM, read with bounds.
//!
//! Nothing of it is proven: anybody can write it. Where several blocks answer the same question, XMP is believed before IIM,
//! and IIM before EXIF, as MWG §5.2 advises. Invariants: any bytes are an answer; texts, events and entries are bounded; no
//! text that is told holds control characters.

mod exif;
mod iim;
mod xmp;

use serde::Serialize;

use super::embed::{exif_of, iim_of, xmp_of};
use crate::words::Format;

/// Longest text that is told, in characters.
const TEXT_CHARS_MAX: usize = 1_000;

/// A block of metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Block {
    Xmp,
    Iptc,
    Exif,
}

/// Why a block tells nothing although it is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unread {
    pub block: Block,
    pub reason: String,
}

/// See the module's documentation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Told {
    /// Blocks that were there and could be read.
    pub blocks: Vec<Block>,
    pub unread: Vec<Unread>,
    /// IPTC *digital source type*: a URI of <http://cv.iptc.org/newscodes/digitalsourcetype/>.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digital_source_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ai_system: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ai_system_version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ai_prompt: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub creator: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credit: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copyright: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub licence: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub software: Option<String>,
    /// Where a C2PA manifest is said to be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manifest_url: Option<String>,
}

/// A question that metadata answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    DigitalSourceType,
    AiSystem,
    AiSystemVersion,
    AiPrompt,
    Creator,
    Credit,
    Copyright,
    Licence,
    Created,
    Software,
    ManifestUrl,
}

/// The last parts of the digital source types that a generative model has a part in.
const OF_MODELS: [&str; 3] = ["trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia", "compositeSynthetic"];

/// Whether a picture whose digital source type ends with this has a model's part in it.
#[must_use]
pub fn is_of_a_model(term: &str) -> bool {
    OF_MODELS.contains(&term)
}

impl Told {
    /// Of a file of this format.
    #[must_use]
    pub fn of(format: Format, file: &[u8]) -> Self {
        let mut told = Self::default();
        told.take(Block::Xmp, xmp_of(format, file), xmp::read);
        told.take(Block::Iptc, iim_of(format, file), iim::read);
        told.take(Block::Exif, exif_of(format, file), exif::read);
        told
    }

    /// The last part of the digital source type, where it is one.
    #[must_use]
    pub fn source_term(&self) -> Option<&str> {
        let term = self.digital_source_type.as_deref()?.rsplit('/').next()?;
        (!term.is_empty() && term.len() <= 64 && term.bytes().all(|byte| byte.is_ascii_alphanumeric())).then_some(term)
    }

    /// Whether it says that a model had a part in the picture.
    #[must_use]
    pub fn names_a_model(&self) -> bool {
        self.ai_system.is_some() || self.source_term().is_some_and(is_of_a_model)
    }

    fn take<E: std::fmt::Display>(
        &mut self,
        block: Block,
        found: Result<Option<&[u8]>, E>,
        read: impl Fn(&[u8], &mut dyn FnMut(Field, &str)) -> Result<(), String>,
    ) {
        let outcome = match found {
            Ok(None) => return,
            Ok(Some(bytes)) => read(bytes, &mut |field, text| self.learn(field, text)),
            Err(error) => Err(error.to_string()),
        };
        match outcome {
            Ok(()) => self.blocks.push(block),
            Err(reason) => self.unread.push(Unread { block, reason: clean(&reason).unwrap_or_default() }),
        }
    }

    /// Unless another block has said it already.
    fn learn(&mut self, field: Field, text: &str) {
        let slot = match field {
            Field::DigitalSourceType => &mut self.digital_source_type,
            Field::AiSystem => &mut self.ai_system,
            Field::AiSystemVersion => &mut self.ai_system_version,
            Field::AiPrompt => &mut self.ai_prompt,
            Field::Creator => &mut self.creator,
            Field::Credit => &mut self.credit,
            Field::Copyright => &mut self.copyright,
            Field::Licence => &mut self.licence,
            Field::Created => &mut self.created,
            Field::Software => &mut self.software,
            Field::ManifestUrl => &mut self.manifest_url,
        };
        if slot.is_none() {
            *slot = clean(text);
        }
    }
}

/// Bounded and without control characters; `None` where nothing is left.
fn clean(text: &str) -> Option<String> {
    let kept: String = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(TEXT_CHARS_MAX).collect();
    (!kept.is_empty()).then_some(kept)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Description, DigitalSource, Generator, Marking, Metadata, Prompt, embed};
    use super::*;
    use crate::words::Moment;

    const SCAN: &[u8] = &[0xff, 0xd8, 0xff, 0xda, 0x00, 0x02, 0x12, 0x34, 0xff, 0xd9];

    fn description() -> Description {
        let marking = Marking {
            creator: Some("Ada <Lovelace> & Söhne".to_owned()),
            credit: Some("Studio \"A\"".to_owned()),
            copyright: Some("© 2026 Ada".to_owned()),
            license: Some("https://example.com/licence?a=1&b=2".to_owned()),
            ..Marking::default()
        };
        let prompt = Prompt { text: "a teal mug".to_owned(), writer: None };
        let generator =
            Generator { system: "studio-tiny".to_owned(), version: "0123".to_owned(), prompt: Some(prompt) };
        let source = DigitalSource::TrainedAlgorithmicMedia;
        Description { generator: Some(generator), ..Description::new(marking, source) }
    }

    fn jpeg() -> Vec<u8> {
        let created = Moment::from_unix_s(1_800_000_000);
        let url = Some("https://img.example.com/c2pa/x-final");
        let metadata = Metadata::of(Format::Jpeg, (8, 8), &description(), created, url);
        embed(SCAN, &metadata).expect("a small packet")
    }

    #[test]
    fn what_we_write_is_what_is_read() {
        let told = Told::of(Format::Jpeg, &jpeg());
        assert_eq!(told.blocks, [Block::Xmp, Block::Iptc, Block::Exif], "{told:?}");
        assert_eq!(told.source_term(), Some("trainedAlgorithmicMedia"));
        assert!(told.names_a_model());
        assert_eq!(told.creator.as_deref(), Some("Ada <Lovelace> & Söhne"));
        assert_eq!(told.credit.as_deref(), Some("Studio \"A\""));
        assert_eq!(told.copyright.as_deref(), Some("© 2026 Ada"));
        assert_eq!(told.licence.as_deref(), Some("https://example.com/licence?a=1&b=2"));
        assert_eq!((told.ai_system.as_deref(), told.ai_prompt.as_deref()), (Some("studio-tiny"), Some("a teal mug")));
        assert_eq!(told.manifest_url.as_deref(), Some("https://img.example.com/c2pa/x-final"));
        assert!(told.created.as_deref().is_some_and(|date| date.starts_with("2027-01-15")), "{told:?}");
    }

    #[test]
    fn the_other_blocks_answer_where_xmp_is_silent() {
        let file = jpeg();
        let mut silent = file.clone();
        let at = silent.windows(4).position(|bytes| bytes == b"http").expect("XMP's header");
        silent[at] = b'x';
        let told = Told::of(Format::Jpeg, &silent);
        assert_eq!(told.blocks, [Block::Iptc, Block::Exif]);
        assert_eq!(told.creator.as_deref(), Some("Ada <Lovelace> & Söhne"));
        assert!(!told.names_a_model());
    }

    #[test]
    fn a_file_without_metadata_tells_nothing_and_a_damaged_one_says_so() {
        assert_eq!(Told::of(Format::Jpeg, SCAN), Told::default());
        let told = Told::of(Format::Png, b"\x89PNG\r\n\x1a\n\0\0\0");
        assert_eq!(told.unread.len(), 2, "{told:?}");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..Default::default() })]

        #[test]
        fn any_bytes_are_an_answer(
            flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..20),
            end in any::<prop::sample::Index>(),
        ) {
            let mut file = jpeg();
            for (at, byte) in flips {
                let at = at.index(file.len());
                file[at] = byte;
            }
            file.truncate(end.index(file.len()) + 1);
            let told = Told::of(Format::Jpeg, &file);
            prop_assert!(told.creator.is_none_or(|text| text.chars().count() <= TEXT_CHARS_MAX));
        }
    }
}
