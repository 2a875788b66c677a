//! Reference images as a denoising network sees them: keys and values beside those of its text (IP-Adapter, Ye et al. 2023).
//!
//! Each attention to the text attends to the image's tokens as well, with the same queries, and adds what it finds there, by a
//! weight and where a mask is white. Keys and values depend on the image and the networks alone: they are computed once.
//! Invariant: each row's weight, mask, keys and values are its own, so rows stay independent.

use std::cell::{Cell, RefCell};

use tch::{Kind, TchError, Tensor};

/// One image, for every attention to the text, in the order of the denoising network.
#[derive(Debug)]
pub struct Reference {
    /// Its place among the recipe's.
    pub place: usize,
    /// Keys and values, `[n, tokens, 2c]` each.
    pub seen: Vec<Tensor>,
    /// How much of it is added, `[n, 1, 1]`, float32.
    pub weight: Tensor,
    /// Where, `[n, 1, h, w]` of 0 and 1, float32; everywhere without it.
    pub mask: Option<Tensor>,
}

impl Reference {
    /// The same tensors, shared.
    #[must_use]
    pub fn shallow_clone(&self) -> Self {
        let seen = self.seen.iter().map(Tensor::shallow_clone).collect();
        let (weight, mask) = (self.weight.shallow_clone(), self.mask.as_ref().map(Tensor::shallow_clone));
        Self { place: self.place, seen, weight, mask }
    }

    /// Tokens of each row.
    #[must_use]
    pub fn tokens(&self) -> i64 {
        self.seen.first().and_then(|seen| seen.size().get(1).copied()).unwrap_or(0)
    }

    /// Rows of several requests, one after the other.
    ///
    /// # Errors
    /// When they are not of one kind, or libtorch fails.
    pub(crate) fn cat(parts: &[&Self]) -> Result<Self, TchError> {
        let mixed = || TchError::Shape("reference images of different kinds".into());
        let first = parts.first().ok_or_else(mixed)?;
        if parts.iter().any(|part| part.seen.len() != first.seen.len()) {
            return Err(mixed());
        }
        let rows =
            |of: &dyn Fn(&Self) -> &Tensor| Tensor::f_cat(&parts.iter().map(|part| of(part)).collect::<Vec<_>>(), 0);
        let seen = (0..first.seen.len()).map(|at| rows(&|part| &part.seen[at])).collect::<Result<_, _>>()?;
        let masks: Vec<&Tensor> = parts.iter().filter_map(|part| part.mask.as_ref()).collect();
        let mask = match masks.len() {
            0 => None,
            count if count == parts.len() => Some(Tensor::f_cat(&masks, 0)?),
            _ => return Err(mixed()),
        };
        Ok(Self { place: first.place, seen, weight: rows(&|part| &part.weight)?, mask })
    }

    /// Another image of the same shape: its tokens in the opposite order.
    pub(crate) fn flipped(&self) -> Result<Self, TchError> {
        let seen = self.seen.iter().map(|part| part.f_flip([1])).collect::<Result<_, _>>()?;
        Ok(Self { seen, ..self.shallow_clone() })
    }

    /// How much of it is added to each token of an area: `[n, hw, 1]`, or `[n, 1, 1]` where it is everywhere the same.
    fn gate(&self, (height, width): (i64, i64)) -> Result<Tensor, TchError> {
        let Some(mask) = &self.mask else { return Ok(self.weight.shallow_clone()) };
        let small = mask.f_upsample_bicubic2d([height, width], false, None, None)?; // [n, 1, h, w]
        small.f_flatten(2, 3)?.f_transpose(1, 2)?.f_mul(&self.weight)
    }
}

/// Height and width that tokens are arranged in.
pub(crate) type Area = (i64, i64);

/// The images during one evaluation of a network.
#[derive(Debug)]
pub(crate) struct Looking<'a> {
    references: &'a [Reference],
    next: Cell<usize>,
    /// What is the same for all attentions of an area, in the order of the images.
    gates: RefCell<Vec<(Area, Vec<Tensor>)>>,
}

impl<'a> Looking<'a> {
    pub(crate) const fn at(references: &'a [Reference]) -> Self {
        Self { references, next: Cell::new(0), gates: RefCell::new(Vec::new()) }
    }

    /// What the next attention finds in the images, added to what it found in the text, `[n, hw, c]`. `attend` attends to keys
    /// and values.
    pub(crate) fn added_to(
        &self,
        found: Tensor,
        area: Area,
        attend: impl Fn(&Tensor) -> Result<Tensor, TchError>,
    ) -> Result<Tensor, TchError> {
        if self.references.is_empty() {
            return Ok(found);
        }
        let at = self.next.replace(self.next.get() + 1);
        let gates = self.gates_of(area)?;
        let mut sum = found;
        for (reference, gate) in self.references.iter().zip(gates) {
            let seen = reference.seen.get(at);
            let seen = seen.ok_or_else(|| TchError::Shape("an image for another network's attentions".into()))?;
            let added = attend(seen)?.f_to_kind(Kind::Float)?.f_mul(&gate)?;
            sum = sum.f_add(&added.f_to_kind(sum.f_kind()?)?)?;
        }
        Ok(sum)
    }

    fn gates_of(&self, area: Area) -> Result<Vec<Tensor>, TchError> {
        let shared = |gates: &[Tensor]| gates.iter().map(Tensor::shallow_clone).collect::<Vec<_>>();
        let mut known = self.gates.borrow_mut();
        if let Some((_, gates)) = known.iter().find(|(of, _)| *of == area) {
            return Ok(shared(gates));
        }
        let gates = self.references.iter().map(|reference| reference.gate(area)).collect::<Result<Vec<_>, _>>()?;
        let result = shared(&gates);
        known.push((area, gates));
        Ok(result)
    }
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    fn reference(rows: i64, mask: Option<Tensor>) -> Reference {
        let float = (Kind::Float, Device::Cpu);
        let seen = vec![Tensor::ones([rows, 2, 4], float)];
        Reference { place: 0, seen, weight: Tensor::full([rows, 1, 1], 0.5, float), mask }
    }

    #[test]
    fn an_image_is_added_by_weight_and_where_its_mask_is_white() {
        let float = (Kind::Float, Device::Cpu);
        let mask = Tensor::from_slice(&[1.0_f32, 0.0]).view([1, 1, 1, 2]);
        let (plain, masked) = (reference(1, None), reference(1, Some(mask)));
        let both = [plain, masked];
        let looking = Looking::at(&both);
        let attend = |_: &Tensor| Tensor::f_ones([1, 2, 2], float);
        let sum = looking.added_to(Tensor::zeros([1, 2, 2], float), (1, 2), attend).expect("added");
        assert_eq!(Vec::<f32>::try_from(sum.flatten(0, -1)).expect("numbers"), [1.0, 1.0, 0.5, 0.5]);
        let error = looking.added_to(sum, (1, 2), attend).expect_err("there is one attention");
        assert!(error.to_string().contains("another network"), "{error}");
    }

    #[test]
    fn rows_of_one_kind_follow_each_other() {
        let mask = || Some(Tensor::ones([1, 1, 2, 2], (Kind::Float, Device::Cpu)));
        let rows = Reference::cat(&[&reference(2, None), &reference(1, None)]).expect("rows");
        assert_eq!((rows.seen[0].size(), rows.weight.size(), rows.tokens()), (vec![3, 2, 4], vec![3, 1, 1], 2));
        assert!(Reference::cat(&[&reference(1, None), &reference(1, mask())]).is_err());
    }
}
