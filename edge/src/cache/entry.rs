//! The form of a rendition on disk: a fixed header, then the body. Pure functions over bytes.
//!
//! Integers are little-endian:
//!
//! ```text
//!   0  magic "BKRENDIT"      24  shape code   u64     104  BLAKE3-256 of the body
//!   8  version      u32      32  body length  u32     136  proof, 32 bytes
//!  12  width, px    u32      36  making       u32     168  body
//!  16  height, px   u32      40  created, ms  u64
//!  20  format, quality,      48  generation   u64
//!      rung, place of its    56  rendition key
//!      manifest   u8 × 4     72  master id
//!                            88  recipe id
//! ```
//!
//! The body's length had eight bytes before there was a `making`: there it is zero, because no body is that long.
//!
//! The version says how the entry is proven when it is read ([`Form`]):
//!
//! - 3: the proof is the BLAKE3-256 of bytes 0–135, and the body has the digest at 104;
//! - 4: the proof is the XXH3-128 of the body, then the first half of the BLAKE3-256 of bytes 0–151. The digest at 104, from which the
//!   `ETag` and `Repr-Digest` come, was computed when the body was made and is not computed again.
//!
//! Either way every bit is covered or must equal what was asked for, so no damaged entry decodes. None of this is keyed:
//! neither form keeps out somebody who may write to the store.

use bildkante_shared::ids::{Digest, MasterId, RecipeId};
use bytes::Bytes;
use twox_hash::XxHash3_128;

use super::key::{RenditionKey, format_code};
use super::rendition::{FileFacts, Lineage, Precedence, Rendition};
use crate::render::{Making, Placement, Quality, RenditionSpec, Rung, Shape};
use crate::words::Format;

const MAGIC: &[u8; 8] = b"BKRENDIT";
/// What an object store's paths name; its entries have [`Form::Digest`].
pub(super) const SHARED_VERSION: u32 = Form::Digest.version();
/// Where the key starts, and the proof.
const KEY_AT: usize = 56;
const PROOF_AT: usize = 136;
const PROOF_BYTES: usize = 32;
const CHECKSUM_BYTES: usize = 16;
/// Bytes before the body.
pub(super) const HEADER_BYTES: usize = PROOF_AT + PROOF_BYTES;

/// How an entry is proven. Entries of other versions are deleted when they are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// By its digest: for what other machines read and wrote.
    Digest,
    /// By a checksum that finds damage as surely (one in 2¹²⁸ goes unseen) and takes a fifteenth of the time: for what this edge
    /// wrote for itself.
    Checksum,
}

impl Form {
    const ALL: [Self; 2] = [Self::Digest, Self::Checksum];

    /// 3 since the header holds the purge generation and the shape.
    const fn version(self) -> u32 {
        match self {
            Self::Digest => 3,
            Self::Checksum => 4,
        }
    }

    /// What follows the first [`PROOF_AT`] bytes of a header.
    fn proof(self, fields: &[u8; PROOF_AT], body: &[u8]) -> [u8; PROOF_BYTES] {
        match self {
            Self::Digest => seal_of(&[fields]),
            Self::Checksum => checksum_proof(fields, checksum_of(body)),
        }
    }
}

fn checksum_of(body: &[u8]) -> [u8; CHECKSUM_BYTES] {
    XxHash3_128::oneshot(body).to_le_bytes()
}

fn checksum_proof(fields: &[u8; PROOF_AT], checksum: [u8; CHECKSUM_BYTES]) -> [u8; PROOF_BYTES] {
    let mut proof = seal_of(&[fields, &checksum]);
    proof.copy_within(..PROOF_BYTES - CHECKSUM_BYTES, CHECKSUM_BYTES);
    proof[..CHECKSUM_BYTES].copy_from_slice(&checksum);
    proof
}

fn seal_of(parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize().into()
}

/// Why stored bytes are not the rendition that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    #[error("{0} bytes are too few for a header")]
    Short(usize),
    #[error("it does not start as an entry does")]
    Magic,
    #[error("it is of version {0}, which this build does not read")]
    Version(u32),
    #[error("the header's checksum is wrong")]
    Header,
    #[error("it belongs to another key")]
    Key,
    #[error("a field is out of its range: {0}")]
    Field(&'static str),
    #[error("the body has {actual} bytes, the header says {expected}")]
    Length { expected: u64, actual: u64 },
    #[error("the body's checksum is wrong")]
    Body,
}

/// The header of `rendition`; the file is this and the body.
pub(super) fn encode_header(key: RenditionKey, rendition: &Rendition, form: Form) -> [u8; HEADER_BYTES] {
    let RenditionSpec { width_px, height_px, shape, format, quality } = rendition.spec;
    let mut fields = [0; PROOF_AT];
    let mut rest = &mut fields[..];
    put(&mut rest, MAGIC);
    put(&mut rest, &form.version().to_le_bytes());
    put(&mut rest, &width_px.to_le_bytes());
    put(&mut rest, &height_px.to_le_bytes());
    put(&mut rest, &[format_code(format), quality.get(), rung_code(rendition), placement_code(rendition.manifest)]);
    put(&mut rest, &shape.code());
    // A body that is longer is none that a store takes; read back, its length would be wrong.
    put(&mut rest, &u32::try_from(rendition.body.len()).unwrap_or(u32::MAX).to_le_bytes());
    put(&mut rest, &rendition.making.map_or(0, Making::code).to_le_bytes());
    put(&mut rest, &rendition.created_unix_ms.to_le_bytes());
    put(&mut rest, &rendition.generation.to_le_bytes());
    put(&mut rest, key.as_bytes());
    put(&mut rest, rendition.master.as_bytes());
    put(&mut rest, rendition.recipe.as_bytes());
    put(&mut rest, rendition.digest.as_bytes());
    debug_assert!(rest.is_empty());
    let mut header = [0; HEADER_BYTES];
    header[..PROOF_AT].copy_from_slice(&fields);
    header[PROOF_AT..].copy_from_slice(&form.proof(&fields, &rendition.body));
    header
}

/// The rendition in `file`, if every byte of it is as it was written under `key`. The body is not copied.
///
/// # Errors
/// What is wrong with it.
pub fn decode(file: &Bytes, key: RenditionKey) -> Result<Rendition, EntryError> {
    let header = decode_header(file, key)?;
    let actual = (file.len() - HEADER_BYTES) as u64;
    if actual != header.body_bytes {
        return Err(EntryError::Length { expected: header.body_bytes, actual });
    }
    let body = file.slice(HEADER_BYTES..);
    let is_sound = match header.proven_by {
        ProvenBy::Digest => Digest::of_bytes(&body) == header.digest,
        ProvenBy::Checksum(checksum) => checksum_of(&body) == checksum,
    };
    if !is_sound {
        return Err(EntryError::Body);
    }
    let rendition = Rendition::with_digest(body, header.digest, header.spec, header.rung, header.lineage);
    Ok(rendition.with_manifest(header.placement).with_smaller(header.smaller_as).with_making(header.making))
}

/// As [`decode`], of what other machines may have written: proven by its digest, or refused.
pub(super) fn decode_shared(file: &Bytes, key: RenditionKey) -> Result<Rendition, EntryError> {
    match file.first_chunk().map(form_of) {
        Some(Ok(Form::Checksum)) => Err(EntryError::Version(Form::Checksum.version())),
        _ => decode(file, key),
    }
}

/// Makes the checksums of a damaged file right, so that a fuzzer reaches what lies behind them. Names the key it is
/// then under; `None` where the file is too short for any.
pub(crate) fn reseal(file: &mut [u8]) -> Option<RenditionKey> {
    let (header, body) = file.split_first_chunk_mut::<HEADER_BYTES>()?;
    let digest = Digest::of_bytes(body);
    let (fields, proof) = header.split_first_chunk_mut::<PROOF_AT>()?;
    fields[PROOF_AT - digest.as_bytes().len()..].copy_from_slice(digest.as_bytes());
    // One of an unknown version is refused however it is sealed.
    let form = form_of(fields).unwrap_or(Form::Digest);
    proof.copy_from_slice(&form.proof(fields, body));
    let mut fields = Fields(fields);
    let _before: [u8; KEY_AT] = fields.take();
    Some(RenditionKey::from_raw(fields.take()))
}

/// What a sound header says.
#[derive(Debug)]
pub(super) struct Header {
    rung: Rung,
    smaller_as: Option<Format>,
    placement: Placement,
    spec: RenditionSpec,
    lineage: Lineage,
    making: Option<Making>,
    body_bytes: u64,
    digest: Digest,
    proven_by: ProvenBy,
}

/// What the body is held against.
#[derive(Debug)]
enum ProvenBy {
    /// The header's.
    Digest,
    Checksum([u8; CHECKSUM_BYTES]),
}

impl Header {
    pub(super) const fn created_unix_ms(&self) -> u64 {
        self.lineage.created_unix_ms
    }

    pub(super) const fn precedence(&self) -> Precedence {
        Precedence { generation: self.lineage.generation, rung: self.rung }
    }

    pub(super) const fn facts(&self) -> FileFacts {
        FileFacts { rung: self.rung, bytes: self.body_bytes, making: self.making, generation: self.lineage.generation }
    }
}

pub(super) fn decode_header(file: &[u8], key: RenditionKey) -> Result<Header, EntryError> {
    let (sealed, rest) = file.split_first_chunk::<PROOF_AT>().ok_or(EntryError::Short(file.len()))?;
    let proof = rest.first_chunk::<PROOF_BYTES>().ok_or(EntryError::Short(file.len()))?;
    let mut fields = Fields(sealed);
    if fields.take::<8>() != *MAGIC {
        return Err(EntryError::Magic);
    }
    // Before the seal, which another version may keep elsewhere.
    let _version: [u8; 4] = fields.take();
    let (proven_by, expected) = match form_of(sealed)? {
        Form::Digest => (ProvenBy::Digest, seal_of(&[sealed])),
        Form::Checksum => {
            let checksum = Fields(proof).take();
            (ProvenBy::Checksum(checksum), checksum_proof(sealed, checksum))
        }
    };
    if expected != *proof {
        return Err(EntryError::Header);
    }
    let width_px = u32::from_le_bytes(fields.take());
    let height_px = u32::from_le_bytes(fields.take());
    let [format, quality, rung, placement] = fields.take();
    let format = format_of(format).ok_or(EntryError::Field("format"))?;
    let quality = Quality::new(quality).ok_or(EntryError::Field("quality"))?;
    let (rung, smaller_as) = rung_of(rung).ok_or(EntryError::Field("rung"))?;
    let placement = placement_of(placement).ok_or(EntryError::Field("place of the manifest"))?;
    let shape = Shape::from_code(fields.take()).ok_or(EntryError::Field("shape"))?;
    let body_bytes = u64::from(u32::from_le_bytes(fields.take()));
    let making = match u32::from_le_bytes(fields.take()) {
        0 => None,
        code => Some(Making::from_code(code).ok_or(EntryError::Field("making"))?),
    };
    let created_unix_ms = u64::from_le_bytes(fields.take());
    let generation = u64::from_le_bytes(fields.take());
    if RenditionKey::from_raw(fields.take()) != key {
        return Err(EntryError::Key);
    }
    let (master, recipe) = (MasterId::from_raw(fields.take()), RecipeId::from_raw(fields.take()));
    let digest = Digest::from_hash(&blake3::Hash::from_bytes(fields.take()));
    let spec = RenditionSpec { width_px, height_px, shape, format, quality };
    let lineage = Lineage { key, master, recipe, created_unix_ms, generation };
    Ok(Header { rung, smaller_as, placement, spec, lineage, making, body_bytes, digest, proven_by })
}

fn form_of(fields: &[u8; PROOF_AT]) -> Result<Form, EntryError> {
    let mut fields = Fields(&fields[MAGIC.len()..]);
    let version = u32::from_le_bytes(fields.take());
    Form::ALL.into_iter().find(|form| form.version() == version).ok_or(EntryError::Version(version))
}

/// Reads a part front to back; what is taken fits in it, so running out cannot happen.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let Some((field, rest)) = self.0.split_first_chunk::<N>() else { return [0; N] };
        self.0 = rest;
        *field
    }
}

/// Writes `field` at the start of `rest` and moves past it.
fn put(rest: &mut &mut [u8], field: &[u8]) {
    let (here, after) = std::mem::take(rest).split_at_mut(field.len());
    here.copy_from_slice(field);
    *rest = after;
}

fn format_of(code: u8) -> Option<Format> {
    Format::ALL.into_iter().find(|format| format_code(*format) == code)
}

/// 0 is also what versions up to 0.1 wrote, which signed nothing.
const fn placement_code(placement: Placement) -> u8 {
    match placement {
        Placement::None => 0,
        Placement::Embedded => 1,
        Placement::Beside => 2,
    }
}

fn placement_of(code: u8) -> Option<Placement> {
    Placement::ALL.into_iter().find(|placement| placement_code(*placement) == code)
}

/// 3 since a final AVIF may be larger than the WebP of the same picture, 4 since a quick one may be hurried.
const fn rung_code(rendition: &Rendition) -> u8 {
    match (rendition.rung, rendition.smaller_as) {
        (Rung::Hurried, _) => 4,
        (Rung::Quick, _) => 1,
        (Rung::Final, Some(Format::Webp)) => 3,
        (Rung::Final, _) => 2,
    }
}

const fn rung_of(code: u8) -> Option<(Rung, Option<Format>)> {
    match code {
        1 => Some((Rung::Quick, None)),
        2 => Some((Rung::Final, None)),
        3 => Some((Rung::Final, Some(Format::Webp))),
        4 => Some((Rung::Hurried, None)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::rendition::testing::rendition;
    use super::*;
    use crate::render::Score;

    const KEY: RenditionKey = RenditionKey::from_raw([5; 16]);

    fn file(body: &[u8]) -> Vec<u8> {
        file_of(&rendition(body, Rung::Final), Form::Checksum)
    }

    fn file_of(rendition: &Rendition, form: Form) -> Vec<u8> {
        [&encode_header(KEY, rendition, form)[..], &rendition.body].concat()
    }

    fn decoded(file: &[u8]) -> Result<Rendition, EntryError> {
        decode(&Bytes::copy_from_slice(file), KEY)
    }

    #[test]
    fn an_entry_comes_back_as_it_was() {
        for rung in Rung::ALL {
            for format in Format::ALL {
                let mut wrote = rendition(b"some body", rung);
                wrote.spec.format = format;
                wrote.generation = 0x0102_0304_0506_0708;
                wrote.spec.shape = Shape::Padded { background: [1, 2, format as u8] };
                for form in Form::ALL {
                    let read = decoded(&file_of(&wrote, form)).unwrap();
                    assert_eq!(read.body, wrote.body);
                    assert_eq!((read.spec, read.rung, read.digest), (wrote.spec, wrote.rung, wrote.digest));
                    assert_eq!((read.master, read.recipe), (wrote.master, wrote.recipe));
                    assert_eq!((read.created_unix_ms, read.generation), (wrote.created_unix_ms, wrote.generation));
                    assert_eq!(read.etag(), wrote.etag());
                }
            }
        }
    }

    #[test]
    fn a_format_in_which_it_is_smaller_comes_back_with_a_final_rung() {
        for (rung, known) in [(Rung::Final, Some(Format::Webp)), (Rung::Final, None), (Rung::Quick, None)] {
            let wrote = rendition(b"some body", rung).with_smaller(Some(Format::Webp).filter(|_| known.is_some()));
            let read = decoded(&file_of(&wrote, Form::Checksum)).unwrap();
            assert_eq!((read.rung, read.smaller_as), (rung, known));
        }
        assert_eq!(rendition(b"some body", Rung::Quick).with_smaller(Some(Format::Webp)).smaller_as, None);
    }

    #[test]
    fn what_its_making_came_to_comes_back_and_files_of_before_have_none() {
        for score in [Some(Score::of(71.3)), None] {
            let making = Some(Making { encode_ms: 640, score });
            let wrote = rendition(b"some body", Rung::Final).with_making(making);
            let read = decoded(&file_of(&wrote, Form::Checksum)).unwrap();
            assert_eq!(read.making, making);
        }
        // As it was written when the length had eight bytes.
        let as_now = file_of(&rendition(b"some body", Rung::Final), Form::Digest);
        let mut former = as_now.clone();
        former[32..40].copy_from_slice(&9_u64.to_le_bytes());
        assert_eq!(former, as_now);
        assert_eq!(decoded(&former).unwrap().making, None);
    }

    #[test]
    fn a_making_that_is_none_is_refused() {
        let mut file = file(b"some body");
        file[36] = 7;
        let key = reseal(&mut file).expect("an entry");
        assert_eq!(decode(&file.into(), key).unwrap_err(), EntryError::Field("making"));
    }

    #[test]
    fn every_single_bit_counts() {
        for form in Form::ALL {
            let file = file_of(&rendition(b"a body of some bytes", Rung::Final), form);
            for bit in 0..file.len() * 8 {
                let mut damaged = file.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                assert!(decoded(&damaged).is_err(), "{form:?}: bit {bit}");
            }
        }
    }

    /// What a disk holds that a former version filled.
    #[test]
    fn an_entry_of_a_former_version_is_read() {
        let wrote = rendition(b"some body", Rung::Final);
        let mut former = file_of(&wrote, Form::Digest);
        assert_eq!(former[8..12], 3_u32.to_le_bytes());
        assert_eq!(former[136..168], *blake3::hash(&former[..136]).as_bytes());
        assert_eq!(decoded(&former).unwrap().body, wrote.body);
        former[8] = 4;
        assert_eq!(decoded(&former).unwrap_err(), EntryError::Header, "a version is part of what is sealed");
    }

    #[test]
    fn every_truncation_and_every_addition_counts() {
        let file = file(b"a body of some bytes");
        for length in 0..file.len() {
            assert!(decoded(&file[..length]).is_err(), "{length} bytes");
        }
        assert_eq!(decoded(&[&file[..], b"x"].concat()).unwrap_err(), EntryError::Length { expected: 20, actual: 21 });
    }

    #[test]
    fn a_sound_entry_of_another_key_or_version_is_refused() {
        let file = file(b"body");
        assert_eq!(decode(&file.clone().into(), RenditionKey::from_raw([6; 16])).unwrap_err(), EntryError::Key);
        for version in [1, 2, 5] {
            let mut other = file.clone();
            other[8] = version;
            assert_eq!(decoded(&other).unwrap_err(), EntryError::Version(u32::from(version)));
        }
    }

    #[test]
    fn what_other_machines_may_have_written_is_proven_by_its_digest() {
        let of = |form| Bytes::from(file_of(&rendition(b"some body", Rung::Final), form));
        assert!(decode_shared(&of(Form::Digest), KEY).is_ok());
        assert_eq!(decode_shared(&of(Form::Checksum), KEY).unwrap_err(), EntryError::Version(4));
        assert_eq!(decode_shared(&Bytes::new(), KEY).unwrap_err(), EntryError::Short(0));
    }

    proptest! {
        #[test]
        fn any_damage_to_any_region_is_found(
            body in proptest::collection::vec(any::<u8>(), 0..400),
            start in any::<prop::sample::Index>(),
            noise in proptest::collection::vec(any::<u8>(), 1..64),
        ) {
            let file = file(&body);
            let start = start.index(file.len());
            let mut damaged = file.clone();
            for (byte, noise) in damaged[start..].iter_mut().zip(&noise) {
                *byte = *noise;
            }
            // Noise that happens to equal what it overwrites is no damage.
            prop_assert_eq!(decoded(&damaged).is_ok(), damaged == file);
        }

        #[test]
        fn arbitrary_bytes_never_decode_or_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            prop_assert!(decoded(&bytes).is_err());
        }
    }
}
