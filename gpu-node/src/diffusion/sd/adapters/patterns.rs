//! The patterns of `alpha_pattern` and `rank_pattern`: Python's regular expressions, of which PEFT asks
//! `re.match(rf"(.*\.)?({pattern})$", module)`.
//!
//! Nearly all are names of modules, in which only the dot is special; those are compared without an automaton. The others are
//! compiled within bounds, and what the two languages read differently, or what takes more than linear time, is refused.

use regex::{Regex, RegexBuilder};

/// Longest pattern.
const PATTERN_CHARS_MAX: usize = 1000;
/// Compiled patterns of one file, and what one may take.
const REGEXES_MAX: usize = 256;
const REGEX_BYTES_MAX: usize = 256 * 1024;
const NESTING_MAX: u32 = 32;

/// How many patterns of a file may still be compiled.
#[derive(Debug)]
pub(crate) struct RegexBudget(usize);

impl Default for RegexBudget {
    fn default() -> Self {
        Self(REGEXES_MAX)
    }
}

#[derive(Debug)]
pub(crate) enum Pattern {
    /// Of a fixed length; a dot is any character.
    Name {
        name: String,
        is_whole: bool,
    },
    Regex(Regex),
}

impl Pattern {
    pub(crate) fn new(pattern: &str, budget: &mut RegexBudget) -> Result<Self, String> {
        let refused = |reason: &str| {
            let shown: String = pattern.chars().take(80).collect();
            format!("`{}` is no pattern that can be matched here: {reason}", shown.escape_debug())
        };
        if pattern.chars().count() > PATTERN_CHARS_MAX {
            return Err(refused(&format!("longer than {PATTERN_CHARS_MAX} characters")));
        }
        let (name, is_whole) = pattern.strip_prefix('^').map_or((pattern, false), |name| (name, true));
        if name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.')) {
            return Ok(Self::Name { name: name.to_owned(), is_whole });
        }
        check_syntax(pattern).map_err(|reason| refused(&reason))?;
        budget.0 =
            budget.0.checked_sub(1).ok_or_else(|| refused(&format!("more than {REGEXES_MAX} regular expressions")))?;
        let mut builder = RegexBuilder::new(&format!(r"\A(?:(.*\.)?({pattern})$)"));
        builder.size_limit(REGEX_BYTES_MAX).dfa_size_limit(REGEX_BYTES_MAX).nest_limit(NESTING_MAX);
        // Its own messages quote the whole expression over several lines.
        builder.build().map(Self::Regex).map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => refused("it takes too much memory"),
            _ => refused("it is no regular expression, or looks around or back"),
        })
    }

    pub(crate) fn matches(&self, module: &str) -> bool {
        match self {
            Self::Regex(regex) => regex.is_match(module),
            Self::Name { name, is_whole } => {
                let (module, name) = (module.as_bytes(), name.as_bytes());
                let Some(start) = module.len().checked_sub(name.len()) else { return false };
                let begins = start == 0 || (!is_whole && module[start - 1] == b'.');
                begins && name.iter().zip(&module[start..]).all(|(wanted, found)| *wanted == b'.' || wanted == found)
            }
        }
    }
}

/// Refuses what Python reads otherwise than the crate: sets within sets, possessive repetition, flags, most escapes.
fn check_syntax(pattern: &str) -> Result<(), String> {
    let chars: Vec<char> = pattern.chars().collect();
    let (mut at, mut in_set) = (0, false);
    while at < chars.len() {
        let (here, next) = (chars[at], chars.get(at + 1).copied());
        match (here, next) {
            ('\\', Some(escaped)) => {
                let is_class = "dDwWsS".contains(escaped) || (!in_set && "bB".contains(escaped));
                if !is_class && (!escaped.is_ascii_punctuation() || "<>".contains(escaped)) {
                    return Err(format!("`\\{escaped}` is not known"));
                }
                at += 1;
            }
            ('\\', None) => return Err("it ends within an escape".into()),
            ('[', _) if in_set => return Err("a set holds `[`".into()),
            ('&' | '-' | '~' | '|', Some(twin)) if in_set && here == twin => {
                return Err(format!("a set holds `{here}{here}`"));
            }
            ('[', _) => {
                in_set = true;
                // A `]` that comes first is one of the set.
                let skipped = usize::from(next == Some('^'));
                if chars.get(at + 1 + skipped) == Some(&']') {
                    return Err("a set begins with `]`".into());
                }
            }
            (']', _) => in_set = false,
            ('(', Some('?')) if !in_set && !matches!(chars.get(at + 2), Some(':' | 'P')) => {
                return Err("it looks around, or sets flags".into());
            }
            ('*' | '+' | '?' | '}', Some('+')) if !in_set => return Err("possessive repetition".into()),
            ('*' | '+' | '?' | '}', Some('*' | '{')) if !in_set => return Err("a repetition is repeated".into()),
            _ => {}
        }
        at += 1;
    }
    Ok(())
}
