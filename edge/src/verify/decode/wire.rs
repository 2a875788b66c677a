//! What the decoding process answers: a line of JSON, then two bytes for each pixel.
//!
//! The parent believes nothing of it that it has not checked: the process has read a stranger's file.

use bildkante_shared::phash::PerceptualHash;
use serde::{Deserialize, Serialize};

use super::{DecodeFault, Grey, SAMPLES_PER_PX, check_size};

/// Longest first line.
pub(super) const HEAD_BYTES_MAX: usize = 4096;

#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Head {
    Picture { width_px: u32, height_px: u32, phash: PerceptualHash },
    Fault(DecodeFault),
}

pub(super) fn write(outcome: &Result<Grey, DecodeFault>) -> (Vec<u8>, &[u8]) {
    let (head, samples) = match outcome {
        Ok(grey) => {
            let Grey { width_px, height_px, phash, samples } = grey;
            (Head::Picture { width_px: *width_px, height_px: *height_px, phash: *phash }, samples.as_slice())
        }
        Err(fault) => (Head::Fault(fault.clone()), &[][..]),
    };
    // Numbers, digits and short texts have a form in JSON.
    let mut line = serde_json::to_vec(&head).unwrap_or_default();
    line.push(b'\n');
    (line, samples)
}

pub(super) fn read(mut answer: Vec<u8>, pixels_max: u64) -> Result<Grey, DecodeFault> {
    let nonsense = || DecodeFault::Crashed { how: "it answered nonsense".to_owned() };
    let head_bytes = answer.iter().take(HEAD_BYTES_MAX).position(|byte| *byte == b'\n').ok_or_else(nonsense)?;
    match serde_json::from_slice(&answer[..head_bytes]).map_err(|_| nonsense())? {
        Head::Fault(fault) => Err(fault),
        Head::Picture { width_px, height_px, phash } => {
            check_size(width_px, height_px, pixels_max)?;
            answer.drain(..=head_bytes);
            let is_whole = answer.len() as u64 == u64::from(width_px) * u64::from(height_px) * SAMPLES_PER_PX;
            is_whole.then_some(Grey { width_px, height_px, phash, samples: answer }).ok_or_else(nonsense)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(outcome: &Result<Grey, DecodeFault>) -> Vec<u8> {
        let (head, samples) = write(outcome);
        [&head, samples].concat()
    }

    #[test]
    fn pictures_and_faults_come_through() {
        let grey = Grey { width_px: 3, height_px: 2, phash: PerceptualHash::from_bytes([7; 32]), samples: vec![1; 12] };
        assert_eq!(read(answer(&Ok(grey.clone())), 6), Ok(grey));
        for fault in [
            DecodeFault::Format,
            DecodeFault::TooManyPixels { width_px: 1, height_px: 2, pixels_max: 3 },
            DecodeFault::damaged("a line\nand another"),
            DecodeFault::unsupported("magic"),
        ] {
            assert_eq!(read(answer(&Err(fault.clone())), 6), Err(fault));
        }
    }

    #[test]
    fn a_process_that_lies_is_not_believed() {
        let grey = Grey { width_px: 3, height_px: 2, phash: PerceptualHash::from_bytes([7; 32]), samples: vec![1; 11] };
        let is_refused = |answer: Vec<u8>| matches!(read(answer, 6), Err(DecodeFault::Crashed { .. }));
        assert!(is_refused(answer(&Ok(grey.clone()))), "a byte short");
        assert!(is_refused(Vec::new()) && is_refused(b"{}\n".to_vec()) && is_refused(vec![b'x'; 9000]));
        let vast = Grey { width_px: 1 << 15, height_px: 1 << 15, samples: Vec::new(), ..grey };
        assert!(matches!(read(answer(&Ok(vast)), 6), Err(DecodeFault::TooManyPixels { .. })));
    }
}
