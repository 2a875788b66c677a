//! The detector: what a picture tells of its origin, for operators on the command line and, where an operator wants it, for
//! the public.
//!
//! ```text
//! file ─┬▶ credentials::verify ─▶ C2PA          ┐
//!       ├▶ provenance::Told ─▶ XMP, IPTC, EXIF  │
//!       └▶ decoding (its own process) ────┬▶ marks ─▶ watermarks        ├▶ Report ─▶ page, JSON, signed document
//!                                         └▶ masters ─▶ who looks alike ┘
//! ```
//!
//! | module | owns |
//! | --- | --- |
//! | `marks` | detectors of watermarks by C2PA's names: ours, and programs that an operator names |
//! | `masters` | which masters the edge knows, and which of them the public may know of |
//! | `report` | what is told, layer by layer |
//! | `detector` | one call that looks for all of it |
//! | `desk` | `/verify`: what is taken, what is refused, how it is answered |
//! | `gate` | how often a network may ask, and how many pictures are in memory |
//! | `multipart` | the picture in a browser's form |
//! | `softbinding` | from a watermark to the manifests of the pictures that it names |
//! | `page` | the page in English and German |
//! | `metrics`, `config` | what is counted, `[verify]` |
//!
//! Invariants: nothing of a picture is stored or logged; every input, every wait and every piece of memory is bounded; that
//! a layer found nothing is never told as proof.

mod config;
mod desk;
mod detector;
mod gate;
mod marks;
mod masters;
mod metrics;
pub(crate) mod multipart;
mod page;
mod report;
mod softbinding;

pub use config::{DetectorConfig, VerifyConfig};
pub use desk::{VerifyDesk, VerifyParts};
pub use detector::{Detector, NotAPicture, Submission, sha256};
pub use marks::{DetectedMark, ForeignMarks, MarkDetector, MarkKey, OwnMarks, Shown, payload};
pub use masters::{Among, KnownMaster, KnownMasters, Search};
pub use metrics::VerifyMetrics;
pub(crate) use page::PATH;
pub use report::{
    CheckedBy, Conclusion, FileFacts, FingerprintLayer, FoundMark, REPORT_VERSION, Report, Stated, Unsearched,
    WatermarkLayer,
};
