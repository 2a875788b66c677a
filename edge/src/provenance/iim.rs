//! Datasets of the IPTC Information Interchange Model 4.2, record 2, for JPEG.
//!
//! The model bounds its fields; a longer text is cut at a character. XMP carries it whole, and readers that know both
//! prefer it (MWG §5.2). Record 1 says that the text is UTF-8.

use super::Marking;
use crate::words::Moment;
use crate::words::calendar::Civil;

const DATE_CREATED: u8 = 55;
const TIME_CREATED: u8 = 60;
const BY_LINE: u8 = 80;
const CITY: u8 = 90;
const SUBLOCATION: u8 = 92;
const PROVINCE: u8 = 95;
const COUNTRY_CODE: u8 = 100;
const COUNTRY: u8 = 101;
const CREDIT: u8 = 110;
const COPYRIGHT_NOTICE: u8 = 116;

/// Record 1, dataset 90, *Coded Character Set*: the ISO 2022 escape sequence of UTF-8.
const UTF_8: [u8; 8] = [0x1c, 1, 90, 0, 3, 0x1b, b'%', b'G'];

/// Empty where there is nothing to say.
pub(super) fn datasets(marking: &Marking, created: Option<Moment>) -> Vec<u8> {
    let place = &marking.location;
    // The model knows codes of three letters only.
    let country_code = place.country_code.clone().filter(|code| code.len() == 3);
    let mut out = Vec::new();
    if let Some(created) = created {
        let Civil { year, month, day, hour, minute, second } = created.civil();
        push(&mut out, DATE_CREATED, &format!("{year:04}{month:02}{day:02}"), 8);
        push(&mut out, TIME_CREATED, &format!("{hour:02}{minute:02}{second:02}+0000"), 11);
    }
    for (dataset, text, bytes_max) in [
        (BY_LINE, &marking.creator, 32),
        (CITY, &place.city, 32),
        (SUBLOCATION, &place.sublocation, 32),
        (PROVINCE, &place.region, 32),
        (COUNTRY_CODE, &country_code, 3),
        (COUNTRY, &place.country, 64),
        (CREDIT, &marking.credit, 32),
        (COPYRIGHT_NOTICE, &marking.copyright, 128),
    ] {
        if let Some(text) = text {
            push(&mut out, dataset, text, bytes_max);
        }
    }
    if out.is_empty() { out } else { [&UTF_8[..], &out].concat() }
}

fn push(out: &mut Vec<u8>, dataset: u8, text: &str, bytes_max: usize) {
    let mut bytes = text.len().min(bytes_max);
    while !text.is_char_boundary(bytes) {
        bytes -= 1;
    }
    let text = &text[..bytes];
    // At most 128 bytes, which is far below the 32 KiB of a standard dataset.
    let [high, low] = u16::try_from(text.len()).unwrap_or_default().to_be_bytes();
    out.extend_from_slice(&[0x1c, 2, dataset, high, low]);
    out.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut_at_a_character() {
        let marking = Marking { creator: Some("ä".repeat(40) + "z"), ..Marking::default() };
        let out = datasets(&marking, None);
        assert_eq!(out[..8], UTF_8);
        assert_eq!(out[8..13], [0x1c, 2, 80, 0, 32]);
        assert_eq!(std::str::from_utf8(&out[13..]), Ok("ä".repeat(16).as_str()));
        assert!(datasets(&Marking::default(), None).is_empty());
    }

    #[test]
    fn the_date_is_written_without_separators() {
        let out = datasets(&Marking::default(), Moment::from_unix_s(1_800_000_000));
        let text = String::from_utf8_lossy(&out[8..]).into_owned();
        assert!(text.contains("20270115") && text.ends_with("080000+0000"), "{text:?}");
    }
}
