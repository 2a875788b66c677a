//! The frame of a manifest store, looked at before the library reads it.
//!
//! The library's parser trusts lengths where they contradict each other: it panics in one build and reads on at the wrong
//! place in another. A store whose boxes do not fit into each other to the byte never reaches it. What the boxes hold is the
//! library's to judge.
//!
//! Source: ISO 19566-5 (JUMBF): superboxes (`jumb`) begin with a description (`jumd`: type, toggles, label, and what the
//! toggles announce).

/// Deepest nesting. C2PA needs four levels: store, manifest, assertion store, assertion.
const DEPTH_MAX: usize = 8;
/// Most boxes of a store: a manifest with all its assertions has about thirty.
const BOXES_MAX: usize = 4096;
const HEADER_BYTES: usize = 8;
/// Type of a C2PA manifest store.
const STORE_TYPE: [u8; 16] = *b"c2pa\x00\x11\x00\x10\x80\x00\x00\xaa\x00\x38\x9b\x71";

const TOGGLE_LABEL: u8 = 0x03;
const TOGGLE_ID: u8 = 0x04;
const TOGGLE_SIGNATURE: u8 = 0x08;
const TOGGLE_PRIVATE: u8 = 0x10;

/// Why bytes are no manifest store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameFault {
    #[error("it is no C2PA manifest store")]
    Type,
    #[error("a box of it does not fit into the one around it")]
    Length,
    #[error("the description of a box of it is damaged")]
    Description,
    #[error("its boxes are nested deeper than {DEPTH_MAX} levels, or more than {BOXES_MAX}")]
    Bounds,
}

/// The box in front of some bytes, and what is behind it.
struct Front<'a> {
    kind: [u8; 4],
    body: &'a [u8],
    behind: &'a [u8],
}

impl<'a> Front<'a> {
    /// Boxes of 4 GiB, and boxes without an end, are in no manifest.
    fn of(bytes: &'a [u8]) -> Result<Self, FrameFault> {
        let (length, rest) = bytes.split_first_chunk::<4>().ok_or(FrameFault::Length)?;
        let (kind, rest) = rest.split_first_chunk::<4>().ok_or(FrameFault::Length)?;
        let body_bytes = (u32::from_be_bytes(*length) as usize).checked_sub(HEADER_BYTES).ok_or(FrameFault::Length)?;
        let (body, behind) = rest.split_at_checked(body_bytes).ok_or(FrameFault::Length)?;
        Ok(Self { kind: *kind, body, behind })
    }
}

/// Whether `bytes` are one manifest store and nothing else.
pub(super) fn check(bytes: &[u8]) -> Result<(), FrameFault> {
    let store = Front::of(bytes)?;
    if &store.kind != b"jumb" || !Front::of(store.body)?.body.starts_with(&STORE_TYPE) {
        return Err(FrameFault::Type);
    }
    if !store.behind.is_empty() {
        return Err(FrameFault::Length);
    }
    check_superbox(store.body, 1, &mut 0)
}

/// The label of the last manifest in a store, which is the active one (C2PA §11.1.4.2); `None` where the store is damaged.
pub(super) fn active_label(bytes: &[u8]) -> Option<&str> {
    let store = Front::of(bytes).ok()?;
    let mut rest = Front::of(store.body).ok()?.behind;
    let mut label = None;
    while !rest.is_empty() {
        let manifest = Front::of(rest).ok()?;
        let description = Front::of(manifest.body).ok()?;
        label = description.body.get(STORE_TYPE.len() + 1..)?.split(|byte| *byte == 0).next();
        rest = manifest.behind;
    }
    std::str::from_utf8(label?).ok()
}

fn check_superbox(body: &[u8], depth: usize, count: &mut usize) -> Result<(), FrameFault> {
    if depth > DEPTH_MAX {
        return Err(FrameFault::Bounds);
    }
    let description = Front::of(body)?;
    if &description.kind != b"jumd" {
        return Err(FrameFault::Description);
    }
    check_description(description.body)?;
    let mut rest = description.behind;
    while !rest.is_empty() {
        *count += 1;
        if *count > BOXES_MAX {
            return Err(FrameFault::Bounds);
        }
        let child = Front::of(rest)?;
        if &child.kind == b"jumb" {
            check_superbox(child.body, depth + 1, count)?;
        }
        rest = child.behind;
    }
    Ok(())
}

fn check_description(body: &[u8]) -> Result<(), FrameFault> {
    let damaged = FrameFault::Description;
    let (toggles, rest) = body.get(STORE_TYPE.len()..).and_then(<[u8]>::split_first).ok_or(damaged)?;
    if toggles & TOGGLE_LABEL != TOGGLE_LABEL {
        return Err(damaged);
    }
    let label_end = rest.iter().position(|byte| *byte == 0).ok_or(damaged)?;
    let fixed = [(TOGGLE_ID, 4), (TOGGLE_SIGNATURE, 32)];
    let announced: usize = fixed.iter().filter(|(toggle, _)| toggles & toggle != 0).map(|(_, bytes)| bytes).sum();
    let rest = rest.get(label_end + 1 + announced..).ok_or(damaged)?;
    let behind = if toggles & TOGGLE_PRIVATE == 0 { rest } else { Front::of(rest).map_err(|_| damaged)?.behind };
    if behind.is_empty() { Ok(()) } else { Err(damaged) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boxed(kind: &[u8; 4], body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + HEADER_BYTES).expect("small").to_be_bytes();
        [&length[..], kind, body].concat()
    }

    fn described(toggles: u8, behind_label: &[u8]) -> Vec<u8> {
        boxed(b"jumd", &[&STORE_TYPE[..], &[toggles], b"c2pa\0", behind_label].concat())
    }

    fn store(description: &[u8], children: &[u8]) -> Vec<u8> {
        boxed(b"jumb", &[description, children].concat())
    }

    #[test]
    fn a_store_fits_to_the_byte() {
        let plain = described(TOGGLE_LABEL, &[]);
        assert_eq!(check(&store(&plain, &[])), Ok(()));
        assert_eq!(check(&store(&plain, &boxed(b"cbor", b"x"))), Ok(()));
        let salt = boxed(b"c2sh", &[7; 16]);
        assert_eq!(check(&store(&described(TOGGLE_LABEL | TOGGLE_PRIVATE, &salt), &[])), Ok(()));
        let all = [&[0; 36][..], &salt].concat();
        let toggles = TOGGLE_LABEL | TOGGLE_ID | TOGGLE_SIGNATURE | TOGGLE_PRIVATE;
        assert_eq!(check(&store(&described(toggles, &all), &[])), Ok(()));
    }

    #[test]
    fn the_last_manifest_is_the_active_one() {
        let manifest = |label: &str| {
            let description = boxed(b"jumd", &[&STORE_TYPE[..], &[TOGGLE_LABEL], label.as_bytes(), b"\0"].concat());
            boxed(b"jumb", &description)
        };
        let both = [manifest("urn:c2pa:1"), manifest("urn:c2pa:2")].concat();
        assert_eq!(active_label(&store(&described(TOGGLE_LABEL, &[]), &both)), Some("urn:c2pa:2"));
        assert_eq!(active_label(&store(&described(TOGGLE_LABEL, &[]), &[])), None);
        assert_eq!(active_label(b"jumb"), None);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let plain = described(TOGGLE_LABEL, &[]);
        let good = store(&plain, &boxed(b"cbor", b"x"));
        for end in 0..good.len() {
            assert!(check(&good[..end]).is_err(), "{end}");
        }
        assert_eq!(check(&[&good[..], b"\0"].concat()), Err(FrameFault::Length));
        assert_eq!(check(&boxed(b"jumb", &boxed(b"jumd", &[0; 20]))), Err(FrameFault::Type));
        for (toggles, behind) in [
            (0, &b""[..]),
            (TOGGLE_LABEL, b"x"),
            (TOGGLE_LABEL | TOGGLE_ID, b"xyz"),
            (TOGGLE_LABEL | TOGGLE_PRIVATE, b""),
            (TOGGLE_LABEL | TOGGLE_PRIVATE, b"\0\0\0\x07c2sh"),
            (TOGGLE_LABEL | TOGGLE_PRIVATE, b"\0\0\0\x08c2shx"),
        ] {
            let refused = check(&store(&described(toggles, behind), &[]));
            assert_eq!(refused, Err(FrameFault::Description), "{toggles} {behind:?}");
        }
    }

    #[test]
    fn depth_and_number_are_bounded() {
        let plain = described(TOGGLE_LABEL, &[]);
        let nested = |depth: usize| (1..depth).fold(store(&plain, &[]), |inner, _| store(&plain, &inner));
        assert_eq!(check(&nested(DEPTH_MAX)), Ok(()));
        assert_eq!(check(&nested(DEPTH_MAX + 1)), Err(FrameFault::Bounds));
        assert_eq!(check(&nested(1000)), Err(FrameFault::Bounds));
        let many = |count: usize| store(&plain, &boxed(b"free", b"").repeat(count));
        assert_eq!(check(&many(BOXES_MAX)), Ok(()));
        assert_eq!(check(&many(BOXES_MAX + 1)), Err(FrameFault::Bounds));
    }
}
