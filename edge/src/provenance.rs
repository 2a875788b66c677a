//! What an image says of itself, drawn or imported or a placeholder, and what a foreign one does ([`Told`]): XMP, IPTC and EXIF.
//!
//! Every rendition carries an XMP packet with the campaign's rights and the IPTC *digital source type*, so that search
//! engines, agencies and archives can tell a generated image from a photograph. For an import the type is the one its
//! recipe declares, and the statements are its own where it has some. The order is pixels → encode → XMP, IPTC, EXIF →
//! C2PA: [`embed`] works on finished files and never touches pixel data. Nothing that is embedded comes from a clock of the
//! edge: the creation date is the node's.
//!
//! Sources: IPTC Photo Metadata Standard 2025.1; ISO 16684-1 (XMP); CIPA DC-008 (EXIF); IPTC-NAA Information Interchange
//! Model 4.2; MWG *Guidelines for Handling Image Metadata* 2.0 for what belongs together; per format see [`embed`].

mod description;
mod embed;
mod exif;
mod iim;
mod told;
mod xmp;

pub use bildkante_shared::import::DigitalSource;
pub use description::{Description, Generator, Location, MARKING_FIELD_BYTES_MAX, Marking, MarkingError, Prompt};
pub use embed::{EmbedError, XMP_BYTES_MAX, embed, exif_of, iim_of, xmp_of};
pub use told::{Block, Told, Unread, is_of_a_model};

use crate::words::{Format, Moment};
use xmp::Form;

/// What is embedded in a file of one format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    format: Format,
    xmp: String,
    /// A TIFF file without a picture.
    exif: Option<Vec<u8>>,
    /// Datasets of the Information Interchange Model: only for JPEG, whose oldest readers know nothing else.
    iim: Vec<u8>,
}

impl Metadata {
    /// For a file of this size. `created` is when the master was made, `manifest` the address of a C2PA manifest that is not
    /// in the file.
    #[must_use]
    pub fn of(
        format: Format,
        size_px: (u32, u32),
        description: &Description,
        created: Option<Moment>,
        manifest: Option<&str>,
    ) -> Self {
        let marking = &description.marking;
        let (exif, iim) = match format {
            Format::Jpeg => (exif::jpeg_block(marking, created, size_px), iim::datasets(marking, created)),
            Format::Avif | Format::Webp | Format::Png => (exif::block(marking, created), Vec::new()),
        };
        let form = match format {
            Format::Avif | Format::Webp => Form::Bare,
            Format::Jpeg | Format::Png => Form::Wrapped,
        };
        Self { format, xmp: xmp::packet(description, created, manifest, form), exif, iim }
    }

    #[must_use]
    pub const fn format(&self) -> Format {
        self.format
    }

    #[must_use]
    pub fn xmp(&self) -> &str {
        &self.xmp
    }
}
