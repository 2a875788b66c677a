//! Where a PNG keeps its Exif block.

/// The first `eXIf` chunk of a PNG, before or behind the image data. A chunk that claims to end beyond the file is ignored.
#[must_use]
pub fn of_png(png: &[u8]) -> Option<&[u8]> {
    let mut rest = png.get(8..)?;
    loop {
        let (length, kind) = (rest.first_chunk::<4>()?, rest.get(4..8)?);
        let end = usize::try_from(u32::from_be_bytes(*length)).ok()?.checked_add(8)?;
        if kind == b"eXIf" {
            return rest.get(8..end);
        }
        // Behind the data its checksum.
        rest = rest.get(end.checked_add(4)?..)?;
    }
}
