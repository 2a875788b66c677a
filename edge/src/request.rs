//! URL and headers into an `ImageRequest`.
