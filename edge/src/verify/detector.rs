//! Looks into a picture: all layers, in one call that keeps nothing.

use std::sync::Arc;

use bytes::Bytes;

use super::config::VerifyConfig;
use super::marks::{ForeignMarks, MarkDetector, OwnMarks, Shown};
use super::masters::{Among, KnownMasters};
use super::report::{
    CheckedBy, FileFacts, FingerprintLayer, FoundMark, Layers, REPORT_VERSION, Report, Unsearched, WatermarkLayer,
    agreement, undecoded,
};
use crate::credentials::{Finding, Trust, verify};
use crate::decoding::{DecodeFault, Grey, Sandbox};
use crate::provenance::Told;
use crate::watermark::Watermark;
use crate::words::{Format, Moment};

/// How a report names what made it.
const SOFTWARE: &str = concat!("Bildkante ", env!("CARGO_PKG_VERSION"));

/// Why a file is not looked into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAPicture {
    #[error("it is no AVIF, WebP, JPEG or PNG by its first bytes")]
    Format,
    #[error("it has {bytes} bytes, at most {bytes_max} are taken")]
    TooLong { bytes: usize, bytes_max: usize },
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Detector {
    sandbox: Sandbox,
    marks: Vec<Box<dyn MarkDetector>>,
    trust: Trust,
    masters: Option<(Arc<KnownMasters>, Among)>,
    distance_bits_max: u32,
    installation: Option<String>,
}

/// What is checked, and when.
#[derive(Debug, Clone, Copy)]
pub struct Submission<'a> {
    pub file: &'a Bytes,
    /// A C2PA manifest that is not in the file.
    pub manifest: Option<&'a [u8]>,
    pub now_unix_s: u64,
}

impl Detector {
    /// Compares with no master.
    #[must_use]
    pub fn new(config: &VerifyConfig, secrets: Vec<Arc<Watermark>>, trust: Trust) -> Self {
        let own: Box<dyn MarkDetector> = Box::new(OwnMarks::new(secrets));
        let foreign = config.detectors.iter().filter_map(ForeignMarks::new);
        let foreign = foreign.map(|marks| Box::new(marks) as Box<dyn MarkDetector>);
        Self {
            sandbox: Sandbox::new(config.decoder(), config.decode_limits()),
            marks: std::iter::once(own).chain(foreign).collect(),
            trust,
            masters: None,
            distance_bits_max: config.distance_bits_max,
            installation: None,
        }
    }

    /// The same for an edge: with the masters that it may tell of, under its own name.
    #[must_use]
    pub fn of_edge(self, masters: Arc<KnownMasters>, among: Among, public_url: String) -> Self {
        Self { masters: Some((masters, among)), installation: Some(public_url), ..self }
    }

    #[must_use]
    pub const fn file_bytes_max(&self) -> usize {
        self.sandbox.limits().file_bytes_max
    }

    /// Blocks for as long as decoding and searching take: it belongs on a thread of its own.
    ///
    /// # Errors
    /// When the file is too long, or in no format that is known. A picture that cannot be decoded has a report that says so.
    pub fn inspect(&self, submission: Submission<'_>) -> Result<(Report, Option<DecodeFault>), NotAPicture> {
        let (file, bytes_max) = (submission.file, self.file_bytes_max());
        if file.len() > bytes_max {
            return Err(NotAPicture::TooLong { bytes: file.len(), bytes_max });
        }
        let format = Format::of_file(file).ok_or(NotAPicture::Format)?;
        let c2pa = verify(format, file, submission.manifest, &self.trust);
        let decoded = self.sandbox.lightness(file.clone());
        let layers = Layers {
            metadata: Told::of(format, file),
            watermark: match &decoded {
                Ok(grey) => self.watermark(Shown { file, grey }, &c2pa),
                Err(fault) => undecoded(fault),
            },
            fingerprint: self.fingerprint(decoded.as_ref().ok()),
            c2pa,
        };
        let size_px = decoded.as_ref().ok().map(|grey| (grey.width_px, grey.height_px));
        let facts = FileFacts {
            sha256: sha256(file),
            bytes: file.len(),
            format: format.as_str(),
            width_px: size_px.map(|size| size.0),
            height_px: size_px.map(|size| size.1),
        };
        Ok((self.report(facts, layers, submission.now_unix_s), decoded.err()))
    }

    fn report(&self, file: FileFacts, layers: Layers, now_unix_s: u64) -> Report {
        Report {
            version: REPORT_VERSION,
            checked_at: Moment::from_unix_s(now_unix_s).map(|moment| moment.to_string()).unwrap_or_default(),
            checked_by: CheckedBy { software: SOFTWARE.to_owned(), installation: self.installation.clone() },
            file,
            verdict: layers.verdict(),
            made_by_a_model: layers.made_by_a_model(),
            c2pa: layers.c2pa,
            metadata: layers.metadata,
            watermark: layers.watermark,
            fingerprint: layers.fingerprint,
        }
    }

    fn watermark(&self, picture: Shown<'_>, c2pa: &Finding) -> WatermarkLayer {
        let mut layer = WatermarkLayer { searched: Vec::new(), found: Vec::new(), unsearched: Vec::new() };
        for marks in &self.marks {
            let algorithm = marks.algorithm().to_owned();
            match marks.look(picture) {
                Ok(found) => {
                    layer.searched.push(algorithm);
                    layer.found.extend(found.map(|mark| FoundMark {
                        masters: self.named(&mark),
                        agrees_with_manifest: agreement(c2pa, &mark),
                        mark,
                    }));
                }
                Err(reason) => layer.unsearched.push(Unsearched { algorithm: Some(algorithm), reason }),
            }
        }
        layer
    }

    fn named(&self, mark: &super::marks::DetectedMark) -> Vec<super::masters::KnownMaster> {
        let named = mark.master().zip(self.masters.as_ref());
        named.map(|(prefix, (masters, among))| masters.named(prefix, *among).found).unwrap_or_default()
    }

    fn fingerprint(&self, grey: Option<&Grey>) -> FingerprintLayer {
        let search = grey.zip(self.masters.as_ref());
        let search = search.map(|(grey, (masters, among))| masters.alike(grey.phash, self.distance_bits_max, *among));
        FingerprintLayer::of(grey.map(|grey| grey.phash.to_string()), search)
    }
}

/// Hexadecimal.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref())
}
