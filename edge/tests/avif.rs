//! AVIF that people bring, as originals and as layers: files by avifenc, beside what avifdec makes of them; hostile files; and
//! decoders that crash, hang or lie.

mod judges;

use std::path::Path;
use std::process::Command;

use bildkante_edge::decoding::{DecodeFault, DecoderCommand};
use bildkante_edge::render::layers::{
    AssetError, Blend, Direction, Extent, ImageAsset, Insets, Layer, LayerAnchor, LayerKind, LayerSet, Length, Opacity,
    Placing, compose,
};
use bildkante_edge::render::{OriginalError, Raster, decode_original, memory_for, original_facts};
use bildkante_shared::pixels::Pixels;
use image::codecs::png::PngEncoder;
use image::{DynamicImage, ImageEncoder as _, Rgb, RgbImage, Rgba, RgbaImage};
use moxcms::ColorProfile;

/// Two libraries that interpolate chroma round differently.
const STEPS_MEAN_MAX: f64 = 0.6;
const STEPS_MAX: u8 = 6;

fn decoder() -> DecoderCommand {
    DecoderCommand::new(&[env!("CARGO_BIN_EXE_bildkante-edge").to_owned(), "decode-picture".to_owned()])
}

fn master(file: &[u8]) -> Pixels {
    decode_original(file, &decoder()).unwrap_or_else(|error| panic!("{error}"))
}

/// Colours that change slowly and an edge, in odd sides; transparent towards the right.
fn scene() -> RgbaImage {
    RgbaImage::from_fn(97, 63, |x, y| {
        let (red, green) = ((x * 255 / 96) as u8, (y * 255 / 62) as u8);
        let alpha = 255 - (x.saturating_sub(40) * 4).min(255) as u8;
        if x + y < 30 { Rgba([200, 40, 40, alpha]) } else { Rgba([red, green, 255 - red / 2, alpha]) }
    })
}

/// A file by avifenc.
fn encoded(pictures: &[DynamicImage], arguments: &[&str]) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = Command::new("avifenc");
    command.args(["--speed", "8", "--min", "0", "--max", "0", "--minalpha", "0", "--maxalpha", "0"]).args(arguments);
    for (at, picture) in pictures.iter().enumerate() {
        let png = folder.path().join(format!("{at}.png"));
        picture.save(&png).expect("a PNG");
        command.arg(png);
    }
    let file = folder.path().join("out.avif");
    let output = command.arg(&file).output().expect("avifenc starts");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    std::fs::read(file).expect("written")
}

/// A PNG of 8 bits by avifdec, with the profile of the file.
fn judged(file: &[u8]) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a folder");
    let (avif, png) = (folder.path().join("in.avif"), folder.path().join("out.png"));
    std::fs::write(&avif, file).expect("written");
    let arguments = ["--jobs", "1", "--depth", "8", "--upsampling", "bilinear"];
    let output = Command::new("avifdec").args(arguments).args([&avif, &png]).output().expect("avifdec starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::read(png).expect("written")
}

fn assert_alike(one: &[u8], other: &[u8], what: &str) {
    assert_eq!(one.len(), other.len(), "{what}");
    let steps: Vec<u8> = one.iter().zip(other).map(|(one, other)| one.abs_diff(*other)).collect();
    let mean = steps.iter().map(|steps| f64::from(*steps)).sum::<f64>() / steps.len() as f64;
    let most = steps.iter().max().copied().unwrap_or_default();
    println!("{what}: {mean:.3} steps, at most {most}");
    assert!(mean <= STEPS_MEAN_MAX && most <= STEPS_MAX, "{what}: {mean:.3} steps, at most {most}");
}

/// A picture that fills a scene of its own size, of one grey.
fn laid(file: Vec<u8>, grey: u8) -> Vec<u8> {
    let asset = ImageAsset::read(file, &decoder()).unwrap_or_else(|error| panic!("{error}"));
    let (width_px, height_px) = asset.size_px();
    let whole = Some(Extent::of(Length::Share(10_000)));
    let placing = Placing { width: whole, height: whole, ..Placing::at(LayerAnchor::default()) };
    let kind = LayerKind::Image { asset, placing };
    let layer = Layer { name: "layer".to_owned(), kind, blend: Blend::Normal, opacity: Opacity::OPAQUE };
    let set = LayerSet::new(vec![layer], Insets::default(), Direction::Ltr, "en-GB", 97).expect("a set");
    let rgb = vec![grey; width_px as usize * height_px as usize * 3];
    let mut raster = Raster { width_px, height_px, rgb };
    compose(&mut raster, &set).expect("composed");
    raster.rgb
}

/// Whether both are installed; says so once for a test.
fn has_judges(test: &str) -> bool {
    judges::has("avifenc", test) && judges::has("avifdec", test)
}

#[test]
fn originals_of_every_depth_layout_and_range_have_the_colours_that_avifdec_finds() {
    if !has_judges("originals_of_every_depth_layout_and_range_have_the_colours_that_avifdec_finds") {
        return;
    }
    let scene = [DynamicImage::ImageRgb8(DynamicImage::ImageRgba8(scene()).into_rgb8())];
    for (yuv, depth, range) in [
        ("444", "8", "full"),
        ("444", "10", "limited"),
        ("422", "8", "limited"),
        ("422", "12", "full"),
        ("420", "8", "full"),
        ("420", "10", "full"),
        ("420", "12", "limited"),
        ("400", "8", "full"),
        ("400", "10", "limited"),
    ] {
        let file = encoded(&scene, &["--yuv", yuv, "--depth", depth, "--range", range]);
        let what = format!("{yuv}, {depth} bits, {range}");
        assert_alike(master(&file).rgb(), master(&judged(&file)).rgb(), &what);
        let facts = original_facts(&file).expect("told");
        let letters = if yuv == "400" { "L" } else { "Rgb" };
        assert_eq!((facts.width_px, facts.height_px, facts.samples), (97, 63, format!("{letters}{depth}")), "{what}");
        assert!(memory_for(&file).is_ok_and(|bytes| bytes > 97 * 63 * 24));
    }
    for matrix in ["0", "1", "6", "8", "9"] {
        let file = encoded(&scene, &["--yuv", "444", "--cicp", &format!("1/13/{matrix}")]);
        assert_alike(master(&file).rgb(), master(&judged(&file)).rgb(), &format!("matrix {matrix}"));
    }
}

#[test]
fn colours_are_those_of_the_profile_or_of_the_code_points_and_high_dynamic_range_is_refused() {
    if !has_judges("colours_are_those_of_the_profile_or_of_the_code_points_and_high_dynamic_range_is_refused") {
        return;
    }
    let rgb = DynamicImage::ImageRgba8(scene()).into_rgb8();
    let p3 = ColorProfile::new_display_p3().encode().expect("a profile");
    let mut png = Vec::new();
    let mut encoder = PngEncoder::new(&mut png);
    encoder.set_icc_profile(p3.clone()).expect("taken");
    encoder.write_image(&rgb, 97, 63, image::ExtendedColorType::Rgb8).expect("a PNG");
    let expected = master(&png);

    let scene = [DynamicImage::ImageRgb8(rgb)];
    let by_code_points = encoded(&scene, &["--yuv", "444", "--cicp", "12/13/0"]);
    assert_alike(master(&by_code_points).rgb(), expected.rgb(), "Display P3 by its code points");
    let folder = tempfile::tempdir().expect("a folder");
    let icc = folder.path().join("p3.icc");
    std::fs::write(&icc, p3).expect("written");
    // The profile goes before code points that say something else.
    let icc = icc.display().to_string();
    let by_profile = encoded(&scene, &["--yuv", "444", "--cicp", "1/13/0", "--icc", &icc]);
    assert_alike(master(&by_profile).rgb(), expected.rgb(), "Display P3 by its profile");
    assert_alike(&laid(by_profile, 0), expected.rgb(), "the same as a layer");

    for (code_points, why) in [("9/16/9", "PQ"), ("9/18/9", "HLG"), ("1/17/1", "transfer characteristics 17")] {
        let file = encoded(&scene, &["--cicp", code_points]);
        let refused = decode_original(&file, &decoder()).expect_err(why);
        assert!(matches!(&refused, OriginalError::Profile(said) if said.contains(why)), "{refused}");
        assert!(matches!(ImageAsset::read(file, &decoder()), Err(AssetError::Profile(_))), "{why}");
    }
    // No encoder here writes it.
    let mut unknown = encoded(&scene, &["--cicp", "1/13/1"]);
    let at = unknown.windows(4).position(|bytes| bytes == b"nclx").expect("code points") + 8;
    unknown[at..at + 2].copy_from_slice(&10_u16.to_be_bytes());
    let refused = decode_original(&unknown, &decoder()).expect_err("constant luminance").to_string();
    assert!(refused.contains("matrix coefficients 10"), "{refused}");
}

#[test]
fn layers_have_the_transparency_that_avifdec_finds_also_where_colours_are_multiplied_by_it() {
    if !has_judges("layers_have_the_transparency_that_avifdec_finds_also_where_colours_are_multiplied_by_it") {
        return;
    }
    let colourful = [DynamicImage::ImageRgba8(scene())];
    let grey = [DynamicImage::ImageLumaA8(colourful[0].to_luma_alpha8())];
    let multiplied: &[&str] = &["--yuv", "444", "--premultiply"];
    for (scene, arguments) in [
        (&colourful, &["--yuv", "444"][..]),
        (&colourful, &["--yuv", "420", "--depth", "10"]),
        (&colourful, multiplied),
        (&grey, &["--yuv", "400", "--range", "limited"]),
    ] {
        let file = encoded(scene, arguments);
        assert_eq!(decode_original(&file, &decoder()), Err(OriginalError::Transparent), "{arguments:?}");
        for behind in [0, 130, 255] {
            let what = format!("{arguments:?} on {behind}");
            assert_alike(&laid(file.clone(), behind), &laid(judged(&file), behind), &what);
        }
        let asset = ImageAsset::read(file, &decoder()).expect("an asset");
        assert_eq!((asset.media_type(), asset.size_px(), asset.check()), ("image/avif", (97, 63), Ok(())));
    }
}

#[test]
fn pictures_are_cut_and_turned_as_their_properties_say() {
    const TEST: &str = "pictures_are_cut_and_turned_as_their_properties_say";
    if !has_judges(TEST) {
        return;
    }
    let scene = [DynamicImage::ImageRgb8(DynamicImage::ImageRgba8(scene()).into_rgb8())];
    let plain = master(&encoded(&scene, &["--yuv", "444"]));
    let plain = RgbImage::from_raw(97, 63, plain.rgb().to_vec()).map(DynamicImage::ImageRgb8).expect("whole");
    for (arguments, turned) in [
        (&["--irot", "1"][..], plain.rotate270()),
        (&["--irot", "2"], plain.rotate180()),
        (&["--imir", "1"], plain.fliph()),
        (&["--imir", "0"], plain.flipv()),
        (&["--irot", "3", "--imir", "1"], plain.rotate90().fliph()),
        (&["--crop", "10,20,40,30"], plain.crop_imm(10, 20, 40, 30)),
        (&["--crop", "10,20,40,30", "--irot", "1"], plain.crop_imm(10, 20, 40, 30).rotate270()),
    ] {
        let file = encoded(&scene, &[&["--yuv", "444"], arguments].concat());
        let drawn = master(&file);
        assert_eq!((drawn.width_px(), drawn.height_px()), (turned.width(), turned.height()), "{arguments:?}");
        assert_alike(drawn.rgb(), turned.as_bytes(), &format!("{arguments:?}"));
        let asset = ImageAsset::read(file, &decoder()).expect("an asset");
        assert_eq!(asset.size_px(), (turned.width(), turned.height()), "{arguments:?}");
    }
}

#[test]
fn grids_are_one_picture_and_animations_are_refused() {
    if !has_judges("grids_are_one_picture_and_animations_are_refused") {
        return;
    }
    let tile = |shift: u32| {
        let pixel = |x: u32, y: u32| Rgb([(shift * 60) as u8, (x * 2) as u8, (y * 2 + shift) as u8]);
        DynamicImage::ImageRgb8(RgbImage::from_fn(64, 64, pixel))
    };
    let tiles: Vec<DynamicImage> = (0..4).map(tile).collect();
    let file = encoded(&tiles, &["--yuv", "444", "--grid", "2x2"]);
    let drawn = master(&file);
    assert_eq!((drawn.width_px(), drawn.height_px()), (128, 128));
    assert_alike(drawn.rgb(), master(&judged(&file)).rgb(), "a grid");
    let transparent: Vec<DynamicImage> = tiles.iter().map(|tile| DynamicImage::ImageRgba8(tile.to_rgba8())).collect();
    let mut holed = transparent.clone();
    for tile in &mut holed {
        *tile = DynamicImage::ImageRgba8(RgbaImage::from_fn(64, 64, |x, y| Rgba([200, 30, x as u8, (y * 4) as u8])));
    }
    let file = encoded(&holed, &["--yuv", "444", "--grid", "2x2"]);
    assert_alike(&laid(file.clone(), 90), &laid(judged(&file), 90), "a grid with transparency");

    let animated = encoded(&tiles, &["--yuv", "420"]);
    let refused = decode_original(&animated, &decoder()).expect_err("an animation").to_string();
    assert!(refused.contains("animat"), "{refused}");
}

/// Our own encoder's file, which needs no tool.
fn own(width: usize, height: usize) -> Vec<u8> {
    let rgb: Vec<rgb::RGB8> = (0..width * height).map(|at| rgb::RGB8::new(at as u8, 90, 200)).collect();
    let encoder = ravif::Encoder::new().with_quality(90.0).with_speed(10).with_num_threads(Some(1));
    encoder.encode_rgb(ravif::Img::new(&rgb[..], width, height)).expect("avif").avif_file
}

fn small() -> Vec<u8> {
    own(32, 16)
}

const MANIFEST: &str = r#"schema = 1
campaign = "brought"
rights = { creator = "Studio", credit = "Shop" }
policy = { review = "none", signing = "optional", recallable = true, locales = ["en-GB"] }

[generate]
source = "import"
size = [64, 64]

[slots.hero]
ratio = "1:1"
widths = [32, 64]
alt = { en = "a mug" }

[[slots.hero.layers]]
name   = "logo"
image  = "logo.avif"
anchor = "bottom-end"
width  = "50%"
"#;

/// `lock`, `import` and `check` are programs of their own, and each starts the decoder.
#[test]
fn commands_take_layers_and_originals_and_refuse_what_their_decoder_cannot_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    std::fs::create_dir_all(at("campaigns/layers")).expect("a folder");
    std::fs::write(at("campaigns/brought.toml"), MANIFEST).expect("written");
    std::fs::write(at("campaigns/layers/logo.avif"), small()).expect("written");
    std::fs::write(at("photograph.avif"), own(96, 72)).expect("written");
    let dir = folder.path().display();
    let config = format!("[campaigns]\ncampaigns_dir = \"{dir}/campaigns\"\nprompts_dir = \"{dir}/prompts\"\n");
    std::fs::write(at("edge.toml"), config).expect("written");
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bildkante-edge"));
        let output = command.current_dir(folder.path()).args(arguments).args(["--config", "edge.toml"]).output();
        let output = output.expect("the program starts");
        let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
        (output.status.success(), said)
    };
    let import = ["import", "--variant", "brought/hero", "--source", "digitalCapture", "photograph.avif"];
    for arguments in [&["lock"][..], &import, &["check"]] {
        let (is_done, said) = run(arguments);
        assert!(is_done, "{arguments:?}: {said}");
    }

    // The head is whole, the coded frame is not.
    let mut damaged = small();
    let end = damaged.len();
    damaged[end - 80..].fill(0xff);
    std::fs::write(at("campaigns/layers/logo.avif"), damaged).expect("written");
    let (is_done, said) = run(&["lock"]);
    assert!(is_done, "locking reads digests: {said}");
    let (is_done, said) = run(&["check"]);
    assert!(!is_done && said.contains("logo.avif"), "{said}");
}

#[test]
fn a_decoder_that_crashes_or_lies_is_a_clear_error_and_a_head_that_lies_too() {
    let by = |script: &str| {
        let command = DecoderCommand::new(&["sh", "-c", script].map(str::to_owned));
        decode_original(&small(), &command).expect_err("no picture")
    };
    let crashed = by("kill -ABRT $$");
    assert!(crashed.is_of_the_file() && crashed.to_string().contains("signal 6"), "{crashed}");
    let lies = by("cat > /dev/null; echo '{\"width_px\":9,\"height_px\":9,\"phash\":\"00\"}'");
    assert!(matches!(lies, OriginalError::Decoder(DecodeFault::Crashed { .. })), "{lies}");
    let absent = DecoderCommand::new(&["/nowhere/decode".to_owned()]);
    let unstarted = decode_original(&small(), &absent).expect_err("no decoder");
    assert!(!unstarted.is_of_the_file() && unstarted.to_string().contains("cannot be started"), "{unstarted}");

    let mut file = small();
    let at = file.windows(4).position(|bytes| bytes == b"ispe").expect("our own file") + 8;
    for (width_px, why) in [(31_u32, "size"), (33, "size"), (1 << 15, "are more than")] {
        file[at..at + 4].copy_from_slice(&width_px.to_be_bytes());
        file[at + 4..at + 8].copy_from_slice(&(if width_px > 99 { width_px } else { 16 }).to_be_bytes());
        let refused = decode_original(&file, &decoder()).expect_err("its head lies").to_string();
        assert!(refused.contains(why) || refused.contains("damaged"), "{width_px}: {refused}");
    }
}

/// What fuzzing keeps, and a small file with bytes changed: a picture or an error, and this process goes on.
#[test]
fn hostile_files_are_errors_and_end_no_process_but_their_decoder() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus/container");
    let mut files: Vec<Vec<u8>> = std::fs::read_dir(corpus)
        .expect("a corpus")
        .map(|it| std::fs::read(it.expect("a file").path()))
        .map(|it| it.expect("read"))
        .collect();
    let whole = small();
    let coded = whole.windows(4).position(|bytes| bytes == b"mdat").expect("our own file");
    for n in 0..24_usize {
        let mut file = whole.clone();
        for step in 0..4 {
            let at = (n * 7919 + step * 104_729) % file.len();
            let at = if n % 2 == 0 { coded + at % (whole.len() - coded) } else { at };
            file[at] = file[at].wrapping_add((n * 31 + step + 1) as u8);
        }
        files.push(file);
    }
    let refused = files.iter().filter(|file| decode_original(file, &decoder()).is_err()).count();
    println!("{refused} of {} are refused", files.len());
    assert!(refused > 0);
    assert_eq!(master(&whole).width_px(), 32, "and the next one is decoded");
}
