//! Campaign manifests, locks, prompt libraries and the catalogue made of them.
