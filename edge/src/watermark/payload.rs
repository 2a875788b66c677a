//! What the mark says: 64 bits, and the check that guards them on their way through the pixels.
//!
//! ```text
//!  4 bits  version    of this layout and of the pattern; a later design takes the next number
//! 12 bits  key id     derived from the secret: which of the fleet's keys wrote it, and a check on the decoder
//! 48 bits  master     first 48 bits of the master id
//! 16 bits  CRC        CRC-16/IBM-3740 (polynomial 0x1021, register of ones) of the 64 bits above; in the pixels only
//! ```
//!
//! 48 bits of the master id tell a million masters apart with a chance of 0.2 % that any two of them collide, and a
//! resolver that finds two shows both. 12 bits of key id suffice: a fleet has a handful of keys, and a detector holds
//! the secrets anyway; an id never chooses the key, it only confirms it. Version and key id are known before decoding,
//! so they are 16 bits that a false detection has to hit by chance, and the CRC another 16.

use std::fmt;

/// Bits that go through the pixels: the payload and its CRC.
pub(super) const FRAME_BITS: usize = 80;
/// The only version so far.
pub(super) const VERSION: u8 = 1;

const KEY_BITS: u32 = 12;
const MASTER_BITS: u32 = 48;

/// Which secret wrote a mark: 12 bits derived from it, public.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(u16);

impl KeyId {
    /// The first 12 bits of a hash.
    pub(super) const fn from_hash(hash: [u8; 2]) -> Self {
        Self(u16::from_be_bytes(hash) >> (16 - KEY_BITS))
    }

    /// Below 4096.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for KeyId {
    /// Three hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:03x}", self.0)
    }
}

/// The first 48 bits of a master id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MasterPrefix([u8; 6]);

impl MasterPrefix {
    /// From the 128 bits of a master id.
    #[must_use]
    pub const fn of(master_id: &[u8; 16]) -> Self {
        let [a, b, c, d, e, f, ..] = *master_id;
        Self([a, b, c, d, e, f])
    }

    #[must_use]
    pub const fn bytes(self) -> [u8; 6] {
        self.0
    }

    /// Whether a master id begins with it.
    #[must_use]
    pub fn begins(self, master_id: &[u8; 16]) -> bool {
        Self::of(master_id) == self
    }
}

impl fmt::Display for MasterPrefix {
    /// Twelve hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for MasterPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MasterPrefix({self})")
    }
}

/// The 64 bits of a mark, always of the version that this build writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Payload {
    key: KeyId,
    master: MasterPrefix,
}

impl Payload {
    pub(super) const fn new(key: KeyId, master: MasterPrefix) -> Self {
        Self { key, master }
    }

    #[must_use]
    pub const fn key(self) -> KeyId {
        self.key
    }

    #[must_use]
    pub const fn master(self) -> MasterPrefix {
        self.master
    }

    #[must_use]
    pub const fn version(self) -> u8 {
        VERSION
    }

    /// Version, key id and master prefix from the most significant bit down.
    #[must_use]
    pub fn to_bits(self) -> u64 {
        let [a, b, c, d, e, f] = self.master.0;
        let master = u64::from_be_bytes([0, 0, a, b, c, d, e, f]);
        u64::from(VERSION) << (KEY_BITS + MASTER_BITS) | u64::from(self.key.0) << MASTER_BITS | master
    }

    /// `None` for another version than this build writes.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Option<Self> {
        if bits >> (KEY_BITS + MASTER_BITS) != VERSION as u64 {
            return None;
        }
        let [_, _, a, b, c, d, e, f] = bits.to_be_bytes();
        let key = (bits >> MASTER_BITS) as u16 & ((1 << KEY_BITS) - 1);
        Some(Self { key: KeyId(key), master: MasterPrefix([a, b, c, d, e, f]) })
    }

    pub(super) fn frame(self) -> [bool; FRAME_BITS] {
        let bits = self.to_bits();
        let word = u128::from(bits) << 16 | u128::from(crc16(bits));
        std::array::from_fn(|at| word >> (FRAME_BITS - 1 - at) & 1 == 1)
    }

    /// `None` unless the CRC and the version are right.
    pub(super) fn from_frame(frame: &[bool; FRAME_BITS]) -> Option<Self> {
        let word = frame.iter().fold(0u128, |word, bit| word << 1 | u128::from(*bit));
        #[allow(clippy::cast_possible_truncation, reason = "the two halves of the frame")]
        let (bits, crc) = ((word >> 16) as u64, word as u16);
        if crc16(bits) == crc { Self::from_bits(bits) } else { None }
    }
}

/// CRC-16/IBM-3740: the register begins with ones, so that a word of nothing but zeros is no valid frame.
fn crc16(bits: u64) -> u16 {
    bits.to_be_bytes().iter().fold(u16::MAX, |register, byte| {
        (0..8).fold(register ^ u16::from(*byte) << 8, |register, _| {
            if register & 0x8000 == 0 { register << 1 } else { register << 1 ^ 0x1021 }
        })
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn payload(key: [u8; 2], master_id: [u8; 16]) -> Payload {
        Payload::new(KeyId::from_hash(key), MasterPrefix::of(&master_id))
    }

    proptest! {
        #[test]
        fn a_payload_comes_back_from_its_bits_and_its_frame(key: [u8; 2], master_id: [u8; 16]) {
            let payload = payload(key, master_id);
            prop_assert_eq!(Payload::from_bits(payload.to_bits()), Some(payload));
            prop_assert_eq!(Payload::from_frame(&payload.frame()), Some(payload));
            prop_assert!(payload.master().begins(&master_id));
        }

        #[test]
        fn a_frame_with_up_to_three_wrong_bits_is_refused(
            key: [u8; 2],
            master_id: [u8; 16],
            wrong in proptest::collection::hash_set(0..FRAME_BITS, 1..=3),
        ) {
            let mut frame = payload(key, master_id).frame();
            wrong.into_iter().for_each(|at| frame[at] = !frame[at]);
            prop_assert_eq!(Payload::from_frame(&frame), None);
        }
    }

    #[test]
    fn the_layout_is_version_then_key_then_master() {
        let payload = payload([0xab, 0xcf], [0x11; 16]);
        assert_eq!(format!("{:016x}", payload.to_bits()), "1abc111111111111");
        assert_eq!((payload.key().to_string(), payload.master().to_string()), ("abc".into(), "111111111111".into()));
    }

    #[test]
    fn another_version_and_frames_of_one_bit_are_no_payload() {
        assert_eq!(Payload::from_bits(2 << 60), None);
        assert_eq!(Payload::from_frame(&[false; FRAME_BITS]), None);
        assert_eq!(Payload::from_frame(&[true; FRAME_BITS]), None);
    }
}
