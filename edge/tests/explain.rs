//! What `bildkante-edge explain` says of the shipped campaigns, word for word: recipe ids, sizes, formats, headers and
//! refusals do not change unnoticed. `BILDKANTE_BLESS=1 cargo test --test explain` writes the files anew after a change
//! that is meant.

use std::path::{Path, PathBuf};
use std::process::Command;

/// How an answer is printed, and the file that holds it.
const FORMS: [(&[&str], &str); 2] = [(&[], "text.txt"), (&["--json"], "json.txt")];
/// JSON has the whole recipe, so few of the URLs suffice.
const JSON_EVERY: usize = 6;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/explain")
}

fn explained(line: &str, form: &[&str]) -> String {
    let (url, accept) = line.split_once('\t').map_or((line, None), |(url, accept)| (url, Some(accept)));
    let mut command = Command::new(env!("CARGO_BIN_EXE_bildkante-edge"));
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).arg("explain").args(form);
    if let Some(accept) = accept {
        command.args(["--accept", accept]);
    }
    let output = command.arg(url).output().expect("the edge's program starts");
    let said = without_files_digest(&String::from_utf8(output.stdout).expect("UTF-8"));
    format!("== {line}\n{said}status {}\n", output.status.code().expect("a status"))
}

/// The digest of a campaign's files changes with each of their comments, and recipes do not.
fn without_files_digest(said: &str) -> String {
    const FIELD: &str = "\"campaign\":\"blake3:";
    let Some((before, after)) = said.split_once(FIELD) else { return said.to_owned() };
    let (_, after) = after.split_once('"').expect("the end of a digest");
    format!("{before}{FIELD}…\"{after}")
}

#[test]
fn the_shipped_campaigns_are_explained_as_before() {
    let urls = std::fs::read_to_string(folder().join("urls.txt")).expect("the list of URLs");
    let lines: Vec<&str> = urls.lines().filter(|line| !line.starts_with('#')).collect();
    for (form, file) in FORMS {
        let every = if form.is_empty() { 1 } else { JSON_EVERY };
        let said: String = lines.iter().step_by(every).map(|line| explained(line, form)).collect();
        let path = folder().join(file);
        if std::env::var_os("BILDKANTE_BLESS").is_some() {
            std::fs::write(&path, &said).expect("written");
        }
        let golden = std::fs::read_to_string(&path).expect("the golden");
        for (said, golden) in said.lines().zip(golden.lines()) {
            assert_eq!(said, golden, "{file}");
        }
        assert_eq!(said.len(), golden.len(), "{file}");
    }
}
