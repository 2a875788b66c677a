//! Puts metadata into a finished file, and finds it again in any file.
//!
//! Each format has one place for XMP: a `mime` item in AVIF, an `XMP ` chunk in WebP, an `APP1` segment in JPEG, an
//! `iTXt` chunk in PNG. EXIF has one, too: an `Exif` item, an `EXIF` chunk, another `APP1` segment, an `eXIf` chunk. Only JPEG
//! has one for IPTC-IIM. The editors take any well-formed file of their format, not only what our encoders write,
//! never change coded pixels, and refuse what they do not understand rather than guess. Every read is bounds-checked;
//! a damaged file is an error naming what is wrong.

mod avif;
mod jpeg;
mod png;
mod webp;

use super::Metadata;
use crate::bmff::BmffError;
use crate::words::Format;

/// Largest packet: what fits one JPEG `APP1` segment, the tightest of the four places.
pub const XMP_BYTES_MAX: usize = 65_533 - jpeg::XMP_HEADER.len();

/// Why a file could not be marked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EmbedError {
    #[error("the {} file is damaged: {what}", .format.as_str())]
    Malformed { format: Format, what: &'static str },
    #[error("the {} file uses {what}, which the marker does not handle", .format.as_str())]
    Unsupported { format: Format, what: &'static str },
    #[error("the {} file carries XMP already", .format.as_str())]
    AlreadyMarked { format: Format },
    #[error("an XMP packet of {bytes} bytes is over the {XMP_BYTES_MAX} that fit")]
    TooLarge { bytes: usize },
}

impl From<BmffError> for EmbedError {
    fn from(error: BmffError) -> Self {
        match error {
            BmffError::Malformed(what) => Self::Malformed { format: Format::Avif, what },
            BmffError::Unsupported(what) => Self::Unsupported { format: Format::Avif, what },
        }
    }
}

/// `file` with the metadata in their places.
///
/// # Errors
/// When the file is damaged, uses an unsupported variant of its format, holds XMP already, or the packet is over
/// [`XMP_BYTES_MAX`].
pub fn embed(file: &[u8], metadata: &Metadata) -> Result<Vec<u8>, EmbedError> {
    let (format, xmp) = (metadata.format, metadata.xmp.as_bytes());
    if xmp.len() > XMP_BYTES_MAX {
        return Err(EmbedError::TooLarge { bytes: xmp.len() });
    }
    if xmp_of(format, file)?.is_some() {
        return Err(EmbedError::AlreadyMarked { format });
    }
    let exif = metadata.exif.as_deref();
    match format {
        Format::Avif => avif::insert(file, xmp, exif),
        Format::Webp => webp::insert(file, xmp, exif),
        Format::Jpeg => jpeg::insert(file, xmp, exif, &metadata.iim),
        Format::Png => png::insert(file, xmp, exif),
    }
}

/// The XMP packet of a file, `None` where it has none.
///
/// # Errors
/// When the file is damaged or uses an unsupported variant of its format.
pub fn xmp_of(format: Format, file: &[u8]) -> Result<Option<&[u8]>, EmbedError> {
    match format {
        Format::Avif => avif::find(file),
        Format::Webp => webp::find(file),
        Format::Jpeg => jpeg::find(file),
        Format::Png => png::find(file),
    }
}

/// The EXIF block of a file, a TIFF file without a picture; `None` where it has none.
///
/// # Errors
/// As [`xmp_of`].
pub fn exif_of(format: Format, file: &[u8]) -> Result<Option<&[u8]>, EmbedError> {
    match format {
        Format::Avif => avif::find_exif(file),
        Format::Webp => webp::find_exif(file),
        Format::Jpeg => jpeg::find_exif(file),
        Format::Png => png::find_exif(file),
    }
}

/// The datasets of the Information Interchange Model in a JPEG file; the other formats have no place for them.
///
/// # Errors
/// As [`xmp_of`].
pub fn iim_of(format: Format, file: &[u8]) -> Result<Option<&[u8]>, EmbedError> {
    match format {
        Format::Jpeg => jpeg::find_iim(file),
        Format::Avif | Format::Webp | Format::Png => Ok(None),
    }
}
