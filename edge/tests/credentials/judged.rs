//! C2PA's own Python library agrees.

use std::path::Path;

use bildkante_edge::credentials::{GENERATION_LABEL, Ingredient, Manifest, Relation, Signed, Step, Story};
use bildkante_edge::words::Format;
use bildkante_shared::ids::Digest;

use crate::{Studio, generation, judges, rendition, signed, signing, story};

/// What C2PA's Python library says of a file.
fn judged(
    python: &Path,
    studio: &Studio,
    format: Format,
    file: &[u8],
    manifest: Option<&Manifest>,
) -> serde_json::Value {
    let path = |name: &str| studio.dir.path().join(name);
    let picture = path(&format!("judged.{}", format.extension()));
    std::fs::write(&picture, file).expect("written");
    std::fs::write(path("root.pem"), &studio.pki.root_pem).expect("written");
    let mut judge = std::process::Command::new(python);
    judge.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/setup/c2pa/judge.py"));
    judge.arg(format.media_type()).arg(&picture).arg(path("root.pem"));
    if let Some(manifest) = manifest {
        std::fs::write(path("judged.c2pa"), manifest.as_bytes()).expect("written");
        judge.arg(path("judged.c2pa"));
    }
    let said = judge.output().expect("the judge was there a moment ago");
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    serde_json::from_slice(&said.stdout).expect("JSON")
}

#[test]
fn c2pa_python_trusts_every_format_embedded_and_beside() {
    const TEST: &str = "c2pa_python_trusts_every_format_embedded_and_beside";
    let python = std::env::var_os("BILDKANTE_C2PA").map(std::path::PathBuf::from).filter(|path| path.is_file());
    let Some(python) = python else { return judges::missing("c2pa-python", TEST) };
    let studio = Studio::new();
    let signer = studio.opened();
    let layer = Ingredient::described("Logo", "image/png", Relation::Component);
    let story = Story {
        steps: vec![Step::Placed { ingredient: 0, file: Digest::of_bytes(b"layer") }],
        ingredients: vec![layer],
        ..story()
    };
    for format in Format::ALL {
        let file = rendition(format);
        let Signed { file: embedded, .. } = signed(&signer, &story, format, &file);
        let beside = signing(&signer).beside(&story, format, &file).expect("signed");
        for (file, manifest) in [(&embedded, None), (&file, Some(&beside))] {
            let said = judged(&python, &studio, format, file, manifest);
            assert_eq!(said["state"], "Trusted", "{format}: {said}");
            assert_eq!(said["failures"], serde_json::json!([]), "{format}");
            assert_eq!(said["actions"], serde_json::json!(["c2pa.created", "c2pa.placed"]), "{format}");
            assert_eq!(said["generation"]["master"], generation().master, "{format}: {GENERATION_LABEL}");
            assert_eq!(said["ingredients"], serde_json::json!(["Logo"]), "{format}");
            let mut changed = file.clone();
            changed[file.len() / 2] ^= 1;
            let said = judged(&python, &studio, format, &changed, manifest);
            // The byte may be one of the picture or one of its manifest.
            assert!(["Invalid", "Unreadable"].contains(&said["state"].as_str().unwrap_or("")), "{format}: {said}");
        }
    }
}
