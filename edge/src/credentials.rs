//! Content Credentials: a signed history in every picture, by the C2PA standard.
//!
//! [`Signing`] binds a [`Story`] to a file that is final but for its manifest; [`attach`] embeds a kept [`Manifest`] again;
//! [`verify`] says what a stranger's file tells of itself and whether it holds. [`SignedDocument`] is a report by the same signer. [`authority`] makes certificates for
//! development. docs/provenance.md explains signing to operators, docs/reference/provenance.md our own assertion.
//!
//! Invariants: no library call reaches the network or, after a signer is opened, a disk; a signing program and a timestamp
//! authority are asked through what the caller gives; every input is bounded and nothing of it panics; two signatures of
//! one file differ, `attach` of one manifest to one file does not.
//!
//! Source: C2PA Technical Specification 2.3; the crate `c2pa` (c2pa-rs), which is C2PA's reference implementation.

pub mod authority;
mod certificate;
mod command;
pub mod config;
mod document;
mod guard;
mod handle;
mod jumbf;
mod key;
mod manifest;
mod ocsp;
mod sign;
mod signer;
mod story;
mod timestamp;
mod timestamping;
mod verify;

pub use certificate::{CHAIN_CERTIFICATES_MAX, CertificateFault};
pub use command::CommandFault;
pub use config::{ProvenanceConfig, SignerConfig, TimestampConfig};
pub use document::{DOCUMENT_BYTES_MAX, DocumentFault, Purpose, SignedDocument, VerifiedDocument};
pub use guard::{LibraryFault, MANIFEST_BYTES_MAX};
pub use handle::{SignerHandle, SignerMetrics, open_signer};
pub use jumbf::FrameFault;
pub use key::{Algorithm, KeyFault};
pub use manifest::{MANIFEST_MEDIA_TYPE, Manifest, NoManifest, attach, detached};
pub use ocsp::{OCSP_BYTES_TYPICAL, StatusFault};
pub use sign::{OCSP_BYTES_MAX, SIGNED_FILE_BYTES_MAX, SignError, Signed, Signing};
pub use signer::{Signer, SignerError};
pub use story::{
    CLAIM_GENERATOR, GENERATION_LABEL, Generation, INGREDIENT_FILE_BYTES_MAX, INGREDIENTS_MAX, Ingredient, Origin,
    Relation, STORY_TEXT_BYTES_MAX, SoftBinding, Step, Story, StoryError,
};
pub use timestamp::{TIMESTAMP_QUERY, TIMESTAMP_REPLY, TOKEN_BYTES_MAX, TimestampError, Timestamper};
pub use timestamping::TimestampAuthority;
pub use verify::{
    Credentials, Failure, FailureKind, Finding, SignedBy, Standing, ToldAction, ToldIngredient, Trust, TrustError,
    VERIFIED_FILE_BYTES_MAX, verify,
};
