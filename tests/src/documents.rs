//! The documents of the repository as tests read them: headings, links, and the code that readers type.
//!
//! Invariant: what is in a code block or a code span is code, everything else is prose. A link is never code, and a command
//! is never prose.

use std::path::{Path, PathBuf};

use crate::repository;

/// A Markdown file.
#[derive(Debug)]
pub struct Document {
    /// From the repository's root.
    pub path: PathBuf,
    text: String,
}

/// A code block, by the word behind its fence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    pub language: String,
    pub text: String,
}

/// Where a line of a document stands.
enum Line<'a> {
    Prose(&'a str),
    Code(&'a str),
    Fence,
}

impl Document {
    /// # Errors
    /// When there is no such file.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        Ok(Self { path: path.to_owned(), text: std::fs::read_to_string(repository().join(path))? })
    }

    /// Every document that people read: those beside README.md, those in docs/ and the one of the deployment files.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn all() -> anyhow::Result<Vec<Self>> {
        let mut paths: Vec<PathBuf> =
            ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "config/deploy/README.md"].map(PathBuf::from).into();
        for folder in ["docs", "docs/reference"] {
            for entry in std::fs::read_dir(repository().join(folder))? {
                let name = PathBuf::from(entry?.file_name());
                if name.extension().is_some_and(|extension| extension == "md") {
                    paths.push(Path::new(folder).join(name));
                }
            }
        }
        paths.sort();
        paths.iter().map(|path| Self::read(path)).collect()
    }

    /// Of a heading, the text up to the next one of its level or above.
    #[must_use]
    pub fn section(&self, heading: &str) -> Option<Self> {
        let start = self.text.find(&format!("\n{heading}\n"))? + 1;
        let level = heading.chars().take_while(|c| *c == '#').count();
        let behind = &self.text[start + heading.len()..];
        let is_next = |line: &str| (1..=level).any(|marks| line.starts_with(&format!("{} ", "#".repeat(marks))));
        let mut is_code = false;
        let lines = behind.lines().take_while(|line| {
            is_code ^= line.starts_with("```");
            is_code || !is_next(line)
        });
        Some(Self { path: self.path.clone(), text: lines.collect::<Vec<_>>().join("\n") })
    }

    /// The blocks between fences, in order.
    #[must_use]
    pub fn blocks(&self) -> Vec<Block> {
        let mut blocks: Vec<Block> = Vec::new();
        let mut is_open = false;
        for line in self.text.lines() {
            if let Some(language) = line.strip_prefix("```") {
                is_open = !is_open;
                if is_open {
                    blocks.push(Block { language: language.to_owned(), text: String::new() });
                }
            } else if let (true, Some(block)) = (is_open, blocks.last_mut()) {
                block.text.push_str(line);
                block.text.push('\n');
            }
        }
        blocks
    }

    fn lines(&self) -> impl Iterator<Item = Line<'_>> {
        let mut is_open = false;
        self.text.lines().map(move |line| {
            if line.starts_with("```") {
                is_open = !is_open;
                Line::Fence
            } else if is_open || line.starts_with("    ") {
                Line::Code(line)
            } else {
                Line::Prose(line)
            }
        })
    }

    /// The prose, line by line, as one text: code spans may cross a line's end.
    fn prose(&self) -> String {
        let lines = self.lines().map(|line| match line {
            Line::Prose(text) => text,
            Line::Code(_) | Line::Fence => "",
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    /// What stands between backticks in the prose, a line's end read as a blank.
    #[must_use]
    pub fn spans(&self) -> Vec<String> {
        let prose = self.prose();
        let paragraphs = prose.split("\n\n");
        let spans = paragraphs.flat_map(|paragraph| paragraph.split('`').skip(1).step_by(2));
        spans.map(|span| span.replace('\n', " ")).collect()
    }

    /// What readers type: each code span, and each line of a code block without its comment, continued lines joined.
    #[must_use]
    pub fn commands(&self) -> Vec<String> {
        let mut code = String::new();
        for line in self.lines() {
            match line {
                Line::Code(text) => code.push_str(without_comment(text)),
                Line::Prose(_) | Line::Fence => {}
            }
            code.push('\n');
        }
        let mut commands = self.spans();
        commands
            .extend(code.replace("\\\n", " ").lines().filter(|line| !line.trim().is_empty()).map(ToOwned::to_owned));
        commands
    }

    /// The targets of links and pictures in the prose.
    #[must_use]
    pub fn links(&self) -> Vec<String> {
        // A code span may show the syntax of a link.
        let prose: Vec<String> = self.prose().split('`').step_by(2).map(ToOwned::to_owned).collect();
        let prose = prose.join("``");
        prose.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0.to_owned())).collect()
    }

    /// The anchors of the headings, as GitHub makes them.
    #[must_use]
    pub fn anchors(&self) -> Vec<String> {
        let prose = self.prose();
        let headings =
            prose.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
        headings.map(anchor).collect()
    }
}

fn without_comment(line: &str) -> &str {
    if line.starts_with('#') { "" } else { line.split(" #").next().unwrap_or_default() }
}

fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase();
    let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document() -> Document {
        let text = "# A *title*\nSee [there](x.md#a-b) and `make\nit`, not `[no](link)`.\n\n## Shell, and more\n```sh\n\
                    make demo \\\n  fast   # builds\n# not a heading\n```\n    make test # all\n## End\n";
        Document { path: "a.md".into(), text: text.to_owned() }
    }

    #[test]
    fn prose_has_links_and_headings_and_code_has_commands() {
        let document = document();
        assert_eq!(document.links(), ["x.md#a-b"]);
        assert_eq!(document.anchors(), ["a-title", "shell-and-more", "end"]);
        let commands: Vec<String> =
            document.commands().iter().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(commands, ["make it", "[no](link)", "make demo fast", "make test"]);
    }

    #[test]
    fn a_section_ends_at_the_next_heading_and_keeps_its_blocks() {
        let section = document().section("## Shell, and more").unwrap();
        let block = Block { language: "sh".into(), text: "make demo \\\n  fast   # builds\n# not a heading\n".into() };
        assert_eq!(section.blocks(), [block]);
        assert!(!section.text.contains("End") && document().section("## None").is_none());
    }
}
