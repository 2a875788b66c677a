//! `generate`, `check` and `bench` as people run them.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use bildkante_gpu_node::diffusion::trace::Trace;
use bildkante_gpu_node::store::decode_png;
use bildkante_shared::recipe::{Recipe, ValidRecipe};
use serde_json::Value;

fn checkpoint() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/checkpoints/sd1-tiny")
}

fn run(folder: &Path, command: &str, arguments: &[&str]) -> (i32, String, String) {
    let mut process = Command::new(env!("CARGO_BIN_EXE_bildkante-gpu-node"));
    process.current_dir(folder).arg(command).arg("--checkpoint").arg(checkpoint()).args(["--threads", "1"]);
    let Output { status, stdout, stderr } = process.args(arguments).output().unwrap();
    (status.code().unwrap(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

fn json(stdout: &str) -> Value {
    assert_eq!(stdout.lines().count(), 1, "one line: {stdout}");
    serde_json::from_str(stdout).unwrap()
}

#[test]
fn generate_writes_a_marked_picture_and_a_trace_and_says_what_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let arguments = "--prompt|a teal mug|--negative|blurry|--seed|7|--steps|3|--guidance|4|--size|40x32|--scheduler|dpmpp_2m|--sigmas|karras|\
         --out|mug.png|--trace|mug.safetensors";
    let arguments: Vec<&str> = arguments.split('|').map(str::trim).collect();
    let (code, stdout, stderr) = run(dir.path(), "generate", &arguments);
    assert_eq!((code, stderr.as_str()), (0, ""), "progress is for terminals");
    let report = json(&stdout);
    let png = std::fs::read(dir.path().join("mug.png")).unwrap();
    let pixels = decode_png(&png).unwrap();
    assert_eq!((pixels.width_px(), pixels.height_px()), (40, 32));
    assert_eq!(report["master_id"], pixels.master_id().to_string());
    assert_eq!((&report["evaluations"], &report["steps"], &report["threads"]), (&3.into(), &3.into(), &1.into()));
    assert!(report["determinism"]["class"].as_str().unwrap().ends_with("/f32/2x4x16x20/threads-1"), "{report}");
    assert!(report["step_s"].as_f64().unwrap() > 0.0);
    assert!(png.windows(23).any(|bytes| bytes == b"trainedAlgorithmicMedia"));

    let trace = Trace::read(&dir.path().join("mug.safetensors")).unwrap();
    let names: Vec<&str> = trace.names().collect();
    let expected =
        ["embeddings.cond", "embeddings.uncond", "image", "latents.000", "latents.001", "latents.002", "noise"];
    assert_eq!(names, expected);
    assert_eq!(trace.get("noise").unwrap().size(), [1, 4, 16, 20]);
    let image = trace.get("image").unwrap();
    assert_eq!(image.size(), [3, 32, 40]);
    let red = (image.double_value(&[0, 31, 39]) * 255.0).round();
    assert_eq!(red, f64::from(pixels.rgb()[3 * (31 * 40 + 39)]));
}

#[test]
fn a_recipe_that_cannot_be_drawn_says_why_and_leaves_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |arguments: &[&str]| {
        let (code, stdout, stderr) =
            run(dir.path(), "generate", &[&["--prompt", "x", "--out", "x.png"], arguments].concat());
        assert_eq!(stdout, "");
        (code, stderr)
    };
    for (arguments, code, named) in [
        (&["--scheduler", "ddim", "--sigmas", "karras"][..], 1, "`sigmas`"),
        (&["--size", "41x32"], 1, "multiples of 8"),
        (&["--steps", "0"], 1, "`steps`"),
        (&["--scheduler", "magic"], 64, "unipc"),
        (&["--crop", "1"], 64, "LEFT,TOP"),
        (&["--crop", "1,2"], 1, "Stable Diffusion XL"),
        (&["--refiner-start", "0.5"], 64, "--refiner"),
        (&["--size", "big"], 64, "WIDTHxHEIGHT"),
        (&["--dtype", "int8"], 64, "bf16"),
        (&["--device", "cuda:99"], 1, "no device"),
    ] {
        let (got, stderr) = refused(arguments);
        assert!(got == code && stderr.contains(named), "{arguments:?}: {got} {stderr}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn check_says_what_a_checkpoint_is_and_tries_it() {
    let dir = tempfile::tempdir().unwrap();
    let (code, stdout, stderr) = run(dir.path(), "check", &["--size", "32x32"]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    for line in ["name        sd1-tiny", "family      sd1", "scheduler   pndm", "self-test   ", "native size 64x64"] {
        assert!(stdout.contains(line), "no `{line}` in\n{stdout}");
    }
}

#[test]
fn bench_prints_a_line_that_a_peer_can_be_compared_by() {
    let dir = tempfile::tempdir().unwrap();
    let arguments = ["--steps", "2", "--size", "32x32", "--guidance", "2", "--runs", "3", "--warmup", "0"];
    let (code, stdout, stderr) = run(dir.path(), "bench", &arguments);
    assert_eq!((code, stderr.as_str()), (0, ""));
    let report = json(&stdout);
    let peer = "engine checkpoint threads dtype steps size guidance together padded_to images_per_s step_s_median step_s_min \
         image_s_median rss_peak_mib device_peak_mib estimated_pass_mib estimated_picture_mib pass_peak_mib \
         picture_peak_mib";
    let keys: std::collections::BTreeSet<&str> = report.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, peer.split(' ').collect());
    let number = |key: &str| report[key].as_f64().unwrap();
    assert!(0.0 < number("step_s_min") && number("step_s_min") <= number("step_s_median"), "{report}");
    assert!(number("step_s_median") < number("image_s_median"), "{report}");
}

/// A folder of models, a configuration and recipes.
fn batch_folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    std::fs::create_dir(dir.path().join("models")).unwrap();
    for name in ["checkpoints/sd1-tiny", "controlnets/sd1-edges"] {
        let from = fixtures.join(name);
        std::os::unix::fs::symlink(&from, dir.path().join("models").join(from.file_name().unwrap())).unwrap();
    }
    std::os::unix::fs::symlink(fixtures.join("images"), dir.path().join("images")).unwrap();
    let config = "models_dir = \"models\"\ndata_dir = \"data\"\nthreads = 1\n";
    std::fs::write(dir.path().join("node.toml"), config).unwrap();
    let keys =
        "checkpoint = \"sd1-tiny\"\nprompt = \"a teal mug\"\nwidth_px = 32\nheight_px = 32\nsteps = 2\nguidance = 2.0";
    let control = "controls = [{ network = \"sd1-edges\", image = \"edges.png\", weight = 0.8 }]";
    let recipes = format!(
        "seeds = [7, 3]\n[[recipes]]\nname = \"mug\"\n{keys}\n[[recipes]]\nname = \"edges\"\n{keys}\n{control}\n"
    );
    std::fs::write(dir.path().join("recipes.toml"), recipes).unwrap();
    dir
}

fn batch(folder: &Path, arguments: &[&str]) -> (i32, String, String) {
    let mut process = Command::new(env!("CARGO_BIN_EXE_bildkante-gpu-node"));
    let given = ["batch", "--config", "node.toml", "--recipes", "recipes.toml", "--images", "images", "--out", "out"];
    let Output { status, stdout, stderr } = process.current_dir(folder).args(given).args(arguments).output().unwrap();
    (status.code().unwrap(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

fn counts(stdout: &str) -> [u64; 3] {
    let report = json(stdout);
    ["drawn", "kept", "failed"].map(|key| report[key].as_u64().unwrap())
}

#[test]
fn batch_draws_every_seed_of_every_recipe_once_and_goes_on_where_it_was() {
    let dir = batch_folder();
    let (code, stdout, stderr) = batch(dir.path(), &[]);
    assert_eq!((code, counts(&stdout)), (0, [4, 0, 0]), "{stderr}");
    assert_eq!(stderr.lines().filter(|line| line.contains("drawn in")).count(), 4, "{stderr}");
    let file = |name: &str| std::fs::read(dir.path().join("out").join(name)).unwrap();
    let manifest: Value = serde_json::from_slice(&file("manifest.json")).unwrap();
    let entries = manifest["pictures"].as_array().unwrap();
    assert_eq!(entries.len(), 4);
    for entry in entries {
        let pixels = decode_png(&file(entry["file"].as_str().unwrap())).unwrap();
        assert_eq!(entry["master_id"], pixels.master_id().to_string());
        let recipe: Recipe = serde_json::from_value(entry["recipe"].clone()).unwrap();
        assert_eq!(entry["recipe_id"], ValidRecipe::try_from(recipe).unwrap().id().to_string());
    }
    // Two recipes below each other, two seeds side by side, each place as wide as an id.
    let sheet = decode_png(&file("contact-sheet.png")).unwrap();
    assert_eq!((sheet.width_px(), sheet.height_px()), (8 + 2 * (256 + 8), 2 * (8 + 256 + 4 + 24)));
    let at = |x: u32, y: u32| sheet.rgb()[3 * (y * sheet.width_px() + x) as usize..][..3].to_vec();
    let mug = decode_png(&file("mug-7.png")).unwrap();
    assert_eq!(at(8 + 31, 8 + 31), mug.rgb()[3 * (31 * 32 + 31)..][..3], "the first picture's last pixel");
    assert_eq!(at(8 + 32, 8 + 32), [255; 3]);

    let before = file("manifest.json");
    let (code, stdout, _) = batch(dir.path(), &[]);
    assert_eq!((code, counts(&stdout)), (0, [0, 4, 0]), "nothing is drawn twice");
    assert_eq!(file("manifest.json"), before);
    std::fs::write(dir.path().join("out/mug-3.png"), file("mug-7.png")).unwrap();
    std::fs::remove_file(dir.path().join("out/edges-7.png")).unwrap();
    let (code, stdout, _) = batch(dir.path(), &["--seeds", "3,7-8"]);
    assert_eq!((code, counts(&stdout)), (0, [4, 2, 0]), "another picture's pixels are none of its own");
    let manifest: Value = serde_json::from_slice(&file("manifest.json")).unwrap();
    assert_eq!(manifest["pictures"].as_array().unwrap().len(), 6);
}

#[test]
fn a_batch_names_what_fails_and_draws_the_rest() {
    let dir = batch_folder();
    let recipes = std::fs::read_to_string(dir.path().join("recipes.toml")).unwrap();
    // Stable Diffusion 1 is told no sizes, which only the checkpoint knows.
    let sized = recipes.replace(
        "controls =",
        "sizes = { original_px = [64, 64], crop_px = [0, 0], target_px = [64, 64] }\ncontrols =",
    );
    std::fs::write(dir.path().join("recipes.toml"), sized).unwrap();
    let (code, stdout, stderr) = batch(dir.path(), &["--seeds", "1"]);
    assert_eq!((code, counts(&stdout)), (1, [1, 0, 1]), "{stderr}");
    assert!(stderr.contains("edges-1.png failed") && stderr.contains("Stable Diffusion XL"), "{stderr}");
    std::fs::write(dir.path().join("recipes.toml"), recipes.replace("sd1-tiny", "sd9")).unwrap();
    let (code, stdout, stderr) = batch(dir.path(), &[]);
    assert!(code == 1 && stdout.is_empty() && stderr.contains("there is no model `sd9`"), "{stderr}");
    assert_eq!(batch(dir.path(), &["--seeds", "x"]).0, 64);
}

/// As in `check … | head -1`: a command ends as it would have ended, and does what it was told.
#[test]
fn a_command_outlives_its_reader() {
    let unread = || {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        writer
    };
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = checkpoint().display().to_string();
    let of_checkpoint = ["--checkpoint", &checkpoint, "--threads", "1", "--size", "32x32"];
    let draw = |out| [&["generate"][..], &of_checkpoint, &["--steps", "1", "--prompt", "a mug", "--out", out]].concat();
    for (arguments, status) in [
        (vec!["--help"], 0),
        (vec!["no-such-command"], 64),
        (vec!["serve", "--config", "none.toml"], 64),
        ([&["check"][..], &of_checkpoint].concat(), 0),
        (vec!["check", "--checkpoint", "none"], 1),
        (draw("mug.png"), 0),
        ([&["bench"][..], &of_checkpoint, &["--steps", "1", "--runs", "1", "--warmup", "0"]].concat(), 0),
    ] {
        let mut process = Command::new(env!("CARGO_BIN_EXE_bildkante-gpu-node"));
        let process = process.current_dir(dir.path()).args(&arguments).stdout(unread()).stderr(unread());
        assert_eq!(process.status().unwrap().code(), Some(status), "{arguments:?}");
    }
    assert!(dir.path().join("mug.png").exists());
}
