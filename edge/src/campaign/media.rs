//! A media condition, as `media` of a `<source>` takes it: `(max-width: 40rem)`.
//!
//! Source: Media Queries Level 4 (`<media-condition>`), without media types, so that a condition can be negated and joined with
//! others. It goes into HTML and into `Link` fields, so its alphabet has no quotes and no angle brackets but those of a range.

use std::fmt;
use std::str::FromStr;

/// Longest condition.
pub const MEDIA_BYTES_MAX: usize = 200;
/// Deepest nesting.
const DEPTH_MAX: usize = 4;
const EXPECTED: &str =
    "a media condition is such as `(max-width: 40rem)` or `(orientation: portrait) and (width < 600px)`";

/// See the module's documentation. Its text has one space where the author may have had several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaCondition(String);

/// Why a text is no condition.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MediaError {
    #[error("a media condition has at most {MEDIA_BYTES_MAX} bytes")]
    TooLong,
    #[error("`{0}` cannot stand in a media condition; {EXPECTED}")]
    Character(char),
    #[error("parentheses nest at most {DEPTH_MAX} deep")]
    TooDeep,
    #[error("{EXPECTED}")]
    Syntax,
    #[error("`and` and `or` stand together only with parentheses between them")]
    Mixed,
}

impl MediaCondition {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Where this one holds and none of the `earlier` ones does: what a browser chooses a source by, which takes the first that holds.
    #[must_use]
    pub fn behind(&self, earlier: &[&Self]) -> String {
        let own = std::iter::once(in_parentheses(&self.0));
        own.chain(earlier.iter().map(|other| other.negated())).collect::<Vec<_>>().join(" and ")
    }

    /// Where none of them holds.
    #[must_use]
    pub fn none_of(conditions: &[&Self]) -> String {
        conditions.iter().map(|condition| condition.negated()).collect::<Vec<_>>().join(" and ")
    }

    fn negated(&self) -> String {
        format!("(not {})", in_parentheses(&self.0))
    }
}

impl fmt::Display for MediaCondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// As it can be negated and joined.
fn in_parentheses(condition: &str) -> String {
    if is_one_group(condition) { condition.to_owned() } else { format!("({condition})") }
}

/// Whether its first parenthesis ends with its last.
fn is_one_group(condition: &str) -> bool {
    let mut depth = 0_usize;
    condition.starts_with('(')
        && condition.char_indices().all(|(at, c)| {
            match c {
                '(' => depth += 1,
                ')' => depth = depth.saturating_sub(1),
                _ => {}
            }
            depth > 0 || at + 1 == condition.len()
        })
}

impl FromStr for MediaCondition {
    type Err = MediaError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > MEDIA_BYTES_MAX {
            return Err(MediaError::TooLong);
        }
        let is_of_alphabet = |c: char| c.is_ascii_alphanumeric() || " ()-.:/<>=".contains(c);
        if let Some(stranger) = text.chars().find(|c| !is_of_alphabet(*c)) {
            return Err(MediaError::Character(stranger));
        }
        let text = text.to_ascii_lowercase();
        let tokens = tokens(&text);
        let mut reader = Reader { tokens: &tokens, at: 0 };
        reader.condition(0)?;
        if reader.at != tokens.len() {
            return Err(MediaError::Syntax);
        }
        Ok(Self(spelt(&tokens)))
    }
}

/// Parentheses and what stands between spaces.
fn tokens(text: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let mut rest = word;
        while let Some(at) = rest.find(['(', ')', ':']) {
            let (before, after) = rest.split_at(at);
            let (mark, after) = after.split_at(1);
            tokens.extend([before, mark].into_iter().filter(|token| !token.is_empty()));
            rest = after;
        }
        tokens.extend(Some(rest).filter(|rest| !rest.is_empty()));
    }
    tokens
}

fn spelt(tokens: &[&str]) -> String {
    let mut text = String::new();
    for token in tokens {
        let is_tight = text.is_empty() || text.ends_with('(') || matches!(*token, ")" | ":");
        if !is_tight {
            text.push(' ');
        }
        text.push_str(token);
    }
    text
}

struct Reader<'t> {
    tokens: &'t [&'t str],
    at: usize,
}

impl<'t> Reader<'t> {
    fn peek(&self) -> Option<&'t str> {
        self.tokens.get(self.at).copied()
    }

    fn take(&mut self) -> Option<&'t str> {
        let token = self.peek()?;
        self.at += 1;
        Some(token)
    }

    /// `not G`, `G and G …` or `G or G …`, of groups in parentheses.
    fn condition(&mut self, depth: usize) -> Result<(), MediaError> {
        if depth >= DEPTH_MAX {
            return Err(MediaError::TooDeep);
        }
        if self.peek() == Some("not") {
            self.at += 1;
            return self.group(depth);
        }
        self.group(depth)?;
        let Some(word @ ("and" | "or")) = self.peek() else { return Ok(()) };
        while let Some(next @ ("and" | "or")) = self.peek() {
            if next != word {
                return Err(MediaError::Mixed);
            }
            self.at += 1;
            self.group(depth)?;
        }
        Ok(())
    }

    fn group(&mut self, depth: usize) -> Result<(), MediaError> {
        if self.take() != Some("(") {
            return Err(MediaError::Syntax);
        }
        if matches!(self.peek(), Some("(" | "not")) {
            self.condition(depth + 1)?
        } else {
            self.feature()?
        }
        if self.take() == Some(")") { Ok(()) } else { Err(MediaError::Syntax) }
    }

    /// `name`, `name: value`, `name < value` or `value <= name < value`.
    fn feature(&mut self) -> Result<(), MediaError> {
        let start = self.at;
        while !matches!(self.peek(), None | Some("(" | ")")) {
            self.at += 1;
        }
        let is_relation = |token: &str| matches!(token, "<" | "<=" | ">" | ">=" | "=");
        let is_right = match self.tokens[start..self.at] {
            [name] => is_name(name),
            [name, ":", value] => is_name(name) && is_value(value),
            [one, relation, other] => {
                is_relation(relation) && (is_name(one) && is_value(other) || is_value(one) && is_name(other))
            }
            [least, relation @ ("<" | "<="), name, second @ ("<" | "<="), most]
            | [least, relation @ (">" | ">="), name, second @ (">" | ">="), most] => {
                is_value(least) && is_relation(relation) && is_name(name) && is_relation(second) && is_value(most)
            }
            _ => false,
        };
        if is_right { Ok(()) } else { Err(MediaError::Syntax) }
    }
}

fn is_name(token: &str) -> bool {
    token.starts_with(|c: char| c.is_ascii_alphabetic())
        && token.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
        && !matches!(token, "and" | "or" | "not")
}

/// A number with or without a unit, a ratio, or a word.
fn is_value(token: &str) -> bool {
    let is_number = |text: &str| {
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        digits.parse::<f64>().is_ok_and(f64::is_finite) && digits.starts_with(|c: char| c.is_ascii_digit() || c == '.')
    };
    match token.split_once('/') {
        Some((width, height)) => [width, height].iter().all(|side| side.parse::<u32>().is_ok()),
        None => is_number(token) || is_name(token),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<String, MediaError> {
        text.parse::<MediaCondition>().map(|condition| condition.to_string())
    }

    #[test]
    fn conditions_are_read_and_written_one_way() {
        for (text, expected) in [
            ("(max-width: 40rem)", "(max-width: 40rem)"),
            ("( MAX-WIDTH:40rem )", "(max-width: 40rem)"),
            ("(orientation: portrait)  and (max-width: 599.98px)", "(orientation: portrait) and (max-width: 599.98px)"),
            ("not (hover)", "not (hover)"),
            (
                "((width < 30em) or (max-aspect-ratio: 4/5)) and (color)",
                "((width < 30em) or (max-aspect-ratio: 4/5)) and (color)",
            ),
            ("(400px <= width <= 700px)", "(400px <= width <= 700px)"),
            ("(prefers-color-scheme: dark)", "(prefers-color-scheme: dark)"),
        ] {
            assert_eq!(read(text), Ok(expected.to_owned()), "{text}");
        }
    }

    #[test]
    fn what_is_no_condition_is_refused_by_its_reason() {
        for text in [
            "",
            "screen",
            "(max-width 40rem)",
            "(max-width: )",
            "(a: b",
            "(a) and",
            "(a)(b)",
            "()",
            "(a: 1/x)",
            "(1 < a > 2)",
        ] {
            assert_eq!(read(text), Err(MediaError::Syntax), "{text}");
        }
        for (text, stranger) in [
            ("(a: \"b\")", '"'),
            ("(a: 'b')", '\''),
            ("(a)&(b)", '&'),
            ("(a),(b)", ','),
            ("(a);(b)", ';'),
            ("(a\n)", '\n'),
            ("(é)", 'é'),
        ] {
            assert_eq!(read(text), Err(MediaError::Character(stranger)), "{text}");
        }
        assert_eq!(read("(a) and (b) or (c)"), Err(MediaError::Mixed));
        assert_eq!(read("(((((a)))))"), Err(MediaError::TooDeep));
        assert_eq!(read(&format!("(a: {})", "1".repeat(300))), Err(MediaError::TooLong));
    }

    #[test]
    fn conditions_that_follow_each_other_exclude_each_other() {
        let of = |text: &str| text.parse::<MediaCondition>().expect("a condition");
        let (phone, tall) = (of("(max-width: 40rem)"), of("(orientation: portrait) and (color)"));
        assert_eq!(phone.behind(&[]), "(max-width: 40rem)");
        assert_eq!(tall.behind(&[&phone]), "((orientation: portrait) and (color)) and (not (max-width: 40rem))");
        let none = MediaCondition::none_of(&[&phone, &tall]);
        assert_eq!(none, "(not (max-width: 40rem)) and (not ((orientation: portrait) and (color)))");
        // What is joined is a condition again.
        assert_eq!(read(&none), Ok(none.clone()));
    }

    proptest! {
        #[test]
        fn what_is_read_is_read_again_as_the_same(text in "[ a-z0-9():/<=.-]{0,60}") {
            if let Ok(condition) = text.parse::<MediaCondition>() {
                prop_assert_eq!(condition.as_str().parse::<MediaCondition>(), Ok(condition.clone()));
            }
        }

        #[test]
        fn no_text_breaks_the_reader(text in "\\PC{0,220}") {
            let _ = text.parse::<MediaCondition>();
        }
    }
}
