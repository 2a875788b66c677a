//! What the library unpic builds for imgix, and for other CDNs whose words are the same, means here what its caller
//! meant. The URLs are made by the library itself, by `unpic/urls.mjs`; what each means is written down in
//! `unpic/cases.json`. What a service's documentation says of its words for `fit`, and where it says so, is in
//! `unpic/fit.json`: both the words and the sizes that come of them are compared with that.

mod judges;

use std::path::{Path, PathBuf};
use std::process::Command;

use bildkante_edge::render::shape::fit_inside;
use bildkante_edge::render::{Anchor, Shape};
use bildkante_edge::request::{FormatAsk, IgnoredParameters, ImageRequest, QualityAsk, WidthAsk};
use bildkante_edge::resolve::layout::{Ask, Layout, Limits};
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

/// The documented words.
fn documented() -> Vec<Value> {
    serde_json::from_str(include_str!("unpic/fit.json")).expect("fit.json")
}

/// What a word of imgix's is here.
fn word_here(word: &str) -> String {
    let row = documented().into_iter().find(|row| row["service"] == "imgix" && row["word"] == word);
    row.unwrap_or_else(|| panic!("`{word}` is not in fit.json"))["here"].as_str().expect("a word").to_owned()
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
        if case["provider"] == "imgix" {
            // The library sends `min` where its caller names none.
            let word = case["operations"]["fit"].as_str().unwrap_or("min");
            assert!(means.contains(&format!("fit={}", word_here(word))), "{means}: not what is documented of {word}");
        }
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
        assert_eq!(request.fit.as_str(), word_here("min"), "{url}");
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

type Size = (u32, u32);

/// A box asked of a master, without a limit to enlarging that it could meet.
fn laid_out(word: &str, master: Size, asked: Size) -> Result<(String, Layout), String> {
    let query = format!("w={}&h={}&fit={word}", asked.0, asked.1);
    let request = ImageRequest::parse("/i/studio/hero", Some(&query), &IgnoredParameters::default());
    let request = request.map_err(|error| error.problem().parameter.unwrap_or_default())?;
    let limits = Limits { source: master, slot_ratio: "16:9".parse().expect("a ratio"), upscale_max: 8.0 };
    let layout = Layout::new(&Ask::of(&request, Some(asked.0), asked.0, Anchor::CENTER), &limits);
    Ok((request.fit.as_str().to_owned(), layout))
}

/// The size of the picture in a rendition, padding and what is cut left out.
fn picture(master: Size, layout: &Layout) -> Size {
    let canvas = (layout.width_px, layout.height_px);
    match layout.shape {
        Shape::Cut(_) | Shape::Whole => canvas,
        Shape::Padded { .. } => fit_inside(master, canvas),
        Shape::PaddedSmall { .. } => fit_inside(master, (master.0.min(canvas.0), master.1.min(canvas.1))),
    }
}

/// Whether two sizes have one ratio, half a pixel of rounding on each side aside.
fn is_alike(a: Size, b: Size) -> bool {
    let (a, b) = ((u64::from(a.0), u64::from(a.1)), (u64::from(b.0), u64::from(b.1)));
    (a.0 * b.1).abs_diff(a.1 * b.0) <= b.0.max(b.1)
}

#[test]
fn every_word_of_fit_does_what_is_documented() {
    let pair = |value: &Value| -> Size {
        let side = |n: usize| u32::try_from(value[n].as_u64().expect("a side")).expect("a side");
        (side(0), side(1))
    };
    for row in documented() {
        let (service, word) = (row["service"].as_str().expect("a service"), row["word"].as_str().expect("a word"));
        assert!(row["source"].as_str().is_some_and(|source| source.starts_with("https://")), "{word}: no source");
        let here = row["here"].as_str().expect("a word here");
        if here == "refused" {
            assert_eq!(laid_out(word, (300, 200), (100, 100)).expect_err(word), "fit", "{service} {word}");
            continue;
        }
        let flag = |name: &str| row[name].as_bool().unwrap_or_else(|| panic!("{word}: no `{name}`"));
        for example in row["examples"].as_array().expect("a list") {
            let (master, asked) = (pair(&example["master"]), pair(&example["box"]));
            let (_, layout) = laid_out(word, master, asked).expect(word);
            assert_eq!((layout.width_px, layout.height_px), pair(&example["size"]), "{service} {word}: {example}");
            if example["picture"].is_array() {
                assert_eq!(picture(master, &layout), pair(&example["picture"]), "{service} {word}: {example}");
            }
        }
        for master in [(300, 200), (532, 800), (1344, 768)] {
            for asked in [(100, 100), (400, 400), (400, 150), (200, 1000), (2000, 1500)] {
                if row["agrees"].is_string() && (asked.0 > master.0 || asked.1 > master.1) {
                    continue;
                }
                let about = format!("{service} {word}: {master:?} in {asked:?}");
                let (said, layout) = laid_out(word, master, asked).expect(&about);
                assert_eq!(said, here, "{about}");
                let (size, shown) = ((layout.width_px, layout.height_px), picture(master, &layout));
                match row["result"].as_str().expect("a result") {
                    "box" => assert_eq!(size, asked, "{about}"),
                    "ratio" => assert!(is_alike(size, asked) && size.0 <= asked.0, "{about}: {size:?}"),
                    "inside" => {
                        assert!(size.0 <= asked.0 && size.1 <= asked.1, "{about}: {size:?}");
                        let touches = size.0 == asked.0 || size.1 == asked.1;
                        assert!(touches || (!flag("enlarges") && size == master), "{about}: {size:?}");
                    }
                    other => panic!("{about}: `{other}`"),
                }
                if !flag("enlarges") {
                    assert!(shown.0 <= master.0 && shown.1 <= master.1, "{about}: {shown:?}");
                }
                let is_cut = matches!(layout.shape, Shape::Cut(Anchor::Point { .. })) && !is_alike(size, master);
                assert!(flag("cuts") || !is_cut, "{about}: {}", layout.shape);
            }
        }
    }
}
