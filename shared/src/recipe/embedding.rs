//! Words that a text encoder learns for one recipe (textual inversion, Gal et al. 2022): a file of vectors, and the word
//! that stands for them in the prompts.

use serde::{Deserialize, Serialize};

use super::RecipeError;
use crate::ids::Digest;
use crate::limits;

/// One file of vectors by digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmbeddingUse {
    pub digest: Digest,
    /// The word that is replaced by the vectors wherever a prompt has it: see [`is_token`].
    pub token: String,
}

/// Longest word, in bytes.
pub const TOKEN_BYTES_MAX: usize = 64;

/// Whether a text can be a word of its own: small letters, digits, `<`, `>`, `_` and `-`. A prompt may write it in capitals,
/// because CLIP reads them as small letters; white space and brackets mean something else in prompts.
#[must_use]
pub fn is_token(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"<>_-".contains(&byte);
    (1..=TOKEN_BYTES_MAX).contains(&text.len()) && text.bytes().all(is_plain)
}

pub(super) fn check(embeddings: &[EmbeddingUse]) -> Result<(), RecipeError> {
    if embeddings.len() > limits::EMBEDDINGS_MAX {
        return Err(RecipeError::Embeddings { count: embeddings.len() });
    }
    for (at, EmbeddingUse { token, .. }) in embeddings.iter().enumerate() {
        if !is_token(token) {
            return Err(RecipeError::Token { token: token.chars().take(TOKEN_BYTES_MAX).collect() });
        }
        if embeddings[..at].iter().any(|earlier| earlier.token == *token) {
            return Err(RecipeError::TokenTwice { token: token.clone() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_plain_and_each_stands_for_one_file() {
        let of = |tokens: &[&str]| {
            let digest = Digest::of_bytes(b"vectors");
            let uses: Vec<_> = tokens.iter().map(|token| EmbeddingUse { digest, token: (*token).to_owned() }).collect();
            check(&uses).err()
        };
        assert_eq!(of(&["<teal-mug>", "studio_look2"]), None);
        for token in ["", "Teal", "a b", "(mug)", "mug:2", "mug,", "mück", &"x".repeat(65)] {
            assert!(matches!(of(&[token]), Some(RecipeError::Token { .. })), "{token:?}");
        }
        assert_eq!(of(&["mug", "mug"]), Some(RecipeError::TokenTwice { token: "mug".into() }));
        assert_eq!(of(&["a"; limits::EMBEDDINGS_MAX + 1]), Some(RecipeError::Embeddings { count: 9 }));
    }
}
