//! Prompt libraries: wording that several campaigns share, in `config/prompts/{library}.toml`.
//!
//! A library holds *blocks* (plain text), *style profiles* (text for the prompt and, with it, text for the
//! negative prompt) and *negative lists*. A block or a style may have a weight, for campaigns whose prompts have weights; brackets
//! in its text are characters there, so that a text means the same in every campaign. Its text is inlined into recipes: editing a library changes the
//! recipe ids of every campaign that uses the edited words, and of no other.

use std::collections::BTreeMap;

use bildkante_shared::ids::Digest;
use bildkante_shared::weighting::WEIGHT_MAX;
use toml::Spanned;
use toml::de::DeTable;

use super::fault::SourceText;
use super::names::is_name;
use super::reader::{self, TableReader, Text, TextOrTable, no_hint};
use super::template::tidy;

/// Most blocks, styles or lists of one library.
const ENTRIES_MAX: usize = 512;
/// Longest single text of a library.
const TEXT_BYTES_MAX: usize = 2048;

/// The words of one library.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Library {
    pub name: String,
    pub blocks: BTreeMap<String, Block>,
    pub styles: BTreeMap<String, Style>,
    pub negatives: BTreeMap<String, String>,
    /// Of its file: libraries have no other version. `None` where the file cannot be read.
    pub digest: Option<Digest>,
    /// Whether its file has a fault: a word it lacks may be what was refused.
    pub is_refused: bool,
}

/// A text for the prompt.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Block {
    pub text: String,
    /// How much it counts in a prompt with weights.
    pub weight: Option<f64>,
}

/// A style profile.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Style {
    pub prompt: Block,
    /// Joins the negative prompt wherever the style is used.
    pub negative: String,
}

/// What of a library a prompt is made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WordsKind {
    Style,
    Block,
    NegativeList,
}

impl WordsKind {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Style => "style",
            Self::Block => "block",
            Self::NegativeList => "negative-list",
        }
    }
}

/// A text of a library that a slot's prompts are made with, as it was when the manifest was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsedWords {
    pub kind: WordsKind,
    pub name: String,
    pub library: String,
    pub library_digest: Option<Digest>,
    /// What it gives to the prompt; empty for a negative list.
    pub prompt: String,
    /// What it gives to the negative prompt; empty for a block.
    pub negative: String,
}

/// The libraries a manifest names, searched in its order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Words<'l> {
    libraries: Vec<&'l Library>,
    /// Whether a library was named that is not there or has a fault.
    is_refused: bool,
}

impl<'l> Words<'l> {
    /// Adds a library; the names it shares with those already added.
    pub(crate) fn add(&mut self, library: &'l Library) -> Vec<String> {
        let mut shared = Vec::new();
        for other in &self.libraries {
            let same = |kind: &str, name: &String| format!("{kind} `{name}` is also in library `{}`", other.name);
            shared.extend(library.blocks.keys().filter(|n| other.blocks.contains_key(*n)).map(|n| same("block", n)));
            shared.extend(library.styles.keys().filter(|n| other.styles.contains_key(*n)).map(|n| same("style", n)));
            let negatives = library.negatives.keys();
            shared.extend(negatives.filter(|n| other.negatives.contains_key(*n)).map(|n| same("negative list", n)));
        }
        self.libraries.push(library);
        self.is_refused |= library.is_refused;
        shared
    }

    /// A library cannot be had.
    pub(crate) const fn refuse(&mut self) {
        self.is_refused = true;
    }

    /// Whether a word that is not there may be what was refused.
    pub(crate) const fn is_refused(&self) -> bool {
        self.is_refused
    }

    pub(crate) fn block(&self, name: &str) -> Option<&'l Block> {
        self.libraries.iter().find_map(|library| library.blocks.get(name))
    }

    pub(crate) fn style(&self, name: &str) -> Option<&'l Style> {
        self.libraries.iter().find_map(|library| library.styles.get(name))
    }

    pub(crate) fn negative(&self, name: &str) -> Option<&'l str> {
        self.libraries.iter().find_map(|library| library.negatives.get(name)).map(String::as_str)
    }

    /// A text with the library it stands in.
    pub(crate) fn used(&self, kind: WordsKind, name: &str) -> Option<UsedWords> {
        let find = |library: &Library| match kind {
            WordsKind::Style => library.styles.get(name).cloned(),
            WordsKind::Block => {
                library.blocks.get(name).map(|prompt| Style { prompt: prompt.clone(), ..Style::default() })
            }
            WordsKind::NegativeList => {
                library.negatives.get(name).map(|negative| Style { negative: negative.clone(), ..Style::default() })
            }
        };
        self.libraries.iter().find_map(|library| {
            let Style { prompt, negative } = find(library)?;
            Some(UsedWords {
                kind,
                name: name.to_owned(),
                library: library.name.clone(),
                library_digest: library.digest,
                prompt: prompt.text,
                negative,
            })
        })
    }

    /// Names of one kind, for a fault that lists them.
    pub(crate) fn names(&self, of: impl Fn(&'l Library) -> Vec<&'l String>) -> Vec<&'l str> {
        self.libraries.iter().flat_map(|library| of(library)).map(String::as_str).collect()
    }
}

/// A library that cannot be read at all.
pub(crate) fn refused(file_stem: &str) -> Library {
    Library { name: file_stem.to_owned(), is_refused: true, ..Library::default() }
}

/// Reads a library. Faults are noted in `source`.
pub(crate) fn read(source: &SourceText<'_>, file_stem: &str) -> Library {
    let Some(document) = reader::parse(source) else { return refused(file_stem) };
    let document: Spanned<DeTable<'_>> = document;
    let root = TableReader::of_document(source, &document);
    read_schema(&root);
    if let Some(name) = root.required_text("library")
        && name.value != file_stem
    {
        root.fault(&name.span, format!("`library` is `{}`, but the file is `{file_stem}.toml`", name.value));
    }
    root.text("title");
    let mut library = Library {
        name: file_stem.to_owned(),
        is_refused: false,
        digest: Some(Digest::of_bytes(source.text().as_bytes())),
        blocks: root.table("blocks").map(|table| read_blocks(&table)).unwrap_or_default(),
        styles: root.table("styles").map(|table| read_styles(&table)).unwrap_or_default(),
        negatives: root.table("negatives").map(|table| read_negatives(&table)).unwrap_or_default(),
    };
    root.finish(no_hint);
    library.is_refused = source.has_faults();
    library
}

/// Every file of ours starts with `schema = 1`.
pub(crate) fn read_schema(root: &TableReader<'_, '_>) {
    if root.has("schema") {
        root.integer("schema", 1..=1);
    } else {
        root.missing("schema", "`schema` is missing; this is schema = 1");
    }
}

fn read_blocks(table: &TableReader<'_, '_>) -> BTreeMap<String, Block> {
    let mut blocks = BTreeMap::new();
    for (name, entry) in table.texts_or_tables(ENTRIES_MAX) {
        let block = match entry {
            TextOrTable::Text(text) => plain(table, &text).map(|text| Block { text, weight: None }),
            TextOrTable::Table(block) => {
                let text = block.required_text("text").and_then(|text| plain(&block, &text));
                let weight = read_weight(&block);
                block.finish(no_hint);
                text.map(|text| Block { text, weight })
            }
        };
        if let (Some(name), Some(block)) = (named(table, &name), block) {
            blocks.insert(name, block);
        }
    }
    blocks
}

fn read_weight(table: &TableReader<'_, '_>) -> Option<f64> {
    table.number("weight", 0.0..=WEIGHT_MAX)
}

fn read_styles(table: &TableReader<'_, '_>) -> BTreeMap<String, Style> {
    let mut styles = BTreeMap::new();
    for (name, style) in table.tables(ENTRIES_MAX) {
        let text = style.required_text("prompt").and_then(|text| plain(&style, &text)).unwrap_or_default();
        let prompt = Block { text, weight: read_weight(&style) };
        let negative = style.text("negative").and_then(|text| plain(&style, &text)).unwrap_or_default();
        style.finish(no_hint);
        if let Some(name) = named(table, &name) {
            styles.insert(name, Style { prompt, negative });
        }
    }
    styles
}

fn read_negatives(table: &TableReader<'_, '_>) -> BTreeMap<String, String> {
    let mut negatives = BTreeMap::new();
    for (name, words) in table.named_lists(ENTRIES_MAX) {
        let words: Vec<String> = words.iter().filter_map(|word| plain(table, word)).collect();
        if let Some(name) = named(table, &name) {
            negatives.insert(name, tidy(&words.join(", ")));
        }
    }
    negatives
}

fn named(table: &TableReader<'_, '_>, name: &Text<'_>) -> Option<String> {
    if is_name(name.value) {
        return Some(name.value.to_owned());
    }
    table.fault(&name.span, format!("`{}` is no name; names are a-z, 0-9 and -", name.value));
    None
}

/// Text without placeholders, tidied.
pub(crate) fn plain(table: &TableReader<'_, '_>, text: &Text<'_>) -> Option<String> {
    let reason = if text.value.len() > TEXT_BYTES_MAX {
        format!("the text has {} bytes, at most {TEXT_BYTES_MAX}", text.value.len())
    } else if text.value.contains(['{', '}']) {
        "placeholders stand in `prompt` of [generate], not here".to_owned()
    } else if text.value.chars().any(|c| c.is_control() && !c.is_whitespace()) {
        "the text holds a control character".to_owned()
    } else {
        return Some(tidy(text.value));
    };
    table.fault(&text.span, reason);
    None
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn read_text(text: &str) -> (Library, Vec<String>) {
        let source = SourceText::new(Path::new("shots.toml"), text);
        let library = read(&source, "shots");
        (library, source.into_faults().iter().map(ToString::to_string).collect())
    }

    #[test]
    fn blocks_styles_and_negative_lists_are_read() {
        let (library, faults) = read_text(
            "schema = 1\nlibrary = 'shots'\n[blocks]\nfloor = '  on a\\n floor'\ntop = { text = 'on top', weight = 1.5 }\n\
             [styles.soft]\nprompt = 'soft light'\nweight = 0.5\nnegative = 'hard shadow'\n[negatives]\nartefacts = ['blurry', 'noise,']\n",
        );
        assert_eq!(faults, Vec::<String>::new());
        assert_eq!(library.styles["soft"].negative, "hard shadow");
        let weights = [&library.blocks["floor"], &library.blocks["top"], &library.styles["soft"].prompt];
        assert_eq!(weights.map(|block| block.weight), [None, Some(1.5), Some(0.5)]);
        assert_eq!(library.negatives["artefacts"], "blurry, noise");
    }

    #[test]
    fn faults_name_the_place() {
        let (_, faults) =
            read_text("library = 'other'\n[blocks]\nBig = 'x'\nb = '{product}'\n[styles.s]\nprompts = 'x'\n[extra]\n");
        let text = faults.join("\n");
        for part in [
            "shots.toml:1:1: `schema` is missing",
            "shots.toml:1:11: `library` is `other`",
            "shots.toml:3:1: `Big` is no name",
            "shots.toml:4:5: placeholders",
            "unknown key `styles.s.prompts`",
            "unknown key `extra`",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        assert_eq!(faults.len(), 6, "a misspelt key is not missing, too: {text}");
    }

    #[test]
    fn libraries_that_share_a_name_say_so() {
        let block = |name: &str| Library {
            name: name.into(),
            blocks: [("floor".to_owned(), Block::default())].into(),
            ..Library::default()
        };
        let (one, two) = (block("one"), block("two"));
        let mut words = Words::default();
        assert!(words.add(&one).is_empty());
        assert_eq!(words.add(&two), ["block `floor` is also in library `one`"]);
    }
}
