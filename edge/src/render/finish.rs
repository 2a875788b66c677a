//! The finish: all that makes a rendition out of given pixels beside its spec, and the digest that stands for it in keys.
//!
//! A finish is its slot's look, what is laid on the picture, what is said of it, the watermark in its pixels, and whether a manifest is
//! signed for it. Invariants: a finish and its digest are made together and never part; equal digests mean equal bytes up
//! to the signature, save the creation date, which is the master's and a part of rendition keys by itself; the former
//! digests are those that stored renditions are found by after an upgrade, after the watermark's key or design was changed, or
//! after signing was switched on.

use std::fmt;
use std::iter;
use std::sync::Arc;

use super::bound::BytesMax;
use super::layers::LayerSet;
use super::look::Look;
use crate::provenance::{Description, DigitalSource, Marking};
use crate::watermark::Watermark;

/// The finish's part of a rendition key.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct FinishDigest([u8; 16]);

impl FinishDigest {
    #[must_use]
    pub const fn from_raw(raw: [u8; 16]) -> Self {
        Self(raw)
    }

    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The same with one more thing that decides the bytes. `domain` says what it is.
    fn and(self, domain: &[u8], part: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(domain).update(&self.0).update(part);
        let mut digest = [0; 16];
        digest.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        Self(digest)
    }
}

impl fmt::Debug for FinishDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FinishDigest({})", data_encoding::HEXLOWER.encode(&self.0))
    }
}

/// What an edge adds to every picture, whatever its campaign.
#[derive(Debug, Clone, Default)]
pub struct Finishing {
    /// In pictures that a model had a part in.
    pub watermark: Option<Arc<Watermark>>,
    /// Those that marked before, the latest first.
    pub earlier_watermarks: Arc<[Arc<Watermark>]>,
    /// Whether a signer is configured.
    pub is_signed: bool,
}

impl Finishing {
    /// For a picture of this source. What a person photographed or painted is not marked as a model's work.
    fn watermark_for(&self, source: DigitalSource) -> Option<&Arc<Watermark>> {
        self.watermark.as_ref().filter(|_| source.is_synthetic())
    }

    fn parts(&self, source: DigitalSource) -> Parts {
        let watermark = self.watermark_for(source).map(|watermark| watermark.digest());
        Parts { watermark, is_signed: self.is_signed }
    }

    /// What the same picture may have been finished with before: with a former design, an earlier key or none, and unsigned.
    fn former_parts(&self, source: DigitalSource) -> Vec<Parts> {
        let own = self.parts(source);
        let former = |watermark: &Arc<Watermark>| watermark.former_digests().to_vec();
        let of_own_key = self.watermark_for(source).into_iter().flat_map(former);
        let earlier = self.earlier_watermarks.iter().filter(|_| source.is_synthetic());
        let of_earlier = earlier.flat_map(|watermark| iter::once(watermark.digest()).chain(former(watermark)));
        let watermarks = of_own_key.chain(of_earlier).map(Some).chain([None]);
        let signed = watermarks.map(|watermark| Parts { watermark, ..own });
        let unsigned = Parts { is_signed: false, ..own };
        signed.chain([unsigned, Parts::default()]).filter(|parts| *parts != own).collect()
    }
}

impl PartialEq for Finishing {
    fn eq(&self, other: &Self) -> bool {
        let digest = |watermark: &Arc<Watermark>| watermark.digest();
        let keys = |finishing: &Self| -> Vec<_> {
            finishing.watermark.iter().chain(finishing.earlier_watermarks.iter()).map(digest).collect()
        };
        self.is_signed == other.is_signed
            && self.watermark.is_some() == other.watermark.is_some()
            && keys(self) == keys(other)
    }
}

impl Eq for Finishing {}

/// All of a [`Finishing`] that decides the bytes of one picture.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
struct Parts {
    /// The digest of its key.
    watermark: Option<[u8; 16]>,
    is_signed: bool,
}

impl Parts {
    fn digest(self, description: [u8; 16]) -> FinishDigest {
        if self == Self::default() {
            return FinishDigest(description);
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"bildkante finish 2\0").update(&description).update(&[u8::from(self.is_signed)]);
        if let Some(watermark) = self.watermark {
            hasher.update(&watermark);
        }
        let mut digest = [0; 16];
        digest.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        FinishDigest(digest)
    }
}

/// What is served where a signer is configured and does not sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnUnsigned {
    /// The picture with its other marks, for a short time and never `immutable`.
    #[default]
    ServeMarked,
    /// What stands in for a picture that is not there.
    StandIn,
}

impl OnUnsigned {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ServeMarked => "serve_marked",
            Self::StandIn => "stand_in",
        }
    }
}

/// See the module's documentation. Made once per slot, or once per variant that has its own, and shared.
#[derive(Debug, Clone)]
pub struct Finish {
    description: Description,
    finishing: Finishing,
    on_unsigned: OnUnsigned,
    layers: Option<Arc<LayerSet>>,
    look: Option<Arc<Look>>,
    bytes_max: Option<BytesMax>,
    digest: FinishDigest,
    formers: Vec<Former>,
}

/// What the same picture was kept under before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Former {
    pub digest: FinishDigest,
    /// Whether the creation date was a part of the key.
    pub is_dated: bool,
}

impl PartialEq for Finish {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest && self.on_unsigned == other.on_unsigned
    }
}

impl Eq for Finish {}

impl Finish {
    /// Of pictures that a model draws, without a word on the model.
    #[must_use]
    pub fn of_generated(marking: Marking) -> Self {
        Self::new(Description::new(marking, DigitalSource::TrainedAlgorithmicMedia))
    }

    /// Without watermark and signature.
    #[must_use]
    pub fn new(description: Description) -> Self {
        Self::with(description, Finishing::default(), OnUnsigned::default())
    }

    /// Takes about three microseconds, for the digests.
    #[must_use]
    pub fn with(description: Description, finishing: Finishing, on_unsigned: OnUnsigned) -> Self {
        let (plain, source) = (description.digest(), description.source);
        let digest = finishing.parts(source).digest(plain);
        let dated = |parts: Parts| Former { digest: parts.digest(plain), is_dated: true };
        let undated = Former { digest: FinishDigest(description.former_digest()), is_dated: false };
        let mut formers: Vec<_> = finishing.former_parts(source).into_iter().map(dated).collect();
        formers.dedup();
        formers.push(undated);
        Self { description, finishing, on_unsigned, layers: None, look: None, bytes_max: None, digest, formers }
    }

    /// The same with a look. What was kept without one is another picture.
    #[must_use]
    pub fn looking(self, look: Arc<Look>) -> Self {
        let part = look.digest();
        let looked = |digest: FinishDigest| digest.and(b"bildkante finish with a look 1\0", &part);
        let formers = self.formers.iter().filter(|former| former.is_dated);
        let formers = formers.map(|former| Former { digest: looked(former.digest), ..*former }).collect();
        Self { digest: looked(self.digest), formers, look: Some(look), ..self }
    }

    /// What is done to its pixels.
    #[must_use]
    pub const fn look(&self) -> Option<&Arc<Look>> {
        self.look.as_ref()
    }

    /// The same for another picture of the same campaign.
    #[must_use]
    pub fn describing(&self, description: Description) -> Self {
        let finish = self.looking_as(description);
        match &self.layers {
            Some(layers) => finish.layered(Arc::clone(layers)),
            None => finish,
        }
    }

    /// Of another picture, with the same look and bound and without layers.
    fn looking_as(&self, description: Description) -> Self {
        self.rebuilt(description, self.bytes_max)
    }

    fn rebuilt(&self, description: Description, bytes_max: Option<BytesMax>) -> Self {
        let plain = Self::with(description, self.finishing.clone(), self.on_unsigned);
        let looking = match &self.look {
            Some(look) => plain.looking(Arc::clone(look)),
            None => plain,
        };
        match bytes_max {
            Some(bytes_max) => looking.bounded(bytes_max),
            None => looking,
        }
    }

    /// The same without layers, for files of at most so many bytes.
    #[must_use]
    pub fn within(&self, bytes_max: Option<BytesMax>) -> Self {
        self.rebuilt(self.description.clone(), bytes_max)
    }

    /// What was kept without the bound, or with another, is another file.
    fn bounded(self, bytes_max: BytesMax) -> Self {
        let part = bytes_max.get().to_le_bytes();
        let bounded = |digest: FinishDigest| digest.and(b"bildkante finish with a bound 1\0", &part);
        let formers = self.formers.iter().filter(|former| former.is_dated);
        let formers = formers.map(|former| Former { digest: bounded(former.digest), ..*former }).collect();
        Self { digest: bounded(self.digest), formers, bytes_max: Some(bytes_max), ..self }
    }

    /// Most bytes of its files.
    #[must_use]
    pub const fn bytes_max(&self) -> Option<BytesMax> {
        self.bytes_max
    }

    /// The same with layers. A picture that a model drew is a composite where one of them is a picture.
    #[must_use]
    pub fn laid_with(&self, layers: Arc<LayerSet>) -> Self {
        let is_drawn = self.source() == DigitalSource::TrainedAlgorithmicMedia;
        let description = if is_drawn && !layers.images().is_empty() {
            let source = DigitalSource::CompositeWithTrainedAlgorithmicMedia;
            Description { source, ..self.description.clone() }
        } else {
            self.description.clone()
        };
        self.looking_as(description).layered(layers)
    }

    /// Digests without layers stay as they are: no stored rendition is lost.
    fn layered(self, layers: Arc<LayerSet>) -> Self {
        let part = *layers.digest();
        let with_layers = |digest: FinishDigest| digest.and(b"bildkante finish with layers 1\0", &part);
        let formers =
            self.formers.iter().map(|former| Former { digest: with_layers(former.digest), ..*former }).collect();
        Self { digest: with_layers(self.digest), formers, layers: Some(layers), ..self }
    }

    /// What is laid on the picture.
    #[must_use]
    pub const fn layers(&self) -> Option<&Arc<LayerSet>> {
        self.layers.as_ref()
    }

    /// What is said of the picture.
    #[must_use]
    pub const fn description(&self) -> &Description {
        &self.description
    }

    /// What is said of its makers and rights.
    #[must_use]
    pub const fn marking(&self) -> &Marking {
        &self.description.marking
    }

    /// How the picture came to be.
    #[must_use]
    pub const fn source(&self) -> DigitalSource {
        self.description.source
    }

    /// What its pixels are marked with.
    #[must_use]
    pub fn watermark(&self) -> Option<&Arc<Watermark>> {
        self.finishing.watermark_for(self.source())
    }

    /// Whether a manifest is signed for it.
    #[must_use]
    pub const fn is_signed(&self) -> bool {
        self.finishing.is_signed
    }

    #[must_use]
    pub const fn on_unsigned(&self) -> OnUnsigned {
        self.on_unsigned
    }

    #[must_use]
    pub const fn digest(&self) -> FinishDigest {
        self.digest
    }

    /// The digests under which the same picture may be stored from before, the latest first.
    pub fn formers(&self) -> impl Iterator<Item = Former> + '_ {
        self.formers.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provenance::{Generator, Location};
    use crate::watermark::Secret;

    fn finishing(secret: Option<[u8; 32]>, is_signed: bool) -> Finishing {
        let watermark = secret.map(|secret| Arc::new(Watermark::new(&Secret::from_bytes(secret))));
        Finishing { watermark, earlier_watermarks: Arc::default(), is_signed }
    }

    #[test]
    fn the_way_a_picture_came_to_be_is_part_of_the_digest() {
        let marking = Marking { creator: Some("Studio".into()), ..Marking::default() };
        let generated = Finish::of_generated(marking.clone());
        let placeholder = Finish::new(Description::new(marking, DigitalSource::AlgorithmicMedia));
        assert_ne!(generated.digest(), placeholder.digest());
    }

    #[test]
    fn key_of_the_watermark_and_signing_are_part_of_the_digest_where_they_change_bytes() {
        let of = |source, secret, is_signed| {
            let description = Description::new(Marking::default(), source);
            Finish::with(description, finishing(secret, is_signed), OnUnsigned::default())
        };
        let drawn = DigitalSource::TrainedAlgorithmicMedia;
        let finishes =
            [(None, false), (None, true), (Some([1; 32]), false), (Some([2; 32]), false), (Some([1; 32]), true)];
        let digests: std::collections::HashSet<_> =
            finishes.iter().map(|(secret, is_signed)| of(drawn, *secret, *is_signed).digest()).collect();
        assert_eq!(digests.len(), finishes.len());
        let photo = DigitalSource::DigitalCapture;
        assert_eq!(of(photo, Some([1; 32]), false).digest(), of(photo, None, false).digest());
        assert!(
            of(photo, Some([1; 32]), true).watermark().is_none()
                && of(drawn, Some([1; 32]), true).watermark().is_some()
        );
    }

    #[test]
    fn what_was_kept_before_a_change_of_the_finishing_is_found() {
        let of = |finishing| {
            let description = Description::new(Marking::default(), DigitalSource::TrainedAlgorithmicMedia);
            Finish::with(description, finishing, OnUnsigned::default())
        };
        let formers = |finishing| {
            of(finishing).formers().filter(|former| former.is_dated).map(|former| former.digest).collect::<Vec<_>>()
        };
        let digest = |secret, is_signed| of(finishing(secret, is_signed)).digest();
        let (key, earlier) = ([1; 32], [2; 32]);
        assert_eq!(formers(finishing(None, false)), []);
        let designed = |secret, is_signed| former_design(&of(finishing(None, false)), secret, is_signed);
        assert_eq!(formers(finishing(Some(key), false)), [designed(key, false), digest(None, false)]);
        let expected = [designed(key, true), digest(None, true), digest(Some(key), false), digest(None, false)];
        assert_eq!(formers(finishing(Some(key), true)), expected);
        let earlier_watermarks = Arc::new([Arc::new(Watermark::new(&Secret::from_bytes(earlier)))]);
        let changed = Finishing { earlier_watermarks, ..finishing(Some(key), true) };
        let expected = [designed(key, true), digest(Some(earlier), true), designed(earlier, true), digest(None, true)];
        assert_eq!(formers(changed)[..4], expected);
    }

    /// As the version computed it whose watermark was in the lightness alone.
    fn former_design(plain: &Finish, secret: [u8; 32], is_signed: bool) -> FinishDigest {
        let mark = blake3::derive_key("bildkante 2026-11 watermark 1 digest", &secret);
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"bildkante finish 2\0").update(plain.digest().as_bytes()).update(&[u8::from(is_signed)]);
        hasher.update(&mark[..16]);
        FinishDigest(hasher.finalize().as_bytes()[..16].try_into().unwrap())
    }

    /// Computed by the version before there was a finish, whose keys hold the digest of the marking.
    #[test]
    fn the_last_former_digest_is_that_of_former_versions() {
        let statements = Marking {
            creator: Some("Studio".into()),
            credit: Some("Shop".into()),
            copyright: Some("© 2026 Shop".into()),
            license: Some("https://example.org/l".into()),
            ..Marking::default()
        };
        for (marking, before) in
            [(statements, "253d645b8529e1cacd4c1ac69fce91b9"), (Marking::default(), "c28765865235e185bc9985f1505a5d5f")]
        {
            let place = Location { city: Some("Ulm".into()), ..Location::default() };
            let generator = Generator { system: "sdxl".into(), version: "0".into(), prompt: None };
            let description = Description {
                generator: Some(generator),
                ..Description::new(Marking { location: place, ..marking }, DigitalSource::TrainedAlgorithmicMedia)
            };
            let finish = Finish::with(description, finishing(Some([1; 32]), true), OnUnsigned::default());
            let former = finish.formers().last().expect("there is one");
            assert_eq!(data_encoding::HEXLOWER.encode(former.digest.as_bytes()), before);
            assert!(!former.is_dated);
        }
    }

    #[test]
    fn a_bound_is_in_every_digest_and_stays_with_another_description() {
        let description = || Description::new(Marking::default(), DigitalSource::TrainedAlgorithmicMedia);
        let plain = Finish::with(description(), finishing(Some([1; 32]), true), OnUnsigned::default());
        let (small, large) = (plain.within(BytesMax::new(2000)), plain.within(BytesMax::new(3000)));
        assert!(small.digest() != plain.digest() && small.digest() != large.digest());
        assert_eq!(large.within(BytesMax::new(2000)), small, "of two bounds the later");
        assert_eq!(small.within(None), plain);
        let photo = Description::new(Marking::default(), DigitalSource::DigitalCapture);
        assert_eq!(small.describing(photo.clone()), plain.describing(photo).within(BytesMax::new(2000)));
        let known: Vec<_> = plain.formers().map(|former| former.digest).collect();
        assert!(small.formers().count() > 0 && small.formers().all(|former| !known.contains(&former.digest)));
    }

    #[test]
    fn a_look_is_in_every_digest_and_stays_with_another_description() {
        let look = |thousandths| {
            Arc::new(Look { grade: None, sharpen: crate::render::Sharpen::new(thousandths), grain: None })
        };
        let plain = || {
            let description = Description::new(Marking::default(), DigitalSource::TrainedAlgorithmicMedia);
            Finish::with(description, finishing(Some([1; 32]), true), OnUnsigned::default())
        };
        let (one, other) = (plain().looking(look(400)), plain().looking(look(500)));
        assert!(one.digest() != plain().digest() && one.digest() != other.digest());
        assert_eq!(one.digest(), plain().looking(look(400)).digest());
        let known: Vec<_> = plain().formers().map(|former| former.digest).chain([plain().digest()]).collect();
        assert!(one.formers().count() > 0, "those of another key or unsigned had the look too");
        assert!(one.formers().all(|former| former.is_dated && !known.contains(&former.digest)));
        let photo = Description::new(Marking::default(), DigitalSource::DigitalCapture);
        assert_eq!(one.describing(photo.clone()), plain().describing(photo).looking(look(400)));
    }
}
