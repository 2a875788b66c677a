//! Weights of words in a prompt, as people write them for Stable Diffusion: `(word:1.3)`, `(word)`, `[word]`.
//!
//! | written | means |
//! | --- | --- |
//! | `(text:1.3)` | `text` with weight 1.3 |
//! | `(text)` | weight 1.1 |
//! | `[text]` | weight 1 / 1.1 |
//! | `\(` `\)` `\[` `\]` `\:` `\\` | the character itself |
//!
//! Brackets nest, and their weights multiply. Everything else has weight 1. The notation is that of AUTOMATIC1111's web UI;
//! what of it says something else than a weight (`[from:to:when]`, `[a|b]`) is refused by name, and so is a bracket without
//! its partner: nothing of a prompt is passed over in silence. What a weight does to an embedding is the node's
//! (`diffusion/text/weighted.rs`).

use serde::{Deserialize, Serialize};

/// Whether brackets in a recipe's prompts are weights.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Weighting {
    /// They are brackets.
    #[default]
    Plain,
    /// They are weights.
    Brackets,
}

impl Weighting {
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// # Errors
    /// Why a prompt's brackets are no weights.
    pub fn check(self, prompt: &str) -> Result<(), WeightingError> {
        match self {
            Self::Plain => Ok(()),
            Self::Brackets => parse(prompt).map(|_| ()),
        }
    }

    /// The parts of a prompt and their weights.
    ///
    /// # Errors
    /// Why its brackets are no weights.
    pub fn fragments(self, prompt: &str) -> Result<Vec<Fragment>, WeightingError> {
        match self {
            Self::Plain => Ok(vec![Fragment { text: prompt.to_owned(), weight: 1.0 }]),
            Self::Brackets => parse(prompt),
        }
    }
}

/// What a bracket without a number multiplies with, or divides by.
const STEP: f64 = 1.1;
/// Largest weight, also of nested brackets together: more destroys pictures, and less than nothing means nothing.
pub const WEIGHT_MAX: f64 = 10.0;
/// Deepest nesting.
const DEPTH_MAX: usize = 16;
/// Most parts with a weight below 1: a text encoder reads the prompt once more for each.
const LESSENED_MAX: usize = 32;
/// What a backslash makes a character of its own.
const ESCAPED: [char; 6] = ['(', ')', '[', ']', ':', '\\'];

/// A part of a prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Fragment {
    /// Without brackets, weights and backslashes.
    pub text: String,
    /// 0 to [`WEIGHT_MAX`].
    pub weight: f64,
}

/// Why brackets are no weights. Places are counted in characters, from 1.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum WeightingError {
    #[error("the `{bracket}` at {at} is not closed; a backslash before it makes it a character")]
    Unclosed { bracket: char, at: usize },
    #[error("the `{bracket}` at {at} closes nothing; a backslash before it makes it a character")]
    Unopened { bracket: char, at: usize },
    #[error("the weight `{weight}` at {at} is not 0 to {WEIGHT_MAX}; a backslash before its colon makes it text")]
    Weight { weight: String, at: usize },
    #[error("brackets at {at} are nested more than {DEPTH_MAX} deep")]
    Depth { at: usize },
    #[error("{count} parts have a weight below 1, at most {LESSENED_MAX} may")]
    Lessened { count: usize },
    #[error("{what} in the brackets that end at {at} is not supported: a backslash before it makes it a character")]
    Unsupported { what: &'static str, at: usize },
}

/// The text with a backslash before all that would be a weight.
#[must_use]
pub fn escaped(text: &str) -> String {
    let escape = |c: char| ESCAPED.contains(&c).then_some('\\').into_iter().chain(std::iter::once(c));
    text.chars().flat_map(escape).collect()
}

/// A bracket that is open.
struct Open {
    bracket: char,
    at: usize,
    /// Where its fragments begin.
    first: usize,
    /// The last colon of its own, by what stands before it: fragments, and characters of the one that is being read.
    colon: Option<(usize, usize)>,
    has_bar: bool,
}

#[derive(Default)]
struct Parser {
    fragments: Vec<Fragment>,
    /// The fragment that is being read.
    text: String,
    open: Vec<Open>,
}

fn parse(prompt: &str) -> Result<Vec<Fragment>, WeightingError> {
    let mut parser = Parser::default();
    let mut characters = (1..).zip(prompt.chars()).peekable();
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => {
                let escaped = characters.next_if(|(_, next)| ESCAPED.contains(next));
                parser.text.push(escaped.map_or(character, |(_, escaped)| escaped));
            }
            '(' | '[' => parser.open(character, at)?,
            ')' | ']' => parser.close(character, at)?,
            _ => parser.push(character),
        }
    }
    parser.end_fragment();
    if let Some(Open { bracket, at, .. }) = parser.open.first() {
        return Err(WeightingError::Unclosed { bracket: *bracket, at: *at });
    }
    let count = parser.fragments.iter().filter(|fragment| fragment.weight < 1.0).count();
    if count > LESSENED_MAX { Err(WeightingError::Lessened { count }) } else { Ok(parser.fragments) }
}

impl Parser {
    fn push(&mut self, character: char) {
        let place = (self.fragments.len(), self.text.len());
        if let Some(open) = self.open.last_mut() {
            match character {
                ':' => open.colon = Some(place),
                '|' => open.has_bar = true,
                _ => {}
            }
        }
        self.text.push(character);
    }

    fn end_fragment(&mut self) {
        if !self.text.is_empty() {
            self.fragments.push(Fragment { text: std::mem::take(&mut self.text), weight: 1.0 });
        }
    }

    fn open(&mut self, bracket: char, at: usize) -> Result<(), WeightingError> {
        if self.open.len() >= DEPTH_MAX {
            return Err(WeightingError::Depth { at });
        }
        self.end_fragment();
        self.open.push(Open { bracket, at, first: self.fragments.len(), colon: None, has_bar: false });
        Ok(())
    }

    fn close(&mut self, bracket: char, at: usize) -> Result<(), WeightingError> {
        let partner = if bracket == ')' { '(' } else { '[' };
        let Some(open) = self.open.pop_if(|open| open.bracket == partner) else {
            return Err(WeightingError::Unopened { bracket, at });
        };
        let weight = self.weight(&open, at)?;
        self.end_fragment();
        for fragment in &mut self.fragments[open.first..] {
            fragment.weight *= weight;
            if fragment.weight > WEIGHT_MAX {
                return Err(WeightingError::Weight { weight: fragment.weight.to_string(), at });
            }
        }
        Ok(())
    }

    /// What a pair of brackets multiplies with. A number behind a colon is taken off the text.
    fn weight(&mut self, open: &Open, at: usize) -> Result<f64, WeightingError> {
        // In the fragment that is being read, so that no bracket stands behind it.
        let colon = open.colon.filter(|(fragments, _)| *fragments == self.fragments.len()).map(|(_, at)| at);
        let number = colon.and_then(|colon| Some((colon, self.text.get(colon + 1..)?.trim())));
        let number = number.filter(|(_, text)| text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c)));
        let what = match (open.bracket, open.colon, open.has_bar) {
            ('[', _, true) => "`|`",
            ('[', Some(_), _) => "`:`",
            _ => "",
        };
        if !what.is_empty() {
            return Err(WeightingError::Unsupported { what, at });
        }
        let Some((colon, text)) = number else { return Ok(if open.bracket == '(' { STEP } else { STEP.recip() }) };
        let weight = text.parse::<f64>().ok().filter(|weight| (0.0..=WEIGHT_MAX).contains(weight));
        let refused = || WeightingError::Weight { weight: text.chars().take(40).collect(), at };
        let weight = weight.ok_or_else(refused)?;
        self.text.truncate(colon);
        Ok(weight)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fragments(prompt: &str) -> Vec<(String, f64)> {
        let fragments = Weighting::Brackets.fragments(prompt).expect("weights");
        // To a hundredth: products of 1.1 are not round.
        let rounded = |weight: f64| (weight * 100.0).round() / 100.0;
        fragments.into_iter().map(|fragment| (fragment.text, rounded(fragment.weight))).collect()
    }

    fn parts(expected: &[(&str, f64)]) -> Vec<(String, f64)> {
        expected.iter().map(|(text, weight)| ((*text).to_owned(), *weight)).collect()
    }

    #[test]
    fn brackets_are_weights() {
        for (prompt, expected) in [
            ("a mug", &[("a mug", 1.0)][..]),
            ("", &[]),
            ("a (red:1.3) mug", &[("a ", 1.0), ("red", 1.3), (" mug", 1.0)]),
            ("a (red : 0.25 )mug", &[("a ", 1.0), ("red ", 0.25), ("mug", 1.0)]),
            ("(red)", &[("red", 1.1)]),
            ("[red]", &[("red", 0.91)]),
            ("((red))", &[("red", 1.21)]),
            ("(a [red] mug:2)", &[("a ", 2.0), ("red", 1.82), (" mug", 2.0)]),
            ("(a (red:1.5):1.2)", &[("a ", 1.2), ("red", 1.8)]),
            ("(a (red):x)", &[("a ", 1.1), ("red", 1.21), (":x", 1.1)]),
            (r"a \(red\) \[mug\], 16\:9 \\ \n", &[(r"a (red) [mug], 16:9 \ \n", 1.0)]),
            (r"(ratio 16\:9:1.5)", &[("ratio 16:9", 1.5)]),
            ("time: noon (sun: high)", &[("time: noon ", 1.0), ("sun: high", 1.1)]),
            ("()", &[]),
        ] {
            assert_eq!(fragments(prompt), parts(expected), "{prompt}");
        }
        let plain = Weighting::Plain.fragments("a (red:1.3) mug").expect("any text");
        assert_eq!(plain, [Fragment { text: "a (red:1.3) mug".into(), weight: 1.0 }]);
    }

    #[test]
    fn what_is_no_weight_is_refused_by_name() {
        for (prompt, reason) in [
            ("a (mug", "the `(` at 3 is not closed"),
            ("a mug]", "the `]` at 6 closes nothing"),
            ("(a]", "the `]` at 3 closes nothing"),
            ("(16:90)", "the weight `90` at 7 is not 0 to 10"),
            ("(a:-1)", "the weight `-1` at 6"),
            ("(a:1.2.3)", "the weight `1.2.3` at 9"),
            ("((((a:9):9):9):9)", "is not 0 to 10"),
            ("[mug:vase:0.5]", "`:` in the brackets that end at 14"),
            ("[mug|vase]", "`|` in the brackets that end at 10"),
            (&"(".repeat(17), "nested more than 16 deep"),
            (&"[a]".repeat(33), "33 parts have a weight below 1"),
        ] {
            let error = Weighting::Brackets.fragments(prompt).expect_err(prompt).to_string();
            assert!(error.contains(reason), "{prompt}: {error}");
        }
    }

    proptest! {
        #[test]
        fn an_escaped_text_is_one_fragment_of_that_text(text in "[a-c ()\\[\\]:|\\\\é]{0,24}") {
            let whole: String = fragments(&escaped(&text)).into_iter().map(|(text, weight)| {
                assert_eq!(weight, 1.0);
                text
            }).collect();
            prop_assert_eq!(whole, text);
        }

        #[test]
        fn any_text_is_weights_within_bounds_or_refused(text in "[ab1.9 ()\\[\\]:|\\\\é-]{0,32}") {
            if let Ok(fragments) = Weighting::Brackets.fragments(&text) {
                prop_assert!(fragments.iter().all(|f| (0.0..=WEIGHT_MAX).contains(&f.weight) && !f.text.is_empty()));
            }
        }
    }
}
