//! The EXIF block (CIPA DC-008): texts of the first directory and of the one behind it.

use super::Field;

const ASCII: u16 = 2;
/// EXIF 3.0.
const UTF_8: u16 = 129;
const SOFTWARE: u16 = 0x0131;
const ARTIST: u16 = 0x013b;
const COPYRIGHT: u16 = 0x8298;
const EXIF_DIRECTORY: u16 = 0x8769;
const DATE_TIME_ORIGINAL: u16 = 0x9003;
const ENTRY_BYTES: usize = 12;
/// Most entries of a directory that are read.
const ENTRIES_MAX: usize = 256;

/// A TIFF file in either byte order.
struct Tiff<'a> {
    bytes: &'a [u8],
    is_little: bool,
}

pub(super) fn read(block: &[u8], learn: &mut dyn FnMut(Field, &str)) -> Result<(), String> {
    let is_little = match block.get(..4) {
        Some(b"II*\0") => true,
        Some(b"MM\0*") => false,
        _ => return Err("it has no TIFF header".to_owned()),
    };
    let tiff = Tiff { bytes: block, is_little };
    let first = tiff.u32(4).ok_or("it ends in its header")?;
    let further = tiff.directory(first as usize, learn).ok_or("its directory lies outside of it")?;
    if let Some(further) = further {
        tiff.directory(further as usize, learn).ok_or("its directory lies outside of it")?;
    }
    Ok(())
}

impl Tiff<'_> {
    fn u16(&self, at: usize) -> Option<u16> {
        let field = *self.bytes.get(at..)?.first_chunk()?;
        Some(if self.is_little { u16::from_le_bytes(field) } else { u16::from_be_bytes(field) })
    }

    fn u32(&self, at: usize) -> Option<u32> {
        let field = *self.bytes.get(at..)?.first_chunk()?;
        Some(if self.is_little { u32::from_le_bytes(field) } else { u32::from_be_bytes(field) })
    }

    /// Where the EXIF directory is, where this one says so.
    fn directory(&self, at: usize, learn: &mut dyn FnMut(Field, &str)) -> Option<Option<u32>> {
        let count = usize::from(self.u16(at)?).min(ENTRIES_MAX);
        let mut further = None;
        for index in 0..count {
            let entry = at.checked_add(2 + index * ENTRY_BYTES)?;
            let (tag, kind) = (self.u16(entry)?, self.u16(entry + 2)?);
            let field = match tag {
                EXIF_DIRECTORY => {
                    further = self.u32(entry + 8);
                    continue;
                }
                SOFTWARE => Field::Software,
                ARTIST => Field::Creator,
                COPYRIGHT => Field::Copyright,
                DATE_TIME_ORIGINAL => Field::Created,
                _ => continue,
            };
            if let (ASCII | UTF_8, Some(text)) = (kind, self.text(entry)) {
                learn(field, &text);
            }
        }
        Some(further)
    }

    fn text(&self, entry: usize) -> Option<String> {
        let bytes = self.u32(entry + 4)? as usize;
        // Values of up to four bytes stand in their place's stead.
        let at = if bytes <= 4 { entry + 8 } else { self.u32(entry + 8)? as usize };
        let text = self.bytes.get(at..at.checked_add(bytes)?)?;
        let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
        Some(String::from_utf8_lossy(text).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_texts_and_both_byte_orders_are_read() {
        let mut told = Vec::new();
        let block = b"MM\0*\0\0\0\x08\0\x01\x01\x3b\0\x02\0\0\0\x03Al\0\0";
        read(block, &mut |field, text| told.push((field, text.to_owned()))).expect("a block");
        assert_eq!(told, [(Field::Creator, "Al".to_owned())]);
    }

    #[test]
    fn directories_outside_of_the_block_are_errors() {
        let nothing = &mut |_: Field, _: &str| {};
        for block in [&b""[..], b"II*\0", b"II*\0\xff\xff\xff\xff", b"XX*\0\x08\0\0\0"] {
            assert!(read(block, nothing).is_err(), "{block:?}");
        }
    }
}
