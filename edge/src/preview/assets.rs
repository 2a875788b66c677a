//! Style and scripts of the pages: small modules without a framework, typed by JSDoc, which `make lint` has TypeScript check.

use std::sync::LazyLock;

use crate::response::{StaticText, TextKind};

/// Each is asked for again, and is a 304 while the program is the same.
const CACHE: &str = "no-cache";

macro_rules! asset {
    ($kind:ident, $name:literal) => {
        (concat!("/", $name), StaticText::new(TextKind::$kind, include_str!(concat!("assets/", $name)), CACHE))
    };
}

static ASSETS: LazyLock<[(&str, StaticText); 16]> = LazyLock::new(|| {
    [
        asset!(Css, "style.css"),
        asset!(Svg, "icon.svg"),
        asset!(Script, "main.js"),
        asset!(Script, "shots.js"),
        asset!(Script, "board.js"),
        asset!(Script, "batch.js"),
        asset!(Script, "keys.js"),
        asset!(Script, "live.js"),
        asset!(Script, "compare.js"),
        asset!(Script, "stage.js"),
        asset!(Script, "text.js"),
        asset!(Script, "shared.js"),
        asset!(Script, "undo.js"),
        asset!(Script, "picks.js"),
        asset!(Script, "progress.js"),
        asset!(Script, "drop.js"),
    ]
});

/// By its path below `/preview`.
pub(super) fn find(path: &str) -> Option<&'static StaticText> {
    ASSETS.iter().find(|(name, _)| *name == path).map(|(_, text)| text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of all scripts together, as a browser gets them.
    const SCRIPT_BYTES_MAX: usize = 60_000;

    #[test]
    fn every_script_that_is_imported_is_there() {
        let scripts = [
            "main.js",
            "batch.js",
            "shots.js",
            "board.js",
            "keys.js",
            "live.js",
            "compare.js",
            "stage.js",
            "text.js",
            "shared.js",
            "undo.js",
            "picks.js",
            "progress.js",
            "drop.js",
        ];
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/preview/assets");
        let mut bytes = 0;
        for name in scripts {
            assert!(find(&format!("/{name}")).is_some(), "{name}");
            let text = std::fs::read_to_string(folder.join(name)).unwrap();
            bytes += text.len();
            for import in text.lines().filter_map(|line| line.split_once(" from './")).map(|(_, rest)| rest) {
                let imported = import.split('\'').next().unwrap();
                assert!(find(&format!("/{imported}")).is_some(), "{name} imports {imported}");
            }
        }
        assert!(bytes < SCRIPT_BYTES_MAX, "{bytes}");
    }
}
