//! One AV1 picture to its samples: a safe wall around rav1d, which offers dav1d's C interface and nothing else.
//!
//! All `unsafe` of the edge is here, in [`Decoder`] and [`Frame`]. A panic inside rav1d cannot unwind through that interface:
//! it ends the process. So a stranger's picture is decoded in a process of its own (`bildkante-edge decode-picture`).
//!
//! Invariants: at most one thread; a frame over `area_px_max` is refused by its header, before its samples are allocated;
//! whatever was opened is closed.
//!
//! Source: the documentation of dav1d's `dav1d.h`, `data.h` and `picture.h`.

use std::fmt;
use std::mem::MaybeUninit;
use std::ptr::NonNull;

use rav1d::include::dav1d::data::Dav1dData;
use rav1d::include::dav1d::dav1d::{Dav1dContext, Dav1dSettings};
use rav1d::include::dav1d::headers::{
    DAV1D_PIXEL_LAYOUT_I400, DAV1D_PIXEL_LAYOUT_I420, DAV1D_PIXEL_LAYOUT_I422, DAV1D_PIXEL_LAYOUT_I444,
};
use rav1d::include::dav1d::picture::Dav1dPicture;
use rav1d::src::lib::{
    dav1d_close, dav1d_data_create, dav1d_data_unref, dav1d_default_settings, dav1d_get_picture, dav1d_open,
    dav1d_picture_unref, dav1d_send_data,
};

/// What dav1d answers where it has to be asked again: `-EAGAIN`.
const AGAIN: i32 = -11;
const DONE: i32 = 0;

/// Why there is no picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Av1Error {
    #[error("the AV1 decoder cannot be opened")]
    Open,
    #[error("there is not enough memory")]
    Memory,
    #[error("the AV1 data is damaged")]
    Damaged,
    #[error("the AV1 data holds no picture")]
    NoPicture,
    #[error("its samples have another layout than AV1 knows")]
    Layout,
}

/// Where a picture is decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Threads {
    /// On the calling thread. Only in a process that may end: rav1d 1.1 asks a damaged frame's header, which is gone by then, and nothing
    /// unwinds through its C interface.
    Calling,
    /// On threads of the decoder's, where a damaged frame is an error.
    Own,
}

/// How many chroma samples there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// None.
    Grey,
    /// Half as many in both directions.
    Half,
    /// Half as many across.
    HalfAcross,
    /// As many as there are luma samples.
    Full,
}

/// One row of a plane.
#[derive(Debug, Clone, Copy)]
pub enum Row<'a> {
    Eight(&'a [u8]),
    /// Of 10 or 12 bits, the lower ones of each sample.
    Sixteen(&'a [u16]),
}

/// The first picture in `obus`, a temporal unit of low-overhead open bitstream units (AV1 §5.2).
///
/// # Errors
/// When there is none, it is damaged, or its area is over `area_px_max`.
pub fn decode(obus: &[u8], area_px_max: u32, threads: Threads) -> Result<Frame, Av1Error> {
    let decoder = Decoder::open(area_px_max, threads)?;
    let mut data = Data::copied(obus)?;
    // When it is asked again without new data, the decoder waits for its threads.
    let mut is_drained = false;
    loop {
        if data.0.sz > 0 {
            decoder.send(&mut data)?;
        }
        match decoder.picture()? {
            Some(picture) => return Frame::new(picture),
            None if is_drained => return Err(Av1Error::NoPicture),
            None => is_drained = data.0.sz == 0,
        }
    }
}

/// An open decoder.
struct Decoder(Option<Dav1dContext>);

impl Decoder {
    #[allow(unsafe_code)]
    fn open(area_px_max: u32, threads: Threads) -> Result<Self, Av1Error> {
        let mut settings = MaybeUninit::<Dav1dSettings>::uninit();
        // SAFETY: the pointer is that of a place of the right size and alignment, which the call fills.
        let mut settings = unsafe {
            dav1d_default_settings(NonNull::from(&mut settings).cast());
            settings.assume_init()
        };
        let threads = match threads {
            Threads::Calling => 1,
            Threads::Own => 2,
        };
        settings.n_threads = threads;
        settings.max_frame_delay = threads;
        settings.all_layers = 0;
        settings.frame_size_limit = area_px_max;
        let mut context = None;
        // SAFETY: both point to live values of the right type; the settings are initialised.
        let opened = unsafe { dav1d_open(Some(NonNull::from(&mut context)), Some(NonNull::from(&mut settings))) };
        if opened.0 != DONE || context.is_none() {
            return Err(Av1Error::Open);
        }
        Ok(Self(context))
    }

    /// Takes as much of the data as fits now.
    #[allow(unsafe_code)]
    fn send(&self, data: &mut Data) -> Result<(), Av1Error> {
        // SAFETY: the context is open until `self` is dropped, and the data is a live value made by `dav1d_data_create`.
        let sent = unsafe { dav1d_send_data(self.0, Some(NonNull::from(&mut data.0))) };
        match sent.0 {
            DONE | AGAIN => Ok(()),
            _ => Err(Av1Error::Damaged),
        }
    }

    /// `None` where more data is needed.
    #[allow(unsafe_code)]
    fn picture(&self) -> Result<Option<Picture>, Av1Error> {
        let mut picture = Picture(Dav1dPicture::default());
        // SAFETY: the context is open until `self` is dropped; an empty picture may be written over.
        let got = unsafe { dav1d_get_picture(self.0, Some(NonNull::from(&mut picture.0))) };
        match got.0 {
            DONE => Ok(Some(picture)),
            AGAIN => Ok(None),
            _ => Err(Av1Error::Damaged),
        }
    }
}

impl Drop for Decoder {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: the context came from `dav1d_open` and is not used after this.
        unsafe { dav1d_close(Some(NonNull::from(&mut self.0))) };
    }
}

/// Bytes on their way into a decoder.
struct Data(Dav1dData);

impl Data {
    #[allow(unsafe_code)]
    fn copied(bytes: &[u8]) -> Result<Self, Av1Error> {
        if bytes.is_empty() {
            return Err(Av1Error::NoPicture);
        }
        let mut data = Self(Dav1dData::default());
        // SAFETY: the pointer is that of a live value, which the call fills.
        let place = unsafe { dav1d_data_create(Some(NonNull::from(&mut data.0)), bytes.len()) };
        let place = NonNull::new(place).ok_or(Av1Error::Memory)?;
        // SAFETY: the place was allocated for so many bytes a moment ago, and nothing else refers to it.
        unsafe { place.copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len()) };
        Ok(data)
    }
}

impl Drop for Data {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: a live value; the call leaves an empty one.
        unsafe { dav1d_data_unref(Some(NonNull::from(&mut self.0))) };
    }
}

/// A reference to a decoded picture, or to none.
struct Picture(Dav1dPicture);

impl Drop for Picture {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: a live value; the call leaves an empty one.
        unsafe { dav1d_picture_unref(Some(NonNull::from(&mut self.0))) };
    }
}

/// A decoded picture.
pub struct Frame {
    picture: Picture,
    width_px: usize,
    height_px: usize,
    layout: Layout,
    primaries: u16,
    transfer: u16,
    matrix: u16,
    is_full_range: bool,
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frame({}×{} px, {:?}, {} bits)", self.width_px, self.height_px, self.layout, self.bits())
    }
}

impl Frame {
    #[allow(unsafe_code)]
    fn new(picture: Picture) -> Result<Self, Av1Error> {
        let parameters = &picture.0.p;
        let side = |side: i32| usize::try_from(side).ok().filter(|side| *side > 0).ok_or(Av1Error::Damaged);
        let layout = match parameters.layout {
            DAV1D_PIXEL_LAYOUT_I400 => Layout::Grey,
            DAV1D_PIXEL_LAYOUT_I420 => Layout::Half,
            DAV1D_PIXEL_LAYOUT_I422 => Layout::HalfAcross,
            DAV1D_PIXEL_LAYOUT_I444 => Layout::Full,
            _ => return Err(Av1Error::Layout),
        };
        let (width_px, height_px) = (side(parameters.w)?, side(parameters.h)?);
        let header = picture.0.seq_hdr.ok_or(Av1Error::Damaged)?;
        // SAFETY: the picture holds a reference to its sequence header for as long as it lives.
        let header = unsafe { header.as_ref() };
        let (primaries, transfer, matrix) = (header.pri as u16, header.trc as u16, header.mtrx as u16);
        let is_full_range = header.color_range != 0;
        Ok(Self { width_px, height_px, layout, primaries, transfer, matrix, is_full_range, picture })
    }

    #[must_use]
    pub const fn width_px(&self) -> usize {
        self.width_px
    }

    #[must_use]
    pub const fn height_px(&self) -> usize {
        self.height_px
    }

    #[must_use]
    pub const fn layout(&self) -> Layout {
        self.layout
    }

    /// Bits of a sample: 8, 10 or 12.
    #[must_use]
    pub const fn bits(&self) -> u32 {
        self.picture.0.p.bpc.unsigned_abs()
    }

    /// Colour primaries (ITU-T H.273 §8.1).
    #[must_use]
    pub const fn primaries(&self) -> u16 {
        self.primaries
    }

    /// Transfer characteristics (§8.2).
    #[must_use]
    pub const fn transfer(&self) -> u16 {
        self.transfer
    }

    /// Matrix coefficients (ITU-T H.273 §8.3).
    #[must_use]
    pub const fn matrix(&self) -> u16 {
        self.matrix
    }

    /// Whether samples use the whole range of their bits.
    #[must_use]
    pub const fn is_full_range(&self) -> bool {
        self.is_full_range
    }

    /// Row `y` of a plane: 0 is luma, 1 and 2 are chroma. `None` beyond the plane.
    #[must_use]
    #[allow(unsafe_code)]
    pub fn row(&self, plane: usize, y: usize) -> Option<Row<'_>> {
        let (width, height) = self.plane_size(plane)?;
        let data = self.picture.0.data.get(plane).copied().flatten()?;
        let stride = self.picture.0.stride[usize::from(plane > 0)];
        if y >= height {
            return None;
        }
        let offset = isize::try_from(y).ok()?.checked_mul(stride)?;
        // SAFETY: rav1d allocated the plane with `height` rows, `stride` bytes apart, of at least `width` samples each; the
        // picture keeps it alive as long as `self`, and nothing writes to it any more. A sample has two bytes where it has
        // more than 8 bits, and rows are aligned to 64 bytes then.
        unsafe {
            let start = data.as_ptr().cast::<u8>().offset(offset);
            if self.bits() == 8 {
                Some(Row::Eight(std::slice::from_raw_parts(start, width)))
            } else {
                Some(Row::Sixteen(std::slice::from_raw_parts(start.cast(), width)))
            }
        }
    }

    fn plane_size(&self, plane: usize) -> Option<(usize, usize)> {
        let (width, height) = (self.width_px, self.height_px);
        match (plane, self.layout) {
            (0, _) => Some((width, height)),
            (1 | 2, Layout::Half) => Some((width.div_ceil(2), height.div_ceil(2))),
            (1 | 2, Layout::HalfAcross) => Some((width.div_ceil(2), height)),
            (1 | 2, Layout::Full) => Some((width, height)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_av1_is_an_error() {
        for bytes in [&b""[..], b"\0", b"no picture at all", &[0x12, 0x00], &[0xff; 300]] {
            assert!(decode(bytes, 1 << 20, Threads::Own).is_err(), "{bytes:?}");
        }
    }

    /// What libaom once made of a flat picture at its best quantizer. Decoded on the calling thread it ends the process.
    #[test]
    fn a_frame_whose_tile_is_damaged_is_an_error() {
        let obus = include_bytes!("../fixtures/damaged-tile.obu");
        for _ in 0..20 {
            assert!(decode(obus, 1 << 20, Threads::Own).is_err());
        }
    }
}
