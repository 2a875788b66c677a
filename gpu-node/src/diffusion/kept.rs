//! What networks made of inputs that come again, kept while they are asked for.
//!
//! Invariants: what is given out is what was made, sharing its memory, so a request has the same bits whether it was the first to
//! ask or not; when all take more than a bound, the longest unused goes, and one is always let in.

use std::cell::{Cell, RefCell};

use tch::Tensor;

/// Of tensors that are shared and not copied.
pub(crate) trait Keepable {
    /// The same tensors.
    fn shared(&self) -> Self;
    /// Memory of the tensors.
    fn bytes(&self) -> usize;
}

impl Keepable for Tensor {
    fn shared(&self) -> Self {
        self.shallow_clone()
    }

    fn bytes(&self) -> usize {
        self.numel() * self.kind().elt_size_in_bytes()
    }
}

impl<V: Keepable> Keepable for Vec<V> {
    fn shared(&self) -> Self {
        self.iter().map(Keepable::shared).collect()
    }

    fn bytes(&self) -> usize {
        self.iter().map(Keepable::bytes).sum()
    }
}

/// How many values were made since this was last asked: sharing shows as a number that does not grow.
#[derive(Debug)]
pub(crate) struct Tally(Cell<u64>);

impl Tally {
    pub(crate) const fn new() -> Self {
        Self(Cell::new(0))
    }

    pub(crate) fn count(&self) {
        self.0.set(self.0.get() + 1);
    }

    pub(crate) fn take(&self) -> u64 {
        self.0.take()
    }
}

/// Values by their keys. The last one used comes last.
#[derive(Debug)]
pub(crate) struct Kept<K, V> {
    bytes_max: usize,
    values: RefCell<Vec<(K, V)>>,
    made: Tally,
}

impl<K: PartialEq, V: Keepable> Kept<K, V> {
    pub(crate) const fn new(bytes_max: usize) -> Self {
        Self { bytes_max, values: RefCell::new(Vec::new()), made: Tally::new() }
    }

    /// What is kept, or what `make` makes.
    ///
    /// # Errors
    /// What `make` fails at.
    pub(crate) fn get_or<E>(&self, key: K, make: impl FnOnce() -> Result<V, E>) -> Result<V, E> {
        let mut values = self.values.borrow_mut();
        let found = match values.iter().position(|(known, _)| *known == key) {
            Some(at) => values.remove(at),
            None => {
                let value = make()?;
                self.made.count();
                (key, value)
            }
        };
        let value = found.1.shared();
        values.push(found);
        while values.len() > 1 && values.iter().map(|(_, value)| value.bytes()).sum::<usize>() > self.bytes_max {
            let _oldest = values.remove(0);
        }
        Ok(value)
    }

    /// How many were made since this was last asked.
    pub(crate) fn take_made(&self) -> u64 {
        self.made.take()
    }

    /// Gives their memory back.
    pub(crate) fn clear(&self) {
        self.values.borrow_mut().clear();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tch::{Device, Kind, TchError};

    use super::*;

    #[test]
    fn a_value_is_made_once_until_others_need_its_place() {
        let (kept, made) = (Kept::new(256 << 20), Cell::new(0));
        let ask = |key: &'static str, megabytes: i64| {
            let make = || {
                made.set(made.get() + 1);
                Tensor::f_zeros([megabytes << 18], (Kind::Float, Device::Cpu))
            };
            let _value = kept.get_or::<TchError>(key, make).expect("made");
            made.get()
        };
        assert_eq!([ask("a", 100), ask("b", 100), ask("a", 100), ask("b", 100)], [1, 2, 2, 2]);
        assert_eq!(ask("c", 100), 3, "300 MB are too much: a goes");
        assert_eq!([ask("b", 100), ask("a", 100)], [3, 4]);
        assert_eq!([ask("large", 300), ask("large", 300)], [5, 5], "one is always let in");
        kept.clear();
        assert_eq!(ask("large", 300), 6);
        assert_eq!((kept.take_made(), kept.take_made()), (6, 0));
    }

    #[test]
    fn what_could_not_be_made_is_not_kept() {
        let kept: Kept<u8, Tensor> = Kept::new(1 << 20);
        assert!(kept.get_or(1, || Err("no memory")).is_err());
        assert_eq!(kept.take_made(), 0);
        assert!(kept.get_or::<&str>(1, || Ok(Tensor::new())).is_ok());
    }
}
