//! The edge: request URLs in, cached image renditions out.
//!
//! `handler` shows the way of a request on one screen; ARCHITECTURE.md has the map.

pub mod cache;
pub mod campaign;
pub mod negotiate;
pub mod origin;
pub mod provenance;
pub mod render;
pub mod request;
