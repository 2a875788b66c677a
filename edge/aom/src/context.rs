//! libaom's encoder, opened for one picture.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_int};
use std::fmt;
use std::mem::MaybeUninit;

use libaom_sys as sys;

use super::{AomError, Chroma, Depth, Picture, Settings, image::Image};

/// ITU-T H.273: sRGB's primaries and transfer, BT.601's matrix. Encoders of AVIF say so for sRGB pictures, and browsers assume it.
const PRIMARIES: c_int = 1;
const TRANSFER: c_int = 13;
const MATRIX: c_int = 6;

/// What was found to save bytes at equal SSIMULACRA2 with libaom 3.11 (see docs/encoders.md): distortion that counts contrast, quantization
/// matrices, and a coarser quantizer for chroma; deltas between blocks follow the tuning instead of `deltaq-mode`.
const OPTIONS: [(&CStr, &CStr); 7] = [
    (c"tune", c"ssim"),
    (c"enable-chroma-deltaq", c"1"),
    (c"deltaq-mode", c"0"),
    (c"enable-qm", c"1"),
    (c"qm-min", c"5"),
    (c"qm-max", c"9"),
    // The search for repeated blocks takes most of the time where libaom takes a picture for a screen, and saved nothing on any of the corpus.
    (c"enable-intrabc", c"0"),
];

/// Closed when it is dropped. Boxed: libaom keeps its address.
pub(crate) struct Context(Box<sys::aom_codec_ctx_t>);

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Context")
    }
}

impl Context {
    pub(crate) fn open(picture: &Picture, settings: Settings) -> Result<Self, AomError> {
        // SAFETY: gives the address of a table of libaom's, which lives as long as the program.
        let interface = unsafe { sys::aom_codec_av1_cx() };
        let mut defaults = MaybeUninit::<sys::aom_codec_enc_cfg_t>::zeroed();
        // SAFETY: fills the structure where it answers that all is well; zeroes are a valid one, too: it holds numbers and null pointers.
        let (code, mut config) = unsafe {
            let usage = sys::AOM_USAGE_ALL_INTRA;
            let code = sys::aom_codec_enc_config_default(interface, defaults.as_mut_ptr(), usage);
            (code, defaults.assume_init())
        };
        checked(code, "its own defaults")?;
        config.g_w = picture.width_px;
        config.g_h = picture.height_px;
        config.g_threads = 1;
        config.g_limit = 1;
        config.g_lag_in_frames = 0;
        config.g_profile = u32::from(picture.chroma == Chroma::Full);
        config.g_bit_depth = picture.depth.bits();
        config.g_input_bit_depth = picture.depth.bits();
        config.rc_end_usage = sys::AOM_Q;
        config.rc_min_quantizer = settings.quantizer.into();
        config.rc_max_quantizer = settings.quantizer.into();
        let flags = match picture.depth {
            Depth::Eight => 0,
            Depth::Ten => sys::AOM_CODEC_USE_HIGHBITDEPTH,
        };
        let version = c_int::try_from(sys::AOM_ENCODER_ABI_VERSION).map_err(|_| AomError::Nothing)?;
        let mut context = Box::new(MaybeUninit::<sys::aom_codec_ctx_t>::zeroed());
        // SAFETY: zeroes are a valid context; libaom fills it, and copies the configuration.
        let code = unsafe {
            sys::aom_codec_enc_init_ver(context.as_mut_ptr(), interface, &raw const config, flags.into(), version)
        };
        checked(code, "to open its encoder")?;
        // SAFETY: libaom has filled it.
        let mut opened = Self(unsafe { context.assume_init() });
        opened.control(sys::AOME_SET_CPUUSED, settings.speed.into(), "its speed")?;
        opened.control(sys::AOME_SET_CQ_LEVEL, settings.quantizer.into(), "its quantizer")?;
        opened.control(sys::AV1E_SET_COLOR_PRIMARIES, PRIMARIES, "its primaries")?;
        opened.control(sys::AV1E_SET_TRANSFER_CHARACTERISTICS, TRANSFER, "its transfer")?;
        opened.control(sys::AV1E_SET_MATRIX_COEFFICIENTS, MATRIX, "its matrix")?;
        opened.control(sys::AV1E_SET_COLOR_RANGE, 1, "its range")?;
        for (name, value) in OPTIONS {
            // SAFETY: an open context and two strings that end with a zero.
            let code = unsafe { sys::aom_codec_set_option(&raw mut *opened.0, name.as_ptr(), value.as_ptr()) };
            checked(code, "an option")?;
        }
        Ok(opened)
    }

    /// Only for controls that take one `int` or `unsigned int`.
    fn control(&mut self, control: sys::aome_enc_control_id, value: c_int, what: &'static str) -> Result<(), AomError> {
        let control = c_int::try_from(control).map_err(|_| AomError::Nothing)?;
        // SAFETY: an open context; the controls above take one number, and read no more than that.
        checked(unsafe { sys::aom_codec_control(&raw mut *self.0, control, value) }, what)
    }

    pub(crate) fn encode(&mut self, image: &Image) -> Result<Vec<u8>, AomError> {
        let mut file = Vec::new();
        self.send(image.as_ptr())?;
        self.take(&mut file);
        // Without an image libaom gives what it still holds.
        self.send(std::ptr::null())?;
        self.take(&mut file);
        if file.is_empty() { Err(AomError::Nothing) } else { Ok(file) }
    }

    fn send(&mut self, image: *const sys::aom_image_t) -> Result<(), AomError> {
        // SAFETY: an open context, and an image that lives through the call or null; libaom copies its samples.
        checked(unsafe { sys::aom_codec_encode(&raw mut *self.0, image, 0, 1, 0) }, "the picture")
    }

    fn take(&mut self, file: &mut Vec<u8>) {
        let mut at: sys::aom_codec_iter_t = std::ptr::null();
        loop {
            // SAFETY: an open context; a packet is valid until the next call of the encoder, and is copied before.
            unsafe {
                let packet = sys::aom_codec_get_cx_data(&raw mut *self.0, &raw mut at);
                let Some(packet) = packet.as_ref() else { return };
                if packet.kind == sys::AOM_CODEC_CX_FRAME_PKT {
                    let frame = packet.data.frame;
                    file.extend_from_slice(std::slice::from_raw_parts(frame.buf.cast(), frame.sz));
                }
            }
        }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: it was opened, and is closed once.
        unsafe { sys::aom_codec_destroy(&raw mut *self.0) };
    }
}

fn checked(code: sys::aom_codec_err_t, step: &'static str) -> Result<(), AomError> {
    if code == sys::AOM_CODEC_OK {
        return Ok(());
    }
    // SAFETY: gives a string of libaom's own for every code.
    let reason = unsafe { CStr::from_ptr(sys::aom_codec_err_to_string(code)) };
    Err(AomError::Refused { step, reason: reason.to_string_lossy().into_owned() })
}
