//! A picture in libaom's memory.
#![allow(unsafe_code)]

use std::fmt;
use std::ptr::NonNull;

use libaom_sys as sys;

use super::{AomError, Chroma, Depth, Picture};

/// libaom aligns rows to as many bytes.
const ALIGNMENT: u32 = 32;

/// Freed when it is dropped.
pub(crate) struct Image(NonNull<sys::aom_image_t>);

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Image")
    }
}

impl Image {
    pub(crate) fn of(picture: &Picture) -> Result<Self, AomError> {
        let format = match (picture.depth, picture.chroma) {
            (Depth::Eight, Chroma::Half) => sys::AOM_IMG_FMT_I420,
            (Depth::Eight, Chroma::Full) => sys::AOM_IMG_FMT_I444,
            (Depth::Ten, Chroma::Half) => sys::AOM_IMG_FMT_I42016,
            (Depth::Ten, Chroma::Full) => sys::AOM_IMG_FMT_I44416,
        };
        // SAFETY: with a null image libaom allocates one of the size given, samples included, or gives null.
        let image =
            unsafe { sys::aom_img_alloc(std::ptr::null_mut(), format, picture.width_px, picture.height_px, ALIGNMENT) };
        let mut image = Self(NonNull::new(image).ok_or(AomError::Memory)?);
        for (plane, samples) in picture.planes.iter().enumerate() {
            let (width, _) = picture.plane_size(plane);
            for (y, row) in samples.chunks_exact(width).enumerate() {
                image.write(plane, y, row, picture.depth)?;
            }
        }
        Ok(image)
    }

    /// `plane` and `y` lie in the picture the image was made of, and `row` is as long as a row of that plane.
    fn write(&mut self, plane: usize, y: usize, row: &[u16], depth: Depth) -> Result<(), AomError> {
        // SAFETY: the image is alive as long as `self`.
        let (start, stride) = unsafe { (self.0.as_ref().planes[plane], self.0.as_ref().stride[plane]) };
        let offset = isize::try_from(y).ok().and_then(|y| y.checked_mul(isize::try_from(stride).ok()?));
        let offset = offset.ok_or(AomError::Memory)?;
        // SAFETY: libaom allocated the plane with as many rows as the picture's has, `stride` bytes apart, each with room for its
        // samples; samples of more than eight bits have two bytes there, and rows are aligned.
        unsafe {
            let start = start.offset(offset);
            match depth {
                Depth::Eight => {
                    for (x, sample) in row.iter().enumerate() {
                        // Checked when the picture was made: it has eight bits.
                        start.add(x).write(sample.to_le_bytes()[0]);
                    }
                }
                Depth::Ten => std::ptr::copy_nonoverlapping(row.as_ptr(), start.cast::<u16>(), row.len()),
            }
        }
        Ok(())
    }

    pub(crate) const fn as_ptr(&self) -> *const sys::aom_image_t {
        self.0.as_ptr()
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        // SAFETY: libaom allocated it, and nothing has freed it.
        unsafe { sys::aom_img_free(self.0.as_ptr()) }
    }
}
