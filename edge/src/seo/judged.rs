//! What others make of our markup: the W3C's validator, React, Next.js' way of asking a loader, and schema.org's vocabulary
//! (`tests/setup/markup`). One run for all pages, because each of them is slow to start.

use std::path::{Path, PathBuf};
use std::process::Command;

use bildkante_shared::testing::skipped;
use serde_json::{Value, json};

use super::tests::{MUG, attacked, placement, site};
use super::{Placement, Showing, SnippetKind};

const TEST: &str = "others_take_our_markup_for_what_it_is";

/// Where `tests/setup/markup.sh` puts them.
fn judges() -> PathBuf {
    let deps = std::env::var_os("BILDKANTE_DEPS").map(PathBuf::from);
    deps.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../.deps")).join("markup")
}

/// A whole page, as an author would build it.
fn page(placement: &Placement) -> String {
    let text = |kind| placement.snippet(kind).unwrap_or_default();
    let (head, data, body, mail) =
        (text(SnippetKind::Meta), text(SnippetKind::JsonLd), text(SnippetKind::Html), text(SnippetKind::Mail));
    format!(
        "<!DOCTYPE html>\n<html lang=\"{}\">\n<head>\n<meta charset=\"utf-8\">\n<title>A page</title>\n{head}\n{data}\n</head>\n\
         <body>\n<main>\n{body}\n<div>{mail}</div>\n</main>\n</body>\n</html>\n",
        placement.locale
    )
}

fn case(name: &str, placement: &Placement) -> Value {
    let text = |kind| placement.snippet(kind).unwrap_or_default();
    let data: Vec<Value> = [placement.image_object(), placement.structured_data()].into_iter().flatten().collect();
    json!({
        "name": name,
        "html": text(SnippetKind::Html),
        "react": text(SnippetKind::React),
        "next": text(SnippetKind::Next),
        "widths": placement.widths_px,
        "data": data,
    })
}

/// A page that is not what it should be is found, too: else the judges say nothing because they read nothing.
#[test]
fn others_take_our_markup_for_what_it_is() {
    let has =
        |tool: &str, flag: &str| Command::new(tool).arg(flag).output().is_ok_and(|output| output.status.success());
    if !judges().join("node_modules/vnu-jar/build/dist/vnu.jar").is_file()
        || !has("node", "--version")
        || !has("java", "-version")
    {
        return skipped(TEST, "node, java or the judges of markup are not installed");
    }
    let (site, attacked) = (site(), attacked());
    let article = {
        let site = super::tests::site();
        super::tests::make_article(&site);
        placement(&site, MUG, Showing::Live)
    };
    let shown_before = {
        let site = super::tests::site();
        site.edit("campaigns/autumn.toml", "channel = \"shop\"", "channel = \"shop\"\nlqip = \"style\"");
        placement(&site, MUG, Showing::Live)
    };
    let all = [
        ("hero", placement(&site, MUG, Showing::Live)),
        ("teaser", placement(&site, "/i/autumn/teaser", Showing::Live)),
        ("undrawn", placement(&site, MUG, Showing::Undrawn)),
        ("article", article),
        ("lqip", shown_before),
        ("attacked", placement(&attacked, MUG, Showing::Live)),
        ("attacked-teaser", placement(&attacked, "/i/autumn/teaser?locale=en-GB", Showing::Live)),
    ];
    assert_eq!(faults(&all, |_, _| {}), "");

    let broken = faults(&all[..1], |page, case| {
        *page = page.replace(" alt=", " alx=");
        case["data"][0]["creator"]["@type"] = "Organisation".into();
        case["react"] = case["react"].as_str().expect("a component").replace("img", "b").into();
    });
    for judge in ["vnu: ", "schema.org: ", "hero: "] {
        assert!(broken.contains(judge), "{judge} found nothing: {broken}");
    }
}

/// What the judges say, a fault a line.
fn faults(all: &[(&str, Placement)], spoil: impl Fn(&mut String, &mut Value)) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(folder.path().join("pages")).expect("created");
    let mut cases = Vec::new();
    for (name, placement) in all {
        let (mut page, mut case) = (page(placement), case(name, placement));
        spoil(&mut page, &mut case);
        std::fs::write(folder.path().join(format!("pages/{name}.html")), page).expect("written");
        cases.push(case);
    }
    std::fs::write(folder.path().join("cases.json"), Value::from(cases).to_string()).expect("written");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/setup/markup/judge.mjs");
    let output = Command::new("node")
        .arg(script)
        .arg(judges())
        .arg(folder.path())
        .output()
        .expect("node was there a moment ago");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}
