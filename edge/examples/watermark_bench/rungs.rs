//! Which rungs' files keep the mark.

use std::path::Path;

use bildkante_edge::render::{CropBox, Quality, Raster, Rung, encode, resize};
use bildkante_edge::watermark::{Secret, Watermark};
use bildkante_edge::words::Format;
use bildkante_shared::pixels::Pixels;

use crate::{CALM_PERCENT_MAX, each, found, judges, load, pictures, prefix, stem};

const WIDTH_PX: u32 = 640;

/// What is served, and by which rung.
const FILES: [(Format, Rung); 7] = [
    (Format::Avif, Rung::Hurried),
    (Format::Avif, Rung::Quick),
    (Format::Avif, Rung::Final),
    (Format::Webp, Rung::Hurried),
    (Format::Webp, Rung::Final),
    (Format::Jpeg, Rung::Quick),
    (Format::Jpeg, Rung::Final),
];

/// Of pictures of any size, each scaled to 640 px, marked and encoded at `q=auto`.
pub(crate) fn rungs(folder: &Path, every: usize) -> anyhow::Result<()> {
    let watermark = [Watermark::new(&Secret::PUBLISHED)];
    let paths = pictures(folder, every)?;
    let rows = each(&paths, |at, path| {
        let mut marked = scaled(&load(path));
        let applied = watermark[0].embed(&mut marked.rgb, marked.width_px, marked.height_px, prefix(at)).ok()?;
        let kept = FILES.map(|(format, rung)| {
            let file = encode(&marked, format, Quality::AUTO, rung).expect("a picture that encodes").file;
            found(&watermark, &judges::decoded(format, &file)) == Some(prefix(at))
        });
        Some((applied.calm_percent, kept))
    });
    let rows: Vec<_> = paths.iter().zip(&rows).filter_map(|(path, row)| Some((path, row.as_ref()?))).collect();
    println!("## kept at {WIDTH_PX} px: of pictures at most {CALM_PERCENT_MAX} % calm, and of the others");
    for (at, (format, rung)) in FILES.iter().enumerate() {
        let count = |is_rough: bool| {
            let chosen = rows.iter().filter(|(_, (calm, _))| (*calm <= CALM_PERCENT_MAX) == is_rough);
            format!("{}/{}", chosen.clone().filter(|(_, (_, kept))| kept[at]).count(), chosen.count())
        };
        let lost = rows.iter().filter(|(_, (_, kept))| !kept[at]).map(|(path, _)| stem(path));
        let lost = lost.collect::<Vec<_>>().join(" ");
        println!("{} {}\t{}\t{}\t{lost}", rung.as_str(), format.as_str(), count(true), count(false));
    }
    Ok(())
}

/// A smaller picture stays as it is.
fn scaled(picture: &Raster) -> Raster {
    let Raster { width_px, height_px, rgb } = picture;
    if *width_px <= WIDTH_PX {
        return picture.clone();
    }
    let pixels = Pixels::new(*width_px, *height_px, rgb.clone()).expect("a picture within bounds");
    let whole = CropBox { left_px: 0, top_px: 0, width_px: *width_px, height_px: *height_px };
    let height_px = (*height_px * WIDTH_PX).div_ceil(*width_px);
    resize(&pixels, whole, WIDTH_PX, height_px).expect("a size within bounds")
}
