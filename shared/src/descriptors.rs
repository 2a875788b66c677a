//! Running out of file descriptors: a lack of this process or of the machine, and never the fault of a device or a peer.
//!
//! All that judges a disk, a store or a node by its errors asks here first: a process that may open no more files would
//! otherwise take a healthy device out of use.

use std::error::Error;
use std::io;

/// The system's table is full, on every architecture of Linux.
const ENFILE: i32 = 23;
/// The process has as many files open as it may.
const EMFILE: i32 = 24;

/// Whether `error`, or an error below it, is a lack of descriptors.
#[must_use]
pub fn is_shortage(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        next = error.source();
        if let Some(error) = error.downcast_ref::<io::Error>() {
            if matches!(error.raw_os_error(), Some(ENFILE | EMFILE)) {
                return true;
            }
            // The source of a wrapper is the source of what it wraps.
            next = error.get_ref().map(|inner| inner as &(dyn Error + 'static)).or(next);
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("a layer")]
    struct Layer(#[source] io::Error);

    #[test]
    fn a_shortage_is_known_however_deep_it_lies() {
        let shortage = || io::Error::from_raw_os_error(EMFILE);
        assert!(is_shortage(&shortage()) && is_shortage(&io::Error::from_raw_os_error(ENFILE)));
        assert!(is_shortage(&Layer(shortage())));
        assert!(is_shortage(&io::Error::other(shortage())), "wrapped at once");
        assert!(is_shortage(&io::Error::other(Layer(io::Error::other(Layer(shortage()))))));
        for other in [io::ErrorKind::StorageFull, io::ErrorKind::NotFound, io::ErrorKind::Other] {
            assert!(!is_shortage(&io::Error::other(Layer(other.into()))), "{other:?}");
        }
        assert!(!is_shortage(&io::Error::from_raw_os_error(5)), "EIO is the device's");
    }

    /// That the numbers are the system's.
    #[test]
    fn the_system_says_so_in_the_same_numbers() {
        let text = |code| io::Error::from_raw_os_error(code).to_string();
        assert!(text(EMFILE).contains("Too many open files") && !text(EMFILE).contains("system"), "{}", text(EMFILE));
        assert!(text(ENFILE).contains("Too many open files in system"), "{}", text(ENFILE));
    }
}
