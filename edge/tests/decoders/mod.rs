//! Every class of file that an edge serves, read by the decoders that readers have: Chromium, libavif, libwebp, libjpeg-turbo, Pillow.
//!
//! A class is a format, a rung and a kind of picture, for encoders choose by it: halved or whole chroma, grey, palettes, an odd size. The
//! files are marked and described as those of an edge. Decoders agree with avifdec, and with pure Rust ones of the rest, up to rounding and to how halved chroma is spread.

use std::path::{Path, PathBuf};
use std::process::Command;

use bildkante_edge::render::{Raster, Rung};
use bildkante_edge::words::Format;
use bildkante_shared::pixels::Pixels;

use super::{judges, pictures, rendered, spec};

/// Mean difference of a channel, of 255, and the largest of all.
const MEAN_MAX: f64 = 1.0;
const WORST_MAX: u8 = 48;

/// A file on disk, and its pixels.
struct Sample {
    name: String,
    format: Format,
    path: PathBuf,
    pixels: Raster,
}

fn grey(pixels: Pixels) -> Pixels {
    let (width_px, height_px) = (pixels.width_px(), pixels.height_px());
    let rgb = pixels.into_rgb().chunks_exact(3).flat_map(|px| [px[1]; 3]).collect();
    Pixels::new(width_px, height_px, rgb).expect("the size it had")
}

/// Of AVIF there are none without `avifdec`.
fn samples(folder: &Path, test: &str) -> Vec<Sample> {
    let kinds = [
        ("texture", pictures::texture(160, 120, 5)),
        ("graphic", pictures::graphic(160, 120)),
        ("flat", pictures::flat(64, 64, [200, 30, 40])),
        ("grey", grey(pictures::studio(160, 120))),
    ];
    let mut samples = Vec::new();
    for format in super::decodable(test) {
        for rung in Rung::ALL {
            for (kind, master) in &kinds {
                // Odd sides: blocks and halved chroma end within the picture.
                let file = rendered(master, &spec(131, 97, format, 70), rung).bytes;
                let name = format!("{kind}-{}.{}", rung.as_str(), format.extension());
                let path = folder.join(&name);
                std::fs::write(&path, &file).expect("room for a small file");
                samples.push(Sample { pixels: judges::decoded(format, &file), name, format, path });
            }
        }
    }
    samples
}

impl Sample {
    fn is_held_against(&self, decoder: &str, rgb: &[u8]) {
        let what = format!("{} by {decoder}", self.name);
        assert_eq!(rgb.len(), self.pixels.rgb.len(), "{what}: bytes");
        let differences: Vec<u8> = rgb.iter().zip(&self.pixels.rgb).map(|(one, other)| one.abs_diff(*other)).collect();
        let mean = differences.iter().map(|difference| f64::from(*difference)).sum::<f64>() / rgb.len() as f64;
        let worst = differences.into_iter().max().unwrap_or_default();
        assert!(mean <= MEAN_MAX && worst <= WORST_MAX, "{what}: {mean:.2} off in the mean, {worst} at worst");
    }

    /// What a program writes as PPM.
    fn is_read_by(&self, decoder: &str, arguments: &[&str]) {
        let output = Command::new(decoder).args(arguments).arg(&self.path).output().expect("it was there before");
        assert!(output.status.success(), "{} by {decoder}: {}", self.name, String::from_utf8_lossy(&output.stderr));
        let head = format!("P6\n{} {}\n255\n", self.pixels.width_px, self.pixels.height_px);
        let rgb = output.stdout.strip_prefix(head.as_bytes()).unwrap_or_else(|| panic!("{}: no such PPM", self.name));
        self.is_held_against(decoder, rgb);
    }
}

#[test]
fn libwebp_and_libjpeg_turbo_read_every_class_as_we_do() {
    const TEST: &str = "libwebp_and_libjpeg_turbo_read_every_class_as_we_do";
    let folder = tempfile::tempdir().expect("a temporary folder");
    let samples = samples(folder.path(), TEST);
    // A warning of djpeg's is an error.
    let decoders: [(Format, &str, &[&str]); 2] =
        [(Format::Webp, "dwebp", &["-quiet", "-ppm", "-o", "-", "--"]), (Format::Jpeg, "djpeg", &["-strict", "-rgb"])];
    for (format, decoder, arguments) in decoders {
        if judges::has(decoder, TEST) {
            samples.iter().filter(|it| it.format == format).for_each(|it| it.is_read_by(decoder, arguments));
        }
    }
}

#[test]
fn pillow_reads_every_class_as_we_do() {
    const TEST: &str = "pillow_reads_every_class_as_we_do";
    const SCRIPT: &str = "import sys\nfrom PIL import Image\n\
        for path in sys.argv[1:]:\n    with Image.open(path) as picture:\n        \
        open(path + '.rgb', 'wb').write(picture.convert('RGB').tobytes())";
    let python = std::env::var_os("BILDKANTE_PILLOW").map(PathBuf::from).filter(|path| path.is_file());
    let Some(python) = python else { return judges::missing("Pillow", TEST) };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let samples = samples(folder.path(), TEST);
    let paths = samples.iter().map(|sample| &sample.path);
    let output = Command::new(python).args(["-W", "error", "-c", SCRIPT]).args(paths).output().expect("Python starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for sample in &samples {
        let rgb = std::fs::read(folder.path().join(format!("{}.rgb", sample.name))).expect("the script wrote it");
        sample.is_held_against("Pillow", &rgb);
    }
}

/// A page holds each file beside its pixels as PNG, compares the two on a canvas, and is printed when it is done.
#[test]
fn chromium_shows_every_class_as_we_do() {
    const TEST: &str = "chromium_shows_every_class_as_we_do";
    const COMPARED: &str = "<pre></pre><script>addEventListener('load', () => {
        const drawn = img => {
          const canvas = Object.assign(document.createElement('canvas'), { width: img.naturalWidth, height: img.naturalHeight })
          const context = canvas.getContext('2d', { willReadFrequently: true })
          context.drawImage(img, 0, 0)
          return context.getImageData(0, 0, canvas.width, canvas.height).data
        }
        document.querySelector('pre').textContent = [...document.querySelectorAll('p')].map(pair => {
          const [file, ours] = pair.querySelectorAll('img')
          if (!file.naturalWidth || file.naturalWidth !== ours.naturalWidth) return `${pair.id} not-shown ${file.naturalWidth}`
          const [one, other] = [drawn(file), drawn(ours)]
          let [sum, worst] = [0, 0]
          for (let at = 0; at < one.length; at++) {
            const difference = Math.abs(one[at] - other[at])
            sum += difference
            worst = Math.max(worst, difference)
          }
          return `${pair.id} ${sum / (one.length * 3 / 4)} ${worst}`
        }).join(';')
      })</script>";
    if !judges::has("chromium", TEST) {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let samples = samples(folder.path(), TEST);
    let mut page = "<!doctype html><meta charset=utf-8><title>classes</title>".to_owned();
    for Sample { name, format, path, pixels } in &samples {
        let url = |media_type: &str, bytes: &[u8]| {
            format!("<img src=\"data:{media_type};base64,{}\">", data_encoding::BASE64.encode(bytes))
        };
        let file = std::fs::read(path).expect("it was written");
        page += &format!("<p id={name}>{}{}", url(format.media_type(), &file), url("image/png", &png_of(pixels)));
    }
    let at = folder.path().join("classes.html");
    std::fs::write(&at, page + COMPARED).expect("room for a page");
    let profile = format!("--user-data-dir={}", folder.path().join("profile").display());
    let flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage"];
    let output =
        Command::new("timeout").args(["120", "chromium"]).args(flags).args([&profile, "--dump-dom"]).arg(&at).output();
    let dom = String::from_utf8_lossy(&output.expect("Chromium starts").stdout).into_owned();
    let said = dom.split_once("<pre>").and_then(|(_, rest)| rest.split_once("</pre>")).map(|(said, _)| said.to_owned());
    let said = said.unwrap_or_else(|| panic!("no report in {dom:.400}"));
    let lines: Vec<&str> = said.split(';').collect();
    assert_eq!(lines.len(), samples.len(), "{said}");
    for line in lines {
        let found: Vec<f64> = line.split(' ').skip(1).filter_map(|number| number.parse().ok()).collect();
        let is_near = matches!(found[..], [mean, worst] if mean <= MEAN_MAX && worst <= f64::from(WORST_MAX));
        assert!(is_near, "{line} (mean and worst difference)");
    }
}

fn png_of(raster: &Raster) -> Vec<u8> {
    let image = image::RgbImage::from_raw(raster.width_px, raster.height_px, raster.rgb.clone()).expect("whole");
    let mut png = std::io::Cursor::new(Vec::new());
    image.write_to(&mut png, image::ImageFormat::Png).expect("a small picture");
    png.into_inner()
}
