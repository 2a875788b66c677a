//! Images that a picture is to resemble (IP-Adapter, Ye et al. 2023): the adapter's file, the image encoder it was trained with,
//! and the image.

use serde::{Deserialize, Serialize};

use super::{RecipeError, Refused, check_span, one};
use crate::ids::Digest;
use crate::limits;

/// One image by digest, and what makes the networks look at it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReferenceUse {
    pub adapter: Digest,
    /// Digest of the image encoder's folder.
    pub encoder: Digest,
    /// A PNG of any size; what is outside the square in its middle is not seen.
    pub image: Digest,
    pub weight: f64,
    /// From which share of the steps on it acts, and up to which.
    #[serde(default)]
    pub start: f64,
    #[serde(default = "one")]
    pub end: f64,
    /// A PNG of the picture's size: what is white is to resemble the image; all of the picture without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask: Option<Digest>,
}

pub(super) fn check(references: &[ReferenceUse]) -> Result<(), RecipeError> {
    if references.len() > limits::REFERENCES_MAX {
        return Err(RecipeError::References { count: references.len() });
    }
    for ReferenceUse { weight, start, end, .. } in references {
        let refused = check_span(*weight, (*start, *end));
        refused.map_err(|Refused { field, value, allowed }| RecipeError::Reference { field, value, allowed })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn out_of_bounds_references_name_the_field() {
        let digest = Digest::of_bytes(b"any");
        let of = |weight, start, end| ReferenceUse {
            adapter: digest,
            encoder: digest,
            image: digest,
            weight,
            start,
            end,
            mask: None,
        };
        assert_eq!(check(&[of(0.8, 0.0, 1.0)]), Ok(()));
        for (field, use_) in [("weight", of(11.0, 0.0, 1.0)), ("start", of(1.0, 1.0, 1.0)), ("end", of(1.0, 0.5, 0.5))]
        {
            let error = check(&[use_]).expect_err("out of bounds").to_string();
            assert!(error.contains(&format!("`{field}`")), "{error}");
        }
        assert_eq!(check(&vec![of(1.0, 0.0, 1.0); 5]), Err(RecipeError::References { count: 5 }));
    }
}
