//! What the library unpic builds for imgix, and for other CDNs whose words are the same, means here what its caller
//! meant. The URLs are made by the library itself, by `unpic/urls.mjs`; what each means is written down in
//! `unpic/cases.json` by hand.

mod judges;

use std::path::{Path, PathBuf};
use std::process::Command;

use bildkante_edge::negotiate::FormatAsk;
use bildkante_edge::request::{Fit, IgnoredParameters, ImageRequest, QualityAsk, WidthAsk};
use serde_json::Value;

/// Where `tests/setup/unpic.sh` puts it.
fn unpic() -> PathBuf {
    let deps = std::env::var_os("BILDKANTE_DEPS").map(PathBuf::from);
    deps.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../.deps")).join("unpic")
}

/// The output of the script; `None` where a judge is missing, said by name.
fn built(test: &str) -> Option<Value> {
    if !judges::has("node", test) {
        return None;
    }
    let folder = unpic();
    if !folder.join("node_modules/unpic/package.json").is_file() {
        judges::missing("unpic", test);
        return None;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/unpic/urls.mjs");
    let output = Command::new("node").arg(script).arg(&folder).output().expect("node was there a moment ago");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(serde_json::from_slice(&output.stdout).expect("JSON"))
}

fn target(url: &str) -> (&str, Option<&str>) {
    let path = url.strip_prefix("https://img.example.com").unwrap_or(url);
    path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)))
}

#[test]
fn what_unpic_builds_means_what_its_caller_meant() {
    let Some(built) = built("what_unpic_builds_means_what_its_caller_meant") else { return };
    let ignored = IgnoredParameters::default();
    let cases = built["cases"].as_array().expect("a list");
    assert!(cases.len() >= 30);
    for case in cases {
        let url = case["url"].as_str().unwrap_or_else(|| panic!("no URL: {case}"));
        let (path, query) = target(url);
        let parsed = ImageRequest::parse(path, query, &ignored);
        if let Some(refused) = case["refused"].as_str() {
            let problem = parsed.expect_err(url).problem();
            assert_eq!(problem.parameter.as_deref(), Some(refused), "{url}");
            assert!(!problem.allowed.is_empty(), "{url}");
            continue;
        }
        let means = case["means"].as_str().expect("a meaning");
        let request = parsed.unwrap_or_else(|error| panic!("{url}: {error}"));
        assert_eq!(request.canonical(), format!("/i/studio/hero?colour=teal&product=mug&{means}"), "{url}");
    }
}

#[test]
fn sizes_formats_and_qualities_arrive_as_they_were_given() {
    let Some(built) = built("sizes_formats_and_qualities_arrive_as_they_were_given") else { return };
    let ignored = IgnoredParameters::default();
    let grid = built["grid"].as_array().expect("a list");
    assert_eq!(grid.len(), 5 * 3 * 6 * 4);
    let px = |value: &Value| value.as_f64().map(|px| px.round() as u32);
    for cell in grid {
        let url = cell["url"].as_str().expect("a URL");
        let (path, query) = target(url);
        let request = ImageRequest::parse(path, query, &ignored).unwrap_or_else(|error| panic!("{url}: {error}"));
        assert_eq!(request.width, px(&cell["width"]).map(WidthAsk::Px), "{url}");
        assert_eq!(request.height_px, px(&cell["height"]), "{url}");
        assert_eq!(request.fit, Fit::Cover, "{url}");
        let quality = match request.quality {
            QualityAsk::Number(quality) => Some(u64::from(quality.get())),
            _ => None,
        };
        assert_eq!(quality, cell["quality"].as_u64(), "{url}");
        let format = match request.format {
            FormatAsk::Auto => None,
            FormatAsk::Explicit(format) => Some(format.extension()),
        };
        let asked = cell["format"].as_str().map(|name| if name == "jpeg" { "jpg" } else { name });
        assert_eq!(format, asked, "{url}");
        assert_eq!(request.axes.len(), 2, "{url}");
    }
}
