//! Datasets of the IPTC Information Interchange Model 4.2, record 2. Text that is no UTF-8 is taken for Latin-1, as most old
//! writers left it.

use super::Field;
use crate::octets::Reader;

const DATE_CREATED: u8 = 55;
const BY_LINE: u8 = 80;
const CREDIT: u8 = 110;
const COPYRIGHT_NOTICE: u8 = 116;
/// Most datasets that are read.
const DATASETS_MAX: usize = 512;

pub(super) fn read(datasets: &[u8], learn: &mut dyn FnMut(Field, &str)) -> Result<(), String> {
    let mut reader = Reader::new(datasets);
    let short = |_| "a dataset ends after its block does".to_owned();
    for _ in 0..DATASETS_MAX {
        if reader.is_empty() {
            return Ok(());
        }
        let [marker, record, dataset] = reader.array().map_err(short)?;
        if marker != 0x1c {
            // Padding behind the last one.
            return Ok(());
        }
        let length = reader.u16().map_err(short)?;
        if length & 0x8000 != 0 {
            return Err("it holds a dataset of the extended form".to_owned());
        }
        let value = reader.take(usize::from(length)).map_err(short)?;
        let field = match (record, dataset) {
            (2, DATE_CREATED) => Field::Created,
            (2, BY_LINE) => Field::Creator,
            (2, CREDIT) => Field::Credit,
            (2, COPYRIGHT_NOTICE) => Field::Copyright,
            _ => continue,
        };
        learn(field, &text(value));
    }
    Ok(())
}

fn text(value: &[u8]) -> String {
    std::str::from_utf8(value).map_or_else(|_| value.iter().map(|byte| char::from(*byte)).collect(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latin_1_is_read_and_lengths_are_checked() {
        let mut told = Vec::new();
        read(b"\x1c\x02\x50\0\x04M\xfcll", &mut |field, text| told.push((field, text.to_owned()))).expect("whole");
        assert_eq!(told, [(Field::Creator, "Müll".to_owned())]);
        assert!(read(b"\x1c\x02\x50\0\x05M", &mut |_, _| {}).is_err());
        assert!(read(b"\x1c\x02\x50\x80\x04M", &mut |_, _| {}).is_err());
    }
}
