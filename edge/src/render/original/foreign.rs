//! The names of formats that people bring and that are not taken: what to do follows from what the file is.

use super::OriginalError;

/// First bytes, and what has them.
const BEGINNINGS: [(&[u8], &str); 11] = [
    (b"GIF8", "GIF"),
    (b"II*\0", "TIFF or a camera's raw file"),
    (b"MM\0*", "TIFF or a camera's raw file"),
    (b"8BPS", "Photoshop"),
    (b"%PDF", "PDF"),
    (b"%!PS", "PostScript"),
    (b"BM", "BMP"),
    (b"\xFF\x0A", "JPEG XL"),
    (b"\0\0\0\x0CJXL ", "JPEG XL"),
    (b"\0\0\0\x0CjP  ", "JPEG 2000"),
    (b"<svg", "SVG"),
];
/// Brands of ISO base media files.
const BRANDS: [(&[u8], &str); 6] = [
    (b"avis", "an animated AVIF"),
    (b"heic", "HEIC"),
    (b"heix", "HEIC"),
    (b"hevc", "HEIC"),
    (b"mif1", "HEIF"),
    (b"msf1", "HEIF"),
];

/// Of a file that is no original by its first bytes.
pub(super) fn refused(file: &[u8]) -> OriginalError {
    name(file).map_or(OriginalError::Format, |name| OriginalError::Foreign { name })
}

fn name(file: &[u8]) -> Option<&'static str> {
    if file.get(4..8) == Some(b"ftyp") {
        let brand = file.get(8..12)?;
        return BRANDS.iter().find(|(known, _)| *known == brand).map(|(_, name)| *name);
    }
    BEGINNINGS.iter().find(|(first, _)| file.starts_with(first)).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_taken_is_refused_by_its_name() {
        let told = |file: &[u8]| refused(file).to_string();
        let animated = told(b"\0\0\0\x1cftypavis\0\0\0\0");
        assert!(animated.starts_with("it is an animated AVIF, which is not taken: save it as PNG"), "{animated}");
        assert!(told(b"\0\0\0\x1cftypheic\0\0\0\0").contains("HEIC"));
        assert!(told(b"GIF89a").contains("GIF") && told(b"MM\0*rest").contains("TIFF"));
        assert_eq!(refused(b"\0\0\0\x1cftypqt  "), OriginalError::Format);
        assert_eq!(refused(b"hello"), OriginalError::Format);
    }
}
