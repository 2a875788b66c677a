//! Limits that URLs and manifests share.

/// Widest rendition, as URLs and ladders may ask for it.
pub const WIDTH_PX_MAX: u32 = 8192;
