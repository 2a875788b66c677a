//! Whole sets on small pictures.

use image::ExtendedColorType::{L8, Rgb8, Rgba8};
use image::ImageEncoder as _;
use image::codecs::{jpeg::JpegEncoder, png::PngEncoder, webp::WebPEncoder};

use super::*;
use crate::render::Raster;
use crate::render::layers::text::goldens::style;

fn grey(width_px: u32, height_px: u32, code: u8) -> Raster {
    Raster { width_px, height_px, rgb: vec![code; (width_px * height_px * 3) as usize] }
}

fn pixel(raster: &Raster, x: u32, y: u32) -> [u8; 3] {
    let at = (y * raster.width_px + x) as usize * 3;
    [raster.rgb[at], raster.rgb[at + 1], raster.rgb[at + 2]]
}

fn png(rgba: &[u8], size: (u32, u32)) -> Vec<u8> {
    let mut file = Vec::new();
    PngEncoder::new(&mut file).write_image(rgba, size.0, size.1, Rgba8).expect("a small picture");
    file
}

/// Without a process for AVIF.
fn asset_of(file: Vec<u8>) -> Result<ImageAsset, AssetError> {
    ImageAsset::read(file, &crate::decoding::DecoderCommand::default())
}

fn asset(rgba: [u8; 4], size: (u32, u32)) -> ImageAsset {
    asset_of(png(&rgba.repeat((size.0 * size.1) as usize), size)).expect("an asset")
}

fn anchor(name: &str) -> LayerAnchor {
    LayerAnchor::named().into_iter().find(|(known, _)| *known == name).expect("a name").1
}

fn layer(name: &str, kind: LayerKind) -> Layer {
    Layer { name: name.to_owned(), kind, blend: Blend::Normal, opacity: Opacity::OPAQUE }
}

fn image(asset: ImageAsset, at: &str, width: Length) -> LayerKind {
    LayerKind::Image { asset, placing: Placing { width: Some(Extent::of(width)), ..Placing::at(anchor(at)) } }
}

fn text(words: &str, colour: Colour) -> TextLayer {
    TextLayer {
        words: Words::new(words).expect("words"),
        short: None,
        style: TextStyle { size_min: Length::Px(12), size_max: Length::Px(30), ..style() },
        colour,
        placing: Placing::at(anchor("top-start")),
        contrast_min: ContrastMin::BySize,
        fallbacks: Vec::new(),
    }
}

fn panel(around: usize) -> LayerKind {
    LayerKind::Panel(Panel {
        area: PanelBox::Around { layer: around, padding: [Length::Px(4); 2] },
        fill: Fill::Colour(Colour::BLACK),
        radius: Length::ZERO,
        blur: Length::ZERO,
    })
}

fn set(layers: Vec<Layer>) -> LayerSet {
    LayerSet::new(layers, Insets::default(), Direction::Ltr, "en-GB", 300).expect("a set")
}

fn boxed(text: TextLayer) -> LayerKind {
    LayerKind::Text(Box::new(text))
}

fn outcome(raster: &mut Raster, set: &LayerSet, layer: &str) -> LayerOutcome {
    let report = compose(raster, set).expect("composed");
    report.outcomes.into_iter().find(|outcome| outcome.layer == layer).expect("an outcome")
}

#[test]
fn layers_are_laid_in_order_and_in_linear_light() {
    let mut raster = grey(100, 50, 0);
    let half_white = asset([255, 255, 255, 128], (4, 2));
    let red = asset([255, 0, 0, 255], (2, 2));
    let layers = vec![
        layer("wide", image(half_white, "top-start", Length::Share(4000))),
        layer("red", image(red, "top-start", Length::Share(1000))),
    ];
    compose(&mut raster, &set(layers)).expect("composed");
    assert_eq!(pixel(&raster, 20, 5), [188; 3], "half of white over black");
    assert_eq!((pixel(&raster, 5, 5), pixel(&raster, 45, 5), pixel(&raster, 20, 25)), ([255, 0, 0], [0; 3], [0; 3]));
}

#[test]
fn every_format_is_read_and_transparent_colours_do_not_bleed() {
    let mut half = [255, 0, 0, 255].repeat(8 * 8);
    // The right half is transparent, and green beneath.
    half.chunks_exact_mut(4)
        .enumerate()
        .filter(|(at, _)| at % 8 >= 4)
        .for_each(|(_, p)| p.copy_from_slice(&[0, 255, 0, 0]));
    let mut webp = Vec::new();
    WebPEncoder::new_lossless(&mut webp).write_image(&half, 8, 8, Rgba8).expect("a small picture");
    for file in [png(&half, (8, 8)), webp] {
        let mut raster = grey(40, 40, 0);
        let kind = image(asset_of(file).expect("an asset"), "top-start", Length::Share(10_000));
        compose(&mut raster, &set(vec![layer("half", kind)])).expect("composed");
        assert!(raster.rgb.chunks_exact(3).all(|pixel| pixel[1] <= 1), "no green");
        assert_eq!((pixel(&raster, 2, 20), pixel(&raster, 38, 20)), ([255, 0, 0], [0; 3]));
    }
    let mut jpeg = Vec::new();
    JpegEncoder::new_with_quality(&mut jpeg, 95).write_image(&[10, 200, 30].repeat(64), 8, 8, Rgb8).expect("a picture");
    let jpeg = asset_of(jpeg).expect("an asset");
    assert_eq!((jpeg.media_type(), jpeg.size_px(), jpeg.check()), ("image/jpeg", (8, 8), Ok(())));
    let mut luma = Vec::new();
    PngEncoder::new(&mut luma).write_image(&[9; 4], 2, 2, L8).expect("a small picture");
    assert!(asset_of(luma).expect("an asset").check().is_ok());
}

#[test]
fn what_is_no_layer_says_why() {
    assert_eq!(asset_of(b"GIF89a".to_vec()), Err(AssetError::Format));
    assert!(matches!(asset_of(b"\0\0\0\x1cftypavif".to_vec()), Err(AssetError::Decoder(_))));
    assert_eq!(asset_of(vec![0; ASSET_BYTES_MAX + 1]), Err(AssetError::FileTooLarge));
    let whole = png(&[1, 2, 3, 4].repeat(256), (16, 16));
    let cut = asset_of(whole[..whole.len() - 30].to_vec()).expect("its header is whole");
    assert!(matches!(cut.check(), Err(AssetError::Damaged(_))));
    let mut bomb = png(&[0; 4], (1, 1));
    bomb[16..20].copy_from_slice(&60_000_u32.to_be_bytes());
    bomb[20..24].copy_from_slice(&60_000_u32.to_be_bytes());
    let check_sum = crc32fast::hash(&bomb[12..29]);
    bomb[29..33].copy_from_slice(&check_sum.to_be_bytes());
    assert!(matches!(asset_of(bomb), Err(AssetError::TooManyPixels { .. } | AssetError::Damaged(_))));
    assert_eq!(FontFace::read(b"wOF2".to_vec()), Err(FontError::Format));
    assert!(FontFace::read(b"\0\x01\0\0\0\xff\0\0\0\0\0\0junk".to_vec()).is_err());
}

#[test]
fn a_packshot_keeps_its_shape_in_its_box() {
    let tall = asset([0, 0, 255, 255], (10, 20));
    let placing = Placing {
        width: Some(Extent::of(Length::Px(50))),
        height: Some(Extent::of(Length::Px(50))),
        ..Placing::at(anchor("bottom-end"))
    };
    let mut raster = grey(100, 100, 255);
    compose(&mut raster, &set(vec![layer("tall", LayerKind::Image { asset: tall, placing })])).expect("composed");
    let blue = raster.rgb.chunks_exact(3).filter(|pixel| pixel[0] == 0).count();
    assert_eq!((blue, pixel(&raster, 75, 50), pixel(&raster, 74, 50)), (25 * 50, [0, 0, 255], [255; 3]));
}

#[test]
fn a_text_that_can_be_read_takes_no_fallback() {
    let layers = vec![layer("headline", boxed(text("The mug that stays", Colour::BLACK)))];
    let mut raster = grey(300, 150, 255);
    let report = compose(&mut raster, &set(layers)).expect("composed");
    assert_eq!(report.outcomes[0].fallback, None);
    assert_eq!(report.outcomes[0].contrast_hundredths, Some(2099));
    assert!(report.text_share > 500 && report.text_share < 6000, "{}", report.text_share);
    assert!(raster.rgb.contains(&0));
}

#[test]
fn a_text_that_cannot_be_read_takes_its_fallbacks_in_their_order() {
    let on_white = |fallbacks: Vec<Fallback>| {
        let short = Some(Words::new("Mug").expect("words"));
        // A panel that is no fallback would be drawn in any case.
        let panels = fallbacks.contains(&Fallback::Panel(1)).then(|| layer("scrim", panel(0)));
        let headline = TextLayer { fallbacks, short, ..text("The mug that stays", Colour::WHITE) };
        let layers = [layer("headline", boxed(headline))].into_iter().chain(panels).collect();
        let mut raster = grey(300, 150, 250);
        let outcome = outcome(&mut raster, &set(layers), "headline");
        (outcome.fallback, outcome.contrast_hundredths.unwrap_or(0), pixel(&raster, 1, 1))
    };
    use FallbackTaken::{Kept, LeftOut, Panel as WithPanel};
    assert_eq!(on_white(vec![Fallback::Panel(1), Fallback::LeaveOut]), (Some(WithPanel), 2099, [0; 3]));
    assert_eq!(on_white(vec![Fallback::Shorter, Fallback::LeaveOut]), (Some(LeftOut), 0, [250; 3]));
    assert_eq!(on_white(vec![Fallback::Shorter, Fallback::Panel(1)]).0, Some(WithPanel));
    let (kept, contrast, _) = on_white(vec![Fallback::Shorter]);
    assert_eq!((kept, contrast < 110), (Some(Kept), true));
    assert_eq!(on_white(Vec::new()).0, Some(Kept));
}

#[test]
fn a_panel_that_does_not_help_is_taken_away_again() {
    let grey_panel = LayerKind::Panel(Panel {
        area: PanelBox::Around { layer: 1, padding: [Length::Px(4); 2] },
        fill: Fill::Colour(Colour { rgb: [200; 3], alpha: 255 }),
        radius: Length::ZERO,
        blur: Length::ZERO,
    });
    let fallbacks = vec![Fallback::Panel(0), Fallback::LeaveOut];
    let headline = TextLayer { fallbacks, ..text("The mug that stays", Colour::WHITE) };
    let layers = vec![layer("scrim", grey_panel), layer("headline", boxed(headline))];
    let mut raster = grey(300, 150, 250);
    let outcome = outcome(&mut raster, &set(layers), "headline");
    assert_eq!((outcome.fallback, raster.rgb.iter().all(|code| *code == 250)), (Some(FallbackTaken::LeftOut), true));
}

/// What a text falls back to is told as drawn where it is, and only there.
#[test]
fn what_is_on_the_picture_is_told() {
    let told = |code: u8, panel: LayerKind, fallbacks: Vec<Fallback>| {
        let headline = TextLayer { fallbacks, ..text("The mug that stays", Colour::WHITE) };
        let away = Placing {
            offset: [Length::Px(-900), Length::ZERO],
            width: Some(Extent::of(Length::Px(20))),
            ..Placing::at(anchor("start"))
        };
        let outside = LayerKind::Image { asset: asset([1; 4], (2, 2)), placing: away };
        let shadow = LayerKind::Shadow(Shadow { of: 1, ..Shadow::default() });
        let layers = vec![
            layer("scrim", panel),
            layer("headline", boxed(headline)),
            layer("logo", outside),
            layer("shadow", shadow),
        ];
        let report = compose(&mut grey(300, 150, code), &set(layers)).expect("composed");
        report.outcomes.iter().map(|outcome| outcome.presence).collect::<Vec<_>>()
    };
    use Presence::{Drawn, LeftOut, NotNeeded, Nowhere};
    let on_demand = || vec![Fallback::Panel(0), Fallback::LeaveOut];
    assert_eq!(told(0, panel(1), on_demand()), [NotNeeded, Drawn, Nowhere, Drawn]);
    assert_eq!(told(255, panel(1), on_demand()), [Drawn, Drawn, Nowhere, Drawn]);
    assert_eq!(told(0, panel(1), Vec::new()), [Drawn, Drawn, Nowhere, Drawn]);
    let beside = Placing { offset: [Length::Px(-900), Length::ZERO], ..Placing::at(anchor("start")) };
    let beside = LayerKind::Panel(Panel {
        area: PanelBox::Own(beside),
        fill: Fill::Colour(Colour::BLACK),
        radius: Length::ZERO,
        blur: Length::ZERO,
    });
    assert_eq!(told(255, beside, on_demand())[..2], [NotNeeded, LeftOut], "a panel that lies outside helps no text");
}

/// A length in pixels is one of all renditions, and costs no more than a small one has.
#[test]
fn a_layer_is_at_most_as_large_as_the_picture() {
    let frame = place::Frame::new((40, 30), Insets::default(), Direction::Ltr);
    let of = |width: Option<i32>, height: Option<i32>, size| {
        let extent = |px: Option<i32>| px.map(|px| Extent::of(Length::Px(px)));
        let placing = Placing { width: extent(width), height: extent(height), ..Placing::at(anchor("top-start")) };
        asset([1; 4], size).fitted(frame.box_of_picture(&placing))
    };
    assert_eq!(of(Some(8192), None, (4, 3)), (40, 30));
    assert_eq!(of(Some(8192), Some(8192), (1, 1)), (30, 30));
    assert_eq!(
        of(Some(8192), None, (1, 4)),
        (15, 60),
        "what follows from its shape is at most two of the picture's sides"
    );
    assert_eq!(of(None, Some(10), (20, 10)), (20, 10));
    assert_eq!(of(None, None, (1, 4)), (8, 30));
}

#[test]
fn a_short_text_counts_in_the_share_that_texts_cover() {
    let headline = |fallbacks| {
        let style = TextStyle { size_max: Length::Px(60), lines_max: 1, ..text("a", Colour::BLACK).style };
        let short = Some(Words::new("Mug").expect("words"));
        TextLayer { short, style, fallbacks, ..text("The mug that stays for good", Colour::BLACK) }
    };
    let most = |fallbacks| {
        let set = set(vec![layer("headline", boxed(headline(fallbacks)))]);
        let mut trial = Trial::default();
        (0..10_000).step_by(50).find(|max| trial.faults(&set, (300, 150), Some(*max)).is_empty()).expect("a share")
    };
    assert!(most(vec![Fallback::Shorter]) > most(Vec::new()), "its letters are larger");
    // A text that does not fit is never set; the short one is.
    let long = TextLayer { words: Words::new(&"mug ".repeat(80)).expect("words"), ..headline(vec![Fallback::Shorter]) };
    let set = set(vec![layer("headline", boxed(long))]);
    let faults = Trial::default().faults(&set, (300, 150), Some(100));
    assert!(matches!(faults.as_slice(), [LayerFault::TextShare { .. }]), "{faults:?}");
}

#[test]
fn a_text_without_room_or_glyphs_is_shortened_or_left_out() {
    let tried = |words: &str, fallbacks: Vec<Fallback>| {
        let short = Some(Words::new("Mug").expect("words"));
        let headline = TextLayer { fallbacks, short, ..text(words, Colour::BLACK) };
        let outcome = outcome(&mut grey(300, 150, 255), &set(vec![layer("headline", boxed(headline))]), "headline");
        (outcome.fallback, outcome.reason)
    };
    let long = "mug ".repeat(80);
    assert_eq!(tried(&long, vec![Fallback::Shorter]), (Some(FallbackTaken::Shorter), Some(FallbackReason::Room)));
    assert_eq!(tried(&long, Vec::new()), (Some(FallbackTaken::LeftOut), Some(FallbackReason::Room)));
    assert_eq!(tried("\u{1f525}", Vec::new()), (Some(FallbackTaken::LeftOut), Some(FallbackReason::Glyph)));
}

#[test]
fn a_trial_finds_what_composing_would_meet() {
    let headline =
        TextLayer { short: Some(Words::new("Ж").expect("words")), ..text("The mug that stays", Colour::BLACK) };
    let set = set(vec![layer("headline", boxed(headline))]);
    let mut trial = Trial::default();
    let faults: Vec<String> = trial.faults(&set, (300, 150), Some(100)).iter().map(ToString::to_string).collect();
    assert_eq!(faults.len(), 2, "{faults:?}");
    assert!(faults[0].contains("`Ж` (U+0416)") && faults[1].contains("at most 1 %"), "{faults:?}");
    assert!(trial.faults(&set, (40, 20), None).iter().any(|fault| fault.to_string().contains("does not fit")));
}

#[test]
fn right_to_left_pictures_are_mirrored() {
    let of = |direction| {
        let red = image(asset([255, 0, 0, 255], (2, 2)), "top-start", Length::Px(10));
        let set = LayerSet::new(vec![layer("red", red)], Insets::default(), direction, "ar-EG", 300).expect("a set");
        let mut raster = grey(60, 20, 0);
        compose(&mut raster, &set).expect("composed");
        (pixel(&raster, 5, 5)[0], pixel(&raster, 55, 5)[0])
    };
    assert_eq!((of(Direction::Ltr), of(Direction::Rtl)), ((255, 0), (0, 255)));
}

#[test]
fn every_part_of_a_set_is_in_its_digest() {
    let headline = || text("The mug that stays", Colour::BLACK);
    let of = |layers: Vec<Layer>| *set(layers).digest();
    let one = |text: TextLayer| of(vec![layer("headline", boxed(text))]);
    let style = headline().style;
    let digests = [
        one(headline()),
        one(TextLayer { colour: Colour::WHITE, ..headline() }),
        one(text("The mug that stay", Colour::BLACK)),
        one(TextLayer { style: TextStyle { lines_max: 2, ..style.clone() }, ..headline() }),
        one(TextLayer { style: TextStyle { fonts: style.fonts[..2].to_vec(), ..style }, ..headline() }),
        one(TextLayer { contrast_min: ContrastMin::Ratio(450), ..headline() }),
        of(vec![Layer { opacity: Opacity::new(0.5).expect("a share"), ..layer("headline", boxed(headline())) }]),
        of(vec![layer("a", image(asset([1; 4], (1, 1)), "top", Length::Px(1)))]),
        of(vec![layer("a", image(asset([2; 4], (1, 1)), "top", Length::Px(1)))]),
        *LayerSet::new(Vec::new(), Insets::default(), Direction::Rtl, "en-GB", 300).expect("a set").digest(),
        of(Vec::new()),
    ];
    let distinct: std::collections::HashSet<_> = digests.iter().collect();
    assert_eq!(distinct.len(), digests.len());
    assert_eq!(one(headline()), digests[0], "and nothing else is");
}

#[test]
fn sets_are_bounded_and_refer_to_what_there_is() {
    let new = |layers| LayerSet::new(layers, Insets::default(), Direction::Ltr, "en-GB", 300).map(|_| ());
    let dot = || image(asset([1; 4], (1, 1)), "top", Length::Px(1));
    let many = (0..=LAYERS_MAX).map(|at| layer(&at.to_string(), dot())).collect();
    assert_eq!(new(many), Err(LayerSetError::TooMany { count: 17 }));
    assert_eq!(new(vec![layer("a", dot()), layer("a", dot())]), Err(LayerSetError::Twice { name: "a".into() }));
    assert_eq!(new(vec![layer("a", panel(0))]), Err(LayerSetError::Reference { name: "a".into() }));
    let shadow = LayerKind::Shadow(Shadow { of: 7, ..Shadow::default() });
    assert_eq!(new(vec![layer("a", shadow)]), Err(LayerSetError::Reference { name: "a".into() }));
    let headline = TextLayer { fallbacks: vec![Fallback::Shorter], ..text("a", Colour::BLACK) };
    assert_eq!(new(vec![layer("a", boxed(headline))]), Err(LayerSetError::Fallback { name: "a".into() }));
}

#[test]
fn a_shadow_lies_beneath_its_layer() {
    let shadow =
        Shadow { of: 1, distance: Length::Px(10), softness: Length::Px(3), direction_deg: 0, ..Shadow::default() };
    let red = image(asset([255, 0, 0, 255], (4, 4)), "centre", Length::Px(40));
    let mut raster = grey(200, 100, 255);
    compose(&mut raster, &set(vec![layer("shadow", LayerKind::Shadow(shadow)), layer("red", red)])).expect("composed");
    assert_eq!(pixel(&raster, 100, 50), [255, 0, 0]);
    assert_eq!(pixel(&raster, 124, 50), [187; 3], "half in the shade to the right of it");
    assert_eq!(pixel(&raster, 74, 50), [255; 3]);
}
