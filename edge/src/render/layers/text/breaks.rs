//! Where a line may end: Unicode's line breaking (UAX #14, with dictionaries for scripts without blanks), soft hyphens, and the
//! hyphenation patterns of the language.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::LazyLock;

use hypher::Lang;
use icu_segmenter::options::LineBreakOptions;
use icu_segmenter::{LineSegmenter, LineSegmenterBorrowed};

use super::Hyphens;

/// Shortest word that patterns divide, in characters.
const HYPHENATED_CHARS_MIN: usize = 5;
const SOFT_HYPHEN: char = '\u{ad}';

static SEGMENTER: LazyLock<LineSegmenterBorrowed<'static>> =
    LazyLock::new(|| LineSegmenter::new_dictionary(LineBreakOptions::default()));

/// How a line ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Ending {
    /// Between words, or at the end.
    Plain,
    /// Within a word, with a hyphen, at a place that the author or the language's patterns gave.
    Hyphen(HyphenFrom),
    /// The author wants a new line.
    Forced,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum HyphenFrom {
    Author,
    Patterns,
}

/// A piece of text that no line divides, blanks behind it included, and how a line would end behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) text: Range<usize>,
    pub(super) ending: Ending,
}

/// The pieces of a text, in order; together they are all of it.
pub(super) fn find(text: &str, language: &str, hyphens: Hyphens) -> Vec<Piece> {
    let mut endings = BTreeMap::new();
    for at in SEGMENTER.segment_str(text).filter(|at| *at > 0) {
        let ending = match text[..at].chars().next_back() {
            Some('\n') => Ending::Forced,
            Some(SOFT_HYPHEN) => Ending::Hyphen(HyphenFrom::Author),
            _ => Ending::Plain,
        };
        endings.insert(at, ending);
    }
    if let Some(lang) = patterns_of(language).filter(|_| hyphens == Hyphens::Auto) {
        for word in words(text) {
            let mut at = word.start;
            for syllable in hypher::hyphenate(&text[word.clone()], lang) {
                at += syllable.len();
                if at < word.end {
                    endings.entry(at).or_insert(Ending::Hyphen(HyphenFrom::Patterns));
                }
            }
        }
    }
    endings.entry(text.len()).or_insert(Ending::Plain);
    let mut start = 0;
    let pieces = endings.into_iter().map(|(end, ending)| {
        let piece = Piece { text: start..end, ending };
        start = end;
        piece
    });
    pieces.collect()
}

fn patterns_of(language: &str) -> Option<Lang> {
    let code: [u8; 2] = language.split('-').next()?.as_bytes().try_into().ok()?;
    Lang::from_iso(code)
}

/// Words of letters alone. What an author divided by soft hyphens is no such word.
fn words(text: &str) -> Vec<Range<usize>> {
    let mut words = Vec::new();
    let mut start = None;
    let end_of_text = [(text.len(), ' ')];
    for (at, c) in text.char_indices().chain(end_of_text) {
        match (start, c.is_alphabetic() || c == SOFT_HYPHEN) {
            (None, true) => start = Some(at),
            (Some(from), false) => {
                let word = &text[from..at];
                if word.chars().count() >= HYPHENATED_CHARS_MIN && !word.contains(SOFT_HYPHEN) {
                    words.push(from..at);
                }
                start = None;
            }
            _ => {}
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn divided(text: &str, language: &str, hyphens: Hyphens) -> String {
        let pieces = find(text, language, hyphens);
        let marks = pieces.iter().map(|piece| {
            let mark = match piece.ending {
                Ending::Plain => "|",
                Ending::Hyphen(HyphenFrom::Author) => "~",
                Ending::Hyphen(HyphenFrom::Patterns) => "-",
                Ending::Forced => "!",
            };
            format!("{}{mark}", &text[piece.text.clone()])
        });
        marks.collect::<String>().replace([SOFT_HYPHEN, '\n'], "")
    }

    #[test]
    fn lines_end_between_words_and_at_the_places_of_the_language() {
        assert_eq!(divided("Der Becher bleibt", "de-DE", Hyphens::Auto), "Der |Be-cher |bleibt|");
        assert_eq!(divided("Geschwindigkeit", "de-DE", Hyphens::Manual), "Geschwindigkeit|");
        assert_eq!(divided("Geschwindigkeit", "de-DE", Hyphens::Auto), "Ge-schwin-dig-keit|");
        assert_eq!(divided("extensive", "en-GB", Hyphens::Auto), "ex-ten-sive|");
        assert_eq!(divided("かわいい、マグ", "ja-JP", Hyphens::Auto), "か|わ|い|い、|マ|グ|");
        assert_eq!(divided("สวัสดีชาวโลก", "th-TH", Hyphens::Auto), "สวัสดี|ชาว|โลก|");
    }

    #[test]
    fn what_the_author_divides_is_not_divided_elsewhere() {
        assert_eq!(divided("Blumento\u{ad}pferde\nheute", "de-DE", Hyphens::Auto), "Blumento~pferde!heu-te|");
        assert_eq!(divided("zehn\u{a0}Becher", "de-DE", Hyphens::Manual), "zehn\u{a0}Becher|");
    }
}
