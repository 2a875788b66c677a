//! A crate's modules in a stated order, and the references that go against it.
//!
//! A *room* is a module with all that stands below it in its folder, unless a part of that is a room of its own. The order lists
//! the rooms from the top to the bottom: a room may use those behind it and none before it. Such an order has no circles, so a
//! crate that keeps to it has none. The crate's root (`lib.rs`) stands above every room.
//!
//! [`rooms`] starts at the root and follows `mod` declarations. It reads tokens, not types: every path that begins with `crate`,
//! `self`, `super` or the name of a child module is a reference, in a `use` with braces each of its members. Comments, strings
//! and what `cfg(test)` or a feature called `testing` switches on are passed over. Macros are read like other tokens.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

/// Why a crate is not in the stated order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A room uses one that stands above it.
    Upward { from: String, to: String, file: PathBuf, line: usize },
    /// A module is in no room of the order.
    Unlisted { module: String },
    /// The order names a room that the crate has not.
    Absent { room: String },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Upward { from, to, file, line } => {
                write!(f, "{}:{line}: `{from}` uses `{to}`, which stands above it", file.display())
            }
            Self::Unlisted { module } => write!(f, "the module `{module}` is in no room of the order"),
            Self::Absent { room } => write!(f, "the order names `{room}`, which is no module of the crate"),
        }
    }
}

/// What the crate whose root is `lib.rs` in `src` has against `order`, which lists module paths such as `cache` or
/// `diffusion::sd` from the top to the bottom.
///
/// # Panics
/// When a source cannot be read.
#[must_use]
pub fn rooms(src: &Path, order: &[&str]) -> Vec<Fault> {
    let modules = Modules::of(src);
    let order: Vec<Module> = order.iter().map(|room| room.split("::").map(str::to_owned).collect()).collect();
    let mut faults = BTreeSet::new();
    let absent = order.iter().filter(|room| !modules.files.contains_key(*room));
    faults.extend(absent.map(|room| Fault::Absent { room: room.join("::") }));
    for (module, source) in &modules.files {
        let from = room_of(module, &order);
        if from.is_none() && !module.is_empty() {
            faults.insert(Fault::Unlisted { module: module.join("::") });
        }
        // The root stands above all rooms and may use each of them.
        let Some(from) = from else { continue };
        for Reference { path, line } in &source.references {
            let used = modules.module_of(path);
            let to = room_of(&used, &order);
            let is_upward = used.is_empty() || to.is_some_and(|to| to < from);
            if is_upward {
                let to = if used.is_empty() { "crate".to_owned() } else { order[to.unwrap_or(from)].join("::") };
                let (from, file) = (order[from].join("::"), source.path.clone());
                faults.insert(Fault::Upward { from, to, file, line: *line });
            }
        }
    }
    faults.into_iter().collect()
}

/// A module's path from the root, which is empty.
type Module = Vec<String>;

/// The room that a module is in: the longest listed beginning of its path.
fn room_of(module: &Module, order: &[Module]) -> Option<usize> {
    let listed = (0..order.len()).filter(|at| module.starts_with(&order[*at]));
    listed.max_by_key(|at| order[*at].len())
}

/// What one file has of a module.
#[derive(Debug, Default)]
struct Source {
    path: PathBuf,
    references: Vec<Reference>,
}

/// A path from the root that a source names, and the line where it does.
#[derive(Debug, PartialEq, Eq)]
struct Reference {
    path: Module,
    line: usize,
}

/// All modules of a crate with their files.
#[derive(Debug, Default)]
struct Modules {
    files: BTreeMap<Module, Source>,
}

impl Modules {
    fn of(src: &Path) -> Self {
        let mut modules = Self::default();
        let mut waiting = vec![(Module::new(), src.join("lib.rs"), src.to_owned())];
        while let Some((module, path, folder)) = waiting.pop() {
            let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let Reading { references, children, inline } = Reading::of(&text, &module);
            for name in children {
                let (flat, folded) = (folder.join(format!("{name}.rs")), folder.join(&name).join("mod.rs"));
                let file = if flat.is_file() { flat } else { folded };
                waiting.push((child(&module, &name), file, folder.join(&name)));
            }
            for name in inline {
                modules.files.entry(name).or_default();
            }
            modules.files.insert(module, Source { path, references });
        }
        modules
    }

    /// The module that a path leads into: its longest beginning that is one.
    fn module_of(&self, path: &[String]) -> Module {
        let lengths = (0..=path.len()).rev();
        let mut modules = lengths.map(|length| path[..length].to_vec());
        modules.find(|module| self.files.contains_key(module)).unwrap_or_default()
    }
}

fn child(module: &[String], name: &str) -> Module {
    module.iter().cloned().chain([name.to_owned()]).collect()
}

/// What a source says of modules.
#[derive(Debug, Default)]
struct Reading {
    references: Vec<Reference>,
    /// Names of the modules that have files of their own.
    children: Vec<String>,
    /// Paths of the modules whose text stands between braces.
    inline: Vec<Module>,
}

impl Reading {
    fn of(text: &str, module: &[String]) -> Self {
        let tokens = without_tests(tokens(text));
        let mut reading = Self::default();
        let own = declared(&tokens);
        // Modules with braces, each with the depth at which it ends.
        let mut within: Vec<(String, usize)> = Vec::new();
        let (mut depth, mut at) = (0, 0);
        while let Some(token) = tokens.get(at) {
            let here: Module = module.iter().chain(within.iter().map(|(name, _)| name)).cloned().collect();
            match (token.text.as_str(), word(&tokens, at + 1), symbol(&tokens, at + 2)) {
                ("mod", Some(name), ";") if within.is_empty() => reading.children.push(name.to_owned()),
                ("mod", Some(name), "{") => {
                    reading.inline.push(child(&here, name));
                    within.push((name.to_owned(), depth));
                }
                ("{", ..) => depth += 1,
                ("}", ..) => {
                    depth = depth.saturating_sub(1);
                    within.retain(|(_, ends_at)| *ends_at < depth);
                }
                (first, ..) if begins_path(&tokens, at) => {
                    let is_child = within.is_empty() && own.contains(first);
                    if is_child || ["crate", "self", "super"].contains(&first) {
                        at = read_path(&tokens, at, &here, &mut reading.references);
                        continue;
                    }
                }
                _ => {}
            }
            at += 1;
        }
        reading
    }
}

/// Names of all modules that a source declares.
fn declared(tokens: &[Token]) -> BTreeSet<String> {
    let names = (0..tokens.len()).filter(|at| tokens[*at].text == "mod").filter_map(|at| word(tokens, at + 1));
    names.map(str::to_owned).collect()
}

/// Whether a path of several parts begins here, and does not go on.
fn begins_path(tokens: &[Token], at: usize) -> bool {
    let goes_on = at > 0 && symbol(tokens, at - 1) == "::";
    // `$crate::` stands for this crate as well.
    !goes_on && word(tokens, at).is_some() && symbol(tokens, at + 1) == "::"
}

/// Adds the paths that begin at a token, several where they end in braces. Where the first of them ends.
fn read_path(tokens: &[Token], mut at: usize, here: &[String], references: &mut Vec<Reference>) -> usize {
    let mut path = here.to_vec();
    let line = tokens[at].line;
    loop {
        match word(tokens, at) {
            Some("crate") => path.clear(),
            Some("super") => drop(path.pop()),
            Some("self") => {}
            Some(name) => path.push(name.to_owned()),
            None if symbol(tokens, at) == "{" => return read_members(tokens, at, &path, references),
            None => break,
        }
        at += 1;
        if symbol(tokens, at) != "::" {
            break;
        }
        at += 1;
    }
    references.push(Reference { path, line });
    at
}

/// The members of a `use` in braces; where they end.
fn read_members(tokens: &[Token], open: usize, path: &[String], references: &mut Vec<Reference>) -> usize {
    let mut at = open + 1;
    while at < tokens.len() && symbol(tokens, at) != "}" {
        let is_path = word(tokens, at).is_some() || symbol(tokens, at) == "{";
        at = if is_path { read_path(tokens, at, path, references) } else { at + 1 };
        // A new name says nothing of the path.
        if word(tokens, at) == Some("as") {
            at += 2;
        }
    }
    at + 1
}

fn word(tokens: &[Token], at: usize) -> Option<&str> {
    let text = tokens.get(at)?.text.as_str();
    text.starts_with(|first: char| first.is_alphabetic() || first == '_').then_some(text)
}

fn symbol(tokens: &[Token], at: usize) -> &str {
    tokens.get(at).map_or("", |token| token.text.as_str())
}

/// Leaves out what is compiled for tests only.
fn without_tests(tokens: Vec<Token>) -> Vec<Token> {
    let (mut kept, mut at) = (Vec::new(), 0);
    while at < tokens.len() {
        match attribute_end(&tokens, at) {
            Some(end) if is_for_tests(&tokens[at..end]) => at = item_end(&tokens, end),
            Some(end) => {
                kept.extend_from_slice(&tokens[at..end]);
                at = end;
            }
            None => {
                kept.push(tokens[at].clone());
                at += 1;
            }
        }
    }
    kept
}

/// Behind an attribute that begins at a token.
fn attribute_end(tokens: &[Token], at: usize) -> Option<usize> {
    (symbol(tokens, at) == "#" && symbol(tokens, at + 1) == "[").then(|| closing(tokens, at + 1) + 1)
}

/// `cfg(test)`, `cfg(any(test, …))`, `cfg(feature = "testing")`: not what `not` is part of.
fn is_for_tests(attribute: &[Token]) -> bool {
    let has = |text: &str| attribute.iter().any(|token| token.text == text);
    word(attribute, 2) == Some("cfg") && !has("not") && (has("test") || has("\"testing\""))
}

/// Behind the item, field or statement that begins at a token, other attributes of it included.
fn item_end(tokens: &[Token], mut at: usize) -> usize {
    const ITEMS: [&str; 14] = [
        "use", "mod", "fn", "struct", "enum", "union", "impl", "trait", "const", "static", "type", "extern", "unsafe",
        "async",
    ];
    while let Some(end) = attribute_end(tokens, at) {
        at = end;
    }
    let mut first = at;
    while word(tokens, first) == Some("pub") {
        first = if symbol(tokens, first + 1) == "(" { closing(tokens, first + 1) + 1 } else { first + 1 };
    }
    let is_item = word(tokens, first).is_some_and(|word| ITEMS.contains(&word));
    while at < tokens.len() {
        match symbol(tokens, at) {
            ";" => return at + 1,
            "," if !is_item => return at + 1,
            ")" | "]" | "}" => return at,
            "{" => return closing(tokens, at) + 1,
            "(" | "[" => at = closing(tokens, at) + 1,
            _ => at += 1,
        }
    }
    at
}

/// The bracket that closes the one at a token.
fn closing(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.text.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    tokens.len()
}

/// A word, a string with its quotes, `::`, or one character.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Token {
    text: String,
    line: usize,
}

/// A source without its comments and white space.
fn tokens(text: &str) -> Vec<Token> {
    let (mut tokens, mut rest, mut line) = (Vec::new(), text, 1);
    while let Some(first) = rest.chars().next() {
        let length = token_length(rest, first);
        let (token, behind) = rest.split_at(length);
        if !first.is_whitespace() && !is_comment(token) {
            tokens.push(Token { text: token.to_owned(), line });
        }
        line += token.matches('\n').count();
        rest = behind;
    }
    tokens
}

fn is_comment(token: &str) -> bool {
    token.starts_with("//") || token.starts_with("/*")
}

fn token_length(rest: &str, first: char) -> usize {
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return block_comment_length(rest);
    }
    if rest.starts_with("::") {
        return 2;
    }
    if let Some(length) = raw_string_length(rest) {
        return length;
    }
    match first {
        '"' => string_length(rest, '"'),
        '\'' if is_character(rest) => string_length(rest, '\''),
        _ if first.is_alphanumeric() || first == '_' => {
            rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())
        }
        _ => first.len_utf8(),
    }
}

/// A character in quotes, where a lifetime has one quote only.
fn is_character(rest: &str) -> bool {
    let mut behind = rest.chars().skip(1);
    behind.next() == Some('\\') || behind.next() == Some('\'')
}

fn string_length(rest: &str, quote: char) -> usize {
    let mut is_escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            _ if c == quote => return at + c.len_utf8(),
            _ => {}
        }
    }
    rest.len()
}

/// `r"…"` and `r#"…"#`, with `b` or `c` before them as well.
fn raw_string_length(rest: &str) -> Option<usize> {
    let behind = rest.strip_prefix("r").or_else(|| rest.strip_prefix("br")).or_else(|| rest.strip_prefix("cr"))?;
    let content = behind.trim_start_matches('#');
    let hashes = behind.len() - content.len();
    let content = content.strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let length = content.find(&end).map_or(content.len(), |at| at + end.len());
    Some(rest.len() - content.len() + length)
}

/// Block comments nest.
fn block_comment_length(rest: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < rest.len() {
        let here = &rest[at..];
        if here.starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if here.starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += here.chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A crate with these files, read against an order.
    fn faults(files: &[(&str, &str)], order: &[&str]) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let faults = rooms(folder.path(), order);
        let beginning = format!("{}/", folder.path().display());
        faults.iter().map(|fault| fault.to_string().replace(&beginning, "")).collect()
    }

    const LIB: (&str, &str) = ("lib.rs", "pub mod api;\nmod queue;\npub use api::Api;\n");

    #[test]
    fn references_downwards_and_those_of_tests_are_no_fault() {
        let api =
            "//! As `crate::queue` asks.\nuse crate::queue::{Queue, Rank as Place};\npub struct Api(Queue, Place);";
        let queue = r##"
            /* crate::api::Api, /* nested */ still a comment: crate::api */
            pub struct Queue; pub struct Rank;
            const TEXT: &str = "crate::api::Api"; const RAW: &str = r#"crate::api " "#; const QUOTE: char = '"';
            fn of<'a>(text: &'a str) -> &'a str { text }
            #[cfg(test)] use crate::api::Api;
            #[cfg(any(test, feature = "testing"))] #[derive(Debug)] pub fn made<A, B>(_: [u8; 3]) -> crate::api::Api { Api }
            struct Both { #[cfg(test)] api: crate::api::Api, queue: Queue }
            #[cfg(test)] mod tests { use crate::api::Api; }
        "##;
        assert_eq!(faults(&[LIB, ("api.rs", api), ("queue.rs", queue)], &["api", "queue"]), [""; 0]);
    }

    #[test]
    fn a_circle_is_a_fault_wherever_it_is_closed() {
        for closing in [
            "use crate::api::Api;",
            "use super::api::Api;",
            "use crate::{api::{Api, Other}};",
            "fn of(_: &crate::api::Api) {}",
            "mod inner { use super::super::api::Api; }",
            "macro_rules! of { () => { $crate::api::Api } }",
            "#[cfg(not(test))] use crate::api::Api;",
        ] {
            let queue = format!("pub struct Queue;\n{closing}");
            let found = faults(&[LIB, ("api.rs", "use crate::queue::Queue;"), ("queue.rs", &queue)], &["api", "queue"]);
            assert_eq!(found, ["queue.rs:2: `queue` uses `api`, which stands above it"], "{closing}");
        }
    }

    #[test]
    fn a_folder_is_one_room_unless_a_part_of_it_is_listed() {
        let files = [
            ("lib.rs", "mod worker;"),
            ("worker.rs", "mod executor;\nmod torch;\nuse torch::Torch;"),
            ("worker/executor.rs", "use super::torch::Torch;"),
            ("worker/torch/mod.rs", "mod shelf;\npub struct Torch;"),
            ("worker/torch/shelf.rs", "use super::super::executor::Executor;"),
        ];
        assert_eq!(faults(&files, &["worker"]), [""; 0]);
        assert_eq!(
            faults(&files, &["worker", "worker::torch"]),
            ["worker/torch/shelf.rs:1: `worker::torch` uses `worker`, which stands above it"]
        );
        assert_eq!(
            faults(&files, &["worker::torch", "worker"]),
            [
                "worker/executor.rs:1: `worker` uses `worker::torch`, which stands above it",
                "worker.rs:3: `worker` uses `worker::torch`, which stands above it",
            ]
        );
    }

    #[test]
    fn what_the_root_owns_is_used_by_no_room() {
        let files = [LIB, ("api.rs", "use crate::Node;"), ("queue.rs", "")];
        assert_eq!(faults(&files, &["api", "queue"]), ["api.rs:1: `api` uses `crate`, which stands above it"]);
    }

    #[test]
    fn the_order_and_the_crate_name_the_same_rooms() {
        let files = [LIB, ("api.rs", ""), ("queue.rs", "")];
        assert_eq!(
            faults(&files, &["api", "board"]),
            [
                "the module `queue` is in no room of the order",
                "the order names `board`, which is no module of the crate",
            ]
        );
    }
}
