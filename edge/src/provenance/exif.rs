//! The EXIF block: the three statements that MWG wants in EXIF as well as in XMP.
//!
//! A TIFF structure, least byte first, with two directories (CIPA DC-008 §4.6). Text is UTF-8 in fields of type ASCII, as
//! MWG §5.3 advises: readers take it so, and few know the UTF-8 type of EXIF 3.0.

use super::Marking;
use crate::words::Moment;
use crate::words::calendar::Civil;

const ASCII: u16 = 2;
const SHORT: u16 = 3;
const LONG: u16 = 4;
const RATIONAL: u16 = 5;
const UNDEFINED: u16 = 7;

const X_RESOLUTION: u16 = 0x011a;
const Y_RESOLUTION: u16 = 0x011b;
const RESOLUTION_UNIT: u16 = 0x0128;
const ARTIST: u16 = 0x013b;
const YCBCR_POSITIONING: u16 = 0x0213;
const COPYRIGHT: u16 = 0x8298;
const EXIF_DIRECTORY: u16 = 0x8769;
const EXIF_VERSION: u16 = 0x9000;
const DATE_TIME_ORIGINAL: u16 = 0x9003;
const OFFSET_TIME_ORIGINAL: u16 = 0x9011;
const COMPONENTS_CONFIGURATION: u16 = 0x9101;
const FLASHPIX_VERSION: u16 = 0xa000;
const COLOR_SPACE: u16 = 0xa001;
const PIXEL_X_DIMENSION: u16 = 0xa002;
const PIXEL_Y_DIMENSION: u16 = 0xa003;

/// Byte order, the number 42 and the first directory's place.
const HEADER: [u8; 8] = [b'I', b'I', 42, 0, 8, 0, 0, 0];
/// Tag, type, count, and the value or its place.
const ENTRY_BYTES: usize = 12;

struct Entry {
    tag: u16,
    kind: u16,
    value: Vec<u8>,
}

impl Entry {
    fn text(tag: u16, text: &str) -> Self {
        Self { tag, kind: ASCII, value: [text.as_bytes(), b"\0"].concat() }
    }

    fn short(tag: u16, value: u16) -> Self {
        Self { tag, kind: SHORT, value: value.to_le_bytes().to_vec() }
    }

    fn long(tag: u16, value: u32) -> Self {
        Self { tag, kind: LONG, value: value.to_le_bytes().to_vec() }
    }

    /// 72 to the inch: what a file says that knows no size on paper.
    fn resolution(tag: u16) -> Self {
        Self { tag, kind: RATIONAL, value: [72_u32.to_le_bytes(), 1_u32.to_le_bytes()].concat() }
    }
}

/// `None` where there is nothing to say.
pub(super) fn block(marking: &Marking, created: Option<Moment>) -> Option<Vec<u8>> {
    is_told(marking, created).then(|| directories(statements(marking), created, Vec::new()))
}

/// The same for JPEG, where the standard demands some entries that say nothing (§4.6.8, "mandatory").
pub(super) fn jpeg_block(marking: &Marking, created: Option<Moment>, size_px: (u32, u32)) -> Option<Vec<u8>> {
    let mut main = statements(marking);
    main.extend([
        Entry::resolution(X_RESOLUTION),
        Entry::resolution(Y_RESOLUTION),
        Entry::short(RESOLUTION_UNIT, 2),   // inches
        Entry::short(YCBCR_POSITIONING, 1), // centred
    ]);
    let dated = vec![
        Entry { tag: COMPONENTS_CONFIGURATION, kind: UNDEFINED, value: vec![1, 2, 3, 0] }, // Y, Cb, Cr
        Entry { tag: FLASHPIX_VERSION, kind: UNDEFINED, value: b"0100".to_vec() },
        Entry::short(COLOR_SPACE, 1), // sRGB
        Entry::long(PIXEL_X_DIMENSION, size_px.0),
        Entry::long(PIXEL_Y_DIMENSION, size_px.1),
    ];
    is_told(marking, created).then(|| directories(main, created, dated))
}

const fn is_told(marking: &Marking, created: Option<Moment>) -> bool {
    marking.creator.is_some() || marking.copyright.is_some() || created.is_some()
}

fn statements(marking: &Marking) -> Vec<Entry> {
    let texts = [(ARTIST, &marking.creator), (COPYRIGHT, &marking.copyright)];
    texts.into_iter().filter_map(|(tag, text)| Some(Entry::text(tag, text.as_deref()?))).collect()
}

/// The main directory, and with a date the EXIF directory behind it.
fn directories(mut main: Vec<Entry>, created: Option<Moment>, mut more: Vec<Entry>) -> Vec<u8> {
    let Some(created) = created else { return [&HEADER[..], &directory(main, HEADER.len())].concat() };
    main.push(Entry { tag: EXIF_DIRECTORY, kind: LONG, value: vec![0; 4] });
    let at = HEADER.len() + length(&main);
    if let Some(pointer) = main.last_mut() {
        pointer.value = place(at).to_vec();
    }
    more.extend(dated(created));
    [&HEADER[..], &directory(main, HEADER.len()), &directory(more, at)].concat()
}

fn dated(created: Moment) -> [Entry; 3] {
    let Civil { year, month, day, hour, minute, second } = created.civil();
    let date = format!("{year:04}:{month:02}:{day:02} {hour:02}:{minute:02}:{second:02}");
    [
        Entry { tag: EXIF_VERSION, kind: UNDEFINED, value: b"0232".to_vec() },
        Entry::text(DATE_TIME_ORIGINAL, &date),
        Entry::text(OFFSET_TIME_ORIGINAL, "+00:00"),
    ]
}

/// Bytes of a directory with the values behind it.
fn length(entries: &[Entry]) -> usize {
    let values = entries.iter().map(|entry| entry.value.len()).filter(|bytes| *bytes > 4);
    2 + entries.len() * ENTRY_BYTES + 4 + values.map(|bytes| bytes.next_multiple_of(2)).sum::<usize>()
}

/// A directory that begins `at` bytes into the file, and the values that do not fit into its entries behind it.
fn directory(mut entries: Vec<Entry>, at: usize) -> Vec<u8> {
    entries.sort_by_key(|entry| entry.tag); // as TIFF wants them
    let mut values_at = at + 2 + entries.len() * ENTRY_BYTES + 4;
    let (mut out, mut values) = (count16(entries.len()).to_vec(), Vec::new());
    for Entry { tag, kind, value } in entries {
        out.extend_from_slice(&tag.to_le_bytes());
        out.extend_from_slice(&kind.to_le_bytes());
        let count = if matches!(kind, SHORT | LONG | RATIONAL) { 1 } else { value.len() };
        out.extend_from_slice(&place(count));
        if value.len() <= 4 {
            let mut inline = [0; 4];
            inline[..value.len()].copy_from_slice(&value);
            out.extend_from_slice(&inline);
        } else {
            out.extend_from_slice(&place(values_at));
            values.extend_from_slice(&value);
            if value.len() % 2 == 1 {
                values.push(0); // values begin at even places
            }
            values_at += value.len().next_multiple_of(2);
        }
    }
    out.extend_from_slice(&[0; 4]); // no further directory
    out.extend_from_slice(&values);
    out
}

#[allow(clippy::cast_possible_truncation, reason = "a handful of fields of at most 513 bytes")]
const fn place(bytes: usize) -> [u8; 4] {
    (bytes as u32).to_le_bytes()
}

#[allow(clippy::cast_possible_truncation, reason = "at most ten entries")]
const fn count16(count: usize) -> [u8; 2] {
    (count as u16).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_statements_there_is_no_block() {
        let credit_only = Marking { credit: Some("Agency".into()), ..Marking::default() };
        assert_eq!(block(&credit_only, None), None);
    }

    #[test]
    fn short_values_stand_in_their_entry_and_long_ones_behind() {
        let marking = Marking { creator: Some("Ab".into()), copyright: Some("© long".into()), ..Marking::default() };
        let block = block(&marking, None).expect("two statements");
        assert_eq!(&block[8..10], [2, 0]);
        assert_eq!(&block[10..22], [0x3b, 0x01, 2, 0, 3, 0, 0, 0, b'A', b'b', 0, 0]);
        let at = 8 + 2 + 24 + 4;
        assert_eq!(&block[22..34], [0x98, 0x82, 2, 0, 8, 0, 0, 0, at, 0, 0, 0]);
        assert_eq!(&block[usize::from(at)..], "© long\0".as_bytes());
    }

    #[test]
    fn the_second_directory_is_where_the_first_says() {
        let created = Moment::from_unix_s(1_800_000_000);
        let block = block(&Marking::default(), created).expect("a date");
        // One entry: the pointer.
        assert_eq!(&block[10..18], [0x69, 0x87, 4, 0, 1, 0, 0, 0]);
        let at = usize::from(block[18]);
        assert_eq!((at, &block[at..at + 4]), (26, &[3, 0, 0x00, 0x90][..]));
        let date_at = usize::from(block[at + 2 + 12 + 8]);
        assert_eq!(&block[date_at..date_at + 20], b"2027:01:15 08:00:00\0");
    }
}
